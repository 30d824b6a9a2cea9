"""Sessions followed from outside, by the table that the peers themselves use (`wire.transitions`).

Invariants: each end of a session has the state that the captured frames put it in; a frame is judged by the
rule of its receiver's state, and what is illegal there is reported, with the reason; nothing is judged that
the capture cannot tell: a session that it joins in the middle is taken to be established.
"""

from collections.abc import Callable
from typing import NamedTuple

from kwire.packets.network import Flow, PacketPosition
from kwire.packets.tables import Protocol
from kwire.wire.control import Ack, Hello, Role, Welcome, read_bye, read_error
from kwire.wire.frame import MASK, TYPES, Code, Flag, Frame, FrameError, Problem, Type, distance, inspect
from kwire.wire.transitions import TABLE, Action, Input, State

MAX_SESSIONS = 4096
LIVE = (State.ESTABLISHED, State.DRAINING)


class Step(NamedTuple):
    """One frame of a session and what it did. `sender`, `receiver`: states before and after."""

    session: int
    place: PacketPosition
    flow: str
    type: str
    id: int
    length: int
    source: str  # the end that sent it: "initiator", "responder"
    effect: str
    sender: tuple[State, State]
    receiver: tuple[State, State]
    illegal: str

    @property
    def changed(self) -> bool:
        """Whether a state changed."""
        return self.sender[0] is not self.sender[1] or self.receiver[0] is not self.receiver[1]


class Followed:
    """One session: `states` and `roles` of initiator and responder; counts of its frames."""

    __slots__ = (
        "bye",
        "data",
        "ends",
        "errors",
        "first",
        "frames",
        "illegal",
        "joined",
        "last",
        "number",
        "roles",
        "states",
        "token",
    )

    def __init__(self, number: int, joined: bool) -> None:
        self.number = number
        self.token = b""
        self.joined = joined  # from the middle
        start = State.ESTABLISHED if joined else State.CLOSED
        self.states = [start, start if joined else State.LISTENING]
        self.roles: list[Role | None] = [None, None]
        self.ends: tuple[str, str] = ("", "")
        self.bye: int | None = None
        self.frames = self.data = self.illegal = 0
        self.errors: dict[str, int] = {}
        self.first: PacketPosition | None = None
        self.last: PacketPosition | None = None


