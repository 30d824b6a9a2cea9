"""Statistics agree with the same counted event by event in Python; reports and pictures are made of them."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kwire.analyze import distribution, latency, timing
from kwire.analyze.capture_summary import CaptureSummary
from kwire.analyze.counts import bit_lengths
from kwire.analyze.distribution import Log2, Top, TopBytes
from kwire.analyze.latency import Calls
from kwire.analyze.report import duration, short, sparkline
from kwire.analyze.scan import Scan
from kwire.analyze.source import Source
from kwire.analyze.stats import Stats
from kwire.analyze.timeline import BINS, FINE, Timeline, grid_of
from kwire.analyze.timing import Timing
from kwire.wire.messages import Cause, Lost

U64 = st.one_of(st.integers(0, (1 << 64) - 1), st.sampled_from([1 << n for n in range(64)]),
                st.sampled_from([(1 << n) - 1 for n in range(65)]))  # fmt: skip
S64 = st.one_of(st.integers(-(1 << 63), (1 << 63) - 1), st.integers(-10, 10))


def bucket(value: int) -> tuple[int, int]:
    if value == 0:
        return (0, 0)
    low = 1 << abs(value).bit_length() - 1
    return (low, 2 * low - 1) if value > 0 else (-2 * low + 1, -low)


@given(st.lists(U64, min_size=1))
def test_bit_lengths_are_pythons(values: list[int]) -> None:
    assert bit_lengths(np.array(values, np.uint64)).tolist() == [value.bit_length() for value in values]


@given(st.lists(st.lists(S64)), st.booleans())
def test_powers_of_two_are_counted_exactly(parts: list[list[int]], weighted: bool) -> None:
    numbers, values = Log2(), [value for part in parts for value in part]
    for part in parts:
        if weighted:
            counts = Counter(part)
            keys = sorted(counts)
            numbers.add(np.array(keys, np.int64), np.array([counts[key] for key in keys], np.int64))
        else:
            numbers.add(np.array(part, np.int64))
    assert numbers.count == len(values)
    assert numbers.total == sum(values)
    assert (numbers.least, numbers.greatest) == (min(values, default=None), max(values, default=None))
    found = {(one.low, one.high): one.count for one in numbers.buckets if one.count}
    assert found == Counter(map(bucket, values))
    if values:
        assert min(values) <= numbers.quantile(0.5) <= max(values)


@given(st.lists(st.lists(U64)))
def test_unsigned_numbers_do_not_overflow(parts: list[list[int]]) -> None:
    numbers = Log2()
    for part in parts:
        numbers.add(np.array(part, np.uint64))
    assert numbers.total == sum(value for part in parts for value in part)


@given(st.lists(st.lists(st.one_of(st.integers(0, 5), U64))))
def test_frequent_integers_are_counted_exactly(parts: list[list[int]]) -> None:
    top, values = Top(), Counter(value for part in parts for value in part)
    for part in parts:
        top.add(np.array(part, np.uint64))
    assert dict(top.items()) == dict(values)
    assert top.most(3) == sorted(values.items(), key=lambda pair: (-pair[1], pair[0]))[:3]


@given(st.lists(st.lists(st.integers(0, 30), max_size=60), max_size=20))
def test_beyond_the_limit_counts_are_near_and_say_so(parts: list[list[int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distribution, "DISTINCT", 8)
        top, values = Top(), Counter(value for part in parts for value in part)
        for part in parts:
            top.add(np.array(part, np.int64))
        found = dict(top.items())
        assert len(found) <= 8
        assert top.exact == (top.error == 0)
        for value, count in values.items():
            assert count - top.error <= found.get(value, 0) <= count


@given(st.lists(st.lists(st.binary(max_size=20)), max_size=6))
def test_frequent_texts_are_counted_exactly(parts: list[list[bytes]]) -> None:
    top = TopBytes()
    values = Counter(value.rstrip(b"\0") for part in parts for value in part)
    for part in parts:
        lengths = np.array([len(value) for value in part], np.uint64)
        top.add(np.frombuffer(b"".join(part), np.uint8), np.cumsum(lengths) - lengths, lengths)
    assert dict(top.most(1000)) == dict(values)
    assert top.distinct == len(values)


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 100_000), min_size=1, max_size=200),
    st.integers(1, 20),
    st.sampled_from([1, 5, 1 << 16]),
)
def test_intervals_and_silences_are_those_between_neighbours(times: list[int], parts: int, held: int) -> None:
    ordered = sorted(times)
    made = Timing()
    made.room = held
    for at in range(parts):
        part = np.array(ordered[at * len(ordered) // parts : (at + 1) * len(ordered) // parts], np.int64)
        if len(part):
            made.add(part)
    made.finish()
    steps = [two - one for one, two in pairwise(ordered)]
    assert (made.intervals.count, made.intervals.total, made.late) == (len(steps), sum(steps), 0)
    assert [gap.last - gap.first for gap in made.gaps] == sorted(steps, reverse=True)[:5]
    grid = grid_of([made.timeline.stretches])
    made.timeline.lay(grid)
    assert made.timeline.counts.tolist() == [
        sum((time - grid.begins) // grid.width == place for time in times) for place in range(grid.bins)
    ]
    assert made.timeline.counts.sum() == len(times)


TIMES = st.lists(
    st.lists(
        st.one_of(S64, st.integers(10**18, 10**18 + 5000)).filter(lambda time: abs(time) < 1 << 63),
        min_size=1,
    )
)


@settings(deadline=None)
@given(TIMES)
def test_counts_over_time_lie_on_one_grid(lots: list[list[int]]) -> None:
    made = [Timeline(), Timeline()]
    for number, lot in enumerate(lots):
        made[number % 2].add(np.array(sorted(lot), np.int64))
    grid = grid_of(one.stretches for one in made)
    assert 1 <= grid.bins <= BINS
    for number, one in enumerate(made):
        one.lay(grid)
        mine = [time for lot in lots[number::2] for time in lot]
        where = Counter((time - grid.begins) // grid.width for time in mine)
        assert one.counts.tolist() == [where[place] for place in range(grid.bins)]
        assert len(one.stretches) <= FINE
    if sum(map(len, lots)):
        times = [time for lot in lots for time in lot]
        assert grid.bins > BINS // 2 or grid.width == 1 or max(times) - min(times) < grid.width * grid.bins


def test_runs_of_two_cpus_are_put_in_order() -> None:
    made = Timing()
    for start in range(0, 1000, 100):
        made.add(np.arange(start, start + 100, 2, dtype=np.int64))
        made.add(np.arange(start + 1, start + 100, 2, dtype=np.int64))
    made.finish()
    assert (made.intervals.count, made.intervals.total, made.late) == (999, 999, 0)
    made.add(np.array([5], np.int64))
    made.finish()
    assert made.late == 1


@pytest.mark.parametrize("step", [1, 3, 50])
def test_times_wait_for_earlier_ones_whatever_parts_they_come_in(step: int) -> None:
    """Connections of one probe, one after the other: each begins long before the one before it has ended."""
    made = Timing()
    made.room = 1000
    for first in range(20):
        times = np.arange(first, 1000, 20, dtype=np.int64)
        for at in range(0, len(times), step):
            made.add(times[at : at + step])
    made.finish()
    assert (made.intervals.count, made.intervals.total, made.late) == (999, 999, 0)
    few = timing.room(1)
    assert few == timing.HELD
    assert all(probes * timing.room(probes) <= timing.ALL for probes in (1, 40, 1000, 2048))
    assert timing.room(10**6) == timing.LEAST


call = st.tuples(st.integers(0, 3), st.booleans())  # thread, begins


@settings(deadline=None)
@given(st.lists(call, max_size=60), st.integers(1, 10), st.sampled_from([0, 4, 1 << 16]))
def test_calls_are_paired_as_a_stack_would(plan: list[tuple[int, bool]], parts: int, held: int) -> None:
    stacks: dict[int, list[int]] = defaultdict(list)
    durations, lonely = [], 0
    for time, (thread, begins) in enumerate(plan):
        if begins:
            stacks[thread].append(time)
        elif stacks[thread]:
            durations.append(time - stacks[thread].pop())
        else:
            lonely += 1
    calls = Calls("f")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "HELD", held)
        patch.setattr(latency, "DEPTH", 100)
        for part in range(parts):
            lot = range(part * len(plan) // parts, (part + 1) * len(plan) // parts)
            for wanted in (True, False):
                some = [(time, plan[time][0]) for time in lot if plan[time][1] == wanted]
                columns = np.array(some, np.int64).reshape(-1, 2)
                calls.add(columns[:, 0], columns[:, 1], begins=wanted)
            calls.pair()
        calls.pair(last=True)
    assert (calls.latency.durations.count, calls.latency.durations.total) == (len(durations), sum(durations))
    assert calls.lonely == lonely
    assert calls.open == sum(map(len, stacks.values()))
    calls.latency.lay(grid_of([calls.latency.stretches]))
    assert calls.latency.heat.sum() == len(durations)


# --- whole captures


@pytest.fixture
def stats(rich: str) -> Stats:
    source = Source(rich)
    return Stats(source, CaptureSummary(source))


def test_fields_are_counted_as_show_prints_them(stats: Stats, rich: str, shown: Any) -> None:
    events = shown(rich, status=3)
    for table in stats.tables:
        mine = [event for event in events if event["probe"] == table.table.probe]
        assert table.events == len(mine)
        for field in table.fields:
            name = field.column.field.name
            values = [event[name] if name in event else event["fields"][name] for event in mine]
            if name == "data":
                assert field.numbers.total == sum(len(value) // 2 for value in values)
                continue
            if name == "numbers":
                values = [value for each in values for value in each]
            expected = Counter(map(str, values))
            assert field.distinct == len(expected), name
            assert {str(value): count for value, count in field.top(1000)} == dict(expected), name
            if field.kind == "int":
                assert (field.numbers.total, field.numbers.count) == (sum(values), len(values))
                assert (field.numbers.least, field.numbers.greatest) == (min(values), max(values))


@pytest.mark.parametrize(("numbers", "events"), [(500, 1 << 14), (5000, 1 << 14), (500, 100)])
def test_many_different_numbers_are_counted_by_powers_of_two(
    tmp_path: Path, kit: Any, numbers: int, events: int
) -> None:
    """However many there are in a block, the first one too, and whether few are in each."""
    schema = kit.schema(1, "kprobe:f", (("n", "u64", 1, ""),))
    values = [number * 7919 for number in range(9000)]
    items = [kit.event(schema, kit.monotonic + at, (value,)) for at, value in enumerate(values)]
    source = Source(kit.write(tmp_path / "a", [schema], items))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kwire.analyze.stats.NUMBERS", numbers)
        patch.setattr("kwire.analyze.distribution.DISTINCT", 2 * numbers)
        patch.setattr("kwire.analyze.stats.Scan", partial(Scan, events_held=events))
        [table] = Stats(source, CaptureSummary(source)).tables
    [field] = table.fields
    assert (field.distinct, field.top()) == (None, [])
    assert (field.numbers.count, field.numbers.total) == (9000, sum(values))
    assert {one.low: one.count for one in field.numbers.buckets if one.count} == Counter(
        bucket(value)[0] for value in values
    )


def test_calls_and_durations_are_found(tmp_path: Path, kit: Any) -> None:
    fields = (("tid", "u32", 1, ""), ("took", "u32", 1, ""))
    specs = ["tracepoint:syscalls:sys_enter_read", "tracepoint:syscalls:sys_exit_read"]
    schemas = [kit.schema(at + 1, spec, fields, units={"took": "us"}) for at, spec in enumerate(specs)]
    items = [
        kit.event(schemas[end], kit.monotonic + 1000 * at + 300 * end, (5, at))
        for at in range(20)
        for end in (0, 1)
    ]
    source = Source(kit.write(tmp_path / "a", schemas, items[:-1]))
    stats = Stats(source, CaptureSummary(source))
    [((key, host), call)] = stats.calls.items()
    assert (key, host, call.name, call.open, call.lonely) == ("syscall read", "box", "read", 1, 0)
    assert (call.latency.durations.count, call.latency.durations.least) == (19, 300)
    assert [table.latencies["took"].durations.greatest for table in stats.tables] == [19_000, 18_000]


@pytest.mark.parametrize("first", ["kprobe", "kretprobe"])
def test_calls_are_paired_whichever_end_is_read_first(tmp_path: Path, kit: Any, first: str) -> None:
    """A window gives one probe after the other, also where that is more than waits for earlier events."""
    kinds = sorted(("kprobe", "kretprobe"), key=lambda kind: kind != first)
    schemas = [kit.schema(at + 1, f"{kind}:f", (("tid", "u32", 1, ""),)) for at, kind in enumerate(kinds)]
    items = [
        kit.event(schemas[kinds.index(kind)], kit.monotonic + 1000 * at + 300 * end, (5,))
        for at in range(200)
        for end, kind in enumerate(("kprobe", "kretprobe"))
    ]
    source = Source(kit.write(tmp_path / "a", schemas, items))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kwire.analyze.stats.PAIRED", 100)
        patch.setattr("kwire.analyze.latency.HELD", 8)
        patch.setattr("kwire.analyze.stats.Scan", partial(Scan, events_held=80))
        [call] = Stats(source, CaptureSummary(source)).calls.values()
    assert (call.open, call.lonely, call.latency.durations.count) == (0, 0, 200)


def test_the_object_has_what_was_counted(rich: str, kwire: Any, shown: Any) -> None:
    status, out, _ = kwire("stats", rich, "--json")
    told = json.loads(out)
    assert status == 3
    assert (told["events"], told["lost"], told["errors"], told["frames"], told["packets"]) == (
        60,
        7,
        {},
        63,
        63,
    )
    assert [(probe["probe"], probe["events"], probe["lost"]) for probe in told["probes"]] == [
        ("kprobe:vfs_open(path)", 30, 7), ("tracepoint:syscalls:sys_enter_openat", 30, 0),
    ]  # fmt: skip
    [hole] = told["holes"]
    assert (hole["count"], hole["cpu"], hole["cause"]) == (7, 1, "the ring buffer was full")
    assert sum(told["probes"][0]["timeline"]["counts"]) == 30
    status, out, _ = kwire(
        "stats", rich, "--json", "--probe", "kprobe:*", "--where", "cpu == 0", "--from", "+20us"
    )
    [probe] = json.loads(out)["probes"]
    chosen = shown(rich, "--probe", "kprobe:*", "--where", "cpu == 0", status=3)
    late = [event for event in chosen if event["time_ns"] >= told["begins"] + 20_000]
    assert probe["events"] == len(late) > 0


def test_errors_are_counted_by_name(rich: str, tmp_path: Path, kwire: Any) -> None:
    data = bytearray(Path(rich).read_bytes())
    at = data.rindex(bytes([0x11, 0]))  # the last EVENT: a type that is reserved
    data[at] = 0x1F
    damaged = tmp_path / "damaged"
    damaged.write_bytes(data)
    status, out, err = kwire("stats", str(damaged), "--json")
    told = json.loads(out)
    assert status == 3
    assert told["errors"] == {"BAD_TYPE": 1}
    assert (told["packets"], told["frames"], told["events"]) == (63, 62, 59)
    assert "1 packet without a sound frame" in err
    assert "BAD_TYPE 1" in kwire("stats", str(damaged))[1]


def test_the_report_is_for_people(rich: str, kwire: Any) -> None:
    status, out, err = kwire("stats", rich)
    assert status == 3
    lines = out.splitlines()
    assert lines[1].startswith("  63 packets, 63 frames, 60 events in ")
    assert "kprobe:vfs_open on box" in lines
    assert any("30 events, 7 lost; " in line for line in lines)
    assert any("longest silence" in line for line in lines)
    assert "  lump: 30 different" in lines
    assert any(line.split()[:3] == ["c0", "15", "50.0"] for line in lines)
    assert lines[-1].endswith("7 of kprobe:vfs_open: the ring buffer was full")
    assert max(map(len, lines)) <= 100
    assert err == f"kwire: {rich}: 7 events are lost; 'kwire verify' names the holes\n"


@pytest.mark.parametrize("extension", ["png", "svg"])
def test_pictures_are_drawn(rich: str, tmp_path: Path, kwire: Any, extension: str) -> None:
    out = tmp_path / f"out.{extension}"
    status, _, err = kwire("stats", rich, "--plot", str(out))
    assert status == 3, err
    data = out.read_bytes()
    if extension == "png":
        assert data.startswith(b"\x89PNG")
        assert int.from_bytes(data[16:20], "big") > 800
    else:
        from xml.etree.ElementTree import fromstring

        texts = {node.text for node in fromstring(data).iter() if node.text}
        assert {"events a second", "top talkers: events by comm", "c0", "events lost"} <= texts
    again = tmp_path / f"again.{extension}"
    kwire("stats", rich, "--plot", str(again))
    assert again.read_bytes() == data


def test_names_of_a_hostile_capture_are_no_markup(tmp_path: Path, kit: Any, kwire: Any) -> None:
    schema = kit.schema(1, "kprobe:$\\frac{1}{0}$<b>\x1b", (("comm", "str", 1, ""), ("$x$", "u32", 1, "")))
    path = kit.write(tmp_path / "a", [schema], [kit.event(schema, 1, (b"$\\badmarkup{<&>$", 1))])
    status, out, err = kwire("stats", path, "--plot", str(tmp_path / "x.svg"))
    assert (status, err) == (0, "")
    assert all(line.isprintable() for line in out.splitlines())
    assert "$\\badmarkup{&lt;&amp;&gt;$" in (tmp_path / "x.svg").read_text()


@pytest.mark.parametrize("arguments", [[], ["--json"], ["--plot", "{}/x.png"]])
def test_a_capture_without_events_has_statistics(
    tmp_path: Path, kit: Any, kwire: Any, arguments: list[str]
) -> None:
    for schemas in ([kit.schema()], []):
        path = kit.write(tmp_path / f"a{len(schemas)}", schemas, [])
        status, out, err = kwire("stats", path, *(word.format(tmp_path) for word in arguments))
        assert (status, err) == (0, "")
        assert out
    only = kit.write(tmp_path / "lost", [kit.schema()], [Lost(1, 0, 0, 5, 0, Cause.MISSED)])
    assert kwire("stats", only, *(word.format(tmp_path) for word in arguments))[0] == 3


def test_impossible_times_are_counted(tmp_path: Path, kit: Any, kwire: Any) -> None:
    schema = kit.schema(1, "kprobe:f", (("n", "u32", 1, ""),))
    items = [kit.event(schema, time, (1,)) for time in (0, (1 << 64) - 1, 1 << 63)]
    path = kit.write(tmp_path / "a", [schema], items)
    for verb in (
        ["stats"],
        ["stats", "--json"],
        ["query", "select count(*), max(time_ns) from events"],
        ["show"],
    ):
        status, out, err = kwire(verb[0], path, *verb[1:])
        assert status == 0, err
    status, out, _ = kwire("stats", path, "--json", "--plot", str(tmp_path / "x.png"))
    assert json.loads(out)["events"] == 3


def test_a_file_that_is_no_picture_is_refused(rich: str, tmp_path: Path, kwire: Any) -> None:
    status, _, err = kwire("stats", rich, "--plot", str(tmp_path / "x.gif"))
    assert status == 1
    assert "'.gif' is no picture; write FILE.png or FILE.svg" in err


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (1.5, "1.5"), (999, "999"), (1000, "1k"), (12_345_678, "12.3M"), (1 << 64, "18.4E")],
)
def test_numbers_are_short(number: float, text: str) -> None:
    assert short(number) == text


@pytest.mark.parametrize(
    ("ns", "text"), [(0, "0"), (1, "1 ns"), (1500, "1.5 µs"), (250_000_000, "250 ms"), (90 * 10**9, "90 s")]
)
def test_durations_have_their_unit(ns: float, text: str) -> None:
    assert duration(ns) == text


def test_sparklines_are_to_scale() -> None:
    assert sparkline([0, 1, 8, 4], 4) == " ▁█▄"
    assert sparkline([0, 0], 2) == "  "
    assert sparkline([1] * 7, 3) == "███"


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_of_equal_silences_the_first_are_told(step: int) -> None:
    """Whatever blocks the times come in: those that C and twin give differ."""
    times = np.concatenate([np.arange(0, 3000, 10), np.arange(3005, 6000, 10), [6100, 6200]])
    made = Timing()
    for start in range(0, len(times), step):
        made.add(times[start : start + step])
    made.finish()
    expected = [(6100, 6200), (5995, 6100), (2990, 3005), (0, 10), (10, 20)]
    assert sorted(made.gaps) == sorted(expected)
    assert [last - first for first, last in made.gaps] == [105, 100, 15, 10, 10]
