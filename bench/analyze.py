"""Questions to captures: events a second of stats, query, export, merge and cut, on a capture made here.

Run: python bench/analyze.py [EVENTS] (default 5,000,000: 440 MB in the temporary directory).
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from kwire.capture.writer import Writer
from kwire.wire.frames import Frames
from kwire.wire.schema import Clock, Field, Schema

SIZE = 56
FIELDS = (
    Field("pid", "u32", 16, 4),
    Field("tid", "u32", 20, 4),
    Field("fd", "s32", 24, 4),
    Field("comm", "str", 28, 4, limit=16),
    Field("ret", "s64", 32, 8),
    Field("cpu", "u16", 40, 2),
)
RECORD = np.dtype(
    [
        ("kind", "u1"), ("flags", "u1"), ("length", ">u2"), ("id", ">u4"), ("time", "<u8"), ("pid", "<u4"),
        ("tid", "<u4"), ("fd", "<i4"), ("at", "<u2"), ("size", "<u2"), ("ret", "<i8"), ("cpu", "<u2"),
        ("comm", "S14"),
    ]
)  # fmt: skip

#: What is measured: name → arguments, `{}` the capture, `{out}` a file of its own.
WORK = {
    "stats": ["stats", "{}", "--json"],
    "query, one column summed": ["query", "{}", "SELECT comm, sum(ret) FROM sys_enter_read GROUP BY comm"],
    "query, all events": ["query", "{}", "SELECT comm, count(*) FROM events GROUP BY comm"],
    "export to Parquet": ["export", "{}", "-o", "{out}.parquet"],
    "merge": ["merge", "{}", "-w", "{out}"],
    "cut a tenth": ["cut", "{}", "--from", "+1s", "--to", "+1250ms", "-w", "{out}"],
    "verify": ["verify", "{}"],
}


def make(path: Path, events: int) -> None:
    """Entries and exits of read and write by forty threads."""
    clock = Clock("monotonic", 0, 1_700_000_000_000_000_000)
    names = ["enter_read", "exit_read", "enter_write", "exit_write"]
    schemas = [
        Schema(at + 1, f"tracepoint:syscalls:sys_{name}", "tracepoint", name, FIELDS, 42, clock=clock)
        for at, name in enumerate(names)
    ]
    random, rows = np.random.default_rng(1), np.zeros(events, RECORD)
    thread = random.integers(0, 40, events // 2 + 1).repeat(2)[:events]
    rows["kind"], rows["length"], rows["at"], rows["size"] = 0x11, SIZE, 42, 6
    rows["id"] = 1 + np.arange(events) % 2 + 2 * (thread % 2)
    rows["time"] = np.cumsum(random.exponential(500, events).astype(np.uint64))
    rows["pid"], rows["tid"], rows["cpu"] = 1000 + thread // 4, 1000 + thread, thread % 2
    rows["fd"], rows["ret"] = (
        random.integers(0, 20, events),
        random.exponential(4096, events).astype(np.int64),
    )
    rows["comm"] = np.array([f"nginx{number}".encode() for number in range(10)])[thread // 4]
    with Writer(str(path), schemas) as writer:
        for start in range(0, events, 1 << 16):
            data = rows[start : start + (1 << 16)].tobytes()
            writer.write(Frames(data, np.arange(0, len(data), SIZE, dtype=np.uint64).data))


def main() -> None:
    if sys.argv[1:2] == ["--make"]:
        make(Path(sys.argv[2]), int(sys.argv[3]))
        return
    events = int(sys.argv[1]) if len(sys.argv) > 1 else 5_000_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "bench.pcapng")
        # In a process of its own: the memory of this one would count for all it starts.
        subprocess.run([sys.executable, __file__, "--make", str(path), str(events)], check=True)
        print(f"{events:,} events, {path.stat().st_size / 1e6:.0f} MB")
        for name, words in WORK.items():
            command = [word.format(path, out=Path(folder, "out")) for word in words]
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            begin = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "kwire.cli.main", *command], check=True,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            took = time.perf_counter() - begin
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            rate = f"{events / took / 1e6:5.2f} million events/s, {events / cpu / 1e6:5.2f} a second of CPU"
            print(f"{name:<26} {took:6.2f} s, {rate}; at most {after.ru_maxrss / 1024:.0f} MB so far")


if __name__ == "__main__":
    main()
