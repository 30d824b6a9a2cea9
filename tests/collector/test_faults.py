"""Agents and collectors under faults drawn by seed: nothing is lost that is not counted, nobody dies."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = Path(__file__).parents[1] / "faults" / "faults.py"


SCENARIOS = int(os.environ.get("KWIRE_FAULTS", "100"))


@pytest.mark.first
@pytest.mark.native
@pytest.mark.timeout(0)  # as long as it takes: a scenario that hangs is found by its own patience
def test_scenarios() -> None:
    command = [sys.executable, str(FAULTS), "--first", "1", "--count", str(SCENARIOS), "--jobs", "8"]
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stdout[-1000:])
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert f"{SCENARIOS} scenarios" in done.stdout
    for kind in KINDS:
        assert f" {kind}" in done.stdout  # played, or named with what keeps it from being played


# What a product may do wrong, as code put into its processes → what the judge says then.
WRONG = {
    "acknowledges what is not stored": (
        "from kwire.collector.store import Store\n"
        "take = Store.take\n"
        "def lossy(self, stored_session, sequence, payload):\n"
        "    if sequence % 5 == 4 and payload[0] & 15 == 1:\n"
        "        stored_session.next = (sequence + 1) % (1 << 32)\n"
        "        self._touched[stored_session] = None\n"
        "    else:\n"
        "        take(self, stored_session, sequence, payload)\n"
        "Store.take = lossy\n",
        "produced",
    ),
    "stores twice": (
        "from kwire.collector.store import Store\n"
        "take = Store.take\n"
        "def twice(self, stored_session, sequence, payload):\n"
        "    take(self, stored_session, sequence, payload)\n"
        "    if payload[0] & 15 == 1:\n"
        "        take(self, stored_session, sequence, payload)\n"
        "Store.take = twice\n",
        "more than once",
    ),
    "summary is wrong": (
        "from kwire.collector.session_statistics import SessionStatistics\n"
        "summary = SessionStatistics.summary\n"
        "SessionStatistics.summary = lambda self: summary(self) | {'events': 1}\n",
        "says 1 events",
    ),
    "dies": (
        "from kwire.collector.collector import Collector\n"
        "import os\n"
        "Collector.delivered = lambda *_: os._exit(9)\n",
        "died",
    ),
    "keeps descriptors": (
        "from kwire.collector.collector import Collector\n"
        "import os\n"
        "before = Collector.delivered\n"
        "def leaks(self, *arguments):\n"
        "    os.dup(2)\n"
        "    before(self, *arguments)\n"
        "Collector.delivered = leaks\n",
        "descriptors",
    ),
    "an agent that grows": (
        "import sys\nsys.kept = bytearray(b'x') * (200 << 20)\n",
        "more memory than",
    ),
}


KINDS = ("mounts", "link", "kernel")
FOUND = [(what, "") for what in WRONG] + [("acknowledges what is not stored", kind) for kind in KINDS]


@pytest.mark.native
@pytest.mark.parametrize(("what", "world"), FOUND)
def test_the_judge_finds_what_is_wrong(what: str, world: str) -> None:
    code, said = WRONG[what]
    command = [sys.executable, str(FAULTS), "--first", "1", "--count", "3", "--jobs", "3", "--calm"]
    command += ["--only", world] if world else []
    environment = {**os.environ, f"KWIRE_FAULT{'_AGENT' if 'agent' in what else ''}_PATCH": code}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    if world and f"no worlds with {world}" in done.stdout:
        pytest.skip(
            next(line for line in done.stdout.splitlines() if line.startswith(f"no worlds with {world}"))
        )
    assert done.returncode == 1
    assert said in done.stdout
    assert "3 wrong" in done.stdout


HEAD = """
import json, os, random, sys
from pathlib import Path
import fault_world
from kwire.transport import certs
base = Path(sys.argv[1])
"""

REFUSED = (
    HEAD
    + """
for name in ("ours", "theirs", "world"):
    (base / name).mkdir()
certs.make_certs(str(base / "ours"))
certs.make_certs(str(base / "theirs"))
os.environ["KWIRE_FAULT_CERTS"] = str(base / "ours")
world = fault_world.World(base / "world", random.Random(1), fault_world.Kinds("tls"))
world.collect()
os.environ["KWIRE_FAULT_CERTS"] = str(base / "theirs")
agent = world.agent("--grace", "200ms", seconds=0.3)
print(agent.wait(), agent.said)
world.stop_collector()
print(world.collector.said)
world.close()
"""
)


FAILING = (
    HEAD
    + """
(base / "world").mkdir()
os.environ["KWIRE_FAULT_AGENT_PATCH"] = '''
from kwire.wire.session import Session
receive, calls = Session.receive, [0]
def fails(self, *arguments):
    calls[0] += 1
    if calls[0] == 9:
        raise RuntimeError("a bug")
    return receive(self, *arguments)
Session.receive = fails
'''
world = fault_world.World(base / "world", random.Random(1))
world.collect()
agent = world.agent(seconds=0.4)
agent.wait()
world.stop_collector()
told = agent.told.summary
whole = told["events"] + told["lost"] == world.agents[0][1].total and told["acknowledged"] == told["events"]
print(agent.status, whole, told["sessions"], agent.said)
world.close()
"""
)


def played(script: str, folder: Path) -> str:
    """What a script prints in which the harness can be used."""
    disk = folder / "disk.so"
    compile = ["gcc", "-shared", "-fPIC", "-o", str(disk), str(FAULTS.parent / "disk.c"), "-ldl"]
    subprocess.run(compile, check=True)
    environment = {**os.environ, "PYTHONPATH": str(FAULTS.parent), "LD_PRELOAD": str(disk)}
    command = [sys.executable, "-c", script, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.native
def test_an_agent_whose_certificate_is_refused_ends_with_its_recording(tmp_path: Path) -> None:
    said = played(REFUSED, tmp_path)
    assert said.startswith("3 "), said
    assert "certificate" in said
    assert "are not acknowledged" in said
    assert "gets no session: the other side does not know the CA" in said


@pytest.mark.native
def test_a_failure_at_an_agents_session_does_not_end_its_recording(tmp_path: Path) -> None:
    said = played(FAILING, tmp_path)
    assert "failed: RuntimeError: a bug" in said
    assert "a new session begins" in said
    assert said.startswith(("1 True 2", "3 True 2")), said
