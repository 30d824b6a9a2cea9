"""`kwire.test`: probes under test, as a team does it: pytest, with privileges and without."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kwire.kernel import privileges

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "python.md").read_text()


def example() -> str:
    """The file of tests that the documentation shows."""
    found = re.search(r"    # test_opens\.py\n(.*?)\n\n\|", PAGE, re.S)
    assert found is not None
    return "\n".join(line[4:] for line in found[1].split("\n")) + "\n"


def run(folder: Path, text: str, *, privileged: bool = False) -> "subprocess.CompletedProcess[str]":
    """Run a file of tests; without privileges the process has no capability at all."""
    (folder / "test_it.py").write_text(text)
    words = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "kwire.test", "-p", "no:cacheprovider", "."]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"PYTHONPATH": str(ROOT / "src"), "PYTEST_PLUGINS": "kwire.test"}  # twice is once
    return subprocess.run(
        words,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        preexec_fn=None if privileged else privileges.drop,
    )


def test_the_example_of_the_documentation_runs_without_privileges(tmp_path: Path) -> None:
    done = run(tmp_path, example())
    assert "2 passed, 1 skipped" in done.stdout, done.stdout + done.stderr
    assert re.search(r"SKIPPED .*kprobe: .*(CAP_|privilege|permitted|root)", done.stdout), done.stdout


@pytest.mark.live
@pytest.mark.native
def test_the_example_runs_in_the_kernel(tmp_path: Path) -> None:
    done = run(tmp_path, example(), privileged=True)
    assert "3 passed" in done.stdout or "2 passed, 1 skipped" in done.stdout, done.stdout + done.stderr


WRONG = """
import kwire

@kwire.kprobe("tcp_connect")
def typo():
    emit(nothing)

@kwire.kprobe("no_such_function_at_all")
def nowhere(sk):
    emit(sk)

def test_bench(kwire_bench):
    kwire_bench.fire(typo)

def test_script(kwire_bench):
    kwire_bench.bt("begin { printf(nothing); }")

def test_place(kwire_bench):
    kwire_bench.bt("begin { }").fire("end")

def test_answer(kwire_bench):
    kwire_bench.set(nobody=1)
"""


def test_what_is_wrong_with_a_probe_fails(tmp_path: Path) -> None:
    done = run(tmp_path, WRONG)
    assert "4 failed" in done.stdout, done.stdout + done.stderr
    for says in (
        "unknown name nothing",
        "no probe of the script is there; it has begin",
        "no helper answers that",
    ):
        assert says in done.stdout


def test_the_plugin_costs_nothing_before_it_is_used() -> None:
    code = (
        "import sys, pytest, kwire.test\n"
        "print(sorted(one for one in sys.modules if one.startswith('kwire')))\n"
        "print(kwire.test.Bench.__name__)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "['kwire', 'kwire.test']\nBench\n"
