"""Stacks in further files of a rotation, of a recorder and of one that goes on after another: each file tells
those that its own events and maps refer to."""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kwire.capture.reader import Capture
from kwire.capture.resumable import ResumableWriter
from kwire.capture.writer import Writer
from kwire.cli.main import main
from kwire.compile.layout import map_schema
from kwire.lang import types as t
from kwire.lang.checked import Map
from kwire.live.stacks import stack_schema
from kwire.wire.frame import Type, build
from kwire.wire.frames import Frames
from kwire.wire.schema import Clock, Field, Schema
from kwire.wire.stacks import Frame, Stack
from kwire.wire.tables import MapTable, Row, TableReader, cells, learn, stack_rows

STACKS = {
    number: Stack((Frame(number, f"f{number}", 1, "/bin/a"), Frame(7, "main"))) for number in range(1, 9)
}
CLOCK = Clock("monotonic", 5_000_000_000, 1_700_000_000_000_000_000)
ROTATE = 1 << 17


def schemas() -> list[Schema]:
    fields = (Field("n", "u64", 16, 8), Field("s", "stack", 24, 8))
    event = Schema(1, "tracepoint:a:b", "tracepoint", "a:b", fields, 32, sys.byteorder, clock=CLOCK)
    plain = Schema(2, "tracepoint:a:c", "tracepoint", "a:c", fields[:1], 24, sys.byteorder, clock=CLOCK)
    held = map_schema(Map("x", "hash", (t.Stack(),), t.U64, 1), "hash", id=3, prints="", machine="")
    return [
        event,
        plain,
        *(one._replace(clock=CLOCK, order=sys.byteorder) for one in (held, stack_schema(4))),
    ]


def event(n: int, stack: int = 0) -> bytes:
    time = CLOCK.monotonic + n
    return build(
        Type.EVENT, 1 if stack else 2, struct.pack("=QQ", time, n) + struct.pack("=Q", stack) * (stack > 0)
    )


def told(number: int, stacks: Sequence[int]) -> bytes:
    rows = tuple(stack_rows((one, STACKS[one]) for one in stacks))
    return b"".join(MapTable(number, CLOCK.monotonic, rows).frames(4))


def held(number: int, stack: int) -> bytes:
    table = MapTable(number, CLOCK.monotonic + number, (Row((stack,), 5),), "print")
    return b"".join(table.frames(3))


def stream() -> list[bytes]:
    """Stacks 1 to 7 are told before what refers to them, 8 never; from 3 on only one is referred to."""
    parts = [told(1, [1, 2]), event(1, 1), event(2, 2), told(2, [3, 4, 5, 6, 7]), held(1, 6)]
    parts += [event(n, 3 if n % 9 else 0) for n in range(3, 9000)]
    return [*parts, held(2, 7), event(9000, 8), event(9001, 1)]


def named(path: str) -> tuple[list[str], int]:
    """What the stacks of a file mean when they are met, read from it alone; and how many tables tell them."""
    found, tables, reader = [], 0, TableReader()
    with Capture(path) as capture:
        for frames in capture:
            assert capture.section is not None
            of = capture.section.schemas
            for index in range(len(frames)):
                frame = frames.frame(index)
                schema = of[frame.header.id]
                if frame.header.type == Type.TABLE:
                    table = reader.add(frame)
                    assert table is not None
                    learn(schema, table)
                    tables += schema.tells
                    numbers = [] if schema.tells else [cells(schema, row)[0] for row in table.rows]
                elif frame.header.type == Type.EVENT and len(schema.fields) == 2:
                    numbers = [struct.unpack_from("=Q", frame.payload, 16)[0]]
                else:
                    continue
                assert schema.stacks is not None
                found += [(list(schema.stacks.stack(one)) or [Frame(0)])[0].symbol for one in numbers]
    return found, tables


def check(files: Sequence[str], capsys: pytest.CaptureFixture[str], tables_each: set[int]) -> None:
    assert len(files) > 2
    every = [named(path) for path in files]
    names = [one for found, _ in every for one in found]
    assert names == ["f1", "f2", "f6", *["f3"] * (8997 - 999), "f7", "", "f1"]
    assert {tables for _, tables in every[1:-1]} == tables_each  # each once, though thousands refer to it
    assert main(["verify", *files]) == 0
    assert capsys.readouterr().out.count(": complete: ") == len(files)


def test_each_file_of_a_rotation_tells_the_stacks_it_refers_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = Frames.walk(b"".join(stream()))
    with Writer(f"{tmp_path}/a.pcapng", schemas(), rotate_bytes=ROTATE) as writer:
        writer.write(frames)
        writer.close({1: 9001 - 999, 2: 999, 3: 2, 4: 2})
    check(writer.files, capsys, {1})


