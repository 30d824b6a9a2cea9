"""What instructions are spared once they stand in their order: jumps to jumps, what no way leads to, loads of
what a register holds already.

Invariants: the ways through a program, and the order in which the verifier follows them, stay as they are; a
register holds what it did wherever it is read.
"""

from collections.abc import Iterable

from kwire.bpf import insn as isa
from kwire.bpf.asm import Branch, Item, Label, MapLoad
from kwire.bpf.insn import Insn
from kwire.hints import TypeAlias

Held: TypeAlias = "tuple[str, int]"
"""What a register holds: a number, or the 8 bytes of the stack at an offset."""

WRITING = frozenset({isa.LD, isa.LDX, isa.ALU, isa.ALU64})
"""Classes of instructions that set their destination."""

STORING = frozenset({isa.ST, isa.STX})
FRAME = 10
MOVE = isa.ALU64 | 0xB0
"""A number of 32 bits, sign-extended, into a register."""
SIZES = dict(isa.SIZES.values())


def spared(items: list[Item]) -> list[Item]:
    """The items of a function without what they need not do."""
    threaded = _threaded(items)
    return _once(_reached(threaded), {item.target for item in threaded if isinstance(item, Branch)})


def _is_goto(item: Branch) -> bool:
    return item.insn.opcode == isa.JMP


def _threaded(items: list[Item]) -> list[Item]:
    """Jumps go where a jump at their target goes."""
    leads: dict[Label, Label] = {}
    waiting: list[Label] = []
    for item in items:
        if isinstance(item, Label):
            waiting.append(item)
            continue
        if isinstance(item, Branch) and _is_goto(item):
            leads.update(dict.fromkeys(waiting, item.target))
        waiting.clear()

    def end(label: Label) -> Label:
        seen = {label}
        while label in leads and leads[label] not in seen:
            label = leads[label]
            seen.add(label)
        return label

    return [
        item._replace(target=end(item.target))
        if isinstance(item, Branch) and item.field == "offset"
        else item
        for item in items
    ]


def _reached(items: list[Item]) -> list[Item]:
    """Without what stands behind a jump or an end and has no way to it, and jumps to what follows."""
    made: list[Item] = []
    while True:
        targets = {item.target for item in items if isinstance(item, Branch)}
        made, reached = [], True
        for at, item in enumerate(items):
            if isinstance(item, Label):
                reached = reached or item in targets
                made.append(item)
                continue
            if not reached:
                continue
            if isinstance(item, Branch) and _is_goto(item):
                if item.target in _labels(items, at + 1):
                    continue
                reached = False
            elif isinstance(item, Insn) and item.opcode == isa.EXIT:
                reached = False
            made.append(item)
        if len(made) == len(items):
            return made
        items = made


def _labels(items: list[Item], at: int) -> Iterable[Label]:
    """The labels that stand at a place."""
    while at < len(items):
        item = items[at]
        if not isinstance(item, Label):
            return
        yield item
        at += 1


def _once(items: list[Item], targets: set[Label]) -> list[Item]:
    """Without loads of numbers, or of slots of the stack, that a register holds already."""
    made: list[Item] = []
    held: dict[int, Held] = {}
    for item in items:
        if isinstance(item, Insn):
            found = _loaded(item)
            if found is not None:
                if held.get(item.dst) == found:
                    continue
                held[item.dst] = found
            elif _stores_what_it_loaded(item, held):
                continue
            else:
                _changes(item, held)
        elif isinstance(item, MapLoad):
            held.pop(item.dst, None)
        elif isinstance(item, Label):
            if item in targets:
                held.clear()
        elif item.insn.opcode == isa.CALL:
            held.clear()
        elif item.field == "imm":  # the address of a function
            held.pop(item.insn.dst, None)
        made.append(item)
    return made


def _stores_what_it_loaded(item: Insn, held: dict[int, Held]) -> bool:
    """Whether an instruction stores on the stack what was loaded from there."""
    return (
        item.opcode == isa.STX | isa.MEM | isa.DW
        and item.dst == FRAME
        and held.get(item.src) == ("stack", item.offset)
    )


def _loaded(item: Insn) -> "Held | None":
    """What an instruction loads, where that can be held twice."""
    if item.opcode == MOVE or (item.opcode == isa.LDDW and not item.src):
        return "number", item.imm
    if item.opcode == isa.LDX | isa.MEM | isa.DW and item.src == FRAME:
        return "stack", item.offset
    return None


def _changes(item: Insn, held: dict[int, Held]) -> None:
    """Forget what an instruction changes; note what it stores."""
    kind = item.opcode & 7
    if kind in WRITING:
        held.pop(item.dst, None)
    elif kind in STORING:
        atomic = kind == isa.STX and item.opcode & 0xE0 == isa.ATOMIC
        if atomic:  # it gives what was there to a register, or changes the stack
            if item.imm & isa.FETCH or item.dst == FRAME:
                held.clear()
        elif item.dst == FRAME:
            size = SIZES[item.opcode & 0x18]
            for register, (what, at) in list(held.items()):
                if what == "stack" and at < item.offset + size and item.offset < at + 8:
                    del held[register]
            if kind == isa.STX and size == 8 and item.src not in held:
                held[item.src] = "stack", item.offset
    else:  # a call, or the end
        held.clear()
