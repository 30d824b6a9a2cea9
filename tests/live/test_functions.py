"""Probes on functions in the kernel: arguments and results of every width, names that stand for several."""

# Names and annotations inside of probes are the probe language's, not Python's.
# ruff: noqa: F821
# mypy: ignore-errors

import contextlib
import errno
import os
import re
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import kwire
from kwire.errors import KwireError
from kwire.kernel import symbols
from kwire.kernel.tracefs import Tracefs
from kwire.live.plan import Scope
from kwire.live.planner import make_plan
from kwire.live.processes import Processes
from kwire.live.tracer import Tracer

EXEC = "tracepoint:sched:sched_process_exec"
ENOPROTOOPT = -errno.ENOPROTOOPT
SO_COOKIE = 57


def options() -> None:
    """Three calls of setsockopt on TCP: one with 8 bytes, one with 4, one of an option that is not there."""
    with socket.socket() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, b"\1\0\0\0\0\0\0\0")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, b"\0\0\0\0")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, 9999, b"\0\0\0\0")


def seen(probe) -> list[tuple[int, ...]]:
    with kwire.trace(probe, pid=os.getpid()) as events:
        options()
        columns = events.columns()
    own = [columns[name].tolist() for name in columns if not name.startswith("time")]
    return list(zip(*own, strict=True))


@pytest.mark.needs("kprobe")
def test_the_entry_with_a_structure_by_value() -> None:
    @kwire.kprobe("do_tcp_setsockopt")
    def setting(sk, level, optname, optval, optlen):
        emit(level, optname, optlen, inside=optval.is_kernel, empty=optval.user == 0)

    assert seen(setting) == [(6, 1, 8, 0, 0), (6, 1, 4, 0, 0), (6, 9999, 4, 0, 0)]


@pytest.mark.needs("fentry")
@pytest.mark.parametrize("kind", [kwire.fentry, kwire.fexit])
def test_the_context_with_a_structure_by_value(kind) -> None:
    @kind("do_tcp_setsockopt")
    def setting(sk, level, optname, optval, optlen):
        emit(level, optname, optlen, inside=optval.is_kernel, empty=optval.user == 0)

    assert seen(setting) == [(6, 1, 8, 0, 0), (6, 1, 4, 0, 0), (6, 9999, 4, 0, 0)]


@pytest.mark.needs("kprobe", "fentry")
@pytest.mark.parametrize("kind", [kwire.kretprobe, kwire.fexit])
def test_the_result_after_a_structure_by_value(kind) -> None:
    @kind("do_tcp_setsockopt")
    def done():
        emit(retval)

    assert seen(done) == [(0,), (0,), (ENOPROTOOPT,)]


@pytest.mark.needs("fentry")
def test_the_cookie_of_a_socket_is_what_its_owner_is_told() -> None:
    @kwire.fentry("do_tcp_setsockopt")
    def setting(sk):
        emit(cookie=socket_cookie(sk))

    with kwire.trace(setting, pid=os.getpid()) as events, socket.socket() as one, socket.socket() as other:
        for sock in (one, other):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        cookies = events.columns()["cookie"].tolist()
        told = [
            struct.unpack("Q", sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8))[0] for sock in (one, other)
        ]
    assert cookies == told


def ftraced(tracing: Tracefs, function: str, work) -> int:
    """How often this process calls functions of a name during `work`, by the kernel's own function tracer."""

    def put(file: str, text: str) -> None:
        fd = os.open(file, os.O_WRONLY | os.O_TRUNC, dir_fd=tracing.fd)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)

    put("set_ftrace_filter", function)
    put("set_ftrace_pid", str(os.getpid()))
    put("current_tracer", "function")
    try:
        put("trace", " ")
        work()
        return len(re.findall(rb": %s <-" % function.encode(), tracing.read("trace")))
    finally:
        put("current_tracer", "nop")
        put("set_ftrace_filter", " ")
        put("set_ftrace_pid", " ")


def lists() -> None:
    """Reads files that three functions called c_start begin."""
    for name in ("cpuinfo", "consoles", "crypto"):
        Path("/proc", name).read_bytes()


