"""Explaining: every byte is accounted for, whatever the bytes are; what is wrong is what the readers say."""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kwire.wire.control import HELLO_KEYS, Hello, Role, error_frame
from kwire.wire.explain import MAX_NESTING, Explained, Explainer, show
from kwire.wire.fields import CutBytes, CutStr, Field
from kwire.wire.frame import Code, Flag, Type, build, build_lenient, checksum, inspect
from kwire.wire.messages import Lost
from kwire.wire.schema import Schema

SCHEMA = Schema(
    1,
    "kprobe:f",
    "kprobe",
    "f",
    (
        Field("comm", "str", 16, 4),
        Field("state", "enum", 20, 4, enum="state"),
        Field("fn", "ksym", 24, 8),
        Field("ok", "bool", 33, 1),
        Field("ips", "ipv4", 36, 8, count=2),
    ),
    44,
    enums={"state": {1: "OPEN"}},
    symbols={0xFFFFFFFF81000000: "f"},
)
RECORD = (
    struct.pack("<QHHIQBBH4s4s", 99, 44, 4, 1, 0xFFFFFFFF81000010, 7, 1, 0, b"\x0a\0\0\1", b"\x0a\0\0\2")
    + b"load"
)


def explain(data: bytes, lenient: bool = False) -> list[Explained]:
    return list(Explainer(lenient).explain(data))


def covered(one: Explained) -> set[int]:
    places = {place for row in one.rows for place in range(row.offset, row.offset + len(row.data))}
    return places.union(*(covered(item) for item in one.inner))


ANY = st.binary(max_size=60) | st.lists(
    st.builds(build, st.integers(0, 12), st.integers(0, 3), st.binary(max_size=30), st.sampled_from([0, 1])),
    max_size=4,
).map(b"".join)


@given(ANY, st.binary(max_size=9), st.booleans())
def test_every_byte_is_accounted_for(data: bytes, more: bytes, lenient: bool) -> None:
    data += more
    result = explain(data, lenient)
    assert [one.offset for one in result] == [0, *(one.end for one in result[:-1])][: len(result)]
    if not lenient and data:
        assert result[-1].end == len(data)
    for one in result:
        assert covered(one) == set(range(one.offset, one.end))
        for row in one.rows:
            assert data[row.offset : row.offset + len(row.data)] == row.data
        assert (one.checksum is not None) == one.whole
        if one.whole:
            assert one.checksum == checksum(data[one.offset : one.end])
        assert one.problems == sorted(one.problems, key=lambda problem: problem.offset)
        found = inspect(data, one.offset)[1]
        if lenient:
            assert not one.whole or not one.problems
        else:
            assert set(found) <= set(one.problems)


def values(one: Explained) -> dict[str, list[str]]:
    result: dict[str, list[str]] = {}
    for row in one.rows:
        result.setdefault(row.name, []).append(row.value)
    return result


def test_an_event_after_its_schema() -> None:
    for flags in (0, Flag.CHECKSUM):
        data = b"".join(SCHEMA.frames()) + build(Type.EVENT, 1, RECORD, flags)
        schema, event = explain(data)
        assert not schema.problems + event.problems
        rows = values(event)
        assert rows["comm"] == ["4 bytes at 44", "load"]
        assert rows["state"] == ["1 OPEN"]
        assert rows["fn"] == ["0xffffffff81000010 f+0x10"]
        assert rows["ok"] == ["True"]
        assert rows["ips"] == ["[10.0.0.1, 10.0.0.2]"]
        assert rows["timestamp"] == ["99"]
        assert [
            row.offset - event.offset for row in event.rows if row.meaning == "not described by the SCHEMA"
        ] == [32]
        fields = {
            "comm": "load",
            "state": 1,
            "fn": 0xFFFFFFFF81000010,
            "ok": True,
            "ips": ["10.0.0.1", "10.0.0.2"],
        }
        assert event.decoded == {"probe": "kprobe:f", "time_ns": 99, "fields": fields}
        assert covered(event) == set(range(event.offset, event.end))


