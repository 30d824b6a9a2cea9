"""Captures in other people's formats: Parquet, Arrow, CSV, NDJSON, Chrome and Perfetto traces.

Invariants: memory is bounded, events stream through; rows are in order of time as far as order.WINDOW events
reach; values are those of `kwire show --json`, times those of `kwire query`; what was lost is told in the
file where its format has a place for it. An export of several probes has a column for every field of any of
them, null where a probe has it not; fields of one name and different types get columns of their own.
"""

import base64
import json
import os
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import Any, Final, NamedTuple

from kwire.analyze import arrow
from kwire.analyze.capture_summary import CaptureSummary
from kwire.analyze.gathering import Gathering, Pending, Shapes
from kwire.analyze.losses import Missing
from kwire.analyze.order import Run, runs
from kwire.analyze.scan import Block, Scan
from kwire.analyze.source import UnforeseenError
from kwire.analyze.tables import COMMON, Table, Tables
from kwire.analyze.wide import Layout
from kwire.capture.destination import Destination, OutputError
from kwire.errors import KwireError

ROWS: Final = 1 << 16  # of a record batch at most …
CELLS: Final = 1 << 24  # … and values, null or not: a row has a place for every column
COUNT: Final = 20  # digits of what a file tells of its capture, at most …
GROUP: Final = 1 << 18  # rows of a row group at most, and 2 * CELLS values: each column of one costs 40 µs
HELD: Final = 64 << 20  # … and bytes of its record batches, which wait for the last of them
TOGETHER: Final = 1 << 13  # values that Parquet encodes at a time
SLACK: Final = 1 << 14  # … and bytes for what else it may turn out to have to tell
TIMES: Final = ("time", "time_ns")  # columns of wall clocks
MAGIC: Final = 1 << 6  # bytes before the schema of an Arrow file, at most

Progress = Callable[[int], None]


class Export(NamedTuple):
    """What is exported: `blocks`, to be read once; `tables` are those that their events can be in.

    `summary`: of the capture; where it has not been read yet (`read`), it is once the blocks are. `holes`:
    what was lost of these tables, to be read after the blocks.
    """

    blocks: Iterable[Block]
    tables: Tables
    summary: CaptureSummary
    holes: Iterable[Missing]


class _Holes:
    """What a scan has found lost, by the time that it is asked."""

    __slots__ = ("_scan",)

    def __init__(self, scan: Scan) -> None:
        self._scan = scan

    def __iter__(self) -> Iterator[Missing]:
        return self._scan.losses.holes()


def whole(
    scan: Scan, summary: CaptureSummary, tables: Tables, done: Callable[[], None] | None = None
) -> Export:
    """All that a scan gives, in one file. `done` is called once all was read."""
    return Export(_read(scan, tables, done), tables, summary, _Holes(scan))


def _read(scan: Scan, tables: Tables, done: Callable[[], None] | None) -> Iterator[Block]:
    """The blocks of a scan. UnforeseenError where one is of no table, if there are any."""
    for block in scan:
        if len(tables) and tables.find(block.schema) is None:
            raise UnforeseenError
        yield block
    if done is not None:
        done()


def apart(scan: Scan, summary: CaptureSummary, tables: Tables) -> Iterator[tuple[Table, Export]]:
    """A file for each table, from one reading of the capture."""
    from kwire.analyze.table_blocks import TableBlocks

    holes: dict[int, list[Missing]] = {id(table): [] for table in tables}
    with TableBlocks(tables) as kept:
        kept.fill(scan)
        for hole in scan.losses.holes():
            table = tables.find(hole.schema) if hole.schema else None
            if table is not None:
                holes[id(table)].append(hole)
        for table in tables:
            yield table, Export(kept.blocks(table), Tables(table.schemas), summary, holes[id(table)])


class Needs(Enum):
    """What a format needs to know of a capture before the first block."""

    NOTHING = 0
    TABLES = 1
    SUMMARY = 2  # what was counted


class Format(NamedTuple):
    """A format: the extensions that mean it, what it is, and what writes it to a descriptor.

    `needs`: what it needs to know before the first block.
    """

    extensions: tuple[str, ...]
    meaning: str
    write: Callable[[Export, Any], None]
    needs: Needs = Needs.SUMMARY


