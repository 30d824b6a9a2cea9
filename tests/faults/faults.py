"""Seeded scenarios of agents and collectors on failing networks and disks, each judged by what it leaves.

    faults.py --count 300 --jobs 8        a run, as the tests do it
    faults.py --first 17 --count 1 -v     one scenario again, with what is done and what everybody says

Each seed draws a transport, how the agent keeps its events, and faults (`FAULTS`) that come while it records.
The laws that are judged stand in `fault_judge`. Without `LD_PRELOAD` of disk.c, which this script compiles
and sets for itself, disks do not fail.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fault_judge import judge
from fault_world import Disk, StuckError, World

from kwire.stream import certs

HERE = Path(__file__).parent


class Fault(NamedTuple):
    """Something that goes wrong. `needs`: what the world must have ("network", "stream", "spool")."""

    name: str
    happens: Callable[[World], None]
    needs: frozenset[str]


FAULTS: list[Fault] = []


def fault(*needs: str) -> Callable[[Callable[[World], None]], Callable[[World], None]]:
    """Add a fault: a function of the world. It may wait; what it has begun ends with `World.case`."""

    def add(happens: Callable[[World], None]) -> Callable[[World], None]:
        FAULTS.append(Fault(happens.__name__, happens, frozenset(needs)))
        return happens

    return add


# ---------------------------------------------------------------------- processes


@fault()
def collector_killed(world: World) -> None:
    world.kill_collector()
    world.pause(0, 0.3)
    world.collect()


@fault()
def collector_killed_again_and_again(world: World) -> None:
    for _ in range(3):
        world.kill_collector()
        world.collect()
        world.pause(0, 0.1)
    world.note("it stays")


@fault()
def collector_restarted(world: World) -> None:
    world.note("SIGTERM to the collector")
    world.stop_collector(signal.SIGTERM)
    world.pause(0, 0.2)
    world.collect()


@fault()
def collector_suspended(world: World) -> None:
    world.note("SIGSTOP of the collector")
    world.collector.signal(signal.SIGSTOP)
    world.pause(0.05, 0.4)
    world.collector.signal(signal.SIGCONT)


@fault()
def agent_stopped(world: World) -> None:
    world.note("SIGTERM to the agent")
    world.agents[-1][0].signal(signal.SIGTERM)


@fault("spool")
def agent_killed_and_another_comes(world: World) -> None:
    world.kill_agent()
    world.agent("--spool-size", "64M", spool=True, seconds=0.3)


@fault()
def agent_killed(world: World) -> None:
    world.kill_agent()


# ---------------------------------------------------------------------- networks


@fault("stream")
def connection_cut(world: World) -> None:
    _network(world, "cut")


@fault("stream")
def connection_reset(world: World) -> None:
    _network(world, "reset")


@fault("stream")
def connection_cut_often(world: World) -> None:
    for _ in range(5):
        _network(world, world.rng.choice(("cut", "reset")))
        world.pause(0.01, 0.08)


@fault("network")
def network_stalls(world: World) -> None:
    _network(world, "stall")
    world.pause(0.1, 0.5)
    _network(world, "heal")


@fault("stream")
def network_refuses(world: World) -> None:
    _network(world, "refuse")
    world.pause(0.05, 0.3)
    _network(world, "serve")


@fault("network")
def network_is_slow(world: World) -> None:
    _network(world, "delay", f"{world.rng.uniform(0.005, 0.05):.3f}")


@fault("datagrams")
def datagrams_are_lost(world: World) -> None:
    _network(world, "lose", f"{world.rng.uniform(0.01, 0.1):.3f}")
    world.pause(0.1, 0.3)
    _network(world, "heal")


def _network(world: World, *words: str) -> None:
    assert world.network is not None
    world.note(f"network: {' '.join(words)}")
    world.network.do(*words)


# ---------------------------------------------------------------------- disks


@fault()
def captures_full(world: World) -> None:
    _disk(world, "captures", lambda disk: disk.fill(), "full")


@fault()
def captures_fail(world: World) -> None:
    _disk(world, "captures", lambda disk: disk.fail(errno.EIO), "EIO")


@fault()
def captures_read_only(world: World) -> None:
    _disk(world, "captures", lambda disk: disk.fail(errno.EROFS), "EROFS")


@fault()
def captures_slow(world: World) -> None:
    _disk(world, "captures", lambda disk: disk.slow(0.01), "slow")


@fault()
def capture_deleted(world: World) -> None:
    world.take_away("is deleted", lambda path: path.unlink())


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
    for number, path in enumerate(world.captures.glob("*.pcapng")):
        size, deadline = path.stat().st_size, time.monotonic() + 3
        while path.stat().st_size == size and time.monotonic() < deadline:
            time.sleep(0.01)
        if path.stat().st_size == size:
            world.note(f"{path.name} is left where it is: nobody writes it")
            continue
        world.note(f"{path.name} is moved")
        path.rename(world.captures / f"archive-{number}-{time.monotonic_ns()}.pcapng")
    world.moved = True


@fault("spool")
def spool_full(world: World) -> None:
    _disk(world, "spool", lambda disk: disk.fill(), "full")


@fault("spool")
def spool_fails(world: World) -> None:
    _disk(world, "spool", lambda disk: disk.fail(errno.EIO), "EIO")


@fault("spool")
def spool_removed(world: World) -> None:
    """What is open stays readable; what comes waits in memory."""
    world.note("the spool is removed")
    shutil.rmtree(world.spool, ignore_errors=True)


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
    world.agent("--spool-size", "64M", spool=True, seconds=0.3)


def _segment(world: World, what: str, harm: Callable[[Path], None]) -> None:
    """Harm a file of the spool, where there is one: it may have been delivered just now."""
    files = sorted(world.spool.rglob("0*.*"))
    if files:
        path = world.rng.choice(files)
        world.note(f"{path.name} of the spool {what}")
        with contextlib.suppress(FileNotFoundError, ValueError):
            harm(path)


def _disk(world: World, name: str, harm: Callable[[Disk], None], what: str) -> None:
    world.note(f"disk of {name}: {what}")
    harm(world.disks[name])
    world.pause(0.05, 0.4)
    world.note(f"disk of {name}: heals")
    world.disks[name].heal()


# ---------------------------------------------------------------------- scenarios


def play(seed: int, base: Path, verbose: bool = False, calm: bool = False) -> list[str]:
    """One scenario; what is wrong. `calm`: without faults."""
    rng = random.Random(seed)
    kind = rng.choice(("unix", "tcp", "tcp", "tls", "udp"))
    has = {
        "unix": set(),
        "tcp": {"network", "stream"},
        "tls": {"network", "stream"},
        "udp": {"network", "datagrams"},
    }[kind] | ({"spool"} if rng.random() < 0.5 else set())
    folder = Path(tempfile.mkdtemp(prefix=f"{seed}-", dir=base))
    world = World(folder, rng, kind, sync=rng.random() < 0.2)
    drawn = [each for each in FAULTS if each.needs <= has]
    faults = [] if calm else rng.sample(drawn, rng.choice((1, 1, 2, 3)))
    memory = rng.choice(("1M", "64M"))
    rate = rng.choice((2_000, 20_000, 60_000)) if kind != "udp" else rng.choice((500, 3_000))
    wrong = []
    try:
        world.note(f"{kind}, {sorted(has)}, {rate} events/s, memory {memory}")
        if rng.random() < 0.8:
            world.collect()
        world.agent(
            "--memory", memory, spool="spool" in has, rate=rate, seconds=rng.uniform(0.2, 0.6),
            probes=rng.choice((1, 1, 3)),
        )  # fmt: skip
        if not world.collectors:
            world.pause(0, 0.3)
            world.collect()
        for each in faults:
            world.pause(0, 0.25)
            each.happens(world)
        case = world.case()
        wrong = judge(case)
        if verbose:
            for process in [*world.collectors, *(agent for agent, _, _ in world.agents)]:
                print(f"--- {process.name}: {process.status}\n{process.said}", process.told.summary)
    except StuckError as error:
        wrong = [str(error)]
    finally:
        world.close()
    if wrong or verbose:
        names = [each.name for each in faults]
        print(
            f"seed {seed}: {names}",
            *world.log,
            *(f"  WRONG: {each}" for each in wrong),
            sep="\n  ",
            flush=True,
        )
    if not wrong:
        shutil.rmtree(folder, ignore_errors=True)
    return wrong


def run(first: int, count: int, jobs: int, verbose: bool, calm: bool) -> int:
    """Play scenarios, `jobs` at a time; 0 where nothing is wrong."""
    base = Path(tempfile.mkdtemp(prefix="kwire-faults-"))
    made = base / "certs"
    certs.make_certs(str(made))
    os.environ["KWIRE_FAULT_CERTS"] = str(made)
    began = time.monotonic()
    waiting = list(range(first, first + count))
    running: dict[int, int] = {}
    failed: list[int] = []
    while waiting or running:
        while waiting and len(running) < jobs:
            seed = waiting.pop(0)
            sys.stdout.flush()
            pid = os.fork()
            if not pid:
                status = 1
                try:
                    status = 1 if play(seed, base, verbose, calm) else 0
                finally:
                    sys.stdout.flush()
                    os._exit(status)
            running[pid] = seed
        pid, status = os.wait()
        seed = running.pop(pid)
        if status:
            failed.append(seed)
    print(f"{count} scenarios in {time.monotonic() - began:.1f} s, {len(failed)} wrong: {sorted(failed)}")
    if not failed:
        shutil.rmtree(base, ignore_errors=True)
    else:
        print(f"what they left is in {base}")
    return 1 if failed else 0


def preloaded() -> None:
    """Compile the failing disk, and begin again with it."""
    folder = Path(tempfile.mkdtemp(prefix="kwire-disk-"))
    library = folder / "disk.so"
    try:
        subprocess.run(
            ["gcc", "-O2", "-Wall", "-shared", "-fPIC", "-o", str(library), str(HERE / "disk.c"), "-ldl"],
            check=True,
        )
        status = subprocess.call(
            [sys.executable, __file__, *sys.argv[1:]], env={**os.environ, "LD_PRELOAD": str(library)}
        )
    finally:
        shutil.rmtree(folder)
    raise SystemExit(status)


if __name__ == "__main__":
    if "LD_PRELOAD" not in os.environ:
        preloaded()
    parser = argparse.ArgumentParser(description="seeded scenarios of agents and collectors")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--count", type=int, default=10, help="how many")
    parser.add_argument("--jobs", type=int, default=8, help="how many at a time")
    parser.add_argument("-v", "--verbose", action="store_true")
    parser.add_argument("--calm", action="store_true", help="no faults at all")
    parser.add_argument("--list", action="store_true", help="the faults there are")
    arguments = parser.parse_args()
    if arguments.list:
        print(*(f"{each.name}: {', '.join(sorted(each.needs)) or 'anywhere'}" for each in FAULTS), sep="\n")
        raise SystemExit(0)
    raise SystemExit(run(arguments.first, arguments.count, arguments.jobs, arguments.verbose, arguments.calm))
