"""The maps of a script, or of Python probes, as metrics: a file says which ones, and what they are called.

    [[metric]]
    map = "@reads"
    name = "vfs_reads_total"
    help = "Reads by command"
    labels = ["comm"]

Invariants: the table `KEYS` is what a metric may say, and `KINDS` what the kinds of maps can be; a file that
does not fit the maps of the trace ends it before it has begun. Maps are read when they are asked for, one key
a step; a metric has at most `limit` series, those that were seen first, and says how many were left out. What
maps count falls where a script clears them: then Prometheus sees a counter that began anew.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from kwire import toml
from kwire.errors import KwireError
from kwire.live.recorder import Recorder
from kwire.metrics.table import COUNTER, GAUGE, HISTOGRAM, SUMMARY, Buckets, Metric, Sample, Summed
from kwire.view.maps import part_texts
from kwire.wire.keyed import (
    LEFT_OUT,
    MISSING,
    NEEDED,
    Key,
    Misfit,
    choice,
    integer,
    listing,
    plain,
    read,
    text,
)
from kwire.wire.schema import Schema
from kwire.wire.tables import Row
from kwire.words import are, plural

MOST_BUCKETS: Final = 100
"""Of one histogram."""

KINDS: Final[dict[str, tuple[str, ...]]] = {
    "count": (COUNTER, GAUGE),
    "sum": (COUNTER, GAUGE),
    "hash": (GAUGE, COUNTER),
    "lru": (GAUGE, COUNTER),
    "min": (GAUGE,),
    "max": (GAUGE,),
    "avg": (SUMMARY,),
    "stats": (SUMMARY,),
    "hist": (HISTOGRAM,),
    "lhist": (HISTOGRAM,),
}
"""Kind of map → kinds of metrics that it can be: the first where none is said. Others cannot be one."""

UNITS: Final = ("seconds", "bytes")
"""Units that are told where a metric's name ends in them."""

_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,200}")
_OWN: Final = ("kwire_", "process_")


def _name(words: str) -> Any:
    return plain(words, str, fits=lambda value: _NAME.fullmatch(value) is not None, shown=ascii)


_NUMBER: Final = plain("a number", int, float, fits=math.isfinite)
_FACTOR: Final = plain("a number above 0", int, float, fits=lambda value: 0 < value < math.inf)

#: What else a metric's lines are called, by its kind.
_ENDINGS: Final = {HISTOGRAM: ("_bucket", "_count", "_sum"), SUMMARY: ("_count", "_sum")}

KEYS: Final[dict[str, Key]] = {
    "map": Key(text(256, "the name of a map", 1), "the map: `@reads` of a script, `reads` of Python", NEEDED),
    "name": Key(
        _name("a name of letters, digits and _"), "the metric's name; a counter's ends in `_total`", NEEDED
    ),
    "help": Key(text(1024, "a text", 1), "what it says", NEEDED),
    "kind": Key(choice(COUNTER, GAUGE), "counter or gauge, of maps that can be both", LEFT_OUT),
    "labels": Key(
        listing(_name("a name of letters, digits and _"), "a list of names"), "the parts of its keys", ()
    ),
    "scale": Key(_FACTOR, "what values are multiplied by: `1e-9` makes seconds of nanoseconds", 1),
    "lowest": Key(_NUMBER, "of a histogram: below this there is one bucket (the map's unit)", LEFT_OUT),
    "highest": Key(_NUMBER, "of a histogram: above this there is one bucket (the map's unit)", LEFT_OUT),
    "sum": Key(
        text(256, "the name of a map", 1),
        "of a histogram: the map, a sum() by the same keys, that has its sum",
        LEFT_OUT,
    ),
    "limit": Key(integer(10_000, "a number from 1 to 10000", 1), "the most series", 1000),
}
"""What a metric may say."""


class MapMetricsError(KwireError):
    """The file of map metrics cannot be used."""


class Wanted(NamedTuple):
    """One metric of the file: what it is called, and of which map it is made."""

    metric: Metric
    map: str
    scale: float
    bounds: tuple[float | None, float | None]
    sum: str
    limit: int
    kind: str  # "": the map's first
    where: str


def load(path: str) -> list[Wanted]:
    """Read a file of metrics. Raises MapMetricsError, with what is wrong and where."""
    top = toml.load(path, "read metrics", MapMetricsError)
    tables = top.get("metric")
    if (
        top.keys() != {"metric"}
        or not isinstance(tables, list)
        or not all(isinstance(one, dict) for one in tables)
    ):
        raise MapMetricsError("read metrics", path, "it is no list of metrics", "write [[metric]] tables")
    wanted = [_wanted(table, path, number) for number, table in enumerate(tables, 1)]
    names = [one.metric.name for one in wanted]
    for name in names:
        if names.count(name) > 1:
            raise MapMetricsError("read metrics", path, f"{name} is there twice", "give each its name")
    return wanted


