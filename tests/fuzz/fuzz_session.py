"""Fuzz target: sessions. Two peers, between them a network that does what the input says, a hostile one too.

The input is a program: a byte chooses the kind of transport, then each byte is an operation, some followed by
what they need. Whatever comes, nothing a peer sends raises, and memory stays bounded; as long as nothing was
forged, what is delivered is what was sent, in order, each once.
"""

from __future__ import annotations

import contextlib

import fuzzing
import network

from kwire.errors import KwireError
from kwire.wire.frame import Type, build
from kwire.wire.session import Delivered, Requested, Role, Session, Settings, State

PAYLOAD = build(Type.KEEPALIVE, 0) * 4
STEPS = [0.0, 0.05, 1.0, 11.0, 40.0, 130.0]
SETTINGS = Settings()._replace(memory=1 << 16, window=1 << 15)
MOST = 400  # operations of one input


class Pair:
    """A source and a sink, and what is on the way between them."""

    def __init__(self, datagrams: bool, source_begins: bool) -> None:
        self.now = 1.0
        self.datagrams = datagrams
        self.ends = [
            Session(
                role,
                initiator=(role is Role.SOURCE) == source_begins,
                datagrams=datagrams,
                settings=SETTINGS,
                random=lambda size: bytes(size - 1) + b"\1",
            )
            for role in (Role.SOURCE, Role.SINK)
        ]
        self.way: list[list[bytes]] = [[], []]  # to the sink, to the source
        self.sent: list[bytes] = []
        self.got: list[bytes] = []
        self.forged = False

    def collect(self) -> None:
        """Take what both want to send, and what happened to them."""
        for number, end in enumerate(self.ends):
            buffers = [bytes(one) for one in end.transmit(1 << 14, self.now)]
            self.way[number] += buffers if self.datagrams else ([b"".join(buffers)] if buffers else [])
            for session_event in end.session_events():
                if isinstance(session_event, Delivered):
                    self.got.append(bytes(session_event.payload))
                    end.consumed(session_event.sequence, self.now)
                elif isinstance(session_event, Requested) and not end.over:
                    end.reply(session_event.number, {"ok": True}, self.now)
        for way in self.way:
            del way[64:]

    def deliver(self, number: int, keep: bool = False) -> None:
        """Hand the oldest on the way to its receiver."""
        way = self.way[number]
        if way:
            self.ends[1 - number].receive(way[0] if keep else way.pop(0), self.now)

    def check(self) -> None:
        """What was delivered is a beginning of what was sent."""
        if not self.forged:
            assert self.got == self.sent[: len(self.got)], "delivered otherwise than sent"
        for end in self.ends:
            assert end.state in State
            deadline = end.deadline()
            assert deadline is None or deadline == deadline


def one_input(data: bytes) -> None:
    """Run one program."""
    if not data:
        return
    pair = Pair(bool(data[0] & 1), bool(data[0] & 2))
    for end in pair.ends:
        end.connected(pair.now)
    at = 1
    for _ in range(MOST):
        pair.collect()
        pair.check()
        if at >= len(data):
            break
        operation, which = data[at] & 15, data[at] >> 4 & 1
        at += 1
        end = pair.ends[which]
        if operation <= 4:
            pair.deliver(which)
        elif operation == 5 and pair.datagrams:
            pair.deliver(which, keep=True)
        elif operation == 6 and pair.datagrams and pair.way[which]:
            pair.way[which].pop(0)
        elif operation == 7 and not pair.datagrams and pair.way[which]:
            half = len(pair.way[which][0]) // 2
            pair.way[which][0:1] = [pair.way[which][0][:half], pair.way[which][0][half:]]
        elif operation == 8:
            size = data[at] if at < len(data) else 0
            pair.forged = True
            end.receive(data[at + 1 : at + 1 + size], pair.now)
            at += 1 + size
        elif operation == 9:
            pair.now += STEPS[(data[at] if at < len(data) else 0) % len(STEPS)]
            at += 1
            for one in pair.ends:
                one.tick(pair.now)
        elif operation == 10:
            source, payload = pair.ends[0], PAYLOAD + len(pair.sent).to_bytes(4, "big")
            with contextlib.suppress(KwireError):  # it is not connected, or closing
                if source.room >= len(payload) + 64:
                    source.send(payload, pair.now)
                    pair.sent.append(payload)
        elif operation == 11:
            pair.way = [[], []]
            for one in pair.ends:
                one.disconnected(pair.now, "cut")
        elif operation == 12:
            for one in pair.ends:
                with contextlib.suppress(KwireError):  # it is connected, or over
                    one.connected(pair.now)
        elif operation == 13:
            with contextlib.suppress(KwireError):
                end.request({"op": "clock"}, pair.now)
        elif operation == 14 and at < len(data) and data[at] > 200:
            with contextlib.suppress(KwireError):
                end.close(pair.now)
    pair.collect()
    pair.check()


def program(transport: int, *operations: int | bytes) -> bytes:
    """An input: frames are forged to the sink."""
    parts = [bytes([transport])]
    for one in operations:
        parts.append(bytes([one]) if isinstance(one, int) else bytes([8 | 16, len(one) & 255]) + one)
    return b"".join(parts)


TO_SINK, TO_SOURCE = 0, 16
SHAKE = [TO_SINK, TO_SOURCE, TO_SINK, TO_SOURCE, TO_SINK, TO_SOURCE]
SEEDS = [
    *(program(kind, *SHAKE, 10, 10, *SHAKE, 10, *SHAKE, 9, 1, *SHAKE, 14, 255, *SHAKE) for kind in range(4)),
    *(program(kind, *SHAKE, 10, 11, 10, 12, *SHAKE, 13, *SHAKE, 9, 3, 9, 4, 9, 5) for kind in range(4)),
    *(program(kind, *(frame for frame in network.SESSION if len(frame) < 256)) for kind in range(4)),
    program(1, *SHAKE, 10, 10, 10, 6, 5, 0, 9, 2, *SHAKE, 5, 5, 9, 2, *SHAKE),
]


if __name__ == "__main__":
    fuzzing.main(one_input, SEEDS)
