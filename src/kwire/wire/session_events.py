"""What a session tells its owner: values, taken in the order in which they happened."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

from kwire.wire.frame import Header, Problem
from kwire.wire.transitions import State


class Delivered(NamedTuple):
    """A DATA payload, in order, once. A memoryview is valid until the next `receive`."""

    sequence: int
    payload: memoryview | bytes


class Requested(NamedTuple):
    """The peer asks; answer with `reply(number, …)`. A repeated REQUEST is told once."""

    number: int
    body: dict[Any, Any]


class Replied(NamedTuple):
    """The answer to our request `number`."""

    number: int
    body: dict[Any, Any]


class Changed(NamedTuple):
    """The state changed."""

    old: State
    new: State
    why: str


class Complained(NamedTuple):
    """Something is wrong: `of` is "peer" where the peer said so in an ERROR, "frame" where its frame was,
    "here" where this side is not as it was.
    """

    problem: Problem
    of: str

    @property
    def sentence(self) -> str:
        """What is wrong, for people; the peer is who is meant."""
        if self.of == "peer":
            return f"says: {self.problem.found or 'nothing'} ({self.problem.code.name})"
        if self.of == "here":
            return f"goes on with {self.problem.found}: {self.problem.expected}"
        return f"broke the protocol: {self.problem}"


class Abandoned(NamedTuple):
    """DATA that was not acknowledged when the session ended: to be counted LOST, or sent in a new session.

    The payloads stay in the send queue. The sink may have stored some of them without our hearing of it.
    """

    sequences: list[int]


class Watched(NamedTuple):
    """One frame, in or out, with its effect, for people who watch."""

    direction: str  # "in", "out"
    header: Header
    problems: list[Problem]
    effect: str
    before: State
    after: State


SessionEvent: TypeAlias = Delivered | Requested | Replied | Changed | Complained | Abandoned
