"""`kwire show`: print a capture of any kind as a table or as JSON lines, or explain every byte of it."""

import argparse
import os
import sys
from itertools import chain
from typing import Any

from kwire.analyze.capture_summary import CaptureSummary
from kwire.analyze.selection import Selection
from kwire.analyze.source import source_of
from kwire.capture.input import Source
from kwire.cli.choosing import CAPTURES, add_choice, capture_summary, notes, ports, wanted
from kwire.cli.lines import say
from kwire.errors import KwireError
from kwire.packets.open import NetworkCapture, open_capture
from kwire.view.render import Format, Head, Ordered, Renderer, Tail
from kwire.view.text import style
from kwire.wire.frames import Frames
from kwire.wire.schema import Schema
from kwire.words import plural

HELP = "print a capture as a table or as JSON, or explain its bytes"

TOGETHER = 64
"""Events that become lines at once: a line can be a thousand times as long as its event."""

WINDOW = 1 << 15
"""Events within which show puts those of several CPUs into order of time."""

EXAMPLES = """\
examples:
  kwire show demo.pcapng
  kwire show demo.pcapng --where 'pid == 4242 and comm == "curl"' --head 20
  kwire show demo.pcapng --probe '*connect*' --json | jq .fields
  kwire show demo.pcapng --from +5s --to +6s --columns time,pid,filename,ret
  kwire record tracepoint:sched:sched_switch -w - | kwire show -
  kwire show oncpu.pcapng -f svg > oncpu.svg
  kwire show network.pcap.zst --port 9000       frames in UDP and TCP of a network
  kwire show network.pcap -V --head 1           every field of every layer
  kwire show network.pcap --sessions            the protocol's states, and what is illegal

FILE may be - for standard input: pcapng or pcap, also compressed with gzip, zstd or lz4.
In --where stand the names of the fields, time_ns and probe.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.epilog = EXAMPLES
    parser.add_argument("files", metavar="FILE", nargs="+", help=CAPTURES)
    parser.add_argument("--follow", action="store_true", help="at the end of a file wait for more")
    add_showing(parser)
    add_choice(parser)


def add_showing(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say what is shown, and how."""
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--json", action="store_true", help="one object a line: an event, a packet or a step")
    forms.add_argument(
        "-f",
        dest="graph",
        choices=("folded", "svg"),
        help="the stacks that maps of scripts hold, as lines for flame graphs or as a drawn one",
    )
    how = "stop after so many events, or packets with -V"
    ends = parser.add_mutually_exclusive_group()
    ends.add_argument("--head", metavar="N", type=_count, help=how)
    ends.add_argument("--tail", metavar="N", type=_count, help="only the last so many events")
    columns = "of the table, separated by commas: time, cpu, pid, comm, probe, fields, and fields by name"
    parser.add_argument("--columns", metavar="NAMES", type=_columns, help=columns)
    times = parser.add_mutually_exclusive_group()
    times.add_argument("--relative", action="store_true", help="times in seconds since the first event shown")
    times.add_argument("--delta", action="store_true", help="times in seconds since the event before")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("-V", dest="layers", action="store_true", help="explain every field of every layer")
    which.add_argument("--sessions", action="store_true", help="follow each session through its states")
    parser.add_argument("--all", action="store_true", help="with --sessions: every frame, not only changes")
    parser.add_argument("--wide", action="store_true", help="do not cut lines to the terminal's width")


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of events")
    return int(text)


def _columns(text: str) -> list[str]:
    names = text.split(",")
    if not all(names) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"{text!r} names a column twice, or none")
    return names


def run(args: argparse.Namespace) -> int:
    """Show the capture; its defects on standard error at the end."""
    packets, times = args.layers or args.sessions, args.begin is not None or args.end is not None
    if len(args.files) > 1 and (args.follow or packets):
        raise KwireError("show", "", "--follow, -V and --sessions are for one file", "name one")
    if packets or (len(args.files) == 1 and not times):
        return show(args, args.files[0], follow=args.follow)
    with source_of(args.files, **ports(args)) as source:
        selection = wanted(args, capture_summary(source) if times else None)
        if args.follow and os.path.isfile(args.files[0]):
            capture = open_capture(args.files[0], **ports(args), follow=True)
        else:
            capture = source.open()
        with capture:
            return _events(args, capture, selection)


def show(args: argparse.Namespace, source: Source, *, follow: bool = False) -> int:
    """Show what comes from `source`, as `args` say."""
    if not (args.layers or args.sessions):
        with open_capture(source, **ports(args), follow=follow) as capture:
            return _events(args, capture, wanted(args))
    if not (args.where is args.probe is args.begin is args.end is None):
        raise KwireError("show", "", "--where, --probe, --from and --to choose events, not packets")
    if args.tail is not None or args.columns or args.relative or args.delta:
        raise KwireError("show", "", "--tail, --columns, --relative and --delta are for events, not packets")
    from kwire.cli import layers

    watcher: Any
    if args.sessions:
        from kwire.packets.follow import Follower

        watcher = Follower(layers.Steps(json=args.json, every=args.all))
    else:
        from kwire.packets.explain import Teller

        watcher = Teller()
    seen = CaptureSummary()
    with open_capture(source, **ports(args), follow=follow, watcher=watcher) as capture:
        capture.passed = lambda frames: seen.add(capture, frames)
        try:
            if args.layers:
                layers.explain(capture, watcher, json=args.json, head=args.head)
            else:
                layers.sessions(capture, watcher, json=args.json)
        except KeyboardInterrupt:
            if capture.regular:
                raise
        if args.json:
            layers.summary(capture)
        sys.stdout.flush()
        if isinstance(source, str) and capture.regular and args.head is None:
            with source_of([source], **ports(args)) as again:  # as any other verb reads it: the same is said
                status = notes(capture.name, CaptureSummary(again), shown=True, packets=True)
        else:
            seen.end(capture)
            status = notes(capture.name, seen, shown=True, stopped=True)
        for remark in layers.remarks(capture):
            say(f"{capture.name}: {remark}")
    return status


