"""Maps that nobody declared: what their keys and values are follows from all their uses.

The programs of a script are checked more than once: while an `Inferred` is open, each use tells it more and
takes what is known so far; when nothing changes any more it is closed, and a use that does not fit is a
mistake at its place. Invariants: numbers in keys and values have 64 bits; a text in a key is cut at
`TEXT_MOST` bytes.
"""

from collections.abc import Callable, Iterable, Sequence

from kwire.hints import Final, TypeAlias
from kwire.lang import builtins, values
from kwire.lang import checked as c
from kwire.lang import types as t
from kwire.lang.entries import bounded
from kwire.lang.errors import TextError
from kwire.lang.tree import Span
from kwire.lang.values import Literal, Value
from kwire.wire.fields import TIMES
from kwire.words import plural

TEXT_MOST: Final = 127
"""Bytes of a text in a key."""

Part: TypeAlias = t.Part
Held: TypeAlias = t.Part | t.Tuple
"""What a value is."""


ROUNDS: Final = 8
"""More than types of maps that follow from each other need."""


def settle(maps: "Iterable[Inferred]", look: Callable[[], None]) -> None:
    """Let `look` look at all uses of maps until it is known what keys and values they have."""
    known = list(maps)
    for _ in range(ROUNDS if known else 0):
        for one in known:
            one.changed = False
        look()
        if not any(one.changed for one in known):
            break
    for one in known:
        one.open = False


class Inferred:
    """What is known of a map. `kind`, `size`, `bounds`: as in `checked.Map`; `shows`: the kind that people
    know it by.
    """

    __slots__ = (
        "bounds",
        "changed",
        "constants",
        "forgets",
        "key",
        "kind",
        "nest",
        "open",
        "shows",
        "size",
        "title",
        "value",
    )

    def __init__(self, title: str, kind: str, size: int, bounds: tuple[int, int, int], shows: str) -> None:
        self.title, self.kind, self.size, self.bounds, self.shows = title, kind, size, bounds, shows
        self.key: tuple[Part, ...] | None = None
        self.nest: t.Nest | None = None
        """How the parts of keys lie in each other."""
        self.value: Held | None = t.U64 if kind == "count" else None
        self.forgets = False
        """Whether it forgets what was not used for long, of what is added up."""
        self.constants: int | None = None
        """The greatest, while all values that are known are constants that either sign holds."""
        self.open = True
        self.changed = False
        """Whether something was learned since this was last set to False."""

    def place(self, key: Sequence[Value], span: Span) -> tuple[c.Map, list[Value]]:
        """The map as it is known, and the parts of a key as they can stand in it. Raises `TextError`."""
        if len(key) == 1 and isinstance(key[0], values.Tuple) and not any(key[0].names):
            key = key[0].items
        nest = tuple(("", t.nest_of(one.type)) for one in key)
        given = [values.fixed(part) for one in key for _, part in values.parts("", one)]
        if self.nest is None:
            self.nest = nest
        elif self.nest != nest and len(given) == len(self.key or ()):
            message = f"the parts of keys of {self.title} lie otherwise here than elsewhere"
            raise TextError(span, message, "put them into tuples likewise")
        cut = [_cut(one) for one in given]
        found = tuple(_part(self.title, one) for one in cut)
        if self.key is None:
            self._learn(found, self.value, span)
        assert self.key is not None
        if len(found) != len(self.key):
            message = f"keys of {self.title} have {plural(len(self.key), 'part')}, this has {len(found)}"
            raise TextError(span, message, "use another map")
        joined = []
        for own, other, value in zip(self.key, found, cut, strict=True):
            both = own if isinstance(value, c.Const) and values.fits(value, own) else _joined(own, other)
            if both is None:
                message = f"this part of the keys of {self.title} was {_word(own)} and is {_word(other)} here"
                raise TextError(value.span, message, "use another map")
            joined.append(both)
        self._learn(tuple(joined), self.value, span)
        return self.known(span), cut

    def steps(self, value: Value) -> bool:
        """Whether it holds addresses, to which a number is added."""
        return isinstance(self.value, t.Pointer) and isinstance(value.type, t.INTEGRAL)

    def known(self, span: Span) -> c.Map:
        """The map as it is known. Raises `TextError` where nothing is ever put into it."""
        if self.key is None:
            raise TextError(span, f"nothing is ever put into {self.title}")
        nest = self.nest if self.nest and any(inner for _, inner in self.nest) else ()
        return c.Map(
            self.title, self.kind, self.key, self.value or t.S64, self.size, self.bounds, nest, self.forgets
        )

    def give(self, value: Value) -> None:
        """A value is set, or added. Raises `TextError`."""
        if isinstance(value, values.Tuple) or not isinstance(_held(self.title, value), t.SCALARS):
            self._wide(value)
            return
        others = isinstance(self.value, t.Text) or (
            isinstance(self.value, t.Enum) and t.is_constant_text(self.value) and self.value != value.type
        )
        if others and values.named_text(value) is not None:
            self._wide(value)
            return
        assert not isinstance(value, values.WIDE)
        if isinstance(self.value, t.Text | t.Tuple | t.Array):
            raise self._other(value, value.type)
        if (
            isinstance(self.value, t.Enum)
            and isinstance(value.type, t.Enum)
            and self.value.name == value.type.name
        ):
            return
        type_ = _plain(value.type)
        either = isinstance(value, c.Const) and values.fits(value, t.S64) and values.fits(value, t.U64)
        if self.kind not in ("hash", "lru"):
            type_ = t.S64 if t.signed(type_) or either else t.U64
        both: Part | t.Tuple | None = type_ if self.value is None else _joined(self.value, type_)
        if isinstance(value, c.Const) and either and (self.value is None or self.constants is not None):
            self.constants = max(value.value, self.constants or 0)
        elif self.constants is not None:
            if values.fits(c.Const(self.constants, t.S64, value.span), type_):
                both = type_
            self.constants = None
        if isinstance(value, c.Const) and self.value is not None and values.fits(value, self.value):
            both = self.value
        if both is None or not isinstance(both, t.SCALARS):
            raise self._other(value, type_)
        if self.kind == "count":
            return
        self._learn(self.key, both, value.span)

    def _wide(self, value: Value) -> None:
        """A text, an array or a tuple is set."""
        found = _held(self.title, value)
        if self.kind not in ("hash", "lru"):
            raise TextError(value.span, f"{self.title} takes numbers, and this is {_word(found)}")
        both = found if self.value is None else _together(self.value, found)
        if both is None:
            raise self._other(value, found)
        bounded(self.title, both, value.span)
        self._learn(self.key, both, value.span)

    def _other(self, value: Value, type_: t.Type) -> TextError:
        assert self.value is not None
        message = f"values of {self.title} were {_word(self.value)}, and this is {_word(type_)}"
        return TextError(value.span, message, "use another map, or cast one of them")

    def _learn(self, key: "tuple[Part, ...] | None", value: Held | None, span: Span) -> None:
        if (key, value) == (self.key, self.value):
            return
        if not self.open:
            message = f"the types of {self.title} are others here than elsewhere"
            raise TextError(span, message, "cast what is kept in it, or use another map")
        self.key, self.value, self.changed = key, value, True


