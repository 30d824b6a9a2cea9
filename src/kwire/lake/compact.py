"""Small files of a lake joined to larger ones: what many captures left in a partition becomes a few files.

Invariants: only files of captures that are finished are joined; a partition's directory is exchanged as a
whole, so no reader that lists it sees an event twice, or not at all; rows are in order of time in what is
made; memory is that of a batch for each file that is joined, and of a row group.
"""

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from kwire.analyze import arrow
from kwire.lake import accounts
from kwire.lake.columns import Probe, read
from kwire.lake.directory import SUFFIX, Lake, LakeError, Partition, reason
from kwire.lake.parquet_files import ParquetFile

TARGET: Final = 256 << 20
"""Bytes of a file that is made, about."""

JOINED: Final = "joined-"  # how the names of files begin that were made here
MOST: Final = 256  # files that are joined at a time
ROWS: Final = 1 << 14  # of a batch that is read
OLD: Final = 31 * 86400
"""Seconds after which a capture that was not finished will not go on: its collector has forgotten it."""


class Compacted(NamedTuple):
    """What was done: so many files, of so many bytes, became so many others in so many partitions."""

    partitions: int = 0
    files: int = 0
    size: int = 0
    made: int = 0
    now: int = 0

    def plus(self, files: int, size: int, made: int, now: int) -> "Compacted":
        """The same with one partition more."""
        return Compacted(
            self.partitions + 1, self.files + files, self.size + size, self.made + made, self.now + now
        )


def compact(lake: Lake, target: int = TARGET) -> Compacted:
    """Join what is small. LakeError where the file system cannot exchange directories."""
    done = Compacted()
    with lake.making() as folder:
        settled = _Settled(lake)
        for directory in lake.probes():
            for partition in lake.partitions(directory):
                try:
                    told = _compact(lake, partition, folder, target, settled)
                except arrow.load().ArrowException as error:
                    cure = "remove the file that is damaged, and its account: its capture can be added again"
                    raise LakeError("join the files of", partition.path, reason(error), cure) from None
                if told is not None:
                    done = done.plus(*told)
    return done


class _Settled:
    """Which captures are finished: of these files may be joined."""

    __slots__ = ("_known", "_lake")

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._known: dict[str, bool] = {}

    def __call__(self, name: str) -> bool:
        key = name.rpartition("-")[0]
        if name.startswith(JOINED):
            return True
        if key not in self._known:
            account = accounts.read(self._lake, key)
            self._known[key] = account is not None and account["done"] and is_settled(account)
        return self._known[key]

    def keys(self, names: Sequence[str]) -> set[str]:
        """The captures of these files."""
        return {name.rpartition("-")[0] for name in names if not name.startswith(JOINED)}


def is_settled(account: dict[str, Any]) -> bool:
    """Whether a capture is finished, or so old that it will not go on."""
    return bool(account["settled"]) or time.time() - account["added"] > OLD


