"""Agents and collectors under faults drawn by seed: nothing is lost that is not counted, nobody dies."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = Path(__file__).parents[1] / "faults" / "faults.py"


SCENARIOS = int(os.environ.get("KWIRE_FAULTS", "300"))


@pytest.mark.native
@pytest.mark.timeout(0)  # as long as it takes: a scenario that hangs is found by its own patience
def test_scenarios() -> None:
    command = [sys.executable, str(FAULTS), "--first", "1", "--count", str(SCENARIOS), "--jobs", "8"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


# What a product may do wrong, as code put into its processes → what the judge says then.
WRONG = {
    "acknowledges what is not stored": (
        "from kwire.stream.store import Store\n"
        "take = Store.take\n"
        "def lossy(self, lane, sequence, payload):\n"
        "    if sequence % 5 == 4 and payload[0] & 15 == 1:\n"
        "        lane.next = (sequence + 1) % (1 << 32)\n"
        "        self._dirty = True\n"
        "    else:\n"
        "        take(self, lane, sequence, payload)\n"
        "Store.take = lossy\n",
        "produced",
    ),
    "stores twice": (
        "from kwire.stream.store import Store\n"
        "take = Store.take\n"
        "def twice(self, lane, sequence, payload):\n"
        "    take(self, lane, sequence, payload)\n"
        "    if payload[0] & 15 == 1:\n"
        "        take(self, lane, sequence, payload)\n"
        "Store.take = twice\n",
        "more than once",
    ),
    "summary is wrong": (
        "from kwire.stream.tally import Tally\n"
        "summary = Tally.summary\n"
        "Tally.summary = lambda self: summary(self) | {'events': 1}\n",
        "says 1 events",
    ),
    "dies": (
        "from kwire.stream.collector import Collector\n"
        "import os\n"
        "Collector.delivered = lambda *_: os._exit(9)\n",
        "died",
    ),
    "keeps descriptors": (
        "from kwire.stream.collector import Collector\n"
        "import os\n"
        "before = Collector.delivered\n"
        "def leaks(self, *arguments):\n"
        "    os.dup(2)\n"
        "    before(self, *arguments)\n"
        "Collector.delivered = leaks\n",
        "descriptors",
    ),
}


@pytest.mark.native
@pytest.mark.parametrize("what", WRONG)
def test_the_judge_finds_what_is_wrong(what: str) -> None:
    code, said = WRONG[what]
    command = [sys.executable, str(FAULTS), "--first", "1", "--count", "3", "--jobs", "3", "--calm"]
    environment = {**os.environ, "KWIRE_FAULT_PATCH": code}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 1
    assert said in done.stdout
    assert "3 wrong" in done.stdout
