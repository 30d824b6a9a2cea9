"""TCP connections as the kernel's own functions see them: kprobes, with structures read through pointers.

kwire trace examples/tcp.py -c 'curl -s http://localhost/'
"""

from typing import Any

import kwire
from kwire.probe import be16, cast, comm, cpu, emit, ipv4, pid, retval


@kwire.kprobe("tcp_connect")
def connecting(sk: Any) -> None:
    emit(
        cpu,
        pid,
        comm,
        source=ipv4(sk.__sk_common.skc_rcv_saddr),
        destination=ipv4(sk.__sk_common.skc_daddr),
        dport=be16(sk.__sk_common.skc_dport),
    )


@kwire.kretprobe("inet_csk_accept")
def accepted() -> None:
    new = cast("struct sock *", retval)
    if new:
        emit(cpu, pid, comm, peer=ipv4(new.__sk_common.skc_daddr), port=new.__sk_common.skc_num)
