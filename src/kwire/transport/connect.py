"""One peer kept connected to an address: names, attempts, back-off, resumption.

Invariants: nothing waits: a name server is asked in a thread of its own, which does nothing else; all
addresses of a name are tried in turn; pauses between attempts double up to `LONGEST`; a session goes on over
the next connection until it ends; then, if more is wanted, a new session begins.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from kwire.errors import KwireError
from kwire.transport.address import (
    Address,
    SockAddress,
    check_secure,
    is_numeric,
    name_of,
    resolve,
)
from kwire.transport.frame_log import Watch
from kwire.transport.loop import READ, WRITE, Loop, Timer, contained, described
from kwire.transport.peer import Handler, Peer
from kwire.transport.tcp import StreamTransport, TlsTransport, Transport, prepare, reason, unix_identity
from kwire.transport.udp import DatagramTransport
from kwire.wire.session import Session

if TYPE_CHECKING:
    import ssl

    from kwire.transport.tls import Handshake, TlsOptions

PATIENCE = 10.0
"""Seconds for each step of an attempt: connecting, and the handshake of TLS; until HELLO is answered."""

SHORTEST = 0.25
LONGEST = 15.0
"""Seconds between two rounds of attempts: doubled from the shortest to the longest, then a little less."""


class CertificateError(KwireError):
    """One side's certificate is not good for the other: trying again does not mend it, another one does."""


def connect(
    loop: Loop,
    address: Address,
    make_session: Callable[[], Session | None],
    handler: Handler,
    tls: TlsOptions | None = None,
    insecure: bool = False,
    retry: bool = True,
    watch: Watch | None = None,
    troubled: Callable[[KwireError], None] | None = None,
    context: ssl.SSLContext | None = None,
) -> Connector:
    """Keep a peer connected to `address`. Its first session is made at once: `connector.peer`.

    `make_session` is asked for another when one has ended (not when we ended it); None ends it all. With
    `retry` off the first connection must come about in one round of attempts, and there is one session only.
    `troubled` hears of every attempt that failed. `context` stands for `tls` where that was read before.
    Raises KwireError where the address must not be used, or the certificates cannot be.
    """
    check_secure(address, insecure)
    if address.kind != "unix" and not address.host:
        raise KwireError("connect to", str(address), "it has no host", f"write {address.kind}:HOST")
    if address.kind == "tls" and context is None:
        from kwire.transport.tls import client_context  # here, so that others do without ssl

        context = client_context(tls)
    return Connector(loop, address, make_session, handler, context, insecure, retry, watch, troubled)


