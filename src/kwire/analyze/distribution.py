"""How values are distributed: by powers of two, and by how often each stands there.

Invariants: counts are exact; memory is bounded whatever the values; numpy counts whole blocks, no value is
looked at alone. What has more than DISTINCT different values keeps its most frequent ones, each count at most
`error` too small.
"""

import os
from operator import mul
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kwire.analyze import counts as counting
from kwire.native import BIT_LENGTHS, SUMS
from kwire.wire.column_rows import hash_texts
from kwire.wire.columns import Columns
from kwire.wire.fields import Field

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

DISTINCT: Final = 1 << 14  # values told apart
NEAR: Final = 1 << 20  # integers in so small a range are counted by their place in it
BITS: Final = BIT_LENGTHS - 1


class Bucket(NamedTuple):
    """Values from `low` to `high`, both included."""

    low: int
    high: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs here


class Log2:
    """Integers by powers of two: how many lie in 2**(n-1) to 2**n - 1; negative ones by their magnitude."""

    __slots__ = ("_above", "_below", "count", "greatest", "least", "total")

    def __init__(self) -> None:
        self._above = [0] * (BITS + 1)
        self._below = [0] * (BITS + 1)
        self.count = self.total = 0
        self.least: int | None = None
        self.greatest: int | None = None

    def add(self, values: "Array", times: "Array | None" = None) -> None:
        """Count integers of any width; `times`: how often each stands there (default: once)."""
        import numpy as np

        if not len(values):
            return
        if times is not None:
            self._weighted(values, times)
            return
        counts = np.empty(2 * BIT_LENGTHS + SUMS, np.uint64)
        signed = values.dtype.kind == "i"
        octets = np.ascontiguousarray(values).view(np.uint8)
        counting.bit_counts(octets, values.dtype.itemsize, signed, counts)
        self.join(counts, len(values), signed)

    def join(self, counts: "Array", count: int, signed: bool) -> None:
        """Add what `counts.bit_counts` gave of so many values, which are some."""
        import numpy as np

        above, below = counts[:BIT_LENGTHS], counts[BIT_LENGTHS : 2 * BIT_LENGTHS]
        for buckets, found in ((self._above, above), (self._below, below)):
            for length in np.flatnonzero(found).tolist():
                buckets[length] += int(found[length])
        low, high, down, far, *ends = counts[2 * BIT_LENGTHS :].tolist()
        self.total += (high << 64 | low) - (far << 64 | down)
        self.count += count
        least, greatest = (end - (1 << 64) if signed and end >> 63 else end for end in ends)
        self._reaches(least, greatest)

    def _weighted(self, values: "Array", times: "Array") -> None:
        """The same for distinct values and how often each occurs."""
        import numpy as np

        self._reaches(int(values.min()), int(values.max()))
        negative = values < 0 if values.dtype.kind == "i" else np.zeros(len(values), bool)
        wide = values.astype(np.int64 if values.dtype.kind == "i" else np.uint64).view(np.uint64)
        lengths = counting.bit_lengths(np.where(negative, ~wide + np.uint64(1), wide))
        for buckets, chosen in ((self._above, ~negative), (self._below, negative)):
            counts = np.zeros(BIT_LENGTHS, np.int64)
            np.add.at(counts, lengths[chosen], times[chosen])
            for length in np.flatnonzero(counts).tolist():
                buckets[length] += int(counts[length])
        self.total += sum(map(mul, values.tolist(), times.tolist()))
        self.count += int(times.sum())

    def _reaches(self, least: int, greatest: int) -> None:
        self.least = least if self.least is None else min(self.least, least)
        self.greatest = greatest if self.greatest is None else max(self.greatest, greatest)

    @property
    def mean(self) -> float:
        """The mean, 0 where there is nothing."""
        return self.total / self.count if self.count else 0.0

    @property
    def buckets(self) -> list[Bucket]:
        """All from the first to the last that has values, in order."""
        found = [Bucket(-(1 << n) + 1, -(1 << n - 1), self._below[n]) for n in range(BITS, 0, -1)]
        found.append(Bucket(0, 0, self._above[0]))
        found += [Bucket(1 << n - 1, (1 << n) - 1, self._above[n]) for n in range(1, BITS + 1)]
        full = [index for index, bucket in enumerate(found) if bucket.count]
        return found[full[0] : full[-1] + 1] if full else []

    def quantile(self, part: float) -> int:
        """An estimate of a quantile (`part` of 1): interpolated within its bucket."""
        rest = part * self.count
        for bucket in self.buckets:
            if bucket.count and rest <= bucket.count:
                value = bucket.low + int((bucket.high - bucket.low) * rest / bucket.count)
                return min(max(value, self.least or 0), self.greatest or 0)
            rest -= bucket.count
        return self.greatest or 0


