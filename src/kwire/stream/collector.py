"""The collector: sessions of many agents, each into its capture, or all into one.

The laws: DATA is acknowledged when the storage says that it is safe, never before; what a full disk has no
room for is not acknowledged: it waits here, `MOST_HELD` bytes of all sessions at most, and its agents
keep it; a store that fails takes its own sessions with it and no other, and a source that comes again finds
what its ledger says; who may come is for `kwire.stream.admission` to say; files are made for whoever has sent
events, not for whoever has connected. In a merged capture a session's events wait until its clock is known,
for `PATIENCE` at most. What people should know at once goes through `say`, to agents as REQUESTs: "disk"
(full, or not any more) and "gone" (stored events whose capture was taken away).
"""

import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from kwire.capture.output import CaptureError, FullError, GoneError
from kwire.errors import KwireError
from kwire.stream import clock, storage
from kwire.stream.address import Address
from kwire.stream.admission import Admission
from kwire.stream.feed import TEXT, Feed, Place
from kwire.stream.hosts import Hosts
from kwire.stream.lane import Lane
from kwire.stream.ledger import LedgerError
from kwire.stream.loop import Loop, Timer
from kwire.stream.peer import Ignore, Peer
from kwire.stream.storage import Storage, Told
from kwire.stream.store import SEQUENCES, Payload, Store
from kwire.stream.tally import Tally, told
from kwire.wire.control import Hello, Role
from kwire.wire.happenings import Complained
from kwire.wire.session import Session, Settings, State
from kwire.words import are, plural

MOST_HELD: Final = 64 << 20
"""Bytes that all sessions together may hold here while the disk takes nothing; then they come back later."""

PATIENCE: Final = 2.0
"""Seconds that events of a merged capture wait for the first samples of their clock."""

ENOUGH: Final = 3
"""Samples of a clock that are enough to begin with."""

JUMP: Final = 1_000_000
"""Nanoseconds: a clock offset that moved by more is told in the capture, and counts from there."""

MOST_PROBLEMS: Final = 100

MOST_TOLD: Final = 64
"""Probes of which one REQUEST over datagrams tells what is gone: it must fit one."""


