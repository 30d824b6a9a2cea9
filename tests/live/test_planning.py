"""Plans: what wildcards leave out, what schemas carry of the kernel's symbols, numbers of events."""

# Names inside of probes are the probe language's, not Python's.
# ruff: noqa: F821
# mypy: ignore-errors

import subprocess
import sys

import pytest

import kwire
from kwire.errors import KwireError
from kwire.kernel.symbols import Symbols, kernel_symbols
from kwire.lang import python
from kwire.lang.errors import LanguageError
from kwire.live.planner import make_plan
from kwire.wire.schema import Labels

pytestmark = [pytest.mark.live, pytest.mark.native]  # the same on each kernel


def test_the_probes_own_function_is_all_that_func_needs() -> None:
    plan = make_plan(["fentry:tcp_connect(func)", "fentry:tcp_close(where=func)"])
    for schema, name in zip(plan.schemas, ("tcp_connect", "tcp_close"), strict=True):
        assert set(schema.symbols.values()) == {name}
        [address] = kernel_symbols().addresses(name, "")
        assert Labels(schema).symbol(address) == name
        assert Labels(schema).symbol(address + 4) == f"{name}+0x4"
        assert sum(map(len, schema.frames())) < 2000


def test_other_addresses_are_told_as_they_are_seen() -> None:
    plan = make_plan(["fentry:tcp_connect(func, address=ksym(sk.sk_destruct))"])
    assert set(plan.schemas[0].symbols.values()) == {"tcp_connect"}
    assert plan.stacks
    plain = make_plan(["fentry:tcp_connect(number=func + 1)"])
    assert not plain.schemas[0].symbols
    assert not plain.stacks


def test_numbers_have_the_names_that_the_kernel_prints() -> None:
    conditions = ['prev_state == "R+" or prev_state & D', "prev_state == S"]
    for condition in conditions:
        [schema] = make_plan(["tracepoint:sched:sched_switch(prev_state)"], condition).schemas
    state = schema.field("prev_state")
    assert (state.type, state.display, state.enum) == ("s64", "flags", "")
    names = schema.enums[state.table]
    assert [names[value] for value in (0, 1, 2, 256)] == ["R", "S", "D", "R+"]
    wanted = "gfp_flags & __GFP_ZERO and gfp_flags != GFP_KERNEL"
    [schema] = make_plan(["tracepoint:kmem:kmalloc(gfp_flags)"], wanted).schemas
    names = schema.enums[schema.field("gfp_flags").table]
    assert {"GFP_KERNEL", "__GFP_ZERO", "none"} <= set(names.values())


def test_a_wildcard_leaves_out_functions_without_types() -> None:
    plan = make_plan(["fentry:tcp_v4_*(func)"])
    assert all(list(schema.symbols.values()) == [schema.target] for schema in plan.schemas)
    assert plan.schemas
    assert not {target for target, _ in plan.skipped} & {schema.probe for schema in plan.schemas}


def test_what_a_wildcard_names_is_not_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    search, sought = Symbols.search, []
    monkeypatch.setattr(Symbols, "search", lambda self, like: (sought.append(like), search(self, like))[1])
    plan = make_plan(["rawtracepoint:sched_*(pid)"])
    assert len(plan.schemas) > 10 > len(sought)


def test_each_shape_of_event_has_a_number_and_a_schema() -> None:
    @kwire.tracepoint("syscalls:sys_enter_getp?id")
    def calls():
        emit("opened", pid, comm)
        emit(where=ksym(nsecs))
        for _ in range(2):
            emit(pid, again=1)

    plan = make_plan(["tracepoint:sched:sched_switch(next_pid)", calls])
    spec = "tracepoint:syscalls:sys_enter_getp"
    names = [f"{spec}{which}id#{event}" for which in "gp" for event in ("opened", 2, 3)]
    assert [schema.probe for schema in plan.schemas] == ["tracepoint:sched:sched_switch", *names]
    assert [schema.id for schema in plan.schemas] == list(range(1, 8))
    assert [[field.name for field in schema.fields] for schema in plan.schemas[1:4]] == [
        ["pid", "comm"],
        ["where"],
        ["pid", "again"],
    ]
    assert not any(schema.symbols for schema in plan.schemas[1:4])
    assert plan.stacks
    one, *groups = plan.groups
    assert (one.points[0].probe, one.shapes) == (1, 1)
    assert sorted(point.probe for group in groups for point in group.points) == [2, 5]
    assert {group.shapes for group in groups} == {3}
    shares = [schema.shares for schema in plan.schemas]
    together = names[1:] if len(groups) == 1 else names[1:3]
    assert shares == [(), tuple(together), (), (), tuple(names[4:]), (), ()]


