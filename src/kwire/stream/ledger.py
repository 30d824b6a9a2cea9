"""A ledger: what a collector must know of a capture to go on with it after it was killed.

The laws: a record is whole or it is not there: two slots are written in turn, each with a checksum, and the
newer sound one counts; a killed process loses nothing that `write` returned from, and with `sync` a power cut
does not either. What changes seldom stands in front and is replaced with the whole file, by rename(2). The
blocks of both slots are on the disk from the beginning, so that a full disk does not stop a capture whose
losses are to be counted. Byte order is the machine's: a ledger is no interchange format.

    0   8 magic · 4 size of the front · 4 its checksum · 8 size of a slot · 8 zero
    32  the front: a CBOR map, zeros up to a multiple of 4096
    …   two slots: 8 number, counting up · 4 size · 4 checksum of number and body · body
"""

import contextlib
import os
import struct
import zlib
from collections.abc import Mapping
from typing import Any, Final

from kwire.errors import KwireError

MAGIC: Final = b"kwledg1\n"
BLOCK: Final = 4096
LARGEST: Final = 1 << 30  # bytes; a ledger that claims more is damage

_HEAD = struct.Struct("=8sIIQQ")
_SLOT = struct.Struct("=QII")


class LedgerError(KwireError):
    """A ledger that cannot be read or written."""


class NoLedgerError(LedgerError):
    """There is none, or it is damaged: nothing is known of its sessions."""


class Ledger:
    """An open ledger. Raises LedgerError where the disk refuses."""

    __slots__ = ("_capacity", "_fd", "_number", "_start", "_sync", "front", "path", "size")

    def __init__(self, path: str, *, sync: bool = False) -> None:
        """Nothing is written before `replace`; `load` reads one that is there."""
        self.path = path
        self.front: Mapping[str, Any] = {}
        self._sync = sync
        self._fd = -1
        self._start = self._capacity = self._number = 0
        self.size = 0
        """Bytes that the last `replace` wrote."""

    def replace(self, front: Mapping[str, Any], body: bytes) -> None:
        """Write a new file with this front and this record, and put it in the place of the old one."""
        import cbor2

        text = cbor2.dumps(front)
        capacity = _blocks(_SLOT.size + 2 * len(body))
        start = _blocks(_HEAD.size + len(text))
        head = _HEAD.pack(MAGIC, len(text), zlib.crc32(text), capacity, 0)
        record = self._record(body)
        slots = bytearray(2 * capacity)
        at = self._number % 2 * capacity
        slots[at : at + len(record)] = record
        temporary = self.path + ".new"
        try:
            fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                _write(fd, head + text + bytes(start - _HEAD.size - len(text)) + slots, 0)
                if self._sync:
                    os.fsync(fd)
                os.rename(temporary, self.path)
            except BaseException:
                os.close(fd)
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
        except OSError as error:
            raise LedgerError("write", self.path, error.strerror or "failed") from None
        self.close()
        self._fd, self._start, self._capacity, self.front = fd, start, capacity, front
        self.size = start + 2 * capacity
        if self._sync:
            self._sync_folder()

    def write(self, body: bytes) -> None:
        """Write the next record; the one before stays until this one is whole. A file that was deleted is
        written anew.
        """
        if _SLOT.size + len(body) > self._capacity or not os.fstat(self._fd).st_nlink:
            self.replace(self.front, body)
            return
        record = self._record(body)
        try:
            _write(self._fd, record, self._start + self._number % 2 * self._capacity)
            if self._sync:
                os.fdatasync(self._fd)
        except OSError as error:
            raise LedgerError("write", self.path, error.strerror or "failed") from None

    def load(self) -> bytes:
        """Open the file that is there and give its newest record; LedgerError where it is damaged."""
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            data = os.pread(self._fd, min(os.fstat(self._fd).st_size, LARGEST), 0)
        except FileNotFoundError:
            raise NoLedgerError("read", self.path, "it is not there") from None
        except OSError as error:
            self.close()
            raise LedgerError("read", self.path, error.strerror or "failed") from None
        front = _front(data)
        if front is not None:
            self.front, self._start, self._capacity = front
            found = [_slot(data, self._start + index * self._capacity, self._capacity) for index in (0, 1)]
            newest = max((slot for slot in found if slot is not None), default=None)
            if newest is not None:
                self._number, body = newest
                return body
        self.close()
        raise NoLedgerError("read", self.path, "it is damaged", "the session begins anew; remove the file")

    def close(self) -> None:
        """Close the file; it stays."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def remove(self) -> None:
        """Close and delete it."""
        self.close()
        os.unlink(self.path)

    def _record(self, body: bytes) -> bytes:
        self._number += 1
        number = struct.pack("=Q", self._number)
        return _SLOT.pack(self._number, len(body), zlib.crc32(body, zlib.crc32(number))) + body

    def _sync_folder(self) -> None:
        try:
            fd = os.open(os.path.dirname(os.path.abspath(self.path)), os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise LedgerError("sync", self.path, error.strerror or "failed") from None


def _blocks(size: int) -> int:
    return (size + BLOCK - 1) // BLOCK * BLOCK


def _write(fd: int, data: bytes, at: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:] if done else data, at + done)


def _front(data: bytes) -> tuple[dict[str, Any], int, int] | None:
    """The front, where the slots begin, the size of one; None where it is not sound."""
    import cbor2

    if len(data) < _HEAD.size:
        return None
    magic, size, checksum, capacity, _ = _HEAD.unpack_from(data)
    text = data[_HEAD.size : _HEAD.size + size]
    if magic != MAGIC or len(text) != size or zlib.crc32(text) != checksum:
        return None
    try:
        front = cbor2.loads(text)
    except (cbor2.CBORError, ValueError, TypeError, RecursionError):
        return None  # its checksum is right: somebody wrote it so
    return (front, _blocks(_HEAD.size + size), capacity) if isinstance(front, dict) else None


def _slot(data: bytes, at: int, capacity: int) -> tuple[int, bytes] | None:
    if len(data) < at + _SLOT.size:
        return None
    number, size, checksum = _SLOT.unpack_from(data, at)
    body = data[at + _SLOT.size : at + _SLOT.size + size]
    sound = len(body) == size and size + _SLOT.size <= capacity
    if not sound or zlib.crc32(body, zlib.crc32(data[at : at + 8])) != checksum:
        return None
    return number, body
