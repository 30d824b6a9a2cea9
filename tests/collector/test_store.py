"""Stores: exactly once through kills and full disks, hostile payloads, numbers, names, clocks."""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from verified import verify_file

from kwire.capture.output import CaptureError, GoneError, Output
from kwire.capture.output import FullError as FullError
from kwire.capture.reader import Capture
from kwire.capture.verify import verify_set
from kwire.collector.checkpoint import BLOCK, SLACK, Checkpoint, CheckpointError, Contents
from kwire.collector.folder import Folder, FolderError, harmless
from kwire.collector.store import Options, Packing, Store
from kwire.collector.stored_session import StoredSession
from kwire.transport import clock
from kwire.wire import cbor
from kwire.wire.frame import Flag, Type, build
from kwire.wire.messages import Cause, Lost, totals_frames
from kwire.wire.schema import Clock, Field, MapShape, Schema
from kwire.wire.tables import MapTable, Row, TableReader

MONOTONIC, WALL = 5_000_000_000, 1_700_000_000_000_000_000
TOKEN = bytes(range(16))


def schema(id: int = 1, host: str = "box", monotonic: int = MONOTONIC, extra: str = "") -> Schema:
    fields = (Field("pid", "u32", 16, 4), Field("nr", "u32", 20, 4))
    probe = f"tracepoint:sched:tick{id}{extra}"
    clock = Clock("monotonic", monotonic, WALL)
    return Schema(id, probe, "tracepoint", probe[11:], fields, 24, sys.byteorder, clock=clock, host=host)


def describe(*ids: int, **more: Any) -> bytes:
    return b"".join(frame for id in ids for frame in schema(id, **more).frames())


def event(number: int, id: int = 1) -> bytes:
    return struct.pack(">BBHI", 0x11, 0, 24, id) + struct.pack("=QII", MONOTONIC + number, 7, number)


def events(first: int, count: int, id: int = 1) -> bytes:
    return b"".join(event(number, id) for number in range(first, first + count))


def read(path: str, whole: bool = True) -> list[tuple[str, int, int]]:
    """(probe spec, number, wall time) of every event of a capture, in order."""
    found = []
    with Capture(path) as capture:
        for frames in capture:
            for frame in frames:
                if frame.header.type == Type.EVENT:
                    described = capture.schemas[frame.header.id]
                    time, _, number = struct.unpack("=QII", frame.payload)
                    found.append((described.probe, number, described.wall(time)))
        assert not whole or (capture.problem is None and capture.skipped == 0)
    return found


def numbers(*paths: str) -> list[int]:
    return [number for path in paths for _, number, _ in read(path)]


OPEN = (
    "no closing statistics of its probes: the recorder was killed, or is still recording, "
    "or a tool that leaves them out (editcap, mergecap) wrote the file"
)


def sound(*paths: str, ended: bool = True) -> tuple[int, int]:
    """(stored, lost) of captures that must balance; losses are the only holes. Not `ended`: the sessions."""
    reports = [verify_file(path) for path in paths]
    problems = [problem for report in reports for problem in report.problems]
    assert problems == ([] if ended else [OPEN])
    assert verify_set(reports) == []
    totals = [report.totals for report in reports]
    assert sum(total.produced for total in totals) == sum(total.stored + total.lost for total in totals)
    return sum(total.stored for total in totals), sum(total.lost for total in totals)


class Site:
    """A store in a folder, fed with one session; `killed` gives what the disk held at that moment."""

    def __init__(self, path: Path, options: Options = Options()) -> None:  # noqa: B008
        self.path, self.options = path, options
        self.folder = Folder(str(path))
        self.store = Store(
            self.folder.capture("box"), self.folder.checkpoint(TOKEN), Packing(), options, {"host": "box"}
        )
        self.stored_session = self.store.join(TOKEN, {"host": "box"})
        self.sequence = 0

    def collected_session(self, *payloads: bytes, commit: bool = True) -> None:
        for payload in payloads:
            self.store.take(self.stored_session, self.sequence, payload)
            self.sequence += 1
        if commit:
            self.store.commit()

    def killed(self, spare: Callable[[], str] | None = None) -> None:
        """What kill -9 leaves, and the store that a successor takes up."""
        copy = self.path.with_name(self.path.name + "-killed")
        shutil.copytree(self.path, copy)
        self.folder.close()
        self.store.writer.close()
        shutil.rmtree(self.path)
        copy.rename(self.path)
        self.folder = Folder(str(self.path))
        self.store = Store.again(self.folder.checkpoint(TOKEN), Packing(), self.options, spare)
        self.stored_session = self.store.stored_sessions[TOKEN]
        self.sequence = self.stored_session.next


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "in")


def test_what_a_session_delivers_is_a_complete_capture(site: Site) -> None:
    lost = Lost(2, MONOTONIC, MONOTONIC + 5, 3, 0, Cause.RING_FULL).frame()
    site.collected_session(describe(1, 2), events(0, 1000) + lost, events(0, 10, id=2))
    assert site.stored_session.stored == 3
    site.collected_session(*totals_frames({1: 1000, 2: 13}))
    totals = site.store.finish(site.stored_session)
    assert [tuple(totals[id]) for id in (1, 2)] == [(1000, 1000, 0), (13, 10, 3)]
    path = site.store.writer.files[0]
    assert sound(path) == (1010, 3)
    assert numbers(path) == [*range(1000), *range(10)]
    assert site.store.losses(site.stored_session) == {Cause.RING_FULL: 3}


def test_totals_that_do_not_fit_are_a_problem(site: Site) -> None:
    site.collected_session(describe(1), events(0, 10), *totals_frames({1: 11}))
    site.store.finish(site.stored_session)
    assert "1 is missing" in verify_file(site.store.writer.files[0]).problems[0]


def test_only_what_the_checkpoint_knows_is_safe(site: Site) -> None:
    site.collected_session(describe(1), events(0, 100))
    assert site.stored_session.stored == 2
    site.collected_session(events(100, 100), commit=False)
    assert (site.stored_session.stored, site.stored_session.next) == (2, 3)
    assert site.store.commit() == [site.stored_session]
    assert site.stored_session.stored == 3
    assert site.store.commit() == []


@pytest.mark.parametrize("flushed", [False, True])
@pytest.mark.parametrize("rotate", [0, 1 << 18])
def test_a_killed_collector_resumes_exactly(tmp_path: Path, flushed: bool, rotate: int) -> None:
    """Killed again and again, with more on the disk than the checkpoint knows, or in memory only."""
    site = Site(tmp_path / "in", Options(rotate_bytes=rotate))
    site.collected_session(describe(1))
    done = 0
    for turn in range(6):
        site.collected_session(events(done, 1500))
        done += 1500
        site.collected_session(events(done, 700), events(done + 700, 800), commit=False)  # never acknowledged
        if flushed:
            site.store.flush()
        site.killed()
        assert site.sequence == turn + 2
    site.collected_session(events(done, 5), *totals_frames({1: done + 5}))
    site.store.finish(site.stored_session)
    files = site.store.writer.files
    assert (len(files) > 1) == bool(rotate)
    assert numbers(*files) == list(range(done + 5))
    assert sound(*files) == (done + 5, 0)


