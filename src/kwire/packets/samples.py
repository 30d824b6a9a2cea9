"""Captures made to measure readers with: many packets, quickly, the same at each run.

The laws: everything in them is sound, checksums included; nothing is random. They are made with numpy, whole
columns at a time. `TICK` is the probe whose events they hold.
"""

import struct
import sys
from typing import TYPE_CHECKING, Any, Final

from kwire.capture import pcapng
from kwire.packets.tables import KWIRE_PORT
from kwire.wire.frame import HEADER_SIZE, Type, build
from kwire.wire.schema import Clock, Field, Schema

if TYPE_CHECKING:
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


def _ethernet(packet: bytes, kind: int = 0x0800) -> bytes:
    return (bytes(range(12)) + struct.pack(">H", kind) + packet).ljust(60, b"\0")


def _ipv4(payload: bytes, protocol: int = 17) -> bytes:
    from kwire.wire.frame import checksum

    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0, *_ADDRESSES)
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + payload


def _udp(payload: bytes) -> bytes:
    from kwire.wire.frame import checksum

    head = struct.pack(">HHHH", 40000, KWIRE_PORT, 8 + len(payload), 0)
    pseudo = b"".join(_ADDRESSES) + struct.pack(">II", 17, 8 + len(payload))
    return head[:6] + checksum(pseudo + head + payload).to_bytes(2, "big") + payload


def _record(packet: bytes) -> bytes:
    return struct.pack("=IIII", WALL // 1_000_000_000, 0, len(packet), len(packet)) + packet


def _put(rows: "Bytes", at: int, values: "Bytes") -> None:
    """A column of numbers into the rows."""
    size = values.dtype.itemsize
    rows[:, at : at + size] = values.reshape(-1, 1).view("u1").reshape(len(rows), size)


_ADDRESSES = (bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]))
