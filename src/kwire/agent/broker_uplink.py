"""An uplink to a broker: what a source has, published to a JetStream stream.

Invariants: a payload goes as it is, as one message, numbered as DATA would be; it waits in its `Hold` until
the broker has acknowledged it, and what is not acknowledged in time, or before the connection ended, is
published again: the broker drops repeats by their id, and whoever collects knows them by their number. At
most `REACH` numbers are under way, so a message `REACH` numbers on proves that this one was acknowledged. The
last message is BYE, published when all before it are acknowledged. Numbers, payloads and the hold belong to
the loop's thread; the broker's thread publishes what it is given and tells what was acknowledged.
"""

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol, TypeAlias

from kwire.agent import manifest
from kwire.agent.source import Outlet
from kwire.agent.uplink import BETWEEN, Cargo, Hold, Line, begin_anew
from kwire.broker import names, sessions
from kwire.broker.client import Broker, Connection, plain
from kwire.broker.names import REACH, Counts, add_counts
from kwire.transport.loop import Timer, vital
from kwire.wire import cbor
from kwire.wire.frame import MASK, Type, build

WINDOW: Final = 8 << 20
"""Bytes of payload under way: published, and neither acknowledged nor given up."""

OVERDUE: Final = 5.0
"""Seconds after which a message that is not acknowledged is published again."""

PAUSE: Final = 1.0
"""Seconds until what the broker refused is published again."""


class BrokerCargo(Cargo, Protocol):
    """Whose payloads an uplink to a broker carries."""

    @property
    def probes(self) -> int:
        """The largest probe number."""

    @property
    def schemas(self) -> list[bytes]:
        """The SCHEMAs, as payloads."""

    def begun(self, session: Outlet) -> bool:
        """From now on payloads go in here; whether all that there will be is in it."""


