"""The intermediate representation: functions of basic blocks, in static single assignment.

Invariants (`verify` checks them):

- A `Value` is a 64-bit virtual register with one definition: an instruction, or a parameter of a block or of
  the function. What differs by the way a block is reached is a parameter of the block; the `Jump`s to it
  give the arguments. Only jumps give arguments: the targets of a `Branch` have no parameters.
- The first block is the entry. Blocks stand in an order in which jumps lead forward, but for those that close
  a loop: these lead back to the loop's head, which dominates them, and all blocks between belong to the loop.
- A place in memory is `At(base, offset)`: a `Slot` of the stack frame, or a `Value` that holds a pointer the
  verifier knows (context, map value, task). Any other address is a number and can only be read by `hop` and
  `block`, which the reader pass (`reads`) turns into helper calls.
- `OPS` and `CALLS` say of each operation what its effect is, and so what may be done with it: see `Effect`.
"""

from kwire.hints import Final, TypeAlias
from kwire.lang.checked import Piece
from kwire.lang.tree import NOWHERE, Span
from kwire.lazy import NamedTuple


class Effect:
    """What an operation does besides giving a value, and what that allows."""

    PURE: Final = 0
    """Nothing: it may be shared with an equal one that dominates it, and left out."""
    READS: Final = 1
    """It reads memory that others change: it may be left out, and shared within one loop or outside of all,
    as one moment is as good as another, but never moved before the condition that guards it."""
    LOADS: Final = 2
    """It reads memory that this program writes: it may be left out."""
    CLOCK: Final = 3
    """It reads the clock: it may be left out; two readings are two."""
    WRITES: Final = 4
    """It changes something: it stays, and in its order."""


class Value:
    """A virtual register. `bits`: only the low so many bits can be set (64: nothing is known). `reg` and
    `slot` are where the allocator puts it.
    """

    __slots__ = ("bits", "id", "reg", "slot")

    def __init__(self, number: int, bits: int = 64) -> None:
        self.id = number
        self.bits = bits
        self.reg = -1
        self.slot: Slot | None = None

    def __repr__(self) -> str:
        return f"%{self.id}"


class Slot:
    """Bytes in the stack frame, aligned to 8. `offset` from r10 is given by the allocator."""

    __slots__ = ("name", "offset", "pinned", "reg", "size")

    def __init__(self, name: str, size: int, pinned: bool = False) -> None:
        self.reg = -1  # the register that is there instead (`allocate.note_in_register`)
        self.name = name
        self.size = (size + 7) & ~7
        self.pinned = pinned  # lives during the whole program, even where nothing mentions it
        self.offset = 0

    def __repr__(self) -> str:
        return self.name


REACH = 1 << 15
"""How far from a register an instruction finds memory."""


class At:
    """The memory at `base + offset`; as an argument of a call, that address."""

    __slots__ = ("base", "offset")

    def __init__(self, base: Value | Slot, offset: int) -> None:
        self.base = base
        self.offset = offset

    def __eq__(self, other: object) -> bool:
        return other.__class__ is At and self.base is other.base and self.offset == other.offset

    def __hash__(self) -> int:
        return hash((self.base, self.offset))

    def __repr__(self) -> str:
        return f"[{self.base!r}{self.offset:+d}]"


class MapRef:
    """The map of this name, as helpers want it."""

    __slots__ = ("map",)

    def __init__(self, name: str) -> None:
        self.map = name

    def __eq__(self, other: object) -> bool:
        return other.__class__ is MapRef and self.map == other.map

    def __hash__(self) -> int:
        return hash(self.map)

    def __repr__(self) -> str:
        return f"map:{self.map}"


class FunctionRef:
    """The address of a function of this program, for a helper that calls it."""

    __slots__ = ("function",)

    def __init__(self, function: "Function") -> None:
        self.function = function

    def __eq__(self, other: object) -> bool:
        return other.__class__ is FunctionRef and self.function is other.function

    def __hash__(self) -> int:
        return hash(self.function)

    def __repr__(self) -> str:
        return self.function.name


Operand: TypeAlias = Value | int | At | MapRef | FunctionRef


class Find:
    """A search, as a call: (base, first, last) → the first place at which a piece of text stands, or -1.

    `most`: no place is beyond it, which keeps the reading in bounds; `once`: `first` and `last` are the same.
    """

    __slots__ = ("most", "once", "piece")

    def __init__(self, piece: Piece, most: int, once: bool) -> None:
        self.piece = piece
        self.most = most
        self.once = once

    def __repr__(self) -> str:
        return f"find({self.piece}, {self.most})"


class Op(NamedTuple):
    """What an operation is: its `Effect`, how many arguments it has, and what `Ins.info` holds."""

    effect: int
    args: int
    info: str = ""


