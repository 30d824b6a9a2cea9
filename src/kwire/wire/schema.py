"""Schemas: what a probe's records hold, as a value, as SCHEMA frames, and as a decoder of EVENT frames.

Invariants: a SCHEMA frame carries one CBOR map; what is too large for a frame goes on in frames of the same
id, `more` true in all but the last, each adding to the maps and lists before it; a reader ignores keys it
does not know. A schema that was read has been checked, so that decoding with it stays inside the frame.
Hostile bytes give FrameError BAD_PAYLOAD and nothing else, within bounded memory.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping

from kwire.hints import Any, Final, TypeAlias
from kwire.lazy import NamedTuple
from kwire.wire import cbor, printf
from kwire.wire.fields import (
    FIELDS_AT,
    MAX_FIELD_BYTES,
    TIMESTAMP_AT,
    TYPES,
    CutBytes,
    CutStr,
    Decoder,
    Field,
    Value,
    check_timestamp,
    field_problem,
    make_decoder,
    payload_end,
)
from kwire.wire.frame import (
    HEADER_SIZE,
    MAX_EVENT,
    Bytes,
    Code,
    Frame,
    FrameError,
    Problem,
    Type,
    bad_payload,
    build,
)
from kwire.wire.keyed import FLAG, INTEGER, MAP, TEXT, Key, Kind, integer, listing, named, read_payload, table
from kwire.wire.messages import U64_MAX, Cause
from kwire.wire.stacks import NONE, Stack, Stacks

__all__ = [
    "MAX_FIELD_BYTES",
    "TYPES",
    "Clock",
    "CutBytes",
    "CutStr",
    "Field",
    "Labels",
    "Schema",
    "SchemaReader",
    "Value",
    "clock_of",
    "decode",
]

ORDERS = ("little", "big")
WORDS = (4, 8)
MAX_FIELDS = 1024
MAX_PENDING = 16 << 20  # payload bytes a SchemaReader holds of schemas not complete yet
SYMBOL_REACH = 1 << 20  # bytes after a symbol's address that may still belong to it

_REQUIRED = ("probe", "kind", "size", "order", "word", "fields")  # keys that are there even when empty

Map: TypeAlias = "dict[Any, Any]"


EARLIEST, LATEST = -(1 << 63), (1 << 63) - 1
"""The first and the last moment that can be told, wall-clock ns."""


def bounded(time: int) -> int:
    """The moment nearest to this one that can be told, wall-clock ns."""
    return max(EARLIEST, min(LATEST, time))


class Clock(NamedTuple):
    """The clock of the timestamps: its name, and its time and the wall clock's at one moment, in ns."""

    name: str
    monotonic: int
    wall: int

    def at(self, time: int) -> int:
        """A timestamp as nanoseconds since 1970."""
        return time - self.monotonic + self.wall


MAP_VALUES = {
    "hash": ("value",),
    "lru": ("value",),
    "count": ("value",),
    "sum": ("value",),
    "min": ("value",),
    "max": ("value",),
    "avg": ("count", "total", "average"),
    "stats": ("count", "total", "average"),
    "hist": ("low", "high", "count"),
    "lhist": ("low", "high", "count"),
    "stack": ("address", "symbol", "offset", "file"),
}
"""What maps keep, and the fields that a row of one has behind its key."""


ELEMENT: Final = "[]"
"""The name of each part of a tuple that is an array."""

Items: TypeAlias = "tuple[tuple[str, Any], ...]"
"""Of each part of a tuple its name, empty where it has none, `ELEMENT` in an array, and what it holds where
it is a tuple itself.
"""