def test_an_event_without_schema_is_no_error() -> None:
    (event,) = explain(build(Type.EVENT, 99, b"a record"))
    assert not event.problems
    assert "no SCHEMA of probe 99" in event.notes[0]


def test_an_event_without_schema_has_its_timestamp_all_the_same() -> None:
    """What decode accepts, show takes: the same judgement."""
    for record, flags, end in ((b"test", 0, 12), (b"seventy", Flag.CHECKSUM, 15)):
        _, event = explain(build(Type.KEEPALIVE, 0) + build(Type.EVENT, 99, record, flags))
        assert [(problem.code, problem.offset) for problem in event.problems] == [(Code.BAD_PAYLOAD, 8 + end)]
    (event,) = explain(build(Type.EVENT, 99, b"test"), lenient=True)
    assert not event.problems


def test_a_bad_record_says_where_in_the_input() -> None:
    schema = b"".join(SCHEMA.frames())
    for record, offset in ((RECORD[:20], 28), (RECORD[:8] + b"\xff\xff" + RECORD[10:], 16)):
        _, event = explain(schema + build(Type.EVENT, 1, record))
        assert [(problem.code, problem.offset) for problem in event.problems] == [
            (Code.BAD_PAYLOAD, len(schema) + offset)
        ]
        assert event.decoded is None
        _, event = explain(schema + build(Type.EVENT, 1, record), lenient=True)
        assert not event.problems
        assert "not readable" in event.notes[0]


def test_a_schema_in_parts() -> None:
    parts = SCHEMA._replace(program="x" * 100000).frames()
    *first, last, event = explain(b"".join(parts) + build(Type.EVENT, 1, RECORD))
    assert all("goes on" in one.notes[0] for one in first)
    assert not last.notes
    assert event.decoded


def test_control_payloads() -> None:
    lost = explain(Lost(1, 2, 3, 4, cause=200).frame())[0]
    assert lost.decoded == {"probe": 1, "first": 2, "last": 3, "count": 4, "cpu": 0xFFFF, "cause": 200}
    ack = explain(build(Type.ACK, 5, struct.pack(">III", 1400, 7, 9)))[0]
    assert ack.decoded == {"window": 1400, "ranges": [[7, 9]]}
    error = explain(build(Type.ERROR, 5, bytes.fromhex("a164636f646505")))[0]
    assert error.decoded == {"code": 5}
    assert any("BAD_VERSION" in row.value for row in error.rows)
    cases: list[tuple[int, bytes]] = [
        (Type.ACK, b"abc"),
        (Type.LOST, b"x"),
        (Type.BYE, b"\x80"),
        (Type.SCHEMA, b"\xa0"),
    ]
    for type, payload in cases:
        (one,) = explain(build(type, 1, payload))
        assert [problem.code for problem in one.problems] == [Code.BAD_PAYLOAD]


def test_data_holds_frames() -> None:
    inner = b"".join(SCHEMA.frames()) + build(Type.EVENT, 1, RECORD) + build(Type.KEEPALIVE, 0)
    for flags in (0, Flag.CHECKSUM):
        (one,) = explain(build(Type.DATA, 9, inner, flags))
        assert [item.type_name for item in one.inner] == ["SCHEMA", "EVENT", "KEEPALIVE"]
        assert one.inner[0].offset == 8
        assert not one.problems
    one, after = explain(build(Type.DATA, 9, inner + b"\x11\0") + build(Type.KEEPALIVE, 0))
    assert [problem.code for problem in one.problems] == [Code.TRUNCATED_HEADER]
    assert not one.inner[-1].whole
    assert after.type_name == "KEEPALIVE"


