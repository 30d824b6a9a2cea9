"""A recording in an agent's loop, beside whatever else the loop does.

Invariants: rings are drained within a few milliseconds whatever the network does. A failure of a recording
ends the loop (`vital`): an agent that cannot record has nothing to go on for.
"""

from collections.abc import Callable, Sequence

from kwire.live.recorder import Recorder, Sink
from kwire.transport.loop import READ, Loop, Timer, vital


class Recording:
    """Takes a recorder's turns. `round` is called after each, and at the end `ended` once, with why."""

    __slots__ = ("_ended", "_round", "_timer", "loop", "recorder")

    def __init__(
        self, loop: Loop, recorder: Recorder, round: Callable[[], None], ended: Callable[[str], None]
    ) -> None:
        self.loop = loop
        self.recorder = recorder
        self._round = round
        self._ended = ended
        self._timer: Timer | None = None

    def start(self, sinks: Sequence[Sink]) -> None:
        """Let the command go, and move events to `sinks` from now on."""
        self.recorder.start(sinks)
        self.go_on()

    def go_on(self) -> None:
        """Take turns from now on; the recorder has been started."""
        self.loop.add(self.recorder.fd, READ, self._ready)
        self._timer = self.loop.at(self.recorder.due, self._turn)

    @vital
    def end(self, why: str) -> None:
        """Take the probes away and account for everything; harmless where it has ended."""
        if not self.recorder.over:
            self.recorder.end(why)
            self._after()

    def close(self) -> None:
        """Take no more turns."""
        self.loop.cancel(self._timer)
        self.loop.remove(self.recorder.fd)

    def _ready(self, mask: int) -> None:
        self._turn()

    @vital
    def _turn(self) -> None:
        self.recorder.turn()
        self._after()

    def _after(self) -> None:
        """What follows a turn."""
        self.loop.cancel(self._timer)
        if self.recorder.over:
            self.close()
            self._ended(self.recorder.why)
        else:
            self._round()
            self._timer = self.loop.at(self.recorder.due, self._turn)
