"""An agent: recordings and their uplinks to a collector, and what agents before it left in the spool.

Invariants: the recording goes on whatever the network does; an agent whose recording has ended leaves when
everything is acknowledged, its own and what it found; asked to stop, it takes the probes away at once and
waits `grace` seconds at most for the collector; what is not acknowledged by then stays in the spool, or is
counted. What people should know is said through `say`; nothing is printed here. Where the loop has a
`report`, a failure at one session ends that session alone, and what waits goes on in another.
"""

import os
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from kwire.agent import manifest
from kwire.agent import spool as spools
from kwire.agent.recording import Recording
from kwire.agent.source import HOLD, Outlet, SourceSink, preamble
from kwire.agent.spool import Spool
from kwire.agent.uplink import Hold, Line, MemoryHold, SpoolHold, Uplink
from kwire.live.recorder import Recorder
from kwire.transport.loop import vital
from kwire.wire.frame import HEADER_SIZE, Type, read_header
from kwire.wire.frames import Frames
from kwire.wire.messages import CAUSES, TOTALS, Cause, totals_frames
from kwire.wire.payload import said
from kwire.wire.schema import Schema, SchemaReader

if TYPE_CHECKING:
    from kwire.agent.broker_uplink import BrokerCargo, BrokerUplink

LOOK: Final = 0.2
"""Seconds between two looks at the disks of spools."""

TAKEN_AWAY: Final = "its probes were taken away"
"""Why a recording ends of which a change leaves nothing; any other end of the first one ends the agent."""

RETRY: Final = 0.05
"""Seconds between two tries to hand over the end of a recording, where there is no room."""


MOST_PAST: Final = 4096
"""Probes that were taken away which a summary names."""


