"""When events come: rates over time, the time between two events, the longest silences.

Invariants: times of one probe may come out of order as far as HELD events reach, less where probes are many,
in whatever parts they are given; memory is bounded; no event is looked at alone. What comes later than that
is counted in `late` and makes no interval.
"""

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kwire.analyze.counts import intervals
from kwire.analyze.distribution import Log2
from kwire.analyze.timeline import Timeline
from kwire.native import BIT_LENGTHS, SUMS
from kwire.wire.schema import bounded

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

HELD: Final = 1 << 16  # times of a probe that wait for earlier ones …
ALL: Final = 1 << 21  # … and of all probes together, about
LEAST: Final = 1 << 10  # … but of each so many
APART: Final = 1 << 12  # times that are looked at by themselves; fewer are put together
GAPS: Final = 5  # silences kept


def stretches(times: "Array", begins: int, width: int) -> "Array":
    """In which stretch of `width` ns from `begins` on each time lies; 0 before that."""
    import numpy as np

    if width >= 1 << 64:
        return np.zeros(len(times), np.int64)
    least = np.int64(bounded(begins))
    late = np.maximum(times, least)  # so that the difference is none below 0, and fits without its sign
    found: Array = ((late.view(np.uint64) - least.view(np.uint64)) // np.uint64(width)).astype(np.int64)
    return found


class Gap(NamedTuple):
    """Nothing came between two events: wall-clock ns."""

    first: int
    last: int


def room(probes: int) -> int:
    """How many times of each of so many probes wait."""
    return max(LEAST, min(HELD, ALL // max(probes, 1)))


class Timing:
    """The times of one probe: `timeline`, `intervals` between neighbours (ns), `gaps`, longest first.

    Of silences that are equally long those that came first are kept, however the times were given.
    """

    __slots__ = ("_after", "_held", "_in_turn", "_many", "gaps", "intervals", "late", "room", "timeline")

    def __init__(self) -> None:
        self.timeline = Timeline()
        self.intervals = Log2()
        self.gaps: list[Gap] = []
        self.late = 0
        self.room = HELD  # times that wait; whoever has many of these gives each less
        self._held: list[Array] = []
        self._in_turn, self._many = True, 0  # whether those are in order, and how many they are
        self._after: int | None = None  # the last time whose interval is counted

    def add(self, times: "Array") -> None:
        """Take times that are in order among themselves."""
        self.timeline.add(times)
        if self._held and times[0] < self._held[-1][-1]:
            self._in_turn = False
        self._held.append(times)
        self._many += len(times)
        if self._many > 2 * self.room:
            self._give(self._many - self.room)

    def finish(self) -> None:
        """No more times come."""
        self._give(self._many)

    def _give(self, count: int) -> None:
        """Count the intervals of the earliest times."""
        import numpy as np

        if not self._in_turn or self._many < APART * len(self._held):
            times = np.concatenate(self._held)
            if not self._in_turn:
                times.sort(kind="stable")  # runs: they are merged
            self._held, self._in_turn = [times], True
        self._many -= count
        while count:
            times = self._held.pop(0)
            self._release(times[:count])
            if count < len(times):
                self._held.insert(0, times[count:].copy())
            count -= min(count, len(times))

    def _release(self, times: "Array") -> None:
        import numpy as np

        if not len(times):
            return
        if self._after is not None:
            behind = int(np.searchsorted(times, self._after))
            self.late += behind
            before, times = self._after, times[behind:]
        else:
            before, times = int(times[0]), times[1:]
        if not len(times):
            self._after = before
            return
        self._after = int(times[-1])
        counts, pairs = np.empty(2 * BIT_LENGTHS + SUMS, np.uint64), np.empty(2 * GAPS, np.uint64)
        wanted = self.gaps[-1].last - self.gaps[-1].first + 1 if len(self.gaps) == GAPS else 0
        if wanted >> 64:
            pairs, wanted = pairs[:0], 0  # none is longer
        found = intervals(times.view(np.uint64), before & (1 << 64) - 1, wanted, counts, pairs)
        self.intervals.join(counts, len(times), False)
        if found:
            ends = pairs[: 2 * found].view(np.int64).tolist()
            self.gaps += [Gap(*pair) for pair in zip(ends[::2], ends[1::2], strict=True)]
            self.gaps.sort(key=lambda gap: (gap.first - gap.last, gap.first))
            del self.gaps[GAPS:]
