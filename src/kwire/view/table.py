"""Events as a table for people: TIME, CPU, PID, COMM, PROBE, then the fields as name=value.

The laws: a line is one event, a LOST line one hole, at its place; columns stay where they are from the first
line on, so their widths come from the schemas, not from the events; a line with a date stands before the
first event and where the day changes.
"""

from collections.abc import Callable, Iterable

from kwire.view.render import CONTEXT, Values, context
from kwire.view.text import Style, WallClock, fit, quoted, safe
from kwire.view.values import text_converter
from kwire.wire.messages import CAUSES, CPU_UNKNOWN, Cause, Lost
from kwire.wire.schema import Labels, Schema

TIME_WIDTH = 18
NO_TIME = f"{'-':<{TIME_WIDTH}}"
COMM_WIDTH = 15
PROBE_WIDTH = (12, 44)  # least, most

DIM, BOLD, CYAN, RED, GREEN = "2", "1", "36", "31", "32"


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
    """The format; see `view.render.Format`. `schemas`: those whose probes get the column its width."""

    __slots__ = ("_clock", "_columns", "_date", "_day", "_probe_width", "_style")

    def __init__(self, schemas: Iterable[Schema], style: Style = Style()) -> None:  # noqa: B008
        known = list(schemas)
        names = {name for schema in known for name in context(schema)}
        least, most = PROBE_WIDTH
        longest = max((len(safe(short(schema.probe))) for schema in known), default=least)
        self._probe_width = max(least, min(most, longest))
        self._columns = [name for name in CONTEXT if name in names or not known]
        self._style = style
        self._clock = WallClock()
        self._date = ""
        self._day = range(0)  # nanoseconds of the day that the last line belongs to

    def header(self) -> str:
        """The line of column names."""
        names = {"cpu": "CPU", "pid": f"{'PID':>7}", "comm": f"{'COMM':<{COMM_WIDTH}}"}
        context = [names[name] for name in self._columns]
        parts = [f"{'TIME':<{TIME_WIDTH}}", *context, f"{'PROBE':<{self._probe_width}}", "FIELDS"]
        return self._style.paint(fit(" ".join(parts), self._style.width or 1 << 30), BOLD)

    def event(self, schema: Schema) -> Callable[[int, Values], str]:
        """A function made for the schema."""
        labels, style, start = Labels(schema), self._style, self._start
        places = context(schema)
        cpu, pid, comm = (places.get(name, -1) for name in CONTEXT)
        shows_cpu, shows_pid, shows_comm = (name in self._columns for name in CONTEXT)
        probe = style.paint(f"{fit(safe(short(schema.probe)), self._probe_width):<{self._probe_width}}", CYAN)
        fields = [
            (f"{safe(field.name)}=", index, text_converter(schema, field, labels))
            for index, field in enumerate(schema.fields)
            if index not in places.values()
        ]
        room = self._room()

        def line(time: int, values: Values) -> str:
            parts = [start(time)]
            if shows_cpu:
                parts.append(f"{values[cpu]:>3}" if cpu >= 0 else "  -")
            if shows_pid:
                parts.append(f"{values[pid]:>7}" if pid >= 0 else "      -")
            if shows_comm:
                name = safe(values[comm]) if comm >= 0 else "-"
                parts.append(style.paint(f"{fit(name, COMM_WIDTH):<{COMM_WIDTH}}", GREEN))
            parts.append(probe)
            text = " ".join([label + convert(values[index]) for label, index, convert in fields])
            parts.append(fit(text, room) if room else text)
            return " ".join(parts).rstrip()

        return line

    def bad(self, time: int | None, id: int, schema: Schema | None, why: str) -> str:
        """A line that says what is wrong with the record."""
        probe = short(schema.probe) if schema else f"probe {id}"
        text = fit(f"undecodable event of {safe(probe)}: {safe(why)}", self._width())
        return f"{NO_TIME if time is None else self._start(time)} {self._style.paint(text, RED)}"

    def lost(self, time: int | None, schema: Schema | None, loss: Lost) -> str:
        """A line that says what is missing here, and why."""
        cpu = "" if loss.cpu == CPU_UNKNOWN else f" on CPU {loss.cpu}"
        events = "1 event" if loss.count == 1 else f"{loss.count:,} events"
        what = f"LOST {events} of {lost_of(schema, loss.cause)}{cpu}: {cause_text(loss.cause)}"
        text = fit(what, self._width())
        return f"{NO_TIME if time is None else self._start(time)} {self._style.paint(text, RED)}"

    def before(self, time: int) -> str:
        """The date, where it is another than that of the line before."""
        if time in self._day or not time:
            return ""
        self._day = self._clock.day(time)
        if self._clock.date == self._date:
            return ""
        self._date = self._clock.date
        return self._style.paint(f"-- {self._date} --", DIM)

    def _start(self, time: int) -> str:
        return self._style.paint(self._clock.time(time), DIM)

    def _width(self) -> int:
        return self._style.width - TIME_WIDTH - 1 if self._style.width else 1 << 30

    def _room(self) -> int:
        """Characters for the fields of an event; 0: as many as there are."""
        if not self._style.width:
            return 0
        widths = {"cpu": 3, "pid": 7, "comm": COMM_WIDTH}
        used = TIME_WIDTH + sum(widths[name] + 1 for name in self._columns) + self._probe_width + 2
        return max(16, self._style.width - used)
