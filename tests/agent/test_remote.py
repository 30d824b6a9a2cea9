"""Tracing on another machine as if it were this one: `record -H`, `trace -H`, `kwire.connect`.

The agent is a real process; the other machine is this one, over Unix sockets, TCP, TLS and UDP.
"""

# Names and annotations inside of probes are the probe language's, not Python's.
# ruff: noqa: F821
# mypy: ignore-errors

import asyncio
import contextlib
import json
import os
import pwd
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from waiting import PATIENCE, until

import kwire
from kwire.agent.remote import Endpoint, RemoteSession, address_of
from kwire.agent.requests import LINE_MOST, RemoteError
from kwire.errors import KwireError

KWIRE = [sys.executable, "-m", "kwire.cli.main"]
PROBE = "tracepoint:syscalls:sys_enter_getppid"
CALLS = 20_000
CALLER = f"import os\nfor _ in range({CALLS}): os.getppid()"
COMMAND = f"{sys.executable} -c '{CALLER}'"
WAITING = f"{COMMAND[:-1]}\nimport time\ntime.sleep(60)'"
POLICY = """
[[allow]]
who = ["uid:0", "client"]
probes = ["tracepoint:syscalls:*", "tracepoint:sched:sched_process_*"]
programs = true
commands = ["*"]
user = "root"
"""
OPENED = """import kwire

@kwire.tracepoint("syscalls:sys_enter_openat")
def opened(filename, flags):
    emit(pid, comm, flags, path=str(filename))
"""
WRONG = '@kwire.tracepoint("syscalls:sys_enter_openat")\ndef f():\n    emit(pid)\n    emit(pid, nonsense)\n'

pytestmark = [pytest.mark.live, pytest.mark.native]


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("web1", "tls:web1:17800"),
        ("web1.example:99", "tls:web1.example:99"),
        ("10.0.0.7", "tls:10.0.0.7:17800"),
        ("[2001:db8::7]", "tls:[2001:db8::7]:17800"),
        ("localhost", "tcp:localhost:17800"),
        ("127.0.0.1:1234", "tcp:127.0.0.1:1234"),
        ("[::1]", "tcp:[::1]:17800"),
        ("tls:localhost", "tls:localhost:17800"),
        ("tcp:web1:5", "tcp:web1:5"),
        ("unix:/run/kwire.sock", "unix:/run/kwire.sock"),
    ],
)
def test_what_a_host_is(host: str, address: str) -> None:
    assert str(address_of(host)) == address


class Agent:
    """`kwire agent --listen` as a process; `host` is what `-H` takes."""

    def __init__(self, folder: Path, address: str, policy: str, *arguments: str) -> None:
        self._said = folder / "agent.stderr"
        if policy:
            (folder / "policy.toml").write_text(policy)
            arguments = (*arguments, "--policy", str(folder / "policy.toml"))
        with self._said.open("w") as said:
            self.process = subprocess.Popen([*KWIRE, "agent", "--listen", address, *arguments], stderr=said)
        self.host = ""
        until(self._listens)

    def _listens(self) -> bool:
        assert self.process.poll() is None, self._said.read_text()
        for line in self._said.read_text().splitlines():
            if "listening at " in line:
                self.host = line.rpartition(" ")[2]
        return bool(self.host)

    @property
    def port(self) -> int:
        return int(self.host.rpartition(":")[2])

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)  # it waits 10 s for a client that was killed
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


