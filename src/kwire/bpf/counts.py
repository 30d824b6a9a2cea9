"""What programs and user space share beside events: the counters of each probe, the map by which a program
asks for the end of the trace, and the one that numbers stacks.

Invariant: who compiles programs and who reads their maps take names and places from here.
"""

FIELDS = (
    "attempts",
    "refused",
    "first_refused_ns",
    "last_refused_ns",
    "too_long",
    "read_faults",
    "skipped",
)
"""The u64 counters of a probe on one CPU, in their order."""

ATTEMPTS, REFUSED, FIRST, LAST, TOO_LONG, FAULTS, SKIPPED = range(len(FIELDS))

USERS = len(FIELDS)
"""The word behind them: how many threads use the memory that the program of this probe, the first of those
that share one, has on this CPU (`compile.emission.claim`).
"""

SLOT_SIZE = 64
"""Bytes of one probe's counters on one CPU: a cache line, so that CPUs do not disturb each other."""


def counts_size(probes: int, cpus: int) -> int:
    """Bytes of the map's value: that of probe n (from 1) on a CPU (from 0) is slot cpu * probes + n."""
    return (probes * cpus + 1) * SLOT_SIZE


ASKED = "asked"
"""The map with the number that says whether a program has asked for the end of the trace."""

ASKED_BIT = 1 << 8
"""Set in that number once one has; below it is the status that was asked for."""

STACKS = "stacks"
"""The map with the last number that a stack was given, and how the names of the tables of stacks begin: the
programs of a trace share them.
"""
