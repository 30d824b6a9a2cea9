"""What a script prints: statements that become events of shapes of their own, each with its format."""

from collections.abc import Mapping

from kwire.hints import TYPE_CHECKING, Final
from kwire.lang import tree
from kwire.lang import types as t
from kwire.lang.bpftrace import syntax as s
from kwire.lang.bpftrace.constants import constant, text_constant
from kwire.lang.bpftrace.maps import whole_map
from kwire.lang.errors import Diagnostic, TextError
from kwire.lang.events import RESERVED
from kwire.lang.tree import Span
from kwire.wire.printf import Conversion, FormatError, split
from kwire.words import plural

if TYPE_CHECKING:
    from kwire.lang.bpftrace.lower import Lowering

JOINED_MOST: Final = 16
"""Texts that are joined."""

JOINED_TEXT: Final = 256
"""Bytes of each of them."""

FORMAT_MOST: Final = 16_384
"""Characters of a format."""


def printf(low: "Lowering", node: s.Call, prints: str = "printf", head_text: str = "") -> tree.Stmt:
    """A line, which is an event of its own shape. `prints`: how it is printed; `head_text`: what stands
    before.
    """
    head, *arguments = node.arguments
    if isinstance(head, s.Name | s.Call):  # what a macro was given, or gives
        text = text_constant(low, head)
        head = head if text is None else s.Str(text, head.span)
    if not isinstance(head, s.Str):
        raise TextError(head.span, "the format is not a string", f'write {node.function}("…", …)')
    try:
        texts, conversions = split(_ended(head.value))
    except FormatError as error:
        cure = "write %% for a percent sign" if "conversion" in str(error) else ""
        raise TextError(head.span, str(error), cure) from None
    if len(conversions) != len(arguments):
        wanted = plural(len(conversions), "conversion")
        message = f"the format has {wanted} for {plural(len(arguments), 'value')}"
        raise TextError(node.span, message, "give one value for each %")
    if len(head.value) > FORMAT_MOST:
        raise TextError(head.span, f"the format is longer than {FORMAT_MOST} characters", "print it in parts")
    format = (head_text + texts[0]).replace("%", "%%")
    fields: dict[str, tree.Expr] = {}
    places: list[tuple[str, Span]] = []
    for conversion, argument, text in zip(conversions, arguments, texts[1:], strict=True):
        fixed = None if prints == "value" else text_constant(low, argument)
        if fixed is not None:
            format += _folded(conversion, fixed, argument.span).replace("%", "%%")
        else:
            name = _free(_field_name(argument) or f"arg{len(fields) + 1}", fields)
            done = len(low.pending)
            value = low.expression(argument)
            if len(low.pending) > done:  # what this changes is not seen by the values before it
                for earlier, known in fields.items():
                    fields[earlier] = low.frozen(known, done)
            shown = conversion.text
            if conversion.letters == "gr":
                value, shown = _flags(low, value), shown[:-2] + "s"
            fields[name] = value
            places.append((name, argument.span))
            format += shown
        format += text.replace("%", "%%")
    return emit(low, prints, format, fields, places, node.span)


def _flags(low: "Lowering", value: tree.Expr) -> tree.Expr:
    """A number of flags of an allocation, shown by their names."""
    names = tuple((name, number) for number, name in low.surroundings.allocation().items())
    return tree.Shown(value, t.Enum("flags of allocations", 4, False, names, bool(names)), value.span)


def print_(low: "Lowering", node: s.Call) -> tree.Stmt:
    """A map, an element of one, or a value."""
    target, *limits = node.arguments
    if isinstance(target, s.Map) and target.key is None:
        title = whole_map(low, target)
        numbers = [constant(low, one) for one in limits]
        if any(number is None or number < 0 for number in numbers):
            raise TextError(node.span, "top and div are constant numbers", "write print(@map, 5, 1000)")
        if low.emptying:
            numbers = [*numbers, *(0, 1)[len(numbers) :], 1]
        return emit(low, "print", " ".join([title, *map(str, numbers)]), {}, [], node.span)
    if limits:
        raise TextError(node.span, "top and div are for maps", "write print(@map, 5)")
    values = (s.Str("%s\n", node.span), target)
    return printf(low, s.Call("printf", values, node.span, node.function_span), "value")


def cat(low: "Lowering", node: s.Call) -> tree.Stmt:
    """A file, which is read when this is shown."""
    return printf(low, node, "cat")


def system(low: "Lowering", node: s.Call) -> tree.Stmt:
    """A command of the shell, which is run when this is shown."""
    if not low.surroundings.unsafe:
        raise TextError(node.span, "system() can change the system", "allow it: --unsafe")
    return printf(low, node, "system")


def told(low: "Lowering", node: s.Call) -> tree.Stmt:
    """An error (errorf) or a warning (warnf), with its place before it."""
    word = "ERROR" if node.function == "errorf" else "WARNING"
    place = f"{_place(low, node.span)}: {word}: "
    head, *rest = node.arguments
    if isinstance(head, s.Str):
        behind = "" if head.value.endswith("\n") else "\n"
        for span in reversed(low.places):  # the macros that it is in
            lines = Diagnostic(span, "expanded from").report(low.source, word)
            behind += "".join(f"{line}\n" for line in lines).replace("%", "%%")
        head = head.replace(value=f"{head.value}{behind}")
    return printf(low, node.replace(arguments=(head, *rest)), node.function, place)


DIVIDED: Final = (
    "Divide or modulo by 0 detected. This can lead to unexpected results. 1 is being used as the result."
)


