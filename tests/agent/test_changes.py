"""Probes of an agent that change while it records: what stays loses nothing, and nothing comes twice.

The independent counter is the traced process itself, which makes so many calls of each kind, also while the
configuration changes; `kwire verify` says the same of the captures.
"""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from brokers import Server, free_ports, init, needed
from waiting import PATIENCE, until

from kwire.agent import requests
from kwire.agent.remote import Endpoint, RemoteSession
from kwire.cli.collect import TICK
from kwire.errors import KwireError
from kwire.transport.certs import make_certs
from kwire.transport.peer import Peer
from kwire.wire.frames import Frames
from kwire.wire.messages import Lost

LIMITED = ["sh", "-c", 'ulimit -n "$0"; exec "$@"']
KWIRE = [sys.executable, "-m", "kwire.cli.main"]
STAYS = "tracepoint:syscalls:sys_enter_getppid"
GOES = "tracepoint:syscalls:sys_enter_getuid"
COMES = "tracepoint:syscalls:sys_enter_getgid"
CALLS = [
    *("open", "openat", "close", "read", "write", "lseek", "mmap", "mprotect", "munmap", "brk", "ioctl"),
    *(
        "access",
        "pipe",
        "dup",
        "dup2",
        "nanosleep",
        "alarm",
        "fork",
        "vfork",
        "execve",
        "exit",
        "wait4",
        "kill",
    ),
    *("semget", "shmget", "fcntl", "flock", "fsync", "truncate", "ftruncate", "getcwd", "chdir", "rename"),
]
LOAD = r"""
import os, subprocess, sys
child = None
for line in sys.stdin:
    for name in line.split():
        if name == "start":
            child = subprocess.Popen(sys.orig_argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        elif name.startswith("child:"):
            child.stdin.write(name[6:] + "\n")
            child.stdin.flush()
            child.stdout.readline()
        else:
            for _ in range(1000):
                getattr(os, name)()
    print("done", flush=True)
"""

pytestmark = [pytest.mark.live, pytest.mark.native]


