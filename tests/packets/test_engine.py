"""The engine in C and its specification, `network.Network`, give the same for the same packets, sound or
hostile.
"""

from __future__ import annotations

import ctypes
import io
import random
import struct
import sys
from array import array
from collections.abc import Iterator
from itertools import pairwise, zip_longest
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kwire import native
from kwire.capture import input, pcapng
from kwire.packets import engine, memory, network, open, walk
from kwire.wire.control import Hello, Role, Welcome
from kwire.wire.frame import Flag, Type, build, checksum
from kwire.wire.messages import Lost

pytestmark = pytest.mark.skipif(native.library is None, reason="the C walkers were not built")
LINKS = [0, 1, 101, 108, 113, 276, 147, 9]


def a_greeting(source: random.Random, sequence: int) -> Hello | Welcome:
    """What begins or resumes one of a few sessions, perhaps long after their first DATA."""
    token, role = bytes([source.randrange(3)]) * 16, source.choice([Role.SOURCE, Role.SOURCE, Role.SINK])
    resume, first = source.random() < 0.3, source.choice([0, 7, sequence, sequence - 3]) & 0xFFFFFFFF
    if source.random() < 0.6:
        return Hello(token, 1, role, resume, first)
    refused = source.choice(["", "", "", "no"])
    return Welcome(token, 1, role, resume, first, refused=refused, unknown=source.random() < 0.1)


def a_frame(net: Any, source: random.Random, sequence: int, plain: bool = False) -> Any:
    """What may stand in a session."""
    flags = source.choice([0, Flag.CHECKSUM])
    events = [net.event(source.randrange(99), comm=source.randbytes(source.randrange(9))) for _ in range(3)]
    if not plain:
        events += [
            build(Type.LOST, 1, bytes(32)),
            Lost(1, 1, 2, 3).frame(Flag.CHECKSUM),
            build(Type.TABLE, 1, b"x", Flag.CHECKSUM),
            b"".join(net.schema().frames()),
            struct.pack(">BBHI", 0x11, 0, 12, 1) + bytes(4),
            build(Type.EVENT, 1, b"12345", Flag.CHECKSUM),
            build(Type.ACK, 1, bytes(4)),
        ]
        if source.random() < 0.1:
            events.append(source.randbytes(source.randrange(1, 30)))
    inside = b"".join(source.choice(events) for _ in range(source.randrange(4)))
    match 99 if plain else source.randrange(20):
        case 0:
            return events[0]
        case 1:
            return build(Type.ACK, 1, bytes(4), flags)
        case 2:
            return build(Type.KEEPALIVE, 0, b"", flags)
        case 3:
            return a_greeting(source, sequence).frame(flags)
        case 4:
            return build(Type.BYE, max(sequence + source.choice([0, 1, 5]), 0), b"\xa1freasonddone", flags)
        case 5:
            return source.randbytes(source.randrange(1, 40))
        case 6:
            kind = source.choice([Type.HELLO, Type.WELCOME])
            return build(kind, 0, source.choice([b"\xff", b"\xa0"]))
        case 7:
            return build(Type.DATA, sequence, inside, Flag.CHECKSUM)[:-1] + b"\0"
        case _:
            return build(Type.DATA, sequence & 0xFFFFFFFF, inside, flags)


def sequences(source: random.Random, count: int) -> Iterator[int]:
    """Numbers of DATA as a network delivers them."""
    at = source.choice([0, 0, 7, (1 << 32) - 3])
    for _ in range(count):
        yield at + source.choice([0, 0, 0, 0, 0, 1, -1, 2, -2, 40, 600, -600, 1 << 31])
        at += source.choice([1, 1, 1, 1, 1, 0, 2])


