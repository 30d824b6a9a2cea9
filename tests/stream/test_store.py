"""Stores: exactly once through kills and full disks, hostile payloads, numbers, names, clocks."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kwire.capture.output import CaptureError, GoneError, Output
from kwire.capture.output import FullError as FullError
from kwire.capture.reader import Capture
from kwire.capture.verify import verify_file, verify_set
from kwire.stream import clock
from kwire.stream.folder import Folder, FolderError, harmless
from kwire.stream.lane import Lane
from kwire.stream.ledger import BLOCK, SLACK, Contents, Ledger, LedgerError
from kwire.stream.store import Options, Packing, Store
from kwire.wire import cbor
from kwire.wire.frame import Type, build
from kwire.wire.messages import Cause, Lost
from kwire.wire.schema import Clock, Field, Schema
from kwire.wire.totals import totals_frames

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


OPEN = "no closing statistics of its probes: the recorder was killed, or is still recording"


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
            self.folder.capture("box"), self.folder.ledger(TOKEN), Packing(), options, {"host": "box"}
        )
        self.lane = self.store.join(TOKEN, {"host": "box"})
        self.sequence = 0

    def feed(self, *payloads: bytes, commit: bool = True) -> None:
        for payload in payloads:
            self.store.take(self.lane, self.sequence, payload)
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
        self.store = Store.again(self.folder.ledger(TOKEN), Packing(), self.options, spare)
        self.lane = self.store.lanes[TOKEN]
        self.sequence = self.lane.next


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "in")


def test_what_a_session_delivers_is_a_complete_capture(site: Site) -> None:
    lost = Lost(2, MONOTONIC, MONOTONIC + 5, 3, 0, Cause.RING_FULL).frame()
    site.feed(describe(1, 2), events(0, 1000) + lost, events(0, 10, id=2))
    assert site.lane.stored == 3
    site.feed(*totals_frames({1: 1000, 2: 13}))
    totals = site.store.finish(site.lane)
    assert [tuple(totals[id]) for id in (1, 2)] == [(1000, 1000, 0), (13, 10, 3)]
    path = site.store.writer.files[0]
    assert sound(path) == (1010, 3)
    assert numbers(path) == [*range(1000), *range(10)]
    assert site.store.losses(site.lane) == {Cause.RING_FULL: 3}


def test_totals_that_do_not_fit_are_a_problem(site: Site) -> None:
    site.feed(describe(1), events(0, 10), *totals_frames({1: 11}))
    site.store.finish(site.lane)
    assert "1 is missing" in verify_file(site.store.writer.files[0]).problems[0]


def test_only_what_the_ledger_knows_is_safe(site: Site) -> None:
    site.feed(describe(1), events(0, 100))
    assert site.lane.stored == 2
    site.feed(events(100, 100), commit=False)
    assert (site.lane.stored, site.lane.next) == (2, 3)
    assert site.store.commit() == [site.lane]
    assert site.lane.stored == 3
    assert site.store.commit() == []


@pytest.mark.parametrize("flushed", [False, True])
@pytest.mark.parametrize("rotate", [0, 1 << 18])
def test_a_killed_collector_resumes_exactly(tmp_path: Path, flushed: bool, rotate: int) -> None:
    """Killed again and again, with more on the disk than the ledger knows, or in memory only."""
    site = Site(tmp_path / "in", Options(rotate_bytes=rotate))
    site.feed(describe(1))
    done = 0
    for turn in range(6):
        site.feed(events(done, 1500))
        done += 1500
        site.feed(events(done, 700), events(done + 700, 800), commit=False)  # never acknowledged
        if flushed:
            site.store.flush()
        site.killed()
        assert site.sequence == turn + 2
    site.feed(events(done, 5), *totals_frames({1: done + 5}))
    site.store.finish(site.lane)
    files = site.store.writer.files
    assert (len(files) > 1) == bool(rotate)
    assert numbers(*files) == list(range(done + 5))
    assert sound(*files) == (done + 5, 0)


def test_a_kill_between_rotation_and_ledger(tmp_path: Path) -> None:
    """The next file is there, the one before has its ending, and the ledger knows of neither."""
    site = Site(tmp_path / "in", Options(rotate_bytes=1 << 18))
    site.feed(describe(1), events(0, 2000))
    assert len(site.store.writer.files) == 1
    site.feed(events(2000, 4000), events(6000, 4000), events(10000, 1), commit=False)
    site.store.flush()
    assert len(site.store.writer.files) > 1
    site.killed()
    site.feed(events(2000, 4000), events(6000, 3000), *totals_frames({1: 9000}))
    site.store.finish(site.lane)
    files = site.store.writer.files
    assert sorted(os.listdir(site.path)) == sorted([".sessions", *map(os.path.basename, files)])
    assert numbers(*files) == list(range(9000))
    assert sound(*files) == (9000, 0)


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("gone", [False, True])
def test_files_that_the_ledger_has_not_heard_of_are_not_left(tmp_path: Path, gone: bool, moved: bool) -> None:
    """What is in them comes again, wherever it is written then."""
    site = Site(tmp_path / "in", Options(rotate_bytes=1 << 18))
    site.feed(describe(1), events(0, 2000))
    site.feed(events(2000, 4000), events(6000, 4000), events(10000, 1), commit=False)
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
    site.feed(events(2000, 10), *totals_frames({1: 2010}))
    site.store.finish(site.lane)
    other.unlink()
    files = sorted(site.path.glob("*.pcapng"))
    stored = [number for path in files for _, number, _ in read(str(path), whole=not gone)]
    assert len(stored) == len(set(stored))
    assert len(stored) + site.store.losses(site.lane).get(Cause.CAPTURE_GONE, 0) == 2010


def test_what_is_left_of_captures_that_were_cut_is_named_as_long_as_it_counts(tmp_path: Path) -> None:
    """Twice, and after a kill that follows: the files named hold the events told."""
    site = Site(tmp_path / "in", Options())
    site.feed(describe(1), events(0, 1000))
    cut = []
    for first in (1000, 2000):
        [path] = site.store.writer.files[-1:]
        site.store.leave()
        os.truncate(path, 5000)
        cut.append(path)
        site.killed(lambda: site.folder.capture("box"))
        site.feed(events(first, 1000))
        site.killed()
    files = site.store.writer.files
    assert files[:-1] == cut
    site.feed(events(3000, 10), *totals_frames({1: 3010}))
    site.store.finish(site.lane)
    stored = [number for path in files for _, number, _ in read(path, whole=path == files[-1])]
    assert len(stored) == len(set(stored)) == site.store.balance(site.lane).stored
    assert 0 < 3010 - len(stored) == site.store.losses(site.lane)[Cause.CAPTURE_GONE]


def test_a_collector_that_stops_leaves_whole_captures_and_goes_on_later(site: Site) -> None:
    site.feed(describe(1), events(0, 10))
    site.store.close()
    path = site.store.writer.files[0]
    assert sound(path, ended=False) == (10, 0)
    site.store = Store.again(site.folder.ledger(TOKEN), Packing())
    site.lane = site.store.lanes[TOKEN]
    site.feed(events(10, 10), *totals_frames({1: 20}))
    site.store.finish(site.lane)
    assert site.store.writer.files == [path]
    assert numbers(path) == list(range(20))
    assert sound(path) == (20, 0)


def test_the_ending_is_on_the_disk_before_the_ledger_forgets_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `sync`: else a disk that fails takes the ending, and nobody writes it again."""
    site = Site(tmp_path / "in", Options(sync=True))
    site.feed(describe(1), events(0, 10), *totals_frames({1: 10}))
    [path] = site.store.writer.files
    steps = []
    fsync, renew = os.fsync, Ledger.renew

    def synced(fd: int) -> None:
        fsync(fd)
        if os.path.samestat(os.fstat(fd), os.stat(path)):
            steps.append(("synced", os.fstat(fd).st_size))

    def renewed(ledger: Ledger) -> None:
        steps.append(("renewed", os.stat(path).st_size))
        renew(ledger)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Ledger, "renew", renewed)
    site.store.finish(site.lane)
    size = os.stat(path).st_size
    assert steps == [("synced", size), ("renewed", size)]


