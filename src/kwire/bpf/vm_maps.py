"""Maps of the interpreter, with the kernel's limits and error codes.

Values live in regions, so a program holds real pointers to them. From Python, `value` gives an array's
memory, a hash map reads like a dict of bytes, and a ring gives the records that were committed.
"""

from collections.abc import Iterator
from typing import Final

from kwire.bpf.image import MapSpec
from kwire.bpf.vm_memory import AddressSpace, Region, Violation
from kwire.errors import KwireError

ENOENT, E2BIG, EAGAIN, EEXIST, EINVAL = 2, 7, 11, 17, 22
ANY, NOEXIST, EXIST = 0, 1, 2  # flags of an update
RING_HEADER: Final = 8  # bytes the kernel puts before each record
MAX_RECORD: Final = 0xFFFFFFFF // 4


class Map:
    """What all maps have: a `spec` and the address that a program sees as the map."""

    __slots__ = ("address", "space", "spec")

    def __init__(self, spec: MapSpec, space: AddressSpace) -> None:
        self.spec = spec
        self.space = space
        self.address = space.reserve()

    def lookup(self, key: bytes, cpu: int) -> int:
        """The address of a key's value, 0 when there is none."""
        raise Violation(self.address, f"a map of kind {self.spec.kind} has no lookup")

    def update(self, key: bytes, value: bytes, flags: int, cpu: int) -> int:
        """0, or a negative error code."""
        raise Violation(self.address, f"a map of kind {self.spec.kind} has no update")

    def delete(self, key: bytes) -> int:
        """0, or a negative error code."""
        raise Violation(self.address, f"a map of kind {self.spec.kind} has no delete")


class ArrayMap(Map):
    """An array, or one array a CPU."""

    __slots__ = ("_regions", "stride")

    def __init__(self, spec: MapSpec, space: AddressSpace) -> None:
        super().__init__(spec, space)
        self.stride = (spec.value_size + 7) & ~7
        self._regions: dict[int, Region] = {}

    def region(self, cpu: int) -> Region:
        """The memory that a program on this CPU sees: all values one after the other."""
        cpu = cpu if self.spec.kind == "percpu_array" else 0
        if cpu not in self._regions:
            data = bytearray(self.stride * self.spec.max_entries)
            self._regions[cpu] = self.space.add(data, f"map {self.spec.name}")
        return self._regions[cpu]

    def value(self, index: int = 0, cpu: int = 0) -> memoryview:
        """The bytes of one value, writable."""
        if not 0 <= index < self.spec.max_entries:
            raise IndexError(index)
        at = index * self.stride
        return memoryview(self.region(cpu).data)[at : at + self.spec.value_size]

    def lookup(self, key: bytes, cpu: int) -> int:
        """0 for an index beyond the end."""
        index = int.from_bytes(key, "little")
        return self.region(cpu).base + index * self.stride if index < self.spec.max_entries else 0

    def update(self, key: bytes, value: bytes, flags: int, cpu: int) -> int:
        """Replaces one value; every index exists already."""
        index = int.from_bytes(key, "little")
        if flags > EXIST:
            return -EINVAL
        if index >= self.spec.max_entries:
            return -E2BIG
        if flags == NOEXIST:
            return -EEXIST
        self.value(index, cpu)[:] = value
        return 0

    def delete(self, key: bytes) -> int:
        """-EINVAL: elements of an array cannot be deleted."""
        return -EINVAL


