"""Rows of a query's result as text: an aligned table, JSON lines, CSV.

Invariants: a row is one line, whatever its values hold; numbers are exact; times are local, with their offset
from UTC; nothing of a value can move a terminal's cursor; what is null is empty in tables and CSV and null
in JSON, and NaN is null in JSON. Results are written batch by batch: a table takes its widths from the first
rows, later ones may be wider.
"""

import csv
import json
import math
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, Protocol

from kwire.view.text import safe

MEASURED = 1000  # rows that a table's widths are taken from
MOST = 60  # characters of a column, at most, but the last


class Out(Protocol):
    """Where text is written to."""

    def write(self, text: str, /) -> object:
        """Write text."""


def write_table(reader: Any, out: Out) -> int:
    """Write a table with a header; gives how many rows there are."""
    names = [safe(name) for name in reader.schema.names]
    right = [_is_number(kind) for kind in reader.schema.types]
    rows, first, count = _rows(reader, _same), [], 0
    for row in rows:
        first.append([_cell(value) for value in row])
        if len(first) == MEASURED:
            break
    widths = [min(MOST, max([len(name), *(len(row[at]) for row in first)])) for at, name in enumerate(names)]

    def line(cells: list[str]) -> str:
        last = len(cells) - 1
        parts = [
            cell.rjust(widths[at]) if right[at] else cell if at == last else cell.ljust(widths[at])
            for at, cell in enumerate(cells)
        ]
        return "  ".join(parts).rstrip() + "\n"

    out.write(line(names))
    for cells in first:
        out.write(line(cells))
    count = len(first)
    for row in rows:
        out.write(line([_cell(value) for value in row]))
        count += 1
    return count


def write_json(reader: Any, out: Out) -> int:
    """Write one object a row and line."""
    names, count = _distinct(reader.schema.names), 0
    for row in _rows(reader, plain):
        out.write(json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=True, allow_nan=False) + "\n")
        count += 1
    return count


def write_csv(reader: Any, out: Out) -> int:
    """Write CSV (RFC 4180, lines end with a newline only) with a header."""
    writer, count = csv.writer(out, lineterminator="\n"), 0
    writer.writerow(reader.schema.names)
    for row in _rows(reader, _csv):
        writer.writerow(row)
        count += 1
    return count


def plain(value: Any) -> Any:
    """A value as JSON can carry it."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    value = plain(value) if not isinstance(value, float) else value
    if isinstance(value, (list, dict)):
        return safe(json.dumps(value, ensure_ascii=False))
    return safe(str(value))


def _csv(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    value = plain(value)
    if value is None:  # not a number
        return ""
    return json.dumps(value) if isinstance(value, (list, dict)) else str(value)


def _rows(reader: Any, convert: Callable[[Any], Any]) -> "Iterator[tuple[Any, ...]]":
    """The rows, as Python values; `convert` makes them what is written, but for integers and texts."""
    for batch in reader:
        columns = [_values(column, convert) for column in batch.columns]
        if columns:
            yield from zip(*columns, strict=True)


def _values(column: Any, convert: Callable[[Any], Any]) -> list[Any]:
    import pyarrow as pa

    if pa.types.is_timestamp(column.type) and column.type.tz is None:
        from kwire.analyze.zone import local_text

        texts = column.cast(pa.string()).to_pylist()  # Python's own times carry no nanoseconds
        return [None if one is None else local_text(one) for one in texts]
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.string())
    values: list[Any] = column.to_pylist()
    if pa.types.is_integer(column.type) or pa.types.is_string(column.type):
        return values
    return [convert(value) for value in values]


def _same(value: Any) -> Any:
    return value


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _distinct(names: list[str]) -> list[str]:
    from kwire.analyze.tables import unique

    taken: dict[str, int] = {}
    return [unique(name, taken) for name in names]
