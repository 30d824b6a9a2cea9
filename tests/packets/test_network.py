"""Frames wherever they travel: every link type, IP version and carrier, whole, in pieces, and damaged."""

from __future__ import annotations

import io
import random
import struct
from typing import Any, Literal

import pytest

from kwire import native
from kwire.analyze.capture_summary import CaptureSummary
from kwire.analyze.source import Source
from kwire.capture.output import CaptureError
from kwire.packets import engine, network, walk
from kwire.packets.open import open_capture
from kwire.packets.streams import Piece, Stream
from kwire.wire.control import Hello, Role
from kwire.wire.frame import Flag, Type, build
from kwire.wire.messages import Lost

LINKS = [0, 1, 12, 14, 101, 108, 113, 276]


@pytest.fixture(params=["native", "twin"], autouse=True)
def walkers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "twin":
        monkeypatch.setattr(native, "library", None)
        for name in ("pcap_rows", "pcapng_rows"):
            monkeypatch.setattr(walk, name, getattr(walk, name + "_twin"))


def packets(
    net: Any, link: int, version: int, protocol: str, frames: list[bytes] | None = None
) -> list[bytes]:
    """A session as packets."""
    frames = net.session(flags=Flag.CHECKSUM if protocol == "udp" else 0) if frames is None else frames
    ends, wrap = (net.v4, net.ipv4) if version == 4 else (net.v6, net.ipv6)
    if protocol == "udp":
        return [net.link(link, wrap(net.udp(frame, ends), 17, ends)) for frame in frames]
    stream, out = b"".join(frames), [net.tcp(b"", 999, 2, ends)]
    out += [net.tcp(stream[at : at + 100], 1000 + at, ends=ends) for at in range(0, len(stream), 100)]
    return [net.link(link, wrap(segment, 6, ends)) for segment in out]


LINK_VERSIONS = [*((link, version) for link in LINKS for version in (4, 6)), (228, 4), (229, 6)]


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
@pytest.mark.parametrize(("link", "version"), LINK_VERSIONS)
def test_frames_are_found_behind_every_link_header(
    net: Any, read: Any, link: int, version: int, protocol: str
) -> None:
    made = packets(net, link, version, protocol)
    for data in (net.pcap(made, link), net.pcapng(made, link)):
        found, capture = read(data)
        assert found == net.expected()
        assert (capture.network.found, capture.problem, capture.skipped) == ({}, None, 0)
        assert capture.network.packets == len(made)
        section = next(section for section in capture.sections if section.schemas)
        assert section.schemas == {1: net.schema()}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("nanoseconds", [False, True])
def test_pcap_is_read_in_both_orders_and_units(net: Any, read: Any, order: str, nanoseconds: bool) -> None:
    data = net.pcap(packets(net, 1, 4, "udp"), order=order, nanoseconds=nanoseconds)
    assert read(data)[0] == net.expected()
    assert read(net.pcap(net.session(), 147, order=order, nanoseconds=nanoseconds))[0] == net.expected()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("resolution", [6, 9, 3, 0, 0x80 | 20, 0x80 | 30])
def test_pcapng_is_read_in_both_orders_and_all_units(
    net: Any, read: Any, order: str, resolution: int
) -> None:
    seen: list[int | None] = []

    class Watch:
        def frame(self, flow: Any, direction: int, data: bytes, at: int, place: Any) -> None:
            seen.append(place.time)

    options = [(14, struct.pack(order + "q", 100)), (2, b"eth0"), (77, b"what")]
    data = net.pcapng(packets(net, 1, 4, "udp"), order=order, resolution=resolution, options=options)
    assert read(data, watcher=Watch())[0] == net.expected()
    rate = 2 ** (resolution & 0x7F) if resolution & 0x80 else 10**resolution
    assert seen[0] is not None
    assert abs(seen[0] - net.wall - 100_000_000_000) <= 1_000_000_000 // rate + 1


@pytest.mark.parametrize(
    "tags",
    [[(0x8100, 5)], [(0x88A8, 1), (0x8100, 2)], [(0x9100, 1), (0x8100, 2)], [(0x8100, n) for n in range(4)]],
)
def test_vlan_and_qinq_are_passed(net: Any, read: Any, tags: Any) -> None:
    made = [net.ethernet(net.ipv4(net.udp(frame)), tags) for frame in net.session()]
    assert read(net.pcap(made))[0] == net.expected()


