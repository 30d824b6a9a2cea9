"""The C walkers' loader: buffers without copies, bounds against hostile lengths, agreement with the twins."""

from __future__ import annotations

import importlib.util
import mmap
import os
import random
import struct
import subprocess
import sys
import textwrap
from array import array
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwire import native
from kwire.kernel import ring
from kwire.wire.frames import frame_walk

ROOT = Path(__file__).resolve().parent.parent
needs_library = pytest.mark.skipif(native.ring_walk is None, reason="the C walkers were not built")


def run(program: str, **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_a_buffer_of_any_kind_is_pinned_where_it_lies() -> None:
    data = bytearray(b"0123456789")
    inside = memoryview(data)[3:7]
    assert native.address(inside) == native.address(data) + 3
    with native.Pinned(inside) as pinned:
        assert pinned.size == 4
    assert native.Pinned(b"abc").size == 3
    assert native.Pinned(array("Q", [1, 2])).size == 16
    assert native.Pinned(memoryview(bytes(16)).cast("Q")).size == 16


def test_a_pinned_buffer_cannot_be_resized_or_unmapped() -> None:
    data, mapping = bytearray(8), mmap.mmap(-1, 4096)
    with native.Pinned(data), native.Pinned(mapping), pytest.raises(BufferError):
        data.append(1)
    with native.Pinned(mapping), pytest.raises(BufferError):
        mapping.close()
    data.append(1)
    mapping.close()


def test_a_read_only_or_scattered_buffer_is_refused_where_it_will_not_do() -> None:
    with pytest.raises(BufferError):
        native.Pinned(b"abc", writable=True)
    with pytest.raises(BufferError):
        native.Pinned(memoryview(b"abcdef")[::2])
    with pytest.raises(TypeError):
        native.Pinned(17)


def test_without_the_library_every_walker_is_none() -> None:
    run(
        """
        from kwire import native
        assert [native.ring_walk, native.frame_walk, native.epb_pack, native.pcapng_walk] == [None] * 4
        assert native.count_by_id is None
        assert [native.frame_strict, native.library, native.event_spans] == [None] * 3
        from kwire.capture import walk
        assert walk.epb_pack is walk.epb_pack_twin
        """,
        KWIRE_NATIVE="0",
    )


def frame(length: int, size: int) -> bytes:
    return struct.pack(">BBHI", 0x11, 0, length, 1) + bytes(max(0, size - 8))


@needs_library
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)).map(lambda pair: frame(*pair))),
    st.binary(max_size=20),
    st.integers(0, 60),
    st.integers(0, 40),
)
def test_frames_are_found_as_the_twin_finds_them(
    parts: list[bytes], end: bytes, start: int, limit: int
) -> None:
    assert native.frame_walk is not None
    data = memoryview(b"".join(parts) + end)
    results = []
    for walk in (native.frame_walk, frame_walk):
        offsets = array("Q", bytes(8 * limit))
        results.append((walk(data, start, len(data), offsets, limit), offsets))
    assert results[0] == results[1]


class RingData:
    """A BPF ring buffer's memory: records laid end to end, mapped twice."""

    def __init__(self, source: random.Random, size: int = 512) -> None:
        self.mask = size - 1
        self.consumer = self.producer = 8 * source.randrange(1000)
        once = bytearray(source.randbytes(size))
        while True:
            length = source.randrange(80)
            stride = (length + 15) & ~7
            if self.producer + stride - self.consumer > size:
                break
            bits = source.choice([0, 0, 0, 0, ring.DISCARD, ring.BUSY if source.random() < 0.1 else 0])
            at = self.producer & self.mask
            once[at : at + 8] = struct.pack("=II", length | bits, 0)
            self.producer += stride
        self.data = once + once


@needs_library
def test_records_are_found_as_the_twin_finds_them() -> None:
    for seed in range(200):
        assert native.ring_walk is not None
        source = random.Random(seed)
        made = RingData(source)
        limit = source.choice([1, 3, 100])
        results = []
        for walk in (native.ring_walk, ring.ring_walk):
            offsets = array("Q", bytes(8 * limit))
            count, after = walk(
                memoryview(made.data), made.mask, made.consumer, made.producer, offsets, limit
            )
            results.append((count, after, offsets[:count]))
        assert results[0] == results[1], seed


