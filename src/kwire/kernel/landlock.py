"""A file-system sandbox for a process that talks to the network: Landlock (Linux 5.13), rules by folders.

Invariants: a process that is confined reads what its user may read and executes nothing; it writes, makes and
deletes nothing outside of the folders named, whatever its capabilities; it signals no process but those under
the same rules (Linux 6.12). The rules are for the calling thread and what it starts later, for good. Numbers
are those of linux/landlock.h; which of them a kernel knows follows from the version it answers.
"""

import os
import stat
import struct
from collections.abc import Iterable
from typing import Final

from kwire.kernel.syscall import address_of, reason, syscall

VERSION: Final = 1  # LANDLOCK_CREATE_RULESET_VERSION
PATH_BENEATH: Final = 1
SCOPES: Final = 3  # abstract Unix sockets, signals

# LANDLOCK_ACCESS_FS_*: a bit's number → the version that knows it
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = range(6)
REFER, TRUNCATE, IOCTL_DEV = 13, 14, 15
KNOWN_SINCE: Final = {**dict.fromkeys(range(13), 1), REFER: 2, TRUNCATE: 3, IOCTL_DEV: 5}
MAKE_DIR, MAKE_REG = 7, 8

READING: Final = (READ_FILE, READ_DIR)
KEEPING: Final = (
    *READING,
    WRITE_FILE,
    REMOVE_DIR,
    REMOVE_FILE,
    MAKE_DIR,
    MAKE_REG,
    REFER,
    TRUNCATE,
)
"""What may be done in a folder of ours: files and folders come and go there."""

_RULESET = struct.Struct("=QQQ")
_BENEATH = struct.Struct("=Qi")


def version() -> int:
    """The version of Landlock that this kernel speaks; 0: none."""
    answer, error = syscall("landlock_create_ruleset", 0, 0, VERSION)
    return 0 if error else answer


class Rules:
    """Rules that are made, while everything can still be opened, and wait for `restrict`.

    Write in `folders` only, read beneath `readable` only, folders or files. `problem`: why they cannot be; ""
    where they are.
    """

    __slots__ = ("_fd", "problem")

    def __init__(self, folders: Iterable[str], readable: Iterable[str] = ("/",)) -> None:
        known = version()
        self._fd = -1
        self.problem = "" if known else "the kernel has no Landlock"
        if not known:
            return
        size = 8 if known < 4 else 16 if known < 6 else 24
        attribute = _RULESET.pack(_bits(KNOWN_SINCE, known), 0, SCOPES if known >= 6 else 0)[:size]
        self._fd, error = syscall("landlock_create_ruleset", address_of(attribute), size, 0)
        for paths, access in ((readable, READING), (folders, KEEPING)):
            for path in paths:
                error = error or _allow(self._fd, path, _bits(access, known))
        self.problem = reason(error) if error else ""

    def restrict(self) -> None:
        """Hold the calling thread, and what it starts later, to them; for good. no_new_privs must be set."""
        if self._fd < 0:
            return
        if not self.problem:
            _, error = syscall("landlock_restrict_self", self._fd, 0)
            self.problem = reason(error) if error else ""
        os.close(self._fd)
        self._fd = -1


def _bits(numbers: Iterable[int], known: int) -> int:
    return sum(1 << number for number in numbers if KNOWN_SINCE[number] <= known)


def _allow(rules: int, path: str, access: int) -> int:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        return error.errno or 0
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            access &= ~(1 << READ_DIR)
        rule = _BENEATH.pack(access, fd)
        return syscall("landlock_add_rule", rules, PATH_BENEATH, address_of(rule), 0)[1]
    finally:
        os.close(fd)
