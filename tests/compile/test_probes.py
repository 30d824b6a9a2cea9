"""Whole probes in the interpreter: every kind of attach point, the order of a program, its maps, its
records.
"""

import re
import struct
from collections.abc import Sequence
from typing import Any

import pytest

from kwire.bpf import vm
from kwire.bpf.arch import named
from kwire.bpf.counts import USERS
from kwire.bpf.task import TaskFields
from kwire.compile.build import (
    Compiled,
    CompileError,
    compile_probe,
    fits_any_ring,
    layout_key,
    probe_schemas,
)
from kwire.compile.layout import layout
from kwire.lang import checked as c
from kwire.lang import record
from kwire.lang import types as t
from kwire.lang.context import Argument, CtxField, Param, Result, Site
from kwire.lang.tree import Source, Span
from kwire.wire.fields import CutStr
from kwire.wire.schema import decode

SPAN = Span(1, 0, 1, 1)
POINTER = t.Pointer(t.VOID)
PID, TID, CPU, UID = (c.Builtin(op, t.U32, SPAN) for op in ("pid", "tid", "cpu", "uid"))
GETPPID = Site("tracepoint", "syscalls:sys_enter_getppid", (Param("__syscall_nr", t.S32, CtxField(8, 4)),))


def place(base: Any, offset: int = 0, *indexes: c.Index, space: str = t.KERNEL) -> c.Place:
    return c.Place(base, offset, indexes, space, SPAN)


def load(base: Any, offset: int, type_: t.Scalar = t.U64) -> c.Load:
    return c.Load(place(base, offset), type_, SPAN)


def argument(number: int, type_: t.Scalar = t.U64) -> c.Param:
    return c.Param(f"a{number}", Argument(number), type_, SPAN)


def number(value: int, type_: t.Scalar = t.S64) -> c.Const:
    return c.Const(value, type_, SPAN)


def program(site: Site, *values: Any, wanted: Any = None, body: Sequence[c.Stmt] = ()) -> c.Program:
    """Emits these values as f0, f1, …"""
    fields = tuple(c.Field(f"f{n}", value.type) for n, value in enumerate(values))
    emit = c.Emit(tuple(values), SPAN)
    return c.Program(
        "probe", site, Source("probe.py", "emit()"), (c.Shape(fields),), (), wanted, (*body, emit), SPAN
    )


def site(kind: str, count: int = 3, type_: t.Type = t.U64) -> Site:
    params = tuple(Param(f"a{n}", type_, Argument(n)) for n in range(count))
    retval = Param("retval", t.S32, Result(count)) if kind in ("kretprobe", "fexit") else None
    return Site(kind, "f", params, retval)


def build(made: c.Program, **options: Any) -> Compiled:
    given: dict[str, Any] = {"id": 1, "spec": "spec", "probes": 2, "cpus": 4, "tasks": False}
    return compile_probe(made, arch=options.pop("arch", named("x86_64")), **given | options)


def run(compiled: Compiled, context: bytes, **env: Any) -> list[dict[str, Any]]:
    """The events of one firing, decoded."""
    return [
        decode(compiled.schemas[0], one) for one in vm.Machine(compiled.image, **env).run(context).emitted
    ]


def counters(machine: vm.Machine, probe: int, cpu: int, probes: int = 2) -> tuple[int, ...]:
    counts = machine.maps["counts"]
    assert isinstance(counts, vm.ArrayMap)
    found: tuple[int, ...] = struct.unpack_from("<8Q", counts.value(), 64 * (cpu * probes + probe))
    return found


# the record


@pytest.mark.parametrize(
    ("comm", "size"),
    [("a", 40), ("load", 40), ("python", 40), ("python3", 48), ("x" * 14, 48), ("x" * 15, 56)],
)
def test_a_recorded_getppid_takes_no_byte_too_many(comm: str, size: int) -> None:
    compiled = build(record.program(GETPPID, None))  # type: ignore[arg-type]  # no types are looked up
    machine = vm.Machine(compiled.image, comm=comm, pid=7, tid=8, cpu=2, monotonic_ns=5)
    [frame] = machine.run(bytes(8) + struct.pack("<q", 110)).emitted
    assert len(frame) == size
    assert frame[:8] == struct.pack(">BBHI", 0x11, 0, size, 1)
    assert compiled.schemas[0].timestamp(frame) == 5
    assert decode(compiled.schemas[0], frame) == {
        "cpu": 2,
        "pid": 7,
        "tid": 8,
        "comm": comm,
        "__syscall_nr": 110,
    }