def test_one_that_goes_on_after_another_tells_them_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = f"{tmp_path}/a.pcapng"
    parts = stream()

    def put(writer: ResumableWriter, some: list[bytes]) -> None:
        for part in some:
            frames = Frames.walk(part)
            if frames.header(0).type == Type.TABLE:
                writer.keep(part)
            else:
                writer.write(frames)

    def stranger(frame: Any) -> None:
        raise AssertionError(frame)

    first = ResumableWriter(path, stranger, rotate_bytes=ROTATE)
    for schema in schemas():
        first.describe(schema)
    put(first, parts[:5000])
    first.settle()
    id, state = first.id, first.state()
    first.promise()
    first.leave()
    writer = ResumableWriter(path, stranger, schemas=schemas(), resume=(id, state), rotate_bytes=ROTATE)
    told_again = told(3, [7, 1])  # whose tables lie in files before the one that it goes on with
    put(writer, [*parts[5000:6000], told_again, *parts[6000:]])
    writer.close({1: 9001 - 999, 2: 999, 3: 2, 4: 3})
    check(writer.files, capsys, {1, 2})  # one has the table of `told_again`


def test_an_export_counts_rows_of_maps_apart_from_events(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("numpy")
    whole, out = f"{tmp_path}/whole.pcapng", f"{tmp_path}/whole.ndjson"
    with Writer(whole, schemas()) as writer:
        writer.write(Frames.walk(b"".join(stream())))
        writer.close()
    assert main(["export", whole, "-o", out]) == 0
    lines = Path(out).read_text().splitlines()
    events = sum('"probe":"map:' not in line for line in lines)
    told = f"{events:,} events and {len(lines) - events} rows of maps written to {out}\n"
    assert capsys.readouterr().err == told


def test_pieces_tell_the_stacks_of_their_events(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Cut by probe, time and condition, split, and merged again."""
    pytest.importorskip("numpy")
    whole, cut = f"{tmp_path}/whole.pcapng", f"{tmp_path}/cut.pcapng"
    with Writer(whole, schemas()) as writer:
        writer.write(Frames.walk(b"".join(stream())))
        writer.close()
    for choice, expected in (
        (["--probe", "*a:b"], ["f1", "f2", *["f3"] * 7998, "", "f1"]),
        (["--probe", "map:*"], ["f6", "f7"]),
        (["--where", "n > 8001 and n < 8004"], ["f3", "f3"]),
        (["--from", "+8us", "--to", "+8005ns"], ["f3"] * 5),
    ):
        assert main(["cut", whole, *choice, "-w", cut]) == 0
        told = capsys.readouterr().err
        assert ("note: the tables of x are left out" in told) == (
            expected[0] not in ("f6",) and "--from" not in choice
        )
        assert sorted(named(cut)[0]) == sorted(expected)
        assert named(cut)[1] <= 2
        assert main(["verify", cut]) == 0
    for by, pieces in (("events=3000", 4), ("probe", 3), ("time=2us", 5)):
        folder = tmp_path / by.partition("=")[0]
        assert main(["split", whole, "--by", by, "-w", str(folder)]) == 0
        files = sorted(map(str, folder.iterdir()))
        assert len(files) == pieces
        names = [one for file in files for one in named(file)[0]]
        assert sorted(names) == sorted(["f1", "f2", "f6", *["f3"] * 7998, "f7", "", "f1"])
        merged = f"{tmp_path}/merged {by}.pcapng"
        assert main(["merge", *files, "-w", merged]) == 0
        assert sorted(named(merged)[0]) == sorted(names)
        assert main(["verify", merged]) == 0
        capsys.readouterr()


def test_a_table_of_many_frames_is_in_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a rotation and of a split: a reader puts it together within a file. What is torn is told."""
    rows = tuple(Row((number,), 5) for number in range(1, 9_000))
    parts = MapTable(1, CLOCK.monotonic + 50, rows, "end").frames(3)
    stream = [event(n) for n in range(40)] + parts + [event(n) for n in range(60, 100)]
    assert len(parts) > 2
    with Writer(f"{tmp_path}/a.pcapng", schemas(), rotate_bytes=ROTATE) as writer:
        for part in stream:
            writer.write(Frames.walk(part))
            writer.flush()
        writer.close()
    assert len(writer.files) > 1
    whole = f"{tmp_path}/whole.pcapng"
    with Writer(whole, schemas()) as writer_:
        writer_.write(Frames.walk(b"".join(stream)))
        writer_.close()
    assert main(["split", whole, "--by", "events=42", "-w", f"{tmp_path}/pieces"]) == 0
    pieces = sorted(map(str, (tmp_path / "pieces").iterdir()))
    for files in (writer.files, pieces):
        readers = []
        for file in files:
            readers.append(TableReader())
            with Capture(file) as capture:
                for frames in capture:
                    for index in range(len(frames)):
                        if frames.header(index).type == Type.TABLE:
                            readers[-1].add(frames.frame(index))
            readers[-1].finish()
        assert not [reader.torn for reader in readers if reader.torn]
    torn = f"{tmp_path}/torn.pcapng"
    with Writer(torn, schemas()) as writer_:
        writer_.write(Frames.walk(b"".join(parts[1:])))
        writer_.close()
    capsys.readouterr()
    assert main(["show", torn]) == 0
    assert f"{len(parts) - 1} frames of tables that are not whole" in capsys.readouterr().err
