"""The header of a BTF blob, and how many bytes each record of its type section takes.

Invariants: sections stand where the header says, never "right after it"; a longer header and a layout table
(since Linux 7.1) are taken as they come; nothing is believed before it is checked against the size of the
blob.
Source: linux/btf.h.
"""

import struct
from mmap import mmap

from kwire.btf.errors import BtfError
from kwire.btf.types import Kind
from kwire.hints import TypeAlias
from kwire.lazy import NamedTuple

Data: TypeAlias = bytes | mmap
"""What BTF is read from; an mmap is read-only and stays open."""

MAGIC = 0xEB9F
MAX_SIZE = 1 << 30
"""Bytes; the largest blob that is read at all (the kernel's own is 5 to 10 MB)."""

KIND_MASK, KIND_BYTE = 0x7F, 7
"""Of a type record: the bits of a kind, and which of its bytes has them (little-endian)."""

_FIXED = 12
"""Bytes every type record starts with: name offset, info, size or type."""

# Bytes after those 12, by kind: (once, for each of the record's vlen elements).
_RECORDS: dict[int, tuple[int, int]] = {
    Kind.INT: (4, 0),
    Kind.PTR: (0, 0),
    Kind.ARRAY: (12, 0),
    Kind.STRUCT: (0, 12),
    Kind.UNION: (0, 12),
    Kind.ENUM: (0, 8),
    Kind.FWD: (0, 0),
    Kind.TYPEDEF: (0, 0),
    Kind.VOLATILE: (0, 0),
    Kind.CONST: (0, 0),
    Kind.RESTRICT: (0, 0),
    Kind.FUNC: (0, 0),  # vlen is the linkage
    Kind.FUNC_PROTO: (0, 8),
    Kind.VAR: (4, 0),
    Kind.DATASEC: (0, 12),
    Kind.FLOAT: (0, 0),
    Kind.DECL_TAG: (4, 0),
    Kind.TYPE_TAG: (0, 0),
    Kind.ENUM64: (0, 12),
}


class Header(NamedTuple):
    """Where things are: offsets and ends are bytes from the start of the blob, `order` is "<" or ">"."""

    order: str
    length: int
    types: int
    types_end: int
    strings: int
    strings_end: int
    layout: int
    layout_end: int


def read_header(data: Data, subject: str) -> Header:
    """Read and check the header at the start of `data` (only its first bytes are looked at).

    Raises BtfError.
    """
    total = len(data)
    if total < 24:
        raise BtfError(subject, f"only {total} bytes, a header has at least 24", 0)
    if total > MAX_SIZE:
        raise BtfError(subject, f"{total} bytes are more than is ever read ({MAX_SIZE})", 0)
    order = next((o for o in "<>" if struct.unpack_from(o + "H", data)[0] == MAGIC), "")
    if not order:
        raise BtfError(subject, "no BTF: the magic number 0xeb9f is not there", 0)
    version, length = struct.unpack_from(order + "2xBxI", data)
    if version != 1:
        raise BtfError(subject, f"version {version}, only 1 is known", 2)
    if not 24 <= length <= total:
        raise BtfError(subject, f"header length {length}, not within 24..{total}", 4)

    def section(at: int, name: str) -> tuple[int, int]:
        offset, size = struct.unpack_from(order + "II", data, at)
        start = length + offset
        if start + size > total:
            raise BtfError(subject, f"the {name} section ends at {start + size}, the data at {total}", at)
        return start, start + size

    types, types_end = section(8, "type")
    strings, strings_end = section(16, "string")
    layout, layout_end = section(24, "layout") if length >= 32 else (0, 0)
    if (types_end - types) % 4:
        raise BtfError(subject, f"the type section has {types_end - types} bytes, not a multiple of 4", 12)
    return Header(order, length, types, types_end, strings, strings_end, layout, layout_end)


class RecordSize(dict[int, int]):
    """info word → bytes of the type record that carries it; filled as info words are met.

    Records of kinds that this version does not know take what the blob's layout table says; where it says
    nothing, KeyError carries the kind.
    """

    def __init__(self, header: Header, data: Data) -> None:
        super().__init__()
        self._records = dict(_RECORDS)
        if header.layout_end > header.layout:
            count = (header.layout_end - header.layout) // 4
            for kind in range(count):
                once, each, _ = struct.unpack_from(header.order + "BBH", data, header.layout + 4 * kind)
                if kind and kind not in _RECORDS and once % 4 == 0 and each % 4 == 0:
                    self._records[kind] = (once, each)

    def __missing__(self, info: int) -> int:
        kind = kind_of(info)
        if kind not in self._records:
            raise KeyError(kind)
        once, each = self._records[kind]
        size = _FIXED + once + each * vlen_of(info)
        self[info] = size
        return size


def kind_of(info: int) -> int:
    """The kind of the type with this info word (7 bits since Linux 7.1, 5 before and zeros above)."""
    return info >> 24 & KIND_MASK


def vlen_of(info: int) -> int:
    """How many elements the type with this info word has (24 bits since Linux 7.1, 16 before)."""
    return info & 0xFFFFFF