class Load:
    """A process that calls what it is told to, a thousand times each; `flood` does so until it is paused."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", LOAD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.calls: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def call(self, *names: str) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(" ".join(names) + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"
        for name in names:
            self.calls[name] = self.calls.get(name, 0) + 1000

    def flood(self, *names: str, pause: float = 0.02) -> None:
        """Call them on, some 40,000 a second, which the ring holds while others have the processors."""

        def work() -> None:
            while not self._stop.is_set():
                self.call(*names)
                self._stop.wait(pause)

        self._stop.clear()
        self._thread = threading.Thread(target=work)
        self._thread.start()

    def pause(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def close(self) -> None:
        self.pause()
        self.process.kill()
        self.process.communicate()


class Verb:
    """A running `kwire`: what it says goes to a file, its summary is the last line of standard output."""

    def __init__(self, path: Path, *arguments: str, said: str | None = None, limit: int = 0) -> None:
        self.said = path / f"{arguments[0]}-{time.monotonic_ns()}.stderr"
        with self.said.open("w") as stderr:
            self.process = subprocess.Popen(
                [*([*LIMITED, str(limit)] if limit else ()), *KWIRE, *arguments, "--json"],
                stdin=None if said is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                cwd=path,
            )
        if said is not None:
            assert self.process.stdin
            self.process.stdin.write(said)
            self.process.stdin.close()
            self.process.stdin = None

    @property
    def errors(self) -> str:
        return self.said.read_text()

    def hup(self, times: int = 1) -> str:
        """Have it read its configuration again, and wait until it has; what it said."""
        before = len(self.errors)
        for _ in range(times):
            self.process.send_signal(signal.SIGHUP)
        until(lambda: re.search("is read again|stays in force", self.errors[before:]) or self.ended)
        return self.errors[before:]

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def end(self, number: signal.Signals = signal.SIGINT) -> dict[str, Any]:
        """End it; its summary, once it has ended as it should."""
        self.process.send_signal(number)
        return self.summary()

    def summary(self) -> dict[str, Any]:
        """What it prints at its end, which is as it should be."""
        output, _ = self.process.communicate(timeout=60)
        assert "Traceback" not in self.errors, self.errors
        assert self.process.returncode == 0, self.errors
        told: dict[str, Any] = json.loads(output.splitlines()[-1])
        return told

    def close(self) -> None:
        if not self.ended:
            self.process.kill()
        self.process.communicate()


class World:
    """A collector, and an agent with a configuration file, which traces the load."""

    def __init__(self, path: Path) -> None:
        self.path, self.captures = path, path / "captures"
        self.address = f"unix:{path}/collector"
        self.file = path / "agent.toml"
        self.load = Load()
        self.verbs: list[Verb] = []

    def write(self, *probes: str, **more: object) -> None:
        keys = {"to": self.address, "probes": list(probes), "pids": [str(self.load.process.pid)], **more}
        lines = (f"{key.replace('_', '-')} = {json.dumps(value)}\n" for key, value in keys.items())
        self.file.write_text("".join(lines))

    def collect(self, how: str = "--listen", *more: str) -> Verb:
        collector = Verb(self.path, "collect", how, self.address, "-w", str(self.captures), *more)
        self.verbs.append(collector)
        until(lambda: re.search("collecting at|is connected", collector.errors))
        return collector

    def agent(self, *more: str, said: str | None = None, limit: int = 0) -> Verb:
        """An agent that traces. `said`: to its standard input; `limit`: of open files."""
        agent = Verb(self.path, "agent", "--config", str(self.file), *more, said=said, limit=limit)
        self.verbs.append(agent)
        status = Path(f"/proc/{agent.process.pid}/status")
        until(lambda: agent.ended or "NoNewPrivs:\t1" in status.read_text())
        assert not agent.ended, agent.errors
        return agent

    def stored(self) -> dict[str, int]:
        """Events by system call in all captures, each of which is proven; none is lost."""
        files = sorted(map(str, self.captures.glob("*.pcapng")))
        run = subprocess.run([*KWIRE, "verify", "--json", *files], capture_output=True, text=True)
        told = json.loads(run.stdout)
        assert run.returncode == 0, run.stdout
        found: dict[str, int] = {}
        for one in told["files"]:
            assert one["lost"] == 0
            for probe in one["probes"]:
                assert probe["produced"] == probe["stored"], probe
                name = probe["probe"].rpartition("sys_enter_")[2].partition("{")[0]
                found[name] = found.get(name, 0) + probe["stored"]
        return found

    def close(self) -> None:
        for verb in self.verbs:
            verb.close()
        self.load.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    with contextlib.closing(world):
        yield world


@pytest.mark.parametrize("spool", [False, True])
def test_what_stays_loses_nothing(world: World, spool: bool) -> None:
    """Under load: of the probe that stays each call is there once, in one session; of what comes and goes
    what was called while it was there.
    """
    more = {"spool": str(world.path / "spool")} if spool else {}
    world.write(STAYS, GOES, **more)
    collector = world.collect()
    agent = world.agent()
    world.load.call("getuid")
    world.load.flood("getppid")
    world.write(STAYS, COMES, **more)
    said = agent.hup()
    assert "agent.toml is read again, 1 new probe, 1 probe taken away\n" in said
    world.load.pause()
    world.load.call("getuid", "getgid")
    world.load.flood("getppid")
    world.write(STAYS, **more)
    assert "is read again, 1 probe taken away\n" in agent.hup()
    world.load.pause()
    world.load.call("getgid", "getuid")
    told = agent.end()
    collector.end()
    assert world.stored() == {"getppid": world.load.calls["getppid"], "getuid": 1000, "getgid": 1000}
    assert (told["lost"], told["sessions"], told["reconnects"]) == (0, 2, 0)
    assert told["events"] == told["acknowledged"] == world.load.calls["getppid"] + 2000


@pytest.mark.parametrize("spool", [False, True])
def test_probes_change_while_the_collector_is_away(world: World, spool: bool) -> None:
    """Before it has ever been there, and while it is tried to reach it again."""
    more = {"spool": str(world.path / "spool")} if spool else {}
    world.write(STAYS, **more)
    agent = world.agent()
    world.load.flood("getppid")
    world.write(STAYS, GOES, **more)
    assert "1 new probe\n" in agent.hup()
    world.load.pause()
    world.load.call("getuid")
    collector = world.collect()
    until(lambda: "takes what is recorded" in agent.errors)
    collector.end(signal.SIGTERM)  # its sessions go on with the next one
    until(lambda: "trying again" in agent.errors)
    world.load.flood("getppid")
    world.write(STAYS, COMES, **more)
    assert "1 new probe, 1 probe taken away\n" in agent.hup()
    world.load.pause()
    world.load.call("getuid", "getgid")
    collector = world.collect()
    told = agent.end()
    collector.end()
    assert world.stored() == {"getppid": world.load.calls["getppid"], "getuid": 1000, "getgid": 1000}
    assert told["lost"] == 0


@pytest.mark.parametrize("options", ["size=64k,nr_inodes=100", "size=3m,nr_inodes=8"], ids=["full", "inodes"])
def test_a_full_disk_refuses_no_probes(world: World, options: str) -> None:
    """Where no spool can be begun what they see waits in memory, which is told; the first spool is there."""
    disk = world.path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "kwire-test", disk], check=True)
    try:
        spool = {"spool": str(disk / "spool")}
        world.write(STAYS, **spool)
        agent = world.agent()
        world.load.call("getppid")
        with contextlib.suppress(OSError), open(disk / "filler", "wb", buffering=0) as filler:
            while "size=64k" in options:
                filler.write(bytes(1000))
        with contextlib.suppress(OSError):
            for number in range(8):
                (disk / f"filler{number}").touch()
        world.write(STAYS, COMES, **spool)
        said = agent.hup()
        assert "no space left on device: what the new probes see waits in memory alone\n" in said
        assert "is read again, 1 new probe\n" in said
        world.load.call("getppid", "getgid")
        collector = world.collect()
        assert agent.end()["lost"] == 0
        collector.end()
        assert world.stored() == {"getppid": 2000, "getgid": 1000}
    finally:
        world.close()
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_mistake_leaves_all_as_it_is(world: World) -> None:
    """In the file, in a probe's text, in the kernel's eyes; one line says what is wrong."""
    world.write(STAYS)
    collector, agent = world.collect(), world.agent()
    for wrong, told in (
        ("tracepoint:syscalls:sys_enter_getppidd", "did you mean"),
        (f"{COMES}(nonsense)", "unknown name nonsense"),
        ("tracepoint:no", "is not a target of a tracepoint"),
    ):
        world.write(STAYS, COMES, wrong)
        said = agent.hup()
        [line] = [line for line in said.splitlines() if "takes what is recorded" not in line]
        assert told in line
        assert line.endswith("what was configured before stays in force")
    world.write()
    assert "no PROBE is named" in agent.hup()
    world.file.write_text("to = 1")
    assert "stays in force" in agent.hup()
    world.load.call("getppid", "getgid")
    agent.end()
    collector.end()
    assert world.stored() == {"getppid": 1000}


def test_signals_that_come_while_it_reads(world: World) -> None:
    """What is new is attached once: the questions after the first know it."""
    world.write(STAYS)
    collector, agent = world.collect(), world.agent()
    status = Path(f"/proc/{agent.process.pid}/status")
    children = Path(f"/proc/{agent.process.pid}/task/{agent.process.pid}/children")
    reads = [int(pid) for pid in children.read_text().split()]
    world.write(STAYS, COMES)
    for pid in reads:
        os.kill(pid, signal.SIGSTOP)
    for _ in range(3):
        agent.process.send_signal(signal.SIGHUP)
        until(lambda: "ShdPnd:\t0000000000000000" in (text := status.read_text()) and "\tS (sleep" in text)
    for pid in reads:
        os.kill(pid, signal.SIGCONT)
    until(lambda: agent.errors.count("is read again") + agent.errors.count("more line") >= 2)
    assert "is read again" in agent.hup()
    world.load.call("getppid", "getgid")
    told = agent.end()
    collector.end()
    assert world.stored() == {"getppid": 1000, "getgid": 1000}
    assert agent.errors.count("new probe") == 1
    assert told["sessions"] == 2


FILE = """
import kwire
from kwire.probe import emit, pid
total = kwire.Count()
seen = kwire.Count()

