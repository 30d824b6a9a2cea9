"""Requests: read strictly, whatever comes; answered within the policy; nothing that came is executed."""

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kwire.agent import requests
from kwire.agent.policy import Policy, rules
from kwire.agent.requests import (
    FUNCTION,
    OPERATIONS,
    TRACE,
    RemoteError,
    RequestError,
    answered,
    failed,
    read,
)
from kwire.errors import KwireError
from kwire.lang.errors import LanguageError
from kwire.lang.python import Written
from kwire.live.program_sources import ProgramSources, parse, written
from kwire.live.recorder import Limits
from kwire.wire import cbor

GETPPID = "tracepoint:syscalls:sys_enter_getppid"


def grant(*listed: str, **keys: Any) -> Any:
    found = rules({"allow": [{"who": ["anyone"], **keys}]}, "policy.toml", listed).grant("", "tcp:h:1")
    assert found is not None
    return found


def freely() -> Any:
    return grant(probes=["*"], programs=True, commands=["*"])


def travelling(file: str, *text: Any, **changes: Any) -> dict[str, Any]:
    """A probe function as it travels."""
    parts = {"file": file, "text": list(text), "name": "f", "attach": [GETPPID], "constants": {}}
    return {**parts, "values": {}, "names": {}, "maps": {}, **changes}


GOOD = {
    "op": "trace",
    "probes": [GETPPID],
    "filter": "pid == 1",
    "command": ["true"],
    "pids": [1, 2],
    "seconds": 0.5,
    "count": 7,
    "buffer": 65536,
    "functions": {1: travelling("b.py"), 0: travelling("a.py", "x", "y")},
    "everyone": True,
    "script": {"name": "x.bt", "text": ["BEGIN ", "{ }"], "arguments": ["7"]},
}


def test_a_request_of_everything_is_read() -> None:
    functions = [{**travelling("a.py"), "text": "xy"}, {**travelling("b.py"), "text": ""}]
    parts = {name: GOOD[name] for name in GOOD.keys() - {"op"}}
    script = {"name": "x.bt", "text": "BEGIN { }", "arguments": ["7"]}
    assert read(GOOD, "trace") == {**parts, "functions": functions, "script": script}
    assert parts.keys() == TRACE.keys()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("script", "BEGIN { }"),
        ("script", {"name": "x", "text": ["BEGIN { }"]}),
        ("script", {"name": "x", "text": "BEGIN { }", "arguments": []}),
        ("probes", "tracepoint:a:b"),
        ("probes", [1]),
        ("probes", [["a"]]),
        ("probes", ["x"] * 5000),
        ("probes", [b"bytes"]),
        ("filter", 1),
        ("filter", "x" * 70_000),
        ("pids", [0]),
        ("pids", [-1]),
        ("pids", [1 << 40]),
        ("pids", [True]),
        ("pids", ["1"]),
        ("pids", 1),
        ("seconds", -1),
        ("seconds", 0),
        ("seconds", float("nan")),
        ("seconds", float("inf")),
        ("seconds", True),
        ("count", 0),
        ("count", 1.5),
        ("buffer", 1 << 40),
        ("command", "rm -rf /"),
        ("command", {"a": 1}),
        ("files", {0: {"name": "a.py", "text": ["x"]}}),
        ("functions", {0: {"name": "f"}}),
        ("functions", {0: travelling("a.py", "x", more=1)}),
        ("functions", {0: travelling("a.py", b"x")}),
        ("functions", {0: travelling("a.py", text="x")}),
        ("functions", {0: travelling("a.py", *["x" * 8192] * 33)}),
        ("functions", {0: travelling("a.py", constants={"A": 1.5})}),
        ("functions", ["a.py"]),
        ("functions", {"name": "a"}),
        ("functions", [travelling("a.py", "x")]),
        ("functions", {"0": travelling("a.py", "x")}),
        ("functions", {0: dict.fromkeys(FUNCTION, "x")}),
        ("functions", {0: {}}),
        ("user", "root"),
        (1, 2),
        (None, None),
    ],
)
def test_what_is_not_as_it_should_be_is_refused(key: Any, value: Any) -> None:
    with pytest.raises(RequestError) as error:
        read({**GOOD, key: value}, "trace")
    assert "\n" not in str(error.value)


WILD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3)
    ),
    max_leaves=12,
)
KEYS = st.sampled_from([*TRACE, *FUNCTION, "op", "pattern", "why", "status", "__class__", "__import__"])


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(KEYS | st.text(max_size=8), WILD | st.sampled_from(list(OPERATIONS)), max_size=6))
def test_whatever_comes_is_read_or_refused(body: dict[Any, Any]) -> None:
    with contextlib.suppress(RequestError):
        read(body, requests.operation_of(body))


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(max_size=8) | st.just("error") | st.just("ok"), WILD, max_size=4))
def test_whatever_is_answered_is_understood_or_an_error(body: dict[Any, Any]) -> None:
    with contextlib.suppress(RemoteError):
        assert answered(body)["ok"] is True