def _wanted(table: Mapping[str, Any], path: str, number: int) -> Wanted:
    where = f"{path}, metric {number}"

    def wrong(one: Misfit) -> Exception:
        if one.key is None:
            return MapMetricsError(
                "read metrics", where, f"there is no key {one.name}", f"keys are {', '.join(KEYS)}"
            )
        found = f"{one.name} is missing" if one.found == MISSING else f"{one.name}{one.found}"
        return MapMetricsError("read metrics", where, found, f"{one.name} is {one.key.kind.words}")

    told = read(table, KEYS, wrong, strict=True)
    name, labels = told["name"], tuple(told["labels"])
    if name.startswith(_OWN):
        raise MapMetricsError(
            "read metrics", where, f"{name} could be one of kwire's own", "choose another name"
        )
    for label in labels:
        if label.startswith("__") or label in ("le", "quantile") or labels.count(label) > 1:
            raise MapMetricsError(
                "read metrics", where, f"{label} cannot be a label here", "choose another name"
            )
    metric = Metric(name, "", _unit(name), told["help"].rstrip("."), (), labels)
    bounds = told.get("lowest"), told.get("highest")
    return Wanted(
        metric,
        told["map"],
        told["scale"],
        bounds,
        told.get("sum", ""),
        told["limit"],
        told.get("kind", ""),
        where,
    )


def _unit(name: str) -> str:
    """The unit that a name ends in, by Prometheus' convention."""
    word = name.removesuffix("_total").rpartition("_")[2]
    return word if word in UNITS else ""


class MapMetrics:
    """The metrics of the maps of a recording whose probes are attached. Raises MapMetricsError where the file
    does not fit them.
    """

    def __init__(self, wanted: Sequence[Wanted], recorder: Recorder) -> None:
        self._recorder = recorder
        maps = {schema.target: schema for schema in recorder.map_schemas}
        self._series = [_Series(one, maps, recorder) for one in wanted]
        names = {one.metric.name for one in self._series}
        for series, one in zip(self._series, wanted, strict=True):
            for ending in _ENDINGS.get(series.metric.kind, ()):
                if (name := series.metric.name + ending) in names:
                    cause = f"{name} would be a line of two metrics"
                    raise MapMetricsError("use metric", one.where, cause, "choose another name")
        left = Metric(
            "kwire_map_series_left_out",
            GAUGE,
            "",
            "Keys of a map beyond the limit of its metric",
            (),
            ("metric",),
        )
        self.metrics = [*(one.metric for one in self._series), left]
        """What they are, beside the table's."""

    def samples(self) -> Iterator[Sample | None]:
        """What the maps hold now."""
        for one in self._series:
            yield from one.samples()
            yield Sample("kwire_map_series_left_out", one.left_out, (one.metric.name,))


