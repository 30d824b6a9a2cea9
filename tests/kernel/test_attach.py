"""Attaching, live: programs run where they hang, only there, and go when their link goes."""

from __future__ import annotations

import errno
import os
import signal
import struct
import time
from collections.abc import Callable
from typing import Any

import pytest
from traces import open_descriptors

from kwire.bpf.arch import host
from kwire.bpf.asm import R0, R1, R6, call, ldx, mov64
from kwire.bpf.helpers import HELPERS
from kwire.bpf.image import Image
from kwire.kernel import attach as attaching
from kwire.kernel import tracefs
from kwire.kernel.attach import AttachError, Link, attach, attach_multi
from kwire.kernel.maps import Map
from kwire.kernel.prog import load
from kwire.kernel.symbols import kernel_symbols
from kwire.kernel.sys import PERF_TYPE_TRACEPOINT, bpf, failure, online_cpus, try_bpf, try_perf_event_open
from kwire.kernel.syscall import KernelError

GETPPID = "syscalls:sys_enter_getppid"
COOKIE = [mov64(R1, R6), call(HELPERS["get_attach_cookie"].id)]
Counting = Callable[..., Image]


def getppid(times: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(times):
            os.getppid()

    return run


def getsid(times: int = 1) -> Callable[[], None]:
    """Calls that go through a function of the kernel proper, __do_sys_getsid or __x64_sys_getsid."""

    def run() -> None:
        for _ in range(times):
            os.getsid(0)

    return run


PREFIX = {"x86_64": "__x64_", "aarch64": "__arm64_"}.get(os.uname().machine, "")
SYS_GETSID = f"{PREFIX}sys_getsid"


@pytest.mark.needs("tracepoint")
def test_a_program_is_taken_away_before_its_event(hits: Any, counting: Counting) -> None:
    with load(counting("tracepoint", result=1), {"hits": hits.map}) as prog:
        link = attach(prog, "tracepoint", GETPPID)
    assert hits.since(getppid(3)) == 3
    left = link.detach()
    assert hits.since(getppid(3)) == 0
    assert [event.closed for event in left] == [False] * len(left)
    assert len(left) == link.is_link
    for event in left:
        event.close()
    assert link.closed
    assert link.detach() == ()


@pytest.mark.needs("tracepoint")
@pytest.mark.parametrize("result", [0, 1])
def test_a_tracepoint_runs_its_program_each_time(hits: Any, counting: Counting, result: int) -> None:
    with load(counting("tracepoint", result=result), {"hits": hits.map}) as prog:
        link = attach(prog, "tracepoint", GETPPID)
    assert link.mechanism == "tracepoint"
    assert hits.since(getppid(1000)) == 1000
    assert hits.since(getsid(10)) == 0
    assert link.missed == 0
    link.close()
    link.close()
    assert hits.since(getppid(100)) == 0


@pytest.mark.needs("tracepoint")
def test_a_disabled_event_still_runs_programs_on_every_cpu(hits: Any, counting: Counting) -> None:
    """What attach relies on: it opens the event on one CPU, disabled, and never enables it."""
    before = os.sched_getaffinity(0)
    with (
        load(counting("tracepoint"), {"hits": hits.map}) as prog,
        attach(prog, "tracepoint", GETPPID),
    ):
        try:
            for cpu in online_cpus():
                os.sched_setaffinity(0, [cpu])
                assert hits.since(getppid(500)) == 500, cpu
        finally:
            os.sched_setaffinity(0, before)


@pytest.mark.needs("tracepoint")
def test_two_programs_on_one_tracepoint(hits: Any, counting: Counting) -> None:
    with (
        load(counting("tracepoint", result=1), {"hits": hits.map}) as prog,
        load(counting("tracepoint", result=0), {"hits": hits.map}) as other,
        attach(prog, "tracepoint", GETPPID),
    ):
        with attach(other, "tracepoint", GETPPID):
            assert hits.since(getppid(10)) == 20
        assert hits.since(getppid(10)) == 10


@pytest.mark.needs("tracepoint")
def test_a_perf_user_of_the_tracepoint_still_sees_it(hits: Any, counting: Counting) -> None:
    number = tracefs.shared().event_id("syscalls", "sys_enter_getppid")
    fd, error = try_perf_event_open(0, -1, type=PERF_TYPE_TRACEPOINT, config=number, sample_period=1)
    assert not error
    try:
        with (
            load(counting("tracepoint", result=1), {"hits": hits.map}) as prog,
            attach(prog, "tracepoint", GETPPID),
        ):
            assert hits.since(getppid(10)) == 10
        assert struct.unpack("=Q", os.read(fd, 8)) == (10,)
    finally:
        os.close(fd)


@pytest.mark.needs("tracepoint")
def test_a_tracepoint_gives_its_cookie(hits: Any, counting: Counting) -> None:
    image = counting("tracepoint", note=COOKIE)
    with load(image, {"hits": hits.map}) as prog, attach(prog, "tracepoint", GETPPID, 0x1234567890AB):
        assert hits.since(getppid(1)) == 1
    assert hits.last == 0x1234567890AB


@pytest.mark.needs("tracepoint")
def test_without_links_the_program_is_set_on_the_event(
    hits: Any, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def old_kernel(command: str, **fields: Any) -> Any:
        if command == "link_create_perf":
            return -1, errno.EINVAL, None
        return try_bpf(command, **fields)

    monkeypatch.setattr(attaching, "try_bpf", old_kernel)
    with load(counting("tracepoint", result=1), {"hits": hits.map}) as prog:
        with attach(prog, "tracepoint", GETPPID) as link:
            assert not link.is_link
            assert link.missed == 0
            assert hits.since(getppid(100)) == 100
        assert hits.since(getppid(100)) == 0
        with pytest.raises(AttachError, match="no cookies"):
            attach(prog, "tracepoint", GETPPID, 1)


@pytest.mark.needs("rawtracepoint")
def test_a_raw_tracepoint(hits: Any, counting: Counting) -> None:
    # the second argument of sys_enter is the number of the system call
    image = counting("rawtracepoint", note=[ldx("dw", R0, R6, 8)])
    with load(image, {"hits": hits.map}) as prog:
        with attach(prog, "rawtracepoint", "sys_enter") as link:
            assert hits.since(getppid(100)) >= 100
            assert hits.last == {"x86_64": 110, "aarch64": 173}[os.uname().machine]
            assert link.mechanism == "rawtracepoint"
        assert hits.since(getppid(100)) == 0


@pytest.mark.needs("tracepoint")
def test_a_killed_process_leaves_nothing(hits: Any, counting: Counting) -> None:
    ready, go_on = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if not pid:
        prog = load(counting("tracepoint", pid=parent), {"hits": hits.map})
        link = attach(prog, "tracepoint", GETPPID)
        os.write(go_on, b"x")
        while os.getppid() == parent:
            time.sleep(0.1)
        os._exit(link.missed)
    os.close(go_on)
    try:
        assert os.read(ready, 1) == b"x"
        assert hits.since(getppid(10)) == 10
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ready)
    assert hits.since(getppid(10)) == 0


# (kind, target, words)
WRONG = [
    ("tracepoint", "syscalls:sys_enter_nothing", "no such event"),
    ("tracepoint", "nothing", "no name of an event"),
    ("tracepoint", "../..:x", "no name of an event"),
    ("rawtracepoint", "no_such_tracepoint", "no such tracepoint"),
    ("no such kind", "x", "no such kind of probe"),
]


@pytest.mark.live
@pytest.mark.parametrize(("kind", "target", "words"), WRONG)
def test_what_cannot_be_attached_is_explained(
    kind: str, target: str, words: str, counting: Counting, hits: Any
) -> None:
    with (
        load(
            counting("rawtracepoint" if kind == "rawtracepoint" else "tracepoint"), {"hits": hits.map}
        ) as prog,
        pytest.raises(KernelError, match=words) as caught,
    ):
        attach(prog, kind, target)
    assert "\n" not in str(caught.value)


@pytest.mark.live
def test_a_program_of_another_kind_is_refused(counting: Counting, hits: Any) -> None:
    with load(counting("kprobe"), {"hits": hits.map}) as prog, pytest.raises(KernelError):
        attach(prog, "tracepoint", GETPPID)


@pytest.mark.live
def test_reading_past_a_tracepoint_is_explained(counting: Counting, hits: Any) -> None:
    image = counting("tracepoint", note=[ldx("dw", R0, R6, 512)])
    with (
        load(image, {"hits": hits.map}) as prog,
        pytest.raises(AttachError, match="reads beyond what this tracepoint gives"),
    ):
        attach(prog, "tracepoint", GETPPID)


@pytest.mark.live
def test_kprobes_that_are_not_there_are_explained(
    counting: Counting, hits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attaching, "PMU", "/nowhere")
    with (
        load(counting("kprobe"), {"hits": hits.map}) as prog,
        pytest.raises(AttachError, match=r"no kprobes.*CONFIG_KPROBES"),
    ):
        attach(prog, "kprobe", "vfs_read")


@pytest.mark.needs("kprobe")
def test_a_kprobe_runs_with_the_arguments_of_the_function(hits: Any, counting: Counting) -> None:
    registers = host()
    image = counting("kprobe", note=[ldx("dw", R0, R6, registers.args[0])])
    with load(image, {"hits": hits.map}) as prog:
        with attach(prog, "kprobe", SYS_GETSID) as link:
            assert hits.since(getsid(5)) == 5
            assert hits.last >> 47  # the address of the saved registers, kernel memory
            assert link.missed == 0
        assert hits.since(getsid(5)) == 0


@pytest.mark.needs("kprobe")
def test_a_kretprobe_runs_with_the_result(hits: Any, counting: Counting) -> None:
    image = counting("kretprobe", note=[ldx("dw", R0, R6, host().ret)])
    with load(image, {"hits": hits.map}) as prog, attach(prog, "kretprobe", SYS_GETSID, 7) as link:
        assert hits.since(getsid(5)) == 5
        assert hits.last == os.getsid(0)
        assert link.missed == 0


@pytest.mark.needs("kprobe")
def test_a_kprobe_inside_a_function_and_by_address(hits: Any, counting: Counting) -> None:
    address = kernel_symbols().addresses(SYS_GETSID)[0]
    with load(counting("kprobe", note=COOKIE), {"hits": hits.map}) as prog:
        for number, target in enumerate((f"{SYS_GETSID}+0", f"{SYS_GETSID}+0x0", hex(address)), 1):
            with attach(prog, "kprobe", target, number):
                assert hits.since(getsid(3)) == 3, target
                assert hits.last == number
        with pytest.raises(AttachError):
            attach(prog, "kprobe", f"{SYS_GETSID}+1")  # inside the first instruction, or of the ftrace call


@pytest.mark.needs("kprobe", "module")
def test_a_function_of_a_module(counting: Counting, hits: Any, kernel_module: str) -> None:
    names = [name for name, module in fresh_functions() if module == kernel_module and "xmit" in name]
    with load(counting("kprobe"), {"hits": hits.map}) as prog:
        attach(prog, "kprobe", f"{kernel_module}:{names[0]}").close()
        with pytest.raises(AttachError):
            attach(prog, "kprobe", f"no_such_module:{names[0]}")


def fresh_functions() -> list[tuple[str, str]]:
    from kwire.kernel.symbols import Symbols

    return list(Symbols.read().functions())


@pytest.mark.needs("kprobe")
@pytest.mark.parametrize(
    ("kind", "target", "words"),
    [
        ("kprobe", "no_such_function", "no such function"),
        ("kprobe", "a b", "that is no function"),
        ("kprobe", "", "that is no function"),
        ("kretprobe", "vfs_read+4", "leave the offset out"),
        ("kprobe", "vfs_read+0x7fffffff", "attach to"),
    ],
)
def test_kprobes_that_cannot_be(kind: str, target: str, words: str, counting: Counting, hits: Any) -> None:
    with load(counting(kind), {"hits": hits.map}) as prog, pytest.raises(AttachError, match=words):
        attach(prog, kind, target)


@pytest.mark.needs("kprobe_multi")
@pytest.mark.parametrize("on_return", [False, True])
@pytest.mark.parametrize("by_address", [False, True])
def test_many_functions_by_one_link(hits: Any, counting: Counting, on_return: bool, by_address: bool) -> None:
    names = [SYS_GETSID, SYS_GETSID.replace("getsid", "getpgid")]
    targets: list[tuple[str | int, int]] = [
        (kernel_symbols().addresses(name)[0] if by_address else name, 100 + number)
        for number, name in enumerate(names)
    ]
    image = counting("kretprobe" if on_return else "kprobe", note=COOKIE)
    with load(image, {"hits": hits.map}, multi=True) as prog:
        with attach_multi(prog, targets, on_return=on_return) as link:
            assert hits.since(getsid(5)) == 5
            assert hits.last == 100
            assert hits.since(lambda: os.getpgid(0)) == 1
            assert hits.last == 101
            assert link.missed == 0
        assert hits.since(getsid(5)) == 0


@pytest.mark.needs("kprobe_multi")
def test_one_bad_name_attaches_none(hits: Any, counting: Counting) -> None:
    with load(counting("kprobe"), {"hits": hits.map}, multi=True) as prog:
        with pytest.raises(AttachError):
            attach_multi(prog, [(SYS_GETSID, 1), ("no_such_function", 2)])
        with pytest.raises(AttachError, match="kprobe:no_such_function: it is not in the kernel, or not"):
            attach_multi(prog, [("no_such_function", 2)])
        assert hits.since(getsid(5)) == 0


@pytest.mark.live
@pytest.mark.parametrize(
    ("targets", "words"), [([], "none was given"), ([("a", 0), (1, 0)], "cannot be mixed")]
)
def test_multi_targets_that_make_no_sense(
    targets: list[tuple[str | int, int]], words: str, counting: Counting, hits: Any
) -> None:
    with load(counting("kprobe"), {"hits": hits.map}) as prog, pytest.raises(AttachError, match=words):
        attach_multi(prog, targets)


@pytest.mark.needs("fentry")
@pytest.mark.parametrize("kind", ["fentry", "fexit"])
@pytest.mark.parametrize("cookie", [0, 99])
def test_function_entry_and_exit(hits: Any, counting: Counting, kind: str, cookie: int) -> None:
    from kwire.kernel.prog import function_btf_id

    # after the one argument comes the result, for fexit
    image = counting(kind, note=COOKIE if cookie else [ldx("dw", R0, R6, 8 if kind == "fexit" else 0)])
    with load(image, {"hits": hits.map}, attach_btf_id=function_btf_id(SYS_GETSID)) as prog:
        with attach(prog, kind, SYS_GETSID, cookie) as link:
            assert link.mechanism == kind
            assert hits.since(getsid(5)) == 5
        assert hits.since(getsid(5)) == 0
    if cookie:
        assert hits.last == cookie
    elif kind == "fexit":
        assert hits.last == os.getsid(0)


@pytest.mark.needs("fentry", "module")
def test_the_entry_of_a_function_of_a_module(counting: Counting, hits: Any, kernel_module: str) -> None:
    from kwire.btf.store import load_kernel
    from kwire.btf.types import Kind

    name = f"{kernel_module}_xmit"
    number = load_kernel().module(kernel_module).find(name, Kind.FUNC)
    with (
        load(counting("fexit"), {"hits": hits.map}, attach_btf_id=number, module=kernel_module) as prog,
        attach(prog, "fexit", f"{kernel_module}:{name}"),
    ):
        assert hits.since(getsid(1)) == 0
    with pytest.raises(KernelError, match="no such module"):
        load(counting("fexit"), {"hits": hits.map}, attach_btf_id=number, module="no_such_module")


@pytest.mark.live
def test_descriptors_do_not_leak_where_attaching_fails(counting: Counting, hits: Any) -> None:
    with load(counting("tracepoint"), {"hits": hits.map}) as prog:
        before = open_descriptors()
        for kind, target in (
            ("tracepoint", "sched:nothing"),
            ("kprobe", "x y"),
            ("rawtracepoint", "nothing"),
        ):
            with pytest.raises(KernelError):
                attach(prog, kind, target)
        with attach(prog, "tracepoint", GETPPID) as link:
            assert open_descriptors() == before + 1 + link.is_link, "its event is closed after it"
        assert open_descriptors() == before
        assert Link.__slots__
        assert Map.__slots__


def test_the_bpf_call_of_a_closed_program_says_so() -> None:
    assert "EBADF" in str(failure("x", "y", errno.EBADF))
    with pytest.raises(KernelError):
        bpf("link_create_perf", prog_fd=-1, target_fd=-1)
