"""Symbols: a made-up table, and the running kernel's."""

from __future__ import annotations

from pathlib import Path

import pytest

from kwire.kernel.symbols import MAX_OFFSET, Symbol, Symbols
from kwire.kernel.syscall import KernelError

TABLE = b"""\
0000000000000000 A fixed_percpu_data
ffffffff81000000 T _text
ffffffff81000000 T _stext
ffffffff81000040 t helper
ffffffff81000100 T tcp_connect
ffffffff81000200 t helper
ffffffff81000300 W weak
ffffffff81000400 D jiffies
ffffffffc0001000 t init_module\t[beta]
ffffffffc0001100 t helper\t[beta]
ffffffffc0000000 t alpha_fn\t[alpha]
ffffffffc0000100 t tcp_connect.cold\t[alpha]
"""
SYMBOLS = Symbols(TABLE)
TEXT = 0xFFFFFFFF81000000
MODULES = 0xFFFFFFFFC0000000


@pytest.mark.parametrize(
    ("name", "module", "addresses"),
    [
        ("tcp_connect", None, [TEXT + 0x100]),
        ("helper", None, [TEXT + 0x40, TEXT + 0x200, MODULES + 0x1100]),
        ("helper", "", [TEXT + 0x40, TEXT + 0x200]),
        ("helper", "beta", [MODULES + 0x1100]),
        ("helper", "alpha", []),
        ("tcp_connec", None, []),
        ("tcp.connect", None, []),
        ("", None, []),
    ],
)
def test_by_name(name: str, module: str | None, addresses: list[int]) -> None:
    assert SYMBOLS.addresses(name, module) == addresses


def test_functions_by_name_and_module() -> None:
    assert SYMBOLS.functions_named(["helper", "jiffies", "tcp_connect", "no_such"]) == {
        "helper": {"": [TEXT + 0x40, TEXT + 0x200], "beta": [MODULES + 0x1100]},
        "tcp_connect": {"": [TEXT + 0x100]},
    }
    many = ["helper", "weak", "tcp_connect", "a", "b", "c", "d", "e", "f", "g"]
    assert SYMBOLS.functions_named(many)["weak"] == {"": [TEXT + 0x300]}
    forgotten = TABLE + b"ffffffff81000180 T _sinittext\nffffffff81000280 T _einittext\n"
    assert Symbols(forgotten).functions_named(["helper"])["helper"][""] == [TEXT + 0x40]
    hidden = Symbols(b"0000000000000000 t helper\n0000000000000000 t helper\n")
    assert hidden.functions_named(["helper"]) == {"helper": {"": [0, 0]}}


@pytest.mark.parametrize(
    ("address", "symbol"),
    [
        (TEXT, Symbol("_text", 0)),
        (TEXT + 0x3F, Symbol("_text", 0x3F)),
        (TEXT + 0x105, Symbol("tcp_connect", 5)),
        (TEXT + 0x400, Symbol("jiffies", 0)),
        (MODULES + 1, Symbol("alpha_fn", 1, "alpha")),
        (MODULES + 0x1001, Symbol("init_module", 1, "beta")),
        (MODULES + 0x10FF, Symbol("init_module", 0xFF, "beta")),
        (TEXT + 0x400 + MAX_OFFSET, None),
        (TEXT - 1, None),
        (0, None),
        (5, None),
        ((1 << 64) - 1, None),
    ],
)
def test_by_address(address: int, symbol: Symbol | None) -> None:
    assert SYMBOLS.at(address) == symbol


def test_words() -> None:
    assert str(SYMBOLS.at(TEXT + 0x105)) == "tcp_connect+0x5"
    assert str(SYMBOLS.at(MODULES)) == "alpha_fn [alpha]"


def test_functions_are_those_that_are_code() -> None:
    assert ("jiffies", "") not in list(SYMBOLS.functions())
    assert list(SYMBOLS.functions())[-1] == ("tcp_connect.cold", "alpha")
    assert SYMBOLS.by_address()[TEXT] == "_text"


@pytest.mark.parametrize(
    "table", [b"", b"\n", b"garbage\n", b"0000000000000000 T hidden\n0000000000000000 t x\n"]
)
def test_tables_with_no_addresses(table: bytes) -> None:
    symbols = Symbols(table)
    assert not symbols.readable
    assert symbols.at(TEXT) is None
    assert symbols.by_address() == {}


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="ENOENT"):
        Symbols.read(str(tmp_path / "kallsyms"))


@pytest.mark.live
def test_the_running_kernel() -> None:
    symbols = Symbols.read()
    assert symbols.readable
    (address,) = symbols.addresses("schedule", "")
    found = symbols.at(address + 1)
    assert found is not None
    assert found.offset == 1
    every = list(symbols.functions())
    assert ("schedule", "") in every
    for name, module in every[:: len(every) // 10]:
        for at in symbols.addresses(name, module):
            there = symbols.at(at)
            assert there is not None
            assert there.offset == 0
