"""The loop: descriptors, timers, signals, and that no callback hears what it should not."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwire import interrupts
from kwire.transport.loop import READ, WRITE, Loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def test_a_descriptor_calls_back_while_it_is_ready(loop: Loop) -> None:
    here, there = socket.socketpair()
    heard: list[int] = []
    loop.add(here.fileno(), READ, heard.append)
    loop.turn(0)
    there.send(b"xy")
    loop.turn(1)
    loop.turn(1)
    assert heard == [READ, READ]
    loop.modify(here.fileno(), READ | WRITE)
    loop.turn(1)
    assert heard[2] == READ | WRITE
    loop.remove(here.fileno())
    loop.remove(here.fileno())
    loop.turn(0)
    assert len(heard) == 3
    here.close()
    there.close()


def test_one_that_was_removed_in_the_same_round_is_not_called(loop: Loop) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    heard: list[int] = []

    def first(index: int) -> None:
        heard.append(index)
        loop.remove(pairs[1 - index][0].fileno())

    for index, (here, there) in enumerate(pairs):
        loop.add(here.fileno(), READ, lambda mask, index=index: first(index))  # type: ignore[misc]
        there.send(b"x")
    loop.turn(1)
    assert len(heard) == 1
    for pair in pairs:
        for end in pair:
            end.close()


@given(st.lists(st.tuples(st.floats(0, 0.002), st.booleans()), max_size=200))
def test_timers_go_off_in_order_unless_they_are_cancelled(plan: list[tuple[float, bool]]) -> None:
    loop = Loop()
    start = loop.now()
    heard: list[tuple[float, int]] = []
    for number, (delay, cancelled) in enumerate(plan):
        when = start + delay
        timer = loop.at(when, lambda when=when, number=number: heard.append((when, number)))  # type: ignore[misc]
        if cancelled:
            loop.cancel(timer)
            loop.cancel(timer)
    expected = sorted(
        (start + delay, number) for number, (delay, cancelled) in enumerate(plan) if not cancelled
    )
    while len(heard) < len(expected):
        loop.turn()
    loop.turn(0)
    assert heard == expected
    loop.close()


def test_many_cancelled_timers_take_no_memory(loop: Loop) -> None:
    for _ in range(10_000):
        loop.cancel(loop.at(loop.now() + 1000, lambda: None))
    assert len(loop._timers) < 1000


def test_a_timer_may_cancel_another_of_the_same_round(loop: Loop) -> None:
    heard: list[int] = []
    now = loop.now()
    loop.at(now, lambda: loop.cancel(second))
    second = loop.at(now, lambda: heard.append(2))
    loop.turn(0)
    loop.turn(0)
    assert heard == []


def test_soon_is_in_the_next_round_and_does_not_starve_descriptors(loop: Loop) -> None:
    here, there = socket.socketpair()
    there.send(b"x")
    heard: list[str] = []

    def again() -> None:
        heard.append("soon")
        if len(heard) < 100:
            loop.soon(again)

    loop.add(here.fileno(), READ, lambda mask: heard.append("read"))
    loop.soon(again)
    loop.turn()
    loop.turn()
    assert heard == ["read", "soon", "read", "soon"]
    here.close()
    there.close()


def test_signals_are_told_in_the_loop_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second one has its old effect, unless it comes so soon that it is the first one's echo."""
    again: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: again.append(number))
    loop = Loop()
    heard: list[int] = []

    def told(number: int) -> None:
        heard.append(number)
        loop.stop()

    interrupt = signal.getsignal(signal.SIGINT)
    loop.signals((signal.SIGTERM, signal.SIGINT), told)
    monkeypatch.setattr(interrupts, "ECHO", 1000)
    loop.at(loop.now() + 0.01, lambda: os.kill(os.getpid(), signal.SIGTERM))
    loop.run()
    assert heard == [signal.SIGTERM]
    os.kill(os.getpid(), signal.SIGTERM)
    assert again == []
    monkeypatch.setattr(interrupts, "ECHO", 0)
    os.kill(os.getpid(), signal.SIGTERM)
    assert again == [signal.SIGTERM]
    signal.signal(signal.SIGTERM, before)
    assert signal.getsignal(signal.SIGINT) != interrupt
    loop.close()
    assert signal.getsignal(signal.SIGINT) == interrupt


def test_each_signal_has_its_own_callback_and_none_is_forgotten_before_run(loop: Loop) -> None:
    heard: list[str] = []
    loop.signals((signal.SIGUSR1,), lambda number: heard.append("first"))
    loop.signals((signal.SIGUSR2,), lambda number: heard.append("second"))
    os.kill(os.getpid(), signal.SIGUSR1)
    loop.at(loop.now(), lambda: os.kill(os.getpid(), signal.SIGUSR2))
    loop.at(loop.now() + 0.05, loop.stop)
    loop.run()
    assert heard == ["first", "second"]


def test_an_exception_comes_out_of_run(loop: Loop) -> None:
    def fail() -> None:
        raise RuntimeError("a bug")

    loop.soon(fail)
    with pytest.raises(RuntimeError, match="a bug"):
        loop.run()
