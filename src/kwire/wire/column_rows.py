"""The raw material of columns: heads of frames, fixed fields of events, places of their texts, texts moved.

Invariants, as of all walkers (native/columns.c): no byte outside the buffers is touched, whatever lengths
claim; a walker stops before the first thing that is not sound and says where; no state is kept. The twins, in
numpy, are the specification. Arrays of numbers are u64.
"""

from typing import TYPE_CHECKING, Any, Final, TypeAlias

from kwire import native
from kwire.wire.fields import EVENT_LEAST, TAIL_MAX
from kwire.wire.frame import HEADER_SIZE, Flag, Type
from kwire.wire.soundness import events_unsound_twin

if TYPE_CHECKING:
    import numpy as np

    Array: TypeAlias = np.ndarray[Any, Any]

NO_EVENT: Final = 255  # the type of an EVENT that is shorter
_U64: Final = (1 << 64) - 1


def windows(data: "Array", width: int) -> "Array":
    """Every run of `width` bytes of `data` as one void element; taking some copies each in one piece."""
    import numpy as np

    count = max(len(data) - width + 1, 0)
    return np.ndarray((count,), dtype=f"V{width}", buffer=data if count else None, strides=(1,))


def event_heads_twin(
    data: Any,
    offsets: Any,
    count: int,
    rows: Any,
    tails: Any,
    types: "Array",
    ids: "Array",
    ends: "Array",
    times: "Array",
) -> tuple[int, native.Survey]:
    """Of each frame: its type, its id, its bytes without the trailer, and an EVENT's timestamp as it stands.

    An EVENT too short for a timestamp has the type NO_EVENT; what is no EVENT may have any time. Stops at a
    frame that is not whole; gives how many there are, and what they tell together: `unsound` by `rows` and
    `tails`, as `soundness.events_unsound` takes them.
    """
    import numpy as np

    view = np.frombuffer(data, np.uint8)
    places = np.asarray(offsets)[:count].astype(np.uint64)
    places = places[: min(map(len, (places, types, ids, ends, times)))]
    inside = places.astype(np.float64) <= len(view) - HEADER_SIZE
    at = places[: int(inside.argmin()) if not inside.all() else len(places)].astype(np.int64)
    head = windows(view, HEADER_SIZE)[at].view(np.uint8).reshape(-1, HEADER_SIZE)
    length = head[:, 2:4].copy().view(">u2").ravel().astype(np.int64)
    whole = (length >= HEADER_SIZE) & (length <= len(view) - at)
    done = int(whole.argmin()) if not whole.all() else len(at)
    at, head, length = at[:done], head[:done], length[:done]
    kind = head[:, 0] & 15
    kind[(kind == Type.EVENT) & (length < EVENT_LEAST)] = NO_EVENT
    numbers = head[:, 4:8].copy().view(">u4").ravel()
    types[:done], ids[:done], ends[:done], times[:done] = kind, numbers, _ends(head[:, 1], length), 0
    full = length >= EVENT_LEAST
    times[:done][full] = windows(view, 8)[at[full] + HEADER_SIZE].view(np.uint64)
    events = kind == Type.EVENT
    clock = times[:done][events]
    survey = native.Survey(
        bool(events.all() and (numbers == numbers[:1]).all()),
        bool((clock[1:] >= clock[:-1]).all()),
        int(clock.min(initial=_U64)),
        int(clock.max(initial=0)),
        events_unsound_twin(data, places, done, rows, tails, ()),
    )
    return done, survey


def _ends(flags: "Array", length: "Array") -> "Array":
    """How many bytes frames have without their trailers."""
    import numpy as np

    trailer = np.where(flags & Flag.CHECKSUM != 0, np.where(flags & Flag.PADDED != 0, 3, 2), 0)
    result: Array = np.maximum(length - trailer, np.minimum(length, HEADER_SIZE))
    return result


