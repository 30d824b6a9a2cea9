"""What a capture says of the machine it was made on, asked once when a trace starts."""

import os
import time

from kwire.wire.schema import Clock, Schema

CLOCK_ROUNDS = 5


def clock_pair() -> Clock:
    """The time of the events' clock and the wall clock at one moment.

    The two cannot be read at once: of several readings between two of the monotonic clock, the one with the
    smallest gap is taken, so the pair is right to well under a microsecond.
    """
    best = None
    for _ in range(CLOCK_ROUNDS):
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        wall = time.time_ns()
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        if best is None or after - before < best[0]:
            best = (after - before, (before + after) // 2, wall)
    assert best is not None
    return Clock("monotonic", best[1], best[2])


def complete(schemas: tuple[Schema, ...]) -> tuple[Schema, ...]:
    """Add to each schema what only the running system knows: clock, host and kernel."""
    clock = clock_pair()
    system = os.uname()
    return tuple(
        schema._replace(clock=clock, host=system.nodename, kernel=system.release) for schema in schemas
    )
