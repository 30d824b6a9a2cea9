"""Fields: the types a record's fields can have, and the decoder that reads a record into Python values.

Invariants: a field's offset counts from the start of the frame; fixed fields lie in the fixed part, in the
byte order of the schema; a tail field's fixed part is (offset u16, length u16), this offset too counted from
the start of the frame, bit 15 of the length set where the value was cut at the field's limit, and with no
bytes where it could not be read. A record that is shorter than its schema, or points outside itself, is a
FrameError BAD_PAYLOAD; its offset is in the frame.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence

from kwire.hints import TypeAlias
from kwire.lazy import NamedTuple
from kwire.wire.frame import HEADER_SIZE, MAX_EVENT, Bytes, Flag, FrameError, bad_payload

TIMESTAMP_AT = 8  # of an EVENT frame: u64, nanoseconds of the schema's clock
FIELDS_AT = 16  # the first byte that fields may use
EVENT_LEAST = FIELDS_AT  # bytes of an EVENT with a timestamp
COMM_MOST = 15  # bytes of a thread's name as the kernel keeps it
TAIL_CUT = 0x8000  # bit of a tail reference's length; alone: the value could not be read
TAIL_MAX = 0x7FFF  # longest value a tail reference can tell
MAX_FIELD_BYTES = 4 * MAX_EVENT  # bytes of all fields of a record together, and of all values of its tail
SHORT = 64  # bytes, or characters, of a text that is remembered with what it becomes …
REMEMBERED = 1024  # … and how many of them

Scalar: TypeAlias = "int | bool | str | bytes"
Value: TypeAlias = "Scalar | list[Scalar]"


class FieldType(NamedTuple):
    """What a type name means. `code` is the struct letter, or per size a letter, or a run of bytes."""

    sizes: tuple[int, ...]  # the sizes an element can have; empty: any
    kind: str  # int, bool, text, raw, ipv4, ipv6, mac, str, bytes: how its bytes become a value
    signed: bool
    meaning: str

    @property
    def tail(self) -> bool:
        """Whether the value lies in the tail."""
        return self.kind in ("str", "bytes")


TYPES: dict[str, FieldType] = {
    "u8": FieldType((1,), "int", False, "unsigned integer"),
    "u16": FieldType((2,), "int", False, "unsigned integer"),
    "u32": FieldType((4,), "int", False, "unsigned integer"),
    "u64": FieldType((8,), "int", False, "unsigned integer"),
    "s8": FieldType((1,), "int", True, "signed integer"),
    "s16": FieldType((2,), "int", True, "signed integer"),
    "s32": FieldType((4,), "int", True, "signed integer"),
    "s64": FieldType((8,), "int", True, "signed integer"),
    "bool": FieldType((1, 2, 4, 8), "bool", False, "false where all bytes are 0"),
    "ptr": FieldType((4, 8), "int", False, "address, a plain number"),
    "ksym": FieldType((4, 8), "int", False, "address in the kernel, named by tables of stacks or of symbols"),
    "usym": FieldType((4, 8), "int", False, "address in the process, named by the symbol table"),
    "stack": FieldType((8,), "int", False, "number of a stack, told by tables of stacks; 0: of none"),
    "enum": FieldType((1, 2, 4, 8), "int", False, "unsigned integer, named by an enum table"),
    "senum": FieldType((1, 2, 4, 8), "int", True, "signed integer, named by an enum table"),
    "ipv4": FieldType((4,), "ipv4", False, "IPv4 address, as on the network"),
    "ipv6": FieldType((16,), "ipv6", False, "IPv6 address, as on the network"),
    "mac": FieldType((6,), "mac", False, "Ethernet address, as on the network"),
    "text": FieldType((), "text", False, "text up to the first NUL, or the whole size"),
    "raw": FieldType((), "raw", False, "bytes of a fixed number, such as a copied struct"),
    "str": FieldType((4,), "str", False, "reference to text in the tail, without NUL"),
    "bytes": FieldType((4,), "bytes", False, "reference to bytes in the tail"),
}

DISPLAYS: dict[str, str] = {
    "hex": "hexadecimal",
    "octal": "octal, as permissions are written",
    "errno": "a number from -1 to -4095 is an error, by its name: -ENOENT",
    "address": "hexadecimal; a number from -1 to -4095 is an error",
    "fd": "-100 in the low 32 bits is AT_FDCWD; they are a signed number",
    "dev": "a device as the kernel keeps it: major number in the upper bits from 20, minor in the lower 20",
    "user_dev": "a device as system calls take it: minor in bits 0 to 7 and 20 to 31, major in bits 8 to 19",
    "signal": "a signal, by its name",
    "family": "an address family, by its name: AF_INET",
    "strftime FORMAT": "ns of the events' clock as local wall-clock time, in a format of strftime, and %f",
    "flags": "names from `table`, in its order: of the bits under `mask` as one, of each other bit; hex",
}
"""How an integer can be shown to people. What a reader does not know is shown as a plain number."""

TIMES = "strftime "
"""What the display of a time begins with; its format follows."""

_LETTERS = {1: "B", 2: "H", 4: "I", 8: "Q"}


class Field(NamedTuple):
    """One value of a record: `size` bytes of the fixed part at `offset` from the start of the frame."""

    name: str
    type: str
    offset: int
    size: int
    unit: str = ""
    meaning: str = ""
    # more than 1: an array of `count` elements of size // count bytes
    count: int = 1  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    enum: str = ""  # name of a table in Schema.enums, for enum types and integers that are flags
    limit: int = 0  # of tail fields: the declared greatest length in bytes
    display: str = ""  # how people read an integer: one of DISPLAYS; the value stays a number everywhere else
    table: str = ""  # for display "flags": name of a table in Schema.enums
    mask: int = 0  # for display "flags": the bits that are one number with one name


class CutStr(str):
    """Text that was cut at its field's limit."""

    __slots__ = ()


