"""The loop that everything in this room runs in: descriptors, timers, signals.

Invariants: one thread; nothing blocks but the wait in epoll(7); readiness is level-triggered and a callback
does bounded work each time, so ready descriptors take turns; callbacks may add and remove descriptors and
timers, their own too; a callback that was removed is not called any more, even if its readiness was known.

Failures are contained where `report` is set, as in every process that has something to go on with: an
exception ends what it concerns (`contained`: a session, a connection that nobody knows yet, an attempt to
connect), is told in a line and counted in `failures`, and the loop goes on. A callback that nothing more is
known of rests for a moment. Without `report` an exception ends `run` and comes out of it, as a library's
caller expects; so does one of what all the rest is for (`vital`: a recording), with `report` too.
"""

from __future__ import annotations

import functools
import heapq
import os
import select
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from kwire.errors import KwireError
from kwire.interrupts import Asked
from kwire.transport.log_events import Log

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
GONE = select.EPOLLHUP | select.EPOLLERR
"""Reported whether asked for or not."""

BUFFER_SIZE = 1 << 18
"""Bytes that are received at a time. One buffer serves all peers of a loop, so idle peers have none."""

_AT_ONCE = 512
"""Descriptors looked at before timers are looked at again."""

REST = 0.5
"""Seconds that a descriptor whose callback failed is not looked at."""


class Containing(Protocol):
    """An object whose failures end itself alone: a session, a connection, an attempt to connect."""

    loop: Loop
    inside: bool  # one of its contained methods is running

    @property
    def who(self) -> str:
        """Whom a failure concerns, for people."""

    def failed(self, error: Exception) -> None:
        """End it; called once the exception has left its methods."""


_P = ParamSpec("_P")
_Self = TypeVar("_Self", bound=Containing)


def contained(method: Callable[Concatenate[_Self, _P], None]) -> Callable[Concatenate[_Self, _P], None]:
    """A method that is called from outside: what it raises ends its object, and goes no further.

    Within another contained method of the same object the outermost one is it.
    """

    def call(self: _Self, /, *args: _P.args, **keywords: _P.kwargs) -> None:
        if self.inside:
            method(self, *args, **keywords)
            return
        self.inside = True
        try:
            method(self, *args, **keywords)
        except Exception as error:
            self.inside = False
            self.loop.contain(error, self.who)
            self.failed(error)
        finally:
            self.inside = False

    functools.update_wrapper(call, method)
    return call


class Vital(Protocol):
    """An object whose failures end the loop: a recording."""

    loop: Loop


_Needed = TypeVar("_Needed", bound=Vital)


def vital(method: Callable[Concatenate[_Needed, _P], None]) -> Callable[Concatenate[_Needed, _P], None]:
    """A method that is called by the loop: what it raises ends `Loop.run`, and comes out of it."""

    def call(self: _Needed, /, *args: _P.args, **keywords: _P.kwargs) -> None:
        try:
            method(self, *args, **keywords)
        except Exception as error:
            self.loop.abort(error)

    functools.update_wrapper(call, method)
    return call


def described(error: Exception) -> str:
    """An exception in one line: what a KwireError says; of a bug its kind, its text and its place."""
    if isinstance(error, KwireError):
        return str(error)
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = ""
    if trace is not None:
        code = trace.tb_frame.f_code
        where = f" ({os.path.basename(code.co_filename)}:{trace.tb_lineno})"
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}{where}" if text else f"{type(error).__name__}{where}"


class Timer:
    """A callback that waits for its time; `Loop.cancel` takes it back."""

    __slots__ = ("_order", "callback", "when")

    def __init__(self, when: float, order: int, callback: Callable[[], None]) -> None:
        self.when = when
        self._order = order
        self.callback: Callable[[], None] | None = callback

    def __lt__(self, other: Timer) -> bool:
        return (self.when, self._order) < (other.when, other._order)


