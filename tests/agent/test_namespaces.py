"""Between network namespaces: two machines, as far as the network goes, with a link that can fail.

The listener's sockets are made in one namespace, the connector's in the other; one loop runs both.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kwire.errors import KwireError
from kwire.transport.address import Address
from kwire.transport.tls import TlsOptions
from kwire.wire.settings import Settings
from kwire.wire.transitions import State

QUICK = Settings(rto_first=0.1, rto_min=0.05, keepalive=0.3, ack_delay=0.01, rto_max=1.0)
CLONE_NEWNET = 0x40000000
NEAR, FAR = f"kw-t-{os.getpid()}-a", f"kw-t-{os.getpid()}-b"
ADDRESSES = {4: ("10.93.7.1", "10.93.7.2"), 6: ("fd93::1", "fd93::2")}
OTHER = {4: "10.93.7.9", 6: "fd93::9"}  # where the connector's machine moves to


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def inside_ip(namespace: str, *words: str) -> None:
    ip("-n", namespace, *words)


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Make sockets in that namespace; this thread only."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as back, open(f"/run/netns/{namespace}") as there:
        assert libc.setns(there.fileno(), CLONE_NEWNET) == 0
        try:
            yield
        finally:
            assert libc.setns(back.fileno(), CLONE_NEWNET) == 0


@pytest.fixture(scope="module")
def link() -> Iterator[None]:
    """Two namespaces with a link between them."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and ip")
    try:
        try:
            ip("netns", "add", NEAR)
            ip("netns", "add", FAR)
            ip("link", "add", "veth0", "netns", NEAR, "type", "veth", "peer", "name", "veth0", "netns", FAR)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces with veth here: {error.stderr.strip()}")
        for namespace, index in ((NEAR, 0), (FAR, 1)):
            inside_ip(namespace, "address", "add", ADDRESSES[4][index] + "/24", "dev", "veth0")
            inside_ip(namespace, "address", "add", ADDRESSES[6][index] + "/64", "dev", "veth0", "nodad")
            inside_ip(namespace, "link", "set", "lo", "up")
            with inside(namespace):
                Path("/proc/sys/net/ipv6/conf/all/keep_addr_on_down").write_text("1")
            inside_ip(namespace, "link", "set", "veth0", "up")
        yield
    finally:
        for namespace in (NEAR, FAR):
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True)


@pytest.fixture
def restored(link: None) -> Iterator[None]:
    """The link is as it was when the test is over."""
    yield
    inside_ip(NEAR, "link", "set", "veth0", "up")


Begin = Callable[[str, int], tuple[Any, Any]]


@pytest.fixture
def begin(net: Any, tls: Callable[[str], TlsOptions], restored: None, certs: Any) -> Begin:
    """A listener in the one namespace, a connector in the other."""
    from kwire.transport.certs import make_certs

    make_certs(str(certs), [addresses[0] for addresses in ADDRESSES.values()])

    def start(kind: str, family: int) -> tuple[Any, Any]:
        host = ADDRESSES[family][0]
        options = TlsOptions(*(str(certs / host / f"{name}.pem") for name in ("cert", "key", "ca")))
        with inside(NEAR):
            listener = net.listen(Address(kind, host, 0), options, settings=QUICK, insecure=True)
        connector = net.connect(listener.address, tls=tls("agent"), settings=QUICK, insecure=True)
        return listener, connector

    return start


def send(connector: Any, payloads: list[bytes]) -> None:
    for payload in payloads:
        connector.peer.session.send(payload, connector.loop.now())
    connector.peer.flush()


WAYS = [(kind, family) for kind in ("tcp", "tls", "udp") for family in (4, 6)]


@pytest.mark.parametrize(("kind", "family"), WAYS)
def test_everything_arrives_once_though_the_link_fails(
    net: Any, begin: Begin, event: Callable[..., bytes], kind: str, family: int
) -> None:
    with inside(FAR):
        _, connector = begin(kind, family)
        sent = [event(number) * 19 for number in range(600)]
        send(connector, sent[:200])
        net.until(lambda: len(net.sink(connector).payloads) >= 50)
        first = connector.peer
        inside_ip(NEAR, "link", "set", "veth0", "down")
        send(connector, sent[200:400])
        net.until(lambda: first.session.state is State.SUSPENDED)
        inside_ip(NEAR, "link", "set", "veth0", "up")
        send(connector, sent[400:])
        connector.peer.close()
        net.until(lambda: connector.closed)
    assert connector.peer is first
    assert first.session.state is State.CLOSED
    assert net.sink(connector).payloads == sent


