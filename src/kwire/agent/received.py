"""What an agent sends of a trace, taken apart for sinks: descriptions first, then events and losses in order.

Invariants: a payload is hostile until proven otherwise: what is not sound in it is counted in `problems` and
left out, nothing raises; sinks get EVENT and TABLE frames of what is described, and losses where they stood;
no Python runs for a single event of a payload that holds nothing else.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from kwire.capture import walk
from kwire.capture.accounts import Totals
from kwire.capture.writer import Writer
from kwire.live.recorder import Sink
from kwire.wire.frame import Frame, FrameError, Problem, Type, build
from kwire.wire.frames import Frames
from kwire.wire.messages import Lost
from kwire.wire.payload import said, strict_runs
from kwire.wire.schema import Schema, SchemaReader
from kwire.wire.tables import MapTable, TablePart, TableReader, learn, problem

MOST_PROBES: Final = 1 << 16


class Received:
    """One trace's data. `start` is called with the schemas, once all are described, and gives the sinks."""

    __slots__ = (
        "_counts",
        "_early",
        "_reader",
        "_sinks",
        "_start",
        "_tables",
        "causes",
        "events",
        "left",
        "lost",
        "probes",
        "problems",
        "produced",
        "schemas",
    )

    def __init__(self, start: Callable[[tuple[Schema, ...]], Sequence[Sink]]) -> None:
        self._start = start
        self._reader = SchemaReader()
        self._sinks: Sequence[Sink] | None = None
        self._early: list[Lost] = []  # losses that came before the descriptions
        self._counts = array("Q")
        self._tables = TableReader()
        self.left: list[tuple[Schema, MapTable]] = []
        """What maps held at the end."""
        self.probes = 0
        """How many there are; to be set before the first payload."""
        self.schemas: dict[int, Schema] = {}
        self.events = self.lost = self.problems = 0
        self.causes: Counter[int] = Counter()
        """Losses by cause."""
        self.produced: dict[int, int] | None = None
        """Events by probe, as the agent counted them in the end."""

    @property
    def begun(self) -> bool:
        """Whether everything is described."""
        return self._sinks is not None

    def take(self, payload: bytes) -> None:
        """Take one DATA payload."""
        for frames in strict_runs(payload, self._refuse):
            start, count = 0, frames.count
            while start < count:
                stop = self._events(frames, start)
                if stop < count:
                    self._other(frames.frame(stop))
                start = stop + 1

    def flush(self) -> None:
        """The end of a round."""
        for sink in self._sinks or ():
            sink.flush()

    def close(self, writer: Writer) -> dict[int, Totals]:
        """Close the capture of this trace; it proves nothing where the agent did not say what it produced."""
        unproven = range(1, self.probes + 1) if self.produced is None else ()
        return writer.close(self.produced, unproven)

    def _events(self, frames: Frames, start: int) -> int:
        """Pass on the EVENTs of described probes from `start`; the index of the first frame that is none."""
        if self._sinks is None:
            return start
        count = frames.count
        if not self._all_events(frames, start, count):
            count = next(at for at in range(start, count) if not self._all_events(frames, at, at + 1))
        if count > start:
            some = frames if not start and count == frames.count else frames.select(range(start, count))
            self.events += some.count
            for sink in self._sinks:
                sink.write(some)
        return count

    def _all_events(self, frames: Frames, start: int, stop: int) -> bool:
        """Whether these frames are EVENTs, whole and of described probes."""
        some = memoryview(frames.offsets)[start:stop]
        self._counts[0] = 0  # of events of probe 0, which there is none of
        counted = walk.count_by_id(frames.data, some, stop - start, self._counts, False)
        return counted - self._counts[0] == stop - start

    def _refuse(self, problems: list[Problem], at: int) -> None:
        self.problems += 1

    def _other(self, frame: Frame) -> None:
        """A frame that is no event of a described probe."""
        try:
            what = said(frame, self._reader)
        except FrameError:
            self.problems += 1
            return
        if isinstance(what, Schema):
            self._describe(what)
        elif isinstance(what, Lost) and what.probe <= self.probes:
            self._lose(what)
        elif isinstance(what, TablePart) and self._sinks is not None and frame.header.id in self.schemas:
            self._table(frame)
        elif isinstance(what, dict):
            self.produced = {**(self.produced or {}), **self._known(what)}
        elif frame.header.type != Type.SCHEMA:
            self.problems += 1

    def _table(self, frame: Frame) -> None:
        """Pass on a part of what a map held, and keep what maps held at the end."""
        held = self._tables.add(frame)
        schema = self.schemas[frame.header.id]
        if held is not None and not problem(schema, held.rows):
            learn(schema, held)
            if held.shown == "end":
                self.left.append((schema, held))
        tables = Frames.walk(build(Type.TABLE, frame.header.id, frame.payload))
        for sink in self._sinks or ():
            sink.write(tables)

    def _describe(self, schema: Schema) -> None:
        if not 0 < schema.id <= self.probes:
            self.problems += 1
            return
        if self._sinks is not None:  # repeated, for those who joined in the middle
            self.problems += self.schemas[schema.id] != schema
            return
        self.schemas[schema.id] = schema
        if len(self.schemas) == self.probes:
            self._counts = array("Q", bytes(8 * walk.COUNT_WORDS * (self.probes + 1)))
            ordered = tuple(self.schemas[number] for number in range(1, self.probes + 1))
            self._sinks = self._start(ordered)
            if self._early:
                early, self._early = self._early, []
                self._tell(early)

    def _lose(self, loss: Lost) -> None:
        self.lost += loss.count
        self.causes[loss.cause] += loss.count
        if self._sinks is None:
            self._early.append(loss)
        else:
            self._tell([loss])

    def _tell(self, losses: list[Lost]) -> None:
        for sink in self._sinks or ():
            sink.lost(losses)

    def _known(self, produced: dict[int, int]) -> dict[int, int]:
        return {probe: count for probe, count in produced.items() if probe <= self.probes}
