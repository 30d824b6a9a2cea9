"""The balance of a capture that is being written: what of each probe is stored and lost, and where it stands.

Invariants: probes are numbered from 1, and 0 stands for no known probe; a loss is in `holes` until its LOST
frame is packed, and in `lost` from then on; `stored` and `lost` are of the file that is being written, with
`earlier_stored` and `earlier_lost` of those before it. `rows` is what `walk.epb_pack` goes by and counts in.
"""

from array import array
from collections.abc import Callable, MutableSequence

from kwire.capture import pcapng, walk
from kwire.hints import Final, TypeAlias
from kwire.lazy import NamedTuple
from kwire.wire.messages import CPU_UNKNOWN, U64_MAX, Hole, Lost
from kwire.wire.schema import Clock, Schema

Counts: TypeAlias = "MutableSequence[int]"
"""Counts of events by probe number."""

_NEW_ROW: Final = [0] * walk.ROW_WORDS


class Totals(NamedTuple):
    """The balance of a probe: events. `produced` is what the probe itself counted."""

    produced: int
    stored: int
    lost: int


class Accounts:
    """Those of so many probes. `counts` gives counts of so many numbers, all 0."""

    __slots__ = ("earlier_lost", "earlier_stored", "holes", "lost", "probes", "rows")

    def __init__(self, probes: int, counts: Callable[[int], Counts]) -> None:
        self.probes = probes
        self.rows = array("Q", bytes(8 * walk.ROW_WORDS * probes))
        self.lost, self.earlier_lost, self.earlier_stored = (counts(probes + 1) for _ in range(3))
        self.holes: dict[tuple[int, int, int], Hole] = {}
        """Losses that wait for room, by probe, CPU and cause."""

    def add(self) -> None:
        """Have one probe more."""
        self.probes += 1
        self.rows.extend(_NEW_ROW)
        for counts in (self.lost, self.earlier_lost, self.earlier_stored):
            counts.append(0)

    def describe(self, schema: Schema, clock: Clock | None = None) -> None:
        """Let the events of a probe have the times and the byte order of its schema, or those of `clock`."""
        pair, row = clock or schema.clock, (schema.id - 1) * walk.ROW_WORDS
        self.rows[row + walk.ROW_WALL] = (pair.wall - pair.monotonic if pair else 0) & U64_MAX
        self.rows[row + walk.ROW_SWAP] = schema.order != pcapng.HOST

    # --- what there is

    def wall(self, number: int) -> int:
        """What makes a probe's time wall-clock time when it is added, modulo 2**64."""
        return self.rows[(number - 1) * walk.ROW_WORDS + walk.ROW_WALL]

    def swapped(self, number: int) -> bool:
        """Whether a probe's records are in the other byte order."""
        return bool(self.rows[(number - 1) * walk.ROW_WORDS + walk.ROW_SWAP])

    def stored_here(self, number: int) -> int:
        """Events of a probe in the file."""
        return self.rows[(number - 1) * walk.ROW_WORDS + walk.ROW_STORED] if number else 0

    def stored(self, number: int) -> int:
        """Events of a probe in all files."""
        return self.earlier_stored[number] + self.stored_here(number)

    @property
    def here(self) -> "array[int]":
        """Events in the file, of each probe."""
        return self.rows[walk.ROW_STORED :: walk.ROW_WORDS]

    def lost_by_probe(self) -> list[int]:
        """Events of each probe counted lost so far, in a file or not yet."""
        lost = [earlier + here for earlier, here in zip(self.earlier_lost, self.lost, strict=True)]
        for (probe, _, _), hole in self.holes.items():
            lost[self.known(probe)] += hole.count
        return lost

    def known(self, probe: int) -> int:
        """The number that a probe's losses are counted under: its own, or 0."""
        return probe if probe <= self.probes else 0

    # --- what happens

    def store(self, number: int, count: int = 1) -> None:
        """Count events as stored, or fewer where `count` is negative."""
        self.rows[(number - 1) * walk.ROW_WORDS + walk.ROW_STORED] += count

    def lose(self, probe: int, cpu: int, cause: int, first: int, last: int, count: int) -> None:
        """Count events as lost; their LOST frame is to be written."""
        if count:
            self.holes.setdefault((probe, cpu, cause), Hole()).add(first, last, count)

    def add_loss(self, loss: Lost) -> None:
        """Count what a LOST frame says, which is to be written."""
        self.lose(loss.probe, loss.cpu, loss.cause, loss.first, loss.last, loss.count)

    def drop_before_next(self, number: int, count: int) -> None:
        """Let the next event of a probe say how many were lost before it."""
        row = (number - 1) * walk.ROW_WORDS + walk.ROW_DROPS
        self.rows[row] = min(self.rows[row] + count, U64_MAX)

    def join_holes(self) -> None:
        """Forget the CPUs of holes: then there are few enough for the reserve."""
        holes, self.holes = self.holes, {}
        for (probe, _, cause), hole in holes.items():
            self.lose(probe, CPU_UNKNOWN, cause, hole.first, hole.last, hole.count)

    def pass_on(self) -> None:
        """What is in the file is in an earlier one from now on."""
        for number in range(self.probes + 1):
            self.earlier_lost[number] += self.lost[number]
            self.lost[number] = 0
            if number:
                self.earlier_stored[number] += self.stored_here(number)
                self.store(number, -self.stored_here(number))
