"""Proxies that harm what passes: they can stall, cut, reset, refuse, lose, repeat, delay and reorder.

Each runs in a thread of its own, so that it serves other processes as well; `port` is where to connect.
"""

from __future__ import annotations

import contextlib
import heapq
import random
import selectors
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

LOCAL = "127.0.0.1"


class Proxy:
    """Something between two ends, in a thread; subclasses say what. Settings may be changed at any time."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.stalled = False
        """Nothing passes and nothing is read: buffers fill up."""
        self.delay = 0.0
        """Seconds that everything takes."""
        self.passed = 0
        """Bytes let through."""
        self._wake, other = socket.socketpair()
        self.selector.register(other, selectors.EVENT_READ, lambda: other.recv(1))
        self._jobs: list[Callable[[], None]] = []
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._running = True
        self._thread = threading.Thread(target=self._run, daemon=True)

    def do(self, job: Callable[[], None]) -> None:
        """Run `job` in the proxy's thread, and wait for that."""
        done = threading.Event()

        def run() -> None:
            try:
                job()
            finally:
                done.set()

        self._jobs.append(run)
        self._wake.send(b"x")
        assert done.wait(10)

    def after(self, seconds: float, job: Callable[[], None]) -> None:
        """Run `job` in the proxy's thread after so long."""
        self._at(time.monotonic() + seconds, job)

    def _at(self, when: float, job: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._later, (when, self._count, job))

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._running = False
        self._wake.send(b"x")
        self._thread.join(10)
        for key in list(self.selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]  # all of them are sockets
        self._wake.close()
        self.selector.close()

    def _run(self) -> None:
        while self._running:
            wait = 0.5 if not self._later else max(0.0, min(0.5, self._later[0][0] - time.monotonic()))
            for key, _ in self.selector.select(wait):
                key.data()
            while self._jobs:
                self._jobs.pop(0)()
            while self._later and self._later[0][0] <= time.monotonic():
                heapq.heappop(self._later)[2]()


class TcpProxy(Proxy):
    """Passes connections to its port on to `target` of this machine."""

    def __init__(self, target: int) -> None:
        super().__init__()
        self.target = target
        self.pairs: list[tuple[socket.socket, socket.socket]] = []
        self._latest: dict[socket.socket, float] = {}  # when what was delayed last is passed on
        self._waiting: Counter[socket.socket] = Counter()  # how much of it has not been
        self._server = socket.create_server((LOCAL, 0))
        self._server.setblocking(False)
        self.port: int = self._server.getsockname()[1]
        self.selector.register(self._server, selectors.EVENT_READ, self._accept)
        self.start()

    def stall(self) -> None:
        """Let nothing pass from now on."""
        self.do(lambda: self._stall(True))

    def go_on(self) -> None:
        """Let pass what is there, and what comes."""
        self.do(lambda: self._stall(False))

    def cut(self) -> None:
        """Close all connections, in order (FIN)."""
        self.do(self._cut)

    def reset(self) -> None:
        """Close all connections with a reset (RST)."""

        def reset() -> None:
            for pair in self.pairs:
                for end in pair:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._cut()

        self.do(reset)

    def refuse(self) -> None:
        """Close all connections and take no new ones."""

        def refuse() -> None:
            self._cut()
            self.selector.unregister(self._server)
            self._server.close()

        self.do(refuse)

    def serve(self) -> None:
        """Take connections again, after `refuse`."""

        def serve() -> None:
            if self._server.fileno() >= 0:
                return
            self._server = socket.create_server((LOCAL, self.port))
            self._server.setblocking(False)
            self.selector.register(self._server, selectors.EVENT_READ, self._accept)

        self.do(serve)

    def _accept(self) -> None:
        near, _ = self._server.accept()
        try:
            far = socket.create_connection((LOCAL, self.target), timeout=5)
        except OSError:
            near.close()
            return
        self.pairs.append((near, far))
        for here, there in ((near, far), (far, near)):
            here.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            here.settimeout(1)  # who does not read for so long is cut off
            if not self.stalled:
                self._watch(here, there)

    def _watch(self, here: socket.socket, there: socket.socket) -> None:
        self.selector.register(here, selectors.EVENT_READ, lambda: self._pass_on(here, there))

    def _pass_on(self, here: socket.socket, there: socket.socket) -> None:
        try:
            data = here.recv(1 << 16)
        except OSError:
            data = b""
        self.passed += len(data)
        now = time.monotonic()
        when = max(now + self.delay, self._latest.get(there, 0.0))  # a stream keeps its order
        if when > now or self._waiting[there]:
            self._latest[there] = when
            self._waiting[there] += 1
            self._at(when, lambda: self._give_late(there, data))
            if not data:
                self.selector.unregister(here)
        else:
            self._give(there, data)

    def _give_late(self, there: socket.socket, data: bytes) -> None:
        self._waiting[there] -= 1
        self._give(there, data)

    def _give(self, there: socket.socket, data: bytes) -> None:
        try:
            there.sendall(data)
        except OSError:
            data = b""
        if not data:
            for pair in [pair for pair in self.pairs if there in pair]:
                self._drop(pair)

    def _stall(self, stalled: bool) -> None:
        self.stalled = stalled
        for near, far in self.pairs:
            for here, there in ((near, far), (far, near)):
                known = here in self.selector.get_map()
                if stalled and known:
                    self.selector.unregister(here)
                elif not stalled and not known:
                    self._watch(here, there)

    def _cut(self) -> None:
        for pair in list(self.pairs):
            self._drop(pair)

    def _drop(self, pair: tuple[socket.socket, socket.socket]) -> None:
        self.pairs.remove(pair)
        for end in pair:
            if end in self.selector.get_map():
                self.selector.unregister(end)
            self._latest.pop(end, None)
            self._waiting.pop(end, None)
            end.close()


