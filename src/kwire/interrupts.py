"""Whether a signal asks once more for an end that was asked for, or is the same request again.

Who wraps a command tells it of a signal twice: `timeout` sends it to the process and to its group, a
terminal to all of its processes, of which one may pass it on. People who ask again do so later.
"""

import time

from kwire.hints import Final

ECHO: Final = 0.5
"""Seconds in which a signal that comes again is the one that came."""

_heard: float | None = None
"""When this process was first asked to end, by whichever handler of ours; None: it was not."""


def hear() -> None:
    """A request has come, and is served."""
    global _heard
    _heard = time.monotonic()


def forget() -> None:
    """The request will come once more, as it could not be served."""
    global _heard
    _heard = None


def heard() -> bool:
    """Whether a request has come."""
    return _heard is not None


def echo() -> bool:
    """Whether what comes now is the request that was heard."""
    return _heard is not None and time.monotonic() - _heard < ECHO


class Asked:
    """The requests to one that serves them."""

    __slots__ = ("_first",)

    def __init__(self) -> None:
        self._first: float | None = None

    def again(self) -> bool:
        """Hear a request: whether it is one more, and none heard already."""
        now = time.monotonic()
        if self._first is None:
            hear()
            self._first = now
            return False
        return now - self._first >= ECHO
