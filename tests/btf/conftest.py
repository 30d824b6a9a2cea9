"""A small writer of BTF blobs, for tests only: written from linux/btf.h, not from the reader under test."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Sequence

import pytest

from kwire.btf.blob import Btf
from kwire.btf.cformat import declare, spell
from kwire.btf.ctext import parse_type
from kwire.btf.errors import BtfError
from kwire.btf.members import every_member, locate

INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE, CONST = range(1, 11)
RESTRICT, FUNC, FUNC_PROTO, VAR, DATASEC, FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = range(11, 20)

# (name, type, bit offset[, bit size])
Member = tuple[str, int, int] | tuple[str, int, int, int]


class Builder:
    """Collects types; ids count from 1 (or after `base`); `bytes()` writes the blob."""

    def __init__(
        self, order: str = "<", header: int = 24, base: Builder | None = None, layout: Sequence[bytes] = ()
    ) -> None:
        self.order, self.header, self.layout = order, header, layout
        self.base = base
        self.strings = b"\0" if base is None else b""
        self.types = b""
        self.next_id: int = 1 if base is None else base.next_id
        self.base_strings: int = 0 if base is None else base.base_strings + len(base.strings)

    def name(self, text: str) -> int:
        if not text:
            return 0
        raw = text.encode() + b"\0"
        if self.base is not None and b"\0" + raw in self.base.strings:
            return self.base.base_strings + self.base.strings.index(b"\0" + raw) + 1
        at = 0 if self.strings.startswith(raw) else self.strings.find(b"\0" + raw) + 1
        if self.strings[at : at + len(raw)] != raw:
            at = len(self.strings)
            self.strings += raw
        return self.base_strings + at

    def add(
        self, kind: int, name: str, word: int, tail: Sequence[int] = (), vlen: int = 0, flag: bool = False
    ) -> int:
        info = int(flag) << 31 | kind << 24 | vlen
        words = [self.name(name), info, word, *tail]
        self.types += struct.pack(f"{self.order}{len(words)}I", *(each & 0xFFFFFFFF for each in words))
        self.next_id += 1
        return self.next_id - 1

    def integer(
        self, name: str, size: int, signed: bool = False, offset: int = 0, bits: int = 0, flags: int = 0
    ) -> int:
        return self.add(INT, name, size, [(int(signed) | flags) << 24 | offset << 16 | (bits or size * 8)])

    def ref(self, kind: int, target: int, name: str = "") -> int:
        return self.add(kind, name, target)

    def array(self, target: int, count: int, index: int = 1) -> int:
        return self.add(ARRAY, "", 0, [target, index, count])

    def struct(self, name: str, size: int, members: Sequence[Member], kind: int = STRUCT) -> int:
        flag = any(len(member) == 4 for member in members)
        tail: list[int] = []
        for member in members:
            bits = member[3] if len(member) == 4 else 0
            tail += [self.name(member[0]), member[1], bits << 24 | member[2]]
        return self.add(kind, name, size, tail, len(members), flag)

    def enum(self, name: str, values: Sequence[tuple[str, int]], size: int = 4, signed: bool = False) -> int:
        tail = [word for text, value in values for word in (self.name(text), value)]
        return self.add(ENUM, name, size, tail, len(values), signed)

    def enum64(self, name: str, values: Sequence[tuple[str, int]], signed: bool = False) -> int:
        tail = [w for text, value in values for w in (self.name(text), value & 0xFFFFFFFF, value >> 32)]
        return self.add(ENUM64, name, 8, tail, len(values), signed)

    def proto(self, ret: int, params: Sequence[tuple[str, int]]) -> int:
        tail = [word for text, target in params for word in (self.name(text), target)]
        return self.add(FUNC_PROTO, "", ret, tail, len(params))

    def func(self, name: str, proto: int, linkage: int = 1) -> int:
        return self.add(FUNC, name, proto, vlen=linkage)

    def datasec(self, name: str, size: int, variables: Sequence[tuple[int, int, int]]) -> int:
        return self.add(DATASEC, name, size, [word for entry in variables for word in entry], len(variables))

    def blob(self) -> bytes:
        """header · types · (layout) · strings, as new kernels order them, with a gap before the strings."""
        layout = b"".join(self.layout)
        strings_at = len(self.types) + len(layout) + 4
        words = [0, len(self.types), strings_at, len(self.strings)]
        if self.header >= 32:
            words += [len(self.types), len(layout)]
        head = struct.pack(f"{self.order}HBBI{len(words)}I", 0xEB9F, 1, 0, self.header, *words)
        head = head.ljust(self.header, b"\0")
        return head + self.types + layout + b"\xff" * 4 + self.strings


@pytest.fixture
def exercised() -> Callable[[bytes], int]:
    """`exercise`."""
    return exercise


@pytest.fixture
def enriched() -> Callable[[Builder], Builder]:
    """`rich`."""
    return rich


@pytest.fixture
def new_btf() -> Callable[..., Builder]:
    """Makes a `Builder`."""
    return Builder


@pytest.fixture(params=[("<", 24), ("<", 32), (">", 24), (">", 32), ("<", 48)], ids=lambda p: f"{p[0]}{p[1]}")
def builder(request: pytest.FixtureRequest) -> Builder:
    """An empty blob in every dress: both byte orders, every header size."""
    order, header = request.param
    return Builder(order, header)


def rich(b: Builder) -> Builder:
    """Fills a blob with one type of every kind, related to one another."""
    number = b.integer("int", 4, True)
    b.integer("long unsigned int", 8)
    b.integer("old", 4, offset=3, bits=5)
    inner = b.struct("", 8, [("x", number, 0, 3), ("y", number, 3, 29)], kind=UNION)
    struct = b.next_id + 2
    pointer = b.ref(PTR, b.ref(CONST, struct))
    b.struct("s", 64, [("a", number, 0), ("", inner, 32), ("next", pointer, 96), ("list", struct + 1, 160)])
    b.array(b.next_id + 1, 3)
    alias = b.ref(TYPEDEF, b.ref(VOLATILE, b.ref(TYPE_TAG, number, "user")), "alias")
    b.ref(RESTRICT, pointer)
    b.enum("e", [("A", 0), ("B", -1)], signed=True)
    b.enum64("wide", [("C", 1 << 40)])
    b.add(FWD, "declared", 0)
    function = b.func("f", b.proto(alias, [("p", pointer), ("fn", b.next_id), ("", 0)]))
    b.datasec(".data", 8, [(b.add(VAR, "v", number, [1]), 0, 4)])
    b.add(FLOAT, "double", 8)
    b.add(DECL_TAG, "tag", function, [0])
    return b


def exercise(data: bytes, base: Btf | None = None) -> int:
    """Does everything there is to do with a blob; only BtfError may come of it. Returns what succeeded."""
    try:
        return use(Btf(data, base))
    except BtfError:
        return 0


def use(btf: Btf) -> int:
    """What `exercise` does with a blob whose header is sound."""
    try:
        end = min(btf.end_id, btf.first_id + 300)
    except BtfError:
        return 0
    done = 0
    for id in range(btf.first_id, end):
        for call in (
            btf.type,
            btf.kind,
            btf.resolve,
            btf.sizeof,
            btf.proto,
            lambda id: locate(btf, id, "nothing.at.all"),
            lambda id: locate(btf, id, "x"),
            lambda id: sum(1 for _ in every_member(btf, id)),
            lambda id: declare(btf, id),
            lambda id: spell(btf, id, "name"),
        ):
            try:
                call(id)
            except BtfError:
                continue
            done += 1
    for text in ("struct s *", "unsigned long", "alias", "enum e", "struct nothing"):
        with contextlib.suppress(BtfError):
            parse_type(btf, text)
        with contextlib.suppress(BtfError):
            btf.find_all(text)
    for kind in range(21):
        with contextlib.suppress(BtfError):
            btf.names(kind)
    return done
