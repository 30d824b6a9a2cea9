"""A crowd: who may be heard out when many want to say HELLO at once, and what one process serves in all.

Invariants: room is shared out by address: a newcomer takes the place of an address that has more than it,
never the other way round; TLS handshakes, which cost us a signature each, are bounded in a second, for an
address and in all, and in a crowd each address still has its first few; addresses where a peer has once
proven who it is have room of their own, which no stranger can take; a session has one peer, whatever listener
it came by.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

from kwire.transport.hosts import Hosts
from kwire.transport.peer import Peer
from kwire.wire.session import Session

if TYPE_CHECKING:
    from kwire.transport.listen import Greeting

GRACE: Final = 2.0
"""Seconds that a connection has for its HELLO even where too many of its own address want to say one."""

FIRST: Final = 4
"""Handshakes a second that an address may begin even where all together may begin no more."""

MOST_KNOWN: Final = 8192
"""Addresses remembered of peers that have proven who they are: the last ones."""


class Limits(NamedTuple):
    """How much strangers may take."""

    sessions: int = 4096  # in all
    per_address: int = 2048  # sessions of one address
    half_open: int = 512  # connections that have not said HELLO yet, in all; and as many of known addresses
    half_open_per_address: int = 256
    half_open_seconds: float = 10.0  # from connecting to HELLO, the TLS handshake included
    handshakes: int = 400  # TLS handshakes begun a second, in all
    handshakes_per_address: int = 100
    refusals: int = 100  # answers a second to those who get no session


class Roster:
    """The peers of one process, of all its listeners, and the addresses that are known.

    `hosts`: which names are one host; `known`: addresses that were known to a process before this one.
    """

    __slots__ = ("_known", "counts", "hosts", "news", "peers")

    def __init__(self, hosts: Hosts = Hosts(), known: Iterable[str] = ()) -> None:  # noqa: B008
        self.hosts = hosts
        self.news = False
        """An address is known that was not before; whoever keeps them takes note."""
        self.peers: dict[Session, Peer] = {}
        """The peers of sessions that have not ended, with a connection or without."""
        self.counts: dict[str, int] = {}
        """How many there are, by address."""
        self._known = dict.fromkeys(known)  # the last one last
        while len(self._known) > MOST_KNOWN:
            del self._known[next(iter(self._known))]

    def add(self, peer: Peer) -> None:
        """A session has its peer."""
        self.peers[peer.session] = peer
        count(self.counts, peer.host, 1)

    def remove(self, peer: Peer) -> None:
        """It has ended."""
        if self.peers.pop(peer.session, None) is not None:
            count(self.counts, peer.host, -1)

    def know(self, host: str) -> None:
        """A peer of this address has proven who it is."""
        self.news |= host not in self._known
        self._known.pop(host, None)
        self._known[host] = None
        if len(self._known) > MOST_KNOWN:
            del self._known[next(iter(self._known))]

    def are_one(self, one: str, other: str) -> bool:
        """Whether two that have proven who they are (`peer.proven`) are the same host."""
        (by, name), (other_by, other_name) = (proven.split(" ", 1) for proven in (one, other))
        return by == other_by and self.hosts.canonical(name) == self.hosts.canonical(other_name)

    def knows(self, host: str) -> bool:
        """Whether one has."""
        return host in self._known

    @property
    def known(self) -> list[str]:
        """All addresses where one has, the last one last."""
        return list(self._known)


class HalfOpen:
    """Those that have not said HELLO yet, of one listener: the oldest first."""

    __slots__ = ("_known", "_limits", "_roster", "_second", "_shaken", "_strangers", "_waiting", "greetings")

    def __init__(self, limits: Limits, roster: Roster) -> None:
        self._limits = limits
        self._roster = roster
        self.greetings: dict[Greeting, None] = {}
        self._waiting: dict[str, int] = {}  # by address
        self._known = self._strangers = 0  # of the greetings: those of addresses that were known, and others
        self._second = 0
        self._shaken: dict[str, int] = {}  # handshakes begun in this second, by address

    def __len__(self) -> int:
        return len(self.greetings)

    def add(self, greeting: Greeting) -> None:
        """One more."""
        self.greetings[greeting] = None
        self._change(greeting, 1)

    def remove(self, greeting: Greeting) -> None:
        """It has been heard out, or dropped."""
        if greeting in self.greetings:
            del self.greetings[greeting]
            self._change(greeting, -1)

    def _change(self, greeting: Greeting, by: int) -> None:
        count(self._waiting, greeting.host, by)
        if greeting.known:
            self._known += by
        else:
            self._strangers += by

    def make_room(self, host: str, now: float) -> bool:
        """Whether one more of this address may be heard out; another one may have to go for it."""
        limits = self._limits
        known = self._roster.knows(host)
        mine = self._waiting.get(host, 0)
        if mine >= limits.half_open_per_address:
            oldest = next(greeting for greeting in self.greetings if greeting.host == host)
            return self._give_way(oldest, now)
        if (self._known if known else self._strangers) < limits.half_open:
            return True
        rivals = [greeting for greeting in self.greetings if greeting.known == known]
        most = max(rivals, key=lambda greeting: self._waiting[greeting.host])  # its oldest: order is of age
        if self._waiting[most.host] > mine + 1:
            most.drop()
            return True
        return self._give_way(rivals[0], now)

    def _give_way(self, oldest: Greeting, now: float) -> bool:
        """The oldest goes if it had time enough; if not, those who were first are served first."""
        if now - oldest.began < GRACE:
            return False
        oldest.drop()
        return True

    def may_shake(self, host: str, now: float) -> bool:
        """Whether one more handshake of this address may begin in this second; counts it if so."""
        if int(now) != self._second:
            self._second = int(now)
            self._shaken.clear()
        mine, limits = self._shaken.get(host, 0), self._limits
        crowded = sum(self._shaken.values()) >= limits.handshakes and not self._roster.knows(host)
        if mine >= (FIRST if crowded else limits.handshakes_per_address):
            return False
        self._shaken[host] = mine + 1
        return True


def count(counts: dict[str, int], host: str, change: int) -> None:
    """Change a count; none is kept at 0."""
    counts[host] = counts.get(host, 0) + change
    if not counts[host]:
        del counts[host]
