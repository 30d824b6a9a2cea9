"""What a script decides before it runs: `if (has_cpid) { … cpid … }`.

Invariant: a branch that the command line rules out is no part of the script, so what stands in it need not
mean anything: without a command `cpid` is nothing. Conditions are `has_cpid` and `!has_cpid`.
"""

from kwire.lang.bpftrace import syntax as s
from kwire.lang.forms import Node, rewrite


def with_choices(script: s.Script, command: bool) -> s.Script:
    """The script with the branches that are left; `command`: whether there is one."""

    def holds(test: s.Expr) -> bool | None:
        if isinstance(test, s.Name) and test.id == "has_cpid":
            return command
        if isinstance(test, s.Unary) and test.op == "!":
            inner = holds(test.operand)
            return None if inner is None else not inner
        return None

    def choice(node: Node) -> Node | None:
        if not isinstance(node, s.If | s.Ternary) or (known := holds(node.test)) is None:
            return None
        kept = node.then if known else node.otherwise
        if kept is None and isinstance(node, s.Ternary):
            return None
        return rewrite(kept or s.Block((), None, node.span), choice)

    return rewrite(script, choice)
