"""A store: what sessions deliver goes into one capture, each event exactly once.

The laws: `commit` first hands the capture to the operating system, sees that it is there, then writes the
ledger, and only then names what may be acknowledged; so a store taken up again after kill -9 cuts the capture
back to the ledger's record and asks for the rest. With `sync` both are on the disk before they count. What
finds no room is not taken (FullError); a capture that was moved away is ended and another one begun; of one
that was deleted or cut (GoneError) the successor counts what is gone. A payload is hostile until proven
otherwise: what is not sound in it is counted as an error of its lane, an event without a description as LOST;
nothing raises but a disk that fails. Events are moved in spans; Python looks at descriptions and
losses only. A capture lies in the folder that has its ledger in `.sessions`: where that folder was moved or
copied, the one that was there before is not touched.
"""

import contextlib
import os
import struct
import sys
from array import array
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

from kwire.capture.output import CaptureError, FullError, GoneError
from kwire.capture.resumable import ResumableWriter, State, StateError
from kwire.capture.writer import BUFFER, Totals
from kwire.stream.lane import Lane
from kwire.stream.ledger import Contents, Ledger, LedgerError, NoLedgerError
from kwire.wire import cbor
from kwire.wire.frame import HEADER_SIZE, MAX_FRAME, Code, FrameError, Header, Problem, Type, inspect
from kwire.wire.frames import Frames
from kwire.wire.messages import Cause, Lost
from kwire.wire.totals import TOTALS
from kwire.wire.walk import frame_renumber, frame_strict

Payload: TypeAlias = bytes | bytearray | memoryview

SEQUENCES: Final = 1 << 32
EVENT_LEAST: Final = 16  # bytes: header and timestamp
MOST_FRAMES: Final = MAX_FRAME // HEADER_SIZE  # in a payload
SWELLS: Final = 6  # times that a payload of the smallest events grows as packets of a capture
_TOO_MANY: Final = Problem(Code.PAYLOAD_TOO_LONG, 0, "more", f"{MOST_FRAMES} frames at most")

CURE: Final = "its session begins anew; remove the file"

_DAMAGE: Final = (KeyError, ValueError, struct.error, FrameError)


_FRONT, _FILE = b"front", b"file "  # keys in a ledger: of the capture, and of where its writer stands
_FRONT_KEYS: Final = {"path", "about", "merged", "id"}


class Options(NamedTuple):
    """How captures are written: rotation by bytes or seconds (0: not), and whether each commit is synced."""

    rotate_bytes: int = 0
    rotate_seconds: float = 0.0
    sync: bool = False


class Packing:
    """The buffers in which packets are put together, shared by all stores of a collector."""

    __slots__ = ("buffer", "offsets", "user")

    def __init__(self) -> None:
        self.buffer = bytearray(BUFFER)
        self.offsets = array("Q", bytes(8 * MOST_FRAMES))
        self.user: Store | None = None

    def use(self, store: "Store | None") -> None:
        """Let `store` have it; the one before hands its packets to the operating system."""
        if self.user is not store:
            user, self.user = self.user, None
            if user is not None:
                user.flush()
            self.user = store


