"""A checkpoint: what a collector must know of a capture to go on with it after it was killed, as a journal.

Invariants: values are bytes by key; `write` changes several of them at once, whole or not at all, and appends
what changed and no more: of a long value the parts that differ. A killed process loses nothing that `write`
returned from, and with `sync` a power cut does not either. A record that was torn is as if it were not there;
one that was changed afterwards makes the whole checkpoint damaged, because going back to an older state would
forget what was acknowledged. Where most of the file is out of date it is written anew, by rename(2), so that
what is written grows with what changes and not with what there is. Room for the next small write is on the
disk before it is needed, so that a full disk does not stop a capture whose losses are to be counted. Byte
order is the machine's: a checkpoint is no interchange format.

    0   8 magic
    8   records: 4 size of the body · 4 its complement · 4 checksum of the body, begun with that of the record
        before · body
    …   zeros to the end of the file, 12 bytes at least

A body is changes, each: 1 size of the key · 3 zero · 4 size of the value after it · 4 number of parts ·
key · for each part: 4 where it begins · 4 its size · and then their bytes. What no part has stays as it was.
"""

import contextlib
import os
import struct
import zlib
from array import array
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias

from kwire.errors import KwireError

MAGIC: Final = b"kwledg2\n"
OLD: Final = b"kwledg1\n"
BLOCK: Final = 4096
LARGEST: Final = 1 << 30
"""Bytes; a checkpoint that claims more is damage."""

SMALL: Final = 16 << 10
"""Bytes of a checkpoint that need not be written anew to be smaller when its sessions are over."""

SLACK: Final = 64 << 10
"""Bytes that may be out of date, beside as many as there were after it was written anew."""

_SHORT: Final = 64  # bytes: what differs is looked for in pieces of this size; a shorter value goes whole
_RECORD = struct.Struct("=III")
_CHANGE = struct.Struct("=BxxxII")
_PART = struct.Struct("=II")
_END: Final = bytes(_RECORD.size)

Values: TypeAlias = Mapping[bytes, bytes]


class Contents(NamedTuple):
    """Values by key. Of those that change `often` only differences are written, others are written `once`."""

    often: Values
    once: Values = MappingProxyType({})


class CheckpointError(KwireError):
    """A checkpoint that cannot be read or written."""


class NoCheckpointError(CheckpointError):
    """There is none, or it is damaged: nothing is known of its sessions."""


