"""A source without a kernel: frames of a real schema, from memory. Used by other benchmarks and by tests.

Run: `replay.py ADDRESS EVENTS`, see `--help`. Prints one JSON object: events sent, lost, seconds, seconds of
CPU. Without `--rate` it sends as fast as it is taken: what has no room waits. With it, a round comes every
4 ms whatever the network does, as from a ring, and what has no room is lost; after SIGUSR1
the rest comes at once.
"""

import argparse
import json
import os
import resource
import signal
import struct
import sys
import time
from array import array
from collections.abc import Mapping

from kwire.agent.agent import make_uplink
from kwire.agent.source import Outlet, SourceSink
from kwire.agent.uplink import Certificates, Line, MemoryHold, SpoolHold
from kwire.broker.address import Login, is_broker, parse_broker
from kwire.broker.client import Broker
from kwire.transport.address import parse
from kwire.transport.loop import Loop
from kwire.transport.tls import TlsOptions
from kwire.wire.fields import Field
from kwire.wire.frames import Frames
from kwire.wire.schema import Clock, Schema
from kwire.wire.session import Settings

SIZE = 48  # bytes of a frame: as tracepoint:syscalls:sys_enter_getppid makes them
ROUND = 0.004
SPAN = 8192  # frames in memory


def schema(host: str) -> Schema:
    """What `kwire record tracepoint:syscalls:sys_enter_getppid` describes."""
    fields = (
        Field("cpu", "u16", 32, 2),
        Field("pid", "u32", 16, 4),
        Field("tid", "u32", 20, 4),
        Field("comm", "str", 28, 4, limit=16),
        Field("__syscall_nr", "s32", 24, 4),
    )
    clock = Clock("monotonic", time.monotonic_ns(), time.time_ns())
    target = "syscalls:sys_enter_getppid"
    return Schema(
        1, f"tracepoint:{target}", "tracepoint", target, fields, 34, sys.byteorder, clock=clock, host=host,
        kernel=os.uname().release,
    )  # fmt: skip


def span(count: int, now: int) -> Frames:
    """Frames as a ring holds them: with eight bytes before each. One every microsecond from `now` on."""
    head = struct.pack(">BBHI", 0x11, 0, SIZE, 1)
    data = b"".join(
        bytes(8)
        + head
        + struct.pack("=QIIIHHH", now + 1000 * number, 4242, 4243, 110, 34, 4, 1)
        + b"load".ljust(SIZE - 34, b"\0")
        for number in range(count)
    )
    return Frames(data, array("Q", range(8, len(data), SIZE + 8)))


