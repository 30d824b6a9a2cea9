"""Frames explained to a person: every field with its place, its bytes, its value and what it means.

Invariants: every byte given is accounted for; strict explaining names everything `inspect` names, and what
the payload's own reader refuses; lenient explaining complains of nothing the reference accepts. A SCHEMA
explains the EVENT frames after it. This module gives rows; how they are printed is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any, Final, Literal, NamedTuple

from kwire.wire import cbor
from kwire.wire.control import BYE_KEYS, ERROR_KEYS, HELLO_KEYS, WELCOME_KEYS
from kwire.wire.fields import (
    FIELDS_AT,
    TAIL_CUT,
    TAIL_MAX,
    TIMESTAMP_AT,
    TYPES,
    CutBytes,
    CutStr,
    Field,
    Value,
    check_timestamp,
)
from kwire.wire.fields import payload_end as record_end
from kwire.wire.frame import (
    ERRORS,
    HEADER_SIZE,
    RESERVED_FLAGS,
    VERSION,
    Code,
    Flag,
    Frame,
    FrameError,
    Header,
    Problem,
    Type,
    TypeRule,
    checksum,
    delimit,
    inspect,
)
from kwire.wire.frame import TYPES as FRAME_TYPES
from kwire.wire.keyed import Key
from kwire.wire.messages import CAUSES, CPU_UNKNOWN, Cause, Lost
from kwire.wire.schema import Labels, Schema, SchemaReader
from kwire.words import plural

RESERVED = "RESERVED"
MAX_NESTING = 4  # DATA within DATA


class Row(NamedTuple):
    """One field: `offset` from the start of the input, its bytes, its value, what it means."""

    offset: int
    data: bytes
    name: str
    value: str
    meaning: str = ""


class Explained(NamedTuple):
    """One frame, or the bytes where none could be told apart (then `whole` is false)."""

    offset: int
    end: int
    whole: bool
    header: Header | None
    payload: bytes
    checksum: int | None  # of the whole frame
    rows: list[Row]
    notes: list[str]
    problems: list[Problem]
    decoded: dict[str, Any] | None  # what the payload says
    inner: list[Explained]  # the frames in a DATA frame

    @property
    def type_name(self) -> str:
        """The name of the type; RESERVED, or empty without a header."""
        return "" if self.header is None else type_name(self.header.type)


def type_name(number: int) -> str:
    """The name of a frame type."""
    return Type(number).name if number in FRAME_TYPES else RESERVED


OVERLAP: Final = 4  # so many times the bytes of a record its fields have rows, which may lie over each other


class Explainer:
    """Explains the frames of one input, and remembers their schemas."""

    __slots__ = ("_decoders", "_depth", "_labels", "_reader", "_schemas", "lenient")

    def __init__(self, lenient: bool = False) -> None:
        self.lenient = lenient
        self._reader = SchemaReader()
        self._schemas: dict[int, Schema] = {}
        self._labels: dict[int, Labels] = {}
        self._decoders: dict[int, Callable[[bytes], Sequence[Value]]] = {}
        self._depth = 0

    def explain(self, data: bytes | memoryview, start: int = 0) -> Iterator[Explained]:
        """Explain the frames that stand back to back, up to the end or the first length that is not sound."""
        view = memoryview(data)
        at = start
        while at < len(view):
            one = self._frame(view, at)
            if self.lenient and not one.whole and at > start:
                return  # the reference ignores what stands after a frame
            yield one
            if not one.whole:
                return
            at = one.end

    def _frame(self, view: memoryview, at: int) -> Explained:
        header, _ = delimit(view, at)
        frame, problems = inspect(view, at)
        if self.lenient:
            problems = [] if frame else [problem for problem in problems if problem.code in _UNSOUND]
        if frame is None or header is None:
            return _broken(bytes(view[at:]), at, header, problems)
        raw = bytes(view[at : at + header.length])
        if self.lenient:
            frame = frame._replace(payload=raw[HEADER_SIZE:])
        rows = _header_rows(raw, at, header)
        one = Explained(
            at, at + len(raw), True, header, frame.payload, checksum(raw), rows, [], problems, None, []
        )
        decoded, inner = self._payload(frame, raw, view, one)
        if not self.lenient:
            rows += _trailer_rows(raw, at, header, len(frame.payload))
        problems.sort(key=lambda problem: problem.offset)
        return one._replace(decoded=decoded, inner=inner)

    def _payload(
        self, frame: Frame, raw: bytes, view: memoryview, one: Explained
    ) -> tuple[dict[str, Any] | None, list[Explained]]:
        """Explain the payload into `one`; what its reader refuses becomes a problem, its bytes are shown."""
        rows: list[Row] = []
        decoded: dict[str, Any] | None = None
        inner: list[Explained] = []
        type = frame.header.type
        try:
            if type == Type.EVENT:
                decoded = self._event(frame, raw, rows, one.notes, unsound=bool(one.problems))
            elif type == Type.SCHEMA:
                decoded = self._schema(frame, rows, one.notes)
            elif type == Type.DATA:
                inner = self._data(frame, view, one)
            elif type in _READERS:
                decoded = _READERS[Type(type)](frame, rows)
        except FrameError as error:
            if self.lenient:
                one.notes.append(f"the payload is not readable: {error.problem}")
            else:
                one.problems.append(error.problem)
            rows = []
        if not rows and not inner and frame.payload:
            rows = [
                Row(
                    frame.offset + HEADER_SIZE,
                    frame.payload,
                    "payload",
                    plural(len(frame.payload), "byte"),
                )
            ]
        one.rows.extend(rows)
        return decoded, inner

    def _schema(self, frame: Frame, rows: list[Row], notes: list[str]) -> dict[str, Any]:
        value = _map(frame, rows)
        schema = self._reader.add(frame)
        if schema is None:
            notes.append("more is true: the schema goes on in the next SCHEMA frame with this id")
        else:
            self._schemas[schema.id] = schema
            self._decoders[schema.id] = schema.decoder()
            self._labels[schema.id] = Labels(schema)
        return value

    def _event(
        self, frame: Frame, raw: bytes, rows: list[Row], notes: list[str], *, unsound: bool
    ) -> dict[str, Any] | None:
        at, schema = frame.offset, self._schemas.get(frame.header.id)
        if schema is None:
            if not unsound:
                check_timestamp(record_end(raw), at)
            notes.append(f"no SCHEMA of probe {frame.header.id} came before: the record cannot be explained")
            return None
        record = raw[: record_end(raw)]
        try:
            values = self._decoders[schema.id](raw)
        except FrameError as error:
            raise _moved(error, at, schema.probe) from None
        time = schema.timestamp(record)
        clock = f"ns of {schema.clock.name}" if schema.clock else "ns of an unknown clock"
        rows.append(Row(at + TIMESTAMP_AT, record[TIMESTAMP_AT:FIELDS_AT], "timestamp", str(time), clock))
        left = OVERLAP * len(record)
        for number, (field, value) in enumerate(zip(schema.fields, values, strict=True)):
            left -= field.size if not TYPES[field.type].tail else field.size + len(value)  # type: ignore[arg-type]  # what lies in the tail has a length
            if left < 0 and number:
                notes.append(f"{plural(len(values) - number, 'more field')} over the same bytes")
                break
            self._field(schema, field, value, record, at, rows)
        _fill_gaps(rows, record, at)
        fields = {field.name: value for field, value in zip(schema.fields, values, strict=True)}
        return {"probe": schema.probe, "time_ns": schema.wall(time), "fields": fields}

    def _field(
        self,
        schema: Schema,
        field: Field,
        value: Value,
        record: bytes,
        at: int,
        rows: list[Row],
    ) -> None:
        data = record[field.offset : field.offset + field.size]
        kind = f"{field.type}[{field.count}]" if field.count > 1 else field.type
        meaning = ", ".join(
            part for part in (kind, field.unit, field.meaning or TYPES[field.type].meaning) if part
        )
        shown = show(value)
        if isinstance(value, int) and not isinstance(value, bool):
            name = self._labels[schema.id].name(field, value)
            if field.type in ("ptr", "ksym", "usym"):
                shown = f"{value:#x}"
            shown += f" {show(name)}" if name else ""
        if not TYPES[field.type].tail:
            rows.append(Row(at + field.offset, data, field.name, shown, meaning))
            return
        order: Literal["little", "big"] = "little" if schema.order == "little" else "big"
        start, length = int.from_bytes(data[:2], order), int.from_bytes(data[2:], order)
        cut = ", cut at its limit" if length & TAIL_CUT else ""
        length &= TAIL_MAX
        if cut and not length:
            cut = ", could not be read"
        size = plural(length, "byte")
        rows.append(Row(at + field.offset, data, field.name, f"{size} at {start}{cut}", meaning))
        if length:
            content = record[start : start + length]
            rows.append(Row(at + start, content, field.name, shown, f"what {field.name} points to"))

    def _data(self, frame: Frame, view: memoryview, one: Explained) -> list[Explained]:
        start = frame.offset + HEADER_SIZE
        if self._depth == MAX_NESTING:
            found, expected = "one more level of DATA", f"at most {MAX_NESTING}"
            raise FrameError(Problem(Code.BAD_PAYLOAD, start, found, expected))
        self._depth += 1
        try:
            inner = list(self.explain(view[: start + len(frame.payload)], start))
        finally:
            self._depth -= 1
        if not self.lenient:
            one.problems.extend(problem for item in inner for problem in item.problems)
        return inner


_UNSOUND = (Code.TRUNCATED_HEADER, Code.TRUNCATED_PAYLOAD, Code.LENGTH_BELOW_HEADER)


# ---- the parts every frame has


def _broken(raw: bytes, at: int, header: Header | None, problems: list[Problem]) -> Explained:
    """What can be said of bytes that are not a whole frame."""
    rows = []
    payload = raw[HEADER_SIZE:]
    if header is None:
        rows.append(Row(at, raw, "header", f"{plural(len(raw), 'byte')} of {HEADER_SIZE}", "not complete"))
    else:
        rows += _header_rows(raw, at, header)
        if payload:
            rows.append(
                Row(at + HEADER_SIZE, payload, "payload", plural(len(payload), "byte"), "not complete")
            )
    left = plural(len(raw), "byte")
    note = f"reading stops here: where a next frame would start cannot be known ({left} left)"
    return Explained(at, at + len(raw), False, header, payload, None, rows, [note], problems, None, [])


def _header_rows(raw: bytes, at: int, header: Header) -> list[Row]:
    rule = _rule(header.type)
    first = raw[:1]
    version = "this protocol" if header.version == VERSION else f"unknown: this is version {VERSION}"
    payload = f"payload: {rule.payload}" if rule else "reserved"
    return [
        Row(at, first, "version", str(header.version), f"{version} (high half of the byte)"),
        Row(at, first, "type", f"{header.type} {type_name(header.type)}", f"{payload} (low half)"),
        Row(at + 1, raw[1:2], "flags", f"{header.flags:#04x}", _flags(header.flags)),
        Row(
            at + 2,
            raw[2:4],
            "length",
            str(header.length),
            "bytes of the whole frame, header included",
        ),
        Row(at + 4, raw[4:8], "id", str(header.id), rule.id if rule else "of a reserved type"),
    ]


@cache
def _rule(type: int) -> TypeRule | None:
    """What the table says of one of the sixteen types."""
    return FRAME_TYPES[Type(type)] if type in FRAME_TYPES else None


@cache
def _flags(flags: int) -> str:
    """The names of the flags in one byte."""
    names = [flag.name or "" for flag in Flag if flags & flag]
    reserved = flags & RESERVED_FLAGS
    if reserved:
        names.append(f"reserved bits {reserved:#04x}")
    return ", ".join(names) or "none set"


def _trailer_rows(raw: bytes, at: int, header: Header, payload: int) -> list[Row]:
    """Padding and checksum, where there are any."""
    start, end = HEADER_SIZE + payload, len(raw)
    if not header.flags & Flag.CHECKSUM or end - start < 2:
        return []
    rows = []
    if end - start > 2:
        why = "brings the checksum to an even offset"
        rows.append(Row(at + start, raw[start : end - 2], "padding", str(raw[start]), why))
    found, computed = int.from_bytes(raw[end - 2 :], "big"), checksum(raw[: end - 2])
    verdict = "right" if found == computed else "WRONG"
    rows.append(
        Row(at + end - 2, raw[end - 2 :], "checksum", f"{found:04x}", f"{verdict}: computed {computed:04x}")
    )
    return rows


def _fill_gaps(rows: list[Row], record: bytes, at: int) -> None:
    """Add rows for the bytes of the record that no field covers, in order of offset."""
    covered = bytearray(len(record))
    covered[:TIMESTAMP_AT] = b"\1" * TIMESTAMP_AT
    for row in rows:
        first = row.offset - at
        covered[first : first + len(row.data)] = b"\1" * len(row.data)
    place = covered.find(0)
    while place >= 0:
        end = covered.find(1, place)
        end = len(record) if end < 0 else end
        gap = record[place:end]
        rows.append(
            Row(at + place, gap, "", "", "padding" if not any(gap) else "not described by the SCHEMA")
        )
        place = covered.find(0, end)
    rows.sort(key=lambda row: row.offset)


# ---- payloads


def _map(frame: Frame, rows: list[Row]) -> dict[str, Any]:
    """A CBOR map: one row for it all, its contents as what was decoded."""
    value = cbor.loads_map(frame.payload, frame.offset + HEADER_SIZE)
    rows.append(
        Row(frame.offset + HEADER_SIZE, frame.payload, "payload", f"CBOR map of {len(value)}", "see below")
    )
    return value


def _keys(frame: Frame, rows: list[Row], keys: dict[str, Key]) -> dict[str, Any]:
    """A CBOR map whose keys are known: one row for each entry."""
    base = frame.offset + HEADER_SIZE
    value = cbor.loads_map(frame.payload, base)
    ends = cbor.spans(frame.payload)
    start, last = (ends[0][0], ends[-1][1]) if ends else (len(frame.payload),) * 2
    rows.append(Row(base, frame.payload[:start], "map", plural(len(value), "entry", "entries"), "CBOR"))
    for (key, item), (at, end) in zip(value.items(), ends, strict=True):
        rule = keys.get(key)
        meaning = rule.meaning.replace("`", "") if rule else "not known to this version"
        rows.append(Row(base + at, frame.payload[at:end], show(key), show(item), meaning))
    if last < len(frame.payload):
        rows.append(Row(base + last, frame.payload[last:], "", "", "end of the map"))
    return value


def _error(frame: Frame, rows: list[Row]) -> dict[str, Any]:
    value = _keys(frame, rows, ERROR_KEYS)
    code = value.get("code")
    if isinstance(code, int) and code in ERRORS:
        rows[:] = [
            row._replace(value=f"{code} {Code(code).name}", meaning=ERRORS[Code(code)])
            if row.name == "code"
            else row
            for row in rows
        ]
    return value


def _lost(frame: Frame, rows: list[Row]) -> dict[str, Any]:
    lost = Lost.read(frame)
    base = frame.offset + HEADER_SIZE
    known = lost.cause in CAUSES
    cause = f"{lost.cause:d} {Cause(lost.cause).name}" if known else str(lost.cause)
    cells = (
        (0, 8, "first", str(lost.first), "ns, when the first was lost"),
        (8, 16, "last", str(lost.last), "ns, when the last was lost"),
        (16, 24, "count", str(lost.count), "events lost"),
        (24, 26, "cpu", str(lost.cpu), "unknown" if lost.cpu == CPU_UNKNOWN else "where they were lost"),
        (26, 27, "cause", cause, CAUSES[Cause(lost.cause)] if known else "not known to this version"),
        (27, 32, "zero", "0", "reserved"),
    )
    rows += [Row(base + start, frame.payload[start:end], *rest) for start, end, *rest in cells]
    return {**lost._asdict(), "cause": int(lost.cause)}


def _ack(frame: Frame, rows: list[Row]) -> dict[str, Any]:
    payload, base = frame.payload, frame.offset + HEADER_SIZE
    if len(payload) < 4 or len(payload) % 8 != 4:
        found = plural(len(payload), "byte")
        raise FrameError(
            Problem(Code.BAD_PAYLOAD, base, found, "a window (4 bytes) and ranges of 8"), "read payload"
        )
    words = [int.from_bytes(payload[at : at + 4], "big") for at in range(0, len(payload), 4)]
    rows.append(Row(base, payload[:4], "window", str(words[0]), "bytes that may be under way from the id on"))
    ranges = list(zip(words[1::2], words[2::2], strict=True))
    for number, (first, last) in enumerate(ranges):
        place = 4 + number * 8
        rows.append(
            Row(
                base + place,
                payload[place : place + 8],
                "range",
                f"{first} to {last}",
                "has come, and is not stored yet",
            )
        )
    return {"window": words[0], "ranges": [list(pair) for pair in ranges]}


_READERS: dict[Type, Callable[[Frame, list[Row]], dict[str, Any]]] = {
    Type.LOST: _lost,
    Type.ACK: _ack,
    Type.ERROR: _error,
    Type.HELLO: partial(_keys, keys=HELLO_KEYS),
    Type.WELCOME: partial(_keys, keys=WELCOME_KEYS),
    Type.BYE: partial(_keys, keys=BYE_KEYS),
    **dict.fromkeys((Type.TABLE, Type.REQUEST, Type.REPLY), _map),
}


def _moved(error: FrameError, by: int, subject: str = "") -> FrameError:
    """The same, counted from where the frame stands."""
    problem = error.problem._replace(offset=by + error.problem.offset)
    return FrameError(problem, error.operation, subject or error.subject)


def show(value: object) -> str:
    """A value on one line, safe for a terminal: text that a probe saw can hold anything."""
    if type(value) is str and value.isprintable():
        return value
    if isinstance(value, str):
        shown = (
            value if value.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in value)
        )
        return shown + ("…" if isinstance(value, CutStr) else "")
    if isinstance(value, bytes):
        return value.hex() + ("…" if isinstance(value, CutBytes) else "")
    if isinstance(value, list):
        return "[" + ", ".join(show(item) for item in value) + "]"
    return str(value)
