"""What is made for every trace while its plan is: rings and the map of processes, by a thread."""

from __future__ import annotations

import _thread

import pytest
from traces import open_descriptors

from kwire.errors import KwireError
from kwire.kernel.syscall import KernelError
from kwire.live import ground
from kwire.live.ground import MAX_BUFFER, MIN_BUFFER, Ground

pytestmark = pytest.mark.live


def test_rings_and_processes_are_there_when_they_are_asked_for() -> None:
    before = open_descriptors()
    everything, chosen = Ground(5000), Ground(MIN_BUFFER, follow=True)
    assert {ring.size for ring in everything.rings.readers} == {8192}
    assert everything.tasks is None
    assert chosen.tasks is not None
    again = chosen.anew()
    assert [ring.size for ring in again.rings.readers] == [ring.size for ring in chosen.rings.readers]
    assert again.tasks is not None
    assert again.tasks.info()["id"] != chosen.tasks.info()["id"]
    for one in (everything, chosen, again, again):
        one.close()
    assert open_descriptors() == before


@pytest.mark.parametrize("size", [0, MIN_BUFFER - 1, MAX_BUFFER + 1])
def test_a_size_that_no_ring_has_is_refused_at_once(size: int) -> None:
    with pytest.raises(KwireError, match="out of range"):
        Ground(size)


def test_what_goes_wrong_in_the_thread_is_raised_where_it_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(size: int) -> None:
        raise KernelError("create map", "ring", "no memory")

    monkeypatch.setattr(ground, "Rings", refuse)
    made = Ground(follow=True)
    for _ in range(2):
        with pytest.raises(KernelError, match="no memory"):
            _ = made.rings
    with pytest.raises(KernelError, match="no memory"):
        _ = made.tasks
    made.close()


def test_where_no_thread_can_be_started_all_is_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", refuse)
    made = Ground(MIN_BUFFER)
    assert made.rings.readers
    made.close()
