"""Chrome trace events, which Perfetto and chrome://tracing show: slices for calls, instants for the rest.

Format: "Trace Event Format" (Google), the JSON object form. Invariants: times are microseconds from the
capture's first event with nanoseconds as fractions, because a double cannot hold those since 1970; a call
whose end is missing is left open (`B` without `E`), an end without a beginning is an instant; every event is
in exactly one entry, but for the beginning and the end of a call, which are one. Memory is bounded: at most
OPEN calls wait for their ends.
"""

import json
from collections.abc import Iterable
from itertools import chain
from typing import IO, Any, Final

from kwire.analyze.call_pairs import role
from kwire.analyze.losses import Missing
from kwire.analyze.order import ordered
from kwire.analyze.scan import Block
from kwire.view.jsonl import JsonLines
from kwire.view.table import cause_text
from kwire.wire.fields import CUT, TYPES
from kwire.wire.schema import Schema

OPEN: Final = 1 << 18  # calls that wait for their ends
NAMES: Final = 8  # of a thread, one after the other; the last one stands for those beyond
DEPTH: Final = 64  # calls of one function open in one thread
HOST_SHIFT: Final = 22  # Linux's process ids have 22 bits: the bits above tell hosts apart
WRITTEN: Final = 1 << 20  # characters written at a time
WAITING: Final = 64 << 20  # characters of calls that wait for their ends
FIELDS: Final = '"fields":'
CONTEXT: Final = ("pid", "tid", "cpu", "comm")


class _Probe:
    """What turns the events of one schema into entries."""

    __slots__ = ("decode", "host", "instant", "line", "name", "places", "role", "schema", "tails")

    def __init__(self, schema: Schema, host: int) -> None:
        self.schema, self.host = schema, host
        self.role = role(schema)
        self.name = self.role.name if self.role else schema.probe.split("(", 1)[0].split(":", 1)[-1]
        self.instant = _head("i", self.name, schema.kind)
        self.decode = schema.decoder()
        self.line = JsonLines().event(schema)
        names = [field.name for field in schema.fields]
        self.tails = [(name, at) for at, name in enumerate(names) if TYPES[schema.fields[at].type].tail]
        self.places: dict[str, int] = {name: names.index(name) for name in CONTEXT if name in names}

    def number(self, values: tuple[Any, ...], name: str) -> int | None:
        """An integer field of the context, None where there is none."""
        at = self.places.get(name)
        return values[at] if at is not None and type(values[at]) is int else None


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

    def event(self, probe: _Probe, time: int, values: tuple[Any, ...]) -> None:
        """Write an event, or keep it until its call ends."""
        pid, tid = self._thread(probe, time, values)
        line = probe.line(time, values)
        args = line[line.index(FIELDS) + len(FIELDS) : -1]  # inside of texts its quotes would be escaped
        cut = [name for name, at in probe.tails if isinstance(values[at], CUT)]
        if cut:
            args = f'{args[:-1]},"(cut)":{json.dumps(cut)}}}'
        if probe.role is None:
            self._instant(probe.instant, time, pid, tid, args)
            return
        key = (pid, tid, probe.role.key)
        if probe.role.begins:
            calls = self._open.setdefault(key, [])
            if len(calls) >= DEPTH or self._calls >= OPEN or self._waiting + len(args) > WAITING:
                self._instant(probe.instant, time, pid, tid, args)
                return
            calls.append((time, args))
            self._calls, self._waiting = self._calls + 1, self._waiting + len(args)
            return
        calls = self._open.get(key, [])
        if not calls:
            self._instant(_head("i", f"{probe.name} ends", probe.schema.kind), time, pid, tid, args)
            return
        begin, before = calls.pop()
        self._calls, self._waiting = self._calls - 1, self._waiting - len(before)
        if not calls:
            del self._open[key]
        more = f',"dur":{_micro(time - begin)},"args":{{"begin":{before},"end":{args}}}'
        self._entry("X", probe.name, "call", begin, pid, tid, more)

    def _instant(self, head: str, time: int, pid: int, tid: int, args: str) -> None:
        self._put(f'{head}{_micro(time - self._origin)},"pid":{pid},"tid":{tid},"s":"t","args":{args}}}')

    def lost(self, hole: Missing) -> None:
        """Write a hole as an instant over everything; one whose time is not known stands at the beginning."""
        told: dict[str, Any] = {"count": hole.loss.count, "cause": cause_text(hole.loss.cause)}
        told["probes"] = list(hole.probes)
        if hole.last is None:
            told["time"] = "unknown"
        time = self._origin if hole.last is None else hole.last
        more = f',"s":"g","args":{json.dumps(told)}'
        self._entry("i", f"LOST {hole.loss.count}", "lost", time, 0, 0, more)

    def _thread(self, probe: _Probe, time: int, values: tuple[Any, ...]) -> tuple[int, int]:
        """The process and thread of an event; where the thread has another name than before, that is told."""
        pid, tid = probe.number(values, "pid"), probe.number(values, "tid")
        cpu = probe.number(values, "cpu")
        base = probe.host << HOST_SHIFT
        known = pid is not None or tid is not None
        process = base + ((pid if pid is not None else tid) or 0 if known else 0)
        thread = base + (tid if tid is not None else pid if pid is not None else cpu or 0)
        at = probe.places.get("comm")
        comm = str(values[at]) if at is not None else ""
        names = self._names.get((process, thread))
        if names is None:
            names = self._names[process, thread] = []
            if probe.host and probe.schema.host:
                self._hosts.setdefault(process, probe.schema.host)
        if comm and (not names or names[-1] != comm):
            if names:
                told = json.dumps({"before": names[-1], "now": comm})
                self._entry("i", f"now {comm}", "name", time, process, thread, f',"s":"t","args":{told}')
            if len(names) < NAMES:
                names.append(comm)
            else:
                names[-1] = comm
        return process, thread

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

    def _entry(self, phase: str, name: str, kind: str, time: int, pid: int, tid: int, more: str) -> None:
        when = f'{_micro(time - self._origin)},"pid":{pid},"tid":{tid}'
        self._put(f"{_head(phase, name, kind)}{when}{more}}}")

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
                self._entry("B", key, "call", time, pid, tid, f',"args":{{"begin":{args}}}')
        self.flush()


def write(blocks: Iterable[Block], holes: Iterable[Missing], origin: int | None, out: IO[bytes]) -> int:
    """Write the events of blocks, then what is lost, as a trace that begins at `origin` (wall-clock ns).

    None: at the first event, which is the oldest as far as `order` reaches. Gives where it begins.
    """
    events = ordered(blocks)
    first = next(events, None)
    if origin is None:
        origin = 0 if first is None else first[2]
    head = {"clock": "wall", "first_event_ns": origin, "source": "kwire"}
    out.write(f'{{"displayTimeUnit":"ns","otherData":{json.dumps(head)},"traceEvents":[\n'.encode())
    writer = _Writer(out, origin)
    probes: dict[int, _Probe] = {}
    hosts: dict[str, int] = {}
    for block, index, time in chain([] if first is None else [first], events):
        probe = probes.get(id(block.schema))
        if probe is None:
            host = hosts.setdefault(block.schema.host, len(hosts))
            probe = probes[id(block.schema)] = _Probe(block.schema, host)
        writer.event(probe, time, probe.decode(block.frames.frame_bytes(index)))
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
