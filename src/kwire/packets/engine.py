"""Packets in batches: the C engine (native/engine.h) takes all of them, and asks Python what is rare.

Invariants: what comes out is what `network.Network`, the specification, gives for the same packets, whatever
they are, in the same order within a session. The engine does dissection, fragments, flows, the order of
streams and of DATA, and finds the frames; Python reads HELLO, WELCOME and SCHEMA, and says what was wrong
the first time. What was found is given when it is much, or when nothing more is there.
"""

import ctypes
from array import array
from collections import Counter, deque
from collections.abc import Collection, Iterator
from itertools import pairwise, zip_longest
from typing import TYPE_CHECKING, Any, Final

from kwire import native
from kwire.capture.pcapng import HOST
from kwire.capture.reader import Mixed, Section, gathered, groups
from kwire.packets import memory
from kwire.packets.conversations import SectionItem, begins, guess, means_nothing, misplaced, opens, owed
from kwire.packets.dissect import Dissector
from kwire.packets.memory import Memory, Variant, Why
from kwire.packets.network import (
    MAX_CONVERSATIONS,
    MAX_FLOWS,
    First,
    Network,
    endpoint,
    forget_count,
)
from kwire.packets.tables import ETHERTYPES, PROTOCOLS, Protocol, Remark, Trouble
from kwire.wire.control import Hello, Role, Welcome
from kwire.wire.frame import ERRORS, Code, FrameError, Type, distance, inspect
from kwire.wire.frames import Data, Frames
from kwire.wire.payload import judge
from kwire.wire.schema import Schema, SchemaReader
from kwire.words import plural

if TYPE_CHECKING:
    import numpy as np

    from kwire.packets.walk import Rows

    Array = np.ndarray[Any, Any]

WORDS: Final = native.PACKET_WORDS
CACHED: Final = 4096  # schemas that are known by the bytes of their frame
PENDING: Final = 16 << 20  # bytes of schemas that are not complete, of all sessions
_ROLES: Final = {Role.SOURCE: memory.Role.SOURCE, Role.SINK: memory.Role.SINK}
_TROUBLES: Final = tuple(Trouble)
_REMARKS: Final = tuple(Remark)


class Session:
    """What Python keeps of a conversation of the engine: attributes as those of `Conversation`.

    `described`: what SCHEMA frames said so far.
    """

    __slots__ = (
        *("_key", "_name", "_reader", "again", "answered", "began", "bye", "described", "frames", "guessed"),
        *("late", "missing", "next", "section", "token", "unsound"),
    )

    def __init__(self, key: tuple[int, ...], first: int) -> None:
        self._key, self._name = (key, first), ""
        self._reader: SchemaReader | None = None
        self.section = Section(HOST, [])
        self.described: dict[int, Schema] = {}
        self.token = b""
        self.guessed = self.began = self.answered = False
        self.bye: int | None = None
        self.next: int | None = None
        self.frames = self.missing = self.again = self.late = self.unsound = 0

    @property
    def name(self) -> str:
        """The name of the flow in which it began."""
        if not self._name:
            self._name = _name(*self._key)
        return self._name

    @property
    def reader(self) -> SchemaReader:
        """What puts its schemas together."""
        if self._reader is None:
            self._reader = SchemaReader()
        return self._reader

    @property
    def held(self) -> int:
        """Bytes of schemas that are not complete."""
        return self._reader.held if self._reader is not None else 0

    def give_up(self) -> None:
        """Forget what is not complete."""
        self._reader = None


