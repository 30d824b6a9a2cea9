"""What a collector tells of itself.

Invariants: events and losses are those of the captures, those in the writers' buffers too; each session
counts once, also while it is being closed: what is counted is chosen in one step, and read in many.
"""

from collections import Counter
from collections.abc import Iterator

from kwire.broker.client import Broker
from kwire.collector.collector import Collector
from kwire.collector.retention import Retention
from kwire.metrics.counted import counted
from kwire.metrics.table import COLLECT, Sample, cause_label, labelled


class CollectorMetrics:
    """Those of `collect`. `broker`: besides agents; `retention`: what removes captures."""

    def __init__(
        self, collector: Collector, broker: Broker | None = None, retention: Retention | None = None
    ) -> None:
        self.retention = retention
        """May be another one later."""
        self._collector = collector
        self._broker = broker

    def ready(self) -> str:
        """Ready is: what comes is stored, and a broker that it takes from is connected."""
        collector = self._collector
        if collector.stopped:
            return "the collector stops"
        if collector.trouble:
            return f"the disk refuses what comes: {collector.trouble}"
        if self._broker is not None and not self._broker.up:
            return f"{self._broker.address} is not connected"
        return ""

    def samples(self) -> Iterator[Sample | None]:
        """What there is now."""
        collector, tally = self._collector, self._collector.tally
        intake = collector.intake
        stores = list(collector.storage.stores)
        ended = list(tally.sessions.items())
        live = [(store, session) for store in stores for session in store.stored_sessions.values()]
        causes = Counter(tally.causes)
        for store in stores:
            causes.update(store.causes)
        yield Sample("kwire_events_total", collector.events)
        yield Sample("kwire_bytes_total", collector.size)
        yield from labelled(
            "kwire_lost_events_total", [(cause_label(cause), number) for cause, number in causes.items()]
        )
        yield Sample("kwire_refused_frames_total", tally.errors + sum(one.errors for _, one in live))
        yield Sample("kwire_sessions", len(collector.collected_sessions) + (intake.open if intake else 0))
        yield Sample("kwire_sessions_total", collector.begun + (intake.begun if intake else 0))
        yield Sample("kwire_reconnects_total", collector.reconnects)
        yield Sample("kwire_disk_refuses", float(bool(collector.trouble)))
        yield Sample("kwire_held_bytes", collector.held)
        keep = self.retention
        yield Sample("kwire_removed_files_total", keep.removed_files if keep else 0)
        yield Sample("kwire_removed_bytes_total", keep.removed_bytes if keep else 0)
        yield Sample("kwire_kept_bytes", keep.bytes if keep else 0)
        yield Sample("kwire_keep_fails", float(bool(keep and keep.trouble)))
        yield from counted(collector.loop, COLLECT)
        last = list(collector.storage.heard.items())
        newest = list(collector.storage.newest.items())
        lags = list(collector.storage.lags.items())
        hosts = Counter({host: before["events"] for host, before in tally.hosts.items()})
        lost = Counter({host: before["lost"] for host, before in tally.hosts.items()})
        tokens = {session.token for _, session in live}
        for token, about in ended:
            if token not in tokens:
                hosts[about["host"]] += about["events"]
                lost[about["host"]] += about["lost"]
            yield None
        for store, session in live:
            balance, tables = store.balance(session), store.tables(session)
            hosts[session.host] += balance.stored
            lost[session.host] += balance.lost + tables.lost
            yield None
        for host, number in hosts.items():
            yield Sample("kwire_host_events_total", number, (host,))
            yield Sample("kwire_host_lost_events_total", lost[host], (host,))
        for name, values in (
            ("kwire_host_last_data_timestamp_seconds", last),
            ("kwire_host_newest_event_timestamp_seconds", newest),
            ("kwire_host_lag_seconds", lags),
        ):
            yield from (Sample(name, value, (host,)) for host, value in values)
        pending = intake.pending if intake is not None else 0
        if pending is not None:
            yield Sample("kwire_broker_pending_messages", pending)
