"""Captures of lossy networks, and what tshark makes of them: a second opinion on what stands in them.

tshark takes packets apart, puts fragments together and follows streams; here is only looked which of the DATA
frames that were sent stand whole in what it gives. `python -m tests.packets.judge FIRST LAST`: a campaign.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from tests.packets.conftest import Net, events

from kwire.packets.open import open_capture
from kwire.wire.control import Hello, Role
from kwire.wire.frame import Type, build

MISSING = re.compile(rb"\[\d+ bytes missing in capture file\]\0?")
FIELDS = ("udp.srcport", "udp.payload", "tcp.srcport", "tcp.seq_raw", "tcp.payload", "tcp.stream")


class Sent(NamedTuple):
    """A DATA frame that somebody sent from a port, and the events in it."""

    port: int
    frame: bytes
    events: list[bytes]


def frames_of(net: Net, source: random.Random, port: int) -> tuple[list[bytes], list[Sent]]:
    """A session: HELLO, DATA, BYE."""
    sent, number = [], 100_000 * port
    for sequence in range(source.randrange(6, 30)):
        inside = [] if sequence else net.schema().frames()
        some = [net.event(number + at, comm=source.randbytes(6)) for at in range(source.choice([1, 3, 40]))]
        number += len(some)
        frame = net.data(sequence, *inside, *some, flags=source.choice([0, 1]))
        sent.append(Sent(port, frame, some))
    hello = Hello(port.to_bytes(16, "big"), 1, Role.SOURCE).frame(1)
    bye = build(Type.BYE, len(sent), b"\xa1freasonddone", 1)
    return [hello, *(one.frame for one in sent), bye], sent


def disturbed(source: random.Random, packets: list[Any], keep: int) -> list[Any]:
    """Some lost, some twice, some out of order; the first `keep` stay as they are."""
    out, lossy = packets[:keep], source.choice([0, 0, 0.05])
    for one in packets[keep:]:
        out += [one] * (source.random() >= lossy) * source.choice([1] * 20 + [2])
    for at in range(keep, len(out) - 5):
        other = at + source.choice([0] * 12 + [1, 2, 4])
        out[at], out[other] = out[other], out[at]
    return out


def datagrams(net: Net, source: random.Random, port: int, frames: list[bytes], six: bool) -> list[bytes]:
    """The frames in UDP, some in IP fragments; these may be lost too."""
    out: list[bytes] = []
    ends = net.v6 if six else net.v4
    for id, frame in enumerate(frames, 1):
        payload = net.udp(frame, ends, (port, 17800), 0 if not six and source.random() < 0.2 else None)
        if source.random() < 0.3:
            size = source.choice([64, 256, 1400])
            parts = net.ip_fragments(payload, size, 1000 * (port & 63) + id, 6 if six else 4)
            source.shuffle(parts)
            out += parts
        else:
            out.append(net.ipv6(payload, 17) if six else net.ipv4(payload, 17))
    return disturbed(source, out, 0)


def segments(net: Net, source: random.Random, port: int, frames: list[bytes], six: bool) -> list[bytes]:
    """The frames in TCP, from a SYN on or without, some sent again with other borders; an ACK at last."""
    ends, stream, parts, at = net.v6 if six else net.v4, b"".join(frames), [], 0
    base = source.choice([1000, (1 << 32) - 700])
    while at < len(stream):
        size = source.choice([9, 300, 1448, 9000])
        parts.append((at, stream[at : at + size]))
        at += size
    begins = [] if port % 3 else [net.tcp(b"", base - 1, 2, ends, (port, 17800))]
    parts = disturbed(source, parts, 0 if not begins else 1)
    for _ in range(source.choice([0, 3])):
        start = source.randrange(len(stream))
        place = source.randrange(1, len(parts) + 1)
        parts[place:place] = [(start, stream[start : start + source.randrange(1, 3000)])]
    made = begins + [net.tcp(data, base + at, 24, ends, (port, 17800)) for at, data in parts]
    made.append(net.tcp(b"", base + len(stream), 17, ends, (port, 17800)))
    wrap = net.ipv6 if six else net.ipv4
    ack = net.tcp(b"", 77, 16, ends[::-1], (17800, port))
    head = ack[:8] + ((base + len(stream)) % (1 << 32)).to_bytes(4, "big") + ack[12:16] + b"\0\0" + ack[18:]
    out = [wrap(one, 6, ends) for one in made]
    return [*out, wrap(head, 6, ends[::-1])]


def some_capture(seed: int) -> tuple[bytes, list[Sent]]:
    """A capture of several sessions that take turns, and what was sent."""
    net, source = Net(), random.Random(seed)
    flows, sent = [], []
    for port in source.sample(range(20000, 20060), 6):
        frames, mine = frames_of(net, source, port)
        make = source.choice([datagrams, segments])
        packets = make(net, source, port, frames, source.random() < 0.5)
        flows.append(packets)
        sent += mine
    mixed: list[bytes] = []
    while any(flows):
        flow = source.choice([one for one in flows if one])
        mixed.append(flow.pop(0))
    link = source.choice([1, 1, 113, 276, 101])
    if link == 1:
        tags = [(source.choice([0x8100, 0x88A8]), 5)] * source.choice([0, 1, 2])
        made = [net.ethernet(one, tags) for one in mixed]
    else:
        made = [net.link(link, one) for one in mixed]
    if source.random() < 0.5:
        return net.pcapng(made, link, source.choice(["<", ">"])), sent
    return net.pcap(made, link, source.choice(["<", ">"]), source.random() < 0.5, 1000), sent


class Opinion(NamedTuple):
    """What tshark sees, by port: datagrams; streams by their segments' numbers, and as it follows them."""

    datagrams: dict[int, list[bytes]]
    chunks: dict[int, list[bytes]]
    followed: dict[int, list[bytes]]


