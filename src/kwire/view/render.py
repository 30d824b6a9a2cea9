"""From Frames to lines: finds each frame's schema, decodes, filters, hands the values to a format.

The laws: every EVENT frame that is wanted makes exactly one line, a record that cannot be decoded included;
LOST frames are never counted as events; what depends on a schema is prepared once, not for each event.
"""

import struct
from collections.abc import Callable, Mapping
from typing import IO, Any, Literal, NamedTuple, Protocol, TypeAlias

from kwire.wire.fields import TYPES
from kwire.wire.frame import FrameError, Type
from kwire.wire.frames import Frames
from kwire.wire.messages import Lost
from kwire.wire.schema import Clock, Schema, clock_of

Values: TypeAlias = "tuple[Any, ...]"
Row: TypeAlias = "tuple[int, str]"  # wall-clock ns and the line, without its end
Test: TypeAlias = Callable[[int, Values], bool]

_NUMBERS = frozenset(name for name, rule in TYPES.items() if rule.kind == "int" and len(rule.sizes) == 1)
CONTEXT = {"cpu": _NUMBERS, "pid": _NUMBERS, "comm": frozenset({"str", "text"})}
"""Fields with a place of their own → the types that have it; others of this name are fields like any."""

_header = struct.Struct(">BBHI").unpack_from


def context(schema: Schema) -> dict[str, int]:
    """Where those of CONTEXT are among the fields: each that holds what its name promises."""
    return {
        field.name: index
        for index, field in enumerate(schema.fields)
        if field.count == 1 and not field.enum and field.type in CONTEXT.get(field.name, ())
    }


class Format(Protocol):
    """A way to write events. Lines have no end mark; an empty one is left out.

    `before` gives a line to stand before that of an event at this time, mostly none; None: never any.
    """

    @property
    def before(self) -> Callable[[int], str] | None:
        """See above."""

    def event(self, schema: Schema) -> Callable[[int, Values], str]:
        """The function from (wall-clock ns, values in the fields' order) to the line of an event."""

    def bad(self, time: int | None, id: int, schema: Schema | None, why: str) -> str:
        """The line of an event that cannot be decoded; no time: it is not known."""

    def lost(self, time: int | None, schema: Schema | None, loss: Lost) -> str:
        """The line of a LOST frame; no time: it is not known."""


class _Prepared(NamedTuple):
    """What turns the EVENTs of one schema into lines."""

    schema: Schema
    wanted: bool
    decode: Callable[[Any], Values]
    timestamp: Callable[[Any, int], "tuple[int, ...]"]
    wall: int  # added to a timestamp
    write: Callable[[int, Values], str]
    test: Test | None


