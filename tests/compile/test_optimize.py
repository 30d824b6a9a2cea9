"""What the optimiser makes of a program: how often the kernel is asked, what is left, and one listing in
full.
"""

import re
from typing import Any

import pytest

from kwire.bpf.arch import named
from kwire.bpf.disasm import listing
from kwire.bpf.insn import decode
from kwire.bpf.task import TaskFields
from kwire.compile.build import Compiled, compile_probe
from kwire.compile.fold import compute, decide
from kwire.compile.ir import CONDITIONS, SWAPPED
from kwire.lang import checked as c
from kwire.lang import record
from kwire.lang import types as t
from kwire.lang.context import Argument, CtxField, Param, Site
from kwire.lang.tree import Source, Span

SPAN = Span(1, 0, 1, 1)
POINTER = t.Pointer(t.VOID)
PID, TID, NSECS, CPU = (c.Builtin(op, t.U64, SPAN) for op in ("pid", "tid", "nsecs", "cpu"))
COMM = c.Comm(t.Text(15), SPAN)
ARGUMENT = c.Param("a", Argument(0), POINTER, SPAN)


def load(base: Any, offset: int, type_: t.Scalar = t.U64) -> c.Load:
    return c.Load(c.Place(base, offset, (), t.KERNEL, SPAN), type_, SPAN)


def const(value: int) -> c.Const:
    return c.Const(value, t.U64, SPAN)


def binary(op: str, left: Any, right: Any) -> c.Binary:
    return c.Binary(op, left, right, t.U64, SPAN)


def build(*values: Any, wanted: Any = None, body: tuple[c.Stmt, ...] = (), **options: Any) -> Compiled:
    fields = tuple(c.Field(f"f{n}", value.type) for n, value in enumerate(values))
    where = Site("rawtracepoint", "x", (Param("a", POINTER, Argument(0)),))
    emit = c.Emit(tuple(values), SPAN)
    made = c.Program("x", where, Source("x", ""), (c.Shape(fields),), (), wanted, (*body, emit), SPAN)
    arch = named("x86_64")
    return compile_probe(
        made, id=1, spec="x", probes=1, cpus=2, tasks=False, arch=arch, explain=True, **options
    )


def calls(compiled: Compiled) -> list[str]:
    """The helpers called, in order."""
    return re.findall(r"call (\w+)", compiled.ir)


def reads(compiled: Compiled) -> list[str]:
    """What is read by a helper, in order: size@offset."""
    return re.findall(r" read kernel (\S+)", compiled.ir)


def test_nothing_is_asked_twice() -> None:
    found = calls(
        build(PID, TID, NSECS, CPU, COMM, PID, wanted=c.Compare("ne", PID, TID, False, t.BOOL, SPAN))
    )
    assert sorted(found) == [
        "get_current_comm",
        "get_current_pid_tgid",
        "get_smp_processor_id",  # its number costs less to ask again than to keep
        "get_smp_processor_id",
        "ktime_get_ns",
        "map_lookup_elem",
        "ringbuf_output",
    ]
    found = calls(build(PID, TID, COMM, task=TaskFields(8, 12, 16, 32, 40, 48)))
    assert [name for name in found if name.startswith("get_current")] == ["get_current_task_btf"]


def test_neighbours_are_read_together() -> None:
    compiled = build(
        load(ARGUMENT, 8), load(ARGUMENT, 24, t.U16), load(ARGUMENT, 100, t.S32), load(ARGUMENT, 0, t.U8)
    )
    assert reads(compiled) == ["104@0"]
    assert "(1@0, 8@8, 2@24, 4@100) [window" in compiled.ir  # one by one, where not all can be read


def test_what_lies_far_apart_is_not() -> None:
    compiled = build(load(ARGUMENT, 0), load(ARGUMENT, 8), load(ARGUMENT, 2000), load(ARGUMENT, 2012, t.U32))
    assert reads(compiled) == ["16@0", "16@2000"]


def test_each_hop_of_a_chain_is_one_read() -> None:
    chain = load(load(load(ARGUMENT, 16), 24), 32)
    assert reads(build(chain, load(load(load(ARGUMENT, 16), 24), 40))) == ["8@16", "8@24", "16@32"]


