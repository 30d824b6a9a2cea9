"""One peer's trouble is that peer's alone: failures put into every call that serves a session.

Each case makes one method of one class raise once, for the victim's session only. The other session is served
as if nothing had happened; the victim hears ERROR, comes back, and loses nothing.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from site_of_one import Site, Source, complete, events, numbers
from traces import open_descriptors

from kwire.capture.output import Output
from kwire.capture.resumable import ResumableWriter
from kwire.capture.writer import Writer
from kwire.collector import storage
from kwire.collector.checkpoint import Checkpoint
from kwire.collector.collector import Collector
from kwire.collector.storage import Storage
from kwire.collector.store import Store
from kwire.collector.stored_session import StoredSession
from kwire.errors import KwireError
from kwire.transport import connect
from kwire.transport.address import Address
from kwire.transport.listen import Greeting, Listener
from kwire.transport.loop import contained
from kwire.transport.peer import Peer
from kwire.transport.tcp import StreamTransport
from kwire.wire.control import Hello, Role
from kwire.wire.lineage import Lineage
from kwire.wire.send_queue import MemorySendQueue
from kwire.wire.session import Session
from kwire.wire.transitions import State

TOKEN = b"victim, 16 bytes"

Concerns = Callable[..., bool]


def sink(session: Any) -> bool:
    return isinstance(session, Session) and session.role is Role.SINK and session.token == TOKEN


def of_collector(self: Collector, *arguments: Any) -> bool:
    """Whether any argument is, or has, the victim's session."""
    return any(sink(getattr(one, "session", one)) for one in arguments)


def of_storage(self: Storage, *arguments: Any) -> bool:
    """Whether any argument is the victim's token, stored session or store."""
    return any(
        one == TOKEN or getattr(one, "token", b"") == TOKEN or TOKEN in getattr(one, "stored_sessions", {})
        for one in arguments
    )


def of_stored_session(self: Any, *arguments: Any) -> bool:
    return bool(getattr(self, "token", b"") == TOKEN)


def of_store(self: Store, *arguments: Any) -> bool:
    return TOKEN in getattr(self, "stored_sessions", {})


def of_checkpoint(self: Checkpoint, *arguments: Any) -> bool:
    return TOKEN.hex() in self.path


def of_file(self: Any, *arguments: Any) -> bool:
    name = getattr(self, "name", "") or str(getattr(self, "_base", ""))
    return "victim" in name


def of_transport(self: StreamTransport, *arguments: Any) -> bool:
    return sink(getattr(self.receiver, "session", None))


def of_greeting(self: Greeting, *arguments: Any) -> bool:
    return TOKEN in self._heard


def of_listener(self: Listener, *arguments: Any) -> bool:
    return any(isinstance(one, Hello) and one.token == TOKEN for one in arguments)


PLACES: dict[type[Any], Concerns] = {
    Collector: of_collector,
    Storage: of_storage,
    Peer: lambda self, *_: sink(self.session),
    Session: lambda self, *_: sink(self),
    Store: of_store,
    StoredSession: of_stored_session,
    Checkpoint: of_checkpoint,
    ResumableWriter: of_file,
    Writer: of_file,
    Output: of_file,
    StreamTransport: of_transport,
    Greeting: of_greeting,
    Listener: of_listener,
}

# What ends a session must not fail itself, as nothing is left that could be ended for it.
LAST = {"Peer": {"failed", "fail", "end", "_surely", "do"}, "Greeting": {"drop", "failed", "_end"}}


def methods() -> list[tuple[type[Any], str]]:
    return [
        (place, name)
        for place in PLACES
        for name, value in vars(place).items()
        if callable(value)
        and not isinstance(value, type | staticmethod)
        and (not name.startswith("__"))
        and name not in LAST.get(place.__name__, set())
    ]


