"""`kwire query`: ask a capture in SQL."""

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any, Final, TextIO

from kwire.analyze.source import Source, UnforeseenError, source_of
from kwire.analyze.tables import COMMON
from kwire.cli.choosing import (
    CAPTURES,
    Progress,
    add_choice,
    beginning,
    capture_summary,
    limits,
    needs_capture_summary,
    notes,
    ports,
    selection,
)
from kwire.cli.lines import say
from kwire.cli.process import on_signal
from kwire.cli.status import NOT_WHOLE, OK
from kwire.errors import KwireError
from kwire.view.text import safe
from kwire.wire.schema import EARLIEST, LATEST
from kwire.words import are

if TYPE_CHECKING:
    from kwire.analyze.capture_summary import CaptureSummary
    from kwire.analyze.database import Database
    from kwire.lake.database import LakeDatabase

INTERMIXED = True
HELP = "ask a capture in SQL; without SQL, list its tables"

EPILOG = """\
examples:
  kwire query demo.pcapng
  kwire query demo.pcapng 'SELECT comm, count(*) AS n FROM events GROUP BY comm ORDER BY n DESC LIMIT 10'
  kwire query demo.pcapng --from +5s --csv 'SELECT time_ns, filename FROM sys_enter_openat'
  kwire query lake --from 2026-11-30 "SELECT host, count(*) FROM sched_process_exec GROUP BY host"

Each probe is a table; `events` has what all share, `lost` the holes, `probes` what was counted. A column
that shows names has its number beside it, as NAME_raw. The column time is local time (--utc: UTC), time_ns
is nanoseconds since 1970 UTC. SQL is DuckDB's, and reaches no file.
"""

HELD: Final = 64 << 20  # characters of an answer that wait until the capture was read
#: Tables that kwire adds → what they hold.
ADDED: Final = {
    "events": "every event: what all probes share",
    "probes": "one row a probe: what was counted",
    "lost": "one row a hole: how many events are missing, when and why",
}
#: Arrow types → DuckDB's.
TYPES: Final = {
    "int8": "TINYINT", "int16": "SMALLINT", "int32": "INTEGER", "int64": "BIGINT",
    "uint8": "UTINYINT", "uint16": "USMALLINT", "uint32": "UINTEGER", "uint64": "UBIGINT",
    "string": "VARCHAR", "binary": "BLOB", "bool": "BOOLEAN", "timestamp[ns]": "TIMESTAMP_NS",
}  # fmt: skip


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.epilog = EPILOG
    words = f"{CAPTURES}, or the directory of a lake; then what to ask, in SQL: - is standard input"
    parser.add_argument("files", metavar="CAPTURE… [SQL]", nargs="+", help=words)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one object a row and line")
    form.add_argument("--csv", action="store_true", help="comma-separated values with a header")
    add_choice(parser)


def run(args: argparse.Namespace) -> int:
    """Answer, or list what can be asked."""
    paths, sql = _split(args.files)
    if sql is not None:
        sql = _text(sql)
    if any(map(os.path.isdir, paths)):
        return _ask_lake(args, paths, sql)
    with source_of(paths, **ports(args)) as source:
        if sql is not None and not needs_capture_summary(args):
            try:
                return _ask(args, source, beginning(source), sql)
            except UnforeseenError:
                source.anew()
        return _ask(args, source, capture_summary(source), sql)


def _ask(args: argparse.Namespace, source: Source, found: "CaptureSummary", sql: str | None) -> int:
    """Answer from a capture of which so much is known. UnforeseenError: that is too little."""
    from kwire.analyze.database import Database, QueryError

    with Database(source, found, selection(args, found, source.name)) as database:
        if sql is None:
            _list(database, json=args.json)
            return notes(source.name, found)
        progress = Progress(f"{source.name}: reading", source.size)
        database.progress = progress
        out = _Held(sys.stdout, found)
        try:
            with on_signal(database.interrupt):
                _writer(args)(database.query(sql), out)
                database.finish()
            out.write("")
        except QueryError:
            if found.read or database.interrupted:
                out.write("", at_once=True)
                raise
            raise UnforeseenError from None
        finally:
            progress.done()
        return notes(source.name, found)