def tshark(path: str) -> Opinion:
    """Ask tshark about a capture."""
    follow = [word for number in range(12) for word in ("-z", f"follow,tcp,raw,{number}")]
    options = [word for name in FIELDS for word in ("-e", name)]
    command = [
        "tshark",
        "-n",
        "-r",
        path,
        "-T",
        "fields",
        "-E",
        "separator=/s",
        "-E",
        "occurrence=l",
        *options,
    ]
    done = subprocess.run([*command, *follow], capture_output=True, text=True, check=True)
    rows, _, told = done.stdout.partition("\n==========")
    datagrams: dict[int, list[bytes]] = {}
    known: dict[int, dict[int, bytes]] = {}
    for row in rows.splitlines():
        if not row.strip():
            continue
        udp, payload, tcp, sequence, data, _ = row.split(" ")
        if udp and payload:
            datagrams.setdefault(int(udp), []).append(bytes.fromhex(payload))
        if tcp and data:
            known.setdefault(int(tcp), {}).setdefault(int(sequence), b"")
            old = known[int(tcp)][int(sequence)]
            known[int(tcp)][int(sequence)] = max(old, bytes.fromhex(data), key=len)
    followed = {}
    for part in told.split("Filter: tcp.stream eq")[1:]:
        port = re.search(r"Node 0: \S+:(\d+)", part)
        lines = [line for line in part.splitlines() if re.fullmatch(r"[0-9a-f]+", line)]
        if port is not None:
            raw = b"".join(bytes.fromhex(line) for line in lines)
            followed[int(port[1])] = MISSING.split(raw)
    return Opinion(datagrams, {port: _chunks(parts) for port, parts in known.items()}, followed)


def _chunks(parts: dict[int, bytes]) -> list[bytes]:
    """Segments put in order by their numbers: runs without a hole."""
    first = next(iter(parts))
    out: list[bytes] = []
    end = None
    for sequence, data in sorted(parts.items(), key=lambda one: (one[0] - first + (1 << 31)) % (1 << 32)):
        at = (sequence - first + (1 << 31)) % (1 << 32)
        if end is None or at > end:
            out.append(data)
            end = at + len(data)
        elif at + len(data) > end:
            out[-1] += data[end - at :]
            end = at + len(data)
    return out


def judged(path: str, sent: list[Sent]) -> tuple[list[bytes], list[str]]:
    """The events that are whole in the capture as tshark sees it; and where its own two ways differ."""
    opinion, whole, doubts = tshark(path), [], []
    for one in sent:
        there = one.frame in opinion.datagrams.get(one.port, ()) or any(
            one.frame in chunk for chunk in opinion.chunks.get(one.port, ())
        )
        if one.port % 3 == 0 and one.port in opinion.chunks:  # it saw the SYN
            follows = any(one.frame in chunk for chunk in opinion.followed.get(one.port, ()))
            if follows != there:
                doubts.append(f"port {one.port}: {there} by segments, {follows} as followed")
        whole += one.events * there
    return whole, doubts


def compare(seed: int, folder: str) -> str:
    """Empty where kwire finds what tshark shows, in the capture of this seed; else what differs."""
    data, sent = some_capture(seed)
    path = Path(folder) / "a.pcap"
    path.write_bytes(data)
    whole, doubts = judged(str(path), sent)
    with open_capture(str(path)) as capture:
        found = events(capture)
    if doubts or sorted(found) != sorted(whole):
        lost, more = len(set(whole) - set(found)), len(set(found) - set(whole))
        return f"seed {seed}: {len(found)} of {len(whole)}: {lost} not found, {more} too many; {doubts[:2]}"
    return ""


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        wrong = [text for seed in range(*map(int, sys.argv[1:3])) if (text := compare(seed, directory))]
    sys.exit("\n".join(wrong) or 0)
