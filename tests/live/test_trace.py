"""Traces in a Python program, on the running kernel: every kind of probe, of this process only."""

# Names and annotations inside of probes are the probe language's, not Python's.
# ruff: noqa: F722, F821
# mypy: ignore-errors

import os
import socket
import threading
import time

import pytest

import kwire
from kwire.compile import loops
from kwire.errors import KwireError

GETPPID = "syscalls:sys_enter_getppid"


@kwire.tracepoint(GETPPID)
def asked():
    emit(cpu, pid, tid, comm, uid)


@pytest.mark.live
def test_every_call_is_one_typed_event() -> None:
    before = time.time_ns()
    with kwire.trace(asked, pid=os.getpid(), count=100) as events:
        for _ in range(100):
            os.getppid()
        seen = list(events)
    assert len(seen) == 100
    assert {event.pid for event in seen} == {os.getpid()}
    assert {event.tid for event in seen} == {threading.get_native_id()}
    assert {event.uid for event in seen} == {os.getuid()}
    assert {event.probe for event in seen} == {f"tracepoint:{GETPPID}"}
    times = [event.time_ns for event in seen]
    assert times == sorted(times)
    assert before <= times[0] <= times[-1] <= time.time_ns()
    assert events.lost == 0


@pytest.mark.live
def test_columns_hold_what_the_events_hold() -> None:
    with kwire.trace(asked, pid=os.getpid(), count=1000) as events:
        for _ in range(1000):
            os.getppid()
        columns = events.columns()
    assert set(columns) == {"time", "time_ns", "cpu", "pid", "tid", "comm", "uid"}
    assert all(len(column) == 1000 for column in columns.values())
    assert (columns["pid"] == os.getpid()).all()
    assert abs(int(columns["time_ns"][-1]) - time.time_ns()) < 60_000_000_000


@pytest.mark.live
def test_a_probe_emits_events_of_several_shapes() -> None:
    @kwire.tracepoint(GETPPID)
    def several():
        emit("asked", pid, comm)
        for turn in range(3):
            if turn:
                emit(turn, thread=tid)
            else:
                emit(first=True)

    with kwire.trace(several, pid=os.getpid()) as events:
        for _ in range(100):
            os.getppid()
        time.sleep(0.05)
    seen = list(events)
    spec, wanted = f"tracepoint:{GETPPID}", ("asked", "3", "2", "2")
    assert [event.probe for event in seen] == [f"{spec}#{name}" for name in wanted] * 100
    assert [event.turn for event in seen if "turn" in event.fields] == [1, 2] * 100
    assert {event.first for event in seen if event.probe.endswith("#3")} == {True}
    assert {event.pid for event in events.events(f"{GETPPID}#asked")} == set()  # taken already
    assert events.lost == 0


@pytest.mark.live
def test_each_shape_has_its_columns() -> None:
    @kwire.tracepoint(GETPPID)
    def several():
        emit("asked", pid)
        emit("answered", pid, thread=tid)

    with kwire.trace(several, pid=os.getpid(), count=200) as events:
        for _ in range(100):
            os.getppid()
        columns = events.columns("*#answered")
    assert set(columns) == {"time", "time_ns", "pid", "thread"}
    assert (columns["thread"] == threading.get_native_id()).all()


@pytest.mark.live
def test_a_command_and_what_it_starts_are_traced_from_their_first_instruction() -> None:
    @kwire.tracepoint("sched:sched_process_exec")
    def executed(filename):
        emit(pid, path=str(filename))

    with kwire.trace(executed, command=["sh", "-c", "/bin/true; /bin/true"]) as events:
        paths = [event.path for event in events]
    assert paths[0].endswith("sh")
    assert [path.endswith("true") for path in paths[1:]] == [True, True]


@pytest.mark.live
def test_other_processes_are_not_traced() -> None:
    with kwire.trace(asked, pid=os.getpid(), seconds=0.5) as events:
        child = os.posix_spawn("/bin/sh", ["sh", "-c", "echo $PPID >/dev/null"], {})
        os.waitpid(child, 0)
        followed = {event.pid for event in events}
    with kwire.trace(asked, command=["true"]) as events:
        os.getppid()
        assert [event.pid for event in events if event.pid == os.getpid()] == []
    assert followed <= {os.getpid(), child}


@pytest.mark.live
def test_a_string_of_user_memory(tmp_path) -> None:
    path = tmp_path / "a file with a long name"
    path.write_text("")

    @kwire.tracepoint("syscalls:sys_enter_openat")
    def opened(filename, flags):
        emit(path=str(filename), flags=flags)

    with kwire.trace(opened, pid=os.getpid(), seconds=0.3) as events:
        os.close(os.open(path, os.O_RDONLY))
        assert str(path) in [event.path for event in events]


@pytest.mark.live
def test_a_raw_tracepoint_gives_the_kernels_own_arguments() -> None:
    @kwire.rawtracepoint("sched_process_exec")
    def executed(p: "struct task_struct *", old_pid, bprm: "struct linux_binprm *"):
        emit(pid, traced=p.tgid, path=str(bprm.filename))

    with kwire.trace(executed, command=["/bin/true"]) as events:
        seen = list(events)
    assert [event.path for event in seen] == ["/bin/true"]
    assert seen[0].pid == seen[0].traced


@pytest.mark.live
def test_a_ring_that_overflows_loses_nothing_silently() -> None:
    calls = 20_000
    with kwire.trace(asked, pid=os.getpid(), buffer=4096, seconds=0) as events:
        for _ in range(calls):
            os.getppid()
        seen = list(events)
    assert events.lost > 0
    assert len(seen) + events.lost == calls
    assert sum(loss.count for loss in events.losses) == events.lost
    assert all(loss.probe == 1 and 0 < loss.first <= loss.last for loss in events.losses)


