"""What the checker does with values: places, loads, conversions, constants and the join of two types.

Invariant: functions here take and give checked expressions that already keep `checked`'s laws; what is wrong
raises `TextError` with the span it is wrong at.
"""

from kwire.hints import TypeAlias
from kwire.lang import builtins
from kwire.lang import checked as c
from kwire.lang import types as t
from kwire.lang.errors import TextError
from kwire.lang.forms import Node
from kwire.lang.tree import Span
from kwire.lang.types import Scalar, Text, Type

BLOCK_LIMIT = 256  # bytes of an array that a record holds as it is
TEXT_BLOCK = 32  # char[n] up to this many bytes stands fixed in the record, longer ones go to its tail


class Literal(Node):
    """A string literal: good for comparing with a text, nothing else."""

    value: str
    type: Text
    span: Span


class Tuple(Node):
    """Several values; `names`: of each ("" in a tuple). Never in a program: what is done with it is done with
    each of them.
    """

    items: tuple["Value", ...]
    names: tuple[str, ...]
    span: Span

    @property
    def type(self) -> t.Tuple:
        """The types of the values."""
        return t.Tuple(tuple(one.type for one in self.items), self.names if any(self.names) else ())


One: TypeAlias = c.Expr | c.Wide | Literal
Value: TypeAlias = One | Tuple
WIDE = (c.ReadText, c.ReadBytes, c.ReadBlock, c.Comm, Literal, Tuple)
POINTER_BITS = (0, (1 << 64) - 1)


def bounds(type_: Type) -> tuple[int, int]:
    """The least and greatest value a register of this scalar type holds."""
    if isinstance(type_, t.Bool):
        return 0, 1
    if isinstance(type_, t.Int | t.Enum):
        bits = type_.size * 8
        return (-(1 << bits - 1), (1 << bits - 1) - 1) if type_.signed else (0, (1 << bits) - 1)
    return POINTER_BITS


def constant(value: int, span: Span) -> c.Const:
    """An integer as written: s64, or u64 when only that holds it."""
    if not -(1 << 63) <= value < 1 << 64:
        raise TextError(span, f"{value} does not fit into 64 bits")
    return c.Const(value, t.S64 if value < 1 << 63 else t.U64, span)


def smallest(low: int, high: int) -> t.Int:
    """The smallest signed type that holds numbers from one to another; of those that none holds u64."""
    for type_ in (t.S8, t.S16, t.S32, t.S64):
        least, greatest = bounds(type_)
        if least <= low and high <= greatest:
            return type_
    return t.U64


def wrap(value: int, type_: Scalar) -> int:
    """A mathematical value cut to what the type holds."""
    low, high = bounds(type_)
    if isinstance(type_, t.Bool):
        return int(value != 0)
    return (value - low) % (high - low + 1) + low


def convert(value: c.Expr, type_: Scalar, span: Span) -> c.Expr:
    """The value as another scalar type: C's conversion, free where the register stays as it is."""
    if isinstance(value, c.Const):
        return c.Const(wrap(value.value, type_), type_, span)
    if value.type == type_:
        return value
    low, high = bounds(value.type)
    least, greatest = bounds(type_)
    # Between s64 and u64 the register stays: both hold the same 64 bits.
    full = t.size_of(value.type) == t.size_of(type_) == 8
    if (least <= low and high <= greatest) or full:
        return c.Retype(value, type_, span)
    return c.Convert(value, type_, span)


def load(place: c.Place, type_: Type, span: Span, bit_offset: int = 0, bit_size: int = 0) -> Value:
    """What is at a place: a scalar is loaded, an array or structure stays where it is until it is needed."""
    if isinstance(type_, t.Pointer) and place.space == t.USER:
        type_ = type_.replace(space=t.USER)  # what user memory points to is user memory
    if isinstance(type_, t.Int | t.Enum) and type_.size not in (1, 2, 4, 8):
        raise TextError(
            span, f"a number of {type_.size} bytes cannot be read", "read it as an array: cast it"
        )
    if bit_size and bit_offset + bit_size > 64:
        raise TextError(span, "this bit-field lies across more than 8 bytes")
    if isinstance(type_, t.SCALARS):
        return c.Load(place, type_, span, bit_offset, bit_size)
    if isinstance(type_, t.Array | t.Struct):
        return c.ReadBlock(place, t.size_of(type_), type_, span)
    raise TextError(span, f"{t.describe(type_)} cannot be read", 'cast it: cast("u64 *", p)')


