"""Captures made to measure readers with: many packets, quickly, the same at each run.

Invariants: nothing is random but by a number that is always the same. In `capture` and `network` everything
is sound, checksums included, and they are made with numpy, whole columns at a time; `realistic` has what
networks and those who capture do to packets. `TICK` is the probe whose events they hold.
"""

import struct
import sys
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kwire.capture import pcapng
from kwire.packets.tables import KWIRE_PORT, Protocol
from kwire.wire.frame import HEADER_SIZE, Flag, Type, build, checksum
from kwire.wire.schema import Clock, Field, Schema

if TYPE_CHECKING:
    from random import Random

    import numpy as np

    Bytes = np.ndarray[Any, Any]

WALL: Final = 1_700_000_000_000_000_000
EVENT_SIZE: Final = 48
STEP: Final = 1000  # ns between two events

_FIELDS = (
    Field("pid", "u32", 16, 4),
    Field("tid", "u32", 20, 4),
    Field("comm", "str", 28, 4, limit=16),
    Field("size", "s32", 24, 4),
    Field("cpu", "u16", 32, 2),
)
TICK: Final = Schema(
    *(1, "tracepoint:sample:tick", "tracepoint", "sample:tick", _FIELDS, 34),
    order=sys.byteorder,
    clock=Clock("monotonic", 0, WALL),
    host="sample",
    kernel="0",
)


def events(count: int, first: int = 0) -> "Bytes":
    """`count` EVENT frames of TICK, a row each."""
    import numpy as np

    one = struct.pack(">BBHI", 0x11, 0, EVENT_SIZE, TICK.id) + bytes(8)
    one += struct.pack("=IIiHHH", 4242, 4243, 0, 34, 4, 0) + b"load"
    rows = np.tile(np.frombuffer(one.ljust(EVENT_SIZE, b"\0"), np.uint8), (count, 1))
    number = np.arange(first, first + count, dtype=np.uint64)
    _put(rows, 8, number * STEP)
    _put(rows, 24, (number % 1500).astype(np.int32))
    _put(rows, 32, (number % 4).astype(np.uint16))
    return rows


def capture(count: int, first: int = 0) -> bytes:
    """A capture of ours with `count` events; `first`: not its beginning, but what follows so many events."""
    import numpy as np

    head = b"".join(
        [
            pcapng.section([]),
            pcapng.interface(TICK.probe),
            *(pcapng.packet(0, WALL, frame) for frame in TICK.frames()),
        ]
    )
    frames = events(count, first)
    rows = np.tile(np.frombuffer(pcapng.packet(0, 0, bytes(EVENT_SIZE)), np.uint8), (count, 1))
    rows[:, 28 : 28 + EVENT_SIZE] = frames
    time = np.arange(first, first + count, dtype=np.uint64) * STEP + np.uint64(WALL)
    _put(rows, 12, (time >> np.uint64(32)).astype(np.uint32))
    _put(rows, 16, (time & np.uint64(0xFFFFFFFF)).astype(np.uint32))
    return (b"" if first else head) + rows.tobytes()


def network(count: int, first: int = 0) -> bytes:
    """A pcap file of Ethernet with about `count` packets: half are datagrams with a DATA frame of one event.

    The others are TCP, DNS, ARP and IPv6, as small as they come. `first`: what follows so many packets.
    """
    import numpy as np

    groups, start = count // 8, first // 8
    number = np.arange(start * 4, (start + groups) * 4, dtype=np.uint64)
    data = _data(number)
    others = [np.frombuffer(_record(packet), np.uint8) for packet in _others()]
    width = data.shape[1]
    parts = []
    for index, other in enumerate(others):
        parts += [data.reshape(groups, 4, width)[:, index], np.tile(other, (groups, 1))]
    return (b"" if first else _head()) + np.concatenate(parts, axis=1).tobytes()


class Mix(NamedTuple):
    """A pcap file, how many packets are in it, and how many events can be found in them."""

    data: bytes
    packets: int
    events: int


SOURCES: Final = 1000  # agents on UDP …
STREAMS: Final = 100  # … and on TCP
APART: Final = 50  # µs between two packets of a mix
SEGMENT: Final = 1448
TCP_DATA: Final = 250  # events of a DATA frame on TCP