class HashMap(Map):
    """A hash map. In Python it is a mapping of bytes: `map[key]`, `map[key] = value`, `key in map`, …"""

    __slots__ = ("_entries",)

    def __init__(self, spec: MapSpec, space: AddressSpace) -> None:
        super().__init__(spec, space)
        self._entries: dict[bytes, Region] = {}

    def lookup(self, key: bytes, cpu: int) -> int:
        """0 for a key that is not there."""
        entry = self._entries.get(key)
        return entry.base if entry is not None else 0

    def update(self, key: bytes, value: bytes, flags: int, cpu: int) -> int:
        """Adds or replaces; -E2BIG when the map is full."""
        if flags > EXIST:
            return -EINVAL
        entry = self._entries.get(key)
        if entry is not None:
            if flags == NOEXIST:
                return -EEXIST
            entry.data[:] = value
            return 0
        if flags == EXIST:
            return -ENOENT
        if len(self._entries) >= self.spec.max_entries:
            return -E2BIG
        self._entries[key] = self.space.add(bytearray(value), f"map {self.spec.name} value")
        return 0

    def entries(self) -> dict[bytes, list[bytes]]:
        """All keys and their values, as a mapping of bytes: one value, or one for each CPU that has any."""
        return {key: [bytes(region.data)] for key, region in self._entries.items()}

    def delete(self, key: bytes) -> int:
        """-ENOENT for a key that is not there."""
        # The region stays mapped: in the kernel, too, a pointer to the value lives on for the rest of the
        # run.
        return -ENOENT if self._entries.pop(key, None) is None else 0

    def __getitem__(self, key: bytes) -> bytes:
        return bytes(self._entries[key].data)

    def __setitem__(self, key: bytes, value: bytes) -> None:
        if len(key) != self.spec.key_size or len(value) != self.spec.value_size:
            raise ValueError(f"{self.spec.name}: key or value of the wrong size")
        self.update(key, value, ANY, 0)

    def __delitem__(self, key: bytes) -> None:
        del self._entries[key]

    def __contains__(self, key: bytes) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


class PerCpuHashMap(HashMap):
    """A hash map with a value for each CPU; a new key's are zeros but for that of the CPU that made it."""

    __slots__ = ("_others",)

    def __init__(self, spec: MapSpec, space: AddressSpace) -> None:
        super().__init__(spec, space)
        self._others: dict[bytes, dict[int, Region]] = {}  # of CPUs but the first

    def _region(self, key: bytes, cpu: int) -> Region:
        if not cpu:
            return self._entries[key]
        regions = self._others.setdefault(key, {})
        if cpu not in regions:
            regions[cpu] = self.space.add(bytearray(self.spec.value_size), f"map {self.spec.name} value")
        return regions[cpu]

    def lookup(self, key: bytes, cpu: int) -> int:
        """The address of this CPU's value, 0 for a key that is not there."""
        return self._region(key, cpu).base if key in self._entries else 0

    def update(self, key: bytes, value: bytes, flags: int, cpu: int) -> int:
        """Adds a key, or replaces this CPU's value; -E2BIG when the map is full."""
        known = key in self._entries
        if not cpu or (known and flags == NOEXIST):
            return super().update(key, value, flags, cpu)
        if not known:
            result = super().update(key, bytes(len(value)), flags, 0)
            if result:
                return result
        self._region(key, cpu).data[:] = value
        return 0

    def delete(self, key: bytes) -> int:
        """-ENOENT for a key that is not there."""
        self._others.pop(key, None)
        return super().delete(key)

    def entries(self) -> dict[bytes, list[bytes]]:
        """All keys, and the values of the CPUs that have any."""
        found = super().entries()
        for key, regions in self._others.items():
            found[key] += [bytes(region.data) for region in regions.values()]
        return found


class LruHashMap(HashMap):
    """A hash map that forgets the key that was made first, where it is full."""

    __slots__ = ()

    def update(self, key: bytes, value: bytes, flags: int, cpu: int) -> int:
        """Adds or replaces; never full."""
        if key not in self._entries and len(self._entries) >= self.spec.max_entries and flags != EXIST:
            del self._entries[next(iter(self._entries))]
        return super().update(key, value, flags, cpu)


class LruPerCpuHashMap(LruHashMap, PerCpuHashMap):
    """The same of what each CPU keeps."""

    __slots__ = ()


