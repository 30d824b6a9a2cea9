"""Agents that listen: clients trace what is granted to them, each by a process without privileges."""

import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from waiting import PATIENCE, until

from kwire.agent.channel import Channel
from kwire.agent.policy import Policy
from kwire.agent.remote import Endpoint, RemoteSession
from kwire.agent.trace_process import Launcher
from kwire.errors import KwireError
from kwire.live import handover
from kwire.transport.loop import Loop
from kwire.wire.frame import Type
from kwire.wire.frames import Frames
from kwire.wire.messages import Lost
from kwire.wire.schema import Schema

PROBE = "tracepoint:syscalls:sys_enter_getppid"
KWIRE = [sys.executable, "-m", "kwire.cli.main"]
LOAD = """
import os, sys
for line in sys.stdin:
    for _ in range(int(line)):
        os.getppid()
    print("done", flush=True)
"""
POLICY = f"""
[[allow]]
who = ["uid:{os.getuid()}"]
probes = ["tracepoint:syscalls:*"]
programs = true
commands = ["true", "sh -c *"]
user = "root"
traces = 3
"""

pytestmark = [pytest.mark.live, pytest.mark.native]


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def capabilities(pid: int) -> int:
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "CapEff" in line]
    return int(line.split()[1], 16)


class Load:
    """A process that calls getppid when it is told to."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", LOAD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def call(self, times: int) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{times}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


class Counted:
    """A sink that counts."""

    def __init__(self) -> None:
        self.events = self.lost_events = 0

    def write(self, frames: Frames) -> None:
        self.events += frames.count

    def lost(self, losses: list[Lost]) -> None:
        self.lost_events += sum(loss.count for loss in losses)

    def flush(self) -> None:
        pass


class Agent:
    """`kwire agent --listen` in a process of its own."""

    def __init__(
        self,
        path: Path,
        policy: str,
        *arguments: str,
        address: str = "",
        umask: int = -1,
        preload: str = "",
    ) -> None:
        self.address = address or f"unix:{path}/agent"
        self.said = path / "stderr"
        options = list(arguments)
        if policy:
            (path / "policy.toml").write_text(policy)
            options += ["--policy", str(path / "policy.toml")]
        with self.said.open("w") as stderr:
            command = [*KWIRE, "agent", "--listen", self.address, "--json", *options]
            environment = {**os.environ, "LD_PRELOAD": preload} if preload else None
            self.process = subprocess.Popen(
                command, stderr=stderr, stdout=subprocess.PIPE, text=True, umask=umask, env=environment
            )
        until(lambda: "listening" in self.said.read_text() or self.process.poll() is not None)
        self.talks: list[RemoteSession] = []

    @property
    def launcher(self) -> int:
        return children(self.process.pid)[0]

    @property
    def workers(self) -> list[int]:
        return children(self.launcher)

    def ask(self, body: dict[str, Any], sink: Counted | None = None) -> RemoteSession:
        """A conversation that has its answer."""
        sink = sink or Counted()

        def start(schemas: tuple[Schema, ...]) -> list[Counted]:
            return [sink]

        talk = RemoteSession(Endpoint(self.address), body, start)
        self.talks.append(talk)
        talk.until(lambda: talk.answer)
        return talk

    def close(self) -> None:
        for talk in self.talks:
            talk.close()
        if self.process.poll() is None:
            self.process.kill()
        if self.process.stdout and not self.process.stdout.closed:
            self.process.communicate()


@pytest.fixture
def load() -> Iterator[Load]:
    load = Load()
    yield load
    load.close()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path, POLICY)
    yield agent
    agent.close()


def trace(load: Load, **more: Any) -> dict[str, Any]:
    return {"op": "trace", "probes": [PROBE], "pids": [load.process.pid], **more}


def run(talk: RemoteSession, sink: Counted, events: int) -> None:
    """Turn until so many events are there."""
    until(lambda: sink.events >= events, turn=lambda: talk.turn(0.05))


def test_a_client_traces_and_stops(agent: Agent, load: Load) -> None:
    sink = Counted()
    talk = agent.ask(trace(load), sink)
    load.call(50_000)
    run(talk, sink, 50_000)
    talk.stop()
    talk.until(lambda: talk.over)
    assert (sink.events, sink.lost_events) == (50_000, 0)
    assert talk.received.produced == {1: 50_000}
    until(lambda: not agent.workers)
    agent.process.send_signal(signal.SIGINT)
    assert agent.process.wait(PATIENCE) == 0
    assert '"traces": 1' in agent.process.communicate()[0]


@pytest.mark.parametrize("waits", [True, False])
def test_a_client_that_leaves_while_events_come_ends_its_trace(
    agent: Agent, load: Load, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits until the agent has read its BYE; where it does not, the agent reads it all the same."""
    if not waits:
        monkeypatch.setattr(Loop, "linger", lambda loop: None)
    for _ in range(10):
        talk = agent.ask(trace(load))
        calls = threading.Thread(target=load.call, args=(100_000,))
        calls.start()
        time.sleep(0.02)
        talk.close()
        calls.join()
        until(lambda: not agent.workers)


