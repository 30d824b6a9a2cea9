"""Exports, read back by other programs: the values are those of `kwire show --json`."""

from __future__ import annotations

import csv
import json
import os
import re
import stat
import sys
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kwire.analyze import export, wide
from kwire.analyze.export import FORMATS, format_of, markdown
from kwire.analyze.order import ordered, runs
from kwire.analyze.scan import Block
from kwire.analyze.source import Source
from kwire.errors import KwireError
from kwire.wire.frames import Frames

Shown = Callable[..., list[dict[str, Any]]]


def flat(event: dict[str, Any]) -> dict[str, Any]:
    """What show prints of an event, as the columns of an export."""
    values = {"time_ns": event["time_ns"], "probe": event["probe"]}
    values |= {name: event[name] for name in ("cpu", "pid", "comm")} | event["fields"]
    return values


def same(row: dict[str, Any], event: dict[str, Any]) -> None:
    """Every value that show prints is in the row; enums without a name are numbers there, digits here."""
    for name, value in flat(event).items():
        got = row[name].hex() if isinstance(row[name], bytes) else row[name]
        if f"{name}_raw" in row and isinstance(value, int):
            assert row[f"{name}_raw"] == value
            value = str(value)
        assert got == value, name


def by_arrow(path: str) -> list[dict[str, Any]]:
    with pa.memory_map(path) as file:
        rows: list[dict[str, Any]] = pa.ipc.open_file(file).read_all().drop_columns(["time"]).to_pylist()
        return rows


def by_arrow_stream(path: str) -> list[dict[str, Any]]:
    with open(path, "rb") as file:
        rows: list[dict[str, Any]] = pa.ipc.open_stream(file).read_all().drop_columns(["time"]).to_pylist()
        return rows


def by_pyarrow(path: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).drop_columns(["time"]).to_pylist()
    return rows


def by_duckdb(path: str) -> list[dict[str, Any]]:
    import duckdb

    with duckdb.connect() as connection:
        found = connection.execute("select * exclude (time) from read_parquet(?)", [path])
        names = [column[0] for column in found.description]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def by_polars(path: str) -> list[dict[str, Any]]:
    import polars

    return polars.read_parquet(path).drop("time").to_dicts()


def by_pandas(path: str) -> list[dict[str, Any]]:
    import pandas

    frame = pandas.read_parquet(path).drop(columns=["time"]).astype(object)
    rows = frame.to_dict("records")
    return [
        {key: value.tolist() if hasattr(value, "tolist") else value for key, value in row.items()}
        for row in rows
    ]


@pytest.mark.parametrize(
    ("extension", "read"),
    [
        ("parquet", by_pyarrow),
        ("parquet", by_duckdb),
        ("parquet", by_polars),
        ("parquet", by_pandas),
        ("arrow", by_arrow),
        ("arrows", by_arrow_stream),
    ],
)
def test_what_others_read_is_what_show_prints(
    rich: str,
    tmp_path: Path,
    kwire: Any,
    shown: Shown,
    extension: str,
    read: Callable[[str], list[dict[str, Any]]],
) -> None:
    out = str(tmp_path / f"out.{extension}")
    status, printed, err = kwire("export", rich, "-o", out)
    assert (status, printed) == (3, "")
    assert err.endswith(f"60 events written to {out}\n")
    rows, events = read(out), shown(rich, status=3)
    assert len(rows) == len(events) == 60
    for row, event in zip(rows, events, strict=True):
        same(row, event)
    assert stat.S_IMODE(Path(out).stat().st_mode) == 0o600


def test_parquet_tells_of_units_probes_and_losses(rich: str, tmp_path: Path, kwire: Any) -> None:
    out = str(tmp_path / "out.parquet")
    kwire("export", rich, "-o", out)
    told = json.loads(pq.read_schema(out).metadata[b"kwire"])
    assert told["lost"] == 7
    assert [(probe["probe"], probe["events"], probe["lost"]) for probe in told["probes"]] == [
        ("kprobe:vfs_open(path)", 30, 7), ("tracepoint:syscalls:sys_enter_openat", 30, 0),
    ]  # fmt: skip


