"""What `kwire verify` proves is true, whatever two faults meet in a capture of one session."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from kwire.cli.main import main
from kwire.packets.streams import SESSION_TYPES
from kwire.wire.control import Hello, Role, Welcome
from kwire.wire.frame import Flag, Type, build

TCP, UDP = 6, 17
HARMLESS = ("again", "swapped", "joined", "overlapping")
HARMFUL = ("lost", "cut", "damaged", "changed", "other copy", "no end", "no beginning")
PAIRS = 120  # captures
FEW = 30  # of those with harmless faults only


class Packet:
    """A segment or datagram of the source, or of the sink (`back`); `kept`: payload bytes captured."""

    def __init__(self, net: Any, protocol: int, payload: bytes, at: int = 0, flags: int = 0x18) -> None:
        self.net, self.protocol, self.payload, self.at, self.flags = net, protocol, payload, at, flags
        self.back, self.kept, self.flipped = False, len(payload), -1

    def copy(self, payload: bytes, at: int) -> Packet:
        return Packet(self.net, self.protocol, payload, at, self.flags)

    def made(self) -> tuple[bytes, int]:
        """The packet as it is captured, and its length on the network."""
        net = self.net
        ends, ports = (net.v4[::-1], (17800, 40000)) if self.back else (net.v4, (40000, 17800))
        if self.protocol == TCP:
            body = net.tcp(self.payload, self.at, self.flags, ends, ports)
        else:
            body = net.udp(self.payload, ends, ports)
        whole = bytearray(net.ethernet(net.ipv4(body, self.protocol, ends)))
        if self.flipped >= 0:
            whole[len(whole) - len(self.payload) + self.flipped] ^= 4
        return bytes(whole[: len(whole) - len(self.payload) + self.kept]), len(whole)


def session(net: Any, source: random.Random) -> tuple[list[Packet], int]:
    """A whole session, and how many events it has."""
    protocol, flags = source.choice([TCP, TCP, UDP]), source.choice([0, Flag.CHECKSUM])
    first, count, per = source.choice([0, 5, (1 << 32) - 3]), source.randrange(3, 30), source.randrange(1, 4)
    frames = [net.data(first, *net.schema().frames(), flags=flags)]
    for number in range(count):
        events = [net.event(number * per + one) for one in range(per)]
        frames.append(net.data(first + number + 1 & 0xFFFFFFFF, *events, flags=flags))
    frames.insert(0, Hello(bytes(16), 1, Role.SOURCE, next=first).frame(flags))
    frames.append(build(Type.BYE, first + count + 1 & 0xFFFFFFFF, b"\xa1freasonddone", flags))
    answer = Packet(net, protocol, Welcome(bytes(16), 1, Role.SINK).frame(), 77)
    answer.back = True
    if protocol == UDP:
        made = [Packet(net, UDP, frame) for frame in frames]
    else:
        stream, base, size = (
            b"".join(frames),
            source.choice([1000, (1 << 32) - 200]),
            source.choice([40, 300]),
        )
        made = [Packet(net, TCP, b"", base - 1, 2)]
        made += [Packet(net, TCP, stream[at : at + size], base + at) for at in range(0, len(stream), size)]
        made.append(Packet(net, TCP, b"", base + len(stream), 0x11))
    made.insert(3, answer)
    return made, count * per


def changed(source: random.Random, payload: bytes) -> bytes:
    """With one bit that is another."""
    found = bytearray(payload)
    found[source.randrange(len(found))] ^= 1 << source.randrange(8)
    return bytes(found)


def spoil(source: random.Random, made: list[Packet], fault: str) -> None:
    """Have a fault happen somewhere."""
    places = [place for place, one in enumerate(made) if not one.back and len(one.payload) > 1]
    if not places:
        return
    place = source.choice(places)
    one, near = made[place], min(place + source.randrange(1, 6), len(made) - 1)
    match fault:
        case "again":
            made.insert(near, one.copy(one.payload, one.at))
        case "swapped":
            made[place], made[near] = made[near], one
        case "joined" if one.protocol == TCP:
            after = [two for two in made if two.at == one.at + len(one.payload) and not two.back]
            if after:
                made[place] = one.copy(one.payload + after[0].payload, one.at)
        case "overlapping" if one.protocol == TCP:
            passed = source.randrange(1, len(one.payload))
            made.insert(near, one.copy(one.payload[passed:], one.at + passed))
        case "lost":
            del made[place]
        case "cut":
            one.kept = source.randrange(len(one.payload))
        case "damaged":  # and its checksum is wrong
            one.flipped = source.randrange(len(one.payload))
        case "changed":  # and its checksum is right
            one.payload = changed(source, one.payload)
        case "other copy":
            made.insert(near, one.copy(changed(source, one.payload), one.at))
        case "no end":
            del made[source.randrange(len(made) // 2, len(made)) :]
        case "no beginning":
            del made[: source.randrange(1, len(made) // 2 + 1)]


def told(where: Path, capsys: pytest.CaptureFixture[str], data: bytes) -> tuple[int, int]:
    """The status of verify, and how many events `stats` counts."""
    where.write_bytes(data)
    status = main(["verify", "--json", str(where)])
    capsys.readouterr()
    main(["stats", "--json", str(where)])
    out = capsys.readouterr().out
    return status, json.loads(out)["events"] if out else 0


def test_a_proof_is_true(tmp_path: Path, net: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """What is said to be complete has all its events."""
    proven = 0
    for seed in range(PAIRS):
        source = random.Random(seed)
        made, events = session(net, source)
        faults = [source.choice(HARMFUL + HARMLESS), source.choice(HARMFUL + HARMLESS)]
        for fault in faults:
            spoil(source, made, fault)
        status, found = told(tmp_path / "a.pcap", capsys, net.pcap([one.made() for one in made]))
        assert status or found == events, (seed, faults, found, events)
        proven += not status
    assert proven > PAIRS // 10


def test_what_costs_nothing_is_proven(tmp_path: Path, net: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Segments and datagrams again, in another order, joined or overlapping: all is there."""
    for seed in range(FEW):
        source = random.Random(seed)
        made, events = session(net, source)
        faults = [source.choice(HARMLESS), source.choice(HARMLESS)]
        for fault in faults:
            spoil(source, made, fault)
        outcome = told(tmp_path / "a.pcap", capsys, net.pcap([one.made() for one in made]))
        assert outcome == (0, events), (seed, faults)


def test_each_type_that_cannot_stand_in_data_is_noticed(
    tmp_path: Path, net: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """An event whose type has become another one, its checksums right."""
    for kind in SESSION_TYPES:
        frames = [Hello(bytes(16), 1, Role.SOURCE).frame(), net.data(0, *net.schema().frames())]
        event = bytearray(net.event(1))
        event[0] ^= Type.EVENT ^ kind
        frames += [net.data(1, net.event(0), bytes(event)), build(Type.BYE, 2, b"\xa1freasonddone")]
        made = [Packet(net, UDP, frame).made() for frame in frames]
        assert told(tmp_path / "a.pcap", capsys, net.pcap(made)) == (3, 1), kind
