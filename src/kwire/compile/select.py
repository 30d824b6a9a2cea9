"""Allocated IR → eBPF instructions, legal for ISA v3 without fetching atomics (kernel 5.10 and later).

Invariants: r5 and r0 are scratch within one instruction and hold nothing across two, but for r0's short
values (`allocate`). Clamping (`umin`, `within`) and fault notes leave their rare case to a stub behind the
program, so that the verifier walks the general case first and finds the rare one to be a special case of it;
the other way round every clamp would double its work.
"""

from collections.abc import Callable
from itertools import takewhile

from kwire.bpf import asm
from kwire.bpf.asm import REGS, Item, Label, Reg
from kwire.bpf.helpers import HELPERS
from kwire.compile.expressions import signed64
from kwire.compile.ir import (
    CONDITIONS,
    At,
    Block,
    Branch,
    Exit,
    Find,
    Function,
    FunctionRef,
    Ins,
    Jump,
    MapRef,
    Module,
    Operand,
    Slot,
    Value,
)
from kwire.compile.peephole import spared
from kwire.compile.read_coalescing import Read
from kwire.lang.checked import ByteSet, Piece
from kwire.lang.tree import NOWHERE, Span
from kwire.lazy import NamedTuple
from kwire.wire.fields import TAIL_CUT

R0, R5, R10 = REGS[0], REGS[5], REGS[10]
SCRATCH = (R5, R0)
SIZES = {1: "b", 2: "h", 4: "w", 8: "dw"}
COMMUTATIVE = frozenset({"add", "mul", "and", "or", "xor"})


class Selected(NamedTuple):
    """The program as items for `asm.link`, where each source span begins, and where each function does."""

    items: list[Item]
    spans: list[tuple[Label, Span]]
    functions: list[Label]


def select(module: Module) -> Selected:
    """Instructions for the whole program, function after function."""
    entries = {function: Label(function.name) for function in module.functions}
    parts = [Selector(function, entries).run() for function in module.functions]
    return Selected(
        [item for part in parts for item in part.items],
        [span for part in parts for span in part.spans],
        [entries[function] for function in module.functions],
    )


def fits32(number: int) -> bool:
    """Whether an instruction can hold the number, which it sign-extends."""
    return -(1 << 31) <= number < 1 << 31