Start = Callable[..., Agent]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start an agent: `start(address="", policy=POLICY, *arguments)`."""
    agents: list[Agent] = []

    def make(address: str = "", policy: str = POLICY, *arguments: str) -> Agent:
        agents.append(Agent(tmp_path, address or f"unix:{tmp_path}/agent", policy, *arguments))
        return agents[-1]

    yield make
    for agent in agents:
        agent.close()


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """An agent at a Unix socket, for the tests that leave it as it was."""
    folder = tmp_path_factory.mktemp("agent")
    agent = Agent(folder, f"unix:{folder}/socket", POLICY)
    yield agent
    agent.close()


def run(*arguments: str | Path, **options: Any) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [*KWIRE, *map(str, arguments)], capture_output=True, text=True, timeout=PATIENCE, **options
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def record(agent: Agent, file: Path, *options: str, probe: str = PROBE) -> dict[str, Any]:
    """Record there; the summary."""
    done = run("record", "-H", agent.host, probe, "-w", file, "--json", *options)
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    assert done.returncode == (3 if found["lost"] else 0), done.stderr
    return found


def verify(file: Path) -> tuple[int, list[dict[str, Any]]]:
    done = run("verify", "--json", file)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def shown(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run("show", "--json", file).stdout.splitlines()]


# -- as if local


def test_specs_conditions_and_files_go_together_there(agent: Agent, tmp_path: Path) -> None:
    file = tmp_path / "probes.py"
    file.write_text(
        '@tracepoint("sched:sched_process_exec")\ndef started(filename): emit(path=str(filename))\n'
    )
    opened = 'tracepoint:syscalls:sys_enter_openat(filename, flags){filename.endswith("/hostname")}'
    words = ["trace", "-H", agent.host, opened, file, "--json", "--filter", "dfd != 3"]
    done = run(*words, "-c", "cat /etc/hostname")
    assert done.returncode == 0, done.stderr
    fields = [json.loads(line)["fields"] for line in done.stdout.splitlines()]
    assert {"/etc/hostname"} == {one["filename"] for one in fields if "filename" in one}
    assert any("path" in one for one in fields)
    assert (
        "--filter does not apply to tracepoint:sched:sched_process_exec, whose events all are" in done.stderr
    )
    with kwire.connect(agent.host).trace(opened, filter="dfd != 3", command="cat /etc/hostname") as events:
        assert [event["filename"] for event in events.events(where="flags == 0")] == ["/etc/hostname"]
    assert events.unfiltered == []


def test_a_recording_there_is_a_recording_here(agent: Agent, tmp_path: Path) -> None:
    there = record(agent, tmp_path / "there.pcapng", "-c", COMMAND)
    done = run("record", PROBE, "-c", COMMAND, "-w", tmp_path / "here.pcapng", "--json")
    here = json.loads(done.stdout)
    assert there.keys() == here.keys() | {"host"}
    assert (there["events"], there["lost"], there["command_status"]) == (CALLS, 0, 0)
    assert there["host"] == os.uname().nodename
    assert there["probes"] == here["probes"]
    assert there["file"] == str(tmp_path / "there.pcapng")
    assert verify(tmp_path / "there.pcapng")[0] == 0
    ours, theirs = shown(tmp_path / "here.pcapng"), shown(tmp_path / "there.pcapng")
    assert len(ours) == len(theirs) == CALLS
    assert ours[0].keys() == theirs[0].keys()
    assert ours[0]["fields"].keys() == theirs[0]["fields"].keys()
    assert len({event["pid"] for event in theirs}) == 1


def test_the_probes_there_are_listed(agent: Agent) -> None:
    done = run("list", "-H", agent.host, "tracepoint:sched:sched_process_*")
    assert (done.returncode, "tracepoint:sched:sched_process_exec" in done.stdout.splitlines()) == (0, True)
    done = run("list", "-H", agent.host, "sched_process_exec", "--json")
    assert json.loads(done.stdout.splitlines()[0])["name"] == "sched_process_exec"
    for wrong in (["tracepoint:sched:nothing_like_it"], ["struct", "sock"]):
        done = run("list", "-H", agent.host, *wrong)
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)


def test_a_trace_there_prints_what_a_trace_here_prints(agent: Agent, tmp_path: Path) -> None:
    file = tmp_path / "opened.py"
    file.write_text(OPENED)
    target = tmp_path / "a file"
    target.write_text("")
    outputs = []
    for where in (("-H", agent.host), ()):
        done = run("trace", *where, file, "-c", f"cat '{target}'", "--json", "-w", tmp_path / "kept.pcapng")
        assert done.returncode == 0, done.stderr
        assert "none lost" in done.stderr
        outputs.append([json.loads(line) for line in done.stdout.splitlines()])
        assert verify(tmp_path / "kept.pcapng")[0] == 0
    for events in outputs:
        assert any(event["fields"]["path"] == str(target) for event in events)
    [table] = {run("trace", "-H", agent.host, file, "-c", "true").stdout.splitlines()[0]}
    assert table.split()[:3] == ["TIME", "PID", "COMM"]


@pytest.mark.parametrize("kind", ["tcp", "tls", "udp"])
def test_over_every_transport(kind: str, start: Start, certs: Path, tmp_path: Path, monkeypatch: Any) -> None:
    files = ("cert", "key", "ca")
    ours, theirs = (
        [part for name in files for part in (f"--tls-{name}", str(certs / role / f"{name}.pem"))]
        for role in ("client", "agent")
    )
    policy = POLICY if kind == "tls" else POLICY.replace("uid:0", "anyone")
    agent = start(f"{kind}:127.0.0.1:0", policy, *(theirs if kind == "tls" else ()))
    file = tmp_path / "a.pcapng"
    options = ours if kind == "tls" else []
    told = record(agent, file, "-c", COMMAND, *options)
    assert (told["events"], told["lost"]) == (CALLS, 0)
    assert verify(file)[0] == 0
    if kind == "tls":
        strange = start_without_name(start, tmp_path, theirs)
        done = run("record", "-H", strange.host, PROBE, "-d", "1", "-w", file, *ours)
        assert done.returncode == 1
        assert "policy does not name client" in done.stderr
        done = run(
            "record",
            "-H",
            agent.host,
            PROBE,
            "-d",
            "1",
            "-w",
            file,
            env={**os.environ, "KWIRE_TLS": "/nowhere"},
        )
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1


def start_without_name(start: Start, folder: Path, arguments: list[str]) -> Agent:
    """A second agent, whose policy names somebody else."""
    return start("tls:127.0.0.1:0", POLICY.replace('"client"', '"somebody"'), *arguments)


def test_limits_filters_and_processes(agent: Agent, tmp_path: Path) -> None:
    file = tmp_path / "a.pcapng"
    assert record(agent, file, "-c", COMMAND, "-n", "7")["events"] == 7
    assert verify(file)[0] == 0
    told = record(agent, file, "-c", COMMAND, "--filter", "pid == 1")
    assert told["events"] == 0
    begun = file.with_name("b.pcapng")
    caller = f"import sys\nsys.stdin.readline()\n{CALLER}"
    with subprocess.Popen([sys.executable, "-c", caller], stdin=subprocess.PIPE) as other:
        command = [*KWIRE, "record", "-H", agent.host, PROBE, "-p", str(other.pid), "-n", str(CALLS)]
        with subprocess.Popen([*command, "-w", str(begun)]) as there:
            until(begun.exists)
            other.communicate(b"\n")
            assert there.wait(PATIENCE) == 0
    assert len(shown(begun)) == CALLS
    assert record(agent, file, "-p", str(os.getpid()), "-d", "0.2")["lost"] == 0  # it ends by itself
    done = run("record", "-H", agent.host, PROBE, "-p", other.pid, "-w", file)
    assert "there is no such process" in done.stderr


def test_what_is_lost_there_is_known_here(agent: Agent, tmp_path: Path) -> None:
    file = tmp_path / "a.pcapng"
    told = record(agent, file, "-c", COMMAND, "--buffer", "4096")
    assert told["lost"] > 0
    assert told["events"] + told["lost"] == told["probes"][0]["produced"] == CALLS
    assert verify(file)[0] == 3
    assert len(shown(file)) == told["events"]


def test_a_rate_beyond_the_policy_is_counted(start: Start, tmp_path: Path) -> None:
    agent = start("", POLICY + "rate = 1000\n")
    file = tmp_path / "a.pcapng"
    told = record(agent, file, "-c", COMMAND)
    assert told["events"] + told["lost"] == CALLS
    assert 0 < told["events"] <= 1000 * (told["seconds"] + 2)
    assert verify(file)[0] == 3
    assert "policy allows no more events a second" in run("verify", file).stdout


def test_ctrl_c_ends_it_in_order(agent: Agent, tmp_path: Path) -> None:
    file = tmp_path / "a.pcapng"
    command = [
        *KWIRE,
        "record",
        "-H",
        agent.host,
        PROBE,
        "-c",
        WAITING,
    ]
    with subprocess.Popen([*command, "-w", str(file), "--json"], stdout=subprocess.PIPE, text=True) as there:
        while not file.exists() or file.stat().st_size < 100_000:
            assert there.poll() is None
            time.sleep(0.01)
        there.send_signal(signal.SIGINT)
        output, _ = there.communicate(timeout=PATIENCE)
    assert there.returncode == 0
    told = json.loads(output)
    assert told["events"] == told["probes"][0]["produced"] > 0
    assert verify(file)[0] == 0


def test_rotation_and_standard_output(agent: Agent, tmp_path: Path) -> None:
    told = record(agent, tmp_path / "a.pcapng", "-c", COMMAND, "--rotate", "400K")
    assert len(told["files"]) > 2
    assert sum(len(shown(Path(file))) for file in told["files"]) == CALLS
    done = subprocess.run(
        [*KWIRE, "record", "-H", agent.host, PROBE, "-c", COMMAND, "-w", "-"],
        capture_output=True,
        timeout=PATIENCE,
    )
    assert done.stdout[:4] == b"\x0a\x0d\x0d\x0a"
    (tmp_path / "b.pcapng").write_bytes(done.stdout)
    assert len(shown(tmp_path / "b.pcapng")) == CALLS


# -- errors


def test_errors_come_back_as_local_ones(agent: Agent, tmp_path: Path) -> None:
    file = tmp_path / "wrong.py"
    file.write_text(WRONG)
    for text in (WRONG, "def f(:\n", "x = 1\n", WRONG.replace("openat", "opennat")):
        file.write_text(text)
        there = run("trace", "-H", agent.host, file, "-c", "true")
        here = run("trace", file, "-c", "true")
        assert there.returncode == here.returncode == 1
        assert there.stderr == here.stderr
        assert there.stderr.count("\n") == 1
    file.write_text(WRONG)
    there = run("trace", "-v", "-H", agent.host, file, "-c", "true")
    assert "    4 |     emit(pid, nonsense)\n" in there.stderr
    assert "^~~~~~~~" in there.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["record", "tracepoint:irq:irq_handler_entry", "-d", "1"], "the agent's policy does not allow it"),
        (["record", "kprobe:tcp_connect", "-d", "1"], "it would have to allow probes such as"),
        (["record", "tracepoint:sched:*", "-d", "1"], "the agent's policy does not allow it"),
        (["record", PROBE, "-c", "no-such-program"], "no such file or directory"),
        (["record", PROBE, "--buffer", "100B", "-d", "1"], "set buffer size 100: it is out of range"),
    ],
)
def test_refusals_are_one_line(arguments: list[str], complaint: str, agent: Agent, tmp_path: Path) -> None:
    done = run(*arguments, "-H", agent.host, "-w", tmp_path / "a.pcapng")
    assert done.returncode == 1
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1


def test_nobody_there(tmp_path: Path) -> None:
    for host in (f"unix:{tmp_path}/none", "127.0.0.1:1", "udp:127.0.0.1:1"):
        done = run("record", "-H", host, PROBE, "-w", tmp_path / "a.pcapng")
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
    done = run("record", "-H", "tcp:192.0.2.1", PROBE, "-w", tmp_path / "a.pcapng")
    assert "in the clear" in done.stderr or "--insecure" in done.stderr


# -- what is run for a client


def test_commands_run_as_the_policys_user_and_can_gain_nothing(start: Start, tmp_path: Path) -> None:
    agent = start("", POLICY.replace('"root"', '"nobody"'))
    out = tmp_path / "out"
    out.touch(mode=0o666)
    out.chmod(0o666)
    for parent in out.parents[: len(out.parents) - 2]:
        parent.chmod(parent.stat().st_mode | 0o011)
    script = f"exec > {out}; cat /proc/self/status; ls -l /proc/self/fd; pwd; env"
    told = record(agent, tmp_path / "a.pcapng", "-c", f"sh -c '{script}'")
    text = out.read_text()
    uid = pwd.getpwnam("nobody").pw_uid
    assert told["command_status"] == 0
    assert f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}" in text
    assert "CapEff:\t0000000000000000" in text
    assert "CapPrm:\t0000000000000000" in text
    assert "NoNewPrivs:\t1" in text
    assert "Groups:\t \n" in text
    assert "\n/\n" in text
    assert "HOME=/nonexistent" in text
    descriptors = [line for line in text.splitlines() if "->" in line]
    assert len(descriptors) <= 4, descriptors  # 0, 1, 2 and the listing's own
    assert (
        record(agent, tmp_path / "a.pcapng", "--no-command-status", "-c", "sh -c 'exit 3'")["command_status"]
        == 3
    )


# -- what can happen on the way


def test_a_connection_that_breaks_is_taken_up_again(start: Start, tcp_proxy: Any, tmp_path: Path) -> None:
    agent = start("tcp:127.0.0.1:0", POLICY.replace("uid:0", "anyone"))
    proxy = tcp_proxy(agent.port)
    file = tmp_path / "a.pcapng"
    calls = "import os, time\nfor _ in range(100):\n  for _ in range(500): os.getppid()\n  time.sleep(0.02)"
    command = [
        *KWIRE,
        "record",
        "-H",
        f"127.0.0.1:{proxy.port}",
        PROBE,
        "-c",
        f"{sys.executable} -c '{calls}'",
    ]
    with subprocess.Popen([*command, "-w", str(file), "--json"], stdout=subprocess.PIPE, text=True) as there:
        while not file.exists():
            assert there.poll() is None
            time.sleep(0.01)
        for _ in range(3):
            time.sleep(0.5)
            proxy.cut()
        output, _ = there.communicate(timeout=PATIENCE)
    assert there.returncode == 0
    assert json.loads(output)["events"] == 50_000
    assert verify(file)[0] == 0
    assert len(shown(file)) == 50_000


def test_an_agent_that_dies_is_an_error_and_the_file_is_kept(start: Start, tmp_path: Path) -> None:
    agent = start()
    file = tmp_path / "a.pcapng"
    command = [
        *KWIRE,
        "record",
        "-H",
        agent.host,
        PROBE,
        "-c",
        WAITING,
    ]
    with subprocess.Popen([*command, "-w", str(file)], stderr=subprocess.PIPE, text=True) as there:
        while not file.exists() or file.stat().st_size < 100_000:
            assert there.poll() is None
            time.sleep(0.01)
        agent.process.kill()
        assert there.stderr is not None
        first = there.stderr.readline()  # at once, not when it is given up
        there.send_signal(signal.SIGINT)
        _, said = there.communicate(timeout=PATIENCE)
    assert first.startswith(f"kwire: {agent.host}: the connection broke: ")
    assert first.endswith("(trying again for 120 s)\n")
    assert there.returncode == 1
    assert "Traceback" not in said
    assert "kwire: trace on unix:" in said
    assert len(shown(file)) > 0
    assert verify(file)[0] == 3


def test_a_client_that_dies_harms_nobody(start: Start, tmp_path: Path) -> None:
    agent = start()
    command = [
        *KWIRE,
        "record",
        "-H",
        agent.host,
        PROBE,
        "-p",
        str(os.getpid()),
        "-w",
        str(tmp_path / "a.pcapng"),
    ]
    with subprocess.Popen(command) as there:
        until((tmp_path / "a.pcapng").exists)  # its trace has begun
        there.kill()
    assert record(agent, tmp_path / "b.pcapng", "-c", COMMAND)["events"] == CALLS


# -- whoever asks for what is not to be asked


def function(*text: str, file: str = "x.py") -> dict[str, Any]:
    """A probe function as it travels."""
    return {"file": file, "text": list(text), "name": "f", "attach": [PROBE], "constants": {}, "values": {}}


HOSTILE: list[dict[Any, Any]] = [
    {},
    {"op": None},
    {"op": "exec", "command": ["id"]},
    {"op": ["trace"]},
    {"op": "trace", "probes": {"a": "b"}},
    {"op": "trace", "probes": [PROBE] * 5000},
    {"op": "trace", "probes": [["nested"] * 10]},
    {"op": "trace", "probes": [PROBE], "command": "sh -c id"},
    {"op": "trace", "probes": ["tracepoint:../../../etc:passwd"]},
    {"op": "trace", "probes": [f"{PROBE}(__import__('os').system('id'))"]},
    {"op": "trace", "files": {0: {"name": "x.py", "text": ["pass"]}}},
    {"op": "trace", "functions": {0: function("import os; os.system('id')", file="../../etc/shadow")}},
    {"op": "trace", "functions": {0: function(*["(" * 8000] * 12)}},
    {"op": "trace", "functions": {0: {"name": "f"}}},
    {"op": "trace", "probes": [PROBE], "filter": "-" * 8000 + "1"},
    {"op": "trace", "probes": [PROBE], "unknown": 1},
    {"op": "trace", "probes": [PROBE], "pids": [-1]},
    {"op": "trace", "probes": [PROBE], "seconds": -1.0},
    {"op": "trace", "probes": [PROBE], "buffer": 1 << 62},
    {"op": "probes", "pattern": "*" * 4000},
    {"op": "probes", "pattern": 7},
    {"op": "ended", "why": "me"},
]


def test_hostile_requests_are_refused_and_others_are_served(agent: Agent, tmp_path: Path) -> None:
    link = Endpoint(agent.host)
    for body in HOSTILE:
        conversation = RemoteSession(link, body)
        try:
            with pytest.raises(RemoteError) as refused:
                conversation.until(lambda: False)
            assert len(str(refused.value)) <= LINE_MOST
        finally:
            conversation.close()
    assert record(agent, tmp_path / "a.pcapng", "-c", COMMAND)["events"] == CALLS
    assert agent.process.poll() is None


def test_a_request_too_large_for_any_session(agent: Agent, tmp_path: Path) -> None:
    body = {"op": "trace", "functions": {0: function(*["# " + "x" * 8000] * 400)}}
    conversation = RemoteSession(Endpoint(agent.host), body)
    try:
        with pytest.raises(KwireError):
            conversation.until(lambda: False)
    finally:
        conversation.close()
    assert record(agent, tmp_path / "a.pcapng", "-c", "true")["lost"] == 0


# -- from Python

LATER = os.O_CREAT


@kwire.tracepoint("syscalls:sys_enter_openat")
def opened(filename, flags):
    if flags & LATER == 0:
        emit(pid, comm, flags, path=str(filename))


def test_from_python(agent: Agent, tmp_path: Path) -> None:
    target = tmp_path / "a file"
    target.write_text("")
    host = kwire.connect(agent.host)
    with host.trace(opened, command=["cat", str(target)]) as events:
        seen = list(events)
        assert events.lost == 0
        assert events.losses == []
        assert [schema.probe for schema in events.schemas] == ["tracepoint:syscalls:sys_enter_openat"]
    assert seen[-1].path == str(target)
    assert seen[-1].comm == "cat"
    assert seen[-1].flags & os.O_CREAT == 0
    times = [event.time_ns for event in seen]
    assert times == sorted(times)
    assert abs(times[-1] - time.time_ns()) < 60e9
    with host.trace(
        PROBE, command=["sh", "-c", "exec $0 -c 'import os; os.getppid()'", sys.executable]
    ) as events:
        columns = events.columns()
    assert len(columns["pid"]) >= 1

    async def each() -> list[Any]:
        return [event async for event in host.trace(opened, command=["cat", str(target)])]

    assert asyncio.run(each())[-1].path == str(target)
    names = host.probes("tracepoint:sched:sched_process_*")
    assert "tracepoint:sched:sched_process_exec" in names
    told = host.record(str(tmp_path / "a.pcapng"), PROBE, command=COMMAND)
    assert (told["events"], told["lost"], told["command_status"]) == (CALLS, 0, 0)
    assert verify(tmp_path / "a.pcapng")[0] == 0


COUNTING = """import kwire
from kwire.probe import comm as name

