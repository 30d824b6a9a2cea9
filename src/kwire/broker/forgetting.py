"""What a broker need not know any more of sessions: removed by collectors where nothing is left of one, or by
people where its host is gone.

Invariants: a session of which the stream has a message stays, as whoever reads that needs its SCHEMAs and its
claims; so does one whose source may go on with it: until it has ended, every group that began it has all of
it, and all captures that it is in have their ending, or nobody has written anything of it for `KEPT`. A
source whose session is gone begins another one (`kwire.broker.sessions.Gone`), a collector gives what it has
of it its ending. Times are the broker's. The entry of a session goes first, so that what is left of a removal
that was interrupted is seen: the next one removes it; and so that collectors count what its agent, which may
be there, still publishes (`kwire.collector.intake`).
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from kwire.broker import names
from kwire.broker.address import BrokerAddress
from kwire.broker.claims import Claims, ClaimsError
from kwire.broker.client import BrokerError, Connection, acknowledged, plain
from kwire.broker.overview import SessionView, overview
from kwire.broker.sessions import last_of, read_entry
from kwire.errors import KwireError
from kwire.words import plural

KEPT: Final = 7 * 86400.0
"""Seconds after which a session is removed that has not ended, or that a group has not all of, when nothing
of it is in the stream and nobody has written of it.
"""

MISSED: Final = 3
"""So often in a row a source has not said that it is there when it counts as gone."""


class Cleaner:
    """Removes what need not be known; for one collector of a broker, that others may be cleaning too."""

    def __init__(self, every: float) -> None:
        """Not more often than `every` so many seconds, whoever does it."""
        self._every = every
        self._orphans: frozenset[str] = frozenset()

    async def clean(self, connection: Connection) -> int:
        """Look at all sessions; how many were removed."""
        now = await self._turn(connection)
        if not now:
            return 0
        keys = await connection.keys()
        sessions = {key.partition(".")[2] for key in keys if key.startswith("session.")}
        claims: dict[str, list[str]] = {}
        for key in keys:
            if key.startswith("claims."):
                claims.setdefault(key.rpartition(".")[2], []).append(key)
        removed = 0
        for session in sorted(sessions):
            if await _spent(connection, session, claims.get(session, ()), now):
                await remove(connection, session)
                removed += 1
        # SCHEMAs are there before their session is: what had none the last time, too, will have none.
        those = {key.split(".")[1] for key in keys if key.startswith("schema.")} | claims.keys()
        orphans = frozenset(those - sessions)
        for session in sorted(orphans & self._orphans):
            await remove(connection, session)
        self._orphans = orphans
        return removed

    async def _turn(self, connection: Connection) -> float:
        """The broker's time, where it is our turn; 0: others have just cleaned, or do."""
        value, revision = await connection.get(names.CLEANED)
        cleaned = float(value or 0)  # the time is kept: each look is a write, which is how we learn the time
        if not await connection.swap(names.CLEANED, value or b"0", revision):
            return 0.0
        now = await connection.written(names.CLEANED)
        if now - cleaned < self._every / 2:
            return 0.0
        _, revision = await connection.get(names.CLEANED)
        return now if await connection.swap(names.CLEANED, b"%.3f" % now, revision) else 0.0


async def _spent(connection: Connection, session: str, keys: Iterable[str], now: float) -> bool:
    """Whether nobody needs anything of a session any more. `keys`: those of its claims."""
    entry = read_entry((await connection.get(names.session_key(session)))[0])
    if entry is None or await last_of(connection, session) is not None:
        return False
    try:
        claims = [Claims.read((await connection.get(key))[0]) for key in keys]
    except ClaimsError:  # somebody has to look at that
        return False
    ended = any(one.end is not None for one in claims)
    if ended and all(one.spent for one in claims):
        return True
    if not ended and not entry.touched:  # its source is of an earlier release, and may be there
        return False
    written = [await connection.written(key) for key in (names.session_key(session), *keys)]
    return now - max(written) > KEPT


async def remove(connection: Connection, session: str) -> None:
    """Remove all values of a session."""
    for keys in (names.session_key(session), names.claims_key("*", session), names.schema_key(session, "*")):
        await connection.remove(keys)


class Forgotten(NamedTuple):
    """A session that was removed: its messages that were in the stream, and how many of these a group had not
    collected, at most.
    """

    host: str
    session: str
    messages: int
    uncollected: int


async def forget(connection: Connection, address: BrokerAddress, which: str, force: bool) -> list[Forgotten]:
    """Remove all that the broker has of a host, by its name, or of a session; also what a removal that was
    interrupted has left. BrokerError where there is nothing, or its agent may be there, or messages are
    still to be collected and `force` is not given.
    """
    found = await overview(connection, address, 0.0)
    if found.clock and not force:
        cure = "see that the agent is gone; --force does without its clock"
        raise BrokerError("forget", which, found.clock, cure)
    groups = {one.name for one in found.groups}
    every = [_Candidate(one.host, one.session, _uncollected(one, groups), one) for one in found.sessions]
    try:
        every += await _remains(connection, {one.session for one in every})
        chosen = _chosen(every, which)
        if not chosen:
            cause = "there is no such host or session at the broker"
            raise BrokerError("forget", which, cause, f"kwire fleet status --all {address} shows them")
        if not force:
            for one in chosen:
                _check(one, which)
        return [await _forget(connection, one) for one in chosen]
    except KwireError:
        raise
    except Exception as error:
        raise BrokerError("forget", which, plain(error)[0]) from None


class _Candidate(NamedTuple):
    """What may be forgotten: a session, by the name of its host, and messages that a group has not collected.
    `view`: how it is; None: its entry is gone, and the host is a token of a subject.
    """

    host: str
    session: str
    waiting: int
    view: SessionView | None


async def _forget(connection: Connection, one: _Candidate) -> Forgotten:
    """Remove a session: its entry first, its claims last."""
    subject = f"{names.PREFIX}.*.{one.session}"
    messages = sum((await connection.subjects(names.STREAM, subject)).values())
    await connection.remove(names.session_key(one.session))
    await connection.js.purge_stream(names.STREAM, subject=subject)
    await remove(connection, one.session)
    return Forgotten(one.host, one.session, messages, min(one.waiting, messages))


async def _remains(connection: Connection, known: set[str]) -> list[_Candidate]:
    """Sessions whose entry was removed and of which the stream has messages still."""
    found = []
    there = await connection.subjects(names.STREAM, names.SUBJECTS)
    floors: list[int] | None = None
    for subject, messages in there.items():
        session = names.session_of(subject)
        if not session or session in known or (await connection.get(names.session_key(session)))[1]:
            continue
        if floors is None:
            groups = await connection.js.consumers_info(names.STREAM)
            floors = [acknowledged(one) for one in groups]
        last = await connection.js.get_last_msg(names.STREAM, subject, direct=False)
        taken = min(floors, default=0) >= (last.seq or 0)
        found.append(_Candidate(names.host_of(subject), session, 0 if taken else messages, None))
    return found


def _chosen(every: Iterable[_Candidate], which: str) -> list[_Candidate]:
    """Those of a host, or the one that begins so. BrokerError where several do."""
    every = list(every)
    if found := [one for one in every if one.host == (which if one.view else names.token(which))]:
        return found
    found = [one for one in every if len(which) >= names.SHORTEST and one.session.startswith(which.lower())]
    if len(found) > 1:
        raise BrokerError("forget", which, f"{len(found)} sessions begin so", "write more of its digits")
    return found


def _uncollected(view: SessionView, groups: set[str]) -> int:
    """Messages of a session that some group has not claimed; those that are gone by the limits among them."""
    if view.silent is None:  # there is none any more
        return 0
    return max([view.lag.get(one, view.messages) for one in groups] or [view.messages])


def _check(one: _Candidate, which: str) -> None:
    """BrokerError where a session should not be removed."""
    view, name = one.view, f"session {one.session[: names.SHORTEST]}" if which == one.host else "it"
    if view is not None and not view.over and not view.touched:
        cause = f"the agent of {name} is of an earlier release, which does not say whether it is there"
        raise BrokerError("forget", which, cause, "see that it is gone; --force removes it then")
    if view is not None and not view.over and view.heard < MISSED * view.touched:
        cause = f"the agent of {name} was there {plural(int(view.heard), 'second')} ago"
        minutes = MISSED * view.touched // 60
        cure = f"end it, or wait: {minutes} minutes after its last word it counts as gone (--force)"
        raise BrokerError("forget", which, cause, cure)
    if one.waiting:
        cause = f"{plural(one.waiting, 'message')} of {name} are still to be collected"
        raise BrokerError("forget", which, cause, "collect first; --force removes them uncollected")
