"""Arguments that several verbs share: which events (`--probe`, `--where`, `--from`, `--to`), and progress."""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any

from kwire.analyze.choose import Selection
from kwire.analyze.moments import moment
from kwire.analyze.source import Source
from kwire.analyze.survey import Survey
from kwire.capture.writer import Totals
from kwire.cli.zone import add_utc
from kwire.errors import KwireError
from kwire.packets.tables import KWIRE_PORT
from kwire.view.text import safe
from kwire.wire.frame import Code
from kwire.wire.schema import EARLIEST, LATEST
from kwire.words import are, plural

if TYPE_CHECKING:
    from kwire.packets.network import First

LEFT_OUT = 3
"""Exit status: the answer is not of all events that the capture holds."""

CAPTURES = "a capture, or several: the files of a rotation, or of several machines; - is standard input"
TIMES = "2026-03-01T12:30:00, 12:30:00, +5s from the beginning, -5s from the end, or nanoseconds"


def add_choice(parser: argparse.ArgumentParser, *, where: bool = True) -> None:
    """Add the arguments that choose events."""
    parser.add_argument("--probe", metavar="GLOB", help="only probes that match: 'kprobe:tcp_*', '*open*'")
    if where:
        parser.add_argument("--where", metavar="EXPR", help="only events for which this is true")
    parser.add_argument("--from", dest="begin", metavar="TIME", help=f"not before: {TIMES}")
    parser.add_argument("--to", dest="end", metavar="TIME", help="not after; the same forms")
    add_utc(parser)
    add_ports(parser)


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


def selection(args: argparse.Namespace, survey: Survey, name: str) -> Selection:
    """What the arguments choose; KwireError where they cannot be understood or no probe matches."""
    first, last = EARLIEST, LATEST
    if args.begin is not None:
        first = moment(args.begin, survey.begins, survey.ends, "--from")
    if args.end is not None:
        last = moment(args.end, survey.begins, survey.ends, "--to")
    where = None
    if getattr(args, "where", None) is not None:
        from kwire.view.where import Where

        where = Where(args.where, "--where")
    chosen = Selection(args.probe, where, first, last)
    try:
        chosen.check(survey.schemas, name)
    except KwireError as error:
        if not survey.strangers or survey.schemas:
            raise
        cure = "a source repeats its SCHEMAs: capture for longer"
        raise KwireError(error.operation, error.subject, strangers(survey.strangers), cure) from None
    return chosen


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
        self._stream.write(f"\r{self._what} {part}\x1b[K")
        self._stream.flush()

    def done(self) -> None:
        """Take it from the screen."""
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._shown = False


def survey(source: Source) -> Survey:
    """Count what is in a capture, with progress."""
    progress = Progress(f"{safe(source.name)}: looking", source.size)
    try:
        return Survey(source, progress)
    finally:
        progress.done()


def totals(sums: Totals) -> str:
    """The sums of a capture that was written, in words."""
    lost = f" and {sums.lost:,} counted lost" if sums.lost else ""
    return plural(sums.stored, "event") + lost


def warn(name: str, found: Survey) -> int:
    """What keeps a capture that was read from being proven, on standard error; gives the exit status."""
    lines = []
    if not all(map(found.proves, found.probes)):
        what = "it does not prove complete; what is made of it does not either, and 'kwire verify' says so"
        lines.append(what)
    if found.problem:
        lines.append(found.problem)
    return _say(name, [*lines, *_strangers(found)], found)


def notes(name: str, found: Survey, undecodable: int = 0) -> int:
    """What a reader must know of the capture, on standard error; gives the exit status."""
    lines = []
    if found.problem:
        lines.append(f"{found.problem}; everything before is used")
    elif not found.ended:
        lines.append("it has no closing statistics: its recorder was killed, or is still recording")
    if found.repeated:
        lines.append(found.repeated)
    if found.skipped and not found.found:
        lines.append(f"{plural(found.skipped, 'packet')} without a sound frame; {found.first_skipped}")
    lines += named(found.found)
    lines += _strangers(found)
    if undecodable:
        lines.append(f"{are(undecodable, 'event')} not as the schemas say, and left out")
    if found.losses.total:
        lines.append(f"{are(found.losses.total, 'event')} lost; 'kwire verify' names the holes")
    return _say(name, lines, found, undecodable)


def named(found: "Mapping[str, First]") -> Iterator[str]:
    """What was wrong in packets of a network: each kind with its count, and what was said the first time."""
    for name, first in found.items():
        times = "once" if first.count == 1 else f"{first.count:,} times, first"
        yield f"{name} {times}: {first.text}"


def strangers(count: int) -> str:
    """What is said of events that no SCHEMA describes."""
    return f"{are(count, 'event')} of probes that no SCHEMA describes ({Code.UNKNOWN_SCHEMA.name})"


def _strangers(found: Survey) -> list[str]:
    return [f"{strangers(found.strangers)}, and left out"] if found.strangers else []


def _say(name: str, lines: list[str], found: Survey, undecodable: int = 0) -> int:
    for line in lines:
        sys.stderr.write(f"kwire: {safe(name)}: {safe(line)}\n")
    return LEFT_OUT if found.strangers or undecodable else 0