def test_an_error_comes_back_as_it_was() -> None:
    text = "def f():\n    emit(pid, nonsense)\n    emit(pid,)\n    x = = 1\n"
    with pytest.raises(LanguageError) as here:
        parse(ProgramSources(functions=(Written("my.py", text, "f", (GETPPID,), {}, {}, {}, {}),)))
    with pytest.raises(RemoteError) as there:
        answered(cbor.loads_map(cbor.dumps(failed(here.value))))
    for part in ("operation", "subject", "cause", "cure", "detail"):
        assert getattr(there.value, part) == getattr(here.value, part)
    assert str(there.value) == str(here.value)


def test_what_another_says_moves_no_cursor() -> None:
    error = {"text": "a\x1b[2Jb\x07\r", "detail": "c\x9bd\ne", "cause": "f\x00"}
    with pytest.raises(RemoteError) as told:
        answered({"error": error})
    assert str(told.value) == "a\ufffd[2Jb\ufffd\ufffd"
    assert told.value.detail == "c\ufffdd\ne"
    assert told.value.cause == "f\ufffd"


PLAIN = '@tracepoint("sched:sched_switch")\ndef f(): emit(pid)\n'
HEAD = '@tracepoint("sched:sched_switch")\n'
HOSTILE = {
    "a call at the top": "import os\nos.system('touch {canary}')\n{probe}",
    "a decorator that calls": "@(lambda f: __import__('os').system('touch {canary}'))\n{probe}",
    "a decorator's argument": "@tracepoint(open('{canary}', 'w').name)\ndef f(): emit(pid)\n",
    "a default": HEAD + 'def f(x=open("{canary}", "w")): emit(pid)\n',
    "an annotation": HEAD + 'def f(x: open("{canary}", "w")): emit(pid)\n',
    "an import inside": HEAD + 'def f():\n    import os\n    emit(pid)\n',
    "__import__ inside": HEAD + 'def f(): emit(x=__import__("os").system("touch {canary}"))\n',
    "exec inside": HEAD + 'def f():\n    exec("open(\'{canary}\', \'w\')")\n    emit(pid)\n',
    "an attribute chain": HEAD + 'def f(): emit(x=().__class__.__bases__[0])\n',
    "a class": HEAD + 'class f:\n    x = open("{canary}", "w")\n',
    "a comprehension": HEAD + 'def f(): emit(x=[open("{canary}", "w") for _ in (1,)])\n',
    "an f-string": HEAD + 'def f(): emit(x=f"{{open(\'{canary}\', \'w\')}}")\n',
    "a walrus": 'X = (y := open("{canary}", "w"))\n{probe}',
    "NUL": HEAD + 'def f(): emit(pid)\0\n',
    "a surrogate": HEAD + 'def f(): emit(x="\ud800")\n',
    "deep parentheses": HEAD + 'def f(): emit(x=' + "(" * 3000 + "1" + ")" * 3000 + ")\n",
    "deep operators": HEAD + 'def f(): emit(x=' + "-" * 50_000 + "1)\n",
    "a long chain": HEAD + 'def f(): emit(x=curtask' + ".a" * 20_000 + ")\n",
    "a huge number": HEAD + 'def f(): emit(x=' + "9" * 100_000 + ")\n",
    "a huge shift": 'X = 1 << 63 << 63 << 63 << 1000000000\n' + HEAD + 'def f(): emit(x=X)\n',
    "a huge product": 'X = "a" * 10000000000\n' + HEAD + 'def f(): emit(x=X)\n',
    "a path as a probe": '@tracepoint("../../etc:passwd")\ndef f(): emit(pid)\n',
    "a path as a name": '@probe("kprobe:../../../etc/passwd")\ndef f(): emit(pid)\n',
    "no probe": "print('hello')\n",
}  # fmt: skip


