"""A session: source and sink joined over anything that carries bytes. No input, no output, no clock.

The laws: it is handed bytes and the time, and gives frames to send, happenings, and the next deadline; what
each input does in each state stands in `transitions.TABLE` and nowhere else; nothing a peer sends raises;
memory is bounded on both sides by `Settings`. Call `transmit` after every input. Times are seconds of a
monotonic clock; one that goes back is taken to stand still.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from kwire.errors import KwireError
from kwire.wire import cbor
from kwire.wire.control import (
    TOKEN_SIZE,
    Hello,
    Role,
    error_frame,
    hello_problem,
    peek_hello,
    refusal,
    unknown,
)
from kwire.wire.exchange import Exchange
from kwire.wire.frame import (
    HEADER_SIZE,
    MAX_FRAME,
    Code,
    Flag,
    Type,
    delimit,
    read_header,
)
from kwire.wire.happenings import (
    Abandoned,
    Changed,
    Complained,
    Delivered,
    Happening,
    Replied,
    Requested,
    Watched,
)
from kwire.wire.incoming import Incoming
from kwire.wire.lineage import Lineage
from kwire.wire.machine import LIVE
from kwire.wire.outbox import Buffer, MemoryOutbox, Outbox
from kwire.wire.receiver import Receiver
from kwire.wire.retransmit import DatagramSender
from kwire.wire.sender import FOREVER, Sender
from kwire.wire.sequence import distance
from kwire.wire.settings import DEFAULTS, Settings
from kwire.wire.transitions import TABLE, Input, State

__all__ = [
    "Abandoned",
    "Changed",
    "Complained",
    "Delivered",
    "Happening",
    "Hello",
    "MemoryOutbox",
    "Outbox",
    "Replied",
    "Requested",
    "Role",
    "Session",
    "SessionError",
    "Settings",
    "State",
    "Watched",
    "hello_problem",
    "peek_hello",
    "refusal",
    "unknown",
]

MAX_ABOUT = 2048  # bytes of `about` as CBOR, so that HELLO stays short
MAX_DATA = MAX_FRAME - HEADER_SIZE - 3  # bytes of a DATA payload, with room for padding and checksum
MAX_MESSAGE = 200  # characters of an ERROR's message that are ours to choose
MAX_DATAGRAM_DATA = 65507 - HEADER_SIZE - 3  # the same in a UDP datagram


class SessionError(KwireError):
    """A call that the session's state does not allow: an error of the caller, never of the peer."""


