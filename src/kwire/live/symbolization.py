"""Names for the stacks of processes: what tells them is opened when a stack is new, and read when the names
are wanted. This process does both, or a process of its own, which keeps the privileges that this needs while
we give up ours.

Invariants: each stack is named once, and again when more of its names are known; the naming process reads
nothing from the network, holds no descriptor of ours but its end of a socket, and ends when our end is
closed, so with us; where it does not answer in time, or is gone, addresses stay without names.
"""

import json
import os
import signal
import socket
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Final

from kwire.errors import KwireError
from kwire.hints import Protocol
from kwire.kernel import privileges, seccomp
from kwire.kernel.usersyms import NEEDED, Location, PerfMap, UserSymbols
from kwire.lazy import NamedTuple
from kwire.wire.fields import text
from kwire.wire.stacks import Frame, Stack

PENDING_MOST: Final = 1 << 14
"""Stacks that wait for names of code that a JIT compiler made."""

PATIENCE: Final = 2.0
"""Seconds that the naming process may take for an answer."""

MOST: Final = 64 << 20
"""Bytes of an answer."""

_LENGTH: Final = struct.Struct("=I")


class RawStack(NamedTuple):
    """A stack that is new: its number, of which process it is, and its frames."""

    number: int
    pid: int
    addresses: Sequence[int]


class Namer(Protocol):
    """Who names stacks."""

    def take(self, seen: Sequence[RawStack]) -> None:
        """Take hold of what tells the names of these."""

    def names(self, *, again: bool) -> dict[int, Stack]:
        """The stacks that were taken since the last time; with `again` those too of which more is known."""

    def close(self) -> None:
        """No more is asked."""


class Names:
    """A namer in this process."""

    __slots__ = ("_pending", "_taken", "_users")

    def __init__(self) -> None:
        self._users = UserSymbols()
        self._taken: dict[int, tuple[Sequence[int], tuple[Location, ...]]] = {}
        self._pending: dict[int, tuple[Stack, tuple[Location, ...]]] = {}  # some frames may get names yet

    def take(self, seen: Sequence[RawStack]) -> None:
        """Take hold of what tells the names of these."""
        # Processes may be about to end: all of them are looked at, and only then anything else is done.
        processes = {pid: self._users.look(pid) for pid in {one.pid for one in seen}}
        for number, pid, addresses in seen:
            process = processes[pid]
            process.open(addresses)
            self._taken[number] = addresses, tuple(map(process.locate, addresses))

    def names(self, *, again: bool) -> dict[int, Stack]:
        """The stacks that were taken since the last time; with `again` those too of which more is known."""
        found: dict[int, Stack] = {}
        for number, (addresses, locations) in self._taken.items():
            stack = found[number] = Stack(map(_frame, addresses, locations))
            if _may_be_named(stack, locations) and len(self._pending) < PENDING_MOST:
                self._pending[number] = stack, locations
        self._taken.clear()
        if again:
            found |= self._again()
        return found

    def _again(self) -> dict[int, Stack]:
        found: dict[int, Stack] = {}
        told = {location.namer for _, locations in self._pending.values() for location in locations}
        changed = {one for one in told if isinstance(one, PerfMap) and one.look()}
        for number, (before, locations) in list(self._pending.items()):
            if changed.isdisjoint([location.namer for location in locations]):
                continue
            both = zip(before, locations, strict=True)
            stack = Stack(one if one.symbol else _frame(one.address, location) for one, location in both)
            if stack != before:
                found[number] = stack
            if _may_be_named(stack, locations):
                self._pending[number] = stack, locations
            else:
                del self._pending[number]
        return found

    def close(self) -> None:
        """Let go of files and names."""
        self.__init__()  # type: ignore[misc]  # as it was at first


class NamingProcess:
    """A namer in a process of its own, which keeps the privileges that naming takes. Raises KwireError where
    there can be none.
    """

    __slots__ = ("_child", "_socket", "_untaken")

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        try:
            self._child = os.fork()
        except OSError as error:
            ours.close()
            theirs.close()
            raise KwireError("start naming process", "", (error.strerror or str(error)).lower()) from None
        if not self._child:
            _serve(theirs.detach())
        theirs.close()
        ours.settimeout(PATIENCE)
        self._socket: socket.socket | None = ours
        self._untaken: dict[int, RawStack] = {}  # those without an answer

    def take(self, seen: Sequence[RawStack]) -> None:
        """Tell it of these."""
        self._untaken |= {one.number: one for one in seen}
        self._ask(["take", [[one.number, one.pid, list(one.addresses)] for one in seen]])

    def names(self, *, again: bool) -> dict[int, Stack]:
        """Its answer; where there is none, the addresses."""
        answer = self._ask(["names", again], answered=True)
        found: dict[int, Stack] = {}
        with suppress(TypeError, ValueError):
            found = {int(number): Stack(Frame(*frame) for frame in frames) for number, frames in answer or ()}
        for number in found:
            self._untaken.pop(number, None)
        nameless = {number: Stack(map(Frame, one.addresses)) for number, one in self._untaken.items()}
        self._untaken.clear()
        return nameless | found

    def _ask(self, question: Sequence[Any], *, answered: bool = False) -> Any:
        if self._socket is None:
            return None
        try:
            _put(self._socket, question)
            return _get(self._socket) if answered else None
        except (OSError, ValueError):  # it is gone, or busy: an answer that comes late would be another's
            self.close()
            return None

    def close(self) -> None:
        """Let it end."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            with suppress(OSError):
                os.waitpid(self._child, os.WNOHANG)


def _put(to: socket.socket, value: Any) -> None:
    data = json.dumps(value).encode()
    to.sendall(_LENGTH.pack(len(data)) + data)


def _get(source: socket.socket) -> Any:
    """What comes. Raises OSError, ValueError."""
    (length,) = _LENGTH.unpack(_read(source, _LENGTH.size))
    if length > MOST:
        raise OSError("too long")
    return json.loads(_read(source, length))


def _read(source: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = source.recv(min(size - len(data), 1 << 20))
        if not piece:
            raise OSError("closed")
        data += piece
    return bytes(data)


def _serve(fd: int) -> None:
    """Be the naming process, and end."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)  # we end with whom we serve
        signal.set_wakeup_fd(-1)
        nothing = os.open(os.devnull, os.O_RDWR)
        for own in {0, 1, 2} - {fd}:  # who reads what we print does not wait for this process
            os.dup2(nothing, own)
        os.closerange(3, fd)
        os.closerange(fd + 1, os.sysconf("SC_OPEN_MAX"))
        privileges.drop(NEEDED)
        seccomp.confine(seccomp.agent_calls(writes=False))  # as far as this machine lets us
        line, names = socket.socket(fileno=fd), Names()
        while True:
            what, about = _get(line)
            if what == "take":
                names.take([RawStack(*one) for one in about])
                continue
            found = names.names(again=about)
            _put(line, list(found.items()))
    except BaseException:  # whatever it is, who serves nobody any more ends
        os._exit(0)


def _frame(address: int, location: Location) -> Frame:
    """A frame whose texts can be written: names are bytes to the kernel and to linkers."""
    name, offset, file = location.symbol()
    return Frame(address, _text(name), offset, _text(file))


def _text(name: str) -> str:
    return name if name.isascii() else text(name.encode("utf-8", "surrogateescape"))


def _may_be_named(stack: Stack, locations: Iterable[Location]) -> bool:
    """Whether a JIT compiler may tell names of it yet."""
    both = zip(stack, locations, strict=True)
    return any(isinstance(location.namer, PerfMap) and not frame.symbol for frame, location in both)