def test_a_plan_that_is_made_anew_follows_no_processes_where_the_one_before_did_not() -> None:
    """Another trace keeps the map of processes; it would be kept twice."""
    plan = make_plan(["tracepoint:sched:sched_switch(next_pid)"])._replace(following=())
    fresh = plan._replace(following=("any program",))
    one = plan._replace(again=lambda causes: fresh, anew=lambda: fresh)
    assert one.without({}).following == one.looked_up().following == ()


def test_all_that_is_wrong_in_the_probes_of_a_file_is_told_at_once() -> None:
    text = "\n".join(
        [
            "import kwire",
            "@kwire.tracepoint('syscalls:sys_enter_getp?id')",
            "def one(): emit(x=1.5, y=nothing)",
            "@kwire.tracepoint('syscalls:sys_enter_getuid')",
            "def two():",
            "    emit(x=unknown)",
        ]
    )
    with pytest.raises(LanguageError) as caught:
        make_plan(python.parse_file(text, "probes.py"))
    told = [(one.span.line, one.message) for one in caught.value.diagnostics]
    assert told == [(3, "the kernel has no floating point"), (6, "unknown name unknown")]
    with pytest.raises(LanguageError) as caught:
        make_plan(python.parse_file(text.replace("x=1.5, ", "") + "\n    y = [2]", "probes.py"))
    told = [(one.span.line, one.message) for one in caught.value.diagnostics]
    assert told == [(3, "unknown name nothing"), (6, "unknown name unknown"), (7, "lists are not supported")]


def test_a_program_that_asks_for_nothing_of_its_place_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from kwire.kernel import features
    from kwire.lang.bpftrace.reader import read
    from kwire.lang.kerneltypes import KernelTypes
    from kwire.live.scripts import plan_script

    asked = []
    found = KernelTypes.function
    monkeypatch.setattr(KernelTypes, "function", lambda self, *of: asked.append(of) or found(self, *of))
    monkeypatch.setattr(features, "mechanism", lambda kind, count=1: "kprobe.multi")
    monkeypatch.setattr(features, "probe", lambda name: features.Answer("yes", ""))
    plan = plan_script(read("x", "kprobe:vfs_* { @[func, arg1] = count(); }")).plan
    [group] = plan.groups
    assert len(group.points) > 50
    assert len(asked) <= 4  # at two of them, to learn the types of the map
    assert {schema.target for schema in plan.schemas} >= {"vfs_read", "vfs_write"}
    named = plan_script(read("x", "kprobe:vfs_writ* { @[probe] = count(); }")).plan
    assert len(named.groups) == len(named.schemas) > 1  # each says where it is


def test_only_the_probes_that_are_chosen_are_planned() -> None:
    from kwire.lang.bpftrace.reader import read
    from kwire.live.scripts import plan_script

    enter = "tracepoint:syscalls:sys_enter_getppid"
    script = read("x", f"begin {{ exit() }} {enter}, {enter.replace('getppid', 'gettid')} {{ print(1) }}")
    for only, targets in (("", 3), ("tpp|nothing", 2), ("getp+id$", 2), ("^nothing", 1)):
        assert len(plan_script(script, only=only).plan.schemas) == targets, only
    for only, says in (
        ("(", "it is no regular expression: "),
        ("begin", "begin: it finds none of the script's places"),
    ):
        with pytest.raises(KwireError, match=says):
            plan_script(read("x", f"{enter} {{ print(1) }}"), only=only)


def test_suggestions_are_looked_for_when_somebody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    from kwire.btf import errors
    from kwire.btf.errors import BtfLookupError
    from kwire.btf.store import load_kernel

    asked = []
    nearest = errors.nearest
    monkeypatch.setattr(errors, "nearest", lambda *of: asked.append(of) or nearest(*of))
    with pytest.raises(BtfLookupError) as caught:
        load_kernel().func("tcp_connectt")
    assert not asked
    assert "tcp_connect" in caught.value.cure
    assert str(caught.value).endswith(caught.value.cure)
    assert len(asked) == 1


LITTLE = """
import sys
from kwire.live import planner
from kwire.live.plan import Scope

planner.ready()
planner.plan_probes(["tracepoint:syscalls:sys_enter_getppid"], None, scope=Scope(True, 1), origin="--filter")
print(*sys.modules)
"""


@pytest.mark.native
def test_a_plain_tracepoint_is_planned_without_what_others_need() -> None:
    ran = subprocess.run([sys.executable, "-c", LITTLE], capture_output=True, text=True, check=True)
    kinds = {
        "re",
        "enum",
        "kwire.lang.check",
        "kwire.lang.python",
        "kwire.kernel.catalog",
        "kwire.kernel.attach",
    }
    assert not kinds.intersection(ran.stdout.split())
