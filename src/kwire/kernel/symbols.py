"""The kernel's symbols: from a name to its addresses, from an address to `name+offset`.

Invariants: /proc/kallsyms is read once, as bytes, when first asked for; look-ups search these bytes, those by
address by halves, as the lines of the kernel proper are in order; only modules and BPF programs get an index,
two flat arrays, never one object a symbol. Where the kernel hides addresses (kptr_restrict), every one of
them is 0 and `readable` is false.
"""

import io
import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping

from kwire.kernel.sys import failure
from kwire.lazy import NamedTuple, pattern

KALLSYMS = "/proc/kallsyms"
MODULES = "/proc/modules"
KPTR_RESTRICT = "/proc/sys/kernel/kptr_restrict"
_LINE = pattern(rb"\n([0-9a-f]+) ([A-Za-z]) ([^\t\n]+)(?:\t\[(.*)\])?")
FEW = 12  # names that are looked for one by one
ABSOLUTE = b"aAuUN"  # kinds of symbols that are no places in memory
MAX_OFFSET = 1 << 20  # an address further than this after the last symbol before it belongs to none


class Symbol(NamedTuple):
    """A symbol and a distance from it. `module`: "" for the kernel proper."""

    name: str
    offset: int
    module: str = ""

    @property
    def place(self) -> str:
        """Name and distance, as `name+0x10`."""
        return f"{self.name}+{self.offset:#x}" if self.offset else self.name

    def __str__(self) -> str:
        return f"{self.place} [{self.module}]" if self.module else self.place