def test_csv_is_read_back(rich: str, tmp_path: Path, kwire: Any, shown: Shown) -> None:
    out = tmp_path / "out.csv"
    assert kwire("export", rich, "-o", str(out))[0] == 3
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, event in zip(rows, shown(rich, status=3), strict=True):
        for name, value in flat(event).items():
            expected = json.dumps(value) if isinstance(value, (list, bool)) else str(value)
            assert row[name] == expected, name


def test_ndjson_is_show_json(rich: str, tmp_path: Path, kwire: Any) -> None:
    out = tmp_path / "out.ndjson"
    kwire("export", rich, "-o", str(out))
    assert out.read_text() == kwire("show", rich, "--json")[1]
    kwire("export", rich, "-o", str(out), "--where", "pid == 101", "--probe", "*openat")
    assert out.read_text() == kwire("show", rich, "--json", "--where", "pid == 101", "--probe", "*openat")[1]


def test_fields_of_one_name_and_different_types_are_columns_of_their_own(
    tmp_path: Path, kit: Any, kwire: Any
) -> None:
    schemas = [
        kit.schema(1, "kprobe:one", (("n", "u32", 1, ""), ("m", "u8", 1, ""))),
        kit.schema(2, "kprobe:two", (("n", "str", 1, ""), ("m", "u8", 1, ""))),
    ]
    items = [kit.event(schemas[0], 1, (7, 1)), kit.event(schemas[1], 2, (b"x", 2))]
    out = str(tmp_path / "out.parquet")
    assert kwire("export", kit.write(tmp_path / "a", schemas, items), "-o", out)[0] == 0
    rows = pq.read_table(out).select(["probe", "n", "m", "n_two"]).to_pylist()
    assert rows == [
        {"probe": "kprobe:one", "n": 7, "m": 1, "n_two": None},
        {"probe": "kprobe:two", "n": None, "m": 2, "n_two": "x"},
    ]


def test_a_directory_gets_a_file_a_probe(rich: str, tmp_path: Path, kwire: Any) -> None:
    out = tmp_path / "tables"
    assert kwire("export", rich, "-o", f"{out}/", "--format", "parquet")[0] == 3
    assert sorted(path.name for path in out.iterdir()) == ["sys_enter_openat.parquet", "vfs_open.parquet"]
    assert pq.read_table(out / "vfs_open.parquet").num_rows == 30
    assert kwire("export", rich, "-o", str(out))[0] == 1


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_capture_without_events_is_a_file_without_rows(
    tmp_path: Path, kit: Any, kwire: Any, name: str
) -> None:
    path = kit.write(tmp_path / "a", [kit.schema()], [])
    out = tmp_path / f"out{FORMATS[name].extensions[0]}"
    status, _, err = kwire("export", path, "-o", str(out))
    assert (status, err) == (0, f"0 events written to {out}\n")
    assert out.exists()


def test_formats_are_told_by_their_extensions() -> None:
    for form in FORMATS.values():
        for extension in form.extensions:
            assert format_of(f"x{extension.upper()}") is form
    for path in ("x", "x.txt"):
        with pytest.raises(KwireError, match="use --format"):
            format_of(path)


def test_the_documented_formats_are_the_table() -> None:
    text = (Path(__file__).parents[2] / "docs" / "analysis.md").read_text()
    found = re.search(r"export\.markdown\(\) -->\n(.*?)\n<!-- end", text, re.S)
    assert found is not None
    assert found[1] == markdown()


def test_what_was_there_stays_when_an_export_fails(rich: str, tmp_path: Path, kwire: Any) -> None:
    out = tmp_path / "out.csv"
    out.write_text("mine")
    assert kwire("export", rich, "-o", str(out), "--where", "nosuch == 1")[0] == 1
    assert out.read_text() == "mine"
    assert kwire("export", rich, "-o", str(tmp_path / "no" / "out.csv"))[0] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "rich.pcapng"]


def test_rows_come_in_order_of_time_as_far_as_the_window_reaches(kit: Any) -> None:
    schema, frames = kit.schema(), Frames(bytes(16), array("Q", [0]))
    blocks = [Block(schema, frames, np.array([time]), object()) for time in (5, 1, 3, 2, 9, 4, 8, 7, 6, 0)]
    found = [time for _, _, time in ordered(blocks, 4)]
    assert sorted(found) == list(range(10))
    assert found[:4] == [1, 2, 3, 4]
    assert [time for _, _, time in ordered(blocks, 10)] == list(range(10))


