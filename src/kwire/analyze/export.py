"""Captures in other people's formats: Parquet, Arrow, CSV, NDJSON, Chrome and Perfetto traces.

Invariants: memory is bounded, events stream through; rows are in order of time as far as order.WINDOW events
reach; values are those of `kwire show --json`, times those of `kwire query`; what was lost is told in the
file where its format has a place for it. An export of several probes has a column for every field of any of
them, null where a probe has it not; fields of one name and different types get columns of their own.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kwire.analyze import arrow
from kwire.analyze.capture_summary import CaptureSummary, Seen
from kwire.analyze.losses import Missing
from kwire.analyze.order import Run, runs
from kwire.analyze.scan import Block, Scan
from kwire.analyze.tables import COMMON, Table, Tables
from kwire.analyze.wide import Layout
from kwire.capture.destination import Destination, OutputError
from kwire.capture.reader import groups
from kwire.errors import KwireError
from kwire.wire.schema import Schema

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

WRITTEN: Final = 1 << 20  # characters of lines written at a time
ROWS: Final = 1 << 17  # of a record batch at most …
CELLS: Final = 1 << 24  # … and values, null or not: a row has a place for every column
BESIDE: Final = 256  # bytes that a column of a block takes beside its values, about

Progress = Callable[[int], None]


class Export(NamedTuple):
    """What is exported: `blocks`, to be read once; `tables` are those that their events can be in.

    `seen`: the probes of these tables; `lost`: events that the capture lost in all; `begins`: wall-clock ns
    of its first event; `holes`: what was lost of these tables, to be read after the blocks.
    """

    blocks: Iterable[Block]
    tables: Tables
    seen: Sequence[Seen]
    lost: int
    begins: int
    holes: Iterable[Missing]


class _Holes:
    """What a scan has found lost, by the time that it is asked."""

    __slots__ = ("_scan",)

    def __init__(self, scan: Scan) -> None:
        self._scan = scan

    def __iter__(self) -> Iterator[Missing]:
        return self._scan.losses.holes()


def whole(scan: Scan, capture_summary: CaptureSummary, tables: Tables) -> Export:
    """All that a scan gives, in one file."""
    seen = [one for one in capture_summary.probes if tables.find(one.schema) is not None]
    return Export(scan, tables, seen, capture_summary.losses.total, capture_summary.begins, _Holes(scan))


def apart(scan: Scan, capture_summary: CaptureSummary, tables: Tables) -> Iterator[tuple[Table, Export]]:
    """A file for each table, from one reading of the capture."""
    from kwire.analyze.drawers import Drawers

    seen: dict[int, list[Seen]] = {id(table): [] for table in tables}
    holes: dict[int, list[Missing]] = {id(table): [] for table in tables}
    with Drawers(tables) as drawers:
        drawers.fill(scan)
        for one in capture_summary.probes:
            table = tables.find(one.schema)
            if table is not None:
                seen[id(table)].append(one)
        for hole in scan.losses.holes():
            table = tables.find(hole.schema) if hole.schema else None
            if table is not None:
                holes[id(table)].append(hole)
        for table in tables:
            told = (seen[id(table)], capture_summary.losses.total, capture_summary.begins)
            yield table, Export(drawers.blocks(table), Tables(table.schemas), *told, holes[id(table)])


class Format(NamedTuple):
    """A format: the extensions that mean it, what it is, and what writes it to a descriptor."""

    extensions: tuple[str, ...]
    meaning: str
    write: Callable[[Export, Any], None]


class Decoded(NamedTuple):
    """A block as Arrow: `values` by the names of their columns, `size` bytes; its frames can go."""

    table: Table
    host: str
    times: "Array"
    round: object
    values: dict[str, Any]
    size: int

    def kept(self) -> tuple[object, int]:
        """What it keeps in memory, and how many bytes that is."""
        return self.values, self.size

    def taken(self, which: "slice | Array") -> dict[str, Any]:
        """The values of these events."""
        if isinstance(which, slice):
            count = which.stop - which.start
            return {name: one.slice(which.start, count) for name, one in self.values.items()}
        places = arrow.load().array(which)
        return {name: one.take(places) for name, one in self.values.items()}

    def alone(self, which: "slice | Array") -> "Decoded":
        """These events, in memory of their own."""
        import numpy as np

        if isinstance(which, slice):
            which = np.arange(which.start, which.stop)
        values, times = self.taken(which), self.times[which]
        return self._replace(times=times, values=values, size=_bytes(values, len(times)))


def _bytes(values: dict[str, Any], count: int) -> int:
    """How many bytes columns of so many events take, about; each costs something beside its values."""
    columns: int = sum(one.nbytes + BESIDE for one in values.values())
    return 8 * count + columns


class Wide:
    """The columns of an export as Arrow: `schema`, and the record batches of blocks.

    What a column costs is its values: where no event of a batch has it, it shares its nulls with others.
    Host and probe are numbers of a dictionary that all batches share.
    """

    __slots__ = ("_fill", "_layout", "_numbers", "_tables", "schema")

    def __init__(self, export: Export) -> None:
        pa = arrow.load()
        self._tables = export.tables
        self._layout = layout = Layout(export.tables)
        one_of = pa.dictionary(pa.int32(), pa.string())
        common = arrow.common_types() | {"host": one_of, "probe": one_of}
        fields = [pa.field(name, kind) for name, kind in common.items()]
        fields += [arrow.field_of(column).with_name(name) for name, column in layout.shown.items()]
        self.schema = pa.schema(fields, metadata={"kwire": json.dumps(about(export))})
        self._fill = arrow.Fill()
        hosts = dict.fromkeys(schema.host for table in export.tables for schema in table.schemas)
        probes = dict.fromkeys(table.probe for table in export.tables)
        self._numbers = {"host": _numbered(hosts), "probe": _numbered(probes)}

    def batches(self, blocks: Iterable[Block]) -> Iterator[Any]:
        """The blocks as record batches, in order of time."""
        rows = max(1, min(ROWS, CELLS // len(self.schema)))
        for run in runs(map(self._decoded, blocks)):
            for start in range(0, len(run.times), rows):
                yield self._batch(run.part(start, start + rows))

    def _decoded(self, block: Block) -> Decoded:
        """A block, while its frames are at hand."""
        table, made = self._tables.find(block.schema), arrow.Values(block)
        assert table is not None  # the tables are those of the capture
        values = {name: made.column(column) for name, column in self._layout.of(table)}
        size = _bytes(values, len(block.times))
        return Decoded(table, block.schema.host, block.times, block.round, values, size)

    def _batch(self, run: Run[Decoded]) -> Any:
        """The events as one record batch."""
        import numpy as np

        pa, count = arrow.load(), len(run.times)
        parts: dict[str, list[tuple[Any, Any]]] = {}  # name → where its values stand, and they themselves
        stood = list(_stood(run))
        for block, which, places in stood:
            for name, values in block.taken(which).items():
                parts.setdefault(name, []).append((places, values))
        made = []
        for field in self.schema:
            found = parts.get(field.name)
            if found is not None:
                made.append(_placed(found, count))
            elif field.name in self._numbers:
                numbers, texts = self._numbers[field.name]
                column = np.empty(count, np.int32)
                for block, _, places in stood:
                    column[places] = numbers[block.host if field.name == "host" else block.table.probe]
                made.append(pa.DictionaryArray.from_arrays(column, texts))
            elif field.name in COMMON:
                made.append(pa.array(run.times, pa.int64()).view(field.type))
            else:
                made.append(self._fill.nulls(field.type, count))
        return pa.record_batch(made, schema=self.schema)


def _numbered(texts: Iterable[str]) -> tuple[dict[str, int], Any]:
    """Texts by their number, and as an Arrow array."""
    numbers = {text: place for place, text in enumerate(texts)}
    return numbers, arrow.load().array(list(numbers), arrow.load().string())


def _stood(run: Run[Decoded]) -> Iterator[tuple[Decoded, Any, Any]]:
    """Each block with those of its events that are in the run, and where these stand there."""
    if run.order is None:
        first = 0
        for block, which in run.stretches:
            last = first + (which.stop - which.start if isinstance(which, slice) else len(which))
            yield block, which, slice(first, last)
            first = last
        return
    of, at = run.located()
    for which, places in groups(of):
        yield run.stretches[which][0], at[places], places


def _placed(parts: list[tuple[Any, Any]], count: int) -> Any:
    """Values in the rows where they stand; null in the others."""
    import numpy as np

    pa = arrow.load()
    values = pa.concat_arrays([values for _, values in parts]) if len(parts) > 1 else parts[0][1]
    if len(values) == count and all(isinstance(places, slice) for places, _ in parts):
        return values
    where = np.full(count, -1, np.int64)
    first = 0
    for places, some in parts:
        where[places] = np.arange(first, first + len(some))
        first += len(some)
    return values.take(pa.array(where, mask=where < 0))


def about(export: Export) -> dict[str, Any]:
    """What a reader of an export must know of the capture: its probes, and what is missing."""
    probes = []
    for seen in export.seen:
        table, schema = export.tables.find(seen.schema), seen.schema
        told = {"probe": schema.probe, "host": schema.host, "kernel": schema.kernel}
        name = table.name if table else ""
        probes.append(told | {"table": name, "events": seen.events, "lost": seen.lost})
    return {"probes": probes, "lost": export.lost}


def _parquet(export: Export, out: Any) -> None:
    wide = Wide(export)
    from pyarrow import parquet  # after `Wide`, which says so where there is no pyarrow

    with parquet.ParquetWriter(out, wide.schema, compression="zstd") as writer:
        for batch in wide.batches(export.blocks):
            writer.write_batch(batch)


def _arrow(export: Export, out: Any) -> None:
    wide = Wide(export)
    with arrow.load().ipc.new_file(out, wide.schema) as writer:
        for batch in wide.batches(export.blocks):
            writer.write_batch(batch)


def _arrow_stream(export: Export, out: Any) -> None:
    wide = Wide(export)
    with arrow.load().ipc.new_stream(out, wide.schema) as writer:
        for batch in wide.batches(export.blocks):
            writer.write_batch(batch)


def _csv(export: Export, out: Any) -> None:
    from kwire.analyze.csvtext import write

    write(export.blocks, export.tables, out)


def _ndjson(export: Export, out: Any) -> None:
    from kwire.analyze.order import ordered
    from kwire.view.jsonl import JsonLines

    form = JsonLines()
    makers: dict[int, tuple[Schema, Callable[..., Any], Callable[..., str]]] = {}
    lines: list[str] = []
    size = 0
    for block, index, time in ordered(export.blocks):
        made = makers.get(id(block.schema))
        if made is None:
            schema = block.schema
            made = makers[id(schema)] = (schema, schema.decoder(), form.event(schema))
        lines.append(made[2](time, made[1](block.frames.frame_bytes(index))))
        size += len(lines[-1])
        if size > WRITTEN:
            lines.append("")
            out.write("\n".join(lines).encode())
            lines, size = [], 0
    if lines:
        lines.append("")
        out.write("\n".join(lines).encode())


def _trace(export: Export, out: Any) -> None:
    from kwire.analyze.perfetto import write

    write(export.blocks, export.holes, export.begins, out)


#: Name → format.
FORMATS: Final[dict[str, Format]] = {
    "parquet": Format((".parquet", ".pq"), "Parquet, zstd inside", _parquet),
    "arrow": Format((".arrow", ".feather", ".ipc"), "Arrow IPC file (Feather 2)", _arrow),
    "arrows": Format((".arrows",), "Arrow IPC stream", _arrow_stream),
    "csv": Format((".csv",), "comma-separated values, RFC 4180", _csv),
    "ndjson": Format((".ndjson", ".jsonl"), "the objects of kwire show --json, one a line", _ndjson),
    "trace": Format((".json", ".trace"), "Chrome trace events, for Perfetto and chrome://tracing", _trace),
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
    """Write the export to `path`, as Destination says, or to standard output (`-`). Raises KwireError."""
    with Destination(path) as target:
        try:
            with open(target.fd, "wb", closefd=False) as out:
                form.write(export, out)
            target.publish()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError("write", target.name, error.strerror or str(error)) from None
