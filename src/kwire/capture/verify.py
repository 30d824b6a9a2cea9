"""Whether a capture is complete: produced = stored + lost for each probe, nothing lost, nothing missing.

Invariants: a capture is complete only where the file itself proves it. Events are counted in the file, losses
by its LOST frames, and both are held against the statistics its recorder wrote at the end; a file without
them (its recorder was killed, or still runs) proves nothing. Files of one rotation belong together: a missing
one is a hole too.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from kwire.capture import identity
from kwire.capture.accounts import Totals
from kwire.capture.event_counts import Row, Sums
from kwire.capture.output import CaptureError
from kwire.capture.pcapng import StatisticsOption
from kwire.capture.reader import PORTS, UNFINISHED, Capture, Section
from kwire.capture.removed import Ledger, Range, in_words, without
from kwire.capture.shared import Share, SharedPart, prove, read_part
from kwire.wire.frames import Frames
from kwire.wire.messages import CAUSES, CPU_UNKNOWN, MERGE_GAP, Cause, Lost, cause_text, losses_in
from kwire.wire.schema import Schema
from kwire.words import are, plural

MAX_HOLES: Final = 10_000  # holes told apart in a file; more are joined
_FOLLOWED = re.compile(r"continued in file (\d{1,9})")


class Hole(NamedTuple):
    """Events missing at a place: `count` of `probe` (its spec; empty where unknown), wall-clock ns.

    `probes`: all that they can be of, where those share a program; `probe` is then the first of them.
    """

    probe: str
    first: int | None
    last: int | None
    cpu: int | None
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    cause: str
    probes: tuple[str, ...] = ()


class Balance(NamedTuple):
    """What one section of a file says of a probe; `produced` is None where no statistics tell.

    A row with several `probes` is what is missing of a program that they share; its `number` is 0. Of a `map`
    TABLE frames are counted instead of events.
    """

    probe: str
    number: int
    produced: int | None
    stored: int
    lost: int
    probes: tuple[str, ...] = ()
    map: bool = False

    def balanced(self) -> "Balance":
        """The same where what is there is known to be all there was."""
        return self if self.produced is not None else self._replace(produced=self.stored + self.lost)


class FileReport(NamedTuple):
    """One file: its probes' balances, its holes, what else is wrong, one line each.

    `capture`, `number`, `next`: the id, this file's number and the next one's, of a rotation.
    """

    path: str
    balances: list[Balance]
    holes: list[Hole]
    problems: list[str]
    capture: str
    number: int
    next: int
    parts: dict[str, SharedPart] = {}  # noqa: RUF012  # it does not change
    """Of a session that several collectors shared, by probe."""

    @property
    def complete(self) -> bool:
        """Nothing is missing in this file."""
        return not self.holes and not self.problems

    @property
    def totals(self) -> Totals:
        """The sums over all probes; what a probe without statistics produced is what is there."""
        return _totals(one for one in self.balances if not one.map)

    @property
    def tables(self) -> Totals:
        """The same of the TABLE frames of maps."""
        return _totals(one for one in self.balances if one.map)


def _totals(balances: Iterable[Balance]) -> Totals:
    produced = stored = lost = 0
    for one in balances:
        produced += one.stored + one.lost if one.produced is None else one.produced
        stored, lost = stored + one.stored, lost + one.lost
    return Totals(produced, stored, lost)


class _Count:
    """What was counted in one section: by probe, and of probes without a schema.

    `first`, `last`: when its first and last event were, wall-clock ns; None without any.
    """

    __slots__ = ("first", "last", "lost", "section", "shared", "stored", "strangers")

    def __init__(self, section: Section) -> None:
        self.section = section
        self.stored: Counter[int] = Counter()
        self.lost: Counter[int] = Counter()
        self.shared: Counter[int] = Counter()
        self.strangers = 0
        self.first: int | None = None
        self.last: int | None = None


class _Holes:
    """Holes in order; losses that follow closely are one, and so is all beyond MAX_HOLES, by cause."""

    __slots__ = ("_last", "found")

    def __init__(self) -> None:
        self.found: list[Hole] = []
        self._last: dict[tuple[str, int, int], int] = {}

    def add(self, section: Section, loss: Lost) -> None:
        """Add one LOST frame."""
        schema = section.schemas.get(loss.probe)
        probe = schema.probe if schema else ""
        clock = schema.clock if schema else section.clock
        first = last = None
        if loss.last and clock:
            first, last = clock.at(loss.first), clock.at(loss.last)
        key = (probe, loss.cpu, loss.cause)
        at = self._last.get(key)
        if at is not None:
            old = self.found[at]
            near = first is not None and old.last is not None and first - old.last <= MERGE_GAP
            if near or (first is None and old.first is None) or len(self.found) >= MAX_HOLES:
                times = [time for time in (old.first, first, old.last, last) if time is not None]
                first, last = (min(times), max(times)) if times else (None, None)
                self.found[at] = old._replace(first=first, last=last, count=old.count + loss.count)
                return
        cause = cause_text(loss.cause)
        if len(self.found) >= MAX_HOLES + len(CAUSES):
            old = self.found[-1]
            self.found[-1] = old._replace(probe="", cpu=None, count=old.count + loss.count)
            return
        self._last[key] = len(self.found)
        cpu = None if loss.cpu == CPU_UNKNOWN else loss.cpu
        probes = schema.concerned(loss.cause) if schema and loss.cause == Cause.MISSED_SHARED else ()
        self.found.append(Hole(probe, first, last, cpu, loss.count, cause, probes))


def verify_capture(capture: Capture) -> FileReport:
    """Read a capture and hold it against what it says of itself. It must not have been read yet."""
    counts: dict[int, _Count] = {}  # by section: those of a network capture take turns
    holes, problems, sums = _Holes(), [], Sums()
    capture.mixed = True
    for frames in capture:
        for section, others in sums.add(capture, frames):
            if id(section) not in counts:
                counts[id(section)] = _Count(section)
            _lost(counts[id(section)], holes, frames, others)
    for section, rows in sums.rows():
        if id(section) not in counts:
            counts[id(section)] = _Count(section)
        _add(counts[id(section)], rows)
    wrong = capture.wrong()
    described = any(section.schemas or capture.label(section) for section in capture.sections)
    if capture.problem:
        problems.append(capture.problem)
    elif not counts and not described:
        if not any(identity.own(section.comments) for section in capture.sections):
            barren = capture.barren()
            cause = "; ".join([barren or "it describes no probe", *wrong])
            cure = "" if wrong else PORTS if barren else "kwire record -w writes captures"
            raise CaptureError("verify", capture.name, cause, cure)
        problems.append("it describes no probe: its recorder was killed before it did")
    problems += wrong
    if capture.forgotten:
        problems.append(f"{are(capture.forgotten, 'session')} beyond what is kept: nothing is known of them")
    balances = []
    for section in capture.sections:
        told = capture.complaint(section)
        if not section.schemas and id(section) not in counts:  # nothing of it is there
            if told:
                problems.append(told)
            continue
        known, label = counts.get(id(section)) or _Count(section), capture.label(section)
        if told and (section.schemas or known.strangers):
            problems.append(told)
        # A session that is whole says by its protocol what was produced: what came, and what LOST counts.
        found = _balances(known, problems, label, cut=capture.problem is not None)
        balances += found if told != "" else [one.balanced() for one in found]
    again = identity.twice(identity.repeated(_holder(counts.get(id(one)), one) for one in capture.sections))
    if again:
        problems.append(again)
    number, next_number, name = _sequence(capture.sections)
    parts = _parts(capture.sections)
    return FileReport(capture.name, balances, holes.found, problems, name, number, next_number, parts)


def verify_set(reports: Sequence[FileReport], removed: Ledger = MappingProxyType({})) -> list[str]:
    """What is missing between the files: those of rotations that are not among them, and captures of other
    collectors that shared a session. `removed`: what retention took is not missing.
    """
    problems = []
    for near, _, missing in _gaps(reports, removed):
        if missing:
            verb = "is" if in_words(missing).startswith("file ") else "are"
            problems.append(f"{in_words(missing)} of the rotation that {near} belongs to {verb} missing")
    return problems + prove(_shares(reports, removed))


def verify_removed(reports: Sequence[FileReport], removed: Ledger) -> list[str]:
    """What retention took of the rotations that these files belong to, one line each: it proves nothing of
    that.
    """
    return [
        f"{in_words(gone)} of the rotation that {near} belongs to: removed by --keep of its collector"
        for near, gone, _ in _gaps(reports, removed)
        if gone
    ]


def _gaps(reports: Iterable[FileReport], removed: Ledger) -> Iterator[tuple[str, list[Range], list[Range]]]:
    """Of each rotation: its first file here, what retention took of those that are not, the others."""
    rotations: dict[str, dict[int, FileReport]] = {}
    for report in reports:
        if report.capture:
            rotations.setdefault(report.capture, {})[report.number] = report
    for capture, files in rotations.items():
        there = {(number, number) for number in files}
        wanted = [(1, max(files)), *((report.next, report.next) for report in files.values() if report.next)]
        absent = without(wanted, there)
        missing = without(absent, removed[capture].ranges if capture in removed else ())
        yield files[min(files)].path, without(absent, missing), missing


def _shares(reports: Iterable[FileReport], removed: Ledger) -> list[Share]:
    """What each capture has of sessions that several collectors shared; where retention took some, how many
    events there were is not known.
    """
    shares = []
    for report in reports:
        if report.parts:
            files = [one for one in reports if one.capture and one.capture == report.capture] or [report]
            there: Counter[str] = Counter()
            for balance in (balance for one in files for balance in one.balances):
                there[balance.probe] += balance.stored + balance.lost
            produced = {probe: part.produced for probe, part in report.parts.items()}
            part, whole = next(iter(report.parts.values())), report.capture not in removed
            shares.append(Share(report.path, part, produced, dict(there), whole))
    return shares


def _add(count: _Count, rows: list[tuple[Schema | None, Row]]) -> None:
    """Count the events of a section."""
    for schema, (events, first, last) in rows:
        if schema is None:
            count.strangers += events
            continue
        count.stored[schema.id] += events
        low, high = schema.wall(first), schema.wall(last)
        count.first = low if count.first is None else min(count.first, low)
        count.last = high if count.last is None else max(count.last, high)


def _lost(count: _Count, holes: _Holes, frames: Frames, others: list[int]) -> None:
    """Count what the LOST frames of a chunk say, which are among those in these places."""
    for loss in losses_in(frames, others):
        count.lost[loss.probe] += loss.count
        if loss.cause == Cause.MISSED_SHARED:
            count.shared[loss.probe] += loss.count
        holes.add(count.section, loss)


def _holder(count: _Count | None, section: Section) -> list[identity.Identity]:
    """The files whose events a section holds."""
    if count is None:
        return identity.held(section.comments)
    return identity.held(section.comments, count.first, count.last)


def _balances(count: _Count, problems: list[str], session: str, *, cut: bool) -> list[Balance]:
    """The balances of a section's probes; adds what is wrong with them to `problems`.

    `session`: the section's name where it is a session, of which there are no closing statistics.
    """
    section = count.section
    statistics = {
        interface.probe: interface.statistics for interface in section.interfaces if interface.probe
    }
    balances, without = [], 0
    for number, schema in sorted(section.schemas.items()):
        told = statistics.get(number)
        stored, lost = count.stored[number], count.lost[number]
        produced = told.get(StatisticsOption.RECEIVED) if told else None
        shared = count.shared[number]
        own = None if produced is None else produced - shared
        own_map = schema.map is not None
        balances.append(Balance(schema.probe, number, own, stored, lost - shared, map=own_map))
        if shared:
            together = Balance(schema.probe, 0, shared, 0, shared, schema.concerned(Cause.MISSED_SHARED))
            balances.append(together)
        if told is None or produced is None:
            without += 1
            continue
        for what, code, found in (
            ("stored", StatisticsOption.DELIVERED, stored),
            ("lost", StatisticsOption.DROPPED, lost),
        ):
            if told.get(code, found) != found:
                problems.append(
                    f"{schema.probe}: {plural(found, 'event')} {what}, the statistics say {told[code]:,}"
                )
        if produced != stored + lost:
            events, absent = plural(produced, "event"), produced - stored - lost
            more = (
                f"{-absent:,} too many"
                if absent < 0
                else f"{absent:,} {'is' if absent == 1 else 'are'} missing"
            )
            problems.append(
                f"{schema.probe}: {events} produced, {stored:,} stored and {lost:,} counted lost: {more}"
            )
    if without and not cut and not session:
        which = "its probes" if without == len(section.schemas) else f"{without} of its probes"
        problems.append(f"no closing statistics of {which}: the {UNFINISHED}")
    if count.strangers:
        of = f"{session}: " if session else ""
        problems.append(f"{of}{are(count.strangers, 'event')} of probes that the file does not describe")
    lost = sum(lost for number, lost in count.lost.items() if number not in section.schemas)
    if lost:
        balances.append(Balance("", 0, None, 0, lost))
    return balances


def _parts(sections: list[Section]) -> dict[str, SharedPart]:
    """What the endings say of a session that several collectors shared, by probe."""
    parts = {}
    for section in sections:
        for interface in section.interfaces:
            part = read_part(interface.comments)
            if part is not None and interface.probe in section.schemas:
                parts[section.schemas[interface.probe].probe] = part
    return parts


def _sequence(sections: list[Section]) -> tuple[int, int, str]:
    """This file's number, the next one's (0: none) and the id of its rotation; nothing for other files."""
    found = identity.own(sections[0].comments) if len(sections) == 1 else None
    if found is None:
        return 0, 0, ""
    comments = [comment for interface in sections[0].interfaces for comment in interface.comments]
    follower = next((match for comment in comments if (match := _FOLLOWED.fullmatch(comment))), None)
    return found.number, int(follower[1]) if follower else 0, found.id
