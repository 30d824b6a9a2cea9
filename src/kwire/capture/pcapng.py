"""The blocks of a pcapng file, as tables, written and read (draft-ietf-opsawg-pcapng).

Invariants: what is written is in the machine's byte order; what is read may be in either; every length is
checked against the bytes there are before anything is taken by it; an unknown block or option is skipped.
Offsets and lengths are bytes. One interface stands for one probe: interface = probe number - 1.
"""

import struct
import sys
from collections.abc import Iterable

from kwire.hints import Final, Literal, TypeAlias
from kwire.lazy import IntEnum, NamedTuple

Order: TypeAlias = Literal["little", "big"]
Options: TypeAlias = "list[tuple[int, bytes]]"

MAGIC: Final = 0x1A2B3C4D
SECTION_START: Final = b"\n\r\r\n"  # the section header's type, the same in both byte orders
LINKTYPE_USER0: Final = 147
SNAPLEN: Final = 65535
VERSION: Final = 1  # major version of a section; minor ones only add what may be skipped
VERSION_END: Final = 16  # bytes of a section header up to the end of its version
MAX_BLOCK: Final = 16 << 20  # of a block that is looked into; one that claims more is damage …
MAX_PASSED: Final = 1 << 30  # … or passed over, where its type means nothing here
MIN_BLOCK: Final = 12

HOST: Final[Order] = "little" if sys.byteorder == "little" else "big"


class Block(IntEnum):
    """Block types that mean something to a capture; the others are skipped."""

    SECTION = 0x0A0D0D0A
    INTERFACE = 1
    PACKET_OLD = 2
    PACKET_SIMPLE = 3
    NAMES = 4
    STATISTICS = 5
    PACKET = 6
    JOURNAL = 9
    SECRETS = 10
    CUSTOM = 0x0BAD


NAMES: Final = {
    Block.SECTION: "section header",
    Block.INTERFACE: "interface description",
    Block.PACKET_OLD: "obsolete packet",
    Block.PACKET_SIMPLE: "simple packet",
    Block.NAMES: "name resolution",
    Block.STATISTICS: "interface statistics",
    Block.PACKET: "packet",
    Block.JOURNAL: "journal",
    Block.SECRETS: "decryption secrets",
    Block.CUSTOM: "custom",
}

# Least whole length of a block whose body has a fixed part.
LEAST: Final[dict[int, int]] = {
    Block.SECTION: 28,
    Block.INTERFACE: 20,
    Block.PACKET_OLD: 32,
    Block.PACKET_SIMPLE: 16,
    Block.STATISTICS: 24,
    Block.PACKET: 32,
}
PACKETS: Final = frozenset({Block.PACKET, Block.PACKET_OLD, Block.PACKET_SIMPLE})


class Option(IntEnum):
    """Options of every block."""

    END = 0
    COMMENT = 1


class SectionOption(IntEnum):
    """Options of a section header."""

    HARDWARE = 2
    OS = 3
    APPLICATION = 4


class InterfaceOption(IntEnum):
    """Options of an interface description."""

    NAME = 2
    DESCRIPTION = 3
    RESOLUTION = 9
    FILTER = 11
    OS = 12
    TIME_OFFSET = 14


class StatisticsOption(IntEnum):
    """Options of interface statistics; the times are high and low u32, the counters u64."""

    START = 2
    END = 3
    RECEIVED = 4  # isb_ifrecv: events produced
    DROPPED = 5  # isb_ifdrop: events lost, whatever the cause
    DELIVERED = 8  # isb_usrdeliv: events stored in this file


class Raw(NamedTuple):
    """A whole block at `offset` of the bytes it was read from; the body ends before the trailing length."""

    type: int
    offset: int
    total: int
    body: memoryview


class PacketBlock(NamedTuple):
    """A packet's place: `start` in the block's body, bytes `captured` there and `original` on the network.

    `ticks`: its time in the interface's unit, None where the block has none.
    """

    interface: int
    start: int
    captured: int
    original: int
    ticks: int | None


class Units(NamedTuple):
    """How an interface counts time: ticks a second, and whole seconds to add."""

    rate: int = 1_000_000
    offset: int = 0

    def nanoseconds(self, ticks: int) -> int:
        """Nanoseconds since 1970, rounded down."""
        return self.offset * 1_000_000_000 + ticks * 1_000_000_000 // self.rate


def describe(type: int) -> str:
    """A block's type for a person."""
    return f"{NAMES[Block(type)]} block" if type in NAMES else f"block of type {type:#x}"


# --- writing


def text(value: str, limit: int = 4096) -> bytes:
    """UTF-8 of at most `limit` bytes, cut between characters."""
    return value.encode("utf-8", "replace")[:limit].decode("utf-8", "ignore").encode()


def pack_options(options: Iterable[tuple[int, bytes]]) -> bytes:
    """Options in the machine's order with the end mark; nothing at all where there are none."""
    parts = [struct.pack("=HH", code, len(value)) + value + bytes(-len(value) % 4) for code, value in options]
    return b"".join([*parts, bytes(4)]) if parts else b""


