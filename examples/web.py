"""What processes do on the network, and which programs they start: tracepoints, so it runs on any kernel.

    kwire trace examples/web.py -c 'python3 examples/workload.py'

kwire's compiler knows `emit` and the built-ins (pid, comm, cpu); the import is for editors and type checkers.
"""

from typing import Any

import kwire
from kwire.probe import comm, cpu, emit, ipv4, pid

TCP = 6


@kwire.tracepoint("sched:sched_process_exec")
def executed(filename: Any) -> None:
    emit(cpu, pid, comm, file=str(filename))


@kwire.tracepoint("sock:inet_sock_set_state")
def state(
    oldstate: Any, newstate: Any, sport: int, dport: int, saddr: Any, daddr: Any, protocol: int
) -> None:
    if protocol == TCP:
        emit(cpu, pid, comm, oldstate, newstate, sport, dport, source=ipv4(saddr), destination=ipv4(daddr))


@kwire.tracepoint("syscalls:sys_enter_sendto")
def sent(fd: int, len: int) -> None:
    emit(cpu, pid, comm, fd, bytes=len)
