"""A plan made by a process of its own is the one that is made here, and so is what is wrong with it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
from traces import open_descriptors

from kwire.errors import KwireError
from kwire.lang.python import parse_file
from kwire.live import plan_process
from kwire.live.plan import Plan, Scope
from kwire.live.plan_process import PlanProcess
from kwire.live.planner import make_plan

pytestmark = pytest.mark.live

SCOPE = Scope(True, 4242)
GETPPID = "tracepoint:syscalls:sys_enter_getppid"
FUNCTIONS = """
import kwire

counts = kwire.Count(by=int)

@kwire.tracepoint("sched:sched_switch")
def switched(prev_comm, next_pid):
    total = 0
    for turn in range(next_pid & 31):
        total += turn
    counts.add(total)
    emit(before=prev_comm, to=next_pid)
"""


@pytest.fixture(autouse=True)
def processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})


def planned(make: Callable[[Scope], Plan], scope: Scope = SCOPE) -> Plan:
    with PlanProcess(make) as planning:
        planning.ask(scope)
        return planning.plan()


@pytest.mark.parametrize(
    "specs", [[GETPPID], ["tracepoint:sched:*"], [GETPPID, "rawtracepoint:sched_switch(prev.pid)"]]
)
def test_the_plan_is_the_one_that_is_made_here(specs: list[str]) -> None:
    ours = os.getpid()

    def make(scope: Scope) -> Plan:
        assert os.getpid() != ours
        return make_plan(specs, "pid != 1", scope=scope)

    there, here = planned(make), make_plan(specs, "pid != 1", scope=SCOPE)
    assert plan_process._light(there) == plan_process._light(here), "but for what is a function"


def test_functions_loops_and_maps_are_planned_too() -> None:
    probes = parse_file(FUNCTIONS, "probes.py", lambda name: None)
    plan, here = planned(lambda scope: make_plan(probes, scope=scope)), make_plan(probes, scope=SCOPE)
    assert [str(one.map) for one in plan.maps] == [str(one.map) for one in here.maps] != []
    [group], [same] = plan.groups, here.groups
    assert group.otherwise is not None is not same.otherwise
    assert group.otherwise() == same.otherwise() != group.image == same.image
    assert plan.schemas == here.schemas


def test_what_the_kernel_refuses_is_left_out_of_it() -> None:
    plan = planned(lambda scope: make_plan(["tracepoint:sched:sched_process_*"], scope=scope))
    less = plan.without({1: "refused"})
    assert [schema.target for schema in less.schemas] == [schema.target for schema in plan.schemas[1:]]
    assert less.skipped[-1] == (plan.schemas[0].spec, "refused")
    assert [group.image.name for group in less.groups]


def test_what_is_wrong_is_raised_here(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KwireError, match="no such tracepoint; did you mean syscalls:sys_enter_getppid"):
        planned(lambda scope: make_plan([GETPPID[:-1]], scope=scope))
    assert capfd.readouterr() == ("", "")


def killed(ours: int) -> None:
    if os.getpid() != ours:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_dies_is_done_without() -> None:
    ours = os.getpid()

    def make(scope: Scope) -> Plan:
        killed(ours)
        return make_plan([GETPPID], scope=scope)

    assert planned(make).schemas[0].target == GETPPID.partition(":")[2]


@pytest.mark.parametrize("size", [0, 100])
def test_an_answer_that_is_cut_is_done_without(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    read = plan_process._read
    monkeypatch.setattr(plan_process, "_read", lambda fd: read(fd)[:size])
    assert planned(lambda scope: make_plan([GETPPID], scope=scope)).groups


def test_without_processes_left_or_a_second_processor_it_is_planned_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused() -> int:
        raise BlockingIOError

    before = open_descriptors()
    monkeypatch.setattr(os, "fork", refused)
    assert planned(lambda scope: make_plan([GETPPID], scope=scope)).groups
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("a process was made"))
    assert planned(lambda scope: make_plan([GETPPID], scope=scope)).groups
    assert open_descriptors() == before


def test_nothing_is_left_of_one_that_nobody_asks_or_that_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    before, made = open_descriptors(), []
    for asked in (False, True):
        with PlanProcess(lambda scope: signal.pause()) as planning:  # type: ignore[arg-type, return-value]
            made.append(planning._child)
            if asked:
                planning.ask(SCOPE)
    for child in made:
        assert child
        with pytest.raises(ChildProcessError):
            os.waitpid(child, os.WNOHANG)
    assert open_descriptors() == before
