"""What people are told as it happens: a line each, at a bounded rate."""

from __future__ import annotations

from kwire.transport.rate_limited_log import AGAIN, BURST, RATE, RateLimitedLog


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def test_a_flood_is_cut_and_counted() -> None:
    clock, lines = Clock(), list[str]()
    news = RateLimitedLog(clock, lines.append)
    for number in range(1000):
        news.say(f"peer {number} is gone")
    assert len(lines) == BURST
    assert lines == [f"peer {number} is gone" for number in range(BURST)]
    clock.time += 2 / RATE
    news.flush()
    assert lines[-1] == f"{1000 - BURST} more lines like these"
    clock.time += 100
    news.say("peer 1000 is gone")
    assert lines[-1] == "peer 1000 is gone"


def test_the_same_is_not_said_again_at_once() -> None:
    clock, lines = Clock(), list[str]()
    news = RateLimitedLog(clock, lines.append)
    news.say("tls:10.0.0.1:4711 gets no session")
    news.say("tls:10.0.0.1:4712 gets no session")
    assert lines == ["tls:10.0.0.1:4711 gets no session"]
    lines.clear()
    clock.time += 100
    news.flush()
    lines.clear()
    news.say("the disk is full")
    news.say("the disk is full")
    assert lines == ["the disk is full"]
    clock.time += AGAIN + 1
    news.say("the disk is full")
    assert lines == ["the disk is full", "1 more line like these", "the disk is full"]
