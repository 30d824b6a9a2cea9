"""Events of life: what a process that serves others, or delivers to them, tells people as it happens.

Invariants: the table `EVENTS` is all there is, with the level of each: whoever tells something names its
event, and nobody else decides how grave it is. Each is one line.
"""

from typing import Final, NamedTuple, Protocol

LEVELS: Final = ("debug", "info", "warning", "error")
"""From the one that matters least to the one that matters most."""


class Log(Protocol):
    """Who is told: one line of text, and the event of `EVENTS` that it is."""

    def __call__(self, text: str, event: str = "note", /) -> object:
        """Tell it."""


class Event(NamedTuple):
    """How grave an event is, and what it means."""

    level: str
    meaning: str


EVENTS: Final[dict[str, Event]] = {
    "error": Event("error", "the process ends for this"),
    "certificate": Event("error", "one side refuses the other's certificate; it is tried again"),
    "disk": Event("error", "a disk does not take what it should, or not all of it is there any more"),
    "events_lost": Event("error", "events find no room, or are gone, and are counted lost"),
    "failure": Event("error", "kwire itself failed; what it concerns has ended, the rest goes on"),
    "handshake": Event("warning", "somebody connected and got no session: of TLS, HELLO or time"),
    "refused": Event("warning", "somebody said HELLO and got no session"),
    "unreachable": Event("warning", "a connection did not come about, or was lost; it is tried again"),
    "session_lost": Event("warning", "a session has no connection; it may be taken up again"),
    "session_anew": Event("warning", "a session could not be taken up again: another one begins"),
    "configuration": Event(
        "warning", "a configuration that is read again is wrong: the one before is in force"
    ),
    "peer": Event("warning", "the other side broke the protocol, or says that we did"),
    "held_back": Event("warning", "lines were held back, and how many"),
    "listening": Event("info", "where somebody may connect"),
    "connected": Event("info", "the collector or the broker takes what is sent"),
    "session_begun": Event("info", "an agent or a client has come"),
    "session_back": Event("info", "a session has a connection again"),
    "session_ended": Event("info", "a session has ended, and what came of it"),
    "trace_begun": Event("info", "a client's trace has begun"),
    "trace_changed": Event("info", "a client's trace has other probes, as the agent lists others"),
    "capture": Event("info", "a file is begun, or has another name than was asked for"),
    "disk_well": Event("info", "a disk takes what it should again"),
    "spool": Event("info", "what an earlier agent has left is delivered"),
    "note": Event("info", "anything else"),
    "summary": Event("info", "what there was in all, at the end"),
    "stranger": Event("debug", "a connection ended before anything was said"),
}
"""Event → how grave it is, and what it means."""


def reaches(event: str, level: str) -> bool:
    """Whether an event is as grave as `level`, or more."""
    return LEVELS.index(EVENTS[event].level) >= LEVELS.index(level)


def markdown() -> str:
    """The table as docs/metrics.md has it."""
    rows = ["| Event | Level | |", "|---|---|---|"]
    rows += [f"| `{name}` | {event.level} | {event.meaning} |" for name, event in EVENTS.items()]
    return "\n".join(rows) + "\n"
