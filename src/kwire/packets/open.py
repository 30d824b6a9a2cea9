"""Captures of every kind, opened as one: our pcapng, and pcap or pcapng in which frames travel in packets.

Invariants: what is opened gives Frames as `capture.reader.Capture` does, whatever the file; memory is bounded
by a window, not by the file; everything up to the last whole packet is given; what could not be decoded is
counted by name in `errors`, those of the network in `found`. A file tells by its first bytes what it is.
"""

import copy
from array import array
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from kwire import native
from kwire.capture import pcap, pcapng
from kwire.capture.event_counts import EventCounts, tally
from kwire.capture.input import Input, Source
from kwire.capture.output import CaptureError
from kwire.capture.pcapng import Order, PacketBlock, Raw, Units
from kwire.capture.reader import TOO_LONG, Capture, Large, Mixed, Section, StopReading, ignore, misfit
from kwire.packets import walk
from kwire.packets.conversations import Conversation, whole
from kwire.packets.dissect import Packet as Found
from kwire.packets.network import MAX_CONVERSATIONS, First, Network, PacketPosition, Watcher
from kwire.packets.spill import Spill, cost
from kwire.packets.tables import KWIRE_PORT
from kwire.wire.fields import EVENT_LEAST
from kwire.wire.frame import Type
from kwire.wire.frames import Frames
from kwire.wire.schema import Schema
from kwire.words import plural

# ---- Events that came before the SCHEMA of their probe: kept until it is repeated, in bounded memory
#
# Invariants: every event is given once, after its SCHEMA where that comes; at most ROOM bytes are kept, and
# what finds no room is given as it is, of a probe that nothing describes; a probe's events stay in their
# order.


ROOM: Final = 8 << 20  # bytes of all events that wait


class Waiting:
    """What waits, by section and probe number."""

    __slots__ = ("_held", "_kept")

    def __init__(self) -> None:
        self._kept: dict[tuple[int, int], tuple[Section, bytearray, array[int]]] = {}
        self._held = 0

    def take(self, section: Section, frames: Frames) -> Frames:
        """Keep the events without a SCHEMA; gives the other frames."""
        given = []
        for index in range(len(frames)):
            header = frames.header(index)
            here = header.type == Type.EVENT and header.length >= EVENT_LEAST
            if not here or header.id in section.schemas or self._held + header.length > ROOM:
                given.append(index)
                continue
            self._held += header.length
            _, data, offsets = self._kept.setdefault(
                (id(section), header.id), (section, bytearray(), array("Q"))
            )
            offsets.append(len(data))
            data += frames.frame_bytes(index)
        return frames.select(given)

    def described(self, section: Section, number: int) -> Frames | None:
        """The events of this probe, whose SCHEMA has come."""
        found = self._kept.pop((id(section), number), None)
        return None if found is None else self._frames(found)

    def finish(self) -> Iterator[tuple[Section, Frames]]:
        """No more SCHEMAs come: what waited for one, by section."""
        kept, self._kept = list(self._kept.values()), {}
        for one in kept:
            yield one[0], self._frames(one)

    def _frames(self, one: "tuple[Section, bytearray, array[int]]") -> Frames:
        _, data, offsets = one
        self._held -= len(data)
        return Frames(bytes(data), offsets)


if TYPE_CHECKING:
    from kwire.packets.engine import Engine, Session

MAGIC_SIZE: Final = 4
LIMIT: Final = 1 << 14  # packets in a batch
MANY: Final = 1 << 10  # frames, of as many schemas at most, whose heads are read together
OTHERS: Final = 12  # kinds of other traffic that are named


class Record(NamedTuple):
    """One block of a file, or one record of a pcap file: `data`, at byte `offset` of the file.

    `packet`: what was found in it, where it is a packet; `start` and `captured`: where that lies in `data`.
    """

    kind: int  # a block's type; of a pcap file's record Block.PACKET
    offset: int
    data: memoryview
    order: Order
    number: int = 0
    start: int = 0
    captured: int = 0
    original: int = 0
    link: int = 0
    time: int | None = None
    packet: Found | None = None


