"""A segment of a spool: append-only files of payloads, chained by numbers and checksums.

    NNNNNNNN.seg   header · records: head · manifest · payload
    NNNNNNNN.idx   the same header · the heads and manifests alone

    header   magic 8 bytes · id of the spool 16 · ordinal u64 · number of the first record u64 · check of the
             record before it u32 · rows u32 · rows of what was written before, 32 bytes each · CRC-32 u32
    head     magic 4 bytes · check u32 · payload's length u32 · payload's CRC-32 u32 · check of the record
             before it u32 · rows of the manifest u32 · number u64 · offset of the head in the segment u64

Integers are little-endian. A check is the CRC-32 of the rest of the head and of the manifest, begun with that
of the spool's id. Invariants: the numbers of the records in a segment follow each other; nothing is ever
changed in place, and nothing that is there is cut off or deleted here; what is damaged is passed over, and
reading goes on at the next head whose check is right. So the events of a payload that is gone are known from
the index, those of a whole segment that is gone from the header of the next.
"""

import contextlib
import errno
import os
import struct
import zlib
from array import array
from collections.abc import Iterator
from typing import Final, NamedTuple

from kwire.agent import manifest
from kwire.agent.manifest import ROW_SIZE, Manifest
from kwire.errors import KwireError
from kwire.words import plural

MAGIC: Final = b"kwspool2"
HEADER: Final = struct.Struct("<8s16sQQII")
HEAD: Final = struct.Struct("<4sIIIIIQQ")
HEAD_MAGIC: Final = b"kw\xf5r"
CRC: Final = 4
MAX_PAYLOAD: Final = 1 << 16
"""Bytes of a payload: no DATA frame carries more."""
MOST_ROWS: Final = 1 << 18
SEGMENT_SUFFIX, INDEX_SUFFIX = ".seg", ".idx"

_PLACE = 4  # words of a place: offset of the head, length of the payload, its CRC-32, bytes of the manifest


class SpoolError(KwireError):
    """A spool cannot be used."""


class SpoolFullError(SpoolError):
    """A spool cannot be begun, as the disk has no room."""


class Head(NamedTuple):
    """What stands before a payload. `offset`: of the head in the segment; `rows`: of its manifest."""

    check: int
    length: int
    crc: int
    previous: int
    rows: int
    number: int
    offset: int

    @property
    def size(self) -> int:
        """Bytes of head and manifest."""
        return HEAD.size + self.rows * ROW_SIZE

    @property
    def end(self) -> int:
        """Where the next record begins."""
        return self.offset + self.size + self.length


class Record(NamedTuple):
    """A record to be written: head and manifest, payload; what that holds."""

    head: bytes
    payload: bytes
    check: int
    contents: Manifest


def seed(id: bytes) -> int:
    """What the checks of a spool's heads begin with: a head of another spool is none of ours."""
    return zlib.crc32(id)


def record(id: bytes, number: int, offset: int, previous: int, payload: bytes, contents: Manifest) -> Record:
    """The record of a payload, for this place."""
    rows = manifest.pack(contents)
    rest = HEAD.pack(
        HEAD_MAGIC, 0, len(payload), zlib.crc32(payload), previous, len(contents), number, offset
    )[8:]
    check = zlib.crc32(rest + rows, seed(id))
    return Record(HEAD_MAGIC + check.to_bytes(4, "little") + rest + rows, payload, check, contents)


