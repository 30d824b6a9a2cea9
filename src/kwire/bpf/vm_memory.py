"""Memory of the interpreter: regions a program touches directly, kernel and user memory that it probes.

Invariants: every access lies whole inside one region, or it is a `Violation`; a region that tracks its writes
refuses reads of bytes that were never written; probed memory (`Memory`) is reached by helpers only, and there
an unmapped address is a fault with an error code, as in the kernel, never a violation. The lowest addresses
are user space's, the highest the kernel's, and between them is nothing. All numbers are little-endian.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from kwire.arguments import needed

_FIRST_REGION: Final = 0xFFFF_C900_0000_0000
_FIRST_KERNEL: Final = 0xFFFF_8880_0000_0000
_FIRST_USER: Final = 0x0000_7F00_0000_0000
_STEP: Final = 1 << 32  # regions start this far apart, so the upper half of an address names its region


class Violation(Exception):  # noqa: N818  (never leaves the interpreter: it becomes a MachineError there)
    """An access that memory safety forbids. `address` is where."""

    def __init__(self, address: int, cause: str) -> None:
        super().__init__(address, cause)
        self.address = address
        self.cause = cause


class Region:
    """A run of bytes at an address. `known`: one byte for each byte of data, 0 where it was never written."""

    __slots__ = ("base", "data", "known", "name", "writable")

    def __init__(self, base: int, data: bytearray, name: str, writable: bool, tracked: bool) -> None:
        self.base = base
        self.data = data
        self.name = name
        self.writable = writable
        self.known = bytearray(len(data)) if tracked else None


class AddressSpace:
    """All regions of one machine."""

    __slots__ = ("_next", "_regions")

    def __init__(self) -> None:
        self._regions: dict[int, Region] = {}
        self._next = _FIRST_REGION

    def add(self, data: bytearray, name: str, *, writable: bool = True, tracked: bool = False) -> Region:
        """Maps bytes at a new address. `tracked`: reading what was never written is a violation."""
        region = Region(self._next, data, name, writable, tracked)
        self._regions[self._next >> 32] = region
        self._next += _STEP
        return region

    def reserve(self) -> int:
        """An address of its own with nothing behind it, to stand for a thing such as a map."""
        self._next += _STEP
        return self._next - _STEP

    def remove(self, region: Region) -> None:
        """Unmaps a region; its address is not used again."""
        del self._regions[region.base >> 32]

    def locate(self, address: int, size: int) -> tuple[Region, int]:
        """The region and the offset in it of `size` bytes. `Violation` when they are not all in one."""
        region = self._regions.get(address >> 32)
        if region is not None and (offset := address - region.base) + size <= len(region.data):
            return region, offset
        near = self._regions.get((address + (_STEP >> 1)) >> 32)  # also for an address just below a region
        if near is not None:
            at = f"{near.name}{address - near.base:+d}"
            raise Violation(address, f"{size} bytes at {at} are outside of its {len(near.data)} bytes")
        what = "a null pointer" if address < 4096 else f"{address:#x} is not memory of this program"
        raise Violation(address, what)

    def holds(self, address: int) -> bool:
        """Whether an address belongs to a region, in bounds or not."""
        return address >> 32 in self._regions

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes. Raises `Violation` out of bounds and for bytes never written."""
        region, offset = self.locate(address, size)
        if region.known is not None:
            missing = region.known.find(0, offset, offset + size)
            if missing >= 0:
                where = _place(region, missing)
                raise Violation(region.base + missing, f"reads {where}, which was never written")
        return bytes(region.data[offset : offset + size])

    def write(self, address: int, data: bytes) -> None:
        """Stores bytes. Raises `Violation` out of bounds and in read-only memory."""
        region, offset = self.locate(address, len(data))
        if not region.writable:
            raise Violation(address, f"writes to {region.name}+{offset}, which is read-only")
        region.data[offset : offset + len(data)] = data
        if region.known is not None:
            region.known[offset : offset + len(data)] = b"\1" * len(data)


def _place(region: Region, offset: int) -> str:
    return f"stack byte {offset - len(region.data)}" if region.name == "stack" else f"{region.name}+{offset}"


def is_kernel(address: int) -> bool:
    """Whether an address can be the kernel's (canonical with five levels of page tables)."""
    return address >= 0xFF00_0000_0000_0000


def is_user(address: int) -> bool:
    """Whether an address can be user space's."""
    return address < 0x0100_0000_0000_0000


class Memory:
    """Kernel and user memory as a probe finds it: `{address: bytes}`, for probe_read and its relatives.

    memory = Memory()
    sock = memory.kernel(bytes(512))            # at an address of its choosing
    name = memory.user(b"/etc/passwd\\0")
    memory.put(sock + 16, struct.pack("<Q", name))
    """

    __slots__ = ("_blocks", "_kernel", "_user")

    def __init__(self, blocks: "Mapping[int, bytes] | Memory | None" = None) -> None:
        self._blocks: dict[int, bytearray] = {}
        self._kernel = _FIRST_KERNEL
        self._user = _FIRST_USER
        if blocks is not None:
            for address, data in blocks.items():
                self.put(address, data)

    def __repr__(self) -> str:
        blocks = ", ".join(f"{len(data)} at {at:#x}" for at, data in sorted(self._blocks.items())[:8])
        return f"<memory: {blocks or 'empty'}{', …' if len(self._blocks) > 8 else ''}>"

    def items(self) -> Iterator[tuple[int, bytes]]:
        """The blocks: (address, bytes)."""
        for address, data in self._blocks.items():
            yield address, bytes(data)

    def kernel(self, data: bytes) -> int:
        """Maps bytes somewhere in the kernel's half, with unmapped memory around; gives their address."""
        [data] = needed("map memory", data=data)
        address = self._kernel
        self._kernel += (len(data) + 0x1FFF) & ~0xFFF
        self._blocks[address] = bytearray(data)
        return address

    def user(self, data: bytes) -> int:
        """Maps bytes somewhere in user space; gives their address."""
        [data] = needed("map memory", data=data)
        address = self._user
        self._user += (len(data) + 0x1FFF) & ~0xFFF
        self._blocks[address] = bytearray(data)
        return address

    def put(self, address: int, data: bytes) -> None:
        """Writes bytes: into a block that covers them whole, otherwise as a new block."""
        address, data = needed("write memory", address=address, data=data)
        for base, block in self._blocks.items():
            if base <= address and address + len(data) <= base + len(block):
                block[address - base : address - base + len(data)] = data
                return
        self._blocks[address] = bytearray(data)

    def read(self, address: int, size: int) -> bytes | None:
        """`size` bytes, which may cross from one block into the next; None where a byte is not mapped."""
        out = bytearray()
        while len(out) < size:
            at = address + len(out)
            for base, block in self._blocks.items():
                if base <= at < base + len(block):
                    out += block[at - base : at - base + size - len(out)]
                    break
            else:
                return None
        return bytes(out)
