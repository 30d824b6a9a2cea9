"""Metrics: the table of all that agents, collectors and recordings tell of themselves.

Invariants: what is served, what docs/metrics.md says and what the tests look for are this table. Names follow
Prometheus' conventions: units are base units, counters end in `_total` and never fall while their process
lives. A label's values are few: a closed set stands in `values`, and each of it is served from the beginning,
so that a rate can be had of the first one.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from kwire.wire.messages import Cause

COUNTER: Final = "counter"
GAUGE: Final = "gauge"
HISTOGRAM: Final = "histogram"
SUMMARY: Final = "summary"

AGENT: Final = "agent --to"
SERVER: Final = "agent --listen"
COLLECT: Final = "collect"
RECORD: Final = "record"
ALL: Final = (AGENT, SERVER, COLLECT, RECORD)
SENDERS: Final = (AGENT, SERVER)
LISTENERS: Final = (SERVER, COLLECT)
NETWORKED: Final = (AGENT, SERVER, COLLECT)


class Metric(NamedTuple):
    """One metric: a counter or a gauge, its unit, what it says, its labels, and the verbs that have it.

    `values`: all values of its one label, where they are known beforehand.
    """

    name: str
    kind: str
    unit: str
    help: str
    of: tuple[str, ...]
    labels: tuple[str, ...] = ()
    values: tuple[str, ...] = ()


class Buckets(NamedTuple):
    """The value of a histogram: upper ends as text, the last `+Inf`, with how many numbers were at most so
    great; the sum of all, where it is known.
    """

    counts: tuple[tuple[str, float], ...]
    total: float | None = None


class Summed(NamedTuple):
    """The value of a summary: how many numbers there were, and their sum."""

    number: float
    total: float


class Sample(NamedTuple):
    """A metric's value at one moment, for these values of its labels."""

    name: str
    value: "float | Buckets | Summed"
    labels: tuple[str, ...] = ()


HANDSHAKES: Final[dict[str, str]] = {
    "no_certificate": "one side showed none",
    "unknown_ca": "its CA is not that of the other side",
    "expired": "a certificate has expired, or is not valid yet",
    "wrong_name": "it is not good for the name that was connected to",
    "bad_certificate": "it was refused for another reason",
    "not_tls": "what came is no TLS",
    "no_tls13": "one side has no TLS 1.3",
    "cut": "the connection ended within the handshake",
    "late": "no whole HELLO came in time",
    "no_hello": "what came is no HELLO",
    "crowded": "too many wanted to say HELLO at once",
    "other": "another reason of TLS",
}
"""Reasons for which a handshake fails: of TLS, or of ours."""

CONNECTS: Final[dict[str, str]] = {
    "certificate": "one side refuses the other's certificate",
    "name": "the host's name could not be looked up",
    "refused": "the collector or the broker gives us no session",
    "unreachable": "nobody answers there",
}
"""Reasons for which an attempt to connect fails."""


def cause_label(cause: int) -> str:
    """The value of the label `cause`."""
    return Cause(cause).name.lower() if cause in tuple(Cause) else f"cause_{cause}"


