"""Capabilities: which the calling thread has, and giving them up.

Invariant: `drop` only ever takes away. Linux keeps capabilities and no_new_privs for each thread by itself:
`drop` is for the thread that calls it and for threads and processes it starts later, so it is called before
threads are started, and after the traced command was started, which keeps what it had.

What a file descriptor already allows stays allowed: rings, mapped maps, links, open files. Kernels before
6.5 refuse further bpf(2) calls, lookups included.
"""

import os
import struct
from _signal import SIGKILL  # type: ignore[import-not-found]  # `signal` makes many enumerations
from collections.abc import Collection

from kwire.kernel.syscall import KernelError, address_of, libc, reason, syscall
from kwire.lazy import NamedTuple

# linux/capability.h, in order of their numbers
_IN_ORDER = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT
SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE
AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ
PERFMON BPF CHECKPOINT_RESTORE
"""
NUMBERS = {f"CAP_{name}": number for number, name in enumerate(_IN_ORDER.split())}

_VERSION_3 = 0x20080522  # two 32-bit words for each set
PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 23, 24, 38, 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PR_SET_KEEPCAPS = 8


class User(NamedTuple):
    """Who a process may become."""

    uid: int
    gid: int


STRANGER = User(65532, 65532)
"""Nobody else is this: distributions assign neither number, and nothing belongs to it."""

NAME = "kwire"
"""An account of this name is taken instead, where there is one."""


class Dropped(NamedTuple):
    """What `drop` did. `bounding`: whether the bounding set could be emptied too; `other_threads`: how
    many threads the process has besides, which keep theirs; None where there is no /proc to tell.
    """

    bounding: bool
    other_threads: int | None


def effective() -> frozenset[str]:
    """The names of the capabilities the calling thread may use now."""
    data = _get()
    held = data[0] | data[3] << 32
    return frozenset(name for name, number in NUMBERS.items() if held >> number & 1)


def stranger() -> User:
    """Who a process that has done its privileged work may become."""
    from pwd import getpwnam

    try:
        account = getpwnam(NAME)
    except KeyError:
        return STRANGER
    return User(account.pw_uid, account.pw_gid)


def may_become_another() -> bool:
    """Whether the calling process can become another user for good."""
    return {"CAP_SETUID", "CAP_SETGID"} <= effective()


def drop(keep: Collection[str] = (), user: User | None = None) -> Dropped:
    """Set no_new_privs and give up all capabilities but those named in `keep` (`CAP_…`), and with `user`
    become that one for good. Raises KernelError.
    """
    kept = sum(1 << NUMBERS[name] for name in keep)
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    _prctl(
        PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL
    )  # kernels without ambient capabilities have none to clear
    bounding = True
    number = 0
    while _prctl(PR_CAPBSET_READ, number) >= 0:  # as many as this kernel knows
        if not kept >> number & 1 and _prctl(PR_CAPBSET_DROP, number) < 0:
            bounding = False
            break
        number += 1
    before = _get()
    if user is not None:
        _become(user)
    held = (before[1] | before[4] << 32) & kept
    low, high = held & 0xFFFFFFFF, held >> 32
    words = _WORDS.pack(low, low, 0, high, high, 0)
    header = _header()
    _, errno = syscall("capset", address_of(header), address_of(words))
    if errno:
        raise KernelError("give up", "capabilities", reason(errno), errno=errno)
    try:
        others = len(os.listdir("/proc/self/task")) - 1
    except OSError:  # no /proc here
        others = None
    return Dropped(bounding, others)


def _become(user: User) -> None:
    """Be another user, of no other groups; what capabilities there are stay permitted."""
    _prctl(PR_SET_KEEPCAPS, 1)
    try:
        os.setgroups([])
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
    except OSError as error:
        raise KernelError(
            "become", f"user {user.uid}", reason(error.errno or 0), errno=error.errno or 0
        ) from None


def end_with_parent() -> None:
    """Have the calling process killed when the thread that started it ends; changing users undoes it."""
    _prctl(PR_SET_PDEATHSIG, SIGKILL)


def adopt_orphans() -> None:
    """Make the calling process the parent of its descendants whose own parent ends."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


_WORDS = struct.Struct("=6I")


def _header() -> bytearray:
    return bytearray(struct.pack("=2I", _VERSION_3, 0))


def _get() -> tuple[int, ...]:
    """effective, permitted, inheritable: their low words, then their high words."""
    header = _header()
    words = bytearray(_WORDS.size)
    _, errno = syscall("capget", address_of(header), address_of(words))
    if errno:
        raise KernelError("read", "capabilities", reason(errno), errno=errno)
    return _WORDS.unpack(words)


def _prctl(option: int, value: int) -> int:
    import ctypes

    return int(libc().prctl(option, ctypes.c_ulong(value), *(ctypes.c_ulong(0),) * 3))
