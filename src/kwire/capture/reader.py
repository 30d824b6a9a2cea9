"""Reading a capture: Frames chunk by chunk, schemas, statistics, from a file, a pipe or anything that reads.

Invariants: memory is bounded, whatever the file claims; both byte orders and several sections in a file are
read; everything up to the last whole packet is given, and `problem` then says in one line where reading
stopped and why; hostile bytes never raise, loop or take long. What is no pcapng at all is a CaptureError.

A capture here holds frames as they are (link type USER0). `kwire.packets.open` also reads those that
travelled in other packets, and other kinds of files.
"""

import struct
from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from kwire.capture import pcapng, walk
from kwire.capture.input import Bytes, Input, Source
from kwire.capture.output import CaptureError
from kwire.capture.pcapng import Block, Raw
from kwire.wire.frame import FrameError, Type, inspect
from kwire.wire.frames import Data, Frames, Offsets
from kwire.wire.payload import said
from kwire.wire.schema import Clock, Schema, SchemaReader
from kwire.wire.soundness import Soundness, why_unsound
from kwire.wire.walk import frame_gather
from kwire.words import are, article, plural

if TYPE_CHECKING:
    import numpy as np

    from kwire.capture.event_counts import EventCounts

    Array = np.ndarray[Any, Any]

LIMIT: Final = 1 << 14  # frames in a chunk, at most
MAX_SECTIONS: Final = 1 << 12
MAX_INTERFACES: Final = 1 << 17  # of all sections
START: Final = 16  # bytes by which a file that is no capture is known
TEXT: Final = 4096  # characters kept of a name
PORTS: Final = "look elsewhere with --port N or --any-port"  # the cure where no frame was found
UNFINISHED: Final = (  # of a file without closing statistics
    "recorder was killed, or is still recording, "
    "or a tool that leaves them out (editcap, mergecap) wrote the file"
)
ALIKE: Final = 256  # bytes of an interface block that is held against the next
TOO_LONG: Final = "PACKET_TOO_LONG"  # the error of a packet that is not looked into
TIMES: Final = (pcapng.StatisticsOption.START, pcapng.StatisticsOption.END)

#: First bytes of what people try to read, and what it is.
OTHER_FILES: Final = (
    (b"\xa1\xb2\xc3\xd4", "a classic pcap file"),
    (b"\xd4\xc3\xb2\xa1", "a classic pcap file"),
    (b"\xa1\xb2\x3c\x4d", "a classic pcap file"),
    (b"\x4d\x3c\xb2\xa1", "a classic pcap file"),
    (b"PERFILE2", "a perf.data file"),
    (b"BZh", "compressed with bzip2"),
    (b"\xfd7zXZ", "compressed with xz"),
    (b"PK\x03\x04", "a zip archive"),
    (b"snoop\0\0\0", "a snoop file"),
    (b"\x17\x08\x44tracing", "a trace.dat file"),
    (b"\x7fELF", "a program"),
)


def foreign(name: str, start: bytes) -> CaptureError:
    """The error for a file that is no capture, by its first bytes."""
    what = next((what for magic, what in OTHER_FILES if start.startswith(magic)), "")
    cause = f"it is {what}, not a pcapng file" if what else "it is not a pcapng file"
    return CaptureError("read capture", name, cause, "kwire record -w writes such files")


class Interface:
    """An interface of a section: one probe. `statistics`: numbers of its last statistics by option code."""

    __slots__ = ("comments", "description", "link_type", "name", "probe", "snaplen", "statistics", "units")

    def __init__(
        self,
        name: str,
        description: str,
        link_type: int,
        snaplen: int = 0,
        units: pcapng.Units = pcapng.Units(),  # noqa: B008  # it does not change
    ) -> None:
        self.name = name
        self.description = description
        self.link_type = link_type
        self.snaplen = snaplen  # bytes of a packet kept at most, 0: all
        self.units = units
        self.probe = 0  # probe number, known once its SCHEMA was read
        self.statistics: dict[int, int] | None = None
        self.comments: list[str] = []


