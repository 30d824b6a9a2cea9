"""The storage of a collector: the stores of its sessions, what ledgers remember, and commits.

The laws: what was taken is committed a few milliseconds, or a megabyte, later, many stores at once; only what
a commit has made safe is told as `safe`; what the disk refuses is told as `refused` and tried again; a store
that fails is told as `failed`, and no other hears of it. A folder that others removed is made again, and so
are the ledgers of its stores: one that cannot be put back at present stays open until it can, and until then
nothing is known of its sessions. Captures that a collector before this one left get their ending at once, and
what is gone of them is counted then.
"""

import contextlib
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, NamedTuple

from kwire.capture.output import CaptureError, FullError, GoneError
from kwire.errors import KwireError
from kwire.stream.feed import Place
from kwire.stream.folder import FolderError
from kwire.stream.lane import Lane
from kwire.stream.ledger import Ledger, LedgerError, NoLedgerError
from kwire.stream.loop import Loop, Timer
from kwire.stream.store import Packing, Payload, Store
from kwire.words import are, plural

PAUSE: Final = 0.005
"""Seconds from the first DATA taken to its commit: many are made safe, and acknowledged, at once."""

AT_ONCE: Final = 1 << 20
"""Bytes after which a commit does not wait: a quarter of a session's receive window."""

AGAIN: Final = 1.0
"""Seconds until what the disk refused is tried again."""


MOST_DONE: Final = 4096
"""Sessions that have ended which are known though somebody has removed their ledgers."""


class Told(NamedTuple):
    """Who hears of what happens to stores."""

    safe: Callable[[Lane], None]
    """More of a session is safe: up to before `stored`."""
    refused: Callable[[Store, KwireError], None]
    """The disk does not take a commit; it is tried again."""
    taken: Callable[[], None]
    """The disk took a commit."""
    failed: Callable[[Store, Exception], None]
    """A store cannot go on."""
    say: Callable[[str], None]
    """People should know."""


