"""One reading of a capture, as blocks: many events of one probe, in order of time, ready for columns.

Invariants: memory is bounded by a window of the file (BYTES, EVENTS), whatever the file claims; nothing runs
for a single event; every event that is wanted is in exactly one block; what a
selection rules out by time or probe is skipped chunk by chunk and never decoded (`chunks`, `decoded` count).
"""

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kwire.analyze.losses import Losses
from kwire.analyze.selection import Selection
from kwire.capture.event_counts import tally_of
from kwire.capture.reader import Section, gathered, groups, sorted_groups
from kwire.native import Survey
from kwire.packets.open import NetworkCapture
from kwire.wire.column_rows import event_values
from kwire.wire.columns import Columns
from kwire.wire.frame import Frame, FrameError, Type
from kwire.wire.frames import ID_AT, Frames
from kwire.wire.heads import heads_of
from kwire.wire.messages import TOTALS, Lost
from kwire.wire.schema import EARLIEST, LATEST, Clock, Schema
from kwire.wire.stacks import Stacks
from kwire.wire.tables import MapTable, TableReader, learn, problem, records, time_of
from kwire.wire.walk import frame_gather

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

EVENTS: Final = 1 << 14  # in a window, about
BYTES: Final = 1 << 20  # of frames in a window, about: what the cache of a core holds
BLOCK: Final = 1 << 11  # events of a probe in a window on average, so that its block is worth its overhead …
MOST: Final = 32  # … but at most so many times EVENTS and BYTES
FEW: Final = 8  # schemas by which sections are looked for that have the same
VALUES: Final = 64 << 20  # bytes of the fixed fields of a block, about
SPREAD: Final = 3  # so many times the bytes of frames are copied at most to have them in one piece

Progress = Callable[[int], None]  # told how many bytes of frames were read so far


class Block(NamedTuple):
    """Events of one probe, in order of time: `times` are wall-clock ns (int64), cut to what that can hold.

    `round`: the same in all blocks that were read together, which come one probe after the other. `ends`:
    bytes of each frame without its trailer, where that is known; the events are as their schema says then.
    """

    schema: Schema
    frames: Frames
    times: "Array"
    round: object
    ends: "Array | None" = None

    def columns(self) -> Columns:
        """Its columns."""
        return Columns(self.schema, self.frames, self.ends)

    def some(self, which: "slice | Array") -> "Block":
        """These events of it, in this order."""
        import numpy as np

        offsets = np.asarray(self.frames.offsets)[: len(self.times)][which]
        ends = None if self.ends is None else self.ends[which]
        return self._replace(
            frames=Frames(self.frames.data, offsets.data), times=self.times[which], ends=ends
        )

    def kept(self) -> tuple[object, int]:
        """What it keeps in memory, which it may share with others, and how many bytes that is."""
        return self.frames.data, len(self.frames.view)

    def alone(self, which: "Array") -> "Block":
        """These events of it, in bytes of their own."""
        some = self.some(which)
        data, offsets = gathered(some.frames, slice(None))
        return some._replace(frames=Frames(data, offsets.data))


