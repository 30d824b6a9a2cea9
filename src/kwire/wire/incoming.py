"""What comes in: bytes of a stream, or a datagram, become frames; each frame becomes an input of the table.

The laws: everything is read strictly, and judged in full, before the session changes; DATA takes a short way
to the same end; whatever the bytes are, nothing raises.
"""

from __future__ import annotations

from typing import Any

from kwire.wire.control import Ack, Hello, Welcome, read_bye, read_error
from kwire.wire.frame import (
    HEADER,
    HEADER_SIZE,
    VERSION,
    Code,
    Flag,
    Frame,
    FrameError,
    Problem,
    Type,
    bad_payload,
    checksum,
    delimit,
    inspect,
    read_header,
)
from kwire.wire.happenings import Watched
from kwire.wire.machine import LIVE, Got, Machine
from kwire.wire.sender import DATA_HEAD
from kwire.wire.transitions import Input, State

COPY = "another copy of the source has gone on with the session"
CHECKSUM = int(Flag.CHECKSUM)  # an int: quicker than a flag


class Incoming(Machine):
    """The receiving side of a session's machine."""

    __slots__ = ()

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
        unseen = self.watcher is None and self.stepped is None
        return unseen and self._receiver is not None and self.state in LIVE

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
        simple = {Type.KEEPALIVE: Input.KEEPALIVE, Type.REQUEST: Input.REQUEST, Type.REPLY: Input.REPLY}
        return simple.get(Type(type), Input.MISPLACED), Got(header, frame)

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