def test_ip_options_and_extension_headers_are_passed(net: Any, read: Any) -> None:
    options = [net.ethernet(net.ipv4(net.udp(frame), options=b"\x94\x04\0\0")) for frame in net.session()]
    assert read(net.pcap(options))[0] == net.expected()
    chains = [
        [(0, bytes(7))],
        [(60, bytes([1]) + bytes(14))],
        [(0, bytes(7)), (43, bytes([0, 0, 0]) + bytes(4)), (60, bytes(7))],
        [(51, bytes([1]) + bytes(10))],
        [(44, bytes(7))],
    ]
    for chain in chains:
        made = [net.ethernet(net.ipv6(net.udp(frame, net.v6), extensions=chain)) for frame in net.session()]
        assert read(net.pcap(made))[0] == net.expected(), chain


def test_llc_and_snap_lead_to_ip(net: Any, read: Any) -> None:
    made = []
    for frame in net.session():
        packet = b"\xaa\xaa\x03\0\0\0\x08\0" + net.ipv4(net.udp(frame))
        made.append(bytes(12) + struct.pack(">H", len(packet)) + packet)
    assert read(net.pcap(made))[0] == net.expected()


@pytest.mark.parametrize("version", [4, 6])
def test_fragments_are_put_together_in_any_order(net: Any, read: Any, version: int) -> None:
    ends = net.v4 if version == 4 else net.v6
    source, made = random.Random(1), []
    for number, frame in enumerate(net.session()):
        parts = net.ip_fragments(net.udp(frame, ends), 48, number, version)
        source.shuffle(parts)
        made += [net.ethernet(part) for part in [*parts, parts[0]]]
    found, capture = read(net.pcap(made))
    assert found == net.expected()
    # The first part comes again after each packet was whole: it waits for others in vain.
    assert set(capture.network.found) == {"FRAGMENTS_MISSING"}


def test_fragments_that_contradict_or_are_missing_are_counted(net: Any, read: Any) -> None:
    one, two = (
        net.ip_fragments(net.udp(net.session()[0]), 240, 1),
        net.ip_fragments(net.udp(net.data(1)), 8, 2),
    )
    overlap = net.ipv4(bytes(16), 17, fragment=0x2001, id=2)
    made = [one[0], two[0], overlap, *two[1:]]
    found, capture = read(net.pcap([net.ethernet(packet) for packet in made]))
    assert found == []
    assert capture.network.found["FRAGMENTS_MISSING"].count == 1
    assert capture.network.found["BAD_FRAGMENT"].count == 1


def test_wrong_checksums_are_refused_and_named(net: Any, read: Any) -> None:
    frames = net.session()
    good = [net.ethernet(net.ipv4(net.udp(frame))) for frame in frames]
    bad_udp = net.ethernet(net.ipv4(net.udp(frames[1], checksum=0x1234)))
    bad_ip = bytearray(good[2])
    bad_ip[14 + 8] ^= 1  # the time to live
    bad_tcp = net.ethernet(net.ipv4(net.tcp(frames[3], 1, checksum=0x4321), 6))
    made = [good[0], bad_udp, bytes(bad_ip), bad_tcp, *good[1:]]
    found, capture = read(net.pcap(made))
    assert found == net.expected()
    names = {name: first.count for name, first in capture.network.found.items()}
    assert names == {"BAD_UDP_CHECKSUM": 1, "BAD_IP_CHECKSUM": 1, "BAD_TCP_CHECKSUM": 1}
    assert capture.network.found["BAD_UDP_CHECKSUM"].text.startswith("packet 2 at byte ")
    assert capture.skipped == 3


def test_what_offload_leaves_undone_is_tolerated_and_said(net: Any, read: Any) -> None:
    frames, made = net.session(), []
    for number, frame in enumerate(frames):
        size = 8 + len(frame)
        pseudo = net.pseudo(net.v4, 17, size if number % 2 else 0)
        words = sum(struct.unpack(f">{len(pseudo) // 2}H", pseudo))
        partial = (words & 0xFFFF) + (words >> 16)
        made.append(net.ethernet(net.ipv4(net.udp(frame, checksum=partial))))
    found, capture = read(net.pcap(made))
    assert (found, capture.network.found) == (net.expected(), {})
    assert capture.network.remarks == {"CHECKSUM_OFFLOAD": len(frames)}
    none = [net.ethernet(net.ipv4(net.udp(frame, checksum=0))) for frame in frames]
    found, capture = read(net.pcap(none))
    assert (found, capture.network.remarks) == (net.expected(), {"CHECKSUM_NONE": len(frames)})
    large = net.tcp(b"".join(frames), 1, 0x18)
    found, capture = read(
        net.pcap([net.ethernet(net.ipv4(net.tcp(b"", 0, 2), 6)), net.ethernet(net.ipv4(large, 6, total=0))])
    )
    assert (found, capture.network.found) == (net.expected(), {})
    assert capture.network.remarks["SEGMENT_OFFLOAD"] == 1


