"""Captures into one, in order of time: of several hosts, of the files of a rotation, of one session's hops.

Invariants: every event and every LOST frame of every input is in the outcome once, a hole that several parts
of one file tell too; events are in order of wall time as far as HELD events of each input reach, or ROOM
bytes of all (a capture holds runs of each CPU's events); memory is bounded by the number of inputs, not by
their sizes. Each probe keeps its own clock: hosts are put in order by theirs.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from kwire.analyze.capture_summary import CaptureSummary
from kwire.analyze.rewrite import Numbers, RenumberingWriter, made_of, numbered, renumber
from kwire.analyze.scan import BYTES, Picked, Progress, Scan
from kwire.analyze.source import Source, check_output
from kwire.capture import identity
from kwire.capture.accounts import Totals
from kwire.errors import KwireError
from kwire.wire.messages import Lost
from kwire.wire.schema import bounded
from kwire.wire.stacks import Stacks
from kwire.wire.walk import frame_gather

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

HELD: Final = 1 << 17  # events of an input that wait for earlier ones
HELD_ALL: Final = 1 << 20  # of all inputs together
ROOM: Final = 128 << 20  # bytes of them
LOSSES: Final = 1 << 16  # LOST frames of an input that wait


def _joined(keys: Iterable[set[Any]]) -> list[int]:
    """For each of these sets the place of the first one that it is joined to, by keys in common."""
    groups: list[int] = []
    owners: dict[Any, int] = {}
    for place, some in enumerate(keys):
        met = {owners[key] for key in some if key in owners}
        group = min(met, default=place)
        if len(met) > 1:
            groups = [group if one in met else one for one in groups]
            owners = {key: group if one in met else one for key, one in owners.items()}
        owners.update(dict.fromkeys(some, group))
        groups.append(group)
    return groups


class _Holes:
    """Which losses are told for the first time: a hole at the border of two cuts of a file is in both.

    Equal losses of the pieces of one split are several losses, for a split writes each once; of those that
    cuts tell, as many are told as the cut has that has most of them.
    """

    __slots__ = ("_by_pieces", "_by_split", "_groups", "_most", "_own", "_pieces", "_splits")

    def __init__(self, surveys: Sequence[CaptureSummary]) -> None:
        parts = [[one for one in summary.held if one.part is not None] for summary in surveys]
        groups = _joined({(one.id, one.number) for one in some} for some in parts)
        counts = Counter(groups)
        self._groups = [group if counts[group] > 1 else -1 for group in groups]
        self._pieces = [frozenset().union(*(one.part.pieces for one in some if one.part)) for some in parts]
        self._splits = _joined({split for split, _ in pieces} for pieces in self._pieces)
        # Each is a number of equal losses: of an input, of the inputs that are cuts of the same piece (the
        # most that one of them has), of the pieces of a split (their sum), of all parts of a file.
        self._own: Counter[tuple[int, Lost]] = Counter()
        self._by_pieces: Counter[tuple[int, frozenset[tuple[str, int]], Lost]] = Counter()
        self._by_split: Counter[tuple[int, int, Lost]] = Counter()
        self._most: Counter[tuple[int, Lost]] = Counter()

    def first(self, place: int, loss: Lost) -> bool:
        """Whether this loss of this input is one that no earlier one told."""
        group = self._groups[place]
        if group < 0:
            return True
        self._own[place, loss] += 1
        pieces = (self._splits[place], self._pieces[place], loss)
        if self._own[place, loss] <= self._by_pieces[pieces]:
            return False
        self._by_pieces[pieces] += 1
        split = (group, self._splits[place], loss)
        self._by_split[split] += 1
        if self._by_split[split] <= self._most[group, loss]:
            return False
        self._most[group, loss] += 1
        return True


class _Input:
    """One capture on its way: `data` holds frames at `offsets`, in order of `times`, and `losses` by time."""

    __slots__ = (
        "_held",
        "_next",
        "_numbers",
        "_picks",
        "_room",
        "data",
        "ended",
        "losses",
        "offsets",
        "times",
    )

    def __init__(self, picks: Iterator[Picked], numbers: Numbers, held: int, room: int) -> None:
        import numpy as np

        self._picks, self._numbers, self._held, self._room = picks, numbers, held, room
        self.data = bytearray()
        self.offsets: Array = np.zeros(0, np.uint64)
        self.times: Array = np.zeros(0, np.int64)
        self.losses: list[tuple[int, Lost]] = []
        self._next = next(picks, None)
        self.ended = False

    def fill(self) -> None:
        """Read until as many events wait as are held, with all that was read together, or the end."""
        import numpy as np

        if self.ended or len(self.times) >= self._held:
            return
        data, offsets, times = self._rest(), [self.offsets], [self.times]
        events, together = len(self.times), None
        while True:
            picked = self._next
            if picked is None:
                self.ended = True
                break
            enough = events >= 2 * self._held or len(data) >= self._room or len(self.losses) >= LOSSES
            if enough and picked.round is not together:
                break
            together, self._next = picked.round, next(self._picks, None)
            renumber(picked, self._numbers)
            self.losses += self._timed(picked)
            if not len(picked.times):
                continue
            offsets.append(picked.offsets + np.uint64(len(data)))
            times.append(picked.times)
            events += len(picked.times)
            data += picked.data
        self.data, self.offsets, self.times = data, np.concatenate(offsets), np.concatenate(times)
        if (self.times[1:] < self.times[:-1]).any():
            order = np.argsort(self.times, kind="stable")
            self.offsets, self.times = self.offsets[order], self.times[order]
        self.losses.sort(key=lambda loss: loss[0])

    @property
    def horizon(self) -> int | None:
        """Up to when events can be given: earlier ones may still come after; None: all."""
        if self.ended:
            return None
        if not len(self.times):
            return self.losses[-1][0]
        return int(self.times[len(self.times) - min(self._held, (len(self.times) + 1) // 2)])

    def take(self, horizon: int | None) -> "tuple[bytearray, Array, Array, list[tuple[int, Lost]]]":
        """What lies up to the horizon: (data, offsets, times, losses by time)."""
        import numpy as np

        count = len(self.times)
        if horizon is not None:
            count = int(np.searchsorted(self.times, horizon, side="right"))
        taken = (self.data, self.offsets[:count], self.times[:count])
        self.offsets, self.times = self.offsets[count:], self.times[count:]
        losses = [loss for loss in self.losses if horizon is None or loss[0] <= horizon]
        del self.losses[: len(losses)]
        return *taken, losses

    def _rest(self) -> bytearray:
        """What has not been given, alone in new bytes; `offsets` then point there."""
        import numpy as np

        data = self.data
        if not len(self.offsets):
            return bytearray()
        view = np.frombuffer(data, np.uint8)
        at = self.offsets.astype(np.int64)
        lengths = view[at + 2].astype(np.int64) << 8 | view[at + 3]
        out = bytearray(int(lengths.sum()))
        frame_gather(data, self.offsets.data, 0, len(at), out, 0)
        self.offsets = (np.cumsum(lengths) - lengths).astype(np.uint64)
        return out

    def _timed(self, picked: Picked) -> Iterator[tuple[int, Lost]]:
        """The losses with the wall-clock time where they belong: their end, else that of their neighbour."""
        for (before, schema, told), (_, loss) in zip(
            picked.losses, numbered(picked, self._numbers), strict=True
        ):
            known = schema or next(iter(picked.window.schemas.values()), None)
            if told.last and known is not None:
                yield bounded(known.wall(told.last)), loss
            elif len(picked.times):
                yield int(picked.times[min(before, len(picked.times) - 1)]), loss
            else:
                yield 0, loss


def merge(
    inputs: Sequence[tuple[Source, CaptureSummary]], path: str, progress: Progress | None = None
) -> Totals:
    """Write the captures as one to `path`; gives its sums. Raises KwireError where that cannot be written."""
    check_output(path, [source for source, _ in inputs])
    _check_once(inputs)
    numbers = Numbers(schema for _, capture_summary in inputs for schema in capture_summary.schemas)
    names = ", ".join(source.name.rsplit("/", 1)[-1] for source, _ in inputs)
    surveys = [capture_summary for _, capture_summary in inputs]
    comments = [f"kwire merge of {names}", *made_of(surveys)]
    part = RenumberingWriter(path, numbers, "merge", comments, stacks := Stacks())
    held = max(1 << 10, min(HELD, HELD_ALL // len(inputs)))
    captures, scans = [], []
    try:
        for source, capture_summary in inputs:
            captures.append(source.open())
            scans.append(Scan(captures[-1], events_held=held, bytes_held=min(held << 7, BYTES)))
            part.account(capture_summary, whole=True)
        room = max(1 << 20, ROOM // len(inputs))
        readers = [_Input(scan.picks(stacks), numbers, held, room) for scan in scans]
        _run(readers, _Holes(surveys), part, scans, progress)
        return part.close()
    finally:
        for capture in captures:
            capture.close()
        part.leave()


def _check_once(inputs: Sequence[tuple[Source, CaptureSummary]]) -> None:
    """KwireError where events would be in the outcome twice."""
    for one in identity.repeated(capture_summary.held for _, capture_summary in inputs):
        file = one.file
        first, second = [
            source.name
            for source, capture_summary in inputs
            if file[:2] in {held[:2] for held in capture_summary.held}
        ][:2]
        if one.surely:
            cause = f"{first} and {second} hold the same events, of {identity.named(file)}"
            raise KwireError("merge", "", cause, "name each capture once")
        cause = f"{first} and {second} hold parts of {identity.named(file)} that may overlap"
        raise KwireError("merge", "", cause, "cut parts whose times or probes are apart")
    for source, capture_summary in inputs:
        if capture_summary.repeated:
            raise KwireError(
                "merge", source.name, capture_summary.repeated, "merge the captures it was made of"
            )


def _run(
    inputs: list[_Input], holes: _Holes, part: RenumberingWriter, scans: list[Scan], progress: Progress | None
) -> None:
    """Hand over what lies before the horizon of all inputs, until all is written."""
    import numpy as np

    while True:
        for one in inputs:
            one.fill()
        known = [one.horizon for one in inputs if not one.ended]
        horizon = min((time for time in known if time is not None), default=None)
        data, offsets, times, losses = bytearray(), [], [], []
        for place, one in enumerate(inputs):
            from_data, some, moments, missing = one.take(horizon)
            if len(some):
                offsets.append(some + np.uint64(len(data)))
                times.append(moments)
                data += from_data
            for time, loss in missing:
                if holes.first(place, loss):
                    losses.append((time, loss))
                else:
                    part.told(loss)
        if offsets or losses:
            _write(part, data, offsets, times, losses)
        if progress is not None:
            progress(sum(scan.read for scan in scans))
        if horizon is None:
            return


def _write(
    part: RenumberingWriter, data: bytearray, offsets: list[Any], times: list[Any], losses: list[Any]
) -> None:
    import numpy as np

    at = np.concatenate(offsets) if offsets else np.zeros(0, np.uint64)
    when = np.concatenate(times) if times else np.zeros(0, np.int64)
    if len(offsets) > 1:
        order = np.argsort(when, kind="stable")
        at, when = at[order], when[order]
    losses.sort(key=lambda loss: loss[0])
    moments = np.array([time for time, _ in losses], np.int64)
    places = np.searchsorted(when, moments, side="right").tolist()
    part.write(data, at, [(place, loss) for place, (_, loss) in zip(places, losses, strict=True)])
