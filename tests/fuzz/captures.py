"""Captures that are sound and mean: every type of field under every name that somewhere means something.

`capture(seed)` makes one, the same for the same seed: types, widths, counts, names, byte orders, clocks and
values from the ends of their ranges, texts that would drive a terminal, LOST frames, strangers (events of no
known probe), several sections. What a verb makes of it may be an error in one line, never a traceback, and
never a raw control character. `layouts` are the same things one by one, so that none is left to chance.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from typing import Literal, NamedTuple

from kwire.wire.fields import DISPLAYS, TYPES, Field, field_problem
from kwire.wire.frame import MAX_EVENT, Flag, Type, build
from kwire.wire.messages import Lost
from kwire.wire.schema import Clock, Schema

#: What drives a terminal, breaks a line, or is no UTF-8.
HOSTILE = (
    "",
    "a",
    "\x1b]0;owned\x07\x1b[31m",
    "\x9b31m\x85\u2028\u202e\ud7ff",
    "two\nlines\ttab\rreturn",
    'quote" comma, equals=',
    "%s%d%(x)s{0}{time}",
    "../../../etc/passwd",
    "x" * 300,
    "\U0001f600\u0301\u200b",
    "é",
)
#: Names that mean something somewhere: columns of their own, threads, tables, SQL, attributes, file names.
NAMES = (
    "cpu", "pid", "tid", "comm", "stack", "time", "time_ns", "host", "probe", "events", "lost", "probes",
    "id", "ppid", "uid", "fd", "cgroup", "saddr", "daddr", "filename", "ret", "dur", "name", "count", "index",
    "keys", "COMM", "Time", "select", "a.b", "pid_raw", "x", "__class__", "None", "0", *HOSTILE[2:8],
)  # fmt: skip
WIDTHS = (1, 2, 3, 4, 5, 6, 7, 8, 16, 17, 100)
COUNTS = (1, 1, 1, 2, 3, 16, 40)
UNITS = ("", "", "ns", "us", "µs", "ms", "s", "bytes", "count", HOSTILE[2])
PROBES = (
    "tracepoint:a:b", "tracepoint:syscalls:sys_enter_read", "tracepoint:syscalls:sys_exit_read", "kprobe:f",
    "kretprobe:f", "kprobe:f(arg0)", "events", "lost:probes", "", ":", "a:", HOSTILE[2], HOSTILE[7],
    HOSTILE[6],
)  # fmt: skip
CLOCKS = (
    None,
    Clock("monotonic", 5_000, 1_700_000_000_000_000_000),
    Clock("monotonic", 0, (1 << 64) - 1),
    Clock("monotonic", (1 << 64) - 1, 0),
    Clock(HOSTILE[2], 1 << 63, 1 << 63),
)
TIMES = (0, 1, 1000, 5000, 6000, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
ENUMS = {"e": {0: "zero", 1: HOSTILE[2], -1: "minus", 2: "two\nlines", 4: "", (1 << 64) - 1: "last"}}
SYMBOLS = {0: "start", 1 << 20: HOSTILE[2], (1 << 64) - 1: "end"}


class Layout(NamedTuple):
    """One field to make a capture around."""

    name: str
    type: str
    size: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs here


def layouts() -> Iterator[Layout]:
    """Every type in every width, alone and as an array, under each name that means something."""
    for name in ("cpu", "pid", "tid", "comm", "stack", "time", "time_ns", "probe", "host", "x"):
        for kind, rule in TYPES.items():
            for size in rule.sizes or (WIDTHS[0], WIDTHS[5], WIDTHS[-1]):
                yield Layout(name, kind, size, 1)
                if not rule.tail:
                    yield Layout(name, kind, 3 * size, 3)


def block(order: Literal["little", "big"], kind: int, body: bytes) -> bytes:
    """A block around this body."""
    sign = "<" if order == "little" else ">"
    body += bytes(-len(body) % 4)
    total = len(body) + 12
    return struct.pack(sign + "II", kind, total) + body + struct.pack(sign + "I", total)


def _options(order: Literal["little", "big"], *options: tuple[int, bytes]) -> bytes:
    sign = "<" if order == "little" else ">"
    parts = [
        struct.pack(sign + "HH", code, len(value)) + value + bytes(-len(value) % 4) for code, value in options
    ]
    return b"".join(parts) + bytes(4)


def packet(frame: bytes, interface: int = 0, order: Literal["little", "big"] = "little") -> bytes:
    """A packet block with one frame."""
    sign = "<" if order == "little" else ">"
    head = struct.pack(sign + "5I", interface, 1, 2, len(frame), len(frame))
    return block(order, 6, head + frame + bytes(-len(frame) % 4))


def section(
    schemas: list[Schema],
    frames: list[bytes],
    order: Literal["little", "big"] = "little",
    text: str = "",
    statistics: bool = True,
) -> bytes:
    """A section with these schemas and frames; `text` stands wherever a capture has room for text."""
    sign = "<" if order == "little" else ">"
    said = text.encode("utf-8", "surrogateescape")
    head = struct.pack(sign + "IHHq", 0x1A2B3C4D, 1, 0, -1)
    out = [block(order, 0x0A0D0D0A, head + _options(order, (1, said), (2, said), (3, said), (4, said)))]
    for _ in range(len(schemas) or 1):
        body = struct.pack(sign + "HHI", 147, 0, 65535)
        out.append(block(order, 1, body + _options(order, (2, said), (3, said), (9, b"\x09"), (11, said))))
    for number, schema in enumerate(schemas):
        out += [packet(frame, number, order) for frame in schema.frames()]
    out += [packet(frame, 0, order) for frame in frames]
    for number, schema in enumerate(schemas if statistics else []):
        events = sum(frame[0] == 0x11 and frame[4:8] == struct.pack(">I", schema.id) for frame in frames)
        told = [(1, said), *((code, struct.pack(sign + "Q", events)) for code in (4, 8))]
        out.append(block(order, 5, struct.pack(sign + "III", number, 1, 2) + _options(order, *told)))
    return b"".join(out)


def session(schemas: list[Schema], frames: list[bytes]) -> bytes:
    """The same as a pcap file of a session over UDP, raw IPv4."""
    payloads = [b"".join(schema.frames()) for schema in schemas]
    payloads += frames
    out = [struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 228)]
    for number, payload in enumerate(payloads):
        if len(payload) > 65000:
            continue
        frame = build(Type.DATA, number, payload)
        packet = struct.pack(">BBHHHBBHII", 0x45, 0, 28 + len(frame), 1, 0, 64, 17, 0, 1, 2)
        total = sum(struct.unpack(">10H", packet))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        packet = packet[:10] + struct.pack(">H", total ^ 0xFFFF) + packet[12:]
        packet += struct.pack(">HHHH", 4000, 17800, 8 + len(frame), 0) + frame
        out.append(struct.pack("<IIII", 1, number, len(packet), len(packet)) + packet)
    return b"".join(out)


class Maker:
    """Makes parts of captures at random, with a bias to the ends."""

    def __init__(self, seed: int) -> None:
        self.source = random.Random(seed)

    def field(self, name: str, at: int) -> Field:
        """A field of any type at the next place."""
        source = self.source
        kind = source.choice(list(TYPES))
        rule = TYPES[kind]
        size = source.choice(rule.sizes or WIDTHS)
        count = 1 if rule.tail else source.choice(COUNTS)
        enum = source.choice(("", "e", "nowhere")) if rule.kind == "int" else ""
        limit = source.choice((0, 16, 0x7FFF)) if rule.tail else 0
        unit, meaning = source.choice(UNITS), source.choice(HOSTILE)
        display = source.choice(("", "", *DISPLAYS)) if rule.kind == "int" else ""
        table, mask = source.choice(("e", "nowhere", "")), source.choice((0, 3, (1 << 64) - 1))
        made = Field(name, kind, at, size * count, unit, meaning, count, enum, limit)
        shown = made._replace(display=display, table=table, mask=mask)
        return made if field_problem(shown, MAX_EVENT) else shown

    def schema(self, number: int) -> Schema:
        """A schema with some fields."""
        source = self.source
        fields, at = [], 16
        for name in source.sample(NAMES, source.choice((0, 1, 1, 2, 4, 8))):
            if not name:
                continue
            fields.append(self.field(name, at))
            at += fields[-1].size
            if source.random() < 0.1:
                at = max(16, at - 3)  # fields may overlap
        at = max([16, *(field.offset + field.size for field in fields)])
        probe = source.choice(PROBES)
        kind, _, target = probe.partition(":")
        return Schema(
            *(number, probe, kind, target, tuple(fields), at, source.choice(("little", "big"))),
            source.choice((4, 8)), program=source.choice(HOSTILE), enums=ENUMS, symbols=SYMBOLS,
            clock=source.choice(CLOCKS), host=source.choice(HOSTILE), kernel=source.choice(HOSTILE),
        )  # fmt: skip

    def event(self, schema: Schema) -> bytes:
        """An event as the schema says, mostly; with values from the ends of their ranges."""
        source, order = self.source, schema.order
        sign = "<" if order == "little" else ">"
        fixed = bytearray(schema.size - 8)
        struct.pack_into(sign + "Q", fixed, 0, source.choice(TIMES))
        tail = b""
        for field in schema.fields:
            at = field.offset - 8
            if TYPES[field.type].tail:
                value = source.choice(HOSTILE).encode("utf-8", "surrogateescape") + source.choice(
                    (b"", b"\xff\0")
                )
                start = schema.size + len(tail)
                if source.random() < 0.03:
                    start = source.choice((0, 16, 0xFFFF))
                length = len(value) | source.choice((0, 0, 0x8000))
                fixed[at : at + 4] = struct.pack(sign + "HH", start & 0xFFFF, length)
                tail += value
            else:
                size = field.size // field.count
                items = [self.value(field, size) for _ in range(field.count)]
                fixed[at : at + field.size] = b"".join(items)
        body = bytes(fixed) + tail
        body += bytes(-len(body) % 8)
        if source.random() < 0.03:
            body = body[: source.randrange(len(body) + 1)]
        return build(Type.EVENT, schema.id, body[: MAX_EVENT - 16], source.choice((0, 0, 0, Flag.CHECKSUM)))

    def value(self, field: Field, size: int) -> bytes:
        """The bytes of one element."""
        source = self.source
        if TYPES[field.type].kind == "text":
            return source.choice(HOSTILE).encode("utf-8", "surrogateescape")[:size].ljust(size, b"\0")
        return source.choice(
            (bytes(size), b"\xff" * size, b"\x80".ljust(size, b"\0"), b"\0" * (size - 1) + b"\x80",
             b"\x7f".ljust(size, b"\xff"), b"\xff" * (size - 1) + b"\x7f", b"\x9c".ljust(size, b"\xff"),
             b"\x64".ljust(size, b"\0"), b"\1".ljust(size, b"\0"), source.randbytes(size))
        )  # fmt: skip

    def frames(self, schemas: list[Schema]) -> list[bytes]:
        """Events of these schemas, LOST frames, strangers."""
        source, out = self.source, []
        for _ in range(source.choice((0, 1, 2, 10, 40))):
            draw = source.random()
            if draw < 0.05 or not schemas:
                cause, cpu = source.choice((0, 1, 7, 200)), source.choice((0, 0xFFFF))
                first, last = sorted(source.choices(TIMES, k=2))
                count = source.choice((1, 7, (1 << 64) - 1))
                out.append(Lost(source.choice((0, 1, 2, 77)), first, last, count, cpu, cause).frame())
            elif draw < 0.1:
                out.append(build(Type.EVENT, source.choice((0, 3, 77, (1 << 32) - 1)), source.randbytes(24)))
            else:
                out.append(self.event(source.choice(schemas)))
        return out

    def part(self) -> tuple[list[Schema], list[bytes]]:
        """Schemas and frames of one section."""
        schemas = [self.schema(number + 1) for number in range(self.source.choice((0, 1, 1, 2, 3)))]
        return schemas, self.frames(schemas)


def capture(seed: int) -> bytes:
    """One capture: mostly ours, now and then the same frames as a session in packets."""
    maker = Maker(seed)
    if maker.source.random() < 0.2:
        return session(*maker.part())
    parts = []
    for _ in range(maker.source.choice((1, 1, 1, 2))):
        order: Literal["little", "big"] = maker.source.choice(("little", "big"))
        text = maker.source.choice(HOSTILE)
        parts.append(section(*maker.part(), order, text, maker.source.random() < 0.8))
    return b"".join(parts)


def laid_out(layout: Layout, order: str = "little") -> bytes:
    """A capture of one field: values from both ends of its range, and twice the same."""
    field = Field(
        layout.name,
        layout.type,
        16,
        layout.size,
        count=layout.count,
        limit=32 * (layout.type in ("str", "bytes")),
    )
    named = field._replace(enum="e") if TYPES[layout.type].kind == "int" else field
    maker = Maker(7)
    out = []
    for number, one in enumerate((field, named)):
        kind = ("tracepoint", "kprobe")[number]
        schema = Schema(
            *(number + 1, f"{kind}:a:b", kind, "a:b", (one,), 16 + layout.size, order),
            enums=ENUMS, symbols=SYMBOLS, clock=CLOCKS[1],
        )  # fmt: skip
        out.append((schema, [maker.event(schema) for _ in range(12)]))
    schemas = [schema for schema, _ in out]
    return section(schemas, [frame for _, frames in out for frame in frames], text=HOSTILE[2])