def test_a_session_that_is_over_is_remembered_without_its_file(site: Site) -> None:
    site.feed(describe(1), events(0, 10), *totals_frames({1: 10}))
    site.store.finish(site.lane)
    os.unlink(site.store.writer.files[0])
    again = Store.again(site.folder.ledger(TOKEN), Packing())
    assert again.closed
    assert again.lanes[TOKEN].done
    assert again.lanes[TOKEN].next == 3


def test_a_kill_before_the_ending_was_written(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.feed(describe(1), events(0, 10), *totals_frames({1: 10}))
    site.killed()
    assert not site.store.closed  # the source has not said BYE: more totals may come
    site.store.close()
    assert sound(str(next(site.path.glob("*.pcapng")))) == (10, 0)


def test_a_file_that_is_gone_is_gone_on_with_elsewhere(site: Site, tmp_path: Path) -> None:
    site.feed(describe(1), events(0, 10))
    site.store.close()
    os.unlink(site.store.writer.files[0])
    ledger, elsewhere = site.folder.ledger(TOKEN), str(tmp_path / "else.pcapng")
    with pytest.raises(GoneError, match="it is not there any more"):
        Store.again(ledger, Packing())
    store = Store.again(ledger, Packing(), Options(), lambda: elsewhere)
    lane = store.lanes[TOKEN]
    for payload in (events(10, 10), *totals_frames({1: 20})):
        store.take(lane, lane.next, payload)
    assert store.losses(lane) == {Cause.CAPTURE_GONE: 10}
    store.finish(lane)
    assert sound(elsewhere) == (10, 10)
    assert numbers(elsewhere) == list(range(10, 20))


def test_a_copy_of_a_folder_is_gone_on_with_apart(site: Site, tmp_path: Path) -> None:
    """A backup that a collector is shown writes to itself, never to the folder that it is a copy of."""
    site.feed(describe(1), *(events(first, 50) for first in range(0, 500, 50)))
    shutil.copytree(site.path, tmp_path / "copy")
    site.feed(events(500, 50))
    copy = Folder(str(tmp_path / "copy"))
    again = Store.again(copy.ledger(TOKEN), Packing(), site.options, lambda: copy.capture("box"))
    lane = again.lanes[TOKEN]
    again.take(lane, lane.next, events(500, 70))
    again.commit()
    site.feed(events(550, 50), *totals_frames({1: 600}))
    site.store.finish(site.lane)
    again.close()
    assert numbers(*map(str, sorted(site.path.glob("*.pcapng")))) == list(range(600))
    assert numbers(*map(str, sorted((tmp_path / "copy").glob("*.pcapng")))) == list(range(570))


def test_a_folder_that_was_renamed_is_gone_on_with(site: Site, tmp_path: Path) -> None:
    site.feed(describe(1), events(0, 10))
    site.store.leave()
    site.folder.close()
    site.path.rename(tmp_path / "elsewhere")
    folder = Folder(str(tmp_path / "elsewhere"))
    store = Store.again(folder.ledger(TOKEN), Packing(), spare=lambda: folder.capture("box"))
    lane = store.lanes[TOKEN]
    for payload in (events(10, 10), *totals_frames({1: 20})):
        store.take(lane, lane.next, payload)
    store.finish(lane)
    assert sound(store.writer.files[0]) == (20, 0)
    assert store.path == str(tmp_path / "elsewhere" / os.path.basename(site.store.path))


def test_losses_told_in_a_file_that_is_gone_are_told_again(site: Site, tmp_path: Path) -> None:
    lost = Lost(1, MONOTONIC, MONOTONIC + 9, 7, 0, Cause.RING_FULL).frame()
    site.feed(describe(1), events(0, 10) + lost, events(10, 5))
    site.store.close()
    os.unlink(site.store.writer.files[0])
    path = str(tmp_path / "else.pcapng")
    store = Store.again(site.folder.ledger(TOKEN), Packing(), Options(), lambda: path)
    lane = store.lanes[TOKEN]
    for payload in totals_frames({1: 22}):
        store.take(lane, lane.next, payload)
    store.finish(lane)
    assert store.losses(lane) == {Cause.RING_FULL: 7, Cause.CAPTURE_GONE: 15}
    assert sound(path) == (0, 22)


@pytest.mark.parametrize("size", [0, 200, 1500])
def test_what_is_left_of_a_file_that_was_cut_counts_as_stored(site: Site, tmp_path: Path, size: int) -> None:
    site.feed(describe(1), *(events(first, 10) for first in range(0, 100, 10)))
    site.store.leave()
    cut = site.store.writer.files[0]
    os.truncate(cut, size)
    path = str(tmp_path / "else.pcapng")
    store = Store.again(site.folder.ledger(TOKEN), Packing(), Options(), lambda: path)
    lane = store.lanes[TOKEN]
    for payload in (events(100, 10), *totals_frames({1: 110})):
        store.take(lane, lane.next, payload)
    gone = store.losses(lane)[Cause.CAPTURE_GONE]
    store.finish(lane)
    left = [number for file in store.writer.files for number in numbers_of_cut(file)]
    assert len(left) == len(set(left))
    assert len(left) + gone == 110
    assert store.balance(lane) == (110, len(left), gone)


def numbers_of_cut(path: str) -> list[int]:
    try:
        return [number for _, number, _ in read(path, whole=False)]
    except CaptureError:
        return []


@pytest.mark.parametrize("how", ["deleted", "cut", "cut and written on"])
def test_a_file_that_goes_while_it_is_written_is_noticed_before_more_is_promised(
    site: Site, how: str
) -> None:
    site.feed(describe(1), *(events(first, 100) for first in range(0, 1000, 100)))
    path = site.store.writer.files[0]
    if how == "deleted":
        os.unlink(path)
    else:
        os.truncate(path, 0)
    if how == "cut and written on":
        os.pwrite(site.store.writer._file.output.fd, b"x" * 100, site.store.writer.size - 100)
    stored = site.lane.stored
    with pytest.raises(GoneError):
        site.feed(events(1000, 10))
    assert site.lane.stored == stored


def test_a_file_that_is_moved_is_ended_and_another_one_begun(tmp_path: Path) -> None:
    folder, packing = Folder(str(tmp_path / "in")), Packing()
    spare = lambda: folder.capture("box", 0)  # noqa: E731
    Store.promise(folder.ledger(TOKEN), Lane(TOKEN, {"host": "box"}), False)
    store = Store.again(folder.ledger(TOKEN), packing, Options(), spare)
    lane = store.join(TOKEN, {"host": "box"})
    for payload in (describe(1), events(0, 10)):
        store.take(lane, lane.next, payload)
    store.commit()
    moved = tmp_path / "moved.pcapng"
    os.rename(store.path_now, moved)
    for payload in (events(10, 10), *totals_frames({1: 20})):
        store.take(lane, lane.next, payload)
    store.commit()
    store.finish(lane)
    assert numbers(str(moved), store.path_now) == list(range(20))
    assert sound(str(moved), store.path_now) == (20, 0)
    assert store.losses(lane) == {}
    folder.close()


def test_probes_join_are_described_again_and_have_any_number(site: Site) -> None:
    site.feed(describe(7), events(0, 5, id=7) + describe(3) + events(5, 5, id=3) + events(10, 5, id=7))
    site.killed()
    site.feed(describe(1) + events(15, 5), describe(7, monotonic=MONOTONIC - 1000), events(20, 2, id=7))
    site.feed(*totals_frames({7: 12, 3: 5, 1: 5}))
    site.store.finish(site.lane)
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
    site.feed(parts[0])
    site.killed()
    site.feed(*parts[1:], events(0, 3), *totals_frames({1: 3}))
    site.store.finish(site.lane)
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
    ledger = Folder(str(home)).ledger(TOKEN)
    tokens = [b"a" * 16, b"b" * 16]
    store = Store(path, ledger, Packing(), options, merged=True)
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
                store.flush()  # in the file, but not in the ledger
            if chance.random() < 0.3:
                store.close()
            shutil.copytree(home, tmp_path / "copy")
            if not store.closed:
                store.leave()
            shutil.rmtree(home)
            (tmp_path / "copy").rename(home)
            store = Store.again(ledger, Packing(), options)
            taken = {token: store.lanes[token].next if token in store.lanes else 0 for token in tokens}
    for token in tokens:
        store.take(store.lanes[token], taken[token], b"".join(totals_frames(produced[token])))
        store.finish(store.lanes[token])
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
        assert store.balance(store.lanes[token]).stored == len(theirs)


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
    site.feed(HOSTILE[name])
    site.feed(describe(1), events(0, 10), HOSTILE[name] + events(10, 10))
    assert site.lane.errors
    assert site.lane.complaints
    site.killed()
    site.feed(events(20, 10))
    site.store.finish(site.lane)
    path = site.store.writer.files[0]
    sound(path, ended=False)
    found = numbers(path)
    assert [number for number in found if number != 1 or "half" not in name][-10:] == list(range(20, 30))
    assert set(range(10)) <= set(found)


def test_events_of_nobody_are_counted_lost(site: Site) -> None:
    site.feed(describe(1), events(0, 3) + events(3, 4, id=2) + events(7, 3))
    site.store.finish(site.lane)
    path = site.store.writer.files[0]
    assert sound(path, ended=False)[1] == 4
    assert numbers(path) == [0, 1, 2, 7, 8, 9]
    assert site.store.losses(site.lane) == {Cause.UNKNOWN: 4}


def test_two_sessions_in_one_capture_by_our_clock(tmp_path: Path) -> None:
    folder, packing = Folder(str(tmp_path / "in")), Packing()
    path, ledger = str(tmp_path / "in" / "all.pcapng"), folder.ledger(TOKEN)
    store = Store(path, ledger, packing, merged=True)
    first, second = store.join(b"a" * 16, {"host": "one"}), store.join(b"b" * 16, {"host": "two"})
    store.take(first, 0, describe(1, 2, host="one"))
    store.take(second, 9, describe(1, host="two", extra="-two"))
    store.anchor(second, MONOTONIC, WALL + 1_000_000, "clock of two: 1 ms behind")
    store.take(first, 1, events(0, 10) + events(10, 10, id=2))
    store.take(second, 10, events(20, 10) + Lost(1, MONOTONIC, MONOTONIC, 2, 0, Cause.RING_FULL).frame())
    store.commit()
    store.close()
    assert sound(path, ended=False) == (30, 2)
    store = Store.again(ledger, packing)
    first, second = store.lanes[b"a" * 16], store.lanes[b"b" * 16]
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
    lanes = [store.join(TOKEN, {}) for store in stores]
    for turn in range(20):
        for n, (store, lane) in enumerate(zip(stores, lanes, strict=True)):
            store.take(lane, turn, (describe(1) if not turn else b"") + events(turn * 10 + n, 10))
    for n, (store, lane) in enumerate(zip(stores, lanes, strict=True)):
        store.take(lane, 20, b"".join(totals_frames({1: 200})))
        store.finish(lane)
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
    site.feed(describe(1))
    for turn in range(5):
        site.feed(events(2700 * turn, 2700))  # 64 KB, which make 190 KB of packets
    assert len(site.store.writer.files) == 1
    further = 1 << 30
    site.feed(events(13500, 2700), *totals_frames({1: 16200}))
    site.store.finish(site.lane)
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
    site.feed(describe(1))
    limit, sent = 150_000, 0

    def fill() -> None:
        nonlocal sent
        for _ in range(20):
            site.feed(events(sent, 2700), commit=commit)
            site.feed(events(sent + 2700, 10))
            sent += 2710

    with pytest.raises(CaptureError) as raised:
        fill()
    assert not isinstance(raised.value, FullError)  # after which the same would be tried again
    stored = site.lane.stored
    assert site.store.leave() is None
    site.folder.close()
    limit = 1 << 30
    site.store = Store.again(site.folder.ledger(TOKEN), Packing(), site.options)
    site.lane = site.store.lanes[TOKEN]
    assert site.lane.next == stored
    site.sequence = stored
    done = site.store.balance(site.lane).stored
    site.feed(events(done, 5000 - done if done < 5000 else 5), *totals_frames({1: max(5000, done + 5)}))
    site.store.finish(site.lane)
    files = site.store.writer.files
    assert numbers(*files) == list(range(max(5000, done + 5)))


ON_A_SMALL_DISK = """
import ctypes, os, shutil, sys
from pathlib import Path
from importlib.util import module_from_spec, spec_from_file_location
target, here, work = sys.argv[1:4]
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x20000):
    sys.exit(77)
libc.mount(None, b"/", None, 0x44000, None)  # private, recursive
if libc.mount(b"tmpfs", work.encode(), b"tmpfs", 0, b"size=3m"):
    sys.exit(77)
spec = spec_from_file_location("test_store", here)
t = module_from_spec(spec)
spec.loader.exec_module(t)
site = t.Site(Path(work, "in"))
site.feed(t.describe(1, 2))
Path(work, "ballast").write_bytes(bytes(2 << 20))
sent = 0
for turn in range(60):
    try:
        site.feed(t.events(sent, 1000))
    except t.FullError:
        break
    sent += 1000
else:
    sys.exit("it fits")
assert site.store.balance(site.lane).lost == 0
assert site.lane.stored == site.sequence < 61  # what was not taken is not promised
if sys.argv[4] == "kill":
    ledger = site.folder.ledger(t.TOKEN)
    site.folder.close()
    site.store.writer.close()
    site.store = t.Store.again(ledger, t.Packing())
    site.lane = site.store.lanes[t.TOKEN]
    assert site.sequence == site.lane.next
elif sys.argv[4] == "describe":  # a probe for whose description there is no room
    symbols = {n << 12: f"a_function_of_a_long_name_{n}" for n in range(9000)}
    stored = site.lane.stored
    try:
        site.feed(*t.schema(3)._replace(symbols=symbols).frames())
        sys.exit("it fits")
    except (t.LedgerError, t.FullError):
        assert site.lane.stored == stored  # nothing was promised
    site.store.leave()
    site.folder.close()
    os.unlink(work + "/ballast")
    site.store = t.Store.again(site.folder.ledger(t.TOKEN), t.Packing())
    site.lane = site.store.lanes[t.TOKEN]
    site.sequence = site.lane.next
    site.feed(*t.schema(3)._replace(symbols=symbols).frames(), t.events(0, 500, id=3))
if sys.argv[4] != "describe":
    os.unlink(work + "/ballast")
site.feed(t.events(sent, 1000))  # the disk has room again
sent += 1000
site.feed(*t.totals_frames({1: sent, 2: 0} | ({3: 500} if sys.argv[4] == "describe" else {})))
site.store.finish(site.lane)
assert site.store.losses(site.lane) == {}
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


# ---------------------------------------------------------------------- ledgers, names, clocks


def book(path: Path | str, whole: dict[bytes, bytes] | None = None) -> Ledger:
    """A ledger; `whole` is what is in it when it is written anew."""
    return Ledger(str(path), lambda: Contents(dict(whole or {})))


def loaded(path: Path | str) -> dict[bytes, bytes]:
    ledger = book(path)
    try:
        return ledger.load()
    finally:
        ledger.close()


def test_a_ledger_gives_what_was_written_last(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    ledger = book(path, {b"who": b"a", b"n": b"0"})
    ledger.renew()
    for number in range(1, 6):
        ledger.write(Contents({b"n": b"%d" % number}))
    ledger.write(Contents({}, {b"once": b"x" * 9000}))
    ledger.close()
    again = book(path)
    assert again.load() == {b"who": b"a", b"n": b"5", b"once": b"x" * 9000}
    for value in (b"6" * 9000, b"6" * 4000 + b"7" * 100 + b"6" * 5000, b"6" * 10, b""):
        again.write(Contents({b"n": value}))  # grows, differs in the middle, shrinks
        assert loaded(path) == {b"who": b"a", b"n": value, b"once": b"x" * 9000}
    again.close()


def test_any_changes_of_a_ledger_against_a_model(tmp_path: Path) -> None:
    path, draw = tmp_path / "ledger", random.Random(7)
    model: dict[bytes, bytes] = {b"a": b""}
    ledger = Ledger(str(path), lambda: Contents(dict(model)))
    ledger.renew()
    for step in range(600):
        key = draw.choice([b"a", b"b", b"c"])
        value = bytearray(model.get(key, b""))
        size = draw.choice([len(value), len(value), draw.randrange(20_000)])
        value[size:] = draw.randbytes(max(0, size - len(value)))
        for _ in range(draw.randrange(4)):
            at = draw.randrange(max(1, size))
            value[at : at + 3] = draw.randbytes(len(value[at : at + 3]))
        model[key] = bytes(value)
        ledger.write(Contents({key: bytes(value)}))
        if step % 20 == 0:
            assert loaded(path) == model
        if step % 97 == 0:  # a successor goes on
            ledger.close()
            ledger = Ledger(str(path), lambda: Contents(dict(model)))
            assert ledger.load() == model
    assert os.path.getsize(path) < 4 * (sum(map(len, model.values())) + SLACK)
    ledger.close()


def test_what_a_ledger_writes_is_what_changed(tmp_path: Path) -> None:
    """Counts of bytes: a long value costs the part that differs, and a file full of old ones is renewed."""
    whole = {b"rows": bytes(1 << 20), b"n": b"0"}
    ledger = Ledger(str(tmp_path / "ledger"), lambda: Contents(dict(whole)))
    ledger.renew()
    for number in range(1, 2000):
        before = ledger.written
        whole[b"rows"] = bytes(64 * number) + b"!" + bytes((1 << 20) - 64 * number - 1)
        whole[b"n"] = b"%d" % number
        ledger.write(Contents(dict(whole)))
        assert ledger.written - before < 300
    before = ledger.written
    for number in range(20_000):
        whole[b"n"] = b"%d" % number
        ledger.write(Contents(dict(whole)))
    assert os.path.getsize(ledger.path) < 2 * (1 << 20) + 2 * SLACK + 2 * BLOCK
    assert ledger.written - before < 20_000 * 50 + 2 * (1 << 20)
    ledger.close()


def cut_ledger(tmp_path: Path) -> tuple[Path, bytes, list[int]]:
    """A ledger of four records, its bytes, and where they end."""
    path = tmp_path / "ledger"
    ledger = book(path, {b"n": b"0"})
    ledger.renew()
    ends = [ledger._end]
    for number in range(1, 4):
        ledger.write(Contents({b"n": b"%d" % number}))
        ends.append(ledger._end)
    ledger.close()
    return path, path.read_bytes(), ends


def test_a_torn_record_is_not_there_and_a_changed_ledger_is_damaged(tmp_path: Path) -> None:
    path, data, ends = cut_ledger(tmp_path)
    for at in range(ends[2], ends[3]):  # torn: the rest was not written
        path.write_bytes(data[:at] + bytes(len(data) - at))
        assert loaded(path) == {b"n": b"3" if data[at : ends[3]].strip(b"\0") == b"" else b"2"}
    for length in range(0, len(data), 7):  # cut
        path.write_bytes(data[:length])
        if length >= ends[3] + 12:
            assert loaded(path) == {b"n": b"3"}
        else:
            with pytest.raises(LedgerError, match="damaged"):
                loaded(path)
    for at in range(ends[2]):  # changed: going back to what was before would forget what was acknowledged
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :])
        with pytest.raises(LedgerError, match="damaged"):
            loaded(path)


def test_a_record_is_torn_whichever_of_its_blocks_are_missing(tmp_path: Path) -> None:
    """A power cut before the end of fdatasync(2): a file system writes blocks in any order."""
    path, old, new = tmp_path / "ledger", {b"n": b"0"}, {b"n": b"1", b"text": b"\xff" * 2 * BLOCK}
    ledger = book(path, old)
    ledger.renew()
    begin = ledger._end
    ledger.write(Contents(new))
    end, data = ledger._end, path.read_bytes()
    ledger.close()
    blocks = range(begin // BLOCK * BLOCK, end, BLOCK)
    assert len(blocks) == 3
    for there in itertools.product((False, True), repeat=len(blocks)):
        torn = bytearray(data[:begin] + bytes(len(data) - begin))
        for block in itertools.compress(blocks, there):
            torn[block : block + BLOCK] = data[block : block + BLOCK]
        path.write_bytes(torn)
        assert loaded(path) == (new if all(there) else old)


def test_a_ledger_that_was_deleted_is_put_back(tmp_path: Path) -> None:
    path, data, ends = cut_ledger(tmp_path)
    ledger = book(path)
    ledger.load()
    path.unlink()
    ledger.keep()
    assert path.read_bytes()[: ends[3]] == data[: ends[3]]
    ledger.write(Contents({b"n": b"4"}))
    assert loaded(path) == {b"n": b"4"}
    ledger.close()


def test_a_commit_costs_the_same_with_many_probes_and_sessions(tmp_path: Path) -> None:
    """Counts of bytes: what a commit writes does not grow with what there is."""
    costs = []
    for probes, sessions in ((1, 1), (10_000, 1), (1, 1000)):
        path = tmp_path / f"{probes}-{sessions}"
        folder = Folder(str(path))
        store = Store(folder.capture("box"), folder.ledger(TOKEN), Packing(), merged=True)
        lanes = [store.join(number.to_bytes(16, "big"), {"host": "box"}) for number in range(sessions)]
        for lane in lanes:
            for first in range(1, probes + 1, 100):
                store.take(lane, lane.next, describe(*range(first, min(first + 100, probes + 1))))
        assert store._ledger is not None
        for number in range(4):
            store.take(lanes[-1], lanes[-1].next, events(number, 1, probes))
            store.commit()
        before = store._ledger.written
        store.take(lanes[-1], lanes[-1].next, events(9, 10, probes))
        store.commit()
        costs.append(store._ledger.written - before)
        store.leave()
        again = Store.again(folder.ledger(TOKEN), Packing())
        assert sum(again.writer.balances([number + 1])[0].stored for number in range(probes * sessions)) == 14
        again.close()
        folder.close()
    assert max(costs) < 500
    assert max(costs) < min(costs) + 100


def test_a_damaged_ledger_is_said(site: Site) -> None:
    site.feed(describe(1), events(0, 1))
    ledger = site.folder.ledger(TOKEN)
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
        made = book(ledger, values)
        made.renew()
        made.close()
        with pytest.raises(LedgerError, match="damaged"):
            Store.again(ledger, Packing())


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


def test_old_ledgers_go(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    for token in (b"a" * 16, b"b" * 16):
        Path(folder.ledger(token)).touch()
    os.utime(folder.ledger(b"a" * 16), (0, 0))
    assert list(folder.ledgers()) == [folder.ledger(b"b" * 16)]
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
