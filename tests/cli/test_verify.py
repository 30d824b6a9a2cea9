"""`kwire verify`: verdict, balance, holes, exit status."""

from __future__ import annotations

import json
import struct
import time
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest

from kwire.capture.writer import Writer
from kwire.cli.main import main
from kwire.wire.frames import Frames
from kwire.wire.messages import Cause, Lost
from kwire.wire.schema import Clock, Schema

WALL = 1_700_000_000_000_000_000
SCHEMA = Schema(1, "kprobe:f", "kprobe", "f", (), 16, clock=Clock("monotonic", 0, WALL))
EVENT = struct.pack(">BBHI", 0x11, 0, 16, 1) + bytes(8)
FRAMES = Frames(EVENT * 1000, array("Q", range(0, 16000, 16)))


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def record(path: Path, *losses: Lost, produced: int = 1000, rotate: int = 0) -> list[str]:
    out = Writer(str(path), [SCHEMA], rotate_bytes=rotate)
    for _ in range(produced // 1000):
        out.write(FRAMES)
        out.flush()
    out.lost(losses)
    out.close({1: produced})
    return out.files


def test_a_complete_capture_is_one_line_and_status_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = record(tmp_path / "a.pcapng")
    assert main(["verify", path]) == 0
    assert capsys.readouterr().out == f"{path}: complete: 1,000 events produced, 1,000 stored, 0 lost\n"


def test_every_hole_is_named_with_status_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    losses = (
        Lost(1, 5_000, 9_000, 20, 2, Cause.RING_FULL),
        Lost(1, 9_500, 9_500, 1, cause=Cause.DISK_FULL),
        Lost(1, 0, 0, 4, cause=Cause.MISSED),
    )
    (path,) = record(tmp_path / "a.pcapng", *losses, produced=1025)
    assert main(["verify", path]) == 3
    assert capsys.readouterr().out.splitlines() == [
        f"{path}: INCOMPLETE: 1,025 events produced, 1,000 stored, 25 lost",
        "      PRODUCED       STORED         LOST  PROBE",
        "         1,025        1,000           25  kprobe:f",
        "  hole: 2023-11-14 22:13:20.000005000+00:00 to 22:13:20.000009000, CPU 2: 20 events of kprobe:f: "
        "the ring buffer was full",
        "  hole: 2023-11-14 22:13:20.000009500+00:00: 1 event of kprobe:f: the receiver's disk was full",
        "  hole: at an unknown time: 4 events of kprobe:f: the kernel did not run the program",
    ]


def test_a_cut_capture_is_status_3_and_no_capture_is_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = record(tmp_path / "a.pcapng")
    data = Path(path).read_bytes()
    (tmp_path / "cut").write_bytes(data[:-1])
    assert main(["verify", str(tmp_path / "cut")]) == 3
    out = capsys.readouterr().out
    assert "INCOMPLETE: at least 1,000 events produced, 1,000 stored, 0 lost" in out
    assert f"problem: cut at byte {len(data) - 1}" in out
    (tmp_path / "empty").write_bytes(b"")
    assert main(["verify", str(tmp_path / "empty")]) == 3
    (tmp_path / "text").write_bytes(b"hello, world")
    assert main(["verify", path, str(tmp_path / "text"), str(tmp_path / "none")]) == 1
    out, err = capsys.readouterr()
    assert "complete" in out
    assert err.count("\n") == 2
    assert "not a pcapng file" in err
    assert "No such file" in err


def test_a_rotation_is_verified_as_a_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = record(tmp_path / "r.pcapng", produced=20000, rotate=300_000)
    assert len(files) > 2
    assert main(["verify", *files]) == 0
    capsys.readouterr()
    assert main(["verify", *files[:1], *files[2:]]) == 3
    assert f"file 2 of the rotation that {files[0]} belongs to is missing" in capsys.readouterr().out


def test_json_has_it_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = record(tmp_path / "a.pcapng", Lost(1, 5, 9, 20, 2, Cause.RING_FULL), produced=1025)
    (tmp_path / "text").write_bytes(b"hello, world")
    assert main(["verify", "--json", path, str(tmp_path / "text")]) == 3
    value = json.loads(capsys.readouterr().out)
    assert value["complete"] is False
    assert value["problems"] == []
    assert value["unreadable"][0]["file"] == str(tmp_path / "text")
    assert value["files"] == [
        {
            "file": path,
            "complete": False,
            "produced": 1025,
            "stored": 1000,
            "lost": 20,
            "probes": [
                {"probe": "kprobe:f", "number": 1, "produced": 1025, "stored": 1000, "lost": 20, "probes": []}
            ],
            "holes": [
                {
                    "probe": "kprobe:f",
                    "first": WALL + 5,
                    "last": WALL + 9,
                    "cpu": 2,
                    "count": 20,
                    "cause": "the ring buffer was full",
                    "probes": [],
                }
            ],
            "problems": ["kprobe:f: 1,025 events produced, 1,000 stored and 20 counted lost: 5 are missing"],
        }
    ]
