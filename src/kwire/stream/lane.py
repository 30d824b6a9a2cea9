"""A lane: one session's part of a store: which frames describe its probes, what their numbers are there.

The laws: a peer's claims are bounded before anything grows by them; what is refused is counted and named,
and the lane goes on; SCHEMA payloads are kept as they came, so that a successor reads the same again.
"""

import struct
from array import array
from collections.abc import Mapping
from typing import Any, Final

from kwire.wire.frame import VERSION, Code, Frame, FrameError, Header, Problem, Type, inspect
from kwire.wire.schema import Clock, Schema, SchemaReader
from kwire.wire.totals import read_totals

MOST_PROBES: Final = 1 << 16  # probes of one session
LARGEST_ID: Final = 1 << 17  # probe numbers are below this: tables grow with them
MOST_DESCRIBED: Final = 16 << 20  # bytes of SCHEMA payloads kept of one session
MOST_PRODUCED: Final = 1 << 60  # events of a probe
MOST_COMPLAINTS: Final = 16  # problems kept until somebody takes them

_RECORD = struct.Struct("=IIBxxxQQ")  # next sequence number, probes with totals, done, DATA frames, errors
_PRODUCED = struct.Struct("=IQ")  # own probe number, events


class Lane:
    """One session. `next`: the sequence number it expects; `stored`: the one that the ledger knows."""

    __slots__ = (
        "_described",
        "_partial",
        "_raw",
        "_reader",
        "about",
        "anchor",
        "complaints",
        "done",
        "errors",
        "frames",
        "next",
        "numbers",
        "own",
        "produced",
        "stored",
        "table",
        "token",
        "unknown",
    )

    def __init__(self, token: bytes, about: Mapping[str, str]) -> None:
        self.token = token
        self.about = dict(about)
        self.next = self.stored = 0
        self.done = False
        """The source said BYE, and all it sent is stored."""
        self.frames = self.errors = 0
        self.complaints: list[Problem] = []
        self.numbers: dict[int, int] = {}  # its own probe number → the capture's
        self.own: dict[int, int] = {}  # and back
        self.table = array("Q", [0])  # the same as `numbers`, for frame_renumber
        self.anchor: tuple[int, int] | None = None
        """Its monotonic clock and our wall clock at one moment, ns; None: its own clock pairs count."""
        self.produced: dict[int, int] = {}
        """What its source counted, by its own probe number; told at the end."""
        self.unknown: tuple[int, int, int] = (0, 0, 0)
        """Events without a description: how many, the first time, the last."""
        self._raw: dict[int, list[bytes]] = {}  # own number → payloads of its SCHEMA
        self._partial: dict[int, list[bytes]] = {}  # the same, the last not there yet
        self._described = 0  # bytes in both
        self._reader = SchemaReader()

    @property
    def host(self) -> str:
        """Who it says it is; for names of files see `folder.harmless`."""
        return self.about.get("name", "") or self.about.get("host", "")

    @property
    def proven(self) -> bool:
        """Whether it has ended and its source has said what each probe produced."""
        return self.done and self.produced.keys() >= self.numbers.keys()

    def refuse(self, code: Code, found: str | int, expected: str | int) -> None:
        """Count something that is not as it should be."""
        self.complain(Problem(code, 0, found, expected))

    def complain(self, problem: Problem) -> None:
        """Count a problem."""
        self.errors += 1
        if len(self.complaints) < MOST_COMPLAINTS:
            self.complaints.append(problem)

    def stray(self, time: int) -> None:
        """Count an event that nothing describes."""
        count, first, last = self.unknown
        self.unknown = (count + 1, min(first, time) if count else time, max(last, time))

    def schema(self, id: int, frame: memoryview) -> Schema | None:
        """Take a SCHEMA frame whose own number is `id`; give the schema once its last frame is there."""
        parsed, problems = inspect(frame)
        if parsed is None or problems:
            self.complain(problems[0])
            return None
        if not 0 < id < LARGEST_ID or (id not in self.numbers and len(self.numbers) >= MOST_PROBES):
            self.refuse(Code.BAD_ID, id, f"a probe number below {LARGEST_ID}, {MOST_PROBES} at most")
            return None
        if self._described + len(parsed.payload) > MOST_DESCRIBED:
            self.refuse(Code.BAD_PAYLOAD, "more descriptions", f"{MOST_DESCRIBED} bytes of them at most")
            return None
        return self._read(id, parsed.payload)

    def told(self, id: int) -> list[bytes] | None:
        """The SCHEMA payloads that are kept of a probe."""
        return self._raw.get(id)

    def totals(self, frame: memoryview) -> None:
        """Take what its source says that its probes produced."""
        parsed, problems = inspect(frame)
        if parsed is None or problems:
            self.complain(problems[0])
            return
        try:
            produced = read_totals(parsed)
        except FrameError as error:
            self.complain(error.problem)
            return
        if any(count > MOST_PRODUCED for count in produced.values()):
            self.refuse(Code.BAD_PAYLOAD, "more events than can be", f"at most {MOST_PRODUCED}")
            return
        self.produced.update((id, count) for id, count in produced.items() if id in self.numbers)

    def _read(self, id: int, payload: bytes) -> Schema | None:
        self._partial.setdefault(id, []).append(payload)
        self._described += len(payload)
        try:
            header = Header(VERSION, Type.SCHEMA, 0, 0, id)
            schema = self._reader.add(Frame(0, header, payload))
        except FrameError as error:
            self.complain(error.problem)
            self._described -= sum(map(len, self._partial.pop(id)))
            return None
        if schema is not None:
            self._described -= sum(map(len, self._raw.get(id, ())))
            self._raw[id] = self._partial.pop(id)
        return schema

    def placed(self, schema: Schema) -> Schema:
        """A schema of its own as the capture has it: number and clock."""
        clock = schema.clock
        if self.anchor is not None and clock is not None:
            monotonic, wall = self.anchor
            clock = Clock(clock.name, clock.monotonic, max(0, wall + clock.monotonic - monotonic))
        return schema._replace(id=self.numbers[schema.id], clock=clock)

    def number(self, id: int, number: int) -> None:
        """Make its own probe number `id` the capture's `number`."""
        self.numbers[id], self.own[number] = number, id
        if len(self.table) <= id:
            self.table.extend([0] * (id + 1 - len(self.table)))
        self.table[id] = number

    def schemas(self) -> list[Schema]:
        """All its schemas as the capture has them, read from what is kept."""
        reader = SchemaReader()
        found = []
        for id, payloads in self._raw.items():
            for payload in payloads:
                schema = reader.add(Frame(0, Header(VERSION, Type.SCHEMA, 0, 0, id), payload))
                if schema is not None:
                    found.append(self.placed(schema))
        return found

    # --- in a ledger: its record, and its front

    def record(self) -> bytes:
        """What a successor must know and changes always."""
        head = _RECORD.pack(self.next, len(self.produced), self.done, self.frames, self.errors)
        return head + b"".join(_PRODUCED.pack(id, count) for id, count in self.produced.items())

    def take_record(self, data: memoryview, at: int) -> int:
        """Read at `at` what `record` gave; gives where it ends. struct.error where it is none."""
        self.next, told, done, self.frames, self.errors = _RECORD.unpack_from(data, at)
        self.stored = self.next
        end: int = at + _RECORD.size + told * _PRODUCED.size
        self.produced = dict(_PRODUCED.iter_unpack(data[at + _RECORD.size : end]))
        self.done = bool(done)
        return end

    def front(self, over: bool = False) -> dict[str, Any]:
        """What a successor must know and changes seldom; when it is `over`, only that there was a session."""
        return {
            "token": self.token,
            "about": self.about,
            "anchor": list(self.anchor or ()),
            "numbers": {} if over else self.numbers,
            "schemas": {} if over else self._raw,
            "partial": {} if over else self._partial,
        }

    @classmethod
    def back(cls, front: Mapping[str, Any]) -> "Lane":
        """The lane that `front` gave. KeyError, TypeError, ValueError or FrameError where it is none."""
        lane = cls(bytes(front["token"]), front["about"])
        lane.anchor = (int(front["anchor"][0]), int(front["anchor"][1])) if front["anchor"] else None
        for id, number in front["numbers"].items():
            lane.number(id, number)
        for part in (front["schemas"], front["partial"]):
            for id, payloads in part.items():
                for payload in payloads:
                    lane._read(id, payload)
        return lane
