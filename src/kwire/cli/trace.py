"""`kwire trace`: run a file of Python probes and print events as they come."""

import argparse
import sys

from kwire.cli import tracing
from kwire.errors import KwireError
from kwire.lang import tree
from kwire.lang.python import parse_file
from kwire.live.plan import Plan, Scope
from kwire.live.recorder import Sink
from kwire.view.render import Format, Renderer, Screen
from kwire.wire.schema import Schema

HELP = "run a file of Python probes and print events as they come"

EXAMPLES = """\
examples:
  kwire trace examples/web.py -c 'curl -s http://localhost/'
  kwire trace probes.py -p 4242 -d 10
  kwire trace probes.py --json | jq .fields
  kwire trace -H web1.example probes.py

The file is read, never run: module-level functions under @kwire.kprobe("..."), @kwire.tracepoint("...") and
their like are compiled to eBPF. docs/python.md describes what may stand in them.
"""

MAX_FILE = 1 << 20


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.epilog = EXAMPLES
    parser.add_argument("files", metavar="FILE.py", nargs="+", help="Python probes; - is standard input")
    parser.add_argument("-w", dest="write", metavar="FILE", help="keep the events in a capture, pcapng")
    parser.add_argument("--filter", metavar="EXPR", help="only where this is true; runs in the kernel")
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

        files = [{"name": name, "text": _read(name)} for name in args.files]
        tracing.report(remote.run({"files": files}, args, args.write, sinks))
        return 0
    from kwire.live.planner import plan_probes

    probes = read_probes(args.files)

    def make_plan(scope: Scope) -> Plan:
        return plan_probes(probes, args.filter, scope=scope)

    tracing.report(tracing.run(make_plan, args, args.write, sinks))
    return 0


def read_probes(names: list[str]) -> list[tree.Probe]:
    """The Python probes of these files; KwireError where one has none."""
    probes = []
    for name in names:
        found = parse_file(_read(name), name)
        if not found:
            cure = 'write functions under @kwire.kprobe("...")'
            raise KwireError("trace", name, "there is no probe in it", cure)
        probes += found
    return probes


def _format(args: argparse.Namespace, schemas: tuple[Schema, ...]) -> Format:
    if args.json:
        from kwire.view.jsonl import JsonLines

        return JsonLines()
    from kwire.view.table import Table
    from kwire.view.text import style

    table = Table(schemas, style(sys.stdout))
    sys.stdout.write(table.header() + "\n")
    return table


def _read(name: str) -> str:
    """The text of the file."""
    if name == "-":
        return sys.stdin.read(MAX_FILE)
    try:
        with open(name, encoding="utf-8") as file:
            return file.read(MAX_FILE)
    except OSError as error:
        raise KwireError("read", name, (error.strerror or str(error)).lower()) from None
    except UnicodeDecodeError as error:
        raise KwireError("read", name, f"it is not UTF-8 text at byte {error.start}") from None