def test_nobody_who_talks_to_the_network_has_privileges(agent: Agent, load: Load) -> None:
    agent.ask(trace(load))
    assert capabilities(agent.process.pid) == 0
    assert [capabilities(pid) for pid in agent.workers] == [0]
    assert capabilities(agent.launcher) == capabilities(os.getpid())


def test_a_command_runs_and_its_end_is_told(agent: Agent) -> None:
    sink = Counted()
    program = "sh -c " + repr("exit 7")
    talk = agent.ask({"op": "trace", "probes": [PROBE], "command": ["sh", "-c", "exit 7"]}, sink)
    talk.until(lambda: talk.over)
    assert talk.status == 7, program
    assert talk.received.produced is not None
    assert sink.events == talk.received.produced[1]


def test_limits_end_a_trace(agent: Agent, load: Load) -> None:
    sink = Counted()
    talk = agent.ask(trace(load, count=100), sink)
    load.call(1000)
    talk.until(lambda: talk.over)
    assert sink.events == 100
    sink = Counted()
    talk = agent.ask(trace(load, seconds=0.3), sink)
    load.call(1000)
    talk.until(lambda: talk.over)
    assert sink.events == 1000


def test_what_the_policy_does_not_grant(agent: Agent) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"op": "trace", "probes": ["tracepoint:sched:sched_switch"]}, "policy"),
        ({"op": "trace", "probes": [PROBE], "command": ["id"]}, "policy"),
        ({"op": "trace", "probes": ["tracepoint:syscalls:nonsense"]}, "nonsense"),
        ({"op": "trace", "probes": [PROBE], "pids": [1 << 30]}, "process"),
        ({"op": "trace", "something": 1}, "something"),
        ({"op": "nothing"}, "operation"),
    ]
    for body, says in cases:
        with pytest.raises(KwireError, match=says):
            agent.ask(body)
    assert agent.process.poll() is None
    until(lambda: not agent.workers)


def test_names_of_probes(agent: Agent) -> None:
    talk = agent.ask({"op": "probes", "pattern": "tracepoint:syscalls:sys_enter_getp*"})
    assert talk.answer is not None
    assert PROBE in talk.answer["names"]
    until(lambda: not agent.workers)


def test_several_clients_at_once_and_no_more_than_granted(agent: Agent, load: Load) -> None:
    sinks = [Counted() for _ in range(3)]
    talks = [agent.ask(trace(load), sink) for sink in sinks]
    with pytest.raises(KwireError, match="as many traces as"):
        agent.ask(trace(load))
    load.call(5000)
    for talk, sink in zip(talks, sinks, strict=True):
        run(talk, sink, 5000)
    talks[0].close()
    until(lambda: len(agent.workers) == 2)
    load.call(1000)
    run(talks[1], sinks[1], 6000)
    assert agent.ask(trace(load)).answer


def test_a_client_that_goes_takes_its_probes_along(agent: Agent, load: Load) -> None:
    talk = agent.ask(trace(load))
    assert len(agent.workers) == 1
    talk.close()
    until(lambda: not agent.workers)


def test_a_client_that_does_not_read_loses_events_and_knows(tmp_path: Path, load: Load) -> None:
    """The front holds two megabytes for it; the worker never waits."""
    agent = Agent(tmp_path, POLICY + "memory = 4_000_000\n")
    try:
        sink = Counted()
        talk = agent.ask(trace(load), sink)
        talk.until(lambda: talk.tracing)
        for _ in range(10):
            load.call(50_000)  # 20 MB
        talk.stop()
        talk.until(lambda: talk.over)
        assert sink.lost_events > 100_000
        assert sink.events + sink.lost_events == 500_000
        assert talk.received.produced == {1: 500_000}
    finally:
        agent.close()


def test_a_worker_that_is_killed_is_told(agent: Agent, load: Load) -> None:
    talk = agent.ask(trace(load))
    os.kill(agent.workers[0], signal.SIGKILL)
    with pytest.raises(KwireError, match="lost"):
        talk.until(lambda: talk.over)
    assert agent.ask(trace(load)).answer


