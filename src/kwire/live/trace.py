"""A trace in a Python program: `with kwire.trace(probe, …) as events`.

Invariants: probes are attached when the `with` begins and gone when it ends; nothing lost is silent
(`events.lost`, `events.losses`); the program's privileges and signals are its own and are not touched.
"""

import time

from kwire.arguments import checked
from kwire.live.command import Command
from kwire.live.events import Batch
from kwire.live.lines import batch
from kwire.live.plan import Scope
from kwire.live.planner import make_plan
from kwire.live.probes import Probe
from kwire.live.processes import Processes, choice
from kwire.live.reading import Reading
from kwire.live.recorder import Limits, Recorder
from kwire.wire.schema import Schema

IDLE = 0.01
"""Seconds that a look for events waits for them."""


class Trace(Reading):
    """A trace that runs inside a `with`. Iterate for events, or take `columns`; see `kwire.trace`."""

    __slots__ = ("_command", "_pids", "_processes", "_recorder", "_words")

    def __init__(
        self,
        probes: tuple[Probe | str, ...],
        *,
        filter: str | None = None,
        command: str | list[str] | None = None,
        pid: int | list[int] | None = None,
        seconds: float | None = None,
        count: int | None = None,
        buffer: int | None = None,
    ) -> None:
        filter, seconds, count, buffer = checked(
            "trace", filter=filter, seconds=seconds, count=count, buffer=buffer
        )
        self._words, self._pids = choice(command, pid)
        follow = bool(self._words or self._pids)
        super().__init__(Batch([]))
        self._command: Command | None = None
        self._processes: Processes | None = None
        self._recorder = Recorder.begin(
            lambda: make_plan(probes, filter, scope=Scope(follow, pids=tuple(self._pids))),
            Limits(seconds, count),
            buffer=buffer,
            follow=follow,
        )

    @property
    def schemas(self) -> tuple[Schema, ...]:
        """What the events of each probe hold."""
        return self._recorder.plan.schemas

    @property
    def lost(self) -> int:
        """How many events are missing so far."""
        return self._recorder.lost

    @property
    def left_out(self) -> list[tuple[str, str]]:
        """Targets of wildcards that are not traced, and why."""
        return list(self._recorder.plan.skipped)

    @property
    def unfiltered(self) -> list[tuple[str, str]]:
        """Probes to which the filter does not apply, because they have not its names, and why."""
        return list(self._recorder.plan.unfiltered)

    def _begin(self) -> None:
        if self._words:
            self._command = Command(self._words)
        self._processes = Processes(self._pids, self._command)
        self._recorder.attach(self._processes)
        self._batch = batch(self._recorder.plan.schemas)
        self._recorder.start([self._batch])

    def _limited(self) -> bool:
        return bool(self._words) or self._recorder.limited

    def _round(self) -> bool:
        if not self._recorder.over:
            self._recorder.wait(longest=IDLE)
            self._recorder.turn()
        return self._recorder.over

    def _turn(self) -> bool:
        self._recorder.turn()
        return self._recorder.over

    def _waits_for(self) -> tuple[int, float]:
        return self._recorder.fd, self._recorder.due - time.monotonic()

    def _look(self) -> None:
        self._recorder.catch_up()

    def _finish(self) -> None:
        self._recorder.end("the with ended")

    def _release(self) -> None:
        self._recorder.close()  # before the command is waited for, and its number can be another's
        if self._processes:
            self._processes.close()
        if self._command:
            self._command.end()
