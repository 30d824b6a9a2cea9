"""The stacks of a running trace: read from the programs' tables as they come, and named while processes live.

Invariants: whoever is given events is told their stacks before; each stack is read once. Numbers begin at a
random multiple of 2^24, so those of two traces are not the same. A process that ended before its first stack
was read has addresses without names. What tells the names is opened at once, while the process lives; the
names of its functions are looked up when something may refer to the stack, as reading those of a large
program takes a second, in which the stacks of others would be missed. Names of code that a JIT compiler made
may come late: such a stack is named again while the trace runs; where something referred to it before, it is
told once more.
"""

import os
import struct
import time
from collections.abc import Mapping
from contextlib import suppress
from mmap import mmap

from kwire.bpf.counts import STACKS
from kwire.compile.layout import map_schema
from kwire.compile.stacks import FRAMES_AT, PLACE_SIZE, specs, table_name
from kwire.kernel import maps as kernel
from kwire.kernel.symbols import Symbols
from kwire.kernel.syscall import KernelError
from kwire.kernel.usersyms import NEEDED
from kwire.lang.checked import Map, StackTable
from kwire.lang.types import U32, U64
from kwire.live.symbolization import Namer, Names, NamingProcess, RawStack
from kwire.wire.schema import Schema
from kwire.wire.stacks import Frame, Stack, Stacks

RANGE = 24
"""Bits of numbers that one trace has."""

AGAIN = 1.0
"""Seconds between two readings of the kernel's symbols for places that are not in its own text: of programs
and modules, which come and go."""

SETTLED = 0.05
"""Seconds after which a program that has taken a number has entered the stack."""

NAMELESS_MOST = 256
"""Stacks that wait to be named."""

BY_ID, BY_ADDRESS = 1, 2  # BPF_STACK_BUILD_ID_VALID, BPF_STACK_BUILD_ID_IP


def create(tables: tuple[StackTable, ...]) -> dict[str, kernel.Map]:
    """Create the tables of stacks of a trace, by their names in images. Raises KernelError."""
    made: dict[str, kernel.Map] = {}
    try:
        for spec in specs(list(tables)):
            made[spec.name] = kernel.Map.create(spec)
        first = int.from_bytes(os.urandom(5), "big") >> 1 << RANGE
        made[STACKS].update(bytes(4), struct.pack("=QQ", first, 0))
    except BaseException:
        for one in made.values():
            one.close()
        raise
    return made


def stack_schema(id: int) -> Schema:
    """The schema of the map that tells the stacks of a trace."""
    map = Map("stacks", "stack", (U64, U32), U64, 1)
    made = map_schema(map, "stack", id=id, prints="map", machine="")
    names = ("stack", "level")
    fields = tuple(one._replace(name=name) for one, name in zip(made.fields, names, strict=False))
    return made._replace(fields=(*fields, *made.fields[len(names) :]))


