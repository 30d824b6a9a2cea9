"""The collector: sessions of many agents, each into its capture, or all into one.

Invariants: DATA is acknowledged when the storage says that it is safe, never before; what a full disk has no
room for is not acknowledged: it waits here, `MOST_HELD` bytes of all sessions at most, and its agents
keep it; a store that fails takes its own sessions with it and no other, and a source that comes again finds
what its checkpoint says; who may come is for `kwire.collector.admission` to say; files are made for whoever
has sent events, not for whoever has connected. In a merged capture a session's events wait until its clock is
known, for `PATIENCE` at most. What people should know at once goes through `say`, to agents as REQUESTs:
"disk" (full, or not any more) and "gone" (stored events whose capture was taken away).
"""

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, Protocol

from kwire.capture.output import CaptureError, FullError, GoneError
from kwire.collector import storage
from kwire.collector.admission import Admission
from kwire.collector.checkpoint import CheckpointError, NoCheckpointError
from kwire.collector.collected_session import TEXT, CaptureTarget, CollectedSession, about_of
from kwire.collector.session_statistics import SessionStatistics, in_words, told
from kwire.collector.storage import Storage, StorageListener
from kwire.collector.store import SEQUENCES, Payload, Store
from kwire.collector.stored_session import StoredSession
from kwire.errors import KwireError
from kwire.transport import clock
from kwire.transport.address import Address
from kwire.transport.hosts import Hosts
from kwire.transport.log_events import Log
from kwire.transport.loop import Loop, Timer
from kwire.transport.peer import Handler, Peer
from kwire.wire.control import Hello, Role
from kwire.wire.session import Session, Settings, State
from kwire.wire.transitions import Complained
from kwire.words import are

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


class Intake(Protocol):
    """What takes sessions from elsewhere, into the same storage."""

    def safe(self, stored_session: StoredSession) -> None:
        """More of a session is safe; it may be another's."""

    def failed(self, store: Store) -> None:
        """A store was left as its checkpoint knows it."""

    def stop(self) -> None:
        """Take nothing more, and give captures their ending."""

    @property
    def begun(self) -> int:
        """Sessions of which something is stored here."""

    @property
    def pending(self) -> int | None:
        """Messages at the broker that nobody has acknowledged, as it said last; None: it has not."""

    @property
    def open(self) -> int:
        """Those that have not ended."""


