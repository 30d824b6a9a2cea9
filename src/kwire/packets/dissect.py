"""One packet taken apart, from its link header to the UDP datagram or TCP segment in it.

Invariants: every length is checked against the bytes there are before anything is read by it; what is wrong
is named by its place; what offloading network cards leave undone in a capture is tolerated and said. Nothing
is kept between packets but fragments. Offsets count from the packet's first byte, or from that of a packet
put together from fragments.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

from kwire.packets.fragments import Fragments
from kwire.packets.tables import (
    ETHERTYPES,
    EXTENSIONS,
    FAMILIES,
    LINKS,
    MAX_EXTENSIONS,
    MAX_TAGS,
    OTHER_LINKS,
    PROTOCOLS,
    VLANS,
    EtherType,
    LinkType,
    Protocol,
    Remark,
    Trouble,
)
from kwire.wire.frame import checksum
from kwire.words import plural

MORE_FRAGMENTS: Final = 0x2000
"""More fragments follow this one of an IPv4 packet (RFC 791, 3.1)."""

FRAGMENT_OFFSET: Final = 0x1FFF
"""Where it lies in the packet, in units of 8 bytes."""

MORE_FRAGMENTS_6: Final = 0x0001
"""The same of an IPv6 packet (RFC 8200, 4.5)."""

FRAGMENT_OFFSET_6: Final = 0xFFF8
"""Where it lies, in bytes: the units of 8 bytes stand above three other bits."""


class Segment(NamedTuple):
    """A datagram, or a segment of a stream, between two endpoints. `sequence`, `flags`: TCP's."""

    protocol: int
    source: bytes
    source_port: int
    target: bytes
    target_port: int
    payload: memoryview
    sequence: int = 0
    flags: int = 0
    cut: int = 0  # bytes of the payload that the capture does not hold


class Layer(NamedTuple):
    """A header in a packet: its kind (a key of `headers.HEADERS`) and its place in `data`."""

    kind: str
    start: int
    end: int
    data: memoryview


class Finding(NamedTuple):
    """Something wrong, or tolerated, at an offset of the packet; `apart`: other fragments show it as well."""

    what: Trouble | Remark
    offset: int
    detail: str
    apart: bool = False

    def __str__(self) -> str:
        text = f"{self.what.name} at offset {self.offset}: {self.what.value}"
        return f"{text} ({self.detail})" if self.detail else text


class Packet:
    """What was found in one packet. `other`: what it is, where it leads to no segment that is wanted."""

    __slots__ = ("found", "layers", "other", "segment")

    def __init__(self) -> None:
        self.layers: list[Layer] | None = None
        self.found: list[Finding] = []
        self.segment: Segment | None = None
        self.other = ""


class _StopError(Exception):
    """Nothing more can be read of this packet."""


