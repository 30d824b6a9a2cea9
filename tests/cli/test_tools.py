"""`kwire tools` on the command line: the list, the help, and tools beside what they are to see."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import PATIENCE

from kwire.tools import TOOLS, described

KWIRE = [sys.executable, "-m", "kwire.cli.main", "tools"]


def run(*words: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*KWIRE, *map(str, words)], capture_output=True, text=True, timeout=PATIENCE)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == status, done.stderr
    return done


def test_each_is_listed_with_a_line() -> None:
    lines = run().stdout.splitlines()
    assert [line.split()[0] for line in lines[: len(TOOLS)]] == list(TOOLS)
    assert all(15 < len(line) < 90 for line in lines[: len(TOOLS)])
    listed = [json.loads(line) for line in run("--json").stdout.splitlines()]
    assert [one["name"] for one in listed] == list(TOOLS)
    assert all(Path(one["file"]).is_file() for one in listed)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("opensnoop", "kwire: run tool opensnoop: it has another name here; see 'kwire tools opens'\n"),
        ("opensnoop.bt", "kwire: run tool opensnoop.bt: it has another name here; see 'kwire tools opens'\n"),
        ("ofcpu", "kwire: run tool ofcpu: there is none of this name; did you mean offcpu?\n"),
        ("zzz", "kwire: run tool zzz: there is none of this name; 'kwire tools' lists what there is\n"),
    ],
)
def test_an_unknown_name_is_told_what_is_there(name: str, told: str) -> None:
    assert run(name, status=1).stderr == told


@pytest.mark.parametrize("name", TOOLS)
def test_the_help_of_a_tool_is_its_own(name: str) -> None:
    tool, text = TOOLS[name], " ".join(run(name, "--help").stdout.split())
    line, about = described(tool.text)
    assert f"usage: kwire tools {name}" in text
    assert " ".join(f"{line}. {about}".split()) in text
    assert ("-p PID" in text) == (tool.whom != "nobody")
    assert ("--filter" in text) == (not tool.scripted)
    assert ("svg" in text) == tool.stacks
    assert all(f"{option} " in text for option in ("-c", "-d", "-w", "-H", "-f"))
    for option in re.findall(r'getopt\("(\w+)", [^,)]+, "', tool.text):
        assert f"--{option}" in text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["files", "--slow", "much"], "kwire: run --slow: 'much' is no number\n"),
        (["offcpu", "-p", "1,2"], "kwire: run tool: it is about one process, not 2; name one\n"),
    ],
)
def test_what_is_given_wrongly_is_told(words: list[str], told: str) -> None:
    assert run(*words, status=1).stderr == told


NETWORK = """
import socket
for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    server = socket.create_server((address, 0), family=family)
    client = socket.create_connection(server.getsockname()[:2])
    server.accept()[0].close()
