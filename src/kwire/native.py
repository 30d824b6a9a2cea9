"""Loader of the C walkers (native/): each name is a function, or None where the library is absent.

The walkers find and move frames in chains of lengths. Each has a Python twin in the room that uses it; the
twin is the specification, and a user picks `native.frame_walk or twin`. Invariants: no copy of a buffer is
made, read-only ones included; a buffer is pinned during the call, so that it can neither move, be resized nor
be unmapped; sizes passed to C come from the buffers themselves, never from the caller. Tables and `offsets`
are writable contiguous buffers of u64: `array('Q')`, a bytearray, a memoryview cast to 'Q'; a `limit` beyond
such a buffer is cut to it. Any object with the buffer protocol will do as data.

`KWIRE_NATIVE=0` in the environment leaves the library out: everything runs on the twins.
"""

import ctypes
import os
import sys
from array import array
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from kwire.hints import Any, Final, Literal
from kwire.lazy import NamedTuple

_LIBRARY = "_walk.abi3.so"
_WRITABLE = 1  # PyBUF_WRITABLE

# u64s that C and Python share; native/tables.h is made of these, and of the rooms' tables.
ROW_WORDS: Final = 4  # a probe for epb_pack
COUNT_WORDS: Final = 3  # an id for count_by_id
FIELD_WORDS: Final = 4  # a field for event_counts
LINE_WORDS: Final = 4  # a shape for print_lines …
PART_WORDS: Final = 9  # … and a part of one
ROW_SHAPE_WORDS: Final = 4  # a shape for rows_lines …
ROW_PART_WORDS: Final = 7  # … a part of one …
ROW_MEMO_WORDS: Final = 3  # … and what it keeps of each part
TOGETHER: Final = 16  # fields that event_counts counts together, each in a table of its own
SHAPE_WORDS: Final = 5  # a schema for events_unsound
PACKET_WORDS: Final = 4  # a packet of a file
FACE_WORDS: Final = 4  # an interface of a file
BIT_LENGTHS: Final = 65  # bit lengths of 64-bit integers, which bit_counts gives twice …
SUMS: Final = 6  # … and behind them: low and high word of two sums, the least and the greatest