def test_fields_lie_without_holes_and_in_their_order() -> None:
    types: tuple[t.Type, ...] = (
        t.U8,
        t.U64,
        t.Text(9),
        t.U16,
        t.Array(t.U8, 6, "mac"),
        t.U32,
        t.Array(t.U8, 16),
    )
    placed = layout("x", tuple(c.Field(f"f{n}", type_) for n, type_ in enumerate(types)))
    assert [item.field.name for item in placed.fields] == [f"f{n}" for n in range(len(types))]
    taken = sorted((item.offset, item.offset + item.size) for item in placed.fields)
    assert [start for start, _ in taken] == [16, *(end for _, end in taken[:-1])]
    assert placed.size == taken[-1][1]
    assert all(item.offset % min(item.size & -item.size, 8) == 0 for item in placed.fields)


def test_a_record_that_cannot_fit_a_frame_is_refused() -> None:
    text = c.ReadText(place(argument(0)), t.Text(0x7FFF), SPAN)
    with pytest.raises(CompileError, match=r"65\d\d\d bytes long, the most is 65480"):
        build(program(site("kprobe"), text, text))


def test_the_largest_record() -> None:
    data = c.ReadBytes(place(argument(0)), number(0x7FFF), t.Bytes(0x7FFF), SPAN)
    other = c.ReadBytes(place(argument(0), 100), argument(1), t.Bytes(65480 - 24 - 0x7FFF), SPAN)
    compiled = build(program(site("kprobe"), data, other))
    memory = vm.Memory()
    block = memory.kernel(bytes(n % 251 for n in range(40000)))
    [event] = run(compiled, vm.registers([block, 70000]), memory=memory)
    assert event["f0"] == memory.read(block, 0x7FFF)
    assert len(event["f1"]) == 65480 - 24 - 0x7FFF
    [event] = run(compiled, vm.registers([block, 5]), memory=memory)
    assert event["f1"] == memory.read(block + 100, 5)


def test_many_fields() -> None:
    values = [load(argument(n % 3), 8 * n, t.INTEGERS[f"u{8 << n % 4}"]) for n in range(120)]
    compiled = build(program(site("kprobe"), *values))
    memory = vm.Memory()
    blocks = [memory.kernel(bytes((n * 7 + 3 * i) % 256 for i in range(1024))) for n in range(3)]
    [event] = run(compiled, vm.registers(blocks), memory=memory)
    for n in range(120):
        expected = memory.read(blocks[n % 3] + 8 * n, 1 << n % 4) or b""
        assert event[f"f{n}"] == int.from_bytes(expected, "little")


# attach points


def test_arguments_of_a_kprobe_come_from_registers_and_from_the_stack() -> None:
    types = (t.S8, t.U8, t.S16, t.U32, t.S32, t.U64, t.U64, t.S32)
    compiled = build(program(site("kprobe", 8), *(argument(n, type_) for n, type_ in enumerate(types))))
    memory = vm.Memory()
    stack = memory.kernel(struct.pack("<QQq", 0xDEAD, 77, -8))
    passed = [0x1FF, 0x1FF, 0x18000, 0x1FFFFFFFF, 0xFFFFFFFF, (1 << 64) - 1]
    [event] = run(compiled, vm.registers(passed, sp=stack), memory=memory)
    assert list(event.values()) == [-1, 255, -32768, 0xFFFFFFFF, -1, (1 << 64) - 1, 77, -8]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_architecture_has_its_registers(machine: str) -> None:
    arch = named(machine)
    compiled = build(program(site("kprobe"), argument(0), argument(2)), arch=arch)
    [event] = run(compiled, vm.registers([11, 22, 33], arch=arch))
    assert list(event.values()) == [11, 33]
    retval = c.Param("retval", Result(1), t.S32, SPAN)
    compiled = build(program(site("kretprobe"), retval), arch=arch)
    [event] = run(compiled, vm.registers(retval=0xFFFFFFF3, arch=arch))
    assert event == {"f0": -13}


