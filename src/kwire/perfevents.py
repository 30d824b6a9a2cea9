"""What perf_event_open(2) counts and watches, by the words that people use: the targets of software and
hardware events and of watchpoints. Source: linux/perf_event.h, linux/hw_breakpoint.h.
"""

from kwire.hints import Final
from kwire.lazy import NamedTuple, pattern

_NUMBER: Final = pattern(r"([0-9]{1,19})(?:e([0-9]{1,2}))?")  # 1000, or 1e3 as scripts write it


class Counter(NamedTuple):
    """A counter of perf_event_open(2): its type, its number there, and how many events it counts between two
    firings where that is not said.
    """

    type: int
    config: int
    number: int


COUNTERS: Final = {
    "software": {
        "cpu-clock": Counter(1, 0, 1_000_000),
        "task-clock": Counter(1, 1, 1_000_000),
        "page-faults": Counter(1, 2, 100),
        "context-switches": Counter(1, 3, 1000),
        "cpu-migrations": Counter(1, 4, 1),
        "minor-faults": Counter(1, 5, 100),
        "major-faults": Counter(1, 6, 1),
        "alignment-faults": Counter(1, 7, 1),
        "emulation-faults": Counter(1, 8, 1),
        "dummy": Counter(1, 9, 1),
        "bpf-output": Counter(1, 10, 1),
    },
    "hardware": {
        "cpu-cycles": Counter(0, 0, 1_000_000),
        "instructions": Counter(0, 1, 1_000_000),
        "cache-references": Counter(0, 2, 1_000_000),
        "cache-misses": Counter(0, 3, 1_000_000),
        "branch-instructions": Counter(0, 4, 100_000),
        "branch-misses": Counter(0, 5, 100_000),
        "bus-cycles": Counter(0, 6, 100_000),
        "frontend-stalls": Counter(0, 7, 1_000_000),
        "backend-stalls": Counter(0, 8, 1_000_000),
        "ref-cycles": Counter(0, 9, 1_000_000),
    },
}
"""The counters of each kind by name, of linux/perf_event.h; their numbers are bpftrace's."""

COUNTER_ALIASES: Final = {
    "cpu": "cpu-clock",
    "faults": "page-faults",
    "cs": "context-switches",
    "cycles": "cpu-cycles",
    "branches": "branch-instructions",
}


def counter(kind: str, target: str) -> Counter | None:
    """What the target of a software or hardware event means; None where it means nothing."""
    name, colon, number = target.partition(":")
    found = COUNTERS[kind].get(COUNTER_ALIASES.get(name, name))
    if found is None or not colon:
        return found
    match = _NUMBER.fullmatch(number)
    events = int(match[1]) * 10 ** int(match[2] or 0) if match else 0
    return found._replace(number=events) if 0 < events < 1 << 63 else None


class Watch(NamedTuple):
    """What a watchpoint is on. `access`: HW_BREAKPOINT_R 1, _W 2, _X 4, together."""

    address: int
    length: int
    access: int


def watch(target: str) -> Watch | None:
    """What the target of a watchpoint means; None where it means nothing."""
    parts = target.split(":")
    if len(parts) != 3 or not parts[2] or not set(parts[2]) <= set("rwx"):
        return None
    try:
        address, length = int(parts[0], 0), int(parts[1], 0)
    except ValueError:
        return None
    access = sum({"r": 1, "w": 2, "x": 4}[mode] for mode in set(parts[2]))
    fits = 0 <= address < 1 << 64 and length in (1, 2, 4, 8)
    return Watch(address, length, access) if fits else None