class Selector:
    """Emits items; one method an operation."""

    __slots__ = ("entries", "function", "items", "labels", "span", "spans", "stubs")

    def __init__(self, function: Function, entries: dict[Function, Label]) -> None:
        self.function = function
        self.entries = entries
        self.items: list[Item] = [entries[function]]
        self.labels: dict[Block, Label] = {block: Label(block.name) for block in function.blocks}
        self.stubs: list[tuple[Span, list[Item]]] = []
        self.spans: list[tuple[Label, Span]] = []
        self.span: Span | None = None

    def run(self) -> Selected:
        """Emit every block in order, then the stubs."""
        self._mark(next((ins.span for block in self.function.blocks for ins in block.body), NOWHERE))
        self._params()
        blocks = [block for block in self.function.blocks if self._final(block) is block]
        blocks.sort(key=lambda block: block.seldom)
        for block in self.function.blocks:
            self.labels[block] = self.labels[self._final(block)]
        for number, block in enumerate(blocks):
            self.items.append(self.labels[block])
            for ins in block.body:
                self._mark(ins.span)
                OPERATIONS[ins.op](self, ins)
            self._mark(block.span)
            self._end(block, blocks[number + 1] if number + 1 < len(blocks) else None)
        for span, items in self.stubs:
            self._mark(span)
            self.items += items
        return Selected(spared(self.items), self.spans, [])

    def _final(self, block: Block) -> Block:
        """Where a block leads that does nothing, not even bring a value to where it is wanted."""
        seen = {self.function.entry}
        while block not in seen and not block.body and isinstance(block.end, Jump):
            seen.add(block)
            both = zip(block.end.target.params, block.end.args, strict=True)
            if not all(isinstance(arg, Value) and _place(arg) == _place(param) for param, arg in both):
                break
            block = block.end.target
        return block

    def _params(self) -> None:
        """Bring the parameters from r1 and on to where they live."""
        moves: dict[Reg, Reg] = {}
        for number, param in enumerate(self.function.params):
            if param.slot is not None:
                self.items.append(asm.stx("dw", R10, REGS[number + 1], param.slot.offset))
            elif param.reg >= 0:
                moves[REGS[param.reg]] = REGS[number + 1]
        self._parallel(moves)

    def _mark(self, span: Span) -> None:
        if span != self.span and span.line:
            label = Label("line")
            self.items.append(label)
            self.spans.append((label, span))
            self.span = span

    # operands

    def _into(self, target: Reg, operand: Operand) -> None:
        """Emit what brings an operand into a register."""
        if isinstance(operand, Value):
            if operand.slot is not None:
                self.items.append(asm.ldx("dw", target, R10, operand.slot.offset))
            elif operand.reg != target:
                self.items.append(asm.mov64(target, REGS[operand.reg]))
        elif isinstance(operand, MapRef):
            self.items.append(asm.map_fd(target, operand.map))
        elif isinstance(operand, FunctionRef):
            self.items.append(asm.func(target, self.entries[operand.function]))
        elif isinstance(operand, At):
            base, offset = self._base(operand, target)
            if base is not target:
                self.items.append(asm.mov64(target, base))
            if offset:
                self.items.append(asm.alu64("add", target, offset))
        else:
            self.items.append(asm.constant(target, operand))

    def _register(self, operand: Operand, *busy: int) -> Reg:
        """A register that holds the operand: its own, or a scratch register not among the busy ones."""
        if isinstance(operand, Value) and operand.slot is None:
            return REGS[operand.reg]
        target = next(register for register in SCRATCH if register not in busy)
        self._into(target, operand)
        return target

    def _source(self, operand: Operand, *busy: int) -> int:
        """A register, or a number that fits the instruction."""
        if operand.__class__ is int and fits32(operand):
            return operand
        return self._register(operand, *busy)

    def _base(self, at: At, *busy: int) -> tuple[Reg, int]:
        """Register and offset of a place in memory; a spilled pointer is loaded into `busy[0]` or a scratch
        one.
        """
        if isinstance(at.base, Slot):
            return R10, at.base.offset + at.offset
        if at.base.slot is not None and busy:
            self._into(REGS[busy[0]], at.base)
            return REGS[busy[0]], at.offset
        return self._register(at.base), at.offset

    def _target(self, dst: Value, *avoid: Operand) -> Reg:
        """The register to compute a result in: its own, unless it is spilled or one of these operands'
        register.
        """
        if dst.slot is not None:
            return R5
        for operand in avoid:
            if isinstance(operand, Value) and operand.slot is None and operand.reg == dst.reg:
                return R5 if dst.reg != R5 else R0
        return REGS[dst.reg]

    def _put(self, dst: Value, register: Reg) -> None:
        """Store a computed result where it belongs."""
        if dst.slot is not None:
            self.items.append(asm.stx("dw", R10, register, dst.slot.offset))
        elif dst.reg != register:
            self.items.append(asm.mov64(REGS[dst.reg], register))

    def _stub(self, span: Span, *items: Item) -> Label:
        """Code for behind the program; the label it starts at."""
        label = Label("stub")
        self.stubs.append((span, [label, *items]))
        return label

    # operations

    def binary(self, ins: Ins) -> None:
        """dst = a op b."""
        dst, (a, b) = _dst(ins), ins.args
        if ins.op in COMMUTATIVE and isinstance(b, Value) and b.slot is None and b.reg == dst.reg:
            a, b = b, a
        target = self._target(dst, b) if b is not a else self._target(dst)
        if a is b and isinstance(a, Value) and a.slot is None:
            self._into(target, a)
            self.items.append(asm.alu64(ins.op, target, target))
        else:
            self._into(target, a)
            self.items.append(asm.alu64(ins.op, target, self._source(b, target)))
        self._put(dst, target)

    def umin(self, ins: Ins) -> None:
        """dst = the smaller one."""
        dst, (a, b) = _dst(ins), ins.args
        target = self._target(dst, b)
        self._into(target, a)
        source = self._source(b, target)
        back = Label("clamped")
        stub = self._stub(ins.span, asm.mov64(target, source), asm.ja(back))
        self.items += [asm.jmp("gt", target, source, stub), back]
        self._put(dst, target)

    def within(self, ins: Ins) -> None:
        """dst = a when b < c, else 0."""
        dst, (a, b, c) = _dst(ins), ins.args
        target = self._target(dst, b) if b is not a else self._target(dst)
        self._into(target, a)
        index = target if b is a else self._register(b, target)
        limit = self._source(c, target, index)
        back = Label("within")
        stub = self._stub(ins.span, asm.mov64(target, 0), asm.ja(back))
        self.items += [asm.jmp("ge", index, limit, stub), back]
        self._put(dst, target)

    def negate(self, ins: Ins) -> None:
        """dst = -a."""
        dst = _dst(ins)
        target = self._target(dst)
        self._into(target, ins.args[0])
        self.items.append(asm.neg64(target))
        self._put(dst, target)

    def extend(self, ins: Ins) -> None:
        """Zero- or sign-extension from some bits, by instructions of ISA v3."""
        dst, bits = _dst(ins), ins.info
        assert isinstance(bits, int)
        target = self._target(dst)
        a = ins.args[0]
        if ins.op == "zext" and bits == 32:
            self.items.append(asm.mov32(target, self._register(a, R0 if target is R5 else R5)))
        else:
            self._into(target, a)
            if ins.op == "zext":
                self.items.append(asm.alu64("and", target, (1 << bits) - 1))
            else:
                self.items += [asm.alu64("lsh", target, 64 - bits), asm.alu64("arsh", target, 64 - bits)]
        self._put(dst, target)

    def big_endian(self, ins: Ins) -> None:
        """From network byte order."""
        dst = _dst(ins)
        assert isinstance(ins.info, int)
        target = self._target(dst)
        self._into(target, ins.args[0])
        self.items.append(asm.swap("be", target, ins.info))
        self._put(dst, target)

    def compare(self, ins: Ins) -> None:
        """dst = 1 when the condition holds, else 0.

        The verifier goes on with 1 first, and finds 0 to be a special case where the byte is stored.
        """
        dst, (a, b), condition = _dst(ins), ins.args, CONDITIONS[str(ins.info)]
        target = self._target(dst, a, b)
        taken = {target, *(one.reg for one in (a, b) if isinstance(one, Value) and one.slot is None)}
        wanted = sum(not self._at_hand(one) for one in (a, b))
        done = Label("done")
        if wanted <= sum(register not in taken for register in SCRATCH):
            self.items.append(asm.mov64(target, 0))
            self._jump(condition, a, b, done, target)
            self.items.append(asm.mov64(target, 1))
        else:
            no = Label("no")
            self._jump(condition, a, b, no)
            self.items += [asm.mov64(target, 1), asm.ja(done), no, asm.mov64(target, 0)]
        self.items.append(done)
        self._put(dst, target)

    def _at_hand(self, operand: Operand) -> bool:
        """Whether an instruction can have the operand without a scratch register."""
        if isinstance(operand, Value):
            return operand.slot is None
        return isinstance(operand, int) and fits32(operand)

    def map_value(self, ins: Ins) -> None:
        """dst = address of a byte of a map's value."""
        dst = _dst(ins)
        assert isinstance(ins.info, tuple)
        target = self._target(dst)
        self.items.append(asm.map_value(target, *ins.info))
        self._put(dst, target)

    def keep(self, ins: Ins) -> None:
        """dst = a constant."""
        self._into(REGS[_dst(ins).reg], ins.args[0])

    def load(self, ins: Ins) -> None:
        """dst = memory."""
        dst, at = _dst(ins), ins.args[0]
        assert isinstance(at, At)
        assert isinstance(ins.info, int)
        if isinstance(at.base, Slot) and at.base.reg >= 0:
            self._put(dst, REGS[at.base.reg])
            return
        target = self._target(dst)
        base, offset = self._base(at, target)
        self.items.append(asm.ldx(SIZES[ins.info], target, base, offset))
        self._put(dst, target)

    def store(self, ins: Ins) -> None:
        """Memory = value."""
        at, value = ins.args
        assert isinstance(at, At)
        assert isinstance(ins.info, int)
        if isinstance(at.base, Slot) and at.base.reg >= 0:
            self._into(REGS[at.base.reg], value)
            return
        size = SIZES[ins.info]
        base, offset = self._base(at, R5)
        if value.__class__ is int and fits32(value):
            self.items.append(asm.st(size, base, value, offset))
        else:
            self.items.append(asm.stx(size, base, self._register(value, base), offset))

    def atomic(self, ins: Ins) -> None:
        """Memory += value, whole."""
        at, value = ins.args
        assert isinstance(at, At)
        base, offset = self._base(at, R5)
        self.items.append(asm.atomic("add", "dw", base, self._register(value, base), offset))

    def fetch(self, ins: Ins) -> None:
        """dst = memory; memory += value, whole."""
        at, value = ins.args
        assert isinstance(at, At)
        base, offset = self._base(at, R5)
        self._into(R0, value)
        self.items.append(asm.atomic("add", "dw", base, R0, offset, fetch=True))
        self._put(_dst(ins), R0)

    def fault(self, ins: Ins) -> None:
        """Note a negative result."""
        result, at = ins.args
        note = _noting(at)
        if note is not None:
            self.items.append(asm.alu64("or", note, self._register(result)))
            return
        back = Label("read")
        stub = self._stub(ins.span, self._note(at), asm.ja(back))
        self.items += [asm.jmp("slt", self._register(result), 0, stub), back]

    def told(self, ins: Ins) -> None:
        """dst = how long a text is, also stored; the texts that are not as usual are left to stubs."""
        dst, (result, at) = _dst(ins), ins.args
        assert isinstance(at, At)
        assert isinstance(ins.info, tuple)
        most, unread = ins.info
        target = self._target(dst, at.base) if isinstance(at.base, Value) else self._target(dst)
        self._into(target, result)
        base, offset = self._base(at, R0 if target is R5 else R5)
        back, noted = Label("told"), Label("noted")
        nothing = asm.st("h", base, unread - (unread >> 15 << 16), offset)
        empty = asm.st("h", base, 0, offset)  # empty user memory is 0 bytes long on 6.1 and 6.12
        cut = asm.st("h", base, (most | TAIL_CUT) - (1 << 16), offset)
        none = self._stub(
            ins.span,
            nothing,
            *((asm.jmp("slt", target, 0, noted), empty, noted) if unread else ()),
            asm.mov64(target, 0),
            asm.ja(back),
        )
        long = self._stub(ins.span, cut, asm.mov64(target, most), asm.ja(back))
        self.items += [
            asm.jmp("sle", target, 0, none),
            asm.alu64("add", target, -1),
            asm.jmp("gt", target, most, long),
            asm.stx("h", base, target, offset),
            back,
        ]
        self._put(dst, target)

    def call(self, ins: Ins) -> None:
        """Arguments, the call, the result."""
        self._arguments(ins.args)
        if isinstance(ins.info, Find):
            self._find(ins.info)
        elif isinstance(ins.info, Function):
            self.items.append(asm.call_local(self.entries[ins.info]))
        else:
            self.items.append(asm.call(HELPERS[str(ins.info)].id))
        if ins.dst is not None:
            self._put(ins.dst, R0)

    def _arguments(self, args: list[Operand]) -> None:
        """Bring arguments into r1 to r5 without overwriting one that is still to be moved."""
        moves: dict[Reg, Reg] = {}
        later: list[tuple[Reg, Operand]] = []
        for number, arg in enumerate(args):
            target = REGS[number + 1]
            value = arg.base if isinstance(arg, At) else arg
            if isinstance(value, Value) and value.slot is None:
                moves[target] = REGS[value.reg]
                if isinstance(arg, At) and arg.offset:
                    later.append((target, arg.offset))
            else:
                later.append((target, arg))
        self._parallel(moves)
        for target, arg in later:
            if target in moves:
                assert isinstance(arg, int)
                self.items.append(asm.alu64("add", target, arg))
            else:
                self._into(target, arg)

    def read(self, ins: Ins) -> None:
        """Read memory by a helper; when that fails note it, or read the parts one by one."""
        target, base, *faults = ins.args
        read = ins.info
        assert isinstance(read, Read)
        assert isinstance(target, At)
        self._read_part(read, target, base, 0, read.size)
        back = Label("read")
        note = _noting(*faults)
        notes = [self._note(one) for one in faults] if note is None else [asm.alu64("or", note, R0)]
        if not read.parts and (note is not None or not notes):
            self.items += notes
            return
        if not read.parts:
            stub = self._stub(ins.span, *notes, asm.ja(back))
        else:
            before, self.items = self.items, []
            for offset, size in read.parts:
                self._read_part(read, target, base, offset - read.offset, size)
                next_ = Label("part")
                noted = note is not None or not notes
                self.items += notes if noted else [asm.jmp("sge", R0, 0, next_), *notes, next_]
            parts, self.items = self.items, before
            stub = self._stub(ins.span, *parts, asm.ja(back))
        self.items += [asm.jmp("slt", R0, 0, stub), back]

    def _read_part(self, read: Read, target: At, base: Operand, offset: int, size: int) -> None:
        start = read.offset + offset
        if isinstance(base, int):
            base, start = signed64(base + start), 0
        self._arguments([At(target.base, target.offset + offset), size, base])
        if start:
            self.items.append(asm.alu64("add", REGS[3], start))
        self.items.append(asm.call(HELPERS[f"probe_read_{read.space}"].id))

    def _note(self, faults: Operand) -> Item:
        assert isinstance(faults, At)
        assert isinstance(faults.base, Slot)
        if faults.base.reg >= 0:
            return asm.mov64(REGS[faults.base.reg], -1)
        return asm.st("dw", R10, -1, faults.base.offset + faults.offset)

    def _find(self, find: Find) -> None:
        """A loop over the places from r2 to r3 behind r1, the place in r0, what differs there in r4.

        What leaves the loop goes straight on, what stays in it jumps: so the verifier has seen what follows
        when it comes back to the loop, need not look again, and has few branches waiting.
        """
        names = ("again", "inside", "there", "further", "missing", "found")
        again, inside, there, further, missing, found = map(Label, names)
        self.items += [
            asm.mov64(R0, REGS[2]),
            again,
            asm.jmp("le", R0, find.most, inside),
            asm.ja(missing),
            inside,
            asm.jmp("sle", R0, REGS[3], there),
            asm.ja(missing),
            there,
            *_difference(find.piece),
            asm.jmp("ne", REGS[4], 0, missing if find.once else further),
            asm.ja(found),
        ]
        if not find.once:
            self.items += [further, asm.alu64("add", R0, 1), asm.ja(again)]
        self.items += [missing, asm.mov64(R0, -1), found]

    def _parallel(self, moves: dict[Reg, Reg]) -> None:
        pending = {target: source for target, source in moves.items() if target is not source}
        while pending:
            sources = set(pending.values())
            ready = next((target for target in pending if target not in sources), None)
            if ready is None:  # a cycle: one of its registers goes through r0
                ready = next(iter(pending))
                self.items.append(asm.mov64(R0, ready))
                pending = {t: (R0 if s is ready else s) for t, s in pending.items()}
            self.items.append(asm.mov64(ready, pending.pop(ready)))

    # control

    def _jump(self, condition: str, a: Operand, b: Operand, target: Label, busy: int = -1) -> None:
        """`if a condition b goto target`. A number over 2^31 is compared in 32 bits where that is the
        same. `busy`: a scratch register that must stay as it is.
        """
        left = self._register(a, b.reg if isinstance(b, Value) and b.slot is None else -1, busy)
        narrow = isinstance(a, Value) and a.bits <= 32 and condition[0] != "s"
        if narrow and isinstance(b, int) and 1 << 31 <= b < 1 << 32:
            self.items.append(asm.jmp32(condition, left, b, target))
            return
        self.items.append(asm.jmp(condition, left, self._source(b, left, busy), target))

    def _end(self, block: Block, following: Block | None) -> None:
        end = block.end
        if isinstance(end, Exit):
            if end.value is not None:
                self._into(R0, end.value)
            self.items.append(asm.exit_())
        elif isinstance(end, Jump):
            self._pass(end)
            if self._final(end.target) is not following:
                self.items.append(asm.ja(self.labels[end.target]))
        else:
            self._branch(end, following)

    def _pass(self, jump: Jump) -> None:
        """Bring the arguments of a jump to where the target's parameters live, all at once.

        r5 carries what goes from one slot to another, r0 holds what two moves need in turn.
        """
        pending: dict[int, int | Location] = {}
        for param, arg in zip(jump.target.params, jump.args, strict=True):
            target = _place(param)
            source = arg if isinstance(arg, int) else Location(_place(arg))
            if source != Location(target):
                pending[target] = source
        while pending:
            needed = {source.at for source in pending.values() if isinstance(source, Location)}
            ready = next((target for target in pending if target not in needed), None)
            if ready is None:
                ready = next(iter(pending))
                self._move(R0, Location(ready))
                held = Location(ready)
                pending = {t: (Location(R0) if s == held else s) for t, s in pending.items()}
            source = pending.pop(ready)
            if ready >= 0:
                self._move(REGS[ready], source)
            elif isinstance(source, int) and fits32(source):
                self.items.append(asm.st("dw", R10, source, ready))
            elif isinstance(source, Location) and source.at >= 0:
                self.items.append(asm.stx("dw", R10, REGS[source.at], ready))
            else:
                self._move(R5, source)
                self.items.append(asm.stx("dw", R10, R5, ready))

    def _move(self, target: Reg, source: "int | Location") -> None:
        if not isinstance(source, Location):
            self.items.append(asm.constant(target, source))
        elif source.at >= 0:
            self.items.append(asm.mov64(target, REGS[source.at]))
        else:
            self.items.append(asm.ldx("dw", target, R10, source.at))

    def _branch(self, end: Branch, following: Block | None) -> None:
        condition, then, otherwise = end.condition, self._final(end.then), self._final(end.otherwise)
        if then is following:
            condition, then, otherwise = CONDITIONS[condition], otherwise, then
        self._jump(condition, end.a, end.b, self.labels[then])
        if otherwise is not following:
            self.items.append(asm.ja(self.labels[otherwise]))