"""
PYTHON = [sys.executable, "-S", "-c"]
FILES = ["dd", "if=/dev/zero", "of={}/x", "bs=1000", "count=3", "conv=fsync"]
NAPS = "import time\nfor _ in range(5): time.sleep(0.01)"
OLD_WAY = """
import ctypes, mmap
code = mmap.mmap(-1, 4096, prot=7)
code.write(bytes.fromhex("53 89f8 31db cd80 5b c3"))  # push rbx; eax = edi; ebx = 0; int 0x80; pop; ret
call = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
print(call(64), call(10))
# Numbers of 32-bit calls: 64 getppid, 10 unlink, which looks at ebx alone: nothing is at address 0.
"""
TURNS = "import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass"
BESIDE = [
    ("opens", ["cat", "/etc/hostname"], r"^\d+ +cat +\d+ +0 /etc/hostname$"),
    (
        "opens --failed",
        ["cat", "/etc/hostname", "/nowhere"],
        r"PATH\n(\d+ .* -1 +\d+ .*\n)+\d+ +cat +-1 +2 /nowhere$",
    ),
    ("files --slow 0", FILES, r"^\d+ +dd +write +1000 +\d+ x$(.|\n)*@us\[fsync\]:\n\["),
    (
        "connects",
        [*PYTHON, NETWORK],
        r"source=127\.0\.0\.1 destination=127\.0\.0\.1 dport=\d+\n.*destination=::1",
    ),
    ("connects --filter family==AF_INET6 -f json", [*PYTHON, NETWORK], r'\A.*"destination":"::1".*\n\Z'),
    ("accepts", [*PYTHON, NETWORK], r"client=127\.0\.0\.1 client_port=\d+\n.*client=::1 client_port"),
    (
        "syscalls",
        ["cat", "/nowhere"],
        r"@calls\[execve\]: 1\n(.|\n)*@errors\[openat, No such file or directory\]",
    ),
    ("syslat", [*PYTHON, NAPS], r"@us\[clock_nanosleep\]: \{ .count = 5, .average = \d{4,}, .total = \d+ \}"),
    ("syslat --histograms", [*PYTHON, NAPS], r"@histogram\[clock_nanosleep\]:\n\[\d+K, \d+K\) +\d"),
    ("runqlat", [*PYTHON, NAPS], r"\A\n\n@us:\n\["),
    ("runqlat --names", [*PYTHON, NAPS], r"@us_of\[python\S*\]:\n\["),
    ("oncpu", [*PYTHON, TURNS], r"@samples\[python\S*, \n"),
    ("oncpu -f folded", [*PYTHON, TURNS], r"\A(\S[^;\n]*(;[^;\n]+)* \d+\n)+\Z"),
    ("offcpu -f folded", [*PYTHON, NAPS], r"^python[^;]*;.*nanosleep.*;schedule;__schedule\S* \d{5,}$"),
    (
        "offcpu -f svg",
        [*PYTHON, NAPS],
        r"\A<svg (.|\n)*<title>schedule: [\d,]+, [\d.]+ %</title>(.|\n)*</svg>\n\Z",
    ),
]


@pytest.mark.live
@pytest.mark.native  # tests/tools asks each kernel
@pytest.mark.parametrize(("tool", "command", "expected"), BESIDE, ids=[one[0] for one in BESIDE])
def test_a_tool_tells_what_its_command_does(
    tool: str, command: list[str], expected: str, tmp_path: Path
) -> None:
    name, *options = tool.split()
    words = [word.replace("{}", str(tmp_path)) for word in command]
    done = run(name, *options, "--no-command-status", "--", *words)
    assert re.search(expected, done.stdout, re.M), (done.stdout, done.stderr)


@pytest.mark.live
@pytest.mark.native
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the calls are made in x86 instructions")
def test_calls_made_as_32_bit_programs_make_them_are_named_so() -> None:
    counted = run("syscalls", "--", *PYTHON, OLD_WAY).stdout
    assert "@calls[getppid (32-bit)]: 1\n" in counted
    assert "@calls[semget]" not in counted
    assert "@errors[unlink (32-bit), Bad address]: 1\n" in counted
    assert "@us[getppid (32-bit)]: { .count = 1, " in run("syslat", "--", *PYTHON, OLD_WAY).stdout


@pytest.mark.live
@pytest.mark.native
def test_what_looks_itself_tells_of_a_process_and_what_it_starts_until_it_ends() -> None:
    rename = "child or open('/proc/self/comm', 'w').write('napper')"
    naps = f"import os, sys\nsys.stdin.readline()\nchild = os.fork()\n{rename}\n{NAPS}\nchild and os.wait()"
    attached = "__BPFTRACE_NOTIFY_PROBES_ATTACHED"
    pipe = subprocess.PIPE
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(subprocess.Popen(["sh", "-c", "while sleep 0.01; do :; done"]))
        stack.callback(other.kill)
        napping = stack.enter_context(subprocess.Popen([*PYTHON, naps], stdin=pipe, text=True))
        command = [*KWIRE, "offcpu", "-f", "folded", "-p", str(napping.pid), "-d", "60"]
        environment = {**os.environ, attached: "1"}
        tool = stack.enter_context(subprocess.Popen(command, stdout=pipe, text=True, env=environment))
        assert tool.stdout is not None
        assert tool.stdout.readline() == f"{attached}\n"
        napping.communicate("\n")
        lines = tool.stdout.read().splitlines()
    both = {Path(sys.executable).name[:15], "napper"}
    assert {line.partition(";")[0] for line in lines} == both
    assert {line.partition(";")[0] for line in lines if "nanosleep" in line} == both


@pytest.mark.live
@pytest.mark.native
def test_what_a_tool_tells_is_kept_shown_again_and_asked(tmp_path: Path) -> None:
    file = tmp_path / "offcpu.pcapng"
    live = run("offcpu", "-w", file, "-f", "svg", "--", *PYTHON, NAPS)

    def kwire(*words: str | Path) -> str:
        done = subprocess.run(
            [*KWIRE[:-1], *map(str, words)], capture_output=True, text=True, timeout=PATIENCE
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert kwire("show", file, "-f", "svg") == live.stdout
    folded = kwire("show", file, "-f", "folded")
    assert "nanosleep" in folded
    assert "complete" in kwire("verify", file)
    row = json.loads(kwire("query", file, "--json", "SELECT sum(value) AS us FROM us"))
    assert row["us"] == sum(int(line.rpartition(" ")[2]) for line in folded.splitlines()) > 0
