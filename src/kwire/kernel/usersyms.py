"""Addresses in processes → names: from the files that they have mapped, from these files' debug files, from
the kernel's own code in each process (the vdso), and from what JIT compilers tell (perf map files).

A process is looked at through /proc, so its files are those of its own mount namespace, and it has to live
when it is looked at (`look`), and when what tells its names is opened (`open`), but not when they are asked
for (`at`). Invariants: nothing here raises but for want of memory: what cannot be read gives no name; files
are read by `kernel.elf`, which bounds what they cost; what a file says is kept by the file's identity, so a
library is read once for all processes; a perf map is believed only where it belongs to root or to the user of
the process.
"""

import os
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

from kwire.kernel.elf import Elf, ElfError, Symbol
from kwire.lazy import NamedTuple

NEEDED: Final = (
    "CAP_SYS_PTRACE",  # another process' mappings and root directory
    "CAP_DAC_READ_SEARCH",  # its files
    "CAP_CHECKPOINT_RESTORE",  # those that are deleted, through /proc/PID/map_files
)
"""What naming places in processes takes, once privileges were given up."""

CODE: Final = ("func", "ifunc", "none", "")
"""Kinds of symbols that code may be in."""

DEBUG: Final = "/usr/lib/debug"
"""Where debug files lie that are not beside their programs."""

PERF_MAP_MOST: Final = 64 << 20
"""Bytes of a perf map that are read."""

MAPS_MOST: Final = 16 << 20
"""Bytes of a process' list of mappings that are read."""

FILES_MOST: Final = 256
"""Files of which the symbols are remembered."""

PROCESSES_MOST: Final = 1024
"""Processes of which the mappings are remembered."""

NESTED: Final = 8
"""Symbols that may begin within another one, before the address that is asked for."""

VDSO: Final = "[vdso]"


class Place(NamedTuple):
    """What an address of a process is: the name of what is there (empty: not known) and the distance from its
    start; the file that is mapped there, as the process sees it ("" where none is).
    """

    name: str
    offset: int
    file: str


class Mapping(NamedTuple):
    """A stretch of a process' memory that code can be in. `offset`: where in the file it begins; `inode`: 0
    where there is no file.
    """

    start: int
    end: int
    offset: int
    inode: int
    path: str


class Table:
    """Names by addresses, ready for many look-ups."""

    __slots__ = ("_ends", "_names", "_starts")

    def __init__(self, entries: Iterable[tuple[int, int, str]]) -> None:
        """`entries`: (address, bytes or 0 where that is not known, name), of one address the best first."""
        ordered = sorted(entries, key=lambda one: one[0])
        self._starts, self._ends = array("Q"), array("Q")
        self._names: list[str] = []
        for start, size, name in ordered:
            if self._starts and self._starts[-1] == start:
                continue
            self._starts.append(start)
            self._ends.append(min(start + size, (1 << 64) - 1) if size else 0)
            self._names.append(name)

    def __len__(self) -> int:
        return len(self._names)

    def at(self, address: int) -> tuple[str, int] | None:
        """The name at an address, and the distance from its start; None where none reaches so far."""
        last = bisect_right(self._starts, address) - 1
        for at in range(last, max(last - NESTED, -1), -1):  # one that ends before it may lie in another
            if not self._ends[at] or address < self._ends[at]:
                return self._names[at], address - self._starts[at]
        return None


class File:
    """The symbols of one ELF file, and of its debug file, which are opened at once and read when an address
    in it is asked for. `root`: the process' root.
    """

    __slots__ = ("_elf", "_other", "_table")

    def __init__(self, elf: Elf, root: str) -> None:
        self._elf = elf
        self._other: Elf | None = None
        self._table: Table | None = None
        if not any(one.name == ".symtab" for one in elf.sections):
            with suppress(ElfError):
                self._other = _separate(elf, root)

    def at(self, offset: int) -> tuple[str, int] | None:
        """The name of what is at an offset of the file, and the distance from its start."""
        address = self._elf.address_at(offset, code=True)
        if address is None:
            return None
        if self._table is None:
            self._table = Table(_entries([*_symbols(self._elf), *_symbols(self._other)]))
        return self._table.at(address)


