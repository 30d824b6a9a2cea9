"""What `record` and `trace` have in common: the choice of processes and limits, the run, the report.

Invariants: Ctrl-C, SIGTERM, SIGHUP and a limit end a trace the same clean way; before it has begun they break
it off, and a file that is there stays as it was. The order is: the command is looked up, forked and held
back; everything is attached; the capture is begun beside its place; the command starts, the capture takes its
place, capabilities are given up. From then on the file grows under its name, so that it can be followed, and
is there after kill -9.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType

from kwire.capture.destination import OutputError, is_standard_output
from kwire.cli import lines, probes, values
from kwire.cli.lines import say, tell
from kwire.cli.process import ending_signals
from kwire.cli.status import NOT_WHOLE, OK, of_command
from kwire.hints import IO, TYPE_CHECKING, Any
from kwire.interrupts import Asked
from kwire.words import are, human_size, lost, plural

if TYPE_CHECKING:
    from kwire.capture.writer import Writer
    from kwire.cli.parts import Parts
    from kwire.live.ground import Ground
    from kwire.live.plan import Plan
    from kwire.live.processes import Processes
    from kwire.live.recorder import Recorder, Sink
    from kwire.live.summary import Counts
    from kwire.live.tracer import Tracer
    from kwire.wire.frames import Frames
    from kwire.wire.messages import Lost
    from kwire.wire.schema import Schema

ROTATING = ("CAP_DAC_OVERRIDE",)
"""Capabilities kept with --rotate: further files are opened later, in a folder that may be another user's."""

SPARE = 6
"""Descriptors that a recording may need after it has begun: for its next file, for what the kernel tells."""

CLEAR_LINE = "\r\x1b[K"

FULL = "the disk is full, or a limit of file sizes is met; events are lost until there is room"


def add_arguments(parser: argparse.ArgumentParser, *, rotate: bool = True) -> None:
    """The arguments that say whom to trace, for how long, and (`rotate`) when a new file is begun."""
    add_whom(parser)
    values.add_limits(parser, "until Ctrl-C, or the end of the command or processes", "so many events")
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
    values.add_clobber(parser)


def add_whom(
    parser: argparse.ArgumentParser,
    command: str = "this command, and whatever it starts; or write it at the end, behind --",
    processes: str = "these processes, their children and whatever they start",
    default: str = "the whole machine but kwire",
) -> None:
    """The arguments that say whom to trace, and what `-c` and `-p` mean; no `processes`: without `-p`."""
    whom = parser.add_argument_group(f"whom to trace (default: {default})")
    whom.add_argument("-c", dest="command", metavar="'COMMAND ARGS'", type=values.command, help=command)
    whom.add_argument(
        "--no-command-status", action="store_true", help="do not exit with the status of the command"
    )
    parser.set_defaults(pids=None, everyone=False)
    if processes:
        whom.add_argument(
            "-p",
            dest="pids",
            metavar="PID[,PID]",
            type=values.process_ids,
            action="extend",
            help=processes,
        )


def add_remote_arguments(parser: argparse.ArgumentParser) -> None:
    """`-H`, and how the agent there is reached."""
    from kwire.cli.network import add_transport_arguments

    parser.add_argument(
        "-H",
        dest="host",
        metavar="HOST",
        help="on that machine, by its agent: a name (TLS, port 17800), or tls:HOST:PORT, unix:PATH …",
    )
    add_transport_arguments(parser, json=False)


class _Stop:
    """The signals that end a recording as a readable descriptor; a Ctrl-C later on interrupts at once."""

    __slots__ = ("_before", "_signals", "asked", "fd")

    def __init__(self) -> None:
        self._signals = Asked()
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.asked = False
        """Whether somebody wanted the end before the recording came to it."""
        self._before = {number: signal.signal(number, self._note) for number in ending_signals()}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signals.again() and number != signal.SIGHUP:  # it comes twice where a terminal closes
            self.restore()
            os.kill(os.getpid(), number)
        self.now()

    def now(self) -> None:
        """End the recording."""
        self.asked = True
        os.eventfd_write(self.fd, 1)

    def restore(self) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)


