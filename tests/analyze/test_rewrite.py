"""Captures made from captures: nothing is gained or lost, and `kwire verify` balances on each of them."""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from verified import verify_file

from kwire.analyze import cut_split
from kwire.analyze import merge as merging
from kwire.analyze.capture_summary import CaptureSummary
from kwire.analyze.cut_split import cut, split
from kwire.analyze.merge import merge
from kwire.analyze.rewrite import Numbers, renumber
from kwire.analyze.scan import Picked, Scan, Window
from kwire.analyze.selection import Selection
from kwire.analyze.source import Source
from kwire.capture.reader import Capture
from kwire.capture.verify import FileReport
from kwire.capture.writer import Writer
from kwire.errors import KwireError
from kwire.wire.frame import Flag, Type, build, inspect
from kwire.wire.messages import Cause, Lost
from kwire.wire.schema import Schema

FIELDS = (("n", "u32", 1, ""), ("s", "str", 1, ""))
What = tuple[str, str, int, bytes]  # probe, host, wall-clock ns, the record behind its header


def contents(paths: Sequence[str]) -> tuple[Counter[What], Counter[tuple[str, str, int, int]]]:
    """Every event and every loss of captures, whatever the numbers of their probes."""
    events: Counter[What] = Counter()
    losses: Counter[tuple[str, str, int, int]] = Counter()
    for path in paths:
        with Capture(path) as capture:
            for frames in capture:
                for index in range(len(frames)):
                    frame = frames.frame(index)
                    schema = capture.schemas.get(frame.header.id)
                    if frame.header.type == Type.EVENT:
                        assert schema is not None
                        raw = bytes(frames.frame_bytes(index))
                        events[schema.probe, schema.host, schema.wall(schema.timestamp(raw)), raw[8:]] += 1
                    else:
                        loss = Lost.read(frame)
                        where = (schema.probe, schema.host) if schema else ("", "")
                        losses[*where, loss.cause, loss.cpu] += loss.count
        assert capture.problem is None
        assert not capture.skipped
    return events, losses


def times(path: str) -> list[int]:
    with Capture(path) as capture:
        return [
            capture.schemas[frames.header(index).id].wall(
                capture.schemas[frames.header(index).id].timestamp(frames.frame_bytes(index))
            )
            for frames in capture
            for index in range(len(frames))
            if frames.header(index).type == Type.EVENT
        ]


def balances(path: str) -> FileReport:
    """The report of a capture that has nothing wrong with it but holes that LOST frames tell of."""
    report = verify_file(path)
    assert not report.problems, (path, report.problems)
    totals = report.totals
    assert totals.produced == totals.stored + totals.lost
    return report


def inputs(*paths: str) -> list[tuple[Source, CaptureSummary]]:
    sources = [Source(path) for path in paths]
    return [(source, CaptureSummary(source)) for source in sources]


# A recipe of a capture: host, byte order, events (probe, time, value) and losses (probe, time, count) mixed.
event = st.tuples(st.just("event"), st.integers(1, 3), st.integers(0, 5000), st.integers(0, 999))
loss = st.tuples(st.just("lost"), st.integers(0, 3), st.integers(0, 5000), st.integers(1, 99))
recipe = st.tuples(
    st.sampled_from(["a", "b"]),
    st.sampled_from(["little", "big"]),
    st.lists(st.one_of(event, event, event, loss), max_size=40),
)


def make(kit: Any, path: Path, made: tuple[str, str, list[tuple[str, int, int, int]]], shift: int = 0) -> str:
    host, order, items = made
    schemas = [
        kit.schema(number, f"kprobe:p{number}", FIELDS, host=host, order=order, wall=kit.wall + shift)
        for number in (1, 2, 3)
    ]
    frames: list[bytes | Lost] = []
    for kind, probe, time, number in items:
        at = kit.monotonic + time
        if kind == "event":
            frames.append(kit.event(schemas[probe - 1], at, (number, b"x" * (number % 7))))
        else:
            cause = Cause.RING_FULL if probe else Cause.SENDER_FULL
            frames.append(Lost(probe, max(at - 500, 1), at, number, probe, cause))
    return str(kit.write(path, schemas, frames))


