"""Frames: back-to-back frames are found, the walkers agree, nothing is copied, nothing read past the end."""

from __future__ import annotations

import mmap
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwire import native
from kwire.wire import frames as module
from kwire.wire.frame import Code, FrameError, Type, build, read_strict
from kwire.wire.frames import Frames, frame_walk

BUILT = st.lists(
    st.builds(
        build, st.just(Type.EVENT), st.integers(0, 2**32 - 1), st.binary(max_size=40), st.sampled_from([0, 1])
    ),
    max_size=6,
)


@given(BUILT)
def test_frames_come_back(built: list[bytes]) -> None:
    frames = Frames.walk(b"".join(built))
    assert len(frames) == frames.count == len(built)
    assert [bytes(frames.frame_bytes(index)) for index in range(len(frames))] == built
    assert [frame.payload for frame in frames] == [read_strict(data).payload for data in built]
    assert [frames.header(index) for index in range(len(frames))] == [
        read_strict(data).header for data in built
    ]
    odd = frames.select(range(1, len(built), 2))
    assert [bytes(odd.frame_bytes(index)) for index in range(len(odd))] == built[1::2]
    assert odd.data is frames.data


@given(BUILT)
def test_cut_at_every_byte(built: list[bytes]) -> None:
    data = b"".join(built)
    ends = [sum(map(len, built[:number])) for number in range(len(built) + 1)]
    for cut in range(len(data) + 1):
        frames, problem = Frames.walk_prefix(data[:cut])
        assert len(frames) == max(number for number, end in enumerate(ends) if end <= cut)
        assert (problem is None) == (cut in ends)
        if problem is not None:
            left = cut - ends[len(frames)]
            assert problem.code == (Code.TRUNCATED_HEADER if left < 8 else Code.TRUNCATED_PAYLOAD)
            assert problem.offset == cut
            with pytest.raises(FrameError):
                Frames.walk(data[:cut])


@given(BUILT, st.binary(max_size=40), st.integers(0, 60), st.integers(0, 300), st.integers(0, 8))
def test_the_two_walkers_agree(built: list[bytes], noise: bytes, start: int, end: int, limit: int) -> None:
    if native.frame_walk is None:
        pytest.skip("the C walkers are not built")
    data = b"".join(built) + noise
    for first in (0, start):
        mine, theirs = array("Q", bytes(64)), array("Q", bytes(64))
        twin = frame_walk(memoryview(data), first, end, mine, limit)
        assert native.frame_walk(data, first, end, theirs, limit) == twin
        assert mine == theirs


@pytest.mark.parametrize("walker", ["native", "twin"])
def test_more_frames_than_one_step(walker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if walker == "twin":
        monkeypatch.setattr(native, "frame_walk", None)
    for number in (module.WALK_STEP - 1, module.WALK_STEP, module.WALK_STEP + 1, 3 * module.WALK_STEP):
        frames = Frames.walk(build(Type.KEEPALIVE, 0) * number)
        assert list(frames.offsets) == list(range(0, 8 * number, 8))


@pytest.mark.parametrize("walker", ["native", "twin"])
@pytest.mark.parametrize("length", range(8))
def test_a_length_below_the_header_ends_the_walk(
    length: int, walker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if walker == "twin":
        monkeypatch.setattr(native, "frame_walk", None)
    bad = bytes([0x11, 0, 0, length, 0, 0, 0, 1])
    data = build(Type.EVENT, 1, b"12345678") + bad + build(Type.EVENT, 1)
    frames, problem = Frames.walk_prefix(data)
    assert len(frames) == 1
    assert problem is not None
    assert (problem.code, problem.offset) == (Code.LENGTH_BELOW_HEADER, 18)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, "mmap"])
def test_any_bytes_will_do(kind: object) -> None:
    data = build(Type.EVENT, 7, b"12345678") * 3
    if kind == "mmap":
        with mmap.mmap(-1, 4096) as mapping:
            mapping[: len(data)] = data
            frames = Frames(mapping, array("Q", [0, 16, 32]))
            assert [frame.header.id for frame in frames] == [7, 7, 7]
            mapping[15] = 0x39  # nothing was copied
            assert frames.frame(0).payload == b"12345679"
            frames.release()
            assert len(frames) == 0
        return
    assert callable(kind)
    assert [frame.payload for frame in Frames.walk(kind(data))] == [b"12345678"] * 3


def test_offsets_may_be_longer_than_the_count() -> None:
    frames = Frames(b"??" + build(Type.EVENT, 7), memoryview(array("Q", [2, 99, 99])), 1)
    assert [frame.header.id for frame in frames] == [7]


@pytest.mark.parametrize("offsets", [[0, 20, 8], [20, 8, 0], [8, 0, 20]])
def test_the_spread_of_frames_in_any_order(offsets: list[int]) -> None:
    """From the first to the last of them in the bytes, not from the one given first to the one given last."""
    data = build(Type.EVENT, 1) + build(Type.EVENT, 2, b"abcd") + build(Type.EVENT, 3)
    assert Frames(data, array("Q", offsets)).spread == 20
    assert Frames(data, array("Q", [*offsets, 999]), 3).spread == 20
    assert Frames(data, array("Q", offsets), 1).spread == 0
    assert Frames(data, array("Q", offsets), 0).spread == 0
