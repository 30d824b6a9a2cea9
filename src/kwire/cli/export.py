"""`kwire export`: write a capture's events in another format."""

import argparse
import os
from typing import TYPE_CHECKING

from kwire.analyze.source import Source, UnforeseenError, check_output, source_of
from kwire.capture.destination import is_replaced
from kwire.cli.choosing import (
    CAPTURES,
    Progress,
    add_choice,
    beginning,
    capture_summary,
    check,
    needs_capture_summary,
    notes,
    ports,
    selection,
)
from kwire.cli.lines import say, tell
from kwire.cli.status import OK, worst
from kwire.collector.folder import SESSIONS
from kwire.errors import KwireError
from kwire.words import plural

if TYPE_CHECKING:
    from kwire.analyze.capture_summary import CaptureSummary
    from kwire.analyze.export import Format

HELP = "write events as Parquet, Arrow, CSV, NDJSON or a Perfetto trace"

EPILOG = """\
examples:
  kwire export demo.pcapng -o demo.parquet
  kwire export demo.pcapng -o opens.csv --probe '*openat'
  kwire export demo.pcapng -o demo.json          # open it at ui.perfetto.dev
  kwire export demo.pcapng -o tables/ --format parquet   # a file for each probe
  kwire export captures/*.pcapng --partition lake        # Parquet by probe, day and host

--partition DIR adds captures to a lake, each once: what was added before is left out. kwire query DIR asks
it.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    from kwire.analyze.export import FORMATS

    known = [f"{name} ({', '.join(form.extensions)}): {form.meaning}" for name, form in FORMATS.items()]
    output = "where to; - is standard output, DIR/ gets a file for each probe"
    parser.epilog = EPILOG
    parser.add_argument("files", metavar="CAPTURE", nargs="+", help=CAPTURES)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("-o", dest="output", metavar="FILE", help=output)
    lake = "add whole captures to the lake in this directory: Parquet by probe, day and host"
    where.add_argument("--partition", metavar="DIR", help=lake)
    form = f"else the extension tells. {'; '.join(known)}"
    parser.add_argument("--format", choices=list(FORMATS), help=form)
    add_choice(parser)


def run(args: argparse.Namespace) -> int:
    """Export, and say how much."""
    if args.partition is not None:
        return _partition(args)
    from kwire.analyze.capture_summary import CaptureSummary
    from kwire.analyze.export import Needs, format_of

    each = args.output.endswith("/") or os.path.isdir(args.output)
    if each and args.format is None:
        raise KwireError("export", args.output, "a directory has no extension", "name a --format")
    form = format_of(args.output, args.format)
    with source_of(args.files, **ports(args)) as source:
        needs = Needs.SUMMARY if each or needs_capture_summary(args) else form.needs
        if needs is Needs.TABLES and is_replaced(args.output):
            try:
                return _write(args, source, form, beginning(source))
            except UnforeseenError:
                source.anew()
        return _write(
            args, source, form, CaptureSummary() if needs is Needs.NOTHING else capture_summary(source)
        )


def _write(args: argparse.Namespace, source: Source, form: "Format", found: "CaptureSummary") -> int:
    """Write what is chosen of a capture of which so much is known. UnforeseenError: that is too little."""
    from kwire.analyze.export import apart, export_file, whole
    from kwire.analyze.scan import Scan
    from kwire.analyze.tables import Tables

    each = args.output.endswith("/") or os.path.isdir(args.output)
    chosen = selection(args, found, source.name)
    tables = Tables(seen.schema for seen in found.probes if chosen.wants(seen.schema))
    paths = [args.output]
    if each:
        os.makedirs(args.output, exist_ok=True)
        paths = [os.path.join(args.output, table.name + form.extensions[0]) for table in tables]
    for path in paths:
        check_output(path, [source])
    progress, once = Progress(f"{args.output}: writing", source.size), not found.read
    try:
        with source.open(once=once) as capture:
            scan = Scan(capture, chosen, progress, watch=found.add if once else None)

            def done() -> None:
                """Hold what was chosen, and foreseen, against what the capture turned out to have."""
                found.end(capture, source)
                check(chosen, found, source.name)
                now = Tables(seen.schema for seen in found.probes if chosen.wants(seen.schema))
                if len(tables) and not tables.same(now):
                    raise UnforeseenError

            if each:
                for path, (_, export) in zip(paths, apart(scan, found, tables), strict=True):
                    export_file(export, path, form)
            else:
                export_file(whole(scan, found, tables, done if once else None), args.output, form)
    finally:
        progress.done()
    status = notes(source.name, found)
    where = "standard output" if args.output == "-" else args.output
    rows = f" and {plural(scan.rows, 'row')} of maps" if scan.rows else ""
    tell(f"{plural(scan.events, 'event')}{rows} written to {where}")
    return status


def _partition(args: argparse.Namespace) -> int:
    """Add captures to a lake, one after the other."""
    from kwire.lake.add import add, is_settled
    from kwire.lake.directory import Lake

    if args.format is not None:
        raise KwireError("export", args.partition, "a lake is Parquet", "leave --format out")
    for name, option in (("probe", "--probe"), ("where", "--where"), ("begin", "--from"), ("end", "--to")):
        if getattr(args, name) is not None:
            cause = f"a lake takes whole captures, so that each event is in it once: {option} chooses"
            cure = "cut what you want with 'kwire cut', and add that"
            raise KwireError("export", args.partition, cause, cure)
    lake, status = None, OK
    events = rows = known = 0
    for path in args.files:
        with source_of([path], **ports(args)) as source:
            found = capture_summary(source)
            progress = Progress(f"{source.name}: adding", source.size)
            collected = os.path.isdir(os.path.join(os.path.dirname(os.path.abspath(path)), SESSIONS))
            settled = not collected and is_settled(found)  # a collector may go on with its captures
            lake = lake or Lake(args.partition, make=True)
            try:
                added = add(lake, source, found, settled=settled, progress=progress)
            finally:
                progress.done()
            status = worst(status, notes(source.name, found))
            for text in added.said:
                say(text)
            if added.new:
                events, rows = events + added.events, rows + added.rows
            else:
                known += 1
    maps = f" and {plural(rows, 'row')} of maps" if rows else ""
    before = f"; {plural(known, 'capture')} had been added before" if known else ""
    tell(f"{plural(events, 'event')}{maps} added to {args.partition}{before}")
    return status
