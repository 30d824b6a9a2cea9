"""Events as lines of text, many at once in C (native/rowlines.c): what a line is made of, and the lines.

Invariants: the lines are those that `Line.one` makes of each event, which is the specification; a row that is
not plain there (a text with escapes or characters of more than a byte, a value that was cut, where that is
told) is made by it, and so are all where there is no library. Memory is bounded by a run and ROOM.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kwire import native
from kwire.analyze.gathering import index_of
from kwire.analyze.order import Run, ordered, runs
from kwire.analyze.scan import Block
from kwire.native import FixedColumn, Rows, RowTexts, Written
from kwire.view.render import Values
from kwire.view.text import SECOND
from kwire.wire.fields import TYPES, Field, make_decoder
from kwire.wire.gather import rows_fixed
from kwire.wire.schema import Schema

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

INTEGER, TAIL, FIXED, BOOL, NOTHING, TIME, MOMENT, GIVEN, ODD = range(9)
"""What a part of a line begins with: the first four stand in the event; lines with the last are not plain."""

JSON, CELL, HEX, JSON_HEX, CUT = range(5)
"""How a text or bytes are written: in JSON, between two commas, as hexadecimal digits, or whether cut."""

SIGNED, SWAP = 1, 2
"""Flags of a field: whether it has a sign, whether its bytes are in another order than the machine's."""

NEED: Final = 48  # bytes that the value of a part, but for texts and bytes, may be written to
TEXT_LEAST: Final = 16  # bytes that are copied of a part's text at least, if they are not part of it
ROWS: Final = 1 << 16  # lines that are prepared together
ROOM: Final = 2 << 20  # bytes of lines made together: what the caches of a core hold
WRITTEN: Final = 1 << 20  # characters of lines that are made one by one, written at a time
REMEMBERED: Final = 1 << 12  # values of a field whose texts are remembered

Moment = Callable[[int], tuple[str, str]]  # a second since 1970: what stands before and behind its fraction


class RowPart(NamedTuple):
    """What stands in a line: the `time` in ns, a `moment`, a `field`, or none of them, and `text` behind it.

    `style`: how a field's text, bytes or mark is written; of other fields `convert` makes the text of a
    value, None: an integer as it is. `odd`: lines with this part are made one by one.
    """

    text: str = ""
    time: bool = False
    moment: bool = False
    field: Field | None = None
    style: int = JSON
    convert: Callable[[Any], str] | None = None
    odd: bool = False


class Line(NamedTuple):
    """The line of a schema's events: its `parts`, and what makes `one` of wall-clock ns and values."""

    parts: Sequence[RowPart]
    one: Callable[[int, Values], str]


class _Shape(NamedTuple):
    """What is kept of a schema."""

    schema: Schema
    number: int
    one: Callable[[int, Values], str]
    decode: Callable[[Any], Values]
    given: list["_Names"]


class _Names:
    """The texts of a field's values: each is made once, REMEMBERED of them are kept."""

    __slots__ = ("_decode", "_field", "_frame", "_known", "_text", "slot")

    def __init__(self, slot: int, schema: Schema, field: Field, text: Callable[[Any], str]) -> None:
        self.slot, self._field, self._text = slot, field, text
        self._decode = make_decoder([field], schema.size, schema.order)
        self._frame = bytearray(schema.size)
        self._known: dict[bytes, bytes] = {}

    def given(self, rows: Rows) -> RowTexts:
        """The texts of these rows, which are sound."""
        import numpy as np

        size, count = self._field.size, rows.many
        raw = np.empty(count * size, np.uint8)
        done = rows_fixed(rows, [FixedColumn(self._field.offset, size, 0, raw)])
        assert done == count  # they are as their schema says
        keys: Array
        if size <= 8:
            wide = np.zeros((count, 8), np.uint8)
            wide[:, :size] = raw.reshape(count, size)
            keys = wide.view(np.uint64).ravel()
        else:
            keys = raw.view(f"V{size}")
        distinct, numbers = np.unique(keys, return_inverse=True)
        texts = [self._of(bytes(value.tobytes()[:size])) for value in distinct]
        return _given(numbers.ravel(), texts, by_row=False)

    def _of(self, raw: bytes) -> bytes:
        known = self._known.get(raw)
        if known is None:
            at = self._field.offset
            self._frame[at : at + len(raw)] = raw
            known = self._text(self._decode(self._frame)[0]).encode()
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[raw] = known
        return known


