"""Lineages: which HELLOs come after which, and what two copies of a source get."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest

from kwire.wire.control import Hello, Role, Welcome, peek_hello
from kwire.wire.frame import FrameError, read_lenient
from kwire.wire.lineage import MOST, PAST, Lineage, follows
from kwire.wire.session import Session, State

NOW = 1.0


def bytes_of(session: Session) -> bytes:
    return b"".join(map(bytes, session.transmit(1 << 20, NOW)))


def sink(token: bytes) -> Session:
    return Session(Role.SINK, initiator=False, token=token)


def source(token: bytes, lineage: Lineage, datagrams: bool = False) -> Session:
    return Session(Role.SOURCE, initiator=True, token=token, lineage=lineage, datagrams=datagrams)


def meet(one: Session, other: Session) -> None:
    """A new stream; both say what they have to."""
    one.connected(NOW)
    other.connected(NOW)
    for _ in range(4):
        for sender, receiver in ((one, other), (other, one)):
            data = bytes_of(sender)
            if data:
                receiver.receive(data, NOW)


def part(one: Session, other: Session) -> None:
    one.disconnected(NOW, "cut")
    other.disconnected(NOW, "cut")


def test_each_hello_comes_after_those_before() -> None:
    saved: list[tuple[int, ...]] = []
    lineage = Lineage(save=lambda nonces: saved.append(tuple(nonces)))
    first, after = lineage.draw(os.urandom)
    assert after == ()
    second, after = lineage.draw(os.urandom)
    assert after == (first,)
    assert saved == [(first,), (first, second)]
    assert follows(None, second, after)
    assert follows(first, second, after)
    assert follows(second, second, after)
    assert not follows(7, second, after)
    assert follows(7, second, None)


def test_what_a_sink_may_remember_is_never_forgotten() -> None:
    """It stored something after `last`; then very many HELLOs had no effect."""
    lineage = Lineage()
    for _ in range(20):
        last, _ = lineage.draw(os.urandom)
        lineage.settled()
    assert len(lineage.nonces) == PAST
    for _ in range(300):
        nonce, after = lineage.draw(os.urandom)
        assert last in after
        assert len(after) < MOST
        assert nonce not in after


def test_two_copies_do_not_go_on_with_one_session() -> None:
    token, lineage = b"t" * 16, Lineage()
    collector, agent = sink(token), source(token, lineage)
    meet(agent, collector)
    part(agent, collector)
    copy = Session(
        Role.SOURCE, initiator=True, token=token, lineage=Lineage(lineage.nonces), resume=True
    )  # its machine was cloned now
    meet(agent, collector)
    assert agent.state is State.ESTABLISHED
    part(agent, collector)
    meet(copy, collector)
    assert copy.state is State.EXPIRED
    assert "another copy" in copy.superseded
    part(copy, collector)
    meet(agent, collector)  # the one that had it last goes on
    assert agent.state is collector.state is State.ESTABLISHED
    assert not agent.superseded


def test_a_welcome_that_was_lost_does_not_make_a_copy() -> None:
    token = b"t" * 16
    collector, agent = sink(token), source(token, Lineage())
    for _ in range(5):
        agent.connected(NOW)
        collector.connected(NOW)
        collector.receive(bytes_of(agent), NOW)
        part(agent, collector)  # and WELCOME is lost
    meet(agent, collector)
    assert agent.state is collector.state is State.ESTABLISHED


@pytest.mark.parametrize("after", [["x"], [-1], [1 << 32], [0] * (MOST + 1), "no list"])
def test_what_is_no_lineage_is_no_hello(after: Sequence[object]) -> None:
    hello = Hello(b"t" * 16, 7, Role.SOURCE)._replace(after=after)  # type: ignore[arg-type]
    frame = hello.frame()
    assert peek_hello(frame) is None
    with pytest.raises(FrameError):
        Hello.read(read_lenient(frame))


def test_both_keys_are_read_as_they_were_written() -> None:
    hello = Hello(b"t" * 16, 7, Role.SOURCE, after=(1, 2, 0xFFFFFFFF))
    assert peek_hello(hello.frame()) == hello
    welcome = Welcome(b"t" * 16, 7, Role.SINK, superseded="why")
    assert Welcome.read(read_lenient(welcome.frame())) == welcome
