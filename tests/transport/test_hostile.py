"""Hostile peers over real sockets: each test does something bad, and others are served meanwhile."""

from __future__ import annotations

import os
import random
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from traces import open_descriptors
from waiting import PATIENCE

from kwire.collector.folder import Folder
from kwire.transport import half_open
from kwire.transport.address import Address, parse
from kwire.transport.connect import Connector
from kwire.transport.half_open import HalfOpen, Limits, Roster
from kwire.transport.listen import Listener
from kwire.transport.tls import TlsOptions
from kwire.wire import cbor
from kwire.wire.control import Ack, Hello, Role, Welcome, bye_frame
from kwire.wire.frame import Flag, Type, build, read_strict
from kwire.wire.session import Session
from kwire.wire.settings import Settings
from kwire.wire.transitions import State

QUICK = Settings(rto_first=0.05, rto_min=0.02, keepalive=1.0, ack_delay=0.01)
STRICT = Limits(half_open=20, half_open_per_address=10, half_open_seconds=0.3)
ELSEWHERE = "127.0.0.2"
"""Another address of this machine: attackers come from there, so limits for each address tell them apart."""

Served = Callable[[], None]


class Stranger:
    """A raw socket; the loop runs while it waits."""

    def __init__(self, net: Any, listener: Listener, source: str = ELSEWHERE) -> None:
        self.net = net
        kind = socket.SOCK_DGRAM if listener.address.datagrams else socket.SOCK_STREAM
        self.socket = socket.socket(socket.AF_INET, kind)
        self.socket.bind((source, 0))
        self.socket.connect(("127.0.0.1", listener.address.port))
        self.socket.setblocking(False)
        self.got = b""
        self.gone = False

    def send(self, data: bytes) -> None:
        try:
            self.socket.send(data)
        except OSError:
            self.gone = True

    def hear(self) -> bytes:
        """Whatever has come so far."""
        try:
            while True:
                data = self.socket.recv(1 << 16)
                self.got += data
                if not data:
                    self.gone = True
                    break
        except BlockingIOError:
            pass
        except OSError:
            self.gone = True
        return self.got

    def until_gone(self) -> None:
        self.net.until(lambda: self.hear() is not None and self.gone)

    def frames(self, count: int = 1) -> list[Any]:
        """The frames that have come, once there are so many."""

        def parsed() -> list[Any]:
            self.hear()
            frames, offset = [], 0
            while offset + 8 <= len(self.got):
                length = struct.unpack_from(">H", self.got, offset + 2)[0]
                if offset + length > len(self.got):
                    break
                frames.append(read_strict(self.got[offset : offset + length]))
                offset += length
            return frames

        self.net.until(lambda: len(parsed()) >= count)
        return parsed()

    def close(self) -> None:
        self.socket.close()


def hello(token: bytes = b"", **more: Any) -> Hello:
    return Hello(token or os.urandom(16), random.getrandbits(32), Role.SOURCE, **more)


@pytest.fixture
def stranger(net: Any) -> Iterator[Callable[..., Stranger]]:
    made: list[Stranger] = []

    def make(listener: Listener, source: str = ELSEWHERE) -> Stranger:
        made.append(Stranger(net, listener, source))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def served(net: Any, event: Callable[..., bytes], tls: Callable[[str], TlsOptions]) -> Callable[..., Served]:
    """Give a check that a peer from before is still served, and that a new one is."""

    def begin(listener: Listener) -> Served:
        def come() -> Connector:
            connector: Connector = net.connect(
                listener.address, tls=tls("agent"), settings=QUICK, insecure=True
            )
            return connector

        old = come()
        net.until(lambda: old.peer.session.state is State.ESTABLISHED)
        first = old.peer
        sent: list[bytes] = []

        def check() -> None:
            new = come()
            sent.append(event(len(sent)))
            for connector, payload in ((old, sent[-1]), (new, b"")):
                if payload:
                    connector.peer.session.send(payload, net.loop.now())
                    connector.peer.flush()
            net.until(lambda: net.sink(old).payloads == sent)
            net.until(lambda: new.peer.session.state is State.ESTABLISHED)
            assert old.peer is first
            assert net.sink(old).up == 1, "it never lost its connection"
            new.peer.close()
            net.until(lambda: new.closed)

        return check

    return begin


