"""The IR by itself: graphs of any form, and random functions with loops, joins and many live values, which
must give the same when their IR is run as it was written, by the interpreter after all passes, and by the
kernel.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from amounts import fewer_in_guests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kwire.bpf import insn as isa
from kwire.bpf import vm
from kwire.bpf.asm import link
from kwire.bpf.image import Image
from kwire.compile import allocate as allocation
from kwire.compile import graph, verify
from kwire.compile.allocate import StackError, allocate
from kwire.compile.fold import compute, decide, signed
from kwire.compile.ir import (
    At,
    Block,
    Branch,
    Exit,
    Function,
    Ins,
    Jump,
    Module,
    Operand,
    Value,
    dump,
    successors,
)
from kwire.compile.optimize import optimize
from kwire.compile.select import select
from kwire.kernel import prog
from kwire.lang.tree import NOWHERE

MASK = (1 << 64) - 1


def ins(op: str, dst: Value | None, *args: Operand, info: Any = None) -> Ins:
    return Ins(op, dst, list(args), info, NOWHERE)


def shaped(edges: dict[str, str]) -> tuple[Function, dict[str, Block]]:
    """A function whose blocks lead to each other so: {"a": "bc", "b": "c"…}; the first is the entry."""
    function = Function()
    blocks = {name: Block(name) for name in edges}
    first = next(iter(edges))
    blocks[first] = function.entry
    for name, targets in edges.items():
        if len(targets) == 1:
            blocks[name].end = Jump(blocks[targets])
        elif targets:
            then, otherwise = (blocks[target] for target in targets)
            blocks[name].end = Branch("eq", function.context, 0, then, otherwise)
    function.blocks = list(blocks.values())
    return function, blocks


GRAPHS: list[dict[str, str]] = [
    {"a": "bc", "b": "d", "c": "d", "d": ""},
    {"a": "b", "b": "cd", "c": "b", "d": ""},  # a loop
    {"a": "b", "b": "cf", "c": "de", "d": "c", "e": "b", "f": ""},  # a loop in a loop
    {"a": "bc", "b": "cd", "c": "be", "d": "", "e": ""},  # two ways into a loop: irreducible
    {"a": "bc", "b": "d", "c": "e", "d": "ef", "e": "df", "f": ""},
    {"a": "bc", "b": "gd", "c": "d", "d": "ef", "e": "g", "f": "", "g": ""},
]


def everywhere(function: Function, banned: Block | None) -> set[Block]:
    """The blocks that can be reached without a certain one."""
    found: set[Block] = set()
    waiting = [function.entry]
    while waiting:
        block = waiting.pop()
        if block in found or block is banned:
            continue
        found.add(block)
        waiting += successors(block.end)
    return found


@pytest.mark.parametrize("edges", GRAPHS)
def test_a_block_dominates_those_that_cannot_be_reached_without_it(edges: dict[str, str]) -> None:
    function, blocks = shaped(edges)
    graph.set_dominators(function)
    for a in blocks.values():
        without = everywhere(function, a)
        for b in blocks.values():
            assert graph.dominates(a, b) == (b not in without), (a, b)


def test_loops_are_found_with_their_depth() -> None:
    function, blocks = shaped(GRAPHS[2])
    found = graph.find_loops(function)
    assert {str(head): str(last) for head, last in found.items()} == {"b": "e", "c": "d"}
    assert [block.loops for block in function.blocks] == [0, 1, 2, 2, 1, 0]
    assert blocks["d"].loop is blocks["c"]
    assert blocks["e"].loop is blocks["b"]


def test_regions_are_what_is_run_together() -> None:
    function, blocks = shaped({"a": "bc", "b": "d", "c": "d", "d": "ef", "e": "", "f": ""})
    graph.set_dominators(function)
    region = graph.regions(function)
    assert region[blocks["a"]] == region[blocks["d"]]
    assert len({region[blocks[name]] for name in "abcef"}) == 5
    end = blocks["d"].end
    assert isinstance(end, Branch)
    end.rare = blocks["f"]
    region = graph.regions(function)
    assert region[blocks["a"]] == region[blocks["d"]] == region[blocks["e"]] != region[blocks["f"]]


def test_what_a_loop_needs_is_live_at_its_head() -> None:
    function, blocks = shaped({"a": "b", "b": "cd", "c": "b", "d": ""})
    outer, inner = function.value(), function.value()
    blocks["a"].body.append(ins("peek", outer, At(function.context, 0), info=8))
    blocks["c"].body.append(ins("add", inner, outer, 1))
    blocks["d"].end = Exit(outer)
    live = graph.liveness(function)
    assert live[blocks["b"]] == {outer, function.context}
    assert live[blocks["c"]] == {outer, function.context}
    assert live[blocks["d"]] == {outer}


def broken(kind: str) -> Function:
    function, blocks = shaped({"a": "bc", "b": "d", "c": "d", "d": ""})
    value = function.value()
    add = ins("add", value, function.context, 1)
    if kind == "twice":
        blocks["b"].body.append(add)
        blocks["c"].body.append(add)
    elif kind == "unknown":
        blocks["b"].body.append(add)
        blocks["d"].end = Exit(value)
    elif kind == "early":
        blocks["a"].body += [ins("add", function.value(), value, 1), add]
    elif kind == "arguments":
        blocks["d"].params.append(value)
    elif kind == "branch":
        blocks["b"].params.append(value)
    elif kind == "operation":
        blocks["a"].body.append(ins("nonsense", value))
    elif kind == "operands":
        blocks["a"].body.append(ins("add", value, 1))
    return function


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("twice", "two definitions"),
        ("unknown", "is not known here"),
        ("early", "is not known here"),
        ("arguments", "other arguments"),
        ("branch", "no arguments to b"),
        ("operation", "no operation nonsense"),
        ("operands", "has not 2 arguments"),
    ],
)
def test_broken_ir_is_noticed(kind: str, message: str) -> None:
    verify.verify(broken("sound"), "nothing")
    with pytest.raises(verify.BrokenIrError, match=message):
        verify.verify(broken(kind), "nothing")


def test_what_is_added_to_memory_that_is_far_takes_r0() -> None:
    function = Function()
    far, near = function.value(), function.value()
    far.slot = function.slot("spill", 8)
    for base, op, value, takes in (
        (far, "atomic", 1, True),  # r5 has the address, and the number wants a register
        (far, "atomic", near, False),
        (near, "atomic", 1, False),
        (far, "store", 1, False),
        (far, "store", 1 << 40, True),
        (far, "store", far, True),
        (near, "store", far, False),
    ):
        size = 8 if op == "store" else None
        assert allocation.takes_r0(ins(op, None, At(base, 0), value, info=size)) is takes


def test_a_reading_of_the_clock_is_not_shared_and_a_read_not_across_a_loop() -> None:
    function, blocks = shaped({"a": "b", "b": "cd", "c": "b", "d": ""})
    made = {name: [function.value() for _ in range(3)] for name in "ac"}
    total: Operand = 0
    for name, (clock, number, read) in made.items():
        body = blocks[name].body
        body.append(ins("call", clock, info="ktime_get_ns"))
        body.append(ins("call", number, info="get_numa_node_id"))
        body.append(ins("hop", read, function.context, info=("kernel", 0, 8, 0)))
        for value in (clock, number, read):
            body.append(ins("call", None, value, info="trace_printk"))
    optimize(function)
    verify.verify(function, "optimize")
    text = dump(function)
    assert text.count("ktime_get_ns") == 2
    assert text.count("get_numa_node_id") == 1
    assert text.count("hop") == 2
    assert total == 0


# random functions


class Writer:
    """Writes functions by dice: arithmetic on what is known, joins, counted loops, calls."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.function = Function()
        self.block = self.function.entry
        self.known: list[Operand] = [0, 1, -1, self.dice.getrandbits(63)]
        self.names = 0

    def emit(self, op: str, *args: Operand, info: Any = None, bits: int = 64) -> Value:
        dst = self.function.value(bits)
        self.block.body.append(Ins(op, dst, list(args), info, NOWHERE))
        return dst

    def start(self, name: str, params: int = 0) -> Block:
        self.names += 1
        block = Block(f"{name}{self.names}")
        block.params = [self.function.value() for _ in range(params)]
        return block

    def place(self, block: Block) -> None:
        self.function.blocks.append(block)
        self.block = block

    def one(self) -> Operand:
        return self.dice.choice(self.known[-12:] if self.dice.random() < 0.8 else self.known)

    def step(self) -> None:
        op = self.dice.choice(["add", "sub", "mul", "and", "or", "xor", "div", "mod", "cmp", "zext", "sext"])
        if op in ("zext", "sext"):
            width = self.dice.choice([8, 16, 32])
            made = self.emit(op, self.one(), info=width, bits=width if op == "zext" else 64)
        elif op == "cmp":
            condition = self.dice.choice(["eq", "ne", "lt", "ge", "slt", "sle", "sgt", "gt"])
            made = self.emit(op, self.one(), self.one(), info=condition, bits=1)
        else:
            made = self.emit(op, self.one(), self.one())
        self.known.append(made)

    def body(self, depth: int) -> None:
        for _ in range(self.dice.randint(1, 6)):
            self.step()
        kind = self.dice.choice(["join", "loop", "call", "plain"]) if depth else "plain"
        if kind == "join":
            self.join(depth)
        elif kind == "loop":
            self.loop(depth)
        elif kind == "call":
            self.known.append(self.emit("call", info="get_smp_processor_id", bits=32))
            self.known.append(self.emit("call", info="ktime_get_ns"))
            self.known[-1] = self.emit("and", self.known[-1], 0)
        if depth:
            self.body(depth - 1)

    def join(self, depth: int) -> None:
        then, otherwise = self.start("then"), self.start("else")
        after = self.start("join", self.dice.randint(0, 4))
        condition = self.dice.choice(["eq", "ne", "lt", "slt"])
        self.block.end = Branch(condition, self.one(), self.one(), then, otherwise)
        before = list(self.known)
        for arm in (then, otherwise):
            self.known = list(before)
            self.place(arm)
            self.body(depth - 1)
            self.block.end = Jump(after, [self.one() for _ in after.params])
        self.known = before + list(after.params)
        self.place(after)

    def loop(self, depth: int) -> None:
        params = self.dice.randint(1, 4)
        head, inside, after = self.start("head", params), self.start("body"), self.start("after")
        self.block.end = Jump(head, [0, *(self.one() for _ in range(params - 1))])
        before = list(self.known)
        self.place(head)
        count = head.params[0]
        self.known += head.params[1:]
        most = self.dice.randint(0, 5)
        head.end = Branch("lt", count, most, inside, after)
        self.place(inside)
        self.body(depth - 1)
        more = self.emit("add", count, 1)
        self.block.end = Jump(head, [more, *(self.one() for _ in range(params - 1))])
        self.known = before + list(head.params)
        self.place(after)

    def write(self) -> Function:
        for number in range(self.dice.randint(1, 8)):
            self.known.append(self.emit("peek", At(self.function.context, 8 * (number % 4)), info=8))
        self.body(self.dice.randint(0, 3))
        total: Operand = 0
        for value in self.known:
            total = self.emit("xor", self.emit("mul", total, 31), value)
        self.block.end = Exit(total)
        return self.function


