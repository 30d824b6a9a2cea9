"""How often integers stand there: their distinct values, their powers of two; in C, and the twins in numpy.

The laws are the walkers' (native/columns.c): no byte outside the buffers is touched, no state is kept. The
twins are the specification.
"""

import os
from typing import TYPE_CHECKING, Any, Final

from kwire import native

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

BITS: Final = 65  # bit lengths of 64-bit integers
SUMS: Final = 6  # behind them: low and high word of two sums, the least and the greatest
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


def count_distinct_twin(
    values: "Array",
    width: int,
    signed: bool,
    factor: int,
    table: "Array",
    keys: "Array",
    counts: "Array",
    first: "Array",
) -> int:
    """The distinct integers of `width` bytes, widened to 64 bits, as they come.

    `factor` is odd and random: a key's place in the table is the high bits of its product with it, so that
    nobody can make a capture whose values all have one place. (Here nothing is looked up in the table.)
    `keys`, `counts` and `first` (u64) get each, how often it stands there, and where first; `table` is zeros
    (u32), a power of two of them and more than there is room for keys. Gives how many there are; more than
    there is room for: they are not counted then.
    """
    import numpy as np

    limit = min(map(len, (keys, counts, first)))
    if len(table) & len(table) - 1 or len(table) <= limit or width not in (1, 2, 4, 8):
        raise IndexError("count_distinct: the table is not a power of two, or too small")
    numbers = values.view(f"{'i' if signed else 'u'}{width}")
    found, places, times = np.unique(numbers, return_index=True, return_counts=True)
    if len(found) > limit:
        return limit + 1
    order = np.argsort(places)
    wide = found[order].astype(np.int64 if signed else np.uint64).view(np.uint64)
    keys[: len(order)], counts[: len(order)], first[: len(order)] = wide, times[order], places[order]
    return len(found)


def bit_counts_twin(values: "Array", width: int, signed: bool, out: "Array") -> None:
    """Integers of `width` bytes by their bit lengths, negative ones by those of their magnitudes.

    `out` (u64) gets how many are not negative, then how many are, BITS each; then the sum of the former and
    of the latter's magnitudes, two words each, the low one first; then the least and the greatest.
    """
    import numpy as np

    if len(out) < 2 * BITS + SUMS or width not in (1, 2, 4, 8):
        raise IndexError("bit_counts: there is no room for what is counted")
    numbers = values.view(f"{'i' if signed else 'u'}{width}")
    below = numbers < 0 if signed else np.zeros(len(numbers), bool)
    wide = numbers.astype(np.int64 if signed else np.uint64).view(np.uint64)
    parts = (wide[~below], ~wide[below] + np.uint64(1))
    out[: 2 * BITS + SUMS] = 0
    for place, part in enumerate(parts):
        out[place * BITS : place * BITS + BITS] = np.bincount(bit_lengths(part), minlength=BITS)
        total = (int((part >> np.uint64(32)).sum()) << 32) + int((part & np.uint64(0xFFFFFFFF)).sum())
        out[2 * BITS + 2 * place], out[2 * BITS + 2 * place + 1] = total & _U64, total >> 64
    least, greatest = (int(numbers.min()), int(numbers.max())) if len(numbers) else (_U64, 0)
    if not len(numbers) and signed:
        least, greatest = (1 << 63) - 1, 1 << 63
    out[2 * BITS + 4], out[2 * BITS + 5] = least & _U64, greatest & _U64


count_distinct = native.count_distinct or count_distinct_twin
bit_counts = native.bit_counts or bit_counts_twin


def few(values: "Array") -> "tuple[Array, Array, Array] | None":
    """The distinct integers in order, how often each stands there, and where first; None: more than FEW."""
    import numpy as np

    limit = min(len(values), FEW)
    table = np.zeros(1 << (2 * limit).bit_length(), np.uint32)
    keys, counts, first = np.empty((3, limit), np.uint64)
    contiguous = np.ascontiguousarray(values)
    signed, width = values.dtype.kind == "i", values.dtype.itemsize
    factor = int.from_bytes(os.urandom(8)) | 1
    found = count_distinct(contiguous.view(np.uint8), width, signed, factor, table, keys, counts, first)
    if found > limit:
        return None
    distinct = keys[:found].astype(f"u{width}").view(values.dtype)
    order = np.argsort(distinct)
    return distinct[order], counts[order].view(np.int64), first[order].view(np.int64)