# ---------------------------------------------------------------------- half-open


@pytest.mark.parametrize("kind", ["tcp", "tls"])
def test_who_says_nothing_is_dropped(
    net: Any, stranger: Any, served: Any, tls: Callable[[str], TlsOptions], kind: str
) -> None:
    listener = net.listen(parse(f"{kind}:127.0.0.1:0"), tls("collector"), STRICT, QUICK)
    check = served(listener)
    silent = [stranger(listener) for _ in range(5)]
    silent[1].send(b"\x16\x03\x01")  # the beginning of a handshake, of TLS
    silent[2].send(hello().frame()[:20])
    check()
    for one in silent:
        one.until_gone()
    assert not listener._half_open
    check()


def test_a_handshake_of_tls_without_a_hello_after_it_is_dropped(
    net: Any, stranger: Any, served: Any, tls: Callable[[str], TlsOptions]
) -> None:
    from kwire.transport.tls import Handshake, client_context

    listener = net.listen(parse("tls:127.0.0.1:0"), tls("collector"), STRICT, QUICK)
    check = served(listener)
    done: list[Any] = []
    one = stranger(listener)
    Handshake(net.loop, one.socket, client_context(tls("client")), "localhost", done.append, done.append)
    net.until(lambda: done)
    check()
    net.until(lambda: not listener._half_open)
    done[0].close()


def test_a_hello_byte_by_byte_is_dropped_in_time(net: Any, stranger: Any, served: Any) -> None:
    listener = net.listen(limits=STRICT, settings=QUICK)
    check = served(listener)
    slow = [stranger(listener) for _ in range(5)]
    said = hello().frame()
    for index in range(len(said) - 1):
        for one in slow:
            one.send(said[index : index + 1])
        net.run(0.01)
        if all(one.hear() is not None and one.gone for one in slow):
            break
    assert all(one.gone for one in slow)
    check()


def test_a_half_open_that_says_nothing_does_not_keep_others_out(net: Any, stranger: Any, served: Any) -> None:
    listener = net.listen(limits=STRICT, settings=QUICK)
    check = served(listener)
    half_open = [stranger(listener) for _ in range(100)]
    net.run(0.05)
    assert len(listener._half_open) <= STRICT.half_open_per_address
    check()
    net.until(lambda: sum(one.hear() is not None and one.gone for one in half_open) == 100)


