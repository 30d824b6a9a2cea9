"""The judge: whether what was produced is in the captures, once each, or counted; and who says so.

It reads captures by itself (pcapng blocks and frame headers, as the documents say), so that a fault of
kwire's reader hides nothing, and compares five accounts: what the tracer counted, what lies in the files,
what the agent says, what the collector says, what `kwire verify` says.
"""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

EVENT, LOST = 1, 7
NAMES = [
    *("unknown", "ring full", "map full", "missed", "too long", "sender full", "disk full", "expired"),
    *("rate limit", "capture gone", "missed shared", "spool"),
]
EXPIRED, CAPTURE_GONE = 7, 9
SECTION, INTERFACE, STATISTICS, PACKET = 0x0A0D0D0A, 1, 5, 6


class Found(NamedTuple):
    """What lies in captures: numbers of events, events counted lost by cause, files without an ending."""

    numbers: list[int]
    lost: dict[int, int]
    open: list[str]
    bare: bool = False
    """One of them was begun, and describes no probe."""

    @property
    def all_lost(self) -> int:
        return sum(self.lost.values())


def look_into(paths: Iterable[Path]) -> Found:
    """Read all captures."""
    numbers: list[int] = []
    lost: dict[int, int] = {}
    unfinished, bare = [], False
    for path in sorted(paths):
        data, at, probes, told = path.read_bytes(), 0, 0, 0
        while at + 12 <= len(data):
            kind, size = struct.unpack_from("=II", data, at)
            if size < 12 or at + size > len(data):
                break
            if kind == PACKET:
                length = struct.unpack_from("=I", data, at + 20)[0]
                _frame(data[at + 28 : at + 28 + length], numbers, lost)
            probes += kind == INTERFACE
            told += kind == STATISTICS
            at += size
        if at != len(data) or told < probes or not data:
            unfinished.append(path.name)
        bare |= bool(data) and not probes
    return Found(numbers, lost, unfinished, bare)


def _frame(frame: bytes, numbers: list[int], lost: dict[int, int]) -> None:
    kind = frame[0] & 15
    if kind == EVENT:
        numbers.append(struct.unpack_from("=Q", frame, 16)[0])
    elif kind == LOST:
        _, _, count, _, cause = struct.unpack_from(">QQQHB", frame, 8)
        lost[cause] = lost.get(cause, 0) + count


class ProcessReport(NamedTuple):
    """What a process said and how it ended. `summary`: its `--json` object, where it came to that."""

    name: str
    status: int | None
    said: str
    summary: dict[str, Any] | None

    @classmethod
    def of(cls, name: str, status: int | None, out: str, err: str) -> ProcessReport:
        lines = [line for line in out.splitlines() if line.startswith("{")]
        return cls(name, status, err, json.loads(lines[-1]) if lines else None)


class Life(NamedTuple):
    """One agent process. `produced`: by the counter; `killed`: it was given no chance to say anything."""

    number: int
    produced: int
    told: ProcessReport
    killed: bool = False
    spool: bool = False


class Case(NamedTuple):
    """What a scenario left behind, to be judged."""

    folder: Path
    lives: list[Life]
    collectors: list[ProcessReport]
    verified: ProcessReport
    taken: int = 0
    """Events of captures that were finished, and that somebody took away: nobody counts them."""
    moved: bool = False
    """Captures do not have the names any more that summaries tell."""
    grown: tuple[str, ...] = ()
    """What grew that should not: descriptors, memory."""
    doubtful: int = 0
    """How many of `taken` the collector may have counted."""
    forgotten: bool = False
    """What collectors knew of sessions was removed, and they ended before they could write it again."""


def judge(case: Case) -> list[str]:
    """Everything that is wrong; nothing is, where what was produced is stored once, or counted, and said."""
    wrong: list[str] = list(case.grown)
    found = look_into(case.folder.glob("*.pcapng"))
    wrong += _once(case, found)
    produced = sum(life.produced for life in case.lives)
    accounted = len(found.numbers) + found.all_lost
    whole = all(_ended(life) for life in case.lives)
    # Of a spool without a sound state, all that waited may have been stored, and counts as lost.
    doubtful = case.doubtful + sum(_expired(life) for life in case.lives)
    doubtful += found.lost.get(EXPIRED, 0) if case.forgotten else 0
    if whole and not case.taken - doubtful <= produced - accounted <= case.taken:
        wrong.append(
            f"{produced} produced, {len(found.numbers)} stored, {found.all_lost} counted lost, "
            f"{case.taken} taken away"
        )
    if accounted - found.lost.get(EXPIRED, 0) > produced:  # what may have been stored counts as lost
        wrong.append(f"{accounted} stored or counted, but {produced} produced")
    if whole:
        wrong += _agents(case, found)
    wrong += _collectors(case)
    # Of an agent that was killed before it had handed over anything no capture can know, and one that was
    # killed when it had handed over all has done its work.
    done = [life for life in case.lives if _ended(life) or _stored(life, found)]
    delivered = sum(life.produced for life in done) == accounted and not case.taken
    if not case.taken:
        wrong += _verified(case, found, delivered and not found.all_lost and not found.open)
    for told in [*case.collectors, *(life.told for life in case.lives), case.verified]:
        if any(word in told.said for word in ("Traceback", "Error:", "a fault of kwire")):
            wrong.append(f"{told.name} shows a traceback: {told.said[-600:]}")
    return wrong


