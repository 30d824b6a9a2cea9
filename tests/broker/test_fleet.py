"""Agents, a real broker and collectors of a group, whole: what was produced is stored once, or counted."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from brokers import Server, ask, free_ports, init, messages, needed
from fault_judge import look_into
from waiting import until

from kwire.broker.claims import Claims
from kwire.broker.client import Connection
from kwire.broker.names import BUCKET
from kwire.cli.main import main

SCENARIOS = Path(__file__).with_name("fleet_scenarios.py")
ONE_SERVER, CLUSTER = "1,3,5,9", "107,112"
"""Seeds of scenarios in the gate; docs/testing.md says how to play more."""


def play(nodes: int, seeds: str, *faults: str) -> str:
    needed()
    command = [sys.executable, str(SCENARIOS), "--nodes", str(nodes), "--seeds", seeds]
    command += ["--faults", *faults] if faults else []
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.native
@pytest.mark.timeout(0)  # what hangs is found by its own patience
def test_scenarios_with_one_server() -> None:
    said = play(1, ONE_SERVER)
    for what in (
        "node killed",
        "node suspended",
        "collector killed",
        "collector told to end",
        "agent killed",
    ):
        assert happened(what, said), what
    assert re.search("[1-9] of [0-9] sessions shared", said)


@pytest.mark.native
@pytest.mark.timeout(0)
def test_scenarios_with_a_cluster() -> None:
    said = play(3, CLUSTER)
    for what in ("leader moved", "node killed", "all nodes killed", "node suspended", "agent killed"):
        assert happened(what, said), what


@pytest.mark.native
@pytest.mark.timeout(0)
def test_a_host_forgotten_while_a_collector_dies() -> None:
    said = play(1, "2", "host forgotten")
    for what in ("host forgotten", "collector killed"):
        assert happened(what, said), what


def happened(what: str, said: str) -> bool:
    """Whether a fault was among those that were played."""
    name, _, done = what.partition(" ")
    who = {
        "node": "n[0-9]",
        "host": "host [0-9]",
        "collector": "collector [0-9]",
        "agent": "agent [0-9]",
        "all": "all",
    }
    return re.search(f"; {who.get(name, name)} {done.replace('nodes', 'servers')}", said) is not None


FOLDERS = os.pathsep.join([str(Path(__file__).parents[1] / "faults"), *sys.path])
AGENT = (
    "import sys, fault_source\n"
    "counter = fault_source.Counter(2)\n"
    "status = fault_source.agent(sys.argv[1:], 2, 60_000, 1, counter)\n"
    "print(counter.total)\nsys.exit(status)\n"
)
"""A program that is an agent without a kernel, and says how many events it produced."""

COLLECTOR = (
    "import os, sys\nfrom kwire.cli import main\n"
    "exec(os.environ['KWIRE_FAULT_PATCH'])\nsys.exit(main.main(['collect', *sys.argv[1:]]))\n"
)
"""A program that is `kwire collect`, with something made wrong in it."""

# --- by hand: the command, and messages as an agent publishes them


class Fleet:
    """A broker, and `kwire collect` as a user starts it."""

    def __init__(self, tmp_path: Path, url: str) -> None:
        self.folder, self.url = tmp_path / "captures", url
        self.said = tmp_path / "said"

    def collect(self, *more: str, patch: str = "") -> subprocess.Popen[str]:
        """Start it. `patch`: what is made wrong in it, as Python."""
        command = [
            sys.executable,
            "-c",
            COLLECTOR,
            "--from",
            self.url,
            "-w",
            str(self.folder),
            "--json",
            *more,
        ]
        self.folder.parent.mkdir(exist_ok=True)
        with self.said.open("w") as said:
            environment = {**os.environ, "PYTHONPATH": FOLDERS, "KWIRE_FAULT_PATCH": patch}
            return subprocess.Popen(
                [*command, *more], stdout=subprocess.PIPE, stderr=said, text=True, env=environment
            )

    def until(self, text: str) -> None:
        until(lambda: text in self.said.read_text(), self.said.read_text)

    def summary(self, job: subprocess.Popen[str]) -> dict[str, Any]:
        """What a collector says at its end, which is told to end when a session has."""
        self.until("has ended: ")
        job.send_signal(signal.SIGINT)
        told: dict[str, Any] = json.loads(job.communicate()[0])
        return told

    def verify(self) -> dict[str, Any]:
        command = [sys.executable, "-m", "kwire", "verify", "--json", *map(str, self.folder.glob("*.pcapng"))]
        found: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, text=True).stdout)
        return found


def agent(url: str, seconds: str = "0.5", name: str = "web1") -> int:
    """A synthetic agent, from beginning to end; how many events it produced."""
    done = subprocess.run(
        [sys.executable, "-c", AGENT, "--to", url, "--name", name, "fault:probe", "-d", seconds],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": FOLDERS},
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1])


def test_a_collector_that_was_killed_before_it_said_that_its_capture_has_ended_says_so(
    server: Server, tmp_path: Path
) -> None:
    """The group knows then that nobody needs the session any more."""
    patch = (
        "import os, signal\n"
        "from kwire.collector.intake import Intake\n"
        "async def die(self, connection, each):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "Intake._say_ended = die\n"
    )
    produced = agent(server.url)
    fleet = Fleet(tmp_path, server.url)
    assert fleet.collect(patch=patch).wait() == -signal.SIGKILL

    async def spent(nc: Any, js: Any) -> bool:
        connection = Connection(nc, js, await js.key_value(BUCKET))
        [key] = [one for one in await connection.keys() if one.startswith("claims.")]
        return Claims.read((await connection.get(key))[0]).spent

    assert not ask(server.url, spent)
    with fleet.collect() as job:
        until(lambda: ask(server.url, spent))
        job.send_signal(signal.SIGINT)
        job.communicate()
    assert fleet.verify()["files"][0]["stored"] == produced


def test_a_collector_that_looks_at_a_session_when_its_connection_ends_takes_it_up_again(
    server: Server, tmp_path: Path
) -> None:
    patch = (
        "import asyncio, sys\n"
        "from kwire.collector.intake import Intake\n"
        "read, seen = Intake._read, []\n"
        "async def slow(self, connection, each):\n"
        "    if each.opened and not each.waiting and not seen:\n"
        "        seen.append(each)\n"
        "        print('looking', file=sys.stderr, flush=True)\n"
        "        await asyncio.sleep(3600)\n"
        "    await read(self, connection, each)\n"
        "Intake._read = slow\n"
    )
    fleet = Fleet(tmp_path, server.url)
    job = fleet.collect(patch=patch)
    command = [sys.executable, "-c", AGENT, "--to", server.url, "--name", "web1", "fault:probe"]
    with (tmp_path / "agent").open("w") as said:
        recording = subprocess.Popen(
            [*command, "--json"], stdout=said, stderr=said, env={**os.environ, "PYTHONPATH": FOLDERS}
        )
    fleet.until("is written to")
    recording.send_signal(signal.SIGSTOP)
    fleet.until("looking")
    server.kill()
    server.start()
    recording.send_signal(signal.SIGCONT)
    recording.send_signal(signal.SIGINT)
    recording.wait()
    assert fleet.summary(job)["unproven"] == 0


def test_schemas_that_cannot_be_read_at_once_are_read_later(server: Server, tmp_path: Path) -> None:
    """Where a leader moves just then: all that came would be stored without a description, as lost."""
    produced = agent(server.url, "0.1")
    ask(server.url, lambda nc, js: js.purge_stream("KWIRE", seq=2))  # with the SCHEMAs
    patch = """
