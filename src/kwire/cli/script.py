"""`kwire -e PROGRAM`, `kwire FILE.bt`: run a script in the bpftrace language.

Invariants: what a script prints goes to standard output, or to the file of -o, and what is said about it to
standard error; all that is wrong in a script is told at once, each at its place, before anything is attached.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator

from kwire.capture.destination import is_standard_output
from kwire.cli import tracing, values
from kwire.cli.lines import say, tell
from kwire.cli.status import FAILED, OK
from kwire.errors import KwireError
from kwire.hints import IO, TYPE_CHECKING, Any
from kwire.words import plural

if TYPE_CHECKING:
    from kwire.live.plan import About, Plan, Scope
    from kwire.live.processes import Processes
    from kwire.live.recorder import Recorder, Sink
    from kwire.view.printed import Act, Printed
    from kwire.view.render import Renderer
    from kwire.wire.schema import Schema

HELP = "run a script in the bpftrace language"

USAGE = "kwire [OPTIONS] -e PROGRAM [ARGUMENT ...]\n       kwire [OPTIONS] FILE.bt [ARGUMENT ...]"

EXAMPLES = """\
examples:
  kwire -e 'tracepoint:syscalls:sys_enter_openat { printf("%s %s\\n", comm, str(args.filename)); }'
  kwire -e 'kprobe:tcp_connect /uid == $1/ { printf("%d\\n", pid); }' 1000
  kwire -w opens.pcapng opensnoop.bt
  kwire -H web1.example opensnoop.bt

docs/language.md says what of the language there is. FILE may be - for standard input. What a script prints is
kept with -w, and `kwire show FILE` prints it again.

