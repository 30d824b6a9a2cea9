"""What a broker has of a session: who its source is, its first number, its SCHEMAs, its last message.

Invariants: what the bucket has is written before the first message, so whoever gets a message can read it;
SCHEMAs are in parts of whole payloads that fit a value; the nonce of the HELLO that had the session last
shows copies of a source, as between agents and collectors (`kwire.wire.lineage`). What is read was written by
others: it is text, short, or refused.
"""

import time
import zlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any, Final, NamedTuple

from kwire.broker import names
from kwire.broker.client import BrokerError, Connection, plain
from kwire.broker.names import Counts, schema_key, session_key
from kwire.errors import KwireError
from kwire.wire import cbor
from kwire.wire.frame import HEADER_SIZE, MASK, Type
from kwire.wire.keyed import INTEGER, MAP, TEXT, Key, read_payload
from kwire.wire.lineage import follows

PART: Final = 512 << 10
"""Bytes of SCHEMAs in a value."""

MOST_PARTS: Final = 64
"""Parts of SCHEMAs of one session: 32 MB."""

SAID: Final = 256
"""Characters kept of what a source says of itself."""

TOUCH: Final = 600
"""Seconds after which a source that is connected writes again that a session is its own."""

_KEYS: Final = {
    "first": Key(INTEGER, "the sequence number of its first message"),
    "nonce": Key(INTEGER, "of the HELLO that has it"),
    "schemas": Key(INTEGER, "parts of its SCHEMAs"),
    "about": Key(MAP, "who its source says it is"),
    "began": Key(INTEGER, "when, ns since 1970"),
    "touched": Key(INTEGER, "seconds after which its source writes this again; 0: it does not", 0),
    "size": Key(INTEGER, "bytes of its SCHEMAs; 0: not told", 0),
    "check": Key(INTEGER, "their CRC-32", 0),
    "tool": Key(TEXT, "what wrote this", ""),
}


_COUNTS: Final = ("began", "touched", "size", "check")


class Entry(NamedTuple):
    """What the bucket has of a session."""

    first: int
    nonce: int
    schemas: int
    about: dict[str, str]
    began: int
    touched: int
    size: int = 0
    check: int = 0

    @property
    def name(self) -> str:
        """What people call its source; empty where that does not say."""
        return self.about.get("name") or self.about.get("host", "")

    def described(self, payload: bytes) -> bytes:
        """The SCHEMAs of the session, where a payload begins with all of them; else nothing."""
        found = payload[: self.size]
        return found if len(found) == self.size and zlib.crc32(found) == self.check else b""

    def pack(self) -> bytes:
        """As a value of the bucket."""
        return cbor.dumps(self._asdict())


def read_entry(value: bytes) -> Entry | None:
    """A value of the bucket; None where it is no entry."""
    try:
        found = read_payload(cbor.loads_map(value), _KEYS, 0)
    except (KwireError, ValueError):
        return None
    first, nonce, schemas = (int(found[name]) for name in ("first", "nonce", "schemas"))
    if not (0 <= first <= MASK and 0 <= nonce <= MASK and 0 <= schemas <= MOST_PARTS):
        return None
    about = {str(key)[:SAID]: str(value)[:SAID] for key, value in list(found["about"].items())[:16]}
    return Entry(first, nonce, schemas, about, *(int(found[name]) for name in _COUNTS))


class Gone(Enum):
    """Why a session is no longer a source's."""

    SUPERSEDED = "another copy of this source went on with it"
    FORGOTTEN = "the broker knows nothing more of the one before"


async def take_up(
    connection: Connection,
    session: str,
    entry: Entry,
    after: Sequence[int],
    schemas: Sequence[bytes],
    begun: bool,
) -> tuple[Entry, bool] | Gone:
    """Have a session, new or known, for the source whose HELLO is `entry.nonce`, after those of `after`.

    `begun`: some of it was published, so the bucket knows it where it was not removed. Gives what the bucket
    has of it now, and whether it was there before; or why it cannot be had. BrokerError: the SCHEMAs are too
    many.
    """
    key = session_key(session)
    while True:
        value, revision = await connection.get(key)
        known = read_entry(value) if revision else None
        if known is None and begun:
            return Gone.FORGOTTEN
        if known is None:
            parts = join(schemas)
            if len(parts) > MOST_PARTS:
                cure = "record fewer probes at once"
                raise BrokerError("publish", "SCHEMAs", "they are larger than 32 MB", cure)
            for index, part in enumerate(parts):
                await connection.bucket.put(schema_key(session, index), part)
            size, check = sum(map(len, parts)), zlib.crc32(b"".join(parts))
            now = entry._replace(schemas=len(parts), size=size, check=check)
        elif not follows(known.nonce, entry.nonce, after):
            return Gone.SUPERSEDED
        else:
            now = known._replace(nonce=entry.nonce, touched=entry.touched)
        if await connection.swap(key, now.pack(), revision):
            return now, known is not None


async def touch(connection: Connection, session: str, nonce: int) -> bool:
    """Write again that a session is that of the HELLO with this nonce; False where it is not any more."""
    key = session_key(session)
    while True:
        value, revision = await connection.get(key)
        known = read_entry(value) if revision else None
        if known is None or known.nonce != nonce:
            return False
        if await connection.swap(key, value, revision):
            return True


async def schemas_of(connection: Connection, session: str, entry: Entry) -> list[bytes]:
    """The SCHEMAs of a session, as payloads of whole frames. BrokerError where they are not all there."""
    found = []
    for index in range(entry.schemas):
        key = schema_key(session, index)
        value, revision = await connection.get(key)
        if not revision:
            raise BrokerError("read", f"session {session}", f"the bucket has no {key}")
        found.append(value)
    return found


class Last(NamedTuple):
    """The last message of a session that the broker has: its number; what all up to it hold (None: it does
    not say); whether it is BYE; when it came, in seconds since 1970.
    """

    number: int
    counts: Counts | None
    bye: bool
    when: float


def is_bye(payload: bytes) -> bool:
    """Whether a message is BYE."""
    return len(payload) >= HEADER_SIZE and payload[0] & 15 == Type.BYE


async def last_of(connection: Connection, session: str) -> Last | None:
    """The last message of a session; None where the broker has none. BrokerError where it does not say."""
    from nats.js.errors import NotFoundError

    try:
        found = await connection.js.get_last_msg(names.STREAM, f"{names.PREFIX}.*.{session}", direct=False)
    except NotFoundError:
        return None
    except Exception as error:
        raise BrokerError("read", names.STREAM, plain(error)[0]) from None
    headers, when = found.headers or {}, found.time
    number = names.number_of(headers.get(names.MESSAGE_ID, ""), session)
    if number is None:
        return None
    counts = names.read_counts(headers.get(names.AFTER))
    moment = when.timestamp() if isinstance(when, datetime) else time.time()
    return Last(number, counts, is_bye(found.data or b""), moment)


def join(payloads: Sequence[bytes]) -> list[bytes]:
    """Payloads joined to parts of at most PART bytes, where one is not longer."""
    parts: list[bytes] = []
    for payload in payloads:
        if parts and len(parts[-1]) + len(payload) <= PART:
            parts[-1] += payload
        else:
            parts.append(bytes(payload))
    return parts


def about(said: Mapping[str, Any]) -> dict[str, str]:
    """What a source says of itself, as text."""
    return {name: str(said.get(name, ""))[:SAID] for name in ("host", "kernel", "tool", "name")}
