"""The storage of a collector: the stores of its sessions, what checkpoints remember, and commits.

Invariants: what was taken is committed a few milliseconds, or a megabyte, later, many stores at once; only
what a commit has made safe is told as `safe`; what the disk refuses is told as `refused` and tried again; a
store that fails is told as `failed`, and no other hears of it. A folder that others removed is made again,
and so are the checkpoints of its stores: one that cannot be put back at present stays open until it can, and
until then nothing is known of its sessions. Captures that a collector before this one left get their ending
at once, and what is gone of them is counted then.
"""

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, NamedTuple

from kwire.capture.output import CaptureError, FullError, GoneError
from kwire.collector.checkpoint import Checkpoint, CheckpointError, NoCheckpointError
from kwire.collector.collected_session import CaptureTarget
from kwire.collector.folder import FolderError
from kwire.collector.store import Packing, Payload, Store
from kwire.collector.stored_session import StoredSession
from kwire.errors import KwireError
from kwire.transport.log_events import Log
from kwire.transport.loop import Loop, Timer
from kwire.words import are, plural

PAUSE: Final = 0.005
"""Seconds from the first DATA taken to its commit: many are made safe, and acknowledged, at once."""

AT_ONCE: Final = 1 << 20
"""Bytes after which a commit does not wait: a quarter of a session's receive window."""

AGAIN: Final = 1.0
"""Seconds until what the disk refused is tried again."""


MOST_DONE: Final = 4096
"""Sessions that have ended which are known though somebody has removed their checkpoints."""


MOST_PROMISED: Final = 256
"""Sessions that have delivered nothing yet whose checkpoints are kept open."""

PARKED: Final = 1024
"""Sessions that are away after which it is looked for those that are not remembered any more; then at twice
as many as there are.
"""


class StorageListener(NamedTuple):
    """Who hears of what happens to stores."""

    safe: Callable[[StoredSession], None]
    """More of a session is safe: up to before `stored`."""
    refused: Callable[[Store, KwireError], None]
    """The disk does not take a commit; it is tried again."""
    taken: Callable[[], None]
    """The disk took a commit."""
    failed: Callable[[Store, Exception], None]
    """A store cannot go on."""
    say: Log
    """People should know."""