class Follower:
    """The watcher of a network: `tell` gets each step. `sessions` are those seen so far."""

    __slots__ = ("_by_token", "_flows", "_tell", "sessions")

    def __init__(self, tell: Callable[[Step], None]) -> None:
        self._tell = tell
        self._flows: dict[int, tuple[Followed, int]] = {}  # flow number → session, direction of its initiator
        self._by_token: dict[bytes, Followed] = {}
        self.sessions: list[Followed] = []

    def trouble(self, name: str, text: str, place: PacketPosition) -> None:
        """What is no frame is counted elsewhere."""

    def frame(self, flow: Flow, direction: int, data: bytes, at: int, place: PacketPosition) -> None:
        """Follow one frame."""
        if not flow.protocol:
            return  # frames as they are make no session
        frame, problems = inspect(data, at)
        if frame is None:
            return
        datagrams = flow.protocol == Protocol.UDP
        session, initiator = self._session(flow, direction, frame if not problems else None)
        side = int(direction != initiator)
        before = tuple(session.states)
        try:
            if datagrams and not problems and not frame.header.flags & Flag.CHECKSUM:
                problems = [
                    Problem(Code.BAD_FLAGS, at + 1, f"{frame.header.flags:#04x}", "CHECKSUM, in a datagram")
                ]
            effect, illegal = self._step(session, side, frame, problems, datagrams)
        except FrameError as error:
            effect, illegal = Action.BAD.value, str(error.problem)
        self._count(session, frame, place, illegal)
        after = session.states
        kind = frame.header.type
        self._tell(
            Step(
                *(session.number, place, flow.name, Type(kind).name if kind in TYPES else f"type {kind}"),
                *(frame.header.id, frame.header.length, ("initiator", "responder")[side], effect),
                *((before[side], after[side]), (before[1 - side], after[1 - side]), illegal),
            )
        )

    # --- which session

    def _session(self, flow: Flow, direction: int, frame: Frame | None) -> tuple[Followed, int]:
        known = self._flows.get(flow.number)
        if frame is not None and frame.header.type == Type.HELLO:
            try:
                token = Hello.read(frame).token
            except FrameError:
                token = b""
            if known is None or (token and known[0].token not in (token, b"")):
                session = self._by_token.get(token) if token else None
                session = session or self._new(flow, direction, joined=False)
                known = (session, direction)
            if token:
                if len(self._by_token) > MAX_SESSIONS:
                    self._by_token.clear()
                known[0].token = token
                self._by_token[token] = known[0]
        elif known is None:
            joined = frame is None or frame.header.type != Type.WELCOME
            known = (
                self._new(flow, 1 - direction if not joined else 0, joined=True),
                0 if joined else 1 - direction,
            )
        self._flows[flow.number] = known
        if len(self._flows) > 2 * MAX_SESSIONS:
            del self._flows[next(iter(self._flows))]
        return known

    def _new(self, flow: Flow, initiator: int, *, joined: bool) -> Followed:
        from kwire.packets.network import endpoint

        session = Followed(len(self.sessions) + 1, joined)
        session.ends = (endpoint(*flow.ends[initiator]), endpoint(*flow.ends[1 - initiator]))
        if len(self.sessions) < MAX_SESSIONS:
            self.sessions.append(session)
        return session

    # --- what a frame does

    def _step(
        self, session: Followed, side: int, frame: Frame, problems: list[Problem], datagrams: bool
    ) -> tuple[str, str]:
        """Apply the frame that `side` sent; gives its effect and, where it is illegal, why."""
        if problems:
            input = Input.DAMAGED if datagrams else Input.BAD
            return self._receive(session, 1 - side, input, datagrams)[0], str(problems[0])
        kind = frame.header.type
        if kind == Type.HELLO:
            return self._hello(session, side, Hello.read(frame))
        if kind == Type.WELCOME:
            return self._welcome(session, side, Welcome.read(frame), datagrams)
        self._learn(session, side, kind)
        if kind == Type.BYE:
            return self._bye(session, side, frame, datagrams)
        if kind == Type.ERROR:
            read_error(frame)
        effect, illegal = self._receive(session, 1 - side, self._input(session, side, kind), datagrams)
        if kind == Type.ACK:
            self._acknowledged(session, side, Ack.read(frame.header.id, frame.payload).next)
        return effect, illegal

    def _hello(self, session: Followed, side: int, hello: Hello) -> tuple[str, str]:
        if side:
            return self._receive(session, 0, Input.MISPLACED, False)
        session.roles = [hello.role, hello.role.other]
        if session.states[0] in LIVE:  # its transport broke, which no frame tells
            self._apply(session, 0, Input.DISCONNECT)
        if session.states[0] is not State.HELLO_SENT:
            self._apply(session, 0, Input.CONNECT)
        return "WELCOME is to answer it", ""

    def _welcome(self, session: Followed, side: int, welcome: Welcome, datagrams: bool) -> tuple[str, str]:
        if not side:
            return self._receive(session, 1, Input.MISPLACED, False)
        session.roles = [welcome.role.other, welcome.role]
        session.token = session.token or welcome.token
        if welcome.token != session.token:
            return self._receive(session, 0, Input.WELCOME_FOREIGN, datagrams)
        if welcome.cookie:
            return self._receive(session, 0, Input.WELCOME_COOKIE, datagrams)
        if welcome.refused:
            self._apply(session, 1, Input.HELLO_FOREIGN)
            return self._receive(session, 0, Input.WELCOME_REFUSED, datagrams)
        if welcome.unknown:
            self._apply(session, 1, Input.HELLO_UNKNOWN)
            return self._receive(session, 0, Input.WELCOME_UNKNOWN, datagrams)
        self._apply(session, 1, Input.HELLO)
        return self._receive(session, 0, Input.WELCOME, datagrams)

    def _learn(self, session: Followed, side: int, kind: int) -> None:
        """What a type tells of the roles, where no HELLO was seen."""
        if session.roles[side] is None and kind in (Type.DATA, Type.ACK):
            role = Role.SOURCE if kind == Type.DATA else Role.SINK
            session.roles[side], session.roles[1 - side] = role, role.other

    def _input(self, session: Followed, side: int, kind: int) -> Input:
        role = session.roles[side]
        if (kind == Type.DATA and role is Role.SINK) or (kind == Type.ACK and role is Role.SOURCE):
            return Input.MISPLACED
        return _INPUTS.get(kind, Input.MISPLACED)

    def _bye(self, session: Followed, side: int, frame: Frame, datagrams: bool) -> tuple[str, str]:
        read_bye(frame)
        source = session.roles[side] is Role.SOURCE
        if source:
            session.bye = frame.header.id
        if session.states[side] is State.ESTABLISHED:
            self._apply(session, side, Input.CLOSE if source else Input.LEAVE)
        return self._receive(session, 1 - side, Input.END if source else Input.LEFT, datagrams)

    def _acknowledged(self, session: Followed, sink: int, next: int) -> None:
        """The ACK that follows the source's BYE ends the session at both ends."""
        if session.bye is None or distance((session.bye + 1) & MASK, next) < 0:
            return
        for side in (sink, 1 - sink):
            if session.states[side] is State.DRAINING:
                self._apply(session, side, Input.FINISHED)

    # --- the table

    def _apply(self, session: Followed, side: int, input: Input) -> Action:
        rule = TABLE[session.states[side]][input]
        session.states[side] = rule.next
        return rule.action

    def _receive(self, session: Followed, side: int, input: Input, datagrams: bool) -> tuple[str, str]:
        state = session.states[side]
        action = self._apply(session, side, input)
        who = f"{input.value} to the {('initiator', 'responder')[side]} in {state.name}"
        if action is Action.ILLEGAL or (action is Action.LATE and not datagrams):
            return action.value, f"{Code.ILLEGAL_TRANSITION.name}: {who}"
        if action is Action.NEVER:
            return "none that the table knows", f"{Code.ILLEGAL_TRANSITION.name}: {who}"
        return action.value, ""

    def _count(self, session: Followed, frame: Frame, place: PacketPosition, illegal: str) -> None:
        session.frames += 1
        session.data += frame.header.type == Type.DATA
        session.first = session.first or place
        session.last = place
        if illegal:
            session.illegal += 1
            name = illegal.split(" ")[0].rstrip(":")
            session.errors[name] = session.errors.get(name, 0) + 1


_INPUTS: dict[int, Input] = {
    Type.KEEPALIVE: Input.KEEPALIVE,
    Type.DATA: Input.DATA,
    Type.ACK: Input.ACK,
    Type.REQUEST: Input.REQUEST,
    Type.REPLY: Input.REPLY,
    Type.ERROR: Input.ERROR,
}
