"""`kwire cut`: a range of a capture, as a capture."""

import argparse

from kwire.cli.choosing import Progress, add_choice, capture_summary, lossy, ports, selection, totals, warn
from kwire.cli.lines import tell
from kwire.cli.status import worst
from kwire.errors import KwireError

HELP = "write a range of a capture, some of its probes or events, as a capture"

EPILOG = """\
examples:
  kwire cut demo.pcapng --from 12:30:00 --to 12:31:00 -w minute.pcapng
  kwire cut demo.pcapng --from +5s --probe 'kprobe:tcp_*' -w tcp.pcapng

What lies outside is left out, not lost: a comment in the outcome says what was chosen, and 'kwire verify'
proves that it is whole. LOST frames that touch the range are kept.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.epilog = EPILOG
    parser.add_argument("file", metavar="CAPTURE", help="a capture; - is standard input")
    parser.add_argument("-w", dest="write", metavar="OUT", required=True, help="the capture to write")
    add_choice(parser)


def run(args: argparse.Namespace) -> int:
    """Cut, and say how much is kept."""
    from kwire.analyze.cut_split import cut
    from kwire.analyze.source import Source

    with Source(args.file, **ports(args)) as source:
        found = capture_summary(source)
        chosen = selection(args, found, source.name)
        if chosen.everything:
            raise KwireError(
                "cut", source.name, "nothing says what to keep", "give --from, --to, --probe or --where"
            )
        progress = Progress(f"{args.write}: writing", source.size)
        try:
            piece = cut(source, found, chosen, args.write, progress)
        finally:
            progress.done()
        status = worst(warn(source.name, found), lossy(piece.totals))
        tell(f"{totals(piece.totals)} of {found.events:,}, {args.write}")
    return status
