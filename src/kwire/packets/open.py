"""Captures of every kind, opened as one: our pcapng, and pcap or pcapng in which frames travel in packets.

The laws: what is opened gives Frames as `capture.reader.Capture` does, whatever the file; memory is bounded
by a window, not by the file; everything up to the last whole packet is given; what could not be decoded is
counted by name in `errors`, those of the network in `found`. A file tells by its first bytes what it is.
"""

from array import array
from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

from kwire.capture import pcap, pcapng
from kwire.capture.input import Input, Source
from kwire.capture.output import CaptureError
from kwire.capture.pcapng import Order, Packet, Raw, Units
from kwire.capture.reader import MAX_SECTIONS, TOO_LONG, Capture, Large, Section, StopReading
from kwire.capture.walk import EPB_HEADER
from kwire.packets import walk
from kwire.packets.dissect import Packet as Found
from kwire.packets.network import First, Network, Place, Watcher
from kwire.packets.tables import KWIRE_PORT
from kwire.wire.frames import Frames
from kwire.wire.schema import Schema

MAGIC_SIZE: Final = 4


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


class NetworkCapture(Capture):
    """A pcapng file with frames as they are, in packets of the network, or both."""

    __slots__ = ("_listed", "_told", "network")

    def __init__(self, source: "Source | Input", network: Network, *, follow: bool = False) -> None:
        super().__init__(source, follow=follow)
        self.network = network
        self._listed: set[int] = set()  # ids of the sections of sessions among `sections`
        self._told: dict[str, int] = {}  # of the network's troubles: those counted in `errors` already

    @property
    def ended(self) -> bool:
        """Whether all that was read came to its end in order: closing statistics, or a session's BYE."""
        return super().ended and all(
            one.bye is not None for one in self.network.conversations if one.section.schemas
        )

    def complaint(self, section: Section) -> str | None:
        """Why a session's DATA may not be all there was; empty where its BYE and every number before is."""
        one = next((one for one in self.network.conversations if one.section is section), None)
        if one is None:
            return None
        if one.missing:
            return f"{one.name}: {one.missing} DATA frames are not in the capture"
        return "" if one.bye is not None else f"{one.name}: the capture does not hold the session's end (BYE)"

    @property
    def found(self) -> dict[str, First]:
        """What could not be decoded in packets of the network: how often, by name, and where first."""
        return self.network.found

    def records(self) -> Iterator[Record]:
        """Read on block by block instead of by Frames: each with all its layers."""
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
        """Let go of the Frames that nobody takes."""
        for _ in self._others(end=end):
            pass

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
        self, kind: int, offset: int, data: memoryview, start: int, packet: Packet, link: int, units: Units
    ) -> Record:
        time = None if packet.ticks is None else units.nanoseconds(packet.ticks)
        place = Place(self.network.packets + 1, offset, time)
        inside = data[start : start + packet.captured]
        found = self.network.packet(inside, packet.original, link, place, explain=True)
        return Record(
            *(kind, offset, data, self._order, place.number, start, packet.captured, packet.original, link),
            *(time, found),
        )

    def _others(self, *, end: bool = False) -> Iterator[Frames]:
        own = self._own if self.sections else None
        queue = self.network.finish() if end else self.network.take()
        self._count()
        for section, what in queue:
            self._list(section)
            if isinstance(what, Schema):
                section.schemas[what.id] = what
                self._current = section
                continue
            self._current = section
            yield what
        self._count()
        if not end and own is not None:
            self._current = own

    def _list(self, section: Section) -> None:
        """Put a session's section among the others; of very many the oldest is forgotten."""
        if id(section) in self._listed:
            return
        if len(self.sections) >= MAX_SECTIONS:
            self._listed.discard(id(self.sections.pop(0)))
        self.sections.append(section)
        self._listed.add(id(section))

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
                self.first_skipped = self.first_skipped or first.text

    def _other(self, block: Raw, packet: Packet) -> int:
        interface = self._own.interfaces[packet.interface]
        start = block.offset + 8 + packet.start
        self._network_packet(start, packet, interface.link_type, interface.units, self._base + block.offset)
        return 0

    def _bulk(self) -> None:
        bulk, order = self.network.bulk, self._order
        if not self.sections:
            return
        interfaces = self._own.interfaces

        def single(start: int, captured: int, number: int) -> int | None:
            block = start - EPB_HEADER
            if interfaces[number].link_type == pcapng.LINKTYPE_USER0:
                return block  # a frame of the file's own
            high, low, _, original = (
                int.from_bytes(self._data[at : at + 4], order) for at in range(block + 12, start, 4)
            )
            packet = Packet(number, 20, captured, original, high << 32 | low)
            link, units = interfaces[number].link_type, interfaces[number].units
            self._network_packet(start, packet, link, units, self._base + block)
            return None

        swap = order != pcapng.HOST
        self._at = bulk.take(walk.pcapng_packets, self._data, self._at, swap, self._links, single)

    def _network_packet(self, start: int, packet: Packet, link: int, units: Units, offset: int) -> None:
        """Hand one packet, whose bytes begin at `start` of the data, to the network."""
        time = None if packet.ticks is None else units.nanoseconds(packet.ticks)
        place = Place(self.network.packets + 1, offset, time)
        data = memoryview(self._data)[start : start + packet.captured]
        self.network.packet(data, packet.original, link, place)


