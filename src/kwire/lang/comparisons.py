"""Comparisons: of numbers, of texts with strings, of addresses with how they are written.

Invariants: numbers compare by their mathematical value, whatever their signs and widths; a comparison that
is never true is an error, because nobody means it; one that is always true, as half of `0 <= fd < 10` may
be, is a constant.
"""

import operator
import sys
from collections.abc import Callable

from kwire.lang import builtins, values
from kwire.lang import checked as c
from kwire.lang import types as t
from kwire.lang.errors import NameTextError, NeverTextError, TextError, did_you_mean
from kwire.lang.tree import COMPARE, Span
from kwire.lang.values import Literal, Value

SWAPPED = {"eq": "eq", "ne": "ne", "lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}


def compare(op: str, left: Value, right: Value, span: Span) -> c.Expr:
    """`left op right` as 0 or 1."""
    if isinstance(left, Literal) and isinstance(right, Literal):
        return c.Const(int(getattr(operator, op)(left.value, right.value)), t.BOOL, span)
    if isinstance(left, Literal):
        left, right, op = right, left, SWAPPED[op]
    if isinstance(right, Literal):
        return _with_string(op, left, right, span)
    for one in (left, right):
        if isinstance(one, c.ReadText | c.Comm | c.ReadBytes):
            raise TextError(span, "a text can be compared with a string only", 'write == "…"')
    return _numbers(op, values.scalar(left), values.scalar(right), span)


def _with_string(op: str, left: Value, literal: Literal, span: Span) -> c.Expr:
    if isinstance(left.type, t.Int) and left.type.display == "ipv4" and not isinstance(left, values.WIDE):
        address = c.Const(ipv4(literal), left.type, literal.span)
        return _numbers(op, left, address, span)
    if isinstance(left.type, t.Enum) and not isinstance(left, values.WIDE):
        return _numbers(op, left, _enumerator(left.type, literal), span)
    shown = isinstance(left.type, t.Int) and left.type.display not in ("", *t.ADDRESSES)
    if shown and not isinstance(left, values.WIDE):
        number = by_name(literal, linux_constant)
        if number is None:
            cure = "compare it with a number, or with names joined by |"
            raise TextError(literal.span, f"{literal.value!r} is no name that Linux has for a number", cure)
        return _numbers(op, left, c.Const(number, t.S64, literal.span), span)
    if isinstance(left, c.ReadBlock) and isinstance(left.type, t.Array) and left.type.display:
        same = c.BlockEqual(left, address_bytes(left.type.display, literal), t.BOOL, span)
        if op not in ("eq", "ne"):
            raise TextError(span, f"addresses have no order: {COMPARE[op]}", "use == or !=")
        return same if op == "eq" else c.Not(same, t.BOOL, span)
    text = text_of(left, span)
    if op not in ("eq", "ne"):
        raise TextError(span, f"texts have no order: {COMPARE[op]}", "use == or !=")
    wanted = literal.value.encode()
    if b"\0" in wanted:
        raise TextError(literal.span, "a text ends at its first NUL and contains none")
    reach(text, len(wanted), literal.span)
    equal = c.TextEqual(text, wanted, t.BOOL, span)
    return equal if op == "eq" else c.Not(equal, t.BOOL, span)


def text_of(value: Value, span: Span) -> c.ReadText | c.Comm:
    """The value as a text, a `char *` as what it points to. Raises `TextError` for what is none."""
    if isinstance(value.type, t.Pointer) and not isinstance(value, values.WIDE):
        target = value.type.target
        if isinstance(target, t.Int) and target.char:
            place = values.place_at(value, span)
            return c.ReadText(place, t.Text(builtins.TEXT_LIMIT, place.space), span)
    if t.is_text_array(value.type) or isinstance(value, c.ReadText | c.Comm):
        text = values.as_text(value, builtins.TEXT_LIMIT, span)
        if text is not None:
            return text
    raise TextError(span, f"{t.article(value.type)} is no text", "make it one: str(x)")


def reach(text: c.ReadText | c.Comm, size: int, span: Span) -> None:
    """Refuse so many bytes of text where the text is never that long."""
    most, known = text.type.limit, 15 if isinstance(text, c.Comm) else text.fixed
    if size <= most:
        return
    what = "comm" if isinstance(text, c.Comm) and most == known else "this text"
    longer = f"read more of it: str(x, {size})" if not known or most < known >= size else ""
    if size > builtins.MAX_LIMIT:
        longer = ""
    raise NeverTextError(span, f"{what} has at most {most} bytes, never these {size}", longer)


def by_name(literal: Literal, constant: Callable[[str], int | None]) -> int | None:
    """The number that is shown like this: "-ENOENT", "AF_INET", "O_RDWR|O_CREAT"; None where it is none."""
    sign = -1 if literal.value.startswith("-") else 1
    total = 0
    for name in literal.value.removeprefix("-").split("|"):
        number = constant(name)
        if number is None:
            return None
        total |= number
    return sign * total


def linux_constant(name: str) -> int | None:
    """The number of a name of Linux's interface on this machine (O_CREAT, ENOENT), None where it is none."""
    if not name[:1].isupper():
        return None
    import os

    from kwire.wire.names import constant

    return constant(name, os.uname().machine)


def _enumerator(type_: t.Enum, literal: Literal) -> c.Const:
    """The number that this name of an enumeration stands for."""
    for name, value in type_.values:
        if name == literal.value:
            return c.Const(value, type_, literal.span)
    names = [name for name, _ in type_.values]
    cure = did_you_mean(literal.value, names) or f"its names are {', '.join(names[:12])}"
    what = (
        f"{t.article(type_)} has no name {literal.value!r}" if names else f"{t.article(type_)} has no names"
    )
    raise NameTextError(literal.span, what, cure if names else "compare it with a number")


def address_bytes(display: str, literal: Literal) -> bytes:
    """The bytes of an IPv6 or Ethernet address."""
    if display == "mac":
        parts = literal.value.split(":")
        digits = "".join(parts)
        if len(parts) == 6 and all(len(part) == 2 for part in parts) and _is_hex(digits):
            return bytes.fromhex(digits)
        raise TextError(literal.span, f"{literal.value!r} is no Ethernet address", "write 00:00:5e:00:53:01")
    from socket import AF_INET6, inet_pton

    try:
        return inet_pton(AF_INET6, literal.value)
    except (OSError, ValueError):
        message = f"{literal.value!r} is no IPv6 address"
        raise TextError(literal.span, message, "write 2001:db8::1") from None


def _is_hex(text: str) -> bool:
    return text.isascii() and all(digit in "0123456789abcdefABCDEF" for digit in text)


def ipv4(literal: Literal) -> int:
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
    if isinstance(left, c.Const) and isinstance(right, c.Const):
        return c.Const(int(getattr(operator, op)(left.value, right.value)), t.BOOL, span)
    for value, other, seen in ((right, left, op), (left, right, SWAPPED[op])):
        if isinstance(value, c.Const):
            if _always(seen, other, value, span):
                return c.Const(1, t.BOOL, span)
            # The constant takes the other's side: no mixture is left.
            unsigned = t.is_wide_unsigned(other.type)
            return c.Compare(op, left, right, not unsigned, t.BOOL, span)
    wide = [t.is_wide_unsigned(one.type) for one in (left, right)]
    test = c.Compare(op, left, right, not any(wide), t.BOOL, span)
    for one, other, seen in ((left, right, op), (right, left, SWAPPED[op])):
        if any(wide) and not t.is_wide_unsigned(one.type) and values.bounds(one.type)[0] < 0:
            # A negative number is less than every unsigned one, whose bits may be the same.
            assert t.is_wide_unsigned(other.type)
            less, zero = seen in ("lt", "le", "ne"), c.Const(0, t.S64, span)
            sign = c.Compare("lt" if less else "ge", one, zero, True, t.BOOL, span)
            return c.Logic("or" if less else "and", sign, test, t.BOOL, span)
    return test


def _always(op: str, value: c.Expr, constant: c.Const, span: Span) -> bool:
    """Whether a comparison with a constant holds whatever the value; one that never does is refused."""
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
    if never[op]:
        what = f"{t.article(value.type)} is {low} to {high}" if high < 1 << 32 else _sign(value, low)
        cure = "cast it if its bits mean a signed number: s32(x)" if number < 0 == low else ""
        raise NeverTextError(span, f"this is never true: {what}", cure)
    return always[op]


def _sign(value: c.Expr, low: int) -> str:
    name = t.describe(value.type)
    return f"a {name} is never negative" if low == 0 else f"a {name} cannot hold that"
