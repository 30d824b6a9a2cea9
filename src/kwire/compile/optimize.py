"""Passes over the IR: fold, share, drop.

`optimize` does in this order: reach and simplify in one forward pass (constants folded, copies and equal
computations replaced by the first one that dominates them, branches on constants decided), then drop what
nobody uses. Because the graph has no cycles and stands in topological order, each is one walk: no iteration
to a fixed point and nothing quadratic.

The law: the value of every instruction that is left, and every store, call and exit, are those of the
program as it was written (`checked`); only reads may be shared, for one moment of the kernel's memory is as
good as another.
"""

from kwire.compile.fold import RULES, bits_of, decide, low
from kwire.compile.graph import common, dominates, drop_unused, thread_jumps
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
    hop_info,
    successors,
)


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
                return self.known[operand]
            if operand.joins and operand in self.arms:
                arms = self.arms[operand]
                if all(arm is arms[0] or (arm == arms[0] and arm.__class__ is int) for arm in arms):
                    self.known[operand] = arms[0]
                    return arms[0]
        elif operand.__class__ is At:
            return self._at(operand)
        return operand

    def _at(self, at: At) -> At:
        base, offset = at
        if base.__class__ is Value:
            base = self.value(base)  # type: ignore[assignment]
            made = self.made.get(base)
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
            ins.args[1] = low(self.made, ins.args[1], ins.info)  # type: ignore[arg-type]
            return ins
        if dst is None:
            return ins
        if op in RULES:
            simple = RULES[op](self.made, ins)
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

    def _hop(self, ins: Ins) -> None:
        """Constant additions to the base belong to the offset, so that neighbours are seen as such.

        Where the word stays aligned: at what offset a word is read says how it will lie on the stack.
        """
        made = self.made.get(ins.args[0])  # type: ignore[arg-type]
        if made is not None and made.op == "add" and made.args[1].__class__ is int:
            space, offset, size = hop_info(ins)
            total = offset + made.args[1]
            if -0x80000000 <= total < 0x80000000 and total % size == 0:
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
