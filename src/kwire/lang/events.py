"""The shapes of events: what may be a field, under which name, and one type for each field of a shape.

Invariants: every `emit` of one shape gives the same names; where types differ, the field has the type that
holds all of them. An `emit` belongs to the shape it names; without a name to that of all those that have no
name and the same fields.
"""

from collections.abc import Sequence

from kwire.lang import builtins, tree, values
from kwire.lang import checked as c
from kwire.lang import types as t
from kwire.lang.errors import TextError
from kwire.lang.tree import Span
from kwire.lang.types import Type
from kwire.lang.values import Literal, Value
from kwire.lazy import NamedTuple

Final = c.Expr | c.Wide
RESERVED = {
    "time": "every event has its time",
    "time_ns": "every event has its time",
    "probe": "every event has its probe",
}
"""Names that mean what every event has, in conditions on recorded events and in columns, and why."""

TRANSPARENT = frozenset(
    (
        "str",
        "bytes",
        "user",
        "kernel",
        "deref",
        "be",
        "be16",
        "be32",
        "be64",
        "ip",
        "ipv4",
        "ipv6",
        "mac",
        "ksym",
    )
) | frozenset(t.INTEGERS)
"""Functions that show their argument: the field has the argument's name."""


class FieldType(NamedTuple):
    """What is known so far of a field or local: the join of its values, constants apart."""

    type: Type | None
    constants: tuple[c.Const, ...]


def field_name(node: tree.Expr) -> str:
    """The name a field gets from its expression; empty when it has none."""
    match node:
        case tree.Name(id=name) | tree.Member(name=name):
            return name
        case tree.Index(value=value) | tree.Cast(value=value):
            return field_name(value)
        case tree.Call(function=function, arguments=(first, *_)) if function in TRANSPARENT:
            return field_name(first)
    return ""


NAME_MOST = 64
"""Characters of an event's name."""


def event_name(arguments: Sequence[tree.Expr]) -> tuple[str, Sequence[tree.Expr]]:
    """The name that an `emit` gives its events, a text before all fields (empty: none), and the other
    arguments. Raises `TextError` for a text that is no name.
    """
    match arguments:
        case (tree.String(value=name, span=span), *rest):
            if not (name.isascii() and name.isidentifier() and len(name) <= NAME_MOST):
                cure = f'use at most {NAME_MOST} letters, digits and _, as in emit("opened", pid)'
                raise TextError(span, "this is no name of an event", cure)
            return name, rest
    return "", arguments


def shape_names(given: Sequence[str]) -> list[str]:
    """What the shapes of a probe are called: by the name they were given, else by their number among all,
    from 1; an only one needs no name.
    """
    if len(given) == 1:
        return list(given)
    return [name or str(number) for number, name in enumerate(given, 1)]


def named(arguments: Sequence[tuple[str, tree.Expr]]) -> list[tuple[str, tree.Expr]]:
    """Every expression with its field's name. Raises `TextError` for a missing, wrong or second name."""
    found: dict[str, tree.Expr] = {}
    for written, node in arguments:
        name = written or field_name(node)
        if not name:
            raise TextError(node.span, "this field has no name", "write name=…")
        if name in RESERVED:
            raise TextError(node.span, f"a field cannot be called {name}: {RESERVED[name]}", "rename it")
        if name in found:
            raise TextError(node.span, f"there are two fields {name}", "write name=… for one of them")
        found[name] = node
    return list(found.items())


def final(value: Value, span: Span) -> Final:
    """The value as it can stand in an event. Raises `TextError` for what cannot."""
    if isinstance(value, Literal):
        cure = "emit a number; or write the text first, as the event's name"
        raise TextError(span, "a constant text is in no event", cure)
    if isinstance(value, values.Tuple):
        raise TextError(span, f"this is {t.article(value.type)}", "name its parts")
    if not isinstance(value, c.ReadBlock):
        return value
    if isinstance(value.type, t.Array):
        return _array(value, value.type, span)
    size = t.size_of(value.type)
    cure = f"name its members, or bytes(x, {size})" if size else "name its members"
    raise TextError(span, f"this is a whole {t.describe(value.type)}", cure)


def _array(value: c.ReadBlock, type_: t.Array, span: Span) -> Final:
    text = t.is_text_array(type_)
    if text and not type_.length:  # to its NUL
        return c.ReadText(value.place, t.Text(builtins.TEXT_LIMIT, value.place.space), value.span)
    base = value.place.base
    if isinstance(base, c.DataLocAddress) and not value.place.offset and not type_.length:
        context = c.Place(c.Context(t.Pointer(t.VOID), value.span), base.offset, (), t.KERNEL, value.span)
        both = c.Load(context, t.U32, value.span)
        length = c.Binary("shr", both, c.Const(16, t.S64, value.span), t.S64, value.span)
        return c.ReadBytes(value.place, length, t.Bytes(builtins.TEXT_LIMIT), value.span)
    if not type_.length:
        raise TextError(span, f"{t.describe(type_)} has no fixed length", "use bytes(x, n) or one element")
    if text:
        if type_.length <= values.TEXT_BLOCK:
            return value
        limit = min(type_.length, builtins.TEXT_LIMIT)
        return c.ReadText(value.place, t.Text(limit, value.place.space), value.span, type_.length)
    if not t.is_scalar(type_.element):
        cure = "use one element: [0]"
        raise TextError(span, f"this is a whole {t.describe(type_)}", cure)
    if value.size > values.BLOCK_LIMIT:
        message = f"{t.describe(type_)} has {value.size} bytes, a field at most {values.BLOCK_LIMIT}"
        raise TextError(span, message, "use bytes(x, n)")
    return value


def merge(kind: FieldType | None, value: Final) -> FieldType | None:
    """What is known after one more value; None when no type holds both."""
    known = kind or FieldType(None, ())
    if isinstance(value, c.Const) and not isinstance(value.type, t.Enum):
        return known._replace(constants=(*known.constants, value))
    type_ = value.type
    if isinstance(type_, t.Text | t.Bytes):
        type_ = type_.replace(space=t.KERNEL)  # in the event it does not matter where it was read
    joined = type_ if known.type is None else values.join(known.type, type_)
    return None if joined is None else known._replace(type=joined)


def settle(kind: FieldType, narrow: bool) -> Type | None:
    """One type for all values of a field or local; None when the constants fit nowhere.

    Where there are only constants: bool when all are True or False, else s64 or u64; `narrow` prefers s32.
    """
    if kind.type is not None:
        type_: Type | None = kind.type
        for one in kind.constants:
            if type_ is not None and not values.fits(one, type_):
                type_ = values.join(type_, one.type) if t.is_integer(type_) else None
        return type_
    if all(isinstance(one.type, t.Bool) for one in kind.constants):
        return t.BOOL
    low, high = (f(one.value for one in kind.constants) for f in (min, max))
    if high >= 1 << 63:
        return t.U64 if low >= 0 else None
    if narrow and low >= -(1 << 31) and high < 1 << 31:
        return t.S32
    return t.S64


def as_field(value: Final, type_: Type) -> Final:
    """The value converted to the settled type of its field."""
    if isinstance(value, c.ReadText | c.ReadBytes | c.ReadBlock | c.Comm):
        return value
    assert isinstance(type_, t.SCALARS)
    return values.convert(value, type_, value.span)