OPS: Final[dict[str, Op]] = {
    # dst = a op b, 64 bits, wrapping; div and mod unsigned
    **{
        name: Op(Effect.PURE, 2)
        for name in ("add", "sub", "mul", "div", "mod", "and", "or", "xor", "lsh", "rsh", "arsh")
    },
    "within": Op(Effect.PURE, 3),  # a, or 0 when the index b is not below c
    "umin": Op(Effect.PURE, 2),  # the smaller unsigned number; the verifier sees the bound of a constant b
    "neg": Op(Effect.PURE, 1),
    "zext": Op(Effect.PURE, 1, "bits"),
    "sext": Op(Effect.PURE, 1, "bits"),
    "be": Op(Effect.PURE, 1, "bits"),  # big-endian to host order, zero-extended
    "cmp": Op(Effect.PURE, 2, "condition"),  # 1 or 0
    "mapval": Op(Effect.PURE, 0, "(map, offset): address of a byte of a one-entry array map's value"),
    "keep": Op(Effect.PURE, 1),  # a constant, in a register (`kept_constants`)
    "peek": Op(Effect.PURE, 1, "size: a read of At that never changes (context, task)"),
    "hop": Op(Effect.READS, 1, "(space, offset, size, epoch): an integer at args[0] + offset, zero-extended"),
    "load": Op(Effect.LOADS, 1, "size"),
    "store": Op(Effect.WRITES, 2, "size"),  # args: At, value
    "atomic": Op(Effect.WRITES, 2),  # add a value to the 8 bytes at At, whole
    "fetch": Op(Effect.WRITES, 2),  # the same, and give what was there before
    "block": Op(Effect.WRITES, 2, "(space, offset, size, epoch): copy bytes at args[1] + offset to args[0]"),
    "read": Op(Effect.WRITES, -1, "`Read`: from args[1] to args[0]; failures are noted at the others"),
    "fault": Op(Effect.WRITES, 2, "make the slot args[1] negative when args[0], a helper's result, is so"),
    # the length of a text of which a helper, asked for two bytes more, says args[0]; stored at args[1] too
    "told": Op(Effect.WRITES, 2, "(most of it, what is stored where nothing could be read)"),
    "call": Op(Effect.WRITES, -1, "name of the helper, or what to find; its effect is in CALLS"),
    "invoke": Op(Effect.WRITES, -1, "the function called"),
}

CALLS: Final[dict[str, int]] = {
    **dict.fromkeys(
        (
            "get_current_pid_tgid",
            "get_current_uid_gid",
            "get_current_task",
            "get_current_task_btf",
            "task_pt_regs",
            "get_current_cgroup_id",
            "get_numa_node_id",
            "get_func_ip",
            "get_attach_cookie",
        ),
        Effect.PURE,
    ),
    **dict.fromkeys(("ktime_get_ns", "ktime_get_tai_ns", "jiffies64"), Effect.CLOCK),
    "get_smp_processor_id": Effect.CLOCK,  # to ask again costs less than to keep the answer
}
"""The effect of helpers; of all others: `WRITES`."""

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

    @property
    def effect(self) -> int:
        """What it does besides giving a value."""
        if self.op == "call":
            return CALLS.get(self.info, Effect.WRITES)  # type: ignore[call-overload,no-any-return]  # of a call the name of its helper
        return OPS[self.op].effect

    def uses(self) -> list[Value]:
        """The virtual registers it reads."""
        return values_of(self.args)

    def __repr__(self) -> str:
        text = " ".join(
            [self.op, *([_info(self.info)] if self.info is not None else []), *map(_operand, self.args)]
        )
        return f"{self.dst!r} = {text}" if self.dst else text


class Jump:
    """Go to a block, with an argument for each of its parameters."""

    __slots__ = ("args", "target")

    def __init__(self, target: "Block", args: "list[Operand] | tuple[Operand, ...]" = ()) -> None:
        self.target = target
        self.args = args

    def __repr__(self) -> str:
        given = f" ({', '.join(map(_operand, self.args))})" if self.args else ""
        return f"goto {self.target}{given}"


class Branch:
    """Go to `then` when `a condition b`, otherwise to `otherwise`.

    `rare`: one of the two that the program only takes when something is wrong with its surroundings: the
    condition guards nothing that somebody wrote.
    """

    __slots__ = ("a", "b", "condition", "otherwise", "rare", "then")

    def __init__(
        self,
        condition: str,
        a: Operand,
        b: Operand,
        then: "Block",
        otherwise: "Block",
        rare: "Block | None" = None,
    ) -> None:
        self.condition = condition
        self.a = a
        self.b = b
        self.then = then
        self.otherwise = otherwise
        self.rare = rare

    def __repr__(self) -> str:
        test = f"{_operand(self.a)} {self.condition} {_operand(self.b)}"
        return f"if {test} goto {self.then} else {self.otherwise}"


class Exit:
    """Return from the function with this value; None: nobody asks for it."""

    __slots__ = ("value",)

    def __init__(self, value: Operand | None) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "exit" if self.value is None else f"exit {_operand(self.value)}"


