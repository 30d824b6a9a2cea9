"""How many frames of each probe and map there are: EVENTs, and TABLEs of maps, which are accounted for alike.

Invariant: what is counted is what a LOST frame of that number may stand for.
"""

from kwire.capture import walk
from kwire.hints import Any
from kwire.wire.frame import HEADER_SIZE, Flag, Frame, Type, read_header
from kwire.wire.messages import TOTALS
from kwire.wire.tables import time_of


def count_frames(data: Any, offsets: walk.Slots, count: int, table: walk.Slots, swap: bool = False) -> int:
    """Add the EVENTs and TABLEs among frames to a table as `walk.count_by_id` has it; how many counted."""
    counted = walk.count_by_id(data, offsets, count, table, swap)
    if counted == count:
        return counted
    rows, view = len(table) // walk.COUNT_WORDS, memoryview(data).cast("B")
    for index in range(count):
        header = read_header(view, offsets[index])
        if not is_table(header.type, header.id) or header.id >= rows:
            continue
        time, row = time_of(table_frame(view, offsets[index])), header.id * walk.COUNT_WORDS
        empty = not table[row + walk.COUNT]
        table[row + walk.FIRST] = time if empty else min(time, table[row + walk.FIRST])
        table[row + walk.LAST] = time if empty else max(time, table[row + walk.LAST])
        table[row + walk.COUNT] += 1
        counted += 1
    return counted


def is_table(type: int, id: int) -> bool:
    """Whether a frame of this type and id is a TABLE of a map; those of no map tell totals."""
    return type == Type.TABLE and id != TOTALS


def table_frame(view: memoryview, offset: int) -> Frame:
    """The frame at an offset, which is whole there; its payload is without padding and checksum."""
    header = read_header(view, offset)
    end = offset + header.length
    if header.flags & Flag.CHECKSUM:
        end -= 3 if header.flags & Flag.PADDED else 2
    return Frame(offset, header, bytes(view[offset + HEADER_SIZE : end]))
