"""Sessions captured on a network, and a real recording: the same questions, the same answers."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kwire.cli.main import main
from kwire.packets import engine, network, open
from kwire.wire.control import Hello, Role
from kwire.wire.frame import Flag, Type, build

PORT = 17800
FIELDS = (("n", "u32", 1, ""), ("comm", "str", 1, ""))


def datagram(payload: bytes, source: int = 40000, port: int = PORT) -> bytes:
    """A raw IPv4 packet with a UDP datagram; the checksum of UDP is left out, as it may be."""
    udp = struct.pack(">HHHH", source, port, 8 + len(payload), 0) + payload
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, b"\x0a\0\0\1", b"\x0a\0\0\2")
    total = sum(struct.unpack(">10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    return head[:10] + struct.pack(">H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF) + head[12:] + udp


def pcap(*packets: bytes) -> bytes:
    """A classic pcap file, link type raw IP."""
    data = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101)
    for at, packet in enumerate(packets):
        data += struct.pack("<IIII", 1_700_000_000, at, len(packet), len(packet)) + packet
    return data


def hello(number: int = 0) -> bytes:
    """What begins a session, the first DATA of which has number 0."""
    return Hello(number.to_bytes(16, "big"), 1, Role.SOURCE).frame()


def session(
    kit: Any, count: int = 30, *, port: int = PORT, begin: bool = True, bye: bool = True
) -> tuple[bytes, list[bytes]]:
    """A session's datagrams as a pcap file, and the EVENT frames in it."""
    schema = kit.schema(1, "kprobe:f", FIELDS)
    events = [kit.event(schema, kit.monotonic + at, (at, b"cat")) for at in range(count)]
    payloads = [b"".join(schema.frames()), *(b"".join(events[at : at + 4]) for at in range(0, count, 4))]
    frames = [build(Type.DATA, at, payload) for at, payload in enumerate(payloads)]
    if begin:
        frames.insert(0, hello())
    if bye:
        frames.append(build(Type.BYE, len(payloads), b"\xa1freasonddone"))
    return pcap(*(datagram(frame, port=port) for frame in frames)), events


def test_a_captured_session_is_asked_like_any_capture(tmp_path: Path, kit: Any, kwire: Any) -> None:
    path = tmp_path / "net.pcap"
    path.write_bytes(session(kit)[0])
    status, out, err = kwire("query", str(path), "--csv", "select count(*), sum(n) from f")
    assert (status, out.splitlines()[1], err) == (0, "30,435", "")
    status, out, _ = kwire("stats", str(path), "--json")
    told = json.loads(out)
    assert (told["packets"], told["events"], told["errors"]) == (11, 30, {})
    assert [(probe["probe"], probe["events"]) for probe in told["probes"]] == [("kprobe:f", 30)]
    out_file = tmp_path / "x.ndjson"
    assert kwire("export", str(path), "-o", str(out_file))[0] == 0
    assert [json.loads(line)["fields"]["n"] for line in out_file.read_text().splitlines()] == list(range(30))


def test_hop_by_hop_the_accounts_balance(tmp_path: Path, kit: Any, kwire: Any) -> None:
    """A capture made from a session that came to its end is complete, as the capture at the source is."""
    data, events = session(kit)
    path, out = tmp_path / "net.pcap", str(tmp_path / "out.pcapng")
    path.write_bytes(data)
    assert kwire("merge", str(path), "-w", out) == (0, "", f"30 events, {out}\n")
    assert kwire("verify", out)[0] == 0
    assert kwire("verify", str(path))[1] == f"{path}: complete: 30 events produced, 30 stored, 0 lost\n"
    source = kit.write(tmp_path / "source.pcapng", [kit.schema(1, "kprobe:f", FIELDS)], events)
    assert kwire("show", out, "--json")[1] == kwire("show", source, "--json")[1]
    for made in (["cut", "--from", "+10ns"], ["cut", "--probe", "kprobe:f"]):
        piece = str(tmp_path / "piece.pcapng")
        assert kwire(made[0], str(path), *made[1:], "-w", piece)[0] == 0
        assert kwire("verify", piece)[0] == 0
    assert kwire("split", str(path), "--by", "events=7", "-w", str(tmp_path / "parts"))[0] == 0
    parts = sorted(map(str, (tmp_path / "parts").iterdir()))
    assert len(parts) == 5
    assert kwire("verify", *parts)[0] == 0