class _Shown:
    """A sink that people watch: when it cannot be written any more, the recording ends, in order."""

    __slots__ = ("_sink", "_stop", "problem")

    def __init__(self, sink: Sink, stop: _Stop) -> None:
        self._sink, self._stop = sink, stop
        self.problem: OSError | OutputError | None = None

    def write(self, frames: Frames) -> None:
        """Take frames."""
        self._do(lambda: self._sink.write(frames))

    def lost(self, losses: list[Lost]) -> None:
        """Take losses."""
        self._do(lambda: self._sink.lost(losses))

    def flush(self) -> None:
        """The end of a round."""
        self._do(self._sink.flush)

    def _do(self, call: Callable[[], None]) -> None:
        if self.problem is None:
            try:
                call()
            except (OSError, OutputError) as error:
                # Where it was raised is of no interest, and would keep what is in the rings in use.
                self.problem = error.with_traceback(None)
                self.problem.__context__ = None
                self._stop.now()


class Progress:
    """One line on a terminal: events, rate, lost, bytes. Anywhere, once: that the disk is full, and what has
    ended of the trace.
    """

    __slots__ = ("_counts", "_shown", "_start", "_told", "_tracer", "_writer")

    def __init__(self, counts: Counts, writer: Writer | None, tracer: Tracer | None = None) -> None:
        self._counts = counts
        self._tracer = tracer
        self._writer = writer
        self._start = time.monotonic()
        self._shown = self._told = False

    def __call__(self) -> None:
        """Show where we are."""
        self.tell()
        if not lines.are_seen():
            return
        events = self._counts.events
        rate = events / max(time.monotonic() - self._start, 1e-3)
        size = f", {human_size(self._writer.size)}" if self._writer else ""
        sys.stderr.write(
            f"{CLEAR_LINE}{plural(events, 'event')}, {rate:,.0f}/s, {self._counts.lost:,} lost{size}"
        )
        sys.stderr.flush()
        self._shown = True

    def tell(self) -> None:
        """Say that the disk is full, and what has ended of the trace, as soon as it is so."""
        if self._tracer and self._tracer.plan.modules:
            self.clear()
            say_unloaded(self._tracer)
        if self._writer and self._writer.dropped and not self._told:
            self._told = True
            self.clear()
            say(f"{self._writer.files[-1]}: {FULL}")

    def finish(self) -> None:
        """Take the line away; say what has ended of the trace, and who was not traced."""
        self.clear()
        if self._tracer:
            say_unloaded(self._tracer)
            if self._tracer.unfollowed:
                untraced = plural(self._tracer.unfollowed, "process", "processes")
                say(f"{untraced} could not be followed: there are too many")

    def clear(self) -> None:
        """Take the line away."""
        if self._shown:
            sys.stderr.write(CLEAR_LINE)
            self._shown = False


def report(summary: dict[str, Any]) -> None:
    """Say on standard error what was recorded."""
    place = ""
    if "files" in summary:
        place = f", {human_size(summary['bytes'])} in {', '.join(summary['files'])}"
    gone = lost(summary["lost"], summary["causes"])
    tell(f"{plural(summary['events'], 'event')}, {gone}{place}")


def show_maps(summary: dict[str, Any], out: IO[str], as_json: bool = False) -> None:
    """Show what the maps of probes held at the end, and say where updates found no room."""
    from kwire.view.maps import titled

    for one in summary.get("maps", ()):
        if as_json:
            import json

            print(json.dumps(one), file=out)
            continue
        print("", *titled(one), sep="\n", file=out)
    for one in summary.get("maps", ()):
        if one["lost"]:
            updates = plural(one["lost"], "update")
            say(f"{one['map']}: {updates} found no room; declare it with a greater size=")


