"""Every pair of a state and an input: brought about, and judged by the table.

`Bench` brings a session into a state with a peer of hand-made frames; the rows of `HOW` say how each input
comes. What they took is added up with the simulation's and shown as a table at the end of the tests.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from kwire.wire import cbor
from kwire.wire.control import Ack, Hello, Role, Welcome, bye_frame, error_frame, read_error
from kwire.wire.frame import Code, Flag, Frame, Type, build, read_strict
from kwire.wire.session import Session, SessionError, State
from kwire.wire.transitions import TABLE, Abandoned, Action, Changed, Complained, Input, SessionEvent

TOKEN = bytes(range(16))
PAYLOAD = build(Type.EVENT, 1, bytes(8))
PAIRS = [(state, input) for state in State for input in Input]
NEVER = [(state, input) for state, input in PAIRS if TABLE[state][input].action is Action.NEVER]
POSSIBLE = [pair for pair in PAIRS if pair not in NEVER]


class Counting(Session):
    """A session that remembers its steps, those of DATA too."""

    __slots__ = ("steps",)
    steps: list[tuple[State, Input]]
    _short_way = False

    def _step(self, input: Input, value: Any = None) -> Action:
        self.steps.append((self.state, input))
        return super()._step(input, value)


class Bench:
    """A session in some state, and the frames its peer would send."""

    def __init__(self, role: Role, initiator: bool, datagrams: bool) -> None:
        self.steps: list[tuple[State, Input]] = []
        self.now = 1000.0
        self.flags = Flag.CHECKSUM if datagrams else 0
        self.nonces = itertools.count(1)
        self.session = Counting(
            role,
            initiator=initiator,
            datagrams=datagrams,
            token=TOKEN,
            random=lambda size: next(self.nonces).to_bytes(size, "big"),
        )
        self.session.steps = self.steps
        self.first = self.session.send_queue.next if role is Role.SOURCE else 7
        self.sent: list[Any] = []

    # ---- the peer's frames

    def hello(self, **rest: Any) -> bytes:
        values = {
            "token": TOKEN,
            "nonce": 5,
            "role": self.session.role.other,
            "next": self.first,
            "window": 1 << 20,
        }
        return Hello(**{**values, **rest}).frame(self.flags)

    def welcome(self, **rest: Any) -> bytes:
        values = {
            "token": TOKEN,
            "nonce": self.session._nonce,
            "role": self.session.role.other,
            "next": self.first,
            "window": 1 << 20,
            "resume": self.session.known,
        }
        return Welcome(**{**values, **rest}).frame(self.flags)

    def receive(self, frame: bytes) -> None:
        self.session.receive(frame, self.now)

    def control(self, type: Type, id: int, **body: Any) -> None:
        self.receive(build(type, id, cbor.dumps(body), self.flags))

    # ---- into a state

    def reach(self, state: State) -> None:
        session = self.session
        if state is State.CLOSED:
            if not session.initiator:
                session.close(self.now)
                if session.role is Role.SINK:
                    self.sent = []
        elif state is State.LISTENING:
            assert not session.initiator
            session.connected(self.now)
        elif state is State.HELLO_SENT:
            session.connected(self.now)
        elif state is State.ESTABLISHED:
            session.connected(self.now)
            self.receive(self.welcome() if session.initiator else self.hello())
        elif state is State.SUSPENDED:
            self.reach(State.ESTABLISHED)
            session.disconnected(self.now, "cut")
            if not session.initiator:
                session.connected(self.now)
        elif state is State.DRAINING:
            self.reach(State.ESTABLISHED)
            if session.role is Role.SOURCE:
                session.send(PAYLOAD, self.now)
                session.close(self.now)
                session.transmit(1 << 16)
            else:
                self.receive(build(Type.DATA, self.first, PAYLOAD, self.flags))
                self.receive(build(Type.DATA, self.first + 1, PAYLOAD, self.flags))
                self.receive(bye_frame(self.first + 2, "done", self.flags))
        elif state is State.EXPIRED:
            session.fail(self.now, "enough")
        assert session.state is state
        session.transmit(1 << 20)
        session.session_events()
        self.steps.clear()


# ---- how each input comes

Do = Callable[[Bench], None]


def void(value: object) -> None:
    """A call whose value does not matter."""


def after(seconds: float, prepare: Do = lambda bench: None) -> Do:
    """A timer: prepare, let time pass, tick."""

    def do(bench: Bench) -> None:
        prepare(bench)
        bench.session.transmit(1 << 20)
        bench.session.tick(bench.now + seconds)

    return do


def stored(bench: Bench) -> None:
    """What was delivered is stored; of a session that was not draining, one more comes first."""
    session = bench.session
    receiver = session._receiver
    assert receiver is not None
    if session.state is State.ESTABLISHED:
        bench.receive(build(Type.DATA, bench.first, PAYLOAD, bench.flags))
    session.consumed(
        (receiver.received - 1) & 0xFFFFFFFF if session.state is not State.DRAINING else bench.first,
        bench.now,
    )


def sent_something(bench: Bench) -> None:
    if bench.session.state is State.ESTABLISHED:
        bench.session.send(PAYLOAD, bench.now)


def nearly_silent(bench: Bench) -> None:
    bench.now += 9
    bench.receive(build(Type.KEEPALIVE, 0, b"", bench.flags))
    bench.session.session_events()


def unsent_and_closing(bench: Bench) -> None:
    if bench.session.state is not State.SUSPENDED and not bench.session.over:
        bench.session.send(PAYLOAD, bench.now)
        bench.session.close(bench.now)


def late_connect(bench: Bench) -> None:
    """HELLO_SENT again, just before the session expires."""
    bench.receive(bench.welcome())
    bench.session.disconnected(bench.now, "cut")
    bench.now += 119.5
    bench.session.connected(bench.now)


def expire(bench: Bench) -> None:
    if bench.session.state is State.HELLO_SENT:
        after(0.6, late_connect)(bench)
    else:
        after(121, unsent_and_closing)(bench)


def spent(bench: Bench) -> None:
    for tick in range(1, 70):
        bench.session.tick(bench.now + tick)


def finished(bench: Bench) -> None:
    session = bench.session
    if session.state is State.DRAINING and session.role is Role.SOURCE:
        bench.receive(Ack(session.send_queue.next + 1, 0).frame(bench.flags))
    elif session.state is State.DRAINING:
        session.consumed(bench.first + 1, bench.now)
    else:
        session.close(bench.now)


def frame(type: Type, id: int = 0, **body: Any) -> Do:
    return lambda bench: bench.control(type, id, **body)


def says(make: Callable[[Bench], bytes]) -> Do:
    return lambda bench: bench.receive(make(bench))


def plain(type: Type, payload: bytes = b"", id: Callable[[Bench], int] = lambda bench: 0) -> Do:
    return lambda bench: bench.receive(build(type, id(bench), payload, bench.flags))


def ahead(bench: Bench) -> None:
    if bench.session.state is State.CLOSED:
        bench.session._known = True  # as if it had been established before
    bench.receive(bench.hello(resume=True, next=bench.first + 1000))


def unknown(bench: Bench) -> None:
    """Resumed, though never begun here; or given up by a source."""
    bench.receive(bench.hello(resume=True))


def foreign(bench: Bench) -> None:
    bench.session.token = TOKEN
    bench.receive(bench.hello(token=bytes(16)))


def damaged(bench: Bench) -> None:
    bench.receive(build(Type.KEEPALIVE, 0, b"", Flag.CHECKSUM)[:-1] + b"\x55")


SOURCE, SINK = Role.SOURCE, Role.SINK
ANY = (SOURCE, SINK)
STREAM, DATAGRAMS = (False,), (True,)
BOTH = (False, True)


class Way(NamedTuple):
    """How an input comes: to which roles and sides, over which carriers, by doing what."""

    do: Do
    roles: tuple[Role, ...] = ANY
    initiator: tuple[bool, ...] = BOTH
    datagrams: tuple[bool, ...] = BOTH


def calls(input: Input, value: Any = "done") -> Do:
    """An input that the face gives only in some states: straight into the machine."""
    return lambda bench: void(bench.session._step(input, value))


def base(bench: Bench) -> int:
    """The number that an ACK, or a BYE, of the peer would have."""
    session = bench.session
    if session._receiver is not None:
        return session._receiver.received
    assert session._sender is not None
    return session._sender.base


HOW: dict[Input, Way] = {
    Input.CONNECT: Way(calls(Input.CONNECT), initiator=(True,)),
    Input.ACCEPT: Way(lambda bench: bench.session.connected(bench.now), initiator=(False,)),
    Input.DISCONNECT: Way(lambda bench: bench.session.disconnected(bench.now, "cut")),
    Input.SEND: Way(calls(Input.SEND, PAYLOAD), (SOURCE,)),
    Input.STORED: Way(stored, (SINK,)),
    Input.ASK: Way(calls(Input.ASK, list)),
    Input.ANSWER: Way(lambda bench: bench.session.reply(9, {}, bench.now)),
    Input.CLOSE: Way(calls(Input.CLOSE), (SOURCE,)),
    Input.LEAVE: Way(calls(Input.LEAVE), (SINK,)),
    Input.ABANDON: Way(calls(Input.ABANDON)),
    Input.OVER: Way(calls(Input.OVER)),
    Input.KEEPALIVE: Way(plain(Type.KEEPALIVE)),
    Input.DATA: Way(plain(Type.DATA, PAYLOAD, base), (SINK,)),
    Input.HELLO: Way(says(lambda bench: bench.hello()), initiator=(False,)),
    Input.HELLO_UNKNOWN: Way(unknown, initiator=(False,)),
    Input.HELLO_AHEAD: Way(ahead, (SOURCE,), (False,)),
    Input.HELLO_FOREIGN: Way(foreign, initiator=(False,)),
    Input.WELCOME: Way(says(lambda bench: bench.welcome()), initiator=(True,)),
    Input.WELCOME_COOKIE: Way(says(lambda bench: bench.welcome(cookie=b"c")), initiator=(True,)),
    Input.WELCOME_UNKNOWN: Way(says(lambda bench: bench.welcome(unknown=True)), initiator=(True,)),
    Input.WELCOME_REFUSED: Way(says(lambda bench: bench.welcome(refused="full")), initiator=(True,)),
    Input.WELCOME_FOREIGN: Way(says(lambda bench: bench.welcome(nonce=0xFFFF)), initiator=(True,)),
    Input.ACK: Way(says(lambda bench: Ack(base(bench), 9).frame(bench.flags)), (SOURCE,)),
    Input.REQUEST: Way(frame(Type.REQUEST, 3, op="x")),
    Input.REPLY: Way(frame(Type.REPLY, 3, ok=True)),
    Input.ERROR: Way(frame(Type.ERROR, 3, code=11, message="no")),
    Input.END: Way(says(lambda bench: bye_frame(base(bench), "", bench.flags)), (SINK,)),
    Input.LEFT: Way(says(lambda bench: bye_frame(base(bench), "", bench.flags)), (SOURCE,)),
    Input.MISPLACED: Way(plain(Type.EVENT, bytes(8), lambda bench: 77)),
    Input.BAD: Way(plain(Type.KEEPALIVE, b"full")),
    Input.DAMAGED: Way(damaged, datagrams=(True,)),
    Input.UNSOUND: Way(says(lambda bench: bytes.fromhex("1000000700000000")), datagrams=(False,)),
    Input.HELLO_AGAIN: Way(after(1.1)),
    Input.HELLO_SPENT: Way(spent),
    Input.RETRANSMIT: Way(after(1.1, sent_something), (SOURCE,), datagrams=(True,)),
    Input.ACK_DUE: Way(after(0.1, stored), (SINK,)),
    Input.ASK_AGAIN: Way(
        after(1.1, lambda bench: void(bench.session.request({}, bench.now))), datagrams=(True,)
    ),
    Input.IDLE: Way(after(10.5, nearly_silent)),
    Input.SILENT: Way(after(31)),
    Input.EXPIRE: Way(expire, (SOURCE,)),
    Input.FINISHED: Way(finished),
}


def benches(state: State, way: Way) -> Iterator[Bench]:
    """Every kind of session that can be in the state and get the input."""
    for role, initiator, datagrams in itertools.product(way.roles, way.initiator, way.datagrams):
        if (state is State.LISTENING and initiator) or (state is State.HELLO_SENT and not initiator):
            continue
        bench = Bench(role, initiator, datagrams)
        bench.reach(state)
        yield bench


def snapshot(session: Session) -> tuple[Any, ...]:
    """What an input that changes nothing must leave as it is."""
    sender, receiver = session._sender, session._receiver
    sending = sender and (
        sender.base,
        sender.cursor,
        sender.top,
        sender.bye,
        sender.send_queue.next,
        sender.window,
    )
    receiving = receiver and (receiver.expected, receiver.received, receiver.end, receiver.used)
    return (session.state, sending, receiving, session.known, session.over, session.token, session._closing,
            session._expire_at, session._hello_at)  # fmt: skip


@pytest.mark.parametrize(("state", "input"), POSSIBLE, ids=lambda value: value.name)
def test_pair(state: State, input: Input, transitions_taken: Counter[str]) -> None:
    rule = TABLE[state][input]
    reached = 0
    for bench in benches(state, HOW[input]):
        session = bench.session
        before = snapshot(session)
        try:
            HOW[input].do(bench)
            assert rule.action is not Action.REFUSE or (state, input) not in bench.steps
        except SessionError:
            assert rule.action is Action.REFUSE
        if (state, input) not in bench.steps:
            continue  # not this kind of session
        reached += 1
        transitions_taken.update(f"{old.name} {step.name}" for old, step in bench.steps)
        happened = session.session_events()
        changes = [(one.old, one.new) for one in happened if isinstance(one, Changed)]
        if rule.next is not state:
            assert (state, rule.next) in changes
        frames = [read_strict(b"".join(map(bytes, session.transmit(1))))] if session._out else []
        if rule.action in HARMLESS:
            assert snapshot(session) == before
            judge_harmless(rule.action, input, bench, frames, happened)
        if rule.next is not state and rule.next is State.EXPIRED and session.role is SOURCE:
            assert any(isinstance(one, Abandoned) for one in happened)
        if rule.next is not state and rule.next in (State.EXPIRED, State.CLOSED):
            assert session.over
            assert session.deadline() is None
    assert reached, "no session comes to this"


HARMLESS = (
    Action.IGNORE,
    Action.LATE,
    Action.ILLEGAL,
    Action.BAD,
    Action.COMPLAIN,
    Action.REFUSE,
    Action.FOREIGN,
)


def judge_harmless(
    action: Action, input: Input, bench: Bench, frames: list[Frame], happened: list[SessionEvent]
) -> None:
    """Nothing has changed; was the answer right?"""
    errors = [frame for frame in frames if frame.header.type == Type.ERROR]
    illegal = action is Action.ILLEGAL or (action is Action.LATE and not bench.session.datagrams)
    if illegal or action is Action.BAD:
        (error,) = errors
        code, message = read_error(error)
        assert (code == Code.ILLEGAL_TRANSITION) == illegal
        assert Code(code).name in message
        assert [one.of for one in happened if isinstance(one, Complained)] == ["frame"]
        if input is Input.MISPLACED:
            assert error.header.id == 77
    else:
        assert not errors
        assert not frames or action is Action.FOREIGN
    if action is Action.COMPLAIN:
        assert [one.of for one in happened if isinstance(one, Complained)] == ["peer"]


def test_what_cannot_happen_does_not(transitions_taken: Counter[str]) -> None:
    for state, input in NEVER:
        for bench in benches(state, HOW[input]):
            with contextlib.suppress(SessionError):
                HOW[input].do(bench)
            assert (state, input) not in bench.steps, (state, input)


def test_a_session_that_is_over_refuses_calls() -> None:
    for state in (State.CLOSED, State.EXPIRED):
        for bench in benches(state, Way(void, (SOURCE,), (True,))):
            bench.session.close(bench.now)
            for call in (bench.session.connected, lambda now, bench=bench: bench.session.send(PAYLOAD, now)):
                with pytest.raises(SessionError, match="make a new session") as caught:
                    call(bench.now)
                assert "\n" not in str(caught.value)
            bench.session.close(bench.now)  # once more is no error
            bench.session.fail(bench.now, "enough")
            assert bench.session.state is state


def test_errors_are_limited() -> None:
    bench = Bench(SINK, False, False)
    bench.reach(State.ESTABLISHED)
    for _ in range(1000):
        bench.receive(build(Type.EVENT, 1, bytes(8)))
    assert len(bench.session.transmit(1 << 20)) == bench.session.settings.errors
    assert len(bench.session.session_events()) == bench.session.settings.errors
    bench.now += 1
    bench.receive(build(Type.EVENT, 1, bytes(8)))
    assert len(bench.session.transmit(1 << 20)) == 1


def test_an_error_is_never_answered() -> None:
    for state in State:
        for bench in benches(state, Way(void)):
            bench.receive(build(Type.ERROR, 1, b"not cbor", bench.flags))
            bench.receive(error_frame(1, 11, "no", bench.flags))
            bench.receive(error_frame(1, 4711, "no", bench.flags))
            assert not bench.session.transmit(1 << 20)
            assert bench.session.state is state
