"""Chrome trace events, which Perfetto and chrome://tracing show: slices for calls, instants for the rest.

Format: "Trace Event Format" (Google), the JSON object form. Invariants: times are microseconds from the
capture's first event with nanoseconds as fractions, because a double cannot hold those since 1970; a call
whose end is missing is left open (`B` without `E`), an end without a beginning is an instant; every event is
in exactly one entry, but for the beginning and the end of a call, which are one. Memory is bounded: at most
OPEN calls wait for their ends.
"""

import json
from collections.abc import Callable, Iterable
from itertools import chain
from typing import IO, Any, Final

from kwire.analyze.call_pairs import role
from kwire.analyze.losses import Missing
from kwire.analyze.order import runs
from kwire.analyze.rowlines import JSON, JSON_HEX, Line, Lines, RowPart, style_of
from kwire.analyze.scan import Block
from kwire.view.jsonl import JsonLines, pieces
from kwire.view.render import Values
from kwire.view.table import cause_text
from kwire.view.values import json_converter
from kwire.wire.fields import CUT, TYPES
from kwire.wire.schema import Labels, Schema

OPEN: Final = 1 << 18  # calls that wait for their ends
NAMES: Final = 8  # of a thread, one after the other; the last one stands for those beyond
DEPTH: Final = 64  # calls of one function open in one thread
HOST_SHIFT: Final = 22  # Linux's process ids have 22 bits: the bits above tell hosts apart
WRITTEN: Final = 1 << 20  # characters written at a time
WAITING: Final = 64 << 20  # characters of calls that wait for their ends
REMEMBERED: Final = 1 << 16  # contexts of a probe's events
SHORT: Final = 200  # characters of a context that is remembered: `comm` may be any text of the event
FIELDS: Final = '"fields":'
APART: Final = "\t"  # between the pieces of an event's line: in JSON there is none
NOWHERE: Final = ',"pid":0,"tid":0'


class _Probe:
    """What turns the events of one schema into entries."""

    __slots__ = ("contexts", "ended", "host", "instant", "name", "role", "schema")

    def __init__(self, schema: Schema, host: int) -> None:
        self.schema, self.host = schema, host
        self.role = role(schema)
        self.name = self.role.name if self.role else schema.probe.split("(", 1)[0].split(":", 1)[-1]
        self.instant = _head("i", self.name, schema.kind)
        self.ended = _head("i", f"{self.name} ends", schema.kind)
        self.contexts: dict[str, _Context] = {}  # by what `_line` writes of them

    def context(self, text: str) -> "_Context":
        """Where an event belongs, by what `_line` writes of it."""
        known = self.contexts.get(text)
        if known is None:
            if len(self.contexts) >= REMEMBERED:
                self.contexts.clear()
            pid, tid, cpu, comm = text.split(APART)
            base, process, thread = self.host << HOST_SHIFT, pid or tid or "0", tid or pid or cpu or "0"
            known = _Context(base + int(process), base + int(thread), json.loads(comm) if comm else "")
            if len(text) <= SHORT:
                self.contexts[text] = known
        return known


class _Context:
    """The process and thread of an event, and what the thread is called (`comm`, empty: not known)."""

    __slots__ = ("comm", "place", "process", "thread")

    def __init__(self, process: int, thread: int, comm: str) -> None:
        self.process, self.thread, self.comm = process, thread, comm
        self.place = f',"pid":{process},"tid":{thread}'


