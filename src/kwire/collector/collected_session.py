"""A session being collected, with what the collector knows of it; and the place where captures go.

Invariant: what an agent says of itself is text, and short.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from kwire.collector.folder import Folder
from kwire.collector.store import Options, Store
from kwire.collector.stored_session import StoredSession
from kwire.transport import clock
from kwire.transport.loop import Timer
from kwire.transport.peer import Peer
from kwire.wire.session import Session

TEXT: Final = 256
"""Characters kept of what an agent says of itself."""


class CaptureTarget(NamedTuple):
    """Where captures go: a folder, and with `merged` the one file of all."""

    folder: Folder
    merged: str = ""
    options: Options = Options()


def about_of(said: Mapping[str, Any], identity: str, origin: str, address: str) -> dict[str, str]:
    """What a checkpoint says of a session's source, short and as text. `said`: by itself."""
    about = {name: str(said.get(name, ""))[:TEXT] for name in ("host", "kernel", "tool", "name")}
    return about | {"identity": identity, "origin": origin, "transport": address.partition(":")[0]}


class CollectedSession:
    """A session being collected."""

    __slots__ = (
        "address",
        "anchored",
        "asked",
        "asking",
        "begun",
        "estimator",
        "held",
        "identity",
        "origin",
        "over",
        "peer",
        "ready",
        "resumed",
        "session",
        "since",
        "store",
        "stored_session",
        "timer",
        "told",
        "waiting",
    )

    def __init__(self, session: Session, identity: str, address: str, origin: str) -> None:
        self.session = session
        self.identity = identity
        self.address = address
        self.origin = origin  # the address that we connect to; empty where the agent connects
        self.resumed = session.known  # a checkpoint remembers it
        self.begun = False  # and some of it is stored
        self.asked = 0  # the number of the REQUEST that began its trace, where we connect
        self.asking = 0  # the number of the question for its clock that is not answered yet
        self.over = False  # it has ended before: there can be nothing more to take
        self.since = 0  # when it was taken up last, in seconds since 1970
        self.told = False  # that the disk takes nothing
        self.peer: Peer | None = None
        self.store: Store | None = None
        self.stored_session: StoredSession | None = None
        self.held: list[tuple[int, bytes]] = []  # not yet given to the store
        self.ready = False  # the store may have it
        self.estimator = clock.Estimator()
        self.anchored = 0  # the offset that the capture goes by
        self.timer: Timer | None = None  # of the next question for the clock
        self.waiting: Timer | None = None  # of the end of our patience

    @property
    def about(self) -> dict[str, str]:
        """What the agent says of itself, short and as text."""
        return about_of(self.session.peer_about, self.identity, self.origin, self.address)

    @property
    def name(self) -> str:
        """What people call it."""
        about = self.session.peer_about
        return str(about.get("name") or about.get("host") or self.address)[:TEXT]
