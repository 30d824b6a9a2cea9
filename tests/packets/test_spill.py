"""What a reading gave, kept for another: in memory, in a file, or not at all; always the same."""

from __future__ import annotations

import os
import random
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kwire.analyze.opened import Opened
from kwire.analyze.source import Source
from kwire.capture import pcapng
from kwire.capture.output import CaptureError
from kwire.capture.reader import Mixed, Section
from kwire.packets import spill
from kwire.packets.samples import TICK, events, network
from kwire.packets.spill import Spill
from kwire.wire.frames import Frames


def lots(count: int) -> list[tuple[Section, Frames]]:
    """Frames of one section or of several, of which bytes lie between and around."""
    source = random.Random(1)
    sections = [Section(pcapng.HOST, []) for _ in range(3)]
    made: list[tuple[Section, Frames]] = []
    for number in range(count):
        each = [bytes(row) for row in events(source.randrange(1, 50), 100 * number)]
        data = b"before" + b"..".join(each) + b"after"
        offsets = array("Q", [6 + at * (len(each[0]) + 2) for at in range(len(each))])
        if number % 2:
            owners = np.array([source.randrange(3) for _ in each], np.uint32)
            made.append((sections[0], Mixed(data, offsets, sections, owners)))
        else:
            made.append((sections[number % 3], Frames(data, offsets)))
    return made


def told(pairs: Any) -> list[Any]:
    return [
        (
            section,
            [bytes(frames.frame_bytes(at)) for at in range(len(frames))],
            (frames.sections, frames.owners.tolist()) if isinstance(frames, Mixed) else None,
        )
        for section, frames in pairs
    ]


@pytest.mark.parametrize("room", [0, 20_000, 1 << 30])
def test_what_comes_out_is_what_went_in_as_often_as_is_wanted(room: int) -> None:
    given = lots(40)
    keeping = Spill(room)
    for section, frames in given:
        assert keeping.note(section, frames)
    assert told(keeping) == told(given)
    assert told(keeping) == told(given)
    keeping.close()
    assert told(keeping) == []


def test_a_schema_after_frames_of_its_section_ends_the_keeping() -> None:
    [(section, frames), *_] = lots(1)
    keeping = Spill(0)
    assert keeping.note(section, TICK)
    assert keeping.note(section, frames)
    assert keeping.note(Section(pcapng.HOST, []), TICK)
    assert not keeping.note(section, TICK)
    assert told(keeping) == []


@pytest.mark.parametrize("what", ["disk is full", "writes fail", "too many places"])
def test_where_there_is_no_room_nothing_is_kept(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    if what == "disk is full":
        monkeypatch.setattr(spill, "FREE", 1 << 62)
    elif what == "writes fail":
        full = open("/dev/full", "wb", buffering=0)  # noqa: SIM115  # `close` closes it
        monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: full)
    else:
        monkeypatch.setattr(spill, "ENTRY", 1 << 25)
    keeping, kept_all = Spill(0), True
    for section, frames in lots(4):
        kept_all = kept_all and keeping.note(section, frames)
    assert not kept_all
    assert told(keeping) == []


def test_a_file_that_has_become_shorter_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    keeping = Spill(0)
    for section, frames in lots(4):
        assert keeping.note(section, frames)
    assert keeping._file is not None
    os.truncate(keeping._file.fileno(), 100)
    with pytest.raises(CaptureError, match="has become shorter"):
        told(keeping)


@pytest.mark.parametrize("room", [0, 1 << 30])
def test_a_capture_of_a_network_is_taken_apart_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    path = tmp_path / "a.pcap"
    path.write_bytes(network(20_000))
    source = Source(str(path), room=room)
    opened = Opened(str(path), lambda schema, time, values: (schema.probe, time, tuple(values)))
    opened._source = source
    assert opened.capture_summary.events
    monkeypatch.setattr("kwire.analyze.source.open_capture", None)  # it is not opened again
    events = list(opened)
    assert len(events) == opened.capture_summary.events
    assert opened.query("SELECT count(*) AS n, min(size) AS low FROM events")["n"].to_pylist() == [
        len(events)
    ]
    assert source._read is not None
    keeping = source._read._kept
    source.close()
    assert keeping is not None
    assert (keeping._file, told(keeping)) == (None, [])
