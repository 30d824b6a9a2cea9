"""Events for Python programs: one typed object each, or whole columns.

Invariant: bytes are decoded when somebody looks. A batch is copied out of the ring as one span; an `Event`
decodes itself when it is made; columns are gathered by numpy without a step for each event.
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat

from kwire.arguments import checked
from kwire.errors import KwireError
from kwire.hints import TYPE_CHECKING, Any
from kwire.wire.fields import CUT, UNREAD, Field
from kwire.wire.frame import Type
from kwire.wire.frames import Frames
from kwire.wire.schema import EARLIEST, LATEST, Schema, Value
from kwire.wire.stacks import Stacks

if TYPE_CHECKING:
    from kwire.view.where import Where


class Event:
    """One event. Its fields are attributes, `event.pid`, and items, `event["pid"]`: what the probe emitted.

    `probe`: the probe spec; `time_ns`: wall clock, nanoseconds since 1970; `fields`: all of them by name. A
    field that is called like one of these is an item only. A text or bytes that the probe could not read (the
    memory was not there) is None.
    """

    __slots__ = ("_schema", "_values", "time_ns")

    def __init__(self, schema: Schema, time_ns: int, values: Sequence[Value]) -> None:
        self._schema = schema
        self._values = values
        self.time_ns = time_ns

    @property
    def probe(self) -> str:
        """The probe spec: `kprobe:tcp_connect`."""
        return self._schema.probe

    @property
    def fields(self) -> "dict[str, Value | None]":
        """All fields by name, in the order of the probe."""
        fields = zip(self._schema.fields, self._values, strict=True)
        return {field.name: None if isinstance(value, UNREAD) else value for field, value in fields}

    @property
    def cut(self) -> tuple[str, ...]:
        """The fields whose text or bytes were cut at their limit: they were longer."""
        fields = zip(self._schema.fields, self._values, strict=True)
        return tuple(field.name for field, value in fields if isinstance(value, CUT))

    def __getitem__(self, name: str) -> Any:
        for field, value in zip(self._schema.fields, self._values, strict=True):
            if field.name == name:
                return None if isinstance(value, UNREAD) else value
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        return any(field.name == name for field in self._schema.fields)

    def keys(self) -> list[str]:
        """The fields' names, so that `dict(event)` works."""
        return [field.name for field in self._schema.fields]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in Event.__slots__:  # of an object that is being made
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError:
            known = ", ".join(self.keys())
            message = f"an event of {self._schema.probe} has no field {name!r}; it has {known}"
            raise AttributeError(message) from None

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.keys()})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Event):
            return NotImplemented
        return (self.probe, self.time_ns, self.fields) == (other.probe, other.time_ns, other.fields)

    def __hash__(self) -> int:
        return hash((self.probe, self.time_ns))

    def __reduce__(self) -> tuple[object, ...]:
        # The symbols of all functions may be megabytes, and an event's own fields need none of them.
        return Event, (self._schema._replace(symbols={}, stacks=None), self.time_ns, tuple(self._values))

    def _repr_html_(self) -> str:
        """The event in a notebook: a row a field."""
        from kwire.view.html import table

        return table(["field", "value"], list(self.fields.items()), self.probe)

    def __repr__(self) -> str:
        fields = " ".join(f"{name}={value!r}" for name, value in self.fields.items())
        return f"<{self._schema.probe} {self.time_ns} {fields}>"


class Choice:
    """Which events are wanted: `probe` a glob over specs, `where` a condition, a range of wall-clock ns."""

    __slots__ = ("_first", "_last", "_probe", "_tests", "_where")

    def __init__(
        self, probe: str | None = None, where: str | None = None, first: int = EARLIEST, last: int = LATEST
    ) -> None:
        """Raises KwireError for a condition that is none, and for what is of the wrong type."""
        probe, where, first, last = checked("choose events", probe=probe, where=where, first=first, last=last)
        self._probe = probe
        self._first = EARLIEST if first is None else first
        self._last = LATEST if last is None else last
        self._where: Where | None = None
        if where is not None:
            from kwire.view import where as conditions

            self._where = conditions.Where(where)
        self._tests: dict[int, Callable[[int, Any], bool] | None] = {}

    def check(self, schemas: Sequence[Schema], subject: str) -> None:
        """Raise KwireError where no probe is chosen, or the condition cannot be evaluated."""
        chosen = [schema for schema in schemas if self.names(schema)]
        if not chosen and self._probe is not None:
            known = ", ".join(schema.probe for schema in schemas)
            raise KwireError("read", subject, f"no probe matches {self._probe!r}", f"there are: {known}")
        if self._where is not None:
            self._where.check(chosen)

    def names(self, schema: Schema) -> bool:
        """Whether events of this probe can be wanted."""
        return self._probe is None or schema.matches(self._probe)

    def wants(self, schema: Schema, time: int, values: Sequence[Value]) -> bool:
        """Whether this event is wanted."""
        if not self._first <= time <= self._last or not self.names(schema):
            return False
        if self._where is None:
            return True
        test = self._tests.get(schema.id)
        if test is None:
            test = self._tests[schema.id] = self._where.test(schema)
        return test(time, tuple(values))

    def mask(self, schema: Schema, frames: Frames, times: Any) -> Any:
        """Which of these events, all of this schema, are wanted: an array of bool."""
        found = (times >= self._first) & (times <= self._last)
        if self._where is not None:
            from kwire.view.filter import Events, mask

            found &= mask(self._where, schema)(Events(schema, frames, times))
        return found


