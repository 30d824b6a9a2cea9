"""The frames of a session as they were captured, unwrapped: what the source sent, each event once, in order.

Invariants: DATA is taken in the order of its sequence numbers, whatever the network did; what is held until a
number comes is bounded, and numbers that never come are counted; a session that goes on over a new connection
(same token) stays one, and so does one whose HELLO was seen after its first DATA; frames that no DATA wraps
are taken as they are. Schemas hold for what comes after them. Nothing that was captured raises.
"""

from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from kwire.capture.pcapng import HOST
from kwire.capture.reader import Section
from kwire.wire.control import Hello, Role, Welcome
from kwire.wire.fields import EVENT_LEAST
from kwire.wire.frame import MASK, Code, FrameError, Problem, Type, distance
from kwire.wire.frames import Frames
from kwire.wire.payload import said, strict_runs
from kwire.wire.schema import Schema, SchemaReader
from kwire.words import are

MAX_PARTS: Final = 512  # DATA frames held until one before them comes
PART_COST: Final = 24  # bytes that each of them, and each segment that waits, costs beside its own
MAX_HELD: Final = 8 << 20  # bytes of them
SPAN: Final = 1 << 16  # DATA frames; what is further from the number expected is of another session
BATCH: Final = 256 << 10  # bytes of frames given at once
KEPT: Final = frozenset({Type.EVENT, Type.LOST, Type.TABLE})  # what a capture holds besides schemas
READ: Final = frozenset({Type.EVENT, Type.LOST, Type.SCHEMA})  # what is looked into


def misplaced(kind: int, at: int = 0) -> Problem:
    """What is wrong with a frame in DATA of a type that stands outside of it only."""
    return Problem(Code.ILLEGAL_TRANSITION, at, f"{Type(kind).name} in DATA", "EVENT, SCHEMA, LOST or TABLE")


class SectionItem(NamedTuple):
    """What comes next in a section: frames, or a schema that holds from here on."""

    section: Section
    what: Frames | Schema


def begins(message: Hello | Welcome) -> int | None:
    """The number of the next DATA, where this names it: in a new source's message, or a resuming sink's."""
    return message.next if message.resume is (message.role is Role.SINK) else None


def opens(message: Hello | Welcome) -> bool:
    """Whether this names the first number of a session: in a source's message that resumes nothing."""
    return message.role is Role.SOURCE and not message.resume


def whole(one: "SessionOutcome") -> str:
    """Why the DATA in a capture may not be all that a session had; empty where it is."""
    if one.missing:
        return f"{are(one.missing, 'DATA frame')} not in the capture"
    if one.unsound:
        return f"{are(one.unsound, 'frame')} not sound"
    if one.bye is not None and one.next not in (None, one.bye):
        return "DATA follows the session's end (BYE)"
    ends = [*["beginning (HELLO)"] * (not one.began), *["end (BYE)"] * (one.bye is None)]
    return f"the capture does not hold the session's {' and '.join(ends)}" if ends else ""


class SessionOutcome(Protocol):
    """What is known of a session when all was read: as attributes of `Conversation`."""

    missing: int
    unsound: int
    next: int | None
    bye: int | None
    began: bool


def guess(message: Hello | Welcome) -> bool:
    """Whether this names no sequence number: then only the peer's answer shows which session it is of."""
    return message.role is Role.SINK and not message.resume


def means_nothing(message: Hello | Welcome, token: bytes) -> bool:
    """Whether this is a WELCOME that establishes no session, or answers another HELLO than that of the
    session which goes on (its token, empty where there is none).
    """
    if isinstance(message, Hello):
        return False
    refused = message.cookie or message.unknown or message.superseded or message.refused
    return bool(refused) or (token not in (b"", message.token))


def owed(message: Hello | Welcome, first: int, after: int, early: int) -> int | None:
    """Whether DATA that was seen before a HELLO or WELCOME can be of its session: paths reorder datagrams.

    `first` was the first number seen, `after` is the one expected, bit n of `early` is set where first − n
    came too. Gives the bits of those that the session began with and that have not come; None: it is another.
    """
    if guess(message):
        return 0 if distance(first, after) <= MAX_PARTS else None
    if message.resume:
        return 0 if -SPAN < distance(after, message.next) < SPAN else None
    back = distance(message.next, first)
    if not 0 <= back < MAX_PARTS or distance(message.next, after) > MAX_PARTS or early >> (back + 1):
        return None
    return ((2 << back) - 2) & ~early