def realistic(count: int) -> Mix:
    """About `count` packets as a tap sees them.

    Two of five are UDP datagrams of 1,000 agents with one to four events each; one of five is a segment of
    100 TCP connections; the others are no business of ours: streams, datagrams, name servers, ARP, IPv6. Of
    ours 1 in 200 is missing and 1 in 100 late; every other flow has its checksums left to the card, every
    tenth a VLAN.
    """
    from random import Random

    source, out = Random(1), [struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)]
    agents = [_Agent(number) for number in range(SOURCES)]
    streams = [_Stream(number) for number in range(STREAMS)]
    others = [_record(packet) for packet in (*_others(), *_large())]
    late: list[tuple[int, bytes]] = []
    packets = 0

    def captured(record: bytes) -> None:
        nonlocal packets
        out.append(_at(packets * APART) + record[8:])
        packets += 1

    while packets < count:
        choice, record = source.random(), b""
        if choice < 0.4:
            record = agents[source.randrange(SOURCES)].next(source)
        elif choice < 0.6:
            record = streams[source.randrange(STREAMS)].next(source)
        else:
            record = others[source.randrange(len(others))]
        if record and choice < 0.6 and packets > count // 20 and source.random() < 0.01:
            late.append((packets + source.randrange(1, 40), record))
            record = b""
        while late and late[0][0] <= packets:
            captured(late.pop(0)[1])
        if record:
            captured(record)
    for _, record in late:
        captured(record)
    found = sum(one.found() for one in (*agents, *streams))
    return Mix(b"".join(out), packets, found)


class _Flow(ABC):
    """One of the agents of a mix."""

    def __init__(self, number: int, protocol: int) -> None:
        self.ends = bytes([10, 1, number >> 8, number & 255, 10, 0, 0, 2])
        self.port, self.protocol = 20000 + number, protocol
        self.partial, self.tagged = number % 2 == 1, number % 10 == 3
        self.sequence = self.made = 0

    @abstractmethod
    def found(self) -> int:
        """Events that can be found."""

    def frame(self, count: int) -> bytes:
        """DATA with the next events; the first one has the schema."""
        payload = b"" if self.sequence else b"".join(TICK.frames())
        for number in range(self.made, self.made + count):
            head = struct.pack("=QIIiHHH", number * STEP, 4242, 4243, number % 1500, 34, 4, number % 4)
            payload += struct.pack(">BBHI", 0x11, 0, EVENT_SIZE, TICK.id) + (head + b"load").ljust(40, b"\0")
        self.made += count
        self.sequence += 1
        flags = Flag.CHECKSUM if self.protocol == Protocol.UDP else 0
        return build(Type.DATA, self.sequence - 1, payload, flags)

    def record(self, segment: bytes, at: int) -> bytes:
        """A record with this segment, whose checksum stands `at` and is right, or left to the card."""
        pseudo = self.ends + struct.pack(">II", self.protocol, len(segment))
        value = checksum(pseudo) ^ 0xFFFF if self.partial else checksum(pseudo + segment) or 0xFFFF
        segment = segment[:at] + value.to_bytes(2, "big") + segment[at + 2 :]
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(segment), 0, 0x4000, 64, self.protocol, 0)
        head += self.ends
        if not self.partial:
            head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
        tag = b"\x81\0\0\7" if self.tagged else b""
        return _record((bytes(range(12)) + tag + b"\x08\0" + head + segment).ljust(60, b"\0"))


class _Agent(_Flow):
    """On UDP."""

    def __init__(self, number: int) -> None:
        super().__init__(number, Protocol.UDP)
        self._missing = 0

    def next(self, source: "Random") -> bytes:
        """The next datagram; nothing where it is missing."""
        first, count = not self.sequence, source.randrange(1, 5)
        frame = self.frame(count)
        if not first and source.random() < 0.005:
            self._missing += count
            return b""
        return self.record(struct.pack(">HHHH", self.port, KWIRE_PORT, 8 + len(frame), 0) + frame, 6)

    def found(self) -> int:
        """Events that can be found."""
        return self.made - self._missing


class _Stream(_Flow):
    """On TCP."""

    def __init__(self, number: int) -> None:
        super().__init__(number, Protocol.TCP)
        self._at = self._end = 0  # bytes captured or missing so far; and of frames
        self._rest = b""
        self._frames: list[tuple[int, int]] = []  # where each begins and ends
        self._holes: list[int] = []

    def next(self, source: "Random") -> bytes:
        """The next segment; nothing where it is missing."""
        if not self._end:
            self._add()
            return self._segment(b"", 0, 2)
        if len(self._rest) < SEGMENT:
            self._add()
        part, self._rest, at = self._rest[:SEGMENT], self._rest[SEGMENT:], self._at
        self._at += len(part)
        if at > self._frames[0][1] and source.random() < 0.005:
            self._holes.append(at)
            return b""
        return self._segment(part, at + 1, 0x18)

    def found(self) -> int:
        """Events in frames of which no byte is missing."""
        last = max(self._at - SEGMENT if self._at - SEGMENT in self._holes else self._at, 0)
        whole = [
            (start, end)
            for start, end in self._frames
            if end <= last and not any(start < hole + SEGMENT and hole < end for hole in self._holes)
        ]
        return TCP_DATA * len(whole)

    def _add(self) -> None:
        frame = self.frame(TCP_DATA)
        self._frames.append((self._end, self._end + len(frame)))
        self._end += len(frame)
        self._rest += frame

    def _segment(self, payload: bytes, at: int, flags: int) -> bytes:
        head = struct.pack(">HHIIBBHHH", self.port, KWIRE_PORT, at, 1, 0x50, flags, 65535, 0, 0)
        return self.record(head + payload, 16)


