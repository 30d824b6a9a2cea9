"""Probes as people write them, run by the interpreter and by this kernel: what was wrong once stays right, on
every kernel that the tests run on.
"""

from __future__ import annotations

import ctypes
import mmap
import operator
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from itertools import pairwise
from typing import Any

import pytest

from kwire.bpf import asm, vm
from kwire.bpf.arch import host
from kwire.btf.store import load_kernel
from kwire.compile import build, loops
from kwire.compile.build import Compiled, compile_probe
from kwire.kernel import prog
from kwire.kernel.maps import Map
from kwire.kernel.ring import Ring
from kwire.lang import python
from kwire.lang import types as t
from kwire.lang.check import check
from kwire.lang.context import Argument, CtxField, Param, Site
from kwire.lang.errors import LanguageError
from kwire.lang.kerneltypes import KernelTypes
from kwire.wire.schema import decode

pytestmark = [pytest.mark.live, pytest.mark.kernels("6.1")]  # the oldest verifier; the newest one judges here

MASK = (1 << 64) - 1
PAGE = mmap.PAGESIZE
USER = t.Pointer(t.CHAR, t.USER)
RAW = Site(
    "rawtracepoint",
    "x",
    (
        Param("a", USER, Argument(0)),
        Param("n", t.S64, Argument(1)),
        Param("u", t.U64, Argument(2)),
        Param("many", t.Pointer(t.U64, t.USER), Argument(3)),
    ),
)
ARRAY = Site(
    "tracepoint",
    "x:y",
    (
        Param("which", t.S32, CtxField(8, 4)),
        Param("words", t.Array(t.U32, 6), CtxField(16, 24)),
        Param("name", t.Array(t.CHAR, 16), CtxField(40, 16)),
    ),
)


@cache
def types() -> KernelTypes:
    return KernelTypes(load_kernel())


@pytest.fixture(autouse=True, scope="module")
def _types() -> None:
    types()  # before any test: the kernel's types stay open


def compiled(body: str, site: Site = RAW, called: int = loops.LONG, functions: str = "") -> Compiled:
    """A probe function with this body, whose parameters are those of the site. `called`: which loops are;
    `functions`: text before it.
    """
    lines = "".join(f"    {line}\n" for line in body.strip().split("\n"))
    names = ", ".join(param.name for param in site.params)
    text = f"import kwire\n{functions}@kwire.probe('{site.kind}:{site.target}')\ndef probe({names}):\n{lines}"
    (probe,) = python.parse_file(text, "probe.py")
    program = check(probe, site, types())
    cpus = os.cpu_count() or 1
    return compile_probe(program, id=1, spec="x", probes=1, cpus=cpus, tasks=False, arch=host(), loops=called)


@contextmanager
def in_kernel(made: Compiled) -> Iterator[Callable[[bytes], tuple[list[dict[str, Any]], int]]]:
    """A program, loaded: from a context to the events of a run with it, and how many of them the kernel noted
    a failed read for.
    """
    maps = {spec.name: Map.create(spec) for spec in made.image.maps}
    ring = next(spec.inner for spec in made.image.maps if spec.inner is not None)
    cpus = os.cpu_count() or 1

    def faults() -> int:
        counts = maps["counts"].lookup(bytes(4))
        assert counts is not None
        return sum(struct.unpack_from("<Q", counts, 64 * (cpu + 1) + 40)[0] for cpu in range(cpus))

    try:
        with Map.create(ring) as ring_map:
            for cpu in range(cpus):
                maps["rings"].update(struct.pack("<I", cpu), ring_map.fd)
            with prog.load(made.image, maps) as loaded, Ring(ring_map) as reader:

                def run(context: bytes) -> tuple[list[dict[str, Any]], int]:
                    before = faults()
                    loaded.test_run(context=context)  # here, where this process's memory is
                    frames = reader.read()
                    found = [decode(made.schemas[0], frames.frame_bytes(n)) for n in range(len(frames))]
                    reader.release()
                    return found, faults() - before

                yield run
    finally:
        for one in maps.values():
            one.close()


def events(
    body: str, *arguments: int, memory: dict[int, bytes] | None = None, functions: str = ""
) -> tuple[list[dict[str, Any]], int]:
    """What a body emits, the same in the interpreter and in the kernel; and how many reads failed."""
    return ran(compiled(body, functions=functions), *arguments, memory=memory)


