"""Builders, labels, maps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwire.bpf import asm, disasm, vm
from kwire.bpf import insn as isa
from kwire.bpf.asm import R0, R1, R2, R9, R10, AsmError, Item, Label
from kwire.bpf.image import MapSpec, MapUse
from kwire.bpf.insn import PSEUDO_FUNC, decode

L = Label("there")

# builder → how the kernel prints its instruction
BUILT = [
    (asm.mov64(R1, R2), "r1 = r2"),
    (asm.mov64(R1, -5), "r1 = -5"),
    (asm.mov64_imm(R1, 5), "r1 = 5"),
    (asm.mov64_reg(R1, R2), "r1 = r2"),
    (asm.mov32(R1, 0xFFFFFFFF), "w1 = -1"),
    (asm.alu64("add", R1, R2), "r1 += r2"),
    (asm.alu64("sdiv", R1, 3), "r1 s/= 3"),
    (asm.alu32("smod", R1, R2), "w1 s%= w2"),
    (asm.alu32("and", R1, 0x80000000), "w1 &= -2147483648"),
    (asm.movsx(R1, R2, 8), "r1 = (s8)r2"),
    (asm.movsx(R1, R2, 16, 32), "w1 = (s16)w2"),
    (asm.neg64(R1), "r1 = -r1"),
    (asm.neg32(R1), "w1 = -w1"),
    (asm.swap("be", R1, 16), "r1 = be16 r1"),
    (asm.swap("le", R1, 32), "r1 = le32 r1"),
    (asm.swap("bswap", R1, 64), "r1 = bswap64 r1"),
    (asm.lddw(R1, -1), "r1 = 0xffffffffffffffff"),
    (asm.ldx("dw", R1, R2, 8), "r1 = *(u64 *)(r2 +8)"),
    (asm.ldsx("w", R1, R2, -4), "r1 = *(s32 *)(r2 -4)"),
    (asm.stx("h", R10, R2, -2), "*(u16 *)(r10 -2) = r2"),
    (asm.st("b", R10, 255, -1), "*(u8 *)(r10 -1) = 255"),
    (asm.st("w", R10, 0xFFFFFFFF, -4), "*(u32 *)(r10 -4) = -1"),
    (asm.atomic("add", "dw", R1, R2, 0), "lock *(u64 *)(r1 +0) += r2"),
    (asm.atomic("or", "w", R1, R2, 4, fetch=True), "r2 = atomic_fetch_or((u32 *)(r1 +4), r2)"),
    (asm.atomic("xchg", "dw", R1, R2, 0), "r2 = atomic64_xchg((u64 *)(r1 +0), r2)"),
    (asm.atomic("cmpxchg", "w", R1, R2, 0), "r0 = atomic_cmpxchg((u32 *)(r1 +0), r0, r2)"),
    (asm.load_acquire("b", R1, R2, 0), "r1 = load_acquire((u8 *)(r2 +0))"),
    (asm.store_release("dw", R1, R2, 8), "store_release((u64 *)(r1 +8), r2)"),
    (asm.call(5), "call bpf_ktime_get_ns#5"),
    (asm.call_local(L), "call pc+0"),
    (asm.jmp("gt", R1, 5, L), "if r1 > 0x5 goto pc+0"),
    (asm.jmp("set", R1, -2, L), "if r1 & 0xfffffffe goto pc+0"),
    (asm.jmp32("sle", R1, R2, L), "if w1 s<= w2 goto pc+0"),
    (asm.jmp32("eq", R1, 0xFFFFFFFF, L), "if w1 == 0xffffffff goto pc+0"),
    (asm.ja(L), "goto pc+0"),
    (asm.gotol(L), "gotol pc+0"),
    (asm.func(R1, L), "r1 = subprog[+1]"),
    (asm.map_fd(R1, "m"), "r1 = map[fd:0]"),
    (asm.map_value(R1, "m", 24), "r1 = map[fd:0][0]+24"),
    (asm.exit_(), "exit"),
]


@pytest.mark.parametrize(("item", "text"), BUILT, ids=[text for _, text in BUILT])
def test_builders(item: Item, text: str) -> None:
    insn = asm.assemble([item, L])[0]
    assert disasm.text(insn) == text


@pytest.mark.parametrize(
    "build",
    [
        lambda: asm.alu64("nand", R1, 1),
        lambda: asm.jmp("above", R1, 1, L),
        lambda: asm.mov64(R1, 1 << 31),
        lambda: asm.alu64("and", R1, 0xFFFFFFFF),
        lambda: asm.mov32(R1, 1 << 32),
        lambda: asm.st("dw", R10, 0xFFFFFFFF, -8),
        lambda: asm.jmp("eq", R1, 0xFFFFFFFF, L),
    ],
)
def test_what_would_not_mean_what_it_says_is_refused(build: object) -> None:
    assert callable(build)
    with pytest.raises(AsmError):
        build()


@given(st.integers(-(1 << 63), (1 << 64) - 1))
def test_constants_of_any_size(value: int) -> None:
    insn = asm.constant(R0, value)
    assert vm.Machine([insn, asm.exit_()]).run().r0 == value & (1 << 64) - 1
    fits = -(1 << 31) <= value < 1 << 32 or value >= (1 << 64) - (1 << 31)
    assert insn.slots == (1 if fits else 2)


def test_labels_count_slots_in_both_directions() -> None:
    start, end = Label("start"), Label("end")
    linked = asm.link(
        [start, asm.lddw(R1, 1 << 40), asm.jmp("eq", R1, R2, end), asm.ja(start), end, asm.call_local(start)]
    )
    assert linked.labels == {start: 0, end: 4}
    assert [insn.offset for insn in linked.insns] == [0, 1, -4, 0]
    assert linked.insns[3].imm == -5


def test_a_function_address_before_its_use_is_32_bits() -> None:
    start = Label()
    insns = asm.assemble([start, asm.mov64(R0, 0), asm.func(R2, start), asm.exit_()])
    assert insns[1] == (0x18, 2, PSEUDO_FUNC, 0, 0xFFFFFFFE)


def test_labels_are_told_apart_by_identity() -> None:
    one, two = Label("x"), Label("x")
    assert asm.link([one, asm.exit_(), two, asm.exit_()]).labels == {one: 0, two: 1}


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([asm.ja(L)], "used but not placed"),
        ([L, L], "placed twice"),
        ([asm.ja(L), *[asm.exit_()] * 32768, L], "over 32768 instructions does not fit"),
        ([L, *[asm.exit_()] * 32768, asm.ja(L)], "over -32769 instructions does not fit"),
    ],
)
def test_labels_that_cannot_be_reached(items: list[Item], message: str) -> None:
    with pytest.raises(AsmError, match=message) as caught:
        asm.assemble(items)
    assert str(caught.value).startswith("assemble eBPF program there: ")  # the name, not how Python shows it


def test_the_longest_jumps() -> None:
    far, middle = Label(), Label()
    assert asm.assemble([asm.ja(far), *[asm.exit_()] * 32767, far])[0].offset == 32767
    assert asm.assemble([asm.gotol(middle), *[asm.exit_()] * 40000, middle])[0].imm == 40000


def test_images_know_where_their_maps_are_used() -> None:
    maps = [MapSpec("hits", "array", 4, 8, 1), MapSpec("tasks", "hash", 4, 1, 16)]
    items: list[Item] = [
        asm.lddw(R9, 1 << 40),
        asm.map_value(R1, "hits", 4),
        asm.map_fd(R2, "tasks"),
        asm.mov64(R0, 0),
        asm.exit_(),
    ]
    image = asm.image("x", "tracepoint", items, maps)
    assert image.uses == (MapUse(2, "hits", 4), MapUse(4, "tasks", None))
    assert decode(image.code)[1].imm == 4 << 32
    with pytest.raises(AsmError, match="'tasks' is used but not declared"):
        asm.image("x", "tracepoint", items, maps[:1])


def test_jumps_that_are_too_long_go_in_leaps() -> None:
    """Forward and back, over a program of which every part is run: r0 counts what was not jumped over."""
    start, middle, end = Label("start"), Label("middle"), Label("end")
    filler = [asm.alu64("add", R9, 1) for _ in range(3000)]
    items: list[Item] = [
        asm.mov64(R0, 0),
        asm.mov64(R9, 0),
        start,
        asm.alu64("add", R0, 1),
        asm.jmp("eq", R0, 3, end),
        asm.jmp("eq", R0, 2, middle),
        *filler,
        middle,
        *filler,
        asm.ja(start),
        *filler,
        end,
        asm.alu64("lsh", R0, 32),
        asm.alu64("or", R0, R9),
        asm.exit_(),
    ]
    made = asm.bridged(items, reach=400)
    linked = asm.link(made)
    jumps = [insn.offset for insn in linked.insns if insn.opcode & 7 == isa.JMP and insn.opcode != isa.EXIT]
    assert max(map(abs, jumps)) < 500
    assert vm.Machine(linked.insns).run().r0 == 3 << 32 | 9000
    assert asm.bridged(items) == items
