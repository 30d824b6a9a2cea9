"""Sessions followed in captures: those of real peers are legal to the end; what is illegal is found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kwire.packets.follow import Follower, Step
from kwire.wire.control import Role
from kwire.wire.frame import Flag, Type, build
from kwire.wire.session import Delivered, Session
from kwire.wire.transitions import State


def talk(datagrams: bool, initiator: Role, payloads: list[bytes]) -> list[tuple[bool, bytes]]:
    """What two peers send each other, from HELLO to the end: (whether the initiator sent it, bytes)."""
    source = Session(Role.SOURCE, initiator=initiator is Role.SOURCE, datagrams=datagrams)
    sink = Session(Role.SINK, initiator=initiator is Role.SINK, datagrams=datagrams)
    peers = (source, sink) if initiator is Role.SOURCE else (sink, source)
    sent: list[tuple[bool, bytes]] = []
    now = 0.0
    for peer in peers:
        peer.connected(now)
    for payload in payloads:
        source.send(payload, now)
    source.close(now)
    for _ in range(40):
        now += 0.3
        for index, peer in enumerate(peers):
            peer.tick(now)
            out = [bytes(buffer) for buffer in peer.transmit(1 << 20)]
            for data in out if datagrams else [b"".join(out)]:
                if data:
                    sent.append((index == 0, data))
                    peers[1 - index].receive(data, now)
            for other in peers:
                for happened in other.session_events():
                    if isinstance(happened, Delivered):
                        sink.consumed(happened.sequence, now)
    assert source.over
    assert sink.over
    return sent


def follow(
    net: Any, sent: list[tuple[bool, bytes]], datagrams: bool, read: Any
) -> tuple[list[Step], Follower]:
    steps: list[Step] = []
    follower = Follower(steps.append)
    made, sequence = [], [1, 1]
    if not datagrams:
        made = [net.ipv4(net.tcp(b"", 0, 2), 6)]
        made += [net.ipv4(net.tcp(b"", 0, 0x12, net.v4[::-1], (17800, 40000)), 6, net.v4[::-1])]
    for first, data in sent:
        ends, ports = (net.v4, (40000, 17800)) if first else (net.v4[::-1], (17800, 40000))
        if datagrams:
            made.append(net.ipv4(net.udp(data, ends, ports), 17, ends))
        else:
            side = int(not first)
            made.append(net.ipv4(net.tcp(data, sequence[side], 0x18, ends, ports), 6, ends))
            sequence[side] += len(data)
    read(net.pcap([net.ethernet(packet) for packet in made]), watcher=follower)
    return steps, follower


@pytest.mark.parametrize("initiator", [Role.SOURCE, Role.SINK])
@pytest.mark.parametrize("datagrams", [False, True])
def test_a_session_of_real_peers_is_legal_and_ends(
    net: Any, read: Any, datagrams: bool, initiator: Role
) -> None:
    payloads = [b"".join(net.schema().frames()), *[net.event(number) for number in range(20)]]
    steps, follower = follow(net, talk(datagrams, initiator, payloads), datagrams, read)
    assert [step.illegal for step in steps if step.illegal] == []
    assert len(follower.sessions) == 1
    session = follower.sessions[0]
    assert session.states == [State.CLOSED, State.CLOSED]
    assert session.roles[0] is initiator
    assert session.data >= len(payloads)
    assert {step.type for step in steps} >= {"HELLO", "WELCOME", "DATA", "ACK", "BYE"}
    assert any(step.sender == (State.CLOSED, State.HELLO_SENT) for step in steps)


Change = Callable[[list[tuple[bool, bytes]], Any], None]


@pytest.mark.parametrize(
    ("name", "frame", "first"),
    [
        ("DATA of a sink", build(Type.DATA, 1, b""), False),
        ("EVENT outside of DATA", build(Type.EVENT, 1, bytes(8)), True),
        ("ACK of a source", build(Type.ACK, 1, bytes(4)), True),
        ("WELCOME of an initiator", None, True),
    ],
)
def test_what_is_illegal_is_reported(
    net: Any, read: Any, name: str, frame: bytes | None, first: bool
) -> None:
    sent = talk(False, Role.SOURCE, [net.event()])
    welcome = next(data for by_first, data in sent if not by_first)
    sent.insert(3, (first, welcome if frame is None else frame))
    steps, follower = follow(net, sent, False, read)
    illegal = [step for step in steps if step.illegal]
    assert len(illegal) == 1, name
    assert illegal[0].illegal.startswith("ILLEGAL_TRANSITION")
    assert follower.sessions[0].errors == {"ILLEGAL_TRANSITION": 1}


def test_data_before_hello_is_illegal_on_a_stream_and_late_on_datagrams(net: Any, read: Any) -> None:
    for datagrams in (False, True):
        flags = Flag.CHECKSUM if datagrams else 0
        sent = talk(datagrams, Role.SOURCE, [net.event()])
        sent.insert(1, (True, build(Type.DATA, 0, net.event(), flags)))
        steps, _ = follow(net, sent, datagrams, read)
        assert bool([step for step in steps if step.illegal]) is not datagrams


def test_damaged_frames_are_reported(net: Any, read: Any) -> None:
    sent = talk(True, Role.SOURCE, [net.event()])
    bad = bytearray(build(Type.DATA, 5, net.event(), Flag.CHECKSUM))
    bad[-1] ^= 1
    sent.insert(3, (True, bytes(bad)))
    sent.insert(3, (True, build(Type.DATA, 5, net.event())))
    _, follower = follow(net, sent, True, read)
    assert follower.sessions[0].errors == {"BAD_CHECKSUM": 1, "BAD_FLAGS": 1}
    assert follower.sessions[0].states == [State.CLOSED, State.CLOSED]


def test_a_session_joined_in_the_middle_is_taken_to_be_established(net: Any, read: Any) -> None:
    sent = talk(False, Role.SOURCE, [net.event(number) for number in range(9)])
    start = next(index for index, (_, data) in enumerate(sent) if data[0] & 15 == Type.DATA)
    steps, follower = follow(net, sent[start:], False, read)
    assert [step.illegal for step in steps if step.illegal] == []
    assert follower.sessions[0].joined
    assert follower.sessions[0].states == [State.CLOSED, State.CLOSED]