def ran(
    made: Compiled, *arguments: int, memory: dict[int, bytes] | None = None
) -> tuple[list[dict[str, Any]], int]:
    """What a program emits, the same in the interpreter and in the kernel; and how many reads failed."""
    with in_kernel(made) as run:
        return in_both(made, run, *arguments, memory=memory)


def in_both(
    made: Compiled,
    run: Callable[[bytes], tuple[list[dict[str, Any]], int]],
    *arguments: int,
    memory: dict[int, bytes] | None = None,
) -> tuple[list[dict[str, Any]], int]:
    """As `ran`, of a program that `in_kernel` has loaded."""
    context = vm.arguments([*arguments, *[0] * (4 - len(arguments))])
    machine = vm.Machine(made.image, memory=vm.Memory(memory or {}))
    emitted = [decode(made.schemas[0], one) for one in machine.run(context).emitted]
    for _ in range(5):  # a page of this process can be on the move, and then it cannot be read
        for address, data in (memory or {}).items():
            ctypes.string_at(address, len(data))
        found, faults = run(context)
        if found == emitted and faults == (machine_faults(machine) > 0):
            break
    assert found == emitted
    return found, faults


def machine_faults(machine: vm.Machine) -> int:
    """How many events the interpreter noted a failed read for."""
    counts = machine.maps["counts"]
    assert isinstance(counts, vm.ArrayMap)
    return int(struct.unpack_from("<Q", counts.value(), 64 + 40)[0])


class Edge:
    """The last bytes of a page behind which there is nothing."""

    def __init__(self, data: bytes) -> None:
        self.area = mmap.mmap(-1, 2 * PAGE)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self.area))
        self.area[PAGE - len(data) : PAGE] = data
        self.address = base + PAGE - len(data)
        self.memory = {self.address: data}
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mprotect(ctypes.c_void_p(base + PAGE), PAGE, 0) == 0


# reads that are joined


def test_a_readable_byte_is_read_beside_an_unreadable_one() -> None:
    edge = Edge(b"\x07\x08")
    body = 'p = cast("u8 *", a)\nemit(x=p[0], y=p[1], z=p[2], far=p[9])'
    found, faults = events(body, edge.address, memory=edge.memory)
    assert found == [{"x": 7, "y": 8, "z": 0, "far": 0}]
    assert faults == 1


def test_reads_of_one_address_in_several_sizes_fail_each_by_itself() -> None:
    casts = "\n".join(f'p{bits} = cast("u{bits} *", a)' for bits in (8, 16, 32, 64))
    body = f"{casts}\nemit(a=p8[0], b=p16[0], c=p32[0], d=p64[0], e=p8[1], f=p32[1], g=p8[7], h=p32[2])"
    places = {"a": (0, 1), "b": (0, 2), "c": (0, 4), "d": (0, 8), "e": (1, 1)}
    places |= {"f": (4, 4), "g": (7, 1), "h": (8, 4)}
    made = compiled(body)
    with in_kernel(made) as run:
        for there in (1, 2, 3, 7, 8, 11, 12):
            data = bytes(range(1, there + 1))
            edge = Edge(data)
            expected = {
                name: int.from_bytes(data[at : at + size], "little") if at + size <= there else 0
                for name, (at, size) in places.items()
            }
            found = in_both(made, run, edge.address, memory=edge.memory)
            assert found == ([expected], int(there < 12)), there


def test_a_read_stays_behind_its_guard() -> None:
    edge = Edge(struct.pack("<I", 0))
    body = 'p = cast("u32 *", a)\nx = 5\nif p[0]:\n    x = p[1]\nemit(x, kind=p[0])'
    assert events(body, edge.address, memory=edge.memory) == ([{"x": 5, "kind": 0}], 0)
    edge = Edge(struct.pack("<II", 1, 9))
    assert events(body, edge.address, memory=edge.memory) == ([{"x": 9, "kind": 1}], 0)


def test_nothing_is_readable() -> None:
    found, faults = events('p = cast("u64 *", a)\nemit(x=p[0], y=p[1], z=p[2])', 64)
    assert (found, faults) == ([{"x": 0, "y": 0, "z": 0}], 1)


# texts compared with each other


