"""A full disk: every event that could not be written is counted, and the file stays whole."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from verified import verify_file

from kwire.capture.accounts import Totals
from kwire.capture.output import CaptureError
from kwire.capture.reader import Capture
from kwire.capture.verify import verify_set
from kwire.capture.writer import Writer
from kwire.wire.messages import Cause, Lost

PRELUDE = """
import ctypes, os, resource, shutil, sys
sys.path.insert(0, sys.argv[2])
from conftest import Kit
from kwire.capture import output, writer
from kwire.capture.writer import Writer
from kwire.wire.messages import Cause, Lost
kit = Kit()
target, work = sys.argv[1], sys.argv[3]
frames = kit.frames(*(kit.event(1, kit.monotonic + n) for n in range(1000)), gap=8)

def tmpfs(size):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x20000):
        sys.exit(77)
    libc.mount(None, b"/", None, 0x44000, None)  # private, recursive
    if libc.mount(b"tmpfs", work.encode(), b"tmpfs", 0, f"size={size}".encode()):
        sys.exit(77)
"""


def run(program: str, tmp_path: Path) -> Path:
    """Run in a process of its own, which may mount and limit itself; gives the capture it copied out."""
    target, work = tmp_path / "out.pcapng", tmp_path / "work"
    work.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(program), target, Path(__file__).parent, work],
        capture_output=True,
        text=True,
    )
    if done.returncode == 77:
        pytest.skip("a file system cannot be mounted here")
    assert done.returncode == 0, done.stderr
    return target


def balance(path: Path, produced: int) -> tuple[int, int]:
    """(stored, lost) of a capture that must be sound and account for everything."""
    report = verify_file(str(path))
    assert report.problems == []
    assert report.totals.produced == produced
    assert report.totals.stored + report.totals.lost == produced
    return report.totals.stored, report.totals.lost


ALLOCATES = "output._allocate = output._allocate"
REFUSES = "output._allocate = lambda *_: 95  # EOPNOTSUPP: a file system without fallocate"


@pytest.mark.parametrize("allocate", [ALLOCATES, REFUSES], ids=["fallocate", "zeros"])
def test_what_does_not_fit_is_counted_and_the_ending_fits(tmp_path: Path, allocate: str) -> None:
    path = run(
        f"""
        {allocate}
        tmpfs(1 << 20)
        out = Writer(work + "/a.pcapng", [kit.schema(1), kit.schema(2)])
        for turn in range(50):
            out.write(frames)
            out.flush()
        out.lost([Lost(1, 5, 6, 11, 0, Cause.RING_FULL)])
        assert os.statvfs(work).f_bavail * 4096 < 1 << 19
        totals = out.close({{1: 50011, 2: 0}})
        assert totals[1].stored + totals[1].lost == 50011, totals
        shutil.copy(work + "/a.pcapng", target)
        """,
        tmp_path,
    )
    stored, lost = balance(path, 50011)
    assert 6000 < stored < 15000
    report = verify_file(str(path))
    causes = {hole.cause: hole.count for hole in report.holes}
    assert causes == {"the receiver's disk was full": lost - 11, "the ring buffer was full": 11}


@pytest.mark.parametrize("allocate", [ALLOCATES, REFUSES], ids=["fallocate", "zeros"])
def test_writing_goes_on_when_there_is_room_again(tmp_path: Path, allocate: str) -> None:
    path = run(
        f"""
        {allocate}
        tmpfs(2 << 20)
        with open(work + "/ballast", "wb") as ballast:
            ballast.write(bytes(3 << 19))
        out = Writer(work + "/a.pcapng", [kit.schema(1)])
        for turn in range(20):
            out.write(frames)
            out.flush()
        before = out.events
        assert before < 20000
        os.unlink(work + "/ballast")
        out.write(frames)
        out.flush()
        assert out.events == before + 1000
        out.close({{1: 21000}})
        shutil.copy(work + "/a.pcapng", target)
        """,
        tmp_path,
    )
    _, lost = balance(path, 21000)
    with Capture(str(path)) as capture:
        order = []
        for chunk in capture:
            for index in range(len(chunk)):
                header = chunk.header(index)
                if header.type == 7:
                    loss = Lost.read(chunk.frame(index))
                    assert loss.cause == Cause.DISK_FULL
                    assert (loss.count, loss.cpu) == (lost, 0xFFFF)
                order.append(header.type)
    assert order.count(7) == 1
    assert order[-1001:] == [7] + [1] * 1000  # the hole is where the events are missing


def test_a_size_limit_is_a_full_disk(tmp_path: Path) -> None:
    path = run(
        """
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        out = Writer(target, [kit.schema(1)])
        for turn in range(50):
            out.write(frames)
        out.close({1: 50000})
        """,
        tmp_path,
    )
    stored, _ = balance(path, 50000)
    assert path.stat().st_size <= 1 << 20
    assert stored > 5000


def test_rotation_waits_for_room(tmp_path: Path) -> None:
    path = run(
        """
        tmpfs(1 << 20)
        now = [0.0]
        writer.time.monotonic = lambda: now[0]
        out = Writer(work + "/a.pcapng", [kit.schema(1)], rotate_seconds=60)
        out.write(frames)
        out.flush()
        with open(work + "/ballast", "wb") as ballast:
            try:
                ballast.write(bytes(1 << 20))
            except OSError:
                pass
        now[0] = 61
        for turn in range(10):
            out.write(frames)
            out.flush()
        assert sorted(os.listdir(work)) == ["a-0001.pcapng", "ballast"]
        os.unlink(work + "/ballast")
        out.write(frames)
        out.close({1: 12000})
        assert out.files == [work + "/a-0001.pcapng", work + "/a-0002.pcapng"], out.files
        shutil.copy(out.files[0], target)
        shutil.copy(out.files[1], target + "2")
        """,
        tmp_path,
    )
    reports = [verify_file(str(path)), verify_file(f"{path}2")]
    assert [report.problems for report in reports] == [[], []]
    assert verify_set(reports) == []
    stored = [report.totals.stored for report in reports]
    assert sum(stored) + sum(report.totals.lost for report in reports) == 12000
    assert stored[0] >= 1000
    assert stored[1] == 1000


def test_a_disk_with_no_room_at_all_is_an_error(tmp_path: Path) -> None:
    run(
        """
        from kwire.capture.output import CaptureError
        tmpfs(1 << 14)
        with open(work + "/ballast", "wb") as ballast:
            ballast.write(bytes(3 << 12))
        try:
            Writer(work + "/a.pcapng", [kit.schema(1)])
        except CaptureError as error:
            assert "no room for its beginning" in str(error), error
            assert os.listdir(work) == ["ballast"]
        else:
            raise AssertionError("no error")
        """,
        tmp_path,
    )


class Faulty:
    """pwrite as a disk that fills up after so many bytes, in the middle of a block."""

    def __init__(self, room: int) -> None:
        self.room = room

    def __call__(self, fd: int, data: memoryview | bytes, offset: int) -> int:
        if offset >= self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return (
            os.writev(fd, [memoryview(data)[: self.room - offset]]) if False else self.put(fd, data, offset)
        )

    def put(self, fd: int, data: memoryview | bytes, offset: int) -> int:
        return REAL_PWRITE(fd, memoryview(data)[: self.room - offset], offset)


REAL_PWRITE = os.pwrite


@pytest.mark.parametrize("room", [20000, 20001, 20033, 33333, 65536])
def test_a_disk_that_breaks_its_promise_leaves_whole_blocks(
    kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    path = tmp_path / "a.pcapng"
    frames = kit.frames(*(kit.event(1, kit.monotonic + n) for n in range(2000)))
    out = Writer(str(path), [kit.schema(1)])
    out.lost([Lost(1, 1, 2, 3, 0, Cause.RING_FULL)])
    disk = Faulty(room)
    monkeypatch.setattr(os, "pwrite", disk)
    out.write(frames)
    out.flush()
    disk.room = 1 << 40
    assert out.close({1: 2003}).keys() == {1}
    stored, _ = balance(path, 2003)
    assert 100 < stored < 2000


def test_other_failures_are_errors_and_what_is_whole_stays(
    kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pcapng"
    out = Writer(str(path), [kit.schema(1)])
    out.write(kit.frames(kit.event()))
    out.flush()

    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pwrite", broken)
    out.write(kit.frames(kit.event()))
    with pytest.raises(CaptureError, match="Input/output error"):
        out.flush()
    with pytest.raises(CaptureError, match="Input/output error"):
        out.close()
    monkeypatch.undo()
    with Capture(str(path)) as capture:
        assert sum(len(chunk) for chunk in capture) == 1
        assert capture.problem is None


def test_an_interrupted_write_is_done_again(
    kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pcapng"
    out = Writer(str(path), [kit.schema(1)])

    def interrupted(fd: int, data: memoryview, offset: int) -> int:
        REAL_PWRITE(fd, data[:50], offset)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "pwrite", interrupted)
    out.write(kit.frames(kit.event(), kit.event()))
    with pytest.raises(KeyboardInterrupt):
        out.flush()
    monkeypatch.undo()
    assert out.close({1: 2}) == {1: Totals(2, 2, 0)}
    assert balance(path, 2) == (2, 0)
