"""A world of one scenario: a collector, agents, a network that fails, disks that fail.

Each process is forked from this one, so that it starts at once and may be killed like any other; it runs the
command itself (`kwire collect`, `kwire agent`). `Kinds` says what the world is made of: events are the
kernel's own or those of a tracer that makes numbered ones; disks are file systems of their own or folders
whose calls fail; a network is a link between two namespaces or a proxy. What processes print goes to files.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib
import mmap
import os
import pkgutil
import random
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import fault_source
from fault_judge import Case, Life, ProcessReport, look_into
from fault_links import Link, enter
from fault_mounts import LoopDisk
from proxies import TcpProxy, UdpProxy

import kwire
from kwire.cli import main
from kwire.collector.checkpoint import Checkpoint, Contents
from kwire.collector.stored_session import StoredSession
from kwire.errors import KwireError
from kwire.wire import cbor

PATIENCE = 120.0
"""Seconds after which something that should have happened has not."""

QUICK = ["--set", "keepalive=0.3"]
"""Sessions that notice a silent peer in a second: over datagrams nothing else tells of one that is gone."""

MEMORY = 48 << 20
"""Bytes that a collector may have more after a scenario than before, an agent at any time more than it was
told to take: windows, buffers, modules.
"""

DESCRIPTORS, SOCKETS = 96, 16
"""Descriptors that an agent has at most, with programs, maps and links; how many of them are sockets."""

ERROR, DELAY, GIVEN, FULL = range(4)  # words of a disk's page: see disk.c


def preload() -> None:
    """Import what children need, once."""
    for module in pkgutil.walk_packages(kwire.__path__, "kwire."):
        if module.name not in ("kwire.__main__", "kwire._walk"):  # which are no modules
            importlib.import_module(module.name)


class StuckError(Exception):
    """Something did not happen in time."""


class Remembered(NamedTuple):
    """What a checkpoint says."""

    name: str
    stem: str
    """Of the path of its capture; empty where there is none yet."""
    done: bool
    """All its sessions have ended."""
    proven: bool
    """Their sources said what they produced, so its capture has statistics when it has its ending."""
    ended: bool
    """Its capture has its ending, and no collector looks at it any more."""
    inode: int
    """Of the file that is looked at; 0 where none is."""

    def has(self, name: str) -> bool:
        """Whether a file of this name belongs to its capture."""
        return bool(self.stem) and name.startswith((f"{self.stem}.pc", f"{self.stem}-0"))


class Kinds(NamedTuple):
    """What a world is made of."""

    transport: str = "unix"
    """"unix", "tcp", "tls" or "udp"."""
    network: str = "proxy"
    """"proxy", or "link": two namespaces; nothing of either for "unix"."""
    disks: str = "calls"
    """"calls": they fail (disk.c); "mounts": loop-mounted file systems."""
    events: str = "made"
    """"made" by a tracer without a kernel; "kernel": system calls of a process."""
    place: str = "folder"
    """"folder" of captures, "merge" (one file) or "rotate"."""
    sync: bool = False
    family: int = 4
    """Of addresses."""

    @property
    def has(self) -> set[str]:
        """What faults may ask for."""
        networked = self.transport != "unix"
        has = {self.disks, self.events} | ({self.network} if networked else set())
        has |= {"sync"} if self.sync else set()
        return has | ({"datagrams" if self.transport == "udp" else "stream"} if networked else set())

    @property
    def options(self) -> list[str]:
        """Of the collector."""
        return ["--sync"] if self.sync else []


class Process:
    """A forked process."""

    def __init__(self, name: str, folder: Path, job: Callable[[], int]) -> None:
        self.name = name
        self.status: int | None = None
        self._out, self._err = folder / f"{name}.out", folder / f"{name}.err"
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            self._be(job)

    def _be(self, job: Callable[[], int]) -> None:
        status = 70
        try:
            os.setsid()
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(
                    number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
                )
            for path, descriptor in ((self._out, 1), (self._err, 2)):
                made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                os.dup2(made, descriptor)
                os.close(made)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            status = job()
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 1
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    @property
    def alive(self) -> bool:
        self._look(os.WNOHANG)
        return self.status is None

    def _look(self, how: int) -> None:
        if self.status is None:
            pid, status = os.waitpid(self.pid, how)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)

    def signal(self, number: int) -> None:
        if self.alive:
            os.kill(self.pid, number)

    def suspend(self) -> None:
        """SIGSTOP, and wait until it has come."""
        self.signal(signal.SIGSTOP)
        while self.alive and b") T" not in Path(f"/proc/{self.pid}/stat").read_bytes():
            time.sleep(0.001)

    def kill(self) -> None:
        """kill -9, and wait for the end."""
        self.signal(signal.SIGKILL)
        self._look(0)

    def wait(self, seconds: float = PATIENCE, meanwhile: Callable[[], None] = lambda: None) -> int:
        """Its exit status; a process that does not end in time is killed, and that is an error."""
        end = time.monotonic() + seconds
        while self.alive:
            meanwhile()
            if time.monotonic() > end:
                self.kill()
                raise StuckError(f"{self.name} does not end; it said: {self.said[-400:]}")
            time.sleep(0.005)
        assert self.status is not None
        return self.status

    @property
    def said(self) -> str:
        return self._err.read_text(errors="replace") if self._err.exists() else ""

    @property
    def told(self) -> ProcessReport:
        out = self._out.read_text(errors="replace") if self._out.exists() else ""
        return ProcessReport.of(self.name, self.status, out, self.said)

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def sockets(self) -> int:
        links = (os.readlink(entry.path) for entry in os.scandir(f"/proc/{self.pid}/fd"))
        return sum(link.startswith("socket:") for link in links)

    def memory(self) -> int:
        """Resident bytes."""
        return memory(self.pid)

    def most_memory(self) -> int:
        """Resident bytes at most, so far; 0 of one that has ended."""
        status = Path(f"/proc/{self.pid}/status").read_text().partition("VmHWM:")[2]
        return int(status.split()[0]) << 10 if status else 0


def memory(pid: int) -> int:
    """Resident bytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * mmap.PAGESIZE


