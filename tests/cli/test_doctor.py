"""`kwire doctor`, as root and as nobody: one line each, JSON that says the same, an exit status that can
be used.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import partial

import pytest

from kwire.cli import doctor
from kwire.kernel import environment, features
from kwire.kernel import sys as sys_
from kwire.kernel.features import FEATURES
from kwire.kernel.probes import Answer

NOBODY = 65534


def doctor_run(*arguments: str) -> tuple[int, str]:
    parser = argparse.ArgumentParser()
    doctor.configure(parser)
    output = io.StringIO()
    with redirect_stdout(output):
        status = doctor.run(parser.parse_args(arguments))
    return status, output.getvalue()


def as_nobody(action: Callable[[], tuple[int, str]]) -> tuple[int, str]:
    """What an action gives in a child process without privileges; a traceback there is the text here."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        status, output = 99, io.StringIO()
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            with redirect_stderr(output):
                status, text = action()
            output.write(text)
        except BaseException:
            import traceback

            output.write(traceback.format_exc())
        os.write(write, output.getvalue().encode())
        os._exit(status)
    os.close(write)
    with open(read) as file:
        text = file.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_known", {})


@pytest.mark.live
def test_one_line_each() -> None:
    status, text = doctor_run()
    head, *lines, last = text.splitlines()
    assert status == 0
    assert os.uname().release in head
    assert [line.split()[1] for line in lines] == list(FEATURES)
    assert {line.split()[0] for line in lines} <= {"yes", "no", "?"}
    assert last.startswith("tracing works here: ")
    assert "tracepoint" in last


@pytest.mark.live
def test_json_says_the_same() -> None:
    status, text = doctor_run("--json")
    told = json.loads(text)
    assert status == 0
    assert told["ok"] is True
    assert os.uname().release in told["kernel"]
    assert [check["name"] for check in told["checks"]] == list(FEATURES)
    for check in told["checks"]:
        assert check.keys() == {"name", "answer", "reason", "cure"}
        assert check["answer"] in ("yes", "no", "unknown")


@pytest.mark.live
def test_nobody_gets_reasons_not_a_traceback() -> None:
    doctor_run()  # imports everything that it needs while it may
    features._known.clear()
    status, text = as_nobody(doctor_run)
    assert status == 1
    assert "Traceback" not in text
    lines = dict(line.split(None, 2)[1::-1] for line in text.splitlines()[1:-1])
    assert lines["privileges"] == "no"
    assert lines["map_array"] == lines["tracepoint"] == "?"
    assert text.splitlines()[-1].startswith(f"tracing does not work here: user {NOBODY} without CAP_BPF")
    all_three = "run as root, or with CAP_BPF and CAP_PERFMON and CAP_DAC_READ_SEARCH"
    told = {line.split()[1]: line for line in text.splitlines()[1:-1]}
    for line in (told["tracefs"], told["tracepoint"], text.splitlines()[-1]):
        assert line.endswith(all_three), "as record says"
    assert told["rawtracepoint"].endswith("with CAP_BPF and CAP_PERFMON")


@pytest.mark.live
@pytest.mark.kernels("6.1")
def test_nobody_gets_json_too() -> None:
    doctor_run("--json")
    features._known.clear()
    status, text = as_nobody(lambda: doctor_run("--json"))
    assert status == 1
    assert json.loads(text)["ok"] is False


def test_where_nothing_can_be_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, feature in FEATURES.items():
        found = Answer("yes") if name in features.BASE else Answer("no", "not here", "move")
        monkeypatch.setitem(FEATURES, name, feature._replace(probe=partial(Answer, *found)))
    status, text = doctor_run()
    assert status == 1
    assert text.splitlines()[-1] == "tracing does not work here: not here; move"
    assert "→ move" in text


def test_where_the_number_of_cpus_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without sysfs nothing can be recorded, whatever else works."""
    for name, feature in FEATURES.items():
        monkeypatch.setitem(FEATURES, name, feature._replace(probe=partial(Answer, "yes")))
    features._known.clear()
    monkeypatch.setitem(FEATURES, "cpus", FEATURES["cpus"]._replace(probe=environment.cpus))

    def missing(path: str) -> None:
        raise FileNotFoundError(path)

    monkeypatch.setattr(sys_, "open", missing, raising=False)
    status, text = doctor_run()
    features._known.clear()
    assert status == 1
    assert text.splitlines()[-1].startswith("tracing does not work here: /sys/devices/system/cpu/possible: ")
    assert "mount sysfs" in text.splitlines()[-1]


@pytest.mark.live
@pytest.mark.native  # in guests it is asked in their process, above
def test_the_command_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kwire.cli.main", "doctor", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ok"] is True
    assert done.stderr == ""
