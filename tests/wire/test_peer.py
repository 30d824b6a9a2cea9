"""Sessions with `peer.c`, which was written from docs/protocol.md alone: what is lost is made good."""

from __future__ import annotations

import select
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from waiting import PATIENCE

from kwire.wire.frame import Type, build
from kwire.wire.frames import Frames
from kwire.wire.session import Role, Session, Settings, State, peek_hello
from kwire.wire.transitions import Complained, Delivered

COUNT = 80
SETTINGS = Settings(rto_first=0.2, rto_min=0.05, ack_delay=0.02, ack_every=500)


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The peer, compiled."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    program = tmp_path_factory.mktemp("peer") / "peer"
    source = Path(__file__).with_name("peer.c")
    subprocess.run(
        [compiler, "-O1", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-o", program, source], check=True
    )
    return program


def payloads() -> list[bytes]:
    """What the peer makes as a source: EVENT frames of many sizes; ours are the same."""
    made = []
    for number in range(COUNT):
        size = 24 + number % 37 * 8
        frame = bytearray(build(Type.EVENT, 1, bytes([number & 255]) * (size - 8)))
        frame[8:12] = number.to_bytes(4, "big")
        made.append(bytes(frame))
    return made


@contextmanager
def carrier(kind: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a carrier: "stream", "datagrams" of a socket pair, or "udp" over loopback."""
    if kind == "udp":
        inet = socket.AF_INET, socket.SOCK_DGRAM
        ends = socket.socket(*inet), socket.socket(*inet)
        for end in ends:
            end.bind(("127.0.0.1", 0))
        ends[0].connect(ends[1].getsockname())
        ends[1].connect(ends[0].getsockname())
    else:
        ends = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_STREAM if kind == "stream" else socket.SOCK_DGRAM
        )
    with ends[0], ends[1]:
        yield ends


class Side:
    """Our side: a session, driven over a socket."""

    def __init__(self, role: Role, initiator: bool, datagrams: bool) -> None:
        self.session = Session(role, initiator=initiator, datagrams=datagrams, settings=SETTINGS)
        self.got: list[bytes] = []
        if role is Role.SOURCE:
            for payload in payloads():
                self.session.send(payload, time.monotonic())

    def send(self, end: socket.socket) -> None:
        session = self.session
        for session_event in session.session_events():
            assert not isinstance(session_event, Complained), session_event
            if isinstance(session_event, Delivered):
                self.got.append(bytes(session_event.payload))
                session.consumed(session_event.sequence, time.monotonic())
        for buffer in session.transmit(1 << 16):
            end.sendall(buffer)

    def step(self, end: socket.socket) -> bool:
        """Wait for bytes or the deadline; False at the end of a stream."""
        session, now = self.session, time.monotonic()
        deadline = session.deadline()
        timeout = 0.05 if deadline is None else min(max(deadline - now, 0), 0.05)
        if select.select([end], [], [], timeout)[0]:
            try:
                data = end.recv(1 << 16)
            except ConnectionError:
                return False
            if not data:
                return False
            session.receive(data, time.monotonic())
        session.tick(time.monotonic())
        self.send(end)
        return True


def judge(side: Side, child: subprocess.Popen[bytes], stored: Path) -> None:
    """Both have ended as they should, and what was sent has come, once and in order."""
    assert child.wait(timeout=PATIENCE) == 0
    assert side.session.state is State.CLOSED
    got = b"".join(side.got) if side.session.role is Role.SINK else stored.read_bytes()
    assert got == b"".join(payloads())
    assert len(Frames.walk(got)) == COUNT


@pytest.mark.native
@pytest.mark.parametrize(("kind", "loss"), [("stream", 0), ("datagrams", 15), ("udp", 10)])
@pytest.mark.parametrize("initiator", [True, False], ids=["ours initiates", "theirs initiates"])
@pytest.mark.parametrize("role", list(Role), ids=lambda role: f"ours is {role.value}")
def test_session(peer: Path, tmp_path: Path, role: Role, initiator: bool, kind: str, loss: int) -> None:
    side = Side(role, initiator, kind != "stream")
    if role is Role.SOURCE:
        side.session.close(time.monotonic())
    theirs = [role.other.value, "responder" if initiator else "initiator"]
    theirs += ["stream" if kind == "stream" else "datagrams", str(loss), str(COUNT)]
    stored = tmp_path / "stored"
    with carrier(kind) as (ours, other), stored.open("wb") as file:
        child = subprocess.Popen([str(peer), *theirs], stdin=other.fileno(), stdout=file)
        side.session.connected(time.monotonic())
        side.send(ours)
        end = time.monotonic() + PATIENCE
        # The peer may have ended before we have read its last words.
        while time.monotonic() < end and (child.poll() is None or not side.session.over):
            if not side.step(ours):
                break
            if initiator and side.session.state is State.SUSPENDED:
                side.session.connected(time.monotonic())  # every HELLO, or its answer, was lost
                side.send(ours)
        judge(side, child, stored)
    if loss and role is Role.SOURCE:
        assert side.session._sender.resent > 0  # type: ignore[union-attr]  # a source over datagrams


@pytest.mark.native
@pytest.mark.parametrize("role", list(Role), ids=lambda role: f"ours is {role.value}")
def test_resumption(peer: Path, tmp_path: Path, role: Role) -> None:
    """The peer drops its connection in the middle, three times, and resumes on another."""
    side = Side(role, False, False)
    if role is Role.SINK:
        side.session._receiver.window = 1000  # type: ignore[union-attr]  # so that much is still to come
    stored = tmp_path / "stored"
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(f"{folder}/s")
        listener.listen()
        listener.settimeout(PATIENCE)
        command = [peer, role.other.value, "initiator", "stream", "0", str(COUNT), f"{folder}/s"]
        child = subprocess.Popen(command, stdout=stack.enter_context(stored.open("wb")))
        connections = 0
        while not side.session.over:
            end = stack.enter_context(listener.accept()[0])
            connections += 1
            first = b""
            while (hello := peek_hello(first)) is None:
                first += end.recv(100)
            assert hello.resume == (connections > 1)
            assert hello.about == {"tool": "peer.c"}
            side.session.connected(time.monotonic())
            side.session.receive(first, time.monotonic())
            if role is Role.SOURCE:
                side.session.close(time.monotonic())
            try:
                side.send(end)
                while not side.session.over and side.step(end):
                    pass
            except ConnectionError:
                pass
            if not side.session.over:
                side.session.disconnected(time.monotonic(), "the peer dropped the connection")
        judge(side, child, stored)
        assert connections == 4
