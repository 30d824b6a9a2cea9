"""One frame: header, flags, checksum, and the errors that name what is wrong with one.

Invariants: header fields are big-endian; `length` counts the whole frame, 8 to 65535; the lenient reading
equals the reference implementation wherever that is sound; the strict reading names everything that is wrong,
each thing by a code whose number never changes. Every offset counts from the start of the bytes given.
"""

from __future__ import annotations

import struct

from kwire.errors import KwireError
from kwire.hints import TypeAlias
from kwire.lazy import IntEnum, NamedTuple
from kwire.words import plural

VERSION = 1
HEADER_SIZE = 8
MAX_FRAME = 65535
MAX_EVENT = 65480  # so that any one fits a DATA frame and a UDP datagram
MAX_PAYLOAD = MAX_FRAME - HEADER_SIZE

Bytes: TypeAlias = "bytes | bytearray | memoryview"

HEADER = struct.Struct(">BBHI")  # version and type share the first byte: version is its high half


class Type(IntEnum):
    """What a frame is; the low half of its first byte. 13 to 15 are reserved."""

    KEEPALIVE = 0
    EVENT = 1
    DATA = 2
    HELLO = 3
    WELCOME = 4
    ACK = 5
    SCHEMA = 6
    LOST = 7
    TABLE = 8
    REQUEST = 9
    REPLY = 10
    ERROR = 11
    BYE = 12


class Flag(IntEnum):
    """Bits of the second header byte; the others are reserved and sent as 0."""

    CHECKSUM = 0x01
    PADDED = 0x02


_CHECKSUM, _PADDED = int(Flag.CHECKSUM), int(Flag.PADDED)
RESERVED_FLAGS = 0xFF & ~(_CHECKSUM | _PADDED)


class Code(IntEnum):
    """What can be wrong. The numbers are part of the protocol: ERROR frames carry them."""

    TRUNCATED_HEADER = 1
    TRUNCATED_PAYLOAD = 2
    LENGTH_BELOW_HEADER = 3
    PAYLOAD_TOO_LONG = 4
    BAD_VERSION = 5
    BAD_TYPE = 6
    BAD_FLAGS = 7
    BAD_CHECKSUM = 8
    BAD_PAYLOAD = 9
    UNKNOWN_SCHEMA = 10
    ILLEGAL_TRANSITION = 11
    BAD_ID = 12
    BAD_PADDING = 13
    FAILED = 14


ERRORS: dict[Code, str] = {
    Code.TRUNCATED_HEADER: "fewer than 8 bytes are there: a header is not complete",
    Code.TRUNCATED_PAYLOAD: "the length field asks for more bytes than there are",
    Code.LENGTH_BELOW_HEADER: "the length field counts less than the header itself",
    Code.PAYLOAD_TOO_LONG: "the frame would be longer than its length field, or its type, allows",
    Code.BAD_VERSION: "the version is not 1",
    Code.BAD_TYPE: "the type is reserved",
    Code.BAD_FLAGS: "a reserved flag is set, or PADDED without CHECKSUM",
    Code.BAD_CHECKSUM: "the checksum does not match the bytes before it, or has no room",
    Code.BAD_PAYLOAD: "the payload is not what the type, or the probe's SCHEMA, says",
    Code.UNKNOWN_SCHEMA: "no SCHEMA of this probe came before its EVENT",
    Code.ILLEGAL_TRANSITION: "the frame is not allowed in the session's state",
    Code.BAD_ID: "the id of a type that has none is not 0, or a SCHEMA's is 0",
    Code.BAD_PADDING: "the padding byte is not 0, or puts the checksum at an odd offset",
    Code.FAILED: "whoever says so cannot go on with the session at present; no frame is to blame",
}


class TypeRule(NamedTuple):
    """What the protocol says of one type."""

    id: str  # what the id field means
    payload: str
    id_zero: bool = False  # the id must be 0
    empty: bool = False  # the payload must be empty


