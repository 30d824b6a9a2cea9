"""A capture that grows while it is written, and that a successor goes on with after its recorder was killed.

Invariants: `state` after `settle`, given back as `resume`, goes on exactly there: what was written later is
cut off, and the accounts are those of that moment. A probe may join or be described again at any time; its
description stands in the file before its first packet, and in the beginning of each further file. Nothing is
dropped for want of room: what `fits` said finds room, and what does not is a CaptureError, after which a
writer is left, and its successor goes on. What `settle` returned from is in the file that is there: one that
was deleted or cut is a GoneError, and a writer that comes `after` it counts what is gone (CAPTURE_GONE).
"""

import contextlib
import os
import struct
import sys
import time
from array import array
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

from kwire.capture import identity, pcapng, walk
from kwire.capture.accounts import Counts, Totals
from kwire.capture.frame_counts import count_frames
from kwire.capture.output import CaptureError, FullError, GoneError, Output
from kwire.capture.writer import BUFFER, FOLLOWED, LOST_BLOCK, STATISTICS_BLOCK, Writer, _File
from kwire.wire.frame import Frame, FrameError
from kwire.wire.frames import Frames
from kwire.wire.messages import CPU_UNKNOWN, U64_MAX, Cause, Lost, losses_in
from kwire.wire.schema import Schema

INTERFACE_BLOCK: Final = 512  # bytes kept in reserve, so that a probe's losses can be told of on a full disk
MOST_LOST: Final = 1 << 48  # events; a LOST frame that tells of more is none, so that sums stay in 64 bits
_ENDING: Final = 1 << 20  # bytes at the end of a file that statistics of thousands of probes take
MOST_ENDED: Final = 64  # files ended since the last promise that are held open
AGAIN: Final = ".again"  # what the name of a file gets whose events come again
MOST_LOOKED_AT: Final = 100_000  # files among which one that was moved is looked for
_DAMAGE: Final = (struct.error, ValueError, IndexError, KeyError)

# file number, probes, how many of them the file describes, the bytes before the position; position, bytes of
# earlier files, when the file was begun; its device and inode
_HEAD = struct.Struct("=4I5Q")
_HOLE = struct.Struct("=IHBxQQQ")  # probe, cpu, cause, first, last, count
_CAUSE = struct.Struct("=IBxxxQ")  # probe, cause, count

State: TypeAlias = Mapping[str, bytes]
"""What a successor must know, in parts: those that grow with the number of probes seldom change much."""

Stranger: TypeAlias = Callable[[Frame], None]


class StateError(CaptureError):
    """What should be the state of a writer is none."""


