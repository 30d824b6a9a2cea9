"""What one reading of a capture gave, kept for another: its packets are taken apart once.

Invariants: memory is bounded by `room`, whatever the capture; what is more goes to a file without a name,
which never fills its disk; where neither has room, nothing is kept and the capture is read again. What comes
out is what went in, in the same order. Schemas are not among it: the sections have them, so that one that
comes after frames of its section ends the keeping.
"""

import os
from array import array
from collections.abc import Iterator
from typing import IO, Final, NamedTuple

from kwire.capture.output import CaptureError
from kwire.capture.reader import Mixed, Section
from kwire.wire.frames import Frames
from kwire.wire.schema import Schema

ENTRY: Final = 512  # bytes that one Frames costs beside its frames, about …
EACH: Final = 12 + 17  # … and each frame: its place, its owner, and its head once somebody has read it
FREE: Final = 1 << 30  # bytes that stay free on the disk
LOOKED: Final = 64 << 20  # bytes after which that is looked at again
FOLDER: Final = "/var/tmp"  # a disk, where /tmp may be memory; nothing there has a name


def cost(frames: Frames) -> int:
    """Bytes of memory that keeping them takes, about."""
    return len(frames.view) + EACH * len(frames) + ENTRY


class _Place(NamedTuple):
    """Frames in the file: `size` bytes of them at byte `at`; where each of the `count` begins (u32) follows.

    `sections`: of Mixed, whose owners (u32) follow then.
    """

    at: int
    size: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    sections: list[Section] | None


class Spill:
    """Takes what a reading gives, and gives it again by iterating, as often as is wanted, until `close`.

    `room`: bytes that may be kept in memory.
    """

    __slots__ = ("_file", "_given", "_looked", "_room", "_size", "_taken")

    def __init__(self, room: int) -> None:
        self._room, self._looked, self._size = room, 0, 0
        self._taken: list[tuple[Section, Frames | _Place]] = []
        self._given: set[int] = set()  # ids of the sections of those
        self._file: IO[bytes] | None = None

    def note(self, section: Section, what: Frames | Schema) -> bool:
        """Keep what is given; False where that is not possible: then nothing is kept any more."""
        if isinstance(what, Schema):
            if id(section) not in self._given:
                return True
        else:
            self._given.update(map(id, what.sections if isinstance(what, Mixed) else [section]))
            size = cost(what)
            try:
                if self._file is None and size <= self._room:
                    self._room -= size
                    self._taken.append((section, what))
                    return True
                place = self._store(what)
            except OSError:
                place = None
            if place is not None:
                self._taken.append((section, place))
                return True
        self.close()
        return False

    def __iter__(self) -> Iterator[tuple[Section, Frames]]:
        for section, what in self._taken:
            yield section, self._load(what) if isinstance(what, _Place) else what

    def close(self) -> None:
        """Let go of everything."""
        self._taken, self._given = [], set()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _store(self, frames: Frames) -> _Place | None:
        """Write frames to the file; None where there is no room for them."""
        import numpy as np

        if self._file is None:
            import tempfile  # which imports much, for what most captures do not need

            self._file = tempfile.TemporaryFile(buffering=0, dir=folder())  # noqa: SIM115  # `close` closes it
            self._room = max(self._room, 0) + ENTRY * (LOOKED // ENTRY)  # of the places
        self._room -= ENTRY
        count, mixed = len(frames), isinstance(frames, Mixed)
        offsets = np.asarray(frames.offsets)[:count]
        at = int(offsets.argmax())
        first, end = int(offsets.min()), int(offsets[at]) + len(frames.frame_bytes(at))
        more = end - first + (8 if mixed else 4) * count
        if self._size + more > self._looked:
            if not has_room(self._file.fileno(), LOOKED + more):
                return None
            self._looked = self._size + more + LOOKED
        if self._room < 0:
            return None
        parts = [frames.view[first:end], (offsets - np.uint64(first)).astype(np.uint32).data.cast("B")]
        if isinstance(frames, Mixed):
            parts.append(np.ascontiguousarray(frames.owners, np.uint32).data.cast("B"))
        for part in parts:
            while part:
                part = part[self._file.write(part) :]
        place = _Place(self._size, end - first, count, frames.sections if isinstance(frames, Mixed) else None)
        self._size += more
        return place

    def _load(self, place: _Place) -> Frames:
        """Read frames from the file."""
        import numpy as np

        assert self._file is not None  # as there are places in it
        size = place.size + (4 if place.sections is None else 8) * place.count
        data = memoryview(read_again(self._file.fileno(), size, place.at))
        numbers = np.frombuffer(data[place.size :], np.uint32)
        offsets = array("Q")
        offsets.frombytes(numbers[: place.count].astype(np.uint64).data.cast("B"))
        if place.sections is None:
            return Frames(data[: place.size], offsets)
        return Mixed(data[: place.size], offsets, place.sections, numbers[place.count :])


def folder() -> str | None:
    """Where files with what was read lie: in TMPDIR, or on a disk; None: where Python puts such files."""
    return None if "TMPDIR" in os.environ or not os.access(FOLDER, os.W_OK) else FOLDER


def has_room(fd: int, size: int) -> bool:
    """Whether the disk of a file takes so many bytes more, and has some free then. Raises OSError."""
    there = os.statvfs(fd)
    return there.f_bavail * there.f_frsize >= FREE + size


def read_again(fd: int, size: int, at: int) -> bytearray:
    """So many bytes of a file with what was read. Raises CaptureError."""
    data = bytearray(size)
    view, done = memoryview(data), 0
    while done < size:
        try:
            more = os.preadv(fd, [view[done:]], at + done)
        except OSError as error:
            raise CaptureError("read", "what was kept of the capture", error.strerror or "failed") from None
        if not more:
            raise CaptureError("read", "what was kept of the capture", "its file has become shorter")
        done += more
    return data