EVERYTHING = Choice()
"""The choice of all events."""


class Batch:
    """A sink that keeps copies of the frames it is given until they are taken."""

    __slots__ = ("_decoders", "_kept", "_schemas", "losses")

    def __init__(self, schemas: Sequence[Schema]) -> None:
        self._schemas = {schema.id: schema for schema in schemas}
        self._decoders: dict[int, Callable[..., tuple[Value, ...]]] = {}
        self._kept: list[Frames] = []
        self.losses: list[Any] = []

    def write(self, frames: Frames) -> None:
        """Copy the span that holds the frames; tables of maps are no events."""
        count = frames.count
        if not count or frames.header(0).type == Type.TABLE:
            return
        wrap = count  # where the ring's end lies among the frames: the offsets begin anew
        if frames.offsets[count - 1] < frames.offsets[0]:
            wrap = next(at for at in range(1, count) if frames.offsets[at] < frames.offsets[at - 1])
        for start, stop in ((0, wrap), (wrap, count)):
            if start < stop:
                self._keep(frames, start, stop)

    def _keep(self, frames: Frames, start: int, stop: int) -> None:
        first = frames.offsets[start]
        end = frames.offsets[stop - 1] + len(frames.frame_bytes(stop - 1))
        offsets = array("Q", (frames.offsets[index] - first for index in range(start, stop)))
        self._kept.append(Frames(bytes(frames.view[first:end]), offsets))

    def lost(self, losses: list[Any]) -> None:
        """Keep what is known of the holes."""
        self.losses.extend(losses)

    def flush(self) -> None:
        """Nothing waits here."""

    def take(self, choice: Choice = EVERYTHING) -> list[Event]:
        """The events kept that are wanted, oldest first, and forget all."""
        kept, self._kept = self._kept, []
        events = [self._event(frames, index) for frames in kept for index in range(frames.count)]
        if choice is not EVERYTHING:
            events = [one for one in events if choice.wants(one._schema, one.time_ns, one._values)]
        events.sort(key=lambda event: event.time_ns)  # each CPU's are in order; together they are not
        return events

    def columns(self, choice: Choice = EVERYTHING) -> dict[str, Any]:
        """One numpy array a field for the events wanted of the one probe chosen, and forget all.

        `time` is the events' clock (nanoseconds of the monotonic clock), `time_ns` the wall clock; `NAME_cut`
        says whether a text was cut at its limit, `NAME_unread` whether it could not be read.
        """
        import numpy as np

        from kwire.wire.columns import columns, marks

        schema = self._choose(choice)
        kept, self._kept = self._kept, []
        parts = []
        for frames in [*kept, Frames(b"", array("Q"))]:
            only = frames.select(at for at in range(frames.count) if frames.header(at).id == schema.id)
            part = columns(schema, only) | marks(schema, only)
            # A field called "time" hides the clock, which the frames have all the same.
            clock = part["time"]
            if "time" in {field.name for field in schema.fields}:
                clock = columns(schema._replace(fields=()), only)["time"]
            part["time_ns"] = clock.astype(np.int64) + schema.wall(0)
            if choice is not EVERYTHING:
                wanted = choice.mask(schema, only, part["time_ns"])
                part = {name: column[wanted] for name, column in part.items()}
            parts.append(part)
        gathered = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        order = np.argsort(gathered["time_ns"], kind="stable")
        from kwire.live.frames import meant

        return {name: meant(schema, name, column[order]) for name, column in gathered.items()}

    def _event(self, frames: Frames, index: int) -> Event:
        frame = frames.frame_bytes(index)
        schema = self._schemas[int.from_bytes(frame[4:8], "big")]
        decode = self._decoders.get(schema.id)
        if decode is None:
            decode = self._decoders[schema.id] = schema.decoder()
        values = decode(frame)
        return self._made(schema, schema.wall(schema.timestamp(frame)), values)

    def _made(self, schema: Schema, time: int, values: Sequence[Value]) -> Event:
        """The event of these values, as they were decoded."""
        if schema.stacks is not None:
            values = tuple(map(_meant, schema.fields, values, repeat(schema.stacks)))
        return Event(schema, time, values)

    def _choose(self, choice: Choice) -> Schema:
        schemas = [schema for schema in self._schemas.values() if choice.names(schema)]
        if len(schemas) == 1:
            return schemas[0]
        known = ", ".join(schema.probe for schema in schemas)
        raise KwireError("make columns", "", f"{len(schemas)} probes match", f"name one of: {known}")


def _meant(field: Field, value: Any, stacks: Stacks) -> Any:
    """A value, or the stack that it is the number of."""
    return stacks.stack(value) if field.type == "stack" else value
