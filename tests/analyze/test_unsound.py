"""EVENTs that are not as their SCHEMA says: every verb leaves out the same ones, says so, and ends with 3."""

from __future__ import annotations

import json
import random
import struct
from array import array
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.packets.conftest import Net

from kwire import native
from kwire.packets.open import open_capture
from kwire.wire import soundness
from kwire.wire.control import Hello, Role
from kwire.wire.frame import FrameError, Type, build
from kwire.wire.frames import Frames
from kwire.wire.messages import Lost

GOOD = 5
NAMES = "'kwire verify' names the probes"


def bad_events(kit: Any, schema: Any) -> list[bytes]:
    """Too short, a text that ends outside, a text inside the fixed part."""
    whole = kit.event(schema, 2, kit.rich())
    out = [struct.pack(">BBHI", 0x11, 0, 24, schema.id) + whole[8:24]]
    for reference in (b"\xff\xff\x05\x00", b"\x10\x00\x04\x00"):
        one, place = bytearray(whole), schema.field("comm").offset
        one[place : place + 4] = reference
        out.append(bytes(one))
    return out


def own(path: Path, kit: Any) -> str:
    """A recording whose statistics count all of them."""
    schema = kit.schema()
    items = [kit.event(schema, kit.monotonic + number, kit.rich(number)) for number in range(GOOD)]
    items[1:1], items[4:4] = bad_events(kit, schema)[:2], bad_events(kit, schema)[2:]
    return str(kit.write(path, [schema], items, {1: GOOD + 3}))


def plain(path: Path, kit: Any) -> str:
    """The same without statistics: frames as they are in a pcap file."""
    schema = kit.schema()
    items = [kit.event(schema, kit.monotonic + number, kit.rich(number)) for number in range(GOOD)]
    path.write_bytes(Net.pcap([*schema.frames(), *items[:2], *bad_events(kit, schema), *items[2:]], link=147))
    return str(path)


def session(path: Path, kit: Any, *, tcp: bool = False, twice: bool = False) -> str:
    """A session that is whole, over UDP or TCP; with `twice` two that have the same schemas."""
    net, schema, packets = Net(), kit.schema(), []
    items = [kit.event(schema, kit.monotonic + number, kit.rich(number)) for number in range(GOOD)]
    mixed = [*items[:2], *bad_events(kit, schema), *items[2:]]
    parts = [b"".join(schema.frames()), b"".join(mixed[:4]), b"".join(mixed[4:])]
    for port in (40000, 40001)[: 1 + twice]:
        token = port.to_bytes(2, "big") * 8
        frames = [Hello(token, 1, Role.SOURCE).frame()]
        frames += [build(Type.DATA, number, part, 1) for number, part in enumerate(parts)]
        frames.append(build(Type.BYE, 3, b"\xa1\x66reason\x60", 1))
        at = 7
        for frame in frames:
            raw = net.tcp(frame, at, ports=(port, 17800)) if tcp else net.udp(frame, ports=(port, 17800))
            packets.append(net.ethernet(net.ipv4(raw, 6 if tcp else 17)))
            at += len(frame)
    path.write_bytes(net.pcap(packets))
    return str(path)