class Connector:
    """What `connect` gives: `peer` now, `problem` of the last attempt (None: it went well), `close`."""

    __slots__ = (
        "_attempt",
        "_handler",
        "_handshake",
        "_insecure",
        "_make_session",
        "_pause",
        "_places",
        "_reached",
        "_retry",
        "_timer",
        "_troubled",
        "_watch",
        "address",
        "closed",
        "context",
        "inside",
        "loop",
        "peer",
        "problem",
    )

    def __init__(
        self,
        loop: Loop,
        address: Address,
        make_session: Callable[[], Session | None],
        handler: Handler,
        context: ssl.SSLContext | None,
        insecure: bool,
        retry: bool,
        watch: Watch | None,
        troubled: Callable[[KwireError], None] | None,
    ) -> None:
        self.loop = loop
        self.inside = False
        self.address = address
        self.problem: KwireError | None = None
        self.closed = False
        """No more attempts and no more sessions."""
        self._make_session = make_session
        self._handler = handler
        self.context = context
        self._insecure = insecure
        self._retry = retry
        self._watch = watch
        self._troubled = troubled
        self._places: list[tuple[int, SockAddress]] = []  # still to be tried in this round
        self._attempt: socket.socket | None = None
        self._handshake: Handshake | None = None
        self._timer: Timer | None = None  # of the attempt, or of the pause
        self._pause = SHORTEST
        self._reached = False  # by a peer before this one
        session = make_session()
        if session is None:
            raise ValueError("no session to connect")
        self.peer = self._new_peer(session)
        loop.soon(self._begin)

    @property
    def reached(self) -> bool:
        """Whether there was ever a session."""
        return self._reached or self.peer.was_up

    @property
    def who(self) -> str:
        """Whom a failure concerns."""
        return f"connection to {self.address}"

    def failed(self, error: Exception) -> None:
        """An attempt failed in a way that nobody thought of: another one after a pause."""
        if not self.closed:
            self._trouble(described(error))
            self._wait()

    def renew(self, context: ssl.SSLContext) -> None:
        """Show another certificate from the next connection on; only over TLS."""
        self.context = context

    def close(self) -> None:
        """No more attempts and no further sessions; a connection that is up stays, for what is to be sent."""
        self.closed = True
        self._give_up_attempt()

    def _new_peer(self, session: Session) -> Peer:
        peer = Peer(self.loop, session, self._handler)
        peer.address = str(self.address)
        peer.on_detached = self._detached
        peer.on_ended = self._ended
        if self._watch:
            self._watch.follow(peer)
        return peer

    # ------------------------------------------------------------------ when to try

    @contained
    def _detached(self, peer: Peer, why: str) -> None:
        """The connection broke, or never led to a session: then another address may do better."""
        if peer is not self.peer or self.closed:
            return
        problem = self._trouble(why, lost=peer.was_up)
        if peer.was_up:
            self._pause = SHORTEST
            self._wait()
        elif self._places:
            self.loop.soon(self._next)
        else:
            self._failed_round(problem)

    @contained
    def _ended(self, peer: Peer, why: str) -> None:
        if peer is not self.peer:
            return
        self._give_up_attempt()
        if self.closed or peer.closing or not self._retry:
            self.closed = True
            return
        session = self._make_session()
        if session is None:
            self.closed = True
            return
        self._reached = self.reached
        self.peer = self._new_peer(session)
        self._wait()

    def _wait(self) -> None:
        """Begin the next round after a pause; pauses of many peers do not stay in step."""
        self._give_up_attempt()
        jitter = 1 - os.urandom(1)[0] / 1024
        self._timer = self.loop.at(self.loop.now() + self._pause * jitter, self._begin)
        self._pause = min(2 * self._pause, LONGEST)

    @contained
    def _begin(self) -> None:
        self._timer = None
        if self.closed or self.peer.ended or self.peer.transport is not None:
            return
        if is_numeric(self.address):
            self._resolved(resolve(self.address))
        else:
            _Lookup(self.loop, self.address, self._resolved, self._failed_round)

    @contained
    def _resolved(self, places: list[tuple[int, SockAddress]]) -> None:
        self._places = places
        self._next()

    @contained
    def _next(self) -> None:
        """Try the next address; after the last one the round has failed."""
        self._give_up_attempt()
        if self.closed or self.peer.ended or self.peer.transport is not None:
            return
        if not self._places:
            assert self.problem is not None
            self._failed_round(self.problem)
            return
        family, place = self._places.pop(0)
        try:
            self._check(family, place)
        except KwireError as error:
            self._failed(error.cause)
            return
        self._try(family, place)

    def _check(self, family: int, place: SockAddress) -> None:
        """A name that was let pass as this machine's must be that."""
        if family != socket.AF_UNIX and not self._insecure:
            check_secure(self.address._replace(host=str(place[0]).partition("%")[0]), False)

    # ------------------------------------------------------------------ one attempt

    def _try(self, family: int, place: SockAddress) -> None:
        kind = socket.SOCK_DGRAM if self.address.datagrams else socket.SOCK_STREAM
        try:
            attempt = socket.socket(family, kind)
            attempt.setblocking(False)
            status = attempt.connect_ex(place)
        except OSError as error:
            self._failed(reason(error))
            return
        if status not in (0, errno.EINPROGRESS):
            attempt.close()
            self._failed(os.strerror(status))
            return
        name = name_of(self.address.kind, place)
        if self.address.datagrams:
            self._up(DatagramTransport(self.loop, attempt, name))
            return
        self._attempt = attempt
        self._timer = self.loop.at(self.loop.now() + PATIENCE, lambda: self._failed("no answer"))
        self.loop.add(attempt.fileno(), WRITE, lambda mask: self._connected(attempt, name))

    @contained
    def _connected(self, attempt: socket.socket, name: str) -> None:
        status = attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self.loop.remove(attempt.fileno())
        if status:
            self._failed(os.strerror(status))
            return
        self._attempt = None
        prepare(attempt)
        if self.context is None:
            identity = unix_identity(attempt) if self.address.kind == "unix" else ""
            self._up(StreamTransport(self.loop, attempt, name, identity))
            return
        from kwire.transport.tls import Handshake
        from kwire.transport.tls import identity as identity_of

        self._handshake = Handshake(
            self.loop,
            attempt,
            self.context,
            self.address.host.partition("%")[0],
            lambda done: self._up(TlsTransport(self.loop, done, name, identity_of(done))),
            self._failed,
        )

    @contained
    def _up(self, transport: Transport) -> None:
        self._handshake = None
        self._give_up_attempt()
        self.problem = None
        self.peer.attach(transport)
        if self.peer.transport is transport:
            self._timer = self.loop.at(self.loop.now() + PATIENCE, lambda: self._unanswered(transport))

    @contained
    def _unanswered(self, transport: Transport) -> None:
        """Its socket keeps the address that this machine had when it was made: another one may do better."""
        if self.peer.transport is transport and not self.peer.was_up:
            transport.close()
            self.peer.broken("no answer")

    @contained
    def _failed(self, why: str) -> None:
        """One address did not answer: the next one."""
        self._give_up_attempt()
        self._trouble(why)
        self.loop.soon(self._next)

    @contained
    def _failed_round(self, problem: KwireError) -> None:
        if problem is not self.problem:
            self.loop.count("connect", "name")
            self.problem = problem
            if self._troubled:
                self._troubled(problem)
        if self._retry or self.peer.session.known:
            self._wait()
        else:
            self.closed = True
            self.peer.end(str(problem))

    def _trouble(self, why: str, lost: bool = False) -> KwireError:
        """Tell of an attempt that failed, or of a connection that was `lost` after it had come about."""
        text = why[:1].lower() + why[1:]
        kind = CertificateError if certificate_trouble(why) else KwireError
        if not lost:
            refused = "refused" if why.startswith("refused: ") else "unreachable"
            self.loop.count("connect", "certificate" if kind is CertificateError else refused)
        self.problem = kind("connect to", str(self.address), text, _cure(why))
        if self._troubled:
            self._troubled(self.problem)
        return self.problem

    def _give_up_attempt(self) -> None:
        self.loop.cancel(self._timer)
        self._timer = None
        if self._handshake is not None:
            self._handshake.cancel()
            self._handshake = None
        if self._attempt is not None:
            self.loop.remove(self._attempt.fileno())
            self._attempt.close()
            self._attempt = None


