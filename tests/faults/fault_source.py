"""Where events come from: a tracer that makes numbered ones under the real `kwire agent`, or the kernel.

Everything but that tracer is the command's own: spool, sessions, summaries, exit status; of the kernel's
events (system calls of `caller.c`) the tracer too. Events carry numbers that no two of a scenario share, and
how many there were stands in shared memory, which outlives kill -9: that is the counter which the judge
believes, and nothing of kwire's writes it.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import time
from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from kwire.live.plan import Plan
from kwire.live.recorder import complete
from kwire.wire.fields import Field
from kwire.wire.frames import Frames
from kwire.wire.messages import CPU_UNKNOWN, Cause, Lost
from kwire.wire.schema import Schema

SIZE = 40  # bytes of an event: header, time, number, incarnation, ballast
RING = 20_000  # events that a ring holds before it refuses
ROUND = 2_000  # events in a span
_EVENT = struct.Struct("=QQI12x")
_HEAD = struct.Struct(">BBHI")


def schemas(probes: int) -> tuple[Schema, ...]:
    """So many probes."""
    fields = (Field("number", "u64", 16, 8), Field("life", "u32", 24, 4))
    made = (
        Schema(number, f"tracepoint:fault:probe{number}", "tracepoint", f"fault:probe{number}", fields, SIZE,
               sys.byteorder)
        for number in range(1, probes + 1)
    )  # fmt: skip
    return complete(tuple(made))


class Counter:
    """Events produced by probe, in memory that is shared with the process that judges."""

    def __init__(self, probes: int) -> None:
        self._map = mmap.mmap(-1, 8 * (probes + 2))
        words = memoryview(self._map).cast("Q")
        self.produced = words[:-1]
        self.refused = words[-1:]
        """How many of these found the ring full."""

    @property
    def total(self) -> int:
        """Events produced, of all probes."""
        return sum(self.produced)

    def halt(self, alive: Callable[[], bool]) -> None:
        """No event comes any more that is not counted; wait for that while `alive`."""

    def close(self) -> None:
        self.produced.release()
        self.refused.release()
        self._map.close()


PROBES = (
    "tracepoint:syscalls:sys_enter_lseek(offset)",
    "tracepoint:syscalls:sys_enter_readahead(offset)",
    "tracepoint:syscalls:sys_enter_ftruncate(length)",
)
"""What `caller.c` calls, by turns; the number is the record's first value, as in events that are made."""


class Calls(Counter):
    """System calls that a process has made, counted by itself in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.write_bytes(bytes(mmap.PAGESIZE))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self.produced = memoryview(self._map).cast("Q")
        self.refused = self.produced[-1:]  # the kernel counts those

    def arguments(self, life: int, probes: int, rate: float, seconds: float) -> list[str]:
        """The probes and the command of an agent."""
        caller = os.environ["KWIRE_FAULT_CALLER"]
        command = f"{caller} {self._path} {life} {probes} {rate:.0f} {seconds:g}"
        return [*PROBES[:probes], "-c", command]

    @property
    def total(self) -> int:
        return self.produced[0]

    def halt(self, alive: Callable[[], bool]) -> None:
        self.produced[1] = 1
        while alive() and not self.produced[2] and self._begun:
            time.sleep(0.001)

    @property
    def _begun(self) -> bool:
        return self.produced[0] > 0


class _Always:
    """A descriptor that is always readable, in the place of a ring's."""

    class _Map:
        fd = -1

    def __init__(self) -> None:
        self.map = self._Map()
        self.map.fd = os.eventfd(1, os.EFD_CLOEXEC)


class NoGround:
    """In the place of the kernel's rings."""

    def __init__(self, buffer: int | None = None, *, follow: bool = False) -> None:
        pass

    def close(self) -> None:
        """Nothing is kept."""