class Window:
    """What was read and not yet given: frames under one set of schemas; what is one chunk is not copied."""

    __slots__ = ("_first", "_parts", "clock", "events", "schemas", "size")

    def __init__(self, schemas: dict[int, Schema]) -> None:
        self.schemas = schemas
        self.clock: Clock | None = None  # of frames whose own schema is not there
        self._first: Frames | None = None  # the only chunk, as it came
        self._parts: tuple[bytearray, list[Array]] = (bytearray(), [])
        self.events = self.size = 0

    def add(self, frames: Frames) -> None:
        """Take a chunk, which may not change before the frames were used."""
        first, self._first = self._first, None
        if not self.events:
            self._first = frames
            self.size = frames.spread
        else:
            if first is not None:
                self._copy(first)
            self._copy(frames)
            self.size = len(self._parts[0])
        self.events += len(frames)

    def frames(self) -> Frames:
        """All of it."""
        import numpy as np

        if self._first is not None:
            return self._first
        data, places = self._parts
        return Frames(data, np.concatenate(places).data)

    def own(self) -> None:
        """From here on the bytes are nobody else's: they may be changed."""
        first, self._first = self._first, None
        if first is not None:
            self._copy(first)

    def _copy(self, frames: Frames) -> None:
        """Copy frames: in one piece where they lie close, else one by one."""
        import numpy as np

        data, places = self._parts
        count = len(frames)
        offsets = np.asarray(frames.offsets)[:count]
        at = offsets.argmax()
        first, end = int(offsets.min()), int(offsets[at]) + len(frames.frame_bytes(int(at)))
        view = np.asarray(frames.view)
        lengths = view[offsets + np.uint64(2)].astype(np.uint64) << np.uint64(8)
        lengths |= view[offsets + np.uint64(3)]
        size = int(lengths.sum())
        if end - first <= SPREAD * size:
            places.append(offsets - np.uint64(first) + np.uint64(len(data)))
            data += frames.view[first:end]
        else:
            start = len(data)
            data += bytes(size)
            frame_gather(frames.view, frames.offsets, 0, count, data, start)
            places.append(np.cumsum(lengths) - lengths + np.uint64(start))


class Picked(NamedTuple):
    """The frames that are wanted of a window, in the file's order: EVENTs at `offsets`, wall-clock `times`.

    `data`: the bytes, which are nobody else's and may be changed. `losses`: LOST frames: before which event
    each stands, its probe's schema (None: not known), what it says. `round`: the same in all that was read
    together, which comes one set of schemas after the other.
    """

    window: Window
    data: bytearray
    offsets: "Array"
    times: "Array"
    losses: list[tuple[int, Schema | None, Lost]]
    round: object


