"""Which capture a section is: the id its writer gave it, its file's number, and what it was made of.

The laws: the same events twice are told wherever the ids can tell: the same file of the same capture, beside
itself or inside of a capture made of it. Sections without an id are never taken for the same.

Comments of a section header say it: `kwire capture ID file N` is the section's own id; `kwire holds ID file
N` names a file all of whose events were written here, `kwire part of ID file N` one of which some were.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from kwire.capture import pcapng
from kwire.capture.input import Input, Source

OWN: Final = "kwire capture {id} file {number}"
HOLDS: Final = "kwire holds {id} file {number}"
PART: Final = "kwire part of {id} file {number}"
HEAD: Final = 1 << 16  # bytes of a section header that are looked at

_COMMENT = re.compile(r"kwire (capture|holds|part of) ([0-9a-f]{32}) file (\d{1,9})")


class Identity(NamedTuple):
    """A file of a capture: `id`, and `number` from 1. `whole`: all its events are here, not only some."""

    id: str
    number: int
    whole: bool = True

    def comment(self) -> str:
        """What a capture that was made of it says."""
        return (HOLDS if self.whole else PART).format(id=self.id, number=self.number)


def own(comments: Iterable[str]) -> Identity | None:
    """The section's own identity, None where it tells none."""
    return next((found for kind, found in _told(comments) if kind == "capture"), None)


def held(comments: Iterable[str]) -> list[Identity]:
    """The section's own identity and those of all it was made of."""
    return [found for _, found in _told(comments)]


def repeated(holders: Iterable[Iterable[Identity]]) -> list[Identity]:
    """The files whose events these sections, or captures, hold more than once, each told once."""
    seen: dict[tuple[str, int], bool] = {}
    found: dict[tuple[str, int], Identity] = {}
    for holder in holders:
        for one in {(one.id, one.number): one for one in sorted(holder)}.values():
            key = (one.id, one.number)
            if key in seen and (one.whole or seen[key]):
                found.setdefault(key, one)
            seen[key] = seen.get(key, False) or one.whole
    return list(found.values())


def named(one: Identity) -> str:
    """What a file of a capture is called for people: its id is long."""
    return f"capture {one.id[:8]}… file {one.number}"


def twice(identities: Iterable[Identity]) -> str:
    """What is wrong with captures that hold these more than once; empty where there are none."""
    told = [named(one) for one in identities]
    if not told:
        return ""
    more = f" and of {len(told) - 1} more" if len(told) > 1 else ""
    return f"the events of {told[0]}{more} are here more than once, and counted so"


def of_file(source: Source) -> Identity | None:
    """The identity in the first section header of a file, None where there is none. CaptureError: no file."""
    file = Input(source)
    try:
        start = file.peek(28)
        order = pcapng.section_order(start[8:12])
        if start[:4] != pcapng.SECTION_START or order is None:
            return None
        total = min(int.from_bytes(start[4:8], order), HEAD)
        body = memoryview(file.peek(total))[:total][24:-4]
        return own(pcapng.strings(pcapng.unpack_options(body, order), pcapng.Option.COMMENT))
    finally:
        file.close()


def _told(comments: Iterable[str]) -> Iterator[tuple[str, Identity]]:
    for comment in comments:
        match = _COMMENT.fullmatch(comment)
        if match:
            yield match[1], Identity(match[2], int(match[3]), match[1] != "part of")