counts = kwire.Count(by="char[16]")
took = kwire.Histogram()

@kwire.tracepoint("syscalls:sys_enter_getppid")
def asked():
    counts.add(name)
    took.add(5)
"""

wanted = kwire.Hash(key="u32", value=("u64", "char[8]"))
seen = kwire.Count(by=("u64", "char[8]"))
average = kwire.Average()


@kwire.tracepoint("syscalls:sys_enter_getppid")
def asked():
    if 7 in wanted:
        number, name = wanted[7]
        seen.add(number, name)
        average.add(number)
        wanted[8] = number + 1, name


def test_maps_of_python_probes_there(agent: Agent, tmp_path: Path) -> None:
    """What they hold is shown at the end, kept in captures, and in the objects of a program."""
    file, kept = tmp_path / "probes.py", tmp_path / "kept.pcapng"
    file.write_text(COUNTING)
    done = run(
        "trace", "-H", agent.host, file, "-w", kept, "-c", f"{sys.executable} -c 'import os; os.getppid()'"
    )
    assert done.returncode == 0, done.stderr
    assert "counts (count by text):" in done.stdout
    assert "[4, 8)  1 |@@@" in done.stdout
    assert "took (hist):" in run("show", kept).stdout
    wanted[7] = 40, "abc"
    host = kwire.connect(agent.host)
    with host.trace(asked, command=[sys.executable, "-c", "import os; os.getppid(); os.getppid()"]) as events:
        assert list(events) == []
        assert dict(wanted) == {}
    assert dict(seen) == {(40, "abc"): 2}
    assert dict(wanted) == {7: (40, "abc"), 8: (41, "abc")}
    assert (average.value, len(average.pandas()), "abc" in str(wanted)) == (40.0, 1, True)
    assert [schema.map for schema in events.schemas] == [None]


def test_columns_of_what_is_there_now(agent: Agent) -> None:
    with kwire.connect(agent.host).trace(PROBE, pid=os.getpid()) as events:
        for _ in range(1000):
            os.getppid()
        seen: list[int] = []
        until(lambda: len(seen) >= 1000, turn=lambda: seen.extend(events.columns()["pid"]))
    assert seen == [os.getpid()] * 1000
    assert events.lost == 0


def test_errors_of_python(agent: Agent, tmp_path: Path) -> None:
    @kwire.tracepoint("syscalls:sys_enter_openat")
    def wrong(filename):
        emit(pid, x=filename.foo)

    line = wrong.function.__code__.co_firstlineno + 2
    host = kwire.connect(agent.host)
    with pytest.raises(KwireError) as error, host.trace(wrong, command="true"):
        pass
    assert str(error.value).startswith(f"{__file__}:{line}: ")
    assert f"{line:5} |         emit(pid, x=filename.foo)" in error.value.detail
    with pytest.raises(KwireError, match="nothing says when it ends"):
        host.record(str(tmp_path / "a.pcapng"), PROBE)
    with pytest.raises(KwireError, match="or use the trace in a with"):
        host.trace(PROBE).columns()
    assert list(host.trace(PROBE, command="true").events(where="pid == 0")) == []
    with (
        pytest.raises(KwireError, match="is it running there"),
        kwire.connect(f"unix:{tmp_path}/none").trace(PROBE),
    ):
        pass
    with (
        pytest.raises(KwireError, match="--insecure"),
        kwire.connect("tcp:192.0.2.1").trace(PROBE),
    ):
        pass


def test_two_at_once(agent: Agent) -> None:
    host = kwire.connect(agent.host)
    with contextlib.ExitStack() as stack:
        traces = [stack.enter_context(host.trace(PROBE, command=COMMAND)) for _ in range(2)]
        assert [len(trace.columns()["pid"]) for trace in traces] == [CALLS, CALLS]


SCRIPT = """
BEGIN { printf("hello %d\\n", $1); @b["x"] = 5; @h = hist(100); print(@b); }
tracepoint:syscalls:sys_enter_getppid /pid == cpid/ { @c[comm] = count(); }
END { printf("end\\n"); }
"""


def test_a_script_runs_there_and_prints_here(agent: Agent, tmp_path: Path) -> None:
    capture, script = tmp_path / "there.pcapng", tmp_path / "x.bt"
    script.write_text(SCRIPT)
    command = "/usr/bin/python3 -c 'import os; [os.getppid() for _ in range(9)]'"
    there = run("-q", "-H", agent.host, "-w", capture, "-c", command, script, "7")
    assert (there.returncode, there.stderr) == (0, "")
    assert there.stdout.startswith("hello 7\n@b[x]: 5\nend\n\n\n@b[x]: 5\n@c[python3]: 9\n@h:\n[64, 128) ")
    shown = run("show", capture)
    assert (shown.returncode, shown.stdout) == (0, there.stdout)
    assert run("verify", capture).returncode == 0
    options = run("-q", "-H", agent.host, "-e", 'BEGIN { print(($1, getopt("n", 1))); }', "4", "--", "--n=9")
    assert (options.stdout, options.stderr) == ("(4, 9)\n\n\n", "")
    asked = run("-q", "-H", agent.host, "-e", "BEGIN { @x[1] = 2; exit(5); }")
    assert (asked.returncode, asked.stdout, asked.stderr) == (5, "\n\n@x[1]: 2\n", "")
    refused = run("-H", agent.host, "-e", "tracepoint:block:* { @ = count(); }")
    assert refused.returncode == 1
    assert "the agent's policy does not allow it" in refused.stderr


OPENING = """
import time
while True:
    time.sleep(0.01)
    try:
        open("/elsewhere")
    except OSError:
        pass
