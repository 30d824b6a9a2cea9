"""Columns hold what the decoder gives, and refuse what it refuses."""

from __future__ import annotations

import random
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwire.wire import fields
from kwire.wire.columns import WIDE, Columns, columns
from kwire.wire.fields import TYPES, CutBytes, CutStr, Field
from kwire.wire.frame import Code, Flag, FrameError, Type, build
from kwire.wire.frames import Frames
from kwire.wire.schema import Schema

TEXT = Schema(1, "p", "k", "t", (Field("comm", "str", 16, 4), Field("data", "bytes", 20, 4)), 24)


def plain(value: Any) -> Any:
    """A cell as the decoder would give it."""
    if isinstance(value, np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, np.void):
        return value.tobytes()
    return value.item() if isinstance(value, np.generic) else value


def text(value: Any) -> Any:
    """What the decoder gives as text stands in columns as bytes."""
    return [text(item) for item in value] if isinstance(value, list) else fields.text(value)


@given(st.data())
def test_columns_agree_with_the_decoder(made_samples: st.SearchStrategy[Any], data: st.DataObject) -> None:
    schema, events, times, rows = data.draw(made_samples)
    others = [build(Type.KEEPALIVE, 0), build(Type.EVENT, schema.id ^ 1, bytes(schema.size))]
    frames = Frames.walk(b"".join(part for event in events for part in (*others, event)))
    result = columns(schema, frames)
    assert list(result) == ["time"] + [f.name for f in schema.fields if f.name != "time"]
    if not any(field.name == "time" for field in schema.fields):
        assert result["time"].tolist() == times
    for index, field in enumerate(schema.fields):
        got = [plain(value) for value in result[field.name]]
        if field.type in ("text", "str"):
            got = [text(value) for value in got]
        assert got == [row[index] for row in rows], field
        assert len(result[field.name]) == len(events)
        if TYPES[field.type].tail:
            cuts = [isinstance(schema.decoder()(event)[index], CutStr | CutBytes) for event in events]
            assert Columns(schema, frames).cut(field).tolist() == cuts


def made(comm: bytes, data: bytes = b"", flags: int = 0, shift: int = 0) -> bytes:
    record = struct.pack("<QHHHH", 5, 24 + shift, len(comm), 24 + len(comm) + shift, len(data))
    return build(Type.EVENT, 1, record + comm + data, flags)


def test_texts_of_one_width_and_of_many() -> None:
    source = random.Random(1)
    short = [source.randbytes(source.randrange(WIDE)).replace(b"\0", b"x") for _ in range(3000)]
    long = [b"a"] * 3000 + [b"b" * 9000]
    for texts, kind in ((short, "S"), (long, "O")):
        frames = Frames.walk(b"".join(made(item, item[::-1] + b"\0") for item in texts))
        result = columns(TEXT, frames)
        assert result["comm"].dtype.kind == kind
        assert result["comm"].tolist() == texts
        assert result["data"].tolist() == [item[::-1] + b"\0" for item in texts]


@pytest.mark.parametrize("flags", [0, Flag.CHECKSUM])
def test_a_reference_out_of_the_tail(flags: int) -> None:
    good = made(b"abcd", b"xy", flags)
    columns(TEXT, Frames.walk(good * 3))
    for shift in (-1, 1, 100, 60000):
        data = good * 2 + made(b"abcd", b"xy", flags, shift) + good * 5
        with pytest.raises(FrameError) as caught:
            columns(TEXT, Frames.walk(data))
        assert caught.value.problem.code == Code.BAD_PAYLOAD
        assert caught.value.problem.offset - 2 * len(good) in (16, 20)


@pytest.mark.parametrize("flags", [0, Flag.CHECKSUM])
def test_a_short_record(flags: int) -> None:
    data = made(b"", flags=flags) + build(Type.EVENT, 1, bytes(15), flags) + bytes(0)
    with pytest.raises(FrameError) as caught:
        columns(TEXT, Frames.walk(data))
    assert caught.value.problem.offset == len(made(b"", flags=flags)) + 23


def test_no_events() -> None:
    fields = tuple(Field(name, name, 16, rule.sizes[0] if rule.sizes else 4) for name, rule in TYPES.items())
    for data in (b"", build(Type.KEEPALIVE, 0), build(Type.EVENT, 2, bytes(30))):
        result = columns(TEXT._replace(fields=fields, size=32), Frames.walk(data))
        assert {len(column) for column in result.values()} == {0}
        assert set(result) == {"time", *TYPES}


def test_frames_may_lie_anywhere_in_any_order() -> None:
    events = [made(bytes([65 + n]) * n, bytes(n)) for n in range(6)]
    frames = Frames.walk(b"".join(events)).select([5, 0, 3, 3])
    assert columns(TEXT, frames)["comm"].tolist() == [b"FFFFF", b"", b"DDD", b"DDD"]