TEXTS = [
    (b"hello", b"hello"),
    (b"hello", b"help"),
    (b"", b""),
    (b"", b"a"),
    (b"a" * 40, b"a" * 40 + b"b"),
    (b"\xff", b"\x7f"),
    (b"a" * 300, b"a" * 256),
    (None, b"a"),
    (b"", None),
    (None, None),
]


def test_texts_compare_by_their_bytes() -> None:
    """What cannot be read equals nothing, and has no order."""
    tests = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
    body = 'b = cast("char *", user(many))\n'
    fields = [f"{name}=str(a) {sign} str(b)" for name, sign in tests.items()]
    body += f"emit({', '.join(fields)}, few=str(a, 3) == str(b, 3), none=str(a) is None, comm=comm != str(b))"
    made = compiled(body)
    with in_kernel(made) as run:
        for one, two in TEXTS:
            edges = [None if text is None else Edge(text + b"\0") for text in (one, two)]
            left, right = (8 if edge is None else edge.address for edge in edges)
            memory = {edge.address: edge.memory[edge.address] for edge in edges if edge is not None}
            [found], _ = in_both(made, run, left, 0, 0, right, memory=memory)
            there = one is not None and two is not None
            x, y = (one or b"")[:256], (two or b"")[:256]
            expected = {name: there and bool(getattr(operator, name)(x, y)) for name in tests}
            expected["ne"] = not expected["eq"]
            expected |= {"few": there and x[:3] == y[:3], "none": one is None, "comm": True}
            assert found == expected, (one, two)


# a text's limit belongs to its value


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ('str(a, 4) == "hell"', True),
        ('str(a, 5) == "hello"', True),
        ('str(a, 6) == "hello"', True),
        ('str(a, 4) == "help"', False),
        ('str(a, 4) != "hell"', False),
        ('str(a, 3).startswith("hel")', True),
        ('str(a, 3).endswith("el")', True),
        ('"lo" in str(a, 4)', False),
        ('"lo" in str(a, 5)', True),
    ],
)
def test_a_text_ends_at_its_limit(test: str, expected: bool) -> None:
    edge = Edge(b"hello\0")
    found, faults = events(f"emit(same={test})", edge.address, memory=edge.memory)
    assert (found, faults) == ([{"same": expected}], 0)


def test_an_empty_text_is_empty_and_one_that_cannot_be_read_is_not() -> None:
    body = 'emit(x=str(a), empty=str(a) == "", there=str(a) > "")'
    edge = Edge(b"\0")
    assert events(body, edge.address, memory=edge.memory) == ([{"x": "", "empty": True, "there": False}], 0)
    [event], _ = events('emit(empty=str(a) == "", there=str(a) > "")', 64)
    assert event == {"empty": False, "there": False}


def test_a_text_longer_than_its_limit_can_be_is_refused() -> None:
    with pytest.raises(LanguageError, match="at most 4 bytes, never these 5"):
        compiled('emit(same=str(a, 4) == "hello")')


def test_two_limits_in_two_branches_stay_two() -> None:
    edge = Edge(b"hello\0")
    body = "if n:\n    emit(x=str(a, 2))\nelse:\n    emit(x=str(a, 4))"
    for number, text in ((1, "he"), (0, "hell")):
        [event], _ = events(body, edge.address, number, memory=edge.memory)
        assert str(event["x"]) == text
    with pytest.raises(LanguageError, match="of one limit on one path and of another on the other"):
        compiled('if n:\n    x = str(a, 2)\nelse:\n    x = str(a, 4)\nemit(x=x == "he")')


# numbers of mixed sign


@pytest.mark.parametrize(
    ("test", "n", "u", "expected"),
    [
        ("-1 < 0xffffffffffffffff", 0, 0, True),
        ("n < u", -1, (1 << 64) - 1, True),
        ("n == u", -1, (1 << 64) - 1, False),
        ("n != u", -1, (1 << 64) - 1, True),
        ("u > n", -1, 0, True),
        ("u <= n", 1 << 62, 1 << 63, False),
        ("n < u", 5, 6, True),
        ("n // 2 == -2", -3, 0, True),
        ("n % 4 == 1", -3, 0, True),
    ],
)
def test_numbers_compare_by_their_value(test: str, n: int, u: int, expected: bool) -> None:
    assert events(f"emit(same={test})", 0, n, u)[0] == [{"same": expected}]


# lengths and indexes


