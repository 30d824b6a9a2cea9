"""`kwire list`: patterns and names of probes and types, arguments, objects, notes and mistakes."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kwire.cli.main import main
from kwire.kernel import catalog, features
from kwire.kernel.formats import parse_format
from kwire.kernel.probes import YES, Answer
from kwire.kernel.syscall import KernelError
from kwire.kernel.targets import Target
from kwire.kinds import FUNCTIONS

Outcome = tuple[int, list[str], str]
Run = Callable[..., Outcome]

FORMAT = """name: sched_switch
ID: 1
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;

\tfield:char prev_comm[16];\toffset:8;\tsize:16;\tsigned:0;
\tfield:__data_loc char[] file;\toffset:24;\tsize:4;\tsigned:0;
\tfield:pid_t prev_pid;\toffset:28;\tsize:4;\tsigned:1;

print fmt: "x"
"""


class Events:
    """A tracing file system of three events."""

    EVENTS = ("sched:sched_switch", "sched:sched_wakeup", "tcp:tcp_probe")

    def all_events(self) -> list[str]:
        return list(self.EVENTS)

    def has_event(self, category: str, name: str) -> bool:
        return f"{category}:{name}" in self.EVENTS

    def categories(self) -> list[str]:
        return ["sched", "tcp"]

    def events(self, category: str) -> list[str]:
        return [each.split(":")[1] for each in self.EVENTS if each.startswith(f"{category}:")]

    def format(self, category: str, name: str) -> object:
        return parse_format(FORMAT)

    def functions(self) -> str:
        return "tcp_connect\ntcp_close\nvfs_read\nunknown_fn\nnf_hook [nf]\n"


def builder() -> Any:
    """A BTF builder, of the tests of the room that reads BTF."""
    path = Path(__file__).parents[1] / "btf" / "conftest.py"
    spec = importlib.util.spec_from_file_location("btf_builder", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Builder


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel with some types, functions and events, one module, and everything attachable."""
    make = builder()
    b = make()
    number = b.integer("int", 4, True)
    inner = b.struct("", 8, [("flag", number, 0, 1), ("rest", number, 1, 31), ("deep", number, 32, 0)], 5)
    sock = b.struct("tcp_sock", 24, [("a", number, 0), ("", inner, 64), ("next", b.next_id + 1, 128)])
    pointer = b.ref(2, sock)
    b.struct("tcp_info", 4, [("a", number, 0)])
    b.enum("tcp_state", [("OPEN", 1), ("CLOSED", 2)])
    b.ref(8, number, "pid_t")
    b.add(7, "hidden", 0)
    for name in ("tcp_connect", "tcp_close", "vfs_read"):
        b.func(name, b.proto(number, [("sk", pointer), ("", number)]))
    b.ref(8, b.ref(2, b.proto(0, [("", pointer), ("", number), ("", pointer)])), "btf_trace_sched_switch")
    b.func(
        "__traceiter_sched_switch", b.proto(0, [("__data", pointer), ("preempt", number), ("prev", pointer)])
    )
    nf = make(base=b)
    nf.func("nf_hook", nf.proto(0, [("where", nf.struct("nf_conn", 4, [("x", number, 0)]))]))
    for name, blob in (("vmlinux", b.blob()), ("nf", nf.blob())):
        (tmp_path / name).write_bytes(blob)
    monkeypatch.setenv("KWIRE_BTF", str(tmp_path))
    events = Events()
    monkeypatch.setattr("kwire.kernel.tracefs.shared", lambda: events)
    monkeypatch.setattr(catalog, "_stubs", lambda pattern: [])
    monkeypatch.setattr(catalog, "_iterated", lambda name: name in ("task", "tcp"))
    monkeypatch.setattr(features, "probe", lambda name: YES)
    catalog._function_lines.cache_clear()


