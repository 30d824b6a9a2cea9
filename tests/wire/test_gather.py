"""The walkers behind columns: C and twin do the same on sound and on damaged bytes."""

from __future__ import annotations

import random
import struct
from array import array
from typing import Any

import numpy as np
import pytest

from kwire import native
from kwire.wire import gather
from kwire.wire.frame import Flag, Type, build

needs_library = pytest.mark.skipif(native.event_rows is None, reason="the C walkers were not built")
FIXED = 28


def events(source: random.Random) -> tuple[bytes, array[int]]:
    data, offsets = bytearray(source.randbytes(source.randrange(3))), array("Q")
    for _ in range(source.randrange(12)):
        tail = source.randbytes(source.randrange(20))
        place, size = source.choice([(FIXED, len(tail))] * 5 + [(0, 0), (FIXED + 1, len(tail)), (3, 2)])
        record = struct.pack("<QQHH", 1, 2, place, size | source.choice([0, 0x8000]))[
            : source.choice([20] * 9 + [7])
        ]
        record = record[:16] + record[16:].ljust(FIXED - 8 - 16, b"\0") if len(record) == 20 else record
        kind = source.choice([Type.EVENT] * 6 + [Type.LOST])
        offsets.append(len(data))
        data += build(kind, source.choice([1, 1, 1, 2]), record + tail, source.choice([0, 0, Flag.CHECKSUM]))
    for _ in range(source.choice([0, 0, 0, 1, 2])):
        if data:
            data[source.randrange(len(data))] = source.choice([0, 0x11, 0xFF])
    if source.random() < 0.1:
        offsets.append(source.choice([len(data), max(len(data) - 8, 0), 1 << 63]))
    return bytes(data), offsets


@needs_library
def test_rows_tails_and_texts_agree() -> None:
    for seed in range(2000):
        source = random.Random(seed)
        data, offsets = events(source)
        room, count = source.choice([0, 2, 20]), source.choice([len(offsets), 99, 3])
        results: list[Any] = []
        for rows_of, tails_of, texts_of in (
            (native.event_rows, native.event_tails, native.gather_texts),
            (gather.event_rows_twin, gather.event_tails_twin, gather.gather_texts_twin),
        ):
            assert rows_of is not None
            assert tails_of is not None
            assert texts_of is not None
            starts, ends = np.zeros(room, np.uint64), np.zeros(room, np.uint64)
            rows = np.zeros((room, 32), np.uint8)
            found, after = rows_of(data, offsets, count, 1, FIXED, 32, starts, ends, rows)
            places, lengths = np.zeros(room, np.uint64), np.zeros(room, np.uint64)
            swap, at = bool(seed & 2), 16 + 8 * (seed % 2)
            sound = tails_of(rows, found, 32, at, swap, FIXED, starts, ends, places, lengths)
            width = 1 + seed % 20
            out = np.zeros((room, width), np.uint8)
            texts = texts_of(data, places, lengths, sound, width, out)
            arrays = [one[:found].tolist() for one in (starts, ends, rows[:, :FIXED])]
            arrays += [one[:sound].tolist() for one in (places, lengths)]
            results.append((found, after, sound, texts, arrays, out[:texts].tolist()))
        assert results[0] == results[1], seed


@needs_library
@pytest.mark.parametrize("width", [1, 3, 8, 9, 15, 16, 17, 40])
def test_texts_of_all_lengths_are_gathered(width: int) -> None:
    source = random.Random(width)
    data = source.randbytes(400)
    for gather_texts in (native.gather_texts, gather.gather_texts_twin):
        assert gather_texts is not None
        lengths = np.array([number % (width + 1) for number in range(60)], np.uint64)
        places = np.array([source.randrange(400 - int(size) + 1) for size in lengths], np.uint64)
        out = np.full((60, width), 0xAA, np.uint8)
        assert gather_texts(data, places, lengths, 60, width, out) == 60
        for row, place, size in zip(out, places.tolist(), lengths.tolist(), strict=True):
            assert row.tobytes() == data[place : place + size].ljust(width, b"\0")


@needs_library
def test_rows_of_the_wrong_size_are_refused() -> None:
    for rows_of in (native.event_rows, gather.event_rows_twin):
        assert rows_of is not None
        for fixed, stride in ((16, 15), (16, 8), (0, 8), (20, 20)):
            with pytest.raises(IndexError):
                rows_of(b"", array("Q"), 0, 1, fixed, stride, np.zeros(0), np.zeros(0), np.zeros((0, 8)))
