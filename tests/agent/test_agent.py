"""Agents and collectors, in processes of their own: what was produced is in the captures, once, or counted.

The independent counter is the traced process itself: it calls getppid exactly so many times.
"""

import contextlib
import json
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from waiting import PATIENCE, until

from kwire.wire.frame import VERSION, Type

PROBE = "tracepoint:syscalls:sys_enter_getppid"
EVENT = struct.pack(">BBHI", VERSION << 4 | Type.EVENT, 0, 40, 1)  # how each frame of the probe begins
KWIRE = [sys.executable, "-m", "kwire.cli.main"]
CALLS = 200_000
ROOMY = ("--buffer", "16M")  # 300,000 events find room, however long others have the processors
LOAD = """
import os, sys
for line in sys.stdin:
    for _ in range(int(line)):
        os.getppid()
    print("done", flush=True)
"""

pytestmark = [pytest.mark.live, pytest.mark.native]


def once(calls: int = CALLS) -> list[str]:
    """The arguments that trace a process which calls so often."""
    return [*ROOMY, "-c", f"{sys.executable} -c 'import os\nfor _ in range({calls}): os.getppid()'"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert isinstance(port, int)
        return port


class Load:
    """A process that calls getppid when it is told to."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", LOAD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.calls = 0

    def call(self, times: int, wait: bool = True) -> None:
        assert self.process.stdin
        self.process.stdin.write(f"{times}\n")
        self.process.stdin.flush()
        self.calls += times
        if wait:
            self.wait()

    def wait(self) -> None:
        assert self.process.stdout
        assert self.process.stdout.readline() == "done\n"

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def load() -> Iterator[Load]:
    load = Load()
    yield load
    load.close()


class Verb:
    """A running `kwire`: what it says goes to a file, its summary is the last line of standard output."""

    def __init__(self, tmp_path: Path, *arguments: str) -> None:
        self.said = tmp_path / f"{arguments[0]}-{time.monotonic_ns()}.stderr"
        with self.said.open("w") as stderr:
            self.process = subprocess.Popen(
                [*KWIRE, *arguments, "--json"], stdout=subprocess.PIPE, stderr=stderr, text=True
            )

    @property
    def errors(self) -> str:
        return self.said.read_text()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, status: int | None = 0) -> dict[str, Any]:
        """Wait for it; its summary. `status` None: 3 where it tells losses, else 0."""
        output, _ = self.process.communicate(timeout=PATIENCE)
        assert "Traceback" not in self.errors, self.errors
        told: dict[str, Any] = json.loads(output.splitlines()[-1]) if output else {}
        wanted = (3 if told.get("lost") else 0) if status is None else status
        assert self.process.returncode == wanted, self.errors
        return told

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        if self.process.stdout and not self.process.stdout.closed:
            self.process.communicate()


class World:
    """Collectors and agents of one test."""

    def __init__(self, tmp_path: Path) -> None:
        self.path = tmp_path
        self.captures = tmp_path / "captures"
        self.address = f"unix:{tmp_path}/collector"
        self.verbs: list[Verb] = []

    def _verb(self, *arguments: str) -> Verb:
        verb = Verb(self.path, *arguments)
        self.verbs.append(verb)
        return verb

    def collect(self, address: str = "", *options: str) -> Verb:
        """A collector that listens."""
        collector = self._verb(
            "collect", "--listen", address or self.address, "-w", str(self.captures), *options
        )
        until(lambda: "collecting" in collector.errors or collector.process.poll() is not None)
        return collector

    def agent(self, *arguments: str, to: str = "") -> Verb:
        return self._verb("agent", "--to", to or self.address, *arguments)

    def tracing(self, load: Load, *arguments: str, to: str = "") -> Verb:
        """An agent that traces the load, and does."""
        agent = self.agent(PROBE, *ROOMY, "-p", str(load.process.pid), *arguments, to=to)
        until(lambda: status(agent.process.pid)["CapEff"] == "0" * 16 or self.address.startswith("unix"))
        until(lambda: status(agent.process.pid)["NoNewPrivs"] == "1")
        return agent

    def files(self) -> list[Path]:
        return sorted(self.captures.glob("*.pcapng"))

    def verify(self) -> tuple[int, dict[str, Any]]:
        """What `kwire verify` says of all captures."""
        command = [*KWIRE, "verify", "--json", *map(str, self.files())]
        run = subprocess.run(command, capture_output=True, text=True)
        assert "Traceback" not in run.stderr
        return run.returncode, json.loads(run.stdout)

    def balance(self) -> tuple[int, int, set[str]]:
        """Events stored, events lost, and what else is wrong, of all captures together."""
        _, told = self.verify()
        stored = sum(file["stored"] for file in told["files"])
        lost = sum(file["lost"] for file in told["files"])
        problems = {problem for file in told["files"] for problem in file["problems"]}
        return stored, lost, problems | set(told["problems"])

    def times(self) -> list[str]:
        """The time of every event in all captures."""
        found = []
        for file in self.files():
            run = subprocess.run([*KWIRE, "show", "--json", str(file)], capture_output=True, text=True)
            found += re.findall(r'"time(?:_ns)?": ?([^,}]+)', run.stdout)
        return found

    def close(self) -> None:
        for verb in self.verbs:
            verb.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


def status(pid: int) -> dict[str, str]:
    """/proc/PID/status."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return {"CapEff": "0" * 16, "NoNewPrivs": "1"}


def spooled(path: Path) -> int:
    """Events that are in a spool on the disk."""
    found = 0
    for file in path.rglob("*.seg"):
        with contextlib.suppress(FileNotFoundError):  # it is acknowledged, and gone
            found += file.read_bytes().count(EVENT)
    return found


@pytest.mark.parametrize("kind", ["tcp", "unix", "udp"])
def test_all_arrives(world: World, kind: str) -> None:
    if kind != "unix":
        world.address = f"{kind}:127.0.0.1:{free_port()}"
    collector = world.collect()
    calls = CALLS if kind != "udp" else 50_000
    told = world.agent(PROBE, *once(calls)).end()
    assert (told["events"], told["lost"], told["acknowledged"]) == (calls, 0, calls)
    assert (told["sessions"], told["reconnects"], told["command_status"]) == (1, 0, 0)
    assert told["probes"] == [{"id": 1, "probe": PROBE, "produced": calls, "lost": 0}]
    collector.signal(signal.SIGINT)
    assert collector.end()["events"] == calls
    assert world.verify()[0] == 0
    assert world.balance() == (calls, 0, set())


def test_all_arrives_over_tls(world: World, certs: Path) -> None:
    def options(role: str) -> list[str]:
        return [f"--tls-{name}={certs / role / name}.pem" for name in ("cert", "key", "ca")]

    world.address = f"tls:127.0.0.1:{free_port()}"
    collector = world.collect("", *options("collector"))
    assert world.agent(PROBE, *once(), *options("agent")).end()["acknowledged"] == CALLS
    collector.signal(signal.SIGINT)
    collector.end()
    assert world.verify()[0] == 0


def test_python_probes_travel_as_others_do(world: World) -> None:
    file = world.path / "probes.py"
    file.write_text(
        "import kwire\n\n@kwire.tracepoint('syscalls:sys_enter_getppid')\ndef asked():\n"
        "    emit(pid, tid, named=curtask.sched_class.enqueue_task)\n"
    )
    collector = world.collect()
    told = world.agent(str(file), *once(1000)).end()
    assert (told["events"], told["acknowledged"], told["lost"]) == (1000, 1000, 0)  # and a TABLE of the name
    collector.signal(signal.SIGINT)
    told = collector.end()
    assert (told["events"], told["unproven"]) == (1000, 0)
    assert world.verify()[0] == 0


def test_an_agent_waits_for_its_collector_and_leaves_when_all_is_acknowledged(world: World) -> None:
    agent = world.agent(PROBE, *once(1000))
    until(lambda: "trying again" in agent.errors)
    time.sleep(0.3)
    assert agent.process.poll() is None
    collector = world.collect()
    assert agent.end()["acknowledged"] == 1000
    assert agent.errors.count("trying again") == 1
    collector.signal(signal.SIGINT)
    assert collector.end()["events"] == 1000


def test_limits(world: World, load: Load) -> None:
    world.collect()
    agent = world.tracing(load, "-n", "500")
    load.call(1000)
    assert agent.end()["events"] == 500
    agent = world.tracing(load, "-d", "0.5")
    load.call(1000)
    assert agent.end()["events"] == 1000
    assert {file["stored"] for file in world.verify()[1]["files"]} == {500, 1000}
    assert world.verify()[0] == 0


def test_an_agent_has_no_privileges_and_no_tls_that_it_does_not_need(world: World, load: Load) -> None:
    world.address = f"tcp:127.0.0.1:{free_port()}"
    world.collect()
    agent = world.tracing(load)
    load.call(10)
    until(lambda: status(agent.process.pid)["CapEff"] == "0" * 16)
    assert status(agent.process.pid)["CapPrm"] == "0" * 16
    assert status(agent.process.pid)["NoNewPrivs"] == "1"
    assert "_ssl" not in Path(f"/proc/{agent.process.pid}/maps").read_text()
    agent.signal(signal.SIGINT)
    assert agent.end()["events"] == 10


def test_ctrl_c_ends_the_recording_and_delivers_it(world: World, load: Load) -> None:
    collector = world.collect()
    agent = world.tracing(load)
    load.call(5000)
    agent.signal(signal.SIGINT)
    assert agent.end()["acknowledged"] == 5000
    collector.signal(signal.SIGINT)
    collector.end()
    assert world.verify()[0] == 0


@pytest.mark.parametrize("spool", [False, True])
def test_without_a_collector_patience_ends(world: World, load: Load, spool: bool) -> None:
    folder = world.path / "spool"
    options = ["--spool", str(folder)] if spool else []
    agent = world.tracing(load, "--grace", "0.3", *options)
    load.call(5000)
    agent.signal(signal.SIGINT)
    told = agent.end(1 if spool else 3)  # they wait in the spool, or are lost
    assert (told["events"], told["acknowledged"], told["sessions"]) == (5000, 0, 0)
    assert "5,000 events are not acknowledged" in agent.errors
    if not spool:
        return
    assert str(folder) in agent.errors
    collector = world.collect()
    told = world.agent("--spool", str(folder)).end()
    assert told == {"recovered": 1, "delivered": 1, "refused": 0, "lost": 0}
    assert list(folder.iterdir()) == []
    collector.signal(signal.SIGINT)
    collector.end()
    assert world.verify()[0] == 0  # the recording had ended: what it produced was in the spool too
    assert world.balance() == (5000, 0, set())


def test_an_agent_that_is_killed_goes_on_from_its_spool(world: World, load: Load) -> None:
    folder = world.path / "spool"
    collector = world.collect()
    for _ in range(3):
        agent = world.tracing(load, "--spool", str(folder))
        load.call(20_000, wait=False)
        time.sleep(0.2)
        if not world.files():
            until(world.files)
        agent.signal(signal.SIGKILL)
        agent.close()
        load.wait()
    world.agent("--spool", str(folder)).end()
    assert list(folder.iterdir()) == []
    collector.signal(signal.SIGINT)
    collector.end(3)
    stored, lost, problems = world.balance()
    assert 0 < stored <= load.calls
    assert lost == 0
    assert len(problems) == 1
    assert "killed" in problems.pop()
    times = world.times()
    assert len(times) == len(set(times)) == stored


def test_what_was_spooled_without_a_collector_survives_kill(world: World, load: Load) -> None:
    folder = world.path / "spool"
    agent = world.tracing(load, "--spool", str(folder))
    load.call(30_000)
    until(lambda: spooled(folder) == 30_000)
    agent.signal(signal.SIGKILL)
    agent.close()
    collector = world.collect()
    told = world.agent(PROBE, "--spool", str(folder), *once(1000)).end()
    assert (told["events"], told["recovered"]) == (1000, [True])
    collector.signal(signal.SIGINT)
    collector.end(3)
    stored, lost, problems = world.balance()
    assert (stored, lost, len(problems)) == (31_000, 0, 1)
    assert "killed" in problems.pop()


@pytest.mark.parametrize("spool", [False, True])
def test_a_collector_that_stands_still(world: World, load: Load, spool: bool) -> None:
    """With little memory events are counted lost; with a spool all wait."""
    collector = world.collect()
    agent = world.tracing(load, *(["--spool", str(world.path / "spool")] if spool else ["--memory", "1M"]))
    load.call(1000)
    until(world.files)
    collector.signal(signal.SIGSTOP)
    for _ in range(10):
        load.call(30_000)  # 12 MB
        time.sleep(0.05)
    collector.signal(signal.SIGCONT)
    load.call(1000)
    agent.signal(signal.SIGINT)
    told = agent.end(0 if spool else 3)
    assert told["events"] + told["lost"] == load.calls
    if spool:
        assert told["lost"] == 0
    else:
        assert told["causes"] == {"sender full": told["lost"]}
        assert told["lost"] > 100_000
        assert agent.errors.count("find no room") == 1
    collector.signal(signal.SIGINT)
    collector.end(None)  # 3 where it was told of losses
    assert world.balance() == (told["events"], told["lost"], set())
    assert world.verify()[0] == (3 if told["lost"] else 0)


def test_a_full_spool_is_counted(world: World, load: Load) -> None:
    disk = world.path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "kwire-test", disk], check=True)
    try:
        agent = world.tracing(load, "--memory", "1M", "--spool", str(disk / "spool"))
        for _ in range(10):
            load.call(30_000)
            time.sleep(0.05)
        collector = world.collect()
        load.call(1000)
        agent.signal(signal.SIGINT)
        told = agent.end(3)
        assert told["lost"] > 100_000
        assert told["causes"] == {"sender full": told["lost"]}
        collector.signal(signal.SIGINT)
        collector.end(3)
        assert world.balance() == (told["events"], told["lost"], set())
        assert told["events"] + told["lost"] == load.calls
        assert "no space left" in agent.errors
    finally:
        world.close()
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_full_disk_and_a_collector_that_has_forgotten(world: World, load: Load) -> None:
    """The next session cannot be written down, so nothing of it is sent twice; the agent hears SIGTERM."""
    disk = world.path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "kwire-test", disk], check=True)
    try:
        collector = world.collect()
        agent = world.tracing(load, "--memory", "1M", "--spool", str(disk / "spool"))
        load.call(1000)
        until(world.files)
        collector.signal(signal.SIGKILL)
        collector.close()
        for _ in range(10):
            load.call(30_000)
            time.sleep(0.05)
        until(lambda: "no space left" in agent.errors)
        for checkpoint in (world.captures / ".sessions").iterdir():
            checkpoint.unlink()
        collector = world.collect()
        until(lambda: "a new session" in agent.errors)
        load.call(1000)
        agent.signal(signal.SIGTERM)
        told = agent.end(3)
        collector.signal(signal.SIGINT)
        collector.end(3)
        assert told["events"] + told["lost"] == load.calls
        stored, lost, _ = world.balance()
        assert lost == told["lost"]
        assert load.calls <= stored + lost <= load.calls + 1000  # the first may be stored and counted lost
        times = world.times()
        assert len(times) == len(set(times)) == stored
        assert list((disk / "spool").iterdir()) == []
    finally:
        world.close()
        subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.mark.parametrize("how", ["removed", "unwritable"])
