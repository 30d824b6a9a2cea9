"""Many seeded scenarios of `simulation.py`, on two processors; KWIRE_SCENARIOS says how many (10,000).

The first seed that failed is told with the command that shows it frame by frame.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("simulation.py")
SCENARIOS = int(os.environ.get("KWIRE_SCENARIOS", "10000"))
WORKERS = 2
AMPLE = {  # what so many scenarios must have seen, at least once in this many
    "Delivered": 1,
    "Abandoned": 20,
    "death": 5,
    "Requested": 10,
    "Replied": 10,
    "lost": 5,
    "resent": 5,
    "fast": 200,
}


@pytest.mark.first
@pytest.mark.native
@pytest.mark.timeout(1800)
def test_scenarios(transitions_taken: Counter[str]) -> None:
    share = SCENARIOS // WORKERS
    command = [sys.executable, str(PROGRAM), "--count", str(share), "--first"]
    workers = [
        subprocess.Popen([*command, str(worker * share)], stdout=subprocess.PIPE, text=True)
        for worker in range(WORKERS)
    ]
    answers = [json.loads(worker.communicate()[0]) for worker in workers]
    failures = [failure for answer in answers for failure in answer["first"]]
    assert not failures, f"{failures[0][1]}: python {PROGRAM} --first {failures[0][0]} --trace"
    assert sum(answer["scenarios"] for answer in answers) == share * WORKERS
    happened: Counter[str] = Counter()
    for answer in answers:
        happened.update(answer["happened"])
        transitions_taken.update(answer["steps"])
    missing = {name: happened[name] for name, rate in AMPLE.items() if happened[name] * rate < share}
    assert not missing, "the scenarios have become too tame"