class Bomb:
    """Makes a method raise when it is called for the victim, the first time and the fourth."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, place: type[Any], name: str) -> None:
        self.went_off = False
        self._calls = 0
        before, concerns = getattr(place, name), PLACES[place]
        inner = getattr(before, "__wrapped__", before)  # of a contained method: what is contained

        @functools.wraps(inner)
        def call(self_: Any, *arguments: Any, **keywords: Any) -> Any:
            if concerns(self_, *arguments):
                self._calls += 1
                if self._calls in (1, 4):
                    self.went_off = True
                    raise RuntimeError(f"a bug in {name}")
            return inner(self_, *arguments, **keywords)

        monkeypatch.setattr(place, name, contained(call) if inner is not before else call)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(connect, "SHORTEST", 0.01)
    monkeypatch.setattr(connect, "LONGEST", 0.05)
    monkeypatch.setattr(storage, "AGAIN", 0.02)
    site = Site(tmp_path)
    site.loop.report = site.said_of_failures
    yield site
    site.end()


def cut(peer: Peer) -> None:
    """The connection breaks, as far as the source can see."""
    peer.detach("a cable is cut")
    assert peer.on_detached is not None
    peer.on_detached(peer, "a cable is cut")


def both(site: Site) -> tuple[Source, Source]:
    """A victim and another, through breaks and a recording's end; both end."""
    victim, other = Source("victim"), Source("other")
    peers = [site.connect(victim, token=TOKEN).peer, site.connect(other).peer]
    for _ in range(3):
        for source, peer in zip((victim, other), peers, strict=True):
            source.give(60, peer)
        for _ in range(4):
            site.loop.turn(0.005)
        for peer in peers:
            if peer.transport is not None:
                cut(peer)
    for source, peer in zip((victim, other), peers, strict=True):
        source.finish(peer)
    site.until(lambda: other.ended is not None)
    site.until(lambda: victim.ended is not None)
    return victim, other


@pytest.mark.parametrize(("place", "name"), methods(), ids=lambda value: getattr(value, "__name__", value))
def test_a_failure_in_any_call_ends_one_session_and_no_other(
    site: Site, monkeypatch: pytest.MonkeyPatch, place: type[Any], name: str
) -> None:
    site.open()
    bomb = Bomb(monkeypatch, place, name)
    both(site)
    site.until(lambda: not site.collector.collected_sessions)
    site.close()
    (capture,) = site.path.glob("in/other-*.pcapng")
    assert complete(capture) == 180
    assert numbers(capture) == list(range(180))
    captures = sorted(site.path.glob("in/victim-*.pcapng"))
    assert [number for path in captures for number in numbers(path)] == list(range(180))
    assert not bomb.went_off or site.said_of_failures or site.said


