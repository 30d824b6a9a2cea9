"""The session's state machine as a table: what each input does in each state.

Invariants: every (state, input) pair has one rule; a rule is an action and the next state, and the action's
meaning says everything it does; the code, docs/protocol.md with its diagram, and the tests are driven from
`TABLE`. Inputs are named so that rules need no conditions: what a frame says decides which input it is.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple, TypeAlias

from kwire.wire.frame import Header, Problem


class State(Enum):
    """Where a session is; the value says what that means."""

    CLOSED = "nothing yet, or all done"
    LISTENING = "a responder waits for the first HELLO"
    HELLO_SENT = "an initiator waits for WELCOME"
    ESTABLISHED = "data flows"
    SUSPENDED = "the transport broke; the session can resume until it expires"
    DRAINING = "BYE is to come or has come; the last DATA or its ACK is outstanding"
    EXPIRED = "could not be resumed; what was not acknowledged is counted LOST"

    __hash__ = object.__hash__  # members are single: the hash of the name would cost more on every frame


class Input(Enum):
    """What can happen to a session; the value says when."""

    CONNECT = "call: an initiator has a transport"
    ACCEPT = "call: a responder has a transport"
    DISCONNECT = "call: the transport broke"
    SEND = "call: send a DATA payload"
    STORED = "call: DATA was stored by the sink"
    ASK = "call: send a REQUEST"
    ANSWER = "call: send a REPLY"
    CLOSE = "call: the source closes, or has closed and is established"
    LEAVE = "call: the sink closes"
    ABANDON = "call: end without waiting"
    OVER = "call: connect, send or ask, of a session that is closed or closing"
    KEEPALIVE = "frame KEEPALIVE"
    DATA = "frame DATA"
    HELLO = "frame HELLO that begins or resumes this session"
    HELLO_UNKNOWN = "frame HELLO that resumes what this side does not know, or has not got all of"
    HELLO_AHEAD = "frame HELLO of a sink that has more than this source ever sent"
    HELLO_FOREIGN = "frame HELLO with another token, the same role, no version in common, or of another copy"
    WELCOME = "frame WELCOME that begins or resumes this session"
    WELCOME_COOKIE = "frame WELCOME with a cookie: HELLO is to be sent again with it"
    WELCOME_UNKNOWN = (
        "frame WELCOME to a session not known, superseded, or of which more is there than was sent"
    )
    WELCOME_REFUSED = "frame WELCOME that refuses"
    WELCOME_FOREIGN = "frame WELCOME that does not answer the last HELLO"
    ACK = "frame ACK"
    REQUEST = "frame REQUEST"
    REPLY = "frame REPLY"
    ERROR = "frame ERROR"
    END = "frame BYE of the source"
    LEFT = "frame BYE of the sink"
    MISPLACED = "frame that the peer's side or role does not send"
    BAD = "frame that strict reading refuses"
    DAMAGED = "datagram that is not one whole frame with a right checksum"
    UNSOUND = "stream in which the next frame cannot be found"
    HELLO_AGAIN = "timer: HELLO was not answered"
    HELLO_SPENT = "timer: the last HELLO was not answered"
    RETRANSMIT = "timer: DATA or BYE was not acknowledged"
    ACK_DUE = "timer: an ACK has waited long enough"
    ASK_AGAIN = "timer: a REQUEST was not answered"
    IDLE = "timer: nothing was sent for long"
    SILENT = "timer: nothing was received for too long"
    EXPIRE = "timer: the session was not resumed"
    FINISHED = "inside: nothing is outstanding any more"

    __hash__ = object.__hash__


class Action(Enum):
    """What is done; the value says it in full."""

    NEVER = "cannot happen"
    REFUSE = "the caller is told of its error"
    IGNORE = "nothing"
    ILLEGAL = "ERROR ILLEGAL_TRANSITION is sent"
    LATE = "nothing over datagrams, where frames come late; as illegal over a stream"
    BAD = "ERROR with what is wrong is sent"
    COMPLAIN = "the owner is told; ERROR is never answered"
    ATTACH = "a new stream begins; HELLO is awaited"
    DETACH = "what was half received is forgotten; the stream is not read any more"
    HELLO = "HELLO is sent, with a new nonce"
    HELLO_AGAIN = "over datagrams HELLO is sent again; the timeout doubles"
    COOKIE = "HELLO is sent again with the cookie"
    WELCOME = "WELCOME is sent; sending goes on from what the sink has"
    WELCOME_OVER = "WELCOME is sent, and the final frame, so that the peer ends too"
    ESTABLISH = "sending goes on from what the sink has"
    UNKNOWN = "WELCOME is sent that says unknown"
    DISOWN = "WELCOME is sent that says unknown; the sink has everything, and more: nothing is abandoned"
    FOREIGN = "WELCOME is sent that refuses, and why; to another copy of the source: that it is superseded"
    SUSPEND = "sending stops, and a stream is not read any more; the expiry timer starts"
    BREAK = "ERROR with what is wrong is sent; the stream must be closed"
    GIVE_UP = "what was not acknowledged is abandoned, unless the sink says that it has more than this"
    KEEP = "the payload is kept, and sent when the window allows"
    STORE = "the receive window moves; an ACK is to come"
    QUEUE = "it is sent as soon as the session is established, and again until it is answered"
    CLOSING = "the session is to be drained when it is established; the expiry timer starts"
    DRAIN = "BYE is sent after the last DATA"
    SAY_BYE = "BYE is sent, unless the session was never established; the session is over"
    FINISH = "the session is over; a sink that was draining sends the last ACK, its final frame"
    HEARD = "the peer lives; a sink answers with an ACK"
    TAKE = "DATA is delivered if it is the next, held if it is in the window, else ignored"
    ACKED = "what is acknowledged is released, what is missing is sent again"
    TAKE_REQUEST = "the request is told once; a repeated one gets its REPLY again"
    TAKE_REPLY = "the reply is told once"
    BYE = "where the DATA ends is noted"
    AGAIN = "the final frame, ACK or BYE, is sent again, so that the peer ends too"
    GONE = "what the sink has stored is released, the rest is abandoned; the session is over"
    RESEND = "the oldest DATA missing, BYE, or KEEPALIVE as a probe is sent; the timeout doubles"
    ACKNOWLEDGE = "ACK is sent"
    REPEAT = "unanswered REQUESTs are sent again; their timeout doubles"
    BEAT = "KEEPALIVE is sent"

    __hash__ = object.__hash__


class Rule(NamedTuple):
    """What an input does in a state."""

    action: Action
    next: State


Cell = Action | tuple[Action, State]  # an action alone leaves the state as it is

_A, _S = Action, State
_REFUSE = (_A.REFUSE,) * 7

# One row for each input; its cells are in the order of State:
# CLOSED, LISTENING, HELLO_SENT, ESTABLISHED, SUSPENDED, DRAINING, EXPIRED
_HELLO, _EXPIRED, _CLOSED = (_A.HELLO, _S.HELLO_SENT), (_A.GIVE_UP, _S.EXPIRED), (_A.FINISH, _S.CLOSED)
_WELCOME, _SUSPEND, _BYE = (_A.WELCOME, _S.ESTABLISHED), (_A.SUSPEND, _S.SUSPENDED), (_A.SAY_BYE, _S.CLOSED)
_DRAIN, _DISOWN, _GONE = (_A.DRAIN, _S.DRAINING), (_A.DISOWN, _S.EXPIRED), (_A.GONE, _S.CLOSED)
_BREAK, _END = (_A.BREAK, _S.SUSPENDED), (_A.BYE, _S.DRAINING)


def _live(action: Cell) -> tuple[Cell, ...]:
    """A frame's row: it is for a session that is established or draining; elsewhere it is late or useless."""
    late, ignore = _A.LATE, _A.IGNORE
    return (ignore, late, late, action, late, action, ignore)


