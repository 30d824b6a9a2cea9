"""Values of fields as text for people and as JSON for programs: one converter a field, made once a schema.

The laws: an address is hexadecimal, or a symbol where the schema names it; an enum is its name, a number
where it has none; bits with an enum table are their names joined by `|`. What a field's `display` says is for
people only: such values are numbers in JSON. JSON numbers are integers only, addresses are strings (they do
not fit a double); what could not be read is null.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from kwire.view.text import ELLIPSIS, UNREAD, quoted, safe
from kwire.wire.fields import TYPES, CutBytes, CutStr, Field, UnreadBytes, UnreadStr
from kwire.wire.names import AT_FDCWD, ERRORS, FAMILIES, MAX_ERRNO, SIGNALS, WHOLE
from kwire.wire.schema import Labels, Schema

Convert: TypeAlias = Callable[[Any], str]

MAX_BYTES = 32  # of a byte string that a table shows
MAX_ITEMS = 16  # of an array that a table shows
UNITS = {"bytes": "B", "byte": "B", "count": ""}  # units with a shorter sign
_ADDRESSES = frozenset({"ptr", "ksym", "usym"})
_ENUMS = frozenset({"enum", "senum"})


def flags(value: int, table: Mapping[int, str], mask: int = 0) -> str:
    """Names of the bits set, joined by `|`, those under `mask` by one name; what has none is a number."""
    if mask == WHOLE:
        return table.get(value) or str(value)
    if value in table and not (0 in table and mask and value & ~mask):
        return table[value]
    choice, rest = value & mask, value & ~mask
    names = []
    for bits in sorted(table, reverse=True):  # names of several bits before those of one
        if bits > 0 and not bits & mask and rest & bits == bits:
            names.append(table[bits])
            rest &= ~bits
    if choice or (mask and choice in table):
        names.append(table.get(choice) or (hex(choice) if names or rest else str(choice)))
    if rest or not names:
        names.insert(0, hex(rest) if names else str(rest))
    return "|".join(reversed(names))


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


def _error(value: int) -> str:
    return f"-{ERRORS[-value]}" if -MAX_ERRNO <= value < 0 and -value in ERRORS else ""


def _address(value: int) -> str:
    return _error(value) or f"{value & WHOLE:#x}"


def _descriptor(value: int) -> str:
    low = value & 0xFFFFFFFF
    low -= (low & 0x80000000) << 1
    return "AT_FDCWD" if low == AT_FDCWD else str(low)


def _user_device(value: int) -> str:
    return f"{value >> 8 & 0xFFF}:{value & 0xFF | value >> 12 & 0xFFF00}"


_DISPLAYS: dict[str, Convert] = {
    "hex": lambda value: hex(value),
    "octal": lambda value: f"{value:#o}".replace("0o", "0") if value > 0 else str(value),
    "errno": lambda value: _error(value) or str(value),
    "address": _address,
    "fd": _descriptor,
    "dev": lambda value: f"{value >> 20}:{value & 0xFFFFF}" if value >= 0 else str(value),
    "user_dev": _user_device,
    "signal": lambda value: SIGNALS.get(value) or str(value),
    "family": lambda value: FAMILIES.get(value) or str(value),
}
"""For each display of `wire.fields.DISPLAYS` but "flags": how an integer is shown."""


def displayed(schema: Schema, field: Field) -> Convert | None:
    """The function that shows an integer as its field's `display` says; None where it says nothing."""
    if TYPES[field.type].kind != "int" or not field.display:
        return None
    if field.display == "flags":
        table, mask = schema.enums.get(field.table, {}), field.mask
        return lambda value: flags(value, table, mask)
    return _DISPLAYS.get(field.display)


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
    unit = safe(UNITS.get(field.unit, field.unit))
    display = displayed(schema, field) if name is None else None
    if display is not None:
        return lambda value: safe(display(value))
    if kind == "str":
        return _text
    if kind == "text":
        return quoted
    if kind in ("bytes", "raw"):
        return _bytes_text
    if kind == "bool":
        return lambda value: "true" if value else "false"
    if name is not None:
        return lambda value: safe(name(value)) or str(value)
    if unit and kind == "int":
        return lambda value: f"{value}{unit}"
    return str


def _text(value: str) -> str:
    if isinstance(value, UnreadStr):
        return UNREAD
    return quoted(value) + (ELLIPSIS if isinstance(value, CutStr) else "")


def _bytes_text(value: bytes) -> str:
    if isinstance(value, UnreadBytes):
        return UNREAD
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
        return lambda value: "null" if isinstance(value, UnreadBytes) else f'"{value.hex()}"'
    if kind == "str":
        return lambda value: "null" if isinstance(value, UnreadStr) else quote(value)
    if kind != "int":
        return quote
    if name is not None:
        return lambda value: quote(text) if (text := name(value)) else str(value)
    return None
