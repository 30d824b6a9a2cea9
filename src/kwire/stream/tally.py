"""The tally of a collector: what there is to say of sessions that have ended, by host.

The law: numbers are those of the captures, so after a restart they are of the whole session.
"""

from typing import Any

from kwire.stream.clock import Offset
from kwire.stream.lane import Lane
from kwire.stream.store import Store
from kwire.wire.messages import CAUSES, Cause


class Tally:
    """Sums over sessions; `add` each when it ends, or the collector does."""

    __slots__ = ("errors", "events", "lost", "sessions", "size")

    def __init__(self) -> None:
        self.sessions: list[dict[str, Any]] = []
        self.errors = 0
        """Frames refused, and breaches of the protocol."""
        self.events = self.lost = self.size = 0
        """Events and bytes of captures that are closed."""

    def add(self, address: str, store: Store, lane: Lane, offset: Offset | None) -> None:
        """Add a session; the capture's own numbers too, unless others go on in it."""
        balance = store.balance(lane)
        self.errors += lane.errors
        if not store.merged:
            self.events += store.writer.events
            self.lost += store.writer.lost_events
            self.size += store.writer.size
        causes = store.losses(lane)
        lost = balance.lost + (0 if store.merged else store.writer.balance(0).lost)
        self.sessions.append(
            {
                "host": lane.host,
                "address": address,
                "session": lane.token.hex(),
                "proven": lane.proven and sum(lane.produced.values()) == balance.stored + lost,
                "events": balance.stored,
                "lost": lost,
                "causes": {_cause(cause): count for cause, count in causes.items()},
                "files": list(store.writer.files),
                "frames": lane.frames,
                "errors": lane.errors,
                "clock": _clock(offset),
            }
        )

    def summary(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        hosts: dict[str, dict[str, Any]] = {}
        for session in self.sessions:
            host = hosts.setdefault(session["host"], _host(session["host"]))
            host["sessions"] += 1
            for name in ("events", "lost", "frames", "errors"):
                host[name] += session[name]
            host["unproven"] += not session["proven"]
            for cause, count in session["causes"].items():
                host["causes"][cause] = host["causes"].get(cause, 0) + count
            host["files"] += [file for file in session["files"] if file not in host["files"]]
            host["clock"] = session["clock"] or host["clock"]
        return {
            "hosts": sorted(hosts.values(), key=lambda host: str(host["host"])),
            "sessions": len(self.sessions),
            "events": sum(session["events"] for session in self.sessions),
            "lost": sum(session["lost"] for session in self.sessions),
            "unproven": sum(not session["proven"] for session in self.sessions),
            "errors": self.errors,
        }


def told(offset: Offset) -> str:
    """An offset of wall clocks for a person: `12.345 ms behind, ± 0.080 ms`."""
    direction = "behind" if offset.wall > 0 else "ahead"
    return f"{abs(offset.wall) / 1e6:.3f} ms {direction}, ± {offset.error / 1e6:.3f} ms"


def _host(name: str) -> dict[str, Any]:
    counts = dict.fromkeys(("sessions", "unproven", "events", "lost", "frames", "errors"), 0)
    return {"host": name, **counts, "causes": {}, "files": [], "clock": None}


def _clock(offset: Offset | None) -> dict[str, int] | None:
    """Nanoseconds: our clocks less the agent's, the wall clocks first, and how wrong both may be."""
    if offset is None:
        return None
    return {"wall_ns": offset.wall, "monotonic_ns": offset.monotonic, "error_ns": offset.error}


def _cause(cause: int) -> str:
    return CAUSES[Cause(cause)] if cause in CAUSES else f"cause {cause}"
