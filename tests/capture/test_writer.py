"""Writing captures: what stands where, losses at their place, rotation, targets of every kind."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from kwire.capture import walk
from kwire.capture.accounts import Totals
from kwire.capture.output import CaptureError
from kwire.capture.reader import Capture
from kwire.capture.writer import Writer
from kwire.wire.frame import read_strict
from kwire.wire.messages import Cause, Lost


class Block(NamedTuple):
    type: int
    body: bytes


def blocks(data: bytes) -> list[Block]:
    """All blocks, read apart from the reader; fails where the file is not whole blocks."""
    found, at = [], 0
    while at < len(data):
        type, total = struct.unpack_from("=II", data, at)
        assert total % 4 == 0
        assert struct.unpack_from("=I", data, at + total - 4) == (total,)
        found.append(Block(type, data[at + 8 : at + total - 4]))
        at += total
    assert at == len(data)
    return found


def options(data: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at < len(data):
        code, size = struct.unpack_from("=HH", data, at)
        if not code:
            break
        found[code] = data[at + 4 : at + 4 + size]
        at += 4 + size + -size % 4
    return found


def frame_of(block: Block) -> bytes:
    captured = struct.unpack_from("=I", block.body, 12)[0]
    return block.body[20 : 20 + captured]


def packet_options(block: Block) -> dict[int, bytes]:
    captured = struct.unpack_from("=I", block.body, 12)[0]
    return options(block.body[20 + captured + -captured % 4 :])


def counters(block: Block) -> tuple[int, ...]:
    found = options(block.body[12:])
    return tuple(int.from_bytes(found[code], sys.byteorder) for code in (4, 5, 8))


@pytest.fixture(params=["native", "twin"])
def packer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "twin":
        monkeypatch.setattr(walk, "epb_pack", walk.epb_pack_twin)
        monkeypatch.setattr(walk, "pcapng_walk", walk.pcapng_walk_twin)
        monkeypatch.setattr(walk, "count_by_id", walk.count_by_id_twin)


@pytest.mark.usefixtures("packer")
def test_a_file_has_everything_in_its_place(kit: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    schemas = [kit.schema(1, "tracepoint:a:b"), kit.schema(2, "kprobe:f(x)")]
    events = [kit.event(1, kit.monotonic + 5), kit.event(2, kit.monotonic + 6, b"longer name")]
    out = Writer(str(path), schemas, host="box", kernel="6.1.0", tool="kwire test")
    out.write(kit.frames(*events, gap=8))
    assert (out.events, out.lost_events) == (2, 0)
    assert out.close({1: 1, 2: 1}) == {1: Totals(1, 1, 0), 2: Totals(1, 1, 0)}
    assert out.close() == {}

    found = blocks(path.read_bytes())
    assert [block.type for block in found] == [0x0A0D0D0A, 1, 1, 6, 6, 6, 6, 5, 5]
    head = options(found[0].body[16:])
    assert head[1].startswith(b"kwire capture ")
    assert head[1].endswith(b" file 1")
    assert head[2] == f"box ({os.uname().machine})".encode()
    assert (head[3], head[4]) == (b"Linux 6.1.0", b"kwire test")
    for block, schema in zip(found[1:3], schemas, strict=True):
        assert struct.unpack_from("=H", block.body) == (147,)
        described = options(block.body[8:])
        assert described[2] == schema.probe.encode()
        assert described[9] == b"\x09"
    assert [frame_of(block) for block in found[3:5]] == [schema.frames()[0] for schema in schemas]
    assert [frame_of(block) for block in found[5:7]] == events
    for number, block in enumerate(found[5:7]):
        interface, high, low, captured, original = struct.unpack_from("=5I", block.body)
        assert (interface, high << 32 | low) == (number, kit.wall + 5 + number)
        assert captured == original == len(events[number])
        assert packet_options(block) == {}
    assert [counters(block) for block in found[7:]] == [(1, 0, 1), (1, 0, 1)]
    assert options(found[7].body[12:])[1] == b"end of capture"
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.usefixtures("packer")
def test_a_loss_stands_in_its_place_and_the_next_packet_of_the_probe_tells_it(
    kit: Any, tmp_path: Path
) -> None:
    path = tmp_path / "a.pcapng"
    with Writer(str(path), [kit.schema(1), kit.schema(2)]) as out:
        out.write(kit.frames(kit.event(1, 10)))
        out.lost([Lost(1, 11, 15, 40, 3, Cause.RING_FULL), Lost(1, 12, 16, 2, 0, Cause.MISSED)])
        out.write(kit.frames(kit.event(2, 20), kit.event(1, 21), kit.event(1, 22)))
        assert (out.events, out.lost_events) == (4, 42)
    found = [block for block in blocks(path.read_bytes()) if block.type == 6][2:]
    lost = [Lost.read(read_strict(frame_of(block))) for block in found[1:3]]
    assert lost == [Lost(1, 11, 15, 40, 3, Cause.RING_FULL), Lost(1, 12, 16, 2, 0, Cause.MISSED)]
    drops = [packet_options(block).get(4) for block in found]
    assert drops == [None, None, None, None, struct.pack("=Q", 42), None]
    ends = [counters(block) for block in blocks(path.read_bytes()) if block.type == 5]
    assert ends == [(45, 42, 3), (1, 0, 1)]


def test_lost_and_schema_frames_in_a_stream_are_kept(kit: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    other = kit.schema(1)._replace(symbols={4096: "start"})
    with Writer(str(path), [kit.schema(1)]) as out:
        out.write(kit.frames(Lost(1, 1, 2, 9, 0, Cause.SENDER_FULL).frame(), kit.event(), *other.frames()))
        with pytest.raises(CaptureError, match="EVENT of id 2: it belongs to no probe"):
            out.write(kit.frames(kit.event(2)))
    with Capture(str(path)) as capture:
        assert sum(len(frames) for frames in capture) == 2
        assert capture.schemas[1].symbols == {4096: "start"}
    assert counters(blocks(path.read_bytes())[-1]) == (10, 9, 1)


def test_a_loss_of_no_known_probe_is_told_apart(kit: Any, tmp_path: Path) -> None:
    out = Writer(str(tmp_path / "a.pcapng"), [kit.schema(1)])
    out.lost([Lost(0, 0, 0, 7), Lost(9, 1, 2, 1)])
    out.write(kit.frames(kit.event()))
    assert out.close({1: 1}) == {0: Totals(8, 0, 8), 1: Totals(1, 1, 0)}


def test_what_the_probe_counted_stands_in_the_statistics(kit: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    out = Writer(str(path), [kit.schema(1)])
    out.write(kit.frames(kit.event()))
    assert out.close({1: 5}) == {1: Totals(5, 1, 0)}
    assert counters(blocks(path.read_bytes())[-1]) == (5, 0, 1)


@pytest.mark.usefixtures("packer")
def test_records_of_the_other_byte_order_get_their_time_too(kit: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    other = "big" if sys.byteorder == "little" else "little"
    with Writer(str(path), [kit.schema(1, order=other), kit.schema(2)]) as out:
        out.write(kit.frames(kit.event(1, kit.monotonic + 77, order=other), kit.event(2, kit.monotonic + 8)))
    found = [block for block in blocks(path.read_bytes()) if block.type == 6][-2:]
    times = [struct.unpack_from("=4xII", block.body) for block in found]
    assert [high << 32 | low for high, low in times] == [kit.wall + 77, kit.wall + 8]


def test_more_events_than_the_buffer_holds_are_all_there_in_order(kit: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    comms = [b"%d" % number for number in range(20000)]
    frames = kit.frames(*(kit.event(1, kit.monotonic + n, comm) for n, comm in enumerate(comms)), gap=8)
    with Writer(str(path), [kit.schema(1)]) as out:
        out.write(frames)
        out.write(frames)
    with Capture(str(path)) as capture:
        decode, found = kit.schema(1).decoder(), []
        for chunk in capture:
            found += [decode(chunk.frame_bytes(index))[2] for index in range(len(chunk))]
    assert found == [comm.decode() for comm in comms] * 2
    assert capture.problem is None


def test_the_longest_event_fits(kit: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    event = kit.event(1)
    long = struct.pack(">BBHI", 0x11, 0, 65480, 1) + event[8:] + bytes(65480 - len(event))
    with Writer(str(path), [kit.schema(1)]) as out:
        out.write(kit.frames(*[long] * 9))
    with Capture(str(path)) as capture:
        assert sum(len(chunk) for chunk in capture) == 9


def test_probes_are_numbered_from_one(kit: Any, tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="numbered 1, 2, 3"):
        Writer(str(tmp_path / "a"), [kit.schema(2)])


# --- rotation


def events_of(path: str) -> int:
    with Capture(path) as capture:
        count = sum(len(frames) for frames in capture)
        assert capture.problem is None
        assert capture.schemas[1].probe == "tracepoint:sched:tick"
    return count


def test_files_rotate_by_size_and_each_stands_alone(kit: Any, tmp_path: Path) -> None:
    frames = kit.frames(*(kit.event(1, kit.monotonic + n) for n in range(1000)))
    out = Writer(str(tmp_path / "r.pcapng"), [kit.schema(1)], rotate_bytes=1 << 20)
    for _ in range(50):
        out.write(frames)
        out.flush()
    out.lost([Lost(1, 5, 6, 11, 0, Cause.RING_FULL)])
    size = out.size
    assert out.close({1: 50011}) == {1: Totals(50011, 50000, 11)}
    assert len(out.files) >= 4
    assert [Path(path).name for path in out.files] == [
        f"r-{number:04d}.pcapng" for number in range(1, len(out.files) + 1)
    ]
    assert sorted(tmp_path.iterdir()) == [Path(path) for path in out.files]
    assert sum(map(events_of, out.files)) == 50001  # LOST frame included
    for path in out.files:
        assert Path(path).stat().st_size <= 1 << 20
        received, dropped, delivered = counters(blocks(Path(path).read_bytes())[-1])
        assert received == dropped + delivered
    assert size <= sum(Path(path).stat().st_size for path in out.files) < size + 1000


def test_files_rotate_by_time(kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Writer(str(tmp_path / "r.pcapng"), [kit.schema(1)], rotate_seconds=60) as out:
        for step in (0, 59, 1, 61, 200):
            now[0] += step
            out.write(kit.frames(kit.event()))
            out.flush()
    assert [events_of(path) for path in out.files] == [2, 1, 1, 1]
    comments = [options(blocks(Path(path).read_bytes())[-1].body[12:])[1] for path in out.files]
    assert comments == [
        b"continued in file 2",
        b"continued in file 3",
        b"continued in file 4",
        b"end of capture",
    ]


@pytest.fixture
def few_files(tmp_path: Path) -> Iterator[Path]:
    """A file system that has room for two files and no more."""
    if os.geteuid():
        pytest.skip("mounting takes root")
    folder = tmp_path / "few"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=3", "kwire-test", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_where_no_further_file_can_be_made_the_last_one_goes_on(kit: Any, few_files: Path) -> None:
    frames = kit.frames(*(kit.event(1, kit.monotonic + n) for n in range(1000)))
    out = Writer(str(few_files / "r.pcapng"), [kit.schema(1)], rotate_bytes=300_000)
    for _ in range(20):
        out.write(frames)
        out.flush()
    assert out.close({1: 20_000}) == {1: Totals(20_000, 20_000, 0)}
    assert len(out.files) == 2
    assert sum(map(events_of, out.files)) == 20_000


@pytest.mark.parametrize("target", ["-", 1])
def test_rotation_needs_a_name(kit: Any, target: str | int) -> None:
    with pytest.raises(CaptureError, match="name a file"):
        Writer(target, [kit.schema(1)], rotate_bytes=1 << 20)


# --- targets


def test_a_pipe_gets_the_same_bytes_as_a_file(kit: Any, tmp_path: Path) -> None:
    reader, fd = os.pipe()
    frames = kit.frames(*(kit.event(1, n) for n in range(100)))
    with Writer(fd, [kit.schema(1)]) as out:
        out.write(frames)
    os.close(fd)
    with os.fdopen(reader, "rb") as pipe:
        data = pipe.read()
    assert [block.type for block in blocks(data)] == [0x0A0D0D0A, 1, 6, *[6] * 100, 5]


def test_a_pipe_that_cannot_take_more_just_now_is_waited_for(kit: Any) -> None:
    import threading

    reader, fd = os.pipe()
    os.set_blocking(fd, False)
    frames = kit.frames(*(kit.event(1, n) for n in range(5000)))
    data: list[bytes] = []

    def read() -> None:
        with os.fdopen(reader, "rb") as pipe:
            data.append(pipe.read())

    thread = threading.Thread(target=read)
    with Writer(fd, [kit.schema(1)]) as out:
        thread.start()
        out.write(frames)
    os.close(fd)
    thread.join()
    assert len(blocks(data[0])) == 5004


def test_a_pipe_nobody_reads_is_a_broken_pipe(kit: Any) -> None:
    reader, fd = os.pipe()
    out = Writer(fd, [kit.schema(1)])
    os.close(reader)
    out.write(kit.frames(kit.event()))
    with pytest.raises(BrokenPipeError):
        out.flush()
    with pytest.raises(BrokenPipeError):
        out.close()
    os.close(fd)


@pytest.mark.parametrize("append", [False, True])
def test_a_descriptor_is_written_from_where_it_stands(kit: Any, tmp_path: Path, append: bool) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"before--")
    fd = os.open(path, os.O_WRONLY | (os.O_APPEND if append else 0))
    os.lseek(fd, 8, os.SEEK_SET)
    with Writer(fd, [kit.schema(1)]) as out:
        out.write(kit.frames(kit.event()))
    os.write(fd, b"after---")
    os.close(fd)
    data = path.read_bytes()
    assert (data[:8], data[-8:]) == (b"before--", b"after---")
    assert [block.type for block in blocks(data[8:-8])] == [0x0A0D0D0A, 1, 6, 6, 5]


def test_a_terminal_is_refused(kit: Any) -> None:
    leader, terminal = os.openpty()
    with pytest.raises(CaptureError, match="not for a terminal"):
        Writer(terminal, [kit.schema(1)])
    os.close(leader)
    os.close(terminal)


def test_a_path_that_cannot_be_opened_says_why(kit: Any, tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="No such file or directory"):
        Writer(str(tmp_path / "no" / "where.pcapng"), [kit.schema(1)])


def test_a_killed_recorder_leaves_whole_packets(kit: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    out = Writer(str(path), [kit.schema(1)])
    out.write(kit.frames(*(kit.event(1, n) for n in range(10))))
    out.flush()
    assert len(blocks(path.read_bytes())) == 13  # without the ending, and no allocated zeros behind
    out.close()
