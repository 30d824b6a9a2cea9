"""Plans: what wildcards leave out, and what schemas carry of the kernel's symbols."""

import pytest

from kwire.kernel.symbols import kernel_symbols
from kwire.live.planner import make_plan
from kwire.wire.schema import Labels

pytestmark = pytest.mark.live


def test_the_probes_own_function_is_all_that_func_needs() -> None:
    plan = make_plan(["fentry:tcp_connect(func)", "fentry:tcp_close(where=func)"])
    for schema, name in zip(plan.schemas, ("tcp_connect", "tcp_close"), strict=True):
        assert set(schema.symbols.values()) == {name}
        [address] = kernel_symbols().addresses(name, "")
        assert Labels(schema).symbol(address) == name
        assert Labels(schema).symbol(address + 4) == f"{name}+0x4"
        assert sum(map(len, schema.frames())) < 2000


def test_other_addresses_need_all_functions() -> None:
    [schema] = make_plan(["fentry:tcp_connect(func, address=ksym(sk.sk_destruct))"]).schemas
    assert len(schema.symbols) > 10_000
    [plain] = make_plan(["fentry:tcp_connect(number=func + 1)"]).schemas
    assert not plain.symbols


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