@kwire.tracepoint("syscalls:sys_enter_getppid")
def stays():
    total.add()
    emit(pid)
{between}
@kwire.tracepoint("syscalls:sys_enter_getuid")
def changes():
    emit(pid{what})
"""


def test_functions_of_a_file_change_by_themselves(world: World) -> None:
    """One that is written anew in another place is the same one; its map goes on."""
    file = world.path / "probes.py"
    file.write_text(FILE.format(between="", what=""))
    world.write(str(file))
    collector, agent = world.collect(), world.agent()
    world.load.call("getuid")
    world.load.flood("getppid")
    file.write_text(FILE.format(between="\n# more\n\n", what=""))
    assert "agent.toml is read again\n" in agent.hup()
    file.write_text(FILE.format(between="\n\n", what=", number=7"))
    assert "1 new probe, 1 probe taken away\n" in agent.hup()
    file.write_text(FILE.format(between="\n\n", what=", number="))
    assert "stays in force" in agent.hup()
    world.load.pause()
    world.load.call("getuid")
    agent.end()
    collector.end()
    assert world.stored() == {"getppid": world.load.calls["getppid"], "getuid": 2000, "map:total": 1}
    shown = subprocess.run(
        [*KWIRE, "show", "--json", *map(str, sorted(world.captures.glob("*.pcapng")))],
        capture_output=True,
        text=True,
    ).stdout
    assert shown.count('"number": 7') + shown.count('"number":7') == 1000
    assert str(world.load.calls["getppid"]) in shown  # what the map counted, from the beginning on


def test_a_script_is_changed_for_another(world: World) -> None:
    script = world.path / "one.bt"
    script.write_text(f'{STAYS} {{ @calls = count(); printf("one\\n"); }} END {{ printf("end\\n"); }}')
    world.write(str(script))
    collector, agent = world.collect(), world.agent()
    world.load.call("getppid")
    script.write_text(f'{COMES} {{ @calls = count(); printf("two\\n"); }}')
    assert "taken away" in agent.hup()
    world.load.call("getppid", "getgid")
    agent.end()
    collector.end()
    files = sorted(map(str, world.captures.glob("*.pcapng")))
    assert subprocess.run([*KWIRE, "verify", *files], capture_output=True).returncode == 0
    shown = [subprocess.run([*KWIRE, "show", one], capture_output=True, text=True).stdout for one in files]
    printed = sorted((one.count("one\n"), one.count("two\n"), one.count("end\n")) for one in shown)
    assert printed == [(0, 1000, 0), (1000, 0, 1)]
    assert all("@calls: 1000" in one for one in shown)


def test_what_chosen_processes_start_is_traced_by_new_probes_too(world: World) -> None:
    """A process that was started after the agent, of one that was chosen."""
    world.write(STAYS)
    collector, agent = world.collect(), world.agent()
    world.load.call("start", "child:getppid")
    world.write(STAYS, COMES)
    agent.hup()
    world.load.call("child:getgid")
    agent.end()
    collector.end()
    assert world.stored() == {"getppid": 1000, "getgid": 1000}


def certificates(world: World) -> dict[str, str]:
    """Keys of a configuration for certificates that are in `world`/now, which is `world`/first."""
    for name in ("first", "second"):
        make_certs(str(world.path / name), ["127.0.0.1"])
    (world.path / "now").symlink_to("first")
    own = world.path / "now" / "127.0.0.1"
    return {f"tls_{what}": str(own / f"{what}.pem") for what in ("ca", "cert", "key")}


def given(files: dict[str, str]) -> list[str]:
    """The same for a command line."""
    return [f"--{key.replace('_', '-')}={value}" for key, value in files.items()]


@pytest.mark.parametrize("kind", ["tcp", "tls", "udp"])
def test_over_networks(world: World, kind: str) -> None:
    """By somebody who is nobody by then, and cannot read what it shows again; certificates change, too."""
    world.address = f"{kind}:127.0.0.1:{free_ports(1)[0]}"
    files: dict[str, str] = {}
    if kind == "tls":
        files = certificates(world)
    options = given(files)
    world.write(STAYS, GOES, **files)
    collector = world.collect("--listen", *options)
    agent = world.agent()
    world.load.call("getuid")
    world.load.flood("getppid")
    world.write(STAYS, COMES, **files)
    more = ", certificates too" if files else ""
    assert f"agent.toml is read again{more}, 1 new probe, 1 probe taken away\n" in agent.hup()
    world.load.pause()
    world.load.call("getuid", "getgid")
    if kind == "tls":
        until(lambda: len(list(world.captures.glob("*.pcapng"))) == 2)
        collector.end(signal.SIGTERM)
        (world.path / "now").unlink()
        (world.path / "now").symlink_to("second")
        world.write(STAYS, COMES, GOES, **files)
        assert "certificates too, 1 new probe\n" in agent.hup()
        world.load.call("getgid", "getuid")
        collector = world.collect("--listen", *options)
    told = agent.end()
    collector.end()
    twice = 2000 if kind == "tls" else 1000
    assert world.stored() == {"getppid": world.load.calls["getppid"], "getuid": twice, "getgid": twice}
    assert told["lost"] == 0


def test_by_a_broker(world: World, tmp_path: Path) -> None:
    """The new session is published on the connection that there is."""
    needed()
    with Server(tmp_path / "broker", free_ports(1)[0]) as server:
        init(server.url)
        world.address = server.url
        world.write(STAYS, GOES)
        collector = world.collect("--from")
        agent = world.agent()
        until(lambda: "is connected" in agent.errors)
        world.load.call("getuid")
        world.load.flood("getppid")
        world.write(STAYS, COMES)
        assert "1 new probe, 1 probe taken away\n" in agent.hup()
        world.load.pause()
        world.load.call("getuid", "getgid")
        told = agent.end()
        until(lambda: collector.errors.count("has ended") == 2)
        collector.end()
    assert world.stored() == {"getppid": world.load.calls["getppid"], "getuid": 1000, "getgid": 1000}
    assert (told["lost"], told["sessions"]) == (0, 2)


def test_by_a_broker_that_asks_for_certificates(world: World, tmp_path: Path) -> None:
    """They change with what is recorded; their keys are for root, which the agent is no more."""
    needed()
    files, port = certificates(world), free_ports(1)[0]

    def secure() -> Server:
        own = (world.path / "now" / "127.0.0.1").resolve()
        names = ", ".join(f'{what}_file: "{own}/{what}.pem"' for what in ("cert", "key", "ca"))
        return Server(tmp_path / "broker", port, f"tls {{ {names}, verify: true }}")

    with Server(tmp_path / "broker", port) as server:
        init(server.url)
    world.address = server.url
    world.write(STAYS, **files)
    with secure():
        agent = world.agent()
        until(lambda: "is connected" in agent.errors, lambda: agent.errors)
        world.load.call("getppid")
    (world.path / "now").unlink()
    (world.path / "now").symlink_to("second")
    world.write(STAYS, COMES, **files)
    assert "is read again, secrets too, 1 new probe\n" in agent.hup()
    world.load.call("getppid", "getgid")
    with secure():
        collector = world.collect("--from", *given(files))
        told = agent.end()
        until(lambda: collector.errors.count("has ended") == 2, lambda: collector.errors + agent.errors)
        collector.end()
    assert world.stored() == {"getppid": 2000, "getgid": 1000}
    assert told["lost"] == 0


def test_what_has_ended_is_not_changed(world: World) -> None:
    """A recording whose time is over waits for its collector: nothing is attached to it."""
    more = {"seconds": 0.2, "metrics": "127.0.0.1:0"}
    world.write(STAYS, **more)
    agent = world.agent()
    until(lambda: "metrics at" in agent.errors)
    [place] = re.findall(r"metrics at http://(\S+)/metrics", agent.errors)

    def ended() -> bool:
        connection = http.client.HTTPConnection(place, timeout=20)
        with contextlib.closing(connection):
            connection.request("GET", "/readyz")
            return connection.getresponse().read() == b"the recording has ended\n"

    until(ended)
    world.write(STAYS, COMES, **more)
    assert "is read again; restart for the new probes\n" in agent.hup()
    collector = world.collect()
    assert agent.process.wait(60) == 0
    collector.end()
    assert world.stored() == {"getppid": 0}


def test_what_ends_a_recording_ends_one_of_which_no_probe_is_left(world: World) -> None:
    """Its processes, or its time: it is the first one that knows them."""
    world.write(GOES)
    collector, agent = world.collect(), world.agent()
    world.load.call("getuid")
    world.write(COMES)
    assert "1 new probe, 1 probe taken away\n" in agent.hup()
    world.load.call("getuid", "getgid")
    world.load.close()
    output, _ = agent.process.communicate(timeout=PATIENCE)
    assert agent.process.returncode == 0, agent.errors
    assert json.loads(output)["lost"] == 0
    collector.end()
    assert world.stored() == {"getuid": 1000, "getgid": 1000}


def test_it_has_recorded_as_long_as_the_last_of_its_recordings(world: World) -> None:
    """Though the first one has ended, as a change left nothing of it."""
    mine = f"{{pid == {world.load.process.pid}}}"
    world.write(GOES + mine, pids=[])
    collector, agent = world.collect(), world.agent()
    world.write(COMES + mine, pids=[])
    assert "1 new probe, 1 probe taken away\n" in agent.hup()
    changed = time.monotonic()
    world.load.call("getgid")
    until(lambda: time.monotonic() > changed + 1)
    told = agent.end()
    collector.end()
    assert told["seconds"] > 1
    assert world.stored() == {"getuid": 0, "getgid": 1000}


def test_too_many_open_files_leave_all_as_it_is(world: World) -> None:
    """Where the process that reads has room for what it attaches, and the agent has not."""
    others = [f"tracepoint:syscalls:sys_exit_{name}" for name in CALLS]
    world.write(STAYS)
    collector, agent = world.collect(), world.agent(limit=90)
    until(lambda: "takes what is recorded" in agent.errors)
    world.load.flood("getppid")
    said = ""
    for number in range(len(others), 0, -4):
        world.write(STAYS, COMES, *others[:number])
        said = agent.hup()
        assert "stays in force" in said
        if "take what was read" in said:
            break
    cure = "too many files are open; change fewer probes at once, or allow more (ulimit -n)"
    assert cure in said
    world.load.pause()
    world.load.call("getgid")
    world.load.flood("getppid")
    world.write(STAYS, COMES)
    assert "is read again, 1 new probe\n" in agent.hup()
    world.load.pause()
    world.load.call("getgid")
    assert agent.end()["lost"] == 0
    collector.end()
    assert world.stored() == {"getppid": world.load.calls["getppid"], "getgid": 1000}


def test_standard_input_is_the_same_when_it_is_read_again(world: World) -> None:
    world.write()
    world.file.write_text(world.file.read_text().replace("probes = []\n", ""))
    collector = world.collect()
    agent = world.agent("-", said=FILE.format(between="", what=""))
    world.load.call("getppid")
    assert "agent.toml is read again\n" in agent.hup()
    world.load.call("getppid")
    agent.end()
    collector.end()
    assert world.stored() == {"getppid": 2000, "getuid": 0, "map:total": 1}


def listening(world: World, *probes: str, **more: object) -> None:
    """Write the configuration of an agent that listens and lists these probes, of the load alone."""
    mine = f"{{pid == {world.load.process.pid}}}"
    keys = {"listen": world.address, "probes": [probe + mine for probe in probes], **more}
    lines = (f"{key.replace('_', '-')} = {json.dumps(value)}\n" for key, value in keys.items())
    world.file.write_text("".join(lines))


def traces(world: World, agent: Verb, count: int = 1) -> None:
    """Wait until clients trace, or have changed, so many times in all."""
    until(lambda: len(re.findall(" traces(: | what)", agent.errors)) == count, lambda: agent.errors)


@pytest.mark.parametrize("kind", ["unix", "tcp", "tls", "udp"])
def test_what_a_listening_agent_lists_changes_without_a_gap(world: World, kind: str) -> None:
    """In the session that there is: what stays loses nothing, under load; what is new joins it."""
    if kind != "unix":
        world.address = f"{kind}:127.0.0.1:{free_ports(1)[0]}"
    files = certificates(world) if kind == "tls" else {}
    listening(world, STAYS, GOES, **files)
    agent = Verb(world.path, "agent", "--config", str(world.file))
    world.verbs.append(agent)
    until(lambda: "listening at" in agent.errors)
    collector = Verb(world.path, "collect", "--from", world.address, "-w", str(world.captures), *given(files))
    world.verbs.append(collector)
    traces(world, agent)
    world.load.call("getuid")
    world.load.flood("getppid", pause=0.1)
    listening(world, STAYS, COMES, **files)
    agent.hup()
    traces(world, agent, 2)
    world.load.pause()
    world.load.call("getuid", "getgid")
    world.load.flood("getppid", pause=0.1)
    listening(world, STAYS, **files)
    agent.hup()
    traces(world, agent, 3)
    world.load.pause()
    world.load.call("getgid", "getuid")
    world.load.flood("getppid", pause=0.1)
    listening(world, GOES, COMES, STAYS, **files)
    agent.hup()
    traces(world, agent, 4)
    world.load.pause()
    world.load.call("getgid", "getuid")
    assert "traces what is listed now, 1 new probe, 1 probe taken away\n" in agent.errors
    assert "traces what is listed now, 2 new probes\n" in agent.errors
    told = collector.end()
    agent.end()
    assert len(list(world.captures.glob("*.pcapng"))) == 1
    expected = {"getppid": world.load.calls["getppid"], "getuid": 2000, "getgid": 2000}
    assert world.stored() == expected
    assert told["lost"] == 0


def listening_agent(world: World, *more: str, limit: int = 0) -> Verb:
    """An agent of what is configured, once it listens. `limit`: of open files."""
    agent = Verb(world.path, "agent", "--config", str(world.file), *more, limit=limit)
    world.verbs.append(agent)
    until(lambda: "listening at" in agent.errors)
    return agent


def fetching_collector(world: World, *more: str) -> Verb:
    """A collector that has asked for a trace, as the agent says."""
    collector = Verb(world.path, "collect", "--from", world.address, "-w", str(world.captures), *more)
    world.verbs.append(collector)
    return collector


def trace_process(agent: int) -> int:
    """The one process of a listening agent's launcher that is nobody's."""
    ids, found = [agent], list[int]()
    while ids:
        pid = ids.pop()
        own = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ids += map(int, own)
        found += [int(one) for one in own if pid != agent and os.stat(f"/proc/{one}").st_uid]
    [only] = found
    return only


def test_probes_that_a_listening_agent_takes_away_leave_no_descriptors(world: World) -> None:
    """Of those that joined later, too: their rings, maps and programs go when the last of them does."""
    listening(world, STAYS)
    agent = listening_agent(world)
    world.verbs.append(Verb(world.path, "collect", "--from", world.address, "-w", str(world.captures)))
    traces(world, agent)
    held, changes = list[int](), 1
    for _ in range(3):
        for probes in ((STAYS, COMES), (STAYS,)):
            listening(world, *probes)
            agent.hup()
            changes += 1
            traces(world, agent, changes)
        held.append(len(os.listdir(f"/proc/{trace_process(agent.process.pid)}/fd")))
    assert held[0] == held[1] == held[2]


def test_a_collector_that_fetches_goes_on_with_an_agent_that_was_begun_anew(world: World) -> None:
    """Both ended while the agent traced: the session before is known to no agent any more."""
    listening(world, STAYS)
    for captures in range(1, 3):
        agent = listening_agent(world)
        collector = Verb(world.path, "collect", "--from", world.address, "-w", str(world.captures))
        world.verbs.append(collector)
        traces(world, agent)
        world.load.call("getppid")
        collector.end()
        agent.end()
        assert len(list(world.captures.glob("*.pcapng"))) == captures


def test_a_collector_that_ends_waits_for_the_last_of_its_traces(world: World) -> None:
    """Also when that takes the agent longer than the collector's looks around."""
    listening(world, STAYS)
    agent = listening_agent(world)
    collector = Verb(world.path, "collect", "--from", world.address, "-w", str(world.captures))
    world.verbs.append(collector)
    traces(world, agent)
    world.load.call("getppid")
    tracing = trace_process(agent.process.pid)
    os.kill(tracing, signal.SIGSTOP)
    collector.process.send_signal(signal.SIGINT)
    asked = time.monotonic()
    until(lambda: collector.ended or time.monotonic() > asked + 3 * TICK)
    os.kill(tracing, signal.SIGCONT)
    collector.summary()
    assert world.stored() == {"getppid": 1000}