class Scan:
    """Blocks of a capture, by iterating once; or `picks`. `losses`: what its LOST frames count, if wanted.

    `chunks` were read and `decoded` of them looked into; so many `events`, and `rows` of maps, were given;
    `strangers` are of probes not described. `maps`: whether rows of maps come as blocks, too. `events_held`,
    `bytes_held`: about how much a window holds. `watch` is given each chunk as it is read.
    """

    __slots__ = (
        "_asked",
        "_maps",
        "_readers",
        "_round",
        "capture",
        "chunks",
        "decoded",
        "events",
        "limits",
        "losses",
        "progress",
        "read",
        "rows",
        "selection",
        "strangers",
        "watch",
    )

    def __init__(
        self,
        capture: NetworkCapture,
        selection: Selection | None = None,
        progress: Progress | None = None,
        *,
        events_held: int = EVENTS,
        bytes_held: int = BYTES,
        maps: bool = True,
        watch: Callable[[NetworkCapture, Frames], None] | None = None,
    ) -> None:
        self.capture, self.watch = capture, watch
        self.selection = selection or Selection()
        self.progress = progress
        self.limits = (events_held, bytes_held)
        self._maps = maps
        self.losses = Losses()
        self.chunks = self.decoded = self.events = self.rows = self.read = 0
        self._round = object()
        self._readers: dict[int, tuple[dict[int, Schema], TableReader]] = {}  # by the id of the schemas
        self._asked: tuple[dict[int, Schema], int, bool] = ({}, -1, False)  # see _all_wanted
        self.strangers = 0

    def __iter__(self) -> Iterator[Block]:
        for window in self._windows():
            yield from self._blocks(window)

    def picks(self, stacks: Stacks) -> Iterator[Picked]:
        """The frames as they are, a window at a time: for captures made from captures. Those that tell stacks
        are not among them: `stacks` gets what they tell, for whoever writes (`capture.retold`).
        """
        for window in self._windows():
            yield self._pick(window, stacks)

    def _windows(self) -> Iterator[Window]:
        held: dict[object, Window] = {}  # by schemas: sections of a network capture take turns
        events = size = 0
        self.capture.mixed = True
        for frames in self.capture:
            section = self.capture.section
            assert section is not None  # frames lie in sections
            self.chunks += 1
            if self.watch is not None:
                self.watch(self.capture, frames)
            self.read += frames.spread
            if self.progress is not None:
                self.progress(self.read)
            if not self._wanted(frames, section):
                continue
            self.decoded += 1
            key = _key(section.schemas)
            window = held.get(key)
            if window is None:
                window = held[key] = Window(section.schemas)
            window.clock = section.clock
            before = window.size
            window.add(frames)
            events, size = events + len(frames), size + window.size - before
            scale = min(max(BLOCK * len(section.schemas) / EVENTS, 1), MOST)
            if events >= self.limits[0] * scale or size >= self.limits[1] * scale:
                self._round = object()
                yield from held.values()
                held, events, size = {}, 0, 0
        self._round = object()
        yield from held.values()

    def _wanted(self, frames: Frames, section: Section) -> bool:
        """Whether anything of this chunk is wanted: counted by probe and time in C, nothing decoded."""
        if not len(frames) or self.selection.everything or self._all_wanted(section):
            return bool(len(frames))
        found = tally_of(self.capture, frames)
        for number, (_, first, last) in found.known.items():
            schema = section.schemas[number]
            if schema.tells:
                return True
            if self.selection.wants(schema) and self.selection.reaches(schema.wall(first), schema.wall(last)):
                return True
        return bool(found.others or found.strangers)

    def _all_wanted(self, section: Section) -> bool:
        """Whether all events of all probes of a section are; with more schemas that is another question."""
        schemas, size, answer = self._asked
        if schemas is not section.schemas or size != len(schemas):
            schemas = section.schemas
            answer = not self.selection.bounded and all(map(self.selection.wants, schemas.values()))
            self._asked = (schemas, len(schemas), answer)
        return answer

    def _blocks(self, window: Window) -> Iterator[Block]:
        heads = _Heads(window)
        for at in heads.losses():
            self._lost(heads, at)
        tables = self._tables(window, heads.tables())  # their rows come as blocks; by_probe has only events
        for id, chosen in heads.by_probe():
            schema = self._described(window, id, len(heads.ids[chosen]))
            if schema is not None:
                block = self._block(heads, schema, chosen)
                if block is not None:
                    yield from _parts(block)

        if self._maps:
            yield from self._rows_of(window, tables)

    def _tables(
        self, window: Window, frames: list[Frame], *, telling: bool = False
    ) -> list[tuple[Schema, MapTable]]:
        """What the wanted maps held, with which nothing is wrong; stacks are known then, wanted or not.
        `telling`: of those that tell stacks only.
        """
        found: list[tuple[Schema, MapTable]] = []
        for frame in frames:
            schema = window.schemas.get(frame.header.id)
            if telling and (schema is None or not schema.tells):
                continue
            if schema is None or not schema.tells:
                schema = self._described(window, frame.header.id, 1)
            if schema is None or schema.map is None:
                continue
            _, reader = self._readers.setdefault(id(window.schemas), (window.schemas, TableReader()))
            try:
                held = reader.add(frame)
            except FrameError:
                continue
            if held is not None and not problem(schema, held.rows):
                learn(schema, held)
                if telling or self.selection.wants(schema):
                    found.append((schema, held))
        return found

    def _rows_of(self, window: Window, tables: list[tuple[Schema, MapTable]]) -> Iterator[Block]:
        """The rows of what maps held, in blocks of a map each."""
        import numpy as np

        found: dict[int, list[tuple[Frames, dict[int, str]]]] = {}
        for schema, held in tables:
            found.setdefault(schema.id, []).append((records(schema, held), dict(held.symbols)))
        for number, parts in found.items():
            schema = window.schemas[number]
            frames = Frames.walk(b"".join(part.data for part, _ in parts))
            if not len(frames):
                continue
            symbols = {address: name for _, names in parts for address, name in names.items()}
            raw = np.array([schema.timestamp(frames.frame_bytes(at)) for at in range(len(frames))], np.uint64)
            times = wall_times(schema, raw)
            block = Block(schema._replace(symbols=symbols) if symbols else schema, frames, times, self._round)
            mask = self.selection.mask(block.schema, frames, times)
            if mask is not None:
                block = block.some(mask)
            if len(block.times):
                self.rows += len(block.times)
                yield from _parts(block.some(np.argsort(block.times, kind="stable")))

    def _pick(self, window: Window, stacks: Stacks) -> Picked:
        import numpy as np

        window.own()
        heads = _Heads(window)
        for tells, held in self._tables(window, heads.tables(), telling=True):
            learn(tells._replace(stacks=stacks), held)
        heads.count_tables()
        data, every_offset = heads.frames.data, heads.offsets
        assert isinstance(data, bytearray)  # `own` has seen to it
        keep = np.zeros(len(every_offset), bool)
        times = np.zeros(len(every_offset), np.int64)
        every = np.arange(len(keep))
        for id, chosen in heads.probes():
            at = every[chosen]
            schema = self._described(window, id, len(at))
            if schema is None or schema.tells:
                continue
            times[at] = heads.times(schema, at)
            if schema.map is not None and self.selection.conditional:
                continue  # a table is no event of which a condition could be true
            mask = self.selection.mask(schema, Frames(data, every_offset[at].data), times[at])
            keep[at if mask is None else at[mask]] = True
        before = np.cumsum(keep)
        losses = []
        for at in heads.losses():
            found = self._lost(heads, at)
            if found is not None:
                losses.append((int(before[at]), *found))
        self.events += int(before[-1]) if len(before) else 0
        return Picked(window, data, every_offset[keep], times[keep], losses, self._round)

    def _described(self, window: Window, id: int, count: int) -> Schema | None:
        """The schema of a probe whose events are wanted."""
        schema = window.schemas.get(id)
        if schema is None:
            self.strangers += count
            return None
        return schema if self.selection.wants(schema) else None

    def _block(self, heads: "_Heads", schema: Schema, chosen: Any) -> Block | None:
        import numpy as np

        frames = Frames(heads.frames.data, heads.offsets[chosen].data)
        block = Block(schema, frames, heads.times(schema, chosen), self._round, heads.ends[chosen])
        if not heads.ordered(schema) and (block.times[1:] < block.times[:-1]).any():
            block = block.some(np.argsort(block.times, kind="stable"))
        mask = self.selection.mask(schema, block.frames, block.times)
        if mask is not None and not mask.all():
            block = block.some(mask)
        if not len(block.times):
            return None
        self.events += len(block.times)
        return block

    def _lost(self, heads: "_Heads", at: int) -> tuple[Schema | None, Lost] | None:
        """Take the LOST frame at this place, if it is wanted."""
        window = heads.window
        loss = Lost.read(heads.frames.frame(at))
        schema = window.schemas.get(loss.probe)
        if not (self.selection.wants_loss(schema, loss) if schema else self.selection.wants_unknown):
            return None
        clock = schema.clock if schema else window.clock
        timed = clock if loss.last and self.selection.bounded else None
        if timed and not self.selection.reaches(timed.at(loss.first), timed.at(loss.last)):
            return None
        self.losses.add(schema, loss, clock)
        return schema, loss


