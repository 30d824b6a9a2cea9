"""The maps of a trace as TABLE frames: printed, emptied and set to 0 while it runs, and left at its end.

Invariants: what a script asks of whole maps (`print(@x)`, `clear(@x)`, `zero(@x)`) comes as events and is
done when they leave the rings, in their order. `print(@x); clear(@x)` is one event, and what probes add
meanwhile stays in the map; where something stands between, what is added there is gone with the clear, as in
bpftrace. A table stands right behind the event that asked for it. `produced` counts the frames
made, map by map, so that they are accounted for like events.
"""

import os
import sys
import time
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from kwire.capture import walk
from kwire.compile.layout import map_schema
from kwire.compile.maps import name_of
from kwire.kernel.maps import Map as KernelMap
from kwire.lang.inferred import Inferred
from kwire.live.contents import rows_of
from kwire.live.mapview import NUMBER, raw_of, slowly, take
from kwire.live.plan import Plan, UnitMap
from kwire.live.stacks import stack_schema
from kwire.wire.frame import HEADER_SIZE
from kwire.wire.frames import Frames
from kwire.wire.printf import OF_MAPS, OfMap
from kwire.wire.schema import Schema
from kwire.wire.stacks import Stack
from kwire.wire.tables import MapTable, Row, cells, stack_rows

if TYPE_CHECKING:
    from kwire.kernel.symbols import Symbols