def test_a_kill_between_rotation_and_checkpoint(tmp_path: Path) -> None:
    """The next file is there, the one before has its ending, and the checkpoint knows of neither."""
    site = Site(tmp_path / "in", Options(rotate_bytes=1 << 18))
    site.collected_session(describe(1), events(0, 2000))
    assert len(site.store.writer.files) == 1
    site.collected_session(events(2000, 4000), events(6000, 4000), events(10000, 1), commit=False)
    site.store.flush()
    assert len(site.store.writer.files) > 1
    site.killed()
    site.collected_session(events(2000, 4000), events(6000, 3000), *totals_frames({1: 9000}))
    site.store.finish(site.stored_session)
    files = site.store.writer.files
    assert sorted(os.listdir(site.path)) == sorted([".sessions", *map(os.path.basename, files)])
    assert numbers(*files) == list(range(9000))
    assert sound(*files) == (9000, 0)


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("gone", [False, True])
def test_files_that_the_checkpoint_has_not_heard_of_are_not_left(
    tmp_path: Path, gone: bool, moved: bool
) -> None:
    """What is in them comes again, wherever it is written then."""
    site = Site(tmp_path / "in", Options(rotate_bytes=1 << 18))
    site.collected_session(describe(1), events(0, 2000))
    site.collected_session(events(2000, 4000), events(6000, 4000), events(10000, 1), commit=False)
    site.store.flush()
    first, *later = site.store.writer.files
    assert later
    other = site.path / "box-other-0009.pcapng"
    other.write_bytes(Path(first).read_bytes())
    if moved:
        for number, path in enumerate(later):
            Path(path).rename(site.path / f"archive-{number}.pcapng")
    if gone:
        os.truncate(first, 5000)
    site.killed(lambda: site.folder.capture("box"))
    assert not any(map(os.path.exists, later))
    aside = sorted(path.name for path in site.path.glob("archive-*"))
    assert aside == [f"archive-{number}.pcapng.again" for number in range(len(later) if moved else 0)]
    assert other.exists()
    site.collected_session(events(2000, 10), *totals_frames({1: 2010}))
    site.store.finish(site.stored_session)
    other.unlink()
    files = sorted(site.path.glob("*.pcapng"))
    stored = [number for path in files for _, number, _ in read(str(path), whole=not gone)]
    assert len(stored) == len(set(stored))
    assert len(stored) + site.store.losses(site.stored_session).get(Cause.CAPTURE_GONE, 0) == 2010


def test_files_that_were_moved_elsewhere_hold_what_is_promised_and_no_more(tmp_path: Path) -> None:
    """What is not promised comes again, and no successor finds them."""
    site = Site(tmp_path / "in", Options(rotate_bytes=1 << 18))
    site.collected_session(describe(1), events(0, 2000))
    site.collected_session(events(2000, 4000), events(6000, 4000), commit=False)
    site.store.flush()
    assert len(site.store.writer.files) > 2
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in site.store.writer.files:
        os.rename(path, elsewhere / os.path.basename(path))
    site.store.leave()
    assert numbers(*map(str, sorted(elsewhere.iterdir()))) == list(range(2000))


def test_what_is_left_of_captures_that_were_cut_is_named_as_long_as_it_counts(tmp_path: Path) -> None:
    """Twice, and after a kill that follows: the files named hold the events told."""
    site = Site(tmp_path / "in", Options())
    site.collected_session(describe(1), events(0, 1000))
    cut = []
    for first in (1000, 2000):
        [path] = site.store.writer.files[-1:]
        site.store.leave()
        os.truncate(path, 5000)
        cut.append(path)
        site.killed(lambda: site.folder.capture("box"))
        site.collected_session(events(first, 1000))
        site.killed()
    files = site.store.writer.files
    assert files[:-1] == cut
    site.collected_session(events(3000, 10), *totals_frames({1: 3010}))
    site.store.finish(site.stored_session)
    stored = [number for path in files for _, number, _ in read(path, whole=path == files[-1])]
    assert len(stored) == len(set(stored)) == site.store.balance(site.stored_session).stored
    assert 0 < 3010 - len(stored) == site.store.losses(site.stored_session)[Cause.CAPTURE_GONE]


def test_a_collector_that_stops_leaves_whole_captures_and_goes_on_later(site: Site) -> None:
    site.collected_session(describe(1), events(0, 10))
    site.store.close()
    path = site.store.writer.files[0]
    assert sound(path, ended=False) == (10, 0)
    site.store = Store.again(site.folder.checkpoint(TOKEN), Packing())
    site.stored_session = site.store.stored_sessions[TOKEN]
    site.collected_session(events(10, 10), *totals_frames({1: 20}))
    site.store.finish(site.stored_session)
    assert site.store.writer.files == [path]
    assert numbers(path) == list(range(20))
    assert sound(path) == (20, 0)


