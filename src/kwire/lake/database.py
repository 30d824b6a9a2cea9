"""SQL over a lake: the tables and columns of captures, over Parquet that only what a query needs is read of.

Invariants: as for a capture (`analyze.database`): SQL reaches no file, and no name from a lake stands in it.
DuckDB gets a dataset of pyarrow for each table that a query names: what it asks of `time_ns`, `host` and
other columns rules out directories, files and row groups; so do the range of time and the glob that were
chosen. What is asked twice in one query is read twice.
"""

import os
from collections.abc import Iterator
from difflib import get_close_matches
from functools import reduce
from typing import Any, Final, NamedTuple

from kwire.analyze import arrow
from kwire.analyze.database import (
    LOST_COLUMNS,
    PROBE_COLUMNS,
    QueryError,
    Questions,
    Result,
    counted,
)
from kwire.analyze.tables import CONTEXT, table_names
from kwire.analyze.zone import local_clock
from kwire.errors import KwireError
from kwire.lake import accounts
from kwire.lake.columns import Probe, name_of, read
from kwire.lake.directory import DAY_NS, NO_HOST, Lake, Partition
from kwire.wire.schema import EARLIEST, LATEST, matches

SAFE: Final = 1 << 62  # ns: times beyond are shown as they are
MISSING: Final = "Table with name "


class LakeTable(NamedTuple):
    """A table of a lake: its name, the spec of its probe, where its events are."""

    name: str
    probe: str
    of: Probe


