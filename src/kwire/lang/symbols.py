"""Names for the kernel's addresses that events hold: whoever reads them anywhere has to be told.

Invariants: what an event holds is the address, named or not. The address of a probe's own function (`func`)
needs nothing, as it is known beforehand; every other one is entered in a table when the event is made. An
array of addresses is one value, whose elements are not entered.
"""

from kwire.lang import checked as c
from kwire.lang import types as t
from kwire.lang.forms import Node, rewrite

TABLE = c.StackTable(False, 1, False, 1 << 15, True)
"""Room for more functions than any trace has met: what is entered beyond stays without a name, counted."""


def is_func(value: c.Expr | c.Wide) -> bool:
    """Whether a value is the address of the probe's own function."""
    return isinstance(value, c.Builtin) and value.op == "func"


def with_kernel_symbols(program: c.Program) -> c.Program:
    """The program, its events' addresses in the kernel entered in a table. `rewrite` copies nothing else."""

    def told(value: c.Expr | c.Wide, field: c.Field) -> c.Expr | c.Wide:
        type_ = field.type
        if not isinstance(type_, t.Int | t.Pointer) or type_.display != "ksym" or is_func(value):
            return value
        assert not isinstance(value, c.ReadText | c.ReadBytes | c.ReadBlock | c.Comm)  # of the field's type
        return c.KernelSymbol(value, TABLE, type_, value.span)

    def change(node: Node) -> Node | None:
        if not isinstance(node, c.Emit):
            return None
        fields = program.shapes[node.shape].fields
        return node.replace(values=tuple(map(told, node.values, fields)))

    displays = {getattr(field.type, "display", "") for one in program.shapes for field in one.fields}
    if "ksym" not in displays:
        return program
    return rewrite(program, change)
