"""Passes over the IR: fold, share, drop.

`optimize` does in this order: reach and simplify in one forward pass (constants folded, copies and equal
computations replaced by the first one that dominates them, branches on constants decided), then drop what
nobody uses. Because the graph has no cycles and stands in topological order, each is one walk: no iteration
to a fixed point and nothing quadratic.

The law: the value of every instruction that is left, and every store, call and exit, are those of the
program as it was written (`checked`); only reads may be shared, for one moment of the kernel's memory is as
good as another.
"""

from collections.abc import Callable

from kwire.compile.expressions import MASK64, signed64
from kwire.compile.ir import (
    CONDITIONS,
    SWAPPED,
    At,
    Block,
    Branch,
    Exit,
    Function,
    Ins,
    Jump,
    Operand,
    Value,
    end_values,
    hop_info,
    successors,
)

COMMUTATIVE = frozenset({"add", "mul", "and", "or", "xor"})


def optimize(function: Function) -> None:
    """Simplify, then drop what is not used. Leaves dominators in `Block.parent` and `Block.depth`."""
    Simplifier(function).run()
    drop_unused(function)


class Simplifier:
    """The forward pass. `made`: the instruction that defines a value; `known`: what a value was replaced
    by.
    """

    __slots__ = ("arms", "blocks", "function", "inside", "known", "made", "preds", "seen")

    def __init__(self, function: Function) -> None:
        self.function = function
        self.known: dict[Value, Operand] = {}
        self.made: dict[Value, Ins] = {}
        self.arms: dict[Value, list[Operand]] = {}
        self.seen: dict[object, tuple[Value, Block]] = {}
        self.preds: dict[Block, list[Block]] = {function.entry: []}
        self.blocks: list[Block] = []

    def run(self) -> None:
        """Walk the reachable blocks."""
        for block in self.function.blocks:
            if block not in self.preds:
                continue
            self.blocks.append(block)
            self._dominator(block)
            kept: list[Ins] = []
            for ins in block.body:
                simple = self._instruction(ins, block)
                if simple is not None:
                    kept.append(simple)
            block.body = kept
            block.end = self._end(block.end)
            for target in successors(block.end):
                self.preds.setdefault(target, []).append(block)
        self.function.blocks = self.blocks
        thread_jumps(self.function)

    def _dominator(self, block: Block) -> None:
        parent: Block | None = None
        for pred in self.preds[block]:
            parent = pred if parent is None else common(parent, pred)
        block.dominated_by(parent)

    def value(self, operand: Operand) -> Operand:
        """What an operand stands for now."""
        if operand.__class__ is Value:
            if operand in self.known:
                return self.known[operand]  # type: ignore[index]  # the class was tested
            if operand.joins and operand in self.arms:  # type: ignore[union-attr, operator]
                arms = self.arms[operand]  # type: ignore[index]
                if all(arm is arms[0] or (arm == arms[0] and arm.__class__ is int) for arm in arms):
                    self.known[operand] = arms[0]  # type: ignore[index]
                    return arms[0]
        elif operand.__class__ is At:
            return self._at(operand)  # type: ignore[arg-type]
        return operand

    def _at(self, at: At) -> At:
        base, offset = at
        if base.__class__ is Value:
            base = self.value(base)  # type: ignore[assignment]
            made = self.made.get(base)  # type: ignore[arg-type]
            if made is not None and made.op == "add" and made.args[1].__class__ is int:
                inner, plus = made.args
                assert isinstance(inner, Value)
                assert isinstance(plus, int)
                if -0x8000 <= offset + plus < 0x8000:
                    return At(inner, offset + plus)
        return At(base, offset)

    def _instruction(self, ins: Ins, block: Block) -> Ins | None:
        ins.args = [self.value(arg) for arg in ins.args]
        op, dst = ins.op, ins.dst
        if op == "copy":
            assert dst is not None
            arms = self.arms.setdefault(dst, [])
            arms.append(ins.args[0])
            dst.bits = max(map(bits_of, arms))
            return ins
        if op == "store":
            ins.args[1] = self._low(ins.args[1], ins.info)  # type: ignore[arg-type]
            return ins
        if dst is None:
            return ins
        if op in RULES:
            simple = RULES[op](self, ins)
            if simple is not None:
                self.known[dst] = simple
                return None
        elif op == "hop":
            self._hop(ins)
        if ins.pure():
            key = (ins.op, ins.info, *ins.args)
            entry = self.seen.get(key)
            if entry is not None and dominates(entry[1], block):
                self.known[dst] = entry[0]
                entry[0].bits = min(entry[0].bits, dst.bits)
                return None
            self.seen[key] = (dst, block)
        self.made[dst] = ins
        return ins

    def _low(self, value: Operand, size: int) -> Operand:
        """What may be stored instead when only the low `size` bytes count."""
        bits = 8 * size
        if value.__class__ is int:
            return signed(value, bits)  # type: ignore[arg-type]
        while (made := self.made.get(value)) is not None:  # type: ignore[arg-type]
            keeps_low = (made.op in ("zext", "sext") and made.info >= bits) or (  # type: ignore[operator]
                made.op == "and" and made.args[1].__class__ is int and not ~made.args[1] & (1 << bits) - 1  # type: ignore[operator]
            )
            if not keeps_low:
                break
            value = made.args[0]
        return value

    def _hop(self, ins: Ins) -> None:
        """Constant additions to the base belong to the offset, so that neighbours are seen as such."""
        made = self.made.get(ins.args[0])  # type: ignore[arg-type]
        if made is not None and made.op == "add" and made.args[1].__class__ is int:
            space, offset, size = hop_info(ins)
            total = offset + made.args[1]
            if -0x80000000 <= total < 0x80000000:
                ins.args[0] = made.args[0]
                ins.info = (space, total, size)

    def _end(self, end: "Jump | Branch | Exit") -> "Jump | Branch | Exit":
        if not isinstance(end, Branch):
            return end
        condition, a, b = end.condition, self.value(end.a), self.value(end.b)
        then, otherwise = end.then, end.otherwise
        if a.__class__ is int and b.__class__ is not int:
            condition, a, b = SWAPPED[condition], b, a
        while b.__class__ is int and b == 0 and condition in ("eq", "ne"):
            made = self.made.get(a)  # type: ignore[arg-type]
            if made is None or made.op != "cmp":
                break
            condition = str(made.info) if condition == "ne" else CONDITIONS[str(made.info)]
            a, b = made.args
        decided = decide(condition, a, b)
        if then is otherwise:
            return Jump(then)
        if decided is not None:
            return Jump(then if decided else otherwise)
        return Branch(condition, a, b, then, otherwise)


