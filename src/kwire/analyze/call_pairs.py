"""Which probes are the two ends of a call: kprobe and kretprobe, entry and exit of a system call.

Invariant: two events are one call where they come from the same thread and have the same key, the beginning
first; nested calls of one function end in the reverse order.
"""

import re
from typing import Final, NamedTuple

from kwire.wire.schema import Schema

#: Kinds of probes: (what begins, what ends), on the same target.
ENDS: Final = (("kprobe", "kretprobe"), ("fentry", "fexit"), ("uprobe", "uretprobe"))

_SYSCALL = re.compile(r"(?:tracepoint:)?(?:syscalls:)?sys_(enter|exit)_(\w+)")


class Role(NamedTuple):
    """One end of a call: `key` is the same at both, `name` is for people."""

    key: str
    name: str
    begins: bool


def role(schema: Schema) -> Role | None:
    """Which end of a call events of this probe are; None where they are neither."""
    spec = schema.probe.split("(", 1)[0]
    kind, _, target = spec.partition(":")
    if kind == "tracepoint" or kind.startswith("raw"):
        found = _SYSCALL.fullmatch(target)
        return Role(f"syscall {found[2]}", found[2], found[1] == "enter") if found else None
    if "+" in target:
        return None  # inside of a function
    for begin, end in ENDS:
        if kind in (begin, end):
            return Role(f"{begin} {target}", target.rsplit(":", 1)[-1], kind == begin)
    return None
