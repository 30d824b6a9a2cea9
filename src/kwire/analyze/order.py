"""Blocks into one order of time: events of several probes and CPUs lie in a capture in runs.

The law: every event comes exactly once; events are in order as far as WINDOW events reach, which is further
than a ring buffer's worth of one CPU while the window holds all CPUs' runs.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final

from kwire.analyze.scan import Block

WINDOW: Final = 1 << 17


def ordered(blocks: Iterable[Block], window: int = WINDOW) -> Iterator[tuple[Block, int, int]]:
    """Each event as (its block, its index there, its time), the oldest first."""
    import numpy as np

    held: list[tuple[Block, Any]] = []  # block, indices of its events not yet given
    waiting = 0
    for block in blocks:
        held.append((block, np.arange(len(block.times))))
        waiting += len(block.times)
        if waiting > 2 * window:
            yield from _oldest(held, waiting - window)
            waiting = sum(len(rest) for _, rest in held)
    yield from _oldest(held, waiting)


def _oldest(held: "list[tuple[Block, Any]]", count: int) -> Iterator[tuple[Block, int, int]]:
    """Give the `count` oldest events, and leave the others in `held`."""
    import numpy as np

    if not count:
        return
    times = np.concatenate([block.times[rest] for block, rest in held])
    of = np.repeat(np.arange(len(held)), [len(rest) for _, rest in held])
    at = np.concatenate([rest for _, rest in held])
    order = np.argsort(times, kind="stable")
    given, kept = order[:count], np.sort(order[count:])
    blocks = [block for block, _ in held]
    left = [(block, at[kept][of[kept] == number]) for number, block in enumerate(blocks)]
    held[:] = [(block, rest) for block, rest in left if len(rest)]
    for which, index, time in zip(of[given].tolist(), at[given].tolist(), times[given].tolist(), strict=True):
        yield blocks[which], index, time
