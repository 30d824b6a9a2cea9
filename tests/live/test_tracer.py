"""What a tracer counts of programs that several probes share."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from waiting import PATIENCE

KWIRE = [sys.executable, "-m", "kwire"]
CALLS = 100
LOOP = f"import os, time\nfor _ in range({CALLS}): os.getppid(); time.sleep(0.01)"
CALL = "tracepoint:syscalls:sys_enter_getppid"
WAKING = [f"tracepoint:irq_vectors:irq_work_{end}" for end in ("entry", "exit")]


@pytest.mark.needs("tracepoint", "missed")
def test_firings_missed_by_a_program_that_probes_share_are_told_with_probes_and_time(tmp_path: Path) -> None:
    """An event that finds its ring empty, as the first one does, wakes the reader by an interrupt of its own
    CPU, which comes while its program still runs; and the kernel runs no program of a tracepoint inside of
    another. Of those in one interrupt, or in none, it counts nothing: they end before they come to that.
    """
    file, began = tmp_path / "nested.pcapng", time.time_ns()
    specs = [CALL, CALL.replace("enter", "exit"), "tracepoint:irq_vectors:irq_work_*"]
    record = ["record", *specs, "-w", str(file), "--json", "--", sys.executable, "-c", LOOP]
    told = subprocess.run([*KWIRE, *record], capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert told.returncode == 3, told.stderr  # events were lost
    summary = json.loads(told.stdout)
    run = subprocess.run([*KWIRE, "verify", "--json", str(file)], capture_output=True, text=True, check=False)
    assert run.returncode == 3, run.stderr
    [report] = json.loads(run.stdout)["files"]
    assert report["problems"] == []
    lost = report["lost"]
    assert lost == summary["lost"] == sum(hole["count"] for hole in report["holes"])
    assert lost > 0
    for hole in report["holes"]:
        assert set(WAKING) <= {hole["probe"], *hole["probes"]}
        assert began <= hole["first"] <= hole["last"] <= time.time_ns()
    for account in report["probes"]:
        assert account["number"] or account["lost"] == lost  # of one probe, or of the program that they share
        assert account["number"] or set(WAKING) <= set(account["probes"])
    stored = {account["probe"]: account["stored"] for account in report["probes"] if account["number"]}
    assert stored[CALL] == CALLS


@pytest.mark.needs("tracepoint", "kprobe", "missed")
def test_each_firing_inside_of_a_program_is_counted_once(tmp_path: Path) -> None:
    """The program of a system call's tracepoint copies a text, and the function that copies it is probed."""
    file = tmp_path / "inside.pcapng"
    call = "tracepoint:syscalls:sys_enter_chdir"
    copy = "kprobe:strncpy_from_user_nofault"
    # With its exit the call is traced by the ordinary tracepoint, inside of which the kernel runs no other.
    specs = [f"{call}(str(filename))", call.replace("enter", "exit"), copy]
    loop = f"import os\nfor _ in range({CALLS}): os.chdir('/')"
    record = ["record", *specs, "-w", str(file), "--json", "--", sys.executable, "-c", loop]
    told = subprocess.run([*KWIRE, *record], capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert told.returncode == 3, told.stderr
    assert json.loads(told.stdout)["lost"] == CALLS
    run = subprocess.run([*KWIRE, "verify", "--json", str(file)], capture_output=True, text=True, check=False)
    assert run.returncode == 3, run.stderr
    [report] = json.loads(run.stdout)["files"]
    assert (report["problems"], report["lost"]) == ([], CALLS)
    assert [(hole["probe"], hole["count"]) for hole in report["holes"]] == [(copy, CALLS)]
    stored = {account["probe"]: account["stored"] for account in report["probes"] if account["number"]}
    assert stored[call] == CALLS