TYPES: dict[Type, TypeRule] = {
    Type.KEEPALIVE: TypeRule("0", "empty", id_zero=True, empty=True),
    Type.EVENT: TypeRule("probe number", "the record, packed as its SCHEMA says"),
    Type.DATA: TypeRule("sequence number", "whole frames, back to back"),
    Type.HELLO: TypeRule("0", "CBOR map", id_zero=True),
    Type.WELCOME: TypeRule("0", "CBOR map", id_zero=True),
    Type.ACK: TypeRule("next sequence number expected", "receive window in bytes, then selective ranges"),
    Type.SCHEMA: TypeRule("probe number", "CBOR map"),
    Type.LOST: TypeRule("probe number, 0 where unknown", "first ns, last ns, count, cpu, cause"),
    Type.TABLE: TypeRule("map number", "CBOR: a map's snapshot"),
    Type.REQUEST: TypeRule("request number", "CBOR map"),
    Type.REPLY: TypeRule("request number", "CBOR map"),
    Type.ERROR: TypeRule("id of the frame complained of", "CBOR map: code, message"),
    Type.BYE: TypeRule("last sequence number", "CBOR map: reason"),
}
_RULES: dict[int, TypeRule] = {int(type): rule for type, rule in TYPES.items()}


class Problem(NamedTuple):
    """One thing that is wrong: at `offset`, `found` stands where `expected` should."""

    code: Code
    offset: int
    found: str | int
    expected: str | int

    def __str__(self) -> str:
        return (
            f"{self.code.name} ({self.code:d}) at offset {self.offset}: "
            f"found {self.found}, expected {self.expected}"
        )


class FrameError(KwireError):
    """Bytes that are not a legal frame, or a payload that is not what its type says."""

    def __init__(
        self, problem: Problem, operation: str = "read frame", subject: str = "", cure: str = ""
    ) -> None:
        super().__init__(operation, subject, f"{problem}: {ERRORS[problem.code]}", cure)
        self.problem = problem


def bad_payload(offset: int, found: str | int, expected: str | int, subject: str = "") -> FrameError:
    """The error for a payload that is not what its type or SCHEMA says."""
    return FrameError(Problem(Code.BAD_PAYLOAD, offset, found, expected), "read payload", subject)


class Header(NamedTuple):
    """The eight bytes every frame starts with, as they stand there, legal or not."""

    version: int
    type: int
    flags: int
    length: int
    id: int


class Frame(NamedTuple):
    """A frame at `offset` of the bytes it was read from; `payload` is without checksum and padding.

    In the lenient reading, which knows no checksum, `payload` is everything after the header.
    """

    offset: int
    header: Header
    payload: bytes


def checksum(data: Bytes) -> int:
    """Give the RFC 1071 checksum: the one's complement sum of big-endian 16-bit words, complemented.

    An odd last byte is the high byte of a word. 2**16 is 1 modulo 65535, so the sum of the words is the whole
    buffer taken as one number modulo 65535: no loop over bytes in Python.
    """
    view = memoryview(data).cast("B")
    total = 0
    for start in range(0, len(view), MAX_FRAME + 1):  # even pieces keep the numbers, and the memory, small
        piece = view[start : start + MAX_FRAME + 1]
        number = int.from_bytes(piece, "big")
        if len(piece) & 1:
            number <<= 8
        if number:
            total += number % 0xFFFF or 0xFFFF  # only a sum of zeros is zero
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def pack_header(type: int, id: int, length: int, flags: int = 0) -> bytes:
    """Pack the header of a frame of `length` bytes, header included.

    As in the reference, `type`, `flags` and `id` are masked to their widths; a length that does not fit is a
    FrameError (the reference wraps it).
    """
    if length > MAX_FRAME:
        raise _build_error(Code.PAYLOAD_TOO_LONG, 2, length, f"at most {MAX_FRAME}", type)
    if length < HEADER_SIZE:
        raise _build_error(Code.LENGTH_BELOW_HEADER, 2, length, f"at least {HEADER_SIZE}", type)
    return HEADER.pack(VERSION << 4 | type & 15, flags & 0xFF, length, id & 0xFFFFFFFF)


