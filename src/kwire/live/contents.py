"""What maps hold, as Python values: keys and values of the kernel's bytes and back.

Invariants: what each CPU keeps is put together as the kind of the map says; numbers are exact (sums wrap at
64 bits, as in the kernel); a text is what stands before its NUL.
"""

import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from kwire.compile.maps import PER_CPU, stride, words
from kwire.errors import KwireError
from kwire.hints import Any, TypeAlias
from kwire.lang import types as t
from kwire.lang.checked import Map
from kwire.lang.entries import EntryMember, key_parts, key_size, value_parts, value_size
from kwire.lazy import NamedTuple
from kwire.wire.fields import Field, text, text_bytes
from kwire.wire.schema import Items as Shape
from kwire.wire.schema import Schema
from kwire.wire.stacks import Stacks
from kwire.wire.tables import BUCKETS, TOTALS, Held, MapTable, Row
from kwire.words import plural

MASK = (1 << 64) - 1

KeyPart: TypeAlias = int | bool | str | bytes
"""A number, a text, or an array as its bytes."""
Key: TypeAlias = tuple[KeyPart, ...]


class Total(NamedTuple):
    """How many numbers there were (`number`), and their sum."""

    number: int
    total: int

    @property
    def average(self) -> float:
        """The sum divided by how many there were; 0 where there were none."""
        return self.total / self.number if self.number else 0.0


class Items(tuple["KeyPart | Items", ...]):
    """The parts of a tuple that was kept."""

    __slots__ = ()


class Bucket(NamedTuple):
    """How many numbers were at least `low` and less than `high`; None: there is no such end."""

    low: int | None
    high: int | None
    number: int


class Distribution(tuple[Bucket, ...]):
    """The buckets of a histogram, from the first to the last that is not empty; as text they are drawn."""

    __slots__ = ()

    @property
    def number(self) -> int:
        """How many numbers there were."""
        return sum(one.number for one in self)

    def __str__(self) -> str:
        from kwire.view.maps import histogram

        return "\n".join(histogram(self))

    def _repr_html_(self) -> str:
        """The histogram in a notebook: a picture."""
        from kwire.view.html import histogram

        return histogram(self)


Value: TypeAlias = "KeyPart | float | Total | Distribution | Items | None"
Raw: TypeAlias = dict[bytes, list[bytes]]
"""Keys and values as the kernel has them: one value, or one for each CPU; a map without keys has the key
b""."""


def key_of(map: Map, data: bytes) -> Key:
    """The parts of a key; a stack, and one of several constant texts, is a number."""
    return tuple(_part(one.type, data[one.offset : one.offset + one.size]) for one in key_parts(map))


def meant_key(map: Map, data: bytes, stacks: Stacks | None) -> Key:
    """The parts of a key; what is a number of a stack or text is that."""
    return tuple(_meant(type_, part, stacks) for type_, part in zip(map.key, key_of(map, data), strict=True))


def _meant(type_: t.Type, value: Any, stacks: Stacks | None) -> Any:
    """A value, or the stack or the constant text that it is the number of."""
    if isinstance(type_, t.Tuple) and isinstance(value, Items):
        both = zip(type_.items, value, strict=True)
        return Items(_meant(one, part, stacks) for one, part in both)
    if isinstance(type_, t.Stack) and stacks is not None:
        return stacks.stack(value)
    if isinstance(type_, t.Enum) and t.is_constant_text(type_):
        return next((label for label, number in type_.values if number == value), "")
    return value


def _part(type_: t.Part, data: bytes) -> KeyPart:
    if isinstance(type_, t.Text):
        return text(data.split(b"\0")[0])
    if isinstance(type_, t.Array):
        return data[: t.size_of(type_)]
    if isinstance(type_, t.Bool):
        return data != bytes(1)
    return int.from_bytes(data, sys.byteorder, signed=t.signed(type_))


def bytes_of(map: Map, key: Sequence[object]) -> bytes:
    """The bytes of a key. Raises KwireError for one that the map cannot have."""
    parts = key_parts(map)
    if len(key) != len(parts):
        raise KwireError("use map", map.name, f"its keys have {plural(len(parts), 'part')}, not {len(key)}")
    made = bytearray(key_size(map))
    for part, given in zip(parts, key, strict=True):
        data = _wide(map, part, given)
        if data is None:
            data = _integer(map, given, part.type)
        made[part.offset : part.offset + len(data)] = data
    return bytes(made)


def _wide(map: Map, part: EntryMember, given: object) -> bytes | None:
    """The bytes of a text or an array; None for a part that is a number."""
    if isinstance(part.type, t.Array):
        size = t.size_of(part.type)
        if not isinstance(given, bytes) or len(given) != size:
            raise KwireError("use map", map.name, f"{given!r} is no {size} bytes")
        return given
    if not isinstance(part.type, t.Text):
        return None
    if not isinstance(given, str | bytes):
        raise KwireError("use map", map.name, f"{given!r} is no text")
    data = given if isinstance(given, bytes) else text_bytes(given)
    if len(data) > part.type.limit or b"\0" in data:
        raise KwireError("use map", map.name, f"{given!r} is no text of at most {part.type.limit} bytes")
    return data