class Engine:
    """Takes packets as `network.Network` does; its attributes are the same."""

    def __init__(self, ports: Collection[int], *, any_port: bool = False) -> None:
        bits = bytearray(8192)
        for port in ports:
            bits[port >> 3] |= 1 << (port & 7)
        self._ports, self._any_port = frozenset(ports), any_port
        self._memory = Memory(bytes(bits), MAX_FLOWS, MAX_CONVERSATIONS)
        self._state = self._memory.state
        self._state.any_port = any_port
        self._heard = 0  # of what the engine found wrong: how much `found` has
        self._remarks = self._state.remarks
        self._rows: Rows | None = None  # those being taken
        self._before = 0  # packets taken before those of the rows
        self._told: dict[int, int] = {}  # of the engine's counts: what `found` has of them
        self._texts: dict[int, tuple[tuple[int, int, int], str]] = {}  # by code: when, and what is said
        self._order: dict[str, tuple[int, ...]] = {}  # of what was found: when it was first
        self._given = 0  # how often frames were given
        self._known: dict[int, Session] = {}  # by their number in the engine
        self._tokens: dict[bytes, int] = {}
        self._schemas: dict[bytes, Schema] = {}
        self._sections: list[Section | None] = []  # of the sessions known, by their number
        self._kinds: Any = None  # so, a number: equal where what is described is; -1: not known
        self._signatures: dict[tuple[tuple[int, int], ...], int] = {}
        self._queue: deque[SectionItem] = deque()
        self._pending = 0  # bytes of schemas that are not complete
        self._table: Any = self._memory.conversations
        self._ends = array("I")  # at the end: the numbers of all sessions as they began …
        self._all: list[Session] = []  # … and they, once somebody asked for them
        self.noted: list[Session] = []
        """Those that gave something, that were greeted or answered, or of which DATA is missing."""
        self.found: dict[str, First] = {}
        self.remarks: Counter[str] = Counter()
        self.others: Counter[str] = Counter()
        self.forgotten = 0

    def plain(self) -> Network:
        """A network that takes packets one by one, for who wants to see each of their layers."""
        return Network(self._ports, any_port=self._any_port)

    @property
    def packets(self) -> int:
        """Packets taken."""
        return int(self._state.packets)

    @property
    def frames(self) -> int:
        """Frames found, not those that DATA wraps."""
        return int(self._state.frames)

    @property
    def skipped(self) -> int:
        """Packets in which something is wrong and no frame was found."""
        return int(self._state.skipped)

    @property
    def flows(self) -> int:
        """Flows seen."""
        return int(self._state.flow_number)

    @property
    def sessions(self) -> int:
        """How many `conversations` there are."""
        return int(self._state.conversation_count)

    @property
    def conversations(self) -> list[Session]:
        """All sessions, as they began, once there are no more packets; before that `noted`."""
        if len(self._all) < len(self._ends):
            noted = iter(self.noted)
            self._all = [
                next(noted) if number in self._known else self._read(number) for number in self._ends
            ]
        return self._all or self.noted

    @property
    def _much(self) -> bool:
        """Whether so much was found that it is to be taken."""
        return bool(self._state.found >= memory.FOUND_FULL or self._state.out_used >= memory.OUT_FULL)

    # --- packets in

    def rows(self, data: Any, rows: "Rows", count: int, base: int) -> None:
        """Take the packets of the first `count` rows, which lie in `data`, at byte `base` of a file."""
        state = self._state
        state.base, self._before, self._rows = base, state.packets, rows
        with native.Pinned(data) as pinned, native.Pinned(rows) as places:
            state.data, state.size = pinned.address, pinned.size
            state.rows, state.count, state.at = places.address, min(count, places.size // (8 * WORDS)), 0
            self._run(native.library.kw_packets, data, rows)
            self._say(data, rows)
            state.data, state.size, state.count, self._rows = None, 0, 0, None

    def take(self, *, all: bool = True) -> Iterator[SectionItem]:
        """What was found since the last time; without `all`, if it is much."""
        if all or self._much:
            self._give()
        self._tell()
        while self._queue:
            yield self._queue.popleft()

    def finish(self) -> Iterator[SectionItem]:
        """No more packets come."""
        state, library = self._state, native.library
        state.rows, state.count, state.at = None, 0, 0
        self._run(library.kw_flows_end, b"", None)
        self._say(b"", None)
        missing = state.fragments_missing + self._fragments()
        if missing:
            self._trouble(Trouble.FRAGMENTS_MISSING, f"{missing} IP packets", missing)
        self._end(self._numbers(told=False))
        self._others()
        self._give()
        self._ended()
        self._memory.close()
        yield from self.take(all=False)

    def _run(self, step: Any, data: Any, rows: "Rows | None") -> None:
        """Let the engine work until it is done."""
        while True:
            why = step(ctypes.byref(self._state))
            if why == Why.DONE:
                return
            if why == Why.CALL:
                self._call(data, rows)
                if self._much:  # each session that a packet goes on with may give all that it has held
                    self._give()
                continue
            self._say(data, rows)
            if why == Why.ROOM:
                self._forget()
            else:
                self._give()

    # --- frames out

    def _give(self) -> None:
        """Give what was found, that of each session together, and the schemas in their places."""
        state = self._state
        native.library.kw_unbuild(ctypes.byref(state))
        count = int(state.found)
        schemas, only = state.schemas, state.only
        stood = state.places[: state.place_count]
        data, starts = self._memory.found() if count else (b"", None)
        state.found = state.out_used = state.schemas = state.only = 0
        state.place_count = state.before_places = 0
        if not count:
            return
        import numpy as np

        given, self._given = self._given, self._given + 1
        owners = np.frombuffer(self._memory.owners, np.uint32, count)
        offsets = np.asarray(starts)
        cuts: dict[int, list[tuple[int, Schema]]] = {}
        left: dict[int, int] = {}  # of packets with bad SCHEMAs: frames that they still have
        places = None
        if schemas:
            marked = np.flatnonzero(owners & np.uint32(memory.SCHEMA_MARK)).tolist()
            # one packet may hold more SCHEMAs than places are noted
            for place, where in zip_longest(marked, stood, fillvalue=stood[-1]):
                owner = int(owners[place])
                number = owner & ~(memory.SCHEMA_MARK | memory.ALONE_MARK)
                try:
                    schema = self._schema(number, data, int(offsets[place]))
                except FrameError as error:
                    schema = None
                    self._conversation(number).unsound += 1
                    packet = (where.number, where.offset) if where.number else None
                    self._complain(error, _placed(packet, str(error.problem)), (given, place, 1))
                    if owner & memory.ALONE_MARK:
                        state.frames -= 1  # no DATA wraps it, so that it is no frame if it is not sound
                        if where.frames:
                            left[where.number] = left.get(where.number, where.frames) - 1
                            state.skipped += not left[where.number]
                if schema is not None:
                    cuts.setdefault(number, []).append((place, schema))
            places = np.flatnonzero(owners < np.uint32(memory.SCHEMA_MARK))
            owners, offsets = owners[places], offsets[places]
        elif only != memory.SEVERAL:
            section = self._conversation(only).section
            self._queue.append(SectionItem(section, Frames(data, offsets.data)))
            return
        self._sort(data, owners, offsets, places, cuts)

    def _sort(
        self,
        data: Data,
        owners: "Array",
        offsets: "Array",
        places: "Array | None",
        cuts: dict[int, list[tuple[int, Schema]]],
    ) -> None:
        """Give frames: before a schema those that came before it, in the end all others, as Mixed as may be.

        `places`: where each frame stood among the schemas of `cuts`.
        """
        import numpy as np

        if cuts and places is not None:
            first = np.full(self._state.conversation_used + 1, np.iinfo(np.int64).max)
            first[list(cuts)] = [schemas[-1][0] for schemas in cuts.values()]
            early = places < first[owners]  # and so before the last schema of its session in this batch
            early &= first[owners] != np.iinfo(np.int64).max
            if early.any():
                self._cut(data, owners[early], offsets[early], places[early], cuts)
                owners, offsets = owners[~early], offsets[~early]
        for number, schemas in cuts.items():
            section = self._conversation(number).section
            self._queue.extend(SectionItem(section, schema) for _, schema in schemas)
        if not len(owners):
            return
        present = np.flatnonzero(np.bincount(owners))
        if len(present) == 1:
            section = self._conversation(int(present[0])).section
            self._queue.append(SectionItem(section, Frames(data, offsets.data)))
            return
        known = self._signed(present)
        if (known[present] != known[present[0]]).any():
            kinds = known[owners]
            order = np.argsort(kinds, kind="stable")
            gathered_data, offsets = gathered(Frames(data, offsets.data), order)
            kinds, owners = kinds[order], owners[order]
            ends = [*(np.flatnonzero(np.diff(kinds)) + 1).tolist(), len(kinds)]
            for start, stop in pairwise([0, *ends]):
                self._mixed(gathered_data, offsets[start:stop], owners[start:stop])
        else:
            self._mixed(data, offsets, owners)

    def _mixed(self, data: Data, offsets: "Array", owners: "Array") -> None:
        """Give frames of sessions whose schemas are the same."""
        import numpy as np

        present = np.flatnonzero(np.bincount(owners))
        known = self._sections
        sections: list[Any] = [known[number] for number in present.tolist()]  # `_signed` has seen to it
        if len(sections) == 1:
            self._queue.append(SectionItem(sections[0], Frames(data, offsets.data)))
            return
        index = np.zeros(int(present[-1]) + 1, np.uint32)
        index[present] = np.arange(len(present), dtype=np.uint32)
        self._queue.append(SectionItem(sections[0], Mixed(data, offsets.data, sections, index[owners])))

    def _cut(
        self,
        data: Data,
        owners: "Array",
        offsets: "Array",
        places: "Array",
        cuts: dict[int, list[tuple[int, Schema]]],
    ) -> None:
        """Give frames that come before a schema of their session, each with what was known of it by then."""
        for number, chosen in groups(owners):
            section = self._conversation(number).section
            mine, where, start = offsets[chosen], places[chosen], 0
            schemas = cuts.pop(number)
            for place, schema in schemas:
                stop = int(where.searchsorted(place))
                if stop > start:
                    some, offset = gathered(Frames(data, mine[start:stop].data), slice(None))
                    self._queue.append(SectionItem(section, Frames(some, offset.data)))
                self._queue.append(SectionItem(section, schema))
                start = stop

    def _signed(self, numbers: "Array") -> "Array":
        """For each session a number, equal where what is described is; those of these sessions are known."""
        import numpy as np

        if self._kinds is None or len(self._kinds) <= int(numbers[-1]):
            made = np.full(2 * int(numbers[-1]) + 1, -1, np.int64)
            if self._kinds is not None:
                made[: len(self._kinds)] = self._kinds
            self._kinds = made
        kinds: Array = self._kinds
        for number in numbers[kinds[numbers] < 0].tolist():
            described = self._conversation(number).described
            key = tuple(sorted((number, id(schema)) for number, schema in described.items()))
            kinds[number] = self._signatures.setdefault(key, len(self._signatures))
        return kinds

    def _schema(self, number: int, data: Data, at: int) -> Schema | None:
        """What the SCHEMA frame there describes; None where it says nothing new, or is not complete."""
        conversation = self._conversation(number)
        size = data[at + 2] << 8 | data[at + 3]
        raw, alone = bytes(data[at : at + size]), not conversation.held
        known = self._schemas.get(raw) if alone else None
        if known is None:
            before = conversation.reader.held
            known = conversation.reader.add(Frames(raw, array("Q", [0])).frame(0))
            self._pending += conversation.reader.held - before
            if self._pending > PENDING:
                self._let_go()
            if known is None:
                return None
            if alone and size <= 1 << 16:
                if len(self._schemas) >= CACHED:
                    self._schemas.clear()
                self._schemas[raw] = known
        if conversation.described.get(known.id) is known:
            return None
        conversation.described[known.id] = known
        if self._kinds is not None and number < len(self._kinds):
            self._kinds[number] = -1
        return known

    def _let_go(self) -> None:
        """Memory is short: the sessions that hold most of schemas that are not complete give those up."""
        waiting = sorted((one for one in self.noted if one.held), key=lambda one: -one.held)
        for one in waiting:
            if self._pending <= PENDING // 4 * 3:
                return
            held = one.held
            self._trouble(Trouble.TOO_MANY_FLOWS, f"{one.name}: {held} bytes waited in vain", 1)
            self._pending -= held
            one.give_up()

    # --- conversations

    def _conversation(self, number: int) -> Session:
        made = self._known.get(number)
        if made is None:
            row = self._memory.conversations[number]
            made = self._known[number] = Session(tuple(row.key), row.first)
            self.noted.append(made)
            if len(self._sections) <= number:
                self._sections += [None] * (number + 1 - len(self._sections))
            self._sections[number] = made.section
        return made

    def _call(self, data: Any, rows: "Rows | None") -> None:
        """Read a HELLO or WELCOME."""
        state = self._state
        self._say(data, rows)
        frame, _ = inspect(ctypes.string_at(state.call_frame, state.call_size))
        assert frame is not None  # the engine has seen to it
        flow, side = self._memory.flows[state.call_flow], state.call_side
        try:
            message = (Hello if frame.header.type == Type.HELLO else Welcome).read(frame)
            flow.roles[side], flow.roles[1 - side] = _ROLES[message.role], _ROLES[message.role.other]
            self._shake(flow, message)
        except FrameError as error:
            text = _placed(self._place(state.at, rows), str(error.problem))
            self._complain(error, text, (self._given, state.found, 0))
            state.troubles += 1
            return
        state.frames += 1

    def _shake(self, flow: Any, message: Hello | Welcome) -> None:
        """Learn from a HELLO or WELCOME which session the flow carries, and with which number it begins."""
        mine, known = flow.conversation, self._tokens.get(message.token, 0)
        session = self._conversation(mine) if mine else None
        token = session.token if session is not None and not self._finished(mine) else b""
        if means_nothing(message, token):
            return
        if not known or (known == mine and session is not None and session.guessed):
            late = flow.key[0] >> 32 & 0xFFFF == Protocol.UDP or message.role is Role.SINK
            if (
                session is None
                or not late
                or (session.token and not session.guessed)
                or not self._join(mine, message)
            ):
                if session is not None and session.guessed:
                    session.token, session.guessed = b"", False
                mine = self._new(flow)
                session = self._conversation(mine)
            self._tokens.pop(session.token, None)
            self._tokens[message.token] = known = mine
            session.token = message.token
        flow.conversation = known
        self._begin(known, message)

    def _begin(self, number: int, message: Hello | Welcome) -> None:
        """Take what it says of the first number to come."""
        row, session, first = self._memory.conversations[number], self._conversation(number), begins(message)
        row.answered |= isinstance(message, Welcome)
        if first is not None and not row.knows_next:
            row.knows_next, row.next = 1, first
        if not opens(message) or session.began:
            return
        if not row.knows_start:
            session.began = bool(row.next == first)
        else:
            self._join(number, message)

    def _finished(self, number: int) -> bool:
        """Whether the source has said BYE and every DATA before that is there."""
        row = self._memory.conversations[number]
        ends = row.knows_bye and row.knows_next and distance(row.next, row.bye) <= 0
        return bool(ends and not row.held.count)

    def _new(self, flow: Any) -> int:
        """A conversation for the flow: the one that it has, if nothing of that has come."""
        row = self._memory.conversations[flow.conversation]
        known = row.frames or row.knows_start or row.held.count or row.answered
        if flow.conversation and not known:
            row.knows_next = row.knows_bye = row.has_gone = 0
            row.gone[:] = [0] * len(row.gone)
            self._conversation(flow.conversation).began = False
            return int(flow.conversation)
        if self._state.conversation_count > self._state.max_conversations:
            self._forget()
        return int(native.library.kw_conversation_new(ctypes.byref(self._state), self._state.call_flow))

    def _join(self, number: int, message: Hello | Welcome) -> bool:
        """Take what comes late for what this session began with; False where it is of another session."""
        row, session = self._memory.conversations[number], self._conversation(number)
        if not row.knows_start or self._finished(number):
            return False
        early = sum(word << 64 * place for place, word in enumerate(row.early))
        missing = owed(message, row.start, row.next, early)
        if missing is None:
            return False
        if opens(message):
            session.began, row.knows_start = True, memory.STARTS_COUNTED
            row.early[:] = [~missing >> 64 * place & (1 << 64) - 1 for place in range(len(row.early))]
            row.missing += missing.bit_count()
        session.guessed = guess(message)
        return True

    def _numbers(self, *, told: bool) -> "array[int]":
        """The numbers of all conversations as they began; `told`: those that the engine tells of."""
        state = self._state
        numbers = array("I", bytes(4 * state.conversation_count))
        with native.Pinned(numbers, writable=True) as room:
            count = native.library.kw_conversations(ctypes.byref(state), told, room.address)
        return numbers[:count]

    def _end(self, numbers: "array[int]") -> None:
        """No more frames of these sessions come: give what they hold, and say what is missing."""
        state, library, at = self._state, native.library, ctypes.c_uint64()
        with native.Pinned(numbers) as given:
            while True:
                why = library.kw_conversations_end(ctypes.byref(state), given.address, len(numbers), at)
                self._say(b"", self._rows)
                if why == Why.DONE:
                    return
                self._give()

    def _forget(self) -> None:
        """There are as many conversations as may be: let go of some."""
        state, library = self._state, native.library
        most = forget_count(state.max_conversations)
        numbers = array("I", bytes(4 * most))
        self._give()
        with native.Pinned(numbers, writable=True) as room:
            count = library.kw_conversations_chosen(ctypes.byref(state), most, room.address)
        del numbers[count:]
        self._trouble(Trouble.TOO_MANY_FLOWS, f"over {plural(state.max_conversations, 'session')}", count)
        self.forgotten += count
        self._end(numbers)
        self._give()
        gone: set[int] = set()
        for number in numbers:
            session = self._known.pop(number, None)
            if session is None:
                continue
            gone.add(id(session))
            self._pending -= session.held
            self._sections[number] = None
            if self._kinds is not None and number < len(self._kinds):
                self._kinds[number] = -1
            if self._tokens.get(session.token) == number:
                del self._tokens[session.token]
        self.noted = [one for one in self.noted if id(one) not in gone]
        with native.Pinned(numbers) as given:
            library.kw_conversations_forget(ctypes.byref(state), given.address, len(numbers))

    def _ended(self) -> None:
        """All have ended: make what is known of them, those of which nothing is told when somebody looks."""
        self._ends = self._numbers(told=False)
        for number in self._numbers(told=True):
            self._conversation(number)
        self.noted = [self._read(number) for number in self._ends if number in self._known]

    def _read(self, number: int) -> Session:
        """What the engine knows of a session that has ended."""
        row = self._table[number]
        session = self._known.get(number) or Session(tuple(row.key), row.first)
        session.bye = row.bye if row.knows_bye else None
        session.next = row.next if row.knows_next else None
        session.frames, session.answered = row.frames, bool(row.answered)
        session.unsound += row.unsound
        session.missing, session.again, session.late = row.missing, row.again, row.late
        return session

    # --- what is told

    def _say(self, data: Any, rows: "Rows | None") -> None:
        """Put into words what was wrong for the first time; the packets are still there."""
        state = self._state
        if not state.special_count:
            return
        for special in state.specials[: state.special_count]:
            packet = None
            if rows is not None and special.row < state.count:
                offset, _, sizes, kind = rows[WORDS * special.row : WORDS * special.row + WORDS]
                packet = (offset, sizes & 0xFFFFFFFF, sizes >> 32, kind & 0xFFFFFFFF)
            text = _placed(self._place(special.row, rows), self._words(special, data, packet))
            self._texts[special.code] = ((self._given, special.found, 0), text)
        state.special_count = 0

    def _place(self, row: int, rows: "Rows | None") -> tuple[int, int] | None:
        """The number of the packet of a row, and where it stands in the file."""
        if rows is None or row >= self._state.count:
            return None
        at = self._state.base + rows[WORDS * row] - (rows[WORDS * row + 3] >> 32)
        return self._before + row + 1, at

    def _words(self, special: Any, data: Any, packet: tuple[int, int, int, int] | None) -> str:
        if special.code < memory.CODE_TROUBLE:
            code = Code(special.code)
            raw = self._memory.batch.memory[special.offset : special.offset + special.size]
            problem = misplaced(raw[0] & 15) if code == Code.ILLEGAL_TRANSITION else judge(raw)
            if problem is not None and problem.code == code:
                return str(problem)
            return f"{code.name} ({code:d}): {ERRORS[code]}"
        trouble = _TROUBLES[special.code - memory.CODE_TROUBLE]
        name = _name(tuple(special.key), special.first)
        detail = {
            Variant.FLOW: name,
            Variant.BYTES: f"{plural(special.number, 'byte')} of {name}",
            Variant.ENDS: f"{name} ends inside a frame",
            Variant.ANEW: f"{name} begins anew inside a frame",
            Variant.HELD: f"{name}: {plural(special.number, 'byte')} waited in vain",
        }.get(special.variant, "")
        if packet is not None and special.variant == Variant.PLAIN:
            offset, captured, original, link = packet
            found = Dissector(self._wanted).dissect(
                memoryview(data)[offset : offset + captured], original, link
            )
            for finding in found.found:
                if finding.what is trouble and not finding.apart:
                    return str(finding)
        return f"{trouble.name}: {trouble.value}" + (f" ({detail})" if detail else "")

    def _wanted(self, protocol: int, source: int, target: int) -> bool:
        return self._any_port or source in self._ports or target in self._ports

    def _tell(self) -> None:
        """Bring `found`, `remarks` and `others` up to date with the engine's counts."""
        state, remarks = self._state, self._remarks
        if state.troubles != self._heard:
            self._hear()
        if any(remarks):
            for place, remark in enumerate(_REMARKS):
                if remarks[place]:
                    self.remarks[remark.name] += remarks[place]
                    remarks[place] = 0

    def _hear(self) -> None:
        """Bring `found` up to date."""
        state = self._state
        if not state.special_count:  # all that is counted has its text
            self._heard = state.troubles
        counts = list(state.counts)
        for code in self._texts:  # in the order in which they were first seen
            count = counts[code]
            new = count - self._told.get(code, 0)
            if not new:
                continue
            self._told[code] = count
            trouble = code >= memory.CODE_TROUBLE
            name = _TROUBLES[code - memory.CODE_TROUBLE].name if trouble else Code(code).name
            moment, text = self._texts[code]
            self._count(name, text, new, moment)

    def _complain(self, error: FrameError, text: str, moment: tuple[int, int, int]) -> None:
        """Count an error of a frame that Python has read; `text` is said of the first."""
        self._tell()
        self._count(error.problem.code.name, text, 1, moment)

    def _trouble(self, trouble: Trouble, detail: str, count: int) -> None:
        self._tell()
        text = f"{trouble.name}: {trouble.value} ({detail})"
        text = _placed(self._place(self._state.at, self._rows), text)
        self._count(trouble.name, text, count, (self._given, self._state.found, 0))

    def _count(self, name: str, text: str, count: int, moment: tuple[int, int, int]) -> None:
        """Count what is wrong, in the order in which the packets show it.

        `moment`: how often frames were given before, how many were found since, and whether it is the next of
        them, as Python reads a SCHEMA after the engine has judged what comes behind it.
        """
        key = (*moment, len(self._order))
        old = self.found.get(name)
        if old is None or key < self._order[name]:
            self._order[name] = key
            self.found[name] = First(old.count if old else 0, text)
            if any(key < other for other in self._order.values()):
                self.found = {
                    one: self.found[one] for one in sorted(self._order, key=self._order.__getitem__)
                }
        self.found[name] = self.found[name]._replace(count=self.found[name].count + count)

    def _fragments(self) -> int:
        """How many IP packets are not whole at the end, and did not contradict themselves."""
        state, at, missing = self._state, self._state.fragment_oldest, 0
        if not at:
            return 0
        table = (memory.Fragmented * memory.FRAGMENTED).from_address(state.fragments)
        while at:
            missing += not table[at].bad
            at = table[at].newer
        return missing

    def _others(self) -> None:
        """Count the packets of no interest."""
        tally = self._memory.tally
        at, data = 0, tally[:]
        while rest := data[at:].lstrip(b"\0"):  # nearly all of it is zeros
            number = (len(data) - len(rest)) // 8
            at = 8 * (number + 1)
            count = int.from_bytes(data[8 * number : at], native.ORDER)
            self.others[_other(number)] += count
        tally[:] = bytes(len(data))
        state = self._state
        for place in range(state.family_count):
            family, count = state.families[2 * place : 2 * place + 2]
            self.others[f"address family {family}"] += count
        state.family_count = 0


def _placed(place: tuple[int, int] | None, text: str) -> str:
    """What is said of a packet, by its number and where it stands in the file; None: of none, at the end."""
    return text if place is None else f"packet {place[0]} at byte {place[1]}: {text}"


def _other(number: int) -> str:
    """The name of a kind of traffic by its place in the tally."""
    if number == memory.TALLY_FRAGMENT:
        return "IP fragment"
    if number >= memory.TALLY_PROTOCOL:
        protocol = number - memory.TALLY_PROTOCOL
        return PROTOCOLS.get(protocol, f"IP protocol {protocol}")
    return ETHERTYPES.get(number) or ("IEEE 802.3" if number <= 1500 else f"ethertype {number:#06x}")


def _name(key: tuple[int, ...], first: int) -> str:
    """The name of a flow."""
    if not any(key):
        return "frames as they are"
    head, addresses = key[0], b"".join(word.to_bytes(8, native.ORDER) for word in key[1:])
    size = 4 if head >> 48 == 4 else 16
    ends = [
        endpoint(addresses[:size], head >> 16 & 0xFFFF),
        endpoint(addresses[16 : 16 + size], head & 0xFFFF),
    ]
    protocol = Protocol(head >> 32 & 0xFFFF).name.lower()
    return f"{protocol} {ends[first]} > {ends[1 - first]}"