def _events(args: argparse.Namespace, capture: NetworkCapture, selection: Selection) -> int:
    """Show the events of a capture; its defects on standard error at the end."""
    from kwire.cli.layers import remarks

    names, seen = _Names(selection), CaptureSummary()
    refused: list[tuple[Frames, dict[int, Schema]]] = []
    capture.refused = lambda *told: refused.append(told)
    chunks = iter(capture)
    first = next(chunks, None)  # now the first section's probes are known
    names.check(capture)
    format = _format(args, [schema for schema in capture.schemas.values() if selection.wants(schema)])
    renderer = Renderer(
        format,
        selection.wants if selection.named else None,
        selection.test,
        selection.first,
        selection.last,
    )
    out = _out(args, format, capture)
    done = False
    # Events that are not as their SCHEMA says are shown as what they are.
    capture.refused = lambda *told: out.add(renderer.rows(*told))
    for told in refused:  # with the first chunk
        capture.refused(*told)
    try:
        for frames in chain(() if first is None else (first,), chunks):
            names.check(capture)
            seen.add(capture, frames)
            done = _rows(renderer, out, frames, capture, args.head)
            if done:
                break
            if not capture.regular and isinstance(out, Ordered):
                out.flush()
    except KeyboardInterrupt:
        if capture.regular:
            raise
        done = True
    out.flush()
    if not done and args.head is None and args.tail is None and capture.ended:
        left = sorted(renderer.left, key=lambda one: (one[0].host, one[0].probe))  # as when it was traced
        sys.stdout.write(format.left(left))
        sys.stdout.flush()
    seen.end(capture)
    status = notes(capture.name, seen, shown=True, stopped=done)
    for remark in remarks(capture):
        say(f"{capture.name}: {remark}")
    torn = 0 if done else renderer.torn()
    if torn:
        say(f"{capture.name}: {plural(torn, 'frame')} of tables that are not whole, so these are not shown")
    return status


class _Names:
    """What --probe and --where name: looked at once for each set of probes, errors said before the events."""

    __slots__ = ("_matched", "_seen", "_selection")

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._seen: set[str] = set()
        self._matched = False

    def check(self, capture: NetworkCapture) -> None:
        """KwireError where no probe matches or --where cannot be evaluated for one that does."""
        schemas = list(capture.schemas.values())
        new = {schema.probe for schema in schemas} - self._seen
        if not new:
            return
        self._seen |= new
        if self._matched and not any(map(self._selection.wants, schemas)):
            return
        self._selection.check(schemas, capture.name)
        self._matched = True


def _format(args: argparse.Namespace, schemas: list[Schema]) -> Format:
    """The format asked for. KwireError where a column is asked for that no probe has."""
    if args.graph is not None:
        from kwire.view.flame import flame_graph

        return flame_graph(args.graph, schemas)
    if args.json:
        if args.columns or args.relative or args.delta:
            raise KwireError(
                "show", "", "--columns, --relative and --delta are for tables", "leave --json out"
            )
        from kwire.view.jsonl import JsonLines

        return JsonLines()
    from kwire.view.printed import Printed, are_printed

    if are_printed(schemas) and not (args.columns or args.relative or args.delta):
        return Printed(terminal=sys.stdout.isatty())
    from kwire.view.table import COLUMNS, Table

    known = [*COLUMNS, *sorted({field.name for schema in schemas for field in schema.fields} - {*COLUMNS})]
    for name in args.columns or ():
        if name not in known:
            from kwire.view.where import suggest

            raise KwireError("show", f"column {name}", "no probe here has such a field", suggest(name, known))
    look, clock = style(sys.stdout), "relative" if args.relative else "delta" if args.delta else "clock"
    return Table(schemas, look._replace(width=0) if args.wide else look, args.columns, clock)


def _out(args: argparse.Namespace, format: Format, capture: NetworkCapture) -> "Ordered | Head | Tail":
    """What puts the rows in order and writes those that are asked for."""
    if args.tail is not None:
        return Tail(format, sys.stdout, args.tail, WINDOW)
    if args.head is not None and capture.regular:
        return Head(format, sys.stdout, args.head, WINDOW)
    return Ordered(format, sys.stdout, WINDOW if capture.regular else 0)


def _rows(
    renderer: Renderer,
    out: "Ordered | Head | Tail",
    frames: Frames,
    capture: NetworkCapture,
    head: int | None,
) -> bool:
    """Show frames; whether all that was asked for is there."""
    if isinstance(out, Head) or head is None or renderer.events + len(frames) < head:
        for start in range(0, len(frames), TOGETHER):
            some = Frames(frames.data, frames.offsets[start : min(start + TOGETHER, len(frames))])
            out.add(renderer.rows(some, capture.schemas))
        return isinstance(out, Head) and out.full
    for index in range(len(frames)):
        if renderer.events >= head:
            break
        out.add(renderer.rows(frames.select([index]), capture.schemas))
    return renderer.events >= head
