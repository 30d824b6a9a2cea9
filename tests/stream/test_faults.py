"""Agents and collectors under faults drawn by seed: nothing is lost that is not counted, nobody dies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = Path(__file__).parents[1] / "faults" / "faults.py"


@pytest.mark.native
def test_scenarios() -> None:
    command = [sys.executable, str(FAULTS), "--first", "1", "--count", "4", "--jobs", "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
