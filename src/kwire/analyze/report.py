"""Statistics as text for people and as one object for programs.

Invariants: every line is safe for a terminal and fits its width; bars and sparklines are drawn to scale; the
object has the same numbers, exactly. Rates are events a second; times are wall clock.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final

from kwire.analyze.distribution import Bucket, Log2
from kwire.analyze.latency import Calls
from kwire.analyze.stats import FieldStats, Stats, TableStats
from kwire.analyze.timeline import BINS
from kwire.view.table import cause_text, lost_of
from kwire.view.text import UNREAD, Style, WallClock, fit, safe
from kwire.words import plural

SPARKS: Final = " ▁▂▃▄▅▆▇█"
BAR: Final = 40  # characters of the longest bar
VALUES: Final = 6  # frequent values shown of a field
WIDTH: Final = 100  # of a line where nobody says
#: Numbers that name something: how large they are means nothing, how often each is there does.
NAMES: Final = frozenset({"pid", "tid", "ppid", "uid", "gid", "cpu", "cgroup", "fd"})
BOLD, CYAN, RED, DIM = "1", "36", "31", "2"

_NS: Final = ((1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "µs"), (1, "ns"))
_SI: Final = ((10**18, "E"), (10**15, "P"), (10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"))


def duration(ns: float) -> str:
    """A duration with its best unit: `1.25 ms`."""
    for size, unit in _NS:
        if abs(ns) >= size:
            return f"{ns / size:.3g} {unit}" if ns / size < 1000 else f"{ns / size:,.0f} {unit}"
    return f"{ns:.3g} ns" if ns else "0"


def short(number: float) -> str:
    """A number in a few characters: 12.3k."""
    for size, unit in _SI:
        if abs(number) >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}" if isinstance(number, float) else str(number)


def sparkline(counts: Sequence[int], width: int) -> str:
    """Counts as a line of `width` blocks: the greatest is full, what is not 0 can be seen."""
    width = max(1, min(width, len(counts)))
    edges = [at * len(counts) // width for at in range(width + 1)]
    means = [sum(counts[one:two]) / max(two - one, 1) for one, two in pairwise(edges)]
    most = max(means)
    if not most:
        return " " * width
    return "".join(SPARKS[math.ceil(mean * (len(SPARKS) - 1) / most)] for mean in means)


def lines(stats: Stats, style: Style) -> Iterator[str]:
    """The report, line by line."""
    width = style.width or WIDTH
    capture_summary, clock = stats.capture_summary, WallClock()
    yield style.paint(fit(safe(stats.name), width), BOLD)
    events, time = stats.scan.events, duration(stats.last - stats.first)
    packets, frames = plural(capture_summary.packets, "packet"), plural(capture_summary.frames, "frame")
    yield f"  {packets}, {frames}, {plural(events, 'event')} in {time}"
    if events:
        first, last = clock.moment(stats.first), clock.moment(stats.last)
        yield f"  from {first} to {last}"
    if capture_summary.errors:
        told = ", ".join(f"{name} {count:,}" for name, count in sorted(capture_summary.errors.items()))
        yield style.paint(fit(f"  errors: {told}", width), RED)
    for table in stats.tables:
        yield ""
        yield from _table(table, stats, style, width)
    for (key, host), call in stats.calls.items():
        yield ""
        yield from _call(key, host, call, style, width)
    if stats.maps:
        yield ""
        names = ", ".join(map(safe, stats.maps))
        yield fit(f"maps: {names} ('kwire show' prints them, in 'kwire query' each is a table)", width)
    losses = list(stats.scan.losses.holes())
    if losses:
        yield ""
        yield style.paint(f"{plural(stats.scan.losses.total, 'event')} lost", RED)
        for hole in losses[:10]:
            loss = hole.loss
            when = "at an unknown time" if hole.first is None else clock.moment(hole.first)
            cpu = "" if hole.cpu is None else f", CPU {hole.cpu}"
            probe = lost_of(hole.schema, loss.cause)
            yield fit(f"  {when}{cpu}: {loss.count:,} of {probe}: {cause_text(loss.cause)}", width)
        if len(losses) > 10:
            yield f"  and {plural(len(losses) - 10, 'hole')} more; 'kwire verify' names them"


def _table(table: TableStats, stats: Stats, style: Style, width: int) -> Iterator[str]:
    host = f" on {safe(table.host)}" if table.host else ""
    yield style.paint(fit(f"{safe(table.table.probe.split('(', 1)[0])}{host}", width), CYAN)
    seconds = max(stats.last - stats.first, 1) / 1e9
    lost = f", {table.lost:,} lost" if table.lost else ""
    timing = table.timing
    rate = f"{short(table.events / seconds)}/s, at most {short(timing.timeline.peak)}/s"
    yield f"  {plural(table.events, 'event')}{lost}; {rate}"
    if not table.events:
        return
    spark = sparkline(timing.timeline.counts.tolist(), min(width - 4, BINS // 2))
    yield f"  {style.paint(spark, CYAN)}"
    gap = timing.gaps[0] if timing.gaps else None
    if gap is not None and timing.intervals.count:
        clock = WallClock()
        longest = f"longest silence {duration(gap.last - gap.first)} at {clock.time(gap.first)}"
        yield f"  between events: {duration(timing.intervals.mean)} on average; {longest}"
        yield from _histogram(timing.intervals, width, duration, "    ")
    for field in table.fields:
        yield from _field(field, table.events, width)


def _field(field: FieldStats, events: int, width: int) -> Iterator[str]:
    numbers, top = field.numbers, field.top()
    unit = safe(field.column.field.unit)
    name = safe(field.column.name) + (f" ({unit})" if unit else "")
    if field.distinct == 1 and top:
        yield fit(f"  {name}: always {_value(top[0][0])}", width)
        return
    said = [] if field.distinct is None else [f"{field.distinct:,} different"]
    is_name = field.kind != "int" or field.column.field.name in NAMES
    if field.kind == "bytes":
        said.append("lengths")
    if numbers.count and (field.kind == "bytes" or not is_name):
        said.append(f"{numbers.least:,} to {numbers.greatest:,}, mean {short(numbers.mean)}")
    yield fit(f"  {name}: {', '.join(said) or 'many different'}", width)
    few = field.distinct is not None and field.distinct <= 2 * VALUES
    if top and (few or is_name):
        yield from _frequent(field, top, events, width)
    elif numbers.count:
        yield from _histogram(numbers, width, short, "    ")


def _frequent(field: FieldStats, top: list[tuple[Any, int]], events: int, width: int) -> Iterator[str]:
    """A line a frequent value."""
    shown, most = [(_value(value), count) for value, count in top[:VALUES]], top[0][1]
    longest = max(len(value) for value, _ in shown)
    about = "≥" if field.error else " "
    room = max(8, min(BAR, width - longest - 28))
    for value, count in shown:
        bar = "█" * max(1, count * room // most)
        yield f"    {value:<{longest}} {about}{count:>12,} {count * 100 / max(events, 1):5.1f} %  {bar}"
    if field.distinct is None or field.distinct > VALUES:
        yield "    …"


def _value(value: Any) -> str:
    return UNREAD if value is None else fit(safe(str(value)), 40) or '""'


def _histogram(numbers: Log2, width: int, show: Any, indent: str) -> Iterator[str]:
    """A line a power of two; long tails of empty ones are left out."""
    buckets = numbers.buckets
    if not buckets:
        return
    most = max(bucket.count for bucket in buckets)
    names = [_range(bucket, show) for bucket in buckets]
    longest = max(map(len, names))
    room = max(8, min(BAR, width - longest - len(indent) - 16))
    for name, bucket in zip(names, buckets, strict=True):
        bar = "█" * (bucket.count * room // most) or ("▏" if bucket.count else "")
        yield f"{indent}{name:>{longest}} {bucket.count:>12,}  {bar}".rstrip()


def _range(bucket: Bucket, show: Any) -> str:
    return show(bucket.low) if bucket.low == bucket.high else f"{show(bucket.low)} …"


def _call(key: str, host: str, call: Calls, style: Style, width: int) -> Iterator[str]:
    found = call.latency.durations
    where = f" on {safe(host)}" if host else ""
    yield style.paint(fit(f"{safe(key)}{where}: from beginning to end", width), CYAN)
    parts = [f"{name} {duration(found.quantile(part))}" for name, part in (("median", 0.5), ("99 %", 0.99))]
    parts.append(f"longest {duration(found.greatest or 0)}")
    yield f"  {plural(found.count, 'call')}; mean {duration(found.mean)}, {', '.join(parts)}"
    if call.open or call.lonely:
        yield f"  {call.open:,} did not end, {plural(call.lonely, 'end')} had no beginning"
    yield from _histogram(found, width, duration, "    ")


def as_object(stats: Stats) -> dict[str, Any]:
    """The same for programs."""
    capture_summary = stats.capture_summary
    return {
        "capture": stats.name,
        "packets": capture_summary.packets,
        "frames": capture_summary.frames,
        "errors": dict(sorted(capture_summary.errors.items())),
        "problem": capture_summary.problem,
        "events": stats.scan.events,
        "lost": stats.scan.losses.total,
        "undecodable": capture_summary.undecodable,
        "begins": stats.first,
        "ends": stats.last,
        "probes": [_table_object(table, stats) for table in stats.tables],
        "calls": [
            {"call": key, "host": host, "open": call.open, "lonely": call.lonely}
            | _numbers(call.latency.durations)
            for (key, host), call in stats.calls.items()
        ],
        "holes": [
            {
                "probe": hole.probes[0] if len(hole.probes) == 1 else None,
                "probes": list(hole.probes),
                "host": hole.schema.host if hole.schema else None,
                "first": hole.first,
                "last": hole.last,
                "cpu": hole.cpu,
                "count": hole.loss.count,
                "cause": cause_text(hole.loss.cause),
            }
            for hole in stats.scan.losses.holes()
        ],
    }


def _table_object(table: TableStats, stats: Stats) -> dict[str, Any]:
    timing, seconds = table.timing, max(stats.last - stats.first, 1) / 1e9
    firsts = [seen.first for seen in table.seen if seen.first is not None]
    lasts = [seen.last for seen in table.seen if seen.last is not None]
    return {
        "probe": table.table.probe,
        "table": table.table.name,
        "host": table.host,
        "events": table.events,
        "lost": table.lost,
        "produced": table.produced,
        "first": min(firsts, default=None),
        "last": max(lasts, default=None),
        "rate": {"mean": table.events / seconds, "peak": timing.timeline.peak},
        "timeline": {
            "begins": timing.timeline.grid.begins,
            "width": timing.timeline.grid.width,
            "counts": timing.timeline.counts.tolist(),
        },
        "intervals": _numbers(timing.intervals),
        "gaps": [{"first": gap.first, "last": gap.last} for gap in timing.gaps],
        "fields": [_field_object(field) for field in table.fields],
    }


def _field_object(field: FieldStats) -> dict[str, Any]:
    told: dict[str, Any] = {
        "name": field.column.field.name,
        "type": field.column.field.type,
        "unit": field.column.field.unit,
        "distinct": field.distinct,
        "top": [{"value": value, "count": count} for value, count in field.top()],
        "error": field.error,
    }
    if field.numbers.count:
        told["length" if field.kind == "bytes" else "numbers"] = _numbers(field.numbers)
    return told


def _numbers(numbers: Log2) -> dict[str, Any]:
    return {
        "count": numbers.count,
        "least": numbers.least,
        "greatest": numbers.greatest,
        "mean": numbers.mean,
        "sum": numbers.total,
        "median": numbers.quantile(0.5) if numbers.count else None,
        "p99": numbers.quantile(0.99) if numbers.count else None,
        "histogram": [bucket._asdict() for bucket in numbers.buckets],
    }