class Recovered:
    """The cargo of an uplink whose agent was killed: what its spool holds."""

    def __init__(self, line: Line, spool: Spool) -> None:
        self.spool = spool
        self.finished: Callable[[], None] = lambda: None
        """Called when it is delivered."""
        self.at_refusal: Callable[[], None] = lambda: None
        """Called when certificates keep the collector and us apart."""
        if spool.kept.name:  # it is the session of that one, whatever we are called
            line = line._replace(about={**line.about, "name": spool.kept.name})
        self._line = line
        self._totals: list[bytes] = []
        self._expired = 0
        self._taken: dict[bytes, int] = {}  # events that were stored and are gone, by session
        self.uplink = make_uplink(line, SpoolHold(spool), self)
        self.uplink.close("the agent was killed")

    @property
    def probes(self) -> int:
        """The largest probe number."""
        return self.spool.kept.probes

    @property
    def schemas(self) -> list[bytes]:
        """The SCHEMAs, as payloads."""
        return preamble(_schemas(self.spool.kept.prefix), self._line.settings.data_size)

    def begun(self, session: Outlet) -> bool:
        """What was produced comes last, where it is known."""
        for frame in self._totals:
            session.send(frame, self._line.loop.now())
        return True

    def receiving(self, up: bool) -> None:
        """Nothing waits here."""

    def refused(self) -> None:
        """The courier decides."""
        self.at_refusal()

    def taken(self, events: int, probes: Mapping[int, int]) -> None:
        """The collector tells that events it had stored are gone, with their capture."""
        self._taken[self.uplink.hold.token] = events

    @property
    def lost(self) -> int:
        """Events that waited in the spool and were counted lost on their way, or after they were stored."""
        return self._expired + sum(self._taken.values())

    def room(self) -> None:
        """Nothing waits here."""

    def restarted(self, abandoned: Iterable[bytes], carried: Iterable[bytes]) -> list[bytes]:
        """Tell the schemas again, and what may have been delivered or not as lost."""
        schemas = _schemas(self.spool.kept.prefix)
        sink = SourceSink(schemas, self._line.settings.data_size)
        totals = dict.fromkeys((schema.id for schema in schemas), 0)
        ended = False

        def counted(payloads: Iterable[bytes]) -> Iterable[bytes]:
            nonlocal ended
            for payload in payloads:
                for row in manifest.of(payload, self.spool.kept.probes).values():
                    totals[row.probe] = totals.get(row.probe, 0) + row.number
                ended = ended or _has_totals(payload)
                sink.adopt(payload)
                yield payload

        prefix = sink.restart(counted(abandoned), counted(carried))
        self._expired += sink.lost_events
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
        self.loop = line.loop
        self.recovered = recovered
        self.kept = 0
        """Events that are not acknowledged, and wait in a spool; known after `close`."""
        self.missing = 0
        """Events that are not acknowledged, and wait nowhere; known after `close`."""
        self._grace = grace
        self._troubles: dict[str, str] = {}  # of disks, that were told
        self._leaving = False

    @property
    def uplinks(self) -> list["Uplink | BrokerUplink"]:
        """The uplinks of the recordings before this one."""
        return [before.uplink for before in self.recovered]

    @property
    def holds(self) -> list[Hold]:
        """The hold of each uplink, in the same order."""
        return [before.uplink.hold for before in self.recovered]

    @property
    def finished(self) -> bool:
        """Whether everything is acknowledged."""
        return all(uplink.finished for uplink in self.uplinks)

    @property
    def spools(self) -> list[Spool]:
        """The spools among the holds."""
        return [hold.spool for hold in self.holds if isinstance(hold, SpoolHold)]

    @property
    def gone(self) -> int:
        """Events that damaged spools do not give back, and those of earlier agents that are lost."""
        damaged = sum(sum(spool.lost.values()) for spool in self.spools)
        return damaged + sum(before.lost for before in self.recovered)

    @property
    def unknown(self) -> int:
        """Payloads that are gone; nobody knows how many events were in them."""
        return sum(spool.unknown for spool in self.spools)

    def run(self) -> None:
        """Run the loop until everything is delivered, or patience has ended."""
        for spool in self.spools:
            spool.run()
        self._look_around()
        for before in self.recovered:
            before.finished = self.look
            before.at_refusal = self.refused
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

    @property
    def recording_over(self) -> bool:
        """Whether nothing more will come."""
        return True

    def refused(self) -> None:
        """The collector and we refuse each other's certificates. An agent whose recording has ended gives up
        after `grace` seconds, unless new certificates come.
        """
        if self.recording_over and not self._leaving:
            self._leaving = True
            self.line.loop.at(self.line.loop.now() + self._grace, self._give_up)

    def _give_up(self) -> None:
        self._leaving = False
        if all(uplink.refused for uplink in self.uplinks if not uplink.finished):
            self.line.loop.stop()

    def close(self) -> None:
        """Break off what is not finished, and free everything; what a spool holds stays in it."""
        for uplink, hold in zip(self.uplinks, self.holds, strict=True):
            if uplink.finished:
                continue
            uplink.leave()
            if isinstance(hold, SpoolHold):
                hold.spool.stop()
                missing = hold.spool.unwritten
                self.kept += hold.events - missing
                self.missing += missing
                hold.spool.close()
            else:
                self.missing += hold.events
        self._say_harm()

    def _look_around(self) -> None:
        """Say when a disk refuses what is written, and when it takes it again; every `LOOK` seconds."""
        self.loop.at(self.loop.now() + LOOK, self._look_around)
        for uplink, hold in zip(self.uplinks, self.holds, strict=True):
            if not isinstance(hold, SpoolHold):
                continue
            spool = hold.spool
            if not uplink.finished:
                spool.look()
            trouble = "" if uplink.finished else spool.trouble
            if self._troubles.get(spool.path, "") != trouble:
                self._troubles[spool.path] = trouble
                if trouble:
                    rest = "what comes waits in memory, what finds no room is lost"
                    self.line.say(f"spool {spool.path}: {trouble}; {rest}", "disk")
                elif not uplink.finished:
                    self.line.say(f"spool {spool.path}: it is written again", "disk_well")
        self._say_harm()

    def _say_harm(self) -> None:
        for spool in self.spools:
            for harm in spool.harm():
                self.line.say(f"spool {spool.path}: {harm}", "disk")


