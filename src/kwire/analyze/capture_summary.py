"""What a capture holds, by counting alone: probes, events, times, losses, what its recorder said of it.

Invariants: no event is decoded; counts are exact; memory is bounded by the probes. A probe that was described
again in the middle of a section is told apart from before.
"""

from typing import Final

from kwire.analyze.losses import Losses
from kwire.analyze.scan import Progress
from kwire.analyze.source import Source
from kwire.capture import identity
from kwire.capture.event_counts import Sums
from kwire.capture.pcapng import StatisticsOption
from kwire.capture.reader import Section
from kwire.packets.open import NetworkCapture
from kwire.packets.tables import Trouble
from kwire.wire.frame import Code
from kwire.wire.frames import Frames
from kwire.wire.messages import Cause, losses_in
from kwire.wire.schema import Schema, bounded
from kwire.words import plural

#: Troubles that the session tells in which they are.
OF_SESSIONS: Final = frozenset(
    one.name for one in (Trouble.DATA_MISSING, Trouble.TCP_GAP, Trouble.TCP_CONFLICT)
)


class ProbeSummary:
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

    def __repr__(self) -> str:
        lost = f", {self.lost:,} lost" if self.lost else ""
        return f"<{self.schema.probe}: {plural(self.events, 'event')}{lost}>"

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


