"""What notebooks show: tables and histograms as HTML.

Invariants: whatever values hold, it is text and no markup; a histogram is one picture (SVG) whose longest bar
has `BAR` units, and every bucket that is not empty has a bar; nothing is fetched and no script runs.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from kwire.hints import Any, Final
from kwire.view.maps import DRAWN, MANY, bucket_label, value_cells
from kwire.view.text import safe

BAR: Final = 320
ROW: Final = 18
"""Height of a bucket."""
COLOUR: Final = "#4878a8"

Buckets = Sequence[tuple[int | None, int | None, int]]


def table(head: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> str:
    """A table of texts."""
    made = [f"<caption>{_text(caption)}</caption>"] if caption else []
    made.append(f"<tr>{''.join(f'<th>{_text(one)}</th>' for one in head)}</tr>")
    made += (f"<tr>{''.join(_cell(one) for one in row)}</tr>" for row in rows)
    return f"<table>{''.join(made)}</table>"


def _cell(value: object) -> str:
    right = ' style="text-align: right"' if isinstance(value, int | float) else ""
    shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return f"<td{right}>{_text(shown)}</td>"


def _text(value: object) -> str:
    lines = str(value).split("\n")
    return "<br>".join(escape(safe(line)) for line in lines)


def histogram(buckets: Buckets, title: str = "") -> str:
    """A histogram drawn: buckets of (low, high, number), None for an end that there is not."""
    most = max((number for _, _, number in buckets), default=0)
    labels = [bucket_label(low, high) for low, high, _ in buckets]
    left = 8 * max(map(len, labels), default=0) + 8
    made = []
    for at, (label, (_, _, number)) in enumerate(zip(labels, buckets, strict=True)):
        y = at * ROW
        width = max(number * BAR // most, 1) if number else 0
        made.append(f'<text x="{left - 6}" y="{y + 13}" text-anchor="end">{escape(label)}</text>')
        made.append(f'<rect x="{left}" y="{y + 2}" width="{width}" height="{ROW - 4}" fill="{COLOUR}"/>')
        made.append(f'<text x="{left + width + 6}" y="{y + 13}">{number:,}</text>')
    head = f"<div>{_text(title)}</div>" if title else ""
    size = f'width="{left + BAR + 100}" height="{ROW * len(buckets)}"'
    style = 'font-family="monospace" font-size="12" fill="currentColor"'
    return f'{head}<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{"".join(made)}</svg>'


def map_shown(held: Mapping[str, Any]) -> str:
    """What a map holds: as `view.maps.described` gives it."""
    entries, title = held["entries"], f"{held['map']} ({held['kind']})" if held["map"] else ""
    shown = entries[:MANY]
    more = f"<div>… and {len(entries) - MANY:,} more</div>" if len(entries) > MANY else ""
    lost = f"<div>{held['lost']:,} updates found no room</div>" if held["lost"] else ""
    if held["kind"] in DRAWN:
        drawn = [
            histogram(
                [(one["low"], one["high"], one["number"]) for one in entry["value"]],
                ", ".join(map(str, entry["key"])),
            )
            for entry in shown
        ]
        return f"<div>{_text(title)}</div>{''.join(drawn)}{more}{lost}"
    keys = [f"key{at}" for at in range(1, len(held["key"]) + 1)] if len(held["key"]) > 1 else ["key"]
    rows = [[*entry["key"], *value_cells(entry["value"])] for entry in shown]
    widest = max((len(row) for row in rows), default=len(keys) + 1) - len(held["key"])
    values = ["value"] if widest == 1 else [f"value{at}" for at in range(1, widest + 1)]
    return f"{table([*keys[: len(held['key'])], *values], rows, title)}{more}{lost}"