def _timer(action: Cell) -> tuple[Cell, ...]:
    """A timer's row: it runs while the session is established or draining."""
    never = _A.NEVER
    return (never, never, never, action, never, action, never)


def _answer(action: Cell) -> tuple[Cell, ...]:
    """The row of a WELCOME: it is for an initiator that waits for one."""
    late, ignore, never = _A.LATE, _A.IGNORE, _A.NEVER
    return (ignore, never, action, late, late, late, ignore)


def _row(
    closed: Cell,
    listening: Cell,
    sent: Cell,
    established: Cell,
    suspended: Cell,
    draining: Cell,
    expired: Cell,
) -> tuple[Cell, ...]:
    return (closed, listening, sent, established, suspended, draining, expired)


ROWS: dict[Input, tuple[Cell, ...]] = {
    Input.CONNECT: _row(_HELLO, _A.NEVER, _HELLO, _A.REFUSE, _HELLO, _A.REFUSE, _A.REFUSE),
    Input.ACCEPT: _row(_A.ATTACH, _A.ATTACH, _A.NEVER, _A.REFUSE, _A.ATTACH, _A.REFUSE, _A.ATTACH),
    Input.DISCONNECT: _row(_A.DETACH, _A.DETACH, _SUSPEND, _SUSPEND, _A.DETACH, _SUSPEND, _A.DETACH),
    Input.SEND: _row(_A.KEEP, _A.KEEP, _A.KEEP, _A.KEEP, _A.KEEP, _A.REFUSE, _A.REFUSE),
    Input.STORED: (_A.STORE,) * 7,
    Input.ASK: _row(_A.QUEUE, _A.QUEUE, _A.QUEUE, _A.QUEUE, _A.QUEUE, _A.QUEUE, _A.REFUSE),
    Input.ANSWER: _row(_A.IGNORE, _A.QUEUE, _A.QUEUE, _A.QUEUE, _A.QUEUE, _A.QUEUE, _A.IGNORE),
    Input.CLOSE: _row(_A.CLOSING, _A.CLOSING, _A.CLOSING, _DRAIN, _A.CLOSING, _A.IGNORE, _A.IGNORE),
    Input.LEAVE: _row(_CLOSED, _CLOSED, _BYE, _BYE, _CLOSED, _BYE, _A.IGNORE),
    Input.ABANDON: _row(_EXPIRED, _EXPIRED, _EXPIRED, _EXPIRED, _EXPIRED, _EXPIRED, _A.IGNORE),
    Input.OVER: _REFUSE,
    Input.KEEPALIVE: _row(_A.AGAIN, _A.LATE, _A.LATE, _A.HEARD, _A.LATE, _A.HEARD, _A.IGNORE),
    Input.DATA: _row(_A.AGAIN, _A.LATE, _A.LATE, _A.TAKE, _A.LATE, _A.TAKE, _A.IGNORE),
    Input.HELLO: _row(_A.WELCOME_OVER, _WELCOME, _A.NEVER, _A.WELCOME, _WELCOME, _A.WELCOME, _A.UNKNOWN),
    Input.HELLO_UNKNOWN: _row(_A.UNKNOWN, _A.UNKNOWN, _A.NEVER, _A.NEVER, _A.NEVER, _A.NEVER, _A.NEVER),
    Input.HELLO_AHEAD: _row(_A.UNKNOWN, _A.NEVER, _A.NEVER, _DISOWN, _DISOWN, _DISOWN, _A.NEVER),
    Input.HELLO_FOREIGN: _row(
        _A.FOREIGN, _A.FOREIGN, _A.NEVER, _A.FOREIGN, _A.FOREIGN, _A.FOREIGN, _A.FOREIGN
    ),
    Input.WELCOME: _answer((_A.ESTABLISH, _S.ESTABLISHED)),
    Input.WELCOME_COOKIE: _answer(_A.COOKIE),
    Input.WELCOME_UNKNOWN: _answer(_EXPIRED),
    Input.WELCOME_REFUSED: _answer(_SUSPEND),
    Input.WELCOME_FOREIGN: _answer(_A.LATE),
    Input.ACK: _live(_A.ACKED),
    Input.REQUEST: _live(_A.TAKE_REQUEST),
    Input.REPLY: _live(_A.TAKE_REPLY),
    Input.ERROR: (_A.COMPLAIN,) * 7,
    Input.END: _row(_A.AGAIN, _A.LATE, _A.LATE, _END, _A.LATE, _A.BYE, _A.IGNORE),
    Input.LEFT: _live(_GONE),
    Input.MISPLACED: (_A.ILLEGAL,) * 7,
    Input.BAD: (_A.BAD,) * 7,
    Input.DAMAGED: (_A.IGNORE,) * 7,
    Input.UNSOUND: _row(_A.BAD, _A.BAD, _BREAK, _BREAK, _A.BAD, _BREAK, _A.BAD),
    Input.HELLO_AGAIN: _row(_A.NEVER, _A.NEVER, _A.HELLO_AGAIN, _A.NEVER, _A.NEVER, _A.NEVER, _A.NEVER),
    Input.HELLO_SPENT: _row(_A.NEVER, _A.NEVER, _SUSPEND, _A.NEVER, _A.NEVER, _A.NEVER, _A.NEVER),
    Input.RETRANSMIT: _timer(_A.RESEND),
    Input.ACK_DUE: _timer(_A.ACKNOWLEDGE),
    Input.ASK_AGAIN: _timer(_A.REPEAT),
    Input.IDLE: _timer(_A.BEAT),
    Input.SILENT: _timer(_SUSPEND),
    Input.EXPIRE: _row(_EXPIRED, _EXPIRED, _EXPIRED, _A.NEVER, _EXPIRED, _A.NEVER, _A.NEVER),
    Input.FINISHED: _row(_CLOSED, _CLOSED, _CLOSED, _A.NEVER, _CLOSED, _CLOSED, _A.NEVER),
}