from kwire.broker.client import BrokerError
from kwire.collector import intake
read, tries = intake.schemas_of, []
async def once_not(*what):
    tries.append(what)
    if len(tries) == 1: raise BrokerError('read', 'SCHEMAs', 'it does not answer')
    return await read(*what)
intake.schemas_of = once_not
"""
    fleet = Fleet(tmp_path, server.url)
    job = fleet.collect(patch=patch)
    fleet.until("it does not answer (trying again)")
    told = fleet.summary(job)
    assert (told["events"], told["lost"], told["errors"]) == (produced, 0, 0)


def test_what_the_limits_discard_is_counted(tmp_path: Path) -> None:
    needed()
    with Server(tmp_path / "broker", free_ports(1)[0]) as server:
        init(server.url, size=400_000)
        fleet = Fleet(tmp_path, server.url)
        produced = agent(server.url)
        assert len(messages(server.url)) < 10  # of some twenty
        job = fleet.collect()
        fleet.until("has ended")
        job.send_signal(signal.SIGINT)
        told = json.loads(job.communicate()[0])
        assert job.returncode == 3
    found = look_into(fleet.folder.glob("*.pcapng"))
    assert list(found.lost) == [12]
    assert len(found.numbers) == len(set(found.numbers)) < produced
    assert len(found.numbers) + found.all_lost == produced
    assert told["hosts"][0]["causes"] == {"the broker discarded it before it was collected": found.all_lost}
    assert told["unproven"] == 0
    assert "the broker discarded" in fleet.said.read_text()
    [file] = fleet.verify()["files"]
    assert (file["problems"], file["produced"], file["lost"]) == ([], produced, found.all_lost)


@pytest.mark.parametrize("pending", [0, 1])
def test_what_is_discarded_is_counted_though_the_broker_does_not_say_all_is_acknowledged(
    pending: int, tmp_path: Path
) -> None:
    """What a server (2.9) says of a group after its leader moved, when what waited had been discarded; of one
    that always has something to acknowledge, for ever.
    """
    needed()
    patch = f"""
