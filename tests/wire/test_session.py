"""A session's own laws, beyond the table: hostile bytes, bounds, timers, numbers, control frames."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kwire.errors import KwireError
from kwire.wire import cbor
from kwire.wire.control import (
    MAX_HELLO,
    PADDED_HELLO,
    Ack,
    Hello,
    Role,
    Welcome,
    bye_frame,
    hello_problem,
    peek_hello,
    refusal,
    unknown,
)
from kwire.wire.frame import (
    MASK,
    Code,
    Flag,
    FrameError,
    Type,
    before,
    build,
    distance,
    later,
    pack_header,
    read_header,
    read_strict,
)
from kwire.wire.frames import FrameBuffer
from kwire.wire.lineage import Lineage
from kwire.wire.receiver import Receiver
from kwire.wire.retransmit import Timeout
from kwire.wire.send_queue import MemorySendQueue
from kwire.wire.session import Session, SessionError, Settings, State
from kwire.wire.settings import LIMITS
from kwire.wire.transitions import Abandoned, Changed, Complained, Delivered, Replied, Requested, Watched

TOKEN = bytes(range(16))
EVENT = build(Type.EVENT, 1, bytes(24))
WORDS = st.integers(0, MASK)


class Pair:
    """Two sessions and nothing between them."""

    def __init__(self, datagrams: bool = False, source_initiates: bool = True, **rest: Any) -> None:
        common = {"datagrams": datagrams, "settings": Settings(**rest)}
        self.source = Session(Role.SOURCE, initiator=source_initiates, about={"host": "a"}, **common)  # type: ignore[arg-type]
        self.sink = Session(Role.SINK, initiator=not source_initiates, about={"host": "b"}, **common)  # type: ignore[arg-type]
        self.now = 100.0
        self.got: list[Any] = []
        self.store = True
        for session in (self.source, self.sink):
            session.connected(self.now)
        self.run()

    def pump(self, sender: Session, lost: Callable[[int, bytes], bool] = lambda index, frame: False) -> int:
        """What one has to send reaches the other; gives how many buffers."""
        other = self.sink if sender is self.source else self.source
        buffers = sender.transmit(1 << 20)
        for index, buffer in enumerate(buffers):
            if not lost(index, bytes(buffer)):
                other.receive(buffer, self.now)
                self.took(other)
        return len(buffers)

    def took(self, session: Session) -> None:
        for session_event in session.session_events():
            if isinstance(session_event, Delivered):
                session_event = Delivered(session_event.sequence, bytes(session_event.payload))
                if self.store:
                    session.consumed(session_event.sequence, self.now)
            self.got.append(session_event)

    def run(self) -> None:
        """Until nothing is to be sent."""
        while self.pump(self.source) + self.pump(self.sink):
            pass

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for session in (self.source, self.sink):
            session.tick(self.now)
            self.took(session)

    def told(self, kind: type) -> list[Any]:
        return [one for one in self.got if isinstance(one, kind)]


# ---- sequence numbers


@given(WORDS, st.integers(0, (1 << 31) - 1))
def test_numbers_wrap(start: int, steps: int) -> None:
    end = (start + steps) & MASK
    assert distance(start, end) == steps
    assert distance(end, start) == -steps
    assert before(start, end) == (steps > 0)
    assert not before(end, start)
    assert later(start, end) == end == later(end, start)


def test_opposite_numbers_are_in_no_order() -> None:
    assert not before(0, 1 << 31)
    assert not before(1 << 31, 0)


# ---- whole sessions


@pytest.mark.parametrize("datagrams", [False, True])
@pytest.mark.parametrize("source_initiates", [False, True])
def test_from_hello_to_bye(datagrams: bool, source_initiates: bool) -> None:
    pair = Pair(datagrams, source_initiates)
    assert pair.source.peer_about == {"host": "b"}
    assert pair.sink.peer_about == {"host": "a"}
    first = pair.source.send_queue.next
    assert (first == 0) or datagrams  # random over datagrams
    payloads = [EVENT * count for count in range(1, 40)]
    numbers = [pair.source.send(payload, pair.now) for payload in payloads]
    pair.source.close(pair.now)
    pair.run()
    pair.pass_time(0.1)
    pair.run()
    assert numbers == [(first + step) & MASK for step in range(len(payloads))]
    assert [(one.sequence, one.payload) for one in pair.told(Delivered)] == list(
        zip(numbers, payloads, strict=True)
    )
    assert pair.source.state is pair.sink.state is State.CLOSED
    assert pair.source.over
    assert pair.source.deadline() is None
    assert pair.source.unacknowledged == 0
    assert not pair.told(Complained)


def test_only_what_is_stored_is_acknowledged() -> None:
    for datagrams in (False, True):
        pair = Pair(datagrams)
        pair.store = False
        for _ in range(5):
            pair.source.send(EVENT, pair.now)
        pair.run()
        pair.pass_time(0.1)
        pair.run()
        numbers = [one.sequence for one in pair.told(Delivered)]
        assert len(numbers) == pair.source.unacknowledged == 5
        pair.sink.consumed(numbers[2], pair.now)
        pair.pass_time(0.1)
        pair.run()
        assert pair.source.unacknowledged == 2
        assert pair.sink.next_expected == numbers[3]
        with pytest.raises(SessionError):
            pair.sink.consumed(numbers[4] + 1, pair.now)


def test_the_window_stops_the_source() -> None:
    for datagrams in (False, True):
        pair = Pair(datagrams, window=3 * len(EVENT))
        pair.store = False
        for _ in range(10):
            pair.source.send(EVENT, pair.now)
        pair.run()
        delivered = pair.told(Delivered)
        assert len(delivered) == 3
        pair.store = True
        pair.sink.consumed(delivered[-1].sequence, pair.now)
        for _ in range(10):
            pair.pass_time(0.1)
            pair.run()
        assert len(pair.told(Delivered)) == 10


def test_the_send_queue_has_room() -> None:
    session = Session(Role.SOURCE, initiator=True, settings=Settings(memory=100))
    assert session.room == 100
    session.send(EVENT, 0)
    assert session.room == 100 - len(EVENT)
    assert session.send_queue.first == 0
    with pytest.raises(SessionError):
        session.send(bytes(65525), 0)
    with pytest.raises(SessionError):
        session.consumed(0, 0)


def test_a_stream_resumes_where_it_was_stored() -> None:
    pair = Pair()
    pair.store = False
    for number in range(6):
        pair.source.send(EVENT * (number + 1), pair.now)
    pair.run()
    pair.sink.consumed(2, pair.now)
    pair.sink.transmit(1 << 20)  # the ACK is lost with the connection
    for session in (pair.source, pair.sink):
        session.disconnected(pair.now, "cut")
        assert session.state is State.SUSPENDED
    pair.got.clear()
    pair.pass_time(60)
    for session in (pair.source, pair.sink):
        session.connected(pair.now)
    pair.run()
    assert pair.source.state is State.ESTABLISHED
    assert pair.source.unacknowledged == 3
    assert not pair.told(Delivered)  # what was delivered before is not delivered again
    pair.sink.consumed(5, pair.now)
    pair.pass_time(0.1)
    pair.run()
    assert pair.source.unacknowledged == 0


def test_a_sink_restarted_with_its_memory() -> None:
    pair = Pair()
    for _ in range(4):
        pair.source.send(EVENT, pair.now)
    pair.run()
    pair.source.disconnected(pair.now, "cut")
    pair.source.send(EVENT, pair.now)
    pair.sink = Session(Role.SINK, initiator=False, token=pair.source.token, next_expected=2, resume=True)
    pair.sink.tick(pair.now)
    pair.got.clear()
    for session in (pair.source, pair.sink):
        session.connected(pair.now)
    pair.run()
    # it says it has 2, though 4 were acknowledged or not: those not acknowledged come again
    assert [one.sequence for one in pair.told(Delivered)] == [2, 3, 4]


def test_a_sink_that_lost_what_it_acknowledged_goes_on_and_complains() -> None:
    pair = Pair()
    for _ in range(4):
        pair.source.send(EVENT, pair.now)
    pair.run()
    pair.pass_time(0.1)
    pair.run()
    assert pair.source.unacknowledged == 0
    pair.source.disconnected(pair.now, "cut")
    pair.source.send(EVENT, pair.now)
    pair.sink = Session(Role.SINK, initiator=False, token=pair.source.token, next_expected=1, resume=True)
    pair.got.clear()
    for session in (pair.source, pair.sink):
        session.connected(pair.now)
    pair.run()
    assert [one.sequence for one in pair.told(Delivered)] == [4]
    assert "3 frames are not here before it" in str(pair.told(Complained)[0].problem)


def test_a_source_whose_memory_is_older_than_what_the_sink_has() -> None:
    for source_initiates in (True, False):
        pair = Pair(source_initiates=source_initiates)
        for _ in range(3):
            pair.source.send(EVENT, pair.now)
        pair.run()
        pair.sink.disconnected(pair.now, "cut")
        send_queue = MemorySendQueue(1000)
        send_queue.put(0, EVENT)
        token, lineage = pair.source.token, Lineage(pair.source._lineage.nonces)
        pair.source = Session(
            Role.SOURCE,
            initiator=source_initiates,
            token=token,
            send_queue=send_queue,
            resume=True,
            lineage=lineage,
        )
        for session in (pair.source, pair.sink):
            session.connected(pair.now)
        pair.run()
        assert pair.source.state is State.EXPIRED
        assert pair.told(Abandoned) == [Abandoned([])]  # the sink has all of it, and more


def test_a_restored_session_expires() -> None:
    send_queue = MemorySendQueue(1000, first=MASK)
    send_queue.put(MASK, EVENT)
    session = Session(Role.SOURCE, initiator=False, token=TOKEN, send_queue=send_queue, resume=True)
    assert session.state is State.SUSPENDED
    assert session.deadline() == 0  # it wants to know the time
    session.tick(5000)
    assert session.deadline() == 5120
    session.tick(5120)
    assert session.over
    assert session.session_events()[0] == Abandoned([MASK])


# ---- timers


def test_timeout_follows_rfc_6298() -> None:
    timeout = Timeout(Settings())
    assert timeout.value == 1
    timeout.sample(0.5)
    assert (timeout.smoothed, timeout.variation, timeout.value) == (0.5, 0.25, 1.5)
    timeout.sample(1.0)
    assert timeout.variation == 0.25 * 0.75 + 0.5 * 0.25
    assert timeout.smoothed == 0.5 * 7 / 8 + 1.0 / 8
    assert timeout.value == pytest.approx(timeout.smoothed + 4 * timeout.variation)
    for _ in range(20):
        timeout.back_off()
    assert timeout.value == 60
    for _ in range(100):
        timeout.sample(0.0001)
    assert timeout.value == 0.2


def test_a_lost_frame_is_sent_again_after_the_timeout() -> None:
    pair = Pair(datagrams=True)
    pair.source.send(EVENT, pair.now)
    sent = pair.now
    times: list[float] = []
    while len(times) < 5:
        pair.pump(pair.source, lambda index, frame: frame[0] == 0x12)
        deadline = pair.source.deadline()
        assert deadline is not None
        pair.now = deadline
        pair.source.tick(pair.now)
        times.append(pair.now - sent)
        pair.sink.receive(build(Type.KEEPALIVE, 0, b"", Flag.CHECKSUM), pair.now)
    steps = [b - a for a, b in itertools.pairwise([0, *times])]
    assert steps[0] == pytest.approx(1.0)
    assert all(b == pytest.approx(2 * a) for a, b in itertools.pairwise(steps[:3]))


def test_the_third_frame_after_a_hole_sends_it_again() -> None:
    pair = Pair(datagrams=True)
    for _ in range(12):
        pair.source.send(EVENT, pair.now)
    first = pair.source.send_queue.next - 12 & MASK
    frames = pair.source.transmit(1 << 20)
    pair.now += 0.1
    again: list[int] = []
    for index, frame in enumerate(frames):
        if index not in (2, 6):
            pair.sink.receive(frame, pair.now)
            pair.took(pair.sink)
            for answer in pair.sink.transmit(1 << 20):
                pair.source.receive(answer, pair.now)
            again += [(read_header(one).id - first) & MASK for one in pair.source.transmit(1 << 20)]
            if index < 5:
                assert not again
    assert again == [2, 6]
    assert pair.source._sender.fast == 1  # type: ignore[union-attr]  # a source has one


def test_karn_takes_no_sample_of_what_was_sent_twice() -> None:
    pair = Pair(datagrams=True)
    pair.source.send(EVENT, pair.now)
    pair.pump(pair.source, lambda index, frame: True)
    pair.pass_time(1.1)
    pair.run()
    pair.pass_time(0.1)
    pair.run()
    assert pair.source.unacknowledged == 0
    timeout = pair.source._sender.timeout_value  # type: ignore[union-attr]
    assert timeout.smoothed is None
    assert timeout.value == 2


def test_keepalive_and_silence() -> None:
    pair = Pair()
    for _ in range(20):
        pair.pass_time(5)
        pair.run()
    assert pair.source.state is pair.sink.state is State.ESTABLISHED
    pair.got.clear()
    for _ in range(7):
        pair.pass_time(5)  # and nothing arrives
        pair.source.transmit(1 << 20)
        pair.sink.transmit(1 << 20)
    changes = pair.told(Changed)
    assert [(one.new, one.why) for one in changes] == [(State.SUSPENDED, "the peer is silent")] * 2


def test_hello_is_repeated_and_given_up() -> None:
    for datagrams in (True, False):
        session = Session(Role.SOURCE, initiator=True, datagrams=datagrams)
        session.connected(0)
        sent = [bytes(frame) for frame in session.transmit(1 << 16)]
        times: list[float] = []
        while session.state is State.HELLO_SENT:
            deadline = session.deadline()
            assert deadline is not None
            times.append(deadline)
            session.tick(deadline)
            sent += [bytes(frame) for frame in session.transmit(1 << 16)]
        assert times == [1, 3, 7, 15, 31, 63]
        assert len(sent) == (6 if datagrams else 1)
        assert len(set(sent)) == 1
        assert session.state is State.SUSPENDED
        assert session.deadline() is None  # never established: it does not expire


def test_a_clock_that_goes_back_stands_still() -> None:
    pair = Pair()
    before = pair.source.deadline()
    assert before is not None
    pair.source.tick(pair.now - 50)
    assert pair.source.state is State.ESTABLISHED
    assert pair.source.deadline() == before - 50
    pair.source.tick(pair.now - 50 + 10)
    assert [read_header(frame).type for frame in pair.source.transmit(1 << 10)] == [Type.KEEPALIVE]


def test_a_closed_window_is_probed() -> None:
    pair = Pair(datagrams=True)
    pair.source.receive(Ack(pair.source.send_queue.next, 0).frame(Flag.CHECKSUM), pair.now)
    pair.source.send(EVENT, pair.now)
    assert pair.source.transmit(1 << 10) == []
    pair.pass_time(1.5)
    assert [read_header(frame).type for frame in pair.source.transmit(1 << 10)] == [Type.KEEPALIVE]


def changed(name: str, value: Any) -> Settings:
    return Settings()._replace(**{name: value})


def test_what_is_told_about_a_side_is_short() -> None:
    with pytest.raises(SessionError, match="too much"):
        Session(Role.SINK, initiator=True, about={"name": "x" * 3000})
    with pytest.raises(SessionError, match="16"):
        Session(Role.SINK, initiator=True, token=b"short")


def test_settings_are_checked() -> None:
    for name, limit in LIMITS.items():
        for value in (limit.low, limit.high):
            changed(name, value).check()
        for value in (limit.low - 1, limit.high + 1):
            with pytest.raises(KwireError, match="out of range"):
                Session(Role.SINK, initiator=True, settings=changed(name, value))


# ---- requests


@pytest.mark.parametrize("datagrams", [False, True])
def test_requests(datagrams: bool) -> None:
    pair = Pair(datagrams)
    number = pair.sink.request({"op": "probes"}, pair.now)
    assert not pair.told(Requested)
    pair.run()
    assert pair.told(Requested) == [Requested(number, {"op": "probes"})]
    if datagrams:  # lost answers are asked for again, and the owner is not asked twice
        pair.source.reply(number, {"ok": True}, pair.now)
        pair.pump(pair.source, lambda index, frame: True)
        pair.pass_time(1.1)
    else:
        pair.source.reply(number, {"ok": True}, pair.now)
    pair.run()
    assert pair.told(Replied) == [Replied(number, {"ok": True})]
    assert len(pair.told(Requested)) == 1


def test_large_bodies_are_continued_over_streams() -> None:
    body = {"program": ["x" * 1000] * 200}
    pair = Pair()
    number = pair.sink.request(body, pair.now)
    pair.run()
    assert pair.told(Requested) == [Requested(number, body)]
    with pytest.raises(KwireError, match="do not fit a datagram"):
        Pair(datagrams=True).sink.request(body, 0)
    for _ in range(15):
        pair.sink.request({}, pair.now)
    with pytest.raises(KwireError, match="wait for replies"):
        pair.sink.request({}, pair.now)


def test_a_flood_of_requests_is_bounded() -> None:
    pair = Pair()
    for number in range(1, 200):
        pair.source.receive(build(Type.REQUEST, number, cbor.dumps({"op": "x"})), pair.now)
    assert len([one for one in pair.source.session_events() if isinstance(one, Requested)]) == 16
    for number in range(300, 400):
        part = cbor.dumps({"more": True, "text": ["x" * 60000]})
        pair.source.receive(build(Type.REQUEST, number, part), pair.now)
    assert len(pair.source._exchange._bodies._waiting) <= 16


# ---- what a peer may send


PIECES = st.one_of(
    st.binary(max_size=40),
    st.builds(
        build, st.integers(0, 12), WORDS | st.integers(0, 4), st.binary(max_size=60), st.sampled_from([0, 1])
    ),
    st.builds(
        lambda next, ranges: Ack(next, 100, tuple(ranges)).frame(), WORDS, st.lists(st.tuples(WORDS, WORDS))
    ),
    st.builds(
        lambda role, resume, next: Hello(TOKEN, 5, role, resume, next, 100).frame(),
        st.sampled_from(Role),
        st.booleans(),
        WORDS,
    ),
    st.builds(
        lambda nonce, resume, next, unknown: Welcome(
            TOKEN, nonce, Role.SINK, resume, next, 9, unknown=unknown
        ).frame(),
        st.just(int.from_bytes(b"\1\1\1\1", "big")),
        st.booleans(),
        WORDS,
        st.booleans(),
    ),
    st.builds(bye_frame, WORDS | st.integers(0, 4), st.text(max_size=5)),
)


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(Role),
    st.booleans(),
    st.booleans(),
    st.lists(PIECES, max_size=12),
    st.randoms(use_true_random=False),
)
def test_whatever_comes(
    role: Role, initiator: bool, datagrams: bool, pieces: list[bytes], rnd: random.Random
) -> None:
    session = Session(
        role,
        initiator=initiator,
        datagrams=datagrams,
        token=TOKEN if initiator else b"",
        settings=Settings(window=200, reach=4),
        random=lambda size: b"\1" * size,
    )
    session.watcher = lambda watched: None
    now = 1.0
    session.connected(now)
    data = b"".join(pieces)
    slices = pieces
    if not datagrams:
        cuts = sorted(rnd.randrange(len(data) + 1) for _ in range(rnd.randrange(6)))
        slices = [data[a:b] for a, b in itertools.pairwise([0, *cuts, len(data)])]
    for piece in slices:
        session.receive(piece, now)
        now += rnd.choice([0, 0, 0.3, 20])
        deadline = session.deadline()
        if deadline is not None and deadline <= now:
            session.tick(now)
        for session_event in session.session_events():
            if isinstance(session_event, Requested):
                session.reply(session_event.number, {}, now)
        assert sum(map(len, session.transmit(1 << 16))) < 1 << 17
        receiver = session._receiver
        if receiver is not None:
            assert receiver.used <= 200 + 65535
            assert len(receiver._held) + len(receiver._sizes) <= 4
        if session.state in (State.SUSPENDED, State.CLOSED) and initiator and not session.over:
            session.connected(now)


@given(st.lists(st.binary(max_size=300), max_size=8), st.data())
def test_a_stream_in_any_slices(payloads: list[bytes], data: st.DataObject) -> None:
    frames = [build(Type.EVENT, number, payload) for number, payload in enumerate(payloads)]
    stream = b"".join(frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    frame_buffer = FrameBuffer()
    got: list[bytes] = []

    def take(view: memoryview) -> bool:
        got.append(bytes(view))
        return True

    for start, end in itertools.pairwise([0, *cuts, len(stream)]):
        assert frame_buffer.feed(memoryview(stream)[start:end], take) is None
    assert got == frames
    assert not frame_buffer.cut
    bad = frame_buffer.feed(memoryview(stream + b"\x10\0\0\7rest"), lambda view: True)
    assert bad is not None
    assert bytes(bad) == b"\x10\0\0\7rest"


@pytest.mark.parametrize(
    ("next", "ranges", "good"),
    [
        (5, [(5, 5), (7, 9), (11, 11)], True),
        (MASK, [(MASK, 0), (2, 3)], True),
        (5, [(4, 6)], False),  # before the id
        (5, [(7, 6)], False),  # backwards
        (5, [(7, 8), (9, 9)], False),  # touching
        (5, [(9, 9), (7, 7)], False),  # in disorder
        (5, [(5 + 2 * step, 5 + 2 * step) for step in range(33)], False),
    ],
)
def test_ranges_of_an_ack(next: int, ranges: list[tuple[int, int]], good: bool) -> None:
    frame = read_strict(Ack(next, 100, tuple(ranges)).frame())
    if good:
        assert Ack.read(next, frame.payload) == Ack(next, 100, tuple(ranges))
    else:
        with pytest.raises(FrameError) as caught:
            Ack.read(next, frame.payload)
        assert caught.value.problem.code is Code.BAD_PAYLOAD


def test_the_rest_of_a_dropped_stream_is_not_read() -> None:
    pair = Pair()
    inner = bye_frame(0, "no") + Ack(0, 0).frame()  # what a payload holds is no frame of the session
    frame = build(Type.DATA, 0, inner)
    pair.sink.receive(frame[:8], pair.now)
    pair.now += 31
    pair.sink.tick(pair.now)
    assert pair.sink.state is State.SUSPENDED
    pair.sink.receive(frame[8:], pair.now)
    assert len(pair.sink.session_events()) == 1
    assert pair.sink.transmit(1 << 10) == []


def test_data_out_of_step_breaks_a_stream() -> None:
    pair = Pair()
    pair.sink.receive(build(Type.DATA, 5, EVENT), pair.now)
    assert pair.sink.state is State.SUSPENDED
    (error,) = pair.sink.transmit(1 << 10)
    assert read_header(error).type == Type.ERROR
    pair.sink.receive(build(Type.DATA, 0, EVENT), pair.now)  # of the same stream: not looked at
    assert not [one for one in pair.sink.session_events() if isinstance(one, Delivered)]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 60)), max_size=60), st.integers(0, 3))
def test_a_receiver_in_any_order(frames: list[tuple[int, int]], store: int) -> None:
    start = MASK - 3
    receiver = Receiver(start, Settings(window=200, reach=8))
    out: list[Any] = []
    for ahead, size in frames:
        number = (start + ahead) & MASK
        receiver.take(number, memoryview(bytes([ahead]) * size), out)
        assert receiver.used <= max(200, 60)
        assert len(receiver._held) + len(receiver._sizes) <= 8
        ack = receiver.ack()
        edges = [edge for pair in ack.ranges for edge in pair]
        assert all(distance(a, b) >= 0 for a, b in itertools.pairwise([ack.next, *edges]))
        if store and len(out) % store == 0 and out:
            receiver.stored(out[-1].sequence)
    assert [one.sequence for one in out] == [(start + step) & MASK for step in range(len(out))]
    assert all(set(bytes(one.payload)) <= {distance(start, one.sequence)} for one in out)


# ---- control frames


@given(st.binary(max_size=200) | PIECES)
def test_peeking_never_raises(data: bytes) -> None:
    hello, problem = peek_hello(data), hello_problem(data)
    assert hello is None or problem is None
    if hello is None and problem is None:
        assert len(data) < MAX_HELLO


def test_a_hello_is_seen_when_it_is_whole() -> None:
    frame = Hello(TOKEN, 7, Role.SOURCE, about={"host": "a"}).frame()
    for cut in range(len(frame)):
        assert peek_hello(frame[:cut]) is None
        assert hello_problem(frame[:cut]) is None
    assert peek_hello(frame + b"more") == Hello(TOKEN, 7, Role.SOURCE, about={"host": "a"})
    assert hello_problem(EVENT) is not None
    assert hello_problem(pack_header(Type.HELLO, 0, MAX_HELLO + 1)) is not None


def test_a_hello_over_datagrams_is_longer_than_its_answers() -> None:
    hello = Hello(TOKEN, MASK, Role.SOURCE)
    padded = hello.frame(Flag.CHECKSUM, PADDED_HELLO)
    assert len(padded) >= PADDED_HELLO
    challenge = Welcome(TOKEN, MASK, Role.SINK, cookie=bytes(64)).frame(Flag.CHECKSUM)
    for answer in (challenge, unknown(hello, Flag.CHECKSUM), refusal(hello, "x" * 200, Flag.CHECKSUM)):
        assert len(answer) <= len(padded)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"token": b"short"}, "16 bytes"),
        ({"token": None}, "token"),
        ({"role": "both"}, "source or sink"),
        ({"nonce": 1 << 32}, "0 to"),
        ({"nonce": True}, "an integer"),
        ({"next": -1}, "0 to"),
        ({"resume": 1}, "true or false"),
        ({"about": []}, "a map"),
        ({"versions": ["1"]}, "16 integers"),
        ({"versions": [1] * 17}, "16 integers"),
        ({"cookie": bytes(65)}, "at most 64"),
    ],
)
def test_hellos_that_are_none(change: dict[str, Any], words: str) -> None:
    value = {"token": TOKEN, "nonce": 1, "role": "sink", "versions": [1], "later": "ignored", **change}
    value = {key: item for key, item in value.items() if item is not None}
    frame = read_strict(build(Type.HELLO, 0, cbor.dumps(value)))
    with pytest.raises(FrameError, match=words) as caught:
        Hello.read(frame)
    assert caught.value.problem.code is Code.BAD_PAYLOAD


def test_watching_shows_every_frame() -> None:
    seen: list[Watched] = []
    pair = Pair()
    pair.sink.watcher = pair.source.watcher = seen.append
    pair.source.send(EVENT, pair.now)
    pair.source.close(pair.now)
    pair.run()
    out = [(one.direction, one.header.type) for one in seen]
    types = (Type.DATA, Type.BYE)
    assert out == [
        *(("out", one) for one in types),
        *(("in", one) for one in types),
        ("out", Type.ACK),
        ("in", Type.ACK),
    ]
    assert seen[3].before is State.ESTABLISHED
    assert seen[3].after is State.CLOSED
