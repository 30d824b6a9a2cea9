"""The walkers of network packets: C and twin do the same on sound and on damaged packets of all kinds."""

from __future__ import annotations

import random
import struct
import sys
from array import array
from typing import Any

import pytest

from kwire import native
from kwire.packets import walk
from kwire.wire.frame import Flag, Type, build

needs_library = pytest.mark.skipif(native.packet_frames is None, reason="the C walkers were not built")
LINKS = [1, 113, 276, 0, 108, 101, 147, 9, 228]


def some_frame(net: Any, source: random.Random) -> Any:
    events = [net.event(source.randrange(99), comm=source.randbytes(source.randrange(9))) for _ in range(3)]
    flags = source.choice([0, Flag.CHECKSUM])
    match source.randrange(10):
        case 0:
            return events[0]
        case 1:
            return build(Type.ACK, 1, bytes(4), flags)
        case 2:
            return build(Type.KEEPALIVE, 0, b"", flags)
        case 3:
            return net.data(source.randrange(3), events[0], build(Type.LOST, 1, bytes(32)))
        case 4:
            return net.data(1, *events) + events[0]
        case 5:
            return source.randbytes(source.randrange(40))
        case _:
            return net.data(source.choice([1, 1, 2]), *events[: source.randrange(4)], flags=flags)


def some_packet(net: Any, source: random.Random, link: int) -> Any:
    frame = some_frame(net, source)
    if link == 147:
        return frame
    ports = source.choice([(40000, 17800), (17800, 40000), (1, 2), (17800, 17800)])
    six = source.random() < 0.4
    ends = net.v6 if six else net.v4
    sums = source.choice([None, None, None, 0, 0x1234, -1])
    if sums == -1:
        pseudo = net.pseudo(ends, 17, 8 + len(frame))
        words = sum(struct.unpack(f">{len(pseudo) // 2}H", pseudo))
        sums = (words & 0xFFFF) + (words >> 16)
    segment = net.udp(frame, ends, ports, sums)
    protocol = 17
    if source.random() < 0.15:
        segment, protocol = net.tcp(frame, 1, ends=ends, ports=ports), 6
    if source.random() < 0.1:
        protocol = source.choice([1, 58, 47, 50])
    if six:
        extensions = [(60, bytes(7))] if source.random() < 0.1 else []
        packet = net.ipv6(segment, protocol, ends, extensions)
    else:
        options = source.choice([b"", b"", b"", b"\x01" * 4, b"\x01" * 40])
        fragment = source.choice([0, 0, 0, 0, 0x4000, 0x2000, 5])
        packet = net.ipv4(segment, protocol, ends, options, fragment)
    if link == 1:
        tags = source.choice([[], [], [(0x8100, 5)], [(0x88A8, 1), (0x8100, 2)], [(0x8100, 1)] * 3])
        kind = source.choice([None] * 8 + [0x0806, 0x22, 0x88CC])
        trailer = bytes(source.choice([0, 0, 4]))
        return net.ethernet(packet, tags, kind) + trailer
    return net.link(link, packet)


def plain_packet(net: Any, source: random.Random, link: int, sequence: int) -> Any:
    """What the walkers take."""
    events = [net.event(number) for number in range(source.randrange(4))]
    frame = net.data(sequence, *events, flags=source.choice([0, Flag.CHECKSUM]))
    if link == 147:
        return net.event()
    make, ends = [(net.ipv4, net.v4), (net.ipv6, net.v6)][link & 1]
    return net.link(link, make(net.udp(frame, ends), ends=ends))


def table_of(net: Any, source: random.Random, plain: bool) -> array[int]:
    """A few of the flows that the packets have, at states that happen."""
    slots = 16 if plain else source.choice([4, 16])
    table = array("Q", bytes(8 * walk.SLOT_WORDS * slots))
    for ends, version in ((net.v4, 4), (net.v6, 6)):
        for ports in ((40000, 17800), (17800, 40000), (17800, 17800)):
            if plain or source.random() < 0.8:
                key = walk.flow_key(version, ports, *ends)
                at = walk.find_flow(table, slots, key)
                if at < 0:
                    continue
                kind = walk.FLOW_DATA if plain else source.choice([walk.FLOW_DATA, walk.FLOW_ACKS, 0])
                table[at : at + 3] = array("Q", [source.randrange(1, 5) | kind << 32, 1, key[0]])
                table[at + 4 : at + 8] = array("Q", key[1:])
    return table


