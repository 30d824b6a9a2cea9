"""What the fuzz targets have in common: how inputs are mutated, and a target's command line.

A target is a file `fuzz_NAME.py` with `SEEDS`, a sequence of good inputs, and `one_input(data: bytes)`, which
returns for every input, having caught the errors that its reader documents, or shows a defect by raising.

    python tests/fuzz/fuzz_NAME.py --runs 100000 [--seed N]     random mutations, nothing else installed
    python tests/fuzz/fuzz_NAME.py [WORK] [-max_total_time=60]  guided by coverage; libFuzzer's options

Guided runs (atheris) begin with the seeds and with what `corpus/NAME` keeps of earlier campaigns; what they
find goes to WORK. Import this module first: it has the modules imported after it watched.
"""

from __future__ import annotations

import atexit
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
NATIVE = HERE.parent.parent / "native"
#: What the fuzzer of the C walkers is made of; what is part of its first file is left out.
WALK_SOURCES = [
    str(HERE / "walk_fuzz.c"),
    *sorted(str(path) for path in NATIVE.glob("*.c") if path.name not in ("columns.c", "walk.c")),
]
NUMBERS = [0, 1, 7, 8, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF, 2**63, 2**64 - 1]
LONGEST = 4096  # bytes of a guided input

GUIDED = Path(sys.argv[0]).name.startswith("fuzz_") and "--runs" not in sys.argv
if GUIDED:
    try:
        import atheris
    except ImportError:
        raise SystemExit("atheris is not installed (pip install '.[fuzz]'): give --runs N") from None
    atheris.instrument_imports(include=["kwire"]).__enter__()


def check(holds: bool, defect: str) -> None:
    """What `assert` is, where an error has been caught."""
    if not holds:
        raise AssertionError(defect)


def one_line(error: Exception) -> None:
    """Check that an error is said in one line."""
    check("\n" not in str(error), f"an error of more than a line: {error}")


def mutated(seeds: Sequence[bytes], source: random.Random) -> bytes:
    """One input: a seed with a few changes of the kinds that break readers."""
    data = bytearray(source.choice(seeds))
    for _ in range(source.randint(1, 4)):
        at = source.randrange(len(data) + 1)
        size = source.choice([1, 2, 4, 8])
        match source.randrange(7):
            case 0 if at < len(data):
                data[at] ^= 1 << source.randrange(8)
            case 1:
                at -= at % size if source.random() < 0.5 else 0
                value = source.choice([*NUMBERS, source.randrange(40)]) % (1 << 8 * size)
                data[at : at + size] = value.to_bytes(size, source.choice(["little", "big"]))
            case 2 if source.random() < 0.5:
                del data[at:]
            case 3:
                del data[at : at + source.randint(1, 16)]
            case 4:
                data[at:at] = source.randbytes(source.randint(1, 16))
            case 5:
                data[at:at] = data[source.randrange(len(data) + 1) :][:64]
            case 6:
                other = source.choice(seeds)
                data[at:] = other[source.randrange(len(other) + 1) :]
    return bytes(data)


def inputs(seeds: Sequence[bytes], number: int, seed: int) -> Iterator[bytes]:
    """The seeds, then so many mutations and now and then noise."""
    yield b""
    yield from seeds
    source = random.Random(seed)
    for turn in range(number):
        yield mutated(seeds, source) if turn % 16 else source.randbytes(source.randrange(200))


def kept(name: str) -> list[bytes]:
    """The inputs that `corpus/NAME` keeps."""
    folder = CORPUS / name
    return [path.read_bytes() for path in sorted(folder.iterdir())] if folder.is_dir() else []


def main(one_input: Callable[[bytes], None], seeds: Sequence[bytes]) -> None:
    """The command line of a target: see above."""
    name = Path(sys.argv[0]).stem.removeprefix("fuzz_")
    if GUIDED:
        _guided(one_input, seeds, name)
        return
    import argparse

    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, required=True, help="number of random mutations")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    for run, data in enumerate(inputs([*seeds, *kept(name)], args.runs, args.seed)):
        try:
            one_input(data)
        except BaseException:
            print(f"run {run} of seed {args.seed}: {data.hex()}", file=sys.stderr)
            raise
    print(f"{args.runs} inputs, no defect")


def folder_in_memory(name: str) -> Path:
    """A folder, in memory where there is a file system for it, that goes when the process ends."""
    where = "/dev/shm" if os.path.isdir("/dev/shm") else None
    made = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-", dir=where))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def _guided(one_input: Callable[[bytes], None], seeds: Sequence[bytes], name: str) -> None:
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        for number, data in enumerate(seeds):
            (Path(folder) / f"seed{number}").write_bytes(data)
        options = [word for word in sys.argv[1:] if word.startswith("-")]
        folders = [word for word in sys.argv[1:] if not word.startswith("-")] or [
            tempfile.mkdtemp(prefix="fuzz-work-")
        ]
        Path(folders[0]).mkdir(parents=True, exist_ok=True)
        folders.append(folder)
        if (CORPUS / name).is_dir():
            folders.append(str(CORPUS / name))
        atheris.Setup([sys.argv[0], f"-max_len={LONGEST}", *options, *folders], one_input)
        atheris.Fuzz()
