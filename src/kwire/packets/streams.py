"""A TCP stream put in order from the segments in a capture, and the frames in it (RFC 9293).

Invariants: bytes are given once and in order, whatever was lost, repeated, reordered or overlaps; of bytes
that came twice the first are kept; what is held is bounded; a hole that is not filled is counted and
passed over. A stream whose beginning was not captured is read from the lowest of its first segments on.
After a hole inside a frame the next one begins where that frame's length says; after any other it is found
by its shape: a type that stands in a session outside of DATA, DATA by the chain of frames in it and a
number near the one expected. Hostile segments never raise and never take long.
"""

import re
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from typing import Final, NamedTuple

from kwire.packets.conversations import PART_COST
from kwire.wire.frame import HEADER_SIZE, TYPES, VERSION, Code, Flag, Problem, Type, distance, inspect
from kwire.wire.walk import frame_strict

FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
MAX_HELD: Final = 8 << 20  # bytes of one stream that wait for a hole to be filled
MAX_SEGMENTS: Final = 8192  # segments of them
MAX_WAIT: Final = 3_000_000_000  # ns of capture time that they wait at most
# Of a stream that was joined in the middle: segments among which the lowest is looked for …
JOINED: Final = 16
JOIN_WAIT: Final = 200_000_000  # … ns of capture time at most: TCP sends again what was lost by then
GIVEN: Final = 16  # pieces that were given and are remembered, to be compared with what comes again
LOOKED_AT: Final = 256 << 10  # bytes in which a stream on no port of frames must hold one, else it is another
SPAN: Final = 1 << 16  # DATA frames; a number further from the one expected begins no frame found again
MAX_CONTROL: Final = 4096  # bytes of a frame other than DATA by which a stream is taken up again
_WRAP = 1 << 32
_TIMES = 1 << 64

#: Types that stand in a session outside of DATA; only at these is a stream taken up again.
WRAPPED: Final = frozenset({Type.EVENT, Type.SCHEMA, Type.LOST, Type.TABLE})
SESSION_TYPES: Final = frozenset(set(Type) - WRAPPED)
#: Types whose payload is a CBOR map, of those.
MAPS: Final = frozenset({Type.HELLO, Type.WELCOME, Type.REQUEST, Type.REPLY, Type.ERROR, Type.BYE})
CHAIN: Final = 2  # frames in a row, and MAX_CONTROL bytes, by which DATA is known before it is whole
_CANDIDATE = re.compile(rb"[\x10-\x1c][\x00\x01\x03]", re.DOTALL)
_WALK_STEP: Final = 1024


class Piece(NamedTuple):
    """The next bytes of a stream; `hole`: how many before them are missing; `start`: a connection begins."""

    data: bytes
    hole: int = 0
    start: bool = False