class Trace:
    """A recording of an agent with its session: the cargo of its own uplink. `sink` feeds `hold`, where its
    payloads wait (`make_hold`); `recorder` has its probes attached; `ended` hears of its end, with why, and
    `delivered` when all of it is acknowledged.
    """

    def __init__(
        self, line: Line, recorder: Recorder, sink: SourceSink, hold: Hold, keys: Sequence[str] = ()
    ) -> None:
        self.line = line
        self.loop = line.loop
        self.sink = sink
        self.hold = hold
        self.recorder = recorder
        self.keys = keys
        """What was asked for, by its number in the plan (`Plan.asked_by`)."""
        self.recording = Recording(line.loop, recorder, self._round, self._recorded)
        self.ended: Callable[[str], None] = lambda why: None
        self.delivered: Callable[[], None] = lambda: None
        self.refuses: Callable[[], None] = lambda: None
        """Called when certificates keep the collector and us apart."""
        self.waiting = 0
        """Events that are not acknowledged; known after `close`."""
        self._handing_over = False  # the end of the recording is being handed over
        self._warned = False
        self._taken: dict[bytes, tuple[int, Mapping[int, int]]] = {}  # stored and gone: events, by probe
        self.uplink = make_uplink(line, hold, self)

    def without(self, gone: Collection[str]) -> set[int]:
        """The probes, by their numbers, that nothing but what is `gone` has asked for."""
        numbers = {number for number, key in enumerate(self.keys) if key in gone}
        return {
            probe
            for probe, asking in self.recorder.plan.asked_by.items()
            if probe not in self.recorder.removed and numbers.issuperset(asking)
        }

    def close(self) -> None:
        """Take no more turns; what only we know is handed over, be there room for it or not."""
        self.recording.close()
        if self.recorder.over and not self.uplink.finished and isinstance(self.hold, SpoolHold):
            # The spool may be full: what was lost, and all that there was, is known to nobody after us.
            self.sink.finish(self.recorder.produced, beyond=True)
        self.waiting = 0 if self.uplink.finished else self.hold.events

    def warn(self) -> None:
        """Say when events find no room for the first time."""
        if Cause.SENDER_FULL in self.sink.losses and not self._warned:
            self._warned = True
            self.line.say(
                f"{self.line.address} is too slow, or away: events find no room and are counted lost",
                "events_lost",
            )

    @property
    def taken_away(self) -> int:
        """Events that the collector had stored, and whose capture was taken away."""
        return sum(events for events, _ in self._taken.values())

    def taken_of(self, probe: int) -> int:
        """Those of one probe, as far as the collector tells."""
        return sum(probes.get(probe, 0) for _, probes in self._taken.values())

    # ------------------------------------------------------------------ the recording

    def _round(self) -> None:
        self.sink.flush()
        self.uplink.flush()

    def _recorded(self, why: str) -> None:
        self.warn()  # a short recording has ended before anybody looked around
        if self.uplink.refused:
            self.refused()
        self._handing_over = True
        self.line.loop.soon(self._hand_over_end)
        self.ended(why)

    @vital
    def _hand_over_end(self) -> None:
        """Hand over the last of the recording, as soon as there is room for it."""
        self._handing_over = False
        if self.sink.finish(self.recorder.produced):
            self.uplink.flush()
            self.uplink.close("done")
        else:
            self.uplink.flush()
            self._handing_over = True
            self.line.loop.at(self.line.loop.now() + RETRY, self._hand_over_end)

    # ------------------------------------------------------------------ what the uplink asks

    @property
    def probes(self) -> int:
        """The largest probe number."""
        return self.sink.probes

    @property
    def schemas(self) -> list[bytes]:
        """The SCHEMAs, as payloads."""
        return self.sink.begin()

    def begun(self, session: Outlet) -> bool:
        """Payloads go into this session from now on."""
        self.sink.outlet = session
        if self.recorder.over and not self._handing_over:
            self._recorded("a new session")
        return False

    def receiving(self, up: bool) -> None:
        """Payloads are sent as soon as a round has ended while somebody receives them."""
        self.sink.waits = 0.0 if up else HOLD

    def refused(self) -> None:
        """The agent decides."""
        self.refuses()

    def taken(self, events: int, probes: Mapping[int, int]) -> None:
        """The collector tells that events it had stored are gone, with their capture."""
        self._taken[self.uplink.hold.token] = events, probes

    def room(self) -> None:
        """The session has room again: send what has waited."""
        self.sink.flush()

    def restarted(self, abandoned: Iterable[bytes], carried: Iterable[bytes]) -> list[bytes]:
        """The next session begins with the schemas and what is lost."""
        return self.sink.restart(abandoned, carried)

    def done(self) -> None:
        """Everything of the recording is acknowledged."""
        if isinstance(self.hold, SpoolHold):
            self.hold.spool.remove()
        self.delivered()

    # ------------------------------------------------------------------ what there is to say

    @property
    def losses(self) -> "Counter[int]":
        """Events lost so far, each by the cause that it has by now."""
        losses = self.losses_at_first
        losses.subtract(self.sink.moved)
        losses[Cause.SPOOL] -= self.sink.spool_expired
        losses[Cause.EXPIRED] += self.sink.spool_expired
        return losses

    @property
    def losses_at_first(self) -> "Counter[int]":
        """The same, each by the cause that it was counted by first: so none of these falls."""
        losses = Counter(self.sink.losses)
        losses.update(self.sink.moved)
        losses[Cause.SPOOL] += sum(self._gone.values())
        losses[Cause.CAPTURE_GONE] += self.taken_away
        return losses

    @property
    def lost(self) -> int:
        """How many these are."""
        return self.sink.lost_events + sum(self._gone.values()) + self.taken_away

    @property
    def events(self) -> int:
        """Events that are not lost; TABLEs are none."""
        maps = [schema.id for schema in self.recorder.schemas if schema.map is not None]
        tables = sum(self.sink.sent(id) - self._gone.get(id, 0) - self.taken_of(id) for id in maps)
        return self.sink.events - sum(self._gone.values()) - self.taken_away - tables

    def each_probe(self) -> list[dict[str, Any]]:
        """What there is to say of each probe."""
        produced, gone = self.recorder.produced, self._gone
        return [
            {
                "id": schema.id,
                "probe": schema.probe,
                "produced": produced.get(schema.id, 0),
                "lost": produced.get(schema.id, 0)
                - self.sink.sent(schema.id)
                + gone.get(schema.id, 0)
                + self.taken_of(schema.id),
            }
            for schema in self.recorder.plan.schemas
        ]

    @property
    def _gone(self) -> dict[int, int]:
        return self.hold.spool.lost if isinstance(self.hold, SpoolHold) else {}