def block(type: int, body: bytes) -> bytes:
    """A block around a body whose length is a multiple of 4."""
    total = MIN_BLOCK + len(body)
    return struct.pack("=II", type, total) + body + struct.pack("=I", total)


def section(options: Iterable[tuple[int, bytes]]) -> bytes:
    """A section header of unknown section length."""
    return block(Block.SECTION, struct.pack("=IHHq", MAGIC, 1, 0, -1) + pack_options(options))


def interface(name: str, options: Iterable[tuple[int, bytes]] = ()) -> bytes:
    """An interface description: link type USER0, times in nanoseconds."""
    head = struct.pack("=HHI", LINKTYPE_USER0, 0, SNAPLEN)
    fixed = [(InterfaceOption.NAME, text(name)), (InterfaceOption.RESOLUTION, b"\x09")]
    return block(Block.INTERFACE, head + pack_options([*fixed, *options]))


def packet(interface: int, time: int, data: bytes | memoryview, drops: int = 0) -> bytes:
    """One packet; `time` in wall-clock nanoseconds; `drops`: events lost before it."""
    size = len(data)
    head = struct.pack("=5I", interface, time >> 32 & 0xFFFFFFFF, time & 0xFFFFFFFF, size, size)
    options = pack_options([(4, struct.pack("=Q", min(drops, (1 << 64) - 1)))]) if drops else b""
    return block(Block.PACKET, head + bytes(data) + bytes(-size % 4) + options)


def split_time(time: int) -> bytes:
    """A time as options carry it: the high half, then the low half."""
    return struct.pack("=II", time >> 32 & 0xFFFFFFFF, time & 0xFFFFFFFF)


def statistics(interface: int, time: int, options: Iterable[tuple[int, bytes]]) -> bytes:
    """Statistics of an interface taken at `time`, wall-clock nanoseconds."""
    return block(Block.STATISTICS, struct.pack("=I", interface) + split_time(time) + pack_options(options))


# --- reading


def section_order(magic: bytes | memoryview) -> Order | None:
    """The byte order that the four bytes of a section header's magic tell, None where they are no magic."""
    if int.from_bytes(magic, "little") == MAGIC:
        return "little"
    return "big" if int.from_bytes(magic, "big") == MAGIC else None


def other_version(start: bytes | memoryview) -> str:
    """What a section that begins like this is, where it may be laid out otherwise; empty: it is known."""
    order = section_order(start[8:12])
    if start[:4] != SECTION_START or order is None or len(start) < VERSION_END:
        return ""
    major, minor = int.from_bytes(start[12:14], order), int.from_bytes(start[14:16], order)
    return "" if major == VERSION else f"pcapng {major}.{minor}, of which only version {VERSION} is known"


def unpack_options(body: memoryview, order: Order) -> Options:
    """The options in `body`, up to the end mark or the first that does not fit."""
    found, at, head = [], 0, struct.Struct(("<" if order == "little" else ">") + "HH")
    while len(body) - at >= 4:
        code, size = head.unpack_from(body, at)
        if code == Option.END or size > len(body) - at - 4:
            break
        found.append((code, bytes(body[at + 4 : at + 4 + size])))
        at += 4 + size + (-size % 4)
    return found


def first(options: Options, code: int) -> bytes | None:
    """The value of the first option with this code."""
    return next((value for found, value in options if found == code), None)


def strings(options: Options, code: int) -> list[str]:
    """The values of the options with this code, as text."""
    return [value.rstrip(b"\0").decode("utf-8", "replace") for found, value in options if found == code]


def unpack_units(options: Options, order: Order) -> Units:
    """What if_tsresol and if_tsoffset say: a power of 10, or of 2 where the top bit is set; microseconds."""
    resolution = first(options, InterfaceOption.RESOLUTION) or b"\x06"
    exponent = resolution[0] & 0x7F
    rate: int = (2 if resolution[0] & 0x80 else 10) ** exponent
    return Units(rate, int.from_bytes(first(options, InterfaceOption.TIME_OFFSET) or b"", order, signed=True))


def unpack_packet(block: Raw, order: Order, snaplen: int = 0) -> PacketBlock:
    """Where the packet of a block of PACKETS lies; `snaplen` (0: none) is that of the first interface.

    The lengths are as the block has them: `captured` may be more than the body holds.
    """
    body = block.body

    def number(at: int, size: int = 4) -> int:
        return int.from_bytes(body[at : at + size], order)

    if block.type == Block.PACKET_SIMPLE:
        original = number(0)
        captured = min(original, snaplen or original, len(body) - 4)
        return PacketBlock(0, 4, captured, original, None)
    interface = number(0, 2 if block.type == Block.PACKET_OLD else 4)
    return PacketBlock(interface, 20, number(12), number(16), number(4) << 32 | number(8))