@needs_library
def test_a_record_that_leaves_the_memory_is_not_given() -> None:
    assert native.ring_walk is not None
    data = struct.pack("=II8x", 8, 0) * 4  # mapped once only: a record of 16 at 56 does not fit
    offsets = array("Q", bytes(80))
    assert native.ring_walk(data, 63, 0, 64, offsets, 10) == (4, 64)
    long = data[:48] + struct.pack("=II8x", 24, 0)
    assert native.ring_walk(long, 63, 0, 64, offsets, 10) == (3, 48)
    assert native.ring_walk(long, 63, 48, 80, offsets, 10) == (0, 48)


@needs_library
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_impossible_positions_give_nothing(mask: int, consumer: int, producer: int) -> None:
    assert native.ring_walk is not None
    offsets = array("Q", bytes(8))
    data = memoryview(struct.pack("=II", 8, 0) * 4)
    count, after = native.ring_walk(data, mask, consumer, producer, offsets, 1)
    assert count == 0 or offsets[0] <= len(data) - 8
    assert count or 0 <= after < 2**64


@needs_library
def test_nothing_outside_a_buffer_is_touched() -> None:
    """Hostile bytes against a page that cannot be read; a guard value after each table."""
    run(
        """
        import ctypes, mmap, random, struct
        from array import array
        from kwire import native
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        pages = mmap.mmap(-1, 2 * mmap.PAGESIZE)
        start = native.address(pages)
        assert libc.mprotect(start + mmap.PAGESIZE, mmap.PAGESIZE, 0) == 0
        whole = memoryview(pages)
        source = random.Random(7)
        GUARD = 0xABABABABABABABAB
        for turn in range(20000):
            size = source.randrange(0, 200)
            data = whole[mmap.PAGESIZE - size : mmap.PAGESIZE]
            raw = bytearray(source.randbytes(size))
            for _ in range(4):  # likely beginnings at likely places
                at = 4 * source.randrange(size // 4 + 1)
                length, id = source.choice([15, 16, 17, 40, 65535]), source.choice([0, 1, 2])
                block = source.choice([32, 48, 52, 72, 0xFFFFFFFC])
                raw[at : at + 8] = source.choice(
                    [struct.pack(">BBHI", 0x11, 0, length, id), struct.pack("=II", 6, block)]
                )
            data[:] = raw[:size]
            slots = array("Q", [GUARD] * 9)
            room = memoryview(slots)[:8]
            limit = source.choice([0, 1, 8, 9, 1 << 62])
            positions = [source.choice([0, 8, 64, size, size + 1, 1 << 40, (1 << 64) - 1]) for _ in range(3)]
            native.frame_walk(data, positions[0], positions[1], room, limit)
            native.ring_walk(data, positions[0], positions[1] & ~7, positions[2], room, limit)
            native.pcapng_walk(data, positions[0], positions[1], bool(turn & 1), turn & 3, room, limit)
            assert slots[8] == GUARD
            places = array("Q", [source.choice([0, 4, 8, size, size - 8, 1 << 63, (1 << 64) - 1]) % (1 << 64)
                                 for _ in range(8)])
            out = array("Q", [GUARD] * 20)
            rows = array("Q", [0, 0, 0, source.randrange(2), GUARD, 0, 0, 0, GUARD])
            native.epb_pack(data, places, 0, source.choice([0, 8, 9, 1 << 60]), memoryview(rows)[:8],
                            memoryview(out).cast("B")[: 8 * 19], 0)
            assert out[19] == GUARD and rows[8] == GUARD
            table = array("Q", [0] * 6 + [GUARD])
            native.count_by_id(data, places, 8 << (turn & 31), memoryview(table)[:6], bool(turn & 1))
            assert table[6] == GUARD
            native.frame_strict(data, positions[0], positions[1], room, limit)
            native.frame_headers(data, places, limit, room)
            native.frame_checksums(data, places, limit, room)
            assert slots[8] == GUARD
            bytes_out = memoryview(out).cast("B")[: 8 * 19]
            native.frame_gather(data, places, 0, limit, bytes_out, 0)
            native.frame_renumber(data, places, 0, limit, memoryview(table)[:6])
            starts, ends = array("Q", [GUARD] * 9), array("Q", [GUARD] * 9)
            fixed = source.choice([1, 16, 17, 24])
            at, width = source.choice([0, 1, 8, 20]), source.choice([1, 2, 4, 7, 8, 16, 20])
            found, _ = native.event_spans(data, places, limit, turn & 3, fixed, memoryview(starts)[:8],
                                          memoryview(ends)[:8])
            where, octets = array("Q", [GUARD] * 9), memoryview(out).cast("B")
            some = source.choice([starts, places])
            native.event_values(data, some, limit, at, width, turn & 7, octets[: 8 * 19])
            sound = native.event_tails(data, some, ends, limit, at, bool(turn & 1), fixed,
                                       memoryview(where)[:8], room)
            native.event_texts(data, some, limit, at, width, memoryview(where)[:8], room)
            wild = (source.choice([0, 1, 1 << 63]), source.choice([0, 2, 1 << 63]))
            shapes = array("Q", [number for id in (0, 1, 1 << 31) for number in (id, fixed, turn & 1, *wild)])
            native.events_unsound(data, places, limit, shapes, memoryview(table)[:2], memoryview(where)[:3])
            native.event_heads(data, places, limit, shapes, memoryview(table)[:2], octets[:9],
                               octets[12 : 12 + 36], octets[48 : 48 + 36], octets[88 : 88 + 64])
            for spots, lengths in ((places, slots), (where, room)):
                native.gather_texts(data, spots, lengths, limit, width, octets[: 8 * 19])
                native.pack_texts(data, spots, lengths, limit, octets[: 8 * 18], octets[8 * 18 : 8 * 18 + 8])
                native.hash_texts(data, spots, lengths, limit, turn, octets[: 8 * 19])
            slots_of = array("I", [0] * 8)
            to = native.Distinct(turn | 1, slots_of, *(memoryview(one)[:7] for one in (where, starts, ends)))
            native.count_distinct(octets[:64], source.choice([1, 2, 4, 8]), bool(turn & 1), to)
            assert out[19] == GUARD and starts[8] == ends[8] == where[8] == slots[8] == GUARD
            fields = array("Q", [at, width, turn & 1, turn >> 1 & 1, turn, 8, 0, 0])
            to = native.Distinct(turn | 1, array("I", [0] * 8), memoryview(where)[:7], memoryview(slots)[:7])
            native.event_counts(native.Events(data, some, None, limit), fields, to, memoryview(table)[:2])
            kept = (memoryview(one)[:7] for one in (where, starts, ends, slots))
            events = native.Events(data, array("Q", some), array("Q", ends), limit)
            field = native.TextField(at, turn % 3, width, bool(turn & 1), fixed, turn)
            native.text_counts(events, field, native.Distinct(turn | 1, array("I", [0] * 8), *kept))
            assert starts[8] == ends[8] == where[8] == slots[8] == table[6] == GUARD
            lines, parts = array("Q"), array("Q")
            for id in (0, 1):
                lines.extend((id, *source.choice([(0, 3), (1, 2), wild]), fixed))
            for _ in range(3):
                parts.extend((source.randrange(5), source.choice([at, 16, 1 << 63])))
                parts.extend((source.choice([width, 1, 2, 4, 8]), turn & 1, ord("dxou"[turn & 3])))
                parts.extend((source.choice([8, 32, 64]), source.randrange(32)))
                parts.extend((source.choice([0, 5, 70, 1 << 63]), turn % 9))
            native.print_lines(data, places, limit, lines, parts, b"texts", octets[: 8 * 19],
                               memoryview(starts)[:8], memoryview(ends)[:8])
            runs = [(whole[mmap.PAGESIZE - 8 :mmap.PAGESIZE], memoryview(one)[: source.randrange(3)], places)
                    for one in (starts, array("Q", [0, 8]), array("Q", [4, 9]))]
            native.merge_lines(runs, octets[: 8 * 19])
            assert out[19] == GUARD and starts[8] == ends[8] == GUARD
            faces = array("Q", [1, 1000000, 0, 0] * 2)
            rows = memoryview(out).cast("B")[: 8 * 19]
            native.pcap_rows(data, positions[0], positions[1], bool(turn & 1), faces, rows, limit)
            native.pcapng_rows(data, positions[0], positions[1], bool(turn & 1), faces, 40, rows, limit)
            assert out[19] == GUARD
        """
    )


@needs_library
def test_a_place_outside_its_buffer_is_an_error() -> None:
    assert native.epb_pack is not None
    rows, out = array("Q", [0] * 4), bytearray(100)
    wrong: list[tuple[Any, ...]] = [(2, 1, rows, out, 0), (0, 1, rows, out, 101), (-1, 1, rows, out, 0)]
    for start, count, table, target, position in wrong:
        with pytest.raises(IndexError):
            native.epb_pack(b"", array("Q", [0]), start, count, table, target, position)


def test_numbers_in_c_are_those_of_the_tables() -> None:
    spec = importlib.util.spec_from_file_location("native_tables", ROOT / "scripts" / "native_tables.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    assert made.TARGET.read_text() == made.text()