def test_frames_are_looked_for_on_the_ports_given(net: Any, read: Any) -> None:
    made = [net.ethernet(net.ipv4(net.udp(frame, ports=(5, 4444)))) for frame in net.session()]
    made += [net.ethernet(net.ipv4(net.udp(b"not a frame at all", ports=(5, 53))))]
    made += [net.ethernet(net.ipv4(net.tcp(b"GET / HTTP/1.1\r\n" * 9, 1, ports=(5, 80)), 6))]
    data = net.pcap(made)
    assert read(data)[0] == []
    assert read(data)[1].network.others == {"UDP": 12, "TCP": 1}
    assert read(data, ports=(4444,))[0] == net.expected()
    found, capture = read(data, any_port=True)
    assert found == net.expected()
    assert capture.network.found == {}
    assert capture.network.others["UDP"] == 1


def test_streams_on_any_port_are_known_by_their_shape(net: Any, read: Any) -> None:
    stream = b"".join(net.session())
    made = [net.ethernet(net.ipv4(net.tcp(b"", 0, 2, ports=(7, 9)), 6))]
    made += [
        net.ethernet(net.ipv4(net.tcp(stream[at : at + 70], 1 + at, ports=(7, 9)), 6))
        for at in range(0, len(stream), 70)
    ]
    other = random.Random(5).randbytes(300_000)
    made += [
        net.ethernet(net.ipv4(net.tcp(other[at : at + 1000], at, ports=(7, 80)), 6))
        for at in range(0, len(other), 1000)
    ]
    found, capture = read(net.pcap(made), any_port=True)
    assert found == net.expected()
    assert set(capture.network.found) <= {"NOT_FRAMES"}


def test_what_is_wrong_with_streams_of_others_is_no_fault_on_any_port(net: Any, read: Any) -> None:
    """Neither a hole nor a segment that comes again with other bytes; on a port of ours they are faults."""
    segments = [
        (b"one of two" * 9, 1),
        (b"two of two" * 9, 1),
        (b"after a hole", 5000),
        (b"after a pole", 5000),
        (b"", 0),
    ]
    made = [net.ethernet(net.ipv4(net.udp(frame, ports=(5, 4444)))) for frame in net.session()]
    for source in (5, 6):  # one that is there from its beginning, one that is not
        made += [net.ethernet(net.ipv4(net.tcp(b"", 0, 2, ports=(source, 80)), 6))] * (source == 5)
        made += [net.ethernet(net.ipv4(net.tcp(said, at, ports=(source, 80)), 6)) for said, at in segments]
    found, capture = read(net.pcap(made), any_port=True)
    assert found == net.expected()
    assert capture.network.found == {}
    assert set(read(net.pcap(made), ports=(80, 4444))[1].network.found) >= {"TCP_GAP", "TCP_CONFLICT"}


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n" * 9, b"\x10\x9f frames", b"\x10\x00\x00\x01 none"])
def test_streams_of_others_are_no_fault_on_any_port_where_they_begin(
    net: Any, read: Any, said: bytes
) -> None:
    """On a port of ours they are."""
    made = [net.ethernet(net.ipv4(net.udp(frame, ports=(5, 4444)))) for frame in net.session()]
    made += [net.ethernet(net.ipv4(net.tcp(b"", 0, 2, ports=(5, 80)), 6))]
    made += [net.ethernet(net.ipv4(net.tcp(said, 1, ports=(5, 80)), 6))]
    found, capture = read(net.pcap(made), any_port=True)
    assert found == net.expected()
    assert capture.network.found == {}
    assert capture.network.others["TCP"] == 1
    assert list(read(net.pcap(made), ports=(80, 4444))[1].network.found) != []


def test_what_was_wrong_with_a_session_is_told_where_its_ends_are_used_again(net: Any, read: Any) -> None:
    """On a port of others, which nothing is said of but that."""
    stream = b"".join(net.session())
    cut = len(stream) // 2
    segments = [(b"", 0, 2), (stream[:cut], 1, 16)]
    segments += [(part, 1 + cut + 40, 16) for part in (stream[cut + 40 :], b"?" + stream[cut + 41 :])]
    segments += [(stream[cut : cut + 40], 1 + cut, 16), (b"", 1 + len(stream), 1), (b"", 1_000_000, 2)]
    made = [net.ethernet(net.ipv4(net.tcp(*one, ports=(5, 80)), 6)) for one in segments]
    found, capture = read(net.pcap(made), any_port=True)
    assert found == net.expected()
    assert {name: one.count for name, one in capture.network.found.items()} == {"TCP_CONFLICT": 1}