# rules: an operand that replaces the result, or None after improving the instruction in place

Rule = Callable[[Simplifier, Ins], "Operand | None"]


def _number(value: Operand) -> int | None:
    return value if value.__class__ is int else None  # type: ignore[return-value]


def bits_of(value: Operand) -> int:
    """How many low bits of the operand can be set."""
    if value.__class__ is Value:
        return value.bits  # type: ignore[union-attr]
    number = _number(value)
    return 64 if number is None or number < 0 else number.bit_length()


def _binary(s: Simplifier, ins: Ins) -> Operand | None:
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
    return _with_constant(s, ins, a, y)


def _with_constant(s: Simplifier, ins: Ins, a: Operand, y: int) -> Operand | None:
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
    made = s.made.get(a)  # type: ignore[arg-type]
    if made is not None and made.op == ins.op and made.op in ("add", "mul", "and", "or", "xor"):
        inner = _number(made.args[1])
        if inner is not None:
            ins.args = [made.args[0], compute(ins.op, inner, _number(ins.args[1]) or 0)]
            if ins.args[1] == 0 and ins.op in ("add", "xor"):
                return ins.args[0]
    if ins.op == "and" and made is not None and made.op in ("zext", "sext"):
        mask = _number(ins.args[1])
        if mask is not None and mask > 0 and mask.bit_length() <= made.info:  # type: ignore[operator]
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


def _neg(s: Simplifier, ins: Ins) -> Operand | None:
    x = _number(ins.args[0])
    return None if x is None else signed64(-x)


