"""Whose events: processes by identity and not by number, in namespaces too, and never our own."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from waiting import PATIENCE

import kwire
from kwire.errors import KwireError
from kwire.kernel import identity
from kwire.kernel.syscall import KernelError, address_of
from kwire.live import planner
from kwire.live.plan import Scope
from kwire.live.planner import make_plan
from kwire.live.processes import MAX_PID, Processes
from kwire.live.recorder import Recorder
from kwire.wire.frames import Frames
from kwire.wire.messages import Lost
from kwire.wire.schema import Schema

pytestmark = [pytest.mark.live, pytest.mark.kernels("6.12")]  # the same in each

KWIRE = (sys.executable, "-m", "kwire.cli.main")
GETPPID = "tracepoint:syscalls:sys_enter_getppid"
CLONE3 = 435
LIBC = ctypes.CDLL(None, use_errno=True)
CALLS = "import os, sys\nfor _ in range(int(sys.argv[1])): os.getppid()"


class Keep:
    """A sink that keeps the process of each event of getppid."""

    def __init__(self, schema: Schema) -> None:
        self.offset = next(field.offset for field in schema.fields if field.name == "pid")
        self.pids: list[int] = []

    def write(self, frames: Frames) -> None:
        for index in range(frames.count):
            self.pids.append(struct.unpack_from("=I", frames.frame_bytes(index), self.offset)[0])

    def lost(self, losses: list[Lost]) -> None:
        raise AssertionError(losses)

    def flush(self) -> None:
        pass


def seen(processes: Processes, work: Callable[[], object]) -> list[int]:
    """The processes of the calls of getppid that a trace of `processes` sees during `work`."""
    plan = make_plan([GETPPID], scope=processes.scope)
    sink = Keep(plan.schemas[0])
    with Recorder(plan, follow=processes.chosen) as recorder:
        recorder.attach(processes)
        recorder.start([sink])
        work()
        recorder.end("the work is done")
    return sink.pids


def born_as(pid: int, calls: int) -> None:
    """A child with this process id, which must be free, that calls getppid; wait until it has ended."""
    number = struct.pack("=i", pid)
    arguments = struct.pack("=8Q2QQ", 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, address_of(number), 1, 0)
    made = LIBC.syscall(CLONE3, arguments, len(arguments))
    if made == 0:
        for _ in range(calls):
            os.getppid()
        os._exit(0)
    assert made == pid, os.strerror(ctypes.get_errno())
    os.waitpid(pid, 0)


def process(work: Callable[[], None]) -> tuple[int, int]:
    """A process that works when its pipe is written to: (its id, the pipe)."""
    gate, opener = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(opener)
            os.read(gate, 1)
            work()
            status = 0
        finally:
            os._exit(status)
    os.close(gate)
    return pid, opener


def finish(pid: int, opener: int) -> None:
    os.write(opener, b"g")
    os.close(opener)
    assert os.waitpid(pid, 0)[1] == 0


def free_number() -> int:
    """A process id that was somebody's and is nobody's."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def test_a_number_used_again_is_traced_each_time() -> None:
    number = free_number()

    def bear() -> None:
        for _ in range(60):
            born_as(number, 1)

    pid, opener = process(bear)
    with Processes([pid]) as processes:
        assert seen(processes, lambda: finish(pid, opener)) == [number] * 60


def test_the_next_owner_of_a_number_is_not_traced() -> None:
    number = free_number()
    pid, opener = process(lambda: born_as(number, 1))

    def work() -> None:
        finish(pid, opener)
        for _ in range(20):  # the kernel tells late that a process is gone
            born_as(number, 5)

    with Processes([pid]) as processes:
        assert seen(processes, work) == [number]


