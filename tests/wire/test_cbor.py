"""CBOR payloads: what is legal decodes as cbor2 does, what is hostile is BAD_PAYLOAD with its place."""

from __future__ import annotations

import tracemalloc
from typing import Any

import cbor2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kwire.wire.cbor import MAX_DEPTH, dumps, loads_map
from kwire.wire.frame import Code, FrameError

KEYS = st.text(max_size=6) | st.integers(-(2**64), 2**64 - 1)
LEAVES = KEYS | st.binary(max_size=6) | st.floats(allow_nan=False) | st.booleans() | st.none()
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
MAPS = st.dictionaries(KEYS, VALUES, max_size=5)


@given(MAPS)
def test_maps_come_back(value: dict[Any, Any]) -> None:
    assert loads_map(dumps(value)) == value


@given(MAPS)
def test_a_map_cut_anywhere_is_refused(value: dict[Any, Any]) -> None:
    data = dumps(value)
    for cut in range(len(data)):
        with pytest.raises(FrameError) as caught:
            loads_map(data[:cut], 100)
        assert caught.value.problem.code == Code.BAD_PAYLOAD
        assert 100 <= caught.value.problem.offset <= 100 + cut


@given(st.binary(max_size=60))
@example(b"\xa1\x61a\xf9\x7e\x00")
def test_no_bytes_break_it(data: bytes) -> None:
    value: Any = None
    problem = None
    try:
        value = loads_map(data)
    except FrameError as error:
        problem = error.problem
    if problem is None:
        assert repr(value) == repr(cbor2.loads(data))
    else:
        assert problem.code == Code.BAD_PAYLOAD
        assert 0 <= problem.offset <= len(data)


HOSTILE = [  # payload, offset of the problem, a word of what was found
    ("", 0, "end of the payload"),
    ("80", 0, "list"),
    ("01", 0, "integer"),
    ("f6", 0, "simple"),
    ("a000", 1, "after the map"),
    ("a1", 0, "1 items"),
    ("bbffffffffffffffff", 0, "18446744073709551615 items"),
    ("a161619b7fffffffffffffff", 3, "items"),
    ("a161617bffffffffffffffff", 3, "text of"),
    ("a161615affffffff", 3, "byte string of"),
    ("a16161c249010000000000000000", 3, "tag 2"),
    ("a16161d81c81d81d00", 3, "tag 28"),
    ("a16161c0", 3, "tag 0"),
    ("a16161f7", 3, "0xf7"),
    ("a16161f8ff", 3, "0xf8"),
    ("a16161ff", 3, "0xff"),
    ("a161611c", 3, "0x1c"),
    ("a1616161ff", 4, "0xff"),
    ("a1800000", 1, "list as a key"),
    ("a1f500", 1, "simple value as a key"),
    ("a2616100616101", 4, "same key"),
    ("bf616101", 4, "end of the payload"),
    ("a161617f6161", 6, "end of the payload"),
    ("a161617f4161ff", 4, "0x41"),
    ("a161617f7f6161ffff", 4, "0x7f"),
    ("a1616119ff", 5, "end of the payload"),
]


@pytest.mark.parametrize(("text", "offset", "word"), HOSTILE)
def test_hostile(text: str, offset: int, word: str) -> None:
    with pytest.raises(FrameError) as caught:
        loads_map(bytes.fromhex(text), 8)
    assert caught.value.problem.code == Code.BAD_PAYLOAD
    assert caught.value.problem.offset == offset + 8
    assert word in str(caught.value.problem.found)


@pytest.mark.parametrize("text", ["bf616101ff", "a161617f61616162ff", "a161615f41414162ff", "a161619f0102ff"])
def test_indefinite_lengths_are_read(text: str) -> None:
    data = bytes.fromhex(text)
    assert loads_map(data) == cbor2.loads(data)


def nested(levels: int) -> bytes:
    return b"\xa1\x00" * (levels - 1) + b"\xa0"


def test_depth() -> None:
    assert loads_map(nested(MAX_DEPTH))
    for levels in (MAX_DEPTH + 1, 1000, 32000):
        with pytest.raises(FrameError) as caught:
            loads_map(nested(levels))
        assert caught.value.problem.offset == 2 * MAX_DEPTH


@pytest.mark.parametrize(
    "data", [b"\xb9\x3f\xff" + b"\xa0" * 65520, b"\xa1\x00\x99\xff\xf0" + b"\xa0" * 65520]
)
def test_memory_is_a_small_multiple_of_the_bytes(data: bytes) -> None:
    tracemalloc.start()
    try:
        loads_map(data)
    except FrameError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 16 << 20