def test_without_its_launcher_an_agent_ends(agent: Agent, load: Load) -> None:
    agent.ask(trace(load))
    os.kill(agent.launcher, signal.SIGKILL)
    assert agent.process.wait(PATIENCE) == 1
    assert "start the agent again" in agent.said.read_text()


def test_who_tells_all_its_processes_to_end_means_the_front(agent: Agent, load: Load) -> None:
    """As `timeout` does it, and a terminal."""
    sink = Counted()
    talk = agent.ask(trace(load), sink)
    load.call(1000)
    for process in (agent.launcher, *agent.workers):
        os.kill(process, signal.SIGTERM)
    load.call(1000)
    agent.process.terminate()
    talk.until(lambda: talk.over)
    assert (sink.events, agent.process.wait(PATIENCE)) == (2000, 0)
    assert "programs has ended" not in agent.said.read_text()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_the_front(agent: Agent, load: Load, number: signal.Signals) -> None:
    """What is left in the kernel is looked at after every test."""
    sink = Counted()
    talk = agent.ask(trace(load), sink)
    load.call(1000)
    processes = [agent.launcher, *agent.workers]
    agent.process.send_signal(number)
    if number == signal.SIGTERM:
        talk.until(lambda: talk.over)
        assert sink.events == 1000
    agent.process.wait(PATIENCE)
    until(lambda: not any(map(is_alive, processes)))


def test_the_probes_listed_are_for_all_and_nothing_else(tmp_path: Path, load: Load) -> None:
    agent = Agent(tmp_path, "", PROBE)
    try:
        sink = Counted()
        talk = agent.ask({"op": "trace", "pids": [load.process.pid]}, sink)
        load.call(1000)
        run(talk, sink, 1000)
        with pytest.raises(KwireError, match="policy"):
            agent.ask({"op": "trace", "probes": ["tracepoint:syscalls:sys_enter_getpid"]})
    finally:
        agent.close()


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_over_networks(tmp_path: Path, load: Load, kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    policy = '[[allow]]\nwho = ["anyone"]\nprobes = ["tracepoint:syscalls:*"]\n'
    agent = Agent(tmp_path, policy, address=f"{kind}:127.0.0.1:{port}")
    try:
        sink = Counted()
        talk = agent.ask(trace(load), sink)
        load.call(5000)
        run(talk, sink, 5000)
        talk.stop()
        talk.until(lambda: talk.over)
        assert talk.received.produced == {1: 5000}
    finally:
        agent.close()


def test_a_stranger_is_refused(tmp_path: Path) -> None:
    agent = Agent(tmp_path, '[[allow]]\nwho = ["uid:12345"]\nprobes = ["tracepoint:*"]\n')
    try:
        with pytest.raises(KwireError, match="uid:"):
            agent.ask({"op": "trace", "probes": [PROBE]})
    finally:
        agent.close()


@pytest.mark.parametrize("with_policy", [False, True])
def test_a_client_that_no_rule_names_has_four_traces(tmp_path: Path, load: Load, with_policy: bool) -> None:
    """As documented, with a policy file or without."""
    policy = '[[allow]]\nwho = ["uid:12345"]\nprobes = ["tracepoint:*"]\n'
    agent = Agent(tmp_path, policy if with_policy else "", PROBE)
    try:
        for _ in range(4):
            assert agent.ask({"op": "trace", "pids": [load.process.pid]}).answer
        with pytest.raises(KwireError, match="as many traces as the agent allows, 4"):
            agent.ask({"op": "trace", "pids": [load.process.pid]})
        agent.talks[0].close()
        until(lambda: len(agent.workers) == 3)
        assert agent.ask({"op": "trace", "pids": [load.process.pid]}).answer
    finally:
        agent.close()


@pytest.mark.parametrize("how", ["stop", "go", "kill", "end"])
def test_what_a_command_has_started_ends_with_its_trace(agent: Agent, tmp_path: Path, how: str) -> None:
    """However it has detached itself, however the trace ends."""
    told = tmp_path / "pid"
    last = "exit 0" if how == "end" else "sleep 1000"
    script = f"setsid sh -c 'echo $$ >{told}.new; mv {told}.new {told}; exec sleep 1000' & {last}"
    talk = agent.ask({"op": "trace", "probes": [PROBE], "command": ["sh", "-c", script]})
    until(told.exists)
    pid = int(told.read_text())
    if how == "stop":
        talk.stop()
    elif how == "go":
        talk.close()
    elif how == "kill":
        os.kill(agent.workers[0], signal.SIGKILL)
    if how in ("stop", "end"):
        talk.until(lambda: talk.over)
    until(lambda: not is_alive(pid))
    until(lambda: not agent.workers)


def test_a_filter_of_thousands_of_digits_is_an_error(agent: Agent, load: Load) -> None:
    with pytest.raises(KwireError, match="digits"):
        agent.ask(trace(load, filter=f"pid == {'9' * 8000}"))
    for text in ("(" * 4000, "not " * 2000 + "pid", "pid" + "+1" * 4000):
        with pytest.raises(KwireError, match=r"filter|nested|tracer failed|large|deep"):
            agent.ask(trace(load, filter=text))
    assert agent.ask(trace(load)).answer


@pytest.mark.parametrize("policy", [POLICY, ""])
def test_the_sockets_mode_is_what_was_asked_for(tmp_path: Path, policy: str) -> None:
    for umask in (0o077, 0o000):
        agent = Agent(tmp_path, policy, PROBE, umask=umask)
        try:
            mode = stat.S_IMODE((tmp_path / "agent").stat().st_mode)
            assert mode == (0o666 if policy else 0o600)
        finally:
            agent.close()


NO_FORK = """
#include <errno.h>
#include <unistd.h>
#include <sys/syscall.h>
pid_t fork(void) {
    if (!access("%s", F_OK)) { errno = EAGAIN; return -1; }
    return syscall(SYS_fork);
}
"""


def test_without_more_processes_the_others_are_served(tmp_path: Path, load: Load) -> None:
    flag, library = tmp_path / "no-fork", tmp_path / "no-fork.so"
    (tmp_path / "no-fork.c").write_text(NO_FORK % flag)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "no-fork.c"], check=True)
    agent = Agent(tmp_path, POLICY, preload=str(library))
    try:
        sink = Counted()
        talk = agent.ask(trace(load), sink)
        flag.touch()
        for _ in range(5):
            with pytest.raises(KwireError, match="resource temporarily unavailable"):
                agent.ask(trace(load))
        load.call(1000)
        run(talk, sink, 1000)
        flag.unlink()
        assert agent.ask(trace(load)).answer
        assert agent.process.poll() is None
    finally:
        agent.close()


