"""The source's half of a session over datagrams: retransmission, and how much may be under way at once.

The laws: the timeout is that of RFC 6298, sampled from frames that were sent once (Karn); the third ACK that
reports the same hole sends what is missing again; what the sink has got but not stored is kept, and not sent
again; the amount under way follows RFC 5681 (slow start, halved at a loss, one frame after a timeout).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from kwire.wire.control import Ack, bye_frame
from kwire.wire.frame import Flag, Type, build
from kwire.wire.outbox import Buffer, Outbox
from kwire.wire.sender import FOREVER, Sender
from kwire.wire.sequence import MASK, before, distance
from kwire.wire.settings import Settings

GRANULARITY = 0.001  # s, RFC 6298's G
DUPLICATES = 3  # ACKs that report the same hole, or frames that came after it, until it counts as lost
FIRST_FLIGHT = 10  # frames under way at first, RFC 6928

CHECKSUM = int(Flag.CHECKSUM)  # an int: quicker than a flag


class Timeout:
    """The retransmission timeout of RFC 6298; `value` is in seconds."""

    __slots__ = ("_max", "_min", "smoothed", "value", "variation")

    def __init__(self, settings: Settings) -> None:
        self._min, self._max = settings.rto_min, max(settings.rto_max, settings.rto_min)
        self.value = settings.rto_first
        self.smoothed: float | None = None
        self.variation = 0.0

    def sample(self, round_trip: float) -> None:
        """A round trip was measured."""
        if self.smoothed is None:
            self.smoothed, self.variation = round_trip, round_trip / 2
        else:
            self.variation += (abs(self.smoothed - round_trip) - self.variation) / 4
            self.smoothed += (round_trip - self.smoothed) / 8
        value = self.smoothed + max(GRANULARITY, 4 * self.variation)
        self.value = min(max(value, self._min), self._max)

    def back_off(self) -> None:
        """It expired."""
        self.value = min(self.value * 2, self._max)


class Flight:
    """One frame that was sent and is not acknowledged for good."""

    __slots__ = ("got", "lost", "sent", "size", "tries")

    def __init__(self, size: int, sent: float) -> None:
        self.size = size
        self.sent = sent
        self.tries = 1
        self.got = False  # the sink has it, but has not stored it
        self.lost = False  # it is to be sent again


class DatagramSender(Sender):
    """A Sender over datagrams."""

    __slots__ = (
        "_duplicates",
        "_flights",
        "_hole",
        "_largest",
        "_lost",
        "_pipe",
        "_ranges",
        "_recover",
        "_room",
        "_threshold",
        "fast",
        "resent",
        "timeout_value",
    )

    def __init__(self, outbox: Outbox, settings: Settings, known: bool) -> None:
        super().__init__(outbox, settings, known)
        self.timeout_value = Timeout(settings)
        self._flights: dict[int, Flight] = {}  # by number, in order
        self._lost: deque[int] = deque()  # to be sent again
        self._ranges: tuple[tuple[int, int], ...] = ()  # of the ACK before
        self._hole = self.base  # the oldest number that the sink has not got, by the ACK before
        self._duplicates = 0
        self._recover: int | None = None  # recovery lasts until everything before this has come
        self._pipe = 0  # bytes under way: sent, not got, not lost
        self._largest = settings.data_size  # of the frames
        self._room = FIRST_FLIGHT * settings.data_size  # how much may be: the congestion window
        self._threshold = 1 << 40  # slow start below
        self.resent = self.fast = 0  # frames sent again; recoveries begun by duplicates

    def start(self, next: int, window: int, now: float) -> None:
        """Begin, or go on: everything that the sink has not stored is sent again."""
        super().start(next, window, now)
        self._flights.clear()
        self._lost.clear()
        self._ranges = ()
        self._hole, self._duplicates, self._recover = self.base, 0, None
        self._pipe = 0
        self.deadline = FOREVER

    def acknowledged(self, ack: Ack, now: float) -> None:
        """Release what is stored, note what has come, find what is missing."""
        if distance(self.base, ack.next) < 0:
            return
        self.window = ack.window
        progress = self._release_flights(ack.next, now)
        progress += self._got(ack, now)
        self._ranges = ack.ranges
        self._find_missing(ack)
        if self._recover is None and progress:
            room = self._room
            self._room += progress if room < self._threshold else max(progress * progress // room, 1)
            self._room = min(self._room, 2 * max(self.window, progress))
        if not self._flights:
            self.deadline = FOREVER
        elif progress:
            self.deadline = now + self.timeout_value.value

    def pull(self, out: list[Buffer], limit: int, now: float) -> None:
        """Append datagrams: what is missing first, then what is new, as window and congestion allow."""
        while limit > 0 and self._lost:
            flight = self._flights.get(self._lost[0])
            if flight is None or flight.got or not flight.lost:
                self._lost.popleft()
                continue
            if self._pipe and self._pipe + flight.size > self._room:
                return self._run(now)
            number = self._lost.popleft()
            flight.lost, flight.sent, flight.tries = False, now, flight.tries + 1
            self._pipe += flight.size
            self.resent += 1
            out.append(self._frame(number))
            limit -= len(out[-1])
        end = self.end
        while limit > 0 and self.cursor != end:
            number = self.cursor
            size = 0 if number == self.outbox.next else len(self.outbox.get(number))
            if not self._fits(size) or (self._pipe and self._pipe + size > self._room):
                break
            self._flights[number] = Flight(size, now)
            self._pipe += size
            self._count(size)
            out.append(self._frame(number))
            limit -= len(out[-1])
        return self._run(now)

    def timeout(self, now: float) -> bool:
        """Nothing came in time: all that is under way counts as lost; or, if all has come, probe."""
        self.timeout_value.back_off()
        missing = [number for number, flight in self._flights.items() if not flight.got]
        self.deadline = FOREVER
        if not missing:
            self._run(now)
            return True
        self._threshold = max(self._pipe // 2, 2 * self._largest)
        self._room = self._largest
        self._pipe = 0
        self._recover, self._duplicates = None, 0
        for number in missing:
            self._flights[number].lost = True
        self._lost = deque(missing)
        return False

    def _run(self, now: float) -> None:
        """The timer runs while something is outstanding, or the sink's window is shut."""
        if self.deadline == FOREVER and (self._flights or self.cursor != self.end):
            self.deadline = now + self.timeout_value.value

    def _frame(self, number: int) -> bytes:
        if number == self.outbox.next:
            return bye_frame(number, self.bye or "", CHECKSUM)
        return build(Type.DATA, number, self.outbox.get(number), CHECKSUM)

    def _release_flights(self, next: int, now: float) -> int:
        """Everything before `next` is stored; gives how many bytes of it had not been known to have come."""
        progress, sample = 0, None
        for step in range(max(distance(self.base, next), 0)):
            flight = self._flights.pop((self.base + step) & MASK, None)
            if flight is None:
                break
            self._outstanding -= self._sizes.popleft()
            if not flight.got:
                progress += flight.size or 1
                self._pipe -= 0 if flight.lost else flight.size
                sample = flight.sent if flight.tries == 1 else sample
        self._release(next)
        if sample is not None:
            self.timeout_value.sample(now - sample)
        return progress

    def _got(self, ack: Ack, now: float) -> int:
        """Mark what has come for the first time; gives its bytes."""
        progress, sample = 0, None
        for number in _news(ack.ranges, self._ranges, self.base, self.cursor):
            flight = self._flights.get(number)
            if flight is None or flight.got:
                continue
            flight.got = True
            progress += flight.size or 1
            self._pipe -= 0 if flight.lost else flight.size
            sample = flight.sent if flight.tries == 1 else sample
        if sample is not None:
            self.timeout_value.sample(now - sample)
        return progress

    def _find_missing(self, ack: Ack) -> None:
        """Count ACKs that report the same hole; at the third, what is missing counts as lost."""
        ranges = ack.ranges
        hole, above = ack.next, ranges
        if ranges and ranges[0][0] == hole:
            hole, above = (ranges[0][1] + 1) & MASK, ranges[1:]
        if hole != self._hole:
            self._hole, self._duplicates = hole, 0
            if self._recover is not None and not before(hole, self._recover):
                self._recover = None
        elif above:
            self._duplicates += 1
        if not above:
            return
        if self._recover is None:
            if self._duplicates < DUPLICATES:
                return
            self._recover = self.cursor
            self.fast += 1
            self._threshold = self._room = max(self._pipe // 2, 2 * self._largest)
            self._lose(hole)
        limit = _third_from_top(above, hole)
        for first, last in above:
            for step in range(min(max(distance(hole, first), 0), len(self._flights))):
                number = (hole + step) & MASK
                if not before(number, limit):
                    return
                self._lose(number)
            hole = (last + 1) & MASK

    def _lose(self, number: int) -> None:
        flight = self._flights.get(number)
        if flight is not None and flight.tries == 1 and not flight.got and not flight.lost:
            flight.lost = True
            self._pipe -= flight.size
            self._lost.append(number)


Ranges = Sequence[tuple[int, int]]


def _news(ranges: Ranges, before_: Ranges, base: int, top: int) -> Iterator[int]:
    """The numbers in `ranges` that were not in those of the ACK before, from `base` to `top` - 1."""
    known = 0
    for first, last in ranges:
        if distance(base, first) < 0:
            first = base
        if distance(last, top) <= 0:
            last = (top - 1) & MASK
        while distance(first, last) >= 0:
            while known < len(before_) and distance(before_[known][1], first) > 0:
                known += 1
            if known < len(before_) and distance(before_[known][0], first) >= 0:
                first = (before_[known][1] + 1) & MASK  # all of the old range is known
                continue
            yield first
            first = (first + 1) & MASK


def _third_from_top(ranges: Ranges, hole: int) -> int:
    """What comes before this number counts as lost: DUPLICATES frames after it have come."""
    left = DUPLICATES
    for first, last in reversed(ranges):
        count = distance(first, last) + 1
        if count >= left:
            return (last - left + 1) & MASK
        left -= count
    return hole
