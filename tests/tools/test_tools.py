"""The tools that come with kwire: what they say of themselves, and what the kernels say of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kwire
import kwire.tools
from kwire.cli.main import main
from kwire.lang.python import parse_file
from kwire.live.bench import Bench
from kwire.live.planner import make_plan
from kwire.live.recorder import Recorder
from kwire.tools import TOOLS, WHOM, described
from kwire.wire.names import COMPAT

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


# --- in kwire's own machine: what is kept of threads and processes goes with them


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def entered(call: str, name: str) -> str:
    return f"tracepoint:{'raw_syscalls' if not name else 'syscalls'}:sys_{call}{name and '_' + name}"


@pytest.mark.parametrize(
    ("tool", "map", "name", "given"),
    [
        ("syslat", "@call", "", {"id": 60}),
        ("opens", "@path", "openat", {"filename": 4096}),
        ("files", "@start", "read", {"fd": 3}),
    ],
)
def test_a_call_that_never_returns_is_forgotten_with_its_thread(
    tool: str, map: str, name: str, given: dict[str, Any], bench: Bench
) -> None:
    """Otherwise every thread that ends keeps a key, until there is room for none."""
    script = bench.bt(TOOLS[tool].text)
    inode = bench.struct("struct inode", {"i_mode": 0o100644})
    file = bench.struct("struct file", {"f_inode": inode})
    table = bench.memory.kernel(bytes(24) + file.to_bytes(8, "little"))
    files = bench.struct("struct files_struct", {"fdt": bench.struct("struct fdtable", {"fd": table})})
    bench.set(pid=42, tid=43, task=bench.struct("struct task_struct", {"files": files}))
    script.fire(entered("enter", name), **given)
    assert [key for key, _ in script.maps[map].items()] == [43]
    script.fire("tracepoint:sched:sched_process_exit")
    assert not any(len(one) for one in script.maps.values())


def test_calls_are_named_by_how_they_are_entered(bench: Bench) -> None:
    """The return from a signal's handler says -1, and what is in the register is no error."""
    handler, openat = 15, 257
    counted, timed = bench.bt(TOOLS["syscalls"].text), bench.bt(TOOLS["syslat"].text)
    for script in (counted, timed):
        script.fire("tracepoint:raw_syscalls:sys_enter", id=handler)
        script.fire("tracepoint:raw_syscalls:sys_exit", id=-1, ret=-5)
        script.fire("tracepoint:raw_syscalls:sys_exit", id=openat, ret=-2)
    assert counted.maps["@calls"].items() == [(handler, 1)]
    assert counted.maps["@errors"].items() == [((openat, 2), 1)]
    assert [key for key, _ in timed.maps["@us"].items()] == [handler]


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="other machines tell it elsewhere")
def test_calls_of_32_bit_programs_have_names_of_their_own(bench: Bench) -> None:
    """The number of getppid there is that of semget elsewhere."""
    number, compat = 64, 2  # TS_COMPAT
    counted, timed = bench.bt(TOOLS["syscalls"].text), bench.bt(TOOLS["syslat"].text)
    for status in (0, compat):
        bench.set(pid=42, tid=43, task=bench.struct("struct task_struct", {"thread_info.status": status}))
        for script in (counted, timed):
            script.fire("tracepoint:raw_syscalls:sys_enter", id=number)
            script.fire("tracepoint:raw_syscalls:sys_exit", id=number, ret=-2)
    for one in (counted.maps["@calls"], timed.maps["@us"]):
        assert [key for key, _ in one.items()] == [number, COMPAT | number]
    assert counted.maps["@errors"].items() == [((number, 2), 1), ((COMPAT | number, 2), 1)]


@pytest.mark.parametrize("tool", ["runqlat", "offcpu"])
def test_chosen_processes_are_known_in_every_namespace_and_forgotten(tool: str, bench: Bench) -> None:
    """`pid` is as our namespace has it, fork and exit tell the kernel's."""

    def task(process: int, thread: int = 0) -> int:
        return bench.struct("struct task_struct", {"tgid": process, "pid": thread or process})

    script = bench.bt(TOOLS[tool].text, parameters={"pid": 7})
    bench.set(pid=1, tid=1, task=task(1001))  # kwire itself
    script.fire("begin")
    assert script.maps["@chosen"].items() == []  # the kernel's 7 is another
    asked, child, thread = task(1007), task(1008), task(1008, 1009)
    bench.set(pid=7, tid=7, task=asked)
    for one in (child, thread):
        script.fire("rawtracepoint:sched_process_fork", parent=asked, child=one)
    assert [key for key, _ in script.maps["@chosen"].items()] == [1008]
    script.fire("rawtracepoint:sched_process_free", p=thread)
    assert [key for key, _ in script.maps["@chosen"].items()] == [1008]
    script.fire("rawtracepoint:sched_process_free", p=child)
    assert script.maps["@chosen"].items() == []


@pytest.mark.parametrize(("state", "kept"), [(1, [1007]), (0x80, [])])
def test_a_thread_that_is_dead_does_not_wait(state: int, kept: list[int], bench: Bench) -> None:
    script = bench.bt(TOOLS["offcpu"].text, parameters={"pid": 7})
    gone = {"tgid": 1007, "pid": 1007, "__state": state}
    bench.set(pid=7, tid=7, task=bench.struct("struct task_struct", gone))
    script.fire("tracepoint:sched:sched_switch", prev_pid=1007, next_pid=1)
    assert [key for key, _ in script.maps["@since"].items()] == kept


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
