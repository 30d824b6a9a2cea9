"""A peer: one session, on one transport at a time, in a loop.

Invariants: the session decides, the peer only carries: bytes in, bytes out, the time, and what happened to
the handler; what waits for the socket is bounded by one `transmit`; a transport that breaks suspends the
session, and another may be attached; nothing is called on a peer after `closed`. An exception, of the
session, the handler or the transport, ends this session with an ERROR to the other side, and no other
(`loop.contained`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from kwire.errors import KwireError
from kwire.transport.loop import Loop, Timer, contained
from kwire.transport.tcp import Buffer, Transport
from kwire.wire.session import (
    Abandoned,
    Changed,
    Complained,
    Delivered,
    Replied,
    Requested,
    Role,
    Session,
    State,
)

CHUNK = 1 << 18
"""Bytes asked of the session at a time; only asked when the ones before have left."""

TURN = 1 << 20
"""Bytes sent to one peer before the others have their turn."""


class Handler:
    """The owner of a session, who is told what happens to it; of what it does not define, nothing is done."""

    def established(self, peer: Peer) -> None:
        """The session is up: for the first time, or again."""

    def delivered(self, peer: Peer, sequence: int, payload: Buffer) -> None:
        """DATA in order; `payload` is valid during the call only. Call `session.consumed` once it is safe."""

    def requested(self, peer: Peer, number: int, body: Mapping[str, Any]) -> None:
        """A REQUEST; answer with `session.reply(number, …)`."""

    def replied(self, peer: Peer, number: int, body: Mapping[str, Any]) -> None:
        """The REPLY to our request."""

    def writable(self, peer: Peer) -> None:
        """The send queue has room again, after it had too little."""

    def changed(self, peer: Peer, old: State, new: State, why: str) -> None:
        """Every change of the state."""

    def complained(self, peer: Peer, problem: object) -> None:
        """The other side broke the protocol or says we did; or the transport has a problem: then a text."""

    def failed(self, peer: Peer) -> None:
        """Something raised an exception while this session was served; `closed` comes next."""

    def closed(self, peer: Peer, why: str) -> None:
        """The session has ended, for good."""

    def unwanted(self, session: Session) -> None:
        """A HELLO that was given this session is refused after all, as there are too many: where it was made
        for that HELLO, nobody comes for it.
        """


class Peer:
    """One session, on one transport at a time. `session`, `handler` and `loop` may be used by anybody."""

    __slots__ = (
        "_again",
        "_backlog",
        "_busy",
        "_drop",
        "_soon",
        "_tight",
        "_timer",
        "_why",
        "abandoned",
        "address",
        "broken_off",
        "closing",
        "ended",
        "handler",
        "host",
        "identity",
        "inside",
        "loop",
        "on_detached",
        "on_ended",
        "proven",
        "session",
        "transport",
        "was_up",
    )

    def __init__(self, loop: Loop, session: Session, handler: Handler) -> None:
        self.loop = loop
        self.session = session
        self.handler = handler
        self.transport: Transport | None = None
        self.identity = ""
        """Who the other end proved to be: a certificate's name, "uid:N" on a Unix socket, or ""."""
        self.proven = ""
        """The same with the kind of transport that proved it, as in "tls web1"; a resumption must match."""
        self.address = ""
        """The other end, as `Address` writes it; the last one while there is no transport."""
        self.host = ""
        """What a listener's limits count it by."""
        self.closing = False
        """`close` was called."""
        self.broken_off = False
        """`fail` was called: the other side may come back."""
        self.ended = False
        """`closed` was told to the handler."""
        self.was_up = False
        """The session was established over the present transport, or the last one."""
        self.abandoned: list[int] = []
        """Sequence numbers that were never acknowledged; known when `closed` is called."""
        self.on_detached: Callable[[Peer, str], None] | None = None  # for whoever keeps us connected
        self.on_ended: Callable[[Peer, str], None] | None = None
        self._backlog: list[Buffer] = []
        self._timer: Timer | None = None
        self._busy = False
        self._again = False
        self._soon = False
        self._drop: str | None = None  # the session gave its transport up, and why
        self._tight = False  # the send queue had too little room when last looked at
        self._why = ""
        self.inside = False

    @contained
    def do(self, what: Callable[[], object]) -> None:
        """Call something that concerns this session alone, such as a timer's callback."""
        what()

    def failed(self, error: Exception) -> None:
        """End it, after what it raised was told."""
        self._surely(lambda: self.handler.failed(self))
        self.fail(error.cause if isinstance(error, KwireError) else "it failed at this session")

    def fail(self, why: str) -> None:
        """Say ERROR, and end: what the other side has not been told to be stored, it keeps."""
        self.broken_off = True
        if not self.ended and self.transport is not None:
            with contextlib.suppress(Exception):  # the session itself may be what failed
                self.session.fail(self.loop.now(), why)
                self.transport.send([*self._backlog, *self.session.transmit(CHUNK)])
        self.end(why)

    @contained
    def attach(self, transport: Transport) -> None:
        """Carry the session on `transport` from now on; one that there was is closed."""
        self.detach("replaced by a newer connection")
        if self.ended:
            transport.close()
            return
        self.transport = transport
        self.was_up = False
        self.identity = transport.identity
        self.proven = proven(transport)
        self.address = transport.name
        transport.open(self)
        self.session.connected(self.loop.now())
        self.flush()

    @contained
    def detach(self, why: str = "") -> None:
        """Close the transport; the session is suspended, or what its state says."""
        if self.transport is not None:
            self.transport.close()
            self.transport = None
            self._backlog = []
            self.session.disconnected(self.loop.now(), why)
            self.flush()

    @contained
    def flush(self) -> None:
        """Send what is to be sent and tell the handler what happened; call after giving the session anything.

        Within a handler's call it is done as soon as that returns.
        """
        if self._busy:
            self._again = True
            return
        if self.ended:
            return
        self._busy = True
        try:
            self._work()
        finally:
            self._busy = False
        if self.session.over and not (self._backlog and self.transport):
            self.end(self._why)
        elif not self.ended:
            self._schedule()

    @contained
    def close(self, reason: str = "done") -> None:
        """End the session in order; `closed` is told when everything is acknowledged, or it has expired."""
        self.closing = True
        self.session.close(self.loop.now(), reason)
        self.flush()

    def end(self, why: str) -> None:
        """Forget the session as it is, and tell `closed`; its transport is closed after what was sent."""
        if self.ended:
            return
        self.ended = True
        self.loop.cancel(self._timer)
        self._timer = None
        transport, self.transport = self.transport, None
        self._backlog = []
        if transport is not None:
            self._surely(lambda: transport.finish(_Farewell(self.loop, self.session, transport)))
        if not self._surely(lambda: self.handler.closed(self, why)):
            self._surely(lambda: self.handler.failed(self))
        if self.on_ended is not None:
            self.on_ended(self, why)

    # ------------------------------------------------------------------ what a transport calls

    @contained
    def received(self, data: memoryview) -> None:
        """Give the session what came; its deliveries are told at once, while their bytes are there."""
        self.session.receive(data, self.loop.now())
        if self._busy:
            return
        self._busy = True
        try:
            self._tell()
        finally:
            self._busy = False

    @contained
    def settled(self) -> None:
        """Answer what came."""
        self.flush()

    @contained
    def writable(self) -> None:
        """Send on."""
        self.flush()

    @contained
    def broken(self, why: str) -> None:
        """The transport is gone."""
        self.transport = None
        self._backlog = []
        why = why or "the other side closed the connection"
        self.session.disconnected(self.loop.now(), why)
        self.flush()
        if self.on_detached is not None and not self.ended:
            self.on_detached(self, why)

    # ------------------------------------------------------------------ inside

    def _surely(self, step: Callable[[], None]) -> bool:
        """A step of the end: whether it fails or not, the next one is taken; False where it failed."""
        try:
            step()
        except Exception as error:
            self.loop.contain(error, self.who)
            return False
        return True

    @property
    def who(self) -> str:
        """Whom a failure concerns."""
        return f"session of {self.address or 'nobody'}"

    def _work(self) -> None:
        """Tell and send until neither leads to more."""
        self._tell()
        while True:
            self._again = False
            self._send()
            if not (self._tell() | self._look_at_room() | self._again):
                break
        if self._drop is not None:
            why, self._drop = self._drop, None
            if self.transport is not None:
                self.transport.close()
                self.transport = None
                self._backlog = []
                if self.on_detached is not None:
                    self.loop.soon(lambda: self.on_detached and self.on_detached(self, why))

    def _tell(self) -> bool:
        """Tell the handler everything that happened; whether anything did."""
        happened = self.session.session_events()
        for session_event in happened:
            match session_event:
                case Delivered(sequence, payload):
                    self.handler.delivered(self, sequence, payload)
                case Requested(number, body):
                    self.handler.requested(self, number, body)
                case Replied(number, body):
                    self.handler.replied(self, number, body)
                case Changed(old, new, why):
                    self._why = why
                    if new is State.SUSPENDED and self.transport is not None:
                        self._drop = why
                    self.handler.changed(self, old, new, why)
                    if new is State.ESTABLISHED:
                        self.was_up = True
                        self.handler.established(self)
                case Abandoned(sequences):
                    self.abandoned.extend(sequences)
                case Complained():
                    self.handler.complained(self, session_event)
        return bool(happened)

    def _send(self) -> None:
        """Send until there is no more, the socket is full, or others should have their turn."""
        left = TURN
        while self.transport is not None and self._drop is None:
            if not self._backlog:
                self._backlog = self.session.transmit(CHUNK, self.loop.now())
                left -= CHUNK
                if not self._backlog:
                    return
            self._backlog = self.transport.send(self._backlog)
            if self._backlog:
                return
            if left <= 0:
                if not self._soon:
                    self._soon = True
                    self.loop.soon(self._go_on)
                return

    @contained
    def _go_on(self) -> None:
        self._soon = False
        self.flush()

    def _look_at_room(self) -> bool:
        """Tell the handler when the send queue has room again; whether it was told."""
        if self.session.role is not Role.SOURCE:
            return False
        low = min(1 << 16, self.session.settings.memory >> 2)
        if not self._tight or self.session.room < 2 * low:
            self._tight = self._tight or self.session.room < low
            return False
        self.handler.writable(self)
        self._tight = self.session.room < low
        return True

    def _schedule(self) -> None:
        """Set a timer for the session's next deadline, unless an earlier one is set."""
        when = self.session.deadline()
        if when is None or (self._timer is not None and self._timer.callback and self._timer.when <= when):
            return
        self.loop.cancel(self._timer)
        self._timer = self.loop.at(when, self._tick)

    @contained
    def _tick(self) -> None:
        self._timer = None
        when = self.session.deadline()
        if when is not None and when <= self.loop.now():
            self.session.tick(self.loop.now())
        self.flush()


def proven(transport: Transport) -> str:
    """Who is at the other end, and by what kind of transport that was proven."""
    return f"{transport.name.partition(':')[0]} {transport.identity}"


class _Farewell:
    """Answers what still comes for an ended session: a datagram with the last ACK may have been lost."""

    __slots__ = ("_loop", "_session", "_transport")

    def __init__(self, loop: Loop, session: Session, transport: Transport) -> None:
        self._loop = loop
        self._session = session
        self._transport = transport

    def received(self, data: memoryview) -> None:
        """Let the session answer."""
        self._session.receive(data, self._loop.now())

    def settled(self) -> None:
        """Send the answer; what does not fit is lost."""
        self._session.session_events()
        self._transport.send(self._session.transmit(CHUNK))

    def writable(self) -> None:
        """Nothing waits."""

    def broken(self, why: str) -> None:
        """The transport is gone already."""