@pytest.mark.live
def test_an_error_in_a_probe_attaches_nothing() -> None:
    @kwire.tracepoint(GETPPID)
    def wrong():
        emit(nonsense)

    with pytest.raises(KwireError, match="nonsense"):
        kwire.trace(asked, wrong)


def _connect() -> int:
    """One TCP connection of this process to itself; its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = server.accept()
            accepted.close()
            assert client.getpeername()[1] == port
    return port


@pytest.mark.needs("kprobe")
def test_a_kprobe_reads_structures() -> None:
    @kwire.kprobe("tcp_connect")
    def connecting(sk: "struct sock *"):
        emit(
            pid,
            comm,
            daddr=ipv4(sk.__sk_common.skc_daddr),
            dport=be16(sk.__sk_common.skc_dport),
            name=str(sk.__sk_common.skc_prot.name),
        )

    with kwire.trace(connecting, pid=os.getpid(), count=1) as events:
        port = _connect()
        [event] = list(events)
    assert (event.pid, event.daddr, event.dport, event.name) == (os.getpid(), "127.0.0.1", port, "TCP")


@pytest.mark.needs("kprobe")
def test_a_kretprobe_gives_what_was_returned() -> None:
    @kwire.kretprobe("vfs_read")
    def read():
        emit(retval)

    source, target = os.pipe()
    os.write(target, b"12345")
    with kwire.trace(read, pid=os.getpid(), seconds=0.3) as events:
        assert os.read(source, 100) == b"12345"
        assert 5 in [event.retval for event in events]
    os.close(source)
    os.close(target)


@pytest.mark.needs("kprobe")
def test_a_kprobe_inside_of_a_function() -> None:
    @kwire.kprobe("vfs_read+0")
    def read():
        emit(pid)

    with kwire.trace(read, pid=os.getpid(), seconds=0.3) as events, open("/proc/self/stat") as file:
        file.read()
        assert os.getpid() in [event.pid for event in events]


@pytest.mark.needs("kprobe")
def test_a_wildcard_tells_its_functions_apart() -> None:
    @kwire.kprobe("vfs_re[an]*")
    def called():
        emit(pid)

    with kwire.trace(called, pid=os.getpid(), seconds=0.5) as events:
        with open("/proc/self/stat") as file:
            file.read()
        probes = {event.probe for event in events}
        known = {schema.probe for schema in events.schemas}
    assert "kprobe:vfs_read" in probes
    assert len(known) > 3
    assert probes <= known


@pytest.mark.needs("kprobe_multi")
def test_hundreds_of_functions_are_one_program() -> None:
    @kwire.kprobe("tcp_*")
    def called():
        emit(pid)

    trace = kwire.trace(called, pid=os.getpid(), seconds=1.0)
    assert len(trace.schemas) > 200
    with trace as events:
        _connect()
        probes = {event.probe for event in events}
    assert {"kprobe:tcp_connect", "kprobe:tcp_close"} <= probes


@pytest.mark.needs("fentry")
def test_fentry_and_fexit() -> None:
    @kwire.fentry("tcp_connect")
    def entered(sk: "struct sock *"):
        emit(pid, dport=be16(sk.__sk_common.skc_dport), returned=-1)

    @kwire.fexit("tcp_connect")
    def left(sk: "struct sock *"):
        emit(pid, dport=be16(sk.__sk_common.skc_dport), returned=retval)

    with kwire.trace(entered, left, pid=os.getpid(), count=2) as events:
        port = _connect()
        seen = [(event.probe, event.dport, event.returned) for event in events]
    assert seen == [("fentry:tcp_connect", port, -1), ("fexit:tcp_connect", port, 0)]


@pytest.mark.guest
@pytest.mark.needs("kprobe", "module")
def test_a_function_of_a_module(kernel_module: str) -> None:
    @kwire.kprobe(f"{kernel_module}:dummy_setup")
    def created(dev: "struct net_device *"):
        emit(pid, mtu=dev.mtu)

    import subprocess

    with kwire.trace(created, seconds=1.0) as events:
        subprocess.run(["ip", "link", "add", "kwire0", "type", "dummy"], check=True)
        subprocess.run(["ip", "link", "del", "kwire0"], check=True)
        assert len(list(events)) == 1


@pytest.mark.needs("kprobe")
def test_a_typo_suggests_the_nearest_functions() -> None:
    @kwire.kprobe("tcp_conect")
    def connecting():
        emit(pid)

    with pytest.raises(KwireError, match="tcp_connect"), kwire.trace(connecting, pid=os.getpid()):
        pass


@pytest.mark.live
def test_walked_loops_that_the_verifier_gives_up_on_are_called(monkeypatch) -> None:
    for limit in ("WEIGHT_MOST", "CHOICES_MOST"):  # as if it were thought to be easy
        monkeypatch.setattr(loops, limit, 1 << 40)

    @kwire.tracepoint(GETPPID)
    def asked():
        x, n = 0, tid
        for i in range(64):
            for j in range(64):
                if i * j == n:
                    break
                if i + j == n - 3:
                    x += 2
                x += 1
        emit(x)

    with kwire.trace(asked, pid=os.getpid()) as events:
        os.getppid()
    wanted = 0
    for i in range(64):
        for j in range(64):
            if i * j == threading.get_native_id():
                break
            wanted += 3 if i + j == threading.get_native_id() - 3 else 1
    assert [event.x for event in events] == [wanted]
