"""Events without a SCHEMA: kept until it is repeated, else counted and said, by every verb and its status."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fuzz_verbs
import pytest

from kwire.packets import open as reading
from kwire.wire.messages import Lost

Put = Callable[..., str]


@pytest.fixture
def put(net: Any, tmp_path: Path) -> Put:
    """Writes a session over UDP, joined in the middle: DATA frames with these contents."""

    def make(*payloads: list[bytes]) -> str:
        frames = [net.data(number + 7, *payload) for number, payload in enumerate(payloads)]
        path = tmp_path / "middle.pcap"
        path.write_bytes(net.pcap([net.link(1, net.ipv4(net.udp(frame))) for frame in frames]))
        return str(path)

    return make


def test_events_wait_for_the_schema_that_is_repeated(net: Any, put: Put) -> None:
    events = [net.event(number) for number in range(9)]
    schema, lost = net.schema().frames(), Lost(1, 1, 2, 3).frame()
    path = put(events[:3], [*events[3:5], lost], [*schema, events[5]], events[6:8], schema, [events[8]])
    for verb in (("show", path, "--json"), ("query", path, "--json", "select size from tick")):
        status, out, err = fuzz_verbs.run(verb)
        rows = [json.loads(line) for line in out.splitlines()]
        assert (status, [row.get("size", row.get("fields", {}).get("size")) for row in rows]) == (
            3,
            list(range(9)),
        ), err
    status, out, _ = fuzz_verbs.run(("stats", path, "--json"))
    told = json.loads(out)
    assert (status, told["events"], told["lost"], told["errors"]) == (3, 9, 3, {})


def test_the_schema_may_be_the_last_thing_there_is(net: Any, put: Put) -> None:
    path = put([net.event(1), net.event(2)], net.schema().frames())
    status, out, _ = fuzz_verbs.run(("show", path))
    assert status == 0
    assert [line.split()[-1] for line in out.splitlines()[2:]] == ["size=1", "size=2"]


@pytest.mark.parametrize("room", [reading.ROOM, 100])
def test_events_that_nothing_describes_are_counted_and_said(
    net: Any, put: Put, tmp_path: Path, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "ROOM", room)
    known = [net.event(number) for number in range(4)]
    path = put(
        [net.event(5, id=2), *net.schema().frames(), *known], [net.event(number, 2) for number in range(9)]
    )
    said = "10 events are of probes that no SCHEMA describes (UNKNOWN_SCHEMA)"
    out = str(tmp_path / "out")
    for words in (
        ("show", path),
        ("show", path, "--json"),
        ("show", path, "--where", "size < 99"),
        ("stats", path),
        ("query", path),
        ("query", path, "select count(*) from tick"),
        ("export", path, "-o", out + ".csv"),
        ("export", path, "-o", out + "/", "--format", "ndjson"),
        ("merge", path, "-w", out + ".pcapng"),
        ("cut", path, "--probe", "*", "-w", out + "2.pcapng"),
        ("split", path, "--by", "probe", "-w", out + "3"),
    ):
        status, _, err = fuzz_verbs.run(words)
        assert (status, said in err) == (3, True), (words, err)
    status, text, _ = fuzz_verbs.run(("stats", path, "--json"))
    told = json.loads(text)
    assert (told["events"], told["errors"]) == (4, {"UNKNOWN_SCHEMA": 10})
    status, text, _ = fuzz_verbs.run(("verify", path))
    assert (status, "10 events are of probes that the file does not describe" in text) == (3, True)
    status, text, _ = fuzz_verbs.run(("show", path))
    assert text.count("UNKNOWN_SCHEMA") == 10


def test_a_capture_of_nothing_but_such_events(net: Any, put: Put) -> None:
    path = put([net.event(number) for number in range(10)])
    status, _, err = fuzz_verbs.run(("stats", path, "--probe", "kprobe:*"))
    assert status == 1
    assert "10 events are of probes that no SCHEMA describes" in err
    assert "capture for longer" in err