def _noting(*faults: Operand) -> Reg | None:
    """The register in which alone a failed read is noted."""
    if len(faults) == 1 and isinstance(faults[0], At) and isinstance(faults[0].base, Slot):
        register = faults[0].base.reg
        return REGS[register] if register >= 0 else None
    return None


class Location(NamedTuple):
    """A register's number, or (below 0) the offset of a stack slot."""

    at: int


def _place(value: Operand) -> int:
    assert isinstance(value, Value)
    return value.reg if value.slot is None else value.slot.offset


def _difference(piece: Piece) -> list[Item]:
    """r4 = 0 where the piece stands at r1 + r0; uses r2 and r5. What may be any byte is not looked at."""
    items: list[Item] = [asm.mov64(REGS[4], 0)]
    at = 0
    while at < len(piece):
        literal = bytes(one[0][0] for one in takewhile(_is_literal, piece[at : at + 4]))
        if literal:
            size = 4 if len(literal) == 4 else 2 if len(literal) >= 2 else 1
            number = int.from_bytes(literal[:size], "little")
            items += [*_byte_at(R5, at, size), asm.alu32("xor", R5, number - (number >> 31 << 32))]
            items.append(asm.alu64("or", REGS[4], R5))
            at += size
            continue
        if piece[at] != ((1, 255),):
            inside = REGS[2]  # -1 where the byte is in one of the ranges
            items.append(asm.mov64(inside, 0))
            for low, high in piece[at]:
                items += [
                    *_byte_at(R5, at, 1),
                    asm.alu32("sub", R5, low),
                    asm.alu64("sub", R5, high - low + 1),
                    asm.alu64("arsh", R5, 63),
                    asm.alu64("or", inside, R5),
                ]
            items += [asm.alu64("xor", inside, -1), asm.alu64("or", REGS[4], inside)]
        at += 1
    return items


