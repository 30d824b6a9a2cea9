"""Passes over the IR: fold, share, drop.

`optimize` does in this order: reach and simplify in one forward pass (constants folded, copies and equal
computations replaced by the first one that dominates them, branches on constants decided), then drop what
nobody uses. Each is one walk: no iteration to a fixed point and nothing quadratic. What comes to the head of
a loop from its end is not known yet when the head is looked at, so nothing is concluded about it.

Invariant: the value of every instruction that is left, and every store, call and exit, are those of the
program as it was written (`checked`). What may be shared follows from an operation's effect (`ir.Effect`).
"""

from kwire.compile.fold import RULES, bits_of, decide, low
from kwire.compile.graph import (
    common,
    dominates,
    drop_unused,
    find_loops,
    pass_zeros,
    thread_constants,
    thread_jumps,
)
from kwire.compile.ir import (
    CONDITIONS,
    SWAPPED,
    At,
    Block,
    Branch,
    Effect,
    End,
    Exit,
    Function,
    Ins,
    Jump,
    Operand,
    Ranked,
    Value,
    hop_info,
    successors,
)


def optimize(function: Function) -> None:
    """Simplify, then drop what is not used. Leaves the tree of dominators and the loops in the blocks."""
    Simplifier(function).run()
    drop_unused(function)


class Simplifier:
    """The forward pass. `made`: the instruction that defines a value; `known`: what a value was replaced
    by; `arms`: what blocks reached so far give to a block's parameters.
    """

    __slots__ = ("arms", "blocks", "function", "known", "made", "preds", "seen")

    def __init__(self, function: Function) -> None:
        self.function = function
        self.known: dict[Value, Operand] = {}
        self.made: dict[Value, Ins] = {}
        self.arms: dict[Block, list[list[Operand]]] = {}
        self.seen: dict[object, tuple[Value, Block]] = {}
        self.preds: dict[Block, list[Block]] = {function.entry: []}
        self.blocks: list[Block] = []

    def run(self) -> None:
        """Walk the reachable blocks."""
        find_loops(self.function)
        for block in self.function.blocks:
            if block not in self.preds:
                continue
            self.blocks.append(block)
            self._dominator(block)
            self._params(block)
            kept: list[Ins] = []
            for ins in block.body:
                simple = self._instruction(ins, block)
                if simple is not None:
                    kept.append(simple)
            block.body = kept
            block.end = self._end(block.end)
            for target in successors(block.end):
                self.preds.setdefault(target, []).append(block)
            if isinstance(block.end, Jump) and block.end.target.params:
                self.arms.setdefault(block.end.target, []).append(list(block.end.args))
        self.function.blocks = self.blocks
        thread_constants(self.function)
        thread_jumps(self.function)
        pass_zeros(self.function)

    def _dominator(self, block: Block) -> None:
        parent: Ranked | None = None
        for pred in self.preds[block]:
            parent = pred if parent is None else common(parent, pred)
        block.below(parent)

    def _params(self, block: Block) -> None:
        """Replace a parameter that gets the same from everywhere; of others note what is known."""
        if not block.params or block.loop is block:
            return
        arms = self.arms[block]
        kept = []
        for number, param in enumerate(block.params):
            given = [arm[number] for arm in arms]
            if all(one is given[0] or (one == given[0] and one.__class__ is int) for one in given):
                self.known[param] = given[0]
            else:
                param.bits = max(map(bits_of, given))
                kept.append(number)
        if len(kept) < len(block.params):
            block.params = [block.params[number] for number in kept]
            for pred in self.preds[block]:
                if isinstance(pred.end, Jump):
                    pred.end.args = [pred.end.args[number] for number in kept]

    def value(self, operand: Operand) -> Operand:
        """What an operand stands for now."""
        if operand.__class__ is Value:
            return self.known.get(operand, operand)
        if operand.__class__ is At:
            return self._at(operand)
        return operand

    def _at(self, at: At) -> At:
        base, offset = at.base, at.offset
        if base.__class__ is Value:
            base = self.value(base)  # type: ignore[assignment]  # of a value a value, or a slot
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
        if op == "store":
            ins.args[1] = low(self.made, ins.args[1], ins.info)  # type: ignore[arg-type]  # the number of bytes
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
        effect = ins.effect
        if effect in (Effect.PURE, Effect.READS):
            key = (ins.op, ins.info, *ins.args)
            entry = self.seen.get(key)
            if (
                entry is not None
                and dominates(entry[1], block)
                and (effect == Effect.PURE or entry[1].loop is block.loop)
            ):
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
        made = self.made.get(ins.args[0])  # type: ignore[arg-type]  # what is no value is none of its keys
        if made is not None and made.op == "add" and made.args[1].__class__ is int:
            space, offset, size, epoch = hop_info(ins)
            total = offset + made.args[1]
            if -0x80000000 <= total < 0x80000000 and total % size == 0:
                ins.args[0] = made.args[0]
                ins.info = (space, total, size, epoch)

    def _end(self, end: End) -> End:
        if isinstance(end, Jump):
            return Jump(end.target, [self.value(arg) for arg in end.args])
        if isinstance(end, Exit):
            return Exit(None if end.value is None else self.value(end.value))
        condition, a, b = end.condition, self.value(end.a), self.value(end.b)
        then, otherwise = end.then, end.otherwise
        if a.__class__ is int and b.__class__ is not int:
            condition, a, b = SWAPPED[condition], b, a
        while b.__class__ is int and b == 0 and condition in ("eq", "ne"):
            made = self.made.get(a)  # type: ignore[arg-type]  # what is no value is none of its keys
            if made is None or made.op != "cmp":
                break
            condition = str(made.info) if condition == "ne" else CONDITIONS[str(made.info)]
            a, b = made.args
        decided = decide(condition, a, b)
        if then is otherwise:
            return Jump(then)
        if decided is not None:
            return Jump(then if decided else otherwise)
        return Branch(condition, a, b, then, otherwise, end.rare)
