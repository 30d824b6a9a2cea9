"""Programs that do something only for the process of the test, and what counts their runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

import pytest

from kwire.bpf.asm import (
    R0,
    R1,
    R2,
    R6,
    Item,
    Label,
    alu64,
    atomic,
    call,
    exit_,
    image,
    jmp,
    map_value,
    mov64,
)
from kwire.bpf.helpers import HELPERS
from kwire.bpf.image import Image, MapSpec
from kwire.kernel.maps import Map
from kwire.kernel.sys import BPF_F_MMAPABLE

HITS = MapSpec("hits", "array", 4, 16, 1, BPF_F_MMAPABLE)


class Hits:
    """A counter, and the last of something, that programs keep."""

    def __init__(self) -> None:
        self.map = Map.create(HITS)
        self.memory = self.map.mmap(writable=True)
        self.words = memoryview(self.memory).cast("Q")

    @property
    def count(self) -> int:
        return self.words[0]

    @property
    def last(self) -> int:
        return self.words[1]

    def since(self, action: Callable[[], object]) -> int:
        """How many hits an action makes."""
        before = self.count
        action()
        return self.count - before

    def close(self) -> None:
        self.words.release()
        self.memory.close()
        self.map.close()


@pytest.fixture
def hits() -> Iterator[Hits]:
    made = Hits()
    yield made
    made.close()


def counter(kind: str, *, result: int = 0, note: Sequence[Item] = (), pid: int = 0) -> Image:
    """A program that counts its runs in the process of the test; `note` leaves a number in r0 to remember,
    with the context in r6.
    """
    out = Label("out")
    items: list[Item] = [mov64(R6, R1), call(HELPERS["get_current_pid_tgid"].id), alu64("rsh", R0, 32)]
    items += [jmp("ne", R0, pid or os.getpid(), out)]
    if note:
        items += [*note, map_value(R1, "hits", 8), atomic("xchg", "dw", R1, R0, 0, fetch=True)]
    items += [map_value(R1, "hits"), mov64(R2, 1), atomic("add", "dw", R1, R2, 0)]
    items += [out, mov64(R0, result), exit_()]
    return image("kwire_test", kind, items, maps=[HITS])


@pytest.fixture
def counting() -> Callable[..., Image]:
    return counter