class _Heads:
    """The heads of a window's frames: their `ids`, `ends` and `offsets`."""

    __slots__ = ("_raw", "_same", "_survey", "_types", "ends", "frames", "ids", "offsets", "window")

    def __init__(self, window: Window) -> None:
        import numpy as np

        self.window, self.frames = window, window.frames()
        heads = heads_of(self.frames)
        self.offsets: Array = np.asarray(self.frames.offsets)[: len(self.frames)]
        self._types, self.ids, self.ends, self._raw = heads.types, heads.ids, heads.ends, heads.times
        self._same = heads.survey.same
        self._survey: Survey | None = heads.survey

    def losses(self) -> list[int]:
        """The places of LOST frames."""
        import numpy as np

        places: list[int] = [] if self._same else np.flatnonzero(self._types == Type.LOST).tolist()
        return places

    def tables(self) -> list[Frame]:
        """The TABLE frames of maps, in their order."""
        return [self.frames.frame(at) for at in self._table_places()]

    def count_tables(self) -> None:
        """From here on TABLEs of maps count as events of these."""
        places = self._table_places()
        if not places:
            return
        self._types, self._raw, self._survey = self._types.copy(), self._raw.copy(), None
        for at in places:
            schema = self.window.schemas.get(int(self.ids[at]))
            order: Any = schema.order if schema else sys.byteorder
            time = time_of(self.frames.frame(at)).to_bytes(8, order)
            self._raw[at] = int.from_bytes(time, sys.byteorder)
            self._types[at] = Type.EVENT

    def _table_places(self) -> list[int]:
        import numpy as np

        if self._same:
            return []
        places: list[int] = np.flatnonzero((self._types == Type.TABLE) & (self.ids != TOTALS)).tolist()
        return places

    def probes(self) -> "Iterator[tuple[int, Any]]":
        """Each probe number with the places of its events."""
        import numpy as np

        if self._same:
            yield int(self.ids[0]), slice(None)
            return
        places = np.flatnonzero(self._types == Type.EVENT)
        for id, chosen in groups(self.ids[places]):
            yield id, places[chosen]

    def by_probe(self) -> "Iterator[tuple[int, slice]]":
        """The same once all is sorted by probe: its events lie together, and other frames are left out."""
        import numpy as np

        if self._same:
            yield int(self.ids[0]), slice(None)
            return
        places = np.flatnonzero(self._types == Type.EVENT)
        all_events = len(places) == len(self._types)
        order, parts = sorted_groups(self.ids if all_events else self.ids[places])
        if not all_events:
            order = places.take(order)
        self.ids, self.offsets = self.ids.take(order), self.offsets.take(order)
        self.ends, self._raw = self.ends.take(order), self._raw.take(order)
        yield from parts

    def times(self, schema: Schema, chosen: Any) -> "Array":
        """The wall-clock times of the chosen events, which are of this schema."""
        raw = self._raw[chosen]
        if schema.order != sys.byteorder:
            return wall_times(schema, raw.byteswap())
        if self._survey is None:  # they are not those that it was made of
            return wall_times(schema, raw)
        return wall_times(schema, raw, (self._survey.first, self._survey.last))

    def ordered(self, schema: Schema) -> bool:
        """Whether the events are known to be in order of time."""
        survey = self._survey
        return self._same and survey is not None and survey.ordered and schema.order == sys.byteorder


