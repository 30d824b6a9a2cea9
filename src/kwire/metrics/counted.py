"""What a loop has counted of what did not come about, as samples."""

from collections.abc import Iterator
from typing import Final

from kwire.metrics.table import BY_NAME, Sample
from kwire.transport.loop import Loop

NAMES: Final[dict[str, str]] = {
    "handshake": "kwire_handshake_failures_total",
    "connect": "kwire_connect_failures_total",
    "session": "kwire_refused_sessions_total",
}
"""What `Loop.count` counts → the metric; without a label all reasons together."""


def counted(loop: Loop, verb: str) -> Iterator[Sample]:
    """The samples of this loop that a verb has."""
    for what, name in NAMES.items():
        metric = BY_NAME[name]
        if verb not in metric.of:
            continue
        reasons = {why: number for (kind, why), number in loop.counted.items() if kind == what}
        if metric.labels:
            yield from (Sample(name, number, (why,)) for why, number in reasons.items())
        else:
            yield Sample(name, sum(reasons.values()))
    yield Sample("kwire_failures_total", loop.failures)
