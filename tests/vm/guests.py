"""A pytest plugin: with --guests, every live test also runs in each guest, as an item of its own for each.

`tests/x.py::test_y` is joined by `tests/x.py::test_y[on 6.1]` and `[on 6.12]`. A guest runs pytest itself on
the same tests; that pytest writes one JSON line a test to the shared folder (`write_result`), and the item on
this side waits for its line. Guests start with the session, behind the host's own tests in priority, and
their items come last. A test that ran nowhere is noticed by tests/vm/test_guest.py.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from initramfs import GuestError
from kernels import PACKAGES, fetch
from run import SHARE_NAME, ending_with_parent, tools
from traces import SET_ASIDE

HERE = Path(__file__).parent
WANTED = "wanted-tests"
REPORT = "report.jsonl"
TIMEOUT = 3600
TEST_TIMEOUT = 240
RAN = pytest.StashKey[dict[str, set[str]]]()
GUESTS = pytest.StashKey[list["Guest"]]()


class Guest:
    """One guest's run of pytest: started in the background, asked for one test's outcome at a time."""

    def __init__(self, kernel: str) -> None:
        self.kernel = kernel
        self.tests: list[str] = []
        self.results: dict[str, dict[str, Any]] = {}
        self.refusal = ""
        self._read = 0
        self._explained = False

    def start(self) -> None:
        try:
            tools()
            fetch(self.kernel)
        except GuestError as error:
            self.refusal = str(error)
            return
        self._scratch = tempfile.TemporaryDirectory(prefix="kwire-guest-")
        self.share = Path(self._scratch.name)
        (self.share / WANTED).write_text("\n".join(self.tests))
        files = dict.fromkeys(test.partition("::")[0] for test in self.tests)
        command = ["nice", sys.executable, str(HERE / "run.py"), "--kernel", self.kernel]
        command += ["--share", str(self.share), "--timeout", str(TIMEOUT)]
        # Looking for plugins makes pytest's start three times as long.
        command += ["--env", "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1", "--"]
        command += [sys.executable, "-m", "pytest", "-q", "-p", "pytest_timeout", "-p", "no:cacheprovider"]
        command += [f"--timeout={TEST_TIMEOUT}", "--continue-on-collection-errors", *files]
        with (self.share / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=ending_with_parent(signal.SIGTERM),
            )
        SET_ASIDE.add(self._process.pid)

    def result(self, test: str) -> dict[str, Any]:
        """Waits for one test's outcome; a guest that ended without it is a failure with its log's end."""
        while True:
            ended = self._process.poll() is not None
            self._take_lines()
            if test in self.results:
                return self.results[test]
            if ended:
                text = f"guest {self.kernel} ended ({self._process.returncode}) without this test"
                if not self._explained:
                    self._explained = True
                    text += ":\n" + (self.share / "log").read_text(errors="replace")[-6000:]
                return {"outcome": "failed", "text": text, "brief": text.partition("\n")[0]}
            time.sleep(0.2)

    def _take_lines(self) -> None:
        report = self.share / REPORT
        data = report.read_bytes()[self._read :] if report.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            result = json.loads(line)
            self.results[result["test"]] = result

    def stop(self) -> None:
        if not self.refusal and hasattr(self, "_process"):
            self._process.terminate()
            self._process.wait()
            self._scratch.cleanup()


class Failure:
    """What a guest says of a failed test, as pytest prints it: `text`, and in its summary only `brief`."""

    def __init__(self, text: str, brief: str) -> None:
        self._text = text
        self.reprcrash = SimpleNamespace(message=brief)

    def toterminal(self, out: Any) -> None:
        out.line(self._text)


class GuestItem(pytest.Item):
    """One test in one guest."""

    guest: Guest
    test: str

    def runtest(self) -> None:
        if self.guest.refusal:
            pytest.skip(f"guest {self.guest.kernel}: {self.guest.refusal}")
        result = self.guest.result(self.test)
        if result["outcome"] == "skipped":
            pytest.skip(result["text"])
        self.config.stash[RAN].setdefault(self.test, set()).add(self.guest.kernel)
        if result["outcome"] != "passed":
            raise GuestError(result["text"], result["brief"])

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if excinfo.errisinstance(GuestError):
            return Failure(*excinfo.value.args)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, None, self.name


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--guests",
        nargs="?",
        const=",".join(PACKAGES),
        default="",
        metavar="KERNELS",
        help=f"also run the live tests in guests with these kernels (default: {','.join(PACKAGES)})",
    )


def pytest_configure(config: pytest.Config) -> None:
    names = [name for name in config.getoption("guests").split(",") if name]
    for name in names:
        if name not in PACKAGES:
            raise pytest.UsageError(f"--guests: no kernel {name!r}: choose of {', '.join(PACKAGES)}")
    config.stash[RAN] = {}
    config.stash[GUESTS] = [Guest(name) for name in names]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Joins each live test's guest items to the selection, and puts what judges the whole run last.

    In a guest that is asked for certain tests, it leaves only those.
    """
    if (wanted := Path(os.environ.get(SHARE_NAME, ""), WANTED)).is_file():
        names = set(wanted.read_text().split("\n"))
        items[:] = [item for item in items if item.nodeid in names]
        return
    last = [item for item in items if item.get_closest_marker("last")]
    own = [item for item in items if not item.get_closest_marker("last")]
    tests = [
        item for item in own if item.get_closest_marker("live") and not item.get_closest_marker("native")
    ]
    joined: list[pytest.Item] = []
    for guest in session.config.stash[GUESTS]:
        for test in tests:
            chosen = test.get_closest_marker("kernels")
            if chosen is not None and guest.kernel not in chosen.args:
                continue
            assert test.parent is not None
            guest.tests.append(test.nodeid)
            name = f"{test.name}[on {guest.kernel}]"
            item = GuestItem.from_parent(test.parent, name=name, nodeid=f"{test.nodeid}[on {guest.kernel}]")
            item.guest, item.test = guest, test.nodeid
            item.add_marker(pytest.mark.timeout(TIMEOUT))
            joined.append(item)
    items[:] = own + joined + last


