"""`kwire show` of network captures: events, every layer, sessions, notes; for people and as JSON."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kwire.cli.main import main
from kwire.wire.frame import Flag, Type, build

Run = Callable[..., tuple[int, list[str], str]]


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> tuple[int, list[str], str]:
        status = main(["show", *arguments])
        out, err = capsys.readouterr()
        return status, out.splitlines(), err

    return run


@pytest.fixture
def capture(net: Any, tmp_path: Path) -> str:
    frames = net.session(4, 2, Flag.CHECKSUM)
    packets = [net.ethernet(net.ipv4(net.udp(frame))) for frame in frames]
    packets.append(net.ethernet(net.ipv4(net.udp(b"what is this"))))
    packets.append(net.ethernet(bytes(28), kind=0x0806))
    path = tmp_path / "net.pcap.gz"
    path.write_bytes(gzip.compress(net.pcap(packets)))
    return str(path)


def test_events_are_shown_and_the_rest_is_said(capture: str, show: Run) -> None:
    status, lines, err = show(capture, "--json")
    assert status == 3, "what is not frames may have been some"
    assert [json.loads(line)["fields"]["size"] for line in lines] == list(range(8))
    assert "NOT_FRAMES once: packet 6 at byte" in err
    assert "1 packet is other traffic: 1 ARP" in err
    status, lines, err = show(capture, "--port", "99")
    assert (status, lines) == (0, [])
    assert "7 packets are other traffic: 6 UDP, 1 ARP" in err
    assert show(capture, "--any-port", "--json")[0] == 3
    assert len(show(capture, "--where", "size > 5", "--json")[1]) == 2


def test_every_byte_of_every_layer_is_explained(capture: str, show: Run) -> None:
    status, lines, err = show(capture, "-V")
    assert status == 3
    text = "\n".join(lines)
    for part in (
        "pcap header, at byte 0, 24 bytes",
        "packet 2, at byte",
        "destination     00:01:02:03:04:05",
        "protocol        17                        UDP  [ok]",
        "target port     17800",
        "frame of udp 10.0.0.1:40000 > 10.0.0.2:17800: DATA, offset 42",
        "frame 1 inside: EVENT, offset 50",
        "comm            cat                       what comm points to  [ok]",
        "error NOT_FRAMES",
        "ARP: not taken apart",
    ):
        assert part in text, part
    assert "NOT_FRAMES once" in err


def test_offsets_and_bytes_of_all_layers_cover_the_packet(net: Any, capture: str, show: Run) -> None:
    objects = [json.loads(line) for line in show(capture, "-V", "--json")[1]]
    packets = [one for one in objects if one.get("packet")]
    assert len(packets) == 7
    summary = objects[-1]["summary"]
    assert summary["errors"]["NOT_FRAMES"]["count"] == 1
    assert (summary["packets"], summary["frames"], summary["other"]) == (7, 5, {"ARP": 1})
    raw = gzip.decompress(Path(capture).read_bytes())
    for one in packets:
        start = one["offset"] + 16
        packet = raw[start : start + one["captured"]]
        covered = bytearray(len(packet))
        fields = [field for layer in one["layers"][1:] for field in layer["fields"]]
        for frame in one["frames"]:
            fields += [field for field in frame["fields"] if "bytes" in field]
            for inner in frame.get("frames", []):
                covered[inner["offset"] : inner["offset"] + inner["length"]] = b"\1" * inner["length"]
        for field in fields:
            data = bytes.fromhex(field["bytes"])
            assert packet[field["offset"] : field["offset"] + len(data)] == data, field
            covered[field["offset"] : field["offset"] + len(data)] = b"\1" * len(data)
            assert field["verdict"]
        assert all(covered), (one["packet"], bytes(covered))


def test_wrong_fields_have_their_verdict(net: Any, tmp_path: Path, show: Run) -> None:
    bad = build(Type.DATA, 1, net.event(), Flag.CHECKSUM)[:-1] + b"\0"
    packets = [
        net.ethernet(net.ipv4(net.udp(bad))),
        net.ethernet(net.ipv4(net.udp(net.data(1), checksum=0x1234))),
        net.ethernet(net.ipv4(net.udp(net.data(1), checksum=0))),
    ]
    path = tmp_path / "bad.pcapng"
    path.write_bytes(net.pcapng(packets))
    objects = [json.loads(line) for line in show(str(path), "-V", "--json")[1]]
    one, two, three = [item for item in objects if item.get("packet")]
    verdicts = {field["name"]: field["verdict"] for field in one["frames"][0]["fields"] if "verdict" in field}
    assert verdicts["checksum"] == "BAD_CHECKSUM"
    assert verdicts["length"] == "ok"
    assert any("BAD_CHECKSUM" in error for error in one["errors"])
    udp = {field["name"]: field["verdict"] for field in two["layers"][-2]["fields"]}
    assert udp["checksum"] == "BAD_UDP_CHECKSUM"
    udp = {field["name"]: field["verdict"] for field in three["layers"][-1]["fields"]}
    assert udp["checksum"] == "CHECKSUM_NONE"


def test_blocks_of_a_file_of_ours_are_explained(net: Any, tmp_path: Path, show: Run) -> None:
    path = tmp_path / "ours.pcapng"
    frames = [*net.schema().frames(), net.event()]
    path.write_bytes(net.pcapng(frames, 147, options=[(2, b"probe"), (1, b"a comment")]))
    status, lines, err = show(str(path), "-V")
    assert (status, err) == (0, "")
    text = "\n".join(lines)
    for part in ("section header block", "magic", "probe", "a comment", "EVENT"):
        assert part in text
    assert len(show(str(path), "-V", "--head", "1")[1]) < len(lines)


def test_sessions_are_followed(net: Any, tmp_path: Path, show: Run) -> None:
    path = tmp_path / "s.pcap"
    frames = net.session(3, 1, Flag.CHECKSUM)
    path.write_bytes(net.pcap([net.ethernet(net.ipv4(net.udp(frame))) for frame in frames]))
    status, lines, _ = show(str(path), "--sessions")
    assert status == 0
    assert lines[-1].startswith("session 1, joined in the middle: ")
    assert "(source) ESTABLISHED" in lines[-1]
    every = show(str(path), "--sessions", "--all", "--json")[1]
    assert [json.loads(line).get("type") for line in every] == ["DATA"] * 4 + [None] * 2


def test_choices_that_make_no_sense_are_refused(capture: str, show: Run) -> None:
    assert "choose events, not packets" in show(capture, "-V", "--where", "size == 1")[2]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has privileges to give up")
def test_reading_verbs_give_up_privileges_first(capture: str, tmp_path: Path) -> None:
    program = """
import sys
from kwire.cli import main, show
from kwire.kernel import privileges
def run(args):
    print(sorted(privileges.effective()), "NoNewPrivs:\\t1" in open("/proc/self/status").read())
    return 0
show.run = run
sys.argv = ["kwire", "show", sys.argv[1]]
main.main()
"""

    def effective(path: str) -> str:
        return subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True).stdout

    assert effective(capture) == "[] True\n"
    os.chown(capture, 65534, 65534)
    os.chmod(capture, 0o600)
    assert effective(capture) == "['CAP_DAC_READ_SEARCH'] True\n"
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 65534, 65534)
    command = [sys.executable, "-m", "kwire.cli.main", "export", capture, "-o", str(theirs / "x.csv")]
    assert subprocess.run(command, capture_output=True, text=True).returncode == 3
    assert (theirs / "x.csv").stat().st_size > 0
    kwire = [sys.executable, "-m", "kwire.cli.main", "show", capture, "--json"]
    assert subprocess.run(kwire, capture_output=True, text=True).stdout.count("\n") == 8
