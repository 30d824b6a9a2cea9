"""A checked program → IR: the statements, and what every program does around them.

The order of a program, which the runtime relies on (see the maps below): the guard → is the process one of
those traced → the probe's own filter → build the record → count the attempt → give it to this CPU's ring →
when that refuses, count the refusal and note when it was first and last so.

Maps: `rings` (array of ring buffers, one a CPU), `counts` (one mapped value, a slot of 64 bytes for each
CPU and probe), `tasks` (hash of the processes traced), `scratch` (records that do not fit the stack, a
stretch for each CPU), `texts` (texts that are matched with patterns or with each other, likewise). None but
`tasks` needs more than an index, so none costs more than a few nanoseconds.
"""

from collections.abc import Sequence
from typing import NamedTuple

from kwire.compile.builder import OTHER_SOURCE
from kwire.compile.emission import cpu, send, sender
from kwire.compile.expressions import Expressions, Options
from kwire.compile.ir import At, Block, Function, Ins, Module, Operand, Slot, Value
from kwire.compile.layout import SLACK, Layout, pad
from kwire.compile.matching import Texts, compare, match
from kwire.compile.tails import Record
from kwire.kinds import KINDS
from kwire.lang import checked
from kwire.lang.forms import walk

STACK_RECORD_MOST = 256
"""Longer records, and those with several tail values, are built in scratch memory."""


class Lowered(NamedTuple):
    """A program in IR. `faults`: the slot of the first function that notes failed reads; `texts`: bytes for
    each CPU in the map of texts that are matched, 0 without such a map.
    """

    module: Module
    faults: Slot
    texts: int


def lower(program: checked.Program, layouts: Sequence[Layout], options: Options, stack: bool) -> Lowered:
    """The program in IR. `layouts`: of its shapes; `stack`: records that fit are built in the stack frame."""
    lowering = Lower(program, layouts, options, stack)
    functions = [lowering.run()]
    if lowering.sender is not None:
        functions.append(lowering.sender)
    return Lowered(Module(functions), lowering.faults, lowering.texts.stride)


def fits_stack(layout: Layout) -> bool:
    """Whether the record may be built in the stack frame."""
    return layout.tails <= 1 and layout.most <= STACK_RECORD_MOST


def scratch_stride(layouts: Sequence[Layout]) -> int:
    """Bytes of scratch memory for one CPU, in which any of these records is built."""
    return (max(one.most for one in layouts) + SLACK + 63) & ~63


class Ends(NamedTuple):
    """Where the innermost loop is left, and where a turn of it ends early: blocks, and the locals there."""

    breaks: list[tuple[Block | None, dict[int, Operand]]]
    turns: list[tuple[Block | None, dict[int, Operand]]]


READING = (checked.Load, checked.ReadText, checked.ReadBytes, checked.ReadBlock)
"""What may be read by a helper."""