class Store:
    """A capture at `path` and, with `ledger`, the promise to go on with it. `about`: host, kernel and tool of
    its section; `merged`: sessions may always join, so that it ends only with `close`. Raises CaptureError or
    LedgerError where the disk refuses.
    """

    __slots__ = (
        "_ended",
        "_front",
        "_lane",
        "_ledger",
        "_packing",
        "_spare",
        "_touched",
        "closed",
        "lanes",
        "merged",
        "path",
        "writer",
    )

    def __init__(
        self,
        path: str,
        ledger: str | None,
        packing: Packing,
        options: Options = Options(),  # noqa: B008
        about: Mapping[str, str] | None = None,
        merged: bool = False,
        spare: Callable[[], str] | None = None,
    ) -> None:
        """`spare` gives a free path for a capture that takes the place of one that was moved or is gone."""
        self._prepare(ledger, packing, options, spare)
        self.merged = merged
        self._front: dict[str, Any] = {"about": dict(about or {}), "merged": merged}
        try:
            self._begin(path, options)
        except BaseException:
            if self._ledger is not None:
                self._ledger.close()
            raise

    @classmethod
    def again(
        cls,
        ledger: str,
        packing: Packing,
        options: Options = Options(),  # noqa: B008
        spare: Callable[[], str] | None = None,
    ) -> "Store":
        """Go on with the capture of a ledger; where there is none yet, or its file is gone or cut, with a new
        one at a `spare` path. A store that has ended is closed. Raises CaptureError or LedgerError where that
        cannot be.
        """
        store = cls.__new__(cls)
        store._prepare(ledger, packing, options, spare)
        assert store._ledger is not None  # _prepare made it
        values = store._ledger.load()
        try:
            store._restore(*_read(ledger, values), options)
        except StateError:
            store._ledger.close()
            raise NoLedgerError("read", ledger, "it is damaged", CURE) from None
        except BaseException:
            store._ledger.close()
            raise
        if store.closed:
            store._ledger.close()
        return store

    @staticmethod
    def promise(ledger: str, lane: Lane, sync: bool) -> None:
        """Remember a session that has delivered nothing yet: no capture is made before it does."""
        front = {"path": "", "about": lane.about, "merged": False, "id": ""}
        often = lane.contents(over=True).often
        book = Ledger(ledger, lambda: Contents({_FRONT: cbor.dumps(front), **often}), sync=sync)
        book.renew()
        book.close()

    @staticmethod
    def lanes_of(ledger: str) -> list[Lane]:
        """The sessions that a ledger remembers, without their probes; none where it is not there. Raises
        NoLedgerError where it is damaged, LedgerError where it cannot be read.
        """
        if not os.path.lexists(ledger):
            return []
        book = Ledger(ledger, lambda: Contents({}))
        try:
            return list(_lanes(ledger, book.load(), whole=False).values())
        finally:
            book.close()

    @staticmethod
    def ended(ledger: str) -> str:
        """Where the capture of a ledger lies that was given its ending, if nothing has come since; else "".
        Raises as `lanes_of`.
        """
        book = Ledger(ledger, lambda: Contents({}))
        try:
            front = _read(ledger, book.load())[0]
            return _beside(ledger, str(front["path"])) if front.get("ended") else ""
        finally:
            book.close()

    def _prepare(
        self, ledger: str | None, packing: Packing, options: Options, spare: Callable[[], str] | None
    ) -> None:
        self._spare = spare
        self._ledger = Ledger(ledger, self._contents, sync=options.sync) if ledger else None
        self._packing = packing
        self.lanes: dict[bytes, Lane] = {}
        self.closed = self._ended = False
        self._lane: Lane | None = None  # whose payload is being taken
        self._touched: dict[Lane, None] = {}  # lanes that changed since they were made safe

    def _restore(
        self, front: dict[str, Any], lanes: dict[bytes, Lane], state: State, options: Options
    ) -> None:
        self.lanes = lanes
        assert self._ledger is not None  # `again` has one
        self.path, self.merged = _beside(self._ledger.path, str(front["path"])), bool(front["merged"])
        self._front = {name: front[name] for name in _FRONT_KEYS}
        if front.get("begun") is False:  # killed between that promise and the file, or with an empty one
            _sweep(self.path, str(front["id"]))
            self.path = ""
        if not state.get("head") and (self.path or self._spare is None):
            self.closed = True  # it has ended, or nothing has come yet
            return
        if not self.path:
            assert self._spare is not None
            self._begin(self._spare(), options)
            return
        self._go_on(str(front["id"]), state, options)
        if front.get("ended"):
            self._ledger.write(Contents({_FRONT: cbor.dumps(self._front)}))
        if self._over:
            self.close()

    def _go_on(self, name: str, state: State, options: Options) -> None:
        """Go on with the capture where it is, or was moved to; else with one that takes its place."""
        try:
            self._open(options, resume=(name, state))
            return
        except GoneError as error:
            gone = error
        try:
            self._open(options, resume=(name, state), moved=True)
        except GoneError:
            if self._spare is None:
                raise gone from None
            old, self._front["path"] = self.path, ""
            self._begin(self._spare(), options, (name, state, old))
        else:
            if self._spare is not None:
                self._move_on(self._spare())
                self._put_down()

    def _move_on(self, path: str) -> None:
        """End the file, which was moved away, and begin another one."""
        self.writer.move_on(path)
        self.path = self.writer.target
        self._front["path"] = os.path.basename(self.path)
        self._front["id"] = self.writer.id

    def _begin(self, path: str, options: Options, after: tuple[str, State, str] | None = None) -> None:
        """Open a new capture, and let the ledger know before anything is in it; `after`: one that is gone."""
        self.path, self._front["path"] = path, os.path.basename(path)
        self._front["id"] = os.urandom(16).hex()
        if self._ledger is not None and after is None:
            lanes = self._lanes(whole=True)
            begun = {_FRONT: cbor.dumps({**self._front, "begun": False})}
            self._ledger.renew(Contents({**lanes.often, **begun}, lanes.once))
        self._open(options, after=after)
        try:
            self._put_down()
        except BaseException:
            with contextlib.suppress(CaptureError, OSError):
                self.writer.leave()
            _sweep(path, self.writer.id)
            raise

    @property
    def path_now(self) -> str:
        """The file that is written."""
        return self.writer.files[-1]

    def _open(
        self,
        options: Options,
        resume: tuple[str, State] | None = None,
        after: tuple[str, State, str] | None = None,
        moved: bool = False,
    ) -> None:
        schemas = [schema for lane in self.lanes.values() for schema in lane.schemas()]
        schemas.sort(key=lambda schema: schema.id)
        about: dict[str, str] = self._front["about"]
        self._packing.use(None)
        self.writer = ResumableWriter(
            self.path,
            self._stranger,
            schemas=schemas,
            resume=resume,
            moved=moved,
            after=after,
            name=str(self._front.get("id", "")),
            sync=options.sync,
            rotate_bytes=options.rotate_bytes,
            rotate_seconds=options.rotate_seconds,
            buffer=self._packing.buffer,
            host=about.get("host", ""),
            kernel=about.get("kernel", ""),
            tool=about.get("tool", "") or "kwire",
        )

    # --- sessions

    def join(self, token: bytes, about: Mapping[str, str]) -> Lane:
        """Add a session, or find the one there is."""
        lane = self.lanes.get(token)
        if lane is None:
            lane = self.lanes[token] = Lane(token, about)
            self._touched[lane] = None
        return lane

    def touch(self, lane: Lane) -> None:
        """Have the next commit remember what is known of a session."""
        self._touched[lane] = None

    def take(self, lane: Lane, sequence: int, payload: Payload) -> None:
        """Take the payload of DATA frame `sequence`, the next one. FullError where it finds no room: then
        nothing of it was taken.
        """
        self._packing.use(self)
        if not self.writer.fits(SWELLS * len(payload)):
            raise FullError("write", self.path, "the disk is full")
        data = bytearray(payload)  # the numbers in it are changed
        offsets, count = self._packing.offsets, self._sound(data, lane)
        frames = Frames(data, offsets, count)
        self._lane = lane
        start = 0
        while start < count:
            stop = frame_renumber(data, frames.offsets, start, count, lane.table)
            if stop > start:
                whole = not start and stop == count
                self.writer.write(frames if whole else frames.select(range(start, stop)))
            if stop < count:
                header = frames.header(stop)
                self._outsider(lane, header, frames.frame_bytes(stop), header.id)
            start = stop + 1
        self._lane = None
        lane.frames += 1
        lane.next = (sequence + 1) % SEQUENCES
        self._touched[lane] = None

    def _sound(self, data: bytearray, lane: Lane) -> int:
        """Find the frames that nothing is wrong with, give how many; complain of the others."""
        slots, count, at = memoryview(self._packing.offsets), 0, 0
        while True:
            found, at = frame_strict(data, at, len(data), slots[count:], MOST_FRAMES - count)
            count += found
            if at == len(data):
                return count
            frame, problems = inspect(data, at)
            lane.complain(problems[0 if frame else -1] if problems else _TOO_MANY)
            if frame is None or count == MOST_FRAMES:
                return count
            at += frame.header.length

    def anchor(self, lane: Lane, monotonic: int, wall: int, note: str) -> None:
        """Put the lane's times on our clock: at its monotonic ns ours showed `wall`. Said in the file."""
        lane.anchor = (monotonic, wall)
        for schema in lane.schemas():
            self.writer.notes[schema.id] = note
            self.writer.describe(schema)
        self._touched[lane] = None

    def finish(self, lane: Lane) -> dict[int, Totals]:
        """The session has ended and all of it was taken. A store that is not merged is closed with its last
        session; then each probe's balance is given.
        """
        lane.done = True
        self._touched[lane] = None
        return self.close() if self._over else {}

    @property
    def _over(self) -> bool:
        """Whether nothing more will come."""
        return not self.merged and all(lane.done for lane in self.lanes.values())

    # --- what is safe

    def flush(self) -> None:
        """Let go of the shared buffer."""
        self.writer.flush()

    def commit(self) -> list[Lane]:
        """Make safe what was taken; the lanes of which more is safe than before, up to before `stored`.

        LedgerError or CaptureError where the disk refuses: then nothing is promised; it may be tried again.
        """
        if not self._touched:
            return []
        safer = [lane for lane in self._touched if lane.stored != lane.next]
        self._put_down()
        return safer

    def _put_down(self) -> None:
        for lane in self._touched:
            if lane.unknown[0]:
                count, first, last = lane.unknown
                lane.unknown = (0, 0, 0)
                self._packing.use(self)
                causes = self.writer.causes
                causes[0, Cause.UNKNOWN] = causes.get((0, Cause.UNKNOWN), 0) + count
                self.writer.lost([Lost(0, first, last, count, cause=Cause.UNKNOWN)])
        if self._spare is not None and self.writer.moved:
            self._move_on(self._spare())
        self.writer.settle()
        if self._ledger is not None:
            lanes = self._lanes()
            self._ledger.write(Contents({**lanes.often, **self._file()}, lanes.once))
        for lane in self._touched:
            lane.kept()
        self._touched.clear()

    def _contents(self) -> Contents:
        """All that a ledger has."""
        if self._ended:
            return Contents({_FRONT: cbor.dumps(self._front), **self._lanes(whole=True, over=True).often})
        lanes = self._lanes(whole=True)
        return Contents({**lanes.often, **self._file()}, lanes.once)

    def _lanes(self, whole: bool = False, over: bool = False) -> Contents:
        """What a ledger has of the sessions that changed; `whole`: of all."""
        often: dict[bytes, bytes] = {}
        once: dict[bytes, bytes] = {}
        for lane in self.lanes.values() if whole else self._touched:
            contents = lane.contents(whole, over)
            often |= contents.often
            once |= contents.once
        return Contents(often, once)

    def _file(self) -> dict[bytes, bytes]:
        """What a ledger has of the capture; only after `settle`."""
        state = {_FILE + name.encode(): part for name, part in self.writer.state().items()}
        return {_FRONT: cbor.dumps(self._front), **state}

    def close(self) -> dict[int, Totals]:
        """Make all safe and give the capture its ending; each probe's balance. It proves nothing of sessions
        that have not ended: their sources alone know what there was. A successor cuts it off again. A store
        at which this fails must be left.
        """
        if self.closed:
            return {}
        self._put_down()
        self.closed = True
        known = {
            lane.numbers[id]: count
            for lane in self.lanes.values()
            for id, count in lane.produced.items()
            if id in lane.numbers
        }
        unproven = {  # of agents that still record, or were killed: nobody knows what they produced
            number
            for lane in self.lanes.values()
            for id, number in lane.numbers.items()
            if id not in lane.produced
        }
        try:
            totals = self.writer.close(known, unproven)
            if self._ledger is not None:
                (self._end_ledger if self._over else self._note_ending)(self._ledger)
                self._ledger.close()
            return totals
        finally:
            if self._packing.user is self:
                self._packing.user = None

    def _end_ledger(self, ledger: Ledger) -> None:
        """Let a small ledger remember that the sessions have ended; on a full disk the large one does."""
        self._ended = True
        try:
            ledger.renew()
        except LedgerError:
            ledger.write(Contents({_FILE + b"head": b""}))

    def _note_ending(self, ledger: Ledger) -> None:
        """Let the ledger know that the capture has its ending, though more may come: then its owner may take
        it away. On a full disk it stays unsaid.
        """
        with contextlib.suppress(LedgerError):
            ledger.write(Contents({_FRONT: cbor.dumps({**self._front, "ended": True})}))

    def keep(self) -> None:
        """See that the ledger is at its place, as it was written last; others may have removed it."""
        if self._ledger is not None:
            self._ledger.keep()

    def leave(self) -> Ledger | None:
        """Close the files as they are: the ledger's record is where a successor goes on. Gives a ledger that
        is not at its place and cannot be put back there at present; it is open.
        """
        self.closed = True
        if self._packing.user is self:
            self._packing.user = None
        ledger, self._ledger = self._ledger, None
        with contextlib.suppress(CaptureError, OSError):
            self.writer.leave()
        if ledger is not None:
            try:
                ledger.keep()
            except LedgerError:
                return ledger
            ledger.close()
        return None

    # --- what came, for summaries

    def balance(self, lane: Lane) -> Totals:
        """Events of a session: stored and lost so far."""
        totals = self.writer.balances(lane.own)
        return Totals(*(sum(column) for column in zip(*totals, strict=True))) if totals else Totals(0, 0, 0)

    def losses(self, lane: Lane) -> dict[int, int]:
        """Events of a session lost, by cause."""
        causes: dict[int, int] = {}
        for (probe, cause), count in self.writer.causes.items():
            if probe in lane.own or (not probe and not self.merged):
                causes[cause] = causes.get(cause, 0) + count
        return causes

    def gone(self, lane: Lane) -> dict[int, int]:
        """Events of a session that were stored and are gone with their capture, by its own probe numbers."""
        causes = self.writer.causes.items()
        return {
            lane.own[probe]: count
            for (probe, cause), count in causes
            if cause == Cause.CAPTURE_GONE and probe in lane.own
        }

    # --- what is no plain event

    def _stranger(self, header: Header, frame: memoryview) -> None:
        """A frame that the writer does not take; its number is the capture's."""
        lane = self._lane
        assert lane is not None  # take says whose it is
        self._outsider(lane, header, frame, lane.own.get(header.id, 0))

    def _outsider(self, lane: Lane, header: Header, frame: memoryview, id: int) -> None:
        """A frame that is no EVENT of a probe described, `id` by the lane's own numbers."""
        if header.type == Type.SCHEMA:
            self._describe(lane, id, frame)
        elif header.type == Type.EVENT and header.length >= EVENT_LEAST:
            lane.refuse(Code.UNKNOWN_SCHEMA, id, "a SCHEMA before the first EVENT")
            lane.stray(int.from_bytes(frame[8:16], sys.byteorder))
        elif header.type == Type.TABLE and header.id == TOTALS:
            lane.totals(frame)
        elif header.type == Type.LOST and id not in lane.numbers and (loss := self._unknown(header, frame)):
            self.writer.lost([loss])
        else:
            lane.refuse(Code.BAD_PAYLOAD, f"type {header.type}", "EVENT, LOST, SCHEMA or totals, sound")

    def _unknown(self, header: Header, frame: memoryview) -> Lost | None:
        """A loss of a probe that was never described."""
        copy = bytearray(frame)
        copy[4:8] = bytes(4)
        return self.writer.told(header._replace(id=0), memoryview(copy))

    def _describe(self, lane: Lane, id: int, frame: memoryview) -> None:
        schema = lane.schema(id, frame)
        if schema is None:
            return
        if id not in lane.numbers:
            lane.number(id, len(self.writer.schemas) + 1)
        placed = lane.placed(schema)
        if self.writer.schemas[placed.id - 1 : placed.id] != [placed]:
            self.writer.describe(placed)


