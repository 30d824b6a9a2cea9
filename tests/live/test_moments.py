"""Probes at the beginning and at the end of a trace, and by the clock."""

# Names and annotations inside of probes are the probe language's, not Python's.
# ruff: noqa: F821
# mypy: ignore-errors

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import PATIENCE

import kwire
from kwire.errors import KwireError
from kwire.kernel.catalog import expand
from kwire.kernel.targets import CatalogError
from kwire.kinds import period
from kwire.lang import python, spec
from kwire.lang.errors import LanguageError

ASKED = "syscalls:sys_enter_getppid"
ME = os.getpid()
seen = kwire.Variable()


@kwire.begin
def first() -> None:
    seen.value = 100
    emit("first", pid, comm, seen=seen.value)


@kwire.tracepoint(ASKED)
def asked() -> None:
    seen.value += 1
    emit(number=seen.value)


@kwire.end
def last() -> None:
    emit("last", pid, seen=seen.value)


@pytest.mark.live
@pytest.mark.parametrize("process", [None, ME, 1], ids=["any", "mine", "first"])
def test_they_run_once_whoever_is_traced(process: int | None) -> None:
    with kwire.trace(last, asked, first, pid=process) as trace:
        os.getppid()
        os.getppid()
    events = list(trace)
    own = [event for event in events if event.probe == f"tracepoint:{ASKED}"]
    begun, ended = events[0], events[-1]
    assert (begun.probe, begun.pid, begun.seen) == ("begin#first", ME, 100)
    assert (ended.probe, ended.pid) == ("end#last", ME)
    assert ended.seen == 100 + len(own)
    assert len(own) == 2 if process == ME else True
    assert trace.lost == 0


@pytest.mark.live
def test_specs_and_filters() -> None:
    with kwire.trace("begin", "end(seen=cpu * 0 + 7){pid != 0}", filter="uid == uid", pid=1) as trace:
        pass
    one, two = trace
    assert (one.probe, one.pid, two.seen, two.pid) == ("begin", ME, 7, ME)


@pytest.mark.live
def test_a_trace_of_nothing_else_ends_by_itself() -> None:
    trace = kwire.trace("begin", "end", seconds=1000)
    assert [event.probe for event in trace] == ["begin", "end"]


@pytest.mark.live
def test_a_trace_that_cannot_begin_does_not_end() -> None:
    seen.value = 5
    with pytest.raises(KwireError), kwire.trace(last, "rawtracepoint:no_such_thing"):
        pass


@kwire.tracepoint(ASKED)
def stops() -> None:
    seen.value += 1
    if seen.value == 3:
        exit(259 + seen.value * 0)
    emit(number=seen.value)


@kwire.begin
def at_once() -> None:
    exit()


@pytest.mark.live
def test_a_probe_ends_the_trace() -> None:
    seen.value = 0
    with kwire.trace(stops, last, pid=ME) as trace:
        for _ in range(3):
            os.getppid()
        events = list(trace)  # ends by itself
    assert [event.number for event in events if "getppid" in event.probe] == [1, 2]
    assert events[-1].probe == "end#last"
    assert trace.lost == 0
    assert list(kwire.trace(at_once)) == []


@pytest.mark.live
@pytest.mark.native
def test_the_status_is_that_of_exit(tmp_path: Path) -> None:
    text = "import kwire\n@kwire.begin\ndef first():\n    exit(4)\n"
    (tmp_path / "p.py").write_text(text)
    words = [sys.executable, "-m", "kwire.cli.main", "trace", str(tmp_path / "p.py")]
    assert subprocess.run(words, capture_output=True, timeout=PATIENCE).returncode == 4
    (tmp_path / "p.py").write_text(text.replace("4", ""))
    assert subprocess.run(words, capture_output=True, timeout=PATIENCE).returncode == 0


ticks = kwire.Variable()
samples = kwire.Count(by="u32")


