"""Parts of what is recorded: their keys stay as long as what is asked for does."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from kwire.cli.parts import parts

FIRST = """
@kwire.tracepoint("syscalls:sys_enter_getppid")
def first():
    emit(number=named(3))
"""
SECOND = """
@kwire.tracepoint("syscalls:sys_enter_getuid")
def second():
    emit(pid)
"""
HELPER = """
def named(n):
    return n + 1
"""


def keys(folder: Path, text: str, beside: str = "", filter: str | None = None) -> tuple[str, ...]:
    """The keys of the probes of a file, and of a module beside it."""
    (folder / "helpers.py").write_text(beside)
    (folder / "probes.py").write_text(f"import kwire\nfrom kwire.probe import emit, pid\n{text}")
    return parts(argparse.Namespace(probes=[str(folder / "probes.py")], filter=filter)).keys


def test_places_and_comments_are_no_matter(tmp_path: Path) -> None:
    """Of a function, of those beside it, and of those that it calls, which may stand in front or behind."""
    both = keys(tmp_path, HELPER + FIRST + SECOND)
    assert len(set(both)) == 2
    assert (
        keys(tmp_path, "# more\n\n" + HELPER.replace("return", "# why\n    return") + FIRST + SECOND) == both
    )
    assert keys(tmp_path, FIRST + SECOND + HELPER) == both
    assert keys(tmp_path, SECOND + HELPER + FIRST) == both[::-1]
    assert keys(tmp_path, HELPER + FIRST) == both[:1]


@pytest.mark.parametrize("text", [HELPER.replace("1", "2") + FIRST, HELPER + FIRST.replace("3", "4")])
def test_what_is_done_is_a_matter(tmp_path: Path, text: str) -> None:
    before, after = keys(tmp_path, HELPER + FIRST + SECOND), keys(tmp_path, text + SECOND)
    assert before[0] != after[0]
    assert before[1] == after[1]


def test_the_same_of_functions_of_other_files(tmp_path: Path) -> None:
    own = "from helpers import named\n" + FIRST
    before = keys(tmp_path, own + SECOND, HELPER)
    assert keys(tmp_path, "# more\n\n" + own + SECOND, "# a comment\n\n" + HELPER) == before
    assert keys(tmp_path, own + SECOND, HELPER.replace("1", "2")) != before
    assert keys(tmp_path, own + SECOND, HELPER, "pid == 1") != before
