"""The walkers behind columns: C and twin do the same on sound and on damaged bytes."""

from __future__ import annotations

import random
import struct
from array import array
from typing import Any

import numpy as np
import pytest

from kwire import native
from kwire.wire import column_rows
from kwire.wire.frame import Flag, Type, build

needs_library = pytest.mark.skipif(native.event_spans is None, reason="the C walkers were not built")
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


NAMES = ("heads", "spans", "values", "tails", "texts")
BOTH = [
    {name: getattr(room, f"event_{name}{end}") for name in NAMES}
    | {name: getattr(room, f"{name}_texts{end}") for name in ("gather", "pack", "hash")}
    for room, end in ((native, ""), (column_rows, "_twin"))
]


#: What schemas say of probes 1 and 2, as `soundness.Soundness.rows` gives it.
SHAPES = [
    (b"", b""),
    (array("Q", [1, FIXED, 0, 0, 1]), array("Q", [24])),
    (array("Q", [1, 20, 1, 1, 1, 2, FIXED, 0, 0, 2]), array("Q", [16, 24])),
    (array("Q", [2, 16, 0, 0, 0]), b""),
]


def numbers(count: int) -> Any:
    return np.zeros(count, np.uint64)


@needs_library
def test_heads_spans_values_and_texts_agree() -> None:
    for seed in range(2000):
        results: list[Any] = []
        for of in BOTH:
            source = random.Random(seed)
            data, offsets = events(source)
            room, count = source.choice([0, 2, 20]), source.choice([len(offsets), 99, 3])
            swap = bool(seed & 2)
            types, ids, times = np.zeros(room, np.uint8), np.zeros(room, np.uint32), numbers(room)
            sizes = np.zeros(room, np.uint32)
            rows, tails = source.choice(SHAPES)
            done, survey = of["heads"](data, offsets, count, rows, tails, types, ids, sizes, times)
            times[:done][types[:done] != Type.EVENT] = 0
            found = [(done, survey), *(one[:done].tolist() for one in (types, ids, sizes, times))]
            starts, ends = numbers(room), numbers(room)
            taken, after = of["spans"](data, offsets, count, 1, FIXED, starts, ends)
            found += [(taken, after), starts[:taken].tolist(), ends[:taken].tolist()]
            for at, width, each in (
                (16, 8, 8),
                (8, 8, 0),
                (16, 4, 2),
                (20, 4, 4),
                (1, 1, 0),
                (3, 7, 3),
                (9, 2, 2),
            ):
                out = np.zeros(room * width, np.uint8)
                got = of["values"](data, starts, taken, at, width, each, out)
                found.append((got, out[: got * width].tolist()))
            places, lengths, width = numbers(room), numbers(room), 1 + seed % 20
            got = of["texts"](data, starts, taken, 8, width, places, lengths)
            found += [got, places[:got].tolist(), lengths[:got].tolist()]
            got = of["tails"](data, starts, ends, taken, 16 + 8 * (seed % 2), swap, FIXED, places, lengths)
            found += [got, places[:got].tolist(), lengths[:got].tolist()]
            out, hashes, stops = (
                np.zeros((room, width), np.uint8),
                numbers(room),
                np.zeros(room + 1, np.uint32),
            )
            texts = of["gather"](data, places, lengths, got, width, out)
            packed = np.zeros(source.choice([0, 9, 1000]), np.uint8)
            fit = of["pack"](data, places, lengths, got, packed, stops)
            hashed = of["hash"](
                data, places, lengths, got, 0x0123456789ABCDEF * (seed | 1) % (1 << 64), hashes
            )
            found += [
                texts,
                out[:texts].tolist(),
                fit,
                packed[: stops[fit]].tolist(),
                stops[: fit + 1].tolist(),
            ]
            results.append([*found, hashed, hashes[:hashed].tolist()])
        assert results[0] == results[1], seed


@needs_library
def test_places_outside_the_data_end_it() -> None:
    for seed in range(500):
        results = []
        for of in BOTH:
            source = random.Random(seed)
            data = source.randbytes(40)
            wild = [0, 20, 39, 40, 41, 1 << 40, (1 << 64) - 1]
            places = np.array([source.choice(wild[:3] * 5 + wild) for _ in range(6)], np.uint64)
            lengths = np.array([source.choice([0, 1, 2, 9, 20]) for _ in range(6)], np.uint64)
            out, hashes, stops = np.zeros(60, np.uint8), numbers(6), np.zeros(7, np.uint32)
            got = [of["pack"](data, places, lengths, 6, out, stops), stops.tolist()]
            got[1] = got[1][: got[0] + 1]
            done = of["hash"](data, places, lengths, 6, 5, hashes)
            got += [done, hashes[:done].tolist(), out[: got[1][-1]].tolist()]
            size = of["values"](data, places, 6, source.choice([0, 5]), 4, 4, out)
            got += [size, out[: 4 * size].tolist()]
            results.append(got)
        assert results[0] == results[1], seed