def build_lenient(type: int, id: int, payload: Bytes = b"", flags: int = 0) -> bytes:
    """Build the frame the reference would: any type and flags, nothing added. Too long is a FrameError."""
    return pack_header(type, id, HEADER_SIZE + len(payload), flags) + bytes(payload)


def build(type: int, id: int, payload: Bytes = b"", flags: int = 0) -> bytes:
    """Build a legal frame; CHECKSUM in `flags` adds the checksum, and the padding where the payload is odd.

    PADDED may be given with CHECKSUM but is set only where it is needed. Raises FrameError when a flag or the
    type (taken modulo 16, as in the reference) is reserved, or when the frame would be too long.
    """
    type &= 15
    if type not in TYPES:
        raise _build_error(Code.BAD_TYPE, 0, type, "0 to 12", type)
    flags = int(flags)
    if flags & RESERVED_FLAGS or flags == _PADDED:
        raise _build_error(Code.BAD_FLAGS, 1, f"{flags:#04x}", "0, CHECKSUM or CHECKSUM|PADDED", type)
    length = HEADER_SIZE + len(payload)
    if not flags & _CHECKSUM:
        frame = pack_header(type, id, length) + bytes(payload)
    else:
        pad = len(payload) & 1
        head = pack_header(type, id, length + pad + 2, _CHECKSUM | (_PADDED if pad else 0))
        body = head + bytes(payload) + bytes(pad)
        frame = body + checksum(body).to_bytes(2, "big")
    if type == Type.EVENT and len(frame) > MAX_EVENT:
        raise _build_error(Code.PAYLOAD_TOO_LONG, 2, len(frame), f"at most {MAX_EVENT} for an EVENT", type)
    return frame


def read_header(data: Bytes, offset: int = 0) -> Header:
    """Read the eight bytes at `offset`, which must be there (struct.error otherwise); nothing is judged."""
    first, flags, length, id = HEADER.unpack_from(data, offset)
    return Header(first >> 4, first & 15, flags, length, id)


def read_lenient(data: Bytes, offset: int = 0) -> Frame:
    """Read the frame at `offset` as the reference does; bytes after its length are ignored.

    Raises FrameError (TRUNCATED_HEADER, TRUNCATED_PAYLOAD, LENGTH_BELOW_HEADER) where no frame can be told
    apart; the last is a hole in the reference.
    """
    header, problem = delimit(data, offset)
    if header is None or problem is not None:
        assert problem is not None
        raise FrameError(problem, subject=f"at offset {offset}")
    return Frame(offset, header, bytes(data[offset + HEADER_SIZE : offset + header.length]))


def delimit(data: Bytes, offset: int = 0) -> tuple[Header | None, Problem | None]:
    """Give the header at `offset` and, where it does not delimit a frame, the reason.

    The offset of a truncation is where the bytes end; that of a bad length is the length field.
    """
    there = max(len(data) - offset, 0)
    if there < HEADER_SIZE:
        return None, Problem(Code.TRUNCATED_HEADER, len(data), there, HEADER_SIZE)
    header = read_header(data, offset)
    if header.length < HEADER_SIZE:
        return header, Problem(Code.LENGTH_BELOW_HEADER, offset + 2, header.length, f"at least {HEADER_SIZE}")
    if header.length > there:
        return header, Problem(Code.TRUNCATED_PAYLOAD, len(data), there, header.length)
    return header, None


def inspect(data: Bytes, offset: int = 0) -> tuple[Frame | None, list[Problem]]:
    """Read the frame at `offset` strictly and name everything that is wrong, in order of offset.

    The frame is None where its length is not sound, so that the next one cannot be found either. What the
    payload means is judged by its own readers (schema, messages).
    """
    header, broken = delimit(data, offset)
    problems: list[Problem] = []
    if header is not None:
        problems += _header_problems(header, offset)
    if header is None or broken is not None:
        assert broken is not None
        return None, sorted([*problems, broken], key=lambda problem: problem.offset)
    payload_end, trailer = _trailer(data, offset, header)
    payload = bytes(data[offset + HEADER_SIZE : payload_end])
    rule = _RULES.get(header.type)
    if rule and rule.empty and payload:
        problems.append(Problem(Code.BAD_PAYLOAD, offset + HEADER_SIZE, plural(len(payload), "byte"), "none"))
    if header.type == Type.EVENT and header.length > MAX_EVENT:
        problems.append(Problem(Code.PAYLOAD_TOO_LONG, offset + 2, header.length, f"at most {MAX_EVENT}"))
    problems += trailer
    problems.sort(key=lambda problem: problem.offset)
    return Frame(offset, header, payload), problems


