"""The collector: sessions of many agents, each into its capture, or all into one.

The laws: DATA is acknowledged when its store says that it is safe, never before; stores that have taken
something are committed together, a few milliseconds or a megabyte later; a store that fails takes its own
sessions with it and no other, and a source that comes again finds what its ledger says; files are made for
whoever has sent events, not for whoever has connected. In a merged capture a session's events wait until its
clock is known, for `PATIENCE` at most.
"""

import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from kwire.capture.output import CaptureError
from kwire.errors import KwireError
from kwire.stream import clock
from kwire.stream.address import Address
from kwire.stream.feed import TEXT, Feed, Place
from kwire.stream.lane import Lane
from kwire.stream.ledger import LedgerError
from kwire.stream.loop import Loop, Timer
from kwire.stream.peer import Ignore, Peer
from kwire.stream.store import SEQUENCES, Packing, Payload, Store
from kwire.stream.tally import Tally, described
from kwire.wire.control import Hello, Role
from kwire.wire.session import Session, Settings, State

PAUSE: Final = 0.005
"""Seconds from the first DATA taken to its commit: many are made safe, and acknowledged, at once."""

AT_ONCE: Final = 1 << 20
"""Bytes after which a commit does not wait: a quarter of a session's receive window."""

AGAIN: Final = 1.0
"""Seconds until a commit that the disk refused is tried again."""

BURDEN: Final = 32e6
"""Bytes a second that descriptions may cost to be remembered: who floods us with them waits."""

PATIENCE: Final = 2.0
"""Seconds that events of a merged capture wait for the first samples of their clock."""

ENOUGH: Final = 3
"""Samples of a clock that are enough to begin with."""

JUMP: Final = 1_000_000
"""Nanoseconds: a clock offset that moved by more is told in the capture, and counts from there."""

MOST_PROBLEMS: Final = 100


