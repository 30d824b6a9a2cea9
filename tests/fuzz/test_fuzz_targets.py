"""Every fuzz target, on a fixed number of seeded inputs: mutations of its own seeds, and noise.

A target is a file `fuzz_NAME.py` here with `SEEDS`, a sequence of good inputs, and
`one_input(data: bytes) -> None`, which returns for every input, having caught the errors that its reader
documents, or shows a defect by raising. Under atheris the same function runs for as long as one likes:
`python tests/fuzz/fuzz_NAME.py CORPUS`.
"""

from __future__ import annotations

import importlib.util
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

TARGETS = sorted(Path(__file__).parent.glob("fuzz_*.py"))
INPUTS = 2000
SECONDS_EACH = 5  # of processor time for one input: a hang is a defect too
NUMBERS = [0, 1, 7, 8, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF, 2**63, 2**64 - 1]


def mutated(seeds: Sequence[bytes], random: random.Random) -> bytes:
    """One input: a seed with a few changes of the kinds that break readers."""
    data = bytearray(random.choice(seeds))
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(data) + 1)
        size = random.choice([1, 2, 4, 8])
        match random.randrange(7):
            case 0 if at < len(data):
                data[at] ^= 1 << random.randrange(8)
            case 1:
                value = random.choice(NUMBERS) % (1 << 8 * size)
                data[at : at + size] = value.to_bytes(size, random.choice(["little", "big"]))
            case 2:
                del data[at:]
            case 3:
                del data[at : at + random.randint(1, 16)]
            case 4:
                data[at:at] = random.randbytes(random.randint(1, 16))
            case 5:
                data[at:at] = data[random.randrange(len(data) + 1) :][:64]
            case 6:
                other = random.choice(seeds)
                data[at:] = other[random.randrange(len(other) + 1) :]
    return bytes(data)


def inputs(seeds: Sequence[bytes], number: int) -> Iterator[bytes]:
    yield b""
    yield from seeds
    source = random.Random(20240229)
    for turn in range(number):
        yield mutated(seeds, source) if turn % 16 else source.randbytes(source.randrange(200))


@pytest.mark.parametrize("path", TARGETS, ids=lambda path: path.stem)
def test_a_target_survives(path: Path) -> None:
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification is not None
    assert specification.loader is not None
    target = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(target)
    one_input: Callable[[bytes], None] = target.one_input
    assert target.SEEDS

    def hang(*_: object) -> None:
        raise TimeoutError(f"more than {SECONDS_EACH} s for one input")

    previous = signal.signal(signal.SIGVTALRM, hang)
    try:
        for data in inputs(target.SEEDS, INPUTS):
            signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS_EACH)
            try:
                one_input(data)
            except BaseException as error:
                error.add_note(f"the input: {data.hex()}")
                raise
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)


def test_there_are_targets_for_all_readers() -> None:
    assert {path.stem for path in TARGETS} >= {"fuzz_frame", "fuzz_btf", "fuzz_format", "fuzz_pcapng"}
