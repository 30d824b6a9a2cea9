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
PARTS = 3
"""In which the tools are loaded, so that none takes long in an emulated machine."""


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
@pytest.mark.parametrize("part", range(PARTS))
def test_each_is_taken_by_the_verifier(part: int, capsys: pytest.CaptureFixture[str]) -> None:
    for tool in [*TOOLS.values()][part::PARTS]:
        if tool.scripted:
            status = main(["--dry-run", tool.path])
            assert (status, capsys.readouterr().err) == (0, ""), tool.file
        else:
            with Recorder(make_plan(parse_file(tool.text, tool.path))):
                pass


CONNECTIONS = """
import socket, sys
sys.stdin.readline()
server = socket.create_server(("127.0.0.1", 0))
clients = [socket.create_connection(server.getsockname()) for _ in range(2)]
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9))
for client in clients:
    client.sendall(bytes(5000))
    client.close()
print(server.getsockname()[1], flush=True)
"""


@pytest.mark.live
@pytest.mark.native  # the kernels were asked above
def test_connections_that_end_and_packets_that_find_nobody_are_told() -> None:
    """What hangs on no process is told of this one's, whose packets stay in it: they go by loopback."""
    from kwire.tools.drops import drops

    pipe = subprocess.PIPE
    command = [sys.executable, "-S", "-c", CONNECTIONS]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as child:
        tcplife = kwire.bt(TOOLS["tcplife"].text, pid=child.pid, seconds=60)
        with kwire.trace(drops, pid=child.pid, seconds=60) as dropped, tcplife as lives:
            port = child.communicate("\n")[0].strip()
            [names] = (one.enums["skb_drop_reason"] for one in dropped.schemas)
            assert "SKB_DROP_REASON_NO_SOCKET" in {names[event.reason] for event in dropped}
            lines = [line.text.split() for line in lives]
    begun = [one for one in lines if one[:2] == [str(child.pid), Path(sys.executable).name[:15]]]
    assert [one[5:7] for one in begun if one[5] == port] == [[port, "4"]] * 2
    assert len([one for one in lines if port in one[2:4]]) == 2