METRICS: Final[tuple[Metric, ...]] = (
    Metric("kwire_build_info", GAUGE, "", "1; the label tells the version", ALL, ("version",)),
    Metric(
        "kwire_events_total",
        COUNTER,
        "events",
        "Events taken from the kernel; of a collector those stored, of a listening agent those relayed",
        ALL,
    ),
    Metric(
        "kwire_lost_events_total",
        COUNTER,
        "events",
        "Events counted lost, in the kernel and after it, by cause",
        ALL,
        ("cause",),
        tuple(cause_label(cause) for cause in Cause),
    ),
    Metric(
        "kwire_bytes_total",
        COUNTER,
        "bytes",
        "Bytes handed over to be sent; of collectors and recordings those of captures",
        ALL,
    ),
    Metric(
        "kwire_probe_events_total",
        COUNTER,
        "events",
        "Events that each probe produced, lost ones too",
        (AGENT, RECORD),
        ("probe",),
    ),
    Metric("kwire_probes", GAUGE, "", "Probes that are attached", (AGENT, RECORD)),
    Metric("kwire_host_events_total", COUNTER, "events", "Events stored of each host", (COLLECT,), ("host",)),
    Metric(
        "kwire_host_lost_events_total",
        COUNTER,
        "events",
        "Events counted lost of each host",
        (COLLECT,),
        ("host",),
    ),
    Metric(
        "kwire_host_last_data_timestamp_seconds",
        GAUGE,
        "seconds",
        "When something of a host came last, in seconds since 1970",
        (COLLECT,),
        ("host",),
    ),
    Metric(
        "kwire_host_newest_event_timestamp_seconds",
        GAUGE,
        "seconds",
        "When the newest stored event of a host happened there, in seconds since 1970",
        (COLLECT,),
        ("host",),
    ),
    Metric(
        "kwire_host_lag_seconds",
        GAUGE,
        "seconds",
        "How long after it happened the newest event of a host was stored, by both machines' clocks",
        (COLLECT,),
        ("host",),
    ),
    Metric(
        "kwire_broker_pending_messages",
        GAUGE,
        "",
        "Messages at the broker that the group has not acknowledged, as it said in the last 10 seconds",
        (COLLECT,),
    ),
    Metric(
        "kwire_recovered_lost_events_total",
        COUNTER,
        "events",
        "Events of earlier recordings that their spools do not give back, or that were lost on their way",
        (AGENT,),
    ),
    Metric("kwire_connected", GAUGE, "", "1 while the collector or the broker takes what is sent", (AGENT,)),
    Metric(
        "kwire_sessions",
        GAUGE,
        "",
        "Sessions that have not ended, with a connection or without",
        LISTENERS,
    ),
    Metric("kwire_sessions_total", COUNTER, "sessions", "Sessions begun", NETWORKED),
    Metric(
        "kwire_reconnects_total",
        COUNTER,
        "connections",
        "Connections after the first of each session",
        (AGENT, COLLECT),
    ),
    Metric("kwire_traces_total", COUNTER, "traces", "Traces begun for clients", (SERVER,)),
    Metric(
        "kwire_refused_sessions_total",
        COUNTER,
        "sessions",
        "Clients whose HELLO was understood, and who got no session",
        LISTENERS,
    ),
    Metric(
        "kwire_refused_frames_total",
        COUNTER,
        "frames",
        "Frames that were not sound, and breaches of the protocol",
        (COLLECT,),
    ),
    Metric(
        "kwire_handshake_failures_total",
        COUNTER,
        "handshakes",
        "Handshakes that failed here, of TLS or of HELLO, by reason",
        NETWORKED,
        ("reason",),
        tuple(HANDSHAKES),
    ),
    Metric(
        "kwire_connect_failures_total",
        COUNTER,
        "attempts",
        "Attempts to connect that led to no session, by reason",
        (AGENT, COLLECT),
        ("reason",),
        tuple(CONNECTS),
    ),
    Metric("kwire_queue_payloads", GAUGE, "", "Payloads that wait for an acknowledgement", SENDERS),
    Metric(
        "kwire_queue_free_bytes",
        GAUGE,
        "bytes",
        "Room for payloads that wait; where there is none, events are lost",
        (AGENT,),
    ),
    Metric(
        "kwire_lag_seconds",
        GAUGE,
        "seconds",
        "Age of the oldest event that is not acknowledged; 0 where none waits",
        (AGENT,),
    ),
    Metric(
        "kwire_spool_bytes",
        GAUGE,
        "bytes",
        "Bytes of the spools on disk, those of earlier agents too",
        (AGENT,),
    ),
    Metric(
        "kwire_spool_age_seconds",
        GAUGE,
        "seconds",
        "Age of the oldest event in the spools; 0 where none waits",
        (AGENT,),
    ),
    Metric("kwire_spools", GAUGE, "", "Spools that are not delivered, this recording's too", (AGENT,)),
    Metric(
        "kwire_disk_refuses",
        GAUGE,
        "",
        "1 while the disk of captures or of the spool does not take what it should",
        (AGENT, COLLECT, RECORD),
    ),
    Metric(
        "kwire_held_bytes",
        GAUGE,
        "bytes",
        "Bytes that came and wait here for the disk or a clock, not acknowledged",
        (COLLECT,),
    ),
    Metric(
        "kwire_removed_files_total",
        COUNTER,
        "files",
        "Files of captures that --keep removed",
        (COLLECT,),
    ),
    Metric(
        "kwire_removed_bytes_total",
        COUNTER,
        "bytes",
        "Bytes of captures that --keep removed",
        (COLLECT,),
    ),
    Metric(
        "kwire_kept_bytes",
        GAUGE,
        "bytes",
        "Bytes of captures in the folder, when --keep looked last; 0 without it",
        (COLLECT,),
    ),
    Metric(
        "kwire_keep_fails",
        GAUGE,
        "",
        "1 while something stays that --keep should remove, or what is in use is more than it allows",
        (COLLECT,),
    ),
    Metric("kwire_files_total", COUNTER, "files", "Files of captures begun", (RECORD,)),
    Metric(
        "kwire_failures_total", COUNTER, "failures", "Failures of kwire itself that were contained", NETWORKED
    ),
    Metric("kwire_ready", GAUGE, "", "1 where /readyz answers 200", ALL),
    Metric(
        "process_cpu_seconds_total",
        COUNTER,
        "seconds",
        "Processor time of the process, in user space and in the kernel",
        ALL,
    ),
    Metric("process_resident_memory_bytes", GAUGE, "bytes", "Memory of the process that is in RAM", ALL),
    Metric("process_virtual_memory_bytes", GAUGE, "bytes", "Addresses that the process has mapped", ALL),
    Metric("process_open_fds", GAUGE, "", "Descriptors that the process has", ALL),
    Metric("process_max_fds", GAUGE, "", "Descriptors that the process may have", ALL),
    Metric(
        "process_start_time_seconds", GAUGE, "seconds", "When the process began, in seconds since 1970", ALL
    ),
)
"""All metrics of a process; those of maps are what a file says (`kwire.agent.map_metrics`)."""

BY_NAME: Final[dict[str, Metric]] = {metric.name: metric for metric in METRICS}


def markdown() -> str:
    """The table as docs/metrics.md has it."""
    rows = ["| Metric | Kind | Labels | Of | |", "|---|---|---|---|---|"]
    for one in METRICS:
        of = "all" if one.of == ALL else ", ".join(f"`{verb}`" for verb in one.of)
        labels = ", ".join(f"`{label}`" for label in one.labels)
        rows.append(f"| `{one.name}` | {one.kind} | {labels} | {of} | {one.help} |")
    return "\n".join(rows) + "\n"


def reasons() -> str:
    """The reasons of handshakes and attempts that fail, as docs/metrics.md has them."""
    rows = ["| Reason | |", "|---|---|"]
    rows += [f"| `{label}` | {text} |" for label, text in {**HANDSHAKES, **CONNECTS}.items()]
    return "\n".join(rows) + "\n"


def labelled(name: str, counts: Iterable[tuple[str, float]]) -> list[Sample]:
    """Samples of a metric with one label."""
    return [Sample(name, value, (label,)) for label, value in counts]