class BrokerUplink:
    """One hold on its way to a broker. `close` once nothing more is put into it."""

    def __init__(self, line: Line, broker: Broker, hold: Hold, cargo: BrokerCargo) -> None:
        self.hold = hold
        self.finished = False
        """Everything is acknowledged."""
        self.sessions = 0
        """Sessions begun at the broker."""
        self.reconnects = 0
        """Connections after the first of each session."""
        self.loop = line.loop
        self._line = line
        self._broker = broker
        self._cargo = cargo
        self._reason: str | None = None
        self._left = False
        self._epoch = 0  # of the connection and the session: what an earlier one tells is not heard
        self._up = False
        self._connected = False  # since the session began
        self._next = 0  # the number published next
        self._so_far: Counts | None = {}  # what the messages before that one hold
        self._bytes = 0  # under way
        self._refused = False  # the broker did not take something
        self._acked: set[int] = set()  # of those published
        self._contents: dict[int, tuple[Counts, int]] = {}  # of those published: what is in them, bytes
        self._before: Counts | None = {}  # what the messages before the first kept one hold; None: not known
        self._bye = False  # it was published
        self._ahead: sessions.Last | None = None  # a message that the broker has, and our spool has not
        self._since = 0.0  # when the last acknowledgement came, or nothing was under way
        self._overdue: Timer | None = None
        self._publisher: _Publisher | None = None
        broker.use(self._serve)
        broker.at_refusal.append(cargo.refused)
        self._begin()
        self.loop.soon(broker.start)

    # ------------------------------------------------------------------ for its owner

    @property
    def refused(self) -> bool:
        """Whether the broker refuses who we are, or one of us the other's certificate."""
        return self._broker.refused

    @property
    def up(self) -> bool:
        """Whether a broker takes what is published."""
        return self._up

    def flush(self) -> None:
        """Publish what was put into the session."""
        self._pump()

    def close(self, reason: str) -> None:
        """Nothing more comes: end the session when all is acknowledged."""
        self._reason = reason
        self._pump()

    def leave(self) -> None:
        """Break off; what is not acknowledged stays where it is."""
        self._left = True
        self._part()

    # ------------------------------------------------------------------ an outlet

    @property
    def room(self) -> int:
        """Bytes that it can take."""
        return self.hold.send_queue.room

    def send(self, payload: bytes, now: float) -> int:
        """Take whole frames that stand back to back."""
        queue = self.hold.send_queue
        number = queue.next
        queue.put(number, payload)
        self._pump()
        return number

    # ------------------------------------------------------------------ a session

    def _begin(self) -> None:
        """Begin a session of the hold, or go on with one."""
        self._epoch += 1
        self._up = self._connected = self._bye = False
        self._before = None if self.hold.known else {}
        self._rewind()
        if not self._cargo.begun(self):
            self._reason = None  # whoever puts more into it closes it

    def _rewind(self) -> None:
        """Publish again from the first number that is kept."""
        self._next = self.hold.send_queue.first
        self._so_far = self._before
        self._bytes = 0
        self._bye = self._refused = False

    async def _serve(self, connection: Connection) -> None:
        """One connection: have the session, then publish what the loop's thread gives."""
        while True:
            epoch, session, entry, after, schemas, begun = await self._broker.there(self._introduction)
            found = await sessions.take_up(connection, session.hex(), entry, after, schemas, begun)
            if isinstance(found, sessions.Gone):
                await self._broker.there(partial(self._lost, epoch, found))
                await asyncio.sleep(BETWEEN)
                continue
            last = await sessions.last_of(connection, session.hex()) if found[1] else None
            subject = names.subject(found[0].name, session)
            publisher = _Publisher(self._broker, connection, subject, partial(self._acknowledged, epoch))
            first = None if found[1] else found[0].first
            ready = partial(self._ready, epoch, publisher, first, last)
            touching = asyncio.create_task(_touch(connection, session.hex(), entry, publisher))
            try:
                await publisher.run(partial(self._broker.post, ready))
            finally:
                touching.cancel()
                self._broker.post(partial(self._down, epoch))
            if await self._broker.there(lambda: self.finished or self._left):
                return

    def _introduction(self) -> tuple[int, bytes, sessions.Entry, tuple[int, ...], list[bytes], bool]:
        """What a session begins with: its epoch, its token, who we are, the HELLOs before, the SCHEMAs; and
        whether it has begun.
        """
        nonce, after = self.hold.lineage.draw(os.urandom)
        about = sessions.about(self._line.about)
        first = self.hold.send_queue.first
        entry = sessions.Entry(first, nonce, 0, about, time.time_ns(), sessions.TOUCH)
        begun = self._connected or self.hold.known
        return self._epoch, self.hold.token, entry, after, self._cargo.schemas, begun

    def _ready(
        self, epoch: int, publisher: "_Publisher", first: int | None, last: sessions.Last | None
    ) -> None:
        """A broker takes what is published. `first`: the number of the first message of all, where that is to
        come; `last`: that of the last one the broker has, and what all up to it hold.
        """
        if epoch != self._epoch or self._left or self.finished:
            self._broker.submit(publisher.end)
            return
        self._publisher = publisher
        self.sessions += not self._connected
        self.reconnects += self._connected
        self._connected = self._up = True
        queue = self.hold.send_queue
        if last is not None and last.bye and self._reason is not None and queue.first == queue.next:
            self._done()
            return
        # An agent that was killed may have published what its spool had not got yet.
        self._ahead = last if last is not None and (last.number - queue.next) & MASK < 1 << 31 else None
        self._learn(first, last)
        self._acked.clear()
        self._rewind()
        self._since = self.loop.now()
        self._watch()
        self._cargo.room()
        self._pump()

    def _learn(self, first: int | None, last: sessions.Last | None) -> None:
        """Find out what the messages before the first one kept hold: an agent before us published them."""
        queue = self.hold.send_queue
        if self._before is not None:
            return
        if first is not None:
            self._before = {} if first == queue.first else None
            return
        number, counts = (last.number, last.counts) if last is not None else (0, None)
        kept = (number + 1 - queue.first) & MASK
        if counts is not None and kept <= (queue.next - queue.first) & MASK:
            held = [self._count(queue.get((queue.first + index) & MASK)) for index in range(kept)]
            self._before = add_counts(counts, held, -1)

    def _down(self, epoch: int) -> None:
        if epoch == self._epoch:
            self._up, self._publisher = False, None
            self.loop.cancel(self._overdue)

    def _lost(self, epoch: int, why: sessions.Gone) -> None:
        """The session is not ours any more."""
        if epoch != self._epoch or self._left or self.finished:
            return
        self._line.say(f"{self._line.address}: a new session begins: {why.value}", "session_anew")
        self._anew(superseded=why is sessions.Gone.SUPERSEDED)

    @vital
    def _anew(self, superseded: bool) -> None:
        begin_anew(self.hold, self._cargo, superseded)
        self._begin()

    # ------------------------------------------------------------------ publishing

    def _pump(self) -> None:
        """Publish what may be under way."""
        publisher = self._publisher
        if not self._up or publisher is None or self.finished:
            return
        queue, batch = self.hold.send_queue, []
        while self._next != queue.next and self._bytes < WINDOW:
            number = self._next
            if (number - queue.first) & MASK >= REACH:
                break
            if number not in self._acked:
                payload = bytes(queue.get(number))
                if number not in self._contents:
                    self._contents[number] = self._count(payload), len(payload)
                batch.append((number, payload, self._headers(number)))
                self._bytes += len(payload)
            if self._so_far is not None:
                self._so_far = add_counts(self._so_far, [self._contents[number][0]])
            self._next = (number + 1) & MASK
        if self._reason is not None and not self._bye and queue.first == queue.next:
            self._bye = True
            body = build(Type.BYE, self._last, cbor.dumps({"reason": self._reason}))
            if self._ahead is not None:
                self._so_far = self._ahead.counts
            batch.append((self._last, body, self._headers(self._last)))
        if batch:
            self._broker.submit(partial(publisher.put, batch))

    @property
    def _last(self) -> int:
        """The number of BYE."""
        return self.hold.send_queue.next if self._ahead is None else (self._ahead.number + 1) & MASK

    def _count(self, payload: "bytes | bytearray | memoryview") -> Counts:
        """How much of each probe a payload tells of: events, and losses."""
        counts: Counts = {}
        for row in manifest.of(bytes(payload), self._cargo.probes).values():
            counts[row.probe] = counts.get(row.probe, 0) + row.number
        return counts

    def _headers(self, number: int) -> dict[str, str]:
        """What is said of a message beside its payload."""
        headers = {names.MESSAGE_ID: names.message_id(self.hold.token, number)}
        if self._so_far is not None:
            own = self._contents[number][0] if number in self._contents else {}
            probes = self._cargo.probes
            headers[names.BEFORE] = names.write_counts(self._so_far, probes)
            headers[names.AFTER] = names.write_counts(add_counts(self._so_far, [own]), probes)
        return headers

    def _acknowledged(self, epoch: int, numbers: list[int], known: set[int], trouble: str) -> None:
        """The broker has these messages, those that are `known` since before; or it refuses, and why."""
        if epoch != self._epoch or self.finished or self._left:
            return
        if trouble:
            self._refused = True
            self._broker.tell(f"{self._line.address}: {trouble}; what comes waits here", "refused")
        queue = self.hold.send_queue
        first, after = queue.first, (queue.next - queue.first) & MASK
        for number in numbers:
            at = (number - first) & MASK
            if at < after and number not in self._acked and number in self._contents:
                self._acked.add(number)
                self._bytes = max(0, self._bytes - self._contents[number][1])
            elif number == self._last and self._bye and first == queue.next:
                if number not in known:
                    self._done()
                elif self._publisher is not None:  # BYE, or what an agent before us had published last
                    self._up = False
                    self._broker.submit(self._publisher.end)
                return
        number = first
        while number in self._acked:
            self._acked.discard(number)
            counts, _ = self._contents.pop(number)
            if self._before is not None:
                self._before = add_counts(self._before, [counts])
            number = (number + 1) & MASK
        if number != first:
            queue.release((number - 1) & MASK)
            self.hold.lineage.settled()
            self._cargo.room()
        if numbers:
            self._since = self.loop.now()
        self._pump()

    def _watch(self) -> None:
        """Publish again what was not acknowledged in time; looked at now and then."""
        self.loop.cancel(self._overdue)
        self._overdue = self.loop.at(self.loop.now() + PAUSE, self._again)

    def _again(self) -> None:
        waiting = self._bytes > 0 or self._bye
        if not waiting:
            self._since = self.loop.now()
        elif self._refused or self.loop.now() >= self._since + OVERDUE:
            self._since = self.loop.now()
            if not self._refused:
                late = f"it has acknowledged nothing for {OVERDUE:g} seconds"
                self._broker.tell(f"{self._line.address}: {late}; what comes waits here")
            self._rewind()
        if self._up:
            self._watch()
            self._pump()

    @vital
    def _done(self) -> None:
        self.finished = True
        self._part()
        self._cargo.done()

    def _part(self) -> None:
        """Want nothing more of the broker: what serves us there ends."""
        self._up = False
        self.loop.cancel(self._overdue)
        self._broker.leave(self._serve)
        if self._cargo.refused in self._broker.at_refusal:
            self._broker.at_refusal.remove(self._cargo.refused)
        if self._publisher is not None:
            self._broker.submit(self._publisher.end)