class Session(Incoming):
    """One side of a session.

    `initiator`: this side connects and says HELLO. `token`: 16 bytes; an initiator that gives none makes one,
    a responder that gives none takes that of the first HELLO. `resume`: this side knows the session already,
    with `next_expected` (sink) or the payloads in `outbox` (source). `about`: for people, given to the peer.
    `lineage`: of a source that outlives its process; `continued`: the nonce of the HELLO that a responder
    took last. `superseded` says why the session is over where another copy of the source goes on with it.
    """

    __slots__ = ()

    def __init__(
        self,
        role: Role,
        *,
        initiator: bool,
        datagrams: bool = False,
        settings: Settings = DEFAULTS,
        token: bytes = b"",
        about: Mapping[str, Any] = {},
        outbox: Outbox | None = None,
        next_expected: int = 0,
        resume: bool = False,
        lineage: Lineage | None = None,
        continued: int | None = None,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        settings.check()
        if datagrams:
            settings = settings._replace(data_size=settings.datagram_size)
        if len(token) not in (0, TOKEN_SIZE):
            raise SessionError("make session", "", f"a token of {len(token)} bytes", f"give {TOKEN_SIZE}")
        if len(cbor.dumps(about)) > MAX_ABOUT:
            raise SessionError(
                "make session", "", "too much is told about this side", f"at most {MAX_ABOUT} bytes"
            )
        self._setup(settings)
        self._lineage = Lineage() if lineage is None else lineage
        self.continued = continued
        self.role, self.initiator, self.datagrams, self.settings = role, initiator, datagrams, settings
        self.token = token or (random(TOKEN_SIZE) if initiator else b"")
        self.about, self.peer_about = about, {}
        self.watcher, self.stepped = None, None
        self._random = random
        self._known = self._restored = resume
        self._flags = int(Flag.CHECKSUM) if datagrams else 0
        self._sender = self._receiver = None
        if role is Role.SOURCE:
            if outbox is None:
                first = int.from_bytes(random(4), "big") if datagrams else 0
                outbox = MemoryOutbox(settings.memory, first)
            self._sender = (DatagramSender if datagrams else Sender)(outbox, settings, resume)
        else:
            self._receiver = Receiver(next_expected, settings)
        first = int.from_bytes(random(4), "big") if resume else 1
        self._exchange = Exchange(settings, datagrams, self._flags, first)
        self.state = State.SUSPENDED if resume else State.CLOSED if initiator else State.LISTENING
        self._rules = TABLE[self.state]

    # ---- what may be asked at any time

    @property
    def over(self) -> bool:
        """True once the session has ended, one way or the other; it cannot be used again."""
        return self._over

    @property
    def known(self) -> bool:
        """True once the session was established, here or before a restart: it can resume."""
        return self._known

    @property
    def next_sequence(self) -> int:
        """Source: the number that the next payload gets."""
        return self._source("ask the next number of").outbox.next

    @property
    def next_expected(self) -> int:
        """Sink: the first number that is not stored."""
        return self._sink("ask the next number of").expected

    @property
    def room(self) -> int:
        """Source: bytes that the outbox can still take."""
        return self._source("ask the room of").outbox.room

    @property
    def outbox(self) -> Outbox:
        """Source: what is not acknowledged."""
        return self._source("take the outbox of").outbox

    @property
    def unacknowledged(self) -> int:
        """Source: how many DATA frames are not acknowledged."""
        sender = self._source("ask")
        return max(distance(sender.base, sender.outbox.next), 0)

    # ---- inputs

    def connected(self, now: float) -> None:
        """A transport is there (again): an initiator sends HELLO, a responder waits for it."""
        self._clock(now)
        if self._over and self.initiator:
            self._step(Input.OVER, "connect")
        else:
            self._step(Input.CONNECT if self.initiator else Input.ACCEPT, "connect")

    def disconnected(self, now: float, reason: str) -> None:
        """The transport broke."""
        self._clock(now)
        self._step(Input.DISCONNECT, reason)

    def receive(self, data: Buffer, now: float) -> None:
        """Bytes came: any slice of a stream, or exactly one datagram."""
        self._clock(now)
        view = memoryview(data)
        if self.datagrams:
            self._datagram(view)
        elif not self._broken:
            unsound = self._intake.feed(view, self._whole)
            if unsound is not None and not self._broken:
                self._unsound(unsound, delimit(unsound)[1])

    def tick(self, now: float) -> None:
        """Time has passed: at, or after, `deadline()`. Too early does no harm."""
        self._clock(now)
        now = self._now
        if self.state is State.HELLO_SENT and self._hello_at <= now:
            spent = self._tries >= self.settings.hello_tries
            self._step(Input.HELLO_SPENT if spent else Input.HELLO_AGAIN, "HELLO was not answered")
        if self.state in LIVE and self._heard_at + self.settings.keepalive * self.settings.silent <= now:
            self._step(Input.SILENT, "the peer is silent")
        if self.state in LIVE and self._sender is not None and self._sender.deadline <= now:
            self._step(Input.RETRANSMIT)
        if self.state in LIVE and self._ack_at <= now:
            self._ack_at = FOREVER
            self._step(Input.ACK_DUE)
        if self.state in LIVE and self._exchange.deadline <= now:
            self._step(Input.ASK_AGAIN)
        if self.state in LIVE and self._sent_at + self.settings.keepalive <= now:
            self._step(Input.IDLE)
        if self._expire_at <= now:
            self._step(Input.EXPIRE, f"not resumed within {self.settings.expiry:g} s")

    def send(self, payload: Buffer, now: float) -> int:
        """Source: send whole frames back to back, at most `settings.data_size` bytes unless it is one frame.

        Kept until it is acknowledged; look at `room` first. Gives its sequence number.
        """
        sender = self._source("send DATA over")
        self._clock(now)
        limit = MAX_DATAGRAM_DATA if self.datagrams else MAX_DATA
        if len(payload) > limit:
            raise SessionError("send DATA", f"of {len(payload)} bytes", "too long", f"at most {limit}")
        number = sender.outbox.next
        if self._over or self._closing is not None:
            self._step(Input.OVER, "send DATA over")
        self._step(Input.SEND, payload)
        return number

    def consumed(self, upto: int, now: float) -> None:
        """Sink: DATA up to and including number `upto` is stored; only now it is acknowledged."""
        receiver = self._sink("consume")
        self._clock(now)
        if distance(receiver.received, upto) >= 0:
            cause = f"{upto} was not delivered: the next is {receiver.received}"
            raise SessionError("consume DATA", str(upto), cause, "give the number of a Delivered")
        self._step(Input.STORED, upto)

    def request(self, body: Mapping[Any, Any], now: float) -> int:
        """Ask the peer, until it answers; gives the number that the Replied will have."""
        self._clock(now)
        number = 0

        def frames() -> list[bytes]:
            nonlocal number
            number, made = self._exchange.ask(body)
            if self.state in LIVE:
                self._exchange.sent(number, self._now)
            return made

        self._step(Input.OVER if self._over else Input.ASK, "send a request over" if self._over else frames)
        return number

    def reply(self, number: int, body: Mapping[Any, Any], now: float) -> None:
        """Answer the request `number`; a peer that asks again gets the same answer."""
        self._clock(now)
        self._step(Input.ANSWER, lambda: self._exchange.answer(number, body))

    def close(self, now: float, reason: str = "done") -> None:
        """Source: end once all is acknowledged. Sink: end at once; what is not stored is not acknowledged."""
        self._clock(now)
        if not self._over:
            self._step(Input.CLOSE if self._sender is not None else Input.LEAVE, reason)

    def abandon(self, now: float, reason: str = "abandoned") -> None:
        """End now, without waiting: what is not acknowledged is told in Abandoned."""
        self._clock(now)
        if not self._over:
            self._step(Input.ABANDON, reason)

    def fail(self, now: float, message: str) -> None:
        """We cannot go on with it: ERROR says so, and the session is over here. The peer may resume it."""
        self._clock(now)
        live = self.state in LIVE
        self._out.clear()  # a WELCOME too that was not sent yet: then the session has not begun
        self.abandon(now, message)
        if live:
            self._put(error_frame(0, Code.FAILED, message[:MAX_MESSAGE], self._flags))

    # ---- outputs

    def transmit(self, limit: int, now: float | None = None) -> list[Buffer]:
        """Take the frames to send now: about `limit` bytes, at least one frame if there is any.

        Over datagrams each buffer is one datagram; over streams header and payload may be two. Buffers of
        DATA are good until their number is acknowledged.
        """
        if now is not None:
            self._clock(now)
        out: list[Buffer] = []
        if self._out:
            out += self._out
            self._out.clear()
            limit -= sum(map(len, out))
        if self.state in LIVE:
            if self._ack_now:
                out.append(self._ack_frame())
            if self._sender is not None and (limit > 0 or not out):
                self._sender.pull(out, max(limit, 1), self._now)
        if out:
            self._sent_at = self._now
            if self.watcher is not None:
                self._watch_sent(out)
        return out

    def happenings(self) -> list[Happening]:
        """Take what happened, in order."""
        happened = self._happened
        self._happened = []
        return happened

    def deadline(self) -> float | None:
        """When `tick` is to be called, at the latest; None while nothing is waited for."""
        if self._restored:
            return 0.0  # at once: it wants to know the time
        when = self._expire_at
        if self.state in LIVE:
            settings = self.settings
            sender = FOREVER if self._sender is None else self._sender.deadline
            idle = self._sent_at + settings.keepalive
            silent = self._heard_at + settings.keepalive * settings.silent
            when = min(sender, self._ack_at, self._exchange.deadline, idle, silent)
        elif self.state is State.HELLO_SENT:
            when = min(when, self._hello_at)
        return None if when == FOREVER else when - self._shift

    # ---- inside

    def _source(self, what: str) -> Sender:
        if self._sender is None:
            raise SessionError(f"{what} session", self.token.hex()[:8], "this side is the sink")
        return self._sender

    def _sink(self, what: str) -> Receiver:
        if self._receiver is None:
            raise SessionError(f"{what} session", self.token.hex()[:8], "this side is the source")
        return self._receiver

    def _clock(self, now: float) -> None:
        """Take the time; a clock that goes back stands still, and goes on from there."""
        now += self._shift
        if now < self._now:
            self._shift += self._now - now
        else:
            self._now = now
        if self._restored:  # a session from before a restart expires, counted from the first time it is given
            self._restored = False
            self._expire_at = now + self.settings.expiry

    def _ack_frame(self) -> bytes:
        self._ack_now = False
        self._ack_at = FOREVER
        self._ack_bytes = self._ack_frames = 0
        return self._ack().frame(self._flags)

    def _watch_sent(self, out: list[Buffer]) -> None:
        assert self.watcher is not None
        skip = False
        for buffer in out:
            if skip:
                skip = False
                continue
            header = read_header(buffer)
            skip = not self.datagrams and header.type == Type.DATA
            self.watcher(Watched("out", header, [], "sent", self.state, self.state))
