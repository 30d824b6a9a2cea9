"""An agent: a recording and its uplink to a collector, and what agents before it left in the spool.

The laws: the recording goes on whatever the network does; an agent whose recording has ended leaves when
everything is acknowledged, its own and what it found; asked to stop, it takes the probes away at once and
waits `grace` seconds at most for the collector; what is not acknowledged by then stays in the spool, or is
counted. What people should know is said through `say`; nothing is printed here.
"""

import os
from collections.abc import Callable, Iterable
from typing import Any, Final

from kwire.capture import walk
from kwire.live.processes import Processes
from kwire.live.recorder import Limits
from kwire.live.tracer import Tracer
from kwire.stream import spool as spools
from kwire.stream.recording import Recording
from kwire.stream.source import HOLD, SourceSink, count_frames, events_in
from kwire.stream.spool import Spool
from kwire.stream.uplink import Hold, Line, MemoryHold, SpoolHold, Uplink
from kwire.wire.frame import Type, read_lenient
from kwire.wire.frames import Frames
from kwire.wire.messages import CAUSES, Cause
from kwire.wire.schema import Schema, SchemaReader
from kwire.wire.session import Session
from kwire.wire.totals import TOTALS, totals_frames

LOOK: Final = 1.0
"""Seconds between two looks at the disks of spools."""

RETRY: Final = 0.05
"""Seconds between two tries to hand over the end of a recording, where there is no room."""


class Recovered:
    """The cargo of an uplink whose agent was killed: what its spool holds."""

    def __init__(self, line: Line, spool: Spool) -> None:
        self.spool = spool
        self.finished: Callable[[], None] = lambda: None
        """Called when it is delivered."""
        self._line = line
        self._totals: list[bytes] = []
        self.uplink = Uplink(line, SpoolHold(spool, known=True), self)
        self.uplink.close("the agent was killed")

    def begun(self, session: Session) -> bool:
        """What was produced comes last, where it is known."""
        for frame in self._totals:
            session.send(frame, self._line.loop.now())
        return True

    def receiving(self, up: bool) -> None:
        """Nothing waits here."""

    def room(self) -> None:
        """Nothing waits here."""

    def restarted(self, abandoned: Iterable[bytes], carried: Iterable[bytes]) -> list[bytes]:
        """Tell the schemas again, and what may have been delivered or not as lost."""
        schemas = _schemas(self.spool.kept.prefix)
        sink = SourceSink(schemas, self._line.settings.data_size)
        totals: dict[int, int] = {}
        ended = False

        def counted(payloads: Iterable[bytes]) -> Iterable[bytes]:
            nonlocal ended
            for payload in payloads:
                events, losses = count_frames(payload, len(schemas))
                for probe in range(1, len(schemas) + 1):
                    totals[probe] = totals.get(probe, 0) + events[probe * walk.COUNT_WORDS]
                for loss in losses:
                    totals[loss.probe] = totals.get(loss.probe, 0) + loss.count
                ended = ended or _has_totals(payload)
                sink.adopt(payload)
                yield payload

        prefix = sink.restart(counted(abandoned), counted(carried))
        self._totals = totals_frames(totals, self._line.settings.data_size) if ended else []
        return prefix

    def done(self) -> None:
        """It is delivered: the spool is not needed any more."""
        self.spool.remove()
        self.finished()


class Courier:
    """Uplinks until they are finished, or left. `run` returns then; `close` afterwards."""

    def __init__(self, line: Line, recovered: list[Recovered], grace: float) -> None:
        self.line = line
        self.recovered = recovered
        self._grace = grace
        self._troubles: dict[str, str] = {}  # of disks, that were told

    @property
    def uplinks(self) -> list[Uplink]:
        """All of them."""
        return [before.uplink for before in self.recovered]

    @property
    def spools(self) -> list[Spool]:
        """What is on disk and not finished."""
        return [before.spool for before in self.recovered if not before.uplink.finished]

    @property
    def finished(self) -> bool:
        """Whether everything is acknowledged."""
        return all(uplink.finished for uplink in self.uplinks)

    def run(self) -> None:
        """Deliver."""
        for spool in self.spools:
            spool.run()
        for before in self.recovered:
            before.finished = self.look
        self._look_around()
        if not self.finished:
            self.line.loop.run()

    def stop(self) -> None:
        """Leave when all is acknowledged, or when patience has ended."""
        loop = self.line.loop
        loop.at(loop.now() + self._grace, loop.stop)
        self.look()

    def look(self) -> None:
        """Leave if nothing is left to be done."""
        if self.finished:
            self.line.loop.soon(self.line.loop.stop)

    def close(self) -> None:
        """Break off what is not finished, and free everything; what a spool holds stays in it."""
        for uplink in self.uplinks:
            if not uplink.finished:
                uplink.leave()
        for spool in self.spools:
            left = spool.close()
            if left:
                self.line.say(f"spool {spool.path}: {left} payloads are not on the disk: {spool.trouble}")

    def _look_around(self) -> None:
        """Say it when a disk does not take what it should; every `LOOK` seconds."""
        troubles = {spool.path: spool.trouble for spool in self.spools if spool.trouble}
        for path, trouble in troubles.items():
            if self._troubles.get(path) != trouble:
                self.line.say(
                    f"spool {path}: {trouble}; what comes waits in memory, what finds no room is lost"
                )
        self._troubles |= troubles
        self.line.loop.at(self.line.loop.now() + LOOK, self._look_around)


