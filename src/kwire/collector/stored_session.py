"""One session's part of a store: which frames describe its probes, what their numbers are there.

Invariants: a peer's claims are bounded before anything grows by them; what is refused is counted and named,
and the stored session goes on; SCHEMA payloads are kept as they came, so that a successor reads the same
again.
"""

import struct
from array import array
from collections.abc import Mapping
from typing import Final

from kwire.collector.checkpoint import Contents
from kwire.wire import cbor
from kwire.wire.control import TOKEN_SIZE
from kwire.wire.frame import HEADER_SIZE, VERSION, Code, Frame, FrameError, Header, Problem, Type
from kwire.wire.frames import Frames
from kwire.wire.keyed import INTEGER, MAP, Key, listing, read_payload
from kwire.wire.payload import ENDS
from kwire.wire.schema import Clock, Schema, SchemaReader

MOST_PROBES: Final = 1 << 16  # probes of one session
LARGEST_ID: Final = 1 << 17  # probe numbers are below this: tables grow with them
MOST_DESCRIBED: Final = 16 << 20  # bytes of SCHEMA payloads kept of one session
MOST_PRODUCED: Final = 1 << 60  # events of a probe
MOST_COMPLAINTS: Final = 16  # problems kept until somebody takes them

_RECORD = struct.Struct(
    "=IBBxxQQIQ"
)  # next number, done, whether continued, DATA frames, errors, by whom, when
_PRODUCED = struct.Struct("=IQ")  # own probe number, events
_NUMBERS = struct.Struct(
    "=IIII"
)  # the capture's number, payloads before, of the SCHEMA, of one not whole yet
_ID = struct.Struct("=I")

# Kinds of keys in a checkpoint; the token follows, and what else is said here.
_ABOUT, _SESSION, _TOLD, _PROBE, _TEXT = (
    b"about",
    b"lane ",
    b"told ",
    b"probe",
    b"text ",
)  # own number; and index
_KIND: Final = 5
_ABOUT_KEYS: Final = {
    "about": Key(MAP, "who the source says it is"),
    "anchor": Key(listing(INTEGER, "a list of integers"), "its clock and ours at one moment, or nothing"),
}


LOOKED_AT: Final = 16
"""Frames at the end of a payload that are looked at for its newest event: behind it stand losses at most."""


