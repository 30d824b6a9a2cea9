"""Packets that scapy builds, of every kind it knows for us, hold the frames that scapy put there."""

from __future__ import annotations

import random
from typing import Any

import pytest

from kwire.wire.frame import Flag


@pytest.fixture(scope="module")
def layers() -> Any:
    import scapy.layers.inet
    import scapy.layers.inet6
    import scapy.layers.l2

    merged: dict[str, Any] = {}
    for module in (scapy.layers.l2, scapy.layers.inet, scapy.layers.inet6):
        merged |= vars(module)
    return merged


def some_network(layers: Any, source: random.Random) -> Any:
    """Layers up to IP."""
    ether, dot1q, dot1ad, ip, ip6 = (layers[name] for name in ("Ether", "Dot1Q", "Dot1AD", "IP", "IPv6"))
    link = ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    for _ in range(source.choice([0, 0, 1, 2])):
        link /= source.choice([dot1q, dot1ad])(vlan=source.randrange(4096))
    if source.random() < 0.5:
        options = source.choice([[], [layers["IPOption_NOP"]()] * 4, [layers["IPOption_Router_Alert"]()]])
        return link / ip(src="10.1.1.1", dst="10.2.2.2", id=source.randrange(1 << 16), options=options)
    packet = link / ip6(src="fd00::1", dst="fd00::2")
    for name in source.sample(["IPv6ExtHdrHopByHop", "IPv6ExtHdrDestOpt"], source.randrange(3)):
        packet /= layers[name](options=[layers["PadN"](optdata=bytes(4))])
    return packet


@pytest.mark.parametrize("seed", range(6))
def test_frames_in_datagrams_of_scapy_are_found(net: Any, read: Any, layers: Any, seed: int) -> None:
    source = random.Random(seed)
    made = []
    for frame in net.session(30, 2, Flag.CHECKSUM):
        packet = some_network(layers, source) / layers["UDP"](sport=4000, dport=17800) / frame
        if layers["IP"] in packet and source.random() < 0.3:
            made += [bytes(part) for part in layers["fragment"](packet, 64)]
        else:
            made.append(bytes(packet))
    found, capture = read(net.pcap(made))
    # IPv4 and IPv6 are flows of their own: each misses the DATA that the other has.
    assert sorted(found) == sorted(net.expected(30, 2))
    assert set(capture.network.found) <= {"DATA_MISSING"}


def test_streams_of_scapy_are_found(net: Any, read: Any, layers: Any) -> None:
    stream, made = b"".join(net.session(30, 2)), []
    options = [("NOP", None), ("NOP", None), ("Timestamp", (1, 2))]
    for at in range(0, len(stream), 333):
        tcp = layers["TCP"](sport=4000, dport=17800, seq=(1 << 32) - 1000 + at, flags="PA", options=options)
        tcp.seq %= 1 << 32
        ip = layers["Ether"](src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / layers["IP"](
            dst="10.2.2.2", src="10.1.1.1"
        )
        made.append(bytes(ip / tcp / stream[at : at + 333]))
    found, capture = read(net.pcap(made))
    assert found == net.expected(30, 2)
    assert capture.network.found == {}