class _Series:
    """One metric: its map, and the series it has had."""

    def __init__(self, wanted: Wanted, maps: Mapping[str, Schema], recorder: Recorder) -> None:
        self.left_out = 0
        self._wanted = wanted
        self._recorder = recorder
        self._schema = schema = _find(wanted.map, maps, wanted.where)
        shape = schema.map
        assert shape is not None  # it is one of a map
        kinds = KINDS.get(shape.kind, ())
        if not kinds or (
            shape.kind in ("hash", "lru") and (shape.items or schema.fields[shape.keys].type == "str")
        ):
            what = f"what {schema.target} ({shape.kind}) holds is no number, total or histogram"
            raise MapMetricsError("use metric", wanted.where, what, "name a map of numbers")
        kind = wanted.kind or kinds[0]
        if kind not in kinds:
            raise MapMetricsError(
                "use metric",
                wanted.where,
                f"{schema.target} ({shape.kind}) is no {kind}",
                f"it is a {kinds[0]}",
            )
        name = wanted.metric.name
        if (kind == COUNTER) != name.endswith("_total"):
            cure = f"call it {name}_total" if kind == COUNTER else f"call it {name.removesuffix('_total')}"
            raise MapMetricsError(
                "use metric",
                wanted.where,
                f"{name} is the name of {'no' if kind == COUNTER else 'a'} counter",
                cure,
            )
        _check_labels(schema, wanted)
        self.metric = wanted.metric._replace(kind=kind)
        self._sum = None
        if wanted.sum:
            self._sum = _find(wanted.sum, maps, wanted.where)
            other = self._sum.map
            if kind != HISTOGRAM or other is None or other.kind != "sum" or other.keys != shape.keys:
                cause = f"{self._sum.target} is no sum by the keys of {schema.target}"
                raise MapMetricsError(
                    "use metric", wanted.where, cause, "leave `sum` out, or name a map of sum()"
                )
        self._bounds = _bounds(schema, wanted) if kind == HISTOGRAM else []
        self._seen: set[tuple[str, ...]] = set()

    def samples(self) -> Iterator[Sample | None]:
        sums: dict[tuple[Any, ...], Any] = {}
        if self._sum is not None:
            for row in self._recorder.map_rows(self._sum.id):
                if row is not None:
                    sums[row.key] = row.value
                yield None
        texts = part_texts(self._schema)
        present: dict[tuple[str, ...], Row] = {}
        beyond = 0
        for row in self._recorder.map_rows(self._schema.id):
            yield None
            if row is None:
                continue
            labels = texts(row.key)
            if labels in self._seen or len(self._seen) < self._wanted.limit:
                self._seen.add(labels)
                present[labels] = row
                made = self._sample(labels, row, sums)
                if made is not None:
                    yield made
            else:
                beyond += 1
        self._seen &= present.keys()  # those deleted make room
        self.left_out = beyond

    def _sample(
        self, labels: tuple[str, ...], row: Row, sums: Mapping[tuple[Any, ...], Any]
    ) -> Sample | None:
        name, value, scale = self.metric.name, row.value, self._wanted.scale
        if self.metric.kind == HISTOGRAM:
            assert isinstance(value, tuple)
            total = sums.get(row.key, 0) * scale if self._sum is not None else None
            return Sample(name, self._buckets(value, total), labels)
        if self.metric.kind == SUMMARY:
            number, total = value
            return Sample(name, Summed(number, total * scale), labels)
        if value is None:
            return None  # there was nothing that has a smallest or greatest
        assert isinstance(value, int)
        return Sample(name, value * scale, labels)

    def _buckets(self, held: Sequence[Any], total: float | None) -> Buckets:
        """How many numbers were at most each bound."""
        scale, counts = self._wanted.scale, []
        for bound in self._bounds:
            number = sum(count for _, high, count in held if high is not None and high - 1 <= bound)
            counts.append((_end(bound * scale), number))
        counts.append(("+Inf", sum(count for _, _, count in held)))
        return Buckets(tuple(counts), total)


def _find(name: str, maps: Mapping[str, Schema], where: str) -> Schema:
    schema = maps.get(name) or maps.get(f"@{name}")
    if schema is None:
        known = ", ".join(maps)
        cure = f"there are {known}" if maps else "its probes have no maps"
        raise MapMetricsError("use metric", where, f"there is no map {name!r}", cure)
    return schema


def _check_labels(schema: Schema, wanted: Wanted) -> None:
    shape = schema.map
    assert shape is not None  # it is one of a map
    labels = wanted.metric.labels
    if len(labels) != shape.keys:
        parts = plural(shape.keys, "part")
        cause = f"the keys of {schema.target} have {parts}, and {are(len(labels), 'label')} named"
        raise MapMetricsError("use metric", wanted.where, cause, 'name each part: labels = ["…"]')
    for field in schema.fields[: shape.keys]:
        if field.type == "stack":
            cause = f"the keys of {schema.target} are stacks, which are no labels"
            raise MapMetricsError("use metric", wanted.where, cause, "count by something with few values")


def _bounds(schema: Schema, wanted: Wanted) -> list[int]:
    """The upper ends of the buckets: numbers that are at most so great are in them, and in those before."""
    shape = schema.map
    assert shape is not None  # it is one of a map
    if shape.kind == "lhist":
        low, high, step = shape.bounds
        ends = [end for end in (*range(low, high, step), high) if low or end]  # of 0: no bucket below
    else:
        ends = [1 << power for power in range(64)]
    lowest, highest = wanted.bounds
    if highest is None and shape.kind == "hist":
        highest = 1 << 40
    ends = [end for end in ends if (lowest is None or end >= lowest) and (highest is None or end <= highest)]
    if not ends or len(ends) > MOST_BUCKETS:
        cause = f"there would be {plural(len(ends), 'bucket')}, not 1 to {MOST_BUCKETS}"
        raise MapMetricsError("use metric", wanted.where, cause, "set `lowest` and `highest`")
    if len({_end((end - 1) * wanted.scale) for end in ends}) < len(ends):
        cause = "its buckets are too narrow for numbers so great: their ends look alike"
        raise MapMetricsError("use metric", wanted.where, cause, "set `lowest` and `highest`")
    return [end - 1 for end in ends]


def _end(bound: float) -> str:
    """The upper end of a bucket as text, with as many digits as a number of 64 bits holds for sure."""
    return f"{bound:.15g}"
