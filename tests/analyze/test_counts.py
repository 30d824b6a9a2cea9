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
from kwire.native import Distinct, Events, TextField
from kwire.wire import gather

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
            got = distinct(octets, width, signed, Distinct(source.getrandbits(64) | 1, table, *found))
            out = np.zeros(native.BIT_LENGTHS * 2 + native.SUMS, np.uint64)
            bits(octets, width, signed, out)
            results.append((got, found[:, :got].tolist() if got <= limit else None, out.tolist()))
        assert results[0] == results[1], seed


@needs_library
@pytest.mark.parametrize("room", [0, 1, 5])
def test_intervals_are_counted_as_the_twin_does(room: int) -> None:
    """Steps of any length, many of them equal, over all 64 bits; wanted are any, or long ones."""
    ends = [0, 1, 5, 1000, 1001, 1 << 40, (1 << 64) - 1]
    for seed in range(300):
        results: list[Any] = []
        for intervals in (native.intervals, counts.intervals_twin):
            assert intervals is not None
            source = random.Random(seed)
            pool = [source.choice(ends) for _ in range(2)] + [source.getrandbits(source.randrange(1, 65))]
            steps = [source.choice(pool) for _ in range(source.choice([0, 1, 2, 9, 100]))]
            before = source.choice([0, 7, 1 << 63, (1 << 64) - 5])
            times = np.cumsum(np.array(steps, np.uint64)) + np.uint64(before)
            wanted = source.choice([0, 0, 1, 1000, 1002, (1 << 64) - 1])
            out, pairs = (
                np.zeros(native.BIT_LENGTHS * 2 + native.SUMS, np.uint64),
                np.zeros(2 * room, np.uint64),
            )
            found = intervals(times, before, wanted, out, pairs)
            results.append((found, out.tolist(), pairs[: 2 * found].tolist()))
        assert results[0] == results[1], seed
        assert results[0][0] == min(room, sum(step >= wanted for step in steps))


@needs_library
def test_a_table_that_is_too_small_is_refused() -> None:
    for distinct in (native.count_distinct, counts.count_distinct_twin):
        assert distinct is not None
        for size in (0, 3, 4):
            to = Distinct(1, np.zeros(size, np.uint32), *np.zeros((3, 4), np.uint64))
            with pytest.raises(IndexError):
                distinct(np.zeros(8, np.uint8), 1, False, to)


@needs_library
@pytest.mark.parametrize("factor", [1, 0x9E3779B97F4A7C15, 1 << 52, (1 << 32) + 1])
def test_nobody_can_choose_values_that_have_one_place(monkeypatch: pytest.MonkeyPatch, factor: int) -> None:
    """Steps through the table are counted, of values made for one factor: there it would be millions."""
    steps: list[int] = []

    def watched(values: Any, width: int, signed: bool, to: Distinct) -> int:
        assert native.count_distinct is not None
        found = native.count_distinct(values, width, signed, to)
        slots, bits = len(to.table), len(to.table).bit_length() - 1
        for at in np.flatnonzero(to.table).tolist():
            home = (int(to.keys[to.table[at] - 1]) * to.factor & (1 << 64) - 1) >> (64 - bits)
            steps.append((at - home) % slots)
        return found

    monkeypatch.setattr(counts, "count_distinct", watched)
    spread = pow(factor, -1, 1 << 64) if factor & 1 else factor
    made = np.array([number * spread & (1 << 64) - 1 for number in range(counts.FEW)], np.uint64)
    assert counts.few(made) is not None
    assert len(steps) == counts.FEW
    assert sum(steps) < 100 * counts.FEW


def event_like(source: random.Random, count: int) -> tuple[Any, Any, Any]:
    """Bytes, and where events of at least 24 bytes start in them, most of them inside."""
    data = np.frombuffer(source.randbytes(24 * count + 8), np.uint8).copy()
    if source.random() < 0.7:
        data &= source.choice([0, 1, 0x80])  # few different values
    starts = np.arange(count, dtype=np.uint64) * np.uint64(24)
    ends = np.array([source.choice([24, 24, 24, 30]) for _ in range(count)], np.uint64)
    if count and source.random() < 0.2:
        starts[source.randrange(count)] = source.choice([24 * count, 1 << 40, (1 << 64) - 1])
    return data, starts, ends


def room(limit: int, rows: int) -> tuple[Any, Any]:
    return np.zeros(1 << (2 * limit).bit_length(), np.uint32), np.zeros((rows, limit), np.uint64)


@needs_library
def test_the_walkers_count_fields_of_events_as_their_twins() -> None:
    reached = Counter[str]()
    for seed in range(600):
        results: list[Any] = []
        for numbers in (native.event_counts, counts.event_counts_twin):
            assert numbers is not None
            source = random.Random(seed)
            data, starts, _ = event_like(source, source.choice([0, 1, 5, 60]))
            fields = [
                (
                    source.choice([0, 3, 8, 16, 23, 1 << 40]),
                    source.choice([1, 2, 4, 8, 8, 3]),
                    *source.choices([0, 1], k=2),
                )
                for _ in range(source.choice([0, 1, 3, 20]))
            ]
            limit = source.choice([0, 1, 3, 60])
            table = np.tile(room(limit, 1)[0], min(len(fields), native.TOGETHER) or 1)
            keys, times = np.zeros((2, len(fields), limit), np.uint64)
            found = np.zeros(len(fields), np.uint64)
            events = Events(data, starts, None, len(starts))
            numbers(events, np.array(fields, np.uint64), Distinct(seed | 1, table, keys, times), found)
            whole = [
                (keys[at, :many].tolist(), times[at, :many].tolist())
                for at, many in enumerate(found.tolist())
                if many <= limit
            ]
            reached["whole"] += bool(whole)
            reached["more"] += len(whole) < len(fields)
            results.append((found.tolist(), whole))
        assert results[0] == results[1], seed
    assert min(reached["whole"], reached["more"]) > 50


