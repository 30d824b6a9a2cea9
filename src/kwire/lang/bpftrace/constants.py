"""Values that are known while a probe is lowered: texts, numbers, arguments of the script."""

import operator

from kwire.hints import TYPE_CHECKING, Final
from kwire.kinds import KINDS
from kwire.lang import tree
from kwire.lang import types as t
from kwire.lang.bpftrace import syntax as s
from kwire.lang.bpftrace.macros import meant
from kwire.lang.bpftrace.types import plain
from kwire.lang.forms import walk
from kwire.lang.tree import Span

if TYPE_CHECKING:
    from kwire.lang.bpftrace.lower import Lowering


_FOLDED: Final = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
}
"""Operators whose value is known where their operands are."""


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
        return kind_word(low.site.kind)
    if isinstance(node, s.Field) and isinstance(node.value, s.Call) and node.value.function == "config":
        setting = low.settings.get(node.name)
        return setting if isinstance(setting, str) else None
    if isinstance(node, s.Name) and node.id == "func" and KINDS[low.site.kind].user:
        from kwire.demangle import demangled  # few probes ask

        return demangled(low.site.function)
    if isinstance(node, s.Call) and node.function in low.macros:
        macro = meant(low.macros, node)
        if macro is not None and not macro.parameters and not macro.body.body:
            return None if macro.body.value is None else text_constant(low, macro.body.value)
        return None
    if isinstance(node, s.Binary) and node.op == "+" and isinstance(node.left, s.Positional):
        text, behind = _text(low, node.left), constant(low, node.right)  # an address in an argument
        if text is None or behind is None or behind < 0:
            return None
        return text.encode("utf-8", "surrogateescape")[behind:].decode("utf-8", "surrogateescape")
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


def bytes_constant(data: bytes, span: Span) -> tree.Expr:
    """Bytes that are known, as an array in memory."""
    words = (int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8))
    numbers = tree.Tuple(tuple(tree.Number(one, span) for one in words), span)
    return tree.Cast(f"u8[{len(data)}]", numbers, span, span)


def values_given(low: "Lowering", node: s.Var) -> list[s.Expr | None]:
    """All that a variable is given in the probe; None: a declaration without a value."""
    return [
        one.value
        for one in walk(low.probe.body)
        if isinstance(one, s.Assign | s.Let) and one.target == node.replace(span=one.target.span)
    ]


def kind_word(kind: str) -> str:
    """What `probetype` is in a probe of a kind."""
    return "special" if kind in ("begin", "end", "self") else kind


def _text(low: "Lowering", node: s.Positional) -> str | None:
    """An argument that is a text; None for a number, and for none."""
    text = argument(low, node)
    try:
        number(text)
    except ValueError:
        return text or None
    return None


def argument(low: "Lowering", node: s.Positional) -> str:
    """An argument of the script, empty where it was not given."""
    given = low.surroundings.arguments
    return given[node.number - 1] if node.number <= len(given) else ""


def constant(low: "Lowering", node: s.Expr) -> int | None:
    """The number that an expression is, where that is known."""
    if isinstance(node, s.Name) and node.id in low.enums:
        return low.enums[node.id]
    if isinstance(node, s.Binary) and node.op in _FOLDED:
        sides = [constant(low, one) for one in (node.left, node.right)]
        return None if None in sides else int(_FOLDED[node.op](*sides))
    if isinstance(node, s.Sizeof) and isinstance(node.of, s.Type) and plain(node.of.name) in t.INTEGERS:
        return t.size_of(t.INTEGERS[plain(node.of.name)])
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