class CutBytes(bytes):
    """Bytes that were cut at their field's limit."""

    __slots__ = ()


CUT = (CutStr, CutBytes)
"""The types of values that were cut, for isinstance."""


class UnreadStr(str):
    """In the place of a text that the program could not read: empty, and no text."""

    __slots__ = ()


class UnreadBytes(bytes):
    """In the place of bytes that the program could not read: none."""

    __slots__ = ()


UNREAD = (UnreadStr, UnreadBytes)
"""The types of values that could not be read, for isinstance."""

Decoder: TypeAlias = Callable[[Bytes], "tuple[Value, ...]"]


def field_problem(field: Field, size: int) -> str:
    """What is wrong with `field` in a schema whose fixed part ends at `size`; empty where nothing is."""
    rule = TYPES.get(field.type)
    if not field.name:
        return "it has no name"
    if rule is None:
        return f"type {field.type!r} is unknown"
    if field.count < 1 or field.size < 1 or field.size % field.count:
        return f"{field.size} bytes do not hold {field.count} equal elements"
    if rule.tail and field.count != 1:
        return f"type {field.type} cannot be an array"
    if rule.sizes and field.size // field.count not in rule.sizes:
        return f"type {field.type} cannot have {field.size // field.count} bytes"
    if field.offset < FIELDS_AT or field.offset + field.size > size:
        return f"bytes {field.offset} to {field.offset + field.size} are outside {FIELDS_AT} to {size}"
    if not 0 <= field.limit <= TAIL_MAX:
        return f"limit {field.limit} is not 0 to {TAIL_MAX}"
    return ""


def payload_end(frame: Bytes) -> int:
    """Where the payload of this one frame ends, its checksum and padding left out."""
    flags = frame[1]
    if not flags & Flag.CHECKSUM:
        return len(frame)
    return max(len(frame) - (3 if flags & Flag.PADDED else 2), HEADER_SIZE)


def check_timestamp(end: int, base: int = 0) -> None:
    """FrameError BAD_PAYLOAD where the record of an EVENT frame at `base` ends before its timestamp does.

    `end`: where it ends, counted in the frame.
    """
    if end < FIELDS_AT:
        raise bad_payload(
            base + end,
            f"a record that ends at {end}",
            f"a timestamp at {TIMESTAMP_AT} to {FIELDS_AT}",
            "EVENT",
        )


def may_be_cut(field: Field) -> bool:
    """Whether values of the field can be cut at its limit: those in the tail, but the kernel's own comm."""
    return TYPES[field.type].tail and (field.name, field.limit) != ("comm", COMM_MOST)