@pytest.mark.parametrize(
    ("n", "expected"), [(-1, b""), (-(1 << 63), b""), (0, b""), (3, b"hel"), (900, b"hello\0")]
)
def test_bytes_of_a_varying_number(n: int, expected: bytes) -> None:
    edge = Edge(b"hello\0")
    found, faults = events("emit(x=bytes(a, n, 6))", edge.address, n, memory=edge.memory)
    assert [bytes(one["x"]) for one in found] == [expected]
    assert faults == 0


@pytest.mark.parametrize("index", ["which", "which & 3", "u32(which) + 1", "which * which"])
def test_an_array_of_the_context_is_indexed(index: str) -> None:
    body = f"emit(x=words[{index}], letter=name[{index}])"
    made = compiled(body, ARRAY)
    with in_kernel(made):
        pass  # its verifier takes it
    for which in (0, 2, 5, 6, -1, 100, -(1 << 31)):
        context = bytes(8) + struct.pack("<i4x6I16s", which, *range(10, 16), b"abcdefghijklmnop")
        [frame] = vm.Machine(made.image).run(context).emitted
        at = eval(index, {"which": which, "u32": lambda value: value & 0xFFFFFFFF})
        word = 10 + at if 0 <= at < 6 else 0
        letter = b"abcdefghijklmnop"[at] if 0 <= at < 16 else 0
        assert decode(made.schemas[0], frame) == {"x": word, "letter": letter}


# loops


@pytest.mark.parametrize(
    "body",
    [
        "x = 0\nfor i in range(10):\n    x += i\nemit(x)",
        "x = 0\nfor i in range(3, 30, 4):\n    x = x * 3 + i\nemit(x)",
        "x = 0\nfor i in range(10, -3, -3):\n    x = x * 3 + i\nemit(x)",
        "x = 7\nfor i in range(5, 5):\n    x = 1\nemit(x)",
        "x = 0\nfor i in range(min(n, 20)):\n    x += i\nemit(x)",
        "x = 0\nfor i in range(n & 15, 20, 2):\n    x += i\nemit(x)",
        "x = 0\nfor i in range(n % 7, -5, -1):\n    x += i * i\nemit(x)",
        "x = 0\nfor i in range(100):\n    if i == n:\n        break\n    x += 2\nemit(x)",
        "x = 0\nfor i in range(30):\n    if i & 1:\n        continue\n    x += i\nemit(x)",
        "x = 0\nfor i in range(5):\n    for j in range(i):\n        x += i * j\nemit(x)".replace(
            "range(i)", "range(i & 7)"
        ),
        "for i in range(4):\n    emit(x=i)",
        "for i in range(4):\n    if i == n & 3:\n        return\n    emit(x=i)",
        "x = 0\ny = 1\nfor i in range(12):\n    z = x + y\n    x = y\n    y = z\nemit(x)",
        "x = 0\nfor i in range(4000):\n    if i > n:\n        break\n    x = i\nemit(x)",
    ],
)
@pytest.mark.parametrize("most", [-1, 1 << 30], ids=["called", "walked"])
def test_a_loop_means_what_python_means(monkeypatch: pytest.MonkeyPatch, body: str, most: int) -> None:
    monkeypatch.setattr(loops, "WEIGHT_MOST", most)
    monkeypatch.setattr(loops, "CHOICES_MOST", most)
    _like_python(body, 3, 700)


@pytest.mark.parametrize(
    "body",
    [
        "x = 0\nfor i in range(64):\n    for j in range(64):\n        if i * j == n:\n            break\n"
        "        x += 1\nemit(x)",
        "x = 0\nfor i in range(1000):\n    if i == n:\n        break\n    if i & 7 == 3:\n        continue\n"
        "    if i * 3 > n + 500:\n        return\n    x += i\nemit(x)",
        "x = 0\ny = n\nfor i in range(11):\n    for j in range(5):\n        if x > y:\n            break\n"
        "        x += i * j\n        if x & 3 == 0:\n            y -= 3\nemit(x=x + y)",
        # in guests the interpreter takes longest for it; that a long loop is called is seen of the others
        pytest.param("x = 0\nfor i in range(20000):\n    x += i ^ n\nemit(x)", marks=pytest.mark.native),
        "x = 0\nfor i in range(3, 1000, 3):\n    for j in range(1000):\n        if j == i:\n"
        "            emit(x=j)\n            return\n        x += 1",
        "for i in range(18446744073709551613, 18446744073709551615):\n    emit(x=i)",
        "for i in range(n + 9223372036854775800, 9223372036854775807, 5):\n    emit(x=i)".replace(
            "n + ", "(n & 3) + "
        ),
        "x = 0\nfor i in range(n & 15, 0, -7):\n    x = x * 100 + i\nemit(x)",
    ],
)
def test_long_loops_and_those_with_many_ways(body: str) -> None:
    _like_python(body, 3, 700)


