"""SQL over captures: what the tables hold, what a query may not do, what is said of mistakes."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kwire.analyze.capture_summary import CaptureSummary
from kwire.analyze.database import Database, QueryError, columns_used
from kwire.analyze.selection import Selection
from kwire.analyze.source import Source
from kwire.analyze.tables import Tables
from kwire.compile.layout import map_schema
from kwire.errors import KwireError
from kwire.lang.checked import Map
from kwire.lang.types import U32, U64
from kwire.view.where import Where

Shown = Callable[..., list[dict[str, Any]]]


def opened(path: str, **choice: Any) -> Database:
    source = Source(path)
    where = Where(choice.pop("where")) if "where" in choice else None
    return Database(source, CaptureSummary(source), Selection(choice.pop("glob", None), where, **choice))


def rows(database: Database, sql: str) -> list[dict[str, Any]]:
    return [row for batch in database.query(sql) for row in batch.to_pylist()]


@pytest.fixture
def database(rich: str) -> Iterator[Database]:
    with opened(rich) as database:
        yield database


def test_each_probe_is_a_table(database: Database) -> None:
    assert [table.name for table in database.tables] == ["vfs_open", "sys_enter_openat"]
    assert list(database.schemas) == ["vfs_open", "sys_enter_openat", "events", "probes", "lost"]


def test_each_map_is_a_table_by_its_name() -> None:
    maps = [Map(name, "hash", (U32,), U64, 9) for name in ("@", "@calls", "@map")]
    schemas = [
        map_schema(map, map.kind, id=number, prints="", machine="") for number, map in enumerate(maps, 1)
    ]
    assert [table.name for table in Tables(schemas)] == ["map_map", "calls", "map_map_2"]
    assert [table.name for table in Tables(schemas[:2])] == ["map", "calls"]


def test_columns_hold_what_show_prints(database: Database, rich: str, shown: Shown) -> None:
    expected = shown(rich, status=3)
    for table in database.tables:
        mine = [event for event in expected if event["probe"] == table.probe]
        found = rows(database, f'select * exclude (time) from "{table.name}" order by time_ns')
        assert len(found) == len(mine) == 30
        for row, event in zip(found, mine, strict=True):
            assert row.pop("time_ns") == event["time_ns"]
            assert row.pop("host") == "box"
            values = {"pid": event["pid"], "comm": event["comm"], "cpu": event["cpu"], **event["fields"]}
            for name, value in values.items():
                got = row.pop(name)
                if isinstance(got, bytes):
                    got = got.hex()
                if f"{name}_raw" in row and isinstance(value, int):
                    value = str(value)  # an enum's value without a name
                assert got == value, name
            assert all(name.endswith(("_raw", "_cut")) for name in row)


def test_raw_values_are_beside_names(database: Database) -> None:
    names = "state, state_raw, mode, mode_raw, address_raw, caller, caller_raw, big, small"
    [row] = rows(database, f"select {names} from vfs_open where big = 18446744073709551615 - 4")
    assert row == {
        "state": "4", "state_raw": 4, "mode": "SYNC", "mode_raw": 4, "address_raw": 0xFFFF888000000004,
        "caller": "start+0x4", "caller_raw": 4100, "big": (1 << 64) - 5, "small": -(1 << 63) + 4,
    }  # fmt: skip


def test_sums_are_those_of_python(database: Database, rich: str, shown: Shown) -> None:
    events = shown(rich, status=3)
    found = rows(database, "select comm, count(*) as n, sum(pid) as pids from events group by comm")
    counts = Counter(event["comm"] for event in events)
    assert {row["comm"]: row["n"] for row in found} == dict(counts)
    assert {row["comm"]: row["pids"] for row in found} == {
        comm: sum(event["pid"] for event in events if event["comm"] == comm) for comm in counts
    }
    [row] = rows(database, "select sum(big) as big from vfs_open")
    assert row["big"] == sum(
        event["fields"]["big"] for event in events if event["probe"].startswith("kprobe")
    )


def test_times_have_nanoseconds(database: Database) -> None:
    [row] = rows(
        database,
        "select min(time)::varchar as first, epoch_ns(min(time)) as ns, min(time_ns) as n from events",
    )
    assert row["first"] == "2023-11-14 22:13:20"
    assert row["ns"] == row["n"] == 1_700_000_000_000_000_000


def test_a_table_can_be_read_twice_in_one_query(database: Database) -> None:
    [row] = rows(database, "select count(*) as n from vfs_open a join vfs_open b using (time_ns)")
    assert row["n"] == 30
    [row] = rows(database, "with x as (select * from events) select count(*) n from x a, x b")
    assert row["n"] == 3600


def test_losses_and_probes_are_tables(database: Database) -> None:
    [loss] = rows(database, 'select "table", cpu, count, cause from lost')
    assert loss == {"table": "vfs_open", "cpu": 1, "count": 7, "cause": "the ring buffer was full"}
    found = rows(database, 'select "table", events, lost, produced from probes')
    assert found == [
        {"table": "vfs_open", "events": 30, "lost": 7, "produced": 37},
        {"table": "sys_enter_openat", "events": 30, "lost": 0, "produced": 30},
    ]


def test_several_statements_end_in_the_last(database: Database) -> None:
    found = rows(database, "create table t as select pid from events;\nselect count(*) as n from t")
    assert found == [{"n": 60}]


@pytest.mark.parametrize(
    "sql",
    [
        "select * from read_csv('{file}')",
        "select * from read_text('{file}')",
        "select * from '{file}'",
        "select * from glob('/*')",
        "copy (select 1) to '{out}'",
        "copy events to '{out}' (format parquet)",
        "export database '{out}'",
        "attach '{out}' as other",
        "install httpfs",
        "load '{file}'",
        "set enable_external_access = true",
        "set temp_directory = '/'",
        "pragma profiling_output = '{out}'",
        "call enable_logging(storage = 'file', storage_path = '{out}')",
        "select * from read_parquet('https://example.org/x.parquet')",
        "create secret s (type http)",
        "select * from source",  # a variable of the program that runs the query
        "select * from arrow_scan(1, 2, 3)",
    ],
)
def test_a_query_reaches_nothing_outside(database: Database, tmp_path: Path, sql: str) -> None:
    file = tmp_path / "secret.csv"
    file.write_text("a,b\n1,2\n")
    before = sorted(os.listdir(tmp_path))
    source = [1]
    with pytest.raises(KwireError):
        rows(database, sql.format(file=file, out=tmp_path / "out"))
    assert sorted(os.listdir(tmp_path)) == before
    assert source == [1]


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("select * form events", "line 1, column 15: syntax error"),
        ("select pids from events", 'line 1, column 8: Referenced column "pids" not found'),
        ("select *\n  from evnts", "line 2, column 8: Table with name evnts does not exist"),
        ("select 1;\n\nselect nosuch from events", "line 3, column 8: "),
        ("select " + "1 + " * 60 + "nosuch from events", "line 1, column 248: "),
        ("select comm::int from events", "Could not convert string"),
        ("", "nothing is written here"),
        ("-- only a remark", "nothing is written here"),
    ],
)
def test_a_mistake_is_one_line_with_the_place(database: Database, sql: str, says: str) -> None:
    with pytest.raises(QueryError) as caught:
        rows(database, sql)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        'x"; drop table events; --',
        "a'b",
        "time",
        "TIME_NS",
        "host",
        "select",
        "a\x00b",
        "a\nb",
        "é",
        " ",
        "x.y",
    ],
)
def test_hostile_names_are_only_names(tmp_path: Path, kit: Any, name: str) -> None:
    fields = ((name, "u32", 1, ""), (f"{name}_raw", "u32", 1, ""), ("X", "u8", 1, ""), ("x", "u8", 1, ""))
    schemas = [
        kit.schema(1, f"kprobe:{name}", fields),
        kit.schema(2, f"kretprobe:{name}", fields),
        kit.schema(3, "kprobe:events", fields),
        kit.schema(4, "tracepoint:a:lost", fields),
        kit.schema(5, f"kprobe:{name}", fields[:1]),
    ]
    items = [kit.event(schema, 1, (7, 8, 9, 10)[: len(schema.fields)]) for schema in schemas]
    with opened(kit.write(tmp_path / "a", schemas, items)) as database:
        names = [table.name for table in database.tables]
        assert len({name.casefold() for name in names}) == 5
        assert all(name.isidentifier() for name in names)
        assert not {"events", "lost", "probes"} & set(names)
        for table in database.tables:
            [row] = rows(database, f"select * from {table.name}")
            assert list(row.values())[3:] == [7, 8, 9, 10][: len(row) - 3]
            assert len({column.casefold() for column in row}) == len(row)
            assert all(column.isprintable() for column in row)
        assert rows(database, "select count(*) as n from events") == [{"n": 5}]


def test_a_capture_without_events_has_its_tables(tmp_path: Path, kit: Any) -> None:
    with opened(kit.write(tmp_path / "a", [kit.schema()], [])) as database:
        assert rows(database, "select * from vfs_open") == []
        assert rows(database, "select count(*) as n from events") == [{"n": 0}]
    with opened(kit.write(tmp_path / "b", [], [])) as database:
        assert rows(database, "select * from events") == []


def test_probes_of_several_hosts_are_one_table(tmp_path: Path, kit: Any) -> None:
    schemas = [kit.schema(1, host="a"), kit.schema(2, host="b", order="big", wall=kit.wall + 5)]
    items = [kit.event(schema, kit.monotonic, kit.rich(3)) for schema in schemas]
    with opened(kit.write(tmp_path / "a", schemas, items)) as database:
        found = rows(database, "select host, time_ns, big, comm, mode from vfs_open order by host")
    assert found == [
        {"host": host, "time_ns": kit.wall + late, "big": (1 << 64) - 4, "comm": "c3", "mode": "READ|WRITE"}
        for host, late in (("a", 0), ("b", 5))
    ]


def test_undecodable_events_are_left_out(tmp_path: Path, kit: Any) -> None:
    schema = kit.schema()
    good, bad = kit.event(schema, 1, kit.rich()), bytearray(kit.event(schema, 2, kit.rich()))
    place = schema.field("comm").offset
    bad[place : place + 4] = b"\xff\xff\xff\x7f"
    with opened(kit.write(tmp_path / "a", [schema], [good, bytes(bad), good])) as database:
        assert rows(database, "select count(comm) as n from events") == [{"n": 2}]


def test_only_the_columns_in_use_are_decoded(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    from kwire.analyze import arrow

    asked: list[str] = []
    real = arrow.Values.column

    def column(self: Any, column: Any) -> Any:
        asked.append(column.name)
        return real(self, column)

    monkeypatch.setattr(arrow.Values, "column", column)
    rows(database, "select sum(pid) from vfs_open where comm = 'c1'")
    assert set(asked) == {"pid", "comm"}
    asked.clear()
    rows(database, "select count(*) from vfs_open")
    assert not asked


def test_a_plan_that_is_not_understood_means_all_columns() -> None:
    scan = {"name": "ARROW_SCAN", "children": [], "extra_info": {"Projections": ["?"]}}
    assert columns_used([scan], {}) is None


def big(path: Path, kit: Any) -> str:
    """A capture of many chunks: probe 1 in the first half, probe 2 in the second."""
    fields = (("n", "u64", 1, ""), ("lump", "raw", 64, ""))
    schemas = [kit.schema(1, "kprobe:one", fields), kit.schema(2, "kprobe:two", fields)]
    out = kit.write(path, schemas, [])
    from kwire.capture.writer import Writer

    with Writer(str(path), schemas) as writer:
        for start in range(0, 60_000, 1000):
            schema = schemas[start >= 30_000]
            writer.write(
                kit.frames(
                    *(
                        kit.event(schema, kit.monotonic + at, (at, bytes(64)))
                        for at in range(start, start + 1000)
                    )
                )
            )
    return str(out)


@pytest.mark.parametrize(
    ("choice", "events", "most"),
    [
        ({}, 60_000, 1.0),
        ({"first": 1_700_000_000_000_050_000}, 10_000, 0.4),
        ({"last": 1_700_000_000_000_009_999}, 10_000, 0.4),
        ({"where": "time_ns >= 1700000000000020000 and time_ns < 1700000000000021000"}, 1000, 0.4),
        ({"where": "1700000000000059990 <= time_ns and n % 2 == 0"}, 5, 0.4),
        ({"glob": "kprobe:one"}, 30_000, 0.7),
        ({"where": "probe == 'kprobe:two' and n < 30005"}, 5, 0.7),
        ({"where": "time_ns == 5"}, 0, 0.0),
    ],
)
def test_chunks_without_wanted_events_are_not_decoded(
    tmp_path: Path, kit: Any, choice: dict[str, Any], events: int, most: float
) -> None:
    from kwire.analyze.scan import Scan

    path = big(tmp_path / "big.pcapng", kit)
    where = Where(choice["where"]) if "where" in choice else None
    rest = {key: value for key, value in choice.items() if key in ("first", "last")}
    with Source(path).open() as capture:
        scan = Scan(capture, Selection(choice.get("glob"), where, **rest))
        assert sum(len(block.times) for block in scan) == events == scan.events
    assert scan.chunks > 5
    assert scan.decoded <= scan.chunks * most
    if not choice:
        assert scan.decoded == scan.chunks
    with opened(path, **choice) as database:
        assert rows(database, "select count(*) as n from events") == [{"n": events}]
        assert database.decoded == scan.decoded


def test_query_as_a_command(rich: str, kwire: Any) -> None:
    status, out, err = kwire("query", rich, "select pid, count(*) as n from events group by pid order by pid")
    assert (status, out.splitlines()) == (3, ["pid   n", "100  20", "101  20", "102  20"])
    assert err == f"kwire: {rich}: 7 events are lost; 'kwire verify' names the holes\n"
    status, out, err = kwire(
        "query", rich, "--json", "select time, big, numbers, data, null as x from vfs_open limit 1"
    )
    assert json.loads(out) == {
        "time": "2023-11-14 22:13:20.000001000+00:00",
        "big": (1 << 64) - 1,
        "numbers": [0, -1, 3],
        "data": "",
        "x": None,
    }
    status, out, err = kwire("query", rich, "--csv", 'select \'a,"b\' as "x y", 1 as n, null as z')
    assert out == 'x y,n,z\n"a,""b",1,\n'
    status, out, err = kwire("query", rich, "--probe", "kprobe:*", "--from", "+10us", "--to", "+20us",
                             "select count(*) as n from events")  # fmt: skip
    assert out.split() == ["n", "5"]


def test_without_sql_the_tables_are_listed(rich: str, kwire: Any) -> None:
    status, out, _ = kwire("query", rich)
    assert status == 3
    assert "vfs_open  -- kprobe:vfs_open(path)" in out
    assert [line.split()[:2] for line in out.splitlines() if line.startswith("    state")] == [
        ["state", "VARCHAR"], ["state_raw", "UINTEGER"],
    ] * 3  # fmt: skip
    status, out, _ = kwire("query", rich, "--json")
    tables = {table["table"]: table["columns"] for table in map(json.loads, out.splitlines())}
    assert {"name": "numbers", "type": "SMALLINT[]"} in tables["vfs_open"]


def test_names_of_a_hostile_capture_cannot_touch_the_terminal(tmp_path: Path, kit: Any, kwire: Any) -> None:
    schema = kit.schema(1, "kprobe:\x1b]0;x\x07", (("\x1b[2J", "str", 1, ""),))
    path = kit.write(tmp_path / "a", [schema], [kit.event(schema, 1, (b"\x1b[31m\n",))])
    for arguments in (
        ["select * from _0_x"],
        [],
        ["select nosuch from events"],
        ["select 'a\x1bb' as \"\x1b\""],
    ):
        _, out, err = kwire("query", path, *arguments)
        assert all(line.isprintable() for line in [*out.splitlines(), *err.splitlines()])


def test_standard_input_can_be_asked(rich: str) -> None:
    import subprocess
    import sys

    command = [
        sys.executable,
        "-m",
        "kwire.cli.main",
        "query",
        "-",
        "select count(*) as n from events a, events b",
    ]
    done = subprocess.run(command, input=Path(rich).read_bytes(), capture_output=True, check=False)
    assert (done.returncode, done.stdout.split()) == (3, [b"n", b"3600"])  # events are lost in it


def test_an_error_leaves_nothing_but_its_line(rich: str) -> None:
    """Nothing of DuckDB's own on standard error, at the end of the process neither."""
    import subprocess
    import sys

    command = [sys.executable, "-m", "kwire.cli.main", "query", rich, "select nosuch"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)


def test_of_very_many_tables_those_are_known_that_a_query_names(
    tmp_path: Path, kit: Any, kwire: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kwire.analyze.database.REGISTERED", 5)
    schemas = [kit.schema(n, f"kprobe:f{n}", [("n", "u32", 1, "")]) for n in range(1, 30)]
    schemas.append(kit.schema(30, "kprobe:Größe", [("n", "u32", 1, "")]))
    items = [kit.event(schema, kit.monotonic + schema.id, (schema.id,)) for schema in schemas]
    made = str(kit.write(tmp_path / "a.pcapng", schemas, items))
    assert (
        kwire("query", made, "--csv", 'SELECT n FROM "F7" UNION SELECT n FROM f8 ORDER BY n')[1]
        == "n\n7\n8\n"
    )
    assert kwire("query", made, "--csv", "SELECT count(*) AS n FROM events, f9")[1] == "n\n30\n"
    assert kwire("query", made, "--csv", "SELECT count(*) AS n FROM probes")[1] == "n\n30\n"
    assert len(re.findall("(?m)^f[0-9]+ ", kwire("query", made)[1])) == 29
    status, _, err = kwire("query", made, "SELECT n FROM f99")
    assert (status, "f99 does not exist" in err) == (1, True)
