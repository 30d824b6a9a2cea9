"""The packets of pcap and pcapng files as rows: the Python twins of the C walkers in `native/records.c`.

Invariants, as of all walkers: no byte outside the buffers, a stop before the first thing that is not
understood, no state but what is handed in. A row has four u64: where the packet's bytes lie; its time in
ns since 1970 (NO_TIME: none); how many bytes there are, and above 32 bits how many there were on the
network; its link type, and above 32 bits how many bytes of its record stand before it. An interface has
four, too: link type, ticks a second, seconds to add, and where its last statistics were seen, and 1 (0:
nowhere).
"""

import struct
import sys
from array import array
from collections.abc import Iterable
from typing import Any, Final, TypeAlias

from kwire import native
from kwire.capture.pcapng import Block, Units
from kwire.capture.walk import EPB_HEADER, EPB_OVERHEAD
from kwire.packets.tables import MAX_PACKET, LinkType

Rows: TypeAlias = Any  # a buffer of u64

RECORD_HEADER: Final = 16
ROW_WORDS: Final = native.PACKET_WORDS
FACE_WORDS: Final = native.FACE_WORDS
FACE_TOLD: Final = 3
SWAPPED: Final = 1  # there, for a pcap file: the lengths of a record stand the other way round …
EITHER: Final = 2  # … or either way: the captured one is not greater
NO_TIME: Final = (1 << 64) - 1
SIMPLE_HEADER: Final = 12

_OTHER = ">" if sys.byteorder == "little" else "<"
_U64 = (1 << 64) - 1
_STOPS = frozenset({Block.SECTION, Block.INTERFACE, Block.PACKET_OLD})


def faces(interfaces: Iterable[tuple[int, Units]]) -> "array[int]":
    """Interfaces, link types and units, as the walkers want them; a rate beyond 64 bits is their greatest."""
    words = array("Q")
    for link, units in interfaces:
        words.extend((link, min(units.rate, _U64), units.offset & _U64, 0))
    return words


def _nanoseconds(ticks: int, rate: int, offset: int) -> int:
    return (offset * 1_000_000_000 + (ticks * 1_000_000_000 // rate if rate else 0)) & _U64


def pcap_rows_twin(
    data: Any, offset: int, end: int, swap: bool, known: Rows, rows: Rows, limit: int
) -> tuple[int, int]:
    """The records of a pcap file in data[offset:end], as rows; `known`: its one interface.

    `swap`: the file is not in the machine's byte order. Gives how many, at most `limit`, and where the first
    record begins that is cut or impossible.
    """
    read = struct.Struct(("=" if not swap else _OTHER) + "4I").unpack_from
    end, limit, found = min(end, len(data)), min(limit, len(rows) // ROW_WORDS), 0
    while len(known) and found < limit and end - offset >= RECORD_HEADER:
        seconds, fraction, captured, original = read(data, offset)
        if known[FACE_TOLD] == SWAPPED or (known[FACE_TOLD] == EITHER and captured > original):
            captured, original = original, captured
        if captured > min(MAX_PACKET, end - offset - RECORD_HEADER):
            break
        ticks = seconds * known[1] + fraction & _U64
        _row(
            rows,
            found,
            offset,
            RECORD_HEADER,
            _nanoseconds(ticks, known[1], known[2]),
            captured,
            original,
            known[0],
        )
        found += 1
        offset += RECORD_HEADER + captured
    return found, offset


def pcapng_rows_twin(
    data: Any, offset: int, end: int, swap: bool, known: Rows, snaplen: int, rows: Rows, limit: int
) -> tuple[int, int]:
    """The same for the packet blocks of a section, enhanced and simple; `known`: its interfaces.

    Statistics of an interface are noted in it, the last ones only; other blocks that hold no packets are
    passed. Stops before a section header, an interface, an obsolete packet, a packet of frames as they are,
    and whatever is cut or not sound. `snaplen`: of interface 0.
    """
    order = "=" if not swap else _OTHER
    head, packet = struct.Struct(order + "II").unpack_from, struct.Struct(order + "8x5I").unpack_from
    word = struct.Struct(order + "8xI").unpack_from
    end, limit, found = min(end, len(data)), min(limit, len(rows) // ROW_WORDS), 0
    count = len(known) // FACE_WORDS
    while found < limit and end - offset >= 12:
        kind, total = head(data, offset)
        if kind in _STOPS or total < 12 or total & 3 or total > min(MAX_PACKET, end - offset):
            break
        if data[offset + 4 : offset + 8] != data[offset + total - 4 : offset + total]:
            break
        if kind == Block.PACKET:
            if total < EPB_OVERHEAD:
                break
            interface, high, low, captured, original = packet(data, offset)
            if interface >= count or captured > total - EPB_OVERHEAD:
                break
            link, rate, shift = known[FACE_WORDS * interface : FACE_WORDS * interface + 3]
            if link == LinkType.USER0:
                break
            time = _nanoseconds(high << 32 | low, rate, shift)
            _row(rows, found, offset, EPB_HEADER, time, captured, original, link)
            found += 1
        elif kind == Block.PACKET_SIMPLE:
            if total < 16 or not count or known[0] == LinkType.USER0:
                break
            (original,) = word(data, offset)
            captured = min(original, snaplen or original, total - 16)
            _row(rows, found, offset, SIMPLE_HEADER, NO_TIME, captured, original, known[0])
            found += 1
        elif kind == Block.STATISTICS:
            if total < 24:
                break
            (interface,) = word(data, offset)
            if interface < count:
                known[FACE_WORDS * interface + FACE_TOLD] = offset + 1
        offset += total
    return found, offset


def _row(
    rows: Rows, at: int, offset: int, head: int, time: int, captured: int, original: int, link: int
) -> None:
    rows[4 * at], rows[4 * at + 1] = offset + head, time
    rows[4 * at + 2], rows[4 * at + 3] = original << 32 | captured, head << 32 | link


pcap_rows = native.pcap_rows or pcap_rows_twin
pcapng_rows = native.pcapng_rows or pcapng_rows_twin
