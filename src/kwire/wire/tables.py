"""TABLE: what a map of a probe's program held at one moment, in frames of which each can be taken by itself.

The map is described by a SCHEMA of kind `map`, whose number the frames carry: `Schema.map` says what it
keeps, and its fields what a row is as a record, for who wants columns (`records`). Invariants: a frame is
bounded whatever a map holds; a table is given only when all its frames have come, in their order, and a frame
that is missing is never taken for another one's; hostile bytes give FrameError BAD_PAYLOAD and nothing else.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from kwire.hints import Any, Final, TypeAlias
from kwire.lazy import NamedTuple
from kwire.wire import cbor
from kwire.wire.fields import FIELDS_AT, TYPES, Field, make_decoder, text_bytes
from kwire.wire.frame import HEADER_SIZE, Frame, FrameError, Type, bad_payload, build
from kwire.wire.frames import Frames
from kwire.wire.keyed import FLAG, TEXT, Key, Kind, integer, listing, named, read_payload, table
from kwire.wire.messages import U64_MAX
from kwire.wire.schema import Items, MapShape, Schema
from kwire.wire.stacks import Frame as StackFrame
from kwire.wire.stacks import Stack

LIMIT: Final = 16 << 10
"""Bytes of a frame, where a row is not longer."""

MOST: Final = 16 << 20
"""Payload bytes of tables not whole yet that a reader holds."""

HEAD: Final = 192
"""Bytes of a payload beside its rows and symbols, at most."""

SHOWN: Final = {
    "print": "the script asked for it: in order, at its time",
    "end": "it was left when the trace ended: after all else",
}
"""Why a table is printed; one of another reason, or of none, is kept and not printed."""

BUCKETS: Final = ("hist", "lhist")
TOTALS: Final = ("avg", "stats")
STACK: Final = "stack"
"""The kind of the map that tells stacks: its keys are the number of a stack and of a frame in it, from 0, the
innermost one; a stack without frames has one that is at address 0.
"""
BYTES: Final = ("ipv6", "mac", "raw")
"""Types of fields whose cells are bytes; so are those of arrays."""

HEAD_OF_EVENT: Final = build(Type.EVENT, 1, bytes(8))

Cell: TypeAlias = "int | bool | str | bytes"
"""A number, a text, or an array as its bytes."""
Bucket: TypeAlias = "tuple[int | None, int | None, int]"
Held: TypeAlias = Any
"""A value: a `Cell`; a tuple of such, and of tuples, where `MapShape.items` are; of "avg" and "stats" how
many numbers there were and their sum; of histograms a tuple of `Bucket`s, from the first to the last that is
not empty. None: it was set back, and nothing was added since.
"""


class Row(NamedTuple):
    """An entry of a map: the parts of its key, and its value."""

    key: tuple[Cell, ...]
    value: Held


class MapTable(NamedTuple):
    """A map at one moment. `number`: which table of this map it is, from 1; `time`: ns of the SCHEMA's clock.

    `shown`: why it is printed, one of SHOWN; `top`, `div`: of a print: how many entries, those with the
    greatest values, 0 for all; by what values are divided. `lost`: updates of the map that found no room
    until then. `symbols`: names of addresses in the rows.
    """

    number: int
    time: int
    rows: tuple[Row, ...]
    shown: str = ""
    top: int = 0
    div: int = 1
    lost: int = 0
    symbols: Mapping[int, str] = {}

    def frames(self, id: int, limit: int = LIMIT) -> list[bytes]:
        """The TABLE frames that say this, of map `id`, each of about `limit` bytes at most."""
        head: dict[str, Any] = {"table": self.number, "time": self.time}
        defaults = MapTable._field_defaults
        for name in ("shown", "top", "div", "lost"):
            if getattr(self, name) != defaults[name]:
                head[name] = getattr(self, name)
        room = limit - HEADER_SIZE - HEAD
        parts: list[dict[str, Any]] = [{}]
        used = 0

        def space(item: object) -> dict[str, Any]:
            nonlocal used
            size = len(cbor.dumps({0: item}))
            if used and used + size > room:
                parts.append({})
                used = 0
            used += size
            return parts[-1]

        for address, name in self.symbols.items():
            space((address, name)).setdefault("symbols", {})[address] = name
        for row in self.rows:
            item = [list(row.key), _listed(row.value)]
            space(item).setdefault("rows", []).append(item)
        made = []
        for number, part in enumerate(parts):
            value = {**head, "part": number, **part}
            if number + 1 < len(parts):
                value["more"] = True
            made.append(build(Type.TABLE, id, cbor.dumps(value)))
        return made


def _listed(value: Held) -> Any:
    return [_listed(one) for one in value] if isinstance(value, tuple) else value


# ---- reading


def _cell(value: Any) -> bool:
    return type(value) in (int, bool, str, bytes)


def _value(value: Any) -> bool:
    return all(map(_value, value)) if type(value) is list else value is None or _cell(value)


def _row_wrong(item: Any) -> str | None:
    if type(item) is not list or len(item) != 2:
        return f": {named(item)}"
    key, value = item
    if type(key) is not list or not all(map(_cell, key)):
        return f": {named(key)} as a key"
    return None if _value(value) else f": {named(value)} as a value"


_U32 = integer((1 << 32) - 1)
_U64 = integer(U64_MAX)
KEYS: Final = {
    "table": Key(integer((1 << 32) - 1, least=1), "which table of this map it is, from 1"),
    "part": Key(_U32, "which of its frames, from 0"),
    "time": Key(_U64, "when the map held this, ns of the SCHEMA's clock"),
    "more": Key(FLAG, "another frame of this table follows", False),
    "shown": Key(TEXT, "why it is printed, below; where it is missing it is not", ""),
    "top": Key(_U32, "of a print: how many entries, those with the greatest values; 0: all", 0),
    "div": Key(integer(U64_MAX, least=-(1 << 63)), "of a print: by what values are divided", 1),
    "lost": Key(_U64, "updates of the map that found no room until then", 0),
    "rows": Key(
        listing(Kind("a list of a key and a value", _row_wrong), "a list of rows"),
        "the entries: of each a list of the parts of its key, and its value",
        [],
    ),
    "symbols": Key(
        table(integer(U64_MAX), TEXT, "a map from addresses to texts"), "names of addresses in the rows", {}
    ),
}
"""The keys of a TABLE's payload."""

