"""Fleets under faults drawn by seed: agents, a broker of one or three servers, collectors of one group.

    python tests/broker/fleet_scenarios.py --first 1 --count 100 [--nodes 3]

plays scenarios; what they are made of is forked from this process, so that it can be killed like any other.
A scenario is right where what the counters of the agents say was produced is in the captures once, or counted
lost, by numbers that no two events share; where `kwire verify` says so of all captures together; and where it
does not of any of those that were shared, alone.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1] / "faults"), str(Path(__file__).parent)]

import fault_source  # noqa: E402
from brokers import Cluster, Server, ask, free_ports, init  # noqa: E402
from fault_judge import look_into  # noqa: E402
from fault_world import Process, StuckError, preload  # noqa: E402

from kwire.words import plural  # noqa: E402

PATIENCE = 60.0
PROBES = 2


def hurry() -> None:
    """Shorter pauses, so that a scenario takes seconds."""
    from kwire.agent import broker_uplink
    from kwire.broker import client
    from kwire.collector import intake

    setattr(client, "AGAIN", 0.1)  # noqa: B010
    setattr(broker_uplink, "OVERDUE", 2.0)  # noqa: B010
    setattr(broker_uplink, "PAUSE", 0.2)  # noqa: B010
    setattr(intake, "ACK_WAIT", 2.0)  # noqa: B010
    setattr(intake, "LATER", 0.1)  # noqa: B010
    setattr(intake, "IDLE", (0.1, 0.5))  # noqa: B010
    setattr(intake, "TICK", 0.05)  # noqa: B010
    setattr(intake, "PULL", 4)  # noqa: B010


class Fleet:
    """A scenario being played."""

    def __init__(self, folder: Path, rng: random.Random, nodes: int, **limits: Any) -> None:
        self.folder, self.rng = folder, rng
        self.diary: list[str] = []
        self.broker: Server | Cluster
        if nodes == 1:
            self.broker = Server(folder / "broker", free_ports(1)[0])
            self.servers = [self.broker]
        else:
            self.broker = Cluster(folder / "broker", nodes)
            self.servers = self.broker.servers
        self.broker.__enter__()
        self._init(nodes, limits)
        self.collectors: dict[int, Process] = {}
        self.lives: list[tuple[int, fault_source.Counter, Process]] = []
        self.killed: set[int] = set()
        self.couriers: list[Process] = []
        self.begun = 0

    def _init(self, nodes: int, limits: dict[str, Any]) -> None:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                init(self.broker.url, replicas=nodes, **limits)
                return
            except Exception:  # a cluster has no leader yet
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def note(self, text: str) -> None:
        self.diary.append(text)

    # --- processes

    def collect(self, number: int, *more: str) -> None:
        """Start collector `number`, anew or again."""
        folder = self.folder / f"c{number}"

        def job() -> int:
            hurry()
            arguments = ["--from", self.broker.url, "-w", str(folder), "--json", *more]
            return fault_source.collect(arguments)

        self.begun += 1
        self.collectors[number] = Process(f"collector{number}-{self.begun}", self.folder, job)
        self.note(f"collector {number} begins")

    def stop(self, number: int, how: int) -> None:
        """End a collector in order."""
        process = self.collectors[number]
        self.until(lambda: not process.alive or "collecting from" in process.said, "no collector begins")
        process.signal(how)
        process.wait()

    def agent(self, host: int, rate: float, seconds: float) -> None:
        """Start an agent of a host, with the host's spool."""
        life = len(self.lives) + 1
        counter = fault_source.Counter(PROBES)
        spool = self.folder / f"spool{host}"
        arguments = ["--to", self.broker.url, "--spool", str(spool), "--json", "--name", f"web{host}"]
        arguments += ["fault:probe", "-d", f"{seconds:g}"]

        def job() -> int:
            hurry()
            return fault_source.agent(arguments, PROBES, rate, life, counter)

        self.lives.append((host, counter, Process(f"agent{life}", self.folder, job)))
        self.note(f"agent {life} of host {host} begins")

    def kill_agent(self, life: int) -> None:
        """kill -9, and have what its spool holds delivered by another."""
        host, _, process = self.lives[life - 1]
        if not process.alive:
            return
        process.kill()
        self.killed.add(life)
        self.note(f"agent {life} killed")
        arguments = ["agent", "--to", self.broker.url, "--spool", str(self.folder / f"spool{host}"), "--json"]

        def job() -> int:
            from kwire.cli import main

            hurry()
            return main.main(arguments)

        self.couriers.append(Process(f"courier{life}", self.folder, job))

    def move_leader(self) -> None:
        """Ask the stream's leader to step down."""

        async def step(nc: Any, js: Any) -> None:
            await nc.request("$JS.API.STREAM.LEADER.STEPDOWN.KWIRE", b"", timeout=2)

        try:
            ask(next(one.url for one in self.servers if one.alive), step)
            self.note("leader moved")
        except Exception as error:
            self.note(f"leader not moved: {error}")

    # --- the end

    def until(self, condition: Callable[[], Any], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > end:
                raise StuckError(what)
            time.sleep(0.02)

    def claims(self) -> list[Any]:
        """What the group knows of each session."""
        from kwire.broker.claims import Claims

        async def read(nc: Any, js: Any) -> list[Any]:
            bucket = await js.key_value("kwire")
            keys = [key for key in await bucket.keys() if key.startswith("claims.")]
            return [Claims.read((await bucket.get(key)).value or b"") for key in keys]

        return ask(self.servers[0].url, read)

    def finish(self) -> list[str]:
        """Heal everything, let it end, and judge."""
        for one in self.servers:
            if not one.alive:
                one.start()
        for number in list(self.collectors):
            if not self.collectors[number].alive:
                self.collect(number)
        for process in [process for _, _, process in self.lives] + self.couriers:
            process.wait(PATIENCE)
        sessions = len(self.lives)

        def over() -> bool:
            try:
                found = self.claims()
            except Exception:  # no leader, no key yet
                return False
            return len(found) >= sessions and all(claims.over for claims in found)

        self.until(over, "sessions do not end")
        self.until(self._closed, "captures do not end")
        for number in self.collectors:
            self.stop(number, signal.SIGINT)
        return self._judge()

    def paths(self) -> list[Path]:
        return sorted(self.folder.glob("c*/*.pcapng"))

    def _closed(self) -> bool:
        """Whether each collector has said of each session that it shares that it has ended."""
        try:
            claims = self.claims()
        except Exception:  # the bucket was read while it changed
            return False
        said = sum(path.read_text().count(" has ended: ") for path in self.folder.glob("collector*.err"))
        return said >= sum(len(one.collectors) for one in claims)

    def _judge(self) -> list[str]:
        wrong = []
        found = look_into(self.paths())
        if len(found.numbers) != len(set(found.numbers)):
            wrong.append(f"{len(found.numbers) - len(set(found.numbers))} events are there more than once")
        stored: dict[int, set[int]] = {}
        for number in found.numbers:
            stored.setdefault(number >> 40, set()).add(number & (1 << 40) - 1)
        sound = [life for life in range(1, len(self.lives) + 1) if life not in self.killed]
        produced = sum(self.lives[life - 1][1].total for life in sound)
        there = sum(len(stored.get(life, ())) for life in sound)
        if self.killed:  # what such an agent had not written down is gone with it, and nobody knows
            missing = sum(max(one, default=-1) + 1 - len(one) for life, one in stored.items())
            if missing > found.all_lost:
                wrong.append(f"{missing} events are missing in the middle, {found.all_lost} are counted lost")
        elif produced != there + found.all_lost:
            wrong.append(f"{produced} events produced, {there} stored, {found.lost} lost")
        for _, _, process in self.lives:
            told = process.told
            if told.status not in (0, 3, -9):
                wrong.append(f"{told.name} ended with {told.status}: {told.said[-300:]}")
        for process in self.collectors.values():
            told = process.told
            if told.status not in (0, 3) or "Traceback" in told.said or "failed:" in told.said:
                wrong.append(f"{told.name} ended with {told.status}: {told.said[-600:]}")
        wrong += self._verified(found.all_lost)
        return wrong

    def _verified(self, lost: int) -> list[str]:
        """What `kwire verify` says of all captures, and of those of one collector."""
        told = verify(self.paths())
        problems = [*told["problems"], *(text for file in told["files"] for text in file["problems"])]
        unproven = [text for text in problems if "no closing statistics" in text]
        wrong = [f"verify: {text}" for text in problems if not self.killed or text not in unproven]
        if not lost and not self.killed and not told["complete"]:
            wrong.append(f"verify: not complete: {problems}")
        shared = [claims for claims in self.claims() if len(claims.collectors) > 1 and claims.produced]
        self.note(f"{len(shared)} of {len(self.lives)} sessions shared")
        for number in self.collectors if shared else ():
            paths = sorted(self.folder.glob(f"c{number}/*.pcapng"))
            if paths and len(paths) < len(self.paths()) and verify(paths)["complete"]:
                wrong.append(f"verify: captures of collector {number} alone are called complete")
        return wrong

    def close(self) -> None:
        for process in [*self.collectors.values(), *(one for _, _, one in self.lives), *self.couriers]:
            if process.alive:
                process.kill()
        self.broker.__exit__()
        for _, counter, _ in self.lives:
            counter.close()


def verify(paths: list[Path]) -> dict[str, Any]:
    """What `kwire verify --json` says."""
    import contextlib
    import io

    from kwire.cli import main

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        main.main(["verify", "--json", *map(str, paths)])
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


def play(seed: int, folder: Path, nodes: int = 3) -> tuple[list[str], list[str]]:
    """One scenario: what is wrong, and what happened."""
    rng = random.Random(seed)
    fleet = Fleet(folder, rng, nodes)
    try:
        collectors, hosts = rng.choice((1, 2, 2)), rng.choice((1, 2, 3))
        for number in range(collectors):
            fleet.collect(number)
        seconds = rng.uniform(1.0, 2.0)
        for host in range(hosts):
            fleet.agent(host, rng.choice((2_000, 20_000, 60_000)), seconds)
        for _ in range(rng.randint(1, 4)):
            time.sleep(rng.uniform(0.1, 0.6))
            what = rng.choice(("node", "leader", "collector", "collector", "agent", "term"))
            if what == "node":
                one = rng.choice(fleet.servers)
                one.kill()
                fleet.note(f"{one.name} killed")
                time.sleep(rng.uniform(0.1, 0.5))
                one.start()
                fleet.note(f"{one.name} back")
            elif what == "leader" and nodes > 1:
                fleet.move_leader()
            elif what == "collector":
                number = rng.randrange(collectors)
                fleet.collectors[number].kill()
                fleet.note(f"collector {number} killed")
                if rng.random() < 0.7:
                    fleet.collect(number)
            elif what == "term":
                number = rng.randrange(collectors)
                fleet.stop(number, signal.SIGTERM)
                fleet.note(f"collector {number} told to end")
                fleet.collect(number)
            elif what == "agent":
                fleet.kill_agent(rng.randrange(hosts) + 1)
        return fleet.finish(), fleet.diary
    except StuckError as error:
        said = [f"{one.name}: {one.said[-1500:]}" for one in fleet.collectors.values()]
        return [f"stuck: {error}", *said], fleet.diary
    finally:
        fleet.close()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--seeds", default="", help="these instead: 3,7,9")
    parser.add_argument("--nodes", type=int, choices=(1, 3), default=3)
    parser.add_argument("--keep", action="store_true", help="keep the folders of what was wrong")
    args = parser.parse_args()
    preload()
    failed = 0
    seeds = [int(seed) for seed in args.seeds.split(",") if seed]
    seeds = seeds or list(range(args.first, args.first + args.count))
    for seed in seeds:
        folder, start = Path(tempfile.mkdtemp(prefix="fleet")), time.monotonic()
        try:
            wrong, diary = play(seed, folder, args.nodes)
        except Exception:
            wrong, diary = [traceback.format_exc()], []
        print(f"seed {seed}: {time.monotonic() - start:.1f} s: {'; '.join(diary)}", flush=True)
        for text in wrong:
            print(f"  WRONG: {text}", flush=True)
        failed += bool(wrong)
        if wrong and args.keep:
            print(f"  kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{plural(len(seeds), 'scenario')}, {failed} wrong")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
