"""SQL over a capture: DuckDB reads each probe's events as a table, streamed from the file as it asks.

Invariants: neither the capture nor the query is trusted: SQL reaches no file, no network, no extension and no
setting; names from the capture never stand in SQL text. Nothing is loaded before a query asks: a statement
is one reading of the file, however many scans of tables it has, decodes only the columns that it uses, and is
bounded in memory.
A capture that has only begun to be read is asked what one reading answers; what
DuckDB itself must keep (sorts, joins) it spills beyond its limit into a directory that is removed.
"""

import re
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Final, Self

from kwire.analyze import arrow
from kwire.analyze.capture_summary import CaptureSummary
from kwire.analyze.replays import Replays
from kwire.analyze.scan import Progress, Scan
from kwire.analyze.selection import Selection
from kwire.analyze.shared import BatchBuilder, Shared
from kwire.analyze.source import Source, UnforeseenError
from kwire.analyze.tables import Table, Tables
from kwire.analyze.zone import local_time
from kwire.errors import KwireError
from kwire.packets import spill
from kwire.packets.open import NetworkCapture
from kwire.view.table import cause_text
from kwire.view.text import safe
from kwire.wire.schema import Schema, bounded

#: What keeps a query inside: option of DuckDB → value.
LOCKED: Final = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",
    "lock_configuration": "true",
}
ROWS: Final = 1 << 14  # of a batch of a result
REGISTERED: Final = 1024  # tables; of a capture with more, DuckDB knows those that the query names
COUNTED: Final = frozenset({"lost", "probes"})  # tables that are known once the capture was read
EXPLAIN: Final = "EXPLAIN (FORMAT JSON)\n"  # a line of its own: columns stay what they are

_PLACE = re.compile(r"\n+LINE (\d+): ([^\n]*)\n( *)\^", re.S)
_LITERAL = re.compile(r"'(?:[^']|'')*'")
_WORD = re.compile(r"\w+")  # what every name of a table is; see tables._identifier
_KIND = re.compile(r"^[A-Z][A-Za-z ]*Error: ")
_HINT = re.compile(r"\n(Did you mean [^\n]*|Candidate bindings: [^\n]*)")


class QueryError(KwireError):
    """SQL that cannot be run; `detail` is the whole complaint, with the place marked."""

    def __init__(self, place: str, cause: str, cure: str, picture: str) -> None:
        super().__init__("query", place, cause, cure)
        self._picture = picture

    @property
    def detail(self) -> str:
        """The whole complaint, with the place marked."""
        return self._picture


