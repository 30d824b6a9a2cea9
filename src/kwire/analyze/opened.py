"""A capture for Python programs: `kwire.open`. Events, columns, Arrow tables, data frames, SQL.

Invariants: nothing is read before it is asked for; what a choice (`probe`, `where`, `first`, `last`) rules
out is not decoded; integers reach numpy, Arrow, pandas and polars without a copy of their own. A capture is
read once for each question.
"""

from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from kwire.analyze.capture_summary import CaptureSummary, ProbeSummary
from kwire.analyze.scan import Block, Scan
from kwire.analyze.selection import Selection
from kwire.analyze.source import Source
from kwire.arguments import checked, module, needed
from kwire.errors import KwireError
from kwire.wire.messages import Lost
from kwire.wire.schema import EARLIEST, LATEST, Schema, Value

if TYPE_CHECKING:
    from kwire.analyze.tables import Table, Tables
    from kwire.capture.verify import FileReport

E = TypeVar("E")


class Opened(Generic[E]):
    """An open capture; a context manager, though leaving it only gives back a copy of standard input.

    `make`: what makes an event of (schema, wall-clock ns, values). Every method takes `probe` (a glob over
    specs, `kprobe:tcp_*`), `where` (a condition, as `kwire show --where`), `first` and `last` (wall-clock ns,
    both included). Raises KwireError where no probe matches or a condition is wrong.
    """

    __slots__ = ("_capture_summary", "_grouped", "_make", "_source")

    def __init__(self, path: str, make: Callable[[Schema, int, Sequence[Value]], E]) -> None:
        self._source = Source(path)
        self._make = make
        self._capture_summary: CaptureSummary | None = None
        self._grouped: Tables | None = None

    @property
    def name(self) -> str:
        """The file's name."""
        return self._source.name

    @property
    def capture_summary(self) -> CaptureSummary:
        """What counting alone tells of the capture; read once."""
        if self._capture_summary is None:
            self._capture_summary = CaptureSummary(self._source)
        return self._capture_summary

    @property
    def probes(self) -> list[ProbeSummary]:
        """The probes: `.schema`, `.events`, `.lost`, `.produced`, `.first`, `.last`."""
        return self.capture_summary.probes

    @property
    def schemas(self) -> list[Schema]:
        """What the events of each probe hold."""
        return list(self.capture_summary.schemas)

    @property
    def lost(self) -> int:
        """How many events the capture says are missing."""
        return sum(loss.count for _, loss in self.losses)

    @property
    def losses(self) -> list[tuple[Schema | None, Lost]]:
        """The holes: the probe's schema (None: unknown) and what its LOST frames say."""
        return list(self.capture_summary.losses)

    def verify(self) -> "FileReport":
        """Whether the capture is complete, and every hole in it: `.complete`, `.holes`, `.problems`."""
        from kwire.capture.verify import verify_capture

        with self._source.open() as capture:
            return verify_capture(capture)

    def blocks(
        self, probe: str | None = None, where: str | None = None, first: int = EARLIEST, last: int = LATEST
    ) -> Iterator[Block]:
        """The events as blocks of one probe each: frames and times, nothing decoded."""
        selection = self._selection(probe, where, first, last)
        with self._source.open() as capture:
            yield from Scan(capture, selection)

    def events(
        self, probe: str | None = None, where: str | None = None, first: int = EARLIEST, last: int = LATEST
    ) -> Iterator[E]:
        """The events, one object each, in order of time as far as a window of 2**17 events reaches."""
        from kwire.analyze.order import ordered

        decoders: dict[int, Callable[[Any], Sequence[Value]]] = {}
        known: list[Schema] = []
        for block, index, time in ordered(self.blocks(probe, where, first, last)):
            decode = decoders.get(id(block.schema))
            if decode is None:
                known.append(block.schema)  # so that its id stays its own
                decode = decoders[id(block.schema)] = block.schema.decoder()
            yield self._make(block.schema, time, decode(block.frames.frame_bytes(index)))

    def __iter__(self) -> Iterator[E]:
        return self.events()

    def columns(
        self, probe: str | None = None, where: str | None = None, first: int = EARLIEST, last: int = LATEST
    ) -> dict[str, Any]:
        """One numpy array a field for the events of one probe, in order of time, `time` and `time_ns` too.

        `time`: the events' own clock, `time_ns`: wall clock (int64), `NAME_cut`: whether a text was cut,
        `NAME_unread`: whether it could not be read.
        `probe` may be left out when there is only one; probes of one layout (of several hosts) go together.
        """
        import numpy as np

        from kwire.wire.columns import columns, marks

        table = self._table(probe)
        parts, times = [], []
        tables = self._tables()
        for block in self.blocks(probe, where, first, last):
            if tables.find(block.schema) is table:
                parts.append(columns(block.schema, block.frames) | marks(block.schema, block.frames))
                times.append(block.times)
        if not parts:
            from array import array

            from kwire.wire.frames import Frames

            nothing = Frames(b"", array("Q"))
            empty = columns(table.schemas[0], nothing) | marks(table.schemas[0], nothing)
            return empty | {"time_ns": np.zeros(0, np.int64)}
        gathered = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        gathered["time_ns"] = np.concatenate(times)
        order = np.argsort(gathered["time_ns"], kind="stable")
        if (order[1:] > order[:-1]).all():
            return gathered
        return {name: column[order] for name, column in gathered.items()}

    def batches(
        self, probe: str | None = None, where: str | None = None, first: int = EARLIEST, last: int = LATEST
    ) -> Any:
        """The events of one probe as a pyarrow RecordBatchReader: as much as fits memory at a time."""
        from kwire.analyze import arrow

        table = self._table(probe)
        schema, tables, fill = arrow.table_schema(table), self._tables(), arrow.Fill()
        made = (
            arrow.batch(table, schema, block, fill)
            for block in self.blocks(probe, where, first, last)
            if tables.find(block.schema) is table
        )
        return arrow.load().RecordBatchReader.from_batches(schema, made)

    def arrow(
        self, probe: str | None = None, where: str | None = None, first: int = EARLIEST, last: int = LATEST
    ) -> Any:
        """The events of one probe as a pyarrow Table, with the columns that SQL sees."""
        return self.batches(probe, where, first, last).read_all()

    def pandas(
        self, probe: str | None = None, where: str | None = None, first: int = EARLIEST, last: int = LATEST
    ) -> Any:
        """The events of one probe as a pandas DataFrame."""
        module("pandas", "make a data frame")
        made = self.arrow(probe, where, first, last)
        return made.to_pandas(split_blocks=True, self_destruct=True)

    def polars(
        self, probe: str | None = None, where: str | None = None, first: int = EARLIEST, last: int = LATEST
    ) -> Any:
        """The events of one probe as a polars DataFrame, over the same memory as the Arrow table."""
        return module("polars", "make a data frame").from_arrow(self.arrow(probe, where, first, last))

    def query(self, sql: str) -> Any:
        """The rows of an SQL query as a pyarrow Table; the tables are those of `kwire query`."""
        from kwire.analyze import arrow
        from kwire.analyze.database import Database

        [sql] = needed("query", sql=sql)
        with Database(self._source, self.capture_summary) as database:
            result = database.query(sql)
            return arrow.load().Table.from_batches(list(result), result.schema)

    def close(self) -> None:
        """Give back what was kept of standard input."""
        self._source.close()

    def __enter__(self) -> "Opened[E]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<kwire capture {self.name!r}>"

    def _selection(self, probe: str | None, where: str | None, first: int, last: int) -> Selection:
        probe, where, first, last = checked("choose events", probe=probe, where=where, first=first, last=last)
        condition = None
        if where is not None:
            from kwire.view.where import Where

            condition = Where(where)
        selection = Selection(
            probe, condition, EARLIEST if first is None else first, LATEST if last is None else last
        )
        if probe is not None or condition is not None:
            selection.check(self.capture_summary.schemas, self.name)
        return selection

    def _tables(self) -> "Tables":
        from kwire.analyze.tables import Tables

        if self._grouped is None:
            self._grouped = Tables(self.capture_summary.schemas)
        return self._grouped

    def _table(self, probe: str | None) -> "Table":
        """The one table of the probes that match."""
        [probe] = checked("choose events", probe=probe)
        found = [
            table
            for table in self._tables()
            if probe is None or any(one.matches(probe) for one in table.schemas)
        ]
        if len(found) == 1:
            return found[0]
        known = ", ".join(table.probe for table in (found or self._tables()))
        cause = f"{len(found)} probes match" if found else "no probe matches"
        if not self.capture_summary.probes:
            known, cause = "", "it describes no probe"
        raise KwireError("read", self.name, cause, f"name one of: {known}" if known else "")
