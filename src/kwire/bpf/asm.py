"""Builders for instructions, and labels: how the compiler and hand-written programs make code.

A program is a list of items: instructions, `Label`s (they mark a place and take no room) and the unresolved
instructions that `ja`, `jmp`, `call_local`, `map_fd` … return. `assemble` gives the instructions, `link` also
the slot of every label and the map uses, `image` a whole `Image`.

    done = Label("done")
    image("count", "tracepoint", [
        map_value(R1, "hits"),
        mov64(R2, 1),
        atomic("add", "dw", R1, R2, 0),
        mov64(R0, 1),
        exit_(),
    ], maps=[MapSpec("hits", "array", 4, 8, 1)])

A second operand is a register when it is a `Reg` (R0 … R10) and a number otherwise; numbers for 32-bit
immediates may be given signed or unsigned when the operation is 32 bits wide, signed when it is 64.
"""

from collections.abc import Iterable, Sequence

from kwire.bpf import insn as isa
from kwire.bpf.image import Image, Line, MapSpec, MapUse
from kwire.bpf.insn import Insn
from kwire.errors import KwireError
from kwire.lazy import IntEnum, NamedTuple


class Reg(IntEnum):
    """A register. r0: result; r1 to r5: arguments, lost in calls; r6 to r9: kept; r10: end of the stack."""

    R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = range(11)


R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = Reg
REGS = tuple(Reg)


class Label:
    """A place in the program. Labels are the same only when they are the same object."""

    __slots__ = ("name",)

    def __init__(self, name: str = "") -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"Label({self.name!r})"


class Branch(NamedTuple):
    """An instruction whose `field` ("offset" or "imm") is to become the distance to `target`."""

    insn: Insn
    target: Label
    field: str


class MapLoad(NamedTuple):
    """An `lddw` that is to get a map's file descriptor (value_offset None) or the address of its value."""

    dst: int
    map: str
    value_offset: int | None


Item = Insn | Label | Branch | MapLoad


class Linked(NamedTuple):
    """What `link` gives: instructions, map uses, and the slot index of each label."""

    insns: list[Insn]
    uses: list[MapUse]
    labels: dict[Label, int]


class AsmError(KwireError):
    """A program that cannot be put together: an unknown name, a label missing or twice, a jump too far."""

    def __init__(self, subject: str, cause: str) -> None:
        super().__init__("assemble eBPF program", subject, cause)


def _alu(cls: int, op: str, dst: int, src: int) -> Insn:
    offset = 0
    if op in isa.ALU_OPS:
        bits = isa.ALU_OPS[op][0]
    elif op in isa.SIGNED_ALU_OPS:
        bits, offset = isa.SIGNED_ALU_OPS[op][0], 1
    else:
        raise AsmError(op, "no such arithmetic operation")
    if isinstance(src, Reg):
        return Insn(cls | bits | isa.X, dst, src, offset, 0)
    return Insn(cls | bits | isa.K, dst, 0, offset, _imm32(src, wide=cls == isa.ALU64))


def _imm32(value: int, *, wide: bool) -> int:
    """A 32-bit immediate as signed; a wide operation sign-extends it, so unsigned ones are refused there."""
    if -(1 << 31) <= value < 1 << 31:
        return value
    if not wide and 0 <= value < 1 << 32:
        return value - (1 << 32)
    raise AsmError(str(value), "the number does not fit a 32-bit immediate")


def alu64(op: str, dst: int, src: int) -> Insn:
    """`dst = dst op src` in 64 bits; op: add sub mul div or and lsh rsh mod xor mov arsh sdiv smod."""
    return _alu(isa.ALU64, op, dst, src)


def alu32(op: str, dst: int, src: int) -> Insn:
    """`dst = dst op src` in 32 bits, the upper half of dst becomes zero."""
    return _alu(isa.ALU, op, dst, src)


def mov64(dst: int, src: int) -> Insn:
    """`dst = src`, a register or a signed 32-bit number."""
    return _alu(isa.ALU64, "mov", dst, src)


def mov32(dst: int, src: int) -> Insn:
    """`dst = src` in 32 bits, the upper half of dst becomes zero."""
    return _alu(isa.ALU, "mov", dst, src)