def test_arguments_of_other_kinds() -> None:
    retval = c.Param("retval", Result(3), t.S32, SPAN)
    raw = build(program(site("rawtracepoint"), argument(1, t.U16), argument(2)))
    assert run(raw, vm.arguments([1, 0x12345, 3])) == [{"f0": 0x2345, "f1": 3}]
    entry = build(program(site("fentry"), argument(1, t.S32)))
    assert run(entry, vm.arguments([1, 0xFFFFFFFE, 3])) == [{"f0": -2}]
    leave = build(program(site("fexit"), argument(0), retval))
    assert run(leave, vm.arguments([9, 8, 7], retval=0xFFFFFFFF)) == [{"f0": 9, "f1": -1}]


def test_the_cookie_of_a_socket_is_asked_for_with_the_argument_as_the_kernel_knows_it() -> None:
    cookie = c.SocketCookie(argument(1, POINTER), t.U64, SPAN)
    made = build(program(site("fentry", 2, POINTER), cookie, argument(1, POINTER)))
    context = struct.pack("<2Q", 7, 0xFFFF888000000000)
    found = run(made, context, args=(7, 0xFFFF888000000000), socket_cookie=77)
    assert found == [{"f0": 77, "f1": 0xFFFF888000000000}]
    asked = build(program(site("fentry", 2, POINTER), cookie), explain=True).ir
    assert "get_func_arg" not in asked


def test_pointers_of_fentry_are_plain_numbers() -> None:
    compiled = build(
        program(
            site("fentry", 2, POINTER),
            c.Compare("eq", argument(0, POINTER), number(0), False, t.BOOL, SPAN),
            c.Binary("and", argument(1, POINTER), number(0xFFF), t.U64, SPAN),
        )
    )
    assert "get_func_arg" in build(program(site("fentry", 1, POINTER), argument(0, POINTER)), explain=True).ir
    found = run(compiled, vm.arguments([0, 0x12345]), args=[0, 0x12345])
    assert found == [{"f0": True, "f1": 0x345}]


def test_fields_of_a_tracepoint_may_be_packed() -> None:
    values = [c.Param("x", CtxField(at, t.size_of(type_)), type_, SPAN) for at, type_ in PACKED]
    where = Site("tracepoint", "a:b", ())
    context = c.Context(POINTER, SPAN)
    block = c.ReadBlock(place(context, 21), 6, t.Array(t.U8, 6, "mac"), SPAN)
    name = c.ReadText(place(context, 8), t.Text(16), SPAN, fixed=16)
    compiled = build(program(where, *values, block, name), explain=True)
    assert "probe_read" not in compiled.ir
    data = bytes(range(1, 65))
    [event] = run(compiled, data)
    for (at, type_), value in zip(PACKED, list(event.values())[: len(PACKED)], strict=True):
        size = t.size_of(type_)
        assert value == int.from_bytes(data[at : at + size], "little", signed=t.signed(type_))
    assert event[f"f{len(PACKED)}"] == data[21:27].hex(":")
    assert event[f"f{len(PACKED) + 1}"] == data[8:24].decode()


PACKED: list[tuple[int, t.Scalar]] = [
    (8, t.U64),
    (17, t.U64),
    (25, t.S32),
    (30, t.U16),
    (33, t.U16),
    (35, t.S8),
]


@pytest.mark.parametrize("relative", [False, True])
def test_data_of_varying_length_in_a_tracepoint(relative: bool) -> None:
    location = c.DataLocAddress(12, relative, POINTER, SPAN)
    text = c.ReadText(place(location), t.Text(10), SPAN)
    data = c.ReadBytes(place(location), c.Const(4, t.U32, SPAN), t.Bytes(8), SPAN)
    compiled = build(program(Site("tracepoint", "a:b", ()), text, data))
    for content in (b"hello\0", b"", b"0123456789\0", b"0123456789abc\0"):
        start = 24 - (16 if relative else 0)
        context = (
            bytes(12) + struct.pack("<I", len(content) << 16 | start) + bytes(8) + content.ljust(20, b"\0")
        )
        [event] = run(compiled, context)
        assert event["f0"] == content.rstrip(b"\0")[:10].decode()
        assert isinstance(event["f0"], CutStr) == (len(content) > 11)
        assert event["f1"] == content.ljust(4, b"\0")[:4]


# texts