@pytest.mark.parametrize(("kind", "family"), WAYS)
def test_a_machine_that_moves_to_another_address_goes_on(
    net: Any, begin: Begin, event: Callable[..., bytes], kind: str, family: int
) -> None:
    mask = "/24" if family == 4 else "/64"
    old, new = ADDRESSES[family][1] + mask, OTHER[family] + mask
    more = ["nodad"] if family == 6 else []
    with inside(FAR):
        listener, connector = begin(kind, family)
        send(connector, [event(1)])
        net.until(lambda: net.sink(connector).payloads)
        (peer,) = listener.peers.values()
        inside_ip(FAR, "address", "del", old, "dev", "veth0")
        inside_ip(FAR, "address", "add", new, "dev", "veth0", *more)
        try:
            send(connector, [event(2)])
            net.until(lambda: not connector.peer.session.unacknowledged)
        finally:
            inside_ip(FAR, "address", "del", new, "dev", "veth0")
            inside_ip(FAR, "address", "add", old, "dev", "veth0", *more)
    assert list(listener.peers.values()) == [peer]
    assert OTHER[family] in peer.address
    assert net.sink(connector).payloads == [event(1), event(2)]


@pytest.mark.parametrize(("kind", "family"), [(kind, family) for kind in ("tcp", "udp") for family in (4, 6)])
def test_a_machine_that_moves_before_it_is_answered_goes_on(
    net: Any,
    begin: Begin,
    event: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    family: int,
) -> None:
    """A socket keeps the address it began with, and its HELLO is answered there."""
    monkeypatch.setattr("kwire.transport.connect.PATIENCE", 0.5)
    mask = "/24" if family == 4 else "/64"
    old, new = ADDRESSES[family][1] + mask, OTHER[family] + mask
    more = ["nodad"] if family == 6 else []
    with inside(FAR):
        listener, unused = begin(kind, family)
        unused.close()
        settings = QUICK._replace(rto_first=60.0, rto_max=60.0)  # HELLO again in vain comes too late
        connector = net.connect(listener.address, settings=settings, insecure=True)
        net.until(lambda: connector.peer.transport)
        assert connector.peer.session.state is State.HELLO_SENT
        inside_ip(FAR, "address", "del", old, "dev", "veth0")
        inside_ip(FAR, "address", "add", new, "dev", "veth0", *more)
        try:
            send(connector, [event(1)])
            net.until(lambda: not connector.peer.session.unacknowledged)
        finally:
            inside_ip(FAR, "address", "del", new, "dev", "veth0")
            inside_ip(FAR, "address", "add", old, "dev", "veth0", *more)
    assert net.sink(connector).payloads == [event(1)]


def test_over_a_bad_link_of_datagrams_everything_arrives_once(
    net: Any, begin: Begin, udp_proxy: Any, event: Callable[..., bytes]
) -> None:
    """Loss, delay, repetition and reordering by a proxy, between the two machines."""
    with inside(FAR):
        listener, unused = begin("udp", 4)
        unused.close()
        proxy = udp_proxy(listener.address.port)
        proxy.host = ADDRESSES[4][0]
        proxy.loss, proxy.repeat, proxy.reorder, proxy.delay = 0.08, 0.05, 0.1, 0.01
        connector = net.connect(Address("udp", "127.0.0.1", proxy.port), settings=QUICK)
        sent = [event(number) * 19 for number in range(300)]
        send(connector, sent)
        net.until(lambda: len(net.sink(connector).payloads) >= 100)
        proxy.stalled = True  # a partition
        net.run(0.5)
        proxy.stalled = False
        connector.peer.close()
        net.until(lambda: connector.closed)
    assert net.sink(connector).payloads == sent
    assert proxy.lost > 10


def test_datagrams_longer_than_the_link_takes_arrive(
    net: Any, begin: Begin, event: Callable[..., bytes]
) -> None:
    """A single event of 40,000 bytes, and DATA of 1,400 over a link of 1,280."""
    inside_ip(NEAR, "link", "set", "veth0", "mtu", "1280")
    inside_ip(FAR, "link", "set", "veth0", "mtu", "1280")
    try:
        with inside(FAR):
            _, connector = begin("udp", 4)
            sent = [event(1, 40_000), event(2) * 19]
            send(connector, sent)
            connector.peer.close()
            net.until(lambda: connector.closed)
    finally:
        inside_ip(NEAR, "link", "set", "veth0", "mtu", "1500")
        inside_ip(FAR, "link", "set", "veth0", "mtu", "1500")
    assert net.sink(connector).payloads == sent


def test_a_machine_that_cannot_be_reached_is_told_of(net: Any, restored: None) -> None:
    with inside(FAR):
        for address, why in (
            (Address("tcp", "192.0.2.1", 5), "unreachable"),
            (Address("tcp", ADDRESSES[4][0], 5), "refused"),
            (Address("udp", ADDRESSES[4][0], 5), "refused"),
        ):
            heard: list[KwireError] = []
            connector = net.connect(address, insecure=True, troubled=heard.append)
            net.until(lambda heard=heard: heard)
            assert why in str(heard[0])
            connector.close()


def test_between_machines_not_in_the_clear_unless_it_is_written_out(net: Any, restored: None) -> None:
    with inside(NEAR):
        for kind in ("tcp", "udp"):
            for start in (net.listen, net.connect):
                with pytest.raises(KwireError, match="--insecure"):
                    start(Address(kind, ADDRESSES[4][0], 0))
