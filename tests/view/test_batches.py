"""Many events printed at once are the lines that are printed one by one, in the same order."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Iterator
from itertools import accumulate

import pytest

from kwire import native
from kwire.view import batches
from kwire.view.batches import Batches, LineRun, together
from kwire.view.printed import Printed
from kwire.view.render import Renderer, Row, Screen
from kwire.wire.fields import TYPES, Field
from kwire.wire.frames import Frames
from kwire.wire.schema import Clock, Schema

pytestmark = pytest.mark.skipif(native.print_lines is None, reason="the C walkers were not built")

LETTERS = {1: "B", 2: "H", 4: "I", 8: "Q"}
INTEGERS = ("u8", "u16", "u32", "u64", "s8", "s16", "s32", "s64", "ptr")
CLOCK = Clock("monotonic", 1000, 1_700_000_000_000_000_000)


def conversion(source: random.Random, type: str) -> str:
    width = source.choice(["", "3", "12"])
    precision = source.choice(["", "", ".0", ".2", ".9"])
    if TYPES[type].kind != "int":
        return f"%{source.choice(['', '-'])}{width}{precision}s"
    letter = source.choice(["d", "i", "u", "x", "X", "o", "s", "c"])
    if letter in "sc":
        return f"%{source.choice(['', '-'])}{width}{letter}"
    flags = "".join(flag for flag in "-+ #0" if source.random() < 0.25)
    return f"%{flags}{width}{precision}{source.choice(['', 'h', 'hh', 'l', 'll'])}{letter}"


def a_schema(source: random.Random, id: int) -> Schema:
    fields, at, format = [], 16, source.choice(["", "at 100%%: "])
    for number in range(source.randrange(5)):
        type = source.choice([*INTEGERS, "str", "text"])
        size = 8 if type == "text" else max(TYPES[type].sizes)
        fields.append(Field(f"f{number}", type, at, size, limit=40 if type == "str" else 0))
        at += size
        format += conversion(source, type) + source.choice([" ", ", ", ""])
    schema = Schema(
        id, "kprobe:f", "kprobe", "f", tuple(fields), at, prints="printf", format=format + "\n",
        order=native.ORDER, clock=CLOCK,
    )  # fmt: skip
    assert schema.problem() == ""
    return schema


WORDS = [b"", b"init", b"a long name", b"tab\tnul\0", b"x" * 40]
STRANGE = [b"\xff\xfe", "grün".encode(), b"a\\x80b"]


def an_event(source: random.Random, schema: Schema, time: int, *, strange: bool) -> bytes:
    tail = b""
    fixed = b""
    words = WORDS + STRANGE * strange
    for field in schema.fields:
        if field.type == "str":
            text = source.choice(words)
            cut = 0x8000 if strange and source.random() < 0.1 else 0
            fixed += struct.pack("=HH", schema.size + len(tail), len(text) | cut)
            tail += text
        elif field.type == "text":
            fixed += source.choice(words)[: field.size].ljust(field.size, b"\0")
        else:
            value = source.choice([0, 1, 7, 65, 200, 1 << 63, 1 << 31, (1 << 64) - 1, source.getrandbits(64)])
            fixed += struct.pack(f"={LETTERS[field.size]}", value & (1 << 8 * field.size) - 1)
    body = struct.pack("=Q", time) + fixed + tail
    return struct.pack(">BBHI", 0x11, 0, 8 + len(body), schema.id) + body


def shapes(source: random.Random) -> dict[int, Schema]:
    return {id: a_schema(source, id) for id in (1, 2, 3)}


def one_by_one(frames: Frames, schemas: dict[int, Schema]) -> list[Row]:
    return Renderer(Printed(terminal=False)).rows(frames, schemas)


@pytest.mark.parametrize("strange", [False, True])
def test_lines_are_those_of_one_by_one(strange: bool) -> None:
    source = random.Random(3)
    for _ in range(60):
        schemas = shapes(source)
        kinds = [*schemas.values()]
        events = (an_event(source, source.choice(kinds), at, strange=strange) for at in range(90))
        frames = Frames.walk(b"".join(events))
        renderer = Renderer(Printed(terminal=False))
        made = list(renderer.runs(frames, schemas))
        rows = [row for one in made for row in (one.rows() if isinstance(one, LineRun) else one)]
        assert rows == one_by_one(frames, schemas)
        assert renderer.events == 90
        if not strange and all(len(one.fields) for one in schemas.values()):
            characters = any("%c" in one.format or "c" in one.format for one in schemas.values())
            assert characters or [one.__class__ for one in made] == [LineRun], "all of them at once"


def test_what_is_not_plain_is_left_to_the_format() -> None:
    for type, format, event in [
        ("str", "%s\n", STRANGE[0]),
        ("str", "%s\n", STRANGE[2]),
        ("text", "%s\n", STRANGE[1]),
    ]:
        size = 4 if type == "str" else 8
        fields = (Field("f", type, 16, size, limit=40 if type == "str" else 0),)
        schema = Schema(1, "kprobe:f", "kprobe", "f", fields, 16 + size, prints="printf", format=format)
        body = struct.pack("=HH", 20, len(event)) + event if type == "str" else event.ljust(8, b"\0")
        frame = struct.pack(">BBHI", 0x11, 0, 16 + len(body), 1) + bytes(8) + body
        many = Batches([(schema, Printed(terminal=False).parts(schema))])
        assert many.lines(Frames.walk(frame), 0) is None
    assert Printed(terminal=True).parts(schema) is None, "a terminal is guarded"


def test_where_many_are_not_plain_they_are_not_tried_each(monkeypatch: pytest.MonkeyPatch) -> None:
    field = Field("f", "str", 16, 4, limit=40)
    schema = Schema(1, "kprobe:f", "kprobe", "f", (field,), 20, prints="printf", format="%s\n")
    text = "grün".encode()
    frame = struct.pack(">BBHI", 0x11, 0, 20 + len(text), 1) + struct.pack("=QHH", 0, 20, len(text)) + text
    tried: list[int] = []
    lines = Batches.lines

    def counted(self: Batches, frames: Frames, start: int) -> LineRun | None:
        tried.append(start)
        return lines(self, frames, start)

    monkeypatch.setattr(Batches, "lines", counted)
    rows = [*Renderer(Printed(terminal=False)).runs(Frames.walk(3000 * frame), {1: schema})]
    made = [row[1] for some in rows if isinstance(some, list) for row in some]
    assert made == ["grün\n"] * 3000
    assert len(tried) <= 3000 // batches.MORE + 1


def runs_of(source: random.Random, count: int) -> Iterator[LineRun]:
    for number in range(count):
        times = sorted(source.choices(range(30), k=source.randrange(1, 12)))
        lines = [f"{number}.{at} {time}\n".encode() for at, time in enumerate(times)]
        numbers = (list(accumulate(map(len, lines))), times)
        ends, clock = (memoryview(struct.pack(f"{len(times)}Q", *one)).cast("Q") for one in numbers)
        yield LineRun(b"".join(lines), ends, clock, 7, True)


def test_runs_are_merged_as_sorting_does() -> None:
    source = random.Random(11)
    for count in [1, 2, 2, 3, 5, 9] * 20:
        runs = list(runs_of(source, count))
        rows = sorted((row for run in runs for row in run.rows()), key=lambda row: row[0])
        assert together(runs) == "".join(text for _, text, _ in rows)
    assert together([run._replace(ordered=False) for run in runs]) is None


@pytest.mark.parametrize("merged", [True, False])
def test_a_screen_writes_the_same_without_the_library(monkeypatch: pytest.MonkeyPatch, merged: bool) -> None:
    source = random.Random(17)
    schemas = shapes(source)
    rings = []
    for first in (0, 5, 2000 * (not merged)):
        times = [*range(first, first + 600, 3)]
        if first == 5:
            times.sort(key=lambda time: time ^ 4)  # one event in the middle of another
        kinds = [*schemas.values()]
        rings.append(b"".join(an_event(source, source.choice(kinds), at, strange=False) for at in times))

    def written() -> str:
        out = io.StringIO()
        screen = Screen(Renderer(Printed(terminal=False)), schemas, out)
        for ring in rings:
            screen.write(Frames.walk(ring))
        screen.flush()
        return out.getvalue()

    at_once = written()
    monkeypatch.setattr(native, "print_lines", None)
    assert at_once == written() != ""
