"""Between which numbers the value of an expression certainly lies: how often a loop runs at most."""

from collections.abc import Callable

from kwire.hints import TypeAlias
from kwire.lang import checked as c
from kwire.lang import types as t
from kwire.lang.values import bounds

Extent = tuple[int, int]


Locals: TypeAlias = Callable[[int], Extent | None]
"""What is known of the local of a number."""


def extent(e: c.Expr, known: Locals = lambda local: None) -> Extent:
    """The least and the greatest number that a scalar expression can be, as far as its form tells."""
    match e:
        case c.Const(value=value):
            return value, value
        case c.LocalGet(local=local):
            return _within(known(local), bounds(e.type))
        case c.Convert() | c.Retype():
            return _within(extent(e.operand, known), bounds(e.type))
        case c.Load(bit_size=bits) if bits and not t.signed(e.type):
            return 0, (1 << bits) - 1
        case c.Binary():
            return _binary(e, known)
        case c.Select():
            return _select(e, known)
        case c.Bswap(size=size):
            return 0, (1 << 8 * size) - 1
    return bounds(e.type)


def _within(made: Extent | None, own: Extent) -> Extent:
    """What was found, where all of it is in a type's own."""
    return made if made and own[0] <= made[0] and made[1] <= own[1] else own


def _binary(e: c.Binary, known: Locals) -> Extent:
    own, left, right = bounds(e.type), extent(e.left, known), extent(e.right, known)
    made = own
    if e.op == "and":
        masks = [one[1] for one in (left, right) if one[0] >= 0]
        made = (0, min(masks)) if masks else own
    elif e.op == "mod" and right[0] > 0:
        made = 0, right[1] - 1
    elif e.op == "shr" and right[0] == right[1] and 0 <= right[0] < 64:
        made = left[0] >> right[0], left[1] >> right[0]
    elif e.op == "div" and right[0] == right[1] > 0:
        made = left[0] // right[0], left[1] // right[0]
    elif e.op == "add":
        made = left[0] + right[0], left[1] + right[1]
    elif e.op == "sub":
        made = left[0] - right[1], left[1] - right[0]
    elif e.op == "mul" and left[0] >= 0 and right[0] >= 0:
        made = left[0] * right[0], left[1] * right[1]
    return _within(made, own)


def _select(e: c.Select, known: Locals) -> Extent:
    one, two = extent(e.then, known), extent(e.otherwise, known)
    if isinstance(e.test, c.Compare):
        left, right = _plain(e.test.left), _plain(e.test.right)
        if (left, right) == (_plain(e.then), _plain(e.otherwise)):
            if e.test.op in ("lt", "le"):
                return min(one[0], two[0]), min(one[1], two[1])
            if e.test.op in ("gt", "ge"):
                return max(one[0], two[0]), max(one[1], two[1])
    return min(one[0], two[0]), max(one[1], two[1])


def _plain(e: c.Expr) -> c.Expr:
    """The expression without what changes none of its values."""
    while isinstance(e, c.Convert | c.Retype) and extent(e.operand) == extent(e):
        e = e.operand
    return c.Const(e.value, t.S64, e.span) if isinstance(e, c.Const) else e
