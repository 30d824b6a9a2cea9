"""One reading of a capture, as blocks: many events of one probe, in order of time, ready for columns.

The laws: memory is bounded by a window of the file (BYTES, EVENTS), whatever the file claims; nothing runs
for a single event; every event that is wanted is in exactly one block, or counted in `undecodable`; what a
selection rules out by time or probe is skipped chunk by chunk and never decoded (`chunks`, `decoded` count).
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kwire.analyze.choose import Selection
from kwire.analyze.losses import Losses
from kwire.capture.reader import Capture, Section
from kwire.capture.tally import tally
from kwire.wire.fields import MAX_FIELD_BYTES, TAIL_MAX, TYPES
from kwire.wire.frame import HEADER_SIZE, Flag, FrameError, Type
from kwire.wire.frames import Frames
from kwire.wire.messages import Lost
from kwire.wire.schema import EARLIEST, LATEST, Clock, Schema
from kwire.wire.walk import frame_gather

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

EVENTS: Final = 1 << 16  # in a window, about
BYTES: Final = 4 << 20  # of frames in a window, about: what a processor's caches hold
BLOCK: Final = 1 << 11  # events of a probe in a window on average, so that its block is worth its overhead …
MOST: Final = 8  # … but at most so many times EVENTS and BYTES
FEW: Final = 8  # schemas by which sections are looked for that have the same
VALUES: Final = 64 << 20  # bytes of the fixed fields of a block, about
SPREAD: Final = 3  # so many times the bytes of frames are copied at most to have them in one piece
LEAST: Final = 16  # bytes of an EVENT with a timestamp, which lies in the last eight

Progress = Callable[[int], None]  # told how many bytes of frames were read so far


class Block(NamedTuple):
    """Events of one probe, in order of time: `times` are wall-clock ns (int64), cut to what that can hold."""

    schema: Schema
    frames: Frames
    times: "Array"


class Window:
    """What was read and not yet given: frames under one set of schemas, copied together."""

    __slots__ = ("clock", "data", "events", "places", "schemas")

    def __init__(self, schemas: dict[int, Schema]) -> None:
        self.schemas = schemas
        self.clock: Clock | None = None  # of frames whose own schema is not there
        self.data = bytearray()
        self.places: list[Array] = []
        self.events = 0

    def add(self, frames: Frames) -> None:
        """Copy the frames: in one piece where they lie close, else one by one."""
        import numpy as np

        count = len(frames)
        offsets = np.asarray(frames.offsets)[:count]
        at = offsets.argmax()
        first, end = int(offsets.min()), int(offsets[at]) + len(frames.frame_bytes(int(at)))
        view = np.asarray(frames.view)
        lengths = view[offsets + np.uint64(2)].astype(np.uint64) << np.uint64(8)
        lengths |= view[offsets + np.uint64(3)]
        size = int(lengths.sum())
        if end - first <= SPREAD * size:
            self.places.append(offsets - np.uint64(first) + np.uint64(len(self.data)))
            self.data += frames.view[first:end]
        else:
            start = len(self.data)
            self.data += bytes(size)
            frame_gather(frames.view, frames.offsets, 0, count, self.data, start)
            self.places.append(np.cumsum(lengths) - lengths + np.uint64(start))
        self.events += count


class Picked(NamedTuple):
    """The frames that are wanted of a window, in the file's order: EVENTs at `offsets`, wall-clock `times`.

    `losses`: LOST frames: before which event each stands, its probe's schema (None: not known), what it says.
    """

    window: Window
    offsets: "Array"
    times: "Array"
    losses: list[tuple[int, Schema | None, Lost]]


class Scan:
    """Blocks of a capture, by iterating once; or `picks`. `losses`: what its LOST frames count, if wanted.

    `chunks` were read and `decoded` of them looked into; `events` are given; `undecodable` events are not as
    their schema says, `first_undecodable` tells of the first; `strangers` are of probes not described.
    `events_held`, `bytes_held`: about how much a window holds.
    """

    __slots__ = (
        "capture",
        "chunks",
        "decoded",
        "events",
        "first_undecodable",
        "limits",
        "losses",
        "progress",
        "read",
        "selection",
        "strangers",
        "undecodable",
    )

    def __init__(
        self,
        capture: Capture,
        selection: Selection | None = None,
        progress: Progress | None = None,
        *,
        events_held: int = EVENTS,
        bytes_held: int = BYTES,
    ) -> None:
        self.capture = capture
        self.selection = selection or Selection()
        self.progress = progress
        self.limits = (events_held, bytes_held)
        self.losses = Losses()
        self.chunks = self.decoded = self.events = self.read = 0
        self.undecodable = self.strangers = 0
        self.first_undecodable: str | None = None

    def __iter__(self) -> Iterator[Block]:
        for window in self._windows():
            yield from self._blocks(window)

    def picks(self) -> Iterator[Picked]:
        """The frames as they are, sound or not, a window at a time: for captures made from captures."""
        for window in self._windows():
            yield self._pick(window)

    def _windows(self) -> Iterator[Window]:
        held: dict[object, Window] = {}  # by schemas: sections of a network capture take turns
        events = size = 0
        self.capture.mixed = True
        for frames in self.capture:
            section = self.capture.section
            assert section is not None  # frames lie in sections
            self.chunks += 1
            if len(frames):
                self.read += abs(int(frames.offsets[len(frames) - 1]) - int(frames.offsets[0]))
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
            before = len(window.data)
            window.add(frames)
            events, size = events + len(frames), size + len(window.data) - before
            scale = min(max(BLOCK * len(section.schemas) / EVENTS, 1), MOST)
            if events >= self.limits[0] * scale or size >= self.limits[1] * scale:
                yield from held.values()
                held, events, size = {}, 0, 0
        yield from held.values()

    def _wanted(self, frames: Frames, section: Section) -> bool:
        """Whether anything of this chunk is wanted: counted by probe and time in C, nothing decoded."""
        if self.selection.everything or not len(frames):
            return bool(len(frames))
        found = tally(frames, section)
        for number, (_, first, last) in found.known.items():
            schema = section.schemas[number]
            if self.selection.wants(schema) and self.selection.reaches(schema.wall(first), schema.wall(last)):
                return True
        return bool(found.others or found.strangers)

    def _blocks(self, window: Window) -> Iterator[Block]:
        import numpy as np

        heads = _Heads(window)
        for at in np.flatnonzero(heads.kinds == Type.LOST).tolist():
            self._lost(heads, at)
        for id, chosen in heads.probes():
            schema = self._described(window, id, len(heads.ids[chosen]))
            if schema is not None:
                block = self._block(heads, schema, chosen)
                if block is not None:
                    yield from _parts(block)

    def _pick(self, window: Window) -> Picked:
        import numpy as np

        heads = _Heads(window)
        keep = np.zeros(len(heads.offsets), bool)
        times = np.zeros(len(heads.offsets), np.int64)
        every = np.arange(len(keep))
        for id, chosen in heads.probes():
            at = every[chosen]
            schema = self._described(window, id, len(at))
            if schema is None:
                continue
            offsets = heads.offsets[at]
            times[at] = heads.times(schema, at)
            if self.selection.conditional:
                sound = _sound(schema, heads.data, offsets, heads.ends[at])
                at, offsets = at[sound], offsets[sound]
            mask = self.selection.mask(schema, Frames(window.data, offsets.data), times[at])
            keep[at if mask is None else at[mask]] = True
        before = np.cumsum(keep)
        losses = []
        for at in np.flatnonzero(heads.kinds == Type.LOST).tolist():
            found = self._lost(heads, at)
            if found is not None:
                losses.append((int(before[at]), *found))
        self.events += int(before[-1]) if len(before) else 0
        return Picked(window, heads.offsets[keep], times[keep], losses)

    def _described(self, window: Window, id: int, count: int) -> Schema | None:
        """The schema of a probe whose events are wanted."""
        schema = window.schemas.get(id)
        if schema is None:
            self.strangers += count
            return None
        return schema if self.selection.wants(schema) else None

    def _block(self, heads: "_Heads", schema: Schema, chosen: Any) -> Block | None:
        import numpy as np

        window, offsets, times = heads.window, heads.offsets[chosen], heads.times(schema, chosen)
        sound = _sound(schema, heads.data, offsets, heads.ends[chosen])
        if not sound.all():
            self._refuse(schema, window, offsets[~sound])
            offsets, times = offsets[sound], times[sound]
        if len(times) > 1 and (times[1:] < times[:-1]).any():
            by_time = np.argsort(times, kind="stable")
            times, offsets = times[by_time], offsets[by_time]
        frames = Frames(window.data, offsets.data)
        mask = self.selection.mask(schema, frames, times)
        if mask is not None and not mask.all():
            times, offsets = times[mask], offsets[mask]
            frames = Frames(window.data, offsets.data)
        if not len(times):
            return None
        self.events += len(times)
        return Block(schema, frames, times)

    def _refuse(self, schema: Schema, window: Window, offsets: "Array") -> None:
        self.undecodable += len(offsets)
        if self.first_undecodable is None:
            frames = Frames(window.data, offsets.data)
            try:
                schema.decoder()(frames.frame_bytes(0))
                why = "its record is not as its schema says"
            except FrameError as error:
                why = str(error.problem)
            self.first_undecodable = f"event of {schema.probe}: {why}"

    def _lost(self, heads: "_Heads", at: int) -> tuple[Schema | None, Lost] | None:
        """Take the LOST frame at this place, if it is wanted."""
        window = heads.window
        loss = Lost.read(Frames(window.data, heads.offsets.data).frame(at))
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
    """The headers of a window's frames: `ends` of payloads, `events` with a timestamp, `raw` timestamps.

    The first sixteen bytes of each frame are fetched once; what does not fill them is no event.
    """

    __slots__ = ("data", "ends", "events", "ids", "kinds", "offsets", "raw", "window")

    def __init__(self, window: Window) -> None:
        import numpy as np

        self.window = window
        window.data += bytes(LEAST)  # so that sixteen bytes can be fetched of the last frame too
        self.data: Array = np.frombuffer(window.data, np.uint8)
        self.offsets: Array = np.concatenate(window.places)
        rows = _at(self.data, self.offsets, f"V{LEAST}", 0)
        octets = rows.view(np.uint8).reshape(-1, LEAST)
        self.kinds: Array = octets[:, 0] & 15
        lengths = octets[:, 2].astype(np.uint32) << 8 | octets[:, 3]
        self.ids: Array = rows.view(">u4").reshape(-1, 4)[:, 1].astype(np.uint32)
        self.raw: Array = rows.view("<u8").reshape(-1, 2)[:, 1].copy()
        self.events: Array = (self.kinds == Type.EVENT) & (lengths >= LEAST)
        flags = octets[:, 1]
        if flags.any():
            trailer = np.where(flags & Flag.CHECKSUM != 0, np.where(flags & Flag.PADDED != 0, 3, 2), 0)
            lengths = np.maximum(lengths, trailer + HEADER_SIZE) - trailer
        self.ends: Array = lengths.astype(np.uint32)

    def probes(self) -> "Iterator[tuple[int, Any]]":
        """Each probe number with the places of its events."""
        import numpy as np

        if self.events.all():
            yield from groups(self.ids)
            return
        places = np.flatnonzero(self.events)
        for id, chosen in groups(self.ids[places]):
            yield id, places[chosen]

    def times(self, schema: Schema, chosen: Any) -> "Array":
        """The wall-clock times of the chosen events, which are of this schema."""
        raw = self.raw[chosen]
        return wall_times(schema, raw if schema.order == "little" else raw.byteswap())


def _parts(block: Block) -> Iterator[Block]:
    """The block, or several where its fields, which may overlap, are far more than its bytes."""
    step = max(1, VALUES // max(1, sum([field.size for field in block.schema.fields])))
    if len(block.times) <= step:
        yield block
        return
    for start in range(0, len(block.times), step):
        some = block.frames.offsets[start : start + step]
        yield block._replace(frames=Frames(block.frames.data, some), times=block.times[start : start + step])


def wall_times(schema: Schema, raw: "Array") -> "Array":
    """Timestamps (uint64) as wall-clock ns (int64); beyond what that holds, its least or greatest."""
    import numpy as np

    shift = schema.wall(0)
    low, high = max(0, EARLIEST - shift), min((1 << 64) - 1, LATEST - shift)
    if low > 0 or high < (1 << 64) - 1:
        if high < low:  # every timestamp lies outside
            return np.full(len(raw), LATEST if shift > 0 else EARLIEST, np.int64)
        raw = np.clip(raw, np.uint64(low), np.uint64(high))
    return (raw.astype(np.uint64) + np.uint64(shift & (1 << 64) - 1)).view(np.int64)


def _order(schema: Schema) -> str:
    return "<" if schema.order == "little" else ">"


def _key(schemas: dict[int, Schema]) -> object:
    """What sections share whose few schemas are the same; a mapping that changes is another one."""
    return (
        tuple((number, id(schema)) for number, schema in schemas.items())
        if len(schemas) <= FEW
        else id(schemas)
    )


def _at(data: "Array", offsets: "Array", kind: str, shift: int) -> "Array":
    """The integers of this kind that lie `shift` bytes after the offsets; the caller knows that they do."""
    import numpy as np

    code = np.dtype(kind)  # or bytes as they are
    count = max(len(data) - code.itemsize - shift + 1, 0)
    windows: Array = np.ndarray((count,), f"V{code.itemsize}", data if count else None, shift, (1,))
    taken: Array = windows[offsets].view(code)
    return taken.astype(code.newbyteorder("="), copy=False)


def probe_numbers(picked: Picked) -> "Array":
    """The probe numbers of the events that were picked."""
    import numpy as np

    return _at(np.frombuffer(picked.window.data, np.uint8), picked.offsets, ">u4", 4)


def groups(ids: "Array") -> "Iterator[tuple[int, Any]]":
    """Each id with the places where it stands, in their order."""
    import numpy as np

    if not len(ids):
        return
    if (ids == ids[0]).all():
        yield int(ids[0]), slice(None)
        return
    small = ids.astype(np.uint16) if int(ids.max()) < 1 << 16 else ids  # sixteen bits sort much faster
    order = np.argsort(small, kind="stable")
    ordered = small[order]
    cuts = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    for start, stop in zip([0, *cuts.tolist()], [*cuts.tolist(), len(ordered)], strict=True):
        yield int(ordered[start]), order[start:stop]


def _sound(schema: Schema, data: "Array", offsets: "Array", ends: "Array") -> "Array":
    """Which events are as the schema says: long enough, every tail inside the payload."""
    import numpy as np

    sound: Array = ends >= schema.size
    tails = [field.offset for field in schema.fields if TYPES[field.type].tail]
    if not tails:
        return sound
    places = None
    if not sound.all():
        places = np.flatnonzero(sound)
        offsets, ends = offsets[places], ends[places]
    outside = np.zeros(len(offsets), bool)
    total = np.zeros(len(offsets), np.uint32)
    for shift in tails:
        pair = _at(data, offsets, _order(schema) + "u4", shift)
        low, high = pair.astype(np.uint16), (pair >> np.uint32(16)).astype(np.uint16)
        start, length = (low, high) if schema.order == "little" else (high, low)
        length = length & np.uint16(TAIL_MAX)
        total += length
        beyond = start + length.astype(np.uint32) > ends
        outside |= (beyond | (start < np.uint16(schema.size))) & (length != 0)
    outside |= total > MAX_FIELD_BYTES
    if places is None:
        return ~outside
    sound[places] = ~outside
    return sound
