"""The bench for probes: scripts and Python probes in kwire's own machine, with what a test gives them."""

# Names inside of probes are the probe language's, not Python's.
# ruff: noqa: F821
# mypy: ignore-errors

from collections.abc import Iterator

import pytest

import kwire
from kwire.errors import KwireError
from kwire.live import in_kernel
from kwire.live.bench import Bench

FORMAT = """name: sched_process_exec
ID: 1
format:
	field:unsigned short common_type;	offset:0;	size:2;	signed:0;

	field:__data_loc char[] filename;	offset:8;	size:4;	signed:0;
	field:pid_t pid;	offset:12;	size:4;	signed:1;

print fmt: ""
"""


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


counts = kwire.Count(by="char[16]")
wanted = kwire.Hash(key="u32", value="char[8]")
last = kwire.Variable()


@kwire.tracepoint("sched:sched_process_exec")
def executed(filename):
    counts.add(comm)
    last.value = nsecs
    if args.pid in wanted:
        emit(file=str(filename), name=wanted[args.pid])


@pytest.mark.parametrize("turn", [1, 2])
def test_maps_are_the_tests_own(bench: Bench, turn: int) -> None:
    """What one test leaves in maps, or sets, is not there in the next."""
    bench.formats["sched:sched_process_exec"] = FORMAT
    assert bench.fire(executed, filename="/bin/ls", pid=7) == []
    bench.given(wanted, {7: "seven"})
    bench.given(last, {(): 5})
    bench.time += 100
    bench.set(comm="sh")
    [event] = bench.fire(executed, filename="/bin/ls", pid=7)
    assert dict(event) == {"file": "/bin/ls", "name": "seven"}
    assert dict(counts) == {"test": 1, "sh": 1}
    assert last.value == bench.time
    with pytest.raises(KwireError, match="it is no probe"):
        bench.fire("kprobe:f")


def test_what_was_set_is_taken_back() -> None:
    wanted[3] = "three"
    bench = Bench()
    bench.given(wanted, {4: "four"})
    with pytest.raises(KwireError, match="no text of at most 7 bytes"):
        bench.given(wanted, {4: "far too long"})
    assert wanted.set_before() == [((4,), "four")]
    bench.close()
    assert wanted.set_before() == [((3,), "three")]
    del wanted[3]


SCRIPT = r"""
tracepoint:sched:sched_process_exec {
  @names[comm] = count(); @last = nsecs; @pairs[args.pid] = (args.pid + 1, "x");
  printf("%s %s %d\n", str(args.filename), comm, $1);
  print(@names); clear(@names); print(@names);
}
kprobe:tcp_* /@on/ {
  @sum = sum(((struct sock *)arg0)->__sk_common.skc_num); @avg = avg(3); printf("%s", func);
}
kretprobe:tcp_v4_connect { printf("%d", retval); if (retval < 0) { exit(4); } }
begin { @on = 0; }
end { printf("over"); zero(@sum); }
"""


def test_a_script_with_what_it_is_given(bench: Bench) -> None:
    bench.formats["sched:sched_process_exec"] = FORMAT
    script = bench.bt(SCRIPT, 5)
    bench.set(comm="sh", pid=9)
    lines = script.fire(filename="/bin/ls", pid=7)
    assert [line.text for line in lines] == ["/bin/ls sh 5\n", "@names[sh]: 1\n", ""]
    assert dict(lines[1].map) == {"sh": 1}
    assert script.maps["@last"].value == bench.time
    assert script.maps["@pairs"][7] == (8, "x")
    assert dict(script.maps["@names"]) == {}
    sock = bench.struct("struct sock", {"__sk_common.skc_num": 443})
    assert script.fire("kprobe:tcp_connect", sk=sock) == []
    script.maps["@on"].value = 1
    assert len(script.fire("kprobe:tcp_connect", sk=sock)) == 1
    script.fire("kprobe:tcp_connect", sk=sock)
    assert (script.maps["@sum"].value, script.maps["@avg"].value) == (886, 3.0)
    assert [str(line) for line in script.fire("kretprobe:tcp_v4_connect", retval=3)] == ["3"]
    assert script.status is None
    assert [str(line) for line in script.fire("kretprobe:tcp_v4_connect", retval=-3)] == ["-3"]
    assert script.status == 4
    assert [str(line) for line in script.fire("end")] == ["over"]
    assert script.maps["@sum"].value == 0
    with pytest.raises(KwireError, match="no probe of the script is there; it has tracepoint:sched"):
        script.fire("kprobe:vfs_read")
    with pytest.raises(KwireError, match="probes add to it, nobody sets it"):
        script.maps["@sum"].value = 3
    script.maps["@pairs"][8] = (1, "x")
    assert script.maps["@pairs"][8] == (1, "x")
    with pytest.raises(KwireError, match="'y' is none of its texts; they are 'x'"):
        script.maps["@pairs"][8] = (1, "y")
    with pytest.raises(KwireError, match="'x' is no signed integer"):
        script.maps["@pairs"]["x"] = (1, "x")


def test_maps_are_printed_within_their_limits(bench: Bench) -> None:
    script = bench.bt("begin { @n[1] = 10; @n[2] = 20; print(@n, 1); print(@n, 1, 10); print(@n); }")
    assert [str(line) for line in script.fire()] == ["@n[2]: 20", "@n[2]: 2", "@n[1]: 10\n@n[2]: 20"]


@kwire.rawtracepoint("sys_enter")
def entered(regs, id):
    counts.add("kernel")
    emit(id, pid)


@kwire.begin
def begun():
    emit(ok=1)


@pytest.mark.live
def test_one_run_in_the_kernel() -> None:
    [event] = in_kernel.fire(entered, {"id": 77})
    assert event.id == 77
    assert dict(counts) == {"kernel": 1}
    [event] = in_kernel.fire(begun, {})
    assert event.ok == 1
    for probe, values, says in (
        (executed, {}, "the kernel runs no such probe when it is asked to"),
        (entered, {"what": 1}, "it is not given 'what'"),
    ):
        with pytest.raises(KwireError, match=says):
            in_kernel.fire(probe, values)