def _ended(life: Life) -> bool:
    """Whether everything of it was acknowledged, losses told."""
    if life.killed:
        return False
    summary = life.told.summary
    return summary is not None and life.told.status in (0, 3) and summary["acknowledged"] == summary["events"]


def _expired(life: Life) -> int:
    """Events of recordings before it, delivered by it, that it says were lost."""
    return int((life.told.summary or {}).get("recovered_lost", 0))


def _stored(life: Life, found: Found) -> bool:
    return any(number >> 40 == life.number for number in found.numbers)


def _once(case: Case, found: Found) -> list[str]:
    wrong = []
    if len(set(found.numbers)) != len(found.numbers):
        wrong.append(f"{len(found.numbers) - len(set(found.numbers))} events are stored more than once")
    lives = {life.number: life.produced for life in case.lives}
    invented = [number for number in found.numbers if number & (1 << 40) - 1 >= lives.get(number >> 40, 0)]
    if invented:
        wrong.append(f"{len(invented)} events were never produced, such as {invented[0]:#x}")
    return wrong


def _agents(case: Case, found: Found) -> list[str]:
    """The summaries of the agents against counter and captures; their exit status."""
    wrong, lost = [], 0
    for life in case.lives:
        summary = life.told.summary or {}
        lost += summary["lost"] + _expired(life)
        if summary["events"] + summary["lost"] != life.produced:
            wrong.append(f"agent {life.number} says {summary} of {life.produced} produced")
        wanted = 3 if summary["lost"] or _expired(life) else 0
        if life.told.status != wanted:
            wrong.append(f"agent {life.number} ends with status {life.told.status}, not {wanted}: {summary}")
    late = found.lost.get(CAPTURE_GONE, 0)  # what was taken away after its last ACK, only the collector knows
    again = found.lost.get(EXPIRED, 0) if case.forgotten else 0  # losses told to who forgot them, too
    if not found.all_lost - late - again <= lost <= found.all_lost and not case.taken:
        wrong.append(f"agents say {lost} lost, the captures {found.lost}")
    elif lost == found.all_lost and not any(_expired(life) for life in case.lives):  # which name no causes
        causes = Counter[str]()
        for life in case.lives:
            causes.update((life.told.summary or {}).get("causes", {}))
        there = Counter({NAMES[cause]: count for cause, count in found.lost.items()})
        if +causes != +there:
            wrong.append(f"agents name {dict(causes)} as causes, the captures {dict(there)}")
    return wrong


def _collectors(case: Case) -> list[str]:
    """The summaries of collectors against the files that they name; their exit status."""
    wrong = []
    for told in case.collectors:
        if told.summary is None:
            continue
        names = {file for host in told.summary["hosts"] for file in host["files"]}
        here = look_into(path for path in case.folder.glob("*.pcapng") if str(path) in names)
        # Others went on with the files of collectors before.
        if told is case.collectors[-1] and not (case.taken or case.moved):
            if told.summary["events"] != len(here.numbers):
                wrong.append(f"{told.name} says {told.summary['events']} events of {len(here.numbers)}")
            if told.summary["lost"] != here.all_lost:
                wrong.append(f"{told.name} says {told.summary['lost']} lost of {here.lost}")
            if told.status == 0 and (here.all_lost or here.open):
                wrong.append(f"{told.name} ends with status 0, but {here.lost}, {here.open}")
    return wrong


def _verified(case: Case, found: Found, complete: bool) -> list[str]:
    told = case.verified
    if not list(case.folder.glob("*.pcapng")):
        return []
    wrong = []
    if told.status != (0 if complete and not found.bare else 3):
        wrong.append(f"verify ends with {told.status}; complete: {complete}, open: {found.open}")
    files = (told.summary or {}).get("files", [])
    sums = {name: sum(file[name] for file in files) for name in ("stored", "lost")}
    if sums != {"stored": len(found.numbers), "lost": found.all_lost}:
        wrong.append(f"verify counts {sums}; there are {len(found.numbers)} stored, {found.all_lost} lost")
    return wrong
