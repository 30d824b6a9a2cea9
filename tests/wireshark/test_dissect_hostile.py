"""Damaged frames: the dissector names what kwire's own readers name, where they do, and never breaks."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile
import pytest

from kwire.wire import cbor
from kwire.wire.fields import Field
from kwire.wire.frame import Code, Type, build
from kwire.wire.messages import Lost
from kwire.wire.schema import Schema

pytestmark = pytest.mark.native


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("options", [(), ("-2",)], ids=["one pass", "two passes"])
def test_errors_are_those_of_kwire(
    wireshark: Any, capture_of: Callable[..., bytes], tmp_path: Path, seed: int, options: tuple[str, ...]
) -> None:
    packets = hostile.packets(700, seed)
    path = tmp_path / "hostile.pcapng"
    path.write_bytes(capture_of(packets))
    oracle, codes = hostile.Oracle(), set()
    for number, (data, shown) in enumerate(zip(packets, wireshark.packets(path, *options), strict=True), 1):
        expected = oracle.packet(data)
        codes |= {code for code, _ in expected}
        assert shown.problems == expected, f"packet {number}: {data.hex()}"
    assert codes == {code.name for code in Code} - {"PAYLOAD_TOO_LONG", "ILLEGAL_TRANSITION", "FAILED"}


def test_bad_frames_are_malformed_and_losses_are_warnings(
    wireshark: Any, capture_of: Callable[..., bytes], tmp_path: Path
) -> None:
    path = tmp_path / "experts.pcapng"
    bad = hostile.SEEDS[-2]
    path.write_bytes(capture_of([Lost(7, 1, 2, 17, 3, 1).frame(), bad, build(Type.EVENT, 5, bytes(8))]))
    rows = wireshark.fields(path, "_ws.expert.group", "_ws.expert.severity", "_ws.expert.message")
    group, severity, message = rows[0]
    assert (int(group, 0), int(severity, 0)) == (0x02000000, 0x00600000)  # sequence, warning
    assert message == "17 events of probe 7 on CPU 3: the ring buffer was full"
    assert set(rows[1][0].split(",")) == {str(0x07000000)}  # malformed
    assert "BAD_TYPE (6) at offset 0: found 15, expected 0 to 12" in rows[1][2]
    assert "UNKNOWN_SCHEMA" in rows[2][2]
    for only, number in (
        ("kwire.error.bad_type", "2"),
        ('kwire.error == "BAD_FLAGS"', "2"),
        ("kwire.lost.count == 17", "1"),
    ):
        assert [row[0] for row in wireshark.fields(path, "frame.number", only=only)] == [number]


def test_records_that_claim_very_much_are_bounded(
    wireshark: Any, capture_of: Callable[..., bytes], tmp_path: Path
) -> None:
    fields = [{"name": f"f{n}", "type": "u8", "offset": 16, "size": 255, "count": 255} for n in range(1000)]
    whole = {"probe": "p", "kind": "k", "size": 272, "order": "big", "word": 4}
    pieces = [
        build(Type.SCHEMA, 1, cbor.dumps({"more": True, "fields": fields[at : at + 500]})) for at in (0, 500)
    ]
    one = build(Type.EVENT, 1, bytes(264))
    many = build(Type.DATA, 1, one * 240)
    path = tmp_path / "much.pcapng"
    path.write_bytes(capture_of([*pieces, build(Type.SCHEMA, 1, cbor.dumps(whole)), one, many]))
    rows = wireshark.fields(path, "_ws.expert.message")
    assert "More than is shown" in rows[3][0]
    assert "More than is shown" in rows[4][0]


def test_a_schema_counts_from_where_it_stands_until_the_next(
    wireshark: Any, capture_of: Callable[..., bytes], tmp_path: Path
) -> None:
    old = Schema(1, "kprobe:f", "kprobe", "f", (Field("a", "u16", 16, 2),), 24, "big")
    new = old._replace(probe="kprobe:g", target="g", fields=(Field("b", "u32", 20, 4),), order="little")
    event = build(Type.EVENT, 1, bytes(8) + bytes.fromhex("0102030405060708"))
    wireshark.learn(old, new)
    first = capture_of([event, *old.frames(), event, *new.frames(), event])
    path = tmp_path / "again.pcapng"
    path.write_bytes(first + capture_of([event, *old.frames(), event], sign=">"))  # another section
    for options in ((), ("-2",)):
        rows = wireshark.fields(path, "kwire.f.a", "kwire.g.b", "kwire.error", options=options)
        assert rows == [
            ["", "", "UNKNOWN_SCHEMA"],
            ["", "", ""],
            ["258", "", ""],
            ["", "", ""],
            ["", str(0x08070605), ""],
            ["", "", "UNKNOWN_SCHEMA"],
            ["", "", ""],
            ["258", "", ""],
        ]


def test_noise_does_not_break_it(wireshark: Any, capture_of: Callable[..., bytes], tmp_path: Path) -> None:
    source = random.Random(5)
    packets = [source.randbytes(source.randrange(1, 80)) for _ in range(800)]
    packets += [bytes([0x10 | source.randrange(13), 0, 0, 40]) + source.randbytes(36) for _ in range(800)]
    path = tmp_path / "noise.pcapng"
    path.write_bytes(capture_of(packets))
    oracle = hostile.Oracle()
    assert [shown.problems for shown in wireshark.packets(path)] == [oracle.packet(data) for data in packets]
