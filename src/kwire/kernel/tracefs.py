"""The kernel's tracing file system: which events and functions there are, and the layout of each event.

Invariants: where tracefs is mounted it is used; where it is not, a detached mount is made with fsopen(2) and
fsmount(2), which no other process can see, which changes no mount namespace and which is gone with its
descriptor; nothing is read before somebody asks for it; nothing in it is written.
"""

import os
from _weakref import ref  # `weakref` has much more, and takes long to import
from errno import EACCES, ENOENT, EPERM

from kwire.hints import Self
from kwire.kernel import cures, privileges
from kwire.kernel.cures import detached
from kwire.kernel.formats import Format, FormatError, parse_format
from kwire.kernel.sys import CURES
from kwire.kernel.syscall import Fd, KernelError, reason

PLACES = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
"""What stands in the name of a category or an event; anything else would wander about in the file system."""

MOUNT_TRACEFS = "mount it (`mount -t tracefs tracefs /sys/kernel/tracing`)"
GET_TRACEFS = f"{MOUNT_TRACEFS} or boot a kernel with CONFIG_FTRACE"


class TracefsError(KernelError):
    """Something about the tracing file system failed."""


class Tracefs(Fd):
    """The tracing file system by a descriptor of its root directory."""

    __slots__ = ("__weakref__", "_formats", "place")

    def __init__(self, fd: int, place: str) -> None:
        super().__init__(fd)
        self.place = place  # where it is mounted, "" when it is ours alone
        self._formats: dict[str, Format] = {}

    @classmethod
    def open(cls) -> Self:
        """Find or make it. Raises TracefsError."""
        refused = False
        for place in PLACES:
            try:
                os.stat(f"{place}/events")
                return cls(os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), place)
            except OSError as error:
                if isinstance(error, PermissionError):
                    refused = True
        fd, errno = detached("tracefs")
        if errno:
            raise TracefsError("open", "tracefs", *_unopened(errno, refused), errno)
        made = cls(fd, "")
        try:
            os.stat("events", dir_fd=fd)
        except OSError:
            made.close()
            raise TracefsError("open", "tracefs", *_empty()) from None
        return made

    def read(self, path: str) -> bytes:
        """The whole content of a file. Raises TracefsError."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.fd)
        except OSError as error:
            raise _error("read", path, error) from None
        try:
            parts = []
            while part := os.read(fd, 1 << 20):
                parts.append(part)
            return b"".join(parts)
        except OSError as error:
            raise _error("read", path, error) from None
        finally:
            os.close(fd)

    def categories(self) -> list[str]:
        """The groups of events, sorted."""
        return self._directories("events")

    def events(self, category: str) -> list[str]:
        """The events of a category, sorted."""
        return self._directories(f"events/{_checked(category)}")

    def all_events(self) -> list[str]:
        """All events as `category:name`, in the kernel's order, from one file."""
        return self.read("available_events").decode("utf-8", "replace").split()

    def has_event(self, category: str, name: str) -> bool:
        """Whether there is such an event."""
        try:
            os.stat(f"events/{_checked(category)}/{_checked(name)}/format", dir_fd=self.fd)
        except (OSError, TracefsError):
            return False
        return True

    def event_id(self, category: str, name: str) -> int:
        """The number that perf_event_open(2) knows a tracepoint by now: a module that is loaded again has new
        ones. Raises TracefsError.
        """
        text = self.read(f"events/{_checked(category)}/{_checked(name)}/id").strip()
        if not text.isdigit():
            raise TracefsError("read", f"id of {category}:{name}", "it is no number")
        return int(text)

    def format(self, category: str, name: str) -> Format:
        """The layout of an event's context, read once. Raises TracefsError or FormatError."""
        key = f"{category}:{name}"
        found = self._formats.get(key)
        if found is None:
            raw = self.read(f"events/{_checked(category)}/{_checked(name)}/format")
            found = self._formats[key] = parse_format(raw.decode("utf-8", "replace"), f"tracepoint:{key}")
        return found

    def functions(self) -> str | None:
        """What ftrace can trace, lines of `name` or `name [module]`; None where the kernel has no such
        list.
        """
        try:
            return self.read("available_filter_functions").decode("utf-8", "replace")
        except TracefsError:
            return None

    def _directories(self, path: str) -> list[str]:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.fd)
        except OSError as error:
            raise _error("list", path, error) from None
        try:
            with os.scandir(fd) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        finally:
            os.close(fd)


_shared: "ref[Tracefs] | None" = None


def shared() -> Tracefs:
    """The process's one Tracefs, while somebody keeps it: made when nobody does, closed when the last lets
    go.
    """
    global _shared
    found = _shared() if _shared else None
    if found is None or found.closed:
        found = Tracefs.open()
        _shared = ref(found)
    return found


def _unopened(errno: int, refused: bool) -> tuple[str, str]:
    """(cause, cure) where tracefs could not be mounted; `refused`: it is there, and not for this user."""
    if errno not in (EPERM, EACCES):
        return reason(errno), CURES.get(errno, GET_TRACEFS)
    held = privileges.effective()
    if refused or not cures.may_trace(held):
        return reason(errno), cures.unreadable()
    if "CAP_SYS_ADMIN" in held:
        return reason(errno), cures.refused()
    return "it is not mounted, and mounting it takes CAP_SYS_ADMIN", f"as root, {MOUNT_TRACEFS}"


def _empty() -> tuple[str, str, int]:
    """(cause, cure, errno) where nothing is in tracefs: under lockdown the kernel puts nothing there."""
    if cures.locked():
        return f"{cures.LOCKED}, and shows no events", cures.UNLOCK, EPERM
    return "it is empty: this kernel has no events", "boot a kernel with CONFIG_FTRACE", ENOENT


def is_name(name: str) -> bool:
    """Whether a category or an event may be called so."""
    return bool(name) and NAME.issuperset(name)


def _checked(name: str) -> str:
    if not is_name(name) or name in (".", ".."):
        raise TracefsError("look up", f"event {name!r}", "that is no name of an event")
    return name


def _error(operation: str, path: str, error: OSError) -> TracefsError:
    cause = reason(error.errno or 0)
    if isinstance(error, FileNotFoundError):
        cause = (
            "this kernel has no such event" if path.startswith("events/") else "this kernel has no such file"
        )
    cure = cures.unreadable() if isinstance(error, PermissionError) else CURES.get(error.errno or 0, "")
    return TracefsError(operation, path, cause, cure, error.errno or 0)


__all__ = ["Format", "FormatError", "Tracefs", "TracefsError", "shared"]
