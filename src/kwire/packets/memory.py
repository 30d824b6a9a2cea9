"""The memory of the engine (native/engine.h) as Python sees it: its structures, and the tables it works on.

Invariant: the library is asked for the sizes of its structures, and an engine that would disagree is not
used. Pages that nobody touches take no memory, so the tables are as large as they may become.
"""

import ctypes
import mmap
import os
import sys
import weakref
from array import array
from contextlib import suppress
from enum import IntEnum
from typing import Any, Final

from kwire import native
from kwire.packets.conversations import MAX_PARTS
from kwire.packets.fragments import MAX_PACKETS
from kwire.packets.network import HELD
from kwire.packets.streams import GIVEN
from kwire.packets.tables import Remark

U8, U32, U64, PTR = ctypes.c_uint8, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_void_p
CODES: Final = 64
CODE_TROUBLE: Final = 16  # counts from here on are of troubles, those before of a frame's codes
MAX_SPECIALS: Final = 64
MAX_PLACES: Final = 512
FAMILIES: Final = 64
TALLY_PROTOCOL: Final = 0x10000  # packets by ethertype, from here on by IP protocol
TALLY_FRAGMENT: Final = 0x10100
TALLY_WORDS: Final = 0x10101
SCHEMA_MARK: Final = 1 << 31  # of an owner: the frame is a SCHEMA …
ALONE_MARK: Final = 1 << 30  # … that no DATA wraps
SEVERAL: Final = (1 << 64) - 1  # conversations of what was found
OUT_FULL: Final = 1 << 22  # bytes of frames, and frames, after which they are to be taken …
FOUND_FULL: Final = 1 << 16
RESERVE: Final = 48 << 20  # … and what one packet may give beyond that, at most
BUILD_FULL: Final = OUT_FULL + RESERVE // 4  # bytes of `out` from which no frame is put together there
FRAGMENT_DATA: Final = 64 << 10  # bytes of an IP packet at most …
FRAGMENT_UNITS: Final = FRAGMENT_DATA // 8  # … in units in which fragments stand
FRAGMENT_SLAB: Final = FRAGMENT_DATA + 2 * FRAGMENT_UNITS // 8  # bytes, where fragments start, what is there
CHUNK: Final = 16384  # bytes of a stream that are looked at together with those of a frame that is not whole
SLAB: Final = 90112  # bytes of a frame that is not whole: one, the head of the next, and CHUNK
SLAB_SIZES: Final = (1 << 10, 1 << 12, 1 << 14, SLAB)  # bytes of the kinds of slabs
SLAB_KINDS: Final = len(SLAB_SIZES)
SLABS_MORE: Final = 64  # slabs of each kind, beyond those that streams may hold at a time
BUILDING: Final = 8  # streams of which a frame may be put together where it is found, at a time …
BUILD_LEAST: Final = 64  # … if it has so many bytes …
FRAGMENTED: Final = MAX_PACKETS + 2
FRAGMENT_BUCKETS: Final = 2048
HOLD_RESERVE: Final = 96 << 20  # bytes that one packet may have held, at most
HOLD: Final = HOLD_RESERVE + (96 << 20)  # beside what may wait
HOLD_SMALL: Final = 8 << 20  # … of which so much may lie about before it is put in order
MARKS: Final = 128  # places in a long chain of what waits, from which others are found …
MARKED: Final = 8  # … and chains that have some at a time
LYING: Final = 64  # streams whose bytes are remembered by where they lie
BATCHES: Final = 8  # memories for what is found, of which all but one may be with who reads it
OUT_ROOM: Final = OUT_FULL + RESERVE
LIMIT: Final = FOUND_FULL + RESERVE // 8


class Variant(IntEnum):
    """How a trouble is said."""

    PLAIN = 0  # by the packet alone
    FLOW = 1  # the flow's name
    BYTES = 2  # so many bytes of it
    ENDS = 3  # it ends inside a frame
    ANEW = 4  # it begins anew inside a frame
    FRAME = 5  # the frame's bytes
    HELD = 6  # so many bytes of a session waited in vain


class Why(IntEnum):
    """Why the engine stopped."""

    DONE = 0
    FULL = 1  # what was found is to be taken first
    CALL = 2  # a HELLO or WELCOME
    ROOM = 3  # there are as many conversations as there may be


class Role(IntEnum):
    """What an end of a flow is."""

    NONE = 0
    SOURCE = 1
    SINK = 2


class Row(ctypes.Structure):
    """A packet of a file."""

    _fields_ = (
        *(("offset", U64), ("time", U64)),
        *(("captured", U32), ("original", U32), ("link", U32), ("head", U32)),
    )