def address(value: Value, span: Span) -> c.Expr:
    """The address of an array or structure, as a pointer to its elements or to itself."""
    assert isinstance(value, c.ReadBlock | c.ReadText)
    if isinstance(value, c.ReadText):
        target: Type = t.CHAR
    else:
        target = value.type.element if isinstance(value.type, t.Array) else value.type
    place, type_ = value.place, t.Pointer(target, value.place.space)
    if not place.offset and not place.indexes and not isinstance(place.base, c.Context):
        return convert(place.base, type_, span)
    return c.AddressOf(place, type_, span)


def place_at(pointer: c.Expr, span: Span) -> c.Place:
    """The place a pointer points to."""
    base = pointer
    while isinstance(base, c.Retype) and isinstance(base.operand.type, t.Pointer):
        base = base.operand  # one name for one address, whatever it was cast to
    if isinstance(base, c.AddressOf):
        return base.place.replace(space=_space(pointer.type), span=span)
    return c.Place(base, 0, (), _space(pointer.type), span)


def _space(type_: Type) -> str:
    return type_.space if isinstance(type_, t.Pointer) else t.KERNEL


def scalar(value: Value) -> c.Expr:
    """The value when it fits a register. Raises `TextError` for texts, arrays and structures."""
    if isinstance(value, Literal):
        raise TextError(value.span, "a string is no number", "compare a text with it: ==, !=")
    if isinstance(value, Tuple):
        raise TextError(value.span, f"{t.article(value.type)} is no number", f"use one part: {_part(value)}")
    if isinstance(value, c.ReadText | c.Comm | c.ReadBytes) or t.is_text_array(value.type):
        raise TextError(value.span, "a text is no number", "compare it with a string: == or !=")
    if isinstance(value, c.ReadBlock):
        if isinstance(value.type, t.Struct):
            cure = "name one of its members"
        else:
            cure = "use one element: [0]"
        raise TextError(value.span, f"this is a whole {t.describe(value.type)}", cure)
    return value


def _part(value: Tuple) -> str:
    """How the first part of a tuple is named."""
    return "[0]" if value.names[0] in ("", t.ELEMENT) else f".{value.names[0]}"


def parts(name: str, value: Value) -> list[tuple[str, One]]:
    """A value under a name, or the parts of a tuple under names made of that one."""
    if not isinstance(value, Tuple):
        return [(name, value)]
    found = []
    for number, (part, item) in enumerate(zip(value.names, value.items, strict=True)):
        found += parts(f"{name}_{number if part in ('', t.ELEMENT) else part}", item)
    return found


def truth(value: Value) -> c.Expr:
    """The value as a condition: not 0 is true."""
    if isinstance(value, Tuple):
        raise TextError(value.span, "a tuple is always true", f"use one part: {_part(value)}")
    if t.is_text_array(value.type):
        value = as_text(value, t.size_of(value.type) or builtins.TEXT_LIMIT, value.span) or value
    if isinstance(value, c.ReadText | c.Comm):
        return c.TextOrder("gt", value, b"", t.BOOL, value.span)  # there is one, and it is not empty
    return scalar(value)


def fixed(value: Value) -> Value:
    """A value as it is kept: of bytes whose number is known an array."""
    if isinstance(value, c.ReadBytes) and isinstance(value.length, c.Const) and value.length.value:
        size = value.length.value
        return c.ReadBlock(value.place, size, t.Array(t.U8, size, t.RAW), value.span)
    return value


def integer(value: Value) -> c.Expr:
    """The value when arithmetic is possible with it."""
    number = scalar(value)
    if not t.is_integer(number.type):
        cure = "cast it: u64(x)"
        raise TextError(number.span, f"{t.article(number.type)} is no number to calculate with", cure)
    return number


def as_text(value: Value, limit: int, span: Span) -> c.ReadText | c.Comm | None:
    """The value as text when it is one: a text, a character array, a tracepoint's string; None otherwise."""
    if isinstance(value, c.Comm):
        return value
    if isinstance(value, c.ReadText):
        return value
    if isinstance(value, c.ReadBlock) and isinstance(value.type, t.Array):
        element, length = value.type.element, value.type.length
        if isinstance(element, t.Int) and element.size == 1 and not value.type.display:
            most = min(limit, length) if length else limit
            return c.ReadText(value.place, t.Text(most, value.place.space), span, length)
    return None


