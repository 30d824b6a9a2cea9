"""Which EVENTs are as their SCHEMA says: long enough, and every value of the tail inside the payload.

Invariants: what is sound here can be decoded, by any of our ways; the cost is that of the frames, however
many schemas there are. The walker is in native/columns.c, its twin is the specification.
"""

from array import array
from collections.abc import Mapping
from typing import Any, Final

from kwire import native
from kwire.wire.fields import EVENT_LEAST, MAX_FIELD_BYTES, TAIL_MAX, TYPES
from kwire.wire.frame import Flag, FrameError, Type, read_header
from kwire.wire.frames import Frames
from kwire.wire.schema import Schema

ROW: Final = (
    native.SHAPE_WORDS
)  # numbers of a row: probe number, fixed bytes, other byte order, first tail, tails
SPARSE: Final = 8  # schemas for each frame; where there are more, each frame is looked at by itself

KEPT: Final = 4096
_Shape = tuple[int, bool, "array[int]"]  # fixed bytes, other byte order, where the tails' references stand


class Soundness:
    """Judges the EVENTs of one capture; it keeps what it has made of the schemas, KEPT of them."""

    __slots__ = ("_count", "_rows", "_schemas", "_shapes", "_tails")

    def __init__(self) -> None:
        self._shapes: dict[int, tuple[Schema, _Shape]] = {}  # by the identity of the schema
        self._schemas: Mapping[int, Schema] = {}
        self._count = 0  # schemas in the rows
        self._rows = self._tails = array("Q")

    def unsound(self, frames: Frames, schemas: Mapping[int, Schema]) -> "array[int]":
        """The places of the EVENTs that are not as the schema of their probe says, where it has one."""
        count = len(frames)
        if not schemas or not count:
            return array("Q")
        if len(schemas) <= SPARSE * count:
            return self._find(frames.data, frames.offsets, count, schemas)
        bad, view, offsets = array("Q"), frames.view, frames.offsets
        for place in range(count):
            schema = schemas.get(read_header(view, offsets[place]).id)
            if schema is not None:
                rows, tails = array("Q"), array("Q")
                self._row(schema, rows, tails)
                out = array("Q", [0])
                if events_unsound(frames.data, offsets[place : place + 1], 1, rows, tails, out):
                    bad.append(place)
        return bad

    def rows(self, schemas: Mapping[int, Schema]) -> "tuple[array[int], array[int]]":
        """What the schemas say, as the walkers take it: a row for each; where references to tails stand."""
        if self._schemas is not schemas or self._count != len(schemas):
            self._schemas, self._count = schemas, len(schemas)
            self._rows, self._tails = array("Q"), array("Q")
            for _, schema in sorted(schemas.items()):
                self._row(schema, self._rows, self._tails)
        return self._rows, self._tails

    def _find(self, data: Any, offsets: Any, count: int, schemas: Mapping[int, Schema]) -> "array[int]":
        rows, tails = self.rows(schemas)
        few = array("Q", bytes(64))
        found = events_unsound(data, offsets, count, rows, tails, few)
        if found > len(few):
            few = array("Q", bytes(8 * found))
            events_unsound(data, offsets, count, rows, tails, few)
        return few[:found]

    def _row(self, schema: Schema, rows: "array[int]", tails: "array[int]") -> None:
        known = self._shapes.get(id(schema))
        if known is None:
            places = [field.offset for field in schema.fields if TYPES[field.type].tail]
            known = (schema, (schema.size, schema.order != native.ORDER, array("Q", places)))
            if len(self._shapes) >= KEPT:
                self._shapes.clear()
            self._shapes[id(schema)] = known
        size, swap, mine = known[1]
        rows.extend((schema.id, size, swap, len(tails), len(mine)))
        tails.extend(mine)


def why_unsound(schema: Schema, frame: Any) -> str:
    """What is wrong with an EVENT of this schema that is not as it says."""
    try:
        schema.decoder()(frame)
    except FrameError as error:
        return f"event of {schema.probe}: {error.problem}"
    return f"event of {schema.probe}: its record is not as its schema says"


def events_unsound_twin(data: Any, offsets: Any, count: int, rows: Any, tails: Any, out: Any) -> int:
    """Which EVENTs have not the fixed bytes that the row of their id says, or tail values outside the rest.

    Writes their places into `out` as far as there is room; gives how many there are. Frames of no row, others
    than EVENTs, and what is no whole frame, are passed over.
    """
    view = memoryview(data).cast("B")
    size, found = len(view), 0
    known = {rows[at]: rows[at + 1 : at + ROW] for at in range(0, len(rows) - ROW + 1, ROW)}
    for place in range(min(count, len(offsets))):
        at = offsets[place]
        if at + EVENT_LEAST > size:
            continue
        header = read_header(view, at)
        row = known.get(header.id)
        length = header.length
        if row is None or header.type != Type.EVENT or not EVENT_LEAST <= length <= size - at:
            continue
        if header.flags & Flag.CHECKSUM:
            length -= 3 if header.flags & Flag.PADDED else 2
        fixed, swap, first, many = row
        order = ("big" if native.ORDER == "little" else "little") if swap else native.ORDER
        good, total = length >= fixed, 0
        for tail in tails[first : first + many]:
            if not good or tail + 4 > length:
                good = False
                break
            start = int.from_bytes(view[at + tail : at + tail + 2], order)
            held = int.from_bytes(view[at + tail + 2 : at + tail + 4], order) & TAIL_MAX
            total += held
            good = not held or (start >= fixed and start + held <= length)
        if good and total <= MAX_FIELD_BYTES:
            continue
        if found < len(out):
            out[found] = place
        found += 1
    return found


events_unsound = native.events_unsound or events_unsound_twin
