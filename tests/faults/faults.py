"""Seeded scenarios of agents and collectors on failing networks and disks, each judged by what it leaves.

    faults.py --count 300 --jobs 8        a run, as the tests do it
    faults.py --first 17 --count 1 -v     one scenario again, with what is done and what everybody says

Each seed draws what its world is made of (`Kinds`), how the agent keeps its events, and faults (`FAULTS`)
that come while it records, one after the other or two at once. The laws that are judged stand in
`fault_judge`. This script compiles what it needs (disk.c, caller.c) and preloads the failing disk for itself.
What the machine does not allow (mounts, namespaces, the kernel's events) is said, and other kinds of worlds
are drawn.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import functools
import heapq
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import fault_mounts
from fault_judge import judge
from fault_links import ADDRESSES, Link
from fault_mounts import LoopDisk
from fault_source import PROBES
from fault_world import Disk, Kinds, StuckError, World, preload

from kwire.transport import certs

HERE = Path(__file__).parent

Steps = Iterator[float]
"""What a fault does bit by bit: seconds to wait each time before it goes on."""


class Fault(NamedTuple):
    """Something that goes wrong. `needs`: what the world must have (`Kinds.has`, "spool")."""

    name: str
    happens: Callable[[World], Steps | None]
    needs: frozenset[str]


FAULTS: list[Fault] = []

Happens = Callable[[World], Steps | None]


def fault(*needs: str) -> Callable[[Happens], Happens]:
    """Add a fault: a function of the world. What it has begun ends with `World.case`."""

    def add(happens: Happens) -> Happens:
        FAULTS.append(Fault(happens.__name__, happens, frozenset(needs)))
        return happens

    return add


def happen(world: World, faults: list[Fault], seed: int) -> None:
    """Let them happen at once: their steps come in the order of their times, each with its own chance."""
    waiting: list[tuple[float, int, Fault, random.Random, Steps]] = []
    for place, each in enumerate(faults):
        chance = random.Random(f"{seed} {each.name}")
        waiting.append((time.monotonic(), place, each, chance, iter(())))
    heapq.heapify(waiting)
    begun: set[int] = set()
    while waiting:
        when, place, each, chance, steps = heapq.heappop(waiting)
        time.sleep(max(0.0, when - time.monotonic()))
        world.rng = chance
        if place not in begun:
            begun.add(place)
            steps = each.happens(world) or iter(())
        with contextlib.suppress(StopIteration):
            pause = next(steps)
            heapq.heappush(waiting, (time.monotonic() + pause, place, each, chance, steps))


# ---------------------------------------------------------------------- processes


@fault()
def collector_killed(world: World) -> Steps:
    world.kill_collector()
    yield world.some(0, 0.3)
    world.collect()


@fault()
def collector_killed_again_and_again(world: World) -> Steps:
    for _ in range(3):
        world.kill_collector()
        world.collect()
        yield world.some(0, 0.1)
    world.note("it stays")


@fault()
def collector_restarted(world: World) -> Steps:
    world.note("SIGTERM to the collector")
    world.stop_collector(signal.SIGTERM)
    yield world.some(0, 0.2)
    world.collect()


@fault()
def collector_suspended(world: World) -> Steps:
    world.note("SIGSTOP of the collector")
    world.collector.signal(signal.SIGSTOP)
    yield world.some(0.05, 0.4)
    world.note("it goes on")
    world.collector.signal(signal.SIGCONT)


@fault()
def agent_stopped(world: World) -> None:
    world.stop_agent()


@fault("spool")
def agent_killed_and_another_comes(world: World) -> None:
    world.kill_agent()
    world.another_agent()


@fault()
def agent_killed(world: World) -> None:
    world.kill_agent()


@fault()
def agent_suspended(world: World) -> Steps:
    """Its rings fill up meanwhile."""
    process = world.agents[-1][0]
    world.note(f"SIGSTOP of {process.name}")
    process.signal(signal.SIGSTOP)
    yield world.some(0.05, 0.4)
    world.note("it goes on")
    process.signal(signal.SIGCONT)


# ---------------------------------------------------------------------- networks


@fault("proxy", "stream")
def connection_cut(world: World) -> None:
    _network(world, "cut")


@fault("proxy", "stream")
def connection_reset(world: World) -> None:
    _network(world, "reset")


@fault("proxy", "stream")
def connection_cut_often(world: World) -> Steps:
    for _ in range(5):
        _network(world, world.rng.choice(("cut", "reset")))
        yield world.some(0.01, 0.08)


@fault("proxy")
def network_stalls(world: World) -> Steps:
    _network(world, "stall")
    yield world.some(0.1, 0.5)
    _network(world, "heal")


@fault("proxy", "stream")
def network_refuses(world: World) -> Steps:
    _network(world, "refuse")
    yield world.some(0.05, 0.3)
    _network(world, "serve")


@fault("proxy")
def network_is_slow(world: World) -> None:
    _network(world, "delay", f"{world.rng.uniform(0.005, 0.05):.3f}")


@fault("proxy", "datagrams")
def datagrams_are_lost(world: World) -> Steps:
    _network(world, "lose", f"{world.rng.uniform(0.01, 0.1):.3f}")
    yield world.some(0.1, 0.3)
    _network(world, "heal")


def _network(world: World, *words: str) -> None:
    assert world.network is not None
    world.note(f"network: {' '.join(words)}")
    world.network.do(*words)


@fault("link")
def link_goes_down(world: World) -> Steps:
    yield from _linked(world, "goes down", lambda link: link.up(False))


@fault("link")
def link_flaps(world: World) -> Steps:
    for _ in range(3):
        yield from _linked(world, "goes down", lambda link: link.up(False), 0.1)
        yield world.some(0, 0.1)


@fault("link")
def packets_vanish(world: World) -> Steps:
    """All of them, of one way or both."""
    ways = world.rng.choice((("in",), ("out",), ("in", "out")))
    yield from _linked(world, f"drops all that goes {ways}", lambda link: _drop(link, ways, "drop"))


@fault("link")
def packets_are_lost(world: World) -> Steps:
    """Some of them, both ways."""
    rule = f"numgen random mod 100 < {world.rng.choice((2, 10, 30))} drop"
    yield from _linked(world, f"loses: {rule}", lambda link: _drop(link, ("in", "out"), rule))


@fault("link")
def large_packets_vanish(world: World) -> Steps:
    """A path with a smaller MTU than its ends know, and nobody who tells them."""
    rule = "meta length > 900 drop"
    yield from _linked(world, "drops what is large", lambda link: _drop(link, ("in", "out"), rule))


@fault("link", "stream")
def link_resets(world: World) -> Steps:
    rule = "meta l4proto tcp reject with tcp reset"
    yield from _linked(world, "answers with RST", lambda link: _drop(link, ("in",), rule))


@fault("link")
def link_is_narrow(world: World) -> Steps:
    megabits = world.rng.choice((1, 5, 20))
    yield from _linked(world, f"has {megabits} Mbit/s", lambda link: link.narrow(megabits))


@fault("link")
def address_vanishes(world: World) -> Steps:
    yield from _linked(world, "loses the collector's address", lambda link: link.forget_address())


@fault("link")
def agent_moves(world: World) -> None:
    """To another address, and stays there."""
    assert world.link is not None
    world.note("link: the agent's address changes")
    world.link.move()


def _drop(link: Link, ways: tuple[str, ...], rule: str) -> None:
    for way in ways:
        link.drop(way, rule)


def _linked(world: World, what: str, harm: Callable[[Link], None], most: float = 0.5) -> Steps:
    assert world.link is not None
    world.note(f"link: {what}")
    harm(world.link)
    yield world.some(0.02, most)
    world.note("link: heals")
    world.link.heal()


# ---------------------------------------------------------------------- disks


@fault()
def captures_full(world: World) -> Steps:
    return _disk(world, "captures", lambda disk: disk.fill(), "full")


@fault("calls")
def captures_fail(world: World) -> Steps:
    return _disk(world, "captures", lambda disk: disk.fail(errno.EIO), "EIO")


@fault("calls")
def captures_read_only(world: World) -> Steps:
    return _disk(world, "captures", lambda disk: disk.fail(errno.EROFS), "EROFS")


@fault("calls")
def captures_slow(world: World) -> Steps:
    return _disk(world, "captures", lambda disk: disk.slow(0.01), "slow")


@fault()
def capture_deleted(world: World) -> None:
    world.take_away("is deleted", lambda path: path.unlink())


@fault()
def captures_deleted_between_collectors(world: World) -> Steps:
    world.note("SIGTERM to the collector")
    world.stop_collector(signal.SIGTERM)
    world.take_away("is deleted", lambda path: path.unlink())
    yield world.some(0, 0.2)
    world.collect()


@fault()
def capture_cut(world: World) -> None:
    size = world.rng.choice((0, 0, 100, 5000, 40_000))
    world.take_away(
        f"is cut to {size} bytes",
        lambda path: os.truncate(path, size) if path.stat().st_size > size else None,
    )


@fault()
def capture_moved(world: World) -> None:
    """Only what the collector writes now, as the documents say: after a restart sessions must be back."""
    sizes = {path: path.stat().st_size for path in world.captures.glob("*.pcapng") if path.exists()}
    deadline = time.monotonic() + 2
    while not (
        written := [path for path, size in sizes.items() if path.exists() and path.stat().st_size != size]
    ):
        if time.monotonic() > deadline:
            world.note("nobody writes a capture: none is moved")
            return
        time.sleep(0.01)
    world.moved = True
    for number, path in enumerate(written):
        world.note(f"{path.name} is moved")
        with contextlib.suppress(OSError):  # the disk does not let us
            path.rename(world.captures / f"archive-{number}-{time.monotonic_ns()}.pcapng")


@fault()
def sessions_removed(world: World) -> None:
    world.note("the collector's .sessions is removed")
    world.remove_sessions()


@fault("spool")
def spool_full(world: World) -> Steps:
    return _disk(world, "spool", lambda disk: disk.fill(), "full")


@fault("spool", "calls")
def spool_fails(world: World) -> Steps:
    return _disk(world, "spool", lambda disk: disk.fail(errno.EIO), "EIO")


@fault("spool")
def spool_removed(world: World) -> None:
    """What is open stays readable; what comes waits in memory."""
    world.note("the spool is removed")
    shutil.rmtree(world.spool, ignore_errors=True)


@fault("spool")
def spool_put_back(world: World) -> Steps:
    """A copy of what a killed agent has left is put in its place again when it has been delivered."""
    world.kill_agent()
    copy = world.folder / "copy"
    world.note("the spool is copied")
    with contextlib.suppress(OSError, shutil.Error):  # it was removed, or its disk fails
        ours = shutil.ignore_patterns("lost+found", "filler*")
        shutil.copytree(world.spool, copy, dirs_exist_ok=True, ignore=ours)
    world.another_agent()
    yield world.some(0.2, 0.5)
    world.kill_agent()
    world.note("the copy is put back")
    with contextlib.suppress(OSError, shutil.Error):
        shutil.copytree(copy, world.spool, dirs_exist_ok=True)
    world.another_agent()


@fault("spool")
def spool_segment_gone(world: World) -> None:
    _segment(world, "is gone", lambda path: path.unlink())


@fault("spool")
def spool_segment_cut(world: World) -> None:
    _segment(world, "is cut", lambda path: os.truncate(path, world.rng.randrange(path.stat().st_size)))


@fault("spool")
def spool_segment_changed(world: World) -> None:
    def change(path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(world.rng.randrange(path.stat().st_size))
            file.write(b"\xa5" * world.rng.choice((1, 10, 1000)))

    _segment(world, "is changed", change)


@fault("spool")
def spool_harmed_between_agents(world: World) -> None:
    world.kill_agent()
    world.rng.choice((spool_segment_gone, spool_segment_cut, spool_segment_changed))(world)
    world.another_agent()


def _segment(world: World, what: str, harm: Callable[[Path], None]) -> None:
    """Harm a file of the spool, where there is one: it may have been delivered just now."""
    folders = os.walk(world.spool)  # which does not mind those that vanish
    files = sorted(Path(folder, name) for folder, _, names in folders for name in names if name[0] == "0")
    if files:
        path = world.rng.choice(files)
        world.note(f"{path.name} of the spool {what}")
        with contextlib.suppress(OSError, ValueError):  # it is gone, empty, or the disk does not let us
            harm(path)


@fault("mounts")
def captures_without_inodes(world: World) -> Steps:
    return _disk(world, "captures", lambda disk: _mounted(disk).exhaust(), "no inode is left")


@fault("mounts")
def captures_immutable(world: World) -> Steps:
    return _disk(world, "captures", lambda disk: _mounted(disk).forbid(), "EPERM")


@fault("mounts")
def captures_frozen(world: World) -> None:
    _freeze(world, "captures")


@fault("mounts")
def captures_remounted_read_only(world: World) -> Steps:
    """While no collector is there; one is tried, and finds it so."""
    world.note("SIGTERM to the collector, its disk is remounted read-only")
    world.stop_collector(signal.SIGTERM)
    world.plug("captures")
    _mounted(world.disks["captures"]).read_only(True)
    world.collect()
    yield world.some(0, 0.2)
    world.stop_collector(signal.SIGTERM)
    world.note("its disk is remounted writable")
    world.plug("captures")
    _mounted(world.disks["captures"]).read_only(False)
    world.collect()


@fault("mounts")
def captures_unplugged(world: World) -> Steps:
    """A disk that is gone (EIO), with all that was written on it, and comes again with another collector."""
    return _dead(world, "is unplugged", lambda disk: disk.unplug(flushed=True))


@fault("mounts", "sync")
def captures_lose_power(world: World) -> Steps:
    """What was not synced is gone; what was acknowledged was."""
    return _dead(world, "loses its power", lambda disk: disk.unplug(flushed=False))


@fault("mounts", "sync")
def captures_have_errors(world: World) -> Steps:
    """ext4 finds an error in itself and becomes read-only, for those too who have files open."""
    return _dead(world, "has an error", lambda disk: disk.fail())


@fault("spool", "mounts")
def spool_without_inodes(world: World) -> Steps:
    return _disk(world, "spool", lambda disk: _mounted(disk).exhaust(), "no inode is left")


@fault("spool", "mounts")
def spool_immutable(world: World) -> Steps:
    return _disk(world, "spool", lambda disk: _mounted(disk).forbid(), "EPERM")


@fault("spool", "mounts")
def spool_frozen(world: World) -> None:
    _freeze(world, "spool")


@fault("spool", "mounts")
def spool_dies(world: World) -> None:
    """In one of three ways, for good: the recording goes on in memory."""
    how, harm = world.rng.choice(DEATHS)
    world.note(f"disk of spool: {how}")
    harm(_mounted(world.disks["spool"]))


@fault("spool", "mounts")
def spool_dies_and_another_agent_comes(world: World) -> Steps:
    """The disk is mounted anew, and what was on it is delivered."""
    spool_dies(world)
    yield world.some(0, 0.2)
    for process, _, _ in world.agents:  # all of them have files open there
        if process.alive:
            world.killed.add(process)
            world.note(f"kill -9 of {process.name}")
        process.kill()
    world.plug("spool")
    world.another_agent()


DEATHS: list[tuple[str, Callable[[LoopDisk], None]]] = [
    ("is unplugged", lambda disk: disk.unplug(flushed=True)),
    ("loses its power", lambda disk: disk.unplug(flushed=False)),
    ("has an error", lambda disk: disk.fail()),
]


def _dead(world: World, what: str, harm: Callable[[LoopDisk], None]) -> Steps:
    world.note(f"disk of captures: {what}")
    harm(_mounted(world.disks["captures"]))
    yield world.some(0, 0.3)
    world.note("SIGTERM to the collector")
    world.stop_collector(signal.SIGTERM)
    world.plug("captures")
    world.collect()


def _freeze(world: World, name: str) -> None:
    """At one go: a process that writes meanwhile cannot be killed."""
    seconds = world.some(0.02, 0.3)
    world.note(f"disk of {name}: frozen for {seconds:.2f} s")
    disk = _mounted(world.disks[name])
    if not disk.dead:
        disk.freeze(seconds)


def _mounted(disk: Disk | LoopDisk) -> LoopDisk:
    assert isinstance(disk, LoopDisk)
    return disk


def _disk(world: World, name: str, harm: Callable[[Any], None], what: str) -> Steps:
    world.note(f"disk of {name}: {what}")
    harm(world.disks[name])
    yield world.some(0.05, 0.4)
    world.note(f"disk of {name}: heals")
    world.disks[name].heal()


# ---------------------------------------------------------------------- scenarios


def draw(rng: random.Random, here: set[str], only: set[str]) -> Kinds:
    """What the world is made of. `here`: the rarer kinds this machine has; `only`: those that must be."""

    def chance(share: float, kind: str, else_: str) -> str:
        drawn = rng.random() < share or kind in only
        return kind if drawn and kind in here else else_

    transport = rng.choice(("unix", "tcp", "tcp", "tls", "udp")[("link" in only) :])
    return Kinds(
        transport,
        chance(0.45, "link", "proxy") if transport != "unix" else "",
        chance(0.35, "mounts", "calls"),
        chance(0.2, "kernel", "made"),
        rng.choice(("folder", "folder", "folder", "merge", "rotate")),
        rng.random() < 0.25,
        rng.choice((4, 6)),
    )


class Wanted(NamedTuple):
    """What is to be played."""

    first: int
    number: int
    jobs: int
    seconds: float
    verbose: bool
    calm: bool
    """Without faults."""
    only: frozenset[str]
    """Kinds of worlds."""
    faults: tuple[str, ...]
    """These, and no others, where the world has what they need; empty: as drawn."""


def play(seed: int, base: Path, here: set[str], wanted: Wanted) -> list[str]:
    """One scenario; what is wrong."""
    rng = random.Random(seed)
    kinds = draw(rng, here, set(wanted.only))
    spool = rng.random() < 0.5
    has = kinds.has | ({"spool"} if spool else set())
    folder = Path(tempfile.mkdtemp(prefix=f"{seed}-", dir=base))
    if "mounts" in here:
        fault_mounts.apart()
    drawn = [each for each in FAULTS if each.needs <= has]
    faults = [] if wanted.calm else rng.sample(drawn, rng.choice((1, 2, 2, 3)))
    if wanted.faults:
        faults = [each for name in wanted.faults for each in drawn if each.name == name]
    pair = len(faults) > 1 and rng.random() < 0.6
    memory = rng.choice(("1M", "64M"))
    rate = rng.choice((2_000, 20_000, 60_000)) if kinds.transport != "udp" else rng.choice((500, 3_000))
    ring = []
    if kinds.events == "kernel" and rng.random() < 0.5:
        ring, rate = ["--buffer", "4096"], rng.choice((rate, 0))
    seconds, probes = rng.uniform(0.2, 0.6), rng.choice((1, 1, 3))
    two = rng.random() < 0.2
    wrong = []
    world = World(folder, rng, kinds)
    try:
        world.note(f"{kinds}, {'spool, ' if spool else ''}{rate} events/s, memory {memory} {ring}")
        if rng.random() < 0.8:
            world.collect()
        if two:
            world.agent("--memory", memory, spool=spool, rate=rate, seconds=seconds, name="web2")
        world.agent("--memory", memory, *ring, spool=spool, rate=rate, seconds=seconds, probes=probes)
        if not world.collectors:
            time.sleep(world.some(0, 0.3))
            world.collect()
        rest = list(faults)
        while rest:
            at_once = [rest.pop(0) for _ in range(2 if pair and len(rest) > 1 else 1)]
            world.rng = rng
            time.sleep(world.some(0, 0.25))
            happen(world, at_once, seed)
        case = world.case()
        wrong = judge(case)
        if wanted.verbose:
            for process in [*world.collectors, *(agent for agent, _, _ in world.agents)]:
                print(f"--- {process.name}: {process.status}\n{process.said}", process.told.summary)
    except StuckError as error:
        wrong = [str(error)]
    finally:
        world.close()
    if wrong or wanted.verbose:
        names = [each.name for each in faults]
        print(
            f"seed {seed}: {names}{', two at once' if pair else ''}",
            *world.log,
            *(f"  WRONG: {each}" for each in wrong),
            sep="\n  ",
            flush=True,
        )
    if not wrong:
        shutil.rmtree(folder, ignore_errors=True)
    return wrong


KINDS = ("mounts", "link", "kernel")
"""The rarer kinds of worlds."""


def possible() -> dict[str, str]:
    """The rarer kinds of worlds, each with what keeps this machine from having it ("": nothing)."""
    jobs = (_try_mounts, _try_link, _try_kernel)
    return {name: _tried(job) for name, job in zip(KINDS, jobs, strict=True)}


def _tried(job: Callable[[Path], None]) -> str:
    """Do it in a process of its own; why it cannot be done."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    if not (pid := os.fork()):
        with contextlib.suppress(BaseException), tempfile.TemporaryDirectory() as folder:
            try:
                job(Path(folder))
            except Exception as error:
                os.write(writer, str(error)[:1000].encode() or b"it fails")
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as told:
        said = told.read()
    os.waitpid(pid, 0)
    return said


