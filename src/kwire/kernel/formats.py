"""Tracepoint `format` files as data: the layout of an event's context and the kernel's own way to print it.

A pure parser of untrusted text (a kernel may be older, newer or patched): it accepts what kernels write,
gives typed fields, and raises `FormatError` with the line at anything that would mislead. It never guesses
an offset.

    field:__data_loc char[] filename;	offset:8;	size:4;	signed:0;
"""

from kwire.errors import KwireError
from kwire.lazy import ASCII, NamedTuple, pattern

MAX_FORMAT = 1 << 20  # bytes of a format file
MAX_FIELD_END = 1 << 16  # an event's fixed part is at most a page or so; beyond this the file is damaged


class FormatError(KwireError):
    """A format file that does not make sense. `line`: its number, from 1, 0 for the whole file."""

    def __init__(self, subject: str, line: int, cause: str) -> None:
        super().__init__("read format of", subject, f"line {line}: {cause}" if line else cause)
        self.line = line


class EventField(NamedTuple):
    """One field of a tracepoint's context.

    `type`: C type of the field, or of one element of an array (`char`, `unsigned long`, `struct sock *`);
    `offset` and `size`: bytes from the start of the context, as stored there; `signed`: of integers;
    `length`: elements of an array, None for no array, 0 for one whose length is not fixed; `location`:
    "inline", or "data_loc" / "rel_loc" where the context holds a u32 (offset in the low, length in the high
    16 bits; rel_loc counts from the end of this u32).
    """

    name: str
    type: str
    offset: int
    size: int
    signed: bool
    length: int | None = None
    location: str = "inline"

    @property
    def pointer(self) -> bool:
        """Whether the field, or each element, is an address."""
        return "*" in self.type and bool(_POINTER.search(self.type))

    @property
    def common(self) -> bool:
        """Whether it is of the header that every event has, which BPF programs may not read."""
        return self.offset < 8 and self.name.startswith("common_")

    @property
    def declaration(self) -> str:
        """The field as C: `char comm[16]`."""
        space = "" if self.pointer else " "
        dims = "" if self.length is None else f"[{self.length or ''}]"
        prefix = "" if self.location == "inline" else f"__{self.location} "
        return f"{prefix}{self.type}{space}{self.name}{dims}"


class Format(NamedTuple):
    """A tracepoint's format: `id` for perf_event_open; `fields` without the common ones; `print_fmt`: raw
    text.
    """

    name: str
    id: int
    fields: tuple[EventField, ...]
    common: tuple[EventField, ...]
    print_fmt: str

    def field(self, name: str) -> EventField | None:
        """The field of that name."""
        return next((field for field in self.fields if field.name == name), None)


_POINTER = pattern(r"\*\s*(?:const|volatile|restrict|\s)*$")
_ARRAY = pattern(r"^(.*?)\s*\[([^\]]*)\]$")
_DIGITS = "0123456789"
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_"
_FUNCTION_POINTER = pattern(r"^([A-Za-z_].*?)\(\s*\*\s*([A-Za-z_]\w*)\s*\)\s*\((.*)\)$", ASCII)
_NUMBER = pattern(r"0x[0-9a-fA-F]{1,8}$|\d{1,9}$")


def parse_format(text: str, subject: str = "event") -> Format:
    """Read a format file. Raises FormatError."""
    if len(text) > MAX_FORMAT:
        raise FormatError(subject, 0, f"it has {len(text)} characters")
    name, ident, print_fmt = "", -1, ""
    fields: list[EventField] = []
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if line.startswith("name:"):
            name = line[5:].strip()
        elif line.startswith("ID:"):
            digits = line[3:].strip()
            if not digits.isascii() or not digits.isdecimal() or len(digits) > 9:
                raise FormatError(subject, number, f"{digits[:20]!r} is no event id")
            ident = int(digits)
        elif line.startswith("print fmt:"):
            print_fmt = "\n".join([line[10:].strip(), *lines[number:]]).rstrip()
            break
        elif line.strip().startswith("field"):
            fields.append(_field(line, number, subject))
    if ident < 0:
        raise FormatError(subject, 0, "it has no ID line")
    seen: set[str] = set()
    for field in fields:
        if field.name in seen:
            raise FormatError(subject, 0, f"field {field.name} occurs twice")
        seen.add(field.name)
    return Format(
        name,
        ident,
        tuple(field for field in fields if not field.common),
        tuple(field for field in fields if field.common),
        print_fmt,
    )


