"""The sink's half of a session: what has come, what is delivered, what is stored.

Invariants: each DATA is delivered once and in order; what comes early is held within the window, so memory is
bounded; only what the owner has stored is acknowledged for good.
"""

from __future__ import annotations

from collections import deque

from kwire.wire.control import MAX_RANGES, Ack
from kwire.wire.frame import HALF, MASK, distance
from kwire.wire.settings import Settings
from kwire.wire.transitions import Delivered, SessionEvent

TAKEN, HELD, OLD, BEYOND = range(4)  # what became of a DATA frame


class Receiver:
    """`expected`: the first number not stored; `received`: the first that has not come (in order)."""

    __slots__ = ("_held", "_ranges", "_sizes", "_used", "end", "expected", "reach", "received", "window")

    def __init__(self, expected: int, settings: Settings) -> None:
        self.expected = self.received = expected & MASK
        self.window = settings.window
        self.reach = settings.reach
        self.end: int | None = None  # BYE's number
        self._sizes: deque[int] = deque()  # of expected to received - 1
        self._held: dict[int, bytes] = {}  # what came early
        self._ranges: list[list[int]] = []  # their numbers, first and last, in order
        self._used = 0  # bytes of both

    @property
    def finished(self) -> bool:
        """True once BYE has come and everything before it is stored."""
        return self.end is not None and self.expected == self.end

    @property
    def gap(self) -> bool:
        """True while something has come that is not the next."""
        return bool(self._ranges)

    @property
    def used(self) -> int:
        """Bytes of the window in use."""
        return self._used

    def start(self, first: int, known: bool) -> int:
        """The source can send from `first` on; gives how many frames are missing for ever (0: none)."""
        if not known:
            self.expected = self.received = first
            return 0
        missing = distance(self.received, first)
        if missing > 0:
            self._forget_held()
            self._sizes.clear()
            self._used = 0
            self.expected = self.received = first
        return max(missing, 0)

    def fits(self, sequence: int, size: int) -> bool:
        """True for DATA that is the next, within the window, of a source that has not said BYE."""
        used = self._used
        return (
            sequence == self.received
            and (used + size <= self.window or not used)
            and len(self._sizes) < self.reach
            and self.end is None
        )

    def breaks(self, sequence: int, size: int) -> bool:
        """True for DATA that a stream in order cannot bring: neither had before nor what fits now."""
        return distance(self.received, sequence) >= 0 and not self.fits(sequence, size)

    def take(self, sequence: int, payload: memoryview, out: list[SessionEvent]) -> int:
        """Deliver DATA into `out`, hold it, or ignore it; gives which."""
        ahead = (sequence - self.received) & MASK
        if ahead >= HALF:
            return OLD
        size = len(payload)
        if ahead + len(self._sizes) >= self.reach or (
            self._used + size > self.window and (ahead or self._used)
        ):
            return BEYOND
        if self.end is not None and distance(self.end, sequence) >= 0:
            return BEYOND
        if ahead:
            if sequence in self._held:
                return OLD
            self._held[sequence] = bytes(payload)
            self._used += size
            self._add_range(sequence)
            return HELD
        self._used += size
        self._sizes.append(size)
        self.received = (sequence + 1) & MASK
        out.append(Delivered(sequence, payload))
        if self._ranges and self._ranges[0][0] == self.received:
            self._deliver_held(out)
        return TAKEN

    def stored(self, upto: int) -> int:
        """Everything up to and including `upto` is stored; gives by how many bytes the window moved."""
        moved = 0
        for _ in range(min(distance(self.expected, upto) + 1, len(self._sizes))):
            moved += self._sizes.popleft()
            self.expected = (self.expected + 1) & MASK
        self._used -= moved
        return moved

    def ack(self) -> Ack:
        """What to tell the source."""
        ranges = [(first, last) for first, last in self._ranges[:MAX_RANGES]]
        if self.received != self.expected:
            ranges.insert(0, (self.expected, (self.received - 1) & MASK))
        next = self.expected if not self.finished else (self.expected + 1) & MASK
        return Ack(next, self.window, tuple(ranges[:MAX_RANGES]))

    def _deliver_held(self, out: list[SessionEvent]) -> None:
        first, last = self._ranges.pop(0)
        for step in range(distance(first, last) + 1):
            number = (first + step) & MASK
            payload = self._held.pop(number)
            self._sizes.append(len(payload))
            out.append(Delivered(number, payload))
        self.received = (last + 1) & MASK

    def _add_range(self, sequence: int) -> None:
        """Note one more number in the ranges; most often it comes after the last, or grows it."""
        ranges = self._ranges
        at = len(ranges)
        while at and distance(ranges[at - 1][0], sequence) < 0:
            at -= 1
        if at and ranges[at - 1][1] == (sequence - 1) & MASK:
            ranges[at - 1][1] = sequence
            at -= 1
        else:
            ranges.insert(at, [sequence, sequence])
        if at + 1 < len(ranges) and ranges[at + 1][0] == (sequence + 1) & MASK:
            ranges[at][1] = ranges.pop(at + 1)[1]

    def _forget_held(self) -> None:
        self._held.clear()
        self._ranges.clear()
