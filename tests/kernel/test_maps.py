"""Maps of every kind, live: what is stored comes back, what is wrong is told, nothing is left open."""

from __future__ import annotations

import errno
import os
import struct
import sys

import pytest
from traces import open_descriptors

from kwire.bpf.image import MapSpec
from kwire.kernel import maps
from kwire.kernel.maps import EXIST, NOEXIST, PAGE, Map, object_name
from kwire.kernel.sys import BPF_F_MMAPABLE, MAP_TYPES, online_cpus, possible_cpus
from kwire.kernel.syscall import KernelError

pytestmark = pytest.mark.live

ARRAY = MapSpec("an array", "array", 4, 8, 3)
HASH = MapSpec("h", "hash", 4, 8, 2)


def key(number: int) -> bytes:
    return struct.pack("=I", number)


def value(number: int) -> bytes:
    return struct.pack("=Q", number)


@pytest.mark.parametrize("kind", MAP_TYPES)
def test_every_kind_can_be_made(kind: str) -> None:
    sizes = {"ringbuf": (0, 0, PAGE), "array_of_maps": (4, 4, 2)}.get(kind, (4, 8, 4))
    with Map.create(MapSpec("m", kind, *sizes, inner=ARRAY)) as one:
        assert one.info()["type"] == MAP_TYPES[kind]
        assert one.info().text("name") == "m"


def test_an_array_keeps_values() -> None:
    with Map.create(ARRAY) as one:
        assert one.lookup(key(2)) == value(0)
        one.update(key(2), value(7))
        assert one.lookup(key(2)) == value(7)
        assert one.lookup(key(3)) is None
        assert [k for k, _ in one.items()] == [key(0), key(1), key(2)]


def test_a_hash_has_what_was_put_in() -> None:
    with Map.create(HASH) as one:
        assert list(one.items()) == []
        one.update(key(5), value(50), NOEXIST)
        one.update(key(6), value(60))
        assert dict(one.items()) == {key(5): value(50), key(6): value(60)}
        with pytest.raises(KernelError, match="key is there already"):
            one.update(key(5), value(51), NOEXIST)
        with pytest.raises(KernelError, match="it is full") as caught:
            one.update(key(7), value(70))
        assert caught.value.errno == errno.E2BIG
        one.delete(key(5))
        assert one.lookup(key(5)) is None
        with pytest.raises(KeyError):
            one.delete(key(5))
        with pytest.raises(KernelError):
            one.update(key(9), value(1), EXIST)


@pytest.mark.parametrize(
    ("one_key", "one_value"),
    [(b"123", value(1)), (key(1), b"1234567"), (b"", value(1)), (key(1), b"")],
)
def test_wrong_sizes_never_reach_the_kernel(one_key: bytes, one_value: bytes) -> None:
    with Map.create(HASH) as one, pytest.raises(KernelError, match="bytes, not"):
        one.update(one_key, one_value)


@pytest.mark.parametrize("size", [4, 8, 12])
def test_per_cpu_values_come_one_a_cpu(size: int) -> None:
    with Map.create(MapSpec("p", "percpu_array", 4, size, 2)) as one:
        one.update(key(1), b"\5" * size)
        assert one.lookup_cpus(key(1)) == [b"\5" * size] * possible_cpus()
        assert one.lookup_cpus(key(2)) is None


@pytest.mark.parametrize("kind", ["hash", "percpu_hash", "lru_hash", "lru_percpu_hash"])
def test_what_is_taken_is_gone(kind: str) -> None:
    cpus = possible_cpus() if "percpu" in kind else 1
    with Map.create(MapSpec("t", kind, 4, 8, 4)) as one:
        one.update(key(1), value(7))
        assert one.take(key(1)) == value(7) * cpus
        assert one.take(key(1)) is None
        assert list(one.keys()) == []


def test_mapped_memory_is_the_map() -> None:
    with Map.create(ARRAY._replace(flags=BPF_F_MMAPABLE)) as one:
        memory = one.mmap(writable=True)
        one.update(key(1), value(0x1122334455667788))
        words = memoryview(memory).cast("Q")
        assert words[1] == 0x1122334455667788
        words[2] = 9
        assert one.lookup(key(2)) == value(9)
        words.release()
        memory.close()


