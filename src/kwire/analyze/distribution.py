"""How values are distributed: by powers of two, and by how often each stands there.

The laws: counts are exact; memory is bounded whatever the values; numpy counts whole blocks, no value is
looked at alone. What has more than DISTINCT different values keeps its most frequent ones, each count at most
`error` too small.
"""

import os
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

DISTINCT: Final = 1 << 14  # values told apart
NEAR: Final = 1 << 20  # integers in so small a range are counted by their place in it
BITS: Final = 64


class Bucket(NamedTuple):
    """Values from `low` to `high`, both included."""

    low: int
    high: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs here


def bit_lengths(values: "Array") -> "Array":
    """`int.bit_length` of unsigned 64-bit integers."""
    import numpy as np

    lengths: Array = np.frexp(values.astype(np.float64))[1]
    great = values >= np.uint64(1 << 53)  # a double would round these up to the next power of two
    if great.any():
        lengths[great] = np.frexp((values[great] >> np.uint64(12)).astype(np.float64))[1] + 12
    return lengths


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
        least, greatest = int(values.min()), int(values.max())
        self.least = least if self.least is None else min(self.least, least)
        self.greatest = greatest if self.greatest is None else max(self.greatest, greatest)
        if least < 0:
            negative = values < 0
            # Of the least of 64 bits there is no magnitude in a signed integer; complement and count on.
            below = ~values[negative].astype(np.int64)
            self._count(self._below, below.astype(np.uint64) + np.uint64(1), _of(times, negative))
            self.total -= self._sum(below.astype(np.uint64), _of(times, negative)) + int(
                negative.sum() if times is None else times[negative].sum()
            )
            values, times = values[~negative], _of(times, ~negative)
        wide = values.astype(np.uint64)
        self._count(self._above, wide, times)
        self.total += self._sum(wide, times)

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
        """About the value below which this part of all lies: the middle of its bucket's part."""
        rest = part * self.count
        for bucket in self.buckets:
            if bucket.count and rest <= bucket.count:
                value = bucket.low + int((bucket.high - bucket.low) * rest / bucket.count)
                return min(max(value, self.least or 0), self.greatest or 0)
            rest -= bucket.count
        return self.greatest or 0

    def _count(self, buckets: list[int], values: "Array", times: "Array | None") -> None:
        import numpy as np

        lengths = bit_lengths(values)
        counts = np.bincount(lengths, weights=times, minlength=BITS + 1) if times is not None else None
        found = np.bincount(lengths, minlength=BITS + 1) if counts is None else counts
        for length in np.flatnonzero(found).tolist():
            buckets[length] += int(found[length])
        self.count += len(values) if times is None else int(times.sum())

    def _sum(self, values: "Array", times: "Array | None") -> int:
        """The sum, exactly: halves of 32 bits cannot overflow."""
        import numpy as np

        if times is not None:
            pairs = zip(values.tolist(), times.tolist(), strict=True)
            return sum(value * count for value, count in pairs)
        if not len(values):
            return 0
        if int(values.max()) < 1 << 40:  # 2**24 of them fit
            return int(values.sum(dtype=np.uint64))
        high, low = values >> np.uint64(32), values & np.uint64(0xFFFFFFFF)
        return (int(high.sum(dtype=np.uint64)) << 32) + int(low.sum(dtype=np.uint64))


def _of(times: "Array | None", chosen: "Array") -> "Array | None":
    return None if times is None else times[chosen]


class Top:
    """How often each integer stands there; `exact` unless there are more than DISTINCT of them."""

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
        if self._keys is None:
            return []
        pairs = sorted(self.items(), key=lambda pair: (-pair[1], pair[0]))
        return pairs[:count]

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
    """By how much each integer is greater than the least: unsigned, of the same width, so it fits."""
    import numpy as np

    unsigned = np.dtype(f"u{values.dtype.itemsize}")
    bits: Array = np.ascontiguousarray(values).view(unsigned) - np.array(least, values.dtype).view(unsigned)
    return bits


