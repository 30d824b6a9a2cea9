"""Maps in the checker: what a declaration means, and statements and expressions over elements.

Invariants: the parts of a key and the values are converted to the types that the map was declared with, as by
a cast; a text that may be longer than its part of the key is refused, so no two keys become one in silence.
"""

from typing import TYPE_CHECKING

from kwire.lang import checked as c
from kwire.lang import tree, values
from kwire.lang import types as t
from kwire.lang.errors import TextError
from kwire.lang.forms import walk
from kwire.lang.inferred import Inferred
from kwire.lang.tree import Span
from kwire.lang.values import Literal, Value
from kwire.words import plural

if TYPE_CHECKING:
    from kwire.lang.expressions import ExpressionChecker

PLAIN = ("hash", "lru")
"""Kinds of maps that hold what was set."""

DRAWN = ("hist", "lhist")
"""Kinds of maps that hold more than one number at a key."""

KEY_MOST = 512
"""Bytes of a key."""

TEXT_LEAST = 1


def element(checker: "ExpressionChecker", node: tree.Element) -> Value:
    """The value at a key. Raises `TextError`."""
    map, key = _place(checker, node)
    if map.kind in DRAWN:
        cure = "it is read in Python, when the trace has ended or while it runs"
        raise TextError(node.span, f"what a {map.kind} holds cannot be read in a probe", cure)
    return c.MapGet(map, key, map.value, node.span)


def has_key(checker: "ExpressionChecker", node: tree.HasKey) -> Value:
    """Whether there is a value at a key. Raises `TextError`."""
    map, key = _place(checker, node.element)
    if map.kind not in PLAIN and not map.key:
        raise TextError(node.span, f"a {map.kind} without keys is always there", "compare its value")
    return c.MapHas(map, key, t.BOOL, node.span)


def statement(
    checker: "ExpressionChecker", node: tree.SetElement | tree.DeleteElement | tree.Aggregate
) -> c.Stmt:
    """A statement that changes a map. Raises `TextError`."""
    span, owner = node.span, node.target.map.owner
    if isinstance(owner, Inferred) and not isinstance(node, tree.DeleteElement) and node.value is not None:
        owner.give(_given(checker, node))
    map, key = _place(checker, node.target)
    if isinstance(node, tree.Aggregate):
        return _aggregate(checker, node, map, key)
    if map.kind not in PLAIN and not (map.key and isinstance(node, tree.DeleteElement)):
        what = "set" if isinstance(node, tree.SetElement) else "deleted"
        raise TextError(span, f"what a {map.kind} holds is added to, not {what}", _how(map))
    if isinstance(node, tree.DeleteElement):
        return c.MapDelete(map, key, span)
    value = _given(checker, node)
    return c.MapSet(map, key, values.convert(value, map.value, value.span), span)


def _given(checker: "ExpressionChecker", node: tree.SetElement | tree.Aggregate) -> c.Expr:
    """The value that is set or added."""
    assert node.value is not None
    value = checker.check(node.value)
    owner = node.target.map.owner
    if isinstance(node, tree.SetElement) and isinstance(owner, Inferred):
        if isinstance(value, values.Tuple):
            raise TextError(value.span, "a tuple as a value of a map is not supported yet")
        if isinstance(value, values.WIDE) and not isinstance(value, c.ReadBlock):
            raise TextError(
                value.span, "a text that is not constant, as a value of a map, is not supported yet"
            )
    return values.scalar(value)


def _aggregate(
    checker: "ExpressionChecker", node: tree.Aggregate, map: c.Map, key: c.Key
) -> c.MapSet | c.Aggregate:
    span = node.span
    if node.value is None:
        if map.kind != "count":
            raise TextError(span, f"this adds nothing to the {map.kind}", _how(map))
        return c.Aggregate(map, key, c.Const(1, t.U64, span), span)
    value = values.integer(checker.check(node.value))
    if map.kind in PLAIN and t.size_of(map.value) < 8:
        sum_ = c.Binary("add", c.MapGet(map, key, map.value, span), value, t.S64, span)
        return c.MapSet(map, key, values.convert(sum_, map.value, span), span)
    return c.Aggregate(map, key, values.convert(value, map.value, value.span), span)


