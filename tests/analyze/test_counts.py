"""Counts of integers: C and twin do the same, and what Python counts."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest

from kwire import native
from kwire.analyze import counts
from kwire.analyze.distribution import Log2, TopBytes, counted

needs_library = pytest.mark.skipif(native.count_distinct is None, reason="the C walkers were not built")
TYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8")


def values(source: random.Random, kind: str, count: int) -> Any:
    info = np.iinfo(kind)
    edges = [info.min, info.max, 0, 1, info.max // 2]
    pool = [source.choice(edges) for _ in range(3)]
    pool += [source.randrange(info.min, info.max + 1) for _ in range(source.choice([0, 5, 200]))]
    return np.array([source.choice(pool) for _ in range(count)], kind)


@needs_library
def test_the_walkers_count_as_their_twins() -> None:
    for seed in range(400):
        results: list[Any] = []
        for distinct, bits in (
            (native.count_distinct, native.bit_counts),
            (counts.count_distinct_twin, counts.bit_counts_twin),
        ):
            assert distinct is not None
            assert bits is not None
            source = random.Random(seed)
            kind = TYPES[seed % 8]
            made = values(source, kind, source.choice([0, 1, 40, 300]))
            width, signed, octets = made.dtype.itemsize, made.dtype.kind == "i", made.view(np.uint8)
            limit = source.choice([0, 1, 7, 300])
            table = np.zeros(1 << (2 * limit).bit_length(), np.uint32)
            found = np.zeros((3, limit), np.uint64)
            got = distinct(octets, width, signed, source.getrandbits(64) | 1, table, *found)
            out = np.zeros(counts.BITS * 2 + counts.SUMS, np.uint64)
            bits(octets, width, signed, out)
            results.append((got, found[:, :got].tolist() if got <= limit else None, out.tolist()))
        assert results[0] == results[1], seed


@needs_library
def test_a_table_that_is_too_small_is_refused() -> None:
    for distinct in (native.count_distinct, counts.count_distinct_twin):
        assert distinct is not None
        for size in (0, 3, 4):
            with pytest.raises(IndexError):
                distinct(
                    *(np.zeros(8, np.uint8), 1, False, 1, np.zeros(size, np.uint32)),
                    *np.zeros((3, 4), np.uint64),
                )


@needs_library
@pytest.mark.parametrize("factor", [1, 0x9E3779B97F4A7C15, 1 << 52, (1 << 32) + 1])
def test_nobody_can_choose_values_that_have_one_place(monkeypatch: pytest.MonkeyPatch, factor: int) -> None:
    """Steps through the table are counted, of values made for one factor: there it would be millions."""
    steps: list[int] = []

    def watched(values: Any, width: int, signed: bool, factor: int, table: Any, *rest: Any) -> int:
        assert native.count_distinct is not None
        found = native.count_distinct(values, width, signed, factor, table, *rest)
        slots, bits = len(table), len(table).bit_length() - 1
        for at in np.flatnonzero(table).tolist():
            home = (int(rest[0][table[at] - 1]) * factor & (1 << 64) - 1) >> (64 - bits)
            steps.append((at - home) % slots)
        return found

    monkeypatch.setattr(counts, "count_distinct", watched)
    spread = pow(factor, -1, 1 << 64) if factor & 1 else factor
    made = np.array([number * spread & (1 << 64) - 1 for number in range(counts.FEW)], np.uint64)
    assert counts.few(made) is not None
    assert len(steps) == counts.FEW
    assert sum(steps) < 100 * counts.FEW


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("count", [1, 50, 30_000])
def test_distributions_are_exact(kind: str, count: int) -> None:
    source = random.Random(count)
    made = values(source, kind, count)
    if count > 10_000 and made.dtype.itemsize > 2:
        made = np.array([source.randrange(np.iinfo(kind).max) for _ in range(count)], kind)
    distinct, times = counted(made)
    assert dict(zip(distinct.tolist(), times.tolist(), strict=True)) == Counter(made.tolist())
    assert distinct.tolist() == sorted(set(made.tolist()))
    for one in (Log2(), Log2()):
        one.add(made)
        plain = made.tolist()
        assert (one.count, one.total, one.least, one.greatest) == (count, sum(plain), min(plain), max(plain))
        buckets = Counter((-1 if value < 0 else 1) * abs(value).bit_length() for value in plain)
        assert sorted(one_.count for one_ in one.buckets if one_.count) == sorted(buckets.values())
    both = Log2()
    both.add(*counted(made))
    assert both.buckets == one.buckets
    assert both.total == one.total


def test_texts_are_told_apart_without_the_nuls_at_their_ends() -> None:
    data = np.frombuffer(b"abc\0abc\0\0abd", np.uint8)
    top = TopBytes()
    top.add(data, np.array([0, 4, 9, 0], np.uint64), np.array([4, 5, 3, 3], np.uint64))
    top.add(data, np.array([4], np.uint64), np.array([3], np.uint64))
    assert top.most(5) == [(b"abc", 4), (b"abd", 1)]