def test_a_joined_probe_that_has_fired_keeps_no_descriptors(world: World) -> None:
    """It has ended by itself, and is listed still: it does not join again."""
    stays = f"{STAYS}{{pid == {world.load.process.pid}}}"
    world.file.write_text(f'listen = "{world.address}"\nprobes = ["{stays}"]\n')
    agent = listening_agent(world)
    collector = fetching_collector(world)
    traces(world, agent)
    tracing = Path(f"/proc/{trace_process(agent.process.pid)}/fd")
    held = len(os.listdir(tracing))
    world.file.write_text(f'listen = "{world.address}"\nprobes = ["{stays}", "iter:task"]\n')
    agent.hup()
    traces(world, agent, 2)
    until(lambda: len(os.listdir(tracing)) == held)
    assert "read again\n" in agent.hup()
    world.file.write_text(f'listen = "{world.address}"\nprobes = ["{stays}"]\n')
    agent.hup()
    traces(world, agent, 3)
    assert agent.errors.count("1 new probe") == 1
    assert collector.end()["lost"] == 0
    agent.end()


def test_a_trace_takes_probes_again_after_some_found_no_place(world: World) -> None:
    """What came was cut off, as too many files are open; the next change comes whole."""
    others = [f"tracepoint:syscalls:sys_exit_{name}" for name in CALLS]
    listening(world, STAYS)
    agent = listening_agent(world, limit=90)
    collector = fetching_collector(world)
    traces(world, agent)
    cure = "too many files are open; change fewer probes at once, or allow more (ulimit -n)"
    for failures, number in enumerate(range(len(others), 0, -4), 1):
        listening(world, STAYS, COMES, *others[:number])
        agent.hup()
        stays = "its trace goes on as it was\n"
        until(lambda: agent.errors.count(stays) == failures, lambda: agent.errors)  # noqa: B023
        if f"take what was read: {cure}; {stays}" in agent.errors:
            break
    assert f"take what was read: {cure}; {stays}" in agent.errors
    listening(world, STAYS, COMES, GOES)
    agent.hup()
    traces(world, agent, 2)
    world.load.call("getppid", "getgid", "getuid")
    assert "traces what is listed now, 2 new probes\n" in agent.errors
    collector.end()
    agent.end()
    assert world.stored() == {"getppid": 1000, "getgid": 1000, "getuid": 1000}


