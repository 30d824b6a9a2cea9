"""TCP connections that processes begin.

Told when a socket begins to connect, which the process itself does, so it is told by name, whatever
becomes of the connection.
"""

from typing import Any

import kwire
from kwire.probe import AF_INET, comm, emit, ipv4, ipv6, pid, uid

TCP = 6


@kwire.tracepoint("sock:inet_sock_set_state")
def connects(
    newstate: Any,
    protocol: int,
    family: int,
    saddr: Any,
    saddr_v6: Any,
    daddr: Any,
    daddr_v6: Any,
    dport: int,
) -> None:
    if newstate == "TCP_SYN_SENT" and protocol == TCP:
        if family == AF_INET:
            emit("ipv4", pid, comm, uid, source=ipv4(saddr), destination=ipv4(daddr), dport=dport)
        else:
            emit("ipv6", pid, comm, uid, source=ipv6(saddr_v6), destination=ipv6(daddr_v6), dport=dport)
