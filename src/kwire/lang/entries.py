"""How keys and values of maps lie in memory: their parts, one after another.

Invariants: a key is laid out as C does a structure, zeros in between and behind a text. A value is made of
8-byte words, a number having one, a text or an array as many as it needs; behind the NUL of a text may be
anything.
"""

from kwire.hints import Final
from kwire.lang import checked, types
from kwire.lang.errors import TextError
from kwire.lang.tree import Span
from kwire.lazy import NamedTuple

VALUE_MOST: Final = 32768
"""Bytes of a value."""

WORD: Final = 8


class EntryMember(NamedTuple):
    """A part of a key or value: where it lies, and how many bytes it has."""

    type: types.Part
    offset: int
    size: int


def value_parts(map: checked.Map) -> tuple[EntryMember, ...]:
    """How the parts of a value of a "hash" or "lru" lie."""
    found, at = [], 0
    for type_ in types.leaves(map.value):
        size = 8
        if isinstance(type_, types.Text | types.Array):
            size = _words(type_.limit + 1 if isinstance(type_, types.Text) else types.size_of(type_))
        found.append(EntryMember(type_, at, size))
        at += size
    return tuple(found)


def value_size(map: checked.Map) -> int:
    """Bytes of a value of a "hash" or "lru"."""
    last = value_parts(map)[-1]
    return last.offset + last.size


def key_parts(map: checked.Map) -> tuple[EntryMember, ...]:
    """How the parts of a map's keys lie."""
    found, at = [], 0
    for type_ in map.key:
        if isinstance(type_, types.Text):
            size, step = _words(type_.limit + 1), 8
        elif isinstance(type_, types.Array):
            size, step = _words(types.size_of(type_)), 8
        else:
            size = types.size_of(type_)
            step = min(size & -size, WORD)
        at = (at + step - 1) & -step
        found.append(EntryMember(type_, at, size))
        at += size
    return tuple(found)


def key_size(map: checked.Map) -> int:
    """Bytes of a key."""
    parts = key_parts(map)
    size = parts[-1].offset + parts[-1].size if parts else 0
    step = max((min(one.size, 8) for one in parts), default=1)
    return (size + step - 1) & -step


def bounded(title: str, value: types.Part | types.Tuple, span: Span) -> None:
    """Refuse values that are too large."""
    if not isinstance(value, types.SCALARS):
        size = value_size(checked.Map(title, "hash", (types.U64,), value, 1))
        if size > VALUE_MOST:
            raise TextError(span, f"a value of {title} would have {size} bytes, the most is {VALUE_MOST}")


def _words(size: int) -> int:
    """The next multiple of a word's bytes."""
    return (size + WORD - 1) & -WORD
