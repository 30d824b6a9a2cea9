"""Events for Python programs: one typed object each, or whole columns.

The law: bytes are decoded when somebody looks. A batch is copied out of the ring as one span; an `Event`
decodes itself when it is made; columns are gathered by numpy without a step for each event.
"""

from array import array
from collections.abc import Callable, Sequence
from typing import Any

from kwire.errors import KwireError
from kwire.wire.fields import CUT
from kwire.wire.frames import Frames
from kwire.wire.schema import Schema, Value


class Event:
    """One event. Its fields are attributes: `event.pid`, `event.comm`, whatever the probe emitted.

    `probe`: the probe spec; `time_ns`: wall clock, nanoseconds since 1970; `fields`: all of them by name.
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
    def fields(self) -> dict[str, Value]:
        """All fields by name, in the order of the probe."""
        return {field.name: value for field, value in zip(self._schema.fields, self._values, strict=True)}

    @property
    def cut(self) -> tuple[str, ...]:
        """The fields whose text or bytes were cut at their limit: they were longer."""
        fields = zip(self._schema.fields, self._values, strict=True)
        return tuple(field.name for field, value in fields if isinstance(value, CUT))

    def __getattr__(self, name: str) -> Any:
        for field, value in zip(self._schema.fields, self._values, strict=True):
            if field.name == name:
                return value
        names = ", ".join(field.name for field in self._schema.fields)
        raise AttributeError(f"an event of {self._schema.probe} has no field {name!r}; it has {names}")

    def __repr__(self) -> str:
        fields = " ".join(f"{name}={value!r}" for name, value in self.fields.items())
        return f"<{self._schema.probe} {self.time_ns} {fields}>"


class Batch:
    """A sink that keeps copies of the frames it is given until they are taken."""

    __slots__ = ("_decoders", "_kept", "_schemas", "losses")

    def __init__(self, schemas: Sequence[Schema]) -> None:
        self._schemas = {schema.id: schema for schema in schemas}
        self._decoders: dict[int, Callable[..., tuple[Value, ...]]] = {}
        self._kept: list[Frames] = []
        self.losses: list[Any] = []

    def write(self, frames: Frames) -> None:
        """Copy the span that holds the frames."""
        count = frames.count
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

    def take(self) -> list[Event]:
        """The events kept, oldest first, and forget them."""
        kept, self._kept = self._kept, []
        events = [self._event(frames, index) for frames in kept for index in range(frames.count)]
        events.sort(key=lambda event: event.time_ns)  # each CPU's are in order; together they are not
        return events

    def columns(self, probe: str | None) -> dict[str, Any]:
        """One numpy array a field for the events kept of one probe, and forget those of all probes.

        `probe`: a probe spec, or the part after the kind; may be left out when there is only one. `time` is
        the events' clock (nanoseconds of the monotonic clock), `time_ns` the wall clock; `NAME_cut` says
        whether a text was cut at its limit.
        """
        import numpy as np

        from kwire.wire.columns import columns, cuts

        schema = self._choose(probe)
        kept, self._kept = self._kept, []
        some = kept or [Frames(b"", array("Q"))]
        parts = [columns(schema, frames) | cuts(schema, frames) for frames in some]
        gathered = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        order = np.argsort(gathered["time"], kind="stable")
        gathered = {name: column[order] for name, column in gathered.items()}
        gathered["time_ns"] = gathered["time"] + np.uint64(schema.wall(0) & (1 << 64) - 1)
        return gathered

    def _event(self, frames: Frames, index: int) -> Event:
        frame = frames.frame_bytes(index)
        schema = self._schemas[int.from_bytes(frame[4:8], "big")]
        decode = self._decoders.get(schema.id)
        if decode is None:
            decode = self._decoders[schema.id] = schema.decoder()
        return Event(schema, schema.wall(schema.timestamp(frame)), decode(frame))

    def _choose(self, probe: str | None) -> Schema:
        schemas = list(self._schemas.values())
        if probe is not None:
            schemas = [schema for schema in schemas if probe in (schema.probe, schema.target)]
        if len(schemas) == 1:
            return schemas[0]
        known = ", ".join(schema.probe for schema in self._schemas.values())
        cause = "no probe of this trace has that name" if probe else "there is more than one probe"
        raise KwireError("make columns", probe or "", cause, f"name one of: {known}")