def test_a_half_open_from_everywhere_gives_way_after_a_while(
    net: Any, stranger: Any, served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kwire.transport.half_open.GRACE", 0.1)
    limits = STRICT._replace(half_open_seconds=60)
    listener = net.listen(limits=limits, settings=QUICK)
    check = served(listener)
    half_open = [stranger(listener, f"127.0.1.{number}") for number in range(60)]
    net.run(0.2)
    assert len(listener._half_open) == limits.half_open
    check()
    assert sum(one.hear() is not None and one.gone for one in half_open) >= 40


@pytest.mark.parametrize("kind", ["tcp", "tls"])
def test_connections_that_are_reset_at_once_leave_nothing(
    net: Any, stranger: Any, served: Any, tls: Callable[[str], TlsOptions], kind: str
) -> None:
    listener = net.listen(parse(f"{kind}:127.0.0.1:0"), tls("collector"), STRICT, QUICK)
    check = served(listener)
    for number in range(60):
        one = stranger(listener)
        if number % 3:
            one.send(hello().frame() if number % 2 else b"\x16\x03\x01\x00\x05hello")
        if number % 5 == 0:
            net.loop.turn(0)
        one.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.close()
    net.run(0.05)
    check()
    net.until(lambda: not listener._half_open)


# ---------------------------------------------------------------------- floods


def test_a_flood_of_hellos_over_tcp_ends_at_the_limits(net: Any, stranger: Any, served: Any) -> None:
    listener = net.listen(limits=Limits(per_address=10, refusals=5), settings=QUICK)
    check = served(listener)
    flood = [stranger(listener) for _ in range(60)]
    for one in flood:
        one.send(hello().frame())
    net.until(lambda: sum(bool(one.hear()) for one in flood) >= 15)
    check()
    net.until(lambda: sum(one.hear() is not None and one.gone for one in flood) == 50)
    assert len(listener.peers) == 10 + 1
    refused = [Welcome.read(one.frames()[0]).refused for one in flood if one.gone and one.got]
    assert set(refused) == {"too many sessions of this address"}
    assert len(refused) <= 15, "refusals are limited"


def test_the_sessions_of_all_are_limited_and_old_ones_may_come_back(
    net: Any, stranger: Any, served: Any, event: Callable[..., bytes]
) -> None:
    listener = net.listen(limits=Limits(sessions=5), settings=QUICK)
    mine = [net.connect(listener.address, settings=QUICK) for _ in range(2)]
    net.until(lambda: len(listener.peers) == 2)
    flood = [stranger(listener, f"127.0.1.{number}") for number in range(20)]
    for one in flood:
        one.send(hello().frame())
    net.until(lambda: sum(one.hear() is not None and one.gone for one in flood) == 17)
    for connector in mine:
        connector.peer.detach("test")
        connector._begin()
    net.until(lambda: all(connector.peer.session.state is State.ESTABLISHED for connector in mine))
    assert len(listener.peers) == 5


def test_a_flood_of_hellos_over_udp_is_answered_by_no_more_than_it_sent_and_leaves_nothing(
    net: Any, stranger: Any, served: Any
) -> None:
    listener = net.listen(parse("udp:127.0.0.1:0"), settings=QUICK)
    check = served(listener)
    flood = [stranger(listener, f"127.0.1.{number}") for number in range(1, 100)]
    sent = []
    for number, one in enumerate(flood):
        said = hello().frame(Flag.CHECKSUM, size=0 if number % 2 else 512)
        sent.append(len(said))
        one.send(said)
    check()
    net.run(0.2)
    answered = [len(one.hear()) for one in flood]
    assert all(got <= size for got, size in zip(answered, sent, strict=True))
    assert sum(map(bool, answered)) >= 40
    for one in flood:
        if one.got:
            assert Welcome.read(read_strict(one.got)).cookie
    assert len(listener.peers) == 1
    assert len(listener._servers[0].peers) <= 2
    assert len(net.sinks) == 2, "nobody was asked for a session for them"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        bytes(8),
        build(Type.KEEPALIVE, 0, b"", Flag.CHECKSUM),
        build(Type.DATA, 1, b"x" * 1000, Flag.CHECKSUM),
        build(Type.REQUEST, 1, b"\xa0", Flag.CHECKSUM),
        bye_frame(1, "gone", Flag.CHECKSUM),
        hello().frame(),
        hello().frame(Flag.CHECKSUM, 512)[:-1] + b"\0",
    ],
    ids=["nothing", "short", "zeros", "keepalive", "data", "request", "bye", "hello", "wrong checksum"],
)
def test_strange_datagrams_are_not_answered(net: Any, stranger: Any, served: Any, data: bytes) -> None:
    listener = net.listen(parse("udp:127.0.0.1:0"), settings=QUICK)
    check = served(listener)
    one = stranger(listener)
    for _ in range(100):
        one.send(data)
    check()
    assert len(one.hear()) <= 100 * len(data)
    assert not one.got or data.startswith(hello().frame()[:2])
    assert len(listener.peers) == 1