def _line(schema: Schema) -> Line:
    """Process id, thread id, CPU (where there is neither), the thread's name as JSON, and all other fields
    as a JSON object, with APART between them; what is not there is empty.
    """
    fields = {field.name: (index, field) for index, field in enumerate(schema.fields)}
    numbers = [
        name
        for name in ("pid", "tid", "cpu")
        if name in fields and fields[name][1].count == 1 and TYPES[fields[name][1].type].kind == "int"
    ]
    if len(numbers) > 1 and numbers[-1] == "cpu":
        numbers.pop()
    comm = fields.get("comm")
    parts = [
        RowPart(APART, field=fields[name][1] if name in numbers else None) for name in ("pid", "tid", "cpu")
    ]
    is_text = comm is not None and comm[1].count == 1 and TYPES[comm[1].type].kind in ("str", "text")
    parts.append(RowPart(APART, field=comm[1] if comm and is_text else None, odd=bool(comm and not is_text)))
    texts, order = pieces(schema)
    first = next(at for at, text in enumerate(texts) if FIELDS in text)  # names come before it in quotes
    texts[first] = texts[first][texts[first].index(FIELDS) + len(FIELDS) :]
    parts.append(RowPart(texts[first]))
    labels = Labels(schema)
    for index, behind in zip(order[first - 1 :], texts[first + 1 :], strict=True):
        field = schema.fields[index]
        style = style_of(field, JSON, JSON_HEX)
        convert = json_converter(schema, field, labels)
        parts.append(RowPart(behind, field=field, style=style, convert=convert))
    parts[-1] = parts[-1]._replace(text=parts[-1].text[:-1] + "\n")  # the object of all
    whole = JsonLines().event(schema)
    tails = [(name, index) for name, (index, field) in fields.items() if TYPES[field.type].tail]

    def one(time: int, values: Values) -> str:
        line = whole(time, values)
        args = line[line.index(FIELDS) + len(FIELDS) : -1]  # inside of texts its quotes would be escaped
        cut = [name for name, index in tails if isinstance(values[index], CUT)]
        if cut:
            args = f'{args[:-1]},"(cut)":{json.dumps(cut)}}}'
        made = [str(values[fields[name][0]]) if name in numbers else "" for name in ("pid", "tid", "cpu")]
        made.append("" if comm is None else json.dumps(str(values[comm[0]])))
        return APART.join([*made, args])

    return Line(parts, one)


class _Writer:
    """The entries on their way out."""

    __slots__ = (
        "_calls",
        "_first",
        "_hosts",
        "_lines",
        "_names",
        "_open",
        "_origin",
        "_out",
        "_size",
        "_waiting",
    )

    def __init__(self, out: IO[bytes], origin: int) -> None:
        self._out, self._origin = out, origin
        self._lines: list[str] = []
        self._first = True
        self._names: dict[tuple[int, int], list[str]] = {}  # of (process, thread), in order of time
        self._hosts: dict[int, str] = {}  # of processes, where there are several
        self._open: dict[tuple[int, int, str], list[tuple[int, str]]] = {}
        self._calls = self._waiting = 0  # those that wait for their ends, and characters of them
        self._size = 0  # of the lines

    def event(self, probe: _Probe, time: int, line: str) -> None:
        """Write an event, of which `_line` has made this, or keep it until its call ends."""
        context, _, args = line.rpartition(APART)
        at = probe.contexts.get(context) or probe.context(context)
        names = self._names.get((at.process, at.thread))
        if names is None or (at.comm and (not names or names[-1] != at.comm)):
            self._named(probe, time, at)
        if probe.role is None:
            self._instant(probe.instant, time, at, args)
            return
        key = (at.process, at.thread, probe.role.key)
        if probe.role.begins:
            calls = self._open.setdefault(key, [])
            if len(calls) >= DEPTH or self._calls >= OPEN or self._waiting + len(args) > WAITING:
                self._instant(probe.instant, time, at, args)
                return
            calls.append((time, args))
            self._calls, self._waiting = self._calls + 1, self._waiting + len(args)
            return
        calls = self._open.get(key, [])
        if not calls:
            self._instant(probe.ended, time, at, args)
            return
        begin, before = calls.pop()
        self._calls, self._waiting = self._calls - 1, self._waiting - len(before)
        if not calls:
            del self._open[key]
        more = f',"dur":{_micro(time - begin)},"args":{{"begin":{before},"end":{args}}}'
        self._entry("X", probe.name, "call", begin, at.place, more)

    def _instant(self, head: str, time: int, at: _Context, args: str) -> None:
        self._put(f'{head}{_micro(time - self._origin)}{at.place},"s":"t","args":{args}}}')

    def lost(self, hole: Missing) -> None:
        """Write a hole as an instant over everything; one whose time is not known stands at the beginning."""
        told: dict[str, Any] = {"count": hole.loss.count, "cause": cause_text(hole.loss.cause)}
        told["probes"] = list(hole.probes)
        if hole.last is None:
            told["time"] = "unknown"
        time = self._origin if hole.last is None else hole.last
        more = f',"s":"g","args":{json.dumps(told)}'
        self._entry("i", f"LOST {hole.loss.count}", "lost", time, NOWHERE, more)

    def _named(self, probe: _Probe, time: int, at: _Context) -> None:
        """Note what a thread is called; where it had another name before, that is told."""
        names = self._names.get((at.process, at.thread))
        if names is None:
            names = self._names[at.process, at.thread] = []
            if probe.host and probe.schema.host:
                self._hosts.setdefault(at.process, probe.schema.host)
        if not at.comm or names[-1:] == [at.comm]:
            return
        if names:
            told = json.dumps({"before": names[-1], "now": at.comm})
            self._entry("i", f"now {at.comm}", "name", time, at.place, f',"s":"t","args":{told}')
        if len(names) < NAMES:
            names.append(at.comm)
        else:
            names[-1] = at.comm

    def _name_all(self) -> None:
        """Say what processes and threads were called; a process is called as its first thread."""
        first: dict[int, int] = {}
        for process, thread in self._names:
            if process not in first or thread == process:
                first[process] = thread
        for (process, thread), names in self._names.items():
            shown = " → ".join(names)
            if first[process] == thread:
                host = self._hosts.get(process)
                named = shown or "kernel"
                self._meta("process_name", process, thread, f"{named} on {host}" if host else named)
            if shown:
                self._meta("thread_name", process, thread, shown)

    def _meta(self, what: str, pid: int, tid: int, name: str) -> None:
        args = json.dumps({"name": name})
        self._put(f'{{"ph":"M","name":"{what}","pid":{pid},"tid":{tid},"args":{args}}}')

    def _entry(self, phase: str, name: str, kind: str, time: int, place: str, more: str) -> None:
        self._put(f"{_head(phase, name, kind)}{_micro(time - self._origin)}{place}{more}}}")

    def _put(self, line: str) -> None:
        self._lines.append(line)
        self._size += len(line)
        if self._size > WRITTEN:
            self.flush()

    def flush(self) -> None:
        """Write what was put."""
        if self._lines:
            text = ",\n".join(self._lines)
            self._out.write((text if self._first else ",\n" + text).encode())
            self._first, self._lines, self._size = False, [], 0

    def finish(self) -> None:
        """Write the calls that have not ended, and the names."""
        self._name_all()
        for (pid, tid, key), calls in self._open.items():
            for time, args in calls:
                place = f',"pid":{pid},"tid":{tid}'
                self._entry("B", key, "call", time, place, f',"args":{{"begin":{args}}}')
        self.flush()