def test_what_is_wrong_behind_frames_is_a_fault_on_any_port(net: Any, read: Any) -> None:
    """Also where it comes with the first of them."""
    made = [net.ethernet(net.ipv4(net.tcp(b"", 0, 2, ports=(5, 80)), 6))]
    said = b"".join(net.session(2)) + b"garbage " * 6
    made += [net.ethernet(net.ipv4(net.tcp(said, 1, ports=(5, 80)), 6))]
    found, capture = read(net.pcap(made), any_port=True)
    assert found == net.expected(2)
    assert {name: one.count for name, one in capture.network.found.items()} == {"BAD_VERSION": 1}


@pytest.mark.parametrize("seed", range(20))
def test_a_stream_is_put_in_order_whatever_the_network_did(net: Any, read: Any, seed: int) -> None:
    source = random.Random(seed)
    stream, base = b"".join(net.session(40, 5)), source.choice([0, 1000, (1 << 32) - 500])
    segments, at = [], 0
    while at < len(stream):
        size = source.randrange(1, 200)
        segments.append((at, stream[at : at + size]))
        at += size
    for _ in range(10):  # retransmissions, some with other borders
        start = source.randrange(len(stream))
        segments.append((start, stream[start : start + source.randrange(400)]))
    for index in range(len(segments) - 3):  # reordering
        other = index + source.randrange(3)
        segments[index], segments[other] = segments[other], segments[index]
    made = [net.tcp(b"", base, 2)] + [net.tcp(data, base + 1 + at) for at, data in segments]
    found, capture = read(net.pcap([net.ethernet(net.ipv4(segment, 6)) for segment in made]))
    assert found == net.expected(40, 5)
    assert capture.network.found == {}


@pytest.mark.parametrize("seed", range(20))
def test_after_a_hole_whole_frames_are_found_again(net: Any, read: Any, seed: int) -> None:
    source = random.Random(seed)
    frames = net.session(60, 3)
    stream = b"".join(frames)
    segments = [(at, stream[at : at + 100]) for at in range(0, len(stream), 100)]
    gone = source.sample(range(8, len(segments) - 1), 4)
    kept = [segment for index, segment in enumerate(segments) if index not in gone]
    made = [net.tcp(b"", 0, 2)] + [net.tcp(data, 1 + at) for at, data in kept]
    found, capture = read(net.pcap([net.ethernet(net.ipv4(segment, 6)) for segment in made]))
    missing = set()
    at = 0
    for number, frame in enumerate(frames):
        if any(at < (index + 1) * 100 and index * 100 < at + len(frame) for index in gone):
            missing.add(number)
        at += len(frame)
    expected = [
        event
        for number, frame in enumerate(frames[1:], 1)
        if number not in missing
        for event in net.expected(60, 3)[3 * (number - 1) : 3 * number]
    ]
    assert found == expected
    assert capture.network.found["TCP_GAP"].count >= 1
    while max(missing) == max(missing | {len(frames) - 1}) and frames.pop():
        missing.discard(len(frames))  # of those at the end nothing can be known
    assert capture.network.found["DATA_MISSING"].count == len(missing)


def test_streams_that_wait_for_more_than_is_held_lose_nothing(net: Any, read: Any) -> None:
    """Six connections, in each a segment is missing early, and 7 MB come after it."""
    events = b"".join(net.event(number) for number in range(1500))
    made, size = [], len(net.data(0, events))
    for port in range(1, 7):
        first = net.data(0, *net.schema().frames())
        made.append(net.tcp(b"", 0, 2, ports=(port, 17800)))
        made.append(net.tcp(first, 1, ports=(port, 17800)))
        at = 1 + len(first) + size  # DATA 1 is missing
        for number in range(2, 118):
            made.append(net.tcp(net.data(number, events), at, ports=(port, 17800)))
            at += size
    found, capture = read(net.pcap([net.ethernet(net.ipv4(segment, 6)) for segment in made]))
    assert len(found) == 6 * 116 * 1500
    assert capture.network.flows == 6
    assert capture.network.found["DATA_MISSING"].count == 6