class Collector(Ignore):
    """The handler of all peers, and who chooses their sessions. `finished` is called when a session ends."""

    def __init__(
        self,
        loop: Loop,
        place: Place,
        settings: Settings = Settings(),  # noqa: B008
        finished: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = lambda text: None,
        hosts: Hosts = Hosts(),  # noqa: B008
    ) -> None:
        self.loop = loop
        self.place = place
        self.settings = settings
        self.finished = finished
        self.say = say
        self.admission = Admission(loop.now, hosts)
        self.storage = Storage(
            loop, place, Told(self._acknowledge, self._refused, self._well, self._fail, self._say)
        )
        self.feeds: dict[Session, Feed] = {}
        self.tokens: dict[bytes, Session] = {}
        self.tally = Tally()
        self.problems: list[str] = []
        """What went wrong, each thing once."""
        self.trouble = ""
        """What the disk refuses at present, and why; empty where it does not."""
        self.stopped = False
        """It takes nothing any more."""
        self._held = 0  # bytes that wait for the disk
        self._left: dict[bytes, str] = {}  # tokens of sessions that a failure ended → their address
        self._pair = (time.monotonic_ns(), time.time_ns())
        for store in self.storage.recover():
            for lane in store.lanes.values():
                self.tally.add("", store, lane, None)

    def _say(self, text: str) -> None:
        self.say(text)

    # ------------------------------------------------------------------ who comes

    def choose(self, hello: Hello, identity: str, address: str) -> Session:
        """The session of a HELLO: the one there is, the one a ledger remembers, or a new one."""
        if hello.role is not Role.SOURCE:
            raise KwireError("serve", address, "this is a collector: it takes events and gives none")
        session = self.tokens.get(hello.token)
        if session is not None:
            feed = self.feeds[session]
            self.admission.prove(feed.about, identity, address)
            self.admission.prove_last((session.continued, feed.since), hello, address)
            return session
        if self.admission.rests(hello.token):
            raise KwireError("serve", address, "the collector failed at this session; it may come back soon")
        if self._held >= MOST_HELD:
            raise KwireError("serve", address, self.trouble or "the collector has no room at present")
        try:
            lane = self.storage.remembered(hello.token)
        except LedgerError as error:  # that it cannot be read at present does not mean that it is not known
            raise KwireError("serve", address, f"the collector's disk fails: {error.cause}") from None
        if lane is not None:
            self.admission.prove(lane.about, identity, address)
        if lane is not None and lane.done and self.admission.was_outrun(hello.token):
            lane = None  # then its source begins a new one with what it has not sent
        if lane is not None and lane.continued is not None:
            self.admission.prove_last(lane.continued, hello, address)
        return self._make(identity, address, "", hello.token, lane, address.startswith("udp:"))

    def handler_for(self, session: Session) -> "Collector":
        """One handler serves all."""
        return self

    def fetch(self, address: Address) -> Session:
        """A session with an agent that listens at `address`: one that a ledger remembers, or a new one."""
        origin = str(address)
        for lane in self.storage.unfinished():
            if lane.about.get("origin") == origin and lane.token not in self.tokens:
                return self._make("", origin, origin, lane.token, lane, address.datagrams)
        return self._make("", origin, origin, b"", None, address.datagrams)

    def _make(
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
            continued=lane.continued[0] if lane is not None and lane.continued else None,
        )
        self.feeds[session] = feed = Feed(session, identity, address, origin)
        feed.over = lane is not None and lane.done
        feed.since = lane.continued[1] if lane is not None and lane.continued else 0
        self.tokens[session.token] = session
        return session

    # ------------------------------------------------------------------ what a peer tells

    def established(self, peer: Peer) -> None:
        """Ask for its clock: eight times at first, then now and then."""
        feed = self.feeds[peer.session]
        back = feed.peer is not None
        feed.peer, feed.address, feed.since = peer, peer.address, int(time.time())
        feed.identity = feed.identity or peer.identity
        try:
            self._promise(feed)
        except (CaptureError, LedgerError) as error:
            self._ail(error)
        self._continue(feed)
        if not back:
            known = feed.resumed or peer.session.token in self._left
            self.say(f"{feed.name} {'is back' if known else 'has come'}, from {peer.address}")
        self._ask(feed)
        if feed.held and self.trouble:
            self._request(feed, {"op": "disk", "full": True, "text": self.trouble})
        if feed.origin and not feed.resumed and not feed.asked:
            feed.asked = self._request(feed, {"op": "trace"})

    def delivered(self, peer: Peer, sequence: int, payload: Payload) -> None:
        """Take DATA."""
        feed = self.feeds.get(peer.session)
        if feed is None:
            return
        feed.peer = peer
        if feed.over:
            self._refuse_more(feed, peer)
            return
        if feed.ready:
            self._take(feed, sequence, payload)
        else:
            self._hold(feed, sequence, payload)
            if len(feed.held) == 1:
                self._prepare(feed)

    def _refuse_more(self, feed: Feed, peer: Peer) -> None:
        """More of a session that has ended: its source was copied. From now on the session is not known."""
        why = "the session has ended, and there is more of it: is its spool a copy?"
        if self.admission.outrun(feed.session.token):
            self._note(f"{feed.name}: {why}")
            self.loop.soon(partial(peer.fail, why))

    def _hold(self, feed: Feed, sequence: int, payload: Payload) -> None:
        """Keep what the store cannot have yet. Where too much is kept, the session comes back later."""
        feed.held.append((sequence, bytes(payload)))
        self._held += len(payload)
        if self._held > MOST_HELD:
            peer, why = feed.peer, self.trouble or "the collector has no room at present"
            if peer is not None:
                self.loop.soon(lambda: peer.fail(why))

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
        if number != feed.asking:
            return  # that it knows what we told it
        feed.asking = 0
        if feed.estimator.told(body):
            if feed.estimator.taken < clock.BURST:
                self._ask(feed)
            else:
                self.loop.cancel(feed.timer)
                when = self.loop.now() + clock.INTERVAL
                feed.timer = self.loop.at(when, lambda: peer.do(lambda: self._ask(feed)))
        if feed.held and not feed.ready:
            self._prepare(feed)
        elif feed.ready and feed.estimator.taken >= clock.BURST:
            self._set_clock(feed)

    def complained(self, peer: Peer, problem: object) -> None:
        """Note what is wrong."""
        self.tally.errors += 1
        text = problem.sentence if isinstance(problem, Complained) else f"is in trouble: {problem}"
        self._note(f"{self._name(peer)} {text}")

    def changed(self, peer: Peer, old: State, new: State, why: str) -> None:
        """Say who is lost."""
        feed = self.feeds.get(peer.session)
        if new is State.SUSPENDED and feed is not None and not self.stopped:
            self.say(f"{feed.name} is gone for now: {why}")

    def closed(self, peer: Peer, why: str) -> None:
        """The session has ended, for good or until it is taken up again."""
        feed = self.feeds.get(peer.session)
        if feed is None:
            self.finished()
            return
        feed.peer = peer
        # Where we connect, a session that the agent does not know any more is over too: a new trace begins.
        over = bool(feed.origin) or (peer.session.state is State.CLOSED and not peer.closing)
        over = over and not peer.broken_off
        try:
            self._end(feed, over)
        except Exception as error:
            self._fail(feed.store, error)
            self._forget(feed)
        else:
            if over:
                self.say(f"{feed.name} has ended: {self._what(feed)}")
        self.finished()

    def failed(self, peer: Peer) -> None:
        """We failed at this session: what was not committed of it is not known to be sound. The next time it
        waits longer until it may come back.
        """
        self.admission.failed(peer.session.token)
        feed = self.feeds.get(peer.session)
        if feed is not None:
            self._break(feed.store, [feed], "it failed at this session")

    def _name(self, peer: Peer) -> str:
        feed = self.feeds.get(peer.session)
        return feed.name if feed is not None else peer.address

    def _what(self, feed: Feed) -> str:
        """What there is of a session, in words."""
        if feed.store is None or feed.lane is None:
            return "nothing came"
        balance = feed.store.balance(feed.lane)
        lost = f"{balance.lost:,} lost" if balance.lost else "none lost"
        return f"{plural(balance.stored, 'event')}, {lost}, in {feed.store.path_now}"

    # ------------------------------------------------------------------ storing

    def _prepare(self, feed: Feed, patient: bool = True) -> None:
        """Give what is held to the store if it can be opened; `patient`: and its clock is known."""
        if feed.ready or feed.session not in self.feeds:
            return
        unknown = feed.estimator.taken < ENOUGH and not feed.estimator.refused
        if self.place.merged and unknown and patient and feed.store is None:
            if feed.waiting is None:
                feed.waiting = self._later(feed, PATIENCE)
            return
        try:
            if feed.store is None:
                self._promise(feed)
                self._open(feed)
        except (CaptureError, LedgerError) as error:
            if not self.storage.mend():
                self._ail(error, feed)
            self._later(feed, storage.AGAIN)
            return
        feed.ready = True
        self._set_clock(feed)
        held, feed.held = feed.held, []
        self._held -= sum(len(payload) for _, payload in held)
        for sequence, payload in held:
            if feed.ready:
                self._take(feed, sequence, payload)
            elif feed.session in self.feeds:
                self._hold(feed, sequence, payload)

    def _later(self, feed: Feed, seconds: float) -> Timer:
        """Try again to give what is held to the store."""
        prepare = partial(self._prepare, feed, False)
        peer = feed.peer
        return self.loop.at(self.loop.now() + seconds, prepare if peer is None else lambda: peer.do(prepare))

    def _promise(self, feed: Feed) -> None:
        """Remember the session before the source hears that it is established: it may always be resumed."""
        session = feed.session
        self.tokens[session.token] = session
        if not (self.place.merged and feed.resumed):
            lane = Lane(session.token, feed.about)
            lane.next = session.next_expected
            self._take_over(feed, lane)
            self.storage.promise(lane)

    def _take_over(self, feed: Feed, lane: Lane) -> None:
        """Note whose the session is: from now on it belongs to those that come after this HELLO."""
        if feed.session.continued is not None:
            lane.continued = feed.session.continued, feed.since

    def _continue(self, feed: Feed) -> None:
        """Have it remembered whose the session is. Before more of it is stored that does not matter."""
        if feed.store is not None and feed.lane is not None and not feed.store.closed:
            self._take_over(feed, feed.lane)
            feed.store.touch(feed.lane)
            self.storage.soon(feed.store)

    def _open(self, feed: Feed) -> None:
        """Find the store of a session, or make it."""
        token = feed.session.token
        store, lane = self.storage.open(token, feed.about)
        if store.closed:
            feed.over = True
            raise KwireError("take events", feed.name, "its session has ended")
        feed.store, feed.lane = store, lane
        self._continue(feed)
        self._left.pop(token, None)
        self.tally.forget(token)
        if not store.merged:
            self.say(f"{feed.name} is written to {store.path_now}")
        self._tell_gone(feed)

    def _tell_gone(self, feed: Feed) -> None:
        """Tell the agent of events that were acknowledged, and whose capture is gone."""
        if feed.store is None or feed.lane is None:
            return
        gone = feed.store.gone(feed.lane)
        if not gone:
            return
        events = sum(gone.values())
        self.say(f"{feed.name}: {are(events, 'event')} gone with their capture, counted as lost")
        if feed.session.datagrams:
            gone = dict(list(gone.items())[:MOST_TOLD])
        self._request(feed, {"op": "gone", "events": events, "probes": gone})

    def _request(self, feed: Feed, body: dict[str, Any]) -> int:
        """Ask, or tell, the agent something; 0 where it has not answered too much already."""
        try:
            number = feed.session.request(body, self.loop.now())
        except KwireError:
            return 0
        if feed.peer is not None:
            feed.peer.flush()
        return number

    def _take(self, feed: Feed, sequence: int, payload: Payload) -> None:
        store, lane = feed.store, feed.lane
        assert store is not None  # the feed is ready
        assert lane is not None
        try:
            self.storage.take(store, lane, sequence, payload)
        except FullError as error:
            self._ail(error, feed)
            feed.ready = False
            self._hold(feed, sequence, payload)
            self._later(feed, storage.AGAIN)
            return
        except CaptureError as error:
            self._fail(store, error)
            return
        if lane.complaints:
            for problem in lane.complaints:
                self._note(f"{feed.name} sent what is not sound: {problem}")
            lane.complaints.clear()

    def _acknowledge(self, lane: Lane) -> None:
        session = self.tokens.get(lane.token)
        feed = self.feeds.get(session) if session is not None else None
        if feed is None or feed.peer is None or feed.peer.ended:
            return
        self.admission.went_well(lane.token)
        consumed = partial(feed.session.consumed, (lane.stored - 1) % SEQUENCES, self.loop.now())
        feed.peer.do(consumed)
        feed.peer.flush()

    # ------------------------------------------------------------------ disks that refuse

    def _ail(self, error: KwireError, feed: Feed | None = None) -> None:
        """The disk refuses something: what waits for it is not acknowledged. Say it here and to the agent."""
        text = f"{error}: what comes is not acknowledged until that is over"
        if not self.trouble:
            self.say(text)
        if feed is not None and not feed.told:
            feed.told = True
            if feed.session.state in (State.ESTABLISHED, State.DRAINING):
                self._request(feed, {"op": "disk", "full": True, "text": error.cause})
        self.trouble = error.cause

    def _refused(self, store: Store, error: KwireError) -> None:
        """The disk does not take what the sessions of a store have sent."""
        self._ail(error)
        for feed in [feed for feed in self.feeds.values() if feed.store is store]:
            self._ail(error, feed)

    def _well(self) -> None:
        """Something was made safe: where nothing waits any more, the trouble is over."""
        if self.trouble and not self._held and not self.storage.refused:
            self.trouble = ""
            self.say("the disk takes everything again")
            for feed in list(self.feeds.values()):
                if feed.told:
                    feed.told = False
                    if feed.peer is not None:
                        feed.peer.do(partial(self._request, feed, {"op": "disk", "full": False}))

    def _fail(self, store: Store | None, error: Exception) -> None:
        """A store failed: its sessions must begin again where the ledger stands."""
        if isinstance(error, GoneError):
            self.say(f"{error}; what is gone is counted, and a new capture is begun")
        elif isinstance(error, KwireError):
            self._ail(error)
        else:
            self.loop.contain(error)
        why = error.cause if isinstance(error, KwireError) else "it failed at this session"
        self._break(store, [feed for feed in self.feeds.values() if feed.store is store], why)

    def _break(self, store: Store | None, feeds: list[Feed], why: str) -> None:
        """Leave a store as its ledger knows it, and end its sessions, which may come back."""
        if store is not None:
            self.storage.leave(store)
            feeds = [feed for feed in self.feeds.values() if feed.store is store]
        for feed in feeds:
            self._left[feed.session.token] = feed.address
            self._forget(feed)
            if feed.peer is not None and not feed.peer.ended:
                self.loop.soon(partial(feed.peer.fail, why))

    def _end(self, feed: Feed, over: bool) -> None:
        """Close what the session leaves behind; not `over`: a successor may go on with it."""
        store, lane = feed.store, feed.lane
        if store is None or lane is None:
            self._forget(feed)
            known = self.storage.remembered(feed.session.token)
            if over and known is not None and not known.frames:
                self.storage.disregard(known)
            return
        if not store.closed:
            if over and not feed.held:
                self.storage.finish(store, lane)
            elif not store.merged:
                store.close()
        self._tally(feed)
        self._forget(feed)
        if store.closed:
            self.storage.forget(store)
        else:
            self.storage.soon(store)

    def _forget(self, feed: Feed) -> None:
        feed.ready = False
        self._held -= sum(len(payload) for _, payload in feed.held)
        feed.held = []
        self.loop.cancel(feed.timer)
        self.feeds.pop(feed.session, None)
        self.tokens.pop(feed.session.token, None)

    def end_traces(self) -> bool:
        """Ask the agents that we connected to for the end of their traces; whether there are any."""
        asked = False
        for feed in list(self.feeds.values()):
            if feed.origin and feed.peer is not None and feed.session.state is State.ESTABLISHED:
                feed.peer.do(partial(self._request, feed, {"op": "stop"}))
                asked = True
        return asked

    def stop(self) -> None:
        """Make all safe, acknowledge it, give every capture its ending; sessions can be resumed later."""
        self.stopped = True
        self.look()
        self.storage.commit()
        for feed in list(self.feeds.values()):
            try:
                if feed.store is None or feed.store.merged or feed.store.closed:
                    self._tally(feed)
                    self._forget(feed)
                else:
                    self._end(feed, over=False)
            except Exception as error:
                self._fail(feed.store, error)
            if feed.peer is not None and not feed.peer.ended:
                feed.peer.detach("the collector stops")
        try:
            self._close_merged()
        except (CaptureError, LedgerError) as error:
            self._note(str(error))
        for token, address in self._left.items():
            self._settle(token, address)
        if self.trouble:
            self._note(f"write {self.place.folder.path}: {self.trouble}")

    def _close_merged(self) -> None:
        """Give a merged capture its ending, and say of each session in it what there is now."""
        store = self.storage.close_merged()
        if store is None:
            return
        for lane in store.lanes.values():
            before = self.tally.sessions.get(lane.token, {})
            self.tally.add(before.get("address", ""), store, lane, None, before.get("clock"))

    def _settle(self, token: bytes, address: str) -> None:
        """Give the capture of a session that a failure ended, and that did not come back, its ending."""
        try:
            store = self.storage.settle(token)
            if store is not None:
                for lane in store.lanes.values():
                    self.tally.add(address, store, lane, None)
        except (CaptureError, LedgerError) as error:
            self._note(str(error))

    def look(self) -> None:
        """See what others did to the folder; to be called now and then."""
        self.storage.mend()

    # ------------------------------------------------------------------ clocks

    def _ask(self, feed: Feed) -> None:
        up = feed.session.state in (State.ESTABLISHED, State.DRAINING)
        if feed.peer is None or not up or feed.estimator.refused or feed.asking:
            return  # a question that is not answered is asked again by the session itself
        feed.asking = self._request(feed, feed.estimator.ask())

    def _set_clock(self, feed: Feed) -> None:
        """Put the session's times on our clock, where they are not or it has moved."""
        offset, store, lane = feed.estimator.offset, feed.store, feed.lane
        if not self.place.merged or offset is None or store is None or lane is None or store.closed:
            return
        if lane.anchor is not None and abs(offset.monotonic - feed.anchored) <= max(JUMP, 2 * offset.error):
            return
        feed.anchored = offset.monotonic
        monotonic, wall = self._pair
        note = f"clock of {lane.host}: {told(offset)}, put on that of the collector"
        store.anchor(lane, monotonic - offset.monotonic, wall, note)
        self.storage.soon(store)

    # ------------------------------------------------------------------ what there is to say

    @property
    def events(self) -> int:
        """Events stored."""
        return self.tally.events + sum(store.writer.events for store in self.storage.stores)

    @property
    def lost(self) -> int:
        """Events counted lost."""
        return self.tally.lost + sum(store.writer.lost_events for store in self.storage.stores)

    @property
    def size(self) -> int:
        """Bytes in captures."""
        return self.tally.size + sum(store.writer.size for store in self.storage.stores)

    def _note(self, problem: str) -> None:
        if problem not in self.problems:
            self.say(problem)
            if len(self.problems) < MOST_PROBLEMS:
                self.problems.append(problem)

    def _tally(self, feed: Feed) -> None:
        """Note what is known of a session that ends."""
        if feed.store is not None and feed.lane is not None:
            self.tally.add(feed.address, feed.store, feed.lane, feed.estimator.offset)

    def summary(self) -> dict[str, Any]:
        """Everything collected, by host; call after `stop`."""
        return self.tally.summary() | {"problems": self.problems}
