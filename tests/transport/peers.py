"""What tests of the network need: certificates, a loop with both ends in it, proxies that harm what passes.

- `certs`: a directory made once (agent/, collector/, client/ with ca.pem, cert.pem, key.pem);
  `tls(role)` gives its `TlsOptions`.
- `net`: a loop to run both ends in: `net.listen`, `net.connect`, `net.until(condition)`;
  `net.note()` makes a handler that keeps what it is told; `event(number)` makes an EVENT frame.
- `tcp_proxy(port)`, `udp_proxy(port)`: proxies in threads of their own, so that they serve other processes as
  well: `proxy.port` is where to connect; they can stall, cut, reset, refuse, lose, repeat, delay and reorder.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from proxies import LOCAL, TcpProxy, UdpProxy
from waiting import until

from kwire.errors import KwireError
from kwire.transport.address import Address
from kwire.transport.certs import make_certs
from kwire.transport.connect import Connector, connect
from kwire.transport.half_open import Limits, Roster
from kwire.transport.listen import Listener, listen
from kwire.transport.loop import Loop
from kwire.transport.peer import Handler, Peer
from kwire.transport.tcp import Buffer
from kwire.transport.tls import TlsOptions
from kwire.wire.control import Hello, Role
from kwire.wire.session import Session
from kwire.wire.settings import Settings
from kwire.wire.transitions import State

# ---------------------------------------------------------------------- certificates


@pytest.fixture(scope="session")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a CA and certificates of this machine."""
    directory = tmp_path_factory.mktemp("certs")
    make_certs(str(directory))
    return directory


@pytest.fixture(scope="session")
def tls(certs: Path) -> Callable[[str], TlsOptions]:
    """The options of a role: "agent", "collector" or "client"."""

    def options(role: str) -> TlsOptions:
        return TlsOptions(*(str(certs / role / f"{name}.pem") for name in ("cert", "key", "ca")))

    return options


# ---------------------------------------------------------------------- both ends in one loop


class Notes(Handler):
    """A handler that keeps all it is told; a sink's stores at once, unless `stuck`."""

    def __init__(self, stuck: bool = False) -> None:
        self.payloads: list[bytes] = []
        self.states: list[State] = []
        self.problems: list[object] = []
        self.requests: list[tuple[int, Mapping[str, Any]]] = []
        self.replies: list[tuple[int, Mapping[str, Any]]] = []
        self.ends: list[str] = []
        self.up = 0
        self.room = 0
        self.stuck = stuck

    def established(self, peer: Peer) -> None:
        self.up += 1

    def delivered(self, peer: Peer, sequence: int, payload: Buffer) -> None:
        self.payloads.append(bytes(payload))
        if not self.stuck:
            peer.session.consumed(sequence, peer.loop.now())

    def requested(self, peer: Peer, number: int, body: Mapping[str, Any]) -> None:
        self.requests.append((number, body))
        peer.session.reply(number, {"echo": body}, peer.loop.now())

    def replied(self, peer: Peer, number: int, body: Mapping[str, Any]) -> None:
        self.replies.append((number, body))

    def writable(self, peer: Peer) -> None:
        self.room += 1

    def changed(self, peer: Peer, old: State, new: State, why: str) -> None:
        self.states.append(new)

    def complained(self, peer: Peer, problem: object) -> None:
        self.problems.append(problem)

    def closed(self, peer: Peer, why: str) -> None:
        self.ends.append(why)