def test_a_cookie_is_good_for_its_address_and_token_only(net: Any, stranger: Any) -> None:
    listener = net.listen(parse("udp:127.0.0.1:0"), settings=QUICK)
    first, second = stranger(listener), stranger(listener)
    said = hello()
    first.send(said.frame(Flag.CHECKSUM, 512))
    cookie = Welcome.read(first.frames()[0]).cookie
    assert cookie
    second.send(said._replace(cookie=cookie).frame(Flag.CHECKSUM, 512))
    assert Welcome.read(second.frames()[0]).cookie, "stolen: it is challenged again"
    second.send(said._replace(token=os.urandom(16), cookie=cookie).frame(Flag.CHECKSUM, 512))
    assert Welcome.read(second.frames(1)[0]).cookie
    assert not listener.peers
    first.got = b""
    first.send(said._replace(cookie=cookie).frame(Flag.CHECKSUM, 512))
    assert not Welcome.read(first.frames()[0]).cookie
    assert len(listener.peers) == 1


# ---------------------------------------------------------------------- replayed and forged


def test_a_hello_replayed_by_another_identity_does_not_take_the_session(
    net: Any, served: Any, tls: Callable[[str], TlsOptions], event: Callable[..., bytes]
) -> None:
    listener = net.listen(parse("tls:127.0.0.1:0"), tls("collector"), settings=QUICK)
    check = served(listener)
    token = next(iter(net.sinks))
    thief = net.connect(listener.address, tls=tls("client"), settings=QUICK)
    thief.peer.session.token = token
    net.until(lambda: thief.problem)
    assert "another's" in str(thief.problem)
    check()


def test_a_session_that_is_replayed_in_the_clear_delivers_nothing_twice(
    net: Any, stranger: Any, event: Callable[..., bytes]
) -> None:
    """Who has recorded a session over TCP can interrupt it for a moment, and no more."""
    said: list[bytes] = []

    class Recorded(Session):
        def transmit(self, limit: int, now: float | None = None) -> list[Any]:
            buffers = super().transmit(limit, now)
            said.extend(map(bytes, buffers))
            return buffers

    listener = net.listen(settings=QUICK)
    mine = net.connect(listener.address, settings=QUICK, sort=Recorded)
    session = mine.peer.session
    sent = [event(number) for number in range(10)]
    for payload in sent[:5]:
        session.send(payload, net.loop.now())
    mine.peer.flush()
    net.until(lambda: len(net.sink(mine).payloads) == 5)
    for _ in range(3):
        replayer = stranger(listener)
        replayer.send(b"".join(said))
        net.run(0.1)
        assert net.sink(mine).payloads == sent[:5]
        replayer.close()
    for payload in sent[5:]:
        session.send(payload, net.loop.now())
    mine.peer.flush()
    net.until(lambda: len(net.sink(mine).payloads) == 10)
    assert net.sink(mine).payloads == sent
    assert len(listener.peers) == 1


def test_forged_datagrams_from_other_addresses_change_nothing(
    net: Any, stranger: Any, served: Any, event: Callable[..., bytes]
) -> None:
    listener = net.listen(parse("udp:127.0.0.1:0"), settings=QUICK)
    check = served(listener)
    (peer,) = listener.peers.values()
    forger = stranger(listener)
    number = peer.session.next_expected
    for frame in (
        build(Type.DATA, number, event(666), Flag.CHECKSUM),
        bye_frame(number, "forged", Flag.CHECKSUM),
        Ack(number, 0).frame(Flag.CHECKSUM),
        hello(peer.session.token, resume=True, next=number).frame(Flag.CHECKSUM, 512),
    ):
        forger.send(frame)
    check()
    assert event(666) not in net.sink(net.connectors[0]).payloads