def test_children_that_are_there_already_are_traced() -> None:
    ready, told = os.pipe()
    gate, opener = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(opener)
        if os.fork() == 0:
            if os.fork() == 0:
                os.write(told, struct.pack("=I", os.getpid()))
                os.read(gate, 1)
                os.getppid()
                os._exit(0)
            os.wait()
            os._exit(0)
        os.wait()
        os._exit(0)
    own = struct.unpack("=I", os.read(ready, 4))[0]
    with Processes([pid]) as processes:

        def work() -> None:
            os.close(opener)
            os.waitpid(pid, 0)

        assert seen(processes, work) == [own]
    for fd in (ready, told, gate):
        os.close(fd)


def test_a_trace_of_processes_is_over_when_the_last_has_ended() -> None:
    family = [process(lambda: None) for _ in range(2)]
    with Processes([pid for pid, _ in family]) as processes:
        for pid, opener in family:
            assert not processes.ended()
            finish(pid, opener)
        assert processes.ended()


def test_our_own_process_is_left_out_and_chosen_by_name() -> None:
    def work() -> None:
        for _ in range(7):
            os.getppid()

    assert Processes().scope == Scope()
    with Processes(without=[os.getpid()]) as all_others:
        assert all_others.scope == Scope(without=(os.getpid(),))
        assert not all_others.ended()
    with Processes([os.getpid()], without=[os.getpid()]) as own:
        assert seen(own, work) == [os.getpid()] * 7


def test_who_is_not_there_is_told() -> None:
    for pid in (free_number(), MAX_PID, 1 << 32, 1 << 80, 0, -1):
        with pytest.raises(KwireError, match=f"{pid}: there is no such process"):
            Processes([pid])


def test_a_thread_is_told_by_its_process() -> None:
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    try:
        with pytest.raises(KwireError, match=f"thread of process {os.getpid()}") as error:
            Processes([thread.native_id or 0])
        assert f"tid == {thread.native_id}" in error.value.cure
    finally:
        ended.set()
        thread.join()


