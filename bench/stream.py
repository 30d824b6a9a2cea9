"""From agents to a collector: speed, cost, a partition, a thousand agents, and what others do.

Run: `.venv/bin/python bench/stream.py [--events N] [--partition SECONDS] [--only NAME…]`, about 80 s.
Sections: transports, agent (a real one; as root), partition (as root: it makes a network namespace), lossy
(the same; nft drops packets), memory, peers. CPU is what both processes used, start-up left out; frames have
48 bytes, as those of getppid.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common import HERE, KWIRE, build_load, have, mount_tracefs, table, workspace

TICK = os.sysconf("SC_CLK_TCK")
UDP_SHARE = 10  # datagrams hold one frame of 1,400 bytes: a tenth of the events is enough
SPACE = f"kwire-bench-{os.getpid()}"
EVENT = "tracepoint:syscalls:sys_enter_getppid"
NEAR, FAR = "10.213.7.1", "10.213.7.2"


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / TICK


def memory(pid: int) -> float:
    """Megabytes that a process had in memory at most."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1000


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Collector:
    """`kwire collect` in a folder; CPU is counted from when it is ready."""

    def __init__(self, folder: Path, address: str, *arguments: str, prefix: tuple[str, ...] = ()) -> None:
        command = [*prefix, KWIRE, "collect", "--listen", address, "-w", str(folder), "--json", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        if "collecting" not in line:
            raise SystemExit(line + self.process.stderr.read())
        time.sleep(0.3)
        self.before = cpu(self.process.pid)

    def stop(self) -> dict[str, Any]:
        """Its summary, with `cpu` seconds and `memory` megabytes."""
        used, most = cpu(self.process.pid) - self.before, memory(self.process.pid)
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=60)
        if not out:
            raise SystemExit(err)
        summary: dict[str, Any] = json.loads(out)
        return summary | {"cpu": used, "memory": most}


def replay(address: str, events: int, *arguments: str, prefix: tuple[str, ...] = ()) -> dict[str, Any]:
    """What `replay.py` says."""
    command = [*prefix, sys.executable, str(HERE / "replay.py"), address, str(events), *arguments]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(run.stderr)
    told: dict[str, Any] = json.loads(run.stdout)
    return told


def proven(folder: Path) -> str:
    """What `kwire verify` says of all captures of a folder."""
    files = [str(path) for path in sorted(folder.glob("*.pcapng"))]
    run = subprocess.run([KWIRE, "verify", *files], capture_output=True, text=True)
    return "complete" if not run.returncode else run.stdout.strip().splitlines()[-1]


def transports(args: argparse.Namespace, folder: Path) -> None:
    """As fast as one source and one collector can, over each transport."""
    certs = folder / "certs"
    subprocess.run([KWIRE, "agent", "--make-certs", str(certs)], check=True, capture_output=True)
    files = [
        part for name in ("cert", "key", "ca") for part in (f"--tls-{name}", f"{certs}/collector/{name}.pem")
    ]
    addresses = {
        "TCP": f"tcp:127.0.0.1:{free_port()}",
        "TLS": f"tls:localhost:{free_port()}",
        "Unix socket": f"unix:{folder}/socket",
        "UDP": f"udp:127.0.0.1:{free_port()}",
    }
    rows = []
    for name, address in addresses.items():
        events = args.events // UDP_SHARE if name == "UDP" else args.events
        captures = folder / name
        collector = Collector(captures, address, *(files if name == "TLS" else ()))
        sent = replay(address, events, *(["--tls", f"{certs}/agent"] if name == "TLS" else []))
        got = collector.stop()
        each = 1e6 / events
        both = (sent["cpu"] + got["cpu"]) * each
        rows.append(
            [
                name,
                f"{events / sent['seconds'] / 1e6:.2f} M/s",
                f"{events - got['events']:,}",
                f"{sent['cpu'] * each:.2f}",
                f"{got['cpu'] * each:.2f}",
                f"{both:.2f} µs",
                f"{got['memory']:.0f} MB",
                proven(captures),
            ]
        )
        shutil.rmtree(captures)
    head = [
        "transport",
        "events",
        "lost",
        "source CPU",
        "collector CPU",
        "both, an event",
        "collector memory",
    ]
    print(f"### {args.events:,} events from a source to a collector\n\n{table([*head, 'verify'], rows)}\n")


def descendants(pid: int) -> dict[int, str]:
    """A process and what it has started, with the programs they run."""
    found, waiting = {}, [pid]
    while waiting:
        one = waiting.pop()
        with contextlib.suppress(OSError):
            found[one] = os.readlink(f"/proc/{one}/exe")
            for task in os.listdir(f"/proc/{one}/task"):
                waiting += map(int, Path(f"/proc/{one}/task/{task}/children").read_text().split())
    return found


