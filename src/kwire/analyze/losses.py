"""What LOST frames count, kept in bounded memory.

The laws: the sum of the counts is never changed, by probe and cause; holes are joined only where they follow
closely (`wire.messages.merge`), or where there are more than LIMIT of them.
"""

from collections.abc import Iterator
from typing import Final

from kwire.wire.messages import CPU_UNKNOWN, Lost, merge
from kwire.wire.schema import Schema

LIMIT: Final = 10_000  # holes told apart


class Losses:
    """Holes of a capture's probes, by the schema object (None: a probe that is not described)."""

    __slots__ = ("_by", "_held", "_limit", "_schemas", "total")

    def __init__(self) -> None:
        self._by: dict[int, list[Lost]] = {}
        self._schemas: dict[int, Schema | None] = {}
        self._held, self._limit = 0, LIMIT
        self.total = 0

    def add(self, schema: Schema | None, loss: Lost) -> None:
        """Add what one LOST frame says."""
        key = id(schema)
        self._schemas[key] = schema
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

    def count(self, schema: Schema | None) -> int:
        """Events lost of this probe."""
        return sum(loss.count for loss in self._by.get(id(schema), ()))

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
