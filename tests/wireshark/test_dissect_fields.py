"""Every field type in both byte orders: Wireshark shows what `kwire show --json` says, byte for byte."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kwire.wire.fields import TYPES, Field
from kwire.wire.frame import Flag, Type, build
from kwire.wire.schema import Clock, MapShape, Schema
from kwire.wire.tables import MapTable, Row

pytestmark = pytest.mark.native

ENUMS = {"e": {1: "ONE", 2: "TWO", 4: "FOUR", 12: "TWELVE", -1: "MINUS", 2**64 - 1: "ALL"}, "none": {}}
SYMBOLS = {0x1000: "low", 0xFFFFFFFF81000000: "start", 0xFFFFFFFF81000100: "next", 0x00007F0000000000: "user"}
EDGES = [0, 1, 2, 3, 4, 7, 12, 13, 127, 128, 255, 0x1010, 2**31, 2**32 - 1, 2**53 + 1, 2**63, 2**64 - 1]
ADDRESSES = [0, 0x1000, 0x1010, 0xFFF, 0xFFFFFFFF81000000, 0xFFFFFFFF81000104, 0xFFFFFFFF81200000, 2**64 - 1]
TEXTS = [b"", b"cat", b"a b\tc", "žluťoučký 猫".encode(), b"\xff\xfe broken \xc3", b'"quoted" \\', b"x" * 300]


def every_type(id: int, order: str) -> Schema:
    """A probe with each type in each of its sizes, alone and as an array, some with names."""
    fields, at = [], 16
    for type, rule in TYPES.items():
        for size in rule.sizes or (1, 7):
            for count in (1,) if rule.tail else (1, 3):
                enum = {"enum": "e", "senum": "e", "u16": "e", "s32": "e", "u64": "none"}.get(type, "")
                name = f"{type}_{size}_{count}"
                unit, meaning = ("ns", "how long") if type == "u32" else ("", "")
                limit = 512 if rule.tail else 0
                fields.append(Field(name, type, at, size * count, unit, meaning, count, enum, limit))
                at += size * count + 1
    fields += [Field("pid", "u32", at, 4), Field("comm", "str", at + 4, 4, limit=16)]
    clock = Clock("monotonic", 5_000_000_000, 1_700_000_000_999_999_999)
    target, word = f"every_{order}", {"big": 4, "little": 8}[order]
    return Schema(
        id, f"kprobe:{target}(x, y)", "kprobe", target, tuple(fields), at + 8, order, word,
        enums=ENUMS, symbols=SYMBOLS, clock=clock,
    )  # fmt: skip


def event(schema: Schema, source: random.Random, time: int, flags: int = 0) -> bytes:
    """An event with edge values of every type."""
    sign = "<" if schema.order == "little" else ">"
    record = bytearray(schema.size)
    record[8:16] = struct.pack(sign + "Q", time)
    tail = b""
    for field in schema.fields:
        rule, width = TYPES[field.type], field.size // field.count
        parts = []
        for _ in range(field.count):
            if rule.tail:
                value = (
                    source.choice(TEXTS)
                    if rule.kind == "str"
                    else source.randbytes(source.choice([0, 1, 40]))
                )
                cut = source.choice([0, 0, 0x8000])
                parts.append(struct.pack(sign + "HH", schema.size + len(tail), len(value) | cut))
                tail += value
            elif rule.kind in ("int", "bool"):
                edges = ADDRESSES if field.type in ("ptr", "ksym", "usym") else EDGES
                number = source.choice([*edges, source.randrange(2**64)]) % (1 << 8 * width)
                parts.append(number.to_bytes(width, "little" if sign == "<" else "big"))
            elif rule.kind == "text":
                parts.append(
                    source.choice([b"ab\0cdef", b"0123456", b"\xc3\xa4\0\0\0\0\0", b"\xff" * 7])[
                        :width
                    ].ljust(width, b"\0")
                )
            else:
                parts.append(source.randbytes(width))
        record[field.offset : field.offset + field.size] = b"".join(parts)
    return build(Type.EVENT, schema.id, bytes(record[8:]) + tail, flags)


def compare(found: list[Any], expected: Any, field: Field, names: list[Any]) -> None:
    """One field: PDML items against the value in JSON; an array's elements one by one."""
    if expected is None:  # it could not be read: no filter finds it
        assert not found
        return
    values = expected if field.count > 1 else [expected]
    assert len(found) == len(values)
    named = iter(names)
    for item, value in zip(found, values, strict=True):
        kind = TYPES[field.type].kind
        if kind == "bool":
            assert item.show in (("1", "True") if value else ("0", "False"))
        elif kind == "int" and isinstance(value, str) and not value.startswith("0x"):
            if not (value.isdecimal() or value.lstrip("-").isdecimal()):
                assert next(named).show == value
        elif kind == "int":
            assert int(item.show, 0) == (int(value, 0) if isinstance(value, str) else value)
            if isinstance(value, str) and field.enum:  # flags of which none has a name
                assert next(named).show == value
        elif kind in ("bytes", "raw"):
            assert item.show.replace(":", "") == value
        elif kind in ("str", "text"):
            if value.isascii() and value.isprintable() and "\\" not in value and '"' not in value:
                assert item.show == value
        else:
            assert item.show == value
    assert next(named, None) is None


