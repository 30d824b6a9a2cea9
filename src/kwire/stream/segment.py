"""A segment of a spool: one append-only file of payloads with numbers and checksums.

A file is a header and records, integers in little-endian order:

    header  magic 8 bytes · id of the spool 16 bytes · number of the first record u64
    record  CRC-32 of the rest of the record u32 · payload's length u32 · number u64 · payload

The laws: the numbers of the records in a segment follow each other; a record that is not whole, or whose
checksum is wrong, ends what can be read, and everything from there on is cut off; nothing is ever changed in
place.
"""

import errno
import os
import struct
import zlib
from array import array
from typing import Final, NamedTuple

from kwire.errors import KwireError

MAGIC: Final = b"kwspool1"
HEADER: Final = struct.Struct("<8s16sQ")
RECORD: Final = struct.Struct("<IIQ")
MAX_PAYLOAD: Final = 1 << 16
"""Bytes of a payload: no DATA frame carries more."""


class SpoolError(KwireError):
    """A spool cannot be used."""


class Record(NamedTuple):
    """A record as it is written: its head and its payload."""

    head: bytes
    payload: bytes

    @property
    def size(self) -> int:
        """Bytes it takes."""
        return RECORD.size + len(self.payload)


def record(number: int, payload: bytes) -> Record:
    """The record of a payload."""
    rest = RECORD.pack(0, len(payload), number)[4:]
    crc = zlib.crc32(payload, zlib.crc32(rest))
    return Record(crc.to_bytes(4, "little") + rest, payload)


class Segment:
    """One open file. `first`: the number of its first record; `count` of them; `size` in bytes."""

    __slots__ = ("_places", "fd", "first", "name", "size")

    def __init__(self, name: str, fd: int, first: int, size: int) -> None:
        self.name = name
        self.fd = fd
        self.first = first
        self.size = size
        self._places: array[int] = array(
            "Q"
        )  # of each record: its offset, and its length less 1 in the low 16 bits

    @property
    def count(self) -> int:
        """Records in it."""
        return len(self._places)

    def note(self, offset: int, length: int) -> None:
        """One more record: its payload begins at `offset`."""
        self._places.append(offset << 16 | length - 1)

    def read(self, index: int) -> bytes:
        """The payload of record `index`. SpoolError where the file system cannot give it."""
        place = self._places[index]
        length = (place & MAX_PAYLOAD - 1) + 1
        try:
            payload = os.pread(self.fd, length, place >> 16)
        except OSError as error:
            raise SpoolError("read", f"spool file {self.name}", error.strerror or "failed") from error
        if len(payload) < length:
            raise SpoolError("read", f"spool file {self.name}", "it was cut by somebody else")
        return payload

    def close(self) -> None:
        """Close the file."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def create(folder: int, name: str, id: bytes, first: int) -> Segment:
    """Begin a segment in the folder open as `folder`. OSError where that is not possible."""
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        head = HEADER.pack(MAGIC, id, first)
        if os.pwrite(fd, head, 0) < len(head):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        os.close(fd)
        os.unlink(name, dir_fd=folder)
        raise
    return Segment(name, fd, first, HEADER.size)


def append(segment: Segment, records: list[Record]) -> bool:
    """Write records at the end of the file; False, and nothing is changed, where they do not all fit."""
    parts = [part for one in records for part in one]
    wanted = sum(map(len, parts))
    if os.pwritev(segment.fd, parts, segment.size) < wanted:
        return False
    segment.size += wanted
    return True


def load(folder: int, name: str, id: bytes) -> tuple[Segment, str] | None:
    """Open a segment and check all of it, cutting off what is not whole: it, and why it was cut ("": whole).

    None where not even its header is there.
    """
    fd = os.open(name, os.O_RDWR | os.O_CLOEXEC, dir_fd=folder)
    try:
        with open(fd, "rb", closefd=False) as file:
            data = memoryview(file.read())
        if len(data) < HEADER.size:
            os.close(fd)
            return None
        magic, owner, first = HEADER.unpack_from(data)
        if magic != MAGIC or owner != id:
            os.close(fd)
            return None
        segment = Segment(name, fd, first, HEADER.size)
        cut = _scan(segment, data)
        if cut:
            os.ftruncate(fd, segment.size)
        return segment, cut
    except BaseException:
        os.close(fd)
        raise


def _scan(segment: Segment, data: memoryview) -> str:
    """Note the records in `data`; give why the last of them is not the end."""
    at, size, expected, cut = HEADER.size, len(data), segment.first, ""
    while at < size:
        if size - at < RECORD.size:
            cut = f"{size - at} bytes of a record's head"
            break
        crc, length, number = RECORD.unpack_from(data, at)
        end = at + RECORD.size + length
        if not 0 < length <= MAX_PAYLOAD or end > size:
            cut = f"{size - at} bytes where a record of {RECORD.size + length} should be"
            break
        if zlib.crc32(data[at + 4 : end]) != crc:
            cut = "a record whose checksum is wrong"
            break
        if number != expected:
            cut = f"record {number} where {expected} belongs"
            break
        segment.note(at + RECORD.size, length)
        expected, at = expected + 1, end
    segment.size = at
    return f"{cut}, at byte {at}" if cut else ""