@pytest.mark.parametrize("limit", [1, 7, 20])
@pytest.mark.parametrize("fixed", [0, 5, 8, 13, 16, 20, 40])
def test_a_text_ends_where_it_should(limit: int, fixed: int) -> None:
    text = c.ReadText(place(argument(0), 3), t.Text(limit), SPAN, fixed)
    stack = build(program(site("kprobe"), text, TID))
    scratch = build(program(site("kprobe"), text, c.Comm(t.Text(15), SPAN), text))
    for length in (0, 1, 4, 5, 7, 8, 9, 15, 16, 19, 20, 21, 22, 39, 40):
        letters = bytes(65 + n % 26 for n in range(length))
        whole = letters if not fixed else letters[:fixed]
        memory = vm.Memory()
        data = b"..." + letters + b"\0" + b"junk" * 12
        block = memory.kernel(data[: 3 + fixed if fixed else None])
        [first] = run(stack, vm.registers([block]), memory=memory, tid=9)
        [second] = run(scratch, vm.registers([block]), memory=memory, comm="me")
        for value in (first["f0"], second["f0"], second["f2"]):
            assert value == whole[:limit].decode()
            assert isinstance(value, CutStr) == (len(whole) > limit)
        assert (first["f1"], second["f1"]) == (9, "me")


def test_nothing_of_the_last_record_is_left_in_the_next() -> None:
    text = c.ReadText(place(argument(0)), t.Text(100), SPAN)
    compiled = build(program(site("kprobe"), text, text))
    memory = vm.Memory()
    long, short = memory.kernel(b"x" * 90 + b"\0"), memory.kernel(b"yy\0")
    machine = vm.Machine(compiled.image, memory=memory)
    machine.run(vm.registers([long]))
    [frame] = machine.run(vm.registers([short])).emitted
    assert b"x" not in frame
    assert len(frame) == 32


# the order of a program


def test_only_the_processes_wanted() -> None:
    compiled = build(program(site("kprobe"), PID), tasks=True, main=10)
    machine = vm.Machine(compiled.image)
    tasks = machine.maps["tasks"]
    assert isinstance(tasks, vm.HashMap)
    tasks[struct.pack("<I", 20)] = bytes(8)
    seen = []
    for pid in (10, 20, 30):
        machine.env.pid = pid
        seen += [decode(compiled.schemas[0], one)["f0"] for one in machine.run(vm.registers()).emitted]
    assert seen == [10, 20]
    assert counters(machine, 1, 0)[:2] == (2, 0)


def test_a_process_is_its_number_and_when_it_was_created() -> None:
    compiled = build(program(site("kprobe"), PID), tasks=True, task=TaskFields(8, 12, 16, 32, 40, 48))
    machine = vm.Machine(compiled.image)
    tasks = machine.maps["tasks"]
    assert isinstance(tasks, vm.HashMap)
    tasks[struct.pack("<I", 20)] = struct.pack("<Q", 1000)
    seen = []
    for started in (1000, 2000):
        leader = machine.space.add(bytearray(struct.pack("<32xQ", started)), "leader", writable=False).base
        task = struct.pack("<8xII24xQ", 20, 20, leader)
        machine.env.task = machine.space.add(bytearray(task), "task", writable=False).base
        seen += [started for _ in machine.run(vm.registers()).emitted]
    assert seen == [1000]


def test_processes_that_are_left_out() -> None:
    compiled = build(program(site("kprobe"), PID), without=(10, 30))
    machine = vm.Machine(compiled.image)
    seen = []
    for pid in (10, 20, 30):
        machine.env.pid = pid
        seen += [decode(compiled.schemas[0], one)["f0"] for one in machine.run(vm.registers()).emitted]
    assert seen == [20]


def test_what_the_filter_rejects_is_not_counted() -> None:
    wanted = c.Compare("gt", argument(0), number(5), False, t.BOOL, SPAN)
    compiled = build(program(site("kprobe"), argument(0), wanted=wanted))
    machine = vm.Machine(compiled.image, cpu=3)
    assert [len(machine.run(vm.registers([value])).emitted) for value in (4, 5, 6, 7)] == [0, 0, 1, 1]
    assert counters(machine, 1, 3)[:2] == (2, 0)


def test_refusals_are_counted_with_their_times() -> None:
    compiled = build(program(site("kprobe"), argument(0)), ring_size=4096, id=2)
    machine = vm.Machine(compiled.image, cpu=1)
    machine.keep_reading = False
    for time in range(1, 1001):
        machine.env.monotonic_ns = time
        machine.run(vm.registers([time]))
    kept = len(machine.rings()[1].take())
    attempts, refused, first, last, too_long, faults, *_ = counters(machine, 2, 1)
    assert (attempts, refused, too_long, faults) == (1000, 1000 - kept, 0, 0)
    assert (first, last) == (kept + 1, 1000)
    assert counters(machine, 1, 1) == (0,) * 8


