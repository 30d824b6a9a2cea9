"""`kwire split`: a capture into several."""

import argparse
import sys

from kwire.cli.choosing import Progress, add_ports, capture_summary, lossy, ports, totals, warn
from kwire.cli.lines import say
from kwire.cli.status import worst
from kwire.cli.zone import add_utc
from kwire.view.text import line
from kwire.words import are

HELP = "write a capture as several: by probe, host, time, size or number of events"

EPILOG = """\
examples:
  kwire split demo.pcapng --by probe -w probes/
  kwire split demo.pcapng --by time=10s -w minutes/
  kwire split demo.pcapng --by size=100M -w parts/

Every event and every LOST frame is in one of the captures; each is whole in itself.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    from kwire.analyze.cut_split import KEYS

    by = "; ".join(f"{key}: {meaning}" for key, meaning in KEYS.items())
    parser.epilog = EPILOG
    parser.add_argument("file", metavar="CAPTURE", help="a capture; - is standard input")
    parser.add_argument("--by", metavar="KEY[=VALUE]", required=True, help=by)
    parser.add_argument("-w", dest="write", metavar="DIR", required=True, help="where the captures go")
    add_ports(parser)
    add_utc(parser)


def run(args: argparse.Namespace) -> int:
    """Split, and say what was made."""
    from kwire.analyze.cut_split import split
    from kwire.analyze.source import Source

    with Source(args.file, **ports(args)) as source:
        found = capture_summary(source)
        progress = Progress(f"{args.write}: writing", source.size)
        try:
            pieces = split(source, found, args.by, args.write, progress)
        finally:
            progress.done()
        status = worst(warn(source.name, found), lossy(*(piece.totals for piece in pieces)))
    lost = sum(piece.totals.lost for piece in pieces)
    if lost:
        say(f"{source.name}: {are(lost, 'event')} lost; 'kwire verify' names the holes")
    for piece in pieces:
        sys.stdout.write(f"{line(piece.path)}: {totals(piece.totals)}\n")
    return status