class Conversation:
    """One session, or the frames between two endpoints where no session is known.

    `section`: what is known of its probes; `missing`, `again`, `late`: DATA frames that are not in the
    capture, that were there before, and that came out of order; `unsound`: frames in DATA with an error.
    `next`: the sequence number expected.
    `began`: the number with which it began is known, so that what is before the first one seen is missing.
    `answered`: WELCOME or ACK was seen, so that it was a session, though nothing else of it may be there.
    `guessed`: its token is that of a sink, which tells no number, and came after DATA.
    `complain` is told of each problem in what DATA holds, and where its frame begins there.
    """

    __slots__ = (
        "_complain",
        "_counted",
        "_early",
        "_first",
        "_gone",
        "_held",
        "_parts",
        "_reader",
        "_ready",
        "_size",
        "again",
        "answered",
        "began",
        "bye",
        "frames",
        "give",
        "guessed",
        "late",
        "missing",
        "name",
        "next",
        "section",
        "token",
        "unsound",
    )

    def __init__(
        self, name: str, give: Callable[[SectionItem], None], complain: Callable[[Problem, int], None]
    ) -> None:
        self.name = name
        self.token = b""
        self.section = Section(HOST, [])
        self.give = give
        self._complain = complain
        self._reader = SchemaReader()
        self._parts: dict[int, bytes] = {}  # DATA payloads that came before their turn
        self._held = 0
        self._ready: list[bytes] = []  # frames to be given, back to back
        self._size = 0
        self._first: int | None = None  # the number seen first, where it may not be the first there was
        self._early = 0  # bit n: the number n before it is not awaited any more
        self._counted = False  # the others before it are counted as missing
        self._gone: set[int] = set()  # numbers of streams that were passed, but may come on another
        self.guessed = self.began = self.answered = False
        self.next: int | None = None
        self.bye: int | None = None  # sequence number of the source's BYE
        self.frames = self.missing = self.again = self.late = self.unsound = 0

    @property
    def waits(self) -> bool:
        """Whether DATA is held until others come."""
        return bool(self._parts)

    @property
    def finished(self) -> bool:
        """Whether the source has said BYE and every DATA before that is there."""
        ends = self.bye is not None and self.next is not None and distance(self.next, self.bye) <= 0
        return ends and not self._parts

    @property
    def held(self) -> int:
        """Bytes that DATA that waits costs, and schemas that are not complete."""
        return self._held + PART_COST * len(self._parts) + self._reader.held

    def let_go(self) -> None:
        """Give up what is waited for: memory is short."""
        while self._parts:
            self._pass()
        self._reader = SchemaReader()

    @property
    def empty(self) -> bool:
        """Whether nothing of it has come."""
        return not (self.frames or self._parts or self.answered) and self._first is None

    def begin(self, message: Hello | Welcome) -> None:
        """Note which number comes next, and whether the session begins here."""
        first = begins(message)
        self.answered |= isinstance(message, Welcome)
        if self.next is None:
            self.next = first
        if not opens(message) or self.began:
            return
        if self._first is None:
            self.began = self.next == first
        else:
            self.join(message)

    def anew(self) -> None:
        """Forget what was said of a session that never began."""
        self.next = self.bye = None
        self.began = False
        self._gone.clear()

    def join(self, message: Hello | Welcome) -> bool:
        """Take what comes late for what this session began with; False where it is of another session."""
        if self._first is None or self.next is None or self.finished:
            return False
        missing = owed(message, self._first, self.next, self._early)
        if missing is None:
            return False
        if opens(message):
            self._early, self._counted, self.began = ~missing, True, True
            self.missing += missing.bit_count()
        self.guessed = guess(message)
        return True

    def data(self, sequence: int, payload: bytes, *, streamed: bool = False) -> None:
        """Take a DATA frame. `streamed`: it came in a stream, in which none before it comes any more."""
        if self.next is None:
            self.next = self._first = sequence
        ahead = distance(self.next, sequence)
        if ahead > 0 and streamed and not self._parts:
            self._pass_gone(self.next, ahead)
            self.next, ahead = sequence, 0
        if ahead < 0 and (self._before_first(sequence) or self._came_back(sequence)):
            self.late += 1
            self.inner(payload)
            return
        if ahead < 0 or sequence in self._parts:
            self.again += 1
            return
        if ahead:
            self.late += 1
            self._parts[sequence] = payload
            self._held += len(payload)
            while self._parts and (len(self._parts) > MAX_PARTS or self._held > MAX_HELD):
                self._pass()
            return
        self._take(sequence, payload)

    def inner(self, payload: bytes) -> None:
        """Take frames that stand back to back."""
        for frames in strict_runs(payload, lambda problems, at: self._refuse(problems[0], at)):
            self._sort(payload, frames)

    def flush(self) -> None:
        """Give the frames that wait to be many."""
        if self._ready:
            data = b"".join(self._ready)
            self._ready, self._size = [], 0
            self.give(SectionItem(self.section, Frames.walk(data)))

    def finish(self) -> None:
        """No more DATA comes: give what is held, and count what is missing."""
        while self._parts:
            self._pass()
        if self.bye is not None and self.next is not None:
            ahead = distance(self.next, self.bye)
            self.missing += max(ahead, 0)
            self.next = self.bye if ahead > 0 else self.next
        self.flush()

    def _before_first(self, sequence: int) -> bool:
        """Whether this number comes late but for the first time: the capture began among reordered DATA."""
        back = 0 if self._first is None else distance(sequence, self._first)
        if not 0 < back < MAX_PARTS or self._early >> back & 1:
            return False
        self._early |= 1 << back
        self.missing -= self._counted
        return True

    def _pass_gone(self, first: int, count: int) -> None:
        """Numbers of a stream are missing."""
        self.missing += count
        numbers = range(max(first, first + count - MAX_PARTS), first + count)
        self._gone = {one for one in self._gone if distance(one, first + count) <= MAX_PARTS}
        self._gone.update(number & MASK for number in numbers)

    def _came_back(self, sequence: int) -> bool:
        """Whether a number that was passed in a stream comes after all, in another one."""
        assert self.next is not None
        if sequence not in self._gone or distance(sequence, self.next) > MAX_PARTS:
            return False
        self._gone.remove(sequence)
        self.missing -= 1
        return True

    def _take(self, sequence: int, payload: bytes) -> None:
        self.next = (sequence + 1) & MASK
        self.inner(payload)
        while self._parts and self.next in self._parts:
            held = self._parts.pop(self.next)
            self._held -= len(held)
            self.next = (self.next + 1) & MASK
            self.inner(held)

    def _pass(self) -> None:
        """Give up what is missing before the first that is held."""
        assert self.next is not None
        start = self.next
        first = min(self._parts, key=lambda sequence: distance(start, sequence))
        self.missing += distance(start, first)
        self.next = first
        payload = self._parts.pop(first)
        self._held -= len(payload)
        self._take(first, payload)

    def _sort(self, data: bytes, frames: Frames) -> None:
        """Keep EVENT, LOST and TABLE frames, read schemas."""
        self.frames += frames.count
        at = mark = frames.offsets[0]
        for index in range(frames.count):
            at = frames.offsets[index]
            kind, length = data[at] & 15, data[at + 2] << 8 | data[at + 3]
            if kind == Type.TABLE or (kind == Type.EVENT and length >= EVENT_LEAST):
                continue
            schema = None
            if kind not in KEPT and kind != Type.SCHEMA:
                self._refuse(misplaced(kind, at), at)
            if kind in READ:
                try:
                    schema = said(frames.frame(index), self._reader)
                except FrameError as error:
                    kind = -1
                    self._refuse(error.problem, at)
            if kind not in KEPT:
                self._keep(data[mark:at])
                mark = at + length
            if isinstance(schema, Schema):
                self.flush()
                self.give(SectionItem(self.section, schema))
        at += data[at + 2] << 8 | data[at + 3]
        self._keep(data[mark:at])

    def _refuse(self, problem: Problem, at: int) -> None:
        self.unsound += 1
        self._complain(problem, at)

    def _keep(self, data: bytes) -> None:
        if data:
            self._ready.append(data)
            self._size += len(data)
            if self._size > BATCH:
                self.flush()
