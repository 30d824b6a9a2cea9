"""What a process does on the network and which programs it starts: tracepoints, on every kernel.

kwire trace examples/web.py -c 'COMMAND ARGS'
"""

import kwire


@kwire.tracepoint("sched:sched_process_exec")
def exec(filename):
    emit(pid, comm, cpu, filename=str(filename))


@kwire.tracepoint("sock:inet_sock_set_state")
def state(oldstate, newstate, sport, dport, saddr, daddr, protocol):
    if protocol == 6:
        emit(pid, comm, cpu, oldstate, newstate, source=ipv4(saddr), sport, destination=ipv4(daddr), dport)


@kwire.tracepoint("syscalls:sys_enter_accept4")
def accept(fd):
    emit(pid, comm, cpu, fd)