@kwire.interval("ms:20")
def tick() -> None:
    ticks.value += 1
    if ticks.value <= 3:  # more may come before it is taken away
        emit(number=ticks.value)
    if ticks.value == 3:
        exit()


@kwire.profile("hz:99")
def sample() -> None:
    samples.add(cpu)


@pytest.mark.live
def test_timers() -> None:
    with kwire.trace(tick, sample, pid=ME) as trace:
        events = list(trace)
    assert [event.number for event in events] == [1, 2, 3]
    assert {event.probe for event in events} == {"interval:ms:20"}
    assert set(samples) <= set(os.sched_getaffinity(0)) | set(range(os.cpu_count()))
    with (
        pytest.raises(KwireError, match="the kernel allows no such rate"),
        kwire.trace("profile:hz:99999999"),
    ):
        pass


def test_periods() -> None:
    assert [period(one) for one in ("s:5", "5s", "ms:2", "us:1", "7ns", "hz:99", "99hz")] == [
        (5_000_000_000, False),
        (5_000_000_000, False),
        (2_000_000, False),
        (1000, False),
        (7, False),
        (99, True),
        (99, True),
    ]
    assert {period(one) for one in ("5", "s", "s:", ":5", "h:5", "s:-1", "s:0", "s:1.5", "hzs:3", "5 s")} == {
        None
    }
    with pytest.raises(LanguageError, match="'s:x' is no period; write interval:unit:number, for example"):
        spec.parse("interval:s:x")
    with pytest.raises(CatalogError, match="it is a timer"):
        expand("profile", "*")


def test_simulated() -> None:
    [event] = kwire.simulate(first, pid=3, comm="me")
    assert (event.pid, event.comm, event.seen) == (3, "me", 100)
    assert seen.value == 100


def test_how_they_are_written() -> None:
    assert str(spec.parse("begin").point) == "begin"
    assert str(spec.parse("END(pid)").point) == "end"
    for text, says in (("begin:x", "'x' is not a target of a begin; write begin"), ("begin:", "write begin")):
        with pytest.raises(LanguageError, match=says):
            spec.parse(text)
    with pytest.raises(LanguageError, match="begin has no target; write @kwire"):
        python.parse_file("import kwire\n@kwire.begin('x')\ndef f():\n    emit(pid)\n", "f.py")
    [probe] = python.parse_file("from kwire import end\n@end\ndef f():\n    emit(pid)\n", "f.py")
    assert [str(at) for at in probe.attach] == ["end"]
    with pytest.raises(CatalogError, match="it is a moment of the trace, without a target; write end"):
        expand("end", "*")


@kwire.self("signal:SIGUSR1")
def asked_first() -> None:
    emit("first", pid)


@kwire.self("signal:SIGUSR1")
def asked_next() -> None:
    emit("next", pid)


@pytest.mark.live
def test_a_signal_to_us_runs_programs() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with kwire.trace(asked_first, asked_next, pid=1) as trace:
        for _ in range(2):
            os.kill(ME, signal.SIGUSR1)
    assert [(event.probe, event.pid) for event in trace] == [
        ("self:signal:SIGUSR1#first", ME),
        ("self:signal:SIGUSR1#next", ME),
    ] * 2
    assert signal.getsignal(signal.SIGUSR1) == before


@pytest.mark.live
@pytest.mark.kernels("6.1")
def test_a_signal_to_a_script() -> None:
    """It comes while the command line waits, without privileges by then."""
    script = 'BEGIN { printf("ready\\n"); } self:signal:SIGUSR1 { printf("came\\n"); exit(7); }'
    with subprocess.Popen(
        [sys.executable, "-m", "kwire", "-q", "-e", script], stdout=subprocess.PIPE, text=True
    ) as ran:
        assert ran.stdout is not None
        assert ran.stdout.readline() == "ready\n"
        ran.send_signal(signal.SIGUSR1)
        assert ran.stdout.readline() == "came\n"
        assert ran.wait(PATIENCE) == 7
