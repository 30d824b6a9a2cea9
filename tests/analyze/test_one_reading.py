"""Captures that are read once: the answer is the same as from two readings, whatever comes late in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kwire.analyze import export, perfetto, source
from kwire.analyze.order import Run
from kwire.analyze.scan import Scan
from kwire.analyze.source import Source

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
