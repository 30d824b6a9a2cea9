"""TABLE frames in captures: stored and counted like events, lost ones too, in each file of a rotation."""

from __future__ import annotations

from pathlib import Path

import pytest

from kwire.capture.output import Output
from kwire.capture.reader import Capture
from kwire.capture.verify import verify_capture
from kwire.capture.writer import Writer
from kwire.wire.fields import Field
from kwire.wire.frames import Frames
from kwire.wire.messages import Cause, losses_in
from kwire.wire.schema import Clock, MapShape, Schema
from kwire.wire.tables import MapTable, Row

FIELDS = (Field("value", "u64", 16, 8), Field("table", "u32", 24, 4))
KEPT = Schema(
    1, "map:@x", "map", "@x", FIELDS, 28, clock=Clock("monotonic", 0, 10**18), map=MapShape("count", 0)
)


def tables(first: int, count: int) -> Frames:
    made = (
        MapTable(number, number, (Row((), number),)).frames(1)[0] for number in range(first, first + count)
    )
    return Frames.walk(b"".join(made))


def test_tables_are_stored_and_counted_apart_from_events(tmp_path: Path) -> None:
    path = tmp_path / "x.pcapng"
    with Writer(str(path), [KEPT]) as writer:
        writer.write(tables(1, 5))
        writer.flush()
        assert writer.events == 0
        totals = writer.close({1: 5})
    assert (totals[1].produced, totals[1].stored, totals[1].lost) == (5, 5, 0)
    with Capture(str(path)) as capture:
        report = verify_capture(capture)
    assert report.complete
    assert report.totals == (0, 0, 0)
    assert report.tables == (5, 5, 0)


def test_tables_that_found_no_room_are_counted_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.pcapng"
    with Writer(str(path), [KEPT]) as writer:
        writer.write(tables(1, 2))
        writer.flush()
        with monkeypatch.context() as full:
            full.setattr(Output, "room", lambda *_: False)
            writer.write(tables(3, 4))
        writer.close({1: 6})
    with Capture(str(path)) as capture:
        losses = [loss for frames in capture for loss in losses_in(frames)]
    assert [(one.probe, one.first, one.last, one.count, one.cause) for one in losses] == [
        (1, 3, 6, 4, Cause.DISK_FULL)
    ]
    with Capture(str(path)) as capture:
        report = verify_capture(capture)
    assert not report.complete
    assert report.tables == (6, 2, 4)
    assert report.problems == []
