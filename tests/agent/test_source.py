"""The source's sink: for each probe, what was given is delivered or counted in LOST frames, in order."""

import random
from array import array
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kwire.agent import manifest
from kwire.agent.manifest import LOST_SIZE
from kwire.agent.source import REPEAT, SLACK, SourceSink, events_in
from kwire.wire.frame import Type, build, read_lenient
from kwire.wire.frames import Frames
from kwire.wire.messages import CPU_UNKNOWN, Cause, Lost, read_totals
from kwire.wire.schema import Field, Schema, SchemaReader

SIZE = 2000


def schema(number: int) -> Schema:
    return Schema(
        number, f"tracepoint:a:b{number}", "tracepoint", f"a:b{number}", (Field("n", "u64", 16, 8),), 24
    )


SCHEMAS = [schema(1), schema(2), schema(3)]


class Pipe:
    """An outlet of a bounded size that is emptied by hand, as fast as a peer would."""

    def __init__(self, size: int = 1 << 20) -> None:
        self.size = size
        self.held: list[bytes] = []
        self.taken: list[bytes] = []

    @property
    def room(self) -> int:
        return self.size - sum(map(len, self.held))

    def send(self, payload: bytes, now: float) -> int:
        assert payload
        assert len(payload) <= self.room
        self.held.append(payload)
        return 0

    def empty(self, count: int | None = None) -> None:
        count = len(self.held) if count is None else count
        self.taken += self.held[:count]
        del self.held[:count]

    @property
    def payloads(self) -> list[bytes]:
        return [*self.taken, *self.held]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def events(first: int, probes: Iterable[int], size: int = 24, gap: int = 8) -> Frames:
    """EVENT frames as they lie in a ring: something between them, numbered by `n`, their time too."""
    data, offsets = bytearray(), array("Q")
    for n, probe in enumerate(probes, first):
        data += bytes(gap)
        offsets.append(len(data))
        record = n.to_bytes(8, "little") * 2
        data += build(Type.EVENT, probe, record + bytes(size - 24))
    return Frames(bytes(data), offsets)


class Read:
    """What a sink makes of the payloads."""

    def __init__(self, payloads: Iterable[bytes]) -> None:
        self.order: list[tuple[str, int]] = []  # ("event", n) and ("lost", count)
        self.events: dict[int, int] = {}
        self.lost: list[Lost] = []
        self.totals: dict[int, int] = {}
        known: set[int] = set()
        reader = SchemaReader()
        for payload in payloads:
            frames = Frames.walk(payload)
            for index in range(frames.count):
                frame = read_lenient(frames.frame_bytes(index))
                kind, number = frame.header.type, frame.header.id
                if kind == Type.SCHEMA:
                    done = reader.add(frame)
                    known |= {done.id} if done else set()
                elif kind == Type.EVENT:
                    assert number in known
                    assert not self.totals
                    self.events[number] = self.events.get(number, 0) + 1
                    self.order.append(("event", int.from_bytes(frame.payload[8:16], "little")))
                elif kind == Type.LOST:
                    self.lost.append(Lost.read(frame))
                    self.order.append(("lost", self.lost[-1].count))
                else:
                    self.totals |= read_totals(frame)

    def balance(self, probe: int) -> int:
        return self.events.get(probe, 0) + sum(lost.count for lost in self.lost if lost.probe == probe)


def make(pipe: Pipe, clock: Clock | None = None, size: int = SIZE) -> SourceSink:
    sink = SourceSink(SCHEMAS, size, clock or Clock())
    sink.waits = 0.0
    begin(sink, pipe, sink.begin())
    return sink


def begin(sink: SourceSink, pipe: Pipe, payloads: Iterable[bytes]) -> None:
    """Begin a session with these payloads."""
    pipe.held = list(payloads)
    sink.outlet = pipe


def test_events_arrive_in_order_after_their_schemas() -> None:
    pipe = Pipe()
    sink = make(pipe)
    for at in range(0, 1000, 100):
        sink.write(events(at, [1 + n % 3 for n in range(100)]))
        sink.flush()
    assert sink.finish({1: 340, 2: 330, 3: 330})
    read = Read(pipe.payloads)
    assert read.order == [("event", n) for n in range(1000)]
    assert read.totals == {1: 340, 2: 330, 3: 330}
    assert all(len(payload) <= SIZE for payload in pipe.payloads)
    assert sink.events == 1000
    assert sink.bytes == sum(map(len, pipe.payloads)) - len(sink.begin()[0])
    assert sum(map(events_in, pipe.payloads)) == 1000
    assert sink.finish({})  # twice changes nothing
    assert len(Read(pipe.payloads).totals) == 3


def test_a_payload_waits_only_as_long_as_it_may() -> None:
    pipe, clock = Pipe(), Clock()
    sink = make(pipe, clock)
    sink.waits = 0.5
    sink.write(events(0, [1]))
    sink.flush()
    assert not any(map(events_in, pipe.payloads))
    clock.now = 0.4
    sink.flush()
    assert not any(map(events_in, pipe.payloads))
    clock.now = 0.6
    sink.flush()
    assert sum(map(events_in, pipe.payloads)) == 1


