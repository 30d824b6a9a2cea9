"""A trace that one process attaches and another one goes on with.

    tracer = attached(plan, buffer, tasks)         # in a process that may load programs and attach them
    data, descriptors = handed(tracer, more)
    send(socket, data, descriptors)
    data, descriptors = receive(socket)            # in one that may not
    tracer, more = taken(data, descriptors)

What a trace is hangs on descriptors: maps, programs, links, events. They travel; the rest is told in bytes.
Invariants: nothing fires twice and nothing is lost by it: rings and counters are memory of the kernel's, and
nobody reads them before they are taken; whoever takes it owns all of it, and closes all where it cannot be
taken. The bytes are believed: they come from a process that has more privileges than who takes them. A
message comes whole, of any size and with any number of descriptors, or not at all.
"""

import io
import os
import pickle
import socket
import struct
from collections.abc import Sequence
from typing import Any, Final

from kwire.errors import KwireError
from kwire.kernel.syscall import Fd
from kwire.kernel.tasks import known_tasks
from kwire.live.ground import Ground
from kwire.live.plan import Plan
from kwire.live.recorder import complete
from kwire.live.tracer import Attached, Tracer

PROTOCOL: Final = 5

_PACKET: Final = 1 << 15
"""Bytes of a message that travel together: no socket's buffer is smaller."""

_TOGETHER: Final = 200
"""Descriptors that travel together: the kernel takes 253."""

_HEAD: Final = struct.Struct("=cQI")  # a message begins: how long it is, how many descriptors it has
_BEGINS, _GOES_ON = b"h", b"p"


class TooManyFilesError(KwireError):
    """A message has come whose descriptors found no place."""


def send(connection: socket.socket, data: bytes, descriptors: Sequence[int] = ()) -> None:
    """Send a message over a socket that keeps packets apart (SOCK_SEQPACKET). Raises OSError."""
    connection.send(_HEAD.pack(_BEGINS, len(data), len(descriptors)))
    for at in range(_packets(len(data), len(descriptors))):
        part = _GOES_ON + data[at * _PACKET : (at + 1) * _PACKET]
        socket.send_fds(connection, [part], descriptors[at * _TOGETHER : (at + 1) * _TOGETHER])


def receive(connection: socket.socket) -> tuple[bytes, list[int]] | None:
    """The next message, and its descriptors; None where the other side has gone. One whose sender died is
    passed over. Raises TooManyFilesError where descriptors find no place: the message is gone then.
    """
    head = connection.recv(_HEAD.size)
    while head:
        _, size, count = _HEAD.unpack(head)
        data, found, cut = bytearray(), list[int](), False
        head = b""
        for _ in range(_packets(size, count)):
            packet, files, flags, _ = socket.recv_fds(connection, 1 + _PACKET, _TOGETHER)
            found += files
            cut |= bool(flags & socket.MSG_CTRUNC)
            if packet[:1] != _GOES_ON:
                head = packet  # another message begins, or there is none
                break
            data += packet[1:]
        else:
            if not cut:
                return bytes(data), found
        for file in found:
            os.close(file)
        if cut and not head:
            cure = "change fewer probes at once, or allow more (ulimit -n)"
            raise TooManyFilesError("take", "what was read", "too many files are open", cure)
    return None


def _packets(size: int, count: int) -> int:
    return max(-(-size // _PACKET), -(-count // _TOGETHER))


def attached(plan: Plan, buffer: int | None, tasks: Sequence[int]) -> Tracer:
    """The tracer of a plan that another process is to go on with, its probes attached. `buffer`: bytes of
    each CPU's ring; `tasks`: the map of the processes that are traced, where they were chosen. Raises
    KwireError.
    """
    check(plan)
    plan = plan._replace(following=(), schemas=complete(plan.schemas))
    tracer = Tracer(plan, ground=Ground(buffer, known=known_tasks(tasks[0]) if tasks else None))
    tracer.attach()
    return tracer


def check(plan: Plan) -> None:
    """Raise KwireError where a plan has what only who attaches it can go on with."""
    from kwire.compile.layout import map_schema

    for group in plan.groups:
        if group.kind == "self":
            raise _bound(f"{group.points[0].text}", "its signals come to the process that attaches it")
    if plan.stacks:
        raise _bound(plan.schemas[0].spec, "what names its stacks begins with the agent")
    for unit in plan.maps:
        made = map_schema(unit.map, unit.map.kind, id=1, prints="", machine="")
        if any(field.type == "ksym" for field in made.fields):
            cause = "what names the kernel's addresses in its maps begins with the agent"
            raise _bound(plan.schemas[0].spec, cause)


def _bound(subject: str, cause: str) -> KwireError:
    return KwireError("change", subject, cause, "restart the agent")


class _Pickler(pickle.Pickler):
    """Tells objects that own a descriptor as its place among those that travel."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, PROTOCOL)
        self.descriptors: list[int] = []

    def reducer_override(self, obj: Any) -> Any:
        """The class, where its descriptor is, what else it holds; of others what they say themselves."""
        if not isinstance(obj, Fd):
            return NotImplemented
        names = [name for each in type(obj).__mro__ for name in getattr(each, "__slots__", ())]
        held = {name: getattr(obj, name) for name in names if name != "_fd" and hasattr(obj, name)}
        return _made, (type(obj), _Travels(-1 if obj.closed else obj.fd)), held, None, None, _hold

    def persistent_id(self, obj: Any) -> int | None:
        """The place of a descriptor; -1: it is closed."""
        if not isinstance(obj, _Travels):
            return None
        if obj.descriptor < 0:
            return -1
        self.descriptors.append(obj.descriptor)
        return len(self.descriptors) - 1


class _Travels:
    """A descriptor."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor


def _made(kind: type[Fd], descriptor: int) -> Fd:
    made = kind.__new__(kind)
    made._fd = descriptor
    return made


def _hold(made: Fd, held: dict[str, Any]) -> None:
    for name, value in held.items():
        setattr(made, name, value)


class _Unpickler(pickle.Unpickler):
    """Gives them the descriptors that have come."""

    def __init__(self, data: bytes, descriptors: Sequence[int]) -> None:
        super().__init__(io.BytesIO(data))
        self._descriptors = descriptors

    def persistent_load(self, place: Any) -> int:
        """The descriptor that came there."""
        return -1 if place < 0 else self._descriptors[place]


def handed(tracer: Tracer, more: Any = None) -> tuple[bytes, list[int]]:
    """A tracer, whose probes are attached, as bytes and descriptors; `more`: what goes with it."""
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump((tracer.attached(), more))
    return file.getvalue(), pickler.descriptors


def taken(data: bytes, descriptors: Sequence[int]) -> tuple[Tracer, Any]:
    """The tracer again, and what went with it. Raises KernelError where its memory cannot be mapped."""
    attached, more = _Unpickler(data, descriptors).load()
    assert isinstance(attached, Attached)
    return Tracer.taken(attached), more
