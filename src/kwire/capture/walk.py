"""The Python twins of the C walkers that captures use; they are the specification of `native/walk.c`.

Invariants, as of all walkers: no byte outside the buffers, a stop before the first thing that is not
understood, no state kept. `epb_pack`, `pcapng_walk` and `count_by_id` are the C functions where the library
is there.
"""

import struct
import sys
from array import array

from kwire import native
from kwire.capture.pcapng import MAX_BLOCK
from kwire.hints import Any, Final, TypeAlias
from kwire.wire.frame import MAX_EVENT, VERSION, Type

Slots: TypeAlias = "array[int] | memoryview"

EPB: Final = 6
EPB_HEADER: Final = 28  # type, total, interface, time high, time low, captured, original: u32 each
EPB_OVERHEAD: Final = 32
EPB_DROPCOUNT: Final = 4
DROPCOUNT_SPACE: Final = 16  # option header, u64, end of options

# A probe's row in the table of epb_pack: u64 each.
ROW_WALL: Final = 0  # added to a timestamp, modulo 2**64, to make it wall-clock nanoseconds
ROW_SWAP: Final = 1  # 1: the record's byte order is not the machine's
ROW_STORED: Final = 2  # events packed so far
ROW_DROPS: Final = 3  # events lost before the next one: it gets an epb_dropcount
ROW_WORDS: Final = native.ROW_WORDS

# An id's row in the table of count_by_id: u64 each.
COUNT: Final = 0
FIRST: Final = 1
LAST: Final = 2
COUNT_WORDS: Final = native.COUNT_WORDS

_EVENT = VERSION << 4 | Type.EVENT
_EVENT_HEADER = 16  # frame header and timestamp
_U64 = (1 << 64) - 1
_OTHER = ">" if sys.byteorder == "little" else "<"
_head = struct.Struct("=7I")
_dropcount = struct.Struct("=HHQI")
_frame = struct.Struct(">BBHI")


def event_length(data: Any, size: int, offset: int) -> int:
    """The length of the EVENT that begins at `offset` and lies inside `size` bytes, 0 where none does."""
    if size - offset < _EVENT_HEADER:
        return 0
    kind, _, length, _ = _frame.unpack_from(data, offset)
    if kind != _EVENT or length < _EVENT_HEADER or length > size - offset:
        return 0
    return int(length)


def epb_pack_twin(
    data: Any, offsets: Slots, start: int, count: int, rows: Slots, out: Any, position: int
) -> tuple[int, int]:
    """EVENT frames offsets[start:count] of `data` to Enhanced Packet Blocks in the machine's byte order.

    Interface = probe number - 1; time = the record's timestamp + the row's wall. Stops at a frame that is no
    whole EVENT of a probe with a row, or that does not fit into `out` any more. Gives the index of the first
    frame not taken and the position after the last block written.
    """
    size, room, probes = len(data), len(out), len(rows) // ROW_WORDS
    count = min(count, len(offsets))
    if not (0 <= start <= count and 0 <= position <= room):
        raise IndexError("epb_pack: start or position lies outside its buffer")
    for index in range(start, count):
        offset = offsets[index]
        length = event_length(data, size, offset)
        if not length:
            return index, position
        interface = int.from_bytes(data[offset + 4 : offset + 8], "big") - 1
        if not 0 <= interface < probes:
            return index, position
        row = interface * ROW_WORDS
        drops = rows[row + ROW_DROPS]
        padded = (length + 3) & ~3
        total = EPB_OVERHEAD + padded + (_dropcount.size if drops else 0)
        if total > room - position:
            return index, position
        order = _OTHER if rows[row + ROW_SWAP] else "="
        time = (struct.unpack_from(order + "Q", data, offset + 8)[0] + rows[row + ROW_WALL]) & _U64
        _head.pack_into(out, position, EPB, total, interface, time >> 32, time & 0xFFFFFFFF, length, length)
        position += EPB_HEADER
        out[position : position + length] = data[offset : offset + length]
        out[position + length : position + padded] = bytes(padded - length)
        position += padded
        if drops:
            _dropcount.pack_into(out, position, EPB_DROPCOUNT, 8, drops, 0)
            position += _dropcount.size
            rows[row + ROW_DROPS] = 0
        struct.pack_into("=I", out, position, total)
        position += 4
        rows[row + ROW_STORED] += 1
    return count, position


def pcapng_walk_twin(
    data: Any, offset: int, end: int, swap: bool, interfaces: int, offsets: Slots, limit: int
) -> tuple[int, int]:
    """Enhanced Packet Blocks in data[offset:end] that hold exactly one whole EVENT without flags.

    `swap`: the section is not in the machine's byte order; `interfaces`: how many it has. Fills `offsets`
    with the places of the frames and gives their number and where the first block not taken begins: another
    kind, cut, or unsound.
    """
    order = _OTHER if swap else "="
    read = struct.Struct(order + "III8xI").unpack_from
    end, limit, found = min(end, len(data)), min(limit, len(offsets)), 0
    while found < limit and end - offset >= EPB_OVERHEAD:
        kind, total, interface, captured = read(data, offset)
        if kind != EPB or total < EPB_OVERHEAD or total & 3 or total > min(end - offset, MAX_BLOCK):
            break
        if data[offset + 4 : offset + 8] != data[offset + total - 4 : offset + total]:
            break
        frame = offset + EPB_HEADER
        if (
            interface >= interfaces
            or not captured
            or captured > min(total - EPB_OVERHEAD, MAX_EVENT)
            or data[frame + 1]
        ):
            break
        if event_length(data, frame + captured, frame) != captured:
            break
        offsets[found] = frame
        found += 1
        offset += total
    return found, offset


def count_by_id_twin(data: Any, offsets: Slots, count: int, table: Slots, swap: bool = False) -> int:
    """Add the EVENTs among the frames to `table`: COUNT, FIRST and LAST timestamp in a row a probe number.

    Numbers beyond the table are left out, and so are frames that are no whole EVENT. Gives how many counted.
    """
    order = (_OTHER if swap else "=") + "Q"
    size, ids, counted = len(data), len(table) // COUNT_WORDS, 0
    for index in range(min(count, len(offsets))):
        offset = offsets[index]
        if not event_length(data, size, offset):
            continue
        id = int.from_bytes(data[offset + 4 : offset + 8], "big")
        if id >= ids:
            continue
        time = struct.unpack_from(order, data, offset + 8)[0]
        row = id * COUNT_WORDS
        empty = not table[row]
        if empty or time < table[row + FIRST]:
            table[row + FIRST] = time
        if empty or time > table[row + LAST]:
            table[row + LAST] = time
        table[row] += 1
        counted += 1
    return counted


epb_pack = native.epb_pack or epb_pack_twin
pcapng_walk = native.pcapng_walk or pcapng_walk_twin
count_by_id = native.count_by_id or count_by_id_twin