def test_loops_in_loops_in_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than the kernel has call frames for: the innermost ones are walked."""
    monkeypatch.setattr(loops, "WEIGHT_MOST", -1)
    lines = ["x = 0"]
    for depth in range(9):
        inner = "    " * depth
        lines += [f"{inner}for i{depth} in range(2):", f"{inner}    x += i{depth}"]
    lines += [f"{'    ' * 9}emit(x)", f"{'    ' * 9}if x > n:", f"{'    ' * 10}return"]
    _like_python("\n".join(lines), 100)


def test_a_long_loop_reads_and_emits() -> None:
    edge = Edge(b"A" * 600 + b"\0")
    body = """
name = str(a, 4)
for i in range(1 << 20):
    if cast("u8 *", a)[i] == 0:
        break
    if name == "AAAA" and str(a, 5).startswith("AA"):
        emit(i)
emit(i=u)
"""
    found, faults = events(body, edge.address, 0, 99, memory=edge.memory)
    assert [one["i"] for one in found] == [*range(600), 99]
    assert not faults


def test_a_failed_read_in_a_long_loop_is_noted() -> None:
    edge = Edge(bytes(8))
    body = "for i in range(2000):\n    if cast('u8 *', a)[i] != 0:\n        return\n"
    found, faults = events(f"{body}emit(x=1)\nemit(x=2)", edge.address, memory=edge.memory)
    assert [one["x"] for one in found] == [1, 2]
    assert faults == 1


@pytest.mark.parametrize(
    ("body", "faulty"),
    [
        ("emit(x=p[0])\nemit(x=p[0])", 2),
        ("emit(x=p[0])\nemit(x=p[0])\nemit(x=p[0] + 1)", 3),
        ("emit(x=p[0])\nemit(x=1)\nemit(x=p[0])", 2),
        ("v = p[0]\nemit(x=v)\nemit(x=v)", 1),  # it is read once
        ("if p[0]: emit(x=1)\nelif n: emit(x=p[0])\nemit(x=2)", 1),
        ("if p[0] == n: emit(x=1)\nelif p[0] == 0: emit(x=p[0])\nelse: emit(x=5)\nemit(x=2)", 1),
        ("for i in range(3): emit(x=p[0])", 3),
        ("emit(x=p[0])\nfor i in range(3): emit(x=p[0])\nemit(x=p[0])", 5),
        ("emit(x=p[0])\nif n: emit(x=p[0])\nelse: emit(x=2)\nemit(x=p[0])", 3),
        ("emit(x=p[0], y=p[1])\nemit(x=p[1], y=p[0])", 2),
        ("emit(x=good[0])\nemit(x=p[0])\nemit(x=good[0])", 1),
    ],
)
@pytest.mark.parametrize("called", [loops.NONE, loops.ALL])
def test_each_event_with_a_failed_read_is_counted(body: str, faulty: int, called: int) -> None:
    held = Edge(struct.pack("<Q", 7))
    program = compiled(f"p = cast('u64 *', a)\ngood = user(many)\n{body}", called=called)
    context = vm.arguments([64, 9, 0, held.address])
    machine = vm.Machine(program.image, memory=vm.Memory(held.memory))
    machine.run(context)
    assert machine_faults(machine) == faulty
    with in_kernel(program) as run:
        assert run(context)[1] == faulty


def test_a_loop_that_no_kernel_of_this_age_can_run_is_told_at_the_loop() -> None:
    with pytest.raises(LanguageError) as caught:
        compiled("x = 0\nfor i in range(5000):\n    x += 1\nemit(x)", called=loops.NONE)
    assert "5: this loop may run more than 4096 times, which this kernel cannot" in str(caught.value)


def _like_python(body: str, *arguments: int, functions: str = "") -> None:
    """The body, compiled once, emits for each argument `n` what Python says."""
    lines = "".join(f"    {line}\n" for line in body.replace("emit(x)", "emit(x=x)").split("\n"))
    names: dict[str, Any] = {}
    exec(f"{functions}\ndef probe(n, emit):\n{lines}", names)
    made = compiled(body, functions=functions)
    with in_kernel(made) as run:
        for n in arguments:
            emitted: list[int] = []
            names["emit"] = lambda x, emitted=emitted: emitted.append(x)  # functions emit too
            names["probe"](n, names["emit"])
            found, _ = in_both(made, run, 0, n)
            assert [one["x"] & MASK for one in found] == [one & MASK for one in emitted]


FUNCTIONS = """
FIVE = 5
def half(n, by=2, more=-FIVE + 5):
    return n // by + more

