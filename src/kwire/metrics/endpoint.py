"""Metrics over HTTP: /metrics, /healthz and /readyz, served by the loop that does the work.

Invariants: the sockets are there before a process is confined, and nothing is opened later; a scrape is made
in steps of `SLICE` seconds, one scrape at a time, and everything else of the loop has its turn in between;
connections, bytes of a request, seconds of a connection and scrapes a second are bounded, for each address
and in all, so that whoever asks too much is refused (429) or dropped, and never slows what the process is
for. Without a scrape it costs one descriptor that is not ready. There is no authentication and no TLS: what
is told is for whoever can reach the address.
"""

import contextlib
import errno
import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from kwire.errors import KwireError
from kwire.metrics.exposition import CONTENT_TYPE, Exposition
from kwire.transport.address import Address, parse
from kwire.transport.bind import bind, inode, origin
from kwire.transport.loop import READ, WRITE, Loop, Timer, contained

PORT: Final = 17801
"""The port where none is written."""

MOST: Final = 16
"""Connections at once."""

LONGEST: Final = 4096
"""Bytes of a request."""

PATIENCE: Final = 5.0
"""Seconds from connecting to the last byte of the answer."""

SLICE: Final = 0.002
"""Seconds of one step of a scrape."""

A_SECOND: Final = 20
"""Scrapes a second in all; whoever has had none in this second gets one all the same."""

EACH_A_SECOND: Final = 5
"""Scrapes a second of one address."""

ACCEPTS: Final = 16
"""Connections taken at once; then none for `REST` seconds."""

REST: Final = 0.02

_PLAIN: Final = "text/plain; charset=utf-8"
_STATUS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    429: "Too Many Requests",
    503: "Service Unavailable",
}


def metrics_address(text: str) -> Address:
    """Read where metrics are served: [HOST]:PORT or unix:PATH. Raises KwireError."""
    address = parse(text, kind="tcp", port=PORT)
    if address.kind not in ("tcp", "unix"):
        cause = f"metrics are not served over {address.kind}"
        raise KwireError("read address", ascii(text), cause, "write HOST:PORT, :PORT or unix:PATH")
    return address


class Endpoint:
    """Listens at an address, `address` with the port it got, and serves what `serve` is given. Raises
    KwireError where it cannot be listened there.
    """

    def __init__(self, loop: Loop, address: Address) -> None:
        self.loop = loop
        self._exposition: Exposition | None = None
        self._sockets = bind(address, 0o660)
        self.address = address
        if address.kind != "unix":
            self.address = address._replace(port=self._sockets[0].getsockname()[1])
        self._inode = inode(address.path) if address.kind == "unix" else None
        self._clients: dict[_Client, None] = {}  # the oldest first
        self._scrapes: deque[tuple[_Client, Iterator[bytes]]] = deque()
        self._second = 0
        self._served: Counter[str] = Counter()  # scrapes of this second, by address

    def serve(self, exposition: Exposition) -> None:
        """Answer from now on: whoever has connected before waits in the kernel."""
        self._exposition = exposition
        for bound in self._sockets:
            self._listen(bound)

    @property
    def url(self) -> str:
        """Where it is, for people."""
        if self.address.kind == "unix":
            return f"unix:{self.address.path}"
        return f"http://{str(self.address._replace(host=self.address.host or '*')).partition(':')[2]}/metrics"

    def close(self) -> None:
        """Serve no more."""
        if self._inode is not None and inode(self.address.path) == self._inode:
            with contextlib.suppress(OSError):  # who is nobody leaves it to the next one
                os.unlink(self.address.path)
        for client in list(self._clients):
            client.drop()
        for bound in self._sockets:
            self.loop.remove(bound.fileno())
            bound.close()

    # ------------------------------------------------------------------ connections

    def _listen(self, bound: socket.socket) -> None:
        if bound.fileno() >= 0:
            self.loop.add(bound.fileno(), READ, partial(self._accept, bound))

    def _accept(self, bound: socket.socket, mask: int) -> None:
        for _ in range(ACCEPTS):
            try:
                connected, place = bound.accept()
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    break
                continue  # it has gone already
            host = origin(place) if isinstance(place, tuple) else "unix"
            if self._room(host):
                self._clients[_Client(self, connected, host)] = None
            else:
                connected.close()
        self.loop.remove(bound.fileno())
        self.loop.at(self.loop.now() + REST, partial(self._listen, bound))

    def _room(self, host: str) -> bool:
        """Whether one more of this address may be heard; another address's oldest may have to go for it."""
        if len(self._clients) < MOST:
            return True
        counts = Counter(client.host for client in self._clients)
        rival, number = counts.most_common(1)[0]
        if number <= counts[host] + 1:
            return False
        next(client for client in self._clients if client.host == rival).drop()
        return True

    def forget(self, client: "_Client") -> None:
        """It was served, or has gone."""
        self._clients.pop(client, None)

    # ------------------------------------------------------------------ answers

    def answer(self, client: "_Client", path: str) -> None:
        """Answer a request for `path`."""
        assert self._exposition is not None  # nobody is heard before
        if path == "/healthz":
            client.answer(200, b"ok\n")  # the loop turns, or nobody would say so
        elif path == "/readyz":
            why = self._exposition.ready()
            client.answer(503 if why else 200, f"{why or 'ready'}\n".encode())
        elif path != "/metrics":
            client.answer(404, b"there are /metrics, /healthz and /readyz\n")
        elif not self._may_scrape(client.host):
            client.answer(429, b"too many scrapes\n")
        else:
            self._scrapes.append((client, self._exposition.render()))
            if len(self._scrapes) == 1:
                self.loop.soon(self._step)

    def _may_scrape(self, host: str) -> bool:
        """Whether one more scrape of this address is within the limits of this second; counts it if so."""
        second = int(self.loop.now())
        if second != self._second:
            self._second = second
            self._served.clear()
        mine = self._served[host]
        if mine >= EACH_A_SECOND or (mine and self._served.total() >= A_SECOND):
            return False
        self._served[host] += 1
        return True

    def _step(self) -> None:
        """Go on with the scrape whose turn it is."""
        client, pieces = self._scrapes[0]
        end = self.loop.now() + SLICE
        whole = not client.there
        try:
            while not whole:
                piece = next(pieces, None)
                if piece is None:
                    whole = True
                    client.answer(200, b"".join(client.pieces), CONTENT_TYPE)
                else:
                    client.pieces.append(piece)
                if self.loop.now() >= end:
                    break
        except Exception as error:
            whole = True
            client.drop()
            self.loop.contain(error, "metrics")
        if whole:
            self._scrapes.popleft()
        if self._scrapes:
            self.loop.soon(self._step)


