"""`kwire show`: tables and JSON of captures, choices, notes on standard error, quiet ends."""

from __future__ import annotations

import json
import os
import pty
import struct
import subprocess
import sys
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest

from kwire.capture.writer import Writer
from kwire.cli.main import main
from kwire.wire.frames import Frames
from kwire.wire.messages import Cause, Lost
from kwire.wire.schema import Clock, Field, Schema

WALL = 1_700_000_000_000_000_000
FIELDS = (Field("pid", "u32", 16, 4), Field("port", "u16", 20, 2), Field("cpu", "u16", 22, 2))
SCHEMAS = [
    Schema(1, "kprobe:tcp_connect(port)", "kprobe", "tcp_connect", FIELDS, 24, clock=Clock("b", 0, WALL)),
    Schema(2, "tracepoint:sock:close", "tracepoint", "sock:close", FIELDS, 24, clock=Clock("b", 0, WALL)),
]


def frames(*events: tuple[int, int, int]) -> Frames:
    """EVENTs (probe, time, port)."""
    data = b"".join(
        struct.pack(">BBHI", 0x11, 0, 24, probe) + struct.pack("<QIHH", time, 7, port, 1)
        for probe, time, port in events
    )
    return Frames(data, array("Q", range(0, len(data), 24)))


@pytest.fixture
def capture(tmp_path: Path) -> str:
    path = str(tmp_path / "a.pcapng")
    with Writer(path, SCHEMAS) as out:
        out.write(frames((1, 30, 80), (2, 10, 443), (1, 20, 22), (1, 40, 8080)))
    return path


Run = Callable[..., tuple[int, list[str], str]]


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> tuple[int, list[str], str]:
        status = main(["show", *arguments])
        out, err = capsys.readouterr()
        return status, out.splitlines(), err

    return run


def test_a_capture_is_shown_as_a_table_in_order_of_time(capture: str, show: Run) -> None:
    status, lines, err = show(capture)
    assert (status, err) == (0, "")
    assert lines[0].split() == ["TIME", "CPU", "PID", "PROBE", "FIELDS"]
    assert lines[1].startswith("-- 2023-11-1")
    assert [line.split()[1:] for line in lines[2:]] == [
        ["1", "7", "close", "port=443"],
        ["1", "7", "tcp_connect", "port=22"],
        ["1", "7", "tcp_connect", "port=80"],
        ["1", "7", "tcp_connect", "port=8080"],
    ]


def test_json_is_one_object_an_event(capture: str, show: Run) -> None:
    status, lines, err = show(capture, "--json")
    assert (status, err) == (0, "")
    assert json.loads(lines[0]) == {
        "time_ns": WALL + 10,
        "probe": "tracepoint:sock:close",
        "cpu": 1,
        "pid": 7,
        "comm": None,
        "fields": {"port": 443},
    }
    assert len(lines) == 4


@pytest.mark.parametrize(
    ("arguments", "ports"),
    [
        (["--probe", "kprobe:*"], [22, 80, 8080]),
        (["--probe", "kprobe:tcp_connect"], [22, 80, 8080]),
        (["--probe", "sock:close"], [443]),
        (["--where", "port < 100"], [22, 80]),
        (["--where", "port < 100", "--probe", "*close"], []),
        (["--head", "2"], [443, 22]),
        (["--head", "0"], []),
        (["--head", "9"], [443, 22, 80, 8080]),
        (["--where", "port > 50", "--head", "2"], [443, 80]),
        (["--tail", "1"], [8080]),
        (["--tail", "2", "--where", "port < 1000"], [22, 80]),
        (["--tail", "9"], [443, 22, 80, 8080]),
    ],
)
def test_events_are_chosen(capture: str, show: Run, arguments: list[str], ports: list[int]) -> None:
    status, lines, err = show(capture, "--json", *arguments)
    assert (status, err) == (0, "")
    assert [json.loads(line)["fields"]["port"] for line in lines] == ports


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["--probe", "nosuch*"],
            "no probe matches 'nosuch*'; there are: kprobe:tcp_connect(port), tracepoint",
        ),
        (["--where", "prot == 1"], "did you mean port"),
        (["--where", "port =="], "--where"),
    ],
)
def test_mistakes_are_one_line_and_no_table(capture: str, show: Run, arguments: list[str], says: str) -> None:
    status, lines, err = show(capture, *arguments)
    assert (status, lines) == (1, [])
    assert err.startswith("kwire: ")
    assert err.count("\n") == 1
    assert says in err


