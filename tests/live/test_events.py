"""Batches of events: copied out of a ring, whatever way they lie in it."""

import struct
from array import array

import pytest

from kwire.live.events import Batch
from kwire.wire.frame import Type, build
from kwire.wire.frames import Frames
from kwire.wire.schema import Clock, Field, Schema

SCHEMA = Schema(
    1, "kprobe:f", "kprobe", "f", (Field("n", "u64", 16, 8),), 24, clock=Clock("monotonic", 0, 1000)
)
SIZE = 24


def ring(count: int, start: int, room: int) -> Frames:
    """Frames 0 … count-1 in a ring with room for `room` of them, the first at place `start`."""
    data, offsets = bytearray(room * (SIZE + 8)), array("Q")
    for number in range(count):
        at = (start + number) % room * (SIZE + 8) + 8
        data[at : at + SIZE] = build(Type.EVENT, 1, struct.pack("<QQ", 100 + number, number))
        offsets.append(at)
    return Frames(data, offsets)


@pytest.mark.parametrize("start", range(5))
@pytest.mark.parametrize("count", [1, 2, 5])
def test_events_come_out_as_they_went_in(start: int, count: int) -> None:
    batch = Batch([SCHEMA])
    batch.write(ring(count, start, 5))
    events = batch.take()
    assert [event.n for event in events] == list(range(count))
    assert [event.time_ns for event in events] == [1100 + number for number in range(count)]
    assert batch.take() == []


@pytest.mark.parametrize("start", range(5))
def test_columns_come_out_as_they_went_in(start: int) -> None:
    batch = Batch([SCHEMA])
    batch.write(ring(5, start, 5))
    batch.write(ring(2, start, 5))
    columns = batch.columns()
    assert sorted(columns["n"]) == [0, 0, 1, 1, 2, 3, 4]
    assert (columns["time_ns"] == columns["time"] + 1000).all()
