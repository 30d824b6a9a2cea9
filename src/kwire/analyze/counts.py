"""Counting integers: distinct values and powers of two, in C, and the twins in numpy.

Invariants, as of all walkers (native/columns.c): no byte outside the buffers is touched, no state is kept.
The twins are the specification.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from kwire import native
from kwire.native import BIT_LENGTHS, FIELD_WORDS, SUMS, TOGETHER, Distinct, Events, TextField
from kwire.wire.column_rows import event_tails_twin, event_texts_twin, event_values_twin, hash_texts_twin
from kwire.wire.columns import Columns
from kwire.wire.fields import TAIL_CUT, TYPES, Field, letter
from kwire.wire.gather import FIXED, RAW, TAIL

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

FEW: Final = 1 << 12  # distinct values that are counted through a table
_U64: Final = (1 << 64) - 1


def bit_lengths(values: "Array") -> "Array":
    """`int.bit_length` of unsigned 64-bit integers."""
    import numpy as np

    lengths: Array = np.frexp(values.astype(np.float64))[1]
    great = values >= np.uint64(1 << 53)  # a double would round these up to the next power of two
    if great.any():
        lengths[great] = np.frexp((values[great] >> np.uint64(12)).astype(np.float64))[1] + 12
    return lengths


def _limit(to: Distinct, *rooms: "Array", parts: int = 1, tables: int = 1) -> int:
    """How many values there is room for; IndexError where the table is too small."""
    limit: int = min(one.size for one in (to.keys, to.counts, *rooms)) // max(parts, 1)
    size = len(to.table) // max(tables, 1)
    if size & size - 1 or size <= limit:
        raise IndexError("the table of distinct values is not a power of two, or too small")
    return limit


def count_distinct_twin(values: "Array", width: int, signed: bool, to: Distinct) -> int:
    """The distinct integers of `width` bytes, widened to 64 bits, as they come.

    A key's place in the table is the high bits of its product with the factor, which is odd and random, so
    that nobody can make a capture whose values all have one place. (Here nothing is looked up in the table.)
    `places` get the number of the first of each. Gives how many there are; more than there is room for: they
    are not counted then.
    """
    import numpy as np

    limit = _limit(to, to.places)
    if width not in (1, 2, 4, 8):
        raise IndexError("count_distinct: there are no integers of this width")
    numbers = values.view(f"{'i' if signed else 'u'}{width}")
    found, places, times = np.unique(numbers, return_index=True, return_counts=True)
    if len(found) > limit:
        return limit + 1
    order = np.argsort(places)
    wide = found[order].astype(np.int64 if signed else np.uint64).view(np.uint64)
    for room, made in ((to.keys, wide), (to.counts, times[order]), (to.places, places[order])):
        room[: len(order)] = made
    return len(found)


def bit_counts_twin(values: "Array", width: int, signed: bool, out: "Array") -> None:
    """Integers of `width` bytes by their bit lengths, negative ones by those of their magnitudes.

    `out` (u64) gets how many are not negative, then how many are, BIT_LENGTHS each; then the sum of the
    former and of the latter's magnitudes, two words each, the low one first; then the least and the greatest.
    """
    import numpy as np

    if len(out) < 2 * BIT_LENGTHS + SUMS or width not in (1, 2, 4, 8):
        raise IndexError("bit_counts: there is no room for what is counted")
    numbers = values.view(f"{'i' if signed else 'u'}{width}")
    below = numbers < 0 if signed else np.zeros(len(numbers), bool)
    wide = numbers.astype(np.int64 if signed else np.uint64).view(np.uint64)
    parts = (wide[~below], ~wide[below] + np.uint64(1))
    out[: 2 * BIT_LENGTHS + SUMS] = 0
    for place, part in enumerate(parts):
        out[place * BIT_LENGTHS : place * BIT_LENGTHS + BIT_LENGTHS] = np.bincount(
            bit_lengths(part), minlength=BIT_LENGTHS
        )
        total = (int((part >> np.uint64(32)).sum()) << 32) + int((part & np.uint64(0xFFFFFFFF)).sum())
        out[2 * BIT_LENGTHS + 2 * place], out[2 * BIT_LENGTHS + 2 * place + 1] = total & _U64, total >> 64
    least, greatest = (int(numbers.min()), int(numbers.max())) if len(numbers) else (_U64, 0)
    if not len(numbers) and signed:
        least, greatest = (1 << 63) - 1, 1 << 63
    out[2 * BIT_LENGTHS + 4], out[2 * BIT_LENGTHS + 5] = least & _U64, greatest & _U64


def intervals_twin(times: "Array", before: int, wanted: int, out: "Array", pairs: "Array") -> int:
    """The steps from `before` to the first of times (u64) in order, and from each to the next, as counts.

    `out` gets what `bit_counts` gives of them; `pairs` (u64) between which times the steps of `wanted` or
    more are, the longest first and of equal ones those that come first, as many as there is room for. Gives
    how many.
    """
    import numpy as np

    begins = np.concatenate([np.array([before], np.uint64), times[:-1]])[: len(times)]
    steps = times - begins
    bit_counts_twin(steps.view(np.uint8), 8, False, out)
    longest = np.argsort(~steps, kind="stable")[: len(pairs) // 2]
    longest = longest[steps[longest] >= np.uint64(wanted)]
    pairs[: 2 * len(longest)] = np.stack([begins[longest], times[longest]], 1).reshape(-1)
    return len(longest)


def event_counts_twin(events: Events, fields: "Array", to: Distinct, found: "Array") -> None:
    """`count_distinct` of several integer fields of events.

    `fields` (u64) are rows: at which byte of an event, its width, whether it has a sign, whether its bytes
    are turned. `keys` and `counts` have the same room for each; `found` gets how many there are, more than
    there is room for where they are more, or one is not inside the data.
    """
    import numpy as np

    rows = np.asarray(fields).reshape(-1, FIELD_WORDS).tolist()
    if len(found) < len(rows):
        raise IndexError("event_counts: there is no room for what is counted")
    limit = _limit(to, parts=len(rows), tables=min(len(rows), TOGETHER))
    count, first = min(events.many, len(events.starts)), np.empty(limit, np.uint64)
    for place, (at, width, signed, swap) in enumerate(rows):
        found[place] = limit + 1
        out = np.empty(count * width, np.uint8)
        if width not in (1, 2, 4, 8) or swap not in (0, 1):
            found[place] = limit + 1 if count else 0
        elif event_values_twin(events.data, events.starts, count, at, width, width * swap, out) == count:
            room = slice(place * limit, (place + 1) * limit)
            some = (to.keys.reshape(-1)[room], to.counts.reshape(-1)[room], first)
            alone = Distinct(to.factor, to.table[: len(to.table) // min(len(rows), TOGETHER)], *some)
            found[place] = count_distinct_twin(out, width, bool(signed), alone)


def text_counts_twin(events: Events, field: TextField, to: Distinct) -> tuple[int, int]:
    """The distinct values of a field of text, by `hash_texts`, as they come; those not read are left out.

    `kind`: at byte `at` of each event stands a reference to the tail, which begins at `fixed` (TAIL), or a
    text of `width` bytes up to its first NUL (FIXED), or `width` bytes (RAW). `places` and `lengths` tell of
    the first of each value. Gives how many there are, more than there is room for where they are more, or one
    is not sound; and how many were not read.
    """
    import numpy as np

    limit = _limit(to, to.places, to.lengths)
    data, starts, ends, count = events
    at, kind, width, swap, fixed, secret = field
    count = min(count, len(starts), len(ends))
    where, sizes = np.zeros(count, np.uint64), np.full(count, width, np.uint64)
    unread = np.zeros(count, bool)
    if kind == TAIL:
        pairs = np.empty(4 * count, np.uint8)
        done = event_values_twin(data, starts, count, at, 4, 2 if swap else 0, pairs)
        if done == count:
            unread = pairs.view(np.uint16)[1::2] == TAIL_CUT
            done = event_tails_twin(data, starts, ends, count, at, swap, fixed, where, sizes)
    elif kind == FIXED:
        done = event_texts_twin(data, starts, count, at, width, where, sizes)
    else:
        done = event_values_twin(data, starts, count, at, width, 0, np.empty(count * width, np.uint8))
        where = np.asarray(starts)[:count] + np.uint64(at)
    where, sizes = where[~unread], sizes[~unread]
    hashes = np.empty(len(where), np.uint64)
    if done < count or hash_texts_twin(data, where, sizes, len(where), secret, hashes) < len(where):
        return limit + 1, 0
    first = np.empty(limit, np.uint64)
    found = count_distinct_twin(hashes.view(np.uint8), 8, False, to._replace(places=first))
    if found > limit:
        return limit + 1, 0
    chosen = first[:found].astype(np.int64)
    to.places[:found], to.lengths[:found] = where[chosen], sizes[chosen]
    return found, int(unread.sum())


count_distinct = native.count_distinct or count_distinct_twin
bit_counts = native.bit_counts or bit_counts_twin
intervals = native.intervals or intervals_twin
event_counts = native.event_counts or event_counts_twin
text_counts = native.text_counts or text_counts_twin


def _factor() -> int:
    """An odd number that nobody can foresee."""
    return int.from_bytes(os.urandom(8)) | 1


def of_numbers(columns: Columns, fields: Sequence[Field]) -> "list[tuple[Array, Array] | None]":
    """For each field (an integer in the fixed part) what `few` gives for its column, without the places."""
    import numpy as np

    if not fields or not len(columns):
        return [(np.zeros(0, letter(field)), np.zeros(0, np.int64)) for field in fields]
    limit, kinds = min(len(columns), FEW), [np.dtype(letter(field)) for field in fields]
    table = np.empty((1 << (2 * limit).bit_length()) * min(len(fields), TOGETHER), np.uint32)
    rows = [
        (field.offset, kind.itemsize, kind.kind == "i", columns.swap)
        for field, kind in zip(fields, kinds, strict=True)
    ]
    keys, counts = np.empty((2, len(fields), limit), np.uint64)
    found = np.empty(len(fields), np.uint64)
    events = Events(columns.data, columns.starts, columns.ends, len(columns))
    event_counts(events, np.array(rows, np.uint64), Distinct(_factor(), table, keys, counts), found)
    made: list[tuple[Array, Array] | None] = []
    for kind, some, times, many in zip(kinds, keys, counts, found.tolist(), strict=True):
        if many > limit:
            made.append(None)
            continue
        distinct = some[:many].astype(f"u{kind.itemsize}").view(kind)
        order = np.argsort(distinct)
        made.append((distinct[order], times[:many][order].view(np.int64)))
    return made


def of_texts(columns: Columns, field: Field, secret: int) -> "tuple[Array, Array, Array, Array, int] | None":
    """The hashes of a field's texts in order, how often each stands there, where the first, and its length.

    The last is how many were not read. None: there are more than FEW.
    """
    import numpy as np

    limit, rule = min(len(columns), FEW), TYPES[field.type]
    kind = TAIL if rule.tail else FIXED if rule.kind == "text" else RAW
    table = np.zeros(1 << (2 * limit).bit_length(), np.uint32)
    keys, counts, places, lengths = np.empty((4, limit), np.uint64)
    found, unread = text_counts(
        Events(columns.data, columns.starts, columns.ends, len(columns)),
        TextField(field.offset, kind, field.size, columns.swap, columns.fixed_size, secret),
        Distinct(secret | 1, table, keys, counts, places, lengths),
    )
    if found > limit:
        return None
    order = np.argsort(keys[:found])
    times = counts[:found][order].view(np.int64)
    return keys[:found][order], times, places[:found][order], lengths[:found][order], unread


def few(values: "Array") -> "tuple[Array, Array, Array] | None":
    """The distinct integers in order, how often each occurs, and where first; None: more than FEW."""
    import numpy as np

    limit = min(len(values), FEW)
    table = np.zeros(1 << (2 * limit).bit_length(), np.uint32)
    keys, counts, first = np.empty((3, limit), np.uint64)
    contiguous = np.ascontiguousarray(values)
    signed, width = values.dtype.kind == "i", values.dtype.itemsize
    to = Distinct(_factor(), table, keys, counts, first)
    found = count_distinct(contiguous.view(np.uint8), width, signed, to)
    if found > limit:
        return None
    distinct = keys[:found].astype(f"u{width}").view(values.dtype)
    order = np.argsort(distinct)
    return distinct[order], counts[order].view(np.int64), first[order].view(np.int64)
