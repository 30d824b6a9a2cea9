"""A ring of packets shared with the kernel: AF_PACKET, TPACKET_V3 (packet(7), linux/if_packet.h).

Invariants: packets come in blocks that the kernel hands over and gets back, and are never copied one by one
by a system call; only the interfaces named are listened to; what the ring had no room for is counted. Opening
needs CAP_NET_RAW, reading does not. A VLAN tag that the kernel took off a packet is put back.
"""

import ctypes
import errno as errnos
import mmap
import select
import socket
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from kwire.kernel.sys import failure
from kwire.kernel.syscall import KernelError

SOL_PACKET: Final = 263
PACKET_ADD_MEMBERSHIP, PACKET_RX_RING, PACKET_STATISTICS, PACKET_VERSION = 1, 5, 6, 10
PACKET_MR_PROMISC: Final = 1
TPACKET_V3: Final = 2
ETH_P_ALL: Final = 3
TP_STATUS_KERNEL, TP_STATUS_USER = 0, 1
VLAN_VALID, VLAN_TPID_VALID = 0x10, 0x40
BLOCK: Final = 1 << 20  # bytes
BLOCKS: Final = 32
FRAME: Final = 1 << 11
RETIRE_MS: Final = 20  # a block that is not full is handed over after so long

# struct tpacket_block_desc after version and offset: status, packets, first offset, length, sequence …
_DESC = struct.Struct("=II III")
_STATUS_AT: Final = 8
# struct tpacket3_hdr: next, seconds, nanoseconds, captured, original, status, mac, net; then rxhash, VLAN
_HEAD = struct.Struct("=IIIIIIHH IIHH")
_PACKET_TYPE_AT: Final = 48 + 10  # sll_pkttype of the struct sockaddr_ll after the header
_OUTGOING: Final = 4
_LOOPBACK: Final = 772

#: ARPHRD_ type of an interface → link type of its packets (if_arp.h; tcpdump.org/linktypes).
LINK_TYPES: Final = {1: 1, _LOOPBACK: 1, 519: 101, 65534: 101, 768: 101, 769: 101, 776: 101, 778: 101}


class RingPacket(NamedTuple):
    """One packet: `time` in ns since 1970, its bytes, its length on the network."""

    time: int
    data: bytes
    original: int


class Drops(NamedTuple):
    """What the kernel counted: packets given to the ring, and those it had no room for."""

    packets: int
    drops: int


def _hardware(interface: str) -> int:
    """The ARPHRD_ type of an interface."""
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        answer = fcntl.ioctl(asking, 0x8927, struct.pack("16s16x", interface.encode()[:15]))  # SIOCGIFHWADDR
    return int(struct.unpack_from("=H", answer, 16)[0])


class PacketRing:
    """The packets of one interface, from now on; a context manager. Raises KernelError.

    `promiscuous`: packets for others too.
    """

    __slots__ = ("_at", "_loopback", "_map", "_poll", "_socket", "interface", "link")

    def __init__(self, interface: str, *, promiscuous: bool = False, blocks: int = BLOCKS) -> None:
        self.interface = interface
        try:
            index = socket.if_nametoindex(interface)
        except OSError:
            names = ", ".join(name for _, name in socket.if_nameindex())
            cure = f"there are: {names}"
            raise KernelError(
                "listen on", interface, "there is no such interface", cure, errnos.ENODEV
            ) from None
        hardware = _hardware(interface)
        if hardware not in LINK_TYPES:
            raise KernelError("listen on", interface, f"interfaces of type {hardware} are not supported")
        self.link = LINK_TYPES[hardware]
        self._loopback = hardware == _LOOPBACK
        try:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        except OSError as error:
            raise _failure(interface, error) from None
        try:
            self._socket.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V3)
            request = struct.pack("=7I", BLOCK, blocks, FRAME, BLOCK // FRAME * blocks, RETIRE_MS, 0, 0)
            self._socket.setsockopt(SOL_PACKET, PACKET_RX_RING, request)
            self._map = mmap.mmap(self._socket.fileno(), BLOCK * blocks)
            self._socket.bind((interface, ETH_P_ALL))
            if promiscuous:
                member = struct.pack("=iHH8s", index, PACKET_MR_PROMISC, 0, bytes(8))
                self._socket.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, member)
        except OSError as error:
            self._socket.close()
            raise _failure(interface, error) from None
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN | select.POLLERR)
        self._at = 0

    def fileno(self) -> int:
        """The socket, to be waited on."""
        return self._socket.fileno()

    def __enter__(self) -> "PacketRing":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening."""
        if not self._map.closed:
            self._map.close()
        self._socket.close()

    def wait(self, seconds: float) -> bool:
        """Wait until there are packets, so long at most; whether there are."""
        if self._ready():
            return True
        self._poll.poll(seconds * 1000)
        return self._ready()

    def packets(self) -> Iterator[RingPacket]:
        """The packets of the block that the kernel has handed over, nothing where there is none."""
        if not self._ready():
            return
        base = self._at * BLOCK
        _, count, first, _, _ = _DESC.unpack_from(self._map, base + _STATUS_AT)
        at = base + first
        for _ in range(count):
            following, seconds, nanoseconds, captured, original, status, mac, _, _, tag, tpid, _ = (
                _HEAD.unpack_from(self._map, at)
            )
            start = at + mac
            sent = self._map[at + _PACKET_TYPE_AT] == _OUTGOING
            at += following
            if sent and self._loopback:
                continue  # it comes again, as received
            data = self._map[start : start + captured]
            if status & VLAN_VALID and self.link == 1:
                kind = tpid if status & VLAN_TPID_VALID else 0x8100
                data = data[:12] + struct.pack(">HH", kind, tag & 0xFFFF) + data[12:]
                original += 4
            yield RingPacket(seconds * 1_000_000_000 + nanoseconds, data, original)
        self._give_back(base)
        self._at = (self._at + 1) % (len(self._map) // BLOCK)

    def statistics(self) -> Drops:
        """What was counted since the last time."""
        raw = self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 12)
        packets, drops, _ = struct.unpack("=III", raw)
        return Drops(packets, drops)

    def _ready(self) -> bool:
        return bool(self._status(self._at * BLOCK) & TP_STATUS_USER)

    def _status(self, base: int) -> int:
        """Read in one access: the kernel writes it while we look."""
        return ctypes.c_uint32.from_buffer(self._map, base + _STATUS_AT).value

    def _give_back(self, base: int) -> None:
        ctypes.c_uint32.from_buffer(self._map, base + _STATUS_AT).value = TP_STATUS_KERNEL


def _failure(interface: str, error: OSError) -> KernelError:
    cure = "run as root, or with CAP_NET_RAW" if error.errno in (errnos.EPERM, errnos.EACCES) else ""
    return failure("listen on", interface, error.errno or 0, cure)
