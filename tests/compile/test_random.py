"""Random checked programs: what the compiled code emits is what the tree means, in the interpreter and in
the kernel.

`Meaning` evaluates a checked tree straight from the definitions in `kwire.lang.checked`; `Record` packs the
expected frame. The memory is real memory of this process, so that the same program, reading through user
pointers, runs in the kernel too (BPF_PROG_TEST_RUN of a raw tracepoint) and must give the same bytes.
"""

import ctypes
import operator
import os
import random
import re
import struct
import threading
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
from amounts import fewer_in_guests
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kwire.bpf import vm
from kwire.bpf.arch import named
from kwire.bpf.image import MapSpec
from kwire.bpf.task import TaskFields
from kwire.bpf.vm_maps import ArrayMap, HashMap
from kwire.compile import loops
from kwire.compile.build import Compiled, compile_probe, task_fields
from kwire.compile.layout import layout
from kwire.kernel.prog import VerifierError
from kwire.lang import checked as c
from kwire.lang import types as t
from kwire.lang.context import Argument, Param, Site
from kwire.lang.tree import Source, Span
from kwire.wire.schema import decode

MASK = (1 << 64) - 1
SPAN = Span(1, 0, 1, 1)
SCALARS: tuple[t.Scalar, ...] = (*t.INTEGERS.values(), t.BOOL)
BLOCK = 256
NEXT = 24  # where the first block holds the address of the second, and the second that of the first
NOTHING = 32  # where a block holds an address that cannot be read
TEXTS = 128  # from here on the blocks hold texts
LIMIT = 40
COMM = b"random test"


class World:
    """Two blocks of this process's memory that point to each other, and three arguments."""

    def __init__(self, contents: bytes, arguments: tuple[int, int]) -> None:
        self.blocks = [
            ctypes.create_string_buffer(contents[n * BLOCK : (n + 1) * BLOCK], BLOCK) for n in (0, 1)
        ]
        self.addresses = [ctypes.addressof(block) for block in self.blocks]
        for block, other in zip(self.blocks, reversed(self.addresses), strict=True):
            struct.pack_into("<QQ", block, NEXT, other, 16)
            block[BLOCK - 1] = b"\0"  # texts end within the block
        self.arguments = (self.addresses[0], *arguments)
        self.memory = {at: block.raw for at, block in zip(self.addresses, self.blocks, strict=True)}

    def read(self, address: int, size: int) -> bytes | None:
        """As a probe sees it."""
        for base, data in self.memory.items():
            if base <= address and address + size <= base + BLOCK:
                return data[address - base : address - base + size]
        return None


