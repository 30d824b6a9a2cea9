"""Members are found by path: nested, anonymous, in arrays, bit-fields in both ways of writing them."""

from __future__ import annotations

from typing import Any

import pytest

from kwire.btf.blob import Btf
from kwire.btf.errors import BtfLookupError
from kwire.btf.members import locate
from kwire.btf.types import MemberPath


@pytest.fixture
def made(builder: Any) -> tuple[Btf, dict[str, int]]:
    b = builder
    ids = {
        "u32": b.integer("u32", 4),
        "old": b.integer("old", 4, offset=2, bits=3),
        "bool": b.integer("_Bool", 1, flags=4),
    }
    ids["in"] = b.struct("in", 8, [("x", ids["u32"], 0), ("y", ids["u32"], 32)])
    ids["array"] = b.array(ids["in"], 4)
    ids["flex"] = b.array(ids["u32"], 0)
    ids["anon_union"] = b.struct("", 8, [("whole", ids["u32"], 0), ("", b.next_id + 1, 32)], kind=5)
    ids["anon_inner"] = b.struct("", 4, [("deep", ids["u32"], 0, 5), ("flag", ids["u32"], 5, 1)])
    ids["alias"] = b.ref(8, ids["in"], "in_t")
    ids["const"] = b.ref(10, ids["anon_union"])
    ids["pointer"] = b.ref(2, ids["in"])
    ids["declared"] = b.add(7, "declared", 0)
    ids["s"] = b.struct(
        "s",
        128,
        [
            ("a", ids["alias"], 0),
            ("", ids["const"], 64),
            ("list", ids["array"], 128),
            ("old", ids["old"], 384),
            ("ok", ids["bool"], 416),
            ("next", ids["pointer"], 448),
            ("tail", ids["flex"], 512),
        ],
    )
    return Btf(b.blob()), ids


@pytest.mark.parametrize(
    ("path", "offset", "type_name", "bits"),
    [
        ("a", 0, "alias", 0),
        ("a.y", 32, "u32", 0),
        (" a . y ", 32, "u32", 0),
        ("whole", 64, "u32", 0),
        ("deep", 96, "u32", 5),
        ("flag", 101, "u32", 1),
        ("list", 128, "array", 0),
        ("list[3]", 128 + 3 * 64, "in", 0),
        ("list[2].y", 128 + 2 * 64 + 32, "u32", 0),
        ("old", 386, "old", 3),
        ("ok", 416, "bool", 0),
        ("next", 448, "pointer", 0),
        ("tail[9]", 512 + 9 * 32, "u32", 0),
    ],
)
def test_paths(made: tuple[Btf, dict[str, int]], path: str, offset: int, type_name: str, bits: int) -> None:
    btf, ids = made
    assert locate(btf, ids["s"], path) == MemberPath(offset, ids[type_name], bits)


@pytest.mark.parametrize(
    ("start", "path", "message"),
    [
        ("s", "wholy", "struct s has no member wholy; did you mean whole?"),
        ("s", "a.z", "struct in has no member z"),
        ("s", "list[4]", "list has 4 elements, 4 is not one"),
        ("s", "list[99999999999999999999]", "is not one"),
        ("s", "a[0]", "'a\\[0\\]' in 'a\\[0\\]' is not an array"),
        ("s", "next.x", "a pointer has no members, so no x"),
        ("s", "a.x.b", "int u32 has no members"),
        ("s", "", "is not a member path"),
        ("s", "a..x", "is not a member path"),
        ("s", "a[-1]", "is not a member path"),
        ("declared", "a", "struct declared is only declared"),
    ],
)
def test_what_is_not_there(made: tuple[Btf, dict[str, int]], start: str, path: str, message: str) -> None:
    btf, ids = made
    with pytest.raises(BtfLookupError, match=message):
        locate(btf, ids[start], path)
