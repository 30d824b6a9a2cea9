"""Reads through addresses → calls of the read helpers, neighbouring reads of one structure joined into one
call.

A call costs about 25 ns, and 5 ns more for 128 bytes than for 8; a load from the stack costs nothing. So
reads of the same base (of a known address: of its page) are joined when all their bytes lie in one `WINDOW`
and none of them is guarded by a condition that comes after another one of them. Blocks of bytes go straight
to the record when nothing else is read nearby.

Invariants: what was read is found on the stack at an address with the same remainder modulo 8 as its offset,
so words that are aligned in the structure are aligned on the stack. What lies between two members of a
window may be unreadable: when a joined read fails its members are read one by one. A member that cannot be
read is zeros (the helpers see to that), and the slot of faults says so; members do not overlap, so that these
zeros are nobody else's bytes. Where events share a read, which is one window then, its failure is noted for
each of them: a slot of its own keeps it.
"""

from kwire.compile.expressions import pieces, signed64
from kwire.compile.graph import dominates, regions
from kwire.compile.ir import AGES, At, Block, Function, Ins, Operand, Slot, Value, hop_info, successors
from kwire.lang.tree import Span
from kwire.lazy import NamedTuple

WINDOW = 128
"""The most bytes one joined read spans."""

WORDS_MOST = 4
"""Blocks of more (aligned) words are not worth copying from a window."""

PAGE = 4096
"""Bytes of which all can be read, or none."""

OPEN_MOST = 4
"""How many windows of one base are tried for a read, the newest first."""


class Read(NamedTuple):
    """What a `read` operation reads: `size` bytes at args[1] + `offset` go to args[0].

    `parts`: the members by (offset, size), read by themselves when the whole cannot be; none for a read that
    is not joined.
    """

    space: str
    offset: int
    size: int
    parts: tuple[tuple[int, int], ...] = ()

    def __str__(self) -> str:
        parts = ", ".join(f"{size}@{offset}" for offset, size in self.parts)
        return f"{self.space} {self.size}@{self.offset}{f' ({parts})' if parts else ''}"


class Window:
    """One helper call: the bytes from `low` to `high` after a base."""

    __slots__ = ("block", "epoch", "failed", "high", "low", "members", "shared", "slot")

    def __init__(self, block: Block, low: int, high: int, epoch: int) -> None:
        self.block = block  # where the first read is
        self.epoch = epoch  # of the first read
        self.shared = False  # whether other events have it too
        self.failed: Slot | None = None  # where a shared one notes that it failed
        self.low = low
        self.high = high
        self.members: set[tuple[int, int]] = {(low, high - low)}
        self.slot: Slot | None = None  # None while the bytes go straight to where they are wanted


def join_reads(function: Function, faults: Slot, most: int = WINDOW) -> None:
    """Replace every `hop` and `block`; no window is larger than `most` bytes."""
    wanted = [(ins, block) for block in function.blocks for ins in block.body if ins.op in ("hop", "block")]
    if not wanted:
        return
    windows: dict[tuple[Operand, str], list[Window]] = {}
    chosen: dict[Ins, Window] = {}
    region = regions(function)
    for ins, block in wanted:
        space, offset, size, epoch = hop_info(ins)
        if isinstance(ins.args[-1], int):
            place = signed64(ins.args[-1] + offset)
            aligned = ins.op == "block" or not place % size  # what is not stands alone
            ins.args[-1], offset = (place & -PAGE, place % PAGE) if aligned else (place, 0)
            ins.info = (space, offset, size, epoch)
        known = windows.setdefault((ins.args[-1], space), [])
        short = ins.op == "hop" or _is_short(ins)
        window = _joined(block, (offset, size, epoch), known, region, most) if short else None
        if window is None:
            window = Window(block, offset, offset + size, epoch)
            if short:
                known.append(window)
        chosen[ins] = window
    _Rewriter(function, faults, chosen).run()


