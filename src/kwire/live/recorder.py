"""The loop that moves events from the rings to whoever takes them, until it is time to stop.

Invariants: events of one ring keep their order, and a LOST frame follows the events before the hole; after
the last event everything is accounted for; nothing here looks at a single event, but for the last one of a
recording of so many: what is lost after its moment is no part of the recording. The loop sleeps in poll(2) on
the rings: the kernel wakes it when an event lands in a ring that was empty. After each round it pauses a few
milliseconds, so a flood of events is moved in large spans and the traced processes pay for few wake-ups.
"""

import select
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Protocol

from kwire.lazy import NamedTuple
from kwire.live.processes import Processes
from kwire.live.tracer import Tracer
from kwire.wire.frame import HEADER_SIZE
from kwire.wire.frames import Frames
from kwire.wire.messages import Lost

PAUSE = 0.004
"""Seconds between two rounds while events come: at 200 MB/s less than a megabyte waits in a ring."""

TICK = 0.25
"""Seconds between two looks at the counters, and between two reports of progress."""


class Sink(Protocol):
    """What takes the events: a file, a screen, a program."""

    def write(self, frames: Frames) -> None:
        """Take frames, valid during the call only."""

    def lost(self, losses: list[Lost]) -> None:
        """Take losses; they stand after the events given before."""

    def flush(self) -> None:
        """The end of a round."""


class Limits(NamedTuple):
    """When to stop by itself: after so many seconds, after so many events; None: never."""

    seconds: float | None = None
    events: int | None = None


class Recorder:
    """Moves events from a tracer to sinks. `stop` is an eventfd or any descriptor that becomes readable."""

    __slots__ = ("_last", "_limits", "_remaining", "_sinks", "_tracer", "causes", "cut", "events", "lost")

    def __init__(self, tracer: Tracer, sinks: list[Sink], limits: Limits = Limits()) -> None:  # noqa: B008
        self._tracer = tracer
        self._sinks = sinks
        self._limits = limits
        self._remaining = limits.events
        self._last: int | None = None  # timestamp of the last event asked for, ns, once it has come
        self.events = 0
        self.lost = 0
        self.causes: Counter[int] = Counter()
        """The same by cause."""
        self.cut: dict[int, int] = {}
        """Events by probe after the last one asked for, lost ones too: no part of the recording."""

    def run(
        self,
        processes: Processes | None = None,
        stop: int = -1,
        progress: Callable[[], None] | None = None,
    ) -> None:
        """Move events until a limit, the end of the chosen processes or `stop` is readable; then account for
        all.
        """
        poll = select.poll()
        for ring in self._tracer.rings:
            poll.register(ring.map.fd, select.POLLIN)
        if processes:
            poll.register(processes.fd, select.POLLIN)
        if stop >= 0:
            poll.register(stop, select.POLLIN)
        end = None if self._limits.seconds is None else time.monotonic() + self._limits.seconds
        next_tick = time.monotonic() + TICK
        ended = False
        while not ended and self._remaining != 0:
            now = time.monotonic()
            if now >= next_tick:
                self._lose(self._tracer.lost())
                next_tick = now + TICK
                if progress:
                    progress()
            if end is not None and now >= end:
                break
            until = next_tick if end is None else min(end, next_tick)
            ready = {fd for fd, _ in poll.poll(max(0.0, until - now) * 1000)}
            ended = stop in ready or (processes is not None and processes.ended())
            if ready and not ended:
                self._round(self._tracer.drain())
                time.sleep(PAUSE)
        self.finish()

    @property
    def limited(self) -> bool:
        """Whether it stops by itself after a number of events."""
        return self._limits.events is not None

    @property
    def satisfied(self) -> bool:
        """Whether the last event asked for has come."""
        return self._remaining == 0

    def step(self) -> int:
        """One round and a look at the counters, for a caller with a loop of its own; events moved."""
        moved = self.move()
        self.look()
        return moved

    def move(self) -> int:
        """One round without a look at the counters, which costs more the more probes there are."""
        before = self.events
        self._round(self._tracer.drain())
        return self.events - before

    def look(self) -> None:
        """Tell the sinks what the kernel lost since the last look; worth doing every `TICK`."""
        self._lose(self._tracer.lost())

    def finish(self) -> None:
        """Take the probes away and account for every event they produced."""
        tracer = self._tracer
        missed = tracer.missed()
        tracer.detach()
        self._round(tracer.settle())
        self._lose([*tracer.lost(), *missed])

    def produced(self) -> dict[int, int]:
        """Events by probe that belong to the recording: all but those beyond the last one asked for."""
        produced = self._tracer.produced()
        return {probe: count - self.cut.get(probe, 0) for probe, count in produced.items()}

    def _round(self, batches: Iterator[Frames]) -> None:
        for frames in batches:
            if self._remaining is not None:
                frames = self._limit(frames)
            if frames.count:
                self.events += frames.count
                for sink in self._sinks:
                    sink.write(frames)
        for sink in self._sinks:
            sink.flush()

    def _limit(self, frames: Frames) -> Frames:
        """The frames that are still wanted; the others are counted as cut."""
        wanted = min(self._remaining or 0, frames.count)
        for index in range(wanted, frames.count):
            probe = frames.header(index).id
            self.cut[probe] = self.cut.get(probe, 0) + 1
        self._remaining = (self._remaining or 0) - wanted
        if wanted and not self._remaining:
            at = frames.offsets[wanted - 1] + HEADER_SIZE
            self._last = int.from_bytes(frames.view[at : at + 8], sys.byteorder)
        frames.count = wanted
        return frames

    def _lose(self, losses: list[Lost]) -> None:
        if self._last is not None:
            for loss in losses:
                if loss.first > self._last:
                    self.cut[loss.probe] = self.cut.get(loss.probe, 0) + loss.count
            losses = [loss for loss in losses if loss.first <= self._last]
        if losses:
            for loss in losses:
                self.lost += loss.count
                self.causes[loss.cause] += loss.count
            for sink in self._sinks:
                sink.lost(losses)
