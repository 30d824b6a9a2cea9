"""What a collector takes from a broker: messages of many sessions, shared with others of its group.

Invariants: a message is claimed before it is stored (`kwire.broker.claims`), and acknowledged when what it
holds is safe, as the storage says it; one that another collector has, or had, is not stored here, whatever
delivers it again. Each session takes one batch at a time: claimed, stored whole or not at all, safe, then
acknowledged; the number of the last batch that is safe stands in the session's checkpoint, in the place of a
sequence number. A checkpoint stays until the group knows that its capture has the ending, so a collector that
was killed in between says it later. What the broker has discarded is counted once, by who finds out: as a
batch of its own; messages of a session that the broker has forgotten are counted, and not given to us again.
Bounded are the bytes that wait here. What talks to the broker runs in its thread; stores and checkpoints are
the loop's.
"""

import asyncio
import contextlib
import os
import random
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from kwire.broker import names
from kwire.broker.claims import Claims, ClaimsError, Open, Span, lost_between
from kwire.broker.client import Broker, BrokerError, Connection, absent, acknowledged, plain
from kwire.broker.forgetting import Cleaner
from kwire.broker.names import REACH, Counts
from kwire.broker.sessions import Entry, is_bye, read_entry, schemas_of
from kwire.capture.output import CaptureError, FullError
from kwire.collector import storage
from kwire.collector.checkpoint import CheckpointError
from kwire.collector.session_statistics import in_words
from kwire.collector.store import Store
from kwire.collector.stored_session import StoredSession
from kwire.errors import KwireError
from kwire.wire.frame import MASK, FrameError, Type, read_header
from kwire.wire.frames import Frames
from kwire.wire.messages import TOTALS, Cause, Lost, read_totals
from kwire.words import are, plural

if TYPE_CHECKING:
    from nats.aio.msg import Msg
    from nats.js.api import ConsumerConfig

    from kwire.collector.collector import Collector

PULL: Final = 256
"""Messages asked for at a time."""

PULL_BYTES: Final = 8 << 20
PATIENCE: Final = 2.0
"""Seconds that the broker waits for messages before it says that there are none."""

MOST_WAITING: Final = 32 << 20
"""Bytes taken from the broker and not acknowledged: while there are more, nothing is asked for."""

BATCH: Final = 4 << 20
"""Bytes of a session that are claimed and stored at once."""

TRANSPORT: Final = "nats"
"""What checkpoints call a broker."""

ACK_WAIT: Final = 30.0
"""Seconds after which a message that was not acknowledged is delivered again, to whoever asks."""

MOST_PENDING: Final = 20_000
"""Messages that all collectors of a group may have without acknowledgement."""

GATHER: Final = 0.05
"""Seconds that the first message of a batch waits for others: each batch is a question and a commit."""

UNKNOWN: Final = 30.0
"""Seconds after which a session that the bucket does not know is forgotten: an entry is there before its
first message, but a server that has just lost the lead may not know that it has.
"""

MOST_FORGOTTEN: Final = 4096
"""Forgotten sessions that are known."""

LATER: Final = 1.0
"""Seconds until what another collector may have, or what cannot be read yet, is delivered again."""

IDLE: Final = (0.5, 8.0)
"""Seconds between two looks at a session of which nothing comes: at first, and at most."""

TICK: Final = 0.25
"""Seconds between two rounds of looks."""

CLEANING: Final = 3600.0
"""Seconds between two looks at what the bucket need not know any more."""


class _ForgottenError(BrokerError):
    """The broker knows nothing more of a session, some of which is here."""


class _Message(NamedTuple):
    """A message: its place in the session, what is in it, and what acknowledges it."""

    place: int
    data: bytes
    span: Span
    sequence: int  # in the stream
    handle: "Msg | None"