class Symbols:
    """One reading of the kernel's symbol table. Modules loaded later are not in it; make a new one."""

    __slots__ = ("_addresses", "_by_address", "_data", "_end", "_lines")

    def __init__(self, data: bytes) -> None:
        self._data = b"\n" + data
        first = self._data.find(b"\t[")
        self._end = self._data.rfind(b"\n", 0, first) + 1 if first >= 0 else len(self._data)
        self._addresses: array[int] | None = None  # of modules and programs, which come behind it, sorted
        self._by_address: dict[int, str] | None = None
        self._lines = array("I")  # for each address, where its line starts in the data

    @classmethod
    def read(cls, path: str = KALLSYMS) -> "Symbols":
        """Read the running kernel's. Raises KernelError."""
        try:
            with open(path, "rb") as file:
                return cls(file.read())
        except OSError as error:
            raise failure("read", path, error.errno or 0) from None

    @property
    def readable(self) -> bool:
        """Whether this user is shown addresses."""
        return re.search(rb"\n0*[1-9a-f][0-9a-f]* ", self._data) is not None

    def addresses(self, name: str, module: str | None = None) -> list[int]:
        """All addresses of a name, in `module` only where one is given ("" is the kernel proper)."""
        lines = self._lines_of(name.encode("utf-8", "surrogateescape"))
        return [int(line[1], 16) for line in lines if module in (None, (line[4] or b"").decode())]

    def functions_named(self, names: Collection[str]) -> dict[str, dict[str, list[int]]]:
        """The addresses of functions by name and module, each address once, sorted; 0 for each hidden one.

        Those that the kernel forgot when it had started are not among them.
        """
        wanted = {name.encode("utf-8", "surrogateescape") for name in names}
        start, end = (self.addresses(name, "")[:1] or [0] for name in ("_sinittext", "_einittext"))
        forgotten = range(start[0], end[0])
        if len(wanted) > FEW:
            lines: Iterable[re.Match[bytes]] = _LINE.finditer(self._data)
        else:
            lines = (line for name in wanted for line in self._lines_of(name))
        found: dict[str, dict[str, list[int]]] = {}
        for line in lines:
            if line[3] in wanted and line[2] in b"tTwW" and (address := int(line[1], 16)) not in forgotten:
                of_name = found.setdefault(line[3].decode("utf-8", "replace"), {})
                places = of_name.setdefault((line[4] or b"").decode("utf-8", "replace"), [])
                if not address or address not in places:
                    places.append(address)
        return {name: {module: sorted(all_) for module, all_ in by.items()} for name, by in found.items()}

    def _lines_of(self, name: bytes) -> Iterator[re.Match[bytes]]:
        """The lines of one name. A search for the bytes is a hundred times faster than one for the line."""
        data, wanted = self._data, b" " + name
        at = data.find(wanted)
        while at >= 0:
            end = at + len(wanted)
            if data[end : end + 1] in (b"\n", b"\t", b""):
                line = _LINE.match(data, data.rfind(b"\n", 0, at))
                if line and line.start(3) == at + 1:
                    yield line
            at = data.find(wanted, end)

    def at(self, address: int) -> Symbol | None:
        """The symbol that an address lies in, the first of several names for the same place, as the kernel
        does.
        """
        if not address:
            return None
        inside, beyond = self._in_kernel(address), self._in_modules(address)
        start, line = max(inside, beyond)
        if not start or address - start >= MAX_OFFSET:
            return None
        name, module = self._line(line)
        return Symbol(name, address - start, module)

    def _in_kernel(self, address: int) -> tuple[int, int]:
        """The last symbol of the kernel proper that is not behind an address: where it is, and its line."""
        data, best = self._data, -1
        low, high = 1, self._end
        while low < high:
            middle = (low + high) // 2
            start = data.rfind(b"\n", 0, middle) + 1
            if self._address(start) <= address:
                best, low = start, data.find(b"\n", middle) + 1 or high
            else:
                high = start
        if best < 0:
            return 0, 0
        found = self._address(best)
        while best > 1:  # of several names for it the first
            before = data.rfind(b"\n", 0, best - 1) + 1
            if self._address(before) != found or data[data.find(b" ", before) + 1] in ABSOLUTE:
                break
            best = before
        return found, best

    def _in_modules(self, address: int) -> tuple[int, int]:
        """The same of modules and BPF programs."""
        if self._addresses is None:
            self._index()
        addresses = self._addresses or array("Q")
        after = bisect_right(addresses, address)
        if not after:
            return 0, 0
        start = addresses[after - 1]
        return start, self._lines[bisect_left(addresses, start)]

    def _address(self, line: int) -> int:
        try:
            return int(self._data[line : self._data.find(b" ", line)], 16)
        except ValueError:  # what no kernel says
            return 0

    def functions(self) -> Iterator[tuple[str, str]]:
        """(name, module) of each function, in the table's order."""
        for line in re.finditer(rb"\n[0-9a-f]+ [tTwW] ([^\t\n]+)(?:\t\[(.*)\])?", self._data):
            yield line[1].decode("utf-8", "replace"), (line[2] or b"").decode("utf-8", "replace")

    def by_address(self) -> Mapping[int, str]:
        """Each function by its address, of several the first; empty where addresses are hidden. Made once."""
        if self._by_address is not None:
            return self._by_address
        names: dict[int, str] = {}
        for line in re.finditer(rb"\n([0-9a-f]+) [tTwW] ([^\t\n]+)", self._data):
            names.setdefault(int(line[1], 16), line[2].decode("utf-8", "replace"))
        names.pop(0, None)
        self._by_address = names
        return names

    def search(self, pattern: bytes) -> Iterator[str]:
        """The first group of each match of a regular expression over the names, each standing between a
        space and the end of its line or a tab.
        """
        for line in re.finditer(rb" " + pattern + rb"(?=[\t\n])", self._data):
            yield line[1].decode("utf-8", "replace")

    def _line(self, start: int) -> tuple[str, str]:
        end = self._data.find(b"\n", start)
        text = self._data[start : end if end >= 0 else None].decode("utf-8", "replace")
        name, _, module = text.split(" ", 2)[2].partition("\t")
        return name, module.strip("[]")

    def _index(self) -> None:
        found: list[tuple[int, int]] = []
        at = self._end
        for line in io.BytesIO(memoryview(self._data)[at:]):
            space = line.find(b" ")
            if space > 0 and line[space + 1] not in ABSOLUTE:
                found.append((int(line[:space], 16), at))
            at += len(line)
        found.sort()  # each module's are sorted, one may lie before another
        self._addresses = array("Q", (address for address, _ in found))
        self._lines = array("I", (line for _, line in found))


def how_to_see_addresses() -> str:
    """What lets this user see the kernel's addresses."""
    try:
        with open(KPTR_RESTRICT) as file:
            level = file.read().strip()
    except OSError:
        level = ""
    if level == "2":
        return "kernel.kptr_restrict=2 hides them from everybody: `sysctl kernel.kptr_restrict=1`"
    return "run as root, or with CAP_SYSLOG"


def loaded_modules() -> tuple[str, ...]:
    """The modules of the kernel now, in its order; none where it has no such thing."""
    try:
        with open(MODULES) as file:
            return tuple(line.partition(" ")[0] for line in file)
    except OSError:
        return ()


def _places() -> tuple[str, ...]:
    """What tells whether the same modules are at the same places: one that was loaded again is elsewhere."""
    try:
        with open(MODULES) as file:
            return tuple(" ".join(words[:2] + words[5:6]) for words in map(str.split, file))
    except OSError:
        return ()


_symbols: tuple[tuple[str, ...], Symbols] | None = None


def kernel_symbols() -> Symbols:
    """The running kernel's symbols, read once for the process and again when modules came or went."""
    global _symbols
    places = _places()
    if _symbols is None or _symbols[0] != places:
        _symbols = places, Symbols.read()
    return _symbols[1]
