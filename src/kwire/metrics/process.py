"""What /proc tells of this process, as samples: processor time, memory, descriptors, when it began.

Invariants: names and meanings are those of Prometheus' client libraries, so that dashboards made for these
fit. What cannot be read is left out.
"""

import os
import time
from collections.abc import Iterator
from typing import Final

from kwire.metrics.table import Sample

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_VIRTUAL: Final = 20
_RESIDENT: Final = 21
_STARTED: Final = 19
"""Fields of /proc/self/stat, counted from the one after the command's name."""


class Process:
    """This process. What stays as it is, is read when it is made."""

    def __init__(self) -> None:
        self.started: float | None = None
        """When it began, in seconds since 1970; None where that cannot be read."""
        try:
            ticks = int(_fields()[_STARTED])
            with open("/proc/stat", "rb") as lines:
                booted = next(int(line.split()[1]) for line in lines if line.startswith(b"btime "))
            self.started = booted + ticks / _TICKS
        except (OSError, StopIteration):
            pass

    def samples(self) -> Iterator[Sample]:
        """What there is now."""
        yield Sample("process_cpu_seconds_total", time.process_time())
        if self.started is not None:
            yield Sample("process_start_time_seconds", self.started)
        try:
            fields = _fields()
            yield Sample("process_virtual_memory_bytes", int(fields[_VIRTUAL]))
            yield Sample("process_resident_memory_bytes", int(fields[_RESIDENT]) * _PAGE)
            yield Sample("process_open_fds", len(os.listdir("/proc/self/fd")) - 1)  # without the list's own
            with open("/proc/self/limits", "rb") as lines:
                limit = next(line.split()[3] for line in lines if line.startswith(b"Max open files"))
            yield Sample("process_max_fds", float("inf") if limit == b"unlimited" else int(limit))
        except (OSError, StopIteration):
            return


def _fields() -> list[bytes]:
    with open("/proc/self/stat", "rb") as stat:
        return stat.read().rpartition(b")")[2].split()
