"""A capture into a lake: its events as files of the partitions they belong to, once, whatever breaks in.

Invariants: files are named by the capture file that they were made of, so making them again overwrites them;
what is finished (`settled`) is made once. Files become visible when all of them are made. An account says
what the capture told, and is done when its files are all there (`accounts`).
"""

import os
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from kwire.analyze import arrow
from kwire.analyze.capture_summary import CaptureSummary
from kwire.analyze.database import hole_rows, seen_rows
from kwire.analyze.export import Export, Wide, apart
from kwire.analyze.scan import Progress, Scan
from kwire.analyze.source import Source
from kwire.analyze.tables import Table, Tables
from kwire.analyze.wide import Layout
from kwire.capture import identity
from kwire.lake import accounts
from kwire.lake.columns import Probe, name_of, probe_for
from kwire.lake.directory import Lake, LakeError, Partition
from kwire.lake.parquet_files import PartitionFiles


class Added(NamedTuple):
    """What became of a capture: its `events` and `rows` of maps; not `new`: it was in the lake already.

    `said`: what people should know.
    """

    events: int
    rows: int
    new: bool
    said: Sequence[str] = ()


def is_settled(found: CaptureSummary) -> bool:
    """Whether a capture says of itself that nothing more will come."""
    return found.ended and all(seen.produced is not None for seen in found.probes)


def added_before(lake: Lake, path: str, settled: bool) -> Added | None:
    """What became of a file that is in the lake as it is now, by its beginning alone; None where that is not
    known. LakeError, CaptureError.
    """
    which = identity.of_file(path)
    if which is None:
        return None
    known = accounts.read(lake, accounts.key_of([which]))
    if known is None or not known["done"] or known["settled"] < settled:
        return None
    return Added(known["events"], 0, False) if known["size"] == os.stat(path).st_size else None


def add(
    lake: Lake,
    source: Source,
    found: CaptureSummary,
    *,
    settled: bool | None = None,
    progress: Progress | None = None,
) -> Added:
    """Put the events of a capture, of which `found` was counted, into a lake.

    `settled`: whether its file is finished; None: as it says itself. LakeError where its events, or some of
    them, are there already in another form; CaptureError where it cannot be read.
    """
    settled = is_settled(found) if settled is None else settled
    if found.repeated:
        raise LakeError("add", source.name, found.repeated, "give captures that hold each event once")
    if not found.held:
        if found.events or found.losses.total:
            raise LakeError(
                "add", source.name, "nothing in it says which capture it is", "kwire merge it first"
            )
        return Added(0, 0, False, [f"{source.name}: nothing is in it"])
    key, size = accounts.key_of(found.held), source.size
    if _is_there(lake, key, size, settled):
        return Added(found.events, 0, False)
    tables = Tables(seen.schema for seen in found.probes)
    with lake.change():
        _refuse_repeated(lake, key, source, found)
        probes, said = _probes(lake, tables)
    with lake.making() as folder:
        parts = PartitionFiles(folder, key)
        with source.open() as capture:
            scan = Scan(capture, progress=progress)
            for table, export in apart(scan, found, tables):
                _write(parts, probes[id(table)], table, export)
        parts.close()
        account = _account(key, source, found, tables, probes)
        account |= {"size": size, "settled": settled, "events": scan.events, "rows": scan.rows}
        with lake.change():
            if _is_there(lake, key, size, settled):
                return Added(scan.events, scan.rows, False)
            _refuse_repeated(lake, key, source, found)
            _publish(lake, account, parts.made)
    return Added(scan.events, scan.rows, True, said)


def _is_there(lake: Lake, key: str, size: int, settled: bool) -> bool:
    """Whether all of a capture is in the lake, and is known to be finished if it is. LakeError where it was
    finished when it was added, and has changed since.
    """
    known = accounts.read(lake, key)
    if known is None or not known["done"]:
        return False
    if known["size"] != size and known["settled"]:
        cause = f"it was finished when it was added, with {known['size']:,} bytes, and has {size:,} now"
        raise LakeError("add", str(known["source"]), cause, "cut what is new from it: kwire cut --from")
    return bool(known["size"] == size and known["settled"] >= settled)


