"""From Frames to lines: finds each frame's schema, decodes, filters, hands the values to a format.

Invariants: every EVENT frame that is wanted makes exactly one line, a record that cannot be decoded included;
LOST frames are never counted as events; what depends on a schema is prepared once, not for each event.
"""

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence

from kwire import native
from kwire.hints import IO, Any, Literal, Protocol, TypeAlias
from kwire.lazy import NamedTuple
from kwire.view.batches import FEW, MORE, Batches, LinePart, LineRun, together
from kwire.wire.fields import TYPES
from kwire.wire.frame import Frame, FrameError, Type
from kwire.wire.frames import Frames
from kwire.wire.messages import Lost
from kwire.wire.schema import EARLIEST, LATEST, Clock, Schema, bounded, clock_of
from kwire.wire.tables import MapTable, TableReader, learn, problem

Values: TypeAlias = "tuple[Any, ...]"
Row: TypeAlias = "tuple[int, Any, bool]"  # wall-clock ns, what the format makes of it, whether it is an event
Test: TypeAlias = Callable[[int, Values], bool]

_NUMBERS = frozenset(name for name, rule in TYPES.items() if rule.kind == "int" and len(rule.sizes) == 1)
CONTEXT = {"cpu": _NUMBERS, "pid": _NUMBERS, "comm": frozenset({"str", "text"})}
"""Fields with a place of their own → the types that have it; others of this name are fields like any."""

STREAMS = 64
"""Sets of schemas whose tables are put together at once."""

ROOM = 16 << 20
"""Characters of lines that wait to be put in order, about."""

_header = struct.Struct(">BBHI").unpack_from


def context(schema: Schema) -> dict[str, int]:
    """Where those of CONTEXT are among the fields: each that holds what its name promises."""
    return {
        field.name: index
        for index, field in enumerate(schema.fields)
        if field.count == 1 and not field.enum and field.type in CONTEXT.get(field.name, ())
    }


class Format(Protocol):
    """A way to write events. What it makes of each is its own business until `lines` makes text of it.

    `END`: what stands behind each line.
    """

    @property
    def END(self) -> str:  # noqa: N802  # a constant of the class
        """What stands behind each line."""

    def event(self, schema: Schema) -> Callable[[int, Values], Any]:
        """The function from (wall-clock ns, values in the fields' order) to what a row holds of an event."""

    def bad(self, time: int | None, id: int, schema: Schema | None, why: str) -> Any:
        """The same for an event that cannot be decoded; no time: it is not known."""

    def lost(self, time: int | None, schema: Schema | None, loss: Lost) -> Any:
        """The same for a LOST frame; nothing (None) where the format has no line for it."""

    def table(self, time: int, schema: Schema, held: MapTable) -> Any:
        """The same for what a script printed of a map; nothing (None) where the format has no line for it."""

    def left(self, held: Sequence[tuple[Schema, MapTable]]) -> str:
        """What is written behind all else, of the maps that were left at the end."""

    def lines(self, rows: Sequence[Row]) -> list[str]:
        """The lines of rows that are written together, in their order; without end marks."""

    def parts(self, schema: Schema) -> Sequence[LinePart] | None:
        """What lines of a schema's events are made of, end marks too; None: they are written one by one."""


class _Prepared(NamedTuple):
    """What turns the EVENTs of one schema into lines."""

    schema: Schema
    wanted: bool
    decode: Callable[[Any], Values]
    timestamp: Callable[[Any, int], "tuple[int, ...]"]
    wall: int  # added to a timestamp
    write: Callable[[int, Values], Any]
    test: Test | None


