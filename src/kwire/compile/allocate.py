"""Registers and stack: a linear scan over live intervals.

Invariants:

- r10 is the frame pointer; r0 and r5 are the instruction selector's scratch registers; r1 to r4 hold values
  that no call crosses, r6 to r9 those that a call crosses (others too, when r1 to r4 are taken). r0 also
  holds a value that is used by the very next instruction only, results of calls, and parameters of blocks
  to which these are passed, as long as no instruction needs r0 itself (`takes_r0`).
- A value that gets no register lives in its own 8-byte stack slot all its life, so what the verifier knows
  of it when it is stored is what it knows when it is loaded (bounds are only ever made by `umin` and
  `within`, before).
- Positions grow along the blocks' order, so an interval from the definition to the last use covers every path
  forward; what a loop needs from before it lives to the loop's end. Stack slots, spilled values and windows
  of reads share bytes when their intervals do not meet.
"""

from bisect import bisect_right

from kwire.compile.graph import find_loops, liveness
from kwire.compile.ir import (
    At,
    Block,
    Function,
    Ins,
    Jump,
    Operand,
    Slot,
    Value,
    end_operands,
    end_values,
    values_of,
)
from kwire.compile.kept_constants import keep_constants
from kwire.compile.layout import CompileError

STACK_SIZE = 512
CALLER_SAVED = (1, 2, 3, 4)
CALLEE_SAVED = (6, 7, 8, 9)


IN_PLACE = frozenset(
    {"add", "sub", "mul", "div", "mod", "and", "or", "xor", "lsh", "rsh", "arsh", "zext", "sext"}
)
"""Operations whose result takes the place of their first operand."""


class StackError(CompileError):
    """The program's frame would be larger than the bytes there are."""

    def __init__(self, name: str, size: int, most: int) -> None:
        cause = f"it needs {size} bytes of stack, there are {most}"
        super().__init__(name, cause, "use fewer values at once, or split the probe")


class Live:
    """From where to where something is needed, how deep in loops it is used, and which register suits it."""

    __slots__ = ("end", "hint", "loops", "prefer", "start", "uses")

    def __init__(self, start: int) -> None:
        self.start = start
        self.end = start
        self.loops = 0
        self.uses = 0
        self.hint = -1
        self.prefer: list[Value] = []


