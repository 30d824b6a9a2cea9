"""Captures that are read once: the answer is the same as from two readings, whatever comes late in them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from kwire.analyze import export, perfetto, replays, source
from kwire.analyze.database import Database
from kwire.analyze.order import Run
from kwire.analyze.scan import Scan
from kwire.analyze.source import Source
from kwire.packets import spill

FIELDS = (("pid", "u32", 1, ""), ("comm", "str", 1, ""))
QUERIES = (
    "SELECT count(*), sum(pid), min(comm) FROM events",
    "SELECT probe, host, pid FROM events ORDER BY time_ns",
    "SELECT pid FROM events LIMIT 2",
    "SELECT count(*) FROM events a JOIN events b USING (pid)",
    "SELECT 1; SELECT max(pid) FROM opened",
    "SELECT events FROM probes",
    "SELECT max(pid) FROM closed",
    "SELECT nothing FROM events",
    "SELECT CAST(comm AS INTEGER) FROM events",
    "SELEC",
)
#: What comes late → the schemas of the second section: probe, host.
LATE = {
    "nothing": [],
    "a section": [("kprobe:opened", "box")],
    "another host": [("kprobe:opened", "crate")],
    "another probe": [("kprobe:opened", "box"), ("kprobe:closed", "box")],
}


@pytest.fixture(params=LATE)
def late(request: pytest.FixtureRequest, tmp_path: Path, kit: Any) -> str:
    """A capture of two sections, the second as the name says."""
    parts = b""
    for place, probes in enumerate(([("kprobe:opened", "box")], LATE[request.param])):
        schemas = [kit.schema(at + 1, probe, FIELDS, host=host) for at, (probe, host) in enumerate(probes)]
        items = [
            kit.event(schema, kit.monotonic + (place * 100 + at) * 1000, (at, f"task{at % 3}".encode()))
            for schema in schemas
            for at in range(10)
        ]
        if schemas:
            parts += Path(kit.write(tmp_path / f"{place}.pcapng", schemas, items)).read_bytes()
    path = tmp_path / "late.pcapng"
    path.write_bytes(parts)
    return str(path)


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One for each time that a file is opened."""
    plainly = Source._opened
    made: list[str] = []

    def opened(self: Source) -> Any:
        made.append(self.name)
        return plainly(self)

    monkeypatch.setattr(Source, "_opened", opened)
    return made


def test_queries(
    late: str, kwire: Any, readings: list[str], monkeypatch: pytest.MonkeyPatch, request: Any
) -> None:
    """An aggregate, rows, a part of the rows, several scans, tables of counts, and errors."""
    expected = [kwire("query", late, sql) for sql in QUERIES]
    monkeypatch.setattr(source, "HELD", 0)
    for sql, known in zip(QUERIES, expected, strict=True):
        readings.clear()
        assert kwire("query", late, sql) == known, sql
        if sql in QUERIES[:3]:
            several = "another probe" in request.node.callspec.id
            assert len(readings) == (3 if several else 1), sql


SEVERAL = (
    "SELECT count(*), sum(a.pid) FROM events a JOIN events b USING (pid)",
    "SELECT a.pid, b.comm FROM opened a JOIN events b USING (time_ns) ORDER BY ALL",
    "SELECT pid, comm FROM opened UNION ALL SELECT pid, probe FROM events ORDER BY ALL",
    "SELECT (SELECT max(comm) FROM opened), count(*) FROM opened",
    "SELECT count(*) FROM events a, events b, opened",
    "SELECT comm FROM events UNION ALL SELECT comm FROM opened LIMIT 2",
    "WITH RECURSIVE r(n) AS (SELECT 0 UNION SELECT n + 1 FROM r JOIN events ON pid = n) SELECT max(n) FROM r",
)


@pytest.mark.parametrize("room", [replays.ROOM, 0])
def test_several_scans_are_one_reading(
    late: str, kwire: Any, room: int, readings: list[str], monkeypatch: pytest.MonkeyPatch, request: Any
) -> None:
    """What each scan is given is what a reading of its own gives, also where it lay in a file."""
    with monkeypatch.context() as apart:
        apart.setattr(Database, "_share", lambda *_: None)
        expected = [kwire("query", late, sql) for sql in SEVERAL]
    monkeypatch.setattr(source, "HELD", 0)
    monkeypatch.setattr(replays, "ROOM", room)
    for sql, known in zip(SEVERAL, expected, strict=True):
        readings.clear()
        assert kwire("query", late, sql) == known, sql
        several = "another probe" in request.node.callspec.id
        assert len(readings) == (3 if several else 1), sql


