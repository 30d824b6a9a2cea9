"""Writing a capture: frames into a pcapng file as they come, each loss at its place, an ending that balances.

A file is: section header · one interface a probe, or map · each one's SCHEMA as packets · EVENT, TABLE and
LOST frames as packets, verbatim · interface statistics. Invariants: at each moment `produced = stored + lost`
for what the file holds; what cannot be written because the disk is full is counted, and its LOST frame
(DISK_FULL) is written as soon as there is room, at the latest at the end, into a reserve for it; each file of
a rotation stands alone. No Python runs for a single event: `walk.epb_pack` packs them into a buffer.

Rotated files are named `base-0001.pcapng`, `base-0002.pcapng` …; a comment in each section header,
`kwire capture <id> file <n>`, tells which belong together, and the statistics tell whether another follows.
"""

import contextlib
import os
import struct
import time
from array import array
from collections.abc import Container, Iterable, Mapping, Sequence

from kwire.capture import identity, pcapng, walk
from kwire.capture.accounts import Accounts, Counts, Totals
from kwire.capture.destination import descriptor
from kwire.capture.frame_counts import count_frames, is_table
from kwire.capture.output import CaptureError, FullError, Output
from kwire.capture.retold import Retold
from kwire.hints import Final
from kwire.lazy import NamedTuple
from kwire.wire.frame import Type, read_lenient
from kwire.wire.frames import Frames
from kwire.wire.messages import CPU_UNKNOWN, U64_MAX, Cause, Hole, Lost, losses_in
from kwire.wire.schema import Clock, Schema
from kwire.wire.stacks import Stacks
from kwire.wire.tables import MOST, head_of, time_of

BUFFER: Final = 256 << 10  # bytes packed before they are written: fits a second-level cache
BIGGEST: Final = 65535 + 3 + walk.EPB_OVERHEAD + 16  # bytes one frame can need
LOST_BLOCK: Final = walk.EPB_OVERHEAD + 40
STATISTICS_BLOCK: Final = 160
FOLLOWED: Final = "continued in file {number}"  # comments of the statistics
LAST_FILE: Final = "end of capture"


class _File(NamedTuple):
    """The file being written: its number (0: there is only one) and when it began, steady and wall clock."""

    output: Output
    number: int
    opened: float
    started: int