class Section:
    """A section of a capture: everything one recorder said. Statistics come with the last blocks.

    `schemas`: those that hold now, by probe number; `history`: all that ever held, in the order in which they
    came; `greatest`: the greatest probe number of them; `orders`: the byte orders of their events; `clock`:
    that of frames whose own schema is not there, as `wire.schema.clock_of` has it; `undecodable`: EVENTs that
    are not as their SCHEMA says.
    """

    __slots__ = (
        "application",
        "clock",
        "comments",
        "greatest",
        "hardware",
        "history",
        "interfaces",
        "order",
        "orders",
        "os",
        "schemas",
        "undecodable",
    )

    def __init__(self, order: pcapng.Order, options: pcapng.Options) -> None:
        self.order = order
        self.comments: list[str] = []
        self.hardware = self.os = ""
        if options:
            self.comments = pcapng.strings(options, pcapng.Option.COMMENT)
            self.hardware = " ".join(pcapng.strings(options, pcapng.SectionOption.HARDWARE))
            self.os = " ".join(pcapng.strings(options, pcapng.SectionOption.OS))
        self.interfaces: list[Interface] = []
        self.schemas: dict[int, Schema] = {}
        self.history: list[Schema] = []
        self.greatest = 0
        self.orders: set[str] = set()
        self.clock: Clock | None = None
        self.undecodable = 0

    def define(self, schema: Schema) -> None:
        """From here on this schema holds. One that is repeated changes nothing.

        Another one for the same probe makes `schemas` a new mapping: who holds the old one has what held.
        """
        old = self.schemas.get(schema.id)
        if old == schema:
            return
        if old is not None:
            self.schemas = dict(self.schemas)
        self.schemas[schema.id] = schema
        self.history.append(schema)
        self.greatest = max(self.greatest, schema.id)
        self.orders.add(schema.order)
        self.clock = schema.clock if self.clock is None else _first(self.clock, schema.clock)


class Mixed(Frames):
    """Frames of several sections whose schemas are the same: frame i is of `sections[owners[i]]`."""

    __slots__ = ("owners", "sections")

    def __init__(self, data: Data, offsets: Offsets, sections: list[Section], owners: "Array") -> None:
        super().__init__(data, offsets)
        self.sections, self.owners = sections, owners

    def split(self) -> Iterator[tuple[Section, Frames]]:
        """The frames of each section."""
        import numpy as np

        order = np.argsort(self.owners, kind="stable")
        data, offsets = gathered(self, order)
        cuts = np.flatnonzero(np.diff(self.owners[order])) + 1
        for start, stop in pairwise([0, *cuts.tolist(), len(order)]):
            yield self.sections[int(self.owners[order[start]])], Frames(data, offsets[start:stop].data)


def gathered(frames: Frames, order: "Array | slice") -> tuple[bytearray, "Array"]:
    """The bytes of these frames, back to back in this order, and where each begins."""
    import numpy as np

    offsets = np.asarray(frames.offsets)[order]
    octets = np.frombuffer(frames.view, np.uint8)
    lengths = octets[offsets + np.uint64(2)].astype(np.uint64) << np.uint64(8)
    lengths |= octets[offsets + np.uint64(3)]
    ends = np.cumsum(lengths)
    data = bytearray(int(ends[-1])) if len(ends) else bytearray()
    frame_gather(frames.view, offsets, 0, len(offsets), data, 0)
    return data, ends - lengths


def groups(numbers: "Array") -> "Iterator[tuple[int, Any]]":
    """Each number with the places where it stands, in their order."""
    if len(numbers) and (numbers == numbers[0]).all():
        yield int(numbers[0]), slice(None)
        return
    order, parts = sorted_groups(numbers)
    for number, part in parts:
        yield number, order[part]


def sorted_groups(numbers: "Array") -> "tuple[Array, list[tuple[int, slice]]]":
    """The places of numbers in the order of these, stable; each number with its part of them."""
    import numpy as np

    if not len(numbers):
        return np.zeros(0, np.int64), []
    small = numbers.astype(np.uint16) if int(numbers.max()) < 1 << 16 else numbers  # these sort much faster
    order = np.argsort(small, kind="stable")
    ordered = small[order]
    cuts = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    ends = pairwise([0, *cuts.tolist(), len(ordered)])
    return order, [(int(ordered[start]), slice(start, stop)) for start, stop in ends]


class StopReading(Exception):  # noqa: N818  # it ends a reading, it is no failure
    """Reading cannot go on; the text says why."""


class Large(NamedTuple):
    """A block that is longer than what is looked into: its type and its length."""

    kind: int
    total: int


Refused = Callable[[Frames, dict[int, Schema]], object]


