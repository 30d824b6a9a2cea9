"""What an agent tells of itself: one that records and delivers, and one that listens.

Invariants: numbers are those of the summary; what only moves from one cause to another stays where it was
counted first, so that counters never fall; each step of a source is short.
"""

import time
from collections import Counter
from collections.abc import Iterator

from kwire.agent.agent import Agent, Courier
from kwire.agent.server import Accounts, Server
from kwire.agent.spool import Spool
from kwire.agent.uplink import MemoryHold
from kwire.metrics.counted import counted
from kwire.metrics.table import AGENT, SERVER, Sample, cause_label, labelled
from kwire.transport.listen import Listener
from kwire.wire.frame import MASK


class AgentMetrics:
    """Those of `agent --to`, also of one that only delivers."""

    def __init__(self, courier: Courier) -> None:
        self._courier = courier
        self._agent = courier if isinstance(courier, Agent) else None

    def ready(self) -> str:
        """Ready is: the probes are attached, and somebody takes what is sent."""
        courier, agent = self._courier, self._agent
        if agent is not None and agent.recording_over:
            return "the recording has ended"
        if not all(uplink.up or uplink.finished for uplink in courier.uplinks):
            return f"{courier.line.address} is not connected"
        return next((spool.trouble for spool in self._spools() if spool.trouble), "")

    def samples(self) -> Iterator[Sample]:
        """What there is now."""
        courier = self._courier
        uplinks = courier.uplinks
        if self._agent is not None:
            yield from self._recorded(self._agent)
        gone = sum(before.lost + sum(before.spool.lost.values()) for before in courier.recovered)
        yield Sample("kwire_recovered_lost_events_total", gone)
        yield Sample("kwire_connected", float(all(one.up or one.finished for one in uplinks)))
        past = self._agent.past if self._agent is not None else None
        sessions, reconnects = (past.sessions, past.reconnects) if past is not None else (0, 0)
        yield Sample("kwire_sessions_total", sessions + sum(one.sessions for one in uplinks))
        yield Sample("kwire_reconnects_total", reconnects + sum(one.reconnects for one in uplinks))
        waiting = [one for one in uplinks if not one.finished]
        queues = [one.hold.send_queue for one in waiting]
        yield Sample("kwire_queue_payloads", sum((queue.next - queue.first) & MASK for queue in queues))
        now = time.monotonic_ns()
        spools = self._spools()
        yield Sample("kwire_spools", len(spools))
        yield Sample("kwire_spool_bytes", sum(spool.size for spool in spools))
        yield Sample("kwire_spool_age_seconds", _age(now, [spool.oldest for spool in spools]))
        memories = [one.hold.oldest for one in waiting if isinstance(one.hold, MemoryHold)]
        yield Sample("kwire_lag_seconds", _age(now, [*memories, *(spool.oldest for spool in spools)]))
        yield Sample("kwire_disk_refuses", float(any(spool.trouble for spool in spools)))
        yield from counted(courier.loop, AGENT)

    def _recorded(self, agent: Agent) -> Iterator[Sample]:
        traces, past = list(agent.traces), agent.past
        yield Sample("kwire_events_total", past.recorded + sum(trace.recorder.events for trace in traces))
        yield Sample("kwire_bytes_total", past.bytes + sum(trace.sink.bytes for trace in traces))
        yield Sample("kwire_probes", sum(trace.recorder.attached for trace in traces))
        losses = Counter(past.losses_at_first)
        for trace in traces:
            losses.update(trace.losses_at_first)
        yield from labelled("kwire_lost_events_total", _named(losses))
        rooms = [trace.hold.send_queue.room for trace in traces if not trace.recorder.over]
        yield Sample("kwire_queue_free_bytes", min(rooms or [agent.first.hold.send_queue.room]))
        produced = Counter(past.probes)
        for trace in traces:
            for schema in trace.recorder.plan.schemas:
                produced[schema.probe] += trace.recorder.produced_by(schema.id)
        for probe, number in produced.items():
            yield Sample("kwire_probe_events_total", number, (probe,))

    def _spools(self) -> list[Spool]:
        """Those that are not delivered."""
        queues = (one.hold.send_queue for one in self._courier.uplinks if not one.finished)
        return [queue for queue in queues if isinstance(queue, Spool)]


class ServerMetrics:
    """Those of `agent --listen`."""

    def __init__(self, server: Server, listener: Listener) -> None:
        self._server = server
        self._listener = listener
        self._accounts = server.accounts = Accounts()

    def ready(self) -> str:
        """Ready is: whoever may have a session gets one."""
        return "the agent stops" if self._server.stopping else ""

    def samples(self) -> Iterator[Sample]:
        """What there is now."""
        server = self._server
        yield Sample("kwire_events_total", self._accounts.events)
        yield Sample("kwire_bytes_total", server.bytes)
        yield from labelled("kwire_lost_events_total", _named(self._accounts.losses))
        yield Sample("kwire_sessions", len(self._listener.peers))
        yield Sample("kwire_sessions_total", server.sessions)
        yield Sample("kwire_traces_total", server.traces)
        yield Sample(
            "kwire_queue_payloads", sum(session.unacknowledged for session in list(self._listener.peers))
        )
        yield from counted(server.loop, SERVER)


def _age(now: int, times: "list[int | None]") -> float:
    """Seconds since the earliest of these, ns of the monotonic clock; 0 where there is none."""
    known = [time for time in times if time is not None]
    return max(0, now - min(known)) / 1e9 if known else 0.0


def _named(losses: "Counter[int]") -> list[tuple[str, float]]:
    return [(cause_label(cause), number) for cause, number in losses.items()]
