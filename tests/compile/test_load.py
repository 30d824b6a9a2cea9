"""Compiled programs and the kernel's verifier: every kind, every option, programs of unusual size."""

import os
import re
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from kwire.bpf.arch import host
from kwire.bpf.task import TaskFields
from kwire.btf.store import load_kernel
from kwire.btf.types import Kind
from kwire.compile import loops
from kwire.compile.build import Compiled, compile_probe, task_fields
from kwire.compile.layout import CompileError
from kwire.kernel import prog
from kwire.kernel.maps import Map
from kwire.kernel.prog import Prog, VerifierError
from kwire.kernel.ring import Ring
from kwire.lang import checked as c
from kwire.lang import types as t
from kwire.lang.context import Argument, CtxField, Param, Result, Site
from kwire.lang.tree import Source, Span
from kwire.wire.schema import decode

pytestmark = [pytest.mark.live, pytest.mark.kernels("6.1")]  # the oldest verifier; the newest one judges here

SPAN = Span(1, 0, 1, 6)
STRICT = 1  # BPF_F_STRICT_ALIGNMENT
POINTER = t.Pointer(t.VOID)
COMM = c.Comm(t.Text(15), SPAN)
PID, TID = (c.Builtin(op, t.U32, SPAN) for op in ("pid", "tid"))
KINDS = ("kprobe", "kretprobe", "tracepoint", "rawtracepoint")


def argument(number: int, type_: t.Scalar = t.U64) -> c.Param:
    return c.Param(f"a{number}", Argument(number), type_, SPAN)


def load(base: Any, offset: int, type_: t.Scalar = t.U64, *indexes: c.Index) -> c.Load:
    return c.Load(c.Place(base, offset, indexes, t.KERNEL, SPAN), type_, SPAN)


def text(base: Any, limit: int, fixed: int = 0) -> c.ReadText:
    return c.ReadText(c.Place(base, 0, (), t.KERNEL, SPAN), t.Text(limit), SPAN, fixed)


def first(kind: str) -> c.Param:
    """Some 64-bit number of the context."""
    if kind == "tracepoint":
        return c.Param("x", CtxField(16, 8), t.U64, SPAN)
    return c.Param("r", Result(1), t.U64, SPAN) if kind in ("kretprobe", "fexit") else argument(0)


def program(kind: str, *values: Any, wanted: Any = None, body: tuple[c.Stmt, ...] = ()) -> c.Program:
    params = (Param("a", POINTER, Argument(0)),)
    where = Site(kind, "f", params if kind != "tracepoint" else ())
    fields = tuple(c.Field(f"f{n}", value.type) for n, value in enumerate(values))
    emit = c.Emit(tuple(values), SPAN)
    return c.Program(
        "load", where, Source("load.py", "emit()"), (c.Shape(fields),), (), wanted, (*body, emit), SPAN
    )


def build(made: c.Program, **options: Any) -> Compiled:
    given: dict[str, Any] = {"id": 1, "spec": "spec", "probes": 3, "cpus": os.cpu_count(), "tasks": False}
    return compile_probe(made, arch=host(), **given | options)


@contextmanager
def loaded(compiled: Compiled, flags: int = 0, target: int = 0) -> Iterator[tuple[Prog, Ring]]:
    """The program in the kernel, all its rings being one."""
    maps = {spec.name: Map.create(spec) for spec in compiled.image.maps}
    ring = next(spec.inner for spec in compiled.image.maps if spec.inner is not None)
    with Map.create(ring) as ring_map:
        for cpu in range(os.cpu_count() or 1):
            maps["rings"].update(struct.pack("<I", cpu), ring_map.fd)
        try:
            with (
                prog.load(compiled.image, maps, flags=flags, attach_btf_id=target) as made,
                Ring(ring_map) as reader,
            ):
                yield made, reader
        finally:
            for one in maps.values():
                one.close()


