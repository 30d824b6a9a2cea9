"""Series of times as text and as JSON: of each interval one value, as bpftrace prints them.

Invariants: all series of a map end with the interval that was added to last, in any of them, and have at most
so many intervals; an interval without a value has a dash. Intervals are numbered from the wall clock's zero.
"""

import time
from collections.abc import Callable, Mapping, Sequence

from kwire.hints import Any, Final, TypeAlias

WIDTH: Final = 53
"""Characters of a graph."""

HALF: Final = 21
"""Characters for the least number, above and below a graph."""

SECOND: Final = 10**9
UNITS: Final = ((10**9, "", 0), (10**6, "ms", 3), (10**3, "μs", 6), (1, "ns", 9))
"""From so many ns on an interval is told in a unit, with so many digits behind the second."""

Series: TypeAlias = list[tuple[int, int | None]]
"""The number of an interval, and its value; None: it has none."""


def split(entries: Mapping[tuple[Any, ...], int], most: int) -> list[tuple[tuple[Any, ...], Series]]:
    """The series of a map: by key, whose last part is the number of the interval; those that were added to
    last come last.
    """
    found: dict[tuple[Any, ...], dict[int, int]] = {}
    for (*key, number), value in entries.items():
        found.setdefault(tuple(key), {})[number] = value
    if not found:
        return []
    end = max(max(one) for one in found.values())
    made = []
    for whose, values in sorted(found.items(), key=lambda one: max(one[1])):
        known = [number for number in values if number > end - most]
        first = min(known, default=end + 1)
        made.append((whose, [(number, values.get(number)) for number in range(first, end + 1)]))
    return made


def graph(series: Series, interval: int) -> list[str]:
    """The lines of a series."""
    numbers = [value for _, value in series if value is not None]
    if not numbers:
        return ["<no data>"]
    low, high = min(numbers), max(numbers)
    if low == high:
        low, high = (low - 1, high + 1) if low else (0, 1)
    _, unit, digits = next(one for one in UNITS if interval >= one[0])
    head = "hh:mm:ss" + (f".{unit}" if unit else "")
    blank = " " * (8 + (1 + digits if digits else 0))
    ends = f"{blank} {low:<{HALF}}{high:>{WIDTH - HALF}}"
    lines = [ends, f"{head:<{len(blank)}} |{'_' * (WIDTH - 2)}|"]
    zero = WIDTH * -low // (high - low) if low < 0 < high else 0
    for number, value in series:
        line = ["|", *" " * (WIDTH - 2), "|"]
        if zero > 0:
            line[zero] = "."
        shown = "-"
        if value is not None:
            line[(WIDTH - 1) * (value - low) // (high - low)] = "*"
            shown = str(value)
        lines.append(f"{_clock(number * interval, digits)} {''.join(line)} {shown}")
    return [*lines, f"{blank} v{'_' * (WIDTH - 2)}v", ends]


def _clock(moment: int, digits: int) -> str:
    seconds, rest = divmod(moment, SECOND)
    shown = time.strftime("%H:%M:%S", time.localtime(seconds))
    return f"{shown}.{rest // 10 ** (9 - digits):0{digits}}" if digits else shown


def as_text(
    name: str,
    made: Sequence[tuple[tuple[Any, ...], Series]],
    interval: int,
    shown: Callable[[tuple[Any, ...]], str],
) -> str:
    """A map of series; `shown`: how a key is."""
    lines = []
    for key, series in made:
        lines += [f"{name}[{shown(key)}]:" if key else f"{name}:", *graph(series, interval), ""]
    return "".join(f"{line}\n" for line in lines)


def as_json(
    name: str,
    made: Sequence[tuple[tuple[Any, ...], Series]],
    interval: int,
    shown: Callable[[tuple[Any, ...]], str],
) -> str:
    """The same as one JSON object."""
    from json import dumps

    def rows(series: Series) -> list[dict[str, Any]]:
        return [{"interval_start": _date(number * interval), "value": value} for number, value in series]

    data: Any = {shown(key): rows(series) for key, series in made}
    if made and not made[0][0]:
        data = rows(made[0][1])
    return dumps({"type": "tseries", "data": {name: data}}) + "\n"


def _date(moment: int) -> str:
    seconds, rest = divmod(moment, SECOND)
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(seconds))}.{rest:09}"
