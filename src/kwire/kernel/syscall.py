"""System calls by name, straight through ctypes, what goes wrong in them, and the descriptors they give.

Invariants: errno is never lost, it travels in `KernelError`; a descriptor has one owner, an `Fd`, whose close
may be called any number of times. Every descriptor is close-on-exec.
"""

import errno as errnos
import os
from collections.abc import Set
from types import TracebackType

from kwire.errors import KwireError
from kwire.hints import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import ctypes

# From asm/unistd.h; calls added since Linux 5.1 have the same number everywhere.
SYSCALLS: dict[str, dict[str, int]] = {
    "x86_64": {
        "bpf": 321,
        "perf_event_open": 298,
        "capget": 125,
        "capset": 126,
        "mmap": 9,
        "seccomp": 317,
    },
    "aarch64": {
        "bpf": 280,
        "perf_event_open": 241,
        "capget": 90,
        "capset": 91,
        "mmap": 222,
        "seccomp": 277,
    },
}
SYSCALLS_EVERYWHERE = {
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "landlock_create_ruleset": 444,
    "landlock_add_rule": 445,
    "landlock_restrict_self": 446,
}

ENOTSUPP = 524  # the kernel's own, in no header


class KernelError(KwireError):
    """The kernel refused something; `errno` is its reason as a number."""

    def __init__(self, operation: str, subject: str, cause: str, cure: str = "", errno: int = 0) -> None:
        super().__init__(operation, subject, cause, cure)
        self.errno = errno


def reason(errno: int) -> str:
    """`Operation not permitted (EPERM)`."""
    if errno == ENOTSUPP:
        return "Operation not supported (ENOTSUPP)"
    return f"{os.strerror(errno)} ({errnos.errorcode.get(errno, errno)})"


def address_of(buffer: "bytes | bytearray | ctypes.Array[Any]") -> int:
    """The address of a buffer's first byte; the caller keeps the buffer alive while the kernel uses it."""
    import ctypes

    if isinstance(buffer, bytes):
        return ctypes.cast(ctypes.c_char_p(buffer), ctypes.c_void_p).value or 0
    if isinstance(buffer, bytearray):
        return ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer)) if buffer else 0
    return ctypes.addressof(buffer)


_libc: "ctypes.CDLL | None" = None


def libc() -> "ctypes.CDLL":
    """The C library, whose calls keep errno. `ctypes` is imported when it is used: planning does without."""
    global _libc
    if _libc is None:
        import ctypes

        _libc = ctypes.CDLL(None, use_errno=True)
        _libc.syscall.restype = ctypes.c_long
    return _libc


def syscall(name: str, *arguments: int) -> tuple[int, int]:
    """Make a system call by name; gives (result, errno), errno 0 when it succeeded."""
    number = SYSCALLS_EVERYWHERE.get(name)
    if number is None:
        number = SYSCALLS.get(os.uname().machine, {}).get(name)
        if number is None:
            return -1, errnos.ENOSYS
    import ctypes

    result: int = libc().syscall(
        ctypes.c_long(number), *(ctypes.c_ulong(a & 0xFFFFFFFFFFFFFFFF) for a in arguments)
    )
    return (result, 0) if result >= 0 else (result, ctypes.get_errno())


class Fd:
    """The one owner of a descriptor: closed by `close`, by `with`, or when forgotten."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @property
    def fd(self) -> int:
        """The descriptor. Raises KernelError when it has been closed."""
        if self._fd < 0:
            raise KernelError("use", type(self).__name__.lower(), "it is closed", errno=errnos.EBADF)
        return self._fd

    @property
    def closed(self) -> bool:
        """Whether `close` has been called."""
        return self._fd < 0

    def release(self) -> int:
        """Let it go without closing it: whoever asked owns it from now on."""
        fd, self._fd = self.fd, -1
        return fd

    def close(self) -> None:
        """Give the descriptor back to the kernel."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()


def close_all_but(kept: Set[int]) -> None:
    """Close every descriptor of this process but these: those that a child has of its parent's."""
    start = 0
    for fd in sorted(kept):
        if start < fd:  # an empty range at 0 would be everything
            os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, os.sysconf("SC_OPEN_MAX"))