@pytest.fixture
def run(kernel: None, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> Outcome:
        try:
            status = main(["list", *arguments])
        except SystemExit as exit_:
            status = int(str(exit_.code))
        out, err = capsys.readouterr()
        return status, out.splitlines(), err

    return run


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("kprobe:tcp_*", ["kprobe:tcp_close", "kprobe:tcp_connect"]),
        ("k:tcp_c?[!x]*", ["kprobe:tcp_close", "kprobe:tcp_connect"]),
        ("kprobe:tcp_connect", ["kprobe:tcp_connect"]),
        ("kretprobe:nf:*", ["kretprobe:nf:nf_hook"]),
        ("kprobe:nf:nf_hook", ["kprobe:nf:nf_hook"]),
        ("fentry:vfs_*", ["fentry:vfs_read"]),
        ("tracepoint:sched:*", ["tracepoint:sched:sched_switch", "tracepoint:sched:sched_wakeup"]),
        ("tracepoint:*:tcp_probe", ["tracepoint:tcp:tcp_probe"]),
        ("rawtracepoint:sched*", ["rawtracepoint:sched_switch", "rawtracepoint:sched_wakeup"]),
        ("tracepoint", [f"tracepoint:{event}" for event in Events.EVENTS]),
        ("tcp_pro*", ["tracepoint:tcp:tcp_probe", "rawtracepoint:tcp_probe"]),
        ("*:tcp_pro*", ["tracepoint:tcp:tcp_probe", "rawtracepoint:tcp_probe"]),
        ("vfs_read", [f"{kind}:vfs_read" for kind in FUNCTIONS]),
        ("tcp_sock", ["struct tcp_sock"]),
        ("struct tcp_*", ["struct tcp_info", "struct tcp_sock"]),
        ("enum *", ["enum tcp_state"]),
        ("struct *_conn", ["struct nf_conn"]),
    ],
)
def test_names(run: Run, pattern: str, expected: list[str]) -> None:
    assert run(pattern) == (0, expected, "")


def test_everything(run: Run) -> None:
    for arguments in ((), ("*",)):
        status, lines, err = run(*arguments)
        assert (status, err) == (0, "")
        # events, functions, timers, counters, iterators
        assert len(lines) == 3 + 3 + 4 * 5 + 2 * 5 + 11 + 10 + 2
        assert lines[0] == "tracepoint:sched:sched_switch"
        assert lines[3 + 3 + 4 * 5 - 1] == "fexit:nf:nf_hook"
        assert lines[-2:] == ["iter:task", "iter:tcp"]


def test_several_patterns(run: Run) -> None:
    assert run("kprobe:vfs_read", "enum tcp_s*") == (0, ["kprobe:vfs_read", "enum tcp_state"], "")


STRUCT = """struct tcp_sock {
    int a;                 /*     0       4 */
    /* 4 bytes hole */
    union {
        int flag:1;        /*     8:0     4 */
        int rest:31;       /*     8:1     4 */
        int deep;          /*    12       4 */
    };                     /*     8       8 */
    struct tcp_sock *next; /*    16       8 */
};                         /* size: 24, members: 3 */""".splitlines()


def test_a_type_as_c(run: Run) -> None:
    assert run("struct tcp_sock") == (0, STRUCT, "")
    assert run("struct", "tcp_sock") == (0, STRUCT, "")
    assert run("-v", "struct tcp_so*") == (0, STRUCT, "")
    assert run("enum tcp_state")[1] == [
        "enum tcp_state {",
        "    OPEN = 1,",
        "    CLOSED = 2,",
        "}; /* size: 4 */",
    ]
    assert run("typedef pid_t") == (0, ["typedef int pid_t;"], "")
    assert run("struct nf_conn")[1][0] == "struct nf_conn {"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("kprobe:tcp_connect", ["struct tcp_sock *sk", "int arg1"]),
        ("fentry:tcp_connect", ["struct tcp_sock *sk", "int arg1"]),
        ("fexit:tcp_connect", ["struct tcp_sock *sk", "int arg1", "int retval"]),
        ("kretprobe:tcp_connect", ["int retval"]),
        ("kprobe:nf:nf_hook", ["struct nf_conn where"]),
        ("kretprobe:nf:nf_hook", ["void retval"]),
        ("rawtracepoint:sched_switch", ["int preempt", "struct tcp_sock *prev"]),
        ("tracepoint:sched:sched_switch", ["char prev_comm[16]", "__data_loc char file[]", "pid_t prev_pid"]),
    ],
)
def test_arguments(run: Run, pattern: str, expected: list[str]) -> None:
    assert run("-v", pattern) == (0, [pattern, *(f"    {text}" for text in expected)], "")


