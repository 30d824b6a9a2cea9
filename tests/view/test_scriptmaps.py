"""Maps of scripts as they are printed: order, histograms, averages, JSON."""

from __future__ import annotations

import json

import pytest

from kwire.view.scriptmaps import as_json, lines
from kwire.wire.tables import divided

WIDE = "@" * 52


def test_numbers_are_in_order_and_equal_ones_by_key() -> None:
    entries = {("b", 2): 1, ("a", 10): 1, ("c", 1): -5, ("a", 9): 1}
    assert lines("@x", "hash", entries, [str, str], str) == [
        "@x[c, 1]: -5",
        "@x[a, 9]: 1",
        "@x[a, 10]: 1",
        "@x[b, 2]: 1",
    ]
    assert lines("@x", "count", entries, [str, str], str, top=1) == ["@x[b, 2]: 1"]
    assert lines("@x", "count", {(): 7}, [], str, div=2) == ["@x: 3"]


def test_averages_are_truncated() -> None:
    assert lines("@a", "avg", {(): (2, -3)}, [], str) == ["@a: -1"]
    entries = {("x",): (2, 9), ("y",): (1, 4)}
    assert lines("@s", "stats", entries, [str], str) == [
        "@s[x]: { .count = 2, .average = 4, .total = 9 }",
        "@s[y]: { .count = 1, .average = 4, .total = 4 }",
    ]
    assert [divided(-7, 2), divided(7, -2), divided(7, 0)] == [-3, -3, 0]


def test_a_histogram_of_powers_of_two() -> None:
    buckets = [(None, 0, 1), (0, 1, 0), (1, 2, 0), (2, 4, 2), (512, 1024, 1), (1 << 20, 1 << 21, 1)]
    assert lines("@", "hist", {(): buckets}, [], str) == [
        "@:",
        f"(..., 0)               1 |{'@' * 26:<52}|",
        f"[0]                    0 |{'':<52}|",
        f"[1]                    0 |{'':<52}|",
        f"[2, 4)                 2 |{WIDE}|",
        f"[512, 1K)              1 |{'@' * 26:<52}|",
        f"[1M, 2M)               1 |{'@' * 26:<52}|",
        "",
    ]


@pytest.mark.parametrize(("step", "label"), [(1, "[1024]"), (1024, "[1K, 2K)"), (10, "[1024, 1034)")])
def test_a_linear_histogram(step: int, label: str) -> None:
    made = lines("@h", "lhist", {("k",): [(1024, 1024 + step, 3), (5120, None, 1)]}, [str], str, step=step)
    assert made[0] == "@h[k]:"
    assert made[1].startswith(f"{label:<16}       3 |{WIDE}|")
    assert made[2].startswith("[5K, ...)" if step == 1024 else "[5120, ...)")


@pytest.mark.parametrize(
    ("kind", "entries", "keys", "expected"),
    [
        ("count", {("a", 1): 3}, 2, {"type": "map", "data": {"@x": {"a,1": 3}}}),
        ("hash", {(): 3}, 0, {"type": "map", "data": {"@x": 3}}),
        ("avg", {(): (2, 7)}, 0, {"type": "stats", "data": {"@x": 3}}),
        ("stats", {(): (2, 7)}, 0, {"type": "stats", "data": {"@x": {"count": 2, "average": 3, "total": 7}}}),
        (
            "hist",
            {(): [(None, 0, 1), (2, 4, 5)]},
            0,
            {"type": "hist", "data": {"@x": [{"max": -1, "count": 1}, {"min": 2, "max": 3, "count": 5}]}},
        ),
    ],
)
def test_json(kind: str, entries: dict[tuple[object, ...], object], keys: int, expected: object) -> None:
    assert json.loads(as_json("@x", kind, entries, [str] * keys)) == expected
