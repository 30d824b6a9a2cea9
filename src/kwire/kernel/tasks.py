"""Following processes: the `tasks` map holds the processes that are traced, and two programs keep it so.

A process is known by its number and the moment its first thread was created: the kernel gives numbers out
again, and does so before it tells that the old owner is gone. An entry's key is the number (the tgid), its
value that moment; a program traces the current process when both agree. A value of 0 stands for "by the
number alone": right where something holds the number, as for the command of `-c`, whose end we wait for
ourselves; and all that can be had where the kernel has no BTF.

At every fork, a process whose parent is in `tasks` is added before it runs for the first time; when the
kernel frees its first thread, it is removed, unless the entry is a later process's by then. Threads need no
entry. Invariant: a child that found no room in the map is counted (`refused`).

Numbers are those of the kernel's first pid namespace, as `bpf_get_current_pid_tgid` gives them.
"""

import struct
from collections.abc import Iterable, Sequence

from kwire.bpf.image import Image, MapSpec
from kwire.bpf.task import REFUSED, TASKS
from kwire.kernel.attach import Link, attach
from kwire.kernel.maps import Map
from kwire.kernel.prog import load
from kwire.lazy import NamedTuple


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


def known_tasks(descriptor: int) -> Map:
    """The `tasks` map of another process, of which this descriptor has come."""
    return Map(descriptor, TASKS)


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

    def __init__(self, tasks: Map, programs: Sequence[tuple[Image, str]]) -> None:
        """Attach them (`following.programs`) to `tasks`. Raises KernelError."""
        self._links: list[Link] = []
        with Map.create(REFUSED) as refused:
            self._refused = refused.mmap()  # can be read without privileges
            self._words = memoryview(self._refused).cast("Q")
            self._attach(tasks, refused, programs)

    def _attach(self, tasks: Map, refused: Map, programs: Sequence[tuple[Image, str]]) -> None:
        try:
            for program, event in programs:
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