@pytest.mark.guest
@pytest.mark.needs("kprobe")
@pytest.mark.parametrize("spec", ["kprobe:c_start", "fentry:c_start", "kprobe:c_star*", "kretprobe:c_start"])
def test_a_name_that_stands_for_several_functions(spec: str) -> None:
    counted = ftraced(Tracefs.open(), "c_start", lists)
    plan = make_plan([spec], scope=Scope(True))
    with Tracer(plan, follow=True) as tracer, Processes([os.getpid()]) as processes:
        tracer.follow(processes)
        tracer.attach()
        lists()
        tracer.detach()
        events = sum(frames.count for frames in tracer.settle())
        plan = tracer.plan
    assert len(plan.schemas) == 1
    assert events == counted >= 3
    assert "is 3 functions" in plan.notes[0]
    assert not plan.skipped


@pytest.mark.guest
@pytest.mark.needs("kprobe")
def test_a_script_is_at_all_functions_of_a_name() -> None:
    cat = "cat /proc/cpuinfo /proc/consoles /proc/crypto"
    words = [sys.executable, "-m", "kwire", "-e", "kprobe:c_start /pid == cpid/ { @ += 1; }", "-c", cat]
    ran = subprocess.run(words, capture_output=True, text=True)
    counted = re.search(r"^@: (\d+)$", ran.stdout, re.MULTILINE)
    assert counted, ran.stderr
    assert int(counted[1]) >= 3


@pytest.mark.needs("kprobe", "missed")
def test_the_table_of_symbols_is_not_read_where_the_kernel_tells_that_a_name_is_one_functions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def read() -> None:
        raise AssertionError("the table is read")

    monkeypatch.setattr(symbols, "kernel_symbols", read)
    with Tracer(make_plan(["kprobe:vfs_fsync_range", "kretprobe:vfs_fsync_range"])) as tracer:
        tracer.attach()
        assert tracer.plan.assumed == {"vfs_fsync_range"}


@pytest.mark.needs("fentry")
def test_what_a_wildcard_cannot_have_is_left_out_counted_and_named() -> None:
    plan = make_plan(["fentry:seq_p*"], scope=Scope(True))
    with Tracer(plan, follow=True) as tracer:
        tracer.attach()
        names = [schema.target for schema in tracer.plan.schemas]
        refused = [target for target, _ in tracer.plan.skipped]
        assert [schema.id for schema in tracer.plan.schemas] == list(range(1, len(names) + 1))
    assert "fentry:seq_printf" in refused  # its arguments are of variable number
    assert "seq_path" in names
    assert "seq_printf" not in names


@pytest.mark.needs("fentry")
def test_what_is_named_in_full_is_an_error() -> None:
    plan = make_plan(["fentry:seq_printf"])
    with pytest.raises(KwireError, match="seq_printf with variable args"):
        Tracer(plan)


@pytest.mark.needs("kprobe")
def test_one_bad_target_does_not_end_the_others() -> None:
    plan = make_plan(["kprobe:vfs_re*(nsecs)"], scope=Scope(True))
    [group] = plan.groups
    at = next(at for at, point in enumerate(group.points) if point.target == "vfs_readlink")
    points = list(group.points)
    points[at] = points[at]._replace(target="vfs_no_such_function")
    plan = plan._replace(groups=(group._replace(points=tuple(points)),))
    with Tracer(plan, follow=True) as tracer, Processes([os.getpid()]) as processes:
        tracer.follow(processes)
        tracer.attach()
        Path("/etc/hostname").read_bytes()
        tracer.detach()
        assert sum(frames.count for frames in tracer.settle()) > 0
        assert [target for target, _ in tracer.plan.skipped] == ["kprobe:vfs_readlink"]
        assert len(tracer.plan.schemas) == len(plan.schemas) - 1


@pytest.mark.live
@pytest.mark.native
def test_equal_targets_are_one_probe() -> None:
    plan = make_plan(
        [
            "tracepoint:sched:sched_process_*",
            "tracepoint:sched:sched_process_exec",
            "tracepoint:sched:sched_process_exec(filename)",
            "tracepoint:sched:sched_process_exec(other=filename)",
        ],
        scope=Scope(True),
    )
    names = [schema.probe for schema in plan.schemas]
    assert names.count(EXEC) == 3
    assert plan.notes == (
        "tracepoint:sched:sched_process_exec was asked for more than once, and is one probe",
    )
    with Tracer(plan, follow=True) as tracer:
        tracer.attach()
        assert tracer.plan.schemas == plan.schemas