@pytest.mark.live
@pytest.mark.native
@pytest.mark.parametrize("name", HOSTILE)
def test_programs_are_read_and_never_run(name: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    text = HOSTILE[name]
    if "{canary}" in text:
        text = text.format(canary=canary, probe=PLAIN)
    body = {"op": "trace", "functions": {0: travelling("x.py", *requests.pieces(text))}}
    start = time.monotonic()
    with contextlib.suppress(KwireError):
        assert requests.serve(body, freely()).processes.command is None
    assert not canary.exists()
    assert time.monotonic() - start < 2 * requests.COMPILE_SECONDS


@pytest.mark.live
@pytest.mark.native
@pytest.mark.parametrize(
    "spec",
    [
        "tracepoint:../../../../etc:passwd",
        "tracepoint:syscalls:../../../../../etc/passwd",
        "tracepoint:syscalls/sys_enter_getppid:x",
        "kprobe:/etc/passwd",
        "rawtracepoint:" + "a" * 100_000,
        "tracepoint:[:x",
        "tracepoint:" + "*" * 300 + "x:y",
        f"{GETPPID}(__import__('os').system('true'))",
        f"{GETPPID}(" + "(" * 500 + "1" + ")" * 500 + ")",
        "",
        ":",
        "\x00:\x00",
    ],
)
def test_hostile_specs_are_errors(spec: str) -> None:
    with pytest.raises(KwireError):
        requests.serve({"op": "trace", "probes": [spec]}, freely())


@pytest.mark.live
@pytest.mark.native
def test_what_takes_too_long_is_given_up() -> None:
    handler = signal.getsignal(signal.SIGALRM)
    with pytest.raises(KwireError, match="took more than"), requests.in_time(0.05):
        time.sleep(60)
    assert signal.getsignal(signal.SIGALRM) is handler
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.live
@pytest.mark.native
def test_a_job_is_what_was_asked_within_what_is_granted() -> None:
    body = {
        "op": "trace",
        "probes": [GETPPID],
        "seconds": 100,
        "count": 5,
        "buffer": 64 << 20,
        "pids": [os.getpid()],
    }
    job = requests.serve(body, grant(probes=["*"], seconds=10, rate=50, memory=2 << 20))
    assert (job.limits, job.rate) == (Limits(10.0, 5), 50)
    assert job.buffer is not None
    assert job.buffer <= 1 << 20
    assert job.processes.chosen
    job.processes.close()
    assert requests.begun(job.plan, 3)["probes"] == 3
    assert len(job.plan.schemas) == 1
    free = requests.serve({"op": "trace", "probes": [GETPPID], "seconds": 3}, grant(probes=["*"], seconds=10))
    assert (free.limits, free.processes.chosen) == (Limits(3), False)
    assert (
        requests.serve({"op": "trace"}, Policy([GETPPID]).grant("", "tcp:h:1") or grant()).limits == Limits()
    )


@pytest.mark.live
@pytest.mark.native
def test_without_probes_it_is_what_the_agent_lists() -> None:
    listed = Policy([GETPPID, "tracepoint:sched:sched_switch"]).grant("", "tcp:h:1")
    assert listed is not None
    job = requests.serve({"op": "trace"}, listed)
    assert [schema.probe for schema in job.plan.schemas] == [GETPPID, "tracepoint:sched:sched_switch"]
    with pytest.raises(KwireError, match="no probe"):
        requests.serve({"op": "trace"}, freely())


@pytest.mark.live
@pytest.mark.native
def test_names_are_those_that_are_allowed() -> None:
    some = grant(probes=["tracepoint:sched:sched_process_*"])
    names = requests.names({"op": "probes", "pattern": "tracepoint:sched:*"}, some)["names"]
    assert "tracepoint:sched:sched_process_exec" in names
    assert all(name.startswith("tracepoint:sched:sched_process_") for name in names)
    with pytest.raises(KwireError):
        requests.names({"op": "probes", "pattern": "nothing"}, some)
    for file in ("/etc/passwd", "/no/such/file"):  # which files there are is told to nobody else
        found = requests.names({"op": "probes", "pattern": f"uprobe:{file}:*"}, some)
        assert found == {"ok": True, "names": [], "more": False}
    many = requests.names({"op": "probes", "pattern": "tracepoint:*:*"}, grant(probes=["*"]))
    assert len(many["names"]) <= requests.NAMES_MOST


@pytest.mark.live
@pytest.mark.native
def test_a_refused_request_leaves_no_command() -> None:
    before = set(os.listdir("/proc"))
    for body in (
        {"op": "trace", "probes": ["tracepoint:no:such"], "command": ["true"]},
        {"op": "trace", "probes": [GETPPID], "command": ["true"], "filter": "nonsense == 1"},
    ):
        with pytest.raises(KwireError):
            requests.serve(body, freely())
    with pytest.raises(KwireError, match="there is no such user"):
        requests.serve(
            {"op": "trace", "probes": [GETPPID], "command": ["true"]},
            grant(probes=["*"], commands=["*"], user="no-such-user"),
        )
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    assert not set(children) - before


LATER = 3


def test_a_function_travels_with_what_it_takes_from_around_it() -> None:
    import kwire

    number = 17

    @kwire.tracepoint("sched:sched_switch")
    def inner(prev_pid):  # type: ignore[no-untyped-def]
        if prev_pid == LATER + number:
            emit(pid, prev_pid, flag=os.O_NONBLOCK)  # type: ignore[name-defined]  # noqa: F821

    [one] = written([inner])
    assert one.constants == {"LATER": LATER, "number": number}
    assert one.values == {"os.O_NONBLOCK": os.O_NONBLOCK}
    assert one.attach == ("tracepoint:sched:sched_switch",)
    assert "def inner" in one.text
    assert "test_a_function_travels" not in one.text  # nothing but the function
    from kwire.lang import python

    there = python.parse_written(one)
    here = python.parse_function(inner.function, inner.attach)
    assert there.body == here.body  # spans included: errors point to the same place
    assert there.replace(source=here.source) == here.replace(constants=there.constants)
    assert dict(there.constants) == dict(here.constants)
    with pytest.raises(LanguageError, match="there is no function"):
        python.parse_written(one._replace(name="other"))


def test_only_probes_travel() -> None:
    with pytest.raises(KwireError, match="it is no probe"):
        written([len])


def test_every_operation_is_explained() -> None:
    assert OPERATIONS.keys() == requests.MEANINGS.keys()
