"""A store: what sessions deliver goes into one capture, each event exactly once.

Invariants: `commit` first hands the capture to the operating system, sees that it is there, then writes the
checkpoint, and only then names what may be acknowledged; so a store taken up again after kill -9 cuts the
capture back to the checkpoint's record and asks for the rest. With `sync` both are on the disk before they
count. What finds no room is not taken (FullError); a capture that was moved away is ended and another one
begun; of one that was deleted or cut (GoneError) the successor counts what is gone. A payload is hostile
until proven otherwise: what is not sound in it is counted as an error of its stored session, an event without
a description as LOST; nothing raises but a disk that fails. Events are moved in spans; Python looks at
descriptions and losses only. A capture lies in the folder that has its checkpoint in `.sessions`: where that
folder was moved or copied, the one that was there before is not touched.
"""

import contextlib
import os
import struct
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

from kwire.capture.accounts import Totals
from kwire.capture.output import CaptureError, FullError, GoneError
from kwire.capture.resumable import MOST_LOST, ResumableWriter, State, StateError
from kwire.capture.shared import SharedPart
from kwire.capture.writer import BUFFER
from kwire.collector.checkpoint import Checkpoint, CheckpointError, Contents, NoCheckpointError
from kwire.collector.stored_session import StoredSession
from kwire.wire import cbor
from kwire.wire.frame import Code, Frame, FrameError, Type, build
from kwire.wire.keyed import FLAG, MAP, TEXT, Key, read_payload
from kwire.wire.messages import Cause, Lost
from kwire.wire.payload import said, strict_runs
from kwire.wire.schema import SchemaReader
from kwire.wire.tables import TablePart
from kwire.wire.walk import frame_renumber

Payload: TypeAlias = bytes | bytearray | memoryview

SEQUENCES: Final = 1 << 32
SWELLS: Final = 6  # times that a payload of the smallest events grows as packets of a capture

CURE: Final = "its session begins anew; remove the file"

_DAMAGE: Final = (KeyError, ValueError, struct.error, FrameError)


_FRONT, _FILE = b"front", b"file "  # keys in a checkpoint: of the capture, and of where its writer stands
_FRONT_KEYS: Final = {
    "path": Key(TEXT, "the file's name, empty before there is one"),
    "about": Key(MAP, "host, kernel and tool of its section"),
    "merged": Key(FLAG, "sessions may always join"),
    "id": Key(TEXT, "of the capture"),
}


class Options(NamedTuple):
    """How captures are written: rotation by bytes or seconds (0: not), and whether each commit is synced."""

    rotate_bytes: int = 0
    rotate_seconds: float = 0.0
    sync: bool = False


class Packing:
    """The buffers in which packets are put together, shared by all stores of a collector."""

    __slots__ = ("buffer", "user")

    def __init__(self) -> None:
        self.buffer = bytearray(BUFFER)
        self.user: Store | None = None

    def use(self, store: "Store | None") -> None:
        """Let `store` have it; the one before hands its packets to the operating system."""
        if self.user is not store:
            user, self.user = self.user, None
            if user is not None:
                user.flush()
            self.user = store


