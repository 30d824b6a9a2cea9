"""Events as a table for people: TIME, CPU, PID, COMM, PROBE, then the fields as name=value; or other columns.

Invariants: a line is one event, a LOST line one hole, at its place. A column is as wide as the values it has
held, and no wider than leaves room for the fields on a terminal. What all lines share stands once: the date,
and the probe where there is only one, in a line before the first event; a field that repeats another. A
column of its own shows a value whatever it is.
"""

from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter

from kwire.hints import Any, Final, TypeAlias, cast
from kwire.lazy import NamedTuple
from kwire.view.maps import described, titled
from kwire.view.render import CONTEXT, Row, Values, context
from kwire.view.text import SECOND, Style, WallClock, fit, quoted, safe
from kwire.view.values import result_of_call, text_converter
from kwire.wire.fields import TYPES
from kwire.wire.messages import CAUSES, CPU_UNKNOWN, Cause, Lost
from kwire.wire.schema import Labels, Schema
from kwire.wire.tables import MapTable
from kwire.words import plural

COLUMNS: Final = ("time", "cpu", "pid", "comm", "probe", "fields")
"""The columns of an event, as they stand; others are fields by their names."""

MADE: Final = ("time", "probe", "fields")
"""Those of them that are no field."""

CLOCKS: Final = ("clock", "relative", "delta")
"""What TIME shows: the time of day, seconds since the first line, seconds since the line before."""

RIGHT: Final = frozenset({"cpu", "pid"})
COMM_WIDTH: Final = 15
PROBE_WIDTH: Final = 44
NARROW: Final = 100  # characters of a terminal below which columns give room to the fields
NARROW_PROBE: Final = 20
FEW: Final = 16  # probes whose names all get room from the first line on
ROOM: Final = 16  # characters for the last column, at least
WIDEST: Final = 40  # characters of a column made of a field, but the last

DIM, BOLD, CYAN, RED, GREEN = "2", "1", "36", "31", "32"
COLORS: Final = {"comm": GREEN, "probe": CYAN}

Cells: TypeAlias = "tuple[str, ...]"  # of an event, for all columns but the time


class Note(NamedTuple):
    """A line that is no event's: its time where that is known, and what it says."""

    time: int | None
    text: str


def short(probe: str) -> str:
    """A probe spec without its expressions."""
    return probe.split("(", 1)[0]


def lost_of(schema: Schema | None, cause: int) -> str:
    """Of which probes a LOST frame counts events, in words."""
    names = [quoted(short(probe)) for probe in schema.concerned(cause)] if schema else []
    if not names:
        return "an unknown probe"
    if len(names) <= 3:
        return " or ".join(names)
    return f"{names[0]}, {names[1]} or {len(names) - 2} others"


def cause_text(cause: int) -> str:
    """Why events are missing."""
    return CAUSES[Cause(cause)] if cause in CAUSES else f"cause {cause}"