@pytest.mark.live
@pytest.mark.native
@pytest.mark.parametrize("again", [EXEC, "tracepoint:sched:sched_process_e*"])
def test_a_filter_with_no_probes_names_is_refused_of_equal_targets_too(again: str) -> None:
    for specs in ([EXEC, again], [again, EXEC]):
        with pytest.raises(KwireError, match="unknown name nosuch"):
            make_plan(specs, filter="nosuch == 1", scope=Scope(True))


@pytest.mark.live
@pytest.mark.native
def test_equal_targets_are_said_in_the_plural() -> None:
    plan = make_plan(
        ["tracepoint:sched:sched_process_e*", "tracepoint:sched:sched_process_e*"], scope=Scope(True)
    )
    [note] = plan.notes
    assert note.endswith(" and 1 more were asked for more than once, and are one probe each")


@pytest.mark.needs("kprobe")
def test_equal_functions_are_one_probe() -> None:
    plan = make_plan(["kprobe:vfs_rea*", "kprobe:vfs_read", "kprobe:vfs_re*"], scope=Scope(True))
    names = [schema.probe for schema in plan.schemas]
    assert len(set(names)) == len(names)
    assert "more than once" in plan.notes[0]
    with Tracer(plan, follow=True) as tracer:
        tracer.attach()


@pytest.mark.guest
@pytest.mark.needs("kprobe", "fentry", "module")
@pytest.mark.parametrize(
    "spec",
    [
        "kprobe:dummy_xmit",
        "kprobe:dummy:dummy_xm*",
        "kretprobe:dummy:dummy_xmit",
        "fentry:dummy_xmit",
        "fexit:dummy:dummy_xmit",
        "fentry:dummy:dummy_*",
        "kprobe:dummy:dummy_*",
    ],
)
def test_functions_of_a_module(kernel_module: str, spec: str) -> None:
    with Tracer(make_plan([spec])) as tracer:
        tracer.attach()
        assert {schema.target.rpartition(":")[2] for schema in tracer.plan.schemas} >= {"dummy_xmit"}
        ip = "ip link add dummy7 type dummy; ip addr add 10.7.7.1/24 dev dummy7; ip link set dummy7 up"
        subprocess.run(["sh", "-c", f"{ip}; ping -c1 -W1 10.7.7.2; ip link del dummy7"], capture_output=True)
        tracer.detach()
        assert sum(frames.count for frames in tracer.settle()) > 0


ORDERED = """
kprobe:vmlinux:hrtimer_nanosleep /pid == cpid/ { print("one"); }
kprobe:hrtimer_nanosleep /pid == cpid/ { print("two"); }
kretprobe:hrtimer_nanosleep /pid == cpid/ { print("three"); }
kretprobe:vmlinux:hrtimer_nanosleep /pid == cpid/ { print("four"); exit(); }
"""


@pytest.mark.needs("kprobe")
def test_probes_of_one_function_fire_as_they_are_written() -> None:
    words = [sys.executable, "-m", "kwire", "-q", "-c", "sleep 0.01", "-e", ORDERED]
    ran = subprocess.run(words, capture_output=True, text=True)
    assert [line for line in ran.stdout.splitlines() if line] == ["one", "two", "three", "four"], ran.stderr


@pytest.mark.kernels("6.12")  # whatever the kernel, it is the list of its functions that is looked at
@pytest.mark.needs("kprobe")
@pytest.mark.parametrize(
    ("target", "says"), [("vmlinux:no_such_one", "no such function"), ("no_such:f", "no module")]
)
def test_a_function_that_is_not_there_is_passed_over(target: str, says: str) -> None:
    script = f"config = {{ missing_probes = warn }} begin {{ exit(); }} kprobe:{target} {{ }}"
    words = [sys.executable, "-m", "kwire", "-e", script]
    ran = subprocess.run(words, capture_output=True, text=True)
    assert f"WARNING: No matches for kprobe {target}. Skipping." in ran.stderr
    assert says in ran.stderr
    assert ran.returncode == 0
