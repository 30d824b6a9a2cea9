"""Listening: who comes is heard out, within limits, and becomes the peer of a session.

Invariants: nobody has a session before a whole HELLO, and over datagrams before the cookie; who says nothing,
or says it slowly, is dropped after `half_open_seconds`, and sooner when too many do (`crowd`); limits count
for each address (of IPv6 its /64) and in all; a connection that resumes takes over from the one before only
by the same kind of transport and with the same identity; whatever one stranger does, the others are served,
and who gets no session is told of in a line.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from kwire.errors import KwireError
from kwire.transport.address import Address, SockAddress, check_secure, name_of
from kwire.transport.bind import bind, inode, origin
from kwire.transport.frame_log import Watch
from kwire.transport.half_open import HalfOpen, Limits, Roster
from kwire.transport.log_events import Log
from kwire.transport.loop import READ, Loop, Timer, contained
from kwire.transport.peer import Handler, Peer, proven
from kwire.transport.tcp import Buffer, StreamTransport, TlsTransport, Transport, prepare, unix_identity
from kwire.transport.udp import Cookies, DatagramServer, ServedTransport
from kwire.wire.control import Hello, hello_problem, no_common_version, peek_hello, refusal, superseded
from kwire.wire.frame import Flag
from kwire.wire.session import Session, State

if TYPE_CHECKING:
    import ssl

    from kwire.transport.tls import Handshake, TlsOptions

ACCEPTS = 16
"""Connections taken for one readiness."""

PAUSE = 0.5
"""Seconds without accepting when the process is out of descriptors."""


class SupersededError(KwireError):
    """Another copy of the source has gone on with its session: it is over for this one."""


Choose = Callable[[Hello, str, str], Session | None]
"""(HELLO, identity, address) → the session that it begins or resumes; None, or a KwireError whose cause is
told to the other side: it gets none."""


def listen(
    loop: Loop,
    address: Address,
    choose: Choose,
    handler_for: Callable[[Session], Handler],
    tls: TlsOptions | None = None,
    insecure: bool = False,
    limits: Limits = Limits(),  # noqa: B008  # immutable
    watch: Watch | None = None,
    mode: int = 0o600,
    roster: Roster | None = None,
    said: Log | None = None,
) -> Listener:
    """Listen on all addresses of `address`; port 0 takes a free one: see `listener.address`.

    `mode` is that of a Unix socket. `roster`: one for all listeners that share their sessions. Raises
    KwireError where it cannot be listened there, or must not.
    """
    check_secure(address, insecure)
    context = None
    if address.kind == "tls":
        from kwire.transport.tls import server_context  # here, so that others do without ssl

        context = server_context(tls)
    sockets = bind(address, mode)
    roster = Roster() if roster is None else roster
    return Listener(loop, address, sockets, choose, handler_for, context, limits, watch, roster, said)


class Listener:
    """What `listen` gives: `address` with the port it has, `peers` that have a session, `close`."""

    __slots__ = (
        "_choose",
        "_context",
        "_cookies",
        "_half_open",
        "_handler_for",
        "_inode",
        "_refusals",
        "_roster",
        "_said",
        "_second",
        "_servers",
        "_sockets",
        "_watch",
        "address",
        "limits",
        "loop",
    )

    def __init__(
        self,
        loop: Loop,
        address: Address,
        sockets: list[socket.socket],
        choose: Choose,
        handler_for: Callable[[Session], Handler],
        context: ssl.SSLContext | None,
        limits: Limits,
        watch: Watch | None,
        roster: Roster,
        said: Log | None,
    ) -> None:
        self.loop = loop
        self.address = address
        if sockets and address.kind != "unix":
            self.address = address._replace(port=sockets[0].getsockname()[1])
        self.limits = limits
        self._roster = roster
        self._half_open = HalfOpen(limits, roster)
        self._said = said
        self._choose = choose
        self._handler_for = handler_for
        self._context = context
        self._watch = watch
        self._second = 0
        self._refusals = 0  # in this second
        self._cookies = Cookies(loop.now)
        self._sockets = sockets
        self._servers: list[DatagramServer] = []
        self._inode = inode(address.path) if address.kind == "unix" and sockets else None
        if address.datagrams:
            self._servers = [self._serve(bound) for bound in sockets]
        else:
            self._accept_on(sockets)

    @property
    def peers(self) -> dict[Session, Peer]:
        """The peers of sessions that have not ended, with a connection or without; of all that share them."""
        return self._roster.peers

    def renew(self, context: ssl.SSLContext) -> None:
        """Show another certificate to those who come from now on; only over TLS."""
        self._context = context

    def close(self) -> None:
        """Listen no more, and drop who has no session yet. Peers stay; over UDP they lose their transport."""
        if self._inode is not None and inode(self.address.path) == self._inode:
            with contextlib.suppress(OSError):  # who is nobody has somebody else do it
                os.unlink(self.address.path)
        for greeting in list(self._half_open.greetings):
            greeting.drop()
        for server in self._servers:
            server.close()
        for bound in self._sockets:
            if bound.fileno() >= 0:
                self.loop.remove(bound.fileno())
                bound.close()

    # ------------------------------------------------------------------ streams

    def adopt(self, connected: socket.socket) -> None:
        """Hear out a connection that somebody else accepted; the socket becomes ours."""
        place = connected.getpeername()
        prepare(connected)
        if connected.family == socket.AF_UNIX:
            identity = unix_identity(connected)
            name, host = f"unix:{self.address.path}", identity
        else:
            identity, name, host = "", name_of(self.address.kind, place), origin(place)
        now = self.loop.now()
        shakes = self._context is not None
        if (shakes and not self._half_open.may_shake(host, now)) or not self._half_open.make_room(host, now):
            connected.close()
            self.loop.count("handshake", "crowded")
            self.say(name, "too many want to say HELLO at once", "handshake")
            return
        self._half_open.add(
            Greeting(self, connected, self._context, name, host, identity, self._roster.knows(host))
        )

    def _accept_on(self, sockets: list[socket.socket]) -> None:
        for bound in sockets:
            if bound.fileno() >= 0:
                self.loop.add(bound.fileno(), READ, partial(self._accept, bound))

    def _accept(self, bound: socket.socket, mask: int) -> None:
        for _ in range(ACCEPTS):
            try:
                connected, _ = bound.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self.loop.remove(bound.fileno())
                    self.loop.at(self.loop.now() + PAUSE, lambda: self._accept_on([bound]))
                    return
                continue  # any other is of that one connection: it has gone already
            try:
                self.adopt(connected)
            except OSError:
                connected.close()  # it has gone
            except Exception as error:
                connected.close()
                self.loop.contain(error)

    def note(self, name: str, data: Buffer, effect: str) -> None:
        """Show what a stranger said, where somebody watches."""
        if self._watch:
            self._watch.stranger(name, data, effect)

    def say(self, name: str, why: str, event: str) -> None:
        """Tell of one that gets no session."""
        if self._said is not None:
            self._said(f"{name} gets no session: {why}", event)

    def forget(self, greeting: Greeting) -> None:
        """It has been heard out, or dropped."""
        self._half_open.remove(greeting)

    # ------------------------------------------------------------------ datagrams

    def _serve(self, bound: socket.socket) -> DatagramServer:
        def stranger(data: memoryview, place: SockAddress) -> None:
            try:
                self._stranger(server, data, place)
            except Exception as error:
                self.loop.contain(error)

        server = DatagramServer(self.loop, bound, stranger)
        return server

    def _stranger(self, server: DatagramServer, data: memoryview, place: SockAddress) -> None:
        """A datagram from an address without a session: only a HELLO is answered."""
        name = name_of("udp", place)
        hello = peek_hello(data)
        if hello is None:
            self.note(name, data, "nothing: a stranger may only say HELLO")
        elif self._cookies.good(hello, place):
            answer = self.admit(hello, bytes(data), ServedTransport(server, place), origin(place))
            if answer and self.may_refuse():
                server.send(answer, place)
        else:
            challenge = self._cookies.challenge(hello, place)
            if len(challenge) <= len(data):
                server.send(challenge, place)
                self.note(name, data, "its address is to be proven: WELCOME with a cookie is sent")
            else:
                self.note(name, data, "nothing: an answer would be longer")

    # ------------------------------------------------------------------ sessions

    def admit(self, hello: Hello, heard: bytes, transport: Transport, host: str) -> bytes:
        """Give the one that said `hello` its session, and that what was `heard`; or give a WELCOME that says
        why not.
        """
        refuse = refusal
        try:
            why = no_common_version(hello.versions)
            session = None if why else self._choose(hello, transport.identity, transport.name)
            why = why or self._objection(session, transport, host)
            if session is not None and why and session not in self.peers:
                self._handler_for(session).unwanted(session)
        except SupersededError as error:
            session, why, refuse = None, error.cause, superseded
        except KwireError as error:
            session, why = None, error.cause
        if session is None or why:
            why = why or "not wanted here"
            self.loop.count("session", "refused")
            self.note(transport.name, heard, f"it gets no session: {why}")
            self.say(transport.name, why, "refused")
            return refuse(hello, why, Flag.CHECKSUM if transport.datagrams else 0)
        peer = self.peers.get(session)
        if peer is None:
            peer = Peer(self.loop, session, self._handler_for(session))
            peer.host = host
            peer.on_ended = self._ended
            self._roster.add(peer)
            if self._watch:
                self._watch.follow(peer)
        if transport.identity:
            self._roster.know(host)
        peer.attach(transport)
        peer.received(memoryview(heard))
        peer.settled()
        if session.state is State.LISTENING:  # it wanted to resume what is not known, and was told so
            peer.end("it is not known here")
        return b""

    def _objection(self, session: Session | None, transport: Transport, host: str) -> str:
        """Why this session may not be had over this transport; empty where it may."""
        if session is not None and (session.initiator or session.datagrams is not transport.datagrams):
            return "the session is another's"
        peer = self.peers.get(session) if session else None
        if peer is not None:
            return "" if self._roster.are_one(peer.proven, proven(transport)) else "the session is another's"
        if len(self.peers) >= self.limits.sessions:
            return "too many sessions"
        if self._roster.counts.get(host, 0) >= self.limits.per_address:
            return "too many sessions of this address"
        return ""

    def may_refuse(self) -> bool:
        """Whether one more answer to those who get no session is within the limit of this second."""
        second = int(self.loop.now())
        if second != self._second:
            self._second, self._refusals = second, 0
        self._refusals += 1
        return self._refusals <= self.limits.refusals

    def _ended(self, peer: Peer, why: str) -> None:
        self._roster.remove(peer)


class Greeting:
    """A connection that has not said a whole HELLO yet: the handshake of TLS, then the first bytes."""

    __slots__ = (
        "_handshake",
        "_heard",
        "_listener",
        "_name",
        "_timer",
        "_transport",
        "began",
        "host",
        "inside",
        "known",
        "loop",
    )

    def __init__(
        self,
        listener: Listener,
        connected: socket.socket,
        context: ssl.SSLContext | None,
        name: str,
        host: str,
        identity: str,
        known: bool,
    ) -> None:
        self.loop = loop = listener.loop
        self.inside = False
        self.known = known
        """Whether a peer of its address has proven who it is before."""
        self._listener = listener
        self._heard = bytearray()
        self._name = name
        self.host = host
        self.began = loop.now()
        self._handshake: Handshake | None = None
        self._transport: StreamTransport | None = None
        self._timer: Timer | None = loop.at(loop.now() + listener.limits.half_open_seconds, self._late)
        if context is None:
            self._transport = StreamTransport(loop, connected, name, identity)
            self._transport.open(self)
        else:
            from kwire.transport.tls import Handshake

            self._handshake = Handshake(loop, connected, context, None, self._shaken, self._unshaken)

    @property
    def who(self) -> str:
        """Whom a failure concerns."""
        return f"stranger {self._name}"

    def failed(self, error: Exception) -> None:
        """Nothing can be done with this one."""
        self.drop()

    def _late(self) -> None:
        self.loop.count("handshake", "late")
        self._listener.say(self._name, "it said no HELLO in time", "handshake")
        self.drop()

    def drop(self) -> None:
        """Close the connection."""
        self._end()
        if self._handshake is not None:
            self._handshake.cancel()
        if self._transport is not None:
            self._transport.close()

    def _end(self) -> None:
        self.loop.cancel(self._timer)
        self._listener.forget(self)

    @contained
    def _shaken(self, connected: ssl.SSLSocket) -> None:
        from kwire.transport.tls import identity

        self._handshake = None
        self._transport = TlsTransport(self.loop, connected, self._name, identity(connected))
        self._transport.open(self)

    @contained
    def _unshaken(self, why: str) -> None:
        self._listener.say(self._name, why, "handshake")
        self._handshake = None
        self._end()

    # ------------------------------------------------------------------ what a transport calls

    @contained
    def received(self, data: memoryview) -> None:
        """Collect the HELLO; whatever cannot be one ends it."""
        self._heard += data
        problem = hello_problem(self._heard)
        if problem is not None:
            self.loop.count("handshake", "no_hello")
            self._listener.note(self._name, self._heard, f"it is no HELLO: {problem}; closed")
            self._listener.say(self._name, f"it said no HELLO: {problem}", "handshake")
            self.drop()
            return
        hello = peek_hello(self._heard)
        if hello is None:
            return
        self._end()
        transport, self._transport = self._transport, None
        assert transport is not None
        try:
            answer = self._listener.admit(hello, bytes(self._heard), transport, self.host)
        except Exception:
            transport.close()
            raise
        if not answer:
            return
        if self._listener.may_refuse():
            transport.send([answer])
        transport.finish()

    def settled(self) -> None:
        """Nothing is answered before the HELLO."""

    def writable(self) -> None:
        """Nothing is sent before the HELLO."""

    def broken(self, why: str) -> None:
        """It has gone."""
        self.loop.count("handshake", "cut")
        self._listener.say(
            self._name, f"before it said HELLO, {why}", "handshake" if self._heard else "stranger"
        )
        self._transport = None
        self._end()
