"""Gets the bytes of BTF out of a file: as they are, or from the `.BTF` section of an ELF file.

Invariant: a file of sysfs is mapped where the kernel allows that (since Linux 6.16) and read where it does
not.
"""

import mmap
import os
import struct

from kwire.btf.errors import BtfError
from kwire.btf.header import MAX_SIZE, Data

_MAX_SECTIONS = 1 << 16
_PAGE = 4096


def read_file(path: str, subject: str) -> Data:
    """The BTF in a file, a raw blob or an ELF file. Raises BtfError, also for what the system refuses."""
    data = _contents(path, subject)
    return elf_section(data, subject) if data[:4] == b"\x7fELF" else data


def _contents(path: str, subject: str) -> Data:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise BtfError(subject, f"{path}: {os.strerror(error.errno or 0)}") from None
    try:
        size = os.fstat(fd).st_size
        if not 0 < size <= MAX_SIZE:
            raise BtfError(subject, f"{path} has {size} bytes")
        try:
            return mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
        except (OSError, ValueError):
            return _read(fd, size)
    except OSError as error:
        raise BtfError(subject, f"{path}: {os.strerror(error.errno or 0)}") from None
    finally:
        os.close(fd)


def _read(fd: int, size: int) -> bytes:
    """All of a file of sysfs, which gives no more than a page at a time, so that room for more is wasted."""
    pieces = []
    while size > 0 and (piece := os.read(fd, _PAGE)):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def elf_section(data: Data, subject: str) -> bytes:
    """The content of `.BTF` of an ELF file of either word size and byte order."""
    try:
        order = {1: "<", 2: ">"}[data[5]]
        if data[4] == 2:
            (table,) = struct.unpack_from(order + "Q", data, 40)
            entry, count, names = struct.unpack_from(order + "HHH", data, 58)
            section = order + "I4xQQQQ"  # name, flags, address, offset, size
        else:
            (table,) = struct.unpack_from(order + "I", data, 32)
            entry, count, names = struct.unpack_from(order + "HHH", data, 46)
            section = order + "I4xIIII"
        names_at = struct.unpack_from(section, data, table + names * entry)[3]
        for index in range(min(count, _MAX_SECTIONS)):
            name, _, _, start, size = struct.unpack_from(section, data, table + index * entry)
            if data[names_at + name : names_at + name + 5] == b".BTF\0":
                if start + size > len(data):
                    raise BtfError(subject, "the .BTF section is cut", table + index * entry)
                return data[start : start + size]
    except (struct.error, KeyError, IndexError, OverflowError):
        raise BtfError(subject, "a damaged ELF file") from None
    raise BtfError(subject, "an ELF file without a .BTF section")
