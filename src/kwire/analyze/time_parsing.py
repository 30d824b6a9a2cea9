"""Moments as people write them: wall clock, time of day, offsets from the beginning, nanoseconds.

Invariant: what is written means one moment, whatever the capture's length; what cannot be read as a moment is
a KwireError that says what can. Times of day and dates without a zone are local, as `kwire show` prints them.
"""

import re
import time
from typing import Final

from kwire.errors import KwireError

SECOND: Final = 1_000_000_000

#: Unit → nanoseconds, for offsets and durations.
UNITS: Final = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "ms": 1_000_000,
    "s": SECOND,
    "m": 60 * SECOND,
    "h": 3600 * SECOND,
}

FORMS: Final = (
    "write 2026-03-01T12:30:00.5, 12:30:00, +5s (from the beginning), -5s (from the end) or nanoseconds"
)
_PART = re.compile(r"(\d+)(?:\.(\d{1,9}))?(ns|us|µs|ms|s|m|h)?", re.ASCII)
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2})(?:\.(\d{1,9}))?)?", re.ASCII)
_DATE = re.compile(r"(\d{4})-(\d{2})-(\d{2})(?:[T ](.+?))?(Z|[+-]\d{2}:?\d{2})?", re.ASCII)


def duration(text: str, what: str = "duration") -> int:
    """Nanoseconds of `5s`, `1m30s`, `250ms`, `1.5s`; a plain number is seconds. KwireError otherwise."""
    at, total = 0, 0
    while at < len(text):
        part = _PART.match(text, at)
        if part is None or (part[3] is None and part.end() - part.start() != len(text)):
            break
        unit = UNITS[part[3] or "s"]
        total += int(part[1]) * unit + int((part[2] or "0").ljust(9, "0")) * unit // SECOND
        at = part.end()
    if not text or at < len(text):
        raise KwireError("read", what, f"{text!r} is no duration", "write 5s, 250ms, 1m30s")
    return total


def moment(text: str, begins: int, ends: int, what: str = "time") -> int:
    """Wall-clock ns of a moment in a capture whose events lie from `begins` to `ends` (wall-clock ns).

    A time of day is its first occurrence from the midnight before the beginning on that is not before the
    beginning, or the one on the first day where the capture ends before another comes.
    """
    text = text.strip()
    if text.isascii() and text.isdigit():
        return int(text)
    if text[:1] == "+":
        return begins + duration(text[1:], what)
    if text[:1] == "-":
        return ends - duration(text[1:], what)
    clock = _CLOCK.fullmatch(text)
    try:
        if clock:
            local = time.localtime(begins // SECOND)
            first = _local(local.tm_year, local.tm_mon, local.tm_mday, clock)
            next_day = _local(local.tm_year, local.tm_mon, local.tm_mday + 1, clock)
            return next_day if first < begins and next_day <= ends else first
        date = _DATE.fullmatch(text)
        if date:
            return _dated(date)
    except (ValueError, OverflowError, OSError):
        pass
    raise KwireError("read", what, f"{text!r} is no moment", FORMS)


def _seconds(clock: "re.Match[str]") -> tuple[int, int, int, int]:
    hour, minute, second = int(clock[1]), int(clock[2]), int(clock[3] or 0)
    if hour > 23 or minute > 59 or second > 60:
        raise ValueError
    return hour, minute, second, int((clock[4] or "0").ljust(9, "0"))


def _local(year: int, month: int, day: int, clock: "re.Match[str]") -> int:
    hour, minute, second, rest = _seconds(clock)
    return int(time.mktime((year, month, day, hour, minute, second, 0, 0, -1))) * SECOND + rest


def _dated(date: "re.Match[str]") -> int:
    from calendar import timegm
    from datetime import date as calendar_date

    year, month, day = int(date[1]), int(date[2]), int(date[3])
    calendar_date(year, month, day)  # ValueError where there is no such day
    clock = _CLOCK.fullmatch(date[4] or "00:00:00")
    if clock is None:
        raise ValueError
    if date[5] is None:
        return _local(year, month, day, clock)
    hour, minute, second, rest = _seconds(clock)
    zone = date[5].replace(":", "")
    shift = (
        0 if zone == "Z" else (int(zone[1:3]) * 3600 + int(zone[3:5]) * 60) * (-1 if zone[0] == "-" else 1)
    )
    return (timegm((year, month, day, hour, minute, second)) - shift) * SECOND + rest
