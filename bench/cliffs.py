"""Packets a CPU second of whole commands on captures of many kinds: where reading has cliffs.

Run: `.venv/bin/python bench/cliffs.py [--packets N] [--verb VERB ...] [--format FORMAT] [ROW ...]`
(default 200,000 packets each, all verbs, all rows: some four minutes; a ROW is the beginning of a name).
Each row is a capture of one kind, made here, the same at each run; the command runs in a child that has its
modules loaded and has read a small capture, and the child's processor time counts, system calls included.
Figures are marginal: what N packets take more than a quarter of them, so that what a command does once (a
report of 1,000 probes) is told apart, as `once`.
`slower` is beside the first row, plain: Ethernet, IPv4, UDP, a DATA frame with one event a packet. Behind the
tables stands a line for each verb: what README quotes, and whether the goals are met: no row slower than a
third of plain, TCP and many flows not slower than a tenth.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import os
import random
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from common import table

from kwire.__main__ import GARBAGE
from kwire.cli.main import main as command
from kwire.cli.reading import huge_pages
from kwire.cli.status import NOT_WHOLE, OK
from kwire.packets.samples import TICK
from kwire.wire import cbor
from kwire.wire.frame import Flag, Type, build, checksum

WALL = 1_700_000_000
PORT = 17800
Packets = Iterator[bytes]
Ends = tuple[bytes, bytes]
NOTHING = 1  # the status of `verify` where no packet holds a frame
V4: Ends = (bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]))
V6: Ends = (bytes.fromhex("fd" + "00" * 14 + "01"), bytes.fromhex("fd" + "00" * 14 + "02"))
SCHEMAS = b"".join(TICK.frames())
SEGMENT = 1448

# --- frames and packets


def event(number: int, id: int = 1, size: int = 48) -> bytes:
    head = struct.pack("=QIIiHHH", number * 1000, 4242, 4243, number % 1500, 34, 4, number % 4) + b"load"
    return struct.pack(">BBHI", 0x11, 0, size, id) + head.ljust(size - 8, b"\0")


def data(sequence: int, *frames: bytes | memoryview, flags: int = Flag.CHECKSUM) -> bytes:
    return build(Type.DATA, sequence, b"".join(frames), flags)


def bye(sequence: int) -> bytes:
    return build(Type.BYE, sequence, cbor.dumps({"reason": "done"}))


def ip(
    payload: bytes,
    protocol: int = 17,
    ends: Ends = V4,
    options: bytes = b"",
    extensions: bytes = b"",
    fragment: int = 0,
    id: int = 0,
) -> bytes:
    """`extensions`: whole IPv6 extension headers, of which the first is of type 60 (destination options)."""
    if len(ends[0]) == 16:
        first = 60 if extensions else protocol
        return (
            struct.pack(">IHBB", 6 << 28, len(extensions) + len(payload), first, 64)
            + b"".join(ends)
            + extensions
            + payload
        )
    size = 20 + len(options)
    head = struct.pack(
        ">BBHHHBBH", 0x40 | size // 4, 0, size + len(payload), id & 0xFFFF, fragment, 64, protocol, 0
    )
    head += b"".join(ends) + options
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + payload


def udp(payload: bytes, ends: Ends = V4, source: int = 40000, target: int = PORT) -> bytes:
    head = struct.pack(">HHHH", source, target, 8 + len(payload), 0)
    found = checksum(b"".join(ends) + struct.pack(">II", 8 + len(payload), 17) + head + payload) or 0xFFFF
    return head[:6] + found.to_bytes(2, "big") + payload


def tcp(
    payload: bytes, at: int, flags: int = 0x18, ends: Ends = V4, source: int = 40000, target: int = PORT
) -> bytes:
    head = struct.pack(">HHIIBBHHH", source, target, at & 0xFFFFFFFF, 1, 0x50, flags, 65535, 0, 0)
    found = checksum(b"".join(ends) + struct.pack(">II", len(head) + len(payload), 6) + head + payload)
    return head[:16] + found.to_bytes(2, "big") + head[18:] + payload


def ether(packet: bytes, tags: int = 0) -> bytes:
    kind = b"\x86\xdd" if packet[0] >> 4 == 6 else b"\x08\0"
    return bytes(range(12)) + b"\x81\0\0\5" * tags + kind + packet


def datagram(payload: bytes, **ends: int) -> bytes:
    return ether(ip(udp(payload, **ends)))  # type: ignore[arg-type]  # each is what its name says


def pcap(
    packets: Packets, link: int = 1, sign: str = "<", cut: Callable[[int, bytes], bytes] | None = None
) -> bytes:
    parts = [struct.pack(sign + "IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, link)]
    for number, packet in enumerate(packets):
        kept = packet if cut is None else cut(number, packet)
        seconds, rest = divmod(number * 1000, 1_000_000_000)
        parts += [struct.pack(sign + "IIII", WALL + seconds, rest, len(kept), len(packet)), kept]
    return b"".join(parts)


def block(kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    size = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + size + body + size


SECTION = block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
INTERFACE = block(1, struct.pack("<HHIHHB3xI", 1, 0, 0, 9, 1, 9, 0))


def packet_block(number: int, packet: bytes, interface: int = 0) -> bytes:
    now = WALL * 1_000_000_000 + number * 1000
    return block(
        6, struct.pack("<5I", interface, now >> 32, now & 0xFFFFFFFF, len(packet), len(packet)) + packet
    )


def in_blocks(packets: Packets) -> bytes:
    return b"".join([SECTION, INTERFACE, *map(packet_block, itertools.count(), packets)])


def cooked(count: int) -> Packets:
    head = struct.pack(">HHH8sH", 4, 772, 6, bytes(8), 0x800)
    return (head + packet[14:] for packet in plain(count))


def web(count: int, port: int = 50_000) -> Packets:
    """What a server of others says to a client at `port`."""
    text = b"HTTP/1.1 200 OK\r\n" * 80
    return (
        ether(ip(tcp(text, 1 + len(text) * number, source=80, target=port), 6)) for number in range(count)
    )


# --- traffic


def session(count: int, first: int = 0, **ends: int) -> Iterator[bytes]:
    """DATA frames of a session, the schema first and BYE last; `count` in all."""
    yield data(0, SCHEMAS)
    for number in range(1, count - 1):
        yield data(number, event(first + number))
    yield bye(count - 1)


def plain(count: int) -> Packets:
    return map(datagram, session(count))


def mixed(count: int, odd: Callable[[int, bytes], bytes], every: int) -> Packets:
    """Plain packets, of which every so many is made odd."""
    for number, packet in enumerate(plain(count)):
        yield odd(number, packet) if number and number % every == 0 else packet


def patched(at: int, value: bytes) -> Callable[[int, bytes], bytes]:
    return lambda _, packet: packet[:at] + value + packet[at + len(value) :]


def xored(at: int) -> Callable[[int, bytes], bytes]:
    return lambda _, packet: packet[:at] + bytes([packet[at] ^ 0x5A]) + packet[at + 1 :]


def other_with_zero(count: int) -> Packets:
    """Plain packets in turn with other traffic whose IP checksum is left to the card."""
    web = patched(24, bytes(2))(0, ether(ip(tcp(b"x" * 40, 1, source=443, target=50000), 6)))
    for packet in plain(count // 2):
        yield packet
        yield web


def lost(count: int) -> Packets:
    for number, packet in enumerate(plain(count + count // 100)):
        if number % 100 != 50:
            yield packet


def shuffled(count: int, share: float) -> Packets:
    """Each packet of this share comes one to three places later."""
    source, frames = random.Random(1), list(plain(count))
    for at in range(1, count - 5):
        if source.random() < share:
            other = at + source.randrange(1, 4)
            frames[at], frames[other] = frames[other], frames[at]
    return iter(frames)


def bad_inside(count: int, every: int) -> Packets:
    """DATA of four events, of which one is too short to be any, every so many packets."""
    short = struct.pack(">BBHI", 0x11, 0, 12, 1) + bytes(4)
    yield datagram(data(0, SCHEMAS))
    for number in range(1, count):
        frames = [event(4 * number + at) for at in range(4)]
        if number % every == 0:
            frames[2] = short
        yield datagram(data(number, *frames))


def tagged(count: int, tags: int) -> Packets:
    return (ether(ip(udp(frame)), tags) for frame in session(count))


def six(count: int, extensions: bytes = b"") -> Packets:
    return (ether(ip(udp(frame, V6), ends=V6, extensions=extensions)) for frame in session(count))


def optional(count: int) -> Packets:
    return (ether(ip(udp(frame), options=b"\x94\x04\0\0")) for frame in session(count))


def snap(count: int) -> Packets:
    for frame in session(count):
        inside = b"\xaa\xaa\x03\0\0\0\x08\0" + ip(udp(frame))
        yield bytes(12) + len(inside).to_bytes(2, "big") + inside


def fragments(count: int) -> Packets:
    for number, frame in enumerate(session(count // 2)):
        whole = udp(frame)
        yield ether(ip(whole[:32], fragment=0x2000, id=number))
        yield ether(ip(whole[32:], fragment=4, id=number))


def fragments_of_others(count: int) -> Packets:
    """Plain packets in turn with fragments of a name server's answers."""
    whole = udp(bytes(200), source=53, target=50000)
    for number, packet in enumerate(plain(count // 2)):
        yield packet
        part = whole[104:] if number & 1 else whole[:104]
        yield ether(ip(part, fragment=13 if number & 1 else 0x2000, id=number // 2))


def kept_alive(count: int) -> Packets:
    alive = datagram(build(Type.KEEPALIVE, 0, b"", Flag.CHECKSUM))
    for packet in plain(count // 2):
        yield packet
        yield alive


def flows(count: int, many: int) -> Packets:
    """So many sources that take turns, each with a session of its own."""
    for number in range(count // many):
        for flow in range(many):
            frame = data(number, event(number)) if number else data(0, SCHEMAS, event(0))
            yield datagram(frame, source=1024 + flow)


def probes(count: int, many: int = 1000) -> Packets:
    for number in range(many):
        yield datagram(
            data(number, *TICK._replace(id=number + 1, probe=f"tracepoint:sample:t{number}").frames())
        )
    for number in range(many, count):
        yield datagram(data(number, event(number, 1 + number % many)))


def back_to_back(first: int, count: int, size: int) -> memoryview:
    """Events of successive numbers, as `event` makes them."""
    rows = np.tile(np.frombuffer(event(0, size=size), np.uint8), (count, 1))
    numbers = np.arange(first, first + count)
    for at, kind, values in ((8, "u8", numbers * 1000), (24, "i4", numbers % 1500), (32, "u2", numbers % 4)):
        octets = values.astype(kind)[:, None].view(np.uint8)
        rows[:, at : at + octets.shape[1]] = octets
    return memoryview(rows.reshape(-1).data)


def bulk(count: int, size: int, each: int = 48) -> Packets:
    """One connection: DATA frames of about `size` bytes in full segments."""
    yield ether(ip(tcp(b"", 0, 2), 6))
    held, at, sequence, number = bytearray(data(0, SCHEMAS, flags=0)), 1, 0, 0
    per = max((size - 8) // each, 1)
    for _ in range(count - 1):
        while len(held) < SEGMENT:
            sequence += 1
            held += data(sequence, back_to_back(number, per, each), flags=0)
            number += per
        yield ether(ip(tcp(bytes(held[:SEGMENT]), at), 6))
        at += SEGMENT
        del held[:SEGMENT]


def stream(frames: Iterator[bytes], source: int = 40000) -> Packets:
    """A connection whose every segment holds one frame."""
    at = 1
    yield ether(ip(tcp(b"", 0, 2, source=source), 6))
    for frame in frames:
        yield ether(ip(tcp(frame, at, source=source), 6))
        at += len(frame)
    yield ether(ip(tcp(b"", at, 0x11, source=source), 6))


def connections(count: int, many: int) -> Packets:
    """So many connections, a hundred at a time take turns."""
    each = count // many
    for start in range(0, many, 100):
        for turn in zip(
            *(stream(session(each - 2), 1024 + start + one) for one in range(min(100, many - start))),
            strict=True,
        ):
            yield from turn


def lossy(count: int) -> Packets:
    """A bulk connection in which every thousandth segment was not captured, and some came late or again."""
    held: list[bytes] = []
    for number, packet in enumerate(bulk(count + count // 1000, 62_000)):
        if number % 1000 == 500:
            continue
        if number % 300 == 100:
            held.append(packet)
            continue
        yield packet
        if number % 300 == 101:
            yield from held
            held.clear()


def interfaces(count: int, many: int = 1000) -> bytes:
    parts = [SECTION, INTERFACE * many]
    parts += [packet_block(number, packet, number % many) for number, packet in enumerate(plain(count))]
    return b"".join(parts)


def sections(count: int, each: int = 100) -> bytes:
    parts = []
    for number, packet in enumerate(plain(count)):
        parts.append((SECTION + INTERFACE if number % each == 0 else b"") + packet_block(number, packet))
    return b"".join(parts)


def simple(count: int) -> bytes:
    parts = [SECTION, INTERFACE]
    parts += [block(3, struct.pack("<I", len(packet)) + packet) for packet in plain(count)]
    return b"".join(parts)


def told(count: int) -> bytes:
    statistics = block(5, struct.pack("<III", 0, 1, 1))
    parts = [SECTION, INTERFACE]
    parts += [packet_block(number, packet) + statistics for number, packet in enumerate(plain(count))]
    return b"".join(parts)


def cut_short(number: int, packet: bytes) -> bytes:
    return packet[:60] if number and number % 100 == 0 else packet


def spoilt(_: int, packet: bytes) -> bytes:
    """The frame's checksum is wrong, the datagram's is right."""
    return datagram(packet[42:-1] + b"\x77")


Row = tuple[Callable[[int], bytes], tuple[str, ...]]


def wrong(at: int, every: int) -> Callable[[int], bytes]:
    return lambda count: pcap(mixed(count, xored(at), every))


ROWS: dict[str, Row] = {
    "plain": (lambda count: pcap(plain(count)), ()),
    "plain, pcapng": (lambda count: in_blocks(plain(count)), ()),
    "plain, big-endian": (lambda count: pcap(plain(count), sign=">"), ()),
    "IPv6": (lambda count: pcap(six(count)), ()),
    "VLAN": (lambda count: pcap(tagged(count, 1)), ()),
    "3 VLAN tags": (lambda count: pcap(tagged(count, 3)), ()),
    "cooked": (lambda count: pcap(cooked(count), 113), ()),
    "IP options": (lambda count: pcap(optional(count)), ()),
    "UDP checksum 0": (lambda count: pcap(mixed(count, patched(40, bytes(2)), 1)), ()),
    "1,000 interfaces": (interfaces, ()),
    "section every 100 packets": (sections, ()),
    "IP checksum 0, 1 %": (lambda count: pcap(mixed(count, patched(24, bytes(2)), 100)), ()),
    "IP checksum 0, all": (lambda count: pcap(mixed(count, patched(24, bytes(2)), 1)), ()),
    "IP checksum 0, only in other traffic": (lambda count: pcap(other_with_zero(count)), ()),
    "IP checksum wrong, 1 %": (wrong(24, 100), ()),
    "IP checksum wrong, all": (wrong(24, 1), ()),
    "UDP checksum wrong, 1 %": (wrong(40, 100), ()),
    "UDP checksum wrong, all": (wrong(40, 1), ()),
    "DATA lost, 1 %": (lambda count: pcap(lost(count)), ()),
    "frame bad, 1 %": (lambda count: pcap(mixed(count, spoilt, 100)), ()),
    "packet cut, 1 %": (lambda count: pcap(plain(count), cut=cut_short), ()),
    "DATA reordered, 1 %": (lambda count: pcap(shuffled(count, 0.01)), ()),
    "DATA reordered, 50 %": (lambda count: pcap(shuffled(count, 0.5)), ()),
    "bad EVENT inside, 1 %": (lambda count: pcap(bad_inside(count, 100)), ()),
    "bad EVENT inside, all": (lambda count: pcap(bad_inside(count, 1)), ()),
    "IPv6 extension header": (lambda count: pcap(six(count, bytes([17, 0, 1, 4, 0, 0, 0, 0]))), ()),
    "fragments": (lambda count: pcap(fragments(count)), ()),
    "fragments of other traffic": (lambda count: pcap(fragments_of_others(count)), ()),
    "802.3 with SNAP": (lambda count: pcap(snap(count)), ()),
    "KEEPALIVE after each DATA": (lambda count: pcap(kept_alive(count)), ()),
    "simple packet blocks": (simple, ()),
    "statistics after each packet": (told, ()),
    "100 flows": (lambda count: pcap(flows(count, 100)), ()),
    "1,000 flows": (lambda count: pcap(flows(count, 1000)), ()),
    "10,000 flows": (lambda count: pcap(flows(count, 10_000)), ()),
    "1,000 probes": (lambda count: pcap(probes(count)), ()),
    "TCP bulk": (lambda count: pcap(bulk(count, 62_000)), ()),
    "TCP bulk, events of 1,400 bytes": (lambda count: pcap(bulk(count, 62_000, 1400)), ()),
    "TCP, one event a segment": (lambda count: pcap(stream(session(count))), ()),
    "TCP, 1,000 connections": (lambda count: pcap(connections(count, 1000)), ()),
    "TCP with holes": (lambda count: pcap(lossy(count)), ()),
    "--any-port, plain": (lambda count: pcap(plain(count)), ("--any-port",)),
    "--any-port, bulk of others": (lambda count: pcap(web(count)), ("--any-port",)),
    "bulk of others at our port": (lambda count: pcap(web(count, PORT)), ()),
}  # fmt: skip


def measure(verb: str, path: str, options: tuple[str, ...], form: str) -> float:
    """Processor seconds of the command, in a child of its own whose modules are there."""
    Path(f"{path}.{form}").unlink(missing_ok=True)  # to free it is no part of the command
    source, target = os.pipe()
    child = os.fork()
    if not child:
        os.close(source)
        gc.set_threshold(GARBAGE)  # as the program does when it starts
        huge_pages()
        start = time.process_time()
        with contextlib.suppress(BaseException):
            if run(verb, path, options, form) in (OK, NOT_WHOLE, NOTHING):
                os.write(target, struct.pack("d", time.process_time() - start))
        os._exit(0)
    os.close(target)
    with open(source, "rb") as told_by:
        answer = told_by.read()
    os.waitpid(child, 0)
    if not answer:
        raise SystemExit(f"kwire {verb} {path} {' '.join(options)} has failed")
    return float(struct.unpack("d", answer)[0])


def run(verb: str, path: str, options: tuple[str, ...], form: str) -> int:
    """The command as a user types it, its output thrown away; gives its exit status."""
    words = {
        "stats": ["stats", path],
        "query": ["query", path, "SELECT count(*) FROM events"],
        "export": ["export", path, "-o", f"{path}.{form}"],
        "verify": ["verify", path],
    }[verb]
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    return command([*words, *options])


class Measured(NamedTuple):
    """A row of a table: packets/s, how much slower than plain, GB/s, seconds once."""

    name: str
    rate: float
    slower: float
    speed: float
    once: float

    @property
    def allowed(self) -> float:
        """How much slower it may be."""
        return 10 if self.name.startswith("TCP") or self.name.endswith(" flows") else 3


def summary(verb: str, rows: list[Measured]) -> str:
    """What README quotes of a verb, in a line; `!` marks what is slower than it should be."""
    lines = [f"{verb}: plain {rows[0].rate / 1e6:.1f} M packets/s"]
    for what, some in (
        ("slowest of the others", [row for row in rows if row.allowed == 3]),
        ("of TCP and many flows", [row for row in rows if row.allowed > 3]),
    ):
        worst = sorted(some, key=lambda row: -row.slower)[:3]
        shown = [f"{row.name} {row.slower:.1f}{'!' * (row.slower > row.allowed)}" for row in worst]
        lines += [f"{what}: {', '.join(shown)}"] * bool(shown)
    lines += [f"{row.name} {row.speed:.2f} GB/s" for row in rows if row.name.startswith("TCP bulk")]
    return "; ".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--packets", type=int, default=200_000)
    parser.add_argument("--runs", type=int, default=3, help="of which the best counts")
    verbs = ["stats", "query", "export", "verify"]
    parser.add_argument("--verb", choices=verbs, nargs="+", default=verbs, help="a table for each")
    forms = ["arrow", "parquet", "csv", "ndjson"]
    parser.add_argument("--format", choices=forms, default="arrow", help="that `export` writes")
    parser.add_argument("rows", nargs="*", metavar="ROW", help="how the names of those begin that are wanted")
    args = parser.parse_args()
    for row in args.rows:
        if not any(name.startswith(row) for name in ROWS):
            parser.error(f"there is no row {row!r}: {', '.join(ROWS)}")
    rows: dict[str, list[list[str]]] = {verb: [] for verb in args.verb}
    told: dict[str, list[Measured]] = {verb: [] for verb in args.verb}
    base: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = str(Path(folder, "capture"))
        Path(path).write_bytes(pcap(plain(50)))
        keep = os.dup(1), os.dup(2)
        for verb in args.verb:
            run(verb, path, (), args.format)  # the modules that the verb loads
        os.dup2(keep[0], 1)
        os.dup2(keep[1], 2)
        counts = args.packets // 4, args.packets
        for name, (make, options) in ROWS.items():
            if args.rows and name != "plain" and not any(name.startswith(row) for row in args.rows):
                continue
            sizes: list[int] = []
            seconds: dict[str, list[float]] = {verb: [] for verb in args.verb}
            for count in counts:
                made = make(count)
                Path(path).write_bytes(made)
                sizes.append(len(made))
                for verb in args.verb:
                    seconds[verb].append(
                        min(measure(verb, path, options, args.format) for _ in range(args.runs))
                    )
            for verb, (few, all_of_them) in seconds.items():
                more = max(all_of_them - few, 1e-9)
                rate, once = (counts[1] - counts[0]) / more, max(few - more / 3, 0)
                slower = base.setdefault(verb, rate) / rate
                speed = (sizes[1] - sizes[0]) / more / 1e9
                row = [name, f"{rate / 1e3:,.0f}", f"{slower:.1f}", f"{speed:.2f}", f"{once:.2f}"]
                rows[verb].append(row)
                told[verb].append(Measured(name, rate, slower, speed, once))
                sys.stderr.write(f"{verb} {name}: {row[1:]}\n")
    for verb, some in rows.items():
        heads = [f"{args.packets:,} packets, `{verb}`", "k packets/s", "slower", "GB/s", "once, s"]
        print(table(heads, some) + "\n")
    for verb, measured in told.items():
        print(summary(verb, measured))


if __name__ == "__main__":
    main()