@pytest.mark.parametrize("tail", [0, 400])
@pytest.mark.parametrize("seed", range(2))
def test_after_a_hole_frames_of_any_size_are_found_again(net: Any, read: Any, seed: int, tail: int) -> None:
    """DATA of 62 KB, in which every fifth event holds a DATA frame of two events in a text."""
    source = random.Random(seed)
    inside = build(Type.DATA, 5, net.event(7) + net.event(8))
    events = [net.event(number, comm=inside if number % 5 == 0 else b"cat") for number in range(12_000)]
    frames: list[bytes] = [net.data(0, *net.schema().frames())]
    first: list[list[bytes]] = []
    while events:
        taken: list[bytes] = []
        while events and sum(map(len, taken)) < 62_000 - tail * (len(frames) % 3):
            taken.append(events.pop(0))
        first.append(taken)
        frames.append(net.data(len(frames), *taken))
    stream = b"".join(frames) + build(Type.BYE, len(frames), b"\xa1freasonddone")
    segments = [(at, stream[at : at + 1448]) for at in range(0, len(stream), 1448)]
    gone = set(source.sample(range(2, len(segments) - 3), 4))
    gone.add(max(gone) + 1)
    kept = [segment for index, segment in enumerate(segments) if index not in gone]
    made = [net.tcp(b"", 0, 2)] + [net.tcp(data, 1 + at) for at, data in kept]
    found, capture = read(net.pcap([net.ethernet(net.ipv4(segment, 6)) for segment in made]))
    expected, at, missing = [], len(frames[0]), 0
    for frame, taken in zip(frames[1:], first, strict=True):
        if any(at < (index + 1) * 1448 and index * 1448 < at + len(frame) for index in gone):
            missing += 1
        else:
            expected += taken
        at += len(frame)
    assert found == expected
    assert {name: one.count for name, one in capture.network.found.items()} == {
        "TCP_GAP": len([index for index in gone if index - 1 not in gone]),
        "DATA_MISSING": missing,
    }
    assert " bytes of tcp 10.0.0.1:40000 > 10.0.0.2:17800" in capture.network.found["TCP_GAP"].text
    assert capture.network.conversations[0].bye == len(frames)


@pytest.mark.parametrize("start", range(1, 40))
def test_a_stream_that_begins_in_the_middle_is_taken_up(net: Any, read: Any, start: int) -> None:
    frames = net.session(20, 3)
    stream = b"".join(frames)
    cut = len(frames[0]) + len(frames[1]) + start * 7
    made = [net.tcp(stream[at : at + 90], 1 + at) for at in range(cut, len(stream), 90)]
    found, _ = read(net.pcap([net.ethernet(net.ipv4(segment, 6)) for segment in made]))
    at = first = 0
    while at < cut:
        at += len(frames[first])
        first += 1
    assert found == net.expected(20, 3)[3 * (first - 1) :]


@pytest.mark.parametrize("base", [1000, (1 << 32) - 300])
@pytest.mark.parametrize("seed", range(12))
def test_a_stream_is_joined_at_the_lowest_of_its_first_segments(
    net: Any, read: Any, seed: int, base: int
) -> None:
    """A capture that begins in the middle, among segments that are out of order or sent again."""
    source = random.Random(seed)
    frames = net.session(30, 3)
    stream, cut = b"".join(frames), len(frames[0]) + source.randrange(200)
    segments = [(at, stream[at : at + 70]) for at in range(cut, len(stream), 70)]
    early = segments[: source.randrange(2, 16)]
    source.shuffle(early)
    early.insert(source.randrange(1, len(early) + 1), early[0])
    made = [net.tcp(b"", base + cut + 140, 16)] * (seed % 2)  # one that holds nothing tells no beginning
    made += [net.tcp(data, base + at) for at, data in early + segments[len(early) - 1 :]]
    found, capture = read(net.pcap([net.ethernet(net.ipv4(segment, 6)) for segment in made]))
    at = first = 0
    while at < cut:
        at += len(frames[first])
        first += 1
    assert found == net.expected(30, 3)[3 * (first - 1) :]
    assert capture.network.found == {}
    assert capture.network.remarks["RETRANSMISSION"] == 1


def test_a_syn_that_comes_late_begins_the_stream(net: Any, read: Any) -> None:
    stream = b"".join(net.session(4, 3))
    parts = [(at, stream[at : at + 80]) for at in range(0, len(stream), 80)]
    order = [parts[2], parts[1], None, parts[0], *parts[3:]]
    made = [net.tcp(b"", 6, 2) if one is None else net.tcp(one[1], 7 + one[0]) for one in order]
    found, capture = read(net.pcap([net.ethernet(net.ipv4(segment, 6)) for segment in made]))
    assert found == net.expected(4, 3)
    assert capture.network.found == {}
    assert capture.network.frames == 5


