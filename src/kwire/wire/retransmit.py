"""The source's half of a session over datagrams: retransmission, and how much may be under way at once.

Invariants: a frame is lost when one that was sent later has come (RACK, RFC 8985), so what was sent again
and lost again is found like the rest; the last frames of a flight are probed for, at doubling intervals,
before the timeout of RFC 6298 expires; round trips are sampled from frames that were sent once (Karn); what
comes quicker than any of them after it was sent again was only late, but not twice in succession: then the
shortest one known was measured in an outage; what the sink has got but not stored is kept, and not sent
again; the amount under way follows RFC 5681 (slow start, halved at a loss, one frame after a timeout).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from kwire.wire.control import Ack, bye_frame
from kwire.wire.frame import MASK, Flag, Type, before, build, distance
from kwire.wire.send_queue import Buffer, SendQueue
from kwire.wire.sender import FOREVER, Sender
from kwire.wire.settings import Settings

GRANULARITY = 0.001  # s, RFC 6298's G
DUPLICATES = 3  # frames that came after a hole until it counts as lost at once
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

    __slots__ = ("got", "lost", "sent", "serial", "size", "tries")

    def __init__(self, size: int) -> None:
        self.size = size
        self.sent = 0.0  # when it was sent last
        self.serial = 0  # which transmission that was, of all of the session
        self.tries = 0
        self.got = False  # the sink has it, but has not stored it
        self.lost = False  # it is to be sent again


class DatagramSender(Sender):
    """A Sender over datagrams. `resent`: frames sent again; `fast`: recoveries begun by an ACK."""

    __slots__ = (
        "_at_once",
        "_doubts",
        "_expires",
        "_flights",
        "_grows",
        "_largest",
        "_least",
        "_lost",
        "_newest",
        "_patience",
        "_pipe",
        "_probe_at",
        "_probes",
        "_ranges",
        "_recover",
        "_reorder_at",
        "_reordered",
        "_room",
        "_sample",
        "_serial",
        "_settle",
        "_threshold",
        "_trip",
        "_under_way",
        "fast",
        "resent",
        "timeout_value",
    )

    def __init__(self, send_queue: SendQueue, settings: Settings, known: bool) -> None:
        super().__init__(send_queue, settings, known)
        self.timeout_value = Timeout(settings)
        self._settle = settings.ack_delay  # s, how long the sink may wait with an ACK
        self._flights: dict[int, Flight] = {}  # by number, in order
        self._under_way: dict[int, Flight] = {}  # sent, not got, not lost; in order of transmission
        self._lost: deque[int] = deque()  # to be sent again
        self._ranges: tuple[tuple[int, int], ...] = ()  # of the ACK before
        self._serial = 0  # of the last transmission
        self._newest = 0  # the latest transmission that has arrived
        self._trip = 0.0  # s, its round trip
        self._least = FOREVER  # s, the shortest round trip
        self._sample: float | None = None  # s, the round trip that the ACK at hand measured
        self._doubts: float | None = None  # when an ACK came of what seemed to be an earlier transmission
        self._reordered = False  # frames have arrived out of order
        self._patience = 1  # how many quarters of the shortest round trip a frame may be overtaken by
        self._recover: int | None = None  # recovery lasts until everything before this number has come
        self._grows = True  # the congestion window grows: not while recovering from what an ACK told
        self._at_once = False  # one frame is sent again whatever is under way: RFC 6675 (4.3), RFC 8985 7.3
        self._probes = 0  # sent since an ACK told something new
        self._expires = self._probe_at = self._reorder_at = FOREVER  # when each of the timers is due
        self._pipe = 0  # bytes under way
        self._largest = settings.data_size  # of the frames
        self._room = FIRST_FLIGHT * settings.data_size  # how much may be under way: the congestion window
        self._threshold = 1 << 40  # slow start below
        self.resent = self.fast = 0

    def start(self, next: int, window: int, now: float) -> None:
        """Begin, or go on: everything that the sink has not stored is sent again."""
        super().start(next, window, now)
        self._flights.clear()
        self._under_way.clear()
        self._lost.clear()
        self._ranges = ()
        self._newest, self._least, self._reordered, self._patience = self._serial, FOREVER, False, 1
        self._recover, self._grows, self._at_once, self._probes = None, True, False, 0
        self._pipe, self._doubts = 0, None
        self.stop()

    def stop(self) -> None:
        """The transport is gone: no timer runs."""
        self._expires = self._probe_at = self._reorder_at = self.deadline = FOREVER

    def acknowledged(self, ack: Ack, now: float) -> None:
        """Release what is stored, note what has come, find what is missing."""
        if distance(self.base, ack.next) < 0:
            return
        self.window = ack.window
        pipe = self._pipe
        progress = self._release_flights(ack.next, now) + self._got(ack, now)
        self._ranges = ack.ranges
        if self._sample is not None:
            self.timeout_value.sample(self._sample)
            self._sample = None
        hole, above = ack.next, ack.ranges
        if above and above[0][0] == hole:
            hole, above = (above[0][1] + 1) & MASK, above[1:]
        if self._recover is not None and not before(hole, self._recover):
            self._recover, self._grows = None, True
        self._find_missing(now, sum(distance(*range_) + 1 for range_ in above), pipe)
        if progress:
            self._probes = 0
            self._expires = self._probe_at = FOREVER  # they start again
            if self._grows:
                room = self._room
                self._room += progress if room < self._threshold else max(progress * progress // room, 1)
                self._room = min(self._room, 2 * max(self.window, progress))
        self._run(now)

    def pull(self, out: list[Buffer], limit: int, now: float) -> None:
        """Append datagrams: what is missing first, then what is new, as window and congestion allow."""
        while limit > 0 and self._lost:
            number = self._lost[0]
            flight = self._flights.get(number)
            if flight is None or flight.got or not flight.lost:
                self._lost.popleft()
                continue
            if self._pipe and self._pipe + flight.size > self._room and not self._at_once:
                return self._run(now)
            self._at_once = False
            self._lost.popleft()
            out.append(self._send(number, flight, now))
            limit -= len(out[-1])
        end = self.end
        while limit > 0 and self.cursor != end:
            number = self.cursor
            size = 0 if number == self.send_queue.next else len(self.send_queue.get(number))
            if not self._fits(size) or (self._pipe and self._pipe + size > self._room):
                break
            flight = self._flights[number] = Flight(size)
            self._count(size)
            out.append(self._send(number, flight, now))
            limit -= len(out[-1])
        return self._run(now)

    def timeout(self, now: float) -> bool:
        """One of the timers is due; true where the sink is to be probed with a KEEPALIVE."""
        if self._expires <= now:
            return self._expired(now)
        if self._reorder_at <= now:
            self._find_missing(now, 0, self._pipe)
        elif self._probe_at <= now:
            self._probes += 1
            self._probe_at = FOREVER
            oldest = next(iter(self._under_way), None)
            if oldest is not None:
                self._take_off(oldest)
                self._lost.appendleft(oldest)
                self._at_once = True
        self._run(now)
        return False

    # ---- timers

    def _run(self, now: float) -> None:
        """Start the timers that are not running and should be; say when the first of them is due."""
        if not self._flights and self.cursor == self.end:
            self.stop()
            return
        if self._expires == FOREVER:  # while something is outstanding, or the sink's window is shut
            self._expires = now + self.timeout_value.value
        smoothed = self.timeout_value.smoothed
        if not self._under_way or smoothed is None:
            self._probe_at = FOREVER
        elif self._probe_at == FOREVER:
            wait = 2 * smoothed + (self._settle if len(self._under_way) == 1 and self._recover is None else 0)
            self._probe_at = now + max(wait, 2 * GRANULARITY) * (1 << self._probes)
        self.deadline = min(self._expires, self._probe_at, self._reorder_at)

    def _expired(self, now: float) -> bool:
        """Nothing came in time: all that is under way counts as lost; or, if all has come, probe."""
        self.timeout_value.back_off()
        self._expires = self._probe_at = self._reorder_at = FOREVER
        missing = [number for number, flight in self._flights.items() if not flight.got]
        if missing:
            if self._recover is None:  # else it is the same congestion, RFC 5681 (4)
                self._threshold = max(self._pipe // 2, 2 * self._largest)
            self._room = self._largest
            self._recover, self._grows = self.cursor, True
            self._probes = 0
            self._under_way.clear()
            self._pipe = 0
            for number in missing:
                self._flights[number].lost = True
            self._lost = deque(missing)
        self._run(now)
        return not missing

    # ---- what is sent, what has come

    def _send(self, number: int, flight: Flight, now: float) -> bytes:
        """The frame, which is under way from now on."""
        self._serial += 1
        self.resent += flight.tries > 0
        flight.lost, flight.sent, flight.serial = False, now, self._serial
        flight.tries += 1
        self._under_way[number] = flight
        self._pipe += flight.size
        if number == self.send_queue.next:
            return bye_frame(number, self.bye or "", CHECKSUM)
        return build(Type.DATA, number, self.send_queue.get(number), CHECKSUM)

    def _take_off(self, number: int) -> None:
        """The frame is under way no longer: it counts as lost."""
        flight = self._under_way.pop(number)
        flight.lost = True
        self._pipe -= flight.size

    def _release_flights(self, next: int, now: float) -> int:
        """Everything before `next` is stored; gives how many bytes of it had not been known to have come."""
        progress = 0
        for step in range(max(distance(self.base, next), 0)):
            number = (self.base + step) & MASK
            flight = self._flights.pop(number, None)
            if flight is None:
                break
            self._outstanding -= self._sizes.popleft()
            if not flight.got:
                progress += self._arrived(number, flight, now)
        self._release(next)
        return progress

    def _got(self, ack: Ack, now: float) -> int:
        """Mark what has come for the first time; gives its bytes."""
        progress = 0
        for number in _news(ack.ranges, self._ranges, self.base, self.cursor):
            flight = self._flights.get(number)
            if flight is not None and not flight.got:
                flight.got = True
                progress += self._arrived(number, flight, now)
        return progress

    def _arrived(self, number: int, flight: Flight, now: float) -> int:
        """A frame has come, for the first time; gives its bytes, at least 1."""
        if self._under_way.pop(number, None) is not None:
            self._pipe -= flight.size
        trip = now - flight.sent
        if flight.tries == 1:
            self._least = min(self._least, trip)
            self._sample = trip
            self._reordered |= flight.serial < self._newest
            self._doubts = None
        elif trip < self._least:
            if self._doubts in (None, now):  # an earlier transmission of it has come: it was only late
                self._patience += self._doubts is None
                self._doubts = now
                return flight.size or 1
            self._least = trip  # another ACK says the same: it is not as long as that
        if flight.serial > self._newest:
            self._newest, self._trip = flight.serial, trip
        return flight.size or 1

    def _find_missing(self, now: float, above: int, pipe: int) -> None:
        """What was sent before something that has come is lost, after a short wait for what was overtaken.

        `above`: how many frames after the oldest hole have come; `pipe`: bytes under way before that.
        """
        window = 0.0
        if self._reordered or (above < DUPLICATES and self._recover is None):
            window = min(self._patience * self._least / 4, self.timeout_value.smoothed or 0.0)
        self._reorder_at = FOREVER
        lost = []
        for number, flight in self._under_way.items():
            if flight.serial > self._newest:
                break
            due = flight.sent + self._trip + window
            if window and due > now:
                self._reorder_at = due
                break
            lost.append(number)
        for number in lost:
            self._take_off(number)
            self._lost.append(number)
        if lost and self._recover is None:
            self._recover, self._grows = self.cursor, False
            self._at_once = True
            self.fast += 1
            self._threshold = self._room = max(pipe // 2, 2 * self._largest)


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