def pytest_collection_finish(session: pytest.Session) -> None:
    if not session.config.getoption("collectonly"):
        for guest in session.config.stash[GUESTS]:
            if guest.tests:
                guest.start()


def pytest_unconfigure(config: pytest.Config) -> None:
    for guest in config.stash.get(GUESTS, []):
        guest.stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Notes which tests ran here, and in a guest hands each outcome to the other side."""
    report = yield
    if isinstance(item, GuestItem):
        return report
    if call.when == "call" and report.outcome != "skipped":
        item.config.stash[RAN].setdefault(item.nodeid, set()).add("here")
    outcomes = item.stash.setdefault(OUTCOMES, [])
    outcomes.append(report)
    if SHARE_NAME in os.environ and call.when == "teardown":
        write_result(item.nodeid, outcomes)
    return report


OUTCOMES = pytest.StashKey[list[pytest.TestReport]]()


def write_result(test: str, reports: list[pytest.TestReport]) -> None:
    """One line for the three phases of one test: failed when any failed, skipped when any was."""
    worst = next((r for kind in ("failed", "skipped") for r in reports if r.outcome == kind), None)
    text = brief = ""
    if worst is not None:
        reason = worst.longrepr
        text = reason[2].removeprefix("Skipped: ") if isinstance(reason, tuple) else worst.longreprtext
        text += "".join(f"\n--- {name} ---\n{content}" for name, content in worst.sections)
        brief = getattr(getattr(reason, "reprcrash", None), "message", text).partition("\n")[0]
    line = {"test": test, "outcome": worst.outcome if worst else "passed", "text": text, "brief": brief}
    with Path(os.environ[SHARE_NAME], REPORT).open("a") as report:
        report.write(json.dumps(line) + "\n")