class _Client:
    """One connection: one request, one answer."""

    def __init__(self, endpoint: Endpoint, connected: socket.socket, host: str) -> None:
        self.loop = endpoint.loop
        self.inside = False
        self.host = host
        self.there = True
        self.pieces: list[bytes] = []
        """Of the answer that is being made."""
        self._endpoint = endpoint
        self._socket = connected
        self._heard = bytearray()
        self._head = False  # the request is HEAD: no body is sent
        self._rest = memoryview(b"")
        connected.setblocking(False)
        self._timer: Timer | None = self.loop.at(self.loop.now() + PATIENCE, self.drop)
        self._ready: Callable[[], None] = self._hear
        self.loop.add(connected.fileno(), READ, self._act)

    @property
    def who(self) -> str:
        """Whom a failure concerns."""
        return f"metrics for {self.host}"

    def failed(self, error: Exception) -> None:
        """Nothing can be done with this one."""
        self.drop()

    def drop(self) -> None:
        """Close the connection."""
        if self.there:
            self.there = False
            self.loop.cancel(self._timer)
            self.loop.remove(self._socket.fileno())
            self._endpoint.forget(self)
            self._socket.close()

    @contained
    def _act(self, mask: int) -> None:
        try:
            self._ready()
        except BlockingIOError:
            return
        except OSError:
            self.drop()

    def _hear(self) -> None:
        """Collect the head of the request."""
        data = self._socket.recv(LONGEST)
        if not data:
            self.drop()
            return
        self._heard += data
        head, whole, _ = bytes(self._heard).partition(b"\r\n\r\n")
        if not whole and len(self._heard) < LONGEST:
            return
        words = head.split(b"\r\n", 1)[0].split(b" ")
        if not whole or len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            self.answer(400, b"this is HTTP: GET /metrics\n")
        elif words[0] not in (b"GET", b"HEAD"):
            self.answer(405, b"there is only GET\n")
        else:
            self._head = words[0] == b"HEAD"
            self._ready = self.drop  # while the answer is made nothing is read: only that it has gone is seen
            self.loop.modify(self._socket.fileno(), 0)
            self._endpoint.answer(self, words[1].partition(b"?")[0].decode("latin-1"))

    def answer(self, status: int, body: bytes, kind: str = _PLAIN) -> None:
        """Send this, and close."""
        if not self.there:
            return
        self.pieces = []
        lines = [
            f"HTTP/1.1 {status} {_STATUS[status]}",
            f"Content-Type: {kind}",
            f"Content-Length: {len(body)}",
            *(["Allow: GET, HEAD"] if status == 405 else []),
            *(["Retry-After: 1"] if status == 429 else []),
            "Connection: close",
        ]
        head = "\r\n".join([*lines, "", ""]).encode()
        self._rest = memoryview(head if self._head else head + body)
        self._ready = self._send
        self.loop.modify(self._socket.fileno(), WRITE)

    def _send(self) -> None:
        sent = self._socket.send(self._rest)
        self._rest = self._rest[sent:]
        if not self._rest:
            self._socket.shutdown(socket.SHUT_WR)
            self._ready = self._swallow
            self.loop.modify(self._socket.fileno(), READ)

    def _swallow(self) -> None:
        """Wait for the other side's end: a socket closed with unread bytes takes the answer with it."""
        if not self._socket.recv(LONGEST):
            self.drop()
