"""Where a capture comes from: the one place where the questions open it, as often as they need to.

Invariant: a file is read where it is; standard input, or a pipe, is copied to a file without a name first, so
that whatever is asked can be read twice (what probes there are, then their events). The frames of a capture
of a network are kept, so that its packets are taken apart once: KEPT bytes in memory, others in a file.
"""

import os
import stat
from collections.abc import Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import IO, Any

from kwire.capture.destination import OutputError, descriptor
from kwire.capture.identity import Identity, of_file
from kwire.capture.output import CaptureError
from kwire.packets.open import NetworkCapture, open_capture
from kwire.packets.several import Several, in_order, name_of

COPY = 1 << 20  # bytes at a time
DESCRIPTORS = "/proc/self/fd"
KEPT = 64 << 20  # bytes of frames kept in memory of a capture of a network
HELD = 16 << 20  # bytes of frames by which it is known what is in a capture that is read once


class UnforeseenError(Exception):
    """One reading does not do: the capture is not what its beginning told, or is to be read once more."""


class Source:
    """A capture of any kind that can be opened several times; a context manager.

    `path`: a file, or `-` for standard input. `options` (`ports`, `any_port`) are those of open_capture.
    `room`: bytes of frames that may be kept in memory for the next reading. CaptureError where the file
    cannot be read.
    """

    __slots__ = ("_begun", "_inode", "_kept", "_options", "_path", "_read", "_room", "name")

    def __init__(self, path: str, *, room: int = KEPT, **options: Any) -> None:
        self._room = room
        self.name = "standard input" if path == "-" else path
        self._options = options
        self._read: NetworkCapture | None = None  # the first reading
        self._begun = False  # it stands where it has begun
        self._kept: IO[bytes] | None = None
        self._path = path
        try:
            found = os.fstat(0) if path == "-" else os.stat(path)
            self._inode = (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None
            if path != "-" and self._inode:
                return
            self._keep(0 if path == "-" else os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            raise CaptureError("open", self.name, error.strerror or "failed") from None

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return os.stat(self._path).st_size

    @property
    def identity(self) -> Identity | None:
        """Which file it is, by what stands at its beginning."""
        return of_file(self._path)

    def begin(self) -> NetworkCapture | None:
        """Begin the only reading there may be: `open` gives it next, which goes on with it.

        A capture that came to its end within HELD bytes of frames (`whole`) can be opened as often as is
        wanted. None where nothing can be known before all is read.
        """
        capture = self._opened()
        if not capture.begin(HELD):
            capture.close()
            return None
        self._read, self._begun = capture, not capture.whole
        return capture

    def open(self, *, once: bool = False) -> NetworkCapture:
        """Open it for one reading; `once`: there will be no other, nothing is kept for one.

        UnforeseenError where a reading that has begun is still the only one there may be.
        """
        if self._begun:
            self._begun = False
            assert self._read is not None  # `begin` has seen to it
            return self._read
        if self._read is not None and self._read.begun:
            raise UnforeseenError
        again = self._read.again() if self._read is not None else None
        if again is not None:
            return again
        capture = self._opened()
        if self._read is None and not once:
            capture.keep(self._room)
            self._read = capture
        return capture

    def is_file(self, path: str) -> bool:
        """Whether `path`, or standard output (`-`), is the very file that is read here."""
        number = descriptor(path)
        try:
            found = os.stat(path) if number is None else os.fstat(number)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._inode

    def anew(self) -> None:
        """Give up what was read: all readings begin anew."""
        if self._read is not None:
            self._read.forget()
            self._read.close()
            self._read, self._begun = None, False

    def close(self) -> None:
        """Give up what is kept."""
        self.anew()
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def __enter__(self) -> "Source":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _opened(self) -> NetworkCapture:
        capture = open_capture(self._path, **self._options)
        capture.name = self.name
        return capture

    def _keep(self, fd: int) -> None:
        import tempfile

        unnamed = os.path.isdir(DESCRIPTORS)  # else it can be opened again by a name only
        self._kept = tempfile.TemporaryFile() if unnamed else tempfile.NamedTemporaryFile()  # noqa: SIM115
        try:
            while part := os.read(fd, COPY):
                self._kept.write(part)
            self._kept.flush()
        finally:
            if fd:
                os.close(fd)
        self._path = f"{DESCRIPTORS}/{self._kept.fileno()}" if unnamed else self._kept.name


def check_output(path: str, sources: Iterable[Source]) -> None:
    """OutputError where writing to `path` would destroy what is read."""
    for source in sources:
        if source.is_file(path):
            name = "standard output" if path == "-" else path
            raise OutputError("write", name, "it is one of the captures that are read", "name another file")


class Sources(Source):
    """Several captures as one Source: those of a rotation in order, others by time. `-` cannot be among them.

    CaptureError where one cannot be read, or is there twice.
    """

    __slots__ = ("_groups",)

    def __init__(self, paths: Sequence[str], **options: Any) -> None:
        self.name = name_of(paths)
        if "-" in paths:
            raise CaptureError("open", self.name, "standard input cannot be one of several", "name files")
        self._groups = [
            [Source(path, room=KEPT // len(paths), **options) for path in group] for group in in_order(paths)
        ]

    @property
    def _all(self) -> list[Source]:
        return [source for group in self._groups for source in group]

    @property
    def identity(self) -> Identity | None:
        """None: they are several, each named once."""
        return None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(source.size for source in self._all)

    def begin(self) -> None:
        """None: what is in the files that come later is not known before."""

    def anew(self) -> None:
        """All readings begin anew."""

    def open(self, *, once: bool = False) -> NetworkCapture:
        """Open them for one reading; `once`: there will be no other."""
        return Several(
            self.name, [[partial(source.open, once=once) for source in group] for group in self._groups]
        )

    def is_file(self, path: str) -> bool:
        """Whether `path`, or standard output (`-`), is one of the files that are read here."""
        return any(source.is_file(path) for source in self._all)

    def close(self) -> None:
        """Give up the copies of pipes."""
        for source in self._all:
            source.close()


def source_of(paths: Sequence[str], **options: Any) -> Source:
    """The one capture that is named, or the several."""
    return Source(paths[0], **options) if len(paths) == 1 else Sources(paths, **options)
