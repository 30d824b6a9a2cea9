"""A spool: the outbox of a session on disk, so that an agent can be killed and go on.

    DIR/ID/session        the session's token, the payloads it begins with, where its records begin
    DIR/ID/sent           how far it has sent
    DIR/ID/00000001.seg   and so on: the records (`kwire.stream.segment`)

The laws: a payload is in memory or on disk from `put` until it is released; a thread writes what is put, in
order, and syncs it every `SYNC` seconds, so the caller never waits for the disk; memory and disk are bounded
by `memory` and `size`; a full disk is no error, but less room; a folder is locked (flock(2)) while its agent
lives.

Records are numbered from 0 for the life of the folder. A session's payload n is prefix[n], or record `start`
+ n - len(prefix); its sequence number is n modulo 2^32. What is put may be sent before it is on the disk: a
sink can have more of a session than the spool of an agent that was killed.
"""

import contextlib
import errno
import fcntl
import os
import re
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

from kwire.stream.kept import NOTHING, SESSION, Kept, boot, map_sent, read, save
from kwire.stream.segment import HEADER, RECORD, Record, Segment, SpoolError, append, create, load, record
from kwire.wire.sequence import MASK

SEGMENT: Final = 16 << 20
"""Bytes of a segment: what is acknowledged leaves the disk a segment at a time."""

SYNC: Final = 1.0
"""Seconds after which what was put is synced to the disk."""

RETRY: Final = 0.25
"""Seconds between two tries to write to a full disk."""

BATCH: Final = 1 << 20
"""Bytes written at a time."""

SUFFIX: Final = ".seg"
_NAME = re.compile(r"[0-9a-f]{32}")


