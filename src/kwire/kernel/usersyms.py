"""Addresses in processes → names: from the files that they have mapped, from these files' debug files, from
the kernel's own code in each process (the vdso), and from what JIT compilers tell (perf map files).

A process is looked at through /proc, so its files are those of its own mount namespace, and it has to live
when it is looked at (`look`), and when what tells its names is opened (`open`), but not when they are asked
for (`at`). A JIT compiler may tell of its code late, even when the process ends, so its perf map is read
again, also after the process is gone. Invariants: nothing here raises but for want of memory: what cannot be
read gives no name; files are read by `kernel.elf`, which bounds what they cost; what a file says is kept by
the file's identity, so a library is read once for all processes; a perf map is believed only where it belongs
to root or to the user of the process, and reading it again takes a tenth of the time at most.
"""

import os
import time
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from stat import S_ISREG
from typing import Final

from kwire.demangle import demangled
from kwire.kernel.elf import Elf, ElfError, name_in, text_in
from kwire.lazy import NamedTuple

NEEDED: Final = (
    "CAP_SYS_PTRACE",  # another process' mappings and root directory
    "CAP_DAC_READ_SEARCH",  # its files
    "CAP_CHECKPOINT_RESTORE",  # those that are deleted, through /proc/PID/map_files
)
"""What naming places in processes takes, once privileges were given up."""

FUNC: Final = 2
CODE: Final = frozenset(range(16)) - {1, 3, 4, 5, 6}
"""Kinds of symbols that code may be in, as ELF numbers them: not objects, sections, files, commons, TLS."""

DEBUG: Final = "/usr/lib/debug"
"""Where debug files lie that are not beside their programs."""

PERF_MAP_MOST: Final = 32 << 20
"""Bytes of a perf map that are read, the last ones."""

PERF_LINES_MOST: Final = 1 << 19
"""Lines of a perf map that are read, the last ones."""

AT_ONCE, SHARE = 0.25, 0.1
"""Seconds that reading the perf map of a process again and again may take, and of each second more."""

MAPS_MOST: Final = 16 << 20
"""Bytes of a process' list of mappings that are read."""

FILES_MOST: Final = 256
"""Files of which the symbols are remembered."""

PROCESSES_MOST: Final = 1024
"""Processes of which the mappings are remembered."""

NESTED: Final = 8
"""Symbols that may begin within another one, before the address that is asked for."""

VDSO: Final = "[vdso]"


class UserSymbol(NamedTuple):
    """What an address of a process is: the name of what is there (empty: not known) and the distance from its
    start; the file that is mapped there, as the process sees it ("" where none is).
    """

    name: str
    offset: int
    file: str


class Location(NamedTuple):
    """Where an address of a process is: the file that is mapped there, as the process sees it; `namer`: who
    tells the names there, None where nobody does; `at`: what the namer is asked for.
    """

    file: str
    namer: "File | PerfMap | None"
    at: int

    def symbol(self) -> UserSymbol:
        """What is there. Takes long where names of a file are asked for the first time."""
        name, offset = (self.namer.at(self.at) if self.namer is not None else None) or ("", 0)
        return UserSymbol(demangled(name), offset, self.file)


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

    __slots__ = ("_ends", "_names", "_starts", "_texts")

    def __init__(self, entries: Iterable[tuple[int, int, int]], texts: bytes) -> None:
        """`entries`: (address, bytes or 0 where that is not known, place of the name in `texts`), by address,
        of one address the best first.
        """
        self._starts, self._ends, self._names = array("Q"), array("Q"), array("Q")
        self._texts = texts
        last = -1
        for start, size, name in entries:
            if start != last:
                last = start
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
                return text_in(self._texts, self._names[at]), address - self._starts[at]
        return None