class Agent(Courier):
    """A recording, its uplink, and the uplinks of agents before.

    `hold` is where the recording's payloads wait (`make_hold`); `tracer` has its probes attached.
    """

    def __init__(
        self,
        line: Line,
        tracer: Tracer,
        sink: SourceSink,
        hold: Hold,
        recovered: list[Recovered],
        *,
        limits: Limits = Limits(),  # noqa: B008  # immutable
        processes: Processes | None = None,
        grace: float = 10.0,
    ) -> None:
        super().__init__(line, recovered, grace)
        self.sink = sink
        self.hold = hold
        self.recording = Recording(line.loop, tracer, [sink], limits, processes, self._round, self._recorded)
        self._waiting = False  # the end of the recording is being handed over
        self._warned = False
        self.uplink = Uplink(line, hold, self)

    @property
    def uplinks(self) -> list[Uplink]:
        """All of them."""
        return [self.uplink, *super().uplinks]

    @property
    def spools(self) -> list[Spool]:
        """What is on disk and not finished."""
        own = [self.hold.spool] if isinstance(self.hold, SpoolHold) and not self.uplink.finished else []
        return [*own, *super().spools]

    @property
    def finished(self) -> bool:
        """Whether the recording has ended and everything is acknowledged."""
        return self.recording.over and super().finished

    def run(self) -> None:
        """Record and deliver."""
        self.recording.start()
        super().run()

    def stop(self) -> None:
        """End the recording; then leave when all is acknowledged, or when patience has ended."""
        self.recording.end("asked to stop")
        super().stop()

    def close(self) -> None:
        """Break off what is not finished, and free everything."""
        self.recording.close()
        super().close()

    def _look_around(self) -> None:
        """Say it when events find no room for the first time, and what disks have."""
        self._warn()
        super()._look_around()

    def _warn(self) -> None:
        if Cause.SENDER_FULL in self.sink.losses and not self._warned:
            self._warned = True
            self.line.say(
                f"{self.line.address} is too slow, or away: events find no room and are counted lost"
            )

    def unacknowledged(self) -> int:
        """Events that wait for the collector."""
        return 0 if self.uplink.finished else sum(map(events_in, self.hold.payloads()))

    # ------------------------------------------------------------------ the recording

    def _round(self) -> None:
        self.sink.flush()
        self.uplink.flush()

    def _recorded(self, why: str) -> None:
        self._warn()  # a short recording has ended before anybody looked around
        self._waiting = True
        self.line.loop.soon(self._hand_over_end)

    def _hand_over_end(self) -> None:
        """Hand over the last of the recording, as soon as there is room for it."""
        self._waiting = False
        if self.sink.finish(self.recording.produced):
            self.uplink.flush()
            self.uplink.close("done")
        else:
            self.uplink.flush()
            self._waiting = True
            self.line.loop.at(self.line.loop.now() + RETRY, self._hand_over_end)

    # ------------------------------------------------------------------ what the uplink asks

    def begun(self, session: Session) -> bool:
        """Feed this session."""
        self.sink.outlet = session
        if self.recording.over and not self._waiting:
            self._recorded("a new session")
        return False

    def receiving(self, up: bool) -> None:
        """Payloads are sent as soon as a round has ended while somebody receives them."""
        self.sink.waits = 0.0 if up else HOLD

    def room(self) -> None:
        """What has waited may go."""
        self.sink.flush()

    def restarted(self, abandoned: Iterable[bytes], carried: Iterable[bytes]) -> list[bytes]:
        """The next session begins with the schemas and what is lost."""
        return self.sink.restart(abandoned, carried)

    def done(self) -> None:
        """Everything of the recording is acknowledged."""
        if isinstance(self.hold, SpoolHold):
            self.hold.spool.remove()
        self.look()


def make_hold(folder: str, sink: SourceSink, memory: int, size: int) -> Hold:
    """Where a recording's payloads wait: in memory, or on disk where a folder is named. Raises SpoolError."""
    if not folder:
        return MemoryHold(memory, sink.begin())
    return SpoolHold(spools.begin(folder, os.urandom(16), sink.begin(), size, memory))


def causes(losses: dict[int, int]) -> dict[str, int]:
    """Losses by the name of their cause, for summaries."""
    return {
        Cause(cause).name.lower().replace("_", " ") if cause in CAUSES else f"cause {cause}": count
        for cause, count in sorted(losses.items())
    }


def summary(agent: Agent, schemas: tuple[Schema, ...]) -> dict[str, Any]:
    """What `--json` prints at the end."""
    produced, sink = agent.recording.produced, agent.sink
    probes = [
        {
            "id": schema.id,
            "probe": schema.probe,
            "produced": produced.get(schema.id, 0),
            "lost": produced.get(schema.id, 0) - sink.sent(schema.id),
        }
        for schema in schemas
    ]
    waiting = agent.unacknowledged()
    return {
        "events": sink.events,
        "lost": sink.lost_events,
        "causes": causes(sink.losses),
        "acknowledged": sink.events - waiting,
        "bytes": sink.bytes,
        "sessions": agent.uplink.sessions,
        "reconnects": agent.uplink.reconnects,
        "recovered": [before.uplink.finished for before in agent.recovered],
        "probes": probes,
        "seconds": round(agent.recording.seconds, 3),
    }


def _schemas(payloads: Iterable[bytes]) -> list[Schema]:
    """The schemas told in payloads."""
    reader, schemas = SchemaReader(), {}
    for payload in payloads:
        frames = Frames.walk(payload)
        for index in range(frames.count):
            if frames.header(index).type == Type.SCHEMA:
                schema = reader.add(read_lenient(frames.frame_bytes(index)))
                if schema is not None:
                    schemas[schema.id] = schema
    return [schemas[number] for number in sorted(schemas)]


def _has_totals(payload: bytes) -> bool:
    """Whether a payload tells what was produced: then it is one frame."""
    return payload[0] & 15 == Type.TABLE and int.from_bytes(payload[4:8], "big") == TOTALS