class Collector(Handler):
    """The handler of all peers, and who chooses their sessions. `finished` is called when a session ends."""

    def __init__(
        self,
        loop: Loop,
        place: CaptureTarget,
        settings: Settings = Settings(),  # noqa: B008
        finished: Callable[[], None] = lambda: None,
        say: Log = lambda text, event="note", /: None,
        hosts: Hosts = Hosts(),  # noqa: B008
    ) -> None:
        self.loop = loop
        self.place = place
        self.settings = settings
        self.finished = finished
        self.say = say
        self.admission = Admission(loop.now, hosts)
        self.storage = Storage(
            loop, place, StorageListener(self._acknowledge, self._refused, self._well, self.fail, self._say)
        )
        self.collected_sessions: dict[Session, CollectedSession] = {}
        self.tokens: dict[bytes, Session] = {}
        self.tally = SessionStatistics()
        self.problems: list[str] = []
        """What went wrong, each thing once."""
        self.trouble = ""
        """What the disk refuses at present, and why; empty where it does not."""
        self.stopped = False
        """It takes nothing any more."""
        self.intake: Intake | None = None
        """Takes sessions from a broker too."""
        self.begun = 0
        """Sessions begun here."""
        self.reconnects = 0
        """Connections after the first of each session."""
        self._held = 0  # bytes that wait for the disk
        self._left: dict[bytes, str] = {}  # tokens of sessions that a failure ended → their address
        self._passed_over: set[bytes] = set()  # of those that have ended, which the disk has not taken yet
        self._pair = (time.monotonic_ns(), time.time_ns())
        for store in self.storage.recover():
            for stored_session in store.stored_sessions.values():
                self.tally.add("", store, stored_session, None)

    def _say(self, text: str, event: str = "note", /) -> None:
        self.say(text, event)

    # ------------------------------------------------------------------ who comes

    def choose(self, hello: Hello, identity: str, address: str) -> Session:
        """The session of a HELLO: the one there is, the one a checkpoint remembers, or a new one."""
        if hello.role is not Role.SOURCE:
            raise KwireError("serve", address, "this is a collector: it takes events and gives none")
        session = self.tokens.get(hello.token)
        if session is not None:
            collected_session = self.collected_sessions[session]
            self.admission.prove(collected_session.about, identity, address)
            self.admission.prove_last((session.continued, collected_session.since), hello, address)
            return session
        if self.admission.rests(hello.token):
            raise KwireError("serve", address, "the collector failed at this session; it may come back soon")
        if self._held >= MOST_HELD:
            raise KwireError("serve", address, self.trouble or "the collector has no room at present")
        try:
            stored_session = self.storage.remembered(hello.token)
        except (
            CheckpointError
        ) as error:  # that it cannot be read at present does not mean that it is not known
            raise KwireError("serve", address, f"the collector's disk fails: {error.cause}") from None
        if stored_session is not None:
            self.admission.prove(stored_session.about, identity, address)
        if stored_session is not None and stored_session.done and self.admission.was_outrun(hello.token):
            stored_session = None  # then its source begins a new one with what it has not sent
        if stored_session is not None and stored_session.continued is not None:
            self.admission.prove_last(stored_session.continued, hello, address)
        if stored_session is None and not hello.resume:
            self._promise_new(hello, identity, address)
        return self._make(identity, address, "", hello.token, stored_session, address.startswith("udp:"))

    def _promise_new(self, hello: Hello, identity: str, address: str) -> None:
        """Remember a session that begins, before its source hears that it has one: it could never resume it
        at a collector after us. KwireError where the disk does not take that: it comes again.
        """
        new = StoredSession(hello.token, about_of(hello.about, identity, "", address))
        new.next, new.continued = hello.next, (hello.nonce, int(time.time()))
        try:
            self.storage.promise(new, begun=False)
        except CheckpointError as error:
            self.ail(error)
            raise KwireError("serve", address, f"the collector's disk takes nothing: {error.cause}") from None

    def handler_for(self, session: Session) -> "Collector":
        """The handler of a session: the collector itself, for all."""
        return self

    def fetch(self, address: Address) -> Session:
        """A session with an agent that listens at `address`: one that a checkpoint remembers, or a new
        one.
        """  # fmt: skip
        origin = str(address)
        for stored_session in self.storage.unfinished():
            if stored_session.token in self.tokens or stored_session.token in self._passed_over:
                continue
            if stored_session.about.get("origin") == origin:
                return self._make("", origin, origin, stored_session.token, stored_session, address.datagrams)
        return self._make("", origin, origin, b"", None, address.datagrams)

    def _make(
        self,
        identity: str,
        address: str,
        origin: str,
        token: bytes,
        stored_session: StoredSession | None,
        datagrams: bool,
    ) -> Session:
        session = Session(
            Role.SINK,
            initiator=bool(origin),
            datagrams=datagrams,
            settings=self.settings,
            token=token,
            about={"host": os.uname().nodename, "tool": "kwire collect"},
            next_expected=stored_session.next if stored_session else 0,
            resume=stored_session is not None,
            continued=stored_session.continued[0]
            if stored_session is not None and stored_session.continued
            else None,
        )
        self.collected_sessions[session] = collected_session = CollectedSession(
            session, identity, address, origin
        )
        collected_session.over = stored_session is not None and stored_session.done
        collected_session.begun = stored_session is not None and stored_session.frames > 0
        collected_session.since = (
            stored_session.continued[1] if stored_session is not None and stored_session.continued else 0
        )
        self.tokens[session.token] = session
        self.begun += stored_session is None
        return session

    # ------------------------------------------------------------------ what a peer tells

    def established(self, peer: Peer) -> None:
        """Take a session up: that of which some is stored at once, with its capture. Ask for its clock: eight
        times at first, then now and then.
        """
        collected_session = self.collected_sessions[peer.session]
        back = collected_session.peer is not None
        collected_session.peer, collected_session.address, collected_session.since = (
            peer,
            peer.address,
            int(time.time()),
        )
        collected_session.identity = collected_session.identity or peer.identity
        try:
            self._promise(collected_session)
        except NoCheckpointError as error:
            self._disown(collected_session, error)
            return
        except (CaptureError, CheckpointError) as error:
            self.ail(error)
        self._continue(collected_session)
        if collected_session.begun and collected_session.store is None and not collected_session.over:
            self._prepare(collected_session)
        self.reconnects += back or collected_session.resumed
        if not back:
            known = collected_session.resumed or peer.session.token in self._left
            come, event = ("is back", "session_back") if known else ("has come", "session_begun")
            self.say(f"{collected_session.name} {come}, from {peer.address}", event)
        self._ask(collected_session)
        if collected_session.held and self.trouble:
            self._request(collected_session, {"op": "disk", "full": True, "text": self.trouble})
        if collected_session.origin and not collected_session.resumed and not collected_session.asked:
            collected_session.asked = self._request(collected_session, {"op": "trace"})

    def delivered(self, peer: Peer, sequence: int, payload: Payload) -> None:
        """Take DATA."""
        collected_session = self.collected_sessions.get(peer.session)
        if collected_session is None:
            return
        collected_session.peer = peer
        if collected_session.over:
            self._refuse_more(collected_session, peer)
            return
        if collected_session.ready:
            self._take(collected_session, sequence, payload)
        else:
            self._hold(collected_session, sequence, payload)
            if len(collected_session.held) == 1:
                self._prepare(collected_session)

    def _refuse_more(self, collected_session: CollectedSession, peer: Peer) -> None:
        """More of a session that has ended: its source was copied. From now on the session is not known."""
        why = "the session has ended, and there is more of it: is its spool a copy?"
        if self.admission.outrun(collected_session.session.token):
            self.note(f"{collected_session.name}: {why}", "peer")
            self.loop.soon(partial(peer.fail, why))

    def _hold(self, collected_session: CollectedSession, sequence: int, payload: Payload) -> None:
        """Keep what the store cannot have yet. Where too much is kept, the session comes back later."""
        collected_session.held.append((sequence, bytes(payload)))
        self._held += len(payload)
        if self._held > MOST_HELD:
            peer, why = collected_session.peer, self.trouble or "the collector has no room at present"
            if peer is not None:
                self.loop.soon(lambda: peer.fail(why))

    def requested(self, peer: Peer, number: int, body: Mapping[str, Any]) -> None:
        """Answer `clock`; take what an agent that we connected to tells; refuse every other request."""
        operation = body.get("op")
        if operation == clock.OP:
            reply = clock.answer()
        elif operation in ("ended", "join"):  # more probes are more SCHEMAs
            reply = {"ok": True}
        else:
            cause = "this is a collector"
            reply = {"error": {"cause": cause, "text": cause}}
        peer.session.reply(number, reply, self.loop.now())

    def replied(self, peer: Peer, number: int, body: Mapping[str, Any]) -> None:
        """The clock, or that a trace has begun, or not."""
        collected_session = self.collected_sessions.get(peer.session)
        if collected_session is None:
            return
        if number == collected_session.asked:
            error = body.get("error")
            if error is not None:
                text = error.get("text") if isinstance(error, dict) else error
                self.note(f"{collected_session.address}: {str(text)[:TEXT]}", "refused")
                peer.close("nothing to collect")
            return
        if number != collected_session.asking:
            return  # that it knows what we told it
        collected_session.asking = 0
        if collected_session.estimator.told(body):
            if collected_session.estimator.taken < clock.BURST:
                self._ask(collected_session)
            else:
                self.loop.cancel(collected_session.timer)
                when = self.loop.now() + clock.INTERVAL
                collected_session.timer = self.loop.at(
                    when, lambda: peer.do(lambda: self._ask(collected_session))
                )
        if collected_session.held and not collected_session.ready:
            self._prepare(collected_session)
        elif collected_session.ready and collected_session.estimator.taken >= clock.BURST:
            self._set_clock(collected_session)

    def complained(self, peer: Peer, problem: object) -> None:
        """Note what is wrong."""
        self.tally.errors += 1
        text = problem.sentence if isinstance(problem, Complained) else f"is in trouble: {problem}"
        self.note(f"{self._name(peer)} {text}", "peer")

    def changed(self, peer: Peer, old: State, new: State, why: str) -> None:
        """Say when a connection is lost."""
        collected_session = self.collected_sessions.get(peer.session)
        if new is State.SUSPENDED and collected_session is not None and not self.stopped:
            self.say(f"{collected_session.name} is gone for now: {why}", "session_lost")
        self.finished()

    def closed(self, peer: Peer, why: str) -> None:
        """The session has ended, for good or until it is taken up again."""
        collected_session = self.collected_sessions.get(peer.session)
        if collected_session is None:
            self.finished()
            return
        collected_session.peer = peer
        # Where we connect, a session that the agent does not know any more is over too: a new trace begins.
        over = bool(collected_session.origin) or (peer.session.state is State.CLOSED and not peer.closing)
        over = over and not peer.broken_off
        try:
            self._end(collected_session, over)
        except Exception as error:
            self.fail(collected_session.store, error)
            self._forget(collected_session)
            if over and isinstance(error, GoneError):  # its source does not come back: it is counted now
                self._settle(peer.session.token, collected_session.address)
        else:
            if over:
                self.say(
                    f"{collected_session.name} has ended: {self._what(collected_session)}", "session_ended"
                )
        self.finished()

    def unwanted(self, session: Session) -> None:
        """Take back what was made for a HELLO that is refused; what a checkpoint knew before stays."""
        collected_session = self.collected_sessions.get(session)
        if collected_session is None or collected_session.peer is not None or collected_session.origin:
            return
        self._forget(collected_session)
        if not collected_session.resumed:
            self.begun -= 1
            with contextlib.suppress(CheckpointError):  # then it is remembered a while
                self._disregard(session.token)

    def _disregard(self, token: bytes) -> bool:
        """Forget what a checkpoint remembers of a session that has delivered nothing; whether it was so."""
        known = self.storage.remembered(token)
        if known is None or known.frames:
            return False
        self.storage.disregard(known)
        return True

    def failed(self, peer: Peer) -> None:
        """We failed at this session: what was not committed of it is not known to be sound. The next time it
        waits longer until it may come back.
        """
        self.admission.failed(peer.session.token)
        collected_session = self.collected_sessions.get(peer.session)
        if collected_session is not None:
            self._break(collected_session.store, [collected_session], "it failed at this session")

    def _name(self, peer: Peer) -> str:
        collected_session = self.collected_sessions.get(peer.session)
        return collected_session.name if collected_session is not None else peer.address

    def _what(self, collected_session: CollectedSession) -> str:
        """What there is of a session, in words."""
        if collected_session.store is None or collected_session.stored_session is None:
            return "nothing came"
        return in_words(collected_session.store, collected_session.stored_session)

    # ------------------------------------------------------------------ storing

    def _prepare(self, collected_session: CollectedSession, patient: bool = True) -> None:
        """Give what is held to the store if it can be opened; `patient`: and its clock is known."""
        if collected_session.ready or collected_session.session not in self.collected_sessions:
            return
        unknown = collected_session.estimator.taken < ENOUGH and not collected_session.estimator.refused
        if self.place.merged and unknown and patient and collected_session.store is None:
            if collected_session.waiting is None:
                collected_session.waiting = self._later(collected_session, PATIENCE)
            return
        try:
            if collected_session.store is None:
                self._promise(collected_session)
                self._open(collected_session)
        except NoCheckpointError as error:
            self._disown(collected_session, error)
            return
        except (CaptureError, CheckpointError) as error:
            if not self.storage.mend():
                self.ail(error, collected_session)
            self._later(collected_session, storage.AGAIN)
            return
        collected_session.ready = True
        self._set_clock(collected_session)
        held, collected_session.held = collected_session.held, []
        self._held -= sum(len(payload) for _, payload in held)
        for sequence, payload in held:
            if collected_session.ready:
                self._take(collected_session, sequence, payload)
            elif collected_session.session in self.collected_sessions:
                self._hold(collected_session, sequence, payload)

    def _later(self, collected_session: CollectedSession, seconds: float) -> Timer:
        """Try again to give what is held to the store."""
        prepare = partial(self._prepare, collected_session, False)
        peer = collected_session.peer
        return self.loop.at(self.loop.now() + seconds, prepare if peer is None else lambda: peer.do(prepare))

    def _promise(self, collected_session: CollectedSession) -> None:
        """Remember the session before the source hears that it is established: it may always be resumed."""
        session = collected_session.session
        self.tokens[session.token] = session
        if not collected_session.over and not (self.place.merged and collected_session.resumed):
            stored_session = StoredSession(session.token, collected_session.about)
            stored_session.next = session.next_expected
            self._take_over(collected_session, stored_session)
            self.storage.promise(stored_session, collected_session.begun)

    def _disown(self, collected_session: CollectedSession, error: NoCheckpointError) -> None:
        """What was known of a session is gone: it is not known to us any more, and its source begins anew."""
        self.note(str(error))
        self._break(None, [collected_session], error.cause)

    def _take_over(self, collected_session: CollectedSession, stored_session: StoredSession) -> None:
        """Note to whom the session belongs: to the sources whose HELLOs come after this one."""
        if collected_session.session.continued is not None:
            stored_session.continued = collected_session.session.continued, collected_session.since

    def _continue(self, collected_session: CollectedSession) -> None:
        """Write down to whom the session belongs, before more of it is stored."""
        if (
            collected_session.store is not None
            and collected_session.stored_session is not None
            and not collected_session.store.closed
        ):
            self._take_over(collected_session, collected_session.stored_session)
            collected_session.store.touch(collected_session.stored_session)
            self.storage.soon(collected_session.store)

    def _open(self, collected_session: CollectedSession) -> None:
        """Find the store of a session, or make it."""
        token = collected_session.session.token
        store, stored_session = self.storage.open(token, collected_session.about)
        if store.closed:
            collected_session.over = True
            raise KwireError("take events", collected_session.name, "its session has ended")
        collected_session.store, collected_session.stored_session = store, stored_session
        self._continue(collected_session)
        self._left.pop(token, None)
        self.tally.forget(token)
        if not store.merged:
            self.say(f"{collected_session.name} is written to {store.path_now}", "capture")
        self._tell_gone(collected_session)

    def _tell_gone(self, collected_session: CollectedSession) -> None:
        """Tell the agent of events that were acknowledged, and whose capture is gone."""
        if collected_session.store is None or collected_session.stored_session is None:
            return
        gone = collected_session.store.gone(collected_session.stored_session)
        if not gone:
            return
        events = sum(gone.values())
        gone_with = f"{are(events, 'event')} gone with their capture, counted as lost"
        self.say(f"{collected_session.name}: {gone_with}", "events_lost")
        if collected_session.session.datagrams:
            gone = dict(list(gone.items())[:MOST_TOLD])
        self._request(collected_session, {"op": "gone", "events": events, "probes": gone})

    def _request(self, collected_session: CollectedSession, body: dict[str, Any]) -> int:
        """Ask, or tell, the agent something; 0 where it has not answered too much already."""
        try:
            number = collected_session.session.request(body, self.loop.now())
        except KwireError:
            return 0
        if collected_session.peer is not None:
            collected_session.peer.flush()
        return number

    def _take(self, collected_session: CollectedSession, sequence: int, payload: Payload) -> None:
        store, stored_session = collected_session.store, collected_session.stored_session
        assert store is not None  # the collected session is ready
        assert stored_session is not None
        try:
            self.storage.take(store, stored_session, sequence, payload)
        except FullError as error:
            self.ail(error, collected_session)
            collected_session.ready = False
            self._hold(collected_session, sequence, payload)
            self._later(collected_session, storage.AGAIN)
            return
        except CaptureError as error:
            self.fail(store, error)
            return
        if stored_session.complaints:
            for problem in stored_session.complaints:
                self.note(f"{collected_session.name} sent what is not sound: {problem}", "peer")
            stored_session.complaints.clear()

    def _acknowledge(self, stored_session: StoredSession) -> None:
        session = self.tokens.get(stored_session.token)
        collected_session = self.collected_sessions.get(session) if session is not None else None
        if collected_session is None and self.intake is not None:
            self.intake.safe(stored_session)
        if collected_session is None or collected_session.peer is None or collected_session.peer.ended:
            return
        self.admission.went_well(stored_session.token)
        consumed = partial(
            collected_session.session.consumed, (stored_session.stored - 1) % SEQUENCES, self.loop.now()
        )
        collected_session.peer.do(consumed)
        collected_session.peer.flush()

    # ------------------------------------------------------------------ disks that refuse

    def ail(self, error: KwireError, collected_session: CollectedSession | None = None) -> None:
        """The disk refuses something: what waits for it is not acknowledged. Say it here and to the agent."""
        text = f"{error}: what comes is not acknowledged until that is over"
        if not self.trouble:
            self.say(text, "disk")
        if collected_session is not None and not collected_session.told:
            collected_session.told = True
            if collected_session.session.state in (State.ESTABLISHED, State.DRAINING):
                self._request(collected_session, {"op": "disk", "full": True, "text": error.cause})
        self.trouble = error.cause

    def _refused(self, store: Store, error: KwireError) -> None:
        """The disk does not take what the sessions of a store have sent."""
        self.ail(error)
        for collected_session in [
            collected_session
            for collected_session in self.collected_sessions.values()
            if collected_session.store is store
        ]:
            self.ail(error, collected_session)

    def _well(self) -> None:
        """Something was made safe: where nothing waits any more, the trouble is over."""
        if self.trouble and not self._held and not self.storage.refused:
            self.trouble = ""
            self.say("the disk takes everything again", "disk_well")
            for collected_session in list(self.collected_sessions.values()):
                if collected_session.told:
                    collected_session.told = False
                    if collected_session.peer is not None:
                        collected_session.peer.do(
                            partial(self._request, collected_session, {"op": "disk", "full": False})
                        )

    def fail(self, store: Store | None, error: Exception) -> None:
        """A store failed: its sessions must begin again where the checkpoint stands."""
        if isinstance(error, GoneError):
            self.say(f"{error}; what is gone is counted, and a new capture is begun", "events_lost")
        elif isinstance(error, KwireError):
            self.ail(error)
        else:
            self.loop.contain(error)
        why = error.cause if isinstance(error, KwireError) else "it failed at this session"
        self._break(
            store,
            [
                collected_session
                for collected_session in self.collected_sessions.values()
                if collected_session.store is store and store is not None
            ],
            why,
        )

    def _break(self, store: Store | None, collected_sessions: list[CollectedSession], why: str) -> None:
        """Leave a store as its checkpoint knows it, and end its sessions, which may come back."""
        if store is not None:
            self.storage.leave(store)
            if self.intake is not None:
                self.intake.failed(store)
            collected_sessions = [
                collected_session
                for collected_session in self.collected_sessions.values()
                if collected_session.store is store
            ]
        for collected_session in collected_sessions:
            self._left[collected_session.session.token] = collected_session.address
            self._forget(collected_session)
            if collected_session.peer is not None and not collected_session.peer.ended:
                self.loop.soon(partial(collected_session.peer.fail, why))

    def _end(self, collected_session: CollectedSession, over: bool) -> None:
        """Close what the session leaves behind; not `over`: a successor may go on with it."""
        store, stored_session = collected_session.store, collected_session.stored_session
        if store is None or stored_session is None:
            self._forget(collected_session)
            if over and not self._disregard(collected_session.session.token) and collected_session.origin:
                self._finish_before(collected_session)
            return
        if not store.closed:
            if over and not collected_session.held:
                self.storage.finish(store, stored_session)
            elif not store.merged:
                store.close()
        self._tally(collected_session)
        self._forget(collected_session)
        if store.closed:
            self.storage.forget(store)
        else:
            self.storage.soon(store)

    def _finish_before(self, collected_session: CollectedSession) -> None:
        """An agent that listens was begun anew since a collector before us had its session, which is over
        then: the next one is new, also at later collectors. Where the disk does not take that, at this one.
        """
        token, store = collected_session.session.token, None
        try:
            known = self.storage.remembered(token)
            if known is None:
                return
            store, stored_session = self.storage.open(token, known.about)
            self.storage.finish(store, stored_session)
        except (CaptureError, CheckpointError) as error:
            self.fail(store, error)
            self._passed_over.add(token)
            return
        collected_session.store, collected_session.stored_session = store, stored_session  # for what is said
        if store.closed:
            self.storage.forget(store)
        else:
            self.storage.soon(store)

    def _forget(self, collected_session: CollectedSession) -> None:
        collected_session.ready = False
        self._held -= sum(len(payload) for _, payload in collected_session.held)
        collected_session.held = []
        self.loop.cancel(collected_session.timer)
        self.collected_sessions.pop(collected_session.session, None)
        self.tokens.pop(collected_session.session.token, None)

    def end_traces(self) -> None:
        """Ask the agents that we connected to for the end of their traces."""
        for collected_session in list(self.collected_sessions.values()):
            if (
                collected_session.origin
                and collected_session.peer is not None
                and collected_session.session.state is State.ESTABLISHED
            ):
                collected_session.peer.do(partial(self._request, collected_session, {"op": "stop"}))

    def has_traces(self) -> bool:
        """Whether agents that we connected to have traces that have not ended."""
        return any(
            collected_session.origin
            and collected_session.peer is not None
            and not collected_session.peer.ended
            and collected_session.session.state in (State.ESTABLISHED, State.DRAINING)
            for collected_session in self.collected_sessions.values()
        )

    def stop(self) -> None:
        """Make all safe, acknowledge it, give every capture its ending; sessions can be resumed later."""
        self.stopped = True
        self.look()
        if self.intake is not None:
            self.intake.stop()
        self.storage.commit()
        for collected_session in list(self.collected_sessions.values()):
            try:
                if (
                    collected_session.store is None
                    or collected_session.store.merged
                    or collected_session.store.closed
                ):
                    self._tally(collected_session)
                    self._forget(collected_session)
                else:
                    self._end(collected_session, over=False)
            except Exception as error:
                self.fail(collected_session.store, error)
            if collected_session.peer is not None and not collected_session.peer.ended:
                collected_session.peer.detach("the collector stops")
        try:
            self._close_merged()
        except (CaptureError, CheckpointError) as error:
            self.note(str(error))
        except Exception as error:
            self.loop.contain(error)
        for token, address in self._left.items():
            self._settle(token, address)
        if self.trouble:
            self.note(f"write {self.place.folder.path}: {self.trouble}")

    def _close_merged(self) -> None:
        """Give a merged capture its ending, and say of each session in it what there is now."""
        store = self.storage.close_merged()
        if store is None:
            return
        for stored_session in store.stored_sessions.values():
            before = self.tally.sessions.get(stored_session.token, {})
            self.tally.add(before.get("address", ""), store, stored_session, None, before.get("clock"))

    def _settle(self, token: bytes, address: str) -> None:
        """Give the capture of a session that a failure ended, and that did not come back, its ending."""
        try:
            store = self.storage.settle(token)
            if store is not None:
                for stored_session in store.stored_sessions.values():
                    self.tally.add(address, store, stored_session, None)
        except (CaptureError, CheckpointError) as error:
            self.note(str(error))
        except Exception as error:
            self.loop.contain(error)

    def look(self) -> None:
        """Look for what others did to the folder and its captures, and for rotations whose time has come;
        called now and then.
        """
        self.storage.mend()
        self.storage.turn()

    # ------------------------------------------------------------------ clocks

    def _ask(self, collected_session: CollectedSession) -> None:
        up = collected_session.session.state in (State.ESTABLISHED, State.DRAINING)
        if (
            collected_session.peer is None
            or not up
            or collected_session.estimator.refused
            or collected_session.asking
        ):
            return  # a question that is not answered is asked again by the session itself
        collected_session.asking = self._request(collected_session, collected_session.estimator.ask())

    def _set_clock(self, collected_session: CollectedSession) -> None:
        """Put the session's times on our clock, where they are not or it has moved."""
        offset, store, stored_session = (
            collected_session.estimator.offset,
            collected_session.store,
            collected_session.stored_session,
        )
        if not self.place.merged or offset is None or store is None or stored_session is None or store.closed:
            return
        if stored_session.anchor is not None and abs(offset.monotonic - collected_session.anchored) <= max(
            JUMP, 2 * offset.error
        ):
            return
        collected_session.anchored = offset.monotonic
        monotonic, wall = self._pair
        note = f"clock of {stored_session.host}: {told(offset)}, put on that of the collector"
        store.anchor(stored_session, monotonic - offset.monotonic, wall, note)
        self.storage.soon(store)

    # ------------------------------------------------------------------ what there is to say

    @property
    def held(self) -> int:
        """Bytes that came and wait for the disk, or for a clock."""
        return self._held

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

    def note(self, problem: str, event: str = "disk") -> None:
        """Say what went wrong; keep it for the summary, each thing once."""
        self.say(problem, event)
        if problem not in self.problems and len(self.problems) < MOST_PROBLEMS:
            self.problems.append(problem)

    def _tally(self, collected_session: CollectedSession) -> None:
        """Note what is known of a session that ends."""
        if collected_session.store is not None and collected_session.stored_session is not None:
            self.tally.add(
                collected_session.address,
                collected_session.store,
                collected_session.stored_session,
                collected_session.estimator.offset,
            )

    def summary(self) -> dict[str, Any]:
        """Everything collected, by host; call after `stop`."""
        return self.tally.summary() | {"problems": self.problems}