class Meaning:
    """Evaluates checked expressions; registers are unsigned 64-bit numbers."""

    def __init__(
        self, world: World, env: dict[str, int], comm: bytes, before: "Meaning | None" = None
    ) -> None:
        """`before`: of the program that ran before, whose maps it finds."""
        self.world = world
        self.env = env
        self.comm = comm
        self.locals: dict[int, int] = {}
        self.turn = 0
        self.own: dict[int, bytes] = {}  # memory of the program's own that it reads, as it was then
        self.held_texts: dict[int, bytes] = {}  # of the locals that hold texts
        self.each: tuple[c.Map, bytes] | None = None  # where the innermost loop over a map is
        self.maps: Maps = before.maps if before else {}
        self.full: dict[str, int] = before.full if before else {}  # updates that found no room
        self.asked: int = before.asked if before else 0  # for the end, with which status
        self.signals: list[int] = []

    def register(self, e: Any) -> int:
        """The 64-bit register of a scalar expression."""
        return self.number(e) & MASK

    def signed(self, e: Any) -> int:
        """The register as a signed number."""
        value = self.register(e)
        return value - (1 << 64) if value >> 63 else value

    def number(self, e: Any) -> int:
        match e:
            case c.Const():
                return int(e.value)
            case c.Builtin():
                return self.env[e.op]
            case c.Param(access=Argument(number=number)):
                return extend(self.world.arguments[number], e.type)
            case c.Load():
                return self.load(e)
            case c.AddressOf():
                return self.address(e.place) or 0
            case c.LocalGet():
                return self.locals[e.local]
            case c.Turn():
                return self.turn
            case c.Binary():
                return self.binary(e)
            case c.Negate():
                return -self.register(e.operand)
            case c.Invert():
                return ~self.register(e.operand)
            case c.Compare():
                left, right = (self.signed(x) if e.signed else self.register(x) for x in (e.left, e.right))
                order = {"eq": left == right, "ne": left != right, "lt": left < right, "le": left <= right}
                return int(order[e.op] if e.op in order else {"gt": left > right, "ge": left >= right}[e.op])
            case c.TextEqual():
                found, _, there = self.text(e.text)
                block = isinstance(e.text, c.ReadText) and e.text.fixed > 0
                return int(found == e.literal and (there or block))
            case c.TextOrder():
                return self.order(e)
            case c.TextCompare():
                return self.texts(e)
            case c.TextLength():
                return len(self.text(e.text)[0])
            case c.TextMatch():
                return int(matches(self.text(e.text)[0], e.pieces))
            case c.BlockEqual():
                return int((self.bytes_at(e.block.place, e.block.size) or bytes(e.block.size)) == e.data)
            case c.Logic():
                left = bool(self.register(e.left))
                right = bool(self.register(e.right))
                return int(left and right if e.op == "and" else left or right)
            case c.Not():
                return int(not self.register(e.operand))
            case c.Select():
                return self.register(e.then if self.register(e.test) else e.otherwise)
            case c.Convert():
                return extend(self.register(e.operand), e.type)
            case c.Retype():
                return self.register(e.operand)
            case c.MapGet():
                return self.held(e)
            case c.MapHas():
                return int(self.key(e) in self.entries(e.map))
            case c.MapPlace():
                return self.address_of(data_of(self.entries(e.map).get(self.key(e), [0] * words(e.map))))
            case c.TextPlace():
                return self.address_of(self.held_texts[e.local] + b"\0")
            case c.EachKey():
                assert self.each is not None
                return self.address_of(self.each[1])
            case c.EachValue():
                assert self.each is not None
                return self.address_of(data_of(self.entries(self.each[0])[self.each[1]]))
            case c.EachGet():
                assert self.each is not None
                return self.number_of(e.map, self.each[1])
            case c.Bswap():
                low = self.register(e.operand) & (1 << 8 * e.size) - 1
                return int.from_bytes(low.to_bytes(e.size, "little"), "big")
        raise AssertionError(e)

    def order(self, e: c.TextOrder) -> int:
        """How a text stands to a literal; what cannot be read stands to nothing, but for a block."""
        found, _, there = self.text(e.text)
        if not there and not (isinstance(e.text, c.ReadText) and e.text.fixed):
            return 0
        less, same = found < e.literal, found == e.literal
        return int({"lt": less, "le": less or same, "gt": not (less or same), "ge": not less}[e.op])

    def texts(self, e: c.TextCompare) -> int:
        """How two texts stand to each other; one that cannot be read is unequal, but for a short block."""
        left, right = self.text(e.left), self.text(e.right)
        for side, (_, _, there) in ((e.left, left), (e.right, right)):
            block = isinstance(side, c.ReadText) and 0 < side.fixed <= min(16, side.type.limit)
            if not (there or block):
                return int(e.op == "ne")
        return int(getattr(operator, e.op)(left[0], right[0]))

    def binary(self, e: c.Binary) -> int:
        """Arithmetic in 64 bits."""
        sign = t.signed(e.type)
        a, b = (self.signed(x) if sign else self.register(x) for x in (e.left, e.right))
        if e.op in ("div", "mod"):
            if not b:
                return 0 if e.op == "div" else a
            return a // b if e.op == "div" else a % b
        if e.op in ("quo", "rem"):
            quotient = abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1) if b else 0
            return quotient if e.op == "quo" else a - quotient * b
        shift = b & 63
        return {
            "add": a + b,
            "sub": a - b,
            "mul": a * b,
            "and": a & b,
            "or": a | b,
            "xor": a ^ b,
            "shl": a << shift,
            "shr": a >> shift,
        }[e.op]

    def address(self, place: c.Place) -> int | None:
        """Where a place is; None when an index is outside of its array."""
        at = self.register(place.base) + place.offset
        for index in place.indexes:
            value = self.register(index.value)
            if index.length and value >= index.length:
                return None
            at += value * index.stride
        return at & MASK

    def address_of(self, data: bytes) -> int:
        """Where a copy of what the program keeps itself is from now on."""
        at = (1 << 62) + len(self.own) * (1 << 20)
        self.own[at] = data
        return at

    def read(self, at: int, size: int) -> bytes | None:
        """Memory of the process, or of the program itself."""
        for base, data in self.own.items():
            if base <= at and at + size <= base + len(data):
                return data[at - base : at - base + size]
        return self.world.read(at, size)

    def bytes_at(self, place: c.Place, size: int) -> bytes | None:
        """Memory at a place; None when it cannot be read."""
        at = self.address(place)
        return None if at is None else self.read(at, size)

    def load(self, e: c.Load) -> int:
        """A scalar in memory."""
        size = (e.bit_offset + e.bit_size + 7) // 8 if e.bit_size else t.size_of(e.type)
        raw = int.from_bytes(self.bytes_at(e.place, size) or b"", "little")
        if not e.bit_size:
            return extend(raw, e.type, boolean=False)
        value = raw >> e.bit_offset & (1 << e.bit_size) - 1
        return value - (1 << e.bit_size) if t.signed(e.type) and value >> e.bit_size - 1 else value

    def text(self, e: Any) -> tuple[bytes, bool, bool]:
        """A text, whether it was cut, and whether it could be read."""
        if isinstance(e, c.TextConst):
            return e.value, False, True
        if isinstance(e, c.Comm):
            return self.comm[: e.type.limit], len(self.comm) > e.type.limit, True
        at = self.address(e.place)
        found = b""
        most = e.type.limit if e.type.exact and not e.fixed else e.type.limit + 1
        while len(found) < most and not (e.fixed and len(found) == e.fixed):
            byte = None if at is None else self.read(at + len(found), 1)
            if byte is None:
                return b"", False, False
            if byte == b"\0":
                break
            found += byte
        return found[: e.type.limit], len(found) > e.type.limit and not e.type.exact, True

    def beginning(self, e: c.TextSet) -> bytes:
        """What a local holds of a text: of one that lies anywhere nothing behind its size is looked at."""
        text, most = e.value, e.type.limit
        if e.size is not None:
            size = max(self.signed(e.size), 0) if t.signed(e.size.type) else self.register(e.size)
            most = min(size, most)
        if isinstance(text, c.ReadText) and not text.fixed and e.size is not None:
            text = text.replace(type=text.type.replace(limit=min(text.type.limit, most), exact=True))
        return self.text(text)[0][:most]

    def text_field(self, e: Any) -> tuple[bytes, bool]:
        """A text in an event; the mark of being cut is on what could not be read too, but for a block."""
        found, cut, there = self.text(e)
        block = isinstance(e, c.ReadText) and 0 < e.fixed <= min(16, e.type.limit)
        return found, cut or not (there or block)

    def data(self, e: c.ReadBytes) -> tuple[bytes, bool]:
        """Bytes for the tail and whether there were more, or they could not be read."""
        wanted = max(self.signed(e.length), 0) if t.signed(e.length.type) else self.register(e.length)
        size = min(wanted, e.type.limit)
        found = self.bytes_at(e.place, size) if size else b""
        return (b"", True) if found is None else (found, wanted > size)

    # maps

    def entries(self, map: c.Map) -> dict[bytes, list[int]]:
        """What a map holds: words by key."""
        return self.maps.setdefault(map.name, {})

    def key(self, e: Any) -> bytes:
        """The bytes of a key, laid out as C does."""
        made = b""
        for type_, part in zip(e.map.key, e.key, strict=True):
            if isinstance(type_, t.Text | t.Array):
                step, data = 8, self.wide(type_, part)
            else:
                size = step = t.size_of(type_)
                data = self.register(part).to_bytes(8, "little")[:size]
            made += bytes(-len(made) % step) + data
        sizes = (8 if isinstance(one, t.Text | t.Array) else t.size_of(one) for one in e.map.key)
        return made + bytes(-len(made) % max(sizes, default=1))

    def wide(self, type_: t.Text | t.Array, part: Any) -> bytes:
        """A text or an array as a map has it, whole words."""
        if isinstance(type_, t.Text):
            return self.text(part)[0][: type_.limit].ljust(type_.limit + 8 & ~7, b"\0")
        size = t.size_of(type_)
        return (self.bytes_at(part.place, size) or bytes(size)).ljust(size + 7 & ~7, b"\0")

    def given(self, e: c.MapSet) -> list[int]:
        """The words of a value that is set."""
        made = b""
        for type_, part in zip(t.leaves(e.map.value), e.value, strict=True):
            if isinstance(type_, t.Text | t.Array):
                made += self.wide(type_, part)
            else:
                made += self.register(part).to_bytes(8, "little")
        return [*struct.unpack(f"<{len(made) // 8}Q", made), *[1] * (not e.map.key)]

    def held(self, e: c.MapGet) -> int:
        """The number at a key."""
        return self.number_of(e.map, self.key(e))

    def number_of(self, map: c.Map, key: bytes) -> int:
        """The number at the bytes of a key."""
        kept = self.entries(map).get(key, [0, 0])
        number = signed_as(kept[0], map.number)
        if map.kind in ("avg", "stats"):
            size = abs(number) // kept[1] if kept[1] else 0
            return size if number > 0 else -size
        return number

    def update(self, e: Any) -> list[int] | None:
        """The words at a key, which is there from now on if there is room."""
        entries, key = self.entries(e.map), self.key(e)
        if key not in entries and e.map.key and len(entries) >= e.map.size:
            self.full[e.map.name] = self.full.get(e.map.name, 0) + 1
            return None
        return entries.setdefault(key, [0] * words(e.map))

    def aggregate(self, e: c.Aggregate) -> None:
        """Add a value to what a map keeps."""
        value, kind = self.register(e.value), e.map.kind
        number = signed_as(value, e.map.number)
        kept = self.update(e)
        if kept is None:
            return
        if kind in ("min", "max"):
            old = signed_as(kept[0], e.map.number)
            better = number < old if kind == "min" else number > old
            kept[:] = [value, 1] if better or not kept[1] else kept
        elif kind == "hist":
            kept[log2_bucket(number, e.map.bounds[0])] += 1
        elif kind == "lhist":
            low, high, step = e.map.bounds
            inside = (number - low) // step + 1
            kept[0 if number < low else len(kept) - 1 if number >= high else inside] += 1
        else:
            kept[0] = kept[0] + value & MASK
            if len(kept) > 1:
                kept[1] = 1 if kind in ("hash", "lru") else kept[1] + 1

    def map_statement(self, e: Any) -> None:
        if isinstance(e, c.MapDelete):
            self.entries(e.map).pop(self.key(e), None)
        elif isinstance(e, c.Aggregate):
            self.aggregate(e)
        else:
            value, kept = self.given(e), self.update(e)
            if kept is not None:
                kept[:] = value

    # statements

    def run(self, program: c.Program) -> list[tuple[int, list[Any]]]:
        """The events' shapes and values: numbers, blocks of bytes, (bytes, cut) pairs."""
        events: list[tuple[int, list[Any]]] = []
        if program.filter is None or self.register(program.filter):
            self.statements(program.body, events)
        return events

    def statements(self, body: tuple[c.Stmt, ...], events: list[tuple[int, list[Any]]]) -> str:
        """Run statements; how they ended: "" at their end, else break, continue, leave or return."""
        for one in body:
            ended = ""
            if isinstance(one, c.LocalSet):
                self.locals[one.local] = self.number(one.value)
            elif isinstance(one, c.TextSet):
                self.held_texts[one.local] = self.beginning(one)
            elif isinstance(one, c.Store):
                had, at = self.held_texts.get(one.local, b""), one.at
                held = self.register(one.value).to_bytes(8, "little")
                self.held_texts[one.local] = had[:at] + held + had[at + 8 :]
            elif isinstance(one, c.Each):
                ended = self.over(one, events)
            elif isinstance(one, c.If):
                ended = self.statements(one.then if self.register(one.test) else one.otherwise, events)
            elif isinstance(one, c.Loop):
                ended = self.loop(one, events)
            elif isinstance(one, c.Block):
                ended = self.statements(one.body, events)
                ended = "" if ended == "leave" else ended
            elif isinstance(one, c.MapSet | c.MapDelete | c.Aggregate):
                self.map_statement(one)
            elif isinstance(one, c.Signal):
                self.signals.append(self.register(one.number))
            elif isinstance(one, c.Exit):
                self.asked = 0x100 | self.register(one.status) & 0xFF
                ended = "return"
            elif isinstance(one, c.Emit):
                events.append((one.shape, [self.value(value) for value in one.values]))
            else:
                ended = type(one).__name__.lower()
            if ended:
                return ended
        return ""

    def loop(self, e: c.Loop, events: list[tuple[int, list[Any]]]) -> str:
        """Run a loop; "return" where the program ends in it, "leave" where the block around it does."""
        start, *end = (
            self.register(one) if e.unsigned else self.signed(one)
            for one in (e.start, e.stop)
            if one is not None
        )
        before, ended = self.turn, ""
        for turn in range(e.most):
            self.turn = start + turn * e.step
            if end and not (self.turn < end[0] if e.step > 0 else self.turn > end[0]):
                break
            ended = self.statements(e.body, events)
            if ended in ("break", "leave", "return"):
                break
        self.turn = before
        return ended if ended in ("leave", "return") else ""

    def over(self, e: c.Each, events: list[tuple[int, list[Any]]]) -> str:
        """Run a loop over a map; as `loop`."""
        before, ended, entries = self.each, "", self.entries(e.map)
        for key in list(entries):
            self.each = e.map, key
            ended = self.statements(e.body, events) if key in entries else ""
            if ended in ("break", "leave", "return"):
                break
        self.each = before
        return ended if ended in ("leave", "return") else ""

    def value(self, e: Any) -> Any:
        """The value of a field."""
        if isinstance(e, c.ReadText | c.Comm):
            return self.text_field(e)
        if isinstance(e, c.ReadBytes):
            return self.data(e)
        if isinstance(e, c.ReadBlock):
            return self.bytes_at(e.place, e.size) or bytes(e.size)
        return self.number(e)


