"""Several captures at once, and the same capture twice: read in order, each event once, or told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kwire.capture import identity
from kwire.capture.identity import Identity
from kwire.capture.writer import Writer
from kwire.packets.several import in_order

COUNT = 400


@pytest.fixture
def rotation(tmp_path: Path, kit: Any) -> list[str]:
    """The files of a rotation, with a loss in the first."""
    schema = kit.schema(1, "kprobe:f", (("pid", "u32", 1, ""), ("number", "u64", 1, "")))
    with Writer(str(tmp_path / "r.pcapng"), [schema], rotate_bytes=1, host="box") as out:
        for number in range(COUNT):
            out.write(kit.frames(kit.event(schema, kit.monotonic + number, (number % 3, number))))
            out.flush()
            if number == 5:
                from kwire.wire.messages import Cause, Lost

                out.lost([Lost(1, kit.monotonic + 5, kit.monotonic + 5, 3, 0, Cause.RING_FULL)])
        files = list(out.files)
    assert len(files) > 4
    return files


def numbers(out: str) -> list[int]:
    return [json.loads(line)["fields"]["number"] for line in out.splitlines()]


def test_the_files_of_a_rotation_are_one_capture(rotation: list[str], kwire: Any, tmp_path: Path) -> None:
    mixed = [rotation[2], *reversed(rotation[3:]), rotation[0], rotation[1]]
    status, out, err = kwire("show", "--json", *mixed)
    assert (status, numbers(out)) == (0, list(range(COUNT)))
    assert "3 events are lost in 1 hole" in err
    assert numbers(kwire("show", "--json", "--tail", "2", *mixed)[1]) == [COUNT - 2, COUNT - 1]
    assert numbers(kwire("show", "--json", "--head", "2", *mixed)[1]) == [0, 1]
    assert kwire("verify", *mixed)[0] == 3
    told = json.loads(kwire("stats", "--json", *mixed)[1])
    assert (told["events"], told["lost"], [probe["events"] for probe in told["probes"]]) == (
        COUNT,
        3,
        [COUNT],
    )
    assert told["problem"] is None


def test_questions_and_exports_of_several(rotation: list[str], kwire: Any, tmp_path: Path) -> None:
    pytest.importorskip("duckdb")
    pq = pytest.importorskip("pyarrow.parquet")
    rows = kwire("query", *rotation, "--json", "SELECT count(*) AS n, sum(number) AS s FROM f")[1]
    assert json.loads(rows) == {"n": COUNT, "s": sum(range(COUNT))}
    assert kwire("query", *rotation[:2])[1].startswith("every probe's table")
    out = tmp_path / "out.parquet"
    assert kwire("export", *reversed(rotation), "-o", str(out))[0] == 0
    assert pq.read_table(out)["number"].to_pylist() == list(range(COUNT))
    status, _, err = kwire("export", *rotation, "--format", "csv", "-o", rotation[1])
    assert status == 1
    assert "one of the captures that are read" in err


def test_captures_of_two_machines_are_read_by_time(tmp_path: Path, kit: Any, kwire: Any) -> None:
    paths = []
    for host, shift in (("b", 50), ("a", 0)):
        schema = kit.schema(1, "kprobe:f", (("number", "u64", 1, ""),), host=host)
        events = [kit.event(schema, kit.monotonic + 100 * n + shift, (100 * n + shift,)) for n in range(100)]
        paths.append(kit.write(tmp_path / f"{host}.pcapng", [schema], events))
    out = kwire("show", "--json", *paths)[1]
    assert numbers(out) == list(range(0, 10_000, 50))


def test_the_same_capture_twice_is_told(rotation: list[str], kwire: Any, tmp_path: Path) -> None:
    one, two = rotation[:2]
    merged, again = str(tmp_path / "m.pcapng"), str(tmp_path / "again.pcapng")
    status, _, err = kwire("merge", one, one, "-w", merged)
    assert status == 1
    assert "hold the same events" in err
    assert not Path(merged).exists()
    assert kwire("merge", one, two, "-w", merged)[0] == 0
    status, _, err = kwire("merge", merged, two, "-w", again)
    assert status == 1
    assert f"{merged} and {two} hold the same events" in err
    for verb in ("show", "stats"):
        status, _, err = kwire(verb, one, one)
        assert status == 1
        assert "it is the same capture" in err
    assert kwire("verify", merged, merged)[1].count("complete: ") == 2, "each file is judged by itself"


def test_a_file_that_holds_a_capture_twice_is_told(rotation: list[str], kwire: Any, tmp_path: Path) -> None:
    twice = tmp_path / "twice.pcapng"
    twice.write_bytes(Path(rotation[1]).read_bytes() * 2)
    status, out, _ = kwire("verify", str(twice))
    assert (status, "more than once" in out) == (3, True)
    for verb in ("show", "stats"):
        assert "more than once" in kwire(verb, str(twice))[2]
    assert kwire("merge", str(twice), "-w", str(tmp_path / "x"))[0] == 1


def test_pieces_of_one_capture_are_not_the_same(rotation: list[str], kwire: Any, tmp_path: Path) -> None:
    pieces, whole = tmp_path / "pieces", str(tmp_path / "whole.pcapng")
    assert kwire("split", rotation[1], "--by", "events=5", "-w", str(pieces))[0] == 0
    parts = sorted(map(str, pieces.iterdir()))
    assert kwire("merge", *parts, "-w", whole)[0] == 0
    assert kwire("verify", whole)[0] == 0
    status, _, err = kwire("merge", whole, rotation[1], "-w", str(tmp_path / "x"))
    assert (status, "hold the same events" in err) == (1, True)


def test_what_cannot_be_read_is_named(rotation: list[str], kwire: Any, tmp_path: Path) -> None:
    assert "No such file" in kwire("show", rotation[0], str(tmp_path / "none"))[2]
    assert "standard input cannot be one of several" in kwire("show", rotation[0], "-")[2]
    cut = tmp_path / "cut.pcapng"
    cut.write_bytes(Path(rotation[1]).read_bytes()[:-30])
    status, _, err = kwire("show", rotation[0], str(cut), rotation[2])
    assert (status, f"{cut}: cut at byte" in err) == (0, True)
    for options in (["--follow"], ["-V"], ["--sessions"]):
        assert kwire("show", *rotation, *options)[0] == 1


def test_identities(rotation: list[str], tmp_path: Path) -> None:
    first = identity.of_file(rotation[0])
    assert first is not None
    assert identity.of_file(rotation[1]) == first._replace(number=2)
    assert in_order([rotation[1], rotation[0]]) == [rotation[:2]]
    (tmp_path / "text").write_bytes(b"no capture")
    assert identity.of_file(str(tmp_path / "text")) is None
    whole, part = Identity("a" * 32, 3), Identity("a" * 32, 3, False)
    assert identity.held([whole.comment(), "something", part.comment()]) == [whole, part]
    assert identity.own([whole.comment()]) is None
    assert identity.repeated([[part], [part]]) == []
    assert identity.repeated([[part], [whole]]) == [whole]
    assert identity.repeated([[whole], [part]]) == [part]
    assert identity.repeated([[whole], [whole], [whole]]) == [whole]
    assert identity.repeated([[whole, part]]) == []
