"""Following processes: the `tasks` map holds the processes that are traced, and two programs keep it so.

At every fork, a task whose parent is in `tasks` is added before it runs for the first time; when the kernel
frees a task, it is removed. A thread adds its own id as well, which no program looks up (they look for the
process, the tgid) and which goes away in the same manner. The law: a child that found no room in the map is
counted (`refused`).

The kernel frees tasks in interrupts, and does not run our program when one is already running on that CPU:
of 7,648 children born one after another, 29 stayed in the map. `sweep` removes what is no longer there, long
before the kernel gives an id out again.

Ids are those of the kernel's first pid namespace, as `bpf_get_current_pid_tgid` gives them.
"""

import os
import struct
from collections.abc import Iterable

from kwire.bpf.asm import (
    R0,
    R1,
    R2,
    R3,
    R4,
    R6,
    R10,
    Label,
    alu64,
    atomic,
    call,
    exit_,
    image,
    jmp,
    ldx,
    map_fd,
    map_value,
    mov64,
    st,
    stx,
)
from kwire.bpf.helpers import HELPERS
from kwire.bpf.image import Image, MapSpec
from kwire.kernel import tracefs
from kwire.kernel.attach import Link, attach
from kwire.kernel.maps import Map
from kwire.kernel.prog import load
from kwire.kernel.sys import BPF_F_MMAPABLE, KernelError

TASKS = MapSpec("tasks", "hash", key_size=4, value_size=1, max_entries=65536)
REFUSED = MapSpec("follow", "array", key_size=4, value_size=8, max_entries=1, flags=BPF_F_MMAPABLE)


def create_tasks(pids: Iterable[int], spec: MapSpec = TASKS) -> Map:
    """The `tasks` map with these processes in it. Raises KernelError."""
    tasks = Map.create(spec)
    try:
        for pid in pids:
            add(tasks, pid)
    except BaseException:
        tasks.close()
        raise
    return tasks


def add(tasks: Map, pid: int) -> None:
    """Trace this process too."""
    tasks.update(struct.pack("=I", pid), b"\1")


def pids(tasks: Map) -> list[int]:
    """The ids in the map now: processes, and those threads that were born while it was followed."""
    return sorted(struct.unpack("=I", key)[0] for key in tasks.keys())  # noqa: SIM118  # a Map is no dict


def sweep(tasks: Map) -> int:
    """Remove the ids that no task has any more; how many there were."""
    removed = 0
    for pid in pids(tasks):
        try:
            os.kill(pid, 0)  # signal 0 is none: it only asks
        except ProcessLookupError:
            try:
                tasks.delete(struct.pack("=I", pid))
                removed += 1
            except KeyError:
                pass  # its program came first
        except PermissionError:
            pass  # it is there
    return removed


class Follow:
    """The two programs at work; they go with `close` or with the process."""

    __slots__ = ("_links", "_refused")

    def __init__(self, tasks: Map) -> None:
        """Attach them to `tasks`. Raises KernelError."""
        self._links: list[Link] = []
        self._refused = Map.create(REFUSED)
        try:
            events = tracefs.shared()
            for event, program, field in (
                ("sched_process_fork", fork_program, "child_pid"),
                ("sched_process_free", free_program, "pid"),
            ):
                found = events.format("sched", event).field(field)
                if found is None or found.size != 4:
                    raise KernelError(
                        "follow children", event, f"the tracepoint has no field {field} of 4 bytes"
                    )
                maps = {TASKS.name: tasks, REFUSED.name: self._refused}
                with load(program(found.offset), maps) as prog:
                    self._links.append(attach(prog, "tracepoint", f"sched:{event}"))
        except BaseException:
            self.close()
            raise

    @property
    def refused(self) -> int:
        """How many children are not traced because the map was full."""
        value = self._refused.lookup(bytes(4))
        return struct.unpack("=Q", value)[0] if value else 0

    def close(self) -> None:
        """Stop following."""
        for link in self._links:
            link.close()
        self._refused.close()

    def __enter__(self) -> "Follow":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def fork_program(child_pid: int) -> Image:
    """On sched_process_fork: when the current process is in `tasks`, add the child. `child_pid`: the
    field's offset.
    """
    out = Label("out")
    return image(
        "follow_fork",
        "tracepoint",
        [
            mov64(R6, R1),
            call(HELPERS["get_current_pid_tgid"].id),
            alu64("rsh", R0, 32),
            stx("w", R10, R0, -4),
            map_fd(R1, TASKS.name),
            mov64(R2, R10),
            alu64("add", R2, -4),
            call(HELPERS["map_lookup_elem"].id),
            jmp("eq", R0, 0, out),
            ldx("w", R1, R6, child_pid),
            stx("w", R10, R1, -4),
            st("b", R10, 1, -8),
            map_fd(R1, TASKS.name),
            mov64(R2, R10),
            alu64("add", R2, -4),
            mov64(R3, R10),
            alu64("add", R3, -8),
            mov64(R4, 0),
            call(HELPERS["map_update_elem"].id),
            jmp("eq", R0, 0, out),
            map_value(R1, REFUSED.name),
            mov64(R2, 1),
            atomic("add", "dw", R1, R2, 0),
            out,
            mov64(R0, 1),
            exit_(),
        ],
        maps=[TASKS, REFUSED],
    )


def free_program(pid: int) -> Image:
    """On sched_process_free: remove the task. `pid`: the field's offset."""
    return image(
        "follow_free",
        "tracepoint",
        [
            ldx("w", R1, R1, pid),
            stx("w", R10, R1, -4),
            map_fd(R1, TASKS.name),
            mov64(R2, R10),
            alu64("add", R2, -4),
            call(HELPERS["map_delete_elem"].id),
            mov64(R0, 1),
            exit_(),
        ],
        maps=[TASKS],
    )
