"""Fuzz the readers of BTF: blobs alone and split, ELF files around them, offset tables that lie.

`python tests/fuzz/fuzz_btf.py --runs 100000 [--seed N]` mutates at random, without anything else installed;
`python tests/fuzz/fuzz_btf.py CORPUS` is guided by atheris, where that is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import random
import struct
import sys
from array import array
from pathlib import Path
from typing import Any

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


def mutated(source: random.Random) -> bytes:
    """A seed with a few words or bytes changed, moved, cut or made extreme."""
    data = bytearray(source.choice(SEEDS))
    for _ in range(source.randrange(6)):
        at = source.randrange(len(data) + 1)
        match source.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << source.randrange(8)
            case 1 | 2:
                word = source.choice(
                    [source.randrange(40), 1 << source.randrange(32), source.randrange(1 << 32)]
                )
                data[at & ~3 : (at & ~3) + 4] = word.to_bytes(4, source.choice(["little", "big"]))
            case 3:
                del data[at : at + source.randrange(1, 20)]
            case 4:
                data[at:at] = data[source.randrange(len(data) + 1) :][:40]
            case 5 if source.random() < 0.2:
                del data[at:]
    return bytes(data)


def main() -> None:
    """Run `--runs` inputs of our own, or hand over to atheris."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, help="number of random mutations")
    parser.add_argument("--seed", type=int, default=1)
    args, rest = parser.parse_known_args()
    if args.runs is None:
        try:
            import atheris
        except ImportError:
            parser.error("atheris is not installed: give --runs N")
        atheris.Setup([sys.argv[0], *rest], one_input)
        atheris.Fuzz()
        return
    source = random.Random(args.seed)
    for run in range(args.runs):
        data = mutated(source)
        try:
            one_input(data)
        except BaseException:
            print(f"run {run} of seed {args.seed}: {data.hex()}", file=sys.stderr)
            raise
    print(f"{args.runs} inputs, no defect")


if __name__ == "__main__":
    main()