def used() -> float:
    """Seconds of CPU that this process has used."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Replay:
    """One agent: sends `events` events, and ends `hold` seconds after all agents have sent theirs."""

    busy = 0  # agents that have not

    def __init__(
        self, line: Line, host: str, frames: Frames | None, events: int, rate: float, hold: float, spool: str
    ) -> None:
        self.line, self.rate, self.hold = line, rate, hold
        self.sink = SourceSink((schema(host),), line.settings.data_size)
        self.frames = frames
        self.events = events
        self.started = self.before = 0.0  # seconds, and seconds of CPU until then
        self.given = 0
        self.over = False
        Replay.busy += 1
        if spool:
            from kwire.agent import spool as spools

            held = spools.begin(spool, os.urandom(16), self.sink.begin(), 8 << 30, line.settings.memory)
            self.uplink = make_uplink(line, SpoolHold(held), self)
            held.run()
        else:
            self.uplink = make_uplink(line, MemoryHold(line.settings.memory, self.sink.begin()), self)

    @property
    def probes(self) -> int:
        return self.sink.probes

    @property
    def schemas(self) -> list[bytes]:
        return self.sink.begin()

    def begun(self, session: Outlet) -> bool:
        self.sink.outlet = session
        return False

    def refused(self) -> None:
        """Certificates do not fit: whoever runs this sees that it does not end."""

    def taken(self, events: int, probes: Mapping[int, int]) -> None:
        """Nobody takes captures away here."""

    def receiving(self, up: bool) -> None:
        self.sink.waits = 0.0 if up else 0.5

    def room(self) -> None:
        if not self.started:
            self.started = time.monotonic()
            self.before = used()
            self.line.loop.soon(self.round)
        self.sink.flush()

    def restarted(self, abandoned, carried):  # type: ignore[no-untyped-def]  # as `Cargo` has it
        return self.sink.restart(abandoned, carried)

    def done(self) -> None:
        self.over = True

    def round(self) -> None:
        """What a recorder's round gives."""
        loop = self.line.loop
        if self.rate:
            due = min(self.events, int((time.monotonic() - self.started) * self.rate))
            while self.given < due:
                self._give(min(SPAN, due - self.given))
        else:
            session = self.sink.outlet
            while self.given < self.events and session is not None and session.room > SPAN * SIZE * 2:
                self._give(min(SPAN, self.events - self.given))
                if self.given % (8 * SPAN) == 0:
                    break
        self.sink.flush()
        self.uplink.flush()
        if self.given < self.events:
            if self.rate:
                loop.at(loop.now() + ROUND, self.round)
            elif session is not None and session.room <= SPAN * SIZE * 2:
                loop.at(loop.now() + 0.001, self.round)
            else:
                loop.soon(self.round)
        else:
            Replay.busy -= 1
            self.wait()

    def wait(self) -> None:
        """Stay connected until all agents are, and for a while."""
        loop = self.line.loop
        if self.hold and Replay.busy:
            loop.at(loop.now() + 0.1, self.wait)
        else:
            loop.at(loop.now() + self.hold, self.end)

    def end(self) -> None:
        if self.sink.finish({1: self.events}):
            self.uplink.flush()
            self.uplink.close("done")
        else:
            self.uplink.flush()
            self.line.loop.at(self.line.loop.now() + 0.02, self.end)

    def _give(self, count: int) -> None:
        if self.frames is None:  # each event is another one
            self.sink.write(span(count, self.given * 1000))
        else:
            self.frames.count = count
            self.sink.write(self.frames)
        self.given += count


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("events", type=int)
    parser.add_argument("--rate", type=float, default=0)
    parser.add_argument("--agents", type=int, default=1)
    parser.add_argument("--tls", default="")
    parser.add_argument("--spool", default="")
    parser.add_argument("--host", default="replay")
    parser.add_argument("--hold", type=float, default=0)
    parser.add_argument("--insecure", action="store_true")
    parser.add_argument("--numbered", action="store_true", help="timestamps 0, 1000, 2000 …")
    parser.add_argument("--memory", type=int, default=64 << 20)
    args = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    loop = Loop()
    broker = None
    if is_broker(args.address):
        broker = Broker(
            loop, parse_broker(args.address), Login(), lambda text, event="", /: print(text, file=sys.stderr)
        )
    address = broker.address if broker is not None else parse(args.address)
    settings = Settings(memory=args.memory)
    if address.datagrams:
        settings = settings._replace(data_size=settings.datagram_size)
    paths = (f"{args.tls}/{name}.pem" for name in ("cert", "key", "ca"))
    tls = Certificates(TlsOptions(*paths)) if args.tls else None
    agents, frames = [], None if args.numbered else span(SPAN, time.monotonic_ns())
    for number in range(args.agents):
        host = f"{args.host}-{number}" if args.agents > 1 else args.host
        about = {"host": host, "kernel": os.uname().release, "tool": "replay"}
        line = Line(
            loop, address, settings, about, lambda text, event="", /: None, tls, args.insecure, broker=broker
        )
        agents.append(Replay(line, host, frames, args.events, args.rate, args.hold, args.spool))

    def hurry(*_: object) -> None:
        for agent in agents:
            agent.rate = 1e12

    signal.signal(signal.SIGUSR1, hurry)
    while not all(agent.over for agent in agents):
        loop.turn(0.1)
    if broker is not None:
        broker.close()
    print(
        json.dumps(
            {
                "events": sum(agent.sink.events for agent in agents),
                "lost": sum(agent.sink.lost_events for agent in agents),
                "seconds": time.monotonic() - min(agent.started for agent in agents),
                "cpu": used() - min(agent.before for agent in agents),
                "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
            }
        )
    )


if __name__ == "__main__":
    main()
