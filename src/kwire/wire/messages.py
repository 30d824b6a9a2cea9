"""LOST: how many events are missing, of which probe, when, where and why.

Invariants: a LOST frame stands where the hole is; its payload is 32 bytes, big-endian; its count is never
lost, so a cause this version does not know is kept as its number; merging changes neither the sum of the
counts nor the time they span.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping

from kwire.hints import TYPE_CHECKING
from kwire.lazy import IntEnum, NamedTuple
from kwire.wire import cbor
from kwire.wire.frame import HEADER_SIZE, MAX_EVENT, Frame, Type, bad_payload, build
from kwire.wire.keyed import Key, integer, read_payload, table
from kwire.words import plural

if TYPE_CHECKING:
    from kwire.wire.frames import Frames

CPU_UNKNOWN = 0xFFFF
MERGE_GAP = 100_000_000  # ns between two losses that still become one: at most ten LOST a second and cause
PAYLOAD = struct.Struct(">QQQHB5s")
U64_MAX = (1 << 64) - 1


class Cause(IntEnum):
    """Why events are missing. The numbers are part of the protocol."""

    UNKNOWN = 0
    RING_FULL = 1
    MAP_FULL = 2
    MISSED = 3
    TOO_LONG = 4
    SENDER_FULL = 5
    DISK_FULL = 6
    EXPIRED = 7
    RATE_LIMIT = 8
    CAPTURE_GONE = 9
    MISSED_SHARED = 10
    SPOOL = 11
    BROKER = 12


CAUSES: dict[Cause, str] = {
    Cause.UNKNOWN: "nobody could tell why",
    Cause.RING_FULL: "the ring buffer was full",
    Cause.MAP_FULL: "a map of the program was full",
    Cause.MISSED: "the kernel did not run the program",
    Cause.TOO_LONG: "the record would have been too long",
    Cause.SENDER_FULL: "the sender's buffer was full",
    Cause.DISK_FULL: "the receiver's disk was full",
    Cause.EXPIRED: "the session expired before it was acknowledged",
    Cause.RATE_LIMIT: "the agent's policy allows no more events a second",
    Cause.CAPTURE_GONE: "the capture was deleted or cut after they were stored",
    Cause.MISSED_SHARED: "the kernel did not run the program that these probes share",
    Cause.SPOOL: "the sender's spool was damaged, or parts of it are gone",
    Cause.BROKER: "the broker discarded it before it was collected",
}


class Lost(NamedTuple):
    """`count` events of `probe` (0: unknown) lost between `first` and `last` (ns of the probe's clock)."""

    probe: int
    first: int
    last: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    cpu: int = CPU_UNKNOWN
    cause: int = Cause.UNKNOWN

    def frame(self, flags: int = 0) -> bytes:
        """The LOST frame that says this."""
        count = min(self.count, U64_MAX)
        return build(
            Type.LOST,
            self.probe,
            PAYLOAD.pack(self.first, self.last, count, self.cpu, self.cause, bytes(5)),
            flags,
        )

    @classmethod
    def read(cls, frame: Frame) -> Lost:
        """Read a LOST frame; FrameError BAD_PAYLOAD where its payload is not one."""
        base = frame.offset + HEADER_SIZE
        if len(frame.payload) != PAYLOAD.size:
            raise bad_payload(base, plural(len(frame.payload), "byte"), f"{PAYLOAD.size} bytes", "LOST")
        first, last, count, cpu, cause, zero = PAYLOAD.unpack(frame.payload)
        if last < first:
            raise bad_payload(base + 8, last, f"last ns, not before the first, {first}", "LOST")
        if any(zero):
            raise bad_payload(base + 27, zero.hex(), "five zero bytes", "LOST")
        return cls(frame.header.id, first, last, count, cpu, Cause(cause) if cause in CAUSES else cause)


def losses_in(frames: Frames, places: Iterable[int] | None = None) -> Iterator[Lost]:
    """The losses among frames whose LOST frames are sound, or among those in these places."""
    for index in range(frames.count) if places is None else places:
        if frames.header(index).type == Type.LOST:
            yield Lost.read(frames.frame(index))


def cause_text(cause: int) -> str:
    """Why events are missing, for people; also for a cause that is not known here."""
    return CAUSES[Cause(cause)] if cause in CAUSES else f"cause {cause}"


class Hole:
    """Losses not told yet, of one probe, CPU and cause; times by the probe's clock."""

    __slots__ = ("count", "first", "last")

    def __init__(self) -> None:
        self.first, self.last, self.count = 0, 0, 0

    def add(self, first: int, last: int, count: int) -> None:
        """Widen the hole; a `last` of 0 tells no time."""
        if last:
            self.first = min(self.first, first) if self.last else first
            self.last = max(self.last, last)
        self.count += count


def merge(losses: Iterable[Lost], gap: int = MERGE_GAP) -> list[Lost]:
    """Join losses of the same probe, CPU and cause that lie at most `gap` ns apart; in order of time.

    Whatever comes in, at most one a `gap` goes out for each probe, CPU and cause, so LOST cannot flood.
    """
    merged: list[Lost] = []
    open_at: dict[tuple[int, int, int], int] = {}  # → index in `merged` of the loss that may still grow
    for loss in sorted(losses, key=lambda loss: (loss.first, loss.last)):
        key = (loss.probe, loss.cpu, loss.cause)
        at = open_at.get(key)
        if at is not None and loss.first - merged[at].last <= gap:
            old = merged[at]
            merged[at] = old._replace(last=max(old.last, loss.last), count=old.count + loss.count)
        else:
            open_at[key] = len(merged)
            merged.append(loss)
    return merged


# ---- Totals: how many events each probe produced, told by a source when its recording has ended
#
# They travel as TABLE frames with id 0, after the last EVENT and LOST frame: a CBOR map whose `produced`
# maps probe number to events (0: of no known probe), with `more` where another such frame follows.
# Invariant: each frame can be taken by itself; together they name every probe once. A sink holds them
# against what it stored and what was counted lost.


TOTALS = 0  # the map number of the TABLE
_COUNT = integer(U64_MAX)
_KEYS = {
    "produced": Key(table(_COUNT, _COUNT, "a map from probe numbers to numbers of events"), "by probe", {}),
}
_ENTRY = 14  # bytes of one entry at most: two CBOR integers, of 32 and 64 bits


def totals_frames(produced: Mapping[int, int], limit: int = MAX_EVENT) -> list[bytes]:
    """The frames that say how many events each probe produced, each of at most `limit` bytes."""
    room = max(1, (limit - HEADER_SIZE - 32) // _ENTRY)
    items = sorted(produced.items())
    frames = []
    for at in range(0, max(len(items), 1), room):
        value: dict[str, object] = {"produced": dict(items[at : at + room])}
        if at + room < len(items):
            value["more"] = True
        frames.append(build(Type.TABLE, TOTALS, cbor.dumps(value)))
    return frames


def read_totals(frame: Frame) -> dict[int, int]:
    """What one such frame says; FrameError BAD_PAYLOAD where it is not sound."""
    base = frame.offset + HEADER_SIZE
    return dict(read_payload(cbor.loads_map(frame.payload, base), _KEYS, base)["produced"])
