"""Several captures at once, and the same capture twice: read in order, each event once, or told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kwire.capture import identity
from kwire.capture.identity import Identity, Limits
from kwire.capture.writer import Writer
from kwire.packets.several import in_order
from kwire.wire.messages import Cause, Lost

COUNT = 60  # and as many files, each of which is opened several times in a test


@pytest.fixture
def rotation(tmp_path: Path, kit: Any) -> list[str]:
    """The files of a rotation, with a loss in the first."""
    schema = kit.schema(1, "kprobe:f", (("pid", "u32", 1, ""), ("number", "u64", 1, "")))
    with Writer(str(tmp_path / "r.pcapng"), [schema], rotate_bytes=1, host="box") as out:
        for number in range(COUNT):
            out.write(kit.frames(kit.event(schema, kit.monotonic + number, (number % 3, number))))
            out.flush()
            if number == 5:
                out.lost([Lost(1, kit.monotonic + 5, kit.monotonic + 5, 3, 0, Cause.RING_FULL)])
        files = list(out.files)
    assert len(files) > 4
    return files


def numbers(out: str) -> list[int]:
    return [json.loads(line)["fields"]["number"] for line in out.splitlines()]


def test_the_files_of_a_rotation_are_one_capture(rotation: list[str], kwire: Any, tmp_path: Path) -> None:
    mixed = [rotation[2], *reversed(rotation[3:]), rotation[0], rotation[1]]
    status, out, err = kwire("show", "--json", *mixed)
    assert (status, numbers(out)) == (3, list(range(COUNT)))
    assert "3 events are lost" in err
    assert numbers(kwire("show", "--json", "--tail", "2", *mixed)[1]) == [COUNT - 2, COUNT - 1]
    assert numbers(kwire("show", "--json", "--head", "2", *mixed)[1]) == [0, 1]
    assert kwire("verify", *mixed)[0] == 3
    told = json.loads(kwire("stats", "--json", *mixed)[1])
    assert (told["events"], told["lost"], [probe["events"] for probe in told["probes"]]) == (
        COUNT,
        3,
        [COUNT],
    )
    assert told["problem"] is None


def test_questions_and_exports_of_several(rotation: list[str], kwire: Any, tmp_path: Path) -> None:
    pytest.importorskip("duckdb")
    pq = pytest.importorskip("pyarrow.parquet")
    rows = kwire("query", *rotation, "--json", "SELECT count(*) AS n, sum(number) AS s FROM f")[1]
    assert json.loads(rows) == {"n": COUNT, "s": sum(range(COUNT))}
    assert kwire("query", *rotation[:2])[1].startswith("every probe's table")
    out = tmp_path / "out.parquet"
    assert kwire("export", *reversed(rotation), "-o", str(out))[0] == 3
    assert pq.read_table(out)["number"].to_pylist() == list(range(COUNT))
    status, _, err = kwire("export", *rotation, "--format", "csv", "-o", rotation[1])
    assert status == 1
    assert "one of the captures that are read" in err


def test_captures_of_two_machines_are_read_by_time(tmp_path: Path, kit: Any, kwire: Any) -> None:
    paths = []
    for host, shift in (("b", 50), ("a", 0)):
        schema = kit.schema(1, "kprobe:f", (("number", "u64", 1, ""),), host=host)
        events = [kit.event(schema, kit.monotonic + 100 * n + shift, (100 * n + shift,)) for n in range(100)]
        paths.append(kit.write(tmp_path / f"{host}.pcapng", [schema], events))
    out = kwire("show", "--json", *paths)[1]
    assert numbers(out) == list(range(0, 10_000, 50))


def test_the_same_capture_twice_is_told(rotation: list[str], kwire: Any, tmp_path: Path) -> None:
    one, two = rotation[:2]
    merged, again = str(tmp_path / "m.pcapng"), str(tmp_path / "again.pcapng")
    status, _, err = kwire("merge", one, one, "-w", merged)
    assert status == 1
    assert "hold the same events" in err
    assert not Path(merged).exists()
    assert kwire("merge", one, two, "-w", merged)[0] == 0
    status, _, err = kwire("merge", merged, two, "-w", again)
    assert status == 1
    assert f"{merged} and {two} hold the same events" in err
    for verb in ("show", "stats"):
        status, _, err = kwire(verb, one, one)
        assert status == 1
        assert "it is the same capture" in err
    assert kwire("verify", merged, merged)[1].count("complete: ") == 2, "each file is judged by itself"


def test_a_file_that_holds_a_capture_twice_is_told(rotation: list[str], kwire: Any, tmp_path: Path) -> None:
    twice = tmp_path / "twice.pcapng"
    twice.write_bytes(Path(rotation[1]).read_bytes() * 2)
    status, out, _ = kwire("verify", str(twice))
    assert (status, "more than once" in out) == (3, True)
    for verb in ("show", "stats"):
        assert "more than once" in kwire(verb, str(twice))[2]
    assert kwire("merge", str(twice), "-w", str(tmp_path / "x"))[0] == 1
    part, pieces = str(tmp_path / "part.pcapng"), tmp_path / "pieces"
    for made in (("cut", "--from", "+0", "-w", part), ("split", "--by", "probe", "-w", str(pieces))):
        status, _, err = kwire(made[0], str(twice), *made[1:])
        assert (status, "more than once" in err, "does not prove complete" in err) == (3, True, True)
    for one in (part, *map(str, pieces.iterdir())):
        status, out, _ = kwire("verify", one)
        assert (status, "complete: " in out) == (3, False), "what is made of it proves nothing either"


def test_pieces_of_one_capture_are_not_the_same(rotation: list[str], kwire: Any, tmp_path: Path) -> None:
    pieces, whole = tmp_path / "pieces", str(tmp_path / "whole.pcapng")
    assert kwire("split", rotation[1], "--by", "events=5", "-w", str(pieces))[0] == 0
    parts = sorted(map(str, pieces.iterdir()))
    assert kwire("merge", *parts, "-w", whole)[0] == 0
    assert kwire("verify", whole)[0] == 0
    status, _, err = kwire("merge", whole, rotation[1], "-w", str(tmp_path / "x"))
    assert (status, "hold the same events" in err) == (1, True)


def test_what_cannot_be_read_is_named(rotation: list[str], kwire: Any, tmp_path: Path) -> None:
    assert "No such file" in kwire("show", rotation[0], str(tmp_path / "none"))[2]
    assert "standard input cannot be one of several" in kwire("show", rotation[0], "-")[2]
    cut = tmp_path / "cut.pcapng"
    cut.write_bytes(Path(rotation[1]).read_bytes()[:-30])
    status, _, err = kwire("show", rotation[0], str(cut), rotation[2])
    assert (status, f"{cut}: cut at byte" in err) == (3, True)
    for options in (["--follow"], ["-V"], ["--sessions"]):
        assert kwire("show", *rotation, *options)[0] == 1


def test_identities(rotation: list[str], tmp_path: Path) -> None:
    first = identity.of_file(rotation[0])
    assert first is not None
    assert identity.of_file(rotation[1]) == first._replace(number=2)
    assert in_order([rotation[1], rotation[0]]) == [rotation[:2]]
    (tmp_path / "text").write_bytes(b"no capture")
    assert identity.of_file(str(tmp_path / "text")) is None
    assert identity.own([Identity("a" * 32, 3).comment()]) is None


WHOLE = Identity("a" * 32, 3)
EARLY, LATE = WHOLE.within(Limits(last=10)), WHOLE.within(Limits(first=11))
SOME = WHOLE.within(Limits())
PIECES = [WHOLE.within(Limits(pieces=frozenset({("0" * 16, number)}))) for number in range(3)]
OPENS, READS = (
    WHOLE.within(Limits(probes=frozenset({identity.digest(probe)}))) for probe in ("kprobe:o", "kprobe:r")
)


@pytest.mark.parametrize(
    "one", [WHOLE, EARLY, LATE, SOME, *PIECES, OPENS, EARLY.within(Limits(-5, 7, frozenset()))]
)
def test_what_a_comment_says_is_read_back(one: Identity) -> None:
    assert identity.held(["something", one.comment()]) == [one]


def test_what_a_comment_cannot_say_may_be_anything() -> None:
    many = WHOLE.within(Limits(probes=frozenset(map(identity.digest, map(str, range(identity.PROBES + 1))))))
    assert identity.held([many.comment()]) == [SOME]
    assert identity.held([f"{SOME.comment()} colour blue to 99999999999999999999 piece x"]) == [SOME]


@pytest.mark.parametrize(
    ("holders", "surely"),
    [
        ([[WHOLE]], None),
        ([[WHOLE, EARLY]], None),
        ([[WHOLE], [WHOLE], [WHOLE]], True),
        ([[EARLY], [WHOLE]], True),
        ([[EARLY], [LATE]], None),
        ([[EARLY], [EARLY]], False),
        ([[SOME], [LATE]], False),
        ([[OPENS], [READS]], None),
        ([[OPENS], [EARLY]], False),
        ([[one] for one in PIECES], None),
        ([PIECES[:2], [PIECES[2]]], None),
        ([PIECES[:2], [PIECES[1]]], False),
        ([[PIECES[0]], [WHOLE.within(Limits(pieces=frozenset({("1" * 16, 1)})))]], False),
        ([[EARLY.within(PIECES[0].part or Limits())], [LATE]], None),
        ([[Identity("b" * 32, 3)], [WHOLE]], None),
    ],
)
def test_parts_that_are_apart_are_not_the_same(holders: list[list[Identity]], surely: bool | None) -> None:
    found = identity.repeated(holders)
    assert [one.surely for one in found] == ([] if surely is None else [surely])
    assert bool(identity.twice(found)) == (surely is not None)


def test_many_parts_are_compared_quickly() -> None:
    pieces = [WHOLE.within(Limits(pieces=frozenset({("0" * 16, at)}))) for at in range(20_000)]
    assert identity.repeated([one] for one in pieces) == []
    times = [WHOLE.within(Limits(at, at)) for at in range(20_000)]
    assert identity.repeated([one] for one in times) == []
    assert identity.repeated([one] for one in [*times, times[7]])


CUTS = (["--to", "+30ns"], ["--from", "+25ns"], ["--from", "+31ns"])


@pytest.fixture
def cuts(rotation: list[str], kwire: Any, tmp_path: Path) -> list[str]:
    """Three cuts of one capture: the first and second overlap, the first and third are all of it."""
    whole = str(tmp_path / "whole.pcapng")
    kwire("merge", *rotation, "-w", whole)
    files = [str(tmp_path / f"cut-{number}.pcapng") for number in range(len(CUTS))]
    for words, file in zip(CUTS, files, strict=True):
        kwire("cut", whole, *words, "-w", file)
    return files


def test_what_split_finds_lost_is_said(rotation: list[str], kwire: Any, tmp_path: Path) -> None:
    whole = str(tmp_path / "whole.pcapng")
    kwire("merge", *rotation, "-w", whole)
    status, _, err = kwire("split", whole, "--by", "probe", "-w", str(tmp_path / "parts"))
    assert (status, "3 events are lost; 'kwire verify' names the holes" in err) == (3, True)


def test_cuts_that_overlap_are_never_complete_together(cuts: list[str], kwire: Any, tmp_path: Path) -> None:
    out, both = tmp_path / "out.pcapng", cuts[:2]
    status, _, err = kwire("merge", *both, "-w", str(out))
    assert (status, "may overlap" in err, out.exists()) == (1, True, False)
    for verb in (["show"], ["stats"], ["query"], ["export", "-o", str(tmp_path / "x.csv")]):
        status, _, err = kwire(*verb, *both)
        assert (status, "may overlap" in err) == (3, True), verb
    joined = tmp_path / "joined.pcapng"
    joined.write_bytes(b"".join(Path(file).read_bytes() for file in both))
    status, printed, _ = kwire("verify", str(joined))
    assert (status, "may overlap" in printed) == (3, True)


def test_cuts_that_are_apart_are_one_capture_again(cuts: list[str], kwire: Any, tmp_path: Path) -> None:
    out = str(tmp_path / "out.pcapng")
    assert kwire("merge", cuts[0], cuts[2], "-w", out)[0] == 3, "three events are lost"
    assert numbers(kwire("show", "--json", out)[1]) == list(range(COUNT))
    assert "overlap" not in kwire("stats", cuts[0], cuts[2])[2]
    status, _, err = kwire("merge", out, cuts[1], "-w", str(tmp_path / "x"))
    assert (status, "may overlap" in err) == (1, True)


@pytest.mark.parametrize("middle", [3, 7])
def test_a_hole_at_the_border_of_two_cuts_is_told_once(
    middle: int, tmp_path: Path, kit: Any, kwire: Any
) -> None:
    """Of one hole between two cuts, two equal ones of another CPU, and one in the first cut alone."""
    schema = kit.schema(1, "kprobe:f", (("pid", "u32", 1, ""), ("number", "u64", 1, "")))
    whole = str(tmp_path / "whole.pcapng")
    with Writer(whole, [schema], host="box") as out:
        for number in range(10):
            out.write(kit.frames(kit.event(schema, kit.monotonic + number, (1, number))))
            if number == 1:
                out.lost([Lost(1, kit.monotonic, kit.monotonic + 1, 100, 0, Cause.RING_FULL)])
            if number in (7, 8):
                out.lost([Lost(1, kit.monotonic + 2, kit.monotonic + 8, 3, 1, Cause.RING_FULL)])
        out.lost([Lost(1, kit.monotonic + 2, kit.monotonic + 8, 31, 0, Cause.RING_FULL)])
        out.close({1: 147})
    first, second, joined = (str(tmp_path / f"{name}.pcapng") for name in "abc")
    kwire("cut", whole, "--to", f"+{middle}ns", "-w", first)
    kwire("cut", whole, "--from", f"+{middle + 1}ns", "-w", second)
    for words in ([first, second], [second, first]):
        kwire("merge", *words, "-w", joined)
        said = kwire("verify", joined)[1]
        assert "147 events produced, 10 stored, 137 lost" in said
        assert said == kwire("verify", whole)[1].replace(whole, joined)


def test_a_file_without_an_id_is_known_by_its_beginning(kwire: Any, tmp_path: Path) -> None:
    data = Path(__file__).parent.parent / "data"
    for name in ("0.1-capture-little.pcapng", "0.1-session-little.pcap"):
        path, again = str(data / name), str(tmp_path / name)
        Path(again).write_bytes((data / name).read_bytes())
        status, _, err = kwire("merge", path, again, "-w", str(tmp_path / "out.pcapng"))
        assert (status, "hold the same events" in err) == (1, True)
        status, _, err = kwire("show", path, again)
        assert (status, "it is the same capture" in err) == (1, True)
        parts = [str(tmp_path / f"{number}.pcapng") for number in range(2)]
        for part in parts:
            kwire("cut", path, "--from", "+0s", "-w", part)
        status, _, err = kwire("merge", *parts, "-w", str(tmp_path / "out.pcapng"))
        assert (status, "may overlap" in err) == (1, True)


@pytest.mark.parametrize(
    ("words", "first", "last"),
    [
        (["--from", "+20ns", "--to", "+40ns"], 20, 40),
        (["--from", "-9ns"], COUNT - 10, COUNT - 1),
        (["--to", "+3ns", "--where", "number != 2"], 0, 3),
    ],
)
def test_show_takes_times_as_the_others_do(
    rotation: list[str], kwire: Any, words: list[str], first: int, last: int
) -> None:
    wanted = [number for number in range(first, last + 1) if "--where" not in words or number != 2]
    assert numbers(kwire("show", "--json", *rotation, *words)[1]) == wanted
    told = kwire("query", *rotation, "SELECT number FROM f ORDER BY number", "--json", *words)[1]
    assert [json.loads(line)["number"] for line in told.splitlines()] == wanted
    status, _, err = kwire("show", rotation[0], "-V", *words)
    assert (status, "choose events, not packets" in err) == (1, True)
