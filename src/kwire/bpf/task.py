"""Where the running kernel's `struct task_struct` keeps what programs read: a table of offsets in bytes.

The offsets come from the kernel's own BTF (`compile.build.task_fields`).
"""

from typing import NamedTuple


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
