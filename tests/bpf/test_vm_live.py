"""Helpers and maps answer in the interpreter as they do in the running kernel, error codes included."""

import ctypes
from collections.abc import Sequence
from typing import Any, Protocol

import pytest

from kwire.bpf import asm
from kwire.bpf.asm import R0, R1, R2, R3, R4, R6, R9, R10, Item
from kwire.bpf.helpers import HELPERS
from kwire.bpf.image import Image, MapSpec
from kwire.bpf.vm import ArrayMap, Machine

pytestmark = [pytest.mark.live, pytest.mark.native]

ANSWERS = MapSpec("answers", "array", 4, 512, 1)
UNMAPPED_USER = 0x10000
NOT_CANONICAL = 0x8000_0000_0000_0000 - 8


class Kernel(Protocol):
    def run(self, items: list[Item], memory: bytes = ...) -> Any: ...


def in_kernel(image: Image) -> bytes:
    """Runs an image once with maps of its own; gives its answers."""
    from kwire.kernel.maps import Map
    from kwire.kernel.prog import load

    made = {spec.name: Map.create(spec) for spec in image.maps}
    try:
        with load(image, made) as prog:
            prog.test_run()
        answers = made["answers"].lookup(bytes(4))
        assert answers is not None
        return answers
    finally:
        for found in made.values():
            found.close()


def in_interpreter(image: Image, memory: dict[int, bytes]) -> bytes:
    machine = Machine(image, memory=memory)
    machine.run()
    answers = machine.maps["answers"]
    assert isinstance(answers, ArrayMap)
    return bytes(answers.value())


def program(calls: Sequence[Sequence[Item]], maps: Sequence[MapSpec] = (), stack: bool = False) -> Image:
    """Makes the calls and keeps r0 of each, and with `stack` the 8 bytes at r10-8 too."""
    items: list[Item] = [asm.map_value(R9, "answers")]
    at = 0
    for call in calls:
        items += [asm.st("dw", R10, -1, -8), *call, asm.stx("dw", R9, R0, at)]
        at += 8
        if stack:
            items += [asm.ldx("dw", R6, R10, -8), asm.stx("dw", R9, R6, at)]
            at += 8
    return asm.image("answers", "rawtracepoint", [*items, asm.mov64(R0, 0), asm.exit_()], [ANSWERS, *maps])


def probe(name: str, size: int, address: int) -> list[Item]:
    head = [asm.mov64(R1, R10), asm.alu64("add", R1, -8), asm.mov64(R2, size), asm.constant(R3, address)]
    return [*head, asm.call(HELPERS[name].id)]


@pytest.mark.parametrize("name", [name for name in HELPERS if name.startswith("probe_read")])
def test_probing(name: str) -> None:
    text = b"abcdefg\0"
    buffer = ctypes.create_string_buffer(text, len(text))
    where = ctypes.addressof(buffer)
    addresses = (where, 0, UNMAPPED_USER, NOT_CANONICAL)
    image = program([probe(name, size, at) for at in addresses for size in (0, 3, 8)], stack=True)
    assert in_interpreter(image, {where: text}) == in_kernel(image)


def with_key(name: str, map_: str, key: int, flags: int = 0) -> list[Item]:
    return [
        asm.st("w", R10, key, -12),
        asm.map_fd(R1, map_),
        asm.mov64(R2, R10),
        asm.alu64("add", R2, -12),
        asm.mov64(R3, R10),
        asm.alu64("add", R3, -8),
        asm.mov64(R4, flags),
        asm.call(HELPERS[name].id),
    ]


@pytest.mark.parametrize("kind", ["array", "hash", "percpu_array"])
def test_maps(kind: str) -> None:
    spec = MapSpec("numbers", kind, 4, 8, 2)
    script = [
        ("map_delete_elem", 0, 0),
        ("map_update_elem", 0, 2),
        ("map_update_elem", 0, 1),
        ("map_update_elem", 0, 1),
        ("map_update_elem", 0, 2),
        ("map_update_elem", 1, 0),
        ("map_update_elem", 2, 0),
        ("map_update_elem", 5, 2),
        ("map_update_elem", 0, 7),
        ("map_update_elem", 0, 3),
        ("map_delete_elem", 1, 0),
        ("map_delete_elem", 1, 0),
        ("map_update_elem", 1, 0),
    ]
    present: list[list[Item]] = []
    for key in range(3):
        absent = asm.Label()
        found: list[Item] = [asm.jmp("eq", R0, 0, absent), asm.mov64(R0, 1), absent]
        present.append([*with_key("map_lookup_elem", "numbers", key), *found])
    image = program(
        [*(with_key(name, "numbers", key, flags) for name, key, flags in script), *present], [spec]
    )
    assert in_interpreter(image, {}) == in_kernel(image)


def test_rings() -> None:
    """Filling a ring: the same record is the first that is refused; the queries give the same numbers."""
    ring = MapSpec("ring", "ringbuf", 0, 0, 4096)

    def output(size: int, flags: int) -> list[Item]:
        head: list[Item] = [
            asm.map_fd(R1, "ring"),
            asm.map_value(R2, "answers"),
            asm.mov64(R3, size),
            asm.mov64(R4, flags),
        ]
        return [*head, asm.call(HELPERS["ringbuf_output"].id)]

    def query(what: int) -> list[Item]:
        return [asm.map_fd(R1, "ring"), asm.mov64(R2, what), asm.call(HELPERS["ringbuf_query"].id)]

    calls = [output(size, 1) for size in (0, 1, 8, 9, 500, 512, 512)] + [output(8, 4)]
    calls += [query(what) for what in range(5)]
    calls += [output(504, 1)] * 6 + [output(size, 1) for size in (400, 300, 200, 100, 50, 20, 8, 1, 0)]
    calls += [query(what) for what in range(4)]
    image = program(calls, [ring])
    assert in_interpreter(image, {}) == in_kernel(image)
