"""Damaged BTF gets a BtfError that says where, never a hang, another exception or unbounded work."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kwire.btf.blob import Btf
from kwire.btf.cformat import declare, spell
from kwire.btf.errors import BtfError, BtfLookupError
from kwire.btf.members import locate

SAME_FIXTURES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def good(new_btf: Callable[..., Any]) -> bytearray:
    b = new_btf()
    b.integer("int", 4)
    return bytearray(b.blob())


@pytest.mark.parametrize(
    ("at", "value", "message", "offset"),
    [
        (0, b"\x00\x00", "magic number", 0),
        (2, b"\x02", "version 2", 2),
        (4, b"\x17\x00\x00\x00", "header length 23", 4),
        (4, b"\xff\xff\xff\xff", "header length", 4),
        (8, b"\x00\x00\x00\x80", "type section ends at", 8),
        (12, b"\xff\xff\xff\xff", "type section ends at", 8),
        (12, b"\x0e\x00\x00\x00", "not a multiple of 4", 12),
        (20, b"\xff\xff\xff\x7f", "string section ends at", 16),
        (24 + 20, b"i", "the first string is not the empty one", 24 + 20),
        (24 + 24, b"t", "the last string does not end", 24 + 24),
        (24 + 7, b"\x7f", "unknown kind 127", 24),
        (24 + 4, b"\xff\xff\xff\x04", "the last type is cut", 24),
        (24 + 4, b"\x01\x00\x00\x04", "the last type is cut", 24),
        (24 + 7, b"\x02", "the last type is cut", 24 + 12),
    ],
)
def test_headers_and_records(
    new_btf: Callable[..., Any], at: int, value: bytes, message: str, offset: int
) -> None:
    data = good(new_btf)
    data[at : at + len(value)] = value
    with pytest.raises(BtfError, match=message) as info:
        Btf(bytes(data)).type(1)
    assert info.value.offset == offset
    assert not isinstance(info.value, BtfLookupError)


def test_short_data(new_btf: Callable[..., Any], exercised: Callable[[bytes], int]) -> None:
    data = bytes(good(new_btf))
    for length in range(len(data)):
        with pytest.raises(BtfError):
            Btf(data[:length]).type(1)


def test_name_outside_and_name_too_long(new_btf: Callable[..., Any]) -> None:
    b = new_btf()
    b.types = struct.pack("<4I", 5000, 1 << 24, 4, 32)
    with pytest.raises(BtfError, match="a name at 5000"):
        Btf(b.blob()).type(1)
    b = new_btf()
    b.integer("x" * 5000, 4)
    with pytest.raises(BtfError, match="a name longer than"):
        Btf(b.blob()).type(1)


def test_chains_without_end(new_btf: Callable[..., Any]) -> None:
    b = new_btf()
    typedef = b.ref(8, b.next_id + 1, "a")
    b.ref(10, typedef)
    pointer = b.ref(2, b.next_id)
    array = b.array(b.next_id, 1 << 31)
    proto = b.proto(b.next_id, [("p", b.next_id)] * 20)
    struct_ = b.struct("", 4, [("", b.next_id, 0), ("", b.next_id, 0)])
    variable = b.add(14, "v", b.next_id, [0])
    btf = Btf(b.blob())
    for use in (btf.resolve, btf.sizeof, btf.proto):
        with pytest.raises(BtfError, match="without end"):
            use(typedef)
    assert btf.sizeof(pointer) == 8
    for id in (array, variable):
        with pytest.raises(BtfError, match="without end"):
            btf.sizeof(id)
    for id in (pointer, array, proto):
        with pytest.raises(BtfError, match="without end"):
            spell(btf, id, "name")
    with pytest.raises(BtfLookupError, match="has no member x"):
        locate(btf, struct_, "x")
    with pytest.raises(BtfError, match="without end"):
        declare(btf, struct_)


def test_structures_that_double_at_every_level(new_btf: Callable[..., Any]) -> None:
    b = new_btf()
    inner = b.integer("int", 4)
    for _ in range(60):
        inner = b.struct("", 4, [("", inner, 0), ("", inner, 0)])
    btf = Btf(b.blob())
    with pytest.raises(BtfLookupError, match="has no member x"):
        locate(btf, inner, "x")
    with pytest.raises(BtfError, match="without end"):
        declare(btf, inner)


def test_prototypes_that_double_at_every_level(new_btf: Callable[..., Any]) -> None:
    b = new_btf()
    inner = b.integer("int", 4)
    for _ in range(60):
        inner = b.ref(2, b.proto(0, [("", inner), ("", inner)]))
    with pytest.raises(BtfError, match="without end"):
        spell(Btf(b.blob()), inner)


WORDS = st.sampled_from([0, 1, 2, 3, 12, 0xFF, 0xFFFF, 0xFFFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
CHANGES = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), WORDS | st.integers(0, 0xFFFFFFFF), st.sampled_from((1, 4))),
    max_size=12,
)


@SAME_FIXTURES
@given(
    order=st.sampled_from("<>"),
    header=st.sampled_from((24, 32)),
    changes=CHANGES,
    cut=st.floats(0, 1) | st.just(1.0),
    split=st.booleans(),
)
def test_mutations(
    new_btf: Callable[..., Any],
    enriched: Callable[[Any], Any],
    exercised: Callable[..., int],
    order: str,
    header: int,
    changes: list[tuple[float, int, int]],
    cut: float,
    split: bool,
) -> None:
    base = enriched(new_btf(order, header))
    data = bytearray((enriched(new_btf(order, header, base=base)) if split else base).blob())
    for where, value, size in changes:
        at = int(where * (len(data) // size)) * size
        raw = value.to_bytes(4, "little" if order == "<" else "big")
        data[at : at + size] = raw[:size] if order == "<" else raw[4 - size :]
    data = data[: int(len(data) * cut)]
    done = exercised(bytes(data), Btf(base.blob()) if split else None)
    assert done or changes or cut < 1


@SAME_FIXTURES
@given(
    types=st.lists(
        st.tuples(st.integers(1, 19), st.integers(0, 14), st.integers(0, 14), st.integers(0, 1 << 31)),
        min_size=1,
        max_size=12,
    )
)
def test_any_graph(
    new_btf: Callable[..., Any],
    exercised: Callable[[bytes], int],
    types: list[tuple[int, int, int, int]],
) -> None:
    """Well-formed records that refer to one another in any way at all."""
    b = new_btf()
    for kind, first, second, number in types:
        match kind:
            case 1:
                b.integer("int", number & 15, bits=number >> 8 & 0xFF)
            case 3:
                b.array(first, number, second)
            case 4 | 5:
                b.struct("s" * (number & 1), number, [("", first, 0), ("x", second, number & 0xFFFFFF)], kind)
            case 6:
                b.enum("e", [("A", number)])
            case 13:
                b.proto(first, [("p", first), ("", second)])
            case 14 | 17:
                b.add(kind, "v", first, [number])
            case 15:
                b.datasec(".data", number, [(first, 0, 4)])
            case 19:
                b.enum64("w", [("A", number)])
            case _:
                b.add(kind, "n" * (number & 1), first)
    assert exercised(b.blob())
