"""`kwire record`: capture events to a file."""

import argparse
import sys

from kwire.capture.destination import is_standard_output
from kwire.cli import metrics, probes, tracing

HELP = "capture events to a file"

EXAMPLES = """\
examples:
  kwire record tracepoint:sched:sched_switch -d 5 -w switches.pcapng
  kwire record 'tracepoint:syscalls:sys_enter_openat(str(filename), flags)' -c 'ls -l' -w opens.pcapng
  kwire record 'kprobe:tcp_connect(sk.__sk_common.skc_dport)' --filter 'uid == 1000' -w connects.pcapng
  kwire record 'tracepoint:sched:sched_switch(prev_comm){prev_comm ~ "cc*"}' probes.py -w both.pcapng
  kwire record tracepoint:sched:sched_process_exec -w execs.pcapng -- make all
  kwire record 'tracepoint:block:*' -w - | tshark -r -
  kwire record -H web1.example tracepoint:sched:sched_process_exec -w execs.pcapng

The file grows while it is recorded, so that 'kwire show --follow' shows it, and is readable after kill -9.
Where our bytes go to standard output (-w -, --json), what the command prints goes to standard error. The exit
status is that of a command which ended by itself.

"""

COMMAND = True


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.epilog = EXAMPLES + probes.PROBES
    probes.add_arguments(parser)
    parser.add_argument(
        "-w",
        dest="write",
        metavar="FILE",
        required=True,
        help="the capture, pcapng; - is standard output; a file there is replaced once probes are attached",
    )
    parser.add_argument("--json", action="store_true", help="print a summary object at the end")
    metrics.add_arguments(parser, maps=True)
    tracing.add_arguments(parser)
    tracing.add_remote_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Record, then say what was recorded; the command's exit status."""
    metrics.check(args)
    if args.host is not None:
        from kwire.cli import remote

        metrics.not_elsewhere(args)
        summary = remote.run(probes.request(args.probes), args, args.write)
    else:
        summary = tracing.run(args, args.write, aside=args.json)
    out = sys.stderr if is_standard_output(args.write) else sys.stdout
    if args.json:
        import json

        print(json.dumps(summary), file=out)
    else:
        if "maps" in summary:
            tracing.show_maps(summary, out)
        tracing.report(summary)
    return tracing.exit_status(summary, args)
