"""The Python API as a newcomer uses it: without `with`, after it, at prompts; specs, pickles, repr, dir."""

# Names inside of probes are the probe language's, not Python's.
# ruff: noqa: F821
# mypy: ignore-errors

import copy
import os
import pickle
import subprocess
import sys
import textwrap

import pytest
from waiting import PATIENCE

import kwire
from kwire.errors import KwireError
from kwire.live.events import Event
from kwire.wire.frames import Frames
from kwire.wire.schema import Field, Schema

GETPPID = "tracepoint:syscalls:sys_enter_getppid"
ME = os.getpid()

SCHEMA = Schema(
    1, "kprobe:f", "kprobe", "f", (Field("fd", "u32", 16, 4), Field("fields", "u32", 20, 4)), 24, "little"
)


def asked(count: int) -> None:
    for _ in range(count):
        os.getppid()


# events


def test_an_event_is_like_a_mapping() -> None:
    event = Event(SCHEMA, 5, (3, 7))
    assert event.fd == event["fd"] == 3
    assert event["fields"] == 7
    assert event.fields == dict(event) == {"fd": 3, "fields": 7}
    assert list(event) == event.keys() == ["fd", "fields"]
    assert "fd" in event
    assert "pid" not in event
    assert "fd" in dir(event)
    assert repr(event) == "<kprobe:f 5 fd=3 fields=7>"
    with pytest.raises(KeyError, match="pid"):
        event["pid"]
    with pytest.raises(AttributeError, match="an event of kprobe:f has no field 'pid'; it has fd, fields"):
        getattr(event, "pid")  # noqa: B009


def test_events_are_pickled_and_copied() -> None:
    event = Event(SCHEMA._replace(symbols={1: "x" * 100_000}), 5, (3, 7))
    for again in (pickle.loads(pickle.dumps(event)), copy.copy(event), copy.deepcopy(event)):
        assert again == event
        assert again.fd == 3
        assert hash(again) == hash(event)
    assert len(pickle.dumps(event)) < 1000
    assert event != Event(SCHEMA, 6, (3, 7))
    assert event != 5


# the module


def test_dir_is_whole() -> None:
    assert set(kwire.__all__) <= set(dir(kwire))
    assert {name for name in dir(kwire) if not name.startswith("__")} == set(kwire.__all__)
    for name in dir(kwire):
        getattr(kwire, name)
    assert kwire.__version__ in subprocess.check_output(
        [sys.executable, "-m", "kwire.cli.main", "-V"], text=True
    )


def test_what_is_no_probe_is_refused() -> None:
    for wrong, says in (
        (asked, "it is no probe; give a probe spec"),
        (3, "it is no probe"),
        ("web", "has no kind"),
    ):
        with pytest.raises(KwireError, match=says):
            kwire.trace(wrong)
    with pytest.raises(KwireError, match="there is no probe in it"):
        kwire.trace()
    with pytest.raises(KwireError, match="seconds=-1: it is negative"):
        kwire.trace(GETPPID, seconds=-1)


# traces


@pytest.mark.live
@pytest.mark.native  # the same on each kernel
def test_a_spec_is_a_probe_and_a_filter_filters() -> None:
    with kwire.trace(f"{GETPPID}{{pid == {ME}}}", filter="tid != 0", pid=ME, count=3) as events:
        asked(3)
        assert [event.pid for event in events] == [ME] * 3
    assert events.unfiltered == events.left_out == []
    other = "tracepoint:sched:sched_process_exec"
    with kwire.trace(GETPPID, other, filter="__syscall_nr > 0", pid=ME) as events:
        [(probe, why)] = events.unfiltered
        assert (probe, why) == (other, "unknown name __syscall_nr")


@pytest.mark.parametrize("nobody", [{"pid": []}, {"command": []}, {"command": ""}])
def test_no_process_is_not_every_process(nobody: dict) -> None:
    with pytest.raises(KwireError, match=r"empty|names none"):
        kwire.trace(GETPPID, **nobody)


@pytest.mark.live
@pytest.mark.native  # the same on each kernel
def test_iterating_begins_a_trace_that_has_not_begun() -> None:
    [event] = kwire.trace(GETPPID, command=[sys.executable, "-c", "import os; os.getppid()"])
    assert event.probe == GETPPID
    trace = kwire.trace(GETPPID, command=[sys.executable, "-c", "import os; os.getppid(); os.getppid()"])
    for _ in trace:
        break
    assert "closed" in repr(trace)
    columns = kwire.trace(GETPPID, command=[sys.executable, "-c", "import os; os.getppid()"]).columns()
    assert len(columns["time_ns"]) == 1
    with pytest.raises(KwireError, match="nothing says when the trace ends; give command, seconds or count"):
        kwire.trace(GETPPID).columns()


