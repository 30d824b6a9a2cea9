"""Peers of other releases, kept: an agent and a collector as plain programs of sockets, struct and CBOR.

They use nothing of kwire, so they stay what they are when it changes. `OLD` speaks as kwire 0.1 did: no
`after` in HELLO, no `version` and no `superseded` in WELCOME, no request that is answered but with an error.
`NEW` speaks as a next release may to one of version 1: more versions offered, keys that nobody knows yet, a
request of its own.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from typing import Any, Final

import cbor2
from waiting import PATIENCE

HELLO, WELCOME, DATA, ACK, REQUEST, REPLY, ERROR, BYE = 3, 4, 2, 5, 9, 10, 11, 12
SCHEMA, EVENT, TABLE = 6, 1, 8
OLD: Final = "old"
NEW: Final = "new"
RELEASES: Final = (OLD, NEW)
MONOTONIC: Final = 5_000_000_000
WINDOW: Final = 1 << 20


def frame(type: int, id: int, payload: bytes, version: int = 1) -> bytes:
    return struct.pack(">BBHI", version << 4 | type, 0, 8 + len(payload), id) + payload


def schema(release: str) -> bytes:
    fields: list[dict[str, Any]] = [
        {"name": "pid", "type": "u32", "offset": 16, "size": 4},
        {"name": "nr", "type": "u32", "offset": 20, "size": 4},
    ]
    clock = {"name": "monotonic", "monotonic": MONOTONIC, "wall": 1_700_000_000_000_000_000}
    body: dict[str, Any] = {
        "probe": "tracepoint:sched:tick",
        "kind": "tracepoint",
        "size": 24,
        "order": "little",
    }
    body |= {"word": 8, "target": "sched:tick", "fields": fields, "clock": clock}
    if release == NEW:
        fields[0]["colour"] = "red"
        body["sampling"] = {"every": 1}
    return frame(SCHEMA, 1, cbor2.dumps(body))


def event(number: int) -> bytes:
    return frame(EVENT, 1, struct.pack("<QII", MONOTONIC + number, 7, number))


class Wire:
    """Frames over a stream socket."""

    def __init__(self, connected: socket.socket) -> None:
        connected.settimeout(PATIENCE)
        self.socket = connected
        self._heard = b""

    def send(self, *frames: bytes) -> None:
        self.socket.sendall(b"".join(frames))

    def read(self) -> tuple[int, int, bytes] | None:
        """Type, id and payload of the next frame; None at the end."""
        while len(self._heard) < 8 or len(self._heard) < struct.unpack_from(">H", self._heard, 2)[0]:
            more = self.socket.recv(65536)
            if not more:
                return None
            self._heard += more
        first, _, size, id = struct.unpack_from(">BBHI", self._heard)
        body, self._heard = self._heard[8:size], self._heard[size:]
        assert first >> 4 == 1
        return first & 15, id, body


def hello(release: str, **changed: Any) -> bytes:
    said: dict[str, Any] = {"token": os.urandom(16), "nonce": 77, "role": "source", "versions": [1]}
    said |= {"about": {"host": f"{release}host", "kernel": "6.1", "tool": "kwire agent"}}
    if release == NEW:
        said |= {"versions": [1, 2], "compress": ["zstd"], "after": [], "next": 0, "resume": False}
        said["about"] |= {"cloud": {"zone": "a"}}
    return frame(HELLO, 0, cbor2.dumps(said | changed))


class Agent:
    """An agent that has connected. `refused`: what the collector said instead of taking it."""

    def __init__(self, path: str, release: str, **changed: Any) -> None:
        connected = socket.socket(socket.AF_UNIX)
        connected.settimeout(PATIENCE)
        connected.connect(path)
        self.release, self.wire = release, Wire(connected)
        self.wire.send(hello(release, **changed))
        answer = self.wire.read()
        assert answer is not None
        assert answer[0] == WELCOME
        self.welcome: dict[str, Any] = cbor2.loads(answer[2])
        self.refused: str = self.welcome.get("refused", "")
        self.asked: list[str] = []
        self.replies: list[dict[str, Any]] = []

    def deliver(self, count: int) -> None:
        """Send so many events in order, say what there were, leave when all of it is acknowledged."""
        totals = frame(TABLE, 0, cbor2.dumps({"produced": {1: count}}))
        payloads = [schema(self.release), b"".join(map(event, range(count))), totals]
        for number, payload in enumerate(payloads):
            self.wire.send(frame(DATA, number, payload))
        if self.release == NEW:
            self.wire.send(frame(REQUEST, 5, cbor2.dumps({"op": "tune", "level": 3})))
        self.wire.send(frame(BYE, len(payloads), cbor2.dumps({"reason": "done"})))
        wanted = 0
        while wanted <= len(payloads):
            got = self.wire.read()
            assert got is not None, "the collector has closed before it acknowledged all"
            type, id, body = got
            assert type != ERROR, cbor2.loads(body)
            if type == ACK:
                wanted = id
            elif type == REQUEST:
                self.asked.append(cbor2.loads(body)["op"])
                self.wire.send(frame(REPLY, id, cbor2.dumps({"error": {"text": "not here"}})))
            elif type == REPLY:
                self.replies.append(cbor2.loads(body))
        self.wire.socket.close()


class Collector:
    """A collector at a Unix socket: one session, kept in `payloads`."""

    def __init__(self, path: str, release: str) -> None:
        self.release = release
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        self.listener.settimeout(PATIENCE)
        self.hello: dict[str, Any] = {}
        self.payloads: list[bytes] = []
        self.replies: list[dict[str, Any]] = []

    def accept(self, then: bytes = b"", **changed: Any) -> Wire:
        """Let one in, and welcome it; `then` comes with the WELCOME, before the other side can have ended."""
        wire = Wire(self.listener.accept()[0])
        got = wire.read()
        assert got is not None
        assert got[0] == HELLO
        self.hello = cbor2.loads(got[2])
        said: dict[str, Any] = {"token": self.hello["token"], "nonce": self.hello["nonce"], "role": "sink"}
        said |= {"window": WINDOW, "about": {"host": f"{self.release}sink", "tool": "kwire collect"}}
        if self.release == NEW:
            said |= {"version": 1, "compress": "none", "resume": False, "next": 0}
        wire.send(frame(WELCOME, 0, cbor2.dumps(said | changed)) + then)
        return wire

    def collect(self) -> None:
        """Take a session to its end; of attempts that were given up meanwhile the next one."""
        asked = frame(REQUEST, 9, cbor2.dumps({"op": "tune", "level": 3})) if self.release == NEW else b""
        while True:
            with contextlib.suppress(BrokenPipeError, AssertionError):
                wire = self.accept(asked)
                break
        while (got := wire.read()) is not None:
            type, id, body = got
            assert type != ERROR, cbor2.loads(body)
            if type == DATA:
                self.payloads.append(body)
            elif type == REPLY:
                self.replies.append(cbor2.loads(body))
            if type in (DATA, BYE):
                wire.send(frame(ACK, id + 1, struct.pack(">I", WINDOW)))
            if type == BYE:
                break
        wire.socket.close()
