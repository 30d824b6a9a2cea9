"""What a process leaves behind: its descriptors, its descendants, and the BPF objects it made in the kernel.

BPF objects carry no owner, so those that are new are ours unless a process that is none of our descendants
holds a new one too; then nothing can be said. Removal waits for grace periods, and gets its time.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import gc
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SYS_BPF = {"x86_64": 321, "aarch64": 280}
PR_SET_CHILD_SUBREAPER = 36
GRACE_SECONDS = 60.0  # what stays so long stays
GOES_AT_ONCE = 1.0  # seconds that the kernel mostly takes to remove an object whose last descriptor is closed

# What an object is called here, in /proc/PID/fdinfo, and the command of bpf(2) that gives the next id.
KINDS = (("program", "prog_id", 11), ("map", "map_id", 12), ("link", "link_id", 31))

Ids = frozenset[tuple[str, int]]
SET_ASIDE: set[int] = set()  # processes that, with their descendants, belong to no test
libc = ctypes.CDLL(None, use_errno=True)


class Traces(NamedTuple):
    """One moment's descriptors (number → what it is open on), descendants and BPF objects."""

    descriptors: dict[int, str]
    processes: frozenset[int]
    objects: Ids

    @classmethod
    def now(cls) -> Traces:
        return cls(descriptors(), frozenset(descendants()), bpf_objects())

    def left(self) -> list[str]:
        """What there is now and was not then, one text each; what is on its way out gets time to go."""
        start, pause = time.monotonic(), 0.001
        while True:
            left = self._left(others=time.monotonic() - start > GOES_AT_ONCE)
            if not left or time.monotonic() - start > GRACE_SECONDS:
                return left
            if pause in (0.001, 0.05):
                gc.collect()
            time.sleep(pause)
            pause = min(2 * pause, 0.05)

    def _left(self, others: bool) -> list[str]:
        """`others`: leave out BPF objects when other processes hold some, which takes a look at them all."""
        now = descriptors()
        left = [f"descriptor {fd} ({now[fd]})" for fd in now if self.descriptors.get(fd) != now[fd]]
        left += [f"process {pid} ({command_line(pid)})" for pid in descendants() if pid not in self.processes]
        objects = bpf_objects() - self.objects
        if objects and not (others and others_hold_any(objects)):
            left += [f"BPF {kind} {number}" for kind, number in sorted(objects)]
        return left


def become_subreaper() -> None:
    """Makes orphaned descendants children of this process, so that they count as its own."""
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def bpf_next_id(command: int, start: int) -> int | None:
    """The next id after `start`, None after the last; OSError when bpf(2) refuses."""
    attribute = (ctypes.c_uint32 * 32)(start)
    number = SYS_BPF.get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, f"no bpf(2) number known for {os.uname().machine}")
    if libc.syscall(number, command, attribute, ctypes.sizeof(attribute)) == 0:
        return attribute[1]
    if ctypes.get_errno() == errno.ENOENT:
        return None
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@functools.cache
def bpf_refusal() -> str:
    """Why bpf(2) cannot be used here; empty when it can."""
    if os.geteuid() != 0:
        return "needs root"
    try:
        bpf_next_id(KINDS[0][2], 0)
    except OSError as error:
        return f"bpf(2) says: {error.strerror}"
    return ""


def bpf_objects() -> Ids:
    """Every program, map and link in the kernel."""
    found = set()
    for kind, _, command in KINDS:
        number = bpf_next_id(command, 0)
        while number is not None:
            found.add((kind, number))
            number = bpf_next_id(command, number)
    return frozenset(found)


def others_hold_any(objects: Ids) -> bool:
    """Whether a process that is neither this one nor a descendant holds one of these objects."""
    ours = {os.getpid(), *descendants()}
    return any(
        held(int(name)) & objects for name in os.listdir("/proc") if name.isdigit() and int(name) not in ours
    )


def held(pid: int) -> Ids:
    """The BPF objects that a process has descriptors of."""
    found = set()
    try:
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            if "bpf" in os.readlink(f"/proc/{pid}/fd/{descriptor}"):
                text = Path(f"/proc/{pid}/fdinfo/{descriptor}").read_text()
                found |= {
                    (kind, int(number))
                    for kind, key, _ in KINDS
                    for number in re.findall(rf"^{key}:\s*(\d+)", text, re.MULTILINE)
                }
    except OSError:
        pass  # ended meanwhile
    return frozenset(found)


def descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the one that listed them
        found[int(name)] = target
    return found


def open_descriptors() -> int:
    """How many descriptors this process has; what nobody can reach any more is closed before."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def descendants() -> Iterator[int]:
    """The living processes that this one started, directly or not; zombies are gone already."""
    waiting = [os.getpid()]
    while waiting:
        for child in children(waiting.pop()):
            if child not in SET_ASIDE and is_alive(child):
                yield child
                waiting.append(child)


def children(pid: int) -> list[int]:
    """A process's children, by the lists that the kernel keeps (reading all of /proc is slow in a guest)."""
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
        lists = [Path(f"/proc/{pid}/task/{task}/children").read_text() for task in tasks]
    except OSError:
        return []
    return [int(child) for text in lists for child in text.split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "gone"
