"""`kwire merge`: captures into one, in order of time."""

import argparse
from contextlib import ExitStack

from kwire.cli.choosing import Progress, add_ports, capture_summary, lossy, ports, totals, warn
from kwire.cli.lines import tell
from kwire.cli.status import worst
from kwire.errors import KwireError

HELP = "join captures into one, in order of time"

EPILOG = """\
examples:
  kwire merge web-1.pcapng web-2.pcapng -w all.pcapng
  kwire merge build-*.pcapng -w build.pcapng      # the files of a rotation

Each probe keeps its schema, its host and its clock. What a capture does not prove complete, the outcome does
not prove either: 'kwire verify' says so.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.epilog = EPILOG
    parser.add_argument("files", metavar="CAPTURE", nargs="+", help="captures; - is standard input")
    parser.add_argument("-w", dest="write", metavar="OUT", required=True, help="the capture to write")
    add_ports(parser)


def run(args: argparse.Namespace) -> int:
    """Merge, and say how much."""
    from kwire.analyze.merge import merge
    from kwire.analyze.source import Source

    if args.files.count("-") > 1:
        raise KwireError("merge", "-", "standard input can be read once only")
    with ExitStack() as stack:
        inputs = []
        for path in args.files:
            source = stack.enter_context(Source(path, **ports(args)))
            inputs.append((source, capture_summary(source)))
        progress = Progress(f"{args.write}: writing", sum(source.size for source, _ in inputs))
        try:
            sums = merge(inputs, args.write, progress)
        finally:
            progress.done()
        status = worst(lossy(sums), *(warn(source.name, found) for source, found in inputs))
    tell(f"{totals(sums)}, {args.write}")
    return status
