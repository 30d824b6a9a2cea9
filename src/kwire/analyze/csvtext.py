"""Events as comma-separated values, RFC 4180 with lines that end with a newline only. Needs no library.

Invariants: a row is an event, in order of time; columns and values are those of the other exports of tables:
times as local time with its offset from UTC, bytes in hexadecimal, lists as JSON. Nothing between two commas
means that the probe has no such field, or could not read it; a text without a character is written as `""`.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from kwire.analyze.arrow import namer
from kwire.analyze.order import ordered
from kwire.analyze.scan import Block
from kwire.analyze.tables import Column, Tables
from kwire.analyze.wide import Layout
from kwire.view.text import WallClock
from kwire.wire.fields import CUT, TYPES, UNREAD
from kwire.wire.schema import Labels, Schema, Value

WRITTEN: Final = 1 << 20  # characters written at a time
_SPECIAL = re.compile(r'[",\r\n]')

Row = Callable[[int, Sequence[Value]], str]


def write(blocks: Iterable[Block], tables: Tables, out: Any) -> None:
    """Write the events to a binary stream."""
    layout = Layout(tables)
    makers: dict[int, tuple[Schema, Callable[..., Any], Row]] = {}
    lines = [",".join(map(_quoted, layout.names))]
    size, moment = 0, WallClock().moment
    for block, index, at in ordered(blocks):
        made = makers.get(id(block.schema))
        if made is None:
            schema = block.schema
            made = makers[id(schema)] = (schema, schema.decoder(), _row(schema, tables, layout, moment))
        lines.append(made[2](at, made[1](block.frames.frame_bytes(index))))
        size += len(lines[-1])
        if size > WRITTEN:
            out.write("\n".join([*lines, ""]).encode())
            lines, size = [], 0
    if lines:
        out.write("\n".join([*lines, ""]).encode())


def _row(schema: Schema, tables: Tables, layout: Layout, moment: Callable[[int], str]) -> Row:
    """The function from (wall-clock ns, the decoded values) to the row of an event of this schema."""
    table = tables.find(schema)
    assert table is not None  # the tables are those of the capture
    fixed = {"host": _quoted(schema.host) if schema.host else "", "probe": _quoted(schema.probe)}
    places = {field.name: index for index, field in enumerate(schema.fields)}
    labels = Labels(schema)
    cells: list[str] = []
    varying: list[tuple[int, int, Callable[[Any], str]]] = []  # the cell's place, the value's, what makes it
    for name in layout.names:
        column = layout.column(table, name)
        if column is not None:
            varying.append((len(cells), places[column.field.name], _cell(schema, column, labels)))
        cells.append(fixed.get(name, "") if column is None else "")
    at_time, at_ns = layout.names.index("time"), layout.names.index("time_ns")

    def row(at: int, values: Sequence[Value]) -> str:
        cells[at_time], cells[at_ns] = moment(at), str(at)
        for place, index, make in varying:
            cells[place] = make(values[index])
        return ",".join(cells)

    return row


def _cell(schema: Schema, column: Column, labels: Labels) -> Callable[[Any], str]:
    """The function from a decoded value to what stands in this column."""
    if column.cut:
        return lambda value: _plain(isinstance(value, CUT))
    one: Callable[[Any], Any] = _same
    if column.named and not column.raw:
        one = namer(schema, column.field, labels)
    elif column.kind == "bytes":
        one = bytes.hex
    if column.field.count > 1:
        return lambda values: _quoted(json.dumps([one(value) for value in values]))
    if TYPES[column.field.type].tail:
        return lambda value: "" if isinstance(value, UNREAD) else _quoted(one(value))
    if one is not _same:
        return lambda value: _quoted(one(value))
    return str if column.kind == "int" else _quoted if column.kind == "text" else _plain


def _same(value: Any) -> Any:
    return value


def _plain(value: bool) -> str:
    return "true" if value else "false"


def _quoted(text: str) -> str:
    if text and _SPECIAL.search(text) is None:
        return text
    return '"' + text.replace('"', '""') + '"'
