"""Making IR: a current block, a current source span, and one method for each thing that is often made.

It simplifies nothing but what is free to see (additions of 0, constants on constants are left to `optimize`).
"""

from collections.abc import Iterable, Sequence

from kwire.compile.ir import (
    REACH,
    At,
    Block,
    Branch,
    Exit,
    Find,
    Function,
    Ins,
    Jump,
    MapRef,
    Operand,
    Slot,
    Value,
)
from kwire.lang.tree import NOWHERE, Span

OTHER_SOURCE = 1 << 30
"""Added to the line of a span that belongs to the program's second text, its filter's."""


class Builder:
    """Appends instructions to `block` of `function`. `block` is None where the program cannot get to."""

    __slots__ = ("block", "done", "exit_value", "function", "prologue", "shift", "span")

    def __init__(self, exit_value: int | None, function: Function | None = None) -> None:
        self.function = Function() if function is None else function
        self.block: Block | None = self.function.entry
        self.span: Span = NOWHERE
        self.shift = 0  # OTHER_SOURCE while the filter is lowered, where that has a text of its own
        self.done = Block("done")  # the one way out; `finish` puts it last
        self.exit_value = exit_value
        self.done.end = Exit(exit_value)
        self.prologue: list[Ins] = []  # what must run once before the body, made when its need is seen

    def place_of(self, span: Span) -> Span:
        """The span as instructions carry it."""
        return span._replace(line=span.line + self.shift) if self.shift and span.line else span

    def emit(self, op: str, args: list[Operand], info: object = None, bits: int = 64) -> Value:
        """Append `dst = op args` and give dst."""
        dst = self.function.value(bits)
        self._append(Ins(op, dst, args, info, self.span))
        return dst

    def do(self, op: str, args: list[Operand], info: object = None) -> None:
        """Append an instruction without a result."""
        self._append(Ins(op, None, args, info, self.span))

    def _append(self, ins: Ins) -> None:
        if self.block is not None:
            self.block.body.append(ins)

    def call(self, helper: str | Find, *args: Operand, bits: int = 64) -> Value:
        """Append a call of a helper by its name, or a search."""
        return self.emit("call", list(args), helper, bits)

    def binary(self, op: str, a: Operand, b: Operand) -> Operand:
        """`a op b`; without an instruction where b is 0 and that changes nothing."""
        if b.__class__ is int and b == 0 and op in ("add", "sub", "or", "xor", "lsh", "rsh", "arsh"):
            return a
        return self.emit(op, [a, b])

    def load(self, base: Value | Slot, offset: int, size: int, pure: bool = False) -> Value:
        """An unsigned integer from memory the verifier knows; `pure` when it never changes."""
        return self.emit("peek" if pure else "load", [self._near(base, offset)], size, size * 8)

    def store(self, base: Value | Slot, offset: int, size: int, value: Operand) -> None:
        """The low bytes of a value to memory the verifier knows."""
        self.do("store", [self._near(base, offset), value], size)

    def _near(self, base: Value | Slot, offset: int) -> At:
        """A place in memory as an instruction reaches it."""
        if isinstance(base, Slot) or -REACH <= offset < REACH:
            return At(base, offset)
        return At(self.emit("add", [base, offset]), 0)

    def map(self, name: str) -> MapRef:
        """A map as an argument."""
        return MapRef(name)

    def new_block(self, name: str) -> Block:
        """A block that is not placed yet (`start` places it)."""
        return Block(f"{name}{len(self.function.blocks)}")

    def start(self, block: Block) -> None:
        """Place the block after all that are placed and go on in it."""
        self.function.blocks.append(block)
        self.block = block

    def jump(self, target: Block, args: Sequence[Operand] = ()) -> None:
        """End the current block by going to the target."""
        if self.block is not None:
            self.block.end = Jump(target, list(args))
            self.block.span = self.span
        self.block = None

    def branch(
        self,
        condition: str,
        a: Operand,
        b: Operand,
        then: Block,
        otherwise: Block,
        rare: Block | None = None,
    ) -> None:
        """End the current block by a choice."""
        if self.block is not None:
            self.block.end = Branch(condition, a, b, then, otherwise, rare)
            self.block.span = self.span
        self.block = None

    def leave(self) -> None:
        """End the current block by leaving the program."""
        self.jump(self.done)

    def join(self, arms: Iterable[tuple[Block | None, Operand]]) -> Operand:
        """Bring arms together that ended in these open blocks with these values, and go on behind them."""
        return self.join_all([(block, [value]) for block, value in arms])[0]

    def join_all(self, arms: list[tuple[Block | None, list[Operand]]]) -> list[Operand]:
        """`join` for several values at once: one operand for each, in the order of the arms' lists."""
        open_arms = [(block, values) for block, values in arms if block is not None]
        if not open_arms:
            self.block = None
            return arms[0][1]
        if len(open_arms) == 1:
            self.block = open_arms[0][0]
            return open_arms[0][1]
        target = self.new_block("join")
        joined: list[Operand] = []
        given: list[list[Operand]] = [[] for _ in open_arms]
        for values in zip(*(values for _, values in open_arms), strict=True):
            if all(value is values[0] or value == values[0] for value in values):
                joined.append(values[0])
                continue
            target.params.append(self.function.value())
            joined.append(target.params[-1])
            for args, value in zip(given, values, strict=True):
                args.append(value)
        for (block, _), args in zip(open_arms, given, strict=True):
            self.block = block
            self.jump(target, args)
        self.start(target)
        return joined

    def finish(self, body: Block) -> Function:
        """Close the program: the last block leaves, the prologue goes to the start of `body`."""
        self.leave()
        body.body[:0] = self.prologue
        self.function.blocks.append(self.done)
        return self.function
