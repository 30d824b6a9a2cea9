"""How often a loop runs at most that ends by a condition: found where a local moves to its end each turn.

What is understood: a condition (one of those joined by `and`, or of an `if …: break` that every turn passes)
compares a local with something; the local changes in the body only by steps that go the same way (`i += 1`,
`n -= 2`, `n >>= 1`, `n //= 10`, `i *= 2`, `n &= n - 1`), at least one of which is taken in every turn; and it
cannot wrap around before its end.
"""

from collections.abc import Callable, Iterator, Sequence

from kwire.lang import checked as c
from kwire.lang.forms import walk
from kwire.lang.types import Scalar
from kwire.lang.value_range import Extent, extent
from kwire.lang.values import bounds
from kwire.lazy import NamedTuple

SWAPPED = {"eq": "eq", "ne": "ne", "lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}
OPPOSITE = {"eq": "ne", "ne": "eq", "lt": "ge", "le": "gt", "gt": "le", "ge": "lt"}

WORD = 64
"""Bits of a number."""

Entry = Callable[[int], Extent]
"""Between which numbers a local lies before the loop."""


class Step(NamedTuple):
    """A change of a local: `op` with a constant; "clear" takes the lowest bit away. `type`: of the result."""

    op: str
    by: int
    type: Scalar


def most_turns(tests: Sequence[c.Expr], body: tuple[c.Stmt, ...], entry: Entry) -> int | None:
    """How often a body runs at most that runs while all tests hold; None where that cannot be told."""
    if any(isinstance(test, c.Const) and not test.value for test in tests):
        return 0
    if not _reach_next(body, -1):
        return 1
    nodes = [node for statement in body for node in walk(statement)]
    changed = {node.local for node in nodes if isinstance(node, c.LocalSet)}
    found = []
    terms = [(*term, 0) for test in tests for term in _terms(test, True)]
    terms += [(*term, 1) for test in _exits(body) for term in _terms(test, False)]  # the turn that ends there
    for local, op, other, more in terms:
        sets = [node for node in nodes if isinstance(node, c.LocalSet) and node.local == local]
        steps = [_step(node, local) for node in sets]
        known = [step for step in steps if step is not None]
        if not known or len(known) < len(steps) or not all(_reach_next(body, local)):
            continue
        end = extent(other, lambda one: None if one in changed else entry(one))
        most = _most(op, entry(local), end, known)
        found += [] if most is None else [max(most, 0) + more]
    return min(found, default=None)


def _exits(body: tuple[c.Stmt, ...]) -> Iterator[c.Expr]:
    """The conditions by which every turn may leave the loop."""
    for one in body:
        if isinstance(one, c.If) and not one.otherwise and one.then and isinstance(one.then[-1], _LEAVING):
            yield one.test
        if any(isinstance(node, c.Continue) for node in walk(one)):
            return


_LEAVING = (c.Break, c.Leave, c.Return)


def _terms(test: c.Expr, holds: bool) -> Iterator[tuple[int, str, c.Expr]]:
    """(local, op, other) for all that must hold for a test to hold, or not to hold."""
    if isinstance(test, c.Not):
        yield from _terms(test.operand, not holds)
    elif isinstance(test, c.Logic) and test.op == ("and" if holds else "or") and not _mixed(test):
        yield from _terms(test.left, holds)
        yield from _terms(test.right, holds)
    elif isinstance(test, c.Logic) and _mixed(test):
        yield from _terms(test.right, holds)
    elif isinstance(test, c.Compare):
        for one, op, other in ((test.left, test.op, test.right), (test.right, SWAPPED[test.op], test.left)):
            local = _plain(one)
            if isinstance(local, c.LocalGet):
                yield local.local, op if holds else OPPOSITE[op], other
    elif isinstance(local := _plain(test), c.LocalGet):
        yield local.local, "ne" if holds else "eq", c.Const(0, local.type, test.span)


def _mixed(test: c.Logic) -> bool:
    """Whether this compares numbers of different signs: one is negative, or less than the other."""
    sign, whole = test.left, test.right
    if not (isinstance(sign, c.Compare) and isinstance(whole, c.Compare) and isinstance(sign.right, c.Const)):
        return False
    return not sign.right.value and sign.left in (whole.left, whole.right) and not whole.signed


def _plain(e: c.Expr) -> c.Expr:
    """A value without what changes its type only."""
    while isinstance(e, c.Retype):
        e = e.operand
    return e


def _step(node: c.LocalSet, local: int) -> Step | None:
    """What an assignment does to a local, where that is one of the steps understood."""
    type_, value = node.value.type, node.value
    while isinstance(value, c.Retype | c.Convert):
        value = value.operand
    if not isinstance(value, c.Binary) or not _is(value.left, local):
        return None
    right, op = _plain(value.right), value.op
    if op == "and" and isinstance(right, c.Binary) and right.op == "sub" and _is(right.left, local):
        one = right.right
        return Step("clear", 1, type_) if isinstance(one, c.Const) and one.value == 1 else None
    if not isinstance(right, c.Const):
        return None
    by = right.value
    match op:
        case "add" | "sub":
            return Step("add", by if op == "add" else -by, type_)
        case "mul" | "shl":
            return Step("mul", by if op == "mul" else 1 << by, type_)
        case "div" | "shr":
            return Step("div", by if op == "div" else 1 << by, type_)
    return None


def _is(e: c.Expr, local: int) -> bool:
    e = _plain(e)
    return isinstance(e, c.LocalGet) and e.local == local


def _most(op: str, start: Extent, end: Extent, steps: list[Step]) -> int | None:
    """How many steps there are at most from `start` until `op` does not hold with `end`."""
    kinds, by = {step.op for step in steps}, [step.by for step in steps]
    if len(kinds) > 1:
        return None
    kind = kinds.pop()
    above_zero = (
        (op == "ne" and end == (0, 0) and start[0] >= 0)
        or (op == "gt" and end[0] >= 0)
        or (op == "ge" and end[0] >= 1)
    )
    if kind == "clear":
        return WORD if op in ("ne", "gt") and end == (0, 0) else None
    if kind == "div":
        return _digits(start[1], min(by)) if above_zero and min(by) >= 2 else None
    low = max(bounds(step.type)[0] for step in steps)
    high = min(bounds(step.type)[1] for step in steps)
    if op in ("lt", "le"):
        top = end[1] + (op == "le")
        if kind == "mul":
            fine = min(by) >= 2 and start[0] >= 1 and (top - 1) * max(by) <= high
            return _digits(max((top - 1) // start[0], 0), min(by)) if fine else None
        return -(-(top - start[0]) // min(by)) if min(by) > 0 and top - 1 + max(by) <= high else None
    if kind != "add":
        return None
    if op in ("gt", "ge"):
        bottom = end[0] - (op == "ge")
        return -(-(start[1] - bottom) // -max(by)) if max(by) < 0 and bottom + 1 + min(by) >= low else None
    if op == "ne" and end[0] == end[1] and min(by) == max(by):
        ways = [(end[0] - one) for one in start]
        if abs(by[0]) == 1 or start[0] == start[1]:
            turns = [way // by[0] for way in ways if way % by[0] == 0]
            return max(turns) if len(turns) == 2 and min(turns) >= 0 else None
    return None


def _digits(number: int, base: int) -> int:
    """How often a number can be divided by `base` until it is 0."""
    count = 0
    while number > 0:
        number, count = number // base, count + 1
    return count


def _reach_next(body: tuple[c.Stmt, ...], local: int) -> list[bool]:
    """For each way through a turn to the next: whether the local was set on it."""
    turns: list[bool] = []
    end = _behind(body, False, local, turns, [])
    return turns if end is None else [*turns, end]


def _behind(
    body: tuple[c.Stmt, ...], done: bool, local: int, turns: list[bool], leaves: list[list[bool]]
) -> bool | None:
    """Whether the local was set on all ways to the end of statements; None where there is no way."""
    for one in body:
        ends: list[bool | None]
        match one:
            case c.LocalSet(local=number):
                done = done or number == local
                continue
            case c.If(then=then, otherwise=otherwise):
                ends = [_behind(arm, done, local, turns, leaves) for arm in (then, otherwise)]
            case c.Block(body=inner):
                own: list[bool] = []
                end = _behind(inner, done, local, turns, [*leaves, own])
                ends = [*own, end]
            case c.Loop(body=inner):
                _behind(inner, done, local, [], leaves)  # it may not run at all
                continue
            case c.Continue():
                turns.append(done)
                return None
            case c.Leave():
                if leaves:  # else it leaves the loop
                    leaves[-1].append(done)
                return None
            case c.Break() | c.Return():
                return None
            case _:
                continue
        open_ends = [end for end in ends if end is not None]
        if not open_ends:
            return None
        done = all(open_ends)
    return done
