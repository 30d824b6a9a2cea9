"""Exit statuses: one rule for all verbs, in one table, which README repeats."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kwire.cli import status
from kwire.cli.status import FAILED, NOT_WHOLE, OK, USAGE, of_command, worst

ROOT = Path(__file__).parents[2]
KWIRE = [sys.executable, "-m", "kwire"]
WRITES = "tracepoint:syscalls:sys_enter_write"


def test_the_table_is_that_of_the_readme_and_of_help() -> None:
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert {int(number): text for number, text in rows} == status.MEANINGS
    told = subprocess.run([*KWIRE, "--help"], capture_output=True, text=True).stdout
    assert all(f"  {number:<3}  {text}\n" in told for number, text in status.MEANINGS.items())
    assert "exit status: 0 " in subprocess.run([*KWIRE, "stats", "-h"], capture_output=True, text=True).stdout


def test_what_is_worse_goes_first() -> None:
    assert worst(OK, OK) == OK
    assert worst(FAILED, OK, NOT_WHOLE) == NOT_WHOLE
    assert worst(OK, FAILED) == FAILED
    assert worst(USAGE, NOT_WHOLE) == USAGE


@pytest.mark.parametrize(
    ("ended", "own", "wanted", "told"),
    [
        (None, OK, True, OK),
        (None, NOT_WHOLE, True, NOT_WHOLE),
        (0, OK, True, OK),
        (0, NOT_WHOLE, True, NOT_WHOLE),
        (7, NOT_WHOLE, True, 7),
        (-9, OK, True, 137),
        (7, OK, False, OK),
        (7, NOT_WHOLE, False, NOT_WHOLE),
    ],
)
def test_the_status_of_a_command(ended: int | None, own: int, wanted: bool, told: int) -> None:
    assert of_command(ended, own, wanted=wanted) == told


FULL = """
mount -t tmpfs -o size=400k tmpfs {folder} || exit 77
{kwire} record {probe} -w {folder}/r.pcapng {options} -- {command}
told=$?
{kwire} verify {folder}/r.pcapng >&2
echo "$told $?"
"""
MANY = "dd if=/dev/zero of=/dev/null bs=1 count=20000 status=none"


def on_a_full_disk(folder: Path, options: str = "", command: str = MANY) -> tuple[list[str], str]:
    """Record on a disk that has not enough room: what was printed, and told on standard error."""
    script = FULL.format(folder=folder, kwire=" ".join(KWIRE), probe=WRITES, options=options, command=command)
    run = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True)
    if run.returncode == 77 or "unshare" in run.stderr:
        pytest.skip("a file system cannot be mounted here")
    return run.stdout.splitlines(), run.stderr


@pytest.mark.live
@pytest.mark.native
def test_a_full_disk_is_said_at_once_and_is_a_status(tmp_path: Path) -> None:
    [statuses], err = on_a_full_disk(tmp_path)
    assert statuses == "3 3"
    full, sums = [line for line in err.splitlines() if "r.pcapng" in line][:2]
    assert full.startswith(f"kwire: {tmp_path}/r.pcapng: the disk is full")
    assert "lost (the receiver's disk was full), " in sums


@pytest.mark.live
@pytest.mark.native
def test_json_names_the_cause_and_a_commands_status_goes_first(tmp_path: Path) -> None:
    [summary, statuses], _ = on_a_full_disk(tmp_path, "--json", f"sh -c '{MANY}; exit 7'")
    told = json.loads(summary)
    assert statuses == "7 3"
    assert told["lost"] > 0
    assert told["causes"] == {"the receiver's disk was full": told["lost"]}