def test_events_longer_than_a_payload_go_alone() -> None:
    pipe = Pipe()
    sink = make(pipe)
    sink.write(events(0, [1, 1]))
    sink.write(events(2, [2], size=SIZE + 1000))
    sink.write(events(3, [1, 1]))
    sink.flush()
    assert Read(pipe.payloads).order == [("event", n) for n in range(5)]
    assert SIZE + 1000 in [len(payload) for payload in pipe.payloads]


def test_what_finds_no_room_is_one_hole_at_its_place() -> None:
    pipe, clock = Pipe(20_000), Clock()
    sink = make(pipe, clock)
    given = 0
    while not sink.losses:
        sink.write(events(given, [1] * 50))
        sink.flush()
        given += 50
    sink.write(events(given, [2] * 50))
    given += 50
    assert pipe.room < SIZE + SLACK
    pipe.empty(1)  # a little room is not enough
    sink.write(events(given, [1] * 50))
    given += 50
    lost = sink.lost_events
    pipe.empty()
    clock.now = 1.0
    sink.write(events(given, [1] * 50))
    given += 50
    assert sink.lost_events == lost
    assert sink.finish({1: given - 50, 2: 50})
    read = Read(pipe.payloads)
    assert [(loss.probe, loss.cause) for loss in read.lost] == [
        (1, Cause.SENDER_FULL),
        (2, Cause.SENDER_FULL),
    ]
    at = read.order.index(("lost", read.lost[0].count))
    last = read.order[at - 1][1]
    assert read.order[at + 2] == ("event", given - 50)
    assert read.lost[0].first == last + 1  # times are numbers here
    assert read.lost[0].last == given - 51
    assert (read.balance(1), read.balance(2)) == (given - 50, 50)
    assert read.totals == {1: given - 50, 2: 50}


def test_losses_do_not_flood() -> None:
    pipe, clock = Pipe(), Clock()
    sink = make(pipe, clock)
    for number in range(1000):
        clock.now = number / 1000  # a second
        sink.lost([Lost(1, number + 1, number + 1, 1, 0, Cause.RING_FULL)])
        sink.flush()
    assert sink.finish({1: 1000})
    read = Read(pipe.payloads)
    assert len(read.lost) <= 11
    assert sum(loss.count for loss in read.lost) == 1000
    assert (read.lost[0].first, read.lost[-1].last) == (1, 1000)
    assert sink.losses == {Cause.RING_FULL: 1000}


def test_many_losses_need_many_payloads() -> None:
    pipe = Pipe()
    sink = make(pipe)
    sink.lost([Lost(1, 0, 0, 1, cpu, Cause.MISSED) for cpu in range(200)])
    assert sink.finish({1: 200})
    assert 200 * LOST_SIZE > SIZE
    assert Read(pipe.payloads).balance(1) == 200


def test_the_end_waits_for_room() -> None:
    pipe = Pipe(SIZE + 2 * SLACK)
    sink = make(pipe)
    sink.write(events(0, [1] * 100))
    assert not sink.finish({1: 100})
    for _ in range(100):
        pipe.empty()
        if sink.finish({1: 100}):
            break
    else:
        pytest.fail("it never ends")
    read = Read(pipe.payloads)
    assert read.balance(1) == 100
    assert read.totals == {1: 100}


def test_another_session_begins_where_the_old_one_was_lost() -> None:
    old, clock = Pipe(), Clock()
    sink = make(old, clock)
    for at in range(0, 500, 100):
        sink.write(events(at, [1] * 100))
        sink.lost([Lost(1, 0, 0, 7, CPU_UNKNOWN, Cause.RING_FULL)])
        clock.now += 1
        sink.flush()
    sink.waits = 1.0
    sink.write(events(500, [2] * 5))  # in the buffer still
    acknowledged, maybe, unsent = old.held[:4], old.held[4:7], old.held[7:]
    assert len(unsent) > 2
    new = Pipe()
    begin(sink, new, [*sink.restart(maybe, unsent), *unsent])
    sink.write(events(505, [2] * 5))
    produced = {1: 535, 2: 10}
    assert sink.finish(produced)
    before, after = Read(acknowledged), Read(new.payloads)
    assert after.lost[0].cause == Cause.EXPIRED
    told = sum(
        loss.count for payload in maybe for loss in manifest.count(payload, array("Q", bytes(999 * 8)))
    )
    assert told
    assert after.lost[0].count == sum(map(events_in, maybe)) + told
    assert sink.losses[Cause.EXPIRED] == after.lost[0].count
    assert sink.losses[Cause.RING_FULL] == 35 - told
    for probe, count in produced.items():
        assert before.balance(probe) + after.balance(probe) == count
        assert after.totals[probe] == after.balance(probe)
    numbers = [n for kind, n in after.order if kind == "event"]
    assert numbers == sorted(numbers)
    assert numbers[-10:] == list(range(500, 510))
    assert sink.events == 510 - (after.lost[0].count - told)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["events", "lost", "empty", "flush", "wait", "restart"]), st.integers(0, 10**6)
    ),
    max_size=80,
)


