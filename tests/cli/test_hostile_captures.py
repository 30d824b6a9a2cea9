"""What a capture says never reaches a terminal as it is, and any name may have any type, through every verb.

`tests/fuzz` runs the same over thousands of captures made at random; here is what each rule means.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import captures
import fuzz_verbs
import pytest

from kwire.wire.fields import TYPES, Field
from kwire.wire.frame import Type, build
from kwire.wire.schema import Clock, Schema

CLOCK = Clock("monotonic", 0, 1_700_000_000_000_000_000)
ESCAPE = "\x1b]0;owned\x07\x1b[31m"

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a capture of one probe with these fields and one event, whose fixed part is these bytes."""

    def make(fields: tuple[Field, ...], record: bytes, name: str = "a.pcapng", text: str = "") -> str:
        size = 16 + len(record)
        schema = Schema(1, "tracepoint:a:b", "tracepoint", "a:b", fields, size, clock=CLOCK)
        event = build(Type.EVENT, 1, bytes(8) + record + bytes(-len(record) % 8))
        path = tmp_path / name
        path.write_bytes(captures.section([schema], [event], text=text))
        return str(path)

    return make


def test_a_name_with_another_type_is_a_field_like_any(write: Write) -> None:
    fields = (Field("comm", "u32", 16, 4), Field("pid", "u16", 20, 4, count=2), Field("cpu", "text", 24, 8))
    path = write(fields, bytes([1, 0, 0, 0, 2, 0, 3, 0]) + b"\x1b[2Jcpu!")
    status, out, _ = fuzz_verbs.run(("show", path))
    assert status == 0
    assert out.splitlines()[0].split() == ["TIME", "FIELDS"]
    assert out.splitlines()[-1].endswith(r" comm=1 pid=[2,3] cpu=\e[2Jcpu!")
    status, out, _ = fuzz_verbs.run(("show", path, "--json"))
    [line] = [json.loads(line) for line in out.splitlines()]
    assert (line["cpu"], line["pid"], line["comm"]) == (None, None, None)
    assert line["fields"] == {"comm": 1, "pid": [2, 3], "cpu": "\x1b[2Jcpu!"}
    status, out, _ = fuzz_verbs.run(("query", path, "--json", "select cpu, pid, comm from events"))
    assert (status, json.loads(out)) == (0, {"cpu": None, "pid": None, "comm": None})


def test_a_pid_that_is_a_text_drives_nothing(write: Write) -> None:
    path = write((Field("pid", "text", 16, 16),), ESCAPE.encode().ljust(16, b"\0"))
    status, out, _ = fuzz_verbs.run(("show", path))
    assert (status, out.splitlines()[-1].split()[-1]) == (0, r"pid=\e]0;owned\x07\e[31m")


@pytest.mark.parametrize("words", fuzz_verbs.VERBS, ids=" ".join)
def test_names_of_files_are_escaped(words: tuple[str, ...], write: Write) -> None:
    fields = (Field(ESCAPE, "u32", 16, 4, unit=ESCAPE, meaning=ESCAPE),)
    path = write(fields, bytes(8), f"in {ESCAPE}.pcapng".replace("/", ""), ESCAPE)
    fuzz_verbs.check_verb(words, Path(path))
    (Path(path).parent / "empty").mkdir()
    where = Path(path).parent / "empty" / f"{ESCAPE}nothing"
    where.write_bytes(b"no capture" + ESCAPE.encode() * 9)
    fuzz_verbs.check_verb(words, where)


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_under_the_names_that_mean_something(kind: str, tmp_path: Path) -> None:
    """Each in its narrowest and its widest element, alone and as an array; tests/fuzz has the rest."""
    verbs = [("show", "IN"), ("stats", "IN"), ("query", "IN", "select * from events")]
    sizes = TYPES[kind].sizes or captures.WIDTHS
    chosen = [
        one
        for one in captures.layouts()
        if one.type == kind and one.name in ("pid", "comm") and one.size // one.count in (sizes[0], sizes[-1])
    ]
    assert chosen
    where = tmp_path / "in"
    for number, layout in enumerate(chosen):
        where.write_bytes(captures.laid_out(layout, ("little", "big")[number % 2]))
        for words in verbs:
            fuzz_verbs.check_verb(words, where)
