"""What a tracer counts of programs that several probes share."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

KWIRE = [sys.executable, "-m", "kwire"]

pytestmark = pytest.mark.live


def named(account: dict[str, Any]) -> None:
    """An account is of one probe, or names all the probes that it can be of."""
    for probe in account["probes"] or [account["probe"]]:
        assert probe.startswith("tracepoint:timer:")


@pytest.mark.guest
def test_firings_missed_by_a_program_that_probes_share_are_told_with_probes_and_time(tmp_path: Path) -> None:
    """The timers of a whole machine nest: the kernel refuses to run a program inside of itself."""
    file, began = tmp_path / "timers.pcapng", time.time_ns()
    record = ["record", "tracepoint:timer:*", "-d", "2", "-w", str(file), "--json", "--buffer", "16M"]
    assert subprocess.run([*KWIRE, *record], capture_output=True, timeout=200).returncode == 0
    run = subprocess.run([*KWIRE, "verify", "--json", str(file)], capture_output=True, text=True, check=False)
    assert run.returncode in (0, 3), run.stderr
    [report] = json.loads(run.stdout)["files"]
    assert report["problems"] == []
    assert sum(balance["stored"] for balance in report["probes"]) > 0
    for account in report["probes"] + report["holes"]:
        named(account)
    for hole in report["holes"]:
        assert began <= hole["first"] <= hole["last"] <= time.time_ns()
