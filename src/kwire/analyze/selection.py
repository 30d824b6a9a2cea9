"""Which events are wanted: probes by glob, a range of time, a condition; and what need not be decoded.

Invariants: `Selection.mask` is the truth about an event; what `wants` and `reaches` rule out holds no wanted
event. Times are wall-clock ns, both ends included.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from kwire.errors import KwireError
from kwire.wire.frames import Frames
from kwire.wire.messages import Lost
from kwire.wire.schema import EARLIEST, LATEST, Schema

if TYPE_CHECKING:
    from kwire.view.filter import Array, Events
    from kwire.view.render import Test
    from kwire.view.where import Where


class Selection:
    """What is wanted of a capture. `first`, `last`: wall-clock ns, both included."""

    __slots__ = ("_also", "_named", "_tests", "_unknown", "_where", "first", "glob", "last")

    def __init__(
        self, glob: str | None = None, where: "Where | None" = None, first: int = EARLIEST, last: int = LATEST
    ) -> None:
        self.glob = glob
        self._where = where
        self.first, self.last = first, last
        self._named: set[str] | None = None
        self._unknown = False
        self._also: Callable[[Schema], bool] | None = None
        self._tests: dict[int, tuple[Schema, Callable[[Events], Array]]] = {}
        if where is not None:
            from kwire.view.filter import probes_named, time_range

            low, high = time_range(where)
            self.first = max(first, first if low is None else low)
            self.last = min(last, last if high is None else high)
            self._named = probes_named(where)

    @property
    def everything(self) -> bool:
        """Whether nothing is left out."""
        return self.glob is None and self._where is None and self._also is None and not self.bounded

    @property
    def bounded(self) -> bool:
        """Whether there is a range of time."""
        return self.first != EARLIEST or self.last != LATEST

    @property
    def named(self) -> bool:
        """Whether only some probes are wanted."""
        return not (self.glob is None and self._named is None and self._also is None)

    @property
    def test(self) -> "Callable[[Schema], Test] | None":
        """What makes the test of each event of a schema by its condition; None where there is none."""
        return self._where.test if self._where is not None else None

    @property
    def conditional(self) -> bool:
        """Whether events are looked into: records that are not as described are then not wanted."""
        return self._where is not None

    @property
    def wants_unknown(self) -> bool:
        """Whether losses of a probe that is not described are wanted."""
        return self.glob is None and self._named is None and (self._also is None or self._unknown)

    def check(self, schemas: Iterable[Schema], name: str) -> None:
        """KwireError where no probe of the capture `name` matches, or the condition cannot be evaluated."""
        schemas = list(schemas)
        chosen = [schema for schema in schemas if self.glob is None or schema.matches(self.glob)]
        if not chosen and self.glob is not None:
            known = sorted({schema.probe for schema in schemas})
            there = ", ".join(known[:5]) + (" …" if len(known) > 5 else "")
            raise KwireError("read", name, f"no probe matches {self.glob!r}", f"there are: {there or 'none'}")
        if self._where is not None:
            self._where.check(chosen)

    def wants(self, schema: Schema) -> bool:
        """Whether events of this probe can be wanted."""
        if self.glob is not None and not schema.matches(self.glob):
            return False
        if self._named is not None and schema.probe not in self._named:
            return False
        return self._also is None or self._also(schema)

    def wants_loss(self, schema: Schema, loss: Lost) -> bool:
        """Whether a loss of this probe, or of one that shares its program, is wanted."""
        return any(map(self.wants, schema.others(loss.cause)))

    @property
    def condition(self) -> str:
        """The text of the condition; empty where there is none."""
        return self._where.text if self._where is not None else ""

    def only(self, also: "Callable[[Schema], bool]", *, unknown: bool = False) -> "Selection":
        """The same, of probes for which `also` is true; `unknown`: and losses of probes not described."""
        made = Selection(self.glob, self._where, self.first, self.last)
        made._also, made._unknown = also, unknown
        return made

    def reaches(self, first: int, last: int) -> bool:
        """Whether events from `first` to `last` (wall-clock ns) can be wanted."""
        return first <= self.last and last >= self.first

    def mask(self, schema: Schema, frames: Frames, times: "Array") -> "Array | None":
        """Which of these events (all of `schema`, sound, at `times`) are wanted; None: all."""
        import numpy as np

        mask = None
        if self.bounded and len(times):
            if self.first > LATEST or self.last < EARLIEST:
                return np.zeros(len(times), bool)
            first, last = max(self.first, EARLIEST), min(self.last, LATEST)
            mask = (times >= np.int64(first)) & (times <= np.int64(last))
        if self._where is None:
            return mask
        from kwire.view import filter

        known = self._tests.get(id(schema))
        if known is None:
            known = self._tests[id(schema)] = (schema, filter.mask(self._where, schema))
        if mask is None:
            return known[1](filter.Events(schema, frames, times))
        places = np.flatnonzero(mask)
        offsets = np.asarray(frames.offsets)[: len(frames)]
        inner = Frames(frames.data, offsets[places].data)
        mask[places] = known[1](filter.Events(schema, inner, times[places]))
        return mask