from kwire.collector import intake
from nats.js.manager import JetStreamManager
intake.ACK_WAIT, ask = 1.0, JetStreamManager.consumer_info
async def stuck(self, *what, **more):
    info = await ask(self, *what, **more)
    info.ack_floor.stream_seq, info.num_ack_pending = 0, {pending} or info.num_ack_pending
    return info
JetStreamManager.consumer_info = stuck
"""
    with Server(tmp_path / "broker", free_ports(1)[0]) as server:
        init(server.url, size=400_000)
        produced = agent(server.url)
        fleet = Fleet(tmp_path, server.url)
        told = fleet.summary(fleet.collect(patch=patch))
    assert told["events"] + told["lost"] == produced
    assert told["lost"] > 0


def test_what_another_collector_counts_is_not_told(tmp_path: Path) -> None:
    """Of several that find out at once what the broker has discarded, one claims it."""
    needed()
    patch = """
import sys
from kwire.collector.intake import Intake
swap = Intake._swap
async def not_that(self, connection, each):
    if not each.claims.discarded: return await swap(self, connection, each)
    print('others were first', file=sys.stderr, flush=True)
    each.known = False
    return False
Intake._swap = not_that
"""
    with Server(tmp_path / "broker", free_ports(1)[0]) as server:
        init(server.url, size=400_000)
        agent(server.url)
        fleet = Fleet(tmp_path, server.url)
        job = fleet.collect(patch=patch)
        fleet.until("others were first")
        job.send_signal(signal.SIGINT)
        told = json.loads(job.communicate()[0])
    assert (told["lost"], told["problems"]) == (0, [])


def fleet_init(url: str, *limits: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "kwire", "fleet", "init", url, "--json", *limits]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_limits_that_are_not_named_stay_as_they_are(tmp_path: Path) -> None:
    needed()
    with Server(tmp_path / "broker", free_ports(1)[0]) as server:
        made = {"address": server.url, "known": False, "replicas": 1, "size": 8 << 30, "discard": "old"}
        assert fleet_init(server.url, "--age", "7d") == {**made, "age": 604800.0}
        changed = {**made, "known": True, "age": 604800.0, "size": 1 << 20, "discard": "new"}
        assert fleet_init(server.url, "--size", "1M", "--discard", "new") == changed
        assert fleet_init(server.url) == changed


def test_a_message_is_acknowledged_when_what_it_holds_is_synced(server: Server, tmp_path: Path) -> None:
    """With `--sync`; else when the operating system has it."""
    produced = agent(server.url, "0.1")
    works = tmp_path / "works"
    patch = f"""