class Top:
    """How often each integer occurs; `exact` unless there are more than DISTINCT different ones."""

    __slots__ = ("_counts", "_keys", "error", "exact")

    def __init__(self) -> None:
        self._keys: Any = None
        self._counts: Any = None
        self.exact = True
        self.error = 0

    def add(self, values: "Array") -> None:
        """Count integers (all calls: of one type)."""
        self.join(*counted(values))

    def join(self, keys: "Array", counts: "Array") -> None:
        """Add counts of distinct keys in order."""
        import numpy as np

        if not len(keys):
            return
        if self._keys is None:
            self._keys, self._counts = keys[:0], counts[:0]
        if len(keys) == len(self._keys) and (keys == self._keys).all():
            self._counts = self._counts + counts
            return
        at = np.searchsorted(self._keys, keys)
        known = at < len(self._keys)
        known[known] = self._keys[at[known]] == keys[known]
        self._counts[at[known]] += counts[known]
        if not known.all():
            fresh = ~known
            merged = np.concatenate([self._keys, keys[fresh]])
            order = np.argsort(merged, kind="stable")
            self._keys = merged[order]
            self._counts = np.concatenate([self._counts, counts[fresh]])[order]
        if len(self._keys) > DISTINCT:
            self._prune()

    @property
    def distinct(self) -> int:
        """How many values are told apart."""
        return 0 if self._keys is None else len(self._keys)

    def most(self, count: int) -> list[tuple[int, int]]:
        """The most frequent values with their counts, the most frequent first, the least value first."""
        import numpy as np

        if self._keys is None:
            return []
        first = np.argsort(-self._counts, kind="stable")[:count]  # the keys are in order
        return list(zip(self._keys[first].tolist(), self._counts[first].tolist(), strict=True))

    def items(self) -> list[tuple[int, int]]:
        """All values with their counts, in order."""
        if self._keys is None:
            return []
        return list(zip(self._keys.tolist(), self._counts.tolist(), strict=True))

    def arrays(self) -> "tuple[Array, Array]":
        """The same as arrays."""
        return self._keys, self._counts

    def _prune(self) -> None:
        """Keep the most frequent half (Misra and Gries, in batches): all counts shrink by the next one."""
        import numpy as np

        half = DISTINCT // 2
        cutoff = int(np.partition(self._counts, -half - 1)[-half - 1])
        self._counts = self._counts - cutoff
        keep = self._counts > 0
        self._keys, self._counts = self._keys[keep], self._counts[keep]
        self.exact = False
        self.error += cutoff


def above(values: "Array", least: int) -> "Array":
    """The integers less `least`, the least of them: unsigned, of the same width."""
    import numpy as np

    unsigned = np.dtype(f"u{values.dtype.itemsize}")
    bits: Array = np.ascontiguousarray(values).view(unsigned) - np.array(least, values.dtype).view(unsigned)
    return bits


def counted(values: "Array") -> "tuple[Array, Array]":
    """The distinct integers in order, and how often each occurs."""
    import numpy as np

    if not len(values):
        return values, np.zeros(0, np.int64)
    known = counting.few(values)
    if known is not None:
        return known[0], known[1]
    least, greatest = values.min(), values.max()
    if int(greatest) - int(least) < min(NEAR, 4 * len(values) + 256):
        counts = np.bincount(above(values, int(least)).astype(np.int64))
        present = np.flatnonzero(counts)
        return (present.astype(values.dtype) + least).astype(values.dtype, copy=False), counts[present]
    ordered = np.sort(values)
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    return ordered[first], np.diff(np.concatenate([first, [len(ordered)]]))


def counted_bools(keys: "Array", times: "Array") -> "tuple[Array, Array]":
    """The counts of integers, counted as truth values: 0 and 1."""
    import numpy as np

    true = keys != 0
    counts = np.array([times[~true].sum(), times[true].sum()], np.int64)
    there = np.flatnonzero(counts)
    return there.astype(np.uint8), counts[there]


class TopBytes:
    """How often each byte string occurs, counted by a 64-bit hash with a secret key."""

    __slots__ = ("_secret", "_top", "texts")

    def __init__(self) -> None:
        self._top = Top()
        self._secret = int.from_bytes(os.urandom(8), "little")
        self.texts: dict[int, bytes] = {}

    def add(self, data: "Array", places: "Array", lengths: "Array") -> None:
        """Count byte strings, which lie in the data there; NULs at the end of one are none of its bytes."""
        import numpy as np

        hashes = np.empty(len(places), np.uint64)
        done = hash_texts(data, places, lengths, len(places), self._secret, hashes)
        assert done == len(places)  # they lie in the data
        found = counting.few(hashes)
        if found is None:
            keys, first, counts = np.unique(hashes, return_index=True, return_counts=True)
        else:
            keys, counts, first = found
        self._join(data, keys, counts, places[first], lengths[first])

    def count(self, columns: Columns, field: Field) -> int | None:
        """Count the texts of a field; gives how many were not read. None: there are too many for this way."""
        found = counting.of_texts(columns, field, self._secret)
        if found is None:
            return None
        keys, counts, places, lengths, unread = found
        self._join(columns.data, keys, counts, places, lengths)
        return unread

    def _join(self, data: "Array", keys: "Array", counts: "Array", places: "Array", lengths: "Array") -> None:
        """Add counts of distinct hashes in order, whose first texts lie there."""
        for key, place, length in zip(keys.tolist(), places.tolist(), lengths.tolist(), strict=True):
            if key not in self.texts:
                self.texts[key] = data[place : place + length].tobytes().rstrip(b"\0")
        self._top.join(keys, counts)
        if len(self.texts) > 2 * DISTINCT:
            self.texts = {key: self.texts[key] for key, _ in self._top.items()}

    @property
    def exact(self) -> bool:
        """Whether all are told apart."""
        return self._top.exact

    @property
    def error(self) -> int:
        """By how much counts may be too small."""
        return self._top.error

    @property
    def distinct(self) -> int:
        """How many are told apart."""
        return self._top.distinct

    def most(self, count: int) -> list[tuple[bytes, int]]:
        """The most frequent with their counts."""
        pairs = [(self.texts[key], times) for key, times in self._top.items()]
        return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:count]
