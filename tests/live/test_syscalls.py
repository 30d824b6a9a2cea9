"""Probes on system calls by raw tracepoint: the same events, byte for byte, as by the ordinary tracepoint."""

import ctypes
import mmap
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from kwire.bpf.arch import host, named
from kwire.btf.store import load_kernel
from kwire.kernel import tracefs
from kwire.kernel.sys import PERF_ATTR_DISABLED, PERF_TYPE_TRACEPOINT, try_perf_event_open
from kwire.lang.tree import Probe
from kwire.live import planner, syscalls
from kwire.live.plan import Plan, Scope
from kwire.live.planner import make_plan
from kwire.live.processes import Processes
from kwire.live.tracer import Tracer
from kwire.wire.names import SYSCALLS

NUMBERS = SYSCALLS["x86_64"]
ON_X86 = pytest.mark.skipif(host().machine != "x86_64", reason="numbers are known for x86-64 only")
pytestmark = [pytest.mark.live, pytest.mark.kernels("6.1"), ON_X86]  # the oldest; the newest is here

LIBC = ctypes.CDLL(None, use_errno=True)
CALLS = 300


def call(name: str, *arguments: int) -> None:
    """One system call, whatever it answers; arguments are all 64 bits of the registers."""
    LIBC.syscall(ctypes.c_long(NUMBERS[name]), *(ctypes.c_ulong(value) for value in arguments))


def wide(low: int) -> int:
    """The low 32 bits given, the high ones random: what an `int` argument must not take in."""
    return random.getrandbits(31) << 32 | low & 0xFFFF_FFFF


def junk() -> int:
    return random.getrandbits(64)


TEXTS = [
    ctypes.create_string_buffer(text) for text in (b"", b"/etc/passwd", b"/" + b"long/" * 70, b"/tmp/x\xff")
]


def path() -> int:
    return random.choice([0, junk(), *map(ctypes.addressof, TEXTS)])


BAD = 1 << 30  # no descriptor
SUBJECTS: dict[str, Callable[[], tuple[int, ...]]] = {
    "getppid": lambda: (junk(), junk()),
    "openat": lambda: (wide(-100), path(), wide(os.O_RDONLY), junk()),
    "newstat": lambda: (path(), junk()),
    "access": lambda: (path(), wide(4)),
    "read": lambda: (wide(BAD), junk(), junk()),
    "lseek": lambda: (wide(BAD), junk(), junk()),
    "fcntl": lambda: (wide(BAD), wide(1), junk()),
    "sendfile64": lambda: (wide(BAD), wide(BAD), 0, junk()),
    "newuname": lambda: (0,),
    "close": lambda: (wide(BAD),),
    "mremap": lambda: (1, junk(), junk(), junk(), junk()),
    "pselect6": lambda: (wide(-1), 0, 0, 0, 0, 0),
}


@contextmanager
def child(work: Callable[[], None]) -> Iterator[tuple[int, Callable[[], None]]]:
    """A process that does the work when it is told to: (its id, what tells it and waits for its end)."""
    gate, opener = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # both programs note the same CPU
            os.read(gate, 1)
            work()
        finally:
            os._exit(0)
    waited = False

    def go() -> None:
        nonlocal waited
        os.write(opener, b"g")
        waited = os.waitpid(pid, 0)[1] == 0

    try:
        yield pid, go
    finally:
        os.close(gate)
        os.close(opener)
        if not waited:
            os.waitpid(pid, 0)


def ordinary(monkeypatch: pytest.MonkeyPatch, make: Callable[[], Plan]) -> Plan:
    """The plan as it is without raw tracepoints."""
    with monkeypatch.context() as patch:
        patch.setattr(syscalls, "by_raw_tracepoint", lambda *_: None)
        return make()


def observe(plans: list[Plan], work: Callable[[], None]) -> list[list[bytes]]:
    """What traces of the same process at the same time saw: the fields of the events, in order of time."""
    tracers: list[Tracer] = []
    with child(work) as (pid, go):
        try:
            for plan in plans:
                tracers.append(Tracer(plan, follow=True))
                with Processes([pid]) as processes:
                    tracers[-1].follow(processes)
            for tracer in tracers:
                tracer.attach()
            go()
            seen = []
            for tracer in tracers:
                assert tracer.missed() == []
                tracer.detach()
                frames = [bytes(f.frame_bytes(n)) for f in tracer.settle() for n in range(f.count)]
                assert tracer.balanced()
                frames.sort(key=lambda frame: int.from_bytes(frame[8:16], "little"))
                seen.append([frame[:8] + frame[16:] for frame in frames])
            return seen
        finally:
            for tracer in tracers:
                tracer.close()


def kinds(plan: Plan) -> list[str]:
    return [group.kind for group in plan.groups]