def test_every_type_is_read_again_as_it_was(
    kit: Any, kwire: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The least and the greatest number of each width, texts of any bytes, arrays: from memory and a file."""
    kinds = [f"{sign}{bits}" for sign in "us" for bits in (8, 16, 32, 64)]
    fields = [*((kind, kind, 1, "") for kind in kinds), ("text", "str", 1, ""), ("raw", "bytes", 1, "")]
    fields += [("many", "u16", 3, ""), ("yes", "bool", 1, "")]
    schema = kit.schema(1, "kprobe:wide", fields)
    ends = [(0, (1 << int(kind[1:])) - 1) for kind in kinds if kind[0] == "u"]
    ends += [(-1 << (int(kind[1:]) - 1), (1 << (int(kind[1:]) - 1)) - 1) for kind in kinds if kind[0] == "s"]
    texts = [b"", b'a"b,c\nd', b"\xff\xfe\\x41", "häß\0x".encode(), b"x" * 200]
    items = [
        kit.event(
            schema,
            kit.monotonic + at,
            (*(pair[at % 2] for pair in ends), texts[at % 5], texts[-at % 5], (at, 0, 65535), at % 3 == 0),
        )
        for at in range(40)
    ]
    path = kit.write(tmp_path / "all.pcapng", [schema], items)
    sql = "SELECT DISTINCT a.* FROM wide a JOIN wide b USING (time_ns) ORDER BY time_ns"
    with monkeypatch.context() as apart:
        apart.setattr(Database, "_share", lambda *_: None)
        known = kwire("query", path, "--json", sql)
    assert known[1].count("\n") == len(items), known[2]
    for room in (replays.ROOM, 0, 3000):
        monkeypatch.setattr(replays, "ROOM", room)
        assert kwire("query", path, "--json", sql) == known


def test_texts_of_a_query_are_no_tables(
    late: str, kwire: Any, readings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text that is the name of a table adds no reading, and no table to what is kept."""
    kept: list[set[str]] = []
    share = Database._share

    def keep(self: Database, names: set[str]) -> None:
        kept.append(names)
        share(self, names)

    monkeypatch.setattr(Database, "_share", keep)
    where = "WHERE a.comm <> 'lost' AND b.comm <> 'it''s events'"
    kwire("query", late, f"SELECT count(*) FROM opened a JOIN opened b USING (time_ns) {where}")
    assert {"opened"} in kept
    assert {name for names in kept for name in names} == {"opened"}


@pytest.mark.native
def test_what_is_kept_leaves_room_on_the_disk(
    late: str, kwire: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a disk on which less than a gigabyte would be free nothing is taken, and that is said."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(replays, "ROOM", 0)
    monkeypatch.setattr(spill, "FREE", 1 << 62)
    status, _, errors = kwire("query", late, SEVERAL[0])
    assert status == 1
    assert errors.endswith("No space left on device; set TMPDIR to a folder with more room\n")


FULL = """
import resource
from kwire.analyze import replays
replays.ROOM = 0
resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))  # what tempfile tries out has room
from kwire.cli.main import main
raise SystemExit(main())
"""


@pytest.mark.native
def test_where_what_is_kept_finds_no_room_that_is_told(kit: Any, tmp_path: Path) -> None:
    """A disk that is full: one line, with what to do."""
    schema = kit.schema(1, "kprobe:opened", FIELDS)
    items = [kit.event(schema, kit.monotonic + at, (at, b"task")) for at in range(10)]
    path = kit.write(tmp_path / "a.pcapng", [schema], items)
    words = [sys.executable, "-c", FULL, "query", path, SEVERAL[0]]
    run = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"TMPDIR": str(tmp_path)})
    assert run.returncode == 1
    assert run.stderr.startswith(f"kwire: keep what was read {tmp_path}/kwire-query-"), run.stderr
    assert run.stderr.endswith(": File too large; set TMPDIR to a folder with more room\n")
    assert run.stderr.count("\n") == 1


