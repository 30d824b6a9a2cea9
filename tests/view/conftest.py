"""A probe with a field of every kind, and its events."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from kwire.wire.frames import Frames
from kwire.wire.schema import Clock, Field, Schema

MONOTONIC, WALL = 1_000, 1_700_000_000_123_456_000

VALUES: dict[str, Any] = {
    "pid": 42,
    "state": 1,
    "family": -2,
    "mode": 5,
    "ok": True,
    "pointer": 0xFFFF888012345678,
    "caller": 4112,
    "took": 250,
    "source": "127.0.0.1",
    "peer": "::1",
    "mac": "02:00:00:00:00:01",
    "fixed": "eth0",
    "numbers": [7, 8, 9],
    "comm": "cat",
    "path": "/tmp/a b",
    "data": b"\x00\xff",
    "cpu": 3,
}
FIELDS = (
    Field("pid", "u32", 16, 4),
    Field("state", "enum", 20, 1, enum="states"),
    Field("family", "senum", 21, 1, enum="families"),
    Field("mode", "u16", 22, 2, enum="modes"),
    Field("ok", "bool", 24, 1),
    Field("pointer", "ptr", 32, 8),
    Field("caller", "ksym", 40, 8),
    Field("took", "u64", 48, 8, unit="ns"),
    Field("source", "ipv4", 56, 4),
    Field("peer", "ipv6", 60, 16),
    Field("mac", "mac", 76, 6),
    Field("fixed", "text", 82, 6),
    Field("numbers", "s16", 88, 6, count=3),
    Field("comm", "str", 94, 4, limit=16),
    Field("path", "str", 98, 4, limit=8),
    Field("data", "bytes", 102, 4, limit=64),
    Field("cpu", "u16", 106, 2),
)
ENUMS = {
    "states": {1: "RUNNING", 2: "ASLEEP"},
    "families": {-2: "NONE"},
    "modes": {1: "READ", 4: "APPEND", 8: "SYNC"},
}


def schema(id: int = 1, probe: str = "kprobe:vfs_open(path)", **changes: Any) -> Schema:
    made = Schema(
        id, probe, "kprobe", "vfs_open", FIELDS, 108, enums=ENUMS, symbols={4096: "start"},
        clock=Clock("monotonic", MONOTONIC, WALL),
    )  # fmt: skip
    return made._replace(**changes)


def event(id: int = 1, time: int = MONOTONIC, cut: bool = False, **changes: Any) -> bytes:
    values = VALUES | changes
    tail, places = b"", {}
    for name in ("comm", "path", "data"):
        raw = values[name] if isinstance(values[name], bytes) else values[name].encode()
        places[name] = struct.pack("<HH", 108 + len(tail), len(raw) | (0x8000 if cut else 0))
        tail += raw
    body = struct.pack(
        "<QIBbHB7xQQQ4s16s6s6s3h", time, values["pid"], values["state"], values["family"], values["mode"],
        values["ok"], values["pointer"], values["caller"], values["took"], bytes([127, 0, 0, 1]),
        bytes(15) + b"\1", b"\2\0\0\0\0\1", values["fixed"].encode(), *values["numbers"],
    )  # fmt: skip
    body += places["comm"] + places["path"] + places["data"] + struct.pack("<H", values["cpu"]) + tail
    body += bytes(-len(body) % 8)
    return struct.pack(">BBHI", 0x11, 0, 8 + len(body), id) + body


class Samples:
    """What the tests of this room build on."""

    monotonic, wall = MONOTONIC, WALL
    schema, event = staticmethod(schema), staticmethod(event)

    @staticmethod
    def frames(*frames: bytes) -> Frames:
        return Frames.walk(b"".join(frames))

    @staticmethod
    def values(**changes: Any) -> tuple[Any, ...]:
        return tuple((VALUES | changes)[field.name] for field in FIELDS)


@pytest.fixture(scope="session")
def samples() -> Samples:
    return Samples()
