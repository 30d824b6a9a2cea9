"""What `-v` shows: every frame in and out, with what it did to the session; a line each, or a JSON object.

Invariants: nothing a peer sends reaches the terminal unescaped; a frame is shown when it is handled, refused
ones too; the lines and the objects say the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from kwire.transport.tcp import Buffer
from kwire.view.text import safe
from kwire.wire.control import Role
from kwire.wire.frame import HEADER_SIZE, TYPES, Header, Type, read_header
from kwire.wire.transitions import State, Watched

if TYPE_CHECKING:
    from kwire.transport.peer import Peer


class Watch:
    """Shows the frames of all peers that it follows, with `write` (a line, without its end)."""

    __slots__ = ("_json", "_now", "_write")

    def __init__(
        self, write: Callable[[str], None], json: bool = False, now: Callable[[], float] = time.time
    ) -> None:
        self._write = write
        self._json = json
        self._now = now

    def follow(self, peer: Peer) -> None:
        """Show the frames of this peer's session from now on."""
        peer.session.watcher = partial(self.show, peer)

    def show(self, peer: Peer, watched: Watched) -> None:
        """Show one frame."""
        seen = self.describe(peer.address, watched)
        session = peer.session
        if session.role is Role.SOURCE:
            seen["unacknowledged"] = session.unacknowledged
        else:
            seen["expected"] = session.next_expected
        self._say(seen)

    def stranger(self, address: str, data: Buffer, effect: str) -> None:
        """Show the frame at the start of `data`, of one that has no session."""
        if len(data) < HEADER_SIZE:
            header = Header(0, 0, 0, 0, 0)
        else:
            header = read_header(data)
        self._say(self.describe(address, Watched("in", header, [], effect, State.LISTENING, State.LISTENING)))

    def _say(self, seen: dict[str, Any]) -> None:
        if self._json:
            import json

            self._write(json.dumps(seen))
        else:
            self._write(line(seen))

    def describe(self, address: str, watched: Watched) -> dict[str, Any]:
        """The frame as an object: what `--json` prints."""
        header = watched.header
        known = Type(header.type) if header.type in TYPES else None
        return {
            "time": self._now(),
            "direction": watched.direction,
            "peer": address,
            "type": known.name if known is not None else f"type {header.type}",
            "id": header.id,
            "length": header.length,
            "effect": watched.effect,
            "state": watched.after.name,
            "before": watched.before.name,
            "problems": [str(problem) for problem in watched.problems],
        }


def line(seen: dict[str, Any]) -> str:
    """The object as one line: time, direction, peer, type, id, length, effect."""
    clock = time.strftime("%H:%M:%S", time.localtime(seen["time"]))
    fraction = f"{seen['time'] % 1:.6f}"[1:]
    effect = seen["effect"]
    if seen["before"] != seen["state"]:
        effect += f" ({seen['before']} → {seen['state']})"
    for problem in seen["problems"]:
        effect += f"; {problem}"
    if "unacknowledged" in seen:
        effect += f"; {seen['unacknowledged']} unacknowledged"
    if "expected" in seen:
        effect += f"; all before {seen['expected']} stored"
    arrow = "<-" if seen["direction"] == "in" else "->"
    what = f"{seen['type']} id {seen['id']} length {seen['length']}"
    return safe(f"{clock}{fraction} {arrow} {seen['peer']} {what}: {effect}")