class PcapCapture(NetworkCapture):
    """A classic pcap file: one section, one interface."""

    __slots__ = ("_header", "_swap")

    def __init__(self, source: "Source | Input", network: Network, *, follow: bool = False) -> None:
        super().__init__(source, network, follow=follow)
        self._header = pcap.read_header(self.name, self._input.peek(pcap.HEADER_SIZE))

    def __iter__(self) -> Iterator[Frames]:
        header = self._header
        self._order = header.order
        units = Units(header.rate)
        try:
            self._need = pcap.HEADER_SIZE
            self._more()
            self._at = pcap.HEADER_SIZE
            while True:
                self._bulk()
                packet = self._record()
                if packet is not None:
                    start = self._at + pcap.RECORD_SIZE
                    self._network_packet(start, packet, header.link_type, units, self._base + self._at)
                    self._at = start + packet.captured
                    continue
                yield from self._others()
                if not self._more():
                    break
        except StopReading as stop:
            self.problem = str(stop)
        yield from self._others(end=True)

    def records(self) -> Iterator[Record]:
        """Read on record by record, as the other class does block by block."""
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
        header, bulk = self._header, self.network.bulk
        if header.version != pcap.VERSION:
            return  # the walkers know the order of the lengths of today

        def single(start: int, captured: int, number: int) -> int | None:
            self._at = start - pcap.RECORD_SIZE
            packet = self._record()
            assert packet is not None  # the walker has seen all of it
            self._network_packet(start, packet, header.link_type, Units(header.rate), self._base + self._at)
            return None

        swap, links = header.order != pcapng.HOST, array("Q", [header.link_type])
        self._at = bulk.take(walk.pcap_walk, self._data, self._at, swap, links, single)

    def _record(self) -> Packet | None:
        """The whole record that begins here; None where more bytes are needed."""
        left = len(self._data) - self._at
        self._need = pcap.RECORD_SIZE
        if left < self._need:
            return None
        words = [
            int.from_bytes(self._data[at : at + 4], self._order)
            for at in range(self._at, self._at + pcap.RECORD_SIZE, 4)
        ]
        seconds, fraction, *lengths = words
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
        return Packet(0, pcap.RECORD_SIZE, captured, original, seconds * self._header.rate + fraction)

    def _pass_over(self, large: Large) -> None:
        start = self._base + self._at
        self._leave_out(large.total, "packet")
        self.packets += 1
        self._skip(start, f"{large.total} bytes are more than are looked into", TOO_LONG)

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
    network = Network(ports, any_port=any_port, watcher=watcher)
    try:
        if pcap.magic_order(input.peek(MAGIC_SIZE)):
            return PcapCapture(input, network)
        other = pcapng.other_version(input.peek(pcapng.VERSION_END))
        if other:
            raise CaptureError("read capture", input.name, f"it is {other}")
        return NetworkCapture(input, network)
    except BaseException:
        input.close()
        raise