class Face(ctypes.Structure):
    """An interface of a pcapng section; `told`: where its last statistics lie, and 1; 0: nowhere."""

    _fields_ = (("link", U64), ("rate", U64), ("offset", U64), ("told", U64))


STARTS_COUNTED: Final = 2  # `knows_start` where HELLO came after DATA: those before are counted


class Chain(ctypes.Structure):
    """What waits for something before it."""

    _fields_ = (("head", U32), ("tail", U32), ("count", U32), ("bytes", U32))


SECRETS: Final = 64  # numbers by which bytes of streams that come twice are compared


class GivenBytes(ctypes.Structure):
    """Bytes of a stream that were given."""

    _fields_ = (("seq", U32), ("size", U32), ("digest", U64), ("at", PTR))


class Side(ctypes.Structure):
    """One direction of a TCP connection."""

    _fields_ = (
        *(("held", Chain), ("since", U64), ("next", U32), ("again", U32), ("late", U32), ("conflicts", U32)),
        *(("skipped", U64), ("searched", U64), ("slab", U32), ("partial", U32), ("skip", U32)),
        *((name, U8) for name in ("known", "ended", "begun", "synced", "raw", "found", "lost", "encrypted")),
        *(("joining", U8), ("begun_by_syn", U8), ("lying", U8), ("passing", U8), ("origin", U32)),
        *(("kind", U32), ("built", U32), ("built_at", U64)),
        *(("given_count", U64), ("given", GivenBytes * GIVEN)),
    )


class FlowRow(ctypes.Structure):
    """Two endpoints that exchange frames."""

    _fields_ = (
        *(("key", U64 * 5), ("bucket", U32), ("older", U32), ("newer", U32), ("conversation", U32)),
        *(("number", U32), ("first", U8), ("roles", U8 * 2), ("dead", U8), ("sides", Side * 2)),
    )


