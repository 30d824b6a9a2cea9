"""Variables that are an address of one kind in one branch and of another in the other: what follows is made
for each.

    if (family == AF_INET) { $a = ntop(v4) } else { $a = ntop(v6) } printf("%s", $a)

A local has one type, and an event's field too, so what stands behind such a choice becomes part of both its
branches. Invariant: what comes of it does the same.
"""

from kwire.hints import Final
from kwire.lang.bpftrace import syntax as s
from kwire.lang.forms import Node, rewrite, walk

MOST: Final = 4
"""Choices one after the other of a block that are made so: each doubles what follows."""


def with_tails(probe: s.Probe) -> s.Probe:
    """The probe with its blocks made so."""
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

    return probe.replace(body=_made(rewrite(body, undeclared)))


def _declared(one: s.Stmt, names: set[str]) -> bool:
    return isinstance(one, s.Let) and one.target.id in names and one.value is None


def _made(block: s.Block) -> s.Block:
    inner = tuple(rewrite(one, _within) for one in block.body)
    value = None if block.value is None else rewrite(block.value, _within)
    return block.replace(body=inner if value is not None else _tails(inner), value=value)


def _within(node: Node) -> Node | None:
    return _made(node) if isinstance(node, s.Block) else None


def _tails(body: tuple[s.Stmt, ...]) -> tuple[s.Stmt, ...]:
    """The statements of a block; from the last one on, so that what follows is done already."""
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
            then = choice.then.replace(body=(*choice.then.body, *done))
            otherwise = choice.otherwise.replace(body=(*choice.otherwise.body, *done))
            statement = statement.replace(value=choice.replace(then=then, otherwise=otherwise))
            done = ()
        done = (statement, *done)
    return done


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
