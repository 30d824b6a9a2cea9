"""A session in captures of several collectors: what each says of its part, and the proof over all of them.

Invariants: each capture is complete by itself: what it says was produced is what came to it. That nothing is
missing between them, and nothing in two, follows from all parts together: as many messages as there were,
whose places have the sums that all places have, and for each probe as many events as its source produced.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from kwire.words import plural

_TEXT = re.compile(
    r"part of session ([0-9a-f]{32}): ([0-9]{1,20}) messages with the sums ([0-9]{1,60}) ([0-9]{1,90})"
    r" of ([0-9]{1,20}) messages, ([0-9]{1,20}) events of this probe"
)


class SharedPart(NamedTuple):
    """What stands with a probe in the ending of a capture: messages of the session that it has, the sums of
    their places and of the squares; in all captures: messages, and events of the probe.
    """

    session: str
    messages: int
    places: int
    squares: int
    all: int
    produced: int

    def text(self) -> str:
        """As a comment."""
        return (
            f"part of session {self.session}: {self.messages} messages with the sums {self.places} "
            f"{self.squares} of {self.all} messages, {self.produced} events of this probe"
        )


def read_part(comments: Iterable[str]) -> SharedPart | None:
    """The part that one of these comments tells of, if any."""
    for comment in comments:
        match = _TEXT.fullmatch(comment)
        if match:
            return SharedPart(match[1], *(int(number) for number in match.groups()[1:]))
    return None


class Share(NamedTuple):
    """What one capture has of a session: its file, the part, events stored and counted lost by probe; not
    `whole`: in the files that retention has left of it.
    """

    path: str
    part: SharedPart
    produced: dict[str, int]
    there: dict[str, int]
    whole: bool = True


def prove(shares: Iterable[Share]) -> list[str]:
    """What is wrong with sessions that several collectors shared, given all their captures."""
    sessions: dict[str, list[Share]] = {}
    for share in shares:
        sessions.setdefault(share.part.session, []).append(share)
    problems = []
    for session, parts in sessions.items():
        name = f"session {session}, shared by several collectors"
        total = parts[0].part.all
        messages = sum(one.part.messages for one in parts)
        if any(one.part.all != total or one.produced != parts[0].produced for one in parts):
            problems.append(f"{name}: its captures disagree about how much there was")
            continue
        if messages < total:
            missing = plural(total - messages, "message")
            problems.append(f"{name}: {missing} of {total:,} are in captures that are not among these files")
            continue
        places, squares = (total - 1) * total // 2, (total - 1) * total * (2 * total - 1) // 6
        sums = sum(one.part.places for one in parts), sum(one.part.squares for one in parts)
        if messages > total or sums != (places, squares):
            problems.append(f"{name}: some messages are in two captures")
        for probe, produced in parts[0].produced.items() if all(one.whole for one in parts) else ():
            there = sum(one.there.get(probe, 0) for one in parts)
            lost_unknown = sum(one.there.get("", 0) for one in parts)
            if there != produced and not (there < produced <= there + lost_unknown):
                what = f"{plural(produced, 'event')} produced, {there:,} in its captures or counted lost"
                problems.append(f"{name}: {probe}: {what}")
    return problems