def test_data_in_data_ends() -> None:
    frame = build(Type.KEEPALIVE, 0)
    for _ in range(MAX_NESTING):
        frame = build(Type.DATA, 1, frame)
    assert not explain(frame)[0].problems
    assert [problem.code for problem in explain(build(Type.DATA, 1, frame))[0].problems] == [Code.BAD_PAYLOAD]


def test_reading_stops_after_a_bad_length() -> None:
    good = build(Type.EVENT, 1, b"a record")
    for bad, code in (
        ("1100000400000001", Code.LENGTH_BELOW_HEADER),
        ("11ffff0000000001", Code.TRUNCATED_PAYLOAD),
    ):
        first, second = explain(good + bytes.fromhex(bad) + good)
        assert not first.problems
        assert code in [problem.code for problem in second.problems]
        assert "reading stops here" in second.notes[0]
        assert "24 bytes left" in second.notes[0]


def test_lenient_reads_what_the_reference_reads() -> None:
    frame = build_lenient(15, 0xDEADBEEF, b"\0\xff\x80", 0xFF)
    (one,) = explain(frame, lenient=True)
    assert (one.payload, one.problems, one.type_name) == (b"\0\xff\x80", [], "RESERVED")
    assert [one.offset for one in explain(frame + b"after", lenient=True)] == [0]
    assert [one.offset for one in explain(frame + frame, lenient=True)] == [0, 11]
    (one,) = explain(build(Type.EVENT, 1, b"abc", Flag.CHECKSUM), lenient=True)
    assert len(one.payload) == 6  # checksum and padding are the reference's payload
    (one,) = explain(bytes.fromhex("2f8000"), lenient=True)
    assert [problem.code for problem in one.problems] == [Code.TRUNCATED_HEADER]


def test_show_is_safe_for_a_terminal() -> None:
    cases: list[tuple[Any, str]] = [
        ("a\x1b[31m\n\u202e", r"a\x1b[31m\n\u202e"),
        ("häß", "häß"),
        (CutStr("ab"), "ab…"),
        (CutBytes(b"\1"), "01…"),
        (["a\0", b"\xff", 5, True], r"[a\x00, ff, 5, True]"),
    ]
    for value, shown in cases:
        assert show(value) == shown


def test_control_maps_are_explained_key_by_key() -> None:
    hello = Hello(bytes(range(16)), 7, Role.SINK, about={"host": "a"}).frame(Flag.CHECKSUM)
    (one,) = explain(hello)
    assert covered(one) == set(range(len(hello)))
    rows = {row.name: row for row in one.rows}
    assert set(HELLO_KEYS) - {"cookie", "pad", "after"} <= set(rows)
    assert rows["role"].value == "sink"
    assert "names the session" in rows["token"].meaning
    (error,) = explain(error_frame(5, Code.BAD_VERSION, "no"))
    code = next(row for row in error.rows if row.name == "code")
    assert (code.value, code.meaning) == ("5 BAD_VERSION", "the version is not 1")
    (bye,) = explain(build(Type.BYE, 5, bytes.fromhex("bf6474797065036672656173 6f6e 64646f6e65ff")))
    assert covered(bye) == set(range(bye.end))
    assert [row.meaning for row in bye.rows if row.name == "type"][1:] == ["not known to this version"]


def test_fields_over_the_same_bytes_have_rows_as_far_as_the_record_is_long() -> None:
    """A schema may lay a thousand fields over eight bytes; each event of it is shown in some lines."""
    fields = tuple(Field(f"f{number}", "u64", 16, 8) for number in range(1000))
    schema = Schema(1, "kprobe:f", "kprobe", "f", fields, 24)
    event = build(Type.EVENT, 1, struct.pack("<QQ", 5, 7))
    explained = list(Explainer().explain(b"".join([*schema.frames(), event])))[-1]
    assert [row.name for row in explained.rows].count("f0") == 1
    assert len(explained.rows) < 30
    assert explained.notes == ["988 more fields over the same bytes"]
    assert explained.decoded is not None
    assert len(explained.decoded["fields"]) == 1000
