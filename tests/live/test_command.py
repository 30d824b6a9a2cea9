"""The traced command: held back, let go, refused, never left behind."""

import os
import signal
import time
from pathlib import Path

import pytest

from kwire.live.command import Command, CommandError, split


def test_words_are_split_as_a_shell_splits_them() -> None:
    assert split("sh -c 'date +%s >x'") == ["sh", "-c", "date +%s >x"]


@pytest.mark.parametrize("text", ["", "   ", "sh -c 'open"])
def test_a_command_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(CommandError):
        split(text)


def test_the_command_waits_until_it_is_let_go(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    command = Command(["touch", str(mark)])
    assert not command.ended()
    assert not mark.exists()
    command.go()
    command.wait()
    assert mark.exists()
    assert command.status == 0
    command.close()


def test_a_command_never_let_go_never_runs(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    command = Command(["touch", str(mark)])
    command.close()
    assert not mark.exists()
    assert command.ended()


def test_an_unknown_program_is_one_clear_error() -> None:
    command = Command(["/no/such/program"])
    with pytest.raises(CommandError, match="no such file"):
        command.go()
    command.close()


def test_the_exit_status_is_kept() -> None:
    command = Command(["sh", "-c", "exit 7"])
    command.go()
    command.wait()
    assert command.status is not None
    assert os.waitstatus_to_exitcode(command.status) == 7
    command.close()


def test_a_command_that_still_runs_is_ended() -> None:
    command = Command(["sleep", "100"])
    command.go()
    command.end()
    assert command.status is not None
    assert os.waitstatus_to_exitcode(command.status) == -signal.SIGINT


def test_a_command_that_does_not_listen_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kwire.live.command.PATIENCE", 5)
    command = Command(["sh", "-c", "trap '' INT TERM; while :; do sleep 0.05; done"])
    command.go()
    time.sleep(0.2)
    command.end()
    assert command.status is not None
    assert os.waitstatus_to_exitcode(command.status) == -signal.SIGKILL


def test_descriptors_are_given_back() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        command = Command(["true"])
        command.go()
        command.wait()
        command.close()
        command.close()
    assert len(os.listdir("/proc/self/fd")) == before