def change(n, by):
    n += by
    by = n * FIVE
    return by

def sign(n):
    if n > 4:
        return 1
    elif n < 3:
        return -1
    return 0

def root(n):
    for i in range(1000):
        for j in range(2):
            if i * i + j > n:
                return i * 10 + j
    return -1

def last(n):
    found = 0
    for i in range(50):
        if half(i) > n:
            break
        found = change(i, by=sign(i - n))
    return found

def tell(n):
    for i in range(3):
        if i > n:
            return
        emit(x=n + i)

def both(n):
    emit(x=n)
    if n > 100:
        return n - 100
    return tell_more(n)

def tell_more(n):
    emit(x=n * 2)
    return n + 1
"""


@pytest.mark.parametrize(
    "body",
    [
        "emit(x=half(n))\nemit(x=half(half(n) + 3) + half(n))",
        "emit(x=half(n, 3))\nemit(x=half(n, more=n))\nemit(x=half(more=1, n=half(n)))",
        "x = change(n, 3)\nn = change(x, by=n)\nemit(x=n)\nemit(x)",
        "emit(x=sign(n))\nif sign(n) == 0:\n    emit(x=7)\nelif sign(n - 5) > 0:\n    emit(x=8)\nelse:\n"
        "    emit(x=9)",
        "x = 3 if sign(n) else root(n)\nemit(x)\nemit(x=root(n))\nemit(x=root(half(n)))",
        "for i in range(half(6)):\n    x = root(i * 5 + n)\n    emit(x)",
        "x = last(n) + last(2)\nemit(x)",
        "tell(1)\ntell(n)\nx = both(n)\nemit(x)",
        "k = 0\nfor i in range(3):\n    k = both(n + i)\n    if k & 1:\n        break\n    tell(i)\n"
        "emit(x=k)",
    ],
)
@pytest.mark.parametrize("most", [-1, 1 << 30], ids=["called", "walked"])
def test_a_function_means_what_python_means(monkeypatch: pytest.MonkeyPatch, body: str, most: int) -> None:
    monkeypatch.setattr(loops, "WEIGHT_MOST", most)
    monkeypatch.setattr(loops, "CHOICES_MOST", most if most < 0 else 8)
    _like_python(body, 3, 700, functions=FUNCTIONS)


def test_functions_take_and_give_what_locals_hold() -> None:
    """Texts, pointers and structures; what a function is given is taken once."""
    functions = """
def start(p):
    return str(p, 4)

def either(p, q, which):
    if which:
        return start(q)
    return start(p)

def at(p: "u64 *", i):
    return p[i]

def matches(path, end):
    return path.endswith(end)

def name():
    return comm
"""
    words = Edge(struct.pack("<3Q", 7, 8, 9))
    edge, other = Edge(b"hello.c\0"), Edge(b"world.h\0")
    pointers = Edge(struct.pack("<2Q", other.address, words.address))
    body = """
emit(x=either(a, user(many[0]), n), y=at(user(many[1]), n), end=matches(str(a), ".c"), same=name() == comm)
t = either(a, user(many[0]), u)
if t == "hell":
    emit(x=t, y=matches(t, "l"), end=False, same=True)
