"""From the rings into a session: frames gathered into DATA payloads, and what found no room counted.

Invariants: a ring is never kept waiting: what the session has no room for is counted LOST (SENDER_FULL) and
let go; no Python runs for a single event; each probe's SCHEMA comes before its first event, and again now and
then; a LOST frame stands after the events before the hole and before those after it; for each probe, events
accepted and losses told are together all that was given here, at each moment.
"""

import sys
import time
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol

from kwire.agent import manifest
from kwire.agent.manifest import LOST_SIZE
from kwire.capture import walk
from kwire.capture.frame_counts import count_frames
from kwire.wire.frame import HEADER_SIZE, Type
from kwire.wire.frames import Frames
from kwire.wire.messages import CPU_UNKNOWN, MERGE_GAP, Cause, Hole, Lost, totals_frames
from kwire.wire.schema import Schema
from kwire.wire.walk import frame_gather

TELL: Final = MERGE_GAP / 1e9
"""Seconds between two LOST frames of one kind at least."""

HOLD: Final = 0.5
"""Seconds that a payload not yet full waits for more events while there is nobody to receive it."""

REPEAT: Final = 30.0
"""Seconds after which the SCHEMAs are sent again while there is DATA, for who joined in the middle."""

SLACK: Final = 1024
"""Bytes that an outlet may need beyond the payloads it takes."""

ENOUGH: Final = 1 << 20
"""Bytes of room at which an outlet that was full is filled again: a few long holes are better than many."""

ENDLESS: Final = 1 << 62
"""More room than anybody needs."""


class Outlet(Protocol):
    """Where payloads go: a session, or the way to one."""

    @property
    def room(self) -> int:
        """Bytes that it can take."""

    def send(self, payload: bytes, now: float) -> int:
        """Take whole frames that stand back to back."""


def preamble(schemas: Sequence[Schema], size: int) -> list[bytes]:
    """The SCHEMA frames of all probes in payloads of at most `size` bytes, where a frame is not longer."""
    payloads: list[bytes] = []
    part: list[bytes] = []
    used = 0
    for schema in schemas:
        for frame in schema.frames(size):
            if used + len(frame) > size and part:
                payloads.append(b"".join(part))
                part, used = [], 0
            part.append(frame)
            used += len(frame)
    return [*payloads, b"".join(part)] if part else payloads