def exit_status(summary: dict[str, Any], args: argparse.Namespace) -> int:
    """The command's where that is not 0 and is wanted, else whether all was recorded."""
    if summary.get("status"):
        return int(summary["status"])
    full = any(one["lost"] for one in summary.get("maps", ()))
    own = NOT_WHOLE if summary["lost"] or full else OK
    return of_command(summary.get("command_status"), own, wanted=not args.no_command_status)


def run(
    args: argparse.Namespace,
    write: str | None,
    sinks: Callable[[tuple[Schema, ...]], list[Sink]] = lambda schemas: [],
    *,
    aside: bool = False,
) -> dict[str, Any]:
    """Trace as the arguments say, to the file `write` and to other sinks; give the summary object.

    `aside`: standard output is ours, so that of the command goes to standard error.
    """
    aside = aside or (write is not None and is_standard_output(write))
    with prepared(args, aside=aside, write=write is not None) as (recorder, processes):
        return record(recorder, args, write, sinks, processes)


@contextlib.contextmanager
def prepared(
    args: argparse.Namespace, *, aside: bool, write: bool = False, apart: Parts | None = None
) -> Iterator[tuple[Recorder, Processes]]:
    """The recorder of the arguments, its programs loaded, and the processes that they choose.
    `write`: whether it writes a capture; `apart`: what they ask for, in parts that can be taken away.

    What takes long is done side by side, so the order counts: a process makes the plan (it was begun by
    `kwire.__main__`), the command is forked, a thread makes the ground; then what the recording itself needs
    is imported.
    """
    from kwire.live.plan_process import Planning

    wanted = probes.read(args.probes) if apart is None else list(apart.probes)
    numbers = None if apart is None else apart.numbers
    planning = Planning(
        "kwire.live.planner", "plan_probes", wanted, args.filter, origin="--filter", numbers=numbers
    )
    with planning, chosen(args, args.buffer, aside=aside, everyone=args.everyone) as (processes, ground):
        planning.ask(scope=processes.scope)
        import kwire.kernel.privileges
        import kwire.live.summary
        from kwire.live.recorder import Limits, Recorder

        if write:
            import cbor2  # noqa: F401  # which its first frames are written with

            import kwire.capture.writer  # noqa: F401

        limits = Limits(args.seconds, args.count)
        with Recorder(planning.plan(), limits, ground=ground, leaving=True) as recorder:
            planning.close()
            yield recorder, processes


@contextlib.contextmanager
def chosen(
    args: argparse.Namespace, buffer: int | None, *, aside: bool, everyone: bool = False
) -> Iterator[tuple[Processes, Ground]]:
    """The processes that the arguments choose, and the ground of their trace; the command ends with it.

    `buffer`: bytes of each CPU's ring (None: the default); `aside`: what the command prints goes to standard
    error; `everyone`: beside these all are traced, as long as they run.
    """
    from kwire.live.command import Command

    with contextlib.ExitStack() as stack:
        command = Command(args.command, aside=aside) if args.command is not None else None
        if command:
            stack.callback(command.end)
        allow_descriptors()  # after the command was forked: its limit is its own
        from kwire.live.ground import Ground

        ground = Ground(buffer, follow=bool(args.pids or command) and not everyone)
        stack.callback(ground.close)
        from kwire.live.processes import Processes

        without = (os.getpid(),)
        yield (
            stack.enter_context(Processes(args.pids or (), command, without=without, everyone=everyone)),
            ground,
        )