def read_strict(data: Bytes, offset: int = 0) -> Frame:
    """Read the frame at `offset`; raises FrameError with the first of the problems `inspect` finds."""
    frame, problems = inspect(data, offset)
    if problems or frame is None:
        raise FrameError(problems[0], subject=f"at offset {offset}")
    return frame


def _build_error(code: Code, offset: int, found: str | int, expected: str | int, type: int) -> FrameError:
    name = Type(type & 15).name if type & 15 in TYPES else f"type {type}"
    return FrameError(Problem(code, offset, found, expected), "build frame", name)


def _header_problems(header: Header, offset: int) -> list[Problem]:
    problems = []
    if header.version != VERSION:
        problems.append(Problem(Code.BAD_VERSION, offset, header.version, VERSION))
    if header.type not in TYPES:
        problems.append(Problem(Code.BAD_TYPE, offset, header.type, f"0 to {max(TYPES):d}"))
    elif _RULES[header.type].id_zero and header.id:
        problems.append(Problem(Code.BAD_ID, offset + 4, header.id, 0))
    if header.flags & RESERVED_FLAGS:
        problems.append(
            Problem(Code.BAD_FLAGS, offset + 1, f"{header.flags:#04x}", f"no bit of {RESERVED_FLAGS:#04x}")
        )
    elif header.flags == _PADDED:
        problems.append(Problem(Code.BAD_FLAGS, offset + 1, "PADDED alone", "PADDED with CHECKSUM"))
    return problems


def _trailer(data: Bytes, offset: int, header: Header) -> tuple[int, list[Problem]]:
    """Where the payload ends, and what is wrong with the padding and the checksum after it."""
    end = offset + header.length
    if not header.flags & _CHECKSUM:
        return end, []
    pad = 1 if header.flags & _PADDED else 0
    room = header.length - HEADER_SIZE
    if room < pad + 2:
        start = offset + HEADER_SIZE
        return start, [
            Problem(Code.BAD_CHECKSUM, start, f"{plural(room, 'byte')} after the header", f"{pad + 2}")
        ]
    problems = []
    if pad and data[end - 3]:
        problems.append(Problem(Code.BAD_PADDING, end - 3, data[end - 3], 0))
    if pad and header.length & 1:
        problems.append(
            Problem(
                Code.BAD_PADDING, end - 3, "padding before an odd offset", "no padding: the payload is even"
            )
        )
    found = int.from_bytes(data[end - 2 : end], "big")
    expected = checksum(data[offset : end - 2])
    if found != expected:
        problems.append(Problem(Code.BAD_CHECKSUM, end - 2, f"{found:04x}", f"{expected:04x}"))
    return end - 2 - pad, problems


# ---- Sequence numbers: 32 bits that wrap, compared as RFC 1982 says
#
# Invariants: a number is before another where going forward reaches it in fewer than 2**31 steps; nothing
# else compares sequence numbers. Two numbers exactly 2**31 apart are in no order: neither is before the
# other.


MASK = 0xFFFFFFFF
HALF = 1 << 31


def before(a: int, b: int) -> bool:
    """True where `a` comes before `b`."""
    return 0 < (b - a) & MASK < HALF


def distance(a: int, b: int) -> int:
    """Steps from `a` forward to `b`, -2**31 to 2**31 - 1: negative where `b` comes before `a`."""
    steps = (b - a) & MASK
    return steps - (MASK + 1) if steps >= HALF else steps


def later(a: int, b: int) -> int:
    """The later of two; `a` where they are in no order."""
    return b if before(a, b) else a
