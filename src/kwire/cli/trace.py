"""`kwire trace`: print events as they come."""

import argparse
import sys

from kwire.cli import probes, tracing
from kwire.errors import KwireError
from kwire.live.plan import Plan, Scope
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

"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.epilog = EXAMPLES + probes.PROBES
    probes.add_arguments(parser)
    parser.add_argument("-w", dest="write", metavar="FILE", help="keep the events in a capture, pcapng")
    parser.add_argument("--json", action="store_true", help="print one JSON object an event")
    tracing.add_arguments(parser)
    tracing.add_remote_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Trace, then say on standard error what was seen."""
    if args.write == "-":
        raise KwireError(
            "write capture to", "-", "standard output is for the events", "name a file, or use kwire record"
        )

    def sinks(schemas: tuple[Schema, ...]) -> list[Sink]:
        by_number = {schema.id: schema for schema in schemas}
        return [Screen(Renderer(_format(args, schemas)), by_number, sys.stdout)]

    if args.host:
        from kwire.cli import remote

        tracing.report(remote.run(probes.request(args.probes), args, args.write, sinks))
        return 0
    from kwire.live import planner

    wanted = probes.read(args.probes)

    def make_plan(scope: Scope) -> Plan:
        return planner.make_plan(wanted, args.filter, scope=scope)

    tracing.report(tracing.run(make_plan, args, args.write, sinks))
    return 0


def _format(args: argparse.Namespace, schemas: tuple[Schema, ...]) -> Format:
    if args.json:
        from kwire.view.jsonl import JsonLines

        return JsonLines()
    from kwire.view.table import Table
    from kwire.view.text import style

    table = Table(schemas, style(sys.stdout))
    sys.stdout.write(table.header() + "\n")
    return table
