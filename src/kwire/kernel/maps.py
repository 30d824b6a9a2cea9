"""Maps: the memory a program shares with us.

`Map.create` makes one from a `MapSpec`; keys and values are bytes, a per-CPU value is a list of bytes, one
for each possible CPU. Invariants: a map has one owner and closing it twice is harmless; absent keys are
`None` or `KeyError`, never an errno; mapped memory (`mmap`) belongs to the caller, who closes it.
"""

import errno
import mmap
import re
import resource
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress

from kwire.bpf.image import MapSpec
from kwire.kernel.sys import (
    BPF_F_MMAPABLE,
    MAP_TYPES,
    Struct,
    Value,
    failure,
    info,
    possible_cpus,
    try_bpf,
)
from kwire.kernel.syscall import ENOTSUPP, Fd, KernelError, syscall

# ---- The locked-memory limit, which kernels before 5.11 charge maps and programs to
#
# Invariant: it is touched only after the kernel refused something with EPERM, once, and failing to raise it
# is not an error: newer kernels do not need it, and a container often may not raise it.


_tried = False


def raise_limit() -> bool:
    """Try once to lift RLIMIT_MEMLOCK; true when the limit changed, so that the refused call is worth
    repeating.
    """
    global _tried
    if _tried:
        return False
    _tried = True
    before = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    for wanted in ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), (before[1], before[1])):
        if wanted == before:
            continue
        try:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, wanted)
        except (ValueError, OSError):
            continue
        return True
    return False


NAME_LENGTH = 15  # BPF_OBJ_NAME_LEN without its NUL
PAGE = mmap.PAGESIZE
PER_CPU = ("percpu_array", "percpu_hash", "lru_percpu_hash")
ANY, NOEXIST, EXIST = 0, 1, 2  # update flags
MAP_FIXED, MAP_NORESERVE = 0x10, 0x4000  # the same number on x86_64 and aarch64; `mmap` has neither


def object_name(name: str) -> str:
    """The part of a name that the kernel accepts: letters, digits, `_` and `.`, at most 15 of them."""
    if not (name.isidentifier() and name.isascii()):
        name = re.sub(r"[^A-Za-z0-9_.]", "_", name)
    return name[:NAME_LENGTH]


