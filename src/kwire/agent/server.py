"""The server of an agent that listens: sessions with clients on one side, trace processes on the other.

Invariants: a client has one trace at most, and what the policy grants it; its session may be taken up again
while its trace process goes on, whose events wait here meanwhile, in bounded memory; when the session ends so
does the trace process, and the other way round; whatever one client does, the others are served.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

from kwire.agent import requests
from kwire.agent.channel import Channel
from kwire.agent.policy import Policy
from kwire.agent.source import events_in
from kwire.agent.trace_process import Launcher
from kwire.capture import walk
from kwire.errors import KwireError
from kwire.transport import clock
from kwire.transport.log_events import Log
from kwire.transport.loop import READ, WRITE, Loop
from kwire.transport.peer import Handler, Peer
from kwire.wire.control import Hello
from kwire.wire.frame import MASK, Type
from kwire.wire.frames import Frames
from kwire.wire.messages import losses_in
from kwire.wire.session import Complained, Role, Session, Settings, State
from kwire.words import plural

MOST_COUNTED: Final = 1 << 12
"""Probes whose events are counted fast."""

ENDING: Final = 10.0
"""Seconds that the traces have to end when the agent is stopped."""


class Client(Handler):
    """One session and its trace process, if it has one."""

    def __init__(self, server: "Server", identity: str, address: str) -> None:
        self.peer: Peer | None = None
        self.name = f"client {address}"
        """What people call it."""
        self.trace_process: Channel | None = None
        self.lost = 0
        """Events that it will not get; known when the server is closed."""
        self._server = server
        self.who = identity, address
        """Who it is, as a policy names it."""
        self.listed = False
        """Its trace is of the probes that the agent lists."""
        self._has: tuple[str, ...] = ()  # which these are
        self._wants: tuple[str, ...] = ()  # and are to be
        self._aim: tuple[str, ...] = ()  # and are to be after the change that is under way
        self._counts = False  # its trace is of so many events, to which none of others join
        self._asking = 0  # the number of the REQUEST whether more may join
        self._changing = False
        self._number = 0  # of the REQUEST that the trace process answers
        self._traces = False
        self._held: list[bytes] = []  # payloads that found no room
        self._paused = False
        self._ended: dict[str, Any] | None = None

    # ------------------------------------------------------------------ the session

    def established(self, peer: Peer) -> None:
        """The client is there, or there again."""
        self.name = f"client {peer.identity} at {peer.address}" if peer.identity else f"client {peer.address}"
        if self.peer is None:
            self._server.say(f"{self.name} has come", "session_begun")
        else:
            self._server.say(f"{self.name} is back", "session_back")
        self.peer = peer

    def requested(self, peer: Peer, number: int, body: Mapping[str, Any]) -> None:
        """What the trace process must do is its matter; the rest is answered at once."""
        self.peer = peer
        now = self._server.loop.now()
        try:
            operation = requests.operation_of(body)
            if operation == "clock":
                peer.session.reply(number, clock.answer(), now)
            elif operation == "stop":
                self.stop()
                peer.session.reply(number, {"ok": True}, now)
            elif operation in ("trace", "probes"):
                self._begin(number, operation, body, peer.session.settings.data_size)
            else:
                cause = "this is an agent"
                raise requests.RequestError("answer request", operation, cause, "a collector is told of it")
        except KwireError as error:
            peer.session.reply(number, requests.failed(error), now)

    def writable(self, peer: Peer) -> None:
        """There is room again."""
        self._go_on()

    def complained(self, peer: Peer, problem: object) -> None:
        """The client broke the protocol, or says that we did."""
        text = problem.sentence if isinstance(problem, Complained) else f"is in trouble: {problem}"
        self._server.say(f"{self.name} {text}", "peer")

    def changed(self, peer: Peer, old: State, new: State, why: str) -> None:
        """The connection is lost: the client may come back."""
        if new is State.SUSPENDED:
            self._server.say(f"{self.name} is gone for now: {why}", "session_lost")

    def closed(self, peer: Peer, why: str) -> None:
        """The client has gone: so goes the trace process."""
        if self.peer is not None:
            self._server.say(f"{self.name} has ended: {why}", "session_ended")
        self._drop()
        self._server.forget(self)

    def unwanted(self, session: Session) -> None:
        """It may not come: nothing is left of one that was never there."""
        if self.peer is None:
            self._server.sessions -= 1
            self._server.forget(self)

    # ------------------------------------------------------------------ the trace process

    @property
    def traces(self) -> bool:
        """Whether it has a trace, or has asked for one."""
        return self._traces and self.trace_process is not None

    def stop(self) -> None:
        """Ask the trace process for the end of its trace."""
        if self.trace_process is not None and self._traces:
            self.trace_process.tell(Type.REQUEST, {"op": "stop"})
            self._watch()

    def go_by(self, listed: tuple[str, ...]) -> bool:
        """Have its trace go on with these specs, of those that the agent lists; whether it can: what stays
        is recorded without a gap.
        """
        self._wants = listed
        if self._changing:
            return True  # then comes the next change
        stays = set(self._has) & set(listed)
        if not stays or self.peer is None or self.peer.ended:
            return False
        self._changing, self._aim = set(listed) != set(self._has), listed
        if self._changing and (self._counts or stays == set(listed)):
            self._change(more=False)
        elif self._changing:
            try:
                self._asking = self.peer.session.request({"op": "join"}, self._server.loop.now())
            except KwireError:  # it has not answered what it was asked before
                self._changing = False
                return False
            self.peer.flush()
        return True

    def replied(self, peer: Peer, number: int, body: Mapping[str, Any]) -> None:
        """Whether more probes may join its trace."""
        if not self._asking or number != self._asking:
            return
        self._asking = 0
        if body.get("ok") is True:
            self._change(more=body.get("joins") is not False)
        else:
            self._server.say(f"{self.name} takes no more probes: its trace ends", "session_ended")
            self.stop()

    def _change(self, more: bool) -> None:
        if self.trace_process is not None:
            stays = [spec for spec in self._has if spec in self._wants]
            more = more and not set(self._wants) <= set(self._has)
            self.trace_process.tell(Type.REQUEST, {"op": "change", "listed": stays, "joins": more})
            self._watch()

    def _changed(self, told: Mapping[str, Any]) -> None:
        """Its trace process has changed its probes, or could not."""
        self._has, self._changing = tuple(told["listed"]), False
        gone = f", {plural(told['gone'], 'probe')} taken away" if told["gone"] else ""
        if told["problem"]:
            rest = f"with what stays{gone}" if gone else "as it was"
            self._server.say(f"{self.name}: {told['problem']}; its trace goes on {rest}", "configuration")
        else:
            new = f", {plural(told['new'], 'new probe')}" if told["new"] else ""
            what = "is listed now" if set(self._aim) <= set(self._has) else "stays of what is listed"
            self._server.say(f"{self.name} traces what {what}{new}{gone}", "trace_changed")
        if self._wants != self._aim and not self.go_by(self._wants):
            self.stop()

    def finish(self) -> None:
        """End its trace, and then the session, in order: a client that is away may come back for the rest."""
        if self.trace_process is not None and self._traces:
            self.stop()
        elif self.peer is not None:
            self._drop()
            self.peer.close("the agent stops")
        else:
            self._server.forget(self)

    def leave(self) -> None:
        """Break off; what it has not got is lost."""
        self._drop()
        peer = self.peer
        if peer is None:
            return
        if not peer.ended:
            send_queue = peer.session.send_queue
            waiting = (send_queue.first + step for step in range(peer.session.unacknowledged))
            payloads = (bytes(send_queue.get(sequence & MASK)) for sequence in waiting)
            self.lost = sum(map(events_in, payloads)) + sum(map(events_in, self._held))
        peer.detach("the agent stops")

    def _begin(self, number: int, operation: str, body: Mapping[str, Any], size: int) -> None:
        if self.trace_process is not None or self._traces:
            cause = "this session has its trace" if self._traces else "the request before is being answered"
            raise requests.RequestError("begin", operation, cause, "use another session")
        assert self.peer is not None
        trace_process = self.trace_process = Channel(self._server.launcher.start())
        self._number, self._traces = number, operation == "trace"
        self.listed = not any(body.get(name) for name in ("probes", "functions", "script"))
        self._has, self._changing, self._asking = (), False, 0
        self._counts = "count" in body
        if self.listed and (grant := self._server.policy.grant(*self.who)) is not None:
            self._has = self._wants = grant.listed
        trace_process.tell(
            Type.REQUEST,
            {
                "identity": self.who[0],
                "address": self.who[1],
                "host": self.peer.host,
                "body": body,
                "size": size,
            },
        )
        self._server.loop.add(trace_process.fd, READ, self._ready)
        self._watch()

    def _watch(self) -> None:
        """Send what the trace process takes, and wait for what is to be waited for."""
        if self.trace_process is None:
            return
        try:
            done = self.trace_process.flush()
        except OSError:
            done = True  # it has gone: that is read
        mask = (0 if self._paused else READ) | (0 if done else WRITE)
        self._server.loop.modify(self.trace_process.fd, mask)

    def _ready(self, mask: int) -> None:
        """Something came from the trace process, or it takes more."""
        assert self.trace_process is not None
        if mask & WRITE:
            self._watch()
        if not mask & ~WRITE:
            return
        came = self.trace_process.receive()
        if came is None:
            self._gone()
            return
        for type, what in came:
            self._take(type, what)
        self._go_on()

    def _take(self, type: Type, what: Any) -> None:
        """One message of the trace process."""
        assert self.peer is not None
        if type == Type.DATA:
            self._held.append(what)
            self._server.relayed(what)
        elif type == Type.REPLY:
            self._traces = self._traces and "error" not in what
            self._server.traces += self._traces
            if self._traces:
                probes = plural(int(what.get("probes", 0)), "description")
                self._server.say(f"{self.name} traces: {probes}", "trace_begun")
            self.peer.session.reply(self._number, what, self._server.loop.now())
            if not self._traces:
                self._drop()
        elif type == Type.REQUEST and what["op"] == "changed":
            self._changed(what)
        elif type == Type.REQUEST:
            self._ended = what

    def _go_on(self) -> None:
        """Hand on what is held, as far as there is room; read the trace process only then; end when it has
        ended.
        """  # fmt: skip
        peer = self.peer
        if peer is None or peer.ended:
            return
        session, now, sent = peer.session, self._server.loop.now(), 0
        for payload in self._held:
            if session.room < len(payload) or session.over:
                break
            session.send(payload, now)
            sent += 1
        del self._held[:sent]
        if self._ended is not None and not self._held:
            ended, self._ended = self._ended, None
            self._drop()
            session.request(ended, now)
            peer.close(str(ended.get("why", "")))
            return
        self._pause(bool(self._held))  # the peer says when there is room again
        peer.flush()

    def _pause(self, pause: bool) -> None:
        if self.trace_process is not None and pause != self._paused:
            self._paused = pause
            self._watch()

    def _gone(self) -> None:
        """The trace process has gone without a word."""
        self._drop()
        if self.peer is None or self.peer.ended or self._ended is not None:
            return
        now = self._server.loop.now()
        if self._traces:
            self.peer.close("the tracer has ended unexpectedly")
        else:
            error = KwireError("trace", "", "the tracer has ended unexpectedly")
            self.peer.session.reply(self._number, requests.failed(error), now)
            self.peer.flush()

    def _drop(self) -> None:
        trace_process, self.trace_process = self.trace_process, None
        if trace_process is not None:
            self._server.loop.remove(trace_process.fd)
            trace_process.close()


class Accounts:
    """Events and losses in the payloads of traces."""

    __slots__ = ("_table", "events", "losses")

    def __init__(self) -> None:
        self._table = array("Q", bytes(8 * walk.COUNT_WORDS * MOST_COUNTED))
        self.events = 0
        self.losses: Counter[int] = Counter()
        """By cause."""

    def add(self, payload: bytes) -> None:
        """Count what a payload holds; numbers of probes do not matter."""
        frames = Frames.walk(payload)
        known = walk.count_by_id(frames.data, frames.offsets, frames.count, self._table, False)
        self.events += known
        if known == frames.count:
            return
        for loss in losses_in(frames):
            self.losses[loss.cause] += loss.count
        heads = map(frames.header, range(frames.count))
        self.events += sum(head.type == Type.EVENT and head.id >= MOST_COUNTED for head in heads)


class Server:
    """Chooses the sessions of clients and joins them to trace processes; for `listen`."""

    def __init__(
        self,
        loop: Loop,
        launcher: Launcher,
        policy: Policy,
        settings: Settings,
        about: Mapping[str, Any],
        say: Log = lambda text, event="note", /: None,
    ) -> None:
        self.loop = loop
        self.launcher = launcher
        self.policy = policy
        self.sessions = 0
        """Sessions begun."""
        self.traces = 0
        """Traces begun."""
        self.bytes = 0
        """Bytes of payloads that traces gave."""
        self.accounts: Accounts | None = None
        """What is in these, where somebody wants to know."""
        self.stopping = False
        """Who has a session may take it up again, nobody else gets one."""
        self.say = say
        """Who is told what happens."""
        self._settings = settings
        self._about = about
        self._idle: Callable[[], None] = lambda: None  # called when the last client has gone
        self._clients: dict[Session, Client] = {}
        self._tokens: dict[bytes, Session] = {}

    def choose(self, hello: Hello, identity: str, address: str) -> Session:
        """The session of a HELLO: the one there is, or a new one. Raises KwireError where there is none."""
        if hello.role is not Role.SINK:
            raise KwireError("serve", address, "this is an agent: it gives events and takes none")
        known = self._tokens.get(hello.token)
        if known is not None and not known.over:
            return known
        if self.stopping:
            raise KwireError("serve", address, "the agent stops")
        grant = self.policy.grant(identity, address)
        if grant is None:
            raise KwireError("serve", address, f"the policy does not name {identity or 'it'}")
        session = Session(
            Role.SOURCE,
            initiator=False,
            datagrams=address.startswith("udp:"),
            settings=self._settings._replace(memory=min(self._settings.memory, grant.send_queue)),
            token=hello.token,
            about=self._about,
        )
        self._tokens[hello.token] = session
        self._clients[session] = Client(self, identity, address)
        self.sessions += 1
        return session

    def handler_for(self, session: Session) -> Client:
        """The client of a session that `choose` gave."""
        return self._clients[session]

    def relayed(self, payload: bytes) -> None:
        """A trace gave this payload."""
        self.bytes += len(payload)
        if self.accounts is not None:
            self.accounts.add(payload)

    def forget(self, client: Client) -> None:
        """Its session has ended."""
        for session in [session for session, one in self._clients.items() if one is client]:
            del self._clients[session]
            self._tokens.pop(session.token, None)
        if not self._clients:
            self._idle()

    def change(self, policy: Policy) -> str:
        """Go by another policy from now on. A trace whose client may not do the same as before ends, in
        order: it may ask again; one of the probes listed goes on with those that are listed now, unless all
        are others. Gives what was done, in words.
        """
        ended = 0
        for client in [client for client in self._clients.values() if client.traces]:
            before, after = self.policy.grant(*client.who), policy.grant(*client.who)
            goes = before is not None and after is not None and before.same(after, False)
            if not goes or (after is not None and client.listed and not client.go_by(after.listed)):
                self.say(f"{client.name} has another policy now: its trace ends", "session_ended")
                client.stop()
                ended += 1
        self.policy = policy
        return f", {plural(ended, 'trace')} to end" if ended else ""

    def stop(self, idle: Callable[[], None]) -> None:
        """End every trace, in order; `idle` is called when the last client has gone."""
        self._idle = idle
        self.stopping = True
        for client in list(self._clients.values()):
            client.finish()
        if not self._clients:
            idle()

    def close(self) -> tuple[int, int]:
        """Break off what is left: how many clients, and events that they have not got."""
        left = list(self._clients.values())
        for client in left:
            client.leave()
        return len(left), sum(client.lost for client in left)
