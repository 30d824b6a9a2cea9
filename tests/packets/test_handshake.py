"""HELLO and WELCOME wherever a capture has them: which session they are of, and what it then still owes."""

from __future__ import annotations

import random
from typing import Any

import pytest

from kwire import native
from kwire.packets import walk
from kwire.wire.control import Hello, Role, Welcome
from kwire.wire.frame import Flag, Type, build

TOKEN, OTHER = b"t" * 16, b"u" * 16
ROLES = [Role.SOURCE, Role.SINK]


@pytest.fixture(params=["native", "twin"], autouse=True)
def walkers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "twin":
        monkeypatch.setattr(native, "library", None)
        for name in ("pcap_rows", "pcapng_rows"):
            monkeypatch.setattr(walk, name, getattr(walk, name + "_twin"))


class Session:
    """The datagrams of a session: `hello`, `welcome`, `data` (a schema, one with each of `events`), `bye`;
    `late` has the number of `bye`.
    """

    def __init__(
        self, net: Any, initiator: Role, token: bytes = TOKEN, first: int = 7, resume: bool = False
    ) -> None:
        source = initiator is Role.SOURCE
        mine, theirs = (first, 0) if source else (0, first)
        hello = Hello(token, 1, initiator, resume, mine).frame(Flag.CHECKSUM)
        welcome = Welcome(token, 1, initiator.other, resume, theirs).frame(Flag.CHECKSUM)
        self.events = [net.event(number, comm=token[:1]) for number in range(9)]
        payloads = [b"".join(net.schema().frames()), *self.events]
        self.first, numbers = first, range(first, first + len(payloads) + 1)
        data = [
            build(Type.DATA, number & 0xFFFFFFFF, payload, Flag.CHECKSUM)
            for number, payload in zip(numbers, payloads, strict=False)
        ]
        bye = build(Type.BYE, numbers[-1] & 0xFFFFFFFF, b"\xa1freasonddone", Flag.CHECKSUM)

        def sent(frame: bytes, initiating: bool) -> bytes:
            ends, ports = (net.v4, (40000, 17800)) if initiating else (net.v4[::-1], (17800, 40000))
            return bytes(net.ethernet(net.ipv4(net.udp(frame, ends, ports), 17, ends)))

        self.hello, self.welcome = sent(hello, True), sent(welcome, False)
        self.data, self.bye = [sent(one, source) for one in data], sent(bye, source)
        self.late = sent(build(Type.DATA, numbers[-1] & 0xFFFFFFFF, self.events[0], Flag.CHECKSUM), source)


@pytest.mark.parametrize("first", [0, 7, (1 << 32) - 1])
@pytest.mark.parametrize("place", [1, 2, 5])
@pytest.mark.parametrize("initiator", ROLES)
def test_a_hello_after_data_names_the_same_session(
    net: Any, read: Any, initiator: Role, place: int, first: int
) -> None:
    one = Session(net, initiator, first=first)
    found, capture = read(net.pcap([*one.data[:place], one.hello, one.welcome, *one.data[place:], one.bye]))
    (conversation,) = capture.network.conversations
    assert (found, capture.network.found) == (one.events, {})
    assert (conversation.token, conversation.missing) == (TOKEN, 0)
    assert capture.ended
    assert capture.complaint(capture.sections[0]) == ""


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("initiator", ROLES)
def test_any_order_of_the_first_datagrams_is_one_session(
    net: Any, read: Any, initiator: Role, seed: int
) -> None:
    one, source = Session(net, initiator), random.Random(seed)
    early = [one.hello, one.welcome, *one.data[:4]]
    source.shuffle(early)
    found, capture = read(net.pcap([*early, *one.data[4:], one.bye]))
    assert (sorted(found), capture.network.found) == (one.events, {})
    assert len(capture.network.conversations) == 1


def test_a_hello_in_fragments_comes_with_the_last_of_them(net: Any, read: Any) -> None:
    one = Session(net, Role.SOURCE)
    hello = Hello(TOKEN, 1, Role.SOURCE, next=one.first).frame(Flag.CHECKSUM, 512)
    parts = [net.ethernet(part) for part in net.ip_fragments(net.udp(hello), 128)]
    found, capture = read(
        net.pcap([*parts[:2], *one.data[:2], *parts[2:], one.welcome, *one.data[2:], one.bye])
    )
    assert (found, capture.network.found) == (one.events, {})


@pytest.mark.parametrize("initiator", ROLES)
def test_what_is_missing_before_the_first_that_was_seen_is_owed(net: Any, read: Any, initiator: Role) -> None:
    one = Session(net, initiator)
    found, capture = read(
        net.pcap([*one.data[3:5], one.hello, one.welcome, *one.data[5:], one.data[0], one.bye])
    )
    assert sorted(found) == one.events[2:]
    assert capture.network.found["DATA_MISSING"].count == 2
    assert capture.network.conversations[0].missing == 2


@pytest.mark.parametrize("initiator", ROLES)
@pytest.mark.parametrize("first", [0, 1000, 1 << 31])
def test_a_hello_of_another_session_begins_that(net: Any, read: Any, initiator: Role, first: int) -> None:
    """The capture joins one in the middle; its ports are then used by another, which begins elsewhere."""
    old, new = Session(net, Role.SOURCE, OTHER, 5000), Session(net, initiator, TOKEN, first)
    made = [old.data[0], *old.data[4:], new.hello, new.welcome, *new.data, new.bye]
    found, capture = read(net.pcap(made))
    assert sorted(found) == sorted(old.events[3:] + new.events)
    assert [one.token for one in capture.network.conversations] == [b"", TOKEN]
    assert capture.network.conversations[1].missing == 0


