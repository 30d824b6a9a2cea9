"""Parquet files of a lake while they are made: rows in order of time, in files of a sensible size.

Invariants: what was put in comes out, each row once; memory is bounded by HELD, whatever days and hosts
the rows are of; a file is closed and on the disk before anybody is told of it; each has statistics by row
group, and is compressed with zstd.
"""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from kwire.analyze import arrow
from kwire.lake.directory import DAY_NS, SUFFIX, Partition, segment, sync

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

GROUP: Final = 1 << 18  # rows of a row group at most …
GROUP_BYTES: Final = 64 << 20  # … and bytes of their columns, about
HELD: Final = 256 << 20  # bytes of rows of all files that wait
FILE: Final = 1 << 23  # rows of a file at most
OPEN: Final = 64  # files that are open at a time


class ParquetFile:
    """One Parquet file being made at `path`."""

    __slots__ = ("_held", "_rows", "_schema", "_writer", "held", "path", "rows")

    def __init__(self, path: str, schema: Any) -> None:
        from pyarrow import parquet

        self.path, self._schema = path, schema
        self._writer = parquet.ParquetWriter(
            path,
            schema,
            compression="zstd",
            version="2.6",
            sorting_columns=[parquet.SortingColumn(schema.get_field_index("time_ns"))],
        )
        self._held: list[Any] = []
        self._rows = self.held = self.rows = 0

    def add(self, batch: Any) -> None:
        """Add rows, whose columns are those of the schema."""
        self._held.append(batch)
        self._rows += batch.num_rows
        self.rows += batch.num_rows
        self.held += batch.nbytes
        if self._rows >= GROUP or self.held >= GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        """Make a row group of what waits."""
        if not self._held:
            return
        pa = arrow.load()
        table = pa.Table.from_batches(self._held, schema=self._schema).sort_by("time_ns")
        self._writer.write_table(table, row_group_size=GROUP)
        self._held, self._rows, self.held = [], 0, 0

    def close(self) -> None:
        """Finish it, and have it on the disk."""
        self.flush()
        self._writer.close()
        sync(self.path)


class PartitionFiles:
    """The files of one capture: `made` are the partitions with names and where each was made, once closed."""

    __slots__ = ("_folder", "_key", "_numbers", "_open", "made")

    def __init__(self, folder: str, key: str) -> None:
        self._folder, self._key = folder, key
        self._open: dict[Partition, ParquetFile] = {}  # the one used last stands last
        self._numbers: dict[Partition, int] = {}
        self.made: dict[Partition, dict[str, str]] = {}

    def add(self, probe: str, schema: Any, batch: Any, hosts: "Array", names: Iterable[str]) -> None:
        """Add rows of a probe (its directory): `hosts` is a number for each, its place in `names`."""
        import numpy as np

        written = [segment(name) for name in names]
        days = batch.column("time_ns").to_numpy() // DAY_NS
        if not len(days):
            return
        if days[0] == days[-1] == days.min() == days.max() and hosts.min() == hosts.max():
            self._put(Partition(probe, int(days[0]), written[int(hosts[0])]), schema, batch)
            return
        pairs, of = np.unique(np.stack([days, hosts.astype(np.int64)]), axis=1, return_inverse=True)
        pa = arrow.load()
        for place, (day, host) in enumerate(pairs.T.tolist()):
            rows = np.flatnonzero(of.ravel() == place)
            self._put(Partition(probe, day, written[host]), schema, batch.take(pa.array(rows)))

    def close(self) -> None:
        """Finish all files."""
        for partition in list(self._open):
            self._finish(partition)

    def _put(self, partition: Partition, schema: Any, batch: Any) -> None:
        part = self._open.pop(partition, None)
        if part is not None and part.rows + batch.num_rows > FILE:
            self._open[partition] = part
            self._finish(partition)
            part = None
        if part is None:
            if len(self._open) >= OPEN:
                self._finish(next(iter(self._open)))
            part = ParquetFile(self._begin(partition), schema)
        self._open[partition] = part
        part.add(batch)
        if sum(one.held for one in self._open.values()) >= HELD:
            max(self._open.values(), key=lambda one: one.held).flush()

    def _begin(self, partition: Partition) -> str:
        """Name the next file of a partition, and say where it is made."""
        number = self._numbers[partition] = self._numbers.get(partition, -1) + 1
        made = os.path.join(self._folder, str(sum(map(len, self.made.values()))))
        self.made.setdefault(partition, {})[f"{self._key}-{number:03d}{SUFFIX}"] = made
        return made

    def _finish(self, partition: Partition) -> None:
        self._open.pop(partition).close()