def _refuse_repeated(lake: Lake, key: str, source: Source, found: CaptureSummary) -> None:
    other = accounts.repeated(lake, key, found.held)
    if other:
        cause = f"the lake has events of it already, added as {os.path.basename(other)}"
        raise LakeError("add", source.name, cause, "a lake takes each event once")


def _probes(lake: Lake, tables: Tables) -> tuple[dict[int, Probe], list[str]]:
    """The probes of the lake for each table, and what is said of them."""
    probes, said = {}, []
    for table in tables:
        probes[id(table)], beside = probe_for(lake, table)
        if beside:
            where = probes[id(table)].directory
            said.append(f"{table.probe}: its fields are not of one kind with those before; {where} is begun")
    return probes, said


def _write(parts: PartitionFiles, probe: Probe, table: Table, export: Export) -> None:
    """Make the files of a table."""
    [only] = export.tables
    shown = {column.name: name for name, column in Layout(export.tables).of(only)}
    hosts = list(dict.fromkeys(schema.host for schema in table.schemas))
    wide = Wide(export)
    for batch in wide.batches(export.blocks):
        of = batch.column("host").indices.to_numpy()
        parts.add(probe.directory, probe.schema, _on_disk(batch, probe, shown), of, hosts)


def _on_disk(batch: Any, probe: Probe, shown: dict[str, str]) -> Any:
    """The rows as the lake has them."""
    pa = arrow.load()
    times = batch.column("time_ns")
    made = []
    for field in probe.schema:
        name = name_of(field)
        if name == "time_ns":
            made.append(times)
        elif name == "time":
            made.append(pa.array(times.to_numpy() // 1000).view(field.type))
        elif name in shown:
            made.append(batch.column(shown[name]).cast(field.type))
        else:
            made.append(pa.nulls(batch.num_rows, field.type))
    return pa.record_batch(made, schema=probe.schema)


def _account(
    key: str, source: Source, found: CaptureSummary, tables: Tables, probes: dict[int, Probe]
) -> dict[str, Any]:
    """What the capture told."""
    where = {table.name: probes[id(table)].directory for table in tables}

    def placed(rows: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
        return [row | {"table": where.get(row["table"])} for row in rows]

    return {
        "key": key,
        "source": source.name,
        "added": time.time(),
        "held": [one.comment() for one in found.held],
        "begins": found.begins if found.events else None,
        "ends": found.ends if found.events else None,
        "lost": found.losses.total,
        "proven": all(map(found.proves, found.probes)),
        "probes": placed(seen_rows(found, tables)),
        "holes": placed(hole_rows(found, tables)),
    }


def _publish(lake: Lake, account: dict[str, Any], made: dict[Partition, dict[str, str]]) -> None:
    """Show the files, in the place of those that were made of the same capture before. In `Lake.change`."""
    known = accounts.read(lake, account["key"])
    before: dict[str, set[str]] = {}
    for path in known["files"] if known else ():
        before.setdefault(os.path.dirname(path), set()).add(os.path.basename(path))
    now = {partition.path: files for partition, files in made.items()}
    files = [os.path.join(where, name) for where, names in now.items() for name in names]
    there = [os.path.join(where, name) for where, names in before.items() for name in names]
    accounts.write(lake, account | {"done": False, "files": sorted({*files, *there})})
    for where in sorted({*before, *now}):
        gone = {name for name in before.get(where, ()) if lake.has(where, name)}
        if gone:
            lake.exchange(where, gone, now.get(where, {}))
        elif where in now:
            lake.put(where, now[where])
    accounts.write(lake, account | {"done": True, "files": files})
