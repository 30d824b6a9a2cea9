"""Columns of many blocks together, as Arrow: the rows of a run, a column of all at a time.

Invariants: the values are those of `arrow.Values`, block by block, and what that refuses is refused; what one
walk cannot read (names, arrays, addresses) is made there. What a column costs is its rows, however many
blocks these come from.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kwire.analyze import arrow
from kwire.analyze.order import Run
from kwire.analyze.scan import Block
from kwire.analyze.tables import Column
from kwire.capture.reader import groups
from kwire.native import FixedColumn, Rows, TextField
from kwire.wire.fields import TYPES, letter
from kwire.wire.gather import FIXED, RAW, TAIL, rows_fixed, rows_located, rows_packed
from kwire.wire.schema import Schema

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

Named = Sequence[tuple[str, Column]]  # columns by the names under which they stand in a table
_CUT: Final = "cut"  # what a plan gives: whether values were cut …
_NUMBER, _BOOL, _TEXT, _BYTES = "number", "bool", "text", "bytes"  # … or the values, as one of these


class ColumnPlan(NamedTuple):
    """How a column is read from the frames of its schema; equal plans of several schemas are one reading."""

    what: str
    letter: str = ""  # of a number: its type
    each: int = 0  # of a number: bytes that are turned, 0: none
    at: int = 0
    width: int = 0
    field: TextField | None = None


def plan_of(schema: Schema, column: Column) -> ColumnPlan | None:
    """How a column is read; None where `arrow.Values` has to make it."""
    from kwire.native import ORDER

    field, swap = column.field, schema.order != ORDER
    rule = TYPES[field.type]
    if field.count > 1 or (column.named and not column.raw):
        return None
    if rule.tail:
        what = _CUT if column.cut else _TEXT if rule.kind == "str" else _BYTES
        return ColumnPlan(what, field=TextField(field.offset, TAIL, 0, swap, schema.size, 0))
    if rule.kind in ("text", "raw"):
        kind = FIXED if rule.kind == "text" else RAW
        found = TextField(field.offset, kind, field.size, swap, schema.size, 0)
        return ColumnPlan(_TEXT if rule.kind == "text" else _BYTES, field=found)
    if rule.kind == "int":
        return ColumnPlan(_NUMBER, letter(field), field.size if swap else 0, field.offset, field.size)
    if rule.kind == "bool":
        return ColumnPlan(_BOOL, f"u{field.size}", 0, field.offset, field.size)
    return None


class Pending:
    """A block in a run whose columns are made later; `shape` tells how: see `Shapes`."""

    __slots__ = ("_made", "block", "shape")

    def __init__(self, block: Block, shape: "Shape") -> None:
        self.block, self.shape = block, shape
        self._made: dict[str, Any] | None = None

    @property
    def times(self) -> "Array":
        """Wall-clock ns."""
        return self.block.times

    @property
    def round(self) -> object:
        """As of its block."""
        return self.block.round

    def kept(self) -> tuple[object, int]:
        """What it keeps in memory, and how many bytes that is."""
        return self.block.kept()

    def alone(self, which: "slice | Array") -> "Pending":
        """These events, in memory of their own."""
        import numpy as np

        if isinstance(which, slice):
            which = np.arange(which.start, which.stop)
        return Pending(self.block.alone(which), self.shape)

    def made(self, name: str, column: Column) -> Any:
        """A column of all its events, made by itself."""
        if self._made is None:
            self._made = {}
        if name not in self._made:
            self._made[name] = arrow.Values(self.block).column(column)
        return self._made[name]


class Shape(NamedTuple):
    """What is read together, and what block by block, of events of some schemas."""

    together: tuple[tuple[str, ColumnPlan], ...]
    apart: tuple[tuple[str, Column], ...]
    number: int


class Shapes:
    """The shapes of the schemas that come; what is read alike has one number."""

    __slots__ = ("_known", "_numbers")

    def __init__(self) -> None:
        self._known: dict[int, tuple[Schema, Shape]] = {}
        self._numbers: dict[tuple[tuple[str, ColumnPlan], ...], int] = {}

    def of(self, schema: Schema, columns: Named) -> Shape:
        """The shape of a schema, whose columns are always the same ones."""
        known = self._known.get(id(schema))
        if known is None:
            plans = [(name, column, plan_of(schema, column)) for name, column in columns]
            together = tuple((name, plan) for name, _, plan in plans if plan is not None)
            apart = tuple((name, column) for name, column, plan in plans if plan is None)
            number = self._numbers.setdefault(together, len(self._numbers))
            known = self._known[id(schema)] = (schema, Shape(together, apart, number))
        return known[1]


def index_of(
    stretches: Sequence[tuple[Block, "slice | Array"]], order: "Array | None"
) -> "tuple[Array, Rows]":
    """The events of stretches as rows, in turn or in this order: the stretch of each (u32), and they."""
    import numpy as np

    pieces: dict[int, int] = {}
    views: list[memoryview] = []
    numbers, starts, ends = [], [], []
    for block, which in stretches:
        frames = block.frames
        if id(frames.data) not in pieces:
            pieces[id(frames.data)] = len(views)
            views.append(frames.view)
        numbers.append(pieces[id(frames.data)])
        if block.ends is None:
            columns = block.columns()
            first, last = columns.starts, columns.ends
        else:
            first, last = np.asarray(frames.offsets)[: len(block.times)], block.ends
        starts.append(first[which])
        ends.append(last[which])
    counts = [len(one) for one in starts]
    of = np.repeat(np.arange(len(counts), dtype=np.uint32), counts)
    at, stop = (np.concatenate(parts) if len(parts) > 1 else parts[0] for parts in (starts, ends))
    if order is not None:
        of, at, stop = of[order], at[order], stop[order]
    piece = np.repeat(np.array(numbers, np.uint32), counts)
    piece = piece if order is None or len(views) == 1 else piece[order]
    at, stop = np.ascontiguousarray(at, np.uint64), np.ascontiguousarray(stop, np.uint32)
    return of, Rows(views, piece, at, stop, len(of))


class Gathering:
    """The events of a run as rows: `of` (the stretch that each is of), then columns by their names."""

    __slots__ = ("_run", "of", "rows")

    def __init__(self, run: Run[Pending]) -> None:
        self._run = run
        stretches = [(one.block, which) for one, which in run.stretches]
        self.of, self.rows = index_of(stretches, run.order)

    def each(self, values: Sequence[Any], kind: Any) -> "Array":
        """A number for each row, from one for each stretch."""
        import numpy as np

        if len(set(values)) == 1:
            return np.full(len(self.of), values[0], kind)
        found: Array = np.array(values, kind)[self.of]
        return found

    def columns(self) -> dict[str, Any]:
        """All columns that any event has, as Arrow arrays of all rows; null where an event has it not."""
        import numpy as np

        count = len(self.of)
        shapes = {one.shape.number: one.shape for one, _ in self._run.stretches}
        parts: dict[str, list[tuple[Any, Any]]] = {}  # name → where its values stand, and they themselves
        for number, shape in shapes.items():
            places: slice | Array = slice(0, count)
            rows = self.rows
            if len(shapes) > 1:
                mine = [one.shape.number == number for one, _ in self._run.stretches]
                places = np.flatnonzero(self.each(mine, bool))
                rows = Rows(rows.pieces, rows.of[places], rows.at[places], rows.ends[places], len(places))
            for name, values in self._together(rows, shape):
                parts.setdefault(name, []).append((places, values))
        if any(one.shape.apart for one, _ in self._run.stretches):
            for one, which, places in self._stood():
                for name, column in one.shape.apart:
                    values = _taken(one.made(name, column), which)
                    parts.setdefault(name, []).append((places, values))
        return {name: _placed(found, count) for name, found in parts.items()}

    def _together(self, rows: Rows, shape: Shape) -> Iterator[tuple[str, Any]]:
        """The columns of rows of one shape that are read at once."""
        import numpy as np

        pa, count = arrow.load(), rows.many
        fixed = [(name, plan) for name, plan in shape.together if plan.field is None]
        wanted = [
            FixedColumn(plan.at, plan.width, plan.each, np.empty(count * plan.width, np.uint8))
            for _, plan in fixed
        ]
        if wanted and rows_fixed(rows, wanted) < count:
            self._refuse()
        for (name, plan), column in zip(fixed, wanted, strict=True):
            values = column.out.view(plan.letter)
            yield name, pa.array(values != 0 if plan.what == _BOOL else values)
        located: dict[TextField, tuple[Array, Array, Array, Array, int]] = {}
        for name, plan in shape.together:
            if plan.field is None:
                continue
            if plan.field not in located:
                places, lengths = np.empty(count, np.uint32), np.empty(count, np.uint32)
                make = np.empty if plan.field.kind == TAIL else np.zeros
                cut, unread = make(count, np.uint8), make(count, np.uint8)
                done, total = rows_located(rows, plan.field, places, lengths, cut, unread)
                if done < count:
                    self._refuse()
                located[plan.field] = (places, lengths, cut, unread, total)
            places, lengths, cut, unread, total = located[plan.field]
            if plan.what == _CUT:
                yield name, pa.array(cut.view(np.bool_))
                continue
            packed, ends = np.empty(total, np.uint8), np.empty(count + 1, np.uint32)
            done, told = rows_packed(rows, places, lengths, packed, ends)
            assert done == count  # a run is far less than 31 bits tell
            none = unread.view(np.bool_)
            yield name, arrow.packed_values(packed, ends, told, is_text=plan.what == _TEXT, none=none)

    def _refuse(self) -> None:
        """Some event is not as its schema says: raise what its block raises."""
        for one, _ in self._run.stretches:
            columns = one.block._replace(ends=None).columns()
            for field in one.block.schema.fields:
                columns.column(field)
        raise AssertionError("an event is sound by itself, and not in a row")

    def _stood(self) -> Iterator[tuple[Pending, Any, Any]]:
        """Each block with those of its events that are in the run, and where these stand there."""
        run = self._run
        if run.order is None:
            first = 0
            for one, which in run.stretches:
                last = first + (which.stop - which.start if isinstance(which, slice) else len(which))
                yield one, which, slice(first, last)
                first = last
            return
        of, at = run.located()
        for which, places in groups(of):
            yield run.stretches[which][0], at[places], places


def _taken(values: Any, which: "slice | Array") -> Any:
    """The values of these events."""
    if isinstance(which, slice):
        return values.slice(which.start, which.stop - which.start)
    return values.take(arrow.load().array(which))


def _placed(parts: list[tuple[Any, Any]], count: int) -> Any:
    """Values in the rows where they stand; null in the others."""
    import numpy as np

    pa = arrow.load()
    values = pa.concat_arrays([values for _, values in parts]) if len(parts) > 1 else parts[0][1]
    if len(values) == count and all(isinstance(places, slice) for places, _ in parts):
        return values
    where = np.full(count, -1, np.int64)
    first = 0
    for places, some in parts:
        where[places] = np.arange(first, first + len(some))
        first += len(some)
    return values.take(pa.array(where, mask=where < 0))
