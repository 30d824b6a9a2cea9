"""Tools that others wrote, and our own, beside what they are to see, in each guest; how they are judged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from triggers import OWN, TRIGGERS, Trigger

import kwire.tools
from tools import ATTACHED, compared, judge

DRIVER = Path(__file__).with_name("tools.py")
PACKAGED = Path("/usr/sbin")
"""Where Debian's package `bpftrace` has its tools."""

NEWER = ("bitesize", "loads", "opensnoop", "vfscount")
"""One a mechanism: disks and a histogram, a timer and a symbol, system calls, a pattern of functions."""
OLDEST = ("bashreadline", "tcpaccept", "vfscount")
"""A program's return, the return of a function and structures, a pattern of functions: what the oldest guest
attaches otherwise, for it has no link of many functions, or of many places in a file.
"""
OWN_NEWER = ("tools drops", "tools retransmits", "tools blocklat --each")
OWN_OLDEST = ("tools tcplife",)
"""Those of ours that look at no process, which the tests of this machine hold to one."""


@pytest.mark.guest
@pytest.mark.parametrize(
    ("packaged", "own"),
    [
        pytest.param(NEWER, OWN_NEWER, marks=pytest.mark.kernels("6.12"), id="newer"),
        pytest.param(OLDEST, OWN_OLDEST, marks=pytest.mark.kernels("6.1"), id="oldest"),
    ],
)
def test_tools_print_what_they_should_beside_what_triggers_them(
    packaged: tuple[str, ...], own: tuple[str, ...]
) -> None:
    files = [PACKAGED / f"{name}.bt" for name in packaged]
    if not all(file.exists() for file in files):
        pytest.skip("the package bpftrace, whose tools are run, is not installed")
    names = [file.name for file in files] + [*own]
    only = "|".join(f"^{name}$" for name in names)
    words = [sys.executable, str(DRIVER), "--run", "--warm", "--own", "--only", only, "-v", *map(str, files)]
    run = subprocess.run(words, capture_output=True, text=True, timeout=800)
    lines = [line for line in run.stdout.splitlines() if not line.startswith(" ")]
    expected = [f"{name}: prints" for name in names] + [f"{len(names)} prints"]
    assert sorted(lines) == sorted(expected), run.stdout + run.stderr


def test_each_tool_of_ours_has_a_trigger() -> None:
    assert {name.split()[0] for name in OWN} == set(kwire.tools.TOOLS)


TOOL = Trigger("true", r"^cat opened", r"^(\w+ opened \w+)$")


@pytest.mark.parametrize(
    ("text", "word", "why"),
    [
        (f"{ATTACHED}\ncat opened a\n", "prints", ""),
        (f"{ATTACHED}\nsh opened a\n", "fails", "it does not print '^cat opened'"),
        (
            "a.bt:1:2-3: ERROR: kprobe:f: this kernel has no function f\n",
            "not here",
            "kprobe:f: this kernel has no function f",
        ),
        (
            "kwire: attach to kprobe:f: the kernel allows no probe there: EINVAL\n",
            "not here",
            "kwire: attach to kprobe:f: the kernel allows no probe there: EINVAL",
        ),
        (
            f"kwire: 2 targets are left out, the first kprobe:f: it is not traceable\n{ATTACHED}\n",
            "not here",
            "kwire: 2 targets are left out, the first kprobe:f: it is not traceable",
        ),
        ("a.bt:1:2-3: ERROR: $x has no value here\n", "fails", "$x has no value here"),
        ("", "fails", "it says nothing"),
    ],
)
def test_what_is_printed_is_judged(text: str, word: str, why: str) -> None:
    assert judge(TOOL, [text], "")[:2] == (word, why)


def test_two_programs_are_compared() -> None:
    one = f"{ATTACHED}\ncat opened a\nsh opened b\n"
    assert judge(TOOL, [one, "sh opened b\ncat opened a\n"], "other").word == "equal"
    apart = judge(TOOL, [one, "cat opened a\ncat opened c\n"], "other")
    assert apart[:2] == ("differs", "only here: ['sh opened b']; only there: ['cat opened c']")
    silent = judge(TOOL, [one, "nothing\n"], "other")
    assert silent[:2] == ("prints", "other does not run it, or prints nothing of it")
    missed = judge(TOOL, [f"{ATTACHED}\n", one], "other")
    assert missed.word == "fails"


def test_numbers_are_compared_by_their_sum() -> None:
    trigger = Trigger("true", r"\[", r"^\[.*\) +(\d+)", sums=True)
    assert compared(trigger, "[1, 2) 3\n[2, 4) 4\n", "[1, 2) 7\n") == ""
    assert compared(trigger, "[1, 2) 3\n", "[1, 2) 4\n") == "only here: ['3']; only there: ['4']"


def test_what_is_compared_is_found_in_what_is_expected() -> None:
    """A comparison of nothing with nothing would be none."""
    assert [name for name, one in TRIGGERS.items() if one.sums and not one.same] == []
    nothing = Trigger("true", "x", "^y$")
    assert compared(nothing, "x", "x") == "nothing matches '^y$'"