class StoredSession:
    """One session. `next`: the sequence number it expects; `stored`: the one that the checkpoint knows."""

    __slots__ = (
        "_base",
        "_clocks",
        "_described",
        "_fresh",
        "_newest",
        "_partial",
        "_raw",
        "_reader",
        "about",
        "anchor",
        "complaints",
        "continued",
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
        self.continued: tuple[int, int] | None = None
        """The nonce of the HELLO that had the session last, and when, in seconds since 1970."""
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
        self._base: dict[int, int] = {}  # own number → how many of its payloads were before those in `_raw`
        self._fresh: dict[int, int] = {}  # own number → the first of its payloads that no checkpoint has
        self._described = 0  # bytes in both
        self._clocks: dict[int, tuple[str, Clock]] = {}  # own number → byte order and clock
        self._newest: tuple[int, bytes] = (0, b"")  # the capture's number of an event, and its time
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

    def unsound(self, problems: list[Problem], at: int) -> None:
        """Count a frame with which something is wrong; named is what takes the next frames with it."""
        self.complain(next((one for one in problems if one.code in ENDS), problems[0]))

    def stray(self, time: int) -> None:
        """Count an event that nothing describes."""
        count, first, last = self.unknown
        self.unknown = (count + 1, min(first, time) if count else time, max(last, time))

    def schema(self, id: int, payload: bytes) -> Schema | None:
        """Take a SCHEMA whose own number is `id`; give the schema once its last frame is there."""
        if not 0 < id < LARGEST_ID or (id not in self.numbers and len(self.numbers) >= MOST_PROBES):
            self.refuse(Code.BAD_ID, id, f"a probe number below {LARGEST_ID}, {MOST_PROBES} at most")
            return None
        if self._described + len(payload) > MOST_DESCRIBED:
            self.refuse(Code.BAD_PAYLOAD, "more descriptions", f"{MOST_DESCRIBED} bytes of them at most")
            return None
        return self._read(id, payload)

    def totals(self, produced: Mapping[int, int]) -> None:
        """Take what its source says that its probes produced."""
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
            self._news(id, 0)
            return None
        old = self._raw.get(id, [])
        if schema is None:
            self._news(id, len(self._partial[id]) - 1)
            return None
        if schema.clock is not None:
            self._clocks[id] = schema.order, schema.clock
        new = self._partial.pop(id)
        self._described -= sum(map(len, old))
        if new != old:
            self._raw[id], self._base[id] = new, self._base.get(id, 0) + len(old)
            self._news(id, -1)
        elif len(new) > 1:  # it was told again; the checkpoint may have some of it
            self._news(id, 0)
        return schema

    def _news(self, id: int, at: int) -> None:
        """The checkpoint has not got what is known of a probe, nor its payloads from `at` of the part on."""
        index = self._base.get(id, 0) + len(self._raw.get(id, ())) + at
        self._fresh[id] = min(self._fresh.get(id, index), index)

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

    def see(self, frames: Frames) -> None:
        """Note the last event of what was stored; frames have the capture's numbers."""
        for index in range(frames.count - 1, max(-1, frames.count - 1 - LOOKED_AT), -1):
            header = frames.header(index)
            if header.type == Type.EVENT:
                at = frames.offsets[index] + HEADER_SIZE
                self._newest = header.id, bytes(frames.view[at : at + 8])
                return

    def take_newest(self) -> float | None:
        """When the last event that was stored happened, in seconds since 1970, by its source's clock, or by
        ours where its times are put on that; None: there was none since this was asked last, or it has no
        clock.
        """
        (number, time), self._newest = self._newest, (0, b"")
        known = self._clocks.get(self.own.get(number, 0))
        if known is None:
            return None
        order, clock = known
        monotonic, wall = self.anchor or (clock.monotonic, clock.wall)
        return (wall + int.from_bytes(time, "big" if order == "big" else "little") - monotonic) / 1e9

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

    # --- in a checkpoint

    def contents(self, whole: bool = False, over: bool = False) -> Contents:
        """What a successor must know: what is new of the probes since `kept`, or with `whole` all of them;
        when it is `over`, only that there was a session.
        """
        about = {"about": self.about, "anchor": list(self.anchor or ())}
        nonce, when = self.continued or (0, 0)
        known = self.continued is not None
        record = _RECORD.pack(self.next, self.done, known, self.frames, self.errors, nonce, when)
        often = {_ABOUT + self.token: cbor.dumps(about), _SESSION + self.token: record}
        if over:
            return Contents(often)
        often[_TOLD + self.token] = b"".join(_PRODUCED.pack(*each) for each in self.produced.items())
        once: dict[bytes, bytes] = {}
        for id in {**self._raw, **self._partial} if whole else self._fresh:
            raw, partial, base = self._raw.get(id, []), self._partial.get(id, []), self._base.get(id, 0)
            key = self.token + _ID.pack(id)
            once[_PROBE + key] = _NUMBERS.pack(self.numbers.get(id, 0), base, len(raw), len(partial))
            first = 0 if whole else max(0, self._fresh[id] - base)
            for index, payload in enumerate((raw + partial)[first:], base + first):
                once[_TEXT + key + _ID.pack(index)] = payload
        return Contents(often, once)

    def outline(self) -> "StoredSession":
        """What there is to know of it when it is over."""
        return self.found(self.contents(over=True).often, whole=False)[self.token]

    def kept(self) -> None:
        """What is new is in the checkpoint."""
        self._fresh.clear()
        self.stored = self.next

    @classmethod
    def found(cls, values: Mapping[bytes, bytes], whole: bool = True) -> dict[bytes, "StoredSession"]:
        """The stored sessions of a checkpoint, by token; not `whole`: without their probes.

        KeyError, ValueError, struct.error or FrameError where they are none.
        """
        stored_sessions: dict[bytes, StoredSession] = {}
        for key, value in values.items():
            kind, token = key[:_KIND], key[_KIND : _KIND + TOKEN_SIZE]
            if kind == _ABOUT:
                record = read_payload(cbor.loads_map(value), _ABOUT_KEYS, 0)
                stored_session = stored_sessions[token] = cls(token, record["about"])
                if record["anchor"]:
                    stored_session.anchor = (int(record["anchor"][0]), int(record["anchor"][1]))
                stored_session._take(values[_SESSION + token], values.get(_TOLD + token, b""))
        for key, value in values.items() if whole else ():
            if key[:_KIND] == _PROBE:
                stored_session = stored_sessions[key[_KIND : _KIND + TOKEN_SIZE]]
                stored_session._take_probe(key[_KIND:], _NUMBERS.unpack(value), values)
        return stored_sessions

    def _take(self, record: bytes, told: bytes) -> None:
        self.next, done, known, self.frames, self.errors, nonce, when = _RECORD.unpack(record)
        self.stored, self.done = self.next, bool(done)
        self.continued = (nonce, when) if known else None
        self.produced = dict(_PRODUCED.iter_unpack(told))

    def _take_probe(self, key: bytes, numbers: tuple[int, ...], values: Mapping[bytes, bytes]) -> None:
        (id,), (number, base, raw, partial) = _ID.unpack(key[TOKEN_SIZE:]), numbers
        if number:
            self.number(id, number)
        for index in range(base, base + raw + partial):
            self._read(id, values[_TEXT + key + _ID.pack(index)])
        self._base[id] = base
        self._fresh.clear()
