"""Rules of arithmetic: what a single instruction can be replaced by, or improved to.

A rule gets the instruction (its operands already simplified) and the instructions that made its operands.
It gives the operand that replaces the result, or None, having perhaps changed the instruction for a cheaper
one in place. Numbers are in signed 64-bit form everywhere. `umin` is kept even where the result cannot
change: the verifier needs to see it.
"""

from collections.abc import Callable, Mapping

from kwire.compile.expressions import MASK64, signed64
from kwire.compile.ir import CONDITIONS, SWAPPED, Ins, Operand, Value
from kwire.hints import TypeAlias

COMMUTATIVE = frozenset({"add", "mul", "and", "or", "xor"})

Definitions: TypeAlias = Mapping[Value, Ins]
"""The instruction that defines a value, where the value has but one."""

Rule: TypeAlias = Callable[[Definitions, Ins], Operand | None]


def _number(value: Operand) -> int | None:
    return value if value.__class__ is int else None


def bits_of(value: Operand) -> int:
    """How many low bits of the operand can be set."""
    if value.__class__ is Value:
        return value.bits
    number = _number(value)
    return 64 if number is None or number < 0 else number.bit_length()


def _binary(made_by: Definitions, ins: Ins) -> Operand | None:
    op = ins.op
    a, b = ins.args
    x, y = _number(a), _number(b)
    if x is not None and y is not None:
        return compute(op, x, y)
    if x is not None and op in COMMUTATIVE:
        a, b, x, y = b, a, y, x
        ins.args = [a, b]
    if op in ("lsh", "rsh", "arsh") and y is not None and not 0 <= y < 64:
        y &= 63
        ins.args = [a, y]
    if y is None:
        if a is b and op in ("sub", "xor"):
            return 0
        if a is b and op in ("and", "or", "umin"):
            return a
        if x == 0 and op in ("lsh", "rsh", "arsh", "umin"):
            return 0
        _known_bits(ins)
        return None
    return _with_constant(made_by, ins, a, y)


def _with_constant(made_by: Definitions, ins: Ins, a: Operand, y: int) -> Operand | None:
    op = ins.op
    if op == "sub":
        op, y = "add", signed64(-y)
        ins.op, ins.args = op, [a, y]
    if y == 0:
        if op in ("add", "or", "xor", "lsh", "rsh", "arsh", "mod"):
            return a
        return 0  # mul, and, umin, div
    if op in ("mul", "div") and y == 1:
        return a
    if op == "mod" and y == 1:
        return 0
    if op == "or" and y == -1:
        return -1
    if op in ("and", "umin") and y == -1:
        return a
    if op == "and" and y > 0 and y & (y + 1) == 0 and bits_of(a) <= y.bit_length():
        return a
    power = y.bit_length() - 1
    if y > 0 and y == 1 << power:
        if op == "mul":
            ins.op, ins.args = "lsh", [a, power]
        elif op == "div":
            ins.op, ins.args = "rsh", [a, power]
        elif op == "mod":
            ins.op, ins.args = "and", [a, y - 1]
    made = made_by.get(a)  # type: ignore[arg-type]  # what is no value is none of its keys
    if made is not None and made.op == "mapval" and op == "add" and y > 0:
        assert isinstance(made.info, tuple)
        ins.op, ins.args, ins.info = "mapval", [], (made.info[0], made.info[1] + y)
        return None
    if made is not None and made.op == ins.op and made.op in ("add", "mul", "and", "or", "xor"):
        inner = _number(made.args[1])
        if inner is not None:
            ins.args = [made.args[0], compute(ins.op, inner, _number(ins.args[1]) or 0)]
            if ins.args[1] == 0 and ins.op in ("add", "xor"):
                return ins.args[0]
    if ins.op == "and" and made is not None and made.op in ("zext", "sext"):
        mask = _number(ins.args[1])
        if mask is not None and mask > 0 and mask.bit_length() <= made.info:  # type: ignore[operator]  # of these the number of bits
            ins.args = [made.args[0], mask]
    _known_bits(ins)
    return None


def _known_bits(ins: Ins) -> None:
    """Narrow what is known of the result's bits."""
    assert ins.dst is not None
    a, b = bits_of(ins.args[0]), bits_of(ins.args[1])
    y = _number(ins.args[1])
    bits = {
        "and": lambda: min(a, b),
        "umin": lambda: min(a, b),
        "or": lambda: max(a, b),
        "xor": lambda: max(a, b),
        "add": lambda: max(a, b) + 1,
        "mul": lambda: a + b,
        "div": lambda: a,
        "mod": lambda: min(a, b) if b < 64 and y else a,
        "rsh": lambda: a if y is None else max(a - y, 0),
        "lsh": lambda: 64 if y is None else a + y,
    }.get(ins.op)
    if bits is not None:
        ins.dst.bits = min(ins.dst.bits, bits(), 64)


def _neg(made_by: Definitions, ins: Ins) -> Operand | None:
    x = _number(ins.args[0])
    return None if x is None else signed64(-x)


