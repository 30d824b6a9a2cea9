"""What every trace has, whatever its plan: the rings, and the map of the processes that are traced.

The kernel clears their memory, and lets whoever fills an array of maps wait until every running program has
ended: 10 to 25 ms together. So a thread makes them, from the moment they are asked for, while programs are
compiled.
"""

import _thread
import os
import sys

from kwire.errors import KwireError
from kwire.kernel.maps import Map
from kwire.kernel.ring import Rings
from kwire.kernel.sys import online_cpus
from kwire.kernel.tasks import create_tasks

RING_MOST, RING_LEAST, RINGS_TOGETHER = 8 << 20, 512 << 10, 64 << 20
"""Bytes of a CPU's ring by default: 8 MB, or less where all CPUs together would take over 64 MB."""

SWITCH = 0.0002
"""Seconds that a thread waits for another to let it run: by Python's own 5 ms, ours would spend more time
waiting between its system calls than in them.
"""

MIN_BUFFER = 4096
MAX_BUFFER = 1 << 30


def default_buffer() -> int:
    """The size of each CPU's ring when nobody chose one, in bytes."""
    share = RINGS_TOGETHER // len(online_cpus())
    return max(RING_LEAST, min(RING_MOST, 1 << share.bit_length() - 1))


def ring_size(wanted: int) -> int:
    """The ring size the kernel takes, at least `wanted` bytes: a power of two of whole pages."""
    if not MIN_BUFFER <= wanted <= MAX_BUFFER:
        raise KwireError(
            "set buffer size", str(wanted), "it is out of range", f"choose from {MIN_BUFFER} bytes to 1G"
        )
    return 1 << (wanted - 1).bit_length()


class Ground:
    """These maps in the making. `wait` before they are used; whoever made this closes it."""

    __slots__ = ("_done", "_follow", "_interval", "_known", "_problem", "_rings", "_size", "_tasks")

    def __init__(self, buffer: int | None = None, *, follow: bool = False, known: Map | None = None) -> None:
        """Begin. `buffer`: bytes of each CPU's ring (None: by `default_buffer`); `follow`: only chosen
        processes are traced, and what they start; `known`: their map, where another trace keeps it, whose
        owner closes it. Raises KwireError where no ring has so many bytes.
        """
        self._size = ring_size(default_buffer() if buffer is None else buffer)
        self._follow = follow
        self._known = known
        self._rings: Rings | None = None
        self._tasks: Map | None = None
        self._problem: BaseException | None = None
        self._done = _thread.allocate_lock()
        self._done.acquire()
        self._interval = sys.getswitchinterval()
        try:
            sys.setswitchinterval(SWITCH)
            _thread.start_new_thread(self._make, ())
        except RuntimeError:  # no more threads are allowed
            self._make()

    def anew(self) -> "Ground":
        """The same once more."""
        return Ground(self._size, follow=self._follow, known=self._known)

    @classmethod
    def taken(cls, rings: Rings) -> "Ground":
        """One whose rings another process has made; the processes that are traced are that one's matter."""
        self = cls.__new__(cls)
        self._size, self._follow, self._known, self._tasks = rings.readers[0].size, False, None, None
        self._rings, self._problem, self._interval = rings, None, sys.getswitchinterval()
        self._done = _thread.allocate_lock()
        return self

    @property
    def rings(self) -> Rings:
        """The rings. Raises KernelError where they could not be made."""
        self._wait()
        assert self._rings is not None
        return self._rings

    @property
    def tasks(self) -> Map | None:
        """The map of the processes; None where the whole machine is traced. Raises KernelError as `rings`."""
        self._wait()
        return self._tasks

    def close(self) -> None:
        """Free all; twice is harmless."""
        with self._done:
            if self._rings is not None:
                self._rings.close()
            if self._tasks is not None:
                self._tasks.close()

    def _wait(self) -> None:
        with self._done:
            if self._problem is not None:
                raise self._problem

    def _make(self) -> None:
        try:
            if self._known is not None:
                self._tasks = Map(os.dup(self._known.fd), self._known.spec)
            elif self._follow:
                self._tasks = create_tasks()
            self._rings = Rings(self._size)
        except BaseException as error:
            self._problem = error
        finally:
            sys.setswitchinterval(self._interval)
            self._done.release()
