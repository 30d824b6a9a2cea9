"""Maps of scripts as text and as JSON, as bpftrace prints them.

Invariants: numbers come in ascending order, averages and histograms by their average or number, everything
else by key; equal values by key, so that the order is always the same. Whole numbers are exact: an average is
the sum divided by the number, truncated.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

BAR: Final = 52
UNITS: Final = ("", "K", "M", "G", "T", "P", "E")

Key: TypeAlias = tuple[Any, ...]
Bucket: TypeAlias = tuple[int | None, int | None, int]
"""The first number, the one behind the last (None: there is no such end), and how many there were."""

Show: TypeAlias = Callable[[Any], str]

ORDERED: Final = ("count", "sum", "min", "max", "avg", "stats", "hist", "lhist")
"""Kinds whose entries are in order of their values."""


def lines(
    name: str,
    kind: str,
    entries: Mapping[Key, Any],
    key: Sequence[Show],
    value: Show,
    top: int = 0,
    div: int = 1,
    step: int = 0,
) -> list[str]:
    """The lines of a map. `key`: how each part of a key is shown; `value`: how a value is; `top`: of how many
    entries, those with the greatest values, 0 for all; `div`: by what values are divided; `step`: of a linear
    histogram.
    """
    made: list[str] = []
    for parts, held in in_order(kind, entries, top):
        shown = ", ".join(show(part) for show, part in zip(key, parts, strict=True))
        label = f"{name}[{shown}]" if key else name
        if kind in ("hist", "lhist"):
            made += [f"{label}:", *histogram(held, div if kind == "hist" else 1, step), ""]
        else:
            made.append(f"{label}: {_value(kind, held, value, div)}")
    return made


def in_order(kind: str, entries: Mapping[Key, Any], top: int = 0) -> list[tuple[Key, Any]]:
    """The entries that are shown, in their order."""

    def rank(entry: tuple[Key, Any]) -> tuple[Any, ...]:
        parts, held = entry
        keys = [(isinstance(part, str), part) for part in parts]
        by_value = kind in ORDERED or (isinstance(held, int) and not isinstance(held, bool))
        return (_magnitude(kind, held) if by_value else 0, keys)

    found = sorted(entries.items(), key=rank)
    return found[-top:] if top else found


def _magnitude(kind: str, held: Any) -> Any:
    if kind in ("hist", "lhist"):
        return sum(number for _, _, number in held)
    if kind in ("avg", "stats"):
        return average(*held)
    return 0 if held is None else held


def average(number: int, total: int) -> int:
    """The sum divided by the number, truncated toward 0."""
    return divided(total, number)


def divided(value: int, by: int) -> int:
    """A division as in C; 0 where there is nothing to divide by."""
    if not by:
        return 0
    quotient = abs(value) // abs(by)
    return quotient if (value < 0) == (by < 0) else -quotient


def _value(kind: str, held: Any, value: Show, div: int) -> str:
    if kind == "stats":
        number, total = held
        return f"{{ .count = {number}, .average = {divided(average(number, total), div)}, .total = {total} }}"
    if kind == "avg":
        return str(divided(average(*held), div))
    if held is None:
        return "0"
    return value(divided(held, div) if div != 1 and isinstance(held, int) else held)


def histogram(
    buckets: Sequence[tuple[int | None, int | None, int]], div: int = 1, step: int = 0
) -> list[str]:
    """The rows of a histogram."""
    most = max((number for _, _, number in buckets), default=0)
    made = []
    for low, high, number in buckets:
        number, bar = divided(number, div), number * BAR // most if most else 0
        made.append(f"{_bucket(low, high, step):<16}{number:>8} |{'@' * bar:<{BAR}}|")
    return made


def _bucket(low: int | None, high: int | None, step: int) -> str:
    def short(number: int) -> str:
        if step and step % 1024:
            return str(number)
        unit = 0
        while number >= 1024 and number % 1024 == 0 and unit + 1 < len(UNITS):
            number //= 1024
            unit += 1
        return f"{number}{UNITS[unit]}"

    if low is None:
        return f"(..., {short(high or 0)})"
    if high is None:
        return f"[{short(low)}, ...)"
    return f"[{short(low)}]" if high == low + 1 else f"[{short(low)}, {short(high)})"


def as_json(name: str, kind: str, entries: Mapping[Key, Any], key: Sequence[Show]) -> str:
    """The same as one JSON object."""
    from json import dumps

    type_ = kind if kind in ("hist", "stats") else {"lhist": "hist", "avg": "stats"}.get(kind, "map")
    made: dict[str, Any] = {}
    for parts, held in in_order(kind, entries):
        shown = ",".join(show(part) for show, part in zip(key, parts, strict=True))
        made[shown] = _plain(kind, held)
    data = made if key else next(iter(made.values()), None)
    return dumps({"type": type_, "data": {name: data}})


def _plain(kind: str, held: Any) -> Any:
    if kind in ("hist", "lhist"):
        rows = []
        for low, high, number in held:
            row = {} if low is None else {"min": low}
            rows.append({**row, **({} if high is None else {"max": high - 1}), "count": number})
        return rows
    if kind == "stats":
        return {"count": held[0], "average": average(*held), "total": held[1]}
    return average(*held) if kind == "avg" else held
