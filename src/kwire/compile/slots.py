"""Memory of the stack that holds the same as other memory, and so need not be there: keys of maps.

A key is built anew for each access to a map, and several accesses have the same one.

Invariant: what a helper finds in memory that it is given is what it would have found.
"""

from kwire.compile.graph import dominates
from kwire.compile.ir import At, Block, Function, Ins, Operand, Slot

KEPT = frozenset({"map_lookup_elem", "map_update_elem", "map_delete_elem", "map_lookup_percpu_elem"})
"""Helpers that read the memory they are given and keep no hold of it."""


def share_slots(function: Function) -> None:
    """Let slots that are written once, with the same value, be one, where the first is written before."""
    written: dict[Slot, tuple[Block, Ins]] = {}
    out: set[Slot] = set()
    for block in function.blocks:
        for ins in block.body:
            once = ins.op == "store" and _slot(ins.args[0]) not in written and _whole(ins)
            for number, arg in enumerate(ins.args):
                slot = _slot(arg)
                if slot is None:
                    continue
                if once and number == 0:
                    written[slot] = block, ins
                elif not (ins.op == "call" and ins.info in KEPT and slot in written):
                    out.add(slot)
    first: dict[object, list[Slot]] = {}
    same: dict[Slot, Slot] = {}
    for slot, (block, ins) in written.items():
        if slot in out or slot.pinned:
            continue
        known = first.setdefault((ins.args[1], ins.info), [])
        other = next((one for one in known if dominates(written[one][0], block)), None)
        if other is None:
            known.append(slot)
        else:
            same[slot] = other
            block.body.remove(ins)
    for block in function.blocks if same else ():
        for ins in block.body:
            ins.args = [_shared(arg, same) for arg in ins.args]


def _slot(arg: Operand) -> Slot | None:
    """The slot in which a place is."""
    return arg.base if isinstance(arg, At) and isinstance(arg.base, Slot) else None


def _whole(ins: Ins) -> bool:
    """Whether a store writes all that is read of a single word."""
    at = ins.args[0]
    return isinstance(at, At) and isinstance(at.base, Slot) and at.offset == 0 and at.base.size == 8


def _shared(arg: Operand, same: dict[Slot, Slot]) -> Operand:
    slot = _slot(arg)
    if slot is None or slot not in same:
        return arg
    assert isinstance(arg, At)
    return At(same[slot], arg.offset)
