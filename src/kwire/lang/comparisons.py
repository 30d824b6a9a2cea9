"""Comparisons: of numbers, of texts with strings, of addresses with how they are written.

Invariants: numbers compare by their mathematical value, whatever their signs and widths; a comparison that
is never true is an error, because nobody means it; one that is always true, as half of `0 <= fd < 10` may
be, is a constant. A number that people read by a name (an enumeration, an error, a device) compares with how
it is shown, too: what that stands for is known before the first event.
"""

import operator
import re
import sys
from collections.abc import Callable

from kwire.hints import TypeAlias
from kwire.lang import builtins, values
from kwire.lang import checked as c
from kwire.lang import types as t
from kwire.lang.builtins import linux_constant
from kwire.lang.errors import NameTextError, NeverTextError, TextError, did_you_mean
from kwire.lang.tree import COMPARE, Span
from kwire.lang.values import Literal, Value

NETWORK = ("ipv4", "ipv6", "mac")
"""Displays of addresses that are bytes in an order which is no order of numbers."""

SWAPPED = {"eq": "eq", "ne": "ne", "lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}


Named: TypeAlias = Callable[[str], int | None]
"""The number of a name of Linux's, None where it is none."""


_BITS = re.compile("0x[0-9a-f]{1,16}")


def compare(op: str, left: Value, right: Value, span: Span, constant: Named = linux_constant) -> c.Expr:
    """`left op right` as 0 or 1. Raises `TextError`."""
    if isinstance(left, Literal) and isinstance(right, Literal):
        return c.Const(int(getattr(operator, op)(left.value, right.value)), t.BOOL, span)
    if isinstance(left, Literal):
        left, right, op = right, left, SWAPPED[op]
    if isinstance(right, Literal):
        return _with_string(op, left, right, span, constant)
    if _is_text(left) or _is_text(right):
        for value in (left, right):
            if not _is_text(value) and not _points_to_text(value):
                wrong = f"a text does not compare with {t.article(value.type)}"
                raise TextError(span, wrong, 'compare it with a text: == "…"')
        return c.TextCompare(op, text_of(left, span), text_of(right, span), t.BOOL, span)
    if any(isinstance(one.type, t.Int) and one.type.display in NETWORK for one in (left, right)):
        unordered(op, span)
    texts = t.is_constant_text(left.type) or t.is_constant_text(right.type)
    if texts and (op not in ("eq", "ne") or left.type != right.type):
        raise TextError(span, "a constant text is only equal to another or not", "use == or !=")
    return _numbers(op, values.scalar(left), values.scalar(right), span)


def missing(op: str, value: Value, span: Span) -> c.Expr:
    """`value is None` (eq), `value is not None` (ne): whether a text cannot be read, an address is 0."""
    if not _is_text(value):
        return _numbers(op, values.scalar(value), c.Const(0, t.S64, span), span)
    there = c.TextOrder("ge", text_of(value, span), b"", t.BOOL, span)
    return there if op == "ne" else c.Not(there, t.BOOL, span)


def _with_string(op: str, left: Value, literal: Literal, span: Span, constant: Named) -> c.Expr:
    if isinstance(left.type, t.Int) and left.type.display == "ipv4" and not isinstance(left, values.WIDE):
        unordered(op, span)
        address = c.Const(ipv4(literal), left.type, literal.span)
        return _numbers(op, left, address, span)
    if isinstance(left.type, t.Enum) and not isinstance(left, values.WIDE):
        return _numbers(op, left, _enumerator(left.type, literal), span)
    shown = isinstance(left.type, t.Int) and left.type.display not in ("", *t.ADDRESSES)
    if shown and not isinstance(left, values.WIDE):
        assert isinstance(left.type, t.Int)
        number = as_shown(left.type.display, literal, constant)
        return _numbers(op, left, c.Const(number, t.S64, literal.span), span)
    if isinstance(left, c.ReadBlock) and isinstance(left.type, t.Array) and left.type.display:
        same = c.BlockEqual(left, address_bytes(left.type.display, literal), t.BOOL, span)
        unordered(op, span)
        return same if op == "eq" else c.Not(same, t.BOOL, span)
    text = text_of(left, span)
    wanted = literal.value.encode("utf-8", "surrogateescape")
    if b"\0" in wanted:
        raise TextError(literal.span, "a text ends at its first NUL and contains none")
    if op not in ("eq", "ne"):
        return c.TextOrder(op, text, wanted, t.BOOL, span)
    try:
        reach(text, len(wanted), literal.span)
    except NeverTextError:
        if op == "eq":
            raise
        return c.Const(1, t.BOOL, span)
    equal = c.TextEqual(text, wanted, t.BOOL, span)
    return equal if op == "eq" else c.Not(equal, t.BOOL, span)


def _points_to_text(value: Value) -> bool:
    target = value.type.target if isinstance(value.type, t.Pointer) else None
    return isinstance(target, t.Int) and target.char


def _is_text(value: Value) -> bool:
    return isinstance(value, c.ReadText | c.Comm | c.ReadBytes) or t.is_text_array(value.type)


def unordered(op: str, span: Span) -> None:
    """Refuse the order of what has none."""
    if op not in ("eq", "ne"):
        raise TextError(span, f"addresses have no order: {COMPARE[op]}", "use == or !=")


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
    raise TextError(span, f"{t.article(value.type)} is no text", _as_text(value.type))


def _as_text(type_: t.Type) -> str:
    """What makes a text of a value of this type, or what to do with it instead."""
    if t.is_integer(type_):
        return "compare it with a number"
    if isinstance(type_, t.Bytes):
        return "read it as one: str(p)"
    inner = type_.target if isinstance(type_, t.Pointer) else None
    inner = type_.element if isinstance(type_, t.Array) else inner
    if isinstance(inner, t.Void) or (inner is not None and t.is_integer(inner) and t.size_of(inner) == 1):
        return "make it one: str(x)"
    return (
        'cast it: str(cast("char *", x))' if isinstance(type_, t.Pointer) else "name the member that is one"
    )


def reach(text: c.ReadText | c.Comm, size: int, span: Span) -> None:
    """Refuse so many bytes of text where the text is never that long."""
    most, known = text.type.limit, builtins.COMM.limit if isinstance(text, c.Comm) else text.fixed
    if size <= most:
        return
    longer = f"read more of it: str(x, {size})" if not known or most < known >= size else ""
    if size > builtins.MAX_LIMIT:
        longer = ""
    raise NeverTextError(span, f"this text has at most {most} bytes, never these {size}", longer)


def as_shown(display: str, literal: Literal, constant: Named) -> int:
    """The number that a display shows like this: "-ENOENT", "O_RDWR|O_CREAT", "8:1", "0x1f", "0644", "42".

    Raises TextError where it shows none like this.
    """
    text = literal.value
    known = _by_name(text, constant) if display not in ("dev", "user_dev") else _device(display, text)
    if known is None:
        try:
            known = int(text, 8 if display == "octal" else 16 if text.startswith("0x") else 10)
        except ValueError:
            cure = "compare it with a number, or with names joined by |"
            raise TextError(literal.span, f"no number is shown as {text!r} here", cure) from None
    return known


def _by_name(text: str, constant: Named) -> int | None:
    """The number of names joined by `|`, with bits that have none in hexadecimal, of a negative one with its
    sign; None where one is unknown.
    """
    total, whole = 0, constant(text)
    if whole is not None:  # a name may have such signs itself
        return whole
    for name in text.removeprefix("-").split("|"):
        number = constant(name)
        if number is None and _BITS.fullmatch(name):
            number = int(name, 16)
        if number is None:
            return None
        total |= number
    return -total if text.startswith("-") else total


def _device(display: str, text: str) -> int | None:
    """The number of a device, "8:1", as the kernel (`dev`) or a system call keeps it."""
    major, colon, minor = text.partition(":")
    if not colon or not (major.isdecimal() and minor.isdecimal()):
        return None
    if display == "dev":
        return int(major) << 20 | int(minor)
    return int(minor) & 0xFF | int(major) << 8 | (int(minor) & ~0xFF) << 12


def _enumerator(type_: t.Enum, literal: Literal) -> c.Const:
    """The number that this name of an enumeration stands for, or these names of bits joined by `|`."""
    known = dict(type_.values)
    value = _by_name(literal.value, known.get)
    if value is not None:
        return c.Const(value, type_, literal.span)
    names = list(known)
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