def _byte_at(target: Reg, offset: int, size: int) -> list[Item]:
    """target = the bytes at r1 + r0 + offset."""
    return [
        asm.mov64(target, REGS[1]),
        asm.alu64("add", target, R0),
        asm.ldx(SIZES[size], target, target, offset),
    ]


def _is_literal(choices: ByteSet) -> bool:
    return len(choices) == 1 and choices[0][0] == choices[0][1]


def _dst(ins: Ins) -> Value:
    assert ins.dst is not None
    return ins.dst


OPERATIONS: dict[str, Callable[[Selector, Ins], None]] = {
    **dict.fromkeys(
        ("add", "sub", "mul", "div", "mod", "and", "or", "xor", "lsh", "rsh", "arsh"), Selector.binary
    ),
    "umin": Selector.umin,
    "within": Selector.within,
    "neg": Selector.negate,
    "zext": Selector.extend,
    "sext": Selector.extend,
    "be": Selector.big_endian,
    "cmp": Selector.compare,
    "mapval": Selector.map_value,
    "keep": Selector.keep,
    "peek": Selector.load,
    "load": Selector.load,
    "store": Selector.store,
    "atomic": Selector.atomic,
    "fetch": Selector.fetch,
    "fault": Selector.fault,
    "told": Selector.told,
    "read": Selector.read,
    "call": Selector.call,
    "invoke": Selector.call,
}