class MapShape(NamedTuple):
    """What a map keeps: a kind, one of MAP_VALUES; of how many parts its keys are; of a linear histogram
    the first number, the one behind the last, and the width of a bucket; of a series of times the ns of an
    interval, and how many of them are shown (the last part of a key is an interval's number). `items`: of
    values that are tuples; `key_items`: of keys in which there are tuples.
    """

    kind: str
    keys: int
    bounds: tuple[int, ...] = ()
    items: Items = ()
    key_items: Items = ()

    def problem(self, fields: tuple[Field, ...]) -> str:
        """What is wrong with it for a SCHEMA of these fields; empty where nothing is."""
        names = MAP_VALUES.get(self.kind)
        if names is None:
            return f"kind {self.kind!r} is none that is known"
        if self.key_items and _leaves_of(self.key_items) != self.keys:
            return f"the tuples in its keys have not {self.keys} parts"
        if self.items:
            if names != ("value",):
                return f"values of kind {self.kind} are no tuples"
            names = tuple(f"value{number + 1}" for number in range(_leaves_of(self.items)))
        there = tuple(field.name for field in fields[self.keys :])
        if there != (*names, "table"):
            return f"the fields behind {self.keys} of a key are {', '.join(there)}, not those of its kind"
        if any(field.type in ("bytes", "text") for field in fields):
            return "a field is bytes or text"
        if self.kind not in ("hash", "lru", "stack") and any(
            field.count != 1 or TYPES[field.type].kind != "int" for field in fields[self.keys :]
        ):
            return f"what a map of kind {self.kind} keeps are numbers"
        return ""


def _leaves_of(items: Items) -> int:
    """How many fields the parts of a tuple are."""
    return sum(_leaves_of(inner) if inner else 1 for _, inner in items)


EVENT_MARK = "#"
"""Between a probe's spec and the name of one of its events."""


def event_spec(spec: str, event: str) -> str:
    """What events of one shape are called: `kprobe:tcp_connect#opened`; without a name, the probe's spec."""
    return f"{spec}{EVENT_MARK}{event}" if event else spec


def split_spec(text: str) -> tuple[str, str]:
    """The probe's spec, and the name of its event; that is empty where there is none."""
    spec, mark, event = text.rpartition(EVENT_MARK)
    return (spec, event) if mark and (event.isidentifier() or event.isdecimal()) else (text, "")


def matches(probe: str, target: str, glob: str) -> bool:
    """Whether a glob names a probe: its spec or its target, with or without the name of its event, or its
    spec without expressions.
    """
    from fnmatch import fnmatchcase

    spec, event = split_spec(probe)
    names = (probe, spec, spec.split("(", 1)[0], target, event_spec(target, event))
    return any(fnmatchcase(text, glob) for text in names)