def _ask_lake(args: argparse.Namespace, paths: list[str], sql: str | None) -> int:
    """Answer from a lake."""
    from kwire.lake.database import LakeDatabase, span
    from kwire.lake.directory import Lake

    if len(paths) > 1:
        raise KwireError("query", " ".join(paths), "a lake is asked alone", "give one directory")
    if args.where is not None:
        raise KwireError("query", paths[0], "--where is for captures", "write the condition in the SQL")
    lake = Lake(paths[0])
    first, last = limits(args, *span(lake)) if args.begin or args.end else (EARLIEST, LATEST)
    with LakeDatabase(lake, args.probe, first, last) as database:
        if sql is None:
            _list(database, json=args.json)
        else:
            with on_signal(database.interrupt):
                _writer(args)(database.query(sql), sys.stdout)
        if database.lost:
            say(f"{paths[0]}: {are(database.lost, 'event')} lost; the table lost names the holes")
        return NOT_WHOLE if database.lost else OK


def _writer(args: argparse.Namespace) -> Any:
    """What prints an answer."""
    from kwire.analyze import rows

    return rows.write_json if args.json else rows.write_csv if args.csv else rows.write_table


class _Held:
    """Text that waits until the capture was read, as it may have to be made anew. UnforeseenError: it is
    too much for that.
    """

    def __init__(self, out: TextIO, found: "CaptureSummary") -> None:
        self._out, self._found = out, found
        self._parts: list[str] = []
        self._size = 0

    def write(self, text: str, *, at_once: bool = False) -> int:
        """Write text, or hold it."""
        if not (self._found.read or at_once):
            self._parts.append(text)
            self._size += len(text)
            if self._size > HELD:
                raise UnforeseenError
            return len(text)
        for part in self._parts:
            self._out.write(part)
        self._parts = []
        return self._out.write(text)


def _split(words: list[str]) -> tuple[list[str], str | None]:
    """The captures and the SQL among the words: the last one, unless that is a file or looks like one."""
    last = words[-1]
    sql = last == "-" or any(char in last for char in " \n\t(;")
    if len(words) == 1 or os.path.exists(last) or not sql:
        return words, None
    return words[:-1], last


def _text(given: str) -> str:
    """The SQL of the command line or of standard input."""
    try:
        sql = sys.stdin.read() if given == "-" else given
        sql.encode()
    except UnicodeError as error:  # bytes that are no text in our encoding
        at = getattr(error, "start", 0)
        raise KwireError(
            "read", "SQL", f"it is no text from its character {at + 1} on", "write UTF-8"
        ) from None
    return sql


def _list(database: "Database | LakeDatabase", *, json: bool) -> None:
    """The tables with their columns: those of probes, then what kwire adds."""
    if json:
        from json import dumps

        for name, schema in database.schemas.items():
            columns = [{"name": field.name, "type": sql_type(field.type)} for field in schema]
            sys.stdout.write(dumps({"table": name, "columns": columns}) + "\n")
        return
    sys.stdout.write("every probe's table has the columns time, time_ns and host of events, and:\n")
    probes = {table.name: table.probe for table in database.tables}
    for name, schema in database.schemas.items():
        about = safe(probes[name]) if name in probes else ADDED[name]
        sys.stdout.write(f"{name}  -- {about}\n")
        for field in schema:
            if name in probes and field.name in COMMON:
                continue
            unit = (field.metadata or {}).get(b"unit", b"").decode()
            meaning = (field.metadata or {}).get(b"meaning", b"").decode() or (
                COMMON.get(field.name, "") if name == "events" else ""
            )
            note = safe(" ".join(filter(None, (meaning, f"({unit})" if unit else ""))))
            line = f"    {_quoted(field.name):<24}  {sql_type(field.type):<14}  {note}"
            sys.stdout.write(line.rstrip() + "\n")


def _quoted(name: str) -> str:
    """A column's name as SQL wants it written."""
    plain = name.isidentifier() and name.isascii()
    return name if plain else '"' + name.replace('"', '""') + '"'


def sql_type(kind: Any) -> str:
    """DuckDB's name for an Arrow type."""
    text = str(kind)
    if text.startswith("list<"):
        return sql_type(kind.value_type) + "[]"
    return TYPES.get(text, text.upper())
