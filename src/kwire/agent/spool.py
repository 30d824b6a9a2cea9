"""A spool: the send queue of a session on disk, so that an agent can be killed and go on.

    DIR/ID/session                    the session's token, the payloads it begins with, where it is
    DIR/ID/state                      how far it has sent, what is released, what was written
    DIR/ID/00000001.seg, .idx         and so on: the records (`kwire.agent.segment`)

Invariants: a payload is in memory or on disk from `put` until it is released; a thread writes what is put, in
order, and syncs it every second, and the caller never waits for it (`kwire.agent.spool_writer`); memory and
disk are bounded by `memory` and `size`; a disk that is full, gone or broken is no error, but less room; what
it does not give back as it was written is told as lost, event by event; a folder is locked (flock(2)) while
its agent lives, and is good in its own place only; a copy that is taken for it all the same is seen by the
collector, which knows the HELLOs of a session (`lineage`). Nothing is deleted that was not acknowledged.

Records are numbered from 0 for the life of the folder. A session's payload n is prefix[n], or record `start`
+ n - len(prefix); its sequence number is n modulo 2^32. What is put may be sent before it is on the disk: a
sink can have more of a session than the spool of an agent that was killed.
"""

import contextlib
import errno
import fcntl
import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from kwire.agent import manifest
from kwire.agent.manifest import EVENTS, Manifest
from kwire.agent.segment import HEAD, MAX_PAYLOAD, Segment, SpoolError, SpoolFullError, load
from kwire.agent.spool_state import (
    NAME,
    NOTHING,
    SESSION,
    STATE,
    SpoolSession,
    SpoolState,
    boot,
    open_folder,
    place,
    read,
    save,
    stamp,
)
from kwire.agent.spool_writer import Began, Drop, Put, Refused, Sync, Tail, Writer, Wrote
from kwire.kernel.syscall import Fd
from kwire.wire.frame import MASK
from kwire.wire.lineage import Lineage
from kwire.words import are

SEGMENT: Final = 16 << 20
"""Bytes of a segment: what is acknowledged leaves the disk a segment at a time."""

MOST_SEGMENTS: Final = 128
"""Where a spool would have more, its segments are larger: each takes two descriptors."""

RECORD: Final = HEAD.size
"""Bytes that a payload takes besides itself, at least."""

MOST_RECORDS: Final = 1 << 26
"""Records of a spool: more cannot be, and a claim of more is damage."""

FEW: Final = 8
"""Payloads looked at for the oldest event."""

LIFE: Final = 8
"""Random bytes drawn when a spool is taken up."""

PATIENCE: Final = 10.0
"""Seconds that the disk has, at the end, to take what is there."""

_UNFINISHED: Final = frozenset({f"{SESSION}.new", STATE, f"{STATE}.new"})  # what one has that is not begun
_FILE = re.compile(r"([0-9]{8})\.(?:seg|idx)")


class Found(NamedTuple):
    """What `recover` says of one folder: its spool, where it can be used, and what is wrong."""

    spool: "Spool | None"
    wrong: str


class _Gap:
    """Records that no segment has, from `first` on; `contents`: of all of them together, where it is known.

    It is told in the place of the first; where the sink has that one already, nobody knows of the rest.
    """

    __slots__ = ("contents", "first", "told")

    def __init__(self, first: int, contents: Manifest | None) -> None:
        self.first = first
        self.contents = contents
        self.told = False

    def of(self, record: int) -> Manifest | None:
        """What is to be told in the place of a record."""
        if record == self.first or self.contents is None:
            return self.contents
        return {} if self.told else None


