"""What a spool's folder says of its session: the files `session` and `sent`.

    session   CRC-32 of the rest u32, little-endian · a CBOR map, the fields of `Kept`
    sent      token 16 bytes · number of the last payload sent u64 (all ones: none), little-endian

The laws: `session` is replaced as a whole, by rename(2), and synced; `sent` is mapped memory, so that it is
right after kill -9; after a power loss it may be a second behind.
"""

import mmap
import os
import zlib
from typing import Any, Final, NamedTuple

from kwire.stream.segment import SpoolError
from kwire.wire import cbor
from kwire.wire.frame import FrameError

SESSION: Final = "session"
SENT: Final = "sent"
NOTHING: Final = (1 << 64) - 1


class Kept(NamedTuple):
    """What the session file says: the token, the payloads before the records, the number of their first.

    `boot` is the id of the boot that wrote it: after another, `sent` may be behind.
    """

    token: bytes
    prefix: tuple[bytes, ...]
    start: int
    boot: str


def save(folder: int, kept: Kept) -> None:
    """Write the session file and put it in the place of the one before."""
    data = cbor.dumps({**kept._asdict(), "prefix": list(kept.prefix)})
    data = zlib.crc32(data).to_bytes(4, "little") + data
    temporary = f"{SESSION}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(temporary, SESSION, src_dir_fd=folder, dst_dir_fd=folder)
    os.fsync(folder)


def read(folder: int) -> Kept | None:
    """What the session file says; None where there is none. SpoolError where it is damaged."""
    try:
        fd = os.open(SESSION, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return None
    with open(fd, "rb") as file:
        data = file.read()
    try:
        if zlib.crc32(data[4:]) == int.from_bytes(data[:4], "little"):
            value: dict[Any, Any] = cbor.loads_map(data[4:])
            token, prefix, start, boot = (value[name] for name in Kept._fields)
            return Kept(bytes(token), tuple(prefix), int(start), str(boot))
    except (FrameError, KeyError, TypeError, ValueError, IndexError):
        pass
    raise SpoolError("read", "session file", "it is damaged")


def map_sent(folder: int) -> tuple[mmap.mmap, "memoryview[int]"]:
    """The file `sent`, made where it is not there: three words that outlive the process as they are."""
    fd = os.open(SENT, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        if os.fstat(fd).st_size < 24:
            os.pwrite(fd, bytes(16) + b"\xff" * 8, 0)
        mapped = mmap.mmap(fd, 24)
    finally:
        os.close(fd)
    return mapped, memoryview(mapped).cast("Q")


def boot() -> str:
    """The id of this boot of the machine."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()