class Synthetic:
    """What a `Recorder` needs of a tracer: `rate` events a second, taken in turns by its probes.

    `life`: tells this process of the scenario from others. A reader that comes too late finds the ring full,
    as in the kernel: what it refuses is counted.
    """

    rate = 20_000.0
    life = 0
    counter: Counter
    unfollowed = 0
    asked = None
    stacks = None
    """No program asks for the end."""
    iterating = finite = False
    """Nothing is walked."""
    maps: Sequence[object] = ()

    def __init__(
        self, plan: Plan, *, ground: object = None, follow: bool = False, leaving: bool = False
    ) -> None:
        self.plan = plan
        self.rings = [_Always()]
        self._began = 0.0
        self._due = 0  # events that have been due, refused ones too
        self._refused = [0] * (len(plan.schemas) + 1)
        self._over = False

    def close(self) -> None:
        os.close(self.rings[0].map.fd)

    def attach(self) -> None:
        self._began = time.monotonic()

    def follow(self, processes: object) -> None:
        """Nobody is chosen."""

    def unloaded(self) -> list[str]:
        """No module is traced."""
        return []

    def missed(self) -> list[Lost]:
        return []

    def finish(self) -> None:
        """There are no probes at its end."""

    def detach(self) -> None:
        self._over = True

    def take_away(self, probes: Collection[int]) -> None:
        assert not probes, "what is made up does not change"

    def drain(self) -> Iterator[Frames]:
        if self._over:
            return
        due = int((time.monotonic() - self._began) * self.rate)
        refused = max(0, due - self._due - RING)
        for number in range(self._due, self._due + refused):
            self._refused[self._probe(number)] += 1
            self.counter.produced[self._probe(number)] += 1
        self._due += refused
        self.counter.refused[0] += refused
        while self._due < due:
            count = min(ROUND, due - self._due)
            frames = self._span(self._due, count)
            self._due += count
            yield frames

    def settle(self) -> Iterator[Frames]:
        return iter(())

    def lost(self) -> list[Lost]:
        now = time.monotonic_ns()
        found = [
            Lost(probe, now, now, count, CPU_UNKNOWN, Cause.RING_FULL)
            for probe, count in enumerate(self._refused)
            if count
        ]
        self._refused = [0] * len(self._refused)
        return found

    def produced(self) -> dict[int, int]:
        return {schema.id: self.produced_by(schema.id) for schema in self.plan.schemas}

    def produced_by(self, probe: int) -> int:
        return self.counter.produced[probe]

    def _probe(self, number: int) -> int:
        return number % len(self.plan.schemas) + 1

    def _span(self, first: int, count: int) -> Frames:
        now = time.monotonic_ns()
        parts = []
        for number in range(first, first + count):
            probe = self._probe(number)
            self.counter.produced[probe] += 1
            parts.append(_HEAD.pack(0x11, 0, SIZE, probe))
            parts.append(_EVENT.pack(now, self.life << 40 | number, self.life))
        data = b"".join(parts)
        return Frames(data, array("Q", range(0, len(data), SIZE)))


def hurry() -> None:
    """Shorter pauses, so that a scenario takes a second and not a minute."""
    from kwire.agent import uplink
    from kwire.collector import storage
    from kwire.transport import connect

    connect.SHORTEST, connect.LONGEST, connect.PATIENCE = 0.02, 0.1, 3.0
    uplink.BETWEEN = 0.05  # type: ignore[misc]
    storage.AGAIN = 0.05  # type: ignore[misc]


def agent(argv: Sequence[str], probes: int, rate: float, life: int, counter: Counter) -> int:
    """`kwire agent` with these arguments, in this process; its exit status."""
    from kwire.cli import main
    from kwire.live import ground, planner, recorder

    plan = Plan((), schemas(probes))

    class Mine(Synthetic):
        pass

    Mine.rate, Mine.life, Mine.counter = rate, life, counter

    def make_plan(*_: Any, **__: Any) -> Plan:
        return plan

    setattr(recorder, "Tracer", Mine)  # noqa: B010  # the names are not exported, but it calls them
    setattr(ground, "Ground", NoGround)  # noqa: B010
    planner.make_plan = make_plan
    hurry()
    exec(os.environ.get("KWIRE_FAULT_AGENT_PATCH", ""), {})
    return main.main(["agent", *argv])


def kernel_agent(argv: Sequence[str]) -> int:
    """`kwire agent` with these arguments and its own tracer, in this process; its exit status."""
    from kwire.cli import main

    hurry()
    exec(os.environ.get("KWIRE_FAULT_AGENT_PATCH", ""), {})
    return main.main(["agent", *argv])


def collect(argv: Sequence[str]) -> int:
    """`kwire collect` with these arguments, in this process; its exit status."""
    from kwire.cli import main

    hurry()
    exec(os.environ.get("KWIRE_FAULT_PATCH", ""), {})  # what a test makes wrong, for the judge to find
    return main.main(["collect", *argv])
