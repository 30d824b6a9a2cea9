"""The collector with sources in its own loop: many, hostile, resumed, merged, on disks that fail."""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from site_of_one import MONOTONIC, WALL, Site, Source, complete, events, numbers, schema
from verified import verify_file

from kwire.capture.output import CaptureError
from kwire.capture.reader import Capture
from kwire.capture.resumable import ResumableWriter
from kwire.collector import session_statistics, storage
from kwire.collector.checkpoint import Checkpoint, CheckpointError, Contents
from kwire.collector.folder import Folder, FolderError
from kwire.collector.metrics import CollectorMetrics
from kwire.collector.storage import Storage
from kwire.collector.store import Store
from kwire.errors import KwireError
from kwire.transport import clock
from kwire.transport.address import Address
from kwire.transport.connect import Connector, connect
from kwire.transport.half_open import Limits
from kwire.transport.listen import Listener, listen
from kwire.transport.peer import Peer
from kwire.wire.control import Role
from kwire.wire.frame import Type
from kwire.wire.messages import Cause, Lost, totals_frames
from kwire.wire.schema import Clock
from kwire.wire.send_queue import MemorySendQueue
from kwire.wire.session import Session, Settings
from kwire.wire.transitions import State

QUICK = Settings(expiry=0.4)


def test_many_sources_each_into_its_capture(site: Site) -> None:
    collector = site.open()
    sources = [Source(f"host{number}") for number in range(50)]
    for source in sources:
        connector = site.connect(source)
        source.peer = connector.peer
    for _ in range(4):
        for number, source in enumerate(sources):
            assert source.peer is not None
            source.give(100 + number, source.peer)
        site.loop.turn(0.01)
    for source in sources:
        assert source.peer is not None
        source.finish(source.peer)
    site.until(
        lambda: all(source.ended is not None for source in sources) and not collector.collected_sessions
    )
    assert len(site.captures()) == 50
    for number, source in enumerate(sources):
        (path,) = (site.path / "in").glob(f"host{number}-*.pcapng")
        assert complete(path) == 4 * (100 + number)
        assert numbers(path) == list(range(source.sent))
    site.close()
    summary = collector.summary()
    assert summary["events"] == sum(source.sent for source in sources) == 4 * sum(range(100, 150))
    assert (summary["sessions"], summary["lost"], summary["errors"]) == (50, 0, 0)
    assert summary["problems"] == []
    assert {host["sessions"] for host in summary["hosts"]} == {1}
    assert all(host["clock"]["error_ns"] < 1_000_000_000 for host in summary["hosts"])


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_over_the_network(site: Site, kind: str) -> None:
    site.address = Address(kind, "127.0.0.1", 0)
    collector = site.open()
    source = Source("there")
    peer = site.connect(source, site.listener.address).peer
    source.give(2000, peer)
    source.finish(peer)
    site.until(lambda: source.ended is not None and not collector.collected_sessions)
    assert complete(site.captures()[0]) == 2000
    site.close()


@pytest.mark.parametrize("host", ["../../../tmp/x", "/etc/passwd", "", "a\0b\n", "." * 300, "\u202eevil"])
def test_a_host_name_stays_in_the_folder(site: Site, host: str) -> None:
    collector = site.open()
    source = Source(host)
    peer = site.connect(source).peer
    source.give(10, peer)
    source.finish(peer)
    site.until(lambda: source.ended is not None and not collector.collected_sessions)
    (path,) = site.captures()
    assert complete(path) == 10
    assert sorted(os.listdir(site.path)) == ["in", "socket"]
    assert sorted(os.listdir(site.path / "in")) == [".sessions", path.name]
    site.close()


def test_who_sends_nothing_makes_no_file(site: Site) -> None:
    collector = site.open(settings=QUICK)
    source = Source("idle")
    once = [Session(Role.SOURCE, initiator=True, about={"host": "idle"})]
    connector = connect(site.loop, site.address, lambda: once.pop() if once else None, source)
    site.connectors.append(connector)
    site.until(lambda: connector.peer.session.state is State.ESTABLISHED)
    connector.close()
    connector.peer.detach("gone")
    site.until(lambda: not collector.collected_sessions)
    assert site.captures() == []
    site.close()
    assert len(os.listdir(site.path / "in" / ".sessions")) == 1  # but it may be resumed
    site.open()
    assert site.captures() == []
    site.close()


@pytest.mark.parametrize("kill", [True, False])
@pytest.mark.parametrize("merged", [False, True])
def test_a_collector_that_comes_back_goes_on(site: Site, kill: bool, merged: bool) -> None:
    """Three times in the middle of the stream; each event is in the captures exactly once."""
    target = str(site.path / "in" / "all.pcapng") if merged else ""
    site.open(target)
    sources = [Source("one"), Source("two")]
    peers = [site.connect(source).peer for source in sources]
    for _ in range(3):
        for source, peer in zip(sources, peers, strict=True):
            source.give(700, peer)
        for _ in range(7):
            site.loop.turn(0.01)
        site.close(kill)
        for source, peer in zip(sources, peers, strict=True):
            source.give(300, peer)
        site.open(target)
    for source, peer in zip(sources, peers, strict=True):
        source.finish(peer)
    site.until(
        lambda: all(source.ended is not None for source in sources) and not site.collector.collected_sessions
    )
    site.close()
    assert site.collector.problems == []
    paths = site.captures()
    assert len(paths) == (1 if merged else 2)
    assert sum(complete(path) for path in paths) == 6000
    assert sorted(number for path in paths for number in numbers(path)) == sorted([*range(3000)] * 2)
    if not merged:
        assert all(numbers(path) == list(range(3000)) for path in paths)