class LakeDatabase(Questions):
    """A lake open for SQL. `glob`: which probes; `first`, `last`: which time, wall-clock ns, both included.

    `lost`: events that captures of this range counted lost. Raises KwireError where no probe matches.
    """

    __slots__ = ("_by", "_lake", "bounds", "lost", "tables", "whole")

    def __init__(
        self, lake: Lake, glob: str | None = None, first: int = EARLIEST, last: int = LATEST
    ) -> None:
        super().__init__()
        self._lake = lake
        self.bounds, self.whole = (first, last), glob is None
        probes = [read(lake, name) for name in lake.probes()]
        chosen = [one for one in probes if glob is None or matches(one.spec, target_of(one.spec), glob)]
        if glob is not None and not chosen:
            there = ", ".join(sorted({one.spec for one in probes})[:5])
            raise KwireError(
                "choose", f"--probe {glob}", f"no probe of {lake.path} matches", f"there are {there}"
            )
        names = table_names([one.spec for one in chosen], self._reserved())
        self.tables = [LakeTable(name, one.spec, one) for name, one in zip(names, chosen, strict=True)]
        self._by: dict[str | None, LakeTable] = {one.of.directory: one for one in self.tables}
        kept = list(accounts.in_range(accounts.all_of(lake), first, last))
        self.lost = sum(hole["count"] for hole in _rows(kept, "holes", self))
        self._relations = {table.name: table for table in self.tables}
        self._relations["events"] = None
        self._relations["probes"] = counted(_rows(kept, "probes", self), PROBE_COLUMNS)
        self._relations["lost"] = counted(_rows(kept, "holes", self), LOST_COLUMNS)
        self.schemas = {table.name: _schema(_columns(table.of)) for table in self.tables}
        self.schemas["events"] = _schema(self._shared())
        self.schemas |= {name: self._relations[name].schema for name in ("probes", "lost")}

    def query(self, sql: str) -> Result:
        """Run SQL; gives the rows of its last statement. QueryError."""
        try:
            return super().query(sql)
        except QueryError as error:
            if not error.cause.startswith(MISSING):
                raise
            name = error.cause[len(MISSING) :].split(" ", 1)[0]
            near = get_close_matches(name, self.schemas, n=1)
            cure = f"did you mean {near[0]!r}?" if near else "kwire query DIR lists the tables"
            raise QueryError(error.subject, f"there is no table {name}", cure, error.detail) from None

    def tell(self, directory: str | None) -> LakeTable | None:
        """The table of a probe's directory, if it was chosen."""
        return self._by.get(directory)

    def _small(self) -> bool:
        return False  # making a table known takes looking for its files

    def _make_known(self, name: str, relation: Any) -> None:
        if isinstance(relation, LakeTable):
            columns = _columns(relation.of)
            self._events_of(relation, columns, columns).create_view(name)
        elif relation is None:
            self._events().create_view(name)
        else:
            self._connection.register(name, relation)

    def _events_of(self, table: LakeTable, columns: dict[str, Any], own: dict[str, Any]) -> Any:
        """A relation of the events of a table: these columns, of which it has its `own`; null others."""
        import duckdb

        source = f"lake_{len(self._registered)}_{self.tables.index(table)}"
        dataset, found = self._dataset(table.of)
        self._connection.register(source, dataset)
        days = [partition.day for partition in found] or [0]
        on_disk = {name_of(field): field.name for field in table.of.schema}
        made = {
            "time": duckdb.SQLExpression(_time(min(days), max(days))),
            "host": duckdb.ColumnExpression("host"),  # as it is, so that what is asked of it rules out files
        }
        if any(partition.host == NO_HOST for partition in found):
            made["host"] = duckdb.SQLExpression("coalesce(host, '')")
        if columns is not own:
            made["probe"] = duckdb.ConstantExpression(table.probe)
        expressions = []
        for name, kind in columns.items():
            one = made.get(name)
            if one is None and own.get(name) == kind:
                one = duckdb.ColumnExpression(on_disk[name])
            if one is None:
                one = duckdb.ConstantExpression(None).cast("VARCHAR" if name == "comm" else "BIGINT")
            expressions.append(one.alias(name))
        return self._connection.sql(f"FROM {source}").select(*expressions)

    def _events(self) -> Any:
        """The relation `events`."""
        shared = self._shared()
        found = [self._events_of(one, shared, _columns(one.of)) for one in self.tables if not one.of.is_map]
        if not found:
            return self._connection.from_arrow(_schema(shared).empty_table())
        while len(found) > 1:  # as flat as can be
            pairs = [found[at : at + 2] for at in range(0, len(found), 2)]
            found = [reduce(lambda one, other: one.union(other), pair) for pair in pairs]
        return found[0]

    def _shared(self) -> dict[str, Any]:
        """The columns of `events`, with their types."""
        pa = arrow.load()
        shared = {
            "time": pa.timestamp("ns"),
            "time_ns": pa.int64(),
            "host": pa.string(),
            "probe": pa.string(),
        }
        shared |= {name: pa.string() if name == "comm" else pa.int64() for name in CONTEXT}
        each = [_columns(one.of) for one in self.tables if not one.of.is_map]
        for name, kind in each[0].items() if each else ():
            if name not in shared and all(one.get(name) == kind for one in each):
                shared[name] = kind
        return shared

    def _dataset(self, probe: Probe) -> tuple[Any, list[Partition]]:
        """The events of a probe as a dataset of pyarrow, and the partitions that it has."""
        pa = arrow.load()
        from pyarrow import dataset

        first, last = self.bounds
        found = self._lake.partitions(probe.directory, first // DAY_NS, last // DAY_NS)
        root = os.path.join(self._lake.path, probe.directory)
        paths = [
            os.path.join(self._lake.path, partition.path, name)
            for partition in found
            for name in self._lake.files(partition)
        ]
        in_path = [pa.field("day", pa.date32()), pa.field("host", pa.string())]
        schema = pa.schema([*probe.schema, *in_path])
        if not paths:
            return dataset.dataset(schema.empty_table()), []
        hive = dataset.partitioning(pa.schema(in_path), flavor="hive")
        made = dataset.dataset(paths, schema, format="parquet", partitioning=hive, partition_base_dir=root)
        if first > EARLIEST or last < LATEST:
            time = dataset.field("time_ns")
            made = made.filter((time >= first) & (time <= last))
        return made, found


def _columns(probe: Probe) -> dict[str, Any]:
    """The columns of a table as SQL has them, with their Arrow types."""
    pa = arrow.load()
    common = {"time": pa.timestamp("ns"), "time_ns": pa.int64(), "host": pa.string()}
    return common | {name_of(field): field.type for field in list(probe.schema)[2:]}


def _schema(columns: dict[str, Any]) -> Any:
    return arrow.load().schema(list(columns.items()))


def _time(first: int, last: int) -> str:
    """SQL for the local time of `time_ns`, from one day to another; numbers only."""
    shifts = local_clock(first * DAY_NS, (last + 1) * DAY_NS)
    cases = [f"WHEN time_ns < {until} THEN {shift}" for until, shift in shifts[:-1]]
    shift = f"CASE {' '.join(cases)} ELSE {shifts[-1][1]} END" if cases else str(shifts[-1][1])
    if shift == "0":
        return "make_timestamp_ns(time_ns)"
    inside = f"time_ns BETWEEN -{SAFE} AND {SAFE}"
    return f"make_timestamp_ns(CASE WHEN {inside} THEN time_ns + {shift} ELSE time_ns END)"


def span(lake: Lake) -> tuple[int, int]:
    """When the first and the last event of a lake were, wall-clock ns; 0 where it has none."""
    told = [(one["begins"], one["ends"]) for one in accounts.all_of(lake) if one["begins"] is not None]
    return min((one for one, _ in told), default=0), max((one for _, one in told), default=0)


def target_of(spec: str) -> str:
    """What a spec names, without its kind and its fields."""
    return spec.split("(", 1)[0].partition(":")[2]


def _rows(kept: list[dict[str, Any]], what: str, database: LakeDatabase) -> Iterator[dict[str, Any]]:
    """The rows of accounts, as tables are called here, of what was chosen."""
    first, last = database.bounds
    for account in kept:
        for row in account[what] if account["done"] else ():
            table = database.tell(row["table"])
            if row["first"] is not None and (row["first"] > last or row["last"] < first):
                continue
            if table is None and (row["table"] is not None or not database.whole):
                continue
            yield row | {"table": table.name if table is not None else None}
