"""What each instruction must do: programs and the r0 they end with, run by the interpreter and by the kernel.

A program gets r1 = the address of its memory and r2 = its length.
"""

from typing import Any, NamedTuple, Protocol

import pytest

from kwire.bpf import disasm, text
from kwire.bpf.asm import Item
from kwire.bpf.insn import FORMS, Form, Insn, form_of

MIN64, MAX64 = 1 << 63, (1 << 63) - 1
M1 = (1 << 64) - 1  # -1 in 64 bits
M1_32 = (1 << 32) - 1


class Executor(Protocol):
    def run(self, items: list[Item], memory: bytes = ...) -> Any: ...


class Case(NamedTuple):
    """A program (without its last exit), the r0 it gives, the memory it starts with, what that becomes.

    `refused`: legal, but the kernel's verifier does not take it (an immediate shift by the width or more).
    """

    source: str
    r0: int
    memory: bytes = b""
    after: bytes | None = None
    refused: bool = False


def lines(*source: str) -> str:
    return "\n".join(source)


def binary(operator: str, a: int, b: int, r0: int, w: bool = False) -> Case:
    """`a operator b` in registers; operands are 64-bit numbers even where the operation is 32 bits."""
    r = "w" if w else "r"
    source = lines(f"r0 = {a & M1:#x}", f"r1 = {b & M1:#x}", f"{r}0 {operator} {r}1")
    return Case(source, r0 & M1)


def immediate(operator: str, a: int, imm: int, r0: int, w: bool = False, refused: bool = False) -> Case:
    return Case(
        lines(f"r0 = {a & M1:#x}", f"{'w' if w else 'r'}0 {operator} {imm}"), r0 & M1, refused=refused
    )


def unary(expression: str, a: int, r0: int) -> Case:
    """An expression of the register r1 or w1 that becomes r0 or w0."""
    target = "w0" if "w1" in expression else "r0"
    return Case(lines(f"r1 = {a & M1:#x}", f"{target} = {expression}"), r0 & M1)


def swap(order: str, a: int, r0: int) -> Case:
    return Case(lines(f"r0 = {a & M1:#x}", f"r0 = {order} r0"), r0 & M1)


def branch(comparison: str, a: int, b: int, taken: bool) -> list[Case]:
    """A comparison of two registers, and where b fits also with an immediate; r0 = 1 where it is taken."""
    r = "w" if comparison[0] == "w" else "r"
    operator = comparison[1:]
    heads = [lines(f"r0 = {a & M1:#x}", f"r1 = {b & M1:#x}", f"if {r}0 {operator} {r}1 goto yes")]
    if -(1 << 31) <= b < 1 << 31:
        heads.append(lines(f"r0 = {a & M1:#x}", f"if {r}0 {operator} {b} goto yes"))
    return [Case(lines(head, "r0 = 0", "exit", "yes: r0 = 1"), int(taken)) for head in heads]


def atomic(operation: str, before: int, r2: int, after: int, r0: int, size: int = 8, start: int = 0) -> Case:
    """An atomic operation on the memory with the operand r2; `r0`: what r2 (r0 of a cmpxchg) is then."""
    result = "" if "cmpxchg" in operation else "r0 = r2"
    source = lines(f"r0 = {start & M1:#x}", f"r2 = {r2 & M1:#x}", operation, result)

    def memory(value: int) -> bytes:
        return (value & (1 << 8 * size) - 1).to_bytes(size, "little") + b"\xa5" * 8  # bytes that must stay

    return Case(source, r0 & M1, memory(before), memory(after))


