"""Watching: every frame, in and out, with its effect; as lines and as objects; safe for a terminal."""

from __future__ import annotations

import argparse
import json
import re
import socket
from collections.abc import Callable
from typing import Any

import pytest

from kwire.cli import network
from kwire.transport.address import parse as parse_address
from kwire.transport.frame_log import Watch, line
from kwire.transport.tls import TlsOptions
from kwire.wire.control import Role
from kwire.wire.frame import Code, Header, Problem, Type, bad_payload
from kwire.wire.session import Session
from kwire.wire.transitions import State, Watched


def test_every_frame_of_both_sides_is_shown_once(net: Any, event: Callable[..., bytes]) -> None:
    lines: list[str] = []
    watch = Watch(lines.append, json=True, now=lambda: 1_700_000_000.25)
    listener = net.listen()
    listener._watch = watch
    connector = net.connect(listener.address)
    watch.follow(connector.peer)
    connector.peer.session.send(event(1), net.loop.now())
    connector.peer.close("enough")
    net.until(lambda: connector.closed and not listener.peers)
    seen = [json.loads(one) for one in lines]
    near = f"tcp:127.0.0.1:{listener.address.port}"
    ours = [one for one in seen if one["peer"] == near]
    theirs = [one for one in seen if one["peer"] != near]

    def shown(frames: list[dict[str, Any]], direction: str) -> list[tuple[str, int]]:
        return [(one["type"], one["id"]) for one in frames if one["direction"] == direction]

    assert shown(ours, "out") == shown(theirs, "in") == [("HELLO", 0), ("DATA", 0), ("BYE", 1)]
    assert shown(ours, "in") == shown(theirs, "out")
    assert shown(ours, "in")[0] == ("WELCOME", 0)
    assert [one["length"] for one in ours if one["type"] == "DATA"] == [80]
    welcome = next(one for one in ours if one["type"] == "WELCOME")
    assert (welcome["before"], welcome["state"]) == ("HELLO_SENT", "DRAINING"), "it was closed already"
    assert all(one["effect"] for one in seen)
    assert all(set(one) == set(ours[0]) for one in ours)
    assert [one["unacknowledged"] for one in ours if one["type"] == "ACK"][-1] == 0
    assert [one["expected"] for one in theirs if one["type"] == "DATA"] == [0], "not stored yet"
    assert theirs[-1]["expected"] == 1


def test_what_strangers_say_is_shown_too(net: Any) -> None:
    lines: list[str] = []
    for address, refuse in (("udp:127.0.0.1:0", ""), ("tcp:127.0.0.1:0", "go away")):
        listener = net.listen(parse_address(address), refuse=lambda *_, why=refuse: why)
        listener._watch = Watch(lines.append)
        connector = net.connect(listener.address)
        net.until(lambda connector=connector, listener=listener: connector.problem or listener.peers)
    with socket.create_connection(("127.0.0.1", listener.address.port)) as bad:
        bad.sendall(b"GET / HTTP/1.1\r\n\r\n")
        net.until(lambda: "no HELLO" in lines[-1])
    text = "\n".join(lines)
    assert re.search(r"HELLO id 0 length \d+: its address is to be proven: WELCOME with a cookie", text)
    assert "it gets no session: go away" in text


def watched(effect: str = "done", problems: list[Problem] = [], type: int = 2) -> Watched:  # noqa: B006
    header = Header(1, type, 0, 80, 5)
    return Watched("in", header, problems, effect, State.ESTABLISHED, State.ESTABLISHED)


class FakePeer:
    address = "tcp:[::1]:5"
    session = Session(Role.SOURCE, initiator=True)


def show(seen: Watched, as_json: bool = False) -> str:
    lines: list[str] = []
    Watch(lines.append, as_json, now=lambda: 1_700_000_000.25).show(FakePeer(), seen)  # type: ignore[arg-type]
    (one,) = lines
    return one


def test_a_line_says_time_direction_peer_type_id_length_and_effect() -> None:
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d\.250000 <- tcp:\[::1\]:5 DATA id 5 length 80: it is delivered; 0 unacknowledged",
        show(watched("it is delivered")),
    )
    changed = watched()._replace(after=State.SUSPENDED, direction="out")
    assert " -> tcp:" in show(changed)
    assert show(changed).endswith("done (ESTABLISHED → SUSPENDED); 0 unacknowledged")


def test_problems_are_shown() -> None:
    problem = bad_payload(8, "x", "y").problem
    assert "BAD_PAYLOAD (9) at offset 8" in show(watched(problems=[problem]))
    assert json.loads(show(watched(problems=[problem]), as_json=True))["problems"] == [str(problem)]
    assert "type 14" in show(watched(type=14))


def test_nothing_reaches_the_terminal_unescaped() -> None:
    bad = "\x1b[2J\nforged line\r\x07\u202e"
    problem = Problem(Code.BAD_PAYLOAD, 8, bad, "text")
    for one in (show(watched(bad, [problem])), show(watched(bad, [problem]), as_json=True)):
        assert not set(one) & set("\x1b\n\r\x07\u202e")
    assert "\\e[2J\\nforged line" in show(watched(bad))


@pytest.mark.parametrize("kind", [Type.DATA, Type.HELLO, Type.ACK])
def test_lines_and_objects_say_the_same(kind: Type) -> None:
    text, value = show(watched(type=kind)), json.loads(show(watched(type=kind), as_json=True))
    assert line(value) == text


def test_watching_does_not_change_what_happens() -> None:
    """The same bytes come out of a session that is watched and of one that is not."""

    def run(watch: Watch | None) -> list[bytes]:
        source = Session(Role.SOURCE, initiator=True, token=bytes(16), random=bytes)
        sink = Session(Role.SINK, initiator=False, random=bytes)
        if watch:
            for session in (source, sink):
                session.watcher = lambda seen: watch.show(FakePeer(), seen)  # type: ignore[arg-type]
        source.connected(0.0)
        sink.connected(0.0)
        source.send(b"\x11\0\0\x08\0\0\0\1", 0.0)
        out = []
        for _ in range(4):
            for one, other in ((source, sink), (sink, source)):
                for buffer in one.transmit(1 << 16):
                    out.append(bytes(buffer))
                    other.receive(buffer, 0.0)
        return out

    lines: list[str] = []
    assert run(None) == run(Watch(lines.append))
    assert lines


# ---------------------------------------------------------------------- the arguments of verbs


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("-v", "--verbose", action="count", default=0)
    network.add_transport_arguments(parser)
    return parser.parse_args(words)


def test_the_arguments_name_certificates_and_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    args = parse("--tls-cert", "c", "--tls-key", "k", "--tls-ca", "a", "--insecure", "-v", "--json")
    assert network.tls_options(args) == TlsOptions("c", "k", "a")
    assert args.insecure
    watch = network.watch(args)
    assert watch
    watch.show(FakePeer(), watched())  # type: ignore[arg-type]
    assert json.loads(capsys.readouterr().err)["type"] == "DATA"
    assert network.watch(parse()) is None
    assert network.tls_options(parse()) == TlsOptions()
    assert not parse().insecure