def _field(line: str, number: int, subject: str) -> EventField:
    parts = [part.lstrip() for part in line.split(";")]
    words = ("field", "offset", "size", "signed")[: len(parts) - 1]
    named = [part.partition(":") for part in parts[:-1]]
    values = [value for _, _, value in named]
    if (
        len(words) < 3
        or parts[-1]
        or len(parts) > 5
        or [name.removesuffix(" special") if not at else name for at, (name, _, _) in enumerate(named)]
        != list(words)
        or not values[0]
        or not all(value.isascii() and value.isdecimal() and len(value) <= 6 for value in values[1:])
        or values[3:] not in ([], ["0"], ["1"])
    ):
        raise FormatError(subject, number, f"not a field: {line.strip()[:80]!r}")
    offset, size = int(values[1]), int(values[2])
    if offset + size > MAX_FIELD_END:
        raise FormatError(subject, number, f"a field of {size} bytes at offset {offset} cannot be")
    name, ctype, count, location = declarator(values[0], size)
    if not name:
        raise FormatError(subject, number, f"cannot read the declaration {values[0].strip()[:80]!r}")
    if location != "inline" and size != 4:
        raise FormatError(subject, number, f"{name} is __{location} but has {size} bytes, not 4")
    return EventField(name, ctype, offset, size, values[3:] == ["1"], count, location)


def declarator(text: str, size: int) -> tuple[str, str, int | None, str]:
    """Take a declaration apart: (name, type of an element, count, location); the name is empty where it is
    none.
    """
    text, location = " ".join(text.split()), "inline"
    for word in ("data_loc", "rel_loc"):
        if text.startswith(f"__{word} "):
            text, location = text[len(word) + 3 :], word
    function = _FUNCTION_POINTER.match(text) if "(" in text else None
    if function:
        return function[2], f"{function[1].strip()} (*)({function[3]}) *", None, location
    count: int | None = None
    array = _ARRAY.match(text) if text.endswith("]") else None
    if array:  # `char comm[16]`
        text, count = array[1], _count(array[2])
    name = text[len(text.rstrip(_LETTERS + _DIGITS)) :].lstrip(_DIGITS)
    if not name:
        return "", "", None, location
    ctype = text[: -len(name)].rstrip()
    array = _ARRAY.match(ctype) if ctype.endswith("]") else None
    if array:  # `char[] name` of a dynamic array, or `u8[16] name`
        ctype, count = array[1].rstrip(), _count(array[2])
    if not ctype or ctype[0] not in _LETTERS:
        return "", "", None, location
    if count is not None and location == "inline" and count < 0:
        count = _fitting(ctype, size)
    elif (count is not None and (count < 0 or location != "inline")) or location != "inline":
        count = 0
    return name, ctype, count, location


def _count(text: str) -> int:
    """An array's written length, -1 where that is no plain number (a macro's name, nothing)."""
    text = text.strip()
    return (
        int(text, 0)
        if _NUMBER.match(text) and not (text.startswith("0") and text.isdecimal() and text != "0")
        else -1
    )


# Sizes of the element types that kernels write with a length that is a macro, so that size / element is the
# count.
ELEMENT_SIZES = {
    **dict.fromkeys(
        ("char", "unsigned char", "signed char", "u8", "__u8", "uint8_t", "s8", "bool", "unsigned char"), 1
    ),
    **dict.fromkeys(("short", "unsigned short", "u16", "__u16", "uint16_t", "__be16", "__le16", "s16"), 2),
    **dict.fromkeys(
        ("int", "unsigned int", "unsigned", "u32", "__u32", "uint32_t", "__be32", "__le32", "s32"), 4
    ),
    **dict.fromkeys(
        ("u64", "__u64", "uint64_t", "s64", "__s64", "__be64", "__le64", "long long", "unsigned long long"), 8
    ),
    **dict.fromkeys(("long", "unsigned long", "size_t"), 8),
}


def _fitting(ctype: str, size: int) -> int:
    element = 8 if ctype.endswith("*") else ELEMENT_SIZES.get(ctype, 0)
    return size // element if element and size % element == 0 else 0
