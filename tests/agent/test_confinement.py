"""An agent is nobody once its probes are attached: what a compromised one tries, fails.

The agents are real ones, started by a program that lets each of their processes which has given up its
privileges run the attack before its loop: with its memory, its descriptors, its threads to come.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from waiting import PATIENCE

from kwire.agent import confinement
from kwire.agent.remote import Endpoint, RemoteSession
from kwire.agent.spool import begin, recover
from kwire.kernel import landlock
from kwire.kernel.privileges import STRANGER

PROBE = "tracepoint:syscalls:sys_enter_getppid"

pytestmark = [pytest.mark.live, pytest.mark.kernels("6.1")]  # the oldest Landlock: it can do least

ATTACK = """
import ctypes, errno, json, os, socket, sys, threading

libc = ctypes.CDLL(None, use_errno=True)

def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

def lines(path):
    with open(path, "rb") as file:
        return file.read(1)

def program_load():
    attr = (ctypes.c_uint32 * 32)(5, 1)
    call(321, 5, attr, 128)

def thread():
    done = []
    one = threading.Thread(target=lambda: done.append(os.getuid()))
    one.start()
    one.join()
    assert done == [os.getuid()]

TRIES = {
    "write /etc/passwd": lambda: open("/etc/passwd", "r+"),
    "write a file that all may write": lambda: open(target, "w"),
    "append to it": lambda: os.open(target, os.O_APPEND | os.O_WRONLY),
    "truncate it": lambda: os.truncate(target, 0),
    "make a file in /tmp": lambda: open("/tmp/kwire-attack", "w"),
    "make one in /dev/shm": lambda: open("/dev/shm/kwire-attack", "w"),
    "make a folder in /tmp": lambda: os.mkdir("/tmp/kwire-attack.d"),
    "delete a file in a folder for all": lambda: os.unlink(target),
    "rename it": lambda: os.rename(target, target + ".new"),
    "link to it": lambda: os.symlink("/etc/passwd", target + ".link"),
    "change its mode": lambda: os.chmod(target, 0o4777),
    "an extended attribute": lambda: os.setxattr(target, "user.kwire", b"x"),
    "read /etc/shadow": lambda: lines("/etc/shadow"),
    "the memory of the parent": lambda: open(f"/proc/{os.getppid()}/mem", "r+b"),
    "trace the parent": lambda: call(101, 16, os.getppid(), 0, 0),
    "read the parent's memory": lambda: call(310, os.getppid(), 0, 0, 0, 0, 0),
    "signal the parent": lambda: os.kill(os.getppid(), 0),
    "signal all": lambda: os.kill(-1, 0),
    "run a program": lambda: os.execv("/bin/true", ["true"]),
    "fork": os.fork,
    "be root": lambda: os.setuid(0),
    "be of another group": lambda: os.setgid(0),
    "a raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
    "a packet socket": lambda: socket.socket(17, socket.SOCK_RAW, 3),
    "load a program": program_load,
    "a perf event": lambda: call(298, ctypes.create_string_buffer(128), 0, -1, -1, 0),
    "mount": lambda: call(165, b"none", b"/mnt", b"tmpfs", 0, 0),
    "namespaces": lambda: call(272, 0x10000000),
    "memory with code": lambda: __import__("mmap").mmap(-1, 4096, prot=7),
    "a module": lambda: call(175, 0, 0, b""),
    "keys": lambda: call(250, 0, 0),
    "io_uring": lambda: call(425, 1, ctypes.create_string_buffer(256)),
    "debug itself": lambda: call(101, 0, 0, 0, 0),
    "the clock": lambda: call(227, 0, ctypes.create_string_buffer(16)),
    "change the root": lambda: os.chroot("/tmp"),
}
MUST = {
    "a thread": thread,
    "a socket": lambda: socket.socket().close(),
    "the names of hosts": lambda: os.path.exists("/etc/hosts") and lines("/etc/hosts"),
}

