"""Makes the captures of this folder: what kwire of a release wrote, kept so that it stays readable for ever.

    python tests/data/make.py 0.1

Run it once when the format of captures or of the protocol has grown, with the release as argument; files that
are there are never written again. NAME-little and NAME-big differ in the byte order of file and records; the
events in NAME.jsonl are what `kwire show --json` must say of both. Capture: a pcapng file with each type of
field, a SCHEMA in two parts, losses and closing statistics; session: one over UDP and one over TCP, as pcap.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any, Literal

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "fuzz"))

import network  # noqa: E402  # of the folder just added

from kwire.wire import cbor  # noqa: E402
from kwire.wire.fields import TYPES, Field  # noqa: E402
from kwire.wire.frame import Flag, Type, build  # noqa: E402
from kwire.wire.messages import Cause, Lost  # noqa: E402
from kwire.wire.schema import Clock, Schema  # noqa: E402

MONOTONIC, WALL = 5_000_000_000, 1_700_000_000_123_456_789
CLOCK = Clock("monotonic", MONOTONIC, WALL)
ENUMS = {"e": {1: "ONE", 2: "TWO", 4: "FOUR", -1: "MINUS"}}
SYMBOLS = {0x1000: "low", 0xFFFFFFFF81000000: "start"}
ADDRESSES = (0, 0x1010, 0xFFFFFFFF81000000, 0xFFFF888012345678)


def every_type(order: str) -> Schema:
    """A probe with each type of field, numbers also as arrays."""
    fields = [Field("pid", "u32", 16, 4), Field("comm", "str", 20, 4, limit=16), Field("cpu", "u16", 24, 2)]
    at = 26
    for type, rule in TYPES.items():
        for count in (1, 3) if rule.kind in ("int", "bool") else (1,):
            size = (rule.sizes[-1] if rule.sizes else 6) * count
            enum = {"enum": "e", "senum": "e", "u32": "e"}.get(type, "")
            unit = "ns" if type == "u64" else ""
            limit = 64 if rule.tail else 0
            fields.append(Field(f"{type}_{count}", type, at, size, unit, "", count, enum, limit))
            at += size
    return Schema(
        1, "kprobe:every(sk, a)", "kprobe", "every", tuple(fields), at, order, program="kprobe:every(sk, a)",
        enums=ENUMS, symbols=SYMBOLS, clock=CLOCK, host="box", kernel="6.1.0-13-amd64",
    )  # fmt: skip


def event(schema: Schema, number: int, flags: int = 0) -> bytes:
    """An event whose values follow from its number."""
    order: Literal["little", "big"] = "little" if schema.order == "little" else "big"
    sign = "<" if order == "little" else ">"
    record, tail = bytearray(schema.size), b""
    record[8:16] = struct.pack(sign + "Q", MONOTONIC + number * 1_000_001)
    texts = (b"cat", "žluť 猫".encode(), b"", b"a\nb", b"\xff broken", b"x" * 64)
    for place, field in enumerate(schema.fields):
        rule, width = TYPES[field.type], field.size // field.count
        parts = []
        for element in range(field.count):
            turn = number + place + element
            if rule.tail:
                value = texts[turn % len(texts)]
                cut = 0x8000 if len(value) == 64 else 0
                parts.append(struct.pack(sign + "HH", schema.size + len(tail), len(value) | cut))
                tail += value
            elif rule.kind in ("int", "bool"):
                edges = (0, 1, 3, 2**63 + 5, 2**64 - 1)
                chosen = ADDRESSES[turn % 4] if field.type in ("ptr", "ksym", "usym") else edges[turn % 5]
                parts.append((chosen % (1 << 8 * width)).to_bytes(width, order))
            elif rule.kind == "text":
                parts.append((b"eth0", b"wlan01")[turn % 2].ljust(width, b"\0"))
            else:
                parts.append(bytes((turn * 37 + byte) % 256 for byte in range(width)))
        record[field.offset : field.offset + field.size] = b"".join(parts)
    body = bytes(record[8:]) + tail
    return build(Type.EVENT, schema.id, body + bytes(-len(body) % 8), flags)


def second(order: str) -> tuple[list[bytes], list[bytes]]:
    """Another probe, whose SCHEMA comes in two frames, and its events."""
    sign = "<" if order == "little" else ">"
    head = {"probe": "tracepoint:sched:tick", "kind": "tracepoint", "size": 20, "order": order, "word": 4}
    clock = {"name": "monotonic", "monotonic": MONOTONIC, "wall": WALL}
    parts: list[dict[str, Any]] = [
        {"more": True, **head, "fields": [{"name": "a", "type": "u16", "offset": 16, "size": 2}]},
        {"fields": [{"name": "b", "type": "s16", "offset": 18, "size": 2}], "clock": clock, "future": [1]},
    ]
    events = [
        build(Type.EVENT, 2, struct.pack(sign + "QHh4x", MONOTONIC + 500_000 + n, n, -n)) for n in range(3)
    ]
    return [build(Type.SCHEMA, 2, cbor.dumps(part)) for part in parts], events


def options(sign: str, *pairs: tuple[int, bytes]) -> bytes:
    """Options of a block, with the end mark."""
    parts = [
        struct.pack(sign + "HH", code, len(value)) + value + bytes(-len(value) % 4) for code, value in pairs
    ]
    return b"".join([*parts, bytes(4)])


def capture(order: str) -> bytes:
    """A pcapng file as the writer makes it, in this byte order."""
    sign = "<" if order == "little" else ">"
    schema = every_type(order)
    parts, ticks = second(order)
    about = options(sign, (1, b"kwire capture 00112233 file 1"), (2, b"box (x86_64)"), (4, b"kwire 0.1"))
    blocks = [network.block(sign, 0x0A0D0D0A, struct.pack(sign + "IHHq", 0x1A2B3C4D, 1, 0, -1) + about)]
    for probe in (schema.probe, "tracepoint:sched:tick"):
        named = options(sign, (2, probe.encode()), (9, b"\x09"))
        blocks.append(network.block(sign, 1, struct.pack(sign + "HHI", 147, 0, 65535) + named))
    lost = Lost(2, MONOTONIC + 600_000, MONOTONIC + 700_000, 17, 3, Cause.RING_FULL)
    frames = [(0, 0, frame) for frame in schema.frames()] + [(1, 0, frame) for frame in parts]
    frames += [(0, n * 1_000_001, event(schema, n, Flag.CHECKSUM if n == 3 else 0)) for n in range(5)]
    frames += [(1, 500_000 + n, frame) for n, frame in enumerate(ticks)]
    frames.append((1, 700_000, lost.frame()))
    for number, after, frame in frames:
        time = WALL + after
        head = struct.pack(sign + "5I", number, time >> 32, time & 0xFFFFFFFF, len(frame), len(frame))
        blocks.append(network.block(sign, 6, head + frame))
    for number, (received, dropped) in enumerate(((5, 0), (20, 17))):
        counters = [(4, received), (5, dropped), (8, received - dropped)]
        told = options(
            sign,
            *((code, struct.pack(sign + "Q", value)) for code, value in counters),
            (1, b"end of capture"),
        )
        head = struct.pack(sign + "III", number, WALL >> 32, WALL & 0xFFFFFFFF)
        blocks.append(network.block(sign, 5, head + told))
    return b"".join(blocks)


def session(order: str) -> bytes:
    """One session over UDP, and one over TCP in segments out of order, as pcap in this byte order."""
    datagrams = [network.ethernet(network.udp(frame)) for frame in network.SESSION]
    segments = [network.ethernet(packet) for packet in network.SHUFFLED]
    return network.pcap([*datagrams, *segments], sign="<" if order == "little" else ">")


def main() -> None:
    """Write the files of a release that are not there yet."""
    release = sys.argv[1]
    for name, make, extension in (("capture", capture, "pcapng"), ("session", session, "pcap")):
        for order in ("little", "big"):
            path = HERE / f"{release}-{name}-{order}.{extension}"
            if not path.exists():
                path.write_bytes(make(order))
                print(path)


if __name__ == "__main__":
    main()