def test_a_spool_that_vanishes_costs_nothing_that_is_open(world: World, load: Load, how: str) -> None:
    """The recording goes on in memory, and that is said; all that is still readable is delivered."""
    folder = world.path / "spool"
    world.address = f"tcp:127.0.0.1:{free_port()}"  # over a Unix socket it keeps CAP_DAC_OVERRIDE
    agent = world.tracing(load, "--spool", str(folder))
    load.call(10_000)
    until(lambda: spooled(folder) == 10_000)
    [own] = folder.iterdir()
    if how == "removed":
        while folder.exists():  # the agent may write there meanwhile
            shutil.rmtree(folder, ignore_errors=True)
        until(lambda: "removed" in agent.errors)
    else:
        own.chmod(0o500)
    load.call(10_000)
    collector = world.collect()
    agent.signal(signal.SIGINT)
    told = agent.end()
    assert (told["events"], told["lost"], told["acknowledged"]) == (20_000, 0, 20_000)
    collector.signal(signal.SIGINT)
    collector.end()
    assert world.balance() == (20_000, 0, set())
    if how == "unwritable":
        assert "not deleted: permission denied" in agent.errors


@pytest.mark.parametrize("how", ["folder", "files"])
def test_a_spool_that_vanishes_without_a_collector_is_counted(world: World, load: Load, how: str) -> None:
    folder = world.path / "spool"
    agent = world.tracing(load, "--grace", "0.3", "--spool", str(folder))
    load.call(10_000)
    until(lambda: spooled(folder) == 10_000)
    if how == "folder":
        while folder.exists():  # what it finds missing before the folder is gone, it writes again
            shutil.rmtree(folder, ignore_errors=True)
    else:
        for file in folder.rglob("0*.*"):
            file.unlink()
    agent.signal(signal.SIGINT)
    told = agent.end(3)
    assert (told["events"], told["acknowledged"]) == (10_000, 0)
    assert "10,000 events are not acknowledged" in agent.errors
    assert "is lost with this agent" in agent.errors


