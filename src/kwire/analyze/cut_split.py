"""A capture in pieces: a range of it (`cut`), or all of it in several captures (`split`).

Invariants: a piece is a capture of its own, with the schemas of its probes, and says in a comment what it is
a piece of; the pieces of a split hold every event and every LOST frame once; frames stay in the file's order;
memory is bounded: at most OPEN captures are written at a time, more take another reading.
"""

import os
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kwire.analyze.capture_summary import CaptureSummary, ProbeSummary
from kwire.analyze.rewrite import Keys, Numbers, RenumberingWriter, made_of, numbered, renumber
from kwire.analyze.scan import Picked, Progress, Scan, probe_numbers
from kwire.analyze.selection import Selection
from kwire.analyze.source import Source, check_output
from kwire.analyze.tables import Tables, unique
from kwire.analyze.time_parsing import duration
from kwire.analyze.timing import stretches
from kwire.capture import identity
from kwire.capture.accounts import Totals
from kwire.capture.frame_counts import is_table
from kwire.capture.reader import groups
from kwire.capture.walk import EPB_OVERHEAD
from kwire.capture.writer import STATISTICS_BLOCK
from kwire.errors import KwireError
from kwire.view.text import WallClock, safe
from kwire.wire.frames import Frames
from kwire.wire.messages import Cause, Lost
from kwire.wire.schema import EARLIEST, LATEST, Schema, bounded
from kwire.wire.stacks import Stacks
from kwire.wire.tables import head_of

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

OPEN: Final = 64  # captures written in one reading
MOST: Final = 10_000  # pieces

