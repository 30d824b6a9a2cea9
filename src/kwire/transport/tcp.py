"""Byte streams: connected TCP and Unix sockets, plain and under TLS, as a `Peer` uses them.

Invariants: no call waits; what the socket does not take stays with the caller, so a backlog exists once and
is bounded; a readiness is answered with one buffer of bytes at most, and with fewer where that took long; TLS
ends where it began: nothing falls back to plain text, and a stream that stops without close_notify is said to
be cut.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from abc import ABC, abstractmethod
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeAlias

from kwire.transport.lingering import Lingering
from kwire.transport.loop import READ, WRITE, Loop

if TYPE_CHECKING:
    import ssl

Buffer: TypeAlias = "bytes | bytearray | memoryview"

MAX_BUFFERS = 64
"""Buffers in one sendmsg(2): frames are long, so a few fill the socket."""

UNSENT = 1 << 18
"""Bytes that the kernel keeps unsent before it calls a socket writable (TCP_NOTSENT_LOWAT)."""

TLS_CHUNK = 1 << 16
"""Bytes given to TLS at a time: small frames are joined, so records are full."""

LEAST_SHARE = 1 << 13
MAX_DRAINED = 64
"""Reads of what had come before a connection broke."""

LONG = 0.02
"""Seconds: a peer whose bytes take longer than that to be dealt with gets half as many read the next time."""

_UCRED = struct.Struct("iII")  # pid, uid, gid: unix(7)


class Receiver(Protocol):
    """The owner of a transport, who is told what it receives."""

    def received(self, data: memoryview) -> None:
        """Take bytes that came, valid during the call only: any part of a stream, or one datagram."""

    def settled(self) -> None:
        """Called after `received` was given everything that came in one read."""

    def writable(self) -> None:
        """After `send` left something: it is worth trying again."""

    def broken(self, why: str) -> None:
        """The transport is of no use any more and closes itself; "" where the other side just closed it."""


class Transport(Protocol):
    """What carries a session's frames. `receiver` may be changed at any time."""

    receiver: Receiver | None
    name: str  # the other end, as `Address` writes it
    identity: str  # who the other end proved to be: a certificate's name, "uid:N", or ""
    datagrams: bool

    def open(self, receiver: Receiver) -> None:
        """Begin to receive."""

    def send(self, buffers: list[Buffer]) -> list[Buffer]:
        """Send; give back what did not fit, to be sent first when `writable` says so."""

    def close(self) -> None:
        """Stop, and close the socket. Nothing is called back any more."""

    def finish(self, farewell: Receiver | None = None) -> None:
        """Close as soon as what was sent has arrived; `farewell` gets datagrams that come until then."""


class SocketTransport(ABC):
    """A connected socket in the loop, whatever it carries."""

    __slots__ = ("_mask", "_socket", "identity", "loop", "name", "receiver")

    def __init__(self, loop: Loop, connected: socket.socket, name: str, identity: str = "") -> None:
        self.loop = loop
        self._socket = connected
        self._mask = 0  # what the loop watches it for
        self.receiver: Receiver | None = None
        self.name = name
        self.identity = identity

    def open(self, receiver: Receiver) -> None:
        """Begin to receive, or go on with another receiver."""
        self.receiver = receiver
        if not self._mask:
            self._mask = READ
            self.loop.add(self._socket.fileno(), READ, self._ready)

    def close(self) -> None:
        """Stop, and close the socket."""
        self.receiver = None
        if self._socket.fileno() >= 0:
            self.loop.remove(self._socket.fileno())
            self._socket.close()

    @abstractmethod
    def _ready(self, mask: int) -> None:
        """The socket is readable or writable."""

    def _want(self, mask: int) -> None:
        if mask != self._mask and self._socket.fileno() >= 0:
            self._mask = mask
            self.loop.modify(self._socket.fileno(), mask)

    def _break(self, why: str) -> None:
        receiver = self.receiver
        self.close()
        if receiver:
            receiver.broken(why)