def _how(map: c.Map) -> str:
    """How a value gets into a map."""
    key = "[key]" if map.key else ""
    if map.kind in PLAIN:
        return f"write {map.name}{key} = value"
    return f"write {map.name}{key}.add({'' if map.kind == 'count' else 'value'})"


def _place(checker: "ExpressionChecker", node: tree.Element) -> tuple[c.Map, c.Key]:
    given: list[Value] = [part for one in node.key for _, part in values.parts("", checker.check(one))]
    if isinstance(node.map.owner, Inferred):
        map, given = node.map.owner.place(given, node.span)
    else:
        map = declared(checker, node)
    if len(given) != len(map.key):
        what = plural(len(map.key), "part") if map.key else "no part"
        wrong = f"keys of {map.name} have {what}, this has {len(given)}"
        cure = f"write {map.name}[{', '.join(t.describe(one) for one in map.key)}]" if map.key else ""
        raise TextError(node.span, wrong, cure)
    return map, tuple(_part(map, one, type_) for one, type_ in zip(given, map.key, strict=True))


def _part(map: c.Map, value: Value, type_: t.Scalar | t.Text) -> c.Expr | c.Wide | c.TextConst:
    """A part of a key, as its type. Raises `TextError`."""
    if not isinstance(type_, t.Text):
        if isinstance(value, Literal):
            raise TextError(value.span, f"this part of the keys of {map.name} is a {t.describe(type_)}")
        return values.convert(values.scalar(value), type_, value.span)
    if isinstance(value, Literal):
        data = value.value.encode()
        if b"\0" in data:
            raise TextError(value.span, "a text ends at a NUL", "leave it out")
        text: c.ReadText | c.Comm | c.TextConst | None = c.TextConst(data, t.Text(len(data)), value.span)
    else:
        text = values.as_text(value, type_.limit, value.span)
    if text is None:
        message = f"this part of the keys of {map.name} is a text, and this is {t.article(value.type)}"
        raise TextError(value.span, message, "write str(x, n)")
    if text.type.limit > type_.limit:
        message = f"this text may have {text.type.limit} bytes, keys of {map.name} have {type_.limit}"
        cure = f'write str(x, {type_.limit}), or declare it as "char[{text.type.limit + 1}]"'
        raise TextError(value.span, message, cure)
    return text


def declared(checker: "ExpressionChecker", node: tree.Element) -> c.Map:
    """The map that a declaration means. Raises `TextError`, at the place where it is used."""
    made = node.map
    parts = tuple(_key_type(checker, text, node.span) for text in made.key)
    value = checker.named_type(made.value, node.span)
    if not isinstance(value, t.SCALARS) or t.size_of(value) > 8:
        raise TextError(node.span, f"a value of {made.title} cannot be a {made.value}", 'use "u64"')
    return c.Map(made.title, made.kind, parts, value, made.size, made.bounds)


def _key_type(checker: "ExpressionChecker", text: str, span: Span) -> t.Scalar | t.Text:
    type_ = checker.named_type(text, span)
    if t.is_text_array(type_) and isinstance(type_, t.Array) and TEXT_LEAST < type_.length <= KEY_MOST:
        return t.Text(type_.length - 1)
    if isinstance(type_, t.SCALARS) and t.size_of(type_) <= 8:
        return type_
    raise TextError(
        span, f"a part of a key cannot be a {text}", f'use numbers, or "char[n]" up to {KEY_MOST}'
    )


def elements(probe: tree.Probe) -> list[tree.MapDeclaration]:
    """The maps that a probe and the functions it calls use."""
    return list(dict.fromkeys(node for node in walk(probe) if isinstance(node, tree.MapDeclaration)))
