"""Fuzz target: reading, proving and showing captures."""

from __future__ import annotations

import contextlib
import io
import struct

import fuzzing

from kwire.capture.output import CaptureError
from kwire.capture.reader import Capture
from kwire.capture.verify import verify_capture
from kwire.view.jsonl import JsonLines
from kwire.view.render import Renderer
from kwire.view.table import Table
from kwire.wire.messages import Lost
from kwire.wire.schema import Clock, Field, Schema


def _block(sign: str, type: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    total = len(body) + 12
    return struct.pack(sign + "II", type, total) + body + struct.pack(sign + "I", total)


def _packet(sign: str, frame: bytes) -> bytes:
    return _block(sign, 6, struct.pack(sign + "5I", 0, 1, 2, len(frame), len(frame)) + frame)


def _capture(order: str) -> bytes:
    """A section with a probe of all kinds of fields, an event, a loss and statistics."""
    sign = "<" if order == "little" else ">"
    fields = (
        Field("pid", "u32", 16, 4),
        Field("comm", "str", 20, 4, limit=16),
        Field("cpu", "u16", 24, 2),
        Field("state", "enum", 26, 1, enum="states"),
        Field("ok", "bool", 27, 1),
        Field("from", "ksym", 32, 8),
        Field("source", "ipv4", 28, 4),
        Field("data", "bytes", 40, 4, limit=8),
        Field("numbers", "u16", 44, 4, count=2),
    )
    schema = Schema(
        1, "kprobe:f", "kprobe", "f", fields, 48, order, enums={"states": {1: "RUNNING"}},
        symbols={4096: "start"}, clock=Clock("monotonic", 5, 10**18),
    )  # fmt: skip
    body = struct.pack(sign + "QIHHHBB4sQHH4s", 9, 1, 48, 4, 3, 1, 1, b"\x7f\0\0\1", 4100, 52, 4, b"\1\2\3\4")
    event = struct.pack(">BBHI", 0x11, 0, 56, 1) + body + b"catsdata"
    section = struct.pack(sign + "IHHq", 0x1A2B3C4D, 1, 0, -1) + struct.pack(sign + "HH4sI", 1, 4, b"note", 0)
    interface = struct.pack(sign + "HHIHH4sI", 147, 0, 65535, 2, 4, b"name", 0)
    statistics = struct.pack(sign + "IIIHHQI", 0, 1, 2, 4, 8, 4, 0)
    frames = [*schema.frames(), event, Lost(1, 1, 2, 3, 0, 1).frame()]
    blocks = [_block(sign, 0x0A0D0D0A, section), _block(sign, 1, interface)]
    blocks += [_packet(sign, frame) for frame in frames]
    return b"".join([*blocks, _block(sign, 0xABC, b"unknown"), _block(sign, 5, statistics)])


SEEDS = [_capture("little"), _capture("big"), _capture("big") + _capture("little")]


def one_input(data: bytes) -> None:
    """Read, verify and show; only a CaptureError may come out, and every event makes one line."""
    with contextlib.suppress(CaptureError):
        verify_capture(Capture(io.BytesIO(data)))
    for format in (JsonLines(), Table([])):
        capture = Capture(io.BytesIO(data))
        renderer = Renderer(format)
        with contextlib.suppress(CaptureError):
            for frames in capture:
                before = renderer.events
                rows = renderer.rows(frames, capture.schemas)
                events = sum(frames.header(index).type == 1 for index in range(len(frames)))
                assert renderer.events - before == events <= len(rows)
                assert not any("\n" in line or "\x1b" in line for line in format.lines(rows))
        assert capture.problem is None or "\n" not in capture.problem


if __name__ == "__main__":
    fuzzing.main(one_input, SEEDS)