class StackReader:
    """Reads the stacks of a trace. `known`: all that were read."""

    __slots__ = (
        "_changed",
        "_kernel",
        "_kernel_read",
        "_maps",
        "_memory",
        "_named",
        "_nameless",
        "_namer",
        "_numbers",
        "_scanned",
        "_seen",
        "_tables",
        "_untold",
        "known",
    )

    def __init__(self, tables: tuple[StackTable, ...], maps: Mapping[str, kernel.Map]) -> None:
        self._tables, self._maps = tables, maps
        self._memory: mmap = maps[STACKS].mmap()
        self._seen = self._counters()
        self._changed, self._scanned = -1.0, 0.0  # when the numbers were seen to grow; of the last look
        self._namer: Namer = Names()
        self._kernel: Symbols | None = None
        self._kernel_read = -AGAIN
        self._untold: dict[int, Stack] = {}
        self._nameless = 0  # stacks that were read, and have no names yet
        self._numbers: set[int] = set()  # of those that were read
        self._named = 0.0  # when those were asked for again
        self.known = Stacks()

    def prepare(self) -> None:
        """Read the kernel's symbols now, where stacks of the kernel are taken: a process that has dropped its
        privileges cannot see them.
        """
        if not all(table.user for table in self._tables):
            self._read_symbols()

    @property
    def needs(self) -> tuple[str, ...]:
        """The privileges that it goes on needing: for tables (before Linux 6.5), addresses of the kernel's
        symbols, and processes.
        """
        return "CAP_BPF", "CAP_SYSLOG", *(NEEDED if any(table.user for table in self._tables) else ())

    def delegate(self) -> None:
        """Let a process of its own name the functions of processes, where stacks of these are taken: this one
        is about to lose the privileges that naming needs. Raises KwireError.
        """
        if any(table.user and not table.ids for table in self._tables):
            self._namer = NamingProcess()

    def close(self) -> None:
        """Let go of the kernel's memory; twice is harmless."""
        if not self._memory.closed:
            self._seen = self._counters()
            self._name(again=True)
            self._memory.close()
            self._namer.close()
            self._kernel = None  # megabytes

    def _counters(self) -> tuple[int, int]:
        made, lost = struct.unpack_from("=QQ", self._memory)
        return made, lost

    @property
    def lost(self) -> int:
        """How many stacks found no room in their table, each as often as it came."""
        return (self._seen if self._memory.closed else self._counters())[1]

    def take(self, *, wanted: bool = True, last: bool = False) -> list[tuple[int, Stack]]:
        """Read the stacks that are new. Where stacks are `wanted`, because something may refer to them now,
        give all that were not given yet, with their numbers. `last`: nobody will ask for names after this.
        """
        self._read_new()
        self._name(again=last, wanted=wanted)
        if not wanted:
            return []
        found, self._untold = list(self._untold.items()), {}
        return found

    def look(self) -> None:
        """Read the stacks that are new, and name all."""
        self._read_new()
        self._name()

    def _name(self, *, again: bool = False, wanted: bool = True) -> None:
        """Name the stacks that have no names yet, where they are `wanted` or are many. Once in a while, or
        with `again`, ask also for names that were not known before.
        """
        moment = time.monotonic()
        again = again or (wanted and moment - self._named > AGAIN)
        if not (again or (wanted and self._nameless) or self._nameless > NAMELESS_MOST):
            return
        self._nameless = 0
        self._named = moment if again else self._named
        for number, stack in self._namer.names(again=again).items():
            self._untold[number] = stack
            self.known.add(number, stack)

    def _read_new(self) -> None:
        made, lost = now = self._counters()
        moment = time.monotonic()
        if made - lost != self._seen[0] - self._seen[1]:
            self._seen, self._changed = now, moment
        elif self._scanned - self._changed > SETTLED:
            return
        self._scanned = moment
        new: list[tuple[int, StackTable, bytes]] = []
        for table in self._tables:
            for key, value in self._maps[table_name(table)].batches():
                number = int.from_bytes(value, "little")
                if number not in self._numbers:
                    self._numbers.add(number)
                    new.append((number, table, key))
        seen = [
            RawStack(number, _pid(key), _addresses(table, key))
            for number, table, key in new
            if table.user and not table.ids
        ]
        if seen:
            self._namer.take(seen)
            self._nameless += len(seen)
        for number, table, key in new:
            if table.ids or not table.user:
                stack = Stack(_places(key) if table.ids else map(self._kernel_frame, _addresses(table, key)))
                self._untold[number] = stack
                self.known.add(number, stack)

    def _read_symbols(self) -> Symbols:
        """Read the kernel's symbols again, unless they are not shown any more."""
        self._kernel_read = time.monotonic()
        with suppress(KernelError):  # no /proc here
            found = Symbols.read()
            if self._kernel is None or found.readable:
                self._kernel = found
        self._kernel = self._kernel or Symbols(b"")
        return self._kernel

    def _kernel_frame(self, address: int) -> Frame:
        found = None if self._kernel is None else self._kernel.at(address)
        if (found is None or found.module) and time.monotonic() - self._kernel_read > AGAIN:
            found = self._read_symbols().at(address)
        return Frame(address, found.name, found.offset, found.module) if found else Frame(address)


def _pid(key: bytes) -> int:
    return int.from_bytes(key[:FRAMES_AT], "little")


def _addresses(table: StackTable, key: bytes) -> tuple[int, ...]:
    """The frames of a stack by addresses; behind the last one are zeros."""
    found = struct.unpack_from(f"={table.limit}Q", key, FRAMES_AT)
    return found[: found.index(0)] if 0 in found else found


def _places(key: bytes) -> "list[Frame]":
    """The frames of a stack by build ids."""
    found = []
    for at in range(FRAMES_AT, len(key), PLACE_SIZE):
        status, build, offset = struct.unpack_from("=i20sQ", key, at)
        if status == BY_ID:
            found.append(Frame(offset, "", 0, build.hex()))
        elif status == BY_ADDRESS:
            found.append(Frame(offset))
        else:
            break
    return found