_HEAD: Final = {"time": Key(_U64, "", 0), "more": Key(FLAG, "", False)}


class TablePart(NamedTuple):
    """One TABLE frame of a map; the fields are the keys of its payload."""

    table: int
    part: int
    time: int
    more: bool
    shown: str
    top: int
    div: int
    lost: int
    rows: Sequence[Any]
    symbols: Mapping[int, str]


def read_table_part(frame: Frame) -> TablePart:
    """What one TABLE frame says. Raises FrameError BAD_PAYLOAD."""
    base = frame.offset + HEADER_SIZE
    return TablePart(**read_payload(cbor.loads_map(frame.payload, base), KEYS, base))


def head_of(frame: Frame) -> tuple[int, bool]:
    """The time that a TABLE frame tells, whatever else is wrong with it, 0 where it tells none; and whether
    another frame of its table follows.
    """
    try:
        value = cbor.loads_map(frame.payload, frame.offset + HEADER_SIZE)
        found = read_payload(value, _HEAD, 0)
    except FrameError:
        return 0, False
    return int(found["time"]), bool(found["more"])


def time_of(frame: Frame) -> int:
    """The time that a TABLE frame tells, as `head_of`."""
    return head_of(frame)[0]


class TableReader:
    """Puts the frames of tables together, of one stream. `torn`: frames of tables that are not whole."""

    __slots__ = ("_held", "_waiting", "torn")

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[list[TablePart], int]] = {}  # by map: its frames, their bytes
        self._held = 0
        self.torn = 0

    def add(self, frame: Frame) -> MapTable | None:
        """Take a TABLE frame of a map; gives the table whose last one it is. Raises FrameError."""
        part = read_table_part(frame)
        id = frame.header.id
        parts, size = self._waiting.pop(id, ([], 0))
        self._held -= size
        if parts and (part.table, part.part) != (parts[0].table, len(parts)):
            self.torn += len(parts)
            parts, size = [], 0
        if part.part != len(parts):
            self.torn += 1
            return None
        size += len(frame.payload)
        if size + self._held > MOST:
            self.torn += len(parts) + 1
            raise bad_payload(frame.offset + HEADER_SIZE, f"{size} bytes and no end", f"at most {MOST} bytes")
        parts.append(part)
        if part.more:
            self._waiting[id] = (parts, size)
            self._held += size
            return None
        symbols: dict[int, str] = {}
        rows: list[Row] = []
        for one in parts:
            symbols |= one.symbols
            rows += (Row(tuple(key), _taken(value)) for key, value in one.rows)
        return MapTable(
            *(part.table, parts[0].time, tuple(rows), part.shown, part.top, part.div, part.lost, symbols)
        )

    def finish(self) -> None:
        """No more frames come."""
        self.torn += sum(len(parts) for parts, _ in self._waiting.values())
        self._waiting.clear()
        self._held = 0


