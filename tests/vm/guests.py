"""A pytest plugin: with --guests, every live test also runs in each guest, as an item of its own for each.

`tests/x.py::test_y` is joined by `tests/x.py::test_y[on 6.1]` and `[on 6.12]`. A guest runs pytest itself on
the same tests; that pytest writes one JSON line a test to the shared folder (`write_result`), and the item on
this side waits for its line. Guests start with the session, behind the host's own tests in priority, and
their items come last. Where several processes run tests, the first one starts the guests, and each can wait
for a guest's outcomes. A test that ran nowhere is noticed by tests/vm/test_guest.py.

The tests of a guest whose kernel dies go on in another one (guest_tests.py), and the summary says so.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from guest_tests import TIMEOUT, WANTED, lines_of, write_line
from initramfs import GuestError
from kernels import PACKAGES, fetch
from parallel import is_first, is_worker, shared
from run import SHARE_NAME, ending_with_parent, tools
from traces import SET_ASIDE

HERE = Path(__file__).parent
DONE = "done"
RUNNING, REFUSAL = "running", "refusal"
GUESTS = pytest.StashKey[list["Guest"]]()


class Guest:
    """One guest's run of pytest: started in the background, asked for one test's outcome at a time.

    `share`: the folder that the guest writes for us.
    """

    def __init__(self, kernel: str, share: Path) -> None:
        self.kernel = kernel
        self.share = share
        self.tests: list[str] = []
        self.results: dict[str, dict[str, Any]] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._read = 0
        self._explained = False

    def start(self) -> None:
        self.share.mkdir()
        try:
            tools()
            fetch(self.kernel)
        except GuestError as error:
            (self.share / REFUSAL).write_text(str(error))
        else:
            self._boot()

    def _boot(self) -> None:
        (self.share / WANTED).write_text("\n".join(self.tests))
        command = ["nice", sys.executable, str(HERE / "guest_tests.py"), self.kernel, str(self.share)]
        with (self.share / "log").open("wb") as log, (self.share / RUNNING).open("wb") as running:
            fcntl.flock(running, fcntl.LOCK_EX)  # its runner's, as long as it lives
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[running.fileno()],
                preexec_fn=ending_with_parent(signal.SIGTERM),
            )
        SET_ASIDE.add(self._process.pid)

    @property
    def refusal(self) -> str:
        """Why no such guest can be started here; empty when it was."""
        path = self.share / REFUSAL
        return path.read_text() if path.exists() else ""

    def result(self, test: str) -> dict[str, Any]:
        """Waits for one test's outcome; a guest that ended without it is a failure with its log's end."""
        while True:
            ended = self._ended()
            self._take_lines()
            if test in self.results:
                return self.results[test]
            if ended:
                text = f"guest {self.kernel} ended without this test"
                if not self._explained:
                    self._explained = True
                    text += ":\n" + (self.share / "log").read_text(errors="replace")[-10_000:]
                return {"outcome": "failed", "text": text, "brief": text.partition("\n")[0]}
            time.sleep(0.2)

    def _ended(self) -> bool:
        """Whether its runner, which another process may have started, is no more."""
        try:
            with (self.share / RUNNING).open("rb") as running:
                fcntl.flock(running, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _take_lines(self) -> None:
        self._read, lines = lines_of(self.share, self._read)
        self.results.update((line["test"], line) for line in lines if "outcome" in line)

    def summary(self, durations: int) -> list[str]:
        """What people should know of the whole run: deaths of its kernel, and its slowest tests."""
        _, lines = lines_of(self.share)
        said = [
            f"its kernel died at {line['test']}, and it was booted again" for line in lines if "died" in line
        ]
        slowest = sorted((line for line in lines if "outcome" in line), key=lambda line: -line["seconds"])
        said += [f"{line['seconds']:8.2f} s  {line['test']}" for line in slowest[:durations]]
        return [f"guest {self.kernel}: {text}" for text in said]

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()


class Failure:
    """What a guest says of a failed test, as pytest prints it: `text`, and in its summary only `brief`.

    The process that hands out tests to others (`-n`) gets the text alone.
    """

    def __init__(self, text: str, brief: str) -> None:
        self._text = text
        self.reprcrash = SimpleNamespace(message=brief)

    def __str__(self) -> str:
        return self._text

    def toterminal(self, out: Any) -> None:
        out.line(self._text)


class GuestItem(pytest.Item):
    """One test in one guest."""

    guest: Guest
    test: str

    def runtest(self) -> None:
        if self.guest.refusal:
            note_done(self, ran=False)
            pytest.skip(f"guest {self.guest.kernel}: {self.guest.refusal}")
        result = self.guest.result(self.test)
        if result["outcome"] == "skipped":
            note_done(self, ran=False)
            pytest.skip(result["text"])
        note_done(self, ran=True)
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
    config.stash[GUESTS] = [Guest(name, shared(config) / f"guest-{name}") for name in names]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Joins each live test's guest items to the selection, and puts what judges the whole run last.

    In a guest that is asked for certain tests, it leaves only those.
    """
    if (wanted := Path(os.environ.get(SHARE_NAME, ""), WANTED)).is_file():
        names = set(wanted.read_text().split("\n"))
        items[:] = [item for item in items if item.nodeid in names]
        return
    first, last = ([item for item in items if item.get_closest_marker(name)] for name in ("first", "last"))
    own = [item for item in items if item not in first and item not in last]
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
            item.add_marker(pytest.mark.xdist_group("guests"))
            joined.append(item)
    items[:] = first + own + joined + last


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    if is_first(session.config) and not session.config.getoption("collectonly"):
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
    outcomes = item.stash.setdefault(OUTCOMES, [])
    outcomes.append(report)
    if call.when == "teardown":
        if SHARE_NAME in os.environ:
            write_result(item.nodeid, outcomes)
        elif item.get_closest_marker("live"):
            note_done(item, ran=all(report.outcome != "skipped" for report in outcomes))
    return report


def note_done(item: pytest.Item, *, ran: bool) -> None:
    """One line for a live test that has ended, here or in a guest: the test, and whether it ran."""
    test = item.test if isinstance(item, GuestItem) else item.nodeid
    with (shared(item.config) / DONE).open("a") as done:
        done.write(json.dumps([test, ran]) + "\n")


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(crashitem: str, report: pytest.TestReport, sched: Any) -> None:
    """A process that died at a test has left no line for it; it counts as run, for it has failed."""
    if crashitem in (sched.units or {}):
        with (shared(sched.config) / DONE).open("a") as done:
            done.write(json.dumps([crashitem, True]) + "\n")


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
    line = {
        "test": test,
        "outcome": worst.outcome if worst else "passed",
        "text": text,
        "brief": brief,
        "seconds": round(sum(report.duration for report in reports), 2),
    }
    write_line(Path(os.environ[SHARE_NAME]), line)


def pytest_runtest_logstart(nodeid: str) -> None:
    """In a guest, tells the other side what is running when its kernel dies."""
    if SHARE_NAME in os.environ:
        write_line(Path(os.environ[SHARE_NAME]), {"test": nodeid, "begun": True})


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if is_worker(config) or SHARE_NAME in os.environ:
        return
    durations = int(config.getoption("durations") or 0)
    for guest in config.stash[GUESTS]:
        for line in guest.summary(durations):
            terminalreporter.write_line(line)