@pytest.mark.parametrize("mixed", [0, 2, 8], ids=["in_turn", "overlapping", "mixed"])
def test_parts_of_what_is_in_order_are_in_order(kit: Any, mixed: int) -> None:
    """Each event once, the oldest first, however blocks lie to each other and wherever a part ends."""
    source = np.random.default_rng(mixed)
    schema, frames = kit.schema(), Frames(bytes(16), array("Q", [0] * 8))
    blocks = [
        Block(schema, frames, np.sort(10 * place + source.integers(0, 10 * mixed + 9, 8)), object())
        for place in range(40)
    ]
    found = []
    for run in runs(blocks, 100, 1 << 20):
        for start in range(0, len(run.times), 30):
            part = run.part(start, start + 30)
            of, at = part.located()
            located = [part.stretches[which][0].times[place] for which, place in zip(of, at, strict=True)]
            assert part.times.tolist() == located
            found += located
    assert len(found) == 320
    assert found == sorted(np.concatenate([block.times for block in blocks]))


def test_whole_windows_are_given(kit: Any) -> None:
    """What takes so many rows at a time is left with a few at the end only."""
    schema, frames = kit.schema(), Frames(bytes(16), array("Q", [0] * 7))
    blocks = [Block(schema, frames, np.arange(7 * place, 7 * place + 7), object()) for place in range(20)]
    assert [len(run.times) for run in runs(blocks, 20)] == [20, 20, 20, 20, 20, 40]