def test_the_ending_is_on_the_disk_before_the_checkpoint_forgets_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `sync`: else a disk that fails takes the ending, and nobody writes it again."""
    site = Site(tmp_path / "in", Options(sync=True))
    site.collected_session(describe(1), events(0, 10), *totals_frames({1: 10}))
    [path] = site.store.writer.files
    steps = []
    fsync, write = os.fsync, Checkpoint.write

    def synced(fd: int) -> None:
        fsync(fd)
        if os.path.samestat(os.fstat(fd), os.stat(path)):
            steps.append(("synced", os.fstat(fd).st_size))

    def written(checkpoint: Checkpoint, contents: Contents) -> None:
        if contents.often.get(b"file head") == b"":
            steps.append(("forgotten", os.stat(path).st_size))
        write(checkpoint, contents)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Checkpoint, "write", written)
    site.store.finish(site.stored_session)
    size = os.stat(path).st_size
    assert steps == [("synced", size), ("forgotten", size)]


def test_a_session_that_is_over_is_remembered_without_its_file(site: Site) -> None:
    site.collected_session(describe(1), events(0, 10), *totals_frames({1: 10}))
    site.store.finish(site.stored_session)
    os.unlink(site.store.writer.files[0])
    again = Store.again(site.folder.checkpoint(TOKEN), Packing())
    assert again.closed
    assert again.stored_sessions[TOKEN].done
    assert again.stored_sessions[TOKEN].next == 3


def test_a_kill_before_the_ending_was_written(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.collected_session(describe(1), events(0, 10), *totals_frames({1: 10}))
    site.killed()
    assert not site.store.closed  # the source has not said BYE: more totals may come
    site.store.close()
    assert sound(str(next(site.path.glob("*.pcapng")))) == (10, 0)


def test_a_file_that_is_gone_is_gone_on_with_elsewhere(site: Site, tmp_path: Path) -> None:
    site.collected_session(describe(1), events(0, 10))
    site.store.close()
    os.unlink(site.store.writer.files[0])
    checkpoint, elsewhere = site.folder.checkpoint(TOKEN), str(tmp_path / "else.pcapng")
    with pytest.raises(GoneError, match="it is not there any more"):
        Store.again(checkpoint, Packing())
    store = Store.again(checkpoint, Packing(), Options(), lambda: elsewhere)
    stored_session = store.stored_sessions[TOKEN]
    for payload in (events(10, 10), *totals_frames({1: 20})):
        store.take(stored_session, stored_session.next, payload)
    assert store.losses(stored_session) == {Cause.CAPTURE_GONE: 10}
    store.finish(stored_session)
    assert sound(elsewhere) == (10, 10)
    assert numbers(elsewhere) == list(range(10, 20))


def test_a_copy_of_a_folder_is_gone_on_with_apart(site: Site, tmp_path: Path) -> None:
    """A backup that a collector is shown writes to itself, never to the folder that it is a copy of."""
    site.collected_session(describe(1), *(events(first, 50) for first in range(0, 500, 50)))
    shutil.copytree(site.path, tmp_path / "copy")
    site.collected_session(events(500, 50))
    copy = Folder(str(tmp_path / "copy"))
    again = Store.again(copy.checkpoint(TOKEN), Packing(), site.options, lambda: copy.capture("box"))
    stored_session = again.stored_sessions[TOKEN]
    again.take(stored_session, stored_session.next, events(500, 70))
    again.commit()
    site.collected_session(events(550, 50), *totals_frames({1: 600}))
    site.store.finish(site.stored_session)
    again.close()
    assert numbers(*map(str, sorted(site.path.glob("*.pcapng")))) == list(range(600))
    assert numbers(*map(str, sorted((tmp_path / "copy").glob("*.pcapng")))) == list(range(570))


def test_a_folder_that_was_renamed_is_gone_on_with(site: Site, tmp_path: Path) -> None:
    site.collected_session(describe(1), events(0, 10))
    site.store.leave()
    site.folder.close()
    site.path.rename(tmp_path / "elsewhere")
    folder = Folder(str(tmp_path / "elsewhere"))
    store = Store.again(folder.checkpoint(TOKEN), Packing(), spare=lambda: folder.capture("box"))
    stored_session = store.stored_sessions[TOKEN]
    for payload in (events(10, 10), *totals_frames({1: 20})):
        store.take(stored_session, stored_session.next, payload)
    store.finish(stored_session)
    assert sound(store.writer.files[0]) == (20, 0)
    assert store.path == str(tmp_path / "elsewhere" / os.path.basename(site.store.path))


def test_losses_told_in_a_file_that_is_gone_are_told_again(site: Site, tmp_path: Path) -> None:
    lost = Lost(1, MONOTONIC, MONOTONIC + 9, 7, 0, Cause.RING_FULL).frame()
    site.collected_session(describe(1), events(0, 10) + lost, events(10, 5))
    site.store.close()
    os.unlink(site.store.writer.files[0])
    path = str(tmp_path / "else.pcapng")
    store = Store.again(site.folder.checkpoint(TOKEN), Packing(), Options(), lambda: path)
    stored_session = store.stored_sessions[TOKEN]
    for payload in totals_frames({1: 22}):
        store.take(stored_session, stored_session.next, payload)
    store.finish(stored_session)
    assert store.losses(stored_session) == {Cause.RING_FULL: 7, Cause.CAPTURE_GONE: 15}
    assert sound(path) == (0, 22)


@pytest.mark.parametrize("size", [0, 200, 1500])
def test_what_is_left_of_a_file_that_was_cut_counts_as_stored(site: Site, tmp_path: Path, size: int) -> None:
    site.collected_session(describe(1), *(events(first, 10) for first in range(0, 100, 10)))
    site.store.leave()
    cut = site.store.writer.files[0]
    os.truncate(cut, size)
    path = str(tmp_path / "else.pcapng")
    store = Store.again(site.folder.checkpoint(TOKEN), Packing(), Options(), lambda: path)
    stored_session = store.stored_sessions[TOKEN]
    for payload in (events(100, 10), *totals_frames({1: 110})):
        store.take(stored_session, stored_session.next, payload)
    gone = store.losses(stored_session)[Cause.CAPTURE_GONE]
    store.finish(stored_session)
    left = [number for file in store.writer.files for number in numbers_of_cut(file)]
    assert len(left) == len(set(left))
    assert len(left) + gone == 110
    assert store.balance(stored_session) == (110, len(left), gone)


def numbers_of_cut(path: str) -> list[int]:
    try:
        return [number for _, number, _ in read(path, whole=False)]
    except CaptureError:
        return []


@pytest.mark.parametrize("how", ["deleted", "cut", "cut and written on"])
def test_a_file_that_goes_while_it_is_written_is_noticed_before_more_is_promised(
    site: Site, how: str
) -> None:
    site.collected_session(describe(1), *(events(first, 100) for first in range(0, 1000, 100)))
    path = site.store.writer.files[0]
    if how == "deleted":
        os.unlink(path)
    else:
        os.truncate(path, 0)
    if how == "cut and written on":
        os.pwrite(site.store.writer._file.output.fd, b"x" * 100, site.store.writer.size - 100)
    stored = site.stored_session.stored
    with pytest.raises(GoneError):
        site.collected_session(events(1000, 10))
    assert site.stored_session.stored == stored


@pytest.mark.parametrize("size", [0, 700])
@pytest.mark.parametrize(
    ("what", "call"),
    [*itertools.product(("events", "ending"), ("pwrite", "pread")), ("ending", "ftruncate")],
)
def test_a_file_that_is_cut_between_two_looks(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, what: str, call: str
) -> None:
    """What was written behind the hole is taken back; what is gone is counted, and the rest is there."""
    last = [events(90, 10), *totals_frames({1: 100})]
    site.collected_session(describe(1), *(events(first, 10) for first in range(0, 90, 10)))
    if what == "ending":
        site.collected_session(*last)
    path, really = site.store.writer.files[0], getattr(os, call)

    def cut(fd: int, *arguments: Any) -> Any:
        if os.path.samestat(os.fstat(fd), os.stat(path)):
            os.truncate(path, size)
            setattr(os, call, really)
        return really(fd, *arguments)

    more: Callable[[], object] = partial(site.store.finish, site.stored_session)
    if what == "events":
        more = partial(site.collected_session, events(90, 10))
    with monkeypatch.context() as others:
        others.setattr(os, call, cut)
        with pytest.raises(GoneError):
            more()
    site.store.leave()
    assert os.stat(path).st_size <= size  # what it is cut to may end with zeros
    another = str(tmp_path / "else.pcapng")
    store = Store.again(site.folder.checkpoint(TOKEN), Packing(), Options(), lambda: another)
    stored_session = store.stored_sessions[TOKEN]
    if what == "events":
        for payload in last:
            store.take(stored_session, stored_session.next, payload)
    if not store.closed:  # it was cut before the checkpoint heard of the end
        store.finish(stored_session)
    left = [number for file in store.writer.files for number in numbers_of_cut(file)]
    assert len(left) == len(set(left))
    assert store.losses(stored_session) == {Cause.CAPTURE_GONE: 100 - len(left)}


def test_a_file_whose_last_bytes_cannot_be_read_is_on_a_disk_that_fails(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.collected_session(describe(1), events(0, 10))

    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as disk:
        disk.setattr(os, "pread", fail)
        with pytest.raises(CaptureError, match="Input/output error"):
            site.collected_session(events(10, 10))
    assert site.stored_session.stored == 2


def test_a_file_that_is_moved_is_ended_and_another_one_begun(tmp_path: Path) -> None:
    folder, packing = Folder(str(tmp_path / "in")), Packing()
    spare = lambda: folder.capture("box", 0)  # noqa: E731
    Store.promised(
        folder.checkpoint(TOKEN), packing, Options(), StoredSession(TOKEN, {"host": "box"})
    ).forgo()
    store = Store.again(folder.checkpoint(TOKEN), packing, Options(), spare)
    stored_session = store.join(TOKEN, {"host": "box"})
    for payload in (describe(1), events(0, 10)):
        store.take(stored_session, stored_session.next, payload)
    store.commit()
    moved = tmp_path / "moved.pcapng"
    os.rename(store.path_now, moved)
    for payload in (events(10, 10), *totals_frames({1: 20})):
        store.take(stored_session, stored_session.next, payload)
    store.commit()
    store.finish(stored_session)
    assert numbers(str(moved), store.path_now) == list(range(20))
    assert sound(str(moved), store.path_now) == (20, 0)
    assert store.losses(stored_session) == {}
    folder.close()


@pytest.mark.parametrize("where", ["archive.pcapng", "old/archive.pcapng", "../archive.pcapng"])
def test_a_file_that_is_moved_while_the_disk_fails_holds_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Another file was begun in its place, and the checkpoint could not be told so."""
    home = tmp_path / "in"
    folder, packing = Folder(str(home)), Packing()
    spare = lambda: folder.capture("box", 0)  # noqa: E731
    Store.promised(
        folder.checkpoint(TOKEN), packing, Options(), StoredSession(TOKEN, {"host": "box"})
    ).forgo()
    store = Store.again(folder.checkpoint(TOKEN), packing, Options(), spare)
    stored_session = store.join(TOKEN, {"host": "box"})
    store.take(stored_session, stored_session.next, describe(1))
    store.commit()
    (home / where).parent.mkdir(exist_ok=True)
    os.rename(store.path_now, home / where)

    def write(*_: object) -> None:
        raise CheckpointError("write", "x", "Input/output error")

    store.take(stored_session, stored_session.next, events(0, 1000))
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "write", write)
        with pytest.raises(CheckpointError):
            store.commit()
        store.take(stored_session, stored_session.next, events(1000, 1000))
        store.leave()
    store = Store.again(folder.checkpoint(TOKEN), packing, Options(), spare)
    stored_session = store.stored_sessions[TOKEN]
    for payload in (events(0, 1000), events(1000, 1000), *totals_frames({1: 2000})):
        store.take(stored_session, stored_session.next, payload)
    store.commit()
    store.finish(stored_session)
    assert sorted(numbers(*map(str, tmp_path.rglob("*.pcapng")))) == list(range(2000))
    assert store.losses(stored_session) == {}
    folder.close()


