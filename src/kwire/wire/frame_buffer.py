"""Bytes of a stream become frames, whatever slices they come in.

Invariants: a frame that is whole in the bytes given is handed on as a view of them, not copied; a frame that
is cut is gathered, copied once, in a buffer of its length; nothing else is kept: an idle stream costs
nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from kwire.wire.frame import HEADER_SIZE

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