class _Session:
    """One session, as far as this collector has to do with it."""

    def __init__(self, session: str) -> None:
        self.session = session
        self.entry: Entry | None = None
        self.claims = Claims()
        self.revision = 0
        self.known = False  # the claims were read
        self.waiting: dict[int, _Message] = {}
        self.task: asyncio.Task[None] | None = None
        self.batch = 0  # the last one of ours that is safe
        self.ours = False  # a checkpoint here remembers it
        self.opened = False  # there is a store of it here
        self.bare = False  # nothing is in it, and no checkpoint was there
        self.ended = False  # its capture has the ending, or there is none
        self.over = False  # and the group knows
        self.fresh = False  # the claims may be the first
        self.guessed = False  # and are taken for that
        self.missing = 0.0  # since when the bucket does not know it
        self.schemas: list[bytes] | None = None
        self.top: tuple[int, int] = (-1, 0)  # the last message seen: its place, its place in the stream
        self.storing: tuple[int, asyncio.Future[None]] | None = None  # a batch on its way into the store
        self.proof = 0  # when everything up to here is acknowledged, what is missing is gone
        self.look, self.pause = 0.0, IDLE[0]  # when it is looked at, where nothing comes
        # The loop's thread:
        self.store: Store | None = None
        self.stored: StoredSession | None = None
        self.safe: Callable[[], None] | None = None  # called when its batch is safe
        self.again: Callable[[], None] | None = None  # takes its batch again

    @property
    def busy(self) -> bool:
        """Whether something is done with it in the broker's thread; a task that was cancelled is not."""
        return self.task is not None and not self.task.done()

    @property
    def name(self) -> str:
        """What people call it."""
        return (self.entry.name if self.entry else "") or self.session


class Settled:
    """Up to where in the stream all is acknowledged, or gone, where the broker does not say it: it may never
    do so of a group that always has something to acknowledge. What was delivered so long ago that it would
    have been delivered again, as we have asked for messages all the time, is settled where nothing was.
    """

    __slots__ = ("_delivered", "_paused", "_since", "_upto")

    def __init__(self) -> None:
        self._paused = True
        self._delivered = self._upto = 0
        self._since = 0.0  # when the broker had delivered up to there

    def paused(self) -> None:
        """For a while we have not asked, or were not answered."""
        self._paused = True

    def look(self, delivered: int, redelivered: int, now: float) -> int:
        """The sequence number up to where all is settled. `delivered`: that of the last message delivered;
        `redelivered`: messages that were delivered again and are not acknowledged; `now`: in seconds.
        """
        if delivered < self._delivered:  # the stream is another one
            self._upto, self._paused = 0, True
        if self._paused:
            self._since, self._delivered, self._paused = now, delivered, False
        elif not redelivered and now >= self._since + 2 * ACK_WAIT:
            self._upto = self._delivered
            self._since, self._delivered = now, delivered
        return self._upto


