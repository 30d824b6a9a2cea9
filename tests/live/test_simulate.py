"""Probes run without a kernel: the same compiled program, surroundings made up."""

# Names and annotations inside of probes are the probe language's, not Python's.
# ruff: noqa: F722, F821
# mypy: ignore-errors

import pytest

import kwire
from kwire.errors import KwireError

FORMAT = """name: sys_enter_openat
ID: 600
format:
	field:unsigned short common_type;	offset:0;	size:2;	signed:0;
	field:int common_pid;	offset:4;	size:4;	signed:1;

	field:int __syscall_nr;	offset:8;	size:4;	signed:1;
	field:int dfd;	offset:16;	size:8;	signed:0;
	field:const char * filename;	offset:24;	size:8;	signed:0;

print fmt: ""
"""


@kwire.kprobe("tcp_connect")
def connect(sk: "struct sock *"):
    emit(
        pid,
        comm,
        daddr=ipv4(sk.__sk_common.skc_daddr),
        dport=be16(sk.__sk_common.skc_dport),
    )


def test_a_structure_is_read_through_a_pointer() -> None:
    memory = kwire.Memory()
    sock = memory.kernel(
        kwire.fake(
            "struct sock",
            {"__sk_common.skc_dport": 0xBB01, "__sk_common.skc_daddr": bytes([127, 0, 0, 1])},
        )
    )
    [event] = kwire.simulate(connect, {"sk": sock}, memory=memory, pid=42, comm="curl")
    assert (event.pid, event.comm, event.daddr, event.dport) == (42, "curl", "127.0.0.1", 443)
    assert event.probe == "kprobe:tcp_connect"
    assert list(event.fields) == ["pid", "comm", "daddr", "dport"]


@kwire.kprobe("tcp_connect")
def both(sk: "struct sock *"):
    emit("seen", dport=be16(sk.__sk_common.skc_dport))
    if pid > 1:
        emit("who", pid, comm)


@kwire.kprobe("tcp_connect")
def long():
    x = 0
    for i in range(200_000):
        x = x * 3 + i
    emit(x)


def test_a_long_loop_ends() -> None:
    x = 0
    for i in range(200_000):
        x = x * 3 + i & (1 << 64) - 1
    [event] = kwire.simulate(long)
    assert event.x & (1 << 64) - 1 == x


def test_events_of_several_shapes() -> None:
    seen, who = kwire.simulate(both, pid=42, comm="curl")
    assert (seen.probe, dict(seen.fields)) == ("kprobe:tcp_connect#seen", {"dport": 0})
    assert (who.probe, who.pid, who.comm) == ("kprobe:tcp_connect#who", 42, "curl")
    assert [event.probe for event in kwire.simulate(both, pid=1)] == ["kprobe:tcp_connect#seen"]


@kwire.tracepoint("syscalls:sys_enter_openat")
def named(filename):
    emit(
        name=str(filename),
        short=str(filename, 2),
        data=bytes(filename, 4),
        empty=filename == "",
        other=filename != "/etc",
        some=1 if str(filename) else 0,
        less=filename < "x",
        least=filename <= "",
        most=filename >= "",
        glob=glob(filename, "?*"),
        part="a" in filename,
    )


def test_a_text_that_cannot_be_read_is_no_empty_text() -> None:
    memory = kwire.Memory()
    seen = []
    for address in (0xDEAD0000, memory.user(b"\0\0\0\0"), memory.user(b"abc\0")):
        [event] = kwire.simulate(named, {"filename": address}, memory=memory, format=FORMAT)
        assert event.cut == (("short",) if event.name == "abc" else ())
        seen.append(tuple(event.fields.values()))
    false, true = False, True
    assert seen == [
        (None, None, None, false, true, 0, false, false, false, false, false),
        ("", "", bytes(4), true, true, 0, true, true, true, false, false),
        ("abc", "ab", b"abc\0", false, true, 1, true, false, true, true, true),
    ]