def test_memory_in_maps_that_a_preempted_program_uses_is_claimed() -> None:
    """What another thread may interrupt finds its memory in use, counts that, and leaves; so no record holds
    what is another's.
    """
    text = c.ReadText(place(argument(0), space=t.USER), t.Text(300, t.USER), SPAN)
    compiled = build(program(site("uprobe"), text, text, text), id=2)
    memory = vm.Memory()
    address = memory.user(b"abc\0")
    machine = vm.Machine(compiled.image, memory=memory, cpu=1)
    counts = machine.maps["counts"]
    assert isinstance(counts, vm.ArrayMap)
    for _ in range(2):
        assert len(machine.run(vm.registers([address])).emitted) == 1
        assert counters(machine, 2, 1)[USERS] == 0
    struct.pack_into("<Q", counts.region(0).data, 64 * 4 + 8 * USERS, 1)  # on CPU 1 somebody is in it
    assert machine.run(vm.registers([address])).emitted == []
    assert counters(machine, 2, 1) == (2, 0, 0, 0, 0, 0, 1, 1)
    machine.env.cpu = 2
    assert len(machine.run(vm.registers([address])).emitted) == 1


def test_only_programs_that_may_be_preempted_and_use_memory_in_maps_claim_it() -> None:
    text = c.ReadText(place(argument(0)), t.Text(300), SPAN)
    small, large = program(site("uprobe"), argument(0)), program(site("kprobe"), text, text, text)
    for made in (small, large):
        assert "taken" not in build(made, explain=True).ir
    assert "taken" in build(program(site("uprobe"), text, text, text), explain=True).ir


def test_failed_reads_are_counted_once_an_event() -> None:
    compiled = build(
        program(site("kprobe"), load(argument(0), 0), load(argument(1), 0), load(argument(2), 0))
    )
    memory = vm.Memory()
    good = memory.kernel(bytes(64))
    machine = vm.Machine(compiled.image, memory=memory)
    for arguments in ([good, good, good], [8, good, 16], [good, 8, good], [good, good, good]):
        assert len(machine.run(vm.registers(arguments)).emitted) == 1
    assert counters(machine, 1, 0)[:6] == (4, 0, 0, 0, 0, 2)


def test_a_tracepoint_lets_its_event_pass_on() -> None:
    for kind, expected in (("tracepoint", 1), ("rawtracepoint", 0), ("kprobe", 0), ("fentry", 0)):
        compiled = build(program(Site(kind, "x", ()), PID))
        assert vm.Machine(compiled.image).run(bytes(256)).r0 == expected


def test_cookies_tell_the_probe() -> None:
    compiled = build(program(site("kprobe"), argument(0)), cookie=True, probes=3, cpus=2)
    assert compiled.image.cookies
    machine = vm.Machine(compiled.image, cpu=1)
    for cookie in (1, 3, 3):
        machine.env.cookie = cookie
        [frame] = machine.run(vm.registers([5])).emitted
        assert frame[4:8] == struct.pack(">I", cookie)
    assert [counters(machine, probe, 1, 3)[0] for probe in (1, 2, 3)] == [1, 0, 2]


def test_the_task_itself_tells_the_same_as_the_helpers() -> None:
    made = program(site("kprobe"), PID, TID, c.Comm(t.Text(15), SPAN))
    fast = build(made, task=TaskFields(12, 16, 40, 56, 64, 72), tasks=True)
    machine = vm.Machine(fast.image)
    tasks = machine.maps["tasks"]
    assert isinstance(tasks, vm.HashMap)
    tasks[struct.pack("<I", 70)] = bytes(8)
    for comm in (b"", b"sh", b"exactly8", b"fifteen letters"):
        padded = (comm + b"\0" + b"stale text after it")[:16]
        data = struct.pack("<12xII20x16s", 71, 70, padded)
        machine.env.task = machine.space.add(bytearray(data), "task", writable=False).base
        [frame] = machine.run(vm.registers()).emitted
        assert decode(fast.schemas[0], frame) == {"f0": 70, "f1": 71, "f2": comm.decode()}
        [slow] = run(build(made), vm.registers(), pid=70, tid=71, comm=comm.decode())
        assert slow == {"f0": 70, "f1": 71, "f2": comm.decode()}