class Intake:
    """Takes sessions from a broker into the stores of a collector. `stop` before the collector's."""

    def __init__(self, collector: "Collector", broker: Broker, group: str, identity: str) -> None:
        self.collector = collector
        self.sessions: dict[str, _Session] = {}
        self.reached = False
        """The broker has let us take messages."""
        self.away: set[str] = set()
        """Collectors whose messages wait for them."""
        self.begun = 0
        """Sessions of which something is stored here."""
        self.pending: int | None = None
        """Messages at the broker that the group has not acknowledged, as it said last; None: it has not said
        so on the connection that there is.
        """
        self._broker = broker
        self._group = group
        self._me = identity
        self._bytes = 0  # waiting
        self._room = asyncio.Event()
        self._asked = 0  # messages that the broker may still deliver
        self._stopping = False
        self._floor = 0  # up to here everything in the stream is acknowledged
        self._settled = Settled()
        collector.intake = self
        self._forgotten: dict[str, set[int]] = {}  # sessions → numbers of messages that were counted
        for stored in collector.storage.all():
            if stored.about.get("transport") == TRANSPORT:
                each = self.sessions[stored.token.hex()] = _Session(stored.token.hex())
                each.ours = True  # nothing of it may come any more, but that it has ended
        broker.use(self._serve)

    # ------------------------------------------------------------------ the broker's thread: messages

    async def _serve(self, connection: Connection) -> None:
        """One connection: messages as they come. What was not acknowledged on the one before comes again."""
        for each in self.sessions.values():
            each.waiting.clear()
            each.known = False
        self._bytes = self._asked = 0
        self._settled = Settled()
        await self._consumer(connection)
        if not self.reached:
            self.reached = True
            self._broker.post(self._say_reached)
        inbox = connection.nc.new_inbox()
        subscription = await connection.nc.subscribe(inbox, cb=partial(self._delivered, connection))
        loop = asyncio.get_running_loop()
        beside = [loop.create_task(self._look_around(connection)), loop.create_task(self._clean(connection))]
        try:
            await self._pull(connection, inbox)
        finally:
            self.pending = None
            for task in beside:
                task.cancel()
            for each in list(self.sessions.values()):
                if each.task is not None:
                    each.task.cancel()
            if not connection.nc.is_closed:
                await subscription.unsubscribe()

    async def _consumer(self, connection: Connection) -> None:
        """See that the group has its consumer."""
        from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
        from nats.js.errors import NotFoundError

        config = ConsumerConfig(
            durable_name=self._group,
            deliver_policy=DeliverPolicy.ALL,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=ACK_WAIT,
            max_ack_pending=MOST_PENDING,
            filter_subject=names.SUBJECTS,
        )
        try:
            try:
                there = (await connection.js.consumer_info(names.STREAM, self._group)).config
                self._fit(there, config)
            except NotFoundError:
                await connection.js.add_consumer(names.STREAM, config)
        except NotFoundError:
            raise absent(f"stream {names.STREAM}", self._broker.address) from None

    def _fit(self, there: "ConsumerConfig", ours: "ConsumerConfig") -> None:
        """BrokerError where the group's name is that of a consumer that others made for something else."""
        for key in ("deliver_subject", "deliver_policy", "ack_policy", "filter_subject"):
            has, wanted = (getattr(one, key) or None for one in (there, ours))
            if has != wanted:
                cause = f"it is a consumer of others, with {key} {getattr(has, 'value', has) or 'none'}"
                raise BrokerError("take from group", self._group, cause, "name another --group")

    async def _pull(self, connection: Connection, inbox: str) -> None:
        """Ask for messages, as many as there is room for."""
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{names.STREAM}.{self._group}"
        request = f'{{"batch":{PULL},"expires":{int(PATIENCE * 1e9)},"max_bytes":{PULL_BYTES}}}'.encode()
        while True:
            self._room.clear()
            if self._asked <= 0 and self._bytes < MOST_WAITING and not self._stopping:
                self._asked = PULL
                await connection.nc.publish(subject, request, inbox)
            elif self._asked <= 0:
                self._settled.paused()
            try:
                await asyncio.wait_for(self._room.wait(), PATIENCE + 1.0)
            except TimeoutError:
                self._asked = 0  # the answer was lost
                self._settled.paused()

    async def _delivered(self, connection: Connection, handle: "Msg") -> None:
        """A message, or that there are no more at present."""
        status = handle.headers.get("Status") if handle.headers and not handle.data else None
        if status is not None:
            if status == "503":  # the group's consumer has no leader at present
                self._settled.paused()
                await asyncio.sleep(TICK)
            if status != "100":
                self._asked = 0
                self._room.set()
            return
        self._asked -= 1
        if self._asked <= 0:
            self._room.set()
        if self._stopping:
            return
        session = names.session_of(handle.subject)
        headers = handle.headers or {}
        number = names.number_of(headers.get(names.MESSAGE_ID, ""), session) if session else None
        if number is None:
            self._broker.post(partial(self._stranger, handle.subject))
            await handle.term()
            return
        before, after = (names.read_counts(headers.get(name)) for name in (names.BEFORE, names.AFTER))
        sequence = handle.metadata.sequence.stream
        # Its place is known when the bucket has told the first number; until then the number stands for it.
        message = _Message(number, handle.data, Span(0, 0, before, after), sequence, handle)
        if session in self._forgotten:
            await self._refuse(session, [message])
            return
        each = self.sessions.get(session)
        if each is None:
            each = self.sessions[session] = _Session(session)
            each.fresh = True
        old = each.waiting.get(number)
        each.waiting[number] = message
        self._bytes += len(message.data) - (len(old.data) if old else 0)
        if not each.busy:
            each.task = asyncio.get_running_loop().create_task(self._gather(connection, each))

    def _let_go(self, each: _Session, numbers: Iterable[int]) -> None:
        """Forget messages that wait."""
        for number in numbers:
            message = each.waiting.pop(number, None)
            if message is not None:
                self._bytes -= len(message.data)
        if self._bytes < MOST_WAITING:
            self._room.set()

    # ------------------------------------------------------------------ the broker's thread: a session

    async def _gather(self, connection: Connection, each: _Session) -> None:
        """Wait for more of a session, and take it."""
        await asyncio.sleep(GATHER)
        await self._work(connection, each)

    async def _work(self, connection: Connection, each: _Session) -> None:
        """Claim, store and acknowledge what waits of a session, batch by batch."""
        try:
            while True:
                while each.waiting and not self._stopping:
                    await self._some(connection, each)
                await self._conclude(connection, each)
                if not each.waiting or self._stopping:
                    break
        except _ForgottenError:
            await self._drop(each)
        except KwireError as error:
            await self._leave_for_later(each, error)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            await self._leave_for_later(each, BrokerError("collect", each.name, plain(error)[0]))
        finally:
            each.look = asyncio.get_running_loop().time() + IDLE[0]
            each.pause = IDLE[0]

    async def _leave_for_later(self, each: _Session, error: KwireError) -> None:
        """Something failed: what waits is delivered again later."""
        self._broker.trouble(error)
        each.known = False
        waiting = list(each.waiting.items())
        self._let_go(each, [number for number, _ in waiting])
        for _, message in waiting:
            with contextlib.suppress(Exception):  # then it comes again by itself
                if message.handle is not None:
                    await message.handle.nak(LATER)

    async def _drop(self, each: _Session) -> None:
        """Give what is here of a session that the broker has forgotten its ending."""
        each.over = True
        if len(self._forgotten) >= MOST_FORGOTTEN:
            del self._forgotten[next(iter(self._forgotten))]
        self._forgotten.setdefault(each.session, set())
        waiting = list(each.waiting.values())
        self._let_go(each, list(each.waiting))
        try:
            await self._broker.there(partial(self._abandon, each))
        finally:  # where the connection ends, too
            if self.sessions.get(each.session) is each:
                del self.sessions[each.session]
        await self._refuse(each.session, waiting)

    async def _refuse(self, session: str, messages: Sequence[_Message]) -> None:
        """Count messages of a session that the broker has forgotten; nobody is given them again."""
        counted = self._forgotten.setdefault(session, set())
        for message in messages:
            if message.handle is None:
                continue
            if message.place not in counted:  # which is its number
                counted.add(message.place)
                events = sum((lost_between(message.span) or {}).values())
                host = names.host_of(message.handle.subject)
                first = len(counted) == 1
                self._broker.post(partial(self._count_refused, host, session, events, first))
            await message.handle.term()

    async def _some(self, connection: Connection, each: _Session) -> None:
        """One batch of what waits."""
        await self._read(connection, each)
        assert each.entry is not None  # _read saw to that
        first = each.entry.first
        done: list[int] = []
        taken: list[_Message] = []
        size = 0
        for number in sorted(each.waiting, key=lambda number: (number - first) & MASK):
            message, place = each.waiting[number], (number - first) & MASK
            if each.claims.has(place):
                done.append(number)
                await self._settle(each, place, message)
            elif not taken or size + len(message.data) <= BATCH:
                taken.append(
                    message._replace(place=place, span=message.span._replace(first=place, last=place))
                )
                size += len(message.data)
        self._let_go(each, done)
        if taken and await self._take(connection, each, taken):
            self._let_go(each, [(message.place + first) & MASK for message in taken])
            for message in taken:
                if message.handle is not None and not message.handle.is_acked:
                    await message.handle.ack()

    async def _settle(self, each: _Session, place: int, message: _Message) -> None:
        """A message that somebody has: it is done, or waits for a collector that may not have stored it."""
        handle, holder = message.handle, each.claims.holder(place)
        if handle is None or handle.is_acked:
            return
        if holder is None or holder == self._me:
            await handle.ack()
            return
        if holder not in self.away:
            self.away.add(holder)
            self._broker.post(partial(self._say_away, each, holder))
        await handle.nak(LATER)

    async def _read(self, connection: Connection, each: _Session) -> None:
        """Know the session, its claims, and how far we have it."""
        if each.storing is not None:  # since before the connection, or something else, failed
            await self._stored(each)
        if each.entry is None:
            value, revision = await connection.get(names.session_key(each.session))
            entry = read_entry(value) if revision else None
            if entry is None:
                now = asyncio.get_running_loop().time()
                each.missing = each.missing or now
                if each.ours or now >= each.missing + UNKNOWN:
                    raise _ForgottenError("collect", f"session {each.session}", "the broker has forgotten it")
                raise BrokerError("collect", f"session {each.session}", "the bucket knows nothing of it")
            each.entry = entry
        if each.known:
            return
        if each.fresh and each.entry.first in each.waiting:  # if others were first, a swap says so
            each.fresh, each.guessed, each.known = False, True, True
            each.claims, each.revision = Claims(), 0
            return
        each.fresh = False
        value, each.revision = await connection.get(names.claims_key(self._group, each.session))
        some = not each.revision and (each.ours or each.opened)
        if some and not (await connection.get(names.session_key(each.session)))[1]:
            raise _ForgottenError("collect", f"session {each.session}", "the broker has forgotten it")
        try:
            each.claims = Claims.read(value)
        except ClaimsError as error:
            key = names.claims_key(self._group, each.session)
            raise ClaimsError(
                "collect", f"session {each.session}", f"{key} of the bucket: {error.cause}"
            ) from None
        each.known = True
        mine = each.claims.open.get(self._me)
        if mine is None or not mine.spans:
            return
        await self._see(each)
        if each.bare or mine.batch > each.batch + 1:
            await self._count_open(connection, each, mine)
        elif mine.batch > each.batch:
            each.claims.release(self._me)  # it was claimed, and we were killed before it was stored
            await self._swap(connection, each)

    async def _confirm(self, connection: Connection, each: _Session) -> None:
        """Let the group know that we have what we claimed."""
        mine = each.claims.open.get(self._me)
        if mine is not None and mine.spans and each.opened and mine.batch == each.batch:
            each.claims.confirm(self._me)
            await self._swap(connection, each)

    async def _see(self, each: _Session) -> None:
        """Find out how far we have a session."""
        if not each.opened:
            each.batch, known = await self._broker.there(partial(self._promise, each))
            each.opened, each.bare = True, not known

    async def _count_open(self, connection: Connection, each: _Session, mine: Open) -> None:
        """Our checkpoint is gone: nobody knows whether our last batch is in a capture. It is counted lost, as
        the batch after it, so that what was stored says whether it was counted.
        """
        spans = [span for span in mine.spans if (lost_between(span) or {})]
        payload = b"".join(map(partial(_losses, Cause.EXPIRED), spans))
        await self._describe(connection, each, payload)
        batch = each.claims.renumber(self._me)
        if await self._swap(connection, each):
            await self._store(each, batch, payload)

    async def _swap(self, connection: Connection, each: _Session) -> bool:
        """Put the claims back; False where somebody else has changed them, which are to be read again."""
        key = names.claims_key(self._group, each.session)
        each.revision = await connection.swap(key, each.claims.pack(), each.revision)
        each.known = bool(each.revision)
        return each.known

    async def _describe(self, connection: Connection, each: _Session, payload: bytes) -> None:
        """Know the SCHEMAs of a session: mostly the first batch begins with them."""
        if each.schemas is None:
            assert each.entry is not None  # it was read
            own = each.entry.described(payload)
            each.schemas = [own] if own else await schemas_of(connection, each.session, each.entry)

    async def _take(self, connection: Connection, each: _Session, messages: list[_Message]) -> bool:
        """Claim messages, store them, and come back when they are safe; False: claim again."""
        payload = b"".join(message.data for message in messages if not is_bye(message.data))
        await self._describe(connection, each, payload)
        await self._see(each)
        if each.guessed and each.batch:  # we have some of it: it comes again
            each.guessed = each.known = False
            return False
        each.guessed = False
        claims, mine = each.claims, each.claims.open.get(self._me)
        if mine is not None and not mine.spans:
            each.batch = max(each.batch, mine.batch)  # where our checkpoint is gone
        for message in messages:
            if is_bye(message.data):
                claims.end = message.place, message.sequence
            elif message.handle is None:
                claims.discarded += sum((lost_between(message.span) or {}).values())
            elif totals := _totals(message.data):
                claims.produced = {**(claims.produced or {}), **totals}
            if message.place > each.top[0]:
                each.top = message.place, message.sequence
        batch = claims.claim(self._me, [message.span for message in messages])
        if batch != each.batch + 1:
            each.known = False
            raise BrokerError("collect", each.name, "the group knows less of it than its checkpoint")
        if not await self._swap(connection, each):
            return False
        for message in messages:
            if message.handle is None:
                self._say_discarded(each, message.span)
        await self._store(each, batch, payload)
        return True

    async def _store(self, each: _Session, batch: int, payload: bytes) -> None:
        """Have a batch stored; come back when it is safe."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        each.storing = batch, future
        settle = partial(future.set_result, None)
        self._broker.post(partial(self._put, each, batch, payload, lambda: self._broker.submit(settle)))
        await self._stored(each)

    async def _stored(self, each: _Session) -> None:
        """Come back when the batch on its way into the store is safe; others may wait for it too."""
        assert each.storing is not None  # there is one
        batch, future = each.storing
        await asyncio.shield(future)
        each.batch, each.storing, each.bare = batch, None, False

    async def _conclude(self, connection: Connection, each: _Session) -> None:
        """Count what is known to be gone; end the session where everything of it is there."""
        if not each.known or each.entry is None or each.over or self._stopping:
            return
        for gap in each.claims.gaps:
            if not await self._mind(connection, each, gap):
                break
        if not each.known or not each.claims.claimed:
            return
        mine = each.claims.open.get(self._me, Open(0, ()))
        if each.claims.others_store(self._me) or (mine.spans and mine.batch != each.batch):
            await self._confirm(connection, each)  # what others may take back is not over yet
            return
        if not each.ended:  # from here on the claims change in no more than this
            each.ended = await self._broker.there(partial(self._finish, each, each.claims))
        if each.ended and await self._say_ended(connection, each):
            each.over = True
            await self._broker.there(partial(self._disregard, each))
            self.sessions.pop(each.session, None)

    async def _say_ended(self, connection: Connection, each: _Session) -> bool:
        """Let the group know that our capture has its ending; False where that has to be said again."""
        claims = each.claims
        if self._me not in claims.parts or self._me in claims.ended:
            return True
        if self._me in claims.open:
            claims.confirm(self._me)
        claims.ended.add(self._me)
        return await self._swap(connection, each)

    async def _mind(self, connection: Connection, each: _Session, gap: Span) -> bool:
        """A gap: where everything that could fill it was delivered and acknowledged, the broker has discarded
        what was there. Everything was published before BYE, and before what stands REACH places on.
        """
        if not each.proof:
            if each.claims.end is not None:
                each.proof = each.claims.end[1]
            elif each.top[0] >= gap.last + REACH:
                each.proof = each.top[1]
        if not each.proof or self._floor < each.proof:
            return False
        message = _Message(gap.first, _losses(Cause.BROKER, gap), gap, 0, None)
        return await self._take(connection, each, [message])

    def _say_discarded(self, each: _Session, gap: Span) -> None:
        """A gap is ours to count."""
        counts: Counts | None = lost_between(gap)
        text = f"{each.name}: the broker discarded {plural(gap.last - gap.first + 1, 'message')}"
        if counts is None:
            text += ", and nobody knows how many events were in it"
        else:
            text += f" with {plural(sum(counts.values()), 'event')}, counted as lost"
        self._broker.post(partial(self.collector.note, text))

    async def _look_around(self, connection: Connection) -> None:
        """Look at sessions of which nothing comes: whether others have ended them, and what is missing."""
        loop = asyncio.get_running_loop()
        asked = -IDLE[1]  # how much waits at the broker
        while True:
            await asyncio.sleep(TICK)
            now = loop.time()
            due = [one for one in self.sessions.values() if not one.busy and one.look <= now]
            if not due and now < asked + IDLE[1]:
                continue
            asked = now
            try:
                info = await connection.js.consumer_info(names.STREAM, self._group)
                delivered = info.delivered.stream_seq if info.delivered else 0
                settled = self._settled.look(delivered, info.num_redelivered or 0, now)
                self._floor = max(acknowledged(info), settled)
                self.pending = (info.num_pending or 0) + (info.num_ack_pending or 0)
            except Exception:  # whatever the client failed at: another time
                self.pending = None
                self._settled.paused()
            for each in due:
                if not each.busy:
                    each.pause = min(2 * each.pause, IDLE[1])
                    each.look = now + each.pause
                    each.task = loop.create_task(self._glance(connection, each))

    async def _clean(self, connection: Connection) -> None:
        """See now and then that the bucket knows no more than is needed."""
        cleaner = Cleaner(CLEANING)
        while True:
            await asyncio.sleep(CLEANING * (0.5 + random.random()))
            try:
                await cleaner.clean(connection)
            except Exception as error:  # another time, or another collector
                self._broker.trouble(BrokerError("clean", "the bucket", plain(error)[0]))

    async def _glance(self, connection: Connection, each: _Session) -> None:
        """Look at a session."""
        pause, look = each.pause, each.look
        each.known = False
        try:
            await self._read(connection, each)
            if not each.waiting and not each.claims.claimed:
                await self._confirm(connection, each)
        except _ForgottenError:
            await self._drop(each)
            return
        except Exception:
            each.known = False
            return
        await self._work(connection, each)
        each.pause, each.look = pause, look

    # ------------------------------------------------------------------ the loop's thread

    def _stranger(self, subject: str) -> None:
        self.collector.tally.errors += 1
        self.collector.note(f"{self._broker.address}: a message at {subject[:100]!r} is none of ours", "peer")

    def _say_reached(self) -> None:
        self.collector.say(f"group {self._group} takes from {self._broker.address}", "connected")

    def _say_away(self, each: _Session, holder: str) -> None:
        text = f"messages wait for collector {holder}, which took them and may have them"
        self.collector.say(f"{each.name}: {text}", "session_lost")

    def _promise(self, each: _Session) -> tuple[int, bool]:
        """The number of the last batch of a session that is safe here, and whether a checkpoint says that;
        from now on one does. A capture is made with the first batch.
        """
        keeper = self.collector.storage
        remembered = keeper.remembered(bytes.fromhex(each.session))
        if remembered is not None:
            return remembered.next, True
        keeper.promise(StoredSession(bytes.fromhex(each.session), _about(each)), begun=False)
        return 0, False

    def _disregard(self, each: _Session) -> None:
        """Nothing need be remembered of a session any more: what comes again of it, the claims know."""
        self.collector.storage.disregard(StoredSession(bytes.fromhex(each.session), {}))

    def _count_refused(self, host: str, session: str, events: int, first: bool) -> None:
        """A message of a forgotten session has come; the first is told."""
        self.collector.tally.lose(host, events, Cause.BROKER)
        if first:
            which = f"session {session[: names.SHORTEST]}, which the broker has forgotten"
            self.collector.note(f"{host}: what comes of {which}, is counted as lost", "events_lost")

    def _open(self, each: _Session) -> None:
        """Open the store of a session."""
        self._promise(each)  # its checkpoint may have been removed
        each.store, each.stored = self.collector.storage.open(bytes.fromhex(each.session), _about(each))
        self.begun += not each.stored.next
        self.collector.tally.forget(each.stored.token)
        self.collector.say(f"{each.name} is written to {each.store.path_now}", "capture")

    def _kept(self, each: _Session) -> tuple[Store, StoredSession] | None:
        """What is here of a session that is to end; None: nothing, or it has its ending."""
        if each.store is not None and each.stored is not None:
            return each.store, each.stored
        keeper = self.collector.storage
        remembered = keeper.remembered(bytes.fromhex(each.session))
        if remembered is None or remembered.done:
            return None
        if not remembered.next:  # others took all that we might have taken
            return None
        return keeper.open(remembered.token, remembered.about)

    @property
    def open(self) -> int:
        """Sessions that have a store here and have not ended."""
        return sum(each.store is not None and not each.store.closed for each in list(self.sessions.values()))

    def _put(self, each: _Session, batch: int, payload: bytes, safe: Callable[[], None]) -> None:
        """Have the storage take a batch; where the disk refuses it, again and again."""
        each.safe = safe
        each.again = partial(self._put_again, each, batch, payload)
        each.again()

    def _put_again(self, each: _Session, batch: int, payload: bytes) -> None:
        keeper, loop = self.collector.storage, self.collector.loop
        retry = partial(self._put_again, each, batch, payload)
        try:
            if each.store is None or each.stored is None or each.store.closed:
                self._open(each)
            assert each.store is not None  # it was opened
            assert each.stored is not None
            told = b"" if each.stored.numbers else b"".join(_schemas_only(each.schemas or ()))
            payload = payload if payload.startswith(told) else told + payload
            keeper.take(each.store, each.stored, batch - 1, payload)
        except (FullError, CheckpointError) as error:
            self.collector.ail(error)
            loop.at(loop.now() + storage.AGAIN, retry)
        except CaptureError as error:
            store, each.store = each.store, None
            if store is not None:
                self.collector.fail(store, error)
            loop.at(loop.now() + storage.AGAIN, retry)
        else:
            for problem in each.stored.complaints:
                self.collector.note(f"{each.name} sent what is not sound: {problem}", "peer")
            each.stored.complaints.clear()

    def safe(self, stored: StoredSession) -> None:
        """More of a session is safe."""
        each = self.sessions.get(stored.token.hex())
        if each is not None and each.stored is stored and each.safe is not None:
            safe, each.safe, each.again = each.safe, None, None
            safe()

    def failed(self, store: Store) -> None:
        """A store was left as its checkpoint knows it: what is not safe is taken again."""
        loop = self.collector.loop
        for each in self.sessions.values():
            if each.store is store:
                each.store = each.stored = None
                if each.again is not None:
                    loop.at(loop.now() + storage.AGAIN, each.again)

    def _finish(self, each: _Session, claims: Claims) -> bool:
        """Everything of a session is stored, here or by others of the group; whether the part that is here
        has its ending.
        """
        keeper = self.collector.storage
        try:
            kept = self._kept(each)
        except (CaptureError, CheckpointError) as error:
            self.collector.note(str(error))
            return False
        if kept is None:
            return True
        store, stored = kept
        try:
            if not store.closed:
                if len(claims.collectors) > 1 and self._me in claims.collectors:
                    store.share(stored, claims.parts[self._me], claims.messages, claims.produced)
                keeper.finish(store, stored)
            self.collector.tally.add(str(self._broker.address), store, stored, None)
            keeper.forget(store)
        except (CaptureError, CheckpointError) as error:
            self.collector.fail(store, error)
            return False
        shared = (
            f"; {are(len(claims.collectors), 'collector')} sharing it" if len(claims.collectors) > 1 else ""
        )
        self.collector.say(f"{each.name} has ended: {in_words(store, stored)}{shared}", "session_ended")
        self.collector.finished()
        return True

    def _abandon(self, each: _Session) -> None:
        """The broker has forgotten a session before all of it was here: nobody knows what there was."""
        try:
            kept = self._kept(each)
            if kept is None:
                self._disregard(each)
                return
            store, stored = kept
            store.unshare(stored)
            self.collector.storage.finish(store, stored)
            self.collector.tally.add(str(self._broker.address), store, stored, None)
            self.collector.storage.forget(store)
            self._disregard(each)
        except (CaptureError, CheckpointError) as error:
            self.collector.note(str(error))
            return
        finally:
            each.store = each.stored = None
        text = f"the broker has forgotten it: {in_words(store, stored)}; nobody knows what else there was"
        self.collector.say(f"{stored.host}: {text}", "session_lost")
        self.collector.finished()

    def stop(self) -> None:
        """Take nothing more; what is taken is made safe and acknowledged; captures get their ending."""
        loop, keeper = self.collector.loop, self.collector.storage
        self._stopping = True
        self.collector.storage.commit()
        deadline = loop.now() + 2.0
        while any(one.busy for one in self.sessions.values()) and loop.now() < deadline:
            loop.turn(0.01)
        self._broker.close()
        for each in self.sessions.values():
            store, stored = each.store, each.stored
            if store is None or stored is None:
                continue
            try:
                if not store.closed:
                    if len(each.claims.collectors) > 1:
                        store.unshare(stored)
                    store.close()
                self.collector.tally.add(str(self._broker.address), store, stored, None)
                keeper.forget(store)
            except KwireError as error:
                self.collector.note(str(error))


def _about(each: _Session) -> dict[str, str]:
    """What a capture and its checkpoint say of a session's source."""
    assert each.entry is not None  # it was read
    about = {name: each.entry.about.get(name, "") for name in ("host", "kernel", "tool", "name")}
    return about | {"identity": "", "origin": "", "transport": TRANSPORT}