@pytest.mark.parametrize(("cells", "groups"), [(1 << 24, [40, 10]), (50, [20, 20, 10])])
def test_row_groups_are_bounded_by_rows_and_by_values(
    tmp_path: Path, kit: Any, kwire: Any, monkeypatch: pytest.MonkeyPatch, cells: int, groups: list[int]
) -> None:
    """A row has five values: so much memory at most waits for the end of a group, however wide a table is."""
    schemas = [kit.schema(n, "kprobe:f", [("pid", "u32", 1, "")], host=f"box{n}") for n in (1, 2)]
    items = [kit.event(schemas[n // 25], kit.monotonic + n, (n,)) for n in range(50)]
    made, out = kit.write(tmp_path / "a.pcapng", schemas, items), str(tmp_path / "out.parquet")
    for name, value in (("ROWS", 10), ("GROUP", 45), ("CELLS", cells)):
        monkeypatch.setattr(export, name, value)
    assert kwire("export", made, "-o", out)[0] == 0
    found = pq.ParquetFile(out).metadata
    assert [found.row_group(at).num_rows for at in range(found.num_row_groups)] == groups
    rows = pq.read_table(out).to_pylist()
    assert [(row["host"], row["pid"]) for row in rows] == [(f"box{1 + n // 25}", n) for n in range(50)]


def test_row_groups_are_bounded_by_bytes(
    tmp_path: Path, kit: Any, kwire: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events with long texts: a group has fewer rows than others."""
    schema = kit.schema(1, "kprobe:f", [("name", "text", 15_000, "")])
    items = [kit.event(schema, kit.monotonic + n, (b"x" * 14_999,)) for n in range(60)]
    made, out = kit.write(tmp_path / "a.pcapng", [schema], items), str(tmp_path / "out.parquet")
    monkeypatch.setattr(export, "ROWS", 4)
    monkeypatch.setattr(export, "HELD", 200_000)
    assert kwire("export", made, "-o", out)[0] == 0
    found = pq.ParquetFile(out).metadata
    assert [found.row_group(at).num_rows for at in range(found.num_row_groups)] == [12] * 5


def test_host_and_probe_are_numbers_of_one_dictionary(rich: str, tmp_path: Path, kwire: Any) -> None:
    out = str(tmp_path / "out.arrow")
    kwire("export", rich, "-o", out)
    with pa.memory_map(out) as file:
        opened = pa.ipc.open_file(file)
        for name in ("host", "probe"):
            assert opened.schema.field(name).type == pa.dictionary(pa.int32(), pa.string())
        found = opened.read_all().column("probe").chunk(0).dictionary.to_pylist()
    assert sorted(found) == ["kprobe:vfs_open(path)", "tracepoint:syscalls:sys_enter_openat"]


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_probes_with_many_columns_stand_side_by_side(
    tmp_path: Path, kit: Any, kwire: Any, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """Each event's values are in its row, whatever stands around it, and wherever a batch ends."""
    monkeypatch.setattr(export, "CELLS", 90)
    schemas = [
        kit.schema(n, f"kprobe:f{n}", [("pid", "u32", 1, ""), (f"own{n % 4}", "u32", 1 + n % 2, "")])
        for n in range(1, 9)
    ]
    items = [kit.event(schemas[n % 8], kit.monotonic + n, (n, n if n % 2 else [n, n])) for n in range(50)]
    made, out = kit.write(tmp_path / "a.pcapng", schemas, items), str(tmp_path / f"out.{form}")
    assert kwire("export", str(made), "-o", out)[0] == 0
    rows = (pq.read_table(out) if form == "parquet" else pa.ipc.open_file(out).read_all()).to_pylist()
    assert [row["time_ns"] for row in rows] == [kit.wall + n for n in range(50)]
    for n, row in enumerate(rows):
        own = {name: value for name, value in row.items() if name.startswith("own") and value is not None}
        number = n % 8 + 1
        assert (row["probe"], row["pid"]) == (f"kprobe:f{number}", n)
        assert list(own.values()) == [[n, n] if number % 2 else n]


def test_more_columns_than_a_file_has_are_refused(
    tmp_path: Path, kit: Any, kwire: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wide, "MOST", 20)
    schemas = [kit.schema(n, f"kprobe:f{n}", [(f"own{n}", "u32", 1, "")]) for n in range(1, 30)]
    made = str(kit.write(tmp_path / "a.pcapng", schemas, []))
    for form in ("parquet", "arrow", "csv"):
        status, _, err = kwire("export", made, "-o", str(tmp_path / f"out.{form}"))
        assert (status, "21 columns together, and one file has at most 20; give -o DIR/" in err) == (1, True)
    assert kwire("export", made, "-o", f"{tmp_path}/many/", "--format", "csv")[0] == 0


# --- traces


def trace(path: Path) -> list[dict[str, Any]]:
    told = json.loads(path.read_text())
    assert told["displayTimeUnit"] == "ns"
    events: list[dict[str, Any]] = told["traceEvents"]
    for event in events:
        assert event["ph"] in "iXBM"
        assert type(event["pid"]) is int
        assert type(event["tid"]) is int
        assert event["ph"] == "M" or event["ts"] >= 0
    return events


def test_calls_are_slices_and_other_events_instants(tmp_path: Path, kit: Any, kwire: Any) -> None:
    fields = (("pid", "u32", 1, ""), ("tid", "u32", 1, ""), ("comm", "str", 1, ""), ("n", "u64", 1, ""))
    specs = [
        "tracepoint:syscalls:sys_enter_read", "tracepoint:syscalls:sys_exit_read",
        "kprobe:f", "kretprobe:f", "tracepoint:sched:tick",
    ]  # fmt: skip
    schemas = [kit.schema(number + 1, spec, fields) for number, spec in enumerate(specs)]
    plan = [  # probe, µs, thread
        (1, 1, 7), (1, 2, 8), (2, 5, 7), (5, 6, 7), (3, 10, 7), (3, 11, 7), (4, 12, 7), (4, 20, 7),
        (2, 21, 7), (1, 30, 9), (2, 31, 8),
    ]  # fmt: skip
    items = [
        kit.event(schemas[probe - 1], kit.monotonic + 1000 * at, (7, thread, b"cat", at))
        for probe, at, thread in plan
    ]
    items.insert(3, kit_lost(kit))
    out = tmp_path / "out.json"
    assert kwire("export", kit.write(tmp_path / "a", schemas, items), "-o", str(out))[0] == 3
    events = trace(out)
    slices = {
        (event["name"], event["tid"], event["ts"], event["dur"]) for event in events if event["ph"] == "X"
    }
    assert slices == {("read", 7, 0, 4), ("read", 8, 1, 29), ("f", 7, 9, 10), ("f", 7, 10, 1)}
    assert [(event["name"], event["tid"], event["ts"]) for event in events if event["ph"] == "B"] == [
        ("syscall read", 9, 29)
    ]
    instants = {(event["name"], event["ts"]) for event in events if event["ph"] == "i"}
    assert instants == {("sched:tick", 5), ("read ends", 20), ("LOST 3", 3)}
    names = {(event["name"], event["args"]["name"]) for event in events if event["ph"] == "M"}
    assert names == {("process_name", "cat"), ("thread_name", "cat")}
    [call] = [event for event in events if event["ph"] == "X" and event["tid"] == 8]
    assert call["args"] == {"begin": {"tid": 8, "n": 2}, "end": {"tid": 8, "n": 31}}


def test_processes_are_called_by_all_their_names(tmp_path: Path, kit: Any, kwire: Any) -> None:
    fields = (("pid", "u32", 1, ""), ("tid", "u32", 1, ""), ("comm", "str", 1, ""))
    schema = kit.schema(1, "tracepoint:sched:tick", fields)
    plan = [(8, b"early"), (7, b"kwire"), (7, b"kwire"), (7, b"sh"), (8, b"early"), (7, b"ls")]
    items = [
        kit.event(schema, kit.monotonic + 1000 * at, (7, tid, comm)) for at, (tid, comm) in enumerate(plan)
    ]
    out = tmp_path / "out.json"
    kwire("export", kit.write(tmp_path / "a", [schema], items), "-o", str(out))
    events = trace(out)
    names = {(event["name"], event["tid"], event["args"]["name"]) for event in events if event["ph"] == "M"}
    assert names == {
        ("process_name", 7, "kwire → sh → ls"), ("thread_name", 7, "kwire → sh → ls"),
        ("thread_name", 8, "early"),
    }  # fmt: skip
    changes = [(event["name"], event["ts"]) for event in events if event.get("cat") == "name"]
    assert changes == [("now sh", 3), ("now ls", 5)]


def kit_lost(kit: Any) -> Any:
    from kwire.wire.messages import Cause, Lost

    return Lost(1, kit.monotonic + 2000, kit.monotonic + 4000, 3, 0, Cause.RING_FULL)


def test_processes_of_two_hosts_do_not_mix(tmp_path: Path, kit: Any, kwire: Any) -> None:
    fields = (("pid", "u32", 1, ""), ("comm", "str", 1, ""))
    schemas = [kit.schema(1, "kprobe:g+4", fields, host="a"), kit.schema(2, "kprobe:g+4", fields, host="b")]
    items = [kit.event(schema, kit.monotonic, (7, b"cat")) for schema in schemas]
    out = tmp_path / "out.json"
    kwire("export", kit.write(tmp_path / "a", schemas, items), "-o", str(out))
    assert len({event["pid"] for event in trace(out) if event["ph"] == "i"}) == 2


def test_hostile_texts_stay_texts(tmp_path: Path, kit: Any, kwire: Any) -> None:
    name = '"fields":{"x'
    schema = kit.schema(1, f"tracepoint:a:{name}", ((name, "str", 1, ""), ("comm", "str", 1, "")))
    text = b'","fields":{}}]\n\xff\x00'
    path = kit.write(tmp_path / "a", [schema], [kit.event(schema, 1, (text, text))])
    for form in FORMATS:
        out = tmp_path / "out"
        assert kwire("export", path, "-o", str(out), "--format", form)[0] == 0
        if form == "trace":
            [event] = [event for event in trace(out) if event["ph"] == "i"]
            assert event["args"] == {name: text.decode("utf-8", "backslashreplace")}


def test_csv_needs_no_library_and_the_others_say_what_they_need(
    rich: str, tmp_path: Path, kwire: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kwire("export", rich, "-o", str(tmp_path / "with.csv"))[0] == 3
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert kwire("export", rich, "-o", str(tmp_path / "without.csv"))[0] == 3  # events are lost in it
    assert (tmp_path / "without.csv").read_text() == (tmp_path / "with.csv").read_text()
    for name in ("out.parquet", "out.arrow", "out.arrows"):
        status, out, err = kwire("export", rich, "-o", str(tmp_path / name))
        assert (status, out) == (1, "")
        assert "pyarrow is not installed; pip install 'kwire[query]'" in err
        assert not (tmp_path / name).exists()


def test_an_export_is_written_to_what_is_there(rich: str, tmp_path: Path, kwire: Any) -> None:
    file, link = tmp_path / "file.csv", tmp_path / "link.csv"
    link.symlink_to(file)
    assert kwire("export", rich, "-o", str(link))[0] == 3
    assert link.is_symlink()
    text = file.read_text()
    with open("/dev/null", "rb") as null:
        assert kwire("export", rich, "-o", "/dev/null", "--format", "csv")[0] == 3
        assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
        assert os.path.samestat(os.fstat(null.fileno()), os.stat("/dev/null"))
    status, _, err = kwire("export", rich, "-o", "/dev/full", "--format", "csv")
    assert (status, "No space left" in err) == (1, True)
    with file.open("ab") as more:
        assert kwire("export", rich, "-o", f"/dev/fd/{more.fileno()}", "--format", "csv")[0] == 3
    assert file.read_text() == text * 2


def test_what_is_read_is_never_written(rich: str, tmp_path: Path, kwire: Any) -> None:
    before = Path(rich).read_bytes()
    (tmp_path / "link").symlink_to(rich)
    os.link(rich, tmp_path / "same.png")
    for words in (
        ("export", rich, "-o", rich, "--format", "csv"),
        ("export", rich, "-o", str(tmp_path / "link"), "--format", "csv"),
        ("stats", rich, "--plot", str(tmp_path / "same.png")),
        ("cut", rich, "--from", "+0s", "-w", rich),
        ("merge", rich, "-w", str(tmp_path / "link")),
    ):
        status, _, err = kwire(*words)
        assert (status, "it is one of the captures that are read" in err) == (1, True), words
        assert Path(rich).read_bytes() == before


def test_a_file_for_each_probe_is_one_reading(
    tmp_path: Path, kit: Any, kwire: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many probes there are: the capture is looked at, and read, once."""
    opened: list[Source] = []

    def opening(source: Source, *, once: bool = False) -> Any:
        opened.append(source)
        return plainly(source, once=once)

    plainly = Source.open
    monkeypatch.setattr(Source, "open", opening)
    schemas = [kit.schema(number + 1, f"kprobe:f{number}", (("n", "u32", 1, ""),)) for number in range(40)]
    items = [
        kit.event(schemas[(7 * at) % 40], kit.monotonic + (at ^ 5) * 1000, (at ^ 5,)) for at in range(400)
    ]
    path = kit.write(tmp_path / "many.pcapng", schemas, items)
    for form in ("ndjson", "csv", "trace", "arrows"):
        opened.clear()
        out = tmp_path / form
        status, _, err = kwire("export", path, "-o", f"{out}/", "--format", form)
        assert (status, len(list(out.iterdir())), len(opened)) == (0, 40, 2), err
        assert "400 events written to" in err
    numbers = []
    for file in sorted((tmp_path / "ndjson").iterdir()):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        assert {row["probe"] for row in rows} == {f"kprobe:{file.stem}"}
        times = [row["time_ns"] for row in rows]
        assert times == sorted(times)
        numbers += [row["fields"]["n"] for row in rows]
    assert sorted(numbers) == list(range(400))


def test_lines_need_one_reading(
    rich: str, tmp_path: Path, kwire: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NDJSON needs no tables: the capture is read once, unless times or conditions have to be understood."""
    opened: list[bool] = []
    before = Source.open

    def watched(self: Source, *, once: bool = False) -> Any:
        opened.append(once)
        return before(self, once=once)

    monkeypatch.setattr(Source, "open", watched)
    out = tmp_path / "out.ndjson"
    assert kwire("export", rich, "-o", str(out), "--from", "+0s")[0] == 3
    assert opened == [False, False]
    twice = out.read_text()
    assert kwire("export", rich, "-o", str(out))[0] == 3
    assert opened[2:] == [True]
    assert out.read_text() == twice
    code, _, error = kwire("export", rich, "-o", str(out), "--probe", "nosuch")
    assert (code, "no probe matches 'nosuch'" in error) == (1, True)
    assert out.read_text() == twice