def ended(net: Any, source: random.Random, payload: bytes, flow: int) -> tuple[bytes, bool]:
    """A datagram in IP."""
    six = bool(flow & 1)
    ends = net.v6 if six else net.v4
    ports = (40000 + flow // 2, 17800) if source.random() < 0.9 else (17800, 40000 + flow // 2)
    segment = net.udp(payload, ends, ports, source.choice([None] * 8 + [0, 0x1234]))
    if source.random() < 0.05:
        segment = net.udp(payload, ends, (5, source.choice([53, 54])))
    return segment, six


def wrapped(
    net: Any, source: random.Random, segment: bytes, six: bool, protocol: int, number: int
) -> list[bytes]:
    """IP packets that carry a segment: one, or fragments in any order."""
    ends = net.v6 if six else net.v4
    if source.random() < 0.1:
        parts = net.ip_fragments(segment, source.choice([8, 24, 64]), number, 6 if six else 4, protocol)
        match source.randrange(5):
            case 0:
                source.shuffle(parts)
            case 1:
                parts.append(source.choice(parts))
            case 2:
                parts.pop(source.randrange(len(parts)))
            case 3:
                parts.append(net.ip_fragments(segment + b"more", 16, number, 6 if six else 4, protocol)[-1])
        return [bytes(part) for part in parts]
    if six:
        chains = [
            [],
            [],
            [(60, bytes(7))],
            [(0, bytes(7)), (43, bytes([0, 0, 0]) + bytes(4))],
            [(51, bytes([1]) + bytes(10))],
        ]
        chain = source.choice(chains)
        return [net.ipv6(segment, protocol, ends, chain)]
    options = source.choice([b"", b"", b"\x01" * 4])
    packet = bytearray(net.ipv4(segment, protocol, ends, options))
    if source.random() < 0.08:
        packet[10:12] = source.choice([b"\0\0", b"\x12\x34"])
    return [bytes(packet)]


def datagrams(net: Any, source: random.Random) -> Iterator[bytes]:
    """Some flows that take turns."""
    flows = source.choice([1, 2, 5])
    numbers = [sequences(source, 400) for _ in range(flows)]
    for number in range(source.randrange(1, 60)):
        flow = source.randrange(flows)
        frame = a_frame(net, source, next(numbers[flow]))
        if source.random() < 0.1:
            frame += a_frame(net, source, next(numbers[flow]))
        segment, six = ended(net, source, frame, flow)
        yield from wrapped(net, source, segment, six, 17, number)


def connections(net: Any, source: random.Random) -> Iterator[bytes]:
    """Streams in segments of all sizes, lost, repeated, reordered, overlapping."""
    segments: list[tuple[float, bytes, bool]] = []
    for flow in range(source.choice([1, 1, 3])):
        six, base = source.random() < 0.3, source.choice([0, 1000, (1 << 32) - 300])
        ends, ports = (net.v6 if six else net.v4), (40000 + flow, 17800)
        frames = [net.data(0, *net.schema().frames())]
        frames += [
            a_frame(net, source, number + 1, source.random() < 0.9) for number in range(source.randrange(40))
        ]
        if source.random() < 0.2:
            frames = [net.event(number) for number in range(30)]
        if source.random() < 0.1:
            frames.insert(0, b"\x16\x03\x01\x02\x00\x01\x00" + bytes(90))
        stream, at, clock = b"".join(frames), 0, flow * 0.3
        if source.random() < 0.8:
            segments.append((clock, net.tcp(b"", base - 1, 2, ends, ports), six))
        while at < len(stream):
            size = source.choice([1, 7, 50, 100, 300, 1400])
            flags = source.choice([0x18] * 30 + [0x11, 0x14, 0x02])
            clock += 1
            late = source.choice([0] * 9 + [2.5, 5.5])
            if source.random() < 0.93:
                part = stream[at : at + size]
                segments.append((clock + late, net.tcp(part, base + at, flags, ends, ports), six))
            if source.random() < 0.07:
                start = max(at - source.randrange(200), 0)
                again = bytearray(stream[start : start + source.randrange(1, 300)])
                if source.random() < 0.2:
                    again[source.randrange(len(again))] ^= 1
                segments.append((clock + late, net.tcp(bytes(again), base + start, 0x18, ends, ports), six))
            at += size
        segments.append((clock + 1, net.tcp(b"", base + len(stream), 0x11, ends, ports), six))
    segments.sort(key=lambda one: one[0])
    for number, (_, segment, six) in enumerate(segments):
        yield from wrapped(net, source, segment, six, 6, number)


def others(net: Any, source: random.Random) -> Iterator[bytes]:
    for _ in range(source.randrange(4)):
        yield source.choice(
            [
                net.ipv4(bytes(30), source.choice([1, 47, 6, 17])),
                net.ipv6(bytes(30), source.choice([58, 59, 17])),
                net.ipv4(net.udp(b"\x10\0\0\x08\0\0\0\0", ports=(5, 6))),
                net.ipv4(net.tcp(b"GET / HTTP/1.1\r\n" * 9, 1, ports=(5, 80)), 6),
                source.randbytes(source.randrange(1, 60)),
            ]
        )


def capture(net: Any, source: random.Random) -> bytes:
    """A file of any kind."""
    kinds = [datagrams, connections, others]
    packets = [
        packet for kind in source.sample(kinds, source.randrange(1, 4)) for packet in kind(net, source)
    ]
    if source.random() < 0.5:
        source.shuffle(packets)
    link = source.choice(LINKS)
    if link == 147:
        packets = [a_frame(net, source, number) for number in range(30)]
    made: list[Any] = []
    for packet in packets:
        whole = packet if link == 147 else net.link(link, packet)
        if link == 1 and source.random() < 0.1:
            tags = [(0x8100, n) for n in range(source.choice([1, 3, 9]))]
            whole = net.ethernet(packet, tags, source.choice([None, None, 0x0806, 0x22]))
        if source.random() < 0.04:
            damaged = bytearray(whole)
            damaged[source.randrange(len(damaged))] = source.choice([0, 0xFF, source.randrange(256)])
            whole = bytes(damaged)
        kept = whole[: source.randrange(len(whole) + 1)] if source.random() < 0.04 else whole
        made.append((kept, len(whole)) if source.random() < 0.97 else (kept, source.randrange(90)))
    order = source.choice("<>")
    step = source.choice([1_000_000, 900_000_000])
    if source.random() < 0.6:
        return bytes(net.pcap(made, link, order, step=step))
    return bytes(net.pcapng([kept for kept, _ in made], link, order))


def told(net: Any) -> list[tuple[str, int, str]]:
    """What was found, in the order in which it is told."""
    return [(name, *first) for name, first in net.found.items()]


def outcome(data: bytes, **options: Any) -> dict[str, Any]:
    """All that a reading tells, sessions by their name."""
    events: dict[int, list[bytes]] = {}
    sections: dict[int, Any] = {}  # which stay, so that no other one is taken for one that is let go of
    with open.open_capture(io.BytesIO(data), **options) as capture:
        for frames in capture:
            mine = events.setdefault(id(capture.section), [])
            sections[id(capture.section)] = capture.section
            schemas = sorted(schema.probe for schema in capture.schemas.values())
            mine += [
                bytes(frames.frame_bytes(index)) + repr(schemas).encode() for index in range(len(frames))
            ]
    net = capture.network
    return {
        "events": sorted((one.name, events.get(id(one.section), [])) for one in net.conversations),
        "sessions": [
            f"{one.name} missing {one.missing} again {one.again} late {one.late} bye {one.bye} "
            f"next {one.next} frames {one.frames} token {one.token.hex()} began {one.began} "
            f"answered {one.answered} unsound {one.unsound}"
            for one in net.conversations
        ],
        "found": told(net),
        "remarks": +net.remarks,
        "others": +net.others,
        "counts": (net.packets, net.frames, net.skipped, net.flows, capture.packets, capture.skipped),
        "schemas": sorted(sorted(section.schemas) for section in capture.sections),
        "problem": capture.problem,
    }


def both(data: bytes, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[Any, Any]:
    """What the engine gives, and its specification."""
    mine = outcome(data, **options)
    with monkeypatch.context() as patch:
        patch.setattr(native, "library", None)
        return mine, outcome(data, **options)


WHERE = st.sampled_from([{}, {"any_port": True}, {"any_port": True, "ports": (9,)}])
"""Where frames are looked for; in the last case all streams are on ports of others."""


@given(seed=st.integers(0, 1 << 40), where=WHERE)
@settings(max_examples=400, deadline=None)
def test_the_same_comes_out(net: Any, seed: int, where: dict[str, Any]) -> None:
    data = capture(net, random.Random(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "HOLD_SMALL", seed % 5 * 512)  # order is made early, and often
        mine, theirs = both(data, patch, **where)
    assert mine == theirs


@pytest.mark.parametrize("seed", range(6))
def test_long_queues_in_any_order_are_put_in_order(
    net: Any, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hundreds of segments of several streams wait, shuffled, some again, cut elsewhere, or longer."""
    source = random.Random(seed)
    monkeypatch.setattr(memory, "HOLD_SMALL", 1 << source.randrange(10, 20))
    streams = []
    for flow in range(1 + seed % 3):
        text, port, rest = b"".join(net.session(120, 3)), 40000 + flow, []
        at = first = source.randrange(20, 60)
        while at < len(text):
            size = source.randrange(1, 60)
            rest.append((at, text[at : at + size]))
            if source.random() < 0.2:
                back = source.randrange(0, 20)
                rest.append((at - back, text[at - back : at + source.randrange(1, 90)]))
            if source.random() < 0.1:
                rest.append((at, text[at : at + size + source.randrange(1, 50)]))
            at += size
        for near in range(0, len(rest), 1 << (6 + seed % 5)):
            some = rest[near : near + (1 << (6 + seed % 5))]
            source.shuffle(some)
            rest[near : near + len(some)] = some
        parts = [(0, b"", 2), *((1 + at, part, 0x18) for at, part in rest)]
        parts.insert(len(parts) // 3, (1, text[:first], 0x18))
        streams.append([net.tcp(part, at, flags, ports=(port, 17800)) for at, part, flags in parts])
    turns = [one for turn in zip_longest(*streams) for one in turn if one is not None]
    data = net.pcap([net.ethernet(net.ipv4(one, 6)) for one in turns], step=1000)
    mine, theirs = both(data, monkeypatch)
    assert mine == theirs
    assert [len(events) for _, events in mine["events"]] == [len(net.expected(120, 3))] * len(streams)


@pytest.mark.parametrize(
    ("seed", "any_port"),
    [(9, True), (369, True), (1017, True), (528810, False), (431759, False), (28592744, False)],
)
def test_what_is_wrong_is_told_in_one_order(net: Any, seed: int, any_port: bool) -> None:
    """Captures in which much is first found when flows and sessions are given up, at the end."""
    with pytest.MonkeyPatch.context() as patch:
        mine, theirs = both(capture(net, random.Random(seed)), patch, any_port=any_port)
    assert mine == theirs


@pytest.mark.parametrize("first", [0, 1, 1 << 62, (1 << 64) - 2])
@pytest.mark.parametrize("step", [0, 5_000_000_000, 1 << 62, 1 << 63, (1 << 63) + 1, -5_000_000_000, -1])
def test_segments_wait_as_long_by_any_clock(net: Any, first: int, step: int) -> None:
    """Times in a capture are what they are: of any 64 bits, and they may go back."""
    frames = b"".join(net.session(6))
    rest = [net.tcp(frames[at : at + 100], 1 + at) for at in range(0, len(frames), 100)]
    segments = [net.tcp(b"", 0, 2), rest[0], *rest[2:], rest[1]]
    order, nanoseconds = "<", struct.pack("<HHB3xI", 9, 1, 9, 0)
    body = struct.pack("<HHI", 1, 0, 0) + nanoseconds
    data = net.pcapng([], 1, order)[:28]
    data += struct.pack("<II", 1, len(body) + 12) + body + struct.pack("<I", len(body) + 12)
    for number, segment in enumerate(segments):
        packet = net.ethernet(net.ipv4(segment, 6))
        time = (first + step * (number > 2)) % (1 << 64)
        head = struct.pack("<IIIII", 0, time >> 32, time & 0xFFFFFFFF, len(packet), len(packet))
        whole = head + packet + bytes(-len(packet) % 4)
        size = struct.pack("<I", len(whole) + 12)
        data += struct.pack("<I", 6) + size + whole + size
    with pytest.MonkeyPatch.context() as patch:
        mine, theirs = both(data, patch)
    assert mine == theirs
    assert mine["counts"][0] == len(segments)


AGAIN = [
    *((start, count, flip, conflict) for start, count, flip, conflict in (
        (30, 1, 5, 1),  # a segment again, with a byte that is another one
        (30, 1, None, 0),
        (28, 3, 150, 1),  # several in one
        (28, 3, None, 0),
        (39, 2, 0, 1),  # and what comes next
        (39, 2, 170, 0),  # only what comes next: nothing was there before
        (10, 1, 5, 0),  # too long ago: not remembered
        (10, 30, 2500, 1),  # of which the last is not
        (10, 30, 0, 0),
    ))
]  # fmt: skip


@pytest.mark.parametrize(("start", "count", "flip", "conflict"), AGAIN)
@pytest.mark.parametrize("base", [1, (1 << 32) - 3050])
def test_what_comes_again_is_compared_with_what_was_given(
    net: Any,
    monkeypatch: pytest.MonkeyPatch,
    start: int,
    count: int,
    flip: int | None,
    conflict: int,
    base: int,
) -> None:
    """Segments of 100 bytes, 40 of them; then some again, perhaps as one, perhaps with another byte."""
    stream = b"".join(net.session(40))
    again = bytearray(stream[100 * start : 100 * (start + count)])
    if flip is not None:
        again[flip] ^= 1
    segments = [net.tcp(b"", base - 1, 2)]
    segments += [net.tcp(stream[at : at + 100], base + at) for at in range(0, 4000, 100)]
    for anew in (False, True):
        # in a connection that has the same numbers anew, nothing was there before
        more = [net.tcp(b"", base - 1, 0x14), net.tcp(b"", base - 1, 2)] if anew else []
        made = [*segments, *more, net.tcp(bytes(again), base + 100 * start)]
        mine, theirs = both(net.pcap([net.ethernet(net.ipv4(one, 6)) for one in made]), monkeypatch)
        assert mine == theirs
        found = {name: number for name, number, _ in mine["found"]}
        assert found.get("TCP_CONFLICT", 0) == conflict * (not anew)


@pytest.mark.parametrize("noise", [b"\xff", b"\x0f\0", b"\x1d\0", b"\x10\2", b"\x1c\4", b"a\x10"])
def test_frames_are_found_behind_any_noise(net: Any, monkeypatch: pytest.MonkeyPatch, noise: bytes) -> None:
    """However many bytes stand before the first frame, and in whatever parts they come."""
    frames = net.session(6)
    for size in (*range(20), *range(56, 84), *range(125, 140)):
        stream = (noise * 140)[:size] + b"".join(frames)
        cuts = [0, size // 2, size + 3, len(stream)] if size % 3 else [0, len(stream)]
        segments = [net.tcp(stream[one:two], 1 + one) for one, two in pairwise(cuts) if two > one]
        mine, theirs = both(net.pcap([net.ethernet(net.ipv4(one, 6)) for one in segments]), monkeypatch)
        assert mine == theirs
        assert mine["counts"][1] == len(frames)


@pytest.mark.parametrize("kind", [Type.KEEPALIVE, Type.DATA, Type.BYE])
@pytest.mark.parametrize("flags", [0, Flag.CHECKSUM, Flag.CHECKSUM | Flag.PADDED])
def test_any_first_frame_is_found_behind_text(
    net: Any, monkeypatch: pytest.MonkeyPatch, kind: Type, flags: int
) -> None:
    """Of the least type and the greatest, with all flags that there are."""
    payload = {Type.KEEPALIVE: b"", Type.DATA: b"".join(net.schema().frames()), Type.BYE: b"\xa1aa\1"}[kind]
    if flags & Flag.PADDED:
        payload = b"" if kind == Type.KEEPALIVE else payload + b"\0" * (not len(payload) & 1)
    first = build(kind, kind != Type.KEEPALIVE, payload, flags)
    for size in (30, 64, 65, 127, 128, 129, 200):
        stream = (b"GET / HTTP/1.1\r\n" * 20)[:size] + first + b"".join(net.session(3))
        packets = [net.ethernet(net.ipv4(net.tcp(stream, 1), 6))]
        mine, theirs = both(net.pcap(packets), monkeypatch)
        assert mine == theirs
        assert mine["counts"][1] == 5


@pytest.mark.parametrize("many", [1, 2 * memory.LYING])
@pytest.mark.parametrize("places", [[0, 100, 200, 300], [0, 300, 100, 200]], ids=["in order", "held"])
def test_bytes_that_were_given_are_known_when_their_packets_are_gone(
    net: Any, many: int, places: list[int]
) -> None:
    """Segments of so many streams, some that wait of another, and most of the first again, of every second
    stream with another byte.
    """
    stream, ports = b"".join(net.session(20)), range(1001, 1001 + many)
    first = [(port, b"", 4, 2) for port in ports]
    first += [(port, stream[at : at + 100], 5 + at, 0x18) for at in places for port in ports]
    others = [(900, b"", 4, 2), *((900, bytes(100), 105 + at, 0x18) for at in range(0, 400 * many, 100))]
    again = [(port, stream[100:399] + bytes([stream[399] ^ port & 1]), 105, 0x18) for port in ports]
    one = engine.Engine([17800])
    for segments in (first + others, again):
        made = [net.tcp(data, at, flags, ports=(port, 17800)) for port, data, at, flags in segments]
        data = bytearray(net.pcap([net.ethernet(net.ipv4(segment, 6)) for segment in made]))
        rows = array("Q", bytes(8 * walk.ROW_WORDS * len(made)))
        faces = walk.faces([(1, pcapng.Units(1_000_000_000))])
        assert walk.pcap_rows(data, 24, len(data), False, faces, rows, len(made))[0] == len(made)
        one.rows(data, rows, len(made), 0)
        data[:] = bytes(len(data))
    list(one.finish())
    assert one.found["TCP_CONFLICT"].count == (many + 1) // 2


@pytest.mark.parametrize("written", [b"\0\0", b"\xff\xff", b"\0\1"])
@pytest.mark.parametrize("summed", [True, False])
def test_a_frame_of_checksum_zero(
    net: Any, monkeypatch: pytest.MonkeyPatch, written: bytes, summed: bool
) -> None:
    """By the sum of the datagram, which it fills, a checksum of 0 and one of 0xffff look the same."""
    frame = bytearray(net.data(1, net.event(3), flags=Flag.CHECKSUM))
    field = int.from_bytes(frame[20:22], "big") + int.from_bytes(frame[-2:], "big")
    frame[20:22] = ((field & 0xFFFF) + (field >> 16)).to_bytes(2, "big")  # in the event's time
    assert checksum(bytes(frame[:-2])) == 0
    datagrams = [net.udp(one) for one in (net.data(0, net.event(1)), bytes(frame[:-2]) + written)]
    if not summed:
        datagrams = [one[:6] + bytes(2) + one[8:] for one in datagrams]
    mine, theirs = both(net.pcap([net.ethernet(net.ipv4(one)) for one in datagrams]), monkeypatch)
    assert mine == theirs
    assert mine["counts"][1] == 1 + (written == b"\0\0")


def test_streams_that_give_up_together_find_room(net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is short, and more streams than there is room for are inside a frame once they wait no more."""
    slabs = 16
    monkeypatch.setattr(memory, "slab_counts", lambda _: [slabs] * memory.SLAB_KINDS)
    part = net.data(1, *[net.event(1)] * 1600)[:60_000]
    ports = range(1000, 1000 + network.HELD // len(part) + 2)
    made = [net.tcp(b"", 0, 2, ports=(port, 17800), checksum=0) for port in ports]
    made += [net.tcp(part, 1001, ports=(port, 17800), checksum=0) for port in (*ports, ports[0])]
    data = net.pcap([net.ethernet(net.ipv4(segment, 6)) for segment in made])
    one = engine.Engine([17800])
    rows = array("Q", bytes(8 * walk.ROW_WORDS * len(made)))
    faces = walk.faces([(1, pcapng.Units(1_000_000_000))])
    assert walk.pcap_rows(data, 24, len(data), False, faces, rows, len(made))[0] == len(made)
    one.rows(data, rows, len(made), 0)
    state = one._state
    for kind in state.slabs:
        free = (ctypes.c_uint32 * slabs).from_address(kind.stack)[: kind.free]
        assert kind.free <= kind.used <= slabs
        assert len(free) == len(set(free))
    list(one.finish())
    assert {"TCP_GAP", "TOO_MANY_FLOWS"} <= set(one.found)


def test_more_streams_than_there_are_large_slabs_are_inside_a_frame(
    net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each holds a few bytes, so none is let go of."""
    ports = range(1000, 1000 + 5000)
    frame = net.data(0, *net.schema().frames(), net.event(1))
    parts = [(frame[:60], 1), (frame[60:], 61)]
    made = [net.tcp(part, at, ports=(port, 17800), checksum=0) for part, at in parts for port in ports]
    data = net.pcap([net.ethernet(net.ipv4(segment, 6)) for segment in made])
    mine, theirs = both(data, monkeypatch)
    assert mine == theirs
    assert mine["found"] == []
    assert sum(len(events) for _, events in mine["events"]) == len(ports)


@given(seed=st.integers(0, 1 << 40), where=WHERE)
@settings(max_examples=150, deadline=None)
def test_frames_are_taken_while_others_are_put_together(net: Any, seed: int, where: dict[str, Any]) -> None:
    source = random.Random(seed)
    packets = [packet for _ in range(3) for packet in connections(net, source)]
    data = net.pcap([net.ethernet(packet) for packet in packets if packet[0] >> 4 == 4])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "FOUND_FULL", 0)  # what was found is taken …
        patch.setattr(input, "CHUNK", source.choice([200, 2000, 20000]))  # … whenever so much was read
        mine, theirs = both(data, patch, **where)
    assert mine == theirs


@pytest.mark.parametrize(
    "sizes", [(3, 1), (60_000, 1448), (60_000, 700, 20_000), (2000, 1448), (65_527, 64_000)]
)
def test_data_over_several_segments(
    net: Any, sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several connections take turns, each inside a frame; one frame is damaged, one is repeated."""
    size, *cuts = sizes
    streams = []
    for flow in range(12):  # more than have their frames put together where they are found
        frames = [net.data(0, *net.schema().frames())]
        for number in range(1, 6):
            many = max((size - 20) // len(net.event(1)), 1)
            frames.append(net.data(number, *[net.event(number * many + at) for at in range(many)], flags=1))
        frames[2] = frames[2][:-1] + bytes([frames[2][-1] ^ 1])
        frames.insert(4, frames[3])
        text, at, parts = b"".join(frames), 0, [net.tcp(b"", 0, 2, ports=(40000 + flow, 17800))]
        while at < len(text):
            part = text[at : at + cuts[len(parts) % len(cuts)]]
            parts.append(net.tcp(part, 1 + at, ports=(40000 + flow, 17800)))
            at += len(part)
        streams.append(parts)
    turns = [one for turn in zip_longest(*streams) for one in turn if one is not None]
    data = net.pcap([net.ethernet(net.ipv4(one, 6)) for one in turns], step=1000)
    mine, theirs = both(data, monkeypatch)
    assert mine == theirs
    assert mine["counts"][0] == len(turns)
    assert [name for name, *_ in mine["found"]] == ["BAD_CHECKSUM", "DATA_MISSING"]


def taken(net: Any, packets: list[bytes]) -> engine.Engine:
    """An engine that has taken these packets, of which nothing was asked."""
    data, one = net.pcap([net.ethernet(net.ipv4(packet, 6)) for packet in packets]), engine.Engine([17800])
    rows = array("Q", bytes(8 * walk.ROW_WORDS * len(packets)))
    faces = walk.faces([(1, pcapng.Units(1_000_000_000))])
    assert walk.pcap_rows(data, 24, len(data), False, faces, rows, len(packets))[0] == len(packets)
    one.rows(data, rows, len(packets), 0)
    return one


def test_a_frame_that_is_given_up_takes_no_room(net: Any) -> None:
    """Of connections that begin anew inside a frame nothing is left; what came behind it stays."""
    frame, other = net.data(1, *[net.event(1)] * 500), net.data(2, net.event(2))
    begun = [net.tcp(b"", 0, 2), net.tcp(frame[:1000], 1)]
    one = taken(net, [segment for start in range(9) for segment in (*begun, net.tcp(b"", 70_000 + start, 2))])
    assert one._state.out_used == one._state.stream_held == 0
    assert list(one.finish()) == []
    ports = (40001, 17800)
    behind = [net.tcp(b"", 0, 2, ports=ports), net.tcp(other, 1, ports=ports)]
    one = taken(net, [net.tcp(b"", 0, 2), net.tcp(frame[:1000], 1), *behind, net.tcp(b"", 70_000, 2)])
    assert one._state.out_used == len(frame) + len(net.event(2))
    assert sum(len(given.what) for given in one.finish()) == 1


def test_what_was_found_is_taken_before_another_session_goes_on(
    net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each HELLO in a packet may bring a session that gives all that it held: there is room for one."""
    parts = []
    for token in range(6):
        parts += [Hello(bytes([token]) * 16, 1, Role.SOURCE).frame(), *net.session(3, flags=Flag.CHECKSUM)]
    segments = [net.tcp(b"", 0, 2), net.tcp(b"".join(parts), 1)]
    for many, count in ((1, 5), (memory.FOUND_FULL, 0)):
        monkeypatch.setattr(memory, "FOUND_FULL", many)
        assert taken(net, segments)._given == count
        mine, theirs = both(net.pcap([net.ethernet(net.ipv4(one, 6)) for one in segments]), monkeypatch)
        assert mine == theirs
        assert len(mine["events"]) == 6


@pytest.mark.parametrize("size", [2 << 20, 4 << 20])
def test_a_stream_joined_in_the_middle_waits_for_so_many_bytes(
    net: Any, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes late belongs to it, if no more bytes wait than of any other: cards join segments."""
    raw = net.event(1)
    pad = struct.pack(">BBHI", 0x11, 0, 60_000, 1) + raw[8:] + bytes(60_000 - len(raw))
    frames = [net.data(0, *net.schema().frames()), *(net.data(number, pad) for number in range(1, 260))]
    stream = b"".join(frames)
    cuts = list(range(0, len(stream), size))[:4]
    segments = [net.tcp(stream[at : at + size], 1 + at, checksum=0) for at in (*cuts[1:], cuts[0])]
    packets = [net.ethernet(net.ipv4(one, 6, total=0)) for one in segments]
    mine, theirs = both(net.pcap(packets, step=1000), monkeypatch)
    assert mine == theirs
    there = sum(len(events) for _, events in mine["events"])
    assert (there > 3 * size // 60_000) == (size == 2 << 20)


def test_structures_are_those_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory.agreed()
    for name in ("_SIZES", "_PLACES", "_NUMBERS"):
        with monkeypatch.context() as patch:
            patch.setattr(memory, name, getattr(memory, name)[::-1])
            assert not memory.agreed()


@given(seed=st.integers(0, 1 << 40))
@settings(max_examples=300, deadline=None)
def test_records_agree(net: Any, seed: int) -> None:
    source = random.Random(seed)
    order, simple = source.choice("<>"), source.random() < 0.5
    packets = [source.randbytes(source.randrange(40)) for _ in range(source.randrange(9))]
    made = source.choice([net.pcap, net.pcapng])
    data = bytearray(made(packets, order=order))
    if made is net.pcapng and simple:
        for kind, body in (
            (3, struct.pack(order + "I", 20) + bytes(20)),
            (5, struct.pack(order + "I", 0) + bytes(8)),
        ):
            size = struct.pack(order + "I", len(body) + 12)
            data += struct.pack(order + "I", kind) + size + body + size
    for _ in range(source.choice([0, 0, 1, 3])):
        at = source.randrange(len(data))
        data[at : at + 1] = source.choice([b"\0", b"\xff", b"\0\0\0\0"])
    start = 24 if made is net.pcap else source.choice([28 + 32, 28 + 32, 28])
    swap, limit = (order == "<") != (sys.byteorder == "little"), source.choice([0, 3, 99])
    end = source.choice([len(data), len(data), len(data) - 3, 1 << 63])
    face = [
        source.choice([1, 147]),
        source.choice([0, 1, 1000, 10**6, 10**9, 1 << 40]),
        source.randrange(3),
        0,
    ]
    results = []
    for which in ("", "_twin"):
        rows, known = array("Q", bytes(32 * limit)), array("Q", face)
        if made is net.pcap:
            step = getattr(walk, "pcap_rows" + which)
            done = step(bytes(data), start, end, swap, known, rows, limit)
        else:
            step = getattr(walk, "pcapng_rows" + which)
            done = step(bytes(data), start, end, swap, known, 30, rows, limit)
        results.append((done, rows, known))
    assert results[0] == results[1]


def test_limits_are_the_same(net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few flows and few sessions: what is let go of, and what is said of it."""
    for room in (network, engine):
        monkeypatch.setattr(room, "MAX_FLOWS", 20)
        monkeypatch.setattr(room, "MAX_CONVERSATIONS", 30)
    made = []
    for port in range(1, 60):
        frames = [net.data(0, *net.schema().frames()), net.data(1, net.event(port))]
        frames += [build(Type.BYE, 2, b"\xa1freasonddone")] * (port % 3 == 0)
        made += [net.ethernet(net.ipv4(net.udp(frame, ports=(port, 17800)))) for frame in frames]
    mine, theirs = both(net.pcap(made), monkeypatch)
    assert mine["found"] == theirs["found"]
    assert mine["counts"] == theirs["counts"]


@pytest.mark.parametrize("seed", range(6))
def test_what_is_told_of_sessions_let_go_of_is_the_same(
    net: Any, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Sessions that hold DATA, lack some, had some again, or were damaged; packets of others between them."""
    for room in (network, engine):
        monkeypatch.setattr(room, "MAX_FLOWS", 20)
    for room in (network, engine, open):
        monkeypatch.setattr(room, "MAX_CONVERSATIONS", 30)
    source, made = random.Random(seed), []
    for port in range(1, 120):
        frames = [net.data(0, *net.schema().frames())] * source.randrange(2)
        frames += [net.data(at, net.event(at)) for at in source.choices(range(5), k=source.randrange(4))]
        frames += [net.data(9, net.event(1)[:-3], net.event(2))] * (source.random() < 0.2)
        frames += [net.data(4, *net.schema(2)._replace(probe=f"kprobe:f{port}").frames())] * source.randrange(
            2
        )
        frames += [net.data(5, build(Type.SCHEMA, 3, b"\xff"))] * (source.random() < 0.2)
        frames += [build(Type.BYE, source.randrange(9), b"\xa1freasonddone")] * source.randrange(2)
        frames += [Hello(bytes([port]) * 16, 1, Role.SOURCE).frame()] * (source.random() < 0.3)
        frames += [build(Type.ACK, 0, bytes(4))] * (source.random() < 0.3)
        made += [net.ethernet(net.ipv4(net.udp(frame, ports=(port, 17800)))) for frame in frames]
        made += [net.ethernet(net.ipv4(net.udp(b"name", ports=(53, port))))] * source.randrange(2)
    mine, theirs = both(net.pcap(made), monkeypatch)
    assert mine == theirs
    assert [name for name, *_ in mine["found"]].count("TOO_MANY_FLOWS") == 1


def test_what_has_ended_is_let_go_of_first(net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that began first and goes on is read to its end, however many others came and went."""
    for room in (network, engine, open):
        monkeypatch.setattr(room, "MAX_CONVERSATIONS", 30)
    hello, bye = Hello(bytes(16), 1, Role.SOURCE).frame(), b"\xa1freasonddone"
    long = [hello, *net.session(100, 1)]
    made = []
    for port, frame in enumerate(long):
        others = [net.data(0, *net.schema().frames()), net.data(1, net.event(1)), build(Type.BYE, 2, bye)]
        made += [(frame, 40000), *((other, 1000 + port) for other in others)]
    data = net.pcap([net.ethernet(net.ipv4(net.udp(frame, ports=(port, 17800)))) for frame, port in made])
    mine, theirs = both(data, monkeypatch)
    assert mine == theirs
    (first,) = (events for name, events in mine["events"] if ":40000 " in name)
    assert len(first) == 100
    assert [name for name, *_ in mine["found"]] == ["TOO_MANY_FLOWS"]


def test_a_bad_schema_that_no_data_wraps_is_judged_like_any_frame(
    net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python reads it after the packets: its place and order, and what is no frame, are the same."""
    bad, good = build(Type.SCHEMA, 1, b"\xff"), build(Type.KEEPALIVE, 0, b"")
    datagrams = [good + bad, bad, bad + bad, bad + good, b"\x20" + good[1:], good, net.data(0, bad)]
    made = [net.ethernet(net.ipv4(net.udp(one))) for one in datagrams]
    mine, theirs = both(net.pcap(made), monkeypatch)
    assert mine == theirs
    assert mine["counts"][2] == 3
    assert [name for name, *_ in mine["found"]] == ["BAD_PAYLOAD", "BAD_VERSION"]
    assert mine["found"][0][2].startswith("packet 1 at byte 24: ")


def test_schemas_that_are_never_complete_are_bounded(net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all sessions: the engine gives up those that hold most, and says so."""
    monkeypatch.setattr(engine, "PENDING", 40_000)
    part = build(Type.SCHEMA, 1, b"\xa1\x64more\xf5")
    long = build(Type.SCHEMA, 1, b"\xa2\x64more\xf5\x61x\x59\x20\x00" + bytes(8192))
    made = []
    for port in range(1, 20):
        for number, frame in enumerate((part, long)):
            made.append(net.ethernet(net.ipv4(net.udp(net.data(number, frame), ports=(port, 17800)))))
    found = outcome(net.pcap(made))["found"]
    assert [name for name, *_ in found] == ["TOO_MANY_FLOWS"]
    assert "bytes waited in vain" in found[0][2]