@pytest.mark.parametrize(
    ("begin", "bye", "what"),
    [
        (True, False, "end (BYE)"),
        (False, True, "beginning (HELLO)"),
        (False, False, "beginning (HELLO) and end (BYE)"),
    ],
)
def test_a_session_without_its_ends_proves_nothing(
    tmp_path: Path, kit: Any, kwire: Any, begin: bool, bye: bool, what: str
) -> None:
    """Numbers begin anywhere, and SCHEMAs are repeated: without its HELLO it may have begun long before."""
    path, out = tmp_path / "net.pcap", str(tmp_path / "out.pcapng")
    path.write_bytes(session(kit, begin=begin, bye=bye)[0])
    status, _, err = kwire("merge", str(path), "-w", out)
    assert status == 0
    assert "it does not prove complete" in err
    assert kwire("verify", out)[0] == 3
    status, printed, _ = kwire("verify", str(path))
    assert status == 3
    assert f"the capture does not hold the session's {what}\n" in printed
    status, _, err = kwire("stats", str(path))
    assert (status, "it does not hold every session from its beginning to its end" in err) == (0, True)


def test_a_session_with_a_hole_is_not_complete(tmp_path: Path, kit: Any, kwire: Any) -> None:
    data, _ = session(kit)
    path, out = tmp_path / "net.pcap", str(tmp_path / "out.pcapng")
    sizes, at = [], 24
    while at < len(data):
        sizes.append((at, 16 + struct.unpack_from("<I", data, at + 8)[0]))
        at += sizes[-1][1]
    start, size = sizes[4]
    path.write_bytes(data[:start] + data[start + size :])
    status, printed, _ = kwire("verify", str(path))
    assert status == 3
    assert "1 DATA frame is not in the capture" in printed
    assert kwire("merge", str(path), "-w", out)[0] == 3
    assert kwire("verify", out)[0] == 3
    assert json.loads(kwire("stats", str(path), "--json")[1])["errors"] == {"DATA_MISSING": 1}
    said = (
        f"kwire: {path}: DATA_MISSING once: DATA_MISSING: DATA frames are not in the capture (udp 10.0.0.1:"
    )
    for verb in (["stats"], ["query", "select 1"], ["export", "-o", str(tmp_path / "x.csv")], ["show"]):
        assert said in kwire(verb[0], str(path), *verb[1:])[2]


@pytest.mark.parametrize(
    ("inside", "why"),
    [
        (build(Type.EVENT, 1, bytes(24), Flag.CHECKSUM)[:-1] + b"\x77", "1 frame is not sound"),
        (build(Type.EVENT, 1, bytes(4)), "1 frame is not sound"),
        (build(Type.LOST, 1, bytes(31)), "1 frame is not sound"),
        (build(Type.SCHEMA, 2, b"\xff"), "1 frame is not sound"),
        (build(Type.EVENT, 9, bytes(24)), "1 event is of probes that the file does not describe"),
    ],
)
def test_what_cannot_be_read_in_a_session_is_proven_by_nothing_that_is_made_of_it(
    tmp_path: Path, kit: Any, kwire: Any, inside: bytes, why: str
) -> None:
    """All of its DATA is there, but a frame in it is lost to every reader."""
    schema = kit.schema(1, "kprobe:f", FIELDS)
    payloads = [b"".join(schema.frames()), kit.event(schema, kit.monotonic, (1, b"cat")) + inside]
    frames = [hello(), *(build(Type.DATA, at, payload) for at, payload in enumerate(payloads))]
    path, out = tmp_path / "net.pcap", str(tmp_path / "out.pcapng")
    path.write_bytes(pcap(*map(datagram, [*frames, build(Type.BYE, 2, b"\xa1freasonddone")])))
    status, printed, _ = kwire("verify", str(path))
    assert (status, f"udp 10.0.0.1:40000 > 10.0.0.2:17800: {why}" in printed) == (3, True)
    status, _, err = kwire("merge", str(path), "-w", out)
    assert (status, "it does not prove complete" in err) == (3, True)
    assert kwire("verify", out)[0] == 3


@pytest.mark.parametrize(
    "frame", [build(Type.DATA, 5, build(Type.EVENT, 1, bytes(24))), build(Type.ACK, 9, bytes(4))]
)
def test_a_session_of_which_no_probe_is_known_leaves_nothing_proven(
    tmp_path: Path, kit: Any, kwire: Any, frame: bytes
) -> None:
    """What is missing of it may be of any probe, and is in nothing that is made of the capture."""
    path, out = tmp_path / "net.pcap", str(tmp_path / "out.pcapng")
    path.write_bytes(session(kit)[0] + pcap(datagram(frame, 40001))[24:])
    assert kwire("verify", str(path))[0] == 3
    assert "it does not prove complete" in kwire("merge", str(path), "-w", out)[2]
    assert kwire("verify", out)[0] == 3


