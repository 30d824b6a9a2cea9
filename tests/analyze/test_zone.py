"""One time zone for a verb: what it prints, stores as text, takes in conditions; UTC where asked for."""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kwire.analyze.zone import local_text, local_time, local_times
from kwire.view.text import WallClock, offset_text

SPRING = 1_711_846_800 * 10**9  # 2024-03-31 01:00:00 UTC: Berlin goes from +01:00 to +02:00
AUTUMN = 1_729_990_800 * 10**9  # 2024-10-27 01:00:00 UTC: and back


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def spring(tmp_path: Path, kit: Any) -> str:
    """An event a second before Berlin's clocks are set, and one a second after."""
    schema = kit.schema(1, "kprobe:f", (("pid", "u32", 1, ""),), wall=SPRING)
    times = (kit.monotonic - 10**6 + 1, kit.monotonic + 10**9)
    items = [kit.event(schema, at, (7,)) for at in times]
    return str(kit.write(tmp_path / "spring.pcapng", [schema], items))


@pytest.mark.usefixtures("berlin")
def test_moments_are_shifted_each_by_its_own_offset() -> None:
    times = np.array([SPRING - 1, SPRING, AUTUMN - 1, AUTUMN, -(1 << 63), (1 << 63) - 1], np.int64)
    hours = [
        (int(one) - int(two)) // 3_600_000_000_000 for one, two in zip(local_times(times), times, strict=True)
    ]
    assert hours[:4] == [1, 2, 2, 1]
    assert [local_time(int(one)) for one in times[:4]] == local_times(times)[:4].tolist()
    assert local_time(None) is None
    assert local_times(times[:0]).tolist() == []
    assert local_text("2024-03-31 01:59:59.999999999") == "2024-03-31 01:59:59.999999999+01:00"
    assert local_text("2024-03-31 03:00:00") == "2024-03-31 03:00:00+02:00"
    assert local_text("not a time") == "not a time"


def test_offsets_are_written_as_iso_8601_does() -> None:
    assert [offset_text(seconds) for seconds in (0, 19_800, -12_600)] == ["+00:00", "+05:30", "-03:30"]


@pytest.mark.usefixtures("berlin")
def test_a_day_in_which_clocks_are_set_ends_there() -> None:
    clock = WallClock()
    assert SPRING not in clock.day(SPRING - 1)
    assert SPRING - 1 in clock.day(SPRING - 1)
    assert clock.moment(SPRING - 1) == "2024-03-31 01:59:59.999999999+01:00"
    assert clock.moment(SPRING) == "2024-03-31 03:00:00.000000000+02:00"


@pytest.mark.usefixtures("berlin")
def test_all_verbs_say_the_same_time(spring: str, kwire: Any, tmp_path: Path) -> None:
    pytest.importorskip("duckdb")
    for options, dates, times in (
        ((), ["+01:00", "+02:00"], ["01:59:59.999000001+01:00", "03:00:01.000000000+02:00"]),
        (("--utc",), ["+00:00"], ["00:59:59.999000001+00:00", "01:00:01.000000000+00:00"]),
    ):
        moments = [f"2024-03-31 {one}" for one in times]
        shown = kwire("show", spring, *options)[1].splitlines()
        assert [line.replace(", kprobe:f", "") for line in shown if line.startswith("--")] == [
            f"-- 2024-03-31 {one} --" for one in dates
        ]
        assert [line[:18] for line in shown if line[:1].isdigit()] == [one[:18] for one in times]
        assert f"from {moments[0]} to {moments[1]}" in kwire("stats", spring, *options)[1]
        rows = kwire("query", spring, *options, "--json", "SELECT time FROM f ORDER BY time_ns")[1]
        assert [json.loads(row)["time"] for row in rows.splitlines()] == moments
        out = tmp_path / "out.csv"
        kwire("export", spring, *options, "-o", str(out))
        with out.open(newline="") as file:
            assert [row["time"] for row in csv.DictReader(file)] == moments
        since = times[1].partition("+")[0]
        one = kwire("query", spring, *options, "--from", since, "SELECT count(*) AS n FROM f")[1]
        assert one.split() == ["n", "1"]
        sql = f"SELECT count(*) AS n FROM f WHERE time < '{moments[1][:29]}'"
        assert kwire("query", spring, *options, sql)[1].split() == ["n", "1"]
        piece = str(tmp_path / "piece.pcapng")
        status, _, said = kwire("cut", spring, *options, "--from", moments[1], "-w", piece)
        assert (status, said.split(",")[0]) == (0, "1 event of 2")
    assert os.environ["TZ"] == "Europe/Berlin"


@pytest.mark.usefixtures("berlin")
def test_arrow_has_moments_that_say_their_zone(spring: str, tmp_path: Path, kwire: Any) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    kwire("export", spring, "-o", str(tmp_path / "out.parquet"))
    table = pq.read_table(tmp_path / "out.parquet")
    assert str(table["time"].type) == "timestamp[ns, tz=UTC]"
    assert (
        table["time"].cast("int64").to_pylist()
        == table["time_ns"].to_pylist()
        == [SPRING - 999_999, SPRING + 10**9]
    )
