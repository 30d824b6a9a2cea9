"""TCP segments that are sent again.

Many of one connection mean a path that loses packets; in state TCP_SYN_SENT, a server that does not
answer. It is timers and acknowledgements that send them, in whatever process runs then, so none is
told.
"""

from typing import Any

import kwire
from kwire.probe import AF_INET, emit, ipv4, ipv6


@kwire.tracepoint("tcp:tcp_retransmit_skb")
def retransmits(
    state: Any, family: int, saddr: Any, saddr_v6: Any, sport: int, daddr: Any, daddr_v6: Any, dport: int
) -> None:
    if family == AF_INET:
        emit("ipv4", state, source=ipv4(saddr), sport=sport, destination=ipv4(daddr), dport=dport)
    else:
        emit("ipv6", state, source=ipv6(saddr_v6), sport=sport, destination=ipv6(daddr_v6), dport=dport)
