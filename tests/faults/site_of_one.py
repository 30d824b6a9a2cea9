"""A collector and its sources in one loop, in one process: for tests that look into both."""

from __future__ import annotations

import struct
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from said import Said
from verified import verify_file
from waiting import until

from kwire.capture.reader import Capture
from kwire.collector.collected_session import CaptureTarget
from kwire.collector.collector import Collector
from kwire.collector.folder import Folder
from kwire.collector.store import Options
from kwire.transport import clock
from kwire.transport.address import Address
from kwire.transport.connect import Connector, connect
from kwire.transport.half_open import Roster
from kwire.transport.listen import Listener, listen
from kwire.transport.loop import Loop
from kwire.transport.peer import Handler, Peer
from kwire.wire.control import Role
from kwire.wire.frame import Type
from kwire.wire.messages import totals_frames
from kwire.wire.schema import Clock, Field, Schema
from kwire.wire.session import Session, Settings

MONOTONIC, WALL = 5_000_000_000, 1_700_000_000_000_000_000


def schema(host: str, id: int = 1) -> Schema:
    fields = (Field("pid", "u32", 16, 4), Field("nr", "u32", 20, 4))
    pair = Clock("monotonic", MONOTONIC, WALL)
    probe = f"tracepoint:sched:tick{id}"
    return Schema(id, probe, "tracepoint", probe[11:], fields, 24, sys.byteorder, clock=pair, host=host)


def events(first: int, count: int) -> bytes:
    return b"".join(
        struct.pack(">BBHI", 0x11, 0, 24, 1) + struct.pack("=QII", MONOTONIC + number, 7, number)
        for number in range(first, first + count)
    )


class Source(Handler):
    """An agent without a kernel. `skew`: ns by which its clock is ahead of ours; None: it tells none."""

    def __init__(self, host: str, skew: int | None = 0) -> None:
        self.host, self.skew, self.sent = host, skew, 0
        self.ended: str | None = None
        self.problems: list[object] = []
        self.peer: Peer | None = None
        self.session: Session | None = None

    def make(self, token: bytes = b"", datagrams: bool = False, **more: Any) -> Session:
        about = {"host": self.host, "kernel": "6.1", "tool": "test"}
        self.session = Session(
            Role.SOURCE, initiator=True, token=token, about=about, datagrams=datagrams, **more
        )
        for frame in schema(self.host).frames():
            self.session.send(frame, time.monotonic())
        return self.session

    def give(self, count: int, peer: Peer) -> None:
        for first in range(self.sent, self.sent + count, 50):
            number = min(50, self.sent + count - first)
            peer.session.send(events(first, number), peer.loop.now())
        self.sent += count
        peer.flush()

    def finish(self, peer: Peer) -> None:
        for frame in totals_frames({1: self.sent}):
            peer.session.send(frame, peer.loop.now())
        peer.close()

    def requested(self, peer: Peer, number: int, body: Mapping[str, Any]) -> None:
        if body.get("op") == clock.OP and self.skew is not None:
            answer = clock.answer()
            shifted = {name: answer[name] + self.skew for name in ("received", "sent", "wall")}
            peer.session.reply(number, {"ok": True} | shifted, peer.loop.now())
        else:
            peer.session.reply(number, {"error": {"text": "not here"}}, peer.loop.now())

    def complained(self, peer: Peer, problem: object) -> None:
        self.problems.append(problem)

    def closed(self, peer: Peer, why: str) -> None:
        self.ended = why


class Site:
    """A collector that listens on a Unix socket, in a loop with its sources."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.loop = Loop()
        self.connectors: list[Connector] = []
        self.said_of_failures = Said()
        self.address = Address("unix", path=str(path / "socket"))
        self.collector: Collector
        self.listener: Listener

    def open(self, merged: str = "", settings: Settings = Settings(), **options: Any) -> Collector:  # noqa: B008
        place = CaptureTarget(Folder(str(self.path / "in")), merged, Options(**options))
        self.said = Said()
        self.collector = Collector(self.loop, place, settings, say=self.said)
        self.roster = Roster()
        self.listener = self.listen(self.address)
        return self.collector

    def listen(self, address: Address, **more: Any) -> Listener:
        """One more address of the same collector."""
        collector = self.collector
        return listen(
            self.loop, address, collector.choose, collector.handler_for, roster=self.roster,
            said=self.said, **more,
        )  # fmt: skip

    def close(self, kill: bool = False) -> None:
        """Stop the collector; `kill`: as kill -9 does, nothing more is written."""
        self.listener.close()
        if kill:
            for peer in list(self.listener.peers.values()):
                if peer.transport is not None:
                    peer.transport.close()
                    peer.transport = None
                self.loop.cancel(peer._timer)
            self.loop.cancel(self.collector.storage._commit)
            for collected_session in self.collector.collected_sessions.values():
                self.loop.cancel(collected_session.timer)
                if collected_session.store is not None and not collected_session.store.closed:
                    collected_session.store.writer.promise()  # nothing is taken back
                    collected_session.store.leave()
        else:
            self.collector.stop()
        self.collector.place.folder.close()

    def end(self) -> None:
        """The test is over: free everything."""
        for connector in self.connectors:
            connector.close()
            connector.peer.detach("the test is over")
        self.listener.close()
        self.loop.close()

    def connect(self, source: Source, address: Address | None = None, **more: Any) -> Connector:
        session = source.make(datagrams=(address or self.address).datagrams, **more)
        once = [session]
        connector = connect(self.loop, address or self.address, lambda: once.pop() if once else None, source)
        self.connectors.append(connector)
        return connector

    def until(self, condition: Callable[[], object]) -> None:
        until(condition, turn=lambda: self.loop.turn(0.05))

    def captures(self) -> list[Path]:
        return sorted((self.path / "in").glob("*.pcapng"))


def numbers(path: Path) -> list[int]:
    found: list[int] = []
    with Capture(str(path)) as capture:
        for frames in capture:
            found += [
                struct.unpack("=QII", frame.payload)[2] for frame in frames if frame.header.type == Type.EVENT
            ]
        assert capture.problem is None
    return found


def complete(path: Path) -> int:
    report = verify_file(str(path))
    assert report.complete, report
    return report.totals.stored
