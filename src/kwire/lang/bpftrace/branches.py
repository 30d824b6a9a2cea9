"""Variables that are an address of one kind in one branch and of another in the other: what follows is made
for each.

    if (family == AF_INET) { $a = ntop(v4) } else { $a = ntop(v6) } printf("%s", $a)

A local has one type, and an event's field too, so what stands behind such a choice becomes part of both its
branches: from the first statement that cannot be done before it to the last one with such a variable.
Invariant: what comes of it does the same.
"""

from collections.abc import Container

from kwire.hints import Final
from kwire.lang.bpftrace import syntax as s
from kwire.lang.forms import Node, rewrite, walk

PURE: Final = frozenset({"ntop", "bswap"})
"""Functions that a choice may have in it of which something that follows is done before."""

BRANCHING: Final = (s.If, s.Jump, s.While, s.Unroll, s.ForRange, s.ForMap, s.Let)

MOST: Final = 4
"""Choices one after the other of a block that are made so: each doubles what follows."""


def with_tails(probe: s.Probe, own: Container[str] = ()) -> s.Probe:
    """The probe with its blocks made so. `own`: the macros, which may set what they are given."""
    body = probe.body
    if body.value is not None:  # of a probe nobody takes it
        body = body.replace(body=(*body.body, s.Do(body.value, body.value.span)), value=None)
    either: set[str] = set()
    for node in walk(body):
        either |= _addresses(node) if isinstance(node, s.Do) else set()
    if not either:
        return probe

    def undeclared(node: Node) -> Node | None:
        """A block without declarations of such variables: each branch has its own."""
        if not isinstance(node, s.Block):
            return None
        kept = [rewrite(one, undeclared) for one in node.body if not _declared(one, either)]
        value = None if node.value is None else rewrite(node.value, undeclared)
        return node.replace(body=tuple(kept), value=value)

    calls = any(isinstance(node, s.Call) and node.function in own for node in walk(body))
    return probe.replace(body=_made(rewrite(body, undeclared), not calls))


def _declared(one: s.Stmt, names: set[str]) -> bool:
    return isinstance(one, s.Let) and one.target.id in names and one.value is None


def _made(block: s.Block, shares: bool) -> s.Block:
    def within(node: Node) -> Node | None:
        return _made(node, shares) if isinstance(node, s.Block) else None

    inner = tuple(rewrite(one, within) for one in block.body)
    value = None if block.value is None else rewrite(block.value, within)
    return block.replace(body=inner if value is not None else _tails(inner, shares), value=value)


def _tails(body: tuple[s.Stmt, ...], shares: bool) -> tuple[s.Stmt, ...]:
    """The statements of a block; from the last one on, so that what follows is done already. `shares`: what
    has no such variable is made once.
    """
    done: tuple[s.Stmt, ...] = ()
    begun: set[str] = set()  # variables whose first values are left out
    count = 0
    for statement in reversed(body):
        if _begun(statement, begun):
            continue
        names = _addresses(statement)
        if names and count < MOST:
            count += 1
            begun |= names
            assert isinstance(statement, s.Do)
            choice = statement.value
            assert isinstance(choice, s.If)
            assert isinstance(choice.otherwise, s.Block)
            first, each, rest = _shared(choice, names, done) if shares else ((), done, ())
            then = choice.then.replace(body=(*choice.then.body, *each))
            otherwise = choice.otherwise.replace(body=(*choice.otherwise.body, *each))
            statement = statement.replace(value=choice.replace(then=then, otherwise=otherwise))
            done = (*first, statement, *rest)
        else:
            done = (statement, *done)
    return done


def _shared(
    choice: s.If, names: set[str], tail: tuple[s.Stmt, ...]
) -> tuple[tuple[s.Stmt, ...], tuple[s.Stmt, ...], tuple[s.Stmt, ...]]:
    """Of what follows a choice: what may as well be done before it, what is made for each of its branches,
    and what is done behind it, whichever was taken.
    """
    inside = list(walk(choice))
    plain = all(
        node.function in PURE if isinstance(node, s.Call) else not isinstance(node, (s.Map, s.Step, s.Jump))
        for node in inside
    )
    used = {node.id for node in inside if isinstance(node, s.Var)}
    set_ = {
        node.target.id for node in inside if isinstance(node, s.Assign) and isinstance(node.target, s.Var)
    }
    start = 0
    while plain and start < len(tail) and _apart(tail[start], used, set_):
        start += 1
    names, end = set(names), start
    for number, one in enumerate(tail[start:], start + 1):
        if _mentioned(one) & names:
            end = number
            names |= _changed(one)
    return tail[:start], tail[start:end], tail[end:]


def _apart(one: s.Stmt, used: set[str], set_: set[str]) -> bool:
    """Whether a statement does the same before and behind a choice that uses and sets these variables."""
    if not isinstance(one, s.Do | s.Assign) or any(isinstance(node, BRANCHING) for node in walk(one)):
        return False
    return not (_mentioned(one) & set_ or _changed(one) & used)


def _mentioned(one: s.Stmt) -> set[str]:
    return {node.id for node in walk(one) if isinstance(node, s.Var)}


def _changed(one: s.Stmt) -> set[str]:
    """The variables that a statement sets."""
    found: set[str] = set()
    for node in walk(one):
        if isinstance(node, s.Assign | s.Let | s.Step | s.AddressOf):
            target = node.target if isinstance(node, s.Assign | s.Let) else node.operand
            found |= {part.id for part in walk(target) if isinstance(part, s.Var)}
    return found


def _addresses(statement: s.Stmt) -> set[str]:
    """The variables to which both branches of a choice give an address."""
    if not isinstance(statement, s.Do) or not isinstance(statement.value, s.If):
        return set()
    choice = statement.value
    if not isinstance(choice.otherwise, s.Block) or choice.then.value or choice.otherwise.value:
        return set()
    return _given(choice.then) & _given(choice.otherwise)


def _given(block: s.Block) -> set[str]:
    return {
        one.target.id
        for one in block.body
        if isinstance(one, s.Assign) and isinstance(one.target, s.Var) and _address(one)
    }


def _address(one: s.Assign) -> bool:
    return not one.op and isinstance(one.value, s.Call) and one.value.function == "ntop"


def _begun(one: s.Stmt, names: set[str]) -> bool:
    """Whether a statement only says that a variable is an address: `$a = ntop(0)`."""
    if not isinstance(one, s.Assign) or not isinstance(one.target, s.Var) or one.target.id not in names:
        return False
    return _address(one) and isinstance(one.value, s.Call) and isinstance(one.value.arguments[-1], s.Int)