ARITHMETIC = [
    binary("+=", M1, 1, 0),
    binary("+=", MAX64, 1, MIN64),
    binary("+=", M1_32, 1, 1 << 32),
    binary("+=", 0x1_FFFF_FFFF, 1, 0, w=True),
    binary("+=", M1, M1, M1_32 - 1, w=True),
    immediate("+=", 5, -7, -2),
    immediate("+=", 5, -7, M1_32 - 1, w=True),
    immediate("+=", 0, -(1 << 31), -(1 << 31)),
    binary("-=", 0, 1, M1),
    binary("-=", MIN64, 1, MAX64),
    binary("-=", 0, 1, M1_32, w=True),
    immediate("-=", 0, -(1 << 31), 1 << 31),
    immediate("-=", 0x1_0000_0000, 1, M1_32, w=True),
    binary("*=", M1, M1, 1),
    binary("*=", 1 << 32, 1 << 32, 0),
    binary("*=", MIN64, M1, MIN64),
    binary("*=", 0x1_0000_0003, 5, 15, w=True),
    immediate("*=", 3, -2, -6),
    immediate("*=", 0x8000_0001, 2, 2, w=True),
    binary("|=", 0xF0F0 << 48, 0x0F0F, 0xF0F0_0000_0000_0F0F),
    binary("|=", 0x9_0000_00F0, 0x5_0000_000F, 0xFF, w=True),
    immediate("|=", 1, -16, M1 - 14),
    immediate("|=", M1, 0, M1_32, w=True),
    binary("&=", M1, 0xFF00_0000_0000_00FF, 0xFF00_0000_0000_00FF),
    binary("&=", M1, 0x5_0000_00F0, 0xF0, w=True),
    immediate("&=", M1, -16, M1 - 15),
    immediate("&=", M1, -16, M1_32 - 15, w=True),
    binary("^=", M1, 0x5555_5555_5555_5555, 0xAAAA_AAAA_AAAA_AAAA),
    binary("^=", M1, 0x5_0000_00FF, 0xFFFF_FF00, w=True),
    immediate("^=", M1, -1, 0),
    immediate("^=", MIN64, 0, 0, w=True),
    Case("r0 = -1", M1),
    Case("w0 = -1", M1_32),
    Case("r0 = 0x123456789abcdef0", 0x1234_5678_9ABC_DEF0),
    unary("r1", MIN64, MIN64),
    unary("w1", M1, M1_32),
    Case(lines("r0 = 0x8000000000000000", "r0 = -r0"), MIN64),
    Case(lines("r0 = 1", "r0 = -r0"), M1),
    Case(lines("r0 = 0x1_00000001".replace("_", ""), "w0 = -w0"), M1_32),
    Case(lines("r0 = 0x80000000", "w0 = -w0"), 1 << 31),
]

DIVISION = [
    binary("/=", 7, 2, 3),
    binary("/=", M1, 2, MAX64),
    binary("/=", 7, 0, 0),
    binary("/=", M1, 1 << 32, 0, w=True),  # the divisor's lower half is zero
    binary("/=", 0x5_0000_0007, 0x9_0000_0002, 3, w=True),
    immediate("/=", M1, -1, 1),
    immediate("/=", 6, -1, 0),
    immediate("/=", M1, -2, 1, w=True),
    binary("%=", 7, 2, 1),
    binary("%=", M1, 0, M1),
    binary("%=", 0x7_0000_0005, 0, 5, w=True),
    binary("%=", 0x7_0000_0005, 1 << 32, 5, w=True),
    immediate("%=", M1, -3, 2),
    immediate("%=", M1, 10, 5, w=True),
    binary("s/=", -7, 2, -3),
    binary("s/=", 7, -2, -3),
    binary("s/=", -7, -2, 3),
    binary("s/=", -7, 0, 0),
    binary("s/=", MIN64, -1, MIN64),
    binary("s/=", 1 << 31, -1, 1 << 31, w=True),
    binary("s/=", 0xFFFF_FFF9, 2, 0xFFFF_FFFD, w=True),
    binary("s/=", 0xFFFF_FFF9, 1 << 32, 0, w=True),
    immediate("s/=", -7, -1, 7),
    immediate("s/=", 7, -1, 0xFFFF_FFF9, w=True),
    immediate("s/=", MIN64, -1, MIN64),
    immediate("s/=", 1 << 31, -1, 1 << 31, w=True),
    binary("s%=", -7, 2, -1),
    binary("s%=", 7, -2, 1),
    binary("s%=", -7, -2, -1),
    binary("s%=", -7, 0, -7),
    binary("s%=", MIN64, -1, 0),
    binary("s%=", 1 << 31, -1, 0, w=True),
    binary("s%=", 0xFFFF_FFF9, 4, 0xFFFF_FFFD, w=True),
    binary("s%=", 0x9_FFFF_FFF9, 0, 0xFFFF_FFF9, w=True),
    immediate("s%=", -13, 5, -3),
    immediate("s%=", -13, -5, 0xFFFF_FFFD, w=True),
]

