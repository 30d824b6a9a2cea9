"""Following processes: the `tasks` map holds the processes that are traced, and two programs keep it so.

A process is known by its number and the moment its first thread was created: the kernel gives numbers out
again, and does so before it tells that the old owner is gone. An entry's key is the number (the tgid), its
value that moment; a program traces the current process when both agree. A value of 0 stands for "by the
number alone": right where something holds the number, as for the command of `-c`, whose end we wait for
ourselves; and all that can be had where the kernel has no BTF.

At every fork, a process whose parent is in `tasks` is added before it runs for the first time; when the
kernel frees its first thread, it is removed, unless the entry is a later process's by then. Threads need no
entry. Invariant: a child that found no room in the map is counted (`refused`).

The programs hang on raw tracepoints: those of other kinds are skipped when any program runs on that CPU
already, and the kernel frees tasks in interrupts. Even so, of a few tasks in a thousand we are not told that
they are freed (measured on 6.18: 0 to 11 of 3,000). Such an entry takes room and means nobody.

Numbers are those of the kernel's first pid namespace, as `bpf_get_current_pid_tgid` gives them.
"""

import struct
from collections.abc import Iterable

from kwire.bpf.asm import (
    R0,
    R1,
    R2,
    R3,
    R4,
    R6,
    R7,
    R8,
    R10,
    Item,
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
from kwire.bpf.task import TaskFields
from kwire.kernel import tracefs
from kwire.kernel.attach import Link, attach
from kwire.kernel.maps import Map
from kwire.kernel.prog import load
from kwire.kernel.sys import BPF_F_MMAPABLE
from kwire.kernel.syscall import KernelError
from kwire.lazy import NamedTuple

TASKS = MapSpec("tasks", "hash", key_size=4, value_size=8, max_entries=65536)
REFUSED = MapSpec("follow", "array", key_size=4, value_size=8, max_entries=1, flags=BPF_F_MMAPABLE)

KEY, VALUE = -8, -16  # places in the programs' stack frames


class Identity(NamedTuple):
    """A process. `number`: its tgid in the first pid namespace; `started`: when its first thread was created,
    ns of the monotonic clock, 0 for whoever has the number.
    """

    number: int
    started: int = 0


def create_tasks(processes: Iterable[Identity] = (), spec: MapSpec = TASKS) -> Map:
    """The `tasks` map with these processes in it. Raises KernelError."""
    tasks = Map.create(spec)
    try:
        for process in processes:
            add(tasks, process)
    except BaseException:
        tasks.close()
        raise
    return tasks


def add(tasks: Map, process: Identity) -> None:
    """Trace this process too. Raises KernelError."""
    tasks.update(struct.pack("=I", process.number), struct.pack("=Q", process.started))


def processes(tasks: Map) -> list[Identity]:
    """The processes in the map now, by their numbers."""
    return sorted(
        Identity(struct.unpack("=I", key)[0], struct.unpack("=Q", value)[0]) for key, value in tasks.items()
    )


class Follow:
    """The two programs at work; they go with `close` or with the process."""

    __slots__ = ("_links", "_refused", "_words")

    def __init__(self, tasks: Map, fields: TaskFields | None) -> None:
        """Attach them to `tasks`; without `fields` they know processes by number only. Raises KernelError."""
        self._links: list[Link] = []
        with Map.create(REFUSED) as refused:
            self._refused = refused.mmap()  # can be read without privileges
            self._words = memoryview(self._refused).cast("Q")
            self._attach(tasks, refused, fields)

    def _attach(self, tasks: Map, refused: Map, fields: TaskFields | None) -> None:
        try:
            for program, event in _programs(fields):
                with load(program, {TASKS.name: tasks, REFUSED.name: refused}) as prog:
                    self._links.append(attach(prog, program.kind, event))
        except BaseException:
            self.close()
            raise

    @property
    def refused(self) -> int:
        """How many children are not traced because the map was full."""
        return self._words[0]

    def close(self) -> None:
        """Stop following."""
        for link in self._links:
            link.close()
        self._links.clear()
        self._words.release()
        self._refused.close()

    def __enter__(self) -> "Follow":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _programs(fields: TaskFields | None) -> list[tuple[Image, str]]:
    """The programs, each with the event it hangs on."""
    if fields is not None:
        return [(fork_program(fields), "sched_process_fork"), (free_program(fields), "sched_process_free")]
    return [
        (fork_by_number(_offset("sched_process_fork", "child_pid")), "sched:sched_process_fork"),
        (free_by_number(_offset("sched_process_free", "pid")), "sched:sched_process_free"),
    ]


def _offset(event: str, field: str) -> int:
    found = tracefs.shared().format("sched", event).field(field)
    if found is None or found.size != 4:
        raise KernelError("follow children", event, f"the tracepoint has no field {field} of 4 bytes")
    return found.offset


def fork_program(fields: TaskFields) -> Image:
    """On sched_process_fork(parent, child), in the parent: when it is in `tasks`, add the child."""
    out, same = Label("out"), Label("same")
    return image(
        "follow_fork",
        "rawtracepoint",
        [
            ldx("dw", R6, R1, 8),  # child
            call(HELPERS["get_current_task_btf"].id),
            ldx("w", R7, R0, fields.tgid),
            ldx("dw", R8, R0, fields.group_leader),
            ldx("dw", R8, R8, fields.start_time),
            stx("w", R10, R7, KEY),
            *_lookup(),
            jmp("eq", R0, 0, out),
            ldx("dw", R1, R0, 0),
            jmp("eq", R1, 0, same),
            jmp("ne", R1, R8, out),
            same,
            *read_kernel(R6, fields.tgid, KEY, 4, out),
            ldx("w", R1, R10, KEY),
            jmp("eq", R1, R7, out),  # a thread
            *read_kernel(R6, fields.start_time, VALUE, 8, out),
            *_update(),
            jmp("eq", R0, 0, out),
            *_count_refused(),
            out,
            mov64(R0, 0),
            exit_(),
        ],
        maps=[TASKS, REFUSED],
    )


def free_program(fields: TaskFields) -> Image:
    """On sched_process_free(task): when it is the first thread of a process in `tasks`, remove that."""
    out, same = Label("out"), Label("same")
    return image(
        "follow_free",
        "rawtracepoint",
        [
            ldx("dw", R6, R1, 0),
            *read_kernel(R6, fields.pid, VALUE, 4, out),
            *read_kernel(R6, fields.tgid, KEY, 4, out),
            ldx("w", R1, R10, KEY),
            ldx("w", R2, R10, VALUE),
            jmp("ne", R1, R2, out),
            *_lookup(),
            jmp("eq", R0, 0, out),
            ldx("dw", R7, R0, 0),
            jmp("eq", R7, 0, same),
            *read_kernel(R6, fields.start_time, VALUE, 8, out),
            ldx("dw", R1, R10, VALUE),
            jmp("ne", R1, R7, out),  # the number is another process's by now
            same,
            map_fd(R1, TASKS.name),
            mov64(R2, R10),
            alu64("add", R2, KEY),
            call(HELPERS["map_delete_elem"].id),
            out,
            mov64(R0, 0),
            exit_(),
        ],
        maps=[TASKS],
    )


def fork_by_number(child_pid: int) -> Image:
    """As `fork_program`, from the tracepoint's record. `child_pid`: the field's offset."""
    out = Label("out")
    return image(
        "follow_fork",
        "tracepoint",
        [
            mov64(R6, R1),
            call(HELPERS["get_current_pid_tgid"].id),
            alu64("rsh", R0, 32),
            stx("w", R10, R0, KEY),
            *_lookup(),
            jmp("eq", R0, 0, out),
            ldx("w", R1, R6, child_pid),
            stx("w", R10, R1, KEY),
            st("dw", R10, 0, VALUE),
            *_update(),
            jmp("eq", R0, 0, out),
            *_count_refused(),
            out,
            mov64(R0, 1),
            exit_(),
        ],
        maps=[TASKS, REFUSED],
    )


def free_by_number(pid: int) -> Image:
    """As `free_program`, from the tracepoint's record. `pid`: the field's offset."""
    return image(
        "follow_free",
        "tracepoint",
        [
            ldx("w", R1, R1, pid),
            stx("w", R10, R1, KEY),
            map_fd(R1, TASKS.name),
            mov64(R2, R10),
            alu64("add", R2, KEY),
            call(HELPERS["map_delete_elem"].id),
            mov64(R0, 1),
            exit_(),
        ],
        maps=[TASKS],
    )


def _lookup() -> list[Item]:
    """r0: the address of the value of the key in the frame, or 0."""
    return [
        map_fd(R1, TASKS.name),
        mov64(R2, R10),
        alu64("add", R2, KEY),
        call(HELPERS["map_lookup_elem"].id),
    ]


def _update() -> list[Item]:
    """Put key and value of the frame into the map; r0: 0 when there was room."""
    return [
        map_fd(R1, TASKS.name),
        mov64(R2, R10),
        alu64("add", R2, KEY),
        mov64(R3, R10),
        alu64("add", R3, VALUE),
        mov64(R4, 0),
        call(HELPERS["map_update_elem"].id),
    ]


def read_kernel(base: int, offset: int, to: int, size: int, failed: Label) -> list[Item]:
    """Read kernel memory at an offset from an address in a register into the frame, at `to`."""
    return [
        mov64(R1, R10),
        alu64("add", R1, to),
        mov64(R2, size),
        mov64(R3, base),
        alu64("add", R3, offset),
        call(HELPERS["probe_read_kernel"].id),
        jmp("ne", R0, 0, failed),
    ]


def _count_refused() -> list[Item]:
    return [map_value(R1, REFUSED.name), mov64(R2, 1), atomic("add", "dw", R1, R2, 0)]
