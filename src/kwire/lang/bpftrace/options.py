"""The options of a script, `getopt("name", default, "what it is")`: each call becomes the value that is
given.

Invariant: an option has one default, of which its value has the kind: a number, a truth value, a text;
without a default it is a switch, which is off.
"""

from collections.abc import Mapping, Sequence

from kwire.errors import KwireError
from kwire.lang.bpftrace import syntax as s
from kwire.lang.bpftrace.constants import number
from kwire.lang.errors import Diagnostic, TextError, did_you_mean
from kwire.lang.forms import Node, rewrite

FORM = 'write getopt("name", default, "what it is")'


class OptionsError(KwireError):
    """Somebody asks which options a script has: `options`, each with what is said of it."""

    def __init__(self, options: tuple[str, ...]) -> None:
        cause = "this is no option of the script" if options else "the script has no options"
        super().__init__("run", "--help", cause, f"it has {', '.join(options)}" if options else "")
        self.options = options

    def __reduce__(self) -> "tuple[type[OptionsError], tuple[tuple[str, ...]]]":
        return OptionsError, (self.options,)


def with_options(script: s.Script, given: Mapping[str, str | None], faults: list[Diagnostic]) -> s.Script:
    """The script with the values of its options in their places. `given`: what stands behind each name, None
    where nothing does; `faults` takes what is wrong with the calls. Raises KwireError for what is given
    wrongly.
    """
    known: dict[str, str] = {}

    def call(node: Node) -> Node | None:
        if not isinstance(node, s.Call) or node.function != "getopt":
            return None
        try:
            return _option(node, given, known)
        except TextError as error:
            faults.append(error.diagnostic)
            return s.Int(0, node.span)

    made = rewrite(script, call)
    unknown = [name for name in given if name not in known]
    if unknown:
        if unknown[0] == "help":
            raise OptionsError(tuple(f"--{name}{doc}" for name, doc in known.items()))
        listed = ", ".join(f"--{name}{doc}" for name, doc in known.items())
        near = did_you_mean(unknown[0], known)
        cure = near if near else f"it has {listed}" if listed else "it has none"
        raise KwireError("run", f"--{unknown[0]}", "the script has no such option", cure)
    return made


def given(words: Sequence[str]) -> tuple[list[str], dict[str, str | None]]:
    """What a script is given, taken apart: its arguments, and its options by name, with their values; None
    where there is none.
    """
    arguments: list[str] = []
    options: dict[str, str | None] = {}
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            options[name] = value if equals else None
        else:
            arguments.append(word)
    return arguments, options


def told(script: s.Script) -> dict[str, tuple[int | str | bool, str]]:
    """The options of a script that say what they are: their defaults, and the text, in the script's order."""
    found: dict[str, tuple[int | str | bool, str]] = {}

    def call(node: Node) -> None:
        if isinstance(node, s.Call) and node.function == "getopt" and len(node.arguments) == 3:
            name, default, text = node.arguments
            if (
                isinstance(name, s.Str)
                and isinstance(default, s.Int | s.Str | s.Bool)
                and isinstance(text, s.Str)
            ):
                found[name.value] = default.value, text.value

    rewrite(script, call)
    return found


def _option(node: s.Call, given: Mapping[str, str | None], known: dict[str, str]) -> s.Expr:
    """The value of an option. `known` takes its name, and what is said of it."""
    head, *rest = node.arguments or (s.Int(0, node.span),)
    if not isinstance(head, s.Str) or len(rest) > 2 or (len(rest) == 2 and not isinstance(rest[1], s.Str)):
        raise TextError(node.span, "this is no option", FORM)
    name = head.value
    default = rest[0] if rest else s.Bool(False, node.span)
    doc = rest[1].value if len(rest) == 2 and isinstance(rest[1], s.Str) else ""
    known[name] = f": {doc}" if doc else known.get(name, "")
    if not isinstance(default, s.Int | s.Bool | s.Str) and _negative(default) is None:
        raise TextError(default.span, "the default of an option is a constant", FORM)
    if name not in given:
        return default
    text = given[name]
    if isinstance(default, s.Bool):
        word = "true" if text is None else text.lower()
        if word not in ("true", "false", "1", "0"):
            raise KwireError("run", f"--{name}", f"{text!r} is neither true nor false")
        return s.Bool(word in ("true", "1"), node.span)
    if text is None:
        raise KwireError("run", f"--{name}", "it has no value", f"write --{name}=…")
    if isinstance(default, s.Str):
        return s.Str(text, node.span)
    try:
        value = number(text)
    except ValueError:
        raise KwireError("run", f"--{name}", f"{text!r} is no number") from None
    return s.Int(value, node.span) if value >= 0 else s.Unary("-", s.Int(-value, node.span), node.span)


def _negative(node: s.Expr) -> s.Expr | None:
    """A number with its sign; None where it is none."""
    return node if isinstance(node, s.Unary) and node.op == "-" and isinstance(node.operand, s.Int) else None