def _head() -> bytes:
    """The header of a pcap file, and a datagram with the schema."""
    header = struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    frame = build(Type.DATA, 0, b"".join(TICK.frames()))
    return header + _record(_ethernet(_ipv4(_udp(frame))))


def _data(number: "Bytes") -> "Bytes":
    """Datagrams with DATA 1 + number and event `number`, as records of a pcap file."""
    import numpy as np

    empty = build(Type.DATA, 0, bytes(EVENT_SIZE))
    packet = _ethernet(_ipv4(_udp(empty)))
    rows = np.tile(np.frombuffer(_record(packet), np.uint8), (len(number), 1))
    frame = rows.shape[1] - len(empty)
    _put(rows, frame + 4, (number + np.uint64(1)).astype(">u4"))
    rows[:, frame + HEADER_SIZE :] = events(len(number), int(number[0]))
    udp = frame - 8
    words = rows[:, udp:].copy().view(">u2").astype(np.uint32)
    words[:, 3] = 0
    pseudo = np.frombuffer(packet[26:34], ">u2").sum(dtype=np.uint32) + 17 + rows.shape[1] - udp
    total = words.sum(axis=1, dtype=np.uint32) + np.uint32(pseudo)
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    _put(rows, udp + 6, (0xFFFF - total).astype(">u2"))
    return rows


def _others() -> list[bytes]:
    """Packets without frames."""
    tcp = struct.pack(">HHIIBBHHH", 443, 50000, 1, 1, 0x50, 0x10, 501, 0, 0)
    arp = struct.pack(">HHBBH20s", 1, 0x0800, 6, 4, 1, bytes(20))
    six = struct.pack(">IHBB32s", 0x60000000, len(tcp), 6, 64, bytes(range(32))) + tcp
    return [
        _ethernet(_ipv4(tcp, 6)),
        _ethernet(_ipv4(struct.pack(">HHHH", 53, 50001, 20, 0) + bytes(12))),
        _ethernet(arp, 0x0806),
        _ethernet(six, 0x86DD),
    ]


def _large() -> list[bytes]:
    """Full packets without frames."""
    tcp = struct.pack(">HHIIBBHHH", 443, 50000, 1, 1, 0x50, 0x18, 501, 0, 0) + bytes(SEGMENT)
    quic = struct.pack(">HHHH", 443, 50001, 1208, 0) + bytes(1200)
    return [_ethernet(_ipv4(tcp, 6)), _ethernet(_ipv4(quic))]


def _ethernet(packet: bytes, kind: int = 0x0800) -> bytes:
    return (bytes(range(12)) + struct.pack(">H", kind) + packet).ljust(60, b"\0")


def _ipv4(payload: bytes, protocol: int = 17) -> bytes:
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0, *_ADDRESSES)
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + payload


def _udp(payload: bytes) -> bytes:
    head = struct.pack(">HHHH", 40000, KWIRE_PORT, 8 + len(payload), 0)
    pseudo = b"".join(_ADDRESSES) + struct.pack(">II", 17, 8 + len(payload))
    return head[:6] + checksum(pseudo + head + payload).to_bytes(2, "big") + payload


def _record(packet: bytes) -> bytes:
    return _at(0) + struct.pack("=II", len(packet), len(packet)) + packet


def _at(microseconds: int) -> bytes:
    """The time of a record, so long after WALL."""
    seconds, rest = divmod(microseconds, 1_000_000)
    return struct.pack("=II", WALL // 1_000_000_000 + seconds, rest)


def _put(rows: "Bytes", at: int, values: "Bytes") -> None:
    """A column of numbers into the rows."""
    size = values.dtype.itemsize
    rows[:, at : at + size] = values.reshape(-1, 1).view("u1").reshape(len(rows), size)


_ADDRESSES = (bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]))
