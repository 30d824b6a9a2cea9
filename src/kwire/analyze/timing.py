"""When events come: rates over time, the time between two events, the longest silences.

Invariants: times of one probe may come out of order as far as HELD events reach; memory is bounded; no event
is looked at alone. What comes later than that is counted in `late` and makes no interval.
"""

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kwire.analyze.distribution import Log2
from kwire.analyze.timeline import Timeline
from kwire.wire.schema import bounded

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

HELD: Final = 1 << 16  # times of a probe that wait for earlier ones
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


class Timing:
    """The times of one probe: `timeline`, `intervals` between neighbours (ns), `gaps`, longest first.

    Of silences that are equally long those that came first are kept, however the times were given.
    """

    __slots__ = ("_after", "_held", "gaps", "intervals", "late", "timeline")

    def __init__(self) -> None:
        import numpy as np

        self.timeline = Timeline()
        self.intervals = Log2()
        self.gaps: list[Gap] = []
        self.late = 0
        self._held: Array = np.zeros(0, np.int64)
        self._after: int | None = None  # the last time whose interval is counted

    def add(self, times: "Array") -> None:
        """Take times that are in order among themselves."""
        import numpy as np

        self.timeline.add(times)
        held = self._held
        if len(held) and times[0] < held[-1]:
            held = np.sort(np.concatenate([held, times]), kind="stable")  # two runs: one merge
        elif len(times) <= HELD:
            self._release(held)
            self._held = times
            return
        else:
            held = np.concatenate([held, times])
        keep = min(len(times), HELD)
        self._release(held[: len(held) - keep])
        self._held = held[len(held) - keep :]

    def finish(self) -> None:
        """No more times come."""
        self._release(self._held)
        self._held = self._held[:0]

    def _release(self, times: "Array") -> None:
        import numpy as np

        if not len(times):
            return
        if self._after is not None:
            behind = int(np.searchsorted(times, self._after))
            self.late += behind
            times = np.concatenate([[np.int64(self._after)], times[behind:]])
        steps = np.diff(times).view(np.uint64)  # from one end of 64 bits to the other it would be negative
        self._after = int(times[-1])
        if not len(steps):
            return
        self.intervals.add(steps)
        least = self.gaps[-1].last - self.gaps[-1].first if len(self.gaps) == GAPS else -1
        if int(steps.max()) > least:
            count = min(GAPS, len(steps))
            shortest = np.partition(steps, -count)[-count]
            places = np.flatnonzero(steps > shortest).tolist()
            equal = np.flatnonzero(steps == shortest)
            places += equal[: count - len(places)].tolist()
            self.gaps += [Gap(int(times[at]), int(times[at + 1])) for at in places]
            self.gaps.sort(key=lambda gap: (gap.first - gap.last, gap.first))
            del self.gaps[GAPS:]