"""
    memory = {**words.memory, **edge.memory, **other.memory, **pointers.memory}
    found, faults = events(body, edge.address, 2, 0, pointers.address, memory=memory, functions=functions)
    assert found == [
        {"x": "worl", "y": 9, "end": True, "same": True},
        {"x": "hell", "y": 1, "end": False, "same": True},
    ]
    assert not faults


def test_a_loop_follows_a_list() -> None:
    """Of four blocks each of which holds the address of the next, the last of nothing."""
    edges = [Edge(struct.pack("<QQ", 0, number)) for number in range(4)]
    for edge, following in pairwise(edges):
        data = struct.pack("<Q", following.address)
        edge.area[PAGE - 16 : PAGE - 8] = data
        edge.memory = {edge.address: data + edge.memory[edge.address][8:]}
    memory = {address: data for edge in edges for address, data in edge.memory.items()}
    body = """
p = cast("u64 *", a)
steps = 0
for i in range(50):
    if not p:
        break
    emit(steps, held=p[1])
    steps += 1
    p = cast("u64 *", user(p[0]))
emit(steps, held=99)
"""
    found, faults = events(body, edges[0].address, memory=memory)
    assert [(one["steps"], one["held"]) for one in found] == [(0, 0), (1, 1), (2, 2), (3, 3), (4, 99)]
    assert faults == 0


# programs of unusual size


@pytest.mark.parametrize(
    "test",
    [
        "many[1] & {bit} != 0",
        "many[1] == {bit}",
        "n > {bit}",
        "not (u < {bit})",
        "n < {bit} and u > {bit}",
        "n < {bit} or many[2] == {bit}",
        'str(a, {n}) == "x"',
    ],
)
def test_many_truth_values_do_not_multiply(test: str) -> None:
    tests = [test.format(bit=1 << number, n=number + 2) for number in range(18)]
    body = f"emit({', '.join(f'f{number}={one}' for number, one in enumerate(tests))})"
    numbers = (ctypes.c_uint64 * 3)(5, 0x155, 1 << 7)
    data, at = bytes(numbers), ctypes.addressof(numbers)
    edge = Edge(b"x\0")
    memory = {at: data, **edge.memory}
    [event], _ = events(body, edge.address, 300, 0x2_0003, at, memory=memory)
    names = {"many": list(numbers), "n": 300, "u": 0x2_0003, "a": 0, "str": lambda a, n: "x"}
    for number, one in enumerate(tests):
        assert event[f"f{number}"] == eval(one, dict(names)), one


@pytest.mark.parametrize("count", [60, pytest.param(200, marks=pytest.mark.native)])
def test_a_long_chain_of_choices(count: int) -> None:
    lines = [
        f"{'elif' if number else 'if'} n == {number}:\n    x = {number * 3 + 1}" for number in range(count)
    ]
    body = "x = 0\n" + "\n".join(lines) + "\nemit(x)"
    made = compiled(body)
    with in_kernel(made) as run:
        for number in (0, 1, count // 2, count - 1, count):
            context = vm.arguments([0, number, 0, 0])
            assert run(context)[0] == [{"x": number * 3 + 1 if number < count else 0}]


def test_jumps_go_in_leaps(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a longer program, in one that is soon verified."""
    monkeypatch.setattr(build, "bridged", partial(asm.bridged, reach=60))
    lines = "".join(f"if n > {number}:\n    emit(k=n, t=str(a, {20 + number}))\n" for number in range(4))
    made = compiled(
        f"for i in range(3):\n    if i > u:\n        break\n    {lines.replace(chr(10), chr(10) + '    ')}"
    )
    edge = Edge(b"hello\0")
    with in_kernel(made) as run:
        for number, turns in ((0, 2), (2, 0), (9, 5)):
            found, _ = run(vm.arguments([edge.address, number, turns, 0]))
            assert [one["k"] for one in found] == [number] * min(number, 4) * min(turns + 1, 3)


@pytest.mark.native
def test_a_program_longer_than_a_jump_reaches() -> None:
    """230 events of eight texts."""
    fields = ", ".join(f"t{number}=str(a, {200 + number})" for number in range(8))
    one = f"if n > {{}}:\n    emit(k=n, {fields})"
    body = "\n".join(one.format(number) for number in range(230))
    made = compiled(body)
    assert len(made.image.code) // 8 > 1 << 15
    edge = Edge(b"hello\0")
    with in_kernel(made) as run:
        found, _ = run(vm.arguments([edge.address, 3, 0, 0]))
        assert [one["k"] for one in found] == [3, 3, 3]
        found, _ = run(vm.arguments([edge.address, 0, 0, 0]))
        assert not found


