"""The live tests of one guest, run to their end; the program that a session starts for each guest.

    python tests/vm/guest_tests.py 6.12 SHARE

The shared folder names the wanted tests, one a line, and gets the report, one JSON line for each event of a
test (`lines_of`). A guest whose kernel dies or hangs is booted again for the tests that have not ended, for
emulation has deaths of its own (run.py). A test at which it dies twice has failed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from initramfs import GuestError
from kernels import fetch
from run import TIMED_OUT, GuestDeathError, Progress, run

WANTED = "wanted-tests"
REPORT = "report.jsonl"
TIMEOUT = 3600
TEST_TIMEOUT = 900  # of one that hangs: a quiet guest needs 45 s for the longest, a busy one ten times that
STUCK = 400  # seconds of processor time that a test may take, before the guest counts as hanging
FOLDERS = "/tmp/kwire-guest"  # in the guest: where its tests have their folders
DEATHS = 5  # of a guest's kernel, after which the rest of the tests is given up


def lines_of(share: Path, start: int = 0) -> tuple[int, list[dict[str, Any]]]:
    """The whole lines of a guest's report behind its byte `start`, and where they end.

    Each has a `test`: with `outcome`, `text`, `brief` and `seconds` once it has ended; with `begun` before
    that; with `died`, the end of the kernel's log, where the guest was booted again.
    """
    report = share / REPORT
    data = report.read_bytes()[start:] if report.exists() else b""
    whole = data[: data.rfind(b"\n") + 1]
    return start + len(whole), [json.loads(line) for line in whole.splitlines()]


def write_line(share: Path, line: dict[str, Any]) -> None:
    with (share / REPORT).open("a") as report:
        report.write(json.dumps(line) + "\n")


def run_tests(name: str, share: Path) -> None:
    """Run the wanted tests in guests of this kernel until each has ended, or no more guest can be had."""
    wanted = (share / WANTED).read_text().split("\n")
    files = dict.fromkeys(test.partition("::")[0] for test in wanted)
    # Looking for plugins makes pytest's start three times as long.
    environment = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "pytest_timeout", "-p", "no:cacheprovider"]
    command += [f"--timeout={TEST_TIMEOUT}", "--continue-on-collection-errors"]
    command += [f"--basetemp={FOLDERS}"]  # a number that is free here may be taken outside meanwhile
    progress = Progress(share / REPORT, busy=STUCK, idle=TEST_TIMEOUT + 100)
    deaths: set[str] = set()
    deadline = time.monotonic() + TIMEOUT
    while True:
        _, lines = lines_of(share)
        ended = {line["test"] for line in lines if "outcome" in line}
        (share / WANTED).write_text("\n".join(test for test in wanted if test not in ended))
        try:
            status = run(
                fetch(name),
                [*command, *files],
                share=share,
                environment=environment,
                timeout=deadline - time.monotonic(),
                progress=progress,
            )
        except GuestDeathError as error:
            size, lines = lines_of(share)
            if not lines or len(deaths) == DEATHS or "begun" not in lines[-1]:
                raise
            os.truncate(share / REPORT, size)  # it may have died within a line
            test, text = lines[-1]["test"], str(error)
            if test in deaths:
                brief = f"the kernel of guest {name} dies at this test"
                line = {"test": test, "outcome": "failed", "text": text, "brief": brief, "seconds": 0}
            else:
                line = {"test": test, "died": text}
            deaths.add(test)
            write_line(share, line)
        else:
            if status == TIMED_OUT:
                raise GuestError(f"guest {name} has not ended after {TIMEOUT} s")
            return


def main(arguments: list[str]) -> int:
    """Exit status 1: no guest could be started, or its kernel died too often."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that all is cleared away
    try:
        run_tests(arguments[0], Path(arguments[1]))
    except GuestError as error:
        print(f"guest_tests.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
