"""A session: source and sink joined over anything that carries bytes. No input, no output, no clock.

Invariants: it is handed bytes and the time, and gives frames to send, session events, and the next deadline;
what each input does in each state stands in `transitions.TABLE` and nowhere else; nothing a peer sends
raises; memory is bounded on both sides by `Settings`. Call `transmit` after every input. Times are seconds of
a monotonic clock; one that goes back is taken to stand still. The state changes in `_step` alone; every
`Action` has one method, `_do_…`, which neither changes the state nor takes a second step.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from kwire.errors import KwireError
from kwire.wire import cbor
from kwire.wire.control import (
    PADDED_HELLO,
    TOKEN_SIZE,
    Ack,
    Hello,
    Role,
    Welcome,
    bye_frame,
    error_frame,
    hello_problem,
    peek_hello,
    read_bye,
    read_error,
    refusal,
    superseded,
    unknown,
)
from kwire.wire.exchange import Exchange
from kwire.wire.frame import (
    HEADER,
    HEADER_SIZE,
    MAX_FRAME,
    VERSION,
    Code,
    Flag,
    Frame,
    FrameError,
    Header,
    Problem,
    Type,
    bad_payload,
    build,
    checksum,
    delimit,
    distance,
    inspect,
    read_header,
)
from kwire.wire.frames import FrameBuffer
from kwire.wire.lineage import Lineage, follows
from kwire.wire.receiver import HELD, TAKEN, Receiver
from kwire.wire.retransmit import DatagramSender
from kwire.wire.send_queue import Buffer, MemorySendQueue, SendQueue
from kwire.wire.sender import DATA_HEAD, FOREVER, Sender
from kwire.wire.settings import DEFAULTS, Settings
from kwire.wire.transitions import (
    TABLE,
    Abandoned,
    Action,
    Changed,
    Complained,
    Delivered,
    Input,
    Replied,
    Requested,
    SessionEvent,
    State,
    Watched,
)
from kwire.words import are

__all__ = [
    "Abandoned",
    "Changed",
    "Complained",
    "Delivered",
    "Hello",
    "MemorySendQueue",
    "Replied",
    "Requested",
    "Role",
    "SendQueue",
    "Session",
    "SessionError",
    "SessionEvent",
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

LIVE = (State.ESTABLISHED, State.DRAINING)
MAX_WAITING = 64  # answers waiting to be sent; what a peer asks for beyond is not answered
MAX_COOKIES = 8  # challenges answered for one HELLO
COPY = "another copy of the source has gone on with the session"
CHECKSUM = int(Flag.CHECKSUM)  # an int: quicker than a flag
# Frames that are an input whatever they hold; others are looked into.
SIMPLE: dict[int, Input] = {
    int(Type.KEEPALIVE): Input.KEEPALIVE,
    int(Type.REQUEST): Input.REQUEST,
    int(Type.REPLY): Input.REPLY,
}


class SessionError(KwireError):
    """A call that the session's state does not allow: an error of the caller, never of the peer."""


class Got:
    """A frame that came, and what was read in it."""

    __slots__ = ("header", "problem", "said")

    def __init__(self, header: Header, said: Any = None, problem: Problem | None = None) -> None:
        self.header = header
        self.said = said
        self.problem = problem


