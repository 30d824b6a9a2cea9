"""Statistics of a capture: each probe's rate, losses, silences, intervals and distributions of fields.

Invariants: one reading; C and numpy works on whole blocks, nothing runs for a single event
but texts of very different lengths; memory is bounded by probes and fields, not by events. Counts are exact;
where a field has more different values than are told apart, its list of frequent ones says how exact it is.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from kwire.analyze.call_pairs import role
from kwire.analyze.capture_summary import CaptureSummary, ProbeSummary
from kwire.analyze.counts import of_numbers
from kwire.analyze.distribution import Log2, Top, TopBytes, counted, counted_bools
from kwire.analyze.latency import UNITS, Calls, Latency
from kwire.analyze.scan import Block, Progress, Scan
from kwire.analyze.selection import Selection
from kwire.analyze.source import Source
from kwire.analyze.tables import Column, Table, Tables, columns_of, layout
from kwire.analyze.timeline import Timeline, grid_of
from kwire.analyze.timing import HELD, Timing, room
from kwire.view.values import scalar_name
from kwire.wire.columns import Columns
from kwire.wire.fields import TYPES, Field, ipv4_text, ipv6_text, mac_text, text
from kwire.wire.messages import Cause
from kwire.wire.schema import Labels, Schema

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

PAIRED: Final = 1 << 18  # events between two pairings of calls
NUMBERS: Final = 1 << 12  # different values of a number beyond which only its powers of two are counted
TOP: Final = 20  # frequent values that are kept for reports

_ADDRESSES: Final[dict[str, Callable[[bytes], str]]] = {"ipv4": ipv4_text, "ipv6": ipv6_text, "mac": mac_text}
_WIDTHS: Final = {"ipv4": 4, "ipv6": 16, "mac": 6}


class FieldStats:
    """One field of a table: `numbers` by powers of two (lengths, of byte strings), `top`: frequent values."""

    __slots__ = ("_bytes", "_known", "_schema", "_single", "_top", "column", "kind", "numbers", "unread")

    def __init__(self, schema: Schema, column: Column) -> None:
        field = column.field
        self.column = column
        self._schema = schema
        self.kind = "name" if column.named else TYPES[field.type].kind
        self.numbers = Log2()
        self.unread = 0  # values that the probe could not read
        self._top = Top()
        self._bytes = TopBytes()
        self._known = True  # numbers are few enough to be counted one by one
        self._single = self.kind in ("int", "name", "bool") and field.count == 1

    @property
    def single(self) -> bool:
        """Whether it is one integer, and those are counted one by one: `join` takes what was counted."""
        return self._single and self._known

    def add(self, columns: Columns) -> None:
        """Count the field's values, of byte strings their lengths, but those that could not be read."""
        import numpy as np

        field = self.column.field
        if self._is_text and field.count == 1:
            unread = self._bytes.count(columns, field)
            if unread is not None:
                self.unread += unread
                return
        if TYPES[field.type].tail:
            starts, lengths = columns.located(field)
            none = columns.unread(field)
            if none.any():
                self.unread += int(none.sum())
                starts, lengths = starts[~none], lengths[~none]
            if self.kind == "bytes":
                self.numbers.add(lengths)
            else:
                self._bytes.add(columns.data, starts, lengths)
        elif not self._is_text:
            self._numbers(columns.column(field).reshape(-1))
        elif field.count == 1:
            self._bytes.add(columns.data, *columns.located(field))
        else:
            values = columns.column(field._replace(type="raw") if self.kind in _ADDRESSES else field)
            width, octets = values.dtype.itemsize, np.ascontiguousarray(values).view(np.uint8).reshape(-1)
            places = np.arange(0, len(octets), width, dtype=np.uint64)
            self._bytes.add(octets, places, np.full(len(places), width, np.uint64))

    def join(self, keys: "Array", times: "Array") -> None:
        """Count distinct integers in order, at most NUMBERS, each so many times."""
        if self.kind == "bool":
            keys, times = counted_bools(keys, times)
        self._top.join(keys, times)
        if self.kind == "int" and self._top.distinct > NUMBERS:  # so far `_top` is exact
            self._known = False
            self.numbers.add(*self._top.arrays())

    def finish(self) -> None:
        """No more values come: numbers that were counted one by one get their powers of two."""
        if self.kind == "int" and self._known and self._top.distinct:
            self.numbers.add(*self._top.arrays())

    def _numbers(self, values: "Array") -> None:
        import numpy as np

        if values.dtype == bool:
            values = values.astype(np.uint8)
        if self.kind != "int":
            self._top.add(values)
            return
        if self._known:
            keys, times = counted(values)
            if len(keys) <= NUMBERS:
                self.join(keys, times)
                return
            self._known = False
            if self._top.distinct:
                self.numbers.add(*self._top.arrays())
        self.numbers.add(values)

    @property
    def distinct(self) -> int | None:
        """How many different values there are; None where they were too many to tell apart."""
        if self.kind == "bytes" or not self._known:
            return None
        counts = self._bytes if self._is_text else self._top
        return counts.distinct + (self.unread > 0) if counts.exact else None

    @property
    def error(self) -> int:
        """The most that a count of `top` can be too small."""
        return (self._bytes if self._is_text else self._top).error

    @property
    def _is_text(self) -> bool:
        return self.kind in ("str", "text", "raw", *_ADDRESSES)

    def top(self, count: int = TOP) -> list[tuple[Any, int]]:
        """The most frequent values, as they are shown, with their counts; none of numbers of all kinds.

        None stands for those that could not be read.
        """
        if self._is_text:
            found: list[tuple[Any, int]] = [
                (self._shown(value), times) for value, times in self._bytes.most(count)
            ]
            if self.unread:
                found = sorted([*found, (None, self.unread)], key=lambda pair: -pair[1])[:count]
            return found
        if not self._known:
            return []
        return [(self._named(value), times) for value, times in self._top.most(count)]

    def _shown(self, value: bytes) -> str:
        show = _ADDRESSES.get(self.kind)
        if show is not None:
            return show(value.ljust(_WIDTHS[self.kind], b"\0"))
        if self.kind == "raw":
            field = self.column.field
            return value.ljust(field.size // field.count, b"\0").hex()
        return text(value)

    def _named(self, value: int) -> Any:
        if self.kind == "bool":
            return bool(value)
        if self.kind != "name":
            return value
        name = scalar_name(self._schema, self.column.field, Labels(self._schema))
        return (name(value) if name else "") or str(value)


class TableStats:
    """The events of one table on one host."""

    __slots__ = (
        "_units",
        "_used",
        "events",
        "fields",
        "host",
        "latencies",
        "lost",
        "produced",
        "seen",
        "table",
        "timing",
    )

    def __init__(self, schema: Schema) -> None:
        self.table: Table  # as soon as all tables are known
        self.host = schema.host
        self.events = self.lost = 0
        self.produced: int | None = 0
        self.seen: list[ProbeSummary] = []
        self.timing = Timing()
        shown = [column for column in columns_of(schema) if not column.beside]
        self.fields = [FieldStats(schema, column) for column in shown]
        durations = [column.field for column in shown if is_duration(column.field)]
        self.latencies = {field.name: Latency() for field in durations}
        self._used = durations  # those of which the values themselves are used
        if role(schema) is not None:
            self._used = durations + _thread(shown)
        self._units = {field.name: UNITS[field.unit] for field in durations}

    def add(self, block: Block) -> dict[str, "Array"]:
        """Count a block; gives the columns of durations, and of the thread where it is an end of a call."""
        self.events += len(block.times)
        self.timing.add(block.times)
        columns = block.columns()
        single = [one for one in self.fields if one.single]
        others = [one for one in self.fields if not one.single]
        found = of_numbers(columns, [one.column.field for one in single])
        for one, some in zip(single, found, strict=True):
            if some is None:
                others.append(one)
            else:
                one.join(*some)
        for one in others:
            one.add(columns)
        values = {field.name: columns.column(field) for field in self._used}
        for name, latency in self.latencies.items():
            latency.add(block.times, _nanoseconds(values[name], self._units[name]))
        return values


def _thread(columns: Sequence[Column]) -> list[Field]:
    """The field that tells an event's thread; none where no number does."""
    named = {column.field.name: column.field for column in columns}
    fields = [named[name] for name in ("tid", "pid") if name in named]
    return [one for one in fields if TYPES[one.type].kind in ("int", "bool")][:1]


def is_duration(field: Field) -> bool:
    """Whether a field says how long something took."""
    rule = TYPES[field.type]
    return field.unit in UNITS and field.count == 1 and rule.kind == "int" and not field.enum


def _nanoseconds(values: "Array", unit: int) -> "Array":
    """Durations in ns, unsigned; negative ones are 0, what 64 bits do not hold is their greatest."""
    import numpy as np

    wide = np.maximum(values, 0).astype(np.uint64) if values.dtype.kind == "i" else values.astype(np.uint64)
    if unit == 1:
        return wide
    most = ((1 << 64) - 1) // unit
    return np.minimum(wide, np.uint64(most)) * np.uint64(unit)


class Stats:
    """The statistics of what is chosen of a capture: `tables`, `calls`; the sums stand in `capture_summary`.

    A capture summary that has not read the capture yet reads it along, so that there is one reading. `grid`:
    where all counts over time lie.
    """

    __slots__ = (
        "_by",
        "_keys",
        "_room",
        "calls",
        "capture_summary",
        "first",
        "grid",
        "last",
        "maps",
        "name",
        "scan",
        "tables",
    )

    def __init__(
        self,
        source: Source,
        capture_summary: CaptureSummary,
        selection: Selection | None = None,
        progress: Progress | None = None,
    ) -> None:
        selection = selection or Selection()
        self.name, self.capture_summary = source.name, capture_summary
        self._by: dict[object, TableStats] = {}
        self._room = HELD  # times of each that wait
        self._keys: dict[int, tuple[Schema, object]] = {}
        self.calls: dict[tuple[str, str], Calls] = {}
        waiting, together = 0, None  # the last round
        alone = not capture_summary.read
        with source.open(once=alone) as capture:
            watch = capture_summary.add if alone else None
            self.scan = Scan(capture, selection, progress, maps=False, watch=watch)
            for block in self.scan:
                if waiting >= PAIRED and block.round is not together:  # both ends of what was read have come
                    waiting = 0
                    for call in self.calls.values():
                        call.pair()
                together = block.round
                numbers = self._table(block.schema).add(block)
                self._call(block, numbers)
                waiting += len(block.times)
            if alone:
                capture_summary.end(capture, source)
        self.first = max(capture_summary.begins, selection.first) if capture_summary.events else 0
        self.last = max(min(capture_summary.ends, selection.last), self.first)
        wanted = [seen.schema for seen in capture_summary.probes if selection.wants(seen.schema)]
        known = Tables(schema for schema in wanted if schema.map is None)
        self.maps = list(dict.fromkeys(schema.target for schema in wanted if schema.map is not None))
        """The maps that were printed, or left at the end."""
        self.tables: list[TableStats] = []
        for seen in capture_summary.probes:
            table = known.find(seen.schema) if selection.wants(seen.schema) else None
            if table is None:
                continue
            one = self._table(seen.schema)
            if not one.seen:
                one.table = table
                self.tables.append(one)
            one.seen.append(seen)
        self._finish()

    def _table(self, schema: Schema) -> TableStats:
        """The statistics that events of this schema belong to."""
        known = self._keys.get(id(schema))
        if known is None:
            known = self._keys[id(schema)] = (schema, (layout(schema), schema.host))
        found = self._by.get(known[1])
        if found is None:
            found = self._by[known[1]] = TableStats(schema)
            self._room = room(len(self._by))
        found.timing.room = self._room
        return found

    def _call(self, block: Block, numbers: dict[str, "Array"]) -> None:
        """Take an end of a call, where the events are that and tell their thread."""
        end = role(block.schema)
        threads = numbers.get("tid", numbers.get("pid"))
        if end is None or threads is None or threads.ndim != 1 or threads.dtype.kind not in "iu":
            return
        key = (end.key, block.schema.host)
        if key not in self.calls:
            self.calls[key] = Calls(end.name)
        self.calls[key].add(block.times, threads, begins=end.begins)

    def _finish(self) -> None:
        for call in self.calls.values():
            call.pair(last=True)
        self.calls = {key: call for key, call in self.calls.items() if call.latency.durations.count}
        latencies = [call.latency for call in self.calls.values()]
        latencies += [latency for table in self.tables for latency in table.latencies.values()]
        timelines = [table.timing.timeline for table in self.tables]
        laid: list[Timeline | Latency] = [*timelines, *latencies]
        self.grid = grid_of(one.stretches for one in laid)
        for one in laid:
            one.lay(self.grid)
        lost: dict[tuple[str, str], int] = {}
        for schema, loss in self.scan.losses:
            if schema is not None and loss.cause != Cause.MISSED_SHARED:
                key = (schema.probe, schema.host)
                lost[key] = lost.get(key, 0) + loss.count
        for table in self.tables:
            table.timing.finish()
            for field in table.fields:
                field.finish()
            table.lost = lost.get((table.table.probe, table.host), 0)
            told = [seen.produced for seen in table.seen]
            table.produced = None if None in told else sum(count for count in told if count is not None)