def test_what_is_not_listed_any_more_goes_also_where_what_is_new_fails(world: World) -> None:
    """And does not count among the targets that are allowed."""
    missing = "tracepoint:syscalls:sys_enter_nonesuch"
    rules = world.path / "rules.toml"
    rules.write_text('[[allow]]\nwho = ["anyone"]\ntargets = 2\n')
    listening(world, STAYS, GOES, policy=str(rules))
    agent = listening_agent(world)
    collector = fetching_collector(world)
    traces(world, agent)
    listening(world, STAYS, missing, policy=str(rules))
    agent.hup()
    until(lambda: "its trace goes on with what stays, 1 probe taken away\n" in agent.errors)
    world.load.call("getppid", "getuid", "getgid")
    listening(world, STAYS, COMES, policy=str(rules))
    agent.hup()
    traces(world, agent, 2)
    listening(world, STAYS, GOES, policy=str(rules))
    agent.hup()
    traces(world, agent, 3)
    assert agent.errors.count("traces what is listed now, 1 new probe, 1 probe taken away\n") == 1
    world.load.call("getppid", "getuid", "getgid")
    collector.end()
    agent.end()
    assert world.stored() == {"getppid": 2000, "getuid": 1000, "getgid": 0}


def test_a_change_that_comes_during_one_that_fails_is_made(world: World) -> None:
    """The trace asks for more when nothing more is listed by then."""
    listening(world, STAYS, GOES)
    agent = listening_agent(world, "-v")
    collector = fetching_collector(world)
    traces(world, agent)
    tracing = trace_process(agent.process.pid)
    os.kill(tracing, signal.SIGSTOP)
    listening(world, STAYS, GOES, COMES)
    agent.hup()
    until(lambda: re.search(r'"direction": "in".*"type": "REPLY"', agent.errors))
    listening(world, STAYS)
    agent.hup()
    os.kill(tracing, signal.SIGCONT)
    traces(world, agent, 2)
    assert "the agent lists no more probes; its trace goes on as it was\n" in agent.errors
    assert "traces what is listed now, 1 probe taken away\n" in agent.errors
    world.load.call("getppid", "getgid", "getuid")
    collector.end()
    agent.end()
    assert world.stored() == {"getppid": 1000, "getuid": 0}