@pytest.mark.parametrize("arguments", [["--probe", "none"], ["--where", "none == 1"], []])
def test_names_of_a_hostile_file_cannot_touch_the_terminal(
    tmp_path: Path, show: Run, arguments: list[str]
) -> None:
    path = str(tmp_path / "a.pcapng")
    fields = (Field("\x1b[2J", "u32", 16, 4),)
    with Writer(path, [SCHEMAS[0]._replace(probe="\x1b]0;x\x07", fields=fields)]) as out:
        out.write(frames((1, 30, 80)))
    _, lines, err = show(path, *arguments)
    assert all(line.isprintable() for line in [*lines, *err.splitlines()])
    assert "\\e" in "".join([*lines, err])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"not a capture at all", "not a pcapng file"),
        (b"\xd4\xc3\xb2\xa1" + bytes(20), "pcap of version 0.0"),
        (b"\xa1\xb2\xcd\x34" + bytes(20), "Kuznetsov"),
    ],
)
def test_another_file_is_one_line(tmp_path: Path, show: Run, data: bytes, says: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(data)
    status, lines, err = show(str(path))
    assert (status, lines, err.count("\n")) == (1, [], 1)
    assert says in err
    assert show(str(tmp_path / "none"))[2] == f"kwire: open {tmp_path / 'none'}: No such file or directory\n"


def test_a_capture_cut_at_any_byte_shows_all_before_and_says_so(
    capture: str, tmp_path: Path, show: Run
) -> None:
    data = Path(capture).read_bytes()
    ends, at, count = {}, 0, 0
    while at < len(data):
        type, total = struct.unpack_from("=II", data, at)
        count += type == 6 and data[at + 28] == 0x11
        at += total
        ends[at] = count
    path = tmp_path / "cut.pcapng"
    count = 0
    for size in range(len(data) + 1):
        count = ends.get(size, count)
        path.write_bytes(data[:size])
        status, lines, err = show(str(path), "--json")
        assert (status, len(lines)) == (0 if size in ends else 3, count), size
        if size not in ends:
            assert f"cut at byte {size}: " in err if size else "empty" in err, size
            assert err.count("\n") == 1


def test_losses_are_in_the_table_not_in_json_and_on_standard_error(tmp_path: Path, show: Run) -> None:
    path = str(tmp_path / "a.pcapng")
    with Writer(path, SCHEMAS) as out:
        out.write(frames((1, 30, 80)))
        out.lost([Lost(1, 31, 35, 99, 0, Cause.RING_FULL)])
    status, lines, err = show(path)
    assert lines[-1].endswith("LOST 99 events of kprobe:tcp_connect on CPU 0: the ring buffer was full")
    assert err == f"kwire: {path}: 99 events are lost; 'kwire verify' names the holes\n"
    status, lines, again = show(path, "--json")
    assert (status, len(lines), again) == (3, 1, err)


def test_a_recorder_that_was_killed_is_noticed(tmp_path: Path, show: Run) -> None:
    path = str(tmp_path / "a.pcapng")
    out = Writer(path, SCHEMAS)
    out.write(frames((1, 30, 80)))
    out.flush()
    status, lines, err = show(path, "--json")
    out.close()
    assert (status, len(lines)) == (0, 1)
    assert "its recorder was killed, or is still recording" in err


def kwire(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "kwire.cli.main", *arguments]


def test_standard_input_is_shown_as_it_comes(capture: str) -> None:
    data = Path(capture).read_bytes()
    with subprocess.Popen(
        kwire("show", "-", "--json"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(data[:-200])  # the statistics are still to come
        lines = os.read(process.stdout.fileno(), 1 << 16).splitlines()
        assert len(lines) == 4
        process.stdin.write(data[-200:])
        process.stdin.close()
        assert process.wait() == 0


def test_a_reader_that_goes_away_ends_it_quietly(tmp_path: Path) -> None:
    path = str(tmp_path / "a.pcapng")
    with Writer(path, SCHEMAS) as out:
        for _ in range(20):
            out.write(frames(*[(1, time, 80) for time in range(5000)]))
    process = subprocess.Popen(kwire("show", path), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141  # 128 and SIGPIPE: what it has to say is more than a pipe holds


def test_a_terminal_gets_colours_unless_they_are_not_wanted(capture: str) -> None:
    outputs = []
    for extra in ({}, {"NO_COLOR": "1"}):
        leader, terminal = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", **extra}
        if not extra:
            environment.pop("NO_COLOR", None)
        subprocess.run(kwire("show", capture), stdout=terminal, env=environment, check=True)
        os.close(terminal)
        outputs.append(os.read(leader, 1 << 16))
        os.close(leader)
    assert b"\x1b[1mTIME" in outputs[0]
    assert b"\x1b" not in outputs[1]
    assert b"TIME" in outputs[1]
