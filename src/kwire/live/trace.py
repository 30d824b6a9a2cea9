"""A trace in a Python program: `with kwire.trace(probe, …) as events`.

The laws: probes are attached when the `with` begins and gone when it ends; nothing lost is silent
(`events.lost`, `events.losses`); the program's privileges and signals are its own and are not touched.
"""

import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from kwire.live.command import Command, split
from kwire.live.environment import complete
from kwire.live.events import Batch, Event
from kwire.live.plan import Scope
from kwire.live.planner import make_plan
from kwire.live.probes import Probe
from kwire.live.processes import Processes
from kwire.live.recorder import Limits, Recorder, Sink
from kwire.live.tracer import Tracer
from kwire.wire.messages import Lost
from kwire.wire.schema import Schema

IDLE = 0.01
"""Seconds between two looks at the rings while events are waited for."""


class Trace:
    """A trace that runs inside a `with`. Iterate for events, or take `columns`; see `kwire.trace`."""

    __slots__ = (
        "_batch",
        "_command",
        "_pids",
        "_processes",
        "_recorder",
        "_seconds",
        "_sinks",
        "_tracer",
        "_until",
        "_words",
    )

    def __init__(
        self,
        probes: tuple[Probe, ...],
        *,
        command: str | list[str] | None = None,
        pid: int | list[int] | None = None,
        seconds: float | None = None,
        count: int | None = None,
        buffer: int | None = None,
    ) -> None:
        self._words = split(command) if isinstance(command, str) else command
        self._pids = [pid] if isinstance(pid, int) else list(pid or [])
        follow = bool(self._words or self._pids)
        plan = make_plan(probes, scope=Scope(follow))
        plan = plan._replace(schemas=complete(plan.schemas))
        self._seconds = seconds
        self._until: float | None = None
        self._command: Command | None = None
        self._processes: Processes | None = None
        self._batch = Batch(plan.schemas)
        self._sinks: list[Sink] = [self._batch]
        self._tracer = Tracer(plan, buffer=buffer, follow=follow)
        self._recorder = Recorder(self._tracer, self._sinks, Limits(None, count))

    @property
    def schemas(self) -> tuple[Schema, ...]:
        """What the events of each probe hold."""
        return self._tracer.plan.schemas

    @property
    def lost(self) -> int:
        """How many events are missing so far."""
        return self._recorder.lost

    @property
    def losses(self) -> list[Lost]:
        """Each hole so far: probe, CPU, first and last moment, count and cause."""
        return list(self._batch.losses)

    def __enter__(self) -> Self:
        try:
            if self._words:
                self._command = Command(self._words)
            self._processes = Processes(self._pids, self._command)
            self._tracer.follow(self._processes)
            self._tracer.attach()
            if self._seconds is not None:
                self._until = time.monotonic() + self._seconds
            if self._command:
                self._command.go()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Event]:
        """Give events in the order of their time until a limit or the end of the command; else for ever."""
        while True:
            ended = self._ended()
            if ended:
                self._recorder.finish()
            else:
                self._recorder.step()
            events = self._batch.take()
            yield from events
            if ended:
                return
            if not events:
                time.sleep(IDLE)

    def columns(self, probe: str | None = None) -> dict[str, Any]:
        """One numpy array a field: the events not yet iterated over.

        With a command, `seconds` or `count` it first waits for the end; else it gives what is there now. With
        several probes, `probe` names the one wanted; the events of the others are dropped.
        """
        limited = self._command or self._until is not None or self._recorder.limited
        while limited and not self._ended():
            if not self._recorder.step():
                time.sleep(IDLE)
        if limited:
            self._recorder.finish()
        else:
            self._recorder.step()
        return self._batch.columns(probe)

    def close(self) -> None:
        """Take the probes away; a command that still runs is ended."""
        self._tracer.close()  # before the command is waited for, and its number can be another's
        if self._processes:
            self._processes.close()
        if self._command:
            self._command.end()

    def _ended(self) -> bool:
        if self._recorder.satisfied or (self._until is not None and time.monotonic() >= self._until):
            return True
        return self._processes is not None and self._processes.ended()