class Allocator:
    """One function's registers and stack."""

    __slots__ = (
        "active",
        "apart",
        "becomes",
        "calls",
        "feeds",
        "function",
        "last",
        "live",
        "noted",
        "order",
        "saved",
        "short",
        "slots",
    )

    def __init__(self, function: Function) -> None:
        self.function = function
        self.calls: list[int] = []  # positions
        self.live: dict[Value, Live] = {}
        self.order: list[Value] = []  # values by their definitions
        self.short: set[Value] = set()  # used by the next instruction and nothing else
        self.feeds: dict[Value, Value] = {}  # a value → what an instruction makes of it in its place
        self.apart: dict[Value, list[Value]] = {}  # a result → operands that it is not made in place of
        self.becomes: dict[Value, Value] = {}  # a value → the parameter of a block it is passed to
        self.active: list[Value] = []
        self.noted: dict[Value, int] = {}  # what is loaded of a slot for which a register stands
        self.slots: dict[Slot, Live] = {}
        self.last = 0
        noting = {slot.reg for slot in function.slots}
        self.saved = tuple(register for register in CALLEE_SAVED if register not in noting)

    def number(self) -> None:
        """Walk the function once: positions, intervals, hints."""
        position = 0
        for number, param in enumerate(self.function.params):
            self._define(param, 0, 0).hint = number + 1
        starts: dict[Block, int] = {}
        ends: dict[Block, int] = {}
        passed: set[Value] = set()  # given to the parameter of a block
        for block in self.function.blocks:
            position += 1
            starts[block] = position
            for param in block.params:
                self._define(param, position, block.loops)
            for ins in block.body:
                position = self._instruction(ins, position + 1, block.loops)
            position += 1
            ends[block] = position
            for value in end_values(block.end):
                self._use(value, position, block.loops)
            self._slots_of(end_operands(block.end), position)
            if isinstance(block.end, Jump):
                passed.update(end_values(block.end))
                for param, arg in zip(block.end.target.params, block.end.args, strict=True):
                    if arg.__class__ is Value:  # all that come together want one register
                        mates = self.live.setdefault(param, Live(-1)).prefer
                        self.live[arg].prefer += mates
                        mates.append(arg)
                        self.becomes[arg] = param
                        if block.end.target in starts:  # this leads back, so there it has one first
                            self.live[arg].prefer.insert(0, param)
        self.last = position
        for block in reversed(self.function.blocks):  # what is passed on is made where it is wanted
            if isinstance(block.end, Jump):
                for param, arg in zip(block.end.target.params, block.end.args, strict=True):
                    if isinstance(arg, Value) and self.live[arg].hint < 0:
                        self.live[arg].hint = self.live[param].hint
        self._loops(starts, ends)
        for value in self.order:
            live = self.live[value]
            if live.end == live.start + 1 and value not in passed:
                self.short.add(value)

    def _loops(self, starts: dict[Block, int], ends: dict[Block, int]) -> None:
        """What is needed at the head of a loop lives through all of it, and so does memory used before it."""
        loops = find_loops(self.function)
        needed = liveness(self.function) if loops else {}
        for head, last in loops.items():
            end = ends[last]
            for value in needed[head]:
                self.live[value].end = max(self.live[value].end, end)
            for live in self.slots.values():
                if live.start < starts[head] < live.end < end:
                    live.end = end

    def _define(self, value: Value, position: int, loops: int) -> Live:
        live = self.live.get(value)
        if live is None:
            live = self.live[value] = Live(position)
        live.start = live.end = position
        live.loops = loops
        self.order.append(value)
        return live

    def _use(self, value: Value, position: int, loops: int) -> None:
        live = self.live[value]
        live.end = max(live.end, position)
        live.uses += 1
        live.loops = max(live.loops, loops)

    def _slots_of(self, args: "list[Operand] | tuple[Operand, ...]", position: int) -> None:
        for arg in args:
            if isinstance(arg, At) and isinstance(arg.base, Slot):
                live = self.slots.get(arg.base)
                if arg.base.reg >= 0:
                    continue
                if live is None:
                    live = self.slots[arg.base] = Live(position)
                live.end = position

    def _instruction(self, ins: Ins, position: int, loops: int) -> int:
        """Note one instruction at a position; the last position that it takes."""
        call = ins.op in ("call", "invoke", "read")
        if call:
            self.calls.append(position)
        last = position
        if ins.op == "read" and ins.info.parts:  # type: ignore[attr-defined]  # of a read its `Read`
            last += 1  # the base is needed again, after the call
        for value in ins.uses():
            self._use(value, last, loops)
        self._slots_of(ins.args, position)
        if ins.op in ("call", "invoke"):
            for number, arg in enumerate(ins.args):
                given = arg.base if isinstance(arg, At) else arg
                if isinstance(given, Value) and self.live[given].hint < 0:
                    self.live[given].hint = number + 1
        elif ins.op == "read" and not ins.info.parts:  # type: ignore[attr-defined]  # of a read its `Read`
            source = ins.args[1]
            if isinstance(source, Value) and self.live[source].hint < 0:
                self.live[source].hint = 3
        dst = ins.dst
        if dst is not None:
            live = self._define(dst, position, loops)
            at = ins.args[0] if ins.op == "load" else None
            if isinstance(at, At) and isinstance(at.base, Slot) and at.base.reg >= 0:
                self.noted[dst] = at.base.reg
            first = ins.args[0] if ins.args and not call else None
            if ins.op == "told":
                self.apart[dst] = values_of(ins.args[1:])
            if ins.op == "cmp":
                self.apart[dst] = ins.uses()
            elif first.__class__ is Value:
                live.prefer.append(first)
                self.feeds[first] = dst
        return last

    def scan(self) -> None:
        """Give registers in the order of definitions; when they are short, a value is spilled that is used
        least deep in loops, of these one that is used in the fewest places, and of these the one that lives
        longest.
        """
        for value in self.order:
            value.reg, value.slot = -1, None
        for value in self.order:
            live = self.live[value]
            if live.end == live.start and value in self.function.params:
                continue  # not used
            if value in self.noted and value in self.short:
                value.reg = self.noted[value]
                continue
            self.active = [other for other in self.active if self.live[other].end > live.start]
            taken = {other.reg for other in self.active}
            wanted = self._registers(value, live)
            for register in wanted:
                if register not in taken:
                    value.reg = register
                    self.active.append(value)
                    break
            else:
                self._spill(value, wanted)

    def follow(self) -> None:
        """What becomes a value in its place is made in that one's register, where something else had that one
        and was spilled then.
        """
        lives = self.lives()
        for value in self.order:
            if value.reg != 0 or value not in self.feeds:
                continue
            last = self._end_of_chain(value)
            start, end = self.live[value].start, self.live[last].start
            if last.reg in self.saved and not any(
                reg == last.reg and begin < end and stop >= start for reg, begin, stop in lives
            ):
                value.reg = last.reg

    def _end_of_chain(self, value: Value) -> Value:
        """What becomes of a value in its place, each time in the next instruction."""
        while value in self.short and value in self.feeds:
            value = self.feeds[value]
        return value

    def keep_results(self) -> None:
        """Leave results of calls, and the parameters of blocks they are passed to, in r0 where nothing else
        wants it meanwhile.
        """
        wanted: dict[Value, None] = {}
        taken: list[int] = []  # positions
        position = 0
        for block in self.function.blocks:
            position += 1
            for ins in block.body:
                position += 1
                made_of = ins.args[0] if ins.args and ins.op in IN_PLACE else None
                if ins.dst is not None and (ins.op in ("call", "invoke") or made_of in wanted):
                    wanted[ins.dst] = None
                if takes_r0(ins):
                    taken.append(position)
                if ins.op == "read" and ins.info.parts:  # type: ignore[attr-defined]  # of a read its `Read`
                    position += 1
            position += 1
            end = block.end
            if isinstance(end, Jump) and len(end.args) == 1:
                [arg], [param] = end.args, end.target.params
                if arg in wanted:
                    wanted[param] = None
            elif end.args if isinstance(end, Jump) else not all(map(_at_hand, end_operands(end))):
                taken.append(position)
        there = [(self.live[one].start, self.live[one].end) for one in self.order if one.reg == 0]
        for value in wanted:
            live = self.live[value]
            if value.reg == 0 or live.start == live.end or self._stays(value):
                continue
            after = bisect_right(taken, live.start)
            if after < len(taken) and taken[after] < live.end:
                continue
            if after < len(taken) and taken[after] == live.end and live.end not in self.calls:
                continue
            if any(start < live.end and live.start < end for start, end in there):
                continue
            value.reg, value.slot = 0, None
            there.append((live.start, live.end))

    def _stays(self, value: Value) -> bool:
        """Whether it is passed on in its own register, which calls leave as it is."""
        param = self.becomes.get(value)
        return param is not None and param.reg == value.reg and value.reg in self.saved

    def _crosses(self, live: Live) -> bool:
        """Whether a call is made while something is needed."""
        after = bisect_right(self.calls, live.start)
        return after < len(self.calls) and self.calls[after] < live.end

    def _registers(self, value: Value, live: Live) -> list[int]:
        """The registers this value may have, the best first."""
        crossing = self._crosses(live)
        allowed = self.saved if crossing else (*CALLER_SAVED, *self.saved)
        param = self.becomes.get(value)
        if param is not None and not crossing and self._crosses(self.live[param]):
            wanted = [other.reg for other in live.prefer if other.reg in self.saved]
            return [*wanted, *self.saved, *CALLER_SAVED]  # it would have to be moved there
        first: list[int] = []
        if live.hint in allowed:
            first.append(live.hint)
        first += [other.reg for other in live.prefer if other.reg in allowed]
        last = value
        while last in self.feeds and self.live[self.feeds[last]].start == self.live[last].end:
            last = self.feeds[last]
        if last is not value and not crossing and value not in self.short:
            if self._crosses(self.live[last]):
                return [*self.saved, *CALLER_SAVED]  # it becomes one that calls leave as it is
            if self.live[last].hint in allowed:
                first.append(self.live[last].hint)
        last = self._end_of_chain(value)
        if last is not value and last not in self.short:  # it becomes that, in that one's register
            short = () if value in self.function.params else (0,)
            return [*first, *self._registers(last, self.live[last]), *short, *allowed]
        if value in self.short and value not in self.function.params:
            first.append(0)
        apart = [other.reg for other in self.apart.get(value, ())]
        if apart:
            return sorted((*first, *allowed), key=apart.__contains__)
        return [*first, *allowed]

    def _spill(self, value: Value, wanted: list[int]) -> None:
        victim = value
        for other in self.active:
            if other.reg in wanted and self._cost(other) < self._cost(victim):
                victim = other
        if victim is not value:
            value.reg, victim.reg = victim.reg, -1
            self.active.remove(victim)
            self.active.append(value)
        slot = Slot("spill", 8)
        live = self.slots[slot] = Live(self.live[victim].start)
        live.end = self.live[victim].end
        victim.slot = slot

    def lives(self) -> list[tuple[int, int, int]]:
        """Which registers are taken from where to where."""
        found = ((one.reg, self.live[one].start, self.live[one].end) for one in self.order)
        return [life for life in found if life[0] in self.saved]

    def _cost(self, value: Value) -> tuple[int, int, int]:
        live = self.live[value]
        return live.loops, live.uses, -live.end

    def frame(self) -> int:
        """Give every slot its offset from r10: the nearest one that no slot living at the same time has. The
        size of the whole frame.
        """
        for slot, live in self.slots.items():
            if slot.pinned:
                live.start, live.end = 0, self.last
        placed: list[Slot] = []
        deepest = 0
        for slot in sorted(self.slots, key=lambda slot: self.slots[slot].start):
            start = self.slots[slot].start
            placed = [other for other in placed if self.slots[other].end >= start]
            at = 0
            for other in sorted(placed, key=lambda other: -other.offset):
                if -other.offset - other.size >= at + slot.size:
                    break
                at = max(at, -other.offset)
            slot.offset = -(at + slot.size)
            placed.append(slot)
            deepest = max(deepest, at + slot.size)
        return deepest


