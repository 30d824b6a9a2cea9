"""The table of probes: filter names for the fields of all probes seen, in a file beside the dissector.

Invariants: a field of a probe has the filter name `kwire.TARGET.FIELD`; a name stands for one class of values
in the whole table (unsigned, address, text, …), so where captures disagree the class is added to the newer
name; within a class the widest number any capture had counts. Nothing that was in the table leaves it. A line
is: probe, field, class, bytes, filter name, 1 where values have names; tabs between.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from kwire.capture.destination import put
from kwire.errors import KwireError
from kwire.wire.fields import TYPES, Field
from kwire.wire.schema import Schema
from kwire.wireshark.dissector import ADDRESSES, MARK, dissector, filter_class

HEAD: Final = f"# kwire probes 1, {MARK} and update: kept for all probes seen\n"
MAX_ROWS: Final = 50_000
NAME_LENGTH: Final = 80

_WIDTHS: Final = (1, 2, 4, 8)


class Row(NamedTuple):
    """One field of one probe, as the dissector looks it up, and its filter name."""

    probe: str  # the probe spec up to its first parenthesis
    field: str
    class_: str
    width: int  # bytes of a number; 8 for what is none
    filter: str
    named: bool  # values can have names: there is a filter name with `.name` after it too


def rows_of(schema: Schema) -> list[Row]:
    """The fields of a schema with the names they would have in an empty table."""
    probe = schema.probe.split("(", 1)[0]
    return [_row(schema, probe, field) for field in schema.fields]


def merge(rows: Iterable[Row], schemas: Iterable[Schema]) -> list[Row]:
    """Add the fields of `schemas` to the table. KwireError where it would become too long."""
    table = {(row.probe, row.field, row.class_): row for row in rows}
    taken = {row.filter: row for row in table.values()}
    for schema in schemas:
        for new in rows_of(schema):
            key = (new.probe, new.field, new.class_)
            old = table.get(key)
            row = old or new._replace(filter=_free(new, taken))
            best = taken.get(row.filter, row)
            row = row._replace(width=max(best.width, new.width), named=best.named or new.named or row.named)
            table[key] = taken[row.filter] = row
            if len(table) > MAX_ROWS:
                raise KwireError(
                    "update",
                    "the table of probes",
                    f"it would have more than {MAX_ROWS} fields",
                    "kwire wireshark uninstall and install begins a new one",
                )
    return [
        row._replace(width=taken[row.filter].width, named=taken[row.filter].named) for row in table.values()
    ]


def read(path: Path) -> list[Row]:
    """The rows of a table; none where there is no file. Lines that are no rows are left out."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return []
    rows = []
    for line in lines:
        cells = line.split("\t")
        if line.startswith("#") or len(cells) != 6 or cells[3] not in map(str, _WIDTHS):
            continue
        rows.append(
            Row(_plain(cells[0]), _plain(cells[1]), cells[2], int(cells[3]), cells[4], cells[5] == "1")
        )
    return rows


def write(path: Path, rows: Iterable[Row]) -> None:
    """Put the table in place, whole: a Wireshark that starts now reads the old one or the new one."""
    lines = [
        "\t".join(
            (_safe(row.probe), _safe(row.field), row.class_, str(row.width), row.filter, str(int(row.named)))
        )
        for row in rows
    ]
    put(str(path), (HEAD + "".join(f"{line}\n" for line in lines)).encode(), 0o644)


def _row(schema: Schema, probe: str, field: Field) -> Row:
    class_ = filter_class(field.type)
    rule = TYPES[field.type]
    width = field.size // field.count if class_ in ("uint", "int") else 8
    shown = field.enum or field.display not in ("", "hex", "octal")
    named = rule.kind == "int" and (field.type in ADDRESSES[1:] or bool(shown))
    return Row(probe, field.name, class_, width, f"kwire.{_target(schema, probe)}.{_word(field.name)}", named)


def _target(schema: Schema, probe: str) -> str:
    """The part of a filter name that stands for the probe: its target's last part, in a legal spelling."""
    last = probe.rpartition(":")[2]
    word = _word(last)
    if not last or word[0].isdigit():
        word = _word(probe.replace(":", "_"))
    return f"{_word(schema.kind)}_{word}" if word in _own_names() else word


@cache
def _own_names() -> frozenset[str]:
    """What stands behind `kwire.` in the names that the dissector has whatever the probes."""
    return frozenset(re.findall(r'"kwire\.(\w+)', dissector()))


def _word(text: str) -> str:
    word = re.sub(r"[^A-Za-z0-9_]+", "_", text)[:NAME_LENGTH]
    return word or "x"


def _free(row: Row, taken: dict[str, Row]) -> str:
    name = row.filter
    while name in taken and taken[name].class_ != row.class_:
        name += f"_{row.class_}"
    return name


def _safe(text: str) -> str:
    """Text without tabs and line ends, for one cell."""
    return re.sub(r"[%\x00-\x1f\x7f]", lambda match: f"%{ord(match[0]):02x}", text)


def _plain(cell: str) -> str:
    return re.sub(r"%([0-9a-f]{2})", lambda match: chr(int(match[1], 16)), cell)
