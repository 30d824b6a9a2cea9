"""Giving a record away → IR: its header, the probe's counters, this CPU's ring.

A program with one `emit` has this once in its way; where there are several, all but the
header is a subprogram.
A program of a kind that never runs twice at once (`kinds.ProbeKind.single`) looks for nothing of its CPU's:
its events are all in the first ring, and it counts as the first CPU. One that runs once, while the ring is
empty, and surely has room there (`Options.room`), does without what follows a refusal.

The order, which the runtime relies on: count the attempt → note failed reads → give the record to this CPU's
ring → when that refuses, count the refusal and note when it was first and last so.
"""

from collections.abc import Callable, Sequence

from kwire.bpf.counts import (
    ASKED,
    ASKED_BIT,
    ATTEMPTS,
    FAULTS,
    FIRST,
    LAST,
    REFUSED,
    SKIPPED,
    SLOT_SIZE,
    USERS,
)
from kwire.compile.builder import Builder
from kwire.compile.expressions import Options
from kwire.compile.ir import At, Block, Function, Ins, Operand, Slot, Value
from kwire.lang.tree import Span
from kwire.wire.frame import VERSION, Type

WORD = 8  # bytes of a counter
TIME = 8
"""Where in a record its time is."""

ADAPTIVE_WAKEUP = 0
"""The reader is woken by the event that finds it waiting at the end of the ring, and by no other."""

FORCE_WAKEUP = 2
"""Of a record, which need not be one: the reader is woken whatever it has read."""


def ask_for_end(b: Builder, options: Options, status: Operand) -> None:
    """Note that the trace is to end, and wake its reader the first time.

    Each wakening interrupts the processor once more: a probe that fires every 10 µs left nobody time to end.
    """
    word = b.emit("or", [b.emit("and", [status, 0xFF], None, 8), ASKED_BIT], None, 9)
    place = b.emit("mapval", [], (ASKED, 0))
    before = b.load(place, 0, 8)
    b.store(place, 0, 8, word)
    first, told = b.new_block("first"), b.new_block("told")
    b.branch("eq", before, 0, first, told)
    b.start(first)
    wake(b, options)
    b.jump(told)
    b.start(told)


def end_asked_for(b: Builder) -> Operand:
    """A number that is 0 until the end of the trace is asked for."""
    return b.load(b.emit("mapval", [], (ASKED, 0)), 0, 8)


def wake(b: Builder, options: Options) -> None:
    """Wake the reader, who is not asleep where the ring is full."""
    noted = b.new_block("noted")
    ring = _ring(b, _key(b, options)[1], noted)
    record = b.call("ringbuf_reserve", ring, 8, 0)
    room = b.new_block("room")
    b.branch("eq", record, 0, noted, room)
    b.start(room)
    b.call("ringbuf_discard", record, FORCE_WAKEUP)
    b.jump(noted)
    b.start(noted)


def cpu(b: Builder, options: Options) -> Operand:
    """The number of the CPU whose part of the maps this is, within what they have room for."""
    return _within(b, options, 0 if options.single else b.call("get_smp_processor_id"))


def _within(b: Builder, options: Options, number: Operand) -> Operand:
    """The number of a CPU, of which the verifier sees that there is one."""
    if number == 0:
        return 0
    most = options.cpus - 1
    return b.emit("umin" if most & options.cpus else "and", [number, most])


def of_cpu(b: Builder, options: Options, map: str, stride: int) -> Value:
    """The address of this CPU's part of an array, of which each has so many bytes."""
    own = b.emit("mul", [cpu(b, options), stride])
    return b.emit("add", [b.emit("mapval", [], (map, 0)), own])


def _key(b: Builder, options: Options) -> tuple[Operand, Slot | None]:
    """This CPU's number, and where it is for its ring to be looked up by it."""
    if options.single:
        return 0, None
    number = b.call("get_smp_processor_id")
    key = b.function.slot("key", 8)
    b.store(key, 0, 4, number)
    return number, key


def _ring(b: Builder, key: Slot | None, none: Block) -> Operand:
    """The ring of a key; where there is none it goes on at `none`."""
    if key is None:
        return b.map("ring")
    ring = b.call("map_lookup_elem", b.map("rings"), At(key, 0))
    there = b.new_block("there")
    b.branch("eq", ring, 0, none, there)
    b.start(there)
    return ring


def sender(options: Options, sends: Sequence[Ins], span: Span, writes_time: bool) -> Function:
    """`give` as a subprogram of these places, which are its calls: what all give it alike it knows.
    `writes_time`: it also writes the event's time.
    """
    same = [all(one.args[at] == sends[0].args[at] for one in sends) for at in range(len(sends[0].args))]
    known = [
        arg if alike and arg.__class__ is int else None
        for alike, arg in zip(same, sends[0].args, strict=True)
    ]
    function = Function("send", known.count(None))
    for one in sends:
        one.args = [arg for arg, number in zip(one.args, known, strict=True) if number is None]
        one.info = function
    b = Builder(None, function)
    b.span = span
    params = iter(function.params)
    base, size, place, failed = (next(params) if number is None else number for number in known)
    assert isinstance(base, Value)
    if writes_time:
        b.store(base, TIME, 8, b.call("ktime_get_ns"))
    give(b, options, base, size, place, lambda: failed)
    return b.finish(function.entry)


