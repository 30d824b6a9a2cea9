"""What to do about a refusal: the cure that fits what this user has and what this kernel is, not the error's
number alone.

EPERM and EACCES have many causes. Invariant: nobody is told to get what he has.
"""

import os
from collections.abc import Collection
from errno import ENODEV

from kwire.kernel import privileges
from kwire.kernel.syscall import Fd, address_of, syscall

# ---- Kernel file systems that are mounted nowhere
#
# fsopen(2) and fsmount(2) (Linux 5.2) give one by a descriptor alone.
#
# Invariant: no other process sees it, no mount namespace changes, and it is gone with its last descriptor.


FSOPEN_CLOEXEC = 1
FSCONFIG_CMD_CREATE = 6
FSMOUNT_CLOEXEC = 1


def detached(kind: str) -> tuple[int, int]:
    """(descriptor of the root directory, errno) of a file system of this kind, `tracefs` or `securityfs`."""
    name = kind.encode()
    context, errno = syscall("fsopen", address_of(name), FSOPEN_CLOEXEC)
    if errno:
        return -1, errno
    with Fd(context):
        _, errno = syscall("fsconfig", context, FSCONFIG_CMD_CREATE, 0, 0, 0)
        if errno:
            return -1, errno
        mount, errno = syscall("fsmount", context, FSMOUNT_CLOEXEC, 0)
    if errno:
        return -1, errno
    with Fd(mount):  # an O_PATH descriptor; one that can be listed keeps the mount alive as well
        try:
            return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mount), 0
        except OSError as error:
            return -1, error.errno or 0


TRACING = ("CAP_BPF", "CAP_PERFMON")
READING = ("CAP_DAC_READ_SEARCH",)
"""For tracefs, whose files are root's."""

PARANOID = "/proc/sys/kernel/perf_event_paranoid"
PARANOID_MOST = 2
"""The greatest value of it with which the capabilities for tracing programs are enough."""

CONFIDENTIALITY = "confidentiality"
LOCKDOWN = "/sys/kernel/security/lockdown"
LOCKED = "the kernel is locked down (confidentiality)"
UNLOCK = "boot with lockdown=integrity or none"
SANDBOX = "a sandbox or the kernel's build forbids it (`kwire doctor` says what works here)"


def may_trace(held: Collection[str] | None = None) -> bool:
    """Whether the calling thread, or who holds these, has the capabilities for tracing programs."""
    held = privileges.effective() if held is None else held
    return "CAP_SYS_ADMIN" in held or set(TRACING) <= set(held)


def refused() -> str:
    """The cure for a call that the kernel refused for what it calls lack of privilege."""
    held = privileges.effective()
    if not may_trace(held):
        return _get(TRACING, held)
    return f"{LOCKED}: {UNLOCK}" if locked() else SANDBOX


def locked() -> bool:
    """Whether lockdown keeps kernel memory, tracefs and kprobes from everybody."""
    return lockdown_mode()[0] == CONFIDENTIALITY


def unreadable() -> str:
    """The cure for a file of tracefs that this user may not read."""
    held = privileges.effective()
    wanted = READING if may_trace(held) else (*TRACING, *READING)
    if "CAP_DAC_OVERRIDE" in held or set(wanted) <= held:
        return refused()
    return _get(wanted, held)


def perf_refused() -> str:
    """The cure for a perf event that the kernel refused."""
    held = privileges.effective()
    try:
        with open(PARANOID) as file:
            level = int(file.read())
    except (OSError, ValueError):
        level = 0
    if level > PARANOID_MOST and may_trace(held) and "CAP_SYS_ADMIN" not in held:
        asks = f"kernel.perf_event_paranoid={level} asks for CAP_SYS_ADMIN too"
        return f"{asks}: take it, or set it to {PARANOID_MOST}"
    return refused()


def lockdown_mode() -> tuple[str, int]:
    """(none, integrity or confidentiality, or "" where the kernel has no lockdown; errno where it cannot be
    seen).
    """
    try:
        with open(LOCKDOWN) as file:
            return _mode(file.read()), 0
    except FileNotFoundError:
        pass
    except OSError as error:
        return "", error.errno or 0
    root, errno = detached("securityfs")
    if errno:
        return "", 0 if errno == ENODEV else errno
    try:
        with open(os.open("lockdown", os.O_RDONLY | os.O_CLOEXEC, dir_fd=root)) as file:
            return _mode(file.read()), 0
    except OSError as error:
        return "", 0 if isinstance(error, FileNotFoundError) else error.errno or 0
    finally:
        os.close(root)


def _mode(text: str) -> str:
    return text.partition("[")[2].partition("]")[0]


def _get(wanted: Collection[str], held: Collection[str]) -> str:
    lacking = [name for name in wanted if name not in held]
    also = "also " if len(lacking) < len(wanted) else ""
    return f"run as root, or {also}with {' and '.join(lacking)}"
