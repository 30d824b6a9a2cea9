"""What the command line says to whom it cannot serve: one line, what to do, the right exit status."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import PATIENCE

KWIRE = [sys.executable, "-m", "kwire.cli.main"]


def kwire(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the command line; its output is text."""
    return subprocess.run([*KWIRE, *words], capture_output=True, text=True, timeout=PATIENCE)


def complaint(run: subprocess.CompletedProcess[str]) -> str:
    """The one line a failed run printed."""
    assert run.returncode == 1
    assert run.stdout == ""
    [line] = run.stderr.strip().splitlines()
    assert line.startswith("kwire: ")
    return line


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        ([], 2, "usage"),
        (["recrod"], 2, "did you mean 'record'"),
        (["record"], 2, "kwire record --help"),
        (["record", "tracepoint:sched:sched_switch"], 2, "-w"),
        (["record", "t:a:b", "-w", "x", "-n", "0"], 2, "at least 1"),
        (["record", "t:a:b", "-w", "x", "-d", "soon"], 2, "does not begin with a number"),
        (["record", "t:a:b", "-w", "x", "--buffer", "1Q"], 2, "is not a size"),
        (["record", "t:a:b", "-w", "x", "-p", "me"], 2, "is not a process id"),
    ],
)
def test_a_command_line_that_makes_no_sense(words: list[str], status: int, says: str) -> None:
    run = kwire(*words)
    assert run.returncode == status
    assert says in run.stderr + run.stdout
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("verb", ["record", "trace", "show", "verify", "list", "decode", "doctor"])
def test_every_verb_explains_itself(verb: str) -> None:
    run = kwire(verb, "--help")
    assert run.returncode == 0
    assert f"usage: kwire {verb}" in run.stdout


@pytest.mark.parametrize(
    ("probe", "says"),
    [
        ("tracepoint:sched:sched_swich", "sched:sched_switch"),
        ("tracepont:sched:sched_switch", "tracepoint"),
        ("tracepoint:sched", "category:name"),
        ("tracepoint:sched:sched_switch(nex_pid)", "next_pid"),
        ("tracepoint:sched:sched_switch(next_pid +)", "PROBE"),
        ("rawtracepoint:sched_swich", "sched_switch"),
    ],
)
@pytest.mark.live
@pytest.mark.native
def test_a_typo_in_a_probe_suggests_what_was_meant(probe: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "a.pcapng"
    assert says in complaint(kwire("record", probe, "-c", "true", "-w", str(file)))
    assert not file.exists()


@pytest.mark.live
@pytest.mark.native
def test_a_process_that_is_not_there(tmp_path: Path) -> None:
    line = complaint(
        kwire("record", "tracepoint:sched:sched_switch", "-p", "4194000", "-w", str(tmp_path / "a"))
    )
    assert "4194000: there is no such process" in line


@pytest.mark.live
@pytest.mark.native
def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    line = complaint(
        kwire("record", "tracepoint:sched:sched_switch", "-c", "nonesuch", "-w", str(tmp_path / "a"))
    )
    assert "'nonesuch': no such file or directory" in line


@pytest.mark.live
@pytest.mark.native
def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    line = complaint(
        kwire("record", "tracepoint:sched:sched_switch", "-c", "true", "-w", str(tmp_path / "no" / "a"))
    )
    assert "no such file or directory" in line.lower()


@pytest.mark.live
@pytest.mark.native
def test_a_user_without_privileges_is_told_what_is_missing(tmp_path: Path) -> None:
    words = ["record", "tracepoint:sched:sched_switch", "-d", "1", "-w", str(tmp_path / "a")]
    run = subprocess.run(
        ["setpriv", "--bounding-set=-all", *KWIRE, *words], capture_output=True, text=True, timeout=PATIENCE
    )
    line = complaint(run)
    assert "root" in line or "CAP_" in line


@pytest.mark.live
@pytest.mark.native
def test_what_a_wildcard_leaves_out_is_said(tmp_path: Path) -> None:
    run = kwire("record", "tracepoint:sched:sched_p*(filename)", "-c", "true", "-w", str(tmp_path / "a"))
    assert run.returncode == 0
    assert re.search(
        r"kwire: \d+ targets are left out, the first tracepoint:sched:\w+: .*filename", run.stderr
    )
