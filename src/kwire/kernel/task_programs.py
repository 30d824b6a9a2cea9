"""The two programs that keep the `tasks` map (`kernel.tasks`): at each fork, and when a task is freed.

They hang on raw tracepoints: programs on those of other kinds are skipped when any program runs on that CPU
already, and the kernel frees tasks in interrupts. Even so, of a few tasks in a thousand we are not told that
they are freed (measured on 6.18: 0 to 11 of 3,000). Such an entry takes room and means nobody.
"""

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
from kwire.bpf.image import Image
from kwire.bpf.task import REFUSED, TASKS, TaskFields
from kwire.kernel import tracefs
from kwire.kernel.syscall import KernelError

KEY, VALUE = -8, -16  # places in the programs' stack frames


def programs(fields: TaskFields | None) -> list[tuple[Image, str]]:
    """The programs, each with the event it hangs on; without `fields` they know processes by number only.
    Raises KernelError.
    """
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