def events(compiled: Compiled, context: bytes) -> list[dict[str, Any]]:
    """What one run in the kernel emits."""
    with loaded(compiled) as (made, ring):
        made.test_run(context=context)
        frames = ring.read()
        found = [decode(compiled.schemas[0], frames.frame_bytes(n)) for n in range(len(frames))]
        ring.release()
    return found


def tasks_here() -> TaskFields:
    fields = task_fields(load_kernel().vmlinux)
    assert fields is not None
    return fields


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options", [{}, {"tasks": True}, {"tasks": True, "main": 7}, {"task": True}, {"cookie": True}]
)
def test_every_kind_with_every_option(kind: str, options: dict[str, Any]) -> None:
    if kind == "rawtracepoint":
        options = {**options, "cookie": False}  # older kernels give it none
    if "task" in options:
        options = {**options, "task": tasks_here()}
    base = first(kind)
    small = program(kind, PID, TID, COMM, base, load(base, 8), load(base, 20, t.S32))
    large = program(kind, COMM, text(base, 300), text(base, 40, 40), c.ReadBytes(
        c.Place(base, 4, (), t.KERNEL, SPAN), load(base, 0), t.Bytes(2000), SPAN
    ))  # fmt: skip
    with loaded(build(small, **options), STRICT):
        pass
    with loaded(build(large, **options)):
        pass


@pytest.mark.parametrize("kind", KINDS)
def test_called_loops_of_every_kind(kind: str) -> None:
    """Loops in a loop, each with events of two shapes, one of which is built in scratch memory."""
    base = first(kind)
    made = program(kind, PID, COMM, base, load(base, 8))
    large: tuple[Any, ...] = (COMM, text(base, 300), text(base, 40, 40))
    shape = c.Shape(tuple(c.Field(f"f{n}", value.type) for n, value in enumerate(large)), "large")
    turn = c.LocalSet(0, c.Turn(t.S64, SPAN), SPAN)
    stop = c.If(c.Compare("eq", load(base, 0), PID, False, t.BOOL, SPAN), (c.Return(SPAN),), (), SPAN)
    inner = c.Loop(
        number(0), 2, load(base, 0, t.U8), 300, (turn, c.Emit(large, SPAN, 1), c.Break(SPAN)), SPAN
    )
    outer = c.Loop(number(3), 1, None, 5000, (turn, stop, inner, made.body[-1]), SPAN)
    names = (c.Local("i", t.S64),)
    made = made.replace(shapes=(*made.shapes, shape), body=(outer, *made.body), locals=names)
    for options in ({"cookie": kind != "rawtracepoint"}, {"task": tasks_here(), "tasks": True}):
        compiled = build(made, loops=loops.ALL, **options)
        assert len(compiled.image.func_info) == 4 * 8  # the program, two loops, what gives records away
        with loaded(compiled):
            pass


def test_what_lies_in_the_record_of_a_tracepoint() -> None:
    context = c.Context(POINTER, SPAN)
    index = c.Index(load(context, 12, t.U32), 2, 9)
    values: list[Any] = [COMM]
    for base in (
        context,
        c.DataLocAddress(16, False, POINTER, SPAN),
        c.DataLocAddress(20, True, POINTER, SPAN),
    ):
        place = c.Place(base, 24, (index,), t.KERNEL, SPAN)
        values += [
            load(base, 25, t.U64),
            load(base, 32, t.U16, index),
            c.ReadText(c.Place(base, 24, (), t.KERNEL, SPAN), t.Text(30), SPAN),
            c.ReadText(c.Place(base, 20, (), t.KERNEL, SPAN), t.Text(30), SPAN, 16),
            c.ReadText(place, t.Text(30), SPAN, 24),
            c.ReadBlock(place, 12, t.Array(t.U32, 3), SPAN),
            c.ReadBytes(place, load(context, 12, t.U8), t.Bytes(40), SPAN),
            c.AddressOf(place, POINTER, SPAN),
        ]
    with loaded(build(program("tracepoint", *values))):
        pass
    for base in (context, c.DataLocAddress(16, False, POINTER, SPAN)):
        equal = c.TextEqual(text(base, 30), b"a text of some length", t.BOOL, SPAN)
        with loaded(build(program("tracepoint", COMM, wanted=equal)), STRICT):
            pass


