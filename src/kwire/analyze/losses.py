"""What LOST frames count, kept in bounded memory.

Invariants: the sum of the counts is never changed, by probe and cause; holes are joined only where they
follow closely (`wire.messages.merge`), or where there are more than LIMIT of them.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from kwire.wire.messages import CPU_UNKNOWN, Lost, merge
from kwire.wire.schema import Clock, Schema

LIMIT: Final = 10_000  # holes told apart


class Missing(NamedTuple):
    """One hole: its probe's schema (None: not described), what its LOST frames say, wall-clock ns or None."""

    schema: Schema | None
    loss: Lost
    first: int | None
    last: int | None

    @property
    def probes(self) -> tuple[str, ...]:
        """The specs of the probes that it may concern; none where nothing is known."""
        return self.schema.concerned(self.loss.cause) if self.schema else ()

    @property
    def cpu(self) -> int | None:
        """The CPU, None where it is not known."""
        return None if self.loss.cpu == CPU_UNKNOWN else self.loss.cpu


class Losses:
    """Holes of a capture's probes, by the schema object (None: a probe that is not described)."""

    __slots__ = ("_by", "_clocks", "_held", "_limit", "_schemas", "total")

    def __init__(self) -> None:
        self._by: dict[object, list[Lost]] = {}
        self._schemas: dict[object, Schema | None] = {}
        self._clocks: dict[object, Clock | None] = {}
        self._held, self._limit = 0, LIMIT
        self.total = 0

    def add(self, schema: Schema | None, loss: Lost, clock: Clock | None = None) -> None:
        """Add what one LOST frame says; `clock`: of its section, for a probe that is not described."""
        key: object = clock if schema is None else id(schema)
        self._schemas[key] = schema
        self._clocks[key] = clock if schema is None else schema.clock
        self._by.setdefault(key, []).append(loss)
        self.total += loss.count
        self._held += 1
        if self._held > self._limit:
            self._shrink()

    def __iter__(self) -> Iterator[tuple[Schema | None, Lost]]:
        """Each hole with its probe's schema, each probe's in order of time."""
        for key, losses in self._by.items():
            for loss in merge(losses):
                yield self._schemas[key], loss

    def holes(self) -> Iterator[Missing]:
        """The same with what people want to know of each."""
        for key, losses in self._by.items():
            schema, clock = self._schemas[key], self._clocks[key]
            for loss in merge(losses):
                known = bool(loss.last) and (clock is not None or schema is not None)
                first, last = loss.first, loss.last
                if clock is not None:
                    first, last = clock.at(first), clock.at(last)
                yield Missing(schema, loss, first if known else None, last if known else None)

    def _shrink(self) -> None:
        """Join what lies close; where that is not enough, all of a probe and cause."""
        for key, losses in self._by.items():
            self._by[key] = merge(losses)
        if sum(map(len, self._by.values())) > LIMIT // 2:
            for key, losses in self._by.items():
                unknown = {} if self._schemas[key] else {"probe": 0}
                self._by[key] = merge([loss._replace(cpu=CPU_UNKNOWN, **unknown) for loss in losses], 1 << 64)
        self._held = sum(map(len, self._by.values()))
        self._limit = max(LIMIT, 2 * self._held)