SHIFTS = [
    binary("<<=", 1, 63, MIN64),
    binary("<<=", 1, 64, 1),
    binary("<<=", 1, 65, 2),
    binary("<<=", 1, -1, MIN64),
    binary("<<=", 1, 32, 1, w=True),
    binary("<<=", 1, 31, 1 << 31, w=True),
    binary("<<=", 1, 1 << 32, 1, w=True),
    binary(">>=", M1, 63, 1),
    binary(">>=", M1, 64, M1),
    binary(">>=", M1, 33, 0x7FFF_FFFF, w=True),
    binary(">>=", MIN64, 31, 0, w=True),
    binary("s>>=", MIN64, 63, M1),
    binary("s>>=", MIN64, 64, MIN64),
    binary("s>>=", MIN64, 127, M1),
    binary("s>>=", 0x8000_0000, 31, M1_32, w=True),
    binary("s>>=", 0x8000_0000, 32, 0x8000_0000, w=True),
    binary("s>>=", 0x7_4000_0000, 30, 1, w=True),
    immediate("<<=", 1, 63, MIN64),
    immediate("<<=", 3, 31, 1 << 31, w=True),
    immediate(">>=", MIN64, 63, 1),
    immediate(">>=", M1, 4, 0x0FFF_FFFF, w=True),
    immediate("s>>=", -16, 2, -4),
    immediate("s>>=", 0xFFFF_FFF0, 2, 0xFFFF_FFFC, w=True),
    immediate("<<=", 1, 64, 1, refused=True),
    immediate("<<=", 1, 33, 2, w=True, refused=True),
    immediate(">>=", 4, 65, 2, refused=True),
    immediate("s>>=", -4, -63, -2, refused=True),
]

EXTENSION = [
    unary("(s8)r1", 0x80, -128),
    unary("(s8)r1", 0xFF7F, 0x7F),
    unary("(s16)r1", 0x1_8000, -0x8000),
    unary("(s32)r1", 0x8000_0000, -0x8000_0000),
    unary("(s32)r1", 0xF_7FFF_FFFF, 0x7FFF_FFFF),
    unary("(s8)w1", 0x80, 0xFFFF_FF80),
    unary("(s16)w1", 0xFFFF_8000, 0xFFFF_8000),
    unary("(s16)w1", 0x1_0000_7FFF, 0x7FFF),
    swap("le16", 0x1122_3344_5566_7788, 0x7788),
    swap("le32", 0x1122_3344_5566_7788, 0x5566_7788),
    swap("le64", 0x1122_3344_5566_7788, 0x1122_3344_5566_7788),
    swap("be16", 0x1122_3344_5566_7788, 0x8877),
    swap("be32", 0x1122_3344_5566_7788, 0x8877_6655),
    swap("be64", 0x1122_3344_5566_7788, 0x8877_6655_4433_2211),
    swap("bswap16", 0x1122_3344_5566_7788, 0x8877),
    swap("bswap32", 0x1122_3344_5566_7788, 0x8877_6655),
    swap("bswap64", 0x1122_3344_5566_7788, 0x8877_6655_4433_2211),
    swap("bswap32", 0xFFFF_FFFF_0000_0080, 0x8000_0000),
]

