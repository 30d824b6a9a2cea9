"""Counts over time, in stretches whose length is known only when all times were seen.

Invariants: counts are exact; one reading is enough: stretches are powers of two of ns and stand at the
multiples of their length, so that two make one as more time is to be covered, and those of all timelines go
together; memory is bounded by FINE stretches. At the end all lie on one grid of at most BINS bins.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

BINS: Final = 240  # of a grid, at most
FINE: Final = 1 << 10  # stretches while times come, at most
WAITING: Final = 1 << 12  # counts that wait to be put together, beyond which they are
STEP: Final = 32  # by how many powers of two stretches are made longer at a time


class Grid(NamedTuple):
    """`bins` equal stretches from `begins` on (wall-clock ns), each `width` ns."""

    begins: int
    width: int
    bins: int


class Stretches:
    """Counts by stretch and kind, a number below 128; its length: of so many. A stretch is 2**`shift` ns."""

    __slots__ = ("_base", "_first", "_last", "_parts", "_size", "shift")

    def __init__(self) -> None:
        self.shift = 0
        self._first, self._last = 0, -1
        self._base = 0  # the stretch from which those of the keys are counted: they are few
        self._parts: list[
            tuple[Array, Array]
        ] = []  # (stretch - base) << 7 | kind, how many; to be put together
        self._size = 0

    def __len__(self) -> int:
        return len(self._cells()[0])

    def reach(self, low: int, high: int) -> None:
        """Make stretches that reach these times too."""
        first, last, shift = low >> self.shift, high >> self.shift, self.shift
        if self._first <= self._last:
            first, last = min(first, self._first), max(last, self._last)
        while last - first >= FINE:
            first, last, shift = first >> 1, last >> 1, shift + 1
        while self.shift < shift:
            self._widen(min(shift - self.shift, STEP))
        if not self._parts:
            self._base = first
        self._first, self._last = first, last

    def add(self, first: int, keys: "Array", counts: "Array") -> None:
        """Count so many of each key, (stretch - `first`) << 7 | kind."""
        self._parts.append((keys + (first - self._base << 7), counts))
        self._size += len(keys)
        if self._size > WAITING:
            self._cells()

    def span(self, shift: int) -> tuple[int, int] | None:
        """The first and the last stretch, of 2**shift ns, that have times; None: there are none."""
        by = shift - self.shift
        return (self._first >> by, self._last >> by) if self._first <= self._last else None

    def laid(self, grid: Grid, kinds: int = 1) -> "Array":
        """The counts by bin of the grid and kind."""
        import numpy as np

        keys, counts = self._cells()
        ahead = np.uint64(self._base - (grid.begins >> self.shift) & (1 << 64) - 1)
        bins = ((keys >> 7).view(np.uint64) + ahead) // np.uint64(grid.width >> self.shift)
        laid = np.zeros(grid.bins * kinds, np.int64)
        np.add.at(laid, bins.astype(np.int64) * kinds + (keys & 127), counts)
        return laid.reshape(grid.bins, kinds)

    def _widen(self, by: int) -> None:
        """Make one of 2**by stretches."""
        keys, counts = self._cells()
        low = self._base & (1 << by) - 1
        self._base >>= by
        self.shift += by
        if len(keys):
            self._parts = [((keys >> 7) + low >> by << 7 | keys & 127, counts)]
            self._cells(anew=True)

    def _cells(self, *, anew: bool = False) -> "tuple[Array, Array]":
        """The keys, each once and in order, and how many there are of each."""
        import numpy as np

        if not self._parts:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        if len(self._parts) > 1 or anew:
            keys, counts = (np.concatenate(column) for column in zip(*self._parts, strict=True))
            order = np.argsort(keys, kind="stable")
            keys = keys[order]
            starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
            self._parts = [(keys[starts], np.add.reduceat(counts[order], starts))]
        self._size = len(self._parts[0][0])
        return self._parts[0]


class Timeline:
    """Events over time; once it is laid on a grid, `counts` has a number for each bin."""

    __slots__ = ("counts", "grid", "stretches")

    def __init__(self) -> None:
        import numpy as np

        self.stretches = Stretches()
        self.grid = Grid(0, 1, 0)
        self.counts: Array = np.zeros(0, np.int64)

    def add(self, times: "Array") -> None:
        """Count times, which are in order."""
        import numpy as np

        if not len(times):
            return
        made, low, high = self.stretches, int(times[0]), int(times[-1])
        made.reach(low, high)
        first, last = low >> made.shift, high >> made.shift
        edges = np.int64(first) + np.arange(1, last - first + 1) << np.int64(made.shift)
        counts = np.diff(np.concatenate([[0], np.searchsorted(times, edges), [len(times)]]))
        there = np.flatnonzero(counts)
        made.add(first, there << 7, counts[there])

    def lay(self, grid: Grid) -> None:
        """No more times come: this is the grid of all."""
        self.grid, self.counts = grid, self.stretches.laid(grid)[:, 0]

    @property
    def peak(self) -> float:
        """Events a second in the fullest bin."""
        return float(self.counts.max(initial=0)) * 1e9 / self.grid.width


def grid_of(all: Iterable[Stretches]) -> Grid:
    """The grid on which these lie together."""
    parts = [one for one in all if one.span(one.shift) is not None]
    if not parts:
        return Grid(0, 1, 1)
    shift = max(one.shift for one in parts)
    spans = [span for one in parts if (span := one.span(shift)) is not None]
    first, last = min(low for low, _ in spans), max(high for _, high in spans)
    while last - first >= FINE:
        first, last, shift = first >> 1, last >> 1, shift + 1
    step = -(-(last - first + 1) // BINS)
    return Grid(first << shift, step << shift, -(-(last - first + 1) // step))