class Segment:
    """One segment, open. `first`: the number of its first record; `count` places, some of which may be gone.

    `fd`, `index`: its files, -1 where there is none; `size`: bytes of records written; `before`: what the
    records before it held, as far as its header could be read.
    """

    __slots__ = (
        "_heads",
        "_places",
        "before",
        "fd",
        "first",
        "gone",
        "index",
        "index_size",
        "ordinal",
        "size",
    )

    def __init__(
        self, ordinal: int, first: int, fd: int, index: int, size: int, before: Manifest | None
    ) -> None:
        self.ordinal = ordinal
        self.first = first
        self.fd = fd
        self.index = index
        self.size = self.index_size = size
        self.before = before
        self.gone: list[tuple[int, int]] = []  # numbers that nothing is known of: first, last
        self._places: array[int] = array("Q")
        self._heads: array[int] = array("Q")  # of each record: the offset of its head in the index

    @property
    def names(self) -> tuple[str, str]:
        """Its files."""
        return names(self.ordinal)

    @property
    def count(self) -> int:
        """Numbers it has a place for."""
        return len(self._heads)

    @property
    def end(self) -> int:
        """The number after its last record."""
        return self.first + self.count

    def trim(self, end: int) -> None:
        """Forget the records from number `end` on: a later segment has them."""
        count = max(0, min(self.count, end - self.first))
        del self._places[count * _PLACE :]
        del self._heads[count:]
        self.gone = [(first, min(last, end - 1)) for first, last in self.gone if first < end]

    def check(self, number: int, id: bytes) -> int:
        """The check of a record's head; 0 where it cannot be read."""
        head = self._head(number, id)
        return head[0].check if head else 0

    def note(self, head: Head | None, at: int) -> None:
        """One more record; None: nothing is known of it. `at`: of its head in the index (0: nowhere)."""
        words = (head.offset, head.length, head.crc, head.rows * ROW_SIZE) if head else (0, 0, 0, 0)
        self._places.extend(words)
        self._heads.append(at)

    def read(self, number: int) -> bytes | None:
        """The payload of a record; None where it cannot be read, or is not what was written."""
        offset, length, crc, rows = self._place(number)
        if not offset or self.fd < 0:
            return None
        try:
            payload = os.pread(self.fd, length, offset + HEAD.size + rows)
        except OSError:
            return None
        return payload if len(payload) == length and zlib.crc32(payload) == crc else None

    def manifest(self, number: int, id: bytes) -> Manifest | None:
        """What the payload of a record held, from the index or its own head; None where neither is sound."""
        found = self._head(number, id)
        return manifest.unpack(found[1][HEAD.size :]) if found else None

    def close(self) -> None:
        """Close its files."""
        for fd in (self.fd, self.index):
            if fd >= 0:
                os.close(fd)
        self.fd = self.index = -1

    def _head(self, number: int, id: bytes) -> tuple[Head, bytes] | None:
        """Head and bytes of head and manifest, from the index or from before the payload."""
        if not self.first <= number < self.end:
            return None
        offset, _, _, rows = self._place(number)
        at = self._heads[number - self.first]
        for fd, place in ((self.index, at), (self.fd, offset)):
            if fd >= 0 and place:
                with contextlib.suppress(OSError):
                    data = os.pread(fd, HEAD.size + rows, place)
                    head = parse(data, 0, id)
                    if head is not None and head.number == number:
                        return head, data
        return None

    def _place(self, number: int) -> tuple[int, int, int, int]:
        at = (number - self.first) * _PLACE
        offset, length, crc, rows = self._places[at : at + _PLACE]
        return offset, length, crc, rows


def names(ordinal: int) -> tuple[str, str]:
    """The files of a segment."""
    return f"{ordinal:08d}{SEGMENT_SUFFIX}", f"{ordinal:08d}{INDEX_SUFFIX}"


# ---------------------------------------------------------------------- writing


def create(folder: int, ordinal: int, id: bytes, first: int, previous: int, before: Manifest) -> Segment:
    """Begin a segment in the folder open as `folder`. OSError where that is not possible."""
    rows = manifest.pack(before)
    head = HEADER.pack(MAGIC, id, ordinal, first, previous, len(before)) + rows
    head += zlib.crc32(head).to_bytes(CRC, "little")
    made: list[tuple[int, str]] = []
    try:
        for name in names(ordinal):
            fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
            made.append((fd, name))
            if os.pwrite(fd, head, 0) < len(head):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        for fd, name in made:
            os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=folder)
        raise
    return Segment(ordinal, first, made[0][0], made[1][0], len(head), dict(before))


