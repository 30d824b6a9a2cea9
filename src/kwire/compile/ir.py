"""The intermediate representation: three-address instructions on virtual registers in basic blocks.

Laws:

- A `Value` is a 64-bit virtual register. It is defined once, or, when it joins the arms of a branch, once on
  each arm by `copy` and used only after the arms have met (`Value.joins`).
- Blocks form a directed graph without cycles and stand in `Function.blocks` in a topological order: a jump
  leads forward, always. So one pass in order sees every definition before its uses.
- A place in memory is `At(base, offset)`: a `Slot` of the stack frame, or a `Value` that holds a pointer the
  verifier knows (context, map value, task). Any other address is a number and can only be read by `hop` and
  `block`, which the reader pass (`reads`) turns into helper calls.
- `OPS` says of each operation whether it is pure: a pure one may be shared, moved down to its use or left
  out.
"""

from typing import NamedTuple, TypeAlias

from kwire.lang.checked import Piece
from kwire.lang.tree import NOWHERE, Span


class Value:
    """A virtual register. `bits`: only the low so many bits can be set (64: nothing is known)."""

    __slots__ = ("bits", "end", "hint", "id", "joins", "reg", "slot", "start")

    def __init__(self, number: int, bits: int = 64) -> None:
        self.id = number
        self.bits = bits
        self.joins = False
        self.start = (
            -1
        )  # the following are the allocator's: live interval, wanted and given register, spill slot
        self.end = -1
        self.hint = -1
        self.reg = -1
        self.slot: Slot | None = None

    def __repr__(self) -> str:
        return f"%{self.id}"


class Slot:
    """Bytes in the stack frame, aligned to 8. `offset` from r10 is given by the allocator."""

    __slots__ = ("end", "name", "offset", "pinned", "size", "start")

    def __init__(self, name: str, size: int, pinned: bool = False) -> None:
        self.name = name
        self.size = (size + 7) & ~7
        self.pinned = pinned  # lives during the whole program, even where nothing mentions it
        self.offset = 0
        self.start = -1
        self.end = -1

    def __repr__(self) -> str:
        return self.name


class At(NamedTuple):
    """The memory at `base + offset`; as an argument of a call, that address."""

    base: Value | Slot
    offset: int

    def __repr__(self) -> str:
        return f"[{self.base!r}{self.offset:+d}]"


class MapRef(NamedTuple):
    """The map of this name, as helpers want it."""

    map: str

    def __repr__(self) -> str:
        return f"map:{self.map}"


Operand: TypeAlias = Value | int | At | MapRef


class Find(NamedTuple):
    """A search, as a call: (base, first, last) → the first place at which a piece of text stands, or -1.

    `most`: no place is beyond it, which keeps the reading in bounds; `once`: `first` and `last` are the same.
    """

    piece: Piece
    most: int
    once: bool


class Op(NamedTuple):
    """What an operation is. `info`: what `Ins.info` holds."""

    pure: bool
    info: str = ""


OPS: dict[str, Op] = {
    # dst = a op b, 64 bits, wrapping; div and mod unsigned
    **{
        name: Op(True)
        for name in ("add", "sub", "mul", "div", "mod", "and", "or", "xor", "lsh", "rsh", "arsh")
    },
    "within": Op(True),  # a, or 0 when the index b is not below the constant c
    "umin": Op(True),  # the smaller of two unsigned numbers; the verifier sees the bound when b is a constant
    "neg": Op(True),
    "zext": Op(True, "bits"),
    "sext": Op(True, "bits"),
    "be": Op(True, "bits"),  # big-endian to host order, zero-extended
    "cmp": Op(True, "condition"),  # 1 or 0
    "copy": Op(True),  # a join's definition, or a name for a constant
    "mapval": Op(True, "(map, offset): address of a byte of a one-entry array map's value"),
    "peek": Op(True, "size: a read of At that never changes (context, task)"),
    "hop": Op(True, "(space, offset, size): an integer at args[0] + offset, zero-extended"),
    "load": Op(False, "size"),
    "store": Op(False, "size"),  # args: At, value
    "block": Op(False, "(space, offset, size): copy bytes at args[1] + offset to args[0]"),
    "fault": Op(False, "set the slot args[1] to 1 when args[0], a helper's result, is negative"),
    "call": Op(False, "name of the helper, or what to find"),
}

PURE_CALLS = frozenset(
    {
        "get_current_pid_tgid",
        "get_current_uid_gid",
        "get_current_task",
        "get_current_task_btf",
        "task_pt_regs",
        "get_current_cgroup_id",
        "get_smp_processor_id",
        "get_numa_node_id",
        "get_func_ip",
        "get_attach_cookie",
        "ktime_get_ns",
        "ktime_get_tai_ns",
        "jiffies64",
    }
)
"""Helpers whose answer is taken once in a program: it does not change, or one moment serves for all."""

CONDITIONS = {
    "eq": "ne", "ne": "eq", "lt": "ge", "ge": "lt", "gt": "le", "le": "gt",
    "slt": "sge", "sge": "slt", "sgt": "sle", "sle": "sgt",
}  # fmt: skip
"""Each condition and its negation; plain ones compare unsigned."""