Maps = dict[str, dict[bytes, list[int]]]
"""What the maps of a program hold: by name and key the words of the value, all CPUs together."""


def words(map: c.Map) -> int:
    """How many words the value at a key has."""
    low, high, step = map.bounds
    if map.kind == "lhist":
        return 2 + -(-(high - low) // step)
    if map.kind in ("hash", "lru"):
        sizes = [
            one.limit + 8 & ~7 if isinstance(one, t.Text) else max(t.size_of(one) + 7 & ~7, 8)
            for one in t.leaves(map.value)
        ]
        return sum(sizes) // 8 + (not map.key)
    if map.kind == "hist":
        return 2 + (1 << low) - 1 + (64 - low << low)
    return {"count": 1, "sum": 1}.get(map.kind, 2)


def log2_bucket(number: int, bits: int) -> int:
    """Which bucket of a histogram of powers of two a number falls into: the numbers below 2^bits each have
    one, those above are told apart by their highest bit and `bits` more.
    """
    if number < 1 << bits:
        return 0 if number < 0 else number + 1
    shift = number.bit_length() - 1 - bits
    return 1 + (1 << bits) + (shift << bits) + (number >> shift) - (1 << bits)


def data_of(words: list[int]) -> bytes:
    """The bytes of the words of a value."""
    return struct.pack(f"<{len(words)}Q", *words)


def normal(map: c.Map, data: bytes) -> bytes:
    """A value without what is behind the NULs of its texts."""
    made = b""
    for one in t.leaves(map.value):
        size = one.limit + 8 & ~7 if isinstance(one, t.Text) else max(t.size_of(one) + 7 & ~7, 8)
        part = data[len(made) : len(made) + size]
        made += part.split(b"\0")[0].ljust(size, b"\0") if isinstance(one, t.Text) else part
    return made + data[len(made) :]


def signed_as(value: int, type_: t.Scalar) -> int:
    """A register as the number that it is."""
    return value - (1 << 64) if t.signed(type_) and value >> 63 else value


def together(map: c.Map, values: list[bytes]) -> list[int]:
    """The words of a value of which each CPU has a part."""
    parts = [list(struct.unpack(f"<{len(one) // 8}Q", one)) for one in values]
    if map.kind in ("min", "max"):
        kept = [part for part in parts if part[1]]
        choose = min if map.kind == "min" else max
        return choose(kept, key=lambda part: signed_as(part[0], map.number)) if kept else [0, 0]
    return [sum(column) & MASK for column in zip(*parts, strict=True)]


def extend(value: int, type_: t.Scalar, boolean: bool = True) -> int:
    """The low bytes as a type."""
    if isinstance(type_, t.Bool) and boolean:
        return int(value & MASK != 0)
    bits = 8 * t.size_of(type_)
    value &= (1 << bits) - 1
    return value - (1 << bits) if t.signed(type_) and value >> bits - 1 else value


def frame(program: c.Program, id: int, time: int, event: tuple[int, list[Any]]) -> bytes:
    """The expected frame, every byte of it; `id`: of the first shape."""
    shape, values = event
    placed = layout("expected", program.shapes[shape].fields)
    data = bytearray(placed.size)
    for item, value in zip(placed.fields, values, strict=True):
        if isinstance(value, tuple):
            found, cut = value
            fixed = struct.pack("<HH", len(data), len(found) | cut << 15)
            data += found
        elif isinstance(value, bytes):
            fixed = value
        else:
            fixed = (value & MASK).to_bytes(8, "little")[: item.size]
        data[item.offset : item.offset + item.size] = fixed
    data += bytes(-len(data) % 8)
    data[:16] = struct.pack(">BBHI", 0x11, 0, len(data), id + shape) + struct.pack("<Q", time)
    return bytes(data)


# random trees

POINTER = t.Pointer(t.VOID, t.USER)
ADDRESS = t.Array(t.U8, 16, "ipv6")
NUMBERS = (1 << 31, (1 << 31) - 1, -(1 << 31), 0xFFFFFFFF, 1 << 63, MASK, 0xFF, 0xFFFF, 1 << 32)
FIELD_TYPES: tuple[t.Type, ...] = (
    *SCALARS,
    t.Text(15),
    t.Text(LIMIT, t.USER),
    t.Bytes(24, t.USER),
    ADDRESS,
    t.Array(t.U16, 3),
    t.Array(t.U64, 9),
)
PARAMS = (Param("a", POINTER, Argument(0)), Param("b", t.U64, Argument(1)), Param("c", t.U64, Argument(2)))


class Writer:
    """Writes programs by dice. `depth` bounds expressions; hypothesis chooses both, and shrinks the depth."""

    def __init__(self, seed: int, depth: int, alone: bool) -> None:
        self.dice = random.Random(seed)
        self.depth = depth
        self.names: tuple[t.Scalar, ...] = ()
        self.shapes: tuple[c.Shape, ...] = ()
        self.inside = 0  # loops around, in the innermost block
        self.blocks = 0  # blocks around
        self.types: tuple[t.Scalar | t.Text, ...] = ()  # of all locals
        self.alone = alone  # loops are over maps with one key only: more have no order that could be known
        self.held: list[tuple[int, int]] = []  # locals that hold texts, and the limits of these
        self.kept: list[int] = []  # those whose memory holds numbers
        self.wide = random.Random(seed)  # two of them or one; by dice of their own, which change no others
        self.nested = 0  # texts in keys of texts
        self.given = 0  # the local that holds what the innermost block gives
        self.used: dict[str, c.Key] = {}  # by map a key that is meant again and again
        self.bound: c.Map | None = None  # decides how often the innermost loop turns
        self.maps = tuple(self.map(n) for n in range(self.one(0, 1, 2, 3)))

    def map(self, number: int) -> c.Map:
        """A map with few keys, now and then with room for one only."""
        kind = self.one("hash", "hash", "hash", *c.MAPS)
        parts = [
            self.one(t.U32, t.U8, t.S64, t.BOOL, t.Text(15), t.Text(LIMIT), ADDRESS)
            for _ in range(self.one(0, 1, 1, 3))
        ]
        value: Any = self.one(t.U64, t.S64)
        if kind in ("hash", "lru"):
            wide = (t.Text(9), t.Text(LIMIT), ADDRESS, t.Tuple((t.U32, t.Tuple((t.Text(20), t.S8)))))
            value = self.one(t.U64, t.S32, self.one(*SCALARS), self.one(*wide))
        bounds = self.one((0, 100, 10), (-7, 100, 3)) if kind == "lhist" else (0, 0, 0)
        if kind == "hist":
            bounds = self.one((0, 0, 0), (0, 0, 0), (2, 0, 0), (5, 0, 0))
        if bounds[0] < 0:
            value = t.S64
        size = 1000 if kind == "lru" else self.one(1, 2, 50)
        return c.Map(f"m{number}", kind, tuple(parts), value, size, bounds)

    def key(self, map: c.Map) -> c.Key:
        """One of few keys; every other time the one that most statements and reads of the map mean."""
        return self.same_key(map) if self.one(0, 1) else self.new_key(map)

    def same_key(self, map: c.Map) -> c.Key:
        """The key that is meant again and again."""
        if map.name not in self.used:
            self.used[map.name] = self.new_key(map, simple=True)
        return self.used[map.name]

    def new_key(self, map: c.Map, simple: bool = False) -> c.Key:
        """A key of its own; `simple`: of what is the same at each place, but for arrays."""
        parts: list[Any] = []
        for type_ in map.key:
            if simple and isinstance(type_, t.Text):
                parts.append(c.TextConst(b"AA", t.Text(2), SPAN))
            elif simple and isinstance(type_, t.SCALARS):
                parts.append(c.Convert(self.one(c.Const(1, t.U8, SPAN), self.leaf()), type_, SPAN))
            elif isinstance(type_, t.Text):
                known = self.one(b"", b"AA", COMM, b"known text")
                parts.append(self.one(self.text(), self.text(), c.TextConst(known, t.Text(len(known)), SPAN)))
            elif isinstance(type_, t.Array):
                parts.append(self.block_at(type_))
            else:
                number = self.one(
                    c.Const(extend(1, type_), type_, SPAN), self.expression(0), self.expression()
                )
                parts.append(c.Convert(number, type_, SPAN))
        return tuple(parts)

    def map_statement(self) -> Any:
        """A statement that changes a map."""
        map = self.near(self.maps)
        key = self.key(map)
        plain = map.kind in ("hash", "lru")
        if not isinstance(map.value, t.SCALARS):
            given = [self.value(one) for one in t.leaves(map.value)]
            return self.one(*[c.MapSet(map, key, tuple(given), SPAN)] * 3, c.MapDelete(map, key, SPAN))
        value = c.Convert(self.expression(), map.number, SPAN)
        if map.key and self.one(*range(6)) == 0:
            return c.MapDelete(map, key, SPAN)
        if plain and (t.size_of(map.value) < 8 or self.one(0, 1, 2)):
            return self.one(
                c.MapSet(map, key, (value,), SPAN),
                c.MapSet(map, key, (value,), SPAN),
                c.MapDelete(map, key, SPAN),
            )
        return c.Aggregate(map, key, value, SPAN)

    def near(self, maps: Sequence[c.Map]) -> c.Map:
        """A map, more often the one that the innermost loop goes by."""
        if self.bound is not None and self.bound in maps and self.one(0, 1):
            return self.bound
        found: c.Map = self.one(*maps)
        return found

    def map_statements(self) -> list[c.Stmt]:
        """A change of a map, now and then between two looks at maps, and only under a condition."""
        if self.one(0, 1):
            return [self.map_statement()]
        if self.one(0, 1):
            return [c.If(self.map_value(), (self.map_statement(),), (), SPAN), *self.looks()]
        return [*self.looks(), self.map_statement(), *self.looks()]

    def looks(self) -> list[c.Stmt]:
        """A local that has what a map holds, perhaps read before where it is not always wanted."""
        if not self.names:
            return []
        n, values = self.dice.randrange(len(self.names)), [self.map_value()]
        same = [c.MapGet(one, self.same_key(one), one.number, SPAN) for one in self.counting()]
        if same:
            value = self.one(*same)
            base = c.Select(value, self.pointer(), c.Const(16, POINTER, SPAN), POINTER, SPAN)
            place = c.Place(base, TEXTS, (), t.USER, SPAN)
            text = c.ReadText(place, t.Text(LIMIT, t.USER), SPAN)
            left, right = self.one((text, self.text()), (self.text(), text), (self.kept_text(), text))
            hidden = self.one(
                c.Select(self.expression(1), value, self.leaf(), t.S64, SPAN),
                c.Logic(self.one("and", "or"), self.expression(1), value, t.BOOL, SPAN),
                c.TextCompare(self.one("eq", "ne", "lt", "ge"), left, right, t.BOOL, SPAN),
            )
            more = c.Binary("add", c.LocalGet(n, self.names[n], SPAN), value, t.U64, SPAN)
            values = self.one(values, [hidden, more])
        return [c.LocalSet(n, c.Convert(one, self.names[n], SPAN), SPAN) for one in values]

    def map_value(self) -> Any:
        """What a map holds, where there is one that can be asked."""
        readable = [map for map in self.maps if map.kind not in ("hist", "lhist")]
        if not readable:
            return self.leaf()
        map = self.near(readable)
        key = self.key(map)
        known = map.key or map.kind in ("hash", "lru")
        has = c.MapHas(map, key, t.BOOL, SPAN)
        if not isinstance(map.value, t.SCALARS):
            places = [(at, type_) for at, type_ in self.parts(map) if isinstance(type_, t.SCALARS)]
            address = c.MapPlace(map, key, t.Pointer(t.VOID), SPAN)
            loads = [c.Load(c.Place(address, at, (), t.KERNEL, SPAN), type_, SPAN) for at, type_ in places]
            return self.one(has, *loads)
        return self.one(c.MapGet(map, key, map.number, SPAN), *[has] * bool(known))

    def parts(self, map: c.Map) -> list[tuple[int, Any]]:
        """The parts of a map's values, and where they lie."""
        found, at = [], 0
        for one in t.leaves(map.value):
            found.append((at, one))
            at += one.limit + 8 & ~7 if isinstance(one, t.Text) else max(t.size_of(one) + 7 & ~7, 8)
        return found

    def kept_text(self) -> Any:
        """A text that the program keeps itself, where there is one."""
        held = [
            (map, at, type_)
            for map in self.maps
            if not isinstance(map.value, t.SCALARS)
            for at, type_ in self.parts(map)
            if isinstance(type_, t.Text)
        ]
        if self.held and (not held or self.one(0, 1)):
            number, limit = self.one(*self.held)
            place = c.Place(c.TextPlace(number, t.Pointer(t.CHAR), SPAN), 0, (), t.KERNEL, SPAN)
        elif held:
            map, at, type_ = self.one(*held)
            limit = type_.limit
            address = c.MapPlace(map, self.key(map), t.Pointer(t.VOID), SPAN)
            place = c.Place(address, at, (), t.KERNEL, SPAN)
        else:
            return c.Comm(t.Text(15), SPAN)
        return c.ReadText(place, t.Text(limit), SPAN, limit + 1 if limit < 16 else 0)

    def block_at(self, type_: t.Array) -> c.ReadBlock:
        """An array in memory, or in a map."""
        size = t.size_of(type_)
        held = [
            (map, at)
            for map in self.maps
            if not isinstance(map.value, t.SCALARS)
            for at, one in self.parts(map)
            if one == type_
        ]
        if held and self.depth and self.one(0, 1):
            map, at = self.one(*held)
            before, self.depth = self.depth, 0
            address = c.MapPlace(map, self.key(map), t.Pointer(t.VOID), SPAN)
            self.depth = before
            return c.ReadBlock(c.Place(address, at, (), t.KERNEL, SPAN), size, type_, SPAN)
        return c.ReadBlock(self.place(size, 0), size, type_, SPAN)

    def one(self, *choices: Any) -> Any:
        return self.dice.choice(choices)

    def pointer(self) -> Any:
        """The address of a block, or one that cannot be read."""
        base: Any = c.Param("a", Argument(0), POINTER, SPAN)
        if self.maps and self.depth and self.one(*range(6)) == 0:  # whether it can be read is up to a map
            before, self.depth = self.depth, 0
            base = c.Select(self.map_value(), base, c.Const(16, POINTER, SPAN), POINTER, SPAN)
            self.depth = before
        for _ in range(self.one(0, 0, 0, 1, 1, 2)):
            at = self.one(NEXT, NEXT, NEXT, NOTHING)
            base = c.Load(c.Place(base, at, (), t.USER, SPAN), POINTER, SPAN)
        return base

    def place(self, size: int, depth: int, low: int = 0) -> c.Place:
        """A place of `size` bytes within a block."""
        offset = self.dice.randint(low, BLOCK - size)
        indexes: tuple[c.Index, ...] = ()
        if depth > 0 and self.one(*range(5)) == 0:
            stride, length = self.one(1, 2, 3, 8, 12), self.one(1, 2, 5)
            if offset + size + stride * length <= BLOCK:
                indexes = (c.Index(self.expression(depth - 1), stride, length),)
        return c.Place(self.pointer(), offset, indexes, t.USER, SPAN)

    def load(self, depth: int) -> c.Load:
        type_ = self.one(*t.INTEGERS.values())
        size = t.size_of(type_)
        if self.one(0, 1, 2):
            return c.Load(self.place(size, depth), type_, SPAN)
        at = self.dice.randint(0, 7)
        return c.Load(self.place(8, depth), type_, SPAN, at, self.dice.randint(1, min(8 * size, 64 - at)))

    def text(self) -> Any:
        self.nested += 1
        try:
            if self.nested < 3 and self.one(*range(4)) == 0:
                return self.kept_text()
        finally:
            self.nested -= 1
        if self.one(0, 1, 2) == 0:
            return c.Comm(t.Text(self.one(15, 15, self.dice.randint(1, 15))), SPAN)
        limit, fixed = self.dice.randint(1, LIMIT), self.one(0, self.dice.randint(1, 48))
        type_ = t.Text(limit, t.USER, self.one(False, False, True))
        return c.ReadText(self.place(max(fixed, 1), 0, TEXTS), type_, SPAN, fixed)

    def leaf(self) -> Any:
        number = self.one(self.dice.randint(-3, 70), self.one(*NUMBERS), self.dice.getrandbits(64))
        type_ = self.one(*SCALARS)
        return self.one(
            c.Const(extend(number, type_), type_, SPAN),
            self.one(*(c.Builtin(op, kind, SPAN) for op, kind in BUILTINS)),
            c.Param("p", Argument(self.one(1, 2)), self.one(*t.INTEGERS.values()), SPAN),
            *(c.LocalGet(n, kind, SPAN) for n, kind in enumerate(self.names)),
        )

    def expression(self, depth: int | None = None) -> Any:
        """A scalar expression over the locals in `names`."""
        depth = self.depth if depth is None else depth
        if depth <= 0 or self.one(*range(8)) == 0:
            return self.leaf()
        return self.one(*KINDS)(self, depth - 1)

    def emit(self) -> c.Emit:
        shape = self.dice.randrange(len(self.shapes))
        return c.Emit(tuple(self.value(field.type) for field in self.shapes[shape].fields), SPAN, shape)

    def shape(self, number: int) -> c.Shape:
        """A shape of event."""
        fields = tuple(c.Field(f"f{n}", self.one(*FIELD_TYPES)) for n in range(self.one(0, 1, 2, 3, 6)))
        return c.Shape(fields, f"s{number}")

    def value(self, type_: t.Type) -> Any:
        """A value for a field."""
        if isinstance(type_, t.Text):
            text = self.text()
            limit = min(text.type.limit, type_.limit)
            return text.replace(type=text.type.replace(limit=limit))
        if isinstance(type_, t.Bytes):
            return c.ReadBytes(self.place(type_.limit, self.depth), self.expression(), type_, SPAN)
        if isinstance(type_, t.Array):
            if type_ == ADDRESS:
                return self.block_at(type_)
            size = t.size_of(type_)
            return c.ReadBlock(self.place(size, self.depth), size, type_, SPAN)
        return c.Convert(self.expression(), type_, SPAN)  # type: ignore[arg-type]  # a scalar

    def assign(self, n: int, types: tuple[t.Scalar, ...]) -> c.LocalSet:
        return c.LocalSet(n, c.Convert(self.expression(), types[n], SPAN), SPAN)

    def result(self) -> c.LocalSet:
        """What the innermost block gives."""
        type_ = self.types[self.given]
        assert not isinstance(type_, t.Text)
        return c.LocalSet(self.given, c.Convert(self.expression(), type_, SPAN), SPAN)

    def block(self, depth: int) -> tuple[c.Stmt, ...]:
        body: list[c.Stmt] = []
        for _ in range(self.one(0, 1, 2, 3)):
            often = ["set", "if", "if", "emit", "loop", "loop", "block", "return"]
            often += (
                ["break"] * bool(self.inside) + ["leave"] * bool(self.blocks) + ["map"] * 4 * bool(self.maps)
            )
            often += (
                ["each"] * 2 * bool(self.maps)
                + ["text"] * 2 * bool(self.held)
                + ["store"] * 2 * bool(self.kept)
            )
            kind = self.one(*often) if depth else self.one("set", "emit", *["map"] * bool(self.maps))
            if kind == "map":
                body += self.map_statements()
            elif kind == "store":
                number = self.one(*self.kept)
                most = self.types[number].limit - 8
                body.append(c.Store(number, self.expression(), SPAN, self.wide.choice((0, most))))
            elif kind == "text":
                body.append(self.set_text(*self.one(*self.held)))
            elif kind == "each":
                body += self.each(depth)
            elif kind == "set" and self.names:
                body.append(self.assign(self.dice.randrange(len(self.names)), self.names))
            elif kind == "if":
                test = self.expression()
                body.append(c.If(test, self.block(depth - 1), self.block(depth - 1), SPAN))
            elif kind == "loop":
                body += self.loop(depth)
            elif kind == "break":
                end = self.one(c.Break(SPAN), c.Continue(SPAN))
                if self.one(0, 1, 2):
                    body.append(c.If(self.one(self.expression(), self.map_value()), (end,), (), SPAN))
                else:
                    body.append(end)
                    break
            elif kind == "leave":
                body += [self.result(), c.Leave(SPAN)]
                break
            elif kind == "block":
                inside, self.inside, self.blocks = self.inside, 0, self.blocks + 1
                self.types = (*self.types, self.one(*SCALARS))  # what the block gives
                given, self.given = self.given, len(self.types) - 1
                body.append(c.Block((*self.block(depth - 1), self.result()), SPAN))
                if self.names:
                    n = self.dice.randrange(len(self.names))
                    value = c.LocalGet(self.given, self.result().value.type, SPAN)
                    body.append(c.LocalSet(n, c.Convert(value, self.names[n], SPAN), SPAN))
                self.inside, self.blocks, self.given = inside, self.blocks - 1, given
            elif kind == "emit":
                body.append(self.emit())
            elif kind == "return" and self.one(0, 1):
                body.append(self.one(c.Return(SPAN), c.Exit(self.expression(), SPAN)))
            if self.one(*range(9)) == 0:  # none, which is sent to nobody: the kernel would heed others
                number = c.Binary("and", self.expression(1), c.Const(0, t.S64, SPAN), t.S64, SPAN)
                body.append(c.Signal(number, self.one(False, True), SPAN))
        return tuple(body)

    def stored(self) -> Any:
        """A number out of memory that a statement before has filled, by an address that is one."""
        if not self.kept:
            return self.leaf()
        base = c.TextPlace(self.one(*self.kept), t.Pointer(t.U64), SPAN)
        pointer = c.AddressOf(c.Place(base, 0, (), t.KERNEL, SPAN), t.Pointer(t.U64), SPAN)
        type_ = self.one(t.U64, t.S32, t.U8)
        most = self.types[base.local].limit - 8  # type: ignore[union-attr]  # a text
        at = self.one(0, 8 - t.size_of(type_)) + self.wide.choice((0, most))
        return c.Load(c.Place(pointer, at, (), t.KERNEL, SPAN), type_, SPAN)

    def set_text(self, number: int, limit: int) -> c.TextSet:
        """A text for a local that holds one."""
        known = c.TextConst(b"known text"[:limit], t.Text(10), SPAN)
        text = self.one(self.text(), self.text(), known)
        base = text.place.base if isinstance(text, c.ReadText) else None
        if isinstance(base, c.TextPlace) and base.local == number:
            text = known
        size = self.one(None, None, self.expression(1), self.up_to(15, self.one(t.S64, t.U64)))
        return c.TextSet(number, text, t.Text(limit), SPAN, size)

    def counting(self) -> list[c.Map]:
        """The maps whose numbers may be how often a loop turns."""
        plain = [one for one in self.maps if one.key and one.kind == "hash"]
        return [one for one in plain if isinstance(one.value, t.SCALARS)]

    def counted(self, value: Any) -> c.MapSet:
        """A change of what decides how often the innermost loop turns."""
        map = self.bound
        assert map is not None
        assert isinstance(map.value, t.SCALARS)
        return c.MapSet(map, self.same_key(map), (c.Convert(value, map.value, SPAN),), SPAN)

    def up_to(self, most: int, type_: t.Scalar, value: Any = None) -> c.Binary:
        """A number that varies, often with what a map holds: 0 to `most`, which is one less than a power of
        two.
        """
        if value is None:
            value = self.map_value() if self.maps and self.one(0, 1) else self.expression(1)
        return c.Binary("and", value, c.Const(most, type_, SPAN), type_, SPAN)

    def each(self, depth: int) -> list[c.Stmt]:
        """A loop over a map, which the body leaves alone; what it finds there goes to locals and events."""
        maps = [one for one in self.maps if one.key and one.kind not in ("hist", "lhist")]
        maps = [one for one in maps if one.size == 1 or not self.alone]
        if not maps:
            return []
        map = self.one(*maps)
        pointer = t.Pointer(t.VOID)
        key, value = (c.Place(one(pointer, SPAN), 0, (), t.KERNEL, SPAN) for one in (c.EachKey, c.EachValue))
        first: list[c.Stmt] = []
        if self.names:
            n = self.dice.randrange(len(self.names))
            read: Any = c.Const(1, t.U64, SPAN)
            if isinstance(map.value, t.SCALARS):
                read = c.EachGet(map, map.number, SPAN)
            elif isinstance(self.parts(map)[0][1], t.SCALARS):
                read = c.Load(value, self.parts(map)[0][1], SPAN)
            if isinstance(map.key[0], t.SCALARS) and self.one(0, 1):
                read = c.Load(key, map.key[0], SPAN)
            first.append(c.LocalSet(n, c.Convert(read, self.names[n], SPAN), SPAN))
        if self.held and isinstance(map.key[0], t.Text):
            number, limit = self.one(*self.held)
            text = c.ReadText(key, map.key[0], SPAN)
            first.append(c.TextSet(number, text, t.Text(limit), SPAN))
        before = self.maps
        self.maps = tuple(one for one in before if one is not map)
        self.inside += 1
        body = self.block(depth - 1)
        self.inside -= 1
        self.maps = before
        return [c.Each(map, (*first, *body), SPAN)]

    def loop(self, depth: int) -> list[c.Stmt]:
        """A loop of a few turns over some numbers; its index goes to a local, if there is one. One in two is
        unsigned or begins near the end of all numbers; some end where they should have begun, and some turn
        as often as a map says, which changes in the turns.
        """
        step, unsigned = self.one(1, 2, -1, 3, -4), self.one(False, False, True)
        type_ = t.U64 if unsigned else t.S64
        end = (1 << 64 if unsigned else 1 << 63) - 8
        begin = self.one(0, 5, -2, end) if not unsigned else self.one(9, 5, end)
        start = c.Const(begin, type_, SPAN)
        before, self.bound = self.bound, self.one(None, *self.counting())
        value: Any = None
        if self.bound is not None:
            value = c.MapGet(self.bound, self.same_key(self.bound), self.bound.number, SPAN)
        small = self.up_to(7, type_, value)
        back = step < 0 and (unsigned is False or begin > 7)
        stop = self.one(None, c.Binary("sub" if back else "add", start, small, type_, SPAN))
        self.inside += 1
        body = self.block(depth - 1)
        if self.maps and self.one(0, 1):
            body = (*body, *self.map_statements())
        if value is not None and self.names:  # what decides is looked at and changed
            n = self.dice.randrange(len(self.names))
            more = c.Binary("add", c.LocalGet(n, self.names[n], SPAN), value, t.U64, SPAN)
            look = c.LocalSet(n, c.Convert(more, self.names[n], SPAN), SPAN)
            body = (look, self.one(self.map_statement(), self.counted(self.one(value, more))), *body)
        first = [self.counted(c.Const(self.dice.randint(1, 15), t.U64, SPAN))] if value is not None else []
        self.bound = before
        self.inside -= 1
        if self.names:
            n = self.dice.randrange(len(self.names))
            body = (c.LocalSet(n, c.Convert(c.Turn(type_, SPAN), self.names[n], SPAN), SPAN), *body)
        most = 8 if stop is not None else self.one(0, 1, 2, 4)
        if stop is None and not -(1 << 63) <= begin + step * most < end + 8:
            most = 0
        return [*first, c.Loop(start, step, stop, most, body, SPAN, unsigned)]

    def program(self) -> c.Program:
        """A whole program."""
        wanted = self.one(None, self.expression())
        self.shapes = tuple(self.shape(n) for n in range(self.one(1, 1, 2, 3)))
        types: tuple[t.Scalar, ...] = tuple(self.one(*SCALARS) for _ in range(self.one(0, 1, 3)))
        start: list[c.Stmt] = []
        for n in range(len(types)):
            start.append(self.assign(n, types))
            self.names = self.types = types[: n + 1]
        for _ in range(self.one(0, 0, 1, 2)):
            number, limit = len(self.types), self.one(6, 15, LIMIT)
            start.append(self.set_text(number, limit))
            self.types = (*self.types, t.Text(limit))
            self.held.append((number, limit))
        for _ in range(self.one(0, 0, 1)):
            number = len(self.types)
            start.append(c.Store(number, self.expression(), SPAN))
            size = self.wide.choice((8, 16))
            if size > 8:
                known = c.Const(self.wide.getrandbits(64), t.U64, SPAN)
                start.append(c.Store(number, known, SPAN, 8))
            self.types = (*self.types, t.Text(size))
            self.kept.append(number)
        body = [*start, *self.block(self.one(2, 2, 3)), self.emit()]
        if self.names:  # what is wrong in a local is seen
            values = tuple(c.LocalGet(n, type_, SPAN) for n, type_ in enumerate(self.names))
            body.append(c.Emit(values, SPAN, len(self.shapes)))
            fields = tuple(c.Field(f"l{n}", type_) for n, type_ in enumerate(self.names))
            self.shapes = (*self.shapes, c.Shape(fields, "locals"))
        names = tuple(c.Local(f"l{n}", type_) for n, type_ in enumerate(self.types))
        site = Site("rawtracepoint", "random", PARAMS)
        return c.Program("random", site, Source("random", "x"), self.shapes, names, wanted, tuple(body), SPAN)


def matches(text: bytes, pieces: tuple[c.Piece, ...]) -> bool:
    """What a pattern means, by Python's own regular expressions."""

    def one(choices: c.ByteSet) -> bytes:
        return b"[" + b"".join(b"\\x%02x-\\x%02x" % pair for pair in choices) + b"]"

    written = b".*".join(b"".join(map(one, piece)) for piece in pieces)
    return re.fullmatch(written, text, re.DOTALL) is not None


def text_match(w: Writer) -> c.TextMatch:
    """A pattern out of letters that texts are made of, now and then one that is found."""
    text = w.text()

    def choices() -> c.ByteSet:
        low = w.one(0x41, 0x41, 1, w.dice.randint(1, 255))
        found: c.ByteSet = w.one(
            ((0x41, 0x41),),
            ((0x41, 0x41),),
            ((1, 255),),
            ((low, w.dice.randint(low, 255)),),
            ((1, 0x40), (0x42, 0x60), (0x80, 0xFF)),
            ((COMM[0], COMM[0]),),
            ((COMM[-1], COMM[-1]),),
        )
        return found

    pieces = [tuple(choices() for _ in range(w.one(0, 0, 1, 1, 2, 3, 5))) for _ in range(w.one(1, 2, 3, 4))]
    while sum(map(len, pieces)) > text.type.limit:
        pieces.pop()
    middle = [piece for piece in pieces[1:-1] if piece]
    pieces = [pieces[0], *middle, pieces[-1]] if len(pieces) > 1 else pieces
    return c.TextMatch(text, tuple(pieces) or ((),), t.BOOL, SPAN)


def block_equal(w: Writer, depth: int) -> c.BlockEqual:
    size = w.one(6, 16)
    block = c.ReadBlock(w.place(size, depth), size, t.Array(t.U8, size, "ipv6"), SPAN)
    return c.BlockEqual(block, w.one(bytes(size), b"\x41" * size), t.BOOL, SPAN)


BUILTINS = (("pid", t.U32), ("tid", t.U32), ("cpu", t.U16))
BINARY = ["add", "sub", "mul", "div", "mod", "quo", "rem", "and", "or", "xor", "shl", "shr"]
KINDS: tuple[Callable[[Writer, int], Any], ...] = (
    Writer.load,
    Writer.load,
    lambda w, d: c.Binary(w.one(*BINARY), w.expression(d), w.expression(d), w.one(t.S64, t.U64), SPAN),
    lambda w, d: c.Binary(w.one(*BINARY), w.expression(d), w.expression(d), w.one(t.S64, t.U64), SPAN),
    lambda w, d: c.Binary(
        w.one("div", "mod", "quo", "rem"), w.expression(d), w.leaf(), w.one(t.S64, t.U64), SPAN
    ),
    lambda w, d: c.Compare(
        w.one("eq", "ne", "lt", "le", "gt", "ge"),
        w.expression(d),
        w.expression(d),
        w.one(True, False),
        t.BOOL,
        SPAN,
    ),
    lambda w, d: c.Logic(w.one("and", "or"), w.expression(d), w.expression(d), t.BOOL, SPAN),
    lambda w, d: c.Not(w.expression(d), t.BOOL, SPAN),
    lambda w, d: c.Select(w.expression(d), w.expression(d), w.expression(d), t.S64, SPAN),
    lambda w, d: c.Convert(w.expression(d), w.one(*SCALARS), SPAN),
    lambda w, d: c.Negate(w.expression(d), t.S64, SPAN),
    lambda w, d: c.Invert(w.expression(d), t.U64, SPAN),
    lambda w, d: c.Bswap(w.expression(d), w.one(2, 4, 8), t.U64, SPAN),
    lambda w, d: text_equal(w.text(), w.one(b"", b"A", b"AA", b"random test", b"A" * 20)),
    lambda w, d: c.TextOrder(
        w.one("lt", "le", "gt", "ge"), w.text(), w.one(b"", b"A", b"AA", b"B" * 20, COMM), t.BOOL, SPAN
    ),
    lambda w, d: c.TextCompare(w.one("eq", "ne", "lt", "le", "gt", "ge"), w.text(), w.text(), t.BOOL, SPAN),
    lambda w, d: text_match(w),
    lambda w, d: c.TextLength(w.text(), t.U64, SPAN),
    lambda w, d: w.stored(),
    block_equal,
    lambda w, d: c.AddressOf(w.place(1, d), POINTER, SPAN),
    lambda w, d: w.map_value(),
    lambda w, d: w.map_value(),
)


def text_equal(text: Any, literal: bytes) -> c.TextEqual:
    return c.TextEqual(text, literal, t.BOOL, SPAN)


def world_of(seed: int) -> World:
    """Memory by dice: noise, or mostly zeros and letters."""
    dice = random.Random(seed)
    letters = dice.choice([range(256), [0, 0x41, 0x41, 0x41], [0, 0, 1, 0x41, 0x80, 0xFF]])
    return World(bytes(dice.choices(letters, k=2 * BLOCK)), (dice.getrandbits(64), dice.randint(0, 3)))


RING = MapSpec("ring", "ringbuf", 0, 0, 1 << 20)
ID = 3
"""Of the first shape; three more may follow."""
SEEDS = st.integers(0, (1 << 32) - 1)
DEPTHS = st.integers(0, 4)


def built(
    program: c.Program,
    cpus: int = 8,
    task: TaskFields | None = None,
    cookie: bool = False,
    called: bool = False,
) -> Compiled:
    which = loops.ALL if called else loops.NONE
    options: Any = {"arch": named("x86_64"), "task": task, "cookie": cookie, "loops": which}
    return compile_probe(program, id=ID, spec="x", probes=ID + 3, cpus=cpus, tasks=False, **options)


@cache
def here() -> TaskFields | None:
    """Where this kernel keeps the current task's pid and name."""
    from kwire.btf.store import load_kernel

    return task_fields(load_kernel().vmlinux)


def interpreted(
    compiled: Compiled, world: World, env: dict[str, int], comm: bytes, beside: vm.Machine | None = None
) -> tuple[list[bytes], vm.Machine]:
    machine = vm.Machine(
        compiled.image,
        memory=vm.Memory(world.memory),
        beside=beside,
        comm=comm.decode(),
        monotonic_ns=env["nsecs"],
        pid=env["pid"],
        tid=env["tid"],
        cpu=env["cpu"],
        cookie=ID,
    )
    return machine.run(vm.arguments(world.arguments)).emitted, machine


def unit(seed: int, depth: int, alone: bool = False) -> list[c.Program]:
    """Programs that share maps, and run one after the other."""
    first = Writer(seed, depth, alone)
    programs = [first.program()]
    for number in range(seed % 3):
        other = Writer(seed + number + 1, depth, alone)
        other.maps = first.maps
        programs.append(other.program())
    return programs


def held(
    programs: list[c.Program], contents: Callable[[str], dict[bytes, list[bytes]]]
) -> tuple[Maps, dict[str, int], int]:
    """What the maps hold, how many updates found no room, and the end that was asked for. `contents`: the
    values of a map, by key.
    """
    found: Maps = {}
    full: dict[str, int] = {}
    maps = {name: map for program in programs for name, map in program.maps().items()}
    for name, map in maps.items():
        count = map.replace(kind="count")
        full[name] = together(count, contents(f"@{name} lost").get(bytes(4), [bytes(8)]))[0]
        entries = contents(f"@{name}")
        if not map.key and entries:  # one value; of what each CPU keeps a stretch in cache lines of its own
            [data] = entries.pop(bytes(4))
            size = 8 * words(map)
            parts = [data[at : at + size] for at in range(0, len(data), size + 63 & ~63)]
            entries = {b"": parts if map.kind not in ("hash", "lru") else [data]}
        if map.kind in ("hash", "lru"):
            entries = {key: [normal(map, one) for one in values] for key, values in entries.items()}
        found[name] = {key: together(map, values) for key, values in entries.items()}
        if not map.key and not any(found[name].get(b"", ())):
            found[name] = {}
    asked = contents("asked").get(bytes(4), [bytes(8)])
    full = {name: one for name, one in full.items() if one}
    return {name: one for name, one in found.items() if one}, full, int.from_bytes(asked[0], "little")


def meant(meaning: Meaning, *programs: c.Program) -> tuple[Maps, dict[str, int], int]:
    """What the maps of programs should hold, how many updates find no room, and the end that is asked for."""
    names = {name for program in programs for name in program.maps()}
    maps = {
        name: {key: kept for key, kept in entries.items() if key or any(kept)}
        for name, entries in meaning.maps.items()
        if name in names
    }
    full = {name: number for name, number in meaning.full.items() if name in names}
    return {name: one for name, one in maps.items() if one}, full, meaning.asked


def of_machine(machine: vm.Machine) -> Callable[[str], dict[bytes, list[bytes]]]:
    """The contents of an interpreter's maps."""

    def contents(name: str) -> dict[bytes, list[bytes]]:
        map = machine.shared.get(name)
        if map is None:
            return {}
        assert isinstance(map, ArrayMap | HashMap)
        return {bytes(4): [bytes(map.value())]} if isinstance(map, ArrayMap) else map.entries()

    return contents


EXAMPLES = int(os.environ.get("KWIRE_EXAMPLES", "0"))
"""Of a campaign, which are others each time; 0: the gate's, which are always the same."""

always = settings(
    deadline=None, suppress_health_check=list(HealthCheck), derandomize=not EXAMPLES, database=None
)


@settings(always, max_examples=EXAMPLES or 150)
@given(SEEDS, DEPTHS)
@example(3968070356, 4)  # the key of a text that is compared compares texts itself
@example(3738275045, 0)  # turns change what decides how many there are
@example(2827074476, 1)  # a map is read in a text that is not always compared
def test_the_interpreter_gives_what_the_tree_means(seed: int, depth: int) -> None:
    programs, world = unit(seed, depth), world_of(seed)
    env = {"pid": 4321, "tid": 99, "cpu": 5, "nsecs": 0x1122334455667788}
    meaning: Meaning | None = None
    machine: vm.Machine | None = None
    for program in programs:
        compiled = built(program, cookie=seed % 3 == 0, called=seed % 4 > 1)
        meaning = Meaning(world, env, COMM, meaning)
        expected = [frame(program, ID, env["nsecs"], event) for event in meaning.run(program)]
        emitted, machine = interpreted(compiled, world, env, COMM, machine)
        assert [x.hex() for x in emitted] == [x.hex() for x in expected]
        for one in emitted:
            decode(compiled.schemas[int.from_bytes(one[4:8], "big") - ID], one)
        assert held([program], of_machine(machine)) == meant(meaning, program)
        env["cpu"] = (env["cpu"] + 3) % 8


def in_kernel(
    programs: list[c.Program], images: list[Compiled], world: World, cpu: int
) -> tuple[list[list[bytes]], tuple[Maps, dict[str, int], int]]:
    """What each program emits when the kernel runs it in this thread, and what their maps hold then."""
    from kwire.kernel import prog
    from kwire.kernel.maps import Map
    from kwire.kernel.ring import Ring

    def contents(name: str) -> dict[bytes, list[bytes]]:
        map = shared.get(name)
        if map is None:
            return {}
        if map.spec.kind == "percpu_hash":
            return {key: map.lookup_cpus(key) or [] for key in list(map.keys())}
        return {key: [value] for key, value in map.items()}

    shared: dict[str, Map] = {}
    own: list[Map] = []
    found = []
    try:
        for compiled in images:
            maps = dict(shared)
            for spec in compiled.image.maps:
                if spec.name not in ("asked", "rings", "zeros") and not spec.name.startswith("@"):
                    own.append(Map.create(spec))
                    maps[spec.name] = own[-1]
                elif spec.name not in shared:
                    maps[spec.name] = shared[spec.name] = Map.create(spec)
            with Map.create(RING) as ring_map, Ring(ring_map) as ring:
                if "rings" in shared:
                    shared["rings"].update(struct.pack("<I", cpu), ring_map.fd)
                with prog.load(compiled.image, maps) as loaded:
                    loaded.test_run(context=vm.arguments(world.arguments), cpu=cpu)
                frames = ring.read()
                found.append([bytes(frames.frame_bytes(n)) for n in range(len(frames))])
                ring.release()
        return found, held(programs, contents)
    finally:
        for one in (*own, *shared.values()):
            one.close()


@pytest.mark.live
@pytest.mark.kernels("6.1")  # the oldest verifier; the newest one judges here
@settings(always, max_examples=EXAMPLES or fewer_in_guests(80))
@given(SEEDS, DEPTHS)
@example(3968070356, 4)  # the key of a text that is compared compares texts itself
@example(2679131824, 3)  # a text of a length of its own, whose limit is less than that of what it is kept in
@example(2297156900, 4)  # the verifier has enough of loops that it walks, and not of those that are called
def test_the_kernel_gives_what_the_tree_means(seed: int, depth: int) -> None:
    programs, world = unit(seed, depth, alone=True), world_of(seed)
    allowed = os.sched_getaffinity(0)
    cpu, thread = max(allowed), threading.get_native_id()
    with open(f"/proc/self/task/{thread}/comm", "rb") as file:
        comm = file.read().rstrip(b"\n")
    env = {"pid": os.getpid(), "tid": thread, "cpu": cpu, "nsecs": 0}
    task, called = here() if seed % 2 else None, seed % 4 > 1
    images = [built(program, cpu + 1, task, called=called) for program in programs]
    meaning: Meaning | None = None
    events = []
    for program in programs:
        meaning = Meaning(world, env, comm, meaning)
        events.append(meaning.run(program))
    assert meaning is not None
    wanted = meant(meaning, *programs)
    got: list[list[str]] = []
    expected: list[list[str]] = []
    maps: Any = None
    os.sched_setaffinity(0, {cpu})
    try:
        for _ in range(3):  # a page of this process can be on the move, and then it cannot be read
            try:
                emitted, maps = in_kernel(programs, images, world, cpu)
            except VerifierError:  # walked loops are too much for it; so the planner does
                images = [built(program, cpu + 1, task, called=True) for program in programs]
                emitted, maps = in_kernel(programs, images, world, cpu)
            got = [[one.hex() for one in frames] for frames in emitted]
            expected = [
                [
                    frame(program, ID, struct.unpack_from("<Q", one, 8)[0], event).hex()
                    for one, event in zip(frames, given, strict=False)
                ]
                for program, frames, given in zip(programs, emitted, events, strict=True)
            ]
            if got == expected and maps == wanted:
                break
    finally:
        os.sched_setaffinity(0, allowed)
    assert [len(frames) for frames in got] == [len(one) for one in events]
    assert got == expected
    assert maps == wanted