def meaning(function: Function, context: list[int], cpu: int) -> int:
    """What a function returns, from what its IR says."""
    values: dict[Value, int] = {}

    def of(operand: Operand) -> int:
        return values[operand] if isinstance(operand, Value) else operand  # type: ignore[return-value]

    block = function.entry
    while True:
        for one in block.body:
            args = [of(arg) if isinstance(arg, Value | int) else 0 for arg in one.args]
            if one.op == "peek":
                assert isinstance(one.args[0], At)
                found = context[one.args[0].offset // 8]
            elif one.op == "call":
                found = cpu if one.info == "get_smp_processor_id" else 5
            elif one.op == "zext":
                found = args[0] & (1 << one.info) - 1  # type: ignore[operator]
            elif one.op == "sext":
                found = signed(args[0], one.info)  # type: ignore[arg-type]
            elif one.op == "cmp":
                found = int(bool(decide(str(one.info), *args)))
            else:
                found = compute(one.op, *args)
            assert one.dst is not None
            values[one.dst] = signed(found, 64)
        end = block.end
        if isinstance(end, Exit):
            assert end.value is not None
            return of(end.value) & MASK
        if isinstance(end, Branch):
            block = end.then if decide(end.condition, of(end.a), of(end.b)) else end.otherwise
            continue
        given_ = [of(arg) for arg in end.args]
        block = end.target
        values.update(zip(block.params, given_, strict=True))


def compiled(function: Function) -> Image | None:
    """A raw tracepoint's program, None where it needs more stack than there is."""
    verify.verify(function, "writing")
    optimize(function)
    verify.verify(function, "optimize")
    try:
        allocate(function, "random")
    except StackError:
        return None
    linked = link(select(Module([function])).items)
    return Image("random", "rawtracepoint", isa.encode(linked.insns), (), (), ())


SEEDS = st.integers(0, (1 << 32) - 1)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(SEEDS)
def test_functions_give_what_their_ir_says(seed: int) -> None:
    dice = random.Random(seed)
    context = [dice.choice([0, 1, 7, MASK, 1 << 63, dice.getrandbits(64)]) for _ in range(4)]
    function = Writer(seed).write()
    expected = meaning(function, context, 3)
    image = compiled(function)
    if image is not None:
        assert vm.Machine(image, cpu=3, monotonic_ns=5).run(vm.arguments(context)).r0 == expected


@pytest.mark.live
@pytest.mark.kernels("6.1")  # the oldest verifier; the newest one judges here
@settings(max_examples=fewer_in_guests(60), deadline=None, suppress_health_check=list(HealthCheck))
@given(SEEDS)
def test_the_kernel_runs_functions_as_their_ir_says(seed: int) -> None:
    dice = random.Random(seed)
    context = [dice.choice([0, 1, 7, MASK, 1 << 63, dice.getrandbits(64)]) for _ in range(4)]
    function = Writer(seed).write()
    expected = meaning(function, context, 0)
    image = compiled(function)
    if image is not None:
        with prog.load(image, {}) as loaded:
            found = loaded.test_run(context=vm.arguments(context), cpu=0).result
        assert found == expected & 0xFFFFFFFF