async def _touch(
    connection: Connection, session: str, entry: sessions.Entry, publisher: "_Publisher"
) -> None:
    """Let the broker know now and then that a session has its source; end its publishing where it is gone."""
    while True:
        await asyncio.sleep(entry.touched)
        with contextlib.suppress(Exception):  # another time; whether there is a connection, others see
            if not await sessions.touch(connection, session, entry.nonce):
                publisher.end()
                return


Message: TypeAlias = tuple[int, bytes, dict[str, str]]
"""What is published: its number, the payload, the headers."""

OnPublished: TypeAlias = Callable[[list[int], set[int], str], None]


class _Publisher:
    """Publishes on one connection, in the broker's thread; tells what was acknowledged in the loop's."""

    def __init__(self, broker: Broker, connection: Connection, subject: str, told: OnPublished) -> None:
        self._broker = broker
        self._connection = connection
        self._subject = subject
        self._told = told
        self._inbox = connection.nc.new_inbox()
        self._queue: asyncio.Queue[list[Message] | None] = asyncio.Queue()
        self._numbers: list[int] = []
        self._known: set[int] = set()
        self._trouble = ""

    async def run(self, ready: Callable[[], None]) -> None:
        """Publish what `put` is given, until `end`; `ready` when it may be."""
        nc = self._connection.nc
        subscription = await nc.subscribe(f"{self._inbox}.*", cb=self._heard)
        try:
            ready()
            while (batch := await self._queue.get()) is not None:
                await self._publish(batch)
        finally:
            if not nc.is_closed:
                await subscription.unsubscribe()

    def put(self, batch: "list[Message]") -> None:
        """Publish these."""
        self._queue.put_nowait(batch)

    def end(self) -> None:
        """Look again at what the broker has."""
        self._queue.put_nowait(None)

    async def _publish(self, batch: list[Message]) -> None:
        nc = self._connection.nc
        for number, payload, headers in batch:
            try:
                await nc.publish(self._subject, payload, f"{self._inbox}.{number}", headers)
            except Exception as error:
                if nc.is_closed:
                    raise
                cause = plain(error)[0]
                self._tell([], f"{cause} ({len(payload):,} bytes, it takes {nc.max_payload:,} at most)")
                return

    async def _heard(self, message: Any) -> None:
        """An answer to a publication."""
        number = message.subject.rpartition(".")[2]
        trouble, known = "", False
        if message.headers and message.headers.get("Status") == "503":
            trouble = f"no stream takes {self._subject} at present: it has no leader, or is not there"
            trouble += f" (kwire fleet init {self._broker.address} makes it)"
        else:
            try:
                answer = json.loads(message.data)
                error, known = answer.get("error"), answer.get("duplicate") is True
                trouble = str(error.get("description", "refused"))[:200] if error else ""
            except (ValueError, AttributeError):
                trouble = "an answer cannot be read"
        if trouble:
            self._tell([], trouble)
        else:
            if known:
                self._known.add(int(number))
            self._tell([int(number)], "")

    def _tell(self, numbers: list[int], trouble: str) -> None:
        """Tell the loop's thread, many at once."""
        first = not self._numbers and not self._trouble
        self._numbers += numbers
        self._trouble = self._trouble or trouble
        if first:
            self._broker.post(self._told_all)

    def _told_all(self) -> None:
        numbers, self._numbers = self._numbers, []
        known, self._known = self._known, set()
        trouble, self._trouble = self._trouble, ""
        self._told(numbers, known, trouble)
