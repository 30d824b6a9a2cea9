"""Uplinks: sessions that end early, collectors that refuse or ask; nothing twice, nothing lost unseen."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
from said import Said

from kwire.agent import uplink as uplinks
from kwire.agent.uplink import Line, MemoryHold, Uplink
from kwire.transport.connect import Connector
from kwire.transport.loop import contained
from kwire.transport.peer import Peer
from kwire.transport.tcp import StreamTransport
from kwire.wire.control import Role
from kwire.wire.session import Session, Settings


class Cargo:
    """Numbered payloads."""

    def __init__(self, net: Any) -> None:
        self.net = net
        self.session: Session | None = None
        self.up = False
        self.finished = False
        self.abandoned: list[bytes] = []
        self.number = 0

    def put(self, count: int) -> None:
        assert self.session is not None
        for _ in range(count):
            self.number += 1
            self.session.send(b"%d" % self.number, self.net.loop.now())

    def begun(self, session: Session) -> bool:
        self.session = session
        return False

    def receiving(self, up: bool) -> None:
        self.up = up

    def room(self) -> None:
        pass

    def refused(self) -> None:
        pass

    def taken(self, events: int, probes: Mapping[int, int]) -> None:
        pass

    def restarted(self, abandoned: Iterable[bytes], carried: Iterable[bytes]) -> list[bytes]:
        self.abandoned += abandoned
        list(carried)
        return [b"again"]

    def done(self) -> None:
        self.finished = True


class World:
    def __init__(self, net: Any) -> None:
        self.net = net
        self.said = Said()
        self.cargo = Cargo(net)

    def uplink(self, address: Any, settings: Settings = Settings()) -> Uplink:  # noqa: B008
        line = Line(self.net.loop, address, settings, {"host": "here"}, self.said)
        self.link = Uplink(line, MemoryHold(1 << 20, [b"first"]), self.cargo)
        return self.link


@pytest.fixture
def world(net: Any) -> World:
    return World(net)


def received(net: Any) -> list[bytes]:
    """Everything that any session of the listener was given."""
    return [payload for notes in net.notes.values() for payload in notes.payloads]


def numbers(first: int, last: int) -> list[bytes]:
    return [b"%d" % number for number in range(first, last + 1)]


def test_a_session_from_beginning_to_end(net: Any, world: World) -> None:
    link = world.uplink(net.listen().address)
    world.cargo.put(3)
    net.until(lambda: world.cargo.up)
    world.cargo.put(2)
    link.flush()
    link.close("done")
    net.until(lambda: link.finished)
    assert world.cargo.finished
    assert received(net) == [b"first", *numbers(1, 5)]
    assert (link.sessions, link.reconnects, world.said.events) == (1, 0, ["connected"])


def test_a_collector_that_leaves_gets_the_rest_in_a_new_session(net: Any, world: World) -> None:
    listener = net.listen()
    link = world.uplink(listener.address)
    world.cargo.put(10)
    net.until(lambda: len(received(net)) == 11)
    net.run(0.1)  # acknowledged
    [peer] = listener.peers.values()
    peer.close("that is enough")
    net.until(lambda: "session_anew" in world.said.events)
    assert world.said[1].endswith("a new session begins: that is enough")
    world.cargo.put(5)
    net.until(lambda: len(received(net)) >= 17)
    link.close("done")
    net.until(lambda: link.finished)
    assert received(net) == [b"first", *numbers(1, 10), b"again", *numbers(11, 15)]
    assert world.cargo.abandoned == []
    assert link.sessions == 2


def test_what_may_have_arrived_is_abandoned_and_the_rest_carried(net: Any, world: World) -> None:
    settings = Settings(reach=4)  # frames under way at most
    listener = net.listen(stuck=True, settings=settings)
    link = world.uplink(listener.address, settings)
    world.cargo.put(100)
    net.until(lambda: len(received(net)) >= 4)
    net.run(0.1)
    [peer] = listener.peers.values()
    first = list(net.notes[peer.session.token].payloads)
    peer.close("that is enough")
    net.until(lambda: len(listener.peers) == 1 and peer not in listener.peers.values())
    net.notes[link.peer.session.token].stuck = False
    link.close("done")
    net.run(0.2)
    link.leave()
    assert first[0] == b"first"
    assert world.cargo.abandoned[: len(first)] == first  # nothing of it was acknowledged
    after = net.notes[world.cargo.session.token].payloads if world.cargo.session else []
    assert after[:1] == [b"again"]
    assert after[1] == b"%d" % len(world.cargo.abandoned)
    assert not set(after) & set(world.cargo.abandoned)


def test_a_refusal_is_said_and_tried_again(net: Any, world: World) -> None:
    refusals = ["not today"]
    listener = net.listen(refuse=lambda *_: refusals.pop() if refusals else "")
    link = world.uplink(listener.address)
    link.close("done")
    net.until(lambda: link.finished)
    assert any("not today" in text for text in world.said)


def test_an_agent_tells_the_time_and_nothing_else(net: Any, world: World) -> None:
    listener = net.listen()
    link = world.uplink(listener.address)
    net.until(lambda: world.cargo.up)
    [peer] = listener.peers.values()
    notes = net.notes[peer.session.token]
    answers: Callable[[], Any] = lambda: notes.replies  # noqa: E731
    for body in ({"op": "clock"}, {"op": "trace"}, {}):
        peer.session.request(body, net.loop.now())
        peer.flush()
    net.until(lambda: len(answers()) == 3)
    clock, trace, nothing = (body for _, body in answers())
    assert clock["ok"] is True
    assert clock["received"] <= clock["sent"]
    assert "command line" in trace["error"]["cause"]
    assert "error" in nothing
    link.leave()


# ---------------------------------------------------------------------- failures within

LAST = {"Peer": {"failed", "fail", "end", "_surely", "do"}, "Uplink": {"closed", "_again", "flush"}}
"""What ends a session, begins the next one, or is the recording's: without them there is nothing to go on."""