class Capture:
    """A capture open for one reading, a context manager.

    Iterate to get Frames: EVENT and LOST frames (and others that are no SCHEMA) in file order, all of one
    section, `section`, whose `schemas` describe them. An EVENT that is not as its SCHEMA says is left out:
    `undecodable` counts them, `first_undecodable` says what is wrong with the first, and `refused` is given
    them, with the schemas they were held against. `problem` says, once the iteration has ended, where the
    file is cut or damaged, None where it is whole; `skipped` counts packets that hold no sound frame, and
    `first_skipped` says where the first of them is and why; `errors` counts them by the name of the error.
    `packets` were read that hold frames as they are, or should. `mixed`, where it is set before the
    iteration: frames of sections whose schemas are the same may come as one Mixed.
    """

    __slots__ = (
        "_at",
        "_base",
        "_body_before",
        "_current",
        "_data",
        "_head_before",
        "_input",
        "_interfaces",
        "_large",
        "_links",
        "_need",
        "_order",
        "_own",
        "_plain",
        "_reader",
        "_soundness",
        "_told_before",
        "errors",
        "first_skipped",
        "first_undecodable",
        "mixed",
        "name",
        "packets",
        "problem",
        "refused",
        "sections",
        "skipped",
        "tallied",
        "undecodable",
    )

    def __init__(self, source: "Source | Input", *, follow: bool = False) -> None:
        """`-` is standard input; `follow`: at a file's end wait for more. CaptureError: no such file."""
        self._input = source if isinstance(source, Input) else Input(source, follow=follow)
        self.name = self._input.name
        self._data: Bytes = b""
        self._base, self._at, self._need = 0, 0, 0  # _base: where _data begins in the file
        self._interfaces = 0  # of all sections
        self._body_before: object = None  # of an interface, and what it says: others mostly say the same
        self._told_before: tuple[str, str, int, int, pcapng.Units] | None = None
        self._links = array("Q")  # link types of the interfaces of this section
        self._large: Large | None = None  # the block that comes next is not looked into
        self._order = pcapng.HOST
        self._head_before: tuple[bytes, pcapng.Order] = (b"", pcapng.HOST)  # of a section, and its order
        self._reader = SchemaReader()
        self._plain = False  # there is a section, and every interface of it holds frames
        self._current: Section | None = None  # that of the frames given last
        self._own = Section(pcapng.HOST, [])  # that of the file's blocks being read
        self._soundness = Soundness()
        self.mixed = False
        self.tallied: tuple[Frames, EventCounts] | None = None
        """The chunk given last and its tally, where somebody has counted it already: see `capture.tally`."""
        self.sections: list[Section] = []
        self.problem: str | None = None
        self.packets = 0
        self.errors: dict[str, int] = {}
        self.skipped = 0
        self.first_skipped: str | None = None
        self.undecodable = 0
        self.first_undecodable = ""
        self.refused: Refused = ignore

    @property
    def regular(self) -> bool:
        """Whether this is a file: all of it is there, nothing has to be waited for."""
        return self._input.regular

    @property
    def ended(self) -> bool:
        """Whether every probe read so far has closing statistics: its recorder ended in order."""
        return all(
            interface.statistics is not None
            for section in self.sections
            for interface in section.interfaces
            if interface.probe
        )

    @property
    def forgotten(self) -> int:
        """Sessions that were let go of: they were more than are kept, so that nothing is known of them."""
        return 0

    def wrong(self) -> list[str]:
        """What was wrong in packets, a line each; to be asked when all was read."""
        return self._wrong(self.skipped)

    def _wrong(self, skipped: int) -> list[str]:
        lines = []
        if skipped:
            lines.append(f"{plural(skipped, 'packet')} without a sound frame; {self.first_skipped}")
        if self.undecodable:
            lines.append(f"{misfit(self.undecodable)}; first: {self.first_undecodable}")
        return lines

    def barren(self) -> str:
        """Why a capture of a network, all of which was read, holds nothing of ours; empty for others."""
        return ""

    def label(self, section: Section) -> str:
        """Where a section's frames travelled: the ends of its session; empty for those of the file itself."""
        return ""

    def complaint(self, section: Section) -> str | None:
        """Why a section does not prove itself whole without statistics; empty: it does; None: it cannot.

        A file's section cannot; a session in a capture of a network is proven by its own protocol.
        """
        return None

    @property
    def section(self) -> Section | None:
        """The section being read, None before the first."""
        return self._current

    @property
    def schemas(self) -> dict[int, Schema]:
        """The schemas of the section being read, by probe number."""
        return self._current.schemas if self._current else {}

    def close(self) -> None:
        """Close what was opened here."""
        self._input.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Frames]:
        offsets, count = array("Q", bytes(8 * LIMIT)), 0
        try:
            while True:
                if self._plain and self._own.interfaces:
                    data, swap = self._data, self._order != pcapng.HOST
                    known = len(self._own.interfaces)
                    with memoryview(offsets)[count:] as slots:
                        taken, self._at = walk.pcapng_walk(
                            data, self._at, len(data), swap, known, slots, LIMIT
                        )
                    count += taken
                    self.packets += taken
                elif not self._plain and not count:
                    self._bulk()
                block = self._block() if count < LIMIT else None
                if count and (block is None or self._turns(block)):
                    full = count == LIMIT
                    yield self._sound(Frames(self._data, offsets[:count]))
                    count = 0
                    if full:
                        continue
                if block is not None:
                    frame = self._take(block)
                    if frame:
                        offsets[count] = frame
                        count += 1
                else:
                    yield from self._others()
                    if not self._more():
                        break
        except StopReading as stop:
            self.problem = str(stop)
        if count:
            yield self._sound(Frames(self._data, offsets[:count]))
        yield from self._others(end=True)

    def _sound(self, frames: Frames) -> Frames:
        """Frames of the current section without the EVENTs that are not as their SCHEMA says."""
        assert self._current is not None  # frames lie in sections
        bad = self._unsound(frames, self._current)
        if not bad:
            return frames
        left_out = set(bad)
        self._refuse(frames.select(bad), self._current)
        return frames.select(place for place in range(len(frames)) if place not in left_out)

    def _unsound(self, frames: Frames, section: Section) -> "array[int]":
        """The places of the EVENTs that are not as their SCHEMA says."""
        return self._soundness.unsound(frames, section.schemas)

    def _refuse(self, frames: Frames, section: Section) -> None:
        """Count EVENTs of this section that are not as their SCHEMA says."""
        if not self.undecodable:
            schema = section.schemas[frames.header(0).id]
            self.first_undecodable = why_unsound(schema, frames.frame_bytes(0))
        self.undecodable += len(frames)
        section.undecodable += len(frames)
        self.refused(frames, section.schemas)

    def _bulk(self) -> None:
        """Take packets of other link types, many at once, as far as that goes."""

    def _others(self, *, end: bool = False) -> Iterable[Frames]:
        """Frames that were found in packets of other link types; `end`: no more packets come."""
        return ()

    # --- blocks

    def _block(self) -> Raw | None:
        """The whole block that begins here; None where more bytes are needed (`_need`)."""
        data, at = self._data, self._at
        left = len(data) - at
        self._need = pcapng.MIN_BLOCK
        if left < self._need:
            return None
        start, order = self._base + at, self._order
        if data[at : at + 4] == pcapng.SECTION_START:
            head = bytes(data[at + 8 : at + pcapng.VERSION_END])
            if head == self._head_before[0] and left >= pcapng.LEAST[Block.SECTION]:
                order = self._head_before[1]  # the sections of a file mostly say the same
            else:
                found = pcapng.section_order(head[:4])
                if found is None:
                    raise StopReading(
                        f"damaged at byte {start}: a section header without its byte-order magic"
                    )
                if left < pcapng.LEAST[Block.SECTION]:
                    self._need = pcapng.LEAST[Block.SECTION]
                    return None
                other = pcapng.other_version(data[at : at + pcapng.VERSION_END])
                if other:
                    raise StopReading(f"not read from byte {start} on: a section of {other} begins there")
                order, self._head_before = found, (head, found)
        elif not self.sections:
            raise foreign(self.name, bytes(self._data[:START]))
        kind, total = (_little if order == "little" else _big)(data, at)
        if total < pcapng.LEAST.get(kind, pcapng.MIN_BLOCK) or total % 4 or total > pcapng.MAX_PASSED:
            what = pcapng.describe(kind)
            raise StopReading(f"damaged at byte {start}: {what} cannot be {plural(total, 'byte')} long")
        self._need = total
        if total > pcapng.MAX_BLOCK:
            self._large = Large(kind, total)
            return None  # the frames before it are given first
        if left < total:
            return None
        again = int.from_bytes(data[at + total - 4 : at + total], order)
        if again != total:
            what = pcapng.describe(kind)
            raise StopReading(
                f"damaged at byte {start}: {what} begins with length {total} and ends with {again}"
            )
        return Raw(kind, at, total, memoryview(data)[at + 8 : at + total - 4])

    def _pass_over(self, large: Large) -> None:
        """Read past a block that is too long to be looked into; StopReading where others depend on it."""
        start, what = self._base + self._at, pcapng.describe(large.kind)
        if large.kind in (Block.SECTION, Block.INTERFACE):
            raise StopReading(f"damaged at byte {start}: {what} cannot be {plural(large.total, 'byte')} long")
        last = self._leave_out(large.total, what)
        if last != large.total.to_bytes(4, self._order):
            again = int.from_bytes(last, self._order)
            raise StopReading(
                f"damaged at byte {start}: {what} begins with length {large.total} and ends with {again}"
            )
        if large.kind in pcapng.PACKETS:
            self.packets += 1
            self._skip(start, f"{plural(large.total, 'byte')} are more than are looked into", TOO_LONG)

    def _leave_out(self, size: int, what: str) -> bytes:
        """Read past so many bytes, a `what`; gives the last four. StopReading where fewer are there."""
        there, last, rest = 0, b"", bytes(self._data[self._at :])
        self._base, self._data, self._at = self._base + self._at, b"", 0
        while there < size:
            part = rest or self._input.read()
            if not part:
                raise self._input_ended(there, size, what)
            part, rest = part[: size - there], part[size - there :]
            last = (last + part[-4:])[-4:]
            there += len(part)
        self._base, self._data = self._base + size, rest
        return last

    def _input_ended(self, there: int, need: int, what: str) -> StopReading:
        """The file ends inside a block, or cannot be unpacked further."""
        if self._input.problem:
            return StopReading(self._input.problem)
        end = self._base + there
        return StopReading(
            f"cut at byte {end}: {there} of the {need} bytes of {article(what)} are there, "
            f"from byte {self._base}"
        )

    def _more(self) -> bool:
        """Read until what `_block` needs is there. False at a clean end; StopReading if the file is cut."""
        if self._large is not None:
            large, self._large = self._large, None
            self._pass_over(large)
            return True
        rest = self._data[self._at :]
        self._base += self._at
        self._data, self._at = self._input.extend(rest, self._need), 0
        there = len(self._data)
        if there >= self._need:
            return True
        if not there and self._begun() and not self._input.problem:
            return False
        raise self._cut(there)

    def _begun(self) -> bool:
        """Whether enough was read for a file that ends here to be whole."""
        return bool(self.sections)

    def _cut(self, there: int) -> Exception:
        end = self._base + there
        if not self.sections and not pcapng.SECTION_START.startswith(bytes(self._data[:4])):
            return foreign(self.name, bytes(self._data[:START]))
        if self._input.problem:
            if not self.sections:
                return CaptureError("read capture", self.name, self._input.problem)
            return StopReading(self._input.problem)
        if not there:
            return StopReading("empty: not even a section header is there")
        what = f"{plural(there, 'byte')} of a block"
        if there >= pcapng.MIN_BLOCK:
            kind = int.from_bytes(self._data[:4], self._order)
            return self._input_ended(there, self._need, pcapng.describe(kind))
        return StopReading(f"cut at byte {end}: {what} are there, from byte {self._base}")

    def _turns(self, block: Raw) -> bool:
        """Whether this block changes what frames mean, so that those before it must be given first."""
        if block.type not in pcapng.PACKETS:
            return block.type == Block.SECTION
        at = pcapng.unpack_packet(block, self._order).start
        return not self._plain or (len(block.body) > at and block.body[at] & 15 == Type.SCHEMA)

    def _take(self, block: Raw) -> int:
        """Take the block that stands here; gives where a frame lies in it, 0 where none does."""
        self._at += block.total
        if block.type in pcapng.PACKETS:
            return self._packet(block)
        if block.type == Block.SECTION:
            order = self._head_before[1]  # `_block` has seen to it
            self._order, self._plain, self._reader = order, True, SchemaReader()
            self._links = array("Q")
            if len(self.sections) == MAX_SECTIONS:
                raise StopReading(
                    f"damaged before byte {self._base + self._at}: over {MAX_SECTIONS} sections"
                )
            self._current = Section(order, pcapng.unpack_options(block.body[16:], order))
            self._own = self._current
            self.sections.append(self._current)
        elif block.type == Block.INTERFACE:
            self._interface(block.body)
        elif block.type == Block.STATISTICS:
            self._statistics(block.body)
        return 0

    def _interface(self, body: memoryview) -> None:
        self._interfaces += 1
        if self._interfaces > MAX_INTERFACES:
            raise StopReading(
                f"damaged before byte {self._base + self._at}: more than {MAX_INTERFACES} interfaces"
            )
        key = (bytes(body), self._order) if len(body) <= ALIKE else None
        told = self._told_before if key is not None and key == self._body_before else None
        if told is None:
            options = pcapng.unpack_options(body[8:], self._order)
            link_type, snaplen = (int.from_bytes(body[at : at + 2 + at // 2], self._order) for at in (0, 4))
            name = " ".join(pcapng.strings(options, pcapng.InterfaceOption.NAME))[:TEXT]
            description = " ".join(pcapng.strings(options, pcapng.InterfaceOption.DESCRIPTION))[:TEXT]
            told = (name, description, link_type, snaplen, pcapng.unpack_units(options, self._order))
            self._body_before, self._told_before = key, told
        self._own.interfaces.append(Interface(*told))
        self._links.append(told[2])
        self._plain = self._plain and told[2] == pcapng.LINKTYPE_USER0

    def _statistics(self, body: memoryview) -> None:
        number = int.from_bytes(body[:4], self._order)
        interfaces = self._own.interfaces
        if number >= len(interfaces):
            return
        options = pcapng.unpack_options(body[12:], self._order)
        interfaces[number].comments = pcapng.strings(options, pcapng.Option.COMMENT)
        interfaces[number].statistics = {
            code: _time(value, self._order) if code in TIMES else int.from_bytes(value, self._order)
            for code, value in options
            if len(value) == 8
        }

    def _packet(self, block: Raw) -> int:
        """A packet that is no plain EVENT: read it strictly, keep SCHEMA, give the place of other frames."""
        body, interfaces = block.body, self._own.interfaces
        packet = pcapng.unpack_packet(block, self._order, interfaces[0].snaplen if interfaces else 0)
        number, start, captured = packet.interface, packet.start, packet.captured
        if captured > len(body) - start:
            place = self._base + block.offset
            raise StopReading(f"damaged at byte {place}: {captured} captured bytes in {len(body) - start}")
        place = self._base + block.offset
        if number >= len(interfaces):
            self.packets += 1
            return self._skip(place, f"interface {number} is not described")
        if interfaces[number].link_type != pcapng.LINKTYPE_USER0:
            return self._other(block, packet)
        self.packets += 1
        frame, problems = inspect(body[start : start + captured])
        if frame is None or problems:
            return self._skip(place, str(problems[0]), problems[0].code.name)
        if frame.header.length != captured:
            return self._skip(place, f"{plural(captured - frame.header.length, 'byte')} after the frame")
        try:
            schema = said(frame, self._reader)
        except FrameError as error:
            return self._skip(place, str(error.problem), error.problem.code.name)
        if isinstance(schema, Schema):
            self._own.define(schema)
            interfaces[number].probe = schema.id
        return 0 if frame.header.type == Type.SCHEMA else block.offset + 8 + start

    def _other(self, block: Raw, packet: pcapng.PacketBlock) -> int:
        """A packet of another link type."""
        link_type = self._own.interfaces[packet.interface].link_type
        return self._skip(self._base + block.offset, f"link type {link_type} carries no frames")

    def _skip(self, place: int, why: str, code: str = "NOT_FRAMES") -> int:
        """Count the packet at byte `place` as one without a sound frame."""
        self.skipped += 1
        self.errors[code] = self.errors.get(code, 0) + 1
        if self.first_skipped is None:
            self.first_skipped = f"packet at byte {place}: {why}"
        return 0


_little, _big = struct.Struct("<II").unpack_from, struct.Struct(">II").unpack_from


def misfit(count: int) -> str:
    """What is said of so many EVENTs that are not as their SCHEMA says."""
    return f"{are(count, 'event')} not as the SCHEMA says"


def ignore(frames: Frames, *_: object) -> None:
    """What nobody wants to see."""


def _first(one: Clock, two: Clock | None) -> Clock:
    """The clock that began first."""
    return one if two is None else min(one, two, key=lambda clock: clock.at(0))


def _time(value: bytes, order: pcapng.Order) -> int:
    """A time of an option: the high half comes first, whatever the byte order."""
    return int.from_bytes(value[:4], order) << 32 | int.from_bytes(value[4:], order)