def _rules(state: State, column: int) -> dict[Input, Rule]:
    cells = {input: row[column] for input, row in ROWS.items()}
    return {i: Rule(*cell) if isinstance(cell, tuple) else Rule(cell, state) for i, cell in cells.items()}


TABLE: dict[State, dict[Input, Rule]] = {state: _rules(state, column) for column, state in enumerate(State)}


# ---- What a session tells its owner: values, taken in the order in which they happened


class Delivered(NamedTuple):
    """A DATA payload, in order, once. A memoryview is valid until the next `receive`."""

    sequence: int
    payload: memoryview | bytes


class Requested(NamedTuple):
    """The peer asks; answer with `reply(number, …)`. A repeated REQUEST is told once."""

    number: int
    body: dict[Any, Any]


class Replied(NamedTuple):
    """The answer to our request `number`."""

    number: int
    body: dict[Any, Any]


class Changed(NamedTuple):
    """The state changed."""

    old: State
    new: State
    why: str


class Complained(NamedTuple):
    """Something is wrong: `of` is "peer" where the peer said so in an ERROR, "frame" where its frame was,
    "here" where this side is not as it was.
    """

    problem: Problem
    of: str

    @property
    def sentence(self) -> str:
        """What is wrong, for people; the peer is who is meant."""
        if self.of == "peer":
            return f"says: {self.problem.found or 'nothing'} ({self.problem.code.name})"
        if self.of == "here":
            return f"goes on with {self.problem.found}: {self.problem.expected}"
        return f"broke the protocol: {self.problem}"


class Abandoned(NamedTuple):
    """DATA that was not acknowledged when the session ended: to be counted LOST, or sent in a new session.

    The payloads stay in the send queue. The sink may have stored some of them without our hearing of it.
    """

    sequences: list[int]


class Watched(NamedTuple):
    """One frame, in or out, with its effect, for people who watch."""

    direction: str  # "in", "out"
    header: Header
    problems: list[Problem]
    effect: str
    before: State
    after: State


SessionEvent: TypeAlias = Delivered | Requested | Replied | Changed | Complained | Abandoned
