"""Frames between the processes of an agent that listens, over the Unix socket of server and trace process.

    to the trace process   REQUEST: the client's request, and who asks; REQUEST `stop`
    to the server          REPLY: what the client is answered; DATA; REQUEST `ended`, last

Invariants: the frames are those of sessions, without a session: both ends are ours, and the socket loses
nothing. The socket does not block; what it does not take waits here. Whoever sees the other end closed, or
what no agent sends, is done with it.
"""

import select
import socket
from collections import deque
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from kwire.transport.tcp import Buffer, rest
from kwire.wire.exchange import Bodies, body_frames
from kwire.wire.frame import HEADER_SIZE, Frame, FrameError, Type, pack_header, read_header
from kwire.wire.frames import FrameBuffer

QUEUE: Final = 2 << 20
"""Bytes that wait in a trace process for the server; more wait in the server's session."""

CHUNK: Final = 1 << 18
"""Bytes that are read at a time."""

BODY_MOST: Final = 4 << 20

Came: TypeAlias = tuple[Type, Any]
"""REQUEST or REPLY with its body, or DATA with its payload."""


class Channel:
    """One end of the socket. An outlet for payloads, which takes `QUEUE` bytes."""

    __slots__ = ("_bodies", "_buffer", "_socket", "_waiting", "size")

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self._socket = connected
        self._buffer = FrameBuffer()
        self._bodies = Bodies(BODY_MOST, 1)
        self._waiting: deque[Buffer] = deque()
        self.size = 0
        """Bytes that wait."""

    @property
    def fd(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    @property
    def room(self) -> int:
        """Bytes that it can take."""
        return max(0, QUEUE - self.size)

    def send(self, payload: bytes, now: float = 0.0) -> int:
        """Take a DATA payload."""
        self._put(pack_header(Type.DATA, 0, HEADER_SIZE + len(payload)), payload)
        return 0

    def tell(self, type: Type, body: Mapping[str, Any]) -> None:
        """Take a REQUEST or REPLY, whether there is room or not."""
        self._put(*body_frames(type, 0, body))

    def flush(self) -> bool:
        """Send what the socket takes; whether nothing waits any more. OSError: the other side has gone."""
        while self._waiting:
            buffers = [self._waiting.popleft() for _ in range(min(len(self._waiting), 64))]
            try:
                sent = self._socket.sendmsg(buffers)
            except BlockingIOError:
                sent = 0
            self.size -= sent
            left = rest(buffers, sent)
            if left:
                self._waiting.extendleft(reversed(left))
                return False
        return True

    def drain(self) -> None:
        """Wait until everything is sent. OSError: the other side has gone."""
        while not self.flush():
            select.select((), (self._socket,), ())

    def receive(self) -> list[Came] | None:
        """What has come whole; None where the other side has gone, or is none of ours."""
        try:
            data = self._socket.recv(CHUNK)
        except BlockingIOError:
            return []
        except OSError:
            return None
        frames: list[memoryview] = []

        def take(frame: memoryview) -> bool:
            frames.append(frame)
            return True

        if not data or self._buffer.feed(memoryview(data), take) is not None:
            return None
        try:
            came = [self._read(frame) for frame in frames]
        except FrameError:
            return None
        return [one for one in came if one is not None]

    def wait(self) -> Came:
        """Wait for what has to come now. ConnectionResetError: the other side has gone."""
        while (came := self.receive()) is not None:
            if came:
                return came[0]
            select.select((self._socket,), (), ())
        raise ConnectionResetError("the other side has gone")

    def close(self) -> None:
        """Close the socket; what waits is lost."""
        self._socket.close()

    def _put(self, *buffers: Buffer) -> None:
        self._waiting.extend(buffers)
        self.size += sum(map(len, buffers))

    def _read(self, frame: memoryview) -> Came | None:
        header, payload = read_header(frame), bytes(frame[HEADER_SIZE:])
        if header.type == Type.DATA:
            return Type.DATA, payload
        body = self._bodies.add(Frame(0, header, payload))
        return None if body is None else (Type(header.type), body)
