"""Packets that the kernel drops, with the reason, and the place that does it.

`reason` is the kernel's own word: NO_SOCKET is a packet for a port where nobody listens,
NETFILTER_DROP a rule of the firewall. Whatever process runs at that moment has nothing to do with
it, so none is told.
"""

from typing import Any

import kwire
from kwire.probe import emit, ksym


@kwire.tracepoint("skb:kfree_skb")
def drops(reason: Any, protocol: Any, location: int) -> None:
    emit(reason, protocol, location=ksym(location))