@needs_library
def test_nuls_at_the_end_of_a_text_change_no_hash() -> None:
    data = b"abc\0\0\0\0\0\0\0\0\0\0\0"
    for of in BOTH:
        out = numbers(4)
        lengths = np.array([3, 4, 8, 14], np.uint64)
        assert of["hash"](data, numbers(4), lengths, 4, 7, out) == 4
        assert len(set(out.tolist())) == 1


@needs_library
@pytest.mark.parametrize("width", [1, 3, 8, 9, 15, 16, 17, 40])
def test_texts_of_all_lengths_are_gathered(width: int) -> None:
    source = random.Random(width)
    data = source.randbytes(400)
    for gather_texts in (native.gather_texts, column_rows.gather_texts_twin):
        assert gather_texts is not None
        lengths = np.array([number % (width + 1) for number in range(60)], np.uint64)
        places = np.array([source.randrange(400 - int(size) + 1) for size in lengths], np.uint64)
        out = np.full((60, width), 0xAA, np.uint8)
        assert gather_texts(data, places, lengths, 60, width, out) == 60
        for row, place, size in zip(out, places.tolist(), lengths.tolist(), strict=True):
            assert row.tobytes() == data[place : place + size].ljust(width, b"\0")


def test_a_survey_tells_what_all_heads_say() -> None:
    """Events that are alike are looked at once; one that differs in anything is looked at by itself."""

    def event(time: int, *, id: int = 1, place: int = FIXED, size: int = 4) -> bytes:
        return build(Type.EVENT, id, struct.pack("=QQHH", time, 0, place, size) + b"tail")

    alike = [event(time) for time in (5, 6, 6, 9)]
    cases = {
        (): native.Survey(True, True, 5, 9, 0),
        (event(7),): native.Survey(True, False, 5, 9, 0),
        (event(9), event(3)): native.Survey(True, False, 3, 9, 0),
        (event(10, id=2),): native.Survey(False, True, 5, 10, 0),
        (build(Type.LOST, 1, bytes(32)),): native.Survey(False, True, 5, 9, 0),
        (event(9, place=FIXED + 1), event(9)): native.Survey(True, True, 5, 9, 1),
        (event(9, size=0, place=7), event(9, size=5)): native.Survey(True, True, 5, 9, 1),
    }
    walkers = [column_rows.event_heads_twin, *filter(None, [native.event_heads])]
    for more, expected in cases.items():
        data, offsets = bytearray(), array("Q")
        for frame in (*alike, *more):
            offsets.append(len(data))
            data += frame
        for walker in walkers:
            count = len(offsets)
            room = (np.zeros(count, kind) for kind in (np.uint8, np.uint32, np.uint32, np.uint64))
            assert walker(bytes(data), offsets, count, *SHAPES[1], *room) == (count, expected), more


@needs_library
@pytest.mark.parametrize("seed", range(60))
def test_heads_of_runs_are_those_of_the_twin(seed: int) -> None:
    """EVENTs of several probes and lengths in runs, other frames between them, times that go back."""
    source = random.Random(seed)
    data, offsets = bytearray(), array("Q")
    for _ in range(source.randrange(6)):
        number, size = source.choice([1, 2, 9]), source.choice([8, 15, 16, 24, 40])
        kind = source.choice([0x11, 0x11, 0x11, 0x17, 0x18])
        for _ in range(source.randrange(9)):
            offsets.append(len(data))
            data += struct.pack(">BBHI", kind, 0, size, number) + source.randbytes(size - 8)
    if source.random() < 0.3:
        offsets.append(source.choice([len(data), len(data) + 9, (1 << 64) - 1]))
    tails = array("Q", [16, 20])
    rows = array("Q", [1, 24, source.randrange(2), 0, source.randrange(3), 2, 16, 0, 0, 0])
    found = []
    for walker in (native.event_heads, column_rows.event_heads_twin):
        assert walker is not None
        room = [np.zeros(len(offsets), kind) for kind in (np.uint8, np.uint32, np.uint32, np.uint64)]
        done, survey = walker(bytes(data), offsets, len(offsets), rows, tails, *room)
        found.append((done, survey, [one[:done].tolist() for one in room]))
    assert found[0] == found[1]