class Writer:
    """A capture being written to `target`: a path, `-` for standard output, or a descriptor.

    `schemas` are the probes, numbered 1 to n in order; their clocks (or `clock` for all) make timestamps wall
    time. `rotate_bytes`, `rotate_seconds`: begin another file before this one grows over so many bytes, or
    when it is so old; checked when events come. `comments` go into each section header. `buffer`, of BUFFER
    bytes, may be shared by writers of which each flushes before another one writes. Call `flush` at the end
    of each round of reading, `close` at the end: without it the file says that its recorder died. Raises
    CaptureError where the target cannot be written; a full disk is not an error but loss.

    A file takes its place (see Destination) when its beginning is written, and grows there. With `hold` the
    first one does so with `publish`, or whole with `close`; `leave` before leaves what was there. `clobber`:
    whether files that are there may be replaced. `stacks`: what is known of stacks, of which those are told
    that events refer to; without it further files of a rotation tell again what tables told before.
    """

    __slots__ = (
        "_accounts",
        "_base",
        "_buffer",
        "_clobber",
        "_comments",
        "_environment",
        "_file",
        "_hold",
        "_id",
        "_next",
        "_probes",
        "_retold",
        "_retold_frames",
        "_rotate_bytes",
        "_rotate_seconds",
        "_size",
        "_unfinished",
        "_used",
        "_written",
        "dropped",
        "files",
        "schemas",
    )

    _KEPT = False  # whether what was written before must still be there: `Output.kept`

    def __init__(
        self,
        target: str | int,
        schemas: Sequence[Schema],
        *,
        host: str = "",
        kernel: str = "",
        tool: str = "kwire",
        clock: Clock | None = None,
        rotate_bytes: int = 0,
        rotate_seconds: float = 0,
        comments: Sequence[str] = (),
        buffer: bytearray | None = None,
        hold: bool = False,
        clobber: bool = True,
        stacks: Stacks | None = None,
    ) -> None:
        self.schemas = list(schemas)
        self._hold, self._clobber = hold, clobber
        if [schema.id for schema in self.schemas] != list(range(1, len(self.schemas) + 1)):
            raise CaptureError("open capture", str(target), "probes are not numbered 1, 2, 3 … in order")
        rotates = bool(rotate_bytes or rotate_seconds)
        if rotates and (not isinstance(target, str) or descriptor(target) is not None):
            raise CaptureError(
                "open capture", str(target), "rotation makes several files", "name a file with -w"
            )
        self._retold = Retold(self.schemas, stacks) if rotates or stacks is not None else None
        self._retold_frames = 0  # of all files
        self._unfinished: dict[int, int] = {}  # by map: where a table began of which more is to come
        self._base = target
        self._environment = (host, kernel, tool)
        self._id = os.urandom(16).hex()
        self._rotate_bytes, self._rotate_seconds = rotate_bytes, rotate_seconds
        self._size = BUFFER if not rotate_bytes else max(2 * BIGGEST, min(BUFFER, rotate_bytes // 8))
        self._buffer, self._used = memoryview(buffer or bytearray(self._size))[: self._size], 0
        self._next = self._size  # bytes of packets that a further file must have room for
        self._accounts = Accounts(len(self.schemas), self._counts)
        for schema in self.schemas:
            self._accounts.describe(schema, clock)
        self.files: list[str] = []  # paths written, in order
        self.dropped = False
        """Whether the disk had no room for something."""
        self._written = 0  # bytes of the earlier files
        self._comments = tuple(comments)
        self._probes = self._describe(self.schemas)
        self._file = self._first(1 if rotates else 0)
        if not rotates:
            self._probes = b""

    # --- what has been done so far

    @property
    def events(self) -> int:
        """Events stored, those in the buffer included; without the TABLE frames of maps."""
        accounts = self._accounts
        tables = sum(accounts.stored(schema.id) for schema in self.schemas if schema.map is not None)
        return sum(accounts.earlier_stored) + sum(accounts.here) - tables

    @property
    def unfinished(self) -> bool:
        """Whether the rest of a table is to come."""
        return bool(self._unfinished)

    @property
    def lost_events(self) -> int:
        """Events counted lost, written or waiting for room."""
        return sum(self._accounts.lost_by_probe())

    @property
    def size(self) -> int:
        """Bytes written, of all files, the buffer included."""
        return self._written + self._file.output.position + self._used

    # --- writing

    def write(self, frames: Frames) -> None:
        """Take the frames, in order. EVENTs of a probe that has no schema here are a CaptureError."""
        start, count, data, offsets = 0, frames.count, frames.data, frames.offsets
        rows = self._accounts.rows
        while start < count:
            if not self._used and not self._begin():
                self._drop(frames, start)
                return
            stop = self._tell_stacks(frames, start)
            start, self._used = walk.epb_pack(data, offsets, start, stop, rows, self._buffer, self._used)
            if start == count:
                return
            if start == stop:
                continue
            if self._size - self._used < BIGGEST:
                self.flush()
            else:
                self._other(frames, start)
                start += 1

    def lost(self, losses: Iterable[Lost]) -> None:
        """Put LOST frames at this place of the file; the next event of each probe tells the number too."""
        for loss in losses:
            self._accounts.add_loss(loss)
        if self._used or self._begin():
            self._tell_holes()

    def flush(self) -> None:
        """Hand everything packed so far to the operating system."""
        used = self._used
        if not used:
            return
        with memoryview(self._buffer) as view:
            done = self._file.output.write(view[:used])
        self._used = 0
        if done < used:
            self._take_back(done, used)

    def publish(self) -> None:
        """Let the file that was held take its place; others have theirs. Raises CaptureError."""
        self._hold = False
        self._file.output.publish()

    def leave(self) -> None:
        """Close the file as it is, without what is not written yet and without its ending.

        Of a file that is held nothing stays.
        """
        self._used = 0
        self._file.output.close()

    def close(
        self, produced: Mapping[int, int] | None = None, unproven: Container[int] = ()
    ) -> dict[int, Totals]:
        """Write the ending and close; `produced` is what each probe counted itself, by its number.

        Without it the events stored and lost are taken for all there were. Probes in `unproven` get no
        statistics: nobody knows what they produced. Gives each probe's balance over all files; number 0
        stands there where losses of no known probe were counted.
        """
        totals: dict[int, Totals] = {}
        if self._file.output.fd < 0:
            return totals
        try:
            self.flush()
            lost_of = self._accounts.lost_by_probe()
            for number in range(0 if lost_of[0] else 1, len(self.schemas) + 1):
                stored, lost = self._accounts.stored(number), lost_of[number]
                known = produced.get(number) if produced is not None else None
                if known is not None and self._retold is not None and number == self._retold.tells:
                    known += self._retold_frames
                totals[number] = Totals(stored + lost if known is None else known, stored, lost)
            self._end(totals, LAST_FILE, unproven)
            self.publish()
        finally:
            self._file.output.close()
        return totals

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None and self._hold:
            self.leave()
        self.close()

    @staticmethod
    def _counts(numbers: int) -> Counts:
        """Counts of events for so many numbers, all 0."""
        return [0] * numbers

    # --- files

    def _first(self, number: int) -> _File:
        """Open the first file."""
        first = self._open(number)
        if first is None:
            raise CaptureError(
                "open capture", str(self._base), "no room for its beginning", "free space on the disk"
            )
        return first

    def _open(self, number: int, more: int = 0) -> _File | None:
        """Open file `number` with its beginning; None where that, and so many bytes more, have no room."""
        base = self._path(number)
        reserve = 4096 + len(self.schemas) * (STATISTICS_BLOCK + 4 * LOST_BLOCK)
        try:
            output = Output(base, reserve, clobber=self._clobber, kept=self._KEPT)
        except FullError:  # no inode is left, or no room for its name
            return None
        head = self._beginning(max(1, number))
        begun = False
        try:
            with memoryview(head) as view:
                begun = output.room(len(head) + more) and output.write(view) == len(head)
            if begun and not self._hold:
                output.publish()
        except FullError:
            begun = False
        except BaseException:
            begun = False
            raise
        finally:
            if not begun:
                output.position = 0
                with contextlib.suppress(CaptureError):
                    output.close()
        if not begun:
            return None
        self.files.append(output.name)
        return _File(output, number, time.monotonic(), time.time_ns())

    def _path(self, number: int) -> str | int:
        """The target of file `number`."""
        if not number or not isinstance(self._base, str):
            return self._base
        root, extension = os.path.splitext(self._base)
        return f"{root}-{number:04d}{extension}"

    def _beginning(self, number: int) -> bytes:
        host, kernel, tool = self._environment
        machine = os.uname().machine
        options = [
            (pcapng.Option.COMMENT, identity.OWN.format(id=self._id, number=number).encode()),
            *((pcapng.Option.COMMENT, pcapng.text(comment)) for comment in self._comments),
            (pcapng.SectionOption.HARDWARE, pcapng.text(f"{host} ({machine})" if host else machine)),
            (pcapng.SectionOption.OS, pcapng.text(f"Linux {kernel}" if kernel else "Linux")),
            (pcapng.SectionOption.APPLICATION, pcapng.text(tool)),
        ]
        return pcapng.section(options) + self._probes

    def _describe(self, schemas: Sequence[Schema]) -> bytes:
        """The interfaces and SCHEMA packets that stand before a probe's events: megabytes, with symbols."""
        parts = [pcapng.interface(schema.probe, self._about(schema)) for schema in schemas]
        for schema in schemas:
            moment = schema.clock.wall if schema.clock else time.time_ns()
            parts += [pcapng.packet(schema.id - 1, moment, frame) for frame in schema.frames()]
        return b"".join(parts)

    def _about(self, schema: Schema) -> pcapng.Options:
        """What is said of a probe's interface beside its name."""
        about = f"{schema.kind} {schema.target}, probe {schema.id}"
        described: pcapng.Options = [(pcapng.InterfaceOption.DESCRIPTION, pcapng.text(about))]
        if kernel := self._environment[1]:
            described.append((pcapng.InterfaceOption.OS, pcapng.text(f"Linux {kernel}")))
        return described

    def _begin(self) -> bool:
        """Before the first packet of a buffer: rotate where it is time, make room. False: disk full."""
        if self._file.number and self._due():
            self._rotate()
        if not self._file.output.room(self._size):
            return False
        self._tell_holes()
        return True

    def _due(self) -> bool:
        output = self._file.output
        if self._unfinished and self.size - min(self._unfinished.values()) < MOST:
            return False  # a reader puts the frames of a table together within a file
        if self._rotate_seconds and time.monotonic() - self._file.opened >= self._rotate_seconds:
            return True
        if not self._rotate_bytes or not any(self._accounts.here):
            return False
        return output.position + self._size + output.reserve > self._rotate_bytes

    def _rotate(self, number: int | None = None) -> bool:
        """Open the next file, then end this one; where the next has no room yet, stay: False.

        With a `number` it belongs to another capture.
        """
        old, new = self._file, self._open(self._file.number + 1 if number is None else number, self._next)
        if new is None:
            return False
        try:
            self._end({}, LAST_FILE if number is not None else FOLLOWED.format(number=new.number))
        finally:
            self._file = new
            old.output.close()
        self._unfinished.clear()
        if self._retold is not None:
            self._retold.begin()
        self._written += old.output.position
        self._accounts.pass_on()
        return True

    def _ending(self, schema: Schema) -> list[str]:
        """More comments for the closing statistics of a probe."""
        return []

    def _end(self, totals: Mapping[int, Totals], comment: str, unproven: Container[int] = ()) -> None:
        """Write the holes still open and the statistics of this file, into the reserve if it must be."""
        accounts = self._accounts
        parts, room = [], max(self._file.output.reserve, self._size) - len(self.schemas) * STATISTICS_BLOCK
        if len(accounts.holes) * LOST_BLOCK > room:
            accounts.join_holes()
        for (probe, cpu, cause), hole in accounts.holes.items():
            parts.append(self._lost_packet(probe, cpu, cause, hole))
        accounts.holes.clear()
        now = time.time_ns()
        for schema in self.schemas:
            number = schema.id
            if number in unproven:
                continue
            stored, lost = accounts.stored_here(number), accounts.lost[number]
            produced = stored + lost
            if number in totals:
                earlier = accounts.earlier_stored[number] + accounts.earlier_lost[number]
                produced = max(0, totals[number].produced - earlier)
            counters = [
                (pcapng.StatisticsOption.START, pcapng.split_time(self._file.started)),
                (pcapng.StatisticsOption.END, pcapng.split_time(now)),
                (pcapng.StatisticsOption.RECEIVED, min(produced, U64_MAX).to_bytes(8, pcapng.HOST)),
                (pcapng.StatisticsOption.DROPPED, min(lost, U64_MAX).to_bytes(8, pcapng.HOST)),
                (pcapng.StatisticsOption.DELIVERED, stored.to_bytes(8, pcapng.HOST)),
                *((pcapng.Option.COMMENT, text.encode()) for text in (comment, *self._ending(schema))),
            ]
            parts.append(pcapng.statistics(number - 1, now, counters))
        ending = b"".join(parts)
        with memoryview(ending) as view:
            done = self._file.output.finish(view)
        if done < len(ending):
            self._file.output.back(done)
            raise CaptureError(
                "close capture",
                self._file.output.name,
                "the disk is full, not even the ending fits",
                "events are whole, but nothing in the file says what was lost",
            )

    # --- what is not a plain event

    def _other(self, frames: Frames, index: int) -> None:
        """A frame that epb_pack does not take: LOST, TABLE and SCHEMA of known probes and maps."""
        header = frames.header(index)
        if header.type == Type.LOST:
            self.lost([Lost.read(frames.frame(index))])
        elif is_table(header.type, header.id) and header.id <= len(self.schemas):
            self._table(frames, index)
        elif header.type == Type.SCHEMA and 1 <= header.id <= len(self.schemas):
            self._append(pcapng.packet(header.id - 1, time.time_ns(), frames.frame_bytes(index)))
        else:
            kind = Type(header.type).name if header.type <= max(Type) else f"type {header.type}"
            raise CaptureError(
                "write frame", f"{kind} of id {header.id}", "it belongs to no probe of this capture"
            )

    def _table(self, frames: Frames, index: int) -> None:
        """A TABLE of a known map, counted like an event."""
        schema = self.schemas[frames.header(index).id - 1]
        if self._retold is not None and schema.tells:
            self._retold.learn(schema, frames, index)
        self._put_table(frames, index)

    def _put_table(self, frames: Frames, index: int) -> None:
        frame = frames.frame(index)
        time_, more = head_of(frame)
        moment = time_ + self._accounts.wall(frame.header.id) & U64_MAX
        if more:
            self._unfinished.setdefault(frame.header.id, self.size)
        else:
            self._unfinished.pop(frame.header.id, None)
        self._append(pcapng.packet(frame.header.id - 1, moment, frames.frame_bytes(index)))
        self._accounts.store(frame.header.id)

    def _tell_stacks(self, frames: Frames, start: int) -> int:
        """Tell the stacks that the next frames refer to, where they were not told in this file; gives where
        those frames end.
        """
        if self._retold is None or (self._file.number == 1 and not self._retold.shared):
            return frames.count  # the tables themselves were there before
        stop, told = self._retold.before(frames, start)
        for index in range(told.count):
            self._put_table(told, index)
            self._retold_frames += 1
        return stop

    def _append(self, block: bytes) -> None:
        if self._size - self._used < len(block):
            self.flush()
        self._buffer[self._used : self._used + len(block)] = block
        self._used += len(block)

    def _tell_holes(self) -> None:
        """Write the holes as LOST frames where the file stands now."""
        holes, self._accounts.holes = self._accounts.holes, {}
        for (probe, cpu, cause), hole in holes.items():
            self._append(self._lost_packet(probe, cpu, cause, hole))
            if 1 <= probe <= len(self.schemas):
                self._accounts.drop_before_next(probe, hole.count)

    def _lost_packet(self, probe: int, cpu: int, cause: int, hole: Hole) -> bytes:
        """The packet of a hole, counted as written; its time is the end of the hole."""
        known = 1 <= probe <= len(self.schemas)
        index = probe - 1 if known else 0
        self._accounts.lost[probe if known else 0] += hole.count
        moment = time.time_ns()
        if hole.last and self.schemas:
            moment = hole.last + self._accounts.wall(index + 1)
        frame = Lost(probe, hole.first, hole.last, hole.count, cpu, cause).frame()
        return pcapng.packet(index, moment, frame)

    # --- a full disk

    def _drop(self, frames: Frames, start: int) -> None:
        """Count frames as lost for want of room."""
        self.dropped = True
        accounts, numbers = self._accounts, range(1, len(self.schemas) + 1)
        rest = memoryview(frames.offsets)[start : frames.count]
        counted = 0
        for swap in set(map(accounts.swapped, numbers)):
            table = array("Q", bytes(8 * walk.COUNT_WORDS * (len(self.schemas) + 1)))
            counted = count_frames(frames.data, rest, len(rest), table, swap)
            for number in numbers:
                if accounts.swapped(number) == swap:
                    count, first, last = table[number * walk.COUNT_WORDS : (number + 1) * walk.COUNT_WORDS]
                    accounts.lose(number, CPU_UNKNOWN, Cause.DISK_FULL, first, last, count)
        if counted < len(rest):
            for loss in losses_in(frames, range(start, frames.count)):
                accounts.add_loss(loss)

    def _take_back(self, done: int, used: int) -> None:
        """Only `done` of the `used` bytes packed went to the disk: undo the blocks that are not whole."""
        self.dropped = True
        buffer, accounts = self._buffer, self._accounts
        at = 0
        while at < used:
            total, interface = struct.unpack_from("=4xII", buffer, at)
            if at + total > done:
                break
            at += total
        self._file.output.back(done - at)
        while at < used:
            total, interface = struct.unpack_from("=4xII", buffer, at)
            frame = read_lenient(buffer, at + walk.EPB_HEADER)
            if frame.header.type == Type.LOST:
                loss = Lost.read(frame)
                accounts.lost[accounts.known(loss.probe)] -= loss.count
                accounts.add_loss(loss)
            elif frame.header.type in (Type.EVENT, Type.TABLE):
                accounts.store(interface + 1, -1)
                if frame.header.type == Type.TABLE:
                    moment = time_of(frame)
                else:
                    moment = self.schemas[interface].timestamp(buffer[at + walk.EPB_HEADER : at + total])
                accounts.lose(interface + 1, CPU_UNKNOWN, Cause.DISK_FULL, moment, moment, 1)
            at += total
