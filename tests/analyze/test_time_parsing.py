"""Moments as people write them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwire.analyze.time_parsing import SECOND, UNITS, duration, moment
from kwire.errors import KwireError

BEGINS = 1_700_000_000_123_456_789  # 2023-11-14 22:13:20 UTC
ENDS = BEGINS + 3600 * SECOND


@pytest.fixture(autouse=True)
def zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")  # an hour ahead, that day
    time.tzset()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5s", 5 * SECOND),
        ("250ms", SECOND // 4),
        ("1m30s", 90 * SECOND),
        ("1.5s", 3 * SECOND // 2),
        ("2h", 7200 * SECOND),
        ("10us", 10_000),
        ("7µs", 7_000),
        ("3ns", 3),
        ("0.000000001s", 1),
        ("10", 10 * SECOND),
    ],
)
def test_durations(text: str, expected: int) -> None:
    assert duration(text) == expected


@pytest.mark.parametrize("text", ["", "s", "5x", "1m30", "-5s", "5 s", "5s!", "1e3s", "٣s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(KwireError, match="no duration"):
        duration(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1700000000000000001", 1_700_000_000_000_000_001),
        ("+5s", BEGINS + 5 * SECOND),
        ("-1m", ENDS - 60 * SECOND),
        ("+0s", BEGINS),
        ("2023-11-14T22:13:20Z", 1_700_000_000 * SECOND),
        ("2023-11-14 22:13:20.5Z", 1_700_000_000 * SECOND + SECOND // 2),
        ("2023-11-14T23:13:20+01:00", 1_700_000_000 * SECOND),
        ("2023-11-14T21:13:20-0100", 1_700_000_000 * SECOND),
        ("2023-11-14T23:13:20", 1_700_000_000 * SECOND),
        ("2023-11-14T23:13:20.000000007", 1_700_000_000 * SECOND + 7),
        ("2023-11-14", 1_700_000_000 * SECOND - (23 * 3600 + 13 * 60 + 20) * SECOND),
        ("23:13:21", 1_700_000_001 * SECOND),
        ("23:13:20.9", 1_700_000_000 * SECOND + 9 * SECOND // 10),
        ("23:14", 1_700_000_040 * SECOND),
        ("00:05:00", 1_700_000_000 * SECOND + (46 * 60 + 40 + 300) * SECOND),  # the capture ends at 00:13
        ("12:00:00", 1_700_000_000 * SECOND - (11 * 3600 + 13 * 60 + 20) * SECOND),  # on the first day
    ],
)
def test_moments(text: str, expected: int) -> None:
    assert moment(text, BEGINS, ENDS) == expected


@pytest.mark.parametrize(
    "text", ["", "noon", "25:00:00", "12:61", "2023-13-01", "2023-02-30T00:00:00", "+", "+x", "5s"]
)
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(KwireError, match=r"is no (moment|duration)"):
        moment(text, BEGINS, ENDS)


@given(st.integers(0, 10**15), st.sampled_from(sorted(UNITS)))
def test_whole_durations_are_exact(number: int, unit: str) -> None:
    assert duration(f"{number}{unit}") == number * UNITS[unit]
