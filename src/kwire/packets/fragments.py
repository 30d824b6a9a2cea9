"""IP packets put together again from their fragments (RFC 791, RFC 8200), within bounds.

Invariants: memory is bounded, the oldest unfinished packets are given up and counted; fragments may come in
any order and more than once; one that contradicts another (RFC 5722) spoils its packet. A packet has at most
65,535 bytes.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

MAX_BYTES: Final = 4 << 20  # of all unfinished packets
MAX_PACKETS: Final = 1024
MAX_SIZE: Final = 65535


class _Packet:
    """A packet that is not whole yet."""

    __slots__ = ("bad", "length", "parts")

    def __init__(self) -> None:
        self.parts: dict[int, bytes] = {}
        self.length: int | None = None
        self.bad = False

    def whole(self) -> bytes | None:
        """All of it, None while something is missing."""
        at, out = 0, []
        for start in sorted(self.parts):
            if start != at:
                return None
            out.append(self.parts[start])
            at += len(self.parts[start])
        return b"".join(out) if at == self.length else None

    def add(self, offset: int, more: bool, data: bytes) -> bool:
        """Take a fragment; False where it contradicts what is there."""
        end = offset + len(data)
        if end > MAX_SIZE or (more and len(data) % 8):
            return False
        if not more:
            if self.length not in (None, end):
                return False
            self.length = end
        ends = (start + len(part) for start, part in self.parts.items())
        if self.length is not None and max(end, *ends, 0) > self.length:
            return False
        if not data or self.parts.get(offset) == data:
            return True  # nothing, or the same again
        if any(offset < start + len(part) and start < end for start, part in self.parts.items()):
            return False
        self.parts[offset] = data
        return True


class Fragments:
    """Unfinished packets by their key: addresses, protocol, identification. `missing`: given up so far."""

    __slots__ = ("_held", "_packets", "missing")

    def __init__(self) -> None:
        self._packets: OrderedDict[Hashable, _Packet] = OrderedDict()
        self._held = 0
        self.missing = 0

    def add(self, key: Hashable, offset: int, more: bool, data: bytes) -> tuple[bytes | None, bool]:
        """Take a fragment: the whole payload once it is there, and whether the fragment is sound."""
        packet = self._packets.get(key)
        if packet is None:
            packet = self._packets[key] = _Packet()
        if packet.bad:
            return None, False
        before = len(packet.parts)
        if not packet.add(offset, more, data):
            self._held -= sum(map(len, packet.parts.values()))
            packet.parts.clear()
            packet.bad = True
            return None, False
        if len(packet.parts) > before:
            self._held += len(data)
        whole = packet.whole()
        if whole is not None:
            del self._packets[key]
            self._held -= len(whole)
        while self._packets and (self._held > MAX_BYTES or len(self._packets) > MAX_PACKETS):
            self._give_up(self._packets.popitem(last=False)[1])
        return whole, True

    def finish(self) -> int:
        """Give all unfinished packets up; how many were given up in all."""
        while self._packets:
            self._give_up(self._packets.popitem(last=False)[1])
        return self.missing

    def _give_up(self, packet: _Packet) -> None:
        self._held -= sum(map(len, packet.parts.values()))
        self.missing += not packet.bad