def word_of(map: Map, value: object) -> bytes:
    """The bytes of a value of a "hash" or "lru". Raises KwireError for one that does not fit."""
    given = _flat(value) if isinstance(map.value, t.Tuple) else [value]
    parts = value_parts(map)
    if len(given) != len(parts):
        raise KwireError("use map", map.name, f"{value!r} has not {len(parts)} parts")
    made = bytearray(value_size(map))
    for part, one in zip(parts, given, strict=True):
        data = _wide(map, part, one)
        if data is None:
            assert isinstance(part.type, t.SCALARS)
            data = _integer(map, one, part.type)
            number = int.from_bytes(data, sys.byteorder, signed=t.signed(part.type))
            data = (number & MASK).to_bytes(8, sys.byteorder)
        made[part.offset : part.offset + len(data)] = data
    return bytes(made)


def _flat(value: object) -> list[object]:
    """The parts of a tuple, those of tuples in it among them."""
    if not isinstance(value, tuple | list):
        return [value]
    return [part for one in value for part in _flat(one)]


def _integer(map: Map, value: object, type_: t.Part) -> bytes:
    if isinstance(type_, t.Enum) and t.is_constant_text(type_) and isinstance(value, str):
        numbers = dict(type_.values)
        if value not in numbers:
            known = ", ".join(repr(name) for name in numbers if name)
            raise KwireError("use map", map.name, f"{value!r} is none of its texts", f"they are {known}")
        value = numbers[value]
    size, signed = t.size_of(type_), t.signed(type_)
    low, high = (-(1 << 8 * size - 1), 1 << 8 * size - 1) if signed else (0, 1 << 8 * size)
    if not isinstance(value, int) or not low <= value < high:
        sign = "signed" if signed else "unsigned"
        raise KwireError("use map", map.name, f"{value!r} is no {sign} integer of {plural(size, 'byte')}")
    return (value & (1 << 8 * size) - 1).to_bytes(size, sys.byteorder)


def split(map: Map, data: bytes) -> list[bytes]:
    """The values in the memory of a map without keys: one, or one for each CPU; none where it was never
    set."""
    size = 8 * words(map)
    if map.kind not in PER_CPU:
        return [data[:size]] if any(data[size - 8 : size]) else []
    step = stride(map)
    return [data[at : at + size] for at in range(0, len(data), step)]


def value_of(map: Map, values: Iterable[bytes]) -> Value:
    """What the values of a key mean together. None: there was nothing that has a smallest or greatest."""
    if map.kind in ("min", "max"):
        parts = (struct.unpack("=QQ", one) for one in values)
        kept = [_number(map, number) for number, there in parts if there]
        if not kept:
            return None
        return min(kept) if map.kind == "min" else max(kept)
    if not isinstance(map.value, t.SCALARS):
        return _items(map.value, list(value_parts(map)), next(iter(values)))
    return meaning(map, together(map, values))


def _items(type_: t.Part | t.Tuple, parts: list[EntryMember], data: bytes) -> "KeyPart | Items":
    """A text, an array or a tuple out of the bytes of a value; `parts`: those that are left."""
    if isinstance(type_, t.Tuple):
        return Items(_items(one, parts, data) for one in type_.items)  # type: ignore[arg-type]  # a part
    part = parts.pop(0)
    return _part(part.type, data[part.offset : part.offset + part.size])


def together(map: Map, values: Iterable[bytes]) -> list[int]:
    """The words of a value that is added up, all CPUs' together."""
    parts = [struct.unpack(f"={len(one) // 8}Q", one) for one in values]
    return [sum(column) & MASK for column in zip(*parts, strict=True)] or [0] * words(map)


def meaning(map: Map, together: Sequence[int]) -> Value:
    """What the words of a value mean, which all CPUs have together."""
    if map.kind == "hist":
        return _trimmed(log2_buckets(map.bounds[0]), together)
    if map.kind == "lhist":
        return _trimmed(linear_buckets(map.bounds), together)
    if map.kind in ("avg", "stats"):
        total = Total(together[1], _number(map, together[0]))
        return total if map.kind == "stats" else total.average
    number = together[0] if map.kind == "count" else _number(map, together[0])
    return bool(number) if isinstance(map.value, t.Bool) else number


def _number(map: Map, word: int) -> int:
    return word - (1 << 64) if t.signed(map.value) and word >> 63 else word


def log2_buckets(bits: int = 0) -> list[tuple[int | None, int | None]]:
    """The ends of the buckets of a histogram of powers of two, each of which is 2^`bits` buckets."""
    small = [(at, at + 1) for at in range(1 << bits)]
    parts = range(1 << bits, 2 << bits)
    large = [(part << shift, part + 1 << shift) for shift in range(64 - bits) for part in parts]
    return [(None, 0), *small, *large]


