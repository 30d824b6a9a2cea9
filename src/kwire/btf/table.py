"""The offset table of a BTF blob: where each type record is, and which types carry a given name offset.

The records of the type section have different lengths, so the n-th is found only by walking past all before
it: 60 ms for a kernel's 126,000 types. The table is made once and can be kept in a file (`kwire.btf.cache`).
Invariant: a walk ends within the section or with a BtfError; its memory is bounded by the section's size.
"""

import sys
from array import array

from kwire.btf.errors import BtfError
from kwire.btf.header import Data, Header, RecordSize
from kwire.lazy import NamedTuple


class Table(NamedTuple):
    """`offsets[n]`: byte of the type section where record n starts; `by_name`: all n, by name offset."""

    offsets: "memoryview[int] | array[int]"
    by_name: "memoryview[int] | array[int]"


def build_table(data: Data, header: Header, sizes: RecordSize, subject: str) -> Table:
    """Walk the type section. Raises BtfError where a record is cut or of an unknown kind."""
    words = array("I")
    words.frombytes(memoryview(data)[header.types : header.types_end])
    if (header.order == "<") != (sys.byteorder == "little"):
        words.byteswap()
    end = len(words) * 4
    offsets: list[int] = []
    append = offsets.append
    at = 0
    try:
        while at < end:
            append(at)
            at += sizes[words[(at >> 2) + 1]]
    except KeyError as error:
        raise BtfError(subject, f"unknown kind {error.args[0]}", header.types + at) from None
    except IndexError:
        at = end + 1
    if at != end:
        raise BtfError(subject, "the last type is cut", header.types + offsets[-1])
    names = [words[at >> 2] for at in offsets]
    by_name = sorted(range(len(names)), key=names.__getitem__)
    return Table(array("I", offsets), array("I", by_name))
