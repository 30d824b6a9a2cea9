"""Arguments that several verbs share: which events (`--probe`, `--where`, `--from`, `--to`), and progress."""

import argparse
import sys
import time
from collections.abc import Iterator
from typing import IO, Any

from kwire.analyze.capture_summary import CaptureSummary
from kwire.analyze.selection import Selection
from kwire.analyze.source import Source, UnforeseenError
from kwire.analyze.time_parsing import moment
from kwire.capture.accounts import Totals
from kwire.capture.reader import PORTS, UNFINISHED
from kwire.cli.lines import say
from kwire.cli.status import NOT_WHOLE, OK
from kwire.cli.zone import add_utc
from kwire.errors import KwireError
from kwire.packets.tables import KWIRE_PORT
from kwire.view.text import WallClock, line
from kwire.wire.frame import Code
from kwire.wire.schema import EARLIEST, LATEST
from kwire.words import are, plural

CAPTURES = "a capture, or several: the files of a rotation, or of several machines; - is standard input"
TIMES = "2026-03-01T12:30:00, 12:30:00, +5s from the beginning, -5s from the end, or nanoseconds"


def add_choice(parser: argparse.ArgumentParser, *, live: bool = False) -> None:
    """Add the arguments that choose events; `live`: those that come, whenever that is."""
    parser.add_argument("--probe", metavar="GLOB", help="only probes that match: 'kprobe:tcp_*', '*open*'")
    parser.add_argument("--where", metavar="EXPR", help="only events for which this is true")
    add_utc(parser)
    add_ports(parser)
    if live:
        parser.set_defaults(begin=None, end=None)
        return
    parser.add_argument("--from", dest="begin", metavar="TIME", help=f"not before: {TIMES}")
    parser.add_argument("--to", dest="end", metavar="TIME", help="not after; the same forms")


