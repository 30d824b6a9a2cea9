"""ELF files as far as tracing needs them: symbols, where an address lies in the file, what identifies the
file, and the static probes (USDT) that programs mark.

Read here with `struct`, not by a library: a probe on a function waits for it, and the 17,000 symbols of
libpython take 45 ms, where pyelftools, which makes an object of each, takes 1.1 s; nor is anything of DWARF
wanted. Invariants: a file is read where it is needed, by offset, and never mapped, because whoever shortens a
mapped file would kill us (SIGBUS); what a file says is compared with its size, so that a cut or hostile file
gives an `ElfError`, and costs no more memory than it has bytes.

Source: the System V ABI, chapters 4 and 5; for static probes, systemtap's description of its notes.
"""

import os
import struct
from collections.abc import Iterable, Iterator

from kwire.errors import KwireError
from kwire.hints import Final, Self, TypeAlias
from kwire.lazy import NamedTuple

MACHINES: Final = {3: "i386", 62: "x86_64", 183: "aarch64"}
FILES: Final = {1: "object", 2: "exec", 3: "dyn", 4: "core"}
KINDS: Final = {
    0: "none",
    1: "object",
    2: "func",
    3: "section",
    4: "file",
    5: "common",
    6: "tls",
    10: "ifunc",
}
NO_MEMORY: Final = ("section", "file", "tls")
"""Kinds of symbols that are at no address."""

LOAD: Final = 1  # PT_LOAD
SYMTAB, NOTE, NOBITS, DYNSYM = 2, 7, 8, 11  # SHT_
EXECUTE: Final = 1  # PF_X
BUILD_ID: Final = 3  # NT_GNU_BUILD_ID
STAPSDT: Final = 3  # NT_STAPSDT
MOST: Final = 1 << 28
"""Bytes of one section that are read."""

SYMBOLS_MOST: Final = 2 << 20
"""Symbols of one table that are read; Chromium has a million."""


class ElfError(KwireError):
    """A file is no ELF file, or a broken one."""


Raw: TypeAlias = "tuple[int, int, int, int]"


class Symbol(NamedTuple):
    """A defined symbol, by its name without a version. `address`: as the file has it; `size`: bytes, 0 where
    it is not told; `kind`: one of the words of `KINDS`, "" for others.
    """

    name: str
    address: int
    size: int
    kind: str


class Segment(NamedTuple):
    """A part of the file that is mapped: `length` bytes at `offset` to `address`; `flags`: PF_X, PF_W,
    PF_R.
    """

    address: int
    length: int
    offset: int
    flags: int


class Section(NamedTuple):
    """A section. `kind`: its SHT number; `link`: the number of the one that it goes with; `entry`: bytes of
    one of its entries.
    """

    name: str
    kind: int
    address: int
    offset: int
    size: int
    link: int
    entry: int


class Usdt(NamedTuple):
    """A static probe. `address`: of its instruction; `semaphore`: of the counter of its users, 0 where it has
    none; `arguments`: where they are, in words of the assembler (`lang.usdt`).
    """

    provider: str
    name: str
    address: int
    semaphore: int
    arguments: str


# What differs between files of 32 and of 64 bits: header behind its first 16 bytes, segment, section, symbol.
_LAYOUTS: Final = {
    1: ("HHIIIIIHHHHHH", "IIIIIIII", "IIIIIIIIII", "IIIBBH"),
    2: ("HHIQQQIHHHHHH", "IIQQQQQQ", "IIQQQQIIQQ", "IBBHQQ"),
}


