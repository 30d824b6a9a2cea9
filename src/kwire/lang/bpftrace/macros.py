"""Macros, whose text becomes part of the probe where they are used."""

from collections.abc import Iterable, Mapping, Sequence

from kwire.hints import TYPE_CHECKING, Final
from kwire.lang import tree
from kwire.lang.bpftrace import syntax as s
from kwire.lang.bpftrace import tables
from kwire.lang.bpftrace.macro_argument import MacroArgument
from kwire.lang.errors import TextError

if TYPE_CHECKING:
    from kwire.lang.bpftrace.lower import Lowering

EXPANDED_MOST: Final = 10_000
"""Macros expanded in one probe."""


def by_name(macros: Iterable[s.Macro]) -> dict[str, list[s.Macro]]:
    """Macros by their names; those of one name differ in their parameters."""
    found: dict[str, list[s.Macro]] = {}
    for one in macros:
        found.setdefault(one.name, []).append(one)
    return found


def form(macro: s.Macro) -> tuple[str, ...]:
    """What tells a macro from others of its name: the kinds of its parameters."""
    return tuple(type(one).__name__ for one in macro.parameters)


def meant(macros: Mapping[str, Sequence[s.Macro]], node: s.Call) -> s.Macro | None:
    """The macro that a call means; None where it means none. Of several that take as many arguments: the one
    whose variables are given variables. Raises `TextError` where none takes these.
    """
    known = macros.get(node.function, ())
    fitting = [one for one in known if len(one.parameters) == len(node.arguments)]
    if known and not fitting:
        if node.function in tables.FUNCTION or node.function in tables.BUILTIN:
            return None  # the language's own has another number
        wanted = " or ".join(str(len(one.parameters)) for one in known)
        wanted += f" argument{'s' * (wanted != '1')}"
        raise TextError(node.span, f"{node.function} takes {wanted}, not {len(node.arguments)}")

    return max(fitting, key=lambda one: sum(map(_fit, one.parameters, node.arguments)), default=None)


def _fit(parameter: s.Expr, argument: s.Expr) -> int:
    """How well an argument suits a parameter: a map or a variable only its like, a value anything."""
    if isinstance(parameter, s.Map | s.Var):
        return 2 * (type(argument) is type(parameter))
    return 1


def expand(low: "Lowering", node: s.Call, macro: s.Macro, *, wanted: bool) -> tree.Expr | None:
    """Make a macro's text part of the probe here; its value where one is wanted."""
    if node.function in low.expanding:
        raise TextError(node.function_span, f"the macro {node.function} uses itself")
    low.expanded += 1
    if low.expanded > EXPANDED_MOST:
        raise TextError(node.function_span, f"these are more than {EXPANDED_MOST} macros in a probe")
    low.hoist(node.span)
    scope: dict[str, str] = {}
    values: dict[str, MacroArgument] = {}
    for parameter, argument in zip(macro.parameters, node.arguments, strict=True):
        if isinstance(parameter, s.Name):
            values[parameter.id] = MacroArgument(argument, low.scopes, [*low.substitutes], [*low.expanding])
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
    low.places.append(node.span)
    try:
        if wanted:
            return low.expression(macro.body)
        low.pending += low.block(macro.body)
        return None
    finally:
        low.expanding.pop()
        low.places.pop()
        low.substitutes.pop()
        low.scopes = outer