@pytest.mark.needs("prog_fentry")
def test_fentry_and_fexit() -> None:
    target = load_kernel().vmlinux.find("vfs_read", Kind.FUNC)
    file, count = argument(0, POINTER), argument(2)
    params = (
        Param("file", POINTER, Argument(0)),
        Param("buf", POINTER, Argument(1)),
        Param("n", t.U64, Argument(2)),
    )
    result = Param("retval", t.S64, Result(4))
    for kind in ("fentry", "fexit"):
        values: list[Any] = [PID, COMM, file, c.Binary("and", file, count, t.U64, SPAN), load(file, 8), count]
        if kind == "fexit":
            values.append(c.Param("retval", Result(4), t.S64, SPAN))
        made = program(kind, *values)
        where = Site(kind, "vfs_read", params, result if kind == "fexit" else None)
        compiled = build(made.replace(site=where), task=tasks_here())
        with loaded(compiled, target=target):
            pass
        loop = c.Loop(number(0), 1, count, 100_000, made.body, SPAN)
        with loaded(build(made.replace(site=where, body=(loop,)), loops=loops.ALL), target=target):
            pass


def test_the_current_task_is_this_one() -> None:
    with open(f"/proc/self/task/{threading.get_native_id()}/comm") as file:
        comm = file.read().rstrip("\n")
    parent = c.Builtin("curtask", POINTER, SPAN)
    for task in (None, tasks_here()):
        compiled = build(program("rawtracepoint", PID, TID, COMM, parent), task=task)
        [event] = events(compiled, struct.pack("<QQ", 1, 2))
        assert list(event.values())[:3] == [os.getpid(), threading.get_native_id(), comm]
        assert event["f3"] >> 56 == 0xFF


def test_what_the_kernel_reads_of_itself() -> None:
    fields = tasks_here()
    current = c.Builtin("curtask", POINTER, SPAN)
    name = c.ReadText(c.Place(current, fields.comm, (), t.KERNEL, SPAN), t.Text(15), SPAN, 16)
    again = c.ReadText(c.Place(current, fields.comm, (), t.KERNEL, SPAN), t.Text(100), SPAN)
    pid, tgid = load(current, fields.pid, t.S32), load(current, fields.tgid, t.S32)
    nothing = load(number(0x1000), 0)
    [event] = events(build(program("rawtracepoint", COMM, name, again, pid, tgid, nothing)), bytes(8))
    assert event["f0"] == event["f1"] == event["f2"]
    assert (event["f3"], event["f4"], event["f5"]) == (threading.get_native_id(), os.getpid(), 0)


def number(value: int) -> c.Const:
    return c.Const(value, t.U64, SPAN)


# programs of unusual size


def test_more_values_at_once_than_registers() -> None:
    """A sum whose operands are all wanted before the first addition, twice."""
    parts: list[Any] = [load(argument(n % 3), 8 * n) for n in range(24)]
    total = parts[0]
    for part in reversed(parts[1:]):
        total = c.Binary("add", part, c.Binary("mul", total, part, t.U64, SPAN), t.U64, SPAN)
    compiled = build(program("rawtracepoint", total, *parts, total))
    with loaded(compiled):
        pass


def test_a_deep_chain() -> None:
    chain: Any = argument(0)
    for n in range(60):
        chain = load(chain, 8 * n)
    with loaded(build(program("kprobe", chain, PID))):
        pass


def test_many_texts_do_not_multiply_what_the_verifier_does() -> None:
    def work(count: int) -> int:
        texts = [text(load(argument(0), 8 * n), 64) for n in range(count)]
        with loaded(build(program("kprobe", *texts))) as (made, _):
            return made.info().insns

    if work(4):
        assert work(24) < 40 * work(4)
    with loaded(build(program("kprobe", *[COMM] * 40))):
        pass


