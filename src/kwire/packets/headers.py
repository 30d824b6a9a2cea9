"""The fields of every header as tables, and headers explained to a person by them.

Invariants: every byte of a header is accounted for; a table is all there is to know of a header, so that a
new one is a new table. Numbers are big-endian; offsets count from the first byte of the header.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from kwire.packets.dissect import Finding, Layer
from kwire.packets.tables import ETHERTYPES, FAMILIES, PACKET_TYPES, PROTOCOLS, EtherType, Trouble
from kwire.wire.explain import Row
from kwire.words import plural

Shown = tuple[str, str]  # the value, and what it means


class HeaderField(NamedTuple):
    """A field of a header; `show` gives its value and meaning. `size` 0: all that is left."""

    name: str
    at: int
    size: int
    show: Callable[[bytes], Shown]


class Verdict(NamedTuple):
    """A row with a judgement: `ok`, or the name of what is wrong or was tolerated."""

    row: Row
    verdict: str
    detail: str = ""


def _number(meaning: str) -> Callable[[bytes], Shown]:
    return lambda data: (str(int.from_bytes(data, "big")), meaning)


def _hex(meaning: str) -> Callable[[bytes], Shown]:
    return lambda data: (f"0x{data.hex()}", meaning)


def _name(names: dict[int, str]) -> Callable[[bytes], Shown]:
    def show(data: bytes) -> Shown:
        value = int.from_bytes(data, "big")
        return f"{value:#06x}" if len(data) == 2 else str(value), names.get(value, "not known here")

    return show


def _bytes(meaning: str) -> Callable[[bytes], Shown]:
    return lambda data: (plural(len(data), "byte"), meaning)


def _mac(meaning: str) -> Callable[[bytes], Shown]:
    return lambda data: (data.hex(":"), meaning)


def _address(meaning: str) -> Callable[[bytes], Shown]:
    def show(data: bytes) -> Shown:
        import socket

        return socket.inet_ntop(socket.AF_INET if len(data) == 4 else socket.AF_INET6, data), meaning

    return show


def _tag(data: bytes) -> Shown:
    value = int.from_bytes(data, "big")
    return f"VLAN {value & 0xFFF}", f"priority {value >> 13}, drop eligible {value >> 12 & 1}"


def _family(data: bytes) -> Shown:
    for order in ("big", "little"):
        value = int.from_bytes(data, order)
        if value in FAMILIES:
            return str(value), f"{EtherType(FAMILIES[value]).name}, {order}-endian"
    return data.hex(), "a family not known here"


def _versions(data: bytes) -> Shown:
    return f"{data[0] >> 4}, {(data[0] & 15) * 4}", "version, bytes of header"


def _service(data: bytes) -> Shown:
    return f"{data[0]:#04x}", f"DSCP {data[0] >> 2}, ECN {data[0] & 3}"


def _fragment(data: bytes) -> Shown:
    value = int.from_bytes(data, "big")
    names = [
        name
        for bit, name in ((0x8000, "reserved"), (0x4000, "don't fragment"), (0x2000, "more"))
        if value & bit
    ]
    return f"{value:#06x}", f"{', '.join(names) or 'no flags'}; offset {(value & 0x1FFF) * 8}"


def _fragment6(data: bytes) -> Shown:
    value = int.from_bytes(data, "big")
    return f"{value:#06x}", f"offset {value & 0xFFF8}{', more follow' if value & 1 else ''}"


def _flow(data: bytes) -> Shown:
    value = int.from_bytes(data, "big")
    return (
        f"{value >> 28}, {value & 0xFFFFF:#07x}",
        f"version, flow label; traffic class {value >> 20 & 255:#04x}",
    )


_FLAGS: Final = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR")


def _flags(data: bytes) -> Shown:
    names = [name for bit, name in enumerate(_FLAGS) if data[0] >> bit & 1]
    return f"{data[0]:#04x}", " ".join(names) or "none"


def _tcp_size(data: bytes) -> Shown:
    return str((data[0] >> 4) * 4), "bytes of header"


_ETHERTYPE = _name(ETHERTYPES)
_PROTOCOL = _name(PROTOCOLS)

TITLES: Final[dict[str, str]] = {
    "ethernet": "Ethernet",
    "vlan": "VLAN tag",
    "snap": "LLC and SNAP",
    "sll": "Linux cooked",
    "sll2": "Linux cooked v2",
    "null": "BSD loopback",
    "loop": "OpenBSD loopback",
    "ipv4": "IPv4",
    "ipv6": "IPv6",
    "extension": "IPv6 extension header",
    "ah": "Authentication header",
    "fragment": "IPv6 fragment header",
    "udp": "UDP",
    "tcp": "TCP",
}

HEADERS: Final[dict[str, tuple[HeaderField, ...]]] = {
    "ethernet": (
        HeaderField("destination", 0, 6, _mac("to")),
        HeaderField("source", 6, 6, _mac("from")),
        HeaderField("type", 12, 2, _ETHERTYPE),
    ),
    "vlan": (HeaderField("tag", 0, 2, _tag), HeaderField("type", 2, 2, _ETHERTYPE)),
    "snap": (
        HeaderField("llc", 0, 3, _hex("SNAP follows")),
        HeaderField("oui", 3, 3, _hex("Ethernet")),
        HeaderField("type", 6, 2, _ETHERTYPE),
    ),
    "sll": (
        HeaderField("packet type", 0, 2, _name(PACKET_TYPES)),
        HeaderField("hardware", 2, 2, _number("ARPHRD_ type of the device")),
        HeaderField("length", 4, 2, _number("bytes of the address")),
        HeaderField("address", 6, 8, _hex("of the sender")),
        HeaderField("type", 14, 2, _ETHERTYPE),
    ),
    "sll2": (
        HeaderField("type", 0, 2, _ETHERTYPE),
        HeaderField("reserved", 2, 2, _hex("zero")),
        HeaderField("interface", 4, 4, _number("index")),
        HeaderField("hardware", 8, 2, _number("ARPHRD_ type of the device")),
        HeaderField("packet type", 10, 1, _name(PACKET_TYPES)),
        HeaderField("length", 11, 1, _number("bytes of the address")),
        HeaderField("address", 12, 8, _hex("of the sender")),
    ),
    "null": (HeaderField("family", 0, 4, _family),),
    "loop": (HeaderField("family", 0, 4, _family),),
    "ipv4": (
        HeaderField("version", 0, 1, _versions),
        HeaderField("service", 1, 1, _service),
        HeaderField("total", 2, 2, _number("bytes of the packet")),
        HeaderField("id", 4, 2, _hex("the same in all fragments")),
        HeaderField("fragment", 6, 2, _fragment),
        HeaderField("ttl", 8, 1, _number("hops left")),
        HeaderField("protocol", 9, 1, _PROTOCOL),
        HeaderField("checksum", 10, 2, _hex("of the header")),
        HeaderField("source", 12, 4, _address("from")),
        HeaderField("destination", 16, 4, _address("to")),
        HeaderField("options", 20, 0, _bytes("IP options")),
    ),
    "ipv6": (
        HeaderField("version", 0, 4, _flow),
        HeaderField("payload", 4, 2, _number("bytes after the header")),
        HeaderField("next", 6, 1, _PROTOCOL),
        HeaderField("hop limit", 7, 1, _number("hops left")),
        HeaderField("source", 8, 16, _address("from")),
        HeaderField("destination", 24, 16, _address("to")),
    ),
    "extension": (
        HeaderField("next", 0, 1, _PROTOCOL),
        HeaderField("length", 1, 1, _number("units of 8 bytes beyond the first")),
        HeaderField("options", 2, 0, _bytes("of this header")),
    ),
    "ah": (
        HeaderField("next", 0, 1, _PROTOCOL),
        HeaderField("length", 1, 1, _number("units of 4 bytes, less 2")),
        HeaderField("reserved", 2, 2, _hex("zero")),
        HeaderField("spi", 4, 4, _hex("security parameters index")),
        HeaderField("contents", 8, 0, _bytes("sequence number and check value")),
    ),
    "fragment": (
        HeaderField("next", 0, 1, _PROTOCOL),
        HeaderField("reserved", 1, 1, _hex("zero")),
        HeaderField("offset", 2, 2, _fragment6),
        HeaderField("id", 4, 4, _hex("the same in all fragments")),
    ),
    "udp": (
        HeaderField("source port", 0, 2, _number("from")),
        HeaderField("target port", 2, 2, _number("to")),
        HeaderField("length", 4, 2, _number("bytes, header included")),
        HeaderField("checksum", 6, 2, _hex("of pseudo header and datagram")),
    ),
    "tcp": (
        HeaderField("source port", 0, 2, _number("from")),
        HeaderField("target port", 2, 2, _number("to")),
        HeaderField("sequence", 4, 4, _number("of the first byte")),
        HeaderField("acknowledged", 8, 4, _number("next byte expected")),
        HeaderField("header", 12, 1, _tcp_size),
        HeaderField("flags", 13, 1, _flags),
        HeaderField("window", 14, 2, _number("unscaled")),
        HeaderField("checksum", 16, 2, _hex("of pseudo header and segment")),
        HeaderField("urgent", 18, 2, _number("pointer")),
        HeaderField("options", 20, 0, _bytes("TCP options")),
    ),
}


def explain(layer: Layer, found: list[Finding]) -> list[Verdict]:
    """The rows of a header, each with its verdict; `found` is what the dissector says of the packet."""
    rows = []
    for part in HEADERS[layer.kind]:
        start = layer.start + part.at
        end = start + part.size if part.size else layer.end
        if end <= start:
            continue
        data = bytes(layer.data[start:end])
        value, meaning = part.show(data)
        said = next((one for one in found if start <= one.offset < end), None)
        verdict = "ok" if said is None else said.what.name
        rows.append(Verdict(Row(start, data, part.name, value, meaning), verdict, _detail(said)))
    return rows


def _detail(said: Finding | None) -> str:
    if said is None:
        return ""
    mark = "WRONG: " if isinstance(said.what, Trouble) else ""
    return f"{mark}{said.what.value}" + (f", {said.detail}" if said.detail else "")
