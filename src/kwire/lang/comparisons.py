"""Comparisons: of numbers, of texts with strings, of addresses with how they are written.

The law: a comparison that is never or always true, or whose answer would depend on C's conversion of signed
to unsigned, is an error, because nobody means it.
"""

import sys

from kwire.lang import builtins, values
from kwire.lang import checked as c
from kwire.lang import types as t
from kwire.lang.errors import TextError
from kwire.lang.tree import COMPARE, Span
from kwire.lang.values import Literal, Value

SWAPPED = {"eq": "eq", "ne": "ne", "lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}


def compare(op: str, left: Value, right: Value, span: Span) -> c.Expr:
    """`left op right` as 0 or 1."""
    if isinstance(left, Literal) and not isinstance(right, Literal):
        left, right, op = right, left, SWAPPED[op]
    if isinstance(right, Literal):
        return _with_string(op, left, right, span)
    for one in (left, right):
        if isinstance(one, c.ReadText | c.Comm | c.ReadBytes):
            raise TextError(span, "a text can be compared with a string only", 'write == "…"')
    return _numbers(op, values.scalar(left), values.scalar(right), span)


def _with_string(op: str, left: Value, literal: Literal, span: Span) -> c.Expr:
    if isinstance(left.type, t.Int) and left.type.display == "ipv4" and not isinstance(left, values.WIDE):
        address = c.Const(_ipv4(literal), left.type, literal.span)
        return _numbers(op, left, address, span)
    if t.is_text_array(left.type) or isinstance(left, c.ReadText | c.Comm):
        text = values.as_text(left, len(literal.value.encode()) + 1, span)
    else:
        text = None
    if text is None:
        raise TextError(span, f"{t.article(left.type)} is no text", "make it one: str(x)")
    if op not in ("eq", "ne"):
        raise TextError(span, f"texts have no order: {COMPARE[op]}", "use == or !=")
    wanted = literal.value.encode()
    if b"\0" in wanted:
        raise TextError(literal.span, "a text ends at its first NUL and contains none")
    size = text.fixed if isinstance(text, c.ReadText) else 0
    most = text.type.limit if isinstance(text, c.Comm) else size or builtins.MAX_LIMIT
    if len(wanted) > most:
        what = "comm" if isinstance(text, c.Comm) else "this text"
        raise TextError(literal.span, f"{what} has at most {most} bytes, never these {len(wanted)}")
    if isinstance(text, c.ReadText):
        # One byte more than the literal tells the whole text from a longer one.
        limit = min(len(wanted) + 1, size) if size else len(wanted) + 1
        text = text._replace(type=t.Text(limit, text.type.space))
    equal = c.TextEqual(text, wanted, t.BOOL, span)
    return equal if op == "eq" else c.Not(equal, t.BOOL, span)


def _ipv4(literal: Literal) -> int:
    """The number a network-order field holds in memory when it is this address."""
    parts = literal.value.split(".")
    if len(parts) != 4 or not all(part.isascii() and part.isdigit() and len(part) < 4 for part in parts):
        raise TextError(literal.span, f"{literal.value!r} is no IPv4 address", "write 192.0.2.1")
    numbers = [int(part) for part in parts]
    if max(numbers) > 255:
        raise TextError(literal.span, f"{literal.value!r} is no IPv4 address", "each part is 0 to 255")
    # Programs are compiled where they run, so this machine's order is the field's.
    return int.from_bytes(bytes(numbers), sys.byteorder)


def _numbers(op: str, left: c.Expr, right: c.Expr, span: Span) -> c.Expr:
    for value, other, seen in ((right, left, op), (left, right, SWAPPED[op])):
        if isinstance(value, c.Const) and not isinstance(other, c.Const):
            _reachable(seen, other, value, span)
            # The constant takes the other's side: no mixture is left.
            unsigned = t.is_wide_unsigned(other.type)
            return c.Compare(op, left, right, not unsigned, t.BOOL, span)
    mixed = t.is_wide_unsigned(left.type) != t.is_wide_unsigned(right.type)
    if mixed and op not in ("eq", "ne") and not isinstance(left, c.Const):
        for one, other in ((left, right), (right, left)):
            if t.is_wide_unsigned(one.type) and values.bounds(other.type)[0] < 0:
                message = f"{t.article(one.type)} and {t.article(other.type)}, which may be negative"
                raise TextError(span, f"this compares {message}", "say which is meant: s64(x) or u64(x)")
    signed = not (t.is_wide_unsigned(left.type) or t.is_wide_unsigned(right.type))
    return c.Compare(op, left, right, signed, t.BOOL, span)


def _reachable(op: str, value: c.Expr, constant: c.Const, span: Span) -> None:
    """Refuse a comparison with a constant that the value's type decides alone."""
    low, high = values.bounds(value.type)
    number = constant.value
    never = {
        "eq": not low <= number <= high,
        "ne": False,
        "lt": number <= low,
        "le": number < low,
        "gt": number >= high,
        "ge": number > high,
    }
    always = {
        "eq": False,
        "ne": not low <= number <= high,
        "lt": number > high,
        "le": number >= high,
        "gt": number < low,
        "ge": number <= low,
    }
    if isinstance(value.type, t.Bool):
        return
    for word, table in (("never", never), ("always", always)):
        if table[op]:
            what = f"{t.article(value.type)} is {low} to {high}" if high < 1 << 32 else _sign(value, low)
            cure = "cast it if its bits mean a signed number: s32(x)" if number < 0 == low else ""
            raise TextError(span, f"this is {word} true: {what}", cure)


def _sign(value: c.Expr, low: int) -> str:
    name = t.describe(value.type)
    return f"a {name} is never negative" if low == 0 else f"a {name} cannot hold that"
