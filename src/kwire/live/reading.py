"""What every trace in a Python program offers, wherever it runs: the `with`, events, columns, what is lost.

Invariants: a trace runs once; iterating one that has not begun begins it, and ends it with the iteration;
what was produced before the `with` ended can be read after it; a trace that cannot be used says why.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from types import TracebackType

from kwire.errors import KwireError
from kwire.hints import Any, Self
from kwire.live.events import Batch, Choice, Event
from kwire.wire.messages import Lost
from kwire.wire.schema import EARLIEST, LATEST, Schema


class Reading(ABC):
    """A trace. Iterate inside its `with` for events, or take `columns`."""

    __slots__ = ("_batch", "_state")

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._state = "not begun"

    @property
    @abstractmethod
    def schemas(self) -> tuple[Schema, ...]:
        """What the events of each probe hold."""

    @property
    @abstractmethod
    def lost(self) -> int:
        """How many events are missing so far."""

    @property
    def losses(self) -> list[Lost]:
        """Each hole so far: probe, CPU, first and last moment, count and cause."""
        return list(self._batch.losses)

    def events(
        self, probe: str | None = None, where: str | None = None, first: int = EARLIEST, last: int = LATEST
    ) -> Iterator[Event]:
        """Give events in the order of their time until a limit, or the end of the command; else for ever.

        `probe`: a glob over probe specs (`tracepoint:sched:*`); `where`: a condition, as
        `kwire show --where`; `first`, `last`: wall-clock ns, both included. Events that are not chosen are
        dropped.
        """
        choice = Choice(probe, where, first, last)
        if self._state == "not begun":
            with self:
                yield from self._events(choice)
        else:
            yield from self._events(choice)

    def __iter__(self) -> Iterator[Event]:
        return self.events()

    async def __aiter__(self) -> AsyncIterator[Event]:
        """The same in a coroutine of asyncio, which others run beside while no events come."""
        if self._state == "not begun":
            with self:
                async for event in self:
                    yield event
            return
        from kwire.live.waiting import ready

        while True:
            running = self._state == "running"
            over = not running or self._turn()
            for event in self._batch.take():
                yield event
            if over:
                return
            await ready(*self._waits_for())

    def _events(self, choice: Choice) -> Iterator[Event]:
        choice.check(self.schemas, self._subject())
        while True:
            over = self._state != "running" or self._round()
            yield from self._batch.take(choice)
            if over:
                return

    def columns(
        self, probe: str | None = None, where: str | None = None, first: int = EARLIEST, last: int = LATEST
    ) -> dict[str, Any]:
        """One numpy array a field, of one probe: the events not yet iterated over, chosen as in `events`.

        With a command, `seconds` or `count` it first waits for the end; else it gives what is
        there now. The events of other probes are dropped. `time` is the events' own clock, `time_ns` the wall
        clock.
        """
        choice = Choice(probe, where, first, last)
        if self._state == "not begun":
            if not self._limited():
                cure = "give command, seconds or count, or use the trace in a with"
                raise KwireError("make columns", self._subject(), "nothing says when the trace ends", cure)
            with self:
                return self._columns(choice)
        return self._columns(choice)

    def pandas(
        self, probe: str | None = None, where: str | None = None, first: int = EARLIEST, last: int = LATEST
    ) -> Any:
        """The same columns as a pandas DataFrame."""
        from kwire.live.frames import data_frame

        return data_frame("pandas", self.columns(probe, where, first, last))

    def polars(
        self, probe: str | None = None, where: str | None = None, first: int = EARLIEST, last: int = LATEST
    ) -> Any:
        """The same columns as a polars DataFrame."""
        from kwire.live.frames import data_frame

        return data_frame("polars", self.columns(probe, where, first, last))

    def _columns(self, choice: Choice) -> dict[str, Any]:
        choice.check(self.schemas, self._subject())
        if self._state == "running":
            if self._limited():
                while not self._round():
                    pass
            else:
                self._look()
        return self._batch.columns(choice)

    def close(self) -> None:
        """Take the probes away; a command that still runs is ended. Twice is harmless."""
        self._state = "closed"
        self._release()

    def __enter__(self) -> Self:
        if self._state != "not begun":
            cause = (
                "it is running already" if self._state == "running" else "it has ended, and a trace runs once"
            )
            raise KwireError("begin trace of", self._subject(), cause, "make another one with trace(…)")
        try:
            self._begin()
        except BaseException:
            self.close()
            raise
        self._state = "running"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._state == "running":
                self._finish()
        finally:
            self.close()

    def __repr__(self) -> str:
        lost = f", {self.lost:,} lost" if self.lost else ""
        return f"<kwire trace of {self._subject()}: {self._state}{lost}>"

    def _repr_html_(self) -> str:
        """The trace in a notebook: what it traces, and how it is."""
        from kwire.view.html import table

        rows = [[one.probe, ", ".join(field.name for field in one.fields)] for one in self.schemas]
        lost = f", {self.lost:,} lost" if self.lost else ""
        return table(["probe", "fields"], rows, f"kwire trace: {self._state}{lost}")

    def _subject(self) -> str:
        """What is traced, for messages."""
        probes = [schema.probe for schema in self.schemas]
        return probes[0] + (f" and {len(probes) - 1} more" if len(probes) > 1 else "") if probes else "probes"

    @abstractmethod
    def _limited(self) -> bool:
        """Whether it ends by itself, and not only with processes, which may be the caller's own."""

    @abstractmethod
    def _begin(self) -> None:
        """Attach the probes."""

    @abstractmethod
    def _round(self) -> bool:
        """Move events to the batch, waiting a moment where there are none; whether the trace is over."""

    @abstractmethod
    def _turn(self) -> bool:
        """The same without waiting."""

    @abstractmethod
    def _waits_for(self) -> tuple[int, float]:
        """The descriptor that becomes readable when there is something to do for `_turn`, and after how many
        seconds `_turn` is to be called in any case.
        """

    @abstractmethod
    def _look(self) -> None:
        """Move what is there now."""

    @abstractmethod
    def _finish(self) -> None:
        """Take the probes away and move what they have produced."""

    @abstractmethod
    def _release(self) -> None:
        """Free everything."""