def note_in_register(function: Function, faults: Slot) -> None:
    """Let a register tell whether a read has failed, in a function that reads."""
    reads = (ins for block in function.blocks for ins in block.body if ins.op in ("read", "fault"))
    if any(isinstance(arg, At) and arg.base is faults for ins in reads for arg in ins.args):
        faults.reg = CALLEE_SAVED[-1]


def _at_hand(operand: Operand) -> bool:
    """Whether an instruction can have the operand as it is."""
    if isinstance(operand, Value):
        return operand.slot is None
    return isinstance(operand, int) and -(1 << 31) <= operand < 1 << 31


def takes_r0(ins: Ins) -> bool:
    """Whether what is selected for an instruction may write to r0, but for its result."""
    if ins.op in ("load", "peek", "mapval", "neg", "be", "fault"):
        return False
    if ins.op == "told":
        return ins.dst is None or ins.dst.slot is not None or not _near(ins.args[1])
    if ins.op in ("store", "atomic"):
        at_hand = _at_hand(ins.args[1]) and (ins.op == "store" or isinstance(ins.args[1], Value))
        return not (at_hand or _near(ins.args[0]))
    if ins.op in IN_PLACE:
        return ins.dst is None or not (_at_hand(ins.dst) and _at_hand(ins.args[0]))
    return True


def _near(at: Operand) -> bool:
    """Whether a place in memory is reached without a scratch register."""
    return isinstance(at, At) and (isinstance(at.base, Slot) or at.base.slot is None)


def allocate(function: Function, name: str, most: int = STACK_SIZE) -> int:
    """Give every value a register or a slot, every slot an offset; the size of the frame.

    Raises `StackError` where that is more than `most` bytes.
    """
    allocator = Allocator(function)
    allocator.number()
    allocator.scan()
    allocator.follow()
    allocator.keep_results()
    size = allocator.frame()
    keep_constants(function, allocator.saved, allocator.lives())
    if size > most:
        raise StackError(name, size, most)
    return size