def header(b: Builder, base: Value | Slot, size: Operand, probe: Operand) -> None:
    """Version, type, flags, length, id: big-endian, all but the length usually constant. `probe`: the number
    of the event's shape.
    """
    start = int.from_bytes(bytes(((VERSION << 4) | Type.EVENT, 0)), "little")
    if isinstance(size, int):
        b.store(base, 0, 4, start | int.from_bytes(size.to_bytes(2, "big"), "little") << 16)
    else:
        b.store(base, 0, 2, start)
        b.store(base, 2, 2, b.emit("be", [size], 16, 16))
    if isinstance(probe, int):
        b.store(base, 4, 4, int.from_bytes(probe.to_bytes(4, "big"), "little"))
    else:
        b.store(base, 4, 4, b.emit("be", [probe], 32, 32))


def place_of(b: Builder, probe: Operand) -> Operand:
    """Where among the counters of a CPU the probe's slot begins."""
    if isinstance(probe, int):
        return probe * SLOT_SIZE
    return b.emit("mul", [probe, SLOT_SIZE])


def give(
    b: Builder,
    options: Options,
    base: Value | Slot,
    size: Operand,
    place: Operand,
    failed: Callable[[], Operand],
) -> None:
    """Give a complete record away. `place`: of the counters of its probe; `failed`: makes what is negative
    where a read for the record failed.
    """
    number, key = _key(b, options)
    counts = _counters(b, options, _within(b, options, number), place)
    _count(b, options, counts, WORD * ATTEMPTS)
    note, whole = b.new_block("failed"), b.new_block("whole")
    b.branch("slt", failed(), 0, note, whole)
    b.start(note)
    _count(b, options, counts, WORD * FAULTS, seldom=True)
    b.jump(whole)
    b.start(whole)
    refused, sent = b.new_block("refused"), b.new_block("sent")
    ring = _ring(b, key, refused)
    result = b.call("ringbuf_output", ring, At(base, 0), size, ADAPTIVE_WAKEUP)
    if options.room:
        return
    b.branch("eq", result, 0, sent, refused)
    b.start(refused)
    _count(b, options, counts, WORD * REFUSED, seldom=True)
    now = b.load(base, TIME, 8)
    first, later = b.new_block("first"), b.new_block("later")
    b.branch("eq", b.load(counts, WORD * FIRST, 8), 0, first, later)
    b.start(first)
    b.store(counts, WORD * FIRST, 8, now)
    b.jump(later)
    b.start(later)
    b.store(counts, WORD * LAST, 8, now)
    b.jump(sent)
    b.start(sent)


def _counters(b: Builder, options: Options, cpu: Operand, place: Operand) -> Value:
    """The address of a probe's slot among a CPU's."""
    own = b.emit("mul", [cpu, options.probes * SLOT_SIZE])
    if isinstance(place, int):
        return b.emit("add", [b.emit("mapval", [], ("counts", place)), own])
    own = b.emit("add", [own, place])
    return b.emit("add", [b.emit("mapval", [], ("counts", 0)), own])


def _count(b: Builder, options: Options, counts: Value, offset: int, seldom: bool = False) -> None:
    """Add one. The slot belongs to this CPU and program, which does not run within itself but where it may be
    preempted. What is done `seldom`, or by a program that runs seldom, is done by the shorter code.
    """
    if options.preempted or options.single or seldom:
        b.do("atomic", [At(counts, offset), 1])
    else:
        b.store(counts, offset, 8, b.emit("add", [b.load(counts, offset, 8), 1]))


def claim(b: Builder, options: Options, probe: Callable[[], Operand], done: Block) -> Value:
    """Claim this CPU's memory in the program's maps; where another thread is using it, that this firing was
    skipped is counted (of `probe`), and it goes on at `done`. What is given is for `release`.

    Threads that share the memory run on one CPU, one in the middle of the other, so whoever finds himself
    alone behind his addition is; two that meet in it may both leave.
    """
    counts = of_cpu(b, options, "counts", options.probes * SLOT_SIZE)
    users = b.emit("add", [counts, options.id * SLOT_SIZE])
    b.do("atomic", [At(users, WORD * USERS), 1])
    taken, mine = b.new_block("taken"), b.new_block("mine")
    taken.seldom = True
    b.branch("eq", b.load(users, WORD * USERS, 8), 1, mine, taken)
    b.start(taken)
    own = b.emit("add", [counts, place_of(b, probe())])
    b.do("atomic", [At(own, WORD * SKIPPED), 1])
    b.jump(done)
    b.start(mine)
    return users


def release(b: Builder, users: Value) -> None:
    """Let others have the memory."""
    b.do("atomic", [At(users, WORD * USERS), -1])