def test_a_second_request_to_end_does_not_wait(world: World, load: Load) -> None:
    agent = world.tracing(load, "--grace", "600")
    load.call(10_000)
    agent.signal(signal.SIGINT)
    load.call(1)  # it asks for the end of the recording only
    while agent.process.poll() is None:
        agent.signal(signal.SIGINT)
        time.sleep(0.05)
    told = agent.end(3)
    assert told["events"] + told["lost"] >= 10_000
    assert "are not acknowledged" in agent.errors
    assert "is lost with this agent" in agent.errors


def segments(path: Path) -> list[Path]:
    return sorted(path.rglob("*.seg"))


@pytest.mark.parametrize("harm", ["first", "middle", "last", "changed", "all"])
def test_what_is_missing_of_a_spool_is_counted(world: World, load: Load, harm: str) -> None:
    """An agent was killed, and somebody has been at its spool: stored + lost = produced, and it is said."""
    folder = world.path / "spool"
    agent = world.tracing(load, "--spool", str(folder), "--spool-size", "1M")
    for _ in range(8):
        load.call(2000)
        time.sleep(0.6)
    until(lambda: spooled(folder) == load.calls)
    time.sleep(0.7)
    agent.signal(signal.SIGKILL)
    agent.close()
    files = segments(folder)
    assert len(files) > 3
    if harm == "changed":
        with files[1].open("r+b") as opened:
            opened.seek(files[1].stat().st_size - 1000)
            opened.write(b"changed")
    for file in {"first": files[:1], "middle": files[1:3], "last": files[-1:], "all": files}.get(harm, []):
        file.unlink()
    collector = world.collect()
    again = world.agent("--spool", str(folder))
    told = again.end(3)
    assert told["lost"] > 0
    assert list(folder.iterdir()) == []
    collector.signal(signal.SIGINT)
    collector.close()
    stored, lost, problems = world.balance()
    assert lost == told["lost"]
    assert stored + lost == load.calls
    assert len(problems) == 1  # the agent was killed
    assert world.verify()[0] != 0
    assert "lost" in again.errors


