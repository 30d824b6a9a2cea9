"""The traced command: held back, let go, refused, never left behind."""

import errno
import os
import signal
import time
from pathlib import Path

import pytest
from traces import open_descriptors

from kwire.live.command import DEFAULTS, Command, CommandError, split


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
    children = os.listdir("/proc/self/task")
    for name in ("/no/such/program", "no-such-program", ""):
        with pytest.raises(CommandError, match="no such file"):
            Command([name])
    with pytest.raises(CommandError, match="empty"):
        Command([])
    assert os.listdir("/proc/self/task") == children


def test_what_cannot_be_executed_says_why(tmp_path: Path) -> None:
    plain, lost = tmp_path / "plain", tmp_path / "lost"
    plain.write_text("true\n")
    lost.write_text("#!/no/such/interpreter\n")
    lost.chmod(0o755)
    with pytest.raises(CommandError, match="permission denied; make it executable"):
        Command([str(plain)])
    with pytest.raises(CommandError, match="is a directory"):
        Command([str(tmp_path)])
    command = Command([str(lost)])
    with pytest.raises(CommandError, match="interpreter in its first line is not there"):
        command.go()
    command.close()


def test_no_signal_is_blocked_and_none_ignored_that_our_caller_did_not(tmp_path: Path) -> None:
    told = tmp_path / "told"
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # as a caller's nohup would have it
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    known = {number: signal.getsignal(number) for number in signal.valid_signals()}
    callers = {number for number, handler in known.items() if handler == signal.SIG_IGN} - set(DEFAULTS)
    try:
        command = Command(["sh", "-c", f"exec grep -E 'Sig(Ign|Blk)' /proc/self/status >{told}"])
        command.go()
        command.wait()
        command.close()
    finally:
        signal.signal(signal.SIGUSR1, before)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])
    words = told.read_text().split()
    assert int(words[words.index("SigBlk:") + 1], 16) == 0
    theirs = int(words[words.index("SigIgn:") + 1], 16)
    ignored = {number for number in signal.valid_signals() if theirs >> number - 1 & 1}
    assert ignored == callers | {signal.SIGUSR1}


def test_a_command_has_what_our_caller_gave_for_it_and_its_keeper_keeps_nothing(tmp_path: Path) -> None:
    """As a shell gives `cat <(ls)` a pipe; what is ours is not handed on."""
    out, (given, writer), (other, ours) = tmp_path / "out", os.pipe(), os.pipe()
    os.set_inheritable(given, True)
    os.set_inheritable(ours, False)
    os.write(writer, b"given")
    os.close(writer)
    os.set_inheritable(other, True)
    script = (
        f"cat /proc/self/fd/{given} > {out}; test -e /proc/self/fd/{other} && ! test -e /proc/self/fd/{ours}"
    )
    command = Command(["sh", "-c", script])
    try:
        command.go()
        command.wait()
        assert (out.read_text(), command.status) == ("given", 0)
        os.close(other)
        with pytest.raises(BrokenPipeError):  # nobody reads it any more
            os.write(ours, b"x")
    finally:
        command.close()
        os.close(given)
        os.close(ours)


def test_output_goes_aside(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for aside in (False, True):
        command = Command(["echo", "hello"], aside=aside)
        command.go()
        command.wait()
        command.close()
        assert capfd.readouterr() == (("", "hello\n") if aside else ("hello\n", ""))


def test_a_command_ended_while_it_waits_is_an_error() -> None:
    command = Command(["true"])
    while not command.ended():  # one that comes while it is being forked is lost
        signal.pidfd_send_signal(command.pidfd, signal.SIGINT)
        time.sleep(0.01)
    with pytest.raises(CommandError, match="ended before it began"):
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
    monkeypatch.setattr("kwire.live.keeper.PATIENCE", 5)
    command = Command(["sh", "-c", "trap '' INT TERM; while :; do sleep 0.05; done"])
    command.go()
    time.sleep(0.2)
    command.end()
    assert command.status is not None
    assert os.waitstatus_to_exitcode(command.status) == -signal.SIGKILL


DAEMON = "setsid sh -c 'echo $$ >{0}.new; mv {0}.new {0}; exec sleep 1000' >/dev/null 2>&1 &"


def daemon(command: Command, told: Path) -> int:
    """Let a command go that starts something which detaches itself; its process id."""
    command.go()
    while not told.exists():
        time.sleep(0.01)
    return int(told.read_text())


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_what_a_command_has_started_ends_with_it(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    command = Command(["sh", "-c", f"trap '' INT; {DAEMON.format(told)} sleep 1000"])
    pid = daemon(command, told)
    command.end()
    assert not is_alive(pid)
    assert command.status is not None


def test_what_a_command_of_our_own_leaves_behind_stays(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    command = Command(["sh", "-c", DAEMON.format(told)])
    pid = daemon(command, told)
    command.wait()
    command.end()
    try:
        assert command.status == 0
        assert is_alive(pid)
    finally:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's command takes root")
def test_what_a_command_for_others_leaves_behind_does_not_stay(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    command = Command(["sh", "-c", DAEMON.format(told)], user="root")
    pid = daemon(command, told)
    command.wait()
    assert is_alive(pid)
    command.end()
    assert not is_alive(pid)


def test_who_is_killed_leaves_nothing_running(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    owner = os.fork()
    if owner == 0:
        command = Command(["sh", "-c", f"{DAEMON.format(told)} sleep 1000"])
        daemon(command, told)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(owner, 0)
    pid = int(told.read_text())
    for _ in range(1000):
        if not is_alive(pid):
            break
        time.sleep(0.01)
    assert not is_alive(pid)


def test_without_processes_left_it_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keeper's fork fails, or its own does: one line, no descriptor left."""

    def refused() -> int:
        raise BlockingIOError(errno.EAGAIN, "no more processes")

    before = open_descriptors()
    real = os.fork
    for refuse in (lambda: refused(), lambda: real() or (monkeypatch.setattr(os, "fork", refused) or 0)):
        monkeypatch.setattr(os, "fork", refuse)
        with pytest.raises(CommandError, match="temporarily unavailable"):
            assert Command(["true"]).pid
        monkeypatch.setattr(os, "fork", real)
    assert open_descriptors() == before


def test_descriptors_are_given_back() -> None:
    before = open_descriptors()
    for _ in range(3):
        command = Command(["true"])
        command.go()
        command.wait()
        command.close()
        command.close()
    assert open_descriptors() == before