End: TypeAlias = Jump | Branch | Exit


class Ranked:
    """A place in a tree. `parent`: the one above (None for the root); `depth`: how many are above; `skip`:
    one further up, chosen so that any of those above is a logarithmic number of steps away.
    """

    __slots__ = ("depth", "parent", "skip")

    def __init__(self) -> None:
        self.below(None)

    def below(self, parent: "Ranked | None") -> None:
        """Hang it into the tree."""
        self.parent = parent
        self.depth = 0
        self.skip: Ranked = self
        if parent is not None:
            self.depth = parent.depth + 1
            far = parent.skip
            even = parent.depth - far.depth == far.depth - far.skip.depth
            self.skip = far.skip if even else parent


class Block(Ranked):
    """Instructions that run one after another, and how they end.

    In the tree of blocks the one above is the one that dominates this one directly. `loop`: the head of the
    innermost loop that the block is in; `loops`: how many it is in (`graph.find_loops`); `seldom`: it stands
    behind the others in the program, out of their way.
    """

    __slots__ = ("body", "end", "loop", "loops", "name", "params", "seldom", "span")

    def __init__(self, name: str) -> None:
        self.name = name
        self.params: list[Value] = []
        self.body: list[Ins] = []
        self.end: End = Exit(0)
        self.span: Span = NOWHERE  # of the end
        self.loop: Block | None = None
        self.loops = 0
        self.seldom = False
        super().__init__()

    def __repr__(self) -> str:
        return self.name


class Function:
    """A function: its parameters, its blocks, the stack slots it names.

    `context`: the address of the program's context: of the program itself its first parameter; `whole`: the
    verifier looks at it once, by itself, with any numbers for its parameters, and knows nothing of its result
    where it is called.
    """

    __slots__ = ("_values", "blocks", "context", "entry", "name", "params", "slots", "whole")

    def __init__(self, name: str = "program", params: int = 1, whole: bool = False) -> None:
        self.name = name
        self.whole = whole
        self._values = 0
        self.params = [self.value() for _ in range(params)]
        self.context = self.params[0]
        self.entry = Block("entry")
        self.blocks = [self.entry]
        self.slots: list[Slot] = []

    def callees(self) -> "list[Function]":
        """The functions that it calls, or has called."""
        found: dict[Function, None] = {}
        for block in self.blocks:
            for ins in block.body:
                if isinstance(ins.info, Function):
                    found[ins.info] = None
                found.update((arg.function, None) for arg in ins.args if isinstance(arg, FunctionRef))
        return list(found)

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


class Module(NamedTuple):
    """The functions of one program; the first is where the kernel begins."""

    functions: list[Function]


def values_of(args: "list[Operand] | tuple[Operand, ...]") -> list[Value]:
    """The virtual registers among operands, those inside places included."""
    found: list[Value] = []
    for arg in args:
        if arg.__class__ is Value:
            found.append(arg)
        elif arg.__class__ is At and arg.base.__class__ is Value:
            found.append(arg.base)
    return found


AGES: Final = 1 << 20
"""Of epochs so many follow each other until the program changes memory that it may read by address: then the
next age begins, and no read of another one is the same.
"""


def hop_info(ins: Ins) -> tuple[str, int, int, int]:
    """Space, offset, size and epoch of a `hop` or `block`: reads of one epoch have no event between them."""
    info = ins.info
    assert isinstance(info, tuple)
    return info


def end_operands(end: End) -> "list[Operand] | tuple[Operand, ...]":
    """What a block's end reads."""
    if isinstance(end, Branch):
        return (end.a, end.b)
    if isinstance(end, Jump):
        return end.args
    return () if end.value is None else (end.value,)


def end_values(end: End) -> list[Value]:
    """The virtual registers a block's end reads."""
    return values_of(end_operands(end))


def successors(end: End) -> tuple[Block, ...]:
    """The blocks an end leads to."""
    if isinstance(end, Jump):
        return (end.target,)
    return (end.then, end.otherwise) if isinstance(end, Branch) else ()


def dump(function: Function) -> str:
    """The function as text, one instruction a line: for tests and for `-d`."""
    lines: list[str] = []
    for block in function.blocks:
        params = f" ({', '.join(map(repr, block.params))})" if block.params else ""
        lines.append(f"{block}{params}:")
        lines += [f"    {ins!r}" for ins in block.body]
        lines.append(f"    {block.end!r}")
    return "\n".join(lines) + "\n"


def _operand(operand: Operand) -> str:
    if isinstance(operand, int):
        return hex(operand) if abs(operand) > 0xFFFF else str(operand)
    return repr(operand)


def _info(info: object) -> str:
    if isinstance(info, Function):
        return info.name
    return ".".join(map(str, info)) if info.__class__ is tuple else str(info)
