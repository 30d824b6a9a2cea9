"""What a source has sent, or is to send, and the sink has not acknowledged; and the queue in memory.

Invariants: payloads are put in the order of their sequence numbers, without holes; they are kept until they
are released; a queue holds a bounded number of bytes. One payload always fits an empty one.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol, TypeAlias

from kwire.wire.frame import MASK, distance

Buffer: TypeAlias = "bytes | bytearray | memoryview"


class SendQueue(Protocol):
    """Keeps the payloads `first` to `next` - 1 of the session's DATA.

    One that outlives its process never gives a number twice: what was sent under a number is there again
    after a restart, or the numbers go on after it.
    """

    @property
    def first(self) -> int:
        """The oldest sequence number kept; `next` where nothing is."""

    @property
    def next(self) -> int:
        """The sequence number of the payload to be put next."""

    @property
    def room(self) -> int:
        """Bytes of payload that it can still take."""

    def put(self, sequence: int, payload: Buffer) -> None:
        """Keep `payload`, whose number is `next`. It is copied if it may change."""

    def get(self, sequence: int) -> Buffer:
        """The payload of a number from `first` to `next` - 1."""

    def release(self, upto: int) -> None:
        """Forget the payloads up to and including `upto`."""


class MemorySendQueue:
    """An SendQueue in memory, of at most `size` bytes, whose first number is `first`."""

    __slots__ = ("_first", "_payloads", "_size", "_used")

    def __init__(self, size: int, first: int = 0) -> None:
        self._payloads: deque[bytes] = deque()
        self._first = first & MASK
        self._size = size
        self._used = 0

    @property
    def first(self) -> int:
        """The oldest sequence number kept."""
        return self._first

    @property
    def next(self) -> int:
        """The sequence number of the payload to be put next."""
        return (self._first + len(self._payloads)) & MASK

    @property
    def room(self) -> int:
        """Bytes of payload that it can still take."""
        return max(self._size - self._used, 0)

    def put(self, sequence: int, payload: Buffer) -> None:
        """Keep a copy of `payload`, whose number is `next`."""
        assert sequence == self.next
        kept = bytes(payload)  # no copy where it is bytes
        self._payloads.append(kept)
        self._used += len(kept)

    def get(self, sequence: int) -> bytes:
        """The payload of a number from `first` to `next` - 1."""
        return self._payloads[(sequence - self._first) & MASK]

    def release(self, upto: int) -> None:
        """Forget the payloads up to and including `upto`."""
        for _ in range(min(distance(self._first, upto) + 1, len(self._payloads))):
            self._used -= len(self._payloads.popleft())
            self._first = (self._first + 1) & MASK