class Renderer:
    """Turns frames into rows. `choose` picks probes, `where` makes the test of each event for a schema.

    `first`, `last`: events are of these times, wall-clock ns, both included; losses touch them.

    `events` counts the events that made a line, `lost` those that LOST frames count, `strangers` those of no
    known schema. `left`: the maps that were left at the end; a format writes them when all rows are written.
    """

    __slots__ = (
        "_batches",
        "_between",
        "_choose",
        "_last",
        "_nearest",
        "_prepared",
        "_tables",
        "_where",
        "events",
        "format",
        "holes",
        "left",
        "lost",
        "strangers",
    )

    def __init__(
        self,
        format: Format,
        choose: Callable[[Schema], bool] | None = None,
        where: Callable[[Schema], Test] | None = None,
        first: int = EARLIEST,
        last: int = LATEST,
    ) -> None:
        self.format = format
        self._between = (first, last)
        self._choose = choose
        self._where = where
        self._prepared: dict[int, _Prepared] = {}
        self._nearest: tuple[Mapping[int, Schema], int, Schema | None] = ({}, 0, None)
        self._last = 0  # wall-clock ns of the last event: where what has no time of its own stands
        self.events = 0
        self.holes = 0
        self.lost = 0
        self.strangers = 0
        self.left: list[tuple[Schema, MapTable]] = []
        self._tables: dict[int, tuple[Mapping[int, Schema], TableReader]] = {}  # by the id of the schemas
        self._batches: tuple[Mapping[int, Schema], int, Batches] = ({}, 0, Batches(()))

    def rows(self, frames: Frames, schemas: Mapping[int, Schema]) -> list[Row]:
        """The rows of these frames, in their order; `schemas` by probe number."""
        rows: list[Row] = []
        view, offsets, prepared = frames.view, frames.offsets, self._prepared
        first, last = self._between
        for index in range(frames.count):
            offset = offsets[index]
            kind, _, length, id = _header(view, offset)
            if kind & 15 != Type.EVENT:
                if kind & 15 == Type.LOST:
                    rows += self.losses([Lost.read(frames.frame(index))], schemas)
                elif kind & 15 == Type.TABLE and id in schemas:
                    rows += self._table(frames.frame(index), schemas)
                continue
            probe = prepared.get(id)
            if probe is None or probe.schema is not schemas.get(id):
                schema = schemas.get(id)
                if schema is None:
                    near = self._near(schemas)
                    order: Literal["little", "big"] = "big" if near and near.order == "big" else "little"
                    raw = int.from_bytes(view[offset + 8 : offset + min(16, length)], order)
                    rows += self._unknown(id, raw, near.clock if near else None)
                    continue
                probe = prepared[id] = self._prepare(schema)
            if not probe.wanted:
                continue
            time = probe.timestamp(view, offset + 8)[0] + probe.wall
            if not first <= time <= last:
                time = bounded(time)  # of two numbers of 64 bits it can be more than can be told
                if not first <= time <= last:
                    continue
            self._last = time
            try:
                values = probe.decode(view[offset : offset + length])
                if probe.test is not None and not probe.test(time, values):
                    continue
                rows.append((time, probe.write(time, values), True))
            except FrameError as error:
                rows.append((time, self.format.bad(time, id, probe.schema, str(error.problem)), True))
            self.events += 1
        return rows

    def runs(self, frames: Frames, schemas: Mapping[int, Schema]) -> Iterator[LineRun | list[Row]]:
        """The same as runs of lines where the format can make many at once, and as rows where not."""
        chosen = self._choose or self._where or self._between != (EARLIEST, LATEST)
        start = 0
        while not chosen and start < frames.count and native.print_lines is not None:
            run = self._batch(schemas).lines(frames, start)
            if run is not None:
                self.events += len(run.times)
                self._last = run.last
                start += len(run.times)
                yield run
            if (run is None or len(run.times) < FEW) and start < frames.count:
                end = min(frames.count, start + MORE)  # the next are not tried, one by one
                yield self.rows(frames.select(range(start, end)), schemas)
                start = end
        if start < frames.count:
            yield self.rows(frames, schemas)

    def _batch(self, schemas: Mapping[int, Schema]) -> Batches:
        """What makes many lines of events of these schemas at once; made once for each set."""
        if self._batches[0] is not schemas or self._batches[1] != len(schemas):
            made = Batches([(schema, self.format.parts(schema)) for schema in schemas.values()])
            self._batches = (schemas, len(schemas), made)
        return self._batches[2]

    def _table(self, frame: Frame, schemas: Mapping[int, Schema]) -> list[Row]:
        """The row of the table whose last frame this is, if it is printed here and now."""
        schema = schemas[frame.header.id]
        if self._choose is not None and not schema.tells and not self._choose(schema):
            return []
        known = self._tables.get(id(schemas))
        if known is None:
            if len(self._tables) >= STREAMS:
                del self._tables[next(iter(self._tables))]
            known = self._tables[id(schemas)] = (schemas, TableReader())
        try:
            held = known[1].add(frame)
        except FrameError as error:
            return [(self._last, self.format.bad(None, schema.id, schema, str(error.problem)), False)]
        if held is not None and schema.tells and not problem(schema, held.rows):
            learn(schema, held)
        if held is None or not held.shown:
            return []
        time = bounded(schema.wall(held.time))
        first, last = self._between
        if not first <= time <= last:
            return []
        wrong = problem(schema, held.rows)
        if wrong:
            return [(time, self.format.bad(time, schema.id, schema, wrong), False)]
        if held.shown == "end":
            self.left.append((schema, held))
            return []
        told = self.format.table(time, schema, held)
        return [] if told is None else [(time, told, False)]

    def torn(self) -> int:
        """How many frames belong to tables that are not whole, and so are not shown, once all was read."""
        for _, reader in self._tables.values():
            reader.finish()
        return sum(reader.torn for _, reader in self._tables.values())

    def losses(self, losses: list[Lost], schemas: Mapping[int, Schema]) -> list[Row]:
        """The rows of losses."""
        rows = []
        for loss in losses:
            schema = schemas.get(loss.probe)
            choose = self._choose
            if schema and choose and not any(map(choose, schema.others(loss.cause))):
                continue
            near = schema or self._near(schemas)
            clock = near.clock if near else None
            time = bounded(clock.at(loss.last)) if clock and loss.last else None
            first, last = self._between
            if clock and time is not None and (time < first or bounded(clock.at(loss.first)) > last):
                continue
            self.lost += loss.count
            self.holes += 1
            told = self.format.lost(time, schema, loss)
            if told is not None:
                rows.append((self._last if time is None else time, told, False))
        return rows

    def _near(self, schemas: Mapping[int, Schema]) -> Schema | None:
        """The schema whose clock tells the time of what no schema describes; looked for once for each set."""
        if self._nearest[0] is not schemas or self._nearest[1] != len(schemas):
            clock = clock_of(schemas.values())
            near = next((one for one in schemas.values() if one.clock == clock), None) if clock else None
            self._nearest = (schemas, len(schemas), near)
        return self._nearest[2]

    def _unknown(self, id: int, raw: int, clock: Clock | None) -> list[Row]:
        self.strangers += 1
        if self._choose is not None or self._where is not None or self._between != (EARLIEST, LATEST):
            return []
        self.events += 1
        time = None if clock is None else clock.at(raw)
        told = self.format.bad(time, id, None, "UNKNOWN_SCHEMA: nothing describes this probe")
        return [(self._last if time is None else time, told, True)]

    def _prepare(self, schema: Schema) -> _Prepared:
        order = "<Q" if schema.order == "little" else ">Q"
        wanted = self._choose is None or self._choose(schema)
        return _Prepared(
            schema,
            wanted,
            schema.decoder(),
            struct.Struct(order).unpack_from,
            schema.wall(0),
            self.format.event(schema),
            self._where(schema) if self._where and wanted else None,  # it need not fit the others
        )