@pytest.mark.parametrize("sign", ["<", ">"])
def test_every_field_type_is_shown_as_kwire_shows_it(
    wireshark: Any, capture_of: Callable[..., bytes], show: Any, tmp_path: Path, sign: str
) -> None:
    source = random.Random(18)
    schemas = [every_type(1, "little"), every_type(2, "big")]
    names = wireshark.learn(*schemas)
    clock, sign_of = schemas[0].clock, {"little": "<", "big": ">"}
    assert clock is not None
    events = []
    for number in range(60):
        flags = Flag.CHECKSUM if number % 3 == 0 else 0
        events.append(event(schemas[number % 2], source, clock.monotonic + number * 1_000_003, flags))
    path = tmp_path / "every.pcapng"
    path.write_bytes(
        capture_of([*[f for s in schemas for f in s.frames()], *events], sign=sign, interfaces=2)
    )
    objects, packets = show(path), wireshark.packets(path)
    packets = packets[len(packets) - len(events) :]
    assert len(objects) == len(packets) == len(events)
    for number, (one, packet, data) in enumerate(zip(objects, packets, events, strict=True)):
        schema = schemas[number % 2]
        assert packet.problems == []
        assert [item.show for item in packet.fields("kwire.probe")] == [schema.probe]
        timestamp = clock.monotonic + number * 1_000_003
        assert [item.show for item in packet.fields("kwire.timestamp")] == [str(timestamp)]
        nanoseconds = f"{one['time_ns'] % 10**9:09d}"
        assert f".{nanoseconds} UTC" in packet.fields("kwire.time")[0].label
        context = {"pid": one["pid"], "comm": one["comm"]}
        for field in schema.fields:
            name = names[schema.probe.split("(")[0], field.name]
            assert name == f"kwire.every_{schema.order}.{field.name}"
            found = packet.fields(name)
            expected = {**one["fields"], **context}[field.name]
            compare(found, expected, field, packet.fields(name + ".name"))
            for place, item in enumerate(found):
                width = field.size // field.count
                start, size = field.offset + place * width, width
                if TYPES[field.type].tail:
                    start, size = struct.unpack_from(sign_of[schema.order] + "HH", data, start)
                    size &= 0x7FFF
                if size:
                    assert (item.at, item.size) == (start, size), name
                    assert bytes.fromhex(item.value) == data[start : start + size]
            described = " ".join(item.label for one in packet.frames for item in one.all())
            assert f"[{field.type}" in described
        assert [item.show for item in packet.fields("kwire.pid")] == [str(one["pid"])]


def test_a_probe_that_is_not_in_the_table_is_shown_all_the_same(
    wireshark: Any, capture_of: Callable[..., bytes], show: Any, tmp_path: Path
) -> None:
    schema = every_type(1, "big")
    schema = schema._replace(probe="kprobe:never_seen", target="never_seen")
    path = tmp_path / "unknown.pcapng"
    path.write_bytes(capture_of([*schema.frames(), event(schema, random.Random(1), 6_000_000_000)]))
    (one,), packet = show(path), wireshark.packets(path)[-1]
    labels = [item.label for frame in packet.frames for item in frame.all()]
    for field in schema.fields:
        assert any(label.startswith(f"{field.name}: ") and f"[{field.type}" in label for label in labels), (
            field
        )
    numbers = {int(item.show) for item in packet.fields("kwire.any.uint")}
    assert {
        value for name, value in one["fields"].items() if name in ("u8_1_1", "u32_4_1", "u64_8_1")
    } <= numbers


