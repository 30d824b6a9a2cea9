"""Two machines, as far as the network goes: namespaces joined by a pair of veth devices that fail.

The listener is in `near`, who connects in `far`. This kernel may lack netem, so what nftables, `ip` and a
token bucket do is what happens: packets of one or both ways vanish, or some of them, or the large ones; they
are answered with RST; the link goes down; addresses vanish and change; the link becomes narrow. The
namespaces have no names: they end with the last process in them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator

from fault_mounts import NotHereError, run

CLONE_NEWNET = 0x40000000
ADDRESSES = {4: ("10.93.8.1", "10.93.8.2"), 6: ("fd93:8::1", "fd93:8::2")}
MASK = {4: 24, 6: 64}
OTHER = {4: "10.93.8.9", 6: "fd93:8::9"}
"""Where `far` moves to."""

_libc = ctypes.CDLL(None, use_errno=True)


def enter(namespace: int) -> None:
    """Go into the network namespace of a descriptor, for good."""
    if _libc.setns(namespace, CLONE_NEWNET):
        raise NotHereError(f"enter a network namespace: {os.strerror(ctypes.get_errno())}")


def _made() -> int:
    """A new namespace; this process is in it."""
    if _libc.unshare(CLONE_NEWNET):
        raise NotHereError(f"no network namespace: {os.strerror(ctypes.get_errno())}")
    return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


class Link:
    """The two namespaces and what joins them; `family` is 4 or 6. Raises NotHereError."""

    def __init__(self, family: int) -> None:
        self.family = family
        self.host, self._theirs = ADDRESSES[family]
        self.nowhere = False
        """The listener's machine may have no address now."""
        back = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.near, self.far = _made(), _made()
        finally:
            enter(back)
            os.close(back)
        with self.inside(self.near):
            run("ip", "link", "add", "veth0", "type", "veth", "peer", "name", "veth0", "netns",
                f"/proc/{os.getpid()}/fd/{self.far}")  # fmt: skip
        for place, address in ((self.near, self.host), (self.far, self._theirs)):
            with self.inside(place):
                run("ip", "link", "set", "lo", "up")
                run("ip", "link", "set", "veth0", "up")
                self._have(address)

    @contextlib.contextmanager
    def inside(self, namespace: int) -> Iterator[None]:
        """This thread is there meanwhile."""
        back = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            enter(namespace)
            yield
        finally:
            enter(back)
            os.close(back)

    def _have(self, address: str) -> None:
        nodad = ["nodad"] if self.family == 6 else []
        run("ip", "address", "replace", f"{address}/{MASK[self.family]}", "dev", "veth0", *nodad)

    def up(self, yes: bool) -> None:
        """The link of the listener's machine."""
        with self.inside(self.near):
            run("ip", "link", "set", "veth0", "up" if yes else "down")
            if yes:
                self._have(self.host)  # IPv6 takes addresses away with the link
        self.nowhere = not yes
        if yes:
            with self.inside(self.far):
                self._have(self._theirs)

    def drop(self, way: str, rule: str) -> None:
        """Packets that come `way` ("in", "out") at the listener's machine, and for which `rule` holds."""
        hook = {"in": "input", "out": "output"}[way]
        with self.inside(self.near):
            chain = f"add chain inet harm {hook} {{ type filter hook {hook} priority 0; }}"
            run("nft", f"add table inet harm; {chain}; add rule inet harm {hook} {rule}")

    def narrow(self, megabits: int) -> None:
        """So little goes to the collector; what comes faster is queued, and dropped."""
        with self.inside(self.far):
            run("tc", "qdisc", "replace", "dev", "veth0", "root", "tbf", "rate", f"{megabits}mbit", "burst",
                "20kb", "latency", "50ms")  # fmt: skip

    def move(self) -> None:
        """The agent's machine has another address from now on."""
        with self.inside(self.far):
            run("ip", "address", "flush", "dev", "veth0", "scope", "global")
            self._theirs = (
                OTHER[self.family] if self._theirs != OTHER[self.family] else ADDRESSES[self.family][1]
            )
            self._have(self._theirs)

    def forget_address(self) -> None:
        """The listener's machine has no address until `heal`."""
        self.nowhere = True
        with self.inside(self.near):
            run("ip", "address", "flush", "dev", "veth0", "scope", "global")

    def heal(self) -> None:
        """The link is as it was, wherever the agent is now."""
        self.up(True)
        with self.inside(self.near):
            run("nft", "add table inet harm; delete table inet harm")
        with self.inside(self.far):
            run("tc", "qdisc", "del", "dev", "veth0", "root", right=(0, 2))

    def close(self) -> None:
        """Both end with the last process in them."""
        os.close(self.near)
        os.close(self.far)
