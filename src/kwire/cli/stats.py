"""`kwire stats`: what is in a capture, in numbers, histograms and pictures."""

import argparse
import sys

from kwire.analyze.source import check_output, source_of
from kwire.cli.choosing import (
    CAPTURES,
    Progress,
    add_choice,
    capture_summary,
    check,
    needs_capture_summary,
    notes,
    ports,
    selection,
)
from kwire.view.text import style

HELP = "rates, losses, silences and distributions of a capture"

EPILOG = """\
examples:
  kwire stats demo.pcapng
  kwire stats demo.pcapng --probe '*read' --from +5s --to +10s
  kwire stats demo.pcapng --plot demo.png
  kwire stats demo.pcapng --json | jq '.probes[] | {probe, events, lost}'
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.epilog = EPILOG
    parser.add_argument("files", metavar="CAPTURE", nargs="+", help=CAPTURES)
    parser.add_argument("--json", action="store_true", help="print one object")
    parser.add_argument("--plot", metavar="FILE", help="draw rates, latency and talkers: .png or .svg")
    add_choice(parser)


def run(args: argparse.Namespace) -> int:
    """Count, and report."""
    from kwire.analyze.capture_summary import CaptureSummary
    from kwire.analyze.report import as_object, lines
    from kwire.analyze.stats import Stats

    with source_of(args.files, **ports(args)) as source:
        if args.plot is not None:
            check_output(args.plot, [source])
        found = capture_summary(source) if needs_capture_summary(args) else CaptureSummary()
        read, chosen = found.read, selection(args, found, source.name)
        progress = Progress(f"{source.name}: counting", source.size)
        try:
            stats = Stats(source, found, chosen, progress)
        finally:
            progress.done()
        if not read:
            check(chosen, found, source.name)
        if args.plot is not None:
            from kwire.analyze.plot import plot

            plot(stats, args.plot)
        if args.json:
            import json

            sys.stdout.write(json.dumps(as_object(stats)) + "\n")
        else:
            sys.stdout.writelines(f"{line}\n" for line in lines(stats, style(sys.stdout)))
        return notes(source.name, found)
