"""Calls against the table of functions: whether there is such a function, and with so many arguments."""

from kwire.hints import TYPE_CHECKING
from kwire.lang.bpftrace import syntax as s
from kwire.lang.bpftrace import tables
from kwire.lang.errors import TextError, did_you_mean
from kwire.lang.tree import Span
from kwire.words import plural

if TYPE_CHECKING:
    from kwire.lang.bpftrace.lower import Lowering


def known(low: "Lowering", node: s.Call) -> tables.Word:
    """The row of a function. Raises `TextError` where there is none, or it cannot be called so."""
    name, span = node.function, node.function_span
    word = tables.FUNCTION.get(name)
    if word is None:
        if name in tables.BUILTIN and not node.arguments:
            return tables.BUILTIN[name]
        names = [*tables.FUNCTION, *low.macros]
        raise TextError(span, f"there is no function {name}", did_you_mean(name, names))
    if not word.ready:
        if name in tables.BUILTIN and not node.arguments:
            return tables.BUILTIN[name]
        raise unready(f"{name}()", span)
    count = len(node.arguments)
    if not word.least <= count <= word.most:
        raise TextError(
            node.span, f"{name} was called with {plural(count, 'argument')}", f"write {word.form}"
        )
    return word


def unready(what: str, span: Span, cure: str = "") -> TextError:
    """The error for what the language has and kwire has not yet."""
    return TextError(span, f"{what} is not supported yet", cure)
