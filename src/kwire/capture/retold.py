"""The stacks that the events of a file refer to, told in that file.

The tables that tell stacks come once, before what refers to them; so a further file of a rotation, and a
piece of a capture, would hold numbers that mean nothing there. Invariants: of the frames that are given, all
stacks that they refer to, and that are known, are told in the file before them, each once; frames of probes
that refer to none cost a look at their number, where others do.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from kwire.capture import walk
from kwire.capture.frame_counts import count_frames, is_table
from kwire.capture.output import CaptureError
from kwire.hints import Final
from kwire.wire.frame import HEADER, HEADER_SIZE, FrameError, Type
from kwire.wire.frames import Frames
from kwire.wire.schema import Schema
from kwire.wire.stacks import Stacks
from kwire.wire.tables import MapTable, Row, TableReader, cells, learn, problem, read_table_part, stack_rows

AT_ONCE: Final = 4096
"""Frames that are looked at before their stacks are told."""

NOTHING: Final = Frames(b"", array("Q"))

REFER: Final = ("stack", "ksym")
"""Types of fields whose values are numbers of stacks."""


class Retold:
    """Of one capture being written. `known`: what is known of stacks, perhaps by others too."""

    __slots__ = ("_maps", "_numbers", "_places", "_reader", "_time", "_told", "known", "shared", "tells")

    def __init__(self, schemas: Iterable[Schema], known: Stacks | None = None) -> None:
        self.known = Stacks() if known is None else known
        self.shared = known is not None
        """Whether the tables themselves are not written, but only what is told of them."""
        self._told: set[int] = set()  # in this file, or not known
        self._places: dict[int, tuple[struct.Struct, list[tuple[int, struct.Struct]]]] = {}
        self._maps: dict[int, tuple[Schema, tuple[int, ...]]] = {}
        self._reader = TableReader()
        self._numbers = self._time = 0
        self.tells = 0
        """The number of the map that tells them; 0: there is none."""
        for schema in schemas:
            self.describe(schema)

    def describe(self, schema: Schema) -> None:
        """Take a probe, or a map, as it is described now."""
        self._places.pop(schema.id, None)
        self._maps.pop(schema.id, None)
        if schema.tells:
            self.tells = self.tells or schema.id
            return
        fields = [
            (at, field)
            for at, field in enumerate(schema.fields)
            if field.type in REFER and field.size == 8 * field.count
        ]
        if fields and schema.map is not None:
            self._maps[schema.id] = schema, tuple(at for at, _ in fields)
        elif fields:
            order = "<" if schema.order == "little" else ">"
            numbers = [(field.offset, struct.Struct(f"{order}{field.count}Q")) for _, field in fields]
            self._places[schema.id] = struct.Struct(f"{order}Q"), numbers

    def begin(self) -> None:
        """A file begins, in which nothing is told yet."""
        self._told.clear()

    def learn(self, schema: Schema, frames: Frames, index: int) -> None:
        """Take a frame of a map that tells stacks, which is written as it is."""
        try:
            held = self._reader.add(frames.frame(index))
        except FrameError:
            return
        if held is not None and not problem(schema, held.rows):
            learn(schema._replace(stacks=self.known), held)
            self._told.update(row.key[0] for row in held.rows if isinstance(row.key[0], int))

    def relearn(self, path: str) -> None:
        """Learn what a file tells that another process has written, as far as it can be read."""
        from kwire.capture.reader import Capture

        told, self._told = self._told, set()
        words = walk.COUNT_WORDS
        with suppress(CaptureError, FrameError, OSError), Capture(path) as capture:
            for frames in capture:
                counts = array("Q", bytes(8 * words * (self.tells + 1)))
                count_frames(frames.data, frames.offsets, frames.count, counts)
                schema = capture.section.schemas.get(self.tells) if capture.section else None
                if not counts[self.tells * words] or schema is None or not schema.tells:
                    continue
                for index in range(frames.count):
                    header = frames.header(index)
                    if header.id == self.tells and header.type == Type.TABLE:
                        self.learn(schema, frames, index)
        self._told = told

    def before(self, frames: Frames, start: int) -> tuple[int, Frames]:
        """The TABLE frames that are to be written before the frames from `start` on, and where those end that
        they are enough for.
        """
        if not self.tells or not (self._places or self._maps):
            return frames.count, NOTHING
        stop = min(start + AT_ONCE, frames.count)
        wanted = set(self._referred(frames, start, stop)) - self._told
        self._told |= wanted
        found = [(number, self.known.stack(number)) for number in sorted(wanted) if number in self.known]
        if not found:
            return stop, NOTHING
        self._numbers += 1
        made = MapTable(self._numbers, self._time, tuple(stack_rows(found))).frames(self.tells)
        return stop, Frames.walk(b"".join(made))

    def _referred(self, frames: Frames, start: int, stop: int) -> Iterator[int]:
        """The numbers in these frames; the time of the first of them is that of the tables."""
        view, offsets = frames.view, frames.offsets
        self._time = 0
        for index in range(start, stop):
            at = offsets[index]
            kind, _, length, id = HEADER.unpack_from(view, at)
            found = self._places.get(id)
            if found is not None and kind & 15 == Type.EVENT:
                time, places = found
                if not self._time:
                    [self._time] = time.unpack_from(view, at + HEADER_SIZE)
                for offset, numbers in places:
                    if offset + numbers.size <= length:
                        yield from numbers.unpack_from(view, at + offset)
            elif id in self._maps and is_table(kind & 15, id):
                yield from self._in_table(frames, index, *self._maps[id])

    def _in_table(self, frames: Frames, index: int, schema: Schema, places: Sequence[int]) -> Iterator[int]:
        try:
            part = read_table_part(frames.frame(index))
        except FrameError:
            return
        self._time = self._time or part.time
        for key, value in part.rows:
            row = cells(schema, Row(tuple(key), _tuples(value)))
            for at in places:
                if at < len(row) and isinstance(row[at], int):
                    yield int(row[at])


def _tuples(value: object) -> object:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
