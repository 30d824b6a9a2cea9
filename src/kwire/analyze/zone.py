"""Local time over many moments: what a column of wall-clock times shows in this process's time zone.

Invariants: each moment is shifted by the offset from UTC that holds at it (zones change at quarters of
hours); what shows such a time again as text says which offset that is.
"""

from calendar import timegm
from functools import lru_cache
from time import mktime
from typing import TYPE_CHECKING, Any, Final

from kwire.view.text import offset_text, utc_offset

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

SECOND: Final = 1_000_000_000
QUARTER: Final = 900  # seconds: no zone changes between two of these
DAY: Final = 86_400  # seconds
NEAR: Final = 100  # quarters that are looked at to see that all have one offset


def local_times(times: "Array") -> "Array":
    """Wall-clock ns since 1970 as the ns that a local clock shows, both int64."""
    import numpy as np

    if not len(times):
        return times
    low, high = (int(end) // (QUARTER * SECOND) for end in (times.min(), times.max()))
    if high - low < NEAR:
        [offset, *others] = {utc_offset(quarter * QUARTER) for quarter in range(low, high + 1)}
        inside = not others and -(1 << 62) < low * QUARTER * SECOND < 1 << 62  # so that the shifted are, too
        if inside:
            return times + np.int64(offset * SECOND) if offset else times
    quarters, where = np.unique(times // (QUARTER * SECOND), return_inverse=True)
    offsets = np.array([utc_offset(quarter * QUARTER) for quarter in quarters.tolist()], np.int64)
    shift: Array = offsets[where.ravel()] * SECOND
    limits = np.iinfo(np.int64)
    room = np.where(shift < 0, times >= limits.min - shift, times <= limits.max - np.maximum(shift, 0))
    return np.where(room, times + np.where(room, shift, 0), times)


def local_clock(first: int, last: int) -> list[tuple[int, int]]:
    """How far local time is ahead of UTC between two moments: (until when, how far) in turn, in ns."""
    low, high = first // (QUARTER * SECOND), last // (QUARTER * SECOND)
    found = [(low, utc_offset(low * QUARTER))]  # since which quarter, which offset
    step = 7 * DAY // QUARTER
    for start in range(low, high, step):
        stop = min(start + step, high)
        while utc_offset(stop * QUARTER) != found[-1][1]:
            known, other = max(start, found[-1][0]), stop
            while other - known > 1:
                middle = (known + other) // 2
                if utc_offset(middle * QUARTER) == found[-1][1]:
                    known = middle
                else:
                    other = middle
            found.append((other, utc_offset(other * QUARTER)))
    until = [since * QUARTER * SECOND for since, _ in found[1:]] + [last]
    return [(end, offset * SECOND) for end, (_, offset) in zip(until, found, strict=True)]


def local_time(time: int | None) -> int | None:
    """The same for one moment."""
    if time is None:
        return None
    shifted = time + utc_offset(time // SECOND) * SECOND
    return shifted if -(1 << 63) <= shifted < 1 << 63 else time


def local_text(text: str) -> str:
    """A local time as SQL writes it (`2026-03-01 12:30:00.5`), with the offset from UTC that it has."""
    return text + _offset(text[:16])


@lru_cache(1 << 12)
def _offset(minute: str) -> str:
    try:
        date, _, clock = minute.partition(" ")
        year, month, day = map(int, date.split("-"))
        hour, minutes = map(int, clock.split(":"))
        fields = (year, month, day, hour, minutes, 0)
        return offset_text(round(timegm(fields) - mktime((*fields, 0, 0, -1))))
    except (ValueError, OverflowError):
        return ""
