"""Uplinks to a broker: real servers that go, come back, refuse, or know another copy of the source."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from brokers import Server, ask, free_ports, init, messages, needed
from said import Said
from waiting import until

from kwire.agent import broker_uplink
from kwire.agent import spool as spools
from kwire.agent.broker_uplink import BrokerUplink
from kwire.agent.source import Outlet, preamble
from kwire.agent.uplink import Hold, Line, MemoryHold, SpoolHold
from kwire.broker import client, sessions
from kwire.broker.address import Login, parse_broker
from kwire.broker.client import Broker, Connection
from kwire.broker.forgetting import remove
from kwire.broker.names import AFTER, BEFORE, MESSAGE_ID, read_counts, session_key
from kwire.broker.sessions import Entry, read_entry
from kwire.transport.loop import Loop
from kwire.wire.frame import Type, build, read_header
from kwire.wire.schema import Schema
from kwire.wire.session import Settings

SCHEMA = Schema(1, "tracepoint:a:b", "tracepoint", "a:b", (), 16, "little", 8)
FIRST = preamble([SCHEMA], 60_000)


def event(number: int) -> bytes:
    return build(Type.EVENT, 1, number.to_bytes(8, "little"))


class Cargo:
    """Events with numbers, one a payload."""

    probes = 1
    schemas = FIRST

    def __init__(self) -> None:
        self.outlet: Outlet | None = None
        self.abandoned: list[bytes] = []
        self.finished = False
        self.number = 0

    def put(self, count: int) -> None:
        assert self.outlet is not None
        for _ in range(count):
            self.number += 1
            self.outlet.send(event(self.number), 0.0)

    def begun(self, session: Outlet) -> bool:
        self.outlet = session
        return True

    def receiving(self, up: bool) -> None:
        raise AssertionError("payloads wait for more events, so that messages are few")

    def refused(self) -> None:
        pass

    def taken(self, events: int, probes: Mapping[int, int]) -> None:
        raise AssertionError

    def room(self) -> None:
        pass

    def restarted(self, abandoned: Iterable[bytes], carried: Iterable[bytes]) -> list[bytes]:
        self.abandoned += abandoned
        list(carried)
        return FIRST

    def done(self) -> None:
        self.finished = True


class World:
    """A loop, and uplinks to one broker in it."""

    def __init__(self, url: str, login: Login = Login()) -> None:  # noqa: B008
        self.loop = Loop()
        self.said = Said()
        self.broker = Broker(self.loop, parse_broker(url), login, self.said)
        self.cargo = Cargo()

    def uplink(self, hold: Hold | None = None) -> BrokerUplink:
        about = {"host": "here", "name": "web1.example"}
        address = self.broker.address
        line = Line(self.loop, address, Settings(), about, self.said, broker=self.broker)
        return BrokerUplink(line, self.broker, hold or MemoryHold(1 << 20, FIRST), self.cargo)

    def until(self, condition: Callable[[], Any]) -> None:
        until(condition, lambda: str(self.said), lambda: self.loop.turn(0.05))

    def close(self) -> None:
        self.broker.close()
        self.loop.close()


@pytest.fixture
def world(server: Server) -> Iterator[World]:
    world = World(server.url)
    yield world
    world.close()


def numbers(found: list[Any]) -> list[int]:
    """The numbers of the events that the broker has, in order."""
    return [int.from_bytes(one.data[8:], "little") for one in found if one.data[0] & 15 == Type.EVENT]


def test_payloads_go_as_they_are_and_say_what_came_before(server: Server, world: World) -> None:
    link = world.uplink()
    world.cargo.put(3)
    world.until(lambda: link.up)
    world.cargo.put(2)
    link.close("done")
    world.until(lambda: link.finished)
    found = messages(server.url)
    assert [one.data for one in found[:-1]] == [*FIRST, *map(event, range(1, 6))]
    assert read_header(found[-1].data).type == Type.BYE
    session = link.hold.token.hex()
    assert {one.subject for one in found} == {f"kwire.web1-example.{session}"}
    ids = [one.headers[MESSAGE_ID] for one in found]
    first = int(ids[0].partition("-")[2])
    assert ids == [f"{session}-{first + index}" for index in range(7)]
    counts = [(read_counts(one.headers[BEFORE]), read_counts(one.headers[AFTER])) for one in found]
    assert counts == [({}, {}), ({}, {1: 1}), *(({1: n}, {1: n + 1}) for n in range(1, 5)), ({1: 5}, {1: 5})]
    assert (link.sessions, link.reconnects, world.said.events, world.cargo.finished) == (
        1,
        0,
        ["connected"],
        True,
    )


def test_the_bucket_says_what_a_session_is(server: Server, world: World) -> None:
    link = world.uplink()
    link.close("done")
    world.until(lambda: link.finished)
    session = link.hold.token.hex()

    async def read(nc: Any, js: Any) -> tuple[bytes, bytes]:
        bucket = await js.key_value("kwire")
        values = [await bucket.get(key) for key in (f"session.{session}", f"schema.{session}.0")]
        return values[0].value, values[1].value

    value, schemas = ask(server.url, read)
    entry = read_entry(value)
    assert isinstance(entry, Entry)
    assert (entry.schemas, entry.about["name"], schemas) == (1, "web1.example", b"".join(FIRST))
    assert read_entry(b"") is read_entry(b"\xa0") is read_entry(value[:-1]) is None


def test_a_broker_killed_and_brought_back_has_each_message_once(server: Server, world: World) -> None:
    link = world.uplink()
    for _ in range(3):
        world.cargo.put(200)
        world.until(lambda: link.hold.events < 100)
        server.kill()
        world.cargo.put(100)
        world.until(lambda: not link.up)
        server.start()
        world.until(lambda: link.up)
    link.close("done")
    world.until(lambda: link.finished)
    assert numbers(messages(server.url)) == list(range(1, 901))
    assert link.reconnects == 3


@pytest.mark.parametrize("killed", [False, True])
def test_a_broker_that_stops_while_much_waits_for_it_is_left_and_found_again(
    killed: bool,
    server: Server,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """nats-py closes such a connection and does not say so: it waits for ever to write the last bytes, or
    fails to.
    """
    monkeypatch.setattr(client, "PING", 1)
    monkeypatch.setattr(broker_uplink, "WINDOW", 64 << 20)  # more than sockets hold
    link = world.uplink(MemoryHold(64 << 20, FIRST))
    world.until(lambda: link.up)
    server.signal(signal.SIGSTOP)
    for number in range(1, 401):
        assert world.cargo.outlet is not None
        world.cargo.outlet.send(build(Type.EVENT, 1, number.to_bytes(8, "little") + bytes(60_000)), 0.0)
    for _ in range(20):
        world.loop.turn(0.02)  # it writes as much as sockets hold
    if killed:
        server.kill()
    world.until(lambda: not link.up)
    if killed:
        server.start()
    else:
        server.signal(signal.SIGCONT)
    link.close("done")
    world.until(lambda: link.finished)
    found = [one.data[8:16] for one in messages(server.url) if one.data[0] & 15 == Type.EVENT]
    assert [int.from_bytes(one, "little") for one in found] == list(range(1, 401))
    gc.collect()
    assert caplog.records == []  # of asyncio: no traceback of a task that nobody waits for


def test_a_source_whose_session_is_forgotten_begins_another(
    server: Server, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks now and then; what it had published and the broker has not acknowledged is counted lost."""
    monkeypatch.setattr(sessions, "TOUCH", 1)
    link = world.uplink()
    world.cargo.put(3)
    world.until(lambda: link.hold.events == 0)
    before = link.hold.token.hex()

    async def forget(nc: Any, js: Any) -> None:
        await js.purge_stream("KWIRE", subject=f"kwire.*.{before}")
        await remove(client.Connection(nc, js), before)

    ask(server.url, forget)
    world.until(lambda: link.hold.token.hex() != before)
    assert world.said[-1].endswith("a new session begins: the broker knows nothing more of the one before")
    assert [one for one in world.cargo.abandoned if one not in FIRST] == []
    world.cargo.put(2)
    link.close("done")
    world.until(lambda: link.finished)
    there = messages(server.url)
    assert numbers(there) == [4, 5]
    assert {one.subject for one in there} == {f"kwire.web1-example.{link.hold.token.hex()}"}
    assert [read_counts(one.headers[AFTER]) for one in there][-1] == {1: 2}


