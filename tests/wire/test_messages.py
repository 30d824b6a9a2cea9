"""LOST: every byte in its place, no count ever lost, merging that cannot flood and changes no sum."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwire.wire.frame import Code, Flag, FrameError, Type, build, read_strict
from kwire.wire.messages import CAUSES, CPU_UNKNOWN, MERGE_GAP, PAYLOAD, Cause, Lost, merge


def spans(high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(0, high), st.integers(0, high)).map(lambda pair: (min(pair), max(pair)))


@st.composite
def losses(draw: st.DrawFn, high: int = 2**64 - 1) -> Lost:
    first, last = draw(spans(high))
    small = high < 2**63
    probe = draw(st.integers(0, 2 if small else 2**32 - 1))
    cpu = draw(st.sampled_from([0, 1]) if small else st.integers(0, 0xFFFF))
    cause = draw(st.sampled_from([1, 6]) if small else st.integers(0, 255))
    return Lost(probe, first, last, draw(st.integers(0, high)), cpu, cause)


@given(losses(), st.sampled_from([0, Flag.CHECKSUM]))
def test_lost_comes_back(lost: Lost, flags: int) -> None:
    frame = read_strict(lost.frame(flags))
    assert Lost.read(frame) == lost
    assert frame.header.type == Type.LOST


def test_every_byte() -> None:
    frame = Lost(
        0x01020304, 0x1112131415161718, 0x2122232425262728, 0x3132333435363738, 0x4142, Cause.DISK_FULL
    ).frame()
    assert frame.hex() == "1700002801020304111213141516171821222324252627283132333435363738414206" + "00" * 5
    lost = Lost.read(read_strict(Lost(1, 2, 3, 4).frame()))
    assert (lost.cpu, lost.cause) == (CPU_UNKNOWN, Cause.UNKNOWN)
    assert isinstance(lost.cause, Cause)


def test_a_cause_of_a_later_version_keeps_its_count() -> None:
    lost = Lost(1, 2, 3, 4, 5, 200)
    assert Lost.read(read_strict(lost.frame())) == lost


def test_a_count_past_64_bits_stays_the_greatest() -> None:
    assert Lost.read(read_strict(Lost(1, 2, 3, 2**70).frame())).count == 2**64 - 1


BAD = [
    (PAYLOAD.pack(1, 2, 3, 4, 5, bytes(5))[:-1], 8),
    (PAYLOAD.pack(1, 2, 3, 4, 5, bytes(5)) + b"\0", 8),
    (b"", 8),
    (PAYLOAD.pack(2, 1, 3, 4, 5, bytes(5)), 16),
    (PAYLOAD.pack(1, 2, 3, 4, 5, b"\0\0\0\0\1"), 35),
]


@pytest.mark.parametrize(("payload", "offset"), BAD)
def test_bad_payloads(payload: bytes, offset: int) -> None:
    with pytest.raises(FrameError) as caught:
        Lost.read(read_strict(build(Type.LOST, 1, payload)))
    assert (caught.value.problem.code, caught.value.problem.offset) == (Code.BAD_PAYLOAD, offset)


@given(st.lists(losses(1000), max_size=30), st.sampled_from([0, 10, 100, MERGE_GAP]))
def test_merging(list_: list[Lost], gap: int) -> None:
    merged = merge(list_, gap)
    assert [loss.first for loss in merged] == sorted(loss.first for loss in merged)

    def sums(losses: list[Lost]) -> Counter[tuple[int, int, int]]:
        total: Counter[tuple[int, int, int]] = Counter()
        for loss in losses:
            total[loss.probe, loss.cpu, loss.cause] += loss.count
        return total

    assert sums(merged) == sums(list_)
    for key in {(loss.probe, loss.cpu, loss.cause) for loss in list_}:
        before = [loss for loss in list_ if (loss.probe, loss.cpu, loss.cause) == key]
        after = [loss for loss in merged if (loss.probe, loss.cpu, loss.cause) == key]
        assert all(later.first - sooner.last > gap for sooner, later in itertools.pairwise(after))
        assert all(any(one.first <= loss.first and loss.last <= one.last for one in after) for loss in before)
        assert {one.first for one in after} <= {loss.first for loss in before}
        assert {one.last for one in after} <= {loss.last for loss in before}


def test_merging_keeps_holes_apart() -> None:
    holes = [
        Lost(1, 0, 10, 5, 0, 1),
        Lost(1, 300, 310, 7, 0, 1),
        Lost(1, 15, 20, 1, 1, 1),
        Lost(1, 30, 35, 2, 0, 1),
    ]
    assert merge(holes, 20) == [Lost(1, 0, 35, 7, 0, 1), Lost(1, 15, 20, 1, 1, 1), Lost(1, 300, 310, 7, 0, 1)]
    assert merge([]) == []


def test_the_cause_table_is_whole_and_its_numbers_are_kept() -> None:
    assert set(CAUSES) == set(Cause)
    names = (
        "UNKNOWN RING_FULL MAP_FULL MISSED TOO_LONG SENDER_FULL DISK_FULL EXPIRED RATE_LIMIT CAPTURE_GONE "
        "MISSED_SHARED SPOOL BROKER"
    )
    assert {cause.name: int(cause) for cause in Cause} == {name: n for n, name in enumerate(names.split())}