def test_a_spool_that_is_full_has_room_for_the_end(world: World, load: Load) -> None:
    """What was lost, and what there was, is in it, so that what is delivered later is accounted for."""
    folder = world.path / "spool"
    full = ["--spool", str(folder), "--spool-size", "1M", "--memory", "1M", "--grace", "0.1"]
    agent = world.tracing(load, *full)
    load.call(60_000)  # 3 MB
    agent.signal(signal.SIGINT)
    told = agent.end(3)
    assert told["lost"] > 0
    assert told["events"] + told["lost"] == load.calls
    collector = world.collect()
    assert world.agent("--spool", str(folder)).end()["recovered"] == 1
    collector.signal(signal.SIGINT)
    collector.end(3)
    assert world.balance() == (told["events"], told["lost"], set())


def test_an_agent_runs_one_script(world: World) -> None:
    for name in ("a.bt", "b.bt"):
        (world.path / name).write_text("BEGIN { }")
    agent = world.agent(str(world.path / "a.bt"), str(world.path / "b.bt"))
    agent.end(1)
    assert "an agent runs one script" in agent.errors


def test_a_copied_spool_is_delivered_once(world: World, load: Load) -> None:
    folder = world.path / "spool"
    agent = world.tracing(load, "--spool", str(folder))
    load.call(10_000)
    until(lambda: spooled(folder) == 10_000)
    shutil.copytree(folder, world.path / "copy")
    load.call(10_000)
    agent.signal(signal.SIGKILL)
    agent.close()
    collector = world.collect()
    copy = world.agent("--spool", str(world.path / "copy"))
    told = copy.end(1)
    assert (told["recovered"], told["refused"]) == (0, 1)
    assert "--adopt" in copy.errors
    assert world.agent("--spool", str(folder)).end()["delivered"] == 1
    collector.signal(signal.SIGINT)
    collector.end(3)
    stored, lost, problems = world.balance()
    assert (lost, len(problems)) == (0, 1)
    assert len(world.times()) == len(set(world.times())) == stored


