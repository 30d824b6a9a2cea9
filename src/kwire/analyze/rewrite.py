"""Captures made from captures: probes numbered anew, frames moved as they are, accounts that still balance.

Invariants: no event is decoded, its bytes change in nothing but the probe number; every event and every LOST
frame that is wanted is written once; what a capture does not prove (a killed recorder, a damaged file) the
captures made from it do not prove either: their probes get no closing statistics. What a choice leaves out
is not lost: comments of the section say what was chosen.
"""

import hashlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from kwire.analyze.capture_summary import CaptureSummary
from kwire.analyze.scan import Picked, probe_numbers
from kwire.capture.accounts import Totals
from kwire.capture.identity import Limits
from kwire.capture.output import CaptureError
from kwire.capture.writer import Writer
from kwire.wire.frames import Frames
from kwire.wire.messages import U64_MAX, Lost
from kwire.wire.schema import Schema, clock_of
from kwire.wire.stacks import Stacks
from kwire.wire.walk import frame_renumber, frame_renumber_twin

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

ROWS: Final = 8  # of a table of numbers for each event of a window, at most


Keys = dict[int, tuple[Schema, bytes]]  # by the schema's id(): itself, and its contents


class Numbers:
    """Probe numbers 1, 2, 3 … for the schemas of captures; equal schemas are one probe.

    `clock`: that of losses of unknown probes. `keys`: what is known of schemas' contents, shared by all who
    number the schemas of one capture.
    """

    __slots__ = ("_by", "_keys", "clock", "schemas")

    def __init__(self, schemas: Iterable[Schema], keys: Keys | None = None) -> None:
        self._by: dict[bytes, int] = {}
        self._keys = {} if keys is None else keys
        self.schemas: list[Schema] = []
        for schema in schemas:
            key = self._key(schema)
            if key not in self._by:
                self._by[key] = len(self.schemas) + 1
                self.schemas.append(schema._replace(id=len(self.schemas) + 1))
        self.clock = clock_of(self.schemas)

    def find(self, schema: Schema) -> int:
        """The number of this schema's probe, 0 where it has none; it may come from another reading."""
        return self._by.get(self._key(schema), 0)

    def _key(self, schema: Schema) -> bytes:
        known = self._keys.get(id(schema))
        if known is None:
            key = hashlib.sha256(b"".join(schema._replace(id=1).frames())).digest()
            known = self._keys[id(schema)] = (schema, key)
        return known[1]


def made_of(surveys: Iterable[CaptureSummary], limits: Limits | None = None) -> list[str]:
    """The comments that say which captures' events are in what is made of these: those that `limits` say."""
    held = [
        one if limits is None else one.within(limits)
        for capture_summary in surveys
        for one in capture_summary.held
    ]
    return [one.comment() for one in dict.fromkeys(held)]