def counted(values: "Array") -> "tuple[Array, Array]":
    """The distinct integers in order, and how often each stands there."""
    import numpy as np

    if not len(values):
        return values, np.zeros(0, np.int64)
    least, greatest = values.min(), values.max()
    if int(greatest) - int(least) < min(NEAR, 4 * len(values) + 256):
        counts = np.bincount(above(values, int(least)).astype(np.int64))
        present = np.flatnonzero(counts)
        return (present.astype(values.dtype) + least).astype(values.dtype, copy=False), counts[present]
    ordered = np.sort(values)
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    return ordered[first], np.diff(np.concatenate([first, [len(ordered)]]))


class TopBytes:
    """How often each byte string stands there: counted by a 64-bit hash with a secret."""

    __slots__ = ("_secret", "_top", "texts")

    def __init__(self) -> None:
        self._top = Top()
        self._secret = int.from_bytes(os.urandom(8), "little")
        self.texts: dict[int, bytes] = {}

    def add(self, values: "Array") -> None:
        """Count fixed-width byte strings ('S' or 'V'), or objects."""
        import numpy as np

        if values.dtype.kind == "O":
            self._each(Counter(values.tolist()))
            return
        hashes = self._hash(values)
        keys, counts = counted(hashes)
        new = [key for key in keys.tolist() if key not in self.texts]
        if len(new) > 64:
            distinct, places = np.unique(hashes, return_index=True)
            where = dict(zip(distinct.tolist(), places.tolist(), strict=True))
            for key in new:
                self.texts[key] = _bare(values[where[key]])
        else:
            for key in new:
                self.texts[key] = _bare(values[int((hashes == np.uint64(key)).argmax())])
        self._join(keys, counts)

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

    def _each(self, counts: "Counter[bytes]") -> None:
        import numpy as np

        bare: Counter[bytes] = Counter()
        for text, times in counts.items():
            bare[text.rstrip(b"\0")] += times
        by_hash = {self._one(text): (text, times) for text, times in bare.items()}
        keys = np.array(sorted(by_hash), np.uint64)
        self.texts.update({key: text for key, (text, _) in by_hash.items()})
        self._join(keys, np.array([by_hash[key][1] for key in keys.tolist()], np.int64))

    def _join(self, keys: "Array", counts: "Array") -> None:
        self._top.join(keys, counts)
        if len(self.texts) > 2 * DISTINCT:
            self.texts = {key: self.texts[key] for key, _ in self._top.items()}

    def _one(self, text: bytes) -> int:
        """The hash of one byte string, as `_hash` has it."""
        import numpy as np

        text = text or b"\0"
        return int(self._hash(np.frombuffer(text, f"V{len(text)}"))[0])

    def _hash(self, values: "Array") -> "Array":
        import numpy as np

        width = values.dtype.itemsize
        rows = np.ascontiguousarray(values).view(np.uint8).reshape(-1, width)
        words = (width + 7) // 8
        if width % 8:
            padded = np.zeros((len(rows), 8 * words), np.uint8)
            padded[:, :width] = rows
            rows = padded
        wide = rows.view(np.uint64)
        mixed = np.full(len(rows), self._secret, np.uint64)
        for word in range(words):
            part = wide[:, word]
            stirred = _mix(mixed ^ (part * np.uint64(0x9E3779B97F4A7C15) + np.uint64(word)))
            mixed = np.where(part != 0, stirred, mixed)  # so that padding with NULs changes nothing
        return mixed


def _mix(values: "Array") -> "Array":
    """The finalizer of splitmix64: every bit of the input reaches every bit of the output."""
    import numpy as np

    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Array = values ^ (values >> np.uint64(31))
    return mixed


def _bare(value: Any) -> bytes:
    """One value without the NULs at its end."""
    return bytes(value.tobytes()).rstrip(b"\0")