def _cure(why: str) -> str:
    if certificate_trouble(why):
        return "both sides need certificates of one CA, good for the names that are connected to"
    return "is it running there?" if why.endswith("refused") or "No such file" in why else ""


def certificate_trouble(why: str) -> bool:
    """Whether it is a certificate that keeps the two sides apart, theirs or ours."""
    return "certificate" in why


class _Lookup:
    """A question to a name server, asked by a thread, since getaddrinfo(3) waits; answered in the loop."""

    __slots__ = ("_answer", "_done", "_failed", "_loop", "_wake")

    def __init__(
        self,
        loop: Loop,
        address: Address,
        done: Callable[[list[tuple[int, SockAddress]]], None],
        failed: Callable[[KwireError], None],
    ) -> None:
        import threading

        self._loop = loop
        self._done = done
        self._failed = failed
        self._answer: list[tuple[int, SockAddress]] | KwireError | None = None
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        loop.add(self._wake, READ, self._answered)
        threading.Thread(target=self._ask, args=(address,), daemon=True).start()

    def _ask(self, address: Address) -> None:
        try:
            self._answer = resolve(address)
        except KwireError as error:
            self._answer = error
        os.eventfd_write(self._wake, 1)

    def _answered(self, mask: int) -> None:
        self._loop.remove(self._wake)
        os.close(self._wake)
        if isinstance(self._answer, KwireError):
            self._failed(self._answer)
        elif self._answer is not None:
            self._done(self._answer)