@pytest.mark.parametrize("after", [200, 100_000, -700, 1 << 31])
def test_ports_that_are_used_again_carry_another_stream(net: Any, read: Any, after: int) -> None:
    """The first connection has no end in the capture; the SYN of each is there twice and once more."""
    made = []
    for start, number in ((1000, 0), (1000 + after, 100)):
        events = [net.event(number + at) for at in range(12)]
        frames = [Hello(bytes([number]) * 16, 1, Role.SOURCE).frame(), net.data(0, *net.schema().frames())]
        stream = b"".join([*frames, net.data(1, *events), build(Type.BYE, 2, b"\xa1freasonddone")])
        made += [net.tcp(b"", start - 1, 2)] * 2
        made += [net.tcp(stream[at : at + 90], start + at) for at in range(0, len(stream), 90)]
        made.append(net.tcp(b"", start - 1, 2))
    found, capture = read(net.pcap([net.ethernet(net.ipv4(segment, 6)) for segment in made]))
    assert found == [net.event(at) for at in [*range(12), *range(100, 112)]]
    assert capture.network.found == {}
    assert len(capture.network.conversations) == 2


def test_what_waits_to_be_joined_does_not_wait_long() -> None:
    """200 ms of the capture, sixteen segments, or the end: whatever comes first."""
    slow, many, ending = Stream(), Stream(), Stream()
    assert slow.add(100, 0, b"b", 0) == slow.add(101, 0, b"c", 200_000_000) == []
    assert slow.add(99, 0, b"a", 200_000_001) == [Piece(b"a"), Piece(b"b"), Piece(b"c")]
    pieces = [many.add(number, 0, b"x", 0) for number in range(18)]
    assert [len(one) for one in pieces] == [0] * 16 + [17, 1]
    assert ending.add(6, 0, b"b", 0) == []
    assert ending.add(7, 1, b"", 0) == [Piece(b"b")]
    assert ending.ended


def test_data_is_unwrapped_once_and_in_order(net: Any, read: Any) -> None:
    frames = net.session(8, 2, Flag.CHECKSUM)
    order = [0, 1, 3, 2, 2, 4, 0, 5, 7, 6, 8, 8]
    made = [net.ethernet(net.ipv4(net.udp(frames[index]))) for index in order]
    found, capture = read(net.pcap(made))
    assert (found, capture.network.found) == (net.expected(8, 2), {})
    assert capture.network.remarks["DATA_AGAIN"] == 3
    missing = [net.ethernet(net.ipv4(net.udp(frames[index]))) for index in (0, 1, 2, 5, 6, 7, 8)]
    found, capture = read(net.pcap(missing))
    assert found == net.expected(8, 2)[:4] + net.expected(8, 2)[8:]
    assert capture.network.found["DATA_MISSING"].count == 2


def test_two_sources_with_the_same_numbers_stay_apart(net: Any, read: Any) -> None:
    one, two = net.schema(), net.schema(1, "kprobe:other")
    made = []
    for port, schema in ((1, one), (2, two)):
        made.append(net.ethernet(net.ipv4(net.udp(net.data(0, *schema.frames()), ports=(port, 17800)))))
    for number in range(200):
        for port in (1, 2):
            data = net.data(number + 1, net.event(number, comm=b"%d" % port))
            made.append(net.ethernet(net.ipv4(net.udp(data, ports=(port, 17800)))))
    seen: dict[str, list[Any]] = {}
    with open_capture(io.BytesIO(net.pcap(made))) as capture:
        for frames in capture:
            schema = capture.schemas[1]
            seen.setdefault(schema.probe, []).extend(
                schema.decoder()(frames.frame_bytes(index))[1] for index in range(len(frames))
            )
    assert seen == {one.probe: list(range(200)), two.probe: list(range(200))}


def test_a_session_goes_on_over_a_new_connection(net: Any, read: Any) -> None:
    from kwire.wire.control import Hello, Role

    hello, again = (Hello(b"t" * 16, n, Role.SOURCE, resume=n > 1).frame() for n in (1, 2))
    frames = net.session(6, 1)
    first = net.tcp(b"", 0, 2), net.tcp(hello + b"".join(frames[:4]), 1)
    second = (
        net.tcp(b"", 0, 2, ports=(40001, 17800)),
        net.tcp(again + b"".join(frames[2:]), 1, ports=(40001, 17800)),
    )
    found, capture = read(net.pcap([net.ethernet(net.ipv4(part, 6)) for part in (*first, *second)]))
    assert (found, capture.network.found) == (net.expected(6, 1), {})
    assert len(capture.network.conversations) == 1
    assert capture.network.remarks["DATA_AGAIN"] == 2