@pytest.mark.parametrize("back", [True, False])
def test_sigterm_ends_the_traces_of_clients_that_are_away_too(
    tmp_path: Path, load: Load, tcp_proxy: Callable[[int], Any], back: bool
) -> None:
    """Who comes back within ten seconds gets all of its trace; what nobody came for is counted, and told."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    policy = '[[allow]]\nwho = ["anyone"]\nprobes = ["tracepoint:syscalls:*"]\n'
    agent = Agent(tmp_path, policy, address=f"tcp:127.0.0.1:{port}")
    proxy = tcp_proxy(port)
    address, agent.address = agent.address, f"tcp:127.0.0.1:{proxy.port}"
    try:
        sinks = [Counted(), Counted()]
        talk = agent.ask(trace(load), sinks[0])
        agent.address = address
        other = agent.ask(trace(load), sinks[1])
        talk.until(lambda: talk.tracing)
        proxy.refuse()
        load.call(1000)
        run(other, sinks[1], 1000)
        agent.process.send_signal(signal.SIGTERM)
        other.until(lambda: other.over)
        assert other.received.produced == {1: 1000}
        if back:
            proxy.serve()
            talk.until(lambda: talk.over)
            assert talk.received.produced == {1: 1000}
            assert (sinks[0].events, sinks[0].lost_events) == (1000, 0)
        assert agent.process.wait(PATIENCE) == (0 if back else 3)
        said = agent.said.read_text()
        assert back or "1 client did not come back in time: 1,000 events lost" in said
    finally:
        agent.close()


def hup(agent: Agent) -> str:
    """Have it read its configuration again; what it said."""
    before = len(agent.said.read_text())
    agent.process.send_signal(signal.SIGHUP)
    until(lambda: re.search("is read again|stays in force", agent.said.read_text()[before:]))
    return agent.said.read_text()[before:]


@contextlib.contextmanager
def configured(path: Path, text: str) -> Iterator[Agent]:
    """An agent with a configuration file, `path`/agent.toml."""
    file = path / "agent.toml"
    file.write_text(f'listen = "unix:{path}/agent"\n{text}\n')
    agent = Agent(path, "", "--config", str(file))
    try:
        yield agent
    finally:
        agent.close()


def test_a_policy_is_read_again(tmp_path: Path, load: Load) -> None:
    """What is forbidden from then on ends, in order, what is allowed goes on; questions are judged anew."""
    rules = tmp_path / "rules.toml"
    rules.write_text(POLICY)
    with configured(tmp_path, f'policy = "{rules}"') as agent:
        kept, sink = agent, Counted()
        talk = agent.ask(trace(load), sink)
        load.call(1000)
        assert hup(agent).endswith("agent.toml is read again\n")
        rules.write_text(POLICY.replace("traces = 3", 'traces = 3\nwhat = "is this"'))
        assert "has a key 'what'" in hup(agent)
        load.call(1000)
        run(talk, sink, 2000)
        rules.write_text(POLICY.replace("tracepoint:syscalls:*", "tracepoint:sched:*"))
        said = hup(agent)
        assert "has another policy now: its trace ends" in said
        assert "agent.toml is read again, 1 trace to end" in said
        talk.until(lambda: False)
        load.call(1000)
        assert (sink.events, sink.lost_events) == (2000, 0)
        with pytest.raises(KwireError, match="the agent's policy does not"):
            agent.ask(trace(load))
        (tmp_path / "agent.toml").write_text(f'listen = "unix:{tmp_path}/agent"\nprobes = ["{PROBE}"]\n')
        assert "is read again" in hup(agent)
        listed, sink = agent.ask({"op": "trace", "pids": [load.process.pid]}), Counted()
        assert (listed.answer or {}).get("ok") is True
        assert kept.process.poll() is None


def test_places_that_are_taken_count_after_a_policy_was_read_again(tmp_path: Path, load: Load) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text(POLICY)
    with configured(tmp_path, f'policy = "{rules}"') as agent:
        for _ in range(3):
            agent.ask(trace(load))
        assert "is read again" in hup(agent)
        with pytest.raises(KwireError, match="traces"):
            agent.ask(trace(load))


def sockets(pid: int) -> set[str]:
    """The sockets that a process holds."""
    links = [os.readlink(one) for one in Path(f"/proc/{pid}/fd").iterdir()]
    return {link for link in links if link.startswith("socket:")}


def test_its_processes_share_no_socket_with_it(tmp_path: Path, load: Load) -> None:
    """What a process holds without need outlives who made it, and can be used by whoever takes it over."""
    with configured(tmp_path, f'probes = ["{PROBE}"]') as agent:
        agent.ask({"op": "trace", "pids": [load.process.pid]})
        own = children(agent.process.pid)
        everybody = [agent.process.pid, *own, *(pid for one in own for pid in children(one))]
        assert len(everybody) == 4
        held = [sockets(pid) for pid in everybody]
        assert all(held)
        assert not any(held[a] & held[b] for a in range(4) for b in range(a))


def test_a_launcher_goes_by_what_the_reader_told_it_once_it_is_to() -> None:
    """Neither by the file as it is by then, nor by what the server says."""
    told, policies = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    launcher = Launcher(Policy(["begin"]), policies=policies, others=[told])
    policies.close()

    def answer() -> dict[str, Any]:
        channel = Channel(launcher.start())
        body = {"op": "probes", "pattern": PROBE}
        asked = {"identity": "", "host": "", "address": "unix:x", "body": body, "size": 1000}
        try:
            channel.tell(Type.REQUEST, asked)
            channel.drain()
            told: dict[str, Any] = channel.wait()[1]
            return told
        finally:
            channel.close()

    with told:
        try:
            assert answer()["ok"] is True
            handover.send(told, json.dumps([{}, "", []]).encode())
            assert answer()["ok"] is True
            launcher.change()
            assert "does not know it" in answer()["error"]["text"]
            handover.send(told, json.dumps([{}, "", ["end"]]).encode())
            launcher.change()
            assert answer()["ok"] is True
        finally:
            launcher.close()


def test_a_client_that_keeps_its_probes_goes_on_with_those_that_stay(tmp_path: Path, load: Load) -> None:
    """What it writes and shows has its fields by then."""
    mine = f"{{pid == {load.process.pid}}}"
    with configured(tmp_path, f'probes = ["{PROBE}{mine}", "begin"]') as agent:
        sink = Counted()
        talk = agent.ask({"op": "trace"}, sink)
        load.call(1000)
        listed = f'probes = ["{PROBE}{mine}", "tracepoint:syscalls:sys_enter_getuid{mine}"]'
        (tmp_path / "agent.toml").write_text(f'listen = "unix:{tmp_path}/agent"\n{listed}\n')
        hup(agent)
        until(
            lambda: "traces what stays of what is listed, 1 probe taken away\n" in agent.said.read_text(),
            turn=lambda: talk.turn(0.05),
        )
        load.call(1000)
        talk.stop()
        talk.until(lambda: talk.over)
        assert talk.received.produced == {1: 2000, 2: 1}
        assert (sink.events, sink.lost_events, talk.received.problems) == (2001, 0, 0)