class Disk:
    """A folder whose disk fails on demand, where `disk.c` is preloaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self._page = mmap.mmap(-1, mmap.PAGESIZE)
        self.words = memoryview(self._page).cast("Q")

    @property
    def failing(self) -> bool:
        """Whether it does not take what comes, now."""
        return bool(self.words[ERROR] or self.words[FULL])

    dead = False
    """It heals without a new mount."""

    def begin(self) -> None:
        """Called in a process: its files in the folder are meant from now on."""
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._page))
        faults = ctypes.CDLL(None).disk_faults
        faults.argtypes = (ctypes.c_char_p, ctypes.c_void_p)
        faults(str(self.folder).encode(), address)

    def fail(self, number: int = errno.EIO) -> None:
        self.words[ERROR] = number

    def fill(self) -> None:
        self.words[FULL] = 1

    def slow(self, seconds: float) -> None:
        self.words[DELAY] = int(seconds * 1e6)

    def heal(self) -> None:
        for word in (ERROR, DELAY, FULL):
            self.words[word] = 0

    def close(self) -> None:
        """Nothing is kept but memory."""


class World:
    """One scenario's. Everything random is drawn from `rng`. Raises NotHereError."""

    def __init__(self, folder: Path, rng: random.Random, kinds: Kinds = Kinds()) -> None:  # noqa: B008
        self.folder, self.rng, self.kinds = folder, rng, kinds
        folder.chmod(0o755)  # agents are nobody
        self.disks: dict[str, Disk | LoopDisk] = {
            name: LoopDisk(folder / name, size) if kinds.disks == "mounts" else Disk(folder / name)
            for name, size in (("captures", 64 << 20), ("spool", 8 << 20))
        }
        self.captures = folder / "captures"
        self.spool = folder / "spool"
        self.collectors: list[Process] = []
        self.agents: list[tuple[Process, fault_source.Counter, bool]] = []
        self.killed: set[Process] = set()
        self.stopped: set[Process] = set()
        """Collectors that were told to end, or could not begin where disk or network failed."""
        self.taken = self.doubtful = 0
        self._own_memory = memory(os.getpid())
        self._options: dict[Process, tuple[str, ...]] = {}  # of agents
        self._remembered = 0  # events taken away that the collector counts, if its checkpoints stay
        self._finished: set[int] = set()  # inodes of captures that had their ending once, or were cut
        self._cut: set[int] = set()  # of these, those whose rest the collector may not have counted yet
        self.moved = self.forgotten = False
        self.removed: set[str] = set()
        """Checkpoints of sessions that go on."""
        self.log: list[str] = []
        self._began = time.monotonic()
        kind = kinds.transport
        self.network: Network | None = None
        self.link: Link | None = None
        if kind == "unix":
            self.listen = self.address = f"unix:{folder}/socket"
        elif kinds.network == "link":
            self.link = Link(kinds.family)
            host = f"[{self.link.host}]" if kinds.family == 6 else self.link.host
            self.listen = self.address = f"{kind}:{host}:17800"
        else:
            port = _free_port(socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
            self.listen = f"{kind}:127.0.0.1:{port}"
            self.network = Network(folder, kind, port)
            self.address = f"{kind}:127.0.0.1:{self.network.port}"

    def note(self, text: str) -> None:
        """What is done to the world, for whoever reads of a failure."""
        self.log.append(f"{time.monotonic() - self._began:6.3f} {text}")

    # ------------------------------------------------------------------ the collector

    @property
    def collector(self) -> Process:
        return self.collectors[-1]

    def collect(self) -> None:
        """Have a collector that listens; one that finds its disk failing may end at once, in order."""
        if self.collectors and self.collector.alive:
            return
        arguments = ["--listen", self.listen, *self._place(), "--json", *self.kinds.options, *QUICK]
        arguments += ["--insecure"] if self.link and self.kinds.transport != "tls" else []
        failing = self.disks["captures"].failing or (self.link and self.link.nowhere)

        def job() -> int:
            if self.link:
                enter(self.link.near)
            _certified(self.link.host if self.link else "collector")
            self.disks["captures"].begin()
            return fault_source.collect(arguments)

        process = Process(f"collector{len(self.collectors)}", self.folder, job)
        self.collectors.append(process)
        self.until(lambda: "collecting at" in process.said or not process.alive, "the collector listens")
        if not process.alive:
            if not failing or process.status != 1:
                raise StuckError(f"the collector ends with {process.status}: {process.said[-400:]}")
            self.note("the collector does not begin: disk or network fail")
            self.stopped.add(process)
            return
        self.note("the collector listens")
        self._measured = process.descriptors(), process.memory()

    def _place(self) -> list[str]:
        if self.kinds.place == "merge":
            return ["--merge", str(self.captures / "all.pcapng")]
        rotate = ["--rotate", "256k"] if self.kinds.place == "rotate" else []
        return ["-w", str(self.captures), *rotate]

    def kill_collector(self) -> None:
        self.note("kill -9 of the collector")
        if self.collector.alive:
            self.killed.add(self.collector)
        self.collector.kill()
        self._see_what_it_forgot()

    def stop_collector(self, number: int = signal.SIGINT) -> int:
        self.stopped.add(self.collector)
        self.collector.signal(signal.SIGCONT)
        self.collector.signal(number)
        status = self.collector.wait()
        self._see_what_it_forgot()
        return status

    def remove_sessions(self) -> None:
        """What the collector knows of its sessions; what it has open it puts back, if it lives so long."""
        self.removed |= {each.name for each in self._checkpoints() if not each.done}
        shutil.rmtree(self.captures / ".sessions", ignore_errors=True)
        if not self.collector.alive:
            self._see_what_it_forgot()

    def _see_what_it_forgot(self) -> None:
        self.forgotten |= not self.removed <= {each.name for each in self._checkpoints()}

    def _checkpoints(self) -> Iterator[Remembered]:
        """What each checkpoint says."""
        for path in (self.captures / ".sessions").glob("*[!w]"):  # .new is none yet
            checkpoint = Checkpoint(str(path), lambda: Contents({}))
            with contextlib.suppress(KwireError, KeyError):
                values = checkpoint.load()
                front = cbor.loads_map(values[b"front"])
                stem = str(front["path"]).removesuffix(".pcapng")
                its = StoredSession.found(values, whole=False).values()
                done, proven = all(one.done for one in its), all(one.produced for one in its)
                head = values.get(b"file head", b"")
                ended = bool(stem) and not head and front.get("begun") is not False
                inode = int.from_bytes(head[-8:], sys.byteorder)
                yield Remembered(path.name, stem, done, proven, ended, inode)
            checkpoint.close()

    @property
    def _collector_died(self) -> bool:
        return not (self.collector.alive or self.collector in self.killed | self.stopped)

    # ------------------------------------------------------------------ agents

    def agent(
        self,
        *more: str,
        spool: bool = False,
        rate: float = 20_000,
        seconds: float = 0.5,
        probes: int = 1,
        name: str = "web1",
    ) -> Process:
        """Start an agent that records so long. Of the kernel's events a `rate` of 0 is as fast as it goes."""
        life = len(self.agents) + 1
        arguments = ["--to", self.address, "--json", "--name", name, *QUICK, *more]
        arguments += ["--spool", str(self.spool)] if spool else []
        arguments += ["--insecure"] if self.link and self.kinds.transport != "tls" else []
        counter: fault_source.Counter
        if self.kinds.events == "kernel":
            counter = fault_source.Calls(self.folder / f"calls{life}")
            arguments += counter.arguments(life, probes, rate, seconds)
        else:
            counter = fault_source.Counter(probes)
            arguments += ["fault:probe", *(["-d", f"{seconds:g}"] if seconds else [])]

        def job() -> int:
            if self.link:
                enter(self.link.far)
            _certified("agent")
            self.disks["spool"].begin()
            if self.kinds.events == "kernel":
                return fault_source.kernel_agent(arguments)
            return fault_source.agent(arguments, probes, rate, life, counter)

        process = Process(f"agent{life}", self.folder, job)
        self.agents.append((process, counter, spool))
        self._options[process] = more
        self.note(f"agent {life} begins")
        return process

    def another_agent(self) -> None:
        """One that delivers what those before it left in the spool, beside its own."""
        self.agent("--spool-size", "64M", spool=True, seconds=0.3)

    def kill_agent(self) -> None:
        process = self.agents[-1][0]
        self.note(f"kill -9 of {process.name}")
        if process.alive:
            self.killed.add(process)
        process.kill()

    def stop_agent(self) -> None:
        """SIGTERM, when what it traces makes no more events: so their number is known."""
        process, counter, _ = self.agents[-1]
        self.note(f"SIGTERM to {process.name}")
        counter.halt(lambda: process.alive)
        process.signal(signal.SIGTERM)

    # ------------------------------------------------------------------ time, and the end

    def some(self, low: float, high: float) -> float:
        """So many seconds."""
        return self.rng.uniform(low, high)

    def until(self, condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise StuckError(f"it does not happen: {what}")
            time.sleep(0.005)

    def plug(self, name: str) -> None:
        """A disk that is dead is mounted anew. Nobody may have files open there."""
        disk = self.disks[name]
        if isinstance(disk, LoopDisk) and disk.dead:
            self.note(f"disk of {name}: is checked and mounted anew")
            disk.plug()

    def case(self) -> Case:
        """Let everybody end, and say what there is."""
        for disk in self.disks.values():
            disk.heal()
        if self.network:
            self.network.do("heal")
        if self.link:
            self.link.heal()
        if self._collector_died:
            raise StuckError(f"the collector died: {self.collector.status}: {self.collector.said[-600:]}")
        if self.disks["captures"].dead:
            self.stop_collector(signal.SIGTERM)
            self.plug("captures")
        self.collect()
        for process, _, _ in self.agents:
            process.wait(meanwhile=self._all_live)
        grown = self._grown()
        self.stop_collector()
        verified = self._verify()
        lives = [
            Life(number, counter.total, process.told, process in self.killed, spool)
            for number, (process, counter, spool) in enumerate(self.agents, 1)
        ]
        told = [process.told for process in self.collectors]
        if self.forgotten:
            self.taken, self.doubtful = self.taken + self._remembered, self.doubtful + self._remembered
        return Case(
            self.captures, lives, told, verified, self.taken, self.moved, grown, self.doubtful, self.forgotten
        )

    def _all_live(self) -> None:
        if not self.collector.alive:
            raise StuckError(f"the collector died: {self.collector.status}: {self.collector.said[-600:]}")
        for process, _, _ in self.agents:
            with contextlib.suppress(OSError):
                if process.descriptors() > DESCRIPTORS or process.sockets() > SOCKETS:
                    have = f"{process.descriptors()} descriptors, {process.sockets()} sockets"
                    raise StuckError(f"{process.name} has {have}")
                grown = process.most_memory() - self._own_memory
                told = dict(pairwise(self._options[process])).get("--memory", "64M")
                if grown > (int(told.removesuffix("M")) << 20) + MEMORY:
                    raise StuckError(f"{process.name} has {grown >> 20} MB more memory than this process")

    def _grown(self) -> tuple[str, ...]:
        """What the collector has more than when it began, now that all agents have ended."""
        most = self._measured[0] + 4  # modules being read; peers that are only lingering

        def now() -> int:
            return self.collector.descriptors() if self.collector.alive else 0

        end = time.monotonic() + 5
        while now() > most and time.monotonic() < end:
            time.sleep(0.05)
        grown = []
        if now() > most:
            grown.append(f"{now()} descriptors, {self._measured[0]} in the beginning")
        if self.collector.alive and self.collector.memory() > self._measured[1] + MEMORY:
            grown.append(f"{self.collector.memory()} bytes of memory, {self._measured[1]} in the beginning")
        return tuple(grown)

    def _verify(self) -> ProcessReport:
        paths = sorted(map(str, self.captures.glob("*.pcapng")))
        process = Process("verify", self.folder, lambda: main.main(["verify", "--json", *paths]))
        process.wait()
        return process.told

    def take_away(self, what: str, harm: Callable[[Path], object]) -> None:
        """Do harm to captures. What is gone of one that is finished nobody will ever count.

        One is finished where its checkpoint says so. One that has its ending, though the checkpoint has not
        heard of it, may have been looked at for the last time, or not yet, or is by the next collector: then
        nobody outside can tell. One without an ending is looked at again, even if its sessions have ended.
        """
        self.collector.suspend()
        remembered = list(self._checkpoints())
        unsure = self.kinds.place == "rotate" or not self.collector.alive or bool(self.removed)
        for path in sorted(self.captures.glob("*.pcapng")):
            try:
                before, number, size = look_into([path]), path.stat().st_ino, path.stat().st_size
            except OSError:  # the disk does not let us
                continue
            ended = any(each.ended and each.has(path.name) for each in remembered)
            looked_at = [each for each in remembered if each.inode == number]
            unseen = any(each.done and not each.proven for each in looked_at)  # an ending without statistics
            if ended or unseen or not (before.open or before.bare):
                self._finished.add(number)
            doubtful = number in self._cut or bool(looked_at) or (unsure and not ended)
            self.note(f"{path.name} {what}, {'' if number in self._finished else 'not '}finished")
            with contextlib.suppress(OSError):  # the disk does not let us
                harm(path)
            if path.exists() and path.stat().st_size < size and number not in self._finished:
                self._cut.add(number)  # another capture takes its place, and what is left of it is stored
            after = look_into([path] if path.exists() else [])
            taken = len(before.numbers) - len(after.numbers) + before.all_lost - after.all_lost
            if number in self._finished:
                self.taken += taken
                self.doubtful += taken if doubtful else 0
            else:
                self._remembered += taken
        self._finished |= self._cut
        self.collector.signal(signal.SIGCONT)

    def stored(self) -> int:
        """Events that lie in captures now."""
        return len(look_into(self.captures.glob("*.pcapng")).numbers)

    def close(self) -> None:
        """End what still runs."""
        for process in [*self.collectors, *(agent for agent, _, _ in self.agents)]:
            process.kill()
        if self.network:
            self.network.close()
        if self.link:
            self.link.close()
        for _, counter, _ in self.agents:
            counter.close()
        for disk in self.disks.values():
            disk.close()


class Network:
    """A proxy in a process of its own, told by words what to do."""

    def __init__(self, folder: Path, kind: str, target: int) -> None:
        self._kind = kind
        self._words, theirs = socket.socketpair()
        self._process = Process("network", folder, lambda: self._serve(theirs, target))
        theirs.close()
        self.port = int(self._words.recv(16))

    def do(self, *words: str) -> None:
        """`stall`, `cut`, `reset`, `refuse`, `serve`, `delay SECONDS`, `lose SHARE`, `heal`."""
        self._words.sendall(" ".join(words).encode())
        self._words.recv(16)

    def close(self) -> None:
        self._words.close()
        self._process.kill()

    def _serve(self, words: socket.socket, target: int) -> int:
        self._words.close()
        proxy = UdpProxy(target) if self._kind == "udp" else TcpProxy(target)
        words.sendall(str(proxy.port).encode())
        while told := words.recv(64):
            word, *rest = told.decode().split()
            self._obey(proxy, word, *map(float, rest))
            words.sendall(b"done")
        return 0

    @staticmethod
    def _obey(proxy: TcpProxy | UdpProxy, word: str, value: float = 0.0) -> None:
        if word == "delay":
            proxy.delay = value
        elif isinstance(proxy, UdpProxy):
            if word in ("stall", "refuse"):
                proxy.stalled = True
            elif word == "lose":
                proxy.loss = value
            elif word in ("cut", "reset"):
                proxy.rebind()
            elif word in ("heal", "serve"):
                proxy.stalled, proxy.loss, proxy.delay = False, 0.0, 0.0
        elif word == "heal":
            proxy.delay = 0.0
            proxy.go_on()
            proxy.serve()
        elif word != "lose":
            getattr(proxy, word)()


def _free_port(kind: int) -> int:
    with socket.socket(socket.AF_INET, kind) as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


def _certified(role: str) -> None:
    """Have the certificates of this role, where there are any."""
    if made := os.environ.get("KWIRE_FAULT_CERTS"):
        os.environ["KWIRE_TLS"] = os.path.join(made, role)