def test_frames_that_no_data_wraps_are_taken_as_they_are(net: Any, read: Any) -> None:
    frames = [*net.schema().frames(), *net.expected(), Lost(1, 1, 2, 3).frame()]
    assert read(net.pcap(frames, 147))[0] == frames[1:]
    made = [net.ethernet(net.ipv4(net.udp(frame))) for frame in frames]
    assert read(net.pcap(made))[0] == frames[1:]
    several = [net.ethernet(net.ipv4(net.udp(b"".join(frames))))]
    assert read(net.pcap(several))[0] == frames[1:]


def test_what_is_no_frame_is_named_by_its_code(net: Any, read: Any) -> None:
    event = net.event()
    bad = {
        "BAD_CHECKSUM": build(Type.DATA, 1, event, Flag.CHECKSUM)[:-1] + b"\0",
        "BAD_VERSION": b"\x21" + event[1:],
        "BAD_TYPE": b"\x1f" + event[1:],
        "BAD_FLAGS": b"\x11\x80" + event[2:],
        "TRUNCATED_PAYLOAD": event[:-1],
        "LENGTH_BELOW_HEADER": b"\x11\0\0\1" + event[4:],
        "NOT_FRAMES": b"hello, world",
        "BAD_PAYLOAD": build(Type.HELLO, 0, b"\xff"),
    }
    made = [net.ethernet(net.ipv4(net.udp(frame))) for frame in bad.values()]
    found, capture = read(net.pcap(made))
    assert found == []
    names = {name: first.count for name, first in capture.network.found.items()}
    assert set(names) >= set(bad) - {"BAD_VERSION"}
    assert sum(names.values()) == len(bad)


def test_encrypted_streams_are_said_to_be_so(net: Any, read: Any) -> None:
    record = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)
    made = [
        net.tcp(b"", 0, 2),
        net.tcp(record, 1),
        net.tcp(b"\x17\x03\x03\x01\x00" + bytes(256), 1 + len(record)),
    ]
    found, capture = read(net.pcap([net.ethernet(net.ipv4(part, 6)) for part in made]))
    assert found == []
    assert set(capture.network.found) - {"BAD_CHECKSUM", "BAD_PADDING", "BAD_PAYLOAD"} == {"ENCRYPTED"}


def test_a_cut_file_is_read_to_its_last_whole_packet(net: Any, read: Any) -> None:
    made = packets(net, 1, 4, "udp")
    for data, header in ((net.pcap(made), 24), (net.pcapng(made), 0)):
        for size in [*range(1, 200, 7), *range(200, len(data), 61)]:
            if size < header:
                with pytest.raises(CaptureError):  # not even the header is there
                    read(data[:size])
                continue
            found, capture = read(data[:size])
            assert found == net.expected()[: len(found)]
            whole = capture.problem is None
            assert whole or f"cut at byte {size}" in capture.problem, (size, header)


def test_random_damage_never_raises(net: Any, read: Any) -> None:
    source = random.Random(9)
    goods = [
        net.pcap(packets(net, 1, 4, "tcp")),
        net.pcapng(packets(net, 113, 6, "udp")),
        net.pcap([net.ethernet(p) for f in net.session() for p in net.ip_fragments(net.udp(f), 40)]),
    ]
    for turn in range(300):
        data = bytearray(goods[turn % 3])
        for _ in range(source.randrange(1, 6)):
            at = source.randrange(28, len(data))
            data[at : at + source.choice([1, 4])] = source.choice([b"\0", b"\xff", source.randbytes(4)])
        found, capture = read(bytes(data), any_port=bool(turn & 1))
        assert all(len(frame) >= 8 for frame in found)
        assert capture.problem is None or "\n" not in capture.problem