class Collector(Ignore):
    """The handler of all peers, and who chooses their sessions. `finished` is called when a session ends."""

    def __init__(
        self,
        loop: Loop,
        place: Place,
        settings: Settings = Settings(),  # noqa: B008
        finished: Callable[[], None] = lambda: None,
    ) -> None:
        self.loop = loop
        self.place = place
        self.settings = settings
        self.finished = finished
        self.packing = Packing()
        self.feeds: dict[Session, Feed] = {}
        self.tokens: dict[bytes, Session] = {}
        self.stores: set[Store] = set()
        self.tally = Tally()
        self.problems: list[str] = []
        """What went wrong, each thing once."""
        self._merged: Store | None = None
        self._dirty: set[Store] = set()
        self._resting: dict[Store, float] = {}  # until when no more descriptions are written down
        self._taken = 0  # bytes since the last commit
        self._commit: Timer | None = None
        self._pair = (time.monotonic_ns(), time.time_ns())
        self._recover()

    # ------------------------------------------------------------------ who comes

    def choose(self, hello: Hello, identity: str, address: str) -> Session:
        """The session of a HELLO: the one there is, the one a ledger remembers, or a new one."""
        if hello.role is not Role.SOURCE:
            raise KwireError("serve", address, "this is a collector: it takes events and gives none")
        session = self.tokens.get(hello.token)
        if session is not None:
            return session
        lane = self._remembered(hello.token)
        if lane is not None and lane.about.get("identity", "") != identity:
            raise KwireError("resume", address, "the session is another's")
        return self._session(identity, address, "", hello.token, lane, address.startswith("udp:"))

    def handler_for(self, session: Session) -> "Collector":
        """One handler serves all."""
        return self

    def fetch(self, address: Address) -> Session:
        """A session with an agent that listens at `address`: one that a ledger remembers, or a new one."""
        origin = str(address)
        for lane in self._unfinished():
            if lane.about.get("origin") == origin and lane.token not in self.tokens:
                return self._session("", origin, origin, lane.token, lane, address.datagrams)
        return self._session("", origin, origin, b"", None, address.datagrams)

    def _session(
        self, identity: str, address: str, origin: str, token: bytes, lane: Lane | None, datagrams: bool
    ) -> Session:
        session = Session(
            Role.SINK,
            initiator=bool(origin),
            datagrams=datagrams,
            settings=self.settings,
            token=token,
            about={"host": os.uname().nodename, "tool": "kwire collect"},
            next_expected=lane.next if lane else 0,
            resume=lane is not None,
        )
        self.feeds[session] = Feed(session, identity, address, origin)
        self.tokens[session.token] = session
        return session

    # ------------------------------------------------------------------ what a peer tells

    def established(self, peer: Peer) -> None:
        """Ask for its clock: eight times at first, then now and then."""
        feed = self.feeds[peer.session]
        feed.peer, feed.address = peer, peer.address
        feed.identity = feed.identity or peer.identity
        try:
            self._promise(feed)
        except (CaptureError, LedgerError) as error:
            self._note(str(error))
        self._ask(feed)
        if feed.origin and not feed.resumed and not feed.asked:
            feed.asked = peer.session.request({"op": "trace"}, self.loop.now())

    def delivered(self, peer: Peer, sequence: int, payload: Payload) -> None:
        """Take DATA."""
        feed = self.feeds.get(peer.session)
        if feed is None:
            return
        feed.peer = peer
        if feed.ready:
            self._take(feed, sequence, payload)
        else:
            feed.held.append((sequence, bytes(payload)))
            if len(feed.held) == 1:
                self._prepare(feed)

    def requested(self, peer: Peer, number: int, body: Mapping[str, Any]) -> None:
        """A collector does nothing for others but tell the time."""
        operation = body.get("op")
        if operation == clock.OP:
            reply = clock.answer()
        elif operation == "ended":
            reply = {"ok": True}
        else:
            cause = "this is a collector"
            reply = {"error": {"cause": cause, "text": cause}}
        peer.session.reply(number, reply, self.loop.now())

    def replied(self, peer: Peer, number: int, body: Mapping[str, Any]) -> None:
        """The clock, or that a trace has begun, or not."""
        feed = self.feeds.get(peer.session)
        if feed is None:
            return
        if number == feed.asked:
            error = body.get("error")
            if error is not None:
                text = error.get("text") if isinstance(error, dict) else error
                self._note(f"{feed.address}: {str(text)[:TEXT]}")
                peer.close("nothing to collect")
            return
        if feed.estimator.told(body):
            if feed.estimator.taken < clock.BURST:
                self._ask(feed)
            else:
                self.loop.cancel(feed.timer)
                feed.timer = self.loop.at(self.loop.now() + clock.INTERVAL, lambda: self._ask(feed))
        if feed.held and not feed.ready:
            self._prepare(feed)
        elif feed.ready and feed.estimator.taken >= clock.BURST:
            self._set_clock(feed)

    def complained(self, peer: Peer, problem: object) -> None:
        """Note what is wrong."""
        self.tally.errors += 1
        self._note(f"{peer.address}: {problem}")

    def closed(self, peer: Peer, why: str) -> None:
        """The session has ended, for good or until it is taken up again."""
        feed = self.feeds.get(peer.session)
        if feed is None:
            return
        feed.peer = peer
        # Where we connect, a session that the agent does not know any more is over too: a new trace begins.
        over = bool(feed.origin) or (peer.session.state is State.CLOSED and not peer.closing)
        try:
            self._end(feed, over)
        except (CaptureError, LedgerError) as error:
            self._fail(feed.store, error)
        self.finished()

    # ------------------------------------------------------------------ storing

    def _prepare(self, feed: Feed, patient: bool = True) -> None:
        """Give what is held to the store if it can be opened; `patient`: and its clock is known."""
        if feed.ready or feed.session not in self.feeds:
            return
        unknown = feed.estimator.taken < ENOUGH and not feed.estimator.refused
        if self.place.merged and unknown and patient:
            if feed.waiting is None:
                feed.waiting = self.loop.at(self.loop.now() + PATIENCE, lambda: self._prepare(feed, False))
            return
        try:
            self._open(feed)
        except (CaptureError, LedgerError) as error:
            self._note(str(error))
            self.loop.at(self.loop.now() + AGAIN, lambda: self._prepare(feed, False))
            return
        feed.ready = True
        self._set_clock(feed)
        held, feed.held = feed.held, []
        for sequence, payload in held:
            if feed.ready:
                self._take(feed, sequence, payload)

    def _promise(self, feed: Feed) -> None:
        """Remember the session before the source hears that it is established: it may always be resumed."""
        token, ledger = feed.session.token, self.place.folder.ledger(feed.session.token)
        self.tokens[token] = feed.session
        if not feed.resumed and not os.path.exists(ledger):
            sync = self.place.options.sync
            Store.promise(ledger, token, feed.about, feed.session.next_expected, sync)

    def _open(self, feed: Feed) -> None:
        """Find the store of a session, or make it."""
        if self.place.merged:
            store = self._merged or self._open_merged()
        else:
            ledger = self.place.folder.ledger(feed.session.token)
            path = self.place.folder.capture(feed.about["name"] or feed.about["host"])
            store = Store.again(ledger, self.packing, self.place.options, path)
        feed.store, feed.lane = store, store.join(feed.session.token, feed.about)
        self.stores.add(store)

    def _open_merged(self) -> Store:
        ledger = self.place.folder.ledger_of(self.place.merged)
        if os.path.exists(ledger):
            self._merged = Store.again(ledger, self.packing, self.place.options, self.place.merged)
        else:
            about = {"host": os.uname().nodename, "kernel": os.uname().release, "tool": "kwire collect"}
            self._merged = Store(
                self.place.merged, ledger, self.packing, self.place.options, about, merged=True
            )
        return self._merged

    def _take(self, feed: Feed, sequence: int, payload: Payload) -> None:
        store, lane = feed.store, feed.lane
        assert store is not None  # the feed is ready
        assert lane is not None
        try:
            store.take(lane, sequence, payload)
        except CaptureError as error:
            self._fail(store, error)
            return
        self._soon(store)
        self._taken += len(payload)
        if lane.complaints:
            for problem in lane.complaints:
                self._note(f"{feed.address}: {problem}")
            lane.complaints.clear()
        if self._taken >= AT_ONCE:
            self.commit()

    def _soon(self, store: Store, seconds: float = PAUSE) -> None:
        """Commit this store, and others that wait, in a moment."""
        self._dirty.add(store)
        when = self.loop.now() + seconds
        if self._commit is None or self._commit.when > when:
            self.loop.cancel(self._commit)
            self._commit = self.loop.at(when, self.commit)

    def commit(self) -> None:
        """Make safe what was taken, and acknowledge it."""
        self.loop.cancel(self._commit)
        self._commit = None
        self._taken = 0
        dirty, self._dirty = self._dirty, set()
        now = self.loop.now()
        for store in dirty:
            burden, rests = store.burden, self._resting.get(store, now)
            if burden and rests > now:
                self._soon(store, rests - now)
                continue
            try:
                lanes = store.commit()
                if burden:
                    self._resting[store] = now + burden / BURDEN
            except LedgerError as error:
                self._note(str(error))
                self._soon(store, AGAIN)
                continue
            except CaptureError as error:
                self._fail(store, error)
                continue
            for lane in lanes:
                self._acknowledge(lane)

    def _acknowledge(self, lane: Lane) -> None:
        session = self.tokens.get(lane.token)
        feed = self.feeds.get(session) if session is not None else None
        if feed is None or feed.peer is None or feed.peer.ended:
            return
        feed.session.consumed((lane.stored - 1) % SEQUENCES, self.loop.now())
        feed.peer.flush()

    def _fail(self, store: Store | None, error: KwireError) -> None:
        """The disk failed: its sessions must begin again where the ledger stands."""
        self._note(str(error))
        if store is None:
            return
        store.leave()
        self.stores.discard(store)
        self._dirty.discard(store)
        self._resting.pop(store, None)
        if self._merged is store:
            self._merged = None
        for feed in [feed for feed in self.feeds.values() if feed.store is store]:
            self._forget(feed)
            if feed.peer is not None and not feed.peer.ended:
                self.loop.soon(lambda peer=feed.peer: peer.end(error.cause))  # type: ignore[misc]

    def _end(self, feed: Feed, over: bool) -> None:
        """Close what the session leaves behind; not `over`: a successor may go on with it."""
        store, lane = feed.store, feed.lane
        if store is None or lane is None:
            self._forget(feed)
            known = self._remembered(feed.session.token)
            if over and known is not None and not known.frames:
                self._disregard(known)
            return
        if not store.closed:
            if over:
                store.finish(lane)
            elif not store.merged:
                store.close()
        self._tally(feed)
        self._forget(feed)
        if store.closed:
            self._dirty.discard(store)
            self.stores.discard(store)
            self._resting.pop(store, None)
        else:
            self._soon(store)

    def _disregard(self, lane: Lane) -> None:
        """A session that has ended and delivered nothing need not be remembered."""
        if self._merged is not None and lane.token in self._merged.lanes:
            self._merged.finish(lane)
            self._soon(self._merged)
        elif os.path.exists(self.place.folder.ledger(lane.token)):
            os.unlink(self.place.folder.ledger(lane.token))

    def _forget(self, feed: Feed) -> None:
        feed.ready = False
        self.loop.cancel(feed.timer)
        self.feeds.pop(feed.session, None)
        self.tokens.pop(feed.session.token, None)

    def end_traces(self) -> bool:
        """Ask the agents that we connected to for the end of their traces; whether there are any."""
        asked = False
        for feed in list(self.feeds.values()):
            if feed.origin and feed.peer is not None and feed.session.state is State.ESTABLISHED:
                feed.session.request({"op": "stop"}, self.loop.now())
                feed.peer.flush()
                asked = True
        return asked

    def stop(self) -> None:
        """Make all safe, acknowledge it, give every capture its ending; sessions can be resumed later."""
        self._resting.clear()
        self.commit()
        for feed in list(self.feeds.values()):
            try:
                if feed.store is None or feed.store.merged or feed.store.closed:
                    self._tally(feed)
                    self._forget(feed)
                else:
                    self._end(feed, over=False)
            except (CaptureError, LedgerError) as error:
                self._fail(feed.store, error)
            if feed.peer is not None and not feed.peer.ended:
                feed.peer.detach("the collector stops")
        if self._merged is not None and not self._merged.closed:
            try:
                self._merged.close()
            except (CaptureError, LedgerError) as error:
                self._note(str(error))

    # ------------------------------------------------------------------ after a restart

    def _recover(self) -> None:
        """Captures that a killed collector left get their ending; what comes later goes on with them."""
        if self.place.merged:
            return
        for ledger in self.place.folder.ledgers():
            try:
                store = Store.again(ledger, self.packing, self.place.options)
                store.close()
            except (CaptureError, LedgerError) as error:
                self._note(str(error))

    def _remembered(self, token: bytes) -> Lane | None:
        return next((lane for lane in self._unfinished(token) if lane.token == token), None)

    def _unfinished(self, token: bytes = b"") -> list[Lane]:
        """The lanes that ledgers remember; with `token`, of that session, though it is finished."""
        paths = [self.place.folder.ledger(token)] if token else list(self.place.folder.ledgers())
        lanes = {lane.token: lane for path in paths for lane in Store.lanes_of(path)}
        if self.place.merged:
            lanes |= {lane.token: lane for lane in self._merged_lanes()}
        return [lane for lane in lanes.values() if token or not lane.done]

    def _merged_lanes(self) -> list[Lane]:
        try:
            if self._merged is None and os.path.exists(self.place.folder.ledger_of(self.place.merged)):
                self._open_merged()
        except (CaptureError, LedgerError) as error:
            self._note(str(error))
        return list(self._merged.lanes.values()) if self._merged else []

    # ------------------------------------------------------------------ clocks

    def _ask(self, feed: Feed) -> None:
        up = feed.session.state in (State.ESTABLISHED, State.DRAINING)
        if feed.peer is None or not up or feed.estimator.refused:
            return
        feed.session.request(feed.estimator.ask(), self.loop.now())
        feed.peer.flush()

    def _set_clock(self, feed: Feed) -> None:
        """Put the session's times on our clock, where they are not or it has moved."""
        offset, store, lane = feed.estimator.offset, feed.store, feed.lane
        if not self.place.merged or offset is None or store is None or lane is None or store.closed:
            return
        if lane.anchor is not None and abs(offset.monotonic - feed.anchored) <= max(JUMP, 2 * offset.error):
            return
        feed.anchored = offset.monotonic
        monotonic, wall = self._pair
        note = f"clock of {lane.host}: {described(offset)}, put on that of the collector"
        store.anchor(lane, monotonic - offset.monotonic, wall, note)
        self._soon(store)

    # ------------------------------------------------------------------ what there is to say

    @property
    def events(self) -> int:
        """Events stored."""
        return self.tally.events + sum(store.writer.events for store in self.stores)

    @property
    def lost(self) -> int:
        """Events counted lost."""
        return self.tally.lost + sum(store.writer.lost_events for store in self.stores)

    @property
    def size(self) -> int:
        """Bytes in captures."""
        return self.tally.size + sum(store.writer.size for store in self.stores)

    def _note(self, problem: str) -> None:
        if problem not in self.problems and len(self.problems) < MOST_PROBLEMS:
            self.problems.append(problem)

    def _tally(self, feed: Feed) -> None:
        """Note what is known of a session that ends."""
        if feed.store is not None and feed.lane is not None:
            self.tally.add(feed.address, feed.store, feed.lane, feed.estimator.offset)

    def summary(self) -> dict[str, Any]:
        """Everything collected, by host; call after `stop`."""
        return self.tally.summary() | {"problems": self.problems}