class SourceSink:
    """A recorder's sink that feeds `outlet`, `size` bytes a payload at most (a longer event goes alone).

    A session begins with the payloads of `begin`, or of `restart`; its owner puts them where the session
    finds them, and then sets `outlet`. Until then there is no room.
    """

    __slots__ = (
        "_before",
        "_beyond",
        "_buffer",
        "_clock",
        "_enough",
        "_finished",
        "_full",
        "_holes",
        "_outlet",
        "_preamble",
        "_refused",
        "_repeated",
        "_sent",
        "_since",
        "_size",
        "_told",
        "_told_lost",
        "_used",
        "bytes",
        "losses",
        "moved",
        "spool_expired",
        "waits",
    )

    def __init__(
        self, schemas: Sequence[Schema], size: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        words = walk.COUNT_WORDS * (max((schema.id for schema in schemas), default=0) + 1)
        self._clock = clock
        self._size = size
        self._preamble = preamble(schemas, size)
        self._outlet: Outlet | None = None
        self._enough = 0
        self._buffer = memoryview(bytearray(size))
        self._used = 0
        self._since = 0.0  # when the first frame came into the buffer
        self._full = False
        self._finished = False  # the totals were handed over
        self._beyond = False  # the outlet takes more than it has room for
        self._repeated = (0.0, 0)  # when the SCHEMAs were sent last, and how many bytes had been until then
        self._sent = array("q", bytes(8 * words))  # events accepted, by probe
        self._refused = array("Q", bytes(8 * words))  # events refused and not yet among the holes
        self._holes: dict[tuple[int, int, int], Hole] = {}
        self._told = -TELL
        self._told_lost: dict[int, int] = {}  # by probe
        self._before: dict[int, int] = {}  # events by probe that earlier sessions delivered or told
        self.bytes = 0
        """Bytes of the payloads handed over."""
        self.losses: dict[int, int] = {}
        """Events lost so far by cause, told or not; without those that went with a spool."""
        self.moved: dict[int, int] = {}
        """What to add to `losses` to have each loss by the cause that it was counted by first."""
        self.spool_expired = 0
        """Events that went with a spool, and were told again as EXPIRED."""
        self.waits = HOLD
        """Seconds that a payload not yet full waits for more: 0 while a peer receives."""

    @property
    def outlet(self) -> Outlet | None:
        """Where payloads go."""
        return self._outlet

    @outlet.setter
    def outlet(self, outlet: Outlet | None) -> None:
        self._outlet = outlet
        self._enough = max(self._size + SLACK, min(ENOUGH, self._room // 4))
        self._repeated = (self._clock(), self.bytes)  # a session begins with them

    # ------------------------------------------------------------------ a recorder's sink

    def write(self, frames: Frames) -> None:
        """Take EVENT frames in order; what finds no room is counted."""
        start, count = 0, frames.count
        data, offsets = frames.data, frames.offsets
        while start < count:
            if (self._full or self._outlet is None or not self._used) and not self._begin():
                break
            start, self._used = frame_gather(data, offsets, start, count, self._buffer, self._used)
            if start == count:
                break
            if self._used:
                if not self._send():
                    break
            elif self._room >= frames.header(start).length + SLACK:  # longer than `size`: alone
                self._hand_over(bytes(frames.frame_bytes(start)))
                start += 1
            else:
                self._full = True
                break
        count_frames(data, offsets, start, self._sent)
        if start < count:
            rest = memoryview(offsets)[start:count]
            refused = count_frames(data, rest, len(rest), self._refused)
            self._lose(Cause.SENDER_FULL, refused)

    def lost(self, losses: list[Lost]) -> None:
        """Take losses; they stand after the events given before."""
        for loss in losses:
            self._lose(loss.cause, loss.count)
            self._hole(loss)

    def flush(self) -> None:
        """The end of a round: hand over what should not wait."""
        if (self._holes or self._full) and self._clock() >= self._told + TELL and self._free():
            self._tell()
        if self._used and self._clock() >= self._since + self.waits:
            self._send()
        if self.bytes > self._repeated[1] and self._clock() >= self._repeated[0] + REPEAT and not self._full:
            self._repeat()

    def _repeat(self) -> None:
        """Send the SCHEMAs again, after what is gathered, if there is room for all of them."""
        if self._finished:  # the session is closing, which takes nothing more
            return
        if (self._used and not self._send()) or self._outlet is None:
            return
        if self._room < sum(map(len, self._preamble)) + SLACK * len(self._preamble) + self._enough:
            return
        for payload in self._preamble:
            self._hand_over(payload)
        self._repeated = (self._clock(), self.bytes)

    # ------------------------------------------------------------------ the session's beginning and end

    def finish(self, produced: Mapping[int, int], beyond: bool = False) -> bool:
        """After the last event: hand over everything that finds room. Whether nothing is left here.

        `produced`: events by probe, of the whole recording; told last. To be called until it is True.
        `beyond`: this is the last call, and the outlet takes what is left though it be full.
        """
        self._beyond = beyond
        if self._finished:
            return True
        if self._outlet is None:
            return False
        self._tell()
        if (self._used and not self._send()) or self._holes or self._full:
            return False
        here = {probe: count - self._before.get(probe, 0) for probe, count in produced.items()}
        frames = totals_frames(here, self._size)
        if self._room < sum(map(len, frames)) + SLACK * len(frames):
            return False
        for frame in frames:
            self._hand_over(frame)
        self._finished = True
        return True

    def begin(self) -> list[bytes]:
        """The payloads that the first session begins with: the schemas."""
        return self._preamble

    def restart(self, abandoned: Iterable[bytes], carried: Iterable[bytes] = ()) -> list[bytes]:
        """A new session takes the place of one that could not be resumed; the payloads it begins with.

        `abandoned`: payloads that may have been delivered or not: their events, and the losses they told, are
        counted lost (EXPIRED): so whatever a collector counts twice has that cause. `carried`: payloads that
        surely were not sent: they come next.
        """
        for payload in abandoned:
            self._abandon(payload)
        table, losses = array("Q", bytes(8 * len(self._sent))), []
        for payload in (*carried, bytes(self._buffer[: self._used])):  # no part of the old session
            losses += manifest.count(payload, table)
        self._before = self._accounted()
        for probe in range(1, len(table) // walk.COUNT_WORDS):
            self._before[probe] -= table[probe * walk.COUNT_WORDS]
        for loss in losses:
            self._before[loss.probe] -= loss.count
        self._outlet = None
        self._finished = False
        self._gather_refused()
        lost = [self._loss(key).frame() for key in list(self._holes)]
        self._full = False
        each = max(1, self._size // LOST_SIZE)
        return [*self._preamble, *(b"".join(lost[at : at + each]) for at in range(0, len(lost), each))]

    def grow(self, schemas: Sequence[Schema]) -> None:
        """Take events of further probes from now on, whose numbers follow; they are described at this place,
        be there room for it or not.
        """
        more = bytes(8 * walk.COUNT_WORDS * len(schemas))
        self._sent.frombytes(more)
        self._refused.frombytes(more)
        described = preamble(schemas, self._size)
        self._preamble = [*self._preamble, *described]
        if self._outlet is None:
            return  # the next session begins with all of them
        payload, self._used = bytes(self._buffer[: self._used]), 0
        for one in (payload, *described) if payload else described:
            self._hand_over(one)

    def adopt(self, payload: bytes) -> None:
        """Take a payload for handed over by us: one of a recording before this one."""
        self._account(payload, 1)

    @property
    def probes(self) -> int:
        """The largest probe number."""
        return len(self._sent) // walk.COUNT_WORDS - 1

    def sent(self, probe: int) -> int:
        """Events of this probe (from 1) accepted and not abandoned."""
        return self._sent[probe * walk.COUNT_WORDS]

    @property
    def events(self) -> int:
        """Events accepted and not abandoned."""
        return sum(self._sent[:: walk.COUNT_WORDS])

    @property
    def lost_events(self) -> int:
        """Events lost so far, told or not."""
        return sum(self.losses.values())

    # ------------------------------------------------------------------ within

    @property
    def _room(self) -> int:
        if self._outlet is None:
            return 0
        return ENDLESS if self._beyond else self._outlet.room

    def _accounted(self) -> dict[int, int]:
        """Events by probe accepted, and losses told."""
        total = dict(self._told_lost)
        for probe in range(1, len(self._sent) // walk.COUNT_WORDS):
            total[probe] = total.get(probe, 0) + self.sent(probe)
        return total

    def _begin(self) -> bool:
        """Before the first frame of a payload: see that there is room for it, and that holes are told."""
        if not self._full:
            if self._room >= self._size + SLACK:
                self._since = self._clock()
                return True
            self._full = True
        elif self._clock() >= self._told + TELL and self._free():
            self._tell()
            return not self._full
        return False

    def _free(self) -> bool:
        """Whether there is room again, and enough of it where there was none."""
        return self._room >= (self._enough if self._full else self._size + SLACK)

    def _tell(self) -> None:
        """Put what is known of the holes at this place, as far as there is room for it."""
        self._gather_refused()
        for key in list(self._holes):
            if self._size - self._used < LOST_SIZE and not self._send():
                return
            if not self._used:
                if self._room < self._size + SLACK:
                    return
                self._since = self._clock()
            frame = self._loss(key).frame()
            self._buffer[self._used : self._used + len(frame)] = frame
            self._used += len(frame)
        self._full = False
        self._told = self._clock()

    def _loss(self, key: tuple[int, int, int]) -> Lost:
        """Take a hole, to be told."""
        (probe, cpu, cause), hole = key, self._holes.pop(key)
        self._told_lost[probe] = self._told_lost.get(probe, 0) + hole.count
        return Lost(probe, hole.first, hole.last, hole.count, cpu, cause)

    def _gather_refused(self) -> None:
        """Make holes of the events refused."""
        words, refused = walk.COUNT_WORDS, self._refused
        for probe in range(1, len(refused) // words):
            count, first, last = refused[probe * words : (probe + 1) * words]
            if count:
                self._hole(Lost(probe, first, last, count, CPU_UNKNOWN, Cause.SENDER_FULL))
                refused[probe * words] = 0

    def _hole(self, loss: Lost) -> None:
        hole = self._holes.setdefault((loss.probe, loss.cpu, loss.cause), Hole())
        hole.add(loss.first, loss.last, loss.count)

    def _lose(self, cause: int, count: int) -> None:
        self.losses[cause] = self.losses.get(cause, 0) + count
        if not self.losses[cause]:
            del self.losses[cause]

    def _send(self) -> bool:
        """Hand over what is in the buffer; False where there is no room for it."""
        if self._room < self._used + SLACK:  # only where a session began anew with what it took over
            self._full = True
            return False
        payload, self._used = bytes(self._buffer[: self._used]), 0
        self._hand_over(payload)
        return True

    def _hand_over(self, payload: bytes) -> None:
        assert self._outlet is not None  # without one there is no room
        self._outlet.send(payload, self._clock())
        self.bytes += len(payload)

    def _abandon(self, payload: bytes) -> None:
        """Take back a payload: its events become a hole, and so do its losses, which may have been told."""
        table, losses = self._account(payload, -1)
        for probe in range(1, len(table) // walk.COUNT_WORDS):
            count, first, last = table[probe * walk.COUNT_WORDS : (probe + 1) * walk.COUNT_WORDS]
            if count:
                self.lost([Lost(probe, first, last, count, CPU_UNKNOWN, Cause.EXPIRED)])
        for loss in losses:
            self._hole(loss._replace(cause=Cause.EXPIRED))
            ours = min(loss.count, self.losses.get(loss.cause, 0))  # none of a recording before this one
            self._lose(loss.cause, -ours)
            self._lose(Cause.EXPIRED, ours)
            self.moved[loss.cause] = self.moved.get(loss.cause, 0) + ours
            self.moved[Cause.EXPIRED] = self.moved.get(Cause.EXPIRED, 0) - ours
            if loss.cause == Cause.SPOOL:  # which the spool counts
                self.spool_expired += loss.count - ours

    def _account(self, payload: bytes, sign: int) -> tuple["array[int]", list[Lost]]:
        """Add a payload to what was accepted and told (-1: take it off); its events by probe, its losses."""
        table = array("Q", bytes(8 * len(self._sent)))
        losses = manifest.count(payload, table)
        for at in range(0, len(table), walk.COUNT_WORDS):
            self._sent[at] += sign * table[at]
        for loss in losses:
            self._told_lost[loss.probe] = self._told_lost.get(loss.probe, 0) + sign * loss.count
        return table, losses


def first_event(payload: bytes) -> int | None:
    """The timestamp of the first EVENT frame of a payload of this machine; None where it has none."""
    frames = Frames.walk(payload)
    for index in range(frames.count):
        if frames.header(index).type == Type.EVENT:
            at = frames.offsets[index] + HEADER_SIZE
            return int.from_bytes(payload[at : at + 8], sys.byteorder)
    return None


def events_in(payload: bytes) -> int:
    """How many EVENT frames a payload holds."""
    frames = Frames.walk(payload)
    return sum(frames.header(index).type == Type.EVENT for index in range(frames.count))
