"""The walkers of captures: the C functions and their twins do the same on sound and on damaged bytes."""

from __future__ import annotations

import random
import struct
import sys
from array import array
from typing import Any

import pytest

from kwire import native
from kwire.capture import walk

pytestmark = pytest.mark.skipif(native.epb_pack is None, reason="the C walkers were not built")

SEEDS = range(300)


def damage(data: bytes, source: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(source.choice([0, 0, 1, 3])):
        at = source.randrange(len(out)) if out else 0
        out[at : at + source.choice([1, 4])] = source.choice(
            [b"\0", b"\xff", b"\0\0\0\0", b"\xff\xff\xff\xff", struct.pack("<I", source.randrange(200))]
        )
    return bytes(out[: source.choice([len(out), source.randrange(len(out) + 1)])])


def odd_event(source: random.Random) -> bytes:
    """An EVENT whose length is no multiple of anything."""
    length = source.randrange(16, 40)
    return struct.pack(">BBHI", 0x11, 0, length, 1) + source.randbytes(length - 8)


def some_frames(kit: Any, source: random.Random) -> tuple[bytes, array[int]]:
    order = source.choice(["little", "big"])
    frames = kit.frames(
        *(
            source.choice([kit.event, kit.event, kit.event, lambda *_: struct.pack(">BBHI", 0x17, 0, 8, 1)])(
                source.choice([1, 1, 2, 3, 0, 0xFFFFFFFF]),
                source.randrange(1 << 64),
                b"x" * source.randrange(30),
                order,
            )
            if source.random() < 0.8
            else odd_event(source)
            for _ in range(source.randrange(12))
        ),
        gap=source.choice([0, 8, 3]),
    )
    data = damage(bytes(frames.data), source)
    return data, array("Q", list(frames.offsets))


def test_packing_agrees(kit: Any) -> None:
    for seed in SEEDS:
        source = random.Random(seed)
        data, offsets = some_frames(kit, source)
        room, start = source.choice([0, 50, 200, 2000]), source.randrange(len(offsets) + 1)
        rows = [
            source.randrange(1 << 64),
            source.randrange(2),
            source.randrange(5),
            source.choice([0, 0, 9]),
        ] * 2
        results = []
        for pack in (native.epb_pack, walk.epb_pack_twin):
            assert pack is not None
            table, out = array("Q", rows), bytearray(b"\xaa" * room)
            results.append((pack(data, offsets, start, len(offsets), table, out, 0), table, out))
        assert results[0] == results[1], seed


def test_walking_agrees(kit: Any) -> None:
    for seed in SEEDS:
        source = random.Random(seed)
        order = source.choice(["little", "big"])
        builder = kit.builder(order)
        for _ in range(source.randrange(10)):
            event = kit.event(source.randrange(3), source.randrange(99), b"y" * source.randrange(9))
            match source.randrange(12):
                case 0:
                    builder.interface()
                case 1:
                    builder.packet(event[:-1])
                case 2:
                    builder.packet(event + b"\0\0\0\0")
                case 3:
                    builder.packet(b"\x11\x01" + event[2:])
                case 4:
                    builder.packet(b"")
                case 6:
                    builder.packet(event, interface=2)
                case 5:
                    builder.packet(event, options=[(4, bytes(8))])
                case _:
                    builder.packet(event)
        data = damage(builder.data, source)
        start, limit = source.choice([0, 0, 0, 4, len(data)]), source.choice([0, 2, 100])
        results = []
        for step in (native.pcapng_walk, walk.pcapng_walk_twin):
            assert step is not None
            offsets = array("Q", bytes(8 * limit))
            swap = order != sys.byteorder
            results.append((step(data, start, len(data), swap, 2, offsets, limit), offsets))
        assert results[0] == results[1], seed


def test_counting_agrees(kit: Any) -> None:
    for seed in SEEDS:
        source = random.Random(seed)
        data, offsets = some_frames(kit, source)
        swap = bool(source.randrange(2))
        results = []
        for count in (native.count_by_id, walk.count_by_id_twin):
            assert count is not None
            table = array("Q", [0] * 3 * source.choice([3]))
            results.append((count(data, offsets, len(offsets), table, swap), table))
        assert results[0] == results[1], seed


@pytest.mark.parametrize("step", [native.pcapng_walk, walk.pcapng_walk_twin])
def test_blocks_whose_lengths_lie_are_not_taken(kit: Any, step: Any) -> None:
    event = kit.event()

    def found(data: bytes) -> tuple[int, int]:
        count, after = step(data, 0, len(data), sys.byteorder == "big", 1, array("Q", bytes(80)), 10)
        return count, after

    good = kit.builder().packet(event).data
    assert found(good) == (1, len(good))
    longest = struct.pack(">BBHI", 0x11, 0, 65480, 1) + bytes(65472)
    assert found(kit.builder().packet(longest).data)[0] == 1
    longer = struct.pack(">BBHI", 0x11, 0, 65481, 1) + bytes(65473)
    assert found(kit.builder().packet(longer).data) == (0, 0)
    # The frame, as it says itself, goes on into the next block.
    reaching = struct.pack(">BBHI", 0x11, 0, len(event) + 8, 1) + event[8:]
    block = bytearray(kit.builder().packet(reaching).data)
    block[20:28] = struct.pack("<II", len(event) + 8, len(event) + 8)
    assert found(bytes(block) + good) == (0, 0)
    # A length that is no multiple of 4, the same at both ends.
    total = len(good) + 1
    odd = struct.pack("<II", 6, total) + good[8:-4] + b"\0" + struct.pack("<I", total)
    assert found(odd) == (0, 0)


def test_a_packed_event_is_a_packet_with_everything_in_its_place(kit: Any) -> None:
    event = kit.event(2, 1000, b"abcde")
    rows = array("Q", [0, 0, 0, 0, (1 << 64) - 400, 0, 6, 77])
    out = bytearray(200)
    for pack in (native.epb_pack, walk.epb_pack_twin):
        assert pack is not None
        table = array("Q", rows)
        taken, used = pack(event, array("Q", [0]), 0, 1, table, out, 8)
        assert (taken, used) == (1, 8 + 32 + len(event) + 16)
        block = bytes(out[8:used])
        assert struct.unpack_from("=7I", block) == (6, len(block), 1, 0, 600, len(event), len(event))
        assert block[28 : 28 + len(event)] == event
        assert block[28 + len(event) :] == struct.pack("=HHQII", 4, 8, 77, 0, len(block))
        assert list(table[4:]) == [(1 << 64) - 400, 0, 7, 0]


def test_counting_keeps_the_first_and_the_last_time(kit: Any) -> None:
    frames = kit.frames(*(kit.event(1, time) for time in (500, 300, 900, 400)), kit.event(2, 0))
    table = array("Q", bytes(8 * 9))
    assert walk.count_by_id(frames.data, frames.offsets, 5, table, False) == 5
    assert list(table) == [0, 0, 0, 4, 300, 900, 1, 0, 0]
