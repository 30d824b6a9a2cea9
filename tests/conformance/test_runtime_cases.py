"""The driver of bpftrace's own cases: it reads them, runs them, and what does not hold fails."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("runtime_cases.py")
CASES = """\
# a comment
NAME holds
PROG begin {
       printf("a\\n"); printf("b\\n"); }
EXPECT a
       b
EXPECT_REGEX ^Attached \\d probe$
EXPECT_NONE c

NAME output differs
PROG begin { printf("a\\n"); }
EXPECT b

NAME fails as it has to
RUN {{BPFTRACE}} -e 'begin { nope(); }'
EXPECT_REGEX there is no function nope
WILL_FAIL

NAME ends with its own status
PROG begin { exit(3); }
EXPECT_NONE x
RETURN_CODE 3

NAME json
PROG begin { @a = 5; }
EXPECT_JSON runtime/outputs/a.json

NAME elsewhere
PROG begin { exit(3); }
EXPECT x
ARCH nowhere

NAME not here
PROG begin { exit(3); }
EXPECT x
REQUIRES false

NAME attaches
PROG kprobe:f { }
EXPECT x
"""


@pytest.mark.live
@pytest.mark.native
def test_cases_are_run_and_judged(tmp_path: Path) -> None:
    runtime = tmp_path / "tests" / "runtime"
    (runtime / "outputs").mkdir(parents=True)
    (runtime / "outputs" / "a.json").write_text('{"type": "map", "data": {"@a": 5}}')
    (runtime / "some").write_text(CASES)
    words = [sys.executable, str(DRIVER), str(tmp_path), "--only", "begin-end", "--scale", "20"]
    run = subprocess.run([*words, "--least", "90"], capture_output=True, text=True, timeout=200)
    assert run.stdout.splitlines() == [
        "failed: some.output differs: EXPECT 'b'",
        "skipped: some.not here: requires: false",
        "",
        "reasons of failures:",
        "    1  other output",
        "",
        "4 of 5 pass (80.0 %); 1 skipped",
    ]
    assert run.returncode == 1, run.stderr


@pytest.mark.live
@pytest.mark.native  # where it is made for, in an emulated machine, it takes a minute to be warm
def test_a_long_run_is_done_in_parts_from_a_warm_process(tmp_path: Path) -> None:
    if not shutil.which("gcc"):
        pytest.skip("there is no compiler")
    runtime = tmp_path / "tests" / "runtime"
    (runtime / "outputs").mkdir(parents=True)
    (runtime / "outputs" / "a.json").write_text('{"type": "map", "data": {"@a": 5}}')
    (runtime / "some").write_text(CASES)
    kept = tmp_path / "kept.jsonl"
    words = [sys.executable, str(DRIVER), str(tmp_path), "--only", "begin-end", "--scale", "20", "--warm"]
    words += ["--results", str(kept)]
    begun = subprocess.run([*words, "--seconds", "0"], capture_output=True, text=True, timeout=200)
    assert "more is to be run" in begun.stdout, begun.stderr
    assert not kept.exists()
    runs = [subprocess.run(words, capture_output=True, text=True, timeout=200) for _ in range(2)]
    assert [run.stdout.splitlines()[-1] for run in runs] == ["4 of 5 pass (80.0 %); 1 skipped"] * 2
    outcomes = [json.loads(line) for line in kept.read_text().splitlines()]
    assert [one["word"] for one in outcomes] == ["passed", "failed", "passed", "passed", "passed", "skipped"]