def _taken(value: Any) -> Held:
    if type(value) is not list:
        return value
    return tuple(map(_taken, value))


def problem(schema: Schema, rows: Iterable[Row]) -> str:
    """What about rows is not as the SCHEMA of their map says; empty where nothing is."""
    shape = schema.map
    if shape is None:
        return "it is of no map"
    fields, kind = schema.fields[: shape.keys], shape.kind
    own = schema.fields[shape.keys : -1]
    for key, value in rows:
        if len(key) != len(fields):
            return f"a key of {len(key)} parts, not {len(fields)}"
        for part, field in zip(key, fields, strict=True):
            if not fits(part, field):
                return f"{field.name} is {named(part)}"
        if kind in BUCKETS:
            sound = isinstance(value, tuple) and all(map(_bucket, value))
        elif kind in TOTALS:
            sound = isinstance(value, tuple) and len(value) == 2 and all(map(_number, value))
        elif kind == STACK:
            sound = isinstance(value, tuple) and len(value) == len(own) and all(map(fits, value, own))
        elif shape.items:
            leaves = _leaves(shape.items, value)
            sound = leaves is not None and all(fits(*one) for one in zip(leaves, own, strict=True))
        else:
            sound = fits(value, own[0]) or (value is None and kind in ("min", "max"))
        if not sound:
            return f"a value of kind {kind} is {named(_listed(value))}, not as it should be"
    return ""


def learn(schema: Schema, held: MapTable) -> None:
    """Where the table tells stacks, keep what their numbers mean for the schemas of the same stream. Rows
    must have no `problem`.
    """
    if not schema.tells or schema.stacks is None:
        return
    found: dict[int, list[StackFrame]] = {}
    for (number, _), frame in held.rows:
        frames = found.setdefault(number, [])  # type: ignore[arg-type]  # `problem` has seen to it
        if frame[0]:
            frames.append(StackFrame(*frame))
    for number, frames in found.items():
        schema.stacks.add(number, Stack(frames))


def stack_rows(stacks: Iterable[tuple[int, Stack]]) -> Iterator[Row]:
    """Stacks as the rows of a table."""
    for number, stack in stacks:
        for level, frame in enumerate(stack or (StackFrame(0),)):
            yield Row((number, level), tuple(frame))


def fits(cell: Any, field: Field) -> bool:
    """Whether a cell is one of a field."""
    if field.count > 1 or field.type in BYTES:
        return isinstance(cell, bytes) and len(cell) == field.size
    return isinstance(cell, str if TYPES[field.type].kind == "str" else int)


