"""How far an agent's clock is from ours: asked over the session, as NTP does (RFC 5905, section 8).

Invariants: four stamps of monotonic clocks make a sample, so steps of wall clocks do not matter; of the last
samples the one with the smallest possible error counts, which is half its round trip and what two clocks may
have drifted apart since. The offset is added to the agent's monotonic time to give ours.

    REQUEST  {"op": "clock"}
    REPLY    {"ok": true, "received": ns, "sent": ns, "wall": ns}    its CLOCK_MONOTONIC twice, CLOCK_REALTIME
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

OP: Final = "clock"

BURST: Final = 8
"""Samples taken one after the other at the beginning."""

INTERVAL: Final = 16.0
"""Seconds between two samples after that."""

KEPT: Final = 16
"""Samples among which the best is sought."""

DRIFT: Final = 15e-6
"""How much two clocks may differ in speed (RFC 5905: PHI)."""


def answer(received: int | None = None) -> dict[str, Any]:
    """The REPLY to a REQUEST of ours that came at `received`, ns of CLOCK_MONOTONIC (None: now)."""
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    wall = time.time_ns()
    received = now if received is None else received
    return {
        "ok": True,
        "received": received,
        "sent": time.clock_gettime_ns(time.CLOCK_MONOTONIC),
        "wall": wall,
    }


class Offset(NamedTuple):
    """Our monotonic clock less the agent's, ns, and how wrong that may be; the same of the wall clocks."""

    monotonic: int
    error: int
    wall: int


class _Sample(NamedTuple):
    offset: int
    delay: int
    wall: int
    taken: int


class Estimator:
    """The offset of one agent. `ask()` when a REQUEST goes out, `told()` with the REPLY's body."""

    __slots__ = ("_asked", "_now", "_samples", "refused", "taken")

    def __init__(self, now: Callable[[], int] = time.monotonic_ns) -> None:
        self._now = now
        self._asked = 0
        self._samples: deque[_Sample] = deque(maxlen=KEPT)
        self.taken = 0
        """Samples so far."""
        self.refused = False
        """The agent does not tell its clock."""

    def ask(self) -> dict[str, Any]:
        """The body of the REQUEST that is sent now."""
        self._asked = self._now()
        return {"op": OP}

    def told(self, body: Mapping[Any, Any], wall: int | None = None) -> bool:
        """Take the REPLY that came now; False where it tells nothing. `wall`: our wall clock, ns."""
        came, asked = self._now(), self._asked
        received, sent, theirs = (body.get(name) for name in ("received", "sent", "wall"))
        if type(received) is not int or type(sent) is not int or type(theirs) is not int:
            self.refused = True
            return False
        delay = came - asked - (sent - received)
        if delay < 0 or sent < received:  # no clock does that
            return True
        offset = (asked + came - received - sent) // 2
        ours = time.time_ns() if wall is None else wall
        self._samples.append(_Sample(offset, delay, ours - (came - asked) // 2 - theirs, came))
        self.taken += 1
        return True

    @property
    def offset(self) -> Offset | None:
        """The best there is now; None before the first sample."""
        now = self._now()

        def error(sample: _Sample) -> int:
            return sample.delay // 2 + int((now - sample.taken) * DRIFT)

        if not self._samples:
            return None
        best = min(self._samples, key=error)
        return Offset(best.offset, error(best), best.wall)
