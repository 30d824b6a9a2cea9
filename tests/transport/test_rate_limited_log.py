"""What people are told as it happens: a line each, at a bounded rate, and never in silence."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

import pytest
from said import Said

from kwire.transport.log_events import EVENTS, LEVELS, reaches
from kwire.transport.rate_limited_log import AGAIN, BURST, FIRST, LONGEST, RATE, RateLimitedLog, Recurring


class Clock:
    """A clock that is moved by hand, and its timers."""

    def __init__(self) -> None:
        self.time = 1000.0
        self._timers: list[tuple[float, int, Callable[[], None]]] = []

    def now(self) -> float:
        return self.time

    def at(self, when: float, callback: Callable[[], None], /) -> None:
        heapq.heappush(self._timers, (when, id(callback), callback))

    def move(self, seconds: float) -> None:
        end = self.time + seconds
        while self._timers and self._timers[0][0] <= end:
            self.time, _, callback = heapq.heappop(self._timers)
            callback()
        self.time = end


def test_a_flood_is_cut_and_counted() -> None:
    clock, lines = Clock(), Said()
    news = RateLimitedLog(clock, lines)
    for number in range(1000):
        news.say(f"peer {number} is gone", "session_lost")
    assert lines == [f"peer {number} is gone" for number in range(BURST)]
    clock.move(AGAIN)  # by itself
    assert lines[-1] == f"{1000 - BURST} more lines like these"
    assert lines.events[-1] == "held_back"
    clock.move(100)
    news.say("peer 1000 is gone")
    assert lines[-1] == "peer 1000 is gone"


def test_the_rate_is_bounded_in_the_long_run() -> None:
    clock, lines = Clock(), Said()
    news = RateLimitedLog(clock, lines)
    for number in range(100_000):
        news.say(f"peer {number} is gone")
        clock.move(0.001)
    assert len(lines) <= BURST + RATE * 100 + 1


def test_the_same_is_not_said_again_at_once() -> None:
    clock, lines = Clock(), Said()
    news = RateLimitedLog(clock, lines)
    news.say("tls:10.0.0.1:4711 gets no session")
    news.say("tls:10.0.0.1:4712 gets no session")
    assert lines == ["tls:10.0.0.1:4711 gets no session"]
    clock.move(100)
    assert lines[1:] == ["1 more line like these"]
    lines.clear()
    news.say("the disk is full")
    news.say("the disk is full")
    assert lines == ["the disk is full"]
    clock.time += AGAIN + 1
    news.say("the disk is full")
    assert lines == ["the disk is full", "1 more line like these", "the disk is full"]


def test_what_became_of_a_signal_is_told_each_time() -> None:
    clock, lines = Clock(), Said()
    news = RateLimitedLog(clock, lines)
    for number in range(1000):
        news.say(f"peer {number} is gone", "session_lost")
    for _ in range(3):
        news.say("agent.toml is read again", "configuration")
    assert lines[BURST:] == ["agent.toml is read again"] * 3


def test_what_was_held_back_is_told_at_the_end() -> None:
    lines = Said()
    news = RateLimitedLog(Clock(), lines)
    for number in range(BURST + 7):
        news.say(f"line {number}")
    news.close()
    news.close()
    assert lines[BURST:] == ["7 more lines like these"]


def test_what_nobody_wants_takes_no_room() -> None:
    lines = Said()
    news = RateLimitedLog(Clock(), lines, lambda event: reaches(event, "warning"))
    for number in range(1000):
        news.say(f"agent {number} has come", "session_begun")
    news.say("the certificate is refused", "certificate")
    news.close()
    assert lines == ["the certificate is refused"]


def test_a_trouble_that_goes_on_is_told_more_and_more_seldom() -> None:
    clock, lines = Clock(), Said()
    troubles = Recurring(clock.now, lines)
    moments = []
    for _ in range(24 * 3600 // 10):  # a day
        before = len(lines)
        troubles.say("its certificate is refused (trying again)", "certificate")
        if len(lines) > before:
            moments.append(clock.time - 1000)
        clock.move(10)
    assert moments[:4] == [0, FIRST, 3 * FIRST, 7 * FIRST]
    assert max(b - a for a, b in itertools.pairwise(moments)) == LONGEST
    assert lines[0] == "its certificate is refused (trying again)"
    assert lines[1] == "its certificate is refused (trying again); 7 times so far"
    assert set(lines.events) == {"certificate"}
    lines.clear()
    troubles.over()
    troubles.say("its certificate is refused (trying again)")
    assert lines == ["its certificate is refused (trying again)"]


@pytest.mark.parametrize("level", LEVELS)
def test_levels_are_ordered(level: str) -> None:
    told = {event for event in EVENTS if reaches(event, level)}
    assert told == {name for name, one in EVENTS.items() if LEVELS.index(one.level) >= LEVELS.index(level)}
    assert {event.level for event in EVENTS.values()} == set(LEVELS)