@pytest.mark.live
@pytest.mark.native  # the same on each kernel
def test_what_was_produced_can_be_read_after_the_with() -> None:
    with kwire.trace(GETPPID, pid=ME) as trace:
        asked(7)
    assert len(list(trace)) == 7
    assert list(trace) == []
    with kwire.trace(GETPPID, pid=ME) as own:
        asked(2)
        assert len(own.columns()["time_ns"]) == 2
    assert trace.lost == 0
    assert repr(trace) == f"<kwire trace of {GETPPID}: closed>"
    assert len(trace.columns()["time_ns"]) == 0
    with pytest.raises(KwireError, match="it has ended, and a trace runs once; make another one"):
        trace.__enter__()
    unused = kwire.trace(GETPPID)
    unused.close()
    unused.close()
    assert list(unused) == []


@pytest.mark.live
@pytest.mark.native  # the same on each kernel
def test_events_and_columns_take_what_captures_take(tmp_path) -> None:
    def traced():
        trace = kwire.trace(GETPPID, "tracepoint:syscalls:sys_exit_getppid", pid=ME)
        with trace:
            asked(5)
        return trace

    some = list(traced())
    assert len(some) == 10
    for chosen in ({"probe": "*enter*"}, {"where": "ret > 0"}, {"first": 0, "probe": "*:sys_exit_*"}):
        assert len(list(traced().events(**chosen))) == 5
        assert len(traced().columns("*exit*", where="ret > 0")["ret"]) == 5
    assert list(traced().events(last=0)) == []
    assert len(traced().columns("*exit*", last=0)["ret"]) == 0
    with pytest.raises(KwireError, match=r"no probe matches 'nosuch'; there are: tracepoint:"):
        list(traced().events("nosuch"))
    with pytest.raises(KwireError, match="unknown name rett; did you mean ret"):
        list(traced().events(where="rett == 1"))
    with pytest.raises(KwireError, match="2 probes match"):
        traced().columns()
    capture = tmp_path / "x.pcapng"
    subprocess.run(
        [sys.executable, "-m", "kwire.cli.main", "record", GETPPID, "-w", str(capture), "-c", "true"],
        check=True,
    )
    with kwire.open(str(capture)) as opened:
        assert repr(opened) == f"<kwire capture {str(capture)!r}>"
        assert [schema.probe for schema in opened.schemas] == [GETPPID]
        assert opened.lost == 0
        assert repr(opened.probes[0]).startswith(f"<{GETPPID}: ")
        assert repr(Frames.walk(b"")) == "<0 frames>"
        assert repr(opened.schemas[0]).startswith(f"<schema 1 of {GETPPID}: cpu: u16, pid: u32")


@pytest.mark.live
@pytest.mark.native  # the same on each kernel
def test_a_name_of_the_script_does_not_replace_a_built_in() -> None:
    pid = 5
    limit = 3

    @kwire.tracepoint("syscalls:sys_enter_getppid")
    def probe():
        if cpu < limit:
            emit(cpu)

    @kwire.tracepoint("syscalls:sys_enter_getppid")
    def mistaken():
        emit(pid)

    kwire.trace(probe).close()
    with pytest.raises(
        KwireError, match="pid is a built-in of probes, and a name of the script around this one"
    ):
        kwire.trace(mistaken)
    assert pid == 5


# prompts

TYPED = """\
import kwire
@kwire.tracepoint("syscalls:sys_enter_getppid")
def probe():
    emit(pid)

try:
    events = list(kwire.trace(probe, command="true"))
    print("kept", len(events))
except kwire.KwireError as error:
    print("refused", error)

"""


@pytest.mark.live
@pytest.mark.native  # the same on each kernel
def test_the_prompt_defines_probes_or_says_what_to_do() -> None:
    run = subprocess.run(
        [sys.executable, "-i", "-q"], input=TYPED, capture_output=True, text=True, timeout=PATIENCE
    )
    if sys.version_info >= (3, 13):
        assert "kept 0" in run.stdout, run.stderr
    else:
        assert "refused <stdin>: the source text of probe cannot be found; " in run.stdout, run.stderr
        assert "use IPython, put the function into a file, or trace a spec" in run.stdout


@pytest.mark.live
@pytest.mark.native  # the same on each kernel
def test_a_function_made_from_text_is_read_where_it_says_it_is(tmp_path) -> None:
    file = tmp_path / "made.py"
    file.write_text(textwrap.dedent(TYPED))
    run = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, timeout=PATIENCE)
    assert "kept 0" in run.stdout, run.stderr
