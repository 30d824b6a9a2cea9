"""What a DATA payload holds, in numbers: its events by probe, and the losses that it tells.

Invariants: a manifest is enough to tell as LOST what its payload held, event by event; manifests of payloads
that stand one after the other add up; a payload that is no frames, or frames of something else, has none.
"""

import struct
from array import array
from collections.abc import Iterable
from typing import Final, NamedTuple, TypeAlias

from kwire.capture import walk
from kwire.capture.frame_counts import count_frames
from kwire.wire.frame import FrameError
from kwire.wire.frames import Frames
from kwire.wire.messages import CPU_UNKNOWN, PAYLOAD, Cause, Lost, losses_in

EVENTS: Final = 0xFFFF
"""In the place of a cause: events that are there."""

_ROW: Final = struct.Struct("<IHxxQQQ")
LOST_SIZE: Final = 8 + PAYLOAD.size


class Row(NamedTuple):
    """`number` events of one probe, there (EVENTS) or lost by `cause`; the first and last time, ns."""

    probe: int
    cause: int
    number: int
    first: int
    last: int


Manifest: TypeAlias = dict[tuple[int, int], Row]
"""By probe and cause."""

ROW_SIZE: Final = _ROW.size


def of(payload: bytes, probes: int) -> Manifest:
    """The manifest of a payload of frames; probe numbers are at most `probes`."""
    table = array("Q", bytes(8 * walk.COUNT_WORDS * (probes + 1)))
    manifest: Manifest = {}
    try:
        losses = count(payload, table)
    except FrameError:
        return manifest
    for probe, number in enumerate(table[:: walk.COUNT_WORDS]):
        if number:
            at = probe * walk.COUNT_WORDS
            row = Row(probe, EVENTS, number, table[at + walk.FIRST], table[at + walk.LAST])
            manifest[probe, EVENTS] = row
    add(manifest, (Row(loss.probe, loss.cause, loss.count, loss.first, loss.last) for loss in losses))
    return manifest


def count(payload: bytes, table: "array[int]") -> list[Lost]:
    """Add the events and tables of a payload to a table of `count_frames`; give its losses. FrameError: no
    frames."""
    frames = Frames.walk(payload)
    if count_frames(frames.data, frames.offsets, frames.count, table) == frames.count:
        return []
    return list(losses_in(frames))


def add(manifest: Manifest, rows: Iterable[Row]) -> None:
    """Add rows to a manifest."""
    for row in rows:
        old = manifest.get((row.probe, row.cause))
        if old is not None:
            first, last = min(old.first, row.first), max(old.last, row.last)
            row = Row(row.probe, row.cause, old.number + row.number, first, last)
        manifest[row.probe, row.cause] = row


def take_off(manifest: Manifest, rows: Iterable[Row]) -> None:
    """Take rows off a manifest that they are part of; what is left begins after them."""
    for row in rows:
        old = manifest.get((row.probe, row.cause))
        if old is None:
            continue
        if old.number <= row.number:
            del manifest[row.probe, row.cause]
        else:
            left = Row(row.probe, row.cause, old.number - row.number, min(row.last, old.last), old.last)
            manifest[row.probe, row.cause] = left


def events(manifest: Manifest) -> int:
    """How many events are there."""
    return sum(row.number for row in manifest.values() if row.cause == EVENTS)


def pack(manifest: Manifest) -> bytes:
    """The bytes of a manifest, as segments hold them."""
    return b"".join(_ROW.pack(*row) for row in manifest.values())


def unpack(data: "bytes | memoryview") -> Manifest:
    """The manifest of bytes that `pack` gave. struct.error where they are not whole rows."""
    return {(row[0], row[1]): Row(*row) for row in _ROW.iter_unpack(data)}


def lost(manifest: Manifest, limit: int) -> bytes:
    """The payload of LOST frames that tells all of it: events as lost by the spool, losses as they were.

    Where that is more than `limit` bytes, what does not fit is told together, of no known probe.
    """
    losses = [
        Lost(row.probe, row.first, row.last, row.number, CPU_UNKNOWN, _cause(row.cause))
        for row in manifest.values()
    ]
    most = max(1, limit // LOST_SIZE)
    if len(losses) > most:
        rest, losses = losses[most - 1 :], losses[: most - 1]
        first, last = min(one.first for one in rest), max(one.last for one in rest)
        losses.append(Lost(0, first, last, sum(one.count for one in rest), CPU_UNKNOWN, Cause.SPOOL))
    return b"".join(loss.frame() for loss in losses)


def _cause(cause: int) -> int:
    return Cause.SPOOL if cause == EVENTS else cause
