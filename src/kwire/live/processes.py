"""Whose events a trace is about: the command of `-c`, the processes of `-p`, or the whole machine but kwire.

Invariants: a process named is held by a pidfd from the moment it is named, so its number cannot come to mean
another one; a trace of chosen processes is over when the command, or else the last of those named, has ended;
who cannot be followed is refused with the reason, never traced in vain. Numbers given to programs are the
kernel's (of its first pid namespace), whatever namespace we are in.
"""

import errno
import os
import re
import select
from collections.abc import Iterable, Sequence

from kwire.arguments import checked
from kwire.bpf.task import TaskFields
from kwire.errors import KwireError
from kwire.kernel.maps import Map
from kwire.kernel.sys import in_first_namespace
from kwire.kernel.syscall import reason
from kwire.kernel.tasks import Identity, add
from kwire.live.command import Command, split
from kwire.live.plan import Scope

MAX_PID = 1 << 22
"""The kernel's PID_MAX_LIMIT; ids are smaller."""


def choice(
    command: str | Sequence[str] | None, pid: int | Iterable[int] | None
) -> tuple[list[str], list[int]]:
    """The words of the command and the process ids that a trace from Python is about; neither: all processes.

    Raises KwireError where one is given and empty: no process is not every process.
    """
    words, pids = checked("trace", command=command, pid=pid)
    return split(words) if isinstance(words, str) else words or [], pids or []


class Processes:
    """The processes of a trace, `command` being the one that waits to be let go.

    Without `pids` and `command`: all, but those of `without`, which are ours: whoever shows or sends events
    would trace his own doing so for ever.
    """

    __slots__ = ("_alive", "_everyone", "_fields", "_held", "_watch", "_without", "command")

    def __init__(
        self,
        pids: Sequence[int] = (),
        command: Command | None = None,
        *,
        without: Sequence[int] = (),
        everyone: bool = False,
    ) -> None:
        """Hold the processes. `everyone`: beside these all are traced, as long as they run.

        Raises KwireError where one is not there, or is a thread.
        """
        self.command = command
        self._everyone = everyone
        self._without = without
        self._held: dict[int, int] = {}
        self._watch = select.epoll()
        self._fields: TaskFields | None = None
        try:
            for pid in pids:
                if pid not in self._held:
                    self._held[pid] = hold(pid)
            self._alive = {command.pidfd} if command else set(self._held.values())
            for fd in self._alive:
                self._watch.register(fd, select.EPOLLIN)
        except BaseException:
            self.close()
            raise

    @property
    def chosen(self) -> bool:
        """Whether only chosen processes are traced."""
        return bool(self.command or self._held) and not self._everyone

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes that were named."""
        return tuple(self._held)

    @property
    def scope(self) -> Scope:
        """What the programs are told when they are compiled. Raises KernelError."""
        if self.command and not self._everyone:
            return Scope(True, self._number(self.command.pid))
        if self._held and not self._everyone:
            return Scope(True, pids=tuple(self._held))
        return Scope(False, 0, tuple(self._number(pid) for pid in self._without))

    @property
    def fd(self) -> int:
        """A descriptor that becomes readable when one of the processes ends: ask `ended` then."""
        return self._watch.fileno()

    def ended(self) -> bool:
        """Whether the command, or else every process named, has ended; never where the whole machine is."""
        for fd, _ in self._watch.poll(0):
            self._watch.unregister(fd)
            self._alive.discard(fd)
        return bool(self.command or self._held) and not self._alive

    def enter(self, tasks: Map, fields: TaskFields | None) -> None:
        """Put the processes into the map of those traced, and the children they have already.

        What follows forks must be at work. Without `fields` (no BTF) children born before are not found.
        """
        self._fields = self._fields or fields
        if self.command:
            # Its number stays its own, because nobody but us can wait for it.
            add(tasks, Identity(self._number(self.command.pid)))
        if not self._held:
            return
        known = {self._identity(pid, fd) for pid, fd in self._held.items()}
        for one in known:
            add(tasks, one)
        if fields is None:
            return
        ourselves = set() if os.getpid() in self._held else {self._number(os.getpid())}
        while born := _children(known, fields, ourselves):
            for one in born:
                add(tasks, one)
            known |= born

    def close(self) -> None:
        """Let go of the processes; the command is its owner's to end."""
        for fd in self._held.values():
            os.close(fd)
        self._held.clear()
        self._watch.close()

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _number(self, pid: int) -> int:
        """The kernel's number of a process that cannot end meanwhile."""
        if in_first_namespace():
            return pid
        from kwire.kernel.identity import find  # rarely needed for a command

        found = find(pid, self._layout())
        if found is None:
            raise KwireError("find process", str(pid), "the kernel does not tell of it")
        return found.identity.number

    def _identity(self, pid: int, held: int) -> Identity:
        if self._fields is None and in_first_namespace():
            return Identity(pid)
        from kwire.kernel.identity import find

        found = find(pid, self._layout())
        if select.select([held], [], [], 0)[0]:
            raise _gone(pid)
        if found is None:  # a security module hides it
            return Identity(self._number(pid))
        return found.identity

    def _layout(self) -> TaskFields:
        """Where tasks keep what is asked of them. Raises KwireError on a kernel without BTF."""
        if self._fields is None:
            from kwire.btf.store import load_kernel
            from kwire.compile.build import task_fields

            self._fields = task_fields(load_kernel().vmlinux)
            if self._fields is None:
                raise KwireError("find process", "", "the kernel's types do not tell of its tasks")
        return self._fields


def _children(known: set[Identity], fields: TaskFields, without: set[int]) -> set[Identity]:
    """Those descended from the known ones that are not known yet."""
    from kwire.kernel.identity import everybody

    by_parent: dict[int, list[Identity]] = {}
    for process in everybody(fields):
        by_parent.setdefault(process.parent, []).append(process.identity)
    born: set[Identity] = set()
    waiting = list(known)
    while waiting:
        for child in by_parent.get(waiting.pop().number, ()):
            if child not in known and child not in born and child.number not in without:
                born.add(child)
                waiting.append(child)
    return born


def hold(pid: int) -> int:
    """A pidfd of a process. Raises KwireError where there is none of this id, or it is a thread's."""
    if not 0 < pid < MAX_PID:
        raise _gone(pid)
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno == errno.ESRCH:
            raise _gone(pid) from None
        process = _process_of(pid)
        if process and process != pid:
            raise KwireError(
                "trace process",
                str(pid),
                f"that is a thread of process {process}",
                f"name the process, {process}, and choose the thread by a filter: tid == {pid}",
            ) from None
        raise KwireError("trace process", str(pid), reason(error.errno or 0)) from None


def _process_of(tid: int) -> int:
    """The process that a thread belongs to, 0 where /proc does not tell."""
    try:
        with open(f"/proc/{tid}/status") as file:
            found = re.search(r"^Tgid:\s*(\d+)", file.read(), re.M)
    except OSError:
        return 0
    return int(found[1]) if found else 0


def _gone(pid: int) -> KwireError:
    return KwireError("trace process", str(pid), "there is no such process")
