"""Where output goes: the one way in which a file that a user names is opened for writing.

Invariants: what is no regular file (a device, a pipe) is written to, never replaced or removed; a symbolic
link stays, what it points to is written. A regular file is written beside its place, under a hidden name of
its own (`.NAME.part`), and takes its place in one step with `publish`; until then, and without it, what was
there stays as it was; what a killed process left there goes with the next write of the same name. A name of
one of our own descriptors (`-`, `/dev/stdout`, `/dev/fd/3`) is that descriptor, written from where it stands.
What takes the place of a file has its mode and its owner, as far as we may give them.
"""

import contextlib
import errno
import fcntl
import os
import stat

from kwire.errors import KwireError
from kwire.hints import Final
from kwire.lazy import pattern

STANDARD: Final = {"-": 1, "/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""The errors of a file system, or a limit, that has no room."""

ATTEMPTS: Final = 1000
"""Files of one name that can be written at a time."""

LINKS: Final = 40
"""Symbolic links in a row that are followed, as by the kernel."""

_DESCRIPTOR = pattern(r"/(?:dev/fd|proc/(?:self|thread-self|(\d+))/fd)/(\d{1,9})")


class OutputError(KwireError):
    """Something that cannot be written to."""


def descriptor(name: str) -> int | None:
    """The descriptor of this process that `name` stands for; None where it is the name of a file."""
    for _ in range(LINKS):
        if name in STANDARD:
            return STANDARD[name]
        name = os.path.abspath(name)
        found = _DESCRIPTOR.fullmatch(name) if name.startswith(("/dev/", "/proc/")) else None
        if found and int(found[1] or os.getpid()) == os.getpid():
            return int(found[2])
        try:
            name = os.path.join(os.path.dirname(name), os.readlink(name))
        except OSError:
            return None
    return None


def is_standard_output(name: str) -> bool:
    """Whether what is written to `name` comes out of standard output."""
    if descriptor(name) == 1:
        return True
    try:
        there, ours = os.stat(name), os.fstat(1)
    except OSError:
        return False
    return os.path.samestat(there, ours) and not stat.S_ISCHR(ours.st_mode)


def is_replaced(name: str) -> bool:
    """Whether what is written to `name` is a regular file, which nobody sees before it is complete."""
    if descriptor(name) is not None:
        return False
    try:
        return stat.S_ISREG(os.stat(name).st_mode)
    except OSError:
        return True  # there is none, or nothing can be written there


class NoRoomError(OutputError):
    """The file system has no room for it, or no inode."""


def _refused(operation: str, name: str, error: OSError) -> OutputError:
    """The error of a system call that was refused."""
    kind = NoRoomError if error.errno in FULL else OutputError
    return kind(operation, name, error.strerror or "failed")


class Destination:
    """A name opened for writing; `fd` is what is written to.

    `clobber`: whether a regular file that is there may be replaced. Raises OutputError where the name cannot
    be written to.
    """

    __slots__ = ("_clobber", "_part", "fd", "foreign", "name", "path")

    def __init__(self, name: str, *, clobber: bool = True) -> None:
        self.name = "standard output" if name == "-" else name
        """What people call it."""
        self.path = name
        """The file that is made, links followed."""
        self.foreign = False
        """Whether it is a descriptor that was open before, and is written from where it stands."""
        self._clobber = clobber
        self._part = ""
        if not name:
            raise OutputError("open for writing", "", "the name is empty", "name a file")
        try:
            number = descriptor(name)
            if number is not None:
                os.fstat(number)
                self.fd = os.dup(number)
                self.foreign = True
                return
            self.fd = self._open()
        except OSError as error:
            raise _refused("open for writing", name, error) from None

    def publish(self) -> None:
        """Let a regular file take its place; once is enough. Raises OutputError."""
        if not self._part:
            return
        try:
            if self._clobber:
                os.replace(self._part, self.path)
            else:
                os.link(self._part, self.path)
                os.unlink(self._part)
        except FileExistsError:
            raise self._exists() from None
        except OSError as error:
            raise _refused("write", self.name, error) from None
        self._part = ""
        with contextlib.suppress(OSError):
            fcntl.flock(self.fd, fcntl.LOCK_UN)  # others may want to lock the file that is there now

    def close(self) -> None:
        """Close it; a file that was not published is gone, and what was in its place is there still."""
        fd, self.fd = self.fd, -1
        part, self._part = self._part, ""
        try:
            if fd >= 0:
                os.close(fd)
        finally:
            if part:
                with contextlib.suppress(OSError):
                    os.unlink(part)

    def __enter__(self) -> "Destination":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> int:
        """Open what is no file, or the file beside the place of one."""
        before = None
        try:
            # Without making or emptying anything, the kernel says whether we may write what is there.
            fd = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY)
        except FileNotFoundError:
            pass
        else:
            before = os.fstat(fd)
            if not stat.S_ISREG(before.st_mode):
                return fd
            os.close(fd)
            if not self._clobber:
                raise self._exists()
        self.path = os.path.realpath(self.path)
        if before and not os.path.samestat(before, os.stat(self.path)):
            raise OutputError("open for writing", self.name, "it is another file than a moment ago")
        return self._beside(before)

    def _beside(self, before: os.stat_result | None) -> int:
        folder, name = os.path.split(self.path)
        for attempt in range(ATTEMPTS):
            number = f".{attempt}" if attempt else ""
            part = os.path.join(folder, f".{name[:200]}{number}.part")
            try:
                fd = _fresh(part)
            except OSError as error:
                if before is None:
                    raise
                cause = (
                    f"no file can be made beside it ({error.strerror}), and it is kept until the new one is"
                )
                raise OutputError("replace", self.name, cause, "name another file") from None
            if fd is None:
                continue
            self._part = part
            if before is not None:
                with contextlib.suppress(OSError):
                    if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                        os.fchown(fd, before.st_uid, before.st_gid)
                    os.fchmod(fd, stat.S_IMODE(before.st_mode) & 0o777)
            return fd
        raise OutputError("open for writing", self.name, "there are too many unfinished files beside it")

    def _exists(self) -> OutputError:
        return OutputError(
            "write", self.name, "it is there already, and --no-clobber keeps it", "name another file"
        )


def put(path: str, data: bytes, mode: int, *, clobber: bool = True) -> None:
    """Let a file of these bytes, with this mode, take its place, whole. Raises OutputError."""
    with Destination(path, clobber=clobber) as target:
        try:
            os.fchmod(target.fd, mode)
            while data:
                data = data[os.write(target.fd, data) :]
        except OSError as error:
            raise OutputError("write", path, error.strerror or "failed") from None
        target.publish()


def _fresh(part: str) -> int | None:
    """A new file of this name that is ours alone, locked; None where somebody is writing one.

    What a process that was killed has left there is taken away: nobody holds its lock any more.
    """
    try:
        fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        _sweep(part)
        try:
            fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            return None
    with contextlib.suppress(OSError):  # a file system without locks: then nothing is swept there
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if _is_at(fd, part):
        return fd
    os.close(fd)  # swept before it was locked
    return None


def _sweep(part: str) -> None:
    """Remove an unfinished file of ours that nobody holds."""
    try:
        fd = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        found = os.fstat(fd)
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(fd, part):
                os.unlink(part)
    except OSError:  # it is being written
        pass
    finally:
        os.close(fd)


def _is_at(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except OSError:
        return False
