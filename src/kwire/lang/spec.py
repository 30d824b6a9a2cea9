"""Probe specs: an attach point (`lang.attach`), or one with `(expr, name=expr…){condition}` behind it."""

from kwire.lang import attach, tree
from kwire.lang.errors import Diagnostic, LanguageError
from kwire.lazy import NamedTuple


class ProbeSpec(NamedTuple):
    """A parsed spec. `expressions` are (name, tree) pairs; a name may be empty. `condition`: what must hold
    for an event, None where nothing must.
    """

    point: tree.AttachPoint
    expressions: tuple[tuple[str, tree.Expr], ...]
    source: tree.Source
    condition: tree.Expr | None = None


def parse(text: str) -> ProbeSpec:
    """A probe spec from its text. Raises `LanguageError` with the span of the part that is wrong."""
    source = tree.Source("PROBE", text)
    at = attach.tail(text)
    point = attach.parse(source, at)
    if at == len(text):
        return ProbeSpec(point, (), source)
    from kwire.lang import python  # costly, and most specs do without

    expressions: tuple[tuple[str, tree.Expr], ...] = ()
    if text[at] == "(":
        end = python.closing(text, at)
        expressions = python.parse_arguments(source, at, end)
        at = end + len(text[end:]) - len(text[end:].lstrip())
    if at == len(text):
        return ProbeSpec(point, expressions, source)
    last = len(text.rstrip()) - 1
    if text[at] != "{" or last == at or text[last] != "}":
        what = f"{text[at:].strip()!r} is no condition in braces"
        wrong = Diagnostic(tree.Span(1, at, 1, len(text)), what, "write PROBE(expr, name=expr){condition}")
        raise LanguageError(source, [wrong])
    condition = python.parse_condition(source, at + 1, last)
    return ProbeSpec(point, expressions, source, condition)