def allow_descriptors() -> None:
    """Allow as many open files as the hard limit does: a probe takes three or four, a session three."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def check_descriptors() -> None:
    """Raise OSError where so few files can be opened yet that the end of a recording could not be written."""
    spare = []
    try:
        for _ in range(SPARE):
            spare.append(os.dup(2))
    finally:
        for fd in spare:
            os.close(fd)


def say_skipped(plan: Plan) -> None:
    """Say on standard error how the probes were understood, what is left out, and what is not filtered."""
    for note in plan.notes:
        say(note)
    if plan.skipped:
        target, why = plan.skipped[0]
        targets = are(len(plan.skipped), "target")
        say(f"{targets} left out, the first {target}: {why}")
    for probe, why in plan.unfiltered:
        say_unfiltered(probe, why)


def say_unloaded(tracer: Tracer) -> None:
    """Say which modules went while they were traced."""
    for module in tracer.unloaded():
        probes = plural(list(tracer.plan.modules.values()).count(module), "probe")
        say(f"module {module} was unloaded: its {probes} ended with it")


def say_unfiltered(probe: str, why: str) -> None:
    """Say that the filter does not apply to a probe."""
    say(f"--filter does not apply to {probe}, whose events all are taken: {why}")


def record(
    recorder: Recorder,
    args: argparse.Namespace,
    write: str | None,
    sinks: Callable[[tuple[Schema, ...]], list[Sink]],
    processes: Processes,
) -> dict[str, Any]:
    """Attach the probes, record until the end, close the capture; give the summary object."""
    from kwire.kernel import privileges
    from kwire.live.summary import summarize

    with contextlib.ExitStack() as stack:
        # Whatever can fail is tried before a file that is there is replaced, while Ctrl-C ends it at once.
        recorder.attach(processes)
        schemas = recorder.schemas
        say_skipped(recorder.plan)
        writer = open_writer(write, schemas, os.uname().nodename, os.uname().release, args)
        if writer:
            stack.callback(writer.leave)
        stop = _Stop()
        check_descriptors()
        stack.callback(os.close, stop.fd)
        stack.callback(stop.restore)
        shown = [_Shown(sink, stop) for sink in sinks(schemas)]
        beside = None
        if getattr(args, "metrics", None) is not None or getattr(args, "otlp", None) is not None:
            from kwire.cli.metrics import Recorded

            beside = Recorded(args, recorder, writer)
            stack.callback(beside.close)
        progress = recorder.progress = Progress(recorder, writer, recorder.tracer)
        recorder.start([*([writer] if writer else []), *shown])
        if writer:
            writer.publish()
        privileges.drop(keep=_kept(recorder, rotating=args.rotate != (0, 0.0)))
        (beside or recorder).run(stop.fd)
        progress.finish()
        totals = writer.close(recorder.produced) if writer else {}
        progress.tell()
        status = None if stop.asked else recorder.command_status
        events, seconds = recorder.plan.schemas, recorder.seconds
        summary = summarize(events, recorder, writer, recorder.produced, totals, seconds, status)
        if recorder.status is not None:
            summary["status"] = recorder.status
        if recorder.left:
            from kwire.view.maps import described

            summary["maps"] = [described(*one) for one in recorder.left]
        problem = next((one.problem for one in shown if one.problem), None)
        if problem is not None:
            if writer:
                report(summary)
            raise problem
        return summary


def _kept(recorder: Recorder, *, rotating: bool) -> tuple[str, ...]:
    """The privileges that a recording goes on needing."""
    kept: tuple[str, ...] = ROTATING if rotating else ()
    if recorder.tracer.stacks is not None:
        kept += recorder.tracer.stacks.needs
    return kept


def open_writer(
    write: str | None, schemas: tuple[Schema, ...], host: str, kernel: str, args: argparse.Namespace
) -> Writer | None:
    """The capture of a recording, held: it takes its place with `publish`. None where none is wanted."""
    if write is None:
        return None
    from kwire.capture.writer import Writer

    return Writer(
        write,
        schemas,
        host=host,
        kernel=kernel,
        rotate_bytes=args.rotate[0],
        rotate_seconds=args.rotate[1],
        hold=True,
        clobber=not args.no_clobber,
    )
