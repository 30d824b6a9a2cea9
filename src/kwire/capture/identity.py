"""Which capture a section is: the id its writer gave it, its file's number, and what it was made of.

Invariants: the same events twice are told wherever the ids can tell: the same file of the same capture,
beside itself or inside of a capture made of it, and parts of one file that may overlap. A file without an id
(one of a network, of another program) has one by its first bytes. Parts are known to be apart where their
times, their probes or their numbers in one split are. What is chosen by a condition alone, or in a form that
is not known here, may be any event of its file.

Comments of a section header say it (docs/analysis.md): `kwire capture ID file N` is the section's own id;
`kwire holds ID file N` names a file all of whose events were written here, `kwire part of ID file N …` one of
which some were, and which.
"""

import os
import re
from collections.abc import Iterable, Iterator
from itertools import combinations, pairwise

from kwire.capture import pcapng
from kwire.capture.input import Input, Source
from kwire.hints import Final
from kwire.lazy import NamedTuple, pattern
from kwire.wire.schema import EARLIEST, LATEST

OWN: Final = "kwire capture {id} file {number}"
HOLDS: Final = "kwire holds {id} file {number}"
PART: Final = "kwire part of {id} file {number}"
HEAD: Final = 1 << 16  # bytes of a file's beginning that are looked at
LEAST: Final = 512  # bytes of a file that has something in it: packets, with their times
PROBES: Final = 200  # that a part tells by name; of more it says nothing
PIECES: Final = 8  # splits of splits that a part tells
COMPARED: Final = 100_000  # pairs of parts: more are taken to overlap

_COMMENT = pattern(r"kwire (capture|holds|part of) ([0-9a-f]{32}) file (\d{1,9})((?: .*)?)", re.DOTALL)
_LIMIT = pattern(r" (from|to|probes|piece) ([0-9a-f.,-]+)")
_PIECE = pattern(r"([0-9a-f]{16})\.(\d{1,9})")
_TIME = pattern(r"-?\d{1,19}")


class Limits(NamedTuple):
    """What is chosen of a file's events: those that everything here is true of.

    `first`, `last`: wall-clock ns, both included. `probes`: those that are there (`digest`); None: any.
    `pieces`: the splits it is a piece of, each by its id and the piece's number.
    """

    first: int = EARLIEST
    last: int = LATEST
    probes: frozenset[str] | None = None
    pieces: frozenset[tuple[str, int]] = frozenset()

    def within(self, other: "Limits") -> "Limits":
        """What is chosen where both choose."""
        if self.probes is None or other.probes is None:
            probes = other.probes if self.probes is None else self.probes
        else:
            probes = self.probes & other.probes
        pieces = frozenset(sorted(self.pieces | other.pieces)[:PIECES])
        return Limits(max(self.first, other.first), min(self.last, other.last), probes, pieces)

    def apart(self, other: "Limits") -> bool:
        """Whether no event can be in both."""
        if self.last < other.first or other.last < self.first:
            return True
        if self.probes is not None and other.probes is not None and not self.probes & other.probes:
            return True
        mine = dict(self.pieces)
        return any(mine.get(split, number) != number for split, number in other.pieces)

    def text(self) -> str:
        """What a comment says of it."""
        said = []
        if self.first > EARLIEST:
            said.append(f" from {self.first}")
        if self.last < LATEST:
            said.append(f" to {self.last}")
        if self.probes is not None and len(self.probes) <= PROBES:
            said.append(f" probes {','.join(sorted(self.probes)) or '-'}")
        said += [f" piece {split}.{number}" for split, number in sorted(self.pieces)]
        return "".join(said)


class Identity(NamedTuple):
    """A file of a capture: `id`, and `number` from 1. `part`: which of its events are here; None: all."""

    id: str
    number: int
    part: Limits | None = None

    def within(self, limits: Limits) -> "Identity":
        """The same, of which only these events are here."""
        return self._replace(part=limits.within(self.part or Limits()))

    def comment(self) -> str:
        """What a capture that was made of it says."""
        form = HOLDS if self.part is None else PART
        return form.format(id=self.id, number=self.number) + (self.part.text() if self.part else "")


class Repeated(NamedTuple):
    """A file whose events are there more than once; not `surely`: parts that are not known to be apart."""

    file: Identity
    surely: bool


def own(comments: Iterable[str]) -> Identity | None:
    """The section's own identity, None where it tells none."""
    return next((found for kind, found in _told(comments) if kind == "capture"), None)