def test_a_function_without_types_is_still_listed(run: Run) -> None:
    status, lines, err = run("-v", "kprobe:*nown_fn", "kprobe:vfs_read")
    assert (status, err) == (0, "")
    assert lines[:3] == ["kprobe:unknown_fn", lines[1], "kprobe:vfs_read"]
    assert "there is no function unknown_fn" in lines[1]
    status, lines, _ = run("-v", "--json", "kprobe:unknown_fn")
    assert "there is no function unknown_fn" in json.loads(lines[0])["unknown"]


def test_objects(run: Run) -> None:
    status, lines, err = run("--json", "kprobe:tcp_*", "tracepoint:tcp:tcp_probe")
    assert (status, err) == (0, "")
    assert [json.loads(line) for line in lines] == [
        {"probe": "kprobe:tcp_close", "kind": "kprobe", "group": "", "name": "tcp_close"},
        {"probe": "kprobe:tcp_connect", "kind": "kprobe", "group": "", "name": "tcp_connect"},
        {"probe": "tracepoint:tcp:tcp_probe", "kind": "tracepoint", "group": "tcp", "name": "tcp_probe"},
    ]
    (line,) = run("--json", "-v", "fexit:vfs_read")[1]
    record = json.loads(line)
    assert record["returns"] == "int"
    assert [(each["name"], each["type"]) for each in record["args"]] == [
        ("sk", "struct tcp_sock *"),
        ("arg1", "int"),
    ]
    (line,) = run("--json", "-v", "tracepoint:sched:sched_switch")[1]
    arguments = json.loads(line)["args"]
    assert [(each["type"], each["offset"], each["size"]) for each in arguments] == [
        ("char[16]", 8, 16),
        ("__data_loc char[]", 24, 4),
        ("pid_t", 28, 4),
    ]


def test_types_as_objects(run: Run) -> None:
    (line,) = run("--json", "struct tcp_sock")[1]
    assert json.loads(line) == {
        "type": "struct tcp_sock",
        "module": "",
        "size": 24,
        "members": [
            {"name": "a", "type": "int", "offset": 0, "size": 4},
            {"name": "flag", "type": "int", "offset": 8, "size": 4, "bit": 0, "bits": 1},
            {"name": "rest", "type": "int", "offset": 8, "size": 4, "bit": 1, "bits": 31},
            {"name": "deep", "type": "int", "offset": 12, "size": 4},
            {"name": "next", "type": "struct tcp_sock *", "offset": 16, "size": 8},
        ],
    }
    (line,) = run("--json", "enum tcp_*")[1]
    assert json.loads(line)["values"] == {"OPEN": 1, "CLOSED": 2}
    (line,) = run("--json", "typedef pid_t")[1]
    assert json.loads(line)["target"] == "int"
    (line,) = run("--json", "struct nf_conn")[1]
    assert json.loads(line)["module"] == "nf"


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("kprobe:tcp_conect", "no such function; did you mean tcp_connect?"),
        ("kprobe:nf:nf_hok", "no such function; did you mean nf:nf_hook?"),
        ("kprobe:nothing*", "no function matches"),
        ("kprobe:tcp_[conect", "no function matches"),
        ("tracepoint:sched:sched_swich", "no such tracepoint; did you mean sched:sched_switch?"),
        ("tracepoint:shed:*", "no tracepoint matches"),
        ("struct tcp_sok", "there is no struct tcp_sok; did you mean struct tcp_sock?"),
        ("struct tcp_state", "there is no struct tcp_state; did you mean enum tcp_state?"),
        ("struct hidden", "struct hidden is only declared"),
        ("struct zz*", "no struct matches zz*"),
        ("struct", "struct of what name?"),
        ("kprob:tcp_connect", "unknown kind of probe 'kprob'; did you mean kprobe"),
        ("sched:*wakeup", "unknown kind of probe 'sched'"),
        ("tcp_conect", "no probe and no type of that name; did you mean kprobe:tcp_connect?"),
        ("nothing*", "no probe and no type of that name"),
    ],
)
def test_mistakes(run: Run, pattern: str, message: str) -> None:
    status, lines, err = run(pattern)
    assert (status, lines) == (1, [])
    assert message in err
    assert "Traceback" not in err


