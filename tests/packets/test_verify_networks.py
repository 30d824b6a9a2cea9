"""What `kwire verify` says of captures that hold less than a session: every cause, with its flow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kwire import native
from kwire.cli.main import main
from kwire.packets import walk
from kwire.wire.control import Hello, Role, Welcome
from kwire.wire.frame import Flag, Type, build
from kwire.wire.messages import Lost

BYE = b"\xa1freasonddone"


@pytest.fixture(params=["native", "twin"], autouse=True)
def walkers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "twin":
        monkeypatch.setattr(native, "library", None)
        for name in ("pcap_rows", "pcapng_rows"):
            monkeypatch.setattr(walk, name, getattr(walk, name + "_twin"))


@pytest.fixture
def kwire(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a verb; gives status, output, errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(list(arguments))
        return status, *capsys.readouterr()

    return run


def verified(kwire: Any, where: Path, data: bytes) -> tuple[int, list[str], str]:
    """Status, problems, standard error."""
    where.write_bytes(data)
    status, out, err = kwire("verify", "--json", str(where))
    files = json.loads(out)["files"]
    return status, files[0]["problems"] if files else [], err


def test_a_session_of_which_only_the_ends_are_there_is_incomplete(
    tmp_path: Path, kwire: Any, net: Any
) -> None:
    hello = Hello(b"t" * 16, 1, Role.SOURCE, next=4).frame(Flag.CHECKSUM)
    made = [net.ethernet(net.ipv4(net.udp(one))) for one in (hello, build(Type.BYE, 25, BYE, Flag.CHECKSUM))]
    status, problems, _ = verified(kwire, tmp_path / "a.pcap", net.pcap(made))
    assert status == 3
    assert "udp 10.0.0.1:40000 > 10.0.0.2:17800: 21 DATA frames are not in the capture" in problems


def test_causes_are_named_where_no_session_is_known(tmp_path: Path, kwire: Any, net: Any) -> None:
    whole = [net.ethernet(net.ipv4(net.udp(one))) for one in net.session(flags=Flag.CHECKSUM)]
    status, _, err = verified(kwire, tmp_path / "a.pcap", net.pcap([(one[:50], len(one)) for one in whole]))
    assert (status, "PACKET_CUT 11 times, first: packet 1 at byte 24" in err) == (1, True)
    wrong = [net.ethernet(net.ipv4(net.udp(one, checksum=0x1234))) for one in net.session()]
    status, _, err = verified(kwire, tmp_path / "b.pcap", net.pcap(wrong))
    assert (status, "BAD_UDP_CHECKSUM 11 times" in err) == (1, True)
    status, _, err = verified(kwire, tmp_path / "c.pcap", net.pcap([]))
    assert (status, "it describes no probe; kwire record -w writes captures" in err) == (1, True)


def test_events_without_a_schema_are_named_with_their_session(tmp_path: Path, kwire: Any, net: Any) -> None:
    frames = net.session()[1:]
    made = [net.ethernet(net.ipv4(net.udp(one))) for one in (*frames[:4], *frames[5:])]
    status, problems, _ = verified(kwire, tmp_path / "a.pcap", net.pcap(made))
    flow = "udp 10.0.0.1:40000 > 10.0.0.2:17800"
    assert status == 3
    assert f"{flow}: 1 DATA frame is not in the capture" in problems
    assert f"{flow}: 27 events are of probes that the file does not describe" in problems


def test_parts_of_data_that_is_not_whole_are_no_frames(tmp_path: Path, kwire: Any, net: Any) -> None:
    """The first segment is lost: what follows begins inside DATA, whose events look like loose ones."""
    frames = net.session(4, 30)
    stream = b"".join(frames)
    cut = len(frames[0]) + 8 + len(net.event()) * 5
    made = [net.tcp(b"", 999, 2), net.tcp(stream[cut:], 1000 + cut)]
    status, problems, _ = verified(
        kwire, tmp_path / "a.pcap", net.pcap([net.ethernet(net.ipv4(one, 6)) for one in made])
    )
    assert status == 3
    assert [line for line in problems if line.endswith("does not describe")] == [
        "tcp 10.0.0.1:40000 > 10.0.0.2:17800: 90 events are of probes that the file does not describe"
    ]


def test_a_frame_in_data_that_cannot_stand_there_proves_nothing(tmp_path: Path, kwire: Any, net: Any) -> None:
    """One bit of an EVENT's type is another, and the checksums are right: it is a REQUEST then."""
    hello = Hello(b"t" * 16, 1, Role.SOURCE).frame(Flag.CHECKSUM)
    inside = bytearray(net.event(3))
    inside[0] ^= Type.EVENT ^ Type.REQUEST
    frames = [hello, *net.session(2), net.data(3, bytes(inside), net.event(4)), build(Type.BYE, 4, BYE)]
    made = [net.ethernet(net.ipv4(net.udp(one))) for one in frames]
    status, problems, err = verified(kwire, tmp_path / "a.pcap", net.pcap(made))
    assert (status, err) == (3, "")
    assert problems[0].startswith("ILLEGAL_TRANSITION once: packet 5 at byte ")
    assert problems[0].endswith("found REQUEST in DATA, expected EVENT, SCHEMA, LOST or TABLE")
    assert problems[1].endswith(": 1 frame is not sound")


