"""Captures for the tests: a probe, its events, and a pcapng builder of its own, apart from the one tested."""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Sequence
from typing import Literal

import pytest

from kwire.wire.frames import Frames
from kwire.wire.schema import Clock, Field, Schema

MONOTONIC, WALL = 5_000_000_000, 1_700_000_000_000_000_000
Options = Sequence[tuple[int, bytes]]


class Kit:
    """Makes schemas, events and captures."""

    monotonic, wall = MONOTONIC, WALL

    @staticmethod
    def schema(id: int = 1, probe: str = "tracepoint:sched:tick", order: str = sys.byteorder) -> Schema:
        fields = (
            Field("pid", "u32", 16, 4),
            Field("tid", "u32", 20, 4),
            Field("comm", "str", 24, 4, limit=16),
            Field("cpu", "u16", 28, 2),
        )
        clock = Clock("monotonic", MONOTONIC, WALL)
        kind, _, target = probe.partition(":")
        return Schema(id, probe, kind, target, fields, 30, order, clock=clock, host="box", kernel="6.1.0")

    @staticmethod
    def event(id: int = 1, time: int = MONOTONIC, comm: bytes = b"cat", order: str = sys.byteorder) -> bytes:
        sign = "<" if order == "little" else ">"
        body = struct.pack(sign + "QIIHHH", time, 7, 8, 30, len(comm), 3) + comm
        body += bytes(-len(body) % 8)
        return struct.pack(">BBHI", 0x11, 0, 8 + len(body), id) + body

    @staticmethod
    def frames(*frames: bytes, gap: int = 0) -> Frames:
        """Frames in one buffer, `gap` bytes between them, as a ring buffer has them."""
        data, offsets = bytearray(), array("Q")
        for frame in frames:
            data += b"\xee" * gap
            offsets.append(len(data))
            data += frame
        return Frames(bytes(data), offsets)

    @staticmethod
    def builder(order: Literal["little", "big"] = "little") -> Builder:
        return Builder(order)


class Builder:
    """A pcapng file by hand, in either byte order."""

    def __init__(self, order: Literal["little", "big"]) -> None:
        self.sign = "<" if order == "little" else ">"
        self.blocks = bytearray()

    @property
    def data(self) -> bytes:
        return bytes(self.blocks)

    def block(self, type: int, body: bytes) -> Builder:
        body += bytes(-len(body) % 4)
        total = len(body) + 12
        self.blocks += struct.pack(self.sign + "II", type, total) + body + struct.pack(self.sign + "I", total)
        return self

    def options(self, options: Options) -> bytes:
        out = b""
        for code, value in options:
            out += struct.pack(self.sign + "HH", code, len(value)) + value + bytes(-len(value) % 4)
        return out + bytes(4) if options else b""

    def section(self, options: Options = ()) -> Builder:
        body = struct.pack(self.sign + "IHHq", 0x1A2B3C4D, 1, 0, -1)
        return self.block(0x0A0D0D0A, body + self.options(options))

    def interface(self, name: bytes = b"probe", link_type: int = 147) -> Builder:
        body = struct.pack(self.sign + "HHI", link_type, 0, 65535)
        return self.block(1, body + self.options([(2, name), (9, b"\x09")]))

    def packet(self, frame: bytes, interface: int = 0, time: int = WALL, options: Options = ()) -> Builder:
        head = struct.pack(self.sign + "5I", interface, time >> 32, time & 0xFFFFFFFF, len(frame), len(frame))
        return self.block(6, head + frame + bytes(-len(frame) % 4) + self.options(options))

    def statistics(self, interface: int, received: int, dropped: int, delivered: int) -> Builder:
        counters = [(4, received), (5, dropped), (8, delivered)]
        options = [(code, struct.pack(self.sign + "Q", value)) for code, value in counters]
        head = struct.pack(self.sign + "III", interface, WALL >> 32, WALL & 0xFFFFFFFF)
        return self.block(5, head + self.options(options))

    def capture(self, schema: Schema, *frames: bytes, statistics: bool = True) -> Builder:
        """A whole section of one probe."""
        self.section().interface(schema.probe.encode())
        for frame in [*schema.frames(), *frames]:
            self.packet(frame)
        events = sum(frame[0] == 0x11 for frame in frames)
        return self.statistics(0, events, 0, events) if statistics else self


@pytest.fixture(scope="session")
def kit() -> Kit:
    return Kit()