def test_what_cannot_be_attached_is_said_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(name: str) -> Answer:
        return Answer("no", f"no {name} here", "get one") if name in ("kprobe", "fentry") else YES

    monkeypatch.setattr(features, "probe", answer)
    notes = [
        f"kwire: note: no {kind} can be attached here: no {kind} here; get one"
        for kind in ("kprobe", "fentry")
    ]
    assert run("kprobe:vfs_read", "kretprobe:vfs_*") == (
        0,
        ["kprobe:vfs_read", "kretprobe:vfs_read"],
        notes[0] + "\n",
    )
    _, lines, err = run()
    assert len(lines) == 6 + 2 * 5 + 11 + 10 + 2
    assert err.splitlines() == notes
    assert run("vfs_read")[1] == ["kprobe:vfs_read"]


def test_without_privilege(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """No events, no symbols: functions come from BTF, with one line that says why."""

    def refuse(*_: object) -> list[Target]:
        raise KernelError("open", "tracefs", "not permitted", "be root")

    monkeypatch.setattr(catalog, "expand", refuse)
    status, lines, err = run("tracepoint:sched:*")
    assert (status, lines, err) == (1, [], "kwire: open tracefs: not permitted; be root\n")
    note = "kwire: note: open tracefs: not permitted; be root; listing the functions in BTF\n"
    assert run("kprobe:tcp_*") == (0, ["kprobe:tcp_close", "kprobe:tcp_connect"], note)
    assert run("kprobe:n*:*") == (0, ["kprobe:nf:nf_hook"], note)
    status, lines, err = run("kprobe:tcp_conect")
    assert (status, lines) == (1, [])
    assert err.endswith("did you mean tcp_connect?\n")


@pytest.mark.live
@pytest.mark.skipif(not os.path.exists("/sys/kernel/btf/vmlinux"), reason="this kernel has no BTF")
def test_the_running_kernel(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "struct tcp_sock"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "struct tcp_sock {"
    assert any("snd_cwnd;" in line for line in lines)
    assert main(["list", "-v", "tracepoint:sched:sched_switch", "rawtracepoint:sched_switch"]) == 0
    lines = [line.strip() for line in capfd.readouterr().out.splitlines()]
    assert lines[:2] == ["tracepoint:sched:sched_switch", "char prev_comm[16]"]
    assert "struct task_struct *prev" in lines
    assert main(["list", "-v", "kprobe:tcp_con*"]) == 0
    lines = [line.strip() for line in capfd.readouterr().out.splitlines()]
    assert lines[lines.index("kprobe:tcp_connect") + 1] == "struct sock *sk"
    assert main(["list", "tracepoint:sched:sched_swich"]) == 1
    assert "did you mean sched:sched_switch?" in capfd.readouterr().err