def ours(session: Any, link: Uplink) -> bool:
    return isinstance(session, Session) and session.role is Role.SOURCE and session.token == link.hold.token


PLACES: dict[type[Any], Callable[[Any, Uplink], bool]] = {
    Uplink: lambda self, link: self is link,
    Peer: lambda self, link: ours(self.session, link),
    Session: lambda self, link: ours(self, link),
    Connector: lambda self, link: self is link._connector,
    StreamTransport: lambda self, link: ours(getattr(self.receiver, "session", None), link),
}


def methods() -> list[tuple[type[Any], str]]:
    return [
        (place, name)
        for place in PLACES
        for name, value in vars(place).items()
        if inspect.isfunction(value)
        and (not name.startswith("__"))
        and name not in LAST.get(place.__name__, set())
    ]


@pytest.mark.parametrize(("place", "name"), methods(), ids=lambda value: getattr(value, "__name__", value))
@pytest.mark.parametrize("when", [1, 4])
def test_a_failure_in_any_call_ends_one_session_and_not_the_agent(
    net: Any, monkeypatch: pytest.MonkeyPatch, place: type[Any], name: str, when: int
) -> None:
    monkeypatch.setattr(uplinks, "BETWEEN", 0.02)
    monkeypatch.setattr("kwire.transport.connect.SHORTEST", 0.02)
    monkeypatch.setattr("kwire.transport.connect.LONGEST", 0.02)
    address = net.listen().address
    failures = Said()
    net.loop.report = failures
    worlds = World(net), World(net)
    worlds[1].cargo.number = 100
    unsure: set[bytes] = set()  # the call that takes them raised
    links = [world.uplink(address) for world in worlds]
    before, calls = getattr(place, name), 0
    inner = getattr(before, "__wrapped__", before)

    def call(self: Any, *arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        if PLACES[place](self, links[0]):
            calls += 1
            if calls == when:
                raise RuntimeError(f"a bug in {name}")
        return inner(self, *arguments, **keywords)

    functools.update_wrapper(call, inner)
    monkeypatch.setattr(place, name, contained(call) if inner is not before else call)
    for _ in range(5):
        for world, link in zip(worlds, links, strict=True):
            for _ in range(3):
                try:
                    world.cargo.put(1)
                except RuntimeError:
                    unsure.add(b"%d" % world.cargo.number)
            link.flush()
        net.run(0.01)
    for link in links:
        with contextlib.suppress(RuntimeError):
            link.close("done")
    net.until(lambda: links[1].finished)
    with contextlib.suppress(RuntimeError):
        links[0].close("done")
    net.until(lambda: links[0].finished)
    got = [payload for payload in received(net) if payload.isdigit()]
    assert len(got) == len(set(got))
    assert set(numbers(101, 115)) <= set(got)
    assert set(numbers(1, 15)) - unsure <= set(got) | set(worlds[0].cargo.abandoned)
    assert calls < when or failures or unsure or name in ("close", "leave")
