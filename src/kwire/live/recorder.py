"""A recording: a trace from its plan to its accounts, in steps that any loop can take.

    with Recorder(plan, limits) as recorder:      # programs are loaded
        recorder.attach(processes)                # probes fire
        recorder.start([sink])                    # the command goes, the time runs
        recorder.run()                            # or `turn`, whenever `fd` is readable or `due` has come

Invariants: events of one ring keep their order, and a LOST frame follows the events before the hole; after
the last event everything is accounted for; nothing here looks at a single event, but for the last one of a
recording of so many: what is lost after its moment is no part of the recording. A turn never waits. The
kernel makes `fd` readable when an event lands in a ring that was empty. After a round of the rings they rest
for a few milliseconds, so a flood of events is moved in large spans and the traced processes pay for few
wake-ups.
"""

import os
import select
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterator, Sequence

from kwire.hints import TYPE_CHECKING, Protocol
from kwire.lazy import NamedTuple
from kwire.live.ground import Ground
from kwire.live.plan import Plan
from kwire.live.processes import Processes
from kwire.live.tracer import Tracer
from kwire.wire.frame import HEADER_SIZE
from kwire.wire.frames import Frames
from kwire.wire.messages import Lost
from kwire.wire.schema import Clock, Schema

# ---- What a capture says of the machine it was made on, asked once when a trace starts


CLOCK_ROUNDS = 5


