"""Where arguments of static probes are: the operands that assemblers write, some of which no probe reads."""

import pytest

from kwire.bpf.arch import ARCHES
from kwire.lang.context import Located, Slots
from kwire.lang.types import Int
from kwire.lang.usdt import REGISTERS, arguments

X86 = [
    ("-4@$-7", Int(4, True), Located(-7)),
    ("8@$0x10", Int(8, False), Located(16)),
    ("-4@%edi", Int(4, True), Located(0, "di")),
    ("8@%r13", Int(8, False), Located(0, "r13")),
    ("1@%r9b", Int(1, False), Located(0, "r9")),
    ("2@%ax", Int(2, False), Located(0, "ax")),
    ("1@%sil", Int(1, False), Located(0, "si")),
    ("1@%bl", Int(1, False), Located(0, "bx")),
    ("-4@-20(%rbp)", Int(4, True), Located(-20, "bp", memory=True)),
    ("8@(%rax)", Int(8, False), Located(0, "ax", memory=True)),
    ("8@8(%rax,%rdx,4)", Int(8, False), Located(8, "ax", "dx", 4, True)),
    ("8@16+24(%rsp)", Int(8, False), Located(40, "sp", memory=True)),
    ("4@(,%rcx,8)", Int(4, False), Located(0, "", "cx", 8, True)),
    ("%rdi", Int(8, False), Located(0, "di")),
    ("8f@%xmm0", Int(8, False), Slots(0, 0)),
    ("4@counter(%rip)", Int(4, False), Slots(0, 0)),
    ("4@%zz", Int(4, False), Slots(0, 0)),
]
AARCH64 = [
    ("8@x3", Int(8, False), Located(0, "x3")),
    ("-4@w20", Int(4, True), Located(0, "x20")),
    ("-4@12", Int(4, True), Located(12)),
    ("8@[x0]", Int(8, False), Located(0, "x0", memory=True)),
    ("-4@[sp, 12]", Int(4, True), Located(12, "sp", memory=True)),
    ("-4@[x29, #-8]", Int(4, True), Located(-8, "x29", memory=True)),
    ("8@[x1, x2]", Int(8, False), Located(0, "x1", "x2", 1, True)),
    ("8@[x1, x2, lsl #3]", Int(8, False), Located(0, "x1", "x2", 8, True)),
    ("8@q0", Int(8, False), Slots(0, 0)),
]


@pytest.mark.parametrize(
    ("machine", "text", "type_", "access"),
    [("x86_64", *one) for one in X86] + [("aarch64", *one) for one in AARCH64],
)
def test_one_operand(machine: str, text: str, type_: Int, access: Located | Slots) -> None:
    [param] = arguments(text, machine)
    assert (param.name, param.type, param.access) == ("arg0", type_, access)


@pytest.mark.parametrize("machine", REGISTERS)
def test_several_are_numbered(machine: str) -> None:
    table = AARCH64 if machine == "aarch64" else X86
    found = arguments(" ".join(text for text, *_ in table), machine)
    assert [one.name for one in found] == [f"arg{number}" for number in range(len(table))]
    assert [one.access for one in found] == [access for *_, access in table]
    assert arguments("", machine) == ()


@pytest.mark.parametrize("machine", REGISTERS)
def test_registers_are_those_of_the_machine(machine: str) -> None:
    host = "x86_64" if machine == "i386" else machine  # runs its programs
    assert set(REGISTERS[machine].values()) <= set(ARCHES[host].registers)