class Store:
    """A capture at `path` and, with `checkpoint`, the promise to go on with it. `about`: host, kernel and
    tool of its section; `merged`: sessions may always join, so that it ends only with `close`. Raises
    CaptureError or CheckpointError where the disk refuses.
    """

    __slots__ = (
        "_checkpoint",
        "_empty",
        "_ended",
        "_front",
        "_packing",
        "_spare",
        "_stored_session",
        "_touched",
        "_unpromised",
        "closed",
        "merged",
        "opened",
        "path",
        "stored_sessions",
        "writer",
    )

    def __init__(
        self,
        path: str,
        checkpoint: str | None,
        packing: Packing,
        options: Options = Options(),  # noqa: B008
        about: Mapping[str, str] | None = None,
        merged: bool = False,
        spare: Callable[[], str] | None = None,
    ) -> None:
        """`spare` gives a free path for a capture that takes the place of one that was moved or is gone."""
        self._prepare(checkpoint, packing, options, spare)
        self.merged = merged
        self._front: dict[str, Any] = {"about": dict(about or {}), "merged": merged}
        try:
            self._begin(path, options)
        except BaseException:
            if self._checkpoint is not None:
                self._checkpoint.close()
            raise

    @classmethod
    def again(
        cls,
        checkpoint: str,
        packing: Packing,
        options: Options = Options(),  # noqa: B008
        spare: Callable[[], str] | None = None,
    ) -> "Store":
        """Go on with the capture of a checkpoint; where there is none yet, or its file is gone or cut, with a
        new one at a `spare` path. A store that has ended is closed. Raises CaptureError or CheckpointError
        where that cannot be.
        """
        store = cls.__new__(cls)
        store._prepare(checkpoint, packing, options, spare)
        assert store._checkpoint is not None  # _prepare made it
        values = store._checkpoint.load()
        try:
            store._restore(*_read(checkpoint, values), options)
        except StateError:
            store._checkpoint.close()
            raise NoCheckpointError("read", checkpoint, "it is damaged", CURE) from None
        except BaseException:
            store._checkpoint.close()
            raise
        if store.closed:
            store._checkpoint.close()
        return store

    @classmethod
    def promised(
        cls, checkpoint: str, packing: Packing, options: Options, stored_session: StoredSession
    ) -> "Store":
        """One that remembers a session that has delivered nothing yet: its capture is made by `begin`.
        CheckpointError.
        """
        store = cls.__new__(cls)
        store._prepare(checkpoint, packing, options, None)
        assert store._checkpoint is not None  # _prepare made it
        store.path, store.merged = "", False
        store._front = {"path": "", "about": stored_session.about, "merged": False, "id": ""}
        store.stored_sessions = {stored_session.token: stored_session}
        front = {_FRONT: cbor.dumps(store._front)}
        store._checkpoint.renew(Contents({**front, **stored_session.contents(over=True).often}))
        stored_session.kept()
        return store

    @staticmethod
    def stored_sessions_of(checkpoint: str) -> list[StoredSession]:
        """The sessions that a checkpoint remembers, without their probes; none where it is not there. Raises
        NoCheckpointError where it is damaged, CheckpointError where it cannot be read.
        """
        if not os.path.lexists(checkpoint):
            return []
        book = Checkpoint(checkpoint, lambda: Contents({}))
        try:
            return list(_stored_sessions(checkpoint, book.load(), whole=False).values())
        finally:
            book.close()

    @staticmethod
    def ended(checkpoint: str) -> str:
        """Where the capture of a checkpoint lies that was given its ending, if nothing has come since; else
        "". Raises as `stored_sessions_of`.
        """
        book = Checkpoint(checkpoint, lambda: Contents({}))
        try:
            front = _read(checkpoint, book.load())[0]
            return _beside(checkpoint, str(front["path"])) if front.get("ended") else ""
        finally:
            book.close()

    @staticmethod
    def retire(checkpoint: str, sync: bool) -> None:
        """Let a checkpoint know that retention takes the file its capture was left in: a successor begins
        another one, and what was in it counts as stored. Raises as `stored_sessions_of`.
        """
        values: dict[bytes, bytes] = {}
        book = Checkpoint(checkpoint, lambda: Contents(values), sync=sync)
        try:
            values |= book.load()
            values[_FRONT] = cbor.dumps({**_read(checkpoint, values)[0], "retired": True})
            book.write(Contents({_FRONT: values[_FRONT]}))
        finally:
            book.close()

    @property
    def held(self) -> tuple[str, int]:
        """The capture and the number of the first of its files that is needed to go on: those before it are
        finished, and all in them is acknowledged.
        """
        return self.writer.id, self.writer.promised_file

    def _prepare(
        self, checkpoint: str | None, packing: Packing, options: Options, spare: Callable[[], str] | None
    ) -> None:
        self._spare = spare
        self._checkpoint = Checkpoint(checkpoint, self._contents, sync=options.sync) if checkpoint else None
        self._packing = packing
        self.stored_sessions: dict[bytes, StoredSession] = {}
        self.closed = self._ended = False
        self._empty = True  # there is no capture yet
        self.opened = False
        """Whether this one wrote the capture; a closed one that did not has found it ended."""
        self._unpromised = ""  # the id of a capture that is written and of which the checkpoint knows nothing
        self._stored_session: StoredSession | None = None  # whose payload is being taken
        self._touched: dict[StoredSession, None] = {}  # those that changed since they were made safe

    def begin(self, options: Options, spare: Callable[[], str]) -> None:
        """Make the capture of a store that was `promised`. CaptureError or CheckpointError: then it is of no
        use any more, and its checkpoint says what it said before.
        """
        self._spare = spare
        try:
            self._begin(spare(), options)
        except BaseException:
            self.forgo()
            raise

    def forgo(self) -> None:
        """Let go of a checkpoint in which nothing is to be written any more; it stays as it is."""
        if self._checkpoint is not None:
            self._checkpoint.close()

    def _restore(
        self,
        front: dict[str, Any],
        stored_sessions: dict[bytes, StoredSession],
        state: State,
        options: Options,
    ) -> None:
        self.stored_sessions = stored_sessions
        assert self._checkpoint is not None  # `again` has one
        self.path, self.merged = _beside(self._checkpoint.path, str(front["path"])), bool(front["merged"])
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
        if front.get("retired"):
            self._succeed(str(front["id"]), state, options)
        else:
            self._go_on(str(front["id"]), state, options)
        if front.get("ended") and not self.closed:
            self._checkpoint.write(Contents({_FRONT: cbor.dumps(self._front)}))
        if self._over:
            self.close()

    def _succeed(self, name: str, state: State, options: Options) -> None:
        """Go on after a capture that retention took: with a new one; without a `spare` later."""
        if self._spare is None:
            self.closed = True
            return
        old, self._front["path"] = self.path, ""
        self._begin(self._spare(), options, (name, state, old), retired=True)

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
        self._unpromised = self.writer.id
        self._front["path"] = os.path.basename(self.path)
        self._front["id"] = self.writer.id

    def _begin(
        self,
        path: str,
        options: Options,
        after: tuple[str, State, str] | None = None,
        retired: bool = False,
    ) -> None:
        """Open a new capture, and let the checkpoint know before anything is in it; `after`: one that is
        gone, or was `retired`.
        """
        self.path, self._front["path"] = path, os.path.basename(path)
        self._front["id"] = os.urandom(16).hex()
        if self._checkpoint is not None and after is None:
            self._checkpoint.write(self._contents())
        self._open(options, after=after, retired=retired)
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
        retired: bool = False,
    ) -> None:
        schemas = [
            schema for stored_session in self.stored_sessions.values() for schema in stored_session.schemas()
        ]
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
            retired=retired,
            name=str(self._front.get("id", "")),
            sync=options.sync,
            rotate_bytes=options.rotate_bytes,
            rotate_seconds=options.rotate_seconds,
            buffer=self._packing.buffer,
            host=about.get("host", ""),
            kernel=about.get("kernel", ""),
            tool=about.get("tool", "") or "kwire",
        )
        self.opened, self._empty = True, False

    # --- sessions

    def join(self, token: bytes, about: Mapping[str, str]) -> StoredSession:
        """Add a session, or find the one there is."""
        stored_session = self.stored_sessions.get(token)
        if stored_session is None:
            stored_session = self.stored_sessions[token] = StoredSession(token, about)
            self._touched[stored_session] = None
        return stored_session

    def touch(self, stored_session: StoredSession) -> None:
        """Have the next commit remember what is known of a session."""
        self._touched[stored_session] = None

    def take(self, stored_session: StoredSession, sequence: int, payload: Payload) -> None:
        """Take the payload of DATA frame `sequence`, the next one. FullError where it finds no room: then
        nothing of it was taken.
        """
        self._packing.use(self)
        if not self.writer.fits(SWELLS * len(payload)):
            raise FullError("write", self.path, "the disk is full")
        data = bytearray(payload)  # the numbers in it are changed
        self._stored_session = stored_session
        for frames in strict_runs(data, stored_session.unsound):
            start, count = 0, frames.count
            while start < count:
                stop = frame_renumber(data, frames.offsets, start, count, stored_session.table)
                if stop > start:
                    whole = not start and stop == count
                    self.writer.write(frames if whole else frames.select(range(start, stop)))
                if stop < count:
                    frame = frames.frame(stop)
                    self._outsider(stored_session, frame, frame.header.id)
                start = stop + 1
            if count:
                stored_session.see(frames)
        self._stored_session = None
        stored_session.frames += 1
        stored_session.next = (sequence + 1) % SEQUENCES
        self._touched[stored_session] = None

    def anchor(self, stored_session: StoredSession, monotonic: int, wall: int, note: str) -> None:
        """Put the stored session's times on our clock: at its monotonic ns ours showed `wall`. Said in the
        file.
        """  # fmt: skip
        stored_session.anchor = (monotonic, wall)
        for schema in stored_session.schemas():
            self.writer.notes[schema.id] = note
            self.writer.describe(schema)
        self._touched[stored_session] = None

    def finish(self, stored_session: StoredSession) -> dict[int, Totals]:
        """The session has ended and all of it was taken. A store that is not merged is closed with its last
        session; then each probe's balance is given.
        """
        stored_session.done = True
        self._touched[stored_session] = None
        return self.close() if self._over else {}

    def share(
        self,
        stored_session: StoredSession,
        part: tuple[int, int, int],
        messages: int,
        produced: Mapping[int, int] | None,
    ) -> None:
        """The session has ended, with so many messages, and is in captures of several collectors. `part`: how
        many are here, the sums of their places and of the squares.

        `produced`: by its source, in all of them; None: not told. The capture's ending says it.
        """
        stored_session.produced = {}
        for id, number in stored_session.numbers.items():
            if produced is not None and id in produced:
                [own] = self.writer.balances([number])
                stored_session.produced[id] = own.stored + own.lost
                self.writer.endings[number] = SharedPart(
                    stored_session.token.hex(), *part, messages, produced[id]
                ).text()
        self._touched[stored_session] = None

    def unshare(self, stored_session: StoredSession) -> None:
        """What others have of a session that has not ended is not known: neither is what was produced."""
        stored_session.produced = {}
        self._touched[stored_session] = None

    @property
    def _over(self) -> bool:
        """Whether nothing more will come."""
        return not self.merged and all(
            stored_session.done for stored_session in self.stored_sessions.values()
        )

    # --- what is safe

    def turn(self) -> bool:
        """Begin the next file of a rotation where its time has come, though nothing comes; whether it was so:
        then a commit is due. CaptureError.
        """
        self._packing.use(self)
        if not self.stored_sessions or not self.writer.turn():
            return False
        self._touched[next(iter(self.stored_sessions.values()))] = None
        return True

    def flush(self) -> None:
        """Let go of the shared buffer."""
        self.writer.flush()

    def commit(self) -> list[StoredSession]:
        """Make safe what was taken; the stored sessions of which more is safe than before, up to before
        `stored`.

        CheckpointError or CaptureError where the disk refuses: then nothing is promised; it may be tried
        again.
        """
        if not self._touched:
            return []
        safer = [one for one in self._touched if one.stored != one.next]
        self._put_down()
        return safer

    def _put_down(self) -> None:
        for stored_session in self._touched:
            if stored_session.unknown[0]:
                count, first, last = stored_session.unknown
                stored_session.unknown = (0, 0, 0)
                self._packing.use(self)
                causes = self.writer.causes
                causes[0, Cause.UNKNOWN] = causes.get((0, Cause.UNKNOWN), 0) + count
                self.writer.lost([Lost(0, first, last, count, cause=Cause.UNKNOWN)])
        if self._spare is not None and self.writer.moved:
            self._move_on(self._spare())
        self.writer.settle()
        if self._checkpoint is not None:
            stored_sessions = self._stored_sessions()
            self._checkpoint.write(Contents({**stored_sessions.often, **self._file()}, stored_sessions.once))
        self.writer.promise()
        self._unpromised = ""
        for stored_session in self._touched:
            stored_session.kept()
        self._touched.clear()

    def _contents(self) -> Contents:
        """All that a checkpoint has."""
        if self._ended:
            return Contents(
                {_FRONT: cbor.dumps(self._front), **self._stored_sessions(whole=True, over=True).often}
            )
        stored_sessions = self._stored_sessions(whole=True)
        return Contents({**stored_sessions.often, **self._file()}, stored_sessions.once)

    def _stored_sessions(self, whole: bool = False, over: bool = False) -> Contents:
        """What a checkpoint has of the sessions that changed; `whole`: of all."""
        often: dict[bytes, bytes] = {}
        once: dict[bytes, bytes] = {}
        for stored_session in self.stored_sessions.values() if whole else self._touched:
            contents = stored_session.contents(whole, over)
            often |= contents.often
            once |= contents.once
        return Contents(often, once)

    def _file(self) -> dict[bytes, bytes]:
        """What a checkpoint has of the capture; only after `settle`, or before there is one."""
        if self._empty:
            return {_FRONT: cbor.dumps({**self._front, "begun": False})}
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
            stored_session.numbers[id]: count
            for stored_session in self.stored_sessions.values()
            for id, count in stored_session.produced.items()
            if id in stored_session.numbers
        }
        unproven = {  # of agents that still record, or were killed: nobody knows what they produced
            number
            for stored_session in self.stored_sessions.values()
            for id, number in stored_session.numbers.items()
            if id not in stored_session.produced
        }
        try:
            totals = self.writer.close(known, unproven)
            if self._checkpoint is not None:
                (self._end_checkpoint if self._over else self._note_ending)(self._checkpoint)
                self._checkpoint.close()
            return totals
        finally:
            if self._packing.user is self:
                self._packing.user = None

    def _end_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Let a small checkpoint remember that the sessions have ended; on a full disk a large one does."""
        self._ended = True
        if not checkpoint.small:
            with contextlib.suppress(CheckpointError):
                checkpoint.renew()
                return
        checkpoint.write(Contents({_FILE + b"head": b""}))

    def _note_ending(self, checkpoint: Checkpoint) -> None:
        """Let the checkpoint know that the capture has its ending, though more may come: then its owner may
        take it away. On a full disk it stays unsaid.
        """
        with contextlib.suppress(CheckpointError):
            checkpoint.write(Contents({_FRONT: cbor.dumps({**self._front, "ended": True})}))

    def keep(self) -> None:
        """See that the checkpoint is at its place, as it was written last; others may have removed it."""
        if self._checkpoint is not None:
            self._checkpoint.keep()

    def leave(self) -> Checkpoint | None:
        """Close the files as they are: the checkpoint's record is where a successor goes on. Gives a
        checkpoint that is not at its place and cannot be put back there at present; it is open.
        """
        self.closed = True
        if self._packing.user is self:
            self._packing.user = None
        checkpoint, self._checkpoint = self._checkpoint, None
        with contextlib.suppress(CaptureError, OSError):
            self.writer.leave()
        if self._unpromised:
            _sweep(self.path, self._unpromised)  # what is in it comes again
        if checkpoint is not None:
            try:
                checkpoint.keep()
            except CheckpointError:
                return checkpoint
            checkpoint.close()
        return None

    # --- what came, for summaries

    def balance(self, stored_session: StoredSession) -> Totals:
        """Events of a session: stored and lost so far."""
        return self._totals(stored_session, tables=False)

    def tables(self, stored_session: StoredSession) -> Totals:
        """The same of the TABLE frames of its maps."""
        return self._totals(stored_session, tables=True)

    def _totals(self, stored_session: StoredSession, *, tables: bool) -> Totals:
        schemas = self.writer.schemas
        numbers = [number for number in stored_session.own if (schemas[number - 1].map is not None) == tables]
        totals = self.writer.balances(numbers)
        return Totals(*(sum(column) for column in zip(*totals, strict=True))) if totals else Totals(0, 0, 0)

    @property
    def causes(self) -> dict[int, int]:
        """Events of the capture lost, by cause."""
        causes: dict[int, int] = {}
        for (_, cause), count in self.writer.causes.items():
            causes[cause] = causes.get(cause, 0) + count
        return causes

    def losses(self, stored_session: StoredSession) -> dict[int, int]:
        """Events of a session lost, by cause."""
        causes: dict[int, int] = {}
        for (probe, cause), count in self.writer.causes.items():
            if probe in stored_session.own or (not probe and not self.merged):
                causes[cause] = causes.get(cause, 0) + count
        return causes

    def gone(self, stored_session: StoredSession) -> dict[int, int]:
        """Events of a session that were stored and are gone with their capture, by its own probe numbers."""
        causes = self.writer.causes.items()
        return {
            stored_session.own[probe]: count
            for (probe, cause), count in causes
            if cause == Cause.CAPTURE_GONE and probe in stored_session.own
        }

    # --- what is no plain event

    def _stranger(self, frame: Frame) -> None:
        """A frame that the writer does not take; its number is the capture's."""
        stored_session = self._stored_session
        assert stored_session is not None  # take says whose it is
        self._outsider(stored_session, frame, stored_session.own.get(frame.header.id, 0))

    def _outsider(self, stored_session: StoredSession, frame: Frame, id: int) -> None:
        """A frame that is no EVENT of a probe described, `id` by the stored session's own numbers."""
        if frame.header.type == Type.SCHEMA:
            self._describe(stored_session, id, frame.payload)
            return
        try:
            what = said(frame, SchemaReader())
        except FrameError as error:
            stored_session.complain(error.problem)
            return
        if frame.header.type == Type.EVENT:
            stored_session.refuse(Code.UNKNOWN_SCHEMA, id, "a SCHEMA before the first EVENT")
            stored_session.stray(int.from_bytes(frame.payload[:8], sys.byteorder))
        elif isinstance(what, dict):
            stored_session.totals(what)
        elif isinstance(what, TablePart):
            number = stored_session.numbers.get(id)
            if number is None:
                stored_session.refuse(Code.UNKNOWN_SCHEMA, id, "a SCHEMA before the first TABLE")
            else:
                self.writer.keep(build(Type.TABLE, number, frame.payload))
        elif not isinstance(what, Lost):
            kind = f"type {frame.header.type}"
            stored_session.refuse(Code.BAD_PAYLOAD, kind, "EVENT, LOST, SCHEMA or TABLE")
        elif not self.writer.tell(what if id in stored_session.numbers else what._replace(probe=0)):
            stored_session.refuse(Code.BAD_PAYLOAD, f"{what.count} events lost", f"at most {MOST_LOST}")

    def _describe(self, stored_session: StoredSession, id: int, payload: bytes) -> None:
        schema = stored_session.schema(id, payload)
        if schema is None:
            return
        if id not in stored_session.numbers:
            stored_session.number(id, len(self.writer.schemas) + 1)
        placed = stored_session.placed(schema)
        if self.writer.schemas[placed.id - 1 : placed.id] != [placed]:
            self.writer.describe(placed)