"""


def test_a_tool_runs_there_with_its_options_and_tells_of_its_command_only(
    agent: Agent, tmp_path: Path
) -> None:
    other = subprocess.Popen([sys.executable, "-S", "-c", OPENING])
    try:
        capture = tmp_path / "tool.pcapng"
        words = ("-H", agent.host, "-w", capture, "--no-command-status", "-c", "/usr/bin/cat /nowhere")
        there = run("tools", "opens", "--failed", *words)
    finally:
        other.kill()
        other.wait()
    assert there.returncode == 0, there.stderr
    assert " -1   2 /nowhere\n" in there.stdout
    assert "elsewhere" not in there.stdout
    assert "/libc.so" not in there.stdout
    assert run("show", capture).stdout == there.stdout


@pytest.mark.native
def test_functions_of_programs_there_are_named(agent: Agent) -> None:
    """By a process that kept what that takes; nothing of it is left."""
    script = (
        "tracepoint:syscalls:sys_enter_getpriority /pid == PID/ { @[ustack(1)] = count(); exit(); }"
    ).replace("PID", str(os.getpid()))
    words = [*KWIRE, "-q", "-H", agent.host, "-e", script]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        while running.poll() is None:
            os.getpriority(os.PRIO_PROCESS, 0)
            time.sleep(0.01)
        printed = running.stdout.read()
    assert re.search(r"^@\[\n {8}getpriority\+\d+\n\]: \d+$", printed, re.MULTILINE), printed