def letter(field: Field) -> str:
    """The struct letter of one element of an integer field."""
    code = _LETTERS[field.size // field.count]
    return code.lower() if TYPES[field.type].signed else code


def make_decoder(fields: Sequence[Field], size: int, order: str) -> Decoder:
    """Make a function that turns the bytes of one EVENT frame into a tuple of values, in the fields' order.

    The fields must be sound (field_problem). One struct reads all fields that do not overlap; what needs more
    than that is converted by the functions below. The function is put together as source, as namedtuple is,
    from numbers and from names of this module only: it is about three times as fast as a loop over fields.
    """
    sign = "<" if order == "little" else ">"
    scope: dict[str, object] = {"errors": (struct.error, IndexError), "short": _short, "whole": payload_end}
    lines = ["def decode(frame):", " try:", "  if frame[1]: frame = frame[:whole(frame)]"]
    items: dict[int, str] = {}  # index of the field → the expression of its struct items
    lengths: dict[int, str] = {}  # index of a tail field → that of its length, with the cut bit
    for number, layer in enumerate(_layers(fields)):
        pattern, at, first = sign, 0, 0
        for index in layer:
            field = fields[index]
            codes, width = _codes(field)
            pattern += f"{field.offset - at}x{codes}"
            at = field.offset + field.size
            items[index] = f"t{number}[{first}]" if width == 1 else f"t{number}[{first}:{first + width}]"
            if TYPES[field.type].tail:
                lengths[index] = f"t{number}[{first + 1}]"
            first += width
        pattern += f"{size - at}x"
        scope[f"unpack{number}"] = struct.Struct(pattern).unpack_from
        lines.append(f"  t{number} = unpack{number}(frame)")
    lines.append(f" except errors: raise short(frame, {size}) from None")
    if crowds(fields):
        tails = [(fields[index].offset, lengths[index]) for index in sorted(lengths)]
        total = " + ".join(f"({length} & {TAIL_MAX})" for _, length in tails)
        told = "".join(f"({at}, {length}), " for at, length in tails)
        lines.append(f" if {total} > {MAX_FIELD_BYTES}: raise crowded(({told}))")
        scope["crowded"] = crowded
    values = (_expression(field, items[index], size, scope) for index, field in enumerate(fields))
    lines.append(f" return ({''.join(f'{value}, ' for value in values)})")
    exec("\n".join(lines), scope)
    return scope["decode"]  # type: ignore[return-value]  # made by the line above


def crowds(fields: Sequence[Field]) -> bool:
    """Whether there are so many tail fields that their values can have more than MAX_FIELD_BYTES."""
    return sum(TYPES[field.type].tail for field in fields) * TAIL_MAX > MAX_FIELD_BYTES


def crowded(references: Iterable[tuple[int, int]]) -> FrameError:
    """The error of a record whose tail fields, as (offset, length) in their order, have too many bytes."""
    at = total = 0
    for place, length in references:
        at, total = place, total + (length & TAIL_MAX)
        if total > MAX_FIELD_BYTES:
            break
    return bad_payload(at, f"{total} bytes of values in the tail", f"at most {MAX_FIELD_BYTES}")


def _layers(fields: Sequence[Field]) -> list[list[int]]:
    """Indices of fields by offset, in as few lists as hold no two that overlap. At least one list."""
    layers: list[tuple[int, list[int]]] = [(0, [])]
    for index in sorted(range(len(fields)), key=lambda index: fields[index].offset):
        field = fields[index]
        for number, (end, layer) in enumerate(layers):
            if end <= field.offset:
                layers[number] = (field.offset + field.size, [*layer, index])
                break
        else:
            layers.append((field.offset + field.size, [index]))
    return [layer for _, layer in layers]


def _codes(field: Field) -> tuple[str, int]:
    """The struct format of a field and how many items it gives: one an element, two for a tail reference."""
    rule = TYPES[field.type]
    if rule.tail:
        return "HH", 2
    if rule.kind in ("int", "bool"):
        return f"{field.count}{letter(field)}", field.count
    return f"{field.size // field.count}s" * field.count, field.count


def _expression(field: Field, items: str, size: int, scope: dict[str, object]) -> str:
    """The Python expression that makes the field's value from its struct items."""
    kind = TYPES[field.type].kind
    if TYPES[field.type].tail:
        scope[kind] = _TAILS[kind]
        return f"{kind}(frame, *{items}, {size}, {field.offset})"
    plain = kind in ("int", "raw")
    if not plain:
        scope[kind] = _CONVERT[kind]
    if field.count > 1:
        return f"list({items})" if plain else f"[{kind}(x) for x in {items}]"
    return items if plain else f"{kind}({items})"


_BYTES = {0xDC00 + byte: f"\\x{byte:02x}" for byte in range(0x80, 0x100)}  # by surrogate escape


def text(data: bytes) -> str:
    """Bytes as text: UTF-8, and a byte that is not stands there as \\xff.

    Different bytes are different texts: the backslashes right before such an escape, or before what looks
    like one, stand there twice. So an escape has an odd number of backslashes, its look-alike an even number.
    """
    try:
        value = data.decode()
    except UnicodeDecodeError:
        return _escaped(data)
    return _escaped(data) if "\\x" in value else value


def text_bytes(value: str) -> bytes:
    """The bytes that `text` shows like this; of a text that `text` never gives, its UTF-8."""
    if "\\x" not in value:
        return value.encode("utf-8", "surrogatepass")
    import re

    def read(found: re.Match[str]) -> str:
        slashes = "\\" * (len(found[1]) // 2)
        odd = len(found[1]) % 2
        return slashes + (chr(0xDC00 + int(found[2][1:], 16)) if odd else found[2])

    read_back = re.sub(r"(?<!\\)(\\++)(x[89a-f][0-9a-f])", read, value)
    try:
        return read_back.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogatepass")


def _escaped(data: bytes) -> str:
    import re

    value = data.decode("utf-8", "surrogateescape")  # a byte that is not UTF-8 is U+DC80 to U+DCFF
    # A match begins only where a run of backslashes does: else a long run would take its length squared.
    value = re.sub(r"(?<!\\)\\++(?=[\udc80-\udcff]|x[89a-f][0-9a-f])", r"\g<0>\g<0>", value)
    return value.translate(_BYTES)


_TEXTS: dict[bytes, str] = {}  # short values and their texts: names come again and again


def _known(data: bytes) -> str:
    """`text` of these bytes."""
    value = _TEXTS.get(data)
    if value is None:
        value = text(data)
        if len(data) <= SHORT:
            if len(_TEXTS) >= REMEMBERED:
                _TEXTS.clear()
            _TEXTS[data] = value
    return value


def _fixed_text(data: bytes) -> str:
    return _known(data.split(b"\0", 1)[0])


def ipv4_text(data: bytes) -> str:
    """Four bytes as a.b.c.d."""
    return "{}.{}.{}.{}".format(*data)


def ipv6_text(data: bytes) -> str:
    """Sixteen bytes as RFC 5952 writes them."""
    from socket import AF_INET6, inet_ntop

    return inet_ntop(AF_INET6, data)


def mac_text(data: bytes) -> str:
    """Six bytes as aa:bb:cc:dd:ee:ff."""
    return data.hex(":")


def _tail(frame: Bytes, offset: int, length: int, start: int, at: int) -> bytes:
    length &= TAIL_MAX
    if not length:
        return b""
    if offset < start or offset + length > len(frame):
        found = f"tail bytes {offset} to {offset + length}"
        raise bad_payload(at, found, f"bytes {start} to {len(frame)}")
    return bytes(frame[offset : offset + length])


def _tail_str(frame: Bytes, offset: int, length: int, start: int, at: int) -> str:
    value = _known(_tail(frame, offset, length, start, at))
    if length & TAIL_CUT:
        return CutStr(value) if length & TAIL_MAX else UnreadStr()
    return value


def _tail_bytes(frame: Bytes, offset: int, length: int, start: int, at: int) -> bytes:
    value = _tail(frame, offset, length, start, at)
    if length & TAIL_CUT:
        return CutBytes(value) if length & TAIL_MAX else UnreadBytes()
    return value


def _short(frame: Bytes, size: int) -> Exception:
    return bad_payload(len(frame), f"a record that ends at {len(frame)}", f"its fixed part to end at {size}")


_TAILS: dict[str, Callable[..., Value]] = {"str": _tail_str, "bytes": _tail_bytes}
_CONVERT: dict[str, Callable[[bytes], Value]] = {
    "bool": bool,
    "text": _fixed_text,
    "ipv4": ipv4_text,
    "ipv6": ipv6_text,
    "mac": mac_text,
}