def _extend(s: Simplifier, ins: Ins) -> Operand | None:
    a = ins.args[0]
    width: int = ins.info  # type: ignore[assignment]
    x = _number(a)
    if x is not None:
        return x & (1 << width) - 1 if ins.op == "zext" else signed(x, width)
    if bits_of(a) <= (width if ins.op == "zext" else width - 1):
        return a
    made = s.made.get(a)  # type: ignore[arg-type]
    if made is not None and made.op in ("zext", "sext"):
        if made.op == ins.op == "sext" and made.info <= width:  # type: ignore[operator]
            return a
        if made.info >= width:  # type: ignore[operator]
            ins.args = [made.args[0]]
    return None


def _big_endian(s: Simplifier, ins: Ins) -> Operand | None:
    x = _number(ins.args[0])
    width: int = ins.info  # type: ignore[assignment]
    if x is not None:
        return signed64(int.from_bytes((x & (1 << width) - 1).to_bytes(width // 8, "little"), "big"))
    ins.args = [s._low(ins.args[0], width // 8)]
    return None


def _compare(s: Simplifier, ins: Ins) -> Operand | None:
    a, b = ins.args
    condition = str(ins.info)
    if a.__class__ is int and b.__class__ is not int:
        condition, a, b = SWAPPED[condition], b, a
        ins.args, ins.info = [a, b], condition
    if b == 0 and b.__class__ is int and condition in ("ne", "eq"):
        made = s.made.get(a)  # type: ignore[arg-type]
        if made is not None and made.op == "cmp":
            if condition == "ne":
                return a
            ins.args, ins.info = list(made.args), CONDITIONS[str(made.info)]
            return None
        if condition == "ne" and bits_of(a) <= 1:
            return a
    decided = decide(condition, a, b)
    return None if decided is None else int(decided)


def _within(s: Simplifier, ins: Ins) -> Operand | None:
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


# the graph


def common(a: Block, b: Block) -> Block:
    """The nearest block that dominates both."""
    while a is not b:
        if a.depth >= b.depth:
            a = a.parent  # type: ignore[assignment]  # only the entry has none, and it is common to all
        else:
            b = b.parent  # type: ignore[assignment]
    return a


def dominates(a: Block, b: Block) -> bool:
    """Whether every way to b leads through a."""
    while b.depth > a.depth:
        b = b.skip if b.skip.depth >= a.depth else b.parent  # type: ignore[assignment]
    return a is b


def thread_jumps(function: Function) -> None:
    """Lead jumps past empty blocks, and merge a block into the only one that leads to it."""
    final: dict[Block, Block] = {}
    for block in reversed(function.blocks):
        target = block
        if not block.body and isinstance(block.end, Jump):
            target = final[block.end.target]
        final[block] = target
    for block in function.blocks:
        end = block.end
        if isinstance(end, Jump):
            block.end = Jump(final[end.target])
        elif isinstance(end, Branch):
            then, otherwise = final[end.then], final[end.otherwise]
            block.end = Jump(then) if then is otherwise else end._replace(then=then, otherwise=otherwise)
    counts: dict[Block, int] = {}
    reached = {function.entry}
    order: list[Block] = []
    for block in function.blocks:
        if block in reached:
            order.append(block)
            for target in successors(block.end):
                reached.add(target)
                counts[target] = counts.get(target, 0) + 1
    gone: set[Block] = set()
    for block in order:
        if block in gone:
            continue
        while isinstance(block.end, Jump) and counts[block.end.target] == 1:
            other = block.end.target
            block.body += other.body
            block.end, block.span = other.end, other.span
            gone.add(other)
    function.blocks = [block for block in order if block not in gone]
    set_dominators(function)


def set_dominators(function: Function) -> None:
    """Find every block's direct dominator, in one walk."""
    preds: dict[Block, list[Block]] = {function.entry: []}
    for block in function.blocks:
        parent: Block | None = None
        for pred in preds[block]:
            parent = pred if parent is None else common(parent, pred)
        block.dominated_by(parent)
        for target in successors(block.end):
            preds.setdefault(target, []).append(block)


def drop_unused(function: Function) -> None:
    """Remove pure instructions whose result nobody uses, from the end to the beginning."""
    used: set[Value] = set()
    for block in reversed(function.blocks):
        used.update(end_values(block.end))
        kept: list[Ins] = []
        for ins in reversed(block.body):
            if ins.dst is not None and ins.dst not in used:
                if ins.pure() or ins.op == "load":
                    continue
                ins.dst = None
            kept.append(ins)
            used.update(ins.uses())
        kept.reverse()
        block.body = kept
