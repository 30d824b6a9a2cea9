"""Series of times, as bpftrace draws them."""

from __future__ import annotations

import json
import time

import pytest

from kwire.view import series

HOUR = 3_600_000_000_000


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def test_series_end_together_and_begin_where_they_begin() -> None:
    entries = {("a", 5): 1, ("a", 9): 2, ("b", 8): 3, ("b", 7): 4, ("old", 1): 5}
    made = series.split(entries, 3)
    assert made == [
        (("old",), []),
        (("b",), [(7, 4), (8, 3), (9, None)]),
        (("a",), [(9, 2)]),
    ]
    assert series.split({}, 3) == []


def test_a_graph_has_the_least_left_and_the_greatest_right() -> None:
    drawn = series.graph([(10, -5), (11, None), (12, 0), (13, 5)], 100_000_000)
    assert drawn == [
        "             -5                                                  5",
        "hh:mm:ss.ms  |___________________________________________________|",
        "00:00:01.000 *                         .                         | -5",
        "00:00:01.100 |                         .                         | -",
        "00:00:01.200 |                         *                         | 0",
        "00:00:01.300 |                         .                         * 5",
        "             v___________________________________________________v",
        "             -5                                                  5",
    ]


def test_one_value_is_in_the_middle_and_nothing_is_said() -> None:
    assert series.graph([(1, 7)], HOUR)[2] == f"01:00:00 |{' ' * 25}*{' ' * 25}| 7"
    assert series.graph([], HOUR) == ["<no data>"]


@pytest.mark.parametrize(
    ("interval", "head", "clock"),
    [
        (1_000, "hh:mm:ss.\u03bcs     |", "00:00:00.000003 "),
        (1, "hh:mm:ss.ns        |", "00:00:00.000000003 "),
        (60_000_000_000, "hh:mm:ss |", "00:03:00 "),
    ],
)
def test_the_unit_is_that_of_the_interval(interval: int, head: str, clock: str) -> None:
    drawn = series.graph([(3, 1)], interval)
    assert drawn[1].startswith(head)
    assert drawn[2].startswith(clock)


def test_maps_of_series_as_text_and_as_json() -> None:
    made = series.split({(1, "x", 2): 5, (1, "x", 3): 6}, 5)
    text = series.as_text("@a", made, HOUR, lambda key: ", ".join(map(str, key)))
    assert text.startswith("@a[1, x]:\n")
    assert text.endswith("6\n\n")
    found = json.loads(series.as_json("@a", made, HOUR, lambda key: ",".join(map(str, key))))
    assert found == {
        "type": "tseries",
        "data": {
            "@a": {
                "1,x": [
                    {"interval_start": "1970-01-01 02:00:00.000000000", "value": 5},
                    {"interval_start": "1970-01-01 03:00:00.000000000", "value": 6},
                ]
            }
        },
    }
    plain = series.as_json("@b", series.split({(1,): 5}, 5), HOUR, str)
    assert isinstance(json.loads(plain)["data"]["@b"], list)