def test_what_is_delivered_leaves_the_broker_and_does_not_begin_again(
    server: Server, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the connection comes anew for others."""
    serve, served = BrokerUplink._serve, list[BrokerUplink]()

    async def noted(link: BrokerUplink, connection: Connection) -> None:
        served.append(link)
        try:
            await serve(link, connection)
        finally:
            served.remove(link)

    monkeypatch.setattr(BrokerUplink, "_serve", noted)
    link = world.uplink()
    world.cargo = Cargo()
    other = world.uplink()
    world.until(lambda: link.up and other.up)
    assert served == [link, other]
    link.close("done")
    world.until(lambda: link.finished and served == [other])
    assert world.broker.at_refusal == [world.cargo.refused]
    key = session_key(link.hold.token.hex())

    async def entry(nc: Any, js: Any) -> Any:
        return await (await js.key_value("kwire")).get(key)

    before = ask(server.url, entry)
    server.kill()
    world.until(lambda: not other.up)
    server.start()
    world.until(lambda: other.up)
    assert served == [other]
    assert ask(server.url, entry) == before


def test_what_is_missing_at_the_broker_is_said_and_waits(tmp_path: Path) -> None:
    needed()
    with Server(tmp_path / "broker", free_ports(1)[0]) as server:
        world = World(server.url)
        link = world.uplink()
        world.cargo.put(3)
        world.until(lambda: len(world.said) > 1)
        assert "it has no bucket kwire; kwire fleet init nats://127.0.0.1" in world.said[1]  # it is connected
        init(server.url, size=1 << 20, discard="new")
        world.until(lambda: link.hold.events == 0)
        world.cargo.outlet.send(build(Type.EVENT, 1, bytes(60_000)), 0.0)  # type: ignore[union-attr]
        for _ in range(17):
            world.cargo.outlet.send(build(Type.EVENT, 1, bytes(60_000)), 0.0)  # type: ignore[union-attr]
        world.until(lambda: any("maximum bytes" in line for line in world.said))
        assert link.hold.events > 0
        init(server.url, size=1 << 24)
        link.close("done")
        world.until(lambda: link.finished)
        assert len(messages(server.url)) == 1 + 3 + 18 + 1
        world.close()


def test_an_agent_after_one_that_was_killed_goes_on_in_its_session(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    first = World(server.url)
    spool = spools.begin(str(folder), b"t" * 16, FIRST, 1 << 24, 1 << 20, 1)
    spool.run()
    link = first.uplink(SpoolHold(spool))
    first.cargo.put(50)
    first.until(lambda: link.hold.events == 0)
    server.kill()
    first.until(lambda: not link.up)
    first.cargo.put(50)
    link.leave()
    spool.close()
    first.close()
    server.start()
    second = World(server.url)
    [found] = spools.recover(str(folder), 1 << 24, 1 << 20)
    assert found.spool is not None
    found.spool.run()
    link = second.uplink(SpoolHold(found.spool))
    link.close("the agent was killed")
    second.until(lambda: link.finished)
    there = messages(server.url)
    assert numbers(there) == list(range(1, 101))
    assert [read_counts(one.headers[AFTER]) for one in there][-1] == {1: 100}
    found.spool.remove()
    second.close()


def test_what_the_broker_has_and_the_spool_has_not_is_left_there(server: Server, tmp_path: Path) -> None:
    """An agent may have published what its spool had not got yet when it was killed: BYE comes after that."""
    folder = tmp_path / "spool"
    first = World(server.url)
    spool = spools.begin(str(folder), b"t" * 16, FIRST, 1 << 24, 1 << 20, 1)
    spool.run()
    link = first.uplink(SpoolHold(spool))
    first.cargo.put(3)
    first.until(lambda: link.hold.events == 0)
    subject, number = f"kwire.web1-example.{spool.kept.token.hex()}", spool.next
    link.leave()
    spool.close()
    first.close()
    headers = {MESSAGE_ID: f"{spool.kept.token.hex()}-{number}", BEFORE: "1=3", AFTER: "1=4"}

    async def publish(nc: Any, js: Any) -> None:
        await js.publish(subject, event(4), headers=headers)

    ask(server.url, publish)
    second = World(server.url)
    [found] = spools.recover(str(folder), 1 << 24, 1 << 20)
    assert found.spool is not None
    found.spool.run()
    link = second.uplink(SpoolHold(found.spool))
    link.close("the agent was killed")
    second.until(lambda: link.finished)
    there = messages(server.url)
    assert numbers(there) == [1, 2, 3, 4]
    assert there[-1].headers[MESSAGE_ID] == f"{spool.kept.token.hex()}-{number + 1}"
    assert read_header(there[-1].data).type == Type.BYE
    assert read_counts(there[-1].headers[BEFORE]) == {1: 4}
    found.spool.remove()
    second.close()


def test_of_two_copies_of_a_source_one_goes_on(server: Server, world: World) -> None:
    link = world.uplink()
    world.cargo.put(10)
    world.until(lambda: link.hold.events == 0)
    copy = World(server.url)
    hold = MemoryHold(1 << 20, FIRST)
    hold.token = link.hold.token
    other = copy.uplink(hold)
    copy.cargo.put(10)
    other.close("done")
    copy.until(lambda: other.finished)
    assert any("another copy of this source went on" in line for line in copy.said)
    assert [one for one in copy.cargo.abandoned if one not in FIRST] == list(map(event, range(1, 11)))
    assert hold.token != link.hold.token
    link.close("done")
    world.until(lambda: link.finished)
    assert numbers(messages(server.url)) == list(range(1, 11))
    copy.close()


def test_without_its_client_the_cure_is_said() -> None:
    program = "import sys; sys.modules['nats'] = None\nfrom kwire.__main__ import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", program, "fleet", "init", "nats://127.0.0.1"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "nats-py is not installed; pip install 'kwire[nats]'" in done.stderr
