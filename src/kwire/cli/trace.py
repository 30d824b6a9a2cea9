"""`kwire trace`: print events as they come."""

import argparse
import sys

from kwire.capture.destination import is_standard_output
from kwire.cli import probes, tracing
from kwire.errors import KwireError
from kwire.hints import Any
from kwire.live.recorder import Sink
from kwire.view.render import Format, Renderer, Screen
from kwire.wire.schema import Schema

HELP = "print events as they come"

EXAMPLES = """\
examples:
  kwire trace 'tracepoint:syscalls:sys_enter_openat(filename, flags)' -c 'ls -l'
  kwire trace 'kprobe:tcp_connect(sk.__sk_common.skc_dport){uid == 1000}' -d 10
  kwire trace examples/web.py -c 'curl -s http://localhost/'
  kwire trace probes.py -p 4242 -d 10
  kwire trace probes.py --json | jq .fields
  kwire trace -H web1.example probes.py

Standard output is for the events: what the command prints goes to standard error. The exit status is that of
a command which ended by itself.

"""

COMMAND = True


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.epilog = EXAMPLES + probes.PROBES
    probes.add_arguments(parser)
    keep = "keep the events in a capture, pcapng, too; a file there is replaced"
    parser.add_argument("-w", dest="write", metavar="FILE", help=keep)
    parser.add_argument("--json", action="store_true", help="print one JSON object an event")
    tracing.add_arguments(parser)
    tracing.add_remote_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Trace, then say on standard error what was seen."""
    if args.write is not None and is_standard_output(args.write):
        raise KwireError(
            "write capture to",
            args.write,
            "standard output is for the events",
            "name a file, or use kwire record",
        )

    def sinks(schemas: tuple[Schema, ...]) -> list[Sink]:
        by_number = {schema.id: schema for schema in schemas}
        events = tuple(schema for schema in schemas if schema.map is None)
        return [Screen(Renderer(_format(args, events)), by_number, sys.stdout)]

    if args.host is not None:
        from kwire.cli import remote

        return _told(remote.run(probes.request(args.probes), args, args.write, sinks), args)
    return _told(tracing.run(args, args.write, sinks, aside=True), args)


def _told(summary: dict[str, Any], args: argparse.Namespace) -> int:
    """Say what was seen; the exit status."""
    if "maps" in summary:
        tracing.show_maps(summary, sys.stdout, args.json)
    tracing.report(summary)
    return tracing.exit_status(summary, args)


def _format(args: argparse.Namespace, schemas: tuple[Schema, ...]) -> Format:
    if args.json:
        from kwire.view.jsonl import JsonLines

        return JsonLines()
    from kwire.view.printed import Printed, are_printed

    if are_printed(schemas):
        return Printed(terminal=sys.stdout.isatty())
    from kwire.view.table import Table
    from kwire.view.text import style

    return Table(schemas, style(sys.stdout))
