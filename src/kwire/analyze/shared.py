"""What all probes share: the table `events`, each event's time, place and process, whatever its probe.

Invariants: every event has a row; a column that a probe has not got is null there; fields are shared where
every table has one of that name and type.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from kwire.analyze import arrow
from kwire.analyze.scan import Block
from kwire.analyze.tables import COMMON, CONTEXT, Column, Table, Tables, unique


class Shared:
    """The columns of `events` for some tables: `schema` is their Arrow schema."""

    __slots__ = ("_columns", "_fill", "schema")

    def __init__(self, tables: Tables) -> None:
        pa = arrow.load()
        self._fill = arrow.Fill()
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

    def batch(self, table: Table, block: Block, wanted: Container[str] | None = None) -> Any:
        """The block as a record batch; columns not in `wanted` are null (None: all are wanted)."""
        pa = arrow.load()
        count, fill, values = len(block.times), self._fill, arrow.Values(block)
        by_name = {column.name: column for column in table.columns}
        made = []
        for field in self.schema:
            if wanted is not None and field.name not in wanted:
                made.append(fill.nulls(field.type, count))
            elif field.name in COMMON:
                made.append(arrow.common(field, block, fill))
            elif field.name == "probe":
                made.append(fill.text(table.probe, count))
            elif field.name in self._columns:
                made.append(values.column(by_name[self._columns[field.name]]))
            else:
                column = by_name.get(field.name)
                if column is None or not _context(column, field.type):
                    made.append(fill.nulls(field.type, count))
                else:
                    made.append(values.column(column).cast(field.type, safe=False))
        return pa.record_batch(made, schema=self.schema)


def _context(column: Column, kind: Any) -> bool:
    """Whether the column has cpu, pid, tid or comm, as its name says."""
    return column.kind == ("text" if kind == arrow.load().string() else "int") and column.field.count == 1