def _extend(made_by: Definitions, ins: Ins) -> Operand | None:
    a = ins.args[0]
    width: int = ins.info  # type: ignore[assignment]  # the number of bits
    x = _number(a)
    if x is not None:
        return x & (1 << width) - 1 if ins.op == "zext" else signed(x, width)
    if bits_of(a) <= (width if ins.op == "zext" else width - 1):
        return a
    made = made_by.get(a)  # type: ignore[arg-type]  # what is no value is none of its keys
    if made is not None and made.op in ("zext", "sext"):
        if made.op == ins.op == "sext" and made.info <= width:  # type: ignore[operator]  # of these the number of bits
            return a
        if made.info >= width:  # type: ignore[operator]  # of these the number of bits
            ins.args = [made.args[0]]
    return None


def _big_endian(made_by: Definitions, ins: Ins) -> Operand | None:
    x = _number(ins.args[0])
    width: int = ins.info  # type: ignore[assignment]  # the number of bits
    if x is not None:
        return signed64(int.from_bytes((x & (1 << width) - 1).to_bytes(width // 8, "little"), "big"))
    ins.args = [low(made_by, ins.args[0], width // 8)]
    return None


def _compare(made_by: Definitions, ins: Ins) -> Operand | None:
    a, b = ins.args
    condition = str(ins.info)
    if a.__class__ is int and b.__class__ is not int:
        condition, a, b = SWAPPED[condition], b, a
        ins.args, ins.info = [a, b], condition
    if b == 0 and b.__class__ is int and condition in ("ne", "eq"):
        made = made_by.get(a)  # type: ignore[arg-type]  # what is no value is none of its keys
        if made is not None and made.op == "cmp":
            if condition == "ne":
                return a
            ins.args, ins.info = list(made.args), CONDITIONS[str(made.info)]
            return None
        if condition == "ne" and bits_of(a) <= 1:
            return a
    decided = decide(condition, a, b)
    return None if decided is None else int(decided)


def _within(made_by: Definitions, ins: Ins) -> Operand | None:
    value, index, length = ins.args
    if value.__class__ is int and value == 0:
        return 0
    decided = decide("lt", index, length)
    return None if decided is None else value if decided else 0


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        ("add", "sub", "mul", "div", "mod", "and", "or", "xor", "lsh", "rsh", "arsh", "umin"), _binary
    ),
    "neg": _neg,
    "zext": _extend,
    "sext": _extend,
    "be": _big_endian,
    "cmp": _compare,
    "within": _within,
}


def compute(op: str, a: int, b: int) -> int:
    """`a op b` in 64 bits, as the machine does it."""
    x, y = a & MASK64, b & MASK64
    if op == "arsh":
        return signed64(a) >> (y & 63)
    return signed64(COMPUTE[op](x, y))


COMPUTE: dict[str, Callable[[int, int], int]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x // y if y else 0,
    "mod": lambda x, y: x % y if y else x,
    "and": lambda x, y: x & y,
    "or": lambda x, y: x | y,
    "xor": lambda x, y: x ^ y,
    "lsh": lambda x, y: x << (y & 63),
    "rsh": lambda x, y: x >> (y & 63),
    "umin": min,
}

ORDER: dict[str, Callable[[int, int], bool]] = {
    "eq": lambda x, y: x == y,
    "ne": lambda x, y: x != y,
    "lt": lambda x, y: x < y,
    "le": lambda x, y: x <= y,
    "gt": lambda x, y: x > y,
    "ge": lambda x, y: x >= y,
}


def decide(condition: str, a: Operand, b: Operand) -> bool | None:
    """Whether the comparison holds, where that is certain."""
    x, y = _number(a), _number(b)
    if x is not None and y is not None:
        if condition[0] == "s":
            return ORDER[condition[1:]](signed64(x), signed64(y))
        return ORDER[condition](x & MASK64, y & MASK64)
    if a is b:
        return condition in ("eq", "le", "ge", "sle", "sge")
    if y is not None and bits_of(a) < 64:
        most = (1 << bits_of(a)) - 1
        limit = y if condition[0] == "s" else y & MASK64
        return _decide_range(condition.removeprefix("s"), most, limit)
    return None


def _decide_range(condition: str, most: int, limit: int) -> bool | None:
    """For a number from 0 to `most` compared with `limit`."""
    if limit < 0 or limit > most:
        low = limit < 0
        return {"eq": False, "ne": True, "lt": not low, "le": not low, "gt": low, "ge": low}[condition]
    if (condition, limit) in (("lt", 0), ("ge", 0)):
        return condition == "ge"
    if limit == most and condition in ("le", "gt"):
        return condition == "le"
    return None


def signed(value: int, bits: int) -> int:
    """The low bits of a number as a signed one."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> bits - 1 else value


def low(made_by: Definitions, value: Operand, size: int) -> Operand:
    """What may be stored instead when only the low `size` bytes count."""
    bits = 8 * size
    if value.__class__ is int:
        return signed(value, bits)
    while (made := made_by.get(value)) is not None:  # type: ignore[arg-type]  # what is no value is none of its keys
        keeps_low = (made.op in ("zext", "sext") and made.info >= bits) or (  # type: ignore[operator]  # of these the number of bits
            made.op == "and" and made.args[1].__class__ is int and not ~made.args[1] & (1 << bits) - 1
        )
        if not keeps_low:
            break
        value = made.args[0]
    return value