def test_a_collector_that_is_killed_and_comes_again(world: World, load: Load) -> None:
    collector = world.collect()
    agent = world.tracing(load)
    for _ in range(3):
        load.call(20_000, wait=False)
        time.sleep(0.15)
        collector.signal(signal.SIGKILL)
        collector.close()
        load.wait()
        collector = world.collect()
        load.call(1000)
    agent.signal(signal.SIGINT)
    told = agent.end()
    assert (told["events"], told["lost"], told["acknowledged"]) == (load.calls, 0, load.calls)
    assert told["sessions"] == 1
    assert 1 <= told["reconnects"] <= 3
    collector.signal(signal.SIGINT)
    collector.end()
    stored, lost, _ = world.balance()
    assert (stored, lost) == (load.calls, 0)


def test_connections_that_break_and_stall(world: World, load: Load, tcp_proxy: Callable[[int], Any]) -> None:
    port = free_port()
    collector = world.collect(f"tcp:127.0.0.1:{port}")
    proxy = tcp_proxy(port)
    agent = world.tracing(load, to=f"tcp:127.0.0.1:{proxy.port}")
    for harm in ("cut", "reset", "stall", "refuse"):
        load.call(20_000, wait=False)
        time.sleep(0.1)
        getattr(proxy, harm)()
        load.wait()
        load.call(20_000)
        if harm == "stall":
            proxy.go_on()
        if harm == "refuse":
            proxy.serve()
        time.sleep(0.3)
    agent.signal(signal.SIGINT)
    told = agent.end()
    assert (told["events"], told["lost"], told["acknowledged"]) == (load.calls, 0, load.calls)
    assert told["reconnects"] >= 3
    collector.signal(signal.SIGINT)
    collector.end()
    assert world.balance() == (load.calls, 0, set())
    assert world.verify()[0] == 0