JUMPS = [
    *branch("r==", M1, -1, True),
    *branch("r==", M1_32, -1, False),
    *branch("w==", M1_32, -1, True),
    *branch("w==", 0x9_0000_0001, 1, True),
    *branch("r!=", 1 << 32, 0, True),
    *branch("w!=", 1 << 32, 0, False),
    *branch("r>", M1, 1, True),
    *branch("r>", 1, -1, False),
    *branch("w>", 0x1_0000_0000, 0, False),
    *branch("r>=", 5, 5, True),
    *branch("w>=", 4, 5, False),
    *branch("r<", 1, -1, True),
    *branch("r<", MIN64, MAX64, False),
    *branch("w<", 0x1_0000_0000, 1, True),
    *branch("r<=", 5, 5, True),
    *branch("w<=", M1, -2, False),
    *branch("rs>", 1, -1, True),
    *branch("rs>", MIN64, -1, False),
    *branch("ws>", 0x8000_0000, 0, False),
    *branch("ws>", 0x8000_0000_0000_0001, 0, True),
    *branch("rs>=", -5, -5, True),
    *branch("ws>=", M1_32, 0, False),
    *branch("rs<", MIN64, 0, True),
    *branch("rs<", 0x8000_0000, 0, False),
    *branch("ws<", 0x8000_0000, 0, True),
    *branch("rs<=", -1, 0, True),
    *branch("ws<=", 1, 0, False),
    *branch("r&", 0x10, 0x30, True),
    *branch("r&", 0x10, 0x20, False),
    *branch("r&", MIN64, -1, True),
    *branch("w&", MIN64, -1, False),
    Case(lines("goto over", "back: r0 += 1", "goto end", "over: r0 = 1", "goto back", "end: r0 += 1"), 3),
    Case(
        lines("r0 = 1", "gotol over", "back: r0 += 2", "gotol end", "over: r0 *= 4", "gotol back", "end:"), 6
    ),
    Case(lines("r0 = 0", "r1 = 0", "again: r0 += r1", "r1 += 1", "if r1 < 0x65 goto again"), 5050),
]

CALLS = [
    # r1 to r5 go in, r0 comes out, r6 to r9 and the caller's stack stay
    Case(
        lines(
            "*(u64 *)(r10 -8) = 77",
            *(f"r{n} = {n}" for n in range(1, 10)),
            "call sum",
            *(f"r0 += r{n}" for n in range(6, 10)),
            "r1 = *(u64 *)(r10 -8)",
            "r0 += r1",
            "exit",
            "sum: *(u64 *)(r10 -8) = 1000",
            "r0 = 0",
            *(f"r0 += r{n}" for n in range(1, 6)),
            *(f"r{n} = 500" for n in range(6, 10)),
        ),
        1 + 2 + 3 + 4 + 5 + 6 + 7 + 8 + 9 + 77,
    ),
    # a function reads its caller's stack
    Case(
        lines("*(u64 *)(r10 -8) = 41", "r1 = r10", "call f", "exit", "f: r0 = *(u64 *)(r1 -8)", "r0 += 1"), 42
    ),
    # a function calls a function
    Case(
        lines(
            "r1 = 3",
            "call f",
            "exit",
            "f: r6 = r1",
            "r1 += 1",
            "call g",
            "r0 += r6",
            "exit",
            "g: r0 = r1",
            "r0 *= 10",
        ),
        43,
    ),
]

