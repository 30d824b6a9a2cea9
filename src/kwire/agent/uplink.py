"""An uplink: what a source has for a collector, over as many connections and sessions as it takes.

Invariants: a session is resumed as long as the collector knows it; where it does not, what may have been
delivered is counted LOST (EXPIRED) and what surely was not goes into a new session, so nothing is delivered
twice; the token of that session follows from the one before, so that copies of a source begin the same one,
and the collector sees it; where another copy went on with the session, all that waits here may have been
delivered; an uplink is done when everything is acknowledged after `close`. Payloads wait in a `Hold`: in
memory, or in a spool on disk.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from kwire.agent.source import events_in, first_event
from kwire.agent.spool import Spool
from kwire.errors import KwireError
from kwire.transport import clock
from kwire.transport.address import Address
from kwire.transport.connect import CertificateError, Connector, connect
from kwire.transport.frame_log import Watch
from kwire.transport.log_events import Log
from kwire.transport.loop import Loop, vital
from kwire.transport.peer import Handler, Peer
from kwire.transport.rate_limited_log import Recurring
from kwire.wire.frame import MASK
from kwire.wire.lineage import Lineage
from kwire.wire.send_queue import MemorySendQueue, SendQueue
from kwire.wire.session import Complained, Role, Session, Settings, State
from kwire.words import plural

if TYPE_CHECKING:
    import ssl

    from kwire.broker.address import BrokerAddress
    from kwire.broker.client import Broker
    from kwire.transport.tls import TlsOptions

BETWEEN: Final = 1.0
"""Seconds between the end of a session that could not be resumed and the beginning of the next."""

FEW: Final = 8
"""Payloads looked at for the oldest event: those before may hold descriptions only."""

EXPIRY: Final = 30 * 86400.0
"""Seconds that a collector may be away: so long it remembers sessions. What waits is bounded by memory."""


class Certificates:
    """What sessions over TLS show and trust: read once, as who is nobody by then can read no file."""

    __slots__ = ("_context", "_options")

    def __init__(self, options: "TlsOptions | None") -> None:
        self._options = options
        self._context: ssl.SSLContext | None = None

    @property
    def context(self) -> "ssl.SSLContext":
        """That of connections from now on. Raises KwireError where the files cannot be used."""
        if self._context is None:
            from kwire.transport.tls import client_context

            self._context = client_context(self._options)
        return self._context

    def renew(self, context: "ssl.SSLContext") -> None:
        """Show others."""
        self._context = context


class Line(NamedTuple):
    """What it takes to reach a collector. `say` tells people of trouble; `tls`: where that is spoken."""

    loop: Loop
    address: "Address | BrokerAddress"
    settings: Settings
    about: Mapping[str, Any]
    say: Log
    tls: Certificates | None = None
    insecure: bool = False
    watch: Watch | None = None
    broker: "Broker | None" = None
    """The connection, where the address is a broker's."""
    end: Callable[[], None] = lambda: None
    """Called at the end: what was held back is told."""


class Hold(Protocol):
    """Where payloads wait until they are acknowledged."""

    @property
    def token(self) -> bytes:
        """The session's."""

    @property
    def send_queue(self) -> SendQueue:
        """What the session takes them from."""

    @property
    def known(self) -> bool:
        """Whether the session may be known to the collector."""

    def split(self) -> tuple[Iterable[bytes], Iterable[bytes]]:
        """Those that may have been sent, and those that surely were not."""

    @property
    def lineage(self) -> Lineage:
        """The HELLOs of the session."""

    def doubt(self) -> None:
        """All that waits may have been sent."""

    def renew(self, token: bytes, prefix: list[bytes]) -> None:
        """Begin another session: with `prefix`, and then what surely was not sent."""

    @property
    def events(self) -> int:
        """Events that wait."""

    @property
    def oldest(self) -> int | None:
        """When the oldest event that waits was recorded, ns of the monotonic clock; None: none waits, or
        that is not known.
        """


class _Memory(MemorySendQueue):
    """A send queue that knows how far it was read: what was not read was not sent."""

    __slots__ = ("_read",)

    def __init__(self, size: int, payloads: Iterable[bytes]) -> None:
        super().__init__(size, int.from_bytes(os.urandom(4), "big"))  # hard to guess, for datagrams
        for payload in payloads:
            self.put(self.next, payload)
        self._read = 0

    def get(self, sequence: int) -> bytes:
        """The payload of a number."""
        self._read = max(self._read, ((sequence - self._first) & MASK) + 1)
        return super().get(sequence)

    def release(self, upto: int) -> None:
        """Forget payloads."""
        before = len(self._payloads)
        super().release(upto)
        self._read = max(0, self._read - (before - len(self._payloads)))

    def oldest(self) -> list[bytes]:
        """The oldest payloads, without taking them for read."""
        return list(islice(self._payloads, FEW))

    def doubt(self) -> None:
        """Take all for read."""
        self._read = len(self._payloads)

    def split(self) -> tuple[list[bytes], list[bytes]]:
        """Those read, and the others."""
        kept = list(self._payloads)
        return kept[: self._read], kept[self._read :]