class Agent(Courier):
    """Recordings, each with an uplink, and the uplinks of agents before. It begins with one; a changed
    configuration adds some, and takes the probes of others away (`change`).

    Invariants: what is not changed goes on in its session, with its numbers and maps; what is new begins
    before what goes is taken away. The end of the first recording, other than by a change, ends all.
    """

    def __init__(
        self,
        line: Line,
        recorder: Recorder,
        sink: SourceSink,
        hold: Hold,
        recovered: list[Recovered],
        grace: float = 10.0,
        keys: Sequence[str] = (),
    ) -> None:
        super().__init__(line, recovered, grace)
        self.keys = tuple(keys)
        """What is asked for now, where that may change."""
        self.first = Trace(line, recorder, sink, hold, keys)
        """The recording that it began with."""
        self.traces: list[Trace] = []
        """All recordings that are not delivered, and the first."""
        self.past = Past()
        """What there is to say of the others."""
        self.stopping = False
        """Its recordings end, or have ended."""
        self._join(self.first)

    def _join(self, trace: Trace) -> None:
        self.traces.append(trace)
        trace.ended = lambda why: self._ended(trace, why)
        trace.delivered = lambda: self._delivered(trace)
        trace.refuses = self.refused

    @property
    def uplinks(self) -> list["Uplink | BrokerUplink"]:
        """The uplinks of the recordings, and those of the recordings before them."""
        return [*(trace.uplink for trace in self.traces), *super().uplinks]

    @property
    def holds(self) -> list[Hold]:
        """The hold of each uplink, in the same order."""
        return [*(trace.hold for trace in self.traces), *super().holds]

    @property
    def recorder(self) -> Recorder:
        """That of the first recording: with the command and the limits."""
        return self.first.recorder

    @property
    def finished(self) -> bool:
        """Whether the recordings have ended and everything is acknowledged."""
        return self.recording_over and super().finished

    @property
    def recording_over(self) -> bool:
        """Whether nothing more will come."""
        return all(trace.recorder.over for trace in self.traces)

    @property
    def seconds(self) -> float:
        """How long it has recorded, or did."""
        return max(self.past.ended, *(one.recorder.ended for one in self.traces)) - self.recorder.began

    @property
    def waiting(self) -> int:
        """Events of the recordings that are not acknowledged; known after `close`."""
        return sum(trace.waiting for trace in self.traces)

    def run(self) -> None:
        """Record and deliver."""
        self.first.recording.start([self.first.sink])
        super().run()

    def stop(self) -> None:
        """End the recordings; then leave when all is acknowledged, or when patience has ended."""
        self._end_all("asked to stop")
        super().stop()

    def close(self) -> None:
        """Break off what is not finished, and free everything."""
        for trace in self.traces:
            trace.close()
        super().close()
        for trace in self.traces[1:]:
            trace.recorder.close()

    # ------------------------------------------------------------------ changes

    def change(self, new: Trace | None, keys: Sequence[str]) -> int:
        """Go on with a `new` recording, whose probes are attached, and without the probes that none of `keys`
        has asked for; how many these are. A recording that has none left ends, unless its processes or limits
        are to end the agent.
        """
        if new is not None:
            self._join(new)
            new.recording.start([new.sink])
            if isinstance(new.hold, SpoolHold):
                new.hold.spool.run()
        self.keys, count = tuple(keys), 0
        for trace in [one for one in self.traces if one is not new and not one.recorder.over]:
            recorder = trace.recorder
            going = trace.without(set(trace.keys) - set(keys))
            if going:
                count += len(going)
                recorder.take_away(going)
                if not self._left(trace) and not (trace is self.first and recorder.bound):
                    trace.recording.end(TAKEN_AWAY)
        return count

    @staticmethod
    def _left(trace: Trace) -> bool:
        """Whether a recording has probes, or had none that can be taken away."""
        recorder = trace.recorder
        return not recorder.plan.asked_by or len(recorder.removed) < len(recorder.plan.asked_by)

    def _ended(self, trace: Trace, why: str) -> None:
        """A recording has ended."""
        if trace is self.first and why != TAKEN_AWAY:
            self._end_all(why)

    def _end_all(self, why: str) -> None:
        if not self.stopping:
            self.stopping = True
            for trace in list(self.traces):
                trace.recording.end(why)

    def _delivered(self, trace: Trace) -> None:
        """All of a recording is acknowledged."""
        if trace is not self.first:
            self.past.add(trace)
            trace.recorder.close()
            self.traces.remove(trace)
        self.look()

    def _look_around(self) -> None:
        """Say when events find no room for the first time, and what the disks refuse."""
        for trace in self.traces:
            trace.warn()
        super()._look_around()


