"""TABLE: what maps hold, in frames and back; frames that are missing, cut or hostile; rows as records."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwire.wire import cbor
from kwire.wire.fields import Field
from kwire.wire.frame import FrameError, Type, build, inspect
from kwire.wire.frames import Frames
from kwire.wire.payload import said
from kwire.wire.schema import MAP_VALUES, MapShape, Schema, SchemaReader
from kwire.wire.tables import (
    LIMIT,
    MapTable,
    Row,
    TableReader,
    cells,
    problem,
    read_table_part,
    records,
    time_of,
)

S64 = st.integers(-(1 << 63), (1 << 63) - 1)
CELLS = {"s64": S64, "u64": st.integers(0, (1 << 64) - 1), "str": st.text(max_size=20), "bool": st.booleans()}
BUCKETS = st.lists(st.tuples(st.none() | S64, st.none() | S64, st.integers(0, 1 << 40)), max_size=5)
VALUES = {
    "count": st.integers(0, (1 << 64) - 1),
    "min": st.none() | S64,
    "stats": st.tuples(st.integers(0, 1 << 40), S64),
    "hist": BUCKETS.map(tuple),
}


def schema_of(kind: str, keys: tuple[str, ...], value: str = "s64", order: str = "little") -> Schema:
    """The schema of a map's rows."""
    sizes = {"str": 4, "bool": 1, "u32": 4}
    types = [*keys, *[value] * len(MAP_VALUES[kind]), "u32"]
    names = [*(f"key{number}" for number in range(len(keys))), *MAP_VALUES[kind], "table"]
    fields, at = [], 16
    for name, type in zip(names, types, strict=True):
        fields.append(Field(name, type, at, sizes.get(type, 8), limit=100 if type == "str" else 0))
        at += fields[-1].size
    return Schema(7, "map:@x", "map", "@x", tuple(fields), at, order, map=MapShape(kind, len(keys)))


@st.composite
def tables(draw: st.DrawFn) -> tuple[Schema, MapTable]:
    kind = draw(st.sampled_from(list(VALUES)))
    keys = tuple(draw(st.lists(st.sampled_from(list(CELLS)), max_size=3)))
    rows = st.builds(Row, st.tuples(*(CELLS[one] for one in keys)), VALUES[kind])
    made = MapTable(
        draw(st.integers(1, 1 << 20)),
        draw(st.integers(0, (1 << 64) - 1)),
        tuple(draw(st.lists(rows, max_size=6))),
        draw(st.sampled_from(["", "print", "end", "later"])),
        draw(st.integers(0, 9)),
        draw(S64),
        draw(st.integers(0, 9)),
        draw(st.dictionaries(st.integers(0, (1 << 64) - 1), st.text(max_size=9), max_size=3)),
    )
    return schema_of(kind, keys, "u64" if kind == "count" else "s64"), made


@given(tables(), st.sampled_from([LIMIT, 256]))
def test_what_a_map_held_comes_back(made: tuple[Schema, MapTable], limit: int) -> None:
    schema, held = made
    reader = TableReader()
    found: list[MapTable] = []
    frames = held.frames(schema.id, limit)
    for frame in Frames.walk(b"".join(frames)):
        assert found == []
        assert time_of(frame) == held.time
        assert said(frame, SchemaReader()) == read_table_part(frame)
        found += [one for one in [reader.add(frame)] if one is not None]
    assert found == [held]
    assert not problem(schema, held.rows)
    assert reader.torn == 0


@given(tables(), st.data())
def test_a_table_of_which_a_frame_is_missing_is_never_given(
    made: tuple[Schema, MapTable], data: st.DataObject
) -> None:
    schema, held = made
    frames = held.frames(schema.id, 256)
    gone = data.draw(st.integers(0, len(frames) - 1))
    again = held._replace(number=held.number + 1).frames(schema.id)
    reader = TableReader()
    left = [*frames[:gone], *frames[gone + 1 :], *again]
    found = [one for frame in Frames.walk(b"".join(left)) if (one := reader.add(frame)) is not None]
    assert [one.number for one in found] == [held.number + 1]
    assert reader.torn == len(frames) - 1


def test_a_large_map_is_in_many_frames_of_bounded_size() -> None:
    rows = tuple(Row((f"a key with a name {number}", number), number) for number in range(5000))
    frames = MapTable(1, 5, rows, "end").frames(3)
    assert len(frames) > 5
    assert max(map(len, frames)) <= LIMIT
    reader = TableReader()
    found = [one for frame in Frames.walk(b"".join(frames)) if (one := reader.add(frame)) is not None]
    assert found == [MapTable(1, 5, rows, "end")]
    for frame in frames[:-1]:
        reader.add(inspect(frame)[0])  # type: ignore[arg-type]  # it is whole
    reader.finish()
    assert reader.torn == len(frames) - 1