class RingMap(Map):
    """A ring buffer. Records stay in it, and take room, until `take` reads them.

    `refuse`: how many of the next reservations fail, to test what a program does then.
    """

    __slots__ = ("_records", "_reserved", "consumed", "produced", "refuse")

    def __init__(self, spec: MapSpec, space: AddressSpace) -> None:
        super().__init__(spec, space)
        self.produced = 0
        self.consumed = 0
        self.refuse = 0
        # (position after it, its bytes or None when discarded), in the order they were reserved
        self._records: list[tuple[int, bytes | None]] = []
        # address: (memory, index of its record)
        self._reserved: dict[int, tuple[Region, int]] = {}

    def _advance(self, size: int) -> bool:
        length = (size + RING_HEADER + 7) & ~7
        if self.refuse > 0:
            self.refuse -= 1
            return False
        if self.produced + length - self.consumed > self.spec.max_entries - 1:
            return False
        self.produced += length
        return True

    def output(self, data: bytes) -> int:
        """Commits a copy; 0, -E2BIG for a record beyond the kernel's limit, -EAGAIN when there is no room."""
        if len(data) > MAX_RECORD:
            return -E2BIG
        if not self._advance(len(data)):
            return -EAGAIN
        self._records.append((self.produced, data))
        return 0

    def reserve(self, size: int) -> int:
        """The address of a record to fill, 0 when there is no room."""
        if size > MAX_RECORD or not self._advance(size):
            return 0
        region = self.space.add(bytearray(size), f"record of {self.spec.name}", tracked=True)
        self._reserved[region.base] = region, len(self._records)
        self._records.append((self.produced, None))
        return region.base

    def finish(self, address: int, commit: bool) -> bool:
        """Submits or discards a reserved record; False when it is none. Unwritten bytes are a `Violation`."""
        if address not in self._reserved:
            return False
        region, index = self._reserved[address]
        if commit:
            data = self.space.read(region.base, len(region.data))
            self._records[index] = self._records[index][0], data
        del self._reserved[address]
        self.space.remove(region)
        return True

    @property
    def outstanding(self) -> int:
        """Records reserved and neither submitted nor discarded."""
        return len(self._reserved)

    def take(self) -> list[bytes]:
        """The committed records in order; their room is free again."""
        records = [data for _, data in self._records if data is not None]
        self._records.clear()
        self.consumed = self.produced
        return records


class MapArray(Map):
    """An array of maps: `inner[index]` is a map or None; all are made at once from the inner spec."""

    __slots__ = ("inner",)

    def __init__(self, spec: MapSpec, space: AddressSpace) -> None:
        super().__init__(spec, space)
        if spec.inner is None:
            raise KwireError("create map", spec.name, "an array_of_maps needs the spec of what it holds")
        inner = spec.inner
        names = [f"{spec.name}[{index}]" for index in range(spec.max_entries)]
        self.inner: list[Map | None] = [create(inner._replace(name=name), space) for name in names]

    def lookup(self, key: bytes, cpu: int) -> int:
        """The address of the map at an index, 0 for none."""
        index = int.from_bytes(key, "little")
        found = self.inner[index] if index < len(self.inner) else None
        return found.address if found is not None else 0


KINDS: Final[dict[str, type[Map]]] = {
    "array": ArrayMap,
    "percpu_array": ArrayMap,
    "hash": HashMap,
    "lru_hash": LruHashMap,
    "percpu_hash": PerCpuHashMap,
    "lru_percpu_hash": LruPerCpuHashMap,
    "ringbuf": RingMap,
    "array_of_maps": MapArray,
}


def create(spec: MapSpec, space: AddressSpace) -> Map:
    """An empty map of the spec's kind. Raises `KwireError` for a kind that is not simulated."""
    kind = KINDS.get(spec.kind)
    if kind is None:
        cure = "kinds are " + ", ".join(KINDS)
        raise KwireError("create map", spec.name, f"the kind {spec.kind!r} is not known here", cure)
    return kind(spec, space)