@pytest.mark.parametrize("spool", [False, True])
def test_a_collector_that_has_forgotten_begins_a_new_session(world: World, load: Load, spool: bool) -> None:
    """What may have been delivered is counted lost, what was never sent is not; nothing comes twice."""
    options = ["--spool", str(world.path / "spool")] if spool else []
    collector = world.collect()
    agent = world.tracing(load, *options)
    load.call(20_000)
    until(world.files)
    collector.signal(signal.SIGKILL)
    collector.close()
    load.call(10_000)
    time.sleep(0.6)  # the agent knows that nobody receives
    load.call(10_000)
    for checkpoint in (world.captures / ".sessions").iterdir():
        checkpoint.unlink()
    collector = world.collect()
    until(lambda: "a new session" in agent.errors)
    load.call(10_000)
    agent.signal(signal.SIGINT)
    told = agent.end(None)
    assert told["sessions"] == 2
    assert told["events"] + told["lost"] == load.calls
    assert told["causes"].keys() <= {"expired"}
    collector.signal(signal.SIGINT)
    collector.end(None)
    stored, lost, _ = world.balance()
    assert lost == told["lost"]
    assert load.calls <= stored + lost  # what was stored and not acknowledged is counted lost as well
    times = world.times()
    assert len(times) == len(set(times)) == stored


