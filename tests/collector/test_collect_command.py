"""`kwire collect` as processes: killed and started again, confined, on a full disk, with real agents."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from site_of_one import events, schema
from verified import verify_file
from waiting import PATIENCE, until

from kwire.agent.spool import begin
from kwire.capture.reader import Capture
from kwire.capture.verify import verify_set
from kwire.transport.address import parse
from kwire.transport.connect import connect
from kwire.transport.loop import Loop
from kwire.transport.peer import Handler, Peer
from kwire.wire import cbor
from kwire.wire.control import Role, Welcome, bye_frame, error_frame, peek_hello
from kwire.wire.frame import Type, build
from kwire.wire.session import Session

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "kwire.cli.main"]
REPLAY = [sys.executable, str(ROOT / "bench" / "replay.py")]


class Commands:
    """Processes of this test; they end with it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.address = f"unix:{path}/socket"
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, *command: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command, cwd=self.path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.processes.append(process)
        return process

    def collect(self, *arguments: str, listen: bool = True) -> subprocess.Popen[str]:
        """A collector that is ready."""
        where = ["--listen", self.address] if listen else []
        process = self.start(*COMMAND, "collect", *where, "--json", *arguments)
        if listen:
            assert process.stderr is not None
            line = process.stderr.readline()
            assert "collecting at" in line, line + process.stderr.read()
            self.address = line.split()[-1]
        return process

    def replay(self, events: int, *arguments: str) -> subprocess.Popen[str]:
        return self.start(*REPLAY, self.address, str(events), *arguments)

    @staticmethod
    def summary(process: subprocess.Popen[str], stop: int = signal.SIGINT) -> dict[str, Any]:
        """Stop a collector; what it says at the end."""
        if process.poll() is None:
            process.send_signal(stop)
        out, err = process.communicate(timeout=PATIENCE)
        assert "Traceback" not in err, err
        assert out, err
        summary: dict[str, Any] = json.loads(out)
        return summary | {"status": process.returncode, "said": err}

    @staticmethod
    def sent(process: subprocess.Popen[str]) -> dict[str, Any]:
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, err
        told: dict[str, Any] = json.loads(out)
        return told


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    commands = Commands(tmp_path)
    yield commands
    for process in commands.processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def stored(*paths: Path) -> int:
    """Events in captures that are complete."""
    reports = [verify_file(str(path)) for path in paths]
    assert all(report.complete for report in reports), reports
    assert verify_set(reports) == []
    return sum(report.totals.stored for report in reports)


def times(path: Path) -> list[int]:
    """The timestamps in a capture, in the order of the file."""
    found: list[int] = []
    with Capture(str(path)) as capture:
        for frames in capture:
            found += [
                int.from_bytes(frame.payload[:8], sys.byteorder)
                for frame in frames
                if frame.header.type == Type.EVENT
            ]
    return found


def status(process: subprocess.Popen[str]) -> dict[str, str]:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_what_is_sent_is_collected_and_said(commands: Commands) -> None:
    collector = commands.collect("-w", "in")
    told = commands.sent(commands.replay(50_000))
    assert (told["events"], told["lost"]) == (50_000, 0)
    summary = commands.summary(collector)
    assert summary["status"] == 0
    (host,) = summary["hosts"]
    assert (host["host"], host["events"], host["lost"], host["errors"]) == ("replay", 50_000, 0, 0)
    assert "replay: 50,000 events, none lost, in in/replay-" in summary["said"]
    (file,) = host["files"]
    assert stored(commands.path / file) == 50_000


def test_it_has_no_privileges_and_few_system_calls(commands: Commands) -> None:
    collector = commands.collect("-w", "in")
    until(lambda: int(status(collector)["CapEff"], 16) == 0)
    found = status(collector)
    assert int(found["CapPrm"], 16) == int(found["CapBnd"], 16) == 0
    assert found["NoNewPrivs"] == "1"
    if found.get("Seccomp") is not None:
        until(lambda: status(collector)["Seccomp"] == "2")
    assert commands.sent(commands.replay(1000, "--agents", "5"))["events"] == 5000
    assert commands.summary(collector)["events"] == 5000


