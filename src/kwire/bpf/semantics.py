"""What the instructions compute, as functions of numbers: no registers, no memory.

Invariants: numbers are unsigned 64-bit Python ints going in and coming out; an operation of 32 bits uses the
lower half of its operands and zeroes the upper half of its result; division by zero gives 0, a remainder by
zero the dividend; shift amounts are taken modulo the width; signed division truncates toward zero. The
machine is little-endian. The interpreter runs on these, and the compiler may fold constants with them.
"""

from collections.abc import Callable
from typing import Final

MASK64: Final = (1 << 64) - 1


def signed(value: int, width: int) -> int:
    """The lower `width` bits of a number, read as two's complement."""
    value &= (1 << width) - 1
    return value - (1 << width) if value >> (width - 1) else value


def _sdiv(a: int, b: int, width: int) -> int:
    x, y = signed(a, width), signed(b, width)
    if y == 0:
        return 0
    quotient = abs(x) // abs(y)
    return -quotient if (x < 0) != (y < 0) else quotient


def _smod(a: int, b: int, width: int) -> int:
    x, y = signed(a, width), signed(b, width)
    if y == 0:
        return a
    remainder = abs(x) % abs(y)
    return -remainder if x < 0 else remainder


# op: (a, b, width) → result, to be cut to the width; a and b are already cut.
ALU: Final[dict[str, Callable[[int, int, int], int]]] = {
    "add": lambda a, b, _: a + b,
    "sub": lambda a, b, _: a - b,
    "mul": lambda a, b, _: a * b,
    "div": lambda a, b, _: a // b if b else 0,
    "mod": lambda a, b, _: a % b if b else a,
    "sdiv": _sdiv,
    "smod": _smod,
    "or": lambda a, b, _: a | b,
    "and": lambda a, b, _: a & b,
    "xor": lambda a, b, _: a ^ b,
    "lsh": lambda a, b, width: a << (b & (width - 1)),
    "rsh": lambda a, b, width: a >> (b & (width - 1)),
    "arsh": lambda a, b, width: signed(a, width) >> (b & (width - 1)),
    "mov": lambda _, b, __: b,
    "movsx8": lambda _, b, __: signed(b, 8),
    "movsx16": lambda _, b, __: signed(b, 16),
    "movsx32": lambda _, b, __: signed(b, 32),
    "neg": lambda a, _, __: -a,
}

# op: (a, b, width) → whether it holds; a and b are already cut to the width.
JUMPS: Final[dict[str, Callable[[int, int, int], bool]]] = {
    "eq": lambda a, b, _: a == b,
    "ne": lambda a, b, _: a != b,
    "gt": lambda a, b, _: a > b,
    "ge": lambda a, b, _: a >= b,
    "lt": lambda a, b, _: a < b,
    "le": lambda a, b, _: a <= b,
    "set": lambda a, b, _: bool(a & b),
    "sgt": lambda a, b, width: signed(a, width) > signed(b, width),
    "sge": lambda a, b, width: signed(a, width) >= signed(b, width),
    "slt": lambda a, b, width: signed(a, width) < signed(b, width),
    "sle": lambda a, b, width: signed(a, width) <= signed(b, width),
}

# op: (old, operand, compared with r0) → new value in memory.
ATOMICS: Final[dict[str, Callable[[int, int, int], int]]] = {
    "add": lambda old, b, _: old + b,
    "or": lambda old, b, _: old | b,
    "and": lambda old, b, _: old & b,
    "xor": lambda old, b, _: old ^ b,
    "xchg": lambda _, b, __: b,
    "cmpxchg": lambda old, b, expected: b if old == expected else old,
}


def holds(op: str, width: int, a: int, b: int) -> bool:
    """Whether the comparison `a op b` is true in 32 or 64 bits."""
    mask = (1 << width) - 1
    return JUMPS[op](a & mask, b & mask, width)


def swap(kind: str, width: int, a: int) -> int:
    """Byte order: "le" cuts to the width, "be" and "bswap" also reverse the bytes."""
    a &= (1 << width) - 1
    return a if kind == "le" else int.from_bytes(a.to_bytes(width // 8, "little"), "big")