def test_a_failure_that_comes_again_and_again_is_tried_more_and_more_seldom(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.open()
    before, failures = Collector.delivered, []

    def always(self: Collector, peer: Peer, *arguments: Any) -> None:
        if sink(peer.session):
            failures.append(time.monotonic())
            raise RuntimeError("always")
        before(self, peer, *arguments)

    monkeypatch.setattr(Collector, "delivered", always)
    victim, other = Source("victim"), Source("other")
    peers = [site.connect(victim, token=TOKEN).peer, site.connect(other).peer]
    for _ in range(40):
        for source, peer in zip((victim, other), peers, strict=True):
            source.give(10, peer)
        for _ in range(10):
            site.loop.turn(0.005)
    assert 2 <= len(failures) <= 6
    assert any("failed at this session" in str(problem) for problem in victim.problems)
    other.finish(peers[1])
    site.until(lambda: other.ended is not None)
    site.close()
    (capture,) = site.path.glob("in/other-*.pcapng")
    assert complete(capture) == 400


# ---------------------------------------------------------------------- what was found


class Silent(Lineage):
    """That of a source that does not tell which HELLOs came before."""

    def draw(self, random: Any) -> Any:
        return super().draw(random)[0], None


def hello_again(site: Site, token: bytes, payloads: list[bytes], stored: int, lineage: Lineage) -> Source:
    """A source that takes up a session by its token, of which the collector has `stored` payloads."""
    again = Source("victim")
    send_queue = MemorySendQueue(1 << 20, stored)
    for number, payload in enumerate(payloads, stored):
        send_queue.put(number, payload)
    session = Session(
        Role.SOURCE, initiator=True, token=token, about={"host": "victim"}, send_queue=send_queue,
        resume=True, lineage=lineage,
    )  # fmt: skip
    once = [session]
    connector = connect.connect(site.loop, site.address, lambda: once.pop() if once else None, again)
    site.connectors.append(connector)
    again.peer = connector.peer
    return again


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("tells", [False, True])
def test_a_session_that_has_ended_takes_no_more(site: Site, restarted: bool, tells: bool) -> None:
    site.open()
    victim = Source("victim")
    peer = site.connect(victim, token=TOKEN).peer
    victim.give(10, peer)
    victim.finish(peer)
    site.until(lambda: victim.ended is not None and not site.collector.collected_sessions)
    if restarted:
        site.close()
        site.open()
    again = hello_again(site, TOKEN, [events(10, 5)], 3, Lineage() if tells else Silent())
    if tells:
        site.until(lambda: again.ended is not None)
        assert again.ended is not None
        assert again.ended.startswith("another copy of its source went on with the session at 20")
        assert any("another copy" in text for text in site.said)
    else:
        site.until(lambda: again.problems)
        assert "has ended" in str(again.problems[0])
        site.until(lambda: again.ended is not None)  # the second time its session is not known any more
        assert again.ended == "the peer does not know the session"
        assert [text for text in site.collector.problems if "more of it" in text]
    assert site.loop.failures == 0
    other = Source("other")
    second = site.connect(other).peer
    other.give(10, second)
    other.finish(second)
    site.until(lambda: other.ended is not None)
    site.close()
    assert sorted(complete(path) for path in site.path.glob("in/*.pcapng")) == [10, 10]


def test_reconnections_without_an_answer_to_the_clock(site: Site) -> None:
    site.open()
    silent = Source("silent")
    silent.requested = lambda *_: None  # type: ignore[method-assign]
    peer = site.connect(silent, token=TOKEN).peer
    for _ in range(40):
        silent.give(1, peer)
        site.until(lambda: peer.session.unacknowledged == 0)
        cut(peer)
    silent.finish(peer)
    site.until(lambda: silent.ended is not None)
    site.close()
    assert site.said_of_failures == []
    assert numbers(site.captures()[0]) == list(range(40))


def test_an_ended_session_keeps_no_descriptor_after_a_restart(site: Site) -> None:
    site.open()
    for number in range(30):
        source = Source(f"host{number}")
        peer = site.connect(source).peer
        source.give(1, peer)
        source.finish(peer)
        site.until(lambda source=source: source.ended is not None)  # type: ignore[misc]
    site.until(lambda: not site.collector.collected_sessions)
    site.close()
    site.loop.turn(0)
    before = open_descriptors()
    site.open()
    assert open_descriptors() <= before + 4  # the lock, the socket
    site.close()


def test_a_folder_that_turns_read_only(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.open()
    victim, other = Source("victim"), Source("other")
    peers = [site.connect(victim, token=TOKEN).peer, site.connect(other).peer]
    for source, peer in zip((victim, other), peers, strict=True):
        source.give(50, peer)
    site.until(lambda: all(peer.session.unacknowledged == 0 for peer in peers))
    real = {name: getattr(os, name) for name in ("pwrite", "ftruncate", "rename", "unlink", "open")}
    broken = True

    def refusing(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            changes = name != "open" or bool(arguments[1] & (os.O_CREAT | os.O_WRONLY | os.O_RDWR))
            if broken and changes:
                raise OSError(30, "Read-only file system")
            return real[name](*arguments, **keywords)

        return call

    for name in real:
        monkeypatch.setattr(os, name, refusing(name))
    for source, peer in zip((victim, other), peers, strict=True):
        source.give(50, peer)
    site.until(lambda: site.collector.trouble)
    for _ in range(20):
        site.loop.turn(0.01)
    broken = False
    for source, peer in zip((victim, other), peers, strict=True):
        source.finish(peer)
    site.until(
        lambda: victim.ended is not None and other.ended is not None and not site.collector.collected_sessions
    )
    site.close()
    assert all("Read-only" in line for line in site.said_of_failures)
    assert sorted(complete(path) for path in site.captures()) == [100, 100]


# ---------------------------------------------------------------------- who resumes is who began


def test_a_session_is_resumed_only_by_the_transport_that_began_it(site: Site, tmp_path: Path) -> None:
    site.open()
    tcp = site.listen(Address("tcp", "127.0.0.1", 0))
    victim = Source("victim")
    peer = site.connect(victim, token=TOKEN).peer
    victim.give(10, peer)
    site.until(lambda: peer.session.unacknowledged == 0)
    for restarted in (False, True):
        if restarted:
            site.close()
            site.open()
            tcp.close()
            tcp = site.listen(Address("tcp", "127.0.0.1", 0))
        thief = Source("victim")
        session = thief.make(token=TOKEN)
        heard: list[KwireError] = []
        once = iter([session])
        connector = connect.connect(site.loop, tcp.address, once.__next__, thief, troubled=heard.append)
        site.connectors.append(connector)
        site.until(lambda heard=heard: heard)  # type: ignore[misc]
        assert "the session is another's" in str(heard[0])
        assert session.state is not State.ESTABLISHED
        connector.close()
        connector.peer.detach("enough")
    victim.give(10, peer)
    victim.finish(peer)
    site.until(lambda: victim.ended is not None)
    site.close()
    tcp.close()
    assert complete(site.captures()[0]) == 20
