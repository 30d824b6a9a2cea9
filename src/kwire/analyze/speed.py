"""How fast readers are, beside the rate at which a network can deliver.

Invariants: what is measured is what verbs use, on captures whose contents are known and whose results are
checked; the processor time of one core, system calls included; the best of some runs; files that lie in
memory. Rates are those of Ethernet: a frame takes 20 bytes more on the wire (preamble, start, gap).
"""

import os
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from kwire.analyze.capture_summary import CaptureSummary
from kwire.analyze.source import Source
from kwire.analyze.stats import Stats
from kwire.capture import pcap
from kwire.capture.reader import Capture
from kwire.capture.verify import verify_capture
from kwire.packets import samples
from kwire.packets.open import open_capture
from kwire.wire import walk
from kwire.wire.columns import columns

OVERHEAD: Final = 20  # bytes on the wire besides the frame
CHECKSUM: Final = 4  # bytes of a frame that captures leave out
RATES: Final = (10, 25, 40, 100)  # Gbit/s
IMIX: Final = ((64, 7), (594, 4), (1518, 1))  # frame size, share
MIXED: Final = 200_000  # packets of the realistic mix at most: it is made one by one
SIZES: Final = {"64": 64.0, "512": 512.0, "1518": 1518.0, "IMIX": sum(a * n for a, n in IMIX) / 12}


class Speed(NamedTuple):
    """What was measured: `items` and bytes a second.

    `size`: of a packet on its line, in bytes on average, checksum included; 0: these travel on none.
    """

    name: str
    unit: str
    items: float
    bytes: float
    size: float = 0.0

    @property
    def share(self) -> float:
        """Of what a 10 GbE line delivers at most in such packets; 0: these travel on none."""
        return self.items / line_rate(10, self.size) if self.size else 0.0


def line_rate(gigabits: float, size: float) -> float:
    """Packets a second that a line delivers at most; `size` in bytes, checksum included."""
    return gigabits * 1e9 / ((size + OVERHEAD) * 8)


def best(work: Callable[[], int], runs: int) -> tuple[float, int]:
    """Processor seconds of the fastest run, and what it gave."""
    seconds, result = float("inf"), 0
    for _ in range(runs):
        start = time.process_time()
        result = work()
        seconds = min(seconds, time.process_time() - start)
    return seconds, result


@contextmanager
def file_of(data: bytes) -> Iterator[str]:
    """A file in memory with these bytes; gives its path."""
    fd = os.memfd_create("kwire-sample")
    try:
        with open(os.dup(fd), "wb") as out:
            out.write(data)
        yield f"/proc/{os.getpid()}/fd/{fd}"
    finally:
        os.close(fd)


def to_columns(capture: Capture) -> int:
    """Read a capture to its end, all fields of all events as columns; how many events."""
    events = 0
    with capture:
        for frames in capture:
            for schema in capture.schemas.values():
                events += len(columns(schema, frames)["time"])
    return events


def walked(capture: Capture) -> int:
    """Read a capture to its end; how many events."""
    with capture:
        return sum(map(len, capture))


def proven(path: str) -> int:
    """What `kwire verify` does with a capture; how many events are stored in it."""
    with open_capture(path) as capture:
        return verify_capture(capture).totals.stored


def counted(path: str) -> int:
    """What `kwire stats` does with a capture; how many events are counted."""
    with Source(path) as source:
        return Stats(source, CaptureSummary()).scan.events


def measure(count: int, runs: int) -> Iterator[Speed]:
    """Measure the readers on samples of `count` packets, one after the other."""
    yield from _frames(min(count, 1 << 18), runs)
    data = samples.capture(count)
    with file_of(data) as path:
        for name, read in (("pcapng of ours, walk", walked), ("pcapng of ours to columns", to_columns)):
            seconds, events = best(lambda read=read: read(open_capture(path)), runs)  # type: ignore[misc]  # mypy infers no lambda with a default
            assert events == count
            yield Speed(name, "events", count / seconds, len(data) / seconds)
    yield from _network("ideal network pcap", samples.network(count), count // 8 * 8, count // 8 * 4, runs)
    mixed = samples.realistic(min(count, MIXED))
    yield from _network("realistic mix", mixed.data, mixed.packets, mixed.events, runs)


def _network(name: str, data: bytes, packets: int, expected: int, runs: int) -> Iterator[Speed]:
    """A capture of a network as two verbs read it."""
    size = (len(data) - pcap.HEADER_SIZE) / packets - pcap.RECORD_SIZE + CHECKSUM
    with file_of(data) as path:
        for verb, read in (("verify", proven), ("stats", counted)):
            seconds, events = best(lambda read=read: read(path), runs)  # type: ignore[misc]  # mypy infers no lambda with a default
            assert events == expected
            yield Speed(f"{name}, {verb}", "packets", packets / seconds, len(data) / seconds, size)


def _frames(count: int, runs: int) -> Iterator[Speed]:
    """Headers and checksums of frames that lie back to back."""
    data = samples.events(count).tobytes()
    offsets, out = array("Q", bytes(8 * count)), array("Q", bytes(8 * count))
    works: list[tuple[str, Callable[[], Any]]] = [
        ("frame headers, strict", lambda: walk.frame_strict(data, 0, len(data), offsets, count)[0]),
        ("checksums", lambda: walk.frame_checksums(data, offsets, count, out)),
    ]
    for name, work in works:
        seconds, done = best(work, runs)
        assert done == count
        yield Speed(f"{name}, {samples.EVENT_SIZE} bytes", "frames", count / seconds, len(data) / seconds)


def linear(count: int, runs: int) -> float:
    """How much more a packet costs in a capture four times as long; 1.0: nothing."""
    costs = []
    for packets in (count, count * 4):
        with file_of(samples.network(packets)) as path:
            seconds, _ = best(lambda path=path: to_columns(open_capture(path)), runs)  # type: ignore[misc]  # mypy infers no lambda with a default
            costs.append(seconds / packets)
    return costs[1] / costs[0]


class Long(NamedTuple):
    """A capture read from a pipe: bytes, events, seconds, and the most memory that was resident, in bytes."""

    bytes: int
    events: int
    seconds: float
    resident: int


def long(size: int) -> Long:
    """Read a network capture of about `size` bytes from a pipe, to columns."""
    step = 1 << 17
    source, target = os.pipe()
    writer = os.fork()
    if not writer:
        status = 1
        try:
            os.close(source)
            _write(target, size, step)
            status = 0
        finally:
            os._exit(status)
    os.close(target)
    start = time.perf_counter()
    capture = open_capture(source)
    try:
        events = to_columns(capture)
    finally:
        os.close(source)
        os.waitpid(writer, 0)
    seconds = time.perf_counter() - start
    total = capture.network.packets * len(samples.network(8, 8)) // 8
    return Long(total, events, seconds, resident())


def _write(target: int, size: int, step: int) -> None:
    written = first = 0
    while written < size:
        data = memoryview(samples.network(step, first))
        first += step
        written += len(data)
        while data:
            data = data[os.write(target, data) :]


def resident() -> int:
    """The most memory that this process had resident, in bytes."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
