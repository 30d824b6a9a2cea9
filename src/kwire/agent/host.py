"""Another machine for Python programs: what `kwire.connect` gives.

    web = kwire.connect("web1.example")
    with web.trace(opened, seconds=10) as events:
        for event in events:
            print(event.comm, event.path)

Invariants: a trace there has the interface of a trace here; each trace and each question is a session of its
own; a program that asks for no events lets them wait, and the agent counts what finds no room. One that does
not for two minutes has lost its trace.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kwire.agent.received import Received
from kwire.agent.remote import Endpoint, RemoteSession
from kwire.agent.requests import numbered
from kwire.arguments import checked, needed
from kwire.capture.writer import Writer
from kwire.errors import KwireError
from kwire.live.events import Batch
from kwire.live.lines import batch
from kwire.live.probes import Probe
from kwire.live.processes import choice
from kwire.live.program_sources import written
from kwire.live.reading import Reading
from kwire.live.summary import summarize
from kwire.live.travelling import Titles
from kwire.wire.schema import Schema

if TYPE_CHECKING:
    from kwire.live.recorder import Sink
    from kwire.transport.tls import TlsOptions

IDLE = 0.01
"""Seconds that a look for events waits for them."""


class Host:
    """A machine with an agent. Nothing is connected before something is asked for."""

    __slots__ = ("_link",)

    def __init__(self, host: str, tls: TlsOptions | None = None, insecure: bool = False) -> None:
        self._link = Endpoint(host, tls, insecure)

    def __repr__(self) -> str:
        return f"<kwire host {self._link.address}>"

    def trace(
        self,
        *probes: Probe | str,
        filter: str | None = None,
        command: str | list[str] | None = None,
        pid: int | list[int] | None = None,
        seconds: float | None = None,
        count: int | None = None,
        buffer: int | None = None,
    ) -> RemoteTrace:
        """As `kwire.trace`, there; probe specs as `kwire record` takes them may stand among the probes.

        Without any, those that the agent lists. `filter`: an expression that must hold for every event.
        """
        titles = Titles()
        body = _body(probes, filter, command, pid, seconds, count, buffer, titles)
        return RemoteTrace(self._link, body, titles)

    def record(
        self,
        file: str,
        *probes: Probe | str,
        filter: str | None = None,
        command: str | list[str] | None = None,
        pid: int | list[int] | None = None,
        seconds: float | None = None,
        count: int | None = None,
        buffer: int | None = None,
    ) -> dict[str, Any]:
        """Trace there into a capture here; the summary that `kwire record --json` prints.

        It ends with the command, after `seconds` or after `count` events, one of which must be given. Raises
        KwireError; what came until then is kept.
        """
        [file] = needed("record", file=file)
        if command is None and seconds is None and count is None:
            cause = "nothing says when it ends"
            raise KwireError("record", file, cause, "give command, seconds or count")
        titles = Titles()
        body = _body(probes, filter, command, pid, seconds, count, buffer, titles)
        writers: list[Writer] = []

        def start(schemas: tuple[Schema, ...]) -> Sequence[Sink]:
            first = schemas[0]
            writers.append(Writer(file, schemas, host=first.host, kernel=first.kernel))
            return writers

        conversation = RemoteSession(self._link, body, start)
        received = conversation.received
        try:
            conversation.until(lambda: conversation.tracing)
            begun = time.monotonic()
            conversation.until(lambda: False)
            took = time.monotonic() - begun
            totals = received.close(writers[0])
            schemas = tuple(received.schemas.values())
            produced, status = received.produced or {}, conversation.status
            events = tuple(schema for schema in schemas if schema.map is None)
            summary = summarize(events, received, writers[0], produced, totals, took, status)
            _tell(titles, received)
            return {**summary, "host": schemas[0].host}
        finally:
            conversation.close()
            for writer in writers:
                received.close(writer)

    def probes(self, pattern: str) -> list[str]:
        """What the agent lets us probe there of a pattern such as `tracepoint:sched:*`; 4,000 at most."""
        [pattern] = needed("list probes", pattern=pattern)
        conversation = RemoteSession(self._link, {"op": "probes", "pattern": pattern})
        try:
            conversation.until(lambda: conversation.answer is not None)
            names = (conversation.answer or {}).get("names")
            return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
        finally:
            conversation.close()


class RemoteTrace(Reading):
    """A trace that runs on another machine inside a `with`. Iterate for events, or take `columns`."""

    __slots__ = ("_body", "_conversation", "_link", "_titles")

    def __init__(self, link: Endpoint, body: dict[str, Any], titles: Titles) -> None:
        super().__init__(Batch([]))
        self._titles = titles
        self._link = link
        self._body = body
        self._conversation: RemoteSession | None = None

    @property
    def schemas(self) -> tuple[Schema, ...]:
        """What the events of each probe hold; known inside the `with`."""
        known = self._conversation.received.schemas.values() if self._conversation else ()
        return tuple(schema for schema in known if schema.map is None)

    @property
    def lost(self) -> int:
        """How many events are missing so far, on every hop."""
        return self._conversation.received.lost if self._conversation else 0

    @property
    def left_out(self) -> list[tuple[str, str]]:
        """Targets of wildcards that are not traced, and why: the first of them."""
        return self._told("skipped")

    @property
    def unfiltered(self) -> list[tuple[str, str]]:
        """Probes to which the filter does not apply, because they have not its names, and why."""
        return self._told("unfiltered")

    def _told(self, name: str) -> list[tuple[str, str]]:
        answer = (self._conversation.answer if self._conversation else None) or {}
        pairs = answer.get(name)
        sound = [pair for pair in pairs if isinstance(pair, list)] if isinstance(pairs, list) else []
        return [(str(pair[0]), str(pair[1])) for pair in sound if len(pair) == 2]

    def _subject(self) -> str:
        return f"{super()._subject()} on {self._link.address}"

    def _limited(self) -> bool:
        return bool({"command", "seconds", "count"} & self._body.keys())

    def _begin(self) -> None:
        _tell(self._titles, None)
        self._conversation = RemoteSession(self._link, self._body, self._start)
        self._conversation.until(lambda: self._inside.tracing)

    def _round(self) -> bool:
        self._inside.turn(IDLE)
        return self._inside.over

    def _turn(self) -> bool:
        self._inside.turn(0)
        return self._inside.over

    def _waits_for(self) -> tuple[int, float]:
        patience = self._inside.loop.patience(None)
        return self._inside.loop.fd, float("inf") if patience is None else patience

    def _look(self) -> None:
        before = -1
        while before != self._inside.received.events:
            before = self._inside.received.events
            self._inside.turn(IDLE)

    def _finish(self) -> None:
        self._inside.stop()
        self._inside.until(lambda: False)

    def _release(self) -> None:
        if self._conversation is not None:
            self._conversation.close()
            _tell(self._titles, self._conversation.received)

    @property
    def _inside(self) -> RemoteSession:
        assert self._conversation is not None, "the trace has begun"
        return self._conversation

    def _start(self, schemas: tuple[Schema, ...]) -> Sequence[Sink]:
        self._batch = batch(schemas)
        return [self._batch]


def _tell(titles: Titles, received: Received | None) -> None:
    """Let the maps of this program be what was told of them at the end of a trace; None: it begins."""
    left = {schema.target: (schema, table) for schema, table in received.left} if received else {}
    for title, one in titles.shared.items():
        if received is None or title in left:
            one.tell(left.get(title))


def _body(
    probes: tuple[Probe | str, ...],
    filter: str | None,
    command: str | list[str] | None,
    pid: int | list[int] | None,
    seconds: float | None,
    count: int | None,
    buffer: int | None,
    titles: Titles,
) -> dict[str, Any]:
    """The request. Raises KwireError where something is of the wrong type."""
    filter, seconds, count, buffer = checked(
        "trace", filter=filter, seconds=seconds, count=count, buffer=buffer
    )
    words, pids = choice(command, pid)
    functions = written([probe for probe in probes if not isinstance(probe, str)])
    given = {
        "probes": [probe for probe in probes if isinstance(probe, str)],
        "functions": numbered(functions, titles),
        "filter": filter,
        "command": words,
        "pids": pids,
        "seconds": seconds,
        "count": count,
        "buffer": buffer,
    }
    return {"op": "trace", **{name: value for name, value in given.items() if value not in (None, [], {})}}
