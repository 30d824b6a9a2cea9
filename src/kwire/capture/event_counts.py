"""The EVENTs of one chunk of frames by probe, and the TABLEs of maps: how many, from when to when.

Invariants: the cost is that of the frames, never that of the numbers that probes may have: a chunk of one
event is counted as quickly in a section of a hundred thousand probes as in a section of one; nothing is kept.
"""

import struct
from array import array
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kwire.capture import walk
from kwire.capture.frame_counts import is_table
from kwire.capture.pcapng import HOST
from kwire.capture.reader import Capture, Mixed, Section, groups
from kwire.wire.fields import EVENT_LEAST
from kwire.wire.frame import Type
from kwire.wire.frames import Frames
from kwire.wire.messages import TOTALS
from kwire.wire.schema import Schema
from kwire.wire.tables import time_of

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

MAX_PROBES: Final = 1 << 17  # greatest probe number that has a place in a table
ROWS: Final = 8  # of a table for each frame of a chunk, at most: else they are counted one by one
WAITING: Final = 1 << 18  # rows of chunks of many sections that wait to be put together

Row = tuple[int, int, int]  # count, first and last timestamp


class EventCounts(NamedTuple):
    """`known`: rows of probes and maps that are described, by number; `strangers`: counts of those that are
    not, an EVENT under the number of a map and a TABLE under that of a probe among them.

    `others`: places of the frames that are neither EVENTs nor TABLEs of maps.
    """

    known: dict[int, Row]
    strangers: dict[int, int]
    others: list[int]


def tally_of(capture: Capture, frames: Frames) -> EventCounts:
    """The tally of the chunk that a capture gives; one that was counted on the way is not counted again."""
    known = capture.tallied
    if known is not None and known[0] is frames:
        return known[1]
    assert capture.section is not None  # frames lie in sections
    return tally(frames, capture.section)


class Sums:
    """The tallies of all chunks of a capture together: `sections` in which frames lay, in their order.

    The chunks of many sections are not taken apart: what they count waits as arrays, at most WAITING rows.
    """

    __slots__ = ("_known", "_numbers", "_rows", "_schemas", "_size", "_waiting", "sections")

    def __init__(self) -> None:
        self.sections: list[Section] = []
        self._known: dict[int, int] = {}  # the id of a section → its place in `sections`
        self._schemas: list[Schema | None] = [None]  # None: no schema describes the events
        self._numbers: dict[int, int] = {}  # the id of a schema → its place in `_schemas`
        self._rows: dict[int, Row] = {}  # place of the section << 32 | place of the schema → its sums
        self._waiting: list[tuple[Array, Array, Array, Array]] = []  # such keys, counts, first and last
        self._size = 0

    def add(self, capture: Capture, frames: Frames) -> list[tuple[Section, list[int]]]:
        """Count a chunk that the capture gives; the places of its frames that are no EVENTs, by section."""
        if isinstance(frames, Mixed):
            return self._mixed(frames)
        section = capture.section
        assert section is not None  # frames lie in sections
        found, place = tally_of(capture, frames), self._place(section) << 32
        for number, row in found.known.items():
            self._sum(place | self._number(section.schemas[number]), row)
        for events in found.strangers.values():
            self._sum(place, (events, 0, 0))
        return [(section, found.others)] if found.others else []

    def rows(self) -> Iterator[tuple[Section, list[tuple[Schema | None, Row]]]]:
        """The sums of each section, by schema."""
        self._merge()
        made: list[list[tuple[Schema | None, Row]]] = [[] for _ in self.sections]
        for key, row in self._rows.items():
            made[key >> 32].append((self._schemas[key & 0xFFFFFFFF], row))
        yield from zip(self.sections, made, strict=True)

    def _place(self, section: Section) -> int:
        place = self._known.get(id(section))
        if place is None:
            place = self._known[id(section)] = len(self.sections)
            self.sections.append(section)
        return place

    def _number(self, schema: Schema | None) -> int:
        if schema is None:
            return 0
        number = self._numbers.get(id(schema))
        if number is None:
            number = self._numbers[id(schema)] = len(self._schemas)
            self._schemas.append(schema)
        return number

    def _sum(self, key: int, row: Row) -> None:
        old = self._rows.get(key)
        if old is not None:
            row = (old[0] + row[0], min(old[1], row[1]), max(old[2], row[2]))
        self._rows[key] = row

    def _mixed(self, frames: Mixed) -> list[tuple[Section, list[int]]]:
        import numpy as np

        from kwire.wire.heads import heads_of

        heads = heads_of(frames)
        types, ids, raw = heads.types, heads.ids, heads.times
        owners, schemas = frames.owners, frames.sections[0].schemas  # all have the same
        maps = [number for number, schema in schemas.items() if schema.map is not None]
        others: dict[int, list[int]] = {}  # by owner
        if maps:  # an EVENT under a number of these is a stranger, as a TABLE under another is
            ids = np.where((types == Type.EVENT) & np.isin(ids, maps), TOTALS, ids)
        if not heads.survey.same:
            tables = np.flatnonzero((types == Type.TABLE) & (ids != TOTALS)).tolist()
            if tables:
                types, ids, raw = types.copy(), ids.copy(), raw.copy()
            for at in tables:
                types[at] = Type.EVENT  # from here on it counts as one
                raw[at] = time_of(frames.frame(at))
                schema = schemas.get(int(ids[at]))
                if schema is None or schema.map is None:
                    ids[at] = TOTALS
                elif schema.order != HOST:
                    raw[at] = raw[at].byteswap()
            events = types == Type.EVENT
            for at in np.flatnonzero(~events).tolist():
                others.setdefault(int(owners[at]), []).append(at)
            owners, ids, raw = owners[events], ids[events], raw[events]
        places = np.array([self._place(section) for section in frames.sections], np.uint64)
        for number, chosen in groups(ids):
            schema = schemas.get(number)
            clock = raw[chosen] if schema is None or schema.order == HOST else raw[chosen].byteswap()
            low, counts, first, last = _summed(owners[chosen], clock)
            keys = places[low] << np.uint64(32) | np.uint64(self._number(schema))
            self._waiting.append((keys, counts, first, last))
            self._size += len(keys)
        if self._size > WAITING:
            self._merge()
        return [(frames.sections[owner], found) for owner, found in others.items()]

    def _merge(self) -> None:
        """Put together what waits."""
        if not self._waiting:
            return
        import numpy as np

        keys, counts, first, last = (np.concatenate(column) for column in zip(*self._waiting, strict=True))
        self._waiting, self._size = [], 0
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        sums = np.add.reduceat(counts[order], starts)
        least, greatest = np.minimum.reduceat(first[order], starts), np.maximum.reduceat(last[order], starts)
        for key, *row in zip(*(one.tolist() for one in (keys[starts], sums, least, greatest)), strict=True):
            self._sum(key, (row[0], row[1], row[2]))