"""

INTERMIXED = True
REST = True
MAX_SCRIPT = 1 << 20
STDIN = "stdin"
"""What a program that stands in no file is called in messages."""

FORMATS = ("text", "json", "folded", "svg")
FORMAT_HELP = "how to print; folded, svg: the stacks in maps as lines, or drawn, as a flame graph"

STAGES = ("ast", "ir", "asm", "all")
"""What -d shows: how the script was read; what is compiled of it; the instructions, under their source lines.
"""

DONE = frozenset({"cat", "system", "errorf", "warnf"})
"""Ways to print at which something is done, and not only shown."""

UNCHANGED = (
    ("-k", 0),
    ("-b", 0),
    ("-I", 1),
    ("--include", 1),
    ("--no-feature", 1),
    ("--usdt-file-activation", 0),
)
"""Options of bpftrace that change nothing here, and how many values each has: types come from the kernel's
BTF, and how probes attach is found out.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.usage = USAGE
    parser.prog = "kwire"
    parser.epilog = EXAMPLES
    parser.add_argument(
        "words", metavar="FILE|ARGUMENT", nargs="*", help="a script, and what it is given; more behind --"
    )
    parser.add_argument("-e", dest="program", metavar="PROGRAM", help="the text of a script")
    parser.add_argument(
        "-l",
        "--list",
        action="store_true",
        help="list probes: those of a pattern or script, or all; -lv: their arguments",
    )
    parser.add_argument("--info", action="store_true", help="say what scripts find here, and end")
    parser.add_argument(
        "-c",
        "--cmd",
        dest="command",
        metavar="COMMAND",
        type=values.command,
        help="run this, and end with it",
    )
    parser.add_argument(
        "-p",
        "--pid",
        dest="pids",
        metavar="PID",
        type=values.process_ids,
        action="extend",
        help="these processes only",
    )
    parser.add_argument("-o", "--output", dest="output", metavar="FILE", help="print to a file")
    parser.add_argument("-w", dest="write", metavar="FILE", help="keep what is printed in a capture, pcapng")
    parser.add_argument("-f", dest="format", choices=FORMATS, default="text", help=FORMAT_HELP)
    parser.add_argument(
        "-B",
        dest="buffering",
        choices=("line", "full", "none"),
        default="line",
        help="write what is printed as it comes, or (full) in large pieces",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing but what is wrong")
    parser.add_argument("--no-warnings", action="store_true", help="leave warnings out")
    parser.add_argument(
        "-d", dest="stage", metavar="STAGE", choices=STAGES, help=f"show a stage: {', '.join(STAGES)}"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="compile, have the kernel verify it, attach nothing"
    )
    parser.add_argument("--unsafe", action="store_true", help="allow what can change the system")
    parser.add_argument(
        "--probe-filter",
        metavar="REGEX",
        default="",
        help="only the probes of the script whose places this finds, beside begin and end",
    )
    parser.add_argument(
        "--debuginfo",
        metavar="FOLDER",
        action="append",
        default=[],
        help="look here, too, for the debugging information of programs",
    )
    tracing.add_remote_arguments(parser)
    for option, count in UNCHANGED:
        action = "append" if count else "append_const"
        parser.add_argument(option, dest="unchanged", help=argparse.SUPPRESS, action=action)


DEFAULTS: dict[str, Any] = {
    "buffering": "line",
    "debuginfo": (),
    "dry_run": False,
    "no_warnings": False,
    "output": None,
    "probe_filter": "",
    "quiet": False,
    "stage": None,
    "unsafe": False,
}
"""What `execute` needs to know of a script that was not given these options."""


def run(args: argparse.Namespace) -> int:
    """Run the script; the exit status."""
    if args.info:
        from kwire.cli.info import lines

        sys.stdout.writelines(f"{line}\n" for line in lines())
        return OK
    with _faults():
        if args.list:
            return _list(args)
        args.seconds, args.everyone, args.aside = None, not args.pids, False
        args.rotate, args.no_clobber, args.no_command_status = (0, 0.0), False, False
        name, text, words = _script(args)
        return execute(args, name, text, words)
    return FAILED


def execute(args: argparse.Namespace, name: str, text: str, words: list[str]) -> int:
    """Run the text of a script, here or on another machine; `words`: its arguments and options."""
    with _faults():
        if args.stage == "ast":
            sys.stdout.write(_shown(name, text))
            return OK
        return _there(args, name, text, words) if args.host else _run(args, name, text, words)
    return FAILED


def _there(args: argparse.Namespace, name: str, text: str, words: list[str]) -> int:
    """Run the script on another machine, by its agent, and print here what it prints."""
    from kwire.agent.requests import pieces
    from kwire.cli import remote
    from kwire.lang.bpftrace.reader import read

    read(name, text)  # what is wrong with how it is written is told here

    if args.dry_run or args.unsafe:
        raise KwireError("run", name, "--dry-run and --unsafe are not for another machine", "leave them out")
    args.filter = args.count = args.buffer = None
    what = {"script": {"name": name, "text": pieces(text), "arguments": words}}

    def run(sinks: Callable[[tuple[Schema, ...]], list[Sink]]) -> dict[str, Any]:
        return remote.run(what, args, args.write, sinks)

    return _printed(args, run, lambda schemas: len({one.spec for one in schemas if one.map is None}), None)


def _list(args: argparse.Namespace) -> int:
    """List the probes of the patterns, or of a script."""
    from kwire.cli.list import Listing
    from kwire.lang.bpftrace.options import given
    from kwire.lang.bpftrace.points import places
    from kwire.lang.bpftrace.reader import read

    patterns: list[str] = args.words or ["*"]
    if args.program is not None or (len(patterns) == 1 and patterns[0].endswith(".bt")):
        if args.program is None and not os.path.exists(patterns[0]):
            raise KwireError("read", patterns[0], "no such file or directory")
        name, text, words = _script(args)
        patterns = [str(one) for one in places(read(name, text), tuple(given(words)[0]))]
    listing = Listing(
        json=args.format == "json",
        verbose=bool(args.verbose),
        pids=args.pids or (),
        debug=args.debuginfo,
        scripts=True,
    )
    for pattern in patterns:
        listing.write(" ".join(pattern.split()))
    return OK


def _script(args: argparse.Namespace) -> tuple[str, str, list[str]]:
    """The name and the text of the script, and what it is given: arguments and options."""
    words = [*args.words, *args.rest]
    if args.program is not None:
        return STDIN, args.program, words
    if not words:
        raise KwireError("run", "script", "there is none", "write kwire -e 'PROGRAM', or kwire FILE.bt")
    name = words.pop(0)
    try:
        with open(sys.stdin.fileno() if name == "-" else name, "rb", closefd=name != "-") as file:
            data = file.read(MAX_SCRIPT + 1)
    except OSError as error:
        raise KwireError("read", name, (error.strerror or str(error)).lower()) from None
    if len(data) > MAX_SCRIPT:
        raise KwireError("read", name, f"a script has at most {MAX_SCRIPT >> 20} MiB")
    return STDIN if name == "-" else name, data.decode("utf-8", "surrogateescape"), words


def planned(name: str, arguments: list[str], processes: Processes) -> Plan:
    """The plan of a script in a file, for these processes. Raises KwireError."""
    command = processes.command.pid if processes.command else 0
    return planned_for(name, arguments, processes.scope, command)


def planned_for(name: str, arguments: list[str], scope: Scope, command: int) -> Plan:
    """The plan of a script in a file, whose probes are taken away together; `command`: what it knows as its
    command. Raises KwireError.
    """
    from kwire.lang.bpftrace.reader import read
    from kwire.live.scripts import plan_script

    args = argparse.Namespace(words=[name, *arguments], rest=[], program=None)
    _, text, words = _script(args)
    plan = plan_script(read(name, text), words, scope=scope, command=command).plan
    return plan._replace(asked_by={point.probe: (0,) for group in plan.groups for point in group.points})


@contextlib.contextmanager
def _faults() -> Iterator[None]:
    """What is wrong in a script is told here, all of it."""
    try:
        yield
    except KwireError as error:
        from kwire.lang.bpftrace.options import OptionsError
        from kwire.lang.errors import LanguageError

        if isinstance(error, OptionsError) and error.options:
            for line in ("HINT: expected program options:", *(f"  {one}" for one in error.options)):
                tell(line)
            return
        if not isinstance(error, LanguageError):
            raise
        for one in error.diagnostics:
            for line in one.report(error.source):
                tell(line)


def _run(args: argparse.Namespace, name: str, text: str, words: list[str]) -> int:
    from kwire.live.plan_process import Planning

    planning = Planning(
        "kwire.live.scripts", "plan_text", name, text, words, unsafe=args.unsafe, only=args.probe_filter
    )
    with (
        planning,
        tracing.chosen(args, None, aside=args.aside, everyone=args.everyone) as (
            processes,
            ground,
        ),
    ):
        scope = processes.scope._replace(debug=tuple(args.debuginfo))
        planning.ask(scope=scope, command=processes.command.pid if processes.command else 0)
        import kwire.kernel.privileges
        import kwire.live.summary
        import kwire.view.printed
        from kwire.live.recorder import Limits, Recorder

        if args.write is not None:
            import cbor2  # noqa: F401  # which its first frames are written with

            import kwire.capture.writer  # noqa: F401
        plan, about = planning.plan(), planning.about
        if plan.assumed and (args.stage or args.verbose or args.dry_run):  # attaching would tell the rest
            plan = plan.looked_up()
        if args.stage:
            from kwire.cli.stages import shown

            if args.stage == "all":
                sys.stdout.write(_shown(name, text))
            sys.stdout.writelines(f"{line}\n" for line in shown(plan, args.stage))
            return OK
        if args.verbose:
            from kwire.cli.stages import programs

            for line in programs(plan):
                tell(line)
        with Recorder(plan, Limits(args.seconds, None), ground=ground, leaving=True) as running:
            planning.close()
            for line in () if args.no_warnings else about.warnings:
                tell(line)
            if args.dry_run:
                return OK
            return _record(args, about, running, processes)


def _record(args: argparse.Namespace, about: About, running: Recorder, processes: Processes) -> int:
    """Run the script here."""

    def act() -> Act:
        from kwire.live.script_actions import Acts

        return Acts(about.cat_most, warnings=not args.no_warnings).act

    def run(sinks: Callable[[tuple[Schema, ...]], list[Sink]]) -> dict[str, Any]:
        summary = tracing.record(running, args, args.write, sinks, processes)
        stacks = running.tracer.stacks
        if stacks is not None and stacks.lost:
            times = plural(stacks.lost, "stack or address", "stacks or addresses")
            say(f"{times} found no room, and were not told; raise the setting max_map_keys")
        return summary

    count = len({point.probe for group in running.plan.groups for point in group.points})
    return _printed(args, run, lambda schemas: count, act, about.declared)


def _printed(
    args: argparse.Namespace,
    run: Callable[[Callable[[tuple[Schema, ...]], list[Sink]]], dict[str, Any]],
    points: Callable[[tuple[Schema, ...]], int],
    make_act: Callable[[], Act] | None,
    declared: frozenset[str] = frozenset(),
) -> int:
    """Print what a script prints while it runs, and what its maps hold at the end; the exit status.

    `run`: runs it with what makes the sinks of its schemas, and gives the summary; `points`: how many probes
    they are; `make_act`: what does what it asks for; `declared`: names of maps with a size of their own.
    """
    if args.write is not None and is_standard_output(args.write):
        raise KwireError(
            "write capture to", args.write, "standard output is for what is printed", "name a file"
        )
    from kwire.view.render import Renderer, Screen

    shown: list[Renderer] = []
    with _output(args) as stream:

        def sinks(schemas: tuple[Schema, ...]) -> list[Sink]:
            by_number = {schema.id: schema for schema in schemas}
            count = points(schemas)
            if args.format == "json" and not args.quiet:
                stream.write(
                    f'{{"type": "attached_probes", "count": {count}, "data": {{"probes": {count}}}}}\n'
                )
            elif args.format != "json" and not args.quiet:
                tell(f"Attached {plural(count, 'probe')}")
            if os.environ.get("__BPFTRACE_NOTIFY_PROBES_ATTACHED"):
                stream.write("__BPFTRACE_NOTIFY_PROBES_ATTACHED\n")
            stream.flush()
            act = None
            if make_act is not None and any(schema.prints in DONE for schema in schemas):
                act = make_act()
            shown.append(Renderer(_format(args, schemas, stream, act)))
            return [Screen(shown[0], by_number, stream, keep=args.buffering == "full")]

        summary = run(sinks)
        for renderer in shown:
            stream.write(renderer.format.left(renderer.left))
        stream.flush()
        for one in summary.get("maps", ()):
            if one["lost"]:
                updates = plural(one["lost"], "update")
                known = one["map"] in declared
                cure = "declare it with more entries" if known else "raise the setting max_map_keys"
                tell(f"WARNING: Map full; can't update element: {one['map']}, {updates}; {cure}")
                one["lost"] = 0  # it is told, and the status is the script's
    if summary["lost"]:
        say(f"{plural(summary['lost'], 'event')} lost")
    return tracing.exit_status(summary, args)


def _format(args: argparse.Namespace, schemas: tuple[Schema, ...], out: IO[str], act: Act | None) -> Printed:
    """How what comes is written."""
    if args.format in ("folded", "svg"):
        from kwire.view.flame import flame_graph

        return flame_graph(args.format, schemas, act)
    from kwire.view.printed import Printed, PrintedJson

    if args.format == "json":
        return PrintedJson(act)
    return Printed(terminal=out.isatty(), act=act)


@contextlib.contextmanager
def _output(args: argparse.Namespace) -> Iterator[IO[str]]:
    """Where what is printed goes."""
    if args.output is None:
        yield sys.stdout
        return
    try:
        file = open(args.output, "w", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
    except OSError as error:
        raise KwireError("write", args.output, (error.strerror or str(error)).lower()) from None
    with file as stream:
        yield stream


def _shown(name: str, text: str) -> str:
    """The tree of a script, a node a line."""
    from kwire.lang.bpftrace.reader import read
    from kwire.lang.bpftrace.shown import shown

    return shown(read(name, text))
