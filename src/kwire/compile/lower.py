"""A checked program → IR: the statements, and what every program does around them.

The order of a program, which the runtime relies on (see the maps below): the guard → is the process one of
those traced → the probe's own filter → build the record → count the attempt → give it to this CPU's ring →
when that refuses, count the refusal and note when it was first and last so.

Maps: `rings` (array of ring buffers, one a CPU), `counts` (one mapped value, a slot of 64 bytes for each
CPU and probe), `tasks` (hash of the processes traced), `scratch` (records that do not fit the stack, a
stretch for each CPU), `texts` (texts that are matched with patterns or with each other, likewise), `loops`
(what the turns of called loops share, likewise), `frames` (a stack, likewise), `asked` (one mapped number:
whether the trace is asked to end, and how). None but `tasks` needs more than an index, so none costs
more than a few nanoseconds. The maps of the unit are called `@name` (`compile.maps`).
"""

from collections.abc import Container, Mapping, Sequence

from kwire.compile.builder import OTHER_SOURCE
from kwire.compile.emission import (
    TIME,
    ask_for_end,
    claim,
    cpu,
    end_asked_for,
    give,
    header,
    of_cpu,
    place_of,
    release,
    sender,
)
from kwire.compile.expressions import CHANGING, ExpressionLowering, Options, pieces
from kwire.compile.ir import (
    AGES,
    REACH,
    At,
    Block,
    Exit,
    Function,
    FunctionRef,
    Ins,
    Module,
    Operand,
    Slot,
    Value,
)
from kwire.compile.layout import SLACK, Layout, pad
from kwire.compile.loops import CALLED_DEEP, WALKED_MOST, is_called
from kwire.compile.matching import TEXTS, compare, length, match
from kwire.compile.scratch import Stretch
from kwire.compile.variable_length import Record, bytes_wanted, text_reader
from kwire.hints import TYPE_CHECKING, NoReturn, TypeAlias
from kwire.kinds import KINDS
from kwire.lang import checked, types
from kwire.lang.errors import Diagnostic, LanguageError
from kwire.lang.forms import Node, walk
from kwire.lang.tree import Span
from kwire.lazy import NamedTuple

if TYPE_CHECKING:
    from kwire.compile.maps import MapLowering

TEXTS_MANY = 4
"""How many texts of a program are read by a function."""

INLINE_MOST = 3
"""How many places emit without a subprogram where no ring can refuse what they give."""

STACK_RECORD_MOST = 256
"""Longer records, and those with several tail values, are built in scratch memory."""


class Lowered(NamedTuple):
    """A program in IR, those functions last that others call. `faults`: for each function that reads, the
    slot that notes failed reads; `maps`: bytes for each CPU in the maps of the program's own.
    """

    module: Module
    faults: dict[Function, Slot]
    maps: dict[str, int]


class Unit:
    """What the functions of a program share while they are made. `loops`: those that call others first."""

    __slots__ = (
        "addressed",
        "changes",
        "epochs",
        "faults",
        "held",
        "known",
        "layouts",
        "loops",
        "memory",
        "most",
        "program",
        "room",
        "sends",
        "several",
        "stacks",
        "stride",
        "texts",
        "texts_read",
        "writes_time",
    )

    def __init__(
        self, program: checked.Program, layouts: Sequence[Layout], options: Options, stack: bool
    ) -> None:
        self.program = program
        self.layouts = layouts
        self.faults: dict[Function, Slot] = {}
        self.epochs = 0
        self.changes = 0  # statements that change maps, so far
        self.texts = Stretch(TEXTS)
        self.memory = Stretch(LOOPS)
        nodes = [node for one in program.body for node in walk(one)]
        self.addressed = any(
            isinstance(node, checked.AddressOf) and isinstance(node.place.base, checked.MapPlace)
            for node in nodes
        )  # whether what is at a key of a map is read by its address
        self.held: dict[int, int] = {}  # where locals have their texts in `memory`
        self.room = (0, 0)  # what of it is for values on their way to a map: where, how much
        self.stacks = Stretch(STACKS)
        self.texts_read = sum(isinstance(node, checked.ReadText) and not node.fixed for node in nodes)
        self.loops: list[Function] = []
        self.known: dict[str, Function] = {}  # those that only compute, by name
        emits = _emits(program.body)
        self.several = emits > (INLINE_MOST if options.room else 1)
        self.writes_time = self.several and not any(map(_asks_time, nodes))  # `sender` writes the time
        self.sends: list[Ins] = []  # the places that emit, where there are several
        small = [one for one in layouts if stack and fits_stack(one)]
        self.most = max((one.most for one in small), default=0)  # of records in the stack frame
        others = [one for one in layouts if one not in small]
        self.stride = scratch_stride(others) if others else 0