def test_filters_take_names_numbers_and_what_all_events_have(
    wireshark: Any, capture_of: Callable[..., bytes], tmp_path: Path
) -> None:
    fields = (
        Field("pid", "u32", 16, 4),
        Field("dport", "u16", 20, 2),
        Field("state", "enum", 22, 1, enum="states"),
        Field("comm", "str", 24, 4, limit=16),
    )
    schema = Schema(
        1,
        "kprobe:tcp_connect(sk)",
        "kprobe",
        "tcp_connect",
        fields,
        28,
        enums={"states": {1: "OPEN", 2: "SHUT"}},
    )
    wireshark.learn(schema)

    def frame(pid: int, dport: int, state: int, comm: bytes) -> bytes:
        return build(Type.EVENT, 1, struct.pack("<QIHBxHH", 9, pid, dport, state, 28, len(comm)) + comm)

    path = tmp_path / "filters.pcapng"
    events = [frame(1, 443, 1, b"curl"), frame(2, 80, 2, b"wget"), frame(3, 443, 3, b"")]
    path.write_bytes(capture_of([*schema.frames(), *events]))
    for only, numbers in (
        ("kwire.tcp_connect.dport == 443", ["2", "4"]),
        ('kwire.tcp_connect.state.name == "SHUT"', ["3"]),
        ('kwire.comm == "curl"', ["2"]),
        ("kwire.pid > 1", ["3", "4"]),
        ('kwire.probe contains "tcp_connect" && kwire.type == 1', ["2", "3", "4"]),
        ("kwire.schema_frame == 1", ["2", "3", "4"]),
    ):
        assert [row[0] for row in wireshark.fields(path, "frame.number", only=only)] == numbers, only
    info = wireshark.fields(path, "_ws.col.Info")
    assert info[1] == ["tcp_connect dport=443 state=OPEN curl[1]"]


def test_tables_of_maps_are_shown(wireshark: Any, tmp_path: Path, capture_of: Any) -> None:
    fields = (Field("key", "str", 16, 4, limit=9), Field("value", "u64", 20, 8), Field("table", "u32", 28, 4))
    schema = Schema(5, "map:@x", "map", "@x", fields, 32, map=MapShape("count", 1))
    held = MapTable(3, 77, (Row(("bash",), 12), Row(("cat",), 1)), "end")
    path = tmp_path / "x.pcapng"
    path.write_bytes(capture_of([*schema.frames(), *held.frames(5)]))
    _, table = wireshark.packets(path)
    assert table.problems == []
    texts = [one.label for frame in table.frames for one in frame.all()]
    assert "kwire TABLE, table=3 time=77 shown=end part=0" in texts
    assert {"[1 items, 12]", "bash", "12", "[1 items, 1]", "cat", "1"} <= set(texts)
    assert "table: 3 [an integer: which table of this map it is, from 1]" in texts


def test_addresses_have_the_names_that_tables_of_stacks_tell(
    wireshark: Any, tmp_path: Path, capture_of: Any, show: Any
) -> None:
    clock = Clock("monotonic", 0, 0)
    fields = (Field("fn", "ksym", 16, 8), Field("user", "usym", 24, 8))
    schema = Schema(1, "kprobe:f", "kprobe", "f", fields, 32, symbols={2**63 + 4096: "own"}, clock=clock)
    names = (("stack", "u64"), ("level", "u32"), ("address", "u64"), ("symbol", "str"), ("offset", "u64"))
    places = [*names, ("file", "str"), ("table", "u32")]
    wide = [(name, type, 8 if type == "u64" else 4) for name, type in places]
    own = (Field(name, type, 16 + 8 * at, size) for at, (name, type, size) in enumerate(wide))
    stacks = Schema(2, "map:stacks", "map", "stacks", tuple(own), 72, map=MapShape("stack", 2))
    told = {2**63 + 8: ("told", 8), 2**63 + 16: ("", 0), 2**63 + 32: ("start", 0), 2**40: ("user", 0)}
    again = {2**63 + 32: ("start", 0), 2**63 + 48: ("other", 0), 2**63 + 64: ("", 0)}  # by another kernel
    told |= {2**63 + 48: ("one", 0), 2**63 + 64: ("named", 0)}
    frames = [*schema.frames(), *stacks.frames()]
    for number, names_told in enumerate((told, again), 1):
        rows = (Row((at, 0), (at, name, offset, "")) for at, (name, offset) in names_told.items())
        frames += MapTable(number, 1, tuple(rows)).frames(2)
    addresses = (2**63 + 8, 2**63 + 16, 2**63 + 32, 2**63 + 4100, 2**40, 2**63 + 48, 2**63 + 64)
    for time, address in enumerate(addresses, 2):
        frames.append(build(Type.EVENT, 1, struct.pack("<QQQ", time, address, address)))
    path = tmp_path / "x.pcapng"
    path.write_bytes(capture_of(frames))
    info = wireshark.fields(path, "_ws.col.Info")[-len(addresses) :]
    shown = [row[0].split()[1] for row in info]
    assert shown == [
        *("fn=told+0x8", "fn=0x8000000000000010", "fn=start", "fn=own+0x4", "fn=0x10000000000"),
        *("fn=0x8000000000000030", "fn=0x8000000000000040"),
    ]
    named = [one["fields"]["fn"] for one in show(path) if "fields" in one]
    assert [f"fn={name}" for name in named] == shown
