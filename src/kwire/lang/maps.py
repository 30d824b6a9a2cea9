"""Maps in the checker: what a declaration means, and statements and expressions over elements.

Invariants: the parts of a key and the values are converted to the types that the map was declared with, as by
a cast; a text that may be longer than its part of the key is refused, so no two keys become one in silence.
"""

from collections.abc import Sequence

from kwire.hints import TYPE_CHECKING, Protocol
from kwire.lang import checked as c
from kwire.lang import tree, values
from kwire.lang import types as t
from kwire.lang.entries import EntryMember, bounded, key_parts, value_parts
from kwire.lang.errors import TextError
from kwire.lang.forms import walk
from kwire.lang.inferred import Inferred
from kwire.lang.tree import Span
from kwire.lang.values import Literal, Value
from kwire.words import plural

if TYPE_CHECKING:
    from kwire.lang.expressions import ExpressionChecker


class NamedTypes(Protocol):
    """What knows the types that C has a name for."""

    def named_type(self, text: str, span: Span) -> t.Type:
        """The type of a name. Raises `TextError`."""


PLAIN = ("hash", "lru")
"""Kinds of maps that hold what was set."""

DRAWN = ("hist", "lhist")
"""Kinds of maps that hold more than one number at a key."""

KEY_MOST = 512
"""Bytes of a key."""

TEXT_LEAST = 1

WORDS_MOST = 16
"""Bytes of a text with its NUL that are read as numbers."""


def element(checker: "ExpressionChecker", node: tree.Element) -> Value:
    """The value at a key. Raises `TextError`."""
    map, key = _place(checker, node)
    span = node.span
    if map.kind in DRAWN:
        cure = "it is read in Python, when the trace has ended or while it runs"
        raise TextError(span, f"what a {map.kind} holds cannot be read in a probe", cure)
    if isinstance(map.value, t.SCALARS):
        return c.MapGet(map, key, map.number, span)
    address: c.Expr = c.MapPlace(map, key, t.Pointer(t.VOID), span)
    if map.key and isinstance(map.value, t.Tuple):
        address = checker.once(address)  # of one value, whatever becomes of the map between two parts
    return held(map.value, value_parts(map), address, span)


def held(type_: t.Part | t.Tuple, parts: Sequence[EntryMember], address: c.Expr, span: Span) -> Value:
    """A value in memory as the parts of a map lie there."""
    if isinstance(type_, t.Tuple):
        items, rest = [], list(parts)
        for one in type_.items:
            size = len(t.leaves(one))  # type: ignore[arg-type]  # a part or a tuple of such
            items.append(held(one, rest[:size], address, span))  # type: ignore[arg-type]  # likewise
            del rest[:size]
        return values.Tuple(tuple(items), type_.names or ("",) * len(items), span)
    [part] = parts
    place = c.Place(address, part.offset, (), t.KERNEL, span)
    if isinstance(type_, t.Text):
        fixed = type_.limit + 1 if type_.limit < WORDS_MOST else 0
        return c.ReadText(place, t.Text(type_.limit), span, fixed)
    if isinstance(type_, t.Array):
        return c.ReadBlock(place, t.size_of(type_), type_, span)
    return c.Load(place, type_, span)


def known(checker: "ExpressionChecker", node: tree.MapDeclaration, span: Span) -> c.Map:
    """The map that is meant as a whole. Raises `TextError` where nothing is known of it."""
    if isinstance(node.owner, Inferred):
        return node.owner.known(span)
    return declared(checker, node, span)