class Storage:
    """The stores in a place. CaptureError or LedgerError where the disk refuses what is asked."""

    def __init__(self, loop: Loop, place: Place, told: Told) -> None:
        self.loop = loop
        self.place = place
        self.stores: set[Store] = set()
        """Those that are open for sessions."""
        self.refused: set[Store] = set()
        """Those of which the disk did not take the last commit."""
        self._told = told
        self._packing = Packing()
        self._merged: Store | None = None
        self._dirty: set[Store] = set()
        self._done: dict[bytes, Lane] = {}  # sessions that ended here, by token: ledgers may be removed
        self._adrift: dict[str, Ledger] = {}  # that were removed, of stores that were left; by their paths
        self._taken = 0  # bytes since the last commit
        self._commit: Timer | None = None

    # ------------------------------------------------------------------ what ledgers remember

    def promise(self, lane: Lane) -> None:
        """Remember a session that has delivered nothing yet, where it is not remembered."""
        ledger = self._ledger(lane.token)
        if not os.path.exists(ledger):
            Store.promise(ledger, lane, self.place.options.sync)

    def remembered(self, token: bytes) -> Lane | None:
        """A session that a ledger remembers, though it is finished. LedgerError: that cannot be known."""
        path = self._ledger(token)
        own = self._lanes_of(path)
        found = next((lane for lane in [*self._merged_lanes(), *own] if lane.token == token), None)
        if own and found is None:
            raise _mistaken(path, own)
        return found or self._done.get(token)

    def unfinished(self) -> list[Lane]:
        """The sessions that ledgers remember and that have not ended, as far as ledgers can be read."""
        lanes: dict[bytes, Lane] = {}
        for path in self.place.folder.ledgers():
            try:
                lanes |= {lane.token: lane for lane in self._lanes_of(path)}
            except LedgerError as error:  # its sessions may go on another time; others do now
                self._told.say(str(error))
        lanes |= {lane.token: lane for lane in self._merged_lanes()}
        return [lane for lane in lanes.values() if not lane.done]

    def disregard(self, lane: Lane) -> None:
        """A session that has ended and delivered nothing need not be remembered."""
        if self._merged is not None and lane.token in self._merged.lanes:
            self.finish(self._merged, self._merged.lanes[lane.token])
            self.soon(self._merged)
        else:
            with contextlib.suppress(OSError, LedgerError):  # then it is remembered a while
                os.unlink(self._ledger(lane.token))

    def _ledger(self, token: bytes) -> str:
        """The path of a session's ledger. LedgerError where it was removed, and cannot be put back yet."""
        return self._at(self.place.folder.ledger(token))

    def _ledger_of_all(self) -> str:
        """That of a merged capture."""
        return self._at(self.place.folder.ledger_of(self.place.merged))

    def _at(self, path: str) -> str:
        ledger = self._adrift.get(path)
        if ledger is not None:
            with contextlib.suppress(FolderError):
                self.place.folder.mend()
            ledger.keep()
            ledger.close()
            del self._adrift[path]
        return path

    def _lanes_of(self, ledger: str) -> list[Lane]:
        try:
            return Store.lanes_of(ledger)
        except NoLedgerError as error:
            self._told.say(str(error))
            return []

    def _merged_lanes(self) -> list[Lane]:
        if not self.place.merged:
            return []
        ledger = self._ledger_of_all()
        try:
            if self._merged is None and os.path.exists(ledger):
                self.merged()
        except CaptureError:  # its sessions are known, whether it can be written or not
            return self._lanes_of(ledger)
        return list(self._merged.lanes.values()) if self._merged else []

    # ------------------------------------------------------------------ stores

    def open(self, token: bytes, about: Mapping[str, str]) -> tuple[Store, Lane]:
        """The store of a session, which may be closed: then the session has ended."""
        store = self.merged() if self.place.merged else self._again(token, about["name"] or about["host"])
        lane = store.join(token, about)
        if not store.closed:
            self.stores.add(store)
        return store, lane

    def merged(self) -> Store:
        """The store of all sessions, in a place with `merged`."""
        if self._merged is None:
            path, folder = self.place.merged, self.place.folder
            ledger, spare = self._ledger_of_all(), partial(folder.beside, path)
            if os.path.exists(ledger):
                self._merged = Store.again(ledger, self._packing, self.place.options, spare)
            else:
                system, free = os.uname(), folder.beside(path)
                if free != path:
                    self._told.say(f"{path} is there, and nothing is known of it here: {free} is written")
                about = {"host": system.nodename, "kernel": system.release, "tool": "kwire collect"}
                options = self.place.options
                self._merged = Store(free, ledger, self._packing, options, about, merged=True, spare=spare)
        return self._merged

    def settle(self, token: bytes) -> Store | None:
        """Give the capture of a session that did not come back its ending; None where there is nothing."""
        if self.place.merged or not os.path.exists(self._ledger(token)):
            return None
        lane = self.remembered(token)
        store = self._again(token, lane.host if lane is not None else "")
        if store.closed:
            return None
        self._close(store)
        return store

    def _close(self, store: Store) -> None:
        """Give a capture its ending."""
        try:
            store.close()
        except BaseException:
            self.leave(store)
            raise

    def close_merged(self) -> Store | None:
        """Give a merged capture its ending, and give it, if there is one."""
        store = self._merged  # whose ledger may have been removed just now
        if store is None and self.place.merged and os.path.exists(self._ledger_of_all()):
            store = self.merged()
        if store is None or store.closed:
            return None
        try:
            store.close()
        except GoneError as error:
            self._told.failed(store, error)
            store = self.merged()  # one that counts what is gone
            self._close(store)
        return store

    def finish(self, store: Store, lane: Lane) -> None:
        """A session has ended, and all of it was taken: with the last one its capture gets its ending."""
        store.finish(lane)
        for each in store.lanes.values() if store.closed else ():
            while len(self._done) >= MOST_DONE:
                del self._done[next(iter(self._done))]
            self._done[each.token] = each.outline()

    def leave(self, store: Store) -> None:
        """Leave a store as its ledger knows it."""
        with contextlib.suppress(FolderError):
            self.place.folder.mend()
        ledger = store.leave()
        if ledger is not None:
            self._adrift[ledger.path] = ledger
        self.forget(store)

    def forget(self, store: Store) -> None:
        """A store is closed."""
        for stores in (self.stores, self._dirty, self.refused):
            stores.discard(store)
        if self._merged is store:
            self._merged = None

    def _again(self, token: bytes, host: str) -> Store:
        folder = self.place.folder
        return Store.again(
            self._ledger(token), self._packing, self.place.options, partial(folder.capture, host)
        )

    # ------------------------------------------------------------------ commits

    def take(self, store: Store, lane: Lane, sequence: int, payload: Payload) -> None:
        """Take a payload of a session, to be made safe with others."""
        store.take(lane, sequence, payload)
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
                lanes = store.commit()
            except (LedgerError, FullError) as error:
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
            for lane in lanes:
                self._told.safe(lane)

    def mend(self) -> bool:
        """Make the folder again where others have removed it, and the ledgers; whether that was so."""
        mended = False
        with contextlib.suppress(FolderError):
            mended = self.place.folder.mend()
        if mended:
            self._told.say(f"{self.place.folder.path} was removed by somebody else: it is made again")
            for store in self.stores:
                with contextlib.suppress(LedgerError):
                    store.keep()
        for path in list(self._adrift):
            with contextlib.suppress(LedgerError):
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
        for ledger in self.place.folder.ledgers():
            try:
                gone += self._recover(ledger)
            except (CaptureError, LedgerError) as error:
                self._told.say(str(error))
            except Exception as error:
                self.loop.contain(error)
        return gone

    def _recover(self, ledger: str) -> list[Store]:
        lanes = Store.lanes_of(ledger)
        if os.path.basename(ledger) not in [lane.token.hex() for lane in lanes]:
            raise _mistaken(ledger, lanes)
        try:
            self._close(Store.again(ledger, self._packing, self.place.options))
            return []
        except GoneError as error:
            lane = Store.lanes_of(ledger)[0]
            store = self._again(lane.token, lane.host)
            self._close(store)
            told = are(store.writer.gone, "event")
            self._told.say(f"{error}; {told} gone with it, counted as lost in {store.path_now}")
            return [store]

    def _recover_merged(self) -> list[Store]:
        ledger = self.place.folder.ledger_of(self.place.merged)
        lanes = self._lanes_of(ledger)
        with contextlib.suppress(CaptureError, LedgerError):
            ended = Store.ended(ledger) if all(lane.done for lane in lanes) else ""
            if lanes and ended and not self.place.folder.taken(ended):
                os.unlink(ledger)
                before = plural(len(lanes), "session")
                self._told.say(
                    f"{ended} is not there any more: it is begun anew, without the {before} before"
                )
            elif lanes:
                self.merged()
        return []


def _mistaken(path: str, lanes: list[Lane]) -> LedgerError:
    names = ", ".join(lane.token.hex() for lane in lanes) or "none"
    return LedgerError("read", path, f"it is the ledger of another session, {names}", "rename it to that")