def test_probes_join_are_described_again_and_have_any_number(site: Site) -> None:
    site.collected_session(
        describe(7), events(0, 5, id=7) + describe(3) + events(5, 5, id=3) + events(10, 5, id=7)
    )
    site.killed()
    site.collected_session(
        describe(1) + events(15, 5), describe(7, monotonic=MONOTONIC - 1000), events(20, 2, id=7)
    )
    site.collected_session(*totals_frames({7: 12, 3: 5, 1: 5}))
    site.store.finish(site.stored_session)
    path = site.store.writer.files[0]
    assert sound(path) == (22, 0)
    found = read(path)
    assert [number for _, number, _ in found] == list(range(22))
    names = [name.removeprefix("tracepoint:sched:tick") for name, _, _ in found]
    assert names == ["7"] * 5 + ["3"] * 5 + ["7"] * 5 + ["1"] * 5 + ["7"] * 2
    walls = [wall - WALL for _, _, wall in found]
    assert walls == [*range(20), 1020, 1021]


def test_a_schema_in_parts_survives_a_kill_between_them(site: Site) -> None:
    symbols = {address << 12: f"a_function_with_a_long_name_{address}" for address in range(4000)}
    parts = schema(1)._replace(symbols=symbols).frames()
    assert len(parts) > 1
    site.collected_session(parts[0])
    site.killed()
    site.collected_session(*parts[1:], events(0, 3), *totals_frames({1: 3}))
    site.store.finish(site.stored_session)
    path = site.store.writer.files[0]
    assert sound(path) == (3, 0)
    with Capture(path) as capture:
        list(capture)
        assert len(capture.schemas[1].symbols) == 4000


