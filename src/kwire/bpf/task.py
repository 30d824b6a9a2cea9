"""Where the running kernel keeps what programs read of tasks and their numbers: tables of offsets in bytes.

And the maps of the tasks that are traced.

The offsets come from the kernel's own BTF (`compile.build.task_fields` and `pid_fields`).
"""

from kwire.bpf.image import MapSpec
from kwire.lazy import NamedTuple

TASKS = MapSpec("tasks", "hash", key_size=4, value_size=8, max_entries=65536)
"""The processes that are traced (`kernel.tasks`)."""

REFUSED = MapSpec("follow", "array", key_size=4, value_size=8, max_entries=1, flags=1 << 10)
"""How many were not added to them, as there was no room; user space maps it (BPF_F_MMAPABLE)."""


class TaskFields(NamedTuple):
    """`pid`, `tgid` (4 bytes each), `comm`; `start_time`, when the task was created, ns of the monotonic
    clock (8 bytes; a thread that executes a program takes over its leader's); `group_leader`, the process's
    first thread; `real_parent`, the task that started it.
    """

    pid: int
    tgid: int
    comm: int
    start_time: int
    group_leader: int
    real_parent: int


class PidFields(NamedTuple):
    """How a task's numbers are found: `thread_pid` of the task points to a `struct pid`, which holds `level`
    (4 bytes) and, from `numbers` on, `step` bytes for each pid namespace that sees it, the first namespace's
    first: the number (`nr`, 4 bytes) and the namespace's address (`namespace`).
    """

    thread_pid: int
    level: int
    numbers: int
    step: int
    nr: int
    namespace: int


class PidNamespace(NamedTuple):
    """A pid namespace in which programs tell tasks' numbers: how deep it is (1: a child of the first), its
    address in the kernel, and the layout.
    """

    level: int
    address: int
    fields: PidFields

    @property
    def entry(self) -> int:
        """Where a `struct pid` that this namespace sees has its number there, bytes from its start."""
        return self.fields.numbers + self.level * self.fields.step