@needs_library
def test_packets_agree(net: Any) -> None:
    taken = 0
    for seed in range(1500):
        source = random.Random(seed)
        links = array("Q", [source.choice(LINKS[: -2 if seed % 2 else None]), source.choice([1, 0, 276])])
        swap = source.random() < 0.3
        order = "<" if (sys.byteorder == "little") != swap else ">"
        data, rows = bytearray(b"head"), array("Q")
        for number in range(source.randrange(1, 6)):
            interface = source.randrange(2)
            packet = (
                plain_packet(net, source, links[interface], number + 1)
                if seed % 2
                else some_packet(net, source, links[interface])
            )
            cut = packet[: source.choice([len(packet)] * 6 + [source.randrange(len(packet) + 1)])]
            data += struct.pack(order + "II", len(cut), source.choice([len(packet)] * 9 + [7]))
            rows += array("Q", [len(data), interface << 32 | len(cut)])
            data += cut
        for _ in range(source.choice([0, 0, 0, 1, 3])):
            data[source.randrange(len(data))] = source.choice([0, 0xFF, source.randrange(256)])
        if source.random() < 0.05:
            rows += array("Q", [source.choice([2, len(data), 1 << 63]), source.choice([1, 5 << 32, 99])])
        ports = bytearray(8192)
        ports[17800 >> 3] |= 1 << (17800 & 7)
        any_port, raw, limit = source.random() < 0.3, source.choice([0, 3]), source.choice([0, 1, 5, 50])
        start = 0 if seed % 2 else source.choice([0, 1])
        table = table_of(net, source, bool(seed % 2))
        results = []
        for take in (native.packet_frames, walk.packet_frames_twin):
            assert take is not None
            flows, tally = array("Q", table), array("Q", bytes(8 * walk.TALLY_WORDS))
            offsets, owners = array("Q", bytes(8 * limit)), array("Q", bytes(8 * limit))
            count = len(rows) // 2
            done = take(
                *(bytes(data), rows, start, count, swap, links, ports, any_port, raw, flows, offsets),
                *(owners, tally),
            )
            found = done[1]
            results.append((done, offsets[:found], owners[:found], flows, tally.tobytes()))
        assert results[0] == results[1], seed
        taken += results[0][0][1]
    assert taken > 500  # the test has seen plain packets too


@needs_library
@pytest.mark.parametrize("name", ["pcap_walk", "pcapng_packets"])
def test_records_agree(net: Any, name: str) -> None:
    for seed in range(500):
        source = random.Random(seed)
        order = source.choice("<>")
        packets = [source.randbytes(source.randrange(40)) for _ in range(source.randrange(9))]
        made = net.pcap if name == "pcap_walk" else net.pcapng
        data = bytearray(made(packets, order=order))
        for _ in range(source.choice([0, 0, 1, 3])):
            at = source.randrange(len(data))
            data[at : at + 1] = source.choice([b"\0", b"\xff", b"\0\0\0\0"])
        start = 24 if name == "pcap_walk" else source.choice([28 + 32, 28 + 32, 0])
        swap, limit = (order == "<") != (sys.byteorder == "little"), source.choice([0, 3, 99])
        end = source.choice([len(data), len(data), len(data) - 3, 1 << 63])
        results = []
        for step in (getattr(native, name), getattr(walk, name + "_twin")):
            rows = array("Q", bytes(16 * limit))
            results.append((step(bytes(data), start, end, swap, source.choice([1]), rows, limit), rows))
        assert results[0] == results[1], seed


@needs_library
def test_tables_that_are_too_small_are_refused(net: Any) -> None:
    good = array("Q", bytes(8 * walk.TALLY_WORDS))
    rows, table = array("Q", [4, 4]), array("Q", bytes(64))
    for take in (native.packet_frames, walk.packet_frames_twin):
        assert take is not None
        for start, ports, flows, tally in (
            (2, bytes(8192), table, good),
            (0, bytes(8191), table, good),
            (0, bytes(8192), array("Q", bytes(64 * 3)), good),
            (0, bytes(8192), table, table),
        ):
            with pytest.raises(IndexError):
                take(bytes(8), rows, start, 1, False, rows, ports, False, 0, flows, rows, rows, tally)