class Spool:
    """The outbox of a session, in a folder of its own: `begin` makes one, `recover` finds those left behind.

    Its methods are for one thread. Call `run` when no more privileges are given up: from then on what was put
    is written.
    """

    def __init__(self, path: str, folder: int, id: bytes, kept: Kept, size: int, memory: int) -> None:
        self.path = path
        self.kept = kept
        self.trouble = ""
        """Why the disk takes nothing at present; empty where it does."""
        self._folder = folder
        self._id = id
        self._size = size
        self._most_unwritten, self._most_cached = memory - memory // 4, memory // 4
        self._segment_size = max(1 << 16, min(SEGMENT, size // 8))
        self._sent_file, self._sent = map_sent(folder)
        self._lock = threading.Condition()
        # What follows is shared with the writer, under the lock. Numbers are those of records.
        self._gone = 0  # payloads of the session released: the only number that counts from its beginning
        self._end = kept.start  # the next record put
        self._written = kept.start  # the next record to be written
        self._memory: dict[int, bytes] = {}
        self._unwritten = self._cached = 0  # bytes in `_memory` before and after they were written
        self._queue: deque[int] = deque()  # records to be written
        self._segments: deque[Segment] = deque()
        self._roll = False  # the last segment takes no more
        self._rubbish: list[Segment] = []
        self._on_disk = 0
        self._ordinal = 0
        self._stopping = False
        self._busy = False
        self._dirty = False
        self._thread: threading.Thread | None = None

    # ------------------------------------------------------------------ an outbox

    @property
    def first(self) -> int:
        """The sequence number of the oldest payload kept."""
        return self._gone & MASK

    @property
    def next(self) -> int:
        """The sequence number of the payload to be put next."""
        return (len(self.kept.prefix) + self._end - self.kept.start) & MASK

    @property
    def room(self) -> int:
        """Bytes of payload that it can still take."""
        unwritten = self._unwritten
        return max(0, min(self._most_unwritten - unwritten, self._size - self._on_disk - unwritten))

    def put(self, sequence: int, payload: "bytes | bytearray | memoryview") -> None:
        """Keep a payload, whose number is `next`."""
        kept = bytes(payload)
        with self._lock:
            self._memory[self._end] = kept
            self._unwritten += len(kept) + RECORD.size
            self._queue.append(self._end)
            self._end += 1
            if len(self._queue) == 1:
                self._lock.notify_all()

    def get(self, sequence: int) -> bytes:
        """The payload of a number from `first` to `next` - 1; it counts as sent. SpoolError: disk trouble."""
        number = self._gone + (sequence - self._gone & MASK)
        if number > self._sent[2] or self._sent[2] == NOTHING:
            self._sent[2] = number
        return self._payload(number)

    def release(self, upto: int) -> None:
        """Forget the payloads up to and including `upto`."""
        with self._lock:
            last = self._gone + (upto - self._gone & MASK)
            if last - self._gone < 1 << 31:
                self._release(min(last + 1, self._payloads))

    # ------------------------------------------------------------------ for its agent

    @property
    def count(self) -> int:
        """Payloads kept."""
        return self._payloads - self._gone

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self._on_disk

    def split(self) -> tuple[Iterator[bytes], Iterator[bytes]]:
        """The payloads kept that may have been sent, and those that surely were not."""
        middle = self._middle
        return (
            (self._payload(number) for number in range(self._gone, middle)),
            (self._payload(number) for number in range(middle, self._payloads)),
        )

    def run(self) -> None:
        """Begin to write what is put."""
        self._thread = threading.Thread(target=self._work, name="spool", daemon=True)
        self._thread.start()

    def close(self) -> int:
        """Write and sync what is kept, and let the folder go; how many payloads the disk did not take."""
        self._stop()
        left = len(self._queue)
        self._free()
        return left

    def remove(self) -> None:
        """Delete everything; what is still kept with it."""
        with self._lock:
            self._release(self._payloads)
        self._stop()
        for name in (SESSION, *(name for name in os.listdir(self._folder) if name != SESSION)):
            os.unlink(name, dir_fd=self._folder)
        self._free()
        os.rmdir(self.path)

    # ------------------------------------------------------------------ payloads

    @property
    def _payloads(self) -> int:
        """Payloads of the session, those gone included."""
        return len(self.kept.prefix) + self._end - self.kept.start

    @property
    def _middle(self) -> int:
        """The number of the first payload that surely was not sent."""
        sent = 0 if self._sent[2] == NOTHING else int(self._sent[2]) + 1
        if self.kept.boot != boot():
            sent = self._payloads  # `sent` may be older than the records
        return min(max(sent, self._gone), self._payloads)

    def _payload(self, number: int) -> bytes:
        prefix = self.kept.prefix
        if number < len(prefix):
            return prefix[number]
        wanted = number - len(prefix) + self.kept.start
        with self._lock:
            payload = self._memory.get(wanted)
            if payload is not None:
                return payload
            for segment in self._segments:
                if 0 <= wanted - segment.first < segment.count:
                    return segment.read(wanted - segment.first)
        raise SpoolError("read", f"spool {self.path}", f"record {wanted} is not in it")

    def _record(self, payload: int) -> int:
        """The number of the record that is payload number `payload`, or of the first after the prefix."""
        return self.kept.start + max(0, payload - len(self.kept.prefix))

    def _release(self, end: int) -> None:
        """Forget payloads before number `end`; the lock is held."""
        for number in range(self._record(self._gone), self._record(end)):
            payload = self._memory.pop(number, None)
            if payload is not None and number < self._written:
                self._cached -= len(payload)
            elif payload is not None:
                self._unwritten -= len(payload) + RECORD.size
        self._gone = max(self._gone, end)
        self._clear()

    def _clear(self) -> None:
        """Put away the segments of which nothing is needed; the lock is held."""
        first = self._record(self._gone)
        while self._segments and self._segments[0].first + self._segments[0].count <= first:
            if len(self._segments) == 1 and not self._roll:
                break
            segment = self._segments.popleft()
            self._on_disk -= segment.size
            self._rubbish.append(segment)
        if self._rubbish:
            self._lock.notify_all()

    # ------------------------------------------------------------------ the writer

    def _work(self) -> None:
        """Write what is put until `_stop`; the thread's own function."""
        synced = time.monotonic()
        while True:
            with self._lock:
                self._busy = False
                self._lock.notify_all()
                while not (self._queue or self._rubbish or self._stopping):
                    if not self._lock.wait(synced + SYNC - time.monotonic() if self._dirty else None):
                        break
                if self._stopping and not self._queue and not self._rubbish:
                    break
                rubbish, self._rubbish = self._rubbish, []
                batch = self._batch()
                self._busy = True
            for segment in rubbish:
                segment.close()
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(segment.name, dir_fd=self._folder)
            if batch and not self._write(batch):
                if self._stopping:
                    break
                with self._lock:
                    self._lock.wait(RETRY)
            if self._dirty and time.monotonic() >= synced + SYNC:
                self._sync()
                synced = time.monotonic()
        self._sync()

    def _batch(self) -> list[tuple[int, bytes]]:
        """The records to be written next; what is released meanwhile is left out. The lock is held."""
        first, batch, size = self._record(self._gone), [], 0
        while self._queue and self._queue[0] < first:
            self._queue.popleft()
        self._written = max(self._written, min(first, self._end))
        for number in self._queue:
            batch.append((number, self._memory[number]))
            size += len(batch[-1][1])
            if size >= min(BATCH, self._segment_size) or len(batch) == 256:
                break
        return batch

    def _write(self, batch: list[tuple[int, bytes]]) -> bool:
        """Write records; False where the disk does not take the first of them."""
        try:
            segment = self._segment(batch[0][0])
            records = [record(number, payload) for number, payload in batch]
            if not append(segment, records):
                records = records[:1]
                if not append(segment, records):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self.trouble = (error.strerror or "failed").lower()
            with self._lock:
                self._roll = True  # what is acknowledged can leave the disk only with its segment
                self._clear()
            return False
        self.trouble = ""
        self._dirty = True
        self._note(segment, batch, records)
        return True

    def _note(self, segment: Segment, batch: list[tuple[int, bytes]], records: list[Record]) -> None:
        """What was written is written: it may leave the memory."""
        with self._lock:
            offset = segment.size - sum(one.size for one in records)
            for (number, payload), one in zip(batch, records, strict=False):
                self._queue.popleft()
                segment.note(offset + RECORD.size, len(payload))
                offset += one.size
                self._on_disk += one.size
                self._written = number + 1
                if number not in self._memory:
                    continue  # released while it was written
                self._unwritten -= len(payload) + RECORD.size
                if self._cached + len(payload) <= self._most_cached:
                    self._cached += len(payload)
                else:
                    del self._memory[number]
            if segment.size >= self._segment_size:
                self._roll = True
            self._clear()

    def _segment(self, number: int) -> Segment:
        """The segment that record `number` goes into. OSError where there has to be one, and cannot be."""
        with self._lock:
            last = self._segments[-1] if self._segments else None
        if last is not None and not self._roll and last.first + last.count == number:
            return last
        if last is not None and self._dirty:
            self._sync()  # so that what is cut after a power loss is the end
        name = f"{self._ordinal + 1:08d}{SUFFIX}"
        segment = create(self._folder, name, self._id, number)
        os.fsync(self._folder)
        with self._lock:
            self._ordinal += 1
            self._roll = False
            self._segments.append(segment)
            self._on_disk += HEADER.size
            self._clear()
        return segment

    def _sync(self) -> None:
        """Put what was written on the disk for good, and how far was sent."""
        self._dirty = False
        with self._lock:
            segment = self._segments[-1] if self._segments else None
        try:
            if segment is not None:
                os.fdatasync(segment.fd)
            self._sent_file.flush()
        except OSError as error:
            self.trouble = (error.strerror or "failed").lower()

    # ------------------------------------------------------------------ beginning and end

    def _stop(self) -> None:
        if self._thread is not None:
            with self._lock:
                self._stopping = True
                self._lock.notify_all()
            self._thread.join()
            self._thread = None

    def _free(self) -> None:
        for segment in (*self._segments, *self._rubbish):
            segment.close()
        self._segments.clear()
        self._rubbish.clear()
        self._sent.release()
        self._sent_file.close()
        os.close(self._folder)

    def renew(self, token: bytes, prefix: Sequence[bytes]) -> None:
        """Begin another session with what surely was not sent; everything else is forgotten.

        `prefix`: the payloads that come before it. One rename(2) does it: a crash leaves the old or the new.
        """
        with self._lock:
            while self._busy:
                self._lock.wait()
            unsent = self._payloads - self._middle
            start = self._end - min(unsent, self._end - self.kept.start)
            kept = Kept(token, tuple(prefix), start, boot())
            save(self._folder, kept)
            self._release(self._payloads - unsent)
            self.kept, self._gone = kept, 0
            self._claim()
            self._clear()

    def _claim(self) -> None:
        """Make `sent` ours, and empty, where it belongs to a session before this one."""
        token = int.from_bytes(self.kept.token[:8], "little"), int.from_bytes(self.kept.token[8:], "little")
        if (self._sent[0], self._sent[1]) != token:
            self._sent[2] = NOTHING
            self._sent[0], self._sent[1] = token

    def _load(self) -> str:
        """Take up the segments that are there; says what was damaged and cut, empty where nothing was."""
        cut = ""
        names = sorted(name for name in os.listdir(self._folder) if name.endswith(SUFFIX))
        for index, name in enumerate(names):
            self._ordinal = max(self._ordinal, int(name.removesuffix(SUFFIX)))
            if cut:  # what comes after a hole cannot be put in order
                os.rename(name, f"{self.path}-{name}.damaged", src_dir_fd=self._folder)
                continue
            found = load(self._folder, name, self._id)
            if found is None:
                cut = f"{name}: no header"
            else:
                segment, why = found
                if self._segments and segment.first != self._segments[-1].first + self._segments[-1].count:
                    self._discard()  # everything before was released
                self._segments.append(segment)
                self._on_disk += segment.size
                cut = f"{name}: {why}" if why else ""
            if cut and index == len(names) - 1 and found is None:
                os.unlink(name, dir_fd=self._folder)
        if self._segments:
            first, last = self._segments[0], self._segments[-1]
            self._end = self._written = max(self.kept.start, last.first + last.count)
            if first.first > self.kept.start:
                self._gone = len(self.kept.prefix) + first.first - self.kept.start
        self._roll = True
        return cut

    def _discard(self) -> None:
        for segment in self._segments:
            segment.close()
            os.unlink(segment.name, dir_fd=self._folder)
            self._on_disk -= segment.size
        self._segments.clear()


def begin(path: str, token: bytes, prefix: Sequence[bytes], size: int, memory: int) -> Spool:
    """Make a spool for a new session in the folder `path`, which is made where it is not there.

    `prefix`: the payloads that the session begins with; `size`, `memory`: bytes. Raises SpoolError.
    """
    id = os.urandom(16)
    try:
        os.makedirs(path, 0o700, exist_ok=True)
        with _Locked(path):
            own = os.path.join(path, id.hex())
            os.mkdir(own, 0o700)
            folder = os.open(own, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            kept = Kept(token, tuple(prefix), 0, boot())
            save(folder, kept)
            spool = Spool(own, folder, id, kept, size, memory)
            spool._claim()
            return spool
    except OSError as error:
        raise SpoolError("begin", f"spool {path}", (error.strerror or "failed").lower()) from None


def recover(path: str, size: int, memory: int) -> Iterator[tuple[Spool | None, str]]:
    """Give each spool in the folder `path` that no living agent has, and what is wrong with it.

    None stands for one that cannot be used: it is set aside as it is. Those of which nothing is left are
    deleted. SpoolError where a folder cannot be read.
    """
    if not os.path.isdir(path):
        return
    try:
        with _Locked(path):
            for name in sorted(os.listdir(path)):
                own = os.path.join(path, name)
                if not _NAME.fullmatch(name) or not os.path.isdir(own):
                    continue
                folder = os.open(own, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(folder)
                    continue
                try:
                    kept = read(folder)
                except SpoolError as error:
                    os.rename(own, f"{own}.damaged")
                    os.close(folder)
                    yield None, f"{own}.damaged: {error}"
                    continue
                if kept is None:  # it was being made, or deleted
                    for part in os.listdir(folder):
                        os.unlink(part, dir_fd=folder)
                    os.close(folder)
                    os.rmdir(own)
                    continue
                spool = Spool(own, folder, bytes.fromhex(name), kept, size, memory)
                spool._claim()
                yield spool, spool._load()
    except OSError as error:
        raise SpoolError("read", f"spool {path}", (error.strerror or "failed").lower()) from None


class _Locked:
    """The lock of the whole folder, while spools come and go in it."""

    __slots__ = ("_fd",)

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
