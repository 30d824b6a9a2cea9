"""What a spool's folder says of its session: the files `session` and `state`.

    session   CRC-32 of the rest u32, little-endian · a CBOR map, the fields of `SpoolSession`
    state     number of the first record not released u64, its complement · number after the last record
              written u64, its complement · token 16 bytes · number of the last payload sent u64 (all ones:
              none), its complement xor the CRC-32 of the token · life 8 bytes · how many HELLOs u32, the
              nonces of 48 u32 (`kwire.wire.lineage`), CRC-32 of token and both u32; little-endian

Invariants: `session` is replaced as a whole, by rename(2), and synced; `state` is written in place, each
number with its complement, and is right after kill -9; after a power loss it may be a second behind, but
never behind what was deleted. Both have the `life` that was drawn when the spool was taken up last: a state
of an earlier one says nothing. A file that somebody has removed or changed is noticed, and can be written
again. A spool knows its place: the machine, the file system and the inode of its folder. The folder belongs
to the user that agents become, and the next agent comes to it as root: it follows no link there.
"""

import contextlib
import errno
import os
import re
import stat
import struct
import zlib
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from kwire.agent.segment import SpoolError
from kwire.wire import cbor
from kwire.wire.frame import FrameError
from kwire.wire.lineage import MOST

NAME: Final = re.compile(r"[0-9a-f]{32}")
"""The name of a spool's folder."""

SESSION: Final = "session"
STATE: Final = "state"
NOTHING: Final = (1 << 64) - 1

_PAIR = struct.Struct("<QQ")
_LINEAGE = struct.Struct(f"<I{MOST}I")
_RELEASED_AT, _END_AT, _SENT_AT, _LIFE_AT, _LINEAGE_AT = 0, 16, 32, 64, 72
_SIZE = _LINEAGE_AT + _LINEAGE.size + 4  # less than a sector of a disk, which is written whole


class SpoolLocation(NamedTuple):
    """Where a spool is: a copy of it has another one.

    `device`: st_dev, which may be another after a boot; `system`: the file system's id, where it has one.
    """

    machine: str
    device: int
    system: int
    inode: int

    def differs(self, other: "SpoolLocation") -> str:
        """What shows that `other` is not this place; empty where they are the same."""
        if self.machine != other.machine:
            return f"it was made on the machine {self.machine or 'without an id'}"
        if self.inode != other.inode:
            return f"its folder is inode {other.inode} and was {self.inode}"
        if self.device != other.device and (self.system != other.system or not self.system):
            return "it was made on another file system"
        return ""


class SpoolSession(NamedTuple):
    """What the session file says: the token, the payloads before the records, the number of their first.

    `boot` is the id of the boot that wrote it: after another, `state` may be behind. `probes`: the largest
    probe number; `place`: where the spool was made; `life`: drawn at random when it was taken up last;
    `name`: what its agent is called, "" where one wrote it that did not say so.
    """

    token: bytes
    prefix: tuple[bytes, ...]
    start: int
    boot: str
    probes: int
    place: SpoolLocation
    life: bytes
    name: str = ""


_NEEDED: Final = tuple(key for key in SpoolSession._fields if key not in SpoolSession._field_defaults)


class Stamp(NamedTuple):
    """Of a file at its place: it is another one where that differs. All zeros: there is none."""

    inode: int = 0
    size: int = 0
    changed: int = 0
    """st_mtime, ns."""


def stamp(folder: int, name: str = SESSION) -> Stamp:
    """What stands at the place of a file now. OSError where the disk does not tell."""
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return Stamp()
    return Stamp(found.st_ino, found.st_size, found.st_mtime_ns)


def save(folder: int, kept: SpoolSession) -> None:
    """Write the session file and put it in the place of the one before. OSError where that cannot be."""
    data = cbor.dumps({**kept._asdict(), "prefix": list(kept.prefix), "place": list(kept.place)})
    data = zlib.crc32(data).to_bytes(4, "little") + data
    temporary = f"{SESSION}.new"
    fd = _fresh(temporary, folder)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(temporary, SESSION, src_dir_fd=folder, dst_dir_fd=folder)
    os.fsync(folder)