def test_flows_and_streams_are_bounded(net: Any, read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for room in (network, engine):
        monkeypatch.setattr(room, "MAX_FLOWS", 10)
        monkeypatch.setattr(room, "MAX_CONVERSATIONS", 5)
    made = [
        net.ethernet(
            net.ipv4(net.udp(net.data(0, *net.schema().frames(), net.event(port)), ports=(port, 17800)))
        )
        for port in range(1, 40)
    ]
    found, capture = read(net.pcap(made))
    assert found == [net.event(port) for port in range(1, 40)]
    assert capture.network.found["TOO_MANY_FLOWS"].count > 30


@pytest.mark.parametrize("version", [(2, 0), (2, 2), (2, 3), (2, 4)])
@pytest.mark.parametrize("order", ["<", ">"])
def test_older_versions_of_pcap_are_read(
    net: Any, read: Any, order: Literal["<", ">"], version: tuple[int, int]
) -> None:
    """Before 2.3 the two lengths of a record stand the other way round, in 2.3 either way."""
    made = [(packet, len(packet) + 4) for packet in packets(net, 1, 4, "udp")]  # with a checksum not captured
    for swapped in {(2, 3): (False, True), (2, 4): (False,)}.get(version, (True,)):
        data = bytearray(net.pcap(made, order=order))
        struct.pack_into(order + "HH", data, 4, *version)
        at = 24
        for packet, original in made:
            lengths = (original, len(packet)) if swapped else (len(packet), original)
            struct.pack_into(order + "II", data, at + 8, *lengths)
            at += 16 + len(packet)
        found, capture = read(bytes(data))
        assert found == net.expected(), (version, swapped)
        assert (capture.problem, capture.network.found) == (None, {})
    for other in ((1, 9), (2, 5), (3, 0)):
        struct.pack_into(order + "HH", data, 4, *other)
        with pytest.raises(CaptureError, match=r"pcap of version .*; 2\.0 to 2\.4 are read"):
            read(bytes(data))


def test_a_record_longer_than_is_looked_into_is_counted_and_passed_over(net: Any, read: Any) -> None:
    made = packets(net, 1, 4, "udp")
    large = bytes(20 << 20)
    data = bytearray(net.pcap([*made[:5], large, *made[5:]]))
    struct.pack_into("<I", data, 16, 64 << 20)  # snaplen
    found, capture = read(bytes(data))
    assert found == net.expected()
    assert (capture.problem, capture.packets) == (None, len(made) + 1)
    assert (capture.skipped, capture.errors) == (1, {"PACKET_TOO_LONG": 1})
    found, capture = read(bytes(data[: -len(made[-1]) - (19 << 20)]))
    assert "of the 20971536 bytes of a packet are there" in capture.problem
    found, capture = read(net.pcap([*made[:5], large]))  # it cannot have captured so much
    assert "a packet cannot have 20971520 captured bytes" in capture.problem


def test_a_packet_that_is_cut_and_wrong_is_said_to_be_both(net: Any, read: Any) -> None:
    """What its checksum covers beyond the cut could not be judged; that its IP header is wrong could."""
    packet = bytearray(packets(net, 1, 4, "udp")[0])
    packet[24] ^= 0x55
    _, capture = read(net.pcap([(bytes(packet[:60]), len(packet))]))
    assert capture.errors == {"BAD_IP_CHECKSUM": 1, "PACKET_CUT": 1}
    assert (capture.packets, capture.skipped) == (1, 1)
    packet[14] = 0x55  # a version that there is not, in a packet that is cut
    _, capture = read(net.pcap([(bytes(packet[:60]), len(packet))]))
    assert capture.errors == {"BAD_IP_HEADER": 1, "PACKET_CUT": 1}


def test_frames_are_counted_alike_on_every_path(net: Any, tmp_path: Any) -> None:
    """As packets themselves or in UDP, plain (walkers) or with a checksum (one by one), bad ones apart."""
    events = [net.event(number) for number in range(30)]
    lost = Lost(1, 1, 2, 3).frame()
    bad = build(Type.LOST, 1, bytes(7))
    summed = [build(Type.EVENT, 1, event[8:], Flag.CHECKSUM) for event in events]
    for made in (events, summed, [*events[:9], lost, bad, *summed[9:20], events[20], bad]):
        frames = [*net.schema().frames(), *made]
        wrapped = [net.data(number, frame) for number, frame in enumerate(frames)]
        sound = len(frames) - made.count(bad)
        for data, expected in (
            (net.pcapng(frames, link=147), sound),
            (net.pcap(frames, link=147), sound),
            (_mixed(net, frames), sound),
            (net.pcap(packets(net, 1, 4, "udp", frames)), sound),
            (net.pcap(packets(net, 1, 4, "tcp", frames)), sound),
            (net.pcap(packets(net, 1, 4, "udp", wrapped)), len(wrapped)),
            (net.pcap(packets(net, 1, 4, "tcp", wrapped)), len(wrapped)),
        ):
            path = tmp_path / "capture"
            path.write_bytes(data)
            capture_summary = CaptureSummary(Source(str(path)))
            assert capture_summary.frames == expected
            assert sum(capture_summary.errors.values()) == made.count(bad)
            assert capture_summary.events == len(made) - made.count(bad) - made.count(lost)


def _mixed(net: Any, frames: list[bytes]) -> bytes:
    """Frames as packets beside an interface of Ethernet, so that the file is not all our own."""
    data = net.pcapng(frames, link=147)
    at = data.index(struct.pack("<I", 1), 28)
    size = struct.unpack_from("<I", data, at + 4)[0]
    ethernet = data[at : at + 8] + struct.pack("<H", 1) + data[at + 10 : at + size]
    return bytes(data[: at + size] + ethernet + data[at + size :])
