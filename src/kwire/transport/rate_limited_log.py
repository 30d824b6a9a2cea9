"""What a process that serves others tells people as it happens, a line each, at a bounded rate.

Invariants: at most `BURST` lines at once and `RATE` a second in the long run; the same line, but for the port
of an address, is not said twice within `AGAIN` seconds; what was left out is counted, and said as soon as
there is room.
"""

import re
from collections.abc import Callable
from typing import Final

RATE: Final = 2.0
BURST: Final = 20
AGAIN: Final = 10.0
MOST: Final = 256  # lines remembered

_PORT = re.compile(r"(?<=[\d\]]):\d{1,5}(?=[ ,]|$)")


class RateLimitedLog:
    """`write` gets the lines. `flush` is to be called now and then."""

    __slots__ = ("_credit", "_last", "_left", "_now", "_said", "_write")

    def __init__(self, now: Callable[[], float], write: Callable[[str], None]) -> None:
        self._now = now
        self._write = write
        self._credit, self._last = float(BURST), now()
        self._said: dict[str, float] = {}  # line → when, the oldest first
        self._left = 0  # lines left out

    def say(self, text: str) -> None:
        """Say it, or count it."""
        now, key = self._now(), _PORT.sub("", text)
        self._fill(now)
        if self._credit < 1 or now - self._said.get(key, -AGAIN) < AGAIN:
            self._left += 1
            return
        self.flush()
        self._credit -= 1
        self._said.pop(key, None)
        self._said[key] = now
        if len(self._said) > MOST:
            del self._said[next(iter(self._said))]
        self._write(text)

    def flush(self) -> None:
        """Say how many lines were left out, if there is room for that."""
        self._fill(self._now())
        if self._left and self._credit >= 2:
            self._credit -= 1
            left, self._left = self._left, 0
            self._write(f"{left:,} more line{'s' if left != 1 else ''} like these")

    def _fill(self, now: float) -> None:
        self._credit = min(float(BURST), self._credit + (now - self._last) * RATE)
        self._last = now
