"""Reading a BPF ring buffer: whole spans of committed records, not copied, given as `Frames`.

The kernel's ring is two positions that only grow (the consumer's, ours to write; the producer's) and a data
area. A record is a header (length u32 with the busy and discard bits, page offset u32) and its payload,
rounded up to 8 bytes; here the payload is a frame. The kernel offers the data area twice in a row, so that no
record is split. We map it once and join the one record a turn that lies across the end. All pages of a
mapping of it count as ours at once, so it is mapped window by window, each when the producer has first come
there: a ring that is hardly used takes little memory.

Invariants: positions are read and written as one aligned 8-byte access, because the kernel reads ours at any
moment; what `read` gave stays valid, and its room in the ring taken, until `release`; only one reader a
ring.
"""

import mmap
import struct
from array import array
from collections.abc import Sequence
from contextlib import ExitStack

from kwire import native
from kwire.bpf.image import MapSpec
from kwire.kernel.maps import PAGE, Map, map_memory, map_over, reserve
from kwire.kernel.sys import online_cpus, possible_cpus
from kwire.wire.frames import Frames

BUSY = 1 << 31  # the record is being written
DISCARD = 1 << 30  # the program gave the record up
LENGTH = DISCARD - 1
HEADER = 8
WINDOW = 256 << 10  # bytes of data that are mapped together
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
        length = head & LENGTH
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
        "_producer_map",
        "_unmapped",
        "map",
        "size",
    )

    def __init__(self, ring: Map, limit: int = WALK_LIMIT) -> None:
        self.map = ring
        self.size = ring.spec.max_entries
        name = ring.spec.name
        with ExitStack() as undo:
            self._consumer_map = map_memory(ring.fd, PAGE, mmap.PROT_READ | mmap.PROT_WRITE, 0, name)
            undo.push(self._consumer_map)
            self._producer_map = map_memory(ring.fd, PAGE, mmap.PROT_READ, PAGE, name)
            undo.push(self._producer_map)
            self._data_map = reserve(self.size)
            undo.push(self._data_map)
            self._unmapped = set(range(-(-self.size // WINDOW)))
            self._map(0, 1)  # if it cannot be mapped, this is when to say so
            undo.pop_all()
        self._consumer = memoryview(self._consumer_map).cast("Q")
        self._producer = memoryview(self._producer_map)[:8].cast("Q")
        self._data = memoryview(self._data_map).toreadonly()
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
        if self._unmapped and producer > start:
            self._map(start, producer)
        count, self._next = walk(
            self._data, self.size - 1, start, producer, self._offsets, min(limit, len(self._offsets))
        )
        if self._next == start != producer:
            self._frames = self._joined(producer)
        else:
            self._frames = Frames(self._data, self._offsets, count)
        return self._frames

    def _map(self, start: int, end: int) -> None:
        """Map the windows between two positions that are not mapped yet. Raises KernelError."""
        windows = -(-self.size // WINDOW)
        for number in range(start // WINDOW, min((end - 1) // WINDOW + 1, start // WINDOW + windows + 1)):
            window = number % windows
            if window in self._unmapped:
                at = window * WINDOW
                size = min(WINDOW, self.size - at)
                map_over(self._data_map, at, self.map.fd, size, 2 * PAGE + at, self.map.spec.name)
                self._unmapped.discard(window)

    def _joined(self, producer: int) -> Frames:
        """The record at `_next` that no walk got past: copied together when it lies across the ring's end."""
        at = self._next & (self.size - 1)
        (head,) = _U32.unpack_from(self._data, at)
        length = head & LENGTH
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
        for memory in (self._consumer_map, self._producer_map, self._data_map):
            memory.close()

    def _let_go(self) -> None:
        if self._frames is not None:
            self._frames.release()
            self._frames = None

    def __enter__(self) -> "Ring":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Rings:
    """One ring a CPU, all of `size` bytes, in the array of maps that programs look them up in."""

    __slots__ = ("array", "readers")

    @property
    def first(self) -> Map:
        """The ring of the programs that look none up."""
        return self.readers[0].map

    def __init__(self, size: int) -> None:
        """Make them; waits until every program that runs now has ended. Raises KernelError."""
        cpus = possible_cpus()
        spec = MapSpec("ring", "ringbuf", 0, 0, size)
        self.array = Map.create(MapSpec("rings", "array_of_maps", 4, 4, cpus, 0, spec))
        self.readers: list[Ring] = []
        """Those of the CPUs that are online."""
        try:
            online = set(online_cpus())
            of_cpu = []
            for cpu in range(cpus):
                if cpu in online or not self.readers:
                    self.readers.append(Ring(Map.create(spec)))
                # A CPU that is not there yet shares the last ring: should it come up, nothing is missed.
                of_cpu.append(self.readers[-1].map.fd)
            self.array.update_all(of_cpu)
        except BaseException:
            self.close()
            raise

    @classmethod
    def taken(cls, array: Map, rings: "Sequence[Map]") -> "Rings":
        """Those that another process has made: the array, and the rings of the CPUs that are online."""
        self = cls.__new__(cls)
        self.array, self.readers = array, []
        try:
            for ring in rings:
                self.readers.append(Ring(ring))
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Unmap and close all; twice is harmless."""
        for ring in self.readers:
            ring.close()
            ring.map.close()
        self.array.close()

    def __enter__(self) -> "Rings":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_U32 = struct.Struct("=I")
