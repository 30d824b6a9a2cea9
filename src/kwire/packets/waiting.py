"""Events that came before the SCHEMA of their probe: kept until it is repeated, in bounded memory.

Invariants: every event is given once, after its SCHEMA where that comes; at most ROOM bytes are kept, and
what finds no room is given as it is, of a probe that nothing describes; a probe's events stay in their order.
"""

from array import array
from collections.abc import Iterator
from typing import Final

from kwire.capture.reader import Section
from kwire.wire.fields import EVENT_LEAST
from kwire.wire.frame import Type
from kwire.wire.frames import Frames

ROOM: Final = 8 << 20  # bytes of all events that wait


class Waiting:
    """What waits, by section and probe number."""

    __slots__ = ("_held", "_kept")

    def __init__(self) -> None:
        self._kept: dict[tuple[int, int], tuple[Section, bytearray, array[int]]] = {}
        self._held = 0

    def take(self, section: Section, frames: Frames) -> Frames:
        """Keep the events without a SCHEMA; gives the other frames."""
        given = []
        for index in range(len(frames)):
            header = frames.header(index)
            here = header.type == Type.EVENT and header.length >= EVENT_LEAST
            if not here or header.id in section.schemas or self._held + header.length > ROOM:
                given.append(index)
                continue
            self._held += header.length
            _, data, offsets = self._kept.setdefault(
                (id(section), header.id), (section, bytearray(), array("Q"))
            )
            offsets.append(len(data))
            data += frames.frame_bytes(index)
        return frames.select(given)

    def described(self, section: Section, number: int) -> Frames | None:
        """The events of this probe, whose SCHEMA has come."""
        found = self._kept.pop((id(section), number), None)
        return None if found is None else self._frames(found)

    def finish(self) -> Iterator[tuple[Section, Frames]]:
        """No more SCHEMAs come: what waited for one, by section."""
        kept, self._kept = list(self._kept.values()), {}
        for one in kept:
            yield one[0], self._frames(one)

    def _frames(self, one: "tuple[Section, bytearray, array[int]]") -> Frames:
        _, data, offsets = one
        self._held -= len(data)
        return Frames(bytes(data), offsets)