class Wide:
    """The columns of an export as Arrow: `schema`, and the record batches of blocks.

    What a column costs is its values: where no event of a batch has it, it shares its nulls with others.
    Host and probe are numbers of a dictionary that all batches share.
    """

    __slots__ = ("_alike", "_fill", "_layout", "_numbers", "_shapes", "_tables", "schema")

    def __init__(self, export: Export) -> None:
        pa = arrow.load()
        self._tables = export.tables
        self._layout = layout = Layout(export.tables)
        one_of = pa.dictionary(pa.int32(), pa.string())
        common = arrow.common_types() | {"host": one_of, "probe": one_of}
        fields = [pa.field(name, kind) for name, kind in common.items()]
        fields += [arrow.field_of(column).with_name(name) for name, column in layout.shown.items()]
        self.schema = pa.schema(fields)
        self._fill, self._shapes = arrow.Fill(), Shapes()
        hosts = dict.fromkeys(schema.host for table in export.tables for schema in table.schemas)
        probes = dict.fromkeys(table.probe for table in export.tables)
        self._numbers = {"host": _numbered(hosts), "probe": _numbered(probes)}
        self._alike: dict[
            str, Any
        ] = {}  # by the name of these columns: the last one that is the same in all rows

    def batches(self, blocks: Iterable[Block]) -> Iterator[Any]:
        """The blocks as record batches, in order of time."""
        rows = max(1, min(ROWS, CELLS // len(self.schema)))
        for run in runs(map(self._pending, blocks)):
            for start in range(0, len(run.times), rows):
                yield self._batch(run.part(start, start + rows))

    def _pending(self, block: Block) -> Pending:
        table = self._tables.find(block.schema)
        assert table is not None  # `whole` has seen to it
        if block.schema.host not in self._numbers["host"][0]:  # of a session that began late
            raise UnforeseenError
        return Pending(block, self._shapes.of(block.schema, self._layout.of(table)))

    def _batch(self, run: Run[Pending]) -> Any:
        """The events as one record batch."""
        pa, gathering = arrow.load(), Gathering(run)
        found = gathering.columns()
        made = []
        for field in self.schema:
            if field.name in found:
                made.append(found[field.name])
            elif field.name in self._numbers:
                made.append(self._numbered(field.name, run, gathering))
            elif field.name in COMMON:
                made.append(pa.array(run.times, pa.int64()).view(field.type))
            else:
                made.append(self._fill.nulls(field.type, len(run.times)))
        return pa.record_batch(made, schema=self.schema)

    def _numbered(self, name: str, run: Run[Pending], gathering: Gathering) -> Any:
        """The column of hosts, or of probes."""
        import numpy as np

        pa, count = arrow.load(), len(run.times)
        numbers, texts = self._numbers[name]
        schemas = [one.block.schema for one, _ in run.stretches]
        each = [numbers[one.host if name == "host" else one.probe] for one in schemas]
        if any(one != each[0] for one in each):
            return pa.DictionaryArray.from_arrays(gathering.each(each, "i4"), texts, safe=False)
        known = self._alike.get(name)
        if known is None or len(known) < count or known.indices[0].as_py() != each[0]:
            alike = np.full(max(count, ROWS), each[0], "i4")
            known = self._alike[name] = pa.DictionaryArray.from_arrays(alike, texts, safe=False)
        return known.slice(0, count)


def _numbered(texts: Iterable[str]) -> tuple[dict[str, int], Any]:
    """Texts by their number, and as an Arrow array."""
    numbers = {text: place for place, text in enumerate(texts)}
    return numbers, arrow.load().array(list(numbers), arrow.load().string())


def about(export: Export) -> dict[str, Any]:
    """What a reader of an export must know of the capture: its probes, and what is missing."""
    probes = []
    for seen in export.summary.probes:
        table, schema = export.tables.find(seen.schema), seen.schema
        if table is None:
            continue
        found = {"probe": schema.probe, "host": schema.host, "kernel": schema.kernel}
        probes.append(found | {"table": table.name, "events": seen.events, "lost": seen.lost})
    return {"probes": probes, "lost": export.summary.losses.total}


def told(export: Export) -> str:
    """The same as JSON. Where all is not counted yet, blanks behind it leave room for what will be."""
    text = json.dumps(about(export))
    if export.summary.read:
        return text
    counts = 2 * len(export.summary.probes) + 1
    return text + " " * (COUNT * counts + SLACK)


def _parquet(export: Export, out: Any) -> None:
    wide = Wide(export)
    from pyarrow import parquet  # after `Wide`, which says so where there is no pyarrow

    clocks = dict.fromkeys(TIMES, "DELTA_BINARY_PACKED")  # no two are alike: a dictionary is made in vain
    leaves = [_leaf(field) for field in wide.schema if field.name not in clocks]
    options: dict[str, Any] = {"use_dictionary": leaves, "column_encoding": clocks, "store_schema": False}
    options["write_batch_size"] = TOGETHER
    with parquet.ParquetWriter(out, wide.schema, compression="zstd", **options) as writer:
        for batches in _grouped(wide.batches(export.blocks)):
            writer.write_table(arrow.load().Table.from_batches(batches))
        about_it = {"kwire": told(export)}
        schema = wide.schema.with_metadata(about_it).serialize().to_pybytes()
        # as Arrow itself stores a schema, but once all that it tells is known: at the end of the file
        writer.add_key_value_metadata(about_it | {"ARROW:schema": base64.b64encode(schema).decode()})


def _grouped(batches: Iterable[Any]) -> Iterator[list[Any]]:
    """Record batches, those together that are to be a row group."""
    held: list[Any] = []
    rows = size = 0
    for batch in batches:
        count = rows + batch.num_rows
        if held and (count > GROUP or count * batch.num_columns > 2 * CELLS or size + batch.nbytes > HELD):
            yield held
            held, rows, size = [], 0, 0
        held.append(batch)
        rows += batch.num_rows
        size += batch.nbytes
    if held:
        yield held


def _leaf(field: Any) -> str:
    """The path of a column's values, as Parquet has it."""
    return f"{field.name}.list.element" if arrow.load().types.is_list(field.type) else str(field.name)


def _arrow(export: Export, out: Any) -> None:
    wide, counted, before, last = Wide(export), export.summary.read, told(export), 0
    schema = wide.schema.with_metadata({"kwire": before})
    with arrow.load().ipc.new_file(out, schema) as writer:
        for batch in wide.batches(export.blocks):
            writer.write_batch(batch)
            last = out.tell()
    if not counted:
        _tell(export, before.encode(), out, schema.serialize().size + MAGIC, last)


def _tell(export: Export, before: bytes, out: Any, first: int, last: int) -> None:
    """Write what a file tells of its capture over what it told `before` that was counted: among the `first`
    bytes of the file, and at its end, from byte `last` on.
    """
    text = told(export).encode()
    if len(text) > len(before):
        raise UnforeseenError
    out.flush()
    fd, size = out.fileno(), out.tell()
    there = os.pread(fd, first, 0).find(before), os.pread(fd, size - last, last).rfind(before)
    assert min(there) >= 0  # a regular file, as it was written
    for at in (there[0], last + there[1]):
        os.pwrite(fd, text.ljust(len(before)), at)


def _arrow_stream(export: Export, out: Any) -> None:
    wide = Wide(export)
    with arrow.load().ipc.new_stream(out, wide.schema.with_metadata({"kwire": told(export)})) as writer:
        for batch in wide.batches(export.blocks):
            writer.write_batch(batch)


def _csv(export: Export, out: Any) -> None:
    from kwire.analyze.csvtext import write

    write(export.blocks, export.tables, out)


def _ndjson(export: Export, out: Any) -> None:
    from kwire.analyze.jsontext import write

    write(export.blocks, out)


def _trace(export: Export, out: Any) -> None:
    from kwire.analyze.perfetto import write

    if write(export.blocks, export.holes, lambda: export.summary.begun, out) != export.summary.begins:
        raise UnforeseenError  # an older event came late


#: Name → format.
FORMATS: Final[dict[str, Format]] = {
    "parquet": Format((".parquet", ".pq"), "Parquet, zstd inside", _parquet, Needs.TABLES),
    "arrow": Format((".arrow", ".feather", ".ipc"), "Arrow IPC file (Feather 2)", _arrow, Needs.TABLES),
    "arrows": Format((".arrows",), "Arrow IPC stream", _arrow_stream),
    "csv": Format((".csv",), "comma-separated values, RFC 4180", _csv, Needs.TABLES),
    "ndjson": Format(
        (".ndjson", ".jsonl"), "the objects of kwire show --json, one a line", _ndjson, Needs.NOTHING
    ),
    "trace": Format(
        (".json", ".trace"), "Chrome trace events, for Perfetto and chrome://tracing", _trace, Needs.TABLES
    ),
}


def markdown() -> str:
    """The table of formats, for the documentation."""
    rows = ["| `--format` | extensions | what it is |", "|---|---|---|"]
    for name, form in FORMATS.items():
        extensions = " ".join(f"`{extension}`" for extension in form.extensions)
        rows.append(f"| `{name}` | {extensions} | {form.meaning} |")
    return "\n".join(rows)


def format_of(path: str, name: str | None = None) -> Format:
    """The format of this name, or that the extension of `path` means; KwireError where neither tells."""
    if name is not None:
        return FORMATS[name]
    extension = os.path.splitext(path)[1].lower()
    for form in FORMATS.values():
        if extension in form.extensions:
            return form
    known = ", ".join(form.extensions[0] for form in FORMATS.values())
    cause = f"the extension {extension!r} means no format" if extension else "there is no extension"
    raise KwireError("export", path, cause, f"use --format, or one of {known}")


def export_file(export: Export, path: str, form: Format) -> None:
    """Write the export to `path`, as Destination says, or to standard output (`-`). Raises KwireError.

    What was there stays where anything raises.
    """
    with Destination(path) as target:
        try:
            with open(target.fd, "wb", closefd=False) as out:
                form.write(export, out)
            target.publish()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError("write", target.name, error.strerror or str(error)) from None
