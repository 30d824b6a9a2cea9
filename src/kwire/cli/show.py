"""`kwire show`: print a capture of any kind as a table or as JSON lines, or explain every byte of it."""

import argparse
import sys
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from itertools import chain
from typing import TYPE_CHECKING, Any

from kwire.capture import identity
from kwire.capture.input import Source
from kwire.cli.choosing import CAPTURES, LEFT_OUT, add_ports, ports, strangers
from kwire.cli.zone import add_utc
from kwire.errors import KwireError
from kwire.packets.open import NetworkCapture, open_capture
from kwire.view.render import Format, Head, Ordered, Renderer, Tail
from kwire.view.text import safe, style
from kwire.wire.frames import Frames
from kwire.wire.schema import Schema
from kwire.words import are, plural

if TYPE_CHECKING:
    from kwire.view.where import Where

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
  kwire show demo.pcapng --columns time,pid,filename,ret --tail 20
  kwire record tracepoint:sched:sched_switch -w - | kwire show -
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


def add_showing(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say what is shown, and how."""
    parser.add_argument("--json", action="store_true", help="one object a line: an event, a packet or a step")
    parser.add_argument("--probe", metavar="GLOB", help="only probes that match: 'kprobe:tcp_*', '*open*'")
    parser.add_argument("--where", metavar="EXPR", help="only events for which this is true")
    how = "stop after so many events, or packets with -V"
    ends = parser.add_mutually_exclusive_group()
    ends.add_argument("--head", metavar="N", type=_count, help=how)
    ends.add_argument("--tail", metavar="N", type=_count, help="only the last so many events")
    columns = "of the table, separated by commas: time, cpu, pid, comm, probe, fields, and fields by name"
    parser.add_argument("--columns", metavar="NAMES", type=_columns, help=columns)
    times = parser.add_mutually_exclusive_group()
    times.add_argument("--relative", action="store_true", help="times in seconds since the first event shown")
    times.add_argument("--delta", action="store_true", help="times in seconds since the event before")
    add_ports(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("-V", dest="layers", action="store_true", help="explain every field of every layer")
    which.add_argument("--sessions", action="store_true", help="follow each session through its states")
    parser.add_argument("--all", action="store_true", help="with --sessions: every frame, not only changes")
    parser.add_argument("--wide", action="store_true", help="do not cut lines to the terminal's width")
    add_utc(parser)


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
    if len(args.files) == 1:
        return show(args, args.files[0], follow=args.follow)
    if args.follow or args.layers or args.sessions:
        raise KwireError("show", "", "--follow, -V and --sessions are for one file", "name one")
    from kwire.analyze.source import source_of

    with source_of(args.files, **ports(args)) as source, source.open() as capture:
        return _events(args, capture)


def show(args: argparse.Namespace, source: Source, *, follow: bool = False) -> int:
    """Show what comes from `source`, as `args` say."""
    watcher: Any = None
    if args.layers or args.sessions:
        if args.where is not None or args.probe is not None:
            raise KwireError("show", "", "--where and --probe choose events, not packets")
        if args.tail is not None or args.columns or args.relative or args.delta:
            raise KwireError(
                "show", "", "--tail, --columns, --relative and --delta are for events, not packets"
            )
        from kwire.cli import layers

        if args.sessions:
            from kwire.packets.follow import Follower

            watcher = Follower(layers.Steps(json=args.json, every=args.all))
        else:
            from kwire.packets.explain import Teller

            watcher = Teller()
    with open_capture(source, **ports(args), follow=follow, watcher=watcher) as capture:
        try:
            if args.layers:
                layers.explain(capture, watcher, json=args.json, head=args.head)
            elif args.sessions:
                layers.sessions(capture, watcher, json=args.json)
            else:
                return _events(args, capture)
        except KeyboardInterrupt:
            if capture.regular:
                raise
        if args.json:
            layers.summary(capture)
        sys.stdout.flush()
        _say(capture, [*_ends(capture), *layers.troubles(capture)])
    return 0


def _events(args: argparse.Namespace, capture: NetworkCapture) -> int:
    """Show the events of a capture; its defects on standard error at the end."""
    from kwire.cli.layers import troubles

    where = None
    if args.where is not None:
        from kwire.view.where import Where

        where = Where(args.where, "--where")
    names = _Names(args.probe, where)
    chunks = iter(capture)
    first = next(chunks, None)  # now the first section's probes are known
    names.check(capture)
    format = _format(args, [schema for schema in capture.schemas.values() if names.wanted(schema)])
    renderer = Renderer(format, names.wanted if args.probe else None, where.test if where else None)
    out = _out(args, format, capture)
    done = False
    try:
        for frames in chain(() if first is None else (first,), chunks):
            names.check(capture)
            done = _rows(renderer, out, frames, capture, args.head)
            if done:
                break
            if not capture.regular and isinstance(out, Ordered):
                out.flush()
    except KeyboardInterrupt:
        if capture.regular:
            raise
    out.flush()
    _say(capture, [*_notes(capture, renderer, stopped=done), *troubles(capture)])
    return LEFT_OUT if renderer.strangers or renderer.undecodable else 0


def _say(capture: NetworkCapture, notes: Iterable[str]) -> None:
    for note in notes:
        sys.stderr.write(f"kwire: {safe(capture.name)}: {safe(note)}\n")


class _Names:
    """What --probe and --where name: looked at once for each set of probes, errors said before the events."""

    __slots__ = ("_glob", "_matched", "_seen", "_where")

    def __init__(self, glob: str | None, where: "Where | None") -> None:
        self._glob = glob
        self._where = where
        self._seen: set[str] = set()
        self._matched = glob is None

    def wanted(self, schema: Schema) -> bool:
        """Whether --probe names this probe."""
        if self._glob is None:
            return True
        spec = schema.probe
        return any(fnmatchcase(text, self._glob) for text in (spec, spec.split("(", 1)[0], schema.target))

    def check(self, capture: NetworkCapture) -> None:
        """KwireError where no probe matches or --where cannot be evaluated for one that does."""
        schemas = list(capture.schemas.values())
        new = {schema.probe for schema in schemas} - self._seen
        if not new:
            return
        self._seen |= new
        self._matched = self._matched or any(map(self.wanted, schemas))
        if not self._matched:
            shown = ", ".join(map(safe, sorted(self._seen)[:5])) + (" …" if len(self._seen) > 5 else "")
            raise KwireError("show", capture.name, f"no probe matches {self._glob!r}", f"there are: {shown}")
        if self._where:
            self._where.check(filter(self.wanted, schemas))


def _format(args: argparse.Namespace, schemas: list[Schema]) -> Format:
    """The format asked for. KwireError where a column is asked for that no probe has."""
    if args.json:
        if args.columns or args.relative or args.delta:
            raise KwireError(
                "show", "", "--columns, --relative and --delta are for tables", "leave --json out"
            )
        from kwire.view.jsonl import JsonLines

        return JsonLines()
    from kwire.view.table import COLUMNS, Table

    known = [*COLUMNS, *sorted({field.name for schema in schemas for field in schema.fields} - {*COLUMNS})]
    for name in args.columns or ():
        if name not in known:
            from kwire.view.where import suggest

            raise KwireError(
                "show", f"column {safe(name)}", "no probe here has such a field", suggest(name, known)
            )
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


def _ends(capture: NetworkCapture) -> Iterator[str]:
    """Where reading stopped before the end."""
    if capture.problem:
        yield f"{capture.problem}; everything before is shown"


def _notes(capture: NetworkCapture, renderer: Renderer, *, stopped: bool) -> Iterator[str]:
    """What a reader must know of the capture, for standard error."""
    yield from _ends(capture)
    again = identity.twice(identity.repeated(identity.held(one.comments) for one in capture.sections))
    if again:
        yield again
    if not capture.problem and not stopped and not capture.ended:
        if capture.network.conversations:
            yield "the capture does not hold the end of every session"
        else:
            yield "it has no closing statistics: its recorder was killed, or is still recording"
    if capture.skipped and not capture.network.found:
        yield f"{plural(capture.skipped, 'packet')} without a sound frame; {capture.first_skipped}"
    if renderer.strangers:
        yield strangers(renderer.strangers)
    if renderer.undecodable:
        yield f"{are(renderer.undecodable, 'event')} not as the schemas say"
    if renderer.lost:
        holes = plural(renderer.holes, "hole")
        yield f"{are(renderer.lost, 'event')} lost in {holes}; 'kwire verify' names them"
