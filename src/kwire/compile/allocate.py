"""Registers and stack: a linear scan over live intervals.

Laws:

- r10 is the frame pointer; r0 and r5 are the instruction selector's scratch registers; r1 to r4 hold values
  that no call crosses, r6 to r9 those that a call crosses (others too, when r1 to r4 are taken). r0 also
  holds a value that is used by the very next instruction only, such as the result of a call that is tested.
- A value that gets no register lives in its own 8-byte stack slot all its life, so what the verifier knows
  of it when it is stored is what it knows when it is loaded (bounds are only ever made by `umin` and
  `within`, before).
- Positions grow along the blocks' topological order, so an interval from the first definition to the last use
  covers every path. Stack slots, spilled values and windows of reads share bytes when their intervals do
  not meet.
"""

from bisect import bisect_right

from kwire.compile.ir import At, Function, Ins, Slot, Value, end_values
from kwire.compile.layout import CompileError

STACK_SIZE = 512
CALLER_SAVED = (1, 2, 3, 4)
CALLEE_SAVED = (6, 7, 8, 9)


class StackError(CompileError):
    """The program's frame would be larger than the 512 bytes there are."""

    def __init__(self, name: str, size: int) -> None:
        cause = f"it needs {size} bytes of stack, there are {STACK_SIZE}"
        super().__init__(name, cause, "use fewer values at once, or split the probe")


class Allocator:
    """One function's registers and stack."""

    __slots__ = ("active", "calls", "function", "last", "prefer", "short", "slots", "values")

    def __init__(self, function: Function) -> None:
        self.function = function
        self.calls: list[int] = []  # positions
        self.values: list[Value] = []  # in the order of their definitions
        self.short: set[Value] = set()  # used by the next instruction and nothing else
        self.prefer: dict[Value, Value] = {}  # a value that should share the register of another
        self.active: list[Value] = []
        self.slots: list[Slot] = []
        self.last = 0

    def number(self) -> None:
        """Walk the program once: positions, intervals, hints."""
        position = 0
        context = self.function.context
        context.start, context.hint = 0, 1
        self.values.append(context)
        for block in self.function.blocks:
            for ins in block.body:
                position += 1
                self._instruction(ins, position)
            position += 1
            for value in end_values(block.end):
                value.end = position
        self.last = position
        self.short = {value for value in self.values if value.end == value.start + 1 and not value.joins}

    def _instruction(self, ins: Ins, position: int) -> None:
        for value in ins.uses():
            value.end = position
        for number, arg in enumerate(ins.args):
            if arg.__class__ is At:
                base = arg.base
                if base.__class__ is Slot:
                    if base.start < 0:
                        base.start = position
                        self.slots.append(base)
                    base.end = position
            elif ins.op == "call" and arg.__class__ is Value and arg.hint < 0:
                arg.hint = number + 1
        if ins.op == "call":
            self.calls.append(position)
        dst = ins.dst
        if dst is not None:
            if dst.start < 0:
                dst.start = dst.end = position
                self.values.append(dst)
                if ins.op != "call" and ins.args and ins.args[0].__class__ is Value:
                    self.prefer[dst] = ins.args[0]
            dst.end = max(dst.end, position)

    def scan(self) -> None:
        """Give registers in the order of definitions; when they are short, the longest interval is
        spilled.
        """
        for value in self.values:
            if value.end < 0:
                continue  # the context of a program that does not use it
            self.active = [other for other in self.active if other.end > value.start]
            taken = {other.reg for other in self.active}
            wanted = self._registers(value)
            for register in wanted:
                if register not in taken:
                    value.reg = register
                    self.active.append(value)
                    break
            else:
                self._spill(value, wanted)

    def _registers(self, value: Value) -> list[int]:
        """The registers this value may have, the best first."""
        after = bisect_right(self.calls, value.start)
        crossing = after < len(self.calls) and self.calls[after] < value.end
        allowed = CALLEE_SAVED if crossing else (*CALLER_SAVED, *CALLEE_SAVED)
        first: list[int] = []
        preferred = self.prefer.get(value)
        if value.hint in allowed:
            first.append(value.hint)
        if preferred is not None and preferred.reg in allowed:
            first.append(preferred.reg)
        if value in self.short and value is not self.function.context:
            first.append(0)
        return [*first, *allowed]

    def _spill(self, value: Value, wanted: list[int]) -> None:
        victim = value
        for other in self.active:
            if other.reg in wanted and other.end > victim.end:
                victim = other
        if victim is not value:
            value.reg, victim.reg = victim.reg, -1
            self.active.remove(victim)
            self.active.append(value)
        slot = Slot("spill", 8)
        slot.start, slot.end = victim.start, victim.end
        victim.slot = slot
        self.slots.append(slot)

    def frame(self, name: str) -> None:
        """Give every slot its offset from r10: the nearest one that no slot living at the same time has."""
        for slot in self.slots:
            if slot.pinned:
                slot.start, slot.end = 0, self.last
        placed: list[Slot] = []
        deepest = 0
        for slot in sorted(self.slots, key=lambda slot: slot.start):
            placed = [other for other in placed if other.end >= slot.start]
            at = 0
            for other in sorted(placed, key=lambda other: -other.offset):
                if -other.offset - other.size >= at + slot.size:
                    break
                at = max(at, -other.offset)
            slot.offset = -(at + slot.size)
            placed.append(slot)
            deepest = max(deepest, at + slot.size)
        if deepest > STACK_SIZE:
            raise StackError(name, deepest)


def allocate(function: Function, name: str) -> None:
    """Give every value a register or a slot, every slot an offset. Raises `StackError`."""
    allocator = Allocator(function)
    allocator.number()
    allocator.scan()
    allocator.frame(name)