@pytest.mark.parametrize("seed", range(16))
def test_any_order_of_things_against_a_model(tmp_path: Path, seed: int) -> None:
    """Two sessions in one store; commits, kills, rotation, losses at random: nothing twice, nothing never."""
    chance = random.Random(seed)
    options = Options(rotate_bytes=chance.choice([0, 0, 1 << 18]))
    home, path = tmp_path / "in", str(tmp_path / "in" / "all.pcapng")
    checkpoint = Folder(str(home)).checkpoint(TOKEN)
    tokens = [b"a" * 16, b"b" * 16]
    store = Store(path, checkpoint, Packing(), options, merged=True)
    ids = {token: chance.sample(range(1, 9), 2) for token in tokens}  # each session's own probe numbers
    sent: dict[bytes, list[tuple[bytes, list[int], int]]] = {  # payload, its events, how many it tells lost
        token: [(describe(*ids[token], host=token.decode(), extra=token[:1].decode()), [], 0)]
        for token in tokens
    }
    produced = {token: dict.fromkeys(ids[token], 0) for token in tokens}
    number = 0
    for _ in range(chance.randrange(20, 60)):
        token = chance.choice(tokens)
        own, count = chance.choice(ids[token]), chance.choice([1, 3, 200, 700])
        payload, lost = events(number, count, own), 0
        if chance.random() < 0.3:
            lost = chance.randrange(1, 9)
            payload += Lost(own, MONOTONIC, MONOTONIC + 9, lost, 0, Cause.RING_FULL).frame()
        sent[token].append((payload, list(range(number, number + count)), lost))
        produced[token][own] += count + lost
        number += count
    taken = dict.fromkeys(tokens, 0)
    while any(taken[token] < len(sent[token]) for token in tokens):
        what = chance.random()
        if what < 0.7:
            token = chance.choice([token for token in tokens if taken[token] < len(sent[token])])
            store.take(
                store.join(token, {"host": token.decode()}), taken[token], sent[token][taken[token]][0]
            )
            taken[token] += 1
        elif what < 0.9:
            store.commit()
        else:
            if chance.random() < 0.5:
                store.flush()  # in the file, but not in the checkpoint
            if chance.random() < 0.3:
                store.close()
            shutil.copytree(home, tmp_path / "copy")
            if not store.closed:
                store.leave()
            shutil.rmtree(home)
            (tmp_path / "copy").rename(home)
            store = Store.again(checkpoint, Packing(), options)
            taken = {
                token: store.stored_sessions[token].next if token in store.stored_sessions else 0
                for token in tokens
            }
    for token in tokens:
        store.take(store.stored_sessions[token], taken[token], b"".join(totals_frames(produced[token])))
        store.finish(store.stored_sessions[token])
    store.close()
    files = store.writer.files
    stored, lost = sound(*files)
    found = [number for _, number, _ in (event for file in files for event in read(file))]
    assert sorted(found) == list(range(number))
    assert stored == number
    assert lost == sum(lost for token in tokens for _, _, lost in sent[token])
    for token in tokens:
        theirs = [number for _, numbers, _ in sent[token] for number in numbers]
        members = set(theirs)
        assert [number for number in found if number in members] == theirs  # in order
        assert store.balance(store.stored_sessions[token]).stored == len(theirs)