class MapTables:
    """The maps of a trace. `maps`: the kernel's, by their names in images."""

    __slots__ = (
        "_acts",
        "_counts",
        "_maps",
        "_numbers",
        "_plan",
        "_stacks",
        "_symbols",
        "_told",
        "_units",
        "_zeroed",
        "left",
        "produced",
        "schemas",
    )

    def __init__(self, plan: Plan, maps: Mapping[str, KernelMap]) -> None:
        self._plan, self._maps = plan, maps
        self._units = sorted(plan.maps, key=lambda one: one.map.name)
        first = len(plan.schemas) + 1
        self.schemas = tuple(self._schema(one, number) for number, one in enumerate(self._units, first))
        """Those of the maps, numbered behind those of the events."""
        self._stacks: Schema | None = None
        self._told = plan.schemas[0].clock.monotonic if plan.schemas[0].clock else 0
        if plan.stacks:
            self._stacks = self._like(stack_schema(first + len(self.schemas)))
            self.schemas += (self._stacks,)
        self._symbols = _symbols(self.schemas)
        self.produced = {schema.id: 0 for schema in self.schemas}
        """TABLE frames by map."""
        self.left: list[tuple[Schema, MapTable]] = []
        """What each map held at the end."""
        self._numbers = dict.fromkeys(self.produced, 0)
        self._zeroed: set[str] = set()  # maps without keys that a script has set to 0
        self._acts = {one.id: (one.prints, one.format) for one in plan.schemas if one.prints in OF_MAPS}
        size = max(self._acts, default=0) + 1
        self._counts = array("Q", bytes(8 * walk.COUNT_WORDS * size))

    def _schema(self, unit: UnitMap, id: int) -> Schema:
        owner = unit.owner
        kind, prints = (owner.shows, "map") if isinstance(owner, Inferred) else (unit.map.kind, "")
        return self._like(map_schema(unit.map, kind, id=id, prints=prints, machine=os.uname().machine))

    def _like(self, schema: Schema) -> Schema:
        """A schema with what those of the events say of the system, and their stacks."""
        near = self._plan.schemas[0]
        made = schema._replace(clock=near.clock, host=near.host, kernel=near.kernel)
        return made._replace(order=near.order, stacks=near.stacks)

    def rows(self, id: int) -> Iterator[Row | None]:
        """The rows of the map with this number as it is now, one at a time; None where one has gone."""
        unit = self._units[id - len(self._plan.schemas) - 1]
        for raw in slowly(unit.map, self._maps):
            yield from rows_of(unit.map, raw, zeros=True) if raw else (None,)

    def stacks(self, new: list[tuple[int, Stack]]) -> Frames:
        """The table that tells these stacks. Its time is that of the table before it: none of these stacks
        was there then, so whatever refers to one is later.
        """
        schema = self._stacks
        assert schema is not None  # programs take some
        number = self._numbers[schema.id] = self._numbers[schema.id] + 1
        made = MapTable(number, self._told, tuple(stack_rows(new))).frames(schema.id)
        self._told = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        self.produced[schema.id] += len(made)
        return Frames.walk(b"".join(made))

    def between(self, frames: Frames) -> Iterator[Frames]:
        """The same frames, and the tables that events among them ask for behind these."""
        if not self._acts:
            yield frames
            return
        counts = self._counts
        counts[:] = array("Q", bytes(8 * len(counts)))
        walk.count_by_id(frames.data, frames.offsets, frames.count, counts, False)
        if not any(counts[id * walk.COUNT_WORDS] for id in self._acts):
            yield frames
            return
        start = 0
        for index in range(frames.count):
            act = self._acts.get(frames.header(index).id)
            if act is None:
                continue
            at = frames.offsets[index] + HEADER_SIZE
            moment = int.from_bytes(frames.view[at : at + 8], sys.byteorder)
            yield frames.select(range(start, index + 1))
            start = index + 1
            made = self._act(*act, moment)
            if made is not None:
                yield made
        if start < frames.count:
            yield frames.select(range(start, frames.count))

    def end(self) -> Iterator[Frames]:
        """The tables of what is left in the maps, once no probe runs any more."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        for unit, schema in zip(self._units, self.schemas, strict=False):
            shown = "end" if self._plan.prints_maps else ""
            yield self._table(unit, schema, now, shown)

    def _act(self, what: str, format: str, moment: int) -> Frames | None:
        """Do what an event says; `format`: a map's name, and the limits of a print."""
        asked = OfMap.read(format)
        for unit, schema in zip(self._units, self.schemas, strict=False):
            if unit.map.name != asked.name:
                continue
            if what == "print":
                return self._table(unit, schema, moment, "print", asked)
            self._empty(unit, zero=what == "zero")
        return None  # nothing was ever put into it

    def _table(
        self, unit: UnitMap, schema: Schema, moment: int, shown: str, asked: OfMap | None = None
    ) -> Frames:
        top, div, emptied = asked[1:] if asked else (0, 1, 0)
        raw, lost = (take if emptied else raw_of)(unit.map, self._maps)
        rows = tuple(rows_of(unit.map, raw, zeros=unit.map.name in self._zeroed))
        if emptied:
            self._zeroed.discard(unit.map.name)
        number = self._numbers[schema.id] = self._numbers[schema.id] + 1
        table = MapTable(number, moment, rows, shown, top, div, lost, self._names(schema, rows))
        if shown != "print":
            self.left.append((schema, table))
        made = table.frames(schema.id)
        self.produced[schema.id] += len(made)
        return Frames.walk(b"".join(made))

    def _empty(self, unit: UnitMap, *, zero: bool) -> None:
        """Remove what a map holds; or `zero`: keep the keys."""
        own = self._maps[name_of(unit.map)]
        empty = bytes(own.spec.value_size)
        if not unit.map.key:
            if zero and any(rows_of(unit.map, raw_of(unit.map, self._maps)[0])):
                self._zeroed.add(unit.map.name)
            elif not zero:
                self._zeroed.discard(unit.map.name)
            if zero and unit.map.kind in ("hash", "lru"):
                before = own.lookup(NUMBER) or empty
                empty = empty[:-8] + before[-8:]
            own.update(NUMBER, empty)
            return
        for key in list(own.keys()):
            if zero:
                own.update(key, empty)
            else:
                with suppress(KeyError):
                    own.delete(key)

    def _names(self, schema: Schema, rows: tuple[Row, ...]) -> dict[int, str]:
        """Names of the kernel's addresses in the rows."""
        if self._symbols is None:
            return {}
        places = [at for at, field in enumerate(schema.fields) if field.type == "ksym"]
        flat = (cells(schema, row) for row in rows)
        found = {cell for row in flat for at in places if at < len(row) and isinstance(cell := row[at], int)}
        names = ((address, self._symbols.at(address)) for address in sorted(found))
        return {address: symbol.place for address, symbol in names if symbol}


def _symbols(schemas: Iterable[Schema]) -> "Symbols | None":
    """The kernel's symbols, where maps have addresses: read now, as who records gives up what it takes."""
    if all(field.type != "ksym" for schema in schemas for field in schema.fields):
        return None
    from kwire.kernel.symbols import kernel_symbols

    return kernel_symbols()
