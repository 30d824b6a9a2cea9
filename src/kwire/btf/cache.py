"""Keeps offset tables in files, so that each kernel's BTF is walked once on a machine.

Invariants: a file is keyed by the content of the BTF (its size and a CRC), written whole under another name
and then renamed, and believed only when all its checks hold and it belongs to this user; whatever is wrong
with it, or with the directory, the table is simply made again. Nothing here raises for a file's sake.
"""

import contextlib
import os
import struct
import zlib
from array import array

from kwire.btf.header import Data
from kwire.btf.table import Table

_MAGIC = b"kwirebtf"
_VERSION = 1
_HEAD = struct.Struct("=8sIIIII")  # magic, version, types, bytes of BTF, CRC of BTF, CRC of what follows
_SUFFIX = ".table"
_PAGE = 4096
_KEEP = 8
"""Tables kept: those of the kernels (and big modules) used last, 1 MB each."""
WORTH = 256 << 10
"""Bytes of BTF from which a table is worth a file."""


def cache_directory() -> str:
    """$XDG_CACHE_HOME/kwire, else /var/cache/kwire for root and ~/.cache/kwire for others; "" for nowhere."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    if home.startswith("/"):
        return f"{home}/kwire"
    if os.geteuid() == 0:
        return "/var/cache/kwire"
    home = os.environ.get("HOME", "")
    return f"{home}/.cache/kwire" if home.startswith("/") else ""


def load_table(directory: str, data: Data) -> Table | None:
    """The table of this BTF, if there is a sound one in `directory`."""
    key = _key(data)
    try:
        fd = os.open(_path(directory, key), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        status = os.fstat(fd)
        if status.st_uid != os.geteuid() or not _HEAD.size <= status.st_size <= _HEAD.size + 8 * len(data):
            return None
        content = os.read(fd, status.st_size)
    except OSError:
        return None
    finally:
        os.close(fd)
    if len(content) < _HEAD.size:
        return None
    body = memoryview(content)[_HEAD.size :]
    magic, version, count, size, crc, body_crc = _HEAD.unpack_from(content)
    if (magic, version, size, crc) != (_MAGIC, _VERSION, *key) or len(body) != 8 * count:
        return None
    if zlib.crc32(body) != body_crc:
        return None
    words = body.cast("I")
    return Table(words[:count], words[count:])


def save_table(directory: str, data: Data, table: Table) -> bool:
    """Keep a table; False where that cannot be done."""
    key = _key(data)
    body = array("I", table.offsets).tobytes() + array("I", table.by_name).tobytes()
    content = _HEAD.pack(_MAGIC, _VERSION, len(table.offsets), *key, zlib.crc32(body)) + body
    path = _path(directory, key)
    draft = f"{path}.{os.getpid()}"
    try:
        os.makedirs(directory, 0o755, exist_ok=True)
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except OSError:
        return False
    try:
        try:
            whole = os.write(fd, content) == len(content)
        finally:
            os.close(fd)
        if whole:
            os.rename(draft, path)
            _prune(directory)
            return True
    except OSError:
        pass
    with contextlib.suppress(OSError):
        os.unlink(draft)
    return False


def _key(data: Data) -> tuple[int, int]:
    """Size and CRC of a sixteenth of the pages, the first and the last among them.

    The table depends on where records start and what names they carry; a type added, removed or lengthened
    anywhere moves everything after it, so that pages spread over the blob tell. All pages would cost 1.5 ms.
    """
    crc = zlib.crc32(data[-_PAGE:])
    for at in range(0, len(data), 16 * _PAGE):
        crc = zlib.crc32(data[at : at + _PAGE], crc)
    return len(data), crc


def _path(directory: str, key: tuple[int, int]) -> str:
    return f"{directory}/btf-{key[0]:x}-{key[1]:08x}{_SUFFIX}"


def _prune(directory: str) -> None:
    with os.scandir(directory) as entries:
        tables = [e for e in entries if e.name.startswith("btf-") and e.name.endswith(_SUFFIX)]
    for entry in sorted(tables, key=lambda e: e.stat().st_mtime_ns)[:-_KEEP]:
        os.unlink(entry.path)
