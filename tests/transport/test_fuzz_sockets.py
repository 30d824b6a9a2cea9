"""Mutated sessions over real sockets, both ways: nothing raises, nothing grows, and others are served."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from collections.abc import Callable
from typing import Any

import pytest

from kwire.transport.address import Address, parse
from kwire.transport.half_open import Limits
from kwire.transport.tls import TlsOptions, client_context
from kwire.wire import cbor
from kwire.wire.control import Ack, Hello, Role, Welcome, bye_frame, error_frame
from kwire.wire.frame import Flag, Type, build, read_strict
from kwire.wire.settings import Settings
from kwire.wire.transitions import State

QUICK = Settings(rto_first=0.05, rto_min=0.02, keepalive=0.2, ack_delay=0.01, expiry=0.2, window=200_000)
ROUNDS = 120


def source_says(event: Callable[..., bytes], token: bytes, first: int, flags: int = 0) -> list[bytes]:
    """What a source says after HELLO, a frame an item."""
    frames = [build(Type.DATA, first + number, event(number) * 10, flags) for number in range(6)]
    frames.insert(2, build(Type.KEEPALIVE, 0, b"", flags))
    frames.insert(4, build(Type.REQUEST, 1, cbor.dumps({"op": "x", "list": [1, 2.5, None, "t"]}), flags))
    frames.insert(5, build(Type.REPLY, 9, cbor.dumps({"ok": True}), flags))
    frames.append(error_frame(3, 9, "what?", flags))
    frames.append(Hello(token, 7, Role.SOURCE, resume=True).frame(flags))
    return [*frames, bye_frame(first + 6, "done", flags)]


def sink_says(flags: int = 0) -> list[bytes]:
    """What a sink says after WELCOME."""
    return [
        *(Ack(number, 1 << 20, ((number + 2, number + 3),)).frame(flags) for number in range(4)),
        build(Type.REQUEST, 1, cbor.dumps({"op": "y"}), flags),
        build(Type.KEEPALIVE, 0, b"", flags),
        bye_frame(4, "gone", flags),
    ]


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Some of: bits flipped, bytes set, pieces removed, repeated, moved, inserted; the end cut."""
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        at = chance.randrange(len(out) + 1)
        size = chance.choice((1, 2, 4, 8, 80))
        match chance.randrange(7):
            case 0 if at < len(out):
                out[at] ^= 1 << chance.randrange(8)
            case 1:
                out[at : at + size] = chance.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * size
            case 2:
                del out[at : at + size]
            case 3:
                out[at:at] = out[at : at + size]
            case 4:
                out[at:at] = chance.randbytes(size)
            case 5:
                piece = out[at : at + size]
                del out[at : at + size]
                there = chance.randrange(len(out) + 1)
                out[there:there] = piece
            case 6 if chance.random() < 0.2:
                del out[at:]
    return bytes(out)


def slices(data: bytes, chance: random.Random) -> list[bytes]:
    out = []
    while data:
        size = chance.choice((1, 7, 100, 1000, 100_000))
        out.append(data[:size])
        data = data[size:]
    return out


def try_send(end: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):  # it was closed already: right so
        end.send(data)


@pytest.mark.parametrize("kind", ["tcp", "unix", "tls"])
def test_listeners_stand_mutated_streams(
    net: Any, event: Callable[..., bytes], tls: Callable[[str], TlsOptions], tmp_path: Any, kind: str
) -> None:
    address = (
        Address("unix", path=str(tmp_path / "s"), port=0) if kind == "unix" else parse(f"{kind}:127.0.0.1:0")
    )
    limits = Limits(half_open_seconds=0.2)
    listener = net.listen(address, tls("collector"), limits, QUICK)
    good = net.connect(listener.address, tls=tls("agent"), settings=QUICK)
    net.until(lambda: good.peer.session.state is State.ESTABLISHED)
    chance = random.Random(20261122)
    open_ends: list[socket.socket] = []
    for number in range(ROUNDS):
        token = os.urandom(16)
        if kind == "tls":
            data = client_hello(tls("agent"))
        else:
            said = Hello(token, 5, Role.SOURCE, about={"host": "x"}).frame()
            rest = b"".join(source_says(event, token, 0))
            data = said + mutate(rest, chance) if chance.random() < 0.8 else said + rest
        if chance.random() < 0.5:
            data = mutate(data, chance)
        end = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
        end.connect(address.path if kind == "unix" else ("127.0.0.1", listener.address.port))
        end.setblocking(False)
        for piece in slices(data, chance):
            try_send(end, piece)
            net.loop.turn(0)
        if chance.random() < 0.5:
            end.close()
        else:
            open_ends.append(end)
        if number % 20 == 0:
            serve(net, good, event(number))
    serve(net, good, event(0))
    for end in open_ends:
        end.close()
    net.until(lambda: len(listener.peers) == 1 and not listener._half_open)
    assert len(net.loop.lingering) <= ROUNDS