def _symbols(elf: Elf | None) -> list[Symbol]:
    """The symbols of a file, which is closed then: of it only the segments are needed any more."""
    if elf is None:
        return []
    try:
        with elf:
            return elf.symbols()
    except ElfError:
        return []


def _separate(elf: Elf, root: str) -> Elf | None:
    """The debug file of an ELF file, where there is one. Raises ElfError."""
    build, link = elf.build_id, elf.debug_link
    where: list[tuple[str, int | None]] = []
    if len(build) > 2:
        where += ((f"{one}{DEBUG}/.build-id/{build[:2]}/{build[2:]}.debug", None) for one in (root, ""))
    if link is not None and "/" not in link[0]:
        folder, within = os.path.dirname(elf.name), os.path.dirname(elf.name.removeprefix(root))
        for one in (folder, f"{folder}/.debug", f"{root}{DEBUG}{within}"):
            where.append((f"{one}/{link[0]}", link[1]))
    for path, checksum in where:
        try:
            other = Elf.open(path)
        except ElfError:
            continue
        if other.build_id == build if checksum is None else _checksum(path) == checksum:
            return other
        other.close()
    return None


def _checksum(path: str) -> int:
    """The CRC-32 of a file; -1 where it cannot be read."""
    sum_ = 0
    try:
        with open(path, "rb") as file:
            while data := file.read(1 << 20):
                sum_ = zlib.crc32(data, sum_)
    except OSError:
        return -1
    return sum_


def _entries(symbols: Sequence[Symbol]) -> list[tuple[int, int, str]]:
    """Of an address the name that people know best: a function's, of several the one without underscores."""

    def rank(symbol: Symbol) -> tuple[int, bool, bool, int, str]:
        name = symbol.name
        plain = len(name) - len(name.lstrip("_"))
        return symbol.address, symbol.kind != "func", not symbol.size, plain, name

    found = sorted((one for one in symbols if one.kind in CODE), key=rank)
    return [(one.address, one.size, one.name) for one in found]


class Process:
    """One process. `pid`: as /proc knows it."""

    __slots__ = ("_files", "_mappings", "_perf", "_perf_seen", "_starts", "pid")

    def __init__(self, pid: int, files: "dict[tuple[int, int, int], File | None]") -> None:
        self.pid = pid
        self._files = files
        self._mappings: list[Mapping] = []
        self._starts: list[int] = []
        self._perf: Table | None = None
        self._perf_seen: tuple[int, int, int] = (0, 0, 0)  # inode, size, time

    def look(self) -> None:
        """Read again what it has mapped; where it is gone what was read before stays."""
        try:
            with open(f"/proc/{self.pid}/maps", "rb") as file:
                text = file.read(MAPS_MOST)
        except OSError:
            return
        found = [one for one in map(_mapping, text.splitlines()) if one is not None]
        if found:
            self._mappings, self._starts = found, [one.start for one in found]

    def open(self, addresses: Iterable[int]) -> None:
        """Open what tells the names of these addresses, so that they can be told when the process is gone."""
        for address in addresses:
            mapping = self._mapping(address)
            if mapping is None or mapping.path == VDSO:
                continue
            if self._file(mapping) is None and (self._perf is None or self._perf.at(address) is None):
                self._read_perf_map()

    def _mapping(self, address: int) -> Mapping | None:
        number = bisect_right(self._starts, address) - 1
        if number < 0 or address >= self._mappings[number].end:
            return None
        return self._mappings[number]

    def at(self, address: int) -> Place:
        """What is at an address."""
        mapping = self._mapping(address)
        if mapping is None:
            return Place("", 0, "")
        found = None
        if mapping.path == VDSO:
            vdso = _vdso()
            found = vdso.at(address - mapping.start) if vdso else None
        else:
            file = self._file(mapping)
            if file is not None:
                found = file.at(address - mapping.start + mapping.offset)
            elif self._perf:
                found = self._perf.at(address)
        name, offset = found or ("", 0)
        return Place(demangled(name), offset, mapping.path)

    def _file(self, mapping: Mapping) -> File | None:
        """The ELF file that is mapped there; None where none is, as with what a JIT compiler made."""
        if not mapping.inode:
            return None
        root = f"/proc/{self.pid}/root"
        path = root + mapping.path
        if mapping.path.endswith(" (deleted)"):
            path = f"/proc/{self.pid}/map_files/{mapping.start:x}-{mapping.end:x}"
        try:
            stat = os.stat(path)
        except OSError:
            return next((file for key, file in self._files.items() if key[1] == mapping.inode), None)
        key = (stat.st_dev, stat.st_ino, stat.st_mtime_ns)
        if key not in self._files:
            if len(self._files) >= FILES_MOST:
                del self._files[next(iter(self._files))]
            try:
                self._files[key] = File(Elf.open(path), root)
            except ElfError:
                self._files[key] = None
        return self._files[key]

    def _read_perf_map(self) -> None:
        """Read the perf map, where it is another one than it was."""
        try:
            path = f"/proc/{self.pid}/root/tmp/perf-{_innermost(self.pid)}.map"
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                stat = os.fstat(file.fileno())
                seen = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
                if seen == self._perf_seen or stat.st_uid not in (0, os.stat(f"/proc/{self.pid}").st_uid):
                    return
                self._perf_seen = seen
                text = file.read(PERF_MAP_MOST)
        except (OSError, ValueError):
            return
        self._perf = Table(reversed(list(perf_entries(text))))  # of two for one place the later one is true


