"""Agents and collectors through a broker, beside our own TCP session and raw publishing of the same bytes.

One nats-server with JetStream, files on the disk of the temporary folder, everything on loopback in processes
of its own. Raw is nats-py alone: messages of the size that agents publish, as many under way at a time.
`--agents 1 10 100 1000`: so many agents played by one process, together with as many events.
"""

import argparse
import asyncio
import contextlib
import json
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from common import KWIRE, table, workspace
from replay import SIZE, span
from stream import Collector, cpu, free_port, memory, proven, replay

from kwire.broker.address import Login, parse_broker
from kwire.broker.client import connect
from kwire.broker.names import STREAM

PAYLOAD = 65_400
UNDER_WAY = 128
TOKEN = 32
"""Digits of a session, which are the name of its checkpoint."""


@contextlib.contextmanager
def broker(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server with stream and bucket."""
    port = free_port()
    server = shutil.which("nats-server", path="/usr/sbin:/usr/bin:/usr/local/bin") or "nats-server"
    command = [server, "-js", "-sd", str(folder / "broker"), "-a", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"nats://127.0.0.1:{port}"
    try:
        while subprocess.run([KWIRE, "fleet", "init", url], capture_output=True).returncode:
            time.sleep(0.1)
        yield url, process
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder / "broker", ignore_errors=True)


async def publish(url: str, messages: int) -> float:
    """Publish messages with nats-py; seconds until the last one is acknowledged."""
    import nats

    payload = span(PAYLOAD // SIZE, 0).data
    payload = bytes(payload)[:PAYLOAD].ljust(PAYLOAD, b"\0")
    nc = await nats.connect(url, pending_size=8 << 20)
    js = nc.jetstream(publish_async_max_pending=UNDER_WAY)
    start = time.monotonic()
    for number in range(messages):
        await js.publish_async(f"kwire.raw.{0:032x}", payload, headers={"Nats-Msg-Id": f"raw-{number}"})
    await js.publish_async_completed()
    seconds = time.monotonic() - start
    await nc.close()
    return seconds


def raw(url: str, messages: int) -> dict[str, Any]:
    """The same in a process of its own."""
    run = subprocess.run(
        [sys.executable, __file__, "--raw", url, str(messages)], capture_output=True, text=True
    )
    if run.returncode:
        raise SystemExit(run.stderr)
    told: dict[str, Any] = json.loads(run.stdout)
    return told


async def taken(url: str) -> bool:
    """Whether the group has acknowledged every message of the stream, and there are some."""
    address = parse_broker(url)
    nc = await connect(address.servers[0], Login(), "bench")
    try:
        found = await nc.jetstream().consumers_info(STREAM)
        state = (await nc.jetstream().stream_info(STREAM)).state
    finally:
        await nc.close()
    waiting = sum((one.num_pending or 0) + (one.num_ack_pending or 0) for one in found)
    return bool(found) and state.messages > 0 and not waiting


class Taker(Collector):
    """`kwire collect` from a broker; `wait` until it has so many events."""

    def __init__(self, folder: Path, url: str) -> None:
        command = [KWIRE, "collect", "--from", url, "-w", str(folder), "--json"]
        self.url, self.folder = url, folder
        self.said = folder.with_name(f"{folder.name}.said")
        with self.said.open("w") as said:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True)
        while "collecting from" not in self.said.read_text():
            time.sleep(0.01)
        self.before = cpu(self.process.pid)

    def wait(self, sessions: int) -> None:
        """Until so many sessions have ended: there are their captures, and no checkpoints any more. To ask
        the broker about each would take its time.
        """
        while self.process.poll() is None and not asyncio.run(taken(self.url)):
            time.sleep(0.05)
        while self.process.poll() is None:
            open_ones = [path for path in (self.folder / ".sessions").iterdir() if len(path.name) == TOKEN]
            if not open_ones and len(list(self.folder.glob("*.pcapng"))) >= sessions:
                return
            time.sleep(0.05)

    def stop(self) -> dict[str, Any]:
        used, most = cpu(self.process.pid) - self.before, memory(self.process.pid)
        self.process.send_signal(signal.SIGINT)
        out, _ = self.process.communicate(timeout=60)
        summary: dict[str, Any] = json.loads(out)
        return summary | {"cpu": used, "memory": most}


def rate(events: int, seconds: float) -> str:
    return f"{events / seconds / 1e6:.2f} M/s"


class Way(NamedTuple):
    """One agent, one way: seconds, seconds of processors but the server's, most memory in MB, what `kwire
    verify` says.
    """

    seconds: float
    cpu: float
    memory: float
    proof: str


def round_of(args: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Way]]:
    """Each way once; the first is the measure for the others, which come right after it."""
    events = args.events
    with broker(folder) as (url, _):
        told = raw(url, events * SIZE // PAYLOAD + 1)
        yield "raw publishing", Way(told["seconds"], told["cpu"], 0.0, "")
    with broker(folder) as (url, server):
        sent = replay(url, events)
        yield "agent → broker", Way(sent["seconds"], sent["cpu"], sent["memory"], "")
        start = time.monotonic()
        taker = Taker(folder / "taken", url)
        taker.wait(1)
        seconds, got = time.monotonic() - start, taker.stop()
        proof = proven(folder / "taken")
        yield "broker → collector", Way(seconds, got["cpu"], got["memory"], proof)
        shutil.rmtree(folder / "taken")
        yield "server", Way(0.0, 0.0, memory(server.pid), "")
    with broker(folder) as (url, _):
        taker = Taker(folder / "taken", url)
        start = time.monotonic()
        sent = replay(url, events)
        taker.wait(1)
        seconds, got = time.monotonic() - start, taker.stop()
        proof = proven(folder / "taken")
        yield "agent → broker → collector", Way(seconds, sent["cpu"] + got["cpu"], got["memory"], proof)
        shutil.rmtree(folder / "taken")
    address = f"tcp:127.0.0.1:{free_port()}"
    collector = Collector(folder / "tcp", address)
    sent = replay(address, events)
    got = collector.stop()
    proof = proven(folder / "tcp")
    yield "TCP session", Way(sent["seconds"], sent["cpu"] + got["cpu"], got["memory"], proof)
    shutil.rmtree(folder / "tcp")


def ways(args: argparse.Namespace, folder: Path) -> None:
    """One agent, each way in turns: the best and the median rate, the median of the processor's time."""
    found: dict[str, list[Way]] = {}
    for _ in range(args.rounds):
        for name, way in round_of(args, folder):
            found.setdefault(name, []).append(way)
    most = max(one.memory for one in found.pop("server"))
    events, rows = args.events, []
    for name, its in found.items():
        seconds = [one.seconds for one in its]
        rows.append(
            [
                name,
                rate(events, min(seconds)),
                rate(events, statistics.median(seconds)),
                f"{statistics.median(one.cpu for one in its) / events * 1e6:.2f} µs",
                f"{max(one.memory for one in its):.0f} MB" if its[0].memory else "",
                ", ".join(sorted({one.proof for one in its})),
            ]
        )
    print(f"### One agent, {events:,} events of {SIZE} bytes, {args.rounds} rounds", end="; ")
    print(f"the server had {most:.0f} MB at most\n")
    print(table(["", "best", "median", "CPU an event", "memory", "verify"], rows))


def size_of(folder: Path) -> int:
    """Bytes of all files in it."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def hops(args: argparse.Namespace, folder: Path) -> None:
    """What each process takes of a processor for an event, and the bytes that an event is where it is kept:
    the figures of `sizing.py`.
    """
    events, rows = args.events, []

    def row(hop: str, seconds: float, size: int | None) -> None:
        rows.append([hop, f"{seconds / events * 1e6:.3f} µs", "" if size is None else f"{size / events:.1f}"])

    address = f"tcp:127.0.0.1:{free_port()}"
    collector = Collector(folder / "tcp", address)
    sent = replay(address, events)
    got = collector.stop()
    row("agent to a collector", sent["cpu"], None)
    row("collector from agents, its captures", got["cpu"], size_of(folder / "tcp"))
    shutil.rmtree(folder / "tcp")
    with broker(folder) as (url, server):
        before = cpu(server.pid)
        sent = replay(url, events)
        row("agent to a broker", sent["cpu"], None)
        row("broker, one replica: taken", cpu(server.pid) - before, size_of(folder / "broker"))
        before = cpu(server.pid)
        taker = Taker(folder / "taken", url)
        taker.wait(1)
        got = taker.stop()
        row("broker: given to one group", cpu(server.pid) - before, None)
        row("collector from a broker", got["cpu"], None)
        shutil.rmtree(folder / "taken")
    print(f"### Hops, {events:,} events of {SIZE} bytes\n")
    print(table(["hop", "CPU an event", "bytes an event"], rows))


def growth(args: argparse.Namespace, folder: Path) -> None:
    """More and more agents, with as many events together."""
    rows = []
    for agents in args.agents:
        each = max(args.events // agents, 1)
        with broker(folder) as (url, server):
            taker = Taker(folder / "taken", url)
            start, before = time.monotonic(), cpu(server.pid)
            sent = replay(url, each, "--agents", str(agents), "--memory", str(max(64 // agents, 1) << 20))
            taker.wait(agents)
            seconds = time.monotonic() - start
            got = taker.stop()
            rows.append(
                [
                    f"{agents:,}",
                    rate(agents * each, seconds),
                    f"{agents * each - got['events']:,}",
                    " + ".join(f"{used:.1f}" for used in (sent["cpu"], cpu(server.pid) - before, got["cpu"])),
                    f"{sent['memory']:.0f} MB",
                    f"{memory(server.pid):.0f} MB",
                    f"{got['memory']:.0f} MB",
                    proven(folder / "taken"),
                ]
            )
            shutil.rmtree(folder / "taken")
    print("\n### Agents in one process, from the first event to the end of the last capture\n")
    head = ["agents", "events", "missing", "CPU seconds: agents, server, collector"]
    print(table([*head, "agents' memory", "server", "collector", "verify"], rows))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--rounds", type=int, default=3, help="of one agent")
    parser.add_argument("--agents", type=int, nargs="*", default=[1, 10, 100, 1000])
    parser.add_argument("--hops", action="store_true", help="only what sizing.py reckons with")
    parser.add_argument("--raw", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.raw:
        before = time.process_time()
        seconds = asyncio.run(publish(args.raw[0], int(args.raw[1])))
        print(json.dumps({"seconds": seconds, "cpu": time.process_time() - before}))
        return
    with workspace() as folder:
        if args.hops:
            hops(args, folder)
            return
        ways(args, folder)
        growth(args, folder)


if __name__ == "__main__":
    main()