class Elf:
    """An ELF file. `name`: what errors call it; `machine`: as uname says it, "" for others; `kind`: one of
    the words of `FILES`; `segments`: those that are loaded; `sections`: in the file's order.
    """

    __slots__ = (
        "_fd",
        "_layout",
        "_size",
        "_whole",
        "_wide",
        "kind",
        "machine",
        "name",
        "sections",
        "segments",
    )

    def __init__(self, data: bytes, name: str) -> None:
        """Of a file that is in memory."""
        self._fd = -1
        self._whole = data
        self._size = len(data)
        self._begin(name)

    @classmethod
    def open(cls, path: str) -> Self:
        """Open a file. Raises ElfError."""
        made = cls.__new__(cls)
        made._whole = b""
        try:
            made._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            made._fd = -1
            raise ElfError("read", path, (error.strerror or str(error)).lower()) from None
        made._size = os.fstat(made._fd).st_size
        made._begin(path)
        return made

    def _begin(self, name: str) -> None:
        self.name = name
        try:
            self._head()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close it; nothing more can be read."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def _wrong(self, cause: str) -> ElfError:
        return ElfError("read", self.name, cause)

    def _read(self, offset: int, size: int, what: str) -> bytes:
        """Bytes of the file. Raises ElfError where it has not so many there."""
        if size > MOST:
            raise self._wrong(f"its {what} would take {size:,} bytes")
        data = b""
        if 0 <= offset <= offset + size <= self._size:
            try:
                data = (
                    self._whole[offset : offset + size] if self._fd < 0 else os.pread(self._fd, size, offset)
                )
            except OSError as error:
                raise self._wrong((error.strerror or str(error)).lower()) from None
        if len(data) < size:
            raise self._wrong(f"its {what} lies beyond its end: the file is cut or damaged")
        return data

    def _head(self) -> None:
        if self._size < 16 or (start := self._read(0, 16, "head"))[:4] != b"\x7fELF":
            raise ElfError("read", self.name, "it is no ELF file", "name a program or a shared library")
        if start[4] not in _LAYOUTS or start[5] != 1:
            raise self._wrong("it is an ELF file of no class or byte order that is known here")
        self._layout = _LAYOUTS[start[4]]
        self._wide = start[4] == 2  # 64 bits
        head, segment, section, _ = ("<" + one for one in self._layout)
        kind, machine, _, _, segments, sections, _, _, per_segment, count, per_section, numbers, names = (
            struct.unpack(head, self._read(16, struct.calcsize(head), "head"))
        )
        self.kind = FILES.get(kind, "")
        self.machine = MACHINES.get(machine, "")
        self.segments: list[Segment] = []
        if count and per_segment == struct.calcsize(segment):
            table = self._read(segments, count * per_segment, "table of segments")
            for one in struct.iter_unpack(segment, table):
                if self._wide:
                    type_, flags, offset, address, _, length = one[:6]
                else:
                    type_, offset, address, _, length, _, flags = one[:7]
                if type_ == LOAD:
                    self.segments.append(Segment(address, length, offset, flags))
        self.sections: list[Section] = []
        if sections and per_section == struct.calcsize(section):
            if not numbers or names == 0xFFFF:  # more than fit: the first section tells
                first = struct.unpack(section, self._read(sections, per_section, "table of sections"))
                numbers, names = numbers or first[5], first[6] if names == 0xFFFF else names
            self._name_sections(sections, per_section * numbers, names)

    def _name_sections(self, offset: int, size: int, names: int) -> None:
        table = self._read(offset, size, "table of sections")
        found = list(struct.iter_unpack("<" + self._layout[2], table))
        texts = b""
        if names < len(found):
            texts = self._read(found[names][4], found[names][5], "names of sections")
        for name, kind, _, address, at, length, link, _, _, entry in found:
            self.sections.append(Section(text_in(texts, name), kind, address, at, length, link, entry))

    # -- what it has

    def section(self, name: str) -> bytes:
        """The bytes of the first section of a name; empty where there is none. Raises ElfError."""
        found = next((one for one in self.sections if one.name == name), None)
        return self._bytes(found) if found else b""

    def _bytes(self, section: Section) -> bytes:
        if section.kind == NOBITS:
            return b""
        return self._read(section.offset, section.size, f"section {section.name}")

    def symbols(self) -> list[Symbol]:
        """The defined symbols of both tables, each once, by address. Raises ElfError."""
        found: dict[tuple[str, int], Symbol] = {}
        for table in self.sections:
            if table.kind in (SYMTAB, DYNSYM):
                for symbol in self._table(table):
                    found.setdefault((symbol.name, symbol.address), symbol)
        return sorted(found.values(), key=lambda one: one.address)

    def _table(self, table: Section) -> Iterator[Symbol]:
        texts, entries = self._raw(table)
        for name, address, size, info in entries:
            kind = KINDS.get(info & 15, "")
            if kind not in NO_MEMORY and (text := name_in(texts, name)):
                yield Symbol(text, address, size, kind)

    def raw_symbols(self) -> "tuple[bytes, list[Raw]]":
        """The symbols of both tables as they stand there: all names as bytes, and for each defined symbol the
        place of its name in these, its address, its size, and its kind (the lower four bits). This costs
        little where few of many names are needed (`name_in`). Raises ElfError.
        """
        texts, found = b"", []
        for table in self.sections:
            if table.kind in (SYMTAB, DYNSYM):
                more, entries = self._raw(table)
                begin, texts = len(texts), texts + more
                found += [(name + begin, address, size, info) for name, address, size, info in entries]
        return texts, found

    def _raw(self, table: Section) -> "tuple[bytes, Iterable[Raw]]":
        layout = "<" + self._layout[3]
        if table.link >= len(self.sections) or table.entry != struct.calcsize(layout):
            raise self._wrong(f"its section {table.name} is no table of symbols")
        if table.size > SYMBOLS_MOST * table.entry:
            raise self._wrong(f"its section {table.name} has more than {SYMBOLS_MOST:,} symbols")
        texts, entries = self._bytes(self.sections[table.link]), self._bytes(table)
        every = struct.iter_unpack(layout, entries[: len(entries) - len(entries) % table.entry])
        if self._wide:
            return texts, (
                (name, address, size, info)
                for name, info, _, section, address, size in every
                if section and address and name
            )
        return texts, (
            (name, address, size, info)
            for name, address, size, info, _, section in every
            if section and address and name
        )

    def file_offset(self, address: int, *, code: bool = False) -> int | None:
        """The offset in the file of what is loaded at an address; `code`: of what is loaded to be run. None
        where the file has nothing there.
        """
        for one in self.segments:
            inside = one.address <= address < one.address + one.length
            if inside and (not code or one.flags & EXECUTE):
                return address - one.address + one.offset
        return None

    def address_at(self, offset: int, *, code: bool = False) -> int | None:
        """The address at which a place in the file is loaded; `code`: to be run. None where it is not."""
        for one in self.segments:
            if one.offset <= offset < one.offset + one.length and (not code or one.flags & EXECUTE):
                return offset - one.offset + one.address
        return None

    @property
    def build_id(self) -> str:
        """What the linker identifies the build by, in hexadecimal; empty where it does not. Raises
        ElfError.
        """
        for owner, kind, description in self._notes(".note.gnu.build-id"):
            if owner == b"GNU" and kind == BUILD_ID:
                return description.hex()
        return ""

    @property
    def debug_link(self) -> tuple[str, int] | None:
        """The name and the checksum (CRC-32) of the file that has its symbols; None where it names none.
        Raises ElfError.
        """
        data = self.section(".gnu_debuglink")
        name = data.partition(b"\0")[0]
        at = (len(name) + 4) & ~3
        if not name or len(data) < at + 4:
            return None
        return name.decode("utf-8", "surrogateescape"), int.from_bytes(data[at : at + 4], "little")

    def usdt(self) -> list[Usdt]:
        """Its static probes, in the file's order. Raises ElfError."""
        words = "<QQQ" if self._wide else "<III"
        length = struct.calcsize(words)
        base = next((one.address for one in self.sections if one.name == ".stapsdt.base"), 0)
        found = []
        for owner, kind, description in self._notes(".note.stapsdt"):
            if owner != b"stapsdt" or kind != STAPSDT or len(description) < length:
                continue
            address, linked, semaphore = struct.unpack_from(words, description)
            texts = description[length:].split(b"\0")
            if len(texts) < 3:
                raise self._wrong("a note of a static probe in it has no end")
            moved = base - linked if base else 0  # a linker that moved the code left the notes as they were
            provider, name, arguments = (one.decode("utf-8", "replace") for one in texts[:3])
            found.append(
                Usdt(provider, name, address + moved, semaphore + moved if semaphore else 0, arguments)
            )
        return found

    def _notes(self, name: str) -> Iterator[tuple[bytes, int, bytes]]:
        """(owner, kind, description) of the notes in sections of a name."""
        for section in self.sections:
            if section.name != name or section.kind != NOTE:
                continue
            data, at = self._bytes(section), 0
            while at + 12 <= len(data):
                owner, description, kind = struct.unpack_from("<III", data, at)
                body = at + 12 + (owner + 3 & ~3)
                if body + description > len(data):
                    raise self._wrong(f"a note in its section {name} lies beyond its end")
                yield data[at + 12 : at + 12 + owner].rstrip(b"\0"), kind, data[body : body + description]
                at = body + (description + 3 & ~3)


def name_in(texts: bytes, at: int) -> str:
    """The name of a symbol without its version; empty where there is none."""
    return text_in(texts, at).partition("@")[0]


def text_in(texts: bytes, at: int) -> str:
    """The text at a place of a table of strings; empty where there is none."""
    end = texts.find(b"\0", at)
    return texts[at:end].decode("utf-8", "surrogateescape") if end >= 0 else ""