def _try_mounts(folder: Path) -> None:
    fault_mounts.apart()
    LoopDisk(folder / "disk").close()


def _try_link(folder: Path) -> None:
    link = Link(6)
    link.drop("in", "numgen random mod 100 < 1 drop")
    link.narrow(1)
    link.heal()


def _try_kernel(folder: Path) -> None:
    command = ["-c", "true", "-w", str(folder / "tried.pcapng"), PROBES[0]]
    fault_mounts.run(sys.executable, "-m", "kwire", "record", *command)


def run(wanted: Wanted) -> int:
    """Play scenarios, so many at a time; 0 where nothing is wrong."""
    base = Path(tempfile.mkdtemp(prefix="kwire-faults-"))
    base.chmod(0o755)
    made = base / "certs"
    certs.make_certs(str(made), [near for near, _ in ADDRESSES.values()])
    os.environ["KWIRE_FAULT_CERTS"] = str(made)
    reasons = possible()
    here = {kind for kind, reason in reasons.items() if not reason}
    for kind, reason in reasons.items():
        if reason:
            print(f"no worlds with {kind}: {reason}")
    preload()
    began = time.monotonic()
    waiting = iter(range(wanted.first, wanted.first + wanted.number))
    running: dict[int, int] = {}
    played: list[int] = []
    failed: list[int] = []
    while True:
        while len(running) < wanted.jobs and time.monotonic() < began + wanted.seconds:
            seed = next(waiting, None)
            if seed is None:
                break
            sys.stdout.flush()
            pid = os.fork()
            if not pid:
                status = 1
                try:
                    status = 1 if play(seed, base, here, wanted) else 0
                except BaseException:
                    print(f"seed {seed}: the harness fails: {traceback.format_exc()}")
                finally:
                    sys.stdout.flush()
                    os._exit(status)
            running[pid] = seed
            played.append(seed)
        if not running:
            break
        pid, status = os.wait()
        seed = running.pop(pid)
        if status:
            failed.append(seed)
    kinds = Counter(kind for seed in played for kind in draw(random.Random(seed), here, set(wanted.only)).has)
    print("worlds:", *(f"{number} {kind}" for kind, number in sorted(kinds.items())))
    print(
        f"{len(played)} scenarios in {time.monotonic() - began:.1f} s, {len(failed)} wrong: {sorted(failed)}"
    )
    if not failed:
        shutil.rmtree(base, ignore_errors=True)
    else:
        print(f"what they left is in {base}")
    return 1 if failed else 0