def test_targets_that_were_taken_away_make_room_for_others(world: World) -> None:
    rules = world.path / "rules.toml"
    rules.write_text('[[allow]]\nwho = ["anyone"]\ntargets = 2\n')
    listening(world, STAYS, policy=str(rules))
    agent = listening_agent(world)
    collector = fetching_collector(world)
    traces(world, agent)
    changes = [(STAYS, GOES), (STAYS,), (STAYS, COMES), (STAYS,), (STAYS, GOES)]
    for count, probes in enumerate(changes, 2):
        listening(world, *probes, policy=str(rules))
        agent.hup()
        traces(world, agent, count)
    listening(world, STAYS, GOES, COMES, policy=str(rules))
    agent.hup()
    until(lambda: "the agent allows 2 attach points, these are 1 beside 2 of the trace" in agent.errors)
    world.load.call("getppid", "getuid")
    collector.end()
    agent.end()
    assert world.stored() == {"getppid": 1000, "getuid": 1000, "getgid": 0}


def test_a_policy_changes_under_load(world: World) -> None:
    """Where it grants a client the same its trace goes on without a gap; else it ends in order, and is asked
    for anew.
    """
    rules = world.path / "rules.toml"
    other = '[[allow]]\nwho = ["uid:12345"]\nprobes = ["kprobe:*"]\n'
    mine = '[[allow]]\nwho = ["anyone"]\nseconds = {seconds}\n'
    rules.write_text(mine.format(seconds=5000))
    listening(world, STAYS, policy=str(rules))
    agent = listening_agent(world)
    collector = fetching_collector(world)
    traces(world, agent)
    world.load.flood("getppid", pause=0.1)
    for text in (other + mine, mine, mine + other):
        rules.write_text(text.format(seconds=5000))
        assert "read again\n" in agent.hup()
    world.load.pause()
    assert len(list(world.captures.glob("*.pcapng"))) == 1
    before = world.load.calls["getppid"]
    world.load.flood("getppid", pause=0.1)
    rules.write_text(mine.format(seconds=6000))
    assert "read again, 1 trace to end\n" in agent.hup()
    until(lambda: len(list(world.captures.glob("*.pcapng"))) == 2, lambda: agent.errors)
    world.load.pause()
    between = world.load.calls["getppid"]
    world.load.call("getppid")
    collector.end()
    agent.end()
    assert before + 1000 < world.stored()["getppid"] <= between + 1000