def divided(low: "Lowering", divisor: tree.Expr) -> tree.Expr:
    """A divisor, which is looked at before: where it is 0, that is told."""
    span = divisor.span
    kept = low.declare("")
    name = f"division{sum(one.startswith('division') for one in low.prints) + 1}"
    place = _place(low, span).replace("%", "%%")
    low.prints[name] = tree.Print("warnf", f"{place}: WARNING: {DIVIDED}\n", span, ())
    event = tree.Do(tree.Call("emit", (tree.String(name, span),), (), span, span), span)
    none = tree.Unary("not", tree.Name(kept, span), span)
    low.pending += [tree.Assign(kept, divisor, span, span), tree.If(none, (event,), (), span)]
    return tree.Name(kept, span)


def _place(low: "Lowering", span: Span) -> str:
    """Where something is written."""
    last = span.end_column if span.end_line == span.line else span.column
    return f"{low.file}:{span.line}:{span.column + 1}-{last + 1}"


def join(low: "Lowering", node: s.Call) -> tree.Stmt:
    """The texts that an array of pointers points to, up to the first that is none."""
    between = " "
    if len(node.arguments) == 2:
        given = node.arguments[1]
        if not isinstance(given, s.Str):
            raise TextError(given.span, "what stands between is not a string", 'write join(args.argv, " ")')
        between = given.value
    span, fields = node.span, {}
    array = low.declare("")
    low.pending.append(tree.Assign(array, low.expression(node.arguments[0]), span, span))
    there: tree.Expr = tree.Number(1, span)
    limit = tree.Number(min(int(low.settings.get("max_strlen", 1024)), JOINED_TEXT), span)
    for number in range(JOINED_MOST):
        item = low.declare("")
        one: tree.Expr = tree.Index(tree.Name(array, span), tree.Number(number, span), span)
        zero = tree.Number(0, span)
        if number:
            one = tree.Conditional(there, one, tree.Cast("char *", zero, span, span), span)
        low.pending.append(tree.Assign(item, one, span, span))
        there = tree.Compare(tree.Name(item, span), (("ne", zero),), span)
        fields[f"arg{number}"] = tree.Call("str", (tree.Name(item, span), limit), (), span, span)
    return emit(low, "join", between, fields, [], span)


def time_(low: "Lowering", node: s.Call) -> tree.Stmt:
    """The time of the event."""
    format = "%H:%M:%S\n"
    if node.arguments:
        given = node.arguments[0]
        if not isinstance(given, s.Str):
            raise TextError(given.span, "the format is not a string", 'write time("%H:%M:%S\\n")')
        format = given.value
    return emit(low, "time", format, {}, [], node.span)


def empties(node: s.Stmt, after: s.Stmt | None) -> bool:
    """Whether a map is printed and then emptied: nothing is to be lost in between."""
    match node, after:
        case (
            s.Do(value=s.Call(function="print", arguments=(s.Map(id=printed, key=None), *_))),
            s.Do(value=s.Call(function="clear", arguments=(s.Map(id=emptied, key=None),))),
        ):
            return printed == emptied
    return False


def empty(low: "Lowering", node: s.Call) -> tree.Stmt:
    """A map is emptied (clear), or its values become 0 (zero)."""
    return emit(low, node.function, whole_map(low, node.arguments[0]), {}, [], node.span)


def emit(
    low: "Lowering",
    prints: str,
    format: str,
    fields: Mapping[str, tree.Expr],
    places: list[tuple[str, Span]],
    span: Span,
) -> tree.Stmt:
    """An event that is printed."""
    if any("\ud800" <= char <= "\udfff" for char in format):
        raise TextError(span, "bytes that are no UTF-8 cannot be printed yet")
    format = _ended(format)
    written = sum(not one.startswith("division") for one in low.prints)  # those of divisions are not
    name = f"{prints}{written + 1}"
    low.prints[name] = tree.Print(prints, format, span, tuple(places))
    event = tree.String(name, span)
    return tree.Do(tree.Call("emit", (event,), tuple(fields.items()), span, span), span)


def _ended(text: str) -> str:
    """A text as far as its NUL."""
    return text.partition("\0")[0]


def _field_name(node: s.Expr) -> str:
    """What a value is called among the fields of its event; empty where it has no name."""
    match node:
        case s.Name(id=name) | s.Var(id=name) | s.Field(name=name):
            return name
        case s.Cast(value=value) | s.Index(value=value):
            return _field_name(value)
        case s.Call(function=function, arguments=(*_, last)) if function in (
            "ntop",
            "ksym",
            "usym",
            "macaddr",
            "bswap",
        ):
            return _field_name(last)
        case s.Call(function="str" | "buf", arguments=(first, *_)):
            return _field_name(first)
    return ""


def _free(name: str, fields: Mapping[str, tree.Expr]) -> str:
    """A name for a field that none has yet."""
    if name in RESERVED:
        name += "_"
    number, free = 1, name
    while free in fields:
        number += 1
        free = f"{name}_{number}"
    return free


def _folded(conversion: Conversion, text: str, span: Span) -> str:
    """A text that is known, as its conversion prints it."""
    if conversion.letters != "s":
        raise TextError(span, f"{conversion.text} does not take a string", "use %s")
    text = _ended(text)
    if conversion.precision >= 0:
        text = text[: conversion.precision]
    return text.ljust(conversion.width) if "-" in conversion.flags else text.rjust(conversion.width)