def preloaded() -> None:
    """Compile the failing disk and the process that is traced, and begin again with them."""
    folder = Path(tempfile.mkdtemp(prefix="kwire-disk-"))
    folder.chmod(0o755)
    library, caller = folder / "disk.so", folder / "caller"
    gcc = functools.partial(subprocess.run, check=True)
    try:
        gcc(["gcc", "-O2", "-Wall", "-shared", "-fPIC", "-o", library, HERE / "disk.c", "-ldl"])
        gcc(["gcc", "-O2", "-Wall", "-static", "-o", caller, HERE / "caller.c"])
        environment = {**os.environ, "LD_PRELOAD": str(library), "KWIRE_FAULT_CALLER": str(caller)}
        status = subprocess.call([sys.executable, __file__, *sys.argv[1:]], env=environment)
    finally:
        shutil.rmtree(folder)
    raise SystemExit(status)


if __name__ == "__main__":
    if "LD_PRELOAD" not in os.environ:
        preloaded()
    parser = argparse.ArgumentParser(description="seeded scenarios of agents and collectors")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--count", dest="number", type=int, default=10, help="how many")
    parser.add_argument("--jobs", type=int, default=8, help="how many at a time")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no scenario after so long")
    parser.add_argument("-v", "--verbose", action="store_true")
    parser.add_argument("--calm", action="store_true", help="no faults at all")
    parser.add_argument("--only", nargs="*", default=[], choices=KINDS, help="worlds of these kinds")
    parser.add_argument("--faults", nargs="*", default=[], help="these, in worlds that have what they need")
    parser.add_argument("--list", action="store_true", help="the faults there are")
    arguments = parser.parse_args()
    if arguments.list:
        print(*(f"{each.name}: {', '.join(sorted(each.needs)) or 'anywhere'}" for each in FAULTS), sep="\n")
        raise SystemExit(0)
    del arguments.list
    raise SystemExit(
        run(
            Wanted(**vars(arguments) | {"only": frozenset(arguments.only), "faults": tuple(arguments.faults)})
        )
    )