def event_spans_twin(
    data: Any, offsets: Any, count: int, id: int, fixed: int, starts: "Array", ends: "Array"
) -> tuple[int, int]:
    """Where the EVENTs with this id begin in `data`, and how many bytes each has without its trailer.

    Other frames, and what is not a whole frame, are left out. Gives how many there are, and the index of the
    first frame not looked at: an EVENT of fewer than `fixed` bytes, or what follows where there is no more
    room, or `count`.
    """
    import numpy as np

    view = np.frombuffer(data, np.uint8)
    places = np.asarray(offsets)[:count].astype(np.uint64)
    count = len(places)
    index: Array = np.flatnonzero(places.astype(np.float64) <= len(view) - HEADER_SIZE)
    at = places[index].astype(np.int64)
    head = windows(view, HEADER_SIZE)[at].view(np.uint8).reshape(-1, HEADER_SIZE)
    length = head[:, 2:4].copy().view(">u2").ravel().astype(np.int64)
    ours = (head[:, 0] & 15 == Type.EVENT) & (head[:, 4:8].copy().view(">u4").ravel() == id)
    ours &= (length >= HEADER_SIZE) & (length <= len(view) - at)
    index, at, length, flags = index[ours], at[ours], length[ours], head[ours, 1]
    end = _ends(flags, length)
    short = np.flatnonzero(end < fixed)
    stop, after = (int(short[0]), int(index[short[0]])) if len(short) else (len(at), count)
    room = min(len(starts), len(ends))
    if stop >= room:
        stop, after = room, int(index[room - 1]) + 1 if room else 0
    starts[:stop], ends[:stop] = at[:stop], end[:stop]
    return stop, after