def turn(checker: "ExpressionChecker", map: c.Map, span: Span) -> values.Tuple:
    """Key and value where a loop over a map is. Raises `TextError`."""
    if not map.key:
        raise TextError(span, f"{map.name} has no keys", "a loop is over a map with keys")
    if map.kind in DRAWN:
        raise TextError(span, f"what a {map.kind} holds cannot be read in a probe")
    pointer = t.Pointer(t.VOID)
    key: t.Part | t.Tuple = t.Tuple(map.key) if len(map.key) > 1 else map.key[0]
    if map.nest:
        whole = t.nested(map.nest, iter(map.key))
        key = whole if len(whole.items) > 1 else whole.items[0]  # type: ignore[assignment]  # a part or such
    if isinstance(map.value, t.SCALARS):
        value: Value = c.EachGet(map, map.number, span)
    else:
        address = checker.once(c.EachValue(pointer, span))
        value = held(map.value, value_parts(map), address, span)
    parts = held(key, key_parts(map), checker.once(c.EachKey(pointer, span)), span)
    return values.Tuple((parts, value), ("", ""), span)


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
    given = None
    if (
        isinstance(node, tree.Aggregate)
        and isinstance(owner, Inferred)
        and isinstance(owner.value, t.Pointer)
        and node.value is not None
    ):  # steps of what it points to
        moved = tree.Binary("add", node.target, node.value, span)
        return statement(checker, tree.SetElement(node.target, moved, span))
    if not isinstance(node, tree.DeleteElement) and node.value is not None:
        given = checker.spread(checker.check(node.value))
        if isinstance(owner, Inferred):
            given = values.fixed(given)
        if isinstance(owner, Inferred) and not (isinstance(node, tree.Aggregate) and owner.steps(given)):
            owner.give(values.scalar(given) if isinstance(node, tree.Aggregate) else given)
    map, key = _place(checker, node.target)
    if isinstance(node, tree.Aggregate):
        return _aggregate(node, given, map, key)
    whole = not map.key and not isinstance(owner, Inferred)  # scripts may set those of theirs back
    if map.kind not in PLAIN and (isinstance(node, tree.SetElement) or (given is None and whole)):
        what = "set" if isinstance(node, tree.SetElement) else "deleted"
        raise TextError(span, f"what a {map.kind} holds is added to, not {what}", _how(map))
    if isinstance(node, tree.DeleteElement):
        return c.MapDelete(map, key, span)
    assert given is not None
    parts = _parts(map, map.value, given)
    return c.MapSet(map, key, parts, span)


def _parts(map: c.Map, type_: t.Part | t.Tuple, value: Value) -> c.Parts:
    """A value as the parts that a map keeps of it. Raises `TextError`."""
    if not isinstance(type_, t.Tuple):
        if isinstance(value, values.Tuple):
            raise TextError(value.span, f"values of {map.name} are no tuples", "use another map")
        return (_part(f"values of {map.name}", value, type_),)
    if not isinstance(value, values.Tuple) or len(value.items) != len(type_.items):
        raise TextError(value.span, f"values of {map.name} are each {t.article(type_)}")
    pairs = zip(type_.items, value.items, strict=True)
    return tuple(part for one, item in pairs for part in _parts(map, one, item))  # type: ignore[arg-type]  # a part or a tuple of such


def _aggregate(node: tree.Aggregate, given: Value | None, map: c.Map, key: c.Key) -> c.MapSet | c.Aggregate:
    span = node.span
    if given is None:
        if map.kind != "count":
            raise TextError(span, f"this adds nothing to the {map.kind}", _how(map))
        return c.Aggregate(map, key, c.Const(1, t.U64, span), span)
    value = values.integer(given)
    if not isinstance(map.value, t.SCALARS):
        raise TextError(span, f"a value of {map.name} is {t.article(map.value)}, to which nothing is added")
    if isinstance(map.value, t.Pointer):  # so many of what it points to
        stride = c.Const(t.size_of(map.value.target) or 1, t.S64, span)
        value = c.Binary("mul", value, stride, t.S64, span)
    if map.kind in PLAIN and t.size_of(map.value) < 8:
        sum_ = c.Binary("add", c.MapGet(map, key, map.number, span), value, t.S64, span)
        return c.MapSet(map, key, (values.convert(sum_, map.number, span),), span)
    return c.Aggregate(map, key, values.convert(value, map.number, value.span), span)


def _how(map: c.Map) -> str:
    """How a value gets into a map."""
    key = "[key]" if map.key else ""
    if map.kind in PLAIN:
        return f"write {map.name}{key} = value"
    return f"write {map.name}{key}.add({'' if map.kind == 'count' else 'value'})"


