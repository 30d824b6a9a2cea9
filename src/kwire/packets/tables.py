"""Numbers of the network as tables: link types, ethertypes, protocols, and what can be in a decoder's way.

Invariants: names are those of IANA, tcpdump.org/linktypes and Wireshark; code, messages and tests are driven
from these tables; a trouble's name never changes, because results are counted by it.
"""

from enum import Enum, IntEnum
from typing import Final, NamedTuple

KWIRE_PORT: Final = 17800
MAX_PACKET: Final = 16 << 20  # bytes; a packet that claims more is damage


class LinkType(IntEnum):
    """LinkType types that are decoded (LINKTYPE_ of the pcap formats)."""

    NULL = 0
    ETHERNET = 1
    RAW_BSD = 12
    RAW_OPENBSD = 14
    RAW = 101
    LOOP = 108
    LINUX_SLL = 113
    USER0 = 147
    IPV4 = 228
    IPV6 = 229
    LINUX_SLL2 = 276


LINKS: Final[dict[int, str]] = {
    LinkType.NULL: "BSD loopback",
    LinkType.ETHERNET: "Ethernet",
    LinkType.RAW_BSD: "raw IP",
    LinkType.RAW_OPENBSD: "raw IP",
    LinkType.RAW: "raw IP",
    LinkType.LOOP: "OpenBSD loopback",
    LinkType.LINUX_SLL: "Linux cooked",
    LinkType.USER0: "frames as they are",
    LinkType.IPV4: "raw IPv4",
    LinkType.IPV6: "raw IPv6",
    LinkType.LINUX_SLL2: "Linux cooked v2",
}

#: LinkType types that are known but carry nothing that is decoded here.
OTHER_LINKS: Final[dict[int, str]] = {
    9: "PPP",
    105: "IEEE 802.11",
    119: "IEEE 802.11 with Prism header",
    127: "IEEE 802.11 with radiotap",
    187: "Bluetooth HCI H4",
    189: "USB, Linux",
    195: "IEEE 802.15.4",
    220: "USB, Linux, mmapped",
    227: "SocketCAN",
    239: "NFLOG",
    252: "Wireshark upper PDU",
    253: "netlink",
}


class EtherType(IntEnum):
    """Ethertypes that lead on."""

    IPV4 = 0x0800
    VLAN = 0x8100
    IPV6 = 0x86DD
    QINQ = 0x88A8
    QINQ_OLD = 0x9100


VLANS: Final = frozenset({EtherType.VLAN, EtherType.QINQ, EtherType.QINQ_OLD})
MAX_TAGS: Final = 8

ETHERTYPES: Final[dict[int, str]] = {
    EtherType.IPV4: "IPv4",
    0x0806: "ARP",
    0x0842: "Wake-on-LAN",
    0x22F3: "TRILL",
    0x6558: "Transparent Ethernet Bridging",
    0x8035: "RARP",
    0x809B: "AppleTalk",
    EtherType.VLAN: "IEEE 802.1Q",
    0x8137: "IPX",
    EtherType.IPV6: "IPv6",
    0x8808: "Ethernet flow control",
    0x8809: "slow protocols (LACP)",
    0x8847: "MPLS",
    0x8848: "MPLS multicast",
    0x8863: "PPPoE discovery",
    0x8864: "PPPoE session",
    0x888E: "EAPOL",
    0x88A2: "ATA over Ethernet",
    EtherType.QINQ: "IEEE 802.1ad",
    0x88CC: "LLDP",
    0x88E5: "MACsec",
    0x88F7: "PTP",
    0x8906: "FCoE",
    0x8914: "FCoE initialization",
    0x9000: "loopback test",
    EtherType.QINQ_OLD: "QinQ before 802.1ad",
}


class Protocol(IntEnum):
    """IP protocols that matter here."""

    HOP_BY_HOP = 0
    TCP = 6
    UDP = 17
    ROUTING = 43
    FRAGMENT = 44
    AH = 51
    NO_NEXT = 59
    DESTINATION = 60
    MOBILITY = 135
    HIP = 139
    SHIM6 = 140