def mov64_imm(dst: int, imm: int) -> Insn:
    """`dst = imm`, sign-extended from 32 bits."""
    return Insn(isa.ALU64 | 0xB0 | isa.K, dst, 0, 0, _imm32(imm, wide=True))


def mov64_reg(dst: int, src: int) -> Insn:
    """`dst = src`."""
    return Insn(isa.ALU64 | 0xB0 | isa.X, dst, src)


def constant(dst: int, value: int) -> Insn:
    """`dst = value` for any 64-bit number (signed or unsigned), by the shortest instruction."""
    value &= (1 << 64) - 1
    if value < 1 << 31 or value >= (1 << 64) - (1 << 31):
        return mov64_imm(dst, value if value < 1 << 31 else value - (1 << 64))
    if value < 1 << 32:
        return mov32(dst, value)
    return lddw(dst, value)


def movsx(dst: int, src: int, bits: int, width: int = 64) -> Insn:
    """`dst = src` sign-extended from 8, 16 or 32 bits to `width` (ISA v4)."""
    return Insn((isa.ALU64 if width == 64 else isa.ALU) | 0xB0 | isa.X, dst, src, bits)


def neg64(dst: int) -> Insn:
    """`dst = -dst`."""
    return Insn(isa.ALU64 | isa.NEG, dst)


def neg32(dst: int) -> Insn:
    """`dst = -dst` in 32 bits."""
    return Insn(isa.ALU | isa.NEG, dst)


def swap(kind: str, dst: int, bits: int) -> Insn:
    """Byte order: kind "le" or "be" (host to that order, zero-extends from `bits`) or "bswap" (ISA v4)."""
    opcode = {"le": isa.ALU | isa.K, "be": isa.ALU | isa.X, "bswap": isa.ALU64 | isa.K}[kind] | isa.END
    return Insn(opcode, dst, 0, 0, bits)


def lddw(dst: int, imm64: int, src: int = 0) -> Insn:
    """`dst = imm64`; with src one of isa.PSEUDO_…, what the number names."""
    return Insn(isa.LDDW, dst, src, 0, imm64 & (1 << 64) - 1)


def map_fd(dst: int, name: str) -> MapLoad:
    """`dst = ` the map, as helpers want it."""
    return MapLoad(dst, name, None)


def map_value(dst: int, name: str, offset: int = 0) -> MapLoad:
    """`dst = ` the address of byte `offset` in the value of a one-entry array map, without a lookup."""
    return MapLoad(dst, name, offset)


def func(dst: int, target: Label) -> Branch:
    """`dst = ` the address of a subprogram, for bpf_loop and other callbacks."""
    return Branch(Insn(isa.LDDW, dst, isa.PSEUDO_FUNC), target, "imm")


def ldx(size: str, dst: int, src: int, offset: int) -> Insn:
    """`dst = *(size *)(src + offset)`, zero-extended; size: "b", "h", "w" or "dw"."""
    return Insn(isa.LDX | isa.MEM | isa.SIZES[size][0], dst, src, offset)


def ldsx(size: str, dst: int, src: int, offset: int) -> Insn:
    """`dst = *(size *)(src + offset)`, sign-extended (ISA v4); size: "b", "h" or "w"."""
    return Insn(isa.LDX | isa.MEMSX | isa.SIZES[size][0], dst, src, offset)


def stx(size: str, dst: int, src: int, offset: int) -> Insn:
    """`*(size *)(dst + offset) = src`."""
    return Insn(isa.STX | isa.MEM | isa.SIZES[size][0], dst, src, offset)


def st(size: str, dst: int, imm: int, offset: int) -> Insn:
    """`*(size *)(dst + offset) = imm`, sign-extended where the size is "dw"."""
    return Insn(isa.ST | isa.MEM | isa.SIZES[size][0], dst, 0, offset, _imm32(imm, wide=size == "dw"))


def atomic(op: str, size: str, dst: int, src: int, offset: int, fetch: bool = False) -> Insn:
    """`*(size *)(dst + offset) op= src`, whole; op: add or and xor xchg cmpxchg; size: "w" or "dw".

    With `fetch` the old value comes back in src (always so for xchg; in r0 for cmpxchg, which compares with
    r0).
    """
    if op in isa.ATOMIC_OPS:
        imm = isa.ATOMIC_OPS[op][0] | (isa.FETCH if fetch else 0)
    else:
        imm = {"xchg": isa.XCHG, "cmpxchg": isa.CMPXCHG}[op]
    return Insn(isa.STX | isa.ATOMIC | isa.SIZES[size][0], dst, src, offset, imm)


