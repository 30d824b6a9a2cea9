"""Values of fields as text for people and as JSON for programs: one converter a field, made once a schema.

The laws: an address is hexadecimal, or a symbol where the schema names it; an enum is its name, a number
where it has none; bits with an enum table are their names joined by `|`. JSON numbers are integers only,
addresses are strings (they do not fit a double).
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from kwire.view.text import ELLIPSIS, quoted
from kwire.wire.fields import TYPES, CutBytes, CutStr, Field
from kwire.wire.schema import Labels, Schema

Convert: TypeAlias = Callable[[Any], str]

MAX_BYTES = 32  # of a byte string that a table shows
MAX_ITEMS = 16  # of an array that a table shows
UNITS = {"bytes": "B", "byte": "B", "count": ""}  # units with a shorter sign
_ADDRESSES = frozenset({"ptr", "ksym", "usym"})
_ENUMS = frozenset({"enum", "senum"})


def flags(value: int, table: Mapping[int, str]) -> str:
    """Names of the bits set, joined by `|`; what has no name is a number."""
    if value in table:
        return table[value]
    found, rest = [], value
    for bits in sorted(table, reverse=True):  # names of several bits before those of one
        if bits and rest & bits == bits:
            found.append(table[bits])
            rest &= ~bits
    if rest or not found:
        found.insert(0, hex(rest) if found else str(rest))
    return "|".join(reversed(found))


def scalar_name(schema: Schema, field: Field, labels: Labels) -> Callable[[int], str] | None:
    """The function that names an integer of this field (empty: it has no name), None where none has one."""
    if field.type in _ADDRESSES:
        return lambda value: (labels.name(field, value) if value else "") or f"{value:#x}"
    table = schema.enums.get(field.enum)
    if not table or TYPES[field.type].kind != "int":
        return None
    if field.type in _ENUMS:
        return lambda value: table.get(value, "")
    return lambda value: flags(value, table)


def text_converter(schema: Schema, field: Field, labels: Labels) -> Convert:
    """The function that turns values of a field into text for a table."""
    one = _text_scalar(schema, field, labels)
    if field.count == 1:
        return one

    def items(values: list[Any]) -> str:
        more = f",{ELLIPSIS}{len(values)}" if len(values) > MAX_ITEMS else ""
        return "[" + ",".join(map(one, values[:MAX_ITEMS])) + more + "]"

    return items


def _text_scalar(schema: Schema, field: Field, labels: Labels) -> Convert:
    name = scalar_name(schema, field, labels)
    kind = TYPES[field.type].kind
    unit = UNITS.get(field.unit, field.unit)
    if kind in ("str", "text"):
        return lambda value: quoted(value) + (ELLIPSIS if isinstance(value, CutStr) else "")
    if kind in ("bytes", "raw"):
        return _bytes_text
    if kind == "bool":
        return lambda value: "true" if value else "false"
    if name is not None:
        return lambda value: name(value) or str(value)
    if unit and kind == "int":
        return lambda value: f"{value}{unit}"
    return str


def _bytes_text(value: bytes) -> str:
    cut = len(value) > MAX_BYTES or isinstance(value, CutBytes)
    return value[:MAX_BYTES].hex() + (f"{ELLIPSIS}({len(value)} bytes)" if cut else "")


def json_converter(schema: Schema, field: Field, labels: Labels) -> Convert | None:
    """The function that turns values of a field into JSON text; None where `str` of the value is that."""
    one = _json_scalar(schema, field, labels)
    if field.count == 1:
        return one
    scalar = one or str
    return lambda values: "[" + ",".join(map(scalar, values)) + "]"


def _json_scalar(schema: Schema, field: Field, labels: Labels) -> Convert | None:
    from json.encoder import encode_basestring_ascii as quote

    name = scalar_name(schema, field, labels)
    kind = TYPES[field.type].kind
    if kind == "bool":
        return lambda value: "true" if value else "false"
    if kind in ("bytes", "raw"):
        return lambda value: f'"{value.hex()}"'
    if kind != "int":
        return quote
    if name is not None:
        return lambda value: quote(text) if (text := name(value)) else str(value)
    return None
