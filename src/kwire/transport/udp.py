"""Datagrams: a connected UDP socket for who connects; one bound socket with many peers for who listens.

Invariants: a frame a datagram; a datagram that the socket does not take is kept, in order, by its peer; what
the network cannot carry is lost, as datagrams are; who has not shown that it receives at its address (by the
cookie) gets one answer to one HELLO, not longer than that, and no memory is spent on it.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable
from functools import partial

from kwire.transport.address import SockAddress, name_of
from kwire.transport.loop import READ, WRITE, Loop
from kwire.transport.tcp import Buffer, Receiver, SocketTransport, reason
from kwire.wire.control import Hello, Welcome
from kwire.wire.frame import Flag

BATCH = 64
"""Datagrams received for one readiness."""

SOCKET_BUFFER = 4 << 20
"""Bytes asked of the kernel for datagrams that wait; it gives what it allows us: net.core.rmem_max."""

_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33  # socket(7); Python does not name them

FAREWELL = 30.0
"""Seconds that an ended session still answers a repeated BYE, whose last ACK may have been lost."""

COOKIE_LIFE = 30.0
"""Seconds after which cookies are made with another time; one is good for this long at least."""


class DatagramTransport(SocketTransport):
    """A UDP socket that is connected to its one peer, so that the kernel tells of unreachable ports."""

    __slots__ = ()
    datagrams = True

    def __init__(self, loop: Loop, connected: socket.socket, name: str) -> None:
        enlarge(connected)
        super().__init__(loop, connected, name)

    def send(self, buffers: list[Buffer]) -> list[Buffer]:
        """Send each buffer as a datagram; give back those that do not fit now."""
        for index, buffer in enumerate(buffers):
            try:
                self._socket.send(buffer)
            except BlockingIOError:
                self._want(READ | WRITE)
                return buffers[index:]
            except ConnectionRefusedError as error:  # of an earlier one: nobody listens there
                self.loop.soon(partial(self._break, reason(error)))
                return []
            except OSError:
                continue  # too long for the path, no route now: lost
        self._want(READ)
        return []

    def finish(self, farewell: Receiver | None = None) -> None:
        """Close later: until then `farewell` gets what still comes."""
        self.receiver = farewell
        if farewell is None:
            self.close()
        else:
            self.loop.at(self.loop.now() + FAREWELL, self.close)

    def _ready(self, mask: int) -> None:
        if mask & WRITE and self.receiver:
            self.receiver.writable()
        if not mask & ~WRITE:
            return
        view = self.loop.buffer
        for _ in range(BATCH):
            try:
                count = self._socket.recv_into(view)
            except BlockingIOError:
                break
            except OSError as error:
                self._break(reason(error))
                return
            if self.receiver is None:
                return
            self.receiver.received(view[:count])
            if self.receiver is None:
                return
        if self.receiver:
            self.receiver.settled()


class DatagramServer:
    """A bound UDP socket; `stranger(data, place)` gets what comes from addresses that no transport has."""

    __slots__ = ("_blocked", "_socket", "_stranger", "loop", "peers")

    def __init__(
        self, loop: Loop, bound: socket.socket, stranger: Callable[[memoryview, SockAddress], None]
    ) -> None:
        enlarge(bound)
        self.loop = loop
        self._socket = bound
        self._stranger = stranger
        self.peers: dict[SockAddress, ServedTransport] = {}
        self._blocked: dict[ServedTransport, None] = {}  # those that wait for the socket, in order
        loop.add(bound.fileno(), READ, self._ready)

    def send(self, data: Buffer, place: SockAddress) -> bool:
        """Send one datagram; False where the socket takes none now. What cannot be sent at all is lost."""
        try:
            self._socket.sendto(data, place)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def wait(self, transport: ServedTransport) -> None:
        """Tell this one when the socket takes more."""
        if not self._blocked:
            self.loop.modify(self._socket.fileno(), READ | WRITE)
        self._blocked[transport] = None

    def close(self) -> None:
        """Close the socket; the transports on it are of no use then."""
        if self._socket.fileno() >= 0:
            self.loop.remove(self._socket.fileno())
            self._socket.close()
        for transport in list(self.peers.values()):
            transport.lose("the socket was closed")

    def _ready(self, mask: int) -> None:
        if mask & WRITE:
            self._unblock()
        if mask & ~WRITE:
            self._receive()

    def _unblock(self) -> None:
        blocked, self._blocked = self._blocked, {}
        for transport in blocked:
            if transport.receiver is not None:
                transport.receiver.writable()
        if not self._blocked and self._socket.fileno() >= 0:
            self.loop.modify(self._socket.fileno(), READ)

    def _receive(self) -> None:
        view = self.loop.buffer
        heard: dict[ServedTransport, None] = {}
        for _ in range(BATCH):
            try:
                count, place = self._socket.recvfrom_into(view)
            except BlockingIOError:
                break
            except OSError:
                continue  # news of an earlier datagram: nothing to do with what is next
            transport = self.peers.get(place)
            if transport is None:
                self._stranger(view[:count], place)
            elif transport.receiver is not None:
                heard[transport] = None
                transport.receiver.received(view[:count])
            if self._socket.fileno() < 0:
                return
        for transport in heard:
            if transport.receiver is not None:
                transport.receiver.settled()


class ServedTransport:
    """One peer's address at a `DatagramServer`."""

    __slots__ = ("_server", "identity", "name", "place", "receiver")
    datagrams = True

    def __init__(self, server: DatagramServer, place: SockAddress) -> None:
        self._server = server
        self.place = place
        self.receiver: Receiver | None = None
        self.name = name_of("udp", place)
        self.identity = ""

    def open(self, receiver: Receiver) -> None:
        """Begin to receive; whatever had this address before has lost it."""
        self.receiver = receiver
        before = self._server.peers.get(self.place)
        self._server.peers[self.place] = self
        if before is not None and before is not self:
            before.lose("its address has another session now")

    def send(self, buffers: list[Buffer]) -> list[Buffer]:
        """Send each buffer as a datagram; give back those that do not fit now."""
        for index, buffer in enumerate(buffers):
            if not self._server.send(buffer, self.place):
                self._server.wait(self)
                return buffers[index:]
        return []

    def close(self) -> None:
        """Forget the address."""
        self.receiver = None
        if self._server.peers.get(self.place) is self:
            del self._server.peers[self.place]

    def finish(self, farewell: Receiver | None = None) -> None:
        """Forget the address later: until then `farewell` gets what still comes."""
        self.receiver = farewell
        if farewell is None:
            self.close()
        else:
            self._server.loop.at(self._server.loop.now() + FAREWELL, self.close)

    def lose(self, why: str) -> None:
        """The address is ours no more."""
        receiver = self.receiver
        self.close()
        if receiver is not None:
            receiver.broken(why)


