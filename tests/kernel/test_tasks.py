"""Following processes, live: children are in the map before they run, and gone when they are."""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from kwire.kernel import tasks as following
from kwire.kernel.maps import Map
from kwire.kernel.tasks import TASKS, Follow, add, create_tasks, pids, sweep

pytestmark = pytest.mark.needs("tracepoint")


@pytest.fixture
def tasks() -> Iterator[Map]:
    made = create_tasks([])
    yield made
    made.close()


def until(condition: Callable[[], bool]) -> bool:
    """Whether it comes true in a while: the kernel frees a task some time after it was waited for."""
    for _ in range(200):
        if condition():
            return True
        time.sleep(0.05)
    return False


def family(plan: Callable[[], None]) -> tuple[int, int, int]:
    """(pid, descriptor to start it with, descriptor that what the family writes can be read from)."""
    start_read, start_write = os.pipe()
    said_read, said_write = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(start_write)
        os.close(said_read)
        os.dup2(said_write, 99)
        os.read(start_read, 1)
        plan()
        os._exit(0)
    os.close(start_read)
    os.close(said_write)
    return pid, start_write, said_read


def say() -> None:
    os.write(99, struct.pack("=I", os.getpid()))


def said(descriptor: int, number: int) -> set[int]:
    data = b""
    while len(data) < 4 * number and (more := os.read(descriptor, 4 * number - len(data))):
        data += more
    return {one for (one,) in struct.iter_unpack("=I", data)}


def generations() -> None:
    """Three children, each with a child of its own; all live until the pipe of the oldest is closed."""
    hold_read, hold_write = os.pipe()
    for _ in range(3):
        if not os.fork():
            os.close(hold_write)
            if not os.fork():
                say()
                os.read(hold_read, 1)
                os._exit(0)
            say()
            os.wait()
            os._exit(0)
    say()
    time.sleep(0.5)
    os.close(hold_write)
    for _ in range(3):
        os.wait()


def test_children_and_their_children_are_followed(tasks: Map) -> None:
    pid, start, heard = family(generations)
    add(tasks, pid)
    with Follow(tasks) as follow:
        os.write(start, b"x")
        everybody = said(heard, 7)
        assert pid in everybody
        assert everybody <= set(pids(tasks))
        os.waitpid(pid, 0)
        # The kernel skips our program for a few tasks in a thousand (see kwire.kernel.tasks): hence sweep.
        assert until(lambda: len(set(pids(tasks)) & everybody) < len(everybody) // 2)
        assert until(lambda: sweep(tasks) >= 0 and not set(pids(tasks)) & everybody)
        assert follow.refused == 0
    os.close(start)
    os.close(heard)


def test_others_are_not_followed(tasks: Map) -> None:
    pid, start, heard = family(say)
    with Follow(tasks):
        os.write(start, b"x")
        said(heard, 1)
        os.waitpid(pid, 0)
        assert pids(tasks) == []
    os.close(start)
    os.close(heard)


def test_nothing_is_followed_after_close(tasks: Map) -> None:
    pid, start, heard = family(generations)
    add(tasks, pid)
    Follow(tasks).close()
    os.write(start, b"x")
    said(heard, 7)
    assert pids(tasks) == [pid]
    os.waitpid(pid, 0)
    assert pids(tasks) == [pid]
    os.close(start)
    os.close(heard)


def test_threads_come_and_go(tasks: Map) -> None:
    add(tasks, os.getpid())
    with Follow(tasks):
        release = threading.Event()
        threads = [threading.Thread(target=release.wait) for _ in range(5)]
        for thread in threads:
            thread.start()
        ids = {thread.native_id for thread in threads}
        assert ids <= set(pids(tasks))
        release.set()
        for thread in threads:
            thread.join()
        assert until(lambda: len(set(pids(tasks)) & ids) < len(ids) // 2)
        assert until(lambda: sweep(tasks) >= 0 and pids(tasks) == [os.getpid()])


def test_a_full_map_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    small = TASKS._replace(max_entries=2)
    monkeypatch.setattr(following, "TASKS", small)
    pid, start, heard = family(generations)
    with create_tasks([pid], small) as few, Follow(few) as follow:
        os.write(start, b"x")
        said(heard, 7)
        kept = len(pids(few))
        os.waitpid(pid, 0)
        assert kept == 2
        assert follow.refused > 0
    os.close(start)
    os.close(heard)


def test_a_sweep_removes_the_dead_and_keeps_the_living(tasks: Map) -> None:
    dead = os.fork()
    if not dead:
        os._exit(0)
    os.waitpid(dead, 0)
    add(tasks, dead)
    add(tasks, os.getpid())
    assert sweep(tasks) == 1
    assert pids(tasks) == [os.getpid()]
    assert sweep(tasks) == 0