def record(*words: str, before: tuple[str, ...] = ()) -> dict[str, object]:
    run = subprocess.run([*before, *KWIRE, "record", *words, "--json"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    told: dict[str, object] = json.loads(run.stdout)
    return told


NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc")


@pytest.mark.parametrize(
    "before",
    [pytest.param((), marks=pytest.mark.native, id="here"), pytest.param(NAMESPACE, id="in a namespace")],
)
def test_a_command_is_traced_in_a_pid_namespace_too(before: tuple[str, ...], tmp_path: Path) -> None:
    path = str(tmp_path / "x.pcapng")
    script = tmp_path / "calls.py"
    script.write_text(CALLS)
    counts = [
        record(GETPPID, "-c", f"{sys.executable} {script} {calls}", "-w", path, before=before)["events"]
        for calls in (0, 13)
    ]
    assert counts[1] - counts[0] == 13  # type: ignore[operator]


def test_a_process_is_traced_in_a_pid_namespace_and_ends_the_trace(tmp_path: Path) -> None:
    path = str(tmp_path / "x.pcapng")
    script = tmp_path / "calls.py"
    script.write_text(f"import os\nos.read(0, 1)\n{CALLS}")
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    work = (
        f"{sys.executable} {script} 13 < {gate} & exec 3> {gate}; "
        f"{' '.join(KWIRE)} record {GETPPID} -p $! -w {path} --json & "
        f"for n in $(seq 300); do test -e {path} && break; sleep 0.1; done; echo >&3; wait"
    )
    run = subprocess.run([*NAMESPACE, "sh", "-c", work], capture_output=True, text=True, timeout=PATIENCE)
    assert json.loads(run.stdout)["events"] == 13, run.stderr


FAMILY = """
import json, os, sys, threading
def tell(): told.append([os.getpid(), threading.get_native_id(), os.getppid()])
told = []
tell()
thread = threading.Thread(target=tell)
thread.start()
thread.join()
json.dump(told, open(sys.argv[1], "w"))
"""
IDS = f"{GETPPID}(pid, tid, ppid)"


def ids_of(path: Path, tmp_path: Path, *options: str, before: tuple[str, ...] = NAMESPACE) -> list[list[int]]:
    """The ids in events of a command that runs `path` in a namespace."""
    capture = str(tmp_path / "x.pcapng")
    command = f"{sys.executable} {path} {tmp_path}/told"
    record(IDS, "-c", command, "-w", capture, *options, before=before)
    with kwire.open(capture) as events:
        return [[event.pid, event.tid, event.ppid] for event in events]


@pytest.mark.native  # a guest reads them from its kernel's structures in the next test, with fewer commands
def test_ids_are_told_as_they_are_seen_in_the_namespace(tmp_path: Path) -> None:
    script = tmp_path / "family.py"
    script.write_text(FAMILY)
    seen = ids_of(script, tmp_path)
    told = json.loads((tmp_path / "told").read_text())
    assert told[0][0] < 100  # surely not the kernel's number
    assert told[0] in seen
    assert told[1] in seen
    for filter, wanted in (
        (f"tid == {told[1][1]} and tid != pid", [told[1]]),
        (f"ppid == {told[0][2]} and pid == {told[0][0]} and pid == tid", told[:1]),
        ("pid == 1 or ppid == 1 or tid == 1", []),
    ):
        assert ids_of(script, tmp_path, "--filter", filter) == wanted


def test_a_namespace_within_is_seen_by_the_numbers_of_the_outer(tmp_path: Path) -> None:
    script, inner = tmp_path / "family.py", tmp_path / "inner.py"
    script.write_text(FAMILY)
    start = ["unshare", "--pid", "--fork", sys.executable, str(script)]
    inner.write_text(f"import subprocess, sys\nsubprocess.run([*{start}, sys.argv[1]], check=True)")
    seen = ids_of(inner, tmp_path)
    told = json.loads((tmp_path / "told").read_text())
    assert told[0][0] == 1
    pids = {pid for pid, _, _ in seen}
    assert 1 not in pids
    assert max(pids) < 100
    [own] = {tuple(ids) for ids in seen if ids[0] == max(pids) and ids[0] == ids[1]}
    assert own[2] in range(2, own[0])


def test_who_is_outside_of_the_namespace_has_no_number_there(tmp_path: Path) -> None:
    """The whole machine is traced; the process that calls is the test's own, and not shown there."""
    capture = tmp_path / "x.pcapng"
    calls = [*KWIRE, "record", f"{IDS}{{comm == 'outsider'}}", "-w", str(capture), "-n", "2", "-d", "60"]
    with subprocess.Popen([*NAMESPACE, *calls], stderr=subprocess.PIPE, text=True) as traced:
        for _ in range(600):
            if capture.exists():
                break
            time.sleep(0.1)
        renamed = "open('/proc/self/comm', 'w').write('outsider'); import os; os.getppid(); os.getppid()"
        subprocess.run([sys.executable, "-c", renamed], check=True)
        assert traced.wait(PATIENCE) == 0, traced.communicate()
    with kwire.open(str(capture)) as events:
        assert [[event.pid, event.tid, event.ppid] for event in events] == [[0, 0, 0]] * 2


def test_a_kernel_that_does_not_tell_of_namespaces_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise KernelError("walk", "tasks", "there is no iterator")

    monkeypatch.setattr(planner, "in_first_namespace", lambda: False)
    monkeypatch.setattr(identity, "own_namespace", refused)
    [note] = make_plan([IDS]).notes
    assert note == (
        "process ids in events are not this pid namespace's, but the kernel's: there is no iterator"
    )


@pytest.mark.guest
def test_what_we_do_ourselves_is_no_event_of_the_whole_machine() -> None:
    free = free_number()
    child = process(lambda: born_as(free, 3))

    def work() -> None:
        for _ in range(5):
            os.getppid()
        finish(*child)

    with Processes(without=[os.getpid()]) as all_others:
        pids = seen(all_others, work)
    assert pids.count(free) == 3
    assert os.getpid() not in pids