def test_what_is_read_needs_no_more_stack_than_there_is() -> None:
    """Twelve structures, of which first one end and then the other is wanted."""
    lines = [
        f'p{number} = cast("u64 *", user(many[{number}]))\nx{number} = p{number}[0]' for number in range(12)
    ]
    body = "\n".join(lines) + f"\nemit({', '.join(f'x{n}=x{n}, y{n}=p{n}[15]' for n in range(12))})"
    edges = [Edge(struct.pack("<16Q", *range(number, number + 16))) for number in range(12)]
    pointers = struct.pack("<12Q", *(edge.address for edge in edges))
    held = Edge(pointers)
    memory = {held.address: pointers}
    for edge in edges:
        memory |= edge.memory
    made = compiled(body)
    assert "room" in {spec.name for spec in made.image.maps}
    [event], faults = events(body, 0, 0, 0, held.address, memory=memory)
    assert [event[f"x{number}"] for number in range(12)] == list(range(12))
    assert [event[f"y{number}"] for number in range(12)] == list(range(15, 27))
    assert not faults


def test_a_shift_by_many_bits_leaves_the_sign() -> None:
    body = "emit(a=1 << n, b=n >> n, c=-9 >> n, d=u >> n)"
    for n in (0, 1, 63, 64, 65, 1 << 40):
        found, _ = events(body, 0, n, MASK)
        wanted = {"a": 1 << min(n, 64), "b": n >> n, "c": -9 >> n, "d": MASK >> n}
        assert [one & MASK for one in found[0].values()] == [one & MASK for one in wanted.values()]


def test_an_element_that_is_far_away() -> None:
    edge = Edge(struct.pack("<Q", 77))
    far = [1 << 20, 1 << 28, 1 << 30, 1 << 40, (1 << 60) + 5]
    for at in far:
        body = f"p = cast('u64 *', a)\nemit(x=p[{at}], y=(p + {at})[0])"
        found, _ = events(body, (edge.address - 8 * at) & MASK, memory=edge.memory)
        assert found == [{"x": 77, "y": 77}]


# `while`, tuples, records


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("i = k = 0\nwhile i < min(n, 20):\n    i += 3\n    k += i\nemit(i, k)", {"i": 9, "k": 18}),
        ("i = 0\nwhile turns(5) and i < n:\n    i += 1\nemit(i)", {"i": 5}),
        ("i = 0\nwhile turns(n & 15):\n    i += 1\nemit(i)", {"i": 7}),
        ("k = 0\nwhile u:\n    u &= u - 1\n    k += 1\nemit(k)", {"k": 3}),
        (
            "i = k = 0\nwhile True:\n    i += 1\n    if i & 1: k += i\n    if i == 9: break\nemit(i, k)",
            {"i": 9, "k": 25},
        ),
        (
            "i = 0\nwhile True:\n    i += 1\n    if i > n or i > 50:\n        emit(i)\n        return",
            {"i": 8},
        ),
        ("i = 9\nwhile i > max(n, 0):\n    i -= 1\n    if i == 7: break\nemit(i)", {"i": 7}),
        ("x, y = n, 13\nx, y = y, x - y\nx, y = y, x\nemit(x, y)", {"x": -6, "y": 13}),
        ("t = (1, n)\nfor i in range(5):\n    t = (t[1], t[0] + t[1])\nemit(t)", {"t_0": 38, "t_1": 61}),
        (
            "t = ((n, 1), u)\nt = ((t[1], 1), t[0][0])\n"
            "(x, y), z = t\n(x, y), z = (z, x), y\nemit(t, x, y, z)",
            {"t_0_0": 13, "t_0_1": 1, "t_1": 7, "x": 7, "y": 13, "z": 1},
        ),
        ('r = {"a": n, "b": (u, 2)}\nemit(r, x=r.b[0])', {"r_a": 7, "r_b_0": 13, "r_b_1": 2, "x": 13}),
        (
            "emit(a=(n, 2) < (n, 3), b=(7, u) == (n, 13), c=(n, 1) in ((6, 1), (7, 1)))",
            dict.fromkeys("abc", 1),
        ),
        ("p, q = (n, 1) if u > 20 else (2, n)\nemit(p, q)", {"p": 2, "q": 7}),
    ],
)
def test_while_and_tuples_mean_what_they_mean_in_python(body: str, wanted: dict[str, int]) -> None:
    found, _ = events(body, 0, 7, 13)
    assert found == [wanted]