class Stream:
    """One direction of a connection. `again`, `late`, `conflicts`: segments that repeat bytes, that came out
    of order, and that repeat bytes with other contents.
    """

    __slots__ = (
        "_at",
        "_given",
        "_heap",
        "_held",
        "_joining",
        "_last",
        "_next",
        "_origin",
        "_parts",
        "_since",
        "again",
        "conflicts",
        "ended",
        "late",
    )

    def __init__(self) -> None:
        self._next: int | None = None  # sequence number of the next byte
        self._at = 0  # its place, counted without wrapping
        self._parts: dict[int, bytes] = {}
        self._heap: list[int] = []
        self._held = 0
        self._given: deque[tuple[int, bytes]] = deque(maxlen=GIVEN)  # by sequence number
        self._since = 0  # when the oldest hole was seen
        self._origin: int | None = None  # sequence number of the first byte, by a SYN
        self._joining = False  # all is held until it is known which segment is the lowest
        self._last = 0  # place of the highest segment, meanwhile
        self.ended = False
        self.again = self.late = self.conflicts = 0

    @property
    def held(self) -> int:
        """What the segments cost that wait for a hole to be filled, in bytes."""
        return self._held + PART_COST * len(self._parts)

    def add(self, sequence: int, flags: int, data: bytes, time: int) -> list[Piece]:
        """Take a segment captured at `time` (ns); gives what is in order now."""
        pieces: list[Piece] = []
        if flags & SYN:
            first = (sequence + 1) % _WRAP
            if self._next is None or self.ended or self._anew(first):
                pieces += self.finish()
                self._begin(first, 0)
                pieces.append(Piece(b"", start=True))
            elif self._joining:
                self._begin(first, self._at + self._distance(first))
                pieces += [Piece(b"", start=True), *self._give(time)]
            sequence = first
        if flags & RST:
            pieces += self.finish()
            self.ended = True
            return pieces
        if self._next is None:
            self._next, self._at, self._joining = sequence, MAX_HELD, True
        self._put(sequence, data, time)
        if self._joining and self._parts:
            many = len(self._parts) > JOINED or self._held > MAX_HELD
            if not (flags & FIN or many or _elapsed(self._since, time) > JOIN_WAIT):
                return pieces
            self._join()
        pieces += self._give(time)
        if flags & FIN and not self._parts and self._distance(sequence) <= 0:
            self.ended = True
        return pieces

    def finish(self) -> list[Piece]:
        """No more segments come: all that is held, holes and all."""
        pieces = []
        if self._joining and self._parts:
            self._join()
        while self._parts:
            pieces += self._pass(0)
        return pieces

    def _anew(self, first: int) -> bool:
        """Whether a SYN begins another connection: it is neither that of this one again nor late."""
        if self._origin is not None:
            return first != self._origin
        return not -MAX_HELD <= self._distance(first) <= 0

    def _begin(self, sequence: int, place: int) -> None:
        self._origin = sequence
        self._given.clear()
        self._next, self._at, self.ended, self._joining = sequence, place, False, False

    def _join(self) -> None:
        """Begin with the lowest of what is held, or what comes behind the first segment if that is lower."""
        self._joining = False
        back = self._at - self._heap[0]
        if back > 0:
            self._move(-back)

    def _distance(self, sequence: int) -> int:
        """Bytes from the next one expected to this sequence number; less than 0: it was passed already."""
        return ((sequence - (self._next or 0) + _WRAP // 2) % _WRAP) - _WRAP // 2

    def _put(self, sequence: int, data: bytes, time: int) -> None:
        ahead = self._distance(sequence)
        if not data:
            return
        if ahead < (-MAX_HELD if self._joining else 0):
            self.again += 1
            self.conflicts += self._differs(sequence, data)
            data, ahead = data[-ahead:], 0
            if not data:
                return
        place = self._at + ahead
        highest = max(self._last, place) if self._parts else place
        self.late += place < highest if self._joining else ahead > 0
        self._last = highest
        old = self._parts.get(place)
        if old is not None:
            self.again += 1
            self.conflicts += old[: len(data)] != data[: len(old)]
            if len(data) <= len(old):
                return
            data = old + data[len(old) :]
            self._held -= len(old)
        else:
            heappush(self._heap, place)
            if not self._parts:
                self._since = time
        self._parts[place] = data
        self._held += len(data)

    def _give(self, time: int) -> list[Piece]:
        """What is in order, and what is behind holes for which nothing waits any more."""
        pieces = self._ready()
        while self._parts and (
            self._held > MAX_HELD or len(self._parts) > MAX_SEGMENTS or _elapsed(self._since, time) > MAX_WAIT
        ):
            pieces += self._pass(time)
        return pieces

    def _ready(self) -> list[Piece]:
        """What follows without a hole."""
        out: list[Piece] = []
        while self._heap and self._heap[0] <= self._at:
            place = heappop(self._heap)
            data = self._parts.pop(place)
            self._held -= len(data)
            if place < self._at:
                self.conflicts += self._differs(((self._next or 0) + place - self._at) % _WRAP, data)
            if place + len(data) <= self._at:
                self.again += 1
                continue
            data = data[self._at - place :]
            out.append(Piece(data))
            self._given.append((self._next or 0, data))
            self._move(len(data))
        return out

    def _pass(self, time: int) -> list[Piece]:
        """Pass over the first hole."""
        hole = self._heap[0] - self._at
        self._move(hole)
        self._since = time
        first, *rest = self._ready()
        return [first._replace(hole=hole), *rest]

    def _differs(self, sequence: int, data: bytes) -> bool:
        """Whether bytes that were given already are others here, as far as those are remembered."""
        for first, old in self._given:
            at = (first - sequence) % _WRAP
            if at + len(old) <= len(data) and data[at : at + len(old)] != old:
                return True
        return False

    def _move(self, size: int) -> None:
        self._at += size
        self._next = ((self._next or 0) + size) % _WRAP


def _elapsed(since: int, now: int) -> int:
    """Nanoseconds between two times of a capture, which may be any of 64 bits, and go back."""
    return ((now - since + _TIMES // 2) % _TIMES) - _TIMES // 2


class Found(NamedTuple):
    """Whole, strict frames back to back in `data`, at `offsets`."""

    data: bytes
    offsets: "array[int]"


class Splitter:
    """Finds the frames in a stream's bytes. `problems` collects what was wrong, `skipped` the bytes passed.

    `found`: there were frames. `lost`: the stream holds none, as far as was looked. `encrypted`: it is TLS.
    `expects` gives the number of the DATA to come, where it is known. `patient`: look for a frame to the end.
    """

    __slots__ = (
        "_buffer",
        "_expects",
        "_patient",
        "_raw",
        "_searched",
        "_skip",
        "_synced",
        "encrypted",
        "found",
        "lost",
        "problems",
        "skipped",
    )

    def __init__(
        self, synced: bool, *, patient: bool = True, expects: Callable[[], int | None] = lambda: None
    ) -> None:
        self._buffer = b""
        self._expects = expects
        self._synced = synced  # the next byte begins a frame
        self._raw = synced  # it began with frames that no DATA wraps, or has not begun: more may stand here
        self._patient = patient
        self._skip = 0  # bytes to come of a frame with a hole in it
        self._searched = 0
        self.found = False
        self.lost = False
        self.encrypted = False
        self.skipped = 0
        self.problems: list[Problem] = []

    @property
    def partial(self) -> int:
        """Bytes of a frame that is not whole yet."""
        return len(self._buffer)

    @property
    def reported(self) -> bool:
        """Whether what is wrong with it is told: of a stream of others, on a port of others, nothing is."""
        return self.found or self._patient

    def hole(self, size: int) -> None:
        """So many bytes are missing here."""
        there = len(self._buffer)
        self.skipped += there
        left = self._skip
        if not left and self._synced and there >= HEADER_SIZE and _likely(self._buffer, 0):
            left = (self._buffer[2] << 8 | self._buffer[3]) - there
        self._synced = 0 < size <= left
        self._raw = self._raw and self.found  # what is found first after a hole may be parts of DATA
        self._buffer, self._skip = b"", left - size if self._synced else 0

    def feed(self, data: bytes) -> Iterator[Found]:
        """Take the next bytes; gives the frames that are whole now, to be taken before it goes on.

        A problem comes after the frames before it.
        """
        if self.lost:
            self.skipped += len(data)
            return
        if self._skip:
            passed = min(self._skip, len(data))
            self._skip -= passed
            self.skipped += passed
            data = data[passed:]
        self._buffer = self._buffer + data if self._buffer else data
        while self._buffer:
            if not self._synced and not self._search():
                break
            before = len(self._buffer)
            part = self._frames()
            if part is not None:
                yield part
            elif self.problems:
                yield Found(b"", array("Q"))
            if self._synced and len(self._buffer) == before:
                break

    def _frames(self) -> Found | None:
        """The frames at the start of the buffer; what is not a whole frame after them stays."""
        data, at, offsets = self._buffer, 0, array("Q")
        step = array("Q", bytes(8 * _WALK_STEP))
        count = _WALK_STEP
        while count == _WALK_STEP:
            count, at = frame_strict(data, at, len(data), step, _WALK_STEP)
            offsets += step[:count]
        if self._raw and any(data[place] & 15 in SESSION_TYPES for place in offsets):
            self._raw = False
        if offsets:
            self.found, self._searched = True, 0
        rest = self._judge(at)
        self._buffer = data[rest:]
        return Found(data, offsets) if offsets else None

    def _judge(self, at: int) -> int:
        """What stands where strict reading stopped; gives where to go on."""
        data = self._buffer
        if len(data) - at < 2:
            return at
        if _tls(data, at):
            self.encrypted = self.lost = True
            self.skipped += len(data) - at
            return len(data)
        if len(data) - at < HEADER_SIZE:
            if _likely(data, at):
                return at
        else:
            frame, problems = inspect(data, at)
            wrong = {problem.code for problem in problems}
            if wrong == {Code.TRUNCATED_PAYLOAD}:
                return at
            sound = frame is not None and not wrong & _HEADER_CODES
            if sound or self.reported:
                self.problems += [one._replace(offset=one.offset - at) for one in problems[:1]]
            if frame is not None and sound:
                return at + frame.header.length
        self._synced = False
        self.skipped += 1
        return at + 1

    def _search(self) -> bool:
        """Move to the next bytes that look like a frame of a session; False where there are none."""
        data, at = self._buffer, 0
        if _tls(data, 0):
            self.encrypted = self.lost = True
        while not self.lost:
            match = _CANDIDATE.search(data, at)
            if match is None:
                at = max(at, len(data) - 1)
                if data[at:] and not _likely(data, at):
                    at = len(data)
                break
            at = match.start()
            looks = self._looks(at)
            if looks is None:
                break  # more bytes will tell
            if looks:
                self._synced = True
                break
            at += 1
        if not self._synced and not self._patient and not self.found and self._searched + at > LOOKED_AT:
            self.lost = True
        if self.lost:
            at = len(data)
        self.skipped += at
        self._searched += at
        self._buffer = data[at:]
        return self._synced

    def _looks(self, at: int) -> bool | None:
        """Whether a frame of a session begins at `at`; None: more bytes will tell."""
        data = self._buffer
        left = len(data) - at
        if not _likely(data, at):
            return False
        if left < HEADER_SIZE:
            return None
        kind, length = data[at] & 15, data[at + 2] << 8 | data[at + 3]
        allowed = TYPES if self._raw else SESSION_TYPES
        if kind not in allowed:
            return False
        if kind == Type.DATA:
            number = int.from_bytes(data[at + 4 : at + 8], "big")
            expected = self._expects()
            if expected is not None and not -SPAN < distance(expected, number) < SPAN:
                return False
            chain = self._chain(at, length)
            if left < length or chain is False:
                return chain
        elif kind in SESSION_TYPES and length > MAX_CONTROL:
            return False
        if left < length:
            return None
        frame, problems = inspect(data, at)
        if frame is None or problems or not _says(kind, frame.payload):
            return False
        at += length
        return left == length or (_likely(data, at) and data[at] & 15 in allowed)

    def _chain(self, at: int, length: int) -> bool | None:
        """Whether frames that DATA wraps begin in it; None: as far as its bytes are there, they may."""
        data, flags = self._buffer, self._buffer[at + 1]
        end, known = at + length - (3 if flags & Flag.PADDED else 2 if flags else 0), at + MAX_CONTROL
        at += HEADER_SIZE
        seen = 0
        while at < min(len(data), end):
            if not _likely(data, at) or data[at] & 15 not in WRAPPED:
                return False
            if len(data) - at < HEADER_SIZE:
                return None
            at += data[at + 2] << 8 | data[at + 3]
            seen += 1
            if seen >= CHAIN and known <= at <= end:
                return True
        return False if at > end else None


_HEADER_CODES: Final = frozenset(
    {
        Code.TRUNCATED_HEADER,
        Code.TRUNCATED_PAYLOAD,
        Code.LENGTH_BELOW_HEADER,
        Code.BAD_VERSION,
        Code.BAD_TYPE,
        Code.BAD_FLAGS,
    }
)


def _likely(data: bytes, at: int) -> bool:
    """Whether the first bytes there, as far as there are any, could be those of a strict header."""
    left = len(data) - at
    if data[at] >> 4 != VERSION or data[at] & 15 not in TYPES:
        return False
    if left > 1 and data[at + 1] not in (0, Flag.CHECKSUM, Flag.CHECKSUM | Flag.PADDED):
        return False
    if left > 3 and data[at + 2] << 8 | data[at + 3] < HEADER_SIZE:
        return False
    rule = TYPES[Type(data[at] & 15)]
    return not (rule.id_zero and any(data[at + 4 : at + 8]))


def _says(kind: int, payload: bytes) -> bool:
    """Whether the payload of a frame that no DATA wraps can be what its type says."""
    if kind == Type.ACK:
        return len(payload) % 8 == 4
    return kind not in MAPS or (payload[:1] >= b"\xa0" and payload[:1] < b"\xc0")


def _tls(data: bytes, at: int) -> bool:
    """Whether a TLS record begins here: a handshake's ClientHello or ServerHello, or application data."""
    head = data[at : at + 6]
    if len(head) < 6 or head[1] != 3 or head[2] > 4:
        return False
    return (head[0] == 0x16 and head[5] in (1, 2)) or (head[0] == 0x17 and head[2] == 3)