@pytest.mark.parametrize("verb", ["stats", "show", "query", "verify"])
def test_what_lies_deeper_than_is_looked_is_said_by_every_verb(
    tmp_path: Path, kwire: Any, net: Any, verb: str
) -> None:
    frames = net.session(flags=Flag.CHECKSUM)
    made = [net.ethernet(net.ipv4(net.udp(one)), [(0x8100, 1)] * 9) for one in frames]
    made += [net.ethernet(net.ipv6(net.udp(frames[0], net.v6), extensions=[(60, bytes(7))] * 17))]
    where = tmp_path / "a.pcap"
    where.write_bytes(net.pcap(made))
    status, _, err = kwire(verb, str(where))
    assert (status, "TOO_DEEP 12 times, first: packet 1 at byte 24" in err) == (
        1 if verb == "verify" else 3,
        True,
    )


def test_a_session_of_which_only_the_sink_was_heard_is_not_whole(
    tmp_path: Path, kwire: Any, net: Any
) -> None:
    """Another one in the capture is; its own frames went another way."""

    def sent(frame: bytes, port: int, back: bool = False) -> bytes:
        ends, ports = (net.v4[::-1], (17800, port)) if back else (net.v4, (port, 17800))
        return bytes(net.ethernet(net.ipv4(net.udp(frame, ends, ports), 17, ends)))

    hello = Hello(b"t" * 16, 1, Role.SOURCE).frame(Flag.CHECKSUM)
    whole = [hello, *net.session(flags=Flag.CHECKSUM), build(Type.BYE, 11, BYE, Flag.CHECKSUM)]
    made = [sent(one, 40000) for one in whole]
    assert verified(kwire, tmp_path / "a.pcap", net.pcap(made))[0] == 0
    welcome = Welcome(b"u" * 16, 1, Role.SINK).frame(Flag.CHECKSUM)
    refused = Welcome(b"u" * 16, 1, Role.SINK, refused="no").frame(Flag.CHECKSUM)
    ack = build(Type.ACK, 9, bytes(4), Flag.CHECKSUM)
    flow, ends = "udp 10.0.0.2:17800 > 10.0.0.1:40001", "beginning (HELLO) and end (BYE)"
    said = f"{flow}: the capture does not hold the session's {ends}"
    bye = sent(build(Type.BYE, 9, BYE, Flag.CHECKSUM), 40001)
    for answer, more, status, problems in (
        (welcome, [], 3, [said]),
        (ack, [], 3, [said]),
        (ack, [bye], 3, [said.replace(" and end (BYE)", "")]),
        (refused, [], 0, []),
    ):
        data = net.pcap([*made, sent(answer, 40001, back=True), *more])
        assert verified(kwire, tmp_path / "a.pcap", data) == (status, problems, "")


@pytest.mark.parametrize("words", [("show",), ("show", "-V"), ("show", "--sessions"), ("stats",), ("query",)])
@pytest.mark.parametrize(
    ("inside", "said"),
    [
        (Lost(1, 1, 2, 3).frame(), "3 events are lost"),
        (build(Type.EVENT, 9, bytes(16)), "1 event is of probes that no SCHEMA describes"),
    ],
)
def test_a_status_says_the_same_whatever_is_shown(
    tmp_path: Path, kwire: Any, net: Any, words: tuple[str, ...], inside: bytes, said: str
) -> None:
    where = tmp_path / "a.pcap"
    made = [net.data(0, *net.schema().frames()), net.data(1, net.event(), inside)]
    where.write_bytes(net.pcap([net.ethernet(net.ipv4(net.udp(one))) for one in made]))
    status, _, err = kwire(words[0], str(where), *words[1:])
    assert (status, said in err) == (3, True)
