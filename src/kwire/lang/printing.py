"""Events that are printed: formats held against the values that they take.

Invariant: a format that a program has fits its fields, with one conversion for each of them.
"""

from collections.abc import Mapping

from kwire.hints import Final
from kwire.lang import checked as c
from kwire.lang import types as t
from kwire.lang.errors import Diagnostic, LanguageError
from kwire.lang.forms import walk
from kwire.lang.tree import Print
from kwire.wire.printf import INTEGERS, Conversion, split

Tuples = dict[str, dict[str, t.Tuple]]
"""The fields that are given as tuples, by the names of their events and of the fields."""

COMM_SIZE: Final = 16
"""Bytes of a thread's name in the kernel."""

MOVED: Final = (4, 8, 16)
"""Bytes of arrays of characters that are copied whole."""


def printed(prints: Mapping[str, Print], program: c.Program, tuples: Tuples) -> c.Program:
    """The checked program with how its events are printed. Raises `LanguageError` where formats do not
    fit their values.
    """
    faults: list[Diagnostic] = []
    shapes = []
    emits = (one for statement in program.body for one in walk(statement) if isinstance(one, c.Emit))
    values: dict[str, list[tuple[c.Expr | c.Wide, ...]]] = {}
    for emit in emits:
        values.setdefault(program.shapes[emit.shape].name, []).append(emit.values)
    for shape in program.shapes:
        known = prints.get(shape.name)
        if known is None:
            shapes.append(shape)
            continue
        format = known.format
        if known.arguments:
            format = _fitted(known, shape, tuples.get(shape.name, {}), faults)
        given = zip(*values[shape.name], strict=True)
        fields = tuple(_in_place(field, ways) for field, ways in zip(shape.fields, given, strict=True))
        shapes.append(shape.replace(fields=fields, prints=known.prints, format=format))
    if faults:
        raise LanguageError(program.source, faults)
    return program.replace(shapes=tuple(shapes))


def _in_place(field: c.Field, values: tuple[c.Expr | c.Wide, ...]) -> c.Field:
    """The field; an array of characters where its values are such, of a size that is moved at once: it takes
    less to copy it whole than to find its end.
    """
    sizes = {_moved(value) for value in values}
    size = sizes.pop()
    return field.replace(type=t.Array(t.CHAR, size)) if size and not sizes else field


def _moved(value: c.Expr | c.Wide) -> int:
    """The bytes of the array of characters that a text is, where that is copied whole; else 0."""
    if not isinstance(value, c.Comm | c.ReadText):
        return 0
    size = COMM_SIZE if isinstance(value, c.Comm) else value.fixed
    return size if size in MOVED and value.type.limit >= size - 1 else 0


def _fitted(known: Print, shape: c.Shape, tuples: Mapping[str, t.Tuple], faults: list[Diagnostic]) -> str:
    """The format for the fields of a shape, with a conversion for each part of a tuple. `faults` takes what
    does not fit.
    """
    texts, conversions = split(known.format)
    format, fields = texts[0].replace("%", "%%"), iter(shape.fields)
    for (name, span), conversion, text in zip(known.arguments, conversions, texts[1:], strict=True):
        whole = tuples.get(name)
        type_: t.Type = whole if whole is not None else next(fields).type
        if known.python:
            conversion = _of_python(conversion, type_)
        if not _takes(conversion, type_):
            message = f"{conversion.text} does not take {t.article(type_)}"
            faults.append(Diagnostic(span, message, "use %s" if conversion.letters != "s" else ""))
        if whole is not None:
            form = in_parts(whole)
            for _ in range(form.count("%s")):
                next(fields)
        format += (conversion.text if whole is None else form) + text.replace("%", "%%")
    return format


def _of_python(conversion: Conversion, type_: t.Type) -> Conversion:
    """The conversion that means for a value of the type what Python's does: where it does not say so (`+`), a
    text is put left and a number right, and the sign of a number is that of its type; but a negative number
    in hexadecimal or octal is shown by its bits, as in C.
    """
    flags = conversion.flags
    if conversion.letters == "s":
        texts = isinstance(type_, t.Text | t.Bytes | t.Array | t.Tuple)
        left = "-" in flags or (texts and "+" not in flags)
        return conversion._replace(flags="-" if left and conversion.width else "")
    if conversion.letters == "d" and isinstance(type_, t.INTEGRAL) and not t.signed(type_):
        return conversion._replace(letters="u")
    return conversion


def in_parts(type_: t.Type) -> str:
    """How a value is printed: the format of a tuple or record, with a conversion for each part."""
    if not isinstance(type_, t.Tuple):
        return "%s"
    parts = [in_parts(one) for one in type_.items]
    if not type_.names:
        return f"({', '.join(parts)})"
    if type_.names[0] == t.ELEMENT:
        return f"[{','.join(parts)}]"
    return f"{{ {', '.join(f'.{name} = {part}' for name, part in zip(type_.names, parts, strict=True))} }}"


def _takes(conversion: Conversion, type_: t.Type) -> bool:
    """Whether a conversion takes values of a type."""
    if conversion.letters == "s":
        return True
    if conversion.letters in INTEGERS:
        shown = isinstance(type_, t.Int) and type_.display in ("ipv4", "ipv6", "mac")
        if isinstance(type_, t.Stack):
            return False
        return isinstance(type_, t.SCALARS) and not shown and not t.is_constant_text(type_)
    return isinstance(type_, t.Bytes | t.Text | t.Array)
