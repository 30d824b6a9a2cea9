"""Frames, the one currency: bytes, plus where in them the frames start.

Invariants: nothing is copied and nothing is decoded until somebody asks; the bytes may hold other things
between the frames (ring headers, pcapng blocks); the offsets are the truth about where frames are. Whoever
makes a Frames has checked that each offset starts a frame whose length stays inside the bytes.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, MutableSequence
from mmap import mmap

from kwire import native
from kwire.hints import TYPE_CHECKING, TypeAlias
from kwire.wire.frame import HEADER_SIZE, Flag, Frame, FrameError, Header, Problem, delimit, read_header
from kwire.words import plural

if TYPE_CHECKING:
    from kwire.wire.heads import Heads

Data: TypeAlias = bytes | bytearray | memoryview | mmap
Offsets: TypeAlias = "memoryview | array[int]"

FLAGS_AT, LENGTH_AT, ID_AT = 1, 2, 4  # of a frame: where these stand
WALK_STEP = 16384  # offsets found by one call of a walker


class Frames:
    """Frames lying in `data` at `offsets` (typecode 'Q', byte offsets of their headers); `count` of them.

    `view` is `data` as bytes; while it lives, a mapping under it cannot be closed: call `release` first.
    Offsets of frames out of networks need not ascend: a frame is put together where there was room for it.
    `offsets` may be longer than `count`, so that a walker can reuse one array. `heads`: what their heads say,
    where somebody has read all of them already (`wire.heads`).
    """

    __slots__ = ("count", "data", "heads", "offsets", "view")

    def __init__(self, data: Data, offsets: Offsets, count: int | None = None) -> None:
        self.data = data
        self.heads: Heads | None = None
        self.view = memoryview(data).cast("B")
        self.offsets = offsets
        self.count = len(offsets) if count is None else count

    def __len__(self) -> int:
        return self.count

    def __repr__(self) -> str:
        return f"<{plural(self.count, 'frame')}>"

    def __iter__(self) -> Iterator[Frame]:
        """Give each frame, copied out and its trailer taken off; nothing is judged."""
        for index in range(self.count):
            yield self.frame(index)

    @property
    def spread(self) -> int:
        """Bytes from the first header in `data` to the last one; 0 without frames."""
        import numpy as np

        return int(np.ptp(np.asarray(self.offsets)[: self.count])) if self.count else 0

    def header(self, index: int) -> Header:
        """The header of frame `index`."""
        return read_header(self.view, self.offsets[index])

    def frame(self, index: int) -> Frame:
        """Frame `index`, copied out; its payload is without padding and checksum."""
        offset = self.offsets[index]
        header = read_header(self.view, offset)
        end = offset + header.length
        if header.flags & Flag.CHECKSUM:
            end -= 3 if header.flags & Flag.PADDED else 2
        return Frame(offset, header, bytes(self.view[offset + HEADER_SIZE : end]))

    def frame_bytes(self, index: int) -> memoryview:
        """The bytes of frame `index`, header and trailer included, not copied."""
        offset = self.offsets[index]
        view = self.view
        at = offset + LENGTH_AT
        return view[offset : offset + (view[at] << 8 | view[at + 1])]

    def select(self, indices: Iterable[int]) -> Frames:
        """The frames of these indices, over the same bytes."""
        offsets = self.offsets
        return Frames(self.data, array("Q", [offsets[index] for index in indices]))

    def release(self) -> None:
        """Let go of the bytes, so that a mapping under them can be closed. No frame can be read after."""
        self.view.release()
        self.count = 0

    @classmethod
    def walk(cls, data: Data) -> Frames:
        """Find frames that stand back to back and fill `data`; FrameError where a length is not sound."""
        frames, problem = cls.walk_prefix(data)
        if problem is not None:
            raise FrameError(problem, "walk frames", f"after {len(frames)} whole frames")
        return frames

    @classmethod
    def walk_prefix(cls, data: Data, start: int = 0) -> tuple[Frames, Problem | None]:
        """Find the frames that stand back to back from `start`, up to the end or the first unsound length.

        The problem, if any, says why the walk stopped before the end; its frame is not among those given.
        """
        view = memoryview(data).cast("B")
        offsets: array[int] = array("Q")
        chunk = array("Q", bytes(8 * WALK_STEP))
        step = native.frame_walk or frame_walk
        at, size, found = start, len(view), WALK_STEP
        while found == WALK_STEP:
            found, at = step(view, at, size, chunk, WALK_STEP)
            offsets += chunk[:found]
        problem = None if at >= size else delimit(view, at)[1]
        return cls(data, offsets), problem


def frame_walk(
    data: memoryview, offset: int, end: int, offsets: MutableSequence[int], limit: int
) -> tuple[int, int]:
    """Write into `offsets` where the back-to-back frames from `offset` to `end` start, at most `limit`.

    Gives how many, and where the walk stopped: at the end, before an incomplete header, a length below 8 or
    beyond the end. It looks at nothing but lengths. This is the specification of the C walker and its twin.
    """
    end = min(end, len(data))
    limit = min(limit, len(offsets))
    count = 0
    while count < limit and offset + HEADER_SIZE <= end:
        length = data[offset + LENGTH_AT] << 8 | data[offset + LENGTH_AT + 1]
        if length < HEADER_SIZE or offset + length > end:
            break
        offsets[count] = offset
        count += 1
        offset += length
    return count, offset


# ---- Bytes of a stream become frames, whatever slices they come in
#
# Invariants: a frame that is whole in the bytes given is handed on as a view of them, not copied; a frame
# that is cut is gathered, copied once, in a buffer of its length; nothing else is kept: an idle stream
# costs nothing.


Take = Callable[[memoryview], bool]  # a whole frame; False: stop, the stream is out of step


class FrameBuffer:
    """Gathers the frames of one stream."""

    __slots__ = ("_fill", "_frame")

    def __init__(self) -> None:
        self._frame = memoryview(b"")  # what is gathered into: a header, or a frame whose header is there
        self._fill = 0

    @property
    def cut(self) -> bool:
        """True while a frame has begun and not ended."""
        return self._fill > 0

    def clear(self) -> None:
        """Forget what is gathered: a new stream begins."""
        self._frame, self._fill = memoryview(b""), 0

    def feed(self, data: memoryview, take: Take) -> memoryview | None:
        """Hand every whole frame to `take`. Gives the header whose length is not sound; None if all are."""
        at, end = 0, len(data)
        if self._fill:
            at = self._gather(data, 0)
            if self._fill == HEADER_SIZE == len(self._frame):
                length = self._frame[2] << 8 | self._frame[3]
                if length < HEADER_SIZE:
                    return self._frame
                if length > HEADER_SIZE:
                    self._begin(self._frame, length)
                    at = self._gather(data, at)
            if self._fill < len(self._frame):
                return None
            frame = self._frame
            self.clear()
            if not take(frame):
                return None
        while end - at >= HEADER_SIZE:
            length = data[at + 2] << 8 | data[at + 3]
            if length < HEADER_SIZE:
                return data[at : at + HEADER_SIZE]
            if at + length > end:
                self._begin(data[at:end], length)
                return None
            if not take(data[at : at + length]):
                return None
            at += length
        if at < end:
            self._begin(data[at:end], HEADER_SIZE)
        return None

    def _begin(self, start: memoryview, size: int) -> None:
        """Begin to gather `size` bytes, of which `start` is there."""
        self._frame = memoryview(bytearray(size))
        self._fill = len(start)
        self._frame[: self._fill] = start

    def _gather(self, data: memoryview, at: int) -> int:
        """Take from `data` at `at` what is missing; gives where it ends."""
        step = min(len(self._frame) - self._fill, len(data) - at)
        self._frame[self._fill : self._fill + step] = data[at : at + step]
        self._fill += step
        return at + step