def append(segment: Segment, records: list[Record]) -> bool:
    """Write records at the end; False, and nothing counts, where the disk does not take them all."""
    parts = [part for one in records for part in (one.head, one.payload)]
    heads = [one.head for one in records]
    for fd, data, at in ((segment.fd, parts, segment.size), (segment.index, heads, segment.index_size)):
        if os.pwritev(fd, data, at) < sum(map(len, data)):
            os.ftruncate(segment.fd, segment.size)
            os.ftruncate(segment.index, segment.index_size)
            return False
    for one in records:
        head = _read_head(one.head, 0)
        segment.note(head, segment.index_size)
        segment.size += len(one.head) + len(one.payload)
        segment.index_size += len(one.head)
    return True


def is_there(segment: Segment) -> bool:
    """Whether its files still have their names, and their lengths."""
    for fd, size in ((segment.fd, segment.size), (segment.index, segment.index_size)):
        found = os.fstat(fd)
        if not found.st_nlink or found.st_size < size:
            return False
    return True


# ---------------------------------------------------------------------- reading


def load(folder: int, ordinal: int, id: bytes) -> tuple[Segment | None, list[str]]:
    """Open a segment as far as it is there, and what is wrong with it. None: nothing of it can be read.

    SpoolError where its records are no chain. OSError where the file system fails.
    """
    wrong: list[str] = []
    name, index_name = names(ordinal)
    fd, index = _open(folder, name), _open(folder, index_name)
    try:
        headers = [_header(one, id, ordinal) for one in (fd, index)]
        start = next((header for header in headers if header is not None), None)
        size = os.fstat(fd).st_size if fd >= 0 else 0
        known: dict[int, tuple[Head, int]] = {}  # number → head, its offset in the index
        if index >= 0:
            for head, at in _heads(index, id, headers[1].size if headers[1] else 0, payloads=False):
                known[head.number] = head, at
        else:
            wrong.append(f"{index_name} is gone")
        if fd >= 0:
            for head, _ in _heads(fd, id, _sound_until(known, start), payloads=True):
                known.setdefault(head.number, (head, 0))
        else:
            wrong.append(f"{name} is gone")
        if not known and start is None:
            if fd >= 0 or index >= 0:
                wrong.append(f"{name}: nothing in it can be read")
            for one in (fd, index):
                if one >= 0:
                    os.close(one)
            return None, wrong
        first = start.first if start else min(known)
        known = {number: found for number, found in known.items() if _may_stand(number - first, found[0])}
        segment = Segment(ordinal, first, fd, index, size, start.before if start else None)
        _place(segment, known, wrong, size)
        return segment, wrong
    except BaseException:
        for one in (fd, index):
            if one >= 0:
                with contextlib.suppress(OSError):
                    os.close(one)
        raise


def parse(data: "bytes | memoryview", at: int, id: bytes) -> Head | None:
    """The head at `at`; None where none stands there whole, with its manifest."""
    if len(data) - at < HEAD.size or data[at : at + 4] != HEAD_MAGIC:
        return None
    head = _read_head(data, at)
    size = HEAD.size + head.rows * ROW_SIZE
    if head.rows > MOST_ROWS or not 0 < head.length <= MAX_PAYLOAD or len(data) - at < size:
        return None
    return head if zlib.crc32(data[at + 8 : at + size], seed(id)) == head.check else None


def _sound_until(known: "dict[int, tuple[Head, int]]", start: "_Start | None") -> int:
    """From where on a segment must be searched for heads: all before are known from its index."""
    if start is None or not known or len(known) != max(known) - start.first + 1:
        return 0
    return known[max(known)][0].end


