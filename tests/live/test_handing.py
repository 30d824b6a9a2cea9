"""A trace that is attached by one and taken by another: nothing is lost, and its probes go one by one."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from kwire.errors import KwireError
from kwire.live.handing import check, handed, taken
from kwire.live.plan import Plan, Scope
from kwire.live.planner import make_plan
from kwire.live.recorder import Limits, Recorder, complete
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

    def write(self, frames: Frames) -> None:
        for index in range(frames.count):
            id = frames.header(index).id
            self.events[id] = self.events.get(id, 0) + 1

    def lost(self, losses: list[Lost]) -> None:
        self.lost_events += sum(loss.count for loss in losses)

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
