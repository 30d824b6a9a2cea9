"""Taking probes away: what is waited for, and who waits."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest

from kwire.kernel.attach import Link
from kwire.kernel.syscall import Fd
from kwire.live.closing import close_all, detach_all, hand_over


def pipe() -> tuple[int, Fd]:
    reading, writing = os.pipe()
    return reading, Fd(writing)


def test_a_child_closes_what_it_is_given_and_has_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    children: list[int] = []

    def fork(real: Callable[[], int] = os.fork) -> int:
        child = real()
        children.append(child)
        return child

    monkeypatch.setattr("kwire.live.closing.os.fork", fork)
    given, writing = pipe()
    other, kept = pipe()
    assert hand_over([writing])
    assert writing.closed
    kept.close()
    assert os.read(other, 1) == b"", "the child would have it open"
    assert os.read(given, 1) == b""
    (child,) = children  # a worker of the tests may have other children
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for fd in (given, other):
        os.close(fd)


def test_where_there_can_be_no_child_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> int:
        raise BlockingIOError

    monkeypatch.setattr("kwire.live.closing.os.fork", refused)
    reading, writing = pipe()
    assert not hand_over([writing])
    assert not writing.closed
    close_all([writing])
    assert os.read(reading, 1) == b""
    os.close(reading)
    assert not hand_over([])


def test_where_there_can_be_no_more_threads_all_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = threading.Thread.start
    started: list[threading.Thread] = []

    def start(thread: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    pairs = [pipe() for _ in range(9)]
    close_all([writing for _, writing in pairs])
    assert len(started) == 1
    assert [os.read(reading, 1) for reading, _ in pairs] == [b""] * 9
    for reading, _ in pairs:
        os.close(reading)


def test_links_to_many_functions_are_taken_away_by_one_thread() -> None:
    class Noted(Link):
        def detach(self) -> tuple[()]:
            by.setdefault(self.mechanism, []).append(threading.get_ident())
            barrier[self.mechanism].wait(10)
            super().detach()
            return ()

    by: dict[str, list[int]] = {}
    barrier = {"kprobe.multi": threading.Barrier(1), "perf tracepoint": threading.Barrier(2)}
    links = []
    for mechanism in ("kprobe.multi", "perf tracepoint") * 2:
        reading, writing = os.pipe()
        os.close(reading)
        links.append(Noted(writing, mechanism, "x"))
    assert detach_all(links) == []
    assert all(link.closed for link in links)
    assert len(set(by["kprobe.multi"])) == 1
    assert len(set(by["perf tracepoint"])) == 2
