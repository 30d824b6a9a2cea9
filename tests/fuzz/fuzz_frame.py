"""Fuzz the readers of frames: headers, walking, schemas, records, columns, explaining, hex dumps.

`python tests/fuzz/fuzz_frame.py --runs 100000 [--seed N]` mutates at random, without anything else installed;
`python tests/fuzz/fuzz_frame.py CORPUS` is guided by atheris, where that is installed.
"""

from __future__ import annotations

import argparse
import random
import struct
import sys

from kwire.errors import KwireError
from kwire.wire import cbor
from kwire.wire.columns import columns
from kwire.wire.explain import Explainer
from kwire.wire.fields import TYPES, Field
from kwire.wire.frame import Code, Flag, FrameError, Type, build, inspect, read_lenient
from kwire.wire.frames import Frames
from kwire.wire.hextext import parse
from kwire.wire.messages import Lost
from kwire.wire.schema import Clock, Schema, SchemaReader


def _schema() -> Schema:
    fields, at = [], 16
    for name, rule in TYPES.items():
        size = rule.sizes[0] if rule.sizes else 4
        fields.append(Field(name, name, at, size, limit=16 if rule.tail else 0))
        at += size
    fields.append(Field("many", "u16", at, 12, count=6, unit="ns", meaning="six"))
    enums, clock = {"e": {1: "ONE", -1: "MINUS"}}, Clock("monotonic", 5, 6)
    return Schema(
        1, "kprobe:f", "kprobe", "f", tuple(fields), at + 12, enums=enums, symbols={4096: "f"}, clock=clock
    )


SCHEMA = _schema()
_EVENT = bytearray(build(Type.EVENT, 1, bytes(range(SCHEMA.size - 8)) + b"tail\0\0\0\0"))
for _field in SCHEMA.fields[-3:-1]:  # the two tail fields
    struct.pack_into("<HH", _EVENT, _field.offset, SCHEMA.size, 4)
EVENT = bytes(_EVENT)
PARTS = b"".join(
    build(Type.SCHEMA, 2, cbor.dumps(part))
    for part in (
        {"more": True, "fields": []},
        {"probe": "p", "kind": "k", "size": 24, "order": "big", "word": 4},
    )
)
SEEDS = [
    b"".join(SCHEMA.frames()) + EVENT + Lost(1, 2, 3, 4).frame(),
    EVENT,
    build(Type.EVENT, 1, EVENT[8:], Flag.CHECKSUM),
    PARTS,
    build(Type.DATA, 1, EVENT + build(Type.KEEPALIVE, 0)),
    build(Type.ACK, 1, bytes(12), Flag.CHECKSUM),
    build(Type.ERROR, 1, cbor.dumps({"code": 7, "message": "x"})),
    bytes.fromhex("1fff000bdeadbeef00ff80"),
    b"00000000: 1100 000c 0000 0063 7465 7374            .......ctest\n",
    b"00000000  11 00 00 0c 00 00 00 63  74 65 73 74              |.......ctest|\n*\n0000001c\n",
    b"x\n\t0x0000:  1100 000c 0000 0063\n\t0x0008:  7465 7374\n",
    b"{0x11, 0x0, 0x00, \\x0c}",
]


def expect(holds: bool, defect: str) -> None:
    if not holds:
        raise AssertionError(defect)


def one_input(data: bytes) -> None:
    """Hand `data` to every reader. What a reader may raise is caught; anything else is a defect."""
    frame, problems = inspect(data)
    assert frame is not None or problems
    try:
        lenient = read_lenient(data)
        assert frame is not None
        assert lenient.payload.startswith(frame.payload)
    except FrameError as error:
        expect(frame is None and error.problem in problems, "lenient and strict disagree")
    frames, stop = Frames.walk_prefix(data)
    assert (stop is None) == (sum(frames.header(index).length for index in range(len(frames))) == len(data))
    _read(frames)
    for lenient_reading in (False, True):
        for one in Explainer(lenient_reading).explain(data):
            assert one.end > one.offset
    try:
        assert parse(data.decode("utf-8", "backslashreplace"))
    except KwireError as error:
        expect("\n" not in str(error), "an error of more than a line")


def _read(frames: Frames) -> None:
    """Read every payload; decode events with what was read and with our own schema, by row and by column."""
    reader, schemas = SchemaReader(), {SCHEMA.id: SCHEMA}
    for frame in frames:
        try:
            if frame.header.type == Type.SCHEMA:
                schema = reader.add(frame)
                if schema is not None:
                    schemas[schema.id] = schema
            elif frame.header.type == Type.LOST:
                Lost.read(frame)
        except FrameError as error:
            expect(error.problem.code == Code.BAD_PAYLOAD, "another code")
    for schema in schemas.values():
        decoder = schema.decoder()
        refused = False
        for index in range(len(frames)):
            header = frames.header(index)
            if (header.type, header.id) != (Type.EVENT, schema.id):
                continue
            try:
                assert len(decoder(frames.frame_bytes(index))) == len(schema.fields)
            except FrameError as error:
                refused = True
                expect(error.problem.code == Code.BAD_PAYLOAD, "another code")
        try:
            columns(schema, frames)
        except FrameError:
            expect(refused, "columns refuse what the decoder reads")
        else:
            expect(not refused, "columns read what the decoder refuses")


def mutated(source: random.Random) -> bytes:
    """A seed, or noise, with a few bytes changed, moved, cut or made extreme."""
    data = bytearray(
        source.choice(SEEDS) if source.random() < 0.95 else source.randbytes(source.randrange(80))
    )
    for _ in range(source.randrange(5)):
        at = source.randrange(len(data) + 1)
        match source.randrange(5):
            case 0 if at < len(data):
                data[at] ^= 1 << source.randrange(8)
            case 1:
                size = source.choice([1, 2, 4, 8])
                data[at : at + size] = source.choice([bytes(size), b"\xff" * size, source.randbytes(size)])
            case 2:
                del data[at : at + source.randrange(1, 20)]
            case 3:
                data[at:at] = data[source.randrange(len(data) + 1) :][:40]
            case 4:
                data += source.choice(SEEDS)
    return bytes(data)


def main() -> None:
    """Run `--runs` inputs of our own, or hand over to atheris."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, help="number of random mutations")
    parser.add_argument("--seed", type=int, default=1)
    args, rest = parser.parse_known_args()
    if args.runs is None:
        try:
            import atheris
        except ImportError:
            parser.error("atheris is not installed: give --runs N")
        atheris.Setup([sys.argv[0], *rest], one_input)
        atheris.Fuzz()
        return
    source = random.Random(args.seed)
    for run in range(args.runs):
        data = mutated(source)
        try:
            one_input(data)
        except BaseException:
            print(f"run {run} of seed {args.seed}: {data.hex()}", file=sys.stderr)
            raise
    print(f"{args.runs} inputs, no defect")


if __name__ == "__main__":
    main()
