"""The source's half of a session over a byte stream: what is sent, what is acknowledged.

Invariants: DATA goes out in order, at most the sink's window of bytes (and `reach` frames) beyond what it has
stored; the stream is reliable, so nothing is sent twice except after a resumption, which starts again at what
the sink has. BYE takes the sequence number after the last DATA.
"""

from __future__ import annotations

from collections import deque

from kwire.wire.control import Ack, bye_frame
from kwire.wire.frame import HEADER, HEADER_SIZE, MASK, VERSION, Type, distance
from kwire.wire.send_queue import Buffer, SendQueue
from kwire.wire.settings import Settings

DATA_HEAD = VERSION << 4 | Type.DATA
FOREVER = float("inf")


class Sender:
    """Sends what is in the send queue. `known` is true where some of it may have been sent before.

    `base`: the oldest number not acknowledged; `cursor`: the next to be sent; `top`: the first that was never
    sent; `deadline`: when `timeout` is to be called.
    """

    __slots__ = (
        "_ended",
        "_outstanding",
        "_sizes",
        "base",
        "bye",
        "cursor",
        "deadline",
        "reach",
        "send_queue",
        "top",
        "window",
    )

    def __init__(self, send_queue: SendQueue, settings: Settings, known: bool) -> None:
        self.send_queue = send_queue
        self.base = self.cursor = send_queue.first
        self.top = send_queue.next if known else send_queue.first
        self.window = 0
        self.reach = settings.reach
        self.bye: str | None = None  # the reason, once BYE is to be sent
        self.deadline = FOREVER
        self._ended = False  # BYE is acknowledged
        self._sizes: deque[int] = deque()  # of base to cursor - 1
        self._outstanding = 0  # their sum

    @property
    def end(self) -> int:
        """The number after the last that is to be sent: BYE's is the last where there is one."""
        return self.send_queue.next if self.bye is None else (self.send_queue.next + 1) & MASK

    @property
    def position(self) -> int:
        """The first number of DATA that can still be sent: what HELLO and WELCOME say as `next`."""
        return self.send_queue.next if self._ended else self.base

    @property
    def finished(self) -> bool:
        """True once BYE, and so all DATA, is acknowledged."""
        return self._ended

    def unacknowledged(self) -> list[int]:
        """The numbers of all DATA that the sink has not stored, as far as we know."""
        count = distance(self.base, self.send_queue.next)
        return [(self.base + step) & MASK for step in range(max(count, 0))]

    def may_acknowledge(self, next: int) -> bool:
        """True unless `next` acknowledges what was never sent."""
        return distance(next, self.top) >= 0

    def start(self, next: int, window: int, now: float) -> None:
        """Begin, or go on after an interruption, with a sink that has everything before `next`."""
        self._release(next)
        self.window = window
        self.cursor = self.base
        self._sizes.clear()
        self._outstanding = 0

    def stop(self) -> None:
        """The transport is gone."""
        self.deadline = FOREVER

    def acknowledged(self, ack: Ack, now: float) -> None:
        """The sink says what it has; `may_acknowledge(ack.next)` was true."""
        count = distance(self.base, ack.next)
        if count < 0:
            return  # late: a newer one has come
        self.window = ack.window
        for _ in range(min(count, len(self._sizes))):
            self._outstanding -= self._sizes.popleft()
        self._release(ack.next)

    def pull(self, out: list[Buffer], limit: int, now: float) -> None:
        """Append to `out` the frames that may go now, about `limit` bytes."""
        send_queue, end = self.send_queue, self.send_queue.next
        while limit > 0 and distance(self.cursor, end) > 0:
            payload = send_queue.get(self.cursor)
            size = len(payload)
            if not self._fits(size):
                return
            out.append(HEADER.pack(DATA_HEAD, 0, HEADER_SIZE + size, self.cursor))
            out.append(payload)
            self._count(size)
            limit -= HEADER_SIZE + size
        if self.bye is not None and self.cursor == end:
            out.append(bye_frame(end, self.bye))
            self._count(0)

    def timeout(self, now: float) -> bool:
        """The deadline has come; true where the sink is to be probed with a KEEPALIVE."""
        self.deadline = FOREVER
        return False

    def _fits(self, size: int) -> bool:
        """True where the sink's window takes `size` more bytes; a lone frame fits any window but none."""
        if not self._sizes:
            return self.window > 0
        return self._outstanding + size <= self.window and len(self._sizes) < self.reach

    def _count(self, size: int) -> None:
        self._sizes.append(size)
        self._outstanding += size
        if self.cursor == self.top:
            self.top = (self.top + 1) & MASK
        self.cursor = (self.cursor + 1) & MASK

    def _release(self, next: int) -> None:
        """Everything before `next` is stored by the sink."""
        if distance(self.base, next) <= 0:
            return
        if self.bye is not None and distance(self.send_queue.next, next) > 0:
            self._ended = True
        self.base = next
        if distance(self.cursor, next) > 0:
            self.cursor = next
        self.send_queue.release((next - 1) & MASK)
