"""From captured packets to the frames in them: flows, streams, sessions, and what is in the way.

Invariants: every packet is taken, counted as other traffic, or its trouble is counted by name with the place
of the first; nothing is skipped silently; memory is bounded, however many flows there are: what is finished
is let go of first, and a limit that costs something is said. What is given comes out of `take` and `finish`
in order. `engine.Engine` does the same in C for batches of packets; this is its specification.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Collection, Iterator
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from kwire.packets.conversations import Conversation, SectionItem, means_nothing
from kwire.packets.dissect import Dissector, Finding, Packet, Segment
from kwire.packets.streams import Found, Splitter, Stream
from kwire.packets.tables import KWIRE_PORT, LinkType, Remark, Trouble
from kwire.packets.tables import Protocol as Ip
from kwire.packets.walk import NO_TIME, Rows
from kwire.wire.control import Hello, Role, Welcome
from kwire.wire.frame import TYPES, Frame, FrameError, Problem, Type, inspect
from kwire.wire.frames import Frames
from kwire.words import plural

T = TypeVar("T")

MAX_FLOWS: Final = 1 << 16
MAX_CONVERSATIONS: Final = 1 << 16
HELD: Final = 32 << 20  # bytes of all streams, and of all sessions, that wait for what is missing


class PacketPosition(NamedTuple):
    """Where a packet stands: its number from 1, its offset in the file, ns since 1970 (None: not known)."""

    number: int
    offset: int
    time: int | None = None


class First(NamedTuple):
    """How often something was found, and what the first time said."""

    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    text: str


class Watcher(Protocol):
    """Who wants to see every frame: `kwire show --sessions` and `-V`."""

    def frame(self, flow: "Flow", direction: int, data: bytes, at: int, place: PacketPosition) -> None:
        """A frame at `at`, sound or not, or not even whole, sent by end `direction` (0 or 1) of the flow."""

    def trouble(self, name: str, text: str, place: PacketPosition) -> None:
        """Something was counted as wrong."""


class Flow:
    """Two endpoints that exchange frames: `ends` as (address, port), `ends[0]` sent the first packet seen."""

    __slots__ = (
        "conversation",
        "dead",
        "ends",
        "number",
        "protocol",
        "roles",
        "splitters",
        "streams",
        "version",
    )

    def __init__(self, number: int, protocol: int, ends: tuple[tuple[bytes, int], tuple[bytes, int]]) -> None:
        self.number = number
        self.protocol = protocol
        self.ends = ends
        self.conversation: Conversation | None = None
        self.roles: list[Role | None] = [None, None]
        self.streams = (Stream(), Stream())
        self.splitters: list[Splitter | None] = [None, None]
        self.dead = False

    @property
    def held(self) -> int:
        """Bytes of its streams that wait for others."""
        parts = sum(one.partial for one in self.splitters if one is not None)
        return parts + self.streams[0].held + self.streams[1].held

    def expects(self) -> int | None:
        """The number of the DATA to come, where it is known."""
        return self.conversation.next if self.conversation is not None else None

    @property
    def finished(self) -> bool:
        """Whether nothing is lost with it: its session, if any, has ended, and it holds nothing."""
        if self.dead or self.held:
            return self.dead
        return self.conversation is None or self.conversation.finished

    @property
    def name(self) -> str:
        """`udp 10.0.0.1:4000 > 10.0.0.2:17800`, or the like."""
        if self.protocol == 0:
            return "frames as they are"
        first, second = (endpoint(*end) for end in self.ends)
        return f"{Ip(self.protocol).name.lower()} {first} > {second}"


def endpoint(address: bytes, port: int) -> str:
    """An address and a port as text."""
    import socket

    if len(address) == 4:
        return f"{socket.inet_ntop(socket.AF_INET, address)}:{port}"
    return f"[{socket.inet_ntop(socket.AF_INET6, address)}]:{port}"


def forget_count(most: int) -> int:
    """How many conversations are let go of at once where there are as many as may be."""
    return max(most // 64, 1)


def forgotten(all: list[T], count: int, finished: Callable[[T], bool]) -> tuple[list[T], list[T]]:
    """Which conversations are let go of, and which stay: those that have finished, or else began, first."""
    done = [place for place, one in enumerate(all) if finished(one)][:count]
    chosen = set(done)
    chosen.update([place for place in range(len(all)) if place not in chosen][: count - len(done)])
    stay = [one for place, one in enumerate(all) if place not in chosen]
    return [all[place] for place in sorted(chosen)], stay


class Network:
    """Takes packets one by one. `found`: troubles and frame errors by name, in the order in which they were
    first found: packet by packet; at the end flow by flow, the one that was silent for longest first, then
    fragments, then sessions as they began. `remarks`; `others`: traffic that carries no frames, by kind;
    `packets`, `frames`: counted, of frames those that stand in packets and
    streams and that nothing is wrong with (DATA is one, whatever it holds). `forgotten`: sessions beyond
    MAX_CONVERSATIONS, of which nothing is known any more.
    """

    def __init__(
        self,
        ports: Collection[int] = (KWIRE_PORT,),
        *,
        any_port: bool = False,
        watcher: Watcher | None = None,
    ) -> None:
        self._ports = frozenset(ports)
        self._any_port = any_port
        self._watcher = watcher
        self._dissector = Dissector(self._wanted)
        self._flows: OrderedDict[Any, Flow] = OrderedDict()
        self._tokens: dict[bytes, Conversation] = {}
        self._queue: deque[SectionItem] = deque()
        self._place = PacketPosition(0, 0)
        self._held = 0  # bytes that all flows hold
        self._troubles = 0  # all that `found` counts
        self.forgotten = 0
        self.conversations: list[Conversation] = []
        self.found: dict[str, First] = {}
        self.remarks: Counter[str] = Counter()
        self.others: Counter[str] = Counter()
        self.packets = 0
        self.frames = 0
        self.skipped = 0
        self.flows = 0

    @property
    def noted(self) -> list[Conversation]:
        """Those of which something is told; the engine knows which these are, here it is all."""
        return self.conversations

    @property
    def sessions(self) -> int:
        """How many `conversations` there are."""
        return len(self.conversations)

    # --- packets in

    def packet(
        self, data: memoryview, original: int, link: int, place: PacketPosition, *, explain: bool = False
    ) -> Packet:
        """Take one packet: its captured bytes, its length on the network, its link type."""
        self.packets += 1
        self._place = place
        self._make_room()
        if self._held > HELD:
            self._let_go()
            self._make_room()
        while len(self._flows) > MAX_FLOWS or (self._held > HELD and len(self._flows) > 1):
            self._evict()
            self._make_room()
        frames, before = self.frames, self._troubles  # what was given up before is not of this packet
        if link == LinkType.USER0:
            packet = Packet()
            packet.layers = []
            self._raw(bytes(data))
        else:
            packet = self._dissector.dissect(data, original, link, explain=explain)
            for finding in packet.found:
                self.finding(finding)
            if packet.segment is not None:
                self._segment(packet.segment)
            elif packet.other:
                self.others[packet.other] += 1
        if frames == self.frames and before != self._troubles:
            self.skipped += 1
        return packet

    def rows(self, data: Any, rows: Rows, count: int, base: int) -> None:
        """Take the packets of the first `count` rows, which lie in `data`, at byte `base` of a file."""
        view = memoryview(data)
        for place in range(0, 4 * count, 4):
            offset, time, sizes, kind = rows[place : place + 4]
            self.packet(
                view[offset : offset + (sizes & 0xFFFFFFFF)],
                *(sizes >> 32, kind & 0xFFFFFFFF),
                PacketPosition(
                    self.packets + 1, base + offset - (kind >> 32), None if time == NO_TIME else time
                ),
            )

    def plain(self) -> "Network":
        """A network that takes packets one by one: this one."""
        return self

    def take(self, *, all: bool = True) -> Iterator[SectionItem]:
        """What was found since the last time; flushes what waits to be more."""
        held = 0
        for conversation in self.conversations:
            conversation.flush()
            held += conversation.held
        if held > HELD:
            self._give_up(held)
        while self._queue:
            yield self._queue.popleft()

    def finish(self) -> Iterator[SectionItem]:
        """No more packets come."""
        self._place = PacketPosition(0, 0)  # what is found now is of no packet
        while self._flows:
            self._make_room()
            self._end(self._flows.popitem(last=False)[1])
        missing = self._dissector.fragments_missing
        if missing:
            self.trouble(Trouble.FRAGMENTS_MISSING, f"{missing} IP packets", missing)
        for conversation in self.conversations:
            self._close(conversation)
        yield from self.take()

    def _close(self, conversation: Conversation) -> None:
        """No more frames of this session come."""
        conversation.finish()
        if conversation.missing:
            self.trouble(Trouble.DATA_MISSING, conversation.name, conversation.missing)
        self._remark(Remark.DATA_AGAIN, conversation.again)
        self._remark(Remark.REORDERED, conversation.late)

    # --- what is told

    def finding(self, finding: Finding) -> None:
        """Count what the dissector found."""
        if isinstance(finding.what, Trouble):
            plain = f"{finding.what.name}: {finding.what.value}"
            self._count(finding.what.name, plain if finding.apart else str(finding))
        else:
            self.remarks[finding.what.name] += 1

    def trouble(self, trouble: Trouble, detail: str = "", count: int = 1) -> None:
        """Count a trouble."""
        self._count(
            trouble.name, f"{trouble.name}: {trouble.value}" + (f" ({detail})" if detail else ""), count
        )

    def problem(self, problem: Problem, at: int = 0) -> None:
        """Count an error of a frame that lies `at` in its buffer."""
        problem = problem._replace(offset=problem.offset - at)
        self._count(problem.code.name, str(problem))

    def _count(self, name: str, text: str, count: int = 1) -> None:
        old = self.found.get(name)
        if old is None:
            place = (
                f"packet {self._place.number} at byte {self._place.offset}: " if self._place.number else ""
            )
            old = First(0, place + text)
        self.found[name] = old._replace(count=old.count + count)
        self._troubles += count
        if self._watcher is not None:
            self._watcher.trouble(name, text, self._place)

    def _remark(self, remark: Remark, count: int) -> None:
        if count:
            self.remarks[remark.name] += count

    # --- flows

    def _wanted(self, protocol: int, source: int, target: int) -> bool:
        return self._any_port or source in self._ports or target in self._ports

    def _any_ours(self, flow: Flow) -> bool:
        return any(port in self._ports for _, port in flow.ends)

    def _on_port(self, segment: Segment) -> bool:
        return segment.source_port in self._ports or segment.target_port in self._ports

    def _segment(self, segment: Segment) -> None:
        one, two = (segment.source, segment.source_port), (segment.target, segment.target_port)
        key = (segment.protocol, *sorted((one, two)))
        flow = self._flows.get(key)
        if flow is None:
            if segment.protocol == Ip.UDP and not self._on_port(segment) and not _shaped(segment.payload):
                self.others["UDP"] += 1
                return
            flow = self._flow(key, segment.protocol, (one, two))
        else:
            self._flows.move_to_end(key)
        direction = int(flow.ends[0] != one)
        if segment.protocol == Ip.UDP:
            self._datagram(flow, direction, segment)
        else:
            self._stream(flow, direction, segment)

    def _flow(self, key: Any, protocol: int, ends: tuple[tuple[bytes, int], tuple[bytes, int]]) -> Flow:
        self.flows += 1
        flow = self._flows[key] = Flow(self.flows, protocol, ends)
        return flow

    def _let_go(self) -> None:
        """Memory is short: streams that wait give up what is missing, the silent ones first."""
        for flow in list(self._flows.values()):
            if self._held <= HELD // 4 * 3:
                return
            before = flow.held
            for direction, stream in enumerate(flow.streams):
                self._pieces(flow, direction, stream.finish())
            self._held += flow.held - before

    def _give_up(self, held: int) -> None:
        """Memory is short: sessions give up what they wait for, those that hold most, by powers of two."""
        of_size = [0] * 65
        for one in self.conversations:
            of_size[one.held.bit_length()] += one.held
        size, total = 64, of_size[64]
        while size > 1 and total < held - HELD // 4 * 3:
            size -= 1
            total += of_size[size]
        for one in self.conversations:
            if held > HELD // 4 * 3 and one.held.bit_length() >= size:
                detail = f"{one.name}: {plural(one.held, 'byte')} waited in vain"
                self.trouble(Trouble.TOO_MANY_FLOWS, detail)
                held -= one.held
                one.let_go()

    def _evict(self) -> None:
        """Let go of the flow that was silent for longest; where it was not finished, that is said."""
        old = self._flows.popitem(last=False)[1]
        self._held -= old.held
        for direction, stream in enumerate(old.streams):
            self._pieces(old, direction, stream.finish())
        if not old.finished:
            self.trouble(Trouble.TOO_MANY_FLOWS, old.name)
        self._end(old)

    def _end(self, flow: Flow) -> None:
        """No more packets of this flow come."""
        for direction, stream in enumerate(flow.streams):
            self._pieces(flow, direction, stream.finish())
            splitter = flow.splitters[direction]
            if splitter is not None and splitter.partial and splitter.found:
                self.trouble(Trouble.TCP_GAP, f"{flow.name} ends inside a frame")
            self._remark(Remark.RETRANSMISSION, stream.again)
            self._remark(Remark.REORDERED, stream.late)
            self._tell_conflicts(flow, direction)
        known = [splitter for splitter in flow.splitters if splitter is not None]
        if (
            not flow.dead
            and any(one.partial or one.skipped for one in known)
            and not any(one.found for one in known)
        ):
            self._lose(flow, known[0])

    def _raw(self, data: bytes) -> None:
        """A packet that is a frame as it is."""
        flow = self._flows.get(0) or self._flow(0, 0, ((b"", 0), (b"", 0)))
        self._whole(flow, 0, data)

    def _datagram(self, flow: Flow, direction: int, segment: Segment) -> None:
        data = bytes(segment.payload)
        if segment.cut:
            return  # the dissector has said it
        if data:
            self._whole(flow, direction, data)

    def _whole(self, flow: Flow, direction: int, data: bytes) -> None:
        """Frames that fill a datagram, or a packet; all of them are looked at, sound or not."""
        at = 0
        while at < len(data):
            frame, problems = inspect(data, at)
            if frame is None:
                if self._watcher is not None:
                    self._watcher.frame(flow, direction, data, at, self._place)
                if not at and not _shaped(memoryview(data)) and data[0] >> 4 != 1:
                    self.trouble(Trouble.NOT_FRAMES, flow.name)
                else:
                    self.problem(problems[0], at)
                return
            self._frame(flow, direction, data, frame, problems)
            at += frame.header.length

    def _stream(self, flow: Flow, direction: int, segment: Segment) -> None:
        if flow.dead:
            self.others["TCP"] += 1
            return
        before = flow.held
        time = self._place.time or 0
        pieces = flow.streams[direction].add(segment.sequence, segment.flags, bytes(segment.payload), time)
        self._pieces(flow, direction, pieces)
        self._held += flow.held - before

    def _pieces(self, flow: Flow, direction: int, pieces: Any) -> None:
        for piece in pieces:
            splitter = flow.splitters[direction]
            if piece.start and splitter is not None and splitter.partial and splitter.found:
                self.trouble(Trouble.TCP_GAP, f"{flow.name} begins anew inside a frame")
            if piece.start:
                self._tell_conflicts(flow, direction)
            if piece.start or splitter is None:
                splitter = Splitter(piece.start, patient=self._any_ours(flow), expects=flow.expects)
                flow.splitters[direction] = splitter
            if piece.hole:
                splitter.hole(piece.hole)
                if splitter.reported:
                    self.trouble(Trouble.TCP_GAP, f"{plural(piece.hole, 'byte')} of {flow.name}")
            if not piece.data:
                continue
            for found in splitter.feed(piece.data):
                self._found(flow, direction, found)
                self._problems(splitter)
            self._problems(splitter)
            if splitter.lost and not flow.dead:
                self._lose(flow, splitter)

    def _tell_conflicts(self, flow: Flow, direction: int) -> None:
        """Of a connection that has ended."""
        stream, splitter = flow.streams[direction], flow.splitters[direction]
        if stream.conflicts and (splitter.reported if splitter is not None else self._any_ours(flow)):
            self.trouble(Trouble.TCP_CONFLICT, flow.name, stream.conflicts)
        stream.conflicts = 0

    def _problems(self, splitter: Splitter) -> None:
        """Count what a stream's splitter has found wrong."""
        for problem in splitter.problems:
            self.problem(problem)
        splitter.problems.clear()

    def _lose(self, flow: Flow, splitter: Splitter) -> None:
        """A stream in which no frame is found."""
        on_port = self._any_ours(flow)
        flow.dead = True
        if splitter.encrypted and on_port:
            self.trouble(Trouble.ENCRYPTED, flow.name)
        elif on_port:
            self.trouble(Trouble.NOT_FRAMES, flow.name)
        else:
            self.others["TCP"] += 1

    def _found(self, flow: Flow, direction: int, found: Found) -> None:
        frames = Frames(found.data, found.offsets)
        for index in range(len(frames)):
            self._frame(flow, direction, found.data, frames.frame(index), [])

    # --- frames

    def _frame(self, flow: Flow, direction: int, data: bytes, frame: Frame, problems: list[Problem]) -> None:
        if self._watcher is not None:
            self._watcher.frame(flow, direction, data, frame.offset, self._place)
        if problems:
            self.problem(problems[0], frame.offset)
            return
        before = self._troubles
        try:
            self._sort(flow, direction, data, frame)
        except FrameError as error:
            self.problem(error.problem, frame.offset)
        self.frames += frame.header.type == Type.DATA or before == self._troubles

    def _sort(self, flow: Flow, direction: int, data: bytes, frame: Frame) -> None:
        kind = frame.header.type
        if kind == Type.DATA:
            flow.roles[direction], flow.roles[1 - direction] = Role.SOURCE, Role.SINK
            streamed = flow.protocol == Ip.TCP
            self._conversation(flow).data(frame.header.id, frame.payload, streamed=streamed)
        elif kind in (Type.EVENT, Type.SCHEMA, Type.LOST, Type.TABLE):
            flow.roles[direction] = flow.roles[direction] or Role.SOURCE
            self._conversation(flow).inner(data[frame.offset : frame.offset + frame.header.length])
        elif kind == Type.ACK:
            self._conversation(flow).answered = True
        elif kind == Type.HELLO:
            self._shake(flow, direction, Hello.read(frame))
        elif kind == Type.WELCOME:
            self._shake(flow, direction, Welcome.read(frame))
        elif kind == Type.BYE and flow.roles[direction] is not Role.SINK and flow.conversation is not None:
            flow.conversation.bye = frame.header.id

    def _shake(self, flow: Flow, direction: int, message: Hello | Welcome) -> None:
        """Learn from a HELLO or WELCOME which session the flow carries, and with which number it begins."""
        flow.roles[direction], flow.roles[1 - direction] = message.role, message.role.other
        mine, known = flow.conversation, self._tokens.get(message.token)
        if means_nothing(message, mine.token if mine and not mine.finished else b""):
            return
        if known is None or (known is mine and mine.guessed):
            late = flow.protocol == Ip.UDP or message.role is Role.SINK  # streams are in order
            if mine is None or not late or (mine.token and not mine.guessed) or not mine.join(message):
                if mine is not None and mine.guessed:
                    mine.token, mine.guessed = b"", False
                mine = self._conversation(flow, new=True)
            self._tokens.pop(mine.token, None)
            self._tokens[message.token] = known = mine
            known.token = message.token
        flow.conversation = known
        known.begin(message)

    def _make_room(self) -> None:
        while len(self.conversations) > MAX_CONVERSATIONS:
            self._forget()

    def _forget(self) -> None:
        """There are as many conversations as may be: let go of some."""
        old, self.conversations = forgotten(
            self.conversations, forget_count(MAX_CONVERSATIONS), lambda one: one.finished
        )
        self.trouble(Trouble.TOO_MANY_FLOWS, f"over {MAX_CONVERSATIONS} sessions", len(old))
        self.forgotten += len(old)
        for conversation in old:
            self._tokens.pop(conversation.token, None)
            self._close(conversation)
        gone = set(map(id, old))
        for flow in self._flows.values():
            if id(flow.conversation) in gone:
                flow.conversation = None

    def _conversation(self, flow: Flow, *, new: bool = False) -> Conversation:
        if flow.conversation is None or (new and not flow.conversation.empty):
            if new:  # one packet may have very many
                self._make_room()
            flow.conversation = Conversation(flow.name, self._queue.append, self.problem)
            self.conversations.append(flow.conversation)
        elif new:
            flow.conversation.anew()
        return flow.conversation


def _shaped(payload: memoryview) -> bool:
    """Whether a datagram is, by its shape, frames of the protocol: strict headers whose lengths fill it."""
    if len(payload) < 8 or payload[0] >> 4 != 1 or payload[0] & 15 not in TYPES:
        return False
    at = 0
    while at < len(payload):
        frame, problems = inspect(payload, at)
        if frame is None or problems:
            return False
        at += frame.header.length
    return True
