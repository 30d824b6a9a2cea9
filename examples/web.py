"""What processes do on the network, and which programs they start: tracepoints, so it runs on any kernel.

    kwire trace examples/web.py -c 'python3 examples/workload.py'

`emit` and the names of built-ins (pid, comm, cpu) are known to kwire's compiler, not to Python.
"""

import kwire

TCP = 6


@kwire.tracepoint("sched:sched_process_exec")
def executed(filename):
    emit(cpu, pid, comm, file=str(filename))


@kwire.tracepoint("sock:inet_sock_set_state")
def state(oldstate, newstate, sport, dport, saddr, daddr, protocol):
    if protocol == TCP:
        emit(cpu, pid, comm, oldstate, newstate, sport, dport, source=ipv4(saddr), destination=ipv4(daddr))


@kwire.tracepoint("syscalls:sys_enter_sendto")
def sent(fd, len):
    emit(cpu, pid, comm, fd, bytes=len)