def _parts(block: Block) -> Iterator[Block]:
    """The block, or several where its fields, which may overlap, are far more than its bytes."""
    step = max(1, VALUES // max(1, sum([field.size for field in block.schema.fields])))
    if len(block.times) <= step:
        yield block
        return
    for start in range(0, len(block.times), step):
        yield block.some(slice(start, start + step))


def wall_times(schema: Schema, raw: "Array", bounds: tuple[int, int] | None = None) -> "Array":
    """Timestamps (uint64) as wall-clock ns (int64); beyond what that holds, its least or greatest.

    `bounds`: what none is below and none beyond, where that is known.
    """
    import numpy as np

    shift = schema.wall(0)
    low, high = max(0, EARLIEST - shift), min((1 << 64) - 1, LATEST - shift)
    if high < low:  # every timestamp lies outside
        return np.full(len(raw), LATEST if shift > 0 else EARLIEST, np.int64)
    if len(raw):
        least, most = bounds or (int(raw.min()), int(raw.max()))
        if least < low or most > high:
            raw = np.clip(raw, np.uint64(low), np.uint64(high))
    return (raw.astype(np.uint64, copy=False) + np.uint64(shift & (1 << 64) - 1)).view(np.int64)


def _key(schemas: dict[int, Schema]) -> object:
    """What sections share whose few schemas are the same; a mapping that changes is another one."""
    return (
        tuple((number, id(schema)) for number, schema in schemas.items())
        if len(schemas) <= FEW
        else id(schemas)
    )


def probe_numbers(picked: Picked) -> "Array":
    """The probe numbers of the events that were picked."""
    import numpy as np

    numbers = np.empty(len(picked.offsets), np.uint32)
    each = 4 if sys.byteorder == "little" else 0
    event_values(picked.data, picked.offsets, len(numbers), ID_AT, 4, each, numbers.view(np.uint8))
    return numbers