def text_constant(value: Literal) -> c.TextConst:
    """A literal as the bytes of a text. Raises `TextError`."""
    data = value.value.encode("utf-8", "surrogateescape")
    if b"\0" in data:
        raise TextError(value.span, "a text ends at a NUL", "leave it out")
    return c.TextConst(data, Text(max(len(data), 1)), value.span)


def named_text(value: Value) -> c.TextConst | None:
    """One of several constant texts as its bytes; None for other values."""
    if isinstance(value, c.Const) and isinstance(value.type, t.Enum) and t.is_constant_text(value.type):
        name = next(name for name, number in value.type.values if number == value.value)
        return text_constant(Literal(name, Text(len(name.encode("utf-8", "surrogateescape"))), value.span))
    return None


def join(a: Type, b: Type) -> Type | None:
    """The smallest type that holds the values of both; None when there is none."""
    if a == b:
        return a
    if t.is_constant_text(a) or t.is_constant_text(b):
        return None
    if isinstance(a, t.Text) and isinstance(b, t.Text) and a.space == b.space:
        return a if a.limit >= b.limit else b
    if isinstance(a, t.Bytes) and isinstance(b, t.Bytes) and a.space == b.space:
        return a if a.limit >= b.limit else b
    if isinstance(a, t.Pointer) and isinstance(b, t.Pointer) and a.space == b.space:
        if a.target == b.target:
            return a
        return None
    if not (t.is_integer(a) and t.is_integer(b)):
        return None
    display = a.display if isinstance(a, t.Int) and isinstance(b, t.Int) and a.display == b.display else ""
    for wider, other in ((a, b), (b, a)):
        least, greatest = bounds(wider)
        low, high = bounds(other)
        if least <= low and high <= greatest:
            plain = t.Int(t.size_of(wider), t.signed(wider), display)
            return t.U8 if isinstance(wider, t.Bool) else plain
    return t.arithmetic(a, b)


def fits(value: c.Const, type_: Type) -> bool:
    """Whether a constant lies within a scalar type (a pointer takes only 0)."""
    if isinstance(type_, t.Pointer):
        return value.value == 0
    if t.is_constant_text(type_) or t.is_constant_text(value.type):
        return value.type == type_ or (value.value == 0 and not t.is_constant_text(value.type))
    if not t.is_integer(type_):
        return False
    low, high = bounds(type_)
    return low <= value.value <= high


def select_bytes(test: c.Expr, then: c.ReadBytes, otherwise: c.ReadBytes, span: Span) -> c.ReadBytes:
    """One of two values that are bytes: their addresses and lengths are chosen."""
    if then.place.space != otherwise.place.space:
        message = "one is in the kernel's memory, the other in that of the process"
        raise TextError(span, message, "print each by itself")
    one, other = (
        c.AddressOf(side.place, t.Pointer(t.U8, side.place.space), side.span) for side in (then, otherwise)
    )
    length = then.length
    if not (isinstance(length, c.Const) and isinstance(otherwise.length, c.Const)) or (
        length.value != otherwise.length.value
    ):
        length = select(test, then.length, otherwise.length, span)
    limit = max(then.type.limit, otherwise.type.limit)
    type_ = t.Bytes(limit, then.place.space)
    return c.ReadBytes(place_at(select(test, one, other, span), span), length, type_, span)


def select(test: c.Expr, then: c.Expr, otherwise: c.Expr, span: Span) -> c.Expr:
    """One of two scalars, as the type that holds both."""
    if isinstance(otherwise, c.Const) and fits(otherwise, then.type):
        type_: Type | None = then.type
    elif isinstance(then, c.Const) and fits(then, otherwise.type):
        type_ = otherwise.type
    else:
        type_ = join(then.type, otherwise.type)
    if not isinstance(type_, t.SCALARS):
        message = f"one is {t.article(then.type)}, the other {t.article(otherwise.type)}"
        raise TextError(span, message, "cast one of them")
    then, otherwise = convert(then, type_, then.span), convert(otherwise, type_, otherwise.span)
    return c.Select(test, then, otherwise, type_, span)
