"""The walkers that move and renumber frames: C and twin do the same on sound and on damaged bytes."""

from __future__ import annotations

import random
from array import array

import pytest

from kwire import native
from kwire.wire import walk
from kwire.wire.frame import Flag, Type, build, checksum, inspect
from kwire.wire.frames import Frames

needs_library = pytest.mark.skipif(native.frame_gather is None, reason="the C walkers were not built")
RENUMBER = [walk.frame_renumber_twin, *filter(None, [native.frame_renumber])]
GATHER = [walk.frame_gather_twin, *filter(None, [native.frame_gather])]


def mixed(source: random.Random) -> bytearray:
    """Frames of all types, some with checksums, some damaged."""
    data = bytearray()
    for _ in range(source.randrange(12)):
        kind, id = source.choice(list(Type)), source.choice([0, 1, 2, 3, 5, 0xFFFFFFFF])
        flags = source.choice([0, Flag.CHECKSUM])
        data += build(kind, id, source.randbytes(source.randrange(40)), flags)
    for _ in range(source.choice([0, 0, 1, 3])):
        if data:
            data[source.randrange(len(data))] = source.choice([0, 0x11, 0xFF, source.randrange(256)])
    return data


def places(data: bytearray, source: random.Random) -> array[int]:
    offsets = array("Q", Frames.walk_prefix(data)[0].offsets)
    if source.random() < 0.2:
        offsets.append(source.choice([len(data) - 4 if len(data) > 4 else 0, len(data), (1 << 64) - 1]))
    return offsets


@needs_library
def test_renumbering_agrees() -> None:
    assert native.frame_renumber is not None
    for seed in range(500):
        source = random.Random(seed)
        data = mixed(source)
        offsets = places(data, source)
        start, count = source.randrange(len(offsets) + 1), source.choice([len(offsets), 99])
        table = array(
            "Q", [source.choice([0, 7, 1 << 31, 0x1_0000_0000, 9]) for _ in range(source.randrange(6))]
        )
        one, two = bytearray(data), bytearray(data)
        assert native.frame_renumber(one, offsets, start, count, table) == walk.frame_renumber_twin(
            two, offsets, start, count, table
        )
        assert one == two, seed


@needs_library
def test_gathering_agrees() -> None:
    assert native.frame_gather is not None
    for seed in range(500):
        source = random.Random(seed)
        data = mixed(source)
        offsets = places(data, source)
        start, room = source.randrange(len(offsets) + 1), source.choice([0, 20, 100, 1000])
        position = source.randrange(room + 1)
        one, two = bytearray(b"\xaa" * room), bytearray(b"\xaa" * room)
        assert native.frame_gather(data, offsets, start, 99, one, position) == walk.frame_gather_twin(
            data, offsets, start, 99, two, position
        )
        assert one == two, seed


@pytest.mark.parametrize("renumber", RENUMBER)
@pytest.mark.parametrize("flags", [0, Flag.CHECKSUM])
@pytest.mark.parametrize("payload", [b"", b"odd", b"even"])
@pytest.mark.parametrize("new", [1, 2, 0x10000, 0xFFFFFFFF])
def test_a_renumbered_frame_is_the_frame_built_with_that_number(
    renumber: object, flags: Flag, payload: bytes, new: int
) -> None:
    assert callable(renumber)
    data = bytearray(build(Type.EVENT, 3, payload, flags))
    assert renumber(data, array("Q", [0]), 0, 1, array("Q", [0, 0, 0, new])) == 1
    assert data == build(Type.EVENT, new, payload, flags)
    assert not inspect(data)[1]


@pytest.mark.parametrize("renumber", RENUMBER)
def test_renumbering_stops_where_it_knows_no_number(renumber: object) -> None:
    assert callable(renumber)
    parts = [
        build(Type.LOST, 0, bytes(32)),
        build(Type.DATA, 9, b""),
        build(Type.SCHEMA, 1, b""),
        b"\x11\0\0\x08",
    ]
    data = bytearray(b"".join([*parts[:3], build(Type.EVENT, 2, b"")]))
    offsets = array("Q", [0, 40, 48, 56])
    assert renumber(data, offsets, 0, 4, array("Q", [0, 5])) == 3
    assert data == bytearray(b"".join([*parts[:2], build(Type.SCHEMA, 5, b""), build(Type.EVENT, 2, b"")]))
    assert renumber(data, offsets, 3, 4, array("Q", [0, 0, 5])) == 4
    with pytest.raises(IndexError):
        renumber(data, offsets, 5, 4, array("Q"))


@pytest.mark.parametrize("gather", GATHER)
def test_gathered_frames_stand_back_to_back(gather: object) -> None:
    assert callable(gather)
    one, two = build(Type.EVENT, 1, b"abcdefgh"), build(Type.LOST, 1, bytes(32))
    data = b"##" + one + b"###" + two
    out = bytearray(100)
    assert gather(data, array("Q", [2, 21]), 0, 2, out, 4) == (2, 4 + len(one) + len(two))
    assert out[4 : 4 + len(one) + len(two)] == one + two
    assert gather(data, array("Q", [2, 21]), 0, 2, memoryview(out)[: len(one)], 0) == (1, len(one))
    with pytest.raises(IndexError):
        gather(data, array("Q", [2]), 0, 1, out, 101)


@needs_library
def test_strict_walks_headers_and_checksums_agree() -> None:
    assert native.frame_strict is not None
    assert native.frame_headers is not None
    assert native.frame_checksums is not None
    for seed in range(1500):
        source = random.Random(seed)
        data = mixed(source)
        limit, start = source.choice([0, 2, 99]), source.choice([0, 0, 0, len(data), len(data) + 1])
        end = source.choice([len(data), len(data), max(len(data) - 3, 0), 1 << 63])
        results = []
        for step in (native.frame_strict, walk.frame_strict_twin):
            offsets = array("Q", bytes(8 * limit))
            results.append((step(data, start, end, offsets, limit), offsets))
        assert results[0] == results[1], seed
        offsets = places(data, source)
        for one, two in (
            (native.frame_headers, walk.frame_headers_twin),
            (native.frame_checksums, walk.frame_checksums_twin),
        ):
            outs = array("Q", bytes(8 * 9)), array("Q", bytes(8 * 9))
            assert one(data, offsets, 99, outs[0]) == two(data, offsets, 99, outs[1]), seed
            assert outs[0] == outs[1], seed


@pytest.mark.parametrize("size", [*range(40), *range(110, 200), 255, 256, 1399, 65527])
def test_checksums_of_every_length_are_those_of_the_frame(size: int) -> None:
    source = random.Random(size)
    for payload in (source.randbytes(size), b"\xff" * size, bytes(size)):
        data = build(Type.DATA, 1, payload)
        out = array("Q", [0])
        assert walk.frame_checksums(data, array("Q", [0]), 1, out) == 1
        assert out[0] == checksum(data)
