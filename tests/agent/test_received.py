"""What an agent sends, taken apart; and how much it sends, throttled: nothing is lost there uncounted."""

from array import array
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kwire.agent.received import Received
from kwire.agent.source import preamble
from kwire.agent.throttle import Throttle
from kwire.live.recorder import Sink
from kwire.wire.frame import Type, build
from kwire.wire.frames import Frames
from kwire.wire.messages import Cause, Lost, totals_frames
from kwire.wire.schema import Clock, Field, Schema


def schemas(count: int) -> tuple[Schema, ...]:
    field = Field("number", "u64", 16, 8)
    return tuple(
        Schema(
            id,
            f"tracepoint:t:p{id}",
            "tracepoint",
            f"t:p{id}",
            (field,),
            24,
            "little",
            8,
            clock=Clock("monotonic", 0, 0),
        )
        for id in range(1, count + 1)
    )


def event(id: int, number: int) -> bytes:
    return build(Type.EVENT, id, number.to_bytes(8, "little") * 2)


class Kept:
    """A sink that keeps what it is given, in order: the numbers of events, losses, and ends of rounds."""

    def __init__(self) -> None:
        self.got: list[Any] = []

    def write(self, frames: Frames) -> None:
        self.got += [int.from_bytes(frames.frame_bytes(n)[16:24], "little") for n in range(frames.count)]

    def lost(self, losses: list[Lost]) -> None:
        self.got += losses

    def flush(self) -> None:
        self.got.append("round")


def received(probes: int) -> tuple[Received, Kept, list[tuple[Schema, ...]]]:
    kept, begun = Kept(), []

    def start(described: tuple[Schema, ...]) -> Sequence[Sink]:
        begun.append(described)
        return [kept]

    made = Received(start)
    made.probes = probes
    return made, kept, begun


def test_events_and_losses_come_in_order() -> None:
    made, kept, begun = received(2)
    loss = Lost(2, 5, 9, 4, 0, Cause.RING_FULL)
    for payload in preamble(schemas(2), 300):
        made.take(payload)
    assert [schema.probe for schema in begun[0]] == ["tracepoint:t:p1", "tracepoint:t:p2"]
    made.take(event(1, 1) + event(2, 2) + loss.frame() + event(2, 3))
    made.take(event(1, 4) + event(1, 5))
    made.flush()
    for frame in totals_frames({1: 3, 2: 6}):
        made.take(frame)
    assert kept.got == [1, 2, loss, 3, 4, 5, "round"]
    assert (made.events, made.lost, made.problems, made.produced) == (5, 4, 0, {1: 3, 2: 6})


def test_nothing_goes_on_before_everything_is_described() -> None:
    made, kept, begun = received(2)
    first, second = (schema.frames()[0] for schema in schemas(2))
    early = Lost(1, 1, 2, 3)
    made.take(first + event(1, 1) + early.frame())
    assert not begun
    assert made.problems == 1
    made.take(second + event(1, 2))
    assert kept.got == [early, 2]


@pytest.mark.parametrize(
    "frame",
    [
        event(3, 1),  # of no probe
        event(0, 1),
        build(Type.EVENT, 1, b"short"),
        build(Type.LOST, 1, b"short"),
        Lost(9, 0, 0, 1).frame(),
        build(Type.SCHEMA, 1, b"\xa0"),
        build(Type.TABLE, 0, b"\xff"),
        build(Type.TABLE, 7, b"\xa0"),
        build(Type.DATA, 1, b""),
        build(Type.HELLO, 0, b"\xa0"),
        b"\x11\0\0\x04",
        b"\xff" * 9,
    ],
)
def test_what_is_not_sound_is_counted_and_the_rest_goes_on(frame: bytes) -> None:
    made, kept, _ = received(1)
    made.take(schemas(1)[0].frames()[0])
    made.take(event(1, 1) + frame)
    made.take(event(1, 2))
    assert kept.got == [1, 2]
    assert made.problems == 1


