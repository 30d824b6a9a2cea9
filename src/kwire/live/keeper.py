"""The keeper of a traced command: its parent, which ends what it started when its trace ends.

Invariants: whatever the command starts descends from the keeper, however it detaches itself, because orphans
of the keeper's descendants become its children (PR_SET_CHILD_SUBREAPER); it hears of the end of its own
parent, `kill -9` included, through a pipe; it hears one byte and says two numbers, so it may keep the
privileges that ending processes of others takes; no signal but SIGKILL ends it before them. A command's
process id stays its own until the keeper is gone: nobody else can wait for it.
"""

import os
import select
import signal
import struct
import time
from collections.abc import Callable
from contextlib import suppress

from kwire.hints import Final
from kwire.kernel import privileges
from kwire.kernel.syscall import close_all_but

END: Final = b"e"
NUMBER: Final = struct.Struct("=i")

PATIENCE: Final = 100
"""Hundredths of a second that processes have to end when asked, each time."""

ROUNDS: Final = 500
"""Looks for what still runs after SIGKILL: something may be forked while we look."""

STEP: Final = 0.01

MANY: Final = 4096
"""Descriptors that are looked at where /proc does not tell which are open."""


def keep(become: Callable[[], None], orders: int, told: int, theirs: tuple[int, ...], whole: bool) -> None:
    """The keeper's life, in a process of its own. Never returns.

    `become`: makes a child the command, from descriptors `theirs`; `orders`: says END, or ends with our
    parent; `told`: is told the command's process id, then its wait status. `whole`: what the command has
    started ends with the trace even where the command itself has ended before, and it has nothing of ours;
    otherwise it has the descriptors that our caller gave us for it, as by `cat <(ls)`.
    """
    status = 1
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        given = set() if whole else _inheritable()
        close_all_but({0, 1, 2, orders, told, *theirs, *given})
        privileges.adopt_orphans()
        pid = os.fork()
        if pid == 0:
            os.close(orders)
            os.close(told)
            become()
        for fd in {*theirs, *given}:
            os.close(fd)
        os.write(told, NUMBER.pack(pid))
        _serve(pid, orders, told, whole)
        status = 0
    finally:
        os._exit(status)


def _serve(pid: int, orders: int, told: int, whole: bool) -> None:
    """Tell of the command's end; end it, and what it has started, when that is asked for."""
    pidfd = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(orders, select.POLLIN)
    poll.register(pidfd, select.POLLIN)
    asked = ended = False
    while not asked:
        for fd, _ in poll.poll():
            if fd == pidfd:
                ended = True
                poll.unregister(pidfd)
                _tell(pid, told)
            else:
                asked = True
    if not ended or whole or os.read(orders, 1) == END:
        _end_all(pid)
    if not ended:
        _tell(pid, told)
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _tell(pid: int, told: int) -> None:
    """Say how the command has ended; it is not waited for, so its number is not used again."""
    found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert found is not None  # without WNOHANG there is one
    if found.si_code == os.CLD_EXITED:
        status = found.si_status << 8
    else:
        status = found.si_status | (0x80 if found.si_code == os.CLD_DUMPED else 0)
    with suppress(BrokenPipeError):
        os.write(told, NUMBER.pack(status))


def _end_all(pid: int) -> None:
    """Ask as Ctrl-C does, then by SIGTERM, then end whatever is left."""
    ours = _proc_is_ours()

    def left() -> list[int]:
        if ours:
            return descendants(os.getpid())
        return [] if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) else [pid]

    for number in (signal.SIGINT, signal.SIGTERM):
        for one in left():
            _send(one, number)
        for _ in range(PATIENCE):
            if not left():
                return
            time.sleep(STEP)
    for _ in range(ROUNDS):
        running = left()
        if not running:
            return
        for one in running:
            _send(one, signal.SIGSTOP)  # what stands still starts nothing
        for one in left():
            _send(one, signal.SIGKILL)
        time.sleep(STEP)


def _proc_is_ours() -> bool:
    """Whether /proc is there, and that of our pid namespace."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return False


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def descendants(of: int) -> list[int]:
    """The processes that descend from one and still run."""
    children: dict[int, list[int]] = {}
    dead: set[int] = set()
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        with suppress(OSError, ValueError, IndexError):
            with open(f"/proc/{name}/stat", "rb") as file:
                state, parent = file.read().rpartition(b")")[2].split()[:2]
            children.setdefault(int(parent), []).append(int(name))
            if state in (b"Z", b"X"):
                dead.add(int(name))
    found: list[int] = []
    waiting = [of]
    while waiting:
        for child in children.pop(waiting.pop(), ()):
            waiting.append(child)
            if child not in dead:
                found.append(child)
    return found


def _inheritable() -> set[int]:
    """The descriptors beside the standard ones that programs which we start are to have."""
    try:
        known = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        known = list(range(min(os.sysconf("SC_OPEN_MAX"), MANY)))
    found = set()
    for fd in known:
        with suppress(OSError):
            if fd > 2 and os.get_inheritable(fd):
                found.add(fd)
    return found
