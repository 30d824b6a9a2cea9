"""Blocks into one order of time: events of several probes and CPUs lie in a capture in stretches.

Invariant: every event comes exactly once; events are in order as far as WINDOW events reach, which is further
than a ring buffer's worth of one CPU while the window holds all CPUs' runs, or as far as ROOM bytes of them.
Nothing is given while blocks that were read with it are to come.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, Protocol, Self, TypeVar

from kwire.analyze.scan import Block

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

WINDOW: Final = 1 << 17
ROOM: Final = 64 << 20  # bytes of the blocks that wait, about


class Timed(Protocol):
    """Events in order of time: a Block, or what was made of one; what is asked of it is what a Block says."""

    @property
    def times(self) -> "Array":
        """Wall-clock ns."""

    @property
    def round(self) -> object:
        """The same in all that were read together."""

    def kept(self) -> tuple[object, int]:
        """What it keeps in memory, and how many bytes that is."""

    def alone(self, which: "Array") -> Self:
        """These events, in memory of their own."""


T = TypeVar("T", bound=Timed)


Which = Any  # events of a block: a slice with both ends, or an array of places


class Run(NamedTuple, Generic[T]):
    """Events in order of time: those of `stretches` in turn, or by their places among these in `order`."""

    stretches: list[tuple[T, Which]]
    times: "Array"
    order: "Array | None"

    def located(self) -> "tuple[Array, Array]":
        """Of each event, which of the stretches it stands in, and its place in that one's block."""
        import numpy as np

        of = np.repeat(np.arange(len(self.stretches)), [_count(which) for _, which in self.stretches])
        at = np.concatenate([_places(which) for _, which in self.stretches])
        return (of, at) if self.order is None else (of[self.order], at[self.order])

    def part(self, start: int, stop: int) -> "Run[T]":
        """The events from one to before another."""
        times = self.times[start:stop]
        if self.order is not None:
            return Run(self.stretches, times, self.order[start:stop])
        return Run(_cut(_cut(self.stretches, start)[1], len(times))[0], times, None)


def ordered(
    blocks: Iterable[Block], window: int = WINDOW, room: int = ROOM
) -> Iterator[tuple[Block, int, int]]:
    """Each event as (its block, its index there, its time), the oldest first."""
    for run in runs(blocks, window, room):
        of, at = run.located()
        for which, index, time in zip(of.tolist(), at.tolist(), run.times.tolist(), strict=True):
            yield run.stretches[which][0], index, time


def runs(blocks: Iterable[T], window: int = WINDOW, room: int = ROOM) -> Iterator[Run[T]]:
    """The same, many events at once."""
    held: list[tuple[T, Which]] = []  # block, those of its events not yet given
    waiting = size = 0
    last = together = None  # the bytes that the last block lies in: those of a window share them; its round
    for block in blocks:
        if (waiting > 2 * window or size > room) and block.round is not together:  # none of it is to come
            # whole windows, so that what is made of so many rows at a time is not left with a few
            most = (waiting - window) // window * window if waiting > 2 * window else 0
            yield from _oldest(held, most or waiting // 2)
            waiting = sum(_count(which) for _, which in held)
            size = sum({id(what): many for what, many in (one.kept() for one, _ in held)}.values())
            if size > room // 2:  # what is left may be little of much
                held = [(one.alone(which), slice(0, _count(which))) for one, which in held]
                size = sum(one.kept()[1] for one, _ in held)
                last = None
        held.append((block, slice(0, len(block.times))))
        waiting += len(block.times)
        what, many = block.kept()
        size += 0 if what is last else many
        last, together = what, block.round
    yield from _oldest(held, waiting)


def _count(which: Which) -> int:
    return which.stop - which.start if isinstance(which, slice) else len(which)


def _places(which: Which) -> "Array":
    import numpy as np

    return np.arange(which.start, which.stop) if isinstance(which, slice) else which


def _cut(stretches: list[tuple[T, Which]], count: int) -> tuple[list[tuple[T, Which]], list[tuple[T, Which]]]:
    """The first `count` events of stretches, and the others."""
    first = []
    for place, (block, which) in enumerate(stretches):
        many = _count(which)
        if many > count:
            if isinstance(which, slice):
                middle = which.start + count
                parts: tuple[Which, Which] = slice(which.start, middle), slice(middle, which.stop)
            else:
                parts = which[:count], which[count:]
            if count:
                first.append((block, parts[0]))
            return first, [(block, parts[1]), *stretches[place + 1 :]]
        first.append((block, which))
        count -= many
    return first, []


def _in_turn(held: list[tuple[T, Which]]) -> bool:
    """Whether no event is older than one before it; each block is in order."""
    last = None
    for block, which in held:
        ends = (which.start, which.stop - 1) if isinstance(which, slice) else (which[0], which[-1])
        if last is not None and block.times[ends[0]] < last:
            return False
        last = block.times[ends[1]]
    return True


def _oldest(held: list[tuple[T, Which]], count: int) -> Iterator[Run[T]]:
    """Give the `count` oldest events, and leave the others in `held`."""
    import numpy as np

    if not count:
        return
    if _in_turn(held):
        given, held[:] = _cut(held, count)
        yield Run(given, np.concatenate([block.times[which] for block, which in given]), None)
        return
    times = np.concatenate([block.times[which] for block, which in held])
    run = Run(held[:], times, None)
    of, at = run.located()
    order = np.argsort(times, kind="stable")
    first, kept = order[:count], np.sort(order[count:])
    ends = np.searchsorted(of[kept], np.arange(1, len(held)))
    left = zip(run.stretches, np.split(at[kept], ends), strict=True)
    held[:] = [(block, rest) for (block, _), rest in left if len(rest)]
    yield run._replace(times=times[first], order=first)