import errno, os
sync = os.fdatasync
def only_then(fd):
    if not os.path.exists({str(works)!r}): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    sync(fd)
os.fdatasync = only_then
"""
    fleet = Fleet(tmp_path, server.url)
    job = fleet.collect("--sync", patch=patch)
    fleet.until("what comes is not acknowledged until that is over")

    async def floor(nc: Any, js: Any) -> Any:
        return (await js.consumer_info("KWIRE", "collectors")).ack_floor.stream_seq

    assert ask(server.url, floor) == 0
    works.touch()
    told = fleet.summary(job)
    until(lambda: ask(server.url, floor) == len(messages(server.url)))
    assert (told["events"], told["lost"]) == (produced, 0)
    assert fleet.verify()["complete"]


def test_another_group_gets_everything_again(server: Server, tmp_path: Path) -> None:
    produced = agent(server.url)
    for group in ("lake", "night"):
        fleet = Fleet(tmp_path / group, server.url)
        fleet.folder.mkdir(parents=True)
        job = fleet.collect("--group", group)
        fleet.until("has ended")
        job.send_signal(signal.SIGINT)
        told = json.loads(job.communicate()[0])
        assert (job.returncode, told["events"], told["unproven"]) == (0, produced, 0)
        assert fleet.verify()["complete"]


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--merge", "x.pcapng"], "--merge takes agents, not a broker"),
        (["--group", "a.b", "-w", "captures"], "no name of a group"),
        (["--from", "nats://localhost", "-w", "captures"], "there is one already"),
    ],
)
def test_what_cannot_be_collected_so_is_refused(more: list[str], why: str, tmp_path: Path) -> None:
    pytest.importorskip("nats")
    command = [sys.executable, "-m", "kwire", "collect", "--from", "nats://127.0.0.1:1", *more]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert why in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["compact", "lake", "--age", "7d"], "fleet compact lake: --age goes with init"),
        (
            ["status", "nats://a:secret@127.0.0.1:1", "--size", "1G"],
            "127.0.0.1:1: --size goes with init and compact",
        ),
        (["init", "nats://127.0.0.1:1", "--all"], "--all goes with status"),
    ],
)
def test_options_that_nothing_would_come_of_are_refused(
    words: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fleet", *words]) == 1
    said = capsys.readouterr().err
    assert why in said
    assert "secret" not in said


def test_a_message_that_is_none_of_ours_is_told_and_left(server: Server, tmp_path: Path) -> None:
    async def publish(nc: Any, js: Any) -> None:
        await js.publish("kwire.a.b", b"hello")

    ask(server.url, publish)
    fleet = Fleet(tmp_path, server.url)
    job = fleet.collect()
    fleet.until("is none of ours")
    produced = agent(server.url, "0.1")
    fleet.until("has ended")
    job.send_signal(signal.SIGINT)
    told = json.loads(job.communicate()[0])
    assert (told["events"], told["errors"]) == (produced, 1)


# --- what others made at the broker


def _made_otherwise(url: str, **settings: Any) -> None:
    """The stream removed, and made anew with other settings."""

    async def change(nc: Any, js: Any) -> None:
        from nats.js.api import StreamConfig

        await js.delete_stream("KWIRE")
        await js.add_stream(StreamConfig(name="KWIRE", subjects=["kwire.*.*"], **settings))

    ask(url, change)


def _kwire(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "kwire", *words], capture_output=True, text=True)


def test_a_stream_that_does_not_keep_what_it_acknowledges_is_not_used(server: Server, tmp_path: Path) -> None:
    """Nothing is published to it: what it acknowledges would be gone, and nobody would count it."""
    for settings, why in (
        ({"retention": "interest"}, "its stream KWIRE has the retention interest"),
        ({"no_ack": True}, "its stream KWIRE acknowledges nothing"),
    ):
        _made_otherwise(server.url, **settings)
        fleet = Fleet(tmp_path, server.url)
        job = fleet.collect()
        fleet.until(why)
        job.send_signal(signal.SIGINT)
        told = json.loads(job.communicate()[0])
        assert (job.returncode, told["unreached"]) == (1, [server.url])
        assert "0 acknowledged" in _agent_that_waits(server.url, why, tmp_path)
        assert messages(server.url) == []
    assert _kwire("fleet", "init", server.url).returncode == 0  # no_ack can be changed
    assert agent(server.url, "0.1") > 0
    for settings, why in (
        ({"retention": "workqueue"}, "retention workqueue"),
        ({"storage": "memory"}, "memory"),
    ):
        _made_otherwise(server.url, **settings)
        done = _kwire("fleet", "init", server.url)
        assert done.returncode == 1
        assert why in done.stderr
        assert "remove that stream" in done.stderr


def _agent_that_waits(url: str, why: str, folder: Path) -> str:
    """An agent that has ended its recording, and has to leave when it has said why it waits; what it says."""
    said = folder / "agent"
    command = [sys.executable, "-c", AGENT, "--to", url, "--name", "w", "fault:probe", "-d", "0.1"]
    with subprocess.Popen(
        [*command, "--grace", "0.1"],
        stderr=said.open("w"),
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": FOLDERS},
    ) as job:
        until(lambda: why in said.read_text(), said.read_text)
        job.send_signal(signal.SIGINT)
        job.wait()
    return said.read_text()


def test_a_group_that_is_a_consumer_of_others_is_refused(server: Server, tmp_path: Path) -> None:
    async def consumer(nc: Any, js: Any) -> None:
        from nats.js.api import AckPolicy, ConsumerConfig

        config = ConsumerConfig(durable_name="theirs", ack_policy=AckPolicy.NONE, filter_subject="kwire.x.*")
        await js.add_consumer("KWIRE", config)

    ask(server.url, consumer)
    fleet = Fleet(tmp_path, server.url)
    job = fleet.collect("--group", "theirs")
    fleet.until("it is a consumer of others, with ack_policy none; name another --group")
    job.send_signal(signal.SIGINT)
    job.communicate()
    assert job.returncode == 1


def test_claims_that_are_damaged_are_told_with_their_place(server: Server, tmp_path: Path) -> None:
    agent(server.url, "0.1")
    session = messages(server.url)[0].subject.rpartition(".")[2]

    async def damage(nc: Any, js: Any) -> None:
        await (await js.key_value("kwire")).put(f"claims.collectors.{session}", b"x")

    ask(server.url, damage)
    fleet = Fleet(tmp_path, server.url)
    job = fleet.collect()
    fleet.until(f"collect session {session}: claims.collectors.{session} of the bucket: they are damaged")
    job.send_signal(signal.SIGINT)
    job.communicate()


def test_a_server_without_jetstream_is_told_in_a_line(tmp_path: Path) -> None:
    needed()
    with Server(tmp_path / "broker", free_ports(1)[0], jetstream=False) as server:
        for what in ("init", "status"):
            done = _kwire("fleet", what, server.url)
            assert done.stderr == f"kwire: look at {server.url}: JetStream does not answer there\n"
            assert done.returncode == 1