class Checkpoint:
    """A checkpoint at `path`. `whole` gives everything that is to be in it, for when it is written anew.

    Raises CheckpointError where the disk refuses.
    """

    __slots__ = (
        "_check",
        "_end",
        "_fd",
        "_last",
        "_limit",
        "_room",
        "_soiled",
        "_sync",
        "path",
        "whole",
        "written",
    )

    def __init__(self, path: str, whole: Callable[[], Contents], *, sync: bool = False) -> None:
        """Nothing is written before `renew`; `load` reads one that is there."""
        self.path = path
        self.whole = whole
        self.written = 0
        """Bytes written so far."""
        self._sync = sync
        self._fd = -1
        self._last: dict[bytes, bytes] = {}  # the values that change often, as they stand in the file
        self._end = self._room = self._soiled = 0  # where records end, the file does, a failed write did
        self._limit = 0  # the end at which it is written anew
        self._check = 0  # of the last record

    def renew(self, contents: Contents | None = None) -> None:
        """Write a new file with everything, or with `contents`, and put it in the place of the old one."""
        contents = self.whole() if contents is None else contents
        record, check = _record([*_whole(contents.often), *_whole(contents.once)], 0)
        end = len(MAGIC) + len(record)
        room = _blocks(end + BLOCK)
        fd = self._replace(MAGIC + record + bytes(room - end))
        self._open(fd, end, room, check, end)
        self._last = dict(contents.often)

    def write(self, contents: Contents) -> None:
        """Change these values; a file that was deleted, or is long, is written anew with everything."""
        if self._fd < 0 or not os.fstat(self._fd).st_nlink:
            self.renew()
            return
        if self._end > self._limit:
            with contextlib.suppress(CheckpointError):  # a full disk: there is room left behind the end
                self.renew()
                return
            self._limit = self._end + SLACK
        changes = [*_changes(self._last, contents.often), *_whole(contents.once)]
        if not changes:
            return
        record, check = _record(changes, self._check)
        after = bytes(max(len(_END), self._soiled - self._end - len(record)))
        try:
            self._make_room(self._end + len(record) + len(after))
            self._soiled = self._end + len(record)
            _write(self._fd, record + after, self._end)
            if self._sync:
                os.fdatasync(self._fd)
        except OSError as error:
            raise CheckpointError("write", self.path, error.strerror or "failed") from None
        self.written += len(record)
        self._soiled, self._check = 0, check
        self._end += len(record)
        self._last.update(contents.often)

    @property
    def small(self) -> bool:
        """Whether little is gained by writing it anew."""
        return 0 < self._end <= SMALL

    def load(self) -> dict[bytes, bytes]:
        """Open the file that is there and give its values. Raises NoCheckpointError where it is damaged."""
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            data = os.pread(self._fd, min(os.fstat(self._fd).st_size, LARGEST), 0)
        except FileNotFoundError:
            raise NoCheckpointError("read", self.path, "it is not there") from None
        except OSError as error:
            self.close()
            raise CheckpointError("read", self.path, error.strerror or "failed") from None
        found = _read(data)
        if found is None:
            self.close()
            cause = "kwire 0.1 wrote it" if data.startswith(OLD) else "it is damaged"
            raise NoCheckpointError("read", self.path, cause, "its session begins anew; remove the file")
        values, end, check = found
        whole = sum(_CHANGE.size + len(key) + len(value) for key, value in values.items())
        self._open(self._fd, end, len(data), check, whole)
        return values

    def keep(self) -> None:
        """See that it is at its path: one that was deleted is put back as it is."""
        if self._fd < 0 or os.fstat(self._fd).st_nlink:
            return
        try:
            data = os.pread(self._fd, self._end, 0)
        except OSError as error:
            raise CheckpointError("read", self.path, error.strerror or "failed") from None
        room = _blocks(self._end + BLOCK)
        fd = self._replace(data + bytes(room - len(data)))
        self._open(fd, self._end, room, self._check, self._end)

    def close(self) -> None:
        """Close the file; it stays."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _make_room(self, end: int) -> None:
        """Reserve disk space up to `end`, and for one block more where the disk has room."""
        room = _blocks(end + BLOCK)
        if room <= self._room:
            return
        try:
            os.posix_fallocate(self._fd, self._room, room - self._room)
        except OSError:
            if end > self._room:
                raise
        else:
            self._room = room

    def _open(self, fd: int, end: int, room: int, check: int, whole: int) -> None:
        """Append to this file from `end` on; a new file with the same contents would have `whole` bytes."""
        if fd != self._fd:
            self.close()
        self._fd, self._end, self._room, self._check, self._soiled = fd, end, room, check, 0
        self._limit = 2 * whole + SLACK

    def _replace(self, data: bytes) -> int:
        """Put a file with `data` in the place of the one there is; gives it, open."""
        temporary = self.path + ".new"
        try:
            fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                _write(fd, data, 0)
                if self._sync:
                    os.fsync(fd)
                os.rename(temporary, self.path)
                if self._sync:
                    _sync(os.path.dirname(os.path.abspath(self.path)))
            except BaseException:
                os.close(fd)
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
        except OSError as error:
            raise CheckpointError("write", self.path, error.strerror or "failed") from None
        self.written += len(data)
        return fd


def _blocks(size: int) -> int:
    return (size + BLOCK - 1) // BLOCK * BLOCK


def _write(fd: int, data: bytes, at: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:] if done else data, at + done)


def _sync(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# ---------------------------------------------------------------------- records


def _whole(values: Values) -> list[bytes]:
    """The changes that make these values out of none; there can be a hundred thousand."""
    parts: list[bytes] = []
    change, part = _CHANGE.pack, _PART.pack
    for key, value in values.items():
        size = len(value)
        parts += (change(len(key), size, 1), key, part(0, size), value)
    return parts


def _changes(before: Values, after: Values) -> Iterable[bytes]:
    """The changes that make `after` of `before`, as they stand in a record."""
    for key, value in after.items():
        old = before.get(key)
        if value == old:
            continue
        parts = _parts(old, value) if old is not None else [(0, len(value))]
        yield _CHANGE.pack(len(key), len(value), len(parts)) + key
        yield from (_PART.pack(*part) for part in parts)
        yield from (value[at : at + size] for at, size in parts)


def _parts(old: bytes, new: bytes) -> list[tuple[int, int]]:
    """Where `new` differs from `old`: (begin, size) of pieces, in order; all of it where that is less."""
    parts: list[tuple[int, int]] = []
    for block in range(0, len(new), BLOCK):
        if new[block : block + BLOCK] == old[block : block + BLOCK]:
            continue
        for at in range(block, min(block + BLOCK, len(new)), _SHORT):
            piece = new[at : at + _SHORT]
            if piece == old[at : at + _SHORT]:
                continue
            if parts and sum(parts[-1]) == at:
                parts[-1] = parts[-1][0], parts[-1][1] + len(piece)
            else:
                parts.append((at, len(piece)))
    if sum(size + _PART.size for _, size in parts) >= len(new) + _PART.size:
        return [(0, len(new))]
    return parts


def _record(changes: list[bytes], before: int) -> tuple[bytes, int]:
    """A record after one with the checksum `before`, and its checksum."""
    body = b"".join(changes)
    check = zlib.crc32(body, before)
    return _RECORD.pack(len(body), ~len(body) & 0xFFFFFFFF, check) + body, check


def _read(data: bytes) -> tuple[dict[bytes, bytes], int, int] | None:
    """The values in a file, where its records end, the checksum of the last; None where it is damaged."""
    if not data.startswith(MAGIC):
        return None
    values: dict[bytes, bytearray] = {}
    at, check = len(MAGIC), 0
    while True:
        if len(data) < at + _RECORD.size:
            return None  # it was cut
        size, complement, expected = _RECORD.unpack_from(data, at)
        if size ^ complement != 0xFFFFFFFF:
            size = 0
        body = data[at + _RECORD.size : at + _RECORD.size + size]
        if not size or zlib.crc32(body, check) != expected:
            break
        try:
            _apply(body, values)
        except (struct.error, ValueError):
            return None  # its checksum is right: somebody wrote it so
        at, check = at + _RECORD.size + size, expected
    # The end, or a record that was torn: any of its blocks may be missing, the one with its head too, but no
    # other record is behind it.
    behind = data[at + (_RECORD.size + size if size else 1) :]
    if not values or len(body) < size or _has_record(behind):
        return None
    return {key: bytes(value) for key, value in values.items()}, at, check


def _has_record(data: bytes) -> bool:
    """Whether the head of a record stands anywhere in it."""
    end = min(len(data), len(data.rstrip(b"\0")) + _RECORD.size)
    for first in range(min(4, end)):
        words = array("I", data[first : end - (end - first) % 4])
        for index, (size, complement) in enumerate(pairwise(words)):
            if size ^ complement == 0xFFFFFFFF and 0 < size <= len(data) - first - 4 * index - _RECORD.size:
                return True
    return False


def _apply(body: bytes, values: dict[bytes, bytearray]) -> None:
    at = 0
    while at < len(body):
        of_key, size, count = _CHANGE.unpack_from(body, at)
        at += _CHANGE.size + of_key
        value = values.setdefault(body[at - of_key : at], bytearray())
        parts = list(_PART.iter_unpack(body[at : at + count * _PART.size]))
        at += count * _PART.size
        if size > len(value) + sum(length for _, length in parts):
            raise ValueError
        value[size:] = bytes(max(0, size - len(value)))
        for begin, length in parts:
            if begin + length > size or at + length > len(body):
                raise ValueError
            value[begin : begin + length] = body[at : at + length]
            at += length