class Lower(Expressions):
    """One program on its way to IR."""

    __slots__ = ("layouts", "loops", "program", "record", "sender", "stride", "texts")

    def __init__(
        self, program: checked.Program, layouts: Sequence[Layout], options: Options, stack: bool
    ) -> None:
        super().__init__(program.name, program.site, options, KINDS[program.site.kind].exit)
        self.program = program
        self.layouts = layouts
        self.loops: list[Ends] = []
        self.texts = Texts()
        several = len(layouts) > 1
        self.sender = sender(options, several, program.span) if _emits(program.body) > 1 else None
        small = [one for one in layouts if stack and fits_stack(one)]
        most = max((one.most for one in small), default=0)
        self.record: Slot | None = self.function.slot("record", pad(most + SLACK)) if small else None
        others = [one for one in layouts if one not in small]
        self.stride = scratch_stride(others) if others else 0

    def run(self) -> Function:
        """Lower everything."""
        program = self.program
        self.span = program.span
        body = self.new_block("body")
        if program.guard is not None:
            meant = self.new_block("meant")
            self.condition(program.guard, meant, self.done)
            self.start(meant)
        if self.options.tasks:
            self._traced_only()
        for other in self.options.without:
            others = self.new_block("others")
            self.branch("ne", self.process("pid"), other, others, self.done)
            self.start(others)
        self.jump(body)
        self.start(body)
        if program.filter is not None:
            wanted = self.new_block("wanted")
            self.shift = OTHER_SOURCE if program.filter_source is not None else 0
            self.condition(program.filter, wanted, self.done)
            self.shift = 0
            self.start(wanted)
        self.statements(program.body)
        if self.reads:
            self.prologue.insert(0, Ins("store", None, [At(self.faults, 0), 0], 8, program.span))
        self.texts.settle()
        return self.finish(body)

    def match(self, e: checked.TextMatch, yes: Block, no: Block) -> None:
        """Go to `yes` where a text matches a pattern, otherwise to `no`."""
        match(self, self.texts, cpu(self, self.options), e, yes, no)

    def compare_texts(self, e: checked.TextCompare, yes: Block, no: Block) -> None:
        """Go to `yes` where two texts stand to each other as asked, otherwise to `no`."""
        compare(self, self.texts, cpu(self, self.options), e, yes, no)

    def _traced_only(self) -> None:
        """Leave unless the current process is in `tasks`, by its number and the moment it was created. The
        main process is known without looking there.
        """
        process = self.process("pid")
        traced = self.new_block("traced")
        if self.options.main:
            look = self.new_block("look")
            self.branch("eq", process, self.options.main, traced, look)
            self.start(look)
        key = self.function.slot("key", 8)
        self.store(key, 0, 4, process)
        found = self.call("map_lookup_elem", self.map("tasks"), At(key, 0))
        task = self.options.task
        if task is None:
            self.branch("eq", found, 0, self.done, traced)
        else:
            listed, other = self.new_block("listed"), self.new_block("other")
            self.branch("eq", found, 0, self.done, listed)
            self.start(listed)
            started = self.load(found, 0, 8)
            self.branch("eq", started, 0, traced, other)  # whoever has the number
            self.start(other)
            leader = self.load(self.call("get_current_task_btf"), task.group_leader, 8, pure=True)
            self.branch("eq", self.load(leader, task.start_time, 8, pure=True), started, traced, self.done)
        self.start(traced)

    def statements(self, body: tuple[checked.Stmt, ...]) -> None:
        """Lower statements; what follows a return is left out."""
        for statement in body:
            if self.block is None:
                return
            self.span = statement.span
            if isinstance(statement, checked.LocalSet):
                self.locals[statement.local] = self.expr(statement.value)
            elif isinstance(statement, checked.If):
                self._if(statement)
            elif isinstance(statement, checked.Emit):
                self._emit(statement)
            elif isinstance(statement, checked.Loop):
                self._loop(statement)
            elif isinstance(statement, checked.Break | checked.Continue):
                ends = self.loops[-1]
                (ends.breaks if isinstance(statement, checked.Break) else ends.turns).append(
                    (self.block, self.locals)
                )
                self.block = None
            else:
                assert isinstance(statement, checked.Return)
                self.leave()

    def _if(self, statement: checked.If) -> None:
        """A choice, and those in its other arm: all meet at one place."""
        before = self.locals
        ends: list[tuple[Block | None, dict[int, Operand]]] = []
        while True:
            yes, no = self.new_block("then"), self.new_block("else")
            self.condition(statement.test, yes, no)
            self.start(yes)
            self.locals = dict(before)
            self.statements(statement.then)
            ends.append((self.block, self.locals))
            self.start(no)
            self.locals = dict(before)
            rest = statement.otherwise
            if len(rest) != 1 or not isinstance(rest[0], checked.If):
                break
            statement = rest[0]
            self.span = self.place_of(statement.span)
        self.statements(rest)
        ends.append((self.block, self.locals))
        open_ends = [(block, values) for block, values in ends if block is not None]
        if not open_ends:
            self.block = None
            return
        common = [name for name in open_ends[0][1] if all(name in values for _, values in open_ends)]
        joined = self.join_all([(block, [values[name] for name in common]) for block, values in open_ends])
        self.locals = dict(zip(common, joined, strict=True))

    def _loop(self, loop: checked.Loop) -> None:
        """A loop that the verifier walks: it counts its turns from 0 to a constant."""
        start = self.expr(loop.start)
        stop = None if loop.stop is None else self.expr(loop.stop)
        nodes = [node for statement in loop.body for node in walk(statement)]
        self.reads = self.reads or any(isinstance(node, READING) for node in nodes)
        sets = dict.fromkeys(node.local for node in nodes if isinstance(node, checked.LocalSet))
        changed = [local for local in sets if local in self.locals]
        head, run, over = self.new_block("head"), self.new_block("turn"), self.new_block("over")
        head.params = [self.function.value() for _ in (0, *changed)]
        self.jump(head, [0, *(self.locals[local] for local in changed)])
        self.start(head)
        turn = head.params[0]
        self.locals |= dict(zip(changed, head.params[1:], strict=True))
        around = dict(self.locals)
        self.branch("lt", turn, loop.most, run, over)
        self.start(run)
        before, self.turn = self.turn, self.emit("add", [start, self.emit("mul", [turn, loop.step])])
        if stop is not None:
            more = self.new_block("more")
            self.branch("slt" if loop.step > 0 else "sgt", self.turn, stop, more, over)
            self.start(more)
        self.loops.append(Ends([], []))
        self.statements(loop.body)
        ends = self.loops.pop()
        self.turn = before
        turns = [one for one in (*ends.turns, (self.block, self.locals)) if one[0] is not None]
        if turns:
            joined = self.join_all([(block, [known[local] for local in changed]) for block, known in turns])
            self.jump(head, [self.emit("add", [turn, 1]), *joined])
        self.start(over)
        arms = [(self.block, around), *ends.breaks]
        joined = self.join_all([(block, [known[local] for local in changed]) for block, known in arms])
        self.locals = around | dict(zip(changed, joined, strict=True))

    # an event

    def _probe(self) -> Operand:
        """With cookies: the index from 0 of the probe's first shape, from the attach cookie: its number."""
        number = self.call("get_attach_cookie", self.function.context)
        index = self.emit("add", [number, -1])
        known, most = self.new_block("known"), self.options.probes - len(self.layouts) + 1
        self.branch("lt", index, most, known, self.done, rare=self.done)
        self.start(known)
        return index

    def _emit(self, statement: checked.Emit) -> None:
        options, layout = self.options, self.layouts[statement.shape]
        if self.record is not None and (not self.stride or fits_stack(layout)):
            base: Value | Slot = self.record
        else:
            own = self.emit("mul", [cpu(self, self.options), self.stride])
            base = self.emit("add", [self.emit("mapval", [], ("scratch", 0)), own])
        if options.cookie:
            probe = self.binary("add", self._probe(), statement.shape)
        else:
            probe = options.id - 1 + statement.shape
        self.now = self.call("ktime_get_ns")
        self.store(base, 8, 8, self.now)
        record = Record(self, base, layout.size)
        for item, value in zip(layout.fields, statement.values, strict=True):
            self.span = value.span
            if isinstance(value, checked.ReadText | checked.ReadBytes | checked.Comm):
                record.tail(item, value)
            elif isinstance(value, checked.ReadBlock):
                self._block(base, item.offset, value)
            else:
                self.store(base, item.offset, item.size, self.expr(value))
        self.now = None
        self.span = statement.span
        self._send(base, record.finish(), probe)

    def _block(self, base: Value | Slot, offset: int, value: checked.ReadBlock) -> None:
        place, start = value.place, value.place.offset
        if isinstance(place.base, checked.Context) and not place.indexes:
            step = 8
            while (offset | start | value.size) % step:
                step //= 2
            for at in range(0, value.size, step):
                self.store(base, offset + at, step, self.context_int(start + at, step))
            return
        source, start = self.place(place)
        self.reads = True
        self.do("block", [At(base, offset), source], (place.space, start, value.size))

    def _send(self, base: Value | Slot, size: Operand, probe: Operand) -> None:
        """Give the record away. Whether a read failed is told of each event anew."""
        if self.block is None:
            return
        if self.sender is None:
            send(self, self.options, base, size, probe, self._failed)
            return
        given: list[Operand] = [At(base, 0), size, self._failed()]
        self.do("invoke", [*given, probe][: len(self.sender.params)], self.sender)
        if self.reads:
            self.store(self.faults, 0, 8, 0)

    def _failed(self) -> Operand:
        return self.load(self.faults, 0, 8) if self.reads else 0


def _emits(statements: tuple[checked.Stmt, ...]) -> int:
    """How many places in a program emit an event; one in a loop counts as several."""
    found = 0
    for statement in statements:
        for node in walk(statement):
            if isinstance(node, checked.Loop):
                found += _emits(node.body)
            found += isinstance(node, checked.Emit)
    return found