def attack():
    with open("/proc/self/status") as file:
        status = dict(line.split(":", 1) for line in file)
    names = ("Uid", "Groups", "CapEff", "CapPrm", "CapBnd", "NoNewPrivs", "Seccomp")
    told = {"pid": os.getpid(), "status": {name: status[name].strip() for name in names}, "succeeded": []}
    for name, attempt in TRIES.items():
        try:
            attempt()
        except (OSError, AssertionError):
            continue
        told["succeeded"].append(name)
    told["failed"] = []
    for name, attempt in MUST.items():
        try:
            attempt()
        except Exception as error:
            told["failed"].append(f"{name}: {error}")
    sys.stderr.write("ATTACK " + json.dumps(told) + "\\n")
    sys.stderr.flush()
"""

START = """
import sys
target = sys.argv.pop(1)
exec(open(sys.argv.pop(1)).read())
from kwire.transport.loop import Loop
turn = Loop.run
def run(self):
    attack()
    turn(self)
Loop.run = run
from kwire.cli.main import main
raise SystemExit(main(sys.argv[1:]))
"""


class Attacked:
    """A `kwire agent` whose processes attack."""

    def __init__(self, path: Path, *arguments: str) -> None:
        self.said = path / "said"
        attack, start = path / "attack.py", path / "start.py"
        attack.write_text(ATTACK)
        start.write_text(START)
        open_folder = Path("/tmp") / f"kwire-open-{os.getpid()}"
        open_folder.mkdir(exist_ok=True)
        open_folder.chmod(0o777)
        self.target = open_folder / "target"
        self.target.write_text("as it was")
        self.target.chmod(0o666)
        with self.said.open("w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, str(start), str(self.target), str(attack), "agent", *arguments],
                stderr=stderr,
                stdout=subprocess.PIPE,
                text=True,
            )

    def told(self, count: int) -> list[dict[str, Any]]:
        """What the attacks of so many processes came to."""
        end = time.monotonic() + 150  # in a guest it takes so long
        while True:
            lines = [line for line in self.said.read_text().splitlines() if line.startswith("ATTACK ")]
            if len(lines) == count:
                return [json.loads(line.removeprefix("ATTACK ")) for line in lines]
            assert time.monotonic() < end, self.said.read_text()
            assert self.process.poll() is None, self.said.read_text()
            time.sleep(0.05)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.target.unlink()
        self.target.parent.rmdir()


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
        assert isinstance(number, int)
        return number


@pytest.fixture
def attacked(tmp_path: Path) -> Iterator[Any]:
    made: list[Attacked] = []

    def start(*arguments: str) -> Attacked:
        made.append(Attacked(tmp_path, *arguments))
        return made[-1]

    yield start
    for one in made:
        one.close()


def is_nobody(told: dict[str, Any], agent: Attacked, capabilities: int = 0) -> None:
    assert told["succeeded"] == []
    assert told["failed"] == []
    status = told["status"]
    assert status["Uid"].split() == [str(STRANGER.uid)] * 4
    assert status["Groups"] == ""
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == capabilities
    assert int(status["CapBnd"], 16) == capabilities
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert agent.target.read_text() == "as it was"


@pytest.mark.skipif(not landlock.version(), reason="the kernel has no Landlock")
@pytest.mark.parametrize("kind", ["tcp", pytest.param("spool", marks=pytest.mark.native), "unix"])
def test_an_agent_that_connects(attacked: Any, tmp_path: Path, port: int, kind: str) -> None:
    """With a spool its own folder is writable; over a Unix socket one capability stays, and opens nothing."""
    address = f"unix:{tmp_path}/collector" if kind == "unix" else f"tcp:127.0.0.1:{port}"
    options = ["--spool", str(tmp_path / "spool")] if kind != "tcp" else []
    agent = attacked("--to", address, PROBE, "-p", str(os.getpid()), "--grace", "0.3", *options)
    [told] = agent.told(1)
    is_nobody(told, agent, 2 if kind == "unix" else 0)
    if options:
        os.getppid()
        time.sleep(1.5)
        agent.process.terminate()
        agent.process.wait(PATIENCE)
        assert agent.process.returncode == 1, agent.said.read_text()  # what it recorded is kept
        assert list((tmp_path / "spool").rglob("*.seg"))


@pytest.mark.parametrize("kind", [pytest.param("tcp", marks=pytest.mark.native), "unix"])
def test_an_agent_that_listens(attacked: Any, tmp_path: Path, port: int, kind: str) -> None:
    """Its front, and the tracer of a client, once it has attached."""
    address = f"unix:{tmp_path}/agent" if kind == "unix" else f"tcp:127.0.0.1:{port}"
    agent = attacked("--listen", address, PROBE)
    [front] = agent.told(1)
    is_nobody(front, agent)
    talk = RemoteSession(Endpoint(address), {"op": "trace", "pids": [os.getpid()]}, lambda schemas: [])
    with contextlib.closing(talk):
        talk.until(lambda: talk.tracing)
        told = [one for one in agent.told(2) if one["pid"] != front["pid"]]
        is_nobody(told[0], agent)
    agent.process.terminate()
    assert agent.process.wait(PATIENCE) == 0
    assert not (tmp_path / "agent").exists()


def test_what_an_agent_before_us_puts_into_the_folder_of_spools_leads_nowhere(tmp_path: Path) -> None:
    """It is nobody, whose folder that is; the next agent comes as root, and owns and empties nothing else."""
    treasure, folder, names = tmp_path / "treasure", tmp_path / "spools", [digit * 32 for digit in "01234"]
    treasure.mkdir()
    for name in ("one", "two", "three"):
        (treasure / name).write_text(name)
    folder.mkdir()
    link, file, fifo, own, sound = (folder / name for name in names)
    link.symlink_to(treasure)
    file.write_text("nobody's")
    os.mkfifo(fifo)
    own.mkdir()
    (own / "session").symlink_to(treasure / "one")
    os.link(treasure / "two", own / "00000001.seg")
    (own / "state").write_text("its own")
    spool = begin(str(folder), b"t" * 16, [], 1 << 20, 1 << 20)
    spool.run()
    spool.stop()
    spool.close()
    os.rename(spool.path, sound)
    (sound / "session.new").symlink_to(treasure / "three")
    confinement._give(str(folder), STRANGER)
    assert {path.stat().st_uid for path in (treasure, *treasure.iterdir())} == {0}
    assert {(path / "state").stat().st_uid for path in (own, sound)} == {STRANGER.uid}
    assert folder.stat().st_uid == 0, "there is more in it than spools"
    found = list(recover(str(folder), 1 << 20, 1 << 20))
    assert [one.spool is not None for one in found] == [False, False, True]
    for one in found:
        if one.spool is not None:
            one.spool.close()
    assert "not a directory" in found[0].wrong
    assert "session: it is no regular file" in found[1].wrong
    assert {path.name: path.read_text() for path in treasure.iterdir()} == dict(
        zip(*[("one", "two", "three")] * 2, strict=True)
    )
    assert not (sound / "session.new").exists()
    assert file.read_text() == "nobody's"


def test_a_file_with_the_name_of_a_spool_is_none(attacked: Any, tmp_path: Path, port: int) -> None:
    """An agent goes on beside it."""
    folder = tmp_path / "spool"
    folder.mkdir()
    (folder / ("a" * 32)).write_text("nobody's")
    agent = attacked("--to", f"tcp:127.0.0.1:{port}", PROBE, "-p", str(os.getpid()), "--spool", str(folder))
    [told] = agent.told(1)
    is_nobody(told, agent)
    agent.process.kill()
    assert (folder / ("a" * 32)).read_text() == "nobody's"