class Spool:
    """The send queue of a session, in a folder of its own: `begin` makes one, `recover` finds those left
    behind.

    Its methods are for one thread. Call `run` when no more privileges are given up: from then on what was put
    is written.
    """

    def __init__(
        self,
        path: str,
        folder: int,
        id: bytes,
        kept: SpoolSession,
        size: int,
        memory: int,
        parent: int = -1,
    ) -> None:
        """`folder` is open, and `parent`, the one that it is in, where its path may be closed to us."""
        self.path = path
        self.kept = kept
        self.lost: dict[int, int] = {}
        """Events by probe that were put here, or found here, and cannot be given back."""
        self.unknown = 0
        """Payloads gone of which nobody knows how many events they held."""
        self._folder = folder
        self._id = id
        self._size = size
        self._most_unwritten, self._most_cached = memory - memory // 4, memory // 4
        self._segment_size = max(1 << 16, min(SEGMENT, size // 8), size // MOST_SEGMENTS)
        self._state = SpoolState(folder)
        # Its path may be closed to who we are at the end; one of its own, so that no lock hangs on it.
        if parent < 0:
            parent = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._parent = parent
        self.lineage = Lineage(self._state.lineage(kept.token), self._set_lineage)
        """The HELLOs of its session."""
        # Numbers are those of records.
        self._gone = 0  # payloads of the session released: the only number that counts from its beginning
        self._end = kept.start  # the next record put
        self._written = kept.start  # the next record to be written
        self._memory: dict[int, bytes] = {}
        self._unwritten = self._cached = 0  # bytes in `_memory` before and after they were written
        self._segments: deque[Segment] = deque()
        self._roll = True  # the last segment takes no more
        self._on_disk = 0
        self._gaps: dict[int, _Gap] = {}  # records that no segment has
        self._patched: dict[int, bytes] = {}  # records that are gone: what is told in their place
        self._last: tuple[int, bytes] = (-1, b"")  # read from the disk just now
        self._void = False  # the session file does not say what holds
        self._stamp = stamp(folder)  # of the session file that we know
        self._harm: dict[str, bool] = {}  # what others did to it; whether that was told
        self._running = False
        self._writer = self._make_writer(Tail(0, 0, {}))

    def _make_writer(self, tail: Tail) -> Writer:
        return Writer(self._folder, self._id, self._state, self.kept.probes, self._segment_size, tail)

    # ------------------------------------------------------------------ a send queue

    @property
    def first(self) -> int:
        """The sequence number of the oldest payload kept."""
        return self._gone & MASK

    @property
    def next(self) -> int:
        """The sequence number of the payload to be put next."""
        return self._payloads & MASK

    @property
    def room(self) -> int:
        """Bytes of payload that it can still take."""
        self._settle()
        unwritten = self._unwritten
        return max(0, min(self._most_unwritten - unwritten, self._size - self._on_disk - unwritten))

    def put(self, sequence: int, payload: "bytes | bytearray | memoryview") -> None:
        """Keep a payload, whose number is `next`."""
        kept = bytes(payload)
        self._memory[self._end] = kept
        self._unwritten += len(kept) + RECORD
        self._writer.order(Put(self._end, kept))
        self._end += 1

    def get(self, sequence: int) -> bytes:
        """The payload of a number from `first` to `next` - 1; it counts as sent.

        One that is gone or was changed is told as lost.
        """
        number = self._gone + (sequence - self._gone & MASK)
        sent = self._state.sent
        if sent is None or sent == NOTHING or number > sent:
            self._set_sent(number)
        return self._payload(number)

    def release(self, upto: int) -> None:
        """Forget the payloads up to and including `upto`."""
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
        self._settle()
        return self._on_disk

    @property
    def trouble(self) -> str:
        """Why the disk does not keep at present what it should; empty where it does."""
        if self._running and self._removed:
            return "its folder was removed"
        return self._writer.trouble or ("its session could not be written down" if self._void else "")

    def harm(self) -> list[str]:
        """What others did to it, each thing once; told once."""
        self._settle()
        harm = [one for one, told in self._harm.items() if not told]
        self._harm = dict.fromkeys(self._harm, True)
        return harm

    @property
    def events(self) -> int:
        """Events that wait here."""
        return self._events(self._record(self._gone), self._end)

    @property
    def oldest(self) -> int | None:
        """When the oldest event that waits here was recorded, ns of the monotonic clock; None where none of
        the first payloads has one, or the machine has been started again since.
        """
        if self.kept.boot != boot():
            return None
        first = self._record(self._gone)
        for record in range(first, min(first + FEW, self._end)):
            times = [row.first for row in (self._manifest(record) or {}).values() if row.cause == EVENTS]
            if times:
                return min(times)
        return None

    @property
    def unwritten(self) -> int:
        """Events that wait here and are not on the disk, or not so that they would be found there."""
        self._settle()
        if self._void or self._removed or self._changed:
            return self.events
        first = self._record(self._gone)
        removed = (one for one in self._segments if one.fd >= 0 and not os.fstat(one.fd).st_nlink)
        there = sum(self._events(max(first, one.first), min(one.end, self._written)) for one in removed)
        return there + self._events(max(first, self._written), self._end)

    def _events(self, first: int, end: int) -> int:
        """Events in the records from `first` to before `end`, but for those that were found to be gone."""
        waiting = (number for number in range(first, end) if number not in self._patched)
        return sum(manifest.events(one) for one in map(self._manifest, waiting) if one)

    @property
    def begun(self) -> bool:
        """Whether any of it may have been sent."""
        return self._middle > 0

    def doubt(self) -> None:
        """All that is kept may have been sent: another copy of this spool was delivered."""
        if self._payloads:
            self._set_sent(self._payloads - 1)

    def split(self) -> tuple[Iterator[bytes], Iterator[bytes]]:
        """The payloads kept that may have been sent, and those that surely were not."""
        middle = self._middle
        return (
            (self._payload(number) for number in range(self._gone, middle)),
            (self._payload(number) for number in range(middle, self._payloads)),
        )

    def run(self) -> None:
        """Begin to write what is put."""
        self._running = True
        self._writer.start()

    @property
    def _removed(self) -> bool:
        """Whether its folder was."""
        with contextlib.suppress(OSError):
            return not os.fstat(self._folder).st_nlink
        return False

    @property
    def _changed(self) -> bool:
        """Whether somebody else has removed or changed the session file."""
        with contextlib.suppress(OSError):
            return not self._void and stamp(self._folder) != self._stamp
        return False

    def stop(self) -> None:
        """Write and sync what is kept, as far as the disk takes it; then only `close` or `remove`."""
        if self._running:
            self.look()
        if not self._writer.stop(PATIENCE):
            self._harm.setdefault("the disk does not answer", False)
        self._settle()
        self._running = False

    def close(self) -> int:
        """Write and sync what is kept, and let the folder go; how many payloads the disk did not take."""
        self.stop()
        left = self._end - max(self._written, self._record(self._gone))
        self._free()
        return left

    def remove(self) -> None:
        """Everything was delivered: delete it. What is not ours stays, and the folder with it."""
        self._release(self._payloads)
        if not self._running:
            self.run()
        self.stop()
        try:
            self._state.set_released(self._end)  # killed from here on, a successor deletes the rest
            names = [name for one in self._segments for name in one.names]
            _delete(self.path, self._folder, self._parent, names)
        except OSError as error:
            self._harm.setdefault(f"not deleted: {(error.strerror or 'failed').lower()}", False)
        self._free()

    # ------------------------------------------------------------------ payloads

    @property
    def _payloads(self) -> int:
        """Payloads of the session, those gone included."""
        return len(self.kept.prefix) + self._end - self.kept.start

    @property
    def _middle(self) -> int:
        """The number of the first payload that surely was not sent."""
        state = self._state.sent
        sent = self._payloads if state is None else 0 if state == NOTHING else state + 1
        if self.kept.boot != boot():
            sent = self._payloads  # the state may be older than what was sent
        return min(max(sent, self._gone), self._payloads)

    def _payload(self, number: int) -> bytes:
        prefix = self.kept.prefix
        if number < len(prefix):
            return prefix[number]
        wanted = number - len(prefix) + self.kept.start
        payload = self._memory.get(wanted) or self._patched.get(wanted)
        if payload is None and self._last[0] == wanted:
            return self._last[1]
        if payload is None:
            holder = self._holder(wanted)
            payload = holder.read(wanted) if holder is not None else None
            if payload is not None:
                self._last = wanted, payload
        return self._patch(wanted) if payload is None else payload

    def _holder(self, record: int) -> Segment | None:
        """The segment that has a record."""
        return next((one for one in self._segments if one.first <= record < one.end), None)

    def _manifest(self, record: int) -> Manifest | None:
        """What a record holds; None where nobody knows."""
        payload = self._memory.get(record)
        if payload is not None:
            return manifest.of(payload, self.kept.probes)
        if record in self._gaps:
            return self._gaps[record].of(record)
        holder = self._holder(record)
        return holder.manifest(record, self._id) if holder is not None else None

    def _patch(self, record: int) -> bytes:
        """A record is gone: what is told in its place."""
        contents, gap = self._manifest(record), self._gaps.get(record)
        if contents is None:
            self.unknown += 1
            contents = {}
        if gap is not None:
            gap.told |= record == gap.first
        for row in contents.values():
            if row.cause == EVENTS:
                self.lost[row.probe] = self.lost.get(row.probe, 0) + row.number
        told = self._patched[record] = manifest.lost(contents, MAX_PAYLOAD - 1024)
        holder = self._holder(record)
        where = holder.names[0] if holder is not None else "a file"
        self._harm.setdefault(f"{where} was damaged, or is gone: what it held is counted lost", False)
        return told

    def _record(self, payload: int) -> int:
        """The number of the record that is payload number `payload`, or of the first after the prefix."""
        return self.kept.start + max(0, payload - len(self.kept.prefix))

    def _release(self, end: int) -> None:
        """Forget payloads before number `end`."""
        self._settle()
        for number in range(self._record(self._gone), self._record(end)):
            payload = self._memory.pop(number, None)
            if payload is not None and number < self._written:
                self._cached -= len(payload)
            elif payload is not None:
                self._unwritten -= len(payload) + RECORD
            self._patched.pop(number, None)
            self._gaps.pop(number, None)
        self._gone = max(self._gone, end)
        self._writer.floor = self._record(self._gone)
        self._clear()

    def _clear(self) -> None:
        """Put away the segments of which nothing is needed."""
        first = self._record(self._gone)
        while self._segments and self._segments[0].end <= first:
            if len(self._segments) == 1 and not self._roll:
                break
            segment = self._segments.popleft()
            self._on_disk -= segment.size + segment.index_size
            self._writer.order(Drop(segment, first))

    # ------------------------------------------------------------------ what the writer reports

    def _settle(self) -> None:
        """Take note of what the writer has done."""
        reports = self._writer.reports
        while reports:
            report = reports.popleft()
            if isinstance(report, Wrote):
                self._note(report)
            elif isinstance(report, Began):
                self._segments.append(report.segment)
                self._on_disk += report.size
                self._roll = False
            elif isinstance(report, Refused):
                self._roll = True  # what is acknowledged can leave the disk only with its segment
                self._clear()
            else:
                self._harm.setdefault(f"{report.segment.names[0]} was cut or removed by somebody else", False)

    def _note(self, report: Wrote) -> None:
        """What was written is written: it may leave the memory."""
        self._on_disk += report.size
        for number in range(self._written, report.end):
            payload = self._memory.get(number)
            if payload is None:
                continue  # released while it was written
            self._unwritten -= len(payload) + RECORD
            if self._cached + len(payload) <= self._most_cached:
                self._cached += len(payload)
            else:
                del self._memory[number]
        self._written = max(self._written, report.end)
        if self._segments and self._segments[-1].size >= self._segment_size:
            self._roll = True
        self._clear()

    # ------------------------------------------------------------------ beginning and end

    def _free(self) -> None:
        for segment in self._segments:
            segment.close()
        self._segments.clear()
        self._state.close()
        os.close(self._folder)
        os.close(self._parent)
        self._folder = self._parent = -1  # what is done with them from now on fails, not in another folder

    def renew(self, token: bytes, prefix: Sequence[bytes]) -> None:
        """Begin another session with what surely was not sent; everything else is forgotten.

        `prefix`: the payloads that come before it. One rename(2) does it: a crash leaves the old or the new.
        Where the disk does not take it, the folder says that it holds nothing, until it does take it.
        """
        self._settle()
        unsent = self._payloads - self._middle
        start = self._end - min(unsent, self._end - self.kept.start)
        kept = self.kept._replace(token=token, prefix=tuple(prefix), start=start, boot=boot())
        kept = self._save(kept)
        self._release(self._payloads - unsent)
        self.kept, self._gone = kept, 0
        self.lineage = Lineage((), self._set_lineage)
        self._claim()
        self._clear()

    def look(self) -> None:
        """Try again what the disk refused, write again what others took away; to be called now and then."""
        self._settle()
        if self._removed:
            return
        if self._changed:
            self._void = True
            self._harm.setdefault(f"{SESSION} was removed or changed by somebody else", False)
        if self._void:
            self.kept = self._save(self.kept)
        with contextlib.suppress(OSError):
            if self._state.harmed:
                self._harm.setdefault(f"{STATE} was removed or cut by somebody else", False)
                self._state.restore()

    def _save(self, kept: SpoolSession) -> SpoolSession:
        """Write the session file, or make it say nothing: what it says now would be sent again. Gives what
        is to be written.
        """
        try:
            save(self._folder, kept)
        except OSError:
            self._void = True
        else:
            self._void = False
            self._stamp = stamp(self._folder)
            return kept
        try:
            fd = os.open(SESSION, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._folder)
            try:
                os.ftruncate(fd, 0)
            finally:
                os.close(fd)
        except FileNotFoundError:
            pass
        except OSError:  # then let the state file belong to another life: all may have been sent
            kept = kept._replace(life=os.urandom(LIFE))
            self._say(self._state.set_life, kept.life)
        return kept

    def _claim(self) -> None:
        """Make `sent` ours, and empty, where it belongs to a session before this one."""
        if self._state.token != self.kept.token:
            self._set_sent(NOTHING)

    def _live(self) -> None:
        """It is taken up: from now on a copy of what `state` said before is seen to be one."""
        kept = self.kept._replace(life=os.urandom(LIFE))
        try:
            save(self._folder, kept)
        except OSError:
            self._void = not self._stamp.inode
            return  # a full disk: it goes on with the life that it has
        self.kept, self._stamp = kept, stamp(self._folder)
        self._say(self._state.set_life, kept.life)

    def _set_sent(self, number: int) -> None:
        """Say how far was sent."""
        self._say(self._state.set_sent, self.kept.token, number)

    def _set_lineage(self, nonces: Sequence[int]) -> None:
        """Say which HELLOs were sent; at once, or after a power cut the session would be another's."""
        self._say(self._state.set_lineage, self.kept.token, nonces)
        self._writer.order(Sync())

    def _say(self, set: Callable[..., None], *what: object) -> None:
        """Write something into the state; a disk that does not take it is told."""
        try:
            set(*what)
        except OSError as error:
            self._harm.setdefault(f"{STATE}: {(error.strerror or 'failed').lower()}", False)

    def _load(self) -> str:
        """Take up what is there, and find what is missing; says what is wrong, empty where nothing is."""
        wrong: list[str] = []
        empty: list[Segment] = []
        names = (_FILE.fullmatch(name) for name in os.listdir(self._folder))
        ordinals = sorted({int(match[1]) for match in names if match})
        for ordinal in ordinals:
            segment, problems = load(self._folder, ordinal, self._id)
            wrong += problems
            if segment is not None:
                empty += self._join(segment)
        released, end = self._state.released, self._state.end
        first = max(self.kept.start, released or 0)
        last = self._segments[-1] if self._segments else None
        sound = self._state.sent is not None and self._state.life == self.kept.life
        if not sound or (ordinals and (end is None or (last is not None and end < last.end))):
            sound = False
            wrong.append(f"{STATE} is gone, damaged or an older one: what was sent may be counted lost")
        self._end = self._written = max(first, last.end if last else 0, end or 0)
        if self._end - first > MOST_RECORDS or first - self.kept.start >= 1 << 62:
            cause = f"it claims to hold the records {first} to {self._end}"
            raise SpoolError("read", f"spool {self.path}", cause, "move it away")
        self._gone = len(self.kept.prefix) + first - self.kept.start if first > self.kept.start else 0
        missing = self._find_missing(first)
        if missing:
            wrong.append(f"{are(missing, 'payload')} gone")
        tail: Manifest = {}
        if last is not None:
            tail = dict(last.before or {})
            manifest.add(tail, self._held(last))
        previous = last.check(last.end - 1, self._id) if last is not None and last.end == self._end else 0
        self._writer = self._make_writer(Tail(max(ordinals, default=0), previous, tail))
        self._writer.floor = first
        for segment in empty:
            self._writer.order(Drop(segment, 0))
        if not sound:  # nobody knows: all of it may have been
            self._set_sent(self._payloads - 1 if self._payloads else NOTHING)
        self._roll = True
        self._clear()
        return "; ".join(wrong)

    def _join(self, segment: Segment) -> list[Segment]:
        """Put a segment behind those before it; gives the one before where nothing is in it."""
        before = self._segments[-1] if self._segments else None
        empty: list[Segment] = []
        if before is not None:
            before.trim(segment.first)  # a disk that was full has had parts of what came after
            if not before.count and segment.first == before.first:
                empty.append(self._segments.pop())
            elif segment.first <= before.first:
                raise SpoolError(
                    "read", f"spool file {segment.names[0]}", "it does not follow the one before it", _MIXED
                )
        self._segments.append(segment)
        self._on_disk += segment.size + segment.index_size
        return empty

    def _find_missing(self, first: int) -> int:
        """Find the records from `first` on that no segment has, and what they held; how many there are.

        Between two segments whose headers say what was before them, it is the difference, less what is there.
        """
        anchor: Manifest | None = {} if not first else None  # what was before the records looked at
        there: list[manifest.Row] = []  # what is there since
        missing: list[int] = []
        count, expected = 0, first
        for segment in self._segments:
            missing += range(expected, segment.first)
            if segment.before is not None:
                count += self._miss(missing, anchor, there, segment.before)
                anchor, there, missing = segment.before, [], []
            missing += (n for low, high in segment.gone for n in range(max(low, first), high + 1))
            there += self._held(segment)
            expected = max(expected, segment.end)
        return count + self._miss([*missing, *range(expected, self._end)], None, [], {})

    def _miss(
        self, records: list[int], before: Manifest | None, there: list[manifest.Row], upto: Manifest
    ) -> int:
        """Records that are nowhere, between what was before and what was `upto` here; how many they are."""
        contents: Manifest | None = None
        if before is not None:
            contents = dict(upto)
            manifest.take_off(contents, before.values())
            manifest.take_off(contents, there)
        gap = _Gap(records[0] if records else 0, contents)
        self._gaps |= dict.fromkeys(records, gap)
        return len(records)

    def _held(self, segment: Segment) -> "list[manifest.Row]":
        """All that a segment held."""
        contents = (segment.manifest(number, self._id) for number in range(segment.first, segment.end))
        return [row for one in contents if one for row in one.values()]


_MIXED: Final = "take away what was put there"


def begin(
    path: str,
    token: bytes,
    prefix: Sequence[bytes],
    size: int,
    memory: int,
    probes: int = 1,
    name: str = "",
) -> Spool:
    """Make a spool for a new session in the folder `path`, which is made where it is not there.

    `prefix`: the payloads that the session begins with; `size`, `memory`: bytes; `probes`: the largest probe
    number; `name`: what its agent is called. Raises SpoolError, a SpoolFullError where there is no room.
    """
    return begin_in(make_folder(path), token, prefix, size, memory, probes, name)


class SpoolFolder(NamedTuple):
    """The folder of a spool that is to be begun: its path, itself, open and locked, the one that it is in,
    and the spool's id.
    """

    path: str
    folder: Fd
    parent: Fd
    id: bytes


def make_folder(path: str, user: tuple[int, int] | None = None) -> SpoolFolder:
    """Make the folder of a new spool in the folder `path`, which is made where it is not there, for this
    process, or for another one that is `user` (user and group) and cannot make any. Raises SpoolError.
    """
    id = os.urandom(16)
    try:
        os.makedirs(path, 0o700, exist_ok=True)
        with _Locked(path):
            own = os.path.join(path, id.hex())
            os.mkdir(own, 0o700)
            folder = open_folder(own)
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if user is not None and user != (os.geteuid(), os.getegid()):
                os.fchown(folder, *user)
            parent = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            return SpoolFolder(own, Fd(folder), Fd(parent), id)
    except OSError as error:
        raise _unbegun(path, error) from None


def _unbegun(path: str, error: OSError) -> SpoolError:
    made = SpoolFullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else SpoolError
    return made("begin", f"spool {path}", (error.strerror or "failed").lower())


def begin_in(
    made: SpoolFolder,
    token: bytes,
    prefix: Sequence[bytes],
    size: int,
    memory: int,
    probes: int = 1,
    name: str = "",
) -> Spool:
    """A spool for a new session in a folder that was made for it, which is gone where it cannot be begun; as
    `begin`.
    """
    folder, parent = made.folder.release(), made.parent.release()
    spool: Spool | None = None
    try:
        kept = SpoolSession(token, tuple(prefix), 0, boot(), probes, place(folder), b"", name)
        spool = Spool(made.path, folder, made.id, kept, size, memory, parent)
        spool._claim()
        spool._live()
    except BaseException as error:
        with contextlib.suppress(OSError):
            _delete(made.path, folder, parent)
        if spool is not None:
            spool._free()
        else:
            os.close(folder)
            os.close(parent)
        if isinstance(error, OSError):
            raise _unbegun(made.path, error) from None
        raise
    return spool


def _delete(path: str, folder: int, parent: int, names: Sequence[str] = ()) -> None:
    """Delete the folder of a spool with these files. OSError where something else is in it."""
    for name in (*names, f"{SESSION}.new", f"{STATE}.new", SESSION, STATE):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
    own = os.path.basename(path)
    if os.stat(own, dir_fd=parent).st_ino == os.fstat(folder).st_ino:
        os.rmdir(own, dir_fd=parent)


def recover(path: str, size: int, memory: int, adopt: bool = False) -> Iterator[Found]:
    """Give each spool in the folder `path` that no living agent has, and what is wrong with it.

    One that cannot be used, or is a copy, stays as it is. `adopt`: take copies for the originals from now on.
    Those of which nothing is left are deleted. SpoolError where a folder cannot be read.
    """
    if not os.path.isdir(path):
        return
    try:
        with _Locked(path):
            for name in sorted(os.listdir(path)):
                own = os.path.join(path, name)
                if NAME.fullmatch(name) and os.path.isdir(own):
                    try:
                        yield from _recover(own, size, memory, adopt)
                    except OSError as error:  # of this one alone
                        cause = (error.strerror or "failed").lower()
                        yield Found(None, str(SpoolError("use", f"spool {own}", cause)))
    except OSError as error:
        raise SpoolError("read", f"spool {path}", (error.strerror or "failed").lower()) from None


def _recover(own: str, size: int, memory: int, adopt: bool) -> Iterator[Found]:
    folder = open_folder(own)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        kept = _kept(own, folder, adopt)
    except BlockingIOError:
        os.close(folder)  # its agent lives
        return
    except SpoolError as error:
        os.close(folder)
        yield Found(None, str(error))
        return
    except BaseException:
        os.close(folder)
        raise
    if kept is None:
        os.close(folder)
        os.rmdir(own)
        return
    try:
        spool = Spool(own, folder, bytes.fromhex(os.path.basename(own)), kept, size, memory)
    except BaseException:
        os.close(folder)
        raise
    try:
        wrong = spool._load()
        spool._claim()
        spool._live()
    except SpoolError as error:
        spool._free()
        yield Found(None, f"{error} ({own})")
        return
    except BaseException:
        spool._free()
        raise
    yield Found(spool, wrong)


def _kept(own: str, folder: int, adopt: bool) -> SpoolSession | None:
    """The session of a folder. None where it was being made, or deleted: then it is empty now. SpoolError
    where it cannot be used.
    """  # fmt: skip
    kept = read(folder, own)
    if kept is None:
        names = os.listdir(folder)
        if any(map(_FILE.fullmatch, names)):
            cause = "its session file is gone, so nobody knows whose records these are"
            raise SpoolError("use", f"spool {own}", cause, "put it back, or move the folder away")
        if not _UNFINISHED.issuperset(names):
            raise SpoolError("use", f"spool {own}", "what is in it is no spool's", _MIXED)
        for part in names:
            os.unlink(part, dir_fd=folder)
        return None
    here = place(folder)
    differs = kept.place.differs(here)
    if differs and not adopt:
        cure = "if no other copy of it was or will be delivered, take it with --adopt"
        raise SpoolError("use", f"spool {own}", f"it is a copy: {differs}", cure)
    if kept.place != here:
        kept = kept._replace(place=here)
        save(folder, kept)
    return kept


class _Locked:
    """The lock of the whole folder, while spools come and go in it."""

    __slots__ = ("_fd",)

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