def held(comments: Iterable[str], first: int | None = None, last: int | None = None) -> list[Identity]:
    """The section's own identity and those of all it was made of.

    `first`, `last`: when its first and last event were, where that is known: parts hold no other ones.
    """
    found = [one for _, one in _told(comments)]
    if first is None or last is None:
        return found
    seen = Limits(first, last)
    return [one if one.part is None else one.within(seen) for one in found]


def repeated(holders: Iterable[Iterable[Identity]]) -> list[Repeated]:
    """The files whose events these sections, or captures, hold more than once, each told once."""
    parts: dict[tuple[str, int], dict[int, list[Limits | None]]] = {}
    for place, holder in enumerate(holders):
        for one in holder:
            parts.setdefault((one.id, one.number), {}).setdefault(place, []).append(one.part)
    found = []
    for key, by_holder in parts.items():
        if len(by_holder) < 2:
            continue
        limits = [[one for one in some if one is not None] for some in by_holder.values()]
        if any(None in some for some in by_holder.values()):
            found.append(Repeated(Identity(*key), surely=True))
        elif not _apart(limits):
            found.append(Repeated(Identity(*key), surely=False))
    return found


def _apart(holders: list[list[Limits]]) -> bool:
    """Whether no event can be in two of these parts; compares at most COMPARED pairs."""
    for split, _ in holders[0][0].pieces:
        numbers = [{dict(one.pieces).get(split, -1) for one in some} for some in holders]
        if -1 not in set().union(*numbers) and len(set().union(*numbers)) == sum(map(len, numbers)):
            return True
    spans = sorted((min(one.first for one in some), max(one.last for one in some)) for some in holders)
    if all(before[1] < after[0] for before, after in pairwise(spans)):
        return True
    pairs = 0
    for mine, others in combinations(holders, 2):
        pairs += len(mine) * len(others)
        if pairs > COMPARED or not all(one.apart(other) for one in mine for other in others):
            return False
    return True


def named(one: Identity) -> str:
    """A short name for a file of a capture, whose id is long."""
    return f"capture {one.id[:8]}… file {one.number}"


def twice(found: Iterable[Repeated]) -> str:
    """What is wrong with captures that hold these more than once; empty where there are none."""
    told = sorted(found, key=lambda one: not one.surely)
    if not told:
        return ""
    more = f" and of {len(told) - 1} more" if len(told) > 1 else ""
    if told[0].surely:
        return f"the events of {named(told[0].file)}{more} are here more than once, and counted so"
    return (
        f"parts of {named(told[0].file)}{more} are here that may overlap: "
        "events that are in two of them are counted twice"
    )


def digest(probe: str) -> str:
    """What stands for a probe's spec in a comment."""
    from hashlib import sha256

    return sha256(probe.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def new_split() -> str:
    """The id of a split."""
    return os.urandom(8).hex()


def of_file(source: Source) -> Identity | None:
    """The identity in the first section header of a file; where there is none, one made of its beginning.

    None where it is too short to be told from others. CaptureError: no file.
    """
    file = Input(source)
    try:
        start = file.peek(28)
        order = pcapng.section_order(start[8:12])
        if start[:4] == pcapng.SECTION_START and order is not None:
            total = min(int.from_bytes(start[4:8], order), HEAD)
            body = memoryview(file.peek(total))[:total][24:-4]
            found = own(pcapng.strings(pcapng.unpack_options(body, order), pcapng.Option.COMMENT))
            if found is not None:
                return found
        head = file.peek(HEAD)[:HEAD]
        if len(head) < LEAST:
            return None
        from hashlib import sha256

        return Identity(sha256(head).hexdigest()[:32], 1)
    finally:
        file.close()


def _told(comments: Iterable[str]) -> Iterator[tuple[str, Identity]]:
    for comment in comments:
        match = _COMMENT.fullmatch(comment)
        if match and (match[1] == "part of" or not match[4]):
            part = _limits(match[4]) if match[1] == "part of" else None
            yield match[1], Identity(match[2], int(match[3]), part)


def _limits(text: str) -> Limits:
    """What a comment says was chosen; what cannot be read chooses nothing out."""
    limits = Limits()
    for kind, value in _LIMIT.findall(text):
        if kind == "probes":
            limits = limits.within(Limits(probes=frozenset(filter(None, value.strip("-").split(",")))))
        elif kind == "piece" and (piece := _PIECE.fullmatch(value)):
            limits = limits.within(Limits(pieces=frozenset({(piece[1], int(piece[2]))})))
        elif kind in ("from", "to") and _TIME.fullmatch(value):
            time = max(EARLIEST, min(LATEST, int(value)))
            limits = limits.within(Limits(first=time) if kind == "from" else Limits(last=time))
    return limits