class Net:
    """A loop with listeners and connectors in it."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.listeners: list[Listener] = []
        self.connectors: list[Connector] = []
        self.sinks: dict[bytes, Session] = {}  # by token
        self.notes: dict[bytes, Notes] = {}  # of the sinks, by token
        self.hellos: list[tuple[Hello, str, str]] = []

    @staticmethod
    def note(stuck: bool = False) -> Notes:
        """A handler that keeps what it is told."""
        return Notes(stuck)

    def until(self, condition: Callable[[], object]) -> None:
        """Run until `condition` holds; fail where it never does."""
        until(condition, turn=lambda: self.loop.turn(0.05))

    def run(self, seconds: float) -> None:
        """Run for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.loop.turn(0.02)

    def listen(
        self,
        address: Address = Address("tcp", LOCAL, 0),  # noqa: B008
        tls: TlsOptions | None = None,
        limits: Limits = Limits(),  # noqa: B008
        settings: Settings = Settings(),  # noqa: B008
        stuck: bool = False,
        refuse: Callable[[Hello, str, str], str] = lambda *_: "",
        insecure: bool = False,
        roster: Roster | None = None,
    ) -> Listener:
        """A collector that keeps what it gets; its sessions are resumed by their tokens."""

        def choose(hello: Hello, identity: str, place: str) -> Session | None:
            self.hellos.append((hello, identity, place))
            why = refuse(hello, identity, place)
            if why:
                raise KwireError("serve", place, why)
            if hello.token not in self.sinks:
                self.notes.setdefault(hello.token, Notes()).stuck = stuck
                self.sinks[hello.token] = Session(
                    Role.SINK,
                    initiator=False,
                    datagrams=address.datagrams,
                    settings=settings,
                    token=hello.token,
                )
            return self.sinks[hello.token]

        listener = listen(
            self.loop,
            address,
            choose,
            lambda session: self.notes[session.token],
            tls=tls,
            limits=limits,
            insecure=insecure,
            roster=roster,
        )
        self.listeners.append(listener)
        return listener

    def connect(
        self,
        address: Address,
        notes: Notes | None = None,
        tls: TlsOptions | None = None,
        settings: Settings = Settings(),  # noqa: B008
        retry: bool = True,
        insecure: bool = False,
        troubled: Callable[[KwireError], None] | None = None,
        role: Role = Role.SOURCE,
        sort: type[Session] = Session,
    ) -> Connector:
        """An agent without events of its own."""

        def make() -> Session:
            return sort(role, initiator=True, datagrams=address.datagrams, settings=settings)

        connector = connect(
            self.loop, address, make, notes or Notes(), tls, insecure, retry, troubled=troubled
        )
        self.connectors.append(connector)
        return connector

    def sink(self, connector: Connector) -> Notes:
        """What the listener's side was told of the connector's present session."""
        return self.notes.setdefault(connector.peer.session.token, Notes())

    def close(self) -> None:
        """Close everything, without farewells."""
        for connector in self.connectors:
            connector.close()
            connector.peer.detach("the test is over")
        for listener in self.listeners:
            for peer in list(listener.peers.values()):
                peer.detach("the test is over")
            listener.close()
        self.loop.close()


@pytest.fixture
def net() -> Iterator[Net]:
    """A loop with nothing in it yet."""
    net = Net()
    yield net
    net.close()


@pytest.fixture
def event() -> Callable[..., bytes]:
    """An EVENT frame of probe 1: `event(number, size=72)`."""

    def make(number: int, size: int = 72) -> bytes:
        return struct.pack(">BBHI", 0x11, 0, size, 1) + struct.pack("<QQ", number, number) + bytes(size - 24)

    return make


# ---------------------------------------------------------------------- proxies


@pytest.fixture
def tcp_proxy() -> Iterator[Callable[[int], TcpProxy]]:
    """Make a proxy to a TCP port of this machine."""
    made: list[TcpProxy] = []

    def make(target: int) -> TcpProxy:
        made.append(TcpProxy(target))
        return made[-1]

    yield make
    for proxy in made:
        proxy.close()


@pytest.fixture
def udp_proxy() -> Iterator[Callable[..., UdpProxy]]:
    """Make a proxy to a UDP port of this machine."""
    made: list[UdpProxy] = []

    def make(target: int, seed: int = 1) -> UdpProxy:
        made.append(UdpProxy(target, seed))
        return made[-1]

    yield make
    for proxy in made:
        proxy.close()
