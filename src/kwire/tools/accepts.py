"""TCP connections that servers accept.

Told when accept or accept4 returns, in the process that has the connection now: from the new
descriptor to its file, and from there to its socket.
"""

import kwire
from kwire.probe import AF_INET, AF_INET6, be16, cast, comm, curtask, emit, ipv4, ipv6, pid

TCP = 6


def tell(descriptor: int) -> None:
    if descriptor >= 0:
        file = curtask.files.fdt.fd[descriptor]
        sk = cast("struct socket *", file.private_data).sk
        port = sk.__sk_common.skc_num
        client_port = be16(sk.__sk_common.skc_dport)
        if sk.sk_protocol == TCP and sk.__sk_common.skc_family == AF_INET:
            emit("ipv4", pid, comm, port, client=ipv4(sk.__sk_common.skc_daddr), client_port=client_port)
        if sk.sk_protocol == TCP and sk.__sk_common.skc_family == AF_INET6:
            emit("ipv6", pid, comm, port, client=ipv6(sk.__sk_common.skc_v6_daddr), client_port=client_port)


@kwire.tracepoint("syscalls:sys_exit_accept")
def accept(ret: int) -> None:
    tell(ret)


@kwire.tracepoint("syscalls:sys_exit_accept4")
def accept4(ret: int) -> None:
    tell(ret)