BYTES = bytes(range(0x80, 0x90))
MEMORY = [
    Case("r0 = *(u8 *)(r1 +1)", 0x81, BYTES),
    Case("r0 = *(u16 *)(r1 +1)", 0x8281, BYTES),
    Case("r0 = *(u32 *)(r1 +1)", 0x8483_8281, BYTES),
    Case("r0 = *(u64 *)(r1 +0)", 0x8786_8584_8382_8180, BYTES),
    Case("r0 = *(s8 *)(r1 +1)", M1 - 0x7E, BYTES),
    Case("r0 = *(s16 *)(r1 +2)", 0x8382 - (1 << 16) & M1, BYTES),
    Case("r0 = *(s32 *)(r1 +4)", 0x8786_8584 - (1 << 32) & M1, BYTES),
    Case("r0 = *(s32 *)(r1 +0)", 0x7F, (0x7F).to_bytes(4, "little")),
    Case(lines("r1 += 16", "r0 = *(u8 *)(r1 -1)"), 0x8F, BYTES),
    Case("r0 = r2", 16, BYTES),
    Case(lines("*(u8 *)(r1 +1) = 511", "r0 = 0"), 0, bytes(4), bytes([0, 255, 0, 0])),
    Case(lines("*(u16 *)(r1 +1) = -2", "r0 = 0"), 0, bytes(4), bytes([0, 254, 255, 0])),
    Case(lines("*(u32 *)(r1 +0) = -2", "r0 = 0"), 0, bytes(8), bytes([254, 255, 255, 255, 0, 0, 0, 0])),
    Case(lines("*(u64 *)(r1 +0) = -2", "r0 = 0"), 0, bytes(9), (M1 - 1).to_bytes(8, "little") + b"\0"),
    Case(lines("r0 = 0x1122334455667788", "*(u8 *)(r1 +0) = r0"), 0x1122334455667788, bytes(2), b"\x88\0"),
    Case(
        lines("r0 = 0x1122334455667788", "*(u16 *)(r1 +0) = r0"), 0x1122334455667788, bytes(3), b"\x88\x77\0"
    ),
    Case(lines("r0 = 0x11223344", "*(u32 *)(r1 +1) = r0"), 0x11223344, bytes(6), b"\0\x44\x33\x22\x11\0"),
    Case(lines("r0 = 1", "*(u64 *)(r1 +0) = r0"), 1, b"\xff" * 9, b"\1" + bytes(7) + b"\xff"),
    Case(lines("*(u64 *)(r10 -512) = 5", "r0 = *(u64 *)(r10 -512)"), 5),
    Case(lines("*(u32 *)(r10 -8) = -1", "*(u32 *)(r10 -4) = 1", "r0 = *(u64 *)(r10 -8)"), 0x1_FFFF_FFFF),
]

U64, U32 = "(u64 *)(r1 +0)", "(u32 *)(r1 +0)"
BIG = 0x1122_3344_5566_7788
ATOMICS = [
    atomic(f"lock *{U64} += r2", M1, 2, 1, 2),
    atomic(f"lock *{U32} += r2", M1_32, 0x5_0000_0002, 1, 0x5_0000_0002, size=4),
    atomic(f"lock *{U64} |= r2", 0xF0, 0x0F, 0xFF, 0x0F),
    atomic(f"lock *{U64} &= r2", 0xFF, -16, 0xF0, -16),
    atomic(f"lock *{U32} |= r2", 0x8000_0000, 0x9_0000_0001, 0x8000_0001, 0x9_0000_0001, size=4),
    atomic(f"lock *{U32} &= r2", M1_32, 0x5_0000_00F0, 0xF0, 0x5_0000_00F0, size=4),
    atomic(f"lock *{U64} ^= r2", BIG, BIG, 0, BIG),
    atomic(f"lock *{U32} ^= r2", M1_32, M1, 0, M1, size=4),
    atomic(f"r2 = atomic64_fetch_add({U64}, r2)", BIG, -1, BIG - 1, BIG),
    atomic(f"r2 = atomic_fetch_add({U32}, r2)", M1_32, BIG << 32 | 1, 0, M1_32, size=4),
    atomic(f"r2 = atomic64_fetch_or({U64}, r2)", 0xF0, 0x0F, 0xFF, 0xF0),
    atomic(f"r2 = atomic_fetch_or({U32}, r2)", 0x8000_0000, 1, 0x8000_0001, 0x8000_0000, size=4),
    atomic(f"r2 = atomic64_fetch_and({U64}, r2)", BIG, 0xFF, 0x88, BIG),
    atomic(f"r2 = atomic_fetch_and({U32}, r2)", M1_32, M1 ^ 1, M1_32 ^ 1, M1_32, size=4),
    atomic(f"r2 = atomic64_fetch_xor({U64}, r2)", 0xF0, 0xFF, 0x0F, 0xF0),
    atomic(f"r2 = atomic_fetch_xor({U32}, r2)", 0xF0, 0xFF, 0x0F, 0xF0, size=4),
    atomic(f"r2 = atomic64_xchg({U64}, r2)", BIG, M1, M1, BIG),
    atomic(f"r2 = atomic_xchg({U32}, r2)", 0x8000_0000, BIG, 0x5566_7788, 0x8000_0000, size=4),
    atomic(f"r0 = atomic64_cmpxchg({U64}, r0, r2)", BIG, 7, 7, BIG, start=BIG),
    atomic(f"r0 = atomic64_cmpxchg({U64}, r0, r2)", BIG, 7, BIG, BIG, start=5),
    atomic(f"r0 = atomic_cmpxchg({U32}, r0, r2)", 0x8000_0005, 7, 7, 0x8000_0005, size=4, start=0x8000_0005),
    atomic(f"r0 = atomic_cmpxchg({U32}, r0, r2)", 5, 7, 7, 5, size=4, start=0x1_0000_0005),
    atomic(f"r0 = atomic_cmpxchg({U32}, r0, r2)", 5, 7, 5, 5, size=4, start=6),
    atomic(f"r2 = load_acquire({U64})", BIG, 0, BIG, BIG),
    atomic(f"r2 = load_acquire({U32})", 0x8000_0001, M1, 0x8000_0001, 0x8000_0001, size=4),
    atomic("r2 = load_acquire((u8 *)(r1 +0))", BIG, M1, BIG, 0x88),
    atomic("r2 = load_acquire((u16 *)(r1 +0))", BIG, M1, BIG, 0x7788),
    atomic(f"store_release({U64}, r2)", 0, BIG, BIG, BIG),
    atomic("store_release((u8 *)(r1 +0), r2)", 0, BIG, 0x88, BIG),
    atomic("store_release((u16 *)(r1 +0), r2)", M1_32, BIG, 0xFFFF_7788, BIG, size=4),
    atomic(f"store_release({U32}, r2)", 0, BIG, 0x5566_7788, BIG, size=4),
]

