"""The EVENTs of one chunk of frames by probe: how many, and their first and last timestamps.

The laws: the cost is that of the frames, never that of the numbers that probes may have: a chunk of one event
is counted as quickly in a section of a hundred thousand probes as in a section of one; nothing is kept.
"""

import struct
from array import array
from collections.abc import Iterator
from typing import Final, NamedTuple

from kwire.capture import walk
from kwire.capture.pcapng import HOST
from kwire.capture.reader import EVENT_LEAST, Capture, Mixed, Section
from kwire.wire.frame import Type
from kwire.wire.frames import Frames

MAX_PROBES: Final = 1 << 17  # greatest probe number that has a place in a table
ROWS: Final = 8  # of a table for each frame of a chunk, at most: else they are counted one by one

Row = tuple[int, int, int]  # count, first and last timestamp


class Tally(NamedTuple):
    """`known`: rows of probes that are described, by number; `strangers`: counts of those that are not.

    `others`: places of the frames that are no EVENTs.
    """

    known: dict[int, Row]
    strangers: dict[int, int]
    others: list[int]


def tally_of(capture: Capture, frames: Frames) -> Tally:
    """The tally of the chunk that a capture gives; one that was counted on the way is not counted again."""
    known = capture.tallied
    if known is not None and known[0] is frames:
        return known[1]
    assert capture.section is not None  # frames lie in sections
    return tally(frames, capture.section)


def tallies(capture: Capture, frames: Frames) -> Iterator[tuple[Section, Tally]]:
    """The tally of a chunk that a capture gives, of each section that has frames in it."""
    if isinstance(frames, Mixed):
        yield from _mixed(frames)
        return
    assert capture.section is not None  # frames lie in sections
    yield capture.section, tally_of(capture, frames)


def _mixed(frames: Mixed) -> Iterator[tuple[Section, Tally]]:
    """Those of frames of several sections, all counted together."""
    import numpy as np

    from kwire.wire.gather import event_heads

    count = len(frames)
    types, ids, ends = np.empty(count, np.uint8), np.empty(count, np.uint32), np.empty(count, np.uint32)
    raw = np.empty(count, np.uint64)
    done, _ = event_heads(frames.view, frames.offsets, count, types, ids, ends, raw)
    assert done == count  # whoever made the frames has seen to it
    made: dict[int, Tally] = {}
    events = types == Type.EVENT
    for place in np.flatnonzero(~events).tolist():
        owner = int(frames.owners[place])
        made.setdefault(owner, Tally({}, {}, [])).others.append(place)
    keys = frames.owners[events].astype(np.uint64) << np.uint64(32) | ids[events]
    if len(keys):
        order = np.argsort(keys, kind="stable")
        keys, raw = keys[order], raw[events][order]
        starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        counts = np.diff(np.append(starts, len(keys))).tolist()
        times: dict[str, tuple[list[int], list[int]]] = {}
        for which in frames.sections[0].orders:  # all have the same schemas
            moments = raw if which == HOST else raw.byteswap()
            first, last = np.minimum.reduceat(moments, starts), np.maximum.reduceat(moments, starts)
            times[which] = (first.tolist(), last.tolist())
        for place, key in enumerate(keys[starts].tolist()):
            owner, number = key >> 32, key & 0xFFFFFFFF
            found = made.setdefault(owner, Tally({}, {}, []))
            schema = frames.sections[owner].schemas.get(number)
            if schema is None:
                found.strangers[number] = counts[place]
            else:
                low, high = times[schema.order]
                found.known[number] = (counts[place], low[place], high[place])
    for owner, found in made.items():
        yield frames.sections[owner], found


def tally(frames: Frames, section: Section) -> Tally:
    """Count the EVENTs of a chunk that lies in this section."""
    count, greatest = len(frames), section.greatest
    if not count:
        return Tally({}, {}, [])
    if greatest > MAX_PROBES or greatest + 1 > ROWS * count:
        return _one_by_one(frames, section)
    known: dict[int, Row] = {}
    strangers: dict[int, int] = {}
    counted = count
    for order in section.orders or (HOST,):
        table = array("Q", bytes(8 * walk.COUNT_WORDS * (greatest + 1)))
        counted = walk.count_by_id(frames.data, frames.offsets, count, table, order != HOST)
        for number, events in enumerate(table[:: walk.COUNT_WORDS]):
            if not events:
                continue
            schema = section.schemas.get(number)
            if schema is None:
                strangers[number] = events
            elif schema.order == order:
                at = number * walk.COUNT_WORDS
                known[number] = (events, table[at + walk.FIRST], table[at + walk.LAST])
    if counted == count:
        return Tally(known, strangers, [])
    others = []
    view, offsets = frames.view, frames.offsets
    for index in range(count):
        offset = offsets[index]
        kind, _, length, number = _head(view, offset)
        if kind & 15 != Type.EVENT or length < EVENT_LEAST:
            others.append(index)
        elif number > greatest:
            strangers[number] = strangers.get(number, 0) + 1
    return Tally(known, strangers, others)


def _one_by_one(frames: Frames, section: Section) -> Tally:
    known: dict[int, Row] = {}
    strangers: dict[int, int] = {}
    others = []
    view, offsets = frames.view, frames.offsets
    for index in range(len(frames)):
        offset = offsets[index]
        kind, _, length, number = _head(view, offset)
        if kind & 15 != Type.EVENT or length < EVENT_LEAST:
            others.append(index)
            continue
        schema = section.schemas.get(number)
        if schema is None:
            strangers[number] = strangers.get(number, 0) + 1
            continue
        (time,) = (_little if schema.order == "little" else _big)(view, offset + 8)
        events, first, last = known.get(number, (0, time, time))
        known[number] = (events + 1, min(first, time), max(last, time))
    return Tally(known, strangers, others)


_head = struct.Struct(">BBHI").unpack_from
_little = struct.Struct("<Q").unpack_from
_big = struct.Struct(">Q").unpack_from