class StreamTransport(SocketTransport):
    """A connected socket of a byte stream."""

    __slots__ = ("_share",)
    datagrams = False

    def __init__(self, loop: Loop, connected: socket.socket, name: str, identity: str = "") -> None:
        super().__init__(loop, connected, name, identity)
        self._share = len(loop.buffer)  # bytes read at a time

    def send(self, buffers: list[Buffer]) -> list[Buffer]:
        """Send as much as the socket takes; give back the rest."""
        while buffers:
            try:
                sent = self._write(buffers)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self.loop.soon(partial(self._drain, reason(error)))
                return []
            buffers = rest(buffers, sent)
            if not sent:
                break
        self._want(READ | WRITE if buffers else READ)
        return buffers

    def finish(self, farewell: Receiver | None = None) -> None:
        """Close once what was sent has arrived: closing at once would cut it off if more had come in."""
        self.receiver = None
        if self._socket.fileno() >= 0:
            self.loop.remove(self._socket.fileno())
            self._say_end()
            Lingering(self.loop, self._socket)

    def _say_end(self) -> None:
        """Whatever comes before the end of the stream."""

    def _write(self, buffers: list[Buffer]) -> int:
        """How many bytes the socket took; BlockingIOError where it takes none now."""
        return self._socket.sendmsg(buffers[:MAX_BUFFERS])

    def _read(self) -> int:
        """How many bytes came into the loop's buffer, 0 at the end; BlockingIOError where none are there."""
        return self._socket.recv_into(self.loop.buffer, self._share)

    def _ready(self, mask: int) -> None:
        if mask & WRITE and self.receiver:
            self.receiver.writable()
        if mask & ~WRITE:
            self._receive()

    def _receive(self) -> None:
        if self.receiver is None:
            return
        try:
            count = self._read()
        except BlockingIOError:
            return
        except OSError as error:
            self._break(reason(error))
            return
        if not count:
            self._break("")
            return
        began = self.loop.now()
        self.receiver.received(self.loop.buffer[:count])
        if self.receiver is not None:
            self.receiver.settled()
        if self.loop.now() - began > LONG:
            self._share = max(LEAST_SHARE, self._share >> 1)
        elif self._share < len(self.loop.buffer):
            self._share <<= 1

    def _drain(self, why: str) -> None:
        """Nothing can be sent any more: break once what had come is read: it may be a BYE."""
        for _ in range(MAX_DRAINED):
            if self.receiver is None:
                return
            try:
                count = self._read()
            except OSError:
                break
            if not count:
                break
            self.receiver.received(self.loop.buffer[:count])
            if self.receiver is not None:
                self.receiver.settled()
        self._break(why)


class TlsTransport(StreamTransport):
    """A socket under TLS, its handshake done (`kwire.transport.tls.Handshake`)."""

    __slots__ = ("_more", "_pending", "_tls")

    def __init__(self, loop: Loop, connected: ssl.SSLSocket, name: str, identity: str) -> None:
        super().__init__(loop, connected, name, identity)
        self._tls = connected
        self._more = False  # there may be bytes in TLS, of which epoll does not tell
        self._pending: bytes = b""  # what TLS must be given again, unchanged, after it did not fit

    def open(self, receiver: Receiver) -> None:
        """Begin to receive; the handshake may have brought bytes already."""
        if not self._mask:
            self._look_again()
        super().open(receiver)

    def _look_again(self) -> None:
        """Read in the next round, whether epoll tells of bytes or not: TLS may hold some."""
        if not self._more:
            self._more = True
            self.loop.soon(self._look)

    def _look(self) -> None:
        self._more = False
        self._receive()

    def _say_end(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # it does not wait for the other side's
            self._tls.unwrap()

    def _write(self, buffers: list[Buffer]) -> int:
        from ssl import SSLWantReadError, SSLWantWriteError

        chunk = self._pending or join(buffers, TLS_CHUNK)
        try:
            sent = self._tls.send(chunk)
        except (SSLWantReadError, SSLWantWriteError) as error:
            self._pending = chunk
            raise BlockingIOError from error
        self._pending = b""
        return sent

    def _read(self) -> int:
        from ssl import SSLWantReadError, SSLWantWriteError, SSLZeroReturnError

        count = 0
        buffer = self.loop.buffer[: self._share]
        try:
            while count < len(buffer):
                more = self._tls.recv_into(buffer[count:])
                if not more:  # the end: told when nothing is left to deliver
                    if count:
                        self._look_again()
                    break
                count += more
            else:
                self._look_again()
        except (SSLWantReadError, SSLWantWriteError) as error:
            if not count:
                raise BlockingIOError from error
        except SSLZeroReturnError:
            if count:
                self._look_again()
        except OSError:
            if not count:
                raise
            self._look_again()
        return count


def prepare(connected: socket.socket) -> None:
    """Set what every stream socket here has: nothing waits, small frames are not held back."""
    connected.setblocking(False)
    if connected.family != socket.AF_UNIX:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)


def unix_identity(connected: socket.socket) -> str:
    """Who is at the other end of a Unix socket, as the kernel knows it: "uid:N"."""
    cred = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return f"uid:{_UCRED.unpack(cred)[1]}"


def rest(buffers: list[Buffer], sent: int) -> list[Buffer]:
    """The buffers without their first `sent` bytes."""
    for index, buffer in enumerate(buffers):
        if sent < len(buffer):
            return [memoryview(buffer)[sent:], *buffers[index + 1 :]] if sent else buffers[index:]
        sent -= len(buffer)
    return []


def join(buffers: list[Buffer], limit: int) -> bytes:
    """The first `limit` bytes of the buffers in one."""
    taken = []
    for buffer in buffers:
        taken.append(buffer[:limit])
        limit -= len(taken[-1])
        if limit <= 0:
            break
    return b"".join(taken)


def reason(error: OSError) -> str:
    """Why a socket call failed, in few words."""
    if error.errno is not None and not hasattr(error, "library"):
        return os.strerror(error.errno)
    from kwire.transport.tls import explain  # not at the top: plain sockets do without ssl

    return explain(error)
