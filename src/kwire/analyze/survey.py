"""What a capture holds, by counting alone: probes, events, times, losses, what its recorder said of it.

The laws: no event is decoded; counts are exact; memory is bounded by the probes. A probe that was described
again in the middle of a section is told apart from before.
"""

from array import array
from typing import Final

from kwire.analyze.choose import bounded
from kwire.analyze.losses import Losses
from kwire.analyze.scan import Progress
from kwire.analyze.source import Source
from kwire.capture import walk
from kwire.capture.pcapng import HOST, StatisticsOption
from kwire.capture.reader import Section
from kwire.wire.frame import Type
from kwire.wire.frames import Frames
from kwire.wire.messages import Cause, Lost
from kwire.wire.schema import Schema, clock_of

MAX_PROBES: Final = 1 << 17  # greatest probe number counted


class Seen:
    """One probe of one section: how many events, from when to when (wall-clock ns; nothing where none).

    `lost` are its own; `shared` may be of any probe that shares its program. Its recorder `produced` so many,
    those shared left out.
    """

    __slots__ = ("events", "first", "last", "lost", "produced", "schema", "section", "shared")

    def __init__(self, section: Section, schema: Schema) -> None:
        self.section, self.schema = section, schema
        self.events = self.lost = self.shared = 0
        self.first: int | None = None
        self.last: int | None = None
        self.produced: int | None = None  # what its recorder counted; None: no closing statistics

    def add(self, count: int, first: int, last: int) -> None:
        """Count events; the times are the probe's clock."""
        one, two = bounded(self.schema.wall(first)), bounded(self.schema.wall(last))
        self.first = one if self.first is None else min(self.first, one)
        self.last = two if self.last is None else max(self.last, two)
        self.events += count

    @property
    def balanced(self) -> bool:
        """Whether the capture proves that nothing is missing beyond what is counted lost."""
        return self.produced == self.events + self.lost


class Survey:
    """The outcome: `probes` in order, `losses`, `problem` with the file.

    `packets` were read and `frames` found in them, `skipped` packets hold no sound frame; `errors` counts
    what was wrong by its name.
    """

    __slots__ = (
        "_complaints",
        "_forgotten",
        "ended",
        "errors",
        "first_skipped",
        "frames",
        "losses",
        "packets",
        "probes",
        "problem",
        "skipped",
        "unknown_lost",
    )

    def __init__(self, source: Source, progress: Progress | None = None) -> None:
        """Read the whole capture once; CaptureError where it is none."""
        self.probes: list[Seen] = []
        self.losses = Losses()
        self.unknown_lost = 0
        capture = source.open()
        with capture:
            by_section: dict[int, dict[int, Seen]] = {}
            read = 0
            for frames in capture:
                section = capture.section
                assert section is not None  # frames lie in sections
                known = by_section.setdefault(id(section), {})
                words = (min(max(section.schemas, default=0), MAX_PROBES) + 1) * walk.COUNT_WORDS
                counted = 0
                for number, schema in section.schemas.items():
                    if number not in known or known[number].schema is not schema:
                        known[number] = Seen(section, schema)
                        self.probes.append(known[number])
                for order in {schema.order for schema in section.schemas.values()}:
                    table = array("Q", bytes(8 * words))
                    counted = walk.count_by_id(frames.data, frames.offsets, len(frames), table, order != HOST)
                    for number, seen in known.items():
                        at = number * walk.COUNT_WORDS
                        if at < words and table[at] and seen.schema.order == order:
                            seen.add(*table[at : at + walk.COUNT_WORDS])
                if counted < len(frames):
                    self._lost(frames, known)
                if progress is not None and len(frames):
                    read += int(frames.offsets[len(frames) - 1]) - int(frames.offsets[0])
                    progress(read)
            there = {id(seen.schema) for seen in self.probes}
            for section in capture.sections:
                fresh = [schema for schema in section.schemas.values() if id(schema) not in there]
                self.probes += [Seen(section, schema) for schema in fresh]  # they had no events
            places = {id(section): place for place, section in enumerate(capture.sections)}
            self.probes.sort(key=lambda seen: places.get(id(seen.section), 0))
            for section in capture.sections:
                self._told(section)
            self.problem, self.skipped, self.ended = capture.problem, capture.skipped, capture.ended
            self.first_skipped, self._forgotten = capture.first_skipped, capture.forgotten
            self._complaints = {id(one): capture.complaint(one) for one in capture.sections}
            self.errors, self.packets = dict(capture.errors), capture.packets
            network, troubles = capture.network, sum(first.count for first in capture.found.values())
            unsound = sum(self.errors.values()) - troubles  # packets that should be a frame and are not
            self.frames = capture.packets - network.packets - unsound + network.frames

    @property
    def begins(self) -> int:
        """Wall-clock ns of the first event; 0 where there is none."""
        return min((seen.first for seen in self.probes if seen.first is not None), default=0)

    @property
    def ends(self) -> int:
        """Wall-clock ns of the last event; 0 where there is none."""
        return max((seen.last for seen in self.probes if seen.last is not None), default=0)

    @property
    def events(self) -> int:
        """Events of probes that are described."""
        return sum(seen.events for seen in self.probes)

    @property
    def schemas(self) -> list[Schema]:
        """The schemas of the probes."""
        return [seen.schema for seen in self.probes]

    def proves(self, seen: Seen) -> bool:
        """Whether the capture proves that nothing of this probe is missing beyond what is counted lost."""
        if seen.produced is not None:
            return seen.balanced
        if self._forgotten:
            return False
        return not self.problem and self._complaints.get(id(seen.section)) == ""

    def _lost(self, frames: Frames, known: dict[int, Seen]) -> None:
        for index in range(len(frames)):
            if frames.header(index).type != Type.LOST:
                continue
            loss = Lost.read(frames.frame(index))
            seen = known.get(loss.probe)
            clock = clock_of(one.schema for one in known.values())
            self.losses.add(seen.schema if seen else None, loss, clock)
            if seen is None:
                self.unknown_lost += loss.count
            elif loss.cause == Cause.MISSED_SHARED:
                seen.shared += loss.count
            else:
                seen.lost += loss.count

    def _told(self, section: Section) -> None:
        """What the closing statistics of a section say; of a probe described twice, nobody's."""
        for interface in section.interfaces:
            mine = [
                seen for seen in self.probes if seen.section is section and seen.schema.id == interface.probe
            ]
            if not interface.probe or interface.statistics is None or not mine:
                continue
            produced = interface.statistics.get(StatisticsOption.RECEIVED)
            if produced is None:
                continue
            others = sum(seen.events + seen.lost for seen in mine[:-1]) + sum(seen.shared for seen in mine)
            for seen in mine[:-1]:
                seen.produced = seen.events + seen.lost
            mine[-1].produced = max(0, produced - others)