def _may_stand(index: int, head: Head) -> bool:
    """Whether a head can be that of record `index`: those before it take some room."""
    return 0 <= index <= head.offset // HEAD.size


class _Start(NamedTuple):
    first: int
    previous: int
    before: Manifest
    size: int


def _read_head(data: "bytes | memoryview", at: int) -> Head:
    _, check, length, crc, previous, rows, number, offset = HEAD.unpack_from(data, at)
    return Head(check, length, crc, previous, rows, number, offset)


def _open(folder: int, name: str) -> int:
    try:
        return os.open(name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=folder)
    except FileNotFoundError:
        return -1


def _read(fd: int, size: int, at: int) -> bytes:
    """Bytes of a file; none where the disk cannot give them: what stood there is damaged."""
    try:
        return os.pread(fd, size, at)
    except OSError:
        return b""


def _header(fd: int, id: bytes, ordinal: int) -> _Start | None:
    """The header of a file; None where it is damaged, or another's."""
    if fd < 0:
        return None
    data = _read(fd, HEADER.size, 0)
    if len(data) < HEADER.size:
        return None
    magic, owner, number, first, previous, rows = HEADER.unpack(data)
    if (magic, owner, number) != (MAGIC, id, ordinal) or rows > MOST_ROWS:
        return None
    size = HEADER.size + rows * ROW_SIZE
    data = _read(fd, size + CRC, 0)
    if len(data) < size + CRC or zlib.crc32(data[:size]) != int.from_bytes(data[size:], "little"):
        return None
    return _Start(first, previous, manifest.unpack(data[HEADER.size : size]), size + CRC)


_PIECE: Final = 1 << 22  # bytes read at a time
_SKIP: Final = 1 << 12  # bytes passed over that the disk does not give


def _heads(fd: int, id: bytes, at: int, payloads: bool) -> Iterator[tuple[Head, int]]:
    """The heads in a file from `at` on, each with its offset there; what is damaged is passed over."""
    size = os.fstat(fd).st_size
    window, base = b"", 0
    while at < size:
        if at < base or at + HEAD.size > base + len(window):
            window, base = _read(fd, _PIECE, at), at
        head = parse(window, at - base, id)
        if head is None and base != at:  # its manifest may go beyond the window
            window, base = _read(fd, max(_PIECE, HEAD.size + MOST_ROWS * ROW_SIZE), at), at
            head = parse(window, 0, id)
        if head is not None and (not payloads or head.offset == at):
            yield head, at
            at += head.size + (head.length if payloads else 0)
            continue
        if not window:
            base, window = at, bytes(_SKIP)  # the disk does not give it
        found = window.find(HEAD_MAGIC, at - base + 1)
        at = base + found if found >= 0 else base + max(at - base + 1, len(window) - len(HEAD_MAGIC) + 1)


def _place(segment: Segment, known: dict[int, tuple[Head, int]], wrong: list[str], size: int) -> None:
    """Note the records of a segment in order, and what is missing between them; check the chain."""
    check = cut = 0
    for number in range(segment.first, max(known, default=segment.first - 1) + 1):
        found = known.get(number)
        segment.note(*(found or (None, 0)))
        if found is None:
            if segment.gone and segment.gone[-1][1] == number - 1:
                segment.gone[-1] = segment.gone[-1][0], number
            else:
                segment.gone.append((number, number))
            check = 0
            continue
        head = found[0]
        if check and head.previous and head.previous != check:
            raise SpoolError(
                "read",
                f"spool file {segment.names[0]}",
                f"record {number} does not follow the one before it: files of two spools are mixed",
            )
        check = head.check
        cut += segment.fd >= 0 and head.end > size
    for first, last in segment.gone:
        wrong.append(f"{segment.names[0]}: {plural(last - first + 1, 'record')} from {first} on are damaged")
    if cut:
        wrong.append(f"{segment.names[0]} was cut: {plural(cut, 'record')} are gone")
