"""The lineage of a source's session: which HELLOs came before, so that a second copy of the source is seen.

Invariants: each HELLO on a new transport has a new nonce, and says `after` which ones it may come: every
HELLO that the sink may have taken last. A sink remembers the last one that it took, and gives the session to
no HELLO that does not come after that: it is one of a copy (a machine cloned or rolled back, a spool copied),
and two copies never go on with one session. What a lineage is, is saved before the HELLO is sent.
"""

from collections.abc import Callable, Sequence
from typing import Final

MOST: Final = 48
"""Nonces that a HELLO may name."""

PAST: Final = 8
"""Nonces that are kept in any case: a sink that was killed remembers the one with which it stored last."""


def follows(last: int | None, nonce: int, after: Sequence[int] | None) -> bool:
    """Whether a HELLO is of the copy that had the session `last`, as far as it tells."""
    return last is None or after is None or last == nonce or last in after


class Lineage:
    """The nonces of one session's HELLOs, the oldest first. `save` is given them whenever they change."""

    __slots__ = ("_save", "nonces")

    def __init__(
        self, nonces: Sequence[int] = (), save: Callable[[Sequence[int]], None] = lambda nonces: None
    ) -> None:
        self.nonces = tuple(nonces)
        self._save = save

    def draw(self, random: Callable[[int], bytes]) -> tuple[int, tuple[int, ...]]:
        """The nonce of the next HELLO, and those that it may come after.

        Where too many had no effect, the oldest of these are forgotten: a sink that took just that one, and
        nothing since, takes us for a copy. Then what waits is counted lost, but nothing comes twice.
        """
        before, nonce = self.nonces, int.from_bytes(random(4), "big")
        if len(before) == MOST:
            before = before[:PAST] + before[PAST + 1 :]
        self._set((*before, nonce))
        return nonce, before

    def settled(self) -> None:
        """The sink stored something after the last HELLO, and remembers that one."""
        self._set(self.nonces[-PAST:])

    def _set(self, nonces: tuple[int, ...]) -> None:
        if nonces != self.nonces:
            self.nonces = nonces
            self._save(nonces)