def test_bytes_cut_at_each_place_are_refused_in_words() -> None:
    rows = (Row(("k", 1), ((None, 0, 2), (0, 1, 3))), Row(("", -5), ()))
    (whole,) = MapTable(2, 77, rows, "print", 3, -2, 1, {4096: "f"}).frames(9)
    payload = whole[8:]
    for size in range(len(payload)):
        cut, problems = inspect(build(Type.TABLE, 9, payload[:size]))
        assert cut is not None
        assert not problems
        with pytest.raises(FrameError) as caught:
            TableReader().add(cut)
        assert caught.value.problem.code.name == "BAD_PAYLOAD"
        assert time_of(cut) == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"table": 0}, "table: 0, not 1 to"),
        ({"part": -1}, "part: -1"),
        ({"time": "now"}, "time: text"),
        ({"rows": [[[1.5], 1]]}, "rows[0]: a list as a key"),
        ({"rows": [[[1], [1, 2.5]]]}, "rows[0]: a list as a value"),
        ({"rows": [[[1], {}]]}, "rows[0]: a map as a value"),
        ({"rows": [7]}, "rows[0]: an integer"),
        ({"rows": [[[None], 1]]}, "rows[0]: a list as a key"),
        ({"symbols": {1: 2}}, "symbols.1: an integer"),
        ({"more": 1}, "more: an integer"),
    ],
)
def test_hostile_keys_are_named(change: dict[str, object], said: str) -> None:
    value = {"table": 1, "part": 0, "time": 5, "rows": [[["a"], 1]], **change}
    frame, _ = inspect(build(Type.TABLE, 4, cbor.dumps(value)))
    assert frame is not None
    with pytest.raises(FrameError, match=r".*") as caught:
        read_table_part(frame)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "row", "said"),
    [
        ("count", Row((), 1), "a key of 0 parts, not 1"),
        ("count", Row((5,), 1), "key0 is an integer"),
        ("count", Row(("a",), (1, 2)), "a value of kind count is a list, not as it should be"),
        ("hist", Row(("a",), 1), "a value of kind hist is an integer, not as it should be"),
        ("hist", Row(("a",), (1, 2)), "a value of kind hist is a list, not as it should be"),
        ("avg", Row(("a",), ((1, 2, 3),)), "a value of kind avg is a list, not as it should be"),
        ("avg", Row(("a",), ()), "a value of kind avg is a list, not as it should be"),
    ],
)
def test_rows_that_do_not_fit_their_map_are_named(kind: str, row: Row, said: str) -> None:
    assert problem(schema_of(kind, ("str",)), [row]) == said
    assert problem(schema_of("count", ("str",))._replace(map=None), []) == "it is of no map"


def test_what_has_no_end_is_not_kept_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kwire.wire.tables.MOST", 100)
    reader = TableReader()
    parts = ({"table": 1, "part": part, "time": 5, "more": True} for part in range(9))
    frames = Frames.walk(b"".join(build(Type.TABLE, 4, cbor.dumps(part)) for part in parts))
    with pytest.raises(FrameError, match="and no end"):
        list(map(reader.add, frames))
    assert reader.torn


@pytest.mark.parametrize("order", ["little", "big"])
def test_rows_as_records(order: str) -> None:
    schema = schema_of("hist", ("str", "bool"), order=order)
    rows = (Row(("wörd", True), ((None, 0, 2), (1, 2, 0), (1 << 63, 1 << 64, 5))), Row(("b", False), ()))
    frames = records(schema, MapTable(3, 1234, rows))
    decode = schema.decoder()
    least, most = -(1 << 63), (1 << 63) - 1
    assert [decode(frames.frame_bytes(at)) for at in range(len(frames))] == [
        ("wörd", True, least, 0, 2, 3),
        ("wörd", True, 1, 2, 0, 3),
        ("wörd", True, most, most, 5, 3),
    ]
    assert {schema.timestamp(frames.frame_bytes(at)) for at in range(len(frames))} == {1234}
    schema = schema_of("avg", ("s64",), order=order)
    frames = records(schema, MapTable(1, 9, (Row((-3,), (2, -7)), Row((4,), (0, 0)))))
    decode = schema.decoder()
    assert [decode(frames.frame_bytes(at)) for at in range(2)] == [(-3, 2, -7, -3, 1), (4, 0, 0, 0, 1)]
    schema = schema_of("min", (), order=order)
    frames = records(schema, MapTable(1, 9, (Row((), None),)))
    assert schema.decoder()(frames.frame_bytes(0)) == (0, 1)


def test_a_schema_says_what_a_map_keeps() -> None:
    schema = schema_of("lhist", ("u64",))._replace(map=MapShape("lhist", 1, (0, 10, -1)))
    reader = SchemaReader()
    assert [reader.add(frame) for frame in Frames.walk(b"".join(schema.frames()))] == [schema]
    assert MapShape("new", 0).problem(()) == "kind 'new' is none that is known"
    assert "not those of its kind" in schema._replace(map=MapShape("lhist", 0)).problem()
    odd = schema_of("count", ("u64",))
    fields = (odd.fields[0]._replace(type="bytes", size=4), *odd.fields[1:])
    assert odd._replace(fields=fields).problem() == "map: a field is bytes or text"
    fields = (odd.fields[0], odd.fields[1]._replace(type="str", size=4, limit=9), odd.fields[2])
    assert odd._replace(fields=fields).problem() == "map: what a map of kind count keeps are numbers"
    items = (("a", ()), ("b", (("", ()), ("", ()))))
    assert odd._replace(map=MapShape("count", 1, (), items)).problem()
    values = [odd.fields[1]._replace(name=f"value{number}") for number in (1, 2, 3)]
    kept = odd._replace(fields=(odd.fields[0], *values, odd.fields[2]), map=MapShape("hash", 1, (), items))
    reader = SchemaReader()
    assert [reader.add(frame) for frame in Frames.walk(b"".join(kept.frames()))] == [kept]
    assert not problem(kept, [Row((1,), (2, (3, 4)))])
    assert problem(kept, [Row((1,), (2, 3))])
    assert problem(kept, [Row((1,), (2, (3, "x")))])
    assert cells(kept, Row((1,), (2, (3, 4)))) == (1, 2, 3, 4)
    decode = kept.decoder()
    frames = records(kept, MapTable(5, 9, (Row((1,), (2, (3, 4))),)))
    assert decode(frames.frame_bytes(0))[:2] == (1, 4)  # they lie on each other here
