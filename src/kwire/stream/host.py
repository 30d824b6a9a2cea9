"""Another machine for Python programs: what `kwire.connect` gives.

    web = kwire.connect("web1.example")
    with web.trace(opened, seconds=10) as events:
        for event in events:
            print(event.comm, event.path)

The laws: a trace there has the interface of a trace here; each trace and each question is a session of its
own; a program that asks for no events lets them wait, and the agent counts what finds no room. One that does
not for two minutes has lost its trace.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from kwire.capture.writer import Writer
from kwire.errors import KwireError
from kwire.live.command import split
from kwire.live.events import Batch, Event
from kwire.live.probes import Probe
from kwire.live.summary import summarize
from kwire.live.texts import written
from kwire.stream.remote import Conversation, Link
from kwire.stream.requests import numbered
from kwire.wire.messages import Lost
from kwire.wire.schema import Schema

if TYPE_CHECKING:
    from kwire.live.recorder import Sink
    from kwire.stream.tls import TlsOptions

IDLE = 0.01
"""Seconds that a look for events waits for them."""


class Host:
    """A machine with an agent. Nothing is connected before something is asked for."""

    __slots__ = ("_link",)

    def __init__(self, host: str, tls: TlsOptions | None = None, insecure: bool = False) -> None:
        self._link = Link(host, tls, insecure)

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
        body = _body(probes, filter, command, pid, seconds, count, buffer)
        return RemoteTrace(self._link, body)

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
        if command is None and seconds is None and count is None:
            cause = "nothing says when it ends"
            raise KwireError("record", file, cause, "give command, seconds or count")
        body = _body(probes, filter, command, pid, seconds, count, buffer)
        writers: list[Writer] = []

        def start(schemas: tuple[Schema, ...]) -> Sequence[Sink]:
            first = schemas[0]
            writers.append(Writer(file, schemas, host=first.host, kernel=first.kernel))
            return writers

        conversation = Conversation(self._link, body, start)
        received = conversation.received
        try:
            conversation.until(lambda: conversation.tracing)
            begun = time.monotonic()
            conversation.until(lambda: False)
            took = time.monotonic() - begun
            totals = received.close(writers[0])
            schemas = tuple(received.schemas.values())
            produced, status = received.produced or {}, conversation.status
            summary = summarize(schemas, received, writers[0], produced, totals, took, status)
            return {**summary, "host": schemas[0].host}
        finally:
            conversation.close()
            for writer in writers:
                received.close(writer)

    def probes(self, pattern: str) -> list[str]:
        """What the agent lets us probe there of a pattern such as `tracepoint:sched:*`; 4,000 at most."""
        conversation = Conversation(self._link, {"op": "probes", "pattern": pattern})
        try:
            conversation.until(lambda: conversation.answer is not None)
            names = (conversation.answer or {}).get("names")
            return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
        finally:
            conversation.close()


class RemoteTrace:
    """A trace that runs on another machine inside a `with`. Iterate for events, or take `columns`."""

    __slots__ = ("_batch", "_body", "_conversation", "_link")

    def __init__(self, link: Link, body: dict[str, Any]) -> None:
        self._link = link
        self._body = body
        self._conversation: Conversation | None = None
        self._batch = Batch([])

    @property
    def schemas(self) -> tuple[Schema, ...]:
        """What the events of each probe hold; known inside the `with`."""
        return tuple(self._conversation.received.schemas.values()) if self._conversation else ()

    @property
    def lost(self) -> int:
        """How many events are missing so far, on every hop."""
        return self._conversation.received.lost if self._conversation else 0

    @property
    def losses(self) -> list[Lost]:
        """Each hole so far: probe, CPU, first and last moment, count and cause."""
        return list(self._batch.losses)

    def __enter__(self) -> Self:
        self._conversation = conversation = Conversation(self._link, self._body, self._start)
        try:
            conversation.until(lambda: conversation.tracing)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Event]:
        """Give events, each round's in the order of their time, until the trace ends there; else for ever."""
        conversation = self._inside()
        while True:
            conversation.turn(IDLE)
            yield from self._batch.take()
            if conversation.over:
                return

    def columns(self, probe: str | None = None) -> dict[str, Any]:
        """One numpy array a field: the events not yet iterated over.

        With a command, `seconds` or `count` it first waits for the end; else it gives what is there now. With
        several probes, `probe` names the one wanted; the events of the others are dropped.
        """
        conversation = self._inside()
        if {"command", "seconds", "count"} & self._body.keys():
            conversation.until(lambda: False)
        else:
            before = -1
            while before != conversation.received.events:
                before = conversation.received.events
                conversation.turn(IDLE)
        return self._batch.columns(probe)

    def close(self) -> None:
        """Take the probes away; a command that still runs is ended."""
        if self._conversation is not None:
            self._conversation.close()

    def _inside(self) -> Conversation:
        if self._conversation is None:
            raise KwireError("trace on", str(self._link.address), "it has not begun", "use it in a with")
        return self._conversation

    def _start(self, schemas: tuple[Schema, ...]) -> Sequence[Sink]:
        self._batch = Batch(schemas)
        return [self._batch]


def _body(
    probes: tuple[Probe | str, ...],
    filter: str | None,
    command: str | list[str] | None,
    pid: int | list[int] | None,
    seconds: float | None,
    count: int | None,
    buffer: int | None,
) -> dict[str, Any]:
    """The request."""
    functions = written([probe for probe in probes if not isinstance(probe, str)])
    given = {
        "probes": [probe for probe in probes if isinstance(probe, str)],
        "functions": numbered({**one._asdict(), "attach": list(one.attach)} for one in functions),
        "filter": filter,
        "command": split(command) if isinstance(command, str) else command,
        "pids": [pid] if isinstance(pid, int) else pid,
        "seconds": seconds,
        "count": count,
        "buffer": buffer,
    }
    return {"op": "trace", **{name: value for name, value in given.items() if value not in (None, [], {})}}
