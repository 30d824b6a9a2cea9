"""What the control frames of a session say: HELLO, WELCOME, ACK, BYE and ERROR, built and read.

Invariants: `HELLO_KEYS` and `WELCOME_KEYS` are the reference of the maps; what a peer sends is checked here,
in full, before a session looks at it; keys that are not known are ignored. Reading raises FrameError
BAD_PAYLOAD and nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple

from kwire.wire import cbor
from kwire.wire.frame import (
    HEADER_SIZE,
    MASK,
    Bytes,
    Code,
    Frame,
    FrameError,
    Problem,
    Type,
    bad_payload,
    build,
    delimit,
    distance,
    inspect,
)
from kwire.wire.frame import VERSION as PROTOCOL
from kwire.wire.keyed import (
    FLAG,
    INTEGER,
    LEFT_OUT,
    MAP,
    TEXT,
    Key,
    choice,
    data,
    integer,
    listing,
    read_payload,
)
from kwire.words import plural

TOKEN_SIZE = 16
MAX_HELLO = 4096  # bytes of a HELLO or WELCOME frame
MAX_COOKIE = 64
MAX_VERSIONS = 16
MAX_AFTER = 48
MAX_RANGES = 32  # in an ACK
PADDED_HELLO = 512  # a HELLO over datagrams has at least so many bytes, so that no first answer is longer

ACK_HEAD = struct.Struct(">I")
ACK_RANGE = struct.Struct(">II")


class Role(Enum):
    """Which way the events go."""

    SOURCE = "source"
    SINK = "sink"

    __hash__ = object.__hash__

    @property
    def other(self) -> Role:
        """The peer's role."""
        return Role.SINK if self is Role.SOURCE else Role.SOURCE


_WORD = integer(MASK, "an integer, 32 bits")

_COMMON = {
    "token": Key(
        data(TOKEN_SIZE, f"{TOKEN_SIZE} bytes", TOKEN_SIZE),
        "names the session: chosen at random by the initiator, kept when it resumes",
    ),
    "nonce": Key(_WORD, "of one HELLO and its repetitions; WELCOME says it back"),
    "role": Key(choice("source", "sink"), "what the sender of this frame is"),
    "resume": Key(FLAG, "the sender knows this session from before", False),
    "next": Key(
        _WORD,
        "a sink: the sequence number it expects next; a source: the first that it can still send",
        0,
    ),
    "window": Key(_WORD, "a sink: its receive window in bytes", 0),
    "about": Key(MAP, "for people: `host`, `kernel`, `tool`, `name`, … (texts and integers)", {}),
}
_COOKIE = data(MAX_COOKIE, f"bytes, at most {MAX_COOKIE}")
HELLO_KEYS: dict[str, Key] = {
    **_COMMON,
    "versions": Key(
        listing(INTEGER, f"a list of at most {MAX_VERSIONS} integers", MAX_VERSIONS),
        "protocol versions that the initiator speaks",
    ),
    "cookie": Key(_COOKIE, "what the responder asked to be given back", b""),
    "after": Key(
        listing(_WORD, f"a list of at most {MAX_AFTER} integers, 32 bits", MAX_AFTER),
        "a source: the nonces of this session's HELLOs that may have been taken last",
        None,
    ),
    "pad": Key(data(MAX_HELLO, "bytes"), "zeros, so that no answer is longer than the HELLO", LEFT_OUT),
}
WELCOME_KEYS: dict[str, Key] = {
    **_COMMON,
    "version": Key(INTEGER, "the protocol version chosen, 1 where it is missing", PROTOCOL),
    "cookie": Key(_COOKIE, "a challenge: send HELLO again with it; nothing else counts", b""),
    "unknown": Key(FLAG, "the session cannot be resumed: it is not known here, or not whole", False),
    "superseded": Key(
        TEXT, "another copy of the source has gone on with the session: when; it is over for this one", ""
    ),
    "refused": Key(TEXT, "why the session is refused", ""),
}
ERROR_KEYS: dict[str, Key] = {
    "code": Key(INTEGER, "a number of section 2"),
    "message": Key(TEXT, "for people: what was found, where, and what was expected", ""),
}
BYE_KEYS: dict[str, Key] = {"reason": Key(TEXT, "for people: why the session ends", "")}