def lower(program: checked.Program, layouts: Sequence[Layout], options: Options, stack: bool) -> Lowered:
    """The program in IR. `layouts`: of its shapes; `stack`: records that fit are built in the stack frame."""
    unit = Unit(program, layouts, options, stack)
    functions = [Lower(unit, options).run(), *unit.loops, *unit.known.values()]
    if unit.sends:
        functions.append(sender(options, unit.sends, program.span, unit.writes_time))
    stretches = (unit.texts, unit.memory, unit.stacks)
    for stretch in stretches:
        stretch.settle()
    return Lowered(Module(functions), unit.faults, {one.map: one.stride for one in stretches})


def fits_stack(layout: Layout) -> bool:
    """Whether the record may be built in the stack frame."""
    return layout.tails <= 1 and layout.most <= STACK_RECORD_MOST


def scratch_stride(layouts: Sequence[Layout]) -> int:
    """Bytes of scratch memory for one CPU, in which any of these records is built."""
    return (max(one.most for one in layouts) + SLACK + 63) & ~63


Way: TypeAlias = tuple[Block | None, dict[int, Operand]]
"""A block that goes on elsewhere (None: it does not), and the locals there."""


class Ends(NamedTuple):
    """Where the innermost loop is left, and where a turn of it ends early: blocks, and the locals there."""

    breaks: list[Way]
    turns: list[Way]


WORD = 8
"""Bytes of a number in memory."""

LOOPS = "loops"
"""The map for what the turns of called loops share."""

STACKS = "frames"
"""The map in which a stack is taken before it is looked for in its table."""

LEFT, FAULTS, COUNT, START, SHARED = range(0, 40, 8)
"""In a loop's part of it: whether the program ends there (1) or the block around (2), whether a read failed,
the number of turns, `Loop.start`, the locals.
"""

CHANGES_MAPS = (checked.MapSet, checked.MapDelete, checked.Aggregate)

READING = (checked.Load, checked.ReadText, checked.ReadBytes, checked.ReadBlock)
"""What may be read by a helper."""


