"""Totals: how many events each probe produced, told by a source when its recording has ended.

They travel as TABLE frames with id 0, after the last EVENT and LOST frame: a CBOR map whose `produced` maps
probe number to events (0: of no known probe), with `more` where another such frame follows. Invariant: each
frame can be taken by itself; together they name every probe once. A sink holds them against what it stored
and what was counted lost.
"""

from __future__ import annotations

from collections.abc import Mapping

from kwire.wire import cbor
from kwire.wire.frame import HEADER_SIZE, MAX_EVENT, Frame, Type, build
from kwire.wire.keyed import Key, integer, read_payload, table
from kwire.wire.messages import U64_MAX

TOTALS = 0  # the map number of the TABLE
_COUNT = integer(U64_MAX)
_KEYS = {
    "produced": Key(table(_COUNT, _COUNT, "a map from probe numbers to numbers of events"), "by probe", {}),
}
_ENTRY = 14  # bytes of one entry at most: two CBOR integers, of 32 and 64 bits


def totals_frames(produced: Mapping[int, int], limit: int = MAX_EVENT) -> list[bytes]:
    """The frames that say how many events each probe produced, each of at most `limit` bytes."""
    room = max(1, (limit - HEADER_SIZE - 32) // _ENTRY)
    items = sorted(produced.items())
    frames = []
    for at in range(0, max(len(items), 1), room):
        value: dict[str, object] = {"produced": dict(items[at : at + room])}
        if at + room < len(items):
            value["more"] = True
        frames.append(build(Type.TABLE, TOTALS, cbor.dumps(value)))
    return frames


def read_totals(frame: Frame) -> dict[int, int]:
    """What one such frame says; FrameError BAD_PAYLOAD where it is not sound."""
    base = frame.offset + HEADER_SIZE
    return dict(read_payload(cbor.loads_map(frame.payload, base), _KEYS, base)["produced"])
