"""Values of fields as text for people and as JSON for programs: one converter a field, made once a schema.

Invariants: an address is hexadecimal, or a symbol where the schema names it; an enum is its name, a number
where it has none; bits with an enum table are their names joined by `|`. What a field's `display` says is for
people only: such values are numbers in JSON. JSON numbers are integers only, addresses are strings (they do
not fit a double); what could not be read is null.
"""

import time as system_time
from collections.abc import Callable, Mapping, Sequence

from kwire.hints import Any, TypeAlias
from kwire.view.stacks import short
from kwire.view.text import ELLIPSIS, UNREAD, quoted, safe
from kwire.wire.fields import REMEMBERED, SHORT, TIMES, TYPES, CutBytes, CutStr, Field, UnreadBytes, UnreadStr
from kwire.wire.names import AT_FDCWD, ERRORS, FAMILIES, MAX_ERRNO, RETURN_ADDRESSES, SIGNALS, WHOLE
from kwire.wire.schema import Clock, Labels, Schema
from kwire.words import plural

Convert: TypeAlias = Callable[[Any], str]

MAX_BYTES = 32  # of a byte string that a table shows
MEMORY = 4096  # values of flags whose names are remembered
MAX_ITEMS = 16  # of an array that a table shows
UNITS = {"bytes": "B", "byte": "B", "count": ""}  # units with a shorter sign
_ADDRESSES = frozenset({"ptr", "ksym", "usym"})
_ENUMS = frozenset({"enum", "senum"})


def flags(table: Mapping[int, str], mask: int = 0) -> Convert:
    """The function that gives the names of the bits set, joined by `|` in the order of the table, those under
    `mask` by one name; bits without one in hexadecimal. Of names that overlap, that of more bits goes first.
    """
    order = list(table)
    widest = sorted(
        (bits for bits in order if bits > 0 and not bits & mask), key=lambda bits: -bits.bit_count()
    )
    known: dict[int, str] = {}

    def named(value: int) -> str:
        if value in table and not (0 in table and mask and value & ~mask):
            return table[value]
        choice, rest = value & mask, value & ~mask
        found = []
        for bits in widest:
            if rest & bits == bits:
                found.append(bits)
                rest &= ~bits
        names = [table[bits] for bits in sorted(found, key=order.index)]
        if choice or (mask and choice in table):
            names.insert(0, table.get(choice) or (hex(choice) if names or rest else str(choice)))
        if rest or not names:
            names.append(hex(rest) if names or rest > 0 else str(rest))
        return "|".join(names)

    def name(value: int) -> str:
        text = known.get(value)
        if text is None:
            text = named(value)
            if len(known) < MEMORY:
                known[value] = text
        return text

    return (lambda value: table.get(value) or str(value)) if mask == WHOLE else name


def bare(name: str) -> str:
    """The name of what is at an address, without how far behind its beginning that is: as scripts show it."""
    head, plus, _ = name.rpartition("+0x")
    return head if plus else name


def scalar_name(schema: Schema, field: Field, labels: Labels) -> Callable[[int], str] | None:
    """The function that names an integer of this field (empty: it has no name), None where none has one."""
    if field.type in _ADDRESSES:
        return lambda value: (labels.name(field, value) if value else "") or f"{value:#x}"
    if field.type == "stack":
        return lambda value: short(labels.stack(value), field.display)
    table = schema.enums.get(field.enum)
    if not table or TYPES[field.type].kind != "int":
        return None
    if field.type in _ENUMS:
        return lambda value: table.get(value, "")
    return flags(table)


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
        return flags(schema.enums.get(field.table, {}), field.mask)
    if field.display.startswith(TIMES):
        return moment(field.display, schema.clock)
    return _DISPLAYS.get(field.display)


def moment(display: str, clock: Clock | None) -> Convert:
    """The function that shows a time of a clock as a display says; as a number without a clock."""
    if clock is None:
        return str
    format = display.removeprefix(TIMES)
    return lambda value: strftime(format, clock.at(value))


def strftime(format: str, time: int) -> str:
    """A wall-clock time in ns in a format of strftime, local time; `%f` is its microseconds."""
    second, rest = divmod(time, 1_000_000_000)
    if "%f" in format:
        parts = format.split("%%")
        format = "%%".join(part.replace("%f", f"{rest // 1000:06d}") for part in parts)
    try:
        return system_time.strftime(format, system_time.localtime(second))
    except (OverflowError, ValueError, OSError):
        return str(second)


def result_of_call(schema: Schema) -> tuple[int, Callable[[Sequence[Any]], str]] | None:
    """Of `raw_syscalls:sys_exit`: where among the values its result is, and the function that shows it as its
    system call's, an address where that returns one; None where there is no result.
    """
    places = {field.name: index for index, field in enumerate(schema.fields)}
    result, call = places.get("ret", -1), places.get("id", -1)
    if schema.target != "raw_syscalls:sys_exit" or result < 0 or call < 0:
        return None
    field, table = schema.fields[result], schema.enums.get(schema.fields[call].table, {})
    addresses = {number for number, name in table.items() if name in RETURN_ADDRESSES}
    if field.display != "errno" or field.count > 1 or not addresses:
        return None
    plain = _DISPLAYS["errno"]
    return result, lambda values: (_address if values[call] in addresses else plain)(values[result])


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
    if kind in ("str", "text"):
        return _text
    if kind in ("bytes", "raw"):
        return _bytes_text
    if kind == "bool":
        return lambda value: "true" if value else "false"
    if name is not None:
        return lambda value: safe(name(value)) or str(value)
    if unit and kind == "int":
        return lambda value: f"{value}{unit}"
    return str


_QUOTED: dict[str, str] = {}  # short texts and how they are shown: names come again and again


def _text(value: str) -> str:
    if value.__class__ is str:  # as nearly all are
        return _QUOTED.get(value) or _quoted(value)
    if isinstance(value, UnreadStr):
        return UNREAD
    return quoted(value) + (ELLIPSIS if isinstance(value, CutStr) else "")


def _quoted(value: str) -> str:
    shown = quoted(value)
    if len(value) <= SHORT:
        if len(_QUOTED) >= REMEMBERED:
            _QUOTED.clear()
        _QUOTED[value] = shown
    return shown


def _bytes_text(value: bytes) -> str:
    if isinstance(value, UnreadBytes):
        return UNREAD
    cut = len(value) > MAX_BYTES or isinstance(value, CutBytes)
    return value[:MAX_BYTES].hex() + (f"{ELLIPSIS}({plural(len(value), 'byte')})" if cut else "")


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