@needs_library
@pytest.mark.parametrize("kind", [gather.TAIL, gather.FIXED, gather.RAW])
def test_the_walkers_count_texts_of_events_as_their_twins(kind: int) -> None:
    reached = Counter[str]()
    for seed in range(600):
        results: list[Any] = []
        for texts in (native.text_counts, counts.text_counts_twin):
            assert texts is not None
            source = random.Random(seed)
            data, starts, ends = event_like(source, source.choice([0, 1, 5, 60]))
            swap, at, width = (
                source.random() < 0.5,
                source.choice([0, 8, 20, 21]),
                source.choice([1, 2, 4, 16]),
            )
            order = ">" if swap else "<"
            for start in starts.tolist():
                if kind == gather.TAIL and start + at + 4 <= len(data):
                    pair = (source.choice([16, 18, 20]), source.choice([0, 0x8000, 3, 0x8003, 4, 4, 4]))
                    if source.random() < 0.01:
                        pair = (source.choice([0, 15, 60, 0xFFFF]), source.randrange(1 << 16))
                    data[start + at : start + at + 4] = np.array(pair, f"{order}u2").view(np.uint8)
            limit = source.choice([0, 1, 3, 60])
            table, made = room(limit, 4)
            field = TextField(at, kind, width, swap, 16, seed)
            done = texts(Events(data, starts, ends, len(starts)), field, Distinct(seed | 1, table, *made))
            results.append((done, made[:, : done[0]].tolist() if done[0] <= limit else None))
            reached["whole"] += 0 < done[0] <= limit
            reached["more"] += done[0] > limit
            reached["unread"] += done[1] > 0
        assert results[0] == results[1], seed
    assert min(reached["whole"], reached["more"]) > 50
    assert reached["unread"] > 50 or kind != gather.TAIL


@needs_library
@pytest.mark.parametrize("length", [1, 7, 8, 9, 15, 16, 17])
@pytest.mark.parametrize("order", "<>")
def test_texts_that_repeat_are_counted_as_their_twins(length: int, order: str) -> None:
    """Runs of one text, broken by a byte that differs, by another place, by a shorter one, by none at all."""
    text, size, places = bytes(range(1, 1 + length)), 64, (20, 24)
    for seed in range(40):
        source = random.Random(seed)
        rows = []
        for _ in range(60):
            at, part = places[source.random() < 0.1], bytearray(text)
            told = length
            if source.random() < 0.15:
                part[source.randrange(length)] ^= 0x40
            if source.random() < 0.05:
                told = source.choice([0x8000, 0x8000 | length, length - 1])
            reference = np.array([at, told], f"{order}u2").tobytes()
            rows.append(
                (bytes(16) + reference + bytes(at - 20) + part).ljust(size, source.choice([b"\0", b"x"]))
            )
        cut = size - places[1] - length  # the last text ends where the data do
        data = np.frombuffer(b"".join(rows)[: -cut or None], np.uint8)
        starts = np.arange(len(rows), dtype=np.uint64) * np.uint64(size)
        ends = np.full(len(rows), size, np.uint64)
        ends[-1] = size - cut
        if seed % 4 == 0:
            ends[source.randrange(len(rows))] = places[0] + length - 1
        results: list[Any] = []
        for texts in (native.text_counts, counts.text_counts_twin):
            assert texts is not None
            table, made = room(60, 4)
            field = TextField(16, gather.TAIL, 4, order == ">", 20, seed)
            done = texts(Events(data, starts, ends, len(starts)), field, Distinct(seed | 1, table, *made))
            results.append((done, made[:, : done[0]].tolist() if done[0] <= 60 else None))
        assert results[0] == results[1], seed


@needs_library
def test_a_table_that_is_too_small_for_events_is_refused() -> None:
    data, places, field = np.zeros(64, np.uint8), np.zeros(1, np.uint64), np.array([0, 1, 0, 0], np.uint64)
    for numbers, texts in (
        (native.event_counts, native.text_counts),
        (counts.event_counts_twin, counts.text_counts_twin),
    ):
        assert numbers is not None
        assert texts is not None
        for size in (0, 3, 4):
            table, some = np.zeros(size, np.uint32), np.zeros((4, 4), np.uint64)
            events = Events(data, places, places, 1)
            with pytest.raises(IndexError):
                numbers(events, field, Distinct(1, table, some[0], some[1]), places)
            with pytest.raises(IndexError):
                texts(events, TextField(0, gather.RAW, 4, False, 0, 1), Distinct(1, table, *some))


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
