"""Events as comma-separated values, RFC 4180 with lines that end with a newline only. Needs no library.

Invariants: a row is an event, in order of time; columns and values are those of the other exports of tables:
times as local time with its offset from UTC, bytes in hexadecimal, lists as JSON. Nothing between two commas
means that the probe has no such field, or could not read it; a text without a character is written as `""`.
"""

import json
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from kwire.analyze.arrow import namer
from kwire.analyze.rowlines import CELL, CUT, HEX, Line, Lines, RowPart, style_of
from kwire.analyze.scan import Block
from kwire.analyze.tables import Column, Tables
from kwire.analyze.wide import Layout
from kwire.view.render import Values
from kwire.view.text import SECOND, WallClock
from kwire.wire.fields import CUT as CUT_VALUES
from kwire.wire.fields import TYPES, UNREAD
from kwire.wire.schema import Labels, Schema

FRACTION: Final = ".000000000"  # of a second that has just begun
_SPECIAL = re.compile(r'[",\r\n]')


def write(blocks: Iterable[Block], tables: Tables, out: Any) -> None:
    """Write the events to a binary stream."""
    layout = Layout(tables)
    clock = WallClock()

    def moment(second: int) -> tuple[str, str]:
        before, point, behind = clock.moment(second * SECOND).rpartition(FRACTION)
        return before + point[:1], behind

    out.write((",".join(map(_quoted, layout.names)) + "\n").encode())
    lines = Lines(lambda schema: _line(schema, tables, layout, clock.moment), moment)
    lines.write(blocks, out)


def _line(schema: Schema, tables: Tables, layout: Layout, moment: Callable[[int], str]) -> Line:
    """The rows of events of this schema."""
    table = tables.find(schema)
    assert table is not None  # the tables are those of the capture
    fixed = {"host": _quoted(schema.host) if schema.host else "", "probe": _quoted(schema.probe)}
    places = {field.name: index for index, field in enumerate(schema.fields)}
    labels = Labels(schema)
    cells: list[str] = []
    parts = [RowPart()]
    varying: list[tuple[int, int, Callable[[Any], str]]] = []  # the cell's place, the value's, what makes it
    for name in layout.names:
        column = layout.column(table, name)
        text = fixed.get(name, "")
        if name in ("time", "time_ns"):
            parts.append(RowPart(moment=name == "time", time=name == "time_ns"))
        elif column is not None:
            text, make = "", _cell(schema, column, labels)
            varying.append((len(cells), places[column.field.name], make))
            style = CUT if column.cut else style_of(column.field, CELL, HEX)
            parts.append(RowPart(field=column.field, style=style, convert=None if make is str else make))
        cells.append(text)
        parts[-1] = parts[-1]._replace(text=f"{parts[-1].text}{text},")
    parts[-1] = parts[-1]._replace(text=parts[-1].text[:-1] + "\n")
    at_time, at_ns = layout.names.index("time"), layout.names.index("time_ns")

    def one(at: int, values: Values) -> str:
        cells[at_time], cells[at_ns] = moment(at), str(at)
        for place, index, make in varying:
            cells[place] = make(values[index])
        return ",".join(cells)

    return Line(parts, one)


def _cell(schema: Schema, column: Column, labels: Labels) -> Callable[[Any], str]:
    """The function from a decoded value to what stands in this column."""
    if column.cut:
        return lambda value: _plain(isinstance(value, CUT_VALUES))
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