def test_a_map_that_cannot_be_mapped_says_so() -> None:
    with Map.create(ARRAY) as one, pytest.raises(KernelError, match="BPF_F_MMAPABLE"):
        one.mmap()


def test_an_array_of_maps_gives_its_maps() -> None:
    ring = MapSpec("ring", "ringbuf", 0, 0, 4 * PAGE)
    outer = MapSpec("rings", "array_of_maps", 4, 4, 2, inner=ring)
    with Map.create(outer) as rings, Map.create(ring) as one:
        rings.update(key(1), one.fd)
        assert rings.lookup(key(1)) == struct.pack("=I", one.info()["id"])
        with Map.create(ARRAY) as other, pytest.raises(KernelError):
            rings.update(key(0), other.fd)
    with pytest.raises(KernelError, match="inner"):
        Map.create(outer._replace(inner=None))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (MapSpec("r", "ringbuf", 0, 0, 5000), "power of two"),
        (MapSpec("x", "no such kind", 4, 4, 1), "no kind of map"),
        (MapSpec("a", "array", 8, 4, 1), "EINVAL"),
        (MapSpec("a", "array", 4, 8, 0), "EINVAL"),
        (MapSpec("a", "array", 4, 1 << 20, 1 << 31), "E2BIG|ENOMEM"),
    ],
)
def test_what_cannot_be_made_is_explained(spec: MapSpec, words: str) -> None:
    with pytest.raises(KernelError, match=words):
        Map.create(spec)


def test_use_after_close_is_an_error_not_another_descriptor() -> None:
    one = Map.create(ARRAY)
    one.close()
    one.close()
    with pytest.raises(KernelError, match="closed"):
        one.lookup(key(0))


def test_descriptors_do_not_leak_where_something_fails() -> None:
    before = open_descriptors()
    for spec in (MapSpec("o", "array_of_maps", 8, 4, 1, inner=ARRAY), MapSpec("r", "ringbuf", 0, 0, 1)):
        with pytest.raises(KernelError):
            Map.create(spec)
    assert open_descriptors() == before


def test_descriptors_are_closed_on_exec() -> None:
    with Map.create(ARRAY) as one:
        assert not os.get_inheritable(one.fd)


@pytest.mark.parametrize(
    ("name", "kernel_name"),
    [("a b/c", "a_b_c"), ("x" * 40, "x" * 15), ("kprobe:tcp_connect", "kprobe_tcp_conn"), ("", "")],
)
def test_names_are_what_the_kernel_takes(name: str, kernel_name: str) -> None:
    assert object_name(name) == kernel_name
    with Map.create(ARRAY._replace(name=name)) as one:
        assert one.info().text("name") == kernel_name


def test_raising_the_memory_limit_is_never_fatal() -> None:
    maps.raise_limit()
    assert maps.raise_limit() is False  # tried once
    assert set(online_cpus()) <= set(range(possible_cpus()))


def test_all_values_of_an_array_at_once() -> None:
    with Map.create(MapSpec("several", "array", 4, 8, 5)) as made:
        made.update_all([bytes([number] * 8) for number in range(5)])
        assert [made.lookup(key.to_bytes(4, sys.byteorder)) for key in range(5)] == [
            bytes([n] * 8) for n in range(5)
        ]


def test_a_map_of_maps_takes_all_its_maps_at_once() -> None:
    inner = MapSpec("inner", "array", 4, 8, 1)
    with (
        Map.create(inner) as first,
        Map.create(inner) as second,
        Map.create(MapSpec("outer", "array_of_maps", 4, 4, 2, inner=inner)) as outer,
    ):
        outer.update_all([first.fd, second.fd])
        ids = [outer.lookup(key.to_bytes(4, sys.byteorder)) for key in range(2)]
        assert ids == [one.info()["id"].to_bytes(4, sys.byteorder) for one in (first, second)]