class _Buffer(ctypes.Structure):
    """Py_buffer, part of the stable ABI since Python 3.11."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


_get = ctypes.pythonapi.PyObject_GetBuffer
_get.argtypes = (ctypes.py_object, ctypes.c_void_p, ctypes.c_int)
_get.restype = ctypes.c_int
_release = ctypes.pythonapi.PyBuffer_Release
_release.argtypes = (ctypes.c_void_p,)
_release.restype = None
_WORD = ctypes.sizeof(ctypes.c_void_p)
_BUF, _LEN = _Buffer.buf.offset // _WORD, _Buffer.len.offset // _WORD  # words of a _Buffer
_MADE = 64  # buffers made together

#: Py_buffers that pin nothing: their address, and their words.
_free: "list[tuple[int, memoryview[int]]]" = []


def _make() -> "tuple[int, memoryview[int]]":
    """One more; those that are made with it are free."""
    size = ctypes.sizeof(_Buffer)
    made = ctypes.create_string_buffer(size * _MADE)
    words = memoryview(made).cast("B").cast("P")
    start = ctypes.addressof(made)
    each = size // _WORD
    _free.extend((start + at * size, words[at * each : (at + 1) * each]) for at in range(1, _MADE))
    return start, words[:each]


class Pinned:
    """A buffer that stays where it is while this lives: `address` and `size` in bytes. A context manager."""

    __slots__ = ("_held", "address", "size")

    def __init__(self, buffer: Any, *, writable: bool = False) -> None:
        """BufferError where `buffer` is not contiguous, or read-only although `writable` is asked."""
        self._held: tuple[int, memoryview[int]] | None = None
        try:
            held = _free.pop()
        except IndexError:
            held = _make()
        try:
            _get(buffer, held[0], _WRITABLE if writable else 0)
        except BaseException:
            _free.append(held)
            raise
        self._held = held
        words = held[1]
        self.address: int = words[_BUF]
        self.size: int = words[_LEN]

    def __enter__(self) -> "Pinned":
        return self

    def __exit__(self, *_: object) -> None:
        held, self._held = self._held, None
        if held is not None:
            _release(held[0])
            _free.append(held)

    def __del__(self) -> None:
        self.__exit__()

    def release(self) -> None:
        """Let the buffer go; twice is harmless."""
        self.__exit__()


def address(buffer: Any) -> int:
    """Where a buffer begins in memory. True only while the caller keeps the buffer alive and its size."""
    with Pinned(buffer) as pinned:
        return pinned.address


class Events(NamedTuple):
    """So `many` events in `data`: where each begins, and how many bytes it has without its trailer (u64)."""

    data: Any
    starts: Any
    ends: Any
    many: int


class TextField(NamedTuple):
    """A field of text; `kind`: how it lies in an event, at byte `at` or in the tail, which begins at `fixed`.

    `swap`: whether numbers are turned; `secret`: what its texts are hashed with.
    """

    at: int
    kind: int
    width: int
    swap: bool
    fixed: int
    secret: int


class Distinct(NamedTuple):
    """Where distinct values go, as they come: `keys`, `counts`, `places` of the first, `lengths` (u64).

    `table` (u32): zeros, a power of two of them and more than values have room; so many for each field that
    is counted together with others, TOGETHER at most. `factor`: odd and random.
    """

    factor: int
    table: Any
    keys: Any
    counts: Any
    places: Any = None
    lengths: Any = None


class Rows(NamedTuple):
    """So `many` events in `pieces` of memory: each begins at byte `at` (u64) of piece `of` (u32).

    `ends` (u32): how many bytes each has without its trailer.
    """

    pieces: Sequence[Any]
    of: Any
    at: Any
    ends: Any
    many: int


class RowTexts(NamedTuple):
    """Texts that rows have by their numbers (u32): text n ends at `ends[n]` (u32), where the next one begins.

    `by_row`: each number is a row's, else one of those of its shape.
    """

    numbers: Any
    by_row: bool
    texts: Any
    ends: Any


class Written(NamedTuple):
    """What rows are written with: the shape of each (u32), its wall-clock ns (s64), and its place among the
    rows of its shape (u32); `shapes`, `parts`, `texts` and `given` as `analyze.rowlines` has them (u64).
    `memos`: ROW_MEMO_WORDS for each part, zeros at first, which are kept for the next rows.
    """

    shape: Any
    times: Any
    places: Any
    shapes: Any
    parts: Any
    memos: Any
    texts: Any
    given: Sequence[RowTexts]


class FixedColumn(NamedTuple):
    """The `width` bytes at byte `at` of each row, back to back in `out` (u8).

    `each`: bytes of the numbers in them whose order is turned, 0 or 1: none.
    """

    at: int
    width: int
    each: int
    out: Any


class Survey(NamedTuple):
    """What the heads of frames tell together.

    `same`: all are EVENTs of one id; `ordered`: no EVENT's timestamp is less than that before it; `first`,
    `last`: the least and the greatest of these, as the records hold them (2**64 - 1 and 0 without any);
    `unsound`: EVENTs that are not as their schema says.
    """

    same: bool
    ordered: bool
    first: int
    last: int
    unsound: int


class _Survey(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in Survey._fields)


class _Events(ctypes.Structure):
    _fields_ = (
        *(("data", ctypes.c_void_p), ("size", ctypes.c_uint64), ("count", ctypes.c_uint64)),
        *(("starts", ctypes.c_void_p), ("ends", ctypes.c_void_p)),
    )


class _Piece(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_uint64))


class _Rows(ctypes.Structure):
    _fields_ = (
        *(("pieces", ctypes.c_void_p), ("piece_count", ctypes.c_uint64), ("count", ctypes.c_uint64)),
        *((name, ctypes.c_void_p) for name in ("of", "at", "ends")),
    )


class _FixedColumn(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_uint64) for name in ("at", "width", "each")),
        ("out", ctypes.c_void_p),
    )


class _RowTexts(ctypes.Structure):
    _fields_ = (
        *(("numbers", ctypes.c_void_p), ("count", ctypes.c_uint64), ("by_row", ctypes.c_uint64)),
        *(("texts", ctypes.c_void_p), ("size", ctypes.c_uint64), ("ends", ctypes.c_void_p)),
        ("texts_count", ctypes.c_uint64),
    )


class _Written(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("shape", "times", "places")),
        *(("shapes", ctypes.c_void_p), ("shapes_count", ctypes.c_uint64)),
        *(("parts", ctypes.c_void_p), ("parts_count", ctypes.c_uint64), ("memos", ctypes.c_void_p)),
        *(("texts", ctypes.c_void_p), ("texts_size", ctypes.c_uint64)),
        *(("given", ctypes.c_void_p), ("given_count", ctypes.c_uint64)),
    )


class _Held:
    """Rows that stay where they are: `address` of the structure, `count` of them. A context manager."""

    __slots__ = ("_kept", "_pinned", "address", "count")

    def __init__(self, rows: Rows) -> None:
        pieces = [Pinned(one) for one in rows.pieces]
        numbers = [Pinned(one) for one in (rows.of, rows.at, rows.ends)]
        self._pinned = pieces + numbers
        of, at, ends = numbers
        self.count = min(rows.many, of.size // 4, at.size // 8, ends.size // 4)
        there = (_Piece * len(pieces))(*[_Piece(one.address, one.size) for one in pieces])
        places = (one.address for one in numbers)
        made = _Rows(ctypes.addressof(there), len(pieces), self.count, *places)
        self._kept = there, made
        self.address = ctypes.addressof(made)

    def __enter__(self) -> "_Held":
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._pinned:
            one.release()


class _TextField(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in TextField._fields)


class _Distinct(ctypes.Structure):
    _fields_ = (
        ("table", ctypes.c_void_p),
        *((name, ctypes.c_uint64) for name in ("mask", "factor", "limit")),
        *((name, ctypes.c_void_p) for name in ("keys", "counts", "places", "lengths")),
    )


class _Room:
    """A Distinct whose buffers stay where they are: `address` of the structure. A context manager."""

    __slots__ = ("_made", "_pinned", "address")

    def __init__(
        self, to: Distinct, parts: int = 1, tables: int = 1, *, places: bool = False, lengths: bool = False
    ) -> None:
        wanted = (to.table, to.keys, to.counts, *(to.places,) * places, *(to.lengths,) * lengths)
        self._pinned = [Pinned(one, writable=True) for one in wanted]
        table, *rooms = self._pinned
        room = table.size // (4 * max(tables, 1))
        limit = min(one.size for one in rooms) // (8 * max(parts, 1))
        if room & room - 1 or room <= limit:
            raise IndexError("the table of distinct values is not a power of two, or too small")
        self._made = _Distinct(table.address, room - 1, to.factor, limit, *(one.address for one in rooms))
        self.address = ctypes.addressof(self._made)

    def __enter__(self) -> "_Room":
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._pinned:
            one.release()


def _load() -> ctypes.CDLL | None:
    if os.environ.get("KWIRE_NATIVE") == "0":
        return None
    try:
        library = ctypes.CDLL(os.path.join(os.path.dirname(os.path.abspath(__file__)), _LIBRARY))
    except OSError:
        return None
    return library if all(hasattr(library, name) for name in _SIGNATURES) else None  # else built long ago


_U64 = ctypes.c_uint64
_PTR = ctypes.c_void_p
_OUT = ctypes.POINTER(ctypes.c_uint64)
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "kw_ring_walk": (_PTR, _U64, _U64, _U64, _U64, _PTR, _U64, _OUT),
    "kw_frame_walk": (_PTR, _U64, _U64, _U64, _PTR, _U64, _OUT),
    "kw_epb_pack": (_PTR, _U64, _PTR, _U64, _PTR, _U64, _PTR, _U64, _OUT),
    "kw_pcapng_walk": (_PTR, _U64, _U64, _U64, _U64, _U64, _PTR, _U64, _OUT),
    "kw_count_by_id": (_PTR, _U64, _PTR, _U64, _PTR, _U64, _U64),
    "kw_frame_renumber": (_PTR, _U64, _PTR, _U64, _PTR, _U64),
    "kw_frame_gather": (_PTR, _U64, _PTR, _U64, _PTR, _U64, _OUT),
    "kw_frame_strict": (_PTR, _U64, _U64, _U64, _PTR, _U64, _OUT),
    "kw_frame_headers": (_PTR, _U64, _PTR, _U64, _PTR),
    "kw_event_heads": (_PTR, _U64, _PTR, _U64, _PTR, _U64, _PTR, _U64, _PTR, _PTR, _PTR, _PTR, _PTR),
    "kw_events_unsound": (_PTR, _U64, _PTR, _U64, _PTR, _U64, _PTR, _U64, _PTR, _U64),
    "kw_event_spans": (_PTR, _U64, _PTR, _U64, _U64, _U64, _PTR, _PTR, _U64, _OUT),
    "kw_event_values": (_PTR, _U64, _PTR, _U64, _U64, _U64, _U64, _PTR),
    "kw_event_tails": (_PTR, _U64, _PTR, _PTR, _U64, _U64, _U64, _U64, _PTR, _PTR),
    "kw_event_texts": (_PTR, _U64, _PTR, _U64, _U64, _U64, _PTR, _PTR),
    "kw_pack_texts": (_PTR, _U64, _PTR, _PTR, _U64, _PTR, _U64, _PTR),
    "kw_hash_texts": (_PTR, _U64, _PTR, _PTR, _U64, _U64, _PTR),
    "kw_count_distinct": (_PTR, _U64, _U64, _U64, _PTR),
    "kw_event_counts": (_PTR, _PTR, _U64, _PTR, _PTR),
    "kw_text_counts": (_PTR, _PTR, _PTR, _OUT),
    "kw_bit_counts": (_PTR, _U64, _U64, _U64, _PTR),
    "kw_rows_fixed": (_PTR, _PTR, _U64),
    "kw_rows_located": (*(_PTR, _U64, _U64, _U64, _U64, _U64), *(_PTR, _PTR, _PTR, _PTR, _OUT)),
    "kw_rows_lines": (_PTR, _PTR, _U64, _PTR, _U64, _PTR, _PTR),
    "kw_rows_packed": (_PTR, _PTR, _PTR, _PTR, _U64, _PTR, _OUT),
    "kw_intervals": (_PTR, _U64, _U64, _U64, _PTR, _PTR, _U64),
    "kw_gather_texts": (_PTR, _U64, _PTR, _PTR, _U64, _U64, _PTR),
    "kw_pcap_rows": (_PTR, _U64, _U64, _U64, _U64, _PTR, _U64, _PTR, _U64, _OUT),
    "kw_pcapng_rows": (_PTR, _U64, _U64, _U64, _U64, _PTR, _U64, _U64, _PTR, _U64, _OUT),
    "kw_packets": (_PTR,),
    "kw_flows_end": (_PTR,),
    "kw_unbuild": (_PTR,),
    "kw_conversation_new": (_PTR, _U64),
    "kw_conversations": (_PTR, _U64, _PTR),
    "kw_conversations_chosen": (_PTR, _U64, _PTR),
    "kw_conversations_end": (_PTR, _PTR, _U64, _OUT),
    "kw_conversations_forget": (_PTR, _PTR, _U64),
    "kw_sizes": (_PTR,),
    "kw_frame_checksums": (_PTR, _U64, _PTR, _U64, _PTR),
    "kw_print_lines": (*(_PTR, _U64) * 6, _PTR, _PTR, _PTR),
    "kw_merge_lines": (_PTR, _U64, _PTR, _PTR, _U64),
}


def _function(library: ctypes.CDLL, name: str) -> Callable[..., int]:
    function = getattr(library, name)
    function.argtypes = _SIGNATURES[name]
    function.restype = _U64
    return function  # type: ignore[no-any-return]  # ctypes functions are Any


class _Walkers(NamedTuple):
    ring_walk: Callable[[Any, int, int, int, Any, int], tuple[int, int]]
    frame_walk: Callable[[Any, int, int, Any, int], tuple[int, int]]
    epb_pack: Callable[[Any, Any, int, int, Any, Any, int], tuple[int, int]]
    pcapng_walk: Callable[[Any, int, int, bool, int, Any, int], tuple[int, int]]
    count_by_id: Callable[[Any, Any, int, Any, bool], int]
    frame_renumber: Callable[[Any, Any, int, int, Any], int]
    frame_gather: Callable[[Any, Any, int, int, Any, int], tuple[int, int]]
    events_unsound: Callable[[Any, Any, int, Any, Any, Any], int]
    frame_strict: Callable[[Any, int, int, Any, int], tuple[int, int]]
    frame_headers: Callable[[Any, Any, int, Any], int]
    frame_checksums: Callable[[Any, Any, int, Any], int]
    pcap_rows: Callable[..., tuple[int, int]]
    pcapng_rows: Callable[..., tuple[int, int]]
    print_lines: Callable[..., tuple[int, int, bool]]
    merge_lines: Callable[[Any, Any], int]


class _Columns(NamedTuple):
    event_heads: Callable[[Any, Any, int, Any, Any, Any, Any, Any, Any], tuple[int, Survey]]
    event_spans: Callable[[Any, Any, int, int, int, Any, Any], tuple[int, int]]
    event_values: Callable[[Any, Any, int, int, int, int, Any], int]
    event_tails: Callable[[Any, Any, Any, int, int, bool, int, Any, Any], int]
    event_texts: Callable[[Any, Any, int, int, int, Any, Any], int]
    gather_texts: Callable[[Any, Any, Any, int, int, Any], int]
    pack_texts: Callable[[Any, Any, Any, int, Any, Any], int]
    hash_texts: Callable[[Any, Any, Any, int, int, Any], int]
    count_distinct: Callable[[Any, int, bool, Distinct], int]
    bit_counts: Callable[[Any, int, bool, Any], None]
    intervals: Callable[[Any, int, int, Any, Any], int]
    event_counts: Callable[[Events, Any, Distinct, Any], None]
    text_counts: Callable[[Events, TextField, Distinct], tuple[int, int]]


class _Gather(NamedTuple):
    rows_fixed: Callable[[Rows, Sequence[FixedColumn]], int]
    rows_located: Callable[[Rows, TextField, Any, Any, Any, Any], tuple[int, int]]
    rows_packed: Callable[[Rows, Any, Any, Any, Any], tuple[int, int]]
    rows_lines: Callable[[Rows, Written, int, Any, Any, Any], int]


def _walkers(library: ctypes.CDLL) -> _Walkers:
    c_ring_walk = _function(library, "kw_ring_walk")
    c_epb_pack = _function(library, "kw_epb_pack")
    c_count_by_id = _function(library, "kw_count_by_id")
    c_frame_renumber = _function(library, "kw_frame_renumber")
    c_frame_gather = _function(library, "kw_frame_gather")
    c_events_unsound = _function(library, "kw_events_unsound")
    c_print_lines = _function(library, "kw_print_lines")
    c_merge_lines = _function(library, "kw_merge_lines")

    def ring_walk(
        data: Any, mask: int, consumer: int, producer: int, offsets: Any, limit: int
    ) -> tuple[int, int]:
        after = _U64()
        with Pinned(data) as source, Pinned(offsets, writable=True) as slots:
            count = c_ring_walk(
                source.address,
                source.size,
                mask,
                consumer,
                producer,
                slots.address,
                min(limit, slots.size // 8),
                after,
            )
        return count, after.value

    def chain(name: str) -> Callable[[Any, int, int, Any, int], tuple[int, int]]:
        """A walker of a chain in data[offset:end]."""
        function = _function(library, name)

        def walk(data: Any, offset: int, end: int, offsets: Any, limit: int) -> tuple[int, int]:
            after = _U64()
            with Pinned(data) as source, Pinned(offsets, writable=True) as slots:
                room = min(limit, slots.size // 8)
                count = function(source.address, source.size, offset, end, slots.address, room, after)
            return count, after.value

        return walk

    def each(name: str) -> Callable[[Any, Any, int, Any], int]:
        """A function that gives one number for each frame."""
        function = _function(library, name)

        def compute(data: Any, offsets: Any, count: int, out: Any) -> int:
            with Pinned(data) as source, Pinned(offsets) as places, Pinned(out, writable=True) as target:
                count = min(count, places.size // 8, target.size // 8)
                return function(source.address, source.size, places.address, count, target.address)

        return compute

    def epb_pack(
        data: Any, offsets: Any, start: int, count: int, rows: Any, out: Any, position: int
    ) -> tuple[int, int]:
        used = _U64()
        with (
            Pinned(data) as source,
            Pinned(offsets) as places,
            Pinned(rows, writable=True) as table,
            Pinned(out, writable=True) as target,
        ):
            count = min(count, places.size // 8)
            if not (0 <= start <= count and 0 <= position <= target.size):
                raise IndexError("epb_pack: start or position lies outside its buffer")
            done = c_epb_pack(
                source.address,
                source.size,
                places.address + start * 8,
                count - start,
                table.address,
                table.size // (8 * ROW_WORDS),
                target.address + position,
                target.size - position,
                used,
            )
        return start + done, position + used.value

    def blocks(name: str, words: int) -> Callable[[Any, int, int, bool, int, Any, int], tuple[int, int]]:
        """A walker of the blocks of a file, `words` u64 for each."""
        function = _function(library, name)

        def walk(
            data: Any, offset: int, end: int, swap: bool, interfaces: int, rows: Any, limit: int
        ) -> tuple[int, int]:
            after = _U64()
            with Pinned(data) as source, Pinned(rows, writable=True) as slots:
                room = min(limit, slots.size // (8 * words))
                count = function(
                    source.address, source.size, offset, end, swap, interfaces, slots.address, room, after
                )
            return count, after.value

        return walk

    def count_by_id(data: Any, offsets: Any, count: int, table: Any, swap: bool = False) -> int:
        with Pinned(data) as source, Pinned(offsets) as places, Pinned(table, writable=True) as rows:
            count = min(count, places.size // 8)
            ids = rows.size // (8 * COUNT_WORDS)
            return c_count_by_id(source.address, source.size, places.address, count, rows.address, ids, swap)

    def frame_renumber(data: Any, offsets: Any, start: int, count: int, table: Any) -> int:
        with Pinned(data, writable=True) as target, Pinned(offsets) as places, Pinned(table) as numbers:
            count = min(count, places.size // 8)
            if not 0 <= start <= count:
                raise IndexError("frame_renumber: start lies outside its buffer")
            first = places.address + start * 8
            return start + c_frame_renumber(
                target.address, target.size, first, count - start, numbers.address, numbers.size // 8
            )

    def frame_gather(
        data: Any, offsets: Any, start: int, count: int, out: Any, position: int
    ) -> tuple[int, int]:
        used = _U64()
        with Pinned(data) as source, Pinned(offsets) as places, Pinned(out, writable=True) as target:
            count = min(count, places.size // 8)
            if not (0 <= start <= count and 0 <= position <= target.size):
                raise IndexError("frame_gather: start or position lies outside its buffer")
            done = c_frame_gather(
                source.address,
                source.size,
                places.address + start * 8,
                count - start,
                target.address + position,
                target.size - position,
                used,
            )
        return start + done, position + used.value

    def events_unsound(data: Any, offsets: Any, count: int, rows: Any, tails: Any, out: Any) -> int:
        with (
            Pinned(data) as source,
            Pinned(offsets) as places,
            Pinned(rows) as shapes,
            Pinned(tails) as references,
            Pinned(out, writable=True) as found,
        ):
            return c_events_unsound(
                *(source.address, source.size, places.address, min(count, places.size // 8)),
                *(shapes.address, shapes.size // (8 * SHAPE_WORDS), references.address, references.size // 8),
                *(found.address, found.size // 8),
            )

    def print_lines(
        data: Any,
        offsets: Any,
        count: int,
        shapes: Any,
        parts: Any,
        texts: Any,
        out: Any,
        ends: Any,
        times: Any,
    ) -> tuple[int, int, bool]:
        told = (_U64 * 2)()
        with (
            Pinned(data) as source,
            Pinned(offsets) as places,
            Pinned(shapes) as kinds,
            Pinned(parts) as pieces,
            Pinned(texts) as words,
            Pinned(out, writable=True) as room,
            Pinned(ends, writable=True) as stops,
            Pinned(times, writable=True) as clock,
        ):
            count = min(count, places.size // 8, stops.size // 8, clock.size // 8)
            done = c_print_lines(
                *(source.address, source.size, places.address, count),
                *(
                    kinds.address,
                    kinds.size // (8 * LINE_WORDS),
                    pieces.address,
                    pieces.size // (8 * PART_WORDS),
                ),
                *(
                    words.address,
                    words.size,
                    room.address,
                    room.size,
                    stops.address,
                    clock.address,
                    ctypes.addressof(told),
                ),
            )
        return done, told[0], bool(told[1])

    def merge_lines(runs: Any, out: Any) -> int:
        with ExitStack() as pins:
            words = array("Q")
            for text, ends, times in runs:
                one, stops, clock = (pins.enter_context(Pinned(part)) for part in (text, ends, times))
                count = min(stops.size, clock.size) // 8
                words.extend((one.address, one.size, stops.address, clock.address, count))
            places = array("Q", bytes(8 * len(runs)))
            room = pins.enter_context(Pinned(out, writable=True))
            return c_merge_lines(address(words), len(runs), address(places), room.address, room.size)

    def packets(name: str) -> Callable[..., tuple[int, int]]:
        """A walker of a file's packets; what it takes beyond the interfaces comes before the rows."""
        function = _function(library, name)

        def walk(data: Any, offset: int, end: int, swap: bool, faces: Any, *rest: Any) -> tuple[int, int]:
            *more, rows, limit = rest
            after = _U64()
            with (
                Pinned(data) as source,
                Pinned(faces, writable=True) as known,
                Pinned(rows, writable=True) as slots,
            ):
                count = function(
                    *(source.address, source.size, offset, end, swap),
                    *(known.address, known.size // (8 * FACE_WORDS), *more),
                    *(slots.address, min(limit, slots.size // (8 * PACKET_WORDS)), after),
                )
            return count, after.value

        return walk

    return _Walkers(
        ring_walk,
        chain("kw_frame_walk"),
        epb_pack,
        blocks("kw_pcapng_walk", 1),
        count_by_id,
        frame_renumber,
        frame_gather,
        events_unsound,
        chain("kw_frame_strict"),
        each("kw_frame_headers"),
        each("kw_frame_checksums"),
        packets("kw_pcap_rows"),
        packets("kw_pcapng_rows"),
        print_lines,
        merge_lines,
    )


def _columns(library: ctypes.CDLL) -> _Columns:
    """Those of columns: each buffer is held against what the function will touch."""
    names = ("heads", "spans", "values", "tails", "texts")
    c_heads, c_spans, c_values, c_tails, c_texts = (_function(library, f"kw_event_{name}") for name in names)
    others = ("gather_texts", "pack_texts", "hash_texts", "count_distinct", "bit_counts", "intervals")
    c_gather, c_pack, c_hash, c_distinct, c_bits, c_intervals = (
        _function(library, f"kw_{name}") for name in others
    )
    c_counts, c_text_counts = (_function(library, f"kw_{name}_counts") for name in ("event", "text"))

    def event_heads(
        data: Any,
        offsets: Any,
        count: int,
        rows: Any,
        tails: Any,
        types: Any,
        ids: Any,
        ends: Any,
        times: Any,
    ) -> tuple[int, Survey]:
        told = _Survey()
        with (
            Pinned(data) as source,
            Pinned(offsets) as places,
            Pinned(rows) as shapes,
            Pinned(tails) as references,
            Pinned(types, writable=True) as kinds,
            Pinned(ids, writable=True) as numbers,
            Pinned(ends, writable=True) as sizes,
            Pinned(times, writable=True) as clock,
        ):
            count = min(
                count, places.size // 8, kinds.size, numbers.size // 4, sizes.size // 4, clock.size // 8
            )
            done = c_heads(
                *(source.address, source.size, places.address, count),
                *(shapes.address, shapes.size // (8 * SHAPE_WORDS), references.address, references.size // 8),
                *(kinds.address, numbers.address, sizes.address, clock.address, ctypes.addressof(told)),
            )
        return done, Survey(bool(told.same), bool(told.ordered), told.first, told.last, told.unsound)

    def event_spans(
        data: Any, offsets: Any, count: int, id: int, fixed: int, starts: Any, ends: Any
    ) -> tuple[int, int]:
        after = _U64()
        with (
            Pinned(data) as source,
            Pinned(offsets) as places,
            Pinned(starts, writable=True) as first,
            Pinned(ends, writable=True) as last,
        ):
            found = c_spans(
                *(source.address, source.size, places.address, min(count, places.size // 8), id, fixed),
                *(first.address, last.address, min(first.size, last.size) // 8, after),
            )
        return found, after.value

    def event_values(data: Any, starts: Any, count: int, at: int, width: int, each: int, out: Any) -> int:
        with Pinned(data) as source, Pinned(starts) as first, Pinned(out, writable=True) as target:
            count = min(count, first.size // 8, target.size // max(width, 1))
            return c_values(
                source.address, source.size, first.address, count, at, width, each, target.address
            )

    def event_tails(
        data: Any,
        starts: Any,
        ends: Any,
        count: int,
        at: int,
        swap: bool,
        fixed: int,
        places: Any,
        lengths: Any,
    ) -> int:
        with (
            Pinned(data) as source,
            Pinned(starts) as first,
            Pinned(ends) as last,
            Pinned(places, writable=True) as where,
            Pinned(lengths, writable=True) as sizes,
        ):
            count = min(count, *(one.size // 8 for one in (first, last, where, sizes)))
            return c_tails(
                *(source.address, source.size, first.address, last.address, count, at, swap, fixed),
                *(where.address, sizes.address),
            )

    def event_texts(
        data: Any, starts: Any, count: int, at: int, width: int, places: Any, lengths: Any
    ) -> int:
        with (
            Pinned(data) as source,
            Pinned(starts) as first,
            Pinned(places, writable=True) as where,
            Pinned(lengths, writable=True) as sizes,
        ):
            count = min(count, *(one.size // 8 for one in (first, where, sizes)))
            return c_texts(
                *(source.address, source.size, first.address, count, at, width),
                *(where.address, sizes.address),
            )

    def gather_texts(data: Any, places: Any, lengths: Any, count: int, width: int, out: Any) -> int:
        with (
            Pinned(data) as source,
            Pinned(places) as where,
            Pinned(lengths) as sizes,
            Pinned(out, writable=True) as target,
        ):
            count = min(count, where.size // 8, sizes.size // 8, target.size // max(width, 1))
            return c_gather(
                *(source.address, source.size, where.address, sizes.address, count, width, target.address)
            )

    def pack_texts(data: Any, places: Any, lengths: Any, count: int, out: Any, ends: Any) -> int:
        with (
            Pinned(data) as source,
            Pinned(places) as where,
            Pinned(lengths) as sizes,
            Pinned(out, writable=True) as target,
            Pinned(ends, writable=True) as stops,
        ):
            if stops.size < 4:
                raise IndexError("pack_texts: there is no room for an end")
            count = min(count, where.size // 8, sizes.size // 8, stops.size // 4 - 1)
            room = min(target.size, (1 << 31) - 1)
            return c_pack(
                *(source.address, source.size, where.address, sizes.address, count),
                *(target.address, room, stops.address),
            )

    def hash_texts(data: Any, places: Any, lengths: Any, count: int, secret: int, out: Any) -> int:
        with (
            Pinned(data) as source,
            Pinned(places) as where,
            Pinned(lengths) as sizes,
            Pinned(out, writable=True) as target,
        ):
            count = min(count, where.size // 8, sizes.size // 8, target.size // 8)
            return c_hash(
                *(source.address, source.size, where.address, sizes.address, count, secret, target.address)
            )

    def count_distinct(values: Any, width: int, signed: bool, to: Distinct) -> int:
        with Pinned(values) as source, _Room(to, places=True) as room:
            if width not in (1, 2, 4, 8):
                raise IndexError("count_distinct: there are no integers of this width")
            return c_distinct(source.address, width, signed, source.size // width, room.address)

    def bit_counts(values: Any, width: int, signed: bool, out: Any) -> None:
        with Pinned(values) as source, Pinned(out, writable=True) as target:
            if target.size < 8 * (2 * BIT_LENGTHS + SUMS) or width not in (1, 2, 4, 8):
                raise IndexError("bit_counts: there is no room for what is counted")
            c_bits(source.address, width, signed, source.size // width, target.address)

    def intervals(times: Any, before: int, wanted: int, out: Any, pairs: Any) -> int:
        with (
            Pinned(times) as source,
            Pinned(out, writable=True) as target,
            Pinned(pairs, writable=True) as longest,
        ):
            if target.size < 8 * (2 * BIT_LENGTHS + SUMS):
                raise IndexError("intervals: there is no room for what is counted")
            return c_intervals(
                *(source.address, source.size // 8, before, wanted),
                *(target.address, longest.address, longest.size // 16),
            )

    def event_counts(events: Events, fields: Any, to: Distinct, found: Any) -> None:
        with (
            Pinned(events.data) as source,
            Pinned(events.starts) as first,
            Pinned(fields) as wanted,
            Pinned(found, writable=True) as sizes,
        ):
            many = wanted.size // (8 * FIELD_WORDS)
            if sizes.size < 8 * many:
                raise IndexError("event_counts: there is no room for what is counted")
            with _Room(to, many, min(many, TOGETHER)) as room:
                count = min(events.many, first.size // 8)
                given = _Events(source.address, source.size, count, first.address, None)
                c_counts(ctypes.addressof(given), wanted.address, many, room.address, sizes.address)

    def text_counts(events: Events, field: TextField, to: Distinct) -> tuple[int, int]:
        unread = _U64()
        with (
            Pinned(events.data) as source,
            Pinned(events.starts) as first,
            Pinned(events.ends) as last,
            _Room(to, places=True, lengths=True) as room,
        ):
            count = min(events.many, first.size // 8, last.size // 8)
            given, wanted = (
                _Events(source.address, source.size, count, first.address, last.address),
                _TextField(*field),
            )
            found = c_text_counts(ctypes.addressof(given), ctypes.addressof(wanted), room.address, unread)
        return found, unread.value

    return _Columns(
        *(event_heads, event_spans, event_values, event_tails, event_texts),
        *(gather_texts, pack_texts, hash_texts, count_distinct),
        bit_counts=bit_counts,
        intervals=intervals,
        event_counts=event_counts,
        text_counts=text_counts,
    )


def _gather(library: ctypes.CDLL) -> _Gather:
    """Those of rows in several pieces of memory."""
    c_fixed, c_located, c_packed, c_lines = (
        _function(library, f"kw_rows_{name}") for name in ("fixed", "located", "packed", "lines")
    )

    def rows_fixed(rows: Rows, columns: Sequence[FixedColumn]) -> int:
        with _Held(rows) as held, ExitStack() as stack:
            targets = [stack.enter_context(Pinned(column.out, writable=True)) for column in columns]
            for column, target in zip(columns, targets, strict=True):
                if target.size < held.count * column.width:
                    raise IndexError("rows_fixed: there is no room for a column")
            pairs = zip(columns, targets, strict=True)
            made = (_FixedColumn * len(columns))(
                *[_FixedColumn(*column[:3], target.address) for column, target in pairs]
            )
            return c_fixed(held.address, ctypes.addressof(made), len(columns))

    def rows_located(
        rows: Rows, field: TextField, places: Any, lengths: Any, cut: Any, unread: Any
    ) -> tuple[int, int]:
        total = _U64()
        with (
            _Held(rows) as held,
            Pinned(places, writable=True) as where,
            Pinned(lengths, writable=True) as sizes,
            Pinned(cut, writable=True) as ended,
            Pinned(unread, writable=True) as missing,
        ):
            if min(where.size // 4, sizes.size // 4, ended.size, missing.size) < held.count:
                raise IndexError("rows_located: there is no room for all rows")
            done = c_located(
                *(held.address, field.at, field.kind, field.width, field.swap, field.fixed),
                *(where.address, sizes.address, ended.address, missing.address, total),
            )
        return done, total.value

    def rows_packed(rows: Rows, places: Any, lengths: Any, out: Any, ends: Any) -> tuple[int, int]:
        told = _U64()
        with (
            _Held(rows) as held,
            Pinned(places) as where,
            Pinned(lengths) as sizes,
            Pinned(out, writable=True) as target,
            Pinned(ends, writable=True) as stops,
        ):
            if min(where.size, sizes.size, stops.size - 4) < 4 * held.count:
                raise IndexError("rows_packed: there is no room for all rows")
            room = min(target.size, (1 << 31) - 1)
            done = c_packed(
                held.address, where.address, sizes.address, target.address, room, stops.address, told
            )
        return done, told.value

    def rows_lines(rows: Rows, written: Written, first: int, out: Any, ends: Any, odd: Any) -> int:
        with _Held(rows) as held, ExitStack() as stack:
            shape, times, places, shapes, parts, texts = (
                stack.enter_context(Pinned(one)) for one in (*written[:5], written.texts)
            )
            memos = stack.enter_context(Pinned(written.memos, writable=True))
            room, stops, marks = (stack.enter_context(Pinned(one, writable=True)) for one in (out, ends, odd))
            left = held.count - first
            short = min(shape.size // 4, times.size // 8, places.size // 4) < held.count
            count = parts.size // (8 * ROW_PART_WORDS)
            short |= memos.size < 8 * ROW_MEMO_WORDS * count
            if first < 0 or short or min(stops.size // 8, marks.size) < left:
                raise IndexError("rows_lines: there is no room for all rows")
            made = (_RowTexts * len(written.given))()
            for slot, given in zip(made, written.given, strict=True):
                numbers, words, bounds = (
                    stack.enter_context(Pinned(one)) for one in (given.numbers, given.texts, given.ends)
                )
                slot.numbers, slot.count, slot.by_row = numbers.address, numbers.size // 4, given.by_row
                slot.texts, slot.size = words.address, words.size
                slot.ends, slot.texts_count = bounds.address, bounds.size // 4
            described = _Written(
                *(shape.address, times.address, places.address),
                *(shapes.address, shapes.size // (8 * ROW_SHAPE_WORDS)),
                *(parts.address, count, memos.address, texts.address, texts.size),
                *(ctypes.addressof(made), len(written.given)),
            )
            return c_lines(
                *(held.address, ctypes.addressof(described), first),
                *(room.address, room.size, stops.address, marks.address),
            )

    return _Gather(rows_fixed, rows_located, rows_packed, rows_lines)


def _engine(library: ctypes.CDLL) -> ctypes.CDLL:
    of_sessions = [f"conversations{part}" for part in ("", "_chosen", "_end", "_forget")]
    for name in ("packets", "flows_end", "conversation_new", *of_sessions, "sizes"):
        _function(library, f"kw_{name}")
    return library


_library = _load()
_found = _walkers(_library) if _library else None
_made = _columns(_library) if _library else None
_together = _gather(_library) if _library else None

#: (data, mask, consumer, producer, offsets, limit) -> (count, next_consumer): a BPF ring buffer's records.
ring_walk = _found.ring_walk if _found else None
#: (data, offset, end, offsets, limit) -> (count, next_offset): frames back to back.
frame_walk = _found.frame_walk if _found else None
#: (data, offsets, start, count, rows, out, position) -> (next_start, next_position): EVENTs to packet blocks.
epb_pack = _found.epb_pack if _found else None
#: (data, offset, end, swap, interfaces, offsets, limit) -> (count, next_offset): EVENTs in packet blocks.
pcapng_walk = _found.pcapng_walk if _found else None
#: (data, offsets, count, table, swap=False) -> counted: EVENTs by probe with first and last timestamp.
count_by_id = _found.count_by_id if _found else None
#: (data, offsets, start, count, table) -> next_start: new probe numbers, in place.
frame_renumber = _found.frame_renumber if _found else None
#: (data, offsets, start, count, out, position) -> (next_start, next_position): frames copied back to back.
frame_gather = _found.frame_gather if _found else None
#: (data, offset, end, offsets, limit) -> (count, next_offset): frames that nothing is wrong with.
frame_strict = _found.frame_strict if _found else None
#: (data, offsets, count, out) -> done: headers as numbers of 64 bits.
frame_headers = _found.frame_headers if _found else None
#: (data, offsets, count, out) -> done: checksums of whole frames.
frame_checksums = _found.frame_checksums if _found else None
#: (data, offsets, count, rows, tails, out) -> found: EVENTs that are not as their schema says.
events_unsound = _found.events_unsound if _found else None
#: see `wire.column_rows`: columns of events.
event_heads = _made.event_heads if _made else None
event_spans = _made.event_spans if _made else None
event_values = _made.event_values if _made else None
event_tails = _made.event_tails if _made else None
event_texts = _made.event_texts if _made else None
gather_texts = _made.gather_texts if _made else None
pack_texts = _made.pack_texts if _made else None
hash_texts = _made.hash_texts if _made else None
#: see `wire.gather`: columns of rows that lie in several pieces of memory.
rows_fixed = _together.rows_fixed if _together else None
rows_located = _together.rows_located if _together else None
rows_packed = _together.rows_packed if _together else None
#: see `analyze.rowlines`: rows as lines of text.
rows_lines = _together.rows_lines if _together else None
#: see `analyze.counts`: how often values stand there.
count_distinct = _made.count_distinct if _made else None
bit_counts = _made.bit_counts if _made else None
intervals = _made.intervals if _made else None
event_counts = _made.event_counts if _made else None
text_counts = _made.text_counts if _made else None
#: see `packets.walk`: the packets of pcap and pcapng files as rows.
pcap_rows = _found.pcap_rows if _found else None
pcapng_rows = _found.pcapng_rows if _found else None
#: see `view.batches`: events as lines.
print_lines = _found.print_lines if _found else None
merge_lines = _found.merge_lines if _found else None
#: The library itself, for `packets.engine`, which hands it memory of its own.
library: Any = _engine(_library) if _library else None
ORDER: Literal["little", "big"] = "little" if sys.byteorder == "little" else "big"
