"""The tree of a script as text, a node a line: for whoever wants to see how it was read."""

from kwire.lang.bpftrace.syntax import Script
from kwire.lang.forms import Node
from kwire.lang.tree import Span


def shown(script: Script) -> str:
    """The tree of a script."""
    parts = (*script.structs, *script.enums, *script.settings, *script.imports, *script.macros)
    lines: list[str] = []
    for node in (*parts, *script.functions, *script.maps, *script.probes):
        _node(node, 0, lines)
    return "\n".join([*lines, ""])


def _node(node: Node, depth: int, lines: list[str]) -> None:
    plain, inner = [], []
    for field in node.parts:
        value = getattr(node, field)
        if isinstance(value, Span) or value is None:
            continue
        nested = [one for one in (value if value.__class__ is tuple else (value,)) if isinstance(one, Node)]
        if nested:
            inner += nested
        elif value != ():
            plain.append(f"{field}={value!a}")
    lines.append("  " * depth + " ".join([node.__class__.__name__.lower(), *plain]))
    for one in inner:
        _node(one, depth + 1, lines)