def test_sessions_that_take_turns_are_told_apart(tmp_path: Path, kit: Any, kwire: Any) -> None:
    """Two agents at a time: each has its own probes, though both call them 1."""
    packets = []
    for source in (40000, 40001):
        schema = kit.schema(1, "kprobe:f", FIELDS, host=f"host{source}", wall=kit.wall + source)
        events = [kit.event(schema, kit.monotonic + at, (at, b"cat")) for at in range(20)]
        frames = [hello(source), build(Type.DATA, 0, b"".join(schema.frames()))]
        frames += [build(Type.DATA, at + 1, event) for at, event in enumerate(events)]
        frames.append(build(Type.BYE, 21, b"\xa1freasonddone"))
        packets.append([datagram(frame, source) for frame in frames])
    path, out = tmp_path / "net.pcap", str(tmp_path / "out.pcapng")
    path.write_bytes(pcap(*(packet for pair in zip(*packets, strict=True) for packet in pair)))
    sql = "select host, count(*) as n, sum(n) as s, min(time_ns) as t from f group by host order by host"
    rows = [json.loads(line) for line in kwire("query", str(path), "--json", sql)[1].splitlines()]
    assert rows == [
        {"host": f"host{source}", "n": 20, "s": 190, "t": kit.wall + source} for source in (40000, 40001)
    ]
    assert kwire("verify", str(path))[0] == 0
    assert kwire("merge", str(path), "-w", out)[0] == 0
    assert kwire("verify", out)[0] == 0
    assert [probe["events"] for probe in json.loads(kwire("stats", out, "--json")[1])["probes"]] == [20, 20]


def many(kit: Any, count: int) -> bytes:
    """So many sessions of three events each, one after the other."""
    schema = kit.schema(1, "kprobe:f", FIELDS)
    events = [kit.event(schema, kit.monotonic + at, (at, b"cat")) for at in range(3)]
    frames = [
        build(Type.DATA, 0, b"".join(schema.frames())),
        build(Type.DATA, 1, b"".join(events)),
        build(Type.BYE, 2, b"\xa1freasonddone"),
    ]
    sessions = ([hello(at), *frames] for at in range(count))
    return pcap(*(datagram(frame, 1024 + at) for at, frames in enumerate(sessions) for frame in frames))


def test_sessions_that_ended_are_let_go_of_and_all_proven(tmp_path: Path, kit: Any, kwire: Any) -> None:
    path = tmp_path / "net.pcap"
    path.write_bytes(many(kit, 9000))
    status, out, _ = kwire("verify", str(path))
    assert (status, out.splitlines()[0]) == (
        0,
        f"{path}: complete: 27,000 events produced, 27,000 stored, 0 lost",
    )
    assert kwire("query", str(path), "select count(*) as n from events")[1:] == ("    n\n27000\n", "")


def test_more_sessions_than_are_kept_are_said_and_prove_nothing(
    tmp_path: Path, kit: Any, kwire: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for room in (network, engine, open):
        monkeypatch.setattr(room, "MAX_CONVERSATIONS", 100)
    path, out = tmp_path / "net.pcap", str(tmp_path / "out.pcapng")
    path.write_bytes(many(kit, 150))
    status, printed, _ = kwire("verify", str(path))
    assert status == 3
    assert (
        printed.splitlines()[-1] == "  problem: 50 sessions are beyond what is kept: nothing is known of them"
    )
    assert "it does not prove complete" in kwire("merge", str(path), "-w", out)[2]
    assert kwire("verify", out)[0] == 3


def test_ports_are_chosen(tmp_path: Path, kit: Any, kwire: Any) -> None:
    path = tmp_path / "net.pcap"
    path.write_bytes(session(kit, port=5000)[0])
    sql = "select count(*) as n from events"
    assert kwire("query", str(path), "--port", "5000", sql)[1].split() == ["n", "30"]
    assert kwire("query", str(path), "--any-port", sql)[1].split() == ["n", "30"]
    assert kwire("query", str(path), "--port", "0", sql)[0] == 2


PROGRAM = "import os\nfor _ in range(2000): os.getppid()\nfor _ in range(50): os.close(os.open('/', 0))"


@pytest.mark.live
@pytest.mark.native
def test_a_real_recording_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str], kwire: Any) -> None:
    path = str(tmp_path / "real.pcapng")
    script = tmp_path / "load.py"
    script.write_text(PROGRAM)
    probes = [
        f"tracepoint:syscalls:sys_{end}_{name}" for name in ("getppid", "openat") for end in ("enter", "exit")
    ]
    command = [sys.executable, "-m", "kwire.cli.main", "record", *probes, "-w", path]
    subprocess.run([*command, "-c", f"{sys.executable} {script}"], check=True)
    shown = [json.loads(line) for line in kwire("show", path, "--json")[1].splitlines()]
    _, out, _ = kwire(
        "query", path, "--json", "select probe, count(*) as n, min(time_ns) as t from events group by probe"
    )
    counts = {row["probe"].split("(")[0]: row for row in map(json.loads, out.splitlines())}
    for probe in probes:
        mine = [event["time_ns"] for event in shown if event["probe"].split("(")[0] == probe]
        assert (counts[probe]["n"], counts[probe]["t"]) == (len(mine), min(mine))
    assert counts[probes[0]]["n"] >= 2000
    told = json.loads(kwire("stats", path, "--json")[1])
    calls = {call["call"]: call["count"] for call in told["calls"]}
    assert calls["syscall getppid"] == counts[probes[0]]["n"]
    trace = tmp_path / "real.json"
    assert kwire("export", path, "-o", str(trace))[0] == 0
    slices = [event for event in json.loads(trace.read_text())["traceEvents"] if event["ph"] == "X"]
    assert len(slices) == sum(calls.values())
    assert kwire("split", path, "--by", "probe", "-w", str(tmp_path / "parts"))[0] == 0
    parts = sorted(map(str, (tmp_path / "parts").iterdir()))
    back = str(tmp_path / "back.pcapng")
    assert kwire("merge", *parts, "-w", back)[0] == 0
    assert kwire("verify", back, *parts)[0] == 0
    again = [json.loads(line) for line in kwire("show", back, "--json")[1].splitlines()]
    assert sorted(map(json.dumps, again)) == sorted(map(json.dumps, shown))
    assert main(["verify", path]) == 0