SOUND = st.integers(1, 4).map(lambda id: event(id, id)) | st.integers(0, 4).map(
    lambda id: Lost(id, 1, 2, 3).frame()
)
ANY = (
    st.binary(max_size=40)
    | SOUND
    | st.builds(
        build, st.integers(0, 12), st.integers(0, 5), st.binary(max_size=24), st.sampled_from([0, 0, 1])
    )
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(ANY, max_size=6), max_size=6), st.integers(0, 3))
def test_whatever_comes_raises_nothing(payloads: list[list[bytes]], described: int) -> None:
    made, kept, _ = received(2)
    for schema in schemas(2)[:described]:
        made.take(schema.frames()[0])
    for parts in payloads:
        made.take(b"".join(parts))
    events = [one for one in kept.got if isinstance(one, int)]
    assert len(events) == made.events
    assert made.lost >= sum(one.count for one in kept.got if isinstance(one, Lost))


class Clocked:
    """Time as it is set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def frames_of(ids: list[int], start: int) -> Frames:
    parts = [event(id, start + at) for at, id in enumerate(ids)]
    return Frames(b"".join(parts), array("Q", range(0, 24 * len(parts), 24)))


def throttled(rate: int) -> tuple[Throttle, Kept, Clocked]:
    kept, clock = Kept(), Clocked()
    return Throttle(kept, rate, 2, clock), kept, clock


def test_no_more_than_the_rate_goes_through() -> None:
    throttle, kept, clock = throttled(10)
    throttle.write(frames_of([1] * 10, 100))
    assert len(kept.got) == 10
    kept.got.clear()
    throttle.write(frames_of([1] * 4, 0))
    assert kept.got == []
    clock.now += 0.5
    throttle.write(frames_of([1, 2] * 4, 10))
    throttle.flush()
    assert kept.got[:5] == [10, 11, 12, 13, 14]
    told = {(loss.probe, loss.count, loss.first, loss.last, loss.cause) for loss in kept.got[5:-1]}
    assert told == {(1, 5, 0, 16, Cause.RATE_LIMIT), (2, 2, 15, 17, Cause.RATE_LIMIT)}
    assert kept.got[-1] == "round"
    clock.now += 100
    kept.got.clear()
    throttle.write(frames_of([1] * 30, 20))
    throttle.flush()
    assert sum(isinstance(one, int) for one in kept.got) == 10  # a quiet second's, not those of a hundred
    assert [one.count for one in kept.got if isinstance(one, Lost)] == [20]


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 50),
    st.lists(
        st.tuples(st.floats(0, 2), st.lists(st.sampled_from([1, 2]), min_size=1, max_size=40)), max_size=20
    ),
)
def test_what_goes_through_and_what_is_counted_is_all(
    rate: int, rounds: list[tuple[float, list[int]]]
) -> None:
    throttle, kept, clock = throttled(rate)
    given_, began = 0, clock.now
    for wait, ids in rounds:
        clock.now += wait
        throttle.write(frames_of(ids, given_))
        throttle.flush()
        given_ += len(ids)
    through = [one for one in kept.got if isinstance(one, int)]
    assert len(through) + sum(one.count for one in kept.got if isinstance(one, Lost)) == given_
    assert through == sorted(through)
    assert len(through) <= rate * (clock.now - began) + rate


def test_losses_of_others_pass_through() -> None:
    throttle, kept, _ = throttled(1)
    loss = Lost(1, 2, 3, 4, 0, Cause.RING_FULL)
    throttle.lost([loss])
    assert kept.got == [loss]


def test_schemas_that_are_repeated_change_nothing() -> None:
    made, kept, begun = received(2)
    for payload in (*preamble(schemas(2), 4000), event(1, 7), *preamble(schemas(2), 4000), event(2, 8)):
        made.take(payload)
    assert len(begun) == 1
    assert [one for one in kept.got if isinstance(one, int)] == [7, 8]
    assert made.problems == 0
    other = schemas(2)[0]._replace(probe="tracepoint:t:other")
    made.take(b"".join(other.frames()))
    assert made.problems == 1