HOSTILE = {
    "half a frame": events(0, 1) + event(1)[:20],
    "noise": bytes(range(256)) * 8,
    "length zero": bytes(64),
    "an event of nobody": event(1, id=9),
    "an event of number 0": event(1, id=0),
    "an event of a huge number": event(1, id=0xFFFFFFFF),
    "an event without a timestamp": struct.pack(">BBHI", 0x11, 0, 12, 1) + bytes(4),
    "DATA in DATA": build(Type.DATA, 5, event(1)),
    "a schema that is no map": build(Type.SCHEMA, 1, b"\x80"),
    "a schema of number 0": build(Type.SCHEMA, 0, schema(1).frames()[0][8:]),
    "a schema of a huge number": build(Type.SCHEMA, 1 << 31, schema(1).frames()[0][8:]),
    "a bad flag": bytes([0x16, 0x80]) + schema(1).frames()[0][2:],
    "a loss of more than can be": Lost(1, 1, 2, (1 << 64) - 1).frame(),
    "a loss cut short": build(Type.LOST, 1, bytes(31)),
    "totals that are none": build(Type.TABLE, 0, b"\xa1\x68produced\x01"),
    "totals that are too many": b"".join(totals_frames({1: 1 << 63})),
    "a table": build(Type.TABLE, 4, b"\xa0"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_not_sound_is_counted_and_harms_nothing(site: Site, name: str) -> None:
    site.collected_session(HOSTILE[name])
    site.collected_session(describe(1), events(0, 10), HOSTILE[name] + events(10, 10))
    assert site.stored_session.errors
    assert site.stored_session.complaints
    site.killed()
    site.collected_session(events(20, 10))
    site.store.finish(site.stored_session)
    path = site.store.writer.files[0]
    sound(path, ended=False)
    found = numbers(path)
    assert [number for number in found if number != 1 or "half" not in name][-10:] == list(range(20, 30))
    assert set(range(10)) <= set(found)


def test_losses_and_totals_are_read_with_a_checksum_too(site: Site) -> None:
    loss = Lost(1, MONOTONIC, MONOTONIC, 2, 0, Cause.RING_FULL).frame(Flag.CHECKSUM)
    of_nobody = Lost(7, MONOTONIC, MONOTONIC, 3, 0, Cause.RING_FULL).frame(Flag.CHECKSUM)
    totals = build(Type.TABLE, 0, cbor.dumps({"produced": {1: 7}}), Flag.CHECKSUM)
    site.collected_session(describe(1), events(0, 5) + loss + of_nobody + totals)
    assert not site.stored_session.complaints
    assert site.stored_session.produced == {1: 7}
    assert site.store.losses(site.stored_session) == {Cause.RING_FULL: 5}


def test_tables_of_maps_are_stored_under_the_captures_numbers(site: Site) -> None:
    kept = MapShape("count", 0)
    fields = (Field("value", "u64", 16, 8), Field("table", "u32", 24, 4))
    described = Schema(7, "map:@x", "map", "@x", fields, 28, map=kept)
    tables = b"".join(MapTable(number, 5, (Row((), number),), "print").frames(7)[0] for number in (1, 2))
    stranger = MapTable(1, 5, ()).frames(9)[0]
    site.collected_session(describe(1) + b"".join(described.frames()), events(0, 3) + tables + events(3, 3))
    assert not site.stored_session.complaints
    site.collected_session(stranger + build(Type.TABLE, 7, b"\xa0"))
    assert [one.code.name for one in site.stored_session.complaints] == ["UNKNOWN_SCHEMA", "BAD_PAYLOAD"]
    site.killed()
    site.store.finish(site.stored_session)
    path = site.store.writer.files[0]
    assert sound(path, ended=False) == (6, 0)
    reader, found = TableReader(), []
    with Capture(path) as capture:
        for frames in capture:
            found += [reader.add(frame) for frame in frames if frame.header.type == Type.TABLE]
            assert {frame.header.id for frame in frames if frame.header.type == Type.TABLE} <= {2}
    assert [one.rows for one in found if one is not None] == [(Row((), 1),), (Row((), 2),)]


def test_events_of_nobody_are_counted_lost(site: Site) -> None:
    site.collected_session(describe(1), events(0, 3) + events(3, 4, id=2) + events(7, 3))
    site.store.finish(site.stored_session)
    path = site.store.writer.files[0]
    assert sound(path, ended=False)[1] == 4
    assert numbers(path) == [0, 1, 2, 7, 8, 9]
    assert site.store.losses(site.stored_session) == {Cause.UNKNOWN: 4}


def test_two_sessions_in_one_capture_by_our_clock(tmp_path: Path) -> None:
    folder, packing = Folder(str(tmp_path / "in")), Packing()
    path, checkpoint = str(tmp_path / "in" / "all.pcapng"), folder.checkpoint(TOKEN)
    store = Store(path, checkpoint, packing, merged=True)
    first, second = store.join(b"a" * 16, {"host": "one"}), store.join(b"b" * 16, {"host": "two"})
    store.take(first, 0, describe(1, 2, host="one"))
    store.take(second, 9, describe(1, host="two", extra="-two"))
    store.anchor(second, MONOTONIC, WALL + 1_000_000, "clock of two: 1 ms behind")
    store.take(first, 1, events(0, 10) + events(10, 10, id=2))
    store.take(second, 10, events(20, 10) + Lost(1, MONOTONIC, MONOTONIC, 2, 0, Cause.RING_FULL).frame())
    store.commit()
    store.close()
    assert sound(path, ended=False) == (30, 2)
    store = Store.again(checkpoint, packing)
    first, second = store.stored_sessions[b"a" * 16], store.stored_sessions[b"b" * 16]
    assert (first.next, second.next) == (2, 11)
    store.take(second, 11, events(30, 10) + b"".join(totals_frames({1: 22})))
    store.take(first, 2, b"".join(totals_frames({1: 10, 2: 10})))
    store.finish(second)
    store.finish(first)
    assert not store.closed
    assert store.balance(second) == (22, 20, 2)
    assert store.losses(second) == {Cause.RING_FULL: 2}
    assert store.losses(first) == {}
    store.close()
    assert sound(path) == (40, 2)
    found = read(path)
    assert [number for _, number, _ in found] == list(range(40))
    assert {wall - WALL - number for name, number, wall in found if "two" in name} == {1_000_000}
    assert {wall - WALL - number for name, number, wall in found if "two" not in name} == {0}
    with Capture(path) as capture:
        list(capture)
        assert {schema.host for schema in capture.schemas.values()} == {"one", "two"}


def test_stores_share_a_buffer(tmp_path: Path) -> None:
    packing = Packing()
    stores = [Store(str(tmp_path / f"{n}.pcapng"), None, packing) for n in range(3)]
    stored_sessions = [store.join(TOKEN, {}) for store in stores]
    for turn in range(20):
        for n, (store, stored_session) in enumerate(zip(stores, stored_sessions, strict=True)):
            store.take(stored_session, turn, (describe(1) if not turn else b"") + events(turn * 10 + n, 10))
    for n, (store, stored_session) in enumerate(zip(stores, stored_sessions, strict=True)):
        store.take(stored_session, 20, b"".join(totals_frames({1: 200})))
        store.finish(stored_session)
        assert numbers(store.path) == [turn * 10 + n + at for turn in range(20) for at in range(10)]
        assert sound(store.path) == (200, 0)


# ---------------------------------------------------------------------- a full disk


def test_a_further_file_is_begun_only_where_what_was_promised_finds_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A payload of small events is several buffers of packets: none is taken by halves."""
    real = Output.room
    further = 3 << 16

    def room(output: Output, size: int) -> bool:
        return real(output, size) if "-0001" in output.name else output.position + size <= further

    monkeypatch.setattr(Output, "room", room)
    site = Site(tmp_path / "in", Options(rotate_bytes=1 << 18))
    site.collected_session(describe(1))
    for turn in range(5):
        site.collected_session(events(2700 * turn, 2700))  # 64 KB, which make 190 KB of packets
    assert len(site.store.writer.files) == 1
    further = 1 << 30
    site.collected_session(events(13500, 2700), *totals_frames({1: 16200}))
    site.store.finish(site.stored_session)
    files = site.store.writer.files
    assert len(files) > 1
    assert numbers(*files) == list(range(16200))
    assert sound(*files) == (16200, 0)


@pytest.mark.parametrize("commit", [True, False])
@pytest.mark.parametrize("rotate", [0, 1 << 18])
def test_a_file_system_that_promises_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rotate: int, commit: bool
) -> None:
    """What was written of a payload when the disk was found full is not there twice, nor is it promised."""
    real, limit = Output._put, 1 << 30

    def put(output: Output, data: memoryview) -> int:
        return real(output, data[: max(0, limit - output.position)])

    monkeypatch.setattr(Output, "room", lambda output, size: True)
    monkeypatch.setattr(Output, "_put", put)
    site = Site(tmp_path / "in", Options(rotate_bytes=rotate))
    site.collected_session(describe(1))
    limit, sent = 150_000, 0

    def fill() -> None:
        nonlocal sent
        for _ in range(20):
            site.collected_session(events(sent, 2700), commit=commit)
            site.collected_session(events(sent + 2700, 10))
            sent += 2710

    with pytest.raises(CaptureError) as raised:
        fill()
    assert not isinstance(raised.value, FullError)  # after which the same would be tried again
    stored = site.stored_session.stored
    assert site.store.leave() is None
    site.folder.close()
    limit = 1 << 30
    site.store = Store.again(site.folder.checkpoint(TOKEN), Packing(), site.options)
    site.stored_session = site.store.stored_sessions[TOKEN]
    assert site.stored_session.next == stored
    site.sequence = stored
    done = site.store.balance(site.stored_session).stored
    site.collected_session(
        events(done, 5000 - done if done < 5000 else 5), *totals_frames({1: max(5000, done + 5)})
    )
    site.store.finish(site.stored_session)
    files = site.store.writer.files
    assert numbers(*files) == list(range(max(5000, done + 5)))


ON_A_SMALL_DISK = """
import ctypes, os, shutil, sys
from functools import partial
from pathlib import Path
from importlib.util import module_from_spec, spec_from_file_location
target, here, work = sys.argv[1:4]
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x20000):
    sys.exit(77)
libc.mount(None, b"/", None, 0x44000, None)  # private, recursive
if libc.mount(b"tmpfs", work.encode(), b"tmpfs", 0, b"size=3m"):
    sys.exit(77)
sys.path.insert(0, str(Path(here).parents[1] / "session"))
spec = spec_from_file_location("test_store", here)
t = module_from_spec(spec)
spec.loader.exec_module(t)
site = t.Site(Path(work, "in"))
site.collected_session(t.describe(1, 2))
Path(work, "ballast").write_bytes(bytes(2 << 20))
sent = 0
for turn in range(60):
    try:
        site.collected_session(t.events(sent, 1000))
    except t.FullError:
        break
    sent += 1000
else:
    sys.exit("it fits")
assert site.store.balance(site.stored_session).lost == 0
assert site.stored_session.stored == site.sequence < 61  # what was not taken is not promised
if sys.argv[4] == "kill":
    checkpoint = site.folder.checkpoint(t.TOKEN)
    site.folder.close()
    site.store.writer.close()
    site.store = t.Store.again(checkpoint, t.Packing())
    site.stored_session = site.store.stored_sessions[t.TOKEN]
    assert site.sequence == site.stored_session.next
elif sys.argv[4] == "describe":  # a probe for whose description there is no room
    symbols = {n << 12: f"a_function_of_a_long_name_{n}" for n in range(9000)}
    stored = site.stored_session.stored
    try:
        site.collected_session(*t.schema(3)._replace(symbols=symbols).frames())
        sys.exit("it fits")
    except (t.CheckpointError, t.FullError):
        assert site.stored_session.stored == stored  # nothing was promised
    site.store.leave()
    site.folder.close()
    os.unlink(work + "/ballast")
    site.store = t.Store.again(site.folder.checkpoint(t.TOKEN), t.Packing())
    site.stored_session = site.store.stored_sessions[t.TOKEN]
    site.sequence = site.stored_session.next
    site.collected_session(*t.schema(3)._replace(symbols=symbols).frames(), t.events(0, 500, id=3))
if sys.argv[4] != "describe":
    os.unlink(work + "/ballast")
site.collected_session(t.events(sent, 1000))  # the disk has room again
sent += 1000
site.collected_session(*t.totals_frames({1: sent, 2: 0} | ({3: 500} if sys.argv[4] == "describe" else {})))
site.store.finish(site.stored_session)
assert site.store.losses(site.stored_session) == {}
shutil.copy(site.store.writer.files[0], target)
print(sent + 500 * (sys.argv[4] == "describe"))
"""


@pytest.mark.parametrize("how", ["stay", "kill", "describe"])
def test_a_full_disk_takes_nothing_and_nothing_is_lost(tmp_path: Path, how: str) -> None:
    target, work = tmp_path / "out.pcapng", tmp_path / "work"
    work.mkdir()
    program = [sys.executable, "-c", ON_A_SMALL_DISK, str(target), __file__, str(work), how]
    done = subprocess.run(program, capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip("a file system cannot be mounted here")
    assert done.returncode == 0, done.stderr
    report = verify_file(str(target))
    assert report.complete, report
    assert report.totals.stored == int(done.stdout) > 3_000


# ---------------------------------------------------------------------- checkpoints, names, clocks


def book(path: Path | str, whole: dict[bytes, bytes] | None = None) -> Checkpoint:
    """A checkpoint; `whole` is what is in it when it is written anew."""
    return Checkpoint(str(path), lambda: Contents(dict(whole or {})))


def loaded(path: Path | str) -> dict[bytes, bytes]:
    checkpoint = book(path)
    try:
        return checkpoint.load()
    finally:
        checkpoint.close()


def test_a_checkpoint_gives_what_was_written_last(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    checkpoint = book(path, {b"who": b"a", b"n": b"0"})
    checkpoint.renew()
    for number in range(1, 6):
        checkpoint.write(Contents({b"n": b"%d" % number}))
    checkpoint.write(Contents({}, {b"once": b"x" * 9000}))
    checkpoint.close()
    again = book(path)
    assert again.load() == {b"who": b"a", b"n": b"5", b"once": b"x" * 9000}
    for value in (b"6" * 9000, b"6" * 4000 + b"7" * 100 + b"6" * 5000, b"6" * 10, b""):
        again.write(Contents({b"n": value}))  # grows, differs in the middle, shrinks
        assert loaded(path) == {b"who": b"a", b"n": value, b"once": b"x" * 9000}
    again.close()


def test_any_changes_of_a_checkpoint_against_a_model(tmp_path: Path) -> None:
    path, draw = tmp_path / "checkpoint", random.Random(7)
    model: dict[bytes, bytes] = {b"a": b""}
    checkpoint = Checkpoint(str(path), lambda: Contents(dict(model)))
    checkpoint.renew()
    for step in range(600):
        key = draw.choice([b"a", b"b", b"c"])
        value = bytearray(model.get(key, b""))
        size = draw.choice([len(value), len(value), draw.randrange(20_000)])
        value[size:] = draw.randbytes(max(0, size - len(value)))
        for _ in range(draw.randrange(4)):
            at = draw.randrange(max(1, size))
            value[at : at + 3] = draw.randbytes(len(value[at : at + 3]))
        model[key] = bytes(value)
        checkpoint.write(Contents({key: bytes(value)}))
        if step % 20 == 0:
            assert loaded(path) == model
        if step % 97 == 0:  # a successor goes on
            checkpoint.close()
            checkpoint = Checkpoint(str(path), lambda: Contents(dict(model)))
            assert checkpoint.load() == model
    assert os.path.getsize(path) < 4 * (sum(map(len, model.values())) + SLACK)
    checkpoint.close()


def test_what_a_checkpoint_writes_is_what_changed(tmp_path: Path) -> None:
    """Counts of bytes: a long value costs the part that differs, and a file full of old ones is renewed."""
    whole = {b"rows": bytes(1 << 20), b"n": b"0"}
    checkpoint = Checkpoint(str(tmp_path / "checkpoint"), lambda: Contents(dict(whole)))
    checkpoint.renew()
    for number in range(1, 2000):
        before = checkpoint.written
        whole[b"rows"] = bytes(64 * number) + b"!" + bytes((1 << 20) - 64 * number - 1)
        whole[b"n"] = b"%d" % number
        checkpoint.write(Contents(dict(whole)))
        assert checkpoint.written - before < 300
    before = checkpoint.written
    for number in range(20_000):
        whole[b"n"] = b"%d" % number
        checkpoint.write(Contents(dict(whole)))
    assert os.path.getsize(checkpoint.path) < 2 * (1 << 20) + 2 * SLACK + 2 * BLOCK
    assert checkpoint.written - before < 20_000 * 50 + 2 * (1 << 20)
    checkpoint.close()


def cut_checkpoint(tmp_path: Path) -> tuple[Path, bytes, list[int]]:
    """A checkpoint of four records, its bytes, and where they end."""
    path = tmp_path / "checkpoint"
    checkpoint = book(path, {b"n": b"0"})
    checkpoint.renew()
    ends = [checkpoint._end]
    for number in range(1, 4):
        checkpoint.write(Contents({b"n": b"%d" % number}))
        ends.append(checkpoint._end)
    checkpoint.close()
    return path, path.read_bytes(), ends


def test_a_torn_record_is_not_there_and_a_changed_checkpoint_is_damaged(tmp_path: Path) -> None:
    path, data, ends = cut_checkpoint(tmp_path)
    for at in range(ends[2], ends[3]):  # torn: the rest was not written
        path.write_bytes(data[:at] + bytes(len(data) - at))
        assert loaded(path) == {b"n": b"3" if data[at : ends[3]].strip(b"\0") == b"" else b"2"}
    for length in range(0, len(data), 7):  # cut
        path.write_bytes(data[:length])
        if length >= ends[3] + 12:
            assert loaded(path) == {b"n": b"3"}
        else:
            with pytest.raises(CheckpointError, match="damaged"):
                loaded(path)
    for at in range(ends[2]):  # changed: going back to what was before would forget what was acknowledged
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :])
        with pytest.raises(CheckpointError, match="damaged"):
            loaded(path)


def test_a_record_is_torn_whichever_of_its_blocks_are_missing(tmp_path: Path) -> None:
    """A power cut before the end of fdatasync(2): a file system writes blocks in any order."""
    path, old, new = tmp_path / "checkpoint", {b"n": b"0"}, {b"n": b"1", b"text": b"\xff" * 2 * BLOCK}
    checkpoint = book(path, old)
    checkpoint.renew()
    begin = checkpoint._end
    checkpoint.write(Contents(new))
    end, data = checkpoint._end, path.read_bytes()
    checkpoint.close()
    blocks = range(begin // BLOCK * BLOCK, end, BLOCK)
    assert len(blocks) == 3
    for there in itertools.product((False, True), repeat=len(blocks)):
        torn = bytearray(data[:begin] + bytes(len(data) - begin))
        for block in itertools.compress(blocks, there):
            torn[block : block + BLOCK] = data[block : block + BLOCK]
        path.write_bytes(torn)
        assert loaded(path) == (new if all(there) else old)


def test_a_checkpoint_that_was_deleted_is_put_back(tmp_path: Path) -> None:
    path, data, ends = cut_checkpoint(tmp_path)
    checkpoint = book(path)
    checkpoint.load()
    path.unlink()
    checkpoint.keep()
    assert path.read_bytes()[: ends[3]] == data[: ends[3]]
    checkpoint.write(Contents({b"n": b"4"}))
    assert loaded(path) == {b"n": b"4"}
    checkpoint.close()


def test_a_commit_costs_the_same_with_many_probes_and_sessions(tmp_path: Path) -> None:
    """Counts of bytes: what a commit writes does not grow with what there is."""
    costs = []
    for probes, sessions in ((1, 1), (10_000, 1), (1, 1000)):
        path = tmp_path / f"{probes}-{sessions}"
        folder = Folder(str(path))
        store = Store(folder.capture("box"), folder.checkpoint(TOKEN), Packing(), merged=True)
        stored_sessions = [
            store.join(number.to_bytes(16, "big"), {"host": "box"}) for number in range(sessions)
        ]
        for stored_session in stored_sessions:
            for first in range(1, probes + 1, 100):
                store.take(
                    stored_session, stored_session.next, describe(*range(first, min(first + 100, probes + 1)))
                )
        assert store._checkpoint is not None
        for number in range(4):
            store.take(stored_sessions[-1], stored_sessions[-1].next, events(number, 1, probes))
            store.commit()
        before = store._checkpoint.written
        store.take(stored_sessions[-1], stored_sessions[-1].next, events(9, 10, probes))
        store.commit()
        costs.append(store._checkpoint.written - before)
        store.leave()
        again = Store.again(folder.checkpoint(TOKEN), Packing())
        assert sum(again.writer.balances([number + 1])[0].stored for number in range(probes * sessions)) == 14
        again.close()
        folder.close()
    assert max(costs) < 500
    assert max(costs) < min(costs) + 100


def test_a_damaged_checkpoint_is_said(site: Site) -> None:
    site.collected_session(describe(1), events(0, 1))
    checkpoint = site.folder.checkpoint(TOKEN)
    front = cbor.dumps({"path": "x", "about": {}, "merged": False, "id": "0" * 32})
    about = cbor.dumps({"about": [], "anchor": []})
    wrong: list[dict[bytes, bytes]] = [
        {},
        {b"front": b""},
        {b"front": front, b"about" + TOKEN: about},
        {b"front": front, b"about" + TOKEN: about, b"lane " + TOKEN: b""},
        {b"front": front, b"file head": b"x"},
    ]
    for values in wrong:
        made = book(checkpoint, values)
        made.renew()
        made.close()
        with pytest.raises(CheckpointError, match="damaged"):
            Store.again(checkpoint, Packing())


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("web1.example", "web1.example"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("/", "_"),
        ("..", "unknown"),
        ("", "unknown"),
        (".hidden", "hidden"),
        ("-rf", "rf"),
        ("a b\n\0c", "a_b_c"),
        ("\x1b[2J", "_2J"),
        ("ünïcode", "_n_code"),
        ("x" * 5000, "x" * 64),
    ],
)
def test_a_host_name_cannot_be_a_path(host: str, name: str) -> None:
    assert harmless(host) == name


def test_names_are_free_and_in_the_folder(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "a" / "b"))
    first = folder.capture("../x", 0)
    assert first == str(tmp_path / "a" / "b" / "_x-19700101-000000.pcapng")
    Path(first).touch()
    second = folder.capture("../x", 0)
    assert second.endswith("000000.2.pcapng")
    Path(second.replace(".pcapng", "-0001.pcapng")).touch()
    assert folder.capture("../x", 0).endswith("000000.3.pcapng")


def test_one_collector_a_folder(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    with pytest.raises(FolderError, match="another collector"):
        Folder(str(tmp_path))
    folder.close()
    Folder(str(tmp_path)).close()


def test_old_checkpoints_go(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    for token in (b"a" * 16, b"b" * 16):
        Path(folder.checkpoint(token)).touch()
    os.utime(folder.checkpoint(b"a" * 16), (0, 0))
    assert list(folder.checkpoints()) == [folder.checkpoint(b"b" * 16)]
    assert os.listdir(tmp_path / ".sessions") == [(b"b" * 16).hex()]


class Clocks:
    """Ours, and an agent's that runs 40 ppm fast and began elsewhere."""

    def __init__(self) -> None:
        self.ours = 1_000_000_000_000

    @property
    def theirs(self) -> int:
        return 77_000_000_000 + self.ours + (self.ours - 1_000_000_000_000) // 25_000


def test_the_offset_is_that_of_the_quickest_answers() -> None:
    clocks = Clocks()
    estimator = clock.Estimator(lambda: clocks.ours)
    assert estimator.offset is None
    for there, back in [(900, 100), (120, 100), (5000, 50), (100, 9000)]:
        assert estimator.ask() == {"op": "clock"}
        clocks.ours += there * 1000
        received = clocks.theirs
        clocks.ours += 30_000
        sent = clocks.theirs
        clocks.ours += back * 1000
        assert estimator.told({"ok": True, "received": received, "sent": sent, "wall": 0}, 0)
    assert estimator.offset is not None
    truth = clocks.ours - clocks.theirs
    assert abs(estimator.offset.monotonic - truth) <= 11_000 <= estimator.offset.error < 130_000


def test_an_agent_that_tells_no_clock() -> None:
    estimator = clock.Estimator()
    estimator.ask()
    assert not estimator.told({"error": {"cause": "unknown op"}})
    assert estimator.refused
    assert estimator.offset is None


def test_answers_that_cannot_be_are_ignored() -> None:
    estimator = clock.Estimator()
    estimator.ask()
    assert estimator.told({"received": 5, "sent": 5 + (1 << 60), "wall": 0})
    assert estimator.offset is None
    assert estimator.told(clock.answer())
    found = estimator.offset
    assert found is not None
    assert abs(found.monotonic) <= found.error
    assert abs(found.wall) < 1_000_000_000
