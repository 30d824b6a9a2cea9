"""A plan made by a process of its own is the one that is made here, and so is what is wrong with it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from traces import open_descriptors

from kwire.errors import KwireError
from kwire.lang import tree
from kwire.lang.python import parse_file
from kwire.live import plan_process, planner
from kwire.live.plan import Plan, PlanResult, Scope
from kwire.live.plan_process import Planning, begin
from kwire.live.planner import make_plan
from kwire.live.scripts import plan_text

pytestmark = [pytest.mark.live, pytest.mark.native]  # the same on each kernel

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


@pytest.fixture(autouse=True)
def nothing_begun() -> Iterator[None]:
    yield
    assert not plan_process._begun


def planned(probes: Sequence[str | tree.Probe], filter: str | None = None) -> Plan:
    begin("kwire.live.planner")
    with Planning("kwire.live.planner", "plan_probes", probes, filter, origin="--filter") as planning:
        planning.ask(scope=SCOPE)
        return planning.plan()


def here(probes: Sequence[str | tree.Probe], filter: str | None = None) -> Plan:
    return make_plan(probes, filter, scope=SCOPE, origin="--filter")


@pytest.mark.parametrize(
    "specs", [[GETPPID], ["tracepoint:sched:*"], [GETPPID, "rawtracepoint:sched_switch(prev.pid)"]]
)
def test_the_plan_is_the_one_that_is_made_here(monkeypatch: pytest.MonkeyPatch, specs: list[str]) -> None:
    ours, plan_probes = os.getpid(), planner.plan_probes

    def plan_there(*arguments: Any, **named: Any) -> PlanResult:
        assert os.getpid() != ours
        return plan_probes(*arguments, **named)

    monkeypatch.setattr(planner, "plan_probes", plan_there)
    there, same = planned(specs, "pid != 1"), here(specs, "pid != 1")
    assert plan_process._light(PlanResult(there)) == plan_process._light(PlanResult(same)), (
        "but for what is a function"
    )


def test_functions_loops_and_maps_are_planned_too() -> None:
    probes = parse_file(FUNCTIONS, "probes.py", lambda name: None)
    plan, same = planned(probes), here(probes)
    assert [str(one.map) for one in plan.maps] == [str(one.map) for one in same.maps] != []
    [group], [other] = plan.groups, same.groups
    assert group.otherwise is not None is not other.otherwise
    assert group.otherwise() == other.otherwise() != group.image == other.image
    assert plan.schemas == same.schemas


SCRIPT = r"""config = { missing_probes = "warn" }
let @few = hash(8);
begin { printf("%d\n", 7); }
tracepoint:syscalls:sys_enter_nowhere { @few[pid] = 1; }
end { @few[1] = 2; }
"""


def test_a_script_is_planned_too_and_what_is_said_of_it() -> None:
    arguments: tuple[Any, ...] = ("x.bt", SCRIPT, ())
    begin("kwire.live.scripts")
    with Planning("kwire.live.scripts", "plan_text", *arguments, unsafe=False) as planning:
        planning.ask(scope=Scope(), command=0)
        plan = planning.plan()
    same = plan_text(*arguments, scope=Scope(), command=0, unsafe=False)
    assert [schema._replace(clock=None) for schema in plan.schemas] == list(same.plan.schemas)
    assert planning.about == same.about
    assert planning.about.declared == {"@few"}
    assert any("no such tracepoint" in line for line in planning.about.warnings)


def test_what_the_kernel_refuses_is_left_out_of_it() -> None:
    plan = planned(["tracepoint:sched:sched_process_*"])
    less = plan.without({1: "refused"})
    assert [schema.target for schema in less.schemas] == [schema.target for schema in plan.schemas[1:]]
    assert less.skipped[-1] == (plan.schemas[0].spec, "refused")
    assert [group.image.name for group in less.groups]


def test_what_is_wrong_is_raised_here(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KwireError, match="no such tracepoint; did you mean syscalls:sys_enter_getppid"):
        planned([GETPPID[:-1]])
    assert capfd.readouterr() == ("", "")


def test_a_process_that_dies_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, plan_probes = os.getpid(), planner.plan_probes

    def dying(*arguments: Any, **named: Any) -> PlanResult:
        if os.getpid() != ours:
            os.kill(os.getpid(), signal.SIGKILL)
        return plan_probes(*arguments, **named)

    monkeypatch.setattr(planner, "plan_probes", dying)
    assert planned([GETPPID]).schemas[0].target == GETPPID.partition(":")[2]


def test_one_that_died_before_it_was_asked_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "ready", lambda: os.kill(os.getpid(), signal.SIGKILL))
    begin("kwire.live.planner")
    os.waitid(os.P_PID, plan_process._begun[0].id, os.WEXITED | os.WNOWAIT)
    with Planning("kwire.live.planner", "plan_probes", [GETPPID], None, origin="--filter") as planning:
        planning.ask(scope=SCOPE)
        assert planning.plan().groups


@pytest.mark.parametrize("size", [0, 100])
def test_an_answer_that_is_cut_is_done_without(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    read = plan_process._read
    monkeypatch.setattr(plan_process, "_read", lambda fd: read(fd)[:size])
    assert planned([GETPPID]).groups


def test_without_processes_left_or_a_second_processor_it_is_planned_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused() -> int:
        raise BlockingIOError

    before = open_descriptors()
    monkeypatch.setattr(os, "fork", refused)
    assert planned([GETPPID]).groups
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("a process was made"))
    assert planned([GETPPID]).groups
    assert open_descriptors() == before


def test_nothing_is_left_of_one_that_nobody_asks_or_that_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "plan_probes", lambda *arguments, **named: signal.pause())
    before, made = open_descriptors(), []
    for asked in (False, True):
        begin("kwire.live.planner")
        with Planning("kwire.live.planner", "plan_probes", [GETPPID], None, origin="--filter") as planning:
            assert planning._process is not None
            made.append(planning._process.id)
            if asked:
                planning.ask(scope=SCOPE)
    for child in made:
        with pytest.raises(ChildProcessError):
            os.waitpid(child, os.WNOHANG)
    assert open_descriptors() == before
