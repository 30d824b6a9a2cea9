"""Spool, writer and disk in every order: nothing waits for what waits for it, and nothing is forgotten.

The disk is the real one, between which and the spool stands one that refuses when it is told to. In the first
test the writer takes its steps when the schedule says so, in one thread; in the second it is a thread of its
own, and a watchdog looks whether anything stands still.
"""

import errno
import os
import random
import shutil
import struct
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kwire.agent import manifest, segment, spool_state, spool_writer
from kwire.agent import spool as spools
from kwire.agent.spool import Spool, begin, recover
from kwire.wire.frame import Type, read_lenient
from kwire.wire.frames import Frames
from kwire.wire.messages import Lost

MB = 1 << 20
REFUSABLE = ("open", "pwrite", "pwritev", "fsync", "fdatasync", "unlink", "rename", "ftruncate")
TROUBLES = (errno.ENOSPC, errno.EROFS, errno.EIO, errno.EACCES, errno.EDQUOT)


class Disk:
    """`os`, of which some calls fail: each with a chance, where `refuses` is set."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.chance = 0.0
        self.trouble = errno.ENOSPC
        self.refused = 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in REFUSABLE:
            return real

        def call(*arguments: Any, **named: Any) -> Any:
            writes = name != "open" or arguments[1] & (os.O_CREAT | os.O_WRONLY)
            if writes and self.random.random() < self.chance:
                self.refused += 1
                if name == "pwritev" and self.random.random() < 0.5:  # a part of it finds room
                    return os.pwritev(arguments[0], [b"".join(arguments[1])[:100]], arguments[2])
                raise OSError(self.trouble, os.strerror(self.trouble))
            return real(*arguments, **named)

        return call


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Disk]:
    def make(seed: int) -> Disk:
        disk = Disk(seed)
        for module in (segment, spool_state, spool_writer, spools):
            monkeypatch.setattr(module, "os", disk)
        return disk

    return make


def payload(number: int, size: int) -> bytes:
    """Events of probe 1 whose times are `number`."""
    one = struct.pack(">BBHI", 0x11, 0, 40, 1) + struct.pack("<Q", number + 1) + bytes(24)
    return one * max(1, size // 40)


def lost(payloads: list[bytes]) -> dict[int, int]:
    """The events that payloads tell as lost, by probe."""
    found: dict[int, int] = {}
    for one in payloads:
        if one == b"new":
            continue
        frames = Frames.walk(one)
        for index in range(len(frames)):
            if frames.header(index).type == Type.LOST:
                loss = Lost.read(read_lenient(frames.frame_bytes(index)))
                found[loss.probe] = found.get(loss.probe, 0) + loss.count
    return found


class World:
    """A spool and what should be in it, by a schedule drawn from a seed."""

    def __init__(self, path: Path, disk: Disk, seed: int, threaded: bool) -> None:
        self.path, self.disk, self.random, self.threaded = str(path), disk, random.Random(seed), threaded
        self.model: list[bytes] = []  # payloads not released; the last may be in memory only
        self.first = self.count = self.tokens = 0
        self.spool = self._take(begin(self.path, bytes(16), [], 4 * MB, MB))

    def _take(self, spool: Spool) -> Spool:
        if self.threaded:
            spool.run()
        return spool

    def put(self) -> None:
        size = self.random.choice((40, 4000, 60_000))
        if self.spool.room > size + 1024:
            self.count += 1
            self.model.append(payload(self.count, size))
            self.spool.put(self.spool.next, self.model[-1])

    def send(self) -> None:
        if self.model:
            at = self.random.randrange(len(self.model))
            assert bytes(self.spool.get(self.first + at)) == self.model[at]

    def release(self) -> None:
        take = self.random.randint(0, len(self.model))
        if take:
            self.spool.release(self.first + take - 1)
            self.first, self.model = self.first + take, self.model[take:]

    def write(self) -> None:
        if not self.threaded:
            self.spool._writer.step(False)

    def fill(self) -> None:
        self.disk.chance = self.random.choice((0.0, 0.3, 1.0))
        self.disk.trouble = self.random.choice(TROUBLES)

    def renew(self) -> None:
        """The collector is another one, or has a new folder."""
        maybe, surely_not = (list(part) for part in self.spool.split())
        assert maybe + surely_not == self.model
        self.tokens += 1
        self.spool.renew(self.tokens.to_bytes(16, "big"), [b"new"])
        self.first, self.model = 0, [b"new", *(one for one in surely_not if one != b"new")]

    def look(self) -> None:
        self.spool.look()
        assert isinstance(self.spool.trouble, str)
        assert self.spool.harm() is not None
        assert 0 <= self.spool.unwritten <= self.spool.events

    def vanish(self) -> None:
        """All of the spool; the writer may make a segment meanwhile, as it may in the time of any `rm -r`."""
        if self.random.random() < 0.1:
            while os.path.exists(self.spool.path):
                shutil.rmtree(self.spool.path, ignore_errors=True)

    def take_away(self) -> None:
        """A file that says what the spool holds; it is written again, or nothing of it is found."""
        for name in self.random.choice((("session",), ("state",), ("session", "state"))):
            Path(self.spool.path, name).unlink(missing_ok=True)
        self.look()

    @property
    def saved(self) -> bool:
        """Whether it is to be found again."""
        return not self.spool._void and Path(self.spool.path, "session").exists()

    def again(self) -> None:
        """The agent ends, or is killed, and the next one finds what is there."""
        self.disk.chance = 0.0
        killed = False
        sound = Path(self.spool.path, "state").exists()  # without it all may have been sent, or been there
        if self.threaded or self.random.random() < 0.5 or not sound:
            if not self.threaded:
                self.spool.run()
            self.spool.close()
            assert self.saved or not os.path.exists(self.spool.path)
        else:
            killed = True
            self.spool._free()
        saved = self.saved
        found = [one.spool for one in recover(self.path, 4 * MB, MB)]
        if not found or found[0] is None or not saved:
            assert not saved
            if found and found[0]:  # the disk took neither the new session nor the end of the old one
                found[0].close()
            shutil.rmtree(self.path, ignore_errors=True)
            self.tokens, self.first, self.model = 0, 0, []
            self.spool = self._take(begin(self.path, bytes(16), [], 4 * MB, MB))
            return
        self.spool = spool = self._take(found[0])
        told = lost([bytes(spool.get(spool.first + step)) for step in range(spool.count)])
        if spool.first < self.first:
            spool.release(min(self.first, spool.next) - 1)  # the sink says what it has
        there = [bytes(spool.get(spool.first + step)) for step in range(spool.count)]
        torn = there and there[-1] != self.model[len(there) - 1]
        whole = there[:-1] if torn else there
        assert whole == self.model[: len(whole)], "what comes back is what was put, in order"
        if torn:  # the last record was being written, and what it held is known
            assert killed
            assert lost(there[-1:]) == {1: manifest.events(manifest.of(self.model[len(whole)], 1))}
        assert spool.lost == told, "what was torn before is lost as long as it waits"
        assert not spool.unknown
        self.model, self.first = there, spool.first

    def check(self) -> None:
        assert (self.spool.first, self.spool.next) == (self.first, self.first + len(self.model))
        wanted = sum(manifest.events(manifest.of(one, 1)) for one in self.model)
        assert self.spool.events == wanted

    def run(self, steps: int) -> None:
        usual = [self.put] * 6 + [self.send] * 3 + [self.write] * 6 + [self.release] * 2
        rare = [self.fill, self.renew, self.look, self.again, self.vanish, self.take_away]
        for _ in range(steps):
            self.random.choice(usual if self.random.random() < 0.9 else rare)()
            self.check()
        self.disk.chance = 0.0
        self.spool.remove()


@pytest.mark.parametrize("seeds", [range(20), range(20, 40), range(40, 60)])
def test_every_order_of_steps(tmp_path: Path, disk: Callable[[int], Disk], seeds: range) -> None:
    refused = 0
    for seed in seeds:
        refuses = disk(seed)
        world = World(tmp_path / str(seed), refuses, seed, threaded=False)
        try:
            world.run(120)
        except Exception:
            sys.stderr.write(f"seed {seed}\n")
            raise
        refused += refuses.refused
    assert refused > 100


@pytest.mark.parametrize("seed", range(12))
def test_nothing_stands_still(tmp_path: Path, disk: Callable[[int], Disk], seed: int) -> None:
    """With the writer in a thread of its own."""
    world = World(tmp_path / "spool", disk(seed), seed, threaded=True)
    failed: list[str] = []

    def run() -> None:
        try:
            world.run(300)
        except BaseException:
            failed.append(traceback.format_exc())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(60)
    if thread.is_alive():
        frames = sys._current_frames()
        stacks = ["".join(traceback.format_stack(frame)) for frame in frames.values()]
        pytest.fail("it stands still:\n" + "\n".join(stacks))
    assert not failed, failed[0]
