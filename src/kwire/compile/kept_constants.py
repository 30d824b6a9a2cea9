"""Constants that are wanted several times, held in registers that nothing else wants meanwhile: the addresses
of maps, of memory in them and of memory on the stack; the numbers that are added to memory.

Invariants: what a function does stays as it is; a register is taken from the instruction that sets it to the
last one that uses it, and no value lives in it there.
"""

from collections.abc import Iterable, Sequence

from kwire.compile.graph import common
from kwire.compile.ir import REACH, At, Block, Function, Ins, MapRef, Slot, Value, end_values
from kwire.hints import TypeAlias
from kwire.lazy import NamedTuple

CALLS = frozenset({"call", "invoke", "read"})
MEMORY = frozenset({"load", "store", "atomic", "fetch"})

Key: TypeAlias = "tuple[str, object, int]"
"""What a constant is: its kind, and what tells it from others of that kind."""

Life: TypeAlias = "tuple[int, int, int]"
"""A register, and the positions from where to where it is taken."""

COSTS = {"map": (2, 1), "place": (2, 1), "number": (1, 0), "value": (2, 0)}
"""By kind: instructions to make the constant, and to use it once it is in a register."""


class Use(NamedTuple):
    """Where a constant is wanted. `number`: which argument of the instruction it is (-1: all of it)."""

    position: int
    block: Block
    ins: Ins
    number: int


def keep_constants(function: Function, registers: Sequence[int], lives: list[Life]) -> None:
    """Hold in these registers, in which values live so, what saves instructions there."""
    finder = _Finder(function)
    saved = {key: _saved(key, len(uses)) for key, uses in finder.uses.items()}
    for key in sorted((key for key in saved if saved[key] > 0), key=lambda key: -saved[key]):
        _keep(function, finder, key, registers, lives)


def _saved(key: Key, uses: int) -> int:
    """How many instructions are spared."""
    made, used = COSTS[key[0]]
    return uses * (made - used) - made


class _Finder:
    """Walks a function once: where which constants are wanted.

    `users`: where an address in the value of a map is used; of those only that are used for nothing else but
    loads and stores there.
    """

    __slots__ = ("ends", "users", "uses")

    def __init__(self, function: Function) -> None:
        self.uses: dict[Key, list[Use]] = {}
        self.ends: dict[Block, int] = {}
        self.users: dict[Value, list[Use]] = {}
        others: set[Value] = set()
        made: dict[Value, Use] = {}
        position = 0
        for block in function.blocks:
            position += 1
            for ins in block.body:
                position += 1
                if ins.op == "mapval" and ins.dst is not None:
                    made[ins.dst] = Use(position, block, ins, -1)
                    self.users[ins.dst] = []
                for number in range(len(ins.args)):
                    self._argument(Use(position, block, ins, number), others)
                if ins.op == "read" and ins.info.parts:  # type: ignore[attr-defined]  # of a read its `Read`
                    position += 1
            position += 1
            self.ends[block] = position
            others.update(end_values(block.end))
        for value, use in made.items():
            if value not in others:
                map = use.ins.info[0]  # type: ignore[index]  # of an address the map and the offset
                self._add(("value", map, 0), use)

    def _argument(self, use: Use, others: set[Value]) -> None:
        op, arg = use.ins.op, use.ins.args[use.number]
        if isinstance(arg, MapRef):
            self._add(("map", arg.map, 0), use)
        elif isinstance(arg, Value):
            others.add(arg)
        elif isinstance(arg, int):
            if op == "atomic" and use.number == 1 and -(1 << 31) <= arg < 1 << 31:
                self._add(("number", arg, 0), use)
        elif isinstance(arg, At) and isinstance(arg.base, Slot):
            if op in CALLS and arg.base.reg < 0 and not (op == "read" and use.number):
                self._add(("place", arg.base, arg.offset), use)
        elif isinstance(arg, At) and isinstance(arg.base, Value):
            if op in MEMORY and arg.base in self.users:
                self.users[arg.base].append(use)
            else:
                others.add(arg.base)

    def _add(self, key: Key, use: Use) -> None:
        self.uses.setdefault(key, []).append(use)


def _keep(function: Function, finder: _Finder, key: Key, registers: Sequence[int], lives: list[Life]) -> None:
    """Hold one constant, where a register is free."""
    uses = finder.uses[key]
    if key[0] == "value" and not all(_in_reach(finder, uses[0], use) for use in uses):
        return
    start = uses[0].block
    for use in uses:
        start = common(start, use.block)  # type: ignore[assignment]  # what is above blocks are blocks
    if any(use.block.loop is not start.loop for use in uses):
        return
    inside = start is uses[0].block
    first = uses[0].position if inside else finder.ends[start]
    last = max(use.position for one in uses for use in (one, *_users(finder, one)))
    free = (
        register
        for register in registers
        if all(taken != register or end < first or last < begin for taken, begin, end in lives)
    )
    register = next(free, -1)
    if register < 0:
        return
    lives.append((register, first, last))
    made, value = uses[0].ins, function.value()
    value.reg = register
    if key[0] == "value":
        holds = Ins("mapval", value, [], made.info, made.span)
    else:
        holds = Ins("keep", value, [made.args[uses[0].number]], None, made.span)
    start.body.insert(start.body.index(made) if inside else len(start.body), holds)
    for use in uses:
        if key[0] != "value":
            use.ins.args[use.number] = At(value, 0) if key[0] == "place" else value
            continue
        distance = use.ins.info[1] - holds.info[1]  # type: ignore[index]  # of an address the map and the offset
        for user in _users(finder, use):
            at = user.ins.args[user.number]
            assert isinstance(at, At)
            user.ins.args[user.number] = At(value, at.offset + distance)
        use.block.body.remove(use.ins)


def _in_reach(finder: _Finder, kept: Use, use: Use) -> bool:
    """Whether instructions reach what is used at an address from the one that is kept."""
    distance = use.ins.info[1] - kept.ins.info[1]  # type: ignore[index]  # of an address the map and the offset
    places = (user.ins.args[user.number] for user in _users(finder, use))
    return all(-REACH <= at.offset + distance < REACH for at in places if isinstance(at, At))


def _users(finder: _Finder, use: Use) -> Iterable[Use]:
    """Where an address is used that an instruction makes."""
    return finder.users.get(use.ins.dst, ()) if use.ins.dst is not None else ()
