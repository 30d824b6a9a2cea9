"""Following processes, live: children are in the map before they run, and gone when they are."""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from kwire.bpf.image import Image
from kwire.bpf.task import TASKS
from kwire.btf.store import load_kernel
from kwire.compile.build import task_fields
from kwire.kernel.maps import Map
from kwire.kernel.task_programs import programs
from kwire.kernel.tasks import Follow, Identity, add, create_tasks, processes

pytestmark = pytest.mark.needs("tracepoint")


@pytest.fixture
def tasks() -> Iterator[Map]:
    made = create_tasks([])
    yield made
    made.close()


def by_identity() -> list[tuple[Image, str]]:
    return programs(task_fields(load_kernel().vmlinux))


def by_number() -> list[tuple[Image, str]]:
    return programs(None)


BOTH = pytest.mark.parametrize("known", [by_identity, by_number], ids=["by identity", "by number"])


def pids(tasks: Map) -> list[int]:
    return [process.number for process in processes(tasks)]


def until(condition: Callable[[], bool]) -> bool:
    """Whether it comes true in a while: the kernel frees a task some time after it was waited for, where it
    is lazy (CONFIG_RCU_LAZY) some ten seconds.
    """
    for _ in range(1200):
        if condition():
            return True
        time.sleep(0.05)
    return False


START, SAID = 98, 99
"""Descriptors in a family: it goes on when it can read a byte from the one, and writes to the other."""


def family(plan: Callable[[], None]) -> tuple[int, int, int]:
    """(pid, descriptor to start it with, descriptor that what the family writes can be read from)."""
    start_read, start_write = os.pipe()
    said_read, said_write = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(start_write)
        os.close(said_read)
        os.dup2(said_write, SAID)
        os.dup2(start_read, START)
        os.read(START, 1)
        plan()
        os._exit(0)
    os.close(start_read)
    os.close(said_write)
    return pid, start_write, said_read


def say() -> None:
    os.write(SAID, struct.pack("=I", os.getpid()))


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
    os.read(START, 1)
    os.close(hold_write)
    for _ in range(3):
        os.wait()


@BOTH
def test_children_and_their_children_are_followed(
    tasks: Map, known: Callable[[], list[tuple[Image, str]]]
) -> None:
    pid, start, heard = family(generations)
    add(tasks, Identity(pid))
    with Follow(tasks, known()) as follow:
        os.write(start, b"x")
        everybody = said(heard, 7)
        assert pid in everybody
        assert everybody <= set(pids(tasks))
        os.write(start, b"x")
        os.waitpid(pid, 0)
        assert until(lambda: len(set(pids(tasks)) & everybody) < len(everybody) // 2)
        assert follow.refused == 0
    os.close(start)
    os.close(heard)


def test_hardly_a_process_that_ended_stays(tasks: Map) -> None:
    add(tasks, Identity(os.getpid()))
    born = set()
    with Follow(tasks, by_identity()):
        for _ in range(300):
            pid = os.fork()
            if not pid:
                os._exit(0)
            born.add(pid)
            os.waitpid(pid, 0)
        # Of some in a thousand the kernel does not tell us: they take room, and mean nothing to anybody.
        assert until(lambda: len(born & set(pids(tasks))) < 15)


@BOTH
def test_others_are_not_followed(tasks: Map, known: Callable[[], list[tuple[Image, str]]]) -> None:
    pid, start, heard = family(say)
    with Follow(tasks, known()):
        os.write(start, b"x")
        said(heard, 1)
        os.waitpid(pid, 0)
        assert pids(tasks) == []
    os.close(start)
    os.close(heard)


def test_a_process_of_another_time_is_not_followed(tasks: Map) -> None:
    pid, start, heard = family(generations)
    add(tasks, Identity(pid, 12345))
    with Follow(tasks, by_identity()):
        os.write(start, b"x")
        said(heard, 7)
        assert processes(tasks) == [Identity(pid, 12345)]
        os.write(start, b"x")
        os.waitpid(pid, 0)
    os.close(start)
    os.close(heard)


def test_nothing_is_followed_after_close(tasks: Map) -> None:
    pid, start, heard = family(generations)
    add(tasks, Identity(pid))
    Follow(tasks, by_identity()).close()
    os.write(start, b"x")
    said(heard, 7)
    assert pids(tasks) == [pid]
    os.write(start, b"x")
    os.waitpid(pid, 0)
    assert pids(tasks) == [pid]
    os.close(start)
    os.close(heard)


def test_threads_are_their_process(tasks: Map) -> None:
    add(tasks, Identity(os.getpid()))
    with Follow(tasks, by_identity()):
        release = threading.Event()
        threads = [threading.Thread(target=release.wait) for _ in range(5)]
        for thread in threads:
            thread.start()
        assert pids(tasks) == [os.getpid()]
        release.set()
        for thread in threads:
            thread.join()
        assert pids(tasks) == [os.getpid()]


def test_a_full_map_is_counted() -> None:
    small = TASKS._replace(max_entries=2)
    pid, start, heard = family(generations)
    with create_tasks([Identity(pid)], small) as few, Follow(few, by_identity()) as follow:
        os.write(start, b"x")
        said(heard, 7)
        kept = len(pids(few))
        os.write(start, b"x")
        os.waitpid(pid, 0)
        assert kept == 2
        assert follow.refused > 0
    os.close(start)
    os.close(heard)