SWAPPED = {
    "eq": "eq", "ne": "ne", "lt": "gt", "gt": "lt", "le": "ge", "ge": "le",
    "slt": "sgt", "sgt": "slt", "sle": "sge", "sge": "sle",
}  # fmt: skip
"""The condition that says the same with its operands exchanged."""


class Ins:
    """One instruction: `dst = op args`, with what else it needs in `info`, and where it came from."""

    __slots__ = ("args", "dst", "info", "op", "span")

    def __init__(self, op: str, dst: Value | None, args: list[Operand], info: object, span: Span) -> None:
        self.op = op
        self.dst = dst
        self.args = args
        self.info = info
        self.span = span

    def pure(self) -> bool:
        """Whether it may be shared with an equal one, or dropped when nobody uses its result."""
        return OPS[self.op].pure or (self.op == "call" and self.info in PURE_CALLS)

    def uses(self) -> list[Value]:
        """The virtual registers it reads."""
        return values_of(self.args)

    def __repr__(self) -> str:
        text = " ".join(
            [self.op, *([_info(self.info)] if self.info is not None else []), *map(_operand, self.args)]
        )
        return f"{self.dst!r} = {text}" if self.dst else text


class Jump(NamedTuple):
    """Go to a block."""

    target: "Block"


class Branch(NamedTuple):
    """Go to `then` when `a condition b`, otherwise to `otherwise`."""

    condition: str
    a: Operand
    b: Operand
    then: "Block"
    otherwise: "Block"


class Exit(NamedTuple):
    """Return from the program with this constant."""

    value: int


End: TypeAlias = Jump | Branch | Exit


class Block:
    """Instructions that run one after another, and how they end.

    `parent`: the block that dominates this one directly (None for the entry); `depth`: how many do; `skip`:
    one further up, chosen so that any ancestor is a logarithmic number of steps away.
    """

    __slots__ = ("body", "depth", "end", "name", "parent", "skip", "span")

    def __init__(self, name: str) -> None:
        self.name = name
        self.body: list[Ins] = []
        self.end: End = Exit(0)
        self.span: Span = NOWHERE  # of the end
        self.dominated_by(None)

    def dominated_by(self, parent: "Block | None") -> None:
        """Hang the block into the tree of dominators."""
        self.parent = parent
        self.depth = 0
        self.skip: Block = self
        if parent is not None:
            self.depth = parent.depth + 1
            far = parent.skip
            even = parent.depth - far.depth == far.depth - far.skip.depth
            self.skip = far.skip if even else parent

    def __repr__(self) -> str:
        return self.name


class Function:
    """A program in IR: its blocks in topological order, its context, the stack slots it names."""

    __slots__ = ("_values", "blocks", "context", "entry", "slots")

    def __init__(self) -> None:
        self._values = 0
        self.context = self.value()
        self.entry = Block("entry")
        self.blocks = [self.entry]
        self.slots: list[Slot] = []

    def value(self, bits: int = 64) -> Value:
        """A new virtual register."""
        value = Value(self._values, bits)
        self._values += 1
        return value

    def slot(self, name: str, size: int, pinned: bool = False) -> Slot:
        """A new place in the stack frame."""
        slot = Slot(f"{name}.{len(self.slots)}", size, pinned)
        self.slots.append(slot)
        return slot


def values_of(args: "list[Operand] | tuple[Operand, ...]") -> list[Value]:
    """The virtual registers among operands, those inside places included."""
    found: list[Value] = []
    for arg in args:
        if arg.__class__ is Value:
            found.append(arg)
        elif arg.__class__ is At and arg.base.__class__ is Value:
            found.append(arg.base)
    return found


def hop_info(ins: Ins) -> tuple[str, int, int]:
    """Space, offset and size of a `hop` or `block`."""
    info = ins.info
    assert isinstance(info, tuple)
    return info


def end_values(end: End) -> list[Value]:
    """The virtual registers a block's end reads."""
    return values_of((end.a, end.b)) if isinstance(end, Branch) else []


def successors(end: End) -> tuple[Block, ...]:
    """The blocks an end leads to."""
    if isinstance(end, Jump):
        return (end.target,)
    return (end.then, end.otherwise) if isinstance(end, Branch) else ()


def dump(function: Function) -> str:
    """The program as text, one instruction a line: for tests and for `-d`."""
    lines: list[str] = []
    for block in function.blocks:
        lines.append(f"{block}:")
        lines += [f"    {ins!r}" for ins in block.body]
        lines.append(f"    {_end(block.end)}")
    return "\n".join(lines) + "\n"


def _end(end: End) -> str:
    if isinstance(end, Jump):
        return f"goto {end.target}"
    if isinstance(end, Exit):
        return f"exit {end.value}"
    return f"if {_operand(end.a)} {end.condition} {_operand(end.b)} goto {end.then} else {end.otherwise}"


def _operand(operand: Operand) -> str:
    if isinstance(operand, int):
        return hex(operand) if abs(operand) > 0xFFFF else str(operand)
    return repr(operand)


def _info(info: object) -> str:
    return ".".join(map(str, info)) if isinstance(info, tuple) else str(info)