class ConversationRow(ctypes.Structure):
    """One session, or the frames between two endpoints where no session is known."""

    _fields_ = (
        ("key", U64 * 5),
        *((name, U64) for name in ("frames", "missing", "again", "late", "unsound")),
        *(
            ("early", U64 * (MAX_PARTS // 64)),
            ("gone", U64 * (MAX_PARTS // 64)),
            ("held", Chain),
            ("next", U32),
            ("start", U32),
            ("bye", U32),
            ("older", U32),
            ("newer", U32),
        ),
        *((name, U8) for name in ("first", "knows_next", "knows_start", "knows_bye", "answered", "has_gone")),
        *(("chosen", U8), ("unused", U8 * 5)),
    )


class Fragmented(ctypes.Structure):
    """An IP packet that is not whole."""

    _fields_ = (
        *(("key", U64 * 5), ("bucket", U32), ("older", U32), ("newer", U32), ("bytes", U32)),
        *(("length", U32), ("known", U32), ("bad", U32), ("reach", U32)),
    )


class Special(ctypes.Structure):
    """The first of its kind that is wrong."""

    _fields_ = (
        *((name, U64) for name in ("code", "row", "offset", "size", "number", "variant", "first", "found")),
        ("key", U64 * 5),
    )


class FoundIn(ctypes.Structure):
    """A packet in which a SCHEMA stands."""

    _fields_ = (("number", U64), ("offset", U64), ("frames", U64))


class Work(ctypes.Structure):
    """What is being done inside a packet."""

    _fields_ = (
        *(("p", PTR), ("part", PTR), ("n", U64), ("part_size", U64), ("at", U64), ("time", U64)),
        *((name, U32) for name in ("flow", "seq", "step", "flags", "side", "feeding", "finish", "again")),
    )


class Slabs(ctypes.Structure):
    """Slabs of one size, and the numbers of those that were given back."""

    _fields_ = (
        *(("memory", PTR), ("stack", PTR)),
        *(("size", U64), ("count", U64), ("used", U64), ("free", U64)),
    )


class State(ctypes.Structure):
    """The engine."""

    _fields_ = (
        *(
            ("data", PTR),
            ("size", U64),
            ("base", U64),
            ("rows", PTR),
            ("count", U64),
            ("at", U64),
            ("ports", PTR),
        ),
        *((name, U64) for name in ("any_port", "max_flows", "max_conversations", "seed")),
        ("secrets", U64 * SECRETS),
        *(("out", PTR), ("offsets", PTR), ("owners", PTR)),
        *((name, U64) for name in ("out_room", "limit", "out_used", "found", "schemas", "only")),
        *(("counts", U64 * CODES), ("remarks", U64 * len(Remark)), ("specials", Special * MAX_SPECIALS)),
        *(("special_count", U64), ("places", FoundIn * MAX_PLACES), ("place_count", U64)),
        ("before_places", U64),
        *(("tally", PTR), ("families", U64 * (2 * FAMILIES)), ("family_count", U64)),
        *((name, U64) for name in ("packets", "frames", "skipped", "flow_number", "fragments_missing")),
        *(("call_frame", PTR), ("call_size", U64), ("call_flow", U64), ("call_side", U64)),
        *(("flows", PTR), ("buckets", PTR)),
        *(
            (name, U64)
            for name in (
                "bucket_mask",
                "flow_count",
                "flow_free",
                "flow_used",
                "oldest",
                "newest",
                "raw_flow",
            )
        ),
        ("conversations", PTR),
        *((f"conversation_{name}", U64) for name in ("count", "free", "used", "oldest", "newest")),
        ("slabs", Slabs * SLAB_KINDS),
        *(("fragments", PTR), ("fragment_slabs", PTR), ("fragment_buckets", PTR)),
        *((f"fragment_{name}", U64) for name in ("count", "free", "used", "oldest", "newest", "bytes")),
        *(("hold", PTR), ("spare", PTR)),
        *(
            (name, U64)
            for name in (
                "hold_room",
                "hold_small",
                "hold_start",
                "hold_used",
                "hold_wrap",
                "hold_live",
                "stream_held",
                "data_held",
            )
        ),
        *(
            (name, U64)
            for name in (
                "troubles",
                "before_frames",
                "before_troubles",
                "busy",
                "cut",
                "summed",
                "sum",
                "letting_go",
                "evicting",
            )
        ),
        ("marks", U64 * (MARKED * (3 + MARKS // 2))),
        *(("lying", PTR * LYING), ("lying_count", U64)),
        *(("building", PTR * BUILDING), ("building_count", U64)),
        ("work", Work),
    )


_SIZES = (
    *(Row, Face, FlowRow, ConversationRow, Fragmented, Special, FoundIn, State),
    *(Side, GivenBytes, Chain, Slabs, Work),
)
_PLACES: Final[tuple[tuple[Any, str], ...]] = (
    *((Side, "skipped"), (Side, "known"), (Side, "origin"), (Side, "built_at"), (Side, "given")),
    *((ConversationRow, "held"), (ConversationRow, "first"), (FlowRow, "sides")),
    *((State, name) for name in ("out", "counts", "flows", "slabs", "hold", "marks", "lying", "building")),
    (State, "work"),
)
_NUMBERS: Final = (
    *(FRAGMENT_SLAB, SLAB, SLAB_KINDS, BUILDING, LYING, MARKED, MARKS, GIVEN, MAX_PLACES, MAX_SPECIALS),
    *(OUT_FULL, FOUND_FULL, RESERVE, HOLD_RESERVE),
)


def agreed() -> bool:
    """Whether the library is there and its structures are those described here."""
    if native.library is None:
        return False
    sizes = (U64 * 64)()
    count = native.library.kw_sizes(sizes)
    places = [getattr(kind, name).offset for kind, name in _PLACES]
    return list(sizes[:count]) == [*map(ctypes.sizeof, _SIZES), *places, *_NUMBERS]


def slab_counts(max_flows: int) -> list[int]:
    """How many slabs of each kind there are.

    A stream has one of the smallest kind that holds its bytes, so that as many as hold HELD bytes are enough.
    """
    counts = [2 * (max_flows + 2), *(HELD // size for size in SLAB_SIZES[:-1])]
    return [count + SLABS_MORE for count in counts]


class Lent(U8 * (OUT_ROOM + 8 * LIMIT)):  # type: ignore[misc]  # ctypes gives no class
    """The memory of a batch while somebody has a view of it."""


class Batch:
    """Memory for what is found: frames, and behind them where each begins.

    It is handed over as it is, and used again once nobody holds a view of it any more.
    """

    __slots__ = ("_lent", "memory")

    def __init__(self) -> None:
        self.memory = _mapped(OUT_ROOM + 8 * LIMIT)
        self._lent: Any = None  # a weak reference

    @property
    def free(self) -> bool:
        """Whether nobody looks at it."""
        return self._lent is None or self._lent() is None

    def lend(self, size: int, count: int) -> tuple[memoryview, memoryview]:
        """`size` bytes of frames, and where `count` of them begin; not free while a view of these lives."""
        lent = Lent.from_buffer(self.memory)
        self._lent = weakref.ref(lent)
        view = memoryview(lent).cast("B")
        return view[:size], view[OUT_ROOM : OUT_ROOM + 8 * count].cast("Q")


class Memory:
    """The tables of one engine, and its `state`. `batch`: where it puts what it finds."""

    __slots__ = ("_batches", "_kept", "batch", "conversations", "flows", "owners", "state", "tally")

    def __init__(self, ports: bytes, max_flows: int, max_conversations: int) -> None:
        self._kept: list[Any] = []
        state = self.state = State()
        state.max_flows, state.max_conversations = max_flows, max_conversations
        state.seed = int.from_bytes(os.urandom(8), sys.byteorder)
        state.secrets[:] = array("Q", os.urandom(8 * SECRETS))
        state.out_room, state.limit = OUT_ROOM, LIMIT
        state.ports, _ = self._put(8192)
        ctypes.memmove(state.ports, ports, 8192)
        self._batches = [Batch()]
        self._take(self._batches[0])
        state.owners, self.owners = self._put(4 * state.limit)
        state.tally, self.tally = self._put(8 * TALLY_WORDS)
        buckets = 1 << max(max_flows.bit_length(), 4)
        state.bucket_mask = buckets - 1
        state.buckets, _ = self._put(4 * buckets)
        state.flows, flows = self._put(ctypes.sizeof(FlowRow) * (max_flows + 2))
        self.flows = (FlowRow * (max_flows + 2)).from_buffer(flows)
        state.conversations, rows = self._put(ctypes.sizeof(ConversationRow) * (max_conversations + 4))
        self.conversations = (ConversationRow * (max_conversations + 4)).from_buffer(rows)
        for kind, size, count in zip(state.slabs, SLAB_SIZES, slab_counts(max_flows), strict=True):
            kind.memory, _ = self._put(size * count)
            kind.stack, _ = self._put(4 * count)
            kind.size, kind.count = size, count
        state.fragments, _ = self._put(ctypes.sizeof(Fragmented) * FRAGMENTED)
        state.fragment_slabs, _ = self._put(FRAGMENT_SLAB * FRAGMENTED)
        state.fragment_buckets, _ = self._put(4 * FRAGMENT_BUCKETS)
        state.hold, hold = self._put(HOLD)
        state.spare, spare = self._put(HOLD)
        for one in (hold, spare):  # megabytes of them are used as soon as a segment is missing
            with suppress(OSError):  # a kernel without such pages
                one.madvise(mmap.MADV_HUGEPAGE)
        state.hold_room, state.hold_small = HOLD, HOLD_SMALL
        state.hold_start = state.hold_used = 8

    def found(self) -> tuple[memoryview | bytes, memoryview]:
        """What was found, frames and where they begin, for who reads it; the engine goes on elsewhere."""
        state, batch = self.state, self.batch
        size, count = state.out_used, state.found
        other = self._free()
        if other is None:  # all are with readers who keep what they get: this one is not given away
            view = memoryview(batch.memory)
            start = OUT_ROOM
            return bytes(view[:size]), memoryview(bytes(view[start : start + 8 * count])).cast("Q")
        self._take(other)
        return batch.lend(size, count)

    def _free(self) -> Batch | None:
        """A batch that nobody uses; None where there is none."""
        for batch in self._batches:
            if batch.free and batch is not self.batch:
                return batch
        if len(self._batches) < BATCHES:
            with suppress(OSError):  # there may be no more room for addresses
                self._batches.append(Batch())
                with suppress(OSError):  # much is found: a fault for each small page would cost a tenth of it
                    self._batches[-1].memory.madvise(mmap.MADV_HUGEPAGE)
                return self._batches[-1]
        return None

    def _take(self, batch: Batch) -> None:
        """Have the engine put what it finds into this one."""
        self.batch = batch
        self.state.out = native.address(batch.memory)
        self.state.offsets = self.state.out + OUT_ROOM

    def close(self) -> None:
        """Give the tables up; the counts in `state` stay."""
        self._kept.clear()
        self._batches.clear()
        self.flows, self.conversations = (FlowRow * 0)(), (ConversationRow * 0)()
        self.owners = self.tally = mmap.mmap(-1, 1)

    def _put(self, size: int) -> tuple[int, mmap.mmap]:
        """Memory of zeros, and where it lies."""
        made = _mapped(size)
        first = U8.from_buffer(made)
        self._kept += (made, first)
        return ctypes.addressof(first), made


def _mapped(size: int) -> mmap.mmap:
    """Memory of zeros."""
    return mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # shared pages take twice as long
