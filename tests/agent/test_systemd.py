"""The systemd units: systemd reads them, their commands are ours, and they keep what they promise."""

from __future__ import annotations

import argparse
import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kwire.kernel.privileges import NUMBERS

UNITS = sorted((Path(__file__).resolve().parents[2] / "systemd").glob("*.service"))
NAMES = [unit.name for unit in UNITS]


def settings(unit: Path) -> dict[str, list[str]]:
    """The values of each setting, in order."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def test_there_are_two() -> None:
    assert NAMES == ["kwire-agent.service", "kwire-collect.service"]


@pytest.mark.parametrize("unit", UNITS, ids=NAMES)
def test_systemd_understands_it(unit: Path, tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    copy = tmp_path / unit.name  # with a command that is there
    copy.write_text(unit.read_text().replace("ExecStart=kwire", f"ExecStart={sys.executable}"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("unit", "arguments"),
    [
        ("kwire-collect.service", None),
        (
            "kwire-agent.service",
            "--to tls:collector.example --spool /var/lib/kwire-agent tracepoint:sched:sched_process_exec",
        ),
        ("kwire-agent.service", "--listen tls: --policy /etc/kwire/policy.toml"),
    ],
)
def test_its_command_is_one_of_ours(unit: str, arguments: str | None) -> None:
    """As the unit has it, or with what its comments propose."""
    text = next(path for path in UNITS if path.name == unit)
    found = settings(text)
    if arguments is None:
        (assigned,) = [value for value in found["Environment"] if "KWIRE_COLLECT" in value]
        arguments = assigned.strip('"').partition("=")[2]
    else:
        assert arguments in text.read_text()
    verb, *words = found["ExecStart"][0].removeprefix("kwire ").split()
    assert words[-1].startswith("$KWIRE_")
    parser = argparse.ArgumentParser()
    importlib.import_module(f"kwire.cli.{verb}").configure(parser)
    parser.parse_args([*words[:-1], *arguments.split()])


def test_the_collector_needs_nothing() -> None:
    found = settings(next(unit for unit in UNITS if "collect" in unit.name))
    assert found["CapabilityBoundingSet"] == [""]
    assert found["AmbientCapabilities"] == [""]
    for name in ("DynamicUser", "NoNewPrivileges", "PrivateDevices", "MemoryDenyWriteExecute", "PrivateTmp"):
        assert found[name] == ["yes"], name
    assert found["ProtectSystem"] == ["strict"]
    assert "seccomp" in found["SystemCallFilter"][0].split()  # or its own filter could not be installed


def test_the_agent_has_what_it_needs_and_no_more() -> None:
    found = settings(next(unit for unit in UNITS if "agent" in unit.name))
    capabilities = " ".join(found["CapabilityBoundingSet"]).split()
    assert set(capabilities) <= set(NUMBERS)
    assert {"CAP_BPF", "CAP_PERFMON"} <= set(capabilities)
    assert not {"CAP_NET_ADMIN", "CAP_SYS_MODULE", "CAP_SYS_PTRACE", "CAP_SYS_RAWIO"} & set(capabilities)
    assert {"bpf", "perf_event_open"} <= set(" ".join(found["SystemCallFilter"]).split())
    assert found["NoNewPrivileges"] == ["yes"]
