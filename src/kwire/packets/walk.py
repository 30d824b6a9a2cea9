"""The Python twins of the C walkers for packets of the network: the specification of `native/walk.c`.

The laws are the walkers': no byte outside the buffers, a stop before the first thing that is not plain, no
state but what is handed in. What is not plain is for `network.Network`, packet by packet. A packet's row has
two u64: where its bytes lie, and how many there are, with the number of its interface above 32 bits.
"""

import struct
import sys
from typing import Any, Final, TypeAlias

from kwire import native
from kwire.capture.walk import EPB, EPB_HEADER, EPB_OVERHEAD
from kwire.packets.tables import EXTENSIONS, FAMILIES, MAX_PACKET, VLANS, EtherType, Link, Protocol
from kwire.wire.frame import MAX_EVENT, TYPES, VERSION, Flag, Type, checksum
from kwire.wire.walk import frame_strict_twin

Slots: TypeAlias = Any  # a buffer of u64

RECORD_HEADER: Final = 16
ROW_WORDS: Final = 2

# A flow's slot: u64 each.
SLOT_OWNER: Final = 0  # owner + 1, and above 32 bits what the flow carries; 0: the slot is free
SLOT_NEXT: Final = 1  # sequence number of the next DATA
SLOT_PORTS: Final = 2  # IP version, source port, target port
SLOT_FRAMES: Final = 3  # frames taken so far
SLOT_ADDRESSES: Final = 4  # source and target, 16 bytes each
SLOT_WORDS: Final = 8
FLOW_DATA: Final = 1  # from a source: DATA, or EVENTs as they are
FLOW_ACKS: Final = 2  # to a source

# The tally: u64 each; packets of no interest by ethertype, then by IP protocol.
TALLY_PROTOCOL: Final = 0x10000
TALLY_FRAMES: Final = 0x10100
TALLY_UNSUMMED: Final = 0x10101
TALLY_PARTIAL: Final = 0x10102
TALLY_WORDS: Final = 0x10103

MAX_TRIES: Final = 64  # slots looked at for a flow: hostile addresses may all fall on one

_FACTORS = (
    0x9E3779B97F4A7C15,
    0xBF58476D1CE4E5B9,
    0x94D049BB133111EB,
    0xD6E8FEB86659FD93,
    0xA0761D6478BD642F,
)
_OTHER = ">" if sys.byteorder == "little" else "<"
_U64 = (1 << 64) - 1
_EVENT = VERSION << 4 | Type.EVENT
_EVENT_HEADER = 16
_FRAGMENTED = 0x3FFF
_RAW = frozenset({Link.RAW, Link.RAW_BSD, Link.RAW_OPENBSD, Link.IPV4, Link.IPV6})
_TAGS = 2
_LATER = EXTENSIONS | {Protocol.AH, Protocol.FRAGMENT}


