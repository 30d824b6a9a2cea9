"""Which loops the verifier walks, and which are called turn by turn.

A walked loop is a loop of the program's own: the verifier follows every turn, with each way its conditions
may go, and gives up after a million instructions or 8192 branches that wait. A called one is a function of
its own, which `bpf_loop` (Linux 5.17) calls for each turn: the verifier looks at it about once, however often
it runs. `weight` and `_choices` guess which loops are too much for the verifier; where it refuses a program
for its size all the same, the loader takes one in which every loop is called (`ALL`).
"""

from kwire.hints import Final
from kwire.lang import checked as c
from kwire.lang.forms import Node, children, walk

NONE, LONG, ALL = 0, 1, 2
"""Which loops are called: none, those that are too much to walk, all (as deep as calls may go)."""

WALKED_MOST: Final = 4096
"""Turns of a loop that is walked: the verifier has room for twice as many ways out."""

CALLED_DEEP: Final = 6
"""Called loops in each other: the kernel has eight call frames for the program, these, and what they call."""

WEIGHT_MOST: Final = 1024
"""Branches of all turns together, up to which a loop is walked where it could be called."""

CHOICES_MOST: Final = 8
"""The same for turns that differ in what they leave to the next: each doubles the ways to look at."""

BRANCHING: Final = {
    c.If: 1,
    c.Logic: 1,
    c.Select: 1,
    c.Load: 1,  # it may fail
    c.ReadBlock: 1,
    c.ReadText: 4,
    c.ReadBytes: 4,
    c.Comm: 2,
    c.TextEqual: 2,
    c.TextOrder: 4,
    c.TextMatch: 64,
    c.Emit: 8,
    c.MapGet: 2,
    c.MapPlace: 2,
    c.EachGet: 4,
    c.TextSet: 4,
    c.Store: 0,
    c.MapHas: 1,
    c.MapSet: 2,
    c.Aggregate: 6,
}
"""About how many branches the instructions of a node have."""


def weight(node: Node) -> int:
    """About how many branches the verifier looks at for a statement or expression."""
    own = BRANCHING.get(node.__class__, 0)
    below = sum(map(weight, children(node)))
    return node.most * (1 + below) if isinstance(node, c.Loop) else own + below


def is_called(loop: c.Loop, which: int) -> bool:
    """Whether a loop is called turn by turn."""
    if which != LONG:
        return which == ALL
    return weight(loop) > WEIGHT_MOST or loop.most * _choices(loop) > CHOICES_MOST


def any_called(program: c.Program) -> bool:
    """Whether a program has a loop that is better called."""
    return any(is_called(one, LONG) for one in _loops(program))


def any_walked(program: c.Program) -> bool:
    """Whether a program has a loop that could be called and is not."""
    return not all(is_called(one, LONG) for one in _loops(program))


def _loops(program: c.Program) -> list[c.Loop]:
    nodes = (one for statement in program.body for one in walk(statement))
    return [one for one in nodes if isinstance(one, c.Loop)]


def _choices(loop: c.Loop) -> int:
    """In how many places a turn leaves something to the next that depends on a condition."""
    conditional = [
        one
        for node in walk(loop)
        if isinstance(node, c.If) or (isinstance(node, c.Loop) and node is not loop)
        for one in children(node)
    ]
    return sum(isinstance(one, c.LocalSet) for one in conditional)
