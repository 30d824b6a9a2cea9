"""What things are called at a broker: subjects, message ids, keys of the bucket, headers.

Invariants: what an agent or a user says becomes one token of a subject: letters, digits, `-` and `_`; a
session is its token in 32 hexadecimal digits, so any collector finds it, and a host may be called anything.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

from kwire.errors import KwireError

STREAM: Final = "KWIRE"
BUCKET: Final = "kwire"
PREFIX: Final = "kwire"
SUBJECTS: Final = f"{PREFIX}.*.*"
"""All subjects of the stream."""

CLEANED: Final = "cleaned"
"""The key of when the bucket was cleaned last, in seconds since 1970 by the broker's clock."""

GROUP: Final = "collectors"
"""The group that collectors are in where none is named."""

MESSAGE_ID: Final = "Nats-Msg-Id"
BEFORE: Final = "Kwire-Before"
"""Header: how much of each probe the session's messages before this one told of (`counts`)."""

AFTER: Final = "Kwire-After"
"""The same with this message."""

SHORTEST: Final = 8
"""Digits of a session that name it: as many as `kwire fleet status` shows."""

REACH: Final = 512
"""Messages of a session that its source has under way at most, from the first not acknowledged on."""

MOST_COUNTED: Final = 16
"""Probes that are counted one by one; of a session with more, all together, as probe 0."""

Counts: TypeAlias = dict[int, int]
"""Events by probe, those that LOST frames tell of among them."""

_HARMFUL = re.compile(r"[^A-Za-z0-9_-]+")
_MESSAGE = re.compile(r"([0-9a-f]{32})-([0-9]{1,10})")
LONGEST: Final = 64


def token(text: str) -> str:
    """A text as one token of a subject."""
    return _HARMFUL.sub("-", text[: 4 * LONGEST]).strip("-")[:LONGEST] or "unknown"


def subject(host: str, session: bytes) -> str:
    """Where the messages of a session are published."""
    return f"{PREFIX}.{token(host)}.{session.hex()}"


def session_of(subject: str) -> str:
    """The session of a message; "" where the subject is none of ours."""
    parts = subject.split(".")
    if len(parts) == 3 and parts[0] == PREFIX and re.fullmatch(r"[0-9a-f]{32}", parts[2]):
        return parts[2]
    return ""


def host_of(subject: str) -> str:
    """The host of a message of ours, as a token."""
    return subject.split(".")[1]


def message_id(session: bytes, number: int) -> str:
    """What the broker knows a message by."""
    return f"{session.hex()}-{number}"


def number_of(message_id: str, session: str) -> int | None:
    """The sequence number in a message id; None where it is none of this session."""
    match = _MESSAGE.fullmatch(message_id)
    return int(match[2]) if match and match[1] == session and int(match[2]) < 1 << 32 else None


def group(text: str) -> str:
    """A name of a group; KwireError where it is none."""
    if not text or token(text) != text:
        raise KwireError("use", ascii(text), "it is no name of a group", "letters, digits, - and _")
    return text


def session_key(session: str) -> str:
    """The key of what is known of a session."""
    return f"session.{session}"


def schema_key(session: str, index: int | str) -> str:
    """The key of a part of its SCHEMAs; `*`: of all."""
    return f"schema.{session}.{index}"


def claims_key(group: str, session: str) -> str:
    """The key of who of a group has stored what of it."""
    return f"claims.{group}.{session}"


# --- counts, as text in a header


def add_counts(counts: Mapping[int, int], more: Iterable[Mapping[int, int]], sign: int = 1) -> Counts:
    """Counts with others added (-1: taken off)."""
    out = dict(counts)
    for each in more:
        for probe, count in each.items():
            out[probe] = out.get(probe, 0) + sign * count
    return out


def write_counts(counts: Mapping[int, int], probes: int) -> str:
    """Counts of a session with so many probes as a header's text: `1=12 2=5`."""
    if probes > MOST_COUNTED:
        counts = {0: sum(counts.values())}
    return " ".join(f"{probe}={count}" for probe, count in sorted(counts.items()) if count) or "0=0"


def read_counts(text: str | None) -> Counts | None:
    """Counts from a header; None where it has none."""
    if text is None or len(text) > 1 << 12:
        return None
    counts: Counts = {}
    for part in text.split():
        probe, equals, count = part.partition("=")
        if not equals or not probe.isdecimal() or not count.isdecimal() or len(part) > 32:
            return None
        if int(count):
            counts[int(probe)] = int(count)
    return counts