def perf_entries(text: bytes) -> Iterable[tuple[int, int, str]]:
    """(address, bytes, name) of each sound line of a perf map: both numbers in hexadecimal, then the name."""
    for line in text.split(b"\n"):
        words = line.split(b" ", 2)
        if len(words) == 3 and words[2]:
            try:
                start, size = int(words[0], 16), int(words[1], 16)
            except ValueError:
                continue
            if 0 <= start < 1 << 64 and 0 < size < 1 << 40:
                yield start, size, words[2].decode("utf-8", "replace")


def _mapping(line: bytes) -> Mapping | None:
    """A line of /proc/PID/maps; None for what no code is in."""
    words = line.split(None, 5)
    if len(words) < 5 or b"x" not in words[1]:
        return None
    start, _, end = words[0].partition(b"-")
    path = words[5].replace(b"\\012", b"\n").decode("utf-8", "surrogateescape") if len(words) > 5 else ""
    return Mapping(int(start, 16), int(end, 16), int(words[2], 16), int(words[4]), path)


def _innermost(pid: int) -> int:
    """The number of a process in its own pid namespace."""
    with open(f"/proc/{pid}/status", "rb") as file:
        for line in file:
            if line.startswith(b"NSpid:"):
                return int(line.split()[-1])
    return pid


_own_vdso: list[File | None] = []


def _vdso() -> File | None:
    """The vdso, which the kernel gives every process; our own is read."""
    if not _own_vdso:
        _own_vdso.append(None)
        try:
            with open("/proc/self/maps", "rb") as file:
                found = [one for one in map(_mapping, file.read().splitlines()) if one and one.path == VDSO]
            with open("/proc/self/mem", "rb", buffering=0) as memory:
                memory.seek(found[0].start)
                data = memory.read(found[0].end - found[0].start)
            _own_vdso[0] = File(Elf(data, VDSO), "")
        except (OSError, IndexError, ElfError):
            pass
    return _own_vdso[0]


class UserSymbols:
    """The processes that were asked for, and the files that they have."""

    __slots__ = ("_files", "_processes")

    def __init__(self) -> None:
        self._files: dict[tuple[int, int, int], File | None] = {}
        self._processes: dict[int, Process] = {}

    def look(self, pid: int) -> Process:
        """A process as it is now."""
        found = self._processes.pop(pid, None)
        if found is None:
            if len(self._processes) >= PROCESSES_MOST:
                del self._processes[next(iter(self._processes))]
            found = Process(pid, self._files)
        self._processes[pid] = found
        found.look()
        return found


def demangled(name: str) -> str:
    """A name as its language writes it (C++ and Rust), where it is mangled and who can tell is installed."""
    if not name.startswith(("_Z", "_R", "___Z")):
        return name
    try:
        from pydemumble import demangle
    except ImportError:  # the extra `symbols`
        return name
    return demangle(name) or name
