"""Wireshark's own tools read what is written, without complaint, and see the same."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kwire.capture.writer import Writer
from kwire.wire.messages import Cause, Lost

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(not (shutil.which("tshark") and shutil.which("capinfos")), reason="no tshark here"),
]


def tool(*command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    complaints = [line for line in done.stderr.splitlines() if not line.startswith("Running as user")]
    assert (done.returncode, complaints) == (0, [])
    return done.stdout


def fields(path: Path, *names: str, only: str = "") -> list[list[str]]:
    command: list[str | Path] = ["tshark", "-r", path, "-T", "fields", "-E", "separator=/t"]
    for name in names:
        command += ["-e", name]
    lines = tool(*command, *(["-Y", only] if only else [])).splitlines()
    return [line.split("\t") for line in lines]


@pytest.fixture
def capture(kit: Any, tmp_path: Path) -> Path:
    path = tmp_path / "a.pcapng"
    schemas = [kit.schema(1, "tracepoint:sched:tick"), kit.schema(2, "kprobe:tcp_connect(sk)")]
    out = Writer(str(path), schemas, host="box", kernel="6.1.0-13-amd64", tool="kwire 9.9")
    out.write(kit.frames(*[kit.event(1, kit.monotonic + n, b"x" * n) for n in range(9)], gap=8))
    out.lost([Lost(2, kit.monotonic + 20, kit.monotonic + 30, 123456, 1, Cause.RING_FULL)])
    out.write(kit.frames(kit.event(2, kit.monotonic + 123456789), kit.event(2, kit.monotonic + 123456790)))
    out.close({1: 9, 2: 123458})
    return path


def test_times_lengths_names_and_bytes_agree(kit: Any, capture: Path) -> None:
    seen = fields(
        capture, "frame.interface_name", "frame.time_epoch", "frame.len", "frame.cap_len", "data.data"
    )
    schemas = [kit.schema(1, "tracepoint:sched:tick"), kit.schema(2, "kprobe:tcp_connect(sk)")]
    expected = [(schema.probe, kit.wall, schema.frames()[0]) for schema in schemas]
    expected += [
        (schemas[0].probe, kit.wall + n, kit.event(1, kit.monotonic + n, b"x" * n)) for n in range(9)
    ]
    lost = Lost(2, kit.monotonic + 20, kit.monotonic + 30, 123456, 1, Cause.RING_FULL).frame()
    expected.append((schemas[1].probe, kit.wall + 30, lost))
    for n in (123456789, 123456790):
        expected.append((schemas[1].probe, kit.wall + n, kit.event(2, kit.monotonic + n)))
    assert seen == [
        [probe, f"{time // 10**9}.{time % 10**9:09d}", str(len(frame)), str(len(frame)), frame.hex()]
        for probe, time, frame in expected
    ]


def test_what_was_lost_stands_at_the_packet_after_the_hole(capture: Path) -> None:
    seen = fields(capture, "frame.number", "frame.drop_count", only="frame.drop_count")
    assert seen == [["13", "123456"]]


def test_capinfos_finds_host_kernel_tool_and_interfaces(capture: Path) -> None:
    text = tool("capinfos", "-M", capture)
    for line in (
        "Number of packets:   14",
        "File encapsulation:  user0",
        "File timestamp precision:  nanoseconds (9)",
        "Capture oper-sys:    Linux 6.1.0-13-amd64",
        "Capture application: kwire 9.9",
        "Number of interfaces in file: 2",
        "Name = tracepoint:sched:tick",
        "Description = kprobe tcp_connect(sk), probe 2",
        "Number of stat entries = 1",
    ):
        assert line in text, line
    assert "Capture hardware:    box (" in text


def test_empty_and_rotated_captures_are_read(kit: Any, tmp_path: Path) -> None:
    Writer(str(tmp_path / "empty.pcapng"), [kit.schema()]).close()
    assert len(fields(tmp_path / "empty.pcapng", "frame.number")) == 1
    out = Writer(str(tmp_path / "r.pcapng"), [kit.schema()], rotate_bytes=300_000)
    frames = kit.frames(*[kit.event(1, kit.monotonic + n) for n in range(1000)])
    for _ in range(9):
        out.write(frames)
        out.flush()
    out.close()
    assert len(out.files) > 1
    assert sum(len(fields(Path(path), "frame.number")) for path in out.files) == 9000 + len(out.files)


@pytest.mark.parametrize("order", ["little", "big"])
def test_the_builder_of_the_tests_makes_what_wireshark_reads(kit: Any, tmp_path: Path, order: str) -> None:
    path = tmp_path / "b.pcapng"
    path.write_bytes(kit.builder(order).capture(kit.schema(order=order), kit.event(order=order)).data)
    assert [row[0] for row in fields(path, "frame.interface_name")] == ["tracepoint:sched:tick"] * 2
