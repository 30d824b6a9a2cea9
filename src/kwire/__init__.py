"""kwire: kernel events on the wire.

The public API, and nothing else. Importing it costs next to nothing; what a call needs is imported by the call.
"""

from typing import TYPE_CHECKING, Any

from kwire.errors import KwireError
from kwire.live.probes import Probe, fentry, fexit, kprobe, kretprobe, probe, rawtracepoint, tracepoint

if TYPE_CHECKING:
    from kwire.live.events import Event
    from kwire.live.trace import Trace

__all__ = [
    "KwireError",
    "Probe",
    "fentry",
    "fexit",
    "kprobe",
    "kretprobe",
    "probe",
    "rawtracepoint",
    "simulate",
    "trace",
    "tracepoint",
]


def trace(
    *probes: Probe,
    command: str | list[str] | None = None,
    pid: int | list[int] | None = None,
    seconds: float | None = None,
    count: int | None = None,
    buffer: int = 4 << 20,
) -> "Trace":
    """Compile and load probes; they fire inside the `with` that the result is used in.

    `command`, `pid`: trace only that command (started when the `with` begins) or those processes, and
    whatever they start; neither: the whole machine. `seconds`, `count`: end after so long or so many events.
    `buffer`: bytes of each CPU's ring. Raises KwireError with what is wrong and what to do.

        with kwire.trace(connect, seconds=10) as events:
            for event in events:
                print(event.comm, event.dport)
    """
    from kwire.live.trace import Trace

    return Trace(probes, command=command, pid=pid, seconds=seconds, count=count, buffer=buffer)


def simulate(probe: Probe, arguments: dict[str, Any] | None = None, **environment: Any) -> "list[Event]":
    """Compile a probe and run it once in kwire's own eBPF machine: a test needs no privilege and no probe.

    See `kwire.live.simulate.simulate`.
    """
    from kwire.live.simulate import simulate

    return simulate(probe, arguments, **environment)