def test_a_read_is_not_moved_before_its_guard() -> None:
    """What was read for the filter serves the record; what comes after the filter is read after it, and what
    only one arm reads is not read for the other.
    """
    wanted = c.Compare("eq", load(ARGUMENT, 16, t.U16), const(5), False, t.BOOL, SPAN)
    assert reads(build(load(ARGUMENT, 24), load(ARGUMENT, 32), wanted=wanted)) == ["2@16", "16@24"]
    assert reads(build(load(ARGUMENT, 16, t.U16), wanted=wanted)) == ["2@16"]
    assert reads(build(load(ARGUMENT, 24), load(ARGUMENT, 32), wanted=wanted, cookie=True)) == [
        "2@16",
        "16@24",
    ]
    arms = c.Select(PID, load(ARGUMENT, 0), load(ARGUMENT, 8), t.U64, SPAN)
    assert sorted(reads(build(arms))) == ["8@0", "8@8"]
    around = c.Select(PID, load(ARGUMENT, 0), const(1), t.U64, SPAN)
    assert reads(build(load(ARGUMENT, 16), around, load(ARGUMENT, 24))) == ["16@16", "8@0"]


def test_blocks_go_straight_to_the_record_or_come_with_their_neighbours() -> None:
    block = c.ReadBlock(c.Place(ARGUMENT, 8, (), t.KERNEL, SPAN), 16, t.Array(t.U8, 16, "ipv6"), SPAN)
    assert re.findall(r" read kernel \S+ \[(\w+)", build(block).ir) == ["record"]
    assert reads(build(block, load(ARGUMENT, 32))) == ["32@8"]


def test_constants_are_folded_and_branches_on_them_decided() -> None:
    never = c.If(binary("and", const(6), const(1)), (c.Return(SPAN),), (), SPAN)
    always = c.Compare("lt", binary("mul", const(3), const(4)), const(13), False, t.BOOL, SPAN)
    folded = build(binary("add", binary("sub", PID, const(5)), const(5)), wanted=always, body=(never,))
    assert folded.image.code == build(PID).image.code


def test_code_that_nothing_reaches_is_not_there() -> None:
    after = build(PID, body=(c.Return(SPAN),))
    assert listing(decode(after.image.code)) == ["   0: (b7) r0 = 0", "   1: (95) exit"]
    assert not after.image.maps


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (binary("mul", PID, const(8)), "lsh %N 3"),
        (binary("div", PID, const(16)), "rsh %N 4"),
        (binary("mod", PID, const(32)), "and %N 31"),
        (c.Convert(binary("and", PID, const(0xFF)), t.U8, SPAN), "and %N 255"),
        (c.Convert(c.Convert(PID, t.U16, SPAN), t.U32, SPAN), "zext 16 %N"),
    ],
)
def test_cheaper_forms(value: Any, expected: str) -> None:
    ir = re.sub(r"%\d+", "%N", build(c.Retype(value, t.U64, SPAN)).ir)
    assert f"%N = {expected}\n" in ir


def test_a_narrow_field_needs_no_mask_before_its_store() -> None:
    ir = build(c.Convert(c.Convert(binary("add", PID, TID), t.U32, SPAN), t.U16, SPAN)).ir
    assert "zext 16" not in ir


INTERESTING = (0, 1, -1, 2, 7, 63, 64, 1 << 31, 1 << 32, (1 << 63) - 1, -(1 << 63))


def test_conditions_and_their_mirror_images() -> None:
    for condition, opposite in CONDITIONS.items():
        for a in INTERESTING:
            for b in INTERESTING:
                assert decide(condition, a, b) is not decide(opposite, a, b)
                assert decide(condition, a, b) is decide(SWAPPED[condition], b, a)


def test_folding_is_the_machines_arithmetic() -> None:
    assert compute("div", 5, 0) == 0
    assert compute("mod", -5, 0) == -5
    assert compute("div", -1, 2) == (1 << 63) - 1
    assert compute("lsh", 1, 64 + 3) == 8
    assert compute("arsh", -8, 1) == -4
    assert compute("rsh", -8, 60) == 15
    assert compute("umin", -1, 5) == 5