@pytest.mark.parametrize("kind", [kwire.kprobe, kwire.fentry, kwire.fexit])
def test_a_structure_by_value_takes_its_slots(kind) -> None:
    @kind("do_tcp_setsockopt")
    def setting(sk, level, optname, optval, optlen):
        emit(level, optname, optlen, address=u64(optval.user), inside=optval.is_kernel, third=arg3)

    given = {"sk": 1, "level": 6, "optname": 4, "optlen": 77}
    given["optval"] = (0x1234).to_bytes(8, "little") + b"\1".ljust(8, b"\0")
    [event] = kwire.simulate(setting, given)
    fields = event.fields
    assert (fields["level"], fields["optname"], fields["optlen"]) == (6, 4, 77)
    assert (fields["address"], fields["inside"], fields["third"]) == (0x1234, 1, 0x1234)


def test_what_is_returned_comes_after_all_slots() -> None:
    @kwire.fexit("do_tcp_setsockopt")
    def set(optlen):
        emit(retval)

    @kwire.fexit("do_tcp_setsockopt")
    def done(sk, level, optname, optval, optlen):
        emit(optlen, retval)

    with pytest.raises(KwireError, match="optlen is parameter 5"):
        kwire.simulate(set, {}, retval=0)
    [event] = kwire.simulate(done, {"optlen": 5}, retval=-22)
    assert (event.fields["optlen"], event.fields["retval"]) == (5, -22)


def test_memory_that_is_not_there_reads_as_zero() -> None:
    [event] = kwire.simulate(connect, {"sk": 0xFFFF888000000000})
    assert (event.daddr, event.dport) == ("0.0.0.0", 0)


def test_a_tracepoint_from_its_format() -> None:
    @kwire.tracepoint("syscalls:sys_enter_openat")
    def openat(dfd, filename):
        if dfd == 3:
            emit(dfd, path=str(filename))

    [event] = kwire.simulate(openat, {"dfd": 3, "filename": "/etc/passwd"}, format=FORMAT)
    assert (event.dfd, event.path) == (3, "/etc/passwd")
    assert kwire.simulate(openat, {"dfd": 4, "filename": "/etc/passwd"}, format=FORMAT) == []


def test_a_return_value() -> None:
    @kwire.kretprobe("vfs_read")
    def failed():
        if retval < 0:
            emit(error=-retval)

    [event] = kwire.simulate(failed, retval=-5 & (1 << 64) - 1)
    assert event.error == 5
    assert kwire.simulate(failed, retval=5) == []


def test_an_unknown_argument_is_named() -> None:
    with pytest.raises(KwireError, match="it is not given 'socket'; it has sk"):
        kwire.simulate(connect, {"socket": 1})


def test_an_unknown_member_is_named() -> None:
    with pytest.raises(KwireError, match="skc_dport"):
        kwire.fake("struct sock", {"__sk_common.skc_dprt": 1})


@pytest.mark.parametrize(
    ("type", "member", "value", "why"),
    [
        ("struct sock", "__sk_common.skc_dport", 1 << 16, "65536 does not fit its 2 bytes"),
        ("struct sock", "__sk_common.skc_dport", -(1 << 15) - 1, "does not fit its 2 bytes"),
        ("struct sock", "__sk_common.skc_dport", b"abc", "3 bytes do not fit its 2"),
        ("struct sock", "__sk_common.skc_reuse", 16, "16 does not fit 4 bits"),
        ("struct sock", "__sk_common.skc_reuse", b"x", "it is a bit-field"),
    ],
)
def test_what_a_member_cannot_hold_is_refused(type: str, member: str, value: int | bytes, why: str) -> None:
    with pytest.raises(KwireError, match=why):
        kwire.fake(type, {member: value})
    assert kwire.fake(type, {member: -1}) == kwire.fake(type, {member: 15 if "reuse" in member else 0xFFFF})


def test_a_member_of_no_size_holds_nothing() -> None:
    with pytest.raises(KwireError, match=r"bpf_prog\.insnsi: 5 does not fit its 0 bytes"):
        kwire.fake("struct bpf_prog", {"insnsi": 5})


def test_calling_a_probe_says_that_the_kernel_runs_it() -> None:
    with pytest.raises(KwireError, match="compiled for the kernel"):
        connect(1)


def test_an_unknown_field_of_an_event_is_named() -> None:
    [event] = kwire.simulate(connect, {"sk": 0})
    with pytest.raises(AttributeError, match="no field 'port'; it has pid, comm, daddr, dport"):
        _ = event.port