@settings(max_examples=25, deadline=None)
@given(recipes=st.lists(recipe, min_size=1, max_size=3), held=st.sampled_from([2, 16, 1 << 17]))
def test_merges_hold_everything_in_order(
    kit: Any, tmp_path_factory: pytest.TempPathFactory, recipes: list[Any], held: int
) -> None:
    folder = tmp_path_factory.mktemp("merge")
    paths = [make(kit, folder / f"{at}", one, shift=at) for at, one in enumerate(recipes)]
    out = str(folder / "out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merging, "HELD", held)
        sums = merge(inputs(*paths), out)
    assert contents([out]) == contents(paths)
    report = balances(out)
    assert report.totals == sums
    if held > 1000:
        assert times(out) == sorted(times(out))


def test_sections_that_take_turns_are_merged_in_order(tmp_path: Path, kit: Any) -> None:
    """A window has the events of one section, more than wait; those of the next one are as old."""
    parts = []
    for host in (0, 1):
        schema = kit.schema(1, "kprobe:f", (("n", "u32", 1, ""),), host=f"host{host}")
        items = [kit.event(schema, kit.monotonic + at, (at,)) for at in range(host, 6000, 2)]
        parts.append(Path(kit.write(tmp_path / f"{host}", [schema], items)).read_bytes())
    (tmp_path / "both").write_bytes(b"".join(parts))
    out = str(tmp_path / "out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merging, "HELD", 1 << 10)
        patch.setattr(merging, "Scan", lambda capture, **_: Scan(capture, events_held=1 << 20))
        merge(inputs(str(tmp_path / "both")), out)
    assert times(out) == [kit.wall + at for at in range(6000)]


def test_pieces_of_several_readings_are_told_apart(
    kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More pieces than are written at a time take another reading: their numbers go on."""
    monkeypatch.setattr(cut_split, "OPEN", 2)
    path = make(kit, tmp_path / "a", ("a", "little", [("event", probe, 0, 0) for probe in (1, 2, 3)]))
    [(source, capture_summary)] = inputs(path)
    paths = [piece.path for piece in split(source, capture_summary, "probe", str(tmp_path / "out"))]
    assert len(paths) == 3
    merge(inputs(*paths), str(tmp_path / "back"))
    assert contents([str(tmp_path / "back")]) == contents([path])


@settings(max_examples=25, deadline=None)
@example(made=("a", "little", [("event", 1, 0, 0), ("lost", 1, 0, 1)] * 2), by="size=1k", small=False)
@given(
    made=recipe,
    by=st.sampled_from(
        ["probe", "host", "time=1us", "time=3us", "size=1k", "size=600", "events=1", "events=7"]
    ),
    small=st.booleans(),
)
def test_pieces_merge_to_the_whole(
    kit: Any, tmp_path_factory: pytest.TempPathFactory, made: Any, by: str, small: bool
) -> None:
    folder = tmp_path_factory.mktemp("split")
    path = make(kit, folder / "a", made)
    [(source, capture_summary)] = inputs(path)
    with pytest.MonkeyPatch.context() as patch:
        if small:
            patch.setattr(cut_split, "OPEN", 2)
        found = split(source, capture_summary, by, str(folder / "out"))
    paths = [piece.path for piece in found]
    assert contents(paths) == contents([path])
    for piece in found:
        assert balances(piece.path).totals == piece.totals
        if by.startswith("events"):
            assert piece.totals.stored <= int(by.partition("=")[2])
    if paths:
        out = str(folder / "back")
        merge(inputs(*paths), out)
        assert contents([out]) == contents([path])
        balances(out)


@settings(max_examples=25, deadline=None)
@given(
    made=recipe,
    first=st.integers(-10, 5010),
    length=st.integers(0, 4000),
    probe=st.sampled_from([None, "*p1", "*[23]"]),
)
def test_a_cut_is_the_events_of_its_range(
    kit: Any, tmp_path_factory: pytest.TempPathFactory, made: Any, first: int, length: int, probe: str | None
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    path = make(kit, folder / "a", made)
    [(source, capture_summary)] = inputs(path)
    begin, end = kit.wall + first, kit.wall + first + length
    piece = cut(source, capture_summary, Selection(probe, None, begin, end), str(folder / "out"))
    names = {None: {"1", "2", "3"}, "*p1": {"1"}, "*[23]": {"2", "3"}}[probe]
    events, losses = contents([path])
    kept, missing = contents([piece.path])
    assert kept == Counter(
        {what: count for what, count in events.items() if begin <= what[2] <= end and what[0][-1] in names}
    )
    assert all(count <= losses[what] for what, count in missing.items())
    assert balances(piece.path).totals == piece.totals
    rest = [
        cut(source, capture_summary, Selection(probe, None, first, last), str(folder / name)).path
        for name, first, last in (("before", -(1 << 63), begin - 1), ("after", end + 1, (1 << 63) - 1))
    ]
    whole = cut(source, capture_summary, Selection(probe or "*"), str(folder / "whole")).path
    assert contents([piece.path, *rest])[0] == contents([whole])[0]


@settings(max_examples=25, deadline=None)
@given(made=recipe, by=st.sampled_from(["probe", "time=1us", "events=1"]), at=st.integers(0, 5000))
def test_pieces_of_cuts_merge_to_the_whole(
    kit: Any, tmp_path_factory: pytest.TempPathFactory, made: Any, by: str, at: int
) -> None:
    """A hole over the border is in both cuts, equal losses in two pieces are two."""
    folder = tmp_path_factory.mktemp("cuts")
    path = make(kit, folder / "a", made)
    [(source, capture_summary)] = inputs(path)
    paths = []
    for name, first, last in (
        ("before", -(1 << 63), kit.wall + at - 1),
        ("after", kit.wall + at, (1 << 63) - 1),
    ):
        some = cut(source, capture_summary, Selection(None, None, first, last), str(folder / name)).path
        [(whole, its)] = inputs(some)
        paths += [piece.path for piece in split(whole, its, by, str(folder / f"{name}-pieces"))]
    if paths:
        out = str(folder / "back")
        merge(inputs(*paths), out)
        assert contents([out]) == contents([path])


@pytest.fixture
def two(kit: Any, tmp_path: Path) -> tuple[str, str]:
    """Two captures of two hosts with two probes each, one the same."""
    paths = []
    for host, second in (("a", "kprobe:left"), ("b", "kprobe:right")):
        schemas = [kit.schema(1, "kprobe:both", FIELDS, host=host), kit.schema(2, second, FIELDS, host=host)]
        items: list[bytes | Lost] = [
            kit.event(schemas[at % 2], kit.monotonic + 10 * at + (host == "b"), (at, host.encode()))
            for at in range(20)
        ]
        items.insert(7, Lost(2, kit.monotonic + 50, kit.monotonic + 60, 3, 0, Cause.RING_FULL))
        paths.append(str(kit.write(tmp_path / f"{host}.pcapng", schemas, items)))
    return paths[0], paths[1]


def test_hosts_keep_their_probes_and_losses(two: tuple[str, str], tmp_path: Path, kwire: Any) -> None:
    out = str(tmp_path / "out.pcapng")
    status, printed, err = kwire("merge", *two, "-w", out)
    assert (status, printed, err) == (3, "", f"40 events and 6 counted lost, {out}\n")
    with Capture(out) as capture:
        list(capture)
        assert [(schema.probe, schema.host) for schema in capture.schemas.values()] == [
            ("kprobe:both", "a"), ("kprobe:left", "a"), ("kprobe:both", "b"), ("kprobe:right", "b"),
        ]  # fmt: skip
        section = capture.section
        assert section is not None
        assert "kwire merge of a.pcapng, b.pcapng" in section.comments
        assert section.hardware.startswith("a, b")
    assert times(out) == sorted(times(out))
    status, printed, _ = kwire("verify", out, "--json")
    [report] = json.loads(printed)["files"]
    assert status == 3  # the losses
    assert (report["produced"], report["stored"], report["lost"], report["problems"]) == (46, 40, 6, [])


def test_a_loss_stands_where_it_was(two: tuple[str, str], tmp_path: Path, kit: Any) -> None:
    out = str(tmp_path / "out.pcapng")
    merge(inputs(*two), out)
    last, places = 0, []
    with Capture(out) as capture:
        for frames in capture:
            for index in range(len(frames)):
                if frames.header(index).type == Type.LOST:
                    places.append(last)
                else:
                    schema = capture.schemas[frames.header(index).id]
                    last = schema.wall(schema.timestamp(frames.frame_bytes(index))) - kit.wall
    assert places == [60, 60]  # after the last event that is not later than the hole's end


def test_the_files_of_a_rotation_become_one_probe_each(tmp_path: Path, kit: Any, kwire: Any) -> None:
    schema = kit.schema(1, "kprobe:f", FIELDS)
    base = str(tmp_path / "r.pcapng")
    writer = Writer(base, [schema], rotate_bytes=1 << 20)
    for start in range(0, 40_000, 500):
        events = [kit.event(schema, kit.monotonic + at, (at, b"y" * 40)) for at in range(start, start + 500)]
        writer.write(kit.frames(*events))
    writer.close()
    assert len(writer.files) > 2
    out = str(tmp_path / "out.pcapng")
    assert kwire("merge", *writer.files, "-w", out)[0] == 0
    report = balances(out)
    assert report.complete
    assert len(report.balances) == 1
    assert report.totals.stored == 40_000


def killed(path: str) -> None:
    """Take the statistics off, as a killed recorder leaves a capture."""
    data = Path(path).read_bytes()
    at = 0
    while struct.unpack_from("=I", data, at)[0] != 5:
        at += struct.unpack_from("=I", data, at + 4)[0]
    Path(path).write_bytes(data[:at])


@pytest.mark.parametrize("how", ["merge", "cut", "split"])
def test_what_is_not_proven_stays_unproven(
    two: tuple[str, str], tmp_path: Path, kwire: Any, how: str
) -> None:
    killed(two[0])
    out = str(tmp_path / "out")
    arguments = {
        "merge": ["merge", *two, "-w", out],
        "cut": ["cut", two[0], "--from", "+0s", "-w", out],
        "split": ["split", two[0], "--by", "host", "-w", out],
    }[how]
    status, _, err = kwire(*arguments)
    assert status == 3
    assert f"{two[0]}: it does not prove complete" in err
    report = verify_file(f"{out}/a.pcapng" if how == "split" else out)
    silent = "2 of its probes" if how == "merge" else "its probes"
    assert report.problems == [
        f"no closing statistics of {silent}: the recorder was killed, or is still recording, "
        "or a tool that leaves them out (editcap, mergecap) wrote the file"
    ]


def test_what_statistics_miss_is_missed_after_a_merge_too(tmp_path: Path, kit: Any) -> None:
    schema = kit.schema(1, "kprobe:f", FIELDS)
    path = kit.write(tmp_path / "a", [schema], [kit.event(schema, 1, (1, b""))], {1: 5})
    out = str(tmp_path / "out")
    merge(inputs(path), out)
    assert verify_file(out).problems == verify_file(path).problems
    assert "4 are missing" in verify_file(out).problems[0]
    [(source, capture_summary)] = inputs(path)
    piece = cut(source, capture_summary, Selection(None, None, -5, 1 << 62), str(tmp_path / "cut"))
    assert "no closing statistics" in verify_file(piece.path).problems[0]


def test_a_damaged_capture_gives_what_is_whole(two: tuple[str, str], tmp_path: Path, kwire: Any) -> None:
    data = Path(two[0]).read_bytes()
    Path(two[0]).write_bytes(data[: len(data) * 3 // 4])
    out = str(tmp_path / "out")
    status, _, err = kwire("merge", *two, "-w", out)
    assert status == 3
    assert "cut at byte" in err
    assert contents([out])[0] == contents([two[1]])[0] + damaged(two[0])


def damaged(path: str) -> Counter[What]:
    events: Counter[What] = Counter()
    with Capture(path) as capture:
        for frames in capture:
            for index in range(len(frames)):
                if frames.header(index).type == Type.EVENT:
                    schema = capture.schemas[frames.header(index).id]
                    raw = bytes(frames.frame_bytes(index))
                    events[schema.probe, schema.host, schema.wall(schema.timestamp(raw)), raw[8:]] += 1
    return events


def test_a_capture_is_not_written_over_itself(two: tuple[str, str], tmp_path: Path, kwire: Any) -> None:
    before = Path(two[0]).read_bytes()
    for arguments in (["merge", *two, "-w", two[0]], ["cut", two[0], "--from", "+0s", "-w", two[0]]):
        status, _, err = kwire(*arguments)
        assert (status, err.count("\n")) == (1, 1)
        assert "it is one of the captures that are read" in err
    status, _, err = kwire("split", two[0], "--by", "host", "-w", str(tmp_path))
    assert status == 1
    assert "already something of this name" in err or "it is one of" in err
    assert Path(two[0]).read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["split", "{a}", "--by", "colour", "-w", "{out}"], "'colour' is nothing to split by; one of: probe"),
        (
            ["split", "{a}", "--by", "time", "-w", "{out}"],
            "'time' needs a value; one capture for each stretch",
        ),
        (["split", "{a}", "--by", "probe=3", "-w", "{out}"], "'probe' takes no value"),
        (["split", "{a}", "--by", "time=0s", "-w", "{out}"], "pieces of no length"),
        (["split", "{a}", "--by", "size=huge", "-w", "{out}"], "'huge' is no amount"),
        (["split", "{a}", "--by", "events=0", "-w", "{out}"], "'0' is no amount"),
        (["cut", "{a}", "-w", "{out}"], "nothing says what to keep"),
        (["cut", "{a}", "--from", "noon", "-w", "{out}"], "'noon' is no moment; write 2026"),
        (
            ["cut", "{a}", "--probe", "nosuch", "-w", "{out}"],
            "no probe matches 'nosuch'; there are: kprobe:both",
        ),
        (["merge", "{a}", "{out}/none", "-w", "{out}"], "none: No such file or directory"),
        (["merge", "-", "-", "-w", "{out}"], "standard input can be read once only"),
    ],
)
def test_mistakes_are_one_line(
    two: tuple[str, str], tmp_path: Path, kwire: Any, arguments: list[str], says: str
) -> None:
    out = tmp_path / "out"
    status, printed, err = kwire(*(word.format(a=two[0], out=out) for word in arguments))
    assert (status, printed, err.count("\n")) == (1, "", 1)
    assert says in err


def test_a_cut_says_what_it_is(two: tuple[str, str], tmp_path: Path, kwire: Any) -> None:
    out = str(tmp_path / "out")
    status, _, err = kwire(
        "cut", two[0], "--from", "+100ns", "--to", "+150ns", "--where", "n % 2 == 0", "-w", out
    )
    assert (status, err) == (0, f"3 events of 20, {out}\n")
    assert balances(out).complete
    with Capture(out) as capture:
        list(capture)
        assert capture.section is not None
        [comment] = [text for text in capture.section.comments if "cut" in text]
    assert comment.endswith("events with n % 2 == 0; what is not in this range is left out, not lost")
    assert "from 2023-11-14" in comment


def test_records_that_cannot_be_decoded_are_missing(tmp_path: Path, kit: Any) -> None:
    schema = kit.schema(1, "kprobe:f", FIELDS)
    bad = bytearray(kit.event(schema, 5, (1, b"abc")))
    bad[schema.field("s").offset : schema.field("s").offset + 4] = b"\xff" * 4
    path = kit.write(tmp_path / "a", [schema], [bytes(bad)])
    out = str(tmp_path / "out")
    merge(inputs(path), out)
    missing = "kprobe:f: 1 event produced, 0 stored and 0 counted lost: 1 is missing"
    assert verify_file(out).problems == [missing]
    told = verify_file(path).problems
    assert told[0].startswith("1 event is not as the SCHEMA says; first: event of kprobe:f: BAD_PAYLOAD")
    assert told[1:] == ["kprobe:f: 0 events stored, the statistics say 1", missing]


def test_checksums_are_right_after_renumbering(kit: Any) -> None:
    schema = kit.schema(9, "kprobe:f", FIELDS)
    plain = kit.event(schema, 5, (1, b"abc"))
    frame = build(Type.EVENT, 9, plain[8:], Flag.CHECKSUM)
    for greatest in (9, 1 << 31):
        window = Window({9: schema, greatest: schema._replace(id=greatest)})
        window.add(kit.frames(frame))
        import numpy as np

        window.own()
        frames = window.frames()
        assert isinstance(frames.data, bytearray)
        picked = Picked(window, frames.data, np.asarray(frames.offsets), np.zeros(1, np.int64), [], None)
        renumber(picked, Numbers([kit.schema(1, "kprobe:g", FIELDS), schema]))
        found, problems = inspect(bytes(picked.data))
        assert found is not None
        assert not problems
        assert found.header.id == 2


def test_wild_probe_numbers_are_put_in_order(tmp_path: Path, kit: Any) -> None:
    """A capture may number its probes as it likes; the Writer's are 1, 2, 3."""
    from kwire.capture import pcapng

    schemas: list[Schema] = [
        kit.schema(number, f"kprobe:p{number}", FIELDS) for number in (7, 70_000, 4_000_000_000)
    ]
    data = pcapng.section([]) + b"".join(pcapng.interface(schema.probe) for schema in schemas)
    for at, schema in enumerate(schemas):
        for frame in schema.frames():
            data += pcapng.packet(at, 1, frame)
        data += pcapng.packet(at, 1, kit.event(schema, kit.monotonic + at, (at, b"z")))
    path = tmp_path / "a"
    path.write_bytes(data)
    out = str(tmp_path / "out")
    merge(inputs(str(path)), out)
    assert contents([out]) == contents([str(path)])


def test_splitting_names_files_after_what_is_in_them(
    two: tuple[str, str], tmp_path: Path, kwire: Any, kit: Any
) -> None:
    out = tmp_path / "out"
    status, printed, _ = kwire("split", two[0], "--by", "probe", "-w", str(out))
    assert status == 3
    assert printed == f"{out}/both.pcapng: 10 events\n{out}/left.pcapng: 10 events and 3 counted lost\n"
    schema = kit.schema(1, "kprobe:f", FIELDS, host="../../etc/x\x1b")
    path = kit.write(tmp_path / "evil", [schema], [kit.event(schema, 1, (1, b""))])
    kwire("split", path, "--by", "host", "-w", str(tmp_path / "hosts"))
    assert [file.name for file in (tmp_path / "hosts").iterdir()] == ["etc_x.pcapng"]


def test_too_many_pieces_are_refused(tmp_path: Path, kit: Any) -> None:
    schema = kit.schema(1, "kprobe:f", FIELDS)
    items = [kit.event(schema, time, (1, b"")) for time in (0, 1 << 50)]
    [(source, capture_summary)] = inputs(kit.write(tmp_path / "a", [schema], items))
    with pytest.raises(KwireError, match="are too many"):
        split(source, capture_summary, "time=1ms", str(tmp_path / "out"))
