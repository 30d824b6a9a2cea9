"""The engine of the interpreter: instructions made ready, registers, call frames, and the operations.

Invariants: registers hold unsigned 64-bit numbers; one that has no value may not be read; a call to a helper
or a subprogram leaves r1 to r5 without values; each frame has a stack of its own. `OPERATIONS` has an entry
for every operation of the instruction table, and a test holds it to that.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kwire.bpf import disasm, semantics
from kwire.bpf import insn as isa
from kwire.bpf.helpers import HELPERS, NAMES
from kwire.bpf.image import Line
from kwire.bpf.insn import Form, Insn
from kwire.bpf.semantics import MASK64
from kwire.bpf.vm_helpers import SIMULATED, Fault
from kwire.bpf.vm_memory import Region, Violation
from kwire.errors import KwireError

if TYPE_CHECKING:
    from kwire.bpf.vm import Machine

STACK_SIZE: Final = 512
MAX_FRAMES: Final = 8
_UNSET: Final = -1  # a register without a value; real values are never negative
_FUNCTIONS: Final = 0xFFFF_FFFF_C000_0000  # where subprograms have their addresses
_KERNEL_POINTERS: Final = ("fentry", "fexit", "fmod_ret")  # kinds that may follow kernel pointers directly


class MachineError(KwireError):
    """A program did what it must not, at slot `pc`, instruction `text`; `address` is that of a bad access."""

    def __init__(self, pc: int, text: str, cause: str, address: int | None, line: Line | None) -> None:
        where = f"instruction {pc} ({text})"
        if line is not None:
            where += f" from {line.file}:{line.line}"
        super().__init__("run eBPF program", where, cause)
        self.pc = pc
        self.text = text
        self.address = address
        self.line = line


class Step:
    """One instruction, made ready to run."""

    __slots__ = (
        "act",
        "dst",
        "fn",
        "form",
        "imm",
        "insn",
        "mask",
        "next",
        "offset",
        "reads",
        "src",
        "target",
    )

    def __init__(self, pc: int, insn: Insn, form: Form, value: int | None) -> None:
        self.insn = insn
        self.form = form
        self.dst = int(insn.dst)
        self.src = int(insn.src)
        self.offset = insn.offset
        self.mask = (1 << form.width) - 1
        self.imm = (insn.imm if value is None else value) & MASK64
        self.next = pc + insn.slots
        self.target = isa.jump_target(insn, form, pc) or 0
        self.act, self.fn = OPERATIONS[form.op]
        if insn.opcode == isa.LDDW and insn.src not in (0, isa.PSEUDO_FUNC) and value is None:
            raise isa.InsnError(pc, insn, "src", "what this number names is known to an Image only")
        reads = [self.dst] if form.dst == "read" else []
        reads += [self.src] if form.src == "read" or form.op.startswith("atomic") else []
        if form.dst == "write" and self.act in (_alu, _swap) and not form.op.startswith("mov"):
            reads.append(self.dst)
        reads += [0] if form.op in ("exit", "atomic_cmpxchg") else []
        self.reads = tuple(reads)


class Frame(NamedTuple):
    """Where a subprogram returns to (None: to whoever called `execute`), and what it must leave as it was."""

    back: int | None
    saved: list[int]
    stack: Region


class Run:
    """One run of a machine: registers, call frames, and what came out."""

    def __init__(self, machine: "Machine", packet: bytes) -> None:
        self.machine = machine
        self.env = machine.env
        self.memory = machine.memory
        self.space = machine.space
        self.read = machine.space.read
        self.write = machine.space.write
        self.packet = packet
        self.regs = [_UNSET] * 11
        self.frames: list[Frame] = []
        self.faults: list[Fault] = []
        self.printed: list[str] = []
        self.signals: list[int] = []
        self.count = 0
        self.pc = 0

    def error(self, cause: str, address: int | None = None) -> MachineError:
        """An error at the instruction that is running."""
        step = self.machine.steps[self.pc]
        line = None
        for candidate in self.machine.lines:
            if candidate.insn <= self.pc:
                line = candidate
        return MachineError(self.pc, disasm.text(step.insn, step.form), cause, address, line)

    def execute(self, pc: int, args: Sequence[int]) -> int:
        """Runs from a slot until that frame exits; gives r0."""
        depth = len(self.frames)
        self.enter(None, args)
        steps, regs, budget = self.machine.steps, self.regs, self.machine.budget
        try:
            while pc >= 0:
                self.pc = pc
                step = steps[pc]
                self.count += 1
                if self.count > budget:
                    raise self.error(f"the program did not end within {budget} instructions")
                for register in step.reads:
                    if regs[register] < 0:
                        raise self.error(f"r{register} is used before it has a value")
                pc = step.act(self, step)
        except Violation as violation:
            raise self.error(violation.cause, violation.address) from None
        finally:
            while len(self.frames) > depth:
                self.space.remove(self.frames.pop().stack)
        return regs[0]

    def enter(self, back: int | None, args: Sequence[int]) -> None:
        """A new call frame with a stack of its own; r1 on hold the arguments."""
        if len(self.frames) == MAX_FRAMES:
            raise self.error(f"more than {MAX_FRAMES} functions deep")
        regs = self.regs
        stack = self.space.add(bytearray(STACK_SIZE), "stack", tracked=True)
        self.frames.append(Frame(back, regs[6:11], stack))
        regs[1 : 1 + len(args)] = args
        regs[1 + len(args) : 6] = [_UNSET] * (5 - len(args))
        regs[6:10] = [_UNSET] * 4
        regs[0] = _UNSET
        regs[10] = stack.base + STACK_SIZE

    def leave(self) -> int:
        """Back to the caller; gives the slot to go on with (-1 when the run is over)."""
        frame = self.frames.pop()
        self.space.remove(frame.stack)
        self.regs[1:6] = [_UNSET] * 5
        self.regs[6:11] = frame.saved
        return -1 if frame.back is None else frame.back

    def call_function(self, address: int, *args: int) -> int:
        """Runs the subprogram that a helper got as a callback; gives its r0."""
        pc = self.pc
        entry = address - _FUNCTIONS
        if entry not in self.machine.steps:
            raise Violation(address, f"{address:#x} is not a subprogram")
        result = self.execute(entry, args)
        self.pc = pc
        return result

    def load(self, address: int, size: int) -> int:
        """A little-endian number from memory."""
        if self.machine.kind in _KERNEL_POINTERS and not self.space.holds(address):
            data = self.memory.read(address, size)
            if data is None:  # the kernel fixes such faults up: the register becomes 0
                self.faults.append(Fault("load", address, size, "not mapped"))
                return 0
            return int.from_bytes(data, "little")
        return int.from_bytes(self.read(address, size), "little")


def _alu(run: Run, step: Step) -> int:
    regs, mask = run.regs, step.mask
    operand = regs[step.src] if step.form.src == "read" else step.imm
    regs[step.dst] = step.fn(regs[step.dst] & mask, operand & mask, step.form.width) & mask
    return step.next


def _swap(run: Run, step: Step) -> int:
    run.regs[step.dst] = step.fn(run.regs[step.dst])
    return step.next


def _jump(run: Run, step: Step) -> int:
    regs, mask = run.regs, step.mask
    operand = regs[step.src] if step.form.src == "read" else step.imm
    return step.target if step.fn(regs[step.dst] & mask, operand & mask, step.form.width) else step.next


def _goto(_run: Run, step: Step) -> int:
    return step.target


def _lddw(run: Run, step: Step) -> int:
    run.regs[step.dst] = _FUNCTIONS + step.target if step.insn.src == isa.PSEUDO_FUNC else step.imm
    return step.next


def _load(run: Run, step: Step) -> int:
    address = run.regs[step.src] + step.offset & MASK64
    run.regs[step.dst] = run.load(address, step.form.width // 8)
    return step.next


def _load_signed(run: Run, step: Step) -> int:
    address = run.regs[step.src] + step.offset & MASK64
    width = step.form.width
    run.regs[step.dst] = semantics.signed(run.load(address, width // 8), width) & MASK64
    return step.next


def _store(run: Run, step: Step) -> int:
    value = run.regs[step.src] if step.form.src == "read" else step.imm
    address = run.regs[step.dst] + step.offset & MASK64
    run.write(address, (value & step.mask).to_bytes(step.form.width // 8, "little"))
    return step.next


def _atomic(run: Run, step: Step) -> int:
    regs, width, mask = run.regs, step.form.width, step.mask
    address = regs[step.dst] + step.offset & MASK64
    if address % (width // 8):
        raise Violation(address, "an atomic operation on an address that is not aligned")
    old = int.from_bytes(run.read(address, width // 8), "little")
    new = step.fn(old, regs[step.src] & mask, regs[0] & mask) & mask
    run.write(address, new.to_bytes(width // 8, "little"))
    if step.form.op == "atomic_cmpxchg":
        regs[0] = old
    elif step.insn.imm & isa.FETCH:
        regs[step.src] = old
    return step.next


def _packet_load(run: Run, step: Step) -> int:
    size = step.form.width // 8
    offset = step.insn.imm + (semantics.signed(run.regs[step.src], 32) if step.form.src == "read" else 0)
    run.regs[1:6] = [_UNSET] * 5
    if not 0 <= offset <= len(run.packet) - size:
        run.regs[0] = 0
        return run.leave()
    run.regs[0] = int.from_bytes(run.packet[offset : offset + size], "big")
    return step.next


def _call_helper(run: Run, step: Step) -> int:
    regs = run.regs
    number = step.insn.imm if step.form.op == "call" else regs[step.dst]
    name = NAMES[number] if 0 < number < len(NAMES) else ""
    simulate = SIMULATED.get(name)
    if simulate is None:
        raise run.error(f"the helper {name or number} is not simulated")
    for register in range(1, 1 + len(HELPERS[name].args)):
        if regs[register] == _UNSET:
            raise run.error(f"r{register} is used before it has a value")
    result = simulate(run, *regs[1:6])
    regs[0] = result & MASK64
    regs[1:6] = [_UNSET] * 5
    return step.next


def _call_local(run: Run, step: Step) -> int:
    run.enter(step.next, run.regs[1:6])
    return step.target


def _call_kernel(run: Run, step: Step) -> int:
    raise run.error("kernel functions are not simulated")


def _exit(run: Run, _step: Step) -> int:
    return run.leave()


Action = Callable[[Run, Step], int]


def _swapper(kind: str, width: int) -> Callable[[int], int]:
    return lambda value: semantics.swap(kind, width, value)


# What each operation of the instruction table does, and the function of numbers it does it with.
OPERATIONS: Final[dict[str, tuple[Action, Callable[..., Any]]]] = {
    **{op: (_alu, fn) for op, fn in semantics.ALU.items()},
    **{f"{kind}{n}": (_swap, _swapper(kind, n)) for kind in ("le", "be", "bswap") for n in (16, 32, 64)},
    **{f"j{op}": (_jump, fn) for op, fn in semantics.JUMPS.items()},
    **{f"atomic_{op}": (_atomic, fn) for op, fn in semantics.ATOMICS.items()},
    **{f"atomic_fetch_{op}": (_atomic, semantics.ATOMICS[op]) for op in isa.ATOMIC_OPS},
    "ja": (_goto, id),
    "gotol": (_goto, id),
    "lddw": (_lddw, id),
    "ldx": (_load, id),
    "ldsx": (_load_signed, id),
    "st": (_store, id),
    "stx": (_store, id),
    "load_acquire": (_load, id),
    "store_release": (_store, id),
    "ldabs": (_packet_load, id),
    "ldind": (_packet_load, id),
    "call": (_call_helper, id),
    "callx": (_call_helper, id),
    "call_local": (_call_local, id),
    "call_btf": (_call_kernel, id),
    "exit": (_exit, id),
}