GETPPID = """\
entry:
    %1 = call get_current_task_btf
    %2 = peek 4 [%1+12]
    if %2 eq 77 goto body1 else look1
look1:
    store 4 [key.2+0] %2
    %3 = call map_lookup_elem map:tasks [key.2+0]
    if %3 eq 0 goto done else listed2
listed2:
    %4 = load 8 [%3+0]
    if %4 eq 0 goto body1 else other2
other2:
    %6 = peek 8 [%1+40]
    %7 = peek 8 [%6+32]
    if %7 eq %4 goto body1 else done
body1:
    %8 = call ktime_get_ns
    store 8 [record.1+8] %8
    store 4 [record.1+16] %2
    %12 = peek 4 [%1+8]
    store 4 [record.1+20] %12
    %13 = peek 4 [%0+8]
    store 4 [record.1+24] %13
    store 4 [record.1+28] 0
    store 4 [record.1+0] 0x20000011
    store 4 [record.1+4] 0x1000000
    %15 = call get_smp_processor_id
    store 4 [key.3+0] %15
    %16 = and %15 1
    %17 = lsh %16 6
    %18 = mapval counts.64
    %19 = add %18 %17
    %20 = load 8 [%19+0]
    %21 = add %20 1
    store 8 [%19+0] %21
    %26 = call map_lookup_elem map:rings [key.3+0]
    if %26 eq 0 goto refused8 else there8
there8:
    %27 = call ringbuf_output %26 [record.1+0] 32 0
    if %27 eq 0 goto done else refused8
refused8:
    atomic [%19+8] 1
    %30 = load 8 [record.1+8]
    %31 = load 8 [%19+16]
    if %31 eq 0 goto first10 else later10
first10:
    store 8 [%19+16] %30
    goto later10
later10:
    store 8 [%19+24] %30
    goto done
done:
    exit 1
"""


def renumbered(ir: str) -> str:
    """The listing with its values numbered in the order in which they appear."""
    names: dict[str, str] = {}
    return re.sub(r"%\d+", lambda match: names.setdefault(match[0], f"%{len(names)}"), ir)


def test_a_whole_program() -> None:
    where = Site("tracepoint", "syscalls:sys_enter_getppid", (Param("__syscall_nr", t.S32, CtxField(8, 4)),))
    made = record.program(where, None)  # type: ignore[arg-type]  # no types are looked up
    emit = made.body[0]
    assert isinstance(emit, c.Emit)
    fields = made.shapes[0].fields
    wanted = [n for n, field in enumerate(fields) if field.name in ("pid", "tid", "__syscall_nr")]
    made = made.replace(
        shapes=(c.Shape(tuple(fields[n] for n in wanted)),),
        body=(emit.replace(values=tuple(emit.values[n] for n in wanted)),),
    )
    options = {"main": 77, "task": TaskFields(8, 12, 16, 32, 40, 48)}
    compiled = compile_probe(
        made, id=1, spec="x", probes=1, cpus=2, tasks=True, arch=named("x86_64"), explain=True, **options  # type: ignore[arg-type]
    )  # fmt: skip
    assert renumbered(compiled.ir) == renumbered(GETPPID)
    assert not compiled.image.btf  # nobody wrote this program


def test_what_is_noted_for_nobody_is_not_noted() -> None:
    map = c.Map("m", "hash", (t.U64,), t.U64, 64)
    behind = c.MapSet(map, (const(1),), (load(ARGUMENT, 8),), SPAN)
    program = build(load(ARGUMENT, 0))
    assert "[faults" in program.ir
    where = Site("rawtracepoint", "x", (Param("a", POINTER, Argument(0)),))
    made = c.Program("x", where, Source("x", ""), (), (), None, (behind,), SPAN)
    arch = named("x86_64")
    counted = compile_probe(made, id=1, spec="x", probes=1, cpus=2, tasks=False, arch=arch, explain=True)
    assert "read kernel 8@8" in counted.ir
    assert "[faults" not in counted.ir


def test_reads_of_one_page_need_no_other_way() -> None:
    def at(address: int) -> c.Load:
        return load(c.Const(address, POINTER, SPAN), 0)

    assert reads(build(at(0x10FE8), at(0x10FF0), at(0x10FF8))) == ["24@4072"]
    assert reads(build(at(0x10FF8), at(0x11000))) == ["8@4088", "8@0"]


def test_constants_wanted_often_stay_in_registers() -> None:
    map = c.Map("m", "hash", (t.U64,), t.U64, 64)
    key = (load(ARGUMENT, 0),)
    body = tuple(c.MapDelete(map, key, SPAN) for _ in range(3))
    made = build(PID, body=body)
    assert made.ir.count("keep map:@m") == 1
    assert re.search(r"call map_delete_elem %\d+ ", made.ir)
    twice = build(PID, body=body[:2])
    assert "keep map:@m" not in twice.ir


def test_events_leave_by_one_subprogram_where_there_are_several() -> None:
    emit = c.Emit((PID,), SPAN)
    several = build(PID, body=(c.If(CPU, (emit,), (), SPAN), emit))
    assert calls(several).count("ringbuf_output") == 1
    assert several.ir.count("invoke send") == 3
    assert len(several.image.func_info) == 2 * 8
    assert "invoke" not in build(PID).ir
    once, twice = build(PID).image.code, build(PID, body=(emit,)).image.code
    four = build(PID, body=(emit, emit, emit)).image.code
    assert (len(four) - len(twice)) // 8 <= 2 * 12
    assert len(four) < 2 * len(once)
