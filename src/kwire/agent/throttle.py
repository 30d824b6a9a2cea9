"""A sink that lets no more than so many events a second through, and counts the others LOST (RATE_LIMIT).

Invariants: no Python runs for a single event; what is let through and what is counted are together all that
was given; a quiet second's events may come in the next one, and no more.
"""

import time
from array import array
from collections.abc import Callable

from kwire.capture import walk
from kwire.capture.frame_counts import count_frames
from kwire.live.recorder import Sink
from kwire.wire.frames import Frames
from kwire.wire.messages import CPU_UNKNOWN, Cause, Lost


class Throttle:
    """`rate` events a second to `sink`, of `probes` probes."""

    __slots__ = ("_clock", "_left", "_rate", "_sink", "_table", "_then")

    def __init__(
        self, sink: Sink, rate: int, probes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._sink = sink
        self._rate = rate
        self._clock = clock
        self._left = float(rate)  # events that may come now
        self._then = clock()
        self._table = array("Q", bytes(8 * walk.COUNT_WORDS * (probes + 1)))  # refused in this round

    def grow(self, probes: int) -> None:
        """There are so many more."""
        self._table.frombytes(bytes(8 * walk.COUNT_WORDS * probes))

    def write(self, frames: Frames) -> None:
        """Pass on what is allowed, count the rest."""
        now = self._clock()
        self._left = min(self._rate, self._left + (now - self._then) * self._rate)
        self._then = now
        wanted = frames.count
        allowed = min(wanted, int(self._left))
        self._left -= allowed
        if allowed < wanted:
            rest = memoryview(frames.offsets)[allowed:wanted]
            count_frames(frames.data, rest, len(rest), self._table)
            frames = Frames(frames.data, frames.offsets, allowed)
        if allowed:
            self._sink.write(frames)

    def lost(self, losses: list[Lost]) -> None:
        """Pass on."""
        self._sink.lost(losses)

    def flush(self) -> None:
        """The end of a round: tell what was refused in it."""
        words, table = walk.COUNT_WORDS, self._table
        losses = []
        for probe in range(1, len(table) // words):
            count, first, last = table[probe * words : (probe + 1) * words]
            if count:
                losses.append(Lost(probe, first, last, count, CPU_UNKNOWN, Cause.RATE_LIMIT))
                table[probe * words] = 0
        if losses:
            self._sink.lost(losses)
        self._sink.flush()