FORGERIES: dict[str, bytes] = {
    "ACK to a sink": Ack(5, 1000).frame(),
    "WELCOME to a responder": Welcome(bytes(16), 1, Role.SINK).frame(),
    "DATA far ahead": build(Type.DATA, 1 << 30, b"x" * 100),
    "an EVENT alone": build(Type.EVENT, 1, bytes(64)),
    "a reserved type": b"\x1e\0\0\x08\0\0\0\0",
    "another version": b"\x25\0\0\x08\0\0\0\0",
    "reserved flags": b"\x10\x80\0\x08\0\0\0\0",
    "a length of 0": b"\x12\0\0\0\0\0\0\0",
    "bad CBOR": build(Type.REQUEST, 1, b"\xff" * 50),
    "CBOR claiming 2^60 items": build(Type.REQUEST, 1, b"\xbb\x10" + bytes(7)),
    "an ACK that is none": build(Type.ACK, 1, b"abc"),
    "BYE too early": bye_frame(1000, "x"),
    "ERROR": build(Type.ERROR, 1, b"\xa1dcode\x01"),
    "garbage": random.Random(5).randbytes(5000),
}


@pytest.mark.parametrize("what", FORGERIES)
def test_forged_frames_in_a_session_hurt_that_session_only(
    net: Any, stranger: Any, served: Any, what: str
) -> None:
    listener = net.listen(settings=QUICK._replace(expiry=0.3))
    check = served(listener)
    bad = stranger(listener)
    said = hello()
    bad.send(said.frame())
    assert not Welcome.read(bad.frames()[0]).refused
    for _ in range(200):
        bad.send(FORGERIES[what])
    check()
    errors = [frame for frame in bad.frames() if frame.header.type == Type.ERROR]
    assert len(errors) <= 2 * QUICK.errors, "ERROR is never answered, and others not more often than that"
    if what == "ERROR":
        assert not errors
    bad.close()
    net.until(lambda: len(listener.peers) == 1)


BEGINNINGS: dict[str, bytes] = {
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
    "a length of 65535": b"\x13\0\xff\xff\0\0\0\0",
    "a length of 7": b"\x13\0\0\x07\0\0\0\0",
    "DATA": build(Type.DATA, 0, b"x"),
    "a HELLO with a wrong checksum": hello().frame(Flag.CHECKSUM)[:-1] + b"\0",
    "a HELLO that is a list": build(Type.HELLO, 0, b"\x80"),
    "a HELLO without a token": build(Type.HELLO, 0, b"\xa0"),
    "a HELLO too deep": build(Type.HELLO, 0, b"\xa1aa" + b"\x81" * 3000 + b"\x01"),
    "garbage": random.Random(7).randbytes(100_000),
}


@pytest.mark.parametrize("what", BEGINNINGS)
def test_what_is_no_hello_ends_at_once(net: Any, stranger: Any, served: Any, what: str) -> None:
    listener = net.listen(limits=Limits(half_open_seconds=1000), settings=QUICK)
    check = served(listener)
    bad = stranger(listener)
    bad.send(BEGINNINGS[what])
    bad.until_gone()
    check()
    assert not bad.got


# ---------------------------------------------------------------------- those who do not read


def test_a_sink_that_never_reads_costs_a_bounded_memory_and_is_given_up(
    net: Any, event: Callable[..., bytes]
) -> None:
    """We are the source: the other side says WELCOME with a wide window, then reads nothing."""
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(PATIENCE)
    settings = QUICK._replace(memory=4 << 20, keepalive=0.2)
    connector = net.connect(Address("tcp", "127.0.0.1", server.getsockname()[1]), settings=settings)
    net.run(0.1)
    other, _ = server.accept()
    other.settimeout(PATIENCE)
    said = Hello.read(read_strict(other.recv(4096)))
    other.sendall(Welcome(said.token, said.nonce, Role.SINK, window=0xFFFFFFFF).frame())
    net.until(lambda: connector.peer.session.state is State.ESTABLISHED)
    payload = event(1) * 900
    while connector.peer.session.room >= len(payload):
        connector.peer.session.send(payload, net.loop.now())
        connector.peer.flush()
        net.loop.turn(0)
    assert sum(map(len, connector.peer._backlog)) <= 1 << 19
    net.until(lambda: connector.peer.session.state is State.SUSPENDED)
    assert connector.peer._backlog == []
    other.close()
    server.close()


