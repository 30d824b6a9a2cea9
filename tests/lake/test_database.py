"""SQL over lakes: what a capture answers, a lake of it answers; and what is not read for it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.analyze.conftest import Kit
from tests.lake.conftest import Waters

from kwire.analyze.database import QueryError
from kwire.compile.layout import map_schema
from kwire.errors import KwireError
from kwire.lake.compact import compact
from kwire.lake.database import LakeDatabase
from kwire.lake.directory import Lake
from kwire.lang.checked import Map
from kwire.lang.types import U32, U64
from kwire.wire.schema import Clock
from kwire.wire.tables import MapTable, Row

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(params=["UTC0", "America/New_York", "Australia/Lord_Howe"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Local time is that of several places in turn."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


def ask(waters: Waters, sql: str, **choice: Any) -> list[dict[str, Any]]:
    with LakeDatabase(Lake(waters.path), **choice) as database:
        return [row for batch in database.query(sql) for row in batch.to_pylist()]


@pytest.mark.usefixtures("zone")
def test_a_lake_answers_what_its_captures_answer(waters: Waters, kit: Kit, kwire: Run) -> None:
    """Every kind of field; over both changes of a year's clocks; before and after files are joined."""
    captures = []
    for number, wall in enumerate((1_699_162_200_000_000_000, 1_710_052_200_000_000_000)):
        path = kit.capture(waters.folder / f"{number}.pcapng", host=f"web{number}", wall=wall)
        captures.append(path)
    waters.add(*captures)
    tables = {
        "vfs_open": "time_ns",
        "sys_enter_openat": "time_ns",
        "events": "time_ns",
        "lost": '"first"',
        "probes": '"table", host',
    }
    told = {}
    for table, order in tables.items():
        sql = f"SELECT * FROM {table} ORDER BY {order}"
        told[table] = kwire("query", *captures, "--json", sql)[1]
        assert kwire("query", waters.path, "--json", sql)[1] == told[table]
        assert told[table]
    assert len(compact_files(waters)) == 4
    assert kwire("query", waters.path, "--json", "SELECT * FROM events ORDER BY time_ns")[1] == told["events"]


def compact_files(waters: Waters) -> list[str]:
    compact(Lake(waters.path))
    return waters.files


def test_its_tables_have_the_names_and_columns_of_a_capture(waters: Waters, kit: Kit, kwire: Run) -> None:
    fields = (("probe", "u32", 1, ""), ("day", "u32", 1, ""), ("host", "u32", 1, ""), ("a.b c", "u32", 1, ""))
    probes = ["kprobe:vfs_open(x)", "kretprobe:vfs_open(y)", "tracepoint:syscalls:select", "kprobe:events"]
    schemas = [kit.schema(number, probe, fields) for number, probe in enumerate(probes, 1)]
    frames = [kit.event(schema, 1_000_000, [1, 2, 3, 4]) for schema in schemas]
    capture = kit.write(waters.folder / "a.pcapng", schemas, frames)
    waters.add(capture)
    names = {}
    for place in (capture, waters.path):
        out = kwire("query", place)[1]
        lines = sorted(" ".join(line.split()[:1]) for line in out.splitlines())
        names[place] = lines
    assert names[capture] == names[waters.path]
    for table in ("kprobe_vfs_open", "kretprobe_vfs_open", "tracepoint_select", "kprobe_events"):
        one, two = (kwire("query", place, "--json", f"SELECT * FROM {table}") for place in names)
        assert one[1].split("time_ns")[1] == two[1].split("time_ns")[1]


def test_maps_are_tables_and_no_events(waters: Waters, kit: Kit, kwire: Run) -> None:
    clock = Clock("monotonic", 0, 1_700_000_000_000_000_000)
    event = kit.schema(1, "kprobe:x", (("pid", "u32", 1, ""),), wall=clock.wall)
    held = map_schema(Map("@calls", "hash", (U32,), U64, 9), "hash", id=2, prints="", machine="")
    schemas = [event, held._replace(clock=clock, order="little", host="box")]
    frames = [kit.event(event, 1_000_000, [7])]
    frames += [
        frame
        for number in (1, 2)
        for frame in MapTable(number, number, (Row((7,), 5), Row((8,), number)), "print").frames(2)
    ]
    capture = kit.write(waters.folder / "a.pcapng", schemas, frames)
    assert waters.add(capture)[:2] == (1, 4)
    for sql in ("SELECT * FROM calls ORDER BY ALL", "SELECT * FROM events", "SELECT * FROM probes"):
        one, two = (kwire("query", place, "--json", sql) for place in (capture, waters.path))
        assert (one[0], one[1]) == (two[0], two[1])
    assert len(ask(waters, "SELECT * FROM calls")) == 4


def spoil(waters: Waters, which: Callable[[str], bool]) -> int:
    """Make some files of the lake no Parquet; how many."""
    spoiled = [path for path in waters.files if which(path)]
    for path in spoiled:
        Path(waters.path, path).write_bytes(b"no Parquet")
    return len(spoiled)