def event_values_twin(
    data: Any, starts: "Array", count: int, at: int, width: int, each: int, out: "Array"
) -> int:
    """The `width` bytes at byte `at` of each event, back to back in `out` (u8).

    `each`: bytes of the numbers in them whose order is turned, 0 or 1: none. Gives how many there are: it
    ends before one that is not inside the data.
    """
    import numpy as np

    view = np.frombuffer(data, np.uint8)
    count = min(count, len(starts), len(out) // max(width, 1))
    last = len(view) - at - width
    outside = np.flatnonzero(starts[:count] > last) if last >= 0 else np.arange(min(count, 1))
    done = int(outside[0]) if len(outside) else count
    rows = windows(view, width)[starts[:done].astype(np.int64) + at].view(np.uint8).reshape(done, width)
    for head in range(0, width - each + 1, each) if each > 1 else ():
        rows[:, head : head + each] = rows[:, head : head + each][:, ::-1].copy()
    out[: done * width] = rows.ravel()
    return done


def event_tails_twin(
    data: Any,
    starts: "Array",
    ends: "Array",
    count: int,
    at: int,
    swap: bool,
    fixed: int,
    places: "Array",
    lengths: "Array",
) -> int:
    """Where the values of a tail field lie in the data, and their lengths without the cut bit.

    The references stand at byte `at` of each event; a value of no bytes lies at 0. Gives how many are sound:
    it ends before one that leaves its frame's tail, which begins at `fixed`, or is not inside the data.
    """
    import numpy as np

    count = min(count, *map(len, (starts, ends, places, lengths)))
    out = np.zeros(4 * count, np.uint8)
    count = event_values_twin(data, starts, count, at, 4, 2 if swap else 0, out)
    pairs = out[: 4 * count].view(np.uint16).reshape(-1, 2)
    offset, length = pairs[:, 0].astype(np.uint64), (pairs[:, 1] & TAIL_MAX).astype(np.uint64)
    wrong = np.flatnonzero((length > 0) & ((offset < fixed) | (offset + length > ends[:count])))
    sound = int(wrong[0]) if len(wrong) else count
    places[:sound] = np.where(length > 0, starts[:count] + offset, 0)[:sound]
    lengths[:sound] = length[:sound]
    return sound


def event_texts_twin(
    data: Any, starts: "Array", count: int, at: int, width: int, places: "Array", lengths: "Array"
) -> int:
    """Where the texts of `width` bytes at byte `at` of each event lie, and their lengths up to the first NUL.

    Gives how many there are: it ends before one that is not inside the data.
    """
    import numpy as np

    count = min(count, *map(len, (starts, places, lengths)))
    out = np.zeros(width * count, np.uint8)
    count = event_values_twin(data, starts, count, at, width, 0, out)
    rows = out[: count * width].reshape(count, width) == 0
    ended = rows.any(axis=1) if width else np.zeros(count, bool)
    places[:count] = starts[:count] + np.uint64(at)
    lengths[:count] = np.where(ended, rows.argmax(axis=1), width) if width else 0
    return count


def gather_texts_twin(
    data: Any, places: "Array", lengths: "Array", count: int, width: int, out: "Array"
) -> int:
    """Values of different lengths as rows of `width` bytes, zeros behind each.

    Gives how many there are: it ends before one that is longer, or not inside the data.
    """
    import numpy as np

    view, flat = np.frombuffer(data, np.uint8), out.reshape(-1)
    count = min(count, len(places), len(lengths), len(flat) // max(width, 1))
    start, length = places[:count], lengths[:count]
    size = np.uint64(len(view))
    wrong = np.flatnonzero((length > width) | (start > size) | (length > size - np.minimum(start, size)))
    sound = int(wrong[0]) if len(wrong) else count
    start, length = start[:sound], length[:sound]
    target = flat[: sound * width].reshape(sound, width)
    inside = start + np.uint64(width) <= size  # a window of the full width stays in the data
    target[:] = 0
    rows = windows(view, width)[start[inside].astype(np.int64)].view(np.uint8).reshape(-1, width)
    target[inside] = rows * (np.arange(width) < length[inside, None])
    for at in np.flatnonzero(~inside).tolist():  # at most the last few
        target[at, : length[at]] = view[int(start[at]) : int(start[at] + length[at])]
    return sound


def pack_texts_twin(
    data: Any, places: "Array", lengths: "Array", count: int, out: "Array", ends: "Array"
) -> int:
    """Values of different lengths back to back in `out`; `ends` (u32) gets 0, then where each ends.

    Gives how many there are: it ends before one that is not inside the data, or does not fit.
    """
    import numpy as np

    view = np.frombuffer(data, np.uint8)
    if not len(ends):
        raise IndexError("pack_texts: there is no room for an end")
    count = min(count, len(places), len(lengths), len(ends) - 1)
    room, used = min(len(out), (1 << 31) - 1), 0
    ends[0] = 0
    for index, (place, length) in enumerate(
        zip(places[:count].tolist(), lengths[:count].tolist(), strict=True)
    ):
        if length > room - used or place + length > len(view):
            return index
        out[used : used + length] = view[place : place + length]
        used += length
        ends[index + 1] = used
    return count


def hash_texts_twin(
    data: Any, places: "Array", lengths: "Array", count: int, secret: int, out: "Array"
) -> int:
    """A hash of each value with a secret of 64 bits; NULs at its end change nothing.

    Gives how many there are: it ends before one that is not inside the data.
    """
    view = memoryview(data).cast("B")
    count = min(count, len(places), len(lengths), len(out))
    for index, (place, length) in enumerate(
        zip(places[:count].tolist(), lengths[:count].tolist(), strict=True)
    ):
        if place + length > len(view):
            return index
        mixed = secret
        for word, at in enumerate(range(0, length, 8)):
            part = int.from_bytes(view[place + at : place + min(at + 8, length)], "little")
            if part:
                mixed = _mix(mixed ^ (part * 0x9E3779B97F4A7C15 + word) & _U64)
        out[index] = mixed
    return count


def _mix(word: int) -> int:
    """The finalizer of splitmix64: every bit of the input reaches every bit of the output."""
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & _U64
    word = (word ^ word >> 27) * 0x94D049BB133111EB & _U64
    return word ^ word >> 31


event_heads = native.event_heads or event_heads_twin
event_spans = native.event_spans or event_spans_twin
event_values = native.event_values or event_values_twin
event_tails = native.event_tails or event_tails_twin
event_texts = native.event_texts or event_texts_twin
gather_texts = native.gather_texts or gather_texts_twin
pack_texts = native.pack_texts or pack_texts_twin
hash_texts = native.hash_texts or hash_texts_twin