class Cookies:
    """Challenges for addresses: made from a secret, the address, the token and the time; nothing is kept."""

    __slots__ = ("_now", "_secret")

    def __init__(self, now: Callable[[], float]) -> None:
        self._secret = os.urandom(32)
        self._now = now

    def challenge(self, hello: Hello, place: SockAddress) -> bytes:
        """The WELCOME that asks for the HELLO again, with a cookie."""
        cookie = self._make(hello.token, place, self._age())
        return Welcome(hello.token, hello.nonce, hello.role.other, cookie=cookie).frame(Flag.CHECKSUM)

    def good(self, hello: Hello, place: SockAddress) -> bool:
        """Whether the HELLO brings a cookie that was sent to this address, not long ago."""
        age = self._age()
        return bool(hello.cookie) and any(
            _same(hello.cookie, self._make(hello.token, place, when)) for when in (age, age - 1)
        )

    def _age(self) -> int:
        return int(self._now() / COOKIE_LIFE)

    def _make(self, token: bytes, place: SockAddress, age: int) -> bytes:
        what = b"%s %d %a" % (token, age, place)
        return hashlib.blake2b(what, key=self._secret, digest_size=16).digest()


def _same(one: bytes, other: bytes) -> bool:
    """Compare without telling by the time it takes."""
    from hmac import compare_digest

    return compare_digest(one, other)


def enlarge(bound: socket.socket) -> None:
    """Enlarge the socket's buffers, and make it non-blocking."""
    bound.setblocking(False)
    for forced, option in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            bound.setsockopt(socket.SOL_SOCKET, forced, SOCKET_BUFFER)  # beyond rmem_max: CAP_NET_ADMIN
        except OSError:
            bound.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)
