"""`kwire.open`: the same events as objects, columns, Arrow tables and data frames."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kwire
from kwire.analyze.order import ordered

Shown = Callable[..., list[dict[str, Any]]]


def test_events_are_objects_in_order_of_time(rich: str, shown: Shown) -> None:
    with kwire.open(rich) as capture:
        events = list(capture)
    expected = shown(rich, status=3)
    assert [event.time_ns for event in events] == [event["time_ns"] for event in expected]
    assert [(event.probe, event.pid, event.comm, event.big) for event in events] == [
        (event["probe"], event["pid"], event["comm"], event["fields"]["big"]) for event in expected
    ]
    assert all(isinstance(event, kwire.Event) for event in events)


@pytest.mark.parametrize(
    ("choice", "arguments"),
    [
        ({"probe": "*openat"}, ["--probe", "*openat"]),
        ({"where": "state == 'RUNNING'"}, ["--where", "state == 'RUNNING'"]),
        ({"where": "numbers[0] > 2 and pid < 102"}, ["--where", "numbers[0] > 2 and pid < 102"]),
        ({"probe": "kprobe:*", "where": "cpu == 1"}, ["--probe", "kprobe:*", "--where", "cpu == 1"]),
    ],
)
def test_choices_are_those_of_show(
    rich: str, shown: Shown, choice: dict[str, Any], arguments: list[str]
) -> None:
    events = kwire.open(rich).events(**choice)
    assert [event.time_ns for event in events] == [
        event["time_ns"] for event in shown(rich, *arguments, status=3)
    ]


def test_a_range_of_time_has_both_ends(rich: str) -> None:
    capture = kwire.open(rich)
    times = [event.time_ns for event in capture]
    assert [event.time_ns for event in capture.events(first=times[3], last=times[9])] == times[3:10]


def test_columns_are_the_events_fields(rich: str) -> None:
    capture = kwire.open(rich)
    events = list(capture.events("*openat"))
    columns = capture.columns("*openat")
    for name in ("pid", "big", "small", "state", "address"):
        assert columns[name].tolist() == [getattr(event, name) for event in events]
    assert columns["comm"].tolist() == [event.comm.encode() for event in events]
    assert columns["time_ns"].tolist() == [event.time_ns for event in events]
    assert columns["numbers"].shape == (30, 3)
    assert columns["big"].dtype == np.uint64
    assert len(capture.columns("*openat", where="pid == 5")["pid"]) == 0


def test_frames_and_tables_agree(rich: str) -> None:
    capture = kwire.open(rich)
    table, pandas, polars = capture.arrow("*openat"), capture.pandas("*openat"), capture.polars("*openat")
    assert table.num_rows == len(pandas) == polars.height == 30
    assert table["big"].to_pylist() == pandas["big"].tolist() == polars["big"].to_list()
    assert pandas["big"].dtype == np.uint64
    assert str(pandas["time"].dtype) == "datetime64[ns, UTC]"
    assert pandas["time"].astype("int64").tolist() == table["time_ns"].to_pylist()
    assert polars["comm"].to_list() == table["comm"].to_pylist()
    assert sum(batch.num_rows for batch in capture.batches("*openat")) == 30
    assert capture.query("select sum(pid) as s from sys_enter_openat").to_pylist() == [
        {"s": int(pandas["pid"].sum())}
    ]


def test_integers_are_not_copied_into_arrow(rich: str) -> None:
    from kwire.analyze import arrow

    capture = kwire.open(rich)
    [block] = capture.blocks("*openat")
    values = arrow.Values(block)
    column = next(one for one in capture._tables().all[1].columns if one.name == "big")
    made = values.column(column)
    assert made.buffers()[1].address == values._raw["big"].__array_interface__["data"][0]
    polars = __import__("polars")
    frame = polars.from_arrow(capture.arrow("*openat"))
    assert frame.height == 30


def test_what_the_capture_says_of_itself(rich: str) -> None:
    capture = kwire.open(rich)
    assert [(seen.schema.probe, seen.events, seen.lost, seen.produced) for seen in capture.probes] == [
        ("kprobe:vfs_open(path)", 30, 7, 37),
        ("tracepoint:syscalls:sys_enter_openat", 30, 0, 30),
    ]
    [(schema, loss)] = capture.losses
    assert schema is not None
    assert (schema.id, loss.count) == (1, 7)
    report = capture.verify()
    assert not report.complete
    assert [hole.count for hole in report.holes] == [7]


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda capture: capture.arrow(), "2 probes match; name one of: kprobe:vfs_open"),
        (lambda capture: capture.columns("nosuch"), "no probe matches; name one of: kprobe"),
        (lambda capture: list(capture.events("nosuch")), "no probe matches 'nosuch'"),
        (lambda capture: list(capture.events(where="pids == 1")), "did you mean pid"),
        (lambda capture: capture.query("select"), "selection list"),
    ],
)
def test_mistakes_say_what_there_is(rich: str, ask: Callable[[Any], Any], says: str) -> None:
    with pytest.raises(kwire.KwireError, match=says):
        ask(kwire.open(rich))


def test_no_capture_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(kwire.KwireError, match="No such file"):
        kwire.open(str(tmp_path / "none"))
    (tmp_path / "x").write_bytes(b"this is no capture at all, whatever it is")
    with pytest.raises(kwire.KwireError):
        list(kwire.open(str(tmp_path / "x")))


def test_opening_is_light() -> None:
    import subprocess
    import sys

    program = (
        "import kwire, sys; kwire.open; print(sorted({'numpy', 'pyarrow', 'duckdb'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_order_holds_as_far_as_the_window_reaches(tmp_path: Path, kit: Any) -> None:
    fields = (("n", "u32", 1, ""),)
    schemas = [kit.schema(number, f"kprobe:p{number}", fields) for number in (1, 2)]
    times = [*range(0, 400, 2), *range(1, 400, 2)]  # two runs, as two CPUs leave them
    items = [kit.event(schemas[time % 2], kit.monotonic + time, (time,)) for time in times]
    capture = kwire.open(kit.write(tmp_path / "a", schemas, items))
    assert [event.n for event in capture] == list(range(400))
    small = [time - kit.wall for _, _, time in ordered(capture.blocks(), 10)]
    assert small == list(range(400))  # they were read together
    apart = [block._replace(round=object()) for block in capture.blocks()]
    small = [time - kit.wall for _, _, time in ordered(apart, 10)]
    assert small != list(range(400)) == sorted(small)


def test_what_was_read_together_is_in_order_however_much_it_is(tmp_path: Path, kit: Any) -> None:
    """One probe's events come before another's, more of them than wait."""
    schemas = [kit.schema(number, f"kprobe:p{number}", (("n", "u32", 1, ""),)) for number in (1, 2)]
    items = [kit.event(schemas[time % 4 == 3], kit.monotonic + time, (time,)) for time in range(1000)]
    capture = kwire.open(kit.write(tmp_path / "a", schemas, items))
    found = [time - kit.wall for _, _, time in ordered(capture.blocks(), 20)]
    assert found == list(range(1000))
