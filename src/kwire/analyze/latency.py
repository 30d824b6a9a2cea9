"""How long things take: calls whose two ends were seen, and fields that hold a time; over time.

Invariants: an end belongs to the latest beginning of the same call in the same thread that has no end yet, so
nested calls are told apart; what has no partner is counted. Pairing is done by numpy for a window at a time;
beginnings wait for their ends across windows, at most WAITING of a call.
"""

from typing import TYPE_CHECKING, Any, Final

from kwire.analyze.counts import bit_lengths
from kwire.analyze.distribution import BITS, Log2, above, counted
from kwire.analyze.timeline import Grid, Stretches

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

WAITING: Final = 1 << 18
DEPTH: Final = 8  # calls inside of each other that are paired in one window
HELD: Final = 1 << 16  # events of a call that wait for earlier ones

#: Units of fields that are times → nanoseconds.
UNITS: Final = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 1_000_000_000}


class Latency:
    """Durations in ns: `durations`; once laid on a grid, `heat`."""

    __slots__ = ("_grid", "durations", "stretches")

    def __init__(self) -> None:
        self.durations = Log2()
        self.stretches = Stretches()
        self._grid = Grid(0, 1, 0)

    def add(self, times: "Array", durations: "Array") -> None:
        """Count durations (unsigned) of what ended, or began, at these times."""
        import numpy as np

        if not len(times):
            return
        self.durations.add(durations)
        made, low = self.stretches, int(times.min())
        made.reach(low, int(times.max()))
        first = low >> made.shift
        places = (times >> np.int64(made.shift)) - np.int64(first)
        made.add(first, *counted(places << np.int64(7) | bit_lengths(durations)))

    def lay(self, grid: Grid) -> None:
        """Set the grid, once no more durations come."""
        self._grid = grid

    @property
    def heat(self) -> "Array":
        """How many of each power of two there are in each bin of the grid; made anew when it is asked for."""
        return self.stretches.laid(self._grid, BITS + 1)


class Calls:
    """The calls of one key on one host: `latency` of those whose ends were seen; `open` and `lonely` are not.

    `open`: beginnings without an end; `lonely`: ends without a beginning.
    """

    __slots__ = ("_waiting", "latency", "lonely", "name", "open")

    def __init__(self, name: str) -> None:
        self.name = name
        self.latency = Latency()
        self.open = self.lonely = 0
        # What waits: times, threads and whether each is an end, in parts.
        self._waiting: list[tuple[Array, Array, Array]] = []

    def add(self, times: "Array", threads: "Array", *, begins: bool) -> None:
        """Take events of one of the two probes."""
        import numpy as np

        self._waiting.append((times, threads.astype(np.int64), np.full(len(times), not begins)))

    def pair(self, *, last: bool = False) -> None:
        """Pair what has come; `last`: no more comes. The newest events wait: their partners may come."""
        import numpy as np

        if not self._waiting:
            return
        times, threads, ends = (np.concatenate(column) for column in zip(*self._waiting, strict=True))
        count = len(times)
        ready = count if last else max(0, count - HELD)
        if not ready:
            return
        order = np.argsort(times, kind="stable")
        times, threads, ends = times[order], threads[order], ends[order]
        left = self._match(times[:ready], threads[:ready], ends[:ready])
        self.lonely += int(ends[left].sum())
        waiting = left[~ends[left]]
        if last:
            self.open += len(waiting)
            waiting = waiting[:0]
        elif len(waiting) > WAITING:
            self.open += len(waiting) - WAITING
            waiting = waiting[-WAITING:]
        keep = np.concatenate([np.sort(waiting), np.arange(ready, count)])
        self._waiting = [(times[keep], threads[keep], ends[keep])]

    def _match(self, times: "Array", threads: "Array", ends: "Array") -> "Array":
        """Pair each beginning with the end that follows it in its thread; gives the places of the others."""
        import numpy as np

        by_thread = np.argsort(_small(threads), kind="stable")  # in a thread they stay in order of time
        for _ in range(DEPTH):
            one, two = by_thread[:-1], by_thread[1:]
            pairs = ~ends[one] & ends[two] & (threads[one] == threads[two])
            if not pairs.any():
                break
            first, second = one[pairs], two[pairs]
            durations = (times[second] - times[first]).view(np.uint64)
            self.latency.add(times[second], durations)
            rest = np.ones(len(by_thread), bool)
            rest[:-1][pairs] = False
            rest[1:][pairs] = False
            by_thread = by_thread[rest]
        return by_thread


def _small(threads: "Array") -> "Array":
    """Numbers in the same order of 16 bits where that is possible: they sort several times as fast."""
    import numpy as np

    if not len(threads):
        return threads
    shifted = above(threads, int(threads.min()))
    if int(shifted.max()) < 1 << 16:
        small: Array = shifted.astype(np.uint16)
        return small
    if int(shifted.max()) < 1 << 23:
        present = np.zeros(int(shifted.max()) + 1, bool)
        present[shifted] = True
        if int(present.sum()) < 1 << 16:
            ranks: Array = (np.cumsum(present) - 1)[shifted].astype(np.uint16)
            return ranks
    return threads