class RenumberingWriter:
    """One capture being written: what it takes, it renumbers in place and hands to a Writer.

    A context manager: the capture takes its place at the end, whole; what an error leaves unfinished is gone,
    and what was there before is kept. Raises CaptureError where the disk is full.
    """

    __slots__ = ("_produced", "_unproven", "numbers", "path", "writer")

    def __init__(
        self,
        path: str,
        numbers: Numbers,
        tool: str,
        comments: Sequence[str],
        stacks: Stacks,
    ) -> None:
        """`stacks`: those that the readings of what is written tell (`Scan.stacks`)."""
        self.path, self.numbers = path, numbers
        schemas = numbers.schemas
        self.writer = Writer(
            path,
            schemas,
            host=", ".join(dict.fromkeys(schema.host for schema in schemas if schema.host)),
            kernel=", ".join(dict.fromkeys(schema.kernel for schema in schemas if schema.kernel)),
            tool=f"kwire {tool}",
            comments=comments,
            hold=True,
            stacks=stacks,
        )
        self._produced: dict[int, int] = {}
        self._unproven: set[int] = set()

    def account(self, capture_summary: CaptureSummary, *, whole: bool) -> None:
        """Take over what a capture says of its probes; `whole`: all of their events come here."""
        for seen in capture_summary.probes:
            number = self.numbers.find(seen.schema)
            if not number:
                continue
            proven = capture_summary.proves(seen)
            if seen.schema.tells:  # what it holds of these is told anew
                self._unproven |= set() if proven else {number}
                continue
            told = seen.produced is not None and (proven or not seen.balanced)  # so it shows what is missing
            if whole and told and not (capture_summary.problem or capture_summary.repeated):
                self._produced[number] = self._produced.get(number, 0) + (seen.produced or 0) + seen.shared
            elif not proven:
                self._unproven.add(number)
            elif whole:
                counted = seen.events + seen.lost + seen.shared
                self._produced[number] = self._produced.get(number, 0) + counted

    def told(self, loss: Lost) -> None:
        """A loss that was accounted for is no further one: another capture told it already."""
        if loss.probe in self._produced:
            self._produced[loss.probe] -= loss.count

    def write(self, data: bytearray, offsets: "Array", losses: "Iterable[tuple[int, Lost]]") -> None:
        """Write EVENTs (numbered already) in this order, each loss before the event at its index."""
        start = 0
        for before, loss in losses:
            if before > start:
                self.writer.write(Frames(data, offsets[start:before].data))
                start = before
            self.writer.lost([loss])
        if start < len(offsets):
            self.writer.write(Frames(data, offsets[start:].data))
        self._check()

    def _check(self) -> None:
        if self.writer.dropped:
            cause = "the disk is full, or the file would be larger than is allowed"
            raise CaptureError("write", self.path, cause, "free space, or write elsewhere")

    def __enter__(self) -> "RenumberingWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        """Give up what `close` has not ended."""
        self.writer.leave()

    def close(self) -> Totals:
        """End the capture; gives its sums: of events what was produced and stored, of all what was lost."""
        self.writer.flush()
        self._check()
        totals = self.writer.close(self._produced, self._unproven)
        maps = {schema.id for schema in self.writer.schemas if schema.map is not None}
        events = [one for number, one in totals.items() if number not in maps]
        lost = sum(one.lost for one in totals.values())
        return Totals(sum(one.produced for one in events), sum(one.stored for one in events), lost)


def numbered(picked: Picked, numbers: Numbers) -> list[tuple[int, Lost]]:
    """The losses that were picked, with the numbers of their probes (0: not known, by the first clock)."""
    made = []
    for before, schema, loss in picked.losses:
        number = numbers.find(schema) if schema else 0
        if not number and loss.last:
            here = schema.clock if schema else picked.window.clock
            there = numbers.clock
            shift = here.at(0) - there.at(0) if here and there else 0
            first, last = (min(max(time + shift, 1), U64_MAX) for time in (loss.first, loss.last))
            loss = loss._replace(first=first, last=last)
        made.append((before, loss._replace(probe=number)))
    return made


class _Sparse:
    """A table for the Python twin, where a real one would have far more rows than there are events."""

    __slots__ = ("_numbers", "_schemas")

    def __init__(self, schemas: Mapping[int, Schema], numbers: Numbers) -> None:
        self._schemas, self._numbers = schemas, numbers

    def __len__(self) -> int:
        return 1 << 32

    def __getitem__(self, number: int) -> int:
        schema = self._schemas.get(number)
        return self._numbers.find(schema) if schema else 0


def renumber(picked: Picked, numbers: Numbers) -> None:
    """Give the EVENTs that were picked the numbers of their probes, in place."""
    import numpy as np

    schemas, count, there = picked.window.schemas, len(picked.offsets), probe_numbers(picked)
    greatest = int(there.max(initial=0))
    if greatest + 1 > ROWS * count:
        sparse = _Sparse(schemas, numbers)
        frame_renumber_twin(picked.data, picked.offsets.tolist(), 0, count, sparse)
        return
    table = array("Q", bytes(8 * (greatest + 1)))
    for number in np.flatnonzero(np.bincount(there)).tolist():
        table[number] = numbers.find(schemas[number])
    frame_renumber(picked.data, picked.offsets.data, 0, count, table)
