"""The engine of a session: applies the table, and does what each action says. `session.Session` is its face.

The laws: the state changes in `_step` alone; every `Action` has one method here, `_do_…`; an action
neither changes the state nor takes a second step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kwire.wire.control import (
    PADDED_HELLO,
    Ack,
    Hello,
    Role,
    Welcome,
    bye_frame,
    error_frame,
    refusal,
    superseded,
    unknown,
)
from kwire.wire.exchange import Exchange
from kwire.wire.frame import Code, Frame, FrameError, Header, Problem, Type, bad_payload, build
from kwire.wire.happenings import Abandoned, Changed, Complained, Happening, Watched
from kwire.wire.intake import Intake
from kwire.wire.lineage import Lineage, follows
from kwire.wire.receiver import HELD, TAKEN, Receiver
from kwire.wire.sender import FOREVER, Sender
from kwire.wire.sequence import distance
from kwire.wire.settings import Settings
from kwire.wire.transitions import TABLE, Action, Input, State
from kwire.words import are

LIVE = (State.ESTABLISHED, State.DRAINING)
MAX_WAITING = 64  # answers waiting to be sent; what a peer asks for beyond is not answered
MAX_COOKIES = 8  # challenges answered for one HELLO


class Got:
    """A frame that came, and what was read in it."""

    __slots__ = ("header", "problem", "said")

    def __init__(self, header: Header, said: Any = None, problem: Problem | None = None) -> None:
        self.header = header
        self.said = said
        self.problem = problem


class Machine:
    """The state of a session and its actions."""

    __slots__ = (
        "_ack_at", "_ack_bytes", "_ack_frames", "_ack_now", "_after", "_broken", "_closing", "_cookie",
        "_cookies", "_error_at", "_error_credit", "_exchange", "_expire_at", "_final", "_flags", "_happened",
        "_heard_at", "_hello_at", "_hello_timeout", "_intake", "_known", "_lineage", "_nonce", "_now", "_out",
        "_over", "_random", "_receiver", "_restored", "_rules", "_sender", "_sent_at", "_settled", "_shift",
        "_tries", "about", "continued", "datagrams", "initiator", "peer_about", "role", "settings", "state",
        "stepped", "superseded", "token", "watcher",
    )  # fmt: skip

    about: Mapping[str, Any]
    continued: int | None
    datagrams: bool
    initiator: bool
    peer_about: Mapping[str, Any]
    role: Role
    settings: Settings
    state: State
    stepped: Callable[[State, Input], None] | None
    superseded: str
    token: bytes
    watcher: Callable[[Watched], None] | None
    _exchange: Exchange
    _flags: int
    _happened: list[Happening]
    _known: bool
    _lineage: Lineage
    _out: list[bytes]
    _restored: bool
    _random: Callable[[int], bytes]
    _sender: Sender | None
    _receiver: Receiver | None

    def _setup(self, settings: Settings) -> None:
        """What does not depend on who we are."""
        self._now = self._shift = 0.0
        self._sent_at = self._heard_at = 0.0
        self._hello_at = self._expire_at = self._ack_at = FOREVER
        self._hello_timeout = settings.rto_first
        self._tries = self._cookies = 0
        self._cookie = b""
        self._nonce, self._settled = 0, True
        self._after: tuple[int, ...] | None = None
        self.continued, self.superseded = None, ""
        self._ack_now = False
        self._ack_bytes = self._ack_frames = 0
        self._final: bytes | None = None  # the last ACK, or the sink's BYE
        self._error_credit, self._error_at = float(settings.errors), 0.0
        self._broken = False  # the stream is out of step
        self._over = False
        self._closing: str | None = None  # the reason given to close()
        self._out = []
        self._happened = []
        self._intake = Intake()

    # ---- the step

    def _step(self, input: Input, value: Any = None) -> Action:
        """Apply the rule of the table, and then those of the inputs that follow from where we are now."""
        if self.stepped is not None:
            self.stepped(self.state, input)
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
        return Input.FINISHED if sender.base == sender.outbox.next else None

    # ---- actions: each gives why the state changes, where it has more to say than the input

    def _do_ignore(self, value: Any) -> str:
        return ""

    def _do_never(self, value: Any) -> str:
        raise AssertionError("an input that cannot happen happened")

    def _do_refuse(self, value: Any) -> str:
        from kwire.wire.session import SessionError

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
        self._intake.clear()
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
        self._sender.outbox.put(self._sender.outbox.next, payload)
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
            self._final = bye_frame(self._sender.outbox.next, reason, self._flags)
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
        """DATA, in the slow way; `Session` has a faster one for streams in order."""
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


Do = Callable[[Machine, Any], str]

ACTIONS: dict[Action, Do] = {action: getattr(Machine, f"_do_{action.name.lower()}") for action in Action}