class Loop:
    """Calls back when descriptors are ready, when times have come and when signals arrive."""

    __slots__ = (
        "_asked",
        "_cancelled",
        "_epoll",
        "_fatal",
        "_handlers",
        "_order",
        "_running",
        "_signalled",
        "_signals",
        "_soon",
        "_timers",
        "_wake",
        "buffer",
        "counted",
        "failures",
        "lingering",
        "report",
    )

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._timers: list[Timer] = []
        self._cancelled = 0
        self._soon: list[Callable[[], None]] = []
        self._order = 0
        self._running = False
        self._fatal: Exception | None = None  # what ends `run`
        self._wake = -1  # an eventfd that a signal makes readable
        self._signals: dict[int, tuple[Any, Callable[[int], None]]] = {}  # → disposition before, callback
        self._signalled: list[int] = []
        self._asked: dict[int, Asked] = {}
        self.buffer = memoryview(bytearray(BUFFER_SIZE))
        """What is received lies here until the callback that received it returns."""
        self.lingering: dict[int, Callable[[], None]] = {}
        """Sockets that are only waiting to be closed in order: descriptor → what closes one."""
        self.report: Log | None = None
        """Who is told, in a line, of a failure that was contained; None: nothing is contained."""
        self.failures = 0
        """Failures that were contained."""
        self.counted: dict[tuple[str, str], int] = {}
        """What did not come about in this loop, by what it was and why: see `count`."""

    def now(self) -> float:
        """Seconds of CLOCK_MONOTONIC."""
        return time.monotonic()

    def count(self, what: str, why: str) -> None:
        """One more "handshake", "connect" or "session" that did not come about: `why` is of few values."""
        self.counted[what, why] = self.counted.get((what, why), 0) + 1

    def contain(self, error: Exception, who: str = "") -> None:
        """Count a failure and tell of it; raise it where nobody is told. A KwireError was expected."""
        if self.report is None:
            raise error
        known = isinstance(error, KwireError)
        self.failures += not known
        what = described(error) if known else f"failed: {described(error)}; the others go on"
        self.report(f"{who}: {what}" if who else what, "peer" if known else "failure")

    def abort(self, error: Exception) -> None:
        """End `run` with this exception, when the present round is done; outside of it raise it at once."""
        if not self._running:
            raise error
        self._fatal = self._fatal or error
        self._running = False

    # ------------------------------------------------------------------ descriptors

    def add(self, fd: int, mask: int, callback: Callable[[int], None]) -> None:
        """Call `callback(ready mask)` when any of `mask` (READ, WRITE) or GONE holds for `fd`."""
        self._epoll.register(fd, mask)
        self._handlers[fd] = callback

    def modify(self, fd: int, mask: int) -> None:
        """Change what is waited for on `fd`."""
        self._epoll.modify(fd, mask)

    def remove(self, fd: int) -> None:
        """Forget `fd`; to be called before it is closed. Unknown ones are ignored."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    # ------------------------------------------------------------------ times

    def at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call back once at time `when` (of `now()`), or soon after."""
        self._order += 1
        timer = Timer(when, self._order, callback)
        heapq.heappush(self._timers, timer)
        return timer

    def cancel(self, timer: Timer | None) -> None:
        """Take a timer back; one that has gone off, or none, is ignored."""
        if timer is None or timer.callback is None:
            return
        timer.callback = None
        self._cancelled += 1
        if self._cancelled > 64 and self._cancelled * 2 > len(self._timers):
            self._timers = [timer for timer in self._timers if timer.callback is not None]
            heapq.heapify(self._timers)
            self._cancelled = 0

    def soon(self, callback: Callable[[], None]) -> None:
        """Call back once, in the next round, after whatever else is ready has had its turn."""
        self._soon.append(callback)

    # ------------------------------------------------------------------ signals

    def signals(self, numbers: tuple[int, ...], callback: Callable[[int], None]) -> None:
        """Call `callback(number)` in the loop when one of these signals comes; `close` restores them.

        A second request by the same number has its old effect again: it interrupts a stop that hangs; but not
        SIGHUP, which comes twice where a terminal closes. Signals that come before `run` are told when it
        begins.
        """
        if self._wake < 0:
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self.add(self._wake, READ, self._tell)
        for number in numbers:
            before = self._signals[number][0] if number in self._signals else signal.getsignal(number)
            self._signals[number] = before, callback
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._asked.setdefault(number, Asked()).again() and number != signal.SIGHUP:
            signal.signal(number, self._signals[number][0])
            os.kill(os.getpid(), number)
            return
        self._signalled.append(number)
        os.eventfd_write(self._wake, 1)

    def _tell(self, mask: int) -> None:
        os.eventfd_read(self._wake)
        taken, self._signalled = self._signalled, []
        for number in taken:
            self._signals[number][1](number)

    # ------------------------------------------------------------------ running

    def run(self) -> None:
        """Serve until `stop` is called."""
        self._running = True
        while self._running:
            self.turn()
        if self._fatal is not None:
            fatal, self._fatal = self._fatal, None
            raise fatal

    def stop(self) -> None:
        """Make `run` return when the present round is done."""
        self._running = False

    def turn(self, longest: float | None = None) -> None:
        """One round: wait for work, at most `longest` seconds (None: as long as it takes), and do it."""
        for descriptor, mask in self._epoll.poll(self.patience(longest), _AT_ONCE):
            handler = self._handlers.get(descriptor)
            if handler is not None:
                try:
                    handler(mask)
                except Exception as error:
                    self.contain(error)
                    self._rest(descriptor, handler)
        self._go_off()
        if self._soon:
            soon, self._soon = self._soon, []
            for callback in soon:
                self._call(callback)

    def linger(self) -> None:
        """Turn until the streams that were ended are closed by the other side too, or waited long enough.

        What was said last may be lost with a socket that is closed while there is something to read in it.
        """
        while self.lingering:
            self.turn(0.1)

    def close(self) -> None:
        """Give back the signals and the loop's own descriptors; those that were added stay open.

        What lingers is closed.
        """
        for close in list(self.lingering.values()):
            close()
        for number, (before, _) in self._signals.items():
            signal.signal(number, before)
        self._signals = {}
        if self._wake >= 0:
            self.remove(self._wake)
            os.close(self._wake)
            self._wake = -1
        self._epoll.close()

    @property
    def fd(self) -> int:
        """A descriptor that is readable when `turn` has something to do, but for timers."""
        return self._epoll.fileno()

    def patience(self, longest: float | None) -> float | None:
        """Seconds until the next timer, at most `longest`."""
        if self._soon:
            return 0.0
        while self._timers and self._timers[0].callback is None:
            heapq.heappop(self._timers)
            self._cancelled -= 1
        if not self._timers:
            return longest
        wait = max(0.0, self._timers[0].when - self.now())
        return wait if longest is None else min(wait, longest)

    def _go_off(self) -> None:
        """Call the timers whose time has come; those that they add wait for the next round."""
        if not self._timers:
            return
        now = self.now()
        due = []
        while self._timers and self._timers[0].when <= now:
            due.append(heapq.heappop(self._timers))
        for timer in due:
            callback, timer.callback = timer.callback, None
            if callback is None:
                self._cancelled -= 1
            else:
                self._call(callback)

    def _call(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception as error:
            self.contain(error)

    def _rest(self, descriptor: int, handler: Callable[[int], None]) -> None:
        """Look at this descriptor later: it would be ready, and its callback would fail, for ever."""
        if self._handlers.get(descriptor) is not handler:
            return  # it was removed
        self._epoll.modify(descriptor, 0)

        def again() -> None:
            if self._handlers.get(descriptor) is handler:
                self._epoll.modify(descriptor, READ)

        self.at(self.now() + REST, again)
