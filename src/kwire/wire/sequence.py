"""Sequence numbers: 32 bits that wrap, compared as RFC 1982 says.

Invariants: a number is before another where going forward reaches it in fewer than 2**31 steps; nothing else
compares sequence numbers. Two numbers exactly 2**31 apart are in no order: neither is before the other.
"""

from __future__ import annotations

MASK = 0xFFFFFFFF
HALF = 1 << 31


def before(a: int, b: int) -> bool:
    """True where `a` comes before `b`."""
    return 0 < (b - a) & MASK < HALF


def distance(a: int, b: int) -> int:
    """Steps from `a` forward to `b`, -2**31 to 2**31 - 1: negative where `b` comes before `a`."""
    steps = (b - a) & MASK
    return steps - (MASK + 1) if steps >= HALF else steps


def later(a: int, b: int) -> int:
    """The later of two; `a` where they are in no order."""
    return b if before(a, b) else a