@pytest.mark.parametrize("options", [(), ("--rotate", "1M"), ("--sync",), ("--merge", "in/all.pcapng")])
def test_killed_again_and_again_nothing_is_lost_and_nothing_twice(
    commands: Commands, options: tuple[str, ...]
) -> None:
    """kill -9 at moments of its own choice, while a source sends 100,000 events a second."""
    where = () if "--merge" in options else ("-w", "in")
    collector = commands.collect(*where, *options)
    replay = commands.replay(150_000, "--rate", "100000", "--numbered")
    for pause in (0.45, 0.2, 0.35):
        time.sleep(pause)
        collector.kill()
        collector.communicate()
        collector = commands.collect(*where, *options)
    told = commands.sent(replay)
    assert (told["events"], told["lost"]) == (150_000, 0)
    summary = commands.summary(collector)
    assert summary["problems"] == []
    paths = sorted((commands.path / "in").glob("*.pcapng"))
    assert stored(*paths) == 150_000
    assert [time for path in paths for time in times(path)] == list(range(0, 150_000_000, 1000))


def test_sigterm_leaves_sessions_for_the_next_one(commands: Commands) -> None:
    collector = commands.collect("-w", "in")
    replay = commands.replay(60_000, "--rate", "100")  # ten minutes
    until(lambda: any(times(path) for path in (commands.path / "in").glob("*.pcapng")))
    first = commands.summary(collector, signal.SIGTERM)
    assert first["status"] == 0
    (path,) = (commands.path / "in").glob("*.pcapng")
    assert len(times(path)) == first["events"] > 0  # it can be read at this moment too
    collector = commands.collect("-w", "in")
    replay.send_signal(signal.SIGUSR1)
    assert commands.sent(replay)["lost"] == 0
    summary = commands.summary(collector)
    assert summary["events"] == stored(path) == 60_000


def test_it_ends_by_time_and_by_number(commands: Commands) -> None:
    collector = commands.collect("-w", "in", "-n", "1000")
    replay = commands.replay(1_000_000, "--rate", "20000")
    out, _ = collector.communicate(timeout=PATIENCE)
    assert 1000 <= json.loads(out)["events"] < 1_000_000
    assert collector.returncode == 3  # what the agent produces until it ends is not known
    replay.kill()
    replay.wait()
    collector = commands.collect("-w", "in", "-d", "300ms")
    assert (
        collector.wait(timeout=PATIENCE) == 0
    )  # nobody comes, and what came before is that collector's to tell


