"""A recording in a loop: rings, counters, limits and the command of `-c`, beside whatever else the loop does.

Invariants: rings are drained within a few milliseconds whatever the network does; between two rounds there is
a pause (`PAUSE`), so a flood moves in large spans; when it ends, by a limit, the command's end or `end`, the
probes are taken away and every event they produced is accounted for. A failure of it ends the loop (`vital`):
an agent that cannot record has nothing to go on for.
"""

import select
import time
from collections.abc import Callable, Sequence

from kwire.live.processes import Processes
from kwire.live.recorder import PAUSE, TICK, Limits, Recorder, Sink
from kwire.live.tracer import Tracer
from kwire.transport.loop import READ, Loop, Timer, vital


class Recording:
    """A tracer whose probes are attached. `round` is called after each round, `ended` once, with why."""

    __slots__ = (
        "_ended",
        "_processes",
        "_rings",
        "_round",
        "_started",
        "_stopped",
        "_timers",
        "_tracer",
        "limits",
        "loop",
        "over",
        "produced",
        "progress",
        "recorder",
    )

    def __init__(
        self,
        loop: Loop,
        tracer: Tracer,
        sinks: Sequence[Sink],
        limits: Limits,
        processes: Processes | None,
        round: Callable[[], None],
        ended: Callable[[str], None],
    ) -> None:
        self.loop = loop
        self._tracer = tracer
        self._processes = processes
        self._round = round
        self._ended = ended
        self._timers: dict[str, Timer] = {}
        self._rings = select.epoll()  # one descriptor for all rings: pausing them is one system call
        self._started = self._stopped = time.monotonic()
        self.limits = limits
        self.recorder = Recorder(tracer, list(sinks), limits)
        self.progress: Callable[[], None] | None = None
        """Called with each look at the counters."""
        self.over = False
        """It has ended; `produced` is known."""
        self.produced: dict[int, int] = {}
        """Events by probe, of the whole recording."""

    @property
    def seconds(self) -> float:
        """How long it has taken, or took."""
        return (self._stopped if self.over else time.monotonic()) - self._started

    def start(self) -> None:
        """Let the command go, and move events from now on."""
        loop, now = self.loop, self.loop.now()
        for ring in self._tracer.rings:
            self._rings.register(ring.map.fd, select.EPOLLIN)
        loop.add(self._rings.fileno(), READ, self._ready)
        self._timers["tick"] = loop.at(now + TICK, self._tick)
        if self.limits.seconds is not None:
            self._timers["end"] = loop.at(now + self.limits.seconds, self._time_is_over)
        self._started = time.monotonic()
        if self._processes:
            loop.add(self._processes.fd, READ, self._look_at_processes)
            if self._processes.command:
                self._processes.command.go()

    @vital
    def end(self, why: str) -> None:
        """Take the probes away and account for everything; harmless where it has ended."""
        if self.over:
            return
        self._forget()
        self.recorder.finish()
        self._stopped = time.monotonic()
        self.over = True
        self.produced = self.recorder.produced()
        if self._processes and self._processes.command:
            self._processes.command.ended()
        self._ended(why)

    def close(self) -> None:
        """Free its descriptors; what is in the rings stays there."""
        self._forget()

    def _forget(self) -> None:
        if self._rings.closed:
            return
        self.loop.remove(self._rings.fileno())
        self._rings.close()
        for timer in self._timers.values():
            self.loop.cancel(timer)
        if self._processes:
            self.loop.remove(self._processes.fd)

    @vital
    def _time_is_over(self) -> None:
        self.end("the time is over")

    @vital
    def _look_at_processes(self, mask: int) -> None:
        """One has ended."""
        if self._processes and self._processes.ended():
            self.end("the command has ended" if self._processes.command else "the processes have ended")

    @vital
    def _ready(self, mask: int) -> None:
        """Events wait: a round, and then a pause."""
        self.recorder.move()
        self._round()
        if self.recorder.satisfied:
            self.end("the last event asked for has come")
        elif not self._rings.closed:
            self.loop.modify(self._rings.fileno(), 0)
            self._timers["pause"] = self.loop.at(self.loop.now() + PAUSE, self._resume)

    @vital
    def _resume(self) -> None:
        self.loop.modify(self._rings.fileno(), READ)

    @vital
    def _tick(self) -> None:
        self.recorder.look()
        self._timers["tick"] = self.loop.at(self.loop.now() + TICK, self._tick)
        self._round()
        if self.progress:
            self.progress()
