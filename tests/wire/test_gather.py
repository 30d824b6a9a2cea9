"""The walkers behind columns of rows: C and twin do the same on sound and on damaged bytes."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from kwire import native
from kwire.native import FixedColumn, Rows, TextField
from kwire.wire import gather

needs_library = pytest.mark.skipif(native.rows_fixed is None, reason="the C walkers were not built")
BOTH = [
    [getattr(gather, f"rows_{name}{end}") for name in ("fixed", "located", "packed")] for end in ("", "_twin")
]
FRAME = 40


def rows_of(source: random.Random) -> Rows:
    """Rows in pieces of frames; now and then one that lies outside, or a reference that does."""
    pieces = []
    for _ in range(source.randrange(1, 4)):
        piece = bytearray()
        for _ in range(source.randrange(1, 8)):
            frame = bytearray(
                source.choice([source.randbytes(FRAME), b"text\\x" * 7, b"\xc3\xbc" * 20])[:FRAME]
            )
            frame = frame.ljust(FRAME, b"\0")
            place, size = source.choice([(24, 8), (28, 12), (39, 1), (0, 0), (23, 2), (38, 9)])
            order = source.choice(["little", "little", "little", "big"])
            frame[16:18] = place.to_bytes(2, order)  # type: ignore[arg-type]
            frame[18:20] = (size | source.choice([0, 0, 0x8000])).to_bytes(2, order)  # type: ignore[arg-type]
            piece += frame
        pieces.append(bytes(piece))
    count = source.randrange(20)
    of = [source.randrange(len(pieces)) for _ in range(count)]
    at = [FRAME * source.randrange(len(pieces[one]) // FRAME) for one in of]
    if count and source.random() < 0.3:
        odd = source.randrange(count)
        if source.random() < 0.3:
            of[odd] = source.choice([len(pieces), (1 << 32) - 1])
        else:
            at[odd] = source.choice([len(pieces[of[odd]]) - 5, len(pieces[of[odd]]), 1 << 63, (1 << 64) - 1])
    ends = [source.choice([FRAME, FRAME, FRAME, FRAME - 2, 30]) for _ in range(count)]
    return Rows(pieces, np.array(of, "u4"), np.array(at, "u8"), np.array(ends, "u4"), count)


def fixed(walk: Any, rows: Rows, shape: list[tuple[int, int, int]]) -> Any:
    outs = [np.zeros(rows.many * width, np.uint8) for _, width, _ in shape]
    done = walk(rows, [FixedColumn(*one, out) for one, out in zip(shape, outs, strict=True)])
    return done, [out[: done * width].tolist() for out, (_, width, _) in zip(outs, shape, strict=True)]


def texts(located: Any, packed: Any, rows: Rows, field: TextField, short: int) -> Any:
    """What both walkers say of a field; `short`: bytes that the room is too small."""
    count = rows.many
    places, lengths, ends = (np.zeros(count + more, np.uint32) for more in (0, 0, 1))
    cut, unread = np.zeros(count, np.uint8), np.zeros(count, np.uint8)
    done, total = located(rows, field, places, lengths, cut, unread)
    told = [done, total, *(one[:done].tolist() for one in (places, lengths, cut, unread))]
    rows = rows._replace(many=done)
    out = np.zeros(max(total - short, 0), np.uint8)
    done, flags = packed(rows, places, lengths, out, ends)
    used = int(ends[done])
    return [*told, done, flags, ends[: done + 1].tolist(), out[:used].tolist()]


@needs_library
def test_both_read_the_same_columns() -> None:
    stopped = whole = 0
    shapes = [(8, 8, 0), (8, 8, 8), (16, 2, 2), (20, 1, 0), (20, 4, 4), (3, 7, 2), (36, 4, 0), (36, 8, 8)]
    for seed in range(1500):
        source = random.Random(seed)
        rows = rows_of(source)
        some = source.sample(shapes, source.randrange(1, 5))
        mine, theirs = (fixed(walk, rows, some) for walk, _, _ in BOTH)
        assert mine == theirs, seed
        kind = source.choice([gather.TAIL, gather.TAIL, gather.FIXED, gather.RAW])
        field = TextField(16, kind, source.choice([0, 1, 8, 24, 25]), source.random() < 0.3, 24, 0)
        short = source.choice([0, 0, 0, 1, 9])
        mine, theirs = (texts(one, two, rows, field, short) for _, one, two in BOTH)
        assert mine == theirs, seed
        stopped += mine[0] < rows.many
        whole += mine[0] == rows.many > 0
    assert stopped > 100
    assert whole > 400


@pytest.mark.parametrize("walks", BOTH, ids=["c", "twin"])
def test_there_must_be_room(walks: Any) -> None:
    rows = Rows([bytes(FRAME)], np.zeros(2, "u4"), np.zeros(2, "u8"), np.full(2, FRAME, "u4"), 2)
    small, enough, flags = np.zeros(1, "u4"), np.zeros(2, "u4"), np.zeros(2, "u1")
    with pytest.raises(IndexError):
        walks[0](rows, [FixedColumn(8, 8, 0, np.zeros(15, np.uint8))])
    with pytest.raises(IndexError):
        walks[1](rows, TextField(8, gather.RAW, 4, False, 24, 0), small, enough, flags, flags)
    with pytest.raises(IndexError):
        walks[2](rows, enough, enough, np.zeros(8, np.uint8), enough)


@needs_library
def test_what_packed_bytes_tell() -> None:
    """At every place of a word, and behind the last one."""
    for size in range(1, 20):
        for at in range(size):
            for byte, told in ((0x5C, gather.SLASH), (0x80, gather.HIGH), (0x5D, 0), (0xDC, gather.HIGH)):
                data = bytes(ord("a") if place != at else byte for place in range(size))
                rows = Rows([data], np.zeros(1, "u4"), np.zeros(1, "u8"), np.zeros(1, "u4"), 1)
                for _, _, packed in BOTH:
                    out, ends = np.zeros(size, np.uint8), np.zeros(2, "u4")
                    places, lengths = np.zeros(1, "u4"), np.full(1, size, "u4")
                    assert packed(rows, places, lengths, out, ends) == (1, told)
                    assert out.tobytes() == data