def _summed(owners: "Array", times: "Array") -> "tuple[Array, Array, Array, Array]":
    """Each distinct owner, how often it occurs, and the least and the greatest of its times."""
    import numpy as np

    count = int(owners.max()) + 1
    small = owners.astype(np.uint16) if count <= 1 << 16 else owners  # which numpy sorts by digits
    order = np.argsort(small, kind="stable")
    counts = np.bincount(owners, minlength=count)
    present = np.flatnonzero(counts)
    counts = counts[present]
    starts = np.cumsum(counts) - counts
    times = times[order]
    return present, counts, np.minimum.reduceat(times, starts), np.maximum.reduceat(times, starts)


def tally(frames: Frames, section: Section) -> EventCounts:
    """Count the EVENTs of a chunk that lies in this section."""
    count, greatest = len(frames), section.greatest
    if not count:
        return EventCounts({}, {}, [])
    if frames.heads is not None and frames.heads.survey.same:
        number, survey = int(frames.heads.ids[0]), frames.heads.survey
        schema = section.schemas.get(number)
        if schema is None or schema.map is not None:
            return EventCounts({}, {number: count}, [])
        if schema.order == HOST:
            return EventCounts({number: (count, survey.first, survey.last)}, {}, [])
    if greatest > MAX_PROBES or greatest + 1 > ROWS * count:
        return _one_by_one(frames, section)
    known: dict[int, Row] = {}
    strangers: dict[int, int] = {}
    for order in section.orders or (HOST,):
        table = array("Q", bytes(8 * walk.COUNT_WORDS * (greatest + 1)))
        if walk.count_by_id(frames.data, frames.offsets, count, table, order != HOST) < count:
            return _one_by_one(frames, section)
        for number, events in enumerate(table[:: walk.COUNT_WORDS]):
            if not events:
                continue
            schema = section.schemas.get(number)
            if schema is None or schema.map is not None:
                strangers[number] = events
            elif schema.order == order:
                at = number * walk.COUNT_WORDS
                known[number] = (events, table[at + walk.FIRST], table[at + walk.LAST])
    return EventCounts(known, strangers, [])


def _one_by_one(frames: Frames, section: Section) -> EventCounts:
    known: dict[int, Row] = {}
    strangers: dict[int, int] = {}
    others = []
    view, offsets = frames.view, frames.offsets
    for index in range(len(frames)):
        offset = offsets[index]
        kind, _, length, number = _head(view, offset)
        if not _counts(kind & 15, length, number):
            others.append(index)
            continue
        schema = section.schemas.get(number)
        if schema is None or (schema.map is None) == (kind & 15 == Type.TABLE):
            strangers[number] = strangers.get(number, 0) + 1
            continue
        if kind & 15 == Type.TABLE:
            time = time_of(frames.frame(index))
        else:
            (time,) = (_little if schema.order == "little" else _big)(view, offset + 8)
        events, first, last = known.get(number, (0, time, time))
        known[number] = (events + 1, min(first, time), max(last, time))
    return EventCounts(known, strangers, others)


def _counts(type: int, length: int, id: int) -> bool:
    """Whether a frame is counted: an EVENT that has a timestamp, or a TABLE of a map."""
    return length >= EVENT_LEAST if type == Type.EVENT else is_table(type, id)


_head = struct.Struct(">BBHI").unpack_from
_little = struct.Struct("<Q").unpack_from
_big = struct.Struct(">Q").unpack_from