class Past:
    """Sums of recordings that are delivered."""

    def __init__(self) -> None:
        self.events = self.recorded = self.lost = self.bytes = self.sessions = self.reconnects = 0
        self.ended = 0.0
        """When the last of them did, in seconds of the monotonic clock."""
        self.losses: Counter[int] = Counter()
        self.losses_at_first: Counter[int] = Counter()
        self.probes: Counter[str] = Counter()
        """Events by probe that were produced."""
        self.last: deque[dict[str, Any]] = deque(maxlen=MOST_PAST)
        """What there is to say of the last of their probes."""

    def add(self, trace: Trace) -> None:
        """Add one."""
        self.events += trace.events
        self.recorded += trace.recorder.events
        self.lost += trace.lost
        self.bytes += trace.sink.bytes
        self.sessions += trace.uplink.sessions
        self.reconnects += trace.uplink.reconnects
        self.losses.update(trace.losses)
        self.losses_at_first.update(trace.losses_at_first)
        self.ended = max(self.ended, trace.recorder.ended)
        self.last += (each := trace.each_probe())
        for one in each:
            self.probes[one["probe"]] += one["produced"]


def make_uplink(line: Line, hold: Hold, cargo: "BrokerCargo") -> "Uplink | BrokerUplink":
    """The uplink of a hold: to a collector, or to a broker."""
    if line.broker is None:
        return Uplink(line, hold, cargo)
    from kwire.agent.broker_uplink import BrokerUplink

    return BrokerUplink(line, line.broker, hold, cargo)


