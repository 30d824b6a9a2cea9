"""The systemd units: systemd reads them, their commands are ours, and they keep what they promise."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kwire.cli import services
from kwire.cli.configuration import options, parse
from kwire.cli.main import parser_of
from kwire.cli.services import AGENT, COLLECT, SHIPPED
from kwire.errors import KwireError
from kwire.kernel.privileges import NUMBERS

UNITS = sorted(SHIPPED.glob("*.service"))
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


@pytest.mark.parametrize("name", ["kwire-agent.service", "kwire-collect.service"])
def test_its_command_is_one_of_ours(name: str, tmp_path: Path) -> None:
    """With the configuration file that is shipped beside it."""
    found = settings(next(path for path in UNITS if path.name == name))
    verb, *words = found["ExecStart"][0].removeprefix("kwire ").split()
    module = importlib.import_module(f"kwire.cli.{verb}")
    place = words[words.index("--config") + 1]
    assert place == f"/etc/kwire/{module.CONFIGURATION}"
    assert found["ConditionPathExists"] == [place]
    words[words.index(place)] = str(SHIPPED / module.CONFIGURATION)
    args = parse(parser_of(verb, module), words, module.CONFIGURATION)
    assert args.to == "tls:collector.example" if verb == "agent" else args.listen == ["tls:"]


def test_what_is_commented_out_in_the_examples_would_do() -> None:
    for verb in ("agent", "collect"):
        module = importlib.import_module(f"kwire.cli.{verb}")
        known = options(parser_of(verb, module))
        lines = (SHIPPED / module.CONFIGURATION).read_text().splitlines()
        keys = {line.lstrip("# ").split(" = ")[0] for line in lines if " = " in line}
        assert keys <= known.keys()


def installed(verb: str, root: Path) -> str:
    command = [sys.executable, "-m", "kwire.cli.main", verb, "--install", str(root)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("verb", ["agent", "collect"])
def test_it_is_installed(verb: str, tmp_path: Path) -> None:
    service = {"agent": AGENT, "collect": COLLECT}[verb]
    told = installed(verb, tmp_path)
    unit = tmp_path / "etc" / "systemd" / "system" / service.unit
    command = settings(unit)["ExecStart"][0].split()[0]
    assert os.access(command, os.X_OK)
    assert f"{unit}: runs {command} {verb}" in told
    configuration = tmp_path / "etc" / "kwire" / service.configuration
    assert configuration.read_text() == (SHIPPED / service.configuration).read_text()
    configuration.write_text("# mine\n")
    assert "left as it is" in installed(verb, tmp_path)
    assert configuration.read_text() == "# mine\n"
    if shutil.which("systemd-analyze"):
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_paths_that_units_write_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "a b%h ü" / "kwire"
    command.parent.mkdir()
    command.symlink_to(sys.executable)
    monkeypatch.setattr(services, "own_command", lambda: str(command))
    services.install(AGENT, str(tmp_path))
    unit = tmp_path / "etc/systemd/system" / AGENT.unit
    written = str(command).replace("%", "%%")
    assert settings(unit)["ExecStart"] == [f'"{written}" agent --config /etc/kwire/agent.toml']
    if shutil.which("systemd-analyze"):
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", ['a"b', "a'b", "a\\b", "a$b", "a\nb", "a\udcff"])
def test_a_path_that_no_unit_can_name_is_refused(name: str) -> None:
    with pytest.raises(KwireError, match="a unit cannot name that path"):
        services.in_unit(f"/opt/{name}/kwire")


def test_nothing_is_left_of_a_unit_that_cannot_be_put_there(tmp_path: Path) -> None:
    unit = tmp_path / "etc/systemd/system" / AGENT.unit
    unit.mkdir(parents=True)
    with pytest.raises(KwireError, match="is a directory"):
        services.install(AGENT, str(tmp_path))
    assert os.listdir(unit.parent) == [AGENT.unit]


def test_where_it_may_not_be_written_one_line_says_so(tmp_path: Path) -> None:
    (tmp_path / "etc").write_text("no folder")
    command = [sys.executable, "-m", "kwire.cli.main", "agent", "--install", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "be root, or name a ROOT" in done.stderr


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