class Client(RemoteSession):
    """One that answers `join`, as none of ours does that counts or is of an earlier release."""

    def __init__(self, address: str, body: dict[str, Any], joins: dict[str, Any]) -> None:
        self.kept = Counted()
        self.asked: list[str] = []
        self._joins = joins
        super().__init__(Endpoint(address), body, lambda schemas: [self.kept])

    def requested(self, peer: Peer, number: int, body: Mapping[str, Any]) -> None:
        self.asked.append(str(body.get("op")))
        if body.get("op") == "join":
            peer.session.reply(number, self._joins, self.loop.now())
        else:
            super().requested(peer, number, body)


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


@contextlib.contextmanager
def client(world: World, body: dict[str, Any], joins: dict[str, Any]) -> Iterator[Client]:
    """A client whose trace has begun."""
    made = Client(world.address, body, joins)
    try:
        made.until(lambda: made.answer)
        yield made
    finally:
        made.close()


def test_none_join_a_trace_of_so_many_events(world: World) -> None:
    """What is counted are those of the probes that it began with."""
    listening(world, STAYS, GOES)
    agent = listening_agent(world)
    with client(world, {"op": "trace", "count": 1500}, {"ok": True}) as counting:
        world.load.call("getuid")
        listening(world, STAYS, COMES)
        agent.hup()
        until(lambda: "traces what stays of what is listed, 1 probe taken away" in agent.errors)
        world.load.call("getgid", "getppid")
        counting.until(lambda: counting.over)
        assert counting.asked == ["ended"]
        assert counting.why == "the last event asked for has come"
        assert (counting.kept.events, counting.kept.lost_events) == (1500, 0)
        assert counting.received.produced == {1: 500, 2: 1000}
    agent.end()


def test_the_trace_of_a_client_of_an_earlier_release_ends(world: World) -> None:
    """It knows no `join`, and may ask anew; what stays was recorded until then."""
    listening(world, STAYS)
    agent = listening_agent(world)
    refused = requests.failed(KwireError("answer request", "join", "it is not known"))
    with client(world, {"op": "trace"}, refused) as old:
        world.load.call("getppid")
        listening(world, STAYS, COMES)
        agent.hup()
        old.until(lambda: old.over)
        assert "takes no more probes: its trace ends\n" in agent.errors
        assert old.asked == ["join", "ended"]
        assert old.received.produced == {1: 1000}
    agent.end()
