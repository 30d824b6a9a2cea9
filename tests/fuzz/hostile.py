"""Frames that were damaged, and what is wrong with each by kwire's own readers: the oracle of the dissector.

The rules of a capture: one frame a packet; a SCHEMA counts where nothing is wrong with its frame.
"""

from __future__ import annotations

import random

import fuzz_frame

from kwire.wire import cbor
from kwire.wire.explain import MAX_NESTING, Explainer
from kwire.wire.frame import HEADER_SIZE, Code, Flag, FrameError, Type, build, inspect
from kwire.wire.messages import Lost
from kwire.wire.schema import Schema, SchemaReader

Problems = list[tuple[str, int]]


LITTLE, BIG = fuzz_frame.SCHEMA, fuzz_frame.SCHEMA._replace(id=2, order="big")
PARTS = [
    build(Type.SCHEMA, 3, cbor.dumps({"more": True, "fields": [], "enums": {"a": {1: "x"}}})),
    build(Type.SCHEMA, 3, cbor.dumps({"probe": "p", "kind": "k", "size": 24, "order": "big", "word": 4})),
]
NOISY = cbor.dumps(
    {"a": [1, -2, 1.5, None, True, {"b": b"x", "c": "é", 7: [[]]}], -5: "minus", "token": bytes(16)}
)
INDEFINITE = bytes.fromhex(
    "bf6161 9f01 ff 6162 7f 6178 6179 ff 6163 5f 4101 ff 6164 f97e00 6165 fb400921fb54442d18 ff"
)
SEEDS = [
    *LITTLE.frames(),
    *BIG.frames(),
    fuzz_frame.EVENT,
    fuzz_frame.event(BIG),
    build(Type.EVENT, 1, fuzz_frame.EVENT[8:], Flag.CHECKSUM),
    build(Type.EVENT, 9, bytes(16)),
    *PARTS,
    Lost(1, 2, 3, 4).frame(),
    Lost(0, 2, 2**63, 2**64 - 1, 1, 200).frame(Flag.CHECKSUM),
    build(Type.DATA, 1, fuzz_frame.EVENT + build(Type.KEEPALIVE, 0)),
    build(Type.DATA, 2, build(Type.DATA, 3, build(Type.DATA, 4, build(Type.DATA, 5, build(Type.DATA, 6))))),
    build(Type.ACK, 1, bytes(12), Flag.CHECKSUM),
    build(Type.ERROR, 1, cbor.dumps({"code": 7, "message": "x"})),
    build(Type.REQUEST, 1, NOISY),
    build(Type.TABLE, 4, INDEFINITE, Flag.CHECKSUM),
    build(Type.BYE, 4, cbor.dumps({"reason": "done"})),
    bytes.fromhex("1fff000bdeadbeef00ff80"),
    bytes.fromhex("110000340000000148656c6c6f"),
]


def damaged(source: random.Random) -> bytes:
    """A seed with a few changes of the kinds that break readers; never empty."""
    data = bytearray(source.choice(SEEDS))
    for _ in range(source.choice([0, 1, 1, 2, 3])):
        at = source.randrange(len(data) + 1)
        match source.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << source.randrange(8)
            case 1:
                size = source.choice([1, 2, 4, 8])
                data[at : at + size] = source.choice([bytes(size), b"\xff" * size, source.randbytes(size)])
            case 2:
                del data[at : at + source.randrange(1, 9)]
            case 3:
                data[at:at] = source.randbytes(source.randrange(1, 5))
            case 4 if len(data) >= 4:
                data[2:4] = len(data).to_bytes(2, "big")  # the length is right again
            case 5:
                data += source.choice(SEEDS)[: source.randrange(60)]
    if source.random() < 0.5 and len(data) >= 8:
        data[2:4] = min(len(data), 65535).to_bytes(2, "big")
    return bytes(data[:65535]) or b"\0"


class Oracle:
    """Says what is wrong with the packets of a capture, one after the other."""

    def __init__(self) -> None:
        self.reader = SchemaReader()
        self.schemas: dict[int, Schema] = {}

    def packet(self, data: bytes) -> Problems:
        frame, _ = inspect(data)
        alone = frame is not None and frame.header.length == len(data)
        problems, _ = self._frame(data, 0, len(data), 0, alone)
        return sorted(problems, key=lambda pair: (pair[1], pair[0]))

    def _frame(self, data: bytes, at: int, stop: int, depth: int, alone: bool) -> tuple[Problems, int]:
        frame, problems = inspect(data[:stop], at)
        found = [(problem.code.name, problem.offset) for problem in problems]
        if frame is None:
            return found, stop
        end = at + frame.header.length
        try:
            match frame.header.type:
                case Type.EVENT:
                    found += self._event(data[at:end], at, frame.header.id)
                case Type.SCHEMA:
                    cbor.loads_map(frame.payload, at + HEADER_SIZE)
                    made = self.reader.add(frame) if alone and not problems else None
                    if made is not None:
                        self.schemas[made.id] = made
                case Type.DATA:
                    if depth == MAX_NESTING:
                        found.append((Code.BAD_PAYLOAD.name, at + HEADER_SIZE))
                    else:
                        inside = at + HEADER_SIZE
                        limit = inside + len(frame.payload)
                        while inside < limit:
                            more, inside = self._frame(data, inside, limit, depth + 1, alone)
                            found += more
                case Type.LOST:
                    Lost.read(frame)
                case Type.ACK:
                    one = next(iter(Explainer().explain(data[:end], at)))
                    found = [(problem.code.name, problem.offset) for problem in one.problems]
                case type if type in (3, 4, 8, 9, 10, 11, 12):
                    cbor.loads_map(frame.payload, at + HEADER_SIZE)
        except FrameError as error:
            found.append((error.problem.code.name, error.problem.offset))
        return found, end

    def _event(self, frame: bytes, at: int, id: int) -> Problems:
        if id not in self.schemas:
            return [(Code.UNKNOWN_SCHEMA.name, at + 4)]
        try:
            self.schemas[id].decoder()(frame)
        except FrameError as error:
            return [(error.problem.code.name, at + error.problem.offset)]
        return []


def packets(number: int, seed: int) -> list[bytes]:
    """Good seeds first, then damaged ones."""
    source = random.Random(seed)
    return [*SEEDS, *(damaged(source) for _ in range(number))]