def _read(frame: Frame, keys: Mapping[str, Key]) -> dict[str, Any]:
    """What a control map says. Raises FrameError BAD_PAYLOAD."""
    base = frame.offset + HEADER_SIZE
    taken = read_payload(cbor.loads_map(frame.payload, base), keys, base)
    if "role" in taken:
        taken["role"] = Role(taken["role"])
    return taken


class Hello(NamedTuple):
    """What a HELLO says."""

    token: bytes
    nonce: int
    role: Role
    resume: bool = False
    next: int = 0
    window: int = 0
    about: Mapping[str, Any] = {}
    versions: tuple[int, ...] = (PROTOCOL,)
    cookie: bytes = b""
    after: tuple[int, ...] | None = None

    def frame(self, flags: int = 0, size: int = 0) -> bytes:
        """The HELLO frame; padded to at least `size` bytes."""
        value = {**_common(self), "versions": list(self.versions)}
        if self.cookie:
            value["cookie"] = self.cookie
        if self.after is not None:
            value["after"] = list(self.after)
        frame = build(Type.HELLO, 0, cbor.dumps(value), flags)
        if len(frame) < size:
            value["pad"] = bytes(size - len(frame))
            frame = build(Type.HELLO, 0, cbor.dumps(value), flags)
        return frame

    @classmethod
    def read(cls, frame: Frame) -> Hello:
        """Read a HELLO; FrameError BAD_PAYLOAD where it is not one."""
        taken = _read(frame, HELLO_KEYS)
        taken.pop("pad", None)
        after = taken["after"]
        taken["after"] = None if after is None else tuple(after)
        return cls(**{**taken, "versions": tuple(taken["versions"])})


class Welcome(NamedTuple):
    """What a WELCOME says."""

    token: bytes
    nonce: int
    role: Role
    resume: bool = False
    next: int = 0
    window: int = 0
    about: Mapping[str, Any] = {}
    version: int = PROTOCOL
    cookie: bytes = b""
    unknown: bool = False
    superseded: str = ""
    refused: str = ""

    def frame(self, flags: int = 0) -> bytes:
        """The WELCOME frame."""
        value = {**_common(self), "version": self.version}
        answers = ("cookie", "unknown", "superseded", "refused")
        value |= {key: getattr(self, key) for key in answers if getattr(self, key)}
        return build(Type.WELCOME, 0, cbor.dumps(value), flags)

    @classmethod
    def read(cls, frame: Frame) -> Welcome:
        """Read a WELCOME; FrameError BAD_PAYLOAD where it is not one."""
        return cls(**_read(frame, WELCOME_KEYS))


class Ack(NamedTuple):
    """What an ACK says: all before `next` is stored, `ranges` (first, last) of what follows has come."""

    next: int
    window: int
    ranges: tuple[tuple[int, int], ...] = ()

    def frame(self, flags: int = 0) -> bytes:
        """The ACK frame."""
        payload = ACK_HEAD.pack(min(self.window, MASK)) + b"".join(
            ACK_RANGE.pack(first, last) for first, last in self.ranges
        )
        return build(Type.ACK, self.next, payload, flags)

    @classmethod
    def read(cls, id: int, payload: Bytes, base: int = HEADER_SIZE) -> Ack:
        """Read an ACK's payload; FrameError BAD_PAYLOAD where it is not one."""
        if len(payload) < ACK_HEAD.size or (len(payload) - ACK_HEAD.size) % ACK_RANGE.size:
            raise bad_payload(base, plural(len(payload), "byte"), "a window (4 bytes) and ranges of 8", "ACK")
        (window,) = ACK_HEAD.unpack_from(payload)
        ranges = tuple(ACK_RANGE.iter_unpack(payload[ACK_HEAD.size :]))
        if len(ranges) > MAX_RANGES:
            raise bad_payload(base, f"{len(ranges)} ranges", f"at most {MAX_RANGES}", "ACK")
        at = id
        for number, (first, last) in enumerate(ranges):
            if distance(at, first) < (number > 0) or distance(first, last) < 0:
                place = base + ACK_HEAD.size + number * ACK_RANGE.size
                raise bad_payload(place, f"{first} to {last}", f"a range after {at}", "ACK")
            at = (last + 1) & MASK
        return cls(id, window, ranges)