class Table:
    """The format; see `view.render.Format`. `schemas`: those of the probes that are known from the first.

    `columns`: names of COLUMNS and of fields, in order (None: those of COLUMNS that there is something for);
    `clock`: one of CLOCKS.
    """

    END: Final = "\n"
    __slots__ = (
        "_chosen",
        "_clock",
        "_date",
        "_day",
        "_how",
        "_known",
        "_names",
        "_origin",
        "_previous",
        "_shown",
        "_style",
        "_widths",
    )

    def __init__(
        self,
        schemas: Iterable[Schema],
        style: Style = Style(),  # noqa: B008  # it does not change
        columns: Sequence[str] | None = None,
        clock: str = CLOCKS[0],
    ) -> None:
        self._style, self._chosen, self._how = style, columns, clock
        self._known: dict[str, Schema] = {}  # by the probe without its expressions
        self._names: dict[str, str] = {}  # what PROBE says → the probe
        for schema in schemas:
            self._learn(schema)
        self._shown: tuple[str, ...] = ()  # the columns of the last header
        self._widths: dict[str, int] = {}
        self._clock = WallClock()
        self._date = ""
        self._day = range(0)  # nanoseconds of the day that the last line belongs to
        self._origin: int | None = None  # the first line's time
        self._previous = 0

    # --- what an event becomes

    def event(self, schema: Schema) -> Callable[[int, Values], Cells]:
        """A function made for the schema: the cells of an event, widths not yet applied."""
        self._learn(schema)
        labels = Labels(schema)
        names = [field.name for field in schema.fields]
        converters = [text_converter(schema, field, labels) for field in schema.fields]
        if self._chosen is None:
            places = context(schema)
            columns: tuple[str, ...] = COLUMNS[1:]
        else:
            own = {name for name in self._chosen if name not in MADE}
            places = {name: index for index, name in enumerate(names) if name in own}
            columns = tuple(name for name in self._chosen if name != "time")
        probe, result = self._name(schema), result_of_call(schema)
        fields = self._fields(schema, set(places.values()), converters)

        def cell(name: str) -> tuple[int, Callable[[Any], str] | str]:
            """What makes a cell, or the cell, and of which value: -1 is all of them."""
            if name in places:
                if result is not None and result[0] == places[name]:
                    return -1, result[1]
                return places[name], converters[places[name]]
            if name == "probe":
                return -1, probe
            return (-1, fields) if name == "fields" else (-1, "-")

        return cast(Callable[[int, Values], Cells], _applied("_, values", map(cell, columns)))

    def bad(self, time: int | None, id: int, schema: Schema | None, why: str) -> Note:
        """A line that says what is wrong with the record."""
        probe = short(schema.probe) if schema else f"probe {id}"
        return Note(time, f"undecodable event of {safe(probe)}: {safe(why)}")

    def lost(self, time: int | None, schema: Schema | None, loss: Lost) -> Note:
        """A line that says what is missing here, and why."""
        cpu = "" if loss.cpu == CPU_UNKNOWN else f" on CPU {loss.cpu}"
        events = plural(loss.count, "event")
        return Note(time, f"LOST {events} of {lost_of(schema, loss.cause)}{cpu}: {cause_text(loss.cause)}")

    def table(self, time: int, schema: Schema, held: MapTable) -> Note:
        """The lines of a map that was printed."""
        return Note(time, "\n".join(titled(described(schema, held))))

    def left(self, held: Sequence[tuple[Schema, MapTable]]) -> str:
        """Of each map its name and its lines."""
        return "".join("\n".join(["", *titled(described(*one)), ""]) for one in held)

    def _fields(
        self, schema: Schema, apart: set[int], converters: Sequence[Callable[[Any], str]]
    ) -> Callable[[Values], str]:
        """The function that writes the fields which have no column of their own."""
        places = {field.name: index for index, field in enumerate(schema.fields)}
        shown = []
        for index, field in enumerate(schema.fields):
            if index in apart or (field.name == "__syscall_nr" and schema.target.startswith("syscalls:")):
                continue
            same = places.get(_SAME.get(field.name, ""), -1)
            if same >= 0 and not _alike(schema, index, same):
                same = -1
            shown.append((f"{safe(field.name)}=", index, converters[index], same))
        result = result_of_call(schema)
        if result is not None:  # it is shown by two values
            place, of_call = result

            def text_of_call(values: Values) -> str:
                return " ".join(
                    [
                        label + (of_call(values) if index == place else convert(values[index]))
                        for label, index, convert, same in shown
                        if same < 0 or values[index] != values[same]
                    ]
                )

            return text_of_call

        if all(same < 0 for _, _, _, same in shown):
            parts = [(index, "" if convert is str else convert) for _, index, convert, _ in shown]
            form = " ".join(label.replace("%", "%%") + "%s" for label, _, _, _ in shown)
            made = _applied("values", parts)
            return lambda values: form % made(values)

        def text(values: Values) -> str:
            return " ".join(
                [
                    label + convert(values[index])
                    for label, index, convert, same in shown
                    if same < 0 or values[index] != values[same]
                ]
            )

        return text

    # --- names of probes

    def _learn(self, schema: Schema) -> None:
        self._known.setdefault(short(schema.probe), schema)

    def _name(self, schema: Schema) -> str:
        """What PROBE says: the last part of the target where only one probe has it and it is a name, else the
        whole spec.
        """
        probe = short(schema.probe)
        last = probe.rsplit(":", 1)[-1]
        several = [one for one in self._known if one.rsplit(":", 1)[-1] == last]
        name = last if last and several == [probe] and not last[0].isdigit() else probe
        return safe(probe if self._names.setdefault(name, probe) != probe else name)

    # --- lines

    def parts(self, schema: Schema) -> None:
        """Lines are made one by one."""

    def lines(self, rows: Sequence[Row]) -> list[str]:
        """The lines of rows that are written together, in order, with what stands before them."""
        columns = self._columns()
        places = {name: place for place, name in enumerate(self._order())}
        events = [row[1] for row in rows if not isinstance(row[1], Note)]
        starts = self._starts(rows)
        self._measure(columns, places, events, starts)
        made: list[str] = []
        if columns != self._shown:
            self._shown = columns
            made.append(self._header(columns))
        widths, color, paint = self._fitted(columns), COLORS.get(columns[-1], ""), self._style.paint
        room = self._room(widths, columns)
        note = self._style.width - widths.get("time", -1) - 1 if self._style.width else 1 << 30
        # A line is one template; what may be too long for its column is looked at alone.
        order = [0 if name == "time" else places[name] + 1 for name in columns]
        pick = itemgetter(*order) if len(order) > 1 else lambda cells: (cells[order[0]],)
        most = {name: widths[name] for name in columns[:-1] if widths[name] < self._widths[name]}
        limits = [(columns.index(name), width) for name, width in most.items()]
        if room:
            limits.append((len(order) - 1, room))
        painted = [
            paint(f"%{'' if name in RIGHT else '-'}{width}s", DIM if name == "time" else COLORS.get(name, ""))
            for name, width in widths.items()
        ]
        template, without = (" ".join([*painted, end]) for end in (paint("%s", color), "%s"))
        for (time, cells, _), start in zip(rows, starts, strict=True):
            if time not in self._day:
                made += self._before(time)
            if isinstance(cells, Note):
                when = [paint(start.ljust(widths["time"]), DIM)] if "time" in widths else []
                made.append(" ".join([*when, paint(fit(cells.text, note), RED)]))
                continue
            texts = pick((start, *cells))
            if limits:
                texts = list(texts)
                for at, width in limits:
                    texts[at] = fit(texts[at], width)
                texts = tuple(texts)
            made.append(((template if texts[-1] else without) % texts).rstrip())
        return made

    def _order(self) -> tuple[str, ...]:
        """The columns that an event's cells are of."""
        return COLUMNS[1:] if self._chosen is None else tuple(one for one in self._chosen if one != "time")

    def _columns(self) -> tuple[str, ...]:
        """The columns that are shown."""
        if self._chosen is not None:
            return tuple(self._chosen)
        there = {name for schema in self._known.values() for name in context(schema)}
        left_out = {name for name in CONTEXT if self._known and name not in there}
        if len(self._known) == 1:
            left_out.add("probe")
        return tuple(name for name in COLUMNS if name not in left_out)

    def _measure(
        self, columns: Sequence[str], places: dict[str, int], events: list[Cells], starts: list[str]
    ) -> None:
        """Widen the columns to what they are to hold."""
        for name in columns:
            least = max(self._widths.get(name, 0), len(_title(name)))
            if name == "time":
                longest = max(map(len, starts), default=0)
            else:
                if name == "probe" and not self._widths.get(name) and len(self._known) <= FEW:
                    least = max([least, *(len(self._name(one)) for one in self._known.values())])
                place = places[name]
                longest = max(map(len, map(itemgetter(place), events)), default=0)
            self._widths[name] = max(least, longest)

    def _fitted(self, columns: Sequence[str]) -> dict[str, int]:
        """The widths of the columns but the last, no wider than they may be."""
        narrow = 0 < self._style.width < NARROW
        most = {"comm": COMM_WIDTH, "probe": NARROW_PROBE if narrow else PROBE_WIDTH, "time": 1 << 30}
        return {name: min(self._widths[name], most.get(name, WIDEST)) for name in columns[:-1]}

    def _room(self, widths: dict[str, int], columns: Sequence[str]) -> int:
        """Characters for the last column; 0: as many as there are."""
        if not self._style.width:
            return 0
        return max(ROOM, self._style.width - sum(widths.values()) - len(widths))

    def _header(self, columns: Sequence[str]) -> str:
        widths, parts = self._fitted(columns), []
        for name in columns:
            width, title = widths.get(name, 0), safe(_title(name))
            parts.append(title.rjust(width) if name in RIGHT else title.ljust(width))
        return self._style.paint(fit(" ".join(parts).rstrip(), self._style.width or 1 << 30), BOLD)

    # --- time

    def _starts(self, rows: Sequence[Row]) -> list[str]:
        """What TIME says in each row."""
        digits = 3 if 0 < self._style.width < NARROW else 0  # of a time, given to the fields
        made, clock, since_what = [], self._clock.time, self._how != CLOCKS[0]
        for time, cells, _ in rows:
            if isinstance(cells, Note) and cells.time is None:
                made.append("-")
                continue
            if not since_what:
                text = clock(time)
            else:
                if self._origin is None:
                    self._origin = self._previous = time
                text = _seconds(time - (self._origin if self._how == "relative" else self._previous))
                self._previous = time
            made.append(text[:-digits] if digits else text)
        return made

    def _before(self, time: int) -> list[str]:
        """What stands once before the lines of a day: its date, and the probe where there is only one."""
        if not time:
            return []
        self._day = self._clock.day(time)
        first = not self._date
        if self._clock.date == self._date or (self._how != CLOCKS[0] and not first):
            return []
        self._date = self._clock.date
        said = self._date if self._how == CLOCKS[0] else f"from {self._clock.moment(time)}"
        if self._chosen is None and len(self._known) == 1:
            said += "".join(f", {safe(probe)}" for probe in self._known)
        return [self._style.paint(fit(f"-- {said} --", self._style.width or 1 << 30), DIM)]


