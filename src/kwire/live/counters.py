"""What the running probes count of themselves, read from memory shared with the kernel.

Each probe has one 64-byte slot on each CPU in the `counts` map (a mapped array: reading it costs no system
call). The program adds to `attempts` for every event it produced and to `refused` for every one the ring did
not take, so that *attempts = delivered + refused* can be checked against what user space really received.

Invariant: a refusal is turned into a LOST frame exactly once. `take` remembers what it has already reported.
"""

from collections.abc import Iterator
from mmap import mmap

from kwire.bpf.counts import (
    ATTEMPTS,
    FAULTS,
    FIELDS,
    FIRST,
    LAST,
    REFUSED,
    SKIPPED,
    SLOT_SIZE,
    TOO_LONG,
)
from kwire.lazy import NamedTuple
from kwire.wire.messages import Cause, Lost

_WORDS = SLOT_SIZE // 8


class Count(NamedTuple):
    """One probe's counters, summed over the CPUs. `skipped`: firings at which its memory was in use."""

    attempts: int
    refused: int
    too_long: int
    read_faults: int
    skipped: int = 0


class Counters:
    """The `counts` map of `probes` probes on `cpus` CPUs, mapped writable; `close` unmaps it.

    It is read as unsigned 64-bit words, one aligned access each, so that no counter is read torn.
    """

    __slots__ = ("_cpus", "_memory", "_probes", "_refused", "_too_long", "_words")

    def __init__(self, memory: mmap, probes: int, cpus: int) -> None:
        self._memory = memory
        self._words = memoryview(memory).cast("Q")
        self._probes = probes
        self._cpus = cpus
        self._refused = [0] * (probes * cpus)
        self._too_long = [0] * (probes * cpus)

    def _slots(self, probe: int) -> Iterator[int]:
        """The index of the first word of the slot of `probe` (from 1) on each CPU."""
        return ((cpu * self._probes + probe) * _WORDS for cpu in range(self._cpus))

    def count(self, probe: int) -> Count:
        """Sum the counters of `probe` (from 1) over all CPUs."""
        sums = [0] * len(FIELDS)
        for base in self._slots(probe):
            for index in (ATTEMPTS, REFUSED, TOO_LONG, FAULTS, SKIPPED):
                sums[index] += self._words[base + index]
        return Count(sums[ATTEMPTS], sums[REFUSED], sums[TOO_LONG], sums[FAULTS], sums[SKIPPED])

    def attempts(self) -> int:
        """Events produced so far by all probes together."""
        return sum(self._words[index] for index in range(_WORDS + ATTEMPTS, len(self._words), _WORDS))

    def take(self) -> list[Lost]:
        """Give what was lost in the kernel since the last call, one entry a probe, CPU and cause."""
        words = self._words
        lost: list[Lost] = []
        for slot in range(self._probes * self._cpus):
            base = (slot + 1) * _WORDS
            cpu, probe = divmod(slot, self._probes)
            refused = words[base + REFUSED]
            if refused != self._refused[slot]:
                last = words[base + LAST]
                first = words[base + FIRST] or last
                words[base + FIRST] = 0  # the program notes the start of the next hole
                count = refused - self._refused[slot]
                self._refused[slot] = refused
                lost.append(Lost(probe + 1, first, max(first, last), count, cpu, Cause.RING_FULL))
            too_long = words[base + TOO_LONG]
            if too_long != self._too_long[slot]:
                count = too_long - self._too_long[slot]
                self._too_long[slot] = too_long
                lost.append(Lost(probe + 1, 0, 0, count, cpu, Cause.TOO_LONG))
        return lost

    def close(self) -> None:
        """Unmap; twice is harmless."""
        self._words.release()
        self._memory.close()