class Renderer:
    """Turns frames into rows. `choose` picks probes, `where` makes the test of each event for a schema.

    `events` counts the events that made a line, `lost` those that LOST frames count.
    """

    __slots__ = ("_choose", "_last", "_nearest", "_prepared", "_where", "events", "format", "holes", "lost")

    def __init__(
        self,
        format: Format,
        choose: Callable[[Schema], bool] | None = None,
        where: Callable[[Schema], Test] | None = None,
    ) -> None:
        self.format = format
        self._choose = choose
        self._where = where
        self._prepared: dict[int, _Prepared] = {}
        self._nearest: tuple[Mapping[int, Schema], int, Schema | None] = ({}, 0, None)
        self._last = 0  # wall-clock ns of the last event: where what has no time of its own stands
        self.events = 0
        self.holes = 0
        self.lost = 0

    def rows(self, frames: Frames, schemas: Mapping[int, Schema]) -> list[Row]:
        """The rows of these frames, in their order; `schemas` by probe number."""
        rows: list[Row] = []
        view, offsets, prepared = frames.view, frames.offsets, self._prepared
        for index in range(frames.count):
            offset = offsets[index]
            kind, _, length, id = _header(view, offset)
            if kind & 15 != Type.EVENT:
                if kind & 15 == Type.LOST:
                    rows += self.losses([Lost.read(frames.frame(index))], schemas)
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
            time = self._last = probe.timestamp(view, offset + 8)[0] + probe.wall
            try:
                values = probe.decode(view[offset : offset + length])
                if probe.test is not None and not probe.test(time, values):
                    continue
                rows.append((time, probe.write(time, values)))
            except FrameError as error:
                rows.append((time, self.format.bad(time, id, probe.schema, str(error.problem))))
            self.events += 1
        return rows

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
            time = clock.at(loss.last) if clock and loss.last else None
            self.lost += loss.count
            self.holes += 1
            line = self.format.lost(time, schema, loss)
            if line:
                rows.append((self._last if time is None else time, line))
        return rows

    def _near(self, schemas: Mapping[int, Schema]) -> Schema | None:
        """The schema whose clock tells the time of what no schema describes; looked for once for each set."""
        if self._nearest[0] is not schemas or self._nearest[1] != len(schemas):
            clock = clock_of(schemas.values())
            near = next((one for one in schemas.values() if one.clock == clock), None) if clock else None
            self._nearest = (schemas, len(schemas), near)
        return self._nearest[2]

    def _unknown(self, id: int, raw: int, clock: Clock | None) -> list[Row]:
        if self._choose is not None or self._where is not None:
            return []
        self.events += 1
        time = None if clock is None else clock.at(raw)
        line = self.format.bad(time, id, None, "UNKNOWN_SCHEMA: nothing describes this probe")
        return [(self._last if time is None else time, line)]

    def _prepare(self, schema: Schema) -> _Prepared:
        order = "<Q" if schema.order == "little" else ">Q"
        return _Prepared(
            schema,
            self._choose is None or self._choose(schema),
            schema.decoder(),
            struct.Struct(order).unpack_from,
            schema.wall(0),
            self.format.event(schema),
            self._where(schema) if self._where else None,
        )


class Ordered:
    """Rows on their way to a text stream, in order of time as far as `window` rows reach; 0: each `flush`.

    Events of several CPUs lie in a capture in runs, so their order of time is found by sorting.
    """

    __slots__ = ("_format", "_rows", "_stream", "_window")

    def __init__(self, format: Format, stream: IO[str], window: int = 0) -> None:
        self._format = format
        self._stream = stream
        self._window = window
        self._rows: list[Row] = []

    def add(self, rows: list[Row]) -> None:
        """Take rows; the oldest are written once there are many more than the window holds."""
        self._rows += rows
        if self._window and len(self._rows) > 2 * self._window:
            self._rows.sort(key=_time)
            self._write(self._rows[: -self._window])
            del self._rows[: -self._window]

    def flush(self) -> None:
        """Write all there is."""
        rows, self._rows = self._rows, []
        rows.sort(key=_time)
        self._write(rows)
        self._stream.flush()

    def _write(self, rows: list[Row]) -> None:
        if not rows:
            return
        before = self._format.before
        if before is None:
            lines = [line for _, line in rows]
        else:
            lines = [part for time, line in rows for part in (before(time), line) if part]
        lines.append("")
        self._stream.write("\n".join(lines))


class Screen:
    """A sink that writes the lines of a live trace to a text stream, each round's events in order of time."""

    __slots__ = ("_out", "_renderer", "_schemas")

    def __init__(self, renderer: Renderer, schemas: Mapping[int, Schema], stream: IO[str]) -> None:
        self._renderer = renderer
        self._schemas = schemas
        self._out = Ordered(renderer.format, stream)

    def write(self, frames: Frames) -> None:
        """Take frames; nothing of them is kept but their lines."""
        self._out.add(self._renderer.rows(frames, self._schemas))

    def lost(self, losses: list[Lost]) -> None:
        """Take losses."""
        self._out.add(self._renderer.losses(losses, self._schemas))

    def flush(self) -> None:
        """Show what came in this round."""
        self._out.flush()


def _time(row: Row) -> int:
    return row[0]