def characters(rows: list[Row]) -> int:
    """Characters of their lines."""
    return sum([len(row[1]) for row in rows])


class Ordered:
    """Rows on their way to a text stream, in order of time as far as `window` rows reach; 0: each `flush`.
    `keep`: the stream is left to write when it is full.

    Events of several CPUs lie in a capture in runs, so their order of time is found by sorting. At most ROOM
    characters wait, or what comes at once.
    """

    __slots__ = ("_format", "_keep", "_rows", "_runs", "_size", "_stream", "_window")

    def __init__(self, format: Format, stream: IO[str], window: int = 0, *, keep: bool = False) -> None:
        self._format = format
        self._keep = keep
        self._stream = stream
        self._window = window
        self._rows: list[Row] = []
        self._runs: list[LineRun] = []  # for `flush`
        self._size = 0

    def add(self, rows: list[Row]) -> None:
        """Take rows; the oldest are written once there are many more than the window holds."""
        self._rows += rows
        self._size += characters(rows)
        if self._window and (len(self._rows) > 2 * self._window or self._size > ROOM):
            self._rows.sort(key=_time)
            keep = min(self._window, len(self._rows) // 2)
            self._write(self._rows[: len(self._rows) - keep])
            del self._rows[: len(self._rows) - keep]
            self._size = characters(self._rows)

    def take(self, run: LineRun | list[Row]) -> None:
        """Take a run, or rows; what stands in no window only."""
        if isinstance(run, list):
            self.add(run)
        else:
            self._runs.append(run)

    def flush(self) -> None:
        """Write all there is."""
        rows, self._rows, self._size = self._rows, [], 0
        runs, self._runs = self._runs, []
        text = None if rows else together(runs)
        if text:
            self._stream.write(text)
        else:
            rows += [row for run in runs for row in run.rows()]
        rows.sort(key=_time)
        self._write(rows)
        if not self._keep:
            self._stream.flush()

    def _write(self, rows: list[Row]) -> None:
        if not rows:
            return
        self._stream.write(self._format.END.join([*self._format.lines(rows), ""]))


class Head:
    """The same of the first `count` events by time, as far as `window` rows reach, written at the end."""

    __slots__ = ("_count", "_format", "_rows", "_size", "_stream", "_taken", "_window")

    def __init__(self, format: Format, stream: IO[str], count: int, window: int) -> None:
        self._format, self._stream, self._count, self._window = format, stream, count, window
        self._rows: list[Row] = []
        self._size = self._taken = 0

    @property
    def full(self) -> bool:
        """Whether so many rows were taken that later ones cannot be among the first."""
        return not self._count or self._taken > self._count + self._window

    def add(self, rows: list[Row]) -> None:
        """Take rows; those that cannot be among the first are forgotten where they are long."""
        self._rows += rows
        self._taken += len(rows)
        self._size += characters(rows)
        if self._size > ROOM:
            self._rows.sort(key=_time)
            del self._rows[self._end() :]
            self._size = characters(self._rows)

    def flush(self) -> None:
        """Write the first ones."""
        self._rows.sort(key=_time)
        end = self._end()
        if end:
            self._stream.write(self._format.END.join([*self._format.lines(self._rows[:end]), ""]))
        self._stream.flush()

    def _end(self) -> int:
        """How many rows there are up to the last event that is wanted; they are in order."""
        events, end = 0, 0
        while end < len(self._rows) and events + self._rows[end][2] <= self._count:
            events += self._rows[end][2]
            end += 1
        if events == self._count:  # what stands after the last one is not asked for
            while end and not self._rows[end - 1][2]:
                end -= 1
        return end


class Tail:
    """The same of the last `count` events, written at the end; what else stands among them comes along."""

    __slots__ = ("_count", "_format", "_rows", "_size", "_slack", "_stream")

    def __init__(self, format: Format, stream: IO[str], count: int, window: int) -> None:
        self._format, self._stream, self._count = format, stream, count
        self._slack = max(count, window)  # rows held beyond those that are wanted: their order is not known
        self._rows: list[Row] = []
        self._size = 0

    def add(self, rows: list[Row]) -> None:
        """Take rows; those that are surely too old are forgotten."""
        self._rows += rows
        self._size += characters(rows)
        if len(self._rows) > 2 * (self._count + self._slack) or self._size > ROOM:
            self._rows.sort(key=_time)
            self._forget(self._count if self._size > ROOM else self._count + self._slack)
            self._size = characters(self._rows)

    def flush(self) -> None:
        """Write those that are the last ones now."""
        self._rows.sort(key=_time)
        self._forget(self._count)
        if self._rows:
            self._stream.write(self._format.END.join([*self._format.lines(self._rows), ""]))
        self._rows = []
        self._stream.flush()

    def _forget(self, events: int) -> None:
        """Keep so many events and what stands between them and after."""
        at = len(self._rows)
        while at and events:
            at -= 1
            events -= self._rows[at][2]
        del self._rows[:at]


class Screen:
    """A sink that writes the lines of a live trace to a text stream, each round's events in order of time."""

    __slots__ = ("_out", "_renderer", "_schemas")

    def __init__(
        self, renderer: Renderer, schemas: Mapping[int, Schema], stream: IO[str], *, keep: bool = False
    ) -> None:
        """`keep`: the stream writes when it is full, not after each round."""
        self._renderer = renderer
        self._schemas = schemas
        self._out = Ordered(renderer.format, stream, keep=keep)

    def write(self, frames: Frames) -> None:
        """Take frames; nothing of them is kept but their lines."""
        for run in self._renderer.runs(frames, self._schemas):
            self._out.take(run)

    def lost(self, losses: list[Lost]) -> None:
        """Take losses."""
        self._out.add(self._renderer.losses(losses, self._schemas))

    def flush(self) -> None:
        """Show what came in this round."""
        self._out.flush()


def _time(row: Row) -> int:
    return row[0]