class Dissector:
    """Takes packets apart; `wanted(protocol, source port, target port)` says which segments are looked at."""

    __slots__ = ("_apart", "_captured", "_fragments", "_packet", "_short", "_wanted")

    def __init__(self, wanted: Callable[[int, int, int], bool]) -> None:
        self._wanted = wanted
        self._fragments = Fragments()
        self._packet = Packet()
        self._captured = 0  # bytes of the packet
        self._short = 0  # and those that were not captured
        self._apart = False  # what is looked at are fragments together

    @property
    def fragments_missing(self) -> int:
        """IP packets that were never whole, as far as is known; call it at the end."""
        return self._fragments.finish()

    def dissect(self, data: memoryview, original: int, link: int, *, explain: bool = False) -> Packet:
        """Take the captured bytes of one packet apart; `explain`: tell all its layers, wanted or not."""
        packet = self._packet = Packet()
        self._captured, self._short = len(data), max(original - len(data), 0)
        self._apart = False
        if explain:
            packet.layers = []
        with suppress(_StopError):
            self._link(data, link)
        return packet

    # --- what can be said

    def _layer(self, kind: str, data: memoryview, start: int, end: int) -> None:
        if self._packet.layers is not None:
            self._packet.layers.append(Layer(kind, start, end, data))

    def _say(self, what: Trouble | Remark, offset: int, detail: str = "") -> None:
        self._packet.found.append(Finding(what, offset, detail, self._apart))

    def _stop(self, what: Trouble, offset: int, detail: str = "") -> _StopError:
        """Say why nothing more can be read; a packet that is cut as well is said to be both."""
        self._say(what, offset, detail)
        if self._short and what is not Trouble.PACKET_CUT and what is not Trouble.UNKNOWN_LINK:
            self._say(Trouble.PACKET_CUT, self._captured, f"{plural(self._short, 'byte')} are missing")
        return _StopError()

    def _leave(self, name: str) -> _StopError:
        self._packet.other = name
        return _StopError()

    # --- link layers

    def _link(self, data: memoryview, link: int) -> None:
        if link == LinkType.ETHERNET:
            self._need(data, 0, 14, Trouble.BAD_LINK_HEADER)
            self._layer("ethernet", data, 0, 14)
            self._ethertype(data, 14, _u16(data, 12))
        elif link == LinkType.LINUX_SLL:
            self._need(data, 0, 16, Trouble.BAD_LINK_HEADER)
            self._layer("sll", data, 0, 16)
            self._ethertype(data, 16, _u16(data, 14))
        elif link == LinkType.LINUX_SLL2:
            self._need(data, 0, 20, Trouble.BAD_LINK_HEADER)
            self._layer("sll2", data, 0, 20)
            self._ethertype(data, 20, _u16(data, 0))
        elif link in (LinkType.NULL, LinkType.LOOP):
            self._need(data, 0, 4, Trouble.BAD_LINK_HEADER)
            self._layer("null" if link == LinkType.NULL else "loop", data, 0, 4)
            family = int.from_bytes(data[:4], "big")
            if (
                link == LinkType.NULL and family not in FAMILIES
            ):  # in the byte order of the machine that captured
                family = int.from_bytes(data[:4], "little")
            if family not in FAMILIES:
                raise self._leave(f"address family {family}")
            self._ethertype(data, 4, FAMILIES[family])
        elif link in (LinkType.RAW, LinkType.RAW_BSD, LinkType.RAW_OPENBSD, LinkType.IPV4, LinkType.IPV6):
            self._need(data, 0, 1, Trouble.BAD_IP_HEADER)
            self._ethertype(data, 0, EtherType.IPV6 if data[0] >> 4 == 6 else EtherType.IPV4)
        else:
            name = LINKS.get(link) or OTHER_LINKS.get(link, "")
            raise self._stop(Trouble.UNKNOWN_LINK, 0, f"{link} {name}".rstrip())

    def _ethertype(self, data: memoryview, at: int, kind: int) -> None:
        for _ in range(MAX_TAGS):
            if kind not in VLANS:
                break
            self._need(data, at, 4, Trouble.BAD_LINK_HEADER)
            self._layer("vlan", data, at, at + 4)
            kind = _u16(data, at + 2)
            at += 4
        if kind in VLANS:
            raise self._stop(Trouble.TOO_DEEP, at, f"over {MAX_TAGS} tags")
        if kind <= 1500 and len(data) - at >= 8 and bytes(data[at : at + 6]) == b"\xaa\xaa\x03\0\0\0":
            self._layer("snap", data, at, at + 8)
            kind = _u16(data, at + 6)
            at += 8
        if kind == EtherType.IPV4:
            self._ipv4(data, at)
        elif kind == EtherType.IPV6:
            self._ipv6(data, at)
        else:
            raise self._leave(
                ETHERTYPES.get(kind) or ("IEEE 802.3" if kind <= 1500 else f"ethertype {kind:#06x}")
            )

    # --- IP

    def _ipv4(self, data: memoryview, at: int) -> None:
        self._need(data, at, 20, Trouble.BAD_IP_HEADER)
        size = (data[at] & 15) * 4
        if data[at] >> 4 != 4 or size < 20:
            raise self._stop(
                Trouble.BAD_IP_HEADER, at, f"version {data[at] >> 4}, {plural(size, 'byte')} of header"
            )
        self._need(data, at, size, Trouble.BAD_IP_HEADER)
        start, total = at + size, _u16(data, at + 2)
        self._layer("ipv4", data, at, start)
        end = self._end(data, at, total, size, Trouble.BAD_IP_HEADER, at + 2)
        if checksum(data[at:start]):
            if _u16(data, at + 10):
                raise self._stop(Trouble.BAD_IP_CHECKSUM, at + 10, f"found {_u16(data, at + 10):04x}")
            self._say(Remark.CHECKSUM_OFFLOAD, at + 10, "IPv4")
        source, target, protocol = (
            bytes(data[at + 12 : at + 16]),
            bytes(data[at + 16 : at + 20]),
            data[at + 9],
        )
        fragment = _u16(data, at + 6)
        if fragment & (MORE_FRAGMENTS | FRAGMENT_OFFSET):
            key = (source, target, protocol, _u16(data, at + 4))
            place, more = (fragment & FRAGMENT_OFFSET) * 8, bool(fragment & MORE_FRAGMENTS)
            data, start, end = self._fragment(data, start, end, key, place, more)
        self._transport(data, start, end, protocol, source, target, target)

    def _ipv6(self, data: memoryview, at: int) -> None:
        self._need(data, at, 40, Trouble.BAD_IP_HEADER)
        if data[at] >> 4 != 6:
            raise self._stop(Trouble.BAD_IP_HEADER, at, f"version {data[at] >> 4}")
        self._layer("ipv6", data, at, at + 40)
        size = _u16(data, at + 4)
        end = self._end(data, at, size + 40 if size else 0, 40, Trouble.BAD_IP_HEADER, at + 4)
        source, target = bytes(data[at + 8 : at + 24]), bytes(data[at + 24 : at + 40])
        final, protocol, start = target, data[at + 6], at + 40
        for _ in range(MAX_EXTENSIONS):
            if protocol in EXTENSIONS or protocol == Protocol.AH:
                self._need(data, start, 8, Trouble.BAD_IP_HEADER, end)
                unit, more = (4, 2) if protocol == Protocol.AH else (8, 1)
                size = (data[start + 1] + more) * unit
                self._need(data, start, size, Trouble.BAD_IP_HEADER, end)
                self._layer("ah" if protocol == Protocol.AH else "extension", data, start, start + size)
                if protocol == Protocol.ROUTING and data[start + 3] and size >= 24:
                    final = _last_hop(data[start : start + size]) or final
                protocol, start = data[start], start + size
            elif protocol == Protocol.FRAGMENT:
                self._need(data, start, 8, Trouble.BAD_IP_HEADER, end)
                self._layer("fragment", data, start, start + 8)
                word, key = _u16(data, start + 2), (source, target, bytes(data[start + 4 : start + 8]))
                protocol, start = data[start], start + 8
                if word & (FRAGMENT_OFFSET_6 | MORE_FRAGMENTS_6):
                    place, more = word & FRAGMENT_OFFSET_6, bool(word & MORE_FRAGMENTS_6)
                    data, start, end = self._fragment(data, start, end, key, place, more)
            else:
                break
        else:
            raise self._stop(Trouble.TOO_DEEP, start, f"{MAX_EXTENSIONS} headers")
        self._transport(data, start, end, protocol, source, target, final)

    def _end(self, data: memoryview, at: int, total: int, least: int, bad: Trouble, place: int) -> int:
        """Where a packet that says `total` bytes ends in what was captured; `_short` is what is missing."""
        there = len(data) - at
        if not total:
            self._say(Remark.SEGMENT_OFFLOAD, place)
            return len(data)
        if total < least or total > there + self._short:
            raise self._stop(bad, place, f"{plural(total, 'byte')}, where {there + self._short} are")
        self._short = max(total - there, 0)
        return min(at + total, len(data))

    def _fragment(
        self, data: memoryview, start: int, end: int, key: tuple[object, ...], place: int, more: bool
    ) -> tuple[memoryview, int, int]:
        if self._short:
            raise self._stop(Trouble.PACKET_CUT, end)
        whole, sound = self._fragments.add(key, place, more, bytes(data[start:end]))
        self._apart = True
        if not sound:
            raise self._stop(Trouble.BAD_FRAGMENT, start)
        if whole is None:
            raise self._leave("IP fragment")
        return memoryview(whole), 0, len(whole)

    # --- transport

    def _transport(
        self, data: memoryview, at: int, end: int, protocol: int, source: bytes, target: bytes, final: bytes
    ) -> None:
        if protocol not in (Protocol.UDP, Protocol.TCP):
            raise self._leave(PROTOCOLS.get(protocol, f"IP protocol {protocol}"))
        udp = protocol == Protocol.UDP
        bad = Trouble.BAD_UDP_HEADER if udp else Trouble.BAD_TCP_HEADER
        self._need(data, at, 8 if udp else 20, bad, end)
        ports = _u16(data, at), _u16(data, at + 2)
        wanted = self._wanted(protocol, *ports)
        if not wanted:
            self._packet.other = "UDP" if udp else "TCP"
            if self._packet.layers is None:
                return
        size = 8
        if udp:
            length = _u16(data, at + 4)
            self._layer("udp", data, at, at + 8)
            if length and (length < 8 or length > end - at + self._short):
                raise self._stop(bad, at + 4, f"{plural(length, 'byte')}, where {end - at} are")
            self._short = min(self._short, max(length - (end - at), 0)) if length else self._short
            end = min(at + length, end) if length else end
        else:
            size = (data[at + 12] >> 4) * 4
            if size < 20:
                raise self._stop(bad, at + 12, f"{plural(size, 'byte')} of header")
            self._need(data, at, size, bad, end)
            self._layer("tcp", data, at, at + size)
        if not self._short:
            field = at + (6 if udp else 16)
            if not self._sound(data[at:end], at, protocol, source, final):
                wrong = Trouble.BAD_UDP_CHECKSUM if udp else Trouble.BAD_TCP_CHECKSUM
                raise self._stop(wrong, field, f"found {_u16(data, field):04x}")
        if not wanted:
            return
        payload = data[at + size : end]
        sequence, flags = (0, 0) if udp else (int.from_bytes(data[at + 4 : at + 8], "big"), data[at + 13])
        self._packet.segment = Segment(
            protocol, source, ports[0], target, ports[1], payload, sequence, flags, self._short
        )
        if self._short:
            self._say(Trouble.PACKET_CUT, end, f"{plural(self._short, 'byte')} of its payload are missing")

    def _sound(self, data: memoryview, at: int, protocol: int, source: bytes, target: bytes) -> bool:
        """Whether the checksum of a UDP or TCP segment, that lies `at`, is right, or left to the card."""
        field = 6 if protocol == Protocol.UDP else 16
        found = _u16(data, field)
        field += at
        if protocol == Protocol.UDP and not found:
            self._say(Remark.CHECKSUM_NONE, field)
            return True
        pseudo = source + target + len(data).to_bytes(4, "big") + protocol.to_bytes(4, "big")
        if checksum(pseudo + bytes(data)) == 0:
            return True
        without = source + target + protocol.to_bytes(4, "big")
        if found == 0 or found in (checksum(pseudo) ^ 0xFFFF, checksum(without) ^ 0xFFFF):
            self._say(Remark.CHECKSUM_OFFLOAD, field, Protocol(protocol).name)
            return True
        return False

    def _need(self, data: memoryview, at: int, size: int, bad: Trouble, end: int | None = None) -> None:
        """Stop where fewer than `size` bytes are there from `at` on."""
        there = (len(data) if end is None else end) - at
        if there < size:
            raise self._stop(
                Trouble.PACKET_CUT if self._short else bad, at, f"{max(there, 0)} of {plural(size, 'byte')}"
            )


def _u16(data: memoryview, at: int) -> int:
    return data[at] << 8 | data[at + 1]


def _last_hop(header: memoryview) -> bytes:
    """The address that the checksum counts while a routing header has segments to go (RFC 8200, 8754)."""
    if header[2] == 4:
        return bytes(header[8:24])
    return bytes(header[-16:]) if header[2] == 0 and len(header) % 16 == 8 else b""
