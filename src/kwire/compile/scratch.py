"""Memory beyond the stack: what programs keep for a moment in a map.

Each CPU has a stretch of an array map; a program is not interrupted by itself on its CPU, so the stretch is
its own while it runs. (One that may be preempted claims it first, `emission.claim`.) Where 512 bytes of stack
do not do, what is not a single word moves there; values that are spilled and what notes failed reads stay on
the stack.
"""

from collections.abc import Sequence

from kwire.compile.builder import Builder
from kwire.compile.emission import of_cpu
from kwire.compile.expressions import Options
from kwire.compile.ir import At, Block, Function, Ins, Operand, Slot, Value

ROOM = "room"
"""The map."""

WORD = 8


class Stretch:
    """A map in which each CPU has a stretch, whose length is known when the whole program is in IR.

    `taken`: bytes at its beginning that are in use at the place that is just made, and stay as they are.
    """

    __slots__ = ("_products", "map", "size", "taken")

    def __init__(self, map: str) -> None:
        self.map = map
        self.size = 0
        self.taken = 0
        self._products: list[Ins] = []

    @property
    def stride(self) -> int:
        """Bytes for each CPU; 0 where none are needed."""
        return (self.size + 63) & ~63

    def here(self, b: Builder, cpu: Operand) -> Value:
        """The address of what is free of this CPU's stretch."""
        first = b.emit("mapval", [], (self.map, self.taken))
        if cpu == 0:
            return first
        own = b.emit("mul", [cpu, 0])
        if b.block is not None:
            self._products.append(b.block.body[-1])
        return b.emit("add", [first, own])

    def room(self, size: int) -> None:
        """See to it that so many bytes are free."""
        self.size = max(self.size, self.taken + size)

    def settle(self) -> None:
        """Tell the instructions how long a stretch is."""
        for product in self._products:
            product.args[1] = self.stride


def move_out(functions: Sequence[Function], options: Options) -> int:
    """Move all but single words from the stack to the map; the bytes of each CPU's stretch."""
    places: dict[Slot, int] = {}
    size = 0
    for function in functions:
        for slot in function.slots:
            if slot.size > WORD and not slot.pinned:
                places[slot] = size
                size += slot.size
    stride = (size + 63) & ~63
    for function in functions:
        if not any(slot in places for slot in function.slots):
            continue
        room = _room(function, options, stride)
        for block in function.blocks:
            for ins in block.body:
                ins.args = [_moved(arg, places, room) for arg in ins.args]
    return stride


def _moved(arg: Operand, places: dict[Slot, int], room: Value) -> Operand:
    if isinstance(arg, At) and isinstance(arg.base, Slot) and arg.base in places:
        return At(room, places[arg.base] + arg.offset)
    return arg


def _room(function: Function, options: Options, stride: int) -> Value:
    """The address of this CPU's stretch, known from the first instruction on."""
    b = Builder(0, function)
    b.block = Block("room")
    room = of_cpu(b, options, ROOM, stride)
    function.entry.body[:0] = b.block.body
    return room
