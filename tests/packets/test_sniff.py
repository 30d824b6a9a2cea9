"""`kwire sniff`: live traffic on the loopback of a network of the test's own, shown and kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from waiting import PATIENCE

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="listening needs root")

KWIRE = [sys.executable, "-m", "kwire.cli.main"]
SEND = """
import socket, sys, time
frames = [bytes.fromhex(line) for line in sys.stdin.read().split()]
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sink.bind(("127.0.0.1", 17800))
listen = socket.create_server(("127.0.0.1", 17800))
for frame in frames:
    out.sendto(frame, ("127.0.0.1", 17800))
stream = socket.create_connection(("127.0.0.1", 17800))
stream.sendall(b"".join(frames))
stream.close()
time.sleep(0.1)
"""


def own_network(*command: str, sends: list[bytes], tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Run `kwire sniff` in a network namespace that ends with it, while frames are sent there."""
    (tmp_path / "send.py").write_text(SEND)
    (tmp_path / "frames").write_text("\n".join(frame.hex() for frame in sends))
    quoted = " ".join(f"'{part}'" for part in (*KWIRE, "sniff", *command))
    script = (
        f"ip link set lo up && {quoted} & sniffer=$!; sleep 1.5; "
        f"{sys.executable} {tmp_path}/send.py < {tmp_path}/frames; wait $sniffer"
    )
    done = subprocess.run(
        ["unshare", "-n", "sh", "-c", script], capture_output=True, text=True, timeout=PATIENCE
    )
    if "unshare" in done.stderr:
        pytest.skip(f"no network namespaces here: {done.stderr.strip()}")
    return done


def test_live_frames_are_shown_and_kept(net: Any, tmp_path: Path) -> None:
    kept = tmp_path / "kept.pcapng"
    done = own_network(
        "-i", "lo", "--json", "--seconds", "4", "-w", str(kept), sends=net.session(5, 2), tmp_path=tmp_path
    )
    assert done.returncode == 0, done.stderr
    sizes = [json.loads(line)["fields"]["size"] for line in done.stdout.splitlines()]
    assert sorted(sizes) == sorted([*range(10), *range(10)])  # over UDP, and over TCP
    assert " 0 dropped" in done.stderr
    assert kept.stat().st_mode & 0o777 == 0o600
    again = subprocess.run([*KWIRE, "show", str(kept), "--json"], capture_output=True, text=True)
    assert sorted(again.stdout.splitlines()) == sorted(done.stdout.splitlines())
    assert "damaged" not in again.stderr
    assert "cut" not in again.stderr


def test_sessions_and_layers_are_shown_live(net: Any, tmp_path: Path) -> None:
    done = own_network("-i", "lo", "--sessions", "--seconds", "4", sends=net.session(3, 1), tmp_path=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "joined in the middle" in done.stdout
    done = own_network(
        "-i", "lo", "-V", "--head", "1", "--seconds", "5", sends=net.session(3, 1), tmp_path=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "packet 1, at byte" in done.stdout


def test_an_interface_that_is_not_there_is_one_line() -> None:
    done = subprocess.run([*KWIRE, "sniff", "-i", "nosuch0"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "there is no such interface" in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_privileges_the_cure_is_said() -> None:
    program = f"""
import os, sys
os.setuid(65534)
os.execv(sys.executable, {[*KWIRE, "sniff", "-i", "lo"]!r})
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    if "Permission denied" in done.stderr and "kwire" not in done.stderr:
        pytest.skip("the interpreter is not for everybody")
    assert done.returncode == 1
    assert "CAP_NET_RAW" in done.stderr


def test_a_vlan_tag_that_the_kernel_took_off_is_shown(net: Any, tmp_path: Path) -> None:
    packet = net.ethernet(net.ipv4(net.udp(net.event())), [(0x88A8, 7), (0x8100, 0x2005)])
    script = f"""
ip link add kwr0 type veth peer name kwr1 && ip link set kwr0 up && ip link set kwr1 up || exit 9
{" ".join(f"'{part}'" for part in KWIRE)} sniff -i kwr1 -V --json --seconds 3 &
sniffer=$!
sleep 1.5
{sys.executable} -c 'import socket; out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
out.bind(("kwr0", 0)); out.send(bytes.fromhex("{packet.hex()}"))'
wait $sniffer
"""
    done = subprocess.run(
        ["unshare", "-n", "sh", "-c", script], capture_output=True, text=True, timeout=PATIENCE
    )
    if done.returncode == 9 or "unshare" in done.stderr:
        pytest.skip(f"no network of our own here: {done.stderr.strip()}")
    shown = [json.loads(line) for line in done.stdout.splitlines()]
    ours = [one for one in shown if one.get("frames")]
    assert len(ours) == 1
    tags = [layer["fields"][0]["value"] for layer in ours[0]["layers"] if layer["name"] == "VLAN tag"]
    assert tags == ["VLAN 7", "VLAN 5"]