def cell_reader(schema: Schema, field: Field) -> Callable[[Any], Any] | None:
    """The function that makes of a cell what a record's field holds; None where that is the cell itself."""
    if field.count == 1 and field.type not in (*BYTES, "ipv4"):
        return None
    decode = make_decoder((field._replace(offset=FIELDS_AT),), FIELDS_AT + field.size, schema.order)
    order: Any = schema.order

    def read(cell: Any) -> Any:
        if isinstance(cell, int):
            cell = (cell & (1 << 8 * field.size) - 1).to_bytes(field.size, order)
        record = HEAD_OF_EVENT + cell
        return decode(record[:2] + len(record).to_bytes(2, "big") + record[4:])[0]

    return read


def _number(value: Any) -> bool:
    return type(value) is int


def _bucket(value: Any) -> bool:
    if not isinstance(value, tuple) or len(value) != 3 or not _number(value[2]):
        return False
    return all(end is None or _number(end) for end in value[:2])


def cells(schema: Schema, row: Row) -> tuple[Any, ...]:
    """The parts of the key and of the value of a row, in the order of the fields, as far as it has them."""
    shape = schema.map
    value = _leaves(shape.items, row.value) if shape is not None and shape.items else [row.value]
    return (*row.key, *(value or ()))


def _leaves(items: Items, value: Any) -> list[Cell] | None:
    """The cells of a tuple, those of tuples in it among them; None where it has not these items."""
    if not isinstance(value, tuple) or len(value) != len(items):
        return None
    found: list[Cell] = []
    for (_, inner), one in zip(items, value, strict=True):
        more = _leaves(inner, one) if inner else [one]
        if more is None:
            return None
        found += more
    return found


# ---- rows as records


def records(schema: Schema, held: MapTable) -> Frames:
    """The rows as EVENT frames of the map's SCHEMA, with the time of the table: of a histogram one each
    bucket. Rows must have no `problem`.
    """
    shape = schema.map
    assert shape is not None  # the caller has seen to it
    data, offsets = bytearray(), array("Q")
    for key, value in held.rows:
        for values in _values(shape, value):
            record = _record(schema, held.time, (*key, *values, held.number))
            offsets.append(len(data))
            data += build(Type.EVENT, schema.id, record)
    return Frames(bytes(data), offsets)


def _values(shape: MapShape, value: Held) -> Iterator[tuple[Cell, ...]]:
    kind = shape.kind
    if kind in BUCKETS:
        for low, high, number in value:
            yield (-(1 << 63) if low is None else low, (1 << 63) - 1 if high is None else high, number)
    elif kind in TOTALS:
        number, total = value
        yield number, total, divided(total, number)
    elif kind == STACK:
        yield value
    elif shape.items:
        yield tuple(_leaves(shape.items, value) or ())
    else:
        yield (0 if value is None else value,)


def divided(value: int, by: int) -> int:
    """A division as in C, truncated toward 0; 0 where there is nothing to divide by."""
    if not by:
        return 0
    quotient = abs(value) // abs(by)
    return quotient if (value < 0) == (by < 0) else -quotient


def _record(schema: Schema, time: int, values: Sequence[Cell]) -> bytes:
    order: Any = schema.order
    made = bytearray(schema.size - HEADER_SIZE)
    made[:8] = time.to_bytes(8, order)
    tail = bytearray()
    for field, value in zip(schema.fields, values, strict=True):
        at = field.offset - HEADER_SIZE
        rule = TYPES[field.type]
        if rule.tail:
            data = text_bytes(str(value))[: field.limit or None]
            made[at : at + 4] = (schema.size + len(tail)).to_bytes(2, order) + len(data).to_bytes(2, order)
            tail += data
            continue
        if isinstance(value, bytes):
            made[at : at + field.size] = value
            continue
        number = int(value)
        if rule.signed:  # what has no room is the greatest number there is
            number = min(max(number, -(1 << 8 * field.size - 1)), (1 << 8 * field.size - 1) - 1)
        number &= (1 << 8 * field.size) - 1
        made[at : at + field.size] = number.to_bytes(field.size, order)
    return bytes(made + tail)
