"""Sessions over UDP and TCP: frames across segments, schemas that a session told once, repeated DATA, TLS."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kwire.wire import cbor
from kwire.wire.fields import Field
from kwire.wire.frame import Type, build, checksum
from kwire.wire.schema import Schema

pytestmark = pytest.mark.native

ETHERNET = 1
SOURCE, SINK = (b"\x0a\0\0\1", 40000), (b"\x0a\0\0\2", 17800)
TOKEN = bytes(range(16))
SCHEMA = Schema(
    1,
    "kprobe:tcp_connect",
    "kprobe",
    "tcp_connect",
    (Field("dport", "u16", 16, 2), Field("pid", "u32", 20, 4)),
    24,
)
End = tuple[bytes, int]


def ip(protocol: int, source: End, sink: End, body: bytes) -> bytes:
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 7, 0, 64, protocol, 0, source[0], sink[0])
    head = head[:10] + struct.pack(">H", checksum(head)) + head[12:]
    return bytes(12) + b"\x08\0" + head + body


def udp(data: bytes, source: End = SOURCE, sink: End = SINK) -> bytes:
    return ip(17, source, sink, struct.pack(">HHHH", source[1], sink[1], 8 + len(data), 0) + data)


def tcp(data: bytes, at: int, source: End = SOURCE, sink: End = SINK, flags: int = 0x18) -> bytes:
    head = struct.pack(">HHIIBBHHH", source[1], sink[1], at, 1, 0x50, flags, 65535, 0, 0)
    return ip(6, source, sink, head + data)


def segments(stream: bytes, source: random.Random, **ends: Any) -> list[bytes]:
    """The stream in pieces of any size, SYN first, some pieces sent twice."""
    packets, at = [tcp(b"", 0, flags=2, **ends)], 0
    while at < len(stream):
        size = source.choice([1, 3, 7, 20, 100])
        packets += [tcp(stream[at : at + size], at + 1, **ends)] * source.choice([1, 1, 1, 2])
        at += size
    return packets


def event(dport: int) -> bytes:
    return build(Type.EVENT, 1, struct.pack("<QHxxI", 5, dport, 42))


def hello(type: Type = Type.HELLO) -> bytes:
    return build(type, 0, cbor.dumps({"token": TOKEN, "role": "source"}))


def data(sequence: int, *frames: bytes) -> bytes:
    return build(Type.DATA, sequence, b"".join(frames))


SESSION = [
    hello(),
    hello(Type.WELCOME),
    data(0, *SCHEMA.frames(), event(443), event(80)),
    build(Type.ACK, 1, bytes.fromhex("00010000 00000003 00000005")),
    data(1, event(22)),
    build(Type.KEEPALIVE, 0),
    build(Type.BYE, 2, cbor.dumps({"reason": "done"})),
]


def test_sessions_over_udp(wireshark: Any, capture_of: Callable[..., bytes], tmp_path: Path) -> None:
    wireshark.learn(SCHEMA)
    path = tmp_path / "udp.pcapng"
    backwards: Any = {"source": SINK, "sink": SOURCE}
    packets = [udp(frame, **(backwards if n in (1, 3) else {})) for n, frame in enumerate(SESSION)]
    packets.append(udp(SESSION[4]))  # sent again
    path.write_bytes(capture_of(packets, link=ETHERNET))
    shown = wireshark.packets(path)
    assert all(packet.problems == [] for packet in shown)
    ports = [[item.show for item in packet.fields("kwire.tcp_connect.dport")] for packet in shown]
    assert ports == [[], [], ["443", "80"], [], ["22"], [], [], ["22"]]
    assert shown[0].fields("kwire.session")[0].show == TOKEN.hex()
    ack = shown[3]
    assert [ack.fields(f"kwire.ack.{name}")[0].show for name in ("window", "first", "last")] == [
        "65536",
        "3",
        "5",
    ]
    rows = wireshark.fields(path, "_ws.col.Protocol", "_ws.col.Info", "_ws.expert.message")
    assert {row[0] for row in rows} == {"KWIRE"}
    assert rows[2][1].startswith("DATA sequence 0, 3 frames | SCHEMA probe 1, kprobe:tcp_connect: 2 fields")
    assert "tcp_connect dport=443 [42]" in rows[2][1]
    assert rows[7][2] == "DATA seen before"
    assert rows[4][2] == ""


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("profile", [(), ("-C", "kwire")], ids=["default", "profile"])
def test_sessions_over_tcp_in_segments(
    wireshark: Any, capture_of: Callable[..., bytes], tmp_path: Path, seed: int, profile: tuple[str, ...]
) -> None:
    wireshark.learn(SCHEMA)
    stream = b"".join(frame for n, frame in enumerate(SESSION) if n not in (1, 3))
    path = tmp_path / "tcp.pcapng"
    path.write_bytes(capture_of(segments(stream, random.Random(seed)), link=ETHERNET))
    for options in (profile, (*profile, "-2")):
        shown = wireshark.packets(path, *options)
        assert [packet.problems for packet in shown if packet.problems] == []
        types = [item.show for packet in shown for item in packet.fields("kwire.type")]
        ports = [item.show for packet in shown for item in packet.fields("kwire.tcp_connect.dport")]
        if not profile:  # Wireshark hands repeated segments on where it does not look at sequence numbers
            assert types == ["3", "2", "6", "1", "1", "2", "1", "0", "12"]
            assert ports == ["443", "80", "22"]
        assert set(ports) == {"443", "80", "22"}


def test_a_resumed_session_keeps_its_schemas(
    wireshark: Any, capture_of: Callable[..., bytes], tmp_path: Path
) -> None:
    wireshark.learn(SCHEMA)
    first, again = hello() + SESSION[2], hello() + data(1, event(22))
    other: Any = {"source": (b"\x0a\0\0\1", 40001)}
    stranger: Any = {"source": (b"\x0a\0\0\3", 40001)}
    path = tmp_path / "resumed.pcapng"
    packets = [tcp(first, 1), tcp(again, 1, **other), tcp(data(1, event(23)), 1, **stranger)]
    path.write_bytes(capture_of(packets, link=ETHERNET))
    for options in ((), ("-2",)):
        rows = wireshark.fields(path, "kwire.tcp_connect.dport", "kwire.error", options=options)
        assert rows == [["443,80", ""], ["22", ""], ["", "UNKNOWN_SCHEMA"]]


def test_tls_on_the_port_is_tls(wireshark: Any, capture_of: Callable[..., bytes], tmp_path: Path) -> None:
    record = bytes.fromhex("16030100050200000100")  # a handshake record, as a session over TLS begins
    more = bytes.fromhex("1703030020") + bytes(32)
    path = tmp_path / "tls.pcapng"
    path.write_bytes(capture_of([tcp(record, 1), tcp(more, 11), tcp(more, 1, SINK, SOURCE)], link=ETHERNET))
    rows = wireshark.fields(path, "frame.protocols", "kwire.error")
    assert [("tls" in protocols, error) for protocols, error in rows] == [(True, "")] * 3


def test_a_packet_seen_at_many_probes_is_no_retransmission_in_the_profile(
    wireshark: Any, capture_of: Callable[..., bytes], tmp_path: Path
) -> None:
    packet = tcp(b"hello", 1, (b"\x0a\0\0\1", 5000), (b"\x0a\0\0\2", 5001))
    path = tmp_path / "probes.pcapng"
    path.write_bytes(capture_of([packet] * 4, link=ETHERNET, interfaces=4))
    bad = "tcp.analysis.retransmission || tcp.analysis.spurious_retransmission || tcp.analysis.duplicate_ack"
    assert len(wireshark.fields(path, "frame.number", only=bad)) == 3
    assert wireshark.fields(path, "frame.number", only=bad, options=["-C", "kwire"]) == []


def test_a_datagram_may_not_end_inside_a_frame(
    wireshark: Any, capture_of: Callable[..., bytes], tmp_path: Path
) -> None:
    path = tmp_path / "cut.pcapng"
    path.write_bytes(capture_of([udp(event(1)[:-3]), udp(event(1) + b"\x11\0")], link=ETHERNET))
    shown = wireshark.packets(path)
    assert ("TRUNCATED_PAYLOAD", 21) in shown[0].problems
    assert ("TRUNCATED_HEADER", 26) in shown[1].problems
