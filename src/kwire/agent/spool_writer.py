"""The writer of a spool: the thread that its files belong to.

Invariants: spool and writer share no lock; orders go one way, reports the other, through queues that nobody
waits to put into; so the spool never waits for the disk, whatever the disk does, and the writer waits for
orders only. What the disk refuses is kept and tried again; a file is deleted only after the state file says,
on the disk, that nothing in it is needed.
"""

import contextlib
import errno
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

from kwire.agent import manifest, segment
from kwire.agent.manifest import Manifest
from kwire.agent.segment import Record, Segment
from kwire.agent.spool_state import SpoolState

SYNC: Final = 1.0
"""Seconds after which what was put is synced to the disk."""

RETRY: Final = 0.25
"""Seconds between two tries where the disk refuses."""

BATCH: Final = 1 << 20
"""Bytes written at a time."""

BATCH_RECORDS: Final = 256


class Put(NamedTuple):
    """Order: write a record."""

    number: int
    payload: bytes


class Drop(NamedTuple):
    """Order: delete a segment; records before `released` are needed no more."""

    segment: Segment
    released: int


class Sync(NamedTuple):
    """Order: put what was written, and the state, on the disk at once."""


class Stop(NamedTuple):
    """Order: write what there is, as far as the disk takes it, and end."""


class Began(NamedTuple):
    """Report: a new segment, whose files have `size` bytes."""

    segment: Segment
    size: int


class Wrote(NamedTuple):
    """Report: records up to before `end` are written or were needed no more; `size` bytes of files more."""

    end: int
    size: int


class Refused(NamedTuple):
    """Report: the disk takes nothing; the segment written last takes no more."""


class Harmed(NamedTuple):
    """Report: somebody else has changed a segment."""

    segment: Segment


Order: TypeAlias = Put | Drop | Sync | Stop
Report: TypeAlias = Began | Wrote | Refused | Harmed


class Tail(NamedTuple):
    """Where writing goes on: the last ordinal used, the check of the last record, what records held."""

    ordinal: int
    previous: int
    before: Manifest


