"""`kwire record`: capture events to a file."""

import argparse
import sys

from kwire.cli import probes, tracing
from kwire.live.plan import Plan, Scope

HELP = "capture events to a file"

EXAMPLES = """\
examples:
  kwire record tracepoint:sched:sched_switch -d 5 -w switches.pcapng
  kwire record 'tracepoint:syscalls:sys_enter_openat(str(filename), flags)' -c 'ls -l' -w opens.pcapng
  kwire record 'kprobe:tcp_connect(sk.__sk_common.skc_dport)' --filter 'uid == 1000' -w connects.pcapng
  kwire record 'tracepoint:sched:sched_switch(prev_comm){prev_comm ~ "cc*"}' probes.py -w both.pcapng
  kwire record 'tracepoint:block:*' -w - | tshark -r -
  kwire record -H web1.example tracepoint:sched:sched_process_exec -w execs.pcapng

"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.epilog = EXAMPLES + probes.PROBES
    probes.add_arguments(parser)
    parser.add_argument(
        "-w", dest="write", metavar="FILE", required=True, help="the capture, pcapng; - is standard output"
    )
    parser.add_argument("--json", action="store_true", help="print a summary object at the end")
    tracing.add_arguments(parser)
    tracing.add_remote_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Record, then say what was recorded."""
    if args.host:
        from kwire.cli import remote

        summary = remote.run(probes.request(args.probes), args, args.write)
    else:
        from kwire.live import planner

        wanted = probes.read(args.probes)

        def make_plan(scope: Scope) -> Plan:
            return planner.make_plan(wanted, args.filter, scope=scope)

        summary = tracing.run(make_plan, args, args.write)
    out = sys.stderr if args.write == "-" else sys.stdout
    if args.json:
        import json

        print(json.dumps(summary), file=out)
    else:
        tracing.report(summary)
    return 0