MAKERS: dict[str, Callable[[Path, Any], str]] = {
    "own": own,
    "plain": plain,
    "udp": session,
    "tcp": partial(session, tcp=True),
    "two": partial(session, twice=True),
}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("walkers", ["C", "twins"])
def test_every_verb_counts_and_says_the_same(
    kind: str, walkers: str, tmp_path: Path, kit: Any, kwire: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if walkers == "twins":
        monkeypatch.setattr(soundness, "events_unsound", soundness.events_unsound_twin)
        monkeypatch.setattr(native, "library", None)
    file = MAKERS[kind](tmp_path / "a.pcapng", kit)
    times = 2 if kind == "two" else 1
    good, bad = GOOD * times, 3 * times
    said = f"{bad} events are not as the SCHEMA says; first: event of kprobe:vfs_open(path): BAD_PAYLOAD"

    def ran(*arguments: str) -> str:
        status, out, err = kwire(*arguments)
        assert status == 3, (arguments, out, err)
        assert said in err or (arguments[0] == "verify" and said in out), (arguments, err)
        return str(out)

    found = json.loads(ran("stats", "--json", file))
    assert (found["events"], found["undecodable"], found["errors"]["BAD_PAYLOAD"]) == (good, bad, bad)
    assert sum(one["events"] for one in found["probes"]) == good
    lines = [json.loads(line) for line in ran("show", "--json", file).splitlines()]
    assert [sum(("error" in one) == wrong for one in lines) for wrong in (False, True)] == [good, bad]
    assert ran("show", file).count("undecodable event of ") == bad
    assert ran("show", "-V", file)
    ran("show", "--sessions", file)
    assert json.loads(ran("query", "--json", file, "select count(*) as n from events"))["n"] == good
    ran("query", file)
    ran("export", file, "--format", "ndjson", "-o", str(tmp_path / "out"))
    assert len((tmp_path / "out").read_text().splitlines()) == good
    checked = json.loads(kwire("verify", "--json", file)[1])["files"][0]
    assert (checked["stored"], checked["complete"]) == (good, False)
    ran("verify", file)
    for number, arguments in enumerate((("merge", file), ("cut", file, "--to", "+1h"))):
        made = str(tmp_path / f"made{number}.pcapng")
        ran(*arguments, "-w", made)
        again = json.loads(kwire("verify", "--json", made)[1])["files"][0]
        assert (again["stored"], again["complete"]) == (good, False), arguments
        assert json.loads(kwire("stats", "--json", made)[1])["events"] == good
    ran("split", file, "--by", "probe", "-w", str(tmp_path / "pieces"))
    [piece] = (tmp_path / "pieces").iterdir()
    again = json.loads(kwire("verify", "--json", str(piece))[1])["files"][0]
    assert (again["stored"], again["complete"]) == (good, False)


def test_the_first_chunk_and_an_unchosen_probe_are_counted_too(tmp_path: Path, kit: Any, kwire: Any) -> None:
    one, two = kit.schema(1, "kprobe:one"), kit.schema(2, "kprobe:two")
    items = [bad_events(kit, one)[0], kit.event(two, kit.monotonic, kit.rich())]
    file = kit.write(tmp_path / "a.pcapng", [one, two], items)
    for verb in (("stats",), ("show",)):
        status, out, err = kwire(*verb, file, "--probe", "kprobe:two")
        assert status == 3
        assert "1 event is not as the SCHEMA says" in err
        assert "undecodable" not in out


def test_statistics_that_leave_them_out_prove_nothing(tmp_path: Path, kit: Any, kwire: Any) -> None:
    schema = kit.schema()
    items = [kit.event(schema, kit.monotonic, kit.rich()), bad_events(kit, schema)[0]]
    file = kit.write(tmp_path / "a.pcapng", [schema], items, {1: 1})
    made = str(tmp_path / "made.pcapng")
    for step in (("verify", file), ("merge", file, "-w", made), ("verify", made)):
        assert kwire(*step)[0] == 3, step


def test_sound_is_what_decodes(kit: Any) -> None:
    """C, twin and decoder agree on damaged events of several schemas, however many there are."""
    source = random.Random(7)
    schemas = {number: kit.schema(number, order=("little", "big")[number & 1]) for number in (3, 4, 5, 900)}
    schemas[6] = kit.schema(6, fields=(("n", "u64", 1, ""),))
    many = schemas | {number: kit.schema(number, fields=()) for number in range(1000, 1600)}
    frames = []
    for _ in range(400):
        schema = source.choice(list(schemas.values()))
        values = kit.rich(source.randrange(99)) if len(schema.fields) > 1 else (1,)
        event = bytearray(kit.event(schema, 1, values))
        for _ in range(source.choice([0, 1, 4])):
            event[source.randrange(16, len(event))] = source.choice([0, 255, source.randrange(256)])
        cut = source.choice([0, 0, 0, 8, 40])
        event = event[: max(16, len(event) - cut)]
        event[2:4] = len(event).to_bytes(2, "big")
        frames.append(bytes(event) if source.random() < 0.9 else build(Type.LOST, 4, bytes(32)))
    frames.append(kit.event(kit.schema(77), 1, kit.rich())[:16])  # nothing describes it
    together = kit.frames(*frames)
    expected = []
    for place, frame in enumerate(frames):
        schema = schemas.get(int.from_bytes(frame[4:8], "big"))
        if frame[0] & 15 != Type.EVENT or schema is None:
            continue
        try:
            schema.decoder()(frame)
        except FrameError:
            expected.append(place)
    assert 20 < len(expected) < 380
    for walker in (soundness.events_unsound, soundness.events_unsound_twin):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(soundness, "events_unsound", walker)
            judge = soundness.Soundness()
            assert list(judge.unsound(together, schemas)) == expected
            assert list(judge.unsound(together, many)) == expected
            found = [
                place
                for place, frame in enumerate(frames)
                if len(judge.unsound(Frames(frame, array("Q", [0])), many))
            ]
            assert found == expected


def test_events_that_waited_for_their_schema_are_judged(tmp_path: Path, kit: Any) -> None:
    schema = kit.schema()
    early = [kit.event(schema, kit.monotonic, kit.rich()), *bad_events(kit, schema)]
    path = tmp_path / "a.pcap"
    path.write_bytes(Net.pcap([*early, *schema.frames()], link=147))
    with open_capture(str(path)) as capture:
        assert sum(len(frames) for frames in capture) == 1
        assert capture.undecodable == 3


@pytest.mark.parametrize("time", [(1 << 64) - 1, 1 << 63, 0])
def test_an_event_of_any_time_is_shown(time: int, tmp_path: Path, kit: Any, kwire: Any) -> None:
    """The time of an event and the clock's distance may be more than 64 bits together."""
    schema = kit.schema(wall=1 << 63)
    items = [kit.event(schema, kit.monotonic, kit.rich()), kit.event(schema, time, kit.rich())]
    lost = [Lost(1, time, time, 4)] if time else []
    file = kit.write(tmp_path / "a.pcapng", [schema], [*items, *lost])
    status, out, err = kwire("show", "--json", file)
    assert (status, len(out.splitlines())) == (3 if lost else 0, 2), err
    assert ("4 events are lost" in err) == bool(lost)
    assert json.loads(kwire("stats", "--json", file)[1])["events"] == 2
    kwire("export", file, "-o", str(tmp_path / "out.ndjson"))
    assert (tmp_path / "out.ndjson").read_text().splitlines() == out.splitlines()


@pytest.mark.parametrize("produced", [1, 3])
def test_the_layers_too_are_held_against_the_statistics(
    produced: int, tmp_path: Path, kit: Any, kwire: Any
) -> None:
    schema = kit.schema()
    items = [kit.event(schema, kit.monotonic + at, kit.rich()) for at in range(2)]
    file = kit.write(tmp_path / "a.pcapng", [schema], items, {1: produced})
    said = {kwire("show", file, *arguments)[::2] for arguments in ((), ("-V",), ("--sessions",))}
    told = "too many" if produced == 1 else "missing"
    assert said == {(3, f"kwire: {file}: 1 event is {told} by its own statistics; {NAMES}\n")}
    assert kwire("show", file, "-V", "--head", "9")[0] == 0  # it need not have been read to its end


@pytest.mark.parametrize("number", [0, 1])
def test_events_of_probe_0_are_described_by_nothing(
    number: int, tmp_path: Path, kit: Any, kwire: Any
) -> None:
    """`merge` could not write what all others took for events."""
    schema, capture = kit.schema(1), tmp_path / "in.pcap"
    frames = [*schema.frames(), kit.event(schema, 2, kit.rich())]
    numbered = [frame[:4] + number.to_bytes(4, "big") + frame[8:] for frame in frames]
    capture.write_bytes(Net.pcap(numbered, link=147))
    out = tmp_path / "out.pcapng"
    for words in (["show", "--json"], ["stats"], ["query"], ["merge", "-w", str(out)]):
        status, _, err = kwire(words[0], str(capture), *words[1:])
        assert (status, "UNKNOWN_SCHEMA" in err) == ((3, True) if not number else (0, False)), (words, err)