def load_acquire(size: str, dst: int, src: int, offset: int) -> Insn:
    """`dst = *(size *)(src + offset)`, ordered before everything after it (kernel 6.15)."""
    return Insn(isa.STX | isa.ATOMIC | isa.SIZES[size][0], dst, src, offset, isa.LOAD_ACQUIRE)


def store_release(size: str, dst: int, src: int, offset: int) -> Insn:
    """`*(size *)(dst + offset) = src`, ordered after everything before it (kernel 6.15)."""
    return Insn(isa.STX | isa.ATOMIC | isa.SIZES[size][0], dst, src, offset, isa.STORE_RELEASE)


def call(helper: int) -> Insn:
    """Call a helper by its number (see `kwire.bpf.helpers`)."""
    return Insn(isa.CALL, 0, isa.CALL_HELPER, 0, helper)


def call_local(target: Label) -> Branch:
    """Call a subprogram of this program."""
    return Branch(Insn(isa.CALL, 0, isa.CALL_LOCAL), target, "imm")


def jmp(op: str, dst: int, src: int, target: Label) -> Branch:
    """`if dst op src goto target`; op: eq ne gt ge lt le sgt sge slt sle set (bits in common)."""
    return _jump(isa.JMP, op, dst, src, target)


def jmp32(op: str, dst: int, src: int, target: Label) -> Branch:
    """`if` on the lower 32 bits of both (ISA v3)."""
    return _jump(isa.JMP32, op, dst, src, target)


def _jump(cls: int, op: str, dst: int, src: int, target: Label) -> Branch:
    if op not in isa.JMP_OPS:
        raise AsmError(op, "no such comparison")
    bits = isa.JMP_OPS[op][0]
    if isinstance(src, Reg):
        return Branch(Insn(cls | bits | isa.X, dst, src), target, "offset")
    imm = _imm32(src, wide=cls == isa.JMP)
    return Branch(Insn(cls | bits | isa.K, dst, 0, 0, imm), target, "offset")


def ja(target: Label) -> Branch:
    """`goto target`."""
    return Branch(Insn(isa.JMP), target, "offset")


def gotol(target: Label) -> Branch:
    """`goto target`, however far (ISA v4)."""
    return Branch(Insn(isa.JMP32), target, "imm")


def exit_() -> Insn:
    """Return r0."""
    return Insn(isa.EXIT)


def link(items: Iterable[Item]) -> Linked:
    """Resolves labels; a map's `lddw` keeps number 0 (the value offset in its upper half), see `MapUse`.

    Raises `AsmError` for a label that is missing or placed twice and for a jump that does not fit 16 bits.
    """
    items = list(items)
    labels: dict[Label, int] = {}
    pc = 0
    for item in items:
        if isinstance(item, Label):
            if item in labels:
                raise AsmError(item.name, "the label is placed twice")
            labels[item] = pc
        elif isinstance(item, MapLoad):
            pc += 2
        else:
            insn = item.insn if isinstance(item, Branch) else item
            pc += 2 if insn.opcode == isa.LDDW else 1
    insns: list[Insn] = []
    uses: list[MapUse] = []
    pc = 0
    for item in items:
        if isinstance(item, Label):
            continue
        if isinstance(item, Branch):
            insn = _resolve(item, labels, pc)
        elif isinstance(item, MapLoad):
            uses.append(MapUse(pc, item.map, item.value_offset))
            if item.value_offset is None:
                insn = Insn(isa.LDDW, item.dst, isa.PSEUDO_MAP_FD)
            else:
                insn = Insn(isa.LDDW, item.dst, isa.PSEUDO_MAP_VALUE, 0, item.value_offset << 32)
        else:
            insn = item
        insns.append(insn)
        pc += 2 if insn.opcode == isa.LDDW else 1
    return Linked(insns, uses, labels)


REACH = 10_000
"""Slots that a jump is trusted with. Its 16 bits hold three times as much, but the kernel makes some
instructions longer when it loads a program, and jumps over them with that.
"""