def test_a_session_that_ended_is_not_gone_on_with(net: Any, read: Any) -> None:
    old, new = Session(net, Role.SOURCE, OTHER), Session(net, Role.SOURCE, TOKEN)
    found, capture = read(net.pcap([*old.data, old.bye, new.hello, new.welcome, *new.data, new.bye]))
    assert found == old.events + new.events
    assert len(capture.network.conversations) == 2


def test_a_session_that_is_resumed_where_it_was_joined_stays_one(net: Any, read: Any) -> None:
    one, again = Session(net, Role.SOURCE), Session(net, Role.SOURCE, first=10, resume=True)
    found, capture = read(net.pcap([*one.data[:5], again.hello, again.welcome, *one.data[5:], one.bye]))
    assert (found, len(capture.network.conversations)) == (one.events, 1)


def test_a_welcome_that_answers_another_hello_changes_nothing(net: Any, read: Any) -> None:
    one, other = Session(net, Role.SOURCE), Session(net, Role.SOURCE, OTHER, 900)
    found, capture = read(
        net.pcap([one.hello, one.welcome, *one.data[:4], other.welcome, *one.data[4:], one.bye])
    )
    assert (found, capture.network.found) == (one.events, {})
    assert len(capture.network.conversations) == 1


def test_what_a_session_said_that_never_began_means_nothing_for_the_next(net: Any, read: Any) -> None:
    refused, one = Session(net, Role.SOURCE, OTHER, 5000), Session(net, Role.SOURCE, TOKEN, 3)
    found, capture = read(net.pcap([refused.hello, one.hello, one.welcome, *one.data, one.bye]))
    assert (found, capture.network.found) == (one.events, {})


def test_in_a_stream_the_answer_to_a_hello_that_is_lost_names_the_session(net: Any, read: Any) -> None:
    """The two directions of a stream may overtake each other, what one of them brings may not."""
    welcome = Welcome(TOKEN, 1, Role.SINK).frame()
    frames = net.session(6, 1)
    made = [
        net.tcp(b"", 0, 2),
        net.tcp(b"".join(frames[:2]), 1),
        net.tcp(welcome, 1, ends=net.v4[::-1], ports=(17800, 40000)),
        net.tcp(b"".join(frames[2:]), 1 + len(b"".join(frames[:2]))),
    ]
    found, capture = read(
        net.pcap(
            [
                net.ethernet(net.ipv4(part, 6, net.v4 if n != 2 else net.v4[::-1]))
                for n, part in enumerate(made)
            ]
        )
    )
    assert (found, capture.network.found) == (net.expected(6, 1), {})
    assert [one.token for one in capture.network.conversations] == [TOKEN]


@pytest.mark.parametrize("first", [0, (1 << 32) - 4])
def test_what_a_stream_has_lost_comes_when_the_session_is_resumed(net: Any, read: Any, first: int) -> None:
    """DATA behind a hole does not wait for what was in it; in another stream that is taken, once."""
    events = [net.event(number) for number in range(9)]
    payloads = [b"".join(net.schema().frames()), *events]
    data = [net.data((first + n) & 0xFFFFFFFF, payload) for n, payload in enumerate(payloads)]

    def stream(port: int, parts: list[bytes], left_out: int = -1) -> list[bytes]:
        made, at = [net.tcp(b"", 0, 2, ports=(port, 17800))], 1
        for n, part in enumerate(parts):
            if n != left_out:
                made.append(net.tcp(part, at, ports=(port, 17800)))
            at += len(part)
        made.append(net.tcp(b"", at, 4, ports=(port, 17800)))
        return [net.ethernet(net.ipv4(one, 6)) for one in made]

    one = [Hello(TOKEN, 1, Role.SOURCE, False, first).frame(), *data]
    again = [Hello(TOKEN, 1, Role.SOURCE, True, (first + 4) & 0xFFFFFFFF).frame(), *data[4:]]
    found, capture = read(net.pcap(stream(40000, one, left_out=5)))
    (session,) = capture.network.conversations
    assert (found, session.missing, session.late, session.again) == (events[:3] + events[4:], 1, 0, 0)
    found, capture = read(net.pcap(stream(40000, one, left_out=5) + stream(40001, again)))
    (session,) = capture.network.conversations
    assert (session.missing, session.late, session.again) == (0, 1, 5)
    assert (found[:8], found[8:]) == (events[:3] + events[4:], events[3:4])


@pytest.mark.parametrize("initiator", ROLES)
def test_a_session_is_whole_where_its_beginning_is_there(net: Any, read: Any, initiator: Role) -> None:
    """A source's choice where numbers begin: without its HELLO or WELCOME nobody knows what was before."""
    one, other = Session(net, initiator, first=0), Session(net, initiator, first=0, resume=True)
    beginning = "the capture does not hold the session's beginning (HELLO)"
    for made, why in (
        ([one.hello, one.welcome, *one.data, one.bye], ""),
        ([*one.data, one.bye], beginning),
        ([other.hello, other.welcome, *one.data, one.bye], beginning),
        ([*one.data, other.hello, other.welcome, one.bye], beginning),
        ([one.hello, one.welcome, *one.data], "the capture does not hold the session's end (BYE)"),
        ([one.hello, one.welcome, *one.data[:3], one.bye, *one.data[3:]], ""),
        ([one.hello, one.welcome, *one.data, one.late, one.bye], "DATA follows the session's end (BYE)"),
    ):
        _, capture = read(net.pcap(made))
        (section,) = capture.sections
        assert (capture.complaint(section) or "").rpartition(": ")[2] == why