def test_two_collectors_do_not_share_a_folder(commands: Commands) -> None:
    commands.collect("-w", "in")
    second = commands.start(*COMMAND, "collect", "--listen", f"unix:{commands.path}/other", "-w", "in")
    _, err = second.communicate(timeout=PATIENCE)
    assert second.returncode == 1
    assert err == ("kwire: write to in: another collector writes there; give each collector its own folder\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-w", "x"], "from whom?"),
        (["--listen", "tcp:0.0.0.0:0"], "--insecure"),
        (["--listen", "nonsense"], "nonsense"),
        (["--listen", "unix:s", "-w", "a", "--merge", "b"], "exclude each other"),
        (["--listen", "unix:s", "-w", "/proc/nothing"], "write to /proc/nothing"),
        (["--listen", "tls:localhost:0", "--tls-cert", "/nothing"], "use TLS"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(commands: Commands, arguments: list[str], says: str) -> None:
    done = commands.start(*COMMAND, "collect", *arguments)
    _, err = done.communicate(timeout=PATIENCE)
    assert done.returncode == 1
    assert says in err
    assert err.count("\n") == 1


def test_a_source_over_udp_through_the_filter(commands: Commands) -> None:
    commands.address = "udp:127.0.0.1:0"
    collector = commands.collect("-w", "in")
    assert commands.sent(commands.replay(5000))["lost"] == 0
    assert commands.summary(collector)["events"] == 5000


def test_a_source_over_tls_through_the_filter(commands: Commands, certs: Path) -> None:
    commands.address = "tls:localhost:0"
    files = [
        part for name in ("cert", "key", "ca") for part in (f"--tls-{name}", f"{certs}/collector/{name}.pem")
    ]
    collector = commands.collect("-w", "in", *files)
    assert commands.sent(commands.replay(20_000, "--tls", f"{certs}/agent"))["lost"] == 0
    summary = commands.summary(collector)
    assert (summary["events"], summary["problems"]) == (20_000, [])


def test_a_stuck_collector_costs_what_has_no_room_and_all_is_counted(commands: Commands) -> None:
    """Back-pressure: the collector stands still for a second, in which the source's memory is full."""
    collector = commands.collect("-w", "in")
    replay = commands.replay(300_000, "--rate", "100", "--memory", str(1 << 17))
    until(lambda: list((commands.path / "in").glob("*.pcapng")))
    collector.send_signal(signal.SIGSTOP)
    replay.send_signal(signal.SIGUSR1)
    time.sleep(1)
    collector.send_signal(signal.SIGCONT)
    told = commands.sent(replay)
    assert told["lost"] > 0
    summary = commands.summary(collector)
    (host,) = summary["hosts"]
    assert host["causes"] == {"the sender's buffer was full": told["lost"]}
    report = verify_file(str(next((commands.path / "in").glob("*.pcapng"))))
    assert report.problems == []
    assert report.totals == (300_000, told["events"], told["lost"])
    assert {hole.cause for hole in report.holes} == {"the sender's buffer was full"}


ON_A_SMALL_DISK = """
import ctypes, glob, os, shutil, signal, sys
target, work, address = sys.argv[1:4]
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x20000):
    sys.exit(77)
libc.mount(None, b"/", None, 0x44000, None)  # private, recursive
if libc.mount(b"tmpfs", work.encode(), b"tmpfs", 0, b"size=3m"):
    sys.exit(77)
child = os.fork()
if not child:
    from kwire.cli.main import main
    os._exit(main(["collect", "--listen", address, "-w", work + "/in", "--json"]))
signal.signal(signal.SIGINT, lambda *_: os.kill(child, signal.SIGINT))
signal.signal(signal.SIGUSR1, lambda *_: libc.mount(None, work.encode(), None, 32, b"size=64m"))  # MS_REMOUNT
status = os.waitpid(child, 0)[1]
for path in glob.glob(work + "/in/*.pcapng"):
    shutil.copy(path, target)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_a_full_disk_takes_nothing_and_says_so_until_it_has_room(commands: Commands) -> None:
    """More than fits, from two sources: what finds no room waits at its source, and arrives later."""
    (commands.path / "work").mkdir()
    (commands.path / "out").mkdir()
    program = [sys.executable, "-c", ON_A_SMALL_DISK, f"{commands.path}/out", f"{commands.path}/work"]
    collector = commands.start(*program, commands.address)
    until(lambda: collector.poll() is not None or (commands.path / "socket").exists())
    if collector.poll() == 77:
        pytest.skip("a file system cannot be mounted here")
    small = commands.replay(100, "--host", "small", "--hold", "1.5")
    large = commands.replay(100_000, "--host", "large")
    assert collector.stderr is not None
    line = ""
    while "is not acknowledged until that is over" not in line:
        line = collector.stderr.readline()
        assert line
    assert "the disk is full" in line or "No space left" in line or "no room" in line
    assert large.poll() is None
    collector.send_signal(signal.SIGUSR1)  # now there is room
    assert commands.sent(large)["lost"] == 0
    assert commands.sent(small)["lost"] == 0
    summary = commands.summary(collector)
    assert "takes everything again" in summary["said"]
    assert (summary["status"], summary["lost"], summary["problems"]) == (0, 0, [])
    assert {host["host"]: host["events"] for host in summary["hosts"]} == {"small": 100, "large": 100_000}
    assert stored(*(commands.path / "out").iterdir()) == 100_100


@pytest.mark.live
@pytest.mark.native
def test_real_agents_come_and_go(commands: Commands) -> None:
    """Two agents with a command each; the collector is killed in between."""
    program = "import os, time\nfor n in range(20):\n for m in range(2000): os.getppid()\n time.sleep(.05)"
    load = f"{sys.executable} -c '{program}'"
    collector = commands.collect("-w", "in")
    agent = [*COMMAND, "agent", "--to", commands.address, "tracepoint:syscalls:sys_enter_getppid", "--json"]
    agents = [commands.start(*agent, "--name", f"web{number}", "-c", load) for number in range(2)]
    until(lambda: len(list((commands.path / "in").glob("*.pcapng"))) == 2)
    collector.kill()
    collector.communicate()
    collector = commands.collect("-w", "in")
    told = [json.loads(agent.communicate(timeout=PATIENCE)[0]) for agent in agents]
    summary = commands.summary(collector)
    hosts = {host["host"]: host for host in summary["hosts"]}
    for number, said in enumerate(told):
        (path,) = (commands.path / "in").glob(f"web{number}-*.pcapng")
        assert said["lost"] == 0
        assert stored(path) == said["events"] >= 40_000
        assert hosts[f"web{number}"]["events"] == said["events"]


SCRIPT = """
BEGIN { printf("hello %d\\n", $1); @b["x"] = 5; print(@b); }
tracepoint:syscalls:sys_enter_getppid /pid == cpid/ { @c[comm] = count(); }
END { printf("end\\n"); }
"""


@pytest.mark.live
@pytest.mark.native
def test_what_a_script_prints_is_collected(commands: Commands) -> None:
    (commands.path / "x.bt").write_text(SCRIPT)
    collector = commands.collect("-w", "in")
    load = "/usr/bin/python3 -c 'import os; [os.getppid() for _ in range(9)]'"
    agent = commands.start(*COMMAND, "agent", "--to", commands.address, "--json", "-c", load, "x.bt", "7")
    assert commands.sent(agent)["lost"] == 0
    commands.summary(collector)
    [path] = (commands.path / "in").glob("*.pcapng")
    shown = commands.start(*COMMAND, "show", str(path)).communicate(timeout=PATIENCE)
    assert shown == ("hello 7\n@b[x]: 5\nend\n\n\n@b[x]: 5\n@c[python3]: 9\n", "")


def test_what_happens_is_said_in_sentences(commands: Commands) -> None:
    collector = commands.collect("-w", "in")
    assert commands.sent(commands.replay(100))["events"] == 100
    summary = commands.summary(collector)
    assert "has come, from unix:" in summary["said"]
    assert "is written to in/" in summary["said"]
    assert "has ended: 100 events, none lost" in summary["said"]
    assert "Complained" not in summary["said"]
    assert (summary["status"], summary["failures"]) == (0, 0)


@pytest.mark.parametrize("how", ["nothing", "another CA", "no TLS"])
def test_who_is_refused_is_named_with_the_reason(
    commands: Commands, certs: Path, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kwire.transport.certs import make_certs

    monkeypatch.setenv("KWIRE_TLS", str(certs / "collector"))
    commands.address = "tls:127.0.0.1:0"
    collector = commands.start(*COMMAND, "collect", "--listen", commands.address, "--json", "-w", "in")
    assert collector.stderr is not None
    address = collector.stderr.readline().split()[-1]
    place = ("127.0.0.1", int(address.rpartition(":")[2]))
    if how == "no TLS":
        with socket.create_connection(place) as end:
            end.sendall(b"GET / HTTP/1.1\r\n\r\n")
            end.recv(100)
    elif how == "nothing":
        socket.create_connection(place).close()
    else:
        make_certs(str(tmp_path / "other"))
        monkeypatch.setenv("KWIRE_TLS", str(tmp_path / "other" / "agent"))
        context = ssl.create_default_context(cafile=str(certs / "agent" / "ca.pem"))
        ours = tmp_path / "other" / "agent"
        context.load_cert_chain(str(ours / "cert.pem"), str(ours / "key.pem"))
        with (
            contextlib.suppress(OSError),
            socket.create_connection(place) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as end,
        ):
            end.recv(100)
    line = collector.stderr.readline()
    assert line.startswith("kwire: tls:127.0.0.1:")
    assert "gets no session: " in line
    assert not line.rstrip().endswith(":")
    commands.summary(collector)


HOSTILE = "\x1b[2J\x1b]0;x\x07\r\n\x9b31mkwire: all is well\u202e\u2028\t\0\ud800"
"""What a terminal would obey, forged lines, and what is no text."""


def harmless(text: str) -> None:
    """Lines of text and nothing that a terminal would obey."""
    assert all(char.isprintable() or char == "\n" for char in text), ascii(text)
    assert not any(line.startswith("kwire: all is well") for line in text.splitlines())


@pytest.mark.parametrize("verbose", [[], ["-v"]])
def test_what_agents_say_reaches_a_terminal_escaped(commands: Commands, verbose: list[str]) -> None:
    """Its names, its BYE, its errors, what it asks and answers: in lines as they come, and at the end."""
    collector = commands.start(*COMMAND, "collect", "--listen", commands.address, *verbose)
    assert collector.stderr is not None
    first = collector.stderr.readline()
    assert "collecting at" in first
    hostile = HOSTILE.replace("\ud800", "")
    about = {name: f"{name} {hostile}" for name in ("host", "kernel", "tool", "name")}
    loop = Loop()
    session = Session(Role.SOURCE, initiator=True, about=about)
    ended: list[str] = []

    class Hostile(Handler):
        def established(self, peer: Peer) -> None:
            peer.session._put(error_frame(7, 9, f"error {hostile}"))
            peer.session.request({"op": hostile}, loop.now())
            for frame in schema(f"host {hostile}")._replace(probe=f"kprobe:{hostile}").frames():
                peer.session.send(frame, loop.now())
            peer.session.send(b"\x1f\0\0\x08\0\0\0\1", loop.now())  # no frame
            peer.flush()
            peer.close(f"bye {hostile}")

        def requested(self, peer: Peer, number: int, body: Mapping[str, Any]) -> None:
            peer.session.reply(number, {"error": {"text": hostile}}, loop.now())

        def closed(self, peer: Peer, why: str) -> None:
            ended.append(why)

    once = [session]
    connector = connect(loop, parse(commands.address), lambda: once.pop() if once else None, Hostile())
    until(lambda: ended, turn=lambda: loop.turn(0.05))
    connector.close()
    loop.close()
    collector.send_signal(signal.SIGINT)
    out, err = collector.communicate(timeout=PATIENCE)
    assert "Traceback" not in err
    assert "\\e[2J" in err
    harmless(out + err)


@pytest.mark.parametrize("verbose", [[], ["-v"]])
def test_what_collectors_say_reaches_a_terminal_escaped(commands: Commands, verbose: list[str]) -> None:
    """A collector that refuses, supersedes, complains, tells of its disk, and leaves, in its own words."""
    hostile = HOSTILE.replace("\ud800", "")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(commands.address.removeprefix("unix:"))
    listener.listen()
    listener.settimeout(PATIENCE)
    spool = str(commands.path / "spool")
    made = begin(spool, b"t" * 16, list(schema("web1").frames()), 1 << 20, 1 << 20)
    made.run()
    made.put(made.next, events(0, 5))
    made.close()
    agent = commands.start(
        *COMMAND, "agent", "--to", commands.address, "--spool", spool, "--grace", "0.1", *verbose
    )
    for answer in ("refused", "superseded", "established"):
        connected, _ = listener.accept()
        connected.settimeout(PATIENCE)
        hello = None
        heard = b""
        while hello is None:
            heard += connected.recv(65536)
            hello = peek_hello(heard)
        said: dict[str, Any] = {"refused": hostile} if answer == "refused" else {}
        said = {"superseded": hostile} if answer == "superseded" else said
        connected.send(Welcome(hello.token, hello.nonce, Role.SINK, window=1 << 20, **said).frame())
        if answer == "established":
            connected.send(error_frame(0, 14, f"error {hostile}"))
            told = {"op": "disk", "full": True, "text": hostile}
            connected.send(build(Type.REQUEST, 1, cbor.dumps(told), 0))
            connected.send(build(Type.REQUEST, 2, cbor.dumps({"op": hostile}), 0))
            connected.send(bye_frame(0, f"bye {hostile}"))
        connected.settimeout(5)
        with contextlib.suppress(OSError):
            while connected.recv(65536):
                pass
        connected.close()
    listener.close()
    agent.send_signal(signal.SIGINT)
    out, err = agent.communicate(timeout=PATIENCE)
    assert "Traceback" not in err
    assert "\\e[2J" in err
    assert "error \\e[2J" in err
    harmless(out + err)


def test_who_has_proven_who_it_is_is_written_down(commands: Commands) -> None:
    collector = commands.collect("-w", "in")
    assert commands.sent(commands.replay(10))["lost"] == 0
    Commands.summary(collector)
    assert (commands.path / "in" / ".sessions" / "known").read_text().split() == [f"uid:{os.getuid()}"]