class Used:
    """CPU seconds of a process and what it starts, but for the load, once that runs (below `where`)."""

    def __init__(self, process: subprocess.Popen[str], load: str, where: int = 0) -> None:
        self._process, self._load, self._where = process, load, where or process.pid
        self._by: dict[int, float] = {}
        self._before: float | None = None

    def look(self) -> None:
        for pid, program in descendants(self._process.pid).items():
            if program != self._load:
                with contextlib.suppress(OSError, IndexError):
                    self._by[pid] = max(self._by.get(pid, 0.0), cpu(pid))
        if self._before is None and self._load in descendants(self._where).values():
            self._before = sum(self._by.values())

    def until_the_end(self, look: Callable[[], None] = lambda: None) -> str:
        """Look until it has ended; what it printed."""
        while self._process.poll() is None:
            self.look()
            look()
            time.sleep(0.02)
        return self._process.communicate()[0]

    @property
    def seconds(self) -> float:
        return sum(self._by.values()) - (self._before or 0.0)


def agent(args: argparse.Namespace, folder: Path) -> None:
    """Every getppid of a busy process, by a real agent: into memory, a spool too, and one that listens."""
    if os.geteuid():
        print("A real agent: left out, it needs root\n")
        return
    load = str(build_load(folder))
    rows = []
    for name in ("--to", "--to, with a spool", "--listen"):
        captures = folder / name.replace(" ", "")
        captures.mkdir()
        if name == "--listen":
            told, used, theirs = _listening(args.events, load, captures)
        else:
            told, used, theirs = _sending(args.events, load, captures, "spool" in name)
        each = 1e6 / max(told["events"], 1)
        rows.append(
            [name, f"{told['events']:,}", f"{told['lost']:,}", f"{told['seconds']:.2f} s",
             f"{used * each:.2f} µs", f"{theirs * each:.2f} µs", proven(captures)]
        )  # fmt: skip
    head = ["agent", "events", "lost", "recorded for", "agent CPU, an event", "other side", "verify"]
    print(f"### A real agent, a process that calls getppid {args.events:,} times\n\n{table(head, rows)}\n")