def identity(folder: str) -> str:
    """What a collector is known by in its group: drawn at random, and kept with its checkpoints."""
    path = os.path.join(folder, "collector")
    with contextlib.suppress(OSError), open(path, encoding="ascii") as file:
        found = file.read(64).strip()
        if names.token(found) == found and len(found) == 16:
            return found
    drawn = os.urandom(8).hex()
    try:
        fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="ascii") as file:
            file.write(f"{drawn}\n")
            file.flush()
            os.fsync(file.fileno())
        os.rename(f"{path}.new", path)
    except OSError as error:
        raise KwireError("write", path, (error.strerror or "failed").lower()) from None
    return drawn


def _losses(cause: Cause, span: Span) -> bytes:
    """The LOST frames that count what was told of in these messages, as far as that is known."""
    counts = (lost_between(span) or {}).items()
    return b"".join(Lost(probe, 0, 0, count, cause=cause).frame() for probe, count in counts)


def _totals(payload: bytes) -> dict[int, int]:
    """What a source says that its probes produced, where a payload is that."""
    if len(payload) < 8 or payload[0] & 15 != Type.TABLE or read_header(payload).id != TOTALS:
        return {}
    try:
        frames = Frames.walk(payload)
        return {probe: n for at in range(frames.count) for probe, n in read_totals(frames.frame(at)).items()}
    except FrameError:
        return {}


def _schemas_only(payloads: Iterable[bytes]) -> list[bytes]:
    """Those payloads that are SCHEMAs and nothing else."""
    found = []
    for payload in payloads:
        frames, problem = Frames.walk_prefix(payload)
        if problem is None and all(frames.header(at).type == Type.SCHEMA for at in range(frames.count)):
            found.append(payload)
    return found
