"""Datagrams: sockets that take nothing for a moment, what the network cannot carry, last words repeated."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kwire.errors import KwireError
from kwire.transport.address import Address, parse
from kwire.wire.control import Ack, Hello, Role, Welcome, bye_frame
from kwire.wire.frame import Flag, Type, build, read_strict
from kwire.wire.settings import Settings
from kwire.wire.transitions import State

QUICK = Settings(rto_first=0.05, rto_min=0.02, keepalive=1.0, ack_delay=0.01)
UDP = parse("udp:127.0.0.1:0")


class Busy:
    """A socket that takes only every third datagram at once, and cannot send some at all."""

    def __init__(self, real: socket.socket) -> None:
        self._real = real
        self.refused = 0
        self._count = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def _judge(self) -> None:
        self._count += 1
        if self._count % 3:
            self.refused += 1
            raise BlockingIOError
        if self._count % 21 == 0:
            raise OSError(101, "Network is unreachable")

    def send(self, data: bytes) -> int:
        self._judge()
        return self._real.send(data)

    def sendto(self, data: bytes, place: Any) -> int:
        self._judge()
        return self._real.sendto(data, place)


def test_sockets_that_take_nothing_for_a_moment(net: Any, event: Callable[..., bytes]) -> None:
    listener = net.listen(UDP, settings=QUICK)
    (server,) = listener._servers
    far = server._socket = Busy(server._socket)
    connectors = [net.connect(listener.address, settings=QUICK) for _ in range(3)]
    net.until(lambda: all(connector.peer.session.state is State.ESTABLISHED for connector in connectors))
    near = [Busy(connector.peer.transport._socket) for connector in connectors]
    sent = [event(number) * 19 for number in range(60)]
    for connector, busy in zip(connectors, near, strict=True):
        connector.peer.transport._socket = busy
        for payload in sent:
            connector.peer.session.send(payload, net.loop.now())
        connector.peer.close()
    net.until(lambda: all(connector.closed for connector in connectors))
    assert all(net.sink(connector).payloads == sent for connector in connectors)
    assert far.refused
    assert all(busy.refused for busy in near)


@pytest.fixture
def raw() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.bind(("127.0.0.1", 0))
        end.setblocking(False)
        yield end


def answers(net: Any, end: socket.socket, count: int = 1) -> list[Any]:
    got: list[Any] = []

    def heard() -> bool:
        try:
            while True:
                got.append(read_strict(end.recv(1 << 16)))
        except BlockingIOError:
            return len(got) >= count

    net.until(heard)
    return got


def begin(net: Any, end: socket.socket, port: int) -> Hello:
    """Say HELLO, bring the cookie, be welcome."""
    end.connect(("127.0.0.1", port))
    said = Hello(os.urandom(16), 5, Role.SOURCE)
    end.send(said.frame(Flag.CHECKSUM, 512))
    cookie = Welcome.read(answers(net, end)[0]).cookie
    end.send(said._replace(cookie=cookie).frame(Flag.CHECKSUM, 512))
    return said


def test_a_bye_whose_ack_was_lost_is_acknowledged_again(
    net: Any, raw: socket.socket, event: Callable[..., bytes]
) -> None:
    listener = net.listen(UDP, settings=QUICK)
    said = begin(net, raw, listener.address.port)
    answers(net, raw)
    raw.send(build(Type.DATA, 0, event(1), Flag.CHECKSUM))
    raw.send(bye_frame(1, "done", Flag.CHECKSUM))
    net.until(lambda: not listener.peers)
    assert net.notes[said.token].ends
    net.run(0.05)
    answers(net, raw)
    for _ in range(3):
        raw.send(bye_frame(1, "done", Flag.CHECKSUM))
        (again,) = answers(net, raw)
        assert Ack.read(again.header.id, again.payload).next == 2
    assert net.notes[said.token].payloads == [event(1)]


def test_a_refusal_is_told(net: Any, raw: socket.socket) -> None:
    listener = net.listen(UDP, refuse=lambda *_: "go away")
    begin(net, raw, listener.address.port)
    assert Welcome.read(answers(net, raw)[0]).refused == "go away"
    assert not listener.peers
    assert not listener._servers[0].peers


def test_an_address_has_one_session_and_a_foreign_hello_there_is_refused(
    net: Any, raw: socket.socket
) -> None:
    listener = net.listen(UDP, settings=QUICK)
    begin(net, raw, listener.address.port)
    answers(net, raw)
    raw.send(Hello(os.urandom(16), 6, Role.SOURCE).frame(Flag.CHECKSUM, 512))
    assert "another token" in Welcome.read(answers(net, raw)[0]).refused
    assert len(listener.peers) == 1


def test_when_the_listener_closes_its_sessions_are_suspended(net: Any, event: Callable[..., bytes]) -> None:
    listener = net.listen(UDP, settings=QUICK)
    heard: list[KwireError] = []
    connector = net.connect(listener.address, settings=QUICK, troubled=heard.append)
    net.until(lambda: listener.peers)
    listener.close()
    assert net.sink(connector).states[-1] is State.SUSPENDED
    connector.peer.session.send(event(1), net.loop.now())
    connector.peer.flush()
    net.until(lambda: heard)
    assert "refused" in str(heard[0])
    again = net.listen(Address("udp", "127.0.0.1", listener.address.port), settings=QUICK)
    net.until(lambda: net.sink(connector).payloads == [event(1)])
    assert len(again.peers) == 1


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_a_port_taken_at_one_of_two_addresses_takes_none(
    net: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    taken = net.listen(Address(kind, "127.0.0.2", 0))
    port = taken.address.port
    places = [(socket.AF_INET, ("127.0.0.1", port)), (socket.AF_INET, ("127.0.0.2", port))]
    monkeypatch.setattr("kwire.transport.bind.resolve", lambda address, listening: places)
    with pytest.raises(KwireError, match="something listens there already"):
        net.listen(Address(kind, "localhost", port))
    monkeypatch.undo()
    net.listen(Address(kind, "127.0.0.1", port))


def test_to_connect_there_must_be_a_host(net: Any) -> None:
    with pytest.raises(KwireError, match="it has no host; write udp:HOST"):
        net.connect(parse("udp:"), insecure=True)