# sharing


def test_probes_of_one_shape_share_their_code() -> None:
    one = program(site("kprobe"), argument(0, t.U32), c.Comm(t.Text(15), SPAN))
    fields = one.shapes[0].fields
    two = one.replace(
        name="other",
        site=one.site.replace(target="g"),
        shapes=(c.Shape(tuple(field.replace(name=f"g{n}") for n, field in enumerate(fields))),),
        span=Span(7, 1, 8, 2),
    )
    assert layout_key(one) == layout_key(two)
    first, second = (build(made, cookie=True, id=n) for n, made in ((1, one), (2, two)))
    assert first.image.code == second.image.code
    assert probe_schemas(two, id=2, spec="spec", arch=named("x86_64")) == second.schemas
    for other in (
        program(site("kprobe"), argument(0, t.S32), c.Comm(t.Text(15), SPAN)),
        program(site("kprobe"), argument(1, t.U32), c.Comm(t.Text(15), SPAN)),
        program(site("kretprobe"), argument(0, t.U32), c.Comm(t.Text(15), SPAN)),
        program(site("kprobe"), argument(0, t.U32), c.Comm(t.Text(15), SPAN), wanted=PID),
    ):
        assert layout_key(other) != layout_key(one)
    raw = program(site("rawtracepoint"), argument(0, t.U32))
    assert layout_key(raw) != layout_key(raw.replace(site=raw.site.replace(target="g")))


def test_enumerations_reach_the_schema() -> None:
    colour = t.Enum("colour", 4, False, (("RED", 1), ("BLUE", 2), ("AZURE", 2)))
    nameless = t.Enum("", 4, True, (("MINUS", -1),))
    compiled = build(program(site("kprobe"), argument(0, colour), argument(1, nameless)))
    assert compiled.schemas[0].enums == {"colour": {1: "RED", 2: "BLUE"}, "f1": {-1: "MINUS"}}
    assert not compiled.schemas[0].problem()
    assert [field.type for field in compiled.schemas[0].fields] == ["enum", "senum"]
    assert run(compiled, vm.registers([2, 0xFFFFFFFF])) == [{"f0": 2, "f1": -1}]


def test_who_asks_for_the_end_again_wakes_nobody() -> None:
    made = program(GETPPID)
    compiled = build(made.replace(body=(c.Exit(number(7), SPAN),)))
    machine = vm.Machine(compiled.image)
    ring, produced = machine.rings()[0], []
    for _ in range(3):
        machine.run(bytes(64))
        produced.append(ring.produced)
    assert produced[0] == produced[1] == produced[2] > 0


# what need not be asked


def test_what_never_runs_twice_at_once_looks_for_no_ring() -> None:
    compiled = build(program(site("begin", 0), number(5)))
    assert {spec.name for spec in compiled.image.maps} == {"ring", "counts"}
    machine = vm.Machine(compiled.image, cpu=3)
    assert [decode(compiled.schemas[0], one)["f0"] for one in machine.run(b"").emitted] == [5]
    assert counters(machine, 1, 0)[0] == 1  # whichever CPU it was
    assert "rings" in {spec.name for spec in build(program(site("profile", 0), number(5))).image.maps}


def test_what_all_places_that_emit_give_alike_is_known_to_what_they_call() -> None:
    again = c.Emit((number(6),), SPAN)
    compiled = build(program(site("begin", 0), number(5), body=(again, again)), explain=True)
    assert re.search(r"invoke send \[\S+\]\n", compiled.ir)  # neither its size nor its counters
    machine = vm.Machine(compiled.image)
    frames = machine.run(b"").emitted
    assert [decode(compiled.schemas[0], one)["f0"] for one in frames] == [6, 6, 5]
    assert counters(machine, 1, 0)[0] == 3


def test_what_has_room_in_an_empty_ring_is_surely_not_refused() -> None:
    again = c.Emit((number(6),), SPAN)
    made = program(site("begin", 0), number(5), body=(again, again))
    assert fits_any_ring([made] * 20)
    assert not fits_any_ring([made] * 40)
    loop = c.Loop(number(0), 1, None, 3, (again,), SPAN)
    assert not fits_any_ring([program(site("begin", 0), number(5), body=(loop,))])
    for room in (False, True):
        compiled = build(made, room=room, explain=True)
        assert ("refused" in compiled.ir) is not room
        machine = vm.Machine(compiled.image)
        frames = machine.run(b"").emitted
        assert [decode(compiled.schemas[0], one)["f0"] for one in frames] == [6, 6, 5]
        assert counters(machine, 1, 0)[:2] == (3, 0)


