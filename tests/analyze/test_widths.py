"""Numbers of every width and sign, and times at the ends of 64 bits, through statistics and exports."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from kwire.analyze import arrow
from kwire.analyze.distribution import DISTINCT, Log2, Top, counted
from kwire.analyze.latency import Latency
from kwire.analyze.timeline import Timeline, grid_of
from kwire.analyze.timing import stretches
from kwire.view.text import WallClock
from kwire.wire.schema import Clock

SIZES = {"u8": 8, "u16": 16, "u32": 32, "u64": 64, "s8": 8, "s16": 16, "s32": 32, "s64": 64}


def ends(kind: str) -> tuple[int, int]:
    bits = SIZES[kind]
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if kind[0] == "s" else (0, (1 << bits) - 1)


@pytest.mark.parametrize("kind", SIZES)
def test_statistics_of_every_width(kind: str, tmp_path: Path, kit: Any, kwire: Any) -> None:
    low, high = ends(kind)
    values = [low, low + 1, high, high, high - 1, *range(max(low, -60), min(high, 200))]
    schema = kit.schema(1, "kprobe:f", (("v", kind, 1, ""),))
    events = [kit.event(schema, kit.monotonic + at, (value,)) for at, value in enumerate(values)]
    path = kit.write(tmp_path / "a.pcapng", [schema], events)
    status, out, _ = kwire("stats", path, "--json")
    assert status == 0
    [field] = json.loads(out)["probes"][0]["fields"]
    numbers = field["numbers"]
    assert (numbers["least"], numbers["greatest"]) == (low, high)
    assert (numbers["count"], numbers["sum"]) == (len(values), sum(values))
    assert numbers["mean"] == pytest.approx(sum(values) / len(values))
    assert sum(bucket["count"] for bucket in numbers["histogram"]) == len(values)
    assert field["distinct"] == len(set(values))
    assert {"value": high, "count": values.count(high)} in field["top"]
    status, out, _ = kwire(
        "query", path, "--json", "select min(v) low, max(v) high, sum(v)::hugeint s from f"
    )
    assert (status, json.loads(out)) == (0, {"low": low, "high": high, "s": sum(values)})


def test_the_ends_of_one_byte_are_minus_and_plus_one_hundred(tmp_path: Path, kit: Any, kwire: Any) -> None:
    schema = kit.schema(1, "tracepoint:a:b", (("v", "s8", 1, ""),))
    events = [kit.event(schema, kit.monotonic + at, (value,)) for at, value in enumerate((-100, 100))]
    status, out, _ = kwire("stats", kit.write(tmp_path / "a", [schema], events))
    assert status == 0
    assert "  v: 2 different, -100 to 100, mean 0" in out


@pytest.mark.parametrize("kind", SIZES)
def test_values_are_counted_and_named_by_their_places(kind: str) -> None:
    np = pytest.importorskip("numpy")
    low, high = ends(kind)
    for values in ([low, high, low], [low, low + 100, low + 100], [high - 200 if high > 200 else 0, high]):
        array = np.array(values, kind.replace("s", "int").replace("u", "uint"))
        keys, counts = counted(array)
        assert dict(zip(keys.tolist(), counts.tolist(), strict=True)) == {
            value: values.count(value) for value in values
        }
        assert keys.dtype == array.dtype
        distinct, where = arrow.factorize(array)
        assert [distinct[at] for at in where.tolist()] == values
        log = Log2()
        log.add(array)
        assert (log.least, log.greatest, log.total) == (min(values), max(values), sum(values))


def test_more_values_than_are_told_apart_keep_their_ends() -> None:
    np = pytest.importorskip("numpy")
    top = Top()
    values = np.arange(-DISTINCT, DISTINCT, dtype=np.int16)
    top.add(values)
    top.add(np.full(50, -3, np.int16))
    assert not top.exact
    assert top.most(1)[0][0] == -3


def test_times_at_both_ends_of_64_bits() -> None:
    np = pytest.importorskip("numpy")
    least, greatest = -(1 << 63), (1 << 63) - 1
    times = np.array([least, -1, 0, greatest], np.int64)
    assert stretches(times, least, 1 << 63).tolist() == [0, 0, 1, 1]
    assert stretches(times, 0, 1).tolist() == [0, 0, 0, greatest]
    assert stretches(times, least - 5, 1 << 70).tolist() == [0] * 4
    timeline, latency = Timeline(), Latency()
    timeline.add(times)
    latency.add(times, np.array([0, 1, 1 << 63, (1 << 64) - 1], np.uint64))
    grid = grid_of([timeline.stretches, latency.stretches])
    assert (grid.begins, grid.begins + grid.width * grid.bins >= greatest) == (least, True)
    timeline.lay(grid)
    latency.lay(grid)
    assert timeline.counts.sum() == 4
    assert [timeline.counts[0], timeline.counts[-1]] == [1, 1]
    for edge in (least, greatest):
        one = Timeline()
        one.add(np.array([edge, edge], np.int64))
        one.lay(grid_of([one.stretches]))
        assert one.counts.tolist() == [2]
    assert latency.heat.sum() == 4


@pytest.mark.parametrize(
    "clock", [Clock("monotonic", 0, (1 << 64) - 1), Clock("monotonic", (1 << 64) - 1, 0), None]
)
def test_clocks_that_leave_64_bits(clock: Clock | None, tmp_path: Path, kit: Any, kwire: Any) -> None:
    """What is beyond what 64 bits hold is at their end, and every verb that asks for times lives with it."""
    schema = kit.schema(1, "kprobe:f", (("v", "u32", 1, ""),))._replace(clock=clock)
    events = [
        struct.pack(">BBHI", 0x11, 0, 24, 1) + struct.pack("<QII", time, 1, 0)
        for time in (0, 1, 1 << 63, (1 << 64) - 1)
    ]
    path = kit.write(tmp_path / "a.pcapng", [schema], events)
    for words in (
        ("stats",),
        ("query", "select count(*), min(time_ns), max(time_ns) from f"),
        ("query", "select * from probes"),
        ("show",),
    ):
        status, _, err = kwire(words[0], path, *words[1:])
        assert status == 0, (words, err)
    status, _, err = kwire("split", path, "--by", "time=5000h", "-w", str(tmp_path / "parts"))
    assert status == 0 or "too many" in err
    status, _, err = kwire("cut", path, "--from", "+1ns", "-w", str(tmp_path / "cut.pcapng"))
    assert status == 0, err


def test_an_impossible_moment_is_said() -> None:
    assert WallClock().moment(1 << 80)