class Schema(NamedTuple):
    """What the EVENT frames with this id hold. `size`: where the fixed part ends and the tail begins."""

    id: int  # probe number, from 1
    probe: str  # the probe spec, and the name of the event where the probe has several (`event_spec`)
    kind: str
    target: str
    fields: tuple[Field, ...]
    size: int
    order: str = "little"  # byte order of EVENT fields, timestamp included
    word: int = 8  # bytes of a pointer
    program: str = ""  # the text of the probe and of what it names
    enums: Mapping[str, Mapping[int, str]] = {}
    symbols: Mapping[int, str] = {}  # address → name
    clock: Clock | None = None
    host: str = ""
    kernel: str = ""
    shares: tuple[str, ...] = ()  # specs of the other probes that this one's program serves
    prints: str = ""  # how the event is printed, where a script prints it: one of `printf.PRINTED`
    format: str = ""  # in which format
    map: MapShape | None = None  # what it keeps, where this is a map, whose rows TABLE frames have
    stacks: Stacks | None = None  # of the stream it is from: what values of type stack mean; never written

    def frames(self, limit: int = MAX_EVENT) -> list[bytes]:
        """The SCHEMA frames, as few as hold it. FrameError where the schema is not sound.

        `limit`: bytes of a frame, exceeded only by what cannot be divided; by default any fits a DATA frame.
        """
        problem = self.problem()
        if problem:
            raise FrameError(
                Problem(Code.BAD_PAYLOAD, 0, problem, "a sound schema"), "build schema", self.probe
            )
        limit = min(limit, MAX_EVENT) - HEADER_SIZE
        return [build(Type.SCHEMA, self.id, payload) for payload in pack_map(self._map(limit), limit)]

    def problem(self) -> str:
        """What is wrong with this schema; empty where nothing is."""
        if self.order not in ORDERS:
            return f"order {self.order!r} is not little or big"
        if self.word not in WORDS:
            return f"word {self.word} is not 4 or 8"
        if not FIELDS_AT <= self.size <= MAX_EVENT:
            return f"size {self.size} is not {FIELDS_AT} to {MAX_EVENT}"
        if len(self.fields) > MAX_FIELDS or sum(field.size for field in self.fields) > MAX_FIELD_BYTES:
            return f"more than {MAX_FIELDS} fields, or than {MAX_FIELD_BYTES} bytes of them"
        names = set()
        for field in self.fields:
            wrong = field_problem(field, self.size)
            if wrong:
                return f"field {field.name!r}: {wrong}"
            if field.name in names:
                return f"field {field.name!r} is there twice"
            names.add(field.name)
        if self.map is not None and (wrong := self.map.problem(self.fields)):
            return f"map: {wrong}"
        return printf.problem(self.prints, self.format, self.fields) if self.prints else ""

    def decoder(self) -> Decoder:
        """A function from the bytes of one EVENT frame of this probe to its values, in the fields' order.

        It raises FrameError BAD_PAYLOAD, offset counted in the frame, where the record is not as described.
        """
        return make_decoder(self.fields, self.size, self.order)

    def timestamp(self, frame: Bytes) -> int:
        """The time of an EVENT frame, in ns of `clock`."""
        check_timestamp(payload_end(frame))
        time: int = struct.unpack_from("<Q" if self.order == "little" else ">Q", frame, TIMESTAMP_AT)[0]
        return time

    @property
    def tells(self) -> bool:
        """Whether its tables say what values of other schemas mean: those of stacks."""
        return self.map is not None and self.map.kind == "stack"

    @property
    def spec(self) -> str:
        """The spec of the probe, without the name of its event."""
        return split_spec(self.probe)[0]

    def matches(self, glob: str) -> bool:
        """Whether a glob names this probe, as `matches` says."""
        return matches(self.probe, self.target, glob)

    def __repr__(self) -> str:
        fields = ", ".join(f"{field.name}: {field.type}" for field in self.fields)
        return f"<schema {self.id} of {self.probe}: {fields}>"

    def wall(self, time: int) -> int:
        """Turn a timestamp into nanoseconds since 1970; without a clock it stays what it is."""
        return time if self.clock is None else self.clock.at(time)

    def concerned(self, cause: int) -> tuple[str, ...]:
        """The specs of the probes that a LOST frame of this probe's number and this cause may be of."""
        return (self.probe, *self.shares) if cause == Cause.MISSED_SHARED else (self.probe,)

    def others(self, cause: int) -> tuple[Schema, ...]:
        """The same as schemas: of the others nothing is known here but spec, kind and target."""
        made = [self]
        for spec in self.concerned(cause)[1:]:
            kind, _, target = split_spec(spec)[0].partition(":")
            made.append(self._replace(probe=spec, kind=kind, target=target.split("(", 1)[0]))
        return tuple(made)

    def field(self, name: str) -> Field:
        """The field of this name; KeyError where there is none."""
        for field in self.fields:
            if field.name == name:
                return field
        raise KeyError(name)

    def _map(self, limit: int) -> Map:
        """The CBOR map, its key names as in docs/protocol.md; what is empty is left out."""
        value: Map = {key: getattr(self, key) for key in (*_REQUIRED[:-1], "target")}
        value["fields"] = [_field_map(field) for field in self.fields]
        piece = max(1, min(8192, limit // 8))  # characters; they have up to four bytes
        value["program"] = [self.program[at : at + piece] for at in range(0, len(self.program), piece)]
        value["enums"] = {name: dict(table) for name, table in self.enums.items()}
        value["shares"] = list(self.shares)
        value["prints"], value["format"] = self.prints, self.format
        value["symbols"] = dict(self.symbols)
        if self.map is not None:
            value["map"] = {
                **self.map._asdict(),
                "bounds": list(self.map.bounds),
                "items": _listed(self.map.items),
                "key_items": _listed(self.map.key_items),
            }
            if not self.map.key_items:
                del value["map"]["key_items"]
        if self.clock is not None:
            value["clock"] = self.clock._asdict()
        value["host"], value["kernel"] = self.host, self.kernel
        return {key: item for key, item in value.items() if item or key in _REQUIRED}


def clock_of(schemas: Iterable[Schema]) -> Clock | None:
    """The clock of frames whose own schema is not there: the one that these probes share.

    Of several, as a capture made of captures has, it is the one that began first: it can tell every moment.
    """
    clocks = [schema.clock for schema in schemas if schema.clock is not None]
    return min(clocks, key=lambda clock: clock.at(0), default=None)


def decode(schema: Schema, frame: Bytes) -> dict[str, Value]:
    """The fields of one EVENT frame by name. For many frames use `Schema.decoder` or columns."""
    return dict(zip((field.name for field in schema.fields), schema.decoder()(frame), strict=True))


class SchemaReader:
    """Puts SCHEMA frames together again. What is incomplete is bounded: MAX_PENDING bytes."""

    __slots__ = ("_held", "_maps", "held", "stacks")

    def __init__(self) -> None:
        self.stacks = Stacks()
        """Those that tables of the same stream tell, which its schemas refer to."""
        self._maps: dict[int, Map] = {}
        self._held: dict[int, int] = {}
        self.held = 0
        """Payload bytes of schemas whose last frame has not come."""

    def add(self, frame: Frame) -> Schema | None:
        """Take a SCHEMA frame; give the schema once its last frame is there.

        Raises FrameError: BAD_ID where it is no probe's; BAD_PAYLOAD, and what was there of that probe's
        schema is then forgotten.
        """
        id = frame.header.id
        base = frame.offset + HEADER_SIZE
        if not id:
            problem = Problem(Code.BAD_ID, frame.offset + 4, 0, "the number of a probe, from 1 on")
            raise FrameError(problem, "read payload", "")
        whole = self._maps.pop(id, {})
        before = self._held.pop(id, 0)
        self.held -= before
        held = before + len(frame.payload)
        if held + self.held > MAX_PENDING:
            raise bad_payload(base, f"{held} bytes and no end", f"at most {MAX_PENDING} bytes of schema")
        part = cbor.loads_map(frame.payload, base)
        more = pop_more(part, base)
        merge_map(whole, part, base)
        if more:
            self._maps[id], self._held[id] = whole, held
            self.held += held
            return None
        made = _schema(id, whole, base)
        if made.tells or any(field.type in ("stack", "ksym") for field in made.fields):
            made = made._replace(stacks=self.stacks)
        return made

    @property
    def pending(self) -> list[int]:
        """Ids of schemas whose last frame has not come."""
        return list(self._maps)


class Labels:
    """Names for values: enum tables and symbols of one schema, ready for many look-ups."""

    __slots__ = ("_addresses", "_schema")

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._addresses = sorted(schema.symbols)

    def name(self, field: Field, value: int) -> str:
        """The name of an integer value of `field`: its enum's, its symbol's; empty where it has none."""
        if field.type in ("ksym", "usym"):
            return self.symbol(value)
        return self._schema.enums.get(field.enum, {}).get(value, "") if field.enum else ""

    def stack(self, number: int) -> Stack:
        """The stack that a value of type stack is the number of."""
        return self._schema.stacks.stack(number) if self._schema.stacks else NONE

    def symbol(self, address: int) -> str:
        """`name` or `name+0x10` of an address: one of the kernel's (the upper half) as a stack of this one
        frame tells it; else that of the nearest symbol at or below, at most SYMBOL_REACH below.
        """
        for frame in self.stack(address)[:1] if address >> 63 else ():
            if frame.symbol:
                return f"{frame.symbol}+{frame.offset:#x}" if frame.offset else frame.symbol
        at = bisect_right(self._addresses, address) - 1
        if at < 0:
            return ""
        start = self._addresses[at]
        if address - start >= SYMBOL_REACH:
            return ""
        name = self._schema.symbols[start]
        return name if address == start else f"{name}+{address - start:#x}"


def _field_map(field: Field) -> Map:
    value = {"name": field.name, "type": field.type, "offset": field.offset, "size": field.size}
    defaults = Field._field_defaults
    value |= {key: getattr(field, key) for key in defaults if getattr(field, key) != defaults[key]}
    return value


# ---- packing: one map into frames


def pack_map(value: Map, limit: int) -> Iterator[bytes]:
    """Split a map into payloads of `limit` bytes, `more` in all but the last; one entry may be longer."""
    payload = cbor.dumps(value)
    if len(payload) <= limit:
        yield payload
        return
    part: Map = {"more": True}
    room = limit - 64
    for path, atom in _atoms((), value):
        cost = sum(len(cbor.dumps({key: 0})) + 9 for key in path) + len(cbor.dumps({0: atom}))
        if cost > MAX_EVENT - HEADER_SIZE - 64:
            subject = "/".join(str(key) for key in path)
            problem = Problem(Code.PAYLOAD_TOO_LONG, 0, cost, f"at most {MAX_EVENT - HEADER_SIZE - 64}")
            raise FrameError(problem, "build schema", subject)
        if cost > room and len(part) > 1:
            yield cbor.dumps(part)
            part, room = {"more": True}, limit - 64
        _put(part, path, atom)
        room -= cost
    del part["more"]
    yield cbor.dumps(part)


def _atoms(path: tuple[Any, ...], value: Any) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """What can stand in different frames: entries of maps, items of lists (each as a list of one)."""
    for key, item in value.items():
        here = (*path, key)
        if isinstance(item, list):
            yield from ((here, [element]) for element in item)
        elif isinstance(item, dict) and key not in ("clock", "map"):
            yield from _atoms(here, item)
        else:
            yield here, item


def _put(part: Map, path: tuple[Any, ...], atom: Any) -> None:
    for key in path[:-1]:
        part = part.setdefault(key, {})
    if isinstance(atom, list):
        part.setdefault(path[-1], []).extend(atom)
    else:
        part[path[-1]] = atom


def pop_more(part: Map, base: int) -> bool:
    """Take `more` out of a part: whether another one follows. Raises FrameError BAD_PAYLOAD."""
    more: bool = read_payload(
        part, {"more": Key(FLAG, "it goes on in the next frame of this id", False)}, base
    )["more"]
    part.pop("more", None)
    return more


def merge_map(whole: Map, part: Map, base: int) -> None:
    """Add `part` to `whole`: maps by key, lists at the end; anything else takes the newer value."""
    for key, item in part.items():
        old = whole.get(key)
        if isinstance(old, dict | list) and type(old) is not type(item):
            raise bad_payload(base, f"{key}: {named(item)}", f"{named(old)}, as in the frame before")
        if isinstance(old, dict):
            merge_map(old, item, base)
        elif isinstance(old, list):
            old.extend(item)
        else:
            whole[key] = item


# ---- reading: a decoded map into a Schema


_SIZE = integer(MAX_EVENT - 1)
_TEXTS = listing(TEXT, "a list of texts")
_LABELS = table(INTEGER, TEXT, "a map from integers to texts")
_FIELD_KEYS = {
    "name": Key(TEXT, "the field's name"),
    "type": Key(TEXT, "one of the field types"),
    "offset": Key(_SIZE, "where it is in the frame"),
    "size": Key(_SIZE, "bytes"),
    "unit": Key(TEXT, "of the number", ""),
    "meaning": Key(TEXT, "for people", ""),
    "count": Key(_SIZE, "elements of an array", 1),
    "enum": Key(TEXT, "the table of its names", ""),
    "limit": Key(_SIZE, "bytes of a text at most", 0),
    "display": Key(TEXT, "how it is shown", ""),
    "table": Key(TEXT, "the shared table of its names", ""),
    "mask": Key(integer(U64_MAX), "which bits the table names", 0),
}
_CLOCK_KEYS = {
    "name": Key(TEXT, "of the clock"),
    "monotonic": Key(integer(U64_MAX), "its time, ns"),
    "wall": Key(integer(U64_MAX), "the wall clock's at that moment, ns"),
}


def _items_wrong(value: Any) -> str | None:
    if type(value) is not list:
        return f": {named(value)}"
    for one in value:
        if type(one) is not list or len(one) != 2 or type(one[0]) is not str or _items_wrong(one[1]):
            return f": {named(one)} as an item"
    return None


def _listed(items: Items) -> list[Any]:
    return [[name, _listed(inner)] for name, inner in items]


def _items(value: list[Any]) -> Items:
    return tuple((name, _items(inner)) for name, inner in value)


_MAP_KEYS = {
    "kind": Key(TEXT, "what it keeps"),
    "keys": Key(integer(MAX_FIELDS), "of how many parts its keys are, the first fields"),
    "bounds": Key(
        listing(INTEGER, "a list of integers"), "of a linear histogram, or of a series of times", []
    ),
    "items": Key(
        Kind("a list of names and lists", _items_wrong), "of a value that is a tuple: its parts", []
    ),
    "key_items": Key(
        Kind("a list of names and lists", _items_wrong), "of keys with tuples in them: their parts", []
    ),
}
_KEYS = {
    "probe": Key(TEXT, "the probe's spec"),
    "kind": Key(TEXT, "its kind"),
    "target": Key(TEXT, "where it attaches", ""),
    "fields": Key(listing(MAP, "a list of maps"), "in the order of the probe"),
    "size": Key(integer(U64_MAX), "bytes of a frame without its tail"),
    "order": Key(TEXT, "the byte order"),
    "word": Key(integer(U64_MAX), "bytes of a pointer"),
    "program": Key(_TEXTS, "the source, in pieces", []),
    "enums": Key(
        table(TEXT, _LABELS, "a map from names to maps from integers to texts"), "names of values", {}
    ),
    "symbols": Key(_LABELS, "names of addresses", {}),
    "clock": Key(MAP, "the clock of its timestamps", None),
    "host": Key(TEXT, "the machine", ""),
    "kernel": Key(TEXT, "its kernel's release", ""),
    "shares": Key(_TEXTS, "the specs of probes that share its program", []),
    "prints": Key(TEXT, "how a script prints the event: one of `printf.PRINTED`", ""),
    "format": Key(TEXT, "in which format", ""),
    "map": Key(MAP, "what it keeps, of a map", None),
}


def _schema(id: int, value: Map, base: int) -> Schema:
    taken = read_payload(value, _KEYS, base)
    fields = []
    for number, item in enumerate(taken["fields"]):
        fields.append(Field(**read_payload(item, _FIELD_KEYS, base, f"fields[{number}].")))
    clock = taken["clock"]
    if clock is not None:
        clock = Clock(**read_payload(clock, _CLOCK_KEYS, base, "clock."))
    kept = taken["map"]
    if kept is not None:
        kept = read_payload(kept, _MAP_KEYS, base, "map.")
        kept = MapShape(
            **{
                **kept,
                "bounds": tuple(kept["bounds"]),
                "items": _items(kept["items"]),
                "key_items": _items(kept["key_items"]),
            }
        )
    given = {"fields": tuple(fields), "clock": clock, "map": kept, "shares": tuple(taken["shares"])}
    schema = Schema(**{**taken, **given, "id": id, "program": "".join(taken["program"])})
    problem = schema.problem()
    if problem:
        raise bad_payload(base, problem, "a sound schema")
    return schema
