"""What a process that serves others tells people as it happens, a line each, at a bounded rate.

Invariants: at most `BURST` lines at once and `RATE` a second in the long run; the same line, but for the port
of an address, is not said twice within `AGAIN` seconds, but for what answers an administrator (`ANSWERS`);
what was held back is counted, and said as soon as there is room. A trouble that comes again and again
(`Recurring`) is told when it is new, and then more and more seldom, with how often it came: never in silence,
never every time.
"""

import re
from collections.abc import Callable
from typing import Any, Final, Protocol

from kwire.transport.log_events import Log

RATE: Final = 2.0
BURST: Final = 20
AGAIN: Final = 10.0
MOST: Final = 256  # lines remembered

ANSWERS: Final = frozenset({"configuration", "trace_changed"})
"""Events that tell what became of a SIGHUP: each is waited for, and no peer can cause them."""

FIRST: Final = 60.0
LONGEST: Final = 3600.0
"""Seconds until a trouble that goes on is told again: doubled from the first to the longest."""

_PORT = re.compile(r"(?<=[\d\]]):\d{1,5}(?=[ ,]|$)")


class Clock(Protocol):
    """What is asked of a loop."""

    def now(self) -> float:
        """Seconds."""

    def at(self, when: float, callback: Callable[[], None], /) -> Any:
        """Call back at that time."""


class RateLimitedLog:
    """`write` gets the lines; `wanted` says of which events. `close` at the end."""

    __slots__ = ("_clock", "_credit", "_last", "_left", "_said", "_waiting", "_wanted", "_write")

    def __init__(self, clock: Clock, write: Log, wanted: Callable[[str], bool] = lambda event: True) -> None:
        self._clock = clock
        self._write = write
        self._wanted = wanted
        self._credit, self._last = float(BURST), clock.now()
        self._said: dict[str, float] = {}  # line → when, the oldest first
        self._left = 0  # lines held back
        self._waiting = False  # until what was held back may be said

    def say(self, text: str, event: str = "note", /) -> None:
        """Say it, or count it."""
        if not self._wanted(event):
            return
        now, key = self._clock.now(), _PORT.sub("", text)
        self._fill(now)
        repeated = now - self._said.get(key, -AGAIN) < AGAIN
        if event not in ANSWERS and (self._credit < 1 or repeated):
            self._left += 1
            self._wait()
            return
        self._tell_left()
        self._credit = max(self._credit - 1, 0.0)
        self._said.pop(key, None)
        self._said[key] = now
        if len(self._said) > MOST:
            del self._said[next(iter(self._said))]
        self._write(text, event)

    def close(self) -> None:
        """Say how many lines were held back, if any were."""
        self._credit = float(BURST)
        self._tell_left()

    def _wait(self) -> None:
        """Look later whether there is room to say how many."""
        if not self._waiting:
            self._waiting = True
            self._clock.at(self._clock.now() + AGAIN, self._look)

    def _look(self) -> None:
        self._waiting = False
        self._fill(self._clock.now())
        self._tell_left()
        if self._left:
            self._wait()

    def _tell_left(self) -> None:
        if self._left and self._credit >= 2:
            self._credit -= 1
            left, self._left = self._left, 0
            self._write(f"{left:,} more line{'s' if left != 1 else ''} like these", "held_back")

    def _fill(self, now: float) -> None:
        self._credit = min(float(BURST), self._credit + (now - self._last) * RATE)
        self._last = now


class Recurring:
    """Troubles that may go on for days. `now`: seconds; `over` when all is well again."""

    __slots__ = ("_now", "_say", "_troubles")

    def __init__(self, now: Callable[[], float], say: Log) -> None:
        self._now = now
        self._say = say
        self._troubles: dict[str, tuple[int, float, float]] = {}  # → how often, told again when, and pause

    def say(self, text: str, event: str = "note", /) -> None:
        """It came, or came again."""
        now = self._now()
        often, when, pause = self._troubles.pop(text, (0, now, FIRST / 2))
        often += 1
        if now >= when:
            pause = min(2 * pause, LONGEST)
            when = now + pause
            self._say(text if often == 1 else f"{text}; {often:,} times so far", event)
        self._troubles[text] = often, when, pause
        if len(self._troubles) > MOST:
            del self._troubles[next(iter(self._troubles))]

    def over(self) -> None:
        """What comes from now on is new."""
        self._troubles.clear()