class UdpProxy(Proxy):
    """Passes datagrams to its port on to `target` of this machine, and the answers back; harms some."""

    def __init__(self, target: int, seed: int = 1) -> None:
        super().__init__()
        self.target = target
        self.host = LOCAL
        self.loss = 0.0
        self.repeat = 0.0
        self.reorder = 0.0
        """Shares of the datagrams that are lost, that come twice, that come later than the next ones."""
        self.one_way = False
        """Only datagrams to the target are lost."""
        self.random = random.Random(seed)
        self.lost = 0
        self._near = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._near.bind((LOCAL, 0))
        self._near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.port: int = self._near.getsockname()[1]
        self._far: dict[Any, socket.socket] = {}
        self.selector.register(self._near, selectors.EVENT_READ, self._out)
        self.start()

    def rebind(self) -> None:
        """Reach the target from other ports from now on, as a router does that forgot its translations."""

        def rebind() -> None:
            for far in self._far.values():
                self.selector.unregister(far)
                far.close()
            self._far.clear()

        self.do(rebind)

    def _out(self) -> None:
        data, place = self._near.recvfrom(1 << 16)
        far = self._far.get(place)
        if far is None:
            far = self._far[place] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            far.connect((self.host, self.target))
            far.setblocking(False)  # readable may mean an error that the next send takes away
            far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
            self.selector.register(far, selectors.EVENT_READ, lambda far=far: self._back(far, place))
        self._harm(lambda: far.send(data), len(data), self.loss)

    def _back(self, far: socket.socket, place: Any) -> None:
        try:
            data = far.recv(1 << 16)
        except OSError:
            return
        self._harm(lambda: self._near.sendto(data, place), len(data), 0.0 if self.one_way else self.loss)

    def _harm(self, give: Callable[[], object], size: int, loss: float) -> None:
        if self.stalled or self.random.random() < loss:
            self.lost += 1
            return
        self.passed += size

        def safely() -> None:
            with contextlib.suppress(OSError):  # nobody there (any more): lost, as on any network
                give()

        for _ in range(2 if self.random.random() < self.repeat else 1):
            late = self.random.uniform(0.001, 0.02) if self.random.random() < self.reorder else 0.0
            if self.delay + late:
                self.after(self.delay + late, safely)
            else:
                safely()