@settings(max_examples=500, deadline=None)
@given(STEPS, st.integers(SIZE + 2 * SLACK, 40_000))
def test_nothing_is_lost_silently_whatever_happens(steps: list[tuple[str, int]], size: int) -> None:
    clock, pipe = Clock(), Pipe(size)
    sink = make(pipe, clock)
    produced, number, delivered = {1: 0, 2: 0, 3: 0}, 0, []
    for what, seed in steps:
        chance = random.Random(seed)
        if what == "events":
            probes = [chance.choice([1, 2, 3]) for _ in range(chance.randrange(120))]
            for probe in probes:
                produced[probe] += 1
            sink.write(events(number, probes, size=24 + 8 * chance.randrange(10)))
            number += len(probes)
        elif what == "lost":
            probe, count = chance.choice([1, 2, 3]), chance.randrange(1, 50)
            produced[probe] += count
            sink.lost([Lost(probe, number, number, count, 0, Cause.RING_FULL)])
        elif what == "empty":
            pipe.empty(chance.randrange(4))
        elif what == "flush":
            sink.flush()
        elif what == "wait":
            clock.now += seed / 10**6
        else:
            cut = chance.randrange(len(pipe.held) + 1)
            delivered.append(pipe.taken)
            new, carried = Pipe(size), pipe.held[cut:]
            first = sink.restart(pipe.held[:cut], carried)
            sink.write(events(number, [1] * (seed % 200 + 1)))  # between sessions there is no room
            number, produced[1] = number + seed % 200 + 1, produced[1] + seed % 200 + 1
            begin(sink, new, [*first, *carried])
            pipe = new
    for _ in range(1000):
        if sink.finish(produced):
            break
        pipe.empty()
        clock.now += 1
    else:
        pytest.fail("it never ends")
    sessions = [*map(Read, delivered), Read(pipe.payloads)]
    for probe, count in produced.items():
        assert sum(session.balance(probe) for session in sessions) == count
        assert sessions[-1].balance(probe) == sessions[-1].totals[probe]
    assert sum(sum(session.events.values()) for session in sessions) == sink.events
    assert sink.events + sink.lost_events == sum(produced.values())
    numbers = [n for session in sessions for kind, n in session.order if kind == "event"]
    assert numbers == sorted(set(numbers))


def test_schemas_are_sent_again_while_there_is_data() -> None:
    clock, pipe = Clock(), Pipe()
    sink = SourceSink(SCHEMAS, SIZE, clock)
    pipe.held += sink.begin()
    sink.outlet = pipe

    def described() -> int:
        frames = [Frames.walk(payload) for payload in pipe.payloads]
        return sum(one.header(index).type == Type.SCHEMA for one in frames for index in range(len(one)))

    once = described()
    clock.now = REPEAT * 3
    sink.flush()
    assert described() == once  # nothing came that anybody could have missed
    sink.write(events(0, [1, 2, 3]))
    clock.now += 1
    sink.flush()
    sink.flush()
    assert described() == 2 * once
    sink.write(events(3, [1]))
    clock.now += REPEAT - 1
    sink.flush()
    assert described() == 2 * once
    clock.now += 1
    sink.flush()
    assert described() == 3 * once
    assert sink.finish({1: 2, 2: 1, 3: 1})
    read = Read(pipe.payloads)
    assert read.order == [("event", number) for number in range(4)]


def test_schemas_are_not_sent_again_where_there_is_no_room() -> None:
    clock, pipe = Clock(), Pipe(20_000)
    sink = SourceSink(SCHEMAS, SIZE, clock)
    sink.outlet = pipe
    sink.write(events(0, [1] * 700))
    clock.now = REPEAT + 1
    before = len(pipe.payloads)
    sink.flush()
    assert len(pipe.payloads) <= before + 1
    pipe.empty()
    sink.write(events(700, [1]))
    sink.flush()
    assert any(Frames.walk(one).header(0).type == Type.SCHEMA for one in pipe.payloads)


def test_schemas_are_not_sent_again_after_the_totals() -> None:
    """The session is closing then: it refuses more, and would fail while its collector is away."""
    clock, pipe = Clock(), Pipe()
    sink = SourceSink(SCHEMAS, SIZE, clock)
    sink.outlet = pipe
    sink.write(events(0, [1, 2, 3]))
    assert sink.finish({1: 1, 2: 1, 3: 1})
    last = len(pipe.payloads)
    clock.now = REPEAT * 3
    sink.flush()
    assert len(pipe.payloads) == last
    assert sink.restart([], pipe.payloads)  # the session that takes its place is told them as ever
    sink.outlet = pipe
    sink.write(events(3, [1]))
    clock.now += REPEAT
    sink.flush()
    assert Frames.walk(pipe.payloads[-1]).header(0).type == Type.SCHEMA


def test_the_protocol_says_how_often() -> None:
    document = Path(__file__).parents[2].joinpath("docs/protocol.md").read_text()
    assert f"repeats the SCHEMAs of all its probes {REPEAT:g} s after" in document
