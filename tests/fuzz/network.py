"""Captures of networks for the targets: pcap and pcapng, UDP and TCP over IPv4 and IPv6, sessions."""

from __future__ import annotations

import struct

from kwire.wire import cbor
from kwire.wire.fields import Field
from kwire.wire.frame import Flag, Type, build, checksum
from kwire.wire.messages import Lost
from kwire.wire.schema import Schema

PORT = 17800
TOKEN = bytes(range(16))
SCHEMA = Schema(
    1, "kprobe:f", "kprobe", "f", (Field("port", "u16", 16, 2), Field("comm", "str", 20, 4, limit=16)), 24
)


def event(port: int = 443, flags: int = 0) -> bytes:
    return build(Type.EVENT, 1, struct.pack("<QHxxHH", 5, port, 24, 4) + b"curl", flags)


def hello(type: Type, **more: object) -> bytes:
    return build(type, 0, cbor.dumps({"token": TOKEN, "nonce": 7, "role": "source", "versions": [1], **more}))


def data(sequence: int, *frames: bytes, flags: int = 0) -> bytes:
    return build(Type.DATA, sequence, b"".join(frames), flags)


SESSION = [
    hello(Type.HELLO),
    hello(Type.WELCOME, role="sink", next=0, window=65536),
    data(0, *SCHEMA.frames(), event(), event(80)),
    build(Type.ACK, 1, bytes.fromhex("00010000 00000003 00000005")),
    data(1, event(), Lost(1, 2, 3, 4).frame(), flags=Flag.CHECKSUM),
    build(Type.REQUEST, 1, cbor.dumps({"op": "clock"})),
    build(Type.KEEPALIVE, 0),
    build(Type.BYE, 2, cbor.dumps({"reason": "done"})),
]


def _sum(pseudo: bytes, body: bytes) -> int:
    return checksum(pseudo + body) or 0xFFFF


def ip(protocol: int, body: bytes, at: int, six: bool = False, more: bytes = b"", fragment: int = 0) -> bytes:
    """An IP packet; `at`: where the body's checksum stands; `more`: options, or extension headers."""
    source, target = (bytes(15) + b"\1", bytes(15) + b"\2") if six else (b"\x0a\0\0\1", b"\x0a\0\0\2")
    pseudo = source + target + struct.pack(">IHH", len(body), 0, protocol)
    body = body[:at] + _sum(pseudo, body).to_bytes(2, "big") + body[at + 2 :]
    if six:
        next = more[0] if more else protocol
        more = bytes([protocol]) + more[1:] if more else b""
        return struct.pack(">IHBB", 6 << 28, len(more) + len(body), next, 64) + source + target + more + body
    size = 20 + len(more)
    head = struct.pack(">BBHHHBBH", 0x40 | size // 4, 0, size + len(body), 9, fragment, 64, protocol, 0)
    head += source + target + more
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + body


def udp(payload: bytes, six: bool = False, more: bytes = b"") -> bytes:
    return ip(17, struct.pack(">HHHH", 4000, PORT, 8 + len(payload), 0) + payload, 6, six, more)


def tcp(payload: bytes, at: int, flags: int = 0x18, six: bool = False) -> bytes:
    head = struct.pack(">HHIIBBHHH", 4000, PORT, at, 1, 0x50, flags, 65535, 0, 0)
    return ip(6, head + payload, 16, six)


def ethernet(packet: bytes, tags: int = 0) -> bytes:
    kind = b"\x86\xdd" if packet[0] >> 4 == 6 else b"\x08\0"
    return bytes(12) + b"\x81\0\0\1" * tags + kind + packet


def pcap(packets: list[bytes], link: int = 1, sign: str = "<", magic: int = 0xA1B2C3D4) -> bytes:
    parts = [struct.pack(sign + "IHHIIII", magic, 2, 4, 0, 0, 262144, link)]
    parts += [struct.pack(sign + "IIII", 1, n, len(one), len(one)) + one for n, one in enumerate(packets)]
    return b"".join(parts)


def block(sign: str, type: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    total = len(body) + 12
    return struct.pack(sign + "II", type, total) + body + struct.pack(sign + "I", total)


def pcapng(packets: list[bytes], link: int = 1, sign: str = "<") -> bytes:
    parts = [
        block(sign, 0x0A0D0D0A, struct.pack(sign + "IHHq", 0x1A2B3C4D, 1, 0, -1)),
        block(sign, 1, struct.pack(sign + "HHIHHB3xI", link, 0, 0, 9, 1, 9, 0)),
    ]
    parts += [block(sign, 6, struct.pack(sign + "5I", 0, 0, 9, len(one), len(one)) + one) for one in packets]
    parts.append(block(sign, 3, struct.pack(sign + "I", len(packets[0])) + packets[0]))
    return b"".join(parts)


STREAM = b"".join(frame for number, frame in enumerate(SESSION) if number not in (1, 3))
PIECES = [STREAM[at : at + 90] for at in range(0, len(STREAM), 90)]
CONNECTION = [
    tcp(b"", 0, 2),
    *(tcp(piece, 1 + 90 * number) for number, piece in enumerate(PIECES)),
    tcp(b"", 1 + len(STREAM), 0x11),
]
SHUFFLED = [CONNECTION[0], *CONNECTION[3:1:-1], CONNECTION[1], CONNECTION[2], *CONNECTION[4:]]
WHOLE = udp(SESSION[2])[20:]
FRAGMENTS = [
    ip(17, WHOLE[:64], 6, fragment=0x2000),
    ip(17, WHOLE[64:], 6, fragment=8),
]
HOP_BY_HOP = bytes([0, 0, 1, 4, 0, 0, 0, 0])
CAPTURES = [
    pcap([ethernet(udp(frame)) for frame in SESSION]),
    pcap([ethernet(packet) for packet in CONNECTION], sign=">", magic=0xA1B23C4D),
    pcap([ethernet(packet, 2) for packet in SHUFFLED]),
    pcap([udp(frame, six=True, more=HOP_BY_HOP) for frame in SESSION[:3]], link=101),
    pcap([tcp(STREAM, 1, six=True)], link=229),
    pcap(FRAGMENTS, link=228),
    pcap([bytes(14) + b"\x08\0" + udp(frame, more=b"\1\1\1\0") for frame in SESSION[:3]], link=113),
    pcap([b"\x08\0" + bytes(18) + udp(frame) for frame in SESSION[:3]], link=276),
    pcap([b"\2\0\0\0" + udp(frame) for frame in SESSION[:3]], link=0),
    pcapng([ethernet(udp(frame)) for frame in SESSION]),
    pcapng([ethernet(packet) for packet in SHUFFLED], sign=">"),
    pcapng([*SCHEMA.frames(), event(), event(80)], link=147),
]