def test_a_source_that_never_reads_costs_a_bounded_memory(
    net: Any, stranger: Any, served: Any, event: Callable[..., bytes]
) -> None:
    """It sends DATA and asks, and reads neither ACKs nor replies."""
    listener = net.listen(settings=QUICK._replace(expiry=0.3))
    check = served(listener)
    bad = stranger(listener)
    bad.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    said = hello()
    bad.send(said.frame())
    net.until(lambda: len(listener.peers) == 2)
    peer = next(peer for peer in listener.peers.values() if peer.session.token == said.token)
    request = build(Type.REQUEST, 1, cbor.dumps({"x": "y" * 60_000}))
    for _ in range(300):
        bad.send(request)
        net.loop.turn(0)
    check()
    waiting = sum(map(len, peer._backlog)) + sum(map(len, peer.session._out))
    assert waiting <= 8 << 20, "what waits for one that does not read"


def test_memory_of_a_session_that_fills_its_window(
    net: Any, stranger: Any, served: Any, event: Callable[..., bytes]
) -> None:
    """A source over datagrams that leaves out the first DATA, so that the sink must hold all others."""
    settings = QUICK._replace(window=100_000)
    listener = net.listen(parse("udp:127.0.0.1:0"), settings=settings)
    check = served(listener)
    bad = stranger(listener)
    said = hello()
    bad.send(said.frame(Flag.CHECKSUM, 512))
    cookie = Welcome.read(bad.frames()[0]).cookie
    bad.send(said._replace(cookie=cookie).frame(Flag.CHECKSUM, 512))
    net.until(lambda: len(listener.peers) == 2)
    for number in range(1, 2000):
        bad.send(build(Type.DATA, number, event(number) * 19, Flag.CHECKSUM))
        if number % 50 == 0:
            net.loop.turn(0)
    check()
    session = net.sinks[said.token]
    held = sum(map(len, session._receiver._held.values()))
    assert held <= settings.window


# ---------------------------------------------------------------------- descriptors