class Lower(ExpressionLowering):
    """One program on its way to IR."""

    __slots__ = ("blocks", "depth", "frame", "loops", "memory", "record", "unit")

    def __init__(
        self, unit: Unit, options: Options, function: Function | None = None, depth: int = 0
    ) -> None:
        site = unit.program.site
        super().__init__(unit.program.name, site, options, KINDS[site.kind].exit, function)
        self.unit = unit
        self.depth = depth  # in how many called loops it is
        self.loops: list[Ends] = []
        self.blocks: list[list[Way]] = []  # the ways out of those around, the innermost last
        self.record: Slot | None = self.function.slot("record", pad(unit.most + SLACK)) if unit.most else None
        self.frame: Value | Slot | None = None  # the context and `memory`, for called loops
        self.memory: Value | None = None  # where called loops have what their turns share
        unit.faults[self.function] = self.faults

    def run(self) -> Function:
        """Lower the program itself."""
        program = self.unit.program
        self.span = program.span
        body = self.new_block("body")
        if KINDS[self.site.kind].context == "objects":
            self._at_object()
        if self.options.ends:
            going = self.new_block("going")
            self.branch("eq", end_asked_for(self), 0, going, self.done)
            self.start(going)
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
        users, done = None, self.done
        if self.options.claims:
            self.done = self.new_block("release")
            users = claim(self, self.options, self._first, self.done)
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
        if users is not None:
            self.leave()
            self.start(self.done)
            release(self, users)
            self.done = done
        last = self.block.body[-1] if self.block is not None and self.block.body else None
        if self.options.room and last is not None and last.info == "ringbuf_output" and self.exit_value == 0:
            assert self.block is not None
            assert last.dst is not None
            self.block.end, self.block = Exit(last.dst), None  # which is 0, as there is room
        return self.finish(body)

    def refuse(self, span: Span, message: str, cure: str) -> NoReturn:
        """Raise `LanguageError` about a place in the program."""
        raise LanguageError(self.unit.program.source, [Diagnostic(span, message, cure)])

    def _first(self) -> Operand:
        """The number of the probe's first shape."""
        return self._probe() if self.options.cookie else self.options.id

    def match(self, e: checked.TextMatch, yes: Block, no: Block) -> None:
        """Go to `yes` where a text matches a pattern, otherwise to `no`."""
        match(self, self.unit.texts, cpu(self, self.options), e, yes, no)

    def compare_texts(self, e: checked.TextCompare, yes: Block, no: Block) -> None:
        """Go to `yes` where two texts stand to each other as asked, otherwise to `no`."""
        known, self.known = self.known, dict(self.known)  # where the first cannot be read, the other is not
        compare(self, self.unit.texts, cpu(self, self.options), e, yes, no)
        self.known = known

    def reader(self, text: checked.ReadText, limit: int) -> Function | None:
        """The function that reads such texts into records, where there are many."""
        known, space = self.unit.known, text.place.space
        title = f"text{limit}_{space}"
        if self.unit.texts_read < TEXTS_MANY:
            return None
        if title not in known:
            known[title] = text_reader(limit, space, self.span)
        return known[title]

    def text_length(self, e: checked.TextLength) -> Operand:
        """How many bytes a text has."""
        return length(self, self.unit.texts, cpu(self, self.options), e)

    def map_get(self, e: checked.MapGet) -> Operand:
        """The value at a key of a map."""
        return self._maps.get(e)

    def map_has(self, e: checked.MapHas) -> Operand:
        """Whether a map has a key."""
        return self._maps.has(e)

    def map_place(self, e: checked.MapPlace) -> Operand:
        """The address of the value at a key of a map."""
        return self._maps.place(e)

    def each_get(self, e: checked.EachGet) -> Operand:
        """What a map holds where the loop over it is."""
        return self._maps.each(e, *self.each)

    def text_place(self, e: checked.TextPlace) -> Operand:
        """The address of the text that a local holds."""
        return self.emit("add", [self._frame()[0], self._held(e.local, WORD)])

    def _held(self, local: int, size: int) -> int:
        """Where in `memory` a local has what it holds there."""
        unit = self.unit
        if local not in unit.held:
            unit.held[local] = unit.memory.size
            unit.memory.size += pad(size + SLACK)
        return unit.held[local]

    def address_of(self, e: checked.AddressOf) -> Operand:
        """The address of a place; of memory in maps as a number."""
        address = super().address_of(e)
        return self.as_number(address) if isinstance(e.place.base, CHANGING) else address

    def as_number(self, address: Operand) -> Operand:
        """An address as a number, with which anything may be done: it has been in a map."""
        base, at = self.room(WORD)
        self.store(base, at, WORD, address)
        return self.load(base, at, WORD)

    def room(self, size: int) -> tuple[Value, int]:
        """Memory for a moment: its base, and where it begins."""
        unit = self.unit
        if size > unit.room[1]:
            unit.room = unit.memory.size, pad(size)
            unit.memory.size += pad(size)
        return self._frame()[0], unit.room[0]

    def _hold(self, s: checked.TextSet) -> None:
        """Give a local its text."""
        from kwire.compile.maps import put_text

        limit, value = s.type.limit, s.value
        at = self._held(s.local, limit + 2)
        assert isinstance(value, checked.ReadText | checked.Comm | checked.TextConst)
        size = None if s.size is None else self.emit("umin", [bytes_wanted(self, s.size), limit])
        put_text(self, value, limit, self._frame()[0], at, size)

    def stack(self, e: checked.Stack | checked.UserSymbol) -> Operand:
        """The number of a stack."""
        from kwire.compile.stacks import number  # most programs do without

        return number(self, self.unit.stacks, e)

    def stack_depth(self, e: checked.StackDepth) -> Operand:
        """How many frames a stack has."""
        from kwire.compile.stacks import depth  # most programs do without

        return depth(self, self.unit.stacks, e)

    def kernel_symbol(self, e: checked.KernelSymbol) -> Operand:
        """An address in the kernel, which is told by its name."""
        from kwire.compile.stacks import kernel_symbol  # most programs do without

        return kernel_symbol(self, e)

    @property
    def _maps(self) -> "MapLowering":
        from kwire.compile.maps import MapLowering  # most programs do without

        return MapLowering(self)

    def _at_object(self) -> None:
        """Leave behind the last object; write a byte for each, so that who reads them can rest between."""
        context, there = self.function.context, self.new_block("there")
        self.branch("eq", self.load(context, 8, 8, pure=True), 0, self.done, there)
        self.start(there)
        file = self.load(self.load(context, 0, 8, pure=True), 0, 8, pure=True)
        byte = self.function.slot("byte", 8)
        self.store(byte, 0, 8, 0)
        self.call("seq_write", file, At(byte, 0), 1)

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
            self.span, epochs = statement.span, self.unit.epochs
            if isinstance(statement, checked.LocalSet):
                self.locals[statement.local] = self.expr(statement.value)
            elif isinstance(statement, checked.If):
                self._if(statement)
            elif isinstance(statement, checked.Emit):
                self._emit(statement)
            elif isinstance(statement, checked.Loop):
                self._loop(statement)
            elif isinstance(statement, checked.Each):
                self._each(statement)
            elif isinstance(statement, checked.TextSet):
                self._hold(statement)
            elif isinstance(statement, checked.Store):
                value = self.expr(statement.value)
                memory = self.unit.program.locals[statement.local].type
                assert isinstance(memory, types.Text)
                at = self._held(statement.local, memory.limit) + statement.at
                self.store(self._frame()[0], at, WORD, value)
                self._next_age()
            elif isinstance(statement, checked.MapSet):
                self._maps.set(statement)
            elif isinstance(statement, checked.MapDelete):
                self._maps.delete(statement)
            elif isinstance(statement, checked.Aggregate):
                self._maps.aggregate(statement)
            elif isinstance(statement, checked.Block):
                self.blocks.append([])
                changes, outside, self.known = self.unit.changes, self.known, dict(self.known)
                self.statements(statement.body)
                self._meet([*self.blocks.pop(), (self.block, self.locals)])
                self.known = outside if self.unit.changes == changes else {}
            elif isinstance(statement, checked.Leave):
                self.blocks[-1].append((self.block, self.locals))
                self.block = None
            elif isinstance(statement, checked.Break | checked.Continue):
                ends = self.loops[-1]
                (ends.breaks if isinstance(statement, checked.Break) else ends.turns).append(
                    (self.block, self.locals)
                )
                self.block = None
            elif isinstance(statement, checked.Signal):
                helper = "send_signal_thread" if statement.thread else "send_signal"
                self.call(helper, self.expr(statement.number))
            elif isinstance(statement, checked.Exit):
                ask_for_end(self, self.options, self.expr(statement.status))
                self.leave()
            else:
                assert isinstance(statement, checked.Return)
                self.leave()
            if isinstance(statement, CHANGES_MAPS):
                self._changed(statement.map.name)
            if self.unit.addressed and isinstance(statement, CHANGES_MAPS):
                self._next_age()
            if self.unit.epochs != epochs:  # on one of the ways to here is an event
                self._next_epoch()

    def _changed(self, map: str) -> None:
        """What was read from a map is not what is there any more."""
        self.unit.changes += 1
        self.known = {same: value for same, value in self.known.items() if same[0] != map}  # type: ignore[index]  # the map's name

    def _if(self, statement: checked.If) -> None:
        """A choice, and those in its other arm: all meet at one place."""
        before, epoch = self.locals, self.epoch
        changes, outside = self.unit.changes, self.known
        ends: list[Way] = []
        while True:
            yes, no = self.new_block("then"), self.new_block("else")
            self.condition(statement.test, yes, no)
            known = self.known
            self.start(yes)
            self.locals, self.epoch, self.known = dict(before), epoch, dict(known)
            self.statements(statement.then)
            ends.append((self.block, self.locals))
            self.start(no)
            self.locals, self.epoch, self.known = dict(before), epoch, dict(known)
            rest = statement.otherwise
            if len(rest) != 1 or not isinstance(rest[0], checked.If):
                break
            statement = rest[0]
            self.span = self.place_of(statement.span)
        self.statements(rest)
        self._meet([*ends, (self.block, self.locals)])
        self.known = outside if self.unit.changes == changes else {}

    def _meet(self, ends: list[Way]) -> None:
        """Go on where these ways meet, with the locals that are known on all of them."""
        open_ends = [(block, values) for block, values in ends if block is not None]
        if not open_ends:
            self.block = None
            return
        common = [name for name in open_ends[0][1] if all(name in values for _, values in open_ends)]
        joined = self.join_all([(block, [values[name] for name in common]) for block, values in open_ends])
        self.locals = dict(zip(common, joined, strict=True))

    def _loop(self, loop: checked.Loop) -> None:
        """A loop: turns from 0 to their number, which is known before."""
        if not loop.most:
            return
        self.known = {}
        start = self.expr(loop.start)
        count = loop.most if loop.stop is None else self._turns(loop, start, self.expr(loop.stop))
        nodes, changed = self._body(loop.body)
        self.known = {}  # what its bounds read, its turns may change
        if self.depth < CALLED_DEEP and is_called(loop, self.options.loops):
            self._called(loop, start, count, nodes, changed)
        elif loop.most > WALKED_MOST:
            message = f"this loop may run more than {WALKED_MOST} times, which this kernel cannot"
            cure = "bound the number, as in range(min(n, 100)); Linux 5.17 can"
            raise LanguageError(self.unit.program.source, [Diagnostic(loop.span, message, cure)])
        else:
            self._walked(loop, start, count, changed)
        self.known = {}

    def _each(self, each: checked.Each) -> None:
        """A loop over a map, which the kernel calls for each key."""
        if self.depth >= CALLED_DEEP:
            message = f"more than {CALLED_DEEP} loops in each other, of which one is over a map"
            raise LanguageError(self.unit.program.source, [Diagnostic(each.span, message)])
        nodes, changed = self._body(each.body)
        self.known = {}
        self._called(each, 0, None, nodes, changed)

    def _body(self, body: tuple[checked.Stmt, ...]) -> tuple[list[Node], list[int]]:
        """The nodes of a loop's body, and which locals that were set before it changes."""
        nodes = [node for statement in body for node in walk(statement)]
        self.reads = self.reads or any(isinstance(node, READING) for node in nodes)
        sets = dict.fromkeys(node.local for node in nodes if isinstance(node, checked.LocalSet))
        return nodes, [local for local in sets if local in self.locals]

    def _turns(self, loop: checked.Loop, start: Operand, stop: Operand) -> Operand:
        """How many turns there are from `start` to `stop`."""
        step, below = abs(loop.step), "lt" if loop.unsigned else "slt"
        low, high = (start, stop) if loop.step > 0 else (stop, start)
        some = self.emit("cmp", [low, high], below, 1)
        distance: Operand = self.emit("mul", [self.emit("sub", [high, low]), some])
        if step > 1:
            distance = self.emit("div", [self.emit("add", [distance, step - 1]), step])
        return self.emit("umin", [distance, loop.most])

    def _walked(self, loop: checked.Loop, start: Operand, count: Operand, changed: list[int]) -> None:
        """A loop that the verifier walks."""
        head, run, over = self.new_block("head"), self.new_block("turn"), self.new_block("over")
        head.params = [self.function.value() for _ in (0, *changed)]
        self.jump(head, [0, *(self.locals[local] for local in changed)])
        self.start(head)
        turn = head.params[0]
        self.locals |= dict(zip(changed, head.params[1:], strict=True))
        around = dict(self.locals)
        self.branch("lt", turn, loop.most, run, over)  # by this the verifier counts, wherever the number lies
        self.start(run)
        if not isinstance(count, int):
            more = self.new_block("more")
            self.branch("lt", turn, count, more, over)
            self.start(more)
        before, self.turn = self.turn, self.emit("add", [start, self.emit("mul", [turn, loop.step])])
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

    def _called(
        self,
        loop: checked.Loop | checked.Each,
        start: Operand,
        count: Operand | None,
        nodes: list[Node],
        changed: list[int],
    ) -> None:
        """A loop whose body is a function; `count`: None for one over a map.

        What its turns share lies in a map, whose contents the verifier does not know: kernels before 6.7
        believe that every turn leaves on the stack what the first one does, later ones drop a function of
        which they know that it is never called, and then miss it.
        """
        unit, options = self.unit, self.options
        used = dict.fromkeys(node.local for node in nodes if isinstance(node, checked.LocalGet))
        own = [local for local in used if local in self.locals and local not in changed]
        known = {local: self.locals[local] for local in own if isinstance(self.locals[local], int)}
        at = unit.memory.size
        held = [*changed, *(local for local in own if local not in known)]
        if any(isinstance(node, checked.Leave) for node in nodes):  # what is set there is wanted behind
            held += [
                node.local for node in nodes if isinstance(node, checked.LocalSet) and node.local not in held
            ]
            held = list(dict.fromkeys(held))
        places = {local: at + SHARED + 8 * number for number, local in enumerate(held)}
        unit.memory.size += SHARED + 8 * len(held)
        memory, frame = self._frame()
        function = Function(f"turn{at}", 2) if count is not None else Function(f"each{at}", 4)
        below = Lower(unit, options, function, self.depth + 1)
        below.reads = self.reads
        leaves = below.run_turn(loop, at, start, known, places, changed, self.locals)
        self.reads = below.reads
        self.store(memory, at + LEFT, 8, 0)
        self.store(memory, at + FAULTS, 8, self._failed())
        if not isinstance(start, int):
            self.store(memory, at + START, 8, start)
        for local, place in places.items():
            if local in self.locals:
                self.store(memory, place, 8, self.locals[local])
        if isinstance(loop, checked.Each):
            from kwire.compile.maps import name_of

            map = self.map(name_of(loop.map))
            self.call("for_each_map_elem", map, FunctionRef(below.function), At(frame, 0), 0)
        else:
            assert count is not None
            self.store(memory, at + COUNT, 8, count)
            count = self.emit("umin", [self.load(memory, at + COUNT, 8), loop.most])
            self.call("loop", count, FunctionRef(below.function), At(frame, 0), 0)
        on, left = self.new_block("on"), self.load(memory, at + LEFT, 8)
        self.branch("eq", left, 1, self.done, on)
        self.start(on)
        if self.reads:
            self.store(self.faults, 0, 8, self.load(memory, at + FAULTS, 8))
        for local in changed:
            self.locals[local] = self.load(memory, places[local], 8)
        if leaves is not None:
            out, stay = self.new_block("leave"), self.new_block("stay")
            self.branch("ne", left, 0, out, stay)
            self.start(out)
            there = {local: self.load(memory, places[local], 8) for local in leaves}
            self.blocks[-1].append((out, self.locals | there))
            self.block = None
            self.start(stay)

    def _frame(self) -> tuple[Value, Value | Slot]:
        """Where called loops have their memory, and what they are given: the context and that address."""
        if self.memory is None or self.frame is None:
            before, self.block = self.block, Block("prologue")
            self.memory = self.unit.memory.here(self, cpu(self, self.options))
            self.frame = self.function.slot("frame", 16, pinned=True)  # callbacks take the stack only
            self.store(self.frame, 0, 8, self.function.context)
            self.store(self.frame, 8, 8, self.memory)
            self.prologue += self.block.body
            self.block = before
        return self.memory, self.frame

    def run_turn(
        self,
        loop: checked.Loop | checked.Each,
        at: int,
        start: Operand,
        known: Mapping[int, Operand],
        places: Mapping[int, int],
        changed: Sequence[int],
        before: Container[int],
    ) -> list[int] | None:
        """Lower one turn of a called loop: a function of the turn's number, or of a map, a key and its value,
        and the frame. `at`: where in
        the memory its own begins; `known`: the locals that are constants, `places`: where the others are;
        `changed`: those that a turn leaves to the next; `before`: those set before the loop. Where a turn
        can leave the block around the loop: what it sets before.
        """
        number, *place, self.frame = self.function.params
        if isinstance(loop, checked.Each):
            self.each = place[0], place[1]
        else:
            number.bits = 32
        self.span = self.place_of(loop.span)
        self.function.context = self.load(self.frame, 0, 8)
        memory = self.memory = self.load(self.frame, 8, 8)
        self.block = self.done
        self.store(memory, at + LEFT, 8, 1)
        self.done.end = Exit(1)
        self.block = self.function.entry
        body = self.new_block("body")
        self.jump(body)
        self.start(body)
        if isinstance(loop, checked.Loop):
            first = start if isinstance(start, int) else self.load(memory, at + START, 8)
            self.turn = self.emit("add", [first, self.emit("mul", [number, loop.step])])
        held = {local: self.load(memory, place, 8) for local, place in places.items() if local in before}
        self.locals = {**known, **held}
        self.loops.append(Ends([], []))
        self.blocks.append([])
        self.statements(loop.body)
        ends, leaves = self.loops.pop(), self.blocks.pop()
        ends.turns.append((self.block, self.locals))
        set_ = [local for local in places if local not in before and all(local in own for _, own in leaves)]
        for arms, result in ((ends.breaks, 1), (leaves, 1), (ends.turns, 0)):
            if all(block is None for block, _ in arms):
                continue
            kept = [*changed, *set_] if arms is leaves else changed
            left = self.join_all([(block, [own[local] for local in kept]) for block, own in arms])
            for local, value in zip(kept, left, strict=True):
                self.store(memory, places[local], 8, value)
            if self.reads:
                self.store(memory, at + FAULTS, 8, self._failed())
            if arms is leaves:
                self.store(memory, at + LEFT, 8, 2)
            assert self.block is not None
            self.block.end, self.block.span = Exit(result), self.span
            self.block = None
        if self.reads:
            self.prologue[:0] = self._with_faults_before(memory, at + FAULTS)
        self.unit.loops.insert(0, self.finish(body))
        return set_ if leaves else None

    def _with_faults_before(self, memory: Value | Slot, at: int) -> list[Ins]:
        """The beginning of a loop's body: what failed before it has failed."""
        failed, where, found = self.function.value(), At(memory, at), list[Ins]()
        if not isinstance(memory, Slot) and at >= REACH:
            address = self.function.value()
            where, found = At(address, 0), [Ins("add", address, [memory, at], None, self.span)]
        found.append(Ins("load", failed, [where], 8, self.span))
        return [*found, Ins("store", None, [At(self.faults, 0), failed], 8, self.span)]

    # an event

    def _probe(self) -> Operand:
        """With cookies: the number of the probe's first shape, which is the attach cookie."""
        number = self.call("get_attach_cookie", self.function.context)
        return self.emit(
            "umin", [number, self.options.probes - len(self.unit.layouts) + 1]
        )  # for the verifier

    def _emit(self, statement: checked.Emit) -> None:
        options, unit, layout = self.options, self.unit, self.unit.layouts[statement.shape]
        if self.record is not None and (not unit.stride or fits_stack(layout)):
            base: Value | Slot = self.record
        else:
            base = of_cpu(self, options, "scratch", unit.stride)
        if options.cookie:
            probe = self.binary("add", self._probe(), statement.shape)
        else:
            probe = options.id + statement.shape
        if not unit.writes_time:
            self.now = self.call("ktime_get_ns")
            self.store(base, TIME, 8, self.now)
        record = Record(self, base, layout.size)
        for item, value in zip(layout.fields, statement.values, strict=True):
            self.span = value.span
            if isinstance(value, checked.ReadText | checked.ReadBytes | checked.Comm):
                if item.limit < 0:
                    record.array(item, value)
                else:
                    record.tail(item, value)
            elif isinstance(value, checked.ReadBlock):
                self.copy(base, item.offset, value)
            else:
                self.store(base, item.offset, item.size, self.expr(value))
        self.now = None
        self.span = statement.span
        self._send(base, record.finish(), probe)

    def copy(self, base: Value | Slot, offset: int, value: checked.ReadBlock) -> None:
        """Write the bytes at a place."""
        place, start = value.place, value.place.offset
        if isinstance(place.base, CHANGING) and not place.indexes:
            for at, piece in pieces(0, value.size):
                self.store(base, offset + at, piece, self.read_int(place, piece, at))
            return
        if isinstance(place.base, checked.Context) and not place.indexes:
            step = 8
            while (offset | start | value.size) % step:
                step //= 2
            for at in range(0, value.size, step):
                self.store(base, offset + at, step, self.context_int(start + at, step))
            return
        source, start = self.place(place)
        self.reads = True
        self.do("block", [At(base, offset), source], (place.space, start, value.size, self.epoch))

    def _send(self, base: Value | Slot, size: Operand, probe: Operand) -> None:
        """Give the record away. Whether a read failed is told of each event anew."""
        if self.block is None:
            return
        header(self, base, size, probe)
        at = place_of(self, probe)
        if not self.unit.several:
            give(self, self.options, base, size, at, self._failed)
            return
        self.do("invoke", [At(base, 0), size, at, self._failed()])
        self.unit.sends.append(self.block.body[-1])
        if self.reads:
            self.store(self.faults, 0, 8, 0)
        self._next_epoch()

    def _next_epoch(self) -> None:
        """Reads from here on are for other events than those before."""
        self.unit.epochs += 1
        self.epoch = self.unit.epochs

    def _next_age(self) -> None:
        """Reads from here on may find something else where the program's own memory is."""
        self.unit.epochs = (self.unit.epochs // AGES + 1) * AGES
        self.epoch = self.unit.epochs

    def _failed(self) -> Operand:
        return self.load(self.faults, 0, 8) if self.reads else 0


def _asks_time(node: Node) -> bool:
    """Whether it is an event that has a reading of the clock in it."""
    return isinstance(node, checked.Emit) and any(
        isinstance(part, checked.Builtin) and part.op == "nsecs" for part in walk(node)
    )


def _emits(statements: tuple[checked.Stmt, ...]) -> int:
    """How many places in a program emit an event; one in a loop counts as several."""
    found = 0
    for statement in statements:
        for node in walk(statement):
            if isinstance(node, checked.Loop):
                found += _emits(node.body)
            found += isinstance(node, checked.Emit)
    return found
