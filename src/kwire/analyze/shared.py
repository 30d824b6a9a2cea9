"""What all probes share: the table `events`, each event's time, place and process, whatever its probe.

Invariants: every event has a row; a column that a probe has not got is null there; fields are shared where
every table has one of that name and type.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from typing import Any, Final

from kwire.analyze import arrow
from kwire.analyze.gathering import Gathering, Pending, Shapes
from kwire.analyze.order import Run
from kwire.analyze.scan import Block
from kwire.analyze.tables import COMMON, CONTEXT, Column, Table, Tables, unique

ROWS: Final = 1 << 16  # of a batch, about


class Shared:
    """The columns of `events` for some tables: `schema` is their Arrow schema."""

    __slots__ = ("_columns", "_fill", "_known", "schema")

    def __init__(self, tables: Tables) -> None:
        pa = arrow.load()
        self._fill = arrow.Fill()
        self._known: dict[int, list[tuple[str, str, Column]]] = {}  # by the id of the table
        fields = [pa.field(name, kind) for name, kind in arrow.common_types(local=True).items()]
        fields.append(pa.field("probe", pa.string()))
        fields += [pa.field(name, pa.string() if name == "comm" else pa.int64()) for name in CONTEXT]
        taken = {field.name.casefold(): 1 for field in fields}
        self._columns: dict[str, str] = {}  # name here → name of the column in each table
        same: dict[str, Any] = {}  # columns that all tables have: name → type
        for place, table in enumerate(tables):
            names = {one.name: one for one in table.columns if not place or one.name in same}
            kinds = {name: arrow.array_type(one) for name, one in names.items()}
            same = {name: kind for name, kind in kinds.items() if not place or same[name] == kind}
            if not same:
                break
        for name, kind in same.items():
            if name.casefold() not in taken:
                self._columns[unique(name, taken)] = name
                fields.append(pa.field(name, kind))
        self.schema = pa.schema(fields)

    def batches(
        self, blocks: Iterable[tuple[Table, Block]], wanted: Container[str] | None = None
    ) -> Iterator[Any]:
        """The blocks as record batches; columns not in `wanted` are null (None: all are wanted)."""
        gathered = BatchBuilder(self, wanted)
        for table, block in blocks:
            yield from gathered.add(table, block)
        yield from gathered.rest()

    def columns_of(self, table: Table, wanted: Container[str] | None) -> list[tuple[str, Column]]:
        """The columns of a table that stand here: what has no one type in all tables, by name and type."""
        known = self._known.get(id(table))
        if known is None:
            by_name = {column.name: column for column in table.columns}
            known = []
            for field in self.schema:
                if field.name in self._columns:
                    known.append((field.name, field.name, by_name[self._columns[field.name]]))
                elif field.name in CONTEXT:
                    column = by_name.get(field.name)
                    if column is not None and _context(column, field.type):
                        known.append((field.name, f"{field.name} {arrow.array_type(column)}", column))
            self._known[id(table)] = known
        return [(name, column) for here, name, column in known if wanted is None or here in wanted]

    def batch(self, held: list[tuple[Table, Pending]], wanted: Container[str] | None) -> Any:
        """The blocks as one record batch."""
        import numpy as np

        pa, fill = arrow.load(), self._fill
        stretches = [(one, slice(0, len(one.times))) for _, one in held]
        times = [one.times for _, one in held]
        run = Run(stretches, np.concatenate(times) if len(times) > 1 else times[0], None)
        count, gathering = len(run.times), Gathering(run)
        found = gathering.columns()
        made = []
        for field in self.schema:
            if wanted is not None and field.name not in wanted:
                made.append(fill.nulls(field.type, count))
            elif field.name in ("host", "probe"):
                each = [one.block.schema.host if field.name == "host" else table.probe for table, one in held]
                made.append(self._texts(each, gathering, count))
            elif field.name in COMMON:
                made.append(arrow.clock(field, run.times))
            elif field.name in self._columns:
                made.append(found[field.name])
            else:
                same = [found[name] for name in found if name.split(" ", 1)[0] == field.name]
                made.append(_together(same, field.type) if same else fill.nulls(field.type, count))
        return pa.record_batch(made, schema=self.schema)

    def _texts(self, each: list[str], gathering: Gathering, count: int) -> Any:
        """A text column, from one text for each block."""
        pa, numbers = arrow.load(), {text: place for place, text in enumerate(dict.fromkeys(each))}
        if len(numbers) == 1:
            return self._fill.text(each[0], count)
        return pa.array(list(numbers)).take(pa.array(gathering.each([numbers[one] for one in each], "i4")))


class BatchBuilder:
    """The rows of `events` that are to be a record batch, as blocks come."""

    __slots__ = ("_events", "_held", "_shapes", "_shared", "_wanted")

    def __init__(self, shared: Shared, wanted: Container[str] | None) -> None:
        self._shared, self._wanted = shared, wanted
        self._shapes, self._held, self._events = Shapes(), list[tuple[Table, Pending]](), 0

    def add(self, table: Table, block: Block) -> Iterator[Any]:
        """Take a block; gives the batch that it does not belong to any more."""
        held = self._held
        if held and (self._events + len(block.times) > ROWS or held[0][1].round is not block.round):
            yield from self.rest()
        shape = self._shapes.of(block.schema, self._shared.columns_of(table, self._wanted))
        self._held.append((table, Pending(block, shape)))
        self._events += len(block.times)

    def rest(self) -> Iterator[Any]:
        """The last batch, if there is one."""
        held, self._held, self._events = self._held, [], 0
        if held:
            yield self._shared.batch(held, self._wanted)


def _together(columns: list[Any], kind: Any) -> Any:
    """Columns of which each row has at most one, as one column of a type."""
    from pyarrow import compute

    cast = [column.cast(kind, safe=False) for column in columns]
    return cast[0] if len(cast) == 1 else compute.coalesce(*cast)


def _context(column: Column, kind: Any) -> bool:
    """Whether the column has cpu, pid, tid or comm, as its name says."""
    return column.kind == ("text" if kind == arrow.load().string() else "int") and column.field.count == 1
