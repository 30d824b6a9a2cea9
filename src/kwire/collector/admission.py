"""Who may have a session of a collector.

Invariants: who resumes a session is who began it, by its certificate, its user or its address's kind, and the
copy of it that had it last; a session at which we failed may come back later, each time later; one that had
ended when more of it came is not known any more, so that its source begins another. What is remembered of
strangers is bounded.
"""

import time
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final

from kwire.errors import KwireError
from kwire.transport.hosts import Hosts
from kwire.transport.listen import SupersededError
from kwire.wire.control import Hello
from kwire.wire.lineage import follows

LONGEST_REST: Final = 60.0
"""Seconds at most that a session at which we failed again and again waits until it may come back."""

MOST_RESTING: Final = 4096


class Admission:
    """What a collector goes by. `now`: the loop's clock, seconds."""

    __slots__ = ("_hosts", "_now", "_outrun", "_rests")

    def __init__(self, now: Callable[[], float], hosts: Hosts) -> None:
        self._now = now
        self._hosts = hosts
        self._outrun: dict[bytes, None] = {}  # tokens of sessions that had ended when more of them came
        self._rests: dict[bytes, tuple[int, float]] = {}  # sessions at which we failed: how often, until when

    def prove(self, about: Mapping[str, str], identity: str, address: str) -> None:
        """Raise KwireError where a client did not begin the session that `about` describes."""
        if not same(about, identity, address, self._hosts):
            raise KwireError("resume", address, "the session is another's")

    def prove_last(self, continued: tuple[int | None, int], hello: Hello, address: str) -> None:
        """Raise SupersededError where another copy of the source has gone on with its session. `continued`:
        the nonce of the HELLO that had the session last, and when that came, in seconds since 1970.
        """
        last, since = continued
        if not follows(last, hello.nonce, hello.after):
            when = time.strftime(" at %Y-%m-%d %H:%M:%S UTC", time.gmtime(since)) if since else ""
            why = f"another copy of its source went on with the session{when}"
            raise SupersededError("resume", address, why)

    # --- sessions at which we failed

    def failed(self, token: bytes) -> None:
        """We failed at this session: the next time it waits longer until it may come back."""
        often = min(self._rests.pop(token, (0, 0.0))[0] + 1, 30)
        _make_room(self._rests)
        self._rests[token] = often, self._now() + min(LONGEST_REST, 0.1 * 2 ** (often - 1))

    def went_well(self, token: bytes) -> None:
        """Something of it was stored."""
        self._rests.pop(token, None)

    def rests(self, token: bytes) -> bool:
        """Whether it may not come back yet."""
        return self._rests.get(token, (0, 0.0))[1] > self._now()

    # --- sessions of which more came than there can be

    def outrun(self, token: bytes) -> bool:
        """More of a session has come that had ended; whether that is the first time."""
        if token in self._outrun:
            return False
        _make_room(self._outrun)
        self._outrun[token] = None
        return True

    def was_outrun(self, token: bytes) -> bool:
        """Whether that has happened to this session."""
        return token in self._outrun


def same(
    about: Mapping[str, str],
    identity: str,
    address: str,
    hosts: Hosts = Hosts(),  # noqa: B008
) -> bool:
    """Whether the client at `address` began the session that `about` describes."""
    kind, who = address.partition(":")[0], hosts.canonical
    began = about.get("transport", kind)  # checkpoints of 0.1 do not say
    return not about.get("origin") and began == kind and who(about.get("identity", "")) == who(identity)


def _make_room(table: MutableMapping[bytes, Any]) -> None:
    """Forget the oldest where there are too many."""
    if len(table) >= MOST_RESTING:
        del table[next(iter(table))]