def error_frame(id: int, code: int, message: str, flags: int = 0) -> bytes:
    """The ERROR frame that complains of the frame with this id."""
    return build(Type.ERROR, id, cbor.dumps({"code": int(code), "message": message}), flags)


def read_error(frame: Frame) -> tuple[int, str]:
    """Code and message of an ERROR; FrameError BAD_PAYLOAD where it is not one."""
    taken = _read(frame, ERROR_KEYS)
    return taken["code"], taken["message"]


def bye_frame(id: int, reason: str, flags: int = 0) -> bytes:
    """The BYE frame: `id` is its own sequence number (source), or the next expected (sink)."""
    return build(Type.BYE, id, cbor.dumps({"reason": reason}), flags)


def read_bye(frame: Frame) -> str:
    """The reason that a BYE gives; FrameError BAD_PAYLOAD where it is not one."""
    return str(_read(frame, BYE_KEYS)["reason"])


def refusal(hello: Hello, why: str, flags: int = 0) -> bytes:
    """The WELCOME frame with which a responder refuses, without a session: `why` is for people."""
    return Welcome(hello.token, hello.nonce, hello.role.other, refused=why).frame(flags)


def no_common_version(versions: Sequence[int]) -> str:
    """Why one who speaks these versions gets no session, for both sides to say; empty where it may."""
    if PROTOCOL in versions:
        return ""
    theirs = ", ".join(map(str, versions)) or "none"
    who = f"the side that connects speaks {theirs}, the side that listens {PROTOCOL}"
    return f"no version of the protocol in common: {who}; update the older one"


def unknown(hello: Hello, flags: int = 0) -> bytes:
    """The WELCOME frame that says: the session that `hello` resumes is not known here."""
    return Welcome(hello.token, hello.nonce, hello.role.other, unknown=True).frame(flags)


def superseded(hello: Hello, why: str, flags: int = 0) -> bytes:
    """The WELCOME frame that says: another copy of the source has the session."""
    return Welcome(hello.token, hello.nonce, hello.role.other, superseded=why).frame(flags)


def peek_hello(data: Bytes) -> Hello | None:
    """The HELLO at the start of `data`: a stream's first bytes, or a datagram.

    None where it is none, or not yet whole; `hello_problem` tells which.
    """
    return _peek(data)[0]


def hello_problem(data: Bytes) -> Problem | None:
    """Why `data` can be no HELLO, whatever bytes follow; None where it can."""
    return _peek(data)[1]


def _peek(data: Bytes) -> tuple[Hello | None, Problem | None]:
    view = memoryview(data)
    if not view:
        return None, None
    first = PROTOCOL << 4 | Type.HELLO
    if view[0] & 0xF == Type.HELLO and view[0] != first:
        return None, Problem(Code.BAD_VERSION, 0, view[0] >> 4, PROTOCOL)
    if view[0] != first:
        return None, bad_payload(0, f"{view[0]:#04x}", f"a HELLO: {first:#04x}").problem
    header, broken = delimit(view)
    if header is None:
        return None, None
    if not HEADER_SIZE <= header.length <= MAX_HELLO:
        return None, bad_payload(2, header.length, f"a HELLO of {HEADER_SIZE} to {MAX_HELLO} bytes").problem
    if broken is not None:
        return None, None
    frame, problems = inspect(view)
    if frame is None or problems:
        return None, problems[0]
    try:
        return Hello.read(frame), None
    except FrameError as error:
        return None, error.problem


def _common(value: Hello | Welcome) -> dict[str, Any]:
    return {
        "token": value.token,
        "nonce": value.nonce,
        "role": value.role.value,
        "resume": value.resume,
        "next": value.next,
        "window": value.window,
        "about": dict(value.about),
    }
