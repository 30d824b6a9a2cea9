"""Stacks as text: a frame a line, as the field's `display` says; or on one line.

Invariants: the text of a mode is bpftrace's: it begins with a line of its own, and each frame ends one; a
frame without a name is its address in hexadecimal.
"""

from collections.abc import Callable, Mapping

from kwire.hints import Final
from kwire.wire.stacks import Frame, Stack

INDENT: Final = " " * 8


def _perf(frame: Frame) -> str:
    user = not frame.address >> 63
    file = f" ({frame.file or '[unknown]'})" if user else ""
    return f"\t{frame.address:x} {frame}{file}"


def _by_id(frame: Frame) -> str:
    return f"{frame.file} {frame.address:#x}" if frame.file else f"{frame.address:#x}"


LINES: Final[Mapping[str, Callable[[Frame], str]]] = {
    "bpftrace": lambda frame: f"{INDENT}{frame}",
    "perf": _perf,
    "raw": lambda frame: f"{frame.address:x}",
    "build_id": _by_id,
}
"""How a frame is shown, by the field's `display`."""


def text(stack: Stack, display: str) -> str:
    """A stack as a script prints it."""
    if display == "symbol":
        return stack[0].name if stack else ""
    line = LINES.get(display, LINES["bpftrace"])
    return "".join(["\n", *(f"{line(frame)}\n" for frame in stack)])


def short(stack: Stack, display: str) -> str:
    """A stack on one line: folded, but where addresses are meant."""
    if display in ("raw", "build_id"):
        return " ".join(LINES[display](frame) for frame in stack)
    return stack.folded
