"""The columns of a probe in a lake: one schema a probe, which only grows.

Invariants: a column never changes its type or its unit and never goes; what a probe has not got is null.
Types are few, so that a field may become wider without another type in a file, and so that every engine reads
them: integers of up to 32 bits and signed ones are int64, u64 is uint64 (in Spark a decimal), text, bytes,
bool, and lists of these; `time` is in microseconds, as Spark knows no shorter ones, and `time_ns` is exact.
What does not fit in that way begins a directory of its own, with a number, under the same spec. `probe`,
`day` and `host` are in the path, and no column has their names.
"""

import contextlib
import os
from itertools import count
from typing import Any, Final, NamedTuple

from kwire.analyze import arrow
from kwire.analyze.tables import COMMON, Column, Table, unique
from kwire.lake.directory import COLUMNS, Lake, LakeError, identifier, reason, sync
from kwire.wire.fields import letter

IN_PATH: Final = ("probe", "day", "host")

#: Keys of the metadata: of a schema, the probe's spec, and that it is a map; of a field, its name in tables.
PROBE: Final = b"kwire.probe"
MAP: Final = b"kwire.map"
NAME: Final = b"kwire.column"


CURE: Final = "put there the columns of a file of the newest day: pyarrow.parquet.write_metadata"


class Probe(NamedTuple):
    """A probe of a lake: its directory, its spec, its columns on disk; `is_map`: rows of a map, no events."""

    directory: str
    spec: str
    schema: Any
    is_map: bool


def common_fields() -> list[Any]:
    """The columns that every file has."""
    pa = arrow.load()
    return [pa.field("time", pa.timestamp("us", "UTC")), pa.field("time_ns", pa.int64())]


def name_of(field: Any) -> str:
    """What the column is called in tables."""
    return str((field.metadata or {}).get(NAME, field.name.encode()).decode())


def lake_type(column: Column) -> Any:
    """The Arrow type of a column in a lake."""
    pa = arrow.load()
    kinds = {"text": pa.string(), "bytes": pa.binary(), "bool": pa.bool_()}
    one = kinds.get(column.kind)
    if one is None:
        one = pa.uint64() if letter(column.field) == "Q" else pa.int64()
    return pa.list_(one) if column.field.count > 1 and not column.cut else one


def grown(known: Any, table: Table) -> Any:
    """The schema `known` with the columns of a table, too; None where they are not of one kind with it."""
    pa = arrow.load()
    by_name = {name_of(field): field for field in known}
    folded = {name.casefold() for name in by_name}
    taken = dict.fromkeys([field.name.casefold() for field in known] + [*COMMON, *IN_PATH], 1)
    fields = list(known)
    for column in table.columns:
        metadata = arrow.field_of(column).metadata or {}
        there = by_name.get(column.name)
        if there is not None:
            unit = (there.metadata or {}).get(b"unit")
            if there.type != lake_type(column) or unit != metadata.get(b"unit"):
                return None
            continue
        if column.name.casefold() in folded:
            return None  # two columns whose names differ in case only
        metadata = metadata | {NAME: column.name.encode()}
        fields.append(pa.field(unique(column.name, taken), lake_type(column), metadata=metadata))
    return pa.schema(fields, metadata=known.metadata)


def read(lake: Lake, directory: str) -> Probe:
    """A probe of the lake. FileNotFoundError where there is none; LakeError where it cannot be read."""
    pa = arrow.load()
    from pyarrow import parquet

    path = os.path.join(lake.path, directory, COLUMNS)
    try:
        schema = parquet.read_schema(path, memory_map=False)
    except FileNotFoundError as error:
        if lake.partitions(directory):
            raise LakeError("read", path, reason(error), CURE) from None
        raise
    except (OSError, pa.ArrowException) as error:
        raise LakeError("read", path, reason(error), CURE) from None
    told = schema.metadata or {}
    return Probe(directory, told.get(PROBE, b"").decode("utf-8", "replace"), schema, MAP in told)


def probe_for(lake: Lake, table: Table) -> tuple[Probe, bool]:
    """The probe of the lake that takes the events of a table, made, or made wider, where it must be; and
    whether it was begun beside one with the same spec. In `Lake.change` only.
    """  # fmt: skip
    pa = arrow.load()
    base, beside = identifier(table.probe), False
    told = {PROBE: table.probe.encode()} | ({MAP: b""} if table.schemas[0].map is not None else {})
    for number in count(1):
        directory = f"probe={base}" + (f".{number}" if number > 1 else "")
        try:
            known = read(lake, directory).schema
        except FileNotFoundError:
            schema = grown(pa.schema(common_fields(), metadata=told), table)
            _write(lake, directory, schema)
            return Probe(directory, table.probe, schema, MAP in told), beside
        if (known.metadata or {}).get(PROBE) != told[PROBE]:
            continue
        schema = grown(known, table)
        if schema is None:
            beside = True
            continue
        if not schema.equals(known):
            _write(lake, directory, schema)
        return Probe(directory, table.probe, schema, MAP in told), False
    raise AssertionError("numbers do not end")


def _write(lake: Lake, directory: str, schema: Any) -> None:
    """Write down the columns of a probe, in one step."""
    from pyarrow import parquet

    folder = os.path.join(lake.path, directory)
    os.makedirs(folder, exist_ok=True)
    new = os.path.join(folder, f".{COLUMNS}.new")
    try:
        parquet.write_metadata(schema, new)
        sync(new)
        os.rename(new, os.path.join(folder, COLUMNS))
        sync(folder, lake.path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise
