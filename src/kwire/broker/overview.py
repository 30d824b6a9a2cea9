"""How a fleet is, read from its broker: the stream, the groups that collect, the sessions.

Invariants: nothing is changed by looking (to be asked for its time, a broker wants a write, which changes no
value); sessions are those that the bucket knows; what a message says of itself is believed as far as it is
sound.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, NamedTuple, TypeVar

from kwire.broker import names
from kwire.broker.address import BrokerAddress
from kwire.broker.claims import Claims
from kwire.broker.client import BrokerError, Connection, absent, plain
from kwire.broker.sessions import Last, last_of, read_entry
from kwire.broker.setup import stream
from kwire.errors import KwireError
from kwire.wire.frame import MASK

T = TypeVar("T")
R = TypeVar("R")

AT_ONCE: Final = 64
"""Questions under way."""


class Group(NamedTuple):
    """What a group has not taken yet: messages to be delivered, and those delivered and not acknowledged."""

    name: str
    pending: int
    unacknowledged: int


class SessionView(NamedTuple):
    """A session: events are those that its messages tell of, LOST ones among them; None: not told.

    `lag`: messages that a group has not claimed, by its name; `discarded`: events that it counted as
    discarded by the broker; `silent`: seconds since its last message, None where the broker has none of it;
    `heard`: seconds since its source was there, as far as the broker knows; `touched`: seconds after which
    that says so again, 0: it does not.
    """

    host: str
    session: str
    began: int
    over: bool
    messages: int
    events: int | None
    rate: float | None
    silent: float | None
    heard: float
    touched: int
    lag: dict[str, int]
    discarded: dict[str, int]


class Overview(NamedTuple):
    """A fleet: messages and bytes of the stream, its groups and sessions. `clock`: why times are by this
    machine's clock; empty: they are by the broker's.
    """

    messages: int
    bytes: int
    groups: list[Group]
    sessions: list[SessionView]
    clock: str


async def overview(connection: Connection, address: BrokerAddress, seconds: float) -> Overview:
    """Look, and again after so many seconds, for rates; times are by the broker's clock, where that can be
    read. BrokerError where the broker does not tell.
    """
    clock = ""
    info = await stream(connection.js, address)
    if info is None:
        raise absent(f"stream {names.STREAM}", address)
    try:
        groups = [
            Group(one.name, one.num_pending or 0, one.num_ack_pending or 0)
            for one in await connection.js.consumers_info(names.STREAM)
        ]
        keys = await connection.keys()
        sessions = sorted(key.partition(".")[2] for key in keys if key.startswith("session."))
        before = dict(zip(sessions, await _each(sessions, lambda one: last_of(connection, one)), strict=True))
        start = time.monotonic()
        await asyncio.sleep(seconds)
        after = dict(zip(sessions, await _each(sessions, lambda one: last_of(connection, one)), strict=True))
        passed = max(time.monotonic() - start, 1e-3)
        try:
            now = await connection.now()
        except BrokerError as error:
            now, clock = time.time(), str(error)
        claims: dict[str, dict[str, Claims]] = {}
        known = [key for key in keys if key.startswith("claims.")]
        for key, found in zip(known, await _each(known, lambda one: _claims(connection, one)), strict=True):
            _, group, session = key.split(".")
            if found is not None:
                claims.setdefault(session, {})[group] = found
        views = await _each(
            sessions,
            lambda one: _view(connection, one, before[one], after[one], passed, claims.get(one, {}), now),
        )
    except KwireError:
        raise
    except Exception as error:
        raise BrokerError("look at", str(address), plain(error)[0]) from None
    state = info.state
    return Overview(state.messages, state.bytes, groups, [view for view in views if view is not None], clock)


async def _view(
    connection: Connection,
    session: str,
    before: Last | None,
    last: Last | None,
    passed: float,
    claims: dict[str, Claims],
    now: float,
) -> SessionView | None:
    entry = read_entry((await connection.get(names.session_key(session)))[0])
    if entry is None:
        return None
    when = max(await connection.written(names.session_key(session)), last.when if last is not None else 0.0)
    messages = ((last.number - entry.first) & MASK) + 1 if last is not None else 0
    events, rate = _events(last), None
    if events is not None:
        rate = (events - (_events(before) or 0)) / passed
    return SessionView(
        entry.name,
        session,
        entry.began,
        (last is not None and last.bye) or any(one.end is not None for one in claims.values()),
        messages,
        events,
        rate,
        max(0.0, now - last.when) if last is not None else None,
        max(0.0, now - when),
        entry.touched,
        {group: max(0, messages - one.messages_claimed) for group, one in sorted(claims.items())},
        {group: one.discarded for group, one in sorted(claims.items())},
    )


def _events(last: Last | None) -> int | None:
    """How many events a session's messages tell of; None where that is not known."""
    return sum(last.counts.values()) if last is not None and last.counts is not None else None


async def _claims(connection: Connection, key: str) -> Claims | None:
    try:
        return Claims.read((await connection.get(key))[0])
    except KwireError:
        return None


async def _each(items: Iterable[T], ask: Callable[[T], Awaitable[R]]) -> list[R]:
    """Ask about each, some at a time."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(item: T) -> R:
        async with gate:
            return await ask(item)

    return list(await asyncio.gather(*(one(item) for item in items)))
