"""Payloads: frames back to back, as DATA carries them, read strictly; and what each of them says.

Invariants: a payload is hostile until proven otherwise: nothing is given of a frame with which something is
wrong; a frame whose length is sound does not take the next one with it; no Python runs for a single frame of
a payload with which nothing is wrong. Whoever stores, shows or counts what came reads it through these.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from kwire.wire.fields import check_timestamp
from kwire.wire.frame import HEADER_SIZE, Bytes, Code, Frame, FrameError, Problem, Type, inspect, read_strict
from kwire.wire.frames import Frames
from kwire.wire.messages import TOTALS, Lost, read_totals
from kwire.wire.schema import Schema, SchemaReader
from kwire.wire.tables import TablePart, read_table_part
from kwire.wire.walk import frame_strict

ENDS: Final = frozenset({Code.TRUNCATED_HEADER, Code.TRUNCATED_PAYLOAD, Code.LENGTH_BELOW_HEADER})
"""What is wrong with a frame after which no other one can be found."""

STEP: Final = 1 << 14
"""Frames that are looked at together."""

Said: TypeAlias = "Schema | Lost | TablePart | dict[int, int] | None"
"""What a frame says of a probe, or that events are missing, or what a map held, or how many each produced."""


def strict_runs(payload: bytes | bytearray, refuse: Callable[[list[Problem], int], None]) -> Iterator[Frames]:
    """The frames of a payload with which nothing is wrong, in runs that stand back to back.

    `refuse` is told what is wrong with each other frame, and where that begins. Each run is valid until the
    next is asked for.
    """
    at, offsets = 0, array("Q", bytes(8 * min(STEP, len(payload) // HEADER_SIZE + 1)))
    while at < len(payload):
        count, at = frame_strict(payload, at, len(payload), offsets, len(offsets))
        if count:
            yield Frames(payload, offsets, count)
        if at < len(payload) and count < len(offsets):
            frame, problems = inspect(payload, at)
            refuse(problems, at)
            if frame is None:
                return
            at += frame.header.length


def said(frame: Frame, schemas: SchemaReader) -> Said:
    """What a frame says with which `inspect` finds nothing wrong: a schema whose last frame this is, put
    together by `schemas`, a loss, a part of a table, or totals. None: it is an event, or none of these.

    Raises FrameError where the payload is not what the type says, as far as that shows without a schema.
    """
    type = frame.header.type
    if type == Type.SCHEMA:
        return schemas.add(frame)
    if type == Type.LOST:
        return Lost.read(frame)
    if type == Type.TABLE:
        return read_totals(frame) if frame.header.id == TOTALS else read_table_part(frame)
    if type == Type.EVENT:
        check_timestamp(HEADER_SIZE + len(frame.payload), frame.offset)
    return None


def judge(data: Bytes) -> Problem | None:
    """The first thing that is wrong with the frame at the start of `data`, as far as it says so by itself."""
    try:
        said(read_strict(data), SchemaReader())
    except FrameError as error:
        return error.problem
    return None
