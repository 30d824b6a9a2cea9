"""Whether a capture is complete: every way in which one is not, by name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from verified import verify_file

from kwire.capture.accounts import Totals
from kwire.capture.output import CaptureError
from kwire.capture.verify import FileReport, Hole, verify_set
from kwire.capture.writer import Writer
from kwire.wire.messages import Cause, Lost


def report(tmp_path: Path, data: bytes) -> FileReport:
    path = tmp_path / "a.pcapng"
    path.write_bytes(data)
    return verify_file(str(path))


def recorded(kit: Any, tmp_path: Path, produced: int = 3, losses: tuple[Lost, ...] = ()) -> FileReport:
    path = str(tmp_path / "w.pcapng")
    out = Writer(path, [kit.schema(1), kit.schema(2, "kprobe:f")])
    out.write(kit.frames(*[kit.event()] * 3))
    out.lost(losses)
    out.close({1: produced, 2: 0})
    return verify_file(path)


def test_a_capture_with_nothing_missing_is_complete(kit: Any, tmp_path: Path) -> None:
    result = recorded(kit, tmp_path)
    assert result.complete
    assert result.totals == Totals(3, 3, 0)
    assert [(one.probe, one.number, one.produced, one.stored, one.lost) for one in result.balances] == [
        ("tracepoint:sched:tick", 1, 3, 3, 0),
        ("kprobe:f", 2, 0, 0, 0),
    ]


def test_holes_are_named_with_place_and_cause_and_close_ones_are_one(kit: Any, tmp_path: Path) -> None:
    second = 1_000_000_000
    losses = (
        Lost(1, kit.monotonic, kit.monotonic + 5, 2, 1, Cause.RING_FULL),
        Lost(1, kit.monotonic + 8, kit.monotonic + 9, 3, 1, Cause.RING_FULL),
    )
    later = (Lost(1, kit.monotonic + second, kit.monotonic + second, 1, 1, Cause.RING_FULL),)
    path = str(tmp_path / "w.pcapng")
    out = Writer(path, [kit.schema(1)])
    out.lost(losses[:1])
    out.write(kit.frames(*[kit.event()] * 3))
    out.lost(losses[1:])
    out.lost(later)
    out.lost([Lost(0, 0, 0, 4, cause=77)])
    out.close({1: 9})
    result = verify_file(path)
    probe, cause = "tracepoint:sched:tick", "the ring buffer was full"
    assert result.holes == [
        Hole(probe, kit.wall, kit.wall + 9, 1, 5, cause),
        Hole(probe, kit.wall + second, kit.wall + second, 1, 1, cause),
        Hole("", None, None, None, 4, "cause 77"),
    ]
    assert not result.complete
    assert result.problems == []
    assert result.totals == Totals(13, 3, 10)


@pytest.mark.parametrize(
    ("produced", "says"),
    [
        (9, "9 events produced, 3 stored and 2 counted lost: 4 are missing"),
        (4, "4 events produced, 3 stored and 2 counted lost: 1 too many"),
    ],
)
def test_what_the_probe_counted_must_come_out(kit: Any, tmp_path: Path, produced: int, says: str) -> None:
    result = recorded(kit, tmp_path, produced, (Lost(1, 1, 1, 2),))
    assert [says in problem for problem in result.problems] == [True]


def test_stored_and_lost_must_be_what_the_statistics_say(kit: Any, tmp_path: Path) -> None:
    builder = kit.builder().capture(kit.schema(), kit.event(), kit.event(), statistics=False)
    result = report(tmp_path, builder.statistics(0, 2, 5, 3).data)
    assert [problem.split(": ", 1)[1] for problem in result.problems] == [
        "2 events stored, the statistics say 3",
        "0 events lost, the statistics say 5",
    ]


def test_a_killed_recorder_and_a_cut_file_prove_nothing(kit: Any, tmp_path: Path) -> None:
    builder = kit.builder().capture(kit.schema(), kit.event(), statistics=False)
    killed = report(tmp_path, builder.data)
    assert len(killed.problems) == 1
    assert killed.problems[0].startswith("no closing statistics of its probes: the recorder was killed")
    cut = report(tmp_path, builder.data[:-3])
    assert len(cut.problems) == 1
    assert cut.problems[0].startswith("cut at byte")
    assert cut.totals == Totals(0, 0, 0)


def test_only_one_probe_without_statistics_is_noticed(kit: Any, tmp_path: Path) -> None:
    builder = kit.builder().section().interface().interface()
    builder.packet(kit.schema(1).frames()[0]).packet(kit.schema(2).frames()[0], interface=1)
    result = report(tmp_path, builder.statistics(1, 0, 0, 0).data)
    assert "no closing statistics of 1 of its probes" in result.problems[0]


def test_events_nobody_describes_and_packets_that_are_none_are_problems(kit: Any, tmp_path: Path) -> None:
    builder = kit.builder().capture(kit.schema(3), kit.event(3), statistics=False)
    builder.packet(kit.event(2)).packet(kit.event(4_000_000_000)).packet(b"no frame").statistics(0, 1, 0, 1)
    result = report(tmp_path, builder.data)
    assert result.problems[0].startswith("1 packet without a sound frame; packet at byte")
    assert result.problems[1] == "2 events are of probes that the file does not describe"
    assert len(result.problems) == 2


def test_each_section_is_held_against_its_own_statistics(kit: Any, tmp_path: Path) -> None:
    one = kit.builder().capture(kit.schema(), kit.event()).data
    two = kit.builder("big").capture(kit.schema(order="big"), *[kit.event(order="big")] * 2).data
    result = report(tmp_path, one + two)
    assert result.complete
    assert [balance.stored for balance in result.balances] == [1, 2]


def test_a_file_without_probes_is_no_capture(kit: Any, tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="describes no probe"):
        report(tmp_path, kit.builder().section().interface(b"eth0", 1).packet(bytes(60)).data)


def rotated(kit: Any, tmp_path: Path) -> list[FileReport]:
    out = Writer(str(tmp_path / "r.pcapng"), [kit.schema()], rotate_bytes=400_000)
    frames = kit.frames(*[kit.event()] * 1000)
    for _ in range(14):
        out.write(frames)
        out.flush()
    out.close({1: 14000})
    assert len(out.files) >= 3
    return [verify_file(path) for path in out.files]


def test_a_rotation_is_complete_when_all_files_are_there(kit: Any, tmp_path: Path) -> None:
    reports = rotated(kit, tmp_path)
    assert all(one.complete for one in reports)
    assert verify_set(reports) == []
    assert sum(one.totals.stored for one in reports) == 14000
    assert verify_set([*reports, *rotated(kit, tmp_path)]) == []


@pytest.mark.parametrize(("left_out", "missing"), [(0, 1), (1, 2), (-1, -1)])
def test_a_missing_file_is_named(kit: Any, tmp_path: Path, left_out: int, missing: int) -> None:
    reports = rotated(kit, tmp_path)
    missing = missing if missing > 0 else len(reports)
    del reports[left_out]
    problems = verify_set(reports)
    assert [problem.split(" of")[0] for problem in problems] == [f"file {missing}"]


def test_holes_beyond_the_limit_are_joined_and_none_is_forgotten(
    kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kwire.capture.verify.MAX_HOLES", 5)
    builder = kit.builder().capture(kit.schema(), statistics=False)
    for number in range(200):
        time = kit.monotonic + number * 10**9
        builder.packet(Lost(1, time, time, 1, number % 40, Cause.RING_FULL).frame())
    result = report(tmp_path, builder.statistics(0, 200, 200, 0).data)
    assert sum(hole.count for hole in result.holes) == 200
    assert len(result.holes) < 20
    assert result.problems == []


def test_a_recorder_that_was_killed_before_it_described_a_probe(kit: Any, tmp_path: Path) -> None:
    path = tmp_path / "begun.pcapng"
    writer = Writer(str(path), [kit.schema(1)])
    writer.leave()
    data = path.read_bytes()
    path.write_bytes(data[: int.from_bytes(data[4:8], sys.byteorder)])
    report = verify_file(str(path))
    assert (report.complete, report.totals.produced) == (False, 0)
    assert report.problems == ["it describes no probe: its recorder was killed before it did"]
