"""Reading a mixed network capture: kwire beside dpkt, tshark and scapy, in one run on the same packets.

Run: `.venv/bin/python bench/parse.py [PACKETS]` (default 2 million for kwire; the others get as many as they
read in a few seconds). Half of the packets are UDP datagrams with one event; the work is the same for all:
its fields as columns, or for tshark as text. Processor time counts, of one core (tshark: with its children).
"""

import resource
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import mkdtemp

from common import table

from kwire.analyze import speed
from kwire.packets import samples
from kwire.packets.open import open_capture
from kwire.packets.tables import KWIRE_PORT
from kwire.wireshark.dissector import dissector

BARS = {"dpkt": 100, "tshark": 500, "tshark, payloads only": 500, "scapy": 1000}
SLOW = {"dpkt": 40_000, "tshark": 40_000, "tshark, payloads only": 200_000, "scapy": 8_000}
FOLDER = Path(mkdtemp(prefix="kwire-bench-"))
EVENT = struct.Struct("=QIIiHHH")
PAYLOADS = ("frame.time_epoch", "ip.src", "ip.dst", "udp.srcport", "udp.dstport", "udp.payload")
FIELDS = (*PAYLOADS[:5], *(f"kwire.{name}" for name in ("probe", "timestamp", "pid", "tid", "cpu")))


def event(payload: bytes, columns: list[list[int]]) -> None:
    """The fields of the event in a DATA frame, each into its column."""
    if payload[0] == 0x12:
        for at in range(8, len(payload), samples.EVENT_SIZE):
            if payload[at] == 0x11:
                for column, value in zip(columns, EVENT.unpack_from(payload, at + 8), strict=True):
                    column.append(value)


def dpkt(path: str) -> int:
    import dpkt

    columns: list[list[int]] = [[] for _ in range(7)]
    with open(path, "rb") as file:
        for _, data in dpkt.pcap.Reader(file):
            ip = dpkt.ethernet.Ethernet(data).data
            udp = getattr(ip, "data", None)
            if isinstance(udp, dpkt.udp.UDP) and KWIRE_PORT in (udp.sport, udp.dport):
                event(udp.data, columns)
    return len(columns[0])


def scapy(path: str) -> int:
    from scapy.layers.inet import UDP
    from scapy.utils import PcapReader

    columns: list[list[int]] = [[] for _ in range(7)]
    with PcapReader(path) as reader:
        for packet in reader:
            if UDP in packet and KWIRE_PORT in (packet[UDP].sport, packet[UDP].dport):
                event(bytes(packet[UDP].payload), columns)
    return len(columns[0])


def payloads(path: str) -> int:
    """tshark without our dissector: it prints the datagrams' bytes, and knows nothing of events."""
    return tshark(path, PAYLOADS)


def tshark(path: str, fields: Sequence[str] = FIELDS) -> int:
    """tshark with our dissector: it prints the fields of events."""
    wanted = [word for field in fields for word in ("-e", field)]
    script: list[str] = []
    if fields is FIELDS:
        (FOLDER / "kwire.lua").write_text(dissector())
        script = ["-X", f"lua_script:{FOLDER}/kwire.lua"]
    command = [
        "tshark",
        *script,
        "-n",
        "-r",
        path,
        "-Y",
        f"udp.port == {KWIRE_PORT}",
        "-T",
        "fields",
        *wanted,
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    return done.stdout.count(b"\n")


def kwire(path: str) -> int:
    return speed.to_columns(open_capture(path))


def processor() -> float:
    """Processor seconds of this process and of the children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def rate(read: Callable[[str], int], packets: int, runs: int) -> float:
    """Packets a second."""
    with speed.file_of(samples.network(packets)) as path:
        read(path)  # imports, and a first look at the file
        seconds = float("inf")
        for _ in range(runs):
            start = processor()
            assert read(path) >= packets // 2
            seconds = min(seconds, processor() - start)
    return packets / seconds


def main() -> None:
    packets = int(sys.argv[1]) // 8 * 8 if len(sys.argv) > 1 else 2_000_000
    ours = rate(kwire, packets, 5)
    rows = [["kwire", f"{ours / 1e6:.2f} M", "", ""]]
    readers = (("dpkt", dpkt), ("tshark", tshark), ("tshark, payloads only", payloads), ("scapy", scapy))
    for name, read in readers:
        if "tshark" in name and not shutil.which("tshark"):
            continue
        theirs = rate(read, SLOW[name], 2)
        rows.append([name, f"{theirs / 1e3:.1f} k", f"{ours / theirs:,.0f} ×", f"{BARS[name]} ×"])
    shutil.rmtree(FOLDER)
    print(table(["reader", "packets/s", "kwire is faster", "wanted"], rows))


if __name__ == "__main__":
    main()