def _read(
    checkpoint: str, values: Mapping[bytes, bytes]
) -> tuple[dict[str, Any], dict[bytes, StoredSession], State]:
    """What a checkpoint says: of the capture, the stored sessions, the state of the writer. Raises
    NoCheckpointError.
    """  # fmt: skip
    try:
        front = cbor.loads_map(values[_FRONT])
        read_payload(front, _FRONT_KEYS, 0)
        size = len(_FILE)
        state = {key[size:].decode(): value for key, value in values.items() if key.startswith(_FILE)}
    except _DAMAGE:
        raise NoCheckpointError("read", checkpoint, "it is damaged", CURE) from None
    return front, _stored_sessions(checkpoint, values), state


def _stored_sessions(
    checkpoint: str, values: Mapping[bytes, bytes], whole: bool = True
) -> dict[bytes, StoredSession]:
    """The stored sessions of a checkpoint. Raises NoCheckpointError."""
    try:
        return StoredSession.found(values, whole)
    except _DAMAGE:
        raise NoCheckpointError("read", checkpoint, "it is damaged", CURE) from None


def _beside(checkpoint: str, name: str) -> str:
    """Where the capture of that name lies; checkpoints from before 0.2 have the path that it had."""
    folder = os.path.dirname(os.path.dirname(checkpoint))
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