@pytest.mark.parametrize("key", ["probe", "host"])
def test_a_split_keeps_what_tells_a_hole(key: str, tmp_path: Path, kit: Any, kwire: Any) -> None:
    """Of a session without any event, whose DATA is missing, a piece tells that."""
    schema = kit.schema(1, "kprobe:other", FIELDS, host="elsewhere")
    lacks = [
        hello(7),
        build(Type.DATA, 0, b"".join(schema.frames())),
        build(Type.BYE, 9, b"\xa1freasonddone"),
    ]
    path, pieces = tmp_path / "net.pcap", tmp_path / "pieces"
    path.write_bytes(session(kit)[0] + pcap(*(datagram(frame, source=50000) for frame in lacks))[24:])
    status, _, err = kwire("split", str(path), "--by", key, "-w", str(pieces))
    assert status == 3
    assert "DATA_MISSING 8 times" in err
    told = {piece.name: kwire("verify", str(piece))[0] for piece in pieces.iterdir()}
    names = ("f", "other") if key == "probe" else ("box", "elsewhere")
    assert told == {f"{names[0]}.pcapng": 0, f"{names[1]}.pcapng": 3}


def test_what_could_not_be_read_is_no_part_of_a_proof(tmp_path: Path, kit: Any, kwire: Any) -> None:
    """A session that is whole, beside packets that may be all of another one: their checksums are wrong."""
    schema = kit.schema(1, "kprobe:other", FIELDS)
    frames = [
        hello(7),
        build(Type.DATA, 0, b"".join(schema.frames())),
        build(Type.BYE, 1, b"\xa1freasonddone"),
    ]
    packets = [bytearray(datagram(frame, source=50000)) for frame in frames]
    for packet in packets:
        packet[26:28] = b"\x12\x34"
    path, out = tmp_path / "net.pcap", str(tmp_path / "out.pcapng")
    path.write_bytes(session(kit)[0] + pcap(*map(bytes, packets))[24:])
    for step in (("verify", str(path)), ("merge", str(path), "-w", out), ("verify", out)):
        status, said, err = kwire(*step)
        assert status == 3, step
        assert step[-1] == out or "BAD_UDP_CHECKSUM 3 times" in said + err


def test_a_capture_without_a_frame_says_what_it_holds(tmp_path: Path, kit: Any, kwire: Any) -> None:
    path, said = tmp_path / "net.pcap", "no frame is in its 11 packets (11 UDP); look elsewhere with --port N"
    path.write_bytes(session(kit, port=4000)[0])
    for verb in (("stats",), ("show",), ("query", "select 1"), ("export",), ("merge",)):
        arguments = [verb[0], str(path), *verb[1:]]
        arguments += ["-w", str(tmp_path / "merged")] * (verb == ("merge",))
        arguments += ["-o", str(tmp_path / "out.csv")] * (verb == ("export",))
        status, _, err = kwire(*arguments)
        assert (status, said in err) == (0, True), (verb, err)
    status, _, err = kwire("verify", str(path))
    assert (status, said in err) == (1, True)
    assert said not in kwire("stats", str(path), "--port", "4000")[2]