def test_a_killed_collectors_captures_are_cut_to_what_it_has_acknowledged(site: Site) -> None:
    site.open()
    connector = site.connect(Source("one"))
    source = connector.peer.handler
    assert isinstance(source, Source)
    source.give(100, connector.peer)
    site.until(lambda: connector.peer.session.unacknowledged == 0)
    connector.close()
    connector.peer.detach("it never comes again")
    (collected_session,) = site.collector.collected_sessions.values()
    assert collected_session.store is not None
    assert collected_session.stored_session is not None
    collected_session.store.take(
        collected_session.stored_session, collected_session.stored_session.next, events(100, 50)
    )
    collected_session.store.flush()
    site.close(kill=True)
    path = site.captures()[0]
    assert numbers(path) == list(range(150))
    site.open()
    assert numbers(path) == list(range(100))
    assert "no closing statistics" in verify_file(str(path)).problems[0]  # the source may know of more
    site.close()


@pytest.mark.parametrize("removed", [False, True])
def test_a_source_that_missed_the_last_acknowledgement(site: Site, removed: bool) -> None:
    """The session was over for the collector; one started anew makes no second capture and no second copy.
    Nor does one whose checkpoints somebody has removed.
    """
    collector = site.open()
    source = Source("one")
    connector = site.connect(source)
    source.give(100, connector.peer)
    source.finish(connector.peer)
    site.until(lambda: source.ended is not None and not collector.collected_sessions)
    first = source.session
    assert first is not None
    if removed:
        shutil.rmtree(site.path / "in" / ".sessions")
    else:
        site.close()
        collector = site.open()
    again = Source("one")
    send_queue = MemorySendQueue(1 << 20)
    payloads = [*schema("one").frames(), events(0, 50), events(50, 50), *totals_frames({1: 100})]
    for number, payload in enumerate(payloads):
        send_queue.put(number, payload)
    about = {"host": "one"}
    session = Session(
        Role.SOURCE,
        initiator=True,
        token=first.token,
        about=about,
        send_queue=send_queue,
        resume=True,
        lineage=first._lineage,
    )
    once = [session]
    connector = connect(site.loop, site.address, lambda: once.pop() if once else None, again)
    site.connectors.append(connector)
    connector.peer.close()
    site.until(lambda: again.ended is not None and not collector.collected_sessions)
    assert not connector.peer.abandoned
    assert complete(site.captures()[0]) == 100
    assert len(site.captures()) == 1
    site.close()


def test_a_session_that_expired_is_closed_and_can_still_go_on(site: Site) -> None:
    collector = site.open(settings=QUICK)
    source = Source("one")
    peer = site.connect(source).peer
    source.give(100, peer)
    site.until(lambda: peer.session.unacknowledged == 0)
    site.listener.close()
    for other in list(site.listener.peers.values()):
        other.detach("a cable is cut")
    site.until(lambda: not collector.collected_sessions)
    assert numbers(site.captures()[0]) == list(range(100))
    site.listener = listen(site.loop, site.address, collector.choose, collector.handler_for)
    source.give(100, peer)
    source.finish(peer)
    site.until(lambda: source.ended is not None and not collector.collected_sessions)
    assert numbers(site.captures()[0]) == list(range(200))
    assert complete(site.captures()[0]) == 200
    assert collector.events == 200
    site.close()
    summary = collector.summary()
    assert (summary["events"], summary["sessions"], summary["unproven"]) == (200, 1, 0)


def test_a_source_that_is_refused_as_there_are_too_many_leaves_nothing_behind(site: Site) -> None:
    collector = site.open()
    site.listener.close()
    site.listener = site.listen(site.address, limits=Limits(sessions=1))
    first, second = Source("one"), Source("two")
    peer = site.connect(first).peer
    first.give(100, peer)
    site.until(lambda: peer.session.unacknowledged == 0)
    other = site.connect(second).peer
    second.give(100, other)
    site.until(lambda: any("too many sessions" in line for line in site.said))
    assert (collector.begun, len(collector.collected_sessions), len(collector.tokens)) == (1, 1, 1)
    assert [one.token for one in collector.storage.all()] == [peer.session.token]
    first.finish(peer)
    site.until(lambda: first.ended is not None)
    second.finish(other)
    site.until(lambda: second.ended is not None and not collector.collected_sessions)
    assert collector.begun == 2
    assert [complete(path) for path in site.captures()] == [100, 100]
    site.close()


def test_a_session_that_is_known_stays_known_where_its_source_is_refused(site: Site) -> None:
    site.open()
    source = Source("one")
    peer = site.connect(source).peer
    source.give(100, peer)
    site.until(lambda: peer.session.unacknowledged == 0)
    site.close()
    collector = site.open()
    site.listener.close()
    site.listener = site.listen(site.address, limits=Limits(sessions=0))
    site.until(lambda: any("too many sessions" in line for line in site.said))
    assert not collector.collected_sessions
    site.listener.close()
    site.listener = site.listen(site.address)
    source.finish(peer)
    site.until(lambda: source.ended is not None and not collector.collected_sessions)
    assert (collector.begun, complete(site.captures()[0])) == (0, 100)
    site.close()


def test_nobody_takes_over_the_session_of_another(site: Site) -> None:
    """On a Unix socket the other end's user is known; over TLS its certificate."""
    collector = site.open()
    source = Source("one")
    peer = site.connect(source).peer
    source.give(10, peer)
    site.until(lambda: peer.session.unacknowledged == 0)
    token = peer.session.token
    site.close()
    collector = site.open()
    hello = type("H", (), {"role": Role.SOURCE, "token": token})()
    with pytest.raises(KwireError, match="another's"):
        collector.choose(hello, "uid:12345", "unix:/x")
    with pytest.raises(KwireError, match="takes events and gives none"):
        collector.choose(type("H", (), {"role": Role.SINK, "token": bytes(16)})(), "", "unix:/x")
    site.close()


