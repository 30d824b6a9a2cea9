"""Schemas: through frames and back, decoding as written apart from the decoder, hostile ones refused."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwire.wire import cbor
from kwire.wire.fields import (
    TYPES,
    CutBytes,
    CutStr,
    Field,
    UnreadBytes,
    UnreadStr,
    payload_end,
    text,
    text_bytes,
)
from kwire.wire.frame import MAX_EVENT, Code, Flag, Frame, FrameError, Problem, Type, build, read_strict
from kwire.wire.messages import Cause
from kwire.wire.schema import (
    MAX_FIELDS,
    MAX_PENDING,
    Clock,
    Labels,
    Schema,
    SchemaReader,
    decode,
    event_spec,
    split_spec,
)

PLAIN: dict[str, Any] = {
    "probe": "kprobe:f",
    "kind": "kprobe",
    "target": "f",
    "size": 24,
    "order": "little",
    "word": 8,
    "fields": [{"name": "a", "type": "u32", "offset": 16, "size": 4}],
}
EMPTY = Schema(1, "kprobe:f", "kprobe", "f", (), 16)


def read(schema: Schema) -> Schema | None:
    reader = SchemaReader()
    *parts, last = schema.frames()
    for part in parts:
        assert reader.add(read_strict(part)) is None
        assert reader.pending == [schema.id]
    result = reader.add(read_strict(last))
    assert reader.pending == []
    return result


def frame(value: dict[Any, Any], id: int = 1) -> Frame:
    return read_strict(build(Type.SCHEMA, id, cbor.dumps(value)))


def attempt(function: Callable[[Any], Any], argument: object) -> tuple[Any, Problem | None]:
    """What the function gives, or the problem it names; any other exception is a defect."""
    try:
        return function(argument), None
    except FrameError as error:
        return None, error.problem


@given(st.data())
def test_schemas_come_back(made_schemas: st.SearchStrategy[Schema], data: st.DataObject) -> None:
    schema = data.draw(made_schemas)
    assert read(schema) == schema


@given(st.data())
def test_events_decode(made_samples: st.SearchStrategy[Any], data: st.DataObject) -> None:
    schema, frames, times, values = data.draw(made_samples)
    decoder = schema.decoder()
    for event, time, row in zip(frames, times, values, strict=True):
        for kind in (bytes, bytearray, memoryview):
            assert list(decoder(kind(event))) == row
        assert decode(schema, event) == dict(zip([field.name for field in schema.fields], row, strict=True))
        assert schema.timestamp(event) == time


@given(st.data())
def test_a_record_cut_anywhere_is_refused_or_whole(
    made_samples: st.SearchStrategy[Any], data: st.DataObject
) -> None:
    schema, frames, _, values = data.draw(made_samples)
    decoder = schema.decoder()
    for event, row in zip(frames, values, strict=True):
        for cut in range(len(event)):
            result, problem = attempt(decoder, event[:cut])
            if problem is None:
                assert cut >= schema.size
                assert list(result) == row
            else:
                assert problem.code == Code.BAD_PAYLOAD
                assert 0 <= problem.offset <= cut


def event(*tail: int, flags: int = 0, after: bytes = b"load\0\0") -> bytes:
    record = struct.pack("<QIIIHHH", 123, 7, 8, 110, *tail, 3)
    return build(Type.EVENT, 1, record + after, flags)


GETPPID = EMPTY._replace(
    fields=(
        Field("cpu", "u16", 32, 2),
        Field("pid", "u32", 16, 4),
        Field("tid", "u32", 20, 4),
        Field("comm", "str", 28, 4, limit=16),
        Field("__syscall_nr", "s32", 24, 4),
    ),
    size=34,
)


def test_an_event_of_forty_bytes() -> None:
    data = event(34, 4)
    assert len(data) == 40
    values = {"cpu": 3, "pid": 7, "tid": 8, "comm": "load", "__syscall_nr": 110}
    assert decode(GETPPID, data) == values
    assert list(decode(GETPPID, data)) == list(values)  # the declared order


def test_what_was_cut_is_marked() -> None:
    value = decode(GETPPID, event(34, 4 | 0x8000))["comm"]
    assert (value, type(value)) == ("load", CutStr)
    value = decode(GETPPID, event(34, 0x8000))["comm"]
    assert (value, type(value)) == ("", UnreadStr)
    fields = (Field("x", "bytes", 28, 4),)
    value = decode(GETPPID._replace(fields=fields), event(34, 4 | 0x8000))["x"]
    assert (value, type(value)) == (b"load", CutBytes)
    value = decode(GETPPID._replace(fields=fields), event(34, 0x8000))["x"]
    assert (value, type(value)) == (b"", UnreadBytes)


@pytest.mark.parametrize(
    ("offset", "length"), [(33, 1), (0, 1), (34, 7), (40, 1), (39, 2), (65535, 1), (34, 0x7FFF), (16, 4)]
)
def test_a_reference_out_of_the_tail(offset: int, length: int) -> None:
    with pytest.raises(FrameError) as caught:
        decode(GETPPID, event(offset, length))
    assert caught.value.problem.code == Code.BAD_PAYLOAD
    assert caught.value.problem.offset == 28
    assert f"{offset} to {offset + length}" in str(caught.value.problem.found)


def test_nothing_may_be_referred_to_from_anywhere() -> None:
    for offset in (0, 34, 40, 65535):
        assert decode(GETPPID, event(offset, 0))["comm"] == ""


@pytest.mark.parametrize("after", [b"load", b"load\0", b""])
def test_the_checksum_is_no_part_of_the_record(after: bytes) -> None:
    data = event(34, len(after), flags=Flag.CHECKSUM, after=after)
    assert decode(GETPPID, data)["comm"] == after.rstrip(b"\0").decode() + "\0" * after.count(b"\0")
    assert payload_end(data) == 34 + len(after)
    with pytest.raises(FrameError):
        decode(GETPPID, event(34, len(after) + 1, flags=Flag.CHECKSUM, after=after))
    with pytest.raises(FrameError):  # the checksum must not stand in for the last two bytes of the record
        decode(GETPPID, build(Type.EVENT, 1, bytes(24), Flag.CHECKSUM))


def test_a_short_record_says_where_it_ends() -> None:
    for size in range(34):
        with pytest.raises(FrameError) as caught:
            GETPPID.decoder()(event(34, 0)[:size])
        assert caught.value.problem.offset == size
    with pytest.raises(FrameError):
        EMPTY.timestamp(event(34, 0)[:15])


def test_fields_may_overlap() -> None:
    fields = (
        Field("ip", "ipv4", 16, 4),
        Field("pid", "u32", 16, 4),
        Field("low", "u16", 16, 2),
        Field("tid", "u32", 20, 4),
    )
    assert decode(GETPPID._replace(fields=fields), event(34, 0)) == {
        "ip": "7.0.0.0",
        "pid": 7,
        "low": 7,
        "tid": 8,
    }


def test_wall_clock_and_labels() -> None:
    assert EMPTY.wall(5) == 5
    schema = EMPTY._replace(
        clock=Clock("monotonic", 1000, 5_000_000),
        symbols={0x1000: "start", 0x2000: "f", 2**64 - 4096: "top"},
        enums={"state": {1: "OPEN", -1: "BAD"}},
    )
    assert schema.wall(1500) == 5_000_500
    labels = Labels(schema)
    names = {
        0xFFF: "",
        0x1000: "start",
        0x1FFF: "start+0xfff",
        0x2010: "f+0x10",
        0x2000 + (1 << 20): "",
        2**64 - 1: "top+0xfff",
    }
    assert {address: labels.symbol(address) for address in names} == names
    state, ksym = Field("s", "senum", 16, 4, enum="state"), Field("k", "ksym", 16, 8)
    assert [labels.name(state, value) for value in (1, -1, 7)] == ["OPEN", "BAD", ""]
    assert labels.name(ksym, 0x2000) == "f"
    assert labels.name(Field("n", "u32", 16, 4), 1) == ""
    assert labels.name(Field("n", "enum", 16, 4, enum="gone"), 1) == ""


def test_a_schema_larger_than_a_frame() -> None:
    schema = GETPPID._replace(
        program="int x; ü" * 20000,
        enums={f"e{n}": {k: f"NAME_{k}" for k in range(-50, 2000)} for n in range(4)},
        symbols={0xFFFFFFFF81000000 + 16 * n: f"symbol_{n}" for n in range(9000)},
        clock=Clock("monotonic", 1, 2),
    )
    frames = schema.frames()
    assert len(frames) > 4
    assert all(len(part) <= 65535 for part in frames)
    assert read(schema) == schema
    # Frames of other probes may stand between.
    reader = SchemaReader()
    other = schema._replace(id=2)
    done = [
        reader.add(read_strict(part)) for pair in zip(frames, other.frames(), strict=True) for part in pair
    ]
    assert done[:-2] == [None] * (len(done) - 2)
    assert done[-2:] == [schema, other]


def test_what_cannot_be_split() -> None:
    with pytest.raises(FrameError) as caught:
        EMPTY._replace(host="x" * 70000).frames()
    assert caught.value.problem.code == Code.PAYLOAD_TOO_LONG


def test_keys_not_known_are_ignored() -> None:
    schema = SchemaReader().add(
        frame(PLAIN | {"new": [1, {"x": None}], "fields": [PLAIN["fields"][0] | {"y": 1.5}]})
    )
    assert schema is not None
    assert schema.fields == (Field("a", "u32", 16, 4),)
    assert (schema.enums, schema.symbols, schema.clock, schema.program) == ({}, {}, None, "")


def test_probe_0_is_no_probe() -> None:
    """In EVENT and LOST it stands for one that nobody knows."""
    reader = SchemaReader()
    with pytest.raises(FrameError) as caught:
        reader.add(read_strict(build(Type.SCHEMA, 0, cbor.dumps(PLAIN))))
    assert (caught.value.problem.code, caught.value.problem.offset) == (Code.BAD_ID, 4)
    assert reader.pending == []


WRONG: list[tuple[str, Any, str]] = [  # key, value, a part of the complaint
    ("probe", None, "probe: nothing"),
    ("probe", 5, "probe: an integer"),
    ("size", "x", "size: text"),
    ("size", -1, "size: -1"),
    ("size", True, "size: true or false"),
    ("size", 15, "size 15"),
    ("size", MAX_EVENT + 1, "size 65481"),
    ("order", "middle", "middle"),
    ("word", 16, "word 16"),
    ("fields", {}, "fields: a map"),
    ("fields", [5], "fields[0]: an integer"),
    ("fields", [{"name": "a"}], "fields[0].type: nothing"),
    ("enums", [1], "enums: a list"),
    ("enums", {"e": {"x": "y"}}, "enums.e.x: text"),
    ("enums", {1: {}}, "enums.1: an integer"),
    ("symbols", {1: 2}, "symbols.1: an integer"),
    ("program", ["a", 1], "program[1]: an integer"),
    ("program", "text", "program: text"),
    ("clock", {"name": "x"}, "clock.monotonic: nothing"),
    ("clock", 7, "clock: an integer"),
    ("more", 1, "more: an integer"),
    ("host", None, "host: null"),
    ("shares", "x", "shares: text"),
    ("shares", ["x", 1], "shares[1]: an integer"),
]
WRONG_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"type": "u33"}, "u33"),
    ({"name": ""}, "no name"),
    ({"offset": 15}, "15 to 19"),
    ({"offset": 21}, "21 to 25"),
    ({"offset": 65479, "size": 4}, "65479"),
    ({"offset": -1}, "offset: -1"),
    ({"offset": 1 << 63}, "offset"),
    ({"size": 0}, "0 bytes"),
    ({"size": 3}, "3 bytes"),
    ({"count": 0}, "0 equal"),
    ({"count": 3}, "3 equal"),
    ({"type": "str", "count": 2, "size": 8}, "array"),
    ({"type": "str", "size": 8}, "8 bytes"),
    ({"type": "mac"}, "4 bytes"),
    ({"limit": 0x8000}, "limit"),
    ({"size": "4"}, "size: text"),
    ({"display": 1}, "display: an integer"),
    ({"table": []}, "table: a list"),
    ({"mask": -1}, "mask: -1"),
]


def changed(key: str, value: Any) -> dict[str, Any]:
    """The plain schema with one key changed, or taken out."""
    return {k: v for k, v in (PLAIN | {key: value}).items() if v is not None or k == "host"}


CASES = [
    *((changed(key, value), part) for key, value, part in WRONG),
    *((PLAIN | {"fields": [PLAIN["fields"][0] | change]}, part) for change, part in WRONG_FIELDS),
    (PLAIN | {"fields": PLAIN["fields"] * 2}, "twice"),
]


@pytest.mark.parametrize(("value", "part"), CASES)
def test_a_wrong_schema(value: dict[str, Any], part: str) -> None:
    reader = SchemaReader()
    with pytest.raises(FrameError) as caught:
        reader.add(frame(value))
    assert caught.value.problem.code == Code.BAD_PAYLOAD
    assert caught.value.problem.offset == 8
    assert part in str(caught.value.problem)
    assert reader.pending == []


def add_all(reader: SchemaReader, parts: Iterable[Frame]) -> None:
    for part in parts:
        reader.add(part)


def test_too_many_fields_are_refused() -> None:
    many = [{"name": f"f{n}", "type": "u8", "offset": 16, "size": 1} for n in range(MAX_FIELDS + 1)]
    big = [{"name": f"f{n}", "type": "raw", "offset": 16, "size": 65000} for n in range(5)]
    for fields, size in ((many, 24), (big, MAX_EVENT)):
        parts = [frame(PLAIN | {"size": size, "fields": [], "more": True})]
        parts += [frame({"fields": fields[n : n + 500], "more": True}) for n in range(0, len(fields), 500)]
        with pytest.raises(FrameError, match="more than"):
            add_all(SchemaReader(), [*parts, frame({})])


def test_a_schema_without_end_is_refused() -> None:
    reader = SchemaReader()
    part = frame({"program": ["x" * 60000], "more": True})
    number = MAX_PENDING // 60000 + 1
    with pytest.raises(FrameError, match="no end"):
        add_all(reader, [part] * number)
    assert reader.pending == []
    many = [part._replace(header=part.header._replace(id=id)) for id in range(1, number + 1)]
    with pytest.raises(FrameError, match="no end"):  # nor may many together
        add_all(reader, many)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"enums": {"e": {}}}, {"enums": {"e": []}}),
        ({"fields": []}, {"fields": {}}),
        ({"program": []}, {"program": 1}),
    ],
)
def test_parts_that_do_not_fit_together(first: dict[str, Any], second: dict[str, Any]) -> None:
    reader = SchemaReader()
    reader.add(frame(first | {"more": True}))
    with pytest.raises(FrameError):
        reader.add(frame(second))
    assert reader.pending == []


@given(st.data())
def test_no_map_breaks_the_reader(data: st.DataObject) -> None:
    values = st.recursive(
        st.integers(-5, 2**64 - 1) | st.text(max_size=3) | st.none() | st.booleans() | st.binary(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text(max_size=3) | st.integers(0, 9), inner, max_size=3)
        ),
    )
    field = st.fixed_dictionaries({}, optional=dict.fromkeys(Field._fields, values)).map(
        lambda change: PLAIN["fields"][0] | change
    )
    keys: dict[str, st.SearchStrategy[Any]] = dict.fromkeys((*Schema._fields, "more"), values)
    change = data.draw(st.fixed_dictionaries({}, optional=keys | {"fields": st.lists(field, max_size=3)}))
    schema, problem = attempt(SchemaReader().add, frame(PLAIN | change))
    if problem is not None:
        assert problem.code == Code.BAD_PAYLOAD
    elif schema is not None:
        assert schema.problem() == ""
        schema.decoder()


def test_events_of_one_probe_are_told_apart_by_their_names() -> None:
    spec = "kprobe:tcp_connect"
    for event, name in (("", spec), ("opened", f"{spec}#opened"), ("2", f"{spec}#2")):
        assert event_spec(spec, event) == name
        assert split_spec(name) == (spec, event)
    assert split_spec("uprobe:/tmp/a#b:main") == ("uprobe:/tmp/a#b:main", "")
    schema = EMPTY._replace(probe=f"{spec}#opened", target="tcp_connect")
    assert schema.spec == spec
    for glob in (spec, f"{spec}#opened", "tcp_connect", "tcp_connect#o*", "kprobe:*", "*#opened"):
        assert schema.matches(glob)
    assert not schema.matches("*#2")
    assert not schema.matches("opened")
    shared = schema._replace(shares=(f"{spec}#2",))
    _, second = shared.others(Cause.MISSED_SHARED)
    assert (second.probe, second.target) == (f"{spec}#2", "tcp_connect")


@pytest.mark.parametrize(
    "change",
    [
        {"order": "x"},
        {"word": 2},
        {"size": 8},
        {"fields": (Field("a", "u32", 16, 8),)},
        {"fields": (Field("a", "u32", 12, 4),)},
    ],
)
def test_an_unsound_schema_is_not_sent(change: dict[str, Any]) -> None:
    with pytest.raises(FrameError):
        EMPTY._replace(**change).frames()


def test_the_type_table_is_sound() -> None:
    for name, rule in TYPES.items():
        assert rule.kind in ("int", "bool", "text", "raw", "ipv4", "ipv6", "mac", "str", "bytes")
        assert rule.tail == (name in ("str", "bytes"))
        if name[0] in "us" and name[1:].isdigit():
            assert rule.sizes == (int(name[1:]) // 8,)
            assert rule.signed == (name[0] == "s")
    with pytest.raises(KeyError):
        EMPTY.field("gone")


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"plain", "plain"),
        (b"\xff", r"\xff"),
        (rb"\xff", r"\\xff"),
        (b"\\\xff", r"\\\xff"),
        (rb"C:\dir", r"C:\dir"),
        (rb"systemd\x2dudev", r"systemd\x2dudev"),
        ("é".encode(), "é"),
        (b"\xe2\x82", r"\xe2\x82"),
    ],
)
def test_bytes_as_text(data: bytes, shown: str) -> None:
    assert text(data) == shown


@given(
    st.lists(st.sampled_from([b"\\", b"x", b"f", b"8", b"\xff", b"\x80", b"a", "é".encode()]), max_size=12)
)
def test_different_bytes_are_different_texts(parts: list[bytes]) -> None:
    assert text_bytes(text(b"".join(parts))) == b"".join(parts)


@given(st.binary(max_size=20))
def test_any_bytes_come_back_from_their_text(data: bytes) -> None:
    assert text_bytes(text(data)) == data


@given(st.text(max_size=20))
def test_any_text_has_bytes(value: str) -> None:
    assert isinstance(text_bytes(value), bytes)
