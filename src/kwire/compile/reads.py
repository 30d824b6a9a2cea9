"""Reads through addresses → calls of the read helpers, neighbouring reads of one structure joined into one
call.

A call costs about 25 ns, and 5 ns more for 128 bytes than for 8; a load from the stack costs nothing. So
reads of the same base are joined when all their bytes lie in one `WINDOW`, the first of them comes before
the others on every path, and so all bytes between the outermost ones belong to the same structure. Blocks
of bytes go straight to the record when nothing else is read nearby.

The law: what was read is found on the stack at an address with the same remainder modulo 8 as its offset,
so words that are aligned in the structure are aligned on the stack. A failed read leaves zeros (the helpers
see to that) and is noted by `fault`.
"""

from kwire.compile.expressions import pieces
from kwire.compile.graph import dominates
from kwire.compile.ir import At, Block, Function, Ins, Operand, Slot, Value, hop_info
from kwire.lang.tree import Span

WINDOW = 128
"""The most bytes one joined read spans. A program that runs short of stack is compiled with less."""

WORDS_MOST = 4
"""Blocks of more (aligned) words are not worth copying from a window."""

OPEN_MOST = 4
"""How many windows of one base are tried for a read, the newest first."""


class Window:
    """One helper call: the bytes from `low` to `high` after a base."""

    __slots__ = ("block", "high", "low", "members", "slot")

    def __init__(self, block: Block, low: int, high: int) -> None:
        self.block = block  # where the first read is
        self.low = low
        self.high = high
        self.members = 0
        self.slot: Slot | None = None  # None while the bytes go straight to where they are wanted


def join_reads(function: Function, faults: Slot, most: int = WINDOW) -> None:
    """Replace every `hop` and `block`; no window is larger than `most` bytes."""
    windows: dict[tuple[Operand, str], list[Window]] = {}
    chosen: dict[Ins, Window] = {}
    for block in function.blocks:
        for ins in block.body:
            if ins.op in ("hop", "block"):
                _choose(ins, block, windows, chosen, most)
    if chosen:
        _Rewriter(function, faults, chosen).run()


def _choose(
    ins: Ins,
    block: Block,
    windows: dict[tuple[Operand, str], list[Window]],
    chosen: dict[Ins, Window],
    most: int,
) -> None:
    space, offset, size = hop_info(ins)
    base = ins.args[-1]
    known = windows.setdefault((base, space), [])
    if ins.op == "hop" or _is_short(ins):
        for window in known[: -OPEN_MOST - 1 : -1]:
            low, high = min(window.low, offset), max(window.high, offset + size)
            if high - low <= most and dominates(window.block, block):
                window.low, window.high = low, high
                window.members += 1
                chosen[ins] = window
                return
    window = Window(block, offset, offset + size)
    window.members = 1
    chosen[ins] = window
    if ins.op == "hop" or _is_short(ins):
        known.append(window)


def _is_short(ins: Ins) -> bool:
    """Whether a block is cheap to copy from a window."""
    _, offset, size = hop_info(ins)
    target = ins.args[0]
    return isinstance(target, At) and len(_shared_pieces(offset, target.offset, size)) <= WORDS_MOST


class _Rewriter:
    """Puts the calls and the loads in place."""

    __slots__ = ("chosen", "faults", "function", "out", "span")

    def __init__(self, function: Function, faults: Slot, chosen: dict[Ins, Window]) -> None:
        self.function = function
        self.faults = faults
        self.chosen = chosen
        self.out: list[Ins] = []
        self.span: Span

    def run(self) -> None:
        for block in self.function.blocks:
            if not any(ins.op in ("hop", "block") for ins in block.body):
                continue
            self.out = []
            for ins in block.body:
                if ins.op in ("hop", "block"):
                    self.span = ins.span
                    self._replace(ins, self.chosen[ins])
                else:
                    self.out.append(ins)
            block.body = self.out

    def _replace(self, ins: Ins, window: Window) -> None:
        space, offset, size = hop_info(ins)
        if window.slot is None:
            if ins.op == "block" and window.members == 1:
                target = ins.args[0]
                assert isinstance(target, At)
                self._call(space, target, size, ins.args[1], offset)
                return
            window.slot = self.function.slot("window", window.low % 8 + window.high - window.low)
            inside = At(window.slot, window.low % 8)
            self._call(space, inside, window.high - window.low, ins.args[-1], window.low)
        start = offset - window.low + window.low % 8
        if ins.op == "hop":
            self._add("load", ins.dst, [At(window.slot, start)], size)
            return
        target = ins.args[0]
        assert isinstance(target, At)
        for at, piece in _shared_pieces(start, target.offset, size):
            value = self.function.value(8 * piece)
            self._add("load", value, [At(window.slot, start + at)], piece)
            self._add("store", None, [At(target.base, target.offset + at), value], piece)

    def _call(self, space: str, target: At, size: int, base: Operand, offset: int) -> None:
        address = base
        if offset and isinstance(base, int):
            address = base + offset
        elif offset:
            address = self.function.value()
            self._add("add", address, [base, offset], None)
        result = self.function.value()
        self._add("call", result, [target, size, address], f"probe_read_{space}")
        self._add("fault", None, [result, At(self.faults, 0)], None)

    def _add(self, op: str, dst: Value | None, args: list[Operand], info: object) -> None:
        self.out.append(Ins(op, dst, args, info, self.span))


def _shared_pieces(source: int, target: int, size: int) -> list[tuple[int, int]]:
    """Words to copy `size` bytes by, aligned at both ends, which may be aligned differently."""
    step = 8
    while (source - target) % step:
        step //= 2
    return [
        (at - source + part, min(piece, step))
        for at, piece in pieces(source, size)
        for part in range(0, piece, min(piece, step))
    ]
