"""`kwire record`: capture events to a file without writing a program."""

import argparse
import sys

from kwire.cli import tracing
from kwire.live.plan import Plan, Scope

HELP = "capture events to a file, without writing a program"

EXAMPLES = """\
examples:
  kwire record tracepoint:sched:sched_switch -d 5 -w switches.pcapng
  kwire record 'tracepoint:syscalls:sys_enter_openat(str(filename), flags)' -c 'ls -l' -w opens.pcapng
  kwire record 'kprobe:tcp_connect(sk.__sk_common.skc_dport)' --filter 'uid == 1000' -w connects.pcapng
  kwire record 'tracepoint:block:*' -w - | tshark -r -
  kwire record -H web1.example tracepoint:sched:sched_process_exec -w execs.pcapng

PROBE is kind:target; a target may have wildcards (*, ?, [..]). Kinds: tracepoint, rawtracepoint, kprobe,
kretprobe, fentry, fexit; `kwire list` shows what there is. Without (expr, ...) a record has the probe's own
fields; always the time, CPU, pid, tid and comm.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.epilog = EXAMPLES
    parser.add_argument(
        "probes", metavar="PROBE", nargs="+", help="kind:target or kind:target(expr, name=expr, ...)"
    )
    parser.add_argument(
        "-w", dest="write", metavar="FILE", required=True, help="the capture, pcapng; - is standard output"
    )
    parser.add_argument("--filter", metavar="EXPR", help="record only where this is true; runs in the kernel")
    parser.add_argument("--json", action="store_true", help="print a summary object at the end")
    tracing.add_arguments(parser)
    tracing.add_remote_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Record, then say what was recorded."""
    if args.host:
        from kwire.cli import remote

        summary = remote.run({"probes": args.probes}, args, args.write)
    else:
        from kwire.live.planner import plan_specs

        def make_plan(scope: Scope) -> Plan:
            return plan_specs(args.probes, args.filter, scope=scope)

        summary = tracing.run(make_plan, args, args.write)
    out = sys.stderr if args.write == "-" else sys.stdout
    if args.json:
        import json

        print(json.dumps(summary), file=out)
    else:
        tracing.report(summary)
    return 0
