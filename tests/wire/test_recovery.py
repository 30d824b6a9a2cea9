"""Recovery from loss over datagrams, in virtual time: how many frames a second come through a lossy path."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable

import pytest

from kwire.wire.control import Ack
from kwire.wire.frame import Flag, Type, read_header
from kwire.wire.retransmit import DatagramSender
from kwire.wire.session import Role, Session
from kwire.wire.transitions import Delivered

PAYLOAD = bytes(1400)


class Path:
    """Two sessions and a path between them with a delay, jitter and loss, both ways, in virtual time."""

    def __init__(self, seed: int, loss: float, round_trip: float, jitter: float = 0.0) -> None:
        self.random = random.Random(seed)
        self.loss, self.delay, self.jitter = loss, round_trip / 2, jitter
        self.now = 0.0
        self.order = itertools.count()
        self.heap: list[tuple[float, int, Callable[[], None]]] = []
        self.source = Session(Role.SOURCE, initiator=True, datagrams=True, random=self.random.randbytes)
        self.sink = Session(Role.SINK, initiator=False, datagrams=True, random=self.random.randbytes)
        self.stored = 0
        self.began = float("inf")
        self.source.connected(0)
        self.sink.connected(0)

    def turn(self, session: Session) -> None:
        """Send what there is to send, and be called again when the session wants it."""
        other = self.sink if session is self.source else self.source
        while session is self.source and session.known and session.unacknowledged < 100:
            session.send(PAYLOAD, self.now)
        for session_event in session.session_events():
            if isinstance(session_event, Delivered):
                self.stored += 1
                self.began = min(self.began, self.now)
                session.consumed(session_event.sequence, self.now)
        for frame in session.transmit(1 << 20, self.now):
            if self.random.random() >= self.loss:
                data = bytes(frame)
                when = self.now + self.delay + self.random.random() * self.jitter

                def arrive(data: bytes = data) -> None:
                    other.receive(data, self.now)
                    self.turn(other)

                heapq.heappush(self.heap, (when, next(self.order), arrive))

    def run(self, seconds: float = 15.0) -> float:
        """Frames stored in a second, from the first of them on."""
        for session in (self.source, self.sink):
            self.turn(session)
        while self.now < seconds:
            due = min(filter(None, (self.source.deadline(), self.sink.deadline())), default=seconds)
            if self.heap and self.heap[0][0] <= due:
                self.now, _, do = heapq.heappop(self.heap)
                do()
                continue
            self.now = max(self.now, due)
            for session in (self.source, self.sink):
                session.tick(self.now)
                self.turn(session)
        return self.stored / (seconds - self.began)

    @property
    def sender(self) -> DatagramSender:
        assert isinstance(self.source._sender, DatagramSender)
        return self.source._sender


@pytest.mark.parametrize(
    ("loss", "least"),
    [(0.05, 400), (0.1, 250), (0.3, 30)],
)
@pytest.mark.parametrize("seed", range(2))
def test_what_is_lost_costs_round_trips_and_not_timeouts(seed: int, loss: float, least: int) -> None:
    """With a round trip of 10 ms. Were what is lost twice left to the timeout, 0.3 would give 1 or 2."""
    path = Path(seed, loss, 0.01)
    assert path.run() > least
    assert path.sender.timeout_value.value < 0.3


@pytest.mark.parametrize("seed", range(2))
def test_a_path_that_reorders_is_not_taken_for_one_that_loses(seed: int) -> None:
    path = Path(seed, 0.0, 0.02, jitter=0.004)
    path.run(2.0)
    assert path.sender.resent < path.stored / 50
    assert path.sender.fast < 12


def established(frames: int) -> tuple[Session, list[bytes], Callable[[Ack, float], list[int]]]:
    """A source with so many frames under way since 0.0 s, and what it sends for an ACK at a time."""
    path = Path(1, 0.0, 0.1)
    for _ in range(4):
        for session, other in ((path.source, path.sink), (path.sink, path.source)):
            for frame in session.transmit(1 << 16, 0.0):
                other.receive(bytes(frame), 0.0)
    source = path.source
    first = source.send_queue.next
    for _ in range(frames):
        source.send(PAYLOAD, 0.0)
    sent = [bytes(frame) for frame in source.transmit(1 << 20, 0.0)]

    def answer(ack: Ack, now: float) -> list[int]:
        ranges = tuple((first + low, first + high) for low, high in ack.ranges)
        source.receive(Ack(first + ack.next, 1 << 20, ranges).frame(Flag.CHECKSUM), now)
        return [read_header(frame).id - first for frame in source.transmit(1 << 20, now)]

    return source, sent, answer


def test_what_is_sent_again_and_lost_again_is_found_without_a_timeout() -> None:
    _, sent, answer = established(8)
    assert len(sent) == 8
    assert answer(Ack(0, 0, ((1, 3),)), 0.1) == [0]  # the hole, once three after it have come
    assert answer(Ack(0, 0, ((1, 7),)), 0.11) == []  # sent before it was sent again: tells nothing of it
    source, sent, answer = established(8)
    assert answer(Ack(0, 0, ((1, 3),)), 0.1) == [0]
    for _ in range(4):
        source.send(PAYLOAD, 0.11)
    assert answer(Ack(0, 0, ((1, 7),)), 0.11) == [8, 9, 10]  # half of what was under way is room for these
    assert 0 in answer(Ack(0, 0, ((1, 8),)), 0.21)  # sent after 0 was sent again, and it came


def test_the_last_frames_of_a_flight_are_probed_for() -> None:
    source, _, answer = established(4)
    assert answer(Ack(2, 0), 0.1) == []
    times = []
    for _ in range(3):
        deadline = source.deadline()
        assert deadline is not None
        source.tick(deadline)
        frames = source.transmit(1 << 20, deadline)
        assert [read_header(frame).type for frame in frames] == [Type.DATA]
        times.append(deadline)
    assert times[0] == pytest.approx(0.3)  # two round trips after the ACK
    assert times[2] - times[1] >= times[1] - times[0]
    timeout = 0.1 + source._sender.timeout_value.value  # type: ignore[union-attr]  # a source has one
    assert times[0] < timeout


def test_a_round_trip_measured_in_an_outage_does_not_leave_every_frame_to_a_probe() -> None:
    """All that comes after the outage comes sooner than the shortest round trip known."""
    source, sent, answer = established(10)
    first = read_header(sent[0]).id
    assert answer(Ack(1, 0), 0.65) == []  # the others are lost
    stored, now, probes = 1, 0.65, 0
    while stored < 10 and probes < 20:
        deadline = source.deadline()
        assert deadline is not None
        now = deadline
        source.tick(now)
        probes += 1
        headers = [read_header(frame) for frame in source.transmit(1 << 20, now)]
        queue = [header.id - first for header in headers if header.type == Type.DATA]
        while queue:
            now += 0.001
            stored = max(stored, queue.pop(0) + 1)
            queue += answer(Ack(stored, 0), now)
    assert stored == 10
    assert probes <= 3