def _compact(
    lake: Lake, partition: Partition, folder: str, target: int, settled: _Settled
) -> tuple[int, int, int, int] | None:
    """One partition; files before and now with their bytes, None where nothing is to be done."""
    where = os.path.join(lake.path, partition.path)
    names = [name for name in lake.files(partition) if settled(name)]
    sizes = {name: os.path.getsize(os.path.join(where, name)) for name in names}
    groups = list(_groups({name: size for name, size in sizes.items() if size < target // 2}, where, target))
    if not groups:
        return None
    probe = read(lake, partition.probe)  # now: columns are there before the files that have them
    made: dict[str, str] = {}
    for group in groups:
        told = hashlib.sha256("\n".join(sorted(group)).encode()).hexdigest()[:32]
        path = os.path.join(folder, told)
        _join(probe, [os.path.join(where, name) for name in group], path)
        made[f"{JOINED}{told}-000{SUFFIX}"] = path
    gone = [name for group in groups for name in group]
    now = sum(map(os.path.getsize, made.values()))
    with lake.change():
        if not all(lake.has(partition.path, name) for name in gone):
            return None  # somebody else was here: another time
        for key in settled.keys(gone):
            account = accounts.read(lake, key)
            assert account is not None  # it is settled
            if not account["settled"]:
                accounts.write(lake, account | {"settled": True})
        lake.exchange(partition.path, gone, made)
    for path in made.values():
        os.unlink(path)
    return len(gone), sum(sizes[name] for name in gone), len(made), now


def _groups(sizes: dict[str, int], where: str, target: int) -> Iterator[list[str]]:
    """Which files become one: those that follow each other in time."""
    from pyarrow import parquet

    begins = {}
    for name in sizes:
        metadata = parquet.read_metadata(os.path.join(where, name))
        column = metadata.schema.names.index("time_ns")
        statistics = [
            metadata.row_group(at).column(column).statistics for at in range(metadata.num_row_groups)
        ]
        begins[name] = min((one.min for one in statistics if one is not None and one.has_min_max), default=0)
    group: list[str] = []
    for name in sorted(sizes, key=lambda one: (begins[one], one)):
        if group and (sum(map(sizes.__getitem__, group)) + sizes[name] > target or len(group) >= MOST):
            if len(group) > 1:
                yield group
            group = []
        group.append(name)
    if len(group) > 1:
        yield group


def _join(probe: Probe, paths: Sequence[str], made: str) -> None:
    """Make one file of several, in order of time."""
    part = ParquetFile(made, probe.schema)
    streams = [one for one in (_Stream(path, probe.schema) for path in paths) if one.more()]
    while streams:
        # What is not later than anything that is still to come, of each.
        safe = min(one.ends for one in streams)
        part.add(_sorted([one.up_to(safe) for one in streams], probe.schema))
        streams = [one for one in streams if one.more()]
    part.close()


class _Stream:
    """The rows of a file, batch by batch. `ends`: none that is not read yet is before this time."""

    __slots__ = ("_batches", "_held", "_schema", "ends")

    def __init__(self, path: str, schema: Any) -> None:
        from pyarrow import parquet

        self._schema = schema
        file = parquet.ParquetFile(path)
        self._batches = self._rows(file)
        self._held: Any = None
        self.ends = 0
        self._read()

    def _rows(self, file: Any) -> Iterator[Any]:
        pa = arrow.load()
        with file:
            for batch in file.iter_batches(ROWS):
                made = [
                    batch.column(field.name)
                    if field.name in batch.schema.names
                    else pa.nulls(batch.num_rows, field.type)
                    for field in self._schema
                ]
                yield pa.record_batch(made, schema=self._schema)

    def _read(self) -> None:
        self._held = next(self._batches, None)
        if self._held is not None:
            self._held = _sorted([self._held], self._schema)
            self.ends = int(self._held.column("time_ns")[-1].as_py())

    def more(self) -> bool:
        """Whether there are rows."""
        if self._held is not None and not self._held.num_rows:
            self._read()
        return self._held is not None

    def up_to(self, time: int) -> Any:
        """The rows of the batch that are not later, which are in order of time: they are taken from it."""
        import numpy as np

        held = self._held
        many = int(np.searchsorted(held.column("time_ns").to_numpy(), time, side="right"))
        self._held = held.slice(many)
        return held.slice(0, many)


def _sorted(batches: Sequence[Any], schema: Any) -> Any:
    """Rows of several batches as one, by time; those of equal times in the order of the batches."""
    import numpy as np

    pa = arrow.load()
    table = pa.Table.from_batches([one for one in batches if one.num_rows], schema=schema).combine_chunks()
    times = table.column("time_ns").to_numpy()
    if not (times[1:] < times[:-1]).any():
        return table.to_batches()[0]
    order = np.argsort(times, kind="stable")
    return table.take(pa.array(order)).combine_chunks().to_batches()[0]