def make_hold(folder: str, sink: SourceSink, memory: int, size: int, name: str = "") -> Hold:
    """Where a recording's payloads wait: in memory, or on disk where a folder is named. `name`: what the
    agent is called. Raises SpoolError.
    """
    if not folder:
        return MemoryHold(memory, sink.begin())
    return SpoolHold(spools.begin(folder, os.urandom(16), sink.begin(), size, memory, sink.probes, name))


def causes(losses: Mapping[int, int]) -> dict[str, int]:
    """Losses by the name of their cause, for summaries."""
    return {
        Cause(cause).name.lower().replace("_", " ") if cause in CAUSES else f"cause {cause}": count
        for cause, count in sorted(losses.items())
        if count
    }


def summary(agent: Agent) -> dict[str, Any]:
    """What `--json` prints at the end, after `close`."""
    traces, past = agent.traces, agent.past
    losses = past.losses + Counter()
    for trace in traces:
        losses.update(trace.losses)
    events = past.events + sum(trace.events for trace in traces)
    return {
        "events": events,
        "lost": past.lost + sum(trace.lost for trace in traces),
        "causes": causes(losses),
        "acknowledged": max(0, events - agent.waiting),
        "bytes": past.bytes + sum(trace.sink.bytes for trace in traces),
        "sessions": past.sessions + sum(trace.uplink.sessions for trace in traces),
        "reconnects": past.reconnects + sum(trace.uplink.reconnects for trace in traces),
        "recovered": [before.uplink.finished for before in agent.recovered],
        "recovered_lost": sum(before.lost for before in agent.recovered),
        "probes": [*past.last, *(one for trace in traces for one in trace.each_probe())],
        "seconds": round(agent.seconds, 3),
    }


def _schemas(payloads: Iterable[bytes]) -> list[Schema]:
    """The schemas told in payloads."""
    reader, schemas = SchemaReader(), {}
    for payload in payloads:
        for frame in Frames.walk(payload):
            schema = said(frame, reader)
            if isinstance(schema, Schema):
                schemas[schema.id] = schema
    return [schemas[number] for number in sorted(schemas)]


def _has_totals(payload: bytes) -> bool:
    """Whether a payload tells what was produced: then it is one frame."""
    return (
        len(payload) > HEADER_SIZE
        and (header := read_header(payload)).type == Type.TABLE
        and header.id == TOTALS
    )