class CaptureSummary:
    """The outcome: `probes` in order, `losses`, `problem` with the file, `strangers`: events without SCHEMA,
    `undecodable`: events that are not as theirs says.

    `packets` were read and `frames` found in them, `skipped` packets hold no sound frame; `errors` counts
    what was wrong by its name, and `wrong` says it, a line each. `read`: whether it has read the capture;
    `sessions`: whether it holds some of a network. `held`: the files of captures whose events are in it;
    `repeated` says which of them more than once, empty for none. `barren`: why a capture of a network holds
    nothing, empty where it does.
    """

    __slots__ = (
        "_by_section",
        "_complaint",
        "_dark",
        "_forgotten",
        "_strange",
        "_sums",
        "_unread",
        "barren",
        "ended",
        "errors",
        "frames",
        "held",
        "losses",
        "packets",
        "probes",
        "problem",
        "read",
        "repeated",
        "sessions",
        "skipped",
        "strangers",
        "undecodable",
        "unknown_lost",
        "wrong",
    )

    def __init__(self, source: Source | None = None, progress: Progress | None = None) -> None:
        """Read the whole capture once; CaptureError where it is none. Without a source: `add`, then `end`."""
        self.probes: list[ProbeSummary] = []
        self.losses = Losses()
        self.unknown_lost = self.strangers = self.undecodable = 0
        self._strange: set[int] = set()  # ids of the sections in which there are some
        self.read, self.barren = False, ""
        self._by_section: dict[int, dict[int, ProbeSummary]] = {}  # by section and schema, by their identity
        self._sums = Sums()
        if source is None:
            return
        with source.open() as capture:
            read = 0
            capture.mixed = True
            for frames in capture:
                self.add(capture, frames)
                if progress is not None:
                    read += frames.spread
                    progress(read)
            self.end(capture, source)

    def add(self, capture: NetworkCapture, frames: Frames) -> None:
        """Count what the capture has just given."""
        for section, others in self._sums.add(capture, frames):
            self._lost(frames, others, section)

    def foresee(self, capture: NetworkCapture) -> None:
        """Take the probes that are known so far for all; `end` tells which there are."""
        self.probes = [ProbeSummary(section, one) for section in capture.sections for one in section.history]

    def end(self, capture: NetworkCapture, source: Source | None = None) -> None:
        """Take over what the capture says of itself, once it was read as far as it is wanted."""
        self.read, self.probes = True, []
        for section, rows in self._sums.rows():
            for schema, row in rows:
                if schema is None:
                    self.strangers += row[0]
                    self._strange.add(id(section))
                else:
                    self._seen(section, schema).add(*row)
        listed = set(map(id, capture.sections))
        sections = [one for one in self._sums.sections if id(one) not in listed] + capture.sections
        for section in sections:  # what had no events too
            known = self._by_section.get(id(section), {})
            self.probes += [known.get(id(one)) or ProbeSummary(section, one) for one in section.history]
        of: dict[tuple[int, int], list[ProbeSummary]] = {}
        for seen in self.probes:
            of.setdefault((id(seen.section), seen.schema.id), []).append(seen)
        for section in capture.sections:
            _told(section, of)
        holders = [self._holder(section) for section in capture.sections]
        if not any(holders) and source is not None and self.events:
            made = source.identity
            holders = [] if made is None else [[made]]
        self.held = tuple(dict.fromkeys(one for holder in holders for one in holder))
        self.repeated = identity.twice(identity.repeated(holders))
        self.problem, self.skipped, self.ended = capture.problem, capture.skipped, capture.ended
        self.wrong, self._forgotten = capture.wrong(), capture.forgotten
        self._complaint = capture.complaint
        self._dark = any(
            capture.complaint(section) or id(section) in self._strange
            for section in capture.sections
            if not section.schemas
        )
        self.errors, self.packets = dict(capture.errors), capture.packets
        self.sessions = bool(capture.network.sessions)
        network, troubles = capture.network, sum(first.count for first in capture.found.values())
        unsound = sum(self.errors.values()) - troubles  # packets that should be a frame and are not
        self._unread = capture.skipped > network.skipped or bool(capture.found.keys() - OF_SESSIONS)
        self.frames = capture.packets - network.packets - unsound + network.frames
        self.undecodable, self.barren = capture.undecodable, capture.barren()
        for code, count in ((Code.UNKNOWN_SCHEMA, self.strangers), (Code.BAD_PAYLOAD, self.undecodable)):
            if count:
                self.errors[code.name] = self.errors.get(code.name, 0) + count

    def _holder(self, section: Section) -> list[identity.Identity]:
        """The files whose events a section holds, no more of each than from its first event to its last."""
        seen = [one for one in self._by_section.get(id(section), {}).values() if one.first is not None]
        first = min((one.first for one in seen if one.first is not None), default=None)
        last = max((one.last for one in seen if one.last is not None), default=None)
        return identity.held(section.comments, first, last)

    @property
    def begins(self) -> int:
        """Wall-clock ns of the first event; 0 where there is none."""
        return min((seen.first for seen in self.probes if seen.first is not None), default=0)

    @property
    def begun(self) -> int:
        """The same of what has been read so far."""
        if self.read:
            return self.begins
        rows = (one for _, rows in self._sums.rows() for one in rows)
        return min((bounded(schema.wall(row[1])) for schema, row in rows if schema is not None), default=0)

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

    @property
    def absent(self) -> int:
        """Events that the capture's own statistics count and that are not here; below 0: too many are."""
        return sum(
            seen.produced - seen.events - seen.lost for seen in self.probes if seen.produced is not None
        )

    def proves(self, seen: ProbeSummary) -> bool:
        """Whether the capture proves that this probe's events are there once, but for those counted lost."""
        if self._dark or self.repeated or id(seen.section) in self._strange:
            return False  # `_dark`: something is missing of which nobody knows the probe
        if seen.section.undecodable:
            return False
        if seen.produced is not None:
            return seen.balanced
        if self._forgotten or self._unread:
            return False  # what was not read may have been of a session of which nothing else is there
        return not self.problem and self._complaint(seen.section) == ""

    def _seen(self, section: Section, schema: Schema) -> ProbeSummary:
        known = self._by_section.setdefault(id(section), {})
        seen = known.get(id(schema))
        if seen is None:
            seen = known[id(schema)] = ProbeSummary(section, schema)
        return seen

    def _lost(self, frames: Frames, places: list[int], section: Section) -> None:
        for loss in losses_in(frames, places):
            schema = section.schemas.get(loss.probe)
            self.losses.add(schema, loss, section.clock)
            if schema is None:
                self.unknown_lost += loss.count
                continue
            seen = self._seen(section, schema)
            if loss.cause == Cause.MISSED_SHARED:
                seen.shared += loss.count
            else:
                seen.lost += loss.count


def _told(section: Section, of: dict[tuple[int, int], list[ProbeSummary]]) -> None:
    """What the closing statistics of a section say; of a probe described twice, nobody's."""
    for interface in section.interfaces:
        mine = of.get((id(section), interface.probe), [])
        if not interface.probe or interface.statistics is None or not mine:
            continue
        produced = interface.statistics.get(StatisticsOption.RECEIVED)
        if produced is None:
            continue
        others = sum(seen.events + seen.lost for seen in mine[:-1]) + sum(seen.shared for seen in mine)
        for seen in mine[:-1]:
            seen.produced = seen.events + seen.lost
        mine[-1].produced = max(0, produced - others)