class ResumableWriter(Writer):
    """A Writer without probes at first: `describe` adds them.

    `resume`: the `id` and `state` of a writer that was left at that point, with `schemas`, its probes;
    `moved`: its file is looked for in the folder of the target, and below, by its inode;
    `after`: the same of one whose file is gone, and its target: what is gone is counted in a new file;
    `retired`: not where retention took it, as that is not lost.
    `name`: the `id` that it is to have. `stranger` is given every frame that is not an
    EVENT of a probe described. `sync`: each file of a rotation is on the disk, as fsync(2) promises, before
    the next one is written. Raises CaptureError where the target cannot be opened, GoneError where it is not
    as the state says, StateError where that is none.
    """

    __slots__ = (
        "_after",
        "_ended",
        "_introduced",
        "_moved",
        "_name",
        "_promised",
        "_promised_file",
        "_remainders",
        "_resume",
        "_stranger",
        "_sync",
        "_unread",
        "_waiting",
        "causes",
        "endings",
        "notes",
    )
    _KEPT = True

    def __init__(
        self,
        target: str,
        stranger: Stranger,
        *,
        schemas: Sequence[Schema] = (),
        resume: tuple[str, State] | None = None,
        moved: bool = False,
        after: tuple[str, State, str] | None = None,
        retired: bool = False,
        name: str = "",
        sync: bool = False,
        **options: Any,
    ) -> None:
        self._stranger, self._resume, self._after, self._sync = stranger, resume, after, sync
        self._name, self._moved = name, moved
        self._unread = resume is not None  # the stacks that a predecessor told are not known
        self._remainders: list[
            str
        ] = []  # of files that were cut, and hold events still: paths from our folder
        self._promised = 0  # the position up to which the file is promised, its beginning at least
        self._ended: list[tuple[int, int]] = []  # the same of files ended since, each with a descriptor
        self._waiting: dict[int, Schema] = {}  # by number: not in the file yet, or described otherwise there
        self._introduced = len(schemas)  # probes that have an interface in the file
        self.notes: dict[int, str] = {}
        """A comment for the interface of a probe, by its number."""
        self.endings: dict[int, str] = {}
        """A comment for the closing statistics of a probe, by its number."""
        self.causes: dict[tuple[int, int], int] = {}
        """Events by probe and cause that came as LOST frames."""
        super().__init__(target, schemas, **options)
        self._probes = b""
        self._promised, self._promised_file = self._file.output.position, self._file.number
        if self._after is not None:
            try:
                if retired:
                    self._take_accounts(self._after[1])
                    self._accounts.pass_on()
                else:
                    self._count_gone(*self._after)
            except _DAMAGE:
                self.leave()
                raise StateError("go on writing", str(self._base), "its state is damaged") from None
            self._after = None
        if sync and resume is None:
            _to_disk(os.path.dirname(os.path.abspath(target)))

    # --- probes

    def describe(self, schema: Schema) -> None:
        """Add a probe, numbered one more than the last, or describe one of those again."""
        self.flush()
        index = schema.id - 1
        if index == len(self.schemas):
            self.schemas.append(schema)
            self._accounts.add()
            self._file.output.reserve += _reserve(1) if self._file.output.reserve else 0
        else:
            self.schemas[index] = schema
        self._accounts.describe(schema)
        self._waiting[schema.id] = schema
        if self._retold is not None:
            self._retold.describe(schema)

    def balances(self, numbers: Iterable[int]) -> list[Totals]:
        """What is stored and lost so far of these probes (0: of none known); produced is their sum."""
        lost, out = self._accounts.lost_by_probe(), []
        for number in numbers:
            stored = self._accounts.stored(number)
            out.append(Totals(stored + lost[number], stored, lost[number]))
        return out

    # --- going on

    @property
    def id(self) -> str:
        """What joins the files of this capture: 32 hexadecimal digits."""
        return self._id

    @property
    def promised_file(self) -> int:
        """The number of the file in which a successor would go on; those before it are finished."""
        return self._promised_file

    @property
    def gone(self) -> int:
        """Events that were stored in files that are gone."""
        return sum(count for (_, cause), count in self.causes.items() if cause == Cause.CAPTURE_GONE)

    def fits(self, size: int) -> bool:
        """Whether packets of so many bytes find room: then `write` takes them, as far as the file system can
        promise that. A further file of a rotation is begun only where they find room in it.
        """
        self._next = self._used + size + BUFFER
        return self._file.output.room(self._next)

    @property
    def moved(self) -> bool:
        """Whether the file is not at its path any more, but was moved elsewhere."""
        return self._file.output.moved()

    def move_on(self, target: str) -> None:
        """End the file, which was moved, and go on in a new one; what was moved is stored."""
        self.flush()
        base, name, self._base = self._base, self._id, target
        self._id = os.urandom(16).hex()
        if not self._rotate(1 if self._file.number else 0):
            self._base, self._id = base, name
            raise FullError("open capture", target, "no room for its beginning")

    def turn(self) -> bool:
        """Begin the next file of a rotation where its time has come, though nothing comes; whether it was so.
        A file that holds nothing stays.
        """
        accounts = self._accounts
        if not self._file.number or not (any(accounts.here) or any(accounts.lost)) or not self._late():
            return False
        self.flush()
        return self._late() and self._rotate()

    def _late(self) -> bool:
        """Whether the time of the file is over, and all in it is whole."""
        opened, seconds = self._file.opened, self._rotate_seconds
        return bool(seconds) and time.monotonic() - opened >= seconds and self._due()

    @property
    def target(self) -> str:
        """The path that the names of its files are made of."""
        return str(self._base)

    def settle(self) -> None:
        """Hand all to the operating system, descriptions too; with `sync`, to the disk. It is there then."""
        self.flush()
        if self._waiting:
            self._introduce()
        output = self._file.output
        try:
            if self._sync:
                os.fdatasync(output.fd)
            output.check()
        except OSError as error:
            raise CaptureError("write", output.name, error.strerror or "failed") from None

    def state(self) -> State:
        """Where the writing stands; only after `settle`."""
        output, file = self._file.output, os.fstat(self._file.output.fd)
        head = _HEAD.pack(
            self._file.number,
            len(self.schemas),
            self._introduced,
            output.tail(),
            output.position,
            self._written,
            self._file.started,
            file.st_dev,
            file.st_ino,
        )
        holes = self._accounts.holes.items()
        packed = (_HOLE.pack(*key, one.first, one.last, min(one.count, U64_MAX)) for key, one in holes)
        causes = (_CAUSE.pack(*key, min(count, U64_MAX)) for key, count in self.causes.items())
        return {
            "head": head,
            "rows": self._accounts.rows.tobytes(),
            **{name: array("Q", counts).tobytes() for name, counts in self._named_counts().items()},
            "waiting": array("I", self._waiting).tobytes(),
            "holes": b"".join(packed),
            "causes": b"".join(causes),
            "remainders": os.fsencode("\0".join(self._remainders)),
            "retold": self._retold_frames.to_bytes(8, sys.byteorder),
        }

    def promise(self) -> None:
        """What `state` gave last is written down: a successor goes on there."""
        self._promised, self._promised_file = self._file.output.position, self._file.number
        self._let_go()

    def leave(self) -> None:
        """Close the file as it is promised: what is not comes again. Wherever it was moved to meanwhile, and
        where it was ended since, that is taken back, as far as the disk lets us.
        """
        for fd, position in self._ended:
            with contextlib.suppress(OSError):
                if os.fstat(fd).st_size > position:
                    os.ftruncate(fd, position)
        self._let_go()
        self._file.output.cut(self._promised)
        super().leave()

    def _let_go(self) -> None:
        for fd, _ in self._ended:
            os.close(fd)
        self._ended.clear()

    def _named_counts(self) -> dict[str, Counts]:
        lost, stored = self._accounts.earlier_lost, self._accounts.earlier_stored
        return {"lost": self._accounts.lost, "earlier lost": lost, "earlier stored": stored}

    @staticmethod
    def _counts(numbers: int) -> Counts:
        """An array: it is copied at each commit."""
        return array("Q", bytes(8 * numbers))

    def _first(self, number: int) -> _File:
        if self._resume is None:
            self._id = self._name or self._id
            return super()._first(number)
        self._id, state = self._resume
        try:
            return self._again(state)
        except _DAMAGE:
            raise StateError("go on writing", str(self._base), "its state is damaged") from None

    def _again(self, state: State) -> _File:
        number, position, tail, started, where = self._take_state(state)
        own = [str(self._path(each)) for each in [*range(1, number), number]]
        self.files = [*self._remaining(), *own]
        own_id = identity.Identity(self._id, max(1, number))
        if self._moved:
            self.files[-1] = find(self.files[-1], own_id, *where)
        elif _another(self.files[-1], own_id):
            raise GoneError("go on writing", self.files[-1], "another capture is there now")
        if number and (os.path.exists(self._path(number + 1)) or _followed(self.files[-1], position)):
            _set_aside_later(str(self._base), number, self._id)
        output = Output.again(self.files[-1], position, 4096 + _reserve(len(self.schemas)), tail)
        return _File(output, number, time.monotonic(), started)

    def _take_state(self, state: State) -> tuple[int, int, int, int, tuple[int, int]]:
        """Read what `state` gave: the accounts; the file's number, position, last bytes, beginning, place."""
        head = _HEAD.unpack(state["head"])
        number, probes, self._introduced, tail, position, self._written, started, device, inode = head
        if probes != len(self.schemas):
            raise ValueError
        accounts = self._accounts
        accounts.rows[:] = _array("Q", state["rows"], len(accounts.rows))
        for name, counts in self._named_counts().items():
            counts[:] = _array("Q", state[name], probes + 1)
        self._waiting = {each: self.schemas[each - 1] for each in array("I", state["waiting"])}
        for probe, cpu, cause, first, last, count in _HOLE.iter_unpack(state["holes"]):
            accounts.lose(probe, cpu, cause, first, last, count)
        for probe, cause, count in _CAUSE.iter_unpack(state["causes"]):
            self.causes[probe, cause] = count
        self._retold_frames = int.from_bytes(state.get("retold", b""), sys.byteorder)
        self._remainders = [each for each in os.fsdecode(state["remainders"]).split("\0") if each]
        return number, position, tail, started, (device, inode)

    def _take_accounts(self, state: State) -> int:
        """Take those of a writer whose file is not gone on with; gives its number."""
        written, introduced = self._written, self._introduced
        number = self._take_state(state)[0]
        self._written, self._introduced, self._waiting = written, introduced, {}
        return number

    def _count_gone(self, name: str, state: State, target: str) -> None:
        """Take the accounts of a writer whose file is gone: what was in it, and is not there, is lost.

        Losses that it told are told again. Files of the same rotation before it are taken to be there.
        """
        accounts = self._accounts
        number = self._take_accounts(state)
        if number:
            _set_aside_later(target, number, name)
        root, extension = os.path.splitext(target)
        table, told = self._remains(name, f"{root}-{number:04d}{extension}" if number else target)
        for probe in range(len(self.schemas) + 1):
            stored = accounts.stored_here(probe)
            if probe:
                accounts.store(probe, -stored)
            rest = min(stored, table[probe * walk.COUNT_WORDS])
            accounts.earlier_stored[probe] += rest
            lost, accounts.lost[probe] = accounts.lost[probe], 0
            accounts.earlier_lost[probe] += min(lost, told.get(probe, 0))
            self._tell_again(probe, lost - min(lost, told.get(probe, 0)))
            self._gone(probe, stored - rest)
        self.files[:0] = self._remaining()

    def _remaining(self) -> list[str]:
        """The paths of files that were cut, and hold events still."""
        folder = os.path.dirname(str(self._base))
        return [os.path.normpath(os.path.join(folder, path)) for path in self._remainders]

    def _gone(self, probe: int, count: int) -> None:
        if count:
            key = (probe, int(Cause.CAPTURE_GONE))
            self.causes[key] = self.causes.get(key, 0) + count
            self._accounts.lose(probe, CPU_UNKNOWN, Cause.CAPTURE_GONE, 0, 0, count)

    def _tell_again(self, probe: int, count: int) -> None:
        """So many losses of a probe stood in the file: with their causes, where those are known."""
        causes = {cause: number for (of, cause), number in self.causes.items() if of == probe}
        if sum(causes.values()) != count:
            causes = {int(Cause.UNKNOWN): count}
        for cause, number in causes.items():
            self._accounts.lose(probe, CPU_UNKNOWN, cause, 0, 0, number)

    def _remains(self, name: str, path: str) -> tuple["array[int]", dict[int, int]]:
        """What is still in the file that was cut: a table of `count_frames`, and losses by probe."""
        from kwire.capture.reader import Capture

        table = array("Q", bytes(8 * walk.COUNT_WORDS * (len(self.schemas) + 1)))
        told: dict[int, int] = {}
        try:
            with Capture(path) as capture:
                for frames in capture:
                    section = capture.section
                    if section is None or name not in " ".join(section.comments):
                        break  # another file at this path
                    cut = os.path.relpath(path, os.path.dirname(os.path.abspath(str(self._base))))
                    if cut not in self._remainders:
                        self._remainders.append(cut)
                    count_frames(frames.data, frames.offsets, frames.count, table)
                    for loss in losses_in(frames):
                        told[loss.probe] = told.get(loss.probe, 0) + loss.count
        except (CaptureError, FrameError, OSError):
            pass  # nothing that can be read
        return table, told

    # --- files

    def _begin(self) -> bool:
        return (not self._waiting or self._introduce()) and super()._begin()

    def _introduce(self) -> bool:
        """Write the descriptions that wait; False where they find no room."""
        waiting = self._waiting.values()
        new = [schema for schema in waiting if schema.id > self._introduced]
        again = [schema for schema in waiting if schema.id <= self._introduced]
        parts = [self._describe(new)]
        for schema in again:
            parts += [pcapng.packet(schema.id - 1, time.time_ns(), frame) for frame in schema.frames()]
        output, text = self._file.output, b"".join(parts)
        if not output.room(len(text)):
            return False
        with memoryview(text) as view:
            done = output.write(view)
        if done < len(text):
            output.back(done)
            return False
        self._waiting, self._introduced = {}, len(self.schemas)
        return True

    def close(
        self, produced: Mapping[int, int] | None = None, unproven: Container[int] = ()
    ) -> dict[int, Totals]:
        """Write the ending and close, as `Writer.close`; with `sync`, the ending is on the disk then."""
        totals = super().close(produced, unproven)
        self._let_go()
        if self._sync:
            _to_disk(self.files[-1])
        return totals

    def _tell_holes(self) -> None:
        if self._introduced:  # their packets need an interface
            super()._tell_holes()

    def _ending(self, schema: Schema) -> list[str]:
        ending = self.endings.get(schema.id)
        return [ending] if ending else []

    def _about(self, schema: Schema) -> pcapng.Options:
        note = self.notes.get(schema.id)
        comments = [(int(pcapng.Option.COMMENT), pcapng.text(note))] if note else []
        return [*super()._about(schema), *comments]

    def _rotate(self, number: int | None = None) -> bool:
        old = self._file
        if self._unread and self._retold is not None and self._retold.tells:
            self._retold.relearn(old.output.name)
        self._unread = False
        if self._sync:
            try:
                os.fdatasync(old.output.fd)
            except OSError as error:
                raise CaptureError("write", old.output.name, error.strerror or "failed") from None
        self._probes = self._describe(self.schemas)
        before = len(self._ended)
        with contextlib.suppress(OSError):  # as many are open as may be
            self._ended.append((os.dup(old.output.fd), self._promised))
        try:
            rotated = super()._rotate(number)
        finally:
            self._probes = b""
            if self._file is not old:
                self._promised = self._file.output.position
            elif self._ended[before:]:
                os.close(self._ended.pop()[0])
        if len(self._ended) > MOST_ENDED:
            os.close(self._ended.pop(0)[0])
        if rotated:
            self._waiting, self._introduced = {}, len(self.schemas)
        if self._sync and self._file is not old:
            for path in (old.output.name, os.path.dirname(os.path.abspath(old.output.name))):
                _to_disk(path)
        return rotated

    def _end(self, totals: Mapping[int, Totals], comment: str, unproven: Container[int] = ()) -> None:
        if (self._waiting and not self._introduce()) or (self._accounts.holes and not self.schemas):
            new = [schema.probe[:64] for schema in self.schemas[self._introduced :]] or ["unknown"]
            text = b"".join(map(pcapng.interface, new))
            with memoryview(text) as view:
                done = self._file.output.finish(view)
            if done < len(text):
                self._file.output.back(done)
        super()._end(totals, comment, unproven)
        self._file.output.check()  # the last look: what goes from now on goes from a finished file

    # --- frames

    def _other(self, frames: Frames, index: int) -> None:
        self._stranger(frames.frame(index))

    def keep(self, frame: bytes) -> None:
        """Put a TABLE of a map described here."""
        frames = Frames.walk(frame)
        if self._used or self._begin():
            self._tell_stacks(frames, 0)
            super()._other(frames, 0)

    def tell(self, loss: Lost) -> bool:
        """Put a loss that came here and count it among the `causes`; False where it claims what cannot be.

        A probe that is not known becomes 0.
        """
        if loss.count > MOST_LOST:
            return False
        if loss.probe > len(self.schemas):
            loss = loss._replace(probe=0)
        key = (loss.probe, int(loss.cause))
        self.causes[key] = self.causes.get(key, 0) + loss.count
        self.lost([loss])
        return True

    def _drop(self, frames: Frames, start: int) -> None:
        raise CaptureError("write", self._file.output.name, "the disk is full")

    def _take_back(self, done: int, used: int) -> None:
        raise CaptureError("write", self._file.output.name, "the disk is full")


