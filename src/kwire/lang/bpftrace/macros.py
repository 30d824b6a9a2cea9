"""Macros, whose text becomes part of the probe where they are used."""

from kwire.hints import TYPE_CHECKING, Final
from kwire.lang import tree
from kwire.lang.bpftrace import syntax as s
from kwire.lang.bpftrace.given import Given
from kwire.lang.errors import TextError
from kwire.words import plural

if TYPE_CHECKING:
    from kwire.lang.bpftrace.lower import Lowering

EXPANDED_MOST: Final = 10_000
"""Macros expanded in one probe."""


def expand(low: "Lowering", node: s.Call, *, wanted: bool) -> tree.Expr | None:
    """Make a macro's text part of the probe here; its value where one is wanted."""
    macro = low.macros[node.function]
    if node.function in low.expanding:
        raise TextError(node.function_span, f"the macro {node.function} uses itself")
    low.expanded += 1
    if low.expanded > EXPANDED_MOST:
        raise TextError(node.function_span, f"these are more than {EXPANDED_MOST} macros in a probe")
    if len(macro.parameters) != len(node.arguments):
        wanted_number = plural(len(macro.parameters), "argument")
        raise TextError(node.span, f"{node.function} takes {wanted_number}, not {len(node.arguments)}")
    low.hoist(node.span)
    scope: dict[str, str] = {}
    values: dict[str, Given] = {}
    for parameter, argument in zip(macro.parameters, node.arguments, strict=True):
        if isinstance(parameter, s.Name):
            values[parameter.id] = Given(argument, low.scopes, [*low.substitutes], [*low.expanding])
        elif isinstance(parameter, s.Var) and isinstance(argument, s.Var):
            found = low.expression(argument)
            assert isinstance(found, tree.Name)
            scope[parameter.id] = found.id
        else:
            value = low.expression(argument)
            low.scopes.append({})
            scope[parameter.id] = local = low.declare(parameter.id)
            low.scopes.pop()
            low.pending.append(tree.Assign(local, value, argument.span, argument.span))
    outer, low.scopes = low.scopes, [scope]
    low.substitutes.append(values)
    low.expanding.append(node.function)
    try:
        if wanted:
            return low.expression(macro.body)
        low.pending += low.block(macro.body)
        return None
    finally:
        low.expanding.pop()
        low.substitutes.pop()
        low.scopes = outer
