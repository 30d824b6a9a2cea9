"""Reading a BPF ring buffer: whole spans of committed records, not copied, given as `Frames`.

The kernel's ring is two positions that only grow (the consumer's, ours to write; the producer's) and a data
area. A record is a header (length u32 with the busy and discard bits, page offset u32) and its payload,
rounded up to 8 bytes; here the payload is a frame. The kernel offers the data area twice in a row, so that no
record is split. We map it once, which halves the resident memory and the time to map it, and join the one
record a turn that lies across the end.

Invariants: positions are read and written as one aligned 8-byte access, because the kernel reads ours at any
moment; what `read` gave stays valid, and its room in the ring taken, until `release`; only one reader a
ring.
"""

import mmap
import struct
from array import array

from kwire import native
from kwire.bpf.image import MapSpec
from kwire.kernel.maps import PAGE, Map, map_memory
from kwire.kernel.sys import possible_cpus
from kwire.wire.frames import Frames

BUSY = 1 << 31  # the record is being written
DISCARD = 1 << 30  # the program gave the record up
HEADER = 8
WALK_LIMIT = 16384  # records given by one read: the size of the array of offsets, 8 bytes each


def ring_walk(
    data: memoryview, mask: int, consumer: int, producer: int, offsets: "array[int] | memoryview", limit: int
) -> tuple[int, int]:
    """Find committed records between two positions; the specification of the C walker of the same name.

    Stores where in `data` each record's payload lies in `offsets`, `limit` at most. Passes over discarded
    records; stops at one that is being written, or whose length leads beyond the producer or the end of
    `data`. Gives how many it stored and the consumer's position after them.
    """
    count = 0
    if not 0 <= producer - consumer <= mask + 1 or consumer & 7:
        return 0, consumer
    while count < limit and producer - consumer >= HEADER:
        at = consumer & mask
        (head,) = _U32.unpack_from(data, at)
        length = head & (DISCARD - 1)
        stride = (length + HEADER + 7) & -8
        if head & BUSY or stride > producer - consumer or at + HEADER + length > len(data):
            break
        if not head & DISCARD:
            offsets[count] = at + HEADER
            count += 1
        consumer += stride
    return count, consumer


class Ring:
    """The reader of one RINGBUF map. Closing it leaves the map to its owner."""

    __slots__ = (
        "_consumer",
        "_consumer_map",
        "_data",
        "_data_map",
        "_frames",
        "_next",
        "_offsets",
        "_producer",
        "map",
        "size",
    )

    def __init__(self, ring: Map, limit: int = WALK_LIMIT) -> None:
        self.map = ring
        self.size = ring.spec.max_entries
        name = ring.spec.name
        self._consumer_map = map_memory(ring.fd, PAGE, mmap.PROT_READ | mmap.PROT_WRITE, 0, name)
        try:
            self._data_map = map_memory(ring.fd, PAGE + self.size, mmap.PROT_READ, PAGE, name)
        except BaseException:
            self._consumer_map.close()
            raise
        self._consumer = memoryview(self._consumer_map).cast("Q")
        self._producer = memoryview(self._data_map)[:8].cast("Q")
        self._data = memoryview(self._data_map)[PAGE:]
        self._offsets = array("Q", bytes(8 * limit))
        self._next = self._consumer[0]
        self._frames: Frames | None = None

    @property
    def waiting(self) -> int:
        """How many bytes lie in the ring, those given by `read` and not yet released included."""
        return self._producer[0] - self._consumer[0]

    def read(self, limit: int = WALK_LIMIT) -> Frames:
        """The frames committed since the last `release`, at most `limit`, over the ring's own memory.

        They are valid until `release`. Reading again without release gives what came after.
        """
        self._let_go()
        walk = native.ring_walk or ring_walk
        producer, start = self._producer[0], self._next
        count, self._next = walk(
            self._data, self.size - 1, start, producer, self._offsets, min(limit, len(self._offsets))
        )
        if self._next == start != producer:
            self._frames = self._joined(producer)
        else:
            self._frames = Frames(self._data, self._offsets, count)
        return self._frames

    def _joined(self, producer: int) -> Frames:
        """The record at `_next` that no walk got past: copied together when it lies across the ring's end."""
        at = self._next & (self.size - 1)
        (head,) = _U32.unpack_from(self._data, at)
        length = head & (DISCARD - 1)
        end, stride = at + HEADER + length, (length + HEADER + 7) & -8
        if head & BUSY or end <= self.size or stride > producer - self._next:
            return Frames(self._data, self._offsets, 0)
        self._next += stride
        if head & DISCARD:
            return Frames(self._data, self._offsets, 0)
        whole = bytes(self._data[at + HEADER :]) + bytes(self._data[: end - self.size])
        return Frames(whole, array("Q", (0,)))

    def release(self) -> None:
        """Give the room of all that was read back to the kernel; the frames of `read` are no longer valid."""
        self._let_go()
        self._consumer[0] = self._next

    def close(self) -> None:
        """Unmap. Views of the frames that the caller still holds must be released before."""
        if self._consumer_map.closed:
            return
        self._let_go()
        for view in (self._consumer, self._producer, self._data):
            view.release()
        self._consumer_map.close()
        self._data_map.close()

    def _let_go(self) -> None:
        if self._frames is not None:
            self._frames.release()
            self._frames = None

    def __enter__(self) -> "Ring":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def create_rings(spec: MapSpec) -> tuple[Map, list[Map]]:
    """Create an array_of_maps with one ring buffer for each possible CPU in it, as `spec.inner` says."""
    if spec.inner is None:
        raise ValueError(f"{spec.name}: an array_of_maps of rings needs an inner map")
    rings: list[Map] = []
    outer = None
    try:
        for _ in range(possible_cpus()):
            rings.append(Map.create(spec.inner))
        outer = Map.create(spec, rings[0].fd)
        outer.update_all([ring.fd for ring in rings])
    except BaseException:
        for ring in [*rings, *([outer] if outer else [])]:
            ring.close()
        raise
    return outer, rings


_U32 = struct.Struct("=I")
