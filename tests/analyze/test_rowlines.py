"""CSV, NDJSON and traces made in C are those that are made event by event, to the byte."""

from __future__ import annotations

import io
import json
import random
import struct
from typing import Any

import numpy as np
import pytest

from kwire import native
from kwire.analyze import csvtext, jsontext, perfetto, rowlines
from kwire.analyze.gathering import index_of
from kwire.analyze.order import runs
from kwire.analyze.scan import Block
from kwire.analyze.tables import Tables
from kwire.wire.fields import TAIL_CUT, TYPES
from kwire.wire.frame import Flag, checksum
from kwire.wire.heads import heads_of

pytestmark = pytest.mark.skipif(native.rows_lines is None, reason="the C walkers were not built")

TEXTS = [
    b"",
    b"sh",
    b"a,b",
    b'say "hi"',
    b"two\nlines",
    b"\r",
    b"tab\t",
    b"\x7f",
    b"\\x41",
    b"\\n",
    b"\xff",
    "é".encode(),
]
TEXTS += [b"x" * 60, b"nul\0nul"]
ALSO = (
    ("wide", "s64", 1, ""),
    ("flag", "bool", 1, ""),
    ("lump", "raw", 3, ""),
    ("pid", "s32", 1, ""),
    ("t", "str", 1, ""),
)


def changed(kit: Any, schema: Any, values: tuple[Any, ...], source: random.Random) -> bytes:
    """An event, some of whose tail values are cut, or could not be read; now and then with a checksum."""
    frame = bytearray(kit.event(schema, 0, values))
    sign = "<" if schema.order == "little" else ">"
    for field in schema.fields:
        if TYPES[field.type].tail and source.random() < 0.1:
            place, size = struct.unpack_from(sign + "HH", frame, field.offset)
            said = source.choice([(place, size | TAIL_CUT), (0, TAIL_CUT), (0, 0)])
            struct.pack_into(sign + "HH", frame, field.offset, *said)
    if source.random() < 0.2:
        frame[1] |= Flag.CHECKSUM
        frame[2:4] = (len(frame) + 2).to_bytes(2, "big")
        frame += checksum(bytes(frame)).to_bytes(2, "big")
    return bytes(frame)


def blocks_of(kit: Any, source: random.Random) -> tuple[list[Block], Tables]:
    schemas = [kit.schema(1, 'kprobe:a(", %s %d")'), kit.schema(2, "kprobe:b", order="big", host="h,ö")]
    schemas += [kit.schema(3, "kprobe:c", ALSO), kit.schema(4, "kretprobe:c", ALSO, order="big", host="")]
    schemas.append(kit.schema(5, "kprobe:e", (("comm", "u8", 2, ""), ("cpu", "u16", 1, ""))))
    made, start = [], source.choice([0, -3, 1_700_000_000, 9_223_372_030, -9_223_372_030]) * 10**9
    for _ in range(source.randrange(1, 7)):
        schema, events = source.choice(schemas), []
        for _ in range(source.randrange(1, 12)):
            texts = {name: source.choice(TEXTS) for name in ("comm", "path", "data")}
            values = kit.rich(source.randrange(1000), fixed=source.choice(TEXTS)[:8], **texts)
            if schema.id > 2:
                wide = source.choice([0, -1, 10**18, -(1 << 63), 99, 100])
                pid, text = source.choice([-5, 7, -(1 << 31)]), source.choice(TEXTS)
                values = (wide, source.random() < 0.5, b"\0\xffa", pid, text)
            if schema.id == 5:
                values = ((1, source.randrange(3)), source.randrange(3))
            events.append(changed(kit, schema, values, source))
        frames = kit.frames(*events)
        times = np.sort(np.array([start + source.randrange(3 * 10**9) for _ in events], np.int64))
        made.append(Block(schema, frames, times, object(), source.choice([None, heads_of(frames).ends])))
    return made, Tables(schemas)


def written(blocks: list[Block], tables: Tables) -> tuple[bytes, bytes, bytes]:
    rows, objects, trace = io.BytesIO(), io.BytesIO(), io.BytesIO()
    csvtext.write(blocks, tables, rows)
    jsontext.write(blocks, objects)
    perfetto.write(blocks, [], lambda: int(blocks[0].times[0]), trace)
    return rows.getvalue(), objects.getvalue(), trace.getvalue()


