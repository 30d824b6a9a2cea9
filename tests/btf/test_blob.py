"""Every kind of BTF type is read, in both byte orders and with every header size, alone and split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kwire.btf import types as t
from kwire.btf.blob import Btf
from kwire.btf.errors import BtfError, BtfLookupError
from kwire.btf.members import locate


def test_every_kind(builder: Any) -> None:
    b = builder
    expected: dict[int, t.BtfType] = {
        b.integer("int", 4, True): t.Int("int", 4, True, False, False, 0, 32),
        b.integer("char", 1, flags=3): t.Int("char", 1, True, True, False, 0, 8),
        b.integer("_Bool", 1, flags=4): t.Int("_Bool", 1, False, False, True, 0, 8),
        b.integer("u128", 16): t.Int("u128", 16, False, False, False, 0, 128),
        b.integer("old", 4, offset=3, bits=5): t.Int("old", 4, False, False, False, 3, 5),
        b.ref(2, 1): t.Ptr("", 1),
        b.array(1, 7): t.Array("", 1, 1, 7),
        b.struct("s", 8, [("a", 1, 0), ("b", 6, 32)]): t.Struct(
            "s", 8, False, (t.Member("a", 1, 0, 0), t.Member("b", 6, 32, 0))
        ),
        b.struct("u", 4, [("x", 1, 0, 3), ("y", 1, 3, 29)], kind=5): t.Struct(
            "u", 4, True, (t.Member("x", 1, 0, 3), t.Member("y", 1, 3, 29))
        ),
        b.enum("e", [("A", 0), ("B", 0xFFFFFFFF)]): t.Enum("e", 4, False, (("A", 0), ("B", 0xFFFFFFFF))),
        b.enum("es", [("N", -1)], 1, True): t.Enum("es", 1, True, (("N", -1),)),
        b.add(7, "fs", 0): t.Fwd("fs", False),
        b.add(7, "fu", 0, flag=True): t.Fwd("fu", True),
        b.ref(8, 1, "num"): t.Typedef("num", 1),
        b.ref(9, 1): t.Volatile("", 1),
        b.ref(10, 1): t.Const("", 1),
        b.ref(11, 1): t.Restrict("", 1),
        b.proto(1, [("p", 1), ("", 6)]): t.FuncProto("", 1, (t.Param("p", 1), t.Param("", 6)), False),
        b.proto(0, [("fmt", 6), ("", 0)]): t.FuncProto("", 0, (t.Param("fmt", 6),), True),
        b.func("f", 18, 2): t.Func("f", 18, 2),
        b.add(14, "v", 1, [1]): t.Var("v", 1, 1),
        b.datasec(".data", 4, [(21, 0, 4)]): t.Datasec(".data", 4, (t.Section(21, 0, 4),)),
        b.add(16, "double", 8): t.Float("double", 8),
        b.add(17, "tag", 8, [-1]): t.DeclTag("tag", 8, -1),
        b.add(17, "tag", 8, [1]): t.DeclTag("tag", 8, 1),
        b.ref(18, 1, "user"): t.TypeTag("user", 1),
        b.enum64("e64", [("BIG", 1 << 63)]): t.Enum64("e64", 8, False, (("BIG", 1 << 63),)),
        b.enum64("e64s", [("LOW", -(1 << 40))], True): t.Enum64("e64s", 8, True, (("LOW", -(1 << 40)),)),
    }
    btf = Btf(b.blob())
    assert {id: btf.type(id) for id in range(btf.first_id, btf.end_id)} == expected
    assert [type(btf.type(id)) for id in expected] == [type(value) for value in expected.values()]
    assert btf.order == ("little" if b.order == "<" else "big")
    for id, value in expected.items():
        assert t.Kind(btf.kind(id)).name.replace("_", "").lower() in (
            type(value).__name__.lower(),
            "union" if value.name == "u" else "",
        )
        if value.name and value.name not in ("tag",):
            assert btf.find(value.name) == id
            assert btf.find(value.name, btf.kind(id)) == id
    assert btf.find("tag", t.Kind.DECL_TAG) == 24
    assert btf.find_all("tag") == [24, 25]
    assert btf.find("s", t.Kind.UNION) == 0
    assert btf.find("", t.Kind.PTR) == 0
    assert btf.type(0) == t.VOID
    assert btf.kind(0) == t.Kind.VOID


def test_searching_by_name_and_by_index_agree(new_btf: Callable[..., Any]) -> None:
    b = new_btf()
    number = b.integer("int", 4)
    protos = [b.proto(number, [("p", number)] * n) for n in range(3)]
    names = [f"f{n % 90}" for n in range(100)]
    ids = [b.func(name, protos[n % 3]) for n, name in enumerate(names)]
    btf = Btf(b.blob())
    first = {name: btf.find(name, t.Kind.FUNC) for name in names}
    assert first == {name: ids[names.index(name)] for name in names}
    assert btf.names(t.Kind.FUNC) == first  # more than enough searches, so the last went through the index
    assert btf.find("nothing", t.Kind.FUNC) == 0
    assert len(btf.func("f2").params) == 2
    assert list(btf.ids(t.Kind.FUNC)) == ids


def test_a_name_inside_another_is_not_found(new_btf: Callable[..., Any]) -> None:
    b = new_btf()
    b.integer("unsigned int", 4)
    btf = Btf(b.blob())
    assert btf.find("int") == 0
    assert btf.find("unsigned") == 0
    assert btf.find("unsigned int") == 1
    assert btf.find("unsigned int\0") == 0


@pytest.mark.parametrize("order", ["<", ">"])
def test_split(new_btf: Callable[..., Any], order: str) -> None:
    base = new_btf(order)
    base.integer("int", 4, True)
    base.struct("shared", 4, [("a", 1, 0)])
    base.func("both", base.proto(1, []))
    module = new_btf(order, base=base)
    assert module.struct("own", 8, [("a", 1, 0), ("first", 2, 32)]) == base.next_id
    module.func("both", module.proto(0, [("own", 5)]))
    kernel = Btf(base.blob())
    btf = Btf(module.blob(), kernel)
    assert (btf.first_id, btf.end_id) == (5, 8)
    assert btf.type(5) == t.Struct("own", 8, False, (t.Member("a", 1, 0, 0), t.Member("first", 2, 32, 0)))
    assert btf.type(2) is kernel.type(2)
    assert btf.find("own", t.Kind.STRUCT) == 5  # the first string of a split blob has no NUL before it
    assert btf.find("shared", t.Kind.STRUCT) == 2
    assert btf.func("both").params[0].name == "own"
    assert btf.find_all("both") == [4, 7]
    assert kernel.func("both").params == ()
    assert locate(btf, 5, "first.a") == t.MemberPath(32, 1, 0)
    assert btf.pointer_size == 8
    for unknown in (8, -1):
        with pytest.raises(BtfError, match="there is no type"):
            btf.type(unknown)
    with pytest.raises(BtfError, match="endian"):
        Btf(new_btf("<" if order == ">" else ">").blob(), kernel)


def test_unknown_kinds_are_skipped_by_the_layout(new_btf: Callable[..., Any]) -> None:
    layout = [bytes(4)] * 20 + [b"\x08\x04\x00\x00", b"\x00\x08\x00\x00"]
    for order in "<>":
        b = new_btf(order, 32, layout=layout)
        b.add(20, "future", 0, [1, 2, 3, 4, 5], vlen=3)
        b.add(21, "later", 0, [1, 2], vlen=1)
        number = b.integer("int", 4)
        btf = Btf(b.blob())
        assert (btf.type(1), btf.type(2)) == (t.Other("future", 20), t.Other("later", 21))
        assert btf.find("int", t.Kind.INT) == number == 3
        with pytest.raises(BtfLookupError, match="has no size"):
            btf.sizeof(1)


def test_an_unknown_kind_without_layout_is_an_error(new_btf: Callable[..., Any]) -> None:
    b = new_btf()
    b.integer("int", 4)
    b.add(20, "future", 0)
    with pytest.raises(BtfError, match="unknown kind 20") as info:
        Btf(b.blob()).type(1)
    assert info.value.offset == 24 + 16


def test_more_elements_than_16_bits(new_btf: Callable[..., Any]) -> None:
    b = new_btf()
    b.add(6, "many", 4, [0, 5] * 70_000, vlen=70_000)
    btf = Btf(b.blob())
    found = btf.type(1)
    assert isinstance(found, t.Enum)
    assert btf.kind(1) == t.Kind.ENUM
    assert len(found.values) == 70_000


def test_sizes_and_resolution(builder: Any) -> None:
    b = builder
    number = b.integer("long unsigned int", 4)
    alias = b.ref(8, b.ref(10, b.ref(9, b.ref(18, number, "user"))), "alias")
    matrix = b.array(b.array(alias, 3), 5)
    pointer = b.ref(2, 0)
    declared = b.add(7, "declared", 0)
    variable = b.add(14, "v", matrix, [0])
    enum, wide = b.enum("e", [], 2), b.enum64("w", [])
    struct, number8 = b.struct("s", 40, []), b.add(16, "double", 8)
    btf = Btf(b.blob())
    assert btf.resolve(alias) == number
    assert btf.resolve(0) == 0
    sizes = {alias: 4, matrix: 60, pointer: 4, variable: 60, enum: 2, wide: 8, struct: 40, number8: 8}
    assert {id: btf.sizeof(id) for id in sizes} == sizes
    for id in (0, declared):
        with pytest.raises(BtfLookupError, match="has no size"):
            btf.sizeof(id)


def test_prototypes(builder: Any) -> None:
    b = builder
    number = b.integer("int", 4)
    proto = b.proto(number, [("a", number)])
    function, pointer = b.func("f", proto), b.ref(2, b.ref(8, proto, "handler"))
    btf = Btf(b.blob())
    expected = t.FuncProto("", number, (t.Param("a", number),), False)
    assert btf.func("f") == btf.proto(function) == btf.proto(pointer) == btf.proto(proto) == expected
    with pytest.raises(BtfLookupError, match="there is no function g"):
        btf.func("g")
    with pytest.raises(BtfLookupError, match="is no function"):
        btf.proto(number)
