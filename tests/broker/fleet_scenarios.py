"""Fleets under faults drawn by seed: agents, a broker of one or three servers, groups of collectors.

    python tests/broker/fleet_scenarios.py --first 1 --count 100 [--nodes 3]

plays scenarios; what they are made of is forked from this process, so that it can be killed like any other.
A scenario is right where, for each group, what the counters of the agents say was produced is in the captures
once, or counted lost, by numbers that no two events share; where the agents say the same; where `kwire
verify` says so of all captures of a group together; and where it does not of those of one collector that were
shared.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1] / name) for name in ("faults", "session", "broker")]

import fault_source  # noqa: E402
from brokers import Cluster, Server, ask, free_ports, init  # noqa: E402
from fault_judge import look_into  # noqa: E402
from fault_world import Process, StuckError, preload  # noqa: E402

from kwire.words import plural  # noqa: E402

PATIENCE = 90.0
PROBES = 2
GROUPS = ("collectors", "night")


def hurry() -> None:
    """Shorter pauses, so that a scenario takes seconds."""
    from kwire.agent import broker_uplink
    from kwire.broker import client, sessions
    from kwire.collector import intake

    setattr(sessions, "TOUCH", 1)  # noqa: B010
    setattr(intake, "UNKNOWN", 3.0)  # noqa: B010
    setattr(client, "AGAIN", 0.1)  # noqa: B010
    setattr(client, "TIMEOUT", 1.0)  # noqa: B010
    setattr(client, "PING", 1)  # noqa: B010
    setattr(broker_uplink, "OVERDUE", 2.0)  # noqa: B010
    setattr(broker_uplink, "PAUSE", 0.2)  # noqa: B010
    setattr(intake, "ACK_WAIT", 2.0)  # noqa: B010
    setattr(intake, "LATER", 0.1)  # noqa: B010
    setattr(intake, "IDLE", (0.1, 0.5))  # noqa: B010
    setattr(intake, "TICK", 0.05)  # noqa: B010
    setattr(intake, "PULL", 4)  # noqa: B010
    setattr(intake, "PATIENCE", 0.5)  # noqa: B010


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
        self.collectors: dict[int, Process] = {}
        self.groups: dict[int, str] = {}
        self.lives: list[tuple[int, fault_source.Counter, Process]] = []
        self.killed: set[int] = set()
        self.forgotten: set[int] = set()
        self.disks: list[int] = []
        self.couriers: list[Process] = []
        self.begun = 0
        self.broker.__enter__()
        try:
            self._init(nodes, limits)
        except BaseException:
            self.close()
            raise

    def _init(self, nodes: int, limits: dict[str, Any]) -> None:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                init(self.broker.url, 1.0, replicas=nodes, **limits)
                return
            except Exception:  # a cluster has no leader yet
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def note(self, text: str) -> None:
        self.diary.append(text)

    # --- processes

    def collect(self, number: int, group: str = "") -> None:
        """Start collector `number`, anew (in a group) or again."""
        folder = self.folder / f"c{number}"
        group = self.groups.setdefault(number, group or GROUPS[0])

        def job() -> int:
            hurry()
            arguments = ["--from", self.broker.url, "-w", str(folder), "--json", "--group", group]
            return fault_source.collect(arguments)

        self.begun += 1
        self.collectors[number] = Process(f"collector{number}-{self.begun}", self.folder, job)
        self.note(f"collector {number} begins")

    def stop(self, number: int, how: int) -> None:
        """End a collector in order."""
        process = self.collectors[number]
        self.until(lambda: not process.alive or "takes from" in process.said, "no collector takes")
        process.signal(how)
        process.wait(PATIENCE)

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

    # --- faults

    def kill_node(self, server: Server | None = None) -> None:
        """kill -9 of a server, which comes back."""
        one = server or self.rng.choice(self.servers)
        one.kill()
        self.note(f"{one.name} killed")
        time.sleep(self.rng.uniform(0.1, 1.0))
        one.start()
        self.note(f"{one.name} back")

    def kill_leader(self) -> None:
        """The same of the one that leads the stream."""
        found = self._ask(lambda nc, js: js.stream_info("KWIRE"))
        leader = found.cluster.leader if found is not None and found.cluster else None
        self.kill_node(next((one for one in self.servers if one.name == leader), None))

    def kill_all(self) -> None:
        """kill -9 of all servers at once, which come back one by one."""
        for one in self.servers:
            one.kill()
        self.note("all servers killed")
        for one in self.rng.sample(self.servers, len(self.servers)):
            time.sleep(self.rng.uniform(0.0, 0.4))
            one.start()
        self.note("all servers back")

    def suspend_node(self) -> None:
        """A server that is there and does not answer."""
        one = self.rng.choice(self.servers)
        one.signal(signal.SIGSTOP)
        self.note(f"{one.name} suspended")
        time.sleep(self.rng.uniform(0.3, 3.0))
        one.signal(signal.SIGCONT)
        self.note(f"{one.name} goes on")

    def move_leader(self) -> None:
        """Ask a leader to step down: the stream's, the group's, the bucket's."""
        which = self.rng.choice(
            ("STREAM.LEADER.STEPDOWN.KWIRE", "CONSUMER.LEADER.STEPDOWN.KWIRE.collectors",
             "STREAM.LEADER.STEPDOWN.KV_kwire")
        )  # fmt: skip
        answer = self._ask(lambda nc, js: nc.request(f"$JS.API.{which}", b"", timeout=1))
        self.note("leader not moved" if answer is None else f"leader moved ({which.rpartition('.')[2]})")

    def clean(self) -> None:
        """A collector looks at what the bucket need not know, while the leader of the bucket moves: of what
        is there all is still needed.
        """
        from kwire.broker.client import Connection
        from kwire.broker.forgetting import Cleaner

        async def look(nc: Any, js: Any) -> int:
            connection = Connection(nc, js, await js.key_value("kwire"))
            moving = nc.request("$JS.API.STREAM.LEADER.STEPDOWN.KV_kwire", b"", timeout=1)
            cleaner = Cleaner(0.0)
            await asyncio.gather(cleaner.clean(connection), moving, return_exceptions=True)
            await asyncio.sleep(0.5)
            return await cleaner.clean(connection)  # what had no session the last time goes

        removed = self._ask(look)
        self.note(f"bucket cleaned: {'no answer' if removed is None else f'{removed} removed'}")

    def _ask(self, question: Callable[[Any, Any], Any]) -> Any:
        """Ask any server that lives; None where it does not answer."""
        try:
            return ask(next(one.url for one in self.servers if one.alive), question, 1.0)
        except Exception:
            return None

    def kill_collector(self) -> None:
        """kill -9; most come back at once, the others at the end."""
        number = self.rng.choice(list(self.collectors))
        self.collectors[number].kill()
        self.note(f"collector {number} killed")
        if self.rng.random() < 0.7:
            self.collect(number)

    def suspend_collector(self) -> None:
        """So long that the broker gives what it has not acknowledged to others."""
        process = self.collectors[number := self.rng.choice(list(self.collectors))]
        process.suspend()
        self.note(f"collector {number} suspended")
        time.sleep(self.rng.uniform(0.5, 3.0))
        process.signal(signal.SIGCONT)
        self.note(f"collector {number} goes on")

    def end_collector(self) -> None:
        """One is told to end, and another goes on in its folder."""
        number = self.rng.choice(list(self.collectors))
        self.stop(number, signal.SIGTERM)
        self.note(f"collector {number} told to end")
        self.collect(number)

    def kill_agent(self) -> None:
        """kill -9, and have what its spool holds delivered by another."""
        life = self.rng.randrange(len(self.lives)) + 1
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

    def forget(self) -> None:
        """A host is forgotten, come what may, while a collector dies, which comes back. Its agent goes on."""
        from kwire.broker.address import parse_broker
        from kwire.broker.client import Connection
        from kwire.broker.forgetting import forget

        number, host = self.rng.choice(list(self.collectors)), self.rng.choice(self.lives)[0]
        moment, collector = self.rng.uniform(0.0, 0.1), self.collectors[number]
        self.forgotten.add(host)

        async def both(nc: Any, js: Any) -> int:
            async def die() -> None:
                await asyncio.sleep(moment)
                collector.kill()

            dying = asyncio.create_task(die())
            connection = Connection(nc, js, await js.key_value("kwire"))
            done, _ = await asyncio.gather(
                forget(connection, parse_broker(self.broker.url), f"web{host}", True), dying
            )
            return len(done)

        removed = self._ask(both)
        self.note(f"host {host} forgotten: {'nothing' if removed is None else plural(removed, 'session')}")
        if not collector.alive:
            self.note(f"collector {number} killed")
            self.collect(number)

    def full_disk(self) -> None:
        """A collector's disk is full while the broker's limits discard what is there."""
        number = self.rng.choice(self.disks)
        filler = self.folder / f"c{number}" / "filler"
        with filler.open("wb") as file, contextlib.suppress(OSError):
            for size in (1 << 20, 1 << 12):
                with contextlib.suppress(OSError):
                    while True:
                        os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, size)
        self.note(f"disk of collector {number} full")
        time.sleep(self.rng.uniform(0.1, 0.6))
        self.discard()
        time.sleep(self.rng.uniform(0.0, 0.6))
        filler.unlink()
        self.note(f"disk of collector {number} has room")

    def limits_changed(self) -> None:
        """The limits change while a server is away, and again when it is back."""
        one = self.rng.choice(self.servers)
        one.kill()
        self.note(f"{one.name} killed")
        time.sleep(self.rng.uniform(0.0, 0.5))
        self.discard(lambda: self._back(one))
        if not one.alive:
            self._back(one)

    def _back(self, one: Server) -> None:
        one.start()
        self.note(f"{one.name} back")

    def discard(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Limits so small that what is there is discarded, or, with the other policy, what comes is refused;
        for a while. What an agent said last may be gone then, which nobody could count: they still record.
        """
        if not all(process.alive for _, _, process in self.lives):
            self.note("limits not changed: not all agents are there")
            return
        policy, size = self.rng.choice(("old", "old", "new")), self.rng.choice((100_000, 400_000))
        done = self._limit(size=size, discard=policy)
        self.note(f"limits {'changed' if done else 'perhaps changed'}: {size} bytes, then {policy}")
        time.sleep(self.rng.uniform(0.0, 0.5))
        meanwhile()
        self.until(lambda: self._limit(size=8 << 30, discard="old"), "limits are not changed back")
        self.note("limits changed back")

    def _limit(self, **limits: Any) -> bool:
        """`fleet init` at a server that lives."""
        from kwire.broker import setup
        from kwire.broker.address import parse_broker

        address = parse_broker(self.broker.url)
        return self._ask(lambda nc, js: setup.init(js, address, limits)) is not None

    def disk(self, number: int) -> None:
        """Give a collector a file system of its own."""
        folder = self.folder / f"c{number}"
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128m", "kwire-test", folder], check=True)
        self.disks.append(number)

    # --- the end

    def until(self, condition: Callable[[], Any], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > end:
                raise StuckError(what)
            time.sleep(0.05)

    def claims(self) -> dict[str, dict[str, Any]]:
        """What each group knows of each session."""
        from kwire.broker.claims import Claims
        from kwire.broker.client import Connection

        async def read(nc: Any, js: Any) -> dict[str, dict[str, Any]]:
            connection = Connection(nc, js, await js.key_value("kwire"))
            found: dict[str, dict[str, Any]] = {}
            for key in await connection.keys():
                if key.startswith("claims."):
                    _, group, session = key.split(".")
                    found.setdefault(group, {})[session] = Claims.read((await connection.get(key))[0])
            return found

        return ask(self.broker.url, read)

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
        self.until(self._over, "sessions do not end")
        self.until(self._closed, "captures do not end")
        for number in self.collectors:
            self.stop(number, signal.SIGINT)
        return self._judge()

    def _over(self) -> bool:
        """Whether each group has everything of each session; of an agent that was killed at once there is
        perhaps none.
        """
        try:
            found, known = self.claims(), self.sessions()
        except Exception:  # no leader, no key yet
            return False
        groups = set(self.groups.values())
        return all(
            found.get(group, {}).keys() >= known and all(one.over for one in found.get(group, {}).values())
            for group in groups
        )

    def sessions(self) -> set[str]:
        """Those that the broker has messages of, and knows."""
        from kwire.broker.client import Connection

        async def read(nc: Any, js: Any) -> set[str]:
            connection = Connection(nc, js, await js.key_value("kwire"))
            there = {subject.rpartition(".")[2] for subject in await connection.subjects("KWIRE", ">")}
            known = {key.rpartition(".")[2] for key in await connection.keys() if key.startswith("session.")}
            return there & known

        return ask(self.broker.url, read)

    def paths(self, group: str) -> dict[int, list[Path]]:
        """The captures of a group's collectors, but for those of hosts that were forgotten."""
        numbers = [number for number, its in self.groups.items() if its == group]
        gone = tuple(f"web{host}-" for host in self.forgotten)
        found = {number: sorted(self.folder.glob(f"c{number}/*.pcapng")) for number in numbers}
        return {
            number: [path for path in its if not path.name.startswith(gone)] for number, its in found.items()
        }

    def _closed(self) -> bool:
        """Whether each collector has told its group of each session it shares that its capture has ended:
        what it prints may be lost with it.
        """
        try:
            claims = self.claims()
        except Exception:  # the bucket was read while it changed
            return False
        return all(one.ended.issuperset(one.collectors) for its in claims.values() for one in its.values())

    def state(self) -> str:
        """What the broker says of itself, and all others, where nothing moves."""
        lines = []
        for what in ("STREAM.INFO.KWIRE", "STREAM.INFO.KV_kwire", "CONSUMER.INFO.KWIRE.collectors"):

            async def look(nc: Any, js: Any, what: str = what) -> str:
                answer = await nc.request(f"$JS.API.{what}", b"", timeout=2)
                return str(answer.data.decode()[:1500])

            for one in self.servers:
                try:
                    lines.append(f"{one.name}: {what}: {ask(one.url, look)}")
                except Exception as error:
                    lines.append(f"{one.name}: {what}: {error!r}")
        return "\n".join(lines)

    def _judge(self) -> list[str]:
        wrong = []
        for _, counter, process in self.lives:
            told = process.told
            if told.status not in (0, 3, -9) or "Traceback" in told.said:
                wrong.append(f"{told.name} ended with {told.status}: {told.said[-300:]}")
            elif told.summary and told.summary["events"] + told.summary["lost"] != counter.total:
                wrong.append(f"{told.name} says {told.summary} of {counter.total} produced")
        for process in self.collectors.values():
            told = process.told
            if told.status not in (0, 3) or "Traceback" in told.said or "failed:" in told.said:
                wrong.append(f"{told.name} ended with {told.status}: {told.said[-600:]}")
        for group in sorted(set(self.groups.values())):
            wrong += [f"{group}: {text}" for text in self._accounts(group)]
        return wrong

    def _accounts(self, group: str) -> list[str]:
        """Produced is stored and counted, in the captures of a group."""
        wrong = self._forgotten(group)
        paths = self.paths(group)
        found = look_into(path for each in paths.values() for path in each)
        if len(found.numbers) != len(set(found.numbers)):
            wrong.append(f"{len(found.numbers) - len(set(found.numbers))} events are there more than once")
        stored: dict[int, set[int]] = {}
        for number in found.numbers:
            stored.setdefault(number >> 40, set()).add(number & (1 << 40) - 1)
        produced = {
            life: counter.total
            for life, (host, counter, _) in enumerate(self.lives, 1)
            if host not in self.forgotten
        }
        if stored.keys() - produced.keys():
            wrong.append(f"there are events of {stored.keys() - produced.keys()}, which are others'")
            return wrong
        sound = [life for life in produced if life not in self.killed]
        there = sum(len(stored.get(life, ())) for life in sound)
        if any(max(its, default=-1) >= produced[life] for life, its in stored.items()):
            wrong.append("there are events that nobody produced")
        if self.killed:  # what such an agent had not written down is gone with it, and nobody knows
            missing = sum(max(one, default=-1) + 1 - len(one) for life, one in stored.items())
            missing += sum(produced[life] - 1 - max(stored.get(life, ()), default=-1) for life in sound)
            # Nor may it have told yet what its ring had refused.
            if missing > found.all_lost + sum(self.lives[life - 1][1].refused[0] for life in self.killed):
                wrong.append(f"{missing} events are missing in the middle, {found.all_lost} are counted lost")
        elif sum(produced.values()) != there + found.all_lost:
            wrong.append(f"{sum(produced.values())} events produced, {there} stored, {found.lost} lost")
        return wrong + self._verified(group, paths, found.all_lost)

    def _forgotten(self, group: str) -> list[str]:
        """Of a host that was forgotten nobody knows how much is gone; what is there is there once."""
        wrong = []
        for host in sorted(self.forgotten):
            numbers = [number for number, its in self.groups.items() if its == group]
            found = look_into(
                path for number in numbers for path in self.folder.glob(f"c{number}/web{host}-*.pcapng")
            )
            if len(found.numbers) != len(set(found.numbers)):
                wrong.append(f"events of host {host}, which was forgotten, are there more than once")
            there: dict[int, int] = {}
            for number in found.numbers:
                there[number >> 40] = max(there.get(number >> 40, 0), number & (1 << 40) - 1)
            most = sum(counter.total for its, counter, _ in self.lives if its == host)
            if any(
                self.lives[life - 1][0] != host or last >= self.lives[life - 1][1].total
                for life, last in there.items()
            ):
                wrong.append(f"there are events of host {host} that it did not produce")
            if len(found.numbers) + found.all_lost > most:
                lost = f"{len(found.numbers)} stored and {found.lost} lost"
                wrong.append(f"of host {host}, which was forgotten, {lost} of {most} produced")
        return wrong

    def _verified(self, group: str, paths: dict[int, list[Path]], lost: int) -> list[str]:
        """What `kwire verify` says of all captures, and of those of one collector."""
        every = [path for each in paths.values() for path in each]
        if not every and self.forgotten:
            return []
        told = verify(every)
        problems = [*told["problems"], *(text for file in told["files"] for text in file["problems"])]
        unproven = [text for text in problems if "no closing statistics" in text]
        wrong = [f"verify: {text}" for text in problems if not self.killed or text not in unproven]
        if not lost and not self.killed and not told["complete"]:
            wrong.append(f"verify: not complete: {problems}")
        if self.forgotten:  # which claims are of whom is not known any more
            return wrong
        claims = self.claims()[group].values()
        parts = sum(len(one.collectors) for one in claims)
        if len(every) != parts:
            wrong.append(f"{len(every)} captures of {parts} parts: {[path.name for path in every]}")
        shared = [one for one in claims if len(one.collectors) > 1 and one.produced]
        self.note(f"{len(shared)} of {len(claims)} sessions shared in {group}, {lost} events lost")
        for number, its in paths.items() if shared else ():
            if its and len(its) < len(every) and verify(its)["complete"]:
                wrong.append(f"verify: captures of collector {number} alone are called complete")
        return wrong

    def close(self) -> None:
        for process in [*self.collectors.values(), *(one for _, _, one in self.lives), *self.couriers]:
            if process.alive:
                process.kill()
        self.broker.__exit__()
        for number in self.disks:
            subprocess.run(["umount", "--lazy", self.folder / f"c{number}"], check=True)
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


FAULTS: dict[str, tuple[Callable[[Fleet], None], int, bool]] = {
    "node killed": (Fleet.kill_node, 2, False),
    "leader killed": (Fleet.kill_leader, 2, True),
    "all nodes killed": (Fleet.kill_all, 1, False),
    "node suspended": (Fleet.suspend_node, 2, False),
    "leader moved": (Fleet.move_leader, 3, True),
    "collector killed": (Fleet.kill_collector, 3, False),
    "collector told to end": (Fleet.end_collector, 2, False),
    "collector suspended": (Fleet.suspend_collector, 2, False),
    "agent killed": (Fleet.kill_agent, 2, False),
    "bucket cleaned": (Fleet.clean, 0, True),
    "host forgotten": (Fleet.forget, 0, False),
    "disk full": (Fleet.full_disk, 0, False),
    "limits changed": (Fleet.limits_changed, 0, True),
}
"""Name → what happens, how often it is drawn (0: where it is asked for), whether it takes a cluster."""


LONG = {"disk full": 2.5, "limits changed": 2.0}
"""Faults that want agents that still record when they are over → the seconds that they take."""


def play(
    seed: int, folder: Path, nodes: int = 3, wanted: tuple[str, ...] = ()
) -> tuple[list[str], list[str]]:
    """One scenario: what is wrong, and what happened. `wanted`: faults to draw from."""
    rng = random.Random(seed)
    fleet = Fleet(folder, rng, nodes)
    try:
        collectors, hosts = rng.choice((1, 2, 2, 3)), rng.choice((1, 2, 3))
        for number in range(collectors):
            if "disk full" in wanted:
                fleet.disk(number)
            fleet.collect(number)
        if rng.random() < 0.25:
            fleet.collect(collectors, GROUPS[1])
        if rng.random() < 0.7:  # else agents are there before
            begun = fleet.collectors.values()
            fleet.until(lambda: all("takes from" in one.said for one in begun), "no collector takes")
        those = wanted or [name for name, (_, _, cluster) in FAULTS.items() if nodes > 1 or not cluster]
        drawn = rng.choices(those, [FAULTS[name][1] or bool(wanted) for name in those], k=rng.randint(1, 5))
        steps = [(name, rng.uniform(0.1, 0.8)) for name in drawn]
        seconds = sum(pause for _, pause in steps) + rng.uniform(0.5, 1.5)
        seconds += sum(LONG.get(name, 0.0) for name in drawn)
        for host in range(hosts):
            fleet.agent(host, rng.choice((2_000, 20_000, 60_000)), seconds)
        for name, pause in steps:
            time.sleep(pause)
            FAULTS[name][0](fleet)
        return fleet.finish(), fleet.diary
    except StuckError as error:
        said = [f"{one.name}: {one.said[-1500:]}" for one in fleet.collectors.values()]
        return [f"stuck: {error}", *said, fleet.state()], fleet.diary
    finally:
        fleet.close()


def main() -> int:
    parser = argparse.ArgumentParser(description="seeded scenarios of agents, a broker and collectors")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--count", type=int, default=10, help="how many")
    parser.add_argument("--seeds", default="", help="these instead: 3,7,9")
    parser.add_argument("--nodes", type=int, choices=(1, 3), default=3, help="servers of the broker")
    parser.add_argument("--faults", nargs="*", default=[], choices=FAULTS, help="only these")
    parser.add_argument("--keep", action="store_true", help="keep the folders of what was wrong")
    args = parser.parse_args()
    preload()
    failed = 0
    seeds = [int(seed) for seed in args.seeds.split(",") if seed]
    seeds = seeds or list(range(args.first, args.first + args.count))
    for seed in seeds:
        folder, start = Path(tempfile.mkdtemp(prefix="fleet")), time.monotonic()
        try:
            wrong, diary = play(seed, folder, args.nodes, tuple(args.faults))
        except Exception:
            wrong, diary = [traceback.format_exc()], []
        print(f"seed {seed}: {time.monotonic() - start:.1f} s: {'; '.join(diary)}", flush=True)
        for text in wrong:
            print(f"  WRONG: {text}", flush=True)
        failed += bool(wrong)
        if wrong and args.keep:
            print(f"  kept: {folder}", flush=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{plural(len(seeds), 'scenario')}, {failed} wrong")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