class MemoryHold:
    """A hold in memory."""

    __slots__ = ("_size", "lineage", "send_queue", "token")
    known = False

    def __init__(self, size: int, prefix: Iterable[bytes]) -> None:
        self.token = os.urandom(16)
        self.lineage = Lineage()
        self._size = size
        self.send_queue = _Memory(size, prefix)

    def doubt(self) -> None:
        """All that waits may have been sent."""
        self.send_queue.doubt()

    def split(self) -> tuple[list[bytes], list[bytes]]:
        """Those that may have been sent, and the others."""
        return self.send_queue.split()

    def renew(self, token: bytes, prefix: list[bytes]) -> None:
        """Begin another session."""
        self.token, self.lineage = token, Lineage()
        self.send_queue = _Memory(self._size, [*prefix, *self.send_queue.split()[1]])

    @property
    def events(self) -> int:
        """Events that wait."""
        maybe, surely_not = self.send_queue.split()
        return sum(map(events_in, (*maybe, *surely_not)))

    @property
    def oldest(self) -> int | None:
        """When the oldest event that waits was recorded."""
        return next((time for time in map(first_event, self.send_queue.oldest()) if time is not None), None)


class SpoolHold:
    """A hold on disk."""

    __slots__ = ("known", "spool")

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.known = spool.begun

    @property
    def token(self) -> bytes:
        """The session's."""
        return self.spool.kept.token

    @property
    def send_queue(self) -> Spool:
        """The spool is the send queue."""
        return self.spool

    @property
    def lineage(self) -> Lineage:
        """The HELLOs of the session."""
        return self.spool.lineage

    def doubt(self) -> None:
        """All that waits may have been sent."""
        self.spool.doubt()

    def split(self) -> tuple[Iterable[bytes], Iterable[bytes]]:
        """Those that may have been sent, and the others."""
        return self.spool.split()

    def renew(self, token: bytes, prefix: list[bytes]) -> None:
        """Begin another session."""
        self.spool.renew(token, prefix)
        self.known = False

    @property
    def events(self) -> int:
        """Events that wait."""
        return self.spool.events

    @property
    def oldest(self) -> int | None:
        """When the oldest event that waits was recorded."""
        return self.spool.oldest


def _next(token: bytes) -> bytes:
    """The token of the session that takes the place of one that the collector does not know."""
    import hashlib

    return hashlib.blake2b(token, digest_size=len(token), person=b"kwire next").digest()


class Cargo(Protocol):
    """Whose payloads an uplink carries."""

    def begun(self, session: Session) -> bool:
        """From now on payloads go into this session; whether all that there will be is in it."""

    def receiving(self, up: bool) -> None:
        """A collector takes what is sent, or none does at present."""

    def refused(self) -> None:
        """Certificates keep the collector and us apart."""

    def taken(self, events: int, probes: Mapping[int, int]) -> None:
        """So many of the events that the collector had stored are gone from there, and of which probes: told
        again with more.
        """

    def room(self) -> None:
        """There is room again."""

    def restarted(self, abandoned: Iterable[bytes], carried: Iterable[bytes]) -> list[bytes]:
        """The session is lost: the payloads that the next one begins with."""

    def done(self) -> None:
        """Everything is acknowledged, after `close`."""


def begin_anew(hold: Hold, cargo: Cargo, superseded: bool) -> None:
    """Begin another session of a hold: what may have been delivered is told as lost, the rest comes next.
    `superseded`: another copy of the source went on, so all that waits may have been delivered.
    """
    token = _next(hold.token)
    if superseded:
        hold.doubt()
        token = os.urandom(16)
    prefix = cargo.restarted(*hold.split())
    hold.renew(token, prefix)


