"""`--log`, `--log-level`: how verbs that run for long tell what happens, on standard error.

Invariants: text for people by default; with `json` each line is an object with the same keys, whatever it
tells, the last error and the summary too, so that nothing else has to be read.
"""

from __future__ import annotations

import argparse

from kwire.cli import lines
from kwire.hints import TYPE_CHECKING
from kwire.transport.log_events import LEVELS

if TYPE_CHECKING:
    from kwire.transport.log_events import Log
    from kwire.transport.loop import Loop
    from kwire.transport.rate_limited_log import RateLimitedLog


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    group = parser.add_argument_group("what is told on standard error (docs/metrics.md)")
    group.add_argument(
        "--log",
        metavar="FORMAT",
        choices=("text", "json"),
        default="text",
        help="text or json, a line an event",
    )
    group.add_argument(
        "--log-level",
        metavar="LEVEL",
        choices=LEVELS,
        default="info",
        help="the least grave events told: debug, info, warning or error",
    )


def begin(args: argparse.Namespace, verb: str) -> None:
    """Have all lines of this process written as the arguments say."""
    lines.style = None
    if args.log == "text" and args.log_level == "info":
        return
    from kwire.transport.log_events import EVENTS, reaches

    if args.log == "text":

        def text(text: str, event: str, prefix: str) -> None:
            if reaches(event, args.log_level):
                lines.write(prefix + text)

        lines.style = text
        return
    import datetime
    import json

    def as_json(text: str, event: str, prefix: str) -> None:
        if not reaches(event, args.log_level):
            return
        now = datetime.datetime.now(datetime.UTC)
        told = {
            "time": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": EVENTS[event].level,
            "event": event,
            "verb": verb,
            "message": text,
        }
        lines.write(json.dumps(told))

    lines.style = as_json


def limited(args: argparse.Namespace, loop: Loop, write: Log = lines.say) -> RateLimitedLog:
    """What is told of as it happens in a loop, at a bounded rate."""
    from kwire.transport.log_events import reaches
    from kwire.transport.rate_limited_log import RateLimitedLog

    return RateLimitedLog(loop, write, lambda event: reaches(event, args.log_level))