def _given(numbers: "Array", texts: Sequence[bytes], *, by_row: bool) -> RowTexts:
    import numpy as np

    ends = np.cumsum([len(one) for one in texts]).astype(np.uint32)
    return RowTexts(np.ascontiguousarray(numbers, np.uint32), by_row, b"".join(texts), ends)


class Lines:
    """Writes events as lines; `line` tells what those of a schema are, `moment` what a second is shown as."""

    __slots__ = ("_known", "_line", "_memos", "_moment", "_parts", "_room", "_shapes", "_slots", "_texts")

    def __init__(self, line: Callable[[Schema], Line], moment: Moment | None = None) -> None:
        self._line, self._moment = line, moment
        self._known: dict[int, _Shape] = {}
        self._shapes, self._parts, self._texts = array("Q"), array("Q"), bytearray()
        self._memos = array("Q")
        self._slots = 2 if moment is not None else 0  # of what is given: the first are those of moments
        self._room = bytearray(ROOM)

    def write(self, blocks: Iterable[Block], out: Any) -> None:
        """Write the lines of all events to a binary stream, in order of time."""
        if native.rows_lines is None:
            self._one_by_one(blocks, out)
            return
        for run in runs(blocks):
            for start in range(0, len(run.times), ROWS):
                for part in self._together(run.part(start, start + ROWS)):
                    out.write(part)

    def of(self, run: Run[Block]) -> Iterator[list[str]]:
        """The lines of a run, some at a time."""
        for start in range(0, len(run.times), ROWS):
            part = run.part(start, start + ROWS)
            if native.rows_lines is None:
                of, at = part.located()
                places = zip(of.tolist(), at.tolist(), part.times.tolist(), strict=True)
                yield [self._alone(part.stretches[which][0], index, time) for which, index, time in places]
            else:
                for piece in self._together(part):  # each ends with a line
                    yield bytes(piece).decode().split("\n")[:-1]

    def _alone(self, block: Block, place: int, time: int) -> str:
        """The line of one event."""
        shape = self._shape(block.schema)
        return shape.one(time, shape.decode(block.frames.frame_bytes(place)))

    def _one_by_one(self, blocks: Iterable[Block], out: Any) -> None:
        lines: list[str] = []
        size = 0
        for block, place, time in ordered(blocks):
            lines.append(self._alone(block, place, time))
            size += len(lines[-1])
            if size > WRITTEN:
                out.write("\n".join([*lines, ""]).encode())
                lines, size = [], 0
        if lines:
            out.write("\n".join([*lines, ""]).encode())

    def _together(self, run: Run[Block]) -> Iterator[bytes | memoryview]:
        """The lines of a run, in pieces, each to be written before the next is asked for."""
        import numpy as np

        assert native.rows_lines is not None  # `write` has seen to it
        shapes = [self._shape(block.schema) for block, _ in run.stretches]
        of, rows = index_of([(block, which) for block, which in run.stretches], run.order)
        kinds = np.array([shape.number for shape in shapes], np.uint32)[of]
        places, given = self._given(rows, kinds, {shape.number: shape for shape in shapes}, run.times)
        written = Written(
            kinds,
            run.times.astype(np.int64, copy=False),
            places,
            self._shapes,
            self._parts,
            self._memos,
            self._texts + bytes(TEXT_LEAST),
            given,
        )
        count, first, room = len(of), 0, memoryview(self._room)
        ends, odd = np.empty(count, np.uint64), np.empty(count, np.uint8)
        located = None
        while first < count:
            done = native.rows_lines(rows, written, first, self._room, ends, odd)
            strange = np.flatnonzero(odd[:done]).tolist() if done else [0]
            start = 0
            for place in strange:
                stop = int(ends[place - 1]) if place else 0
                yield room[start:stop]
                start = stop
                located = located or (of.tolist(), run.located()[1].tolist())
                block, _ = run.stretches[located[0][first + place]]
                one = self._alone(block, located[1][first + place], int(run.times[first + place]))
                yield (one + "\n").encode()
            if done:
                yield room[start : int(ends[done - 1])]
            first += done or 1  # a line that finds no room at all is made by itself

    def _given(
        self, rows: Rows, kinds: "Array", shapes: dict[int, _Shape], times: "Array"
    ) -> "tuple[Array, list[RowTexts]]":
        """The place of each row among those of its shape, and what is given."""
        import numpy as np

        count = len(kinds)
        nothing = RowTexts(np.empty(0, np.uint32), False, b"", np.empty(0, np.uint32))
        given, places = [nothing] * self._slots, np.zeros(count, np.uint32)
        if self._moment is not None:
            seconds = times // np.int64(SECOND)
            begins = np.flatnonzero(seconds[1:] != seconds[:-1]) + 1  # they are in order
            numbers = np.zeros(count, np.uint32)
            numbers[begins] = 1
            texts = [self._moment(second) for second in seconds[np.r_[:1, begins]].tolist()]
            for slot in range(2):
                of_them = [pair[slot].encode() for pair in texts]
                given[slot] = _given(np.cumsum(numbers, dtype=np.uint32), of_them, by_row=True)
        for number, shape in shapes.items():
            if not shape.given:
                continue
            some = rows
            mine: slice | Array = slice(0, count)
            if len(shapes) > 1:
                mine = np.flatnonzero(kinds == number)
                some = Rows(rows.pieces, rows.of[mine], rows.at[mine], rows.ends[mine], len(mine))
            places[mine] = np.arange(some.many, dtype=np.uint32)
            for names in shape.given:
                given[names.slot] = names.given(some)
        return places, given

    def _shape(self, schema: Schema) -> _Shape:
        known = self._known.get(id(schema))
        if known is None:
            line, names = self._line(schema), list[_Names]()
            first = len(self._parts) // native.ROW_PART_WORDS
            for part in line.parts:
                text = part.text.encode()
                self._parts.extend((*self._words(schema, part, names), len(self._texts), len(text)))
                self._memos.extend([0] * native.ROW_MEMO_WORDS)
                self._texts += text
            number = len(self._shapes) // native.ROW_SHAPE_WORDS
            most = sum(NEED + len(part.text.encode()) for part in line.parts)
            self._shapes.extend((first, len(line.parts), schema.size, most))
            known = self._known[id(schema)] = _Shape(schema, number, line.one, schema.decoder(), names)
        return known

    def _words(self, schema: Schema, part: RowPart, names: list[_Names]) -> tuple[int, int, int, int, int]:
        """What stands before a part's text, as C takes it; a field of which C cannot make the text is added
        to `names`.
        """
        field = part.field
        if part.odd:
            return (ODD, 0, 0, 0, 0)
        if part.moment:
            return (MOMENT, 0, 0, 0, 0)
        if field is None:
            return (TIME if part.time else NOTHING, 0, 0, 0, 0)
        rule, swap = TYPES[field.type], SWAP * (schema.order != native.ORDER)
        place = (field.offset, field.size)
        if rule.tail:
            return (TAIL, *place, part.style, swap)
        if field.count == 1 and rule.kind in ("text", "raw"):
            return (FIXED, *place, part.style, swap)
        if field.count == 1 and rule.kind == "bool":
            return (BOOL, *place, 0, 0)
        if field.count == 1 and rule.kind == "int" and part.convert is None:
            return (INTEGER, *place, 0, swap | SIGNED * rule.signed)
        names.append(_Names(self._slots, schema, field, part.convert or str))
        self._slots += 1
        return (GIVEN, names[-1].slot, 0, 0, 0)


def style_of(field: Field, text: int, octets: int) -> int:
    """How a field is written: texts and bytes in these styles."""
    return octets if TYPES[field.type].kind in ("bytes", "raw") else text
