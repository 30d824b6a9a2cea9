"""Stacks of a process that is known, on every kernel: functions are found by name, in events and maps."""

# Names and annotations inside of probes are the probe language's, not Python's.
# ruff: noqa: F821
# mypy: ignore-errors

import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

import kwire
from kwire.cli.main import main
from kwire.live.stacks import RANGE

ME = os.getpid()

by_kernel = kwire.Count(by="stack")
by_both = kwire.Count(by=("stack", "u32"))
last = kwire.Hash(key="u32", value="stack")
shallow = kwire.Count(by="stack")


@kwire.tracepoint("syscalls:sys_enter_getpriority")
def probe(which: "u32") -> None:
    by_kernel.add(kstack())
    by_both.add(ustack(2), which)
    last[which] = ustack(1)
    i = 0
    while turns(200) and i < which + 100:  # more than the verifier walks: called turn by turn
        shallow.add(kstack(1))
        i += 1
    emit(
        kernel=kstack(10),
        user=ustack(),
        raw=ustack(3, "raw"),
        here=usym(0x1234),
        there=ksym(curtask.sched_class.enqueue_task + 4),
        nowhere=ksym(which & 256),
    )


@pytest.mark.live
def test_functions_are_found_by_name_in_events_and_maps() -> None:
    with kwire.trace(probe, pid=ME) as trace:
        for which in (0, 1, 0):
            os.getpriority(which, 0)
        events = list(islice(trace, 3))
        assert sum(by_kernel.values()) == 3  # while it runs
    first = events[0]
    assert first.user[0].symbol == "getpriority"
    assert "libc" in first.user[0].file
    assert [frame.address for frame in first.raw] == [frame.address for frame in first.user[:3]]
    assert [str(frame) for frame in first.here] == ["0x1234"]
    assert first.nowhere == 0
    [(kernel, number)] = by_kernel.items()
    assert (kernel[:10], number) == (first.kernel, 3)
    assert {which: n for (_, which), n in by_both.items()} == {0: 2, 1: 1}
    assert {stack[0].symbol for stack, _ in by_both} == {"getpriority"}
    assert last[1] == first.user[:1]
    assert sum(shallow.values()) == 3 * 100 + 1
    known = trace._recorder.tracer.stacks.known
    [address] = [number for number, _ in known if number >> 63]
    assert address == first.there
    assert [(frame.symbol, frame.offset) for frame in known.stack(address)] == [("enqueue_task_fair", 4)]
    assert len({number >> RANGE for number, _ in known if number != address}) == 1
    assert events[0].kernel == events[2].kernel


JIT = r"""
import ctypes, mmap, os, sys, time
memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
memory[:] = b"\xb8\x8c\x00\x00\x00\x0f\x05\xc3".ljust(4096, b"\x90")  # getpriority
at = ctypes.addressof(ctypes.c_char.from_buffer(memory))
for _ in range(3):
    ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_long, ctypes.c_long)(at)(0, 0)
while open(sys.argv[1]).read().count("looked") < 3:  # somebody has seen the stack, and so the process
    time.sleep(0.01)
with open(f"/tmp/perf-{os.getpid()}.map", "w") as file:
    file.write(f"{at:x} 8 compiled late\n")
"""


@pytest.mark.native
def test_code_is_named_that_its_compiler_told_of_when_it_ended(tmp_path, capsys) -> None:
    """In the map that is printed, and in the capture."""
    if os.uname().machine != "x86_64":
        pytest.skip("the code is for x86-64")
    (tmp_path / "jit.py").write_text(JIT)
    script = """tracepoint:syscalls:sys_enter_getpriority /pid == cpid/ {
        @[ustack(1)] = count(); @pid = pid; printf("looked\\n"); }"""
    output, capture = tmp_path / "printed", f"{tmp_path}/x.pcapng"
    command = f"{sys.executable} {tmp_path}/jit.py {output}"
    words = [sys.executable, "-m", "kwire", "-q", "-e", script, "-c", command, "-w", capture]
    with output.open("w") as file:
        subprocess.run(words, stdout=file, check=True)
    printed = output.read_text()
    try:
        assert "\n@[\n        compiled late+7\n]: 3\n" in printed
        assert main(["show", capture]) == 0
        assert capsys.readouterr().out == printed
    finally:
        [pid] = [line[6:] for line in printed.splitlines() if line.startswith("@pid: ")]
        Path(f"/tmp/perf-{pid}.map").unlink(missing_ok=True)
