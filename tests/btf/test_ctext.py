"""C type names as people write them find the type the compiler wrote into the BTF."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kwire.btf.blob import Btf
from kwire.btf.ctext import parse_type
from kwire.btf.errors import BtfLookupError
from kwire.btf.types import CType

NAMES = (
    "char",
    "signed char",
    "unsigned char",
    "short int",
    "short unsigned int",
    "int",
    "unsigned int",
    "long int",
    "long unsigned int",
    "long long int",
    "long long unsigned int",
    "_Bool",
)


@pytest.fixture
def btf(new_btf: Callable[..., Any]) -> Btf:
    b = new_btf()
    for name in NAMES:
        b.integer(name, 4)
    b.add(16, "double", 8)
    b.ref(8, 6, "u32")
    b.struct("sock", 0, [])
    b.struct("either", 0, [], kind=5)
    b.enum("state", [])
    b.enum64("wide", [])
    b.add(7, "declared", 0)
    return Btf(b.blob())


@pytest.mark.parametrize(
    ("text", "name", "pointers", "counts"),
    [
        ("char", "char", 0, ()),
        ("signed char", "signed char", 0, ()),
        ("char unsigned", "unsigned char", 0, ()),
        ("short", "short int", 0, ()),
        ("signed short int", "short int", 0, ()),
        ("unsigned short", "short unsigned int", 0, ()),
        ("int", "int", 0, ()),
        ("signed", "int", 0, ()),
        ("signed int", "int", 0, ()),
        ("unsigned", "unsigned int", 0, ()),
        ("unsigned int", "unsigned int", 0, ()),
        ("long", "long int", 0, ()),
        ("unsigned long", "long unsigned int", 0, ()),
        ("long unsigned int", "long unsigned int", 0, ()),
        ("long long", "long long int", 0, ()),
        ("unsigned long long int", "long long unsigned int", 0, ()),
        ("_Bool", "_Bool", 0, ()),
        ("bool", "_Bool", 0, ()),
        ("double", "double", 0, ()),
        ("u32", "u32", 0, ()),
        ("u32*", "u32", 1, ()),
        ("struct sock", "sock", 0, ()),
        ("struct sock *", "sock", 1, ()),
        ("const struct sock * const *", "sock", 2, ()),
        ("struct sock __rcu *", "sock", 1, ()),
        ("union either", "either", 0, ()),
        ("enum state", "state", 0, ()),
        ("enum wide", "wide", 0, ()),
        ("struct declared *", "declared", 1, ()),
        ("char [16]", "char", 0, (16,)),
        ("u32 *[ 3 ][0x10]", "u32", 1, (3, 16)),
        ("  volatile\tint\n", "int", 0, ()),
    ],
)
def test_names(btf: Btf, text: str, name: str, pointers: int, counts: tuple[int, ...]) -> None:
    assert parse_type(btf, text) == CType(btf.find(name), pointers, counts)


def test_void(btf: Btf) -> None:
    assert parse_type(btf, "void *") == CType(0, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("struct sokc *", "there is no struct sokc; did you mean struct sock"),
        ("sock", "there is no type sock; write struct sock"),
        ("u33", "there is no type u33"),
        ("float", "there is no type float"),
        ("enum either", "there is no enum either"),
        ("", "is not a C type name"),
        ("*", "is not a C type name"),
        ("int x", "is not a C type name"),
        ("struct", "is not a C type name"),
        ("struct sock sock", "is not a C type name"),
        ("unsigned double", "is not a C type name"),
        ("unsigned signed", "is not a C type name"),
        ("long long long", "is not a C type name"),
        ("int[3]*", "is not a C type name"),
        ("int*const[", "is not a C type name"),
        ("int (*)(void)", "is not a C type name"),
        ("*" * 1000, "is not a C type name"),
        ("ſtruct sock", "is not a C type name"),
    ],
)
def test_mistakes(btf: Btf, text: str, message: str) -> None:
    with pytest.raises(BtfLookupError, match=message):
        parse_type(btf, text)