def write(
    blocks: Iterable[Block], holes: Iterable[Missing], begins: Callable[[], int], out: IO[bytes]
) -> int:
    """Write the events of blocks, then what is lost, as a trace. Gives where it begins (wall-clock ns).

    `begins` tells that, once the oldest events are there.
    """
    parts = runs(blocks)
    first = next(parts, None)
    origin = begins()
    head = {"clock": "wall", "first_event_ns": origin, "source": "kwire"}
    out.write(f'{{"displayTimeUnit":"ns","otherData":{json.dumps(head)},"traceEvents":[\n'.encode())
    writer, lines = _Writer(out, origin), Lines(_line)
    probes: dict[int, _Probe] = {}
    hosts: dict[str, int] = {}
    for run in chain([] if first is None else [first], parts):
        schemas = [block.schema for block, _ in run.stretches]
        which, _ = run.located()
        made = chain.from_iterable(lines.of(run))
        for number, time, line in zip(which.tolist(), run.times.tolist(), made, strict=True):
            schema = schemas[number]
            probe = probes.get(id(schema))
            if probe is None:  # hosts are numbered as their events come
                host = hosts.setdefault(schema.host, len(hosts))
                probe = probes[id(schema)] = _Probe(schema, host)
            writer.event(probe, time, line)
    for hole in holes:
        writer.lost(hole)
    writer.finish()
    out.write(b"\n]}\n")
    return origin


def _head(phase: str, name: str, kind: str) -> str:
    """An entry up to its time."""
    return f'{{"ph":"{phase}","name":{json.dumps(name)},"cat":{json.dumps(kind)},"ts":'


def _micro(ns: int) -> str:
    """Microseconds with three decimals, exactly."""
    sign, ns = ("-", -ns) if ns < 0 else ("", ns)
    return f"{sign}{ns // 1000}.{ns % 1000:03d}"