def add_ports(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say where frames are in captures of networks."""
    default = f"frames in network packets are on this UDP or TCP port (default: {KWIRE_PORT}); repeatable"
    parser.add_argument("--port", metavar="N", type=_port, action="append", help=default)
    parser.add_argument("--any-port", action="store_true", help="find frames on any port by their shape")


def ports(args: argparse.Namespace) -> dict[str, Any]:
    """What those arguments mean to Source."""
    return {"ports": args.port or (KWIRE_PORT,), "any_port": args.any_port}


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 1 << 16:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: 1 to 65535")
    return int(text)


def needs_capture_summary(args: argparse.Namespace) -> bool:
    """Whether a capture has to be read before these arguments are understood: times, and conditions."""
    return bool(args.begin is not None or args.end is not None or getattr(args, "where", None) is not None)


def selection(args: argparse.Namespace, capture_summary: CaptureSummary, name: str) -> Selection:
    """What the arguments choose; KwireError where they cannot be understood or no probe matches.

    A capture summary that has not read the capture yet does for those that do not need one; `check` comes
    later then. UnforeseenError where it foresees probes, and none matches.
    """
    chosen = wanted(args, capture_summary)
    if capture_summary.read:
        check(chosen, capture_summary, name)
    elif capture_summary.probes and not any(map(chosen.wants, capture_summary.schemas)):
        raise UnforeseenError
    return chosen


def check(chosen: Selection, capture_summary: CaptureSummary, name: str) -> None:
    """KwireError where no probe of the capture matches."""
    try:
        chosen.check(capture_summary.schemas, name)
    except KwireError as error:
        if not capture_summary.strangers or capture_summary.schemas:
            raise
        cure = "a source repeats its SCHEMAs: capture for longer"
        raise KwireError(error.operation, error.subject, strangers(capture_summary.strangers), cure) from None


def wanted(args: argparse.Namespace, capture_summary: CaptureSummary | None = None) -> Selection:
    """The same, not yet held against the probes; times are those of a capture that was looked at."""
    first, last = EARLIEST, LATEST
    if capture_summary is not None:
        first, last = limits(args, capture_summary.begins, capture_summary.ends)
        events = capture_summary.events
        if events and (first > capture_summary.ends or last < capture_summary.begins):
            clock = WallClock()
            whole = f"from {clock.moment(capture_summary.begins)} to {clock.moment(capture_summary.ends)}"
            say(f"no event is in this range of time; there are some {whole}")
    where = None
    if args.where is not None:
        from kwire.view.where import Where

        where = Where(args.where, "--where")
    return Selection(args.probe, where, first, last)


def limits(args: argparse.Namespace, begins: int, ends: int) -> tuple[int, int]:
    """The range of time that is chosen of events between two moments; wall-clock ns. KwireError."""
    first = EARLIEST if args.begin is None else moment(args.begin, begins, ends, "--from")
    last = LATEST if args.end is None else moment(args.end, begins, ends, "--to")
    if first > last and args.begin is not None and args.end is not None:
        cause = "it ends before it begins"
        raise KwireError("choose", f"--from {args.begin} --to {args.end}", cause, "turn the two around")
    return first, last


class Progress:
    """How far long work is, on standard error, only where that is a terminal; gone when it ends."""

    __slots__ = ("_next", "_shown", "_size", "_stream", "_what")

    def __init__(self, what: str, size: int, stream: IO[str] | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._what, self._size = what, size
        self._shown = False
        try:
            terminal = self._stream.isatty()
        except ValueError:
            terminal = False
        self._next = time.monotonic() + 0.5 if terminal else float("inf")

    def __call__(self, done: int) -> None:
        """Work has come so far; bytes."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + 0.1
        self._shown = True
        part = f"{min(99, done * 100 // self._size)} %" if self._size else f"{done >> 20} MiB"
        self._stream.write(f"\r{line(self._what)} {part}\x1b[K")
        self._stream.flush()

    def done(self) -> None:
        """Take it from the screen."""
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._shown = False


def capture_summary(source: Source) -> CaptureSummary:
    """Count what is in a capture, with progress."""
    progress = Progress(f"{source.name}: looking", source.size)
    try:
        return CaptureSummary(source, progress)
    finally:
        progress.done()


def beginning(source: Source) -> CaptureSummary:
    """What the beginning of a capture tells of all of it: its probes are those that are known by then.

    All of it where it is short. UnforeseenError where nothing can be known before all is read.
    """
    capture = source.begin()
    if capture is None:
        raise UnforeseenError
    if capture.whole:
        return capture_summary(source)
    found = CaptureSummary()
    found.foresee(capture)
    if not found.probes:
        raise UnforeseenError
    return found


def lossy(*written: Totals) -> int:
    """The exit status of captures that were made, by their sums."""
    return NOT_WHOLE if any(sums.lost for sums in written) else OK


def totals(sums: Totals) -> str:
    """The sums of a capture that was written, in words."""
    lost = f" and {sums.lost:,} counted lost" if sums.lost else ""
    return plural(sums.stored, "event") + lost


def warn(name: str, found: CaptureSummary) -> int:
    """What of a capture keeps one made of it from being whole, or proven, on standard error.

    Gives the exit status, but for the losses that were chosen: those are counted in what was made.
    """
    if not all(map(found.proves, found.probes)):
        what = "it does not prove complete; what is made of it does not either, and 'kwire verify' says so"
        say(f"{name}: {what}")
    return notes(name, found, made=True)


def notes(
    name: str,
    found: CaptureSummary,
    *,
    shown: bool = False,
    stopped: bool = False,
    made: bool = False,
    packets: bool = False,
) -> int:
    """What a reader must know of the capture, on standard error; gives the exit status.

    `shown`: what cannot be decoded is shown as such. `stopped`: it was not read to its end. `made`: it was
    read to make another capture of it. `packets`: each of them is shown, so that one sees how it ends.
    """
    wrong = list(_wrong(found, "" if shown else ", and left out"))
    if found.losses.total and not made:
        wrong.append(f"{are(found.losses.total, 'event')} lost; 'kwire verify' names the holes")
    if found.absent and not (stopped or found.problem):
        events, here = are(abs(found.absent), "event"), "missing" if found.absent > 0 else "too many"
        wrong.append(f"{events} {here} by its own statistics; 'kwire verify' names the probes")
    for problem in wrong:
        say(f"{name}: {problem}")
    if found.barren and not (stopped or packets):
        say(f"{name}: {found.barren}; {PORTS}")
    if not (found.problem or found.ended or stopped or made or packets):
        cut = "it does not hold every session from its beginning to its end"
        killed = f"it has no closing statistics: its {UNFINISHED}"
        say(f"{name}: {cut if found.sessions else killed}")
    return NOT_WHOLE if wrong else OK


def _wrong(found: CaptureSummary, left: str) -> Iterator[str]:
    """Why what was read is not all there was, or has events twice."""
    if found.problem:
        yield f"{found.problem}; everything before is used"
    if found.repeated:
        yield found.repeated
    yield from found.wrong
    if found.strangers:
        yield f"{strangers(found.strangers)}{left}"


def strangers(count: int) -> str:
    """What is said of events that no SCHEMA describes."""
    return f"{are(count, 'event')} of probes that no SCHEMA describes ({Code.UNKNOWN_SCHEMA.name})"
