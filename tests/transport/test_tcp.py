"""Sessions over every transport: what is sent arrives once and in order, through breaks of all kinds."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kwire.errors import KwireError
from kwire.transport import address as addresses
from kwire.transport.address import Address, parse
from kwire.transport.connect import Connector
from kwire.transport.half_open import Limits
from kwire.transport.listen import Listener
from kwire.transport.peer import Peer
from kwire.transport.tcp import StreamTransport, prepare
from kwire.transport.tls import TlsOptions
from kwire.wire.control import Role
from kwire.wire.settings import Settings
from kwire.wire.transitions import State

KINDS = [
    "tcp:127.0.0.1:0",
    "tcp:[::1]:0",
    "unix",
    "tls:127.0.0.1:0",
    "tls:[::1]:0",
    "udp:127.0.0.1:0",
    "udp:[::1]:0",
]
STREAMS = [kind for kind in KINDS if not kind.startswith("udp")]
QUICK = Settings(rto_first=0.05, rto_min=0.02, keepalive=1.0, ack_delay=0.01)

Start = Callable[..., tuple[Listener, Connector]]


def place(kind: str, tmp_path: Path) -> Address:
    return Address("unix", path=str(tmp_path / "s"), port=0) if kind == "unix" else parse(kind)


@pytest.fixture
def start(net: Any, tls: Callable[[str], TlsOptions], tmp_path: Path) -> Start:
    """A listener of a kind, and a connector to it."""

    def begin(kind: str, settings: Settings = QUICK, **more: Any) -> tuple[Listener, Connector]:
        listener = net.listen(place(kind, tmp_path), tls("collector"), settings=settings, **more)
        return listener, net.connect(listener.address, net.note(), tls("agent"), settings=settings)

    return begin


def send(connector: Connector, payloads: list[bytes]) -> None:
    for payload in payloads:
        connector.peer.session.send(payload, connector.loop.now())
    connector.peer.flush()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_sent_arrives_and_the_end_is_in_order(
    net: Any, start: Start, event: Callable[..., bytes], kind: str
) -> None:
    listener, connector = start(kind)
    notes: Any = connector.peer.handler
    size = 1368 if kind.startswith("udp") else 65_376
    payloads = [event(number) * (size // 72) for number in range(200)] + [event(1, 40_000)]
    for payload in payloads:
        while connector.peer.session.room < len(payload):
            net.loop.turn(0.01)
        send(connector, [payload])
    connector.peer.close()
    net.until(lambda: notes.ends and net.sink(connector).ends)
    assert net.sink(connector).payloads == payloads
    assert connector.peer.session.state is State.CLOSED
    assert listener.peers == {}
    assert connector.closed
    assert notes.up == net.sink(connector).up == 1
    assert not notes.problems
    assert not net.sink(connector).problems


@pytest.mark.parametrize("kind", KINDS)
def test_requests_are_answered(net: Any, start: Start, kind: str) -> None:
    _, connector = start(kind)
    notes: Any = connector.peer.handler
    number = connector.peer.session.request({"op": "x", "big": "y" * 5000}, net.loop.now())
    connector.peer.flush()
    net.until(lambda: notes.replies)
    assert notes.replies == [(number, {"echo": {"op": "x", "big": "y" * 5000}})]


@pytest.mark.parametrize(
    ("kind", "near", "far"),
    [
        ("tcp:127.0.0.1:0", "", ""),
        ("unix", f"uid:{os.getuid()}", f"uid:{os.getuid()}"),
        ("tls:127.0.0.1:0", "collector", "agent"),
        ("udp:127.0.0.1:0", "", ""),
    ],
)
def test_both_know_who_the_other_is(net: Any, start: Start, kind: str, near: str, far: str) -> None:
    listener, connector = start(kind)
    net.until(lambda: connector.peer.session.state is State.ESTABLISHED)
    (peer,) = listener.peers.values()
    assert (connector.peer.identity, peer.identity) == (near, far)
    hello, identity, address = net.hellos[-1]
    assert identity == far
    assert address == peer.address
    assert address.startswith(kind[:3])
    assert hello.role is Role.SOURCE


def test_either_side_may_connect(net: Any, event: Callable[..., bytes]) -> None:
    """The sink connects, the source listens."""
    from kwire.transport.listen import listen
    from kwire.wire.session import Session

    source_notes, sink_notes = net.note(), net.note()
    sessions: list[Session] = []

    def choose(hello: Any, identity: str, address: str) -> Session:
        sessions.append(Session(Role.SOURCE, initiator=False, token=hello.token))
        return sessions[-1]

    listener = listen(net.loop, parse("tcp:127.0.0.1:0"), choose, lambda session: source_notes)
    net.listeners.append(listener)
    connector = net.connect(listener.address, sink_notes, role=Role.SINK, retry=False)
    net.until(lambda: source_notes.up)
    (peer,) = listener.peers.values()
    peer.session.send(event(1), net.loop.now())
    peer.close()
    net.until(lambda: sink_notes.ends and source_notes.ends)
    assert sink_notes.payloads == [event(1)]
    assert connector.closed


# ---------------------------------------------------------------------- breaks


@pytest.mark.parametrize("how", ["cut", "reset"])
def test_a_session_goes_on_over_the_next_connection(
    net: Any, tcp_proxy: Any, event: Callable[..., bytes], how: str
) -> None:
    listener = net.listen(settings=QUICK)
    proxy = tcp_proxy(listener.address.port)
    connector = net.connect(Address("tcp", "127.0.0.1", proxy.port), settings=QUICK)
    sent = []
    for number in range(300):
        sent.append(event(number) * 500)
        send(connector, sent[-1:])
        net.loop.turn(0)
        if number in (50, 150, 151):
            net.until(lambda: connector.peer.session.state is State.ESTABLISHED)
            getattr(proxy, how)()
    net.until(lambda: len(net.sink(connector).payloads) == len(sent))
    assert net.sink(connector).payloads == sent
    assert net.sink(connector).up == 4
    assert len(listener.peers) == 1


def test_a_collector_that_is_not_there_yet(net: Any, tcp_proxy: Any, event: Callable[..., bytes]) -> None:
    listener = net.listen(settings=QUICK)
    proxy = tcp_proxy(listener.address.port)
    proxy.refuse()
    heard: list[KwireError] = []
    connector = net.connect(Address("tcp", "127.0.0.1", proxy.port), settings=QUICK, troubled=heard.append)
    send(connector, [event(1)])
    net.until(lambda: len(heard) >= 2)
    assert "connection refused" in str(heard[0])
    assert str(proxy.port) in str(heard[0])
    proxy.serve()
    net.until(lambda: connector.peer.session.token in net.notes and net.sink(connector).payloads)
    assert connector.problem is None


def test_a_peer_gone_without_a_word_is_missed(net: Any, tcp_proxy: Any, event: Callable[..., bytes]) -> None:
    settings = QUICK._replace(keepalive=0.1)
    listener = net.listen(settings=settings)
    proxy = tcp_proxy(listener.address.port)
    connector = net.connect(Address("tcp", "127.0.0.1", proxy.port), settings=settings)
    net.until(lambda: listener.peers)
    proxy.stall()
    net.until(lambda: State.SUSPENDED in connector.peer.handler.states)
    net.until(lambda: State.SUSPENDED in net.sink(connector).states)
    send(connector, [event(1)])
    proxy.go_on()
    net.until(lambda: net.sink(connector).payloads)
    assert net.sink(connector).payloads == [event(1)]


def test_a_new_session_begins_when_one_has_expired(
    net: Any, tcp_proxy: Any, event: Callable[..., bytes]
) -> None:
    settings = QUICK._replace(expiry=0.3)
    listener = net.listen(settings=settings)
    proxy = tcp_proxy(listener.address.port)
    connector = net.connect(Address("tcp", "127.0.0.1", proxy.port), settings=settings)
    first = connector.peer
    net.until(lambda: first.handler.up)
    proxy.refuse()
    net.until(lambda: first.session.state is State.SUSPENDED)
    sequence = first.session.send(event(1), net.loop.now())
    net.until(lambda: first.ended)
    assert first.session.state is State.EXPIRED
    assert first.abandoned == [sequence]
    proxy.serve()
    net.until(lambda: connector.peer is not first and connector.peer.session.state is State.ESTABLISHED)
    net.until(lambda: len(listener.peers) == 1)


def test_without_retry_the_first_failure_is_the_end(net: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    connector = net.connect(Address("tcp", "127.0.0.1", port), retry=False)
    net.until(lambda: connector.peer.handler.ends)
    assert connector.peer.handler.ends == [str(connector.problem)]
    assert "refused" in connector.peer.handler.ends[0]
    assert connector.closed


def test_without_retry_a_refusal_and_a_port_without_anybody_are_the_end(net: Any) -> None:
    listener = net.listen(refuse=lambda *_: "go away")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        nobody = Address("udp", "127.0.0.1", free.getsockname()[1])
    for address, why in ((listener.address, "go away"), (nobody, "refused")):
        notes = net.note()
        connector = net.connect(address, notes, retry=False)
        net.until(lambda notes=notes: notes.ends)
        assert why in notes.ends[0]
        assert connector.closed


def test_without_retry_a_session_that_was_up_is_resumed(
    net: Any, tcp_proxy: Any, event: Callable[..., bytes]
) -> None:
    listener = net.listen(settings=QUICK)
    proxy = tcp_proxy(listener.address.port)
    connector = net.connect(Address("tcp", "127.0.0.1", proxy.port), settings=QUICK, retry=False)
    net.until(lambda: connector.peer.session.state is State.ESTABLISHED)
    proxy.refuse()
    net.until(lambda: connector.peer.session.state is State.SUSPENDED)
    net.run(0.5)
    proxy.serve()
    send(connector, [event(1)])
    net.until(lambda: net.sink(connector).payloads)
    connector.peer.close()
    net.until(lambda: connector.closed)


def test_a_refusal_is_told(net: Any) -> None:
    heard: list[KwireError] = []
    listener = net.listen(refuse=lambda *_: "go away")
    connector = net.connect(listener.address, troubled=heard.append)
    net.until(lambda: heard)
    assert "go away" in str(heard[0])
    assert not listener.peers
    assert not connector.peer.ended


def test_two_connections_with_one_token_the_newer_has_it(net: Any, event: Callable[..., bytes]) -> None:
    """As after a break that only one side has noticed."""
    listener = net.listen(settings=QUICK)
    connector = net.connect(listener.address, settings=QUICK)
    net.until(lambda: listener.peers)
    (peer,) = listener.peers.values()
    old = peer.transport
    # the connector forgets its connection without closing it, as a machine does whose link was down
    connector.peer.transport.receiver = None
    connector.peer.transport = None
    connector.peer.session.disconnected(net.loop.now(), "test")
    connector._begin()
    net.until(lambda: connector.peer.session.state is State.ESTABLISHED)
    assert list(listener.peers.values()) == [peer]
    assert peer.transport is not old
    send(connector, [event(1)])
    net.until(lambda: net.sink(connector).payloads)


@pytest.mark.parametrize("kind", ["tcp", "tls"])
def test_in_any_disorder_everything_arrives_once(
    net: Any, tcp_proxy: Any, event: Callable[..., bytes], tls: Callable[[str], TlsOptions], kind: str
) -> None:
    """Five agents through a network that is cut, reset, stalled and slow, at random."""
    import random

    chance = random.Random(7)
    settings = QUICK._replace(keepalive=0.2, memory=100 << 20)
    listener = net.listen(parse(f"{kind}:127.0.0.1:0"), tls("collector"), settings=settings)
    proxy = tcp_proxy(listener.address.port)
    connectors = [
        net.connect(Address(kind, "127.0.0.1", proxy.port), tls=tls("agent"), settings=settings)
        for _ in range(5)
    ]
    sent: list[list[bytes]] = [[] for _ in connectors]
    for _ in range(25):
        for connector, payloads in zip(connectors, sent, strict=True):
            connector._pause = 0.01
            more = [event(len(payloads) + index) * chance.choice((1, 10, 900)) for index in range(20)]
            payloads += more
            send(connector, more)
        net.run(chance.choice((0.0, 0.02, 0.05)))
        match chance.randrange(6):
            case 0:
                proxy.cut()
            case 1:
                proxy.reset()
            case 2:
                proxy.stall()
            case 3:
                proxy.delay = 0.02
            case _:
                proxy.delay = 0.0
                proxy.go_on()
    proxy.delay = 0.0
    proxy.go_on()
    for connector in connectors:
        connector.peer.close()
    net.until(lambda: all(connector.closed for connector in connectors))
    for connector, payloads in zip(connectors, sent, strict=True):
        assert net.sink(connector).payloads == payloads
        assert connector.peer.session.state is State.CLOSED


# ---------------------------------------------------------------------- datagrams


def test_over_a_bad_network_everything_arrives_once(
    net: Any, udp_proxy: Any, event: Callable[..., bytes]
) -> None:
    listener = net.listen(parse("udp:127.0.0.1:0"), settings=QUICK)
    proxy = udp_proxy(listener.address.port)
    proxy.loss, proxy.repeat, proxy.reorder, proxy.delay = 0.1, 0.1, 0.2, 0.005
    connector = net.connect(Address("udp", "127.0.0.1", proxy.port), settings=QUICK)
    sent = [event(number) * 19 for number in range(500)]
    send(connector, sent)
    connector.peer.close()
    net.until(lambda: connector.peer.handler.ends)
    assert net.sink(connector).payloads == sent
    assert connector.peer.session.state is State.CLOSED
    assert proxy.lost > 50


def test_after_a_change_of_address_the_session_resumes(
    net: Any, udp_proxy: Any, event: Callable[..., bytes]
) -> None:
    settings = QUICK._replace(keepalive=0.1, rto_max=0.5)
    listener = net.listen(parse("udp:127.0.0.1:0"), settings=settings)
    proxy = udp_proxy(listener.address.port)
    connector = net.connect(Address("udp", "127.0.0.1", proxy.port), settings=settings)
    send(connector, [event(1)])
    net.until(lambda: connector.peer.session.token in net.notes and net.sink(connector).payloads)
    (peer,) = listener.peers.values()
    before = peer.address
    proxy.rebind()
    send(connector, [event(2)])
    net.until(lambda: len(net.sink(connector).payloads) == 2)
    assert list(listener.peers.values()) == [peer]
    assert peer.address != before


def test_a_port_where_nobody_listens_is_noticed(net: Any) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    heard: list[KwireError] = []
    net.connect(Address("udp", "127.0.0.1", port), troubled=heard.append)
    net.until(lambda: len(heard) >= 2)
    assert "refused" in str(heard[0])


def test_many_peers_on_one_socket(net: Any, event: Callable[..., bytes]) -> None:
    listener = net.listen(parse("udp:127.0.0.1:0"), settings=QUICK)
    connectors = [net.connect(listener.address, settings=QUICK) for _ in range(20)]
    for number, connector in enumerate(connectors):
        send(connector, [event(number)] * 5)
        connector.peer.close()
    net.until(lambda: all(connector.closed for connector in connectors))
    for number, connector in enumerate(connectors):
        assert net.sink(connector).payloads == [event(number)] * 5


# ---------------------------------------------------------------------- names and sockets


def test_the_addresses_of_a_name_are_tried_in_turn(
    net: Any, monkeypatch: pytest.MonkeyPatch, event: Callable[..., bytes]
) -> None:
    listener = net.listen()
    port = listener.address.port
    asked: list[str] = []

    def resolve(address: Address, listening: bool = False) -> list[tuple[int, Any]]:
        asked.append(threading.current_thread().name)
        return [(socket.AF_INET6, ("::1", port, 0, 0)), (socket.AF_INET, ("127.0.0.1", port))]

    monkeypatch.setattr("kwire.transport.connect.resolve", resolve)
    heard: list[KwireError] = []
    connector = net.connect(Address("tcp", "localhost", port), troubled=heard.append)
    net.until(lambda: connector.peer.session.state is State.ESTABLISHED)
    assert len(heard) == 1
    assert asked != [threading.main_thread().name], "names are looked up beside the loop"


def test_over_datagrams_too_the_addresses_of_a_name_are_tried_in_turn(
    net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = net.listen(parse("udp:127.0.0.1:0"))
    port = listener.address.port
    places = [(socket.AF_INET6, ("::1", port, 0, 0)), (socket.AF_INET, ("127.0.0.1", port))]
    monkeypatch.setattr("kwire.transport.connect.resolve", lambda address: places)
    connector = net.connect(Address("udp", "localhost", port))
    net.until(lambda: connector.peer.session.state is State.ESTABLISHED)
    assert connector.peer.address == str(listener.address)


def test_a_local_name_that_is_elsewhere_is_not_spoken_to(net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "kwire.transport.connect.resolve", lambda address: [(socket.AF_INET, ("192.0.2.1", address.port))]
    )
    heard: list[KwireError] = []
    net.connect(Address("tcp", "localhost", 1), troubled=heard.append)
    net.until(lambda: heard)
    assert "could be read and changed on the way" in str(heard[0])


def test_a_name_that_is_none_is_told_and_asked_again(net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(address: Address) -> list[tuple[int, Any]]:
        raise KwireError("look up", address.host, "name or service not known", "check the name")

    monkeypatch.setattr("kwire.transport.connect.resolve", resolve)
    heard: list[KwireError] = []
    net.connect(parse("tcp:nobody.invalid:5"), insecure=True, troubled=heard.append)
    net.until(lambda: len(heard) >= 2)
    assert "look up nobody.invalid" in str(heard[0])


@pytest.mark.parametrize("text", ["tcp:10.0.0.1", "udp:10.0.0.1", "tcp:", "udp:[::]:0"])
def test_nothing_in_the_clear_unless_it_is_written_out(net: Any, text: str) -> None:
    for begin in (net.listen, net.connect):
        with pytest.raises(KwireError, match="--insecure"):
            begin(parse(text))


def test_listening_on_all_addresses_has_one_port(net: Any) -> None:
    listener = net.listen(Address("tcp", "", 0), insecure=True)
    families = {bound.family for bound in listener._sockets}
    assert len({bound.getsockname()[1] for bound in listener._sockets}) == 1
    assert socket.AF_INET in families
    for host in ("127.0.0.1", "::1")[: len(families)]:
        connector = net.connect(Address("tcp", host, listener.address.port))
        net.until(lambda connector=connector: connector.peer.session.state is State.ESTABLISHED)


def test_a_port_that_is_taken_is_one_line(net: Any) -> None:
    listener = net.listen()
    with pytest.raises(KwireError, match="something listens there already"):
        net.listen(listener.address)
    with pytest.raises(KwireError, match="no address of this machine"):
        net.listen(parse("tcp:192.0.2.1:0"), insecure=True)


def test_unix_sockets_and_their_files(net: Any, tmp_path: Path) -> None:
    path = tmp_path / "s"
    address = Address("unix", path=str(path), port=0)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
        stale.listen()
    assert path.exists()
    listener = net.listen(address)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(KwireError, match="something listens there already"):
        net.listen(address)
    connector = net.connect(address)
    net.until(lambda: connector.peer.session.state is State.ESTABLISHED)
    listener.close()
    assert not path.exists()
    path.write_text("mine")
    with pytest.raises(KwireError, match="listen on"):
        net.listen(address)
    assert path.read_text() == "mine"
    with pytest.raises(KwireError, match="make the directory first"):
        net.listen(Address("unix", path=str(tmp_path / "no" / "s"), port=0))


def test_the_file_of_a_successor_is_left_alone(net: Any, tmp_path: Path) -> None:
    address = Address("unix", path=str(tmp_path / "s"), port=0)
    first = net.listen(address)
    os.unlink(address.path)
    net.listen(address)
    first.close()
    assert Path(address.path).exists()


def test_a_path_with_nobody(net: Any, tmp_path: Path) -> None:
    heard: list[KwireError] = []
    net.connect(Address("unix", path=str(tmp_path / "s"), port=0), troubled=heard.append)
    net.until(lambda: heard)
    assert "is it running there?" in str(heard[0])


# ---------------------------------------------------------------------- back-pressure


@pytest.mark.parametrize("kind", STREAMS)
def test_what_waits_for_a_slow_reader_is_bounded(
    net: Any, start: Start, event: Callable[..., bytes], kind: str
) -> None:
    """The sink stores nothing: the source fills its send queue, and no more than the window is sent."""
    settings = QUICK._replace(memory=3 << 20, window=1 << 20)
    listener, connector = start(kind, settings, stuck=True)
    payload = event(1) * 900
    sent = 0
    net.until(lambda: connector.peer.session.state is State.ESTABLISHED)
    for _ in range(200):
        while connector.peer.session.room >= len(payload):
            send(connector, [payload])
            sent += 1
        net.loop.turn(0.001)
    assert sent * len(payload) <= settings.memory
    arrived = net.sink(connector).payloads
    assert 0 < len(arrived) * len(payload) <= settings.window + len(payload)
    notes = net.sink(connector)
    (peer,) = listener.peers.values()
    notes.stuck = False
    peer.session.consumed(len(arrived) - 1, net.loop.now())
    peer.flush()
    net.until(lambda: len(net.sink(connector).payloads) == sent)
    handler: Any = connector.peer.handler
    assert handler.room >= 1, "the source was told that there is room again"


def test_a_busy_peer_does_not_starve_the_others(net: Any, event: Callable[..., bytes]) -> None:
    listener = net.listen()
    busy, calm = net.connect(listener.address), net.connect(listener.address)
    net.until(lambda: len(listener.peers) == 2)
    payload = event(1) * 900
    for number in range(50):
        while busy.peer.session.room >= len(payload):
            send(busy, [payload])
        send(calm, [event(number)])
        turns = 0
        while len(net.sink(calm).payloads) <= number:
            net.loop.turn(0.01)
            turns += 1
            assert turns < 50


def test_a_source_that_fills_its_send_queue_whenever_it_is_told_gets_everything_through(
    net: Any, event: Callable[..., bytes]
) -> None:
    from kwire.transport.peer import Handler

    payload = event(1) * 900

    class Filler(Handler):
        left = 200

        def established(self, peer: Peer) -> None:
            self.writable(peer)

        def writable(self, peer: Peer) -> None:
            while self.left and peer.session.room >= len(payload):
                peer.session.send(payload, peer.loop.now())
                self.left -= 1
            if not self.left:
                peer.close()
            peer.flush()

    listener = net.listen()
    connector = net.connect(listener.address, Filler(), settings=QUICK._replace(memory=500_000))
    net.until(lambda: connector.closed)
    assert net.sink(connector).payloads == [payload] * 200


def test_limits_are_a_table() -> None:
    assert Limits()._fields == (
        *("sessions", "per_address", "half_open", "half_open_per_address", "half_open_seconds"),
        *("handshakes", "handshakes_per_address", "refusals"),
    )
    assert addresses.DEFAULT_PORT == 17800
    assert Peer.__slots__


class Heard:
    """A receiver that keeps what it gets."""

    def __init__(self) -> None:
        self.data = b""
        self.why: str | None = None

    def received(self, data: memoryview) -> None:
        self.data += bytes(data)

    def settled(self) -> None:
        pass

    def writable(self) -> None:
        pass

    def broken(self, why: str) -> None:
        self.why = why


def test_what_came_before_a_connection_broke_is_read(net: Any) -> None:
    """Sending fails first: the other side has said something, and closed."""
    ours, theirs = socket.socketpair()
    prepare(ours)
    transport, heard = StreamTransport(net.loop, ours, "unix:x"), Heard()
    transport.open(heard)

    def send() -> None:
        theirs.sendall(b"said last")
        theirs.close()
        assert transport.send([b"too late"]) == []

    net.loop.at(net.loop.now(), send)
    net.until(lambda: heard.why is not None)
    assert heard.data == b"said last"