class File:
    """The symbols of one ELF file and of its debug file. Both are opened at once, and read when somebody asks
    for an address. `root`: the process' root.
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
            self._table = symbol_table([one for one in (self._elf, self._other) if one is not None])
        found = self._table.at(address)
        return (found[0].partition("@")[0], found[1]) if found else None  # without its version


def debug_file(path: str, folders: Sequence[str] = ()) -> str:
    """The file that has the debugging information of a program: its own, the one beside it that it names, or
    one in these folders. Raises ElfError.
    """
    with Elf.open(path) as elf:
        if any(one.name == ".debug_info" for one in elf.sections):
            return path
        other = _separate(elf, "", folders)
    if other is None:
        return path
    other.close()
    return other.name


def _separate(elf: Elf, root: str, folders: Sequence[str] = ()) -> Elf | None:
    """The debug file of an ELF file, where there is one; `folders`: where it is looked for first, from
    here and from the folder of the file. Raises ElfError.
    """
    build, link = elf.build_id, elf.debug_link
    beside = os.path.dirname(elf.name)
    folders = [path for one in folders for path in dict.fromkeys((one, os.path.join(beside, one)))]
    where: list[tuple[str, int | None]] = []
    if build:
        where += ((f"{one}/{os.path.basename(elf.name)}.debug", None) for one in folders)
    if len(build) > 2:
        where += ((f"{one}/.build-id/{build[:2]}/{build[2:]}.debug", None) for one in folders)
        where += ((f"{one}{DEBUG}/.build-id/{build[:2]}/{build[2:]}.debug", None) for one in (root, ""))
    if link is not None and "/" not in link[0]:
        folder, within = os.path.dirname(elf.name), os.path.dirname(elf.name.removeprefix(root))
        for one in (*folders, folder, f"{folder}/.debug", f"{root}{DEBUG}{within}"):
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


def symbol_table(files: Sequence[Elf]) -> Table:
    """The names of the functions in an ELF file and its debug file. Both are closed afterwards: only their
    segments are still needed. An address with several names gets the one that people know best: that of a
    function, and of several the one without underscores.
    """
    texts, found = b"", []
    for elf in files:
        try:
            with elf:
                more, symbols = elf.raw_symbols()
        except ElfError:
            continue
        begin, texts = len(texts), texts + more
        # Sorted as numbers: by address, then functions, then what tells its size.
        found += [
            (address << 2 | (info & 15 != FUNC) << 1 | (not size), size, name + begin)
            for name, address, size, info in symbols
            if info & 15 in CODE
        ]
    found.sort()
    return Table(_best(found, texts), texts)


def _best(found: Sequence[tuple[int, int, int]], texts: bytes) -> Iterator[tuple[int, int, int]]:
    """Those of several equal ones in front whose names people know best."""

    def rank(entry: tuple[int, int, int]) -> tuple[int, str]:
        name = name_in(texts, entry[2])
        return len(name) - len(name.lstrip("_")), name

    at = 0
    while at < len(found):
        end = at + 1
        while end < len(found) and found[end][0] == found[at][0]:
            end += 1
        rank_, size, name = found[at] if end == at + 1 else min(found[at:end], key=rank)
        yield rank_ >> 2, size, name
        at = end


def root_of(pid: int, path: str, inode: int) -> str:
    """What to put before the path of a file that a process has mapped, as /proc/PID/maps tells it: the root
    of its mount namespace, or nothing where it is in ours, whatever it takes for / (chroot).
    """
    root = f"/proc/{pid}/root"
    with suppress(OSError):
        if os.stat(root + path).st_ino == inode:
            return root
    with suppress(OSError):
        if os.stat(path).st_ino == inode:
            return ""
    return root


class Process:
    """One process. `pid`: as /proc knows it."""

    __slots__ = ("_files", "_mappings", "_perf_map", "_starts", "pid")

    def __init__(self, pid: int, files: "dict[tuple[int, int, int], File | None]") -> None:
        self.pid = pid
        self._files = files
        self._mappings: list[Mapping] = []
        self._starts: list[int] = []
        self._perf_map: PerfMap | None = None

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
            if mapping is None or mapping.path == VDSO or self._file(mapping) is not None:
                continue
            if self._perf_map is None:
                with suppress(OSError, ValueError):
                    self._perf_map = PerfMap(self.pid)
            if self._perf_map is not None:
                self._perf_map.look()

    def _mapping(self, address: int) -> Mapping | None:
        number = bisect_right(self._starts, address) - 1
        if number < 0 or address >= self._mappings[number].end:
            return None
        return self._mappings[number]

    def locate(self, address: int) -> Location:
        """Where an address is."""
        mapping = self._mapping(address)
        if mapping is None:
            return Location("", None, 0)
        if mapping.path == VDSO:
            return Location(VDSO, _vdso(), address - mapping.start)
        file = self._file(mapping)
        if file is not None:
            return Location(mapping.path, file, address - mapping.start + mapping.offset)
        return Location(mapping.path, self._perf_map, address)

    def at(self, address: int) -> UserSymbol:
        """What is at an address."""
        return self.locate(address).symbol()

    def _file(self, mapping: Mapping) -> File | None:
        """The ELF file that is mapped there; None where none is, as with what a JIT compiler made."""
        if not mapping.inode:
            return None
        root = root_of(self.pid, mapping.path, mapping.inode)
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


class PerfMap:
    """What a JIT compiler tells of its code. Raises OSError and ValueError where the process is gone."""

    __slots__ = ("_begun", "_name", "_owners", "_root", "_seen", "_spent", "_table")

    def __init__(self, pid: int) -> None:
        self._name = f"tmp/perf-{_innermost(pid)}.map"
        self._owners = (0, os.stat(f"/proc/{pid}").st_uid)
        self._table: Table | None = None
        self._seen: tuple[int, int, int] = (0, 0, 0)  # inode, size, time
        self._begun, self._spent = time.monotonic(), 0.0
        self._root = -1
        self._root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self._root >= 0:
            os.close(self._root)

    def at(self, address: int) -> tuple[str, int] | None:
        """The name at an address, and the distance from its start; None where none is told."""
        return self._table.at(address) if self._table is not None else None

    def look(self) -> bool:
        """Read it where it is another one than it was; whether it is."""
        if self._spent > AT_ONCE + SHARE * (time.monotonic() - self._begun):
            return False
        before = time.thread_time()
        try:
            return self._look()
        except OSError:
            return False
        finally:
            self._spent += time.thread_time() - before

    def _look(self) -> bool:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(self._name, flags, dir_fd=self._root), "rb") as file:
            stat = os.fstat(file.fileno())
            seen = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if seen == self._seen or stat.st_uid not in self._owners or not S_ISREG(stat.st_mode):
                return False
            self._seen = seen
            if stat.st_size > PERF_MAP_MOST:
                file.seek(-PERF_MAP_MOST, os.SEEK_END)
                file.readline()  # the rest of a line, whose first digits are missing
            text = file.read(PERF_MAP_MOST)
        self._table = perf_table(text)
        return True


def perf_table(text: bytes) -> Table:
    """The sound lines of a perf map, the last PERF_LINES_MOST: address and bytes in hexadecimal, then the
    name. Of two for one place the later one is true.
    """
    found: list[tuple[int, int, int]] = []
    names: list[bytes] = []
    place = 0
    for line in text.rsplit(b"\n", PERF_LINES_MOST)[-PERF_LINES_MOST:]:
        words = line.split(b" ", 2)
        if len(words) == 3 and words[2]:
            try:
                start, size = int(words[0], 16), int(words[1], 16)
            except ValueError:
                continue
            if 0 <= start < 1 << 64 and 0 < size < 1 << 40:
                found.append((start, size, place))
                names.append(words[2])
                place += len(words[2]) + 1
    found.reverse()
    found.sort(key=_start)
    return Table(found, b"\0".join(names) + b"\0")


def _start(entry: tuple[int, int, int]) -> int:
    return entry[0]


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