def pcap_walk_twin(
    data: Any, offset: int, end: int, swap: bool, interfaces: int, rows: Slots, limit: int
) -> tuple[int, int]:
    """The records of a pcap file in data[offset:end], as rows.

    `swap`: the file is not in the machine's byte order. Gives how many, at most `limit`, and where the first
    record begins that is cut or impossible.
    """
    read = struct.Struct(("=" if not swap else _OTHER) + "8xI4x").unpack_from
    end, limit, found = min(end, len(data)), min(limit, len(rows) // ROW_WORDS), 0
    while found < limit and end - offset >= RECORD_HEADER:
        (captured,) = read(data, offset)
        if captured > min(MAX_PACKET, end - offset - RECORD_HEADER):
            break
        rows[2 * found], rows[2 * found + 1] = offset + RECORD_HEADER, captured
        found += 1
        offset += RECORD_HEADER + captured
    return found, offset


def pcapng_packets_twin(
    data: Any, offset: int, end: int, swap: bool, interfaces: int, rows: Slots, limit: int
) -> tuple[int, int]:
    """The same for Enhanced Packet Blocks of interfaces 0 to interfaces - 1; stops at any other block."""
    read = struct.Struct(("=" if not swap else _OTHER) + "III8xI").unpack_from
    end, limit, found = min(end, len(data)), min(limit, len(rows) // ROW_WORDS), 0
    while found < limit and end - offset >= EPB_OVERHEAD:
        kind, total, interface, captured = read(data, offset)
        if kind != EPB or total < EPB_OVERHEAD or total & 3 or total > end - offset:
            break
        if data[offset + 4 : offset + 8] != data[offset + total - 4 : offset + total]:
            break
        if captured > total - EPB_OVERHEAD or interface >= interfaces or total > MAX_PACKET:
            break
        rows[2 * found], rows[2 * found + 1] = offset + EPB_HEADER, interface << 32 | captured
        found += 1
        offset += total
    return found, offset


def flow_hash(key: tuple[int, ...]) -> int:
    """The hash of a flow's key: the words SLOT_PORTS and SLOT_ADDRESSES of its slot, five u64."""
    value = sum(word * factor for word, factor in zip(key, _FACTORS, strict=True)) & _U64
    return value ^ value >> 32


def flow_key(version: int, ports: tuple[int, int], source: bytes, target: bytes) -> tuple[int, ...]:
    """The key of a flow's direction. IPv6 addresses are 16 bytes, IPv4 addresses 4 with zeros after them."""
    words = struct.unpack("=4Q", source.ljust(16, b"\0") + target.ljust(16, b"\0"))
    return (version << 32 | ports[0] << 16 | ports[1], *words)


def find_flow(table: Slots, slots: int, key: tuple[int, ...]) -> int:
    """Where the slot of a flow begins, or the free one where it would be; -1 where there is none near."""
    start = flow_hash(key)
    for tries in range(min(slots, MAX_TRIES)):
        at = (start + tries & slots - 1) * SLOT_WORDS
        if not table[at + SLOT_OWNER]:
            return at
        if (
            table[at + SLOT_PORTS] == key[0]
            and tuple(table[at + SLOT_ADDRESSES : at + SLOT_WORDS]) == key[1:]
        ):
            return at
    return -1


class _Batch:
    """What packet_frames works on."""

    __slots__ = ("data", "found", "limit", "offsets", "owners")

    def __init__(self, data: Any, offsets: Slots, owners: Slots, limit: int) -> None:
        self.data = data
        self.offsets = offsets
        self.owners = owners
        self.limit = limit
        self.found = 0

    def put(self, place: int, owner: int, index: int) -> None:
        """Note an EVENT."""
        self.offsets[index] = place
        self.owners[index] = owner


def _take_frames(batch: _Batch, at: int, size: int, slot: Any) -> bool:
    """Whether the frames in data[at:at + size] are all plain EVENTs, which are noted, or need no look."""
    data, found = batch.data, batch.found
    kind, owner = slot[SLOT_OWNER] >> 32, (slot[SLOT_OWNER] & 0xFFFFFFFF) - 1
    if frame_strict_twin(data, at, at + size, [0], 1) != (1, at + size):
        return False
    type = data[at] & 15
    if kind == FLOW_ACKS:
        slot[SLOT_FRAMES] += 1
        return type in (Type.ACK, Type.KEEPALIVE)
    if kind != FLOW_DATA:
        return False
    if type == Type.EVENT:
        if size < _EVENT_HEADER or data[at + 1] or found == batch.limit:
            return False
        batch.put(at, owner, found)
        batch.found += 1
        slot[SLOT_FRAMES] += 1
        return True
    if type != Type.DATA or int.from_bytes(data[at + 4 : at + 8], "big") != slot[SLOT_NEXT]:
        return False
    flags = data[at + 1]
    end = at + size - ((3 if flags & Flag.PADDED else 2) if flags else 0)
    at += 8
    while at < end:
        if end - at < _EVENT_HEADER or found == batch.limit:
            return False
        length = data[at + 2] << 8 | data[at + 3]
        if data[at] != _EVENT or data[at + 1] or not _EVENT_HEADER <= length <= min(MAX_EVENT, end - at):
            return False
        batch.put(at, owner, found)
        found += 1
        at += length
    slot[SLOT_FRAMES] += 1
    slot[SLOT_NEXT] = (slot[SLOT_NEXT] + 1) & 0xFFFFFFFF
    batch.found = found
    return True


def _network_layer(p: Any, link: int) -> tuple[int, int]:
    """Where the network header begins and its ethertype; (0, 0) where that is not plain."""
    size = len(p)
    if link == Link.ETHERNET and size >= 14:
        at, kind = 14, _u16(p, 12)
    elif link == Link.LINUX_SLL and size >= 16:
        at, kind = 16, _u16(p, 14)
    elif link == Link.LINUX_SLL2 and size >= 20:
        at, kind = 20, _u16(p, 0)
    elif link in (Link.NULL, Link.LOOP) and size >= 5:
        family = int.from_bytes(p[:4], "big")
        if link == Link.NULL and family > 255:
            family = int.from_bytes(p[:4], "little")
        at, kind = 4, int(EtherType.IPV4 if p[4] >> 4 == 4 else EtherType.IPV6)
        if FAMILIES.get(family) != kind:
            return 0, 0
    else:
        return 0, 0
    for _ in range(_TAGS):
        if kind in VLANS:
            if size - at < 4:
                return 0, 0
            at, kind = at + 4, _u16(p, at + 2)
    return at, kind


def _u16(p: Any, at: int) -> int:
    return int(p[at] << 8 | p[at + 1])


def packet_frames_twin(
    data: Any,
    rows: Slots,
    start: int,
    count: int,
    swap: bool,
    links: Slots,
    ports: Any,
    any_port: bool,
    raw: int,
    table: Slots,
    offsets: Slots,
    owners: Slots,
    tally: Slots,
) -> tuple[int, int]:
    """Take the packets of rows[start:count] as long as they are plain.

    Plain is a packet of a common link type (at most two VLAN tags), with whole IPv4 or IPv6 whose header is
    sound, and then either of no interest (counted in `tally` by ethertype or protocol), or UDP on a port of
    ours, checksum right or left to the card, of a flow in `table`, that holds the next DATA with plain EVENTs
    or an ACK. `links`: link types by interface; `ports`: a bit each; `any_port`: UDP of any port that looks
    like a frame is of interest, and all TCP; `raw`: owner + 1 of packets that are EVENTs themselves, or 0.

    Fills `offsets` and `owners` for each EVENT; gives the index of the first packet not taken and how many
    EVENTs there are.
    """
    view = memoryview(data)
    batch = _Batch(view, offsets, owners, min(len(offsets), len(owners)))
    count, slots = min(count, len(rows) // ROW_WORDS), len(table) // SLOT_WORDS
    if not 0 <= start <= count or slots & (slots - 1) or len(ports) < 8192 or len(tally) < TALLY_WORDS:
        raise IndexError("packet_frames: start lies outside its buffer, or a table is too short")
    for index in range(start, count):
        offset, captured = rows[2 * index], rows[2 * index + 1] & 0xFFFFFFFF
        interface = rows[2 * index + 1] >> 32
        if offset < 4 or captured > len(view) - offset or interface >= len(links):
            return index, batch.found
        if not _take_packet(
            batch, offset, captured, swap, links[interface], ports, any_port, raw, table, slots, tally
        ):
            return index, batch.found
    return count, batch.found


def _take_packet(
    batch: _Batch,
    offset: int,
    captured: int,
    swap: bool,
    link: int,
    ports: Any,
    any_port: bool,
    raw: int,
    table: Slots,
    slots: int,
    tally: Slots,
) -> bool:
    p = batch.data[offset : offset + captured]
    original = struct.unpack_from(("=" if not swap else _OTHER) + "I", batch.data, offset - 4)[0]
    if link == Link.USER0:
        slot = [raw | FLOW_DATA << 32, 0, 0, 0]
        plain = raw and captured and p[0] & 15 == Type.EVENT and _take_frames(batch, offset, captured, slot)
        tally[TALLY_FRAMES] += bool(plain)
        return bool(plain)
    if link in _RAW:
        at, kind = 0, int(EtherType.IPV6 if captured and p[0] >> 4 == 6 else EtherType.IPV4)
        if not captured:
            return False
    else:
        at, kind = _network_layer(p, link)
        if not at:
            return False
    if kind <= 1500 or kind in VLANS:
        return False
    ip = p[at:]
    whole = max(original, captured) - at
    if kind == EtherType.IPV4:
        if len(ip) < 20 or ip[0] >> 4 != 4:
            return False
        header, total, protocol = (ip[0] & 15) * 4, _u16(ip, 2), ip[9]
        if not 20 <= header <= len(ip) or not header <= total <= whole:
            return False
        if _u16(ip, 6) & _FRAGMENTED or checksum(ip[:header]):
            return False
        source, target = bytes(ip[12:16]), bytes(ip[16:20])
    elif kind == EtherType.IPV6:
        if len(ip) < 40 or ip[0] >> 4 != 6:
            return False
        header, total, protocol = 40, _u16(ip, 4) + 40, ip[6]
        if total == 40 or total > whole or protocol in _LATER:
            return False
        source, target = bytes(ip[8:24]), bytes(ip[24:40])
    else:
        tally[kind] += 1
        return True
    if protocol not in (Protocol.TCP, Protocol.UDP):
        tally[TALLY_PROTOCOL + protocol] += 1
        return True
    cut = total > len(ip)
    segment = ip[header:total]
    if len(segment) < (20 if protocol == Protocol.TCP else 8):
        return False
    pair = _u16(segment, 0), _u16(segment, 2)
    ours = any(ports[port >> 3] >> (port & 7) & 1 for port in pair)
    if protocol == Protocol.TCP and (ours or any_port):
        return False
    likely = cut or (len(segment) >= 16 and segment[8] >> 4 == VERSION and segment[8] & 15 in TYPES)
    if not ours and (protocol == Protocol.TCP or not any_port or not likely):
        tally[TALLY_PROTOCOL + protocol] += 1
        return True
    length = _u16(segment, 4)
    if cut or not 8 <= length <= len(segment):
        return False
    key = flow_key(4 if kind == EtherType.IPV4 else 6, pair, source, target)
    place = find_flow(table, slots, key) if slots else -1
    if place < 0 or not table[place]:
        return False
    found = _u16(segment, 6)
    note = 0
    if not found:
        note = TALLY_UNSUMMED
    else:
        pseudo = source + target + struct.pack(">II", length, protocol)
        if checksum(pseudo + bytes(segment[:length])):
            if found != checksum(pseudo) ^ 0xFFFF:
                return False
            note = TALLY_PARTIAL
    view = memoryview(table)[place : place + SLOT_WORDS]
    before = view[SLOT_FRAMES]
    if not _take_frames(batch, offset + at + header + 8, length - 8, view):
        view[SLOT_FRAMES] = before
        return False
    tally[TALLY_FRAMES] += view[SLOT_FRAMES] - before
    if note:
        tally[note] += 1
    return True


pcap_walk = native.pcap_walk or pcap_walk_twin
pcapng_packets = native.pcapng_packets or pcapng_packets_twin
packet_frames = native.packet_frames or packet_frames_twin
