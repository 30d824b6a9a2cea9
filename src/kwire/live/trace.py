"""A trace in a Python program: `with kwire.trace(probe, …) as events`.

Invariants: probes are attached when the `with` begins and gone when it ends; nothing lost is silent
(`events.lost`, `events.losses`); the program's privileges and signals are its own and are not touched.
"""

import time

from kwire.arguments import checked
from kwire.live.command import Command
from kwire.live.environment import complete
from kwire.live.events import Batch
from kwire.live.plan import Scope
from kwire.live.planner import make_plan
from kwire.live.probes import Probe
from kwire.live.processes import Processes, choice
from kwire.live.reading import Reading
from kwire.live.recorder import Limits, Recorder
from kwire.live.tracer import Tracer
from kwire.wire.schema import Schema

IDLE = 0.01
"""Seconds between two looks at the rings while events are waited for."""


class Trace(Reading):
    """A trace that runs inside a `with`. Iterate for events, or take `columns`; see `kwire.trace`."""

    __slots__ = (
        "_command",
        "_over",
        "_pids",
        "_processes",
        "_recorder",
        "_seconds",
        "_tracer",
        "_until",
        "_words",
    )

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
        plan = make_plan(probes, filter, scope=Scope(follow))
        plan = plan._replace(schemas=complete(plan.schemas))
        batch = Batch(plan.schemas)
        super().__init__(batch)
        self._seconds = seconds
        self._until: float | None = None
        self._over = False
        self._command: Command | None = None
        self._processes: Processes | None = None
        self._tracer = Tracer(plan, buffer=buffer, follow=follow)
        self._recorder = Recorder(self._tracer, [batch], Limits(None, count))

    @property
    def schemas(self) -> tuple[Schema, ...]:
        """What the events of each probe hold."""
        return self._tracer.plan.schemas

    @property
    def lost(self) -> int:
        """How many events are missing so far."""
        return self._recorder.lost

    @property
    def left_out(self) -> list[tuple[str, str]]:
        """Targets of wildcards that are not traced, and why."""
        return list(self._tracer.plan.skipped)

    @property
    def unfiltered(self) -> list[tuple[str, str]]:
        """Probes to which the filter does not apply, because they have not its names, and why."""
        return list(self._tracer.plan.unfiltered)

    def _begin(self) -> None:
        if self._words:
            self._command = Command(self._words)
        self._processes = Processes(self._pids, self._command)
        self._tracer.follow(self._processes)
        self._tracer.attach()
        if self._seconds is not None:
            self._until = time.monotonic() + self._seconds
        if self._command:
            self._command.go()

    def _limited(self) -> bool:
        return bool(self._words) or self._seconds is not None or self._recorder.limited

    def _round(self) -> bool:
        if self._ended():
            self._finish()
        elif not self._recorder.step():
            time.sleep(IDLE)
        return self._over

    def _look(self) -> None:
        self._recorder.step()

    def _finish(self) -> None:
        if not self._over:
            self._over = True
            self._recorder.finish()

    def _ended(self) -> bool:
        if self._recorder.satisfied or (self._until is not None and time.monotonic() >= self._until):
            return True
        return self._processes is not None and self._processes.ended()

    def _release(self) -> None:
        self._tracer.close()  # before the command is waited for, and its number can be another's
        if self._processes:
            self._processes.close()
        if self._command:
            self._command.end()
