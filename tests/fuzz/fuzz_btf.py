"""Fuzz the readers of BTF: blobs alone and split, ELF files around them, offset tables that lie."""

from __future__ import annotations

import contextlib
import importlib.util
import struct
from array import array
from pathlib import Path
from typing import Any

import fuzzing

from kwire.btf.blob import Btf
from kwire.btf.errors import BtfError
from kwire.btf.source import elf_section
from kwire.btf.table import Table


def _helpers() -> Any:
    """The writer of blobs, and what does everything with one, of the tests of this room."""
    path = Path(__file__).parents[1] / "btf" / "conftest.py"
    specification = importlib.util.spec_from_file_location("btf_helpers", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


HELPERS = _helpers()
BASES = {order: HELPERS.rich(HELPERS.Builder(order)) for order in "<>"}
GOOD = BASES["<"].blob()
BASE = Btf(GOOD)
TABLE = BASE.table.offsets.tobytes() + BASE.table.by_name.tobytes()
LAYOUT = [bytes(4)] * 20 + [b"\x08\x04\x00\x00"]
FUTURE = HELPERS.rich(HELPERS.Builder("<", 32, layout=LAYOUT))
FUTURE.add(20, "future", 0, [1, 2, 3, 4], vlen=2)
ELF = (
    b"\x7fELF\x02\x01\x01".ljust(40, b"\0")
    + struct.pack("<QIHHHHHH", 64, 0, 64, 0, 0, 64, 2, 1)
    + struct.pack("<I4xQQQQ24x", 0, 0, 0, 192 + 6, len(GOOD))
    + struct.pack("<I4xQQQQ24x", 0, 0, 0, 192, 6)
    + b".BTF\0\0"
    + GOOD
)
SEEDS = [
    GOOD,
    BASES[">"].blob(),
    HELPERS.rich(HELPERS.Builder("<", 32)).blob(),
    HELPERS.rich(HELPERS.Builder("<", base=BASES["<"])).blob(),
    FUTURE.blob(),
    ELF,
    TABLE,
]


def one_input(data: bytes) -> None:
    """Read `data` as everything that it might be. Only BtfError may come of it."""
    HELPERS.exercise(data)
    HELPERS.exercise(data, BASE)
    with contextlib.suppress(BtfError):
        elf_section(data, "it")
    words = array("I", data[: len(data) // 8 * 8])
    half = len(words) // 2
    HELPERS.use(Btf(GOOD, table=Table(words[:half], words[half:])))


if __name__ == "__main__":
    fuzzing.main(one_input, SEEDS)