#: IPv6 extension headers whose second byte is their length in units of 8 bytes, the first 8 not counted.
EXTENSIONS: Final = frozenset(
    {
        Protocol.HOP_BY_HOP,
        Protocol.ROUTING,
        Protocol.DESTINATION,
        Protocol.MOBILITY,
        Protocol.HIP,
        Protocol.SHIM6,
    }
)
MAX_EXTENSIONS: Final = 16

PROTOCOLS: Final[dict[int, str]] = {
    Protocol.HOP_BY_HOP: "hop-by-hop options",
    1: "ICMP",
    2: "IGMP",
    4: "IPv4 in IP",
    Protocol.TCP: "TCP",
    Protocol.UDP: "UDP",
    33: "DCCP",
    41: "IPv6 in IP",
    Protocol.ROUTING: "routing header",
    Protocol.FRAGMENT: "fragment header",
    46: "RSVP",
    47: "GRE",
    50: "ESP",
    Protocol.AH: "AH",
    58: "ICMPv6",
    Protocol.NO_NEXT: "no next header",
    Protocol.DESTINATION: "destination options",
    88: "EIGRP",
    89: "OSPF",
    103: "PIM",
    112: "VRRP",
    115: "L2TP",
    132: "SCTP",
    Protocol.MOBILITY: "mobility header",
    136: "UDP-Lite",
    Protocol.HIP: "HIP",
    Protocol.SHIM6: "shim6",
}

#: Address families that stand before a packet on BSD loopback links (and their values on other systems).
FAMILIES: Final[dict[int, int]] = {
    2: EtherType.IPV4,
    10: EtherType.IPV6,
    24: EtherType.IPV6,
    28: EtherType.IPV6,
    30: EtherType.IPV6,
}

#: Names of the packet types of Linux cooked headers (linux/if_packet.h).
PACKET_TYPES: Final[dict[int, str]] = {
    0: "to us",
    1: "broadcast",
    2: "multicast",
    3: "to somebody else",
    4: "sent by us",
}


class Trouble(Enum):
    """What is in the way of decoding a packet, or was wrong with one; the value says it to people."""

    PACKET_CUT = "the capture holds only the beginning of the packet"
    UNKNOWN_LINK = "the link type is not decoded"
    BAD_LINK_HEADER = "the link header is cut or impossible"
    BAD_IP_HEADER = "the IP header is cut or impossible"
    BAD_IP_CHECKSUM = "the IPv4 header checksum is wrong"
    BAD_UDP_HEADER = "the UDP header is cut or impossible"
    BAD_TCP_HEADER = "the TCP header is cut or impossible"
    BAD_UDP_CHECKSUM = "the UDP checksum is wrong"
    BAD_TCP_CHECKSUM = "the TCP checksum is wrong"
    BAD_FRAGMENT = "a fragment contradicts the others of its packet"
    FRAGMENTS_MISSING = "fragments of the packet are not in the capture"
    TCP_GAP = "TCP segments are not in the capture"
    TCP_CONFLICT = "a TCP segment repeats bytes with other contents; the first are kept"
    NOT_FRAMES = "bytes on a port of frames that are no frames"
    ENCRYPTED = "the stream is encrypted (TLS): without keys nothing in it can be decoded"
    DATA_MISSING = "DATA frames are not in the capture"
    TOO_MANY_FLOWS = "more flows at a time than are followed; the oldest was given up"
    TOO_DEEP = "more VLAN tags or extension headers than are looked behind"


class Remark(Enum):
    """What was tolerated; the value says it to people."""

    CHECKSUM_OFFLOAD = "the checksum is not yet computed: captured where the network card does that"
    CHECKSUM_NONE = "the UDP checksum is 0: none was sent"
    SEGMENT_OFFLOAD = "the IP length is 0: a large segment, captured before the card divides it"
    RETRANSMISSION = "TCP segments that repeat what was there"
    DATA_AGAIN = "DATA frames that were there before"
    REORDERED = "TCP segments or DATA frames out of order, put in order"


class Other(NamedTuple):
    """Traffic that carries no frames, as counted: a kind and its name."""

    kind: str
    name: str
