"""Memory beyond the stack: where 512 bytes do not do, what programs keep for a moment lies in a map.

Each CPU has a stretch of one array map; a program is not interrupted by itself on its CPU, so the stretch is
its own while it runs. Values that are spilled and what notes failed reads stay on the stack.
"""

from kwire.compile.ir import At, Function, Ins, Operand, Slot, Value
from kwire.lang.tree import NOWHERE

ROOM = "room"
"""The map."""

WORD = 8


def move_out(function: Function, cpus: int) -> int:
    """Move all but single words from the stack to the map; the bytes of each CPU's stretch."""
    places: dict[Slot, int] = {}
    size = 0
    for slot in function.slots:
        if slot.size > WORD and not slot.pinned:
            places[slot] = size
            size += slot.size
    if not places:
        return 0
    stride = (size + 63) & ~63
    room = _room(function, cpus, stride)
    for block in function.blocks:
        for ins in block.body:
            ins.args = [_moved(arg, places, room) for arg in ins.args]
    return stride


def _moved(arg: Operand, places: dict[Slot, int], room: Value) -> Operand:
    if isinstance(arg, At) and isinstance(arg.base, Slot) and arg.base in places:
        return At(room, places[arg.base] + arg.offset)
    return arg


def _room(function: Function, cpus: int, stride: int) -> Value:
    """The address of this CPU's stretch, known from the first instruction on."""
    made: list[Ins] = []

    def emit(op: str, args: list[Operand], info: object = None) -> Value:
        dst = function.value()
        made.append(Ins(op, dst, args, info, NOWHERE))
        return dst

    cpu = emit("umin", [emit("call", [], "get_smp_processor_id"), cpus - 1])
    room = emit("add", [emit("mapval", [], (ROOM, 0)), emit("mul", [cpu, stride])])
    function.entry.body[:0] = made
    return room
