"""Tracing on another machine: one session with its agent, a request, and what comes of it.

Invariants: what a sink here is given is what the agent's rings gave, each event once, losses of every hop
where they stood; a connection that breaks is taken up again where it was; when the session cannot go on, that
is an error and what had come until then is kept; nothing that the agent sends is believed before it is
checked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from kwire.agent import requests
from kwire.agent.received import MOST_PROBES, Received
from kwire.errors import KwireError
from kwire.transport.address import Address, parse
from kwire.transport.connect import connect
from kwire.transport.frame_log import Watch
from kwire.transport.loop import Loop
from kwire.transport.peer import Handler, Peer
from kwire.transport.tcp import Buffer
from kwire.wire.session import Role, Session, Settings, State

if TYPE_CHECKING:
    from kwire.live.recorder import Sink
    from kwire.transport.tls import TlsOptions
    from kwire.wire.schema import Schema

PATIENCE: Final = 10.0
"""Seconds that an agent has to end a trace when it is asked to."""

ABSENCE: Final = 2.0
"""The same where there is no connection to it just then."""


def address_of(host: str) -> Address:
    """What `-H` and `connect` take: an address, or a host's name: TLS at the default port, TCP on loopback.

    Raises KwireError.
    """
    address = parse(host, kind="tls")
    schemes = ("tcp:", "tls:", "udp:", "unix:")
    if not host.startswith(schemes) and address.is_local:
        return address._replace(kind="tcp")
    return address


class Endpoint:
    """How an agent is reached."""

    __slots__ = ("address", "insecure", "tls", "watch")

    def __init__(
        self, host: str, tls: TlsOptions | None = None, insecure: bool = False, watch: Watch | None = None
    ) -> None:
        self.address = address_of(host)
        self.tls = tls
        self.insecure = insecure
        self.watch = watch


class RemoteSession(Handler):
    """One session with an agent: a request, its answer, and for a trace what follows.

    `start` is given the schemas and gives the sinks, before the first event. `turn` does the work; it raises
    what the agent refused, or what befell the session.
    """

    def __init__(
        self,
        link: Endpoint,
        body: Mapping[str, Any],
        start: Callable[[tuple[Schema, ...]], Sequence[Sink]] = lambda schemas: [],
        settings: Settings = Settings(),  # noqa: B008  # immutable
        loop: Loop | None = None,
    ) -> None:
        self.loop = loop or Loop()
        self.received = Received(start)
        self.answer: Mapping[Any, Any] | None = None
        """What the agent said to the request, once it has."""
        self.over = False
        """The session has ended."""
        self.status: int | None = None
        """Exit status of the command, once it has one."""
        self.why = ""
        """Why the trace ended, as the agent says."""
        self.broken = ""
        """Why the connection of the session broke, until there is another one."""
        self._link = link
        self._body = body
        self._number: int | None = None
        self._waiting: list[tuple[int, bytes]] = []  # DATA that came before the answer
        self._problem: KwireError | None = None
        self._stopping = False
        self._deadline = float("inf")
        session = Session(
            Role.SINK,
            initiator=True,
            datagrams=link.address.datagrams,
            settings=settings,
            about={"tool": "kwire"},
        )
        sessions = [session]
        self._connector = connect(
            self.loop,
            link.address,
            lambda: sessions.pop() if sessions else None,
            self,
            link.tls,
            link.insecure,
            retry=False,
            watch=link.watch,
        )
        self._peer = self._connector.peer

    # ------------------------------------------------------------------ for its owner

    @property
    def address(self) -> Address:
        """Where the agent is."""
        return self._link.address

    @property
    def patience(self) -> float:
        """Seconds without a connection after which the session is lost."""
        return self._peer.session.settings.expiry

    @property
    def tracing(self) -> bool:
        """Whether the probes are attached and described."""
        return self.received.begun

    def turn(self, longest: float | None = None) -> None:
        """One round of the loop, at most so long. Raises KwireError where the conversation failed."""
        if not self.over:
            self.loop.turn(min(longest if longest is not None else 1.0, 1.0))
        if not self.over and time.monotonic() > self._deadline:
            self._fail("it did not end the trace in time", "")
            self._end()
        self.received.flush()
        if self._problem is not None:
            problem, self._problem = self._problem, None
            self._end()
            raise problem

    def until(self, condition: Callable[[], object]) -> None:
        """Turn until it holds, or the session is over."""
        while not self.over and not condition():
            self.turn()

    def stop(self) -> None:
        """Ask the agent to end the trace; `over` once everything that is known of it has come."""
        if self._stopping or self.over:
            return
        self._stopping = True
        there = self._peer.session.state is State.ESTABLISHED
        self._deadline = time.monotonic() + (PATIENCE if there else ABSENCE)
        if self.answer is None:
            self._peer.close("interrupted")
            return
        self._peer.session.request({"op": "stop"}, self.loop.now())
        self._peer.flush()

    def close(self) -> None:
        """Leave at once; harmless where it is over."""
        self._end()
        self.loop.linger()  # an agent that does not hear that we leave goes on until the session expires
        self.loop.close()

    def _end(self) -> None:
        self._connector.close()
        if not self.over:
            self._peer.close("leaving")
            if not self.over:
                self._peer.end("leaving")
        self.over = True

    def _fail(self, cause: str, cure: str) -> None:
        if self._problem is None:
            self._problem = KwireError("trace on", str(self._link.address), cause, cure)

    # ------------------------------------------------------------------ what happens to the session

    def established(self, peer: Peer) -> None:
        """Ask, the first time."""
        if self._number is None:
            self._number = peer.session.request(self._body, self.loop.now())
            peer.flush()

    def replied(self, peer: Peer, number: int, body: Mapping[str, Any]) -> None:
        """The answer to the request, or to `stop`."""
        try:
            answer = requests.answered(body)
            probes = answer.get("probes", 0)
            if type(probes) is not int or not 0 <= probes <= MOST_PROBES:
                raise KwireError("trace on", str(self._link.address), "its answer makes no sense")
        except KwireError as error:
            if number == self._number:
                self._problem = error
            return
        if number != self._number:
            return
        self.answer = answer
        self.received.probes = probes
        waiting, self._waiting = self._waiting, []
        for sequence, payload in waiting:
            self.delivered(peer, sequence, payload)
        if not probes:
            peer.close("done")

    def delivered(self, peer: Peer, sequence: int, payload: Buffer) -> None:
        """DATA: kept until the answer is there, else passed on; then it counts as stored."""
        if self.answer is None:
            self._waiting.append((sequence, bytes(payload)))
            return
        self.received.take(bytes(payload))
        peer.session.consumed(sequence, self.loop.now())

    def requested(self, peer: Peer, number: int, body: Mapping[str, Any]) -> None:
        """The agent tells that the trace has ended."""
        try:
            if requests.operation_of(body) == "join":  # what is shown and kept has its probes by now
                peer.session.reply(number, {"ok": True, "joins": False}, self.loop.now())
                return
            if requests.operation_of(body) != "ended":
                raise requests.RequestError("answer request", str(body.get("op")), "this is no agent")
            told = requests.read(body, "ended")
        except KwireError as error:
            peer.session.reply(number, requests.failed(error), self.loop.now())
            return
        self.status, self.why = told.get("status"), told.get("why", "")
        peer.session.reply(number, {"ok": True}, self.loop.now())
        if "error" in told:
            try:
                requests.answered(told)
            except KwireError as error:
                self._problem = error

    def complained(self, peer: Peer, problem: object) -> None:
        """The agent refuses us, or breaks the protocol: said when it ends the session."""
        self.why = str(getattr(problem, "problem", problem))

    def changed(self, peer: Peer, old: State, new: State, why: str) -> None:
        """Give up where the first connection is refused: trying again would not help."""
        if new is State.SUSPENDED and old is State.ESTABLISHED:
            self.broken = why or "it broke"
        elif new is State.ESTABLISHED:
            self.broken = ""
        if new is State.SUSPENDED and old is State.HELLO_SENT and self._number is None:
            self._fail(why or "it does not answer", "")

    def closed(self, peer: Peer, why: str) -> None:
        """The session is over: in order, or not."""
        self.over = True
        self._connector.close()
        if self._problem is not None or (self.answer is not None and not self.received.probes):
            return
        if self._connector.problem is not None and self._number is None:
            self._problem = self._connector.problem
        elif self.answer is None and not self._stopping:
            self._fail(why or self.why or "the session ended before it answered", "")
        elif peer.session.state is not State.CLOSED or self.received.produced is None:
            cause = f"the session was lost: {why or self.why or 'the agent has gone'}"
            self._fail(cause, "what had come until then is kept; how much is missing is not known")
