"""Packets for the tests, built by hand: Ethernet to TCP, pcap files, sessions; apart from the code tested."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import pytest

from kwire.wire.frame import Flag, Type, build
from kwire.wire.schema import Clock, Field, Schema

WALL = 1_700_000_000_123_456_789
MONOTONIC = 5_000_000_000
V4 = (bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]))
V6 = (bytes.fromhex("fd000000000000000000000000000001"), bytes.fromhex("fd000000000000000000000000000002"))
PORT = 17800


def sum16(data: bytes) -> int:
    """RFC 1071, the plain way."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


class Net:
    """Builds packets."""

    wall, monotonic, port, v4, v6 = WALL, MONOTONIC, PORT, V4, V6

    @staticmethod
    def schema(id: int = 1, probe: str = "tracepoint:net:tick") -> Schema:
        fields = (
            Field("pid", "u32", 16, 4),
            Field("size", "u32", 20, 4),
            Field("comm", "str", 24, 4, limit=16),
            Field("cpu", "u16", 28, 2),
        )
        kind, _, target = probe.partition(":")
        clock = Clock("monotonic", MONOTONIC, WALL)
        return Schema(id, probe, kind, target, fields, 30, "little", clock=clock, host="box", kernel="6.1.0")

    @staticmethod
    def event(number: int = 0, id: int = 1, comm: bytes = b"cat") -> bytes:
        body = struct.pack("<QIIHHH", MONOTONIC + number, 7, number, 30, len(comm), 3) + comm
        body += bytes(-len(body) % 8)
        return struct.pack(">BBHI", 0x11, 0, 8 + len(body), id) + body

    @staticmethod
    def data(sequence: int, *frames: bytes, flags: int = 0) -> bytes:
        return build(Type.DATA, sequence, b"".join(frames), flags)

    def session(self, count: int = 10, per: int = 3, flags: int = 0) -> list[bytes]:
        """DATA frames: the schema, then `count` of them with `per` events each."""
        out = [self.data(0, *self.schema().frames(), flags=flags)]
        for number in range(count):
            events = [self.event(number * per + index) for index in range(per)]
            out.append(self.data(number + 1, *events, flags=flags))
        return out

    def expected(self, count: int = 10, per: int = 3) -> list[bytes]:
        return [self.event(number) for number in range(count * per)]

    # --- transport

    @staticmethod
    def pseudo(ends: tuple[bytes, bytes], protocol: int, size: int) -> bytes:
        return ends[0] + ends[1] + struct.pack(">II", size, protocol)

    def udp(
        self,
        payload: bytes,
        ends: tuple[bytes, bytes] = V4,
        ports: tuple[int, int] = (40000, PORT),
        checksum: int | None = None,
    ) -> bytes:
        head = struct.pack(">HHHH", *ports, 8 + len(payload), 0)
        if checksum is None:
            checksum = sum16(self.pseudo(ends, 17, 8 + len(payload)) + head + payload) or 0xFFFF
        return head[:6] + struct.pack(">H", checksum) + payload

    def tcp(
        self,
        payload: bytes,
        sequence: int,
        flags: int = 0x18,
        ends: tuple[bytes, bytes] = V4,
        ports: tuple[int, int] = (40000, PORT),
        options: bytes = b"",
        checksum: int | None = None,
    ) -> bytes:
        offset = 5 + len(options) // 4
        head = (
            struct.pack(">HHIIBBHHH", *ports, sequence % (1 << 32), 0, offset << 4, flags, 65535, 0, 0)
            + options
        )
        if checksum is None:
            checksum = sum16(self.pseudo(ends, 6, len(head) + len(payload)) + head + payload)
        return head[:16] + struct.pack(">H", checksum) + head[18:] + payload

    # --- IP

    @staticmethod
    def ipv4(
        payload: bytes,
        protocol: int = 17,
        ends: tuple[bytes, bytes] = V4,
        options: bytes = b"",
        fragment: int = 0,
        id: int = 1,
        total: int | None = None,
    ) -> bytes:
        size = 20 + len(options)
        total = size + len(payload) if total is None else total
        head = (
            struct.pack(">BBHHHBBH", 0x40 | size // 4, 0, total, id, fragment, 64, protocol, 0)
            + ends[0]
            + ends[1]
        )
        head += options
        return head[:10] + struct.pack(">H", sum16(head)) + head[12:] + payload

    @staticmethod
    def ipv6(
        payload: bytes,
        protocol: int = 17,
        ends: tuple[bytes, bytes] = V6,
        extensions: Sequence[tuple[int, bytes]] = (),
    ) -> bytes:
        """`extensions`: (protocol number, bytes after the next-header byte)."""
        kinds = [kind for kind, _ in extensions] + [protocol]
        middle = b"".join(bytes([kinds[i + 1]]) + body for i, (_, body) in enumerate(extensions))
        head = struct.pack(">IHBB", 0x60000000, len(middle) + len(payload), kinds[0], 64)
        return head + ends[0] + ends[1] + middle + payload

    def ip_fragments(
        self, payload: bytes, size: int, id: int = 7, version: int = 4, protocol: int = 17
    ) -> list[bytes]:
        """A payload in IP fragments of `size` bytes, a multiple of 8."""
        out = []
        for at in range(0, len(payload), size):
            more, part = at + size < len(payload), payload[at : at + size]
            if version == 4:
                out.append(self.ipv4(part, protocol, fragment=at // 8 | (0x2000 if more else 0), id=id))
            else:
                out.append(
                    self.ipv6(part, protocol, extensions=[(44, struct.pack(">BHI", 0, at | more, id))])
                )
        return out

    # --- links

    @staticmethod
    def ethernet(packet: bytes, tags: Sequence[tuple[int, int]] = (), kind: int | None = None) -> bytes:
        """`tags`: (ethertype, tag) from the outside."""
        kind = kind if kind is not None else (0x86DD if packet[0] >> 4 == 6 else 0x0800)
        types = [type for type, _ in tags] + [kind]
        out = bytes(range(12)) + struct.pack(">H", types[0])
        for index, (_, tag) in enumerate(tags):
            out += struct.pack(">HH", tag, types[index + 1])
        return out + packet

    def link(self, link: int, packet: bytes) -> bytes:
        """A packet behind the header of a link type."""
        six = packet[0] >> 4 == 6
        kind = 0x86DD if six else 0x0800
        match link:
            case 0:
                return struct.pack("<I", 30 if six else 2) + packet
            case 108:
                return struct.pack(">I", 24 if six else 2) + packet
            case 1:
                return self.ethernet(packet)
            case 113:
                return struct.pack(">HHH8sH", 4, 772, 6, bytes(8), kind) + packet
            case 276:
                return struct.pack(">HHIHBB8s", kind, 0, 1, 772, 4, 6, bytes(8)) + packet
            case _:
                return packet

    # --- files

    @staticmethod
    def pcap(
        packets: Iterable[bytes | tuple[bytes, int]],
        link: int = 1,
        order: Literal["<", ">"] = "<",
        nanoseconds: bool = False,
        step: int = 1_000_000,
    ) -> bytes:
        """A pcap file; a packet may come with its length on the network. `step`: ns between packets."""
        magic, rate = (0xA1B23C4D, 1) if nanoseconds else (0xA1B2C3D4, 1000)
        out = [struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 262144, link)]
        for number, packet in enumerate(packets):
            data, original = packet if isinstance(packet, tuple) else (packet, len(packet))
            time = WALL + number * step
            seconds, rest = divmod(time, 1_000_000_000)
            out.append(struct.pack(order + "IIII", seconds, rest // rate, len(data), original) + data)
        return b"".join(out)

    @staticmethod
    def pcapng(
        packets: Iterable[bytes],
        link: int = 1,
        order: Literal["<", ">"] = "<",
        resolution: int = 9,
        options: Sequence[tuple[int, bytes]] = (),
    ) -> bytes:
        def block(kind: int, body: bytes) -> bytes:
            body += bytes(-len(body) % 4)
            size = struct.pack(order + "I", len(body) + 12)
            return struct.pack(order + "I", kind) + size + body + size

        head = b"".join(
            struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)
            for code, value in [(9, bytes([resolution])), *options]
        )
        out = [block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))]
        out.append(block(1, struct.pack(order + "HHI", link, 0, 0) + head + bytes(4)))
        rate = 2 ** (resolution & 0x7F) if resolution & 0x80 else 10**resolution
        for packet in packets:
            time = WALL * rate // 1_000_000_000
            words = (0, time >> 32 & 0xFFFFFFFF, time & 0xFFFFFFFF, len(packet), len(packet))
            out.append(block(6, struct.pack(order + "5I", *words) + packet))
        return b"".join(out)


def events(capture: Any) -> list[bytes]:
    """Every frame of a capture, copied."""
    return [bytes(frames.frame_bytes(index)) for frames in capture for index in range(len(frames))]


@pytest.fixture(scope="session")
def net() -> Net:
    return Net()


@pytest.fixture(scope="session")
def read() -> Any:
    """`read(bytes, **options)` → (frames, the capture, read to its end)."""
    import io

    from kwire.packets.open import open_capture

    def reading(data: bytes, **options: Any) -> tuple[list[bytes], Any]:
        capture = open_capture(io.BytesIO(data), **options)
        return events(capture), capture

    return reading


CHECKSUM = Flag.CHECKSUM
