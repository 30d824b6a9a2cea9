"""Stacks → IR: the kernel's helper gives the frames, a table of the unit their number.

Invariants: the frames themselves are the key in the table (those of a process with its id before them), so
two stacks never have one number. A number is given once: who finds a stack that is new takes the next one,
and of two that find the same at the same time the first to enter it is right, while the number of the other
is nobody's. Where a table is full the number is 0, and that is counted beside the numbers. An entry is
complete before any event or map has its number, and stays as long as the trace. Who enters a stack of a
process wakes the reader, as the process may end before its functions were named. A single address in the
kernel is its own number: the kernel's addresses are above all numbers that are given.
"""

from kwire.bpf.counts import STACKS
from kwire.bpf.image import MapSpec
from kwire.compile.emission import cpu, wake
from kwire.compile.ir import At, Operand
from kwire.compile.maps import MMAPABLE, NOEXIST
from kwire.compile.scratch import Stretch
from kwire.hints import TYPE_CHECKING
from kwire.lang import checked
from kwire.lang.checked import StackTable

if TYPE_CHECKING:
    from kwire.compile.lower import Lower

LOST = 8
"""In the map `STACKS`: behind the last number that was given, how many stacks found no room."""

FRAMES_AT = 8
"""Of a key: where the frames begin, behind the process id."""

FRAME_SIZE = 8
"""Bytes of a frame that is an address."""

PLACE_SIZE = 32
"""Bytes of a frame that is a place in a file: struct bpf_stack_build_id."""

USER_STACK = 1 << 8  # BPF_F_USER_STACK
USER_BUILD_ID = 1 << 11  # BPF_F_USER_BUILD_ID


def table_name(table: StackTable) -> str:
    """The name of a table in images, another one for each that is different in anything."""
    of = ("user" if table.user else "kernel", str(table.limit), "id" if table.ids else "address")
    return " ".join((STACKS, *of, str(table.room), *(["single"] if table.single else [])))


def frames_size(table: StackTable) -> int:
    """Bytes of the frames of a key."""
    return table.limit * (PLACE_SIZE if table.ids else FRAME_SIZE)


def specs(tables: list[StackTable]) -> list[MapSpec]:
    """The maps to create for these tables."""
    found = [MapSpec(STACKS, "array", 4, 16, 1, MMAPABLE)]
    for table in tables:
        found.append(MapSpec(table_name(table), "hash", FRAMES_AT + frames_size(table), 8, table.room))
    return found


def number(b: "Lower", memory: Stretch, e: checked.Stack | checked.UserSymbol) -> Operand:
    """The number of a stack. `memory`: where its key is built."""
    size = frames_size(e.table)
    if isinstance(e, checked.UserSymbol):
        address = b.expr(e.address)
        slot = b.function.slot("place", FRAMES_AT + size)
        key = At(slot, 0)
        b.store(slot, 0, 8, b.number("pid"))
        b.store(slot, FRAMES_AT, 8, address)
    else:
        memory.room(FRAMES_AT + size)
        place = memory.here(b, cpu(b, b.options))
        key = At(place, 0)
        b.store(place, 0, 8, b.number("pid") if e.table.user else 0)
        flags = (USER_STACK if e.table.user else 0) | (USER_BUILD_ID if e.table.ids else 0)
        # It fills up with zeros, and where there is no such stack gives only these.
        b.call("get_stack", b.function.context, At(place, FRAMES_AT), size, flags)
    return _entered(b, e.table, key)


def depth(b: "Lower", memory: Stretch, e: checked.StackDepth) -> Operand:
    """How many frames a stack has; none where the kernel tells of none. `memory`: where they are put."""
    size = FRAME_SIZE * e.limit
    memory.room(size)
    place = memory.here(b, cpu(b, b.options))
    found = b.call("get_stack", b.function.context, At(place, 0), size, USER_STACK if e.user else 0)
    none, some = b.new_block("none"), b.new_block("some")
    b.branch("slt", found, 0, none, some)
    b.start(none)
    b.start(some)
    frames = b.emit("rsh", [found, 3])
    return b.join([(none, 0), (some, frames)])


def kernel_symbol(b: "Lower", e: checked.KernelSymbol) -> Operand:
    """An address in the kernel, entered in the table by which it is named; 0 is nowhere, and in none."""
    address = b.expr(e.address)
    some, after = b.new_block("address"), b.new_block("named")
    b.branch("eq", address, 0, after, some)
    b.start(some)
    slot = b.function.slot("place", FRAMES_AT + FRAME_SIZE)
    b.store(slot, 0, 8, 0)
    b.store(slot, FRAMES_AT, 8, address)
    _entered(b, e.table, At(slot, 0), address)
    b.jump(after)
    b.start(after)
    return address


def _entered(b: "Lower", given: StackTable, key: At, own: Operand | None = None) -> Operand:
    """The number that a key has in a table, which it is entered into where it is new, with its `own` number
    if it has one.
    """
    table = table_name(given)
    first = b.call("map_lookup_elem", b.map(table), key)
    known, new = b.new_block("known"), b.new_block("new")
    b.branch("eq", first, 0, new, known)
    b.start(known)
    had = b.load(first, 0, 8)
    b.start(new)
    numbers = b.emit("mapval", [], (STACKS, 0))
    slot = b.function.slot("number", 8)
    if own is None:
        own = b.emit("add", [b.emit("fetch", [At(numbers, 0), 1]), 1])
    else:
        b.do("atomic", [At(numbers, 0), 1])  # so that the reader sees that there is something new
    b.store(slot, 0, 8, own)
    b.call("map_update_elem", b.map(table), key, At(slot, 0), NOEXIST)
    second = b.call("map_lookup_elem", b.map(table), key)  # whoever was first to enter it
    full, entered = b.new_block("full"), b.new_block("entered")
    b.branch("eq", second, 0, full, entered)
    b.start(full)
    b.do("atomic", [At(numbers, LOST), 1])
    b.start(entered)
    has = b.load(second, 0, 8)
    if given.user:
        wake(b, b.options)  # the process may not live for long
    return b.join([(known, had), (full, 0), (b.block, has)])