@pytest.mark.parametrize("where", ["enter", "exit"])
@pytest.mark.parametrize("name", SUBJECTS)
def test_the_same_events(name: str, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    random.seed(f"{name} {where}")

    def work() -> None:
        for _ in range(CALLS):
            call(name, *SUBJECTS[name]())
            call(random.choice(list(SUBJECTS)), wide(BAD))

    def make() -> Plan:
        return make_plan([f"tracepoint:syscalls:sys_{where}_{name}"], scope=Scope(True))

    plans = [make(), ordinary(monkeypatch, make)]
    assert [kinds(plan) for plan in plans] == [["rawtracepoint"], ["tracepoint"]]
    assert plans[0].schemas == plans[1].schemas
    raw, tracepoint = observe(plans, work)
    assert len(raw) >= CALLS
    assert raw == tracepoint


def test_filters_and_expressions(monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> Plan:
        spec = "tracepoint:syscalls:sys_enter_lseek(offset, __syscall_nr, double=offset * 2)"
        return make_plan([spec], "offset % 3 == 1 and whence != 7", scope=Scope(True))

    def work() -> None:
        for number in range(CALLS):
            call("lseek", wide(BAD), number, number % 8)

    raw, tracepoint = observe([make(), ordinary(monkeypatch, make)], work)
    assert len(raw) == sum(number % 3 == 1 and number % 8 != 7 for number in range(CALLS))
    assert raw == tracepoint


def test_calls_made_the_32_bit_way_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """`int $0x80` with the number that getppid has for 64-bit calls, and the one that it has there."""
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(bytes.fromhex("53 89f8 31db cd80 5b c3"))  # push rbx; eax = edi; ebx = 0; int 0x80; pop; ret
    here = ctypes.c_char.from_buffer(code)
    old_way = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(ctypes.addressof(here))

    def work() -> None:
        for _ in range(10):
            old_way(64)  # getppid of 32 bits, semget of 64
            old_way(NUMBERS["getppid"])  # iopl of 32 bits
            os.getppid()

    for spec in ("enter_getppid", "exit_getppid", "enter_semget"):

        def make(spec: str = spec) -> Plan:
            return make_plan([f"tracepoint:syscalls:sys_{spec}"], scope=Scope(True))

        raw, tracepoint = observe([make(), ordinary(monkeypatch, make)], work)
        assert raw == tracepoint
        assert len(raw) == (10 if "getppid" in spec else 0)


def test_numbers_are_the_kernels_own() -> None:
    """Each tracepoint's perf event leads to the kernel's own description of the call, name and number."""
    probe = """
@tracepoint("syscalls:sys_enter_getppid")
def look():
    event = cast("struct perf_event *", curtask.files.fdt.fd[200].private_data)
    call = cast("struct syscall_metadata *", event.tp_event.data)
    emit(number=call.syscall_nr, name=str(kernel(call.name)))
"""
    events = tracefs.shared()
    there = {name.removeprefix("sys_enter_") for name in events.events("syscalls") if "enter" in name}
    known = sorted(there & NUMBERS.keys())
    assert len(known) > 300
    chosen = random.sample(known, 24)  # closing an event takes the kernel a while

    def work() -> None:
        for name in chosen:
            number = events.event_id("syscalls", f"sys_enter_{name}")
            fd, error = try_perf_event_open(
                -1, 0, type=PERF_TYPE_TRACEPOINT, config=number, flags=PERF_ATTR_DISABLED
            )
            assert not error
            os.dup2(fd, 200)
            os.close(fd)
            os.getppid()

    plan = make_plan(parsed(probe), scope=Scope(True))
    [seen] = observe([plan], work)
    decode = plan.schemas[0].decoder()
    told = [decode(frame[:8] + bytes(8) + frame[8:]) for frame in seen]
    assert told == [(NUMBERS[name], f"sys_{name}") for name in chosen]


def parsed(text: str) -> list[Probe]:
    from kwire.lang.python import parse_file

    return parse_file(text, "test.py")


def test_what_stays_an_ordinary_tracepoint(monkeypatch: pytest.MonkeyPatch) -> None:
    getppid, openat = (f"tracepoint:syscalls:sys_enter_{name}" for name in ("getppid", "openat"))
    assert kinds(make_plan([getppid])) == ["rawtracepoint"]
    assert "rawtracepoint" not in kinds(make_plan([getppid, openat]))
    assert "rawtracepoint" not in kinds(make_plan(["tracepoint:syscalls:sys_*_getppid"]))
    assert sorted(kinds(make_plan([getppid, "tracepoint:sched:sched_switch"]))) == [
        "rawtracepoint",
        "tracepoint",
    ]
    with monkeypatch.context() as patch:
        patch.setattr(syscalls, "SYSCALLS", {"x86_64": {}})
        assert kinds(make_plan([getppid])) == ["tracepoint"]
    with monkeypatch.context() as patch:
        patch.setattr(planner, "host", lambda: named("aarch64"))
        patch.setattr(syscalls, "SYSCALLS", {"x86_64": NUMBERS})
        assert kinds(make_plan([getppid])) == ["tracepoint"]


def test_a_record_of_another_shape_is_left_alone() -> None:
    from kwire.kernel.formats import parse_format
    from kwire.lang import attach_points, record
    from kwire.lang.kerneltypes import KernelTypes

    kernel = load_kernel()
    text = tracefs.shared().read("events/syscalls/sys_enter_openat/format").decode()
    fields = parse_format(text).fields
    string = fields[0]._replace(name="path", type="char", offset=56, size=4, length=0, location="data_loc")
    odd = fields[1]._replace(name="odd", offset=12, size=4)

    def fits(*more: object) -> bool:
        site = attach_points.tracepoint("syscalls", "sys_enter_openat", [*fields, *more], KernelTypes(kernel))  # type: ignore[list-item]
        program = record.program(site, KernelTypes(kernel))
        return syscalls.by_raw_tracepoint(program, kernel.vmlinux, host()) is not None

    assert fits()
    assert not fits(string)
    assert not fits(odd)