def find(path: str, own: identity.Identity, device: int, inode: int) -> str:
    """Where the file that was written at `path` was moved to: in its folder, or one below it.

    Raises GoneError where it is in none of them.
    """
    for entry in _around(path):
        with contextlib.suppress(OSError, CaptureError):
            there = entry.inode() == inode and entry.stat(follow_symlinks=False).st_dev == device
            if there and identity.of_file(entry.path) == own:
                return entry.path
    raise GoneError("go on writing", path, "it is not there any more")


def _another(path: str, own: identity.Identity) -> bool:
    """Whether a file is there that says that it is another one."""
    with contextlib.suppress(CaptureError, OSError):
        found = identity.of_file(path)
        return found is not None and found != own
    return False  # whoever goes on with it is told


def _around(path: str) -> Iterator["os.DirEntry[str]"]:
    """What is in the folder of a capture and in those below it."""
    seen = 0
    for folder, _, names in os.walk(os.path.dirname(os.path.abspath(path))):
        seen += len(names)
        if seen > MOST_LOOKED_AT:
            return
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            yield from entries


def _followed(path: str, position: int) -> bool:
    """Whether the file was ended after this position, and another one begun."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            at = max(position, os.fstat(fd).st_size - _ENDING)
            return FOLLOWED.partition("{")[0].encode() in os.pread(fd, _ENDING, at)
        finally:
            os.close(fd)
    except OSError:
        return False  # whoever goes on with it is told


def _set_aside_later(target: str, number: int, id: str) -> None:
    """Set files of this capture aside that were begun after file `number`: the state does not know of them,
    so what is in them comes again. One that is where it was written is removed; one that somebody moved or
    copied is somebody's: its name gets `AGAIN` at its end, so that it is taken for a capture no more.
    """
    root, extension = os.path.splitext(os.path.abspath(target))
    for entry in _around(target):
        with contextlib.suppress(CaptureError, OSError):
            if entry.name.endswith(extension) and entry.is_file(follow_symlinks=False):
                found = identity.of_file(entry.path)
                if found is None or found.id != id or found.number <= number:
                    continue
                if entry.path == f"{root}-{found.number:04d}{extension}":
                    os.unlink(entry.path)
                else:
                    os.rename(entry.path, entry.path + AGAIN)


def _array(kind: str, data: bytes, length: int) -> "array[int]":
    """An array of that length; ValueError where it is another."""
    made = array(kind, data)
    if len(made) != length:
        raise ValueError
    return made


def _reserve(probes: int) -> int:
    """Bytes that the ending needs for so many probes."""
    return probes * (STATISTICS_BLOCK + 4 * LOST_BLOCK + INTERFACE_BLOCK)


def _to_disk(path: str) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise CaptureError("write", path, error.strerror or "failed") from None