class Session:
    """One side of a session.

    `initiator`: this side connects and says HELLO. `token`: 16 bytes; an initiator that gives none makes one,
    a responder that gives none takes that of the first HELLO. `resume`: this side knows the session already,
    with `next_expected` (sink) or the payloads in `send_queue` (source). `about`: for people, given to the
    peer. `lineage`: of a source that outlives its process; `continued`: the nonce of the HELLO that a
    responder took last. `superseded` says why the session is over where another copy of the source goes on
    with it.
    """

    __slots__ = (
        "_ack_at",
        "_ack_bytes",
        "_ack_frames",
        "_ack_now",
        "_after",
        "_broken",
        "_closing",
        "_cookie",
        "_cookies",
        "_error_at",
        "_error_credit",
        "_exchange",
        "_expire_at",
        "_final",
        "_flags",
        "_frame_buffer",
        "_happened",
        "_heard_at",
        "_hello_at",
        "_hello_timeout",
        "_known",
        "_lineage",
        "_nonce",
        "_now",
        "_out",
        "_over",
        "_random",
        "_receiver",
        "_restored",
        "_rules",
        "_sender",
        "_sent_at",
        "_settled",
        "_shift",
        "_tries",
        "about",
        "continued",
        "datagrams",
        "initiator",
        "peer_about",
        "role",
        "settings",
        "state",
        "superseded",
        "token",
        "watcher",
    )  # fmt: skip

    def __init__(
        self,
        role: Role,
        *,
        initiator: bool,
        datagrams: bool = False,
        settings: Settings = DEFAULTS,
        token: bytes = b"",
        about: Mapping[str, Any] = {},
        send_queue: SendQueue | None = None,
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
        self._lineage = Lineage() if lineage is None else lineage
        self.continued = continued
        self.role, self.initiator, self.datagrams, self.settings = role, initiator, datagrams, settings
        self.token = token or (random(TOKEN_SIZE) if initiator else b"")
        self.about: Mapping[str, Any] = about
        self.peer_about: Mapping[str, Any] = {}
        self.watcher: Callable[[Watched], None] | None = None
        self._random = random
        self._known = self._restored = resume
        self._flags = int(Flag.CHECKSUM) if datagrams else 0
        self._sender: Sender | None = None
        self._receiver: Receiver | None = None
        if role is Role.SOURCE:
            if send_queue is None:
                first = int.from_bytes(random(4), "big") if datagrams else 0
                send_queue = MemorySendQueue(settings.memory, first)
            self._sender = (DatagramSender if datagrams else Sender)(send_queue, settings, resume)
        else:
            self._receiver = Receiver(next_expected, settings)
        first = int.from_bytes(random(4), "big") if resume else 1
        self._exchange = Exchange(settings, datagrams, self._flags, first)
        self.state = State.SUSPENDED if resume else State.CLOSED if initiator else State.LISTENING
        self._rules = TABLE[self.state]
        self._now = self._shift = 0.0
        self._sent_at = self._heard_at = 0.0
        self._hello_at = self._expire_at = self._ack_at = FOREVER
        self._hello_timeout = settings.rto_first
        self._tries = self._cookies = 0
        self._cookie = b""
        self._nonce, self._settled = 0, True
        self._after: tuple[int, ...] | None = None
        self.superseded = ""
        self._ack_now = False
        self._ack_bytes = self._ack_frames = 0
        self._final: bytes | None = None  # the last ACK, or the sink's BYE
        self._error_credit, self._error_at = float(settings.errors), 0.0
        self._broken = False  # the stream is out of step
        self._over = False
        self._closing: str | None = None  # the reason given to close()
        self._out: list[bytes] = []
        self._happened: list[SessionEvent] = []
        self._frame_buffer = FrameBuffer()

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
    def next_expected(self) -> int:
        """Sink: the first number that is not stored."""
        return self._sink("ask the next number of").expected

    @property
    def room(self) -> int:
        """Source: bytes that the send queue can still take."""
        return self._source("ask the room of").send_queue.room

    @property
    def send_queue(self) -> SendQueue:
        """Source: what is not acknowledged."""
        return self._source("take the send queue of").send_queue

    @property
    def unacknowledged(self) -> int:
        """Source: how many DATA frames are not acknowledged."""
        sender = self._source("ask")
        return max(distance(sender.base, sender.send_queue.next), 0)

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
            unsound = self._frame_buffer.feed(view, self._whole)
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

        It is kept until it is acknowledged; look at `room` first. Gives its sequence number.
        """
        sender = self._source("send DATA over")
        self._clock(now)
        limit = MAX_DATAGRAM_DATA if self.datagrams else MAX_DATA
        if len(payload) > limit:
            raise SessionError("send DATA", f"of {len(payload)} bytes", "too long", f"at most {limit}")
        number = sender.send_queue.next
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

    def fail(self, now: float, message: str) -> None:
        """We cannot go on with it: ERROR says so, and the session is over here. The peer may resume it.

        What is not acknowledged is told in Abandoned.
        """
        self._clock(now)
        live = self.state in LIVE
        self._out.clear()  # a WELCOME too that was not sent yet: then the session has not begun
        if not self._over:
            self._step(Input.ABANDON, message)
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

    def session_events(self) -> list[SessionEvent]:
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

    # ---- what comes in: everything is read strictly, and judged in full, before the session changes

    def _whole(self, view: memoryview) -> bool:
        """A whole frame of a stream; False where the stream is out of step."""
        if view[0] == DATA_HEAD and not view[1] and self._short_way:
            receiver = self._receiver
            assert receiver is not None
            _, _, length, number = HEADER.unpack_from(view)
            if receiver.fits(number, length - HEADER_SIZE):
                self._heard_at = self._now
                receiver.take(number, view[HEADER_SIZE:], self._happened)
                return True
        self._frame(view)
        return not self._broken

    def _datagram(self, view: memoryview) -> None:
        """One datagram: one frame with a checksum, or it is damaged."""
        header, problem = delimit(view)
        if problem is None and header is not None:
            if header.length != len(view):
                problem = Problem(Code.TRUNCATED_PAYLOAD, 2, header.length, len(view))
            elif not header.flags & CHECKSUM:
                problem = Problem(Code.BAD_FLAGS, 1, f"{header.flags:#04x}", "CHECKSUM, in a datagram")
            elif header.length < HEADER_SIZE + 2 or checksum(view[:-2]) != view[-2] << 8 | view[-1]:
                problem = Problem(Code.BAD_CHECKSUM, header.length - 2, "another", "that of the frame")
        if problem is not None or header is None:
            self._apply(Input.DAMAGED, Got(header or read_header(bytes(HEADER_SIZE)), None, problem))
        elif view[0] == DATA_HEAD and view[1] == CHECKSUM and self._short_way:
            self._heard_at = self._now
            self._do_take(Got(header, view[HEADER_SIZE:-2]))
        else:
            self._frame(view)

    @property
    def _short_way(self) -> bool:
        """True where DATA may skip the table: it is legal, and nobody watches."""
        return self.watcher is None and self._receiver is not None and self.state in LIVE

    def _unsound(self, view: memoryview, problem: Problem | None) -> None:
        self._broken = True
        self._apply(Input.UNSOUND, Got(read_header(view), None, problem))

    def _frame(self, view: memoryview) -> None:
        """One frame, whole and delimited: read it strictly, name the input it is, apply it."""
        frame, problems = inspect(view)
        assert frame is not None
        if problems:
            self._apply(Input.BAD, Got(frame.header, None, problems[0]))
            return
        self._heard_at = self._now
        try:
            input, got = self._classify(frame, view)
        except FrameError as error:
            input, got = Input.BAD, Got(frame.header, None, error.problem)
        if input is Input.UNSOUND:
            self._broken = True
        self._apply(input, got)

    def _apply(self, input: Input, got: Got) -> None:
        before = self.state
        action = self._step(input, got)
        if self.watcher is not None:
            problems = [] if got.problem is None else [got.problem]
            self.watcher(Watched("in", got.header, problems, action.value, before, self.state))

    # ---- which input a frame is

    def _classify(self, frame: Frame, view: memoryview) -> tuple[Input, Got]:
        """Name the input; FrameError where the payload is not what the type says."""
        header = frame.header
        receiver, sender = self._receiver, self._sender
        type = header.type
        if type == Type.DATA and receiver is not None:
            start = HEADER_SIZE
            payload = view[start : start + len(frame.payload)]
            if not self.datagrams and receiver.breaks(header.id, len(payload)):
                problem = Problem(
                    Code.ILLEGAL_TRANSITION, 4, header.id, f"{receiver.received}, in the window"
                )
                return (Input.UNSOUND if self.state in LIVE else Input.DATA), Got(header, payload, problem)
            return Input.DATA, Got(header, payload)
        if type == Type.ACK and sender is not None:
            ack = Ack.read(header.id, frame.payload)
            if not sender.may_acknowledge(ack.next):
                raise bad_payload(4, ack.next, f"at most {sender.top}, the first that was never sent", "ACK")
            return Input.ACK, Got(header, ack)
        if type == Type.HELLO and not self.initiator:
            return self._which_hello(header, Hello.read(frame))
        if type == Type.WELCOME and self.initiator:
            return self._which_welcome(header, Welcome.read(frame))
        if type == Type.BYE:
            said = (header.id, read_bye(frame)[:200])
            return (Input.END if receiver is not None else Input.LEFT), Got(header, said)
        if type == Type.ERROR:
            return Input.ERROR, Got(header, read_error(frame))
        return SIMPLE.get(type, Input.MISPLACED), Got(header, frame)

    def _which_hello(self, header: Any, hello: Hello) -> tuple[Input, Got]:
        why = self._foreign_to(hello)
        if why:
            return Input.HELLO_FOREIGN, Got(header, hello, bad_payload(HEADER_SIZE, why, "our peer").problem)
        if not self.token and (self.state is State.LISTENING and not hello.resume):
            self.token = hello.token
        if self.state is not State.EXPIRED:
            gone = self._over and self._final is None  # it ended, and not all was acknowledged
            if gone or (hello.resume and not self._known):
                return Input.HELLO_UNKNOWN, Got(header, hello)
            if hello.resume and self._sender is not None and not self._sender.may_acknowledge(hello.next):
                return Input.HELLO_AHEAD, Got(header, hello)
        return Input.HELLO, Got(header, hello)

    def _foreign_to(self, hello: Hello) -> str:
        """Why a HELLO cannot be for this session; empty where it can."""
        if self.token and hello.token != self.token:
            return "another token"
        if hello.role is self.role:
            return f"another {self.role.value}"
        if VERSION not in hello.versions:
            return f"versions {list(hello.versions)}, not {VERSION}"
        if not self.continues(hello):
            return COPY
        return ""

    def _which_welcome(self, header: Any, welcome: Welcome) -> tuple[Input, Got]:
        got = Got(header, welcome)
        if welcome.token != self.token or welcome.nonce != self._nonce or welcome.role is self.role:
            return Input.WELCOME_FOREIGN, got
        if welcome.refused:
            return Input.WELCOME_REFUSED, got
        if welcome.version != VERSION:
            what = f"it chose version {welcome.version} of the protocol, and {VERSION} was offered"
            why = f"{what}; update the older one"
            return Input.WELCOME_REFUSED, Got(header, welcome._replace(refused=why))
        if welcome.cookie:
            return Input.WELCOME_COOKIE, got
        if (
            welcome.unknown
            or welcome.superseded
            or (self._known and not welcome.resume and self.state is State.HELLO_SENT)
        ):
            return Input.WELCOME_UNKNOWN, got
        if welcome.resume and self._sender is not None and not self._sender.may_acknowledge(welcome.next):
            return Input.WELCOME_UNKNOWN, got
        return Input.WELCOME, got

    # ---- the step

    def _step(self, input: Input, value: Any = None) -> Action:
        """Apply the rule of the table, and then those of the inputs that follow from where we are now."""
        rule = self._rules[input]
        why = ACTIONS[rule.action](self, value)
        if rule.next is not self.state:
            self._change(rule.next, why or input.value)
        following = self._following()
        if following is not None:
            self._step(following, self._closing)
        return rule.action

    def _change(self, new: State, why: str) -> None:
        old, self.state = self.state, new
        self._rules = TABLE[new]
        self._happened.append(Changed(old, new, why))

    def _following(self) -> Input | None:
        """The input that follows by itself from the state."""
        state, sender, receiver = self.state, self._sender, self._receiver
        if state is State.DRAINING:
            done = sender.finished if sender is not None else receiver is not None and receiver.finished
            return Input.FINISHED if done else None
        if sender is None or self._closing is None or self._over:
            return None
        if state is State.ESTABLISHED:
            return Input.CLOSE
        return Input.FINISHED if sender.base == sender.send_queue.next else None

    # ---- actions: each gives why the state changes, where it has more to say than the input

    def _do_ignore(self, value: Any) -> str:
        return ""

    def _do_never(self, value: Any) -> str:
        raise AssertionError("an input that cannot happen happened")

    def _do_refuse(self, value: Any) -> str:
        what = "is closing" if self._closing is not None and not self._over else f"is {self.state.name}"
        raise SessionError(str(value), f"session {self.token.hex()[:8]}", f"it {what}", "make a new session")

    def _do_illegal(self, got: Got) -> str:
        found = Type(got.header.type).name
        where = f"{self.role.value}, {'initiator' if self.initiator else 'responder'}, {self.state.name}"
        self._object(got, Problem(Code.ILLEGAL_TRANSITION, 0, found, f"what a peer may send to a {where}"))
        return ""

    def _do_late(self, got: Got) -> str:
        return "" if self.datagrams else self._do_illegal(got)

    def _do_bad(self, got: Got) -> str:
        assert got.problem is not None
        self._object(got, got.problem)
        return str(got.problem)

    def _do_complain(self, got: Got) -> str:
        code, message = got.said
        known = Code(code) if code in Code.__members__.values() else Code.BAD_PAYLOAD
        self._happened.append(Complained(Problem(known, 0, message[:200], f"code {code}"), "peer"))
        return ""

    def _do_attach(self, value: Any) -> str:
        self._do_detach(value)
        self._broken = False
        return ""

    def _do_detach(self, value: Any) -> str:
        self._frame_buffer.clear()
        self._out.clear()
        self._broken = not self.datagrams  # what is left of this stream is not read
        return ""

    def _do_hello(self, value: Any) -> str:
        self._do_attach(value)
        if self._sender is None:
            self._nonce = int.from_bytes(self._random(4), "big")
        else:
            self._nonce, self._after = self._lineage.draw(self._random)
        self._tries = self._cookies = 0
        self._hello_timeout = self.settings.rto_first
        self._hello_at = self._now + self._hello_timeout
        self._say_hello()
        return "connected"

    def _do_hello_again(self, value: Any) -> str:
        self._tries += 1
        self._hello_timeout = min(self._hello_timeout * 2, self.settings.rto_max)
        self._hello_at = self._now + self._hello_timeout
        if self.datagrams:
            self._say_hello()
        return ""

    def _do_cookie(self, got: Got) -> str:
        if got.said.cookie != self._cookie and self._cookies < MAX_COOKIES:
            self._cookie = got.said.cookie
            self._cookies += 1
            self._say_hello()
        return ""

    def _say_hello(self) -> None:
        hello = Hello(
            self.token, self._nonce, self.role, self._known, self._position(), self._window(), self.about,
            cookie=self._cookie, after=self._after,
        )  # fmt: skip
        self._put(hello.frame(self._flags, PADDED_HELLO if self.datagrams else 0))

    def _position(self) -> int:
        """`next` of HELLO and WELCOME."""
        return self._sender.position if self._sender is not None else self._ack().next

    def _window(self) -> int:
        return 0 if self._receiver is None else self._receiver.window

    def _ack(self) -> Ack:
        assert self._receiver is not None
        return self._receiver.ack()

    def _do_welcome(self, got: Got) -> str:
        """A responder begins, or goes on."""
        hello: Hello = got.said
        known = self._known
        self.continued = hello.nonce
        self._begin(hello)
        self._say_welcome(hello, known)
        self._out += self._exchange.start(self._now)
        return f"{'resumed' if known else 'begun'} by the {hello.role.value}"

    def _do_welcome_over(self, got: Got) -> str:
        self._say_welcome(got.said, True)
        return self._do_again(got)

    def _say_welcome(self, hello: Hello, known: bool) -> None:
        next, window = self._position(), self._window()
        answer = Welcome(self.token, hello.nonce, self.role, known, next, window, self.about)
        self._put(answer.frame(self._flags))

    def _do_establish(self, got: Got) -> str:
        """An initiator begins, or goes on."""
        welcome: Welcome = got.said
        known = self._known
        self._begin(welcome)
        self._settled = False
        self._cookie = b""
        self._out += self._exchange.start(self._now)
        return "resumed" if known else "begun"

    def _begin(self, peer: Hello | Welcome) -> None:
        """Send and receive from where both sides are."""
        self.peer_about = peer.about
        if self._sender is not None:
            self._sender.start(peer.next if peer.resume else self._sender.base, peer.window, self._now)
        elif self._receiver is not None:
            missing = self._receiver.start(peer.next, self._known)
            if missing:
                found = f"DATA from {peer.next} on"
                expected = f"{are(missing, 'frame')} not here before it, though the source was told so"
                self._happened.append(Complained(Problem(Code.BAD_PAYLOAD, 0, found, expected), "here"))
        self._known = True
        self._heard_at = self._sent_at = self._now
        self._hello_at = self._expire_at = FOREVER

    def _do_unknown(self, got: Got) -> str:
        self._put(unknown(got.said, self._flags))
        return "resumed by a sink that has more than was sent"

    def _do_disown(self, got: Got) -> str:
        self._do_unknown(got)
        return self._do_give_up(got)

    def _do_foreign(self, got: Got) -> str:
        assert got.problem is not None
        answer = refusal if self.continues(got.said) else superseded
        self._put(answer(got.said, str(got.problem.found), self._flags))
        return ""

    def continues(self, hello: Hello) -> bool:
        """Responder: whether a HELLO is of the source that had the session last, as far as it tells."""
        return follows(self.continued, hello.nonce, hello.after)

    def _do_suspend(self, value: Any) -> str:
        """The value is a text that says why, or the WELCOME that refuses."""
        self._do_detach(value)
        self._hello_at = self._ack_at = FOREVER
        self._ack_now = False
        self._exchange.stop()
        if self._sender is not None:
            self._sender.stop()
        if self._expire_at == FOREVER and (self._known or self._closing is not None):
            self._expire_at = self._now + self.settings.expiry
        return f"refused: {value.said.refused[:200]}" if isinstance(value, Got) else str(value or "")

    def _do_break(self, got: Got) -> str:
        why = self._do_bad(got)
        answers = self._out[-1:]
        self._do_suspend(why)
        self._out = answers
        return why

    def _do_give_up(self, value: Any) -> str:
        """The value is a text that says why, or the HELLO or WELCOME that knows nothing, or too much.

        A sink that has more than we know of has all that we have: we were restarted from an older state.
        """
        self._leave()
        said = value.said if isinstance(value, Got) else None
        ahead = said is not None and said.resume and not getattr(said, "unknown", False)
        self.superseded = getattr(said, "superseded", "")[:200]
        if self._sender is not None:
            self._happened.append(Abandoned([] if ahead else self._sender.unacknowledged()))
        if ahead:
            return "the sink has more than was sent"
        unknown = self.superseded or "the peer does not know the session"
        return unknown if isinstance(value, Got) else str(value or "")

    def _leave(self) -> None:
        """The session is over: no timer runs."""
        self._over = True
        self._hello_at = self._expire_at = self._ack_at = FOREVER
        self._exchange.stop()
        if self._sender is not None:
            self._sender.stop()

    def _do_keep(self, payload: Any) -> str:
        assert self._sender is not None
        self._sender.send_queue.put(self._sender.send_queue.next, payload)
        return ""

    def _do_store(self, upto: int) -> str:
        assert self._receiver is not None
        self._ack_bytes += self._receiver.stored(upto)
        if self.state in LIVE:
            self._ack_soon(self._ack_bytes >= self.settings.ack_every)
        return ""

    def _ack_soon(self, at_once: bool) -> None:
        if at_once or not self.settings.ack_delay:
            self._ack_now = True
        elif self._ack_at == FOREVER:
            self._ack_at = self._now + self.settings.ack_delay

    def _do_queue(self, frames: Callable[[], list[bytes]]) -> str:
        waiting = frames()
        if self.state in LIVE:
            self._out += waiting
        return ""

    def _do_closing(self, reason: str) -> str:
        self._closing = reason
        if self._expire_at == FOREVER:
            self._expire_at = self._now + self.settings.expiry
        return ""

    def _do_drain(self, reason: str) -> str:
        assert self._sender is not None
        self._closing = self._sender.bye = reason
        return reason

    def _do_say_bye(self, reason: str) -> str:
        self._leave()
        if self._known:  # else it has no number to give: any would acknowledge what never came
            self._final = bye_frame(self._ack().next, reason, self._flags)
            self._put(self._final)
        return reason

    def _do_finish(self, value: Any) -> str:
        self._leave()
        reason = str(value or self._closing or "")
        if self._sender is not None:
            self._final = bye_frame(self._sender.send_queue.next, reason, self._flags)
        elif self._receiver is not None and self._receiver.finished:
            self._final = self._ack().frame(self._flags)
            self._put(self._final)
        elif self._known:
            self._final = bye_frame(self._ack().next, reason, self._flags)
        return "all is acknowledged" if self._sender is not None else "all is stored"

    def _do_heard(self, got: Got) -> str:
        self._ack_now = self._receiver is not None
        return ""

    def _do_take(self, got: Got) -> str:
        """DATA, in the slow way; `_whole` has a faster one for streams in order."""
        assert self._receiver is not None
        gap = self._receiver.gap  # what fills one is acknowledged at once, RFC 5681 (4.2)
        taken = self._receiver.take(got.header.id, got.said, self._happened)
        self._ack_frames += 1
        if self.datagrams:
            self._ack_soon(gap or taken != TAKEN or self._ack_frames > 1)
        return ("taken", "held", "had before", "beyond the window")[taken] if taken <= HELD else ""

    def _do_acked(self, got: Got) -> str:
        assert self._sender is not None
        base = self._sender.base
        self._sender.acknowledged(got.said, self._now)
        if not self._settled and self._sender.base != base:
            self._settled = True
            self._lineage.settled()
        return ""

    def _do_take_request(self, got: Got) -> str:
        return self._exchanged(got, lambda frame: self._exchange.request(frame, self._happened))

    def _do_take_reply(self, got: Got) -> str:
        return self._exchanged(got, lambda frame: self._exchange.reply(frame, self._happened))

    def _exchanged(self, got: Got, take: Callable[[Frame], list[bytes]]) -> str:
        try:
            frames = take(got.said)
        except FrameError as error:
            self._object(got, error.problem)
            return ""
        if len(self._out) < MAX_WAITING:
            self._out += frames
        return ""

    def _do_bye(self, got: Got) -> str:
        assert self._receiver is not None
        id, reason = got.said
        receiver = self._receiver
        ahead = receiver.reach if self.datagrams else 0
        if receiver.end not in (None, id) or not 0 <= distance(receiver.received, id) <= ahead:
            self._object(got, bad_payload(4, id, f"{receiver.received} or a little more").problem)
            return ""
        receiver.end = id
        self._ack_now = True
        return str(reason)

    def _do_again(self, got: Got) -> str:
        if self._final is not None and self._final not in self._out:
            self._put(self._final)
        return ""

    def _do_gone(self, got: Got) -> str:
        assert self._sender is not None
        next, reason = got.said
        if self._sender.may_acknowledge(next):
            self._sender.acknowledged(Ack(next, 0), self._now)
        self._do_give_up(None)
        return str(reason)

    def _do_resend(self, value: Any) -> str:
        assert self._sender is not None
        if self._sender.timeout(self._now):
            self._do_beat(value)
        return ""

    def _do_acknowledge(self, value: Any) -> str:
        self._ack_now = True
        return ""

    def _do_repeat(self, value: Any) -> str:
        self._out += self._exchange.repeat(self._now)
        return ""

    def _do_beat(self, value: Any) -> str:
        self._sent_at = self._now
        self._put(build(Type.KEEPALIVE, 0, b"", self._flags))
        return ""

    # ---- what the actions share

    def _put(self, frame: bytes) -> None:
        if len(self._out) < MAX_WAITING:
            self._out.append(frame)

    def _object(self, got: Got, problem: Problem) -> None:
        """Send an ERROR and tell the owner, at most `settings.errors` a second."""
        rate = self.settings.errors
        self._error_credit = min(self._error_credit + (self._now - self._error_at) * rate, rate)
        self._error_at = self._now
        if self._error_credit < 1:
            return
        self._error_credit -= 1
        self._happened.append(Complained(problem, "frame"))
        if got.header.type != Type.ERROR:
            self._put(error_frame(got.header.id, problem.code, str(problem), self._flags))


ACTIONS: dict[Action, Callable[[Session, Any], str]] = {
    action: getattr(Session, f"_do_{action.name.lower()}") for action in Action
}