def _read(ledger: str, values: Mapping[bytes, bytes]) -> tuple[dict[str, Any], dict[bytes, Lane], State]:
    """What a ledger says: the front, the lanes, the state of the writer. Raises NoLedgerError."""
    try:
        front = cbor.loads_map(values[_FRONT])
        if not front.keys() >= _FRONT_KEYS or not isinstance(front["about"], dict):
            raise ValueError
        size = len(_FILE)
        state = {key[size:].decode(): value for key, value in values.items() if key.startswith(_FILE)}
    except _DAMAGE:
        raise NoLedgerError("read", ledger, "it is damaged", CURE) from None
    return front, _lanes(ledger, values), state


def _lanes(ledger: str, values: Mapping[bytes, bytes], whole: bool = True) -> dict[bytes, Lane]:
    """The lanes of a ledger. Raises NoLedgerError."""
    try:
        return Lane.found(values, whole)
    except _DAMAGE:
        raise NoLedgerError("read", ledger, "it is damaged", CURE) from None


def _beside(ledger: str, name: str) -> str:
    """Where the capture of that name lies; ledgers from before 0.2 have the path that it had."""
    folder = os.path.dirname(os.path.dirname(ledger))
    return os.path.join(folder, os.path.basename(name)) if name else ""


def _sweep(path: str, name: str) -> None:
    """Remove a capture in which nothing can be yet, if it is the one of this id."""
    root, extension = os.path.splitext(path)
    for each in (path, f"{root}-0001{extension}"):
        with contextlib.suppress(OSError):
            fd = os.open(each, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                ours = name.encode() in os.pread(fd, 4096, 0)
            finally:
                os.close(fd)
            if ours:
                os.unlink(each)