def linear_buckets(bounds: tuple[int, int, int]) -> list[tuple[int | None, int | None]]:
    """The ends of the buckets of a linear histogram."""
    low, high, step = bounds
    inside = [(at, min(at + step, high)) for at in range(low, high, step)]
    return [(None, low), *inside, (high, None)]


def _trimmed(ends: list[tuple[int | None, int | None]], counts: Sequence[int]) -> Distribution:
    filled = [number for number, count in enumerate(counts) if count]
    if not filled:
        return Distribution()
    return Distribution(Bucket(*ends[at], counts[at]) for at in range(filled[0], filled[-1] + 1))


class Contents(NamedTuple):
    """A map at one moment: its values by key, and how many updates found no room so far."""

    entries: Mapping[Key, Value]
    lost: int


def contents(map: Map, raw: Raw, lost: int, stacks: Stacks | None = None) -> Contents:
    """The contents of a map; with `stacks` numbers of stacks are the stacks."""
    held = ((meant_key(map, key, stacks), value_of(map, values)) for key, values in raw.items())
    return Contents({key: _meant(map.value, value, stacks) for key, value in held}, lost)


def meant(schema: Schema, field: Field, cell: Any) -> Any:
    """A value of a field, or the stack or the constant text that it is the number of."""
    if field.type == "stack" and schema.stacks is not None:
        return schema.stacks.stack(cell)
    return constant_text(schema, field, cell)


def constant_text(schema: Schema, field: Field, cell: Any) -> Any:
    """A value of a field, or the constant text that it is the number of."""
    if field.enum.partition(" of ")[0] == t.TEXTS:
        return schema.enums[field.enum].get(cell, "")
    return cell


def told(schema: Schema, held: MapTable) -> Contents:
    """The contents of a map that a TABLE told, which has no `problem`."""
    shape = schema.map
    assert shape is not None  # the table is one of a map

    def part(field: Field, cell: Any) -> Any:
        return meant(schema, field, cell)

    own = schema.fields[shape.keys : -1]
    made: dict[Key, Value] = {}
    for key, value in held.rows:
        parts = tuple(part(field, cell) for field, cell in zip(schema.fields, key, strict=False))
        if shape.kind in BUCKETS:
            made[parts] = Distribution(Bucket(*one) for one in value)
        elif shape.kind in TOTALS:
            total = Total(*value)
            made[parts] = total if shape.kind == "stats" else total.average
        elif shape.items:
            made[parts] = _told_items(shape.items, value, iter(own), part)
        else:
            made[parts] = part(own[0], value)
    return Contents(made, held.lost)


def _told_items(
    shape: Shape, value: Any, fields: Iterator[Field], part: Callable[[Field, Any], Any]
) -> Items:
    both = zip(shape, value, strict=True)
    return Items(
        _told_items(inner, one, fields, part) if inner else part(next(fields), one)
        for (_, inner), one in both
    )


def in_order(entries: Mapping[Key, Value]) -> list[tuple[Key, Value]]:
    """Entries, the greatest first; equal ones, and those that have no order, by their keys."""

    def rank(entry: tuple[Key, Value]) -> tuple[float, list[tuple[str, KeyPart]]]:
        key, value = entry
        return -_magnitude(value), [(type(part).__name__, part) for part in key]

    return sorted(entries.items(), key=rank)


def _magnitude(value: Value) -> float:
    """What values are sorted by."""
    if isinstance(value, Total | Distribution):
        return value.number
    return value if isinstance(value, int | float) else 0


def rows_of(map: Map, raw: Raw, *, zeros: bool = False) -> Iterator[Row]:
    """The rows of the table of what a map holds. A map without keys has none until it is given a value,
    unless it was set to 0 (`zeros`).
    """
    kept = map.replace(kind="stats") if map.kind == "avg" else map  # its sum, too
    for key, values in raw.items():
        value = value_of(kept, values)
        made: Held
        if isinstance(value, Total):
            made = (value.number, value.total)
        elif isinstance(value, Distribution):
            made = tuple((one.low, one.high, one.number) for one in value)
        elif isinstance(value, Items):
            made = _plain_items(value)
        else:
            assert not isinstance(value, float)  # only averages are, which have a sum here
            made = value
        if key or zeros or not _nothing(map.kind, made):
            yield Row(key_of(map, key), made)


def _plain_items(items: Items) -> tuple[Held, ...]:
    return tuple(_plain_items(one) if isinstance(one, Items) else one for one in items)


def _nothing(kind: str, value: Held) -> bool:
    """Whether a map without keys was never given anything."""
    if value is None:
        return True
    if isinstance(value, tuple):
        return kind not in ("hash", "lru") and (not value or (kind in ("avg", "stats") and not value[0]))
    return not value if kind in ("count", "sum") else False