def client_hello(options: TlsOptions) -> bytes:
    """The first bytes of a TLS client."""
    import ssl

    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        client_context(options).wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError


def serve(net: Any, good: Any, payload: bytes) -> None:
    """The good peer, connected from the beginning, is served."""
    before = len(net.sink(good).payloads)
    good.peer.session.send(payload, net.loop.now())
    good.peer.flush()
    net.until(lambda: len(net.sink(good).payloads) == before + 1)
    assert net.sink(good).payloads[-1] == payload
    assert net.sink(good).up == 1


def test_listeners_stand_mutated_datagrams(net: Any, event: Callable[..., bytes]) -> None:
    listener = net.listen(parse("udp:127.0.0.1:0"), settings=QUICK)
    good = net.connect(listener.address, settings=QUICK)
    net.until(lambda: good.peer.session.state is State.ESTABLISHED)
    chance = random.Random(20261123)
    for number in range(ROUNDS):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
            end.connect(("127.0.0.1", listener.address.port))
            end.setblocking(False)
            said = Hello(os.urandom(16), 5, Role.SOURCE)
            data = said.frame(Flag.CHECKSUM, 512)
            end.send(mutate(data, chance) if chance.random() < 0.2 else data)
            answers: list[bytes] = []

            def heard(end: socket.socket = end, answers: list[bytes] = answers) -> bool:
                with contextlib.suppress(BlockingIOError):
                    answers.append(end.recv(4096))
                return bool(answers)

            net.run(0.002)
            if heard():
                cookie = Welcome.read(read_strict(answers[0])).cookie
                end.send(said._replace(cookie=cookie).frame(Flag.CHECKSUM, 512))
            frames = source_says(event, said.token, chance.choice((0, 0xFFFFFFFE)), Flag.CHECKSUM)
            chance.shuffle(frames)
            for frame in frames:
                end.send(mutate(frame, chance) if chance.random() < 0.5 else frame)
                net.loop.turn(0)
        if number % 20 == 0:
            serve(net, good, event(number))
    serve(net, good, event(0))
    net.until(lambda: len(listener.peers) == 1)


def test_connectors_stand_mutated_answers(net: Any, event: Callable[..., bytes]) -> None:
    """A listener that answers as it likes; our source keeps its payload through all of it."""
    server = socket.create_server(("127.0.0.1", 0))
    server.setblocking(False)
    settings = QUICK._replace(expiry=60)
    connector = net.connect(Address("tcp", "127.0.0.1", server.getsockname()[1]), settings=settings)
    listener = net.listen(settings=QUICK)
    good = net.connect(listener.address, settings=QUICK)
    net.until(lambda: good.peer.session.state is State.ESTABLISHED)
    chance = random.Random(20261124)
    for number in range(40):
        connector._pause = 0.001
        ends: list[socket.socket] = []

        def accepted(ends: list[socket.socket] = ends) -> bool:
            connector._pause = 0.001
            try:
                ends.append(server.accept()[0])
            except BlockingIOError:
                return False
            return True

        if connector.peer.session.room > 10_000:
            connector.peer.session.send(event(number), net.loop.now())
            connector.peer.flush()
        net.until(accepted)
        (end,) = ends
        end.setblocking(False)
        net.run(0.01)
        try:
            said = Hello.read(read_strict(end.recv(4096)))
            data = Welcome(
                said.token, said.nonce, Role.SINK, resume=said.resume, next=said.next, window=1 << 20
            ).frame()
        except BlockingIOError:
            data = b"\x14"
        data += b"".join(sink_says())
        for piece in slices(mutate(data, chance), chance):
            try_send(end, piece)
            net.loop.turn(0)
        net.run(0.01)
        end.close()
        net.run(0.01)
        if number % 10 == 0:
            serve(net, good, event(number))
        assert not connector.closed
    serve(net, good, event(0))
    server.close()
