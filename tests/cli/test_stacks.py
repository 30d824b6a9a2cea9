"""Scripts with stacks: as bpftrace prints them, and from a capture the same again."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bpftrace_here import BPFTRACE
from waiting import PATIENCE

KWIRE = [sys.executable, "-m", "kwire.cli.main"]

pytestmark = [
    pytest.mark.live,
    pytest.mark.native,  # tests/live/test_stacks.py asks each kernel
    pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler"),
]

SOURCE = """
#include <unistd.h>
__attribute__((noinline)) void hidden(void) { getppid(); asm volatile(""); }
__attribute__((noinline)) void inner(void) { hidden(); asm volatile(""); }
__attribute__((noinline)) void outer(void) { inner(); asm volatile(""); }
int main(void) { for (;;) { outer(); usleep(2000); } }
"""
"""`getppid` of the C library keeps no frame pointer, so its caller is not on the stack."""

PATIENT = """
#include <sys/resource.h>
int setrlimit(__rlimit_resource_t r, const struct rlimit *l) { return 0; }
int setrlimit64(__rlimit_resource_t r, const struct rlimit64 *l) { return 0; }
"""


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A process that calls what is known, again and again."""
    folder = tmp_path_factory.mktemp("busy")
    (folder / "busy.c").write_text(SOURCE)
    flags = ["-O1", "-fno-omit-frame-pointer", "-fno-optimize-sibling-calls"]
    subprocess.run(["cc", *flags, "-o", str(folder / "busy"), str(folder / "busy.c")], check=True)
    with subprocess.Popen([str(folder / "busy")]) as process:
        yield process.pid
        process.kill()


def run(*words: str, **environment: str) -> str:
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=PATIENCE, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


PROBE = "tracepoint:syscalls:sys_enter_getppid /pid == $1/"
PRINTED = f'{PROBE} {{ printf("%s|%s|%s", kstack(3), ustack(4), ustack(perf, 3)); exit(); }}'
KEPT = f"""{PROBE} {{
    @[kstack] = count(); @two[ustack(3), comm] = count(); @held = ustack(perf, 2); @raw[ustack(raw, 1)] = 1;
    @ids[ustack(build_id, 1)] = 1; printf("%s%s\\n", ustack(3), usym(0)); print(@two); exit(); }}"""


def test_names_and_forms_are_those_of_bpftrace(busy: int, tmp_path: Path) -> None:
    if not shutil.which("bpftrace"):
        pytest.skip("bpftrace is not installed")
    (tmp_path / "patient.c").write_text(PATIENT)
    library = str(tmp_path / "patient.so")
    build = ["cc", "-D_GNU_SOURCE", "-shared", "-fPIC", "-o", library, str(tmp_path / "patient.c")]
    subprocess.run(build, check=True)
    ours = run(*KWIRE, "-q", "-e", PRINTED, str(busy))
    theirs = run(*BPFTRACE, "-e", PRINTED, str(busy), LD_PRELOAD=library).partition("probe...\n")[2]
    stacks, others = (
        [one.split("\n\n")[0].strip("\n") for one in text.split("|")[:3]] for text in (ours, theirs)
    )
    assert stacks[1:] == others[1:]
    assert calls(stacks[0]) == calls(others[0])
    frames = [line.strip().split("+")[0] for line in stacks[1].splitlines()]
    assert frames == ["getppid", "inner", "outer", "main"]


def calls(stack: str) -> list[str]:
    """The first two frames of a kernel stack that are not of the tracepoint's own: it calls several programs,
    those of other traces among them, by one function more than a single one.
    """
    return [frame for frame in stack.splitlines() if "__traceiter_" not in frame][:2]


def test_a_capture_prints_what_the_script_printed(busy: int, tmp_path: Path) -> None:
    capture = str(tmp_path / "x.pcapng")
    live = run(*KWIRE, "-q", "-w", capture, "-e", KEPT, str(busy))
    assert re.search(r"^@two\[\n +getppid\+\d+\n +inner\+\d+\n +outer\+\d+\n, busy]: \d+$", live, re.M)
    assert re.search(r"^@ids\[\n[0-9a-f]{40} 0x[0-9a-f]+\n]: 1$", live, re.M)
    assert re.search(r"^@held: \n\t[0-9a-f]+ getppid\+\d+ \(/.*libc.*\)\n\t[0-9a-f]+ inner", live, re.M)
    assert run(*KWIRE, "show", capture) == live
    assert "complete" in run(*KWIRE, "verify", capture)
    rows = run(*KWIRE, "query", capture, "select distinct symbol from stacks where level = 2")
    assert "outer" in rows
    rows = run(*KWIRE, "query", capture, "select key1 from two")
    assert "outer;inner;getppid" in rows
    part = str(tmp_path / "part.pcapng")
    run(*KWIRE, "cut", "--from", "+0.000001s", capture, "-w", part)
    assert "getppid" in run(*KWIRE, "show", part)