class _Batch(NamedTuple):
    """What a reading gave: frames of a section, or of several of which it is the first."""

    section: Section
    frames: Frames
    tallied: "tuple[Frames, EventCounts] | None"


class NetworkCapture(Capture):
    """A pcapng file with frames as they are, in packets of the network, or both."""

    __slots__ = (
        *("_ahead", "_done", "_faces", "_going", "_kept", "_listed", "_of", "_patient", "_rows", "_seen"),
        *("_sessions", "_told", "_waiting", "_waits", "network", "passed", "whole"),
    )

    def __init__(
        self, source: "Source | Input", network: "Network | Engine", *, follow: bool = False
    ) -> None:
        super().__init__(source, follow=follow)
        self.network = network
        self._rows = array("Q", bytes(8 * walk.ROW_WORDS * LIMIT))
        self._faces = array("Q")  # the interfaces of the section being read, as the walkers want them
        self._of: Section | None = None  # which that is
        self._waits = 0  # rows that the network has not taken yet
        self._patient = self.regular  # nobody waits for what was found
        self._sessions: dict[int, Conversation | Session] = {}  # by the id of their section
        self._listed: dict[int, Section] = {}  # the sections of sessions among `sections`, by their id
        self._kept: Spill | None = None  # what was given, where it is kept for another reading
        self._seen = self._done = False  # this is another reading; the first one came to its end
        self._going: Iterator[Frames] | None = None  # a reading that has begun …
        self._ahead: deque[_Batch] = deque()  # … and what it gave, to be given again
        self.whole = False
        """Whether `begin` came to the end of the capture."""
        self._waiting = Waiting()
        self.passed: Callable[[Frames], object] = ignore  # is given the Frames that `records` passes over
        self._told: dict[str, int] = {}  # of the network's troubles: those counted in `errors` already

    def keep(self, room: int) -> None:
        """Keep what is given, `room` bytes of it in memory, so that `again` needs no second reading."""
        self._kept = Spill(room)

    def begin(self, room: int) -> bool:
        """Read on until `room` bytes of frames were found; iterating gives them, and goes on from there.

        False where that is not possible: schemas have come that change what frames before them mean.
        """
        self.mixed, self._going, self.whole = True, self._read(), True
        before: dict[int, tuple[Section, int]] = {}  # sections of what is held, and what they had described
        for frames in self._going:
            assert self._current is not None  # frames lie in sections
            self._ahead.append(_Batch(self._current, frames, self.tallied))
            for section in frames.sections if isinstance(frames, Mixed) else (self._current,):
                before.setdefault(id(section), (section, len(section.history)))
            room -= cost(frames)
            if room < 0:
                self.whole = False
                break
        return all(len(section.history) == count for section, count in before.values())

    @property
    def begun(self) -> bool:
        """Whether a reading has begun and may have more to give."""
        return self._going is not None and not self.whole

    def again(self) -> Self | None:
        """The same capture for another iteration, once this one came to its end; None: it was not kept."""
        if self.whole:
            other = copy.copy(self)
            other._ahead, other.mixed = self._ahead.copy(), False
            return other
        if self._kept is None or not self._done or self.packets > self.network.packets:
            return None
        other = copy.copy(self)
        other._seen, other.mixed = True, False
        return other

    def forget(self) -> None:
        """Let go of what was kept."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def __iter__(self) -> Iterator[Frames]:
        if self._going is not None:
            while self._ahead:
                self._current, frames, self.tallied = self._ahead.popleft()
                if isinstance(frames, Mixed):
                    yield from self._sessions_of(frames)
                else:
                    yield frames
            for frames in self._going:  # an iteration that breaks off does not end it
                yield frames
            return
        if not self._seen:
            yield from self._read()
            return
        for section, frames in self._kept or ():
            if isinstance(frames, Mixed):
                yield from self._sessions_of(frames)
            else:
                self._current = section
                yield frames

    def _read(self) -> Iterator[Frames]:
        return super().__iter__()

    def _note(self, section: Section, what: "Frames | Schema") -> None:
        """Keep what is given, where that is wanted and possible."""
        if self._kept is not None and not self._kept.note(section, what):
            self._kept = None

    @property
    def ended(self) -> bool:
        """Whether what was read is there up to its end: closing statistics, or a session's HELLO and BYE."""
        return super().ended and all(
            one.began and one.bye is not None for one in self.network.noted if one.section.schemas
        )

    def wrong(self) -> list[str]:
        """What was wrong in packets, a line each: those of the network by its kind, with count and first."""
        lines = self._wrong(self.skipped - self.network.skipped)
        for name, first in self.found.items():
            times = "once" if first.count == 1 else f"{first.count:,} times, first"
            lines.append(f"{name} {times}: {first.text}")
        return lines

    def barren(self) -> str:
        """That none of the packets holds a frame, and what they are; empty where one does."""
        network = self.network
        if network.frames or self.found or not network.packets or self.packets > network.packets:
            return ""
        kinds = ", ".join(f"{count:,} {name}" for name, count in network.others.most_common(OTHERS))
        what = f" ({kinds})" if kinds else ""
        return f"no frame is in its {plural(network.packets, 'packet')}{what}"

    def _session(self, section: Section) -> "Conversation | Session | None":
        if len(self._sessions) != len(self.network.noted):
            self._sessions = {id(one.section): one for one in self.network.noted}
        return self._sessions.get(id(section))

    def label(self, section: Section) -> str:
        """The ends of a session."""
        one = self._session(section)
        return one.name if one is not None else ""

    def complaint(self, section: Section) -> str | None:
        """Why a session's DATA may not be all there was; empty where all from HELLO to BYE is there."""
        one = self._session(section)
        if one is None:
            return None
        why = whole(one) or (misfit(section.undecodable) if section.undecodable else "")
        return why and f"{one.name}: {why}"

    @property
    def forgotten(self) -> int:
        """Sessions that were let go of: they were more than are kept, so that nothing is known of them."""
        return self.network.forgotten

    @property
    def found(self) -> dict[str, First]:
        """What could not be decoded in packets of the network: how often, by name, and where first."""
        return self.network.found

    def records(self) -> Iterator[Record]:
        """Read on block by block instead of by Frames: each with all its layers."""
        self.network = self.network.plain()
        try:
            while True:
                block = self._block()
                if block is None:
                    large, offset = self._large, self._base + self._at
                    if not self._more():
                        break
                    if large is not None:
                        yield Record(large.kind, offset, memoryview(b""), self._order, original=large.total)
                    continue
                yield self._explain(block)
                self._pass()
        except StopReading as stop:
            self.problem = str(stop)
        self._pass(end=True)

    def _pass(self, *, end: bool = False) -> None:
        for frames in self._others(end=end):
            self.passed(frames)

    def _explain(self, block: Raw) -> Record:
        data = memoryview(self._data)[block.offset : block.offset + block.total]
        offset, interfaces = self._base + block.offset, self._own.interfaces
        if block.type not in pcapng.PACKETS:
            self._take(block)
            return Record(block.type, offset, data, self._order)
        packet = pcapng.unpack_packet(block, self._order, interfaces[0].snaplen if interfaces else 0)
        if packet.captured > len(block.body) - packet.start or packet.interface >= len(interfaces):
            self._take(block)  # it counts what is wrong, or stops
            return Record(block.type, offset, data, self._order)
        self._at += block.total
        interface = interfaces[packet.interface]
        return self._explained(
            block.type, offset, data, 8 + packet.start, packet, interface.link_type, interface.units
        )

    def _explained(
        self,
        kind: int,
        offset: int,
        data: memoryview,
        start: int,
        packet: PacketBlock,
        link: int,
        units: Units,
    ) -> Record:
        time = None if packet.ticks is None else units.nanoseconds(packet.ticks)
        place = PacketPosition(self.network.packets + 1, offset, time)
        inside = data[start : start + packet.captured]
        assert isinstance(self.network, Network)  # records have seen to it
        found = self.network.packet(inside, packet.original, link, place, explain=True)
        return Record(
            *(kind, offset, data, self._order, place.number, start, packet.captured, packet.original, link),
            *(time, found),
        )

    def _others(self, *, end: bool = False) -> Iterator[Frames]:
        self._hand_over()
        own = self._own if self.sections else None
        queue = self.network.finish() if end else self.network.take(all=not self._patient)
        self._count()
        for section, what in queue:
            for one in what.sections if isinstance(what, Mixed) else (section,):
                if id(one) not in self._listed:
                    self._list(one)
            if isinstance(what, Schema):
                self._note(section, what)
                section.define(what)
                waited = self._waiting.described(section, what.id)
                if waited is not None:
                    self._current = section
                    yield from self._give(section, self._sound(waited))
                continue
            if isinstance(what, Mixed):
                what = self._sound_mixed(what)
            else:
                self._current = section
                what = self._sound(what)
            found = tally(what, section)  # sections of one Mixed have the same schemas
            if not found.strangers:
                self.tallied = (what, found)
                yield from self._give(section, what)
            elif isinstance(what, Mixed):
                for one, some in what.split():
                    yield from self._give(one, self._waiting.take(one, some))
            else:
                yield from self._give(section, self._waiting.take(section, what))
        if end:
            for section, rest in self._waiting.finish():
                yield from self._give(section, rest)
        self._count()
        if end:
            for session in self.network.noted:
                there = id(session.section) in self._listed
                if not there and (session.missing or (session.answered and whole(session))):
                    self._list(session.section)  # nothing of it is there, and that is known
            self._in_order()
        if end and self.network.forgotten:
            self._unlist()
        self._done = end
        if not end and own is not None:
            self._current = own

    def _unsound(self, frames: Frames, section: Section) -> "array[int]":
        """As for all captures; the heads of many frames of sessions are read on the way, and kept."""
        if len(frames) < MANY or len(section.schemas) > MANY or id(section) not in self._listed:
            return super()._unsound(frames, section)
        from kwire.wire.heads import Heads

        heads = Heads(frames, *self._soundness.rows(section.schemas))
        if heads.survey.unsound:
            return super()._unsound(frames, section)
        frames.heads = heads
        return array("Q")

    def _sound_mixed(self, frames: Mixed) -> Mixed:
        """Frames of several sections without the EVENTs that are not as their SCHEMA says."""
        bad = self._unsound(frames, frames.sections[0])
        if not bad:
            return frames
        import numpy as np

        places = np.asarray(bad)
        for place in bad:
            self._current = frames.sections[frames.owners[place]]
            self._refuse(frames.select([place]), self._current)
        offsets = np.delete(np.asarray(frames.offsets)[: len(frames)], places)
        return Mixed(frames.data, offsets.data, frames.sections, np.delete(frames.owners, places))

    def _give(self, section: Section, frames: Frames) -> Iterator[Frames]:
        """Give frames of a section, or of several."""
        if not frames:
            return
        self._note(section, frames)
        if isinstance(frames, Mixed):
            yield from self._sessions_of(frames)
        else:
            self._current = section
            yield frames

    def _sessions_of(self, frames: Mixed) -> Iterator[Frames]:
        """Frames of several sessions, together or apart."""
        if self.mixed:
            self._current = frames.sections[0]
            yield frames
            return
        for section, some in frames.split():
            self._current = section
            yield some

    def _list(self, section: Section) -> None:
        """Put a session's section among the others; of very many, those that were let go of are left out."""
        if len(self._listed) >= 2 * MAX_CONVERSATIONS:
            self._unlist()
        self.sections.append(section)
        self._listed[id(section)] = section

    def _unlist(self) -> None:
        """Leave out the sections of sessions that were let go of."""
        known = {id(one.section) for one in self.network.noted}
        self.sections = [one for one in self.sections if id(one) in known or id(one) not in self._listed]
        self._listed = {at: one for at, one in self._listed.items() if at in known}

    def _in_order(self) -> None:
        """Put the sessions' sections behind the file's own, as they began."""
        began = [id(one.section) for one in self.network.noted]
        order = {one: place for place, one in enumerate(began)}
        self.sections.sort(key=lambda one: order.get(id(one), -1))

    def _count(self) -> None:
        """Bring the counts up to date with the network's."""
        network, told = self.network, self._told
        self.packets += network.packets - told.get("", 0)
        self.skipped += network.skipped - told.get(" ", 0)
        told[""], told[" "] = network.packets, network.skipped
        for name, first in network.found.items():
            if first.count != told.get(name):
                self.errors[name] = self.errors.get(name, 0) + first.count - told.get(name, 0)
                told[name] = first.count

    def _other(self, block: Raw, packet: PacketBlock) -> int:
        """A packet of an obsolete kind of block, or one that the walkers leave."""
        interface = self._own.interfaces[packet.interface]
        start = block.offset + 8 + packet.start
        time = walk.NO_TIME if packet.ticks is None else interface.units.nanoseconds(packet.ticks)
        sizes, link = packet.original << 32 | packet.captured, interface.link_type
        self._hand_over()
        row = array("Q", [start, time & walk.NO_TIME, sizes, 8 + packet.start << 32 | link])
        self.network.rows(self._data, row, 1, self._base)
        return 0

    def _bulk(self) -> None:
        interfaces = self._own.interfaces
        if not self.sections or not interfaces:
            return
        if self._of is not self._own:
            self._of, self._faces = self._own, array("Q")
        known = self._faces
        if len(known) < walk.FACE_WORDS * len(interfaces):
            new = interfaces[len(known) // walk.FACE_WORDS :]
            known += walk.faces((one.link_type, one.units) for one in new)
        swap, full = self._order != pcapng.HOST, True
        while full:
            with memoryview(self._rows)[walk.ROW_WORDS * self._waits :] as slots:
                count, self._at = walk.pcapng_rows(
                    *(self._data, self._at, len(self._data), swap, known, interfaces[0].snaplen),
                    *(slots, LIMIT - self._waits),
                )
            self._waits += count
            full = self._waits == LIMIT
            if full:
                self._hand_over()
        told = known[walk.FACE_TOLD :: walk.FACE_WORDS]
        if any(told):
            self._last_statistics(told)

    def _hand_over(self) -> None:
        """Let the network take the packets that wait; those of several sections in one window do together."""
        count, self._waits = self._waits, 0
        if count:
            self.network.rows(self._data, self._rows, count, self._base)

    def _last_statistics(self, told: "array[int]") -> None:
        """Take the last statistics that the walker saw of each interface."""
        view = memoryview(self._data)
        for number, place in enumerate(told):
            if place:
                total = int.from_bytes(view[place + 3 : place + 7], self._order)
                self._statistics(view[place + 7 : place - 1 + total - 4])
                self._faces[walk.FACE_WORDS * number + walk.FACE_TOLD] = 0


class PcapCapture(NetworkCapture):
    """A classic pcap file: one section, one interface."""

    __slots__ = ("_header",)

    def __init__(
        self, source: "Source | Input", network: "Network | Engine", *, follow: bool = False
    ) -> None:
        super().__init__(source, network, follow=follow)
        self._header = pcap.read_header(self.name, self._input.peek(pcap.HEADER_SIZE))

    def _read(self) -> Iterator[Frames]:
        header = self._header
        self._order = header.order
        self._faces = walk.faces([(header.link_type, Units(header.rate))])
        if header.version <= pcap.EITHER:
            self._faces[walk.FACE_TOLD] = walk.EITHER if header.version == pcap.EITHER else walk.SWAPPED
        try:
            self._need = pcap.HEADER_SIZE
            self._more()
            self._at = pcap.HEADER_SIZE
            while True:
                self._bulk()
                self._record()  # what is needed for the next, and whether it can be one
                yield from self._others()
                if not self._more():
                    break
        except StopReading as stop:
            self.problem = str(stop)
        yield from self._others(end=True)

    def records(self) -> Iterator[Record]:
        """Read on record by record, as the other class does block by block."""
        self.network = self.network.plain()
        header = self._header
        self._order, self._need = header.order, pcap.HEADER_SIZE
        try:
            self._more()
            yield Record(0, 0, memoryview(self._data)[: pcap.HEADER_SIZE], header.order)
            self._at = pcap.HEADER_SIZE
            while True:
                packet = self._record()
                if packet is None:
                    large, offset = self._large, self._base + self._at
                    if not self._more():
                        break
                    if large is not None:
                        yield Record(large.kind, offset, memoryview(b""), header.order, original=large.total)
                    continue
                at, self._at = self._at, self._at + pcap.RECORD_SIZE + packet.captured
                data = memoryview(self._data)[at : self._at]
                yield self._explained(
                    *(pcapng.Block.PACKET, self._base + at, data, pcap.RECORD_SIZE, packet),
                    *(header.link_type, Units(header.rate)),
                )
                self._pass()
        except StopReading as stop:
            self.problem = str(stop)
        self._pass(end=True)

    def _bulk(self) -> None:
        swap, count = self._order != pcapng.HOST, LIMIT
        while count == LIMIT:
            count, self._at = walk.pcap_rows(
                self._data, self._at, len(self._data), swap, self._faces, self._rows, LIMIT
            )
            if count:
                self.network.rows(self._data, self._rows, count, self._base)

    def _record(self) -> PacketBlock | None:
        """The whole record that begins here; None where more bytes are needed."""
        left = len(self._data) - self._at
        self._need = pcap.RECORD_SIZE
        if left < self._need:
            return None
        seconds, fraction, *lengths = pcap.RECORD[self._order](self._data, self._at)
        captured, original = self._header.lengths(*lengths)
        self._need = pcap.RECORD_SIZE + captured
        if captured > pcap.MAX_RECORD:
            place = self._base + self._at
            if captured > min(self._header.snaplen, pcap.MAX_PASSED):
                raise StopReading(f"damaged at byte {place}: a packet cannot have {captured} captured bytes")
            self._large = Large(pcapng.Block.PACKET, self._need)
            return None
        if left < self._need:
            return None
        return PacketBlock(0, pcap.RECORD_SIZE, captured, original, seconds * self._header.rate + fraction)

    def _pass_over(self, large: Large) -> None:
        start = self._base + self._at
        self._leave_out(large.total, "packet")
        self.packets += 1
        self._skip(start, f"{plural(large.total, 'byte')} are more than are looked into", TOO_LONG)

    def _begun(self) -> bool:
        return True

    def _cut(self, there: int) -> Exception:
        return self._input_ended(there, self._need, "packet")


def open_capture(
    source: Source,
    *,
    ports: Collection[int] = (KWIRE_PORT,),
    any_port: bool = False,
    follow: bool = False,
    watcher: Watcher | None = None,
) -> NetworkCapture:
    """Open a capture of any kind for one reading.

    `source`: a path, `-` (standard input), a descriptor or an object that reads. Frames are looked for in UDP
    and TCP on these `ports`, with `any_port` on all by their shape. `follow`: wait for more at the end of a
    file. Raises CaptureError where it cannot be opened or is no capture.
    """
    input = Input(source, follow=follow)
    try:
        network = _network(ports, any_port, watcher)
        if pcap.magic_order(input.peek(MAGIC_SIZE)):
            return PcapCapture(input, network)
        other = pcapng.other_version(input.peek(pcapng.VERSION_END))
        if other:
            raise CaptureError("read capture", input.name, f"it is {other}")
        return NetworkCapture(input, network)
    except BaseException:
        input.close()
        raise


def _network(ports: Collection[int], any_port: bool, watcher: Watcher | None) -> "Network | Engine":
    """What takes the packets: the engine in C, where it is there and nobody wants to see each frame."""
    if watcher is None and native.library is not None:
        from kwire.packets.engine import Engine
        from kwire.packets.memory import agreed

        if agreed():
            with suppress(OSError):  # there may be less room for addresses than its tables want
                return Engine(ports, any_port=any_port)
    return Network(ports, any_port=any_port, watcher=watcher)
