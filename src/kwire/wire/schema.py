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
from typing import Any, TypeAlias

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
from kwire.wire.messages import Cause

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


class Clock(NamedTuple):
    """The clock of the timestamps: its name, and its time and the wall clock's at one moment, in ns."""

    name: str
    monotonic: int
    wall: int

    def at(self, time: int) -> int:
        """A timestamp as nanoseconds since 1970."""
        return time - self.monotonic + self.wall


EVENT_MARK = "#"
"""Between a probe's spec and the name of one of its events."""


def event_spec(spec: str, event: str) -> str:
    """What events of one shape are called: `kprobe:tcp_connect#opened`; without a name, the probe's spec."""
    return f"{spec}{EVENT_MARK}{event}" if event else spec


def split_spec(text: str) -> tuple[str, str]:
    """The probe's spec, and the name of its event; that is empty where there is none."""
    spec, mark, event = text.rpartition(EVENT_MARK)
    return (spec, event) if mark and (event.isidentifier() or event.isdecimal()) else (text, "")


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
    def spec(self) -> str:
        """The spec of the probe, without the name of its event."""
        return split_spec(self.probe)[0]

    def matches(self, glob: str) -> bool:
        """Whether a glob names this probe: its spec or its target, with or without the name of its event, or
        its spec without expressions.
        """
        from fnmatch import fnmatchcase

        spec, event = split_spec(self.probe)
        names = (self.probe, spec, spec.split("(", 1)[0], self.target, event_spec(self.target, event))
        return any(fnmatchcase(text, glob) for text in names)

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

    __slots__ = ("_held", "_maps", "held")

    def __init__(self) -> None:
        self._maps: dict[int, Map] = {}
        self._held: dict[int, int] = {}
        self.held = 0
        """Payload bytes of schemas whose last frame has not come."""

    def add(self, frame: Frame) -> Schema | None:
        """Take a SCHEMA frame; give the schema once its last frame is there.

        Raises FrameError BAD_PAYLOAD; what was there of that probe's schema is then forgotten.
        """
        id = frame.header.id
        base = frame.offset + HEADER_SIZE
        whole = self._maps.pop(id, {})
        before = self._held.pop(id, 0)
        self.held -= before
        held = before + len(frame.payload)
        if held + self.held > MAX_PENDING:
            raise bad_payload(base, f"{held} bytes and no end", f"at most {MAX_PENDING} bytes of schema")
        part = cbor.loads_map(frame.payload, base)
        more = part.pop("more", False)
        if not isinstance(more, bool):
            raise bad_payload(base, f"more: {_kind(more)}", "more: true or false")
        merge_map(whole, part, base)
        if more:
            self._maps[id], self._held[id] = whole, held
            self.held += held
            return None
        return _schema(id, whole, base)

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

    def symbol(self, address: int) -> str:
        """`name` or `name+0x10` of the nearest symbol at or below, at most SYMBOL_REACH below."""
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
        elif isinstance(item, dict) and key != "clock":
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


def merge_map(whole: Map, part: Map, base: int) -> None:
    """Add `part` to `whole`: maps by key, lists at the end; anything else takes the newer value."""
    for key, item in part.items():
        old = whole.get(key)
        if isinstance(old, dict | list) and type(old) is not type(item):
            raise bad_payload(base, f"{key}: {_kind(item)}", f"{_kind(old)}, as in the frame before")
        if isinstance(old, dict):
            merge_map(old, item, base)
        elif isinstance(old, list):
            old.extend(item)
        else:
            whole[key] = item


# ---- reading: a decoded map into a Schema


def _kind(value: object) -> str:
    names = {
        bool: "true or false",
        int: "an integer",
        str: "text",
        bytes: "bytes",
        list: "a list",
        dict: "a map",
    }
    return names.get(type(value), "a number" if isinstance(value, float) else "null")


class _Picker:
    """Takes typed items out of a decoded map; a wrong one is BAD_PAYLOAD that names its path."""

    __slots__ = ("base", "path", "value")

    def __init__(self, value: object, path: str, base: int) -> None:
        if not isinstance(value, dict):
            raise bad_payload(base, f"{path.rstrip('.')}: {_kind(value)}", "a map")
        self.value: Map = value
        self.path = path
        self.base = base

    def error(self, key: str, found: str, expected: str) -> FrameError:
        return bad_payload(self.base, f"{self.path}{key}: {found}", expected)

    def item(self, key: str, kind: type, default: Any = None) -> Any:
        value = self.value.get(key, default)
        if key not in self.value and default is None:
            raise self.error(key, "nothing", _kind(kind()))
        if type(value) is not kind:
            raise self.error(key, _kind(value), _kind(kind()))
        return value

    def text(self, key: str, default: str | None = None) -> str:
        return str(self.item(key, str, default))

    def number(self, key: str, default: int | None = None, low: int = 0, high: int = 1 << 64) -> int:
        value = int(self.item(key, int, default))
        if not low <= value < high:
            raise self.error(key, str(value), f"{low} to {high - 1}")
        return value

    def names(self, key: str) -> dict[int, str]:
        """A map from integers to text, empty where it is missing."""
        table: dict[Any, Any] = self.item(key, dict, {})
        for number, name in table.items():
            if type(number) is not int or type(name) is not str:
                raise self.error(key, f"{_kind(number)} → {_kind(name)}", "an integer → text")
        return table


def _schema(id: int, value: Map, base: int) -> Schema:
    pick = _Picker(value, "", base)
    fields = tuple(
        _field(_Picker(item, f"fields[{number}].", base))
        for number, item in enumerate(pick.item("fields", list))
    )
    tables = _Picker(pick.item("enums", dict, {}), "enums.", base)
    for name in tables.value:
        if type(name) is not str:
            raise tables.error(str(name), _kind(name), "text as a name")
    program = pick.item("program", list, [])
    if not all(type(piece) is str for piece in program):
        raise pick.error("program", "a list of other things", "a list of texts")
    shares = pick.item("shares", list, [])
    if not all(type(spec) is str for spec in shares):
        raise pick.error("shares", "a list of other things", "a list of texts")
    clock = None
    if "clock" in value:
        pair = _Picker(value["clock"], "clock.", base)
        clock = Clock(pair.text("name"), pair.number("monotonic"), pair.number("wall"))
    schema = Schema(
        id=id,
        probe=pick.text("probe"),
        kind=pick.text("kind"),
        target=pick.text("target", ""),
        fields=fields,
        size=pick.number("size"),
        order=pick.text("order"),
        word=pick.number("word"),
        program="".join(program),
        enums={name: tables.names(name) for name in tables.value},
        symbols=pick.names("symbols"),
        clock=clock,
        host=pick.text("host", ""),
        kernel=pick.text("kernel", ""),
        shares=tuple(shares),
        prints=pick.text("prints", ""),
        format=pick.text("format", ""),
    )
    problem = schema.problem()
    if problem:
        raise bad_payload(base, problem, "a sound schema")
    return schema


def _field(pick: _Picker) -> Field:
    return Field(
        name=pick.text("name"),
        type=pick.text("type"),
        offset=pick.number("offset", high=MAX_EVENT),
        size=pick.number("size", high=MAX_EVENT),
        unit=pick.text("unit", ""),
        meaning=pick.text("meaning", ""),
        count=pick.number("count", 1, high=MAX_EVENT),
        enum=pick.text("enum", ""),
        limit=pick.number("limit", 0, high=MAX_EVENT),
        display=pick.text("display", ""),
        table=pick.text("table", ""),
        mask=pick.number("mask", 0),
    )
