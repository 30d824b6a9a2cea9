"""Session statistics of a collector: what there is to say of sessions that have ended, by host.

Invariants: numbers are those of the captures, so after a restart they are of the whole session; a session
that ended here more than once, because it came back, counts once; what is kept does not grow with the
sessions that have ended: of those beyond the last `MOST` only the sums of their hosts are left.
"""

import os
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from kwire.collector.store import Store
from kwire.collector.stored_session import StoredSession
from kwire.transport.clock import Offset
from kwire.wire.messages import cause_text
from kwire.words import plural

MOST: Final = 4096
"""Sessions that have ended for good of which each is known by itself, with its files."""


class SessionStatistics:
    """Sums over sessions; `add` each when it ends, or the collector does; `forget` it when it comes back."""

    __slots__ = ("_ended", "_sums", "causes", "errors", "events", "hosts", "lost", "sessions", "size")

    def __init__(self) -> None:
        self.sessions: dict[bytes, dict[str, Any]] = {}
        """What there is of each, by its token; those that have ended long ago are in `hosts`."""
        self.hosts: dict[str, dict[str, Any]] = {}
        """Sums of the sessions that ended before those."""
        self._ended: dict[bytes, None] = {}  # those of a capture of their own that do not come back, in order
        self._sums: dict[bytes, tuple[int, int, int, int, Mapping[int, int]]] = {}  # what each added
        self.causes: Counter[int] = Counter()
        """Events lost in captures that are closed, by cause."""
        self.errors = 0
        """Frames refused, and breaches of the protocol."""
        self.events = self.lost = self.size = 0
        """Events and bytes of captures that are closed."""

    def add(
        self,
        address: str,
        store: Store,
        stored_session: StoredSession,
        offset: Offset | None,
        clock: dict[str, int] | None = None,
    ) -> None:
        """Add a session; the capture's own numbers too, unless others go on in it. `clock`: what was said of
        it before, where there is no `offset`.
        """
        self.forget(stored_session.token)
        balance, writer = store.balance(stored_session), store.writer
        own: tuple[int, int, int, Mapping[int, int]] = (0, 0, 0, {})
        if not store.merged:
            own = (writer.events, writer.lost_events, writer.size, store.causes)
        self._sums[stored_session.token] = (stored_session.errors, *own)
        self._change(self._sums[stored_session.token], 1)
        causes = store.losses(stored_session)
        tables = store.tables(stored_session)
        unknown = 0 if store.merged else store.writer.balances([0])[0].lost  # of whatever
        lost = balance.lost + tables.lost + unknown
        self.sessions[stored_session.token] = {
            "host": stored_session.host,
            "address": address,
            "session": stored_session.token.hex(),
            "proven": stored_session.proven
            and sum(stored_session.produced.values()) == balance.stored + tables.stored + lost,
            "events": balance.stored,
            "lost": lost,
            "causes": {cause_text(cause): count for cause, count in causes.items()},
            "files": list(store.writer.files),
            "frames": stored_session.frames,
            "errors": stored_session.errors,
            "clock": _clock(offset) or clock,
        }
        if stored_session.done and not store.merged:
            self._ended[stored_session.token] = None
            while len(self._ended) > MOST:
                self._fold(next(iter(self._ended)))

    def _fold(self, token: bytes) -> None:
        """Keep of a session what it adds to its host."""
        del self._ended[token]
        session = self.sessions.pop(token)
        del self._sums[token]  # what it added stays
        _join(self.hosts.setdefault(session["host"], _host(session["host"])), session)

    def forget(self, token: bytes) -> None:
        """A session goes on: what was said of it is not the end."""
        self._ended.pop(token, None)
        self.sessions.pop(token, None)
        self._change(self._sums.pop(token, (0, 0, 0, 0, {})), -1)

    def lose(self, host: str, events: int, cause: int) -> None:
        """Add events of a host that are lost, and of no session that is known here."""
        sums = self.hosts.setdefault(host, _host(host))
        sums["lost"] += events
        sums["causes"][cause_text(cause)] = sums["causes"].get(cause_text(cause), 0) + events
        self.causes[cause] += events
        self.lost += events

    def _change(self, sums: tuple[int, int, int, int, Mapping[int, int]], sign: int) -> None:
        errors, events, lost, size, causes = sums
        for cause, count in causes.items():
            self.causes[cause] += sign * count
        self.errors += sign * errors
        self.events += sign * events
        self.lost += sign * lost
        self.size += sign * size

    def summary(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        hosts = {
            name: {**host, "causes": dict(host["causes"]), "files": []} for name, host in self.hosts.items()
        }
        for session in self.sessions.values():
            host = hosts.setdefault(session["host"], _host(session["host"]))
            _join(host, session)
            known = set(host["files"])
            host["files"] += [
                file for file in session["files"] if file not in known and os.path.lexists(file)
            ]
        sums = ("sessions", "events", "lost", "unproven")
        return {
            "hosts": sorted(hosts.values(), key=lambda host: str(host["host"])),
            **{name: sum(host[name] for host in hosts.values()) for name in sums},
            "errors": self.errors,
        }


def in_words(store: Store, stored_session: StoredSession) -> str:
    """What is stored of a session, and where."""
    balance = store.balance(stored_session)
    number = balance.lost + store.tables(stored_session).lost
    lost = f"{number:,} lost" if number else "none lost"
    return f"{plural(balance.stored, 'event')}, {lost}, in {store.path_now}"


def told(offset: Offset) -> str:
    """An offset of wall clocks for a person: `12.345 ms behind, ± 0.080 ms`."""
    direction = "behind" if offset.wall > 0 else "ahead"
    return f"{abs(offset.wall) / 1e6:.3f} ms {direction}, ± {offset.error / 1e6:.3f} ms"


def _join(host: dict[str, Any], session: Mapping[str, Any]) -> None:
    """Add a session to the sums of its host, but for its files."""
    host["sessions"] += 1
    for name in ("events", "lost", "frames", "errors"):
        host[name] += session[name]
    host["unproven"] += not session["proven"]
    for cause, count in session["causes"].items():
        host["causes"][cause] = host["causes"].get(cause, 0) + count
    host["clock"] = session["clock"] or host["clock"]


def _host(name: str) -> dict[str, Any]:
    counts = dict.fromkeys(("sessions", "unproven", "events", "lost", "frames", "errors"), 0)
    return {"host": name, **counts, "causes": {}, "files": [], "clock": None}


def _clock(offset: Offset | None) -> dict[str, int] | None:
    """Nanoseconds: our clocks less the agent's, the wall clocks first, and how wrong both may be."""
    if offset is None:
        return None
    return {"wall_ns": offset.wall, "monotonic_ns": offset.monotonic, "error_ns": offset.error}