def test_what_was_read_from_a_map_is_read_again_only_when_the_program_has_changed_it() -> None:
    map = c.Map("m", "hash", (t.U64,), t.U64, 64)
    key = (argument(0),)
    got = c.MapGet(map, key, t.U64, SPAN)
    wanted = c.Compare("lt", got, number(100), False, t.BOOL, SPAN)
    set_ = c.MapSet(map, key, (c.Binary("add", got, number(1), t.U64, SPAN),), SPAN)
    made = program(site("kprobe"), got, wanted=wanted, body=(c.Emit((got,), SPAN), set_))
    compiled = build(made, explain=True)
    own = compiled.ir.split("entry:")[1]
    assert own.count("call map_lookup_elem") == 2  # before it is set, and behind
    machine = vm.Machine(compiled.image)
    found = [decode(compiled.schemas[0], one)["f0"] for one in machine.run(vm.registers([7])).emitted]
    assert found == [0, 1]
    once = c.Select(wanted, number(1), got, t.U64, SPAN)  # read where the test fails only
    made = program(site("kprobe"), got, body=(c.Emit((once,), SPAN),))
    own = build(made, explain=True).ir.split("entry:")[1]
    assert own.count("call map_lookup_elem") == 1


def test_a_key_is_built_once_for_all_that_is_done_with_it() -> None:
    map = c.Map("m", "hash", (t.U64,), t.U64, 64)
    key = (argument(0),)
    got = c.MapGet(map, key, t.U64, SPAN)
    body = (c.MapSet(map, key, (number(1),), SPAN), c.MapDelete(map, key, SPAN))
    made = program(
        site("kprobe"), got, wanted=c.Compare("ne", got, number(0), False, t.BOOL, SPAN), body=body
    )
    ir = build(made, explain=True).ir
    assert sum(f"call map_{what}_elem" in ir for what in ("lookup", "update", "delete")) == 3
    assert len(re.findall(r"store 8 \[key", ir)) == 1


@pytest.mark.parametrize("signed", [False, True])
def test_buckets_of_powers_of_two(signed: bool) -> None:
    map = c.Map("m", "hist", (), t.S64 if signed else t.U64, 0, (0, 0, 0))
    value = argument(0, t.S64 if signed else t.U64)
    compiled = build(program(site("kprobe"), number(1), body=(c.Aggregate(map, (), value, SPAN),)))
    for bits in (*range(64), 64):
        for one in {(1 << bits) - 1, 1 << bits & (1 << 64) - 1, (1 << bits) + 1 & (1 << 64) - 1}:
            machine = vm.Machine(compiled.image)
            machine.run(vm.registers([one]))
            held = machine.maps["@m"]
            assert isinstance(held, vm.ArrayMap)
            words = struct.unpack(f"<{len(held.value()) // 8}Q", held.value())
            expected = 0 if signed and one >> 63 else one.bit_length() + 1
            assert [at for at, count in enumerate(words) if count] == [expected]


def test_an_array_of_characters_as_a_key_ends_at_its_nul() -> None:
    name = t.Text(16, "kernel")
    map = c.Map("m", "count", (name,), t.U64, 64)
    where = Site(
        "tracepoint", "a:b", (Param("comm", t.Array(t.Int(1, True, "", True), 16), CtxField(8, 16)),)
    )
    text = c.ReadText(place(c.Context(POINTER, SPAN), 8), name, SPAN, 16)
    made = program(where, number(1), body=(c.Aggregate(map, (text,), number(1, t.U64), SPAN),))
    compiled = build(made)
    for given, held in (
        (b"cat\0rest of it..", b"cat"),
        (b"sixteen letters!", b"sixteen letters!"),
        (bytes(16), b""),
    ):
        machine = vm.Machine(compiled.image)
        machine.run(bytes(8) + given + b"!" + bytes(7))
        entries = machine.maps["@m"]
        assert isinstance(entries, vm.HashMap)
        assert list(entries.entries()) == [held.ljust(24, b"\0")]