class Uplink(Handler):
    """One hold on its way to the collector. `close` once nothing more is put into it."""

    def __init__(self, line: Line, hold: Hold, cargo: Cargo) -> None:
        self.hold = hold
        self.finished = False
        """Everything is acknowledged."""
        self.sessions = 0
        """Sessions begun with a collector."""
        self.reconnects = 0
        """Connections after the first of each session."""
        self.refused = False
        """Certificates keep the collector and us apart, as far as is known now."""
        self.loop = line.loop
        self._line = line
        self._cargo = cargo
        self._reason: str | None = None
        self._troubles = Recurring(line.loop.now, line.say)
        self._sessions: list[Session] = []
        self._session = self._make()
        self._connector = self._dial()

    @property
    def peer(self) -> Peer:
        """The session's present peer."""
        return self._connector.peer

    @property
    def up(self) -> bool:
        """Whether a collector is connected."""
        return self.peer.session.state in (State.ESTABLISHED, State.DRAINING)

    def flush(self) -> None:
        """Send what was put into the session."""
        self.peer.flush()

    def close(self, reason: str) -> None:
        """Nothing more comes: end the session when all is acknowledged."""
        self._reason = reason
        if self.peer.session is self._session and not self.peer.ended:
            self.peer.close(reason)

    def leave(self) -> None:
        """Break off: no more attempts; what is not acknowledged stays where it is."""
        self._connector.close()
        self.peer.detach("leaving")

    # ------------------------------------------------------------------ what happens

    def established(self, peer: Peer) -> None:
        """Count it, and let what has waited go."""
        session = peer.session
        back = session in self._sessions
        self._line.say(f"{self._line.address} takes what is recorded{' again' if back else ''}", "connected")
        if back:
            self.reconnects += 1
        else:
            self._sessions.append(session)
            self.sessions += 1
        self._troubles.over()
        self.refused = False
        self._cargo.receiving(True)
        self._cargo.room()
        peer.flush()

    def changed(self, peer: Peer, old: State, new: State, why: str) -> None:
        """Nobody receives while the session is suspended."""
        if new is State.SUSPENDED:
            self._cargo.receiving(False)
            if "refused" in why:
                self._troubles.say(f"{self._line.address}: {why}", "refused")

    def writable(self, peer: Peer) -> None:
        """There is room again."""
        self._cargo.room()
        peer.flush()

    def requested(self, peer: Peer, number: int, body: Mapping[str, Any]) -> None:
        """A collector may ask for the time, and tell how its disk is; nothing else."""
        if body.get("op") == clock.OP:
            peer.session.reply(number, clock.answer(), self._line.loop.now())
        elif body.get("op") in ("disk", "gone"):
            self._hear(body)
            peer.session.reply(number, {"ok": True}, self._line.loop.now())
        else:
            error = {
                "operation": "answer request",
                "subject": str(body.get("op"))[:40],
                "cause": "this agent does what its command line says",
                "cure": "kwire agent --listen takes requests",
            }
            peer.session.reply(number, {"error": error}, self._line.loop.now())

    def _hear(self, body: Mapping[str, Any]) -> None:
        """What a collector tells of its disk."""
        events = body.get("events")
        if body.get("op") == "gone" and isinstance(events, int) and events > 0:
            probes = body.get("probes")
            counts = probes.items() if isinstance(probes, dict) else ()
            self._cargo.taken(events, {id: number for id, number in counts if isinstance(number, int)})
            stored = f"{plural(events, 'event')} that it had stored"
            self._troubles.say(f"{self._line.address}: the capture is gone with {stored}", "events_lost")
        elif body.get("op") == "disk" and body.get("full") is True:
            why = str(body.get("text", ""))[:200]
            text = f"{self._line.address} takes nothing more at present: {why}; what comes waits here"
            self._troubles.say(text, "disk")
        elif body.get("op") == "disk":
            self._line.say(f"{self._line.address} takes what comes again", "disk_well")

    def complained(self, peer: Peer, problem: object) -> None:
        """Tell people."""
        text = problem.sentence if isinstance(problem, Complained) else f"is in trouble: {problem}"
        self._troubles.say(f"{peer.address} {text}", "peer")

    @vital
    def closed(self, peer: Peer, why: str) -> None:
        """The session is over: all is well, or a new one takes what is left."""
        self._cargo.receiving(False)
        whole = not (peer.abandoned or peer.broken_off)  # one that failed here may not know what it abandons
        if self._reason is not None and whole:
            self.finished = True
            self._cargo.done()
            return
        self._troubles.say(f"{self._line.address}: a new session begins: {why}", "session_anew")
        send_queue = self.hold.send_queue
        if whole and send_queue.first != send_queue.next:
            send_queue.release((send_queue.next - 1) & MASK)  # the collector has more than we knew of
        begin_anew(self.hold, self._cargo, bool(peer.session.superseded))
        self._session = self._make()
        loop = self._line.loop
        loop.at(loop.now() + BETWEEN, self._again)

    # ------------------------------------------------------------------ within

    @vital
    def _again(self) -> None:
        self._connector = self._dial()
        if self._reason is not None:
            self.peer.close(self._reason)

    def _make(self) -> Session:
        line = self._line
        session = Session(
            Role.SOURCE,
            initiator=True,
            datagrams=line.address.datagrams,
            settings=line.settings,
            token=self.hold.token,
            about=line.about,
            send_queue=self.hold.send_queue,
            resume=self.hold.known,
            lineage=self.hold.lineage,
        )
        if not self._cargo.begun(session):
            self._reason = None  # whoever puts more into it closes it
        return session

    def renew(self) -> None:
        """Show the certificate that there is now from the next connection on."""
        assert self._line.tls is not None
        self._connector.renew(self._line.tls.context)

    def _dial(self) -> Connector:
        line = self._line
        assert isinstance(line.address, Address)  # a broker has an uplink of its own
        sessions = [self._session]

        def only() -> Session | None:
            return sessions.pop() if sessions else None

        return connect(
            line.loop,
            line.address,
            only,
            self,
            None,
            line.insecure,
            watch=line.watch,
            troubled=self._troubled,
            context=line.tls.context if line.tls is not None else None,
        )

    def _troubled(self, problem: KwireError) -> None:
        self.refused = isinstance(problem, CertificateError)
        self._troubles.say(f"{problem} (trying again)", "certificate" if self.refused else "unreachable")
        if self.refused:
            self._cargo.refused()
