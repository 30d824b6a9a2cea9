"""Blocks into one order of time: events of several probes and CPUs lie in a capture in stretches.

Invariant: every event comes exactly once; events are in order as far as WINDOW events reach, which is further
than a ring buffer's worth of one CPU while the window holds all CPUs' runs, or as far as ROOM bytes of them.
Nothing is given while blocks that were read with it are to come.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kwire.analyze.scan import Block
from kwire.capture.reader import gathered
from kwire.wire.frames import Frames

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

WINDOW: Final = 1 << 17
ROOM: Final = 64 << 20  # bytes of the blocks that wait, about


class Run(NamedTuple):
    """Events in order of time: `of` is the place of each one's block in `blocks`, `at` its index there."""

    blocks: list[Block]
    of: "Array"
    at: "Array"
    times: "Array"


def ordered(
    blocks: Iterable[Block], window: int = WINDOW, room: int = ROOM
) -> Iterator[tuple[Block, int, int]]:
    """Each event as (its block, its index there, its time), the oldest first."""
    for run in runs(blocks, window, room):
        columns = (run.of.tolist(), run.at.tolist(), run.times.tolist())
        for which, index, time in zip(*columns, strict=True):
            yield run.blocks[which], index, time


def runs(blocks: Iterable[Block], window: int = WINDOW, room: int = ROOM) -> Iterator[Run]:
    """The same, many events at once."""
    import numpy as np

    held: list[tuple[Block, Any]] = []  # block, indices of its events not yet given
    waiting = size = 0
    last = together = None  # the bytes that the last block lies in: those of a window share them; its round
    for block in blocks:
        if (waiting > 2 * window or size > room) and block.round is not together:  # none of it is to come
            yield from _oldest(held, max(waiting - window, waiting // 2))
            waiting = sum(len(rest) for _, rest in held)
            size = sum({id(one.frames.data): len(one.frames.view) for one, _ in held}.values())
            if size > room // 2:  # what is left may be little of much
                held = [_alone(*one) for one in held]
                size = sum(len(one.frames.view) for one, _ in held)
                last = None
        held.append((block, np.arange(len(block.times))))
        waiting += len(block.times)
        size += 0 if block.frames.data is last else len(block.frames.view)
        last, together = block.frames.data, block.round
    yield from _oldest(held, waiting)


def _alone(block: Block, rest: Any) -> tuple[Block, Any]:
    """These events of a block, in bytes of their own."""
    import numpy as np

    data, offsets = gathered(block.frames, rest)
    return block._replace(frames=Frames(data, offsets.data), times=block.times[rest]), np.arange(len(rest))


def _at(block: Block, rest: "Array") -> "Array":
    """The times of these events, which are in order; all of them as they are."""
    return block.times if len(rest) == len(block.times) else block.times[rest]


def _oldest(held: "list[tuple[Block, Any]]", count: int) -> Iterator[Run]:
    """Give the `count` oldest events, and leave the others in `held`."""
    import numpy as np

    given: Any
    if not count:
        return
    times = np.concatenate([_at(block, rest) for block, rest in held])
    of = np.repeat(np.arange(len(held)), [len(rest) for _, rest in held])
    at = np.concatenate([rest for _, rest in held])
    if (times[1:] >= times[:-1]).all():
        given, kept = slice(0, count), np.arange(count, len(times))
    else:
        order = np.argsort(times, kind="stable")
        given, kept = order[:count], np.sort(order[count:])
    blocks = [block for block, _ in held]
    ends = np.searchsorted(of[kept], np.arange(1, len(blocks)))
    left = zip(blocks, np.split(at[kept], ends), strict=True)
    held[:] = [(block, rest) for block, rest in left if len(rest)]
    yield Run(blocks, of[given], at[given], times[given])