def bridged(items: Iterable[Item], reach: int = REACH) -> list[Item]:
    """The same program with no jump longer than some `reach` slots: longer ones go in several leaps, by way
    of jumps that stand between the other instructions.
    """
    items = list(items)
    at = 0
    places: list[int] = []
    labels: dict[Label, int] = {}
    for item in items:
        places.append(at)
        if isinstance(item, Label):
            labels[item] = at
        else:
            at += _slots(item)
    if at <= reach:
        return items
    sites = _sites(items, places, reach)
    bridges: list[dict[Label, Label]] = [{} for _ in sites]
    for index, item in enumerate(items):
        if not isinstance(item, Branch) or item.field != "offset" or item.target not in labels:
            continue
        here, goal = places[index], labels[item.target]
        first: Label | None = None
        while abs(goal - here) > reach:
            leap = _leap(sites, here, goal, reach)
            if leap is None:
                break  # the jump will be refused
            bridge = bridges[leap].setdefault(item.target, Label(f"bridge to {item.target.name}"))
            first, here = first or bridge, sites[leap].slot
        if first is not None:
            items[index] = item._replace(target=first)
    made: list[Item] = []
    begun = 0
    for site, own in zip(sites, bridges, strict=True):
        made += items[begun : site.item]
        begun = site.item
        over = Label("over")
        made += [ja(over)] if own and not site.ended else []
        for target, bridge in own.items():
            further = _leap(sites, site.slot, labels[target], reach)
            near = abs(labels[target] - site.slot) <= reach or further is None
            made += [bridge, ja(target if near or further is None else bridges[further][target])]
        made.append(over)
    return made + items[begun:]


class _Site(NamedTuple):
    """Where bridges may stand: before an item, at a slot; `ended`: nothing goes on there by itself."""

    item: int
    slot: int
    ended: bool


def _sites(items: list[Item], places: list[int], reach: int) -> list[_Site]:
    """The best place for bridges in each stretch of a program."""
    sites: list[_Site] = []
    for index in range(1, len(items)):
        last = sites[-1].slot if sites else 0
        if places[index] - last < reach // 4:
            continue
        before = items[index - 1]
        insn = before.insn if isinstance(before, Branch) else before
        ended = isinstance(insn, Insn) and insn.opcode in (isa.JMP, isa.EXIT)
        if ended or places[index] - last > reach // 2:
            sites.append(_Site(index, places[index], ended))
    return sites


def _leap(sites: list[_Site], here: int, goal: int, reach: int) -> int | None:
    """The number of the site that is furthest on the way, within reach."""
    if goal > here:
        ahead = [number for number, site in enumerate(sites) if 0 < site.slot - here <= reach]
        return ahead[-1] if ahead else None
    ahead = [number for number, site in enumerate(sites) if 0 < here - site.slot <= reach]
    return ahead[0] if ahead else None


def _slots(item: Item) -> int:
    if isinstance(item, MapLoad):
        return 2
    insn = item.insn if isinstance(item, Branch) else item
    assert isinstance(insn, Insn)
    return insn.slots


def _resolve(branch: Branch, labels: dict[Label, int], pc: int) -> Insn:
    insn, target, field = branch
    if target not in labels:
        raise AsmError(target.name, "the label is used but not placed")
    distance = labels[target] - pc - 1
    if field == "imm":
        return insn._replace(imm=distance & 0xFFFFFFFF if insn.opcode == isa.LDDW else distance)
    if not -0x8000 <= distance <= 0x7FFF:
        raise AsmError(target.name, f"the jump over {distance} instructions does not fit 16 bits")
    return insn._replace(offset=distance)


def assemble(items: Iterable[Item]) -> list[Insn]:
    """The instructions with every label resolved (see `link`)."""
    return link(items).insns


def image(
    name: str, kind: str, items: Iterable[Item], maps: Sequence[MapSpec] = (), lines: Sequence[Line] = ()
) -> Image:
    """A hand-written program as an `Image`. Raises `AsmError` when it uses a map that is not in `maps`."""
    linked = link(items)
    known = {spec.name for spec in maps}
    for use in linked.uses:
        if use.map not in known:
            raise AsmError(name, f"the map {use.map!r} is used but not declared")
    return Image(name, kind, isa.encode(linked.insns), tuple(maps), tuple(linked.uses), tuple(lines))
