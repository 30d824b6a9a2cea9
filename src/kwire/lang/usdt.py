"""Where the arguments of a static probe (USDT) are: the words of its note → accesses with types.

A note says `SIZE@OPERAND` for each: the size in bytes, negative where the value is signed, and an operand in
the assembler's words. Invariants: each argument becomes an access of its own, also one that cannot be read
(its register is unknown, it is a floating-point number), which is told when it is used. Source: systemtap's
description of the notes; the assembler's of x86-64 and AArch64.
"""

import re

from kwire.hints import Final
from kwire.lang.context import Located, Param, Slots
from kwire.lang.types import Int

_X86: Final = {
    **{
        f"{prefix}{name}": name
        for name in ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp")
        for prefix in "re"
    },
    **{name: name for name in ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp")},
    **{f"{name}l": f"{name}x" for name in "abcd"},
    **{f"{name}l": name for name in ("si", "di", "bp", "sp")},
    **{f"r{number}{width}": f"r{number}" for number in range(8, 16) for width in ("", "d", "w", "b")},
    "rip": "ip",
}
_AARCH64: Final = {
    **{f"{width}{number}": f"x{number}" for number in range(31) for width in "xw"},
    "sp": "sp",
    "fp": "x29",
    "lr": "x30",
}
REGISTERS: Final = {"x86_64": _X86, "i386": _X86, "aarch64": _AARCH64}
"""The assembler's names of registers → those of `bpf.arch`, by machine."""

_NUMBER: Final = r"-?(?:0[xX][0-9a-fA-F]+|\d+)"
_ONE: Final = re.compile(r"(?:(-?[1248])(f?)@)?(\S+\([^)]*\)|\[[^]]*\]|\S+)")
_MEMORY: Final = re.compile(
    rf"({_NUMBER}(?:[+-]\d+)*)?\(\s*(?:%(\w+))?(?:\s*,\s*%(\w+)(?:\s*,\s*([1248]))?)?\s*\)"
)
_BRACKETS: Final = re.compile(rf"\[(\w+)(?:\s*,\s*(?:#?({_NUMBER})|(\w+)(?:,\s*lsl\s*#?(\d))?))?\]")
_NO_ACCESS: Final = Slots(0, 0)


def arguments(text: str, machine: str) -> tuple[Param, ...]:
    """The arguments that a note tells of, as `arg0`, `arg1`, ….

    `machine`: whose assembler it is in the words of.
    """
    return tuple(
        _argument(f"arg{number}", int(size or 8), bool(floating), operand, machine)
        for number, (size, floating, operand) in enumerate(_ONE.findall(text))
    )


def _argument(name: str, size: int, floating: bool, operand: str, machine: str) -> Param:
    access = None if floating else _located(operand, machine)
    return Param(name, Int(abs(size), size < 0), access or _NO_ACCESS)


def _located(operand: str, machine: str) -> Located | None:
    registers = REGISTERS.get(machine, {})
    immediate = operand.lstrip("$#")
    if re.fullmatch(_NUMBER, immediate):
        return Located(int(immediate, 0))
    if (found := _MEMORY.fullmatch(operand)) and registers is _X86:
        offset, base, index, scale = found.groups()
        names = [registers.get(one) for one in (base, index) if one]
        if not all(names):
            return None
        at = sum(int(one, 0) for one in re.findall(r"[+-]?[^+-]+", offset or ""))
        return Located(at, registers.get(base, ""), registers.get(index, ""), int(scale or 1), True)
    if (found := _BRACKETS.fullmatch(operand)) and machine == "aarch64":
        base, number, index, shift = found.groups()
        if base not in registers or (index and index not in registers):
            return None
        scale = 1 << int(shift or 0)
        return Located(int(number or "0", 0), registers[base], registers.get(index, ""), scale, True)
    register = registers.get(operand.removeprefix("%"))
    return Located(0, register) if register else None