class _Relation:
    """A table as DuckDB sees it: each scan asks for a stream of its own (the Arrow PyCapsule interface)."""

    __slots__ = ("_database", "_table", "schema")

    def __init__(self, database: "Database", table: Table | None, schema: Any) -> None:
        self._database, self._table, self.schema = database, table, schema

    def __arrow_c_schema__(self) -> Any:
        return self.schema.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        batches = self._told(self._database.batches(self._table))
        return arrow.load().RecordBatchReader.from_batches(self.schema, batches).__arrow_c_stream__()

    def _told(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The batches; what breaks them off is kept: DuckDB makes an error of its own of it."""
        try:
            yield from batches
        except GeneratorExit:
            raise
        except BaseException as error:
            self._database.failures.append(error)
            raise


class Result:
    """Rows of a query as record batches, by iterating once; `schema` is their Arrow schema. QueryError.

    `failures`: what has broken off the reading of the capture.
    """

    __slots__ = ("_failures", "_reader", "schema")

    def __init__(self, reader: Any, failures: list[BaseException]) -> None:
        self._failures = failures
        self._reader = [] if reader is None else reader
        self.schema = arrow.load().schema([]) if reader is None else reader.schema

    def __iter__(self) -> Iterator[Any]:
        duckdb, pa = _duckdb(), arrow.load()
        try:
            yield from self._reader
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            raise self._failures[0] if self._failures else query_error(str(error)) from None


class Questions:
    """DuckDB, locked up, and what it is asked about; a context manager. `schemas`: Arrow schemas of all
    tables, by name. Raises KwireError where duckdb or pyarrow is not installed.
    """

    __slots__ = (
        "_connection",
        "_directory",
        "_needed",
        "_registered",
        "_relations",
        "_scanned",
        "failures",
        "interrupted",
        "schemas",
    )

    def __init__(self) -> None:
        import tempfile

        arrow.load()
        duckdb = _duckdb()
        self.interrupted = False
        """Whether `interrupt` was called."""
        self._directory = tempfile.TemporaryDirectory(prefix="kwire-query-", dir=spill.folder())
        config = LOCKED | {"temp_directory": self._directory.name}
        self._connection = duckdb.connect(":memory:", config=config)
        self._needed: set[str] | None = None
        self._scanned = 0  # how many scans of tables the statement has
        self.failures: list[BaseException] = []
        """What has broken off readings, Ctrl-C too."""
        self._relations: dict[str, Any] = {}
        self._registered: set[str] = set()
        self.schemas: dict[str, Any] = {}

    def _reserved(self) -> list[str]:
        """The words that name no table."""
        reserved = "select keyword_name from duckdb_keywords() where keyword_category = 'reserved'"
        return [word for (word,) in self._connection.cursor().execute(reserved).fetchall()]

    def query(self, sql: str) -> "Result":
        """Run SQL; gives the rows of its last statement. QueryError."""
        duckdb = _duckdb()
        self._register(sql)
        complaint, before = "", 0
        try:
            statements = [statement.query for statement in self._connection.extract_statements(sql)]
            self._check(statements, sql)
            if not statements:
                raise QueryError("", "nothing is written here", "write SELECT … FROM …", sql)
            for statement in statements[:-1]:
                complaint = self._plan(statement)
                self._connection.execute(statement).fetchall()
                before += statement.count("\n")
            complaint = self._plan(statements[-1])
            answer = self._connection.sql(statements[-1])
            return Result(None if answer is None else _reader(answer), self.failures)
        except duckdb.Error as error:
            if self.failures:
                raise self.failures[0] from None
            message = str(error)
            if complaint.partition("\n")[0] == message.partition("\n")[0]:
                message, before = complaint, before - 1  # it tells the place, one line too far down
            raise query_error(message, sql, before) from None

    def interrupt(self) -> None:
        """Break off a query that runs, from another thread: it raises QueryError."""
        self.interrupted = True
        self._connection.interrupt()

    def close(self) -> None:
        """Close the database."""
        self._connection.close()
        self._directory.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _register(self, sql: str) -> None:
        """Make the tables known to DuckDB: all, or where they are very many those that the query may name."""
        words = set(_WORD.findall(sql.casefold()))
        few = self._small()
        for name, relation in self._relations.items():
            if name not in self._registered and (few or name.casefold() in words):
                self._make_known(name, relation)
                self._registered.add(name)

    def _small(self) -> bool:
        """Whether all tables may be made known, whatever a query names."""
        return len(self._relations) <= REGISTERED

    def _make_known(self, name: str, relation: Any) -> None:
        """Make one table known to DuckDB."""
        self._connection.register(name, relation)

    def _check(self, statements: list[str], sql: str) -> None:
        """Look at statements before they are run."""

    def _plan(self, statement: str) -> str:
        """Find out which columns a statement uses (all where DuckDB does not tell); gives its complaint."""
        import json

        duckdb = _duckdb()
        self._needed, self._scanned = None, 0
        try:
            plan = json.loads(self._connection.execute(EXPLAIN + statement).fetchall()[0][1])
            self._scanned = len(list(scans(plan)))
            self._needed = columns_used(plan, self.schemas)
        except duckdb.Error as error:
            return str(error)
        except (ValueError, IndexError, TypeError, AttributeError):
            pass
        return ""


class Database(Questions):
    """A capture open for SQL. `tables`: those of its probes.

    `decoded` counts the chunks that queries looked into. `query` raises UnforeseenError, by then or while the
    rows are read, where the capture has not been read, and is to be known before this can be answered.
    """

    __slots__ = (
        *("_names", "_reading", "_replays", "_shared", "_source", "_summary", "_words"),
        *("decoded", "progress", "selection", "tables"),
    )

    def __init__(
        self, source: Source, capture_summary: CaptureSummary, selection: Selection | None = None
    ) -> None:
        super().__init__()
        self._source, self._summary = source, capture_summary
        self._reading: NetworkCapture | None = None  # the only one there may be
        self._replays: Replays | None = None  # one reading for all scans of a statement
        self._words: set[str] = set()  # of the query
        self.progress: Progress | None = None
        self.selection = selection or Selection()
        self.tables = self._tables()
        self._shared = Shared(self.tables)
        self.decoded = 0
        self._relations = {
            table.name: _Relation(self, table, arrow.table_schema(table, local=True)) for table in self.tables
        }
        self._relations["events"] = _Relation(self, None, self._shared.schema)
        chosen = (capture_summary, self.tables, self.selection)
        self._relations["probes"] = counted(seen_rows(*chosen), PROBE_COLUMNS)
        self._relations["lost"] = counted(hole_rows(*chosen), LOST_COLUMNS)
        self.schemas = {name: one.schema for name, one in self._relations.items()}

    def batches(self, table: Table | None) -> Iterator[Any]:
        """The events of a table, or of all (None), as record batches; only columns in use are filled."""
        name = "events" if table is None else table.name
        if self._replays is not None and name in self._replays:
            return self._replays.batches(name)
        return (batch for _, batch in self._read({name}, self._needed))

    def _read(self, names: set[str], needed: set[str] | None) -> Generator[tuple[str, Any]]:
        """The batches of the tables of these names out of one reading, each with its table's name."""
        known, all_events = self.tables, "events" in names

        def wanted(schema: Schema) -> bool:
            found = known.find(schema)
            return found is not None and (found.name in names or (all_events and schema.map is None))

        watch = None if self._summary.read else self._summary.add
        with ExitStack() as stack:
            capture = self._source.open()
            if watch is None:
                stack.enter_context(capture)
            else:
                self._reading = capture
            scan = Scan(capture, self.selection.only(wanted), self.progress, watch=watch)
            fill, events = arrow.Fill(), BatchBuilder(self._shared, needed)
            for block in scan:
                table = known.find(block.schema)
                if table is None:
                    continue
                if all_events and block.schema.map is None:
                    for batch in events.add(table, block):
                        yield "events", batch
                if table.name in names:
                    yield table.name, arrow.batch(table, self.schemas[table.name], block, fill, needed)
            for batch in events.rest():
                yield "events", batch
            self.decoded += scan.decoded
        self.finish()

    def finish(self) -> None:
        """Read what a query has left of a capture. UnforeseenError where its tables are others than those
        that were foreseen.
        """
        if self._summary.read or self._reading is None:
            return
        for frames in self._reading:
            self._summary.add(self._reading, frames)
        self._summary.end(self._reading, self._source)
        if not self.tables.same(self._tables()):
            raise UnforeseenError

    def _tables(self) -> Tables:
        wanted = (seen.schema for seen in self._summary.probes if self.selection.wants(seen.schema))
        return Tables(wanted, self._reserved())

    def close(self) -> None:
        """Close the database."""
        self._share(set())
        if self._reading is not None:
            self._reading.close()
        super().close()

    def _check(self, statements: list[str], sql: str) -> None:
        self._words = set(_WORD.findall(sql.casefold()))
        self._names = set(_WORD.findall(_LITERAL.sub(" ", sql).casefold()))
        if not self._summary.read and not self._is_read_once(statements):
            raise UnforeseenError

    def _plan(self, statement: str) -> str:
        complaint = super()._plan(statement)
        names = [*(table.name for table in self.tables), "events"]
        again = self._scanned - len(self._names & COUNTED) > 1 or "recursive" in self._names
        self._share({name for name in names if name.casefold() in self._names} if again else set())
        return complaint

    def _share(self, names: set[str]) -> None:
        """Have one reading do for all scans of the tables of these names, from here on."""
        if self._replays is not None:
            self._replays.close()
        self._replays = None
        if names:
            schemas, needed = {name: self.schemas[name] for name in names}, self._needed
            self._replays = Replays(self._read(names, needed), schemas, needed, self._directory.name)

    def _is_read_once(self, statements: list[str]) -> bool:
        """Whether a query needs one reading of the events, and nothing of what was counted."""
        if len(statements) != 1 or self._words & COUNTED:
            return False
        Questions._plan(self, statements[0])
        return self._scanned > 0


def scans(plan: Any) -> Iterator[Any]:
    """The scans of tables in a plan."""
    nodes = list(plan)
    while nodes:
        node = nodes.pop()
        nodes += node.get("children", ())
        if "ARROW_SCAN" in node.get("name", ""):
            yield node


def columns_used(plan: Any, schemas: Any) -> set[str] | None:
    """Names of the columns that the scans of a plan give, of all tables; None where one is unknown."""
    known = {name for schema in schemas.values() for name in schema.names}
    used: set[str] = set()
    for node in scans(plan):
        info = node.get("extra_info", {})
        names = info.get("Projections", [])
        for name in [names] if isinstance(names, str) else names:
            if name not in known:
                return None
            used.add(name)
        if "Filters" in info:
            used |= {name for name in known if name in str(info["Filters"])}
    return used


def query_error(message: str, sql: str = "", before: int = 0) -> QueryError:
    """One line with the place, out of DuckDB's complaint; `before`: lines of `sql` before the statement."""
    place = _PLACE.search(message)
    hint = _HINT.search(message)
    cause = _KIND.sub("", message.split("\n", 1)[0])
    where = ""
    if place is not None:
        line, shown = int(place[1]) + before, place[2]
        column = len(place[3]) - len(f"LINE {place[1]}: ")
        written = sql.split("\n")[line - 1 : line]
        if shown.startswith("...") and written:  # only the neighbourhood is shown
            column += written[0].find(shown.strip(".")) - 3
        where = f"line {line}, column {column + 1}"
    cure = hint[1].replace("Candidate bindings: ", "there are: ") if hint else ""
    cure = cure[:1].lower() + cure[1:]
    picture = "\n".join(map(safe, message.split("\n")))
    return QueryError(where, safe(cause).rstrip("!"), safe(cure), picture)


#: Columns of the table `probes` → what they are.
PROBE_COLUMNS: Final = {
    **dict.fromkeys(("table", "probe", "kind", "target", "host", "kernel"), "text"),
    **dict.fromkeys(("id", "events", "lost", "produced"), "count"),
    "first": "time",
    "last": "time",
    "program": "text",
}
#: The same of `lost`.
LOST_COLUMNS: Final = {
    **dict.fromkeys(("first", "last"), "time"),
    **dict.fromkeys(("host", "probe"), "text"),
    "probes": "texts",
    "table": "text",
    **dict.fromkeys(("cpu", "count"), "count"),
    "cause": "text",
}


def seen_rows(
    capture_summary: CaptureSummary, tables: Tables, selection: Selection | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of `probes`: one a probe and section; times are wall-clock ns."""
    for seen in capture_summary.probes:
        table = tables.find(seen.schema)
        if table is None or (selection is not None and not selection.wants(seen.schema)):
            continue
        yield {
            "table": table.name,
            "probe": seen.schema.probe,
            "kind": seen.schema.kind,
            "target": seen.schema.target,
            "host": seen.schema.host,
            "kernel": seen.schema.kernel,
            "id": seen.schema.id,
            "events": seen.events,
            "lost": seen.lost,
            "produced": seen.produced,
            "first": seen.first,
            "last": seen.last,
            "program": seen.schema.program,
        }


def hole_rows(
    capture_summary: CaptureSummary, tables: Tables, selection: Selection | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of `lost`: one a hole; times are wall-clock ns."""
    for hole in capture_summary.losses.holes():
        schema, loss = hole.schema, hole.loss
        if schema and selection is not None and not selection.wants_loss(schema, loss):
            continue
        table = tables.find(schema) if schema and len(hole.probes) == 1 else None
        yield {
            "first": hole.first,
            "last": hole.last,
            "host": schema.host if schema else None,
            "probe": hole.probes[0] if len(hole.probes) == 1 else None,
            "probes": list(hole.probes),
            "table": table.name if table else None,
            "cpu": hole.cpu,
            "count": loss.count,
            "cause": cause_text(loss.cause),
        }


def counted(rows: Iterable[dict[str, Any]], columns: dict[str, str]) -> Any:
    """Such rows as an Arrow table; times become local, and counts what 64 bits hold."""
    pa = arrow.load()
    kinds = {"text": pa.string(), "texts": pa.list_(pa.string())}
    kinds |= {"count": pa.uint64(), "time": pa.timestamp("ns")}

    def value(row: dict[str, Any], name: str, kind: str) -> Any:
        found = row[name]
        return _moment(found) if kind == "time" else _count(found) if kind == "count" else found

    made = [{name: value(row, name, kind) for name, kind in columns.items()} for row in rows]
    schema = pa.schema([(name, kinds[kind]) for name, kind in columns.items()])
    return pa.Table.from_pylist(made, schema=schema)


def _reader(answer: Any) -> Any:
    """The Arrow reader of a relation; DuckDB 1.4 gave the method its name."""
    if hasattr(answer, "to_arrow_reader"):
        return answer.to_arrow_reader(ROWS)
    return answer.fetch_arrow_reader(ROWS)


def _moment(time: int | None) -> int | None:
    """A local time that 64 bits hold."""
    return local_time(None if time is None else bounded(time))


def _count(number: int | None) -> int | None:
    """A sum of what LOST frames claim, or the greatest that 64 bits hold."""
    return None if number is None else min(number, (1 << 64) - 1)


def _duckdb() -> Any:
    try:
        import duckdb
    except ImportError:
        raise KwireError("query", "", "duckdb is not installed", "pip install 'kwire[query]'") from None
    return duckdb
