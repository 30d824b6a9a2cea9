"""Frames changed and moved in bulk: the Python twins of the C walkers for it, and which of the two is used.

The laws are the walkers' (native/walk.c): no byte outside the buffers is touched, whatever the lengths in
them claim; a walker stops before the first frame that it does not understand and says where; no state is
kept. The twins are the specification.
"""

from typing import Any, Final, TypeAlias

from kwire import native
from kwire.wire.frame import HEADER_SIZE, VERSION, Flag, Type, checksum, inspect

Slots: TypeAlias = Any  # a buffer of u64: array('Q'), a memoryview cast to 'Q'

NUMBERED: Final = frozenset({Type.EVENT, Type.SCHEMA, Type.LOST, Type.TABLE})  # theirs is a probe's or map's


def frame_length(data: Any, size: int, offset: int) -> int:
    """The length of the frame that begins at `offset` and lies inside `size` bytes, 0 where none does."""
    if size - offset < HEADER_SIZE:
        return 0
    length = data[offset + 2] << 8 | data[offset + 3]
    return length if HEADER_SIZE <= length <= size - offset else 0


def patch_sum(checksum: int, old: int, new: int) -> int:
    """What a checksum is after a word of the bytes it covers changed (RFC 1624, equation 3)."""
    total = (~checksum & 0xFFFF) + (~old & 0xFFFF) + new
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def frame_renumber_twin(data: Any, offsets: Slots, start: int, count: int, table: Slots) -> int:
    """Give the frames offsets[start:count] of `data` new probe numbers, in place: `table[id]` for `id`.

    EVENT, SCHEMA, LOST and TABLE frames are changed, and their checksums brought up to date; other types and
    id 0 stay as they are. Stops at a frame that is not whole or of another version, or whose id has no entry:
    it is beyond the table or has 0 there. Gives the index of the first frame not taken.
    """
    size, count = len(data), min(count, len(offsets))
    if not 0 <= start <= count:
        raise IndexError("frame_renumber: start lies outside its buffer")
    for index in range(start, count):
        offset = offsets[index]
        length = frame_length(data, size, offset)
        if not length or data[offset] >> 4 != VERSION:
            return index
        id = int.from_bytes(data[offset + 4 : offset + 8], "big")
        if data[offset] & 15 not in NUMBERED or not id:
            continue
        new = table[id] & 0xFFFFFFFF if id < len(table) else 0
        if not new:
            return index
        data[offset + 4 : offset + 8] = new.to_bytes(4, "big")
        if data[offset + 1] & Flag.CHECKSUM and length >= HEADER_SIZE + 2:
            end = offset + length
            value = int.from_bytes(data[end - 2 : end], "big")
            value = patch_sum(patch_sum(value, id >> 16, new >> 16), id & 0xFFFF, new & 0xFFFF)
            data[end - 2 : end] = value.to_bytes(2, "big")
    return count


def frame_gather_twin(
    data: Any, offsets: Slots, start: int, count: int, out: Any, position: int
) -> tuple[int, int]:
    """Copy the frames offsets[start:count] of `data` back to back into `out`, from `position` on.

    Stops at a frame that is not whole, or that does not fit any more. Gives the index of the first frame not
    taken and the position after the last byte written.
    """
    size, room, count = len(data), len(out), min(count, len(offsets))
    if not (0 <= start <= count and 0 <= position <= room):
        raise IndexError("frame_gather: start or position lies outside its buffer")
    for index in range(start, count):
        offset = offsets[index]
        length = frame_length(data, size, offset)
        if not length or length > room - position:
            return index, position
        out[position : position + length] = data[offset : offset + length]
        position += length
    return count, position


def frame_strict_twin(data: Any, offset: int, end: int, offsets: Slots, limit: int) -> tuple[int, int]:
    """Find the frames back to back in data[offset:end] that `frame.inspect` finds nothing wrong with.

    Gives how many, at most `limit`, and where the first other one begins, or where the bytes end.
    """
    view = memoryview(data)[: min(end, len(data))]
    limit, found = min(limit, len(offsets)), 0
    while found < limit and len(view) - offset >= HEADER_SIZE:
        frame, problems = inspect(view, offset)
        if frame is None or problems:
            break
        offsets[found] = offset
        found += 1
        offset += frame.header.length
    return found, offset


def frame_headers_twin(data: Any, offsets: Slots, count: int, out: Slots) -> int:
    """The headers of frames as numbers: version 4 bits, type 4, flags 8, length 16, id 32, from the top.

    Stops at a frame that is not whole; gives how many were read.
    """
    size, count = len(data), min(count, len(offsets), len(out))
    for index in range(count):
        offset = offsets[index]
        if not frame_length(data, size, offset):
            return index
        out[index] = int.from_bytes(data[offset : offset + HEADER_SIZE], "big")
    return count


def frame_checksums_twin(data: Any, offsets: Slots, count: int, out: Slots) -> int:
    """The RFC 1071 checksums of whole frames. Stops at one that is not whole; gives how many there are."""
    size, count = len(data), min(count, len(offsets), len(out))
    for index in range(count):
        offset = offsets[index]
        length = frame_length(data, size, offset)
        if not length:
            return index
        out[index] = checksum(data[offset : offset + length])
    return count


frame_renumber = native.frame_renumber or frame_renumber_twin
frame_gather = native.frame_gather or frame_gather_twin
frame_strict = native.frame_strict or frame_strict_twin
frame_headers = native.frame_headers or frame_headers_twin
frame_checksums = native.frame_checksums or frame_checksums_twin