def _joined(
    block: Block, read: tuple[int, int, int], known: list[Window], region: dict[Block, int], most: int
) -> Window | None:
    """The window that a read (its offset, size and epoch) is joined to."""
    offset, size, epoch = read
    for window in known[: -OPEN_MOST - 1 : -1]:
        low, high = min(window.low, offset), max(window.high, offset + size)
        if window.epoch // AGES != epoch // AGES:
            continue  # the program has changed memory of its own in between
        if high - low > most or not dominates(window.block, block) or window.block.loop is not block.loop:
            continue
        if window.shared or window.epoch != epoch:
            if window.members != {(offset, size)}:
                continue
            window.shared = window.shared or window.epoch != epoch
            return window
        if (offset, size) not in window.members and any(
            at < offset + size and offset < at + wide for at, wide in window.members
        ):
            continue  # where one of the two cannot be read, the other may be
        if region[window.block] == region[block] or (offset, size) in window.members:
            window.low, window.high = low, high
            window.members.add((offset, size))
            return window
    return None


def _is_short(ins: Ins) -> bool:
    """Whether a block is cheap to copy from a window."""
    _, offset, size, _ = hop_info(ins)
    target = ins.args[0]
    return isinstance(target, At) and len(_shared_pieces(offset, target.offset, size)) <= WORDS_MOST


class _Rewriter:
    """Puts the calls and the loads in place."""

    __slots__ = ("chosen", "faults", "function", "out", "span", "users")

    def __init__(self, function: Function, faults: Slot, chosen: dict[Ins, Window]) -> None:
        self.function = function
        self.faults = faults
        self.chosen = chosen
        self.users: dict[Window, int] = {}
        for window in chosen.values():
            self.users[window] = self.users.get(window, 0) + 1
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
        space, offset, size, epoch = hop_info(ins)
        if window.slot is None:
            if window.shared:
                window.failed = self.function.slot("failed", 8)
                self._add("store", None, [At(window.failed, 0), 0], 8)
            if ins.op == "block" and self.users[window] == 1:
                self._read(Read(space, offset, size), ins.args[0], ins.args[1])
                return
            low, length = window.low, window.high - window.low
            window.slot = self.function.slot("window", low % 8 + length)
            whole = len(window.members) == 1 or (isinstance(ins.args[-1], int) and window.high <= PAGE)
            parts = () if whole else tuple(sorted(window.members))
            self._read(Read(space, low, length, parts), At(window.slot, low % 8), ins.args[-1], window.failed)
        elif window.failed is not None and epoch != window.epoch:
            notes = [self.function.value() for _ in range(3)]
            for value, slot in zip(notes, (self.faults, window.failed), strict=False):
                self._add("load", value, [At(slot, 0)], 8)
            self._add("or", notes[2], [*notes[:2]], None)
            self._add("store", None, [At(self.faults, 0), notes[2]], 8)
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

    def _read(self, read: Read, target: Operand, base: Operand, failed: Slot | None = None) -> None:
        notes = [At(slot, 0) for slot in (self.faults, failed) if slot is not None]
        self._add("read", None, [target, base, *notes], read)

    def _add(self, op: str, dst: Value | None, args: list[Operand], info: object) -> None:
        self.out.append(Ins(op, dst, args, info, self.span))


def drop_unread_faults(function: Function, faults: Slot) -> None:
    """Note nothing of reads that failed where no event follows that would be told of it."""
    asked: dict[Block, bool] = dict.fromkeys(function.blocks, False)  # at the start of each block
    changed = True
    while changed:
        changed = False
        for block in reversed(function.blocks):
            after = any(asked[target] for target in successors(block.end))
            found = _asked_for(block, faults, after)
            if found != asked[block]:
                asked[block] = changed = True
    for block in function.blocks:
        after = any(asked[target] for target in successors(block.end))
        kept: list[Ins] = []
        for ins in reversed(block.body):
            noting = At(faults, 0) in ins.args
            if noting and ins.op == "load":
                after = True
            elif noting and ins.op == "store":
                if not after:
                    continue
                after = False
            elif noting and not after:
                if ins.op == "fault":
                    continue
                ins.args = [arg for arg in ins.args if arg != At(faults, 0)]
            kept.append(ins)
        block.body = kept[::-1]


def _asked_for(block: Block, faults: Slot, after: bool) -> bool:
    """Whether what is noted before a block is asked for, when what is noted behind it is (`after`)."""
    for ins in block.body:
        if ins.op in ("load", "store") and ins.args[0] == At(faults, 0):
            return ins.op == "load"
    return after


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