def open_folder(path: str) -> int:
    """Open a spool's folder, a descriptor. OSError where that is none."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _fresh(name: str, folder: int) -> int:
    """A new file. What stood under its name is taken away: a link that the user of an agent before us has put
    there leads to no file of another.
    """  # fmt: skip
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)
    return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)


def read(folder: int, path: str) -> SpoolSession | None:
    """What the session file of the folder, at `path`, says; None where there is none. SpoolError: damaged, or
    of kwire 0.1.
    """
    old, name = False, f"spool file {path}/{SESSION}"
    other = SpoolError("read", name, "it is no regular file", "move the spool away")
    try:
        fd = os.open(SESSION, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise other from None
        raise
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise other
        data = file.read()
    try:
        if zlib.crc32(data[4:]) == int.from_bytes(data[:4], "little"):
            value: dict[Any, Any] = cbor.loads_map(data[4:])
            old = "place" not in value
            token, prefix, start, boot, probes, place, life = (value[key] for key in _NEEDED)
            where = SpoolLocation(str(place[0]), *map(int, place[1:]))
            return SpoolSession(
                bytes(token),
                tuple(prefix),
                int(start),
                str(boot),
                int(probes),
                where,
                bytes(life),
                str(value.get("name", "")),
            )
    except (FrameError, KeyError, TypeError, ValueError, IndexError):
        pass
    if old:
        cause = "kwire 0.1 wrote it: nothing shows whether parts of it are gone, or whether it is a copy"
        raise SpoolError("read", name, cause, "deliver it with kwire 0.1, or move it away")
    cause = "it is damaged"
    if not data:
        cause = "it is empty: the disk was full when a new session began, and then the agent was killed"
    raise SpoolError("read", name, cause, "nobody knows what was sent of it: move the spool away")


class SpoolState:
    """The open state file. `sent`, `released` and `end`: what it says. OSError where it cannot be written.

    `set_released` and `set_end` may be called by one thread and the rest by another.
    """

    __slots__ = ("_fd", "_folder", "_lineage", "end", "life", "released", "sent", "token")

    def __init__(self, folder: int) -> None:
        self._folder = folder
        self._fd = os.open(STATE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=folder)
        try:
            data = os.pread(self._fd, _SIZE, 0)
            if not data:
                os.pwrite(
                    self._fd, bytes(_SIZE), 0
                )  # its block is there from now on, whatever fills the disk
        except OSError:
            self.close()
            raise
        self.released = _number(data, _RELEASED_AT)
        self.end = _number(data, _END_AT)
        self.token: bytes = data[_SENT_AT : _SENT_AT + 16]
        self.sent: int | None = _number(data, _SENT_AT + 16, zlib.crc32(self.token))
        """The last payload sent; NOTHING; None where it cannot be told."""
        self.life: bytes = data[_LIFE_AT:_LINEAGE_AT]
        self._lineage: bytes = data[_LINEAGE_AT:_SIZE]

    def set_sent(self, token: bytes, number: int) -> None:
        """Payloads up to `number` of the session `token` were sent, or are about to be."""
        self.token, self.sent = token, number
        os.pwrite(self._fd, token + _pair(number, zlib.crc32(token)), _SENT_AT)

    def set_life(self, life: bytes) -> None:
        """From now on it says what holds for this life of the spool."""
        self.life = life
        os.pwrite(self._fd, life, _LIFE_AT)

    def lineage(self, token: bytes) -> tuple[int, ...]:
        """The nonces of the session's HELLOs; none where that cannot be told."""
        data = self._lineage[: _LINEAGE.size]
        check = zlib.crc32(token + data).to_bytes(4, "little")
        if len(data) < _LINEAGE.size or self._lineage[_LINEAGE.size :] != check:
            return ()
        count, *nonces = _LINEAGE.unpack(data)
        return tuple(nonces[:count])

    def set_lineage(self, token: bytes, nonces: Sequence[int]) -> None:
        """The session `token` says HELLO with the last of these nonces; the others came before."""
        data = _LINEAGE.pack(len(nonces), *nonces, *[0] * (MOST - len(nonces)))
        self._lineage = data + zlib.crc32(token + data).to_bytes(4, "little")
        os.pwrite(self._fd, self._lineage, _LINEAGE_AT)

    def set_released(self, number: int) -> None:
        """Records before `number` are needed no more; on the disk before anything is deleted."""
        before, self.released = self.released, number
        try:
            os.pwrite(self._fd, _pair(number), _RELEASED_AT)
            os.fdatasync(self._fd)
        except OSError:
            self.released = before
            raise

    def set_end(self, number: int) -> None:
        """Records before `number` were written."""
        before, self.end = self.end, number
        try:
            os.pwrite(self._fd, _pair(number), _END_AT)
        except OSError:
            self.end = before
            raise

    @property
    def harmed(self) -> bool:
        """Whether somebody has removed the file, put another in its place, or cut it."""
        own = os.fstat(self._fd)
        return stamp(self._folder, STATE).inode != own.st_ino or own.st_size < _SIZE

    def restore(self) -> None:
        """Write it anew, as it was. OSError where that cannot be.

        A setter of the other thread that comes meanwhile is seen: each notes its number before it writes.
        """
        temporary = f"{STATE}.new"
        fd = _fresh(temporary, self._folder)
        try:
            written = self._bytes()
            if os.pwrite(fd, written, 0) < _SIZE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fdatasync(fd)
            os.rename(temporary, STATE, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            os.dup2(fd, self._fd, inheritable=False)
            while written != (now := self._bytes()):
                os.pwrite(self._fd, now, 0)
                written = now
        finally:
            os.close(fd)

    def _bytes(self) -> bytes:
        """All that the file should say."""
        sent = bytes(_PAIR.size) if self.sent is None else _pair(self.sent, zlib.crc32(self.token))
        numbers = [bytes(_PAIR.size) if one is None else _pair(one) for one in (self.released, self.end)]
        data = b"".join((*numbers, self.token.ljust(16, b"\0"), sent, self.life.ljust(8, b"\0")))
        return (data + self._lineage).ljust(_SIZE, b"\0")

    def sync(self) -> None:
        """Put it on the disk."""
        os.fdatasync(self._fd)

    def close(self) -> None:
        """Close it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _pair(number: int, key: int = 0) -> bytes:
    """A number and its complement, which `key` is put into."""
    return _PAIR.pack(number, (~number & NOTHING) ^ key)


def _number(data: bytes, at: int, key: int = 0) -> int | None:
    """A number with its complement, which `key` was put into; None where they do not match."""
    if len(data) < at + _PAIR.size:
        return None
    number, complement = _PAIR.unpack_from(data, at)
    return int(number) if number == ~(complement ^ key) & NOTHING else None


def place(folder: int) -> SpoolLocation:
    """The place of a folder that is open."""
    found = os.fstat(folder)
    return SpoolLocation(_machine(), found.st_dev, os.fstatvfs(folder).f_fsid, found.st_ino)


def _machine() -> str:
    try:
        with open("/etc/machine-id") as file:
            return file.read().strip()
    except OSError:
        return ""


def boot() -> str:
    """The id of this boot of the machine."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()