class Map(Fd):
    """A map by its descriptor. Not safe to close while another thread uses it."""

    __slots__ = ("_cpus", "spec")

    def __init__(self, fd: int, spec: MapSpec) -> None:
        super().__init__(fd)
        self.spec = spec
        self._cpus = possible_cpus() if spec.kind in PER_CPU else 0

    @classmethod
    def create(cls, spec: MapSpec, inner_fd: int = -1) -> "Map":
        """Create a map. An array_of_maps needs an example of what it will hold: `inner_fd`, else one is
        made from `spec.inner` and closed again. Raises KernelError.
        """
        if spec.kind not in MAP_TYPES:
            raise KernelError("create map", spec.name, f"there is no kind of map called {spec.kind!r}")
        if spec.kind == "array_of_maps" and inner_fd < 0:
            if spec.inner is None:
                raise KernelError("create map", spec.name, "an array_of_maps needs an inner map")
            example = spec.inner._replace(max_entries=PAGE) if spec.inner.kind == "ringbuf" else spec.inner
            with cls.create(example) as inner:
                return cls.create(spec, inner.fd)
        fields: dict[str, Value] = {
            "map_type": MAP_TYPES[spec.kind],
            "key_size": spec.key_size,
            "value_size": spec.value_size,
            "max_entries": spec.max_entries,
            "map_flags": spec.flags,
            "inner_map_fd": max(inner_fd, 0),
            "map_name": object_name(spec.name),
        }
        fd, error, _ = try_bpf("map_create", **fields)
        if error == errno.EPERM and raise_limit():
            fd, error, _ = try_bpf("map_create", **fields)
        if error:
            raise failure("create map", spec.name, error, *_why_refused(spec, error))
        return cls(fd, spec)

    def lookup(self, key: bytes) -> bytes | None:
        """The value of a key, None where there is none. Of a per-CPU map: all CPUs' values, each rounded
        up to 8.
        """
        value = bytearray(self._value_room())
        _, error, _ = try_bpf("map_lookup_elem", map_fd=self.fd, key=self._key(key), value=value)
        if error == errno.ENOENT:
            return None
        if error:
            raise failure("look up in map", self.spec.name, error)
        return bytes(value)

    def lookup_cpus(self, key: bytes) -> list[bytes] | None:
        """The values of a key of a per-CPU map, one for each possible CPU."""
        whole = self.lookup(key)
        return None if whole is None else self.by_cpu(whole)

    def by_cpu(self, whole: bytes) -> list[bytes]:
        """The values of the CPUs, of all of them as `lookup` and `take` give them."""
        size, step = self.spec.value_size, -(-self.spec.value_size // 8) * 8
        return [whole[at : at + size] for at in range(0, step * self._cpus, step)]

    def update(self, key: bytes, value: bytes | int, flags: int = ANY) -> None:
        """Store a value; an int is a descriptor, for maps that hold maps. Of a per-CPU map: the value of
        every CPU.
        """
        if isinstance(value, int):
            value = value.to_bytes(4, sys.byteorder)
        if len(value) != self.spec.value_size:
            raise KernelError(
                "update map", self.spec.name, f"a value has {self.spec.value_size} bytes, not {len(value)}"
            )
        if self._cpus:
            value = value.ljust(-(-len(value) // 8) * 8, b"\0") * self._cpus
        _, error, _ = try_bpf("map_update_elem", map_fd=self.fd, key=self._key(key), value=value, flags=flags)
        if error:
            note = {errno.E2BIG: "it is full", errno.EEXIST: "the key is there already"}.get(error, "")
            raise failure("update map", self.spec.name, error, note=note)

    def update_all(self, values: Sequence[bytes | int]) -> None:
        """Store a value for each key 0, 1, 2 … of an array, in one call where the kernel can.

        A map that holds maps waits for every running program at each call: 15 ms here, so one call for all
        CPUs is worth having. Since Linux 5.14 for such maps; else one call each.
        """
        plain = [one.to_bytes(4, sys.byteorder) if isinstance(one, int) else one for one in values]
        keys = [number.to_bytes(4, sys.byteorder) for number in range(len(plain))]
        _, error, _ = try_bpf(
            "map_update_batch",
            map_fd=self.fd,
            keys=b"".join(keys),
            values=b"".join(plain),
            count=len(plain),
        )
        if error:
            for key, value in zip(keys, plain, strict=True):
                self.update(key, value)

    def delete(self, key: bytes) -> None:
        """Remove a key. Raises KeyError when it is not there."""
        _, error, _ = try_bpf("map_delete_elem", map_fd=self.fd, key=self._key(key))
        if error == errno.ENOENT:
            raise KeyError(key)
        if error:
            raise failure("delete from map", self.spec.name, error)

    def take(self, key: bytes) -> bytes | None:
        """`lookup` and `delete` in one, between which nothing is added; before Linux 5.14 one after the
        other.
        """
        value = bytearray(self._value_room())
        _, error, _ = try_bpf("map_take_elem", map_fd=self.fd, key=self._key(key), value=value)
        if error in (errno.EINVAL, errno.EOPNOTSUPP, ENOTSUPP):
            found = self.lookup(key)
            with suppress(KeyError):
                self.delete(key)
            return found
        if error == errno.ENOENT:
            return None
        if error:
            raise failure("take from map", self.spec.name, error)
        return bytes(value)

    def keys(self) -> Iterator[bytes]:
        """All keys. A key that a program deletes meanwhile may make the kernel start again from the first."""
        key: bytes | None = None
        while True:
            following = bytearray(self.spec.key_size)
            _, error, _ = try_bpf("map_get_next_key", map_fd=self.fd, key=key, next_key=following)
            if error == errno.ENOENT:
                return
            if error:
                raise failure("walk map", self.spec.name, error)
            key = bytes(following)
            yield key

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All keys with their values, those deleted meanwhile left out."""
        for key in list(self.keys()):
            value = self.lookup(key)
            if value is not None:
                yield key, value

    def batches(self, size: int = 512) -> Iterator[tuple[bytes, bytes]]:
        """All keys with their values, many with each call; `size`: how many at most. What changes meanwhile
        may be left out, or come twice. Of no per-CPU map.
        """
        key_size, value_size = self.spec.key_size, self.spec.value_size
        at: bytearray | None = None
        while True:
            following = bytearray(4)
            keys, values = bytearray(size * key_size), bytearray(size * value_size)
            _, error, attr = try_bpf(
                "map_lookup_batch",
                map_fd=self.fd,
                in_batch=at,
                out_batch=following,
                keys=keys,
                values=values,
                count=size,
            )
            if error == errno.ENOSPC:  # more in one bucket of the kernel's
                size *= 2
                continue
            if error not in (0, errno.ENOENT):
                raise failure("walk map", self.spec.name, error)
            for number in range(attr["count"]):
                key = bytes(keys[number * key_size : (number + 1) * key_size])
                yield key, bytes(values[number * value_size : (number + 1) * value_size])
            if error:
                return
            at = following

    def mmap(self, writable: bool = False) -> mmap.mmap:
        """Map the values of a BPF_F_MMAPABLE array: element i at i × (value size rounded up to 8)."""
        if not self.spec.flags & BPF_F_MMAPABLE:
            raise KernelError("map into memory", self.spec.name, "it was not created with BPF_F_MMAPABLE")
        size = -(-self.spec.value_size // 8) * 8 * self.spec.max_entries
        size = -(-size // PAGE) * PAGE
        prot = mmap.PROT_READ | mmap.PROT_WRITE if writable else mmap.PROT_READ
        return map_memory(self.fd, size, prot, 0, self.spec.name)

    def info(self) -> Struct:
        """The kernel's own description of it (`INFOS["map"]`)."""
        return info("map", self.fd)[0]

    def _key(self, key: bytes) -> bytes:
        if len(key) != self.spec.key_size:
            raise KernelError(
                "use map", self.spec.name, f"a key has {self.spec.key_size} bytes, not {len(key)}"
            )
        return key

    def _value_room(self) -> int:
        size = self.spec.value_size
        return -(-size // 8) * 8 * self._cpus if self._cpus else size


def map_memory(fd: int, size: int, prot: int, offset: int, name: str) -> mmap.mmap:
    """Map a descriptor's memory, shared. The mapping holds a descriptor of its own until it is closed."""
    try:
        return mmap.mmap(fd, size, flags=mmap.MAP_SHARED, prot=prot, offset=offset)
    except OSError as error:
        raise failure("map into memory", name, error.errno or 0) from None


def reserve(size: int) -> mmap.mmap:
    """Room for memory that `map_over` maps part by part; it takes none itself."""
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | MAP_NORESERVE, prot=mmap.PROT_READ | mmap.PROT_WRITE)


def map_over(room: mmap.mmap, at: int, fd: int, size: int, offset: int, name: str) -> None:
    """Map a descriptor's memory, shared and to be read only, in the place of a part of `room`; it goes with
    `room`.
    """
    from kwire.native import address

    place = address(room) + at
    _, error = syscall("mmap", place, size, mmap.PROT_READ, mmap.MAP_SHARED | MAP_FIXED, fd, offset)
    if error:
        raise failure("map into memory", name, error)


def _why_refused(spec: MapSpec, error: int) -> tuple[str, str]:
    """(cure, note) for a map that could not be created."""
    if (
        error == errno.EINVAL
        and spec.kind == "ringbuf"
        and (spec.max_entries % PAGE or spec.max_entries.bit_count() != 1)
    ):
        return (
            f"ask for a power of two of at least {PAGE} bytes",
            f"{spec.max_entries} bytes are no ring buffer's size",
        )
    if error == errno.EINVAL:
        return "", f"this kernel does not know such a map ({spec.kind})"
    return "", ""
