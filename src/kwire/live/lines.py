"""What a script prints, as events: one each, with its text, and with the map that was printed.

Invariants: the text is what the command line would print; what is to be done when it is shown is done once,
when its event is taken.
"""

from collections.abc import Callable, Sequence

from kwire.hints import TYPE_CHECKING, Any, Final, TypeAlias
from kwire.live.contents import constant_text
from kwire.live.events import EVERYTHING, Batch, Choice, Event
from kwire.live.mapview import MapView
from kwire.wire.frame import Type
from kwire.wire.frames import Frames
from kwire.wire.printf import OF_MAPS, OfMap
from kwire.wire.schema import Schema, Value
from kwire.wire.tables import MapTable, TableReader, learn, problem

if TYPE_CHECKING:
    from kwire.view.printed import Act, Printed


SILENT: Final = OF_MAPS - {"print"}
"""What is asked of a map by an event, and prints nothing."""


class Line(Event):
    """Something that a script printed. `text`: as it was printed; `map`: the map, where one was."""

    __slots__ = ("_raw", "map", "text")

    def __init__(
        self,
        schema: Schema,
        time_ns: int,
        values: Sequence[Value],
        text: str = "",
        map: MapView | None = None,
    ) -> None:
        super().__init__(schema, time_ns, values)
        self.text = text
        self.map = map
        self._raw: Sequence[Value] = ()  # until the text is made of them

    def __str__(self) -> str:
        return self.text.removesuffix("\n")

    def __reduce__(self) -> tuple[object, ...]:
        schema = self._schema._replace(symbols={}, stacks=None)
        return Line, (schema, self.time_ns, tuple(self._values), self.text)


OnMap: TypeAlias = Callable[[str, str, int, int, int], "tuple[Schema, MapTable] | None"]
"""Does what is asked of a whole map, "print", "clear" or "zero", by its name, with the limits of a print."""


def batch(schemas: Sequence[Schema]) -> Batch:
    """A sink for Python that keeps events, those that are printed as lines."""
    return Lines(schemas) if any(schema.prints for schema in schemas) else Batch(schemas)


class Lines(Batch):
    """A sink that keeps what a script prints. `act`: what does what is to be done when a line is shown;
    `on_map`: what does what is asked of maps, where no TABLE comes behind it.
    """

    __slots__ = ("_act", "_all", "_on_map", "_printed", "_reader", "_tables", "_writers")

    def __init__(
        self, schemas: Sequence[Schema], act: "Act | None" = None, on_map: OnMap | None = None
    ) -> None:
        super().__init__([one for one in schemas if one.map is None])
        self._all = {schema.id: schema for schema in schemas}
        self._act = act
        self._on_map = on_map
        self._reader = TableReader()
        self._tables: dict[tuple[str, int], tuple[Schema, MapTable]] = {}  # printed, by name and moment
        self._printed: Printed | None = None
        self._writers: dict[int, Callable[[int, Any], str]] = {}

    def write(self, frames: Frames) -> None:
        """Keep events, and the tables of maps that are printed."""
        if frames.count and frames.header(0).type == Type.TABLE:
            for index in range(frames.count):
                self._take_table(frames, index)
            return
        super().write(frames)

    def _take_table(self, frames: Frames, index: int) -> None:
        frame = frames.frame(index)
        held, schema = self._reader.add(frame), self._all.get(frame.header.id)
        if held is None or schema is None or problem(schema, held.rows):
            return
        learn(schema, held)
        if held.shown == "print":
            self._tables[schema.target, held.time] = schema, held

    def take(self, choice: Choice = EVERYTHING) -> list[Event]:
        """What was printed and is wanted, oldest first; all is forgotten."""
        lines = super().take(choice)
        for line in lines:
            if isinstance(line, Line):
                self._print(line)
        return [one for one in lines if one._schema.prints not in SILENT]

    def _made(self, schema: Schema, time: int, values: Sequence[Value]) -> Event:
        event = super()._made(schema, time, values)
        if not schema.prints:
            return event
        both = zip(schema.fields, event._values, strict=True)
        line = Line(schema, time, [constant_text(schema, field, value) for field, value in both])
        line._raw = values
        return line

    def _print(self, line: Line) -> None:
        """Give a line its text, and the map that it printed."""
        schema, raw = line._schema, tuple(line._raw)
        line._raw = ()
        if schema.prints in OF_MAPS:
            asked = OfMap.read(schema.format)
            if self._on_map is not None:
                found = self._on_map(schema.prints, *asked)
            else:
                found = self._tables.pop((asked.name, line.time_ns - schema.wall(0)), None)
            if found is not None:
                line.map = MapView()
                line.map.tell(found)
                line.text = self._format.table(0, *found)
            return
        write = self._writers.get(schema.id)
        if write is None:
            write = self._writers[schema.id] = self._format.event(schema)
        line.text = write(line.time_ns, raw)

    @property
    def _format(self) -> "Printed":
        if self._printed is None:
            from kwire.view.printed import Printed

            self._printed = Printed(terminal=False, act=self._act)
        return self._printed