def test_many_conditions() -> None:
    body: list[c.Stmt] = []
    for n in range(120):
        test = c.Compare("eq", load(argument(n % 4), 4 * n, t.U32), number(n), False, t.BOOL, SPAN)
        body.append(
            c.If(c.Logic("or", test, c.Not(PID, t.BOOL, SPAN), t.BOOL, SPAN), (c.Return(SPAN),), (), SPAN)
        )
    with loaded(build(program("rawtracepoint", PID, body=tuple(body)))):
        pass


def test_many_events_in_one_program() -> None:
    emit = program("rawtracepoint", PID, COMM).body[0]
    compiled = build(program("rawtracepoint", PID, COMM, body=(emit,) * 20))
    found = events(compiled, bytes(16))
    assert len(found) == 21
    assert {event["f0"] for event in found} == {os.getpid()}


def test_the_largest_records() -> None:
    data = c.ReadBytes(c.Place(argument(0), 0, (), t.KERNEL, SPAN), argument(1), t.Bytes(0x7FFF), SPAN)
    other = data.replace(type=t.Bytes(65480 - 24 - 0x7FFF))
    with loaded(build(program("kprobe", data, other), ring_size=1 << 20)):
        pass


def test_indexes_and_their_bounds() -> None:
    inside = load(argument(0), 4, t.U32, c.Index(argument(1), 8, 10), c.Index(PID, 4, 0))
    with loaded(build(program("rawtracepoint", inside, c.AddressOf(inside.place, POINTER, SPAN)))):
        pass


@pytest.mark.parametrize("limit", [8, 256, 1024])
def test_patterns_in_texts_of_every_length(limit: int) -> None:
    """The verifier follows the loops, and what comes after them once, not once for each place."""

    one = tuple(((ord(letter), ord(letter)),) for letter in "ab")
    odd = (((48, 57), (65, 70)), ((1, 255),), ((120, 120),))
    for pieces in ((one, ()), ((), one), ((), one, ()), (one, odd, one, odd, ()), ((), odd, odd, odd, one)):
        short = pieces if sum(map(len, pieces)) <= limit else pieces[:2]
        wanted = c.TextMatch(text(argument(0), limit), short, t.BOOL, SPAN)
        also = c.TextMatch(COMM, ((), one, ()), t.BOOL, SPAN)
        made = build(program("rawtracepoint", PID, also, wanted=c.Logic("or", wanted, also, t.BOOL, SPAN)))
        with loaded(made):
            pass


def test_a_program_that_needs_too_much_stack_says_so() -> None:
    values = [
        c.Binary("mul", argument(n % 8), load(argument(n % 8), 1000 * n), t.U64, SPAN) for n in range(90)
    ]
    test: Any = c.Binary("xor", values[0], values[1], t.U64, SPAN)
    for value in values[2:]:
        test = c.Binary("xor", value, test, t.U64, SPAN)
    with pytest.raises(CompileError, match=r"needs \d+ bytes of stack, there are 512"):
        build(program("kprobe", test, *values))


# what the verifier says leads to the source


def test_the_verifier_knows_the_source_lines() -> None:
    lines = "def probe(a):\n    emit(a)\n"
    made = program("kprobe", c.Param("a", Argument(0), t.U64, Span(2, 9, 2, 10)))
    made = made.replace(source=Source("probe.py", lines))
    compiled = build(made)
    assert [(line.line, line.column, line.text) for line in compiled.image.lines][1:2] == [
        (2, 10, "    emit(a)")
    ]
    with loaded(compiled) as (loaded_program, _):
        assert loaded_program.btf
    slot = next(line.insn for line in compiled.image.lines if line.line == 2)
    bad = bytearray(compiled.image.code)
    bad[8 * slot + 2 : 8 * slot + 4] = struct.pack("<h", 4000)  # the context has no such offset
    with (
        pytest.raises(VerifierError) as caught,
        loaded(compiled._replace(image=compiled.image._replace(code=bytes(bad)))),
    ):
        pass
    assert "probe.py:2: `emit(a)`" in str(caught.value)
    assert re.search(r"^; +emit\(a\)", caught.value.log, re.MULTILINE)