def test_a_checkpoint_that_cannot_be_written_holds_the_acknowledgement_back(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = site.open()
    monkeypatch.setattr(storage, "AGAIN", 0.05)
    source, other = Source("one"), Source("two")
    peer, second = site.connect(source).peer, site.connect(other).peer
    source.give(100, peer)
    other.give(100, second)
    site.until(lambda: peer.session.unacknowledged == second.session.unacknowledged == 0)
    told: list[object] = []
    requested = Source.requested

    def hear(self: Source, peer: Peer, number: int, body: Mapping[str, Any]) -> None:
        if body.get("op") == "disk":
            told.append((self.host, body["full"]))
        requested(self, peer, number, body)

    monkeypatch.setattr(Source, "requested", hear)
    write, broken = Checkpoint.write, True

    def refuse(self: Checkpoint, contents: Contents) -> None:
        if broken and peer.session.token.hex() in self.path:
            raise CheckpointError("write", self.path, "No space left on device")
        write(self, contents)

    monkeypatch.setattr(Checkpoint, "write", refuse)
    source.give(100, peer)
    other.give(100, second)
    site.until(lambda: second.session.unacknowledged == 0)
    assert peer.session.unacknowledged == 2
    assert any("No space left" in line for line in site.said)
    for _ in range(3):  # that others are well does not make this one well
        other.give(10, second)
        site.until(lambda: second.session.unacknowledged == 0)
    assert not any("takes everything again" in line for line in site.said)
    site.until(lambda: told == [("one", True)])
    broken = False
    site.until(lambda: peer.session.unacknowledged == 0)
    assert any("takes everything again" in line for line in site.said)
    site.until(lambda: told == [("one", True), ("one", False)])
    assert collector.problems == []
    for one, its in ((source, peer), (other, second)):
        one.finish(its)
    site.until(lambda: not collector.collected_sessions)
    assert [numbers(path) for path in site.captures()] == [list(range(200)), list(range(230))]
    site.close()


def test_a_disk_that_fails_harms_one_session_only_and_for_a_while(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = site.open()
    source, other = Source("one"), Source("two")
    peer, second = site.connect(source).peer, site.connect(other).peer
    source.give(100, peer)
    other.give(100, second)
    site.until(lambda: peer.session.unacknowledged == second.session.unacknowledged == 0)
    take, fails = Store.take, [True]

    def failing(self: Store, stored_session: Any, sequence: int, payload: Any) -> None:
        take(self, stored_session, sequence, payload)
        if fails and stored_session.token == peer.session.token:
            fails.pop()
            raise CaptureError("write", self.path, "Input/output error")

    monkeypatch.setattr(Store, "take", failing)
    source.give(500, peer)
    other.give(500, second)
    site.until(lambda: not fails)
    source.finish(peer)
    other.finish(second)
    site.until(
        lambda: source.ended is not None and other.ended is not None and not collector.collected_sessions
    )
    assert any("Input/output error" in line for line in site.said)
    assert [complete(path) for path in site.captures()] == [600, 600]
    assert [numbers(path) for path in site.captures()] == [list(range(600))] * 2
    site.close()


def test_a_folder_that_cannot_be_written_is_waited_for(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    collector = site.open()
    monkeypatch.setattr(storage, "AGAIN", 0.05)
    opened, full = Store._open, True

    def refusing(self: Store, *arguments: Any, **more: Any) -> None:
        if full:
            raise CaptureError("open capture", "x", "no room for its beginning")
        opened(self, *arguments, **more)

    monkeypatch.setattr(Store, "_open", refusing)
    source = Source("one")
    peer = site.connect(source).peer
    source.give(1000, peer)
    site.until(lambda: collector.trouble)
    assert peer.session.unacknowledged > 0
    full = False
    source.finish(peer)
    site.until(lambda: source.ended is not None and not collector.collected_sessions)
    assert numbers(site.captures()[0]) == list(range(1000))
    site.close()


def test_a_session_begins_when_the_disk_takes_its_checkpoint(site: Site) -> None:
    """Else the next collector does not know it, and all that waits counts as lost."""
    disk = site.path / "in"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "kwire-test", disk]).returncode:
        pytest.skip("cannot mount a small file system")
    try:
        site.open()
        filler = disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb", 0) as file:
            while file.write(bytes(4096)):
                pass
        source = Source("one")
        peer = site.connect(source).peer
        source.give(1000, peer)
        site.until(lambda: site.collector.trouble)
        assert (site.collector.collected_sessions, site.collector.begun) == ({}, 0)
        site.close()
        filler.unlink()
        site.open()
        source.finish(peer)
        site.until(lambda: source.ended is not None)
        site.close()
        assert [complete(path) for path in site.captures()] == [1000]
        assert site.collector.summary()["lost"] == 0
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_merged_capture_that_is_cut_after_its_sessions_have_ended(site: Site) -> None:
    """And a collector that comes back to it says of all sessions in it what there is."""
    target = str(site.path / "in" / "all.pcapng")
    for name, wanted in (("one", (10, 0)), ("two", (20, 0)), ("three", (0, 30))):
        collector = site.open(target)
        source = Source(name)
        peer = site.connect(source).peer
        source.give(10, peer)
        source.finish(peer)
        site.until(lambda source=source: source.ended is not None and not site.collector.collected_sessions)  # type: ignore[misc]
        if name == "three":
            os.truncate(target, 0)
        site.close()
        summary = collector.summary()
        assert (summary["events"], summary["lost"]) == wanted
        assert summary["unproven"] == 0 or name == "three"


def test_what_does_not_add_up_is_not_proven(site: Site) -> None:
    """An older checkpoint is put back, as a power cut may do: what it does not know is cut off, and gone."""
    site.open()
    source = Source("one")
    peer = site.connect(source).peer
    source.give(50, peer)
    site.until(lambda: peer.session.unacknowledged == 0)
    site.loop.turn(0.05)
    (checkpoint,) = (site.path / "in" / ".sessions").iterdir()
    older = checkpoint.read_bytes()
    source.give(50, peer)
    site.until(lambda: peer.session.unacknowledged == 0)
    site.close(kill=True)
    checkpoint.write_bytes(older)
    site.open()
    source.give(50, peer)
    source.finish(peer)
    site.until(lambda: source.ended is not None)
    site.close()
    summary = site.collector.summary()
    assert (summary["events"], summary["lost"], summary["unproven"]) == (100, 0, 1)
    assert any("not here before it, though the source was told so" in text for text in summary["problems"])
    assert not any("broke the protocol" in text for text in summary["problems"])


@pytest.mark.parametrize("merged", [False, True])
def test_a_session_is_known_while_its_capture_cannot_be_opened(
    site: Site, monkeypatch: pytest.MonkeyPatch, merged: bool
) -> None:
    """Deleted by others, and the disk full when its source comes back: nothing is counted twice."""
    monkeypatch.setattr(storage, "AGAIN", 0.05)
    site.open(str(site.path / "in" / "all.pcapng") if merged else "")
    source = Source("one")
    peer = site.connect(source).peer
    source.give(100, peer)
    site.until(lambda: peer.session.unacknowledged == 0)
    real, full = Store._open, [True]

    def refusing(self: Store, *args: Any, **more: Any) -> None:
        if full[0]:
            raise CaptureError("open capture", "here", "no room for its beginning")
        real(self, *args, **more)

    monkeypatch.setattr(Store, "_open", refusing)
    site.captures()[0].unlink()
    source.give(50, peer)
    site.until(lambda: any("is back" in text for text in site.said))
    source.give(50, peer)
    for _ in range(10):
        site.loop.turn(0.02)
    full[0] = False
    source.finish(peer)
    site.until(lambda: source.ended is not None)
    site.close()
    summary = site.collector.summary()
    assert (summary["events"], summary["lost"], summary["problems"]) == (100, 100, [])
    assert [number for path in site.captures() for number in numbers(path)] == list(range(100, 200))


def test_descriptions_cost_what_they_are(site: Site) -> None:
    """Each new probe makes the checkpoint longer by its own description, whatever there was before."""
    collector = site.open()
    source = Source("flood")
    peer = site.connect(source).peer
    source.give(10, peer)
    site.until(lambda: peer.session.unacknowledged == 0)
    (store,) = collector.storage.stores
    checkpoint = store._checkpoint
    assert checkpoint is not None
    costs = []
    for id in range(2, 200):
        before = checkpoint.written
        for frame in schema("flood", id)._replace(program="x" * 1000).frames():
            peer.session.send(frame, site.loop.now())
        peer.flush()
        site.until(lambda: peer.session.unacknowledged == 0)
        costs.append(checkpoint.written - before)
    assert sorted(costs)[-10] < 2000  # but for a few, where most of the checkpoint was out of date
    assert sum(costs) < 3 * 200 * 2000
    site.close()
    assert collector.summary()["events"] == 10


def test_a_merged_capture_goes_by_our_clock(site: Site) -> None:
    target = site.path / "in" / "all.pcapng"
    collector = site.open(str(target))
    skews = {"ahead": 3_000_000_000, "behind": -7_000_000_000, "right": 0}
    sources = [Source(host, skew) for host, skew in skews.items()]
    for source in sources:
        peer = site.connect(source).peer
        source.give(200, peer)
        source.finish(peer)
    site.until(
        lambda: all(source.ended is not None for source in sources) and not collector.collected_sessions
    )
    site.close()
    assert complete(target) == 600
    began = WALL - MONOTONIC
    ours = time.time_ns() - time.monotonic_ns()
    with Capture(str(target)) as capture:
        list(capture)
        schemas = list(capture.schemas.values())
        comments = " ".join(
            comment for interface in capture.sections[0].interfaces for comment in interface.comments
        )
    assert {one.host for one in schemas} == set(skews)
    for each in schemas:
        assert each.clock is not None
        placed = each.clock.wall - each.clock.monotonic  # wall time of its monotonic 0
        assert abs(placed - (ours - skews[each.host])) < 100_000_000, (each.host, began)
    clocks = {host["host"]: host["clock"]["wall_ns"] for host in collector.summary()["hosts"]}
    assert {host: round(-offset / 1e9) for host, offset in clocks.items()} == {
        "ahead": 3,
        "behind": -7,
        "right": 0,
    }
    assert "end of capture" in comments


def test_a_clock_that_moves_is_followed_from_there_on(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "KEPT", 2)
    monkeypatch.setattr(clock, "INTERVAL", 0.02)
    target = site.path / "in" / "all.pcapng"
    collector = site.open(str(target))
    source = Source("web1")
    peer = site.connect(source).peer
    source.give(100, peer)
    site.until(lambda: collector.events == 100)
    (collected_session,) = collector.collected_sessions.values()
    before = collected_session.anchored
    source.skew = 5_000_000_000
    site.until(lambda: abs(before - collected_session.anchored - 5_000_000_000) < 1_000_000_000)
    source.give(100, peer)
    source.finish(peer)
    site.until(lambda: source.ended is not None and not collector.collected_sessions)
    site.close()
    assert complete(target) == 200
    walls = []
    with Capture(str(target)) as capture:
        for frames in capture:
            walls += [
                capture.schemas[1].wall(struct.unpack("=QII", frame.payload)[0])
                for frame in frames
                if frame.header.type == Type.EVENT
            ]
    assert walls[99] - walls[0] == 99
    assert abs(walls[100] - walls[99] + 5_000_000_000) < 100_000_000


def test_an_agent_without_a_clock_keeps_its_own(site: Site) -> None:
    target = site.path / "in" / "all.pcapng"
    collector = site.open(str(target))
    source = Source("old", skew=None)
    peer = site.connect(source).peer
    source.give(10, peer)
    source.finish(peer)
    site.until(lambda: source.ended is not None and not collector.collected_sessions)
    site.close()
    assert complete(target) == 10
    with Capture(str(target)) as capture:
        list(capture)
        assert capture.schemas[1].clock == Clock("monotonic", MONOTONIC, WALL)


class Answering(Source):
    """An agent that listens, and traces when it is asked to."""

    def __init__(self, host: str, refuses: bool = False) -> None:
        super().__init__(host)
        self.refuses, self.asked = refuses, 0

    def established(self, peer: Peer) -> None:
        self.peer = peer

    def requested(self, peer: Peer, number: int, body: Mapping[str, Any]) -> None:
        if body.get("op") == "trace" and not self.refuses:
            self.asked += 1
            peer.session.reply(number, {"ok": True, "probes": 1}, peer.loop.now())
            self.give(100, peer)
        elif body.get("op") == "stop":
            peer.session.reply(number, {"ok": True}, peer.loop.now())
            self.finish(peer)
        else:
            super().requested(peer, number, body)


def fetching(site: Site, source: Answering) -> tuple[Listener, Connector]:
    """A listening source, and the collector's connector to it."""
    address = Address("unix", path=str(site.path / source.host))

    def choose(hello: Any, identity: str, place: str) -> Session:
        if source.session is None or source.session.token != hello.token:
            source.session = Session(
                Role.SOURCE, initiator=False, token=hello.token, about={"host": source.host}
            )
            source.sent = 0
            for frame in () if source.refuses else schema(source.host).frames():
                source.session.send(frame, time.monotonic())
        return source.session

    listener = listen(site.loop, address, choose, lambda session: source)
    collector = site.collector
    connector = connect(site.loop, address, lambda: collector.fetch(address), collector)
    site.connectors.append(connector)
    return listener, connector


def test_agents_that_listen_are_asked_for_their_traces(site: Site) -> None:
    site.open()
    source = Answering("web1")
    listener, connector = fetching(site, source)
    site.until(lambda: site.collector.events == 100)
    site.collector.end_traces()
    assert site.collector.has_traces()
    connector.close()
    site.until(lambda: source.ended is not None and not site.collector.collected_sessions)
    assert source.asked == 1
    assert complete(site.captures()[0]) == 100
    site.close()
    listener.close()


def test_an_agent_that_was_never_reached_has_no_trace_to_wait_for(site: Site) -> None:
    """Its session is there, for when it comes."""
    site.open()
    session = site.collector.fetch(Address("unix", path=str(site.path / "nobody")))
    assert session in site.collector.collected_sessions
    site.collector.end_traces()
    assert not site.collector.has_traces()
    site.close()


def test_a_collector_that_comes_back_to_a_listening_agent_asks_for_no_second_trace(site: Site) -> None:
    site.open()
    source = Answering("web1")
    listener, connector = fetching(site, source)
    site.until(lambda: site.collector.events == 100)
    connector.close()
    site.close()
    assert source.peer is not None
    source.give(100, source.peer)
    site.open()
    address = Address("unix", path=str(site.path / "web1"))
    connector = connect(site.loop, address, lambda: site.collector.fetch(address), site.collector)
    site.connectors.append(connector)
    site.until(lambda: site.collector.events == 200)
    assert source.asked == 1
    connector.close()
    site.collector.end_traces()
    assert site.collector.has_traces()
    site.until(lambda: source.ended is not None and not site.collector.collected_sessions)
    assert numbers(site.captures()[0]) == list(range(200))
    assert complete(site.captures()[0]) == 200
    site.close()
    listener.close()


def test_a_session_of_an_agent_begun_anew_is_tried_once_and_then_over(site: Site) -> None:
    """Each collector tries the one that it finds open, and none of those that are over."""
    for life in range(4):
        anew = Answering("web1")
        site.open()
        listener, connector = fetching(site, anew)
        tried = connector.peer.session.token
        site.until(lambda: site.collector.events == 100)
        assert len(site.captures()) == life + 1
        assert (connector.peer.session.token != tried) is (life > 0)
        connector.close()
        site.close()
        listener.close()
        assert anew.peer is not None
        anew.peer.detach("the agent ends")
        assert [one.done for one in site.collector.storage.all()].count(False) == 1
    assert [verify_file(str(path)).totals.stored for path in site.captures()] == [100] * 4


def test_an_agent_that_refuses_is_said(site: Site) -> None:
    site.open()
    listener, connector = fetching(site, Answering("web1", refuses=True))
    site.until(lambda: connector.closed)
    assert any("not here" in problem for problem in site.collector.problems)
    assert site.captures() == []
    site.close()
    listener.close()


def test_frames_that_are_not_sound_are_said_and_the_session_goes_on(site: Site) -> None:
    collector = site.open()
    source = Source("one")
    peer = site.connect(source).peer
    peer.session.send(bytes(40), site.loop.now())
    source.give(10, peer)
    source.finish(peer)
    site.until(lambda: source.ended is not None and not collector.collected_sessions)
    site.close()
    summary = collector.summary()
    assert (summary["errors"], summary["events"]) == (1, 10)
    assert "LENGTH_BELOW_HEADER" in summary["problems"][0]


# ---------------------------------------------------------------------- what others do to files and folders


@pytest.mark.parametrize("kill", [True, False])
@pytest.mark.parametrize("merged", [False, True])
def test_a_capture_that_is_moved_while_no_collector_runs(site: Site, kill: bool, merged: bool) -> None:
    """It is found by its inode and its id, and ended; its session goes on in another one."""
    target = str(site.path / "in" / "all.pcapng") if merged else ""
    site.open(target)
    source = Source("one")
    peer = site.connect(source).peer
    source.give(100, peer)
    site.until(lambda: peer.session.unacknowledged == 0)
    site.close(kill)
    (capture,) = site.captures()
    moved = site.path / "in" / "old" / "another-name"
    moved.parent.mkdir()
    capture.rename(moved)
    source.give(100, peer)
    site.open(target)
    site.until(lambda: peer.session.unacknowledged == 0)
    source.finish(peer)
    site.until(lambda: source.ended is not None and not site.collector.collected_sessions)
    site.close()
    assert numbers(moved) == list(range(100))
    (new,) = site.captures()
    assert numbers(new) == list(range(100, 200))
    assert [verify_file(str(path)).problems for path in (moved, new)] == [[], []]
    assert site.collector.summary()["lost"] == 0


@pytest.mark.parametrize("how", ["deleted", "cut"])
def test_a_capture_that_goes_before_its_ending_is_counted_at_once(
    site: Site, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The checkpoint knows that the session has ended, and the file has no ending yet."""
    end = ResumableWriter.close

    def harmed(self: ResumableWriter, *arguments: Any) -> Any:
        monkeypatch.setattr(ResumableWriter, "close", end)
        os.unlink(self.files[0]) if how == "deleted" else os.truncate(self.files[0], 0)
        return self.close(*arguments)

    collector = site.open()
    source = Source("one")
    peer = site.connect(source).peer
    source.give(100, peer)
    site.until(lambda: peer.session.unacknowledged == 0)
    monkeypatch.setattr(ResumableWriter, "close", harmed)
    source.finish(peer)
    site.until(lambda: source.ended is not None and not collector.collected_sessions)
    assert (collector.events, collector.lost) == (0, 100)
    assert sum(verify_file(str(path)).totals.lost for path in site.captures()) == 100
    site.close()
    summary = collector.summary()
    assert (summary["events"], summary["lost"], summary["unproven"]) == (0, 100, 0)


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("back", [False, True])
def test_what_goes_between_two_collectors_is_counted_at_once(site: Site, merged: bool, back: bool) -> None:
    """The checkpoint knows how much it was; whether its agent comes back, or not, it counts once."""
    target = str(site.path / "in" / "all.pcapng") if merged else ""
    site.open(target)
    source = Source("one")
    connector = site.connect(source)
    peer = connector.peer
    source.give(100, peer)
    site.until(lambda: peer.session.unacknowledged == 0)
    site.close()
    site.captures()[0].unlink()
    if not back:
        connector.close()
        peer.detach("it never comes again")
    site.open(target)
    if back:
        source.give(50, peer)
        source.finish(peer)
        site.until(lambda: source.ended is not None and not site.collector.collected_sessions)
    site.close()
    summary = site.collector.summary()
    assert (summary["lost"], summary["events"]) == (100, 50 if back else 0)
    assert summary["unproven"] == (0 if back else 1)
    (capture,) = site.captures()
    report = verify_file(str(capture))
    assert report.totals.lost == 100
    site.open(target)
    site.close()
    assert site.collector.summary()["lost"] == (100 if merged else 0)  # said; of a merged one again


def test_a_merged_capture_whose_sessions_had_ended_may_be_taken_away(site: Site) -> None:
    target = str(site.path / "in" / "all.pcapng")
    for name in ("one", "two"):
        site.open(target)
        source = Source(name)
        peer = site.connect(source).peer
        source.give(10, peer)
        source.finish(peer)
        site.until(lambda source=source: source.ended is not None and not site.collector.collected_sessions)  # type: ignore[misc]
        site.close()
        assert site.collector.summary()["lost"] == 0
        os.rename(target, site.path / f"{name}.pcapng")
    assert any("begun anew" in line for line in site.said)
    assert [complete(site.path / f"{name}.pcapng") for name in ("one", "two")] == [10, 10]


@pytest.mark.parametrize("again", [False, True])
def test_a_merged_capture_without_its_ending_is_missed(site: Site, tmp_path: Path, again: bool) -> None:
    """Its sessions have ended and its collector was killed: nobody could take it for finished. `again`: it
    had an ending, and the collector that was killed had taken it up again.
    """
    folder, left = site.path / "in", tmp_path / "left"
    target = str(folder / "all.pcapng")
    site.open(target)
    source = Source("one")
    peer = site.connect(source).peer
    source.give(10, peer)
    source.finish(peer)
    site.until(lambda: source.ended is not None and not site.collector.collected_sessions)
    soon = time.monotonic() + 0.3
    site.until(lambda: time.monotonic() > soon)  # the checkpoint knows that the session has ended
    if again:
        site.close()
        site.open(target)
    shutil.copytree(folder, left)
    site.close()
    shutil.rmtree(folder)
    left.rename(folder)
    os.unlink(target)
    site.open(target)
    site.close()
    summary = site.collector.summary()
    assert (summary["events"], summary["lost"]) == (0, 10)
    (capture,) = site.captures()
    assert verify_file(str(capture)).totals.lost == 10


@pytest.mark.parametrize("what", ["sessions", "all"])
@pytest.mark.parametrize("kill", [False, True])
def test_a_folder_that_is_removed_under_a_collector_is_made_again(site: Site, what: str, kill: bool) -> None:
    collector = site.open()
    source, idle = Source("one"), Source("idle")
    peer, second = site.connect(source).peer, site.connect(idle).peer
    source.give(100, peer)
    idle.give(10, second)
    site.until(lambda: peer.session.unacknowledged == second.session.unacknowledged == 0)
    shutil.rmtree(site.path / "in" / (".sessions" if what == "sessions" else ""))
    collector.look()
    assert any("it is made again" in line for line in site.said)
    with pytest.raises(FolderError, match="another collector"):
        Folder(str(site.path / "in"))
    source.give(100, peer)
    site.until(lambda: peer.session.unacknowledged == 0)
    if kill:  # the checkpoints are there again, of sessions too that deliver nothing
        site.close(kill=True)
        collector = site.open()
    idle.give(10, second)
    source.finish(peer)
    idle.finish(second)
    site.until(
        lambda: not collector.collected_sessions and source.ended is not None and idle.ended is not None
    )
    site.close()
    summary = collector.summary()
    gone = 0 if what == "sessions" else 110
    assert summary["events"] + summary["lost"] == 220
    assert (summary["lost"], summary["unproven"]) == (gone, 0)


@pytest.mark.parametrize("when", ["before it is back", "as it comes back", "when it is back"])
def test_sessions_are_removed_under_a_collector_that_came_back(
    site: Site, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """What it has taken up it puts back; what it has not it does not know: never half of either."""

    def remove() -> None:
        shutil.rmtree(site.path / "in" / ".sessions")
        site.collector.look()

    site.open()
    source = Source("one")
    peer = site.connect(source).peer
    source.give(100, peer)
    site.until(lambda: peer.session.unacknowledged == 0)
    site.close(kill=True)
    collector = site.open()
    if when == "before it is back":
        remove()
    elif when == "as it comes back":
        known = Storage.remembered

        def remembered(self: Storage, token: bytes) -> Any:
            monkeypatch.setattr(Storage, "remembered", known)
            found = known(self, token)
            remove()
            return found

        monkeypatch.setattr(Storage, "remembered", remembered)
    if when == "when it is back":
        site.until(lambda: [one for one in collector.collected_sessions.values() if one.ready])
        remove()
        source.give(50, peer)
        source.finish(peer)
        site.until(lambda: source.ended is not None and not collector.collected_sessions)
        assert [complete(path) for path in site.captures()] == [150]
    else:
        site.until(lambda: peer.session.state is State.EXPIRED)
    site.close()
    assert [numbers(path) for path in site.captures()] == [list(range(source.sent))]
    assert collector.summary()["errors"] == 0


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("ends", [False, True])
def test_a_checkpoint_that_cannot_be_put_back_is_kept_until_it_can(
    site: Site, monkeypatch: pytest.MonkeyPatch, merged: bool, ends: bool
) -> None:
    """Somebody removes `.sessions`, and then the disk lets nothing be made, and fails the capture."""
    collector = site.open(str(site.path / "in" / "all.pcapng") if merged else "")
    source = Source("one")
    peer = site.connect(source).peer
    source.give(100, peer)
    site.until(lambda: peer.session.unacknowledged == 0)
    shutil.rmtree(site.path / "in" / ".sessions")

    def fail(*_: object) -> None:
        raise CaptureError("write", "it", "input/output error")

    def refuse(*_: object) -> None:
        raise FolderError("write to", "it", "input/output error")

    with monkeypatch.context() as disk:
        disk.setattr(Folder, "mend", refuse)
        disk.setattr(ResumableWriter, "settle", fail)
        source.give(100, peer)
        if ends:
            source.finish(peer)
        site.until(lambda: not collector.storage.stores)
        soon = time.monotonic() + 0.3
        site.until(lambda: time.monotonic() > soon)
    if not ends:
        source.finish(peer)
    site.until(lambda: source.ended is not None and not collector.collected_sessions)
    site.close()
    summary = collector.summary()
    assert (summary["events"], summary["lost"], summary["unproven"]) == (200, 0, 0)
    (capture,) = site.captures()
    assert verify_file(str(capture)).totals.stored == 200


def test_a_merged_capture_has_its_ending_though_its_checkpoint_was_removed(site: Site) -> None:
    target = site.path / "in" / "all.pcapng"
    site.open(str(target))
    source = Source("one")
    peer = site.connect(source).peer
    source.give(100, peer)
    source.finish(peer)
    site.until(lambda: source.ended is not None)
    soon = time.monotonic() + 0.3
    site.until(lambda: time.monotonic() > soon)  # nothing is left to be committed
    shutil.rmtree(site.path / "in" / ".sessions")
    site.close()
    assert complete(target) == 100


@pytest.mark.parametrize("there", ["all.pcapng", "all-0002.pcapng"])
def test_a_merged_capture_overwrites_nothing(site: Site, there: str) -> None:
    """A file of another time, or one that the checkpoint was removed of."""
    target = site.path / "in" / "all.pcapng"
    site.open(str(target), rotate_bytes=1 << 18 if "-" in there else 0)
    source = Source("one")
    (site.path / "in" / there).write_bytes(b"precious")
    peer = site.connect(source).peer
    source.give(20000, peer)
    source.finish(peer)
    site.until(lambda: source.ended is not None)
    site.close()
    assert (site.path / "in" / there).read_bytes() == b"precious"
    written = [path for path in site.captures() if path.name != there]
    assert all(path.name.startswith("all.2") for path in written)
    assert sum(len(numbers(path)) for path in written) == 20000
    if "-" not in there:
        assert any(f"{target} is there, and nothing is known of it here" in line for line in site.said)
    site.open(str(target), rotate_bytes=1 << 18 if "-" in there else 0)  # the checkpoint knows where it lies
    site.close()
    assert site.collector.summary()["lost"] == 0


def test_a_merged_capture_whose_checkpoint_was_removed_is_not_begun_anew_in_its_place(site: Site) -> None:
    target = site.path / "in" / "all.pcapng"
    site.open(str(target))
    source = Source("one")
    peer = site.connect(source).peer
    source.give(100, peer)
    site.until(lambda: peer.session.unacknowledged == 0)
    site.close(kill=True)
    shutil.rmtree(site.path / "in" / ".sessions")
    site.open(str(target))
    other = Source("two")
    peer = site.connect(other).peer
    other.give(10, peer)
    site.until(lambda: peer.session.unacknowledged == 0)
    site.close()
    assert [len(numbers(path)) for path in site.captures()] == [10, 100]  # all.2.pcapng, all.pcapng


def test_checkpoints_that_were_swapped_are_said_and_their_sessions_wait(site: Site) -> None:
    """Nothing is taken for lost that their right names bring back."""
    site.open()
    sources = [Source("one"), Source("two")]
    peers = [site.connect(source).peer for source in sources]
    for source, peer in zip(sources, peers, strict=True):
        source.give(100, peer)
    site.until(lambda: not any(peer.session.unacknowledged for peer in peers))
    site.close(kill=True)
    first, second = (site.path / "in" / ".sessions" / peer.session.token.hex() for peer in peers)

    def swap() -> None:
        first.rename(first.with_suffix(".aside"))
        second.rename(first)
        first.with_suffix(".aside").rename(second)

    swap()
    collector = site.open()
    for checkpoint, other in ((first, second), (second, first)):
        assert any(
            f"{checkpoint.name}: it is the checkpoint of another session, {other.name}" in one
            for one in site.said
        )
    soon = time.monotonic() + 0.5
    site.until(lambda: time.monotonic() > soon)
    assert not collector.collected_sessions
    swap()
    for source, peer in zip(sources, peers, strict=True):
        source.give(10, peer)
        source.finish(peer)
    site.until(
        lambda: all(source.ended is not None for source in sources) and not collector.collected_sessions
    )
    site.close()
    assert sorted(complete(path) for path in site.captures()) == [110, 110]


def test_a_checkpoint_that_cannot_be_read_keeps_nobody_from_being_fetched(site: Site) -> None:
    collector = site.open()
    checkpoint = site.path / "in" / ".sessions" / ("0" * 32)
    checkpoint.mkdir()
    session = collector.fetch(Address("unix", path=str(site.path / "agent")))
    assert session in collector.collected_sessions
    assert any(str(checkpoint) in line for line in site.said)
    site.close()


def test_what_is_no_file_in_the_folder_of_sessions_is_not_waited_for(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "in"))
    for name in ("known", "known.new"):
        os.mkfifo(tmp_path / "in" / ".sessions" / name)
    assert folder.known() == []
    with pytest.raises(OSError, match="No such device"):
        folder.remember(["10.0.0.1"])
    folder.close()


def test_what_is_gone_is_told_by_probe(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Mapping[str, Any]] = []
    requested = Source.requested

    def hear(self: Source, peer: Peer, number: int, body: Mapping[str, Any]) -> None:
        if body.get("op") == "gone":
            told.append(body)
        requested(self, peer, number, body)

    monkeypatch.setattr(Source, "requested", hear)
    site.open()
    source = Source("one")
    peer = site.connect(source).peer
    for frame in schema("one", 2).frames():
        peer.session.send(frame, site.loop.now())
    other = bytearray(events(500, 7))
    for at in range(0, len(other), 24):
        other[at + 4 : at + 8] = (2).to_bytes(4, "big")
    peer.session.send(bytes(other), site.loop.now())
    source.give(30, peer)
    site.until(lambda: peer.session.unacknowledged == 0)
    site.captures()[0].unlink()
    source.give(10, peer)
    site.until(lambda: told)
    assert told[0]["events"] == 37
    assert told[0]["probes"] == {1: 30, 2: 7}
    site.close()


def test_what_is_kept_of_sessions_that_have_ended_does_not_grow(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sums stay what they are; the files of the last ones are named."""
    monkeypatch.setattr(session_statistics, "MOST", 3)
    collector = site.open()

    def ended(source: Source) -> bool:
        return source.ended is not None and not collector.collected_sessions

    for number in range(8):
        source = Source(f"host{number % 2}")
        source.peer = site.connect(source).peer
        source.give(10 + number, source.peer)
        source.finish(source.peer)
        site.until(partial(ended, source))
    assert len(collector.tally.sessions) == len(collector.tally._sums) == 3
    metrics = [one for one in CollectorMetrics(collector).samples() if one is not None]
    site.close()
    summary = collector.summary()
    assert (summary["sessions"], summary["events"]) == (8, sum(range(10, 18)))
    assert (summary["lost"], summary["unproven"], summary["errors"]) == (0, 0, 0)
    assert collector.events == summary["events"]
    keys = ("host", "sessions", "events")
    found = [(*(host[key] for key in keys), len(host["files"])) for host in summary["hosts"]]
    assert found == [("host0", 4, 10 + 12 + 14 + 16, 1), ("host1", 4, 11 + 13 + 15 + 17, 2)]
    told = {one.labels: one.value for one in metrics if one.name == "kwire_host_events_total"}
    assert told == {("host0",): 52, ("host1",): 56}


def test_sessions_that_are_not_remembered_any_more_hold_no_capture(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "PARKED", 2)
    collector = site.open(settings=QUICK)

    def stored(events: int) -> bool:
        return collector.events == events and not collector.storage._dirty

    for number in range(6):
        source = Source(f"host{number}")
        source.peer = site.connect(source).peer
        source.give(10, source.peer)
        site.until(partial(stored, 10 * (number + 1)))
        source.peer.detach("away")
        site.until(lambda: not collector.collected_sessions)
        for path in collector.place.folder.checkpoints():
            os.utime(path, (0, 0))  # it was touched so long ago that the next look deletes it
    assert len(collector.storage._parked) <= 2


def test_how_far_behind_a_host_is(site: Site) -> None:
    """By its own clock: the newest event that is safe, and how old it was then."""
    collector = site.open()
    source = Source("host")
    source.peer = site.connect(source).peer
    source.give(10, source.peer)
    site.until(lambda: "host" in collector.storage.newest)
    assert collector.storage.newest["host"] == (WALL + 9) / 1e9
    lag = collector.storage.lags["host"]
    assert lag > 0
    session = source.peer.session
    [one] = [each for store in collector.storage.stores for each in store.stored_sessions.values()]
    loss = Lost(1, 0, 1, 3, 0, Cause.RING_FULL).frame()
    session.send(loss, site.loop.now())
    source.peer.flush()
    site.until(lambda: collector.lost == 3 and one.stored == one.next)
    assert collector.storage.lags["host"] == lag
    site.close()
