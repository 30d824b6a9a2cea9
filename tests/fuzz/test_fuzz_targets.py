"""Every fuzz target, on its seeds, on what campaigns kept, and on a fixed number of seeded mutations of them.

How a target is made and run for longer stands in `fuzzing.py` and in docs/fuzzing.md.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fuzzing
import pytest

HERE = Path(__file__).parent
TARGETS = sorted(HERE.glob("fuzz_*.py"))
INPUTS = 600  # unless a target has an INPUTS of its own, because one of them takes long
SECONDS_EACH = 5  # of processor time for one input: a hang is a defect too
WALK_RUNS = 30_000


def load(path: Path) -> Any:
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", TARGETS, ids=lambda path: path.stem)
def test_a_target_survives(path: Path) -> None:
    target = load(path)
    one_input: Callable[[bytes], None] = target.one_input
    seeds = [*target.SEEDS, *fuzzing.kept(path.stem.removeprefix("fuzz_"))]
    assert target.SEEDS

    def hang(*_: object) -> None:
        raise TimeoutError(f"more than {SECONDS_EACH} s for one input")

    previous = signal.signal(signal.SIGVTALRM, hang)
    try:
        for data in fuzzing.inputs(seeds, getattr(target, "INPUTS", INPUTS), 20240229):
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
    assert {path.stem.removeprefix("fuzz_") for path in TARGETS} >= {
        "btf", "cbor", "format", "frame", "packets", "pcapng", "requests", "scripts", "session", "spool",
        "text", "verbs",
    }  # fmt: skip


def test_what_is_kept_is_small_and_belongs_to_a_target() -> None:
    names = {path.stem.removeprefix("fuzz_") for path in TARGETS} | {"walk"}
    assert {path.name for path in fuzzing.CORPUS.iterdir()} <= names
    assert sum(path.stat().st_size for path in fuzzing.CORPUS.rglob("*")) < 1 << 20


def test_a_target_runs_by_itself() -> None:
    command = [sys.executable, str(HERE / "fuzz_cbor.py"), "--runs", "50"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "50 inputs, no defect\n", "")


@pytest.mark.native
def test_the_c_walkers_stay_in_their_buffers(tmp_path: Path) -> None:
    """Under the sanitizers of gcc; clang's libFuzzer runs the same file for campaigns."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc")
    program = tmp_path / "walk_fuzz"
    flags = ["-g", "-O1", "-Wall", "-Wextra", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    command = [compiler, *flags, "-DKWIRE_TRAPS", "-DSTANDALONE", "-o", str(program), *fuzzing.WALK_SOURCES]
    made = subprocess.run(command, capture_output=True, text=True)
    if "cannot find" in made.stderr:
        pytest.skip("gcc has no sanitizers here")
    assert (made.returncode, made.stderr) == (0, "")
    seeds = []
    for number, data in enumerate([*load(HERE / "walk_seeds.py").SEEDS, *fuzzing.kept("walk")]):
        seeds.append(tmp_path / f"seed{number}")
        seeds[-1].write_bytes(data)
    options = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run(
        [program, str(WALK_RUNS), "7", *seeds[:64]], capture_output=True, text=True, env=options, timeout=240
    )
    assert (done.returncode, done.stderr) == (0, "")
