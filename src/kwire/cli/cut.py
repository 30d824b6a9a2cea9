"""`kwire cut`: a range of a capture, as a capture."""

import argparse
from typing import TYPE_CHECKING

from kwire.cli.choosing import Progress, add_choice, capture_summary, lossy, ports, selection, totals, warn
from kwire.cli.lines import say, tell
from kwire.cli.status import worst
from kwire.errors import KwireError

if TYPE_CHECKING:
    from kwire.analyze.capture_summary import CaptureSummary
    from kwire.analyze.selection import Selection

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
        events = sum(seen.events for seen in found.probes if seen.schema.map is None)
        tell(f"{totals(piece.totals)} of {events:,}, {args.write}")
        if left := _left_out(found, chosen):
            also = "what maps held is no event" if chosen.conditional else "--probe 'map:*' cuts them"
            say(f"note: the tables of {_listed(left)} are left out: {also}")
    return status


def _left_out(found: "CaptureSummary", chosen: "Selection") -> list[str]:
    """The maps of which tables are there, and none is chosen."""
    return [
        seen.schema.probe.partition(":")[2]
        for seen in found.probes
        if seen.schema.map is not None and not seen.schema.tells and seen.events
        if chosen.conditional or not chosen.wants(seen.schema)
    ]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