#: What a capture can be split by → what is said of it.
KEYS: Final = {
    "probe": "one capture a probe",
    "host": "one capture a host",
    "time": "one capture for each stretch of so long: time=10s",
    "size": "captures of about so many bytes: size=100M",
    "events": "captures of so many events: events=1000000",
}
_SIZE = re.compile(r"(\d+)([kMG]?)i?B?")
_SCALE: Final = {"": 1, "k": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class Piece(NamedTuple):
    """A capture that was written."""

    path: str
    totals: Totals


def cut(
    source: Source,
    capture_summary: CaptureSummary,
    selection: Selection,
    path: str,
    progress: Progress | None = None,
) -> Piece:
    """Write what is chosen to `path`."""
    check_output(path, [source])
    numbers = Numbers(seen.schema for seen in capture_summary.probes if _concerned(seen, selection))
    whole = not selection.bounded and not selection.conditional
    comment = f"kwire cut of {_name(source)}: {described(selection)}"
    with RenumberingWriter(
        path,
        numbers,
        "cut",
        [comment, *made_of([capture_summary], _limits(capture_summary, selection))],
        stacks := Stacks(),
    ) as part:
        part.account(capture_summary, whole=whole)
        with source.open() as capture:
            for picked in Scan(capture, selection, progress).picks(stacks):
                renumber(picked, numbers)
                part.write(picked.data, picked.offsets, numbered(picked, numbers))
        return Piece(path, part.close())


def _limits(capture_summary: CaptureSummary, selection: Selection) -> identity.Limits:
    """What a cut says of its events, so that another one can be told to be apart from it."""
    wanted = {seen.schema.probe for seen in capture_summary.probes if selection.wants(seen.schema)}
    probes = None
    if len(wanted) <= identity.PROBES and wanted != {seen.schema.probe for seen in capture_summary.probes}:
        probes = frozenset(map(identity.digest, wanted))
    return identity.Limits(bounded(selection.first), bounded(selection.last), probes)


def _concerned(seen: ProbeSummary, selection: Selection) -> bool:
    """Whether something of this probe is wanted: its events, or losses that another may have had; or what its
    tables tell.
    """
    if seen.schema.tells:
        return True
    cause = Cause.MISSED_SHARED if seen.shared else Cause.UNKNOWN
    return any(map(selection.wants, seen.schema.others(cause)))


def described(selection: Selection) -> str:
    """What is chosen, in words; what is not chosen is left out, not lost."""
    clock, said = WallClock(), []
    if selection.first > EARLIEST:
        said.append(f"from {clock.moment(selection.first)}")
    if selection.last < LATEST:
        said.append(f"to {clock.moment(selection.last)}")
    if selection.glob is not None:
        said.append(f"probes {selection.glob}")
    if selection.condition:
        said.append(f"events with {selection.condition}")
    if not said:
        return "all of it"
    return f"{', '.join(said)}; what is not in this range is left out, not lost"


def split(
    source: Source, capture_summary: CaptureSummary, by: str, directory: str, progress: Progress | None = None
) -> list[Piece]:
    """Write the pieces into `directory`, which is made; `by`: one of KEYS, with its value behind `=`."""
    key, _, value = by.partition("=")
    if key not in KEYS:
        raise KwireError("split", source.name, f"{by!r} is nothing to split by", f"one of: {', '.join(KEYS)}")
    if bool(value) != (key in ("time", "size", "events")):
        cause = f"{key!r} needs a value" if not value else f"{key!r} takes no value"
        raise KwireError("split", source.name, cause, KEYS[key])
    try:
        os.makedirs(directory, exist_ok=True)
    except OSError as error:
        raise KwireError("make directory", directory, error.strerror or "failed") from None
    if key == "time":
        return _by_time(source, capture_summary, duration(value, "--by time"), directory, progress)
    if key in ("size", "events"):
        return _by_amount(source, capture_summary, key, _amount(value), directory, progress)
    return _by_schema(source, capture_summary, key, directory, progress)


def _amount(text: str) -> int:
    found = _SIZE.fullmatch(text)
    if found is None or not int(found[1]):
        raise KwireError("split", "", f"{text!r} is no amount", "write 1000000, 100M, 2G")
    return int(found[1]) * _SCALE[found[2]]


def _name(source: Source) -> str:
    return safe(os.path.basename(source.name))


def _target(source: Source, directory: str, name: str) -> str:
    """The path of a piece; nothing that stands there is overwritten."""
    path = os.path.join(directory, name + ".pcapng")
    check_output(path, [source])
    if os.path.lexists(path):
        raise KwireError(
            "split", path, "there is already something of this name", "choose an empty directory"
        )
    return path


class _Pieces:
    """The captures of a split: made when something is written to them, in a directory, each name once.

    A context manager: those that `close` has not ended are given up.
    """

    __slots__ = ("_capture_summary", "_directory", "_parts", "_source", "_split", "_taken", "done", "stacks")

    def __init__(self, source: Source, capture_summary: CaptureSummary, directory: str) -> None:
        self._source, self._capture_summary, self._directory = source, capture_summary, directory
        self._split = identity.new_split()
        self._taken: dict[str, int] = {}
        self._parts: dict[int, RenumberingWriter] = {}
        self.done: list[Piece] = []
        self.stacks = Stacks()
        """Those that are read with what is split."""

    def part(
        self, index: int, name: str, numbers: Numbers, about: str, *, whole: bool = False
    ) -> RenumberingWriter:
        """The open piece of this index, made where it is not there yet."""
        found = self._parts.get(index)
        if found is None:
            file = unique(re.sub(r"[^\w.+-]+", "_", name)[:200].strip("._") or "unknown", self._taken)
            path = _target(self._source, self._directory, file)
            comment = f"kwire split of {_name(self._source)} {about}"
            limits = identity.Limits(pieces=frozenset({(self._split, index)}))
            found = self._parts[index] = RenumberingWriter(
                path, numbers, "split", [comment, *made_of([self._capture_summary], limits)], self.stacks
            )
            found.account(self._capture_summary, whole=whole)
        return found

    def close(self) -> None:
        """End the pieces that are open."""
        for index in sorted(self._parts):
            part = self._parts[index]
            self.done.append(Piece(part.path, part.close()))
            del self._parts[index]

    def __enter__(self) -> "_Pieces":
        return self

    def __exit__(self, *_: object) -> None:
        for part in self._parts.values():
            part.leave()


def _by_schema(
    source: Source, capture_summary: CaptureSummary, key: str, directory: str, progress: Progress | None
) -> list[Piece]:
    """A capture a probe, or a host; those without events and losses are left out.

    Of a section without any, one that is not proven to have had none stays, so that a piece tells it.
    """
    tables = Tables(capture_summary.schemas)
    by_name: dict[str, list[Schema]] = {}
    full = [
        seen
        for seen in capture_summary.probes
        if (seen.events or seen.lost or seen.shared or seen.produced) and not seen.schema.tells
    ]
    telling = [seen.schema for seen in capture_summary.probes if seen.schema.tells]
    if capture_summary.unknown_lost and not full:
        full = capture_summary.probes[:1]  # losses of no known probe have to be somewhere
    there = {id(seen.section) for seen in full}
    for seen in capture_summary.probes:
        if id(seen.section) not in there and not capture_summary.proves(seen):
            there.add(id(seen.section))
            full.append(seen)
    for seen in full:
        table = tables.find(seen.schema)
        if table is not None:
            by_name.setdefault(table.name if key == "probe" else seen.schema.host, []).append(seen.schema)
    names = list(by_name)
    known: Keys = {}
    Numbers(capture_summary.schemas, known)
    with _Pieces(source, capture_summary, directory) as pieces:
        for start in range(0, len(names), OPEN):
            keys = dict(known)  # each reading makes schemas of its own, forgotten with it
            parts = []
            for index, name in enumerate(names[start : start + OPEN], start):
                about = f"by {key}: {safe(name) or 'unknown'}"
                numbers = Numbers([*by_name[name], *telling], keys)
                parts.append(pieces.part(index, name, numbers, about, whole=True))
            _distribute(source, parts, pieces.stacks, progress, unknown=not start)
            pieces.close()
        return pieces.done


def _distribute(
    source: Source,
    parts: list[RenumberingWriter],
    stacks: Stacks,
    progress: Progress | None,
    *,
    unknown: bool,
) -> None:
    """Give each event to the part that has its probe, `unknown` losses to the first."""
    import numpy as np

    owners = _Owners(parts)
    selection = Selection().only(lambda schema: owners.find(schema) >= 0, unknown=unknown)
    with source.open() as capture:
        for picked in Scan(capture, selection, progress).picks(stacks):
            places: dict[int, list[Array]] = {}  # part → where its events are
            for number, chosen in groups(probe_numbers(picked)):
                owner = owners.find(picked.window.schemas[number])
                places.setdefault(owner, []).append(np.arange(len(picked.offsets))[chosen])
            losses: dict[int, list[Any]] = {}
            for loss in picked.losses:
                losses.setdefault(owners.find(loss[1]) if loss[1] else 0, []).append(loss)
            for index in sorted(places.keys() | losses.keys()):
                mine = np.zeros(len(picked.offsets), bool)
                for some in places.get(index, ()):
                    mine[some] = True
                renumber(picked._replace(offsets=picked.offsets[mine]), parts[index].numbers)
                _put(parts[index], picked, mine, losses.get(index, []))


class _Owners:
    """Which part has the probe of a schema; -1: none."""

    __slots__ = ("_known", "_parts")

    def __init__(self, parts: list[RenumberingWriter]) -> None:
        self._parts = parts
        self._known: dict[int, tuple[Schema, int]] = {}

    def find(self, schema: Schema) -> int:
        """The part's index."""
        known = self._known.get(id(schema))
        if known is None:
            indices = (index for index, part in enumerate(self._parts) if part.numbers.find(schema))
            known = self._known[id(schema)] = (schema, next(indices, -1))
        return known[1]


def _put(part: RenumberingWriter, picked: Picked, chosen: "Array", losses: list[Any]) -> None:
    """Write the chosen events to a part, and losses at their places among them; all are numbered already."""
    import numpy as np

    before = np.concatenate([[0], np.cumsum(chosen)])
    placed = [(int(before[at]), one, loss) for at, one, loss in losses]
    some = picked._replace(offsets=picked.offsets[chosen], losses=placed)
    part.write(picked.data, some.offsets, numbered(some, part.numbers))


def _by_time(
    source: Source, capture_summary: CaptureSummary, every: int, directory: str, progress: Progress | None
) -> list[Piece]:
    """A capture for each stretch of `every` ns from the first event on; those without any are left out."""
    import numpy as np

    begins, count = (
        capture_summary.begins,
        (capture_summary.ends - capture_summary.begins) // max(every, 1) + 1,
    )
    if not every or count > MOST:
        cause = f"{count:,} pieces of that length are too many" if every else "pieces of no length"
        raise KwireError("split", source.name, cause, f"at most {MOST:,}: choose a longer time")
    numbers, clock = Numbers(capture_summary.schemas), WallClock()
    width = len(str(count))

    def part(pieces: _Pieces, index: int) -> RenumberingWriter:
        first = begins + index * every
        about = f"by time: from {clock.moment(first)}, for {every / 1e9:g} s"
        return pieces.part(index, f"part-{index + 1:0{width}}", numbers, about)

    with _Pieces(source, capture_summary, directory) as pieces:
        for start in range(0, count, OPEN):
            stop = min(start + OPEN, count)
            first = begins + start * every if start else EARLIEST
            last = begins + stop * every - 1 if stop < count else LATEST
            with source.open() as capture:
                for picked in Scan(capture, Selection(None, None, first, last), progress).picks(
                    pieces.stacks
                ):
                    which = np.minimum(stretches(picked.times, begins, every), count - 1)
                    losses = [(_piece(picked, loss, begins, every, count), loss) for loss in picked.losses]
                    wanted = set(np.unique(which).tolist()) | {index for index, _ in losses}
                    renumber(picked, numbers)
                    for index in sorted(index for index in wanted if start <= index < stop):
                        mine = [one for at, one in losses if at == index]
                        _put(part(pieces, index), picked, which == index, mine)
            pieces.close()
        return pieces.done


def _piece(picked: Picked, loss: tuple[int, Schema | None, Lost], begins: int, every: int, count: int) -> int:
    """In which piece a loss belongs: where it ends; the first where no time is known."""
    _, schema, lost = loss
    known = schema or next(iter(picked.window.schemas.values()), None)
    if not lost.last or known is None:
        return 0
    return min(max((known.wall(lost.last) - begins) // every, 0), count - 1)


def _by_amount(
    source: Source,
    capture_summary: CaptureSummary,
    key: str,
    amount: int,
    directory: str,
    progress: Progress | None,
) -> list[Piece]:
    """One capture after the other, each begun when the one before has enough."""
    import numpy as np

    numbers = Numbers(capture_summary.schemas)
    ending = STATISTICS_BLOCK * len(numbers.schemas) if key == "size" else 0
    index = 0
    with source.open() as capture, _Pieces(source, capture_summary, directory) as pieces:
        for picked in Scan(capture, None, progress).picks(pieces.stacks):
            renumber(picked, numbers)
            sizes = _block_sizes(picked) if key == "size" else np.ones(len(picked.offsets), np.int64)
            sums, at, losses = np.cumsum(sizes), 0, numbered(picked, numbers)
            while at < len(sums) or losses:
                part = pieces.part(index, f"part-{index + 1:04}", numbers, f"by {key}: part {index + 1}")
                used = part.writer.size + ending if key == "size" else part.writer.events
                done = int(sums[at - 1]) if at else 0
                stop = int(np.searchsorted(sums, done + amount - used, side="right"))
                if not part.writer.events:
                    stop = max(stop, min(at + 1, len(sums)))  # a piece has one event at least
                stop = _whole_tables(picked, max(stop, at), part)
                here = [(before - at, loss) for before, loss in losses if before <= stop]
                losses = losses[len(here) :]
                part.write(picked.data, picked.offsets[at:stop], here)
                at = stop
                if at < len(sums):
                    index += 1
                    pieces.close()
                    if index >= MOST:
                        cause = f"more than {MOST:,} pieces"
                        raise KwireError("split", source.name, cause, "choose a greater amount")
        pieces.close()
        return pieces.done


def _whole_tables(picked: Picked, stop: int, part: RenumberingWriter) -> int:
    """Where a piece ends that is to end at `stop`: behind the tables that it has begun."""
    frames = Frames(picked.data, picked.offsets.data)
    open_ = part.writer.unfinished
    while stop < len(frames) and (open_ or (stop and _goes_on(frames, stop - 1))):
        open_, stop = False, stop + 1
    return stop


def _goes_on(frames: Frames, index: int) -> bool:
    """Whether a frame is one of a table of which more follow."""
    header = frames.header(index)
    return is_table(header.type, header.id) and head_of(frames.frame(index))[1]


def _block_sizes(picked: Picked) -> "Array":
    """Bytes of the packet blocks that the events will be."""
    import numpy as np

    data, at = np.frombuffer(picked.data, np.uint8), picked.offsets.astype(np.int64)
    lengths = data[at + 2].astype(np.int64) << 8 | data[at + 3]
    sizes: Array = (lengths + 3 & ~3) + EPB_OVERHEAD
    return sizes