def clock_pair() -> Clock:
    """The time of the events' clock and the wall clock at one moment.

    The two cannot be read at once: of several readings between two of the monotonic clock, the one with the
    smallest gap is taken, so the pair is right to well under a microsecond.
    """
    best = None
    for _ in range(CLOCK_ROUNDS):
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        wall = time.time_ns()
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        if best is None or after - before < best[0]:
            best = (after - before, (before + after) // 2, wall)
    assert best is not None
    return Clock("monotonic", best[1], best[2])


def complete(schemas: tuple[Schema, ...]) -> tuple[Schema, ...]:
    """Add to each schema what only the running system knows: clock, host and kernel."""
    clock = clock_pair()
    system = os.uname()
    return tuple(
        schema._replace(clock=clock, host=system.nodename, kernel=system.release) for schema in schemas
    )


if TYPE_CHECKING:
    from kwire.live.tables import MapTables
    from kwire.wire.tables import MapTable, Row

PAUSE = 0.004
"""Seconds between two rounds while events come: at 200 MB/s less than a megabyte waits in a ring."""

TICK = 0.25
"""Seconds between two looks at the counters, and between two reports of progress."""

NEVER = float("inf")


class Sink(Protocol):
    """What takes the events: a file, a screen, a program."""

    def write(self, frames: Frames) -> None:
        """Take frames, valid during the call only: EVENTs, or TABLEs of one map at one moment."""

    def lost(self, losses: list[Lost]) -> None:
        """Take losses; they stand after the events given before."""

    def flush(self) -> None:
        """The end of a round."""


class Limits(NamedTuple):
    """When to stop by itself: after so many seconds, after so many events; None: never."""

    seconds: float | None = None
    events: int | None = None


class Recorder:
    """One trace: its programs, its processes, its sinks and its limits."""

    __slots__ = (
        "_finite",
        "_last",
        "_limits",
        "_processes",
        "_remaining",
        "_resume",
        "_rings",
        "_sinks",
        "_started",
        "_stopped",
        "_tables",
        "_tick",
        "_until",
        "_watch",
        "causes",
        "cut",
        "events",
        "lost",
        "over",
        "produced",
        "progress",
        "removed",
        "status",
        "tracer",
        "why",
    )

    def __init__(
        self,
        plan: Plan,
        limits: Limits = Limits(),  # noqa: B008  # immutable
        *,
        ground: Ground | None = None,
        follow: bool = False,
        leaving: bool = False,
    ) -> None:
        """Create maps and load the plan's programs.

        `ground`: what was begun for it before the plan was made; without, `follow` says whether only chosen
        processes are traced, those of `attach`. `leaving`: this process ends with the trace (`Tracer`).
        """
        plan = plan._replace(schemas=complete(plan.schemas))
        self._begin(Tracer(plan, ground=ground, follow=follow, leaving=leaving), limits)

    @classmethod
    def taken(cls, tracer: Tracer) -> "Recorder":
        """One of a tracer that another process has attached (`kwire.live.handover`), without limits."""
        self = cls.__new__(cls)
        self._begin(tracer, Limits())
        self._make_tables()
        return self

    def _begin(self, tracer: Tracer, limits: Limits) -> None:
        self.tracer = tracer
        self.removed: set[int] = set()
        """Probes that were taken away."""
        self._limits = limits
        self._sinks: Sequence[Sink] = ()
        self._processes: Processes | None = None
        self._watch = select.epoll()  # the processes, and
        self._rings = select.epoll()  # the rings: one descriptor, so that they rest with one system call
        self._remaining = limits.events
        self._finite = False  # it is over when its probes have fired, and no command runs
        self._last: int | None = None  # timestamp of the last event asked for, ns, once it has come
        self._started = self._stopped = time.monotonic()
        self._tick = self._until = self._resume = NEVER
        self.events = 0
        self.lost = 0
        self.causes: Counter[int] = Counter()
        """The same by cause."""
        self.cut: dict[int, int] = {}
        """Events by probe after the last one asked for, lost ones too: no part of the recording."""
        self.progress: Callable[[], None] | None = None
        """Called with each look at the counters."""
        self.over = False
        """It has ended; `why` and `produced` are known, and every event is accounted for."""
        self.why = ""
        self.produced: dict[int, int] = {}
        """Events by probe that belong to the recording: all but those beyond the last one asked for."""
        self.status: int | None = None
        """The status that a probe asked the trace to end with."""
        self._tables: MapTables | None = None

    @classmethod
    def begin(
        cls, make_plan: Callable[[], Plan], limits: Limits, *, buffer: int | None, follow: bool
    ) -> "Recorder":
        """A recorder whose plan is made while its ground is. `buffer`: bytes of each CPU's ring."""
        ground = Ground(buffer, follow=follow)
        try:
            plan = make_plan()
        except BaseException:
            ground.close()
            raise
        return cls(plan, limits, ground=ground)

    # ------------------------------------------------------------------ from its beginning to its end

    @property
    def plan(self) -> Plan:
        """What is traced; after `attach` without the optional probes that the kernel refused."""
        return self.tracer.plan

    @property
    def schemas(self) -> tuple[Schema, ...]:
        """Those of the events, and then those of the maps; known after `attach`."""
        return (*self.plan.schemas, *(self._tables.schemas if self._tables else ()))

    @property
    def left(self) -> "list[tuple[Schema, MapTable]]":
        """What the maps of the unit held at the end."""
        return self._tables.left if self._tables else []

    def attach(self, processes: Processes) -> None:
        """Let the probes fire, for these processes. Raises KwireError; then nothing is attached."""
        self._processes = processes
        self.tracer.follow(processes)
        self.tracer.attach()
        if self.tracer.stacks is not None:
            self.tracer.stacks.prepare()
        self._make_tables()

    def _make_tables(self) -> None:
        if self.plan.maps or self.plan.stacks:
            from kwire.live.tables import MapTables

            self._tables = MapTables(self.plan, self.tracer.maps)

    def delegate(self) -> None:
        """Leave what takes privileges while probes fire to a process that keeps them. Raises KwireError."""
        if self.tracer.stacks is not None:
            self.tracer.stacks.delegate()

    def start(self, sinks: Sequence[Sink]) -> None:
        """Let the command go; events are for `sinks` from now on. Raises CommandError."""
        self._sinks = sinks
        for ring in self.tracer.rings:
            self._rings.register(ring.map.fd, select.EPOLLIN)
        self._watch.register(self._rings.fileno(), select.EPOLLIN)
        if self._processes:
            self._watch.register(self._processes.fd, select.EPOLLIN)
            if self._processes.command:
                self._processes.command.go()
        now = self._started = time.monotonic()
        self._tick = now + TICK
        if self._limits.seconds is not None:
            self._until = now + self._limits.seconds
        self._finite = self.tracer.finite and not (self._processes and self._processes.command)

    @property
    def fd(self) -> int:
        """A descriptor that is readable when there is something to do for `turn`."""
        return self._watch.fileno()

    @property
    def due(self) -> float:
        """When `turn` is to be called though `fd` is not readable, in seconds of the monotonic clock."""
        at_once = self._finite or self.tracer.iterating
        return 0.0 if at_once else min(self._tick, self._until, self._resume)

    def turn(self) -> None:
        """Do what is to be done now: a round of the rings, a look at the counters, the end."""
        if self.over:
            return
        now = time.monotonic()
        if now >= self._resume:
            self._resume = NEVER
            self._watch.modify(self._rings.fileno(), select.EPOLLIN)
        ready = {fd for fd, _ in self._watch.poll(0)}
        if now >= self._tick:
            self._tick = now + TICK
            self._look()
        if self._processes and self._processes.fd in ready and self._processes.ended():
            self.end("the command has ended" if self._processes.command else "the processes have ended")
        elif now >= self._until:
            self.end("the time is over")
        elif self._rings.fileno() in ready or self._finite or self.tracer.iterating:
            self._round(self.tracer.drain())
            if self._remaining == 0:
                self.end("the last event asked for has come")
            elif self.tracer.asked is not None and not self.tracer.iterating:
                self.end("a probe asked for the end")
            elif self._finite and not self.tracer.iterating:
                self.end("all probes have fired")
            elif not self.tracer.iterating:
                self._resume = time.monotonic() + PAUSE
                self._watch.modify(self._rings.fileno(), 0)

    def catch_up(self) -> None:
        """Move what is in the rings and the counters now."""
        self._round(self.tracer.drain())
        self._look()

    def wait(self, stop: int = -1, longest: float = NEVER) -> bool:
        """Wait until there is something for `turn`, at most so many seconds; whether `stop` is readable."""
        poll = select.poll()
        for fd in (self.fd, stop):
            if fd >= 0:
                poll.register(fd, select.POLLIN)
        patience = max(0.0, min(self.due - time.monotonic(), longest))
        return any(fd == stop for fd, _ in poll.poll(patience * 1000))

    def run(self, stop: int = -1) -> None:
        """Record until it is over, or the descriptor `stop` is readable."""
        while not self.over:
            if self.wait(stop):
                self.end("asked to stop")
            else:
                self.turn()

    def end(self, why: str) -> None:
        """Take the probes away and account for every event they produced; harmless where it is over."""
        if self.over:
            return
        tracer = self.tracer
        missed = tracer.missed()
        tracer.detach()
        self._round(tracer.settle())
        tracer.finish()
        self._round(tracer.settle())
        self._lose([*tracer.lost(), *missed])
        self._tell_stacks(last=True)
        for tables in self._tables.end() if self._tables else ():
            self._give(tables)
        self._flush()
        self._stopped = time.monotonic()
        self.over, self.why, self.status = True, why, tracer.asked
        self.produced = {probe: count - self.cut.get(probe, 0) for probe, count in tracer.produced().items()}
        if self._tables:
            self.produced |= self._tables.produced
        if self._processes and self._processes.command:
            self._processes.command.ended()

    def take_away(self, probes: Collection[int]) -> None:
        """Take some probes away, named by the number of each one's first shape; the others go on. All that
        these produced is accounted for, now or at the end.
        """
        if not self.over:
            self._lose(self.tracer.missed())
            self.tracer.take_away(probes)
            self.removed.update(probes)
            self.catch_up()

    def close(self) -> None:
        """Take the probes away and free everything but the processes; twice is harmless."""
        self.tracer.close()
        self._rings.close()
        self._watch.close()

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ what is known of it

    @property
    def seconds(self) -> float:
        """How long it has taken, or took."""
        return self.ended - self.began

    @property
    def began(self) -> float:
        """When `start` was called, in seconds of the monotonic clock."""
        return self._started

    @property
    def ended(self) -> float:
        """When it ended; now, while it has not."""
        return self._stopped if self.over else time.monotonic()

    @property
    def map_schemas(self) -> tuple[Schema, ...]:
        """Those of the maps; known after `attach`."""
        return tuple(schema for schema in self.schemas if schema.map is not None and schema.kind == "map")

    def map_rows(self, id: int) -> "Iterator[Row | None]":
        """What the map with this number holds now, one row at a time (`MapTables.rows`)."""
        return self._tables.rows(id) if self._tables is not None else iter(())

    @property
    def attached(self) -> int:
        """How many shapes of events its probes give that are attached."""
        return self.attached_without(())

    def attached_without(self, probes: Container[int]) -> int:
        """The same without those of some probes."""
        if self.over:
            return 0
        owner = count = 0  # a probe's shapes follow each other
        for schema in self.plan.schemas:
            owner = schema.id if schema.id in self.plan.asked_by else owner
            count += owner not in self.removed and owner not in probes
        return count

    def produced_by(self, probe: int) -> int:
        """Events that a probe has produced so far, lost ones too."""
        return self.produced.get(probe, 0) if self.over else self.tracer.produced_by(probe)

    @property
    def limited(self) -> bool:
        """Whether it ends by itself, and not only with processes that may be its owner's."""
        return self._limits != Limits()

    @property
    def bound(self) -> bool:
        """Whether it ends by itself, with the processes that were chosen too."""
        return self.limited or bool(self._processes and (self._processes.command or self._processes.pids))

    @property
    def command_status(self) -> int | None:
        """The exit status of the command once it has ended (negative: the signal that ended it)."""
        command = self._processes.command if self._processes else None
        if command is None or command.status is None:
            return None
        return os.waitstatus_to_exitcode(command.status)

    # ------------------------------------------------------------------ within

    def _look(self) -> None:
        """Tell the sinks what the kernel has lost since the last look; takes the longer the more probes."""
        self._lose(self.tracer.lost())
        self._flush()
        if self.progress:
            self.progress()

    def _round(self, batches: Iterator[Frames]) -> None:
        self._tell_stacks(wanted=False)
        for frames in batches:
            if self._remaining is not None:
                frames = self._limit(frames)
            if frames.count:
                self._tell_stacks()
                self.events += frames.count
                if self._tables is None:
                    self._give(frames)
                    continue
                for some in self._tables.between(frames):
                    self._give(some)
        self._flush()

    def _tell_stacks(self, *, wanted: bool = True, last: bool = False) -> None:
        """Give the stacks that are new, before what refers to them; see `StackReader.take`."""
        if self.tracer.stacks is not None and self._tables is not None and self._sinks:
            new = self.tracer.stacks.take(wanted=wanted, last=last)
            if new:
                self._give(self._tables.stacks(new))

    def _give(self, frames: Frames) -> None:
        for sink in self._sinks:
            sink.write(frames)

    def _flush(self) -> None:
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