class Writer:
    """Writes the records of a spool. `order` and what is public are the spool's; the rest is the thread's."""

    def __init__(
        self, folder: int, id: bytes, state: SpoolState, probes: int, segment_size: int, tail: Tail
    ) -> None:
        self.reports: deque[Report] = deque()
        self.floor = 0
        """Records before this number are needed no more; set by the spool."""
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._folder = folder
        self._id = id
        self._state = state
        self._probes = probes
        self._segment_size = segment_size
        self._ordinal, self._previous, before = tail
        self._before: Manifest = dict(before)
        self._segment: Segment | None = None
        self._roll = False
        self._queue: deque[Put] = deque()
        self._drops: deque[Drop] = deque()
        self._stopping = False
        self._dirty = False
        self._synced = 0.0
        self._troubles: dict[str, str] = {}
        self._thread: threading.Thread | None = None

    # ------------------------------------------------------------------ the spool's side

    @property
    def trouble(self) -> str:
        """Why the disk does not do at present what it should; empty where it does."""
        return next(iter(self._troubles.copy().values()), "")

    def order(self, order: Order) -> None:
        """Have something done, at some time after `start`."""
        self._orders.put(order)

    def start(self) -> None:
        """Begin to write."""
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)
        self._thread.start()

    def stop(self, patience: float) -> bool:
        """End; whether it has ended in time: a disk may never answer. Without a thread nothing is written."""
        if self._thread is None:
            return True
        self.order(Stop())
        self._thread.join(patience)
        return not self._thread.is_alive()

    # ------------------------------------------------------------------ the thread

    def _run(self) -> None:
        while self.step(True):
            pass

    def step(self, wait: bool) -> bool:
        """Take orders and do what there is to do, once; False when it is over. `wait`: for orders."""
        self._take(self._patience() if wait else 0.0)
        idle = not (self._attempt("delete", self._delete) | self._attempt("write", self._write))
        if self._dirty and (time.monotonic() >= self._synced + SYNC or self._stopping):
            self._attempt("sync", self._sync)
        return not (self._stopping and (idle or not (self._queue or self._drops)))

    def _patience(self) -> float | None:
        """How long to wait for orders."""
        if self._stopping:
            return 0.0
        if self._queue or self._drops:
            return RETRY if self._troubles else 0.0
        return max(0.0, self._synced + SYNC - time.monotonic()) if self._dirty else None

    def _take(self, patience: float | None) -> None:
        """Take the orders that there are; wait for the first."""
        try:
            order = self._orders.get(timeout=patience) if patience != 0.0 else self._orders.get_nowait()
            while True:
                if isinstance(order, Put):
                    self._queue.append(order)
                elif isinstance(order, Drop):
                    self._drops.append(order)
                elif isinstance(order, Sync):
                    self._dirty, self._synced = True, 0.0
                else:
                    self._stopping = True
                order = self._orders.get_nowait()
        except queue.Empty:
            pass

    def _attempt(self, what: str, do: Callable[[], bool]) -> bool:
        """Whether something was done; what the disk refuses is trouble, and is tried again."""
        try:
            done = do()
        except OSError as error:
            self._troubles[what] = (error.strerror or "failed").lower()
            if what == "write":
                self._roll = True
                self.reports.append(Refused())
            return False
        self._troubles.pop(what, None)
        return done

    def _delete(self) -> bool:
        """Delete segments that are needed no more: first it must be known that they are not."""
        if not self._drops:
            return False
        released = max(drop.released for drop in self._drops)
        if (self._state.released or 0) < released:
            self._state.set_released(released)
        while self._drops:
            gone = self._drops[0].segment
            for name in gone.names:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=self._folder)
            if gone is self._segment:
                self._segment = None
            gone.close()
            self._drops.popleft()
        return True

    def _write(self) -> bool:
        """Write the next records; what is released meanwhile is left out."""
        floor, skipped = self.floor, 0
        while self._queue and self._queue[0].number < floor:
            skipped = self._queue.popleft().number + 1
        if skipped:
            self._previous = 0  # what comes does not follow what was written
            self.reports.append(Wrote(skipped, 0))
        if not self._queue:
            return bool(skipped)
        segment_ = self._take_segment(self._queue[0].number, floor)
        batch = self._batch(segment_)
        if not segment.append(segment_, batch):
            batch = batch[:1]
            if not segment.append(segment_, batch):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        size = 0
        for one in batch:
            self._queue.popleft()
            manifest.add(self._before, one.contents.values())
            size += 2 * len(one.head) + len(one.payload)
            self._previous = one.check
        self._dirty = True
        self._roll |= segment_.size >= self._segment_size
        self.reports.append(Wrote(segment_.end, size))
        self._state.set_end(segment_.end)
        return True

    def _batch(self, into: Segment) -> list[Record]:
        batch: list[Record] = []
        offset, size, previous = into.size, 0, self._previous
        for put in self._queue:
            contents = manifest.of(put.payload, self._probes)
            one = segment.record(self._id, put.number, offset, previous, put.payload, contents)
            batch.append(one)
            offset += len(one.head) + len(one.payload)
            size += len(one.payload)
            previous = one.check
            if size >= min(BATCH, self._segment_size) or len(batch) == BATCH_RECORDS:
                break
        return batch

    def _take_segment(self, number: int, floor: int) -> Segment:
        """The segment that record `number` goes into."""
        last = self._segment
        if not os.fstat(self._folder).st_nlink:
            raise OSError(errno.ENOENT, "its folder was removed")
        if last is not None and not segment.is_there(last):
            self.reports.append(Harmed(last))
            self._roll = True
        if last is not None and not self._roll and last.end == number:
            return last
        if last is not None and self._dirty:
            self._sync()  # so that what a power loss takes is the end
        if (self._state.end or 0) < number and (self._state.released or 0) < number:
            self._state.set_released(min(floor, number))  # records were left out
        self._ordinal += 1
        try:
            made = segment.create(self._folder, self._ordinal, self._id, number, self._previous, self._before)
        except FileExistsError:  # left by a try before, whose disk did not let it be deleted
            raise
        except OSError:
            self._ordinal -= 1
            raise
        self._roll = False
        self._segment = made
        self.reports.append(Began(made, 2 * made.size))
        os.fsync(self._folder)
        return made

    def _sync(self) -> bool:
        """Put what was written on the disk for good, and how far was sent."""
        if self._segment is not None:
            os.fdatasync(self._segment.fd)
            os.fdatasync(self._segment.index)
        self._state.sync()
        self._dirty = False
        self._synced = time.monotonic()
        return True