def test_an_agent_killed_and_its_collector_forgetful(world: World, load: Load) -> None:
    """What was under way when both went is counted lost; the rest of the spool arrives in a new session."""
    folder = world.path / "spool"
    collector = world.collect()
    agent = world.tracing(load, "--spool", str(folder))
    load.call(1000)
    until(lambda: sum(file.stat().st_size for file in world.files()) > 20_000)  # some events are in
    collector.signal(signal.SIGSTOP)
    for _ in range(5):
        load.call(20_000)
        time.sleep(0.1)
    until(lambda: spooled(folder) >= 100_000)
    time.sleep(1.0)
    for verb in (agent, collector):
        verb.signal(signal.SIGKILL)
        verb.close()
    for checkpoint in (world.captures / ".sessions").iterdir():
        checkpoint.unlink()
    collector = world.collect()
    delivered = world.agent("--spool", str(folder)).end(3)
    collector.signal(signal.SIGINT)
    told = collector.end(3)
    stored, lost, problems = world.balance()
    assert told["lost"] == delivered["lost"] == lost
    assert 0 < lost < 95_000  # at most the receive window of four megabytes
    assert stored > 6000
    assert stored + lost <= load.calls + 1000  # the first thousand may be stored and counted lost
    assert len(problems) == 1
    times = world.times()
    assert len(times) == len(set(times)) == stored


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--to", "tcp:192.0.2.1", PROBE], "--insecure"),
        (["--to", "tcp:localhost"], "no PROBE"),
        (["--to", "nonsense", PROBE], "scheme"),
        (["--to", "tcp:localhost", PROBE, "--memory", "1K"], "too little"),
        (["--to", "tcp:localhost", "tracepoint:a:b"], "tracepoint"),
        (["--to", "tcp:localhost", PROBE, "x.py"], "x.py"),
        (["--to", "tcp:localhost", PROBE, "--spool", "/proc/x"], "spool"),
        (["--listen", "tcp:localhost"], "--policy"),
        (["--listen", "tcp:localhost", PROBE, "--spool", "x"], "--spool goes with --to"),
        (["--listen", "tcp:0.0.0.0", PROBE], "--insecure"),
        (["--listen", "tcp:localhost", PROBE, "--policy", "/nowhere"], "/nowhere"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(arguments: list[str], says: str) -> None:
    run = subprocess.run([*KWIRE, "agent", *arguments], capture_output=True, text=True, timeout=PATIENCE)
    assert run.returncode == 1
    assert says in run.stderr
    assert run.stderr.count("\n") == 1


def test_certificates_are_made(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    command = [*KWIRE, "agent", "--make-certs", str(tmp_path / "certs"), "web1.example"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "web1.example" in run.stdout
    assert (tmp_path / "certs" / "web1.example" / "key.pem").exists()


def test_an_agent_that_never_reached_anybody_says_so(world: World, load: Load) -> None:
    agent = world.tracing(load, "--grace", "0.1")
    until(lambda: "trying again" in agent.errors)
    agent.signal(signal.SIGINT)
    agent.end(1)
    assert f"{world.address} was never reached; there is no event that it does not have" in agent.errors
    assert "has everything" not in agent.errors
