"""What maps hold as text: a column a part of the key and one for the value; a histogram is drawn.

Invariants: texts are made safe for a terminal; the longest bar has `BAR` signs, and every bucket that is not
empty has a sign.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from kwire.hints import Any, Final
from kwire.view.text import safe
from kwire.view.values import scalar_name
from kwire.wire.fields import Field
from kwire.wire.schema import Items, Labels, Schema
from kwire.wire.tables import BUCKETS, TOTALS, MapTable, Row, cell_reader

BAR: Final = 40
MANY: Final = 100
"""Keys that are shown; of more it is said how many there are."""

UNITS: Final = ("", "K", "M", "G", "T", "P", "E")
DRAWN: Final = ("hist", "lhist")


def described(schema: Schema, held: MapTable) -> dict[str, Any]:
    """A map at one moment as an object for JSON: `map`, `kind`, `key` (the types of its parts), `lost`, and
    `entries`, the greatest first, equal ones by their keys, each with the parts of its `key` and its `value`.
    """
    shape = schema.map
    assert shape is not None  # the table is one of a map
    kind = shape.kind
    labels = Labels(schema._replace(symbols=held.symbols))
    shows = [_shown(schema, field, labels) for field in schema.fields[: shape.keys]]
    cells = [_shown(schema, field, labels) for field in schema.fields[shape.keys : -1]]

    def rank(row: Row) -> tuple[float, list[tuple[str, Any]]]:
        return -_magnitude(kind, row.value), [(type(part).__name__, part) for part in row.key]

    entries = []
    for key, value in sorted(held.rows, key=rank):
        parts = [show(part) for show, part in zip(shows, key, strict=True)]
        if kind in ("hash", "lru"):
            value = _named(shape.items, iter(cells), value)
        entries.append({"key": parts, "value": _plain(kind, value)})
    return {
        "map": schema.target,
        "kind": kind,
        "key": ["text" if field.type == "str" else field.type for field in schema.fields[: shape.keys]],
        "lost": held.lost,
        "entries": entries,
    }


def part_texts(schema: Schema) -> Callable[[Sequence[Any]], tuple[str, ...]]:
    """What shows the parts of a key of this map as texts."""
    shape = schema.map
    assert shape is not None  # whoever asks has one
    labels = Labels(schema)
    shows = [_shown(schema, field, labels) for field in schema.fields[: shape.keys]]

    def texts(key: Sequence[Any]) -> tuple[str, ...]:
        return tuple(_text(show(part)) for show, part in zip(shows, key, strict=True))

    return texts


def _named(items: Items, cells: Iterator[Callable[[Any], Any]], value: Any) -> Any:
    """A value whose parts are shown as those of a key are."""
    if not items:
        return next(cells)(value)
    return tuple(_named(inner, cells, one) for (_, inner), one in zip(items, value, strict=True))


def _shown(schema: Schema, field: Field, labels: Labels) -> Callable[[Any], Any]:
    """How a part of a key is shown: by its name where it has one."""
    read = cell_reader(schema, field)
    if read is not None:
        return read
    if field.type == "ptr":
        return hex
    name = scalar_name(schema, field, labels)
    return lambda value: (name(value) if name else "") or value


def _magnitude(kind: str, value: Any) -> float:
    """What values are sorted by."""
    if kind in BUCKETS:
        return float(sum(number for _, _, number in value))
    if kind in TOTALS:
        return float(value[0])
    return value if isinstance(value, int) else 0


def _plain(kind: str, value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, bytes):
        return value.hex()
    if kind in BUCKETS:
        return [{"low": low, "high": high, "number": number} for low, high, number in value]
    if kind in TOTALS:
        number, total = value
        average = total / number if number else 0.0
        return average if kind == "avg" else {"number": number, "sum": total, "average": average}
    return [_plain("", one) for one in value] if isinstance(value, tuple) else value


def titled(held: Mapping[str, Any]) -> list[str]:
    """The name of a described map, and its lines."""
    keys = f" by {', '.join(held['key'])}" if held["key"] else ""
    return [f"{safe(held['map'])} ({held['kind']}{keys}):", *(lines(held) or ["(nothing)"])]


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
    rows = [(len(one["key"]), [*map(_text, one["key"]), *value_cells(one["value"])]) for one in entries]
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
    labels = [bucket_label(low, high) for low, high, _ in buckets]
    numbers = [f"{number:,}" for _, _, number in buckets]
    most = max((number for _, _, number in buckets), default=0)
    left, middle = (max(map(len, column), default=0) for column in (labels, numbers))
    made = []
    for label, number, (_, _, count) in zip(labels, numbers, buckets, strict=True):
        signs = max(count * BAR // most, 1) if count else 0
        made.append(f"{label.ljust(left)}  {number.rjust(middle)} |{('@' * signs).ljust(BAR)}|")
    return made


def bucket_label(low: int | None, high: int | None) -> str:
    """A bucket by its ends, as people read them."""
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


def value_cells(value: Any) -> list[str]:
    """A value, or its parts."""
    if value is None:
        return ["-"]
    if isinstance(value, dict):
        return [f"{name} {value_cells(part)[0]}" for name, part in value.items()]
    if isinstance(value, list):
        return [cell for part in value for cell in value_cells(part)]
    if isinstance(value, bool | str):
        return [_text(value)]
    return [f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"]
