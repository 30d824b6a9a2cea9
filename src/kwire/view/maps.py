"""What maps hold as text: a column a part of the key and one for the value; a histogram is drawn.

Invariants: texts are made safe for a terminal; the longest bar has `BAR` signs, and no bucket that is not
empty is without a sign.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from kwire.view.text import safe

BAR: Final = 40
MANY: Final = 100
"""Keys that are shown; of more it is said how many there are."""

UNITS: Final = ("", "K", "M", "G", "T", "P", "E")
DRAWN: Final = ("hist", "lhist")


def lines(described: Mapping[str, Any]) -> list[str]:
    """Lines of text for a map: `described` is its `kind`, and its `entries` in the order in which they are
    shown, as in the summary of a trace.
    """
    entries = described["entries"]
    shown = entries[:MANY]
    made = _histograms(shown) if described["kind"] in DRAWN else _table(shown)
    if len(entries) > MANY:
        made.append(f"… and {len(entries) - MANY:,} more")
    return made


def _table(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line an entry: the parts of the key, then the value flush right, or the parts of it."""
    rows = [(len(one["key"]), [*map(_text, one["key"]), *_value(one["value"])]) for one in entries]
    widths = [max(map(len, column)) for column in zip(*(cells for _, cells in rows), strict=True)]
    made = []
    for keys, cells in rows:
        sized = zip(cells, widths, strict=True)
        aligned = [
            text.ljust(width) if at < keys else text.rjust(width) for at, (text, width) in enumerate(sized)
        ]
        made.append("  ".join(aligned))
    return made


def _histograms(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    made: list[str] = []
    for one in entries:
        if one["key"]:
            made += [*[""] * bool(made), ", ".join(map(_text, one["key"]))]
        made += histogram([(part["low"], part["high"], part["number"]) for part in one["value"]])
    return made


def histogram(buckets: Sequence[tuple[int | None, int | None, int]]) -> list[str]:
    """A histogram drawn with signs: buckets of (low, high, number), None for an end that there is not."""
    labels = [_bucket(low, high) for low, high, _ in buckets]
    numbers = [f"{number:,}" for _, _, number in buckets]
    most = max((number for _, _, number in buckets), default=0)
    left, middle = (max(map(len, column), default=0) for column in (labels, numbers))
    made = []
    for label, number, (_, _, count) in zip(labels, numbers, buckets, strict=True):
        signs = max(count * BAR // most, 1) if count else 0
        made.append(f"{label.ljust(left)}  {number.rjust(middle)} |{('@' * signs).ljust(BAR)}|")
    return made


def _bucket(low: int | None, high: int | None) -> str:
    if low is None:
        return f"(…, {_short(high or 0)})"
    if high is None:
        return f"[{_short(low)}, …)"
    return f"[{low}]" if high == low + 1 else f"[{_short(low)}, {_short(high)})"


def _short(number: int) -> str:
    """A number, powers of 1024 by their letters."""
    unit = 0
    while number and number % 1024 == 0 and unit + 1 < len(UNITS):
        number //= 1024
        unit += 1
    return f"{number}{UNITS[unit]}"


def _text(part: Any) -> str:
    return safe(part) if isinstance(part, str) else str(part)


def _value(value: Any) -> list[str]:
    """A value, or its parts."""
    if value is None:
        return ["-"]
    if isinstance(value, dict):
        return [f"{name} {_value(part)[0]}" for name, part in value.items()]
    if isinstance(value, bool):
        return [str(value)]
    return [f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"]