def test_a_process_without_descriptors_left_goes_on(net: Any, served: Any) -> None:
    import resource

    listener = net.listen(settings=QUICK)
    check = served(listener)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = open_descriptors()
    taken = [socket.socket() for _ in range(5)]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 4, hard))
        taken[0].connect(("127.0.0.1", listener.address.port))
        net.run(0.2)
        assert len(listener.peers) == 1
        (old,) = net.connectors[:1]
        old.peer.session.send(b"", net.loop.now())
        old.peer.flush()
        net.until(lambda: len(net.sink(old).payloads) == 1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for one in taken:
            one.close()
    net.sink(old).payloads.clear()
    check()


def test_a_few_addresses_that_connect_as_fast_as_they_can_keep_nobody_out(
    net: Any, tls: Callable[[str], TlsOptions]
) -> None:
    """Four addresses begin handshakes and leave them; a new agent comes, and a known one comes again."""
    listener = net.listen(parse("tls:127.0.0.1:0"), tls("collector"), settings=QUICK)
    place = ("127.0.0.1", listener.address.port)
    known = net.connect(listener.address, tls=tls("agent"), settings=QUICK)
    net.until(lambda: known.peer.session.state is State.ESTABLISHED)
    ends: list[socket.socket] = []

    def flood() -> None:
        for last in range(2, 6):
            for _ in range(25):
                end = socket.socket()
                end.setblocking(False)
                end.bind((f"127.0.0.{last}", 0))
                end.connect_ex(place)
                ends.append(end)
        for end in ends[:-1000]:
            end.close()
        del ends[:-1000]

    for _ in range(30):
        flood()
        net.run(0.02)
    new = net.connect(listener.address, tls=tls("client"), settings=QUICK)
    known.peer.detach("a break")
    known._detached(known.peer, "a break")

    def both() -> bool:
        flood()
        return all(one.peer.session.state is State.ESTABLISHED for one in (new, known))

    net.until(both)
    assert len(listener._half_open) <= 2 * Limits().half_open
    for end in ends:
        end.close()


def test_a_newcomer_takes_the_place_of_who_has_most() -> None:
    roster = Roster()
    waiting = HalfOpen(Limits(half_open=10, half_open_per_address=10), roster)
    dropped: list[str] = []

    class Waiting:
        known, began = False, 0.0

        def __init__(self, host: str) -> None:
            self.host = host

        def drop(self) -> None:
            dropped.append(self.host)
            waiting.remove(self)  # type: ignore[arg-type]

    for host in ["greedy"] * 8 + ["modest"] * 2:
        assert waiting.make_room(host, 0.1)
        waiting.add(Waiting(host))  # type: ignore[arg-type]
    assert waiting.make_room("new", 0.1)
    assert dropped == ["greedy"]
    waiting.add(Waiting("new"))  # type: ignore[arg-type]
    assert not waiting.make_room("greedy", 0.1)  # who has most does not get more
    assert all(waiting.may_shake("greedy", 5.0) for _ in range(Limits().handshakes_per_address))
    assert not waiting.may_shake("greedy", 5.0)
    assert waiting.may_shake("greedy", 6.0)


def test_who_was_known_before_a_restart_comes_in_through_a_half_open_of_strangers(
    net: Any, tls: Callable[[str], TlsOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strangers hold all places for ever; an agent whose address is not known waits, one that is comes in."""
    monkeypatch.setattr(half_open, "GRACE", 1e9)
    limits = Limits(half_open=20, half_open_seconds=1e9)
    folder = Folder(str(tmp_path))
    agent: Connector | None = None
    for restarted in (False, True):
        roster = Roster(known=folder.known())
        serving = net.listen(parse("tls:127.0.0.1:0"), tls("collector"), limits, QUICK, roster=roster)
        place = ("127.0.0.1", serving.address.port)
        strangers = []
        for number in range(20 if restarted else 0):
            end = socket.socket()
            end.bind((f"127.0.2.{number + 1}", 0))
            end.connect(place)
            strangers.append(end)
        net.until(lambda strangers=strangers, serving=serving: len(serving._half_open) == len(strangers))
        agent = net.connect(serving.address, tls=tls("agent"), settings=QUICK)
        net.until(lambda agent=agent: agent.peer.session.state is State.ESTABLISHED)
        assert len(serving._half_open) == len(strangers)  # nobody had to go
        agent.close()
        agent.peer.detach("the collector goes")
        folder.remember(roster.known)
        if restarted:
            roster._known.clear()  # as it was before: forgotten
            late = net.connect(serving.address, tls=tls("agent"), settings=QUICK)
            net.run(0.5)
            assert late.peer.session.state is not State.ESTABLISHED
        for end in strangers:
            end.close()
        serving.close()
    folder.close()


def test_what_is_remembered_of_addresses_is_bounded_and_harmless(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    assert folder.known() == []
    roster = Roster(known=[f"192.0.2.{number}" for number in range(half_open.MOST_KNOWN + 10)])
    assert len(roster.known) == half_open.MOST_KNOWN
    assert not roster.news
    roster.know("2001:db8::/64")
    assert roster.news
    assert len(roster.known) == half_open.MOST_KNOWN
    folder.remember(roster.known)
    assert folder.known() == roster.known
    (tmp_path / ".sessions" / "known").write_bytes(os.urandom(3 << 20))
    assert len(Roster(known=folder.known()).known) <= half_open.MOST_KNOWN
    assert list(folder.checkpoints()) == []
    folder.close()
