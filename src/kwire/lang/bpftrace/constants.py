"""Values that are known while a probe is lowered: texts, numbers, arguments of the script."""

from kwire.hints import TYPE_CHECKING
from kwire.kinds import KINDS
from kwire.lang import tree
from kwire.lang.bpftrace import syntax as s

if TYPE_CHECKING:
    from kwire.lang.bpftrace.lower import Lowering


def kept(low: "Lowering", node: s.Expr) -> tree.Expr:
    """A value that is kept, or one of two: a constant text is one of all those of the script."""
    text = text_constant(low, node)
    if text is None:
        return low.expression(node)
    known = low.texts if not text or text in low.texts else (*low.texts, text)
    if not known:  # the script has no other: any will do
        known = (" ",)
    return tree.String(text, node.span, known)


def text_constant(low: "Lowering", node: s.Expr) -> str | None:
    """The text that an expression is, where that is known; None where it is not."""
    if isinstance(node, s.Str):
        return node.value.partition("\0")[0]
    given = low.substitutes[-1].get(node.id) if isinstance(node, s.Name) else None
    if given is not None:
        return given.made(low, text_constant)
    if isinstance(node, s.Name) and node.id == "probe":
        return low.full_name
    if isinstance(node, s.Name) and node.id == "probetype":
        return low.site.kind
    if isinstance(node, s.Name) and node.id == "func" and KINDS[low.site.kind].user:
        return low.site.function
    if isinstance(node, s.Call) and node.function == "str" and node.arguments:
        inner, *most = node.arguments
        text = text_constant(low, inner)
        if isinstance(inner, s.Positional) and inner.number:
            text = argument(low, inner) or ""
        if text is None or not most:
            return text
        size = constant(low, most[0])
        data = text.encode("utf-8", "surrogateescape")
        return None if not size or size < 0 else data[: size - 1].decode("utf-8", "surrogateescape")
    return None


def argument(low: "Lowering", node: s.Positional) -> str:
    """An argument of the script, empty where it was not given."""
    given = low.surroundings.arguments
    return given[node.number - 1] if node.number <= len(given) else ""


def constant(low: "Lowering", node: s.Expr) -> int | None:
    """The number that an expression is, where that is known."""
    if isinstance(node, s.Name) and node.id in low.enums:
        return low.enums[node.id]
    made = low.expression(node)
    return made.value if isinstance(made, tree.Number) else None


def number(text: str) -> int:
    """The number that an argument of the script is. ValueError where it is none."""
    body, sign = (text[1:], -1) if text[:1] == "-" else (text, 1)
    if not body.isascii() or "_" in body or len(body) > 40:
        raise ValueError(text)
    if len(body) > 1 and body[0] == "0" and body.isdecimal():
        return sign * int(body, 8)
    return sign * int(body, 0)
