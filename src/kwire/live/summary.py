"""The summary of a trace that has ended: what `--json` prints, and what recording from Python gives.

Invariant: whatever was traced, here or elsewhere, to a file or not, its summary has the same keys.
"""

from collections.abc import Mapping

from kwire.hints import TYPE_CHECKING, Any, Protocol
from kwire.wire.messages import Cause, cause_text
from kwire.wire.schema import Schema

if TYPE_CHECKING:
    from kwire.capture.writer import Writer


class Counts(Protocol):
    """What counts the events of a trace."""

    events: int
    lost: int

    @property
    def causes(self) -> Mapping[int, int]:
        """Losses by cause."""


def summarize(
    schemas: tuple[Schema, ...],
    counts: Counts,
    writer: "Writer | None",
    produced: Mapping[int, int],
    totals: Mapping[int, Any],
    seconds: float,
    status: int | None,
) -> dict[str, Any]:
    """The summary object of a trace that has ended; `status` is its command's exit status."""
    probes = []
    for schema in schemas:
        count = produced.get(schema.id, 0)
        lost = totals[schema.id].lost if schema.id in totals else 0
        probes.append({"id": schema.id, "probe": schema.probe, "produced": count, "lost": lost})
    causes = dict(counts.causes)
    if writer:  # what it could not write, beside what it was told of
        full = writer.lost_events - counts.lost
        causes[Cause.DISK_FULL] = causes.get(Cause.DISK_FULL, 0) + full
    summary: dict[str, Any] = {
        "events": writer.events if writer else counts.events,
        "lost": writer.lost_events if writer else counts.lost,
        "causes": {cause_text(cause): count for cause, count in sorted(causes.items()) if count},
        "file": writer.files[0] if writer and writer.files else None,
        "probes": probes,
        "seconds": round(seconds, 3),
    }
    if writer:
        summary["files"] = writer.files
        summary["bytes"] = writer.size
    if status is not None:
        summary["command_status"] = status
    return summary