def _applied(
    names: str, parts: Iterable[tuple[int, Callable[[Any], str] | str]]
) -> Callable[..., tuple[Any, ...]]:
    """A function that makes a tuple of `values`, compiled: each part of the value in a place, or of all (-1).

    Where a part is a text it is that text, but for one of a value that is the empty text: it is the value.
    """
    scope: dict[str, Any] = {}
    made = []
    for number, (place, part) in enumerate(parts):
        scope[f"part{number}"] = part
        value = "values" if place < 0 else f"values[{place}]"
        if isinstance(part, str):
            made.append(f"part{number}" if place < 0 else value)
        else:
            made.append(f"part{number}({value})")
    function = eval(f"lambda {names}: ({''.join(f'{one}, ' for one in made)})", scope)
    return cast(Callable[..., tuple[Any, ...]], function)


_SAME: Final = {"tid": "pid", "args_pid": "tid", "args_tid": "tid", "args_cpu": "cpu", "args_comm": "comm"}
"""Fields that say nothing where they are equal to another one."""


def _alike(schema: Schema, one: int, two: int) -> bool:
    """Whether two fields hold values of one kind, a single one each."""
    fields = [schema.fields[index] for index in (one, two)]
    kinds = {TYPES[field.type].kind.replace("str", "text") for field in fields}
    return len(kinds) == 1 and kinds <= {"int", "text"} and all(field.count == 1 for field in fields)


def _title(name: str) -> str:
    return name.upper() if name in COLUMNS else name


def _seconds(ns: int) -> str:
    sign, ns = ("-", -ns) if ns < 0 else ("+", ns)
    return f"{sign}{ns // SECOND}.{ns % SECOND:09d}"