FAMILIES = {
    "arithmetic": ARITHMETIC,
    "division": DIVISION,
    "shift": SHIFTS,
    "extension": EXTENSION,
    "jump": JUMPS,
    "call": CALLS,
    "memory": MEMORY,
    "atomic": ATOMICS,
}
CASES = [
    pytest.param(case, id=f"{family}-{n}")
    for family, cases in FAMILIES.items()
    for n, case in enumerate(cases)
]


def program(case: Case) -> list[Item]:
    return [*text.parse(case.source + "\nexit")]


def check(case: Case, executor: Executor) -> None:
    outcome = executor.run(program(case), case.memory)
    assert (hex(outcome.r0), outcome.memory) == (
        hex(case.r0),
        case.memory if case.after is None else case.after,
    ), case.source


@pytest.mark.parametrize("case", CASES)
def test_interpreter(case: Case, simulator: Executor) -> None:
    check(case, simulator)


@pytest.mark.live
@pytest.mark.native
@pytest.mark.parametrize("family", FAMILIES)
def test_kernel(family: str, kernel: Executor) -> None:
    """The same tables hold for the kernel: they state what eBPF is, not what the interpreter does."""
    from kwire.kernel.syscall import KernelError

    for case in FAMILIES[family]:
        if case.refused:
            with pytest.raises(KernelError):
                kernel.run(program(case), case.memory)
        else:
            check(case, kernel)


def example(form: Form) -> Insn:
    return Insn(form.opcode, *(use if isinstance(use, int) else 1 for use in form[1:5]))


def test_every_form_of_the_table_is_tried() -> None:
    tried = {
        id(form_of(insn)) for cases in FAMILIES.values() for case in cases for insn in text.parse(case.source)
    }
    apart = ("exit", "call", "call_btf", "callx", "ldabs", "ldind", "lddw")  # in test_vm.py
    missing = {disasm.text(example(form)) for form in FORMS if id(form) not in tried and form.op not in apart}
    assert sorted(missing) == []