def _cut(value: Value) -> Value:
    """A value as it can be a part of a key: texts are cut, arrays of numbers are not texts."""
    if _array(value) is not None:
        return value
    text = None if isinstance(value, Literal) else values.as_text(value, TEXT_MOST, value.span)
    if text is None:
        return value
    return text.replace(type=t.Text(min(text.type.limit, TEXT_MOST), text.type.space, text.type.exact))


def _part(title: str, value: Value) -> Part:
    """The type of a part of a key."""
    type_ = _held(title, value)
    assert not isinstance(type_, t.Tuple)
    return type_


def _held(title: str, value: Value) -> Held:
    """The type of a value as a map keeps it. Raises `TextError` for what none keeps."""
    if isinstance(value, values.Tuple):
        return t.Tuple(tuple(_held(title, one) for one in value.items), value.type.names)
    if isinstance(value, Literal):
        return t.Text(max(len(value.value.encode("utf-8", "surrogateescape")), 1))
    array = _array(value)
    if array is not None:
        return array
    text = values.as_text(value, builtins.TEXT_LIMIT, value.span)
    if text is not None:
        return t.Text(max(text.type.limit, 1))
    if isinstance(value, values.WIDE) or not isinstance(value.type, t.SCALARS):
        message = f"{t.article(value.type)} in {title} is not supported yet"
        raise TextError(value.span, message)
    return _plain(value.type)


def _array(value: Value) -> t.Array | None:
    """The type of an array of numbers whose length is known; None for what is none."""
    array = value.type if isinstance(value, c.ReadBlock) else None
    if not isinstance(array, t.Array) or t.is_text_array(array) or not array.length:
        return None
    return array if t.is_scalar(array.element) else None


def _together(a: Held, b: Held) -> Held | None:
    """The type that holds both values; None where there is none."""
    if isinstance(a, t.Tuple) and isinstance(b, t.Tuple):
        if len(a.items) != len(b.items) or a.names != b.names:
            return None
        items = [_together(*pair) for pair in zip(a.items, b.items, strict=True)]  # type: ignore[arg-type]  # parts
        return None if None in items else a.replace(items=tuple(items))
    if isinstance(a, t.Tuple) or isinstance(b, t.Tuple):
        return None
    return _joined(a, b)


def _plain(type_: t.Scalar) -> t.Scalar:
    """A scalar's type as it is kept: numbers with 64 bits, but what is shown otherwise as it is."""
    shown = isinstance(type_, t.Int) and type_.display.startswith((*t.ADDRESSES, TIMES))
    if isinstance(type_, t.Int) and not shown:
        return t.S64 if type_.signed else t.U64
    return type_


def _limit(type_: Part) -> int:
    """Bytes of a text, or of the longest of several constant ones; 0 for what is none."""
    if isinstance(type_, t.Text):
        return type_.limit
    if isinstance(type_, t.Enum) and t.is_constant_text(type_):
        return max(1, *(len(name.encode("utf-8", "surrogateescape")) for name, _ in type_.values))
    return 0


def _joined(a: Part, b: Part) -> "Part | None":
    """The type that holds both; None where there is none."""
    if a == b:
        return a
    texts = [_limit(one) for one in (a, b)]
    if all(texts):  # constant ones of two places have other numbers there
        return t.Text(max(texts))
    if isinstance(a, t.Text) and isinstance(b, t.Text):
        return t.Text(max(a.limit, b.limit))
    others = (t.Text, t.Array, t.Stack)
    if isinstance(a, others) or isinstance(b, others):
        return None
    if t.is_constant_text(a) or t.is_constant_text(b):
        return None
    if isinstance(a, t.Pointer) and isinstance(b, t.Pointer):
        return t.Pointer(t.VOID, a.space)
    if t.is_integer(a) and t.is_integer(b):
        return t.S64 if t.signed(a) or t.signed(b) else t.U64
    return t.U64


def _word(type_: t.Type) -> str:
    return "a text" if isinstance(type_, t.Text) else t.article(type_)
