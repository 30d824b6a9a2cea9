"""The tools that come with kwire: what they say of themselves, and what the kernels say of them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import kwire
import kwire.tools
from kwire.cli.main import main
from kwire.lang.python import parse_file
from kwire.live.planner import make_plan
from kwire.live.recorder import Recorder
from kwire.tools import TOOLS, WHOM, described

FOLDER = Path(kwire.tools.__file__).parent


def test_every_file_is_a_tool_and_is_packed() -> None:
    files = {path.name for path in FOLDER.iterdir() if path.suffix in (".py", ".bt")} - {"__init__.py"}
    assert {tool.file for tool in TOOLS.values()} == files
    packed = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert '"tools/*.bt"' in packed


@pytest.mark.parametrize("name", TOOLS)
def test_a_tool_says_what_it_is(name: str) -> None:
    tool = TOOLS[name]
    line, about = described(tool.text)
    assert tool.file.partition(".")[0] == name
    assert tool.whom in WHOM
    assert 10 < len(line) < 80
    assert len(about) > 80
    assert max(map(len, tool.text.expandtabs(4).splitlines())) <= 110
    assert ("stack" in tool.text.partition("BEGIN")[2] or "stack," in tool.text) == tool.stacks


def test_what_a_tool_hangs_on_is_stable() -> None:
    """Tracepoints, timers and what bpftrace itself fires: nothing that a kernel without kprobes lacks."""
    for tool in TOOLS.values():
        places = re.findall(r"^(\w+):\w", tool.text, re.M) or re.findall(r"^@kwire\.(\w+)\(", tool.text, re.M)
        assert places, tool.file
        assert set(places) <= {"tracepoint", "rawtracepoint", "profile"}, tool.file


@pytest.mark.live
def test_each_is_taken_by_the_verifier(capsys: pytest.CaptureFixture[str]) -> None:
    for tool in TOOLS.values():
        if tool.scripted:
            status = main(["--dry-run", tool.path])
            assert (status, capsys.readouterr().err) == (0, ""), tool.file
        else:
            with Recorder(make_plan(parse_file(tool.text, tool.path))):
                pass


CONNECTIONS = """
import socket, sys
server = socket.create_server(("127.0.0.1", 0), backlog=0)
clients = [socket.socket() for _ in range(3)]
for one in clients:
    one.setblocking(False)
    one.connect_ex(server.getsockname())
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9))
print(server.getsockname()[1], flush=True)
sys.stdin.read()
"""
"""A server that accepts nobody makes its third client send again; a packet finds no socket."""


@pytest.mark.live
@pytest.mark.guest  # they watch the whole machine
@pytest.mark.kernels("6.12")
def test_what_belongs_to_no_process_is_told() -> None:
    from kwire.tools.drops import drops
    from kwire.tools.retransmits import retransmits

    tcplife = kwire.bt(TOOLS["tcplife"].text, seconds=100)
    with kwire.trace(drops, retransmits, seconds=100) as events, tcplife as lives:
        command = [sys.executable, "-S", "-c", CONNECTIONS]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as child:
            seen = []
            for event in events:
                seen.append(event)
                if event.probe.startswith("tracepoint:tcp:"):
                    break
            port, _ = child.communicate("")
        told = []
        for line in lives:
            told.append(line.text.split())
            if told[-1][4:6] == ["127.0.0.1", port.strip()]:
                break
    again = seen[-1]
    assert (again.dport, again.state, again.destination) == (int(port), 2, "127.0.0.1")  # TCP_SYN_SENT
    [names] = (one.enums["skb_drop_reason"] for one in events.schemas if one.target == "skb:kfree_skb")
    assert "SKB_DROP_REASON_NO_SOCKET" in {names[one.reason] for one in seen if "reason" in one.fields}
    assert told[-1][:2] == [str(child.pid), Path(sys.executable).name[:15]]
