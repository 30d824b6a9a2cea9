"""A guest's tests go on after its kernel's death, each death is told, and none goes on for ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import guest_tests
import pytest
from guest_tests import DEATHS, REPORT, WANTED, lines_of, run_tests, write_line
from guests import Failure
from initramfs import GuestError
from run import TIMED_OUT, GuestDeathError

WORDS = {"text": "", "brief": "", "seconds": 0.5}


class Guests:
    """Runs of pytest in guests whose kernels die at some tests: at `deadly[test]` of the runs of each."""

    def __init__(self, share: Path, deadly: dict[str, int]) -> None:
        self.share, self.deadly, self.boots = share, deadly, 0

    def run(self, kernel: Any, command: list[str], **settings: Any) -> int:
        self.boots += 1
        for test in (self.share / WANTED).read_text().split("\n"):
            write_line(self.share, {"test": test, "begun": True})
            if self.deadly.get(test, 0):
                self.deadly[test] -= 1
                with (self.share / REPORT).open("a") as report:
                    report.write('{"test": "cut')
                raise GuestDeathError("Kernel panic")
            write_line(self.share, {"test": test, "outcome": "passed", **WORDS})
        return 0


@pytest.fixture
def guests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def made(tests: list[str], deadly: dict[str, int]) -> Guests:
        (tmp_path / WANTED).write_text("\n".join(tests))
        playing = Guests(tmp_path, deadly)
        monkeypatch.setattr(guest_tests, "run", playing.run)
        monkeypatch.setattr(guest_tests, "fetch", lambda name: None)
        return playing

    return made


def outcomes(share: Path) -> dict[str, str]:
    return {line["test"]: line["outcome"] for line in lines_of(share)[1] if "outcome" in line}


def test_the_rest_is_run_in_another_guest(guests: Any, tmp_path: Path) -> None:
    playing = guests(["a::1", "a::2", "b::3"], {"a::2": 1})
    run_tests("6.12", tmp_path)
    assert outcomes(tmp_path) == dict.fromkeys(("a::1", "a::2", "b::3"), "passed")
    assert [line["test"] for line in lines_of(tmp_path)[1] if "died" in line] == ["a::2"]
    assert playing.boots == 2


def test_a_test_at_which_it_dies_twice_has_failed(guests: Any, tmp_path: Path) -> None:
    guests(["a::1", "a::2", "b::3"], {"a::2": 9})
    run_tests("6.12", tmp_path)
    assert outcomes(tmp_path) == {"a::1": "passed", "a::2": "failed", "b::3": "passed"}


def test_a_kernel_that_dies_everywhere_is_given_up(guests: Any, tmp_path: Path) -> None:
    names = [f"a::{number}" for number in range(20)]
    playing = guests(names, dict.fromkeys(names, 1))
    with pytest.raises(GuestError, match="panic"):
        run_tests("6.12", tmp_path)
    assert playing.boots == DEATHS + 1


def test_a_guest_that_takes_too_long_is_told(guests: Any, tmp_path: Path, monkeypatch: Any) -> None:
    guests(["a::1"], {})
    monkeypatch.setattr(guest_tests, "run", lambda *_, **__: TIMED_OUT)
    with pytest.raises(GuestError, match=r"guest 6.12 has not ended"):
        run_tests("6.12", tmp_path)


def test_what_failed_in_a_guest_is_told_whoever_ran_the_item(request: pytest.FixtureRequest) -> None:
    report = pytest.TestReport("a::1", ("a", 1, "1"), {}, "failed", Failure("the text", "brief"), "call")  # type: ignore[arg-type]  # what is printed, with toterminal
    sent = request.config.hook.pytest_report_to_serializable(config=request.config, report=report)
    assert sent["longrepr"] == "the text"