def _place(checker: "ExpressionChecker", node: tree.Element) -> tuple[c.Map, c.Key]:
    key = [checker.spread(checker.check(one)) for one in node.key]
    if isinstance(node.map.owner, Inferred):
        map, given = node.map.owner.place([_texts(checker, one) for one in key], node.span)
    else:
        map = declared(checker, node.map, node.span)
        given = [part for one in key for _, part in values.parts("", one)]
    if len(given) != len(map.key):
        what = plural(len(map.key), "part") if map.key else "no part"
        wrong = f"keys of {map.name} have {what}, this has {len(given)}"
        cure = f"write {map.name}[{', '.join(t.describe(one) for one in map.key)}]" if map.key else ""
        raise TextError(node.span, wrong, cure)
    whose = f"keys of {map.name}"
    return map, tuple(_part(whose, one, type_) for one, type_ in zip(given, map.key, strict=True))


def _texts(checker: "ExpressionChecker", value: Value) -> Value:
    """A value, those of its parts that are one of several constant texts as texts."""
    if isinstance(value, values.Tuple):
        return value.replace(items=tuple(_texts(checker, one) for one in value.items))
    return checker.text(value)


def _part(whose: str, value: Value, type_: t.Part) -> c.Expr | c.Wide | c.TextConst:
    """A part of a key or of a value, as its type; `whose` it is, in words. Raises `TextError`."""
    what = f"this part of the {whose} is"
    if isinstance(type_, t.Array):
        if isinstance(value, c.ReadBlock) and value.type == type_:
            return value
        raise TextError(value.span, f"{what} a {t.describe(type_)}, and this is {t.article(value.type)}")
    if not isinstance(type_, t.Text):
        if isinstance(value, Literal):
            raise TextError(value.span, f"{what} a {t.describe(type_)}")
        if isinstance(type_, t.Stack) != isinstance(value.type, t.Stack):
            raise TextError(value.span, f"{what} {t.article(type_)}, and this is {t.article(value.type)}")
        return values.convert(values.scalar(value), type_, value.span)
    if isinstance(value, Literal):
        text: c.ReadText | c.Comm | c.TextConst | None = values.text_constant(value)
    elif isinstance(value, c.Const):
        text = values.named_text(value)
    else:
        text = values.as_text(value, type_.limit, value.span)
    if text is None:
        message = f"{what} a text, and this is {t.article(value.type)}"
        raise TextError(value.span, message, "write str(x, n)")
    if text.type.limit > type_.limit:
        message = f"this text may have {text.type.limit} bytes, {whose} have {type_.limit}"
        cure = f'write str(x, {type_.limit}), or declare it as "char[{text.type.limit + 1}]"'
        raise TextError(value.span, message, cure)
    return text


def declared(checker: NamedTypes, made: tree.MapDeclaration, span: Span) -> c.Map:
    """The map that a declaration means. Raises `TextError`, at the place where it is used."""
    parts = tuple(_key_type(checker, text, span) for text in made.key)
    value = _value_type(checker, made, span)
    return c.Map(made.title, made.kind, parts, value, made.size, made.bounds)


def _value_type(checker: NamedTypes, made: tree.MapDeclaration, span: Span) -> t.Part | t.Tuple:
    """The type of the values of a declared map. Raises `TextError`."""
    found: list[t.Part] = []
    texts = made.kind in PLAIN
    for text in made.value:
        type_ = checker.named_type(text, span)
        if texts and t.is_text_array(type_) and isinstance(type_, t.Array) and type_.length > TEXT_LEAST:
            found.append(t.Text(type_.length - 1))
        elif isinstance(type_, t.SCALARS) and t.size_of(type_) <= 8:
            found.append(type_)
        else:
            cure = 'use "u64", or "char[n]" for a text' if texts else 'use "u64"'
            raise TextError(span, f"a value of {made.title} cannot be a {text}", cure)
    value = found[0] if len(found) == 1 else t.Tuple(tuple(found))
    bounded(made.title, value, span)
    return value


def _key_type(checker: NamedTypes, text: str, span: Span) -> t.Scalar | t.Text:
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
