"""A trace that is attached by one and taken by another: nothing is lost, and its probes go one by one."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import threading
from pathlib import Path

import pytest

from kwire.errors import KwireError
from kwire.lang.bpftrace.reader import read
from kwire.live import handover
from kwire.live.ground import Ground
from kwire.live.handover import TooManyFilesError, check, handed, receive, send, taken
from kwire.live.plan import Plan, Scope
from kwire.live.planner import make_plan
from kwire.live.processes import Processes
from kwire.live.recorder import Limits, Recorder, complete
from kwire.live.scripts import plan_script
from kwire.live.tracer import Tracer
from kwire.wire.frames import Frames
from kwire.wire.messages import Lost

CONDITION = f"{{pid == {os.getpid()}}}"
TRACEPOINTS = [f"tracepoint:syscalls:sys_enter_{name}(pid){CONDITION}" for name in ("getppid", "getuid")]
FUNCTIONS = [f"kprobe:{name}(pid){CONDITION}" for name in ("__do_sys_getppid", "__do_sys_getuid")]

pytestmark = pytest.mark.live


class Counted:
    """A sink that counts by probe."""

    def __init__(self) -> None:
        self.events: dict[int, int] = {}
        self.lost_events = 0
        self.losses: dict[int, int] = {}

    def write(self, frames: Frames) -> None:
        for index in range(frames.count):
            id = frames.header(index).id
            self.events[id] = self.events.get(id, 0) + 1

    def lost(self, losses: list[Lost]) -> None:
        self.lost_events += sum(loss.count for loss in losses)
        for loss in losses:
            self.losses[loss.probe] = self.losses.get(loss.probe, 0) + loss.count

    def flush(self) -> None:
        pass


def moved(plan: Plan) -> Recorder:
    """A recorder of the plan whose tracer was attached elsewhere; events come before it is taken."""
    with Tracer(plan._replace(schemas=complete(plan.schemas))) as tracer:
        tracer.attach()
        call()
        data, descriptors = handed(tracer, {"more": 1})
        travelled = [os.dup(one) for one in descriptors]
    found, more = taken(data, travelled)
    assert more == {"more": 1}
    return Recorder.taken(found)


def call() -> None:
    for _ in range(100):
        os.getppid()
        os.getuid()


@pytest.mark.parametrize(
    "specs", [TRACEPOINTS, pytest.param(FUNCTIONS, marks=pytest.mark.needs("kprobe"))], ids=["here", "kprobe"]
)
def test_what_is_taken_goes_on_and_goes_by_parts(specs: list[str]) -> None:
    plan = make_plan(specs, numbers=(0, 1))
    assert plan.asked_by == {1: (0,), 2: (1,)}
    sink = Counted()
    with moved(plan) as recorder:
        recorder.start([sink])
        call()
        recorder.take_away({1})
        call()
        recorder.end("that is all")
        assert recorder.produced == {1: 200, 2: 300}
    assert (sink.events, sink.lost_events) == ({1: 200, 2: 300}, 0)


def libc() -> str:
    """The C library of this process."""
    [path, *_] = re.findall(r"(/\S*/libc\.so\.6)$", Path("/proc/self/maps").read_text(), re.MULTILINE)
    return str(path)


@pytest.mark.parametrize(
    ("several", "one"),
    [
        pytest.param("uprobe:{libc}:getp?id", "uprobe:{libc}:getuid", id="uprobes"),
        pytest.param(
            "kprobe:__do_sys_get*pid",
            "kprobe:__do_sys_getuid",
            id="kprobes",
            marks=pytest.mark.needs("kprobe"),
        ),
    ],
)
def test_targets_of_one_wildcard_go_together(several: str, one: str) -> None:
    """They share a program, and another probe that would be the same has its own."""
    specs = [f"{each.format(libc=libc())}(pid){CONDITION}" for each in (several, one)]
    plan = make_plan(specs, numbers=(0, 1))
    first = {probe for probe, asked in plan.asked_by.items() if asked == (0,)}
    assert len(first) > 1
    sink = Counted()
    with moved(plan) as recorder:
        recorder.start([sink])
        recorder.take_away(first)
        call()
        recorder.end("that is all")
        [(last, number)] = [each for each in recorder.produced.items() if each[0] not in first]
        assert number == sink.events[last] == 200
        [gone] = [one.id for one in recorder.plan.schemas if one.id in first and "getppid" in one.target]
        assert recorder.produced[gone] == sink.events[gone] == 100


def test_what_two_have_asked_for_is_of_both() -> None:
    plan = make_plan(
        [TRACEPOINTS[0], TRACEPOINTS[0].replace("getppid", "getp?id"), TRACEPOINTS[1]], numbers=(0, 1, 2)
    )
    assert sorted(plan.asked_by.values()) == [(0, 1), (1,), (2,)]


def test_what_cannot_be_handed_over_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KwireError, match="restart the agent"):
        check(make_plan(["self:signal:SIGUSR1(pid)"], scope=Scope()))
    plan = make_plan([f"tracepoint:syscalls:sys_enter_getuid(where=kstack()){CONDITION}"])
    with pytest.raises(KwireError, match="what names its stacks begins with the agent"):
        check(plan)


def test_a_limit_is_no_matter_of_what_is_taken() -> None:
    with moved(make_plan(TRACEPOINTS, numbers=(0, 1))) as recorder:
        assert not recorder.bound
    assert Limits() == Limits(None, None)


def test_a_signal_that_is_taken_away_means_what_it_did_before() -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: came.append(number))
    try:
        plan = make_plan([f"self:signal:SIGUSR1(pid){CONDITION}", TRACEPOINTS[0]], numbers=(0, 1))
        sink = Counted()
        with Recorder(plan) as recorder, Processes() as processes:
            recorder.attach(processes)
            recorder.start([sink])
            os.kill(os.getpid(), signal.SIGUSR1)
            assert came == []
            recorder.take_away({1})
            os.kill(os.getpid(), signal.SIGUSR1)
            assert came == [signal.SIGUSR1]
            recorder.end("that is all")
            assert recorder.produced[1] == sink.events[1] == 1
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_an_end_that_a_full_ring_refuses_is_counted() -> None:
    """At the moment that it is taken away, while its trace goes on."""
    name, place = "sys_enter_getppid", f"tracepoint:syscalls:sys_enter_getppid /pid == {os.getpid()}/"
    plan = plan_script(
        read("x", f'{place} {{ printf("%d", pid); }} END {{ printf("%s %s", comm, comm); }}')
    ).plan
    [end] = [one.id for one in plan.schemas if name not in one.spec]
    plan = plan._replace(asked_by={end: (0,)})
    sink = Counted()
    with Recorder(plan, ground=Ground(4096)) as recorder, Processes() as processes:
        recorder.attach(processes)
        recorder.start([sink])
        cpus = os.sched_getaffinity(0)
        try:
            for cpu in cpus:
                os.sched_setaffinity(0, {cpu})
                for _ in range(200):
                    os.getppid()
        finally:
            os.sched_setaffinity(0, cpus)
        recorder.take_away({end})
        assert (sink.events.get(end, 0), sink.losses[end]) == (0, 1)
        recorder.end("that is all")
        assert recorder.produced[end] == 1


def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


@pytest.mark.native
def test_messages_come_whole() -> None:
    """Of any size, with any number of descriptors, one after the other; None at the end."""
    ours, theirs = pair()
    data, files = os.urandom(1_000_000), [os.memfd_create(f"file {number}") for number in range(450)]

    def tell() -> None:
        with theirs:
            for sent in ((b"", []), (data, files), (b"short", []), (b"", files[:1])):
                send(theirs, *sent)

    thread = threading.Thread(target=tell)
    thread.start()
    with ours:
        assert receive(ours) == (b"", [])
        came, found = receive(ours) or (b"", [])
        assert came == data
        assert [os.fstat(one).st_ino for one in found] == [os.fstat(one).st_ino for one in files]
        assert receive(ours) == (b"short", [])
        _, last = receive(ours) or (b"", [])
        assert receive(ours) is None
    thread.join()
    for one in (*files, *found, *last):
        os.close(one)


@pytest.mark.native
def test_a_message_without_room_for_its_descriptors_is_an_error_and_the_next_one_comes() -> None:
    ours, theirs = pair()
    file = os.memfd_create("file")
    most, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    there = len(os.listdir("/proc/self/fd"))
    with ours, theirs:
        send(theirs, b"first", [file] * 50)
        send(theirs, b"second", [file])
        used = set(map(int, os.listdir("/proc/self/fd")))
        free = sorted(set(range(1000)) - used)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free[5], hard))
        try:
            with pytest.raises(TooManyFilesError, match="too many files are open"):
                receive(ours)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        data, found = receive(ours) or (b"", [])
        assert (data, len(found)) == (b"second", 1)
        for one in found:
            os.close(one)
        assert len(os.listdir("/proc/self/fd")) == there
    os.close(file)


@pytest.mark.native
def test_a_message_whose_sender_died_is_passed_over() -> None:
    ours, theirs = pair()
    with ours, theirs:
        theirs.send(handover._HEAD.pack(b"h", 1 << 20, 3))
        theirs.send(b"p" + b"half")
        send(theirs, b"after it")
        assert receive(ours) == (b"after it", [])