class Storage:
    """The stores in a place. CaptureError or CheckpointError where the disk refuses what is asked."""

    def __init__(self, loop: Loop, place: CaptureTarget, told: StorageListener) -> None:
        self.loop = loop
        self.place = place
        self.stores: set[Store] = set()
        """Those that are open for sessions."""
        self.refused: set[Store] = set()
        """Those of which the disk did not take the last commit."""
        self.heard: dict[str, float] = {}
        """When something of each host came last, in seconds since 1970."""
        self.newest: dict[str, float] = {}
        """When the newest event of each host that is safe happened there, in seconds since 1970."""
        self.lags: dict[str, float] = {}
        """How many seconds after it happened that event was safe here, by both clocks; never below 0."""
        self._told = told
        self._packing = Packing()
        self._merged: Store | None = None
        self._dirty: set[Store] = set()
        self._promised: dict[str, Store] = {}  # of sessions that have delivered nothing yet, by checkpoint
        self._done: dict[bytes, StoredSession] = {}  # ended here, by token: checkpoints may be removed
        self._merged_left: tuple[str, int] | None = None  # the same of a merged capture
        self._parked: dict[str, tuple[str, int]] = {}
        self._parked_most = PARKED
        # Checkpoints of sessions that may come back → the capture they left, and the number of its last file.
        self._adrift: dict[str, Checkpoint] = {}  # removed ones, by path, of stores that were left
        self._taken = 0  # bytes since the last commit
        self._commit: Timer | None = None

    # ------------------------------------------------------------------ what checkpoints remember

    def promise(self, stored_session: StoredSession, begun: bool) -> None:
        """Remember a session, where it is not remembered. NoCheckpointError where some of it is stored: then
        its checkpoint was removed, and nobody knows what a capture has of it.
        """
        checkpoint = self._checkpoint(stored_session.token)
        if os.path.exists(checkpoint):
            return
        if begun:
            raise NoCheckpointError("read", checkpoint, "it was removed", "its session begins anew")
        self._unpromise(checkpoint)  # it was removed
        store = Store.promised(checkpoint, self._packing, self.place.options, stored_session)
        self._promised[checkpoint] = store
        if self.place.merged or len(self._promised) > MOST_PROMISED:
            self._unpromise(next(iter(self._promised)))

    def _unpromise(self, checkpoint: str) -> None:
        """Close the checkpoint of a session that has delivered nothing yet, where it is open."""
        store = self._promised.pop(checkpoint, None)
        if store is not None:
            store.forgo()

    def remembered(self, token: bytes) -> StoredSession | None:
        """A session that a checkpoint remembers, though it is finished. CheckpointError: that cannot be
        known.
        """  # fmt: skip
        path = self._checkpoint(token)
        if path in self._promised and os.path.exists(path):
            return self._promised[path].stored_sessions[token]
        own = self._stored_sessions_of(path)
        known = [*self._merged_stored_sessions(), *own]
        found = next((one for one in known if one.token == token), None)
        if own and found is None:
            raise _mistaken(path, own)
        return found or self._done.get(token)

    def unfinished(self) -> list[StoredSession]:
        """The sessions that checkpoints remember and that have not ended."""
        return [one for one in self.all() if not one.done]

    def all(self) -> list[StoredSession]:
        """The sessions that checkpoints remember, as far as checkpoints can be read."""
        stored_sessions: dict[bytes, StoredSession] = {}
        for path in self.place.folder.checkpoints():
            try:
                stored_sessions |= {one.token: one for one in self._stored_sessions_of(path)}
            except CheckpointError as error:  # its sessions may go on another time; others do now
                self._told.say(str(error), "disk")
        stored_sessions |= {one.token: one for one in self._merged_stored_sessions()}
        return list(stored_sessions.values())

    def disregard(self, stored_session: StoredSession) -> None:
        """A session that has ended and delivered nothing need not be remembered."""
        if self._merged is not None and stored_session.token in self._merged.stored_sessions:
            self.finish(self._merged, self._merged.stored_sessions[stored_session.token])
            self.soon(self._merged)
        else:
            self._unpromise(self.place.folder.checkpoint(stored_session.token))
            with contextlib.suppress(OSError, CheckpointError):  # then it is remembered a while
                os.unlink(self._checkpoint(stored_session.token))

    def _checkpoint(self, token: bytes) -> str:
        """The path of a session's checkpoint. CheckpointError where it was removed, and cannot be put back
        yet.
        """  # fmt: skip
        return self._at(self.place.folder.checkpoint(token))

    def _checkpoint_of_all(self) -> str:
        """That of a merged capture."""
        return self._at(self.place.folder.checkpoint_of(self.place.merged))

    def _at(self, path: str) -> str:
        checkpoint = self._adrift.get(path)
        if checkpoint is not None:
            with contextlib.suppress(FolderError):
                self.place.folder.mend()
            checkpoint.keep()
            checkpoint.close()
            del self._adrift[path]
        return path

    def _stored_sessions_of(self, checkpoint: str) -> list[StoredSession]:
        try:
            return Store.stored_sessions_of(checkpoint)
        except NoCheckpointError as error:
            self._told.say(str(error), "disk")
            return []

    def _merged_stored_sessions(self) -> list[StoredSession]:
        if not self.place.merged:
            return []
        checkpoint = self._checkpoint_of_all()
        try:
            if self._merged is None and os.path.exists(checkpoint):
                self.merged()
        except CaptureError:  # its sessions are known, whether it can be written or not
            return self._stored_sessions_of(checkpoint)
        return list(self._merged.stored_sessions.values()) if self._merged else []

    # ------------------------------------------------------------------ stores

    def open(self, token: bytes, about: Mapping[str, str]) -> tuple[Store, StoredSession]:
        """The store of a session, which may be closed: then the session has ended."""
        store = self.merged() if self.place.merged else self._again(token, about["name"] or about["host"])
        stored_session = store.join(token, about)
        if not store.closed:
            self.stores.add(store)
            self._parked.pop(self.place.folder.checkpoint(token), None)
        return store, stored_session

    def merged(self) -> Store:
        """The store of all sessions, in a place with `merged`."""
        if self._merged is None:
            path, folder = self.place.merged, self.place.folder
            checkpoint, spare = self._checkpoint_of_all(), partial(folder.beside, path)
            if os.path.exists(checkpoint):
                self._merged = Store.again(checkpoint, self._packing, self.place.options, spare)
            else:
                system, free = os.uname(), folder.beside(path)
                if free != path:
                    self._told.say(
                        f"{path} is there, and nothing is known of it here: {free} is written", "capture"
                    )
                about = {"host": system.nodename, "kernel": system.release, "tool": "kwire collect"}
                options = self.place.options
                self._merged = Store(
                    free, checkpoint, self._packing, options, about, merged=True, spare=spare
                )
        return self._merged

    def settle(self, token: bytes) -> Store | None:
        """Give the capture of a session that does not come back its ending; None where it has it."""
        if self.place.merged or not os.path.exists(self._checkpoint(token)):
            return None
        stored_session = self.remembered(token)
        store = self._again(token, stored_session.host if stored_session is not None else "")
        self._close(store)
        return store if store.opened else None

    def _close(self, store: Store) -> None:
        """Give a capture its ending."""
        try:
            store.close()
        except BaseException:
            self.leave(store)
            raise
        self._park(store)

    def close_merged(self) -> Store | None:
        """Give a merged capture its ending, and give it, if there is one."""
        store = self._merged  # whose checkpoint may have been removed just now
        if store is None and self.place.merged and os.path.exists(self._checkpoint_of_all()):
            store = self.merged()
        if store is None or store.closed:
            return None
        try:
            store.close()
        except GoneError as error:
            self._told.failed(store, error)
            store = self.merged()  # one that counts what is gone
            self._close(store)
        self._park(store)
        return store

    def finish(self, store: Store, stored_session: StoredSession) -> None:
        """A session has ended, and all of it was taken: with the last one its capture gets its ending."""
        store.finish(stored_session)
        for each in store.stored_sessions.values() if store.closed else ():
            while len(self._done) >= MOST_DONE:
                del self._done[next(iter(self._done))]
            self._done[each.token] = each.outline()

    def leave(self, store: Store) -> None:
        """Leave a store as its checkpoint knows it."""
        with contextlib.suppress(FolderError):
            self.place.folder.mend()
        checkpoint = store.leave()
        if checkpoint is not None:
            self._adrift[checkpoint.path] = checkpoint
        self.forget(store)

    def forget(self, store: Store) -> None:
        """A store is closed."""
        for stores in (self.stores, self._dirty, self.refused):
            stores.discard(store)
        self._park(store)
        if self._merged is store:
            self._merged = None

    # ------------------------------------------------------------------ what retention may take

    def _park(self, store: Store) -> None:
        """Note where the sessions of a closed store may go on."""
        if store.opened and store.merged:
            self._merged_left = store.held
        token = next((one.token for one in store.stored_sessions.values() if not one.done), None)
        if store.opened and not store.merged and token is not None:
            self._parked[self.place.folder.checkpoint(token)] = store.held
            if len(self._parked) > self._parked_most:
                self._unpark()

    def _unpark(self) -> None:
        """Forget those whose checkpoint is not there any more: nothing goes on in their captures."""
        with contextlib.suppress(OSError):  # another time
            there = set(self.place.folder.checkpoints())
            for checkpoint in [one for one in self._parked if one not in there and one not in self._adrift]:
                del self._parked[checkpoint]
        self._parked_most = max(PARKED, 2 * len(self._parked))

    def in_use(self, capture: str, number: int) -> bool:
        """Whether a file of a capture is written by an open session, or may have what is not acknowledged."""
        for store in {*self.stores, *filter(None, [self._merged])}:
            open_capture, first = store.held
            if not store.closed and open_capture == capture and number >= first:
                return True
        return False

    def may_go_on(self, capture: str, number: int) -> bool:
        """Whether a session that is away may go on in a file of a capture, which is not in use now."""
        left = [*self._parked.values(), *filter(None, [self._merged_left])]
        return any(capture == which and number >= first for which, first in left)

    def release(self, capture: str, number: int) -> None:
        """A file that is not in use goes: where a session that is away would go on in it, its checkpoint is
        told to go on without. CheckpointError: that cannot be.
        """
        for checkpoint, (parked, last) in self._parked.items():
            if parked == capture and number >= last:
                with contextlib.suppress(NoCheckpointError):  # forgotten: nothing goes on
                    Store.retire(self._at(checkpoint), self.place.options.sync)
                del self._parked[checkpoint]
                return

    def _again(self, token: bytes, host: str) -> Store:
        checkpoint, options = self._checkpoint(token), self.place.options
        spare = partial(self.place.folder.capture, host)
        promised = self._promised.pop(checkpoint, None)
        if promised is None:
            return Store.again(checkpoint, self._packing, options, spare)
        promised.begin(options, spare)
        return promised

    # ------------------------------------------------------------------ commits

    def take(self, store: Store, stored_session: StoredSession, sequence: int, payload: Payload) -> None:
        """Take a payload of a session, to be made safe with others."""
        self.heard[stored_session.host] = time.time()
        store.take(stored_session, sequence, payload)
        self.soon(store)
        self._taken += len(payload)
        if self._taken >= AT_ONCE:
            self.commit()

    def soon(self, store: Store, seconds: float = PAUSE) -> None:
        """Commit this store, and others that wait, in a moment."""
        self._dirty.add(store)
        when = self.loop.now() + seconds
        if self._commit is None or self._commit.when > when:
            self.loop.cancel(self._commit)
            self._commit = self.loop.at(when, self.commit)

    def commit(self) -> None:
        """Make safe what was taken, and tell it."""
        self.loop.cancel(self._commit)
        self._commit = None
        self._taken = 0
        dirty, self._dirty = self._dirty, set()
        for store in dirty:
            try:
                stored_sessions = store.commit()
            except (CheckpointError, FullError) as error:
                if self.mend():
                    self.soon(store)
                    continue
                self.refused.add(store)
                self._told.refused(store, error)
                self.soon(store, AGAIN)
                continue
            except Exception as error:
                self._told.failed(store, error)
                continue
            self.refused.discard(store)
            self._told.taken()
            now = time.time()
            for stored_session in stored_sessions:
                newest = stored_session.take_newest()
                if newest is not None:
                    self.newest[stored_session.host] = newest
                    self.lags[stored_session.host] = max(0.0, now - newest)
                self._told.safe(stored_session)

    def turn(self) -> None:
        """Begin the next files of rotations whose time has come, where nothing comes that would."""
        for store in [*self.stores, *filter(None, [self._merged])]:
            if store.closed:
                continue
            try:
                if store.turn():
                    self.soon(store)
            except Exception as error:
                self._told.failed(store, error)

    def mend(self) -> bool:
        """Make the folder again where others have removed it, and the checkpoints; whether that was so."""
        mended = False
        with contextlib.suppress(FolderError):
            mended = self.place.folder.mend()
        if mended:
            self._told.say(f"{self.place.folder.path} was removed by somebody else: it is made again", "disk")
            for store in self.stores:
                with contextlib.suppress(CheckpointError):
                    store.keep()
        for path in list(self._adrift):
            with contextlib.suppress(CheckpointError):
                self._at(path)
        return mended

    # ------------------------------------------------------------------ after a restart

    def recover(self) -> list[Store]:
        """Captures that a killed collector left get their ending; what comes later goes on with them. Gives
        those of which something is gone: it is counted.
        """
        if self.place.merged:
            return self._recover_merged()
        gone: list[Store] = []
        for checkpoint in self.place.folder.checkpoints():
            try:
                gone += self._recover(checkpoint)
            except (CaptureError, CheckpointError) as error:
                self._told.say(str(error), "disk")
            except Exception as error:
                self.loop.contain(error)
        return gone

    def _recover(self, checkpoint: str) -> list[Store]:
        stored_sessions = Store.stored_sessions_of(checkpoint)
        if os.path.basename(checkpoint) not in [one.token.hex() for one in stored_sessions]:
            raise _mistaken(checkpoint, stored_sessions)
        try:
            self._close(Store.again(checkpoint, self._packing, self.place.options))
            return []
        except GoneError as error:
            stored_session = Store.stored_sessions_of(checkpoint)[0]
            store = self._again(stored_session.token, stored_session.host)
            self._close(store)
            told = are(store.writer.gone, "event")
            self._told.say(
                f"{error}; {told} gone with it, counted as lost in {store.path_now}", "events_lost"
            )
            return [store]

    def _recover_merged(self) -> list[Store]:
        checkpoint = self.place.folder.checkpoint_of(self.place.merged)
        stored_sessions = self._stored_sessions_of(checkpoint)
        with contextlib.suppress(CaptureError, CheckpointError):
            ended = Store.ended(checkpoint) if all(one.done for one in stored_sessions) else ""
            if stored_sessions and ended and not self.place.folder.any_of(ended):
                os.unlink(checkpoint)
                before = plural(len(stored_sessions), "session")
                self._told.say(
                    f"{ended} is not there any more: it is begun anew, without the {before} before"
                )
            elif stored_sessions:
                self.merged()
        return []


def _mistaken(path: str, stored_sessions: list[StoredSession]) -> CheckpointError:
    names = ", ".join(one.token.hex() for one in stored_sessions) or "none"
    return CheckpointError(
        "read", path, f"it is the checkpoint of another session, {names}", "rename it to that"
    )
