"""Probes checked against the types of the kernel that runs the tests."""

from __future__ import annotations

import os

import pytest
import shown_tree

from kwire.btf.members import locate
from kwire.btf.store import load_kernel
from kwire.lang import attach_points, python, record
from kwire.lang.check import check
from kwire.lang.kerneltypes import KernelTypes
from kwire.lang.types import Enum, describe

pytestmark = pytest.mark.skipif(
    not os.path.exists("/sys/kernel/btf/vmlinux"), reason="this kernel has no BTF"
)


@pytest.fixture(scope="module")
def kernel() -> KernelTypes:
    return KernelTypes(load_kernel())


PROBES = """
@kprobe("tcp_connect")
def connect(sk: "struct sock *"):
    emit(pid, comm, daddr=ipv4(sk.__sk_common.skc_daddr), dport=be16(sk.__sk_common.skc_dport))

@kprobe("tcp_sendmsg")
def send(sk, msg, size):
    if sk.__sk_common.skc_family != 2 or size > 4096 and not msg.msg_flags & 0x40:
        return
    tp = cast("struct tcp_sock *", sk)
    emit(size, tp.snd_cwnd, open=sk.__sk_common.skc_state == TCP_ESTABLISHED,
         v6=ipv6(sk.__sk_common.skc_v6_daddr), reuse=sk.__sk_common.skc_reuse, ppid)

@kretprobe("vfs_read")
def done():
    if retval < 0 and comm == "cat":
        emit(retval, func)

@fentry("do_sys_openat2")
def opened(dfd, filename, how):
    name = str(user(filename))
    if name != "/etc/passwd":
        emit(dfd, name, how.flags)

@fexit("vfs_read")
def read(file, buf, count):
    emit(ino=file.f_inode.i_ino, name=str(file.f_path.dentry.d_name.name), retval, count)

@rawtracepoint("sched_switch")
def switched(preempt, prev, next):
    emit(prev.pid, prev_comm=prev.comm, next_pid=next.pid, first=next.comm[0])
""".replace("ppid)", "parent=ppid)").replace("retval, count)", "retval=retval, count=count)")

EVENTS = {
    "connect": "pid: u32, comm: text up to 15 bytes, daddr: ipv4, dport: u16",
    "send": "size: u64, snd_cwnd: u32, open: bool, v6: ipv6, reuse: u8, parent: s32",
    "done": "retval: s64, func: ksym",
    "opened": "dfd: s32, name: text up to 256 bytes, flags: u64",
    "read": "ino: u64, name: text up to 256 bytes, retval: s64, count: u64",
    "switched": "pid: s32, prev_comm: char[16], next_pid: s32, first: char",
}


@pytest.mark.parametrize("name", EVENTS)
def test_a_real_probe_checks(kernel: KernelTypes, name: str) -> None:
    (probe,) = (probe for probe in python.parse_file(PROBES, "probes.py") if probe.name == name)
    (attach,) = probe.attach
    if attach.kind == "rawtracepoint":
        site = attach_points.raw_tracepoint(attach.target, kernel)
    else:
        site = attach_points.function(attach.kind, attach.target, kernel)
    program = check(probe, site, kernel)
    assert shown_tree.program(program).splitlines()[1] == f"event {EVENTS[name]}"


def test_offsets_are_those_of_the_kernel(kernel: KernelTypes) -> None:
    """Member paths of embedded structures are one load at the summed offset."""
    btf = load_kernel().vmlinux
    sock = btf.find("sock", 4)
    wanted = locate(btf, sock, "__sk_common.skc_dport").offset_bits // 8
    (probe,) = python.parse_file(
        '@kprobe("tcp_connect")\ndef f(sk): emit(sk.__sk_common.skc_dport)', "probes.py"
    )
    program = check(probe, attach_points.function("kprobe", "tcp_connect", kernel), kernel)
    assert shown_tree.program(program).splitlines()[-1] == f"emit u16[arg0+{wanted}]"


def test_enumerators_are_found(kernel: KernelTypes) -> None:
    for name, value in (("TCP_ESTABLISHED", 1), ("IPPROTO_UDP", 17)):
        found = kernel.enumerator(name)
        assert found is not None
        assert found[0] == value
        assert isinstance(found[1], Enum)
    assert kernel.enumerator("NO_SUCH_CONSTANT") is None


def test_many_functions_make_sites_and_records(kernel: KernelTypes) -> None:
    """No prototype of the kernel is too strange to record."""
    names = sorted(load_kernel().functions())[::97]
    assert len(names) > 100
    for name in names:
        for kind in ("kprobe", "kretprobe", "fentry", "fexit"):
            site = attach_points.function(kind, name, kernel)
            program = record.program(site, kernel)
            assert [field.name for field in program.shapes[0].fields][:4] == list(record.CONTEXT)
            assert all(describe(field.type) for field in program.shapes[0].fields)


def test_many_raw_tracepoints_make_records(kernel: KernelTypes) -> None:
    names = [
        name.removeprefix("btf_trace_") for name in load_kernel().vmlinux.names(8) if "btf_trace_" in name
    ]
    assert len(names) > 50
    for name in names[::5]:
        site = attach_points.raw_tracepoint(name, kernel)
        assert site.typed
        assert record.program(site, kernel).shapes[0].fields


def test_structures_of_every_shape_can_be_looked_into(kernel: KernelTypes) -> None:
    """Every member of some large structures is an event's field or gets a complaint that names a cure."""
    from kwire.lang.errors import LanguageError

    for struct in ("task_struct", "sk_buff", "tcp_sock", "file", "net_device"):
        type_ = kernel.type(f"struct {struct}")
        members = kernel.members(type_)  # type: ignore[arg-type]  # a structure by its name
        assert len(members) > 10
        for member in members:
            body = f'x = cast("struct {struct} *", sk)\n    emit(x.{member})'
            text = f'@kprobe("tcp_connect")\ndef f(sk):\n    {body}'
            (probe,) = python.parse_file(text, "probes.py")
            try:
                check(probe, attach_points.function("kprobe", "tcp_connect", kernel), kernel)
            except LanguageError as error:
                assert "; " in str(error), error  # noqa: PT017 (either is right)
