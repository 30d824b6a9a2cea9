"""The time zone of a verb that reads captures: this machine's, or UTC with `--utc`.

Invariant: whatever a verb prints or is told of times is in one zone; it is the C library's, so every room
that asks for local time is in it. What was there before is there again afterwards.
"""

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager


def add_utc(parser: argparse.ArgumentParser) -> None:
    """Add the argument."""
    parser.add_argument("--utc", action="store_true", help="times are in UTC, not in local time ($TZ)")


@contextmanager
def zone(args: argparse.Namespace) -> Iterator[None]:
    """Within this, local time is the zone that the arguments ask for."""
    if not getattr(args, "utc", False):
        yield
        return
    before = os.environ.get("TZ")
    os.environ["TZ"] = "UTC0"
    time.tzset()
    try:
        yield
    finally:
        if before is None:
            del os.environ["TZ"]
        else:
            os.environ["TZ"] = before
        time.tzset()
