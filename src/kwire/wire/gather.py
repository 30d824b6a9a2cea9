"""The raw material of columns: fixed parts of events as rows, places of their tails, texts side by side.

The laws are the walkers' (native/walk.c): no byte outside the buffers is touched, whatever lengths claim; a
walker stops before the first thing that is not sound and says where; no state is kept. The twins, in numpy,
are the specification. Arrays of numbers are u64.
"""

from typing import TYPE_CHECKING, Any, TypeAlias

from kwire import native
from kwire.wire.fields import TAIL_MAX
from kwire.wire.frame import HEADER_SIZE, Flag, Type

if TYPE_CHECKING:
    import numpy as np

    Array: TypeAlias = np.ndarray[Any, Any]


def windows(data: "Array", width: int) -> "Array":
    """Every run of `width` bytes of `data` as one void element; taking some copies each in one piece."""
    import numpy as np

    count = max(len(data) - width + 1, 0)
    return np.ndarray((count,), dtype=f"V{width}", buffer=data if count else None, strides=(1,))


def event_rows_twin(
    data: Any,
    offsets: Any,
    count: int,
    id: int,
    fixed: int,
    stride: int,
    starts: "Array",
    ends: "Array",
    rows: "Array",
) -> tuple[int, int]:
    """The fixed parts of the EVENTs with this id, `fixed` bytes each, as rows of `stride` bytes in `rows`.

    `stride` is a multiple of 8; what follows the fixed part in a row means nothing. `starts` and `ends` get
    where each frame begins in `data`, and how many bytes it has without its trailer. Other frames, and what
    is not a whole frame, are left out. Gives how many there are, and the index of the first frame not looked
    at: an EVENT that is too short, or what follows where there is no more room, or `count`.
    """
    import numpy as np

    if stride % 8 or not 0 < fixed <= stride:
        raise IndexError("event_rows: a row is not as long as it must be")
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
    trailer = np.where(flags & Flag.CHECKSUM != 0, np.where(flags & Flag.PADDED != 0, 3, 2), 0)
    end = np.maximum(length - trailer, HEADER_SIZE)
    short = np.flatnonzero(end < fixed)
    stop, after = (int(short[0]), int(index[short[0]])) if len(short) else (len(at), count)
    room = min(len(starts), len(ends), rows.nbytes // stride)
    if stop >= room:
        stop, after = room, int(index[room - 1]) + 1 if room else 0
    starts[:stop], ends[:stop] = at[:stop], end[:stop]
    target = rows.reshape(-1)[: stop * stride].reshape(stop, stride)
    target[:, :fixed] = windows(view, fixed)[at[:stop]].view(np.uint8).reshape(-1, fixed)
    return stop, after


def event_tails_twin(
    rows: "Array",
    count: int,
    stride: int,
    at: int,
    swap: bool,
    fixed: int,
    starts: "Array",
    ends: "Array",
    places: "Array",
    lengths: "Array",
) -> int:
    """Where the values of a tail field lie in the data, and their lengths without the cut bit.

    The references stand at byte `at` of each row; a value of no bytes lies at 0. Gives how many are sound: it
    ends before one that leaves its frame's tail, which begins at `fixed`.
    """
    import numpy as np

    if not 0 <= at <= stride - 4:
        raise IndexError("event_tails: the field lies outside its row")
    flat = rows.reshape(-1)
    count = min(count, len(flat) // stride, *map(len, (starts, ends, places, lengths)))
    pairs = flat[: count * stride].reshape(count, stride)[:, at : at + 4].copy().view(np.uint16)
    if swap:
        pairs = pairs.byteswap()
    offset, length = pairs[:, 0].astype(np.uint64), (pairs[:, 1] & TAIL_MAX).astype(np.uint64)
    wrong = np.flatnonzero((length > 0) & ((offset < fixed) | (offset + length > ends[:count])))
    sound = int(wrong[0]) if len(wrong) else count
    places[:sound] = np.where(length > 0, starts[:count] + offset, 0)[:sound]
    lengths[:sound] = length[:sound]
    return sound


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


event_rows = native.event_rows or event_rows_twin
event_tails = native.event_tails or event_tails_twin
gather_texts = native.gather_texts or gather_texts_twin