def test_a_long_answer_is_not_held(late: str, kwire: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for the end of the reading is bounded."""
    from kwire.cli import query

    known = kwire("query", late, QUERIES[1])
    monkeypatch.setattr(source, "HELD", 0)
    monkeypatch.setattr(query, "HELD", 10)
    assert kwire("query", late, QUERIES[1]) == known


@pytest.mark.parametrize("slack", [export.SLACK, 0])
def test_exports(
    late: str,
    slack: int,
    kwire: Any,
    tmp_path: Path,
    readings: list[str],
    monkeypatch: pytest.MonkeyPatch,
    request: Any,
) -> None:
    """CSV, traces, Arrow, Parquet: rows, columns, and what is told of the capture wherever the file does."""
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    def made(name: str) -> tuple[Any, ...]:
        out = tmp_path / name
        status, _, error = kwire("export", late, "-o", str(out))
        assert status == 0, error
        if out.suffix in (".csv", ".json"):
            return (out.read_bytes(),)
        if out.suffix == ".parquet":
            table, told = parquet.read_table(out), parquet.read_metadata(out).metadata[b"kwire"]
            assert table.schema.metadata[b"kwire"] == told
            return json.loads(told), table
        with out.open("rb") as file:
            file.seek(8)
            early = pa.ipc.read_schema(file).metadata[b"kwire"]
        with pa.ipc.open_file(out) as reader:
            return json.loads(early), json.loads(reader.schema.metadata[b"kwire"]), reader.read_all()

    expected = made("known.csv"), made("known.arrow"), made("known.parquet"), made("known.json")
    assert expected[1][0] == expected[1][1]
    monkeypatch.setattr(source, "HELD", 0)
    monkeypatch.setattr(export, "SLACK", slack)
    monkeypatch.setattr(export, "COUNT", 20 if slack else 0)
    names = "new.csv", "new.arrow", "new.parquet", "new.json"
    for name, known in zip(names, expected, strict=True):
        readings.clear()
        assert made(name) == known
        case = request.node.callspec.id
        several = "another probe" in case or (name in ("new.arrow", "new.parquet") and "another host" in case)
        if (slack or name != "new.arrow") and not several:
            assert len(readings) == 1
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith(".")} == set()


def as_they_come(blocks: Any) -> Any:
    """Runs of a block each."""
    return (Run([(block, slice(0, len(block.times)))], block.times, None) for block in blocks)


def test_a_trace_begins_at_its_oldest_event(
    kit: Any, kwire: Any, tmp_path: Path, readings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where that comes after others, further away than events are put in order."""
    schema = kit.schema(1, "kprobe:opened", FIELDS)
    path, out = tmp_path / "old.pcapng", tmp_path / "out.json"
    parts = b""
    for at in (7, 3):
        items = [kit.event(schema, kit.monotonic + at * 1000, (at, b"task"))]
        parts += Path(kit.write(tmp_path / "part", [schema], items)).read_bytes()
    path.write_bytes(parts)

    monkeypatch.setattr(perfetto, "runs", as_they_come)
    monkeypatch.setitem(Scan.__init__.__kwdefaults__, "events_held", 1)  # type: ignore[arg-type]
    assert kwire("export", str(path), "-o", str(out))[0] == 0
    known = out.read_bytes()
    monkeypatch.setattr(source, "HELD", 0)
    readings.clear()
    assert kwire("export", str(path), "-o", str(out))[0] == 0
    assert out.read_bytes() == known
    assert len(readings) > 1
    times = [event["ts"] for event in json.loads(known)["traceEvents"] if "ts" in event]
    assert sorted(times) == [0, 4]


def test_a_trace_of_chosen_probes_begins_with_the_capture(
    kit: Any, kwire: Any, tmp_path: Path, readings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another probe's event came first: that is known when the first one is written, by one reading."""
    schemas = [kit.schema(1, "kprobe:opened", FIELDS), kit.schema(2, "kprobe:closed", FIELDS)]
    path, out, parts = tmp_path / "two.pcapng", tmp_path / "out.json", b""
    for plan in ((3, 1), (7, 0)), ((9, 0), (11, 1)):
        items = [kit.event(schemas[at], kit.monotonic + time * 1000, (time, b"task")) for time, at in plan]
        parts += Path(kit.write(tmp_path / "part", schemas, items)).read_bytes()
    path.write_bytes(parts)
    monkeypatch.setattr(perfetto, "runs", as_they_come)
    monkeypatch.setitem(Scan.__init__.__kwdefaults__, "events_held", 1)  # type: ignore[arg-type]
    monkeypatch.setattr(source, "HELD", 0)
    assert kwire("export", str(path), "-o", str(out), "--probe", "*opened")[0] == 0
    assert len(readings) == 1
    times = [event["ts"] for event in json.loads(out.read_text())["traceEvents"] if "ts" in event]
    assert times == [4, 6]


def test_what_is_no_file_is_known_first(late: str, kwire: Any, readings: list[str]) -> None:
    """Nothing that was written to a pipe or a device can be taken back."""
    assert kwire("export", late, "-o", "/dev/null", "--format", "csv")[0] == 0
    assert len(readings) == 2