def _sending(events: int, load: str, captures: Path, spool: bool) -> tuple[dict[str, Any], float, float]:
    """What the agent says; seconds of CPU of the agent and of the collector."""
    address = f"unix:{captures}.socket"
    collector = Collector(captures, address)
    kept = ["--spool", f"{captures}.spool"] if spool else []
    command = [KWIRE, "agent", "--to", address, EVENT, "--json", *kept, "-c", f"{load} {events}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    used = Used(process, load)
    out = used.until_the_end()
    return json.loads(out), used.seconds, collector.stop()["cpu"]


POLICY = """
[[allow]]
who = ["anyone"]
probes = ["tracepoint:syscalls:*"]
commands = ["*"]
user = "root"
"""


def _listening(events: int, load: str, captures: Path) -> tuple[dict[str, Any], float, float]:
    """The same of an agent that listens, and of `kwire record -H`."""
    policy = captures.with_suffix(".toml")
    policy.write_text(POLICY)
    address = f"unix:{captures}.socket"
    command = [KWIRE, "agent", "--listen", address, "--policy", str(policy)]
    listening = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert listening.stderr is not None
    listening.stderr.readline()
    record = [KWIRE, "record", "-H", address, EVENT, "-c", f"{load} {events}", "--json"]
    process = subprocess.Popen(
        [*record, "-w", str(captures / "all.pcapng")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True,
    )  # fmt: skip
    used, theirs = Used(listening, load), Used(process, load, listening.pid)
    out = theirs.until_the_end(used.look)
    listening.terminate()
    listening.communicate()
    return json.loads(out), used.seconds, theirs.seconds


@contextlib.contextmanager
def network() -> Iterator[tuple[str, ...]]:
    """Two ends of a cable: here, and in a namespace of its own; what to put before a command there."""

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    cable = f"kwb{os.getpid()}"
    ip("netns", "add", SPACE)
    try:
        ip("link", "add", cable, "type", "veth", "peer", "name", "far", "netns", SPACE)
        ip("addr", "add", f"{NEAR}/30", "dev", cable)
        ip("link", "set", cable, "up")
        ip("-n", SPACE, "addr", "add", f"{FAR}/30", "dev", "far")
        ip("-n", SPACE, "link", "set", "far", "up")
        yield ("ip", "netns", "exec", SPACE)
    finally:
        subprocess.run(["ip", "netns", "del", SPACE], check=False)


def partition(args: argparse.Namespace, folder: Path) -> None:
    """The cable is down for a while; the source goes on at full rate, into its spool."""
    if os.geteuid() or not have("ip"):
        print("A partition: left out, it needs root and ip(8)\n")
        return
    seconds, rate = args.partition, args.rate
    events = int(rate * (seconds + 4))
    try:
        with network() as there:
            address = f"tcp:{FAR}:17800"
            collector = Collector(folder / "cut", address, "--insecure", prefix=there)
            command = [sys.executable, str(HERE / "replay.py"), address, str(events), "--rate", str(rate)]
            source = subprocess.Popen(
                [*command, "--insecure", "--spool", str(folder / "spool")], stdout=subprocess.PIPE, text=True
            )
            time.sleep(2.5)
            subprocess.run(["ip", "-n", SPACE, "link", "set", "far", "down"], check=True)
            time.sleep(seconds)
            subprocess.run(["ip", "-n", SPACE, "link", "set", "far", "up"], check=True)
            healed = time.monotonic()
            sent = json.loads(source.communicate()[0])
            caught_up = time.monotonic() - healed
            got = collector.stop()
    except subprocess.CalledProcessError as error:
        print(f"A partition: left out: {error.stderr.decode().strip()}\n")
        return
    print(
        f"### {seconds:g} s without a network at {rate / 1e6:.1f} M events/s, with --spool\n\n"
        f"{sent['events']:,} events sent, {sent['lost']:,} lost, {got['events']:,} collected; all was "
        f"acknowledged {caught_up:.1f} s after the cable was up again; "
        f"verify: {proven(folder / 'cut')}\n"
    )


def lossy(args: argparse.Namespace, folder: Path) -> None:
    """TCP and UDP through a network that drops packets at random, both ways; packets of 1,500 bytes."""
    if os.geteuid() or not have("ip") or not have("nft"):
        print("A lossy network: left out, it needs root, ip(8) and nft(8)\n")
        return
    rows = []
    try:
        with network() as there:
            for cable, where in ((f"kwb{os.getpid()}", ()), ("far", there)):
                # One packet at a time: what is segmented later would be dropped as a whole.
                subprocess.run([*where, "ip", "link", "set", cable, "gso_max_segs", "1"], check=True)
            for loss in args.loss:
                events = max(int(2000 / max(loss, 0.01)), 5000)
                rates = []
                for number, transport in enumerate(("tcp", "udp")):
                    drop = f"numgen random mod 1000 < {int(loss * 1000)} drop"
                    chain = f"chain c {{ type filter hook input priority 0; {drop}; }}"
                    rules = f"table inet kwb; delete table inet kwb; table inet kwb {{ {chain}; }}"
                    subprocess.run([*there, "nft", rules], check=True, capture_output=True)
                    rates.append(f"{crossed(transport, number, events, there, folder, args.seconds):,.0f}")
                rows.append([f"{loss:.0%}", *rates])
    except subprocess.CalledProcessError as error:
        print(f"A lossy network: left out: {(error.stderr or b'').decode().strip()}\n")
        return
    print("### Events/s where packets are lost on the way to the collector\n")
    print(table(["lost", "TCP", "UDP"], rows), end="\n\n")


def crossed(
    transport: str, number: int, events: int, there: tuple[str, ...], folder: Path, seconds: float
) -> float:
    """Events a second from here to a collector there; over TCP, the kernel's recovery, over UDP ours."""
    address = f"{transport}:{FAR}:{17800 + number}"
    captures = folder / f"{transport}-{time.monotonic_ns()}"
    collector = Collector(captures, address, "--insecure", prefix=there)
    command = [sys.executable, str(HERE / "replay.py"), address, str(events), "--insecure"]
    source = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    start = time.monotonic()
    try:
        told = json.loads(source.communicate(timeout=seconds)[0])
        took = told["seconds"]
    except subprocess.TimeoutExpired:
        source.kill()
        source.wait()
        took = time.monotonic() - start
    return float(collector.stop()["events"] / took)


def many(args: argparse.Namespace, folder: Path) -> None:
    """A collector with many agents connected, each of which has sent a thousand events."""
    address = f"unix:{folder}/socket"
    collector = Collector(folder / "many", address)
    idle = memory(collector.process.pid)
    sent = replay(address, 1000, "--agents", str(args.agents), "--memory", str(1 << 20), "--hold", "2")
    got = collector.stop()
    files = len(list((folder / "many").glob("*.pcapng")))
    print(
        f"### {args.agents:,} agents at a time\n\n"
        f"{got['memory']:.0f} MB at most ({idle:.0f} MB without agents), {sent['events']:,} events in "
        f"{files:,} captures, {got['lost']:,} lost; verify: {proven(folder / 'many')}\n"
    )


def peers(args: argparse.Namespace, folder: Path) -> None:
    """The same events as lines of JSON through nc; and trace-cmd's own network agent."""
    rows = []
    events = args.events // 10
    address = f"unix:{folder}/socket"
    collector = Collector(folder / "peers", address)
    replay(address, events)
    collector.stop()
    (capture,) = (folder / "peers").glob("*.pcapng")
    lines = folder / "events.ndjson"
    start = time.monotonic()
    with lines.open("wb") as out:
        show = subprocess.Popen([KWIRE, "show", "--json", str(capture)], stdout=out)
        usage = os.wait4(show.pid, 0)[2]
    made, made_cpu = time.monotonic() - start, usage.ru_utime + usage.ru_stime
    size = lines.stat().st_size
    if have("nc"):
        seconds, used = through_nc(lines, folder / "received")
        whole = (folder / "received").stat().st_size == size
        rows.append(
            [
                "NDJSON that is there already, through nc",
                f"{events / seconds / 1e6:.2f} M/s",
                f"{used * 1e6 / events:.2f} µs",
                f"{size / events:.0f}",
                "" if whole else "cut",
            ]
        )
        rows.append(
            [
                "the same, formatted first (`kwire show --json`)",
                f"{events / (seconds + made) / 1e6:.2f} M/s",
                f"{(used + made_cpu) * 1e6 / events:.2f} µs",
                f"{size / events:.0f}",
                "",
            ]
        )
    rows.append(["kwire's own capture of them", "", "", f"{capture.stat().st_size / events:.0f}", ""])
    head = ["", "events", "CPU an event, both ends", "bytes an event", ""]
    print(f"### Others\n\n{table(head, rows)}\n\ntrace-cmd listen: {trace_cmd(args, folder)}\n")


def through_nc(source: Path, target: Path) -> tuple[float, float]:
    """Seconds, and seconds of CPU of both ends."""
    port = str(free_port())
    with target.open("wb") as out:
        listener = subprocess.Popen(["nc", "-l", "127.0.0.1", port], stdout=out, stdin=subprocess.DEVNULL)
        time.sleep(0.3)
        start = time.monotonic()
        with source.open("rb") as lines:
            sender = subprocess.Popen(["nc", "-N", "127.0.0.1", port], stdin=lines)
            used = sum(
                usage.ru_utime + usage.ru_stime
                for usage in (os.wait4(process.pid, 0)[2] for process in (sender, listener))
            )
    return time.monotonic() - start, used


def trace_cmd(args: argparse.Namespace, folder: Path) -> str:
    """What trace-cmd's listener and recorder do with the same load, or why they do not."""
    if not have("trace-cmd") or os.geteuid():
        return "left out, it is not installed or this is not root"
    mount_tracefs()
    port, load = str(free_port()), build_load(folder)
    listener = subprocess.Popen(
        ["trace-cmd", "listen", "-p", port, "-d", str(folder), "-o", "tc"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        time.sleep(0.5)
        start = time.monotonic()
        command = ["trace-cmd", "record", "-N", f"127.0.0.1:{port}", "-e", "syscalls:sys_enter_getppid"]
        run = subprocess.run(
            [*command, str(load), str(args.events)], capture_output=True, text=True, timeout=60
        )
        seconds = time.monotonic() - start
    except subprocess.TimeoutExpired:
        return "it did not end within a minute"
    finally:
        listener.send_signal(signal.SIGINT)
        listener.wait()
    if run.returncode:
        return f"it does not run here: {' '.join(run.stderr.split())}"
    (data,) = folder.glob("tc*")
    report = subprocess.run(["trace-cmd", "report", str(data)], capture_output=True, text=True).stdout
    arrived = sum("sys_enter_getppid" in line for line in report.splitlines())
    return f"{arrived:,} of {args.events:,} events arrived, {args.events / seconds / 1e6:.2f} M calls/s"


SECTIONS: dict[str, Callable[[argparse.Namespace, Path], None]] = {
    "transports": transports,
    "agent": agent,
    "partition": partition,
    "lossy": lossy,
    "memory": many,
    "peers": peers,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=3_000_000)
    parser.add_argument("--partition", type=float, default=4, metavar="SECONDS")
    parser.add_argument("--rate", type=float, default=1_000_000, help="events a second while partitioned")
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument(
        "--loss", type=float, nargs="+", default=[0.01, 0.05, 0.1, 0.3], help="shares of packets"
    )
    parser.add_argument(
        "--seconds", type=float, default=20, help="for each row of the lossy network, at most"
    )
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    args = parser.parse_args()
    for name in args.only:
        with workspace() as folder:
            SECTIONS[name](args, folder)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