@pytest.mark.parametrize(
    ("kept", "sql", "choice"),
    [
        ("host=web2", "SELECT * FROM sched_process_exec WHERE host = 'web2'", {}),
        ("sched_process_exec", "SELECT * FROM sched_process_exec", {}),
        ("2023-11-15", "SELECT * FROM events", {"first": 1_700_006_400_000_000_000}),
        ("2023-11-14", "SELECT * FROM vfs_open", {"last": 1_700_006_399_999_999_999}),
        ("sched_process_exec", "SELECT * FROM events", {"glob": "*exec"}),
    ],
)
def test_what_is_ruled_out_is_not_opened(waters: Waters, kept: str, sql: str, choice: dict[str, Any]) -> None:
    waters.add(
        waters.capture("a.pcapng", hosts=["web1", "web2"]), waters.capture("b.pcapng", day=1, hosts=["web2"])
    )
    before = sorted(map(str, ask(waters, sql, **choice)))
    assert spoil(waters, lambda path: kept not in path) >= 2
    assert sorted(map(str, ask(waters, sql, **choice))) == before
    assert before
    with pytest.raises((KwireError, OSError)):
        ask(waters, "SELECT pid FROM events")


def test_files_and_row_groups_are_ruled_out_by_their_statistics(waters: Waters) -> None:
    """A file whose rows are damaged, and whose statistics say that none is wanted, is not decoded."""
    from pyarrow import parquet

    waters.add(
        waters.capture("a.pcapng", probes=["kprobe:x"], events=3000),
        waters.capture("b.pcapng", probes=["kprobe:x"], events=3000, later=10_000_000),
    )
    files = [Path(waters.path, path) for path in waters.files]
    groups = {path: parquet.read_metadata(path).row_group(0) for path in files}
    begins = {path: groups[path].column(1).statistics.min for path in files}
    early = min(files, key=begins.__getitem__)
    whole = bytearray(early.read_bytes())
    for number in range(groups[early].num_columns):
        column = groups[early].column(number)
        at = column.dictionary_page_offset or column.data_page_offset
        whole[at : at + 8] = b"\xff" * 8
    early.write_bytes(whole)
    since = max(begins.values())
    assert ask(waters, f"SELECT count(pid) AS n FROM x WHERE time_ns >= {since}") == [{"n": 3000}]
    assert ask(waters, "SELECT count(pid) AS n FROM x", first=since) == [{"n": 3000}]
    with pytest.raises((KwireError, OSError)):
        ask(waters, "SELECT count(pid) AS n FROM x")


def test_what_a_query_may_not_do(waters: Waters) -> None:
    waters.add(waters.capture("a.pcapng"))
    for sql in (
        f"COPY events TO '{waters.path}/x.parquet'",
        f"SELECT * FROM read_parquet('{waters.path}/**/*.parquet')",
        f"SELECT * FROM '{waters.path}/x.csv'",
        "SET enable_external_access = true",
        "INSTALL httpfs",
        f"ATTACH '{waters.path}/x.db'",
    ):
        with pytest.raises(QueryError):
            ask(waters, sql)
    assert all(path.endswith("-000.parquet") for path in waters.files)


def test_losses_are_told(waters: Waters, kwire: Run) -> None:
    waters.add(waters.capture("a.pcapng", lost=7), waters.capture("b.pcapng", day=1))
    status, out, err = kwire("query", waters.path, "--json", 'SELECT host, count, "table" FROM lost')
    told = {"host": "web1", "count": 7, "table": "sched_process_exec"}
    assert (status, json.loads(out)) == (3, told)
    assert err == f"kwire: {waters.path}: 7 events are lost; the table lost names the holes\n"
    assert kwire("query", waters.path, "--from", "+1h", "SELECT count(*) FROM lost")[0] == 0
    assert kwire("query", waters.path, "--probe", "kprobe:*", "SELECT count(*) FROM lost")[0] == 0
    produced = ask(waters, "SELECT sum(produced) AS p, sum(events) AS e, sum(lost) AS l FROM probes")
    assert produced == [{"p": 87, "e": 80, "l": 7}]


def test_times_are_chosen_as_of_a_capture(waters: Waters, kwire: Run) -> None:
    capture = waters.capture("a.pcapng")
    waters.add(capture)
    for choice in (["--from", "+5ms"], ["--to", "-5ms"], ["--utc", "--from", "2023-11-14T22:13:20.005"]):
        said = [
            kwire("query", place, *choice, "SELECT min(time), count(*) FROM events")
            for place in (capture, waters.path)
        ]
        assert said[0] == said[1]


def test_mistakes_are_one_line(waters: Waters, kwire: Run) -> None:
    capture = waters.capture("a.pcapng")
    waters.add(capture)
    for arguments, said in (
        ((waters.path, capture, "SELECT 1"), "a lake is asked alone"),
        ((waters.path, "--where", "pid == 1", "SELECT 1"), "write the condition in the SQL"),
        ((waters.path, "--probe", "nope", "SELECT 1"), "no probe of"),
        ((waters.path, "SELECT * FROM evnts"), "did you mean 'events'?"),
        ((waters.path, "SELECT piid FROM events"), '"pid"'),
        ((waters.path, "--from", "soon", "SELECT 1"), "'soon'"),
    ):
        status, out, err = kwire("query", *arguments)
        assert (status, out, err.count("\n")) == (1, "", 1), err
        assert said in err


def test_an_empty_lake_has_no_events(waters: Waters, kwire: Run) -> None:
    Lake(waters.path, make=True)
    assert kwire("query", waters.path, "--csv", "SELECT count(*) AS n FROM events")[1] == "n\n0\n"
    assert os.listdir(waters.path) == [".kwire"]
