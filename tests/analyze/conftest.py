"""Captures for the tests: schemas of any fields, events packed by hand, and what `kwire show --json` says."""

from __future__ import annotations

import json
import struct
from array import array
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from kwire.capture.writer import Writer
from kwire.cli.main import main
from kwire.wire.frames import Frames
from kwire.wire.messages import Cause, Lost
from kwire.wire.schema import Clock, Field, Schema

MONOTONIC, WALL = 1_000_000, 1_700_000_000_000_000_000
SIZES = {
    "u8": "B", "u16": "H", "u32": "I", "u64": "Q", "s8": "b", "s16": "h", "s32": "i", "s64": "q",
    "bool": "B", "ptr": "Q", "ksym": "Q", "enum": "I", "senum": "i",
}  # fmt: skip
ENUMS = {"states": {0: "NEW", 1: "RUNNING", 7: "DEAD"}, "modes": {1: "READ", 2: "WRITE", 4: "SYNC"}}
SYMBOLS = {4096: "start", 8192: "stop"}

#: One field of every kind: (name, type, elements or bytes, enum).
RICH = (
    ("pid", "u32", 1, ""),
    ("tid", "u32", 1, ""),
    ("comm", "str", 1, ""),
    ("cpu", "u16", 1, ""),
    ("state", "enum", 1, "states"),
    ("mode", "u16", 1, "modes"),
    ("address", "ptr", 1, ""),
    ("caller", "ksym", 1, ""),
    ("big", "u64", 1, ""),
    ("small", "s64", 1, ""),
    ("ok", "bool", 1, ""),
    ("source", "ipv4", 1, ""),
    ("peer", "ipv6", 1, ""),
    ("mac", "mac", 1, ""),
    ("numbers", "s16", 3, ""),
    ("fixed", "text", 8, ""),
    ("lump", "raw", 4, ""),
    ("path", "str", 1, ""),
    ("data", "bytes", 1, ""),
)
Event = tuple[Any, ...]  # probe number, time on the probe's clock, one value a field


class Kit:
    """Makes schemas, events and captures."""

    monotonic, wall = MONOTONIC, WALL

    @staticmethod
    def schema(
        id: int = 1,
        probe: str = "kprobe:vfs_open(path)",
        fields: Sequence[tuple[str, str, int, str]] = RICH,
        *,
        host: str = "box",
        order: str = "little",
        wall: int = WALL,
        units: dict[str, str] | None = None,
    ) -> Schema:
        made, at = [], 16
        for name, kind, count, enum in fields:
            one = {"ipv4": 4, "ipv6": 16, "mac": 6, "str": 4, "bytes": 4}.get(kind)
            if kind in ("text", "raw"):
                size, count = count, 1
            else:
                size = (one or struct.calcsize("=" + SIZES[kind])) * count
            unit = (units or {}).get(name, "")
            made.append(Field(name, kind, at, size, count=count, enum=enum, unit=unit, limit=64))
            at += size
        kind, _, target = probe.split("(")[0].partition(":")
        return Schema(
            id, probe, kind, target, tuple(made), at, order, enums=ENUMS, symbols=SYMBOLS,
            clock=Clock("monotonic", MONOTONIC, wall), host=host, kernel="6.1.0",
        )  # fmt: skip

    @staticmethod
    def rich(number: int = 0, **changes: Any) -> tuple[Any, ...]:
        """Values of RICH; different ones for different numbers."""
        values = {
            "pid": 100 + number % 3, "tid": 100 + number % 5, "comm": f"c{number % 4}".encode(),
            "cpu": number % 2, "state": number % 9, "mode": number % 8,
            "address": 0xFFFF888000000000 + number, "caller": 4096 + number,
            "big": (1 << 64) - 1 - number, "small": -(1 << 63) + number,
            "ok": number % 2, "source": f"10.0.0.{number % 250}", "peer": f"2001:db8::{number % 250:x}",
            "mac": bytes([2, 0, 0, 0, 0, number % 250]), "numbers": (number % 7, -1, 3), "fixed": b"ab\0cd",
            "lump": struct.pack("<I", number), "path": b"/tmp/\xff" if number % 2 else "/é".encode(),
            "data": bytes(range(number % 5)),
        }  # fmt: skip
        return tuple((values | changes).values())

    @staticmethod
    def event(schema: Schema, time: int, values: Sequence[Any]) -> bytes:
        """The EVENT frame, packed field by field."""
        sign = "<" if schema.order == "little" else ">"
        fixed, tail = bytearray(schema.size), b""
        struct.pack_into(sign + "Q", fixed, 8, time)
        for field, value in zip(schema.fields, values, strict=True):
            if field.type in ("str", "bytes"):
                part = struct.pack(sign + "HH", schema.size + len(tail), len(value))
                tail += value
            elif field.type in ("ipv4", "ipv6"):
                part = ip_address(value).packed
            elif field.type in ("mac", "text", "raw"):
                part = bytes(value).ljust(field.size, b"\0")
            else:
                items = value if field.count > 1 else (value,)
                part = struct.pack(f"{sign}{field.count}{SIZES[field.type]}", *items)
            fixed[field.offset : field.offset + field.size] = part
        length = len(fixed) + len(tail)
        padding = -length % 8
        struct.pack_into(">BBHI", fixed, 0, 0x11, 0, length + padding, schema.id)
        return bytes(fixed) + tail + bytes(padding)

    @staticmethod
    def frames(*frames: bytes) -> Frames:
        offsets, at = array("Q"), 0
        for frame in frames:
            offsets.append(at)
            at += len(frame)
        return Frames(b"".join(frames), offsets)

    def write(
        self,
        path: Path | str,
        schemas: Sequence[Schema],
        items: Iterable[bytes | Lost],
        produced: dict[int, int] | None = None,
    ) -> str:
        """A capture of these EVENT frames and losses, in this order."""
        out = Writer(str(path), schemas, host=schemas[0].host if schemas else "")
        for item in items:
            if isinstance(item, Lost):
                out.lost([item])
            else:
                out.write(self.frames(item))
        out.close(produced)
        return str(path)

    def capture(self, path: Path | str, count: int = 60, **options: Any) -> str:
        """A capture of two probes with every kind of field, and one loss."""
        one = self.schema(1, "kprobe:vfs_open(path)", **options)
        two = self.schema(2, "tracepoint:syscalls:sys_enter_openat", **options)
        items: list[bytes | Lost] = [
            self.event((one, two)[number % 2], MONOTONIC + 1000 * (number ^ 1), self.rich(number))
            for number in range(count)
        ]
        items.insert(min(5, len(items)), Lost(1, MONOTONIC + 100, MONOTONIC + 4000, 7, 1, Cause.RING_FULL))
        return self.write(path, [one, two], items)


@pytest.fixture(scope="session")
def kit() -> Kit:
    return Kit()


@pytest.fixture
def rich(tmp_path: Path, kit: Kit) -> str:
    """A capture with every kind of field."""
    return kit.capture(tmp_path / "rich.pcapng")


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def kwire(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a verb; gives status, output, errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            status = main(list(arguments))
        except SystemExit as stop:
            status = int(stop.code or 0)
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture
def shown(kwire: Run) -> Callable[..., list[dict[str, Any]]]:
    """The objects of `kwire show --json`; `status`: how it ends, 3 where something is lost or damaged."""

    def run(path: str, *arguments: str, status: int = 0) -> list[dict[str, Any]]:
        ended, out, err = kwire("show", path, "--json", *arguments)
        assert ended == status, err
        return [json.loads(line) for line in out.splitlines()]

    return run
