"""Fuzz the readers of frames: headers, walking, schemas, records, columns, explaining, hex dumps."""

from __future__ import annotations

import struct

import fuzzing

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


def event(schema: Schema) -> bytes:
    """An event of this probe, or of one like it, with four bytes for each field of the tail."""
    sign = "<" if schema.order == "little" else ">"
    frame = bytearray(build(Type.EVENT, schema.id, bytes(range(schema.size - 8)) + b"tail\0\0\0\0"))
    for field in schema.fields:
        if TYPES[field.type].tail:
            struct.pack_into(sign + "HH", frame, field.offset, schema.size, 4)
    return bytes(frame)


EVENT = event(SCHEMA)
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


def one_input(data: bytes) -> None:
    """Hand `data` to every reader. What a reader may raise is caught; anything else is a defect."""
    frame, problems = inspect(data)
    assert frame is not None or problems
    try:
        lenient = read_lenient(data)
        assert frame is not None
        assert lenient.payload.startswith(frame.payload)
    except FrameError as error:
        fuzzing.check(frame is None and error.problem in problems, "lenient and strict disagree")
    frames, stop = Frames.walk_prefix(data)
    assert (stop is None) == (sum(frames.header(index).length for index in range(len(frames))) == len(data))
    _read(frames)
    for lenient_reading in (False, True):
        for one in Explainer(lenient_reading).explain(data):
            assert one.end > one.offset
    try:
        assert parse(data.decode("utf-8", "backslashreplace"))
    except KwireError as error:
        fuzzing.check("\n" not in str(error), "an error of more than a line")


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
            of_no_probe = frame.header.type == Type.SCHEMA and not frame.header.id
            right = Code.BAD_ID if of_no_probe else Code.BAD_PAYLOAD
            fuzzing.check(error.problem.code == right, "another code")
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
                fuzzing.check(error.problem.code == Code.BAD_PAYLOAD, "another code")
        try:
            columns(schema, frames)
        except FrameError:
            fuzzing.check(refused, "columns refuse what the decoder reads")
        else:
            fuzzing.check(not refused, "columns read what the decoder refuses")


if __name__ == "__main__":
    fuzzing.main(one_input, SEEDS)
