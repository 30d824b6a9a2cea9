"""What `record` and `trace` have in common: the choice of processes and limits, the run, the report.

The laws: Ctrl-C, SIGTERM and a limit end a trace the same clean way; capabilities are given up as soon as
everything is attached; the command of `-c` starts only then.
"""

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from kwire.capture.writer import Writer
from kwire.cli import values
from kwire.kernel import privileges
from kwire.live.command import Command, split
from kwire.live.environment import complete
from kwire.live.plan import Plan, Scope
from kwire.live.processes import Processes
from kwire.live.recorder import Limits, Recorder, Sink
from kwire.live.summary import Counts, summarize
from kwire.live.tracer import Tracer
from kwire.wire.schema import Schema

ROTATING = ("CAP_DAC_OVERRIDE",)
"""Kept with --rotate: further files are opened later, in a folder that may be another user's."""

CLEAR_LINE = "\r\x1b[K"


def add_arguments(parser: argparse.ArgumentParser, *, rotate: bool = True) -> None:
    """The arguments that say whom to trace, for how long, and (`rotate`) when a new file is begun."""
    whom = parser.add_argument_group("whom to trace (default: the whole machine but kwire)")
    whom.add_argument(
        "-c", dest="command", metavar="'COMMAND ARGS'", help="this command, and whatever it starts"
    )
    whom.add_argument(
        "-p",
        dest="pids",
        metavar="PID[,PID]",
        type=values.process_ids,
        action="extend",
        help="these processes, their children and whatever they start",
    )
    limits = parser.add_argument_group(
        "how long (default: until Ctrl-C, or the end of the command or processes)"
    )
    limits.add_argument("-d", dest="seconds", metavar="TIME", type=values.seconds, help="so long: 10, 5m")
    limits.add_argument("-n", dest="count", metavar="COUNT", type=values.count, help="so many events")
    parser.add_argument(
        "--buffer",
        metavar="SIZE",
        type=values.size,
        help="each CPU's ring buffer (default 8M, less with many CPUs): more rides out longer pauses",
    )
    if not rotate:
        return
    parser.add_argument(
        "--rotate",
        metavar="SIZE|TIME",
        type=values.rotation,
        default=(0, 0.0),
        help="with -w: begin a new file after so much (100M) or so long (60s)",
    )


def add_remote_arguments(parser: argparse.ArgumentParser) -> None:
    """`-H`, and how the agent there is reached."""
    from kwire.stream.arguments import add_transport_arguments

    parser.add_argument(
        "-H",
        dest="host",
        metavar="HOST",
        help="on that machine, by its agent: a name (TLS, port 17800), or tls:HOST:PORT, unix:PATH …",
    )
    add_transport_arguments(parser, json=False)


class _Stop:
    """SIGINT and SIGTERM as a readable descriptor; a second one interrupts at once."""

    __slots__ = ("_before", "fd")

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._before = {
            number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)
        }

    def _note(self, number: int, frame: FrameType | None) -> None:
        os.eventfd_write(self.fd, 1)
        self.restore()

    def restore(self) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)


class Progress:
    """One line on a terminal: events, rate, lost, bytes. Silent where standard error is none."""

    __slots__ = ("_counts", "_shown", "_start", "_writer")

    def __init__(self, counts: Counts, writer: Writer | None) -> None:
        self._counts = counts
        self._writer = writer
        self._start = time.monotonic()
        self._shown = False

    def __call__(self) -> None:
        """Show where we are."""
        if not sys.stderr.isatty():
            return
        events = self._counts.events
        rate = events / max(time.monotonic() - self._start, 1e-3)
        size = f", {human_size(self._writer.size)}" if self._writer else ""
        sys.stderr.write(f"{CLEAR_LINE}{events:,} events, {rate:,.0f}/s, {self._counts.lost:,} lost{size}")
        sys.stderr.flush()
        self._shown = True

    def clear(self) -> None:
        """Take the line away."""
        if self._shown:
            sys.stderr.write(CLEAR_LINE)
            self._shown = False


def human_size(size: float) -> str:
    """A number of bytes as a person reads it."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return ""


def report(summary: dict[str, Any]) -> None:
    """Say on standard error what was recorded."""
    lost = f"{summary['lost']:,} lost" if summary["lost"] else "none lost"
    place = f", {human_size(summary['bytes'])} in {', '.join(summary['files'])}" if "files" in summary else ""
    sys.stderr.write(f"{summary['events']:,} events, {lost}{place}\n")


def run(
    make_plan: Callable[[Scope], Plan],
    args: argparse.Namespace,
    write: str | None,
    sinks: Callable[[tuple[Schema, ...]], list[Sink]] = lambda schemas: [],
) -> dict[str, Any]:
    """Trace as the arguments say, to the file `write` and to other sinks; give the summary object.

    `make_plan` is given whose events are wanted.
    """
    with chosen(args) as processes:
        plan = make_plan(processes.scope)
        plan = plan._replace(schemas=complete(plan.schemas))
        say_skipped(plan)
        return _trace(plan, args, write, sinks(plan.schemas), processes)


@contextlib.contextmanager
def chosen(args: argparse.Namespace) -> Iterator[Processes]:
    """The processes that the arguments choose; the command is ended at the end."""
    command = Command(split(args.command)) if args.command else None
    try:
        with Processes(args.pids or (), command, without=(os.getpid(),)) as processes:
            yield processes
    finally:
        if command:
            command.end()


def say_skipped(plan: Plan) -> None:
    """Say on standard error what of the wildcards is left out, and what is not filtered."""
    if plan.skipped:
        target, why = plan.skipped[0]
        number = len(plan.skipped)
        sys.stderr.write(f"kwire: {number} targets are left out, the first {target}: {why}\n")
    for probe, why in plan.unfiltered:
        say_unfiltered(probe, why)


def say_unfiltered(probe: str, why: str) -> None:
    """Say that the filter does not apply to a probe."""
    sys.stderr.write(f"kwire: --filter does not apply to {probe}, whose events all are taken: {why}\n")


def _trace(
    plan: Plan,
    args: argparse.Namespace,
    write: str | None,
    sinks: list[Sink],
    processes: Processes,
) -> dict[str, Any]:
    command = processes.command
    with Tracer(plan, buffer=args.buffer, follow=processes.chosen) as tracer:
        stop = _Stop()
        writer = None
        try:
            tracer.follow(processes)
            tracer.attach()
            if write:
                system = os.uname()
                writer = Writer(
                    write,
                    plan.schemas,
                    host=system.nodename,
                    kernel=system.release,
                    rotate_bytes=args.rotate[0],
                    rotate_seconds=args.rotate[1],
                )
            privileges.drop(keep=ROTATING if args.rotate != (0, 0.0) else ())
            targets: list[Sink] = [*([writer] if writer else []), *sinks]
            recorder = Recorder(tracer, targets, Limits(args.seconds, args.count))
            progress = Progress(recorder, writer)
            start = time.monotonic()
            if command:
                command.go()
            recorder.run(processes, stop.fd, progress)
            progress.clear()
            seconds = time.monotonic() - start
            produced = recorder.produced()
            totals = writer.close(produced) if writer else {}
            status = command.status if command and command.ended() else None
            status = None if status is None else os.waitstatus_to_exitcode(status)
            return summarize(plan.schemas, recorder, writer, produced, totals, seconds, status)
        finally:
            stop.restore()
            os.close(stop.fd)
            if writer:
                writer.close()