@pytest.mark.parametrize("room", [64, 3000, 1 << 20])
def test_lines_are_those_of_each_event(kit: Any, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever finds room together: `room` bytes, and seven lines."""
    for seed in range(room, room + 12):
        blocks, tables = blocks_of(kit, random.Random(seed))
        with monkeypatch.context() as patch:
            patch.setattr(rowlines, "ROOM", room)
            patch.setattr(rowlines, "ROWS", 7)
            mine = written(blocks, tables)
            patch.setattr(native, "rows_lines", None)
            theirs = written(blocks, tables)
        assert mine == theirs, seed
        assert mine[1].count(b"\n") == sum(len(block.times) for block in blocks)


def test_numbers_of_every_length(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Around each power of ten, where digits are made in eights and the first of them are left out."""
    wide = [sign * (10**power + more) for power in range(19) for more in (-1, 0, 1) for sign in (1, -1)]
    wide += [-(1 << 63), (1 << 63) - 1, 70_000_000, 10_203_040, 1_000_000_010_000_000_000]
    schema = kit.schema(3, "kprobe:c", ALSO)
    events = [kit.event(schema, 0, (one, True, b"abc", one % 1000 - 500, b"")) for one in wide]
    block = Block(schema, kit.frames(*events), np.sort(np.array(wide, np.int64)), object())
    mine = written([block], Tables([schema]))
    monkeypatch.setattr(native, "rows_lines", None)
    assert mine == written([block], Tables([schema]))


def test_what_is_plain_is_made_in_c(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, addresses, arrays, hostile names of fields and hosts: none of them makes a row odd."""
    schema = kit.schema(1, 'kprobe:a(", %s %d")', host="h,ö", order="big")
    events = [kit.event(schema, 0, kit.rich(2 * number, path=b'a "b", c')) for number in range(9)]
    block = Block(schema, kit.frames(*events), np.arange(9), object())
    wanted = written([block], Tables([schema]))
    odd = []
    walk = native.rows_lines
    assert walk is not None

    def watched(rows: Any, given: Any, first: int, out: Any, ends: Any, marks: Any) -> int:
        done = walk(rows, given, first, out, ends, marks)
        odd.extend(marks[:done].tolist())
        return done

    monkeypatch.setattr(native, "rows_lines", watched)
    rows = io.BytesIO()
    csvtext.write([block], Tables([schema]), rows)
    assert rows.getvalue() == wanted[0]
    assert odd == [0] * 9


def test_there_must_be_room_for_ends(kit: Any) -> None:
    schema = kit.schema()
    block = Block(schema, kit.frames(kit.event(schema, 0, kit.rich())), np.array([1]), object())
    assert native.rows_lines is not None
    none = np.empty(0, np.uint64)
    _, rows = index_of([(block, slice(0, 1))], None)
    given = native.Written(none, none, none, none, none, none, b"", [])
    with pytest.raises(IndexError):
        native.rows_lines(rows, given, 0, bytearray(8), none, none)


def test_lines_are_given_as_they_are_made(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a run are not kept together, however long they are."""
    monkeypatch.setattr(rowlines, "ROOM", 3000)
    blocks, _ = blocks_of(kit, random.Random(2))
    for run in runs(blocks * 9):
        made = list(rowlines.Lines(perfetto._line).of(run))
        assert sum(map(len, made)) == len(run.times)
        assert max(sum(len(one) for one in some) for some in made) <= 3000


def test_only_short_contexts_of_threads_are_remembered(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`comm` may be any text of the event: thousands of long ones would be kept for nothing."""
    made: list[Any] = []
    probe = perfetto._Probe

    def noted(*what: Any) -> Any:
        made.append(probe(*what))
        return made[-1]

    monkeypatch.setattr(perfetto, "_Probe", noted)
    names = [b"a", b"b" * 300, b"c" * 200, b"d" * 150, b"a"]
    schema = kit.schema(1, "kprobe:a", (("pid", "s32", 1, ""), ("comm", "str", 1, "")))
    frames = kit.frames(*[kit.event(schema, 0, (7, name)) for name in names])
    block, trace = Block(schema, frames, np.arange(len(names)), object()), io.BytesIO()
    perfetto.write([block], [], lambda: 0, trace)
    (one,) = made
    assert sorted(context.comm[0] for context in one.contexts.values()) == ["a", "d"]
    entries = [entry for entry in json.loads(trace.getvalue())["traceEvents"] if "cat" in entry]
    told = [entry["args"]["now"] for entry in entries if entry["cat"] == "name"]
    assert told == [name.decode() for name in names[1:]]
