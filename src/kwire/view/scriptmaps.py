"""Maps of scripts as text and as JSON, as bpftrace prints them.

Invariants: numbers come in ascending order, averages and histograms by their average or number, everything
else by key; equal values by key, so that the order is always the same. Whole numbers are exact: an average is
the sum divided by the number, truncated.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from kwire.hints import Any, Final, TypeAlias
from kwire.view.values import bare
from kwire.wire.fields import TYPES, Field
from kwire.wire.schema import ELEMENT, Items, Labels, MapShape, Schema
from kwire.wire.tables import MapTable, cell_reader, divided

BAR: Final = 52
SERIES: Final = 2
"""Bounds that the shape of a series of times has."""
UNITS: Final = ("", "K", "M", "G", "T", "P", "E")

Key: TypeAlias = tuple[Any, ...]
Bucket: TypeAlias = tuple[int | None, int | None, int]
"""The first number, the one behind the last (None: there is no such end), and how many there were."""

Show: TypeAlias = Callable[[Any], str]

ORDERED: Final = ("count", "sum", "min", "max", "avg", "stats", "hist", "lhist")
"""Kinds whose entries are in order of their values."""


def printed(
    schema: Schema,
    table: MapTable,
    as_text: Callable[[Schema, Field, Labels], Show],
    json: Callable[[Schema, Field, Labels], Show] | None = None,
    *,
    clean: Show = str,
) -> str:
    """What a script prints of a map; nothing where it is empty. Rows must be as the schema says.

    `as_text`: makes the function that shows values of a field; `json`: the one that gives them as JSON, where
    that is wanted; `clean`: what is done to every text, such as for a terminal.
    """
    shape, entries = schema.map, dict(table.rows)
    assert shape is not None  # the table is one of a map
    if not entries and (table.shown != "print" or shape.keys):
        return ""
    if not entries:  # a value that is printed before it is set
        entries = {(): _nothing(schema, shape)}
    labels = Labels(schema._replace(symbols=table.symbols))
    shows = [_shown(schema, field, labels, as_text, clean) for field in schema.fields[:-1]]
    value = _together(shape.items, iter(shows[shape.keys :])) if shape.items else shows[shape.keys]
    shows[shape.keys :] = [value]
    keys = shows[:-1]
    if shape.key_items:
        flat, nest = iter(keys), shape.key_items
        keys = [_together(inner, flat) if inner else next(flat) for _, inner in nest]
        entries = {_nested(nest, iter(key)): value for key, value in entries.items()}
    title = clean(schema.target)
    if len(shape.bounds) == SERIES:
        return _series(title, shape, entries, keys, table, json is not None)
    if json is not None:
        cells = [_json_cell(schema, field, labels, json) for field in schema.fields[shape.keys : -1]]
        value = _json_of(shape.items, iter(cells)) if shape.items else cells[0]
        return as_json(title, shape.kind, entries, keys, value, table.top, table.div) + "\n"
    step = shape.bounds[2] if len(shape.bounds) > 2 else 0
    made = lines(title, shape.kind, entries, keys, shows[-1], table.top, table.div, step)
    return "".join(f"{line}\n" for line in made)


def _series(
    title: str, shape: MapShape, entries: Mapping[Key, Any], keys: Sequence[Show], table: MapTable, json: bool
) -> str:
    """What is printed of series of times."""
    from kwire.view import series

    interval, most = shape.bounds
    plain = {key: average(*held) if isinstance(held, tuple) else held or 0 for key, held in entries.items()}
    made = series.split(plain, most)
    made = made[-table.top :] if table.top else made
    between = "," if json else ", "

    def shown(key: Key) -> str:
        return between.join(show(part) for show, part in zip(keys, key, strict=False))

    return (series.as_json if json else series.as_text)(title, made, interval, shown)


def _nested(items: Items, parts: Iterator[Any]) -> Key:
    """Parts one after the other as the tuples in which they are."""
    return tuple(_nested(inner, parts) if inner else next(parts) for _, inner in items)


def _nothing(schema: Schema, shape: MapShape) -> Any:
    """What a map without keys holds that was never set."""
    if shape.kind in ("avg", "stats"):
        return 0, 0
    if shape.kind in ("hist", "lhist"):
        return ()
    fields = iter(schema.fields)

    def zero() -> Any:
        field = next(fields)
        kind = TYPES[field.type].kind
        if kind in ("str", "raw", "bytes", "text"):
            return "" if kind in ("str", "text") else bytes(field.size)
        return 0 if field.count == 1 else (0,) * field.count

    def zeros(items: Items) -> Any:
        return tuple(zeros(inner) if inner else zero() for _, inner in items)

    return zeros(shape.items) if shape.items else zero()


def _together(items: Items, shows: Iterator[Show]) -> Show:
    """How a tuple is shown; `shows`: how its parts are, those of tuples in it among them."""
    parts = [_together(inner, shows) if inner else next(shows) for _, inner in items]
    array = items[0][0] == ELEMENT
    named = not array and any(name for name, _ in items)
    labels = [f".{name} = " if named else "" for name, _ in items]
    before, between, behind = ("[", ",", "]") if array else ("{ ", ", ", " }") if named else ("(", ", ", ")")

    def together(value: Any) -> str:
        pairs = zip(labels, parts, value, strict=True)
        return before + between.join(label + show(part) for label, show, part in pairs) + behind

    return together


def _json_cell(
    schema: Schema, field: Field, labels: Labels, json: Callable[[Schema, Field, Labels], Show]
) -> Show:
    """How a value of a field is given as JSON."""
    if field.type == "ptr":
        return str
    if field.type in ("ksym", "usym"):
        from json import dumps

        return lambda value: dumps(bare(labels.symbol(value)) or hex(value))
    return _shown(schema, field, labels, json, str)


def _json_of(items: Items, shows: Iterator[Show]) -> Show:
    """How a tuple is given as JSON: a list, and a record as an object."""
    parts = [_json_of(inner, shows) if inner else next(shows) for _, inner in items]
    if any(name not in ("", ELEMENT) for name, _ in items):

        def record(value: Any) -> str:
            pairs = zip(items, parts, value, strict=True)
            return "{" + ", ".join(f'"{name}": {show(one)}' for (name, _), show, one in pairs) + "}"

        return record
    return lambda value: f"[{','.join(show(one) for show, one in zip(parts, value, strict=True))}]"


def _shown(
    schema: Schema,
    field: Field,
    labels: Labels,
    as_text: Callable[[Schema, Field, Labels], Show],
    clean: Show,
) -> Show:
    """How the parts of keys, or values, of a field are shown."""
    read = cell_reader(schema, field)
    if read is not None:
        show_read = as_text(schema, field, labels)
        return lambda value: clean(show_read(read(value)))
    if field.type == "ptr":
        return lambda value: hex(value)
    if field.type in ("ksym", "usym"):
        return lambda value: clean(bare(labels.symbol(value))) or hex(value)
    show = as_text(schema, field, labels)
    return lambda value: clean(show(value))


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


def as_json(
    name: str,
    kind: str,
    entries: Mapping[Key, Any],
    key: Sequence[Show],
    value: Show = str,
    top: int = 0,
    div: int = 1,
) -> str:
    """The same as one JSON object; `value`: how a value is given as JSON."""
    from json import dumps

    type_ = kind if kind in ("hist", "stats") else {"lhist": "hist", "avg": "stats"}.get(kind, "map")
    made = []
    for parts, held in in_order(kind, entries, top):
        shown = ",".join(show(part) for show, part in zip(key, parts, strict=True))
        plain = _plain(kind, held, div)
        made.append((shown, value(plain) if type_ == "map" else dumps(plain)))
    data = "{" + ", ".join(f"{dumps(shown)}: {text}" for shown, text in made) + "}" if key else made[0][1]
    return f'{{"type": "{type_}", "data": {{{dumps(name)}: {data}}}}}'


def _plain(kind: str, held: Any, div: int) -> Any:
    if kind in ("hist", "lhist"):
        rows = []
        for low, high, number in held:
            row = {} if low is None else {"min": low}
            count = divided(number, div) if kind == "hist" else number
            rows.append({**row, **({} if high is None else {"max": high - 1}), "count": count})
        return rows
    if kind == "stats":
        return {"count": held[0], "average": divided(average(*held), div), "total": held[1]}
    if kind == "avg":
        return divided(average(*held), div)
    if held is None:
        return 0
    return divided(held, div) if div != 1 and isinstance(held, int) else held
