"""REQUEST and REPLY: asked until answered, told once, answered again where the answer was lost.

Invariants: a request is known by its number, so that a repeated one is the same one; at most `requests` of
them are open in each direction; the last answers are kept, as many, for requests that come again. What is too
long for one frame is continued over byte streams; over datagrams it must fit one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kwire.errors import KwireError
from kwire.wire import cbor
from kwire.wire.frame import HEADER_SIZE, MASK, MAX_FRAME, Frame, Type, bad_payload, build
from kwire.wire.schema import merge_map, pack_map, pop_more
from kwire.wire.settings import Settings
from kwire.wire.transitions import Replied, Requested, SessionEvent

FOREVER = float("inf")
MAX_DATAGRAM = 65507  # the longest payload of UDP over IPv4
MAX_BODY = MAX_FRAME - HEADER_SIZE - 3


def body_frames(type: Type, number: int, body: Mapping[Any, Any]) -> list[bytes]:
    """The frames of a body over a byte stream."""
    return [build(type, number, payload) for payload in pack_map(dict(body), MAX_BODY)]


class Bodies:
    """Puts bodies together that go on over several frames: each of `size` bytes, `parts` at once."""

    __slots__ = ("_parts", "_size", "_waiting")

    def __init__(self, size: int, parts: int) -> None:
        self._size, self._parts = size, parts
        self._waiting: dict[tuple[int, int], tuple[dict[Any, Any], int]] = {}

    def add(self, frame: Frame) -> dict[Any, Any] | None:
        """The body that this frame completes; None while `more` is to come. FrameError if too large."""
        base = frame.offset + HEADER_SIZE
        part = cbor.loads_map(frame.payload, base)
        more = pop_more(part, base)
        key = (frame.header.type, frame.header.id)
        whole, size = self._waiting.pop(key, ({}, 0))
        size += len(frame.payload)
        if size > self._size:
            raise bad_payload(base, f"{size} bytes", f"at most {self._size}")
        if more and len(self._waiting) >= self._parts:
            raise bad_payload(base, "one more payload in parts", f"at most {self._parts}")
        merge_map(whole, part, base)
        if more:
            self._waiting[key] = (whole, size)
        return None if more else whole

    def clear(self) -> None:
        """Forget what is not whole."""
        self._waiting.clear()


class _Asked:
    """One of our requests that has no answer yet."""

    __slots__ = ("at", "frames", "timeout")

    def __init__(self, frames: list[bytes], timeout: float) -> None:
        self.frames = frames
        self.timeout = timeout
        self.at = FOREVER


class Exchange:
    """Both directions of requests and replies of one session."""

    __slots__ = ("_asked", "_bodies", "_datagrams", "_flags", "_next", "_replies", "_settings", "_told")

    def __init__(self, settings: Settings, datagrams: bool, flags: int, first: int) -> None:
        self._settings = settings
        self._datagrams = datagrams
        self._flags = flags
        self._next = first
        self._asked: dict[int, _Asked] = {}
        self._told: set[int] = set()  # their requests that our owner has not answered
        self._replies: dict[int, list[bytes]] = {}  # our last answers, oldest first
        self._bodies = Bodies(settings.request_size, 0 if datagrams else settings.requests)

    def ask(self, body: Mapping[Any, Any]) -> tuple[int, list[bytes]]:
        """A new request: its number and its frames."""
        if len(self._asked) >= self._settings.requests:
            cause = f"{len(self._asked)} requests are not answered yet"
            raise KwireError("send request", "", cause, "wait for replies")
        number, self._next = self._next, (self._next + 1) & MASK
        frames = self._frames(Type.REQUEST, number, body)
        self._asked[number] = _Asked(frames, self._settings.rto_first)
        return number, frames

    def answer(self, number: int, body: Mapping[Any, Any]) -> list[bytes]:
        """The frames of a reply, which is kept in case the request comes again."""
        frames = self._frames(Type.REPLY, number, body)
        self._told.discard(number)
        self._replies[number] = frames
        if len(self._replies) > self._settings.requests:
            del self._replies[next(iter(self._replies))]
        return frames

    def start(self, now: float) -> list[bytes]:
        """The session is established (again): every frame of what is not answered."""
        self._bodies.clear()
        out: list[bytes] = []
        for asked in self._asked.values():
            out += self._send(asked, now)
        return out

    def stop(self) -> None:
        """The transport is gone."""
        for asked in self._asked.values():
            asked.at = FOREVER

    def sent(self, number: int, now: float) -> None:
        """The frames of request `number` go out now."""
        self._send(self._asked[number], now)

    @property
    def deadline(self) -> float:
        """When `repeat` is to be called."""
        return min((asked.at for asked in self._asked.values()), default=FOREVER)

    def repeat(self, now: float) -> list[bytes]:
        """Frames of the requests whose time has come, their timeouts doubled."""
        out: list[bytes] = []
        for asked in self._asked.values():
            if asked.at <= now:
                asked.timeout = min(asked.timeout * 2, self._settings.rto_max)
                out += self._send(asked, now)
        return out

    def request(self, frame: Frame, out: list[SessionEvent]) -> list[bytes]:
        """A REQUEST came: tell it into `out`, or give the frames of the reply that it had before."""
        number = frame.header.id
        if number in self._replies:
            return self._replies[number]
        if number in self._told:
            return []
        if len(self._told) >= self._settings.requests:
            raise bad_payload(
                frame.offset, "one more REQUEST", f"at most {self._settings.requests} unanswered"
            )
        body = self._bodies.add(frame)
        if body is not None:
            self._told.add(number)
            out.append(Requested(number, body))
        return []

    def reply(self, frame: Frame, out: list[SessionEvent]) -> list[bytes]:
        """A REPLY came: tell it into `out` where it answers something; there is nothing to send."""
        number = frame.header.id
        if number in self._asked:
            body = self._bodies.add(frame)
            if body is not None:
                del self._asked[number]
                out.append(Replied(number, body))
        return []

    def _send(self, asked: _Asked, now: float) -> list[bytes]:
        asked.at = now + asked.timeout if self._datagrams else FOREVER
        return asked.frames

    def _frames(self, type: Type, number: int, body: Mapping[Any, Any]) -> list[bytes]:
        if self._datagrams:
            size = len(cbor.dumps(body))
            if size > MAX_DATAGRAM - HEADER_SIZE - 3:
                cause = f"{size} bytes do not fit a datagram"
                raise KwireError(
                    f"send {type.name.lower()}", str(number), cause, "use a stream: tcp, tls or unix"
                )
            return [build(type, number, cbor.dumps(body), self._flags)]
        return body_frames(type, number, body)
