"""Statistics as a picture: rates over time, a heat map of how long things took, who talks most.

Invariants: PNG or SVG, as the file's extension says; nothing of a capture is taken for markup; no display, no
network and no configuration of the user is touched. matplotlib is an extra (`kwire[plot]`).
"""

import os
from typing import Any, Final

from kwire.analyze.distribution import BITS
from kwire.analyze.latency import Latency
from kwire.analyze.report import duration, short
from kwire.analyze.stats import Stats
from kwire.capture.destination import Destination, OutputError
from kwire.errors import KwireError
from kwire.view.text import UNREAD, WallClock, fit, safe

LINES: Final = 8  # probes with a line of their own
TALKERS: Final = 12
#: What keeps texts from being markup, and the same picture the same file.
PLAIN: Final[Any] = {
    "text.parse_math": False, "text.usetex": False, "svg.fonttype": "none", "svg.hashsalt": "kwire"
}  # fmt: skip
TALK: Final = (
    "comm",
    "pid",
    "daddr",
    "saddr",
    "tid",
    "filename",
)  # fields that name who talks, the best first


def plot(stats: Stats, path: str) -> None:
    """Draw the statistics into `path`; KwireError where that cannot be done."""
    kind = os.path.splitext(path)[1].lower()
    if kind not in (".png", ".svg"):
        raise KwireError("plot", path, f"the extension {kind!r} is no picture", "write FILE.png or FILE.svg")
    try:
        import matplotlib
    except ImportError:
        raise KwireError("plot", path, "matplotlib is not installed", "pip install 'kwire[plot]'") from None
    matplotlib.use("agg")
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(PLAIN):
        figure = Figure(figsize=(12, 10), layout="constrained")
        rates, heat, talk = figure.subplots(3, 1, height_ratios=(3, 3, 3))
        figure.suptitle(fit(safe(os.path.basename(stats.name)), 100))
        _rates(rates, stats)
        _heat(figure, heat, stats)
        _talkers(talk, stats)
        metadata = {"Date": None} if kind == ".svg" else None
        with Destination(path) as target:
            try:
                with open(target.fd, "wb", closefd=False) as out:
                    figure.savefig(out, format=kind[1:], dpi=110, metadata=metadata)
                target.publish()
            except OSError as error:
                raise OutputError("plot", path, error.strerror or str(error)) from None


def _seconds(stats: Stats) -> Any:
    """The middle of each bin, in seconds from the beginning."""
    import numpy as np

    return (np.arange(stats.grid.bins) + 0.5) * stats.grid.width / 1e9


def _extent(stats: Stats) -> float:
    """Seconds from the first bin to the end of the last."""
    return float(stats.grid.width * stats.grid.bins / 1e9)


def _rates(axes: Any, stats: Stats) -> None:
    clock = WallClock()
    axes.set_ylabel("events a second")
    axes.set_xlabel(f"seconds from {clock.moment(stats.grid.begins)}")
    busiest = sorted(stats.tables, key=lambda table: -table.events)
    if not busiest:
        _nothing(axes, "no probes")
        return
    seconds = _seconds(stats)
    for table in busiest[:LINES]:
        timeline = table.timing.timeline
        host = f" on {table.host}" if table.host else ""
        label = fit(safe(table.table.probe.split("(", 1)[0] + host), 48)
        axes.plot(seconds, timeline.counts * (1e9 / stats.grid.width), label=label, linewidth=1.2)
    if len(busiest) > LINES:
        rest = sum(table.timing.timeline.counts for table in busiest[LINES:])
        label = f"{len(busiest) - LINES} more"
        axes.plot(seconds, rest * (1e9 / stats.grid.width), label=label, linewidth=1, color="grey")
    for number, hole in enumerate(stats.scan.losses.holes()):
        if hole.first is None or hole.last is None or number > 500:
            continue
        first, last = ((time - stats.grid.begins) / 1e9 for time in (hole.first, hole.last))
        said = {} if number else {"label": "events lost"}
        axes.axvspan(first, max(last, first + seconds[0] / 2), color="red", alpha=0.3, **said)
    axes.set_xlim(0, _extent(stats))
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: short(value))
    axes.legend(fontsize="small", loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)


def _heat(figure: Any, axes: Any, stats: Stats) -> None:
    """The durations over time: of calls and of fields that are durations, whichever has most."""
    import numpy as np

    found: list[tuple[str, Latency]] = [
        (f"{key}{f' on {host}' if host else ''}", call.latency) for (key, host), call in stats.calls.items()
    ]
    for table in stats.tables:
        for name, latency in table.latencies.items():
            found.append((f"{table.table.name}.{name}", latency))
    found = [(name, latency) for name, latency in found if latency.durations.count]
    if not found:
        axes.set_title("latency")
        _nothing(axes, "no calls with both ends, and no fields that are durations")
        return
    heat = np.zeros_like(found[0][1].heat)
    for _, latency in found:
        heat += latency.heat
    names = ", ".join(name for name, _ in sorted(found, key=lambda one: -one[1].durations.count))
    axes.set_title(fit(safe(f"latency: {names}"), 110))
    rows = np.flatnonzero(heat.sum(axis=0))
    low, high = max(int(rows[0]) - 1, 0), min(int(rows[-1]) + 1, BITS)
    shown = np.ma.masked_equal(heat[:, low : high + 1].T, 0)
    from matplotlib.colors import LogNorm

    image = axes.imshow(
        shown, origin="lower", aspect="auto", cmap="viridis", norm=LogNorm(vmin=1),
        extent=(0, _extent(stats), low - 0.5, high + 0.5), interpolation="nearest",
    )  # fmt: skip
    ticks = list(range(low, high + 1, max(1, (high - low) // 10)))
    texts = [duration(1 << tick - 1) if tick else "0" for tick in ticks]
    axes.set_yticks([tick - 0.5 for tick in ticks], texts)
    axes.set_xlabel("seconds")
    figure.colorbar(image, ax=axes, label="events", format=lambda value, _: short(value))


def _talkers(axes: Any, stats: Stats) -> None:
    field, counts = talkers(stats)
    if not counts:
        axes.set_title("top talkers")
        _nothing(axes, f"no field called {', '.join(TALK)}")
        return
    axes.set_title(f"top talkers: events by {field}")
    counts.reverse()
    places = range(len(counts))
    axes.barh(places, [count for _, count in counts], color="tab:blue")
    axes.set_yticks(places, [UNREAD if value is None else fit(safe(str(value)), 30) for value, _ in counts])
    axes.xaxis.set_major_formatter(lambda value, _: short(value))
    for place, (_, count) in zip(places, counts, strict=True):
        axes.annotate(f" {short(count)}", (count, place), va="center", fontsize="small")


def talkers(stats: Stats, most: int = TALKERS) -> tuple[str, list[tuple[Any, int]]]:
    """The field that names who talks, and its most frequent values over all probes; one that tells apart."""
    found: tuple[str, list[tuple[Any, int]]] = ("", [])
    for name in TALK:
        counts: dict[Any, int] = {}
        for table in stats.tables:
            for field in table.fields:
                if field.column.field.name == name:
                    for value, count in field.top(1000):
                        counts[value] = counts.get(value, 0) + count
        if len(counts) > 1 or not found[1]:
            found = (name, sorted(counts.items(), key=lambda pair: (-pair[1], str(pair[0])))[:most])
        if len(counts) > 1:
            break
    return found


def _nothing(axes: Any, why: str) -> None:
    axes.text(0.5, 0.5, why, ha="center", va="center", transform=axes.transAxes, color="grey")
    axes.set_xticks([])
    axes.set_yticks([])
