"""Listening: who comes is heard out, within limits, and becomes the peer of a session.

The laws: nobody has a session before a whole HELLO, and over datagrams before the cookie; who says nothing,
or says it slowly, is dropped after `half_open_seconds`, and sooner when too many do; limits count for each
address (of IPv6 its /64) and in all; a connection that resumes takes over from the one before only with the
same identity; whatever one stranger does, the others are served.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from kwire.errors import KwireError
from kwire.stream.address import Address, SockAddress, check_secure, name_of
from kwire.stream.bind import bind, inode, origin
from kwire.stream.datagram import Cookies, DatagramServer, ServedTransport
from kwire.stream.loop import READ, Loop, Timer
from kwire.stream.peer import Handler, Peer
from kwire.stream.transport import Buffer, StreamTransport, TlsTransport, Transport, prepare, unix_identity
from kwire.stream.watch import Watch
from kwire.wire.control import Hello, hello_problem, peek_hello, refusal
from kwire.wire.frame import Flag
from kwire.wire.session import Session, State

if TYPE_CHECKING:
    import ssl

    from kwire.stream.tls import Handshake, TlsOptions

ACCEPTS = 16
"""Connections taken for one readiness."""

GRACE = 2.0
"""Seconds that a connection has for its HELLO even where too many want to say one."""

PAUSE = 0.5
"""Seconds without accepting when the process is out of descriptors."""


class Limits(NamedTuple):
    """How much strangers may take."""

    sessions: int = 4096  # in all
    per_address: int = 2048  # sessions of one address
    half_open: int = 512  # connections that have not said HELLO yet, in all
    half_open_per_address: int = 256
    half_open_seconds: float = 10.0  # from connecting to HELLO, the TLS handshake included
    refusals: int = 100  # answers a second to those who get no session


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
) -> Listener:
    """Listen on all addresses of `address`; port 0 takes a free one: see `listener.address`.

    `mode` is that of a Unix socket. Raises KwireError where it cannot be listened there, or must not.
    """
    check_secure(address, insecure)
    context = None
    if address.kind == "tls":
        from kwire.stream.tls import server_context  # here, so that others do without ssl

        context = server_context(tls)
    sockets = bind(address, mode)
    return Listener(loop, address, sockets, choose, handler_for, context, limits, watch)


class Listener:
    """What `listen` gives: `address` with the port it has, `peers` that have a session, `close`."""

    __slots__ = (
        "_choose",
        "_context",
        "_cookies",
        "_counts",
        "_greetings",
        "_handler_for",
        "_inode",
        "_refusals",
        "_second",
        "_servers",
        "_sockets",
        "_waiting",
        "_watch",
        "address",
        "limits",
        "loop",
        "peers",
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
    ) -> None:
        self.loop = loop
        self.address = address
        if sockets and address.kind != "unix":
            self.address = address._replace(port=sockets[0].getsockname()[1])
        self.limits = limits
        self.peers: dict[Session, Peer] = {}
        """The peers of sessions that have not ended, with a connection or without."""
        self._counts: dict[str, int] = {}  # of the peers, by origin
        self._waiting: dict[str, int] = {}  # of those that have not said HELLO, by origin
        self._choose = choose
        self._handler_for = handler_for
        self._context = context
        self._watch = watch
        self._greetings: dict[Greeting, None] = {}  # the oldest first
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

    def close(self) -> None:
        """Listen no more, and drop who has no session yet. Peers stay; over UDP they lose their transport."""
        if self._inode is not None and inode(self.address.path) == self._inode:
            os.unlink(self.address.path)
        for greeting in list(self._greetings):
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
        if not self._make_room(host):
            connected.close()
            return
        self._greetings[Greeting(self, connected, self._context, name, host, identity)] = None
        _count(self._waiting, host, 1)

    def _accept_on(self, sockets: list[socket.socket]) -> None:
        for bound in sockets:
            if bound.fileno() >= 0:
                self.loop.add(bound.fileno(), READ, partial(self._accept, bound))

    def _accept(self, bound: socket.socket, mask: int) -> None:
        for _ in range(ACCEPTS):
            try:
                connected, _ = bound.accept()
                self.adopt(connected)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self.loop.remove(bound.fileno())
                    self.loop.at(self.loop.now() + PAUSE, lambda: self._accept_on([bound]))
                    return
                # any other is of that one connection: it has gone already

    def _make_room(self, host: str) -> bool:
        """Whether one more may be heard out. Where there are too many, the oldest gives way if it had time
        enough; if not, it is a crowd, and those who were first are served first.
        """  # fmt: skip
        if self._waiting.get(host, 0) >= self.limits.half_open_per_address:
            oldest = next(greeting for greeting in self._greetings if greeting.host == host)
        elif len(self._greetings) >= self.limits.half_open:
            oldest = next(iter(self._greetings))
        else:
            return True
        if self.loop.now() - oldest.began < GRACE:
            return False
        oldest.drop()
        return True

    def note(self, name: str, data: Buffer, effect: str) -> None:
        """Show what a stranger said, where somebody watches."""
        if self._watch:
            self._watch.stranger(name, data, effect)

    def forget(self, greeting: Greeting) -> None:
        """It has been heard out, or dropped."""
        if greeting in self._greetings:
            del self._greetings[greeting]
            _count(self._waiting, greeting.host, -1)

    # ------------------------------------------------------------------ datagrams

    def _serve(self, bound: socket.socket) -> DatagramServer:
        server = DatagramServer(self.loop, bound, lambda data, place: self._stranger(server, data, place))
        return server

    def _stranger(self, server: DatagramServer, data: memoryview, place: SockAddress) -> None:
        """A datagram from an address without a session: only a HELLO is answered."""
        name = name_of("udp", place)
        hello = peek_hello(data)
        if hello is None:
            self.note(name, data, "nothing: a stranger may only say HELLO")
        elif self._cookies.good(hello, place):
            why = self.admit(hello, bytes(data), ServedTransport(server, place), origin(place))
            if why and self.may_refuse():
                server.send(refusal(hello, why, Flag.CHECKSUM), place)
        else:
            challenge = self._cookies.challenge(hello, place)
            if len(challenge) <= len(data):
                server.send(challenge, place)
                self.note(name, data, "its address is to be proven: WELCOME with a cookie is sent")
            else:
                self.note(name, data, "nothing: an answer would be longer")

    # ------------------------------------------------------------------ sessions

    def admit(self, hello: Hello, heard: bytes, transport: Transport, host: str) -> str:
        """Give the one that said `hello` its session, and that what was `heard`; or say why not."""
        try:
            session = self._choose(hello, transport.identity, transport.name)
            why = self._objection(session, transport, host)
        except KwireError as error:
            session, why = None, error.cause
        if session is None or why:
            why = why or "not wanted here"
            self.note(transport.name, heard, f"it gets no session: {why}")
            return why
        peer = self.peers.get(session)
        if peer is None:
            peer = Peer(self.loop, session, self._handler_for(session))
            peer.host = host
            peer.on_ended = self._ended
            self.peers[session] = peer
            _count(self._counts, host, 1)
            if self._watch:
                self._watch.follow(peer)
        peer.attach(transport)
        peer.received(memoryview(heard))
        peer.settled()
        if session.state is State.LISTENING:  # it wanted to resume what is not known, and was told so
            peer.end("it is not known here")
        return ""

    def _objection(self, session: Session | None, transport: Transport, host: str) -> str:
        """Why this session may not be had over this transport; empty where it may."""
        peer = self.peers.get(session) if session else None
        if peer is not None:
            return "" if peer.identity == transport.identity else "the session is another's"
        if len(self.peers) >= self.limits.sessions:
            return "too many sessions"
        if self._counts.get(host, 0) >= self.limits.per_address:
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
        if self.peers.pop(peer.session, None) is not None:
            _count(self._counts, peer.host, -1)


class Greeting:
    """A connection that has not said a whole HELLO yet: the handshake of TLS, then the first bytes."""

    __slots__ = ("_handshake", "_heard", "_listener", "_name", "_timer", "_transport", "began", "host")

    def __init__(
        self,
        listener: Listener,
        connected: socket.socket,
        context: ssl.SSLContext | None,
        name: str,
        host: str,
        identity: str,
    ) -> None:
        loop = listener.loop
        self._listener = listener
        self._heard = bytearray()
        self._name = name
        self.host = host
        self.began = loop.now()
        self._handshake: Handshake | None = None
        self._transport: StreamTransport | None = None
        self._timer: Timer | None = loop.at(loop.now() + listener.limits.half_open_seconds, self.drop)
        if context is None:
            self._transport = StreamTransport(loop, connected, name, identity)
            self._transport.open(self)
        else:
            from kwire.stream.tls import Handshake

            self._handshake = Handshake(loop, connected, context, None, self._shaken, self._unshaken)

    def drop(self) -> None:
        """Close the connection."""
        self._end()
        if self._handshake is not None:
            self._handshake.cancel()
        if self._transport is not None:
            self._transport.close()

    def _end(self) -> None:
        self._listener.loop.cancel(self._timer)
        self._listener.forget(self)

    def _shaken(self, connected: ssl.SSLSocket) -> None:
        from kwire.stream.tls import identity

        self._handshake = None
        self._transport = TlsTransport(self._listener.loop, connected, self._name, identity(connected))
        self._transport.open(self)

    def _unshaken(self, why: str) -> None:
        self._handshake = None
        self._end()

    # ------------------------------------------------------------------ what a transport calls

    def received(self, data: memoryview) -> None:
        """Collect the HELLO; whatever cannot be one ends it."""
        self._heard += data
        problem = hello_problem(self._heard)
        if problem is not None:
            self._listener.note(self._name, self._heard, f"it is no HELLO: {problem}; closed")
            self.drop()
            return
        hello = peek_hello(self._heard)
        if hello is None:
            return
        self._end()
        transport, self._transport = self._transport, None
        assert transport is not None
        why = self._listener.admit(hello, bytes(self._heard), transport, self.host)
        if not why:
            return
        if self._listener.may_refuse():
            transport.send([refusal(hello, why)])
        transport.finish()

    def settled(self) -> None:
        """Nothing is answered before the HELLO."""

    def writable(self) -> None:
        """Nothing is sent before the HELLO."""

    def broken(self, why: str) -> None:
        """It has gone."""
        self._transport = None
        self._end()


def _count(counts: dict[str, int], host: str, change: int) -> None:
    """Change a count; none is kept at 0."""
    counts[host] = counts.get(host, 0) + change
    if not counts[host]:
        del counts[host]
